"""Parsl configuration for a build on Slurm. Adapt the constants in capitals to your cluster.

usage: archive-builder build survey.toml archive --engine parsl --parsl-config parsl_slurm.py
"""

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import SlurmProvider

PARTITION = "normal"
ACCOUNT = None  # or an account name, if your cluster needs one
MINUTES = 240  # time limit of a batch job; Parsl replaces ended jobs
JOBS = 10  # maximum batch jobs at a time
CORES = 32  # cores of a batch job: one node or a part of a node
MEMORY = 32  # memory of a batch job, GB: 1 GB a worker is enough for 10,000 px in five bands with all planes
WORKER_INIT = ""  # shell lines that run before the workers: module load ..., source .../bin/activate
ADDRESS = address_by_hostname()  # address of this host as seen from the nodes

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            address=ADDRESS,
            cores_per_worker=1,
            max_workers_per_node=CORES,
            heartbeat_period=10,  # s; time to notice a dead worker
            heartbeat_threshold=60,  # s; time to notice a dead node
            drain_period=60 * (MINUTES - 5),  # s; then a job takes no more tiles, so that no tile is cut off
            provider=SlurmProvider(
                partition=PARTITION,
                account=ACCOUNT,
                walltime=f"{MINUTES // 60:02}:{MINUTES % 60:02}:00",
                cores_per_node=CORES,
                mem_per_node=MEMORY,
                init_blocks=1,
                max_blocks=JOBS,
                exclusive=False,
                worker_init=WORKER_INIT,
                cmd_timeout=60,
            ),
        )
    ],
)
