"""FITS headers of cutouts: the tile's own, with what changed changed.

Parsing a tile's header takes milliseconds, and a bulk request needs one for every band of every object. So a
header is parsed once a tile and band, and each cutout's is put together from its cards as text.
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

FILE_CARDS = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|CHECKSUM|DATASUM|END|"
    r"EXTNAME|EXTVER|EXTLEVEL|INHERIT|Z(IMAGE|TENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TILE\d+|CMPTYPE|NAME\d+|"
    r"VAL\d+|MASKCMP|QUANTIZ|DITHER0|SCALE|ZERO|BLANK|SIMPLE|EXTEND|BLOCKED|HECKSUM|DATASUM)|"
    r"FZ(ALGOR|QMETHD|QVALUE|DTHRSD|TILE|INT2F)"
)
"""Cards that describe how the tile's file was laid out, not the sky; the last line is what fpack leaves."""

REFERENCE_PIXEL = re.compile(r"(?:CRPIX|LTV)([12])[A-Z]?")
"""The cards that a cut moves, alternate WCS included; LTV is IRAF's, from which ds9 has its physical coordinates."""

WCS_VERSION = re.compile(r"(?:CTYPE|CRVAL)[12]([A-Z]?)")
"""The cards that tell which alternate WCS there are."""

BLOCK = 2880
"""Bytes of a FITS block."""

CARD = 80
"""Characters of a card."""

NUMBER_WIDTH = 20
"""Characters of a number in FITS's fixed format, which ends at column 30."""

Value = str | int | float | bool
"""What a card can hold."""


@dataclass(frozen=True)
class Card:
    """One card of a header."""

    keyword: str
    """At most eight characters."""

    value: Value
    """What it holds."""

    comment: str = ""
    """Cut off where it does not fit."""

    @property
    def text(self) -> str:
        """The card as it stands in a file: 80 characters or, for a long string, a multiple of that."""
        if isinstance(self.value, str | bool):
            return _card_text(self.keyword, self.value, self.comment)
        return _number_text(self.keyword, self.value, self.comment)


@lru_cache(maxsize=4096, typed=True)
def _number_text(keyword: str, value: int | float, comment: str) -> str:
    """Return the text of a card with a number in FITS's fixed format: astropy takes 20 times as long for it."""
    digits = str(value).replace("e", "E")
    if len(digits) > NUMBER_WIDTH:
        return _card_text(keyword, value, comment)
    return f"{keyword:<8}= {digits:>{NUMBER_WIDTH}}{f' / {comment}' if comment else ''}"[:CARD].ljust(CARD)


@lru_cache(maxsize=4096, typed=True)
def _card_text(keyword: str, value: Value, comment: str) -> str:
    """Return a card's text; the bands of a cutout, and many cutouts, share most of theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # a comment that does not fit
        return str(fits.Card(keyword, value, comment).image)


@dataclass(frozen=True)
class HeaderTemplate:
    """The cards that all cutouts of one tile and band share."""

    cards: tuple[str, ...]
    """Cards as text, the tile's own without those in `FILE_CARDS`."""

    reference_pixels: tuple[tuple[int, str, int, float, str], ...]
    """Which of them a cut moves: number, keyword, axis from 0, value on the tile, comment."""

    @classmethod
    def of_tile(cls, text: str) -> HeaderTemplate:
        """Make the template from a tile's header, a card a line."""
        with quiet_astropy():
            header = fits.Header.fromstring(text, sep="\n")
            versions = [match[1] for keyword in header if (match := WCS_VERSION.fullmatch(keyword))]
            for version in sorted({"", *versions}):
                for axis in (1, 2):
                    header.setdefault(f"CRPIX{axis}{version}", 0.0)  # what a CRPIX that is not there stands for
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
            What describes the image's form; see :func:`image_cards`.
        origin : tuple of int
            Column and row of the tile on which the cutout begins.
        last : sequence of Card
            What stands at the end, in place of the tile's own cards of those names.
        without : collection of str
            Keywords of the tile's that are not true of this image.
        """
        cards = list(self.cards)
        for number, keyword, axis, value, comment in self.reference_pixels:
            cards[number] = Card(keyword, value - origin[axis], comment).text
        dropped = {card.keyword for card in last}.union(without)
        kept = [text for text in cards if text[:8].rstrip() not in dropped]
        return "".join([*(card.text for card in first), *kept, *(card.text for card in last)])


class TileHeaders:
    """The headers of one tile's bands; each is parsed once, when it is first asked for.

    Parameters
    ----------
    texts : mapping of str to str
        Each band's FITS image header, a card a line.
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._templates: dict[str, HeaderTemplate] = {}

    @cached_property
    def wcs(self) -> WCS:
        """The tile's WCS, by its first band."""
        with quiet_astropy():
            return WCS(fits.Header.fromstring(next(iter(self._texts.values())), sep="\n"))

    def template(self, band: str) -> HeaderTemplate:
        """Return the template of one band."""
        if band not in self._templates:
            self._templates[band] = HeaderTemplate.of_tile(self._texts[band])
        return self._templates[band]


def image_cards(name: str, shape: Shape, bitpix: int) -> list[Card]:
    """Return the cards with which an image extension begins."""
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
    """Return a header's cards as the bytes of a FITS file, with END and padding."""
    cards = (text + "END".ljust(80)).encode("ascii")
    return cards + b" " * (-len(cards) % BLOCK)
