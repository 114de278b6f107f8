"""The build of one tile's shard: a function of plain values that can run anywhere."""

from __future__ import annotations

import ctypes
import hashlib
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.builder.cut_headers import check_cut_headers, header_texts
from archive_builder.builder.memory import picture_rows, strip_that_fits
from archive_builder.builder.sweep import STRIP_ROWS, Cut, Sweep, Verdict
from archive_builder.errors import ArchiveBuilderError, TileError, one_line
from archive_builder.measure.noise import cell_rms, sample_rows
from archive_builder.measure.owners import edge_depth, owns
from archive_builder.measure.quality import Status, Thresholds, count_reasons
from archive_builder.measure.quantize import (
    WEIGHT_STEP,
    Codec,
    Flags,
    Flags64,
    LogScaled,
    Lossless,
    NoiseScaled,
    step_for,
    step_without_noise,
)
from archive_builder.object_ids import IdKind, ObjectIds, kind_of
from archive_builder.store.file_names import shard_name
from archive_builder.store.format import checksum
from archive_builder.store.records import ObjectTable, ShardInfo
from archive_builder.store.shard_writer import ShardWriter
from archive_builder.survey.catalog import Catalog, read_catalog
from archive_builder.survey.color_image import Picture
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.image import NoHduError
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

T = TypeVar("T")

MOST_ROUNDED = 1e-3
"""Maximum fraction of pixels that float32 may round by more than half a quantization step."""
NOTHING: NDArray[np.int64] = np.empty(0, dtype=np.int64)
"""No object IDs."""


@dataclass(frozen=True)
class Rows:
    """Rows of one tile in a file that holds the rows of all tiles.

    The file has three columns one after another, object ID, RA and Dec (float64, deg, ICRS), sorted by tile.
    """

    path: Path
    """The file."""

    start: int
    """First row."""

    stop: int
    """Row after the last one."""

    total: int
    """Rows in the file."""

    stamp: tuple[int, int]
    """`file_stamp` of the catalogue before its rows were read."""

    id_type: str = "<i8"
    """Type of the object IDs, ``<U11`` for text of up to 11 characters."""

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self) -> Catalog:
        """Return the rows.

        Raises
        ------
        TileError
            The file cannot be read.
        """
        try:
            ids = self._column(self.id_type, 0)
            end = np.dtype(self.id_type).itemsize * self.total
            ra, dec = (self._column("f8", end + 8 * column * self.total) for column in range(2))
        except OSError as error:
            raise TileError(f"rows {self.path}: cannot be read ({one_line(error)}): build it again") from None
        return Catalog(ids, ra, dec)

    def _column(self, of: str, first_byte: int) -> NDArray[Any]:
        offset = first_byte + np.dtype(of).itemsize * self.start
        return np.fromfile(self.path, dtype=of, count=len(self), offset=offset)


@dataclass(frozen=True)
class TileJob:
    """Parameters of one tile's build."""

    files: TileFiles
    """Source files of the tile."""

    recipe: Recipe
    """Recipe of the archive."""

    size: int
    """Side of a cutout, px, the same for the whole archive."""

    archive: Path
    """Folder of the archive, for the draft of the shard."""

    generation: int
    """Number of shards the tile has had, this one included."""

    id_kind: IdKind | None = None
    """Kind of the archive's object IDs; None for the kind of the catalogue."""

    contents: bool = False
    """True to hash the contents of the files too."""

    strip_rows: int = STRIP_ROWS
    """Rows read at a time if ``memory`` is None. The shard does not depend on this number."""

    memory: int | None = None
    """Maximum memory of the process, bytes."""

    elsewhere: ObjectIds = field(default_factory=lambda: NOTHING)
    """Object IDs that the catalogue lists and another tile owns, (n,)."""

    rows: Rows | None = None
    """Rows of the tile, if one catalogue serves all tiles."""

    listing: str | None = None
    """`digest` of the objects by which the owners of the IDs were decided; None if they were not."""

    def __str__(self) -> str:
        """Return the tile's name, for a log."""
        return f"tile {self.files.tile}"

    @property
    def shard(self) -> str:
        """Path of the shard below the archive."""
        return shard_name(self.files.tile, self.generation)


@dataclass(frozen=True)
class TileResult:
    """Outcome of a tile's build; a failure is a result too."""

    tile: str
    """Name of the tile."""

    error: str | None = None
    """Reason of the failure: there is no shard, and the other values are zero."""

    shard: str = ""
    """Path of the shard below the archive."""

    draft: str = ""
    """Path of the draft below the archive, until the shard has its name."""

    input_hash: str | None = None
    """Hash of the contents of the files, if `TileJob.contents` is true."""

    missing: tuple[str, ...] = ()
    """Bands that the tile lacks."""

    stored: int = 0
    """Objects with a cutout."""

    skipped: Mapping[str, int] | None = None
    """Catalogue rows without a cutout, by reason."""

    footprint: tuple[tuple[float, float], ...] = ()
    """Corners of the tile, RA and Dec, deg, ICRS."""

    bytes: int = 0
    """Size of the shard, bytes."""

    checksum: str = ""
    """Checksum of the shard."""

    seconds: float = 0.0
    """Wall time, s."""

    peak_memory: int = 0
    """Peak memory of the process, bytes."""


def lost_tile(job: TileJob, cause: str) -> TileResult:
    """Return the result of a job whose worker died."""
    return TileResult(job.files.tile, error=cause)


def run_job(job: TileJob) -> TileResult:
    """Build one tile; every error is returned as a result."""
    started = time.perf_counter()
    result = attempt(lambda: build_tile(job), job.archive / job.shard)
    give_back_memory()
    if isinstance(result, str):
        return TileResult(job.files.tile, error=result)
    return replace(result, seconds=time.perf_counter() - started, peak_memory=peak_memory())


def attempt(work: Callable[[], T], place: Path) -> T | str:
    """Run a tile's work; return its value, or an error as one line that names the place.

    Parameters
    ----------
    work : callable
    place : Path
        File being written: an error of the operating system without a file name is about this file.
    """
    try:
        return work()
    except ArchiveBuilderError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or place}: {one_line(error)}"
    except MemoryError:
        return "out of memory: use fewer --workers"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"bug: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {one_line(error)}"


def build_tile(job: TileJob) -> TileResult:
    """Read one tile and write the draft of its shard; see :func:`make_shard`.

    Raises
    ------
    TileError
        The files of the tile cannot be used.
    """
    return make_shard(job)[0]


def make_shard(job: TileJob) -> tuple[TileResult, ObjectTable, Verdict]:
    """Read one tile and write the draft of its shard; return also all catalogued objects and their verdict.

    Only the process with the archive's lock may give the draft its name: this may run in a worker believed dead.

    Raises
    ------
    TileError
        The files of the tile cannot be used.
    """
    files, recipe = job.files, job.recipe
    fingerprint = files.fingerprint()
    if job.rows and job.rows.stamp != file_stamp(files.catalog):
        raise TileError(f"catalogue {files.catalog}: changed during the build: build it again")
    catalog = job.rows.read() if job.rows else read_catalog(files.catalog, recipe.catalog, files.tile, job.id_kind)
    input_hash = files.content_hash() if job.contents else None
    path = job.archive / job.shard
    with Tile.of(files, recipe, planes=True) as tile:
        strip_rows = job.strip_rows
        if job.memory is not None:
            rows = picture_rows(files, tile.shape)
            strip_rows = strip_that_fits(tile.shape, recipe, job.size, job.memory, rows, tile.pixel_bytes())
        objects = place(catalog, tile)
        cut = _cut(job, tile)
        depth = edge_depth(objects.x, objects.y, tile.shape, cut.pixel_scale)
        if job.listing not in (None, digest(catalog.object_id, depth)):
            raise TileError("the catalogue or the WCS of this tile changed during the build: build it again")
        status = first_status(catalog, depth, job.elsewhere)
        codecs = choose_codecs(tile, recipe.storage.quantization, cut.mesh, recipe.kept_planes)
        info = _info(job, tile, cut, fingerprint, catalog)
        headers = header_texts(tile)
        check_cut_headers(tile, headers["SCI"], job.size)
        with ShardWriter(path, info, headers, codecs) as shard:
            if files.color is not None:
                with Picture(files.color, tile.shape) as picture:
                    shard.add_color(picture.rows, tile.shape)
            verdict = Sweep(tile, objects, cut, codecs, shard, status).run(strip_rows)
            if files.fingerprint() != fingerprint:
                raise TileError("a file of this tile changed while it was read: build it again")
            skipped = np.flatnonzero(verdict.status)
            skipped = skipped[np.argsort(objects.object_id[skipped], kind="stable")]
            shard.finish(objects.take(verdict.order), objects.take(skipped), verdict.status[skipped])
            result = TileResult(
                tile=files.tile,
                shard=job.shard,
                draft=str(shard.draft.relative_to(job.archive)),
                input_hash=input_hash,
                missing=tile.missing,
                stored=len(verdict.order),
                skipped=count_reasons(verdict.status, catalog.without_id),
                footprint=tuple((float(ra), float(dec)) for ra, dec in info.footprint),
                bytes=shard.draft.stat().st_size,
                checksum=checksum(shard.draft),
            )
            return result, objects, verdict


def first_band(files: TileFiles, recipe: Recipe) -> Tile:
    """Open the first band of a tile: its header has the place of the tile on the sky.

    Raises
    ------
    TileError
        The file cannot be used.
    """
    *others, last = files.images.items()
    for band, source in others:
        try:
            return Tile.of(replace(files, images={band: source}, planes={}), recipe)
        except NoHduError:  # the tile may lack the band
            if recipe.survey.missing_bands == "fail":
                raise
    return Tile.of(replace(files, images=dict([last]), planes={}), recipe)


def place(catalog: Catalog, tile: Tile) -> ObjectTable:
    """Return the objects of a catalogue with their pixel positions on a tile.

    Raises
    ------
    TileError
        No object lies on the tile: the catalogue is another tile's, or its positions are not in deg.
    """
    x, y = geometry.sky_to_pixel(tile.wcs, tile.shape, catalog.ra, catalog.dec)
    ny, nx = tile.shape
    if not ((x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)).any():
        ra, dec = geometry.footprint(tile.wcs, tile.shape).mean(axis=0)
        first = np.flatnonzero(catalog.has_position)[0]
        raise TileError(
            f"none of the {int(catalog.has_position.sum())} catalogued objects lies on the tile: it is at RA {ra:.4f}, "
            f"Dec {dec:.4f}, the first object at RA {catalog.ra[first]:.4f}, Dec {catalog.dec[first]:.4f}: "
            "check that RA is in deg, not in hours, and that the catalogue is this tile's"
        )
    rms = np.full((len(x), len(tile.bands)), np.nan, dtype=np.float32)
    return ObjectTable(catalog.object_id, catalog.ra, catalog.dec, x, y, rms)


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes, and its modification time in ns."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def digest(object_id: ObjectIds, depth: NDArray[np.int32]) -> str:
    """Return a short hash of the objects of a tile: IDs and depths, in the order of the catalogue."""
    return hashlib.sha256(object_id.tobytes() + depth.tobytes()).hexdigest()[:16]


def first_status(catalog: Catalog, depth: NDArray[np.int32], elsewhere: ObjectIds = NOTHING) -> NDArray[np.uint8]:
    """Return the status of each object before the pixels are read: ``STORED`` for an object to measure.

    Parameters
    ----------
    catalog : Catalog
    depth : ndarray of int32, (N,)
        Depth of each object inside the tile, milliarcsec.
    elsewhere : ndarray of int64 or str, (n,)
        Object IDs that another tile owns.
    """
    status = np.where(catalog.has_position, Status.STORED, Status.POSITION)
    is_owner = owns(catalog.object_id, depth, np.arange(len(depth)))
    gives_way = np.isin(catalog.object_id, elsewhere) | ~is_owner
    return np.where(gives_way, Status.ELSEWHERE, status).astype(np.uint8)


def choose_codecs(tile: Tile, quantization: float | str, mesh: int, planes: Sequence[str] = ()) -> dict[str, Codec]:
    """Return the codec of each plane; the quantization steps of the image follow from a sample of its rows."""
    every = range(len(tile.bands))
    ones = (1.0,) * len(tile.bands)
    is_lossless = isinstance(quantization, str)
    rms = [np.nan if is_lossless and "WGT" not in planes else _median_rms(tile, band, mesh) for band in every]
    if "WGT" in planes:
        tile.scale_weights([_weight_scale(tile, band, rms[band], mesh) for band in every])
    if is_lossless:
        codecs: dict[str, Codec] = {"SCI": Lossless(ones), "WGT": Lossless(ones)}
    else:
        steps = tuple(_step(tile, band, rms[band], float(quantization), mesh) for band in every)
        codecs = {"SCI": NoiseScaled(steps), "WGT": LogScaled((WEIGHT_STEP,) * len(tile.bands))}
        for band in every:
            _check_float32_holds(tile, band, steps[band], mesh)
    if "MSK" in planes:
        codecs["MSK"] = Flags64(ones) if tile.mask_dtype().itemsize > 4 else Flags(ones)
    return {plane: codecs[plane] for plane in ("SCI", *planes)}


def _median_rms(tile: Tile, band: int, mesh: int) -> float:
    """Return the median background RMS of a sample of a band's rows; NaN if it cannot be measured."""
    rms = np.concatenate([cell_rms(rows, mesh) for rows in _level_strips(tile, band, sample_rows(tile.shape[0], mesh))])
    return float(np.nanmedian(rms)) if np.isfinite(rms).any() else float("nan")


def _level_strips(tile: Tile, band: int, rows: list[tuple[int, int]]) -> Iterator[NDArray[np.float32]]:
    """Yield strips of one band, float32 (rows, nx), from which noise can be measured.

    The median level is subtracted where float32 cannot hold the pixels: rounding would hide or replace their noise.
    """
    for (y0, y1), strip in zip(rows, _strips(tile, band, rows), strict=True):
        exact = tile.read_exactly(band, y0, y1)
        known = np.isfinite(strip)
        if exact is not None and known.any():
            strip[known] = exact[known] - np.median(exact[known])
        yield strip


def _weight_scale(tile: Tile, band: int, rms: float, mesh: int) -> float:
    """Return the factor that makes a band's relative weights inverse variance: 1 / (median weight * RMS^2); else 1.

    The factor is 0 for a band without measurable noise or without weights: its weights say nothing.
    """
    parts = [tile.relative_weights(band, y0, y1) for y0, y1 in sample_rows(tile.shape[0], mesh)]
    known = [part[np.isfinite(part) & (part > 0)] for part in parts if part is not None]
    if not known:
        return 1.0
    weights = np.concatenate(known)
    return 1.0 / (float(np.median(weights)) * rms**2) if len(weights) and rms > 0 else 0.0


def _check_float32_holds(tile: Tile, band: int, step: float, mesh: int) -> None:
    """Refuse a band with pixels that float32 rounds by more than half a quantization step.

    A few bright pixels may be rounded so, up to `MOST_ROUNDED` of a sample of the rows: their error is 6e-8 of their
    value.

    Raises
    ------
    TileError
        More pixels are rounded.
    """
    rounded = known = 0
    worst = 0.0
    for y0, y1 in sample_rows(tile.shape[0], mesh):
        exact = tile.read_exactly(band, y0, y1)
        if exact is None:
            return
        (strip,) = _strips(tile, band, [(y0, y1)])
        exact = exact[np.isfinite(strip)].astype(np.longdouble)
        with np.errstate(over="ignore"):
            error = np.abs(exact.astype(np.float32) - exact)
        rounded, known = rounded + int((error > step / 2).sum()), known + len(error)
        worst = max(worst, float(error.max(initial=0.0)))
    if rounded > MOST_ROUNDED * known:
        raise TileError(
            f"band {tile.bands[band]}: float32 would round its pixels by up to {worst:.3g}, more than half a "
            f"quantization step of {step:.3g}: subtract the constant level of the image, or lower storage.quantization"
        )


def _step(tile: Tile, band: int, rms: float, levels: float, mesh: int) -> float:
    """Return the quantization step of one band from its median background RMS."""
    if np.isfinite(rms):
        return step_for(rms, levels)
    everything = [(y, min(y + mesh, tile.shape[0])) for y in range(0, tile.shape[0], mesh)]
    largest = 0.0
    for rows in _strips(tile, band, everything):
        finite = rows[np.isfinite(rows)]
        largest = max(largest, float(np.abs(finite).max(initial=0.0)))
    return step_without_noise(largest)


def _strips(tile: Tile, band: int, rows: list[tuple[int, int]]) -> Iterator[NDArray[np.float32]]:
    """Yield strips of one band, float32 (rows, nx)."""
    for y0, y1 in rows:
        strip = np.empty((y1 - y0, tile.shape[1]), dtype=np.float32)
        tile.read_band(band, y0, y1, strip)
        yield strip


def _cut(job: TileJob, tile: Tile) -> Cut:
    """Return the cut of a tile.

    Raises
    ------
    TileError
        The recipe's size is another number of pixels on this tile than in the archive.
    """
    recipe, scale = job.recipe, geometry.pixel_scale(tile.wcs)
    wanted = geometry.parse_shape(recipe.cutout.size, scale)[0]
    # A distortion changes the scale of a tile a little, and so the rounding of an angle: the archive's size applies.
    if abs(wanted - job.size) > 1:
        raise TileError(
            f'cutout.size {recipe.cutout.size} is {wanted} px at its pixel scale of {scale:.4f}", but the '
            f"archive's cutouts are {job.size} px: give cutout.size in pixels, or leave the tile out"
        )
    thresholds = Thresholds(
        dict(zip(tile.bands, tile.zero_points, strict=True)),
        recipe.quality.max_background_rms,
        recipe.quality.min_depth,
        recipe.quality.max_blank_fraction,
    )
    return Cut(job.size, recipe.quality.background_mesh, scale, thresholds)


def _info(job: TileJob, tile: Tile, cut: Cut, fingerprint: str, catalog: Catalog) -> ShardInfo:
    recipe = job.recipe
    return ShardInfo(
        survey=recipe.survey.name,
        tile=job.files.tile,
        generation=job.generation,
        bands=tile.bands,
        planes=("SCI", *recipe.kept_planes, *(["COLOR"] if job.files.color else [])),
        layout=recipe.storage.layout,
        quantization=str(recipe.storage.quantization),
        size=job.size,
        height=tile.shape[0],
        width=tile.shape[1],
        id_kind=kind_of(catalog.object_id),
        pixel_scale=cut.pixel_scale,
        zero_point=np.array(tile.zero_points),
        footprint=geometry.footprint(tile.wcs, tile.shape),
        input_fingerprint=fingerprint,
        recipe=json.dumps(recipe.pixel_settings(), sort_keys=True),
        without_id=catalog.without_id,
    )


def give_back_memory() -> None:
    """Return freed memory to the system: otherwise gaps raise the next tile's peak by 20 MB."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """Return the peak memory of this process, bytes."""
    try:
        # getrusage would start at the peak of the parent process.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
