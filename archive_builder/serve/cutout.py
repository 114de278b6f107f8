"""A cutout: pixels, bands, WCS and headers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.errors import RequestError

STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|"
    r"EXTNAME|EXTVER|EXTLEVEL|INHERIT|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TILE\d+|CMPTYPE|NAME\d+|"
    r"VAL\d+|MASKCMP|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|SIMPLE|EXTEND|BLOCKED|HECKSUM|DATASUM)|"
    r"FZ(ALGOR|QMETHD|QVALUE|DTHRSD|TILE|INT2F)"
)
"""Cards that describe how the tile's file was laid out, not the sky; the last line is what fpack leaves."""

REFERENCE_PIXEL = re.compile(r"CRPIX([12])([A-Z]?)")
"""The cards that a cut moves, alternate WCS included."""


@dataclass(frozen=True)
class Cutout:
    """The pixels around one object.

    Attributes
    ----------
    data : ndarray of float32, (bands, ny, nx)
        Image units; NaN where the survey has no data, and off the tile.
    bands : tuple of str
        In the order of ``data``.
    object_id : int
    tile : str
        The tile it was cut from.
    ra, dec : float
        The object's position in deg, ICRS.
    origin : tuple of int
        Column and row of the tile, ``(x0, y0)`` from 0, on which ``data[:, 0, 0]`` lies.
    rms : dict of str to float
        Background RMS at the object per band, image units.
    step : dict of str to float
        Quantization step per band, image units: no pixel is off by more than half of it. 0 if lossless.
    tile_headers : dict of str to str
        The tile's FITS image header per band, a card a line.
    """

    data: NDArray[np.float32]
    bands: tuple[str, ...]
    object_id: int
    tile: str
    ra: float
    dec: float
    origin: tuple[int, int]
    rms: dict[str, float]
    step: dict[str, float]
    tile_headers: dict[str, str]

    @cached_property
    def coord(self) -> SkyCoord:
        """The object's position, ICRS."""
        return SkyCoord(self.ra, self.dec, unit="deg", frame="icrs")

    @cached_property
    def wcs(self) -> WCS:
        """The WCS of the cutout's pixels; all bands share it."""
        return WCS(self.header(self.bands[0]))

    def header(self, band: str) -> fits.Header:
        """Return the FITS header of one band's image.

        The tile's own, with NAXIS and CRPIX as the cut makes them, without what described the tile's file, and
        with the object, its tile, the noise and the quantization added.

        Parameters
        ----------
        band : str

        Raises
        ------
        RequestError
            The cutout does not have this band.
        """
        if band not in self.bands:
            raise RequestError(f"the cutout has no band {band}: it has {', '.join(self.bands)}")
        header = fits.Header.fromstring(self.tile_headers[band], sep="\n")
        for keyword in [keyword for keyword in header if STRUCTURE.fullmatch(keyword)]:
            header.remove(keyword, ignore_missing=True, remove_all=True)
        self._move_reference_pixels(header)
        header = self._image_cards(band) + header
        header.update(self._object_cards(band))
        return header

    def _move_reference_pixels(self, header: fits.Header) -> None:
        """Shift CRPIX by the cut's offset; a CRPIX that is not there stands for 0."""
        for axis in (1, 2):
            header.setdefault(f"CRPIX{axis}", 0.0)
        for keyword in list(header):
            if match := REFERENCE_PIXEL.fullmatch(keyword):
                header[keyword] -= self.origin[int(match[1]) - 1]

    def _image_cards(self, band: str) -> fits.Header:
        ny, nx = self.data.shape[1:]
        return fits.Header(
            [
                ("XTENSION", "IMAGE", "Image extension"),
                ("BITPIX", -32, "32-bit float"),
                ("NAXIS", 2),
                ("NAXIS1", nx),
                ("NAXIS2", ny),
                ("PCOUNT", 0),
                ("GCOUNT", 1),
                ("EXTNAME", f"SCI_{band}"),
            ]
        )

    def _object_cards(self, band: str) -> fits.Header:
        cards = [
            ("BAND", band, "Band of this image"),
            ("OBJECT", str(self.object_id), "Object ID of the survey"),
            ("OBJ_RA", self.ra, "[deg] Position of the object, ICRS"),
            ("OBJ_DEC", self.dec, "[deg] Position of the object, ICRS"),
            ("TILE", self.tile, "Tile this was cut from"),
            ("CUTX0", self.origin[0], "Tile column of the first pixel, from 0"),
            ("CUTY0", self.origin[1], "Tile row of the first pixel, from 0"),
            ("QSTEP", self.step[band], "Quantization step, 0 if lossless"),
        ]
        if np.isfinite(self.rms[band]):
            cards.append(("BKGRMS", float(self.rms[band]), "Background RMS at the object"))
        return fits.Header(cards)

    def to_hdus(self) -> fits.HDUList:
        """Return the cutout as a FITS file: an empty primary HDU and an image HDU ``SCI_{band}`` for each band."""
        primary = fits.PrimaryHDU()
        primary.header["OBJECT"] = (str(self.object_id), "Object ID of the survey")
        primary.header["TILE"] = (self.tile, "Tile this was cut from")
        images = [fits.ImageHDU(self.data[i], self.header(band)) for i, band in enumerate(self.bands)]
        return fits.HDUList([primary, *images])
