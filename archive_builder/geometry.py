"""The rule of the cut: sky to pixels, sizes, windows and footprints.

Pixels are 0-based, as in :meth:`astropy.wcs.WCS.all_world2pix` with origin 0; ``x`` runs along a row. Shapes are
``(ny, nx)``, as in numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from astropy.coordinates import angular_separation
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError
from archive_builder.units import Length, parse_length

Shape: TypeAlias = tuple[int, int]
"""Rows and columns of an image, ``(ny, nx)``."""

Size: TypeAlias = "Length | tuple[Length, Length]"
"""Side of a square cutout, or ``(ny, nx)``."""


def window_origin(x: ArrayLike, y: ArrayLike, shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first column and row of the cutouts around pixel positions: the rule of the cut.

    The cutout of an object at ``(x, y)`` is ``tile[y0:y0 + ny, x0:x0 + nx]`` where that lies on the tile.

    Parameters
    ----------
    x, y : array_like of float
        Pixel positions on the tile; finite.
    shape : (ny, nx)
        Size of the cutout, px.

    Returns
    -------
    x0, y0 : ndarray of int64
        First column and row; negative for a cutout that hangs over the tile's edge.

    Examples
    --------
    >>> x0, y0 = window_origin(100.4, 60.0, (64, 64))
    >>> int(x0), int(y0)
    (68, 28)
    """
    ny, nx = shape
    return nearest_pixel(x) - nx // 2, nearest_pixel(y) - ny // 2


def nearest_pixel(position: ArrayLike) -> NDArray[np.int64]:
    """Return the pixel at a coordinate; an exact half goes to the even pixel."""
    return np.rint(np.asarray(position, dtype=np.float64)).astype(np.int64)


def recrop_offset(archived: Shape, shape: Shape) -> tuple[int, int]:
    """Return the first row and column of a window inside a larger window around the same object.

    Parameters
    ----------
    archived, shape : (ny, nx)
        Shapes of the larger window and of the wanted window, px.

    Returns
    -------
    (dy, dx) : tuple of int
        ``window_origin(x, y, shape) - window_origin(x, y, archived)``, the same for every ``x`` and ``y``.
    """
    return archived[0] // 2 - shape[0] // 2, archived[1] // 2 - shape[1] // 2


def parse_shape(size: Size, pixel_scale: float) -> Shape:
    """Return a size in pixels.

    Parameters
    ----------
    size : int, str, Quantity, or a pair ``(ny, nx)`` of them
        Pixels (``64``, ``"64"``, ``"64px"``) or an angle (``"0.5arcmin"``, ``30 * u.arcsec``). An angle becomes
        ``round(angle / pixel_scale)`` pixels.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    (ny, nx) : tuple of int

    Raises
    ------
    RequestError
        The size cannot be read, or is less than one pixel.

    Examples
    --------
    >>> parse_shape("1 arcmin", 0.263)
    (228, 228)
    """
    if isinstance(size, tuple | list):
        if len(size) != 2:
            raise RequestError(f"size {size!r} has {len(size)} sides: give one side or (ny, nx)")
        return _side(size[0], pixel_scale), _side(size[1], pixel_scale)
    side = _side(size, pixel_scale)
    return side, side


def _side(length: Length, pixel_scale: float) -> int:
    """Return one side in pixels."""
    if type(length) is int and length > 0:  # the usual case; this runs for every object
        return length
    value, unit = parse_length(length)
    pixels = float(np.rint(value / pixel_scale)) if unit == "arcsec" else value
    if not np.isfinite(pixels) or pixels != int(pixels) or pixels < 1:
        raise RequestError(f"size {length!r} is not a whole number of pixels above zero: give 1 pixel or more")
    return int(pixels)


def pixel_scale(wcs: WCS) -> float:
    """Return the pixel scale of a WCS, arcsec: the geometric mean of its two axes at the reference pixel."""
    scales = proj_plane_pixel_scales(wcs.celestial) * 3600.0
    return float(np.sqrt(scales[0] * scales[1]))


def sky_to_pixel(
    wcs: WCS, shape: Shape, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel positions of sky positions, NaN for positions far from the image.

    A projection also maps the far side of the sky to pixels, and a distortion polynomial may not converge far from the
    image. So only positions within 1.1 radii of the image's circumscribed circle are transformed.

    Parameters
    ----------
    wcs : WCS
        WCS of the image.
    shape : (ny, nx)
        Shape of the image, px.
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS.

    Returns
    -------
    x, y : ndarray of float64, (N,)
        Pixel positions from 0, from ``all_world2pix(ra, dec, 0)``.
    """
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    centre = wcs.all_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    corners = footprint(wcs, shape)
    radius = _separation(centre[0], centre[1], corners[:, 0], corners[:, 1]).max()
    near = _separation(centre[0], centre[1], ra, dec) < 1.1 * radius
    try:
        x[near], y[near] = wcs.all_world2pix(ra[near], dec[near], 0)
    except NoConvergence as failure:
        x[near], y[near] = failure.best_solution.T
    return x, y


def _separation(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> NDArray[np.float64]:
    """Return the angles between positions, deg, from RA and Dec in deg."""
    return np.asarray(np.degrees(angular_separation(*(np.radians(a) for a in (ra1, dec1, ra2, dec2)))))


def footprint(wcs: WCS, shape: Shape) -> NDArray[np.float64]:
    """Return the sky positions of an image's outer corners.

    Parameters
    ----------
    wcs : WCS
        WCS of the image.
    shape : (ny, nx)
        Shape of the image, px.

    Returns
    -------
    ndarray of float64, (4, 2)
        RA and Dec, deg, in the order (x, y) = low-low, high-low, high-high, low-high.
    """
    ny, nx = shape
    x = np.array([0, nx, nx, 0]) - 0.5
    y = np.array([0, 0, ny, ny]) - 0.5
    return np.column_stack(wcs.all_pix2world(x, y, 0))


def wcs_offset(wcs: WCS, other: WCS, shape: Shape) -> float:
    """Return the largest distance between the positions that two WCS give the same pixel, px.

    Parameters
    ----------
    wcs, other : WCS
        The two WCS of one image.
    shape : (ny, nx)
        Shape of the image, px. The WCS are compared at its corners, the middles of its edges and its centre.
    """
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, n - 1, 3) for n in shape[::-1])))
    ra, dec = other.all_pix2world(x, y, 0)
    back_x, back_y = sky_to_pixel(wcs, shape, ra, dec)
    return float(np.nan_to_num(np.hypot(back_x - x, back_y - y), nan=np.inf).max())


def window_pieces(
    x0: int, y0: int, window: Shape, image: Shape, side: int
) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """Cut a window of an image into pieces along a grid of squares.

    Parameters
    ----------
    x0, y0 : int
        First column and row of the window, which may hang over the image's edge.
    window, image : (ny, nx)
        Shapes of the window and of the image, px.
    side : int
        Side of a square, px; the squares at the image's far edges may be smaller.

    Yields
    ------
    row, column : int
        Place in the grid of a square that the window touches.
    inside, place : pair of slice
        Rows and columns of the piece in the square, and in the window.
    """
    y1, x1 = min(y0 + window[0], image[0]), min(x0 + window[1], image[1])
    for row in range(max(y0, 0) // side, -(-y1 // side)):
        top = row * side
        low, high = max(y0, top), min(y1, top + side)
        for column in range(max(x0, 0) // side, -(-x1 // side)):
            edge = column * side
            left, right = max(x0, edge), min(x1, edge + side)
            inside = slice(low - top, high - top), slice(left - edge, right - edge)
            yield row, column, inside, (slice(low - y0, high - y0), slice(left - x0, right - x0))
