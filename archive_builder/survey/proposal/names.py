"""Bands and tiles in file names."""

from __future__ import annotations

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_letters

from archive_builder.survey.discovery import TILE_NAME

BAND = re.compile(
    r"[ugrizyYJHKGRIZ]|i2|Ks|[jhk]|[wW][1-4]|[Ff]\d{3,4}[wWmMnNlLpPxX]{1,2}|VIS|FUV|NUV|NB\d{3,4}|IA\d{3}|CH[1-4]"
)
"""Tokens that may be a band."""

ORDER = (
    *("FUV", "NUV", "u", "U", "g", "G", "r", "R", "i", "I", "i2", "VIS", "z", "Z", "y", "Y", "J", "j", "H", "h"),
    *("K", "k", "Ks", "w1", "W1", "w2", "W2", "w3", "W3", "w4", "W4"),
)
"""Bands by wavelength."""

SEPARATORS = re.compile(r"([/_.\-])")


@dataclass(frozen=True)
class Family:
    """Files of one kind: their names differ in the band, the tile and other parts with digits."""

    files: Mapping[str, str]
    """Band of each file by its name; empty for no band."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands by wavelength; those without a known one last, by name."""
        return tuple(sorted(set(self.files.values()) - {""}, key=band_order))

    @property
    def words(self) -> set[str]:
        """Words in the names of the files, in lower case, without the folders."""
        name = next(iter(self.files)).rsplit("/", 1)[-1]
        return {word.lower() for word in re.split(r"[^A-Za-z0-9]+", name) if word}


def band_order(band: str) -> tuple[int, str]:
    """Return the key that sorts bands by wavelength."""
    return (ORDER.index(band) if band in ORDER else len(ORDER), band)


def families(names: Sequence[str]) -> list[Family]:
    """Return files by kind, the largest family first."""
    values: dict[str, set[str]] = defaultdict(set)
    keys: dict[str, dict[str, str]] = {}
    for name in names:
        tokens = SEPARATORS.split(name)
        keys[name] = {band: _key(tokens, band) for band in dict.fromkeys(tokens) if BAND.fullmatch(band)}
        for band, key in keys[name].items():
            values[key].add(band)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for name in names:
        likeliest = max(keys[name], key=lambda band: len(values[keys[name][band]]), default="")
        band = likeliest if likeliest and len(values[keys[name][likeliest]]) > 1 else ""
        found[_key(SEPARATORS.split(name), band)][name] = band
    return sorted((Family(files) for files in found.values()), key=lambda family: -len(family.files))


def _key(tokens: Sequence[str], band: str) -> str:
    """Return a name in which the band is ``{band}`` and parts that differ from tile to tile are ``#``."""
    ends = max((k for k, token in enumerate(tokens) if token == "/"), default=-1)
    folders = set(tokens[: max(ends, 0)])
    repeated = {token for token in tokens[ends + 1 :] if len(token) > 1 and token in folders}
    return "".join(
        "{band}" if band and token == band else "#" if re.search(r"\d", token) or token in repeated else token
        for token in tokens
    )


@dataclass(frozen=True)
class TileNames:
    """Tiles of a family of images."""

    pattern: str
    """Glob pattern with ``{tile}`` and, for more than one band, ``{band}``."""

    tiles: tuple[str, ...]
    """Tile names, sorted."""

    tile_of: Mapping[str, str]
    """Tile of each file."""


def tile_names(family: Family) -> TileNames | None:
    """Return the part of the names that tells the tile, None if no part does."""
    for tile_of in (_by_folder(family), _by_span(family)):
        if tile_of is not None and all(TILE_NAME.fullmatch(tile) for tile in tile_of.values()):
            pattern = pattern_of({name: (tile, family.files[name]) for name, tile in tile_of.items()})
            return TileNames(pattern, tuple(sorted(set(tile_of.values()))), tile_of)
    return None


def _is_one_file_each(family: Family, tile_of: Mapping[str, str]) -> bool:
    return max(Counter((tile_of[name], band) for name, band in family.files.items()).values()) == 1


def _by_folder(family: Family) -> dict[str, str] | None:
    """Return the folder that is repeated in the name of its file, the one nearest to the file."""
    depth = next(iter(family.files)).count("/")
    for level in range(depth - 1, -1, -1):
        tile_of = {name: name.split("/")[level] for name in family.files}
        inside = all(tile in name.rsplit("/", 1)[-1] and (tile != family.files[name]) for name, tile in tile_of.items())
        if inside and _is_one_file_each(family, tile_of):
            return tile_of
    return None


def _by_span(family: Family) -> dict[str, str] | None:
    """Return the shortest part of the file name that tells the tiles apart, with the digits beside it."""
    split = {name: SEPARATORS.split(name.rsplit("/", 1)[-1]) for name in family.files}
    length = len(next(iter(split.values())))
    if any(len(tokens) != length for tokens in split.values()):
        return None
    with_digits = [
        k
        for k in range(0, length, 2)
        if all(re.search(r"\d", tokens[k]) and tokens[k] != family.files[name] for name, tokens in split.items())
    ]
    for width in range(1, length + 1, 2):
        for start in range(0, length - width + 1, 2):
            if start not in with_digits or start + width - 1 not in with_digits:
                continue
            low, high = _extended(split, start, start + width - 1, with_digits)
            tile_of = {name: "".join(tokens[low : high + 1]) for name, tokens in split.items()}
            if _is_one_file_each(family, tile_of):
                return tile_of
    return None


def _extended(split: Mapping[str, Sequence[str]], low: int, high: int, with_digits: Sequence[int]) -> tuple[int, int]:
    """Return a span with the digits beside it that a point or, before a plain number, a hyphen joins."""

    def joins(separator: int, token: int) -> bool:
        rows = list(split.values())
        plain = all(re.fullmatch(r"[0-9+]+", row[token]) for row in rows)
        return all(row[separator] == "." or (row[separator] == "-" and plain) for row in rows)

    while low - 2 in with_digits and joins(low - 1, low - 2):
        low -= 2
    while high + 2 in with_digits and joins(high + 1, high + 2):
        high += 2
    return low, high


def pattern_of(files: Mapping[str, tuple[str, str]]) -> str:
    """Return the glob pattern of files of one kind, each with its tile and band: ``*`` for other parts that differ.

    Names with other numbers of parts give ``*`` for the parts that follow.
    """
    forms = []
    for name, (tile, band) in files.items():
        form = _occurrences(tile).sub("\0", name) if tile else name
        tokens = SEPARATORS.split(form)
        forms.append(["\1" if band and token == band else token for token in tokens])
    length = max(len(form) for form in forms)
    if any(len(form) != length for form in forms):
        return ""
    pieces = ["*" if len({form[k] for form in forms}) > 1 else glob.escape(forms[0][k]) for k in range(length)]
    text = "".join(pieces).replace("\0", "{tile}").replace("\1", "{band}")
    return re.sub(r"\*(?:[._\-]\*)+", "*", text)


def _occurrences(tile: str) -> re.Pattern[str]:
    """Return the expression of a tile in a name: a short tile is a part of its own, a long one may follow letters."""
    edge = r"\d" if len(tile) >= 4 else "A-Za-z0-9"
    return re.compile(f"(?<![{edge}]){re.escape(tile)}(?![{edge}])")


def tile_in(name: str, tiles: Collection[str]) -> str:
    """Return the longest tile name in a file name, after a separator or the letters of a word; empty without one.

    Examples
    --------
    >>> tile_in("cat/EUC_MER_FINAL-CAT_TILE102018211-CC66F6.fits", {"102018211"})
    '102018211'
    """
    tokens = SEPARATORS.split(name)
    found = ""
    for start in range(0, len(tokens), 2):
        for first in (tokens[start], tokens[start].lstrip(ascii_letters)):
            span = first
            for end in range(start, len(tokens), 2):
                span = first if end == start else span + tokens[end - 1] + tokens[end]
                if len(span) > len(found) and span in tiles:
                    found = span
    return found
