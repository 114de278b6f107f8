"""Object IDs that the catalogues of many tiles list, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from archive_builder.object_ids import ObjectIds, kind_of

CLAIM = np.dtype([("object_id", np.int64), ("depth", np.int32), ("tile", np.int32)])
"""A row of a catalogue: object ID, depth inside the tile in milliarcsec, number of the tile."""


def claim_type(ids: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of claims to IDs of a type; `CLAIM` for integers."""
    return np.dtype([("object_id", ids), ("depth", np.int32), ("tile", np.int32)])


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
        self._blocks: list[tuple[np.dtype[Any], NDArray[np.int64]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the file."""
        if self._file is not None:
            self._file.close()

    def add(self, object_id: ObjectIds, depth: NDArray[np.int32], tile: int) -> None:
        """Add the claims of one tile.

        Parameters
        ----------
        object_id : ndarray of int64 or str, (N,)
        depth : ndarray of int32, (N,)
            See :func:`archive_builder.measure.owners.edge_depth`.
        tile : int
            Number of the tile.
        """
        claims = np.empty(len(object_id), dtype=claim_type(object_id.dtype))
        claims["object_id"], claims["depth"], claims["tile"] = object_id, depth, tile
        self._waiting.append(claims)
        if sum(block.nbytes for block in self._waiting) > IN_MEMORY * CLAIM.itemsize:
            self._write()

    def parts(self) -> Iterator[NDArray[Any]]:
        """Yield all claims in arrays of the type `claim_type`; all claims to an ID are in one array."""
        if self._file is None:
            yield np.concatenate([np.empty(0, dtype=CLAIM), *self._waiting])
            return
        self._write()
        for part in range(PARTS):
            yield np.concatenate([self._read(of, edges[part], edges[part + 1]) for of, edges in self._blocks])

    def _write(self) -> None:
        """Write the waiting claims as a block, ordered by part."""
        claims = np.concatenate([np.empty(0, dtype=CLAIM), *self._waiting])
        self._waiting = []
        part = (_numbers(claims["object_id"]) * SPREAD) // np.uint64(2**64 // PARTS)
        order = np.argsort(part.astype(np.uint8), kind="stable")
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 -- closed with this object
        start = self._file.seek(0, 2)
        self._file.write(claims[order].tobytes())
        edges = np.concatenate([[0], np.cumsum(np.bincount(part.astype(np.int64), minlength=PARTS))])
        self._blocks.append((claims.dtype, start + edges * claims.dtype.itemsize))

    def _read(self, of: np.dtype[Any], start: int, end: int) -> NDArray[Any]:
        """Return the claims between two places of the file, in bytes."""
        assert self._file is not None
        self._file.seek(int(start))
        return np.frombuffer(self._file.read(int(end - start)), dtype=of)


def _numbers(ids: ObjectIds) -> NDArray[np.uint64]:
    """Return a number for each ID, the same in arrays of text of any width."""
    if kind_of(ids) == "integer":
        return ids.view(np.uint64)
    characters = np.ascontiguousarray(ids).view(np.uint32).reshape(len(ids), -1)
    numbers = np.zeros(len(ids), dtype=np.uint64)
    for column in range(characters.shape[1] - 1, -1, -1):
        numbers = numbers * SPREAD + characters[:, column]  # characters past the end are 0
    return numbers
