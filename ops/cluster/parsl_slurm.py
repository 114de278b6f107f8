"""Parsl's configuration for building an archive on Slurm: change the capitals to what your cluster is like.

usage: archive-builder build survey.toml archive --engine parsl --parsl-config parsl_slurm.py
"""

from parsl.addresses import address_by_hostname
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import SlurmProvider

PARTITION = "normal"
ACCOUNT = None  # or a name, if your cluster wants one
MINUTES = 240  # of a batch job; those that have ended are replaced
JOBS = 10  # batch jobs at once, at most
CORES = 32  # of a batch job, which is one node or a part of one
MEMORY = 32  # GB of a batch job: 1 a worker is enough for 10,000 px in five bands with all planes
WORKER_INIT = ""  # shell lines before the workers start: module load ..., source .../bin/activate
ADDRESS = address_by_hostname()  # of this host, as the nodes see it

config = Config(
    executors=[
        HighThroughputExecutor(
            label="slurm",
            address=ADDRESS,
            cores_per_worker=1,
            max_workers_per_node=CORES,
            heartbeat_period=10,  # seconds: as soon is a dead worker noticed,
            heartbeat_threshold=60,  # and as soon a dead node
            drain_period=60 * (MINUTES - 5),  # seconds after which a job takes no more tiles: none is cut short
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
