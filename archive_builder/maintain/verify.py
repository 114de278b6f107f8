"""Verification of an archive: index against shards, checksums, pixels against the survey."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from archive_builder.builder.cut_headers import cut_offset
from archive_builder.builder.rebuild import IndexState, find_leftovers, read_index, setting_changes
from archive_builder.errors import (
    ArchiveError,
    DamagedIndexError,
    NoArchiveError,
    RequestError,
    TileError,
    one_line,
    printable,
)
from archive_builder.geometry import sky_to_pixel, window_origin
from archive_builder.measure.quality import count_reasons
from archive_builder.object_ids import KINDS
from archive_builder.run.machine import worker_processes
from archive_builder.run.pool import MOST_TOGETHER, end_if_starting, files_together, run_in_batches
from archive_builder.store.file_names import NEXT_INDEX_NAME, SHARD_FOLDER, is_shard_name, shard_files
from archive_builder.store.format import checksum, shard_format
from archive_builder.store.index import Index, object_places
from archive_builder.store.records import Settings, TileRow, elsewhere_ids
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.discovery import TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe
from archive_builder.survey.tile import WCS_TOLERANCE, Tile

SAMPLE = 4
"""Cutouts of each tile that are compared with the survey's pixels."""


@dataclass(frozen=True)
class Finding:
    """A fault of an archive."""

    kind: str
    """``shard``: build the tile again; ``index``: reindex the archive; ``orphan``: an unknown file, which the
    next build removes if a killed build left it; ``survey``: the tile cannot be compared with its source files."""

    what: str
    """Description, one line."""

    tile: str | None = None
    """Name of the tile; None for a fault of the whole archive."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", printable(self.what))


@dataclass(frozen=True)
class _Item:
    """A tile to check."""

    tile: TileRow
    """Row of the tile in the index."""

    files: TileFiles | None
    """Files of the tile in the survey; None if there is no survey or the survey lacks the tile."""


def verify(
    archive: str | Path,
    *,
    deep: bool = False,
    survey: str | Path | None = None,
    workers: int | None = None,
    on_start: Callable[[int], None] = lambda tiles: None,
    on_tile: Callable[[str], None] = lambda name: None,
) -> Iterator[Finding]:
    """Compare the index with the shards; with ``deep`` read every byte.

    Always checked: every shard exists with its size, in the current format, of its tile and generation, and with the
    archive's settings; the index has every object of the shard at its row, and no other object.

    With ``deep`` also: the structure of the index, the checksum of every shard, and if ``survey`` is given, some
    cutouts of each tile against the survey's pixels and positions.

    With several workers this starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : str or Path
        Folder of the archive.
    deep : bool
        Read every byte.
    survey : str or Path, optional
        Recipe of the survey, to compare cutouts with the survey's pixels; used with ``deep``.
    workers : int, optional
        Maximum worker processes (default: one per CPU).
    on_start : callable
        Called with the number of tiles.
    on_tile : callable
        Called with the name of each checked tile.

    Yields
    ------
    Finding
        Tiles in the order of their names. Nothing for a good archive.

    Raises
    ------
    NoArchiveError
        The folder is no archive.
    RecipeError
        The recipe of the survey cannot be used.
    RequestError
        The recipe has other settings than the archive, or the call starts processes and is not under
        ``if __name__ == "__main__"``.
    """
    end_if_starting()
    archive, processes = Path(archive), worker_processes(workers)
    recipe = None if survey is None else load_recipe(Path(survey))
    files = {} if recipe is None else {files.tile: files for files in discover(recipe).tiles}
    try:
        with Index(archive) as index:
            if recipe is not None and (changes := setting_changes(index.settings, recipe)):
                raise RequestError(
                    f"recipe {survey}: has other settings than the archive ({'; '.join(changes)}): "
                    "give the recipe that the archive was built from"
                )
            if deep:
                yield from (Finding("index", f"index {index.path}: {line}") for line in index.damage())
            yield from _check_archive(index, archive, deep, recipe, files, processes, on_start, on_tile)
    except ArchiveError as error:
        if not any(shard_files(archive)):
            raise
        yield Finding("index", str(error))


def _check_archive(
    index: Index,
    archive: Path,
    deep: bool,
    recipe: Recipe | None,
    files: Mapping[str, TileFiles],
    workers: int,
    on_start: Callable[[int], None],
    on_tile: Callable[[str], None],
) -> Iterator[Finding]:
    settings, tiles = index.settings, index.tiles()
    if not settings and not tiles and not any(shard_files(archive)):
        raise NoArchiveError(
            f"archive {archive}: nothing has been built yet: run archive-builder build RECIPE {archive}"
        )
    if settings is None or settings.format_version != shard_format()["format_version"]:
        yield Finding("index", f"index {index.path}: its settings are missing or of another format version")
        return
    built = [tile for tile in tiles if tile.shard is not None]
    on_start(len(built))
    check, lost = partial(_check_tiles, archive, settings, deep, recipe), partial(_lost, archive)
    together = files_together([tile.bytes or 0 for tile in built]) if deep else MOST_TOGETHER
    items = [_Item(tile, files.get(tile.name)) for tile in built]
    for tile, found in zip(built, run_in_batches(check, items, together, workers, lost), strict=True):
        yield from found
        on_tile(tile.name)
    with suppress(DamagedIndexError):  # the tile with a damaged row has its own finding
        objects = sum(index.objects_of(tile) for tile in built)
        if (there := index.count_objects()) != objects:
            yield Finding("index", f"index {index.path}: holds {there} objects, its tiles have {objects}")
    yield from _orphans(archive, {tile.shard for tile in tiles})


def _orphans(archive: Path, kept: Collection[str | None]) -> Iterator[Finding]:
    """Yield a finding for each item among the shards that the index does not name."""
    folder = archive / SHARD_FOLDER
    paths = sorted(folder.iterdir() if folder.is_dir() else ())
    unknown = [path for path in paths if f"{SHARD_FOLDER}/{path.name}" not in kept]
    if not unknown:
        return
    rebuild = IndexState()
    with suppress(ArchiveError):  # a damaged second index accounts for nothing
        rebuild = read_index(archive, NEXT_INDEX_NAME)
    in_rebuild, ours = rebuild.shards(), set(find_leftovers(archive, [read_index(archive), rebuild]).ours)
    for path in unknown:
        if path in ours:
            remedy = "the next build removes it"
        elif f"{SHARD_FOLDER}/{path.name}" in in_rebuild:
            remedy = "continue the rebuild with build --force"
        else:
            remedy = "no build accounts for it: move it elsewhere"
        yield Finding("orphan", f"{path}: is not in the index: {remedy}")


def _lost(archive: Path, item: _Item, cause: str) -> list[Finding]:
    """Return the finding of a tile whose worker died."""
    path = archive / str(item.tile.shard)
    return [Finding("shard", f"shard {path}: cannot be checked ({cause})", item.tile.name)]


def _check_tiles(
    archive: Path,
    settings: Settings,
    deep: bool,
    recipe: Recipe | None,
    items: Sequence[_Item],
) -> list[list[Finding]]:
    """Return the findings of each tile."""
    try:
        with Index(archive) as index:
            return [list(_check_tile(index, archive, item, settings, deep, recipe)) for item in items]
    except ArchiveError as error:  # the index, although verify() has opened it
        return [[Finding("index", str(error))], *([] for _ in items[1:])]


def _check_tile(
    index: Index,
    archive: Path,
    item: _Item,
    settings: Settings,
    deep: bool,
    recipe: Recipe | None,
) -> Iterator[Finding]:
    """Check the shard of a tile and its rows of the index."""
    tile, name = item.tile, item.tile.name
    if not is_shard_name(tile.shard, name, tile.generation):
        yield Finding("index", f"tile {name}: the index has its shard at {tile.shard!r}", name)
        return
    path = archive / str(tile.shard)
    try:
        size = path.stat().st_size if path.is_file() else 0
        if deep and size == tile.bytes and checksum(path) != tile.checksum:
            yield Finding("shard", f"shard {path}: its checksum is not {tile.checksum}: it is damaged", name)
            return
        with Shard(path) as shard:
            if shard.info.id_kind != settings.id_kind:
                text = f"shard {path}: its object IDs are {KINDS[shard.info.id_kind]}, unlike the archive's"
                yield Finding("shard", text, name)
                return
            yield from (Finding("index", f"tile {name}: {line}", name) for line in _mismatches(index, tile, shard))
            if deep and index.depth(tile) != shard.depth:
                yield Finding("index", f"tile {name}: the index has another depth than its shard", name)
            yield from (Finding("shard", f"shard {path}: {line}", name) for line in _strange(shard, tile, settings))
        if size != tile.bytes:
            yield Finding("shard", f"shard {path}: has {size} bytes, not {tile.bytes}", name)
        if deep and recipe is not None:
            yield from _compare_with_survey(path, tile, recipe, item.files)
    except DamagedIndexError as error:
        yield Finding("index", str(error), name)
    except ArchiveError as error:
        yield Finding("shard", str(error), name)
    except OSError as error:
        yield Finding("shard", f"shard {path}: cannot be read ({one_line(error)})", name)


def _strange(shard: Shard, tile: TileRow, settings: Settings) -> Iterator[str]:
    """Yield the differences of a shard from its row of the index and from the archive's settings."""
    info = shard.info
    if (info.tile, info.generation) != (tile.name, tile.generation):
        yield f"is of tile {info.tile}, generation {info.generation}"
    if info.size != settings.size or info.bands != settings.bands:
        yield f"has cutouts of {info.size} px in {', '.join(info.bands)}, unlike the archive"
    if shard.settings != settings.recipe:
        yield "was built with other settings than the archive"


def _mismatches(index: Index, tile: TileRow, shard: Shard) -> Iterator[str]:
    """Yield the differences between the rows of the index and a shard."""
    ids, row, status = object_places(shard.stored_ids, shard.skipped_ids, shard.reason)
    stored, skipped = len(shard.stored_ids), len(shard.skipped_ids) + shard.info.without_id
    if (stored, skipped) != (tile.stored, tile.skipped):
        yield f"its shard has {stored} and {skipped} objects, the index {tile.stored} and {tile.skipped}"
    if index.skipped_for(tile) != count_reasons(shard.reason, shard.info.without_id):
        yield "the index counts other reasons for the objects skipped than its shard"
    if index.depth(tile).keys() != set(shard.info.bands):
        yield "the index has the depth of other bands than its shard"
    if not index.has_footprint(tile, shard.info.footprint):
        yield "the index has another footprint than its shard"
    if tile.input_fingerprint != shard.info.input_fingerprint and tile.input_hash is None:
        yield "the index has another fingerprint of its files than its shard"
    elsewhere = elsewhere_ids(shard.stored_ids, shard.skipped_ids, shard.reason)
    if not np.array_equal(index.elsewhere(tile.tile_id), elsewhere):
        yield "the index lists other objects that are elsewhere than its shard"
    places = index.find(ids)
    wrong = (places.tile_id != tile.tile_id) | (places.row != row) | (places.status != status)
    if wrong.any():
        first = ids[np.flatnonzero(wrong)[0]]
        yield f"the index has the wrong place for {int(wrong.sum())} of its objects (first: object {first})"


def _compare_with_survey(path: Path, row: TileRow, recipe: Recipe, files: TileFiles | None) -> Iterator[Finding]:
    """Compare some cutouts with the survey's pixels."""
    name = row.name
    if files is None:
        yield Finding("survey", f"tile {name}: is not in the survey: not compared", name)
        return
    try:
        if files.fingerprint() != row.input_fingerprint:
            yield Finding(
                "survey",
                f"tile {name}: its files have changed since it was built, or the keys to read them: not compared",
                name,
            )
            return
        with Shard(path) as shard, Tile.of(files, recipe) as tile:
            rng = np.random.default_rng(row.generation)
            for number in rng.permutation(len(shard.objects.object_id))[:SAMPLE].tolist():
                object_id = shard.objects.object_id[number]
                if not _is_cut_right(shard, number, tile):
                    yield Finding("shard", f"shard {path}: object {object_id} is not as in the survey", name)
                elif not _is_placed_right(shard, number, tile):
                    yield Finding("shard", f"shard {path}: object {object_id} is not where the survey has it", name)
    except TileError as error:
        yield Finding("survey", f"tile {name}: {error}: not compared", name)


def _is_placed_right(shard: Shard, row: int, tile: Tile) -> bool:
    """Return True if a cutout's position and the WCS of its header agree with the tile's WCS."""
    objects, size = shard.objects, shard.info.size
    x, y = sky_to_pixel(tile.wcs, tile.shape, objects.ra[row : row + 1], objects.dec[row : row + 1])
    x0, y0 = (int(n) for n in window_origin(objects.x[row], objects.y[row], (size, size)))
    try:
        offsets = [cut_offset(tile, text, (x0, y0), size) for text in shard.headers["SCI"].values()]
    except TileError:  # a header in the shard cannot be parsed
        return False
    offsets.append(float(np.hypot(x[0] - objects.x[row], y[0] - objects.y[row])))
    return all(offset <= WCS_TOLERANCE for offset in offsets)


def _is_cut_right(shard: Shard, row: int, tile: Tile) -> bool:
    """Return True if a cutout equals the tile's pixels within the quantization bound."""
    size, (height, width) = shard.info.size, tile.shape
    x0, y0 = (int(n) for n in window_origin(shard.objects.x[row], shard.objects.y[row], (size, size)))
    ours = np.empty((len(shard.info.bands), size, size), dtype=np.float32)
    shard.read(row, (size, size), slice(None), ours)
    low, high, left, right = max(y0, 0), min(y0 + size, height), max(x0, 0), min(x0 + size, width)
    theirs = np.full_like(ours, np.nan)
    theirs[:, low - y0 : high - y0, left - x0 : right - x0] = tile.read(low, high)[:, :, left:right]
    if shard.info.quantization == "lossless":
        return np.array_equal(ours, theirs, equal_nan=True)
    theirs[~np.isfinite(theirs)] = np.nan
    bound = np.reshape(shard.step, (-1, 1, 1)) / 2 + np.spacing(np.abs(np.nan_to_num(theirs)))
    same_blanks = np.array_equal(np.isnan(ours), np.isnan(theirs))
    return same_blanks and bool((np.abs(np.nan_to_num(ours.astype(np.float64) - theirs)) <= bound).all())
