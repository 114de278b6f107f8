"""Answers to the rows of a bulk request, collected from the jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.exporting.job import JobResult
from archive_builder.exporting.request_list import REASONS, Outcome
from archive_builder.object_ids import ObjectIds

_NUMBERS: np.dtype[Any] = np.dtype(np.int64)


@dataclass
class Answers:
    """Answer to every row; parallel arrays in the order of the list."""

    outcome: NDArray[np.uint8]
    """`Outcome`, (N,)."""

    key: ObjectIds
    """Object ID, or number of the position's designation, (N,)."""

    tile_id: NDArray[np.int32]
    """Tile; -1 for none, (N,)."""

    shape: NDArray[np.int32]
    """Rows and columns of the cutout, px, (N, 2)."""

    plain: NDArray[np.bool_]
    """True if the file name has no size, (N,)."""

    piece: NDArray[np.int32]
    """Number of the job, (N,)."""

    place: NDArray[np.int32]
    """Place in the piece, (N,)."""

    messages: dict[int, str] = field(default_factory=dict)
    """Error messages by row."""

    @classmethod
    def to(cls, outcome: NDArray[np.uint8], key: np.dtype[Any] = _NUMBERS) -> Answers:
        """Return the answers before any row is placed.

        Parameters
        ----------
        outcome : ndarray of uint8, (N,)
            `Outcome` of the rows that cannot be served; ``DONE`` for all others.
        key : dtype
            Type of the keys.
        """
        n = len(outcome)
        return cls(
            outcome=outcome.copy(),
            key=np.zeros(n, dtype=key),
            tile_id=np.full(n, -1, dtype=np.int32),
            shape=np.zeros((n, 2), dtype=np.int32),
            plain=np.ones(n, dtype=bool),
            piece=np.full(n, -1, dtype=np.int32),
            place=np.full(n, -1, dtype=np.int32),
        )

    def take(self, result: JobResult) -> None:
        """Record the result of a job."""
        rows = result.rows
        self.outcome[rows] = result.outcome
        self.shape[rows] = result.shape
        self.plain[rows] = result.plain
        self.piece[rows] = result.number
        self.place[rows] = result.place
        self.messages.update(result.messages)

    def done(self) -> int:
        """Return the number of rows with a cutout."""
        return int(np.count_nonzero(self.outcome == Outcome.DONE))

    def failures(self) -> dict[str, int]:
        """Return the number of rows without a cutout, by reason."""
        counts = np.bincount(self.outcome, minlength=len(Outcome)).tolist()
        return {REASONS[o]: counts[o] for o in Outcome if o != Outcome.DONE and counts[o]}

    def first_error(self) -> str | None:
        """Return the error message of the first row that has one."""
        return self.messages[min(self.messages)] if self.messages else None
