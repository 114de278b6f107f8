"""An archive's open files, as the index describes them at one moment."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archive_builder.bands import band_names
from archive_builder.errors import ArchiveError, CutoutTooLargeError, NoArchiveError
from archive_builder.geometry import Shape, Size, parse_shape
from archive_builder.object_ids import IdKind
from archive_builder.serve.sky import Footprints
from archive_builder.store.file_names import is_shard_name
from archive_builder.store.headers import TileHeaders
from archive_builder.store.index import Index
from archive_builder.store.lru import Lru
from archive_builder.store.records import Places, TileRow
from archive_builder.store.shard_reader import Shard

OPEN_SHARDS = 8
"""Shards kept open at once, each with up to 16 MB of decoded pixels."""

Bands: TypeAlias = "str | Sequence[str] | NDArray[np.str_]"
"""Bands as a request names them: ``"gri"``, ``"g,r,i"``, or a list, tuple or array of names."""

Lend: TypeAlias = Callable[[Path, Callable[[Shard], NDArray[Any]]], NDArray[Any]]
"""Calls a function with the open shard at a path."""

Lender: TypeAlias = Callable[[], Lend | None]
"""Returns the archive's `Lend`; None once the archive is gone."""


class OpenTile:
    """A tile's open shard.

    Parameters
    ----------
    path : Path
        The shard.
    bands, size, id_kind
        Bands, cutout size in px, and kind of the object IDs of the archive.

    Raises
    ------
    ArchiveError
        The shard is missing or damaged, or does not fit the archive.
    """

    def __init__(self, path: Path, bands: tuple[str, ...], size: int, id_kind: IdKind) -> None:
        self.shard = Shard(path)
        info = self.shard.info
        if (info.bands, info.size, info.id_kind) != (bands, size, id_kind):
            self.close()
            raise ArchiveError(
                f"shard {path}: has other bands, another size or another kind of object IDs than the archive: "
                "reindex the archive"
            )

    @cached_property
    def headers(self) -> TileHeaders:
        """FITS headers of the tile's bands."""
        return TileHeaders(self.shard.headers)

    def close(self) -> None:
        """Close the shard."""
        self.shard.close()


class Snapshot:
    """An archive's index and open shards, valid until a build changes the index.

    It has no lock: see `archive_builder.serve.reader.ArchiveReader`.

    Parameters
    ----------
    path : Path
        The archive's folder.
    open_shards : int
        Maximum number of open shards.
    lender : callable
        Lends open shards to cutouts that read a further plane later.

    Attributes
    ----------
    index : Index
    settings : Settings
        Settings that all shards share.
    bands : tuple of str
    size : int
        Side of the archived cutouts, px.

    Raises
    ------
    ArchiveError
        The folder is not an archive.
    """

    def __init__(self, path: Path, open_shards: int, lender: Lender) -> None:
        self.path, self.lender = path, lender
        self.index = Index(path)
        settings = self.index.settings
        if settings is None:
            self.index.close()
            raise NoArchiveError(f"the archive {path} is empty: build a tile first")
        self.settings = settings
        self.bands, self.size = settings.bands, settings.size
        self._open: Lru[Path, OpenTile] = Lru(open_shards, OpenTile.close)
        self._tiles: dict[int, TileRow] = {}

    def close(self) -> None:
        """Close the index and the shards."""
        self._open.clear()
        self.index.close()

    @property
    def open_shards(self) -> int:
        """Number of open shards."""
        return len(self._open)

    @cached_property
    def built_tiles(self) -> list[TileRow]:
        """Rows of the index of the tiles that have a shard."""
        return [tile for tile in self.index.tiles() if tile.shard]

    @cached_property
    def footprints(self) -> tuple[NDArray[np.int64], Footprints]:
        """Numbers of the tiles that have a shard, and their footprints."""
        corners = np.array([self.index.footprint(tile) for tile in self.built_tiles]).reshape(-1, 4, 2)
        return np.array([tile.tile_id for tile in self.built_tiles], dtype=np.int64), Footprints(corners)

    def tile(self, tile_id: int) -> TileRow:
        """Return a tile's row of the index."""
        if tile_id not in self._tiles:
            self._tiles[tile_id] = self.index.tile(tile_id)
        return self._tiles[tile_id]

    def shard_path(self, tile_id: int, generation: int | None = None) -> Path:
        """Return the path of a tile's shard.

        Raises
        ------
        ArchiveError
            The shard is not of the given generation, or the index places it outside the folder of shards.
        """
        tile = self.tile(tile_id)
        if generation is not None and generation != tile.generation:
            raise ArchiveError(f"tile {tile.name} was rebuilt during the lookup: retry")
        if not is_shard_name(tile.shard, tile.name, tile.generation):
            raise ArchiveError(
                f"index {self.index.path}: places the shard of tile {tile.name} at {tile.shard!r}: reindex the archive"
            )
        return self.path / str(tile.shard)

    def open_tile(self, path: Path) -> OpenTile:
        """Return a tile by the path of its shard; the tiles last used stay open."""
        return self._open.get(path, self._open_tile)

    def _open_tile(self, path: Path) -> OpenTile:
        return OpenTile(path, self.bands, self.size, self.index.id_kind)

    def band_numbers(self, bands: Bands | None) -> list[int]:
        """Return the numbers of the bands requested, in that order; without a request, of all bands.

        An empty tuple means no band: a picture in the survey's own colours needs no other pixels.

        Raises
        ------
        RequestError
            A band is unknown.
        """
        if bands is None:
            return list(range(len(self.bands)))
        if isinstance(bands, tuple) and not bands:
            return []
        return [self.bands.index(band) for band in band_names(bands, self.bands, f"the archive {self.path}")]

    def shape_at(self, size: Size | None, shard: Shard, x: float, y: float, archived: bool) -> Shape:
        """Return a size in pixels, checked against what the shard can serve.

        Parameters
        ----------
        size : Size or None
            None for the archived size.
        shard : Shard
        x, y : float
            Centre of the cutout on the tile, px.
        archived : bool
            True around an object: the shard has those pixels up to the archived size.

        Raises
        ------
        CutoutTooLargeError
            The shard does not have all pixels.
        """
        shape = (self.size, self.size) if size is None else parse_shape(size, shard.info.pixel_scale)
        if archived and max(shape) <= self.size:
            return shape
        is_mosaic = shard.info.layout == "mosaic"
        most = max(shard.info.height, shard.info.width) if is_mosaic else self.size
        if max(shape) <= most and (not is_mosaic or shard.holds(x, y, shape)):
            return shape
        # A larger square holds every smaller one: the sizes that can be served come first.
        sides = range(1, min(max(shape), most) + 1)
        served = bisect_left(sides, True, key=lambda n: is_mosaic and not shard.holds(x, y, (n, n)))
        raise CutoutTooLargeError(
            f"the archive {self.path} does not have all of {shape[0]} x {shape[1]} px there, on tile "
            f"{shard.info.tile}: {f'ask for at most {served} px' if served else 'no cutout reaches that far'}"
        )

    def common_shape(self, size: Size | None, places: Places | None = None) -> Shape:
        """Return the size of many cutouts, px.

        An angle becomes pixels by the scale of the first tile among the places, or of the archive.

        Raises
        ------
        CutoutTooLargeError
            The size is larger than the archived one.
        """
        if size is None:
            return self.size, self.size
        ids = self.footprints[0] if places is None else places.tile_id[places.tile_id >= 0]
        scale = self.open_tile(self.shard_path(int(ids[0]))).shard.info.pixel_scale if len(ids) else 1.0
        shape = parse_shape(size, scale)
        if max(shape) > self.size:
            raise CutoutTooLargeError(
                f"{shape[0]} x {shape[1]} px is larger than the cutouts of the archive {self.path}: "
                f"ask for at most {self.size} px, or call get() for each"
            )
        return shape


def as_slice(numbers: list[int]) -> list[int] | slice:
    """Return consecutive numbers as a slice, which numpy takes without a copy."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return numbers
