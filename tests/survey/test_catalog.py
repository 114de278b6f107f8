"""Objects are read exactly from every table format, and invalid tables are refused."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation
from astropy.io import fits
from astropy.table import Table
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import parquet

from archive_builder.errors import TileError
from archive_builder.survey.catalog import Catalog, read_catalog, to_icrs
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


def write_spaced(path: Path, table: Columns) -> None:
    """Write columns between spaces under a commented header; a missing value is ``""``."""
    rows = zip(*(c.tolist() if isinstance(c, np.ndarray) else c for c in table.values()), strict=True)
    lines = [" ".join('""' if v is None else repr(v).strip("'") for v in row) for row in rows]
    path.write_text("\n".join([f"# {' '.join(table)}", *lines, ""]))


WRITERS: dict[str, Callable[[Path, Columns], None]] = {
    "cat.fits": write_fits,
    "v1.2_cat.fits.gz": write_fits_gz,
    "cat.ecsv": lambda path, table: Table(table).write(path, format="ascii.ecsv", overwrite=True),
    "cat.csv": lambda path, table: text_table(path, table, ","),
    "semicolon.csv": lambda path, table: text_table(path, table, ";"),
    "tab.CSV": lambda path, table: text_table(path, table, "\t"),
    "cat.csv.gz": write_csv_gz,
    "cat.parquet": lambda path, table: parquet.write_table(pa.table(table), path),
    "cat.vot": lambda path, table: Table(table).write(path, format="votable", overwrite=True),
    "cat.tbl": lambda path, table: Table(table).write(path, format="ascii.ipac", overwrite=True),
    "spaced.cat": write_spaced,
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
    if name.endswith(("fits", "gz", "ecsv", "vot", "tbl")) and "csv.gz" not in name:
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


UNITS = {
    "deg": 1.0,
    "DEG": 1.0,
    "degrees": 1.0,
    "rad": np.pi / 180,
    "Radian": np.pi / 180,
    "hourangle": 1 / 15,
    "arcmin": 60.0,
    "arcsec": 3600.0,
    "mas": 3.6e6,
}
"""Units of a degree."""


def with_unit(path: Path, unit: str, ra: Any, dec: Any) -> None:
    """Write a catalogue with a unit at RA and Dec as the file's format has them."""
    if path.suffix == ".parquet":
        fields = [pa.field("ID", pa.int64()), *(pa.field(n, pa.float64(), metadata={"unit": unit}) for n in "XY")]
        pq = pa.table([np.arange(len(ra)), ra, dec], schema=pa.schema(fields)).rename_columns(["ID", "RA", "DEC"])
        parquet.write_table(pq, path)
    elif path.suffix == ".fits":
        fields = [("ID", "K", None, np.arange(len(ra))), ("RA", "D", unit, ra), ("DEC", "D", unit, dec)]
        fits.BinTableHDU.from_columns([fits.Column(n, f, unit=u, array=a) for n, f, u, a in fields]).writeto(path)
    else:
        table = Table({"ID": np.arange(len(ra)), "RA": ra, "DEC": dec}, units={"RA": "mas", "DEC": "mas"})
        table.write(path, format={".vot": "votable", ".tbl": "ascii.ipac"}.get(path.suffix, "ascii.ecsv"))
        path.write_text(path.read_text().replace("mas", f"{unit:3}" if path.suffix == ".tbl" else unit))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", ["c.fits", "c.ecsv", "c.vot", "c.parquet"])
def test_units_of_positions_are_converted(tmp_path: Path, name: str, unit: str) -> None:
    ra, dec = np.array([54.0, 359.5]), np.array([-28.25, 89.0])
    with_unit(tmp_path / name, unit, ra * UNITS[unit], dec * UNITS[unit])
    found = read(tmp_path / name)
    np.testing.assert_allclose(found.ra, ra, rtol=1e-15)
    np.testing.assert_allclose(found.dec, dec, rtol=1e-15)


@pytest.mark.parametrize("unit", ["pix", "mag", "km", "s", "nonsense"])
@pytest.mark.parametrize("name", ["c.fits", "c.ecsv", "c.vot", "c.tbl", "c.parquet"])
def test_a_position_in_another_unit_is_refused_by_name(tmp_path: Path, name: str, unit: str) -> None:
    with_unit(tmp_path / name, unit, np.array([54.0]), np.array([-28.0]))
    message = complaint(tmp_path / name)
    assert message.startswith(f"column RA has the unit '{unit}', which is not a unit of RA: convert the values to deg")


@pytest.mark.parametrize(
    ("ra", "dec"), [("03:36:00.0", "-28:15:00"), ("3h36m0s", "-28d15m"), ("3 36 00", "-28 15 00.0"), ("54.0", "-28.25")]
)
def test_positions_may_be_sexagesimal_text(tmp_path: Path, ra: str, dec: str) -> None:
    table = {"ID": [1, 2], "RA": [ra, ra], "DEC": [dec, dec]}
    text_table(tmp_path / "c.csv", table, ",")
    Table(table).write(tmp_path / "c.fits")
    parquet.write_table(pa.table(table), tmp_path / "c.parquet")
    for path in sorted(tmp_path.iterdir()):
        found = read(path)
        assert (found.ra.tolist(), found.dec.tolist()) == ([54.0, 54.0], [-28.25, -28.25])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_unit_says_that_sexagesimal_ra_is_in_deg(tmp_path: Path) -> None:
    table = Table({"ID": [1], "RA": ["54:00:00"], "DEC": ["-28:15:00"]}, units={"RA": "deg", "DEC": "deg"})
    table.write(tmp_path / "c.ecsv")
    assert read(tmp_path / "c.ecsv").ra.tolist() == [54.0]


def test_a_position_that_cannot_be_read_costs_its_row_and_a_column_of_them_is_refused(tmp_path: Path) -> None:
    text_table(tmp_path / "c.csv", {"ID": [1, 2], "RA": ["3:36:00", "3:66:00"], "DEC": [1.0, 2.0]}, ",")
    assert read(tmp_path / "c.csv").has_position.tolist() == [True, False]
    text_table(tmp_path / "c.csv", {"ID": [1, 2], "RA": ["3:76:00", "3:66:00"], "DEC": [1.0, 2.0]}, ",")
    assert complaint(tmp_path / "c.csv") == "column RA holds '3:76:00' (2 values cannot be read): give deg or h:m:s"


@pytest.mark.parametrize("frame", ["icrs", "fk5", "fk4", "galactic", "supergalactic", "ecliptic"])
def test_positions_may_be_in_another_frame(tmp_path: Path, frame: str) -> None:
    true = SkyCoord([54.0, 266.4, 0.1], [-28.0, -28.9, 89.9], unit="deg")
    name = {"ecliptic": "barycentricmeanecliptic", "fk5": "icrs"}.get(frame, frame)
    there = true.transform_to(name).represent_as(UnitSphericalRepresentation)
    write_fits(tmp_path / "c.fits", columns(RA=there.lon.deg, DEC=there.lat.deg))
    section = CatalogSection(path="{tile}", object_id="ID", ra="RA", dec="DEC", frame=frame)
    found = read_catalog(tmp_path / "c.fits", section, "A")
    assert SkyCoord(found.ra, found.dec, unit="deg").separation(true).arcsec.max() < 1e-6


def test_an_invalid_position_in_another_frame_stays_as_given(tmp_path: Path) -> None:
    ra, dec = to_icrs(np.array([0.0, np.nan, 500.0]), np.array([0.0, 0.0, 0.0]), "galactic")
    np.testing.assert_allclose([ra[0], dec[0]], [266.405, -28.936], atol=1e-3)
    assert str(ra[1:]) == "[ nan 500.]"
    assert dec[1:].tolist() == [0.0, 0.0]


def test_a_galactic_longitude_is_never_in_hours(tmp_path: Path) -> None:
    text_table(tmp_path / "c.csv", {"ID": [1], "RA": ["120:00:00"], "DEC": ["30:00:00"]}, ",")
    section = CatalogSection(path="{tile}", object_id="ID", ra="RA", dec="DEC", frame="galactic")
    found = read_catalog(tmp_path / "c.csv", section, "A")
    expected = SkyCoord(120, 30, unit="deg", frame="galactic").icrs
    np.testing.assert_allclose([found.ra[0], found.dec[0]], [expected.ra.deg, expected.dec.deg], rtol=1e-12)


def test_a_vector_column_is_refused_by_name(tmp_path: Path) -> None:
    write_fits(tmp_path / "c.fits", columns(RA=np.ones((3, 2))))
    assert complaint(tmp_path / "c.fits").startswith("column RA is float64 of shape (3, 2), not numbers: give deg")


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
