"""The list's own columns: those that name no object, position or size, carried to the manifest and the packs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from archive_builder.survey.tables import Rest

PREFIX = "list_"
"""Start of a carried column's name in the manifest if the manifest has a column of its name."""

_INTEGER = r"^-?(0|[1-9][0-9]*)$"
"""An integer; a number with leading zeros is a text."""

_FLOAT = r"^([+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?|[nN]a[nN]|[+-]?inf)$"
"""A decimal number, NaN or an infinity."""

_FIRST = 1000
"""Values that show for most columns of text that they hold no numbers."""

_BATCH = 50_000
"""Rows hashed at once."""


@dataclass(frozen=True)
class OwnColumns:
    """Columns of a list, in the order of the list."""

    given: pa.Table
    """Values as given: text for a list without types, (N rows)."""

    types: pa.Schema
    """Type of each column in Parquet and in packs."""

    @classmethod
    def of(cls, rest: Rest) -> OwnColumns:
        """Return the columns that no request uses; the values give a column of text its type."""
        columns = rest.columns
        types = [_type_of(column) if rest.is_untyped else column.type for column in columns.columns]
        return cls(columns, pa.schema(zip(columns.column_names, types, strict=True)))

    def texts(self, rows: slice) -> list[pa.ChunkedArray]:
        """Return the columns of some rows as a CSV file needs them: as given, times and decimals as text."""
        some = self.given.slice(rows.start, rows.stop - rows.start)
        return [column.cast(kind) for column, kind in zip(some.columns, self.text_types(), strict=True)]

    def text_types(self) -> list[pa.DataType]:
        """Return the types of `texts`."""
        return [pa.string() if _needs_text(kind) else kind for kind in self.given.schema.types]

    def typed(self, rows: slice | NDArray[np.int64]) -> pa.Table:
        """Return some rows with the types of `types`; an empty text is missing in a column of numbers."""
        if isinstance(rows, slice):
            some = self.given.slice(rows.start, rows.stop - rows.start)
        else:
            some = self.given.take(rows) if self.given.num_columns else self.given
        return pa.table([_typed(c, kind) for c, kind in zip(some.columns, self.types.types, strict=True)], self.types)

    def together(self) -> OwnColumns:
        """Return the same columns in one piece of memory each: taking rows from many pieces is slow."""
        return OwnColumns(self.given.combine_chunks(), self.types)

    def fingerprint(self) -> str:
        """Return a hash of names and values."""
        digest = hashlib.sha256(str(self.types).encode())
        for batch in self.together().given.to_batches(max_chunksize=_BATCH):
            digest.update(batch.serialize())
        return f"sha256:{digest.hexdigest()}"


NO_COLUMNS = OwnColumns(pa.table({}), pa.schema([]))
"""Own columns of a list without any."""


def manifest_names(own: Collection[str], taken: Collection[str]) -> list[str]:
    """Return the names of carried columns in the manifest.

    A name that the manifest has in any case gets the prefix ``list_``: databases make no difference of case.

    Examples
    --------
    >>> manifest_names(["NOTE", "TILE"], ["row", "tile"])
    ['NOTE', 'list_TILE']
    """
    found: list[str] = []
    used = {name.lower() for name in taken}
    for label in own:
        while label.lower() in used:
            label = PREFIX + label
        used.add(label.lower())
        found.append(label)
    return found


def _needs_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _type_of(text: pa.ChunkedArray) -> pa.DataType:
    """Return the type that all texts of a column fit: int64, float64, or else string."""
    values = pc.utf8_trim_whitespace(text)
    values = values.filter(pc.not_equal(values, ""))
    if len(values) == 0 or not _all_match(values.slice(0, _FIRST), _FLOAT):
        return pa.string()
    if not _all_match(values, _INTEGER):
        return pa.float64() if _all_match(values, _FLOAT) else pa.string()
    try:
        values.cast(pa.int64())
    except pa.ArrowInvalid:  # more digits than 64 bits hold
        return pa.string()
    return pa.int64()


def _all_match(text: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(text, pattern)).as_py())


def _typed(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    values = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values).cast(kind)
