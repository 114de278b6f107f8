"""Whether an archive is what it says it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from archive_builder.errors import ArchiveError, DamagedIndexError, NoArchiveError, TileError, one_line, printable
from archive_builder.geometry import window_origin
from archive_builder.measure.quality import count_reasons
from archive_builder.run.pool import MOST_TOGETHER, end_if_starting, files_together, run_in_batches
from archive_builder.store.format import checksum, shard_format
from archive_builder.store.index import SHARD_FOLDER, Index, is_shard_name, object_places
from archive_builder.store.records import Settings, TileRow
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

Survey: TypeAlias = tuple[Recipe, Mapping[str, TileFiles]]
"""The recipe of a survey, and the files of each of its tiles by name."""

SAMPLE = 4
"""Cutouts of a tile that are compared with the survey's own pixels."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    """``shard``: build the tile again; ``index``: make the index anew; ``orphan``: the next build removes it;
    ``survey``: it cannot be compared with its source."""

    what: str
    """One line."""

    tile: str | None = None
    """The tile, if it is one's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", printable(self.what))


def verify(
    archive: Path,
    deep: bool = False,
    survey: Survey | None = None,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda tiles: None,
    on_tile: Callable[[str], None] = lambda name: None,
) -> Iterator[Finding]:
    """Compare index and shards, and if asked every byte of them.

    Without ``deep``: every shard is there with its size, of the written format, of its tile and generation and
    of the archive's settings; every object of it stands in the index at its row, and nothing else does. With it,
    the index's own structure and every shard's checksum too, and where the survey is given, some cutouts of each
    tile against the survey's pixels.

    With several workers it starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : Path
    deep : bool
    survey : tuple of Recipe and mapping of str to TileFiles, optional
        The recipe, and the files of each tile by its name.
    workers : int
        Processes, at most.
    on_start : callable
        Told how many tiles there are.
    on_tile : callable
        Told of every tile that has been looked at.

    Yields
    ------
    Finding
        Tile by tile in the order of their names. Nothing if all is well.

    Raises
    ------
    NoArchiveError
        The folder is no archive.
    RequestError
        It starts processes and is not called under that ``if``.
    """
    end_if_starting()
    try:
        with Index(archive) as index:
            if deep:
                yield from (Finding("index", f"index {index.path}: {line}") for line in index.damage())
            yield from _check_archive(index, archive, deep, survey, workers, on_start, on_tile)
    except ArchiveError as error:
        if not any((archive / SHARD_FOLDER).glob("*.h5")):
            raise
        yield Finding("index", str(error))


def _check_archive(
    index: Index,
    archive: Path,
    deep: bool,
    survey: Survey | None,
    workers: int,
    on_start: Callable[[int], None],
    on_tile: Callable[[str], None],
) -> Iterator[Finding]:
    settings, tiles = index.settings, index.tiles()
    if not settings and not tiles and not any((archive / SHARD_FOLDER).glob("*.h5")):
        raise NoArchiveError(f"{archive} is an archive in which nothing has been built yet")
    if settings is None or settings.format_version != shard_format()["format_version"]:
        yield Finding("index", f"index {index.path}: its settings are not those of this format version")
        return
    built = [tile for tile in tiles if tile.shard is not None]
    on_start(len(built))
    recipe, files = survey or (None, {})
    check, lost = partial(_check_tiles, archive, settings, deep, recipe), partial(_lost, archive)
    together = files_together([tile.bytes or 0 for tile in built]) if deep else MOST_TOGETHER
    items = [(tile, files.get(tile.name)) for tile in built]
    for tile, found in zip(built, run_in_batches(check, items, together, workers, lost), strict=True):
        yield from found
        on_tile(tile.name)
    objects = sum(tile.stored + tile.skipped for tile in built)
    if (there := index.count_objects()) != objects:
        yield Finding("index", f"index {index.path}: holds {there} objects, its tiles have {objects}")
    kept = {tile.shard for tile in tiles}
    folder = archive / SHARD_FOLDER
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        if f"{SHARD_FOLDER}/{path.name}" not in kept:
            yield Finding("orphan", f"{path}: the index does not know it")


def _lost(archive: Path, item: tuple[TileRow, TileFiles | None], cause: str) -> list[Finding]:
    """Return what is found of a tile whose process died."""
    tile, _ = item
    return [Finding("shard", f"shard {archive / str(tile.shard)}: cannot be looked at ({cause})", tile.name)]


def _check_tiles(
    archive: Path,
    settings: Settings,
    deep: bool,
    recipe: Recipe | None,
    items: Sequence[tuple[TileRow, TileFiles | None]],
) -> list[list[Finding]]:
    """Check some tiles, each with its files in the survey."""
    try:
        with Index(archive) as index:
            return [
                list(_check_tile(index, archive, tile, settings, deep, (recipe, files) if recipe else None))
                for tile, files in items
            ]
    except ArchiveError as error:  # the index, which could be opened a moment ago
        return [[Finding("index", str(error))], *([] for _ in items[1:])]


def _check_tile(
    index: Index,
    archive: Path,
    tile: TileRow,
    settings: Settings,
    deep: bool,
    source: tuple[Recipe, TileFiles | None] | None,
) -> Iterator[Finding]:
    """Check one tile's shard and its rows of the index."""
    name = tile.name
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
            yield from (Finding("index", f"tile {name}: {line}", name) for line in _mismatches(index, tile, shard))
            if deep and index.depth(tile) != shard.depth:
                yield Finding("index", f"tile {name}: the index has another depth than its shard", name)
            yield from (Finding("shard", f"shard {path}: {line}", name) for line in _strange(shard, tile, settings))
        if size != tile.bytes:
            yield Finding("shard", f"shard {path}: has {size} bytes, not {tile.bytes}", name)
        if deep and source is not None:
            yield from _compare_with_survey(path, tile, *source)
    except DamagedIndexError as error:
        yield Finding("index", str(error), name)
    except ArchiveError as error:
        yield Finding("shard", str(error), name)
    except OSError as error:
        yield Finding("shard", f"shard {path}: cannot be read ({one_line(error)})", name)


def _strange(shard: Shard, tile: TileRow, settings: Settings) -> Iterator[str]:
    """Tell where a shard is not the one that the index means, or not like the others."""
    info = shard.info
    if (info.tile, info.generation) != (tile.name, tile.generation):
        yield f"is of tile {info.tile}, generation {info.generation}"
    if info.size != settings.size or info.bands != settings.bands:
        yield f"has cutouts of {info.size} px in {', '.join(info.bands)}, unlike the archive"
    if shard.settings != settings.recipe:
        yield "was built with other settings than the archive"


def _mismatches(index: Index, tile: TileRow, shard: Shard) -> Iterator[str]:
    """Tell where the index's rows are not those of the shard."""
    ids, row, status = object_places(shard.stored_ids, shard.skipped_ids, shard.reason)
    stored, skipped = len(shard.stored_ids), len(shard.skipped_ids)
    if (stored, skipped) != (tile.stored, tile.skipped):
        yield f"its shard has {stored} and {skipped} objects, the index {tile.stored} and {tile.skipped}"
    if index.skipped_for(tile) != count_reasons(shard.reason):
        yield "the index counts other reasons for the objects skipped than its shard"
    if index.depth(tile).keys() != set(shard.info.bands):
        yield "the index has the depth of other bands than its shard"
    if not index.has_footprint(tile, shard.info.footprint):
        yield "the index has another footprint than its shard"
    if tile.input_fingerprint != shard.info.input_fingerprint and tile.input_hash is None:
        yield "the index has another fingerprint of its files than its shard"
    places = index.find(ids)
    wrong = (places.tile_id != tile.tile_id) | (places.row != row) | (places.status != status)
    if wrong.any():
        first = int(ids[np.flatnonzero(wrong)[0]])
        yield f"{int(wrong.sum())} of its objects are not where the index has them (first: object {first})"


def _compare_with_survey(path: Path, row: TileRow, recipe: Recipe, source: TileFiles | None) -> Iterator[Finding]:
    """Compare some cutouts with the survey's own pixels."""
    name = row.name
    if source is None:
        yield Finding("survey", f"tile {name}: is not in the survey: not compared", name)
        return
    try:
        if source.fingerprint() != row.input_fingerprint:
            yield Finding("survey", f"tile {name}: its files have changed since it was built: not compared", name)
            return
        with Shard(path) as shard, Tile(source.images, recipe.survey.image_hdu, recipe.survey.blank_value) as tile:
            rng = np.random.default_rng(row.generation)
            for number in rng.permutation(len(shard.objects.object_id))[:SAMPLE].tolist():
                if not _is_cut_right(shard, number, tile):
                    object_id = shard.objects.object_id[number]
                    yield Finding("shard", f"shard {path}: object {object_id} is not as in the survey", name)
    except TileError as error:
        yield Finding("survey", f"tile {name}: {error}: not compared", name)


def _is_cut_right(shard: Shard, row: int, tile: Tile) -> bool:
    """Tell whether a cutout is the tile's own pixels within the quantization bound."""
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
