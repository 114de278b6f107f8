"""The rule of the cut: sky to pixels, sizes, windows and footprints.

Pixels are 0-based, as in :meth:`astropy.wcs.WCS.all_world2pix` with origin 0; ``x`` runs along a row. Shapes are
``(ny, nx)``, as in numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, TypeVar

import numpy as np
from astropy.coordinates import angular_separation
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError, TileError
from archive_builder.frames import from_icrs, to_icrs
from archive_builder.units import Length, parse_length

Shape: TypeAlias = tuple[int, int]
"""Rows and columns of an image, ``(ny, nx)``."""

T = TypeVar("T")

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
    image. So only positions within 1.1 radii of the image's circumscribed circle are transformed. An image with a
    corner off the sky, an all-sky map for example, has no such circle.

    Parameters
    ----------
    wcs : WCS
        WCS of the image, in any celestial frame and axis order.
    shape : (ny, nx)
        Shape of the image, px.
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS.

    Returns
    -------
    x, y : ndarray of float64, (N,)
        Pixel positions from 0, from ``all_world2pix(ra, dec, 0)`` if the WCS is ICRS with RA first.

    Raises
    ------
    TileError
        The frame of the WCS is not supported.
    """
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    lon, lat = from_icrs(wcs, ra, dec)
    centre = _native_sky(wcs, (shape[1] - 1) / 2, (shape[0] - 1) / 2)
    corners = _native_sky(wcs, *_corners(shape))
    radius = _separation(*centre, *corners).max()
    near = _separation(*centre, lon, lat) < 1.1 * radius if np.isfinite(radius) else np.isfinite(lon + lat)
    try:
        x[near], y[near] = wcs.all_world2pix(*_in_axis_order(wcs, lon[near], lat[near]), 0)
    except NoConvergence as failure:
        x[near], y[near] = failure.best_solution.T
    return x, y


def pixel_to_sky(wcs: WCS, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sky positions of pixels.

    Parameters
    ----------
    wcs : WCS
        WCS of the image, in any celestial frame and axis order.
    x, y : array_like of float
        Pixel positions from 0.

    Returns
    -------
    ra, dec : ndarray of float64
        Deg, ICRS; NaN off the sky.

    Raises
    ------
    TileError
        The frame of the WCS is not supported.
    """
    return to_icrs(wcs, *_native_sky(wcs, x, y))


def _native_sky(wcs: WCS, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude of pixels in the frame of the WCS, deg; NaN off the sky."""
    return _in_axis_order(wcs, *(np.asarray(axis) for axis in wcs.all_pix2world(x, y, 0)))


def _in_axis_order(wcs: WCS, one: T, two: T) -> tuple[T, T]:
    """Return the two coordinates, swapped if the latitude is the first axis of the WCS."""
    return (one, two) if wcs.wcs.lng < wcs.wcs.lat else (two, one)


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return positions in deg as unit vectors, float64 (..., 3)."""
    alpha, delta = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1)


def _separation(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> NDArray[np.float64]:
    """Return the angles between positions, deg, from RA and Dec in deg."""
    return np.asarray(np.degrees(angular_separation(*(np.radians(a) for a in (ra1, dec1, ra2, dec2)))))


def _corners(shape: Shape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y of an image's outer corners, px, each (4,)."""
    ny, nx = shape
    return np.array([0, nx, nx, 0]) - 0.5, np.array([0, 0, ny, ny]) - 0.5


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
        RA and Dec, deg, ICRS, in the order (x, y) = low-low, high-low, high-high, low-high. If a corner is off the
        sky, four times the centre of the image: the image is no polygon on the sky.

    Raises
    ------
    TileError
        The frame of the WCS is not supported, or the centre of the image is off the sky too.
    """
    corners = np.column_stack(pixel_to_sky(wcs, *_corners(shape)))
    if np.isfinite(corners).all():
        return corners
    centre = np.array(pixel_to_sky(wcs, (shape[1] - 1) / 2, (shape[0] - 1) / 2))
    if not np.isfinite(centre).all():
        raise TileError("its WCS puts the centre of the image off the sky: correct the header")
    return np.tile(centre, (4, 1))


def wcs_offset(wcs: WCS, other: WCS, shape: Shape) -> float:
    """Return the largest distance between the positions that two WCS give the same pixel, px.

    Parameters
    ----------
    wcs, other : WCS
        The two WCS of one image.
    shape : (ny, nx)
        Shape of the image, px. The WCS are compared at its corners, the middles of its edges and its centre, where
        these are on the sky; infinite if one WCS puts a pixel on the sky and the other does not.
    """
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, n - 1, 3) for n in shape[::-1])))
    ra, dec = pixel_to_sky(other, x, y)
    both_off = np.isnan(ra) & np.isnan(pixel_to_sky(wcs, x, y)[0])
    back_x, back_y = sky_to_pixel(wcs, shape, ra, dec)
    distance = np.where(both_off, 0.0, np.hypot(back_x - x, back_y - y))
    return float(np.nan_to_num(distance, nan=np.inf).max())


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
