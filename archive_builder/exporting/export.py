"""Bulk requests: cutouts of everything on a list, as files or packed, and a manifest that answers row by row."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.atomic import TEMPORARY, write_whole
from archive_builder.bands import band_names
from archive_builder.errors import ArchiveBuilderError, RequestError, one_line
from archive_builder.exporting import names
from archive_builder.exporting.job import SKIPPED, ExportJob, JobResult, Output, pixel_scale, run_job
from archive_builder.exporting.manifest import MANIFESTS, Answers, write_manifest
from archive_builder.exporting.packs import PACKS
from archive_builder.exporting.request_list import (
    ANY_COLUMNS,
    REASONS,
    ColumnNames,
    Outcome,
    RequestList,
    Sizes,
    read_requests,
)
from archive_builder.geometry import Size, parse_shape
from archive_builder.run.pool import end_if_starting, run_jobs
from archive_builder.serve.archive import Archive
from archive_builder.serve.cutout import FORMATS
from archive_builder.serve.style import USUAL_STYLE, Style
from archive_builder.store.index import Index
from archive_builder.store.records import TileRow

ROWS_PER_JOB = 1000
"""Rows of the list in one job, at most, but for the rows of one object: they stay together."""

SEARCH_BLOCK = 0.035
"""Deg of Dec that positions of a tile are served in one after another: about the 512 rows a tile is built in."""

POSITIONS_AT_ONCE = 50_000
"""Positions whose tiles are looked up together: it takes a few hundred bytes each."""

OPTIONS_NAME = "export.json"
"""The file that remembers what an export makes."""


@dataclass
class ExportReport:
    """What an export came to."""

    directory: str
    """Where it is."""

    rows: int = 0
    """Of the list."""

    done: int = 0
    """Rows that have their files."""

    failures: dict[str, int] = field(default_factory=dict)
    """Rows that have none, by reason; the manifest has them one by one."""

    first_error: str | None = None
    """What is broken, in the words of the first row of those that failed for it."""

    made: int = 0
    """Files, or pieces, written."""

    kept: int = 0
    """Files, or pieces, that were there already."""


def export(
    archive: str | Path,
    requests: str | Path,
    directory: str | Path,
    *,
    formats: Sequence[str] = (),
    size: Size | None = None,
    bands: Sequence[str] | None = None,
    prefix: str = "",
    pack: str | None = None,
    style: Style = USUAL_STYLE,
    columns: ColumnNames = ANY_COLUMNS,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda rows: None,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> ExportReport:
    """Make the cutouts of everything on a list, or what is missing of them.

    It starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : str or Path
        The archive's folder.
    requests : str or Path
        The list: see :func:`archive_builder.exporting.request_list.read_requests`.
    directory : str or Path
        Where the files go: a new folder, or one that the same export was begun in.
    formats : sequence of str
        Any of ``fits``, ``fits-bands``, ``png``, ``tiff``, ``npy``, ``npz``; by default ``fits``, and ``npy`` for
        a WebDataset. An HDF5 pack has no files in it and takes none.
    size : int, str, Quantity, or a pair ``(ny, nx)`` of them, optional
        Of the rows that have no size of their own; the archive's own size by default.
    bands : str or sequence of str, optional
        All by default.
    prefix : str
        What the name of every file begins with.
    pack : ``"hdf5"`` or ``"webdataset"``, optional
        Pack the cutouts into files of up to about 1000, instead of files of their own.
    style : Style
        How pictures look.
    columns : ColumnNames
        Columns of the list, if they are not called as usual.
    workers : int
        Processes.
    on_start : callable
        Told how many rows there are to be served.
    on_rows : callable
        Told how many more rows have been seen to.

    Returns
    -------
    ExportReport
        A row that cannot be served raises nothing: it is counted here, and the manifest says why.

    Raises
    ------
    RequestError
        The list cannot be read, an option makes no sense, or the folder holds another export or anything else; or it
        is not called under that ``if``.
    ArchiveError
        The folder is no archive.
    ArchiveBuilderError
        The files cannot be written. Repeat the export to go on with it.
    """
    end_if_starting()
    archive, directory = Path(archive), Path(directory)
    listed = read_requests(Path(requests), columns)
    names.check_prefix(prefix)
    with Archive(archive) as opened:
        output = Output(
            archive=archive,
            directory=directory,
            formats=_formats(formats, pack),
            bands=_bands(bands, opened),
            size=_plain_size(size),
            prefix=prefix,
            pack=pack,
            style=style,
        )
        plan = make_plan(opened, listed, output)
    with _folder(directory, _options(plan)):
        return _run(plan, workers, on_start, on_rows)


def _formats(formats: Sequence[str], pack: str | None) -> tuple[str, ...]:
    """Return the formats to make."""
    if pack is not None and pack not in PACKS:
        raise RequestError(f"pack {pack!r} is unknown: give {' or '.join(PACKS)}")
    known = [*FORMATS, names.BANDS_FORMAT]
    for kind in formats:
        if kind not in known:
            raise RequestError(f"format {kind!r} is unknown: give any of {', '.join(known)}")
    if pack == "hdf5":
        return ()
    return tuple(dict.fromkeys(formats)) or (("fits",) if pack is None else ("npy",))


def _bands(bands: Sequence[str] | None, archive: Archive) -> tuple[str, ...]:
    """Return the bands to make."""
    if bands is None:
        return archive.bands
    chosen = band_names(bands, archive.bands, f"the archive {archive.path}")
    if len(set(chosen)) < len(chosen):
        raise RequestError(f"bands {','.join(chosen)!r}: give each band wanted once")
    return chosen


def _plain_size(size: Size | None) -> tuple[int | str, int | str] | None:
    """Return a size as numbers of pixels and texts, which can be compared and remembered."""
    if size is None:
        return None
    sides = size if isinstance(size, tuple | list) else (size, size)
    coarse, fine = parse_shape(size, 1e-4), parse_shape(size, 5e-5)  # an angle is twice as many of half as large
    height, width = (n if n == m else str(side).strip() for side, n, m in zip(sides, coarse, fine, strict=True))
    return height, width


@dataclass(frozen=True)
class Plan:
    """What is to be done."""

    requests: RequestList
    """The list."""

    output: Output
    """What is made of every row."""

    answers: Answers
    """Of the rows that need no pixels to be answered; the others' are ``FAILED`` so far."""

    tiles: dict[int, TileRow]
    """The index's row of every tile."""

    order: NDArray[np.int64]
    """Rows of the list to be served, tile by tile."""

    stand_in: NDArray[np.int64] | None
    """The row whose position stands for each row's, the first of the same designation; None for IDs."""

    edges: NDArray[np.int64]
    """Where in ``order`` the jobs begin, and the end of the last, (jobs + 1,)."""

    def jobs(self) -> Iterator[ExportJob]:
        """Yield the jobs."""
        for number, (first, end) in enumerate(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True)):
            yield self._job(number, self.order[first:end])

    def _job(self, number: int, rows: NDArray[np.int64]) -> ExportJob:
        requests, answers = self.requests, self.answers
        tile_id = answers.tile_id[rows]
        shards = {tile: self.output.archive / str(self.tiles[tile].shard) for tile in np.unique(tile_id).tolist()}
        ra = dec = None
        if self.stand_in is not None and requests.ra is not None and requests.dec is not None:
            ra, dec = np.mod(requests.ra[self.stand_in[rows]], 360.0), requests.dec[self.stand_in[rows]]
        sizes = None
        if requests.sizes is not None and self.output.pack != "hdf5":
            sizes = Sizes(requests.sizes.x[rows], requests.sizes.y[rows])
        return ExportJob(number, self.output, shards, rows, tile_id, answers.key[rows], ra, dec, sizes)


def make_plan(archive: Archive, requests: RequestList, output: Output) -> Plan:
    """Find every row's tile, and cut the rows in the order they are stored into jobs.

    Raises
    ------
    RequestError
        The rows have several sizes, and are to be packed into HDF5.
    """
    n = len(requests)
    answers = Answers(
        outcome=requests.outcome.copy(),
        key=np.zeros(n, dtype=np.int64),
        tile_id=np.full(n, -1, dtype=np.int32),
        shape=np.zeros((n, 2), dtype=np.int32),
        plain=np.ones(n, dtype=bool),
        piece=np.full(n, -1, dtype=np.int32),
        place=np.full(n, -1, dtype=np.int32),
    )
    asked = np.flatnonzero(requests.outcome == Outcome.DONE)
    by_id = requests.object_id is not None
    place, stand_in = (_place_objects if by_id else _place_positions)(archive, requests, asked, answers)
    served = answers.outcome[asked] == Outcome.DONE
    asked, place = asked[served], place[served]
    in_order = np.argsort(place, kind="stable")
    order, place = asked[in_order], place[in_order]
    answers.outcome[order] = Outcome.FAILED
    edges = _edges(answers.tile_id[order], place)
    with Index(archive.path) as index:
        tiles = {tile.tile_id: tile for tile in index.tiles()}
        if not by_id and index.settings and index.settings.layout != "mosaic":
            raise RequestError(f"the archive {archive.path} is no mosaic and cannot cut at positions: give object IDs")
    plan = Plan(requests, output, answers, tiles, order, stand_in, edges)
    return _with_one_size(plan) if output.pack == "hdf5" else plan


def _place_objects(
    archive: Archive, requests: RequestList, asked: NDArray[np.intp], answers: Answers
) -> tuple[NDArray[np.int64], None]:
    """Find objects by their IDs; return each row's place in the order in which the archive has them."""
    assert requests.object_id is not None
    answers.key[:] = requests.object_id
    unique, inverse = np.unique(requests.object_id[asked], return_inverse=True)
    places = archive.reader.find(unique)
    outcome = np.full(len(unique), Outcome.DONE, dtype=np.uint8)
    for status, skipped in SKIPPED.items():
        outcome[places.status == status] = skipped
    outcome[places.tile_id < 0] = Outcome.NOT_FOUND
    answers.outcome[asked] = outcome[inverse]
    answers.tile_id[asked] = places.tile_id[inverse]
    return _ranks(np.lexsort((places.row, places.tile_id)))[inverse], None


def _place_positions(
    archive: Archive, requests: RequestList, asked: NDArray[np.intp], answers: Answers
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the tiles of positions; return each row's place in the order to serve them in, and its stand-in."""
    assert requests.ra is not None
    assert requests.dec is not None
    answers.key[asked] = names.position_keys(requests.ra[asked], requests.dec[asked])
    _, first, inverse = np.unique(answers.key[asked], return_index=True, return_inverse=True)
    ra, dec = np.mod(requests.ra[asked[first]], 360.0), requests.dec[asked[first]]
    tile_id = np.empty(len(ra), dtype=np.int64)
    for begin in range(0, len(ra), POSITIONS_AT_ONCE):
        some = slice(begin, begin + POSITIONS_AT_ONCE)
        tile_id[some] = archive.reader.tiles_at(ra[some], dec[some])
    answers.tile_id[asked] = tile_id[inverse]
    answers.outcome[asked] = np.where(tile_id < 0, Outcome.OFF_TILES, Outcome.DONE)[inverse]
    stand_in = np.full(len(requests), -1, dtype=np.int64)
    stand_in[asked] = asked[first][inverse]
    return _ranks(np.lexsort((ra, np.floor(dec / SEARCH_BLOCK), tile_id)))[inverse], stand_in


def _ranks(order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the place of each element in an order."""
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def _edges(tile_id: NDArray[np.int32], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut rows into jobs: between tiles if a job is half full there, and never between the rows of one object."""
    n = len(place)
    new_object = np.concatenate([[0], np.flatnonzero(np.diff(place)) + 1, [n]])
    new_tile = np.concatenate([[0], np.flatnonzero(np.diff(tile_id)) + 1, [n]])
    edges = [0]
    while edges[-1] < n:
        first = edges[-1]
        tile = new_tile[np.searchsorted(new_tile, first + ROWS_PER_JOB, side="right") - 1]
        if tile < first + ROWS_PER_JOB // 2:
            number = np.searchsorted(new_object, first + ROWS_PER_JOB, side="right") - 1
            tile = new_object[number] if new_object[number] > first else new_object[number + 1]
        edges.append(int(tile))
    return np.array(edges, dtype=np.int64)


def _with_one_size(plan: Plan) -> Plan:
    """Settle the size of all cutouts in pixels, by the first tile's pixel scale."""
    size, sizes = plan.output.size, plan.requests.sizes
    if len(plan.order) == 0:
        return plan
    if sizes is not None:
        own = np.unique(np.column_stack([sizes.y, sizes.x])[plan.order], axis=0, equal_nan=True)
        if len(own) > 1:
            raise RequestError(
                f"the list has {len(own)} sizes, and the cutouts of an HDF5 pack are of one size: "
                "make the columns XSIZE and YSIZE the same everywhere, leave them out, or pack a webdataset"
            )
        if not np.isnan(own[0, 0]):
            size = f"{own[0, 0]}arcmin", f"{own[0, 1]}arcmin"
    if size is None:
        return plan
    tile = plan.tiles[int(plan.answers.tile_id[plan.order[0]])]
    shape = parse_shape(size, pixel_scale(plan.output.archive / str(tile.shard)))
    return replace(plan, output=replace(plan.output, size=shape))


def _options(plan: Plan) -> dict[str, Any]:
    """Return what decides on the content of the files."""
    output = plan.output
    built = [[tile.name, tile.shard, tile.checksum] for tile in plan.tiles.values() if tile.shard]
    return {
        "list": plan.requests.fingerprint(),
        "archive": str(output.archive.absolute()),
        "shards": f"sha256:{hashlib.sha256(json.dumps(sorted(built)).encode()).hexdigest()}",
        "size": None if output.size is None else list(output.size),
        "bands": list(output.bands),
        "formats": list(output.formats),
        "prefix": output.prefix,
        "pack": output.pack,
        "style": json.loads(json.dumps(asdict(output.style))),  # as it is read back: lists for tuples
    }


@contextmanager
def _folder(directory: Path, options: dict[str, Any]) -> Iterator[None]:
    """Hold an export's folder: no other process writes in it, and nothing unfinished is left in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            _lock(descriptor, directory)
            _settle_options(directory, options)
            _open_seal(directory)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArchiveBuilderError(f"{error.filename or directory}: cannot be written: {one_line(error)}") from None


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArchiveBuilderError(f"{directory}: another export is at work in it: wait for its end") from None
    except OSError:
        pass  # a file system without locks


def _settle_options(directory: Path, options: dict[str, Any]) -> None:
    """Remember what the export makes, or compare with it."""
    path = directory / OPTIONS_NAME
    if not path.exists():
        foreign = [entry.name for entry in os.scandir(directory) if not TEMPORARY.fullmatch(entry.name)]
        if foreign:
            raise RequestError(f"{directory} holds {foreign[0]} and is no export: give a new folder")
        write_whole(path, (json.dumps(options, indent=1) + "\n").encode())
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in options if known[key] != options[key]]
    except (ValueError, KeyError, TypeError):
        raise RequestError(f"{path} is damaged: give a new folder") from None
    if changed:
        changes = "; ".join(_change(key, known[key], options[key]) for key in changed)
        raise RequestError(f"{directory} holds an export with other options: {changes}: give a new folder")


def _change(key: str, before: Any, now: Any) -> str:
    """Say how an option differs."""
    if key == "list":
        return "the list was another"
    if key == "shards":
        return "the archive's shards have changed since"
    return f"{key} was {json.dumps(before)}, is {json.dumps(now)}"


def _open_seal(directory: Path) -> None:
    """Remove the manifest, which says that all is whole, and what a dead run left in the making."""
    if not all((directory / name).exists() for name in MANIFESTS):
        for folder, _, files in os.walk(directory):
            for name in files:
                if TEMPORARY.fullmatch(name):
                    Path(folder, name).unlink(missing_ok=True)
    for name in reversed(MANIFESTS):
        (directory / name).unlink(missing_ok=True)


def _run(plan: Plan, workers: int, on_start: Callable[[int], None], on_rows: Callable[[int], None]) -> ExportReport:
    """Do the jobs, and write the manifest."""
    on_start(len(plan.order))
    report = ExportReport(str(plan.output.directory), rows=len(plan.requests))
    for result in run_jobs(run_job, plan.jobs(), min(workers, len(plan.edges) - 1), _lost):
        if result.error is not None:
            raise result.error
        _take(plan.answers, result)
        report.made += result.made
        report.kept += result.kept
        on_rows(len(result.rows))
    tile_names = {tile_id: tile.name for tile_id, tile in plan.tiles.items()}
    write_manifest(plan.requests, plan.answers, tile_names, plan.output)
    counts = np.bincount(plan.answers.outcome, minlength=len(Outcome)).tolist()
    report.done = counts[Outcome.DONE]
    report.failures = {REASONS[o]: counts[o] for o in Outcome if o != Outcome.DONE and counts[o]}
    if messages := plan.answers.messages:
        report.first_error = messages[min(messages)]
    return report


def _lost(job: ExportJob, cause: str) -> JobResult:
    """Return the result of a job whose worker died."""
    result = JobResult.of(job)
    result.fail(list(range(len(job.rows))), Outcome.FAILED, f"{cause}: repeat the export")
    return result


def _take(answers: Answers, result: JobResult) -> None:
    """Note what became of a job's rows."""
    rows = result.rows
    answers.outcome[rows] = result.outcome
    answers.shape[rows] = result.shape
    answers.plain[rows] = result.plain
    answers.piece[rows] = result.number
    answers.place[rows] = result.place
    answers.messages.update(result.messages)
