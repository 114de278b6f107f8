"""Parquet tables."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from archive_builder.survey.tables.columns import as_text, common, matches, plain
from archive_builder.survey.tables.content import is_packed, unpacked
from archive_builder.survey.tables.table import TableFile, Where, table_errors

_SPACES = tuple(c for c in map(chr, range(0x3001)) if c.isspace())
"""White space, which may stand around a text in a file."""

_LAST = "\U0010ffff"
"""The last character: no continuation of a text sorts after the text with this character."""


class Parquet(TableFile):
    """A Parquet table.

    The file is read group by group and without threads: pyarrow's reader of whole tables may wait for ever for a
    damaged file.
    """

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with self._file() as file:
            self.rows = int(file.metadata.num_rows)
            self._schema = file.schema_arrow
            self.units = _units(self._schema)
            self._masks = _masks(self._schema)
            return tuple(name for name in self._schema.names if name not in self._masks.values())

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        wanted = [self.names[number] for number in numbers]
        needed = [*wanted, *(self._masks[name] for name in wanted if name in self._masks)]
        with self._file() as file:
            if where is None:
                table = file.read_row_groups(list(range(file.num_row_groups)), columns=needed, use_threads=False)
                table = _plain_table(table, self._masks)
            else:
                table = _filtered(file, needed, where, self._masks)
        return [table[name] for name in wanted]

    def _vectors(self) -> Collection[int]:
        types = [(number, self._schema.field(name).type) for number, name in enumerate(self.names)]
        return {number for number, of in types if pa.types.is_nested(of) and not pa.types.is_fixed_size_list(of)}

    def count(self, column: str) -> Counter[str]:
        """Count the rows by the text in one column."""
        self._number(column)
        counts: Counter[str] = Counter()
        with table_errors(), self._file(read_dictionary=[column]) as file:
            for number in range(file.num_row_groups):
                values = file.read_row_group(number, columns=[column], use_threads=False)[column]
                # Arrow counts missing string views as empty ones, which is the same here.
                found = pc.value_counts(values)
                texts = as_text(common(pa.chunked_array([found.field("values")]))).to_pylist()
                for text, rows in zip(texts, found.field("counts").to_pylist(), strict=True):
                    counts[text] += rows
        return counts

    @contextmanager
    def _file(self, **options: Any) -> Iterator[parquet.ParquetFile]:
        """Open the file; a compressed one is unpacked in memory."""
        source: Any = self.path
        if is_packed(self.path):
            with unpacked(self.path) as packed:
                source = io.BytesIO(packed.read())
        with parquet.ParquetFile(source, pre_buffer=False, **options) as file:
            yield file


def _filtered(file: parquet.ParquetFile, wanted: list[str], where: Where, masks: dict[str, str]) -> pa.Table:
    """Return the matching rows; only one row group is in memory at once."""
    parts = [_plain_table(file.schema_arrow.empty_table().select(wanted), masks)]
    for number in range(file.num_row_groups):
        if _may_hold(file.metadata.row_group(number), where):
            group = _plain_table(file.read_row_group(number, columns=wanted, use_threads=False), masks)
            parts.append(group.filter(pa.array(matches(common(group[where.column]), where.value))))
    return pa.concat_tables(parts, promote_options="permissive")


def _plain_table(table: pa.Table, masks: dict[str, str]) -> pa.Table:
    """Return a table with plain types, since Arrow cannot filter string views, and with masks applied."""
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = plain(column)
        if name in masks:
            values = pc.if_else(table[masks[name]], pa.scalar(None, values.type), values)
        columns.append(values)
    return pa.table(columns, names=table.column_names)


def _masks(schema: pa.Schema) -> dict[str, str]:
    """Return the columns that mark missing values, by the column with the values, in a file that astropy wrote."""
    names = set(schema.names) if b"table_meta_yaml" in (schema.metadata or {}) else set()
    return {name: f"{name}.mask" for name in names if f"{name}.mask" in names}


def _may_hold(group: parquet.RowGroupMetaData, where: Where) -> bool:
    """Return False if the range of a row group's values excludes a text, with any white space around it."""
    columns = (group.column(number) for number in range(group.num_columns))
    ranges = [column.statistics for column in columns if column.path_in_schema == where.column]
    try:
        if not ranges or ranges[0] is None or not ranges[0].has_min_max or not isinstance(ranges[0].min, str):
            return True
        low, high = ranges[0].min, ranges[0].max
    except ValueError:  # the writer has cut a character in two
        return True
    # The range leaves out missing values, which match an empty text.
    return not where.value or any(low <= start + _LAST and high >= start for start in (where.value, *_SPACES))


def _units(schema: pa.Schema) -> dict[str, str]:
    """Return the units in a Parquet schema: of each field, of astropy's metadata, or of a VOTable in the metadata."""
    metadata = schema.metadata or {}
    found = _units_of_votable(metadata.get(b"IVOA.VOTable-Parquet.content", b""))
    found |= _units_of_astropy(metadata.get(b"table_meta_yaml", b""))
    for field in schema:
        for key, value in (field.metadata or {}).items():
            if key.lower().endswith((b"unit", b"units")):
                found[field.name] = value.decode(errors="replace")
    return found


def _units_of_astropy(header: bytes) -> dict[str, str]:
    """Return the units that astropy writes beside a table."""
    if not header:
        return {}
    from astropy.table.meta import get_header_from_yaml

    columns = get_header_from_yaml(header.decode().splitlines())["datatype"]
    return {column["name"]: str(column["unit"]) for column in columns if "unit" in column}


def _units_of_votable(header: bytes) -> dict[str, str]:
    """Return the units of VOParquet, a Parquet table described by a VOTable without data."""
    if not header:
        return {}
    from astropy.io import votable

    fields = votable.parse(io.BytesIO(header), verify="ignore").get_first_table().fields
    return {field.name: str(field.unit) for field in fields if field.unit is not None}
