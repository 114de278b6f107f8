"""One job of a bulk request, a run of rows that lie together: run anywhere, a function of plain values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from archive_builder.exporting.packs import BYTES_AT_ONCE, PACKS, Hdf5Piece, Piece, encode, piece_name
from archive_builder.exporting.request_list import Outcome, Sizes
from archive_builder.geometry import Shape, parse_shape
from archive_builder.measure.quality import Status
from archive_builder.serve.archive import Archive
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.style import Style
from archive_builder.store.shard_reader import Shard

SKIPPED = {Status.NOISE: Outcome.NOISE, Status.BLANK: Outcome.BLANK, Status.OUTSIDE: Outcome.OUTSIDE}
"""What becomes of a row whose object was skipped."""


@dataclass(frozen=True)
class Output:
    """What is made of every row."""

    archive: Path
    """The archive's folder."""

    directory: Path
    """Where the files go."""

    formats: tuple[str, ...]
    """Names of formats."""

    bands: tuple[str, ...]
    """In the order wanted."""

    size: tuple[int | str, int | str] | None
    """Height and width of the rows without a size of their own; None for the archive's."""

    prefix: str
    """What the name of every file begins with."""

    pack: str | None
    """What the files are packed into, if anything."""

    style: Style
    """How pictures look."""


@dataclass(frozen=True)
class ExportJob:
    """Rows to serve; parallel arrays in which the rows of one object are neighbours, in the order of the list."""

    number: int
    """Of the job, from 0: the number of its piece, if the output is packed."""

    output: Output
    """What is made."""

    shards: dict[int, Path]
    """The shard of every tile in it."""

    rows: NDArray[np.int64]
    """Row of the list, (n,)."""

    tile_id: NDArray[np.int32]
    """(n,)."""

    key: NDArray[np.int64]
    """Object ID, or the number of the position's designation, (n,)."""

    ra: NDArray[np.float64] | None
    """Deg, of the position; None for IDs, (n,)."""

    dec: NDArray[np.float64] | None
    """Deg, of the position; None for IDs, (n,)."""

    sizes: Sizes | None
    """The rows' own."""


@dataclass
class JobResult:
    """What became of a job's rows; parallel arrays as in the job."""

    number: int
    """Of the job."""

    rows: NDArray[np.int64]
    """Row of the list, (n,)."""

    outcome: NDArray[np.uint8]
    """`Outcome`, (n,)."""

    shape: NDArray[np.int32]
    """Rows and columns of what was served, (n, 2)."""

    plain: NDArray[np.bool_]
    """Whether the files are called after the object alone, without the size, (n,)."""

    place: NDArray[np.int32]
    """Of the cutout in the job's piece, if the output is packed, (n,)."""

    messages: dict[int, str] = field(default_factory=dict)
    """What is broken, by row of the list."""

    made: int = 0
    """Files written."""

    kept: int = 0
    """Files that were there already."""

    error: ArchiveBuilderError | None = None
    """Why nothing more can be written at all."""

    @classmethod
    def of(cls, job: ExportJob) -> JobResult:
        """Return the result of a job at which nothing has been done."""
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
        """Note that some rows, by their numbers in the job, have no cutout."""
        self.outcome[numbers] = outcome
        if outcome == Outcome.FAILED:
            self.messages.update(dict.fromkeys(self.rows[numbers].tolist(), message))

    def serve(self, sample: names.Sample, place: int = -1) -> None:
        """Note that the rows of a sample have their cutout."""
        self.outcome[sample.numbers] = Outcome.DONE
        self.shape[sample.numbers] = sample.shape
        self.plain[sample.numbers] = sample.plain
        self.place[sample.numbers] = place


def run_job(job: ExportJob) -> JobResult:
    """Make what is missing of a job's files, or its piece; failures are in the result."""
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
    """Put together the rows that ask for the same object at the same size."""
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
            position = None if job.ra is None or job.dec is None else (float(job.ra[first]), float(job.dec[first]))
            yield names.Sample(key, position, shape, count == 0, numbers, int(job.rows[first]))


def _row_shape(job: ExportJob, number: int) -> Shape:
    """Return the size of a row's cutout in pixels."""
    shard = job.shards[int(job.tile_id[number])]
    if job.sizes is not None and not np.isnan(job.sizes.x[number]):
        return _shape(f"{job.sizes.y[number]!s}arcmin", f"{job.sizes.x[number]!s}arcmin", shard)
    if job.output.size is None:
        return (_archive(job.output.archive).size,) * 2
    return _shape(*job.output.size, shard)


@lru_cache(maxsize=4096)
def _shape(height: int | str, width: int | str, shard_path: Path) -> Shape:
    """Return a size in pixels of one tile; a size in pixels needs no tile to be there."""
    in_pixels = isinstance(height, int) and isinstance(width, int)
    return parse_shape((height, width), 1.0 if in_pixels else pixel_scale(shard_path))


@cache
def pixel_scale(shard_path: Path) -> float:
    """Return a tile's pixel scale in arcsec."""
    with Shard(shard_path) as shard:
        return shard.info.pixel_scale


@cache
def _archive(path: Path) -> Archive:
    """Return the archive, which stays open as long as the process lives."""
    return Archive(path)


def _cutout(output: Output, sample: names.Sample) -> Cutout:
    archive = _archive(output.archive)
    bands = () if _needs_no_pixels(output, archive) else output.bands
    if sample.position is None:
        return archive.get(sample.key, size=sample.shape, bands=bands)
    return archive.at(sample.position, size=sample.shape, bands=bands)


def _needs_no_pixels(output: Output, archive: Archive) -> bool:
    """Tell whether all that is made are pictures in the survey's own colours."""
    style, has_color = output.style, archive.reader.settings.has_color
    own_colors = style.color == "survey" or (style.color == "auto" and style.rgb is None and has_color)
    return own_colors and set(output.formats) <= {"png", "tiff"}


def _cutouts(
    output: Output, samples: list[names.Sample]
) -> Iterator[tuple[names.Sample, Cutout | ArchiveBuilderError]]:
    """Cut samples of one kind one after another."""
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


def _of_one_kind(samples: list[names.Sample]) -> Iterator[list[names.Sample]]:
    """Split samples where the size changes, or objects follow positions."""
    for _, group in groupby(samples, lambda sample: (sample.shape, sample.position is None)):
        yield list(group)


@contextmanager
def _failures_noted(sample: names.Sample, result: JobResult) -> Iterator[None]:
    """Turn what is the matter with one sample into its rows' outcome; what is the matter with all goes on."""
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
    """Write the files of every sample that are not there."""
    for sample in samples:
        folder = output.directory / sample.folder
        files = names.file_names(sample.name, output.prefix, output.formats, output.bands)
        missing = {name for name in files if not _is_there(folder / name)}
        with _failures_noted(sample, result):
            if missing:
                contents = encode(_cutout(output, sample), output.formats, output.style)
                for name, content in zip(files, contents, strict=True):
                    if name in missing:
                        writer.put(folder / name, content)
            result.made += len(missing)
            result.kept += len(files) - len(missing)
            result.serve(sample)


def _is_there(path: Path) -> bool:
    """Tell whether a file is there; an empty one is what a power failure leaves of it."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _make_piece(job: ExportJob, samples: list[names.Sample], result: JobResult) -> None:
    """Write a job's piece, if it is not there with everything that belongs in it."""
    pack = PACKS[job.output.pack or ""]
    path = job.output.directory / piece_name(job.output.prefix, job.number, pack.suffix)
    if pack.holds(path, samples):
        served, result.kept = samples, 1
    else:
        served = _write_piece(job.output, pack, path, samples, result)
        result.made = 1 if served else 0
    for place, sample in enumerate(served):
        result.serve(sample, place)


def _write_piece(
    output: Output, pack: type[Piece], path: Path, samples: list[names.Sample], result: JobResult
) -> list[names.Sample]:
    """Write a piece; return the samples in it."""
    served = []
    with pack(path, output.formats, output.style) as piece:
        for alike in _of_one_kind(samples):
            ny, nx = alike[0].shape
            step = max(1, BYTES_AT_ONCE // (4 * len(output.bands) * ny * nx))
            for first in range(0, len(alike), step):
                some = alike[first : first + step]
                served += _add_together(output, piece, some) or _add_each(output, piece, some, result)
    return served


def _add_together(output: Output, piece: Piece, samples: list[names.Sample]) -> list[names.Sample]:
    """Put the cutouts of objects into an HDF5 piece all at once; return those in it: all, or none if one fails."""
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
    """Put cutouts into a piece one by one; return the samples in it."""
    served = []
    for sample, cutout in _cutouts(output, samples):
        with _failures_noted(sample, result):
            if isinstance(cutout, ArchiveBuilderError):
                raise cutout
            piece.add(sample, cutout)
            served.append(sample)
    return served
