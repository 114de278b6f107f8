"""Orientation of pictures: north up and east left by the WCS, by quarter turns or by resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, WcsError
from astropy.wcs.wcsapi import BaseLowLevelWCS
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError, TileError
from archive_builder.frames import frame_of
from archive_builder.geometry import Shape, pixel_to_sky, sky_to_pixel, unit_vectors
from archive_builder.serve.style import Rotate

Number = TypeVar("Number", np.uint8, np.float32)

LEAST_DETERMINANT = 1e-3
"""Sine of the smallest angle between the two pixel axes on the sky. A WCS with less is degenerate."""


@dataclass(frozen=True)
class SkyGrid:
    """Place and orientation of a cutout's pixels on the sky."""

    wcs: WCS
    """WCS of the tile."""

    shape: Shape
    """Rows and columns of the cutout."""

    centre: tuple[float, float]
    """RA and Dec of the cutout's centre, deg, ICRS."""

    steps: NDArray[np.float64]
    """Change of (x, y) per degree towards the east and towards the north, px, (2, 2)."""

    own_wcs: Callable[[], WCS]
    """Returns the WCS of the cutout."""

    @classmethod
    def of(cls, wcs: WCS, origin: tuple[int, int], shape: Shape, tile: str, own_wcs: Callable[[], WCS]) -> SkyGrid:
        """Return the grid of a cutout.

        The derivatives are central differences of unit vectors over one pixel at the centre. They hold at the poles
        and across RA 0, and for every projection, parity, axis order and celestial frame.

        Parameters
        ----------
        wcs : WCS
            WCS of the tile.
        origin : tuple of int
            Column and row of the cutout's first pixel on the tile.
        shape : (ny, nx)
            Rows and columns of the cutout.
        tile : str
            Name of the tile, for the error.
        own_wcs : callable
            Returns the WCS of the cutout, which only a resampling needs.

        Raises
        ------
        RequestError
            The WCS gives the centre no position, or no two directions.
        """
        x, y = (start + (n - 1) / 2 for start, n in zip(origin, shape[::-1], strict=True))
        around = x + np.array([0, 0.5, -0.5, 0, 0]), y + np.array([0, 0, 0, 0.5, -0.5])
        try:
            ra, dec = pixel_to_sky(wcs, *around)
        except (TileError, WcsError):  # axes of no celestial frame, or a degenerate matrix
            ra = dec = np.full(5, np.nan)
        sky = unit_vectors(ra, dec)
        derivatives = _east_north(ra[0], dec[0]) @ np.stack([sky[1] - sky[2], sky[3] - sky[4]], axis=-1)
        lengths = np.linalg.norm(derivatives, axis=0)
        if not abs(_determinant(derivatives)) > LEAST_DETERMINANT * np.prod(lengths):
            raise RequestError(
                f"tile {tile}: its WCS gives no north at pixel ({x}, {y}), the centre of the cutout: "
                "correct the header and build again, or write fits or npy"
            )
        steps = np.linalg.inv(np.degrees(derivatives)).T
        return cls(wcs, shape, (float(ra[0]), float(dec[0])), steps, own_wcs)

    @property
    def turn(self) -> Turn:
        """The turn that brings north up and east left."""
        return Turn.nearest(self.steps)

    def north_up(self, images: NDArray[np.float32], rotate: Rotate) -> NDArray[np.float32]:
        """Return images with north up and east left.

        Parameters
        ----------
        images : ndarray of float32, (n, ny, nx)
            Row 0 is the tile's lowest, as in FITS.
        rotate : ``"quarter"`` or ``"north"``
            The nearest quarter turn, or a resampling.

        Returns
        -------
        ndarray of float32, (n, ny', nx')
            Row 0 is the top; a view after a turn. NaN where a resampling has no data.
        """
        if rotate == "north":
            return self.resampled(images)[:, ::-1]
        return self.turn.image(images[:, ::-1], axes=(1, 2))

    def picture_up(self, picture: NDArray[np.uint8], rotate: Rotate) -> NDArray[np.uint8]:
        """Return a picture, (ny, nx, 3) with the tile's last row as row 0, with north up; black without data."""
        if rotate == "quarter":
            return np.ascontiguousarray(self.turn.image(picture))
        values = self.resampled(np.moveaxis(picture[::-1], -1, 0))[:, ::-1]
        return np.rint(np.moveaxis(np.nan_to_num(values), 0, -1)).astype(np.uint8)

    def directions(self, rotate: Rotate) -> NDArray[np.float64]:
        """Return the directions of east and north in a picture, unit vectors (x, y) with y up, (2, 2)."""
        return np.array([[-1.0, 0.0], [0.0, 1.0]]) if rotate == "north" else self.turn.directions(self.steps)

    def north_up_grid(self) -> tuple[WCS, Shape]:
        """Return the TAN grid of the same centre, pixel scale and size with north exactly up and east left."""
        ny, nx = self.shape[::-1] if self.turn.quarters % 2 else self.shape
        scale = 1 / np.sqrt(abs(_determinant(self.steps)))
        grid = WCS(naxis=2)
        grid.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        grid.wcs.crval = self.centre
        grid.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
        grid.wcs.cdelt = [-scale, scale]
        grid.wcs.lonpole = 180.0  # the default differs at the north pole
        grid.wcs.radesys = (self.wcs.wcs.radesys or "FK5") if frame_of(self.wcs) is None else "ICRS"
        grid.wcs.equinox = 2000.0 if grid.wcs.radesys == "FK5" else np.nan
        grid.wcs.set()
        return grid, (ny, nx)

    def resampled(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return images on the grid of :meth:`north_up_grid`, bilinear by ``reproject``, of the pixels with data.

        Parameters
        ----------
        images : ndarray, (n, ny, nx)
            Row 0 is that of the tile's first row, as in FITS.

        Returns
        -------
        ndarray of float32, (n, ny', nx')
            NaN outside the cutout, and where pixels without data have half of the weight or more.
        """
        from reproject import reproject_interp

        grid, shape = self.north_up_grid()
        if not len(images):
            return np.empty((0, *shape), dtype=np.float32)
        own, has_data = _for_reproject(self.own_wcs(), self.shape), np.isfinite(images)
        if has_data.all():
            return np.asarray(reproject_interp((images, own), grid, shape_out=shape)[0], dtype=np.float32)
        both = np.concatenate([np.where(has_data, images, 0), has_data])
        both, _ = reproject_interp((both, own), grid, shape_out=shape)
        values, weight = both[: len(images)], both[len(images) :]
        mean = np.divide(values, weight, out=np.full(values.shape, np.nan), where=weight > 0.5)
        return np.asarray(mean, dtype=np.float32)


def _for_reproject(wcs: WCS, shape: Shape) -> WCS | BaseLowLevelWCS:
    """Return the WCS of an image in a form whose celestial frame ``reproject`` reads as this package does."""
    return wcs if frame_of(wcs) is None else IcrsGrid(wcs, shape)


class IcrsGrid(BaseLowLevelWCS):  # type: ignore[misc]
    """The WCS of an image in another frame, as a grid of ICRS positions.

    Parameters
    ----------
    wcs : WCS
        WCS of the image, in any frame of `archive_builder.frames`.
    shape : (ny, nx)
        Shape of the image, px.
    """

    pixel_n_dim = world_n_dim = 2
    world_axis_physical_types = ("pos.eq.ra", "pos.eq.dec")
    world_axis_units = ("deg", "deg")
    world_axis_object_components = (("sky", 0, "spherical.lon.degree"), ("sky", 1, "spherical.lat.degree"))
    world_axis_object_classes: ClassVar[dict[str, Any]] = {"sky": (SkyCoord, (), {"frame": "icrs", "unit": "deg"})}

    def __init__(self, wcs: WCS, shape: Shape) -> None:
        self._wcs, self._shape = wcs, shape

    def pixel_to_world_values(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return RA and Dec of pixels, deg."""
        return pixel_to_sky(self._wcs, x, y)

    def world_to_pixel_values(self, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the pixels of RA and Dec, deg; NaN far from the image."""
        alpha, delta = (np.asarray(axis, dtype=np.float64) for axis in (ra, dec))
        x, y = sky_to_pixel(self._wcs, self._shape, alpha.ravel(), delta.ravel())
        return x.reshape(alpha.shape), y.reshape(alpha.shape)


@dataclass(frozen=True)
class Turn:
    """A flip and quarter turns of a picture with row 0 at the top."""

    is_mirrored: bool
    """True if left and right change places before the turn."""

    quarters: int
    """Quarter turns counterclockwise, 0 to 3."""

    @classmethod
    def nearest(cls, steps: NDArray[np.float64]) -> Turn:
        """Return the turn that brings north up and east left, to the nearest quarter.

        Parameters
        ----------
        steps : ndarray of float64, (2, 2)
            Directions of east and north, (x, y) with y up.
        """
        is_mirrored = bool(_determinant(steps) > 0)
        east, north = _mirrored(steps, is_mirrored)
        # The mean of north and of east turned to north, against the upward axis.
        mean = _complex(north) - 1j * _complex(east)
        quarters = round(float(np.angle(1j / mean)) / (np.pi / 2), 6)  # 45 deg gives one result on all machines
        return cls(is_mirrored, int(np.rint(quarters)) % 4)

    def image(self, image: NDArray[Number], axes: tuple[int, int] = (0, 1)) -> NDArray[Number]:
        """Return a view of an image after the turn.

        Parameters
        ----------
        image : ndarray
            Row 0 is the top.
        axes : tuple of int
            Axes of the rows and columns.
        """
        return np.rot90(np.flip(image, axes[1]) if self.is_mirrored else image, self.quarters, axes)

    def directions(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return directions (x, y) after the turn, unit vectors with y up, (2, 2)."""
        turned = [_complex(step) * 1j**self.quarters for step in _mirrored(steps, self.is_mirrored)]
        return np.array([[step.real, step.imag] for step in turned])


def _determinant(matrix: NDArray[np.float64]) -> float:
    """Return the determinant of a matrix, (2, 2); NaN passes without numpy's warning."""
    return float(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])


def _mirrored(steps: NDArray[np.float64], is_mirrored: bool) -> NDArray[np.float64]:
    return steps * (-1, 1) if is_mirrored else steps


def _complex(step: NDArray[np.float64]) -> complex:
    """Return a direction as a complex number of length 1."""
    return complex(*(step / np.hypot(*step)))


def _east_north(ra: float, dec: float) -> NDArray[np.float64]:
    """Return the unit vectors towards the east and the north at a position, (2, 3)."""
    alpha, delta = np.radians(ra), np.radians(dec)
    east = -np.sin(alpha), np.cos(alpha), 0.0
    north = -np.sin(delta) * np.cos(alpha), -np.sin(delta) * np.sin(alpha), np.cos(delta)
    return np.array([east, north])
