"""Object IDs of an archive: 64-bit integers, or text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import RequestError

IdKind: TypeAlias = Literal["integer", "text"]
"""Kind of all IDs of an archive."""

ObjectId: TypeAlias = int | str
"""An ID: int in an archive of integer IDs, str in an archive of text IDs."""

ObjectIds: TypeAlias = NDArray[Any]
"""IDs of one archive: int64 or str, (N,). The order of text is that of its UTF-8 bytes, as in the index."""

LONGEST_ID = 1000
"""Maximum size of a text ID, bytes in UTF-8."""

KINDS: dict[IdKind, str] = {"integer": "integers", "text": "text"}
"""Name of each kind in a message."""

TYPES: dict[IdKind, type] = {"integer": np.int64, "text": np.str_}
"""Type of an array of each kind."""

_INTEGER = re.compile(r"[+-]?0*[0-9]{1,19}")
"""An integer in decimal digits; zeros before it mean nothing."""


def kind_of(ids: ObjectIds) -> IdKind:
    """Return the kind of an array of IDs."""
    return "integer" if ids.dtype.kind in "iu" else "text"


def no_ids(kind: IdKind) -> ObjectIds:
    """Return an empty array of IDs."""
    return np.empty(0, dtype=TYPES[kind])


def parse_id(value: object, kind: IdKind) -> ObjectId:
    """Return an ID as a request gives it in the kind of the archive.

    An archive of integer IDs takes integers and their decimal digits: ``353``, ``"353"``, ``" -3 "``, ``"0353"``. An
    archive of text IDs takes text and its UTF-8 bytes. Blanks around an ID are no part of it.

    Raises
    ------
    RequestError
        The value is no ID of this kind.

    Examples
    --------
    >>> parse_id("0353", "integer"), parse_id("0353", "text")
    (353, '0353')
    """
    if kind == "text":
        return _parse_text(value)
    number = _parse_integer(value)
    if number is None:
        raise RequestError(f"object ID {value!r} is not a 64-bit integer: give the ID of the catalogue")
    return number


def _parse_integer(value: object) -> int | None:
    """Return a 64-bit integer; None if the value is none."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = int(value.strip()) if _INTEGER.fullmatch(value.strip()) else None
    return int(value) if isinstance(value, Integral) and -(2**63) <= int(value) < 2**63 else None


def _parse_text(value: object) -> str:
    if not isinstance(value, str | bytes):
        raise RequestError(f"object ID {value!r} is no text, and the IDs of this archive are text: give a text")
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        text.encode()
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise RequestError(f"object ID {value!r} is not text in UTF-8: give the ID of the catalogue")
    # No ID is longer: a longer text is unknown however it ends, and must not widen an array of IDs.
    return text.strip()[: LONGEST_ID + 1]


def parse_ids(values: Any, kind: IdKind) -> ObjectIds:
    """Return many IDs as a request gives them in the kind of the archive.

    Parameters
    ----------
    values : array_like, (N,)
        A list, an array, or a column of numpy, astropy, pandas or pyarrow; see :func:`parse_id`.

    Returns
    -------
    ndarray of int64 or str, (N,)

    Raises
    ------
    RequestError
        The values are no IDs of this kind in one list, or some are missing.
    """
    if isinstance(values, Iterable) and not isinstance(values, str | bytes) and not hasattr(values, "__array__"):
        values = list(values)
    if np.ma.is_masked(values):
        missing = int(np.ma.getmaskarray(values).sum())
        raise RequestError(f"{missing} of the object IDs are missing: leave them out")
    # Not in one array of text: it would turn the integers of a mixed list into text.
    has_text = isinstance(values, list) and any(isinstance(value, str | bytes) for value in values)
    ids = np.asarray(values, dtype=object if has_text else None)
    if ids.ndim == 1 and len(ids) == 0:
        return no_ids(kind)
    if ids.ndim == 1 and ids.dtype.kind in "USOT":
        return np.array([parse_id(value, kind) for value in ids.tolist()], dtype=TYPES[kind])
    if kind == "text":
        raise RequestError(f"the object IDs of this archive are text in one list, not {ids.dtype} of shape {ids.shape}")
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.max() > np.iinfo(np.int64).max:
        raise RequestError(f"object IDs are 64-bit integers in one list, not {ids.dtype} of shape {ids.shape}")
    return ids.astype(np.int64)
