"""Benchmark of memory: peak memory of all processes of a build together.

usage: python ops/bench/memory.py RECIPE [--memory 2GB] [--workers N] [--work DIR]

Prints the peak of the summed proportional set sizes (PSS: shared pages count once) of the build and all its child
processes, sampled five times a second from /proc.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from usage import family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--work", type=Path, help="folder for the archive (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="memory-") as folder:
        program = [sys.executable, "-c", "from archive_builder.cli.main import main; main()"]
        command = [*program, "build", str(options.recipe), f"{folder}/archive"]
        started = time.perf_counter()
        build = subprocess.Popen([*command, "--memory", options.memory, "--workers", options.workers])
        peak = 0
        while build.poll() is None:
            peak = max(peak, sum(map(proportional_size, family(build.pid))))
            time.sleep(0.2)
    seconds = time.perf_counter() - started
    print(f"memory {options.memory}, workers {options.workers}: peak PSS {peak / 1e9:.2f} GB in {seconds:.1f} s")
    sys.exit(build.returncode)


def proportional_size(pid: int) -> int:
    """Return the PSS of a process, bytes; 0 if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        return int(text.split("\nPss:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main()
