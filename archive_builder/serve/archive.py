"""Lookup by object ID: where it is, its cutout, and the cutouts of many."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import (
    CutoutTooLargeError,
    NoArchiveError,
    ObjectNotFoundError,
    ObjectSkippedError,
    RequestError,
)
from archive_builder.geometry import Shape, Size, parse_shape, window_origin
from archive_builder.measure.quality import Status
from archive_builder.serve.cutout import Cutout
from archive_builder.store.index import Index, Places
from archive_builder.store.shard import Shard

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


class Archive:
    """An archive, open for lookups.

    It can be pickled, and used after a fork and from several threads; they take turns.

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
        self._begin()
        _archives.add(self)

    def _begin(self) -> None:
        """Open the index; nothing else is open yet."""
        self._lock = threading.RLock()
        self._shards: OrderedDict[str, Shard] = OrderedDict()
        self._tiles: dict[int, dict[str, Any]] = {}
        self._index = Index(self.path)
        settings = self._index.settings
        if not settings:
            raise NoArchiveError(f"{self.path} is an archive in which nothing has been built yet")
        self.bands: tuple[str, ...] = tuple(settings["bands"])
        self.size: int = settings["size"]

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
            self._index.close()

    def locate(self, object_id: int) -> Location:
        """Find an object without reading a pixel.

        Raises
        ------
        ObjectNotFoundError
            The archive does not know the ID.
        """
        object_id = _whole_number(object_id)
        with self._lock:
            places = self._index.find(np.array([object_id], dtype=np.int64))
            if places.tile_id[0] < 0:
                raise ObjectNotFoundError(object_id, self.path)
            tile = self._tile(int(places.tile_id[0]))
            status = Status(places.status[0]).name.lower()
            return Location(object_id, tile["name"], int(places.row[0]), status, self.path / tile["shard"])

    def get(self, object_id: int, size: Size | None = None, bands: Sequence[str] | None = None) -> Cutout:
        """Return an object's cutout.

        Parameters
        ----------
        object_id : int
        size : int, str, Quantity, or a pair ``(ny, nx)`` of them, optional
            Pixels or an angle, at most the archive's own size, which is the default.
        bands : str or sequence of str, optional
            In the order wanted, ``"gri"`` say; all by default.

        Raises
        ------
        ObjectNotFoundError
            The archive does not know the ID.
        ObjectSkippedError
            The object has no cutout; the error has the reason and the noise measured.
        CutoutTooLargeError
            The archive's cutouts are smaller.
        RequestError
            The size or a band makes no sense.
        ArchiveError
            The shard is missing or damaged.
        """
        with self._lock:
            where = self.locate(object_id)
            shard = self._shard(where.shard)
            if where.status != "stored":
                raise self._skipped(where.object_id, shard, where.row)
            shape = self._shape(size, shard.info.pixel_scale)
            chosen = self._band_numbers(bands)
            data = np.empty((len(chosen), *shape), dtype=np.float32)
            shard.read(where.row, shape, _as_slice(chosen), data)
            return self._cutout(shard, where.row, data, chosen)

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
        if missing not in ("raise", "blank"):
            raise RequestError(f'missing is {missing!r}: give "raise" or "blank"')
        ids = _whole_numbers(object_ids)
        with self._lock:
            places = self._index.find(ids)
            absent = (places.tile_id < 0) | (places.status != Status.STORED)
            if missing == "raise" and absent.any():
                self.get(int(ids[np.flatnonzero(absent)[0]]))  # raises what is the matter with it
            chosen = self._band_numbers(bands)
            # The pixel scale of the first tile stands for all: an angle must come out as one number of pixels.
            shape = self._shape(size, self._pixel_scale(places))
            data = np.empty((len(ids), len(chosen), *shape), dtype=np.float32)
            data[absent] = np.nan
            for shard, row, number in self._in_stored_order(places, np.flatnonzero(~absent)):
                shard.read(row, shape, _as_slice(chosen), data[number])
            return data

    def _in_stored_order(self, places: Places, numbers: NDArray[np.intp]) -> Iterator[tuple[Shard, int, int]]:
        """Yield the shard, the row and the number of each place, neighbours together."""
        order = numbers[np.lexsort((places.row[numbers], places.tile_id[numbers]))]
        tile_id, shard = -1, None
        for number, tile, row in zip(
            order.tolist(), places.tile_id[order].tolist(), places.row[order].tolist(), strict=True
        ):
            if tile != tile_id or shard is None:
                tile_id, shard = tile, self._shard(self.path / self._tile(tile)["shard"])
            yield shard, row, number

    def _pixel_scale(self, places: Places) -> float:
        """Return the pixel scale of the first tile among some places, in arcsec."""
        known = places.tile_id[places.tile_id >= 0]
        if len(known) == 0:
            return 1.0
        return self._shard(self.path / self._tile(int(known[0]))["shard"]).info.pixel_scale

    def _cutout(self, shard: Shard, row: int, data: NDArray[np.float32], chosen: list[int]) -> Cutout:
        objects = shard.objects
        x0, y0 = window_origin(objects.x[row], objects.y[row], (data.shape[1], data.shape[2]))
        bands = tuple(self.bands[i] for i in chosen)
        lossless = shard.info.quantization == "lossless"
        return Cutout(
            data=data,
            bands=bands,
            object_id=int(objects.object_id[row]),
            tile=shard.info.tile,
            ra=float(objects.ra[row]),
            dec=float(objects.dec[row]),
            origin=(int(x0), int(y0)),
            rms={self.bands[i]: float(objects.rms[row, i]) for i in chosen},
            step={self.bands[i]: 0.0 if lossless else shard.step[i] for i in chosen},
            tile_headers={self.bands[i]: shard.headers[i] for i in chosen},
        )

    def _skipped(self, object_id: int, shard: Shard, row: int) -> ObjectSkippedError:
        rms = dict(zip(self.bands, shard.skipped.rms[row].tolist(), strict=True))
        reason = Status(shard.reason[row]).name.lower()
        return ObjectSkippedError(object_id, shard.info.tile, reason, rms)

    def _shape(self, size: Size | None, pixel_scale: float) -> Shape:
        """Return a size in pixels, once it is known that the archive can serve it."""
        if size is None:
            return self.size, self.size
        shape = parse_shape(size, pixel_scale)
        if max(shape) > self.size:
            raise CutoutTooLargeError(
                f"a cutout of {shape[0]} x {shape[1]} px is larger than those of the archive {self.path}: "
                f"ask for at most {self.size} px"
            )
        return shape

    def _band_numbers(self, bands: Sequence[str] | None) -> list[int]:
        """Return which bands of the archive are wanted, in the order wanted."""
        if bands is None:
            return list(range(len(self.bands)))
        if unknown := [band for band in bands if band not in self.bands]:
            raise RequestError(f"the archive {self.path} has no band {unknown[0]!r}: it has {', '.join(self.bands)}")
        if not bands:
            raise RequestError(f"no band was asked for: the archive {self.path} has {', '.join(self.bands)}")
        return [self.bands.index(band) for band in bands]

    def _tile(self, tile_id: int) -> dict[str, Any]:
        if tile_id not in self._tiles:
            self._tiles[tile_id] = self._index.tile(tile_id)
        return self._tiles[tile_id]

    def _shard(self, path: Path) -> Shard:
        """Return an open shard, from the last used ones if it is among them."""
        key = str(path)
        if key not in self._shards:
            self._shards[key] = Shard(path)
            if len(self._shards) > self._open_shards:
                self._shards.popitem(last=False)[1].close()
        self._shards.move_to_end(key)
        return self._shards[key]


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
        _abandoned.append((archive._index, archive._shards, archive._lock))
        archive._begin()


os.register_at_fork(after_in_child=_begin_again)
