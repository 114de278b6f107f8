"""Parsl's interchange, which hands jobs on to the workers, made to end with the build that it serves.

Left to itself it outlives a build that is killed, and has the workers go on until the batch system ends them; and
Ctrl-C in a terminal kills it before the build can give its batch jobs back.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time


def main() -> None:
    """Run the interchange; the argument is the process to end with."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    runpy.run_module("parsl.executors.high_throughput.interchange", run_name="__main__")


def _end_with(parent: int) -> None:
    """End this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
