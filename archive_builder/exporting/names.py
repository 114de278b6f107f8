"""What a bulk request calls its files: by object ID, or by position as the IAU names sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_builder.choices import BANDS_FORMAT
from archive_builder.errors import RequestError
from archive_builder.geometry import Shape

IDS_PER_FOLDER = 1000
"""Files of so many consecutive IDs share a folder."""

DESIGNATION = "DESJ"
"""What the name of a position begins with."""

SECONDS = 240 * 10_000
"""Ten-thousandths of a second of time in a degree of RA."""

ARCSECONDS = 3600 * 10_000
"""Ten-thousandths of an arcsecond in a degree."""

CIRCLE = 360 * SECONDS
"""Ten-thousandths of a second of time in a whole circle."""

FLOAT_NOISE = 1e-5
"""Of the last digit: what a decimal number may lose on its way through float64 before it is truncated."""

PREFIX = re.compile(r"[A-Za-z0-9_+=@,-][A-Za-z0-9_+=@,.-]{0,99}|")
"""Prefixes that cannot lead out of a folder, hide a file or break the manifest."""


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that is no plain beginning of a file's name.

    Raises
    ------
    RequestError
    """
    if not PREFIX.fullmatch(prefix) or ".." in prefix:
        raise RequestError(
            f"prefix {prefix!r} cannot begin a file's name: use letters, digits, and any of _ + = @ , - ."
        )


def position_keys(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return a number for each position's designation; positions of the same designation have the same.

    RA and Dec are truncated, not rounded, to 0.0001 s and 0.0001 arcsec (IAU Recommendations for Nomenclature).

    Parameters
    ----------
    ra, dec : ndarray of float64, (N,)
        Deg, finite; RA of any turn, ``abs(dec) <= 90``.
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
    """Write ten-thousandths of a second as ``hhmmss.ssss``."""
    seconds, fraction = divmod(value, 10_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}{minute:02d}{second:02d}.{fraction:04d}"


_SPAN = 2 * 90 * ARCSECONDS + 2
"""How many values a truncated Dec can have, both zeros counted."""


@dataclass(frozen=True)
class Sample:
    """One cutout to be made, for all rows of the list that ask for it."""

    key: int
    """Object ID, or the number of the position's designation."""

    position: tuple[float, float] | None
    """RA and Dec in deg; None for an object."""

    shape: Shape
    """In pixels."""

    plain: bool
    """Called after the object alone, without the size."""

    numbers: list[int]
    """Which rows of the job ask for it."""

    row: int
    """The first of them, in the list."""

    @property
    def name(self) -> str:
        """What its files are called, without prefix and suffix."""
        return sample_name(self.key, self.position is not None, None if self.plain else self.shape)

    @property
    def folder(self) -> str:
        """Where its files are."""
        return folder_name(self.key, self.position is not None)


def folder_name(key: int, is_position: bool) -> str:
    """Return the folder of an object's or a position's files, of at most a few thousand."""
    if not is_position:
        return str(key // IDS_PER_FOLDER)
    name = designation(key)
    return name[:8] + name[15:20]


def sample_name(key: int, is_position: bool, shape: Shape | None) -> str:
    """Return what a cutout's files are called, without prefix and suffix.

    Parameters
    ----------
    key : int
        Object ID, or what :func:`position_keys` gives.
    is_position : bool
    shape : (ny, nx), optional
        To be named too, for a second cutout of the same object.
    """
    name = designation(key) if is_position else str(key)
    return name if shape is None else f"{name}_{shape[1]}x{shape[0]}"


def sample_key(name: str) -> str:
    """Return a name as the key of a WebDataset sample, which ends at its first dot."""
    return name.replace(".", "_")


def file_names(
    name: str, prefix: str, formats: Sequence[str], bands: Sequence[str], before_band: str = "_"
) -> list[str]:
    """Return the files of one cutout, those of each format in the order of the formats."""
    found: list[str] = []
    for kind in formats:
        per_band = kind == BANDS_FORMAT
        found += [f"{before_band}{band}.fits" for band in bands] if per_band else [f".{kind}"]
    return [f"{prefix}{name}{ending}" for ending in found]
