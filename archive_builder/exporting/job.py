"""One job of a bulk request: neighbouring rows, served by a function of plain values that runs in any process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from archive_builder.choices import PICTURE_FORMATS
from archive_builder.errors import (
    ArchiveBuilderError,
    ArchiveError,
    CutoutTooLargeError,
    ObjectNotFoundError,
    ObjectSkippedError,
    PositionOutsideError,
    RequestError,
)
from archive_builder.exporting import names
from archive_builder.exporting.files import FileWriter
from archive_builder.exporting.output import Output
from archive_builder.exporting.packs import BYTES_AT_ONCE, PACKS, Hdf5Piece, Piece, encode, piece_name
from archive_builder.exporting.request_list import Outcome, Sizes
from archive_builder.geometry import Shape, parse_shape
from archive_builder.measure.quality import Status
from archive_builder.serve.archive import Archive
from archive_builder.serve.cutout import Cutout
from archive_builder.store.shard_reader import Shard

SKIPPED = {
    Status.NOISE: Outcome.NOISE,
    Status.BLANK: Outcome.BLANK,
    Status.OUTSIDE: Outcome.OUTSIDE,
    Status.POSITION: Outcome.POSITION,
}
"""Outcome of a row by the status of its object."""


@dataclass(frozen=True)
class ExportJob:
    """Rows to serve; parallel arrays in the order of the archive. Rows of one object are neighbours."""

    number: int
    """Number of the job, from 0, and of its piece if the output is packed."""

    output: Output
    """Output of every row."""

    shards: dict[int, Path]
    """Shard of each tile."""

    rows: NDArray[np.int64]
    """Row of the list, (n,)."""

    tile_id: NDArray[np.int32]
    """Tile, (n,)."""

    key: NDArray[np.int64]
    """Object ID, or number of the position's designation, (n,)."""

    sky: NDArray[np.float64] | None
    """RA and Dec of the position, deg, (n, 2); None for IDs."""

    sizes: Sizes | None
    """Sizes of the rows; None if no row has a size of its own."""

    own: pa.Table | None = None
    """The list's own columns, (n rows); None without a pack."""


@dataclass
class JobResult:
    """Result of a job; parallel arrays as in the job."""

    number: int
    """Number of the job."""

    rows: NDArray[np.int64]
    """Row of the list, (n,)."""

    outcome: NDArray[np.uint8]
    """`Outcome`, (n,)."""

    shape: NDArray[np.int32]
    """Rows and columns of the cutout, px, (n, 2)."""

    plain: NDArray[np.bool_]
    """True if the file name has no size, (n,)."""

    place: NDArray[np.int32]
    """Place of the cutout in the job's piece; -1 without a pack, (n,)."""

    messages: dict[int, str] = field(default_factory=dict)
    """Error messages by row of the list."""

    made: int = 0
    """Files, or pieces, written."""

    kept: int = 0
    """Files, or pieces, of an earlier run."""

    is_lost: bool = False
    """True if the worker died."""

    error: ArchiveBuilderError | None = None
    """Error that ends the export: nothing can be written."""

    @classmethod
    def of(cls, job: ExportJob) -> JobResult:
        """Return the result of a job before any work."""
        n = len(job.rows)
        return cls(
            number=job.number,
            rows=job.rows,
            outcome=np.full(n, Outcome.FAILED, dtype=np.uint8),
            shape=np.zeros((n, 2), dtype=np.int32),
            plain=np.ones(n, dtype=bool),
            place=np.full(n, -1, dtype=np.int32),
        )

    def fail(self, numbers: list[int], outcome: Outcome, message: str = "") -> None:
        """Record that rows, by their numbers in the job, have no cutout."""
        self.outcome[numbers] = outcome
        if outcome == Outcome.FAILED:
            self.messages.update(dict.fromkeys(self.rows[numbers].tolist(), message))

    def serve(self, sample: names.Sample, place: int = -1) -> None:
        """Record that the rows of a sample have their cutout."""
        self.outcome[sample.numbers] = Outcome.DONE
        self.shape[sample.numbers] = sample.shape
        self.plain[sample.numbers] = sample.plain
        self.place[sample.numbers] = place


def run_job(job: ExportJob) -> JobResult:
    """Write the missing files of a job, or its piece. Errors are in the result."""
    result = JobResult.of(job)
    try:
        samples = list(_samples(job, result))
        if job.output.pack is None:
            with FileWriter() as writer:
                _make_files(job.output, samples, result, writer)
        else:
            _make_piece(job, samples, result)
    except ArchiveBuilderError as error:
        result.error = error
    return result


def _samples(job: ExportJob, result: JobResult) -> Iterator[names.Sample]:
    """Yield a sample for each object and size, with all rows that ask for it."""
    keys = job.key.tolist()
    for key, group in groupby(range(len(keys)), keys.__getitem__):
        by_shape: dict[Shape, list[int]] = {}
        for number in group:
            try:
                by_shape.setdefault(_row_shape(job, number), []).append(number)
            except (ArchiveError, RequestError) as error:
                outcome = Outcome.FAILED if isinstance(error, ArchiveError) else Outcome.BAD_SIZE
                result.fail([number], outcome, str(error))
        for count, (shape, numbers) in enumerate(by_shape.items()):
            first = numbers[0]
            position = None if job.sky is None else (float(job.sky[first, 0]), float(job.sky[first, 1]))
            yield names.Sample(key, position, shape, count == 0, numbers, int(job.rows[first]))


def _row_shape(job: ExportJob, number: int) -> Shape:
    """Return the size of a row's cutout, px."""
    shard = job.shards[int(job.tile_id[number])]
    if job.sizes is not None and not np.isnan(job.sizes.x[number]):
        return _shape(f"{job.sizes.y[number]!s}arcmin", f"{job.sizes.x[number]!s}arcmin", shard)
    if job.output.size is None:
        return (_archive(job.output.archive).size,) * 2
    return _shape(*job.output.size, shard)


@lru_cache(maxsize=4096)
def _shape(height: int | str, width: int | str, shard_path: Path) -> Shape:
    """Return a size in pixels of one tile. A size given in pixels does not open the shard."""
    in_pixels = isinstance(height, int) and isinstance(width, int)
    return parse_shape((height, width), 1.0 if in_pixels else pixel_scale(shard_path))


@cache
def pixel_scale(shard_path: Path) -> float:
    """Return the pixel scale of a tile, arcsec."""
    with Shard(shard_path) as shard:
        return shard.info.pixel_scale


@cache
def _archive(path: Path) -> Archive:
    """Return the archive; it stays open until the process ends."""
    return Archive(path)


def _cutout(output: Output, sample: names.Sample) -> Cutout:
    archive = _archive(output.archive)
    bands = () if _needs_no_pixels(output, archive) else output.bands
    if sample.position is None:
        return archive.get(sample.key, size=sample.shape, bands=bands)
    return archive.at(sample.position, size=sample.shape, bands=bands)


def _needs_no_pixels(output: Output, archive: Archive) -> bool:
    """Return True if the output is only pictures in the survey's own colours."""
    own_colors = output.style.uses_survey_colors(archive.reader.settings.has_color)
    return own_colors and output.pack != "hdf5" and set(output.formats) <= set(PICTURE_FORMATS)


def _cutouts(
    output: Output, samples: list[names.Sample]
) -> Iterator[tuple[names.Sample, Cutout | ArchiveBuilderError]]:
    """Yield the cutout of each sample, or its error. All samples have one size."""
    if samples[0].position is None:
        keys = [sample.key for sample in samples]
        reader = _archive(output.archive).reader
        yield from zip(samples, reader.get_each(keys, samples[0].shape, output.bands), strict=True)
        return
    for sample in samples:
        try:
            yield sample, _cutout(output, sample)
        except ArchiveBuilderError as error:
            yield sample, error


@contextmanager
def _failures_noted(sample: names.Sample, result: JobResult) -> Iterator[None]:
    """Turn the error of one sample into the outcome of its rows. Other errors end the job."""
    try:
        yield
    except CutoutTooLargeError:
        result.fail(sample.numbers, Outcome.TOO_LARGE)
    except ObjectNotFoundError:
        result.fail(sample.numbers, Outcome.NOT_FOUND)
    except PositionOutsideError:
        result.fail(sample.numbers, Outcome.OFF_TILES)
    except ObjectSkippedError as error:
        result.fail(sample.numbers, SKIPPED[Status[error.reason.upper()]])
    except (ArchiveError, RequestError) as error:
        result.fail(sample.numbers, Outcome.FAILED, str(error))


def _make_files(output: Output, samples: list[names.Sample], result: JobResult, writer: FileWriter) -> None:
    """Write the missing files of every sample."""
    for sample in samples:
        folder = output.directory / sample.folder
        files = names.file_names(sample.name, output.prefix, output.formats, output.bands)
        missing = {name for name in files if not _exists(folder / name)}
        with _failures_noted(sample, result):
            if missing:
                contents = encode(_cutout(output, sample), output.formats, output.style)
                for name, content in zip(files, contents, strict=True):
                    if name in missing:
                        writer.put(folder / name, content)
            result.made += len(missing)
            result.kept += len(files) - len(missing)
            result.serve(sample)


def _exists(path: Path) -> bool:
    """Return True if a file exists with content: a power failure may leave it empty."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _make_piece(job: ExportJob, samples: list[names.Sample], result: JobResult) -> None:
    """Write the piece of a job, unless it exists with all its samples."""
    pack = PACKS[job.output.pack or ""]
    path = job.output.directory / piece_name(job.output.prefix, job.number, pack.suffix)
    if pack.holds(path, samples):
        served, result.kept = samples, 1
    else:
        served = _write_piece(job, pack, path, samples, result)
        result.made = 1 if served else 0
    for place, sample in enumerate(served):
        result.serve(sample, place)


def _write_piece(
    job: ExportJob, pack: type[Piece], path: Path, samples: list[names.Sample], result: JobResult
) -> list[names.Sample]:
    """Write a piece, and return the samples in it."""
    served, output = [], job.output
    with pack(path, output.formats, output.style, job.own) as piece:
        for (ny, nx), group in groupby(samples, lambda sample: sample.shape):
            alike = list(group)
            step = max(1, BYTES_AT_ONCE // (4 * len(output.bands) * ny * nx))
            for first in range(0, len(alike), step):
                some = alike[first : first + step]
                served += _add_together(output, piece, some) or _add_each(output, piece, some, result)
    return served


def _add_together(output: Output, piece: Piece, samples: list[names.Sample]) -> list[names.Sample]:
    """Add the cutouts of objects to an HDF5 piece at once, and return their samples: all, or none if one fails."""
    if not isinstance(piece, Hdf5Piece) or samples[0].position is not None:
        return []
    keys = [sample.key for sample in samples]
    try:
        sky, data = _archive(output.archive).reader.read_objects(keys, samples[0].shape, output.bands)
    except (ArchiveError, RequestError, ObjectNotFoundError, ObjectSkippedError):
        return []
    piece.add_objects(samples, output.bands, sky, data)
    return samples


def _add_each(output: Output, piece: Piece, samples: list[names.Sample], result: JobResult) -> list[names.Sample]:
    """Add cutouts to a piece one by one, and return the samples in it."""
    served = []
    for sample, cutout in _cutouts(output, samples):
        with _failures_noted(sample, result):
            if isinstance(cutout, ArchiveBuilderError):
                raise cutout
            piece.add(sample, cutout)
            served.append(sample)
    return served
