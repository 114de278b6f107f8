"""FITS headers of cutouts, made from the headers of the tile.

Parsing a tile's header takes milliseconds, and a bulk request needs a header for every band of every object. So each
header is parsed once a tile and band, and the headers of cutouts are joined from its cards as text.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.wcs import WCS

from archive_builder.geometry import Shape
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.headers import FILE_CARDS

REFERENCE_PIXEL = re.compile(r"(?:CRPIX|LTV|CNPIX)([12])[A-Z]?")
"""Cards that a cut moves, those of alternate WCS too. LTV is IRAF's: ds9 reads its physical coordinates from them.
CNPIX is the first pixel on the plate, for the plate solution of a DSS image."""

WCS_VERSION = re.compile(r"(?:CTYPE|CRVAL)[12]([A-Z]?)")
"""Cards that name the alternate WCS of a header."""

BLOCK = 2880
"""Bytes of a FITS block."""

CARD = 80
"""Characters of a card."""

NUMBER_WIDTH = 20
"""Characters of a number in the fixed format of FITS, which ends at column 30."""

Value = str | int | float | bool
"""Type of a card's value."""


@dataclass(frozen=True)
class Card:
    """One card of a header."""

    keyword: str
    """Keyword, at most eight characters."""

    value: Value
    """Value of the card."""

    comment: str = ""
    """Comment; the end is cut off where it does not fit."""

    @property
    def text(self) -> str:
        """The card as in a file: 80 characters or, for a long string, a multiple of 80."""
        if isinstance(self.value, str | bool):
            return _card_text(self.keyword, self.value, self.comment)
        return _number_text(self.keyword, self.value, self.comment)


@lru_cache(maxsize=4096, typed=True)
def _number_text(keyword: str, value: int | float, comment: str) -> str:
    """Return the text of a card with a number in the fixed format of FITS, 20 times as fast as astropy."""
    digits = str(value).replace("e", "E")
    if len(digits) > NUMBER_WIDTH:
        return _card_text(keyword, value, comment)
    return f"{keyword:<8}= {digits:>{NUMBER_WIDTH}}{f' / {comment}' if comment.strip() else ''}"[:CARD].ljust(CARD)


@lru_cache(maxsize=4096, typed=True)
def _card_text(keyword: str, value: Value, comment: str) -> str:
    """Return the text of any card. The bands of a cutout, and many cutouts, share most of these texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # a comment that does not fit
        return str(fits.Card(keyword, value, comment).image)


@dataclass(frozen=True)
class HeaderTemplate:
    """Cards that all cutouts of one tile and band share."""

    cards: tuple[str, ...]
    """The tile's cards as text, without those in `FILE_CARDS`."""

    reference_pixels: tuple[tuple[int, str, int, float, str], ...]
    """Cards that a cut moves: number in ``cards``, keyword, axis from 0, value on the tile, comment."""

    @classmethod
    def of_tile(cls, text: str) -> HeaderTemplate:
        """Return the template of a tile's header, one card a line."""
        with quiet_astropy():
            header = fits.Header.fromstring(text, sep="\n")
            versions = [match[1] for keyword in header if (match := WCS_VERSION.fullmatch(keyword))]
            for version in sorted({"", *versions}):
                for axis in (1, 2):
                    header.setdefault(f"CRPIX{axis}{version}", 0.0)  # the value of a missing CRPIX in FITS
            kept = [c for c in header.cards if not FILE_CARDS.fullmatch(c.keyword)]
            moved = [
                (number, c.keyword, int(match[1]) - 1, float(c.value), c.comment)
                for number, c in enumerate(kept)
                if (match := REFERENCE_PIXEL.fullmatch(c.keyword)) and isinstance(c.value, int | float)
            ]
            return cls(tuple(c.image for c in kept), tuple(moved))

    def fill(
        self, first: Sequence[Card], origin: tuple[int, int], last: Sequence[Card], without: Collection[str] = ()
    ) -> str:
        """Return the header of one cutout as text, without END.

        Parameters
        ----------
        first : sequence of Card
            Cards of the image's form; see :func:`image_cards`.
        origin : tuple of int
            First column and row of the cutout on the tile.
        last : sequence of Card
            Cards at the end, in place of the tile's cards of the same keywords.
        without : collection of str
            Keywords of the tile's cards that do not apply to this image.
        """
        cards = list(self.cards)
        for number, keyword, axis, value, comment in self.reference_pixels:
            moved = value + origin[axis] if keyword.startswith("CNPIX") else value - origin[axis]
            cards[number] = Card(keyword, moved, comment).text
        dropped = {card.keyword for card in last}.union(without)
        kept = [text for text in cards if text[:8].rstrip() not in dropped]
        return "".join([*(card.text for card in first), *kept, *(card.text for card in last)])


class TileHeaders:
    """FITS headers of one tile's images, each parsed at its first use.

    Parameters
    ----------
    texts : mapping of str to mapping of str to str
        FITS header of each band's image, by plane and band, one card a line.
    """

    def __init__(self, texts: Mapping[str, Mapping[str, str]]) -> None:
        self._texts = texts
        self._templates: dict[tuple[str, str], HeaderTemplate] = {}

    @cached_property
    def wcs(self) -> WCS:
        """WCS of the tile's first band."""
        with quiet_astropy():
            return WCS(fits.Header.fromstring(next(iter(self._texts["SCI"].values())), sep="\n"))

    def wcs_cards(self, shape: Shape, origin: tuple[int, int]) -> str:
        """Return the header of a window of the first band's image as text: its WCS is that of all bands."""
        return self.template(next(iter(self._texts["SCI"]))).fill(image_cards("SCI", shape, -32), origin, [])

    def template(self, band: str, plane: str = "SCI") -> HeaderTemplate:
        """Return the template of one band's image in a plane."""
        if (plane, band) not in self._templates:
            self._templates[plane, band] = HeaderTemplate.of_tile(self._texts[plane][band])
        return self._templates[plane, band]


def image_cards(name: str, shape: Shape, bitpix: int) -> list[Card]:
    """Return the first cards of an image extension."""
    return [
        Card("XTENSION", "IMAGE", "Image extension"),
        Card("BITPIX", bitpix, "Bits a pixel; negative: floating point"),
        Card("NAXIS", 2, "Number of axes"),
        Card("NAXIS1", shape[1], "Columns"),
        Card("NAXIS2", shape[0], "Rows"),
        Card("PCOUNT", 0, "No group parameters"),
        Card("GCOUNT", 1, "One group"),
        Card("EXTNAME", name, "Name of this image"),
    ]


def to_block(text: str) -> bytes:
    """Return the cards of a header as bytes of a FITS file, with END and padding."""
    cards = (text + "END".ljust(80)).encode("ascii")
    return cards + b" " * (-len(cards) % BLOCK)
