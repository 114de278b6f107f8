"""The FITS header of a tile's image as the archive keeps it: valid cards, two axes, the cards of the primary HDU."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from astropy.io import fits
from astropy.io.fits import VerifyError
from astropy.wcs import WCS

from archive_builder.errors import TileError, one_line, printable
from archive_builder.survey.fits_warnings import quiet_astropy

log = logging.getLogger(__name__)

KEYWORD = re.compile(r"[A-Z0-9_-]{0,8}")
"""Valid keywords, with that of a blank card."""

WCS_CARDS = re.compile(
    r"WCSAXES[A-Z]?|WCSNAME[A-Z]?|C(TYPE|RVAL|RPIX|DELT|UNIT|NAME|ROTA|RDER|SYER)\d+[A-Z]?|(CD|PC)\d+_\d+[A-Z]?|"
    r"P[VS]\d+_\d+[A-Z]?|(CD|PC)0\d{2}0\d{2}|LONPOLE[A-Z]?|LATPOLE[A-Z]?|RADESYS[A-Z]?|RADECSYS|EQUINOX[A-Z]?|EPOCH|"
    r"(A|B|AP|BP)_(\d+_\d+|ORDER|DMAX)|PROJP\d+|LT[VM]\d+(_\d+)?|WAT\d_\d{3}|WCSDIM|"
    r"(CPDIS|CQDIS|DP|DQ|CPERR|CQERR)\d+.*|D2IM.*|AXISCORR|"
    r"AMD[XY]\d+|PPO\d+|CNPIX\d|PLT(RA[HMS]|DEC[DMS]|DECSN|SCALE)|[XY]PIXELSZ"
)
"""Cards of a WCS: those of FITS, of SIP, TPV, TNX and DSS plate solutions, and of IRAF."""

FILE_CARDS = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|END|"
    r"DATAMIN|DATAMAX|(DATA|TRIM|BIAS)SEC|EXTNAME|EXTVER|EXTLEVEL|INHERIT|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TILE\d+|CMPTYPE|NAME\d+|"
    r"VAL\d+|MASKCMP|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|SIMPLE|EXTEND|BLOCKED|HECKSUM|DATASUM)|"
    r"FZ(ALGOR|QMETHD|QVALUE|DTHRSD|TILE|INT2F)"
)
"""Cards that describe the layout of the tile's file or its whole array. The last line lists the cards of fpack."""

PRIMARY_ONLY = re.compile(r"|COMMENT|HISTORY|NEXTEND|DATE")
"""Further cards of a primary HDU that say nothing about the images after it."""

AXIS_CARDS = re.compile(r"(NAXIS|CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CNAME|CROTA|CRDER|CSYER|LTV|PV|PS)(\d+)(?:_\d+)?[A-Z]?")
"""Cards of one numbered axis."""

EQUINOX_TEXT = re.compile(r"([JB]?)\s*(\d{4}(?:\.\d*)?)")
"""Equinox in text: Julian, Besselian, or by the system of RADESYS."""

MATRIX_CARDS = re.compile(r"(?:CD|PC|LTM)(\d+)_(\d+)[A-Z]?|(?:CD|PC)(\d{3})(\d{3})")
"""Cards of a matrix between two numbered axes."""


def image_header(header: fits.Header, primary: fits.Header | None, path: Path) -> fits.Header:
    """Return the header of an image as the archive keeps it.

    Cards that are not valid FITS are left out. The cards of the third and further axes become comments. The cards of
    the primary HDU that the image lacks are added, as the convention INHERIT of FITS has it, except those of a WCS.

    Parameters
    ----------
    header : Header
        Header of the image.
    primary : Header or None
        Header of the primary HDU; None if that is the image.
    path : Path
        The file, for messages.

    Raises
    ------
    TileError
        A card of the WCS is not valid, or the sky is not on the first two axes.
    """
    kept = fits.Header(_valid_cards(header, path))
    _read_equinox(kept, path)
    if _needs_two_axes(kept):
        kept = _with_two_axes(kept, path)
    for card in () if primary is None else _valid_cards(primary, path):
        about_file = any(cards.fullmatch(card.keyword) for cards in (FILE_CARDS, WCS_CARDS, PRIMARY_ONLY))
        if not about_file and card.keyword not in kept:
            kept.append(card)
    return kept


def _valid_cards(header: fits.Header, path: Path) -> list[fits.Card]:
    """Return the cards that can be written to FITS again.

    Raises
    ------
    TileError
        A card of the WCS cannot be read.
    """
    kept, left_out = [], []
    for card in header.cards:
        try:
            if WCS_CARDS.fullmatch(card.keyword):
                _ = card.value  # astropy would turn a number that it cannot read into a text
            if not KEYWORD.fullmatch(card.keyword) and not card.image.startswith("HIERARCH "):
                raise ValueError("no keyword of FITS")
            valid = fits.Card.fromstring(card.image)
            valid.verify("exception")
            _ = valid.value
            kept.append(valid)
        except (VerifyError, ValueError) as error:
            if WCS_CARDS.fullmatch(card.keyword):
                raise TileError(
                    f"{path}: its WCS cannot be used: the card {card.keyword} is not valid FITS "
                    f"({one_line(error)}): correct the header"
                ) from None
            left_out.append(card.keyword)
    if left_out:
        names = printable(", ".join(left_out[:5]))
        log.info("%s: %d header cards left out, which are not valid FITS: %s", path, len(left_out), names)
    return kept


def _read_equinox(header: fits.Header, path: Path) -> None:
    """Make an equinox in text a number: astropy ignores ``'B1950'`` and ``'2000.0'``.

    Raises
    ------
    TileError
        The text is no equinox.
    """
    for keyword in ("EQUINOX", "EPOCH"):
        text = header.get(keyword)
        if not isinstance(text, str) or not text.strip():
            continue
        match = EQUINOX_TEXT.fullmatch(text.strip().upper())
        if match is None and keyword == "EPOCH":
            continue  # a date of observation
        if match is None:
            raise TileError(f"{path}: its WCS cannot be used: {keyword} is {text!r}: give a year, 2000.0 for example")
        header[keyword] = float(match[2])
        if match[1] and not any(card in header for card in ("RADESYS", "RADECSYS")):
            header["RADESYS"] = "FK5" if match[1] == "J" else "FK4"


def _needs_two_axes(header: fits.Header) -> bool:
    """Return True if a header has cards of a third axis."""
    counts = (value for keyword, value in header.items() if keyword == "NAXIS" or keyword.startswith("WCSAXES"))
    return any(max(_axes(keyword), default=0) > 2 for keyword in header) or any(count != 2 for count in counts)


def _axes(keyword: str) -> list[int]:
    """Return the numbers of the axes in a keyword."""
    if match := AXIS_CARDS.fullmatch(keyword):
        return [int(match[2])]
    match = MATRIX_CARDS.fullmatch(keyword)
    return [int(number) for number in match.groups() if number] if match else []


def _with_two_axes(header: fits.Header, path: Path) -> fits.Header:
    """Return a header without the cards of the third and further axes; comments keep their values."""
    with quiet_astropy():
        wcs = WCS(header)
        if wcs.has_celestial and {wcs.wcs.lng, wcs.wcs.lat} != {0, 1}:
            raise TileError(
                f"{path}: the sky is on axes {wcs.wcs.lng + 1} and {wcs.wcs.lat + 1} of the image, "
                "not on axes 1 and 2: reorder the axes"
            )
        wcs.sub([1, 2])  # raises if the sky depends on a further axis
    kept = fits.Header([card for card in header.cards if max(_axes(card.keyword), default=0) <= 2])
    for keyword in kept:
        if keyword == "NAXIS" or keyword.startswith("WCSAXES"):
            kept[keyword] = 2
    for line in _axis_comments(header):
        kept.add_comment(line)
    return kept


def _axis_comments(header: fits.Header) -> Iterator[str]:
    """Yield a line for each further axis with a type: its name, and the value at its reference pixel."""
    for axis in range(3, 10):
        if name := str(header.get(f"CTYPE{axis}", "")).strip():
            values = (
                f"{key} {header[f'{key}{axis}']}" for key in ("CRVAL", "CUNIT", "CRPIX") if f"{key}{axis}" in header
            )
            yield ", ".join([f"Axis {axis} of the tile: {name}", *values])
