"""One tile's objects: IDs and positions from a FITS, ECSV, CSV or Parquet table."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from astropy.io.fits import VerifyError
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray
from pyarrow import csv, parquet

from archive_builder.errors import TileError, one_line
from archive_builder.survey.fits_warnings import no_remarks
from archive_builder.survey.recipe import CatalogSection

Columns: TypeAlias = dict[str, NDArray[Any]]
"""Columns of a table by name."""

Reader: TypeAlias = Callable[[Path, list[str], str | None, str | None], Columns]
"""Reads some columns of a file, given the column of the tile's name and the tile."""

PACKED = (".gz", ".fz")
"""What the name of a compressed file ends in."""

READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    KeyError,
    pa.ArrowException,
    zlib.error,
    VerifyError,
    AstropyWarning,
)
"""What the table readers raise for a file that is not what its name says."""


@dataclass(frozen=True)
class Catalog:
    """The objects of one tile.

    Attributes
    ----------
    object_id : ndarray of int64, (N,)
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS; finite.
    """

    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


def read_catalog(path: Path, columns: CatalogSection, tile: str) -> Catalog:
    """Read a tile's objects.

    Parameters
    ----------
    path : Path
    columns : CatalogSection
        Which columns to take.
    tile : str
        Only its rows are taken where ``columns.tile`` names a column.

    Raises
    ------
    TileError
        The file cannot be read, a column is missing or of the wrong kind, an ID is missing, not a whole
        number or there twice, a position is not on the sky, or there is no object at all.
    """
    try:
        table = read_columns(path, [columns.object_id, columns.ra, columns.dec], columns.tile, tile)
        object_id = _object_ids(table[columns.object_id], columns.object_id)
        ra, dec = (_degrees(table[name], name, object_id) for name in (columns.ra, columns.dec))
        if len(object_id) == 0:
            raise TileError("has no objects for this tile: mend it, or take the tile off the list")
        _check_ids_are_unique(object_id)
        _check_positions(ra, dec, object_id)
    except TileError as error:
        raise TileError(f"catalogue {path}: {error}") from None
    return Catalog(object_id, ra, dec)


def read_columns(path: Path, names: Sequence[str], tile_column: str | None = None, tile: str | None = None) -> Columns:
    """Read some columns of a table, of one tile's rows if asked; missing values are masked or NaN.

    Raises
    ------
    TileError
        The file cannot be read, or lacks a column.
    """
    wanted = [*names, tile_column] if tile_column else list(names)
    try:
        with no_remarks():
            columns = _reader(path)(path, wanted, tile_column, tile)
        if tile_column:
            mine = np.char.strip(np.asarray(columns[tile_column]).astype(str)) == tile
            columns = {name: column[mine] for name, column in columns.items()}
    except READ_ERRORS as error:
        raise TileError(f"cannot be read ({one_line(error)}): mend or replace the file") from None
    return columns


def format_of(path: Path) -> str:
    """Return what a file of this name is read as: ``ecsv``, ``csv``, ``parquet``, else ``fits``."""
    suffixes = [s for s in path.suffixes if s not in PACKED]
    named = {".ecsv": "ecsv", ".csv": "csv", ".parquet": "parquet", ".parq": "parquet"}
    return named.get(suffixes[-1].lower() if suffixes else "", "fits")


def is_compressed(path: Path) -> bool:
    """Tell whether a file of this name is to be unpacked first."""
    return path.suffix in PACKED


def _reader(path: Path) -> Reader:
    """Return the function that reads a file of this name."""
    readers: dict[str, Reader] = {"ecsv": _read_ecsv, "csv": _read_csv, "parquet": _read_parquet, "fits": _read_fits}
    return readers[format_of(path)]


def _read_fits(path: Path, wanted: list[str], *_: object) -> Columns:
    """Read columns of the first table of a FITS file that has them all, SExtractor's LDAC having another before it."""
    with fits.open(path, memmap=False) as hdus:
        chosen = fits_table(hdus, wanted)
        _check_columns(wanted, chosen.columns.names)
        table = Table.read(chosen)
    return {name: _plain(table[name]) for name in wanted}


def fits_table(hdus: fits.HDUList, wanted: Sequence[str]) -> fits.BinTableHDU | fits.TableHDU:
    """Return the table of a FITS file that is the catalogue, by the headers alone.

    Raises
    ------
    TileError
        There is no table.
    """
    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
    if not tables:
        raise TileError("holds no table: give the catalogue's own file")
    largest = max(tables, key=lambda hdu: hdu.header["NAXIS2"])
    return next((hdu for hdu in tables if set(wanted) <= set(hdu.columns.names)), largest)


def _plain(column: object) -> NDArray[np.generic]:
    """Return a table's column as an array in this machine's byte order, masked where values are missing."""
    array: Any = np.ma.asarray(column)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array if np.ma.is_masked(array) else np.asarray(array)


def _read_ecsv(path: Path, wanted: list[str], *_: object) -> Columns:
    table = Table.read(path, format="ascii.ecsv")
    _check_columns(wanted, table.colnames)
    return {name: _plain(table[name]) for name in wanted}


def _read_csv(path: Path, wanted: list[str], tile_column: str | None, _: object) -> Columns:
    """Read columns of a CSV file with comma, semicolon or tab between the values."""
    table = read_csv(path, text=[tile_column] if tile_column else [])
    _check_columns(wanted, table.column_names)
    return {name: _from_arrow(table[name]) for name in wanted}


def read_csv(path: Path, text: Sequence[str] | None = None) -> pa.Table:
    """Read a CSV file, finding out what separates its values.

    Parameters
    ----------
    path : Path
    text : sequence of str or None
        Columns whose values are left the text they are: a tile called 0012 keeps its zeros. None for all.
    """
    with pa.input_stream(path, compression="detect") as stream:
        head = stream.read(65536).decode("utf-8-sig", errors="replace").split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    names = [name.strip().strip('"') for name in head.strip("\r").split(separator)]
    types = {name: pa.string() for name in (names if text is None else text)}
    return csv.read_csv(
        path,
        parse_options=csv.ParseOptions(delimiter=separator),
        read_options=csv.ReadOptions(column_names=names, skip_rows=1),
        convert_options=csv.ConvertOptions(column_types=types),
    )


def _read_parquet(path: Path, wanted: list[str], tile_column: str | None, tile: str | None) -> Columns:
    """Read columns of a Parquet file; row groups that hold other tiles only are not read.

    Group by group and without threads: pyarrow's reader of whole tables may wait for ever for a damaged file.
    """
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        _check_columns(wanted, file.schema_arrow.names)
        groups = [n for n in range(file.num_row_groups) if _may_hold(file.metadata.row_group(n), tile_column, tile)]
        table = file.read_row_groups(groups, columns=wanted, use_threads=False)
    return {name: _from_arrow(table[name]) for name in wanted}


def _may_hold(group: parquet.RowGroupMetaData, tile_column: str | None, tile: str | None) -> bool:
    """Tell whether a row group may have rows of a tile, by the range that it says its tiles' names have."""
    columns = (group.column(number) for number in range(group.num_columns))
    ranges = [column.statistics for column in columns if column.path_in_schema == tile_column]
    if not ranges or ranges[0] is None or not ranges[0].has_min_max or not isinstance(ranges[0].min, str):
        return True
    return bool(ranges[0].min <= str(tile) <= ranges[0].max)


def _from_arrow(column: pa.ChunkedArray) -> NDArray[np.generic]:
    """Return an Arrow column as an array; integers with gaps come masked, never through float."""
    if column.null_count and pa.types.is_integer(column.type):
        values = pc.fill_null(column, 0).to_numpy()
        return np.ma.masked_array(values, mask=column.is_null().to_numpy())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.asarray(pc.fill_null(column, "").to_numpy(), dtype=str)
    return np.asarray(column.to_numpy())


def _check_columns(wanted: list[str], there: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(list(there)[:8])}."
            raise TileError(f"has no column {name}: {hint} Name it in the recipe's [catalog]")


def _object_ids(column: NDArray[np.generic], name: str) -> NDArray[np.int64]:
    """Return IDs as int64, refusing whatever passed through float or does not fit."""
    if column.dtype.kind not in "iu":
        if len(column) == 0:
            return np.empty(0, dtype=np.int64)
        raise TileError(f"column {name} is {column.dtype}, not integers: IDs are 64-bit integers, no digit lost")
    if np.ma.is_masked(column):
        raise TileError(f"column {name} has no value in {int(np.ma.getmaskarray(column).sum())} rows: fill them in")
    if len(column) and column.dtype.kind == "u" and column.max() > np.iinfo(np.int64).max:
        raise TileError(f"column {name} holds {column.max()}, more than a signed 64-bit integer can hold")
    return np.asarray(column, dtype=np.int64)


def _degrees(column: NDArray[np.generic], name: str, object_id: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a coordinate as float64, NaN where it is missing."""
    if column.dtype.kind not in "iuf" and len(object_id):
        raise TileError(f"column {name} is {column.dtype}, not numbers: give degrees")
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def _check_ids_are_unique(object_id: NDArray[np.int64]) -> None:
    values, counts = np.unique(object_id, return_counts=True)
    if counts.max() > 1:
        raise TileError(
            f"object {values[counts > 1][0]} is there {counts[counts > 1][0]} times "
            f"({int((counts > 1).sum())} IDs are repeated): every ID may stand once"
        )


def _check_positions(ra: NDArray[np.float64], dec: NDArray[np.float64], object_id: NDArray[np.int64]) -> None:
    bad = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360))
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise TileError(
            f"{int(bad.sum())} objects have no position on the sky (first: object {object_id[first]} at "
            f"RA {ra[first]}, Dec {dec[first]}): give RA and Dec in deg, or leave them out"
        )
