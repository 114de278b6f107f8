"""How far a build is: a bar on a terminal, a line for each tile elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm

from archive_builder.build.builder import BuildEvent


class Progress:
    """Shows a build's progress.

    Parameters
    ----------
    stream : file
        A terminal gets a bar, anything else a line for each tile.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm | None = None
        self._tiles = self._done = self._objects = 0

    def start(self, tiles: int) -> None:
        """Begin, with so many tiles to build."""
        self._tiles, self._started = tiles, time.monotonic()
        if tiles and self._stream.isatty():
            self._bar = tqdm(total=tiles, unit="tile", file=self._stream, dynamic_ncols=True)

    def tile_done(self, event: BuildEvent) -> None:
        """Show what became of a tile."""
        self._done += 1
        self._objects += event.stored + event.skipped
        seconds = time.monotonic() - self._started
        rate = self._objects / seconds if seconds else 0.0
        left = timedelta(seconds=round(seconds / self._done * (self._tiles - self._done)))
        outcome = f"failed: {event.error}" if event.error else f"{event.stored} stored, {event.skipped} skipped"
        if self._bar is not None:
            self._bar.set_postfix_str(f"{rate:,.0f} objects/s")
            self._bar.update()
            if event.error:
                self._bar.write(f"tile {event.tile} {outcome}", file=self._stream)
        else:
            news = f"[{self._done}/{self._tiles}] tile {event.tile}: {outcome} ({rate:,.0f} objects/s, {left} left)"
            print(news, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
