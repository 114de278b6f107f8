"""Object counts of catalogues, without reading the catalogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from archive_builder.errors import TableError
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import CatalogSection
from archive_builder.survey.tables import open_table


def count_objects(tiles: Sequence[TileFiles], columns: CatalogSection) -> dict[str, int] | None:
    """Count the rows of every tile's catalogue, from the headers of FITS files and the metadata of Parquet files.

    Parameters
    ----------
    tiles : sequence of TileFiles
    columns : CatalogSection

    Returns
    -------
    dict of str to int, or None
        Objects by tile, without the tiles whose catalogue cannot be read. None if counting would read a whole
        catalogue: text, compressed FITS, a table of several tiles in FITS or without a column of tile names.
    """
    if columns.is_shared:
        return None
    counts: dict[Path, int | Counter[str]] = {}
    for path in dict.fromkeys(files.catalog for files in tiles):
        try:
            table = open_table(path, [columns.object_id, columns.ra, columns.dec])
            rows = table.count(columns.tile) if columns.tile else table.rows
        except TableError:  # a build reports the error
            continue
        if rows is None:
            return None
        counts[path] = rows
    found = {files.tile: counts[files.catalog] for files in tiles if files.catalog in counts}
    return {tile: rows if isinstance(rows, int) else rows[tile] for tile, rows in found.items()}
