"""File names of a bulk request: by object ID, or by position in the IAU style of source names."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_builder.choices import BANDS_FORMAT
from archive_builder.errors import RequestError
from archive_builder.geometry import Shape
from archive_builder.object_ids import ObjectId

IDS_PER_FOLDER = 1000
"""Consecutive IDs that share a folder."""

DESIGNATION = "DESJ"
"""First letters of the name of a position."""

SECONDS = 240 * 10_000
"""Units of 0.0001 s of time in a degree of RA."""

ARCSECONDS = 3600 * 10_000
"""Units of 0.0001 arcsec in a degree."""

CIRCLE = 360 * SECONDS
"""Units of 0.0001 s of time in a circle."""

FLOAT_NOISE = 1e-5
"""Rounding error allowed before truncation, units of the last digit: float64 may lose this much of a decimal."""

PREFIX = re.compile(r"[A-Za-z0-9_+=@,-][A-Za-z0-9_+=@,.-]{0,99}|")
"""Valid prefixes: they cannot lead out of a folder, hide a file or break the manifest."""

FORBIDDEN = frozenset('/\\:*?"<>|;')
"""Printable characters that a file system cannot hold, and ``;``, which stands between the paths of the manifest."""

DIGESTS = (8, 12, 16)
"""Hexadecimal digits of a hash that tell apart IDs of one name; more only where fewer do not."""

SIZE_ENDING = re.compile(r"_[0-9]+x[0-9]+")
"""Size at the end of a name."""


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that cannot begin a file name.

    Raises
    ------
    RequestError
        The prefix has a forbidden character, or is too long.
    """
    if not PREFIX.fullmatch(prefix) or ".." in prefix:
        raise RequestError(f"prefix {prefix!r} cannot begin a file name: use only letters, digits and _ + = @ , - .")


def position_keys(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number for the designation of each position; equal designations give equal numbers.

    RA and Dec are truncated, not rounded, to 0.0001 s and 0.0001 arcsec (IAU Recommendations for Nomenclature).

    Parameters
    ----------
    ra, dec : ndarray of float64, (N,)
        Deg, finite; RA in any turn, ``abs(dec) <= 90``.

    Returns
    -------
    ndarray of int64, (N,)
    """
    alpha = np.floor(np.mod(ra, 360.0) * SECONDS + FLOAT_NOISE).astype(np.int64) % CIRCLE
    size = np.floor(np.abs(dec) * ARCSECONDS + FLOAT_NOISE).astype(np.int64)
    delta = np.where(dec < 0, -1 - size, size)  # -0 deg 0' is not the same as +0 deg 0'
    return np.asarray(alpha * _SPAN + (delta + _SPAN // 2))


def designation(key: int) -> str:
    """Return the name of a position, ``DESJhhmmss.ssss+ddmmss.ssss``, from its key."""
    alpha, delta = divmod(key, _SPAN)
    delta -= _SPAN // 2
    sign, size = ("-", -1 - delta) if delta < 0 else ("+", delta)
    return f"{DESIGNATION}{_sexagesimal(alpha)}{sign}{_sexagesimal(size)}"


def _sexagesimal(value: int) -> str:
    """Return a number of units of 0.0001 s as ``hhmmss.ssss``."""
    seconds, fraction = divmod(value, 10_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}{minute:02d}{second:02d}.{fraction:04d}"


_SPAN = 2 * 90 * ARCSECONDS + 2
"""Number of values of a truncated Dec, with both zeros."""


@dataclass(frozen=True)
class Sample:
    """One cutout to write, for all rows of the list that request it."""

    key: ObjectId
    """Object ID, or the number of a position from `position_keys`."""

    position: tuple[float, float] | None
    """RA and Dec in deg; None for an object."""

    shape: Shape
    """(ny, nx), px."""

    plain: bool
    """True if the file name has no size."""

    numbers: list[int]
    """Rows of the job that request this cutout."""

    row: int
    """First of these rows, counted in the list."""

    text: str = ""
    """Name of a text ID, see `text_names`; empty for an integer and for a position."""

    @property
    def name(self) -> str:
        """File name without prefix and suffix."""
        return sample_name(self.key, self.position is not None, None if self.plain else self.shape, self.text)

    @property
    def folder(self) -> str:
        """Folder of the files."""
        return folder_name(self.key, self.position is not None)


def text_names(
    ids: Collection[str], longest: int, bands: Collection[str] = (), *, with_dots: bool = True
) -> dict[str, str]:
    """Return the file names of text IDs, without prefix and suffix.

    ``_`` stands for each character that a file system cannot hold, and for ``-`` or ``.`` at the start. IDs whose names
    a file system could take for one another, and IDs that are too long, get the start of a hash of the ID at the end.
    The names depend on the set of the IDs only.

    Parameters
    ----------
    ids : collection of str
        Different IDs.
    longest : int
        Maximum size of a name, bytes in UTF-8.
    bands : collection of str
        Bands that may follow a name, as the size of a cutout may.
    with_dots : bool
        False where a name ends at its first dot.

    Examples
    --------
    >>> text_names(["330368/1234", "J1000+02"], 99)
    {'330368/1234': '330368_1234', 'J1000+02': 'J1000+02'}
    >>> text_names(["a/b", "A_B"], 99)
    {'a/b': 'a_b_c14cddc0', 'A_B': 'A_B_3a52e1e7'}
    """
    plain = {one: _plain_name(one, with_dots) for one in ids}
    names = dict(plain)
    endings = [re.compile(re.escape(f"_{band.lower()}")) for band in bands]
    for digits in DIGESTS:
        taken = Counter(map(_folded, names.values()))
        alike = [
            one
            for one, name in names.items()
            if taken[_folded(name)] > 1
            or len(name.encode()) > longest
            or _is_another_with_ending(_folded(name), taken, [SIZE_ENDING, *endings])
        ]
        for one in alike:
            start = plain[one].encode()[: longest - digits - 1].decode(errors="ignore")
            names[one] = f"{start}_{hashlib.sha256(one.encode()).hexdigest()[:digits]}"
        if not alike:
            break
    return names


def _plain_name(text: str, with_dots: bool) -> str:
    """Return an ID with ``_`` for each character that a file name cannot hold."""
    name = "".join(c if c.isprintable() and c not in FORBIDDEN else "_" for c in text)
    name = f"_{name[1:]}" if name[0] in "-." else name
    return name if with_dots else sample_key(name)


def _folded(name: str) -> str:
    """Return one text for names that differ in case or in the composition of accents: some file systems ignore both."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _is_another_with_ending(name: str, taken: Collection[str], endings: Sequence[re.Pattern[str]]) -> bool:
    """Return True if a name is another name with a size or a band at its end."""
    start, underscore, last = name.rpartition("_")
    while start and any(ending.fullmatch(underscore + last) for ending in endings):
        if start in taken:
            return True
        start, underscore, last = start.rpartition("_")
    return False


def folder_name(key: ObjectId, is_position: bool) -> str:
    """Return the folder of an object or a position; a folder holds at most a few thousand files."""
    if isinstance(key, str):
        return hashlib.sha256(key.encode()).hexdigest()[:3]
    if not is_position:
        return str(key // IDS_PER_FOLDER)
    name = designation(key)
    return name[:8] + name[15:20]


def sample_name(key: ObjectId, is_position: bool, shape: Shape | None, text: str = "") -> str:
    """Return the file name of a cutout, without prefix and suffix.

    Parameters
    ----------
    key : int or str
        Object ID, or a number from `position_keys`.
    is_position : bool
        True if `key` is the number of a position.
    shape : (ny, nx), optional
        Size to add to the name, px, for a second cutout of the same object.
    text : str
        Name of a text ID from `text_names`.
    """
    name = designation(int(key)) if is_position else text or str(key)
    return name if shape is None else f"{name}_{shape[1]}x{shape[0]}"


def sample_key(name: str) -> str:
    """Return a name as the key of a WebDataset sample, without dots: a key ends at its first dot."""
    return name.replace(".", "_")


def file_names(
    name: str, prefix: str, formats: Sequence[str], bands: Sequence[str], before_band: str = "_"
) -> list[str]:
    """Return the file names of one cutout, in the order of the formats."""
    found: list[str] = []
    for kind in formats:
        per_band = kind == BANDS_FORMAT
        found += [f"{before_band}{band}.fits" for band in bands] if per_band else [f".{kind}"]
    return [f"{prefix}{name}{ending}" for ending in found]
