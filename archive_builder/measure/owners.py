"""Choice of the row that owns an object ID: the row that lies deepest inside its tile."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from archive_builder.geometry import Shape

FAR_OFF = np.iinfo(np.int32).min
"""Depth of a row without a pixel position on or near its tile."""


def edge_depth(x: NDArray[np.float64], y: NDArray[np.float64], shape: Shape, pixel_scale: float) -> NDArray[np.int32]:
    """Return the depth of positions inside a tile: the distance to the nearest edge.

    Whole milliarcseconds: the rounding errors of a WCS do not decide between two rows at the same depth.

    Parameters
    ----------
    x, y : ndarray of float64, (N,)
        Pixel positions from 0; NaN far off the tile.
    shape : (ny, nx)
        Shape of the tile, px. The edges are half a pixel outside the outer pixel centres.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    ndarray of int32, (N,)
        Depth, milliarcsec; negative off the tile, `FAR_OFF` for NaN.

    Examples
    --------
    >>> edge_depth(np.array([99.5, -1.5]), np.array([9.5, 50.0]), (200, 200), 0.25)
    array([2500, -250], dtype=int32)
    """
    ny, nx = shape
    pixels = np.minimum(np.minimum(x + 0.5, nx - 0.5 - x), np.minimum(y + 0.5, ny - 0.5 - y))
    depth = np.nan_to_num(np.rint(pixels * pixel_scale * 1000), nan=FAR_OFF)
    return depth.clip(FAR_OFF, -(FAR_OFF + 1)).astype(np.int32)


def owns(object_id: NDArray[np.int64], depth: NDArray[np.int32], rank: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return True for the one row of each object ID that owns the ID.

    The deepest row owns the ID; of rows at the same depth, the one with the lowest rank.

    Parameters
    ----------
    object_id : ndarray of int64, (N,)
        Object IDs, repeats included.
    depth : ndarray of int32, (N,)
        Depth of each row; see :func:`edge_depth`.
    rank : ndarray of int, (N,)
        Place of each row in case of a tie: the number of its tile by name, or the number of its row. The rows of an ID
        have different ranks.

    Examples
    --------
    >>> owns(np.array([7, 8, 7]), np.array([10, 3, 20], np.int32), np.arange(3))
    array([False,  True,  True])
    """
    order = np.lexsort((rank, -depth.astype(np.int64), object_id))
    sorted_ids = object_id[order]
    is_owner = np.empty(len(object_id), dtype=bool)
    is_owner[order] = np.r_[True, sorted_ids[1:] != sorted_ids[:-1]][: len(object_id)]
    return is_owner


def repeated(object_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the object IDs that occur more than once, int64 (n,), in ascending order."""
    ids = np.sort(object_id)
    return np.unique(ids[1:][ids[1:] == ids[:-1]])
