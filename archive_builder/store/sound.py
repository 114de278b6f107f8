"""Whether what an index says makes sense: it may be damaged, or somebody else's."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.measure.quality import REASON_NAMES, Status
from archive_builder.store.format import schema_text
from archive_builder.survey.discovery import TILE_NAME

Columns = frozenset[tuple[str, str, str, int]]
"""Table, column, type and whether it is hidden or worked out, of every column."""

TABLES = ("settings", "tiles", "builds", "objects")
"""The tables of an index."""

NOT_JSON = (ValueError, TypeError, RecursionError)
"""What reading JSON raises."""


class NonsenseError(ValueError):
    """A value cannot be what it is said to be."""


@cache
def schema() -> str:
    """Return ``schema/index.sql``."""
    return schema_text("index.sql")


def check_tables(connection: sqlite3.Connection) -> None:
    """Refuse tables other than the schema's, and whatever SQLite would run when they are used.

    Raises
    ------
    NonsenseError
    """
    if columns_of(connection) != _expected_columns():
        raise NonsenseError("its tables are not those of an index")


def columns_of(connection: sqlite3.Connection) -> Columns | None:
    """Return the columns of an index's tables; None if there are views, triggers or virtual tables."""
    things = connection.execute("SELECT type, sql FROM sqlite_master WHERE type != 'index'")
    if any(kind != "table" or not str(sql).upper().startswith("CREATE TABLE") for kind, sql in things):
        return None
    question = "SELECT name, type, hidden FROM pragma_table_xinfo(?)"
    return frozenset((name, *column) for name in TABLES for column in connection.execute(question, [name]))


@cache
def _expected_columns() -> Columns | None:
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(schema())
        return columns_of(empty)


def sound_settings(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of the table's rows, whose values are JSON.

    Raises
    ------
    NonsenseError
    """
    try:
        settings = {str(row["key"]): json.loads(row["value"]) for row in rows}
    except NOT_JSON:
        raise NonsenseError("its settings are not JSON") from None
    if settings and not (
        _is_count(settings.get("format_version"))
        and _is_count(settings.get("size"), least=1)
        and _are_texts(settings.get("bands"))
        and _has_text(settings.get("recipe"), "survey", "name")
        and _has_text(settings.get("recipe"), "storage", "layout")
    ):
        raise NonsenseError("its settings are not those of an archive")
    return settings


def sound_tile(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table ``tiles``, if its values are of their kinds.

    Raises
    ------
    NonsenseError
    """
    name = row["name"]
    # A tile that never had a shard may have any name: it failed for it.
    if not (isinstance(name, str) and (row["shard"] is None or TILE_NAME.fullmatch(name))):
        raise NonsenseError(f"{name!r} is no tile's name")
    wrong = [column for column in ("generation", "stored", "skipped") if not _is_count(row[column])]
    wrong += [column for column in ("shard", "error") if not isinstance(row[column], str | None)]
    wrong += [column for column in ("bytes", "build_id") if not (row[column] is None or _is_count(row[column]))]
    wrong += ["seconds"] if not isinstance(row["seconds"], int | float | None) else []
    wrong += ["built_at"] if not (row["built_at"] is None or _is_time(row["built_at"])) else []
    if wrong:
        raise NonsenseError(f"tile {name} has {wrong[0]} {row[wrong[0]]!r}")
    return dict(row)


def footprint_of(tile: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return a tile's corners, RA and Dec in deg, (4, 2).

    Raises
    ------
    NonsenseError
    """
    try:
        corners = np.array(json.loads(tile["footprint"]), dtype=np.float64)
    except NOT_JSON:
        corners = np.empty(0)
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        raise NonsenseError(f"tile {tile['name']} has the footprint {tile['footprint']!r}")
    return corners


def skipped_for_of(tile: Mapping[str, Any]) -> dict[str, int]:
    """Return how many of a tile's objects have no cutout, by reason.

    Raises
    ------
    NonsenseError
    """
    counts = _mapping(tile, "skipped_for")
    if set(counts) != set(REASON_NAMES) or not all(map(_is_count, counts.values())):
        raise NonsenseError(f"tile {tile['name']} has skipped_for {tile['skipped_for']!r}")
    return counts


def depth_of(tile: Mapping[str, Any]) -> dict[str, float | None]:
    """Return a tile's depth per band, AB mag, None where it could not be measured.

    Raises
    ------
    NonsenseError
    """
    depth = _mapping(tile, "depth")
    if not all(value is None or (isinstance(value, float) and math.isfinite(value)) for value in depth.values()):
        raise NonsenseError(f"tile {tile['name']} has depth {tile['depth']!r}")
    return depth


def _mapping(tile: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Return the JSON of one column, which is a mapping."""
    try:
        value = json.loads(tile[column])
    except NOT_JSON:
        value = None
    if not isinstance(value, dict):
        raise NonsenseError(f"tile {tile['name']} has {column} {tile[column]!r}")
    return value


def sound_build(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table ``builds``, if its values are of their kinds and its times can be read.

    Raises
    ------
    NonsenseError
    """
    times = [row["started"], *([] if row["finished"] is None else [row["finished"]])]
    if not (all(map(_is_time, times)) and _is_count(row["planned"])):
        raise NonsenseError(f"build {row['build_id']} makes no sense")
    return dict(row)


def sound_place(row: Sequence[Any]) -> list[int]:
    """Return an object's tile, row, status and generation, if they are whole numbers.

    Raises
    ------
    NonsenseError
    """
    if not all(isinstance(value, int) for value in row):
        raise NonsenseError("an object's place is no whole number")
    check_status(np.array(row[2]))
    return list(row)


def sound_columns(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Return columns of whole numbers, each a text with commas between them, as an array of a row each.

    Raises
    ------
    NonsenseError
    """
    try:
        columns = [json.loads(f"[{text or ''}]", parse_float=_refuse, parse_constant=_refuse) for text in texts]
        return np.array(columns, dtype=np.int64).reshape(len(texts), len(columns[0])).T
    except (*NOT_JSON, OverflowError):
        raise NonsenseError("an object's place is no whole number") from None


def check_status(status: NDArray[np.int64]) -> None:
    """Refuse what is no status of an object.

    Raises
    ------
    NonsenseError
    """
    if ((status < 0) | (status > max(Status))).any():
        raise NonsenseError("an object has an unknown status")


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no whole number")


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_time(value: object) -> bool:
    """Tell whether a value is a time in ISO 8601 that says of which time zone it is."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _has_text(value: object, *keys: str) -> bool:
    """Tell whether there is a text under keys in nested mappings."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(text, str) for text in value)
