"""Facts of a FITS file from its headers alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.wcs import WCS

from archive_builder.errors import TileError, one_line
from archive_builder.frames import frame_of
from archive_builder.geometry import pixel_scale
from archive_builder.survey.fits_warnings import quiet_astropy

ZERO_POINT_CARDS = (
    *("MAGZERO", "MAGZPT", "MAGZP", "ZEROPNT", "ZEROPOINT", "ZEROPT", "PHOTZP", "PHOTZPT", "PHOT_ZP"),
    *("MAG_ZP", "MAG_ZERO", "ABZP", "ZPAB", "ZP", "ZPT", "FLUXMAG0", "FPA.ZP"),
)
"""Keywords of zero points, the likeliest first."""

OTHER_CARDS = ("FILTER", "BAND", "FPA.FILTER", "EXPTIME", "BUNIT", "BSOFTEN", "BOFFSET")
"""Further keywords that a recipe may need."""


@dataclass(frozen=True)
class HduFacts:
    """One HDU of a file."""

    number: int
    name: str
    shape: tuple[int, ...]
    """Shape of an image; empty without pixels."""
    bitpix: int
    is_table: bool
    has_sky: bool
    """True for a celestial WCS."""

    @property
    def is_image(self) -> bool:
        """True for an image of two axes longer than 1, and none before them."""
        return (
            not self.is_table and len(self.shape) >= 2 and all(n == 1 for n in self.shape[:-2]) and self.shape[-1] > 1
        )

    def __str__(self) -> str:
        size = " x ".join(str(n) for n in reversed(self.shape)) or "no pixels"
        what = "table" if self.is_table else f"{size}{f', BITPIX {self.bitpix}' if self.shape else ''}"
        return f"{self.number} {self.name or '(no name)'}: {what}"


@dataclass(frozen=True)
class FileFacts:
    """The headers of one file."""

    name: str
    hdus: tuple[HduFacts, ...] = ()
    cards: Mapping[str, Any] = field(default_factory=dict)
    """Cards of `ZERO_POINT_CARDS` and `OTHER_CARDS` in the first image or the primary HDU."""
    frame: str = ""
    """Celestial frame of the first image with a sky."""
    pixel_scale: float = 0.0
    """Pixel scale of this image, arcsec; 0 if unknown."""
    error: str = ""
    """Reason why the file cannot be used; empty if it can."""

    @property
    def images(self) -> tuple[HduFacts, ...]:
        """Images of two axes."""
        return tuple(hdu for hdu in self.hdus if hdu.is_image)


def file_facts(folder: Path, name: str) -> FileFacts:
    """Return the facts of a file; of one that cannot be read, the reason."""
    try:
        with quiet_astropy(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # astropy leaves a file open that it opened itself and cannot read.
            with (folder / name).open("rb") as stream, fits.open(stream, memmap=False, lazy_load_hdus=True) as file:
                return _facts(name, file)
    except Exception as error:  # a damaged file raises many classes, some without a public name
        return FileFacts(name, error=one_line(error))


def _facts(path: str, file: fits.HDUList) -> FileFacts:
    hdus, sky = [], None
    for number, hdu in enumerate(file):
        header = hdu.header
        is_table = isinstance(hdu, fits.BinTableHDU | fits.TableHDU) and not isinstance(hdu, fits.CompImageHDU)
        shape = () if is_table else tuple(int(header[f"NAXIS{k}"]) for k in range(header.get("NAXIS", 0), 0, -1))
        wcs = None if is_table or not shape else _celestial(header)
        name = str(header.get("EXTNAME", hdu.name)).strip()  # astropy's name is in upper case
        facts = HduFacts(number, name, shape, int(header.get("BITPIX", 8)), is_table, wcs is not None)
        hdus.append(facts)
        if wcs is not None and sky is None and facts.is_image:
            sky = wcs
    if not hdus:
        return FileFacts(path, error="has no HDU")
    frame, scale = ("", 0.0) if sky is None else _sky(sky)
    image = next((hdu.number for hdu in hdus if hdu.is_image), 0)
    return FileFacts(path, tuple(hdus), _cards(file[image].header, file[0].header), frame, scale)


def _cards(header: fits.Header, primary: fits.Header) -> dict[str, Any]:
    found = {}
    for key in (*ZERO_POINT_CARDS, *OTHER_CARDS):
        for one in (header, primary):
            try:
                value = one.get(key)
            except Exception:  # a card that is not valid FITS
                value = None
            if isinstance(value, int | float | str) and not isinstance(value, bool) and str(value).strip():
                found[key] = value.strip() if isinstance(value, str) else value
                break
    return found


def _celestial(header: fits.Header) -> WCS | None:
    try:
        wcs = WCS(header)
        return wcs.celestial if wcs.has_celestial else None
    except Exception:  # a header that is not a WCS
        return None


def _sky(wcs: WCS) -> tuple[str, float]:
    """Return the frame and the pixel scale, arcsec."""
    try:
        frame = frame_of(wcs)
        name = "ICRS, or FK5 J2000" if frame is None else type(frame).__name__
    except TileError as error:
        name = str(error)
    return name, pixel_scale(wcs)
