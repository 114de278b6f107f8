"""The manifest of a bulk request: an answer for every row, in ``manifest.csv`` and ``manifest.parquet``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from archive_builder.atomic import whole_file
from archive_builder.exporting import names
from archive_builder.exporting.own_columns import manifest_names
from archive_builder.exporting.packs import PACKS, piece_name
from archive_builder.exporting.plan import Plan
from archive_builder.exporting.request_list import REASONS, Outcome

MANIFESTS = ("manifest.parquet", "manifest.csv")
"""Files of the manifest in the order they appear. The last one means that the export is complete."""

QUOTED_OUTCOMES = (Outcome.BAD_ID, Outcome.NO_POSITION, Outcome.BAD_SIZE)
"""Outcomes whose reason quotes the text of the list."""

BATCH = 50_000
"""Rows converted to text at once."""


def write_manifest(plan: Plan) -> None:
    """Write both files of the manifest.

    Row ``i`` of the manifest answers row ``i`` of the list:

    - ``row``: number of the row, from 0;
    - ``object_id``, or ``ra`` and ``dec``: the object, or the position in deg; empty if they cannot be read;
    - ``status``: ``done`` or ``failed``; ``reason`` if it failed, with the text of the list that cannot be read;
    - ``file``: path below the folder of the export. Several paths have ``;`` between them, format by format, with the
      bands in the order wanted. For a pack, the piece;
    - ``place``, only for a pack: row of the piece's ``/cutouts``, or key of the sample;
    - ``tile``: name of the tile; ``ny`` and ``nx``: size of the cutout, px;
    - the list's own columns, under their names, or with ``list_`` before a name that is taken: see
      `archive_builder.exporting.own_columns`. The CSV file has the values as given, the Parquet file as numbers if
      all values of a column are.

    Raises
    ------
    OSError
        The files cannot be written.
    """
    answers, own = _schema(plan), plan.requests.own
    labels = manifest_names(own.given.column_names, answers.names)
    as_csv_schema, as_parquet_schema = (
        pa.schema([*answers, *map(pa.field, labels, types)]) for types in (own.text_types(), own.types.types)
    )
    with ExitStack() as stack:
        # Contexts end in reverse order: manifest.csv, the sign of a complete export, gets its name last.
        as_csv, as_parquet = (
            stack.enter_context(whole_file(plan.output.directory / name, durable=True)) for name in reversed(MANIFESTS)
        )
        in_parquet = stack.enter_context(parquet.ParquetWriter(as_parquet, as_parquet_schema))
        in_csv = stack.enter_context(csv.CSVWriter(as_csv, as_csv_schema))
        for first in range(0, len(plan.requests), BATCH):
            rows = slice(first, min(first + BATCH, len(plan.requests)))
            columns = pa.table(_columns(plan, rows), schema=answers).columns
            in_parquet.write_table(pa.table([*columns, *own.typed(rows).columns], schema=as_parquet_schema))
            in_csv.write_table(pa.table([*columns, *own.texts(rows)], schema=as_csv_schema))


def _schema(plan: Plan) -> pa.Schema:
    text, asked = pa.string(), {"ra": pa.float64(), "dec": pa.float64()}
    if plan.requests.object_id is not None:
        asked = {"object_id": pa.int64()}
    place = {"hdf5": {"place": pa.int64()}, "webdataset": {"place": text}}.get(plan.output.pack or "", {})
    served = {"tile": text, "ny": pa.int32(), "nx": pa.int32()}
    return pa.schema({"row": pa.int64(), **asked, "status": text, "reason": text, "file": text, **place, **served})


def _columns(plan: Plan, some: slice) -> dict[str, pa.Array]:
    """Return some rows of the manifest."""
    requests, answers, pack = plan.requests, plan.answers, plan.output.pack
    outcome, tile_id = answers.outcome[some], answers.tile_id[some].tolist()
    failed = outcome != Outcome.DONE
    cutouts = list(_names(plan, some))
    columns = {"row": pa.array(np.arange(some.start, some.stop))}
    if requests.object_id is not None:
        no_id = (outcome == Outcome.NO_ID) | (outcome == Outcome.BAD_ID)
        columns["object_id"] = pa.array(requests.object_id[some], mask=no_id)
    for column, values in (("ra", requests.ra), ("dec", requests.dec)):
        if values is not None:
            columns[column] = pa.array(values[some], mask=~np.isfinite(values[some]))
    columns["status"] = pa.array(np.where(failed, "failed", "done").tolist())
    columns["reason"] = pa.array(_reasons(plan, some), pa.string())
    columns["file"] = pa.array(_files(plan, some, cutouts), pa.string())
    if pack == "hdf5":
        columns["place"] = pa.array(answers.place[some].astype(np.int64), mask=failed)
    elif pack == "webdataset":
        columns["place"] = pa.array([names.sample_key(name) if name else None for name in cutouts], pa.string())
    columns["tile"] = pa.array([plan.tiles[tile].name if tile >= 0 else None for tile in tile_id], pa.string())
    columns["ny"] = pa.array(answers.shape[some, 0], mask=failed)
    columns["nx"] = pa.array(answers.shape[some, 1], mask=failed)
    return columns


def _reasons(plan: Plan, some: slice) -> list[str | None]:
    """Return the reason of each row without a cutout, None for the others."""
    known = {int(outcome): reason or None for outcome, reason in REASONS.items()}
    outcome = plan.answers.outcome[some]
    reasons = [known[number] for number in outcome.tolist()]
    for number in np.flatnonzero(np.isin(outcome, QUOTED_OUTCOMES)).tolist():
        if text := plan.requests.texts.get(some.start + number):
            reasons[number] = f"{reasons[number]}: {text}"
    for number in np.flatnonzero(outcome == Outcome.FAILED).tolist():
        reasons[number] = plan.answers.messages[some.start + number]
    return reasons


def _names(plan: Plan, some: slice) -> Iterator[str | None]:
    """Yield the name of each row's cutout, None for rows without."""
    answers, is_position = plan.answers, plan.requests.object_id is None
    columns = (answers.outcome, answers.key, answers.plain, answers.shape)
    for outcome, key, plain, (ny, nx) in zip(*(column[some].tolist() for column in columns), strict=True):
        yield None if outcome else names.sample_name(key, is_position, None if plain else (ny, nx))


def _files(plan: Plan, some: slice, cutouts: list[str | None]) -> Iterator[str | None]:
    """Yield the files of each row's cutout, None for rows without."""
    output, answers = plan.output, plan.answers
    for name, key, piece in zip(cutouts, answers.key[some].tolist(), answers.piece[some].tolist(), strict=True):
        if name is None:
            yield None
        elif output.pack is not None:
            yield piece_name(output.prefix, piece, PACKS[output.pack].suffix)
        else:
            folder = names.folder_name(key, plan.requests.object_id is None)
            files = names.file_names(name, output.prefix, output.formats, output.bands)
            yield ";".join(f"{folder}/{file}" for file in files)
