"""What became of every row of a bulk request: ``manifest.csv`` and ``manifest.parquet``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, parquet

from archive_builder.atomic import whole_file
from archive_builder.exporting import names
from archive_builder.exporting.job import Output
from archive_builder.exporting.packs import PACKS, piece_name
from archive_builder.exporting.request_list import REASONS, Outcome, RequestList

MANIFESTS = ("manifest.parquet", "manifest.csv")
"""The manifest's files, in the order they appear; with the last, the export is complete."""

BATCH = 50_000
"""Rows made into text at once."""


@dataclass
class Answers:
    """What became of every row of the list, in its order."""

    outcome: NDArray[np.uint8]
    """`Outcome`, (N,)."""

    key: NDArray[np.int64]
    """Object ID, or the number of the position's designation, (N,)."""

    tile_id: NDArray[np.int32]
    """-1 for none, (N,)."""

    shape: NDArray[np.int32]
    """Rows and columns served, (N, 2)."""

    plain: NDArray[np.bool_]
    """Whether the files are called after the object alone, (N,)."""

    piece: NDArray[np.int32]
    """Number of the job, (N,)."""

    place: NDArray[np.int32]
    """In the piece, (N,)."""

    messages: dict[int, str] = field(default_factory=dict)
    """What is broken, by row."""


def write_manifest(requests: RequestList, answers: Answers, tiles: dict[int, str], output: Output) -> None:
    """Write both files of the manifest, batch by batch, and give them their names.

    A row of the list is a row of the manifest, in the same order:

    - ``row``: its number, from 0;
    - ``object_id``, or ``ra`` and ``dec``: what was asked for, as it was given;
    - ``status``: ``done`` or ``failed``, and ``reason`` if it failed;
    - ``file``: below the folder of the export; several with ``;`` between them, those of each format together,
      bands in the order asked; for a pack, the piece;
    - ``place``, only for a pack: the row of the piece's ``/cutouts``, or the key of the sample;
    - ``tile``, and ``ny`` and ``nx``, the pixels served.

    Parameters
    ----------
    requests : RequestList
    answers : Answers
    tiles : dict of int to str
        Names of the tiles.
    output : Output
    """
    schema = _schema(requests, output)
    with ExitStack() as stack:
        # Contexts end in reverse order: manifest.csv, which says that the export is complete, gets its name last.
        as_csv, as_parquet = (
            stack.enter_context(whole_file(output.directory / name, durable=True)) for name in reversed(MANIFESTS)
        )
        writers = [
            stack.enter_context(parquet.ParquetWriter(as_parquet, schema)),
            stack.enter_context(csv.CSVWriter(as_csv, schema)),
        ]
        for first in range(0, len(requests), BATCH):
            some = slice(first, min(first + BATCH, len(requests)))
            table = pa.table(_columns(requests, answers, tiles, output, some), schema=schema)
            for writer in writers:
                writer.write_table(table)


def _schema(requests: RequestList, output: Output) -> pa.Schema:
    text, asked = pa.string(), {"ra": pa.float64(), "dec": pa.float64()}
    if requests.object_id is not None:
        asked = {"object_id": pa.int64()}
    place = {"hdf5": {"place": pa.int64()}, "webdataset": {"place": text}}.get(output.pack or "", {})
    served = {"tile": text, "ny": pa.int32(), "nx": pa.int32()}
    return pa.schema({"row": pa.int64(), **asked, "status": text, "reason": text, "file": text, **place, **served})


def _columns(
    requests: RequestList, answers: Answers, tiles: dict[int, str], output: Output, some: slice
) -> dict[str, Any]:
    """Return some rows of the manifest."""
    outcome, tile_id = answers.outcome[some], answers.tile_id[some].tolist()
    failed = outcome != Outcome.DONE
    columns: dict[str, Any] = {"row": np.arange(some.start, some.stop)}
    if requests.object_id is not None:
        no_id = (outcome == Outcome.NO_ID) | (outcome == Outcome.BAD_ID)
        columns["object_id"] = pa.array(requests.object_id[some], mask=no_id)
    elif requests.ra is not None and requests.dec is not None:
        columns["ra"] = pa.array(requests.ra[some], mask=np.isnan(requests.ra[some]))
        columns["dec"] = pa.array(requests.dec[some], mask=np.isnan(requests.dec[some]))
    columns["status"] = np.where(failed, "failed", "done").tolist()
    columns["reason"] = _reasons(requests, answers, some)
    columns["file"] = _files(requests, answers, output, some)
    if output.pack == "hdf5":
        columns["place"] = pa.array(answers.place[some].astype(np.int64), mask=failed)
    elif output.pack == "webdataset":
        columns["place"] = [names.sample_key(name) if name else None for name in _names(requests, answers, some)]
    columns["tile"] = [tiles[tile] if tile >= 0 else None for tile in tile_id]
    columns["ny"] = pa.array(answers.shape[some, 0], mask=failed)
    columns["nx"] = pa.array(answers.shape[some, 1], mask=failed)
    return columns


def _reasons(requests: RequestList, answers: Answers, some: slice) -> list[str | None]:
    """Return why rows have no cutout, None for those that have."""
    known = {int(outcome): reason or None for outcome, reason in REASONS.items()}
    reasons = [known[outcome] for outcome in answers.outcome[some].tolist()]
    for number in np.flatnonzero(answers.outcome[some] == Outcome.BAD_ID).tolist():
        reasons[number] = f"{REASONS[Outcome.BAD_ID]}: {requests.texts[some.start + number]!r}"
    for number in np.flatnonzero(answers.outcome[some] == Outcome.FAILED).tolist():
        reasons[number] = answers.messages[some.start + number]
    return reasons


def _names(requests: RequestList, answers: Answers, some: slice) -> list[str | None]:
    """Return the name of each row's cutout, None for rows without."""
    is_position = requests.object_id is None
    rows = zip(
        answers.outcome[some].tolist(),
        answers.key[some].tolist(),
        answers.plain[some].tolist(),
        answers.shape[some].tolist(),
        strict=True,
    )
    return [
        None if outcome else names.sample_name(key, is_position, None if plain else (shape[0], shape[1]))
        for outcome, key, plain, shape in rows
    ]


def _files(requests: RequestList, answers: Answers, output: Output, some: slice) -> list[str | None]:
    """Return each row's files, None for rows without."""
    if output.pack is not None:
        suffix = PACKS[output.pack].suffix
        return [
            None if outcome else piece_name(output.prefix, piece, suffix)
            for outcome, piece in zip(answers.outcome[some].tolist(), answers.piece[some].tolist(), strict=True)
        ]
    files: list[str | None] = []
    for key, name in zip(answers.key[some].tolist(), _names(requests, answers, some), strict=True):
        if name is None:
            files.append(None)
            continue
        folder = names.folder_name(key, requests.object_id is None)
        files.append(
            ";".join(f"{folder}/{f}" for f in names.file_names(name, output.prefix, output.formats, output.bands))
        )
    return files
