"""Objects counted without reading the catalogues, compared with catalogues that are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from archive_builder.survey.catalog import read_catalog
from archive_builder.survey.counts import count_objects
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import CatalogSection

COLUMNS = CatalogSection(path="{tile}", object_id="ID", ra="RA", dec="DEC")
SHARED = CatalogSection(path="all", object_id="ID", ra="RA", dec="DEC", tile="TILE")
SIZES = {"A": 7, "B": 1, "C": 30}


def objects(count: int, first: int = 0) -> Table:
    at = np.linspace(10, 11, count)
    return Table({"ID": np.arange(first, first + count), "RA": at, "DEC": at - 40})


def all_objects() -> Table:
    """Return the objects of all tiles in random order, with some of an unused tile."""
    tiles = np.repeat([*SIZES, "Z"], [*SIZES.values(), 9])
    table = objects(len(tiles))
    table["TILE"] = tiles
    return table[np.random.default_rng(1).permutation(len(table))]


def files(tile: str, catalog: Path) -> TileFiles:
    return TileFiles(tile, {}, catalog)


@pytest.mark.parametrize("ending", [".fits", ".ldac", ".parquet"])
def test_counts_equal_the_lengths_of_the_catalogues(tmp_path: Path, ending: str) -> None:
    tiles = []
    for tile, count in SIZES.items():
        path = tmp_path / f"{tile}{ending}"
        if ending == ".parquet":
            objects(count).write(path)
        else:
            # Like SExtractor's LDAC: the catalogue is not the first table.
            other = fits.BinTableHDU(Table({"X": np.arange(99)}), name="LDAC_IMHEAD")
            fits.HDUList([fits.PrimaryHDU(), other, fits.BinTableHDU(objects(count))]).writeto(path)
        tiles.append(files(tile, path))
    read = {tile.tile: len(read_catalog(tile.catalog, COLUMNS, tile.tile).object_id) for tile in tiles}
    assert count_objects(tiles, COLUMNS) == read == SIZES


def test_parquet_file_of_all_tiles_is_counted_by_tile(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    all_objects().write(path)
    tiles = [files(tile, path) for tile in SIZES]
    read = {tile: len(read_catalog(path, SHARED, tile).object_id) for tile in SIZES}
    assert count_objects(tiles, SHARED) == read == SIZES


@pytest.mark.parametrize(("ending", "columns"), [(".csv", COLUMNS), (".fits.gz", COLUMNS), (".fits", SHARED)])
def test_table_that_must_be_read_to_be_counted_is_not_counted(
    tmp_path: Path, ending: str, columns: CatalogSection
) -> None:
    path = tmp_path / f"all{ending}"
    all_objects().write(path)
    assert count_objects([files("A", path)], columns) is None


@pytest.mark.parametrize("content", [b"", b"no table"])
@pytest.mark.parametrize("ending", [".fits", ".parquet"])
def test_catalogue_that_cannot_be_read_is_left_out(tmp_path: Path, ending: str, content: bytes) -> None:
    good, bad = tmp_path / f"good{ending}", tmp_path / f"bad{ending}"
    objects(5).write(good)
    bad.write_bytes(content)
    assert count_objects(
        [files("good", good), files("bad", bad), files("gone", tmp_path / f"gone{ending}")], COLUMNS
    ) == {"good": 5}
