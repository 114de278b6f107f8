"""Positions on the sky, the tiles on which they lie, and the objects around them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError
from archive_builder.geometry import unit_vectors
from archive_builder.measure.quality import Status
from archive_builder.object_ids import IdKind, no_ids
from archive_builder.store.shard_reader import Shard

CELL = 0.5
"""Side of the cells of the tile lookup, deg; DES's tiles are 0.73 deg wide."""

Position: TypeAlias = SkyCoord | tuple[float, float]
"""A position on the sky; a pair is RA and Dec, deg, ICRS."""

CONE_COLUMNS: dict[str, type] = {
    "object_id": np.int64,
    "ra": np.float64,
    "dec": np.float64,
    "tile": str,
    "status": str,
    "separation": np.float64,
}
"""Columns of a cone search, and their types; text IDs are str."""


def ra_dec(position: Position) -> tuple[float, float]:
    """Return the RA and Dec of a position, deg, ICRS.

    Raises
    ------
    RequestError
        The position cannot be read, or is not on the sky.
    """
    try:
        if isinstance(position, SkyCoord):
            ra, dec = float(position.icrs.ra.deg), float(position.icrs.dec.deg)
        else:
            ra, dec = (float(value) for value in position)
    except (TypeError, ValueError):
        raise RequestError(f"position {position!r} cannot be read: give a SkyCoord, or RA and Dec in deg") from None
    if not (np.isfinite(ra) and abs(dec) <= 90):
        raise RequestError(f"RA {ra}, Dec {dec} is not a position on the sky: give deg")
    return ra % 360, dec


def separation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle between unit vectors (..., 3), deg, exact for small and large angles alike."""
    return np.asarray(2 * np.degrees(np.arcsin(np.clip(np.linalg.norm(one - other, axis=-1) / 2, 0, 1))))


def objects_within(shard: Shard, ra: float, dec: float, limit: float) -> tuple[NDArray[Any], ...]:
    """Return the objects of a shard within ``limit`` deg of a position, as columns of `CONE_COLUMNS`."""
    stored, skipped = shard.objects, shard.skipped
    columns = [np.concatenate([getattr(t, name) for t in (stored, skipped)]) for name in ("object_id", "ra", "dec")]
    status = np.concatenate([np.zeros(len(stored.ra), dtype=np.uint8), shard.reason])
    distance = separation(unit_vectors(columns[1], columns[2]), unit_vectors(ra, dec))
    near = np.flatnonzero((distance <= limit) & (status != Status.ELSEWHERE))  # the owner's row is enough
    names = np.array([Status(s).name.lower() for s in status[near]], dtype=str)
    tile = np.full(len(near), shard.info.tile)
    return (*(column[near] for column in columns), tile, names, distance[near] * 3600)


def separation_table(parts: list[tuple[NDArray[Any], ...]], id_kind: IdKind = "integer") -> Table:
    """Return columns of several shards as one table of `CONE_COLUMNS`, the nearest object first."""
    empty = [no_ids(id_kind), *(np.empty(0, dtype=kind) for kind in list(CONE_COLUMNS.values())[1:])]
    columns = {
        name: np.concatenate([empty[number], *(part[number] for part in parts)])
        for number, name in enumerate(CONE_COLUMNS)
    }
    table = Table(columns, units={"ra": "deg", "dec": "deg", "separation": "arcsec"})
    table.sort("separation")
    return table


class Footprints:
    """The footprints of an archive's tiles, in a grid of cells for fast lookups.

    The edges of a tile are great circles, as those of every tangent-plane image are. A position is inside if it lies
    on the inner side of all four edges; its depth is its distance from the nearest edge.

    Parameters
    ----------
    corners : ndarray of float64, (tiles, 4, 2)
        RA and Dec of each tile's corners, deg, in order around the tile; four times the centre for an image whose
        corners are off the sky, see :func:`archive_builder.geometry.footprint`.

    Attributes
    ----------
    centers : ndarray of float64, (tiles, 3)
        Centres, unit vectors.
    radii : ndarray of float64, (tiles,)
        Distance of the farthest corner from the centre, deg.
    """

    def __init__(self, corners: NDArray[np.float64]) -> None:
        vectors = unit_vectors(corners[..., 0], corners[..., 1]).reshape(-1, 4, 3)
        middle = vectors.sum(axis=1)
        self.centers = middle / np.linalg.norm(middle, axis=-1, keepdims=True)
        # Four equal corners: the image is no polygon, its corners are off the sky. Any position may be on the image.
        self._anywhere = (vectors == vectors[:, :1]).all(axis=(1, 2))
        self.radii = separation(vectors, self.centers[:, None]).max(axis=1, initial=0.0)
        self.radii[self._anywhere] = 180.0
        edges = np.cross(vectors, np.roll(vectors, -1, axis=1))
        edges /= np.where(self._anywhere[:, None, None], 1.0, np.linalg.norm(edges, axis=-1, keepdims=True))
        # The centre is inside, whatever the direction in which the corners are listed.
        self._edges = edges * np.sign((edges * self.centers[:, None]).sum(axis=-1, keepdims=True))
        self._first, self._filed = self._file()

    def find(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
        """Return the tile on which each position lies; where tiles overlap, the one where it lies deepest inside.

        Parameters
        ----------
        ra, dec : array_like of float, (N,)
            Deg.

        Returns
        -------
        ndarray of int64, (N,)
            Number of the tile; -1 for a position on no tile, and for a position that is not finite.
        """
        ra, dec = np.atleast_1d(np.asarray(ra, dtype=np.float64)), np.atleast_1d(np.asarray(dec, dtype=np.float64))
        on_sky = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
        position = unit_vectors(np.where(on_sky, ra, 0), np.where(on_sky, dec, 0))
        cell = self._cell(np.where(on_sky, ra, 0), np.where(on_sky, dec, 0))
        best, deepest = np.full(len(ra), -1, dtype=np.int64), np.zeros(len(ra))
        count = np.where(on_sky, self._first[cell + 1] - self._first[cell], 0)
        for turn in range(count.max(initial=0)):
            asked = np.flatnonzero(count > turn)
            tile = self._filed[self._first[cell[asked]] + turn]
            depth = np.einsum("nek,nk->ne", self._edges[tile], position[asked]).min(axis=1)
            depth[self._anywhere[tile]] = np.finfo(np.float64).tiny  # every other tile comes first
            better = depth > deepest[asked]
            best[asked[better]], deepest[asked[better]] = tile[better], depth[better]
        return best

    def near(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Return the numbers of the tiles that may reach into a circle of ``radius`` deg, int64 (n,)."""
        distance = separation(self.centers, unit_vectors(ra, dec))
        return np.flatnonzero(distance <= self.radii + radius)

    def _cell(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the cell of each position. The cells are equal pieces of RA of bands of Dec."""
        band = np.minimum(((dec + 90) / CELL).astype(np.int64), len(_PIECES) - 1)
        piece = (np.mod(ra, 360) / 360 * _PIECES[band]).astype(np.int64)
        return np.asarray(_FIRST_CELL[band] + np.minimum(piece, _PIECES[band] - 1))

    def _file(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first element of each cell's list of tiles, and the lists, one after another."""
        cells, tiles = [], []
        center_dec = np.degrees(np.arcsin(self.centers[:, 2]))
        center_ra = np.degrees(np.arctan2(self.centers[:, 1], self.centers[:, 0]))
        for tile, (ra, dec, radius) in enumerate(zip(center_ra, center_dec, self.radii, strict=True)):
            for band in range(*_range(dec - radius + 90, dec + radius + 90, CELL, len(_PIECES))):
                touched = _touched_pieces(ra, dec, radius, _PIECES[band])
                cells.append(_FIRST_CELL[band] + touched)
                tiles.append(np.full(len(touched), tile))
        cell = np.concatenate([np.empty(0, dtype=np.int64), *cells])
        tile_numbers = np.concatenate([np.empty(0, dtype=np.int64), *tiles])
        order = np.argsort(cell, kind="stable")
        return np.searchsorted(cell[order], np.arange(_FIRST_CELL[-1] + 1)), tile_numbers[order]


def _touched_pieces(ra: float, dec: float, radius: float, pieces: int) -> NDArray[np.int64]:
    """Return the numbers of the equal pieces of RA of a band that a circle may touch, int64 (n,)."""
    if abs(dec) + radius >= 90:
        return np.arange(pieces)
    reach = np.degrees(np.arcsin(np.sin(np.radians(radius)) / np.cos(np.radians(dec))))
    first, last = (int(np.floor((ra + side) / 360 * pieces)) for side in (-reach, reach))
    return np.arange(first, last + 1)[:pieces] % pieces


def _range(low: float, high: float, step: float, most: int) -> tuple[int, int]:
    return max(0, int(low // step)), min(most, int(high // step) + 1)


_BAND_MIDDLES = (np.arange(int(180 / CELL)) + 0.5) * CELL - 90
_PIECES = np.maximum(1, np.rint(360 * np.cos(np.radians(_BAND_MIDDLES)) / CELL)).astype(np.int64)
_FIRST_CELL = np.concatenate([[0], np.cumsum(_PIECES)])
