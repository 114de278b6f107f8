"""How far a build or the sample of a plan is: a bar on a terminal, a line for each tile elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from archive_builder.builder.changes import Changes
from archive_builder.builder.driver import BuildEvent
from archive_builder.builder.one_tile import TileResult
from archive_builder.cli.meter import Meter
from archive_builder.errors import printable
from archive_builder.forecast.sample import TileSample
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import StorageSection


class _TileProgress:
    """Shows how many tiles are done.

    Parameters
    ----------
    stream : file
        A terminal gets a bar, anything else a line for each tile.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._meter = Meter(stream, "tile")

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._meter.close()


class Progress(_TileProgress):
    """Shows a build's progress."""

    _objects = 0

    def start(self, changes: Changes) -> None:
        """Say what is to be done, and begin."""
        print(changes.summary(), file=self._stream, flush=True)
        self._meter.start(len(changes.tasks) + len(changes.incomplete))

    def tile_done(self, event: BuildEvent) -> None:
        """Show what became of a tile."""
        self._objects += event.stored + event.skipped
        seconds = self._meter.seconds
        rate = f"{self._objects / seconds if seconds else 0.0:,.0f} objects/s"
        outcome = f"failed: {event.error}" if event.error else f"{event.stored} stored, {event.skipped} skipped"
        self._meter.advance(1, printable(f"tile {event.tile}: {outcome}"), rate, urgent=event.error is not None)


class PlanProgress(_TileProgress):
    """Shows how far the sample of a plan is."""

    _done = 0

    def start(self, found: Discovery, chosen: Sequence[TileFiles]) -> None:
        """Say what will be sampled, and begin."""
        text = f"{len(chosen)} of {len(found.tiles)} tiles are built to see what they take"
        print(text, file=self._stream, flush=True)
        self._meter.start(len(chosen))

    def tile_done(self, sample: TileSample) -> None:
        """Show what a tile of the sample took."""
        self._advance(f"tile {sample.result.tile}", sample.result, urgent=sample.result.error is not None)

    def start_alternatives(self, sample: TileSample, storages: Sequence[StorageSection]) -> None:
        """Announce the builds of the reference tile."""
        self._meter.close()
        text = f"tile {sample.result.tile} is built in {len(storages)} layouts and quantizations"
        print(text, file=self._stream, flush=True)
        self._meter, self._done = Meter(self._stream, "build"), 0
        self._meter.start(len(storages))

    def alternative_done(self, storage: StorageSection, result: TileResult) -> None:
        """Show the result of one build of the reference tile."""
        self._advance(f"{storage.layout}, {storage.quantization}", result)

    def _advance(self, name: str, result: TileResult, urgent: bool = False) -> None:
        self._done += 1
        outcome = (
            f"failed: {result.error}" if result.error else f"{result.bytes / 1e6:.1f} MB in {result.seconds:.1f} s"
        )
        rate = f"{self._meter.seconds / self._done:.1f} s each"
        self._meter.advance(1, printable(f"{name}: {outcome}"), rate, urgent=urgent)
