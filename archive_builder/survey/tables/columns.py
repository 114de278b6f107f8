"""Columns of Arrow and astropy tables in one common form."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Column: TypeAlias = NDArray[Any] | pa.ChunkedArray
"""Values of a column, in file order.

Integers are a NumPy array, masked if values are missing. Floats are a NumPy array, NaN where values are missing.
Text is an Arrow array of stripped strings, empty where values are missing: a NumPy array would give every row the
length of the longest text. Any other kind is a NumPy array; `kind` names it. All are in native byte order.
"""

Columns: TypeAlias = dict[str, Column]
"""Columns of a table by name."""

NO_VALUE = ("", "nan", "null", "none", "na", "n/a", "--")
"""Texts of a missing value, in lower case."""


def holds_text(column: Column) -> bool:
    """Return True for a column of text."""
    return isinstance(column, pa.ChunkedArray)


def holds_integers(column: Column) -> bool:
    """Return True for a column of one integer a row."""
    return not isinstance(column, pa.ChunkedArray) and column.ndim == 1 and column.dtype.kind in "iu"


def holds_numbers(column: Column) -> bool:
    """Return True for a column of one integer or float a row."""
    return not isinstance(column, pa.ChunkedArray) and column.ndim == 1 and column.dtype.kind in "iuf"


def as_text(column: Column) -> pa.ChunkedArray:
    """Return a column of any kind as text, empty where values are missing."""
    if isinstance(column, pa.ChunkedArray):
        return column
    return pa.chunked_array([["" if value is None else str(value) for value in column.tolist()]], pa.string())


def kind(column: Column) -> str:
    """Return the kind of a column's values for a message: ``text``, ``float64``, ``int32 of shape (9, 2)``."""
    if isinstance(column, pa.ChunkedArray):
        return "text"
    return str(column.dtype) if column.ndim == 1 else f"{column.dtype} of shape {column.shape}"


def is_missing(text: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which texts stand for a missing value; see `NO_VALUE`."""
    return np.asarray(pc.is_in(pc.utf8_lower(text), value_set=pa.array(NO_VALUE)).to_numpy(), dtype=bool)


def matches(column: Column, value: str) -> NDArray[np.bool_]:
    """Return which rows hold a text: the one rule that tells rows apart by text, whatever the file's type."""
    return np.asarray(pc.equal(as_text(column), value).to_numpy(), dtype=bool)


def common(column: Any) -> Column:
    """Return a column of an Arrow table or of an astropy table in the common form.

    Integers never pass through float. An array with one value a row, of shape (N, 1) for example, is a plain column.

    Raises
    ------
    pyarrow.ArrowInvalid
        A text is not UTF-8.
    """
    return _from_arrow(column) if isinstance(column, pa.ChunkedArray) else _from_astropy(column)


def carried(column: Any) -> pa.ChunkedArray | None:
    """Return a column as Arrow values that a manifest can hold, untouched as far as possible.

    Returns
    -------
    pyarrow.ChunkedArray or None
        Numbers, booleans, text or times; None for vectors, bytes that are not UTF-8, and other kinds.
    """
    try:
        return _arrow_as_it_is(column) if isinstance(column, pa.ChunkedArray) else _arrow_from_astropy(column)
    except (pa.ArrowException, ValueError, TypeError):
        return None


# ---- Arrow


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return an Arrow column with one type for each kind of value.

    Categories, runs and lists of one value become their values. Text of any width or layout becomes ``string``, and
    bytes ``binary``.
    """
    of = column.type
    if isinstance(of, pa.BaseExtensionType):
        return plain(pa.chunked_array([chunk.storage for chunk in column.chunks], of.storage_type))
    if pa.types.is_dictionary(of):
        return plain(column.cast(of.value_type))
    if pa.types.is_run_end_encoded(of):
        return plain(pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], of.value_type))
    if pa.types.is_fixed_size_list(of) and of.list_size == 1 and not column.null_count:
        return plain(pa.chunked_array([chunk.flatten() for chunk in column.chunks], of.value_type))
    if pa.types.is_large_string(of) or pa.types.is_string_view(of):
        return column.cast(pa.string())
    if pa.types.is_large_binary(of) or pa.types.is_binary_view(of) or pa.types.is_fixed_size_binary(of):
        return column.cast(pa.binary())
    return column


def _without_whole_decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return decimals without a fraction as ``int64``, or as text if they do not fit; other columns as they are."""
    if not pa.types.is_decimal(column.type) or column.type.scale != 0:
        return column
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column.cast(pa.string())


def _from_arrow(column: pa.ChunkedArray) -> Column:
    """Return an Arrow column in the common form."""
    column = _without_whole_decimals(plain(column))
    of = column.type
    if pa.types.is_null(of):
        return np.ma.masked_array(np.zeros(len(column), dtype=np.int64), mask=True)
    # A reader of CSV takes 03:36:00 for a time of day.
    if pa.types.is_string(of) or pa.types.is_binary(of) or pa.types.is_time(of):
        return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    if pa.types.is_decimal(of):
        column = column.cast(pa.float64())
    if column.null_count and pa.types.is_integer(of):
        values = pc.fill_null(column, 0).to_numpy()
        return np.ma.masked_array(values, mask=column.is_null().to_numpy())
    return np.asarray(column.to_numpy())


def _arrow_as_it_is(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    column = _without_whole_decimals(plain(column))
    of = column.type
    if pa.types.is_null(of) or pa.types.is_binary(of):
        return column.cast(pa.string())
    if pa.types.is_float16(of):
        return column.cast(pa.float32())
    if pa.types.is_temporal(of) or pa.types.is_decimal(of):
        column.cast(pa.string())  # as the CSV file needs it
        return column
    return column if _is_simple(of) else None


def _is_simple(of: pa.DataType) -> bool:
    """Return True for numbers, booleans and text."""
    return bool(
        pa.types.is_integer(of) or pa.types.is_floating(of) or pa.types.is_boolean(of) or pa.types.is_string(of)
    )


# ---- astropy


def _plain_array(column: Any) -> Any:
    """Return an astropy column as a masked array in native byte order, without axes of length one."""
    array: Any = np.ma.asarray(column)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim > 1 and array.size == len(array):
        return array.reshape(len(array))
    return array


def _is_text(array: Any) -> bool:
    """Return True for one text a row; a VOTable has texts of varying length as objects."""
    if array.ndim != 1:
        return False
    return array.dtype.kind in "SU" or (array.dtype.kind == "O" and all(isinstance(v, str) for v in array.compressed()))


def _from_astropy(column: Any) -> Column:
    """Return a column of an astropy table in the common form."""
    array = _plain_array(column)
    if _is_text(array):
        texts = pa.array(array.filled("")).cast(pa.string())
        return pc.utf8_trim_whitespace(pa.chunked_array([texts], pa.string()))
    if array.dtype.kind == "f":
        return np.asarray(array.filled(np.nan))
    return array if np.ma.is_masked(array) else np.asarray(array)


def _arrow_from_astropy(column: Any) -> pa.ChunkedArray | None:
    array = _plain_array(column)
    if _is_text(array):
        texts = _from_astropy(column)
        return pa.chunked_array([texts]) if not isinstance(texts, pa.ChunkedArray) else texts
    if array.ndim != 1 or array.dtype.kind not in "iufbM":
        return None
    return pa.chunked_array([pa.array(np.ma.getdata(array), mask=np.ma.getmaskarray(array))])
