"""Lookup: an object by its ID, a position on the sky, the cutouts of many."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import (
    ArchiveBuilderError,
    ArchiveError,
    CutoutTooLargeError,
    NoArchiveError,
    ObjectNotFoundError,
    ObjectSkippedError,
    PositionOutsideError,
    RequestError,
)
from archive_builder.geometry import Shape, Size, parse_shape, sky_to_pixel, window_origin
from archive_builder.measure.quality import Status
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.headers import TileHeaders
from archive_builder.serve.sky import Footprints, Position, ra_dec, separation, unit_vectors
from archive_builder.store.index import Index, is_shard_name
from archive_builder.store.records import ObjectTable, Places, TileRow
from archive_builder.store.shard_reader import Shard
from archive_builder.training.batches import Batch, BatchStream
from archive_builder.units import to_degrees

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 5
"""How often a lookup is tried while builds replace the shards it needs."""

OPEN_SHARDS = 8
"""Shards kept open at once, each with up to 16 MB of decoded pixels."""


@dataclass(frozen=True)
class Location:
    """Where an object is in the archive."""

    object_id: int
    """The survey's ID."""

    tile: str
    """The tile it belongs to."""

    row: int
    """Of the shard's ``/cutouts``, or of its ``/skipped``."""

    status: str
    """``stored``, or why there is no cutout: ``noise``, ``blank``, ``outside``."""

    shard: Path
    """The shard."""


def _up_to_date(method: Callable[Concatenate[Archive, P], R]) -> Callable[Concatenate[Archive, P], R]:
    """Let a method see the archive as it is now, and try again if a build replaced a shard under it.

    At every instant the index and the shards it names fit together; but a shard may go between the moment its
    name is read and the moment it is opened.
    """

    @wraps(method)
    def call(self: Archive, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            if self._answering:  # one lookup may use another
                return method(self, *args, **kwargs)
            self._answering = True
            try:
                self._refresh()
                for _ in range(ATTEMPTS - 1):
                    try:
                        return method(self, *args, **kwargs)
                    except ArchiveError:
                        if not self._refresh():
                            raise
                return method(self, *args, **kwargs)
            finally:
                self._answering = False

    return call  # type: ignore[return-value]  # the name self does not matter


class Archive:
    """An archive, open for lookups.

    It can be pickled, and used after a fork and from several threads; they take turns. It can be used while a
    build is replacing tiles: every answer is the old one or the new one.

    Parameters
    ----------
    path : str or Path
        The archive's folder.
    open_shards : int
        How many shards are kept open at once.

    Raises
    ------
    ArchiveError
        The folder is no archive.
    """

    def __init__(self, path: str | Path, open_shards: int = OPEN_SHARDS) -> None:
        self.path = Path(path)
        self._open_shards = open_shards
        self._lock = threading.RLock()
        self._answering = False
        self._begin()
        _archives.add(self)

    def _begin(self) -> None:
        """Open the index; nothing else is open yet."""
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._headers: dict[str, TileHeaders] = {}
        self._tiles: dict[int, TileRow] = {}
        self._sky: tuple[NDArray[np.int64], Footprints] | None = None
        self._open_index: Index | None = Index(self.path)
        settings = self._index.settings
        if settings is None:
            raise NoArchiveError(f"{self.path} is an archive in which nothing has been built yet")
        self.bands: tuple[str, ...] = settings.bands
        self.size: int = settings.size
        self.has_color = settings.has_color

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open_shards": self._open_shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["_open_shards"])  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the index and the shards."""
        with self._lock:
            while self._shards:
                self._shards.popitem()[1].close()
            if self._open_index is not None:
                self._open_index.close()
                self._open_index = None

    def _refresh(self) -> bool:
        """Forget what is known of the tiles if the index has changed; tell whether it has."""
        if not self._index.has_changed():
            return False
        while self._shards:
            self._shards.popitem()[1].close()
        self._index.close()
        self._begin()
        return True

    @property
    def _index(self) -> Index:
        if self._open_index is None:
            raise RequestError(f"the archive {self.path} is closed: open it again")
        return self._open_index

    @_up_to_date
    def locate(self, object_id: int) -> Location:
        """Find an object without reading a pixel.

        Raises
        ------
        ObjectNotFoundError
            The archive does not know the ID.
        """
        object_id = _whole_number(object_id)
        return self._location(object_id, self._index.find(np.array([object_id], dtype=np.int64)), 0)

    def _location(self, object_id: int, places: Places, number: int) -> Location:
        """Return where one of some objects is that have been looked up together."""
        tile_id, row, status, generation = (
            int(column[number]) for column in (places.tile_id, places.row, places.status, places.generation)
        )
        if tile_id < 0:
            raise ObjectNotFoundError(object_id, self.path)
        shard = self._shard_path(tile_id, generation)
        return Location(object_id, self._tile(tile_id).name, row, Status(status).name.lower(), shard)

    @_up_to_date
    def find(self, object_ids: ArrayLike) -> Places:
        """Find many objects without reading a pixel.

        Parameters
        ----------
        object_ids : array_like of int, (N,)

        Returns
        -------
        Places
            Tile, row and status of each; an ID that is not in the archive has the tile -1.
        """
        with self._lock:
            return self._index.find(_whole_numbers(object_ids))

    @_up_to_date
    def tile_name(self, tile_id: int) -> str:
        """Return the name of a tile, by its number in :meth:`find` and :meth:`tiles_at`."""
        with self._lock:
            return self._tile(tile_id).name

    @_up_to_date
    def get(self, object_id: int, size: Size | None = None, bands: Sequence[str] | None = None) -> Cutout:
        """Return an object's cutout.

        Parameters
        ----------
        object_id : int
        size : int, str, Quantity, or a pair ``(ny, nx)`` of them, optional
            Pixels or an angle; the archive's own size by default. A ``stamps`` archive serves no larger one; a
            ``mosaic`` archive serves any size, up to the whole tile, of which it has the pixels.
        bands : str or sequence of str, optional
            In the order wanted, ``"gri"`` say; all by default. An empty tuple reads no pixels: for what is only to be
            a picture in the survey's own colours.

        Raises
        ------
        ObjectNotFoundError
            The archive does not know the ID.
        ObjectSkippedError
            The object has no cutout; the error has the reason and the noise measured.
        CutoutTooLargeError
            The archive cannot serve the size; the error says how large it can.
        RequestError
            The size or a band makes no sense.
        ArchiveError
            The shard is missing or damaged.
        """
        return self._get(self.locate(object_id), size, bands)

    def get_each(
        self, object_ids: ArrayLike, size: Size | None = None, bands: Sequence[str] | None = None
    ) -> Iterator[Cutout | ArchiveBuilderError]:
        """Return the cutouts of many objects one after another, or what :meth:`get` would raise for one.

        The objects are looked up together; the nearer they lie to the ones before, the faster they are read.

        Parameters
        ----------
        object_ids : array_like of int, (N,)
        size, bands
            As for :meth:`get`.

        Yields
        ------
        Cutout or ArchiveBuilderError
            In the order asked.
        """
        ids = _whole_numbers(object_ids)
        places = self.find(ids)
        for number, object_id in enumerate(ids.tolist()):
            try:
                with self._lock:
                    cutout = self._get(self._location(object_id, places, number), size, bands)
            except ArchiveError:  # a build may have replaced the shard since
                try:
                    cutout = self.get(object_id, size, bands)
                except ArchiveBuilderError as error:
                    yield error
                    continue
            except ArchiveBuilderError as error:
                yield error
                continue
            yield cutout

    def _get(self, where: Location, size: Size | None, bands: Sequence[str] | None) -> Cutout:
        """Return the cutout of an object that has been located."""
        shard, row = self._shard(where.shard), where.row
        if where.status != "stored":
            _check_row(shard, shard.skipped, row, where.object_id)
            raise self._skipped(where.object_id, shard, row)
        objects = shard.objects
        _check_row(shard, objects, row, where.object_id)
        xy = float(objects.x[row]), float(objects.y[row])
        shape = self._shape(size, shard, *xy, archived=True)
        sky = float(objects.ra[row]), float(objects.dec[row])
        return self._cutout(shard, shape, self._band_numbers(bands), xy, sky, row)

    @_up_to_date
    def at(self, position: Position, size: Size | None = None, bands: Sequence[str] | None = None) -> Cutout:
        """Return a cutout around a position, from a ``mosaic`` archive.

        Where tiles overlap, it is cut from the one on which the position lies deepest inside.

        Parameters
        ----------
        position : SkyCoord or tuple
            RA and Dec in deg, ICRS, if it is a tuple.
        size, bands
            As for :meth:`get`.

        Raises
        ------
        PositionOutsideError
            The position lies on no tile.
        CutoutTooLargeError
            The archive does not have all the pixels; the error says how large a cutout it can serve there.
        RequestError
            The archive is not a mosaic, or the size or a band makes no sense.
        ArchiveError
            The tile is damaged, or not where the index has it.
        """
        ra, dec = ra_dec(position)
        with self._lock:
            tile_id = int(self.tiles_at(ra, dec)[0])
            if tile_id < 0:
                raise PositionOutsideError(f"RA {ra:.6f}, Dec {dec:.6f} lies on no tile of the archive {self.path}")
            shard = self._shard(self._shard_path(tile_id))
            if not self._index.has_footprint(self._tile(tile_id), shard.info.footprint):
                raise ArchiveError(
                    f"index {self._index.path}: has tile {shard.info.tile} elsewhere on the sky than its shard: "
                    "reindex the archive"
                )
            if shard.info.layout != "mosaic":
                raise RequestError(
                    f"the archive {self.path} keeps cutouts of objects, and cannot cut elsewhere: "
                    "ask for the nearest object, or build a mosaic"
                )
            wcs = self._headers_of(shard).wcs
            tile = (shard.info.height, shard.info.width)
            x, y = sky_to_pixel(wcs, tile, np.array([ra]), np.array([dec]))
            shape = self._shape(size, shard, float(x[0]), float(y[0]), archived=False)
            chosen = self._band_numbers(bands)
            return self._cutout(shard, shape, chosen, xy=(float(x[0]), float(y[0])), sky=(ra, dec), row=None)

    def nearest(self, position: Position, radius: u.Quantity | str = "2 arcsec") -> Location:
        """Find the object nearest to a position, skipped ones included.

        Parameters
        ----------
        position : SkyCoord or tuple
            RA and Dec in deg, ICRS, if it is a tuple.
        radius : Quantity or str
            How far it may be.

        Raises
        ------
        ObjectNotFoundError
            There is none within the radius.
        """
        around = self.cone_search(position, radius)
        if len(around) == 0:
            ra, dec = ra_dec(position)
            raise ObjectNotFoundError(f"within {radius} of RA {ra:.6f}, Dec {dec:.6f}", self.path)
        return self.locate(int(around["object_id"][0]))

    @_up_to_date
    def cone_search(self, position: Position, radius: u.Quantity | str) -> Table:
        """Return the objects around a position, the nearest first, skipped ones included.

        Parameters
        ----------
        position : SkyCoord or tuple
            RA and Dec in deg, ICRS, if it is a tuple.
        radius : Quantity or str
            An angle, ``"1 arcmin"`` say.

        Returns
        -------
        astropy.table.Table
            Columns ``object_id``, ``ra`` and ``dec`` (deg), ``tile``, ``status``, ``separation`` (arcsec).
        """
        ra, dec = ra_dec(position)
        limit = to_degrees(radius)
        with self._lock:
            ids, footprints = self._footprints()
            found = [self._around(int(ids[n]), ra, dec, limit) for n in footprints.near(ra, dec, limit)]
        names = ("object_id", "ra", "dec", "tile", "status", "separation")
        kinds = (np.int64, np.float64, np.float64, str, str, np.float64)
        columns = [
            np.concatenate([np.empty(0, dtype=kind), *(part[i] for part in found)]) for i, kind in enumerate(kinds)
        ]
        table = Table(dict(zip(names, columns, strict=True)), units={"ra": "deg", "dec": "deg", "separation": "arcsec"})
        table.sort("separation")
        return table

    @_up_to_date
    def tiles_at(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
        """Tell on which tile positions lie, the one where they lie deepest inside if there are several.

        Parameters
        ----------
        ra, dec : array_like of float, (N,)
            Deg, ICRS.

        Returns
        -------
        ndarray of int64, (N,)
            Numbers of tiles, see :meth:`tile_name`; -1 for a position on none.
        """
        with self._lock:
            ids, footprints = self._footprints()
        return np.asarray(np.concatenate([ids, [-1]])[footprints.find(ra, dec)])

    @_up_to_date
    def get_many(
        self,
        object_ids: ArrayLike,
        size: Size | None = None,
        bands: Sequence[str] | None = None,
        missing: Literal["raise", "blank"] = "raise",
    ) -> NDArray[np.float32]:
        """Return the cutouts of many objects, in the order asked.

        They are read in the order they are stored; any order of the IDs is equally fast.

        Parameters
        ----------
        object_ids : array_like of int, (N,)
            Repeats are allowed.
        size, bands
            As for :meth:`get`.
        missing : ``"raise"`` or ``"blank"``
            What to do about an ID without a cutout: raise as :meth:`get` does, or give NaN.

        Returns
        -------
        ndarray of float32, (N, bands, ny, nx)
        """
        return self.read_objects(object_ids, size, bands, missing)[1]

    @_up_to_date
    def read_objects(
        self,
        object_ids: ArrayLike,
        size: Size | None = None,
        bands: Sequence[str] | None = None,
        missing: Literal["raise", "blank"] = "raise",
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return the positions of many objects and their cutouts; see :meth:`get_many`.

        Returns
        -------
        sky : ndarray of float64, (N, 2)
            RA and Dec in deg, ICRS; NaN without a cutout.
        data : ndarray of float32, (N, bands, ny, nx)
        """
        if missing not in ("raise", "blank"):
            raise RequestError(f'missing is {missing!r}: give "raise" or "blank"')
        ids = _whole_numbers(object_ids)
        with self._lock:
            places = self._index.find(ids)
            absent = (places.tile_id < 0) | (places.status != Status.STORED)
            if missing == "raise" and absent.any():
                object_id = int(ids[np.flatnonzero(absent)[0]])
                self.get(object_id)  # raises what is the matter with it
                raise ArchiveError(f"index {self._index.path}: object {object_id} was not there, and is: ask again")
            chosen = self._band_numbers(bands)
            shape = self._common_shape(size, places)
            data = np.empty((len(ids), len(chosen), *shape), dtype=np.float32)
            sky = np.empty((len(ids), 2))
            data[absent], sky[absent] = np.nan, np.nan
            for shard, row, number in self._in_stored_order(places, np.flatnonzero(~absent)):
                _check_row(shard, shard.objects, row, int(ids[number]))
                shard.read(row, shape, _as_slice(chosen), data[number])
                sky[number] = shard.objects.ra[row], shard.objects.dec[row]
            return sky, data

    def _in_stored_order(self, places: Places, numbers: NDArray[np.intp]) -> Iterator[tuple[Shard, int, int]]:
        """Yield the shard, the row and the number of each place, neighbours together."""
        order = numbers[np.lexsort((places.row[numbers], places.tile_id[numbers]))]
        tile_id, shard = -1, None
        columns = (places.tile_id[order], places.generation[order], places.row[order])
        for number, tile, generation, row in zip(order.tolist(), *(c.tolist() for c in columns), strict=True):
            if tile != tile_id or shard is None:
                tile_id, shard = tile, self._shard(self._shard_path(tile, generation))
            yield shard, row, number

    def batches(
        self,
        size: Size | None = None,
        batch_size: int = 256,
        shuffle_seed: int | None = None,
        bands: Sequence[str] | None = None,
    ) -> Iterator[Batch]:
        """Stream the cutouts of the whole archive.

        Parameters
        ----------
        size, bands
            As for :meth:`get`.
        batch_size : int
            Cutouts in a batch; the last one may have fewer.
        shuffle_seed : int, optional
            Shuffle: the tiles, and the cutouts within a buffer of some tiles' worth. The same seed gives the same
            order. Without it they come as they are stored.

        Returns
        -------
        iterator of Batch
            ``object_id`` (n,), and ``data`` float32 (n, bands, ny, nx).

        Raises
        ------
        RequestError
            The numbers make no sense.
        ArchiveError
            On the way: a tile was rebuilt and has another number of cutouts than when the stream was begun.
        """
        return iter(BatchStream(self, size, batch_size, shuffle_seed, bands))

    @_up_to_date
    def stored_rows(self) -> list[tuple[int, int]]:
        """Return the number of every tile that has a shard, and how many cutouts are in it."""
        with self._lock:
            return [(tile.tile_id, tile.stored) for tile in self._index.tiles() if tile.shard]

    @_up_to_date
    def common_form(self, size: Size | None, bands: Sequence[str] | None) -> tuple[Shape, list[int]]:
        """Return the shape ``(ny, nx)`` of many cutouts and the numbers of their bands; raises as :meth:`get` does."""
        with self._lock:
            return self._common_shape(size, None), self._band_numbers(bands)

    @_up_to_date
    def read_rows(
        self, tile_id: int, count: int, first: int, bands: list[int], out: Sequence[NDArray[np.float32]]
    ) -> NDArray[np.int64]:
        """Read consecutive cutouts of one tile, from the row ``first`` on, each into its (bands, ny, nx) of ``out``.

        Returns
        -------
        ndarray of int64, (n,)
            Their object IDs.

        Raises
        ------
        ArchiveError
            The tile has not ``count`` cutouts, as :meth:`stored_rows` said.
        """
        with self._lock:
            shard = self._shard(self._shard_path(tile_id))
            ids = shard.objects.object_id
            if len(ids) != count:
                raise ArchiveError(
                    f"shard {shard.path}: has {len(ids)} cutouts, not {count} as when this was begun: was its tile "
                    "rebuilt? Begin anew; if it says so again, reindex the archive"
                )
            for number, data in enumerate(out):
                shard.read(first + number, (data.shape[1], data.shape[2]), _as_slice(bands), data)
            return ids[first : first + len(out)]

    def _common_shape(self, size: Size | None, places: Places | None) -> Shape:
        """Return the size of many cutouts; an angle is made pixels by the first tile among them, or of all."""
        if size is None:
            return self.size, self.size
        ids = self._footprints()[0] if places is None else places.tile_id[places.tile_id >= 0]
        scale = self._shard(self._shard_path(int(ids[0]))).info.pixel_scale if len(ids) else 1.0
        shape = parse_shape(size, scale)
        if max(shape) > self.size:
            raise CutoutTooLargeError(
                f"{shape[0]} x {shape[1]} px is larger than the cutouts of the archive {self.path}: "
                f"ask for at most {self.size} px, or for one at a time"
            )
        return shape

    def _cutout(
        self,
        shard: Shard,
        shape: Shape,
        chosen: list[int],
        xy: tuple[float, float],
        sky: tuple[float, float],
        row: int | None,
    ) -> Cutout:
        x0, y0 = (int(n) for n in window_origin(*xy, shape))
        source = _Source(self, shard.path, row, (x0, y0), shape, tuple(chosen))
        lossless = shard.info.quantization == "lossless"
        rms = np.full(len(self.bands), np.nan) if row is None else shard.objects.rms[row]
        return Cutout(
            data=source.read(shard, "SCI"),
            bands=tuple(self.bands[i] for i in chosen),
            object_id=None if row is None else int(shard.objects.object_id[row]),
            tile=shard.info.tile,
            generation=shard.info.generation,
            ra=sky[0],
            dec=sky[1],
            origin=(x0, y0),
            zero_point=shard.info.zero_point,
            rms={self.bands[i]: float(rms[i]) for i in chosen},
            step={self.bands[i]: 0.0 if lossless else shard.step[i] for i in chosen},
            headers=self._headers_of(shard),
            planes=shard.info.planes,
            read_plane=source,
        )

    def _skipped(self, object_id: int, shard: Shard, row: int) -> ObjectSkippedError:
        rms = dict(zip(self.bands, shard.skipped.rms[row].tolist(), strict=True))
        reason = Status(shard.reason[row]).name.lower()
        return ObjectSkippedError(object_id, shard.info.tile, reason, rms)

    def _shape(self, size: Size | None, shard: Shard, x: float, y: float, archived: bool) -> Shape:
        """Return a size in pixels, once it is known that the shard can serve it at a position."""
        shape = (self.size, self.size) if size is None else parse_shape(size, shard.info.pixel_scale)
        if archived and max(shape) <= self.size:  # around an object it is there
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

    def _band_numbers(self, bands: Sequence[str] | None) -> list[int]:
        """Return which bands of the archive are wanted, in the order wanted."""
        if bands is None:
            return list(range(len(self.bands)))
        if bands == ():
            return []
        if unknown := [band for band in bands if band not in self.bands]:
            raise RequestError(f"the archive {self.path} has no band {unknown[0]!r}: it has {', '.join(self.bands)}")
        if not bands:
            raise RequestError(f"no band was asked for: the archive {self.path} has {', '.join(self.bands)}")
        return [self.bands.index(band) for band in bands]

    def _tile(self, tile_id: int) -> TileRow:
        if tile_id not in self._tiles:
            self._tiles[tile_id] = self._index.tile(tile_id)
        return self._tiles[tile_id]

    def _shard_path(self, tile_id: int, generation: int | None = None) -> Path:
        """Return a tile's shard, of the generation that an object was found in."""
        tile = self._tile(tile_id)
        if generation is not None and generation != tile.generation:
            raise ArchiveError(f"tile {tile.name} was replaced while it was read: ask again")
        if not is_shard_name(tile.shard, tile.name, tile.generation):
            raise ArchiveError(f"index {self.path}: tile {tile.name} has its shard at {tile.shard!r}: reindex it")
        return self.path / str(tile.shard)

    def _footprints(self) -> tuple[NDArray[np.int64], Footprints]:
        """Return the tiles that have a shard, by number, and their footprints."""
        if self._sky is None:
            tiles = [tile for tile in self._index.tiles() if tile.shard]
            corners = np.array([self._index.footprint(tile) for tile in tiles]).reshape(-1, 4, 2)
            self._sky = np.array([tile.tile_id for tile in tiles], dtype=np.int64), Footprints(corners)
        return self._sky

    def _around(self, tile_id: int, ra: float, dec: float, limit: float) -> tuple[NDArray[Any], ...]:
        """Return the objects of one tile within ``limit`` deg, as columns of :meth:`cone_search`."""
        shard = self._shard(self._shard_path(tile_id))
        stored, skipped = shard.objects, shard.skipped
        everything = [
            np.concatenate([getattr(t, name) for t in (stored, skipped)]) for name in ("object_id", "ra", "dec")
        ]
        status = np.concatenate([np.zeros(len(stored.ra), dtype=np.uint8), shard.reason])
        distance = separation(unit_vectors(everything[1], everything[2]), unit_vectors(ra, dec))
        near = np.flatnonzero(distance <= limit)
        reasons = np.array([Status(s).name.lower() for s in status[near]], dtype=str)
        tile = np.full(len(near), shard.info.tile)
        return (*(column[near] for column in everything), tile, reasons, distance[near] * 3600)

    def _headers_of(self, shard: Shard) -> TileHeaders:
        key = str(shard.path)
        if key not in self._headers:
            self._headers[key] = TileHeaders(dict(zip(self.bands, shard.headers, strict=True)))
        return self._headers[key]

    def _shard(self, path: Path) -> Shard:
        """Return an open shard, from the last used ones if it is among them."""
        key = str(path)
        if key not in self._shards:
            shard = Shard(path)
            if (shard.info.bands, shard.info.size) != (self.bands, self.size):
                shard.close()
                raise ArchiveError(f"shard {path}: has not the bands and size of the archive: reindex it")
            self._shards[key] = shard
            if len(self._shards) > self._open_shards:
                old, shard = self._shards.popitem(last=False)
                shard.close()
                self._headers.pop(old, None)
        self._shards.move_to_end(key)
        return self._shards[key]


@dataclass
class _Source:
    """Where the planes of one cutout come from: through the archive, or after it is closed from the shard itself."""

    archive: Archive | None
    path: Path
    row: int | None
    origin: tuple[int, int]
    shape: Shape
    bands: tuple[int, ...]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the archive behind: a cutout sent to another process needs no index there."""
        return {**self.__dict__, "archive": None}

    def __call__(self, plane: str) -> NDArray[Any]:
        if self.archive is not None:
            with self.archive._lock:
                if self.archive._open_index is not None:
                    return self.read(self.archive._shard(self.path), plane)
        with Shard(self.path) as shard:
            return self.read(shard, plane)

    def read(self, shard: Shard, plane: str) -> NDArray[Any]:
        """Read one plane; the colour picture with the sky's top first."""
        if plane == "COLOR":
            return shard.read_color(*self.origin, self.shape)[::-1]
        if not self.bands:
            return np.empty((0, *self.shape), dtype=np.float32)
        data = np.empty((len(self.bands), *self.shape), dtype=np.int32 if plane == "MSK" else np.float32)
        bands = _as_slice(list(self.bands))
        if self.row is None or shard.info.layout == "mosaic":
            shard.read_window(*self.origin, bands, data, plane)
        else:
            shard.read(self.row, self.shape, bands, data, plane)
        return data


def _check_row(shard: Shard, table: ObjectTable, row: int, object_id: int) -> None:
    """Make sure that a row is the object's that the index says it is."""
    if not 0 <= row < len(table.object_id) or table.object_id[row] != object_id:
        raise ArchiveError(f"shard {shard.path}: row {row} is not of object {object_id}: verify or reindex the archive")


def _whole_number(object_id: int) -> int:
    return int(_whole_numbers([object_id])[0])


def _whole_numbers(object_ids: ArrayLike) -> NDArray[np.int64]:
    """Return object IDs as int64, refusing what is none."""
    ids = np.asarray(list(object_ids) if isinstance(object_ids, Iterable) else object_ids)
    if ids.ndim == 1 and len(ids) == 0:
        return np.empty(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.max() > np.iinfo(np.int64).max:
        raise RequestError(f"object IDs are 64-bit integers in one list, not {ids.dtype} of shape {ids.shape}")
    return ids.astype(np.int64)


def _as_slice(numbers: list[int]) -> list[int] | slice:
    """Return consecutive numbers as a slice, which numpy takes without a copy."""
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return numbers


_archives: weakref.WeakSet[Archive] = weakref.WeakSet()
"""All archives open in this process."""

_abandoned: list[object] = []
"""What a child has from its parent: SQLite connections that were open across a fork must not even be closed."""


def _begin_again() -> None:
    """In a forked child, give every archive files and a lock of its own."""
    for archive in list(_archives):
        if archive._open_index is not None:
            _abandoned.append((archive._open_index, archive._shards, archive._lock))
            archive._open_index = None
            archive._lock, archive._answering = threading.RLock(), False
            # An archive that has gone is a closed one here; it must not keep the others from their own files.
            with suppress(ArchiveError):
                archive._begin()


os.register_at_fork(after_in_child=_begin_again)
