"""One image of a tile: the choice of the HDU, checks of its form, and its rows as values linear in flux."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.errors import TileError, one_line
from archive_builder.survey.discovery import Source
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.headers import image_header
from archive_builder.survey.tables.content import COMPRESSIONS, begins_with

COMPRESSED = (*COMPRESSIONS, b"PK\x03\x04", b"\x1f\x9d")
"""First bytes of a file that astropy unpacks: those of tables, zip, compress. The file's size says nothing then."""

ASINH_UNIT = 2.5 * np.log10(np.e)
"""Magnitudes in one natural logarithm: 1.0857."""

ASINH_CARDS = ("BSOFTEN", "BOFFSET")
"""Cards of pixels on an asinh scale, as in Pan-STARRS."""

LOGARITHMIC = (u.mag, u.dex, u.dB)
"""Units that are not linear in flux."""

LOGARITHMIC_TEXT = re.compile(
    r"(?<![a-z])(ab|st|vega|m)?(mags?|magnitudes?)(?![a-z])|(?<![a-z])(log|ln|log10|asinh)(?![a-z])"
)
"""Names of these units that astropy does not know, in lower case."""


class NoHduError(TileError):
    """A file lacks the HDU that the recipe names."""


class Image:
    """One 2-D image in a FITS file, open for reading.

    Parameters
    ----------
    source : Source
        File, HDU and slice. The file may be plain, fpacked, or compressed as a whole by gzip, bzip2 or xz, by any name.
    what : str
        The recipe's key of the HDU, for messages: ``survey.image_hdu``.
    is_flux : bool
        False for flags: their values are never made linear.

    Attributes
    ----------
    path : Path
    header : Header
        Header in the form for a plain 2-D image: see :func:`archive_builder.survey.headers.image_header`.
    shape : (ny, nx)
    is_compressed : bool
        True for an image in a compressed binary table, by fpack for example.

    Raises
    ------
    TileError
        The file cannot be read, lacks the HDU, or has several images and no HDU is named.
    """

    def __init__(self, source: Source, what: str = "survey.image_hdu", is_flux: bool = True) -> None:
        self.path, self._slice = source.path, source.slice
        self._file = _open(self.path, unsigned=not is_flux)
        try:
            with readable(self.path):
                self._number = _select(self._file, source, what)
                self._hdu = self._file[self._number]
                _check_whole(self._hdu, self._file, self.path)
                primary = self._file[0].header if self._number else None
                self.header = image_header(self._hdu.header, primary, self.path)
            self.shape: geometry.Shape = self._hdu.shape[-2], self._hdu.shape[-1]
            self.is_compressed = isinstance(self._hdu, fits.CompImageHDU)
            self._asinh = _asinh_scale(self.header, self.path) if is_flux else None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def place(self) -> tuple[int, int, int, int | None]:
        """Identity of the pixels: device and inode of the file, number of the HDU, slice."""
        facts = os.stat(self.path)
        return facts.st_dev, facts.st_ino, self._number, self._slice

    @property
    def is_linearized(self) -> bool:
        """True if the file has the pixels on an asinh scale."""
        return self._asinh is not None

    def rows(self, y0: int, y1: int) -> NDArray[Any]:
        """Return rows ``y0:y1``, (y1 - y0, nx), in the file's type, on the file's scale.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        with readable(self.path, f"rows {y0} to {y1} cannot be read", "the file is damaged or truncated, replace it"):
            leading = [0 if n == 1 else self._slice for n in self._hdu.shape[:-2]]
            rows = self._hdu.section[(*leading, slice(y0, y1))] if leading else self._hdu.section[y0:y1]
            if rows.shape != (y1 - y0, self.shape[1]):
                raise OSError("the file ends before")
        return np.asarray(rows)

    def linear(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows of the file as values linear in flux: as they are, or float64 from an asinh scale.

        Pan-STARRS stores ``x = a asinh((flux - BOFFSET) / (2 BSOFTEN))`` with the ``a`` of `ASINH_UNIT` (PS1 Image
        Cutout Service, MAST).
        """
        if self._asinh is None:
            return rows
        softening, offset = self._asinh
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(offset + 2 * softening * np.sinh(rows.astype(np.float64) / ASINH_UNIT))

    def check_keeps(self, value: float) -> None:
        """Refuse a lossy compression that changes pixels of a value: holes would become noise.

        The compression of floats keeps 0 with the method SUBTRACTIVE_DITHER_2, and no other value; see the FITS
        Standard 4.0, section 10.2.

        Raises
        ------
        TileError
            The compression does not keep the value.
        """
        if not self.is_compressed:
            return
        with readable(self.path), fits.open(self.path, memmap=False, disable_image_compression=True) as file:
            table = file[self._number]
            header, columns = table.header, table.columns.names
        if "ZSCALE" in columns or "ZSCALE" in header:
            method = str(header.get("ZQUANTIZ", "NO_DITHER")).strip()
            if method not in ("NONE", "SUBTRACTIVE_DITHER_2") or (method != "NONE" and value != 0):
                raise TileError(
                    f"{self.path}: its compression (ZQUANTIZ = {method}) does not keep pixels of survey.blank_value "
                    f"{value:g}: holes would pass for data: compress without loss"
                    f"{' or with SUBTRACTIVE_DITHER_2' if value == 0 else ''}, or remove survey.blank_value"
                )
        elif str(header.get("ZCMPTYPE", "")).startswith("HCOMPRESS") and any(
            header[f"ZVAL{n}"] for n in range(1, 10) if header.get(f"ZNAME{n}") == "SCALE"
        ):
            raise TileError(
                f"{self.path}: its compression (HCOMPRESS with a scale) does not keep pixels of survey.blank_value "
                f"{value:g}: compress without loss, or remove survey.blank_value"
            )


@contextmanager
def readable(path: Path, trouble: str = "cannot be read as FITS", remedy: str = "replace the file") -> Iterator[None]:
    """Turn an error of astropy into one that names the file and the remedy."""
    try:
        with quiet_astropy():
            yield
    except (TileError, MemoryError):
        raise
    except Exception as error:  # a damaged file raises many classes, some without a public name
        raise TileError(f"{path}: {trouble} ({one_line(error)}): {remedy}") from None


def _open(path: Path, unsigned: bool) -> fits.HDUList:
    """Open a FITS file.

    For unsigned integers astropy returns the BLANK of an image as a number, and without them it rounds a mask of 64
    bits to float64.
    """
    with readable(path):
        return fits.open(path, memmap=False, uint=unsigned)


def _select(file: fits.HDUList, source: Source, what: str) -> int:
    """Return the number of the requested HDU, or of the only image.

    Raises
    ------
    TileError
        The HDU is missing, is no image of this form, or is one of several and the recipe names none.
    """
    images = [number for number, hdu in enumerate(file) if _is_image(hdu, source.slice)]
    form = "a 2-D image" if source.slice is None else "a cube"
    if source.hdu is None:
        if not images:
            end = ", or ends before it: replace the file, or" if begins_with(source.path, COMPRESSED) else ":"
            cubes = [number for number, hdu in enumerate(file) if _is_image(hdu, 1)]
            remedy = "name the slice of each band by survey.image_slice" if cubes else "correct the pattern of the file"
            raise TileError(f"{source.path}: holds no {form[2:]}{end} {remedy}")
        if len(images) > 1:
            found = ", ".join(_describe(number, file[number]) for number in images)
            raise TileError(f"{source.path}: has {len(images)} images ({found}): name one by {what}")
        number = images[0]
    else:
        number = _numbered(file, source.hdu, source.path, what)
    if number not in images:
        raise TileError(f"{source.path}: HDU {source.hdu} is not {form} (the file has {_there(file)}): set {what}")
    leading = [n for n in file[number].shape[:-2] if n > 1]
    if leading and source.slice is not None and source.slice >= leading[0]:
        raise TileError(
            f"{source.path}: the cube has {leading[0]} slices, no slice {source.slice}: correct survey.image_slice"
        )
    return number


def _numbered(file: fits.HDUList, hdu: str | int, path: Path, what: str) -> int:
    """Return the number of an HDU by its name or number; ``SCI,2`` is the HDU of this name with EXTVER 2."""
    if isinstance(hdu, int):
        found = [hdu] if hdu < len(file) else []
    else:
        name, _, version = hdu.partition(",")
        found = [
            number
            for number, one in enumerate(file)
            if one.name.strip().upper() == name.strip().upper() and (not version or str(one.ver) == version.strip())
        ]
        if not found and hdu.strip().isdigit():
            found = [int(hdu)] if int(hdu) < len(file) else []
    if not found:
        raise NoHduError(f"{path}: has no HDU {hdu} (it has {_there(file)}): set {what}, or replace the file")
    if len(found) > 1:
        raise TileError(
            f"{path}: has {len(found)} HDUs {hdu} ({_there(file)}): set {what} to a number, or to NAME,EXTVER"
        )
    return found[0]


def _is_image(hdu: Any, cube_slice: int | None) -> bool:
    """Return True for an image of two axes longer than 1, the last ones; with a slice, for a cube of such images."""
    if not hdu.is_image or hdu.header.get("NAXIS", 0) < 2:
        return False
    leading = [n for n in hdu.shape[:-2] if n != 1]
    return not leading if cube_slice is None else len(leading) == 1 or (not leading and cube_slice == 0)


def _describe(number: int, hdu: Any) -> str:
    return f"{number} {hdu.name}".strip()


def _there(file: fits.HDUList) -> str:
    return ", ".join(_describe(number, hdu) for number, hdu in enumerate(file))


def _check_whole(image: Any, file: fits.HDUList, path: Path) -> None:
    """Refuse an image without pixels, and a file that ends inside its last HDU."""
    if not all(isinstance(n, int) and n > 0 for n in image.shape):
        raise TileError(f"{path}: the header gives the image no size: replace the file")
    end = max(place["datLoc"] + place["datSpan"] for hdu in file if (place := hdu.fileinfo()))
    # Some programs leave out the padding of the last 2880-byte block; all pixels are still present.
    if not begins_with(path, COMPRESSED) and path.stat().st_size <= end - 2880:
        raise TileError(f"{path}: the file is truncated: replace it")


def _asinh_scale(header: fits.Header, path: Path) -> tuple[float, float] | None:
    """Return BSOFTEN and BOFFSET of pixels on an asinh scale, None for linear pixels; remove these cards.

    Raises
    ------
    TileError
        Only one card exists, a value cannot be used, or the pixels are magnitudes.
    """
    _check_linear(header, path)
    there = [card for card in ASINH_CARDS if card in header]
    if not there:
        return None
    values = [header.get(card) for card in ASINH_CARDS]
    softening, offset = (v if isinstance(v, int | float) and not isinstance(v, bool) else np.nan for v in values)
    if not (np.isfinite(softening) and np.isfinite(offset) and softening > 0):
        raise TileError(
            f"{path}: its pixels are not linear in flux (BSOFTEN {values[0]}, BOFFSET {values[1]}), and these values "
            "cannot make them so: give both cards, or linear pixels"
        )
    for card in there:
        del header[card]
    header.add_comment(f"Linear in flux; the tile has asinh, BSOFTEN {softening}, BOFFSET {offset}")
    return float(softening), float(offset)


def _check_linear(header: fits.Header, path: Path) -> None:
    """Refuse pixels in magnitudes or another logarithm."""
    text = header.get("BUNIT")
    if isinstance(text, str):
        with quiet_astropy():
            unit = u.Unit(text, parse_strict="silent")
        bases = getattr(unit, "bases", [])
        is_logarithmic = isinstance(unit, u.function.FunctionUnitBase) or any(base in LOGARITHMIC for base in bases)
        if is_logarithmic or LOGARITHMIC_TEXT.search(text.lower()):
            raise TileError(f"{path}: its pixels are in {text.strip()}, not linear in flux: give an image in flux")
