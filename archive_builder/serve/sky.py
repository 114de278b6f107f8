"""Positions on the sky, and which tile they lie on, for thousands of tiles and millions of positions."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError

CELL = 0.5
"""Side in deg of the cells in which tiles are filed; DES's tiles are 0.73 deg wide."""


Position: TypeAlias = SkyCoord | tuple[float, float]
"""A place on the sky: RA and Dec in deg, ICRS, if it is a pair."""


def ra_dec(position: Position) -> tuple[float, float]:
    """Return a position's RA and Dec in deg, ICRS."""
    try:
        if isinstance(position, SkyCoord):
            ra, dec = float(position.icrs.ra.deg), float(position.icrs.dec.deg)
        else:
            ra, dec = (float(value) for value in position)
    except (TypeError, ValueError):
        raise RequestError(f"position {position!r} cannot be read: give a SkyCoord, or RA and Dec in deg") from None
    if not (np.isfinite(ra) and abs(dec) <= 90):
        raise RequestError(f"RA {ra}, Dec {dec} is no position on the sky: give deg")
    return ra % 360, dec


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return positions in deg as vectors of length one, (..., 3)."""
    alpha, delta = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


def separation(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle between unit vectors (..., 3) in deg, exact for small and large ones alike."""
    return np.asarray(2 * np.degrees(np.arcsin(np.clip(np.linalg.norm(one - other, axis=-1) / 2, 0, 1))))


class Footprints:
    """The footprints of an archive's tiles, filed by where they are.

    A tile is taken to be bounded by great circles, as every tangent-plane image is: a position is inside where
    it is on the inner side of all four, and as deep as it is far from the nearest.

    Parameters
    ----------
    corners : ndarray of float64, (tiles, 4, 2)
        RA and Dec of each tile's corners in deg, in order around it.

    Attributes
    ----------
    centers : ndarray of float64, (tiles, 3)
        Unit vectors.
    radii : ndarray of float64, (tiles,)
        From the centre to the farthest corner, deg.
    """

    def __init__(self, corners: NDArray[np.float64]) -> None:
        vectors = unit_vectors(corners[..., 0], corners[..., 1]).reshape(-1, 4, 3)
        middle = vectors.sum(axis=1)
        self.centers = middle / np.linalg.norm(middle, axis=-1, keepdims=True)
        self.radii = separation(vectors, self.centers[:, None]).max(axis=1, initial=0.0)
        edges = np.cross(vectors, np.roll(vectors, -1, axis=1))
        edges /= np.linalg.norm(edges, axis=-1, keepdims=True)
        # Whichever way round the corners are listed, the centre is inside.
        self._edges = edges * np.sign((edges * self.centers[:, None]).sum(axis=-1, keepdims=True))
        self._first, self._filed = self._file()

    def find(self, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
        """Return the tile each position lies on, the one where it lies deepest inside if there are several.

        Parameters
        ----------
        ra, dec : array_like of float, (N,)
            Deg.

        Returns
        -------
        ndarray of int64, (N,)
            Number of the tile; -1 for a position on none, and for one that is not finite.
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
            better = depth > deepest[asked]
            best[asked[better]], deepest[asked[better]] = tile[better], depth[better]
        return best

    def near(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Return the tiles that may reach into a circle of ``radius`` deg; those that cannot are left out."""
        distance = separation(self.centers, unit_vectors(ra, dec))
        return np.flatnonzero(distance <= self.radii + radius)

    def _cell(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the cell of each position: bands of Dec, each cut into as many pieces of RA as fit."""
        band = np.minimum(((dec + 90) / CELL).astype(np.int64), len(_PIECES) - 1)
        piece = (np.mod(ra, 360) / 360 * _PIECES[band]).astype(np.int64)
        return np.asarray(_FIRST_CELL[band] + np.minimum(piece, _PIECES[band] - 1))

    def _file(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """File each tile under all cells it may touch: where each cell's list begins, and the lists."""
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
    """Return which of a band's equal pieces of RA a circle may touch."""
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
