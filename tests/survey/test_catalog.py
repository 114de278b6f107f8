"""Objects are read exactly from every table format, and invalid tables are refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from archive_builder.errors import TileError
from archive_builder.survey.catalog import Catalog, read_catalog
from archive_builder.survey.recipe import CatalogSection

Columns = dict[str, Any]

INT64 = st.integers(-(2**63), 2**63 - 1)
FINITE = {"allow_nan": False, "allow_infinity": False}


def columns(ids: Any = (11, 12, 13), **others: Any) -> Columns:
    """Return columns of one object for each ID, three by default."""
    number = np.arange(len(ids))
    return {"ID": np.asarray(ids), "RA": 54.0 + number / 7, "DEC": -28.0 - number / 7, **others}


def text_table(path: Path, table: Columns, separator: str) -> None:
    """Write a CSV file; None is an empty field."""
    rows = zip(*(c.tolist() if isinstance(c, np.ndarray) else c for c in table.values()), strict=True)
    lines = [table, *(("" if v is None else repr(v).strip("'") for v in row) for row in rows)]
    path.write_text("".join(separator.join(line) + "\n" for line in lines))


def write_fits(path: Path, table: Columns) -> None:
    Table(table).write(path, format="fits", overwrite=True)


def write_fits_gz(path: Path, table: Columns) -> None:
    write_fits(path.with_name("plain"), table)
    path.write_bytes(gzip.compress(path.with_name("plain").read_bytes()))


def write_csv_gz(path: Path, table: Columns) -> None:
    text_table(path.with_name("plain"), table, ",")
    path.write_bytes(gzip.compress(path.with_name("plain").read_bytes()))


WRITERS: dict[str, Callable[[Path, Columns], None]] = {
    "cat.fits": write_fits,
    "v1.2_cat.fits.gz": write_fits_gz,
    "cat.ecsv": lambda path, table: Table(table).write(path, format="ascii.ecsv", overwrite=True),
    "cat.csv": lambda path, table: text_table(path, table, ","),
    "semicolon.csv": lambda path, table: text_table(path, table, ";"),
    "tab.CSV": lambda path, table: text_table(path, table, "\t"),
    "cat.csv.gz": write_csv_gz,
    "cat.parquet": lambda path, table: parquet.write_table(pa.table(table), path),
}
FORMATS = pytest.mark.parametrize("name", WRITERS)


def read(path: Path, tile: str | None = None, **options: Any) -> Catalog:
    section = CatalogSection(
        path="{tile}", object_id="ID", ra="RA", dec="DEC", tile="TILE" if tile else None, **options
    )
    return read_catalog(path, section, tile or "A")


def complaint(path: Path, tile: str | None = None, **options: Any) -> str:
    """Return the error of a catalogue without the file's name."""
    with pytest.raises(TileError) as caught:
        read(path, tile, **options)
    place, _, rest = str(caught.value).partition(": ")
    assert place == f"catalogue {path}"
    assert len(rest.splitlines()) == 1
    return rest


@FORMATS
@given(ids=st.lists(INT64, min_size=1, max_size=8, unique=True))
@example(ids=[2**53 + 1, 2**53, -(2**63), 2**63 - 1])
def test_every_64_bit_id_is_read_exactly(tmp_path_factory: pytest.TempPathFactory, name: str, ids: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / name
    WRITERS[name](path, columns(np.array(ids, dtype=np.int64)))
    found = read(path).object_id
    assert found.dtype == np.int64
    assert found.tolist() == ids


@FORMATS
@given(places=st.lists(st.tuples(st.floats(-360, 360, **FINITE), st.floats(-90, 90, **FINITE)), min_size=1, max_size=8))
def test_positions_are_read_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, name: str, places: list[tuple[float, float]]
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    ra, dec = np.array(places).T
    WRITERS[name](path, columns(range(1, len(ra) + 1), RA=ra, DEC=dec))
    found = read(path)
    np.testing.assert_array_equal([found.ra, found.dec], [ra, dec])
    assert found.ra.dtype.isnative


@FORMATS
def test_one_catalogue_serves_every_tile(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(range(6), TILE=["B", "A", "C-1", "A", "B", "B"]))
    found = {tile: read(tmp_path / name, tile) for tile in ("A", "B", "C-1")}
    assert {tile: catalog.object_id.tolist() for tile, catalog in found.items()} == {
        "A": [1, 3],
        "B": [0, 4, 5],
        "C-1": [2],
    }
    np.testing.assert_array_equal(found["A"].ra, 54.0 + np.array([1, 3]) / 7)


@FORMATS
def test_tile_that_is_not_in_the_catalogue_is_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(range(3), TILE=["AA", "a", "B"]))
    assert complaint(tmp_path / name, "A").startswith("has no objects for this tile")


@FORMATS
def test_numeric_tile_name_keeps_its_leading_zeros(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(range(4), TILE=["0012", "12", "0012", "1e1"]))
    assert read(tmp_path / name, "0012").object_id.tolist() == [0, 2]
    assert read(tmp_path / name, "1e1").object_id.tolist() == [3]


def test_invalid_rows_of_another_tile_do_not_matter(tmp_path: Path) -> None:
    table = columns([1, 2, 2, 3], TILE=["A", "A", "B", "B"], RA=[54.0, 54.1, np.nan, np.nan])
    write_fits(tmp_path / "cat.fits", table)
    assert read(tmp_path / "cat.fits", "A").object_id.tolist() == [1, 2]
    assert "none of its 2 objects has a position on the sky (first: object 2" in complaint(tmp_path / "cat.fits", "B")


def test_tile_column_of_categories_is_read(tmp_path: Path) -> None:
    table = columns(range(4), TILE=pa.array(["A", "B", "A", "B"]).dictionary_encode())
    parquet.write_table(pa.table(table), tmp_path / "cat.parquet")
    assert read(tmp_path / "cat.parquet", "B").object_id.tolist() == [1, 3]


@FORMATS
def test_floating_point_ids_are_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(np.array([1.0, 2.0, 2.0**53])))
    assert complaint(tmp_path / name).startswith("column ID is float64, not integers")


@FORMATS
def test_text_ids_are_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(["J0336-2801", "J0336-2802", "J0336-2803"]))
    assert "not integers" in complaint(tmp_path / name)


@pytest.mark.parametrize("name", ["cat.fits", "v1.2_cat.fits.gz", "cat.ecsv", "cat.parquet"])
def test_unsigned_ids_are_accepted_up_to_the_largest_signed_one(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(np.array([1, 2**63 - 1], dtype=np.uint64)))
    assert read(tmp_path / name).object_id.tolist() == [1, 2**63 - 1]
    WRITERS[name](tmp_path / name, columns(np.array([1, 2**63], dtype=np.uint64)))
    assert complaint(tmp_path / name).startswith(f"column ID holds {2**63}, more than")


def with_gap(name: str, column: str, value: Any) -> Columns:
    """Return three objects; the second has no value in one column, in the manner of each format."""
    table = columns()
    if name.endswith(("fits", "gz", "ecsv")) and "csv.gz" not in name:
        fill = {"fill_value": -1} if column == "ID" else {}
        return {**table, column: np.ma.masked_array(table[column], [False, True, False], **fill)}
    values = [table[column][0].item(), value, table[column][2].item()]
    return {**table, column: pa.array(values) if name.endswith("parquet") else values}


@FORMATS
def test_a_row_without_an_id_is_left_out_and_counted(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, with_gap(name, "ID", None))
    found = read(tmp_path / name)
    assert (found.object_id.tolist(), found.without_id) == ([11, 13], 1)
    assert found.ra.tolist() == columns()["RA"][[0, 2]].tolist()


def test_a_catalogue_without_any_id_is_refused(tmp_path: Path) -> None:
    table = columns(pa.array([None, None], pa.int64()))
    parquet.write_table(pa.table(table | {"ID": pa.array([None, None], pa.int64())}), tmp_path / "cat.parquet")
    assert complaint(tmp_path / "cat.parquet").startswith("column ID has no value in any of its 2 rows")


@FORMATS
@pytest.mark.parametrize("column", ["RA", "DEC"])
def test_a_row_without_a_position_costs_only_itself(tmp_path: Path, name: str, column: str) -> None:
    WRITERS[name](tmp_path / name, with_gap(name, column, None))
    found = read(tmp_path / name)
    assert (found.object_id.tolist(), found.has_position.tolist()) == ([11, 12, 13], [True, False, True])
    np.testing.assert_array_equal(np.isnan([found.ra, found.dec]), [[False, True, False]] * 2)


@FORMATS
@pytest.mark.parametrize("position", [{"RA": np.nan}, {"DEC": np.inf}, {"DEC": -90.5}, {"RA": 1e5}])
def test_an_invalid_position_is_none(tmp_path: Path, name: str, position: dict[str, float]) -> None:
    table = columns()
    ((column, value),) = position.items()
    table[column][1:] = value
    WRITERS[name](tmp_path / name, table)
    found = read(tmp_path / name)
    np.testing.assert_array_equal(np.isnan([found.ra, found.dec]), [[False, True, True]] * 2)
    table[column][0] = value
    WRITERS[name](tmp_path / name, table)
    message = complaint(tmp_path / name)
    assert message.startswith("none of its 3 objects has a position on the sky (first: object 11 at RA ")


@FORMATS
def test_repeated_id_is_refused_if_the_recipe_says_so(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns([3, 9, 7, 9, 9, 7, 1]))
    assert read(tmp_path / name).object_id.tolist() == [3, 9, 7, 9, 9, 7, 1]
    message = complaint(tmp_path / name, duplicates="fail")
    assert message.startswith("object 7 is listed 2 times (2 IDs are repeated)")


@FORMATS
def test_empty_catalogue_is_refused(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, columns(np.empty(0, dtype=np.int64)))
    assert complaint(tmp_path / name).startswith("has no objects for this tile")


@FORMATS
def test_error_for_a_missing_column_suggests_a_similar_one(tmp_path: Path, name: str) -> None:
    table = columns()
    WRITERS[name](tmp_path / name, {"RAJ": table["RA"], "ID": table["ID"], "DEC": table["DEC"]})
    assert complaint(tmp_path / name).startswith("has no column RA: did you mean RAJ?")


@FORMATS
def test_error_for_a_missing_column_lists_the_columns_if_none_is_similar(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, {"ID": np.arange(2), "X": np.zeros(2), "Y": np.zeros(2)})
    assert complaint(tmp_path / name).startswith("has no column RA: it has ID, X, Y")


@FORMATS
@pytest.mark.parametrize("content", [b"", b"\x00" * 9000, bytes(range(256)) * 40, b"%PDF-1.4\n%\xe2\xe3\n"])
def test_file_that_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert complaint(tmp_path / name)


@FORMATS
def test_error_names_a_missing_file(tmp_path: Path, name: str) -> None:
    assert "No such file" in complaint(tmp_path / name) or "does not exist" in complaint(tmp_path / name)


def test_fits_file_without_a_table_is_refused(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((3, 3))).writeto(tmp_path / "image.fits")
    assert complaint(tmp_path / "image.fits").startswith("holds no table")


def test_catalogue_is_found_behind_another_table(tmp_path: Path) -> None:
    # SExtractor's FITS_LDAC has such a first table.
    head = fits.BinTableHDU.from_columns([fits.Column("Field Header Card", "80A", array=["x"])], name="LDAC_IMHEAD")
    fits.HDUList([fits.PrimaryHDU(), head, fits.table_to_hdu(Table(columns()))]).writeto(tmp_path / "cat.fits")
    assert read(tmp_path / "cat.fits").object_id.tolist() == [11, 12, 13]


def test_unusual_units_give_no_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # In these tests a warning is an error.
    ids, ra, dec = columns().values()
    shapes = [("ID", "K", "none", ids), ("RA", "D", "degrees", ra), ("DEC", "D", "d:m:s", dec)]
    table = fits.BinTableHDU.from_columns([fits.Column(n, f, unit=u, array=a) for n, f, u, a in shapes])
    table.writeto(tmp_path / "cat.fits")
    assert read(tmp_path / "cat.fits").ra.tolist() == ra.tolist()
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same fifty objects in each format."""
    folder = tmp_path_factory.mktemp("tables")
    for name, write in WRITERS.items():
        write(folder / name, columns(2**60 + np.arange(50), TILE=["A"] * 30 + ["B"] * 20))
    return {name: (folder / name).read_bytes() for name in WRITERS}


# astropy may leave a damaged file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("name", [name for name in WRITERS if not name.endswith(".parquet")])
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_damage_to_a_catalogue_fails_its_tile_at_most(
    tmp_path_factory: pytest.TempPathFactory, tables: dict[str, bytes], name: str, flips: list[tuple[float, int]]
) -> None:
    # Without Parquet: some damage makes pyarrow end the process. That fails only the tile, but would end this test.
    content = bytearray(tables[name])
    for place, bits in flips:
        content[int(place * len(content))] ^= bits
    path = tmp_path_factory.getbasetemp() / f"damaged_{name}"
    path.write_bytes(content)
    try:
        found = read(path, "A").object_id
    except TileError as error:
        assert str(error).splitlines() == [str(error)]
        assert str(error).startswith(f"catalogue {path}: ")
    else:
        assert len(found) > 0


def test_gzipped_table_with_a_damaged_header_is_refused_instead_of_hanging(tmp_path: Path) -> None:
    # astropy finds a corrupted HDU at the start of this file again and again.
    write_fits(tmp_path / "plain", columns())
    content = bytearray((tmp_path / "plain").read_bytes())
    assert content[29] == ord("T")  # SIMPLE = T
    content[29] = ord("%")
    (tmp_path / "cat.fits.gz").write_bytes(gzip.compress(content))
    assert "cannot be read" in complaint(tmp_path / "cat.fits.gz")
