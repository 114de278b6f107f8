"""Object IDs that the catalogues of many tiles list, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

CLAIM = np.dtype([("object_id", np.int64), ("depth", np.int32), ("tile", np.int32)])
"""A row of a catalogue: object ID, depth inside the tile in milliarcsec, number of the tile."""

IN_MEMORY = 2_000_000
"""Maximum claims in memory, 32 MB. More go to a temporary file."""

PARTS = 256
"""Parts of the file: 400 million claims make parts of 25 MB."""

SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier that spreads neighbouring IDs over the parts: 2**64 divided by the golden ratio."""


class Claims:
    """Claims of many tiles, grouped so that all claims to an ID are in one part; a context manager.

    Parameters
    ----------
    folder : Path or None
        Folder of the temporary file; None for the system's. The file has no name: a killed process leaves none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._waiting: list[NDArray[Any]] = []
        self._blocks: list[NDArray[np.int64]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

    def add(self, object_id: NDArray[np.int64], depth: NDArray[np.int32], tile: int) -> None:
        """Add the claims of one tile.

        Parameters
        ----------
        object_id : ndarray of int64, (N,)
        depth : ndarray of int32, (N,)
            See :func:`archive_builder.measure.owners.edge_depth`.
        tile : int
            Number of the tile.
        """
        claims = np.empty(len(object_id), dtype=CLAIM)
        claims["object_id"], claims["depth"], claims["tile"] = object_id, depth, tile
        self._waiting.append(claims)
        if sum(map(len, self._waiting)) > IN_MEMORY:
            self._write()

    def parts(self) -> Iterator[NDArray[Any]]:
        """Yield all claims in arrays of the type `CLAIM`; all claims to an ID are in one array."""
        if self._file is None:
            yield np.concatenate([np.empty(0, dtype=CLAIM), *self._waiting])
            return
        self._write()
        for part in range(PARTS):
            yield np.concatenate([self._read(edges[part], edges[part + 1]) for edges in self._blocks])

    def _write(self) -> None:
        """Write the waiting claims as a block, ordered by part."""
        claims = np.concatenate([np.empty(0, dtype=CLAIM), *self._waiting])
        self._waiting = []
        part = (claims["object_id"].view(np.uint64) * SPREAD) // np.uint64(2**64 // PARTS)
        order = np.argsort(part.astype(np.uint8), kind="stable")
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- closed with this object
        start = self._file.seek(0, 2)
        self._file.write(claims[order].tobytes())
        edges = np.concatenate([[0], np.cumsum(np.bincount(part.astype(np.int64), minlength=PARTS))])
        self._blocks.append(start + edges * CLAIM.itemsize)

    def _read(self, start: int, end: int) -> NDArray[Any]:
        """Return the claims between two places of the file, in bytes."""
        assert self._file is not None
        self._file.seek(int(start))
        return np.frombuffer(self._file.read(int(end - start)), dtype=CLAIM)
