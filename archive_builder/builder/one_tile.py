"""The build of one tile's shard: a function of plain values that can run anywhere."""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from archive_builder import geometry
from archive_builder.builder.codecs import choose_codecs
from archive_builder.builder.cut_headers import check_cut_headers, header_texts
from archive_builder.builder.listing import NOTHING, Rows, digest, file_stamp, first_status, place
from archive_builder.builder.memory import picture_rows, strip_that_fits
from archive_builder.builder.sweep import STRIP_ROWS, Cut, Sweep, Verdict
from archive_builder.errors import ArchiveBuilderError, TileError, one_line
from archive_builder.measure.owners import edge_depth
from archive_builder.measure.quality import Thresholds, count_reasons
from archive_builder.object_ids import IdKind, ObjectIds, kind_of
from archive_builder.store.file_names import shard_name
from archive_builder.store.format import checksum
from archive_builder.store.records import ObjectTable, ShardInfo
from archive_builder.store.shard_writer import ShardWriter
from archive_builder.survey.catalog import Catalog, read_catalog
from archive_builder.survey.color_image import Picture
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

T = TypeVar("T")


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
