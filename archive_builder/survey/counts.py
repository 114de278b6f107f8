"""How many objects the catalogues have, where that can be told without reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
from astropy.io import fits
from pyarrow import parquet

from archive_builder.errors import TileError
from archive_builder.survey.catalog import READ_ERRORS, fits_table, format_of, is_compressed
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.fits_warnings import no_remarks
from archive_builder.survey.recipe import CatalogSection


def count_objects(tiles: Sequence[TileFiles], columns: CatalogSection) -> dict[str, int] | None:
    """Count the rows of every tile's catalogue by the headers of FITS files and the metadata of Parquet files.

    Parameters
    ----------
    tiles : sequence of TileFiles
    columns : CatalogSection

    Returns
    -------
    dict of str to int, or None
        Each tile's objects; None if the catalogues would have to be read for it: text, compressed FITS, a FITS
        table that serves several tiles. A tile whose catalogue cannot be read is left out.
    """
    if not all(_is_countable(path, columns) for path in {files.catalog for files in tiles}):
        return None
    by_path: dict[Path, Counter[str]] = {}
    counts: dict[str, int] = {}
    for files in tiles:
        try:
            if columns.tile is None:
                counts[files.tile] = _rows(files.catalog, columns)
            else:
                if files.catalog not in by_path:
                    by_path[files.catalog] = _rows_by_tile(files.catalog, columns.tile)
                counts[files.tile] = by_path[files.catalog][files.tile]
        except (*READ_ERRORS, TileError):  # a build says what is wrong with it
            continue
    return counts


def _is_countable(path: Path, columns: CatalogSection) -> bool:
    kind = format_of(path)
    return kind == "parquet" or (kind == "fits" and not is_compressed(path) and columns.tile is None)


def _rows(path: Path, columns: CatalogSection) -> int:
    """Return the rows of a catalogue of one tile."""
    if format_of(path) == "parquet":
        return int(parquet.read_metadata(path).num_rows)
    with no_remarks(), fits.open(path, memmap=False) as hdus:
        return int(fits_table(hdus, [columns.object_id, columns.ra, columns.dec]).header["NAXIS2"])


def _rows_by_tile(path: Path, column: str) -> Counter[str]:
    """Return the rows of each tile in a Parquet file that serves several, by its column of their names alone."""
    counts: Counter[str] = Counter()
    with parquet.ParquetFile(path, read_dictionary=[column], pre_buffer=False) as file:
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=[column], use_threads=False)[column]
            for name, rows in (pair.values() for pair in pc.value_counts(names).to_pylist()):
                counts[str(name).strip()] += rows
    return counts
