"""Parsl's interchange, which passes jobs to the workers, with an end that follows the build's end.

By itself the interchange outlives a killed build, and its workers run until the batch system ends them. And Ctrl-C in
a terminal kills the interchange before the build can cancel its batch jobs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time


def main() -> None:
    """Run the interchange until the process given as argument ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")


def _end_with(parent: int) -> None:
    """End this process when its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
