"""Images of one tile: pixels in strips of rows, headers, WCS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.errors import TileError, one_line
from archive_builder.survey.fits_warnings import quiet_astropy

WCS_TOLERANCE = 0.01
"""Maximum distance between the pixel positions of the same sky in two bands of a tile, px."""


class Tile:
    """The images of one tile, open for reading.

    Parameters
    ----------
    images : mapping of str to Path
        FITS file of each band: plain, gzipped or fpacked.
    hdu : str, int or None
        Name or number of the image HDU; None for the first image HDU.
    blank_value : float or None
        A pixel value that means no data, besides NaN.
    planes : sequence of str
        Further HDUs to read: ``WGT``, ``MSK``.

    Attributes
    ----------
    bands : tuple of str
    headers : tuple of astropy.io.fits.Header
        Image header of each band, in the form for an uncompressed image.
    wcs : WCS
        WCS of the first band; the other bands agree to `WCS_TOLERANCE`.
    shape : (ny, nx)

    Raises
    ------
    TileError
        A file cannot be read, or lacks the HDU or a WCS, or the bands do not share their pixels.
    """

    def __init__(
        self,
        images: Mapping[str, Path],
        hdu: str | int | None = None,
        blank_value: float | None = None,
        planes: Sequence[str] = (),
    ) -> None:
        self.bands = tuple(images)
        self._paths = tuple(images.values())
        self._blank_value = None if blank_value is None else np.float32(blank_value)
        self._files: list[fits.HDUList] = []
        self._hdus: dict[str, list[fits.ImageHDU]] = {}
        try:
            for path in self._paths:
                self._files.append(self._open(path))
            self._hdus = {plane: self._images(plane) for plane in planes}
            self._hdus["SCI"] = self._images(hdu)
            self.headers = tuple(image.header for image in self._hdus["SCI"])
            self.shape: geometry.Shape = self._common_shape()
            self.wcs = self._common_wcs()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def read(self, y0: int, y1: int, plane: str = "SCI") -> NDArray[Any]:
        """Read rows ``y0:y1`` of all bands.

        Parameters
        ----------
        y0, y1 : int
        plane : str
            ``SCI`` for the image, or one of the further HDUs: ``WGT``, ``MSK``.

        Returns
        -------
        ndarray, (bands, y1 - y0, nx)
            float32, NaN for no data; int32 for ``MSK``.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        dtype = np.int32 if plane == "MSK" else np.float32
        rows = np.empty((len(self.bands), y1 - y0, self.shape[1]), dtype=dtype)
        for band in range(len(self.bands)):
            self.read_band(band, y0, y1, rows[band], plane)
        return rows

    def read_band(self, band: int, y0: int, y1: int, out: NDArray[Any], plane: str = "SCI") -> None:
        """Read rows ``y0:y1`` of one band, given by its number, into `out`, (y1 - y0, nx).

        Raises
        ------
        TileError
            The rows cannot be read, or a mask has a value beyond 32 bits.
        """
        path = self._paths[band]
        with _readable(path, f"rows {y0} to {y1} cannot be read", "the file is damaged or truncated, replace it"):
            rows = self._hdus[plane][band].section[y0:y1]
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(out, rows, casting="unsafe")
        if plane == "SCI" and self._blank_value is not None:
            out[out == self._blank_value] = np.nan
        if plane == "MSK" and not np.can_cast(rows.dtype, out.dtype) and (rows != out).any():
            raise TileError(f"{path}: MSK has values that are not 32-bit integers: remove MSK from storage.planes")

    def _open(self, path: Path) -> fits.HDUList:
        with _readable(path):
            # With uint=True, astropy returns the BLANK of a uint16 image as a number.
            return fits.open(path, memmap=False, uint=False)

    def _images(self, hdu: str | int | None) -> list[fits.ImageHDU]:
        """Return one HDU from the file of each band; refuse a truncated file."""
        images = []
        for file, path in zip(self._files, self._paths, strict=True):
            with _readable(path):
                images.append(_select(file, hdu, path))
                _check_whole(images[-1], file, path)
        return images

    def _common_shape(self) -> geometry.Shape:
        ny, nx = self._hdus["SCI"][0].shape
        for plane, images in self._hdus.items():
            for band, image in zip(self.bands, images, strict=True):
                if image.shape != (ny, nx):
                    what = band if plane == "SCI" else f"{band}'s {plane}"
                    raise TileError(
                        f"band {what} is {_by(image.shape)} px but band {self.bands[0]} is {_by((ny, nx))}: "
                        "all bands of a tile must share their pixels"
                    )
        return ny, nx

    def _common_wcs(self) -> WCS:
        solutions = [_wcs(header, path) for header, path in zip(self.headers, self._paths, strict=True)]
        for band, solution in zip(self.bands, solutions, strict=True):
            offset = geometry.wcs_offset(solutions[0], solution, self.shape)
            if offset > WCS_TOLERANCE:
                raise TileError(
                    f"band {band}'s WCS is off band {self.bands[0]}'s by {offset:.3g} px "
                    f"(at most {WCS_TOLERANCE} px is allowed): resample the bands to common pixels"
                )
        return solutions[0]


@contextmanager
def _readable(path: Path, trouble: str = "cannot be read as FITS", remedy: str = "replace the file") -> Iterator[None]:
    """Turn an error of astropy into one that names the file and the remedy."""
    try:
        with quiet_astropy():
            yield
    except (TileError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises many classes, some without a public name
        raise TileError(f"{path}: {trouble} ({one_line(error)}): {remedy}") from None


def _select(file: fits.HDUList, hdu: str | int | None, path: Path) -> fits.ImageHDU:
    """Return the requested HDU, or the first 2-D image."""
    if hdu is None:
        images = (h for h in file if h.is_image and h.header.get("NAXIS") == 2)
        image = next(images, None)
        if image is None:
            raise TileError(f"{path}: holds no 2-D image: correct survey.image")
        return image
    there = ", ".join(f"{number} {h.name}".strip() for number, h in enumerate(file))
    try:
        image = file[hdu]
    except (KeyError, IndexError):
        raise TileError(
            f"{path}: has no HDU {hdu} (it has {there}): set survey.image_hdu, or replace the file"
        ) from None
    if not image.is_image or image.header.get("NAXIS") != 2:
        raise TileError(f"{path}: HDU {hdu} is not a 2-D image (the file has {there}): set survey.image_hdu")
    return image


def _check_whole(image: fits.ImageHDU, file: fits.HDUList, path: Path) -> None:
    """Refuse an image without pixels, and a file that ends inside its last HDU."""
    if not all(isinstance(n, int) and n > 0 for n in image.shape):
        raise TileError(f"{path}: the header gives the image no size: replace the file")
    end = max(place["datLoc"] + place["datSpan"] for hdu in file if (place := hdu.fileinfo()))
    # Some programs leave out the padding of the last 2880-byte block; all pixels are still present.
    if path.suffix != ".gz" and path.stat().st_size <= end - 2880:
        raise TileError(f"{path}: the file is truncated: replace it")


def _wcs(header: fits.Header, path: Path) -> WCS:
    """Return the celestial WCS of an image."""
    with _readable(path, "its WCS cannot be used", "correct the header"):
        wcs = WCS(header)
        if wcs.has_celestial and wcs.naxis == 2:
            wcs.all_pix2world(0.0, 0.0, 0)
            return wcs
    raise TileError(f"{path}: the image has no sky coordinates: correct survey.image_hdu, or replace the file")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))
