"""Request lists of exports: every file format, every kind of row, and the names for positions."""

from __future__ import annotations

import csv
import gzip
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from archive_builder import RequestError
from archive_builder.exporting import names
from archive_builder.exporting.own_columns import manifest_names
from archive_builder.exporting.request_list import ColumnNames, Outcome, read_requests

MOST = 2**63 - 1


def csv_list(folder: Path, *lines: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def outcomes(path: Path) -> list[str]:
    return [Outcome(code).name for code in read_requests(path).outcome]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists")


id_texts = st.one_of(
    st.integers(-(2**66), 2**66).map(str),
    st.sampled_from([str(MOST), str(MOST + 1), str(-MOST - 1), str(-MOST - 2), "", "NaN", "-0", "+7", "007", "1.0"]),
    st.text("0123456789+-. eE", max_size=25),
)


@settings(deadline=None, max_examples=200)
@given(texts=st.lists(id_texts, min_size=1, max_size=20))
def test_an_id_as_text_is_read_like_pythons_int_or_refused(folder: Path, texts: list[str]) -> None:
    path = folder / "ids.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["OBJECT_ID", "NOTE"], *([text, "x"] for text in texts)])
    read = read_requests(path)
    assert read.object_id is not None
    assert len(read) == len(texts)
    for text, outcome, object_id in zip(texts, read.outcome, read.object_id.tolist(), strict=True):
        bare = text.strip()
        if bare.lower() in ("", "nan", "--"):
            assert outcome == Outcome.NO_ID
        elif bare.lstrip("+-").isdigit() and len(bare) - len(bare.lstrip("+-")) < 2 and -MOST - 1 <= int(bare) <= MOST:
            assert (outcome, object_id) == (Outcome.DONE, int(bare))
        else:
            assert outcome == Outcome.BAD_ID


def test_all_file_formats_give_the_same_list(tmp_path: Path) -> None:
    ids, sizes = [MOST, -5, 0, 353000001], [0.5, np.nan, -1.0, 1.25]
    mask = [False, False, True, False]
    table = Table({"Coadd_Object_ID": MaskedColumn(ids, mask=mask), "xsize": sizes})
    table.write(tmp_path / "list.ecsv")
    table.write(tmp_path / "list.fits")
    table.write(tmp_path / "list.fits.gz")
    table.write(tmp_path / "list.vot", format="votable")
    table.write(tmp_path / "list.tbl", format="ascii.ipac")
    arrow = pa.table({"Coadd_Object_ID": pa.array(ids, mask=np.array(mask)), "xsize": sizes})
    parquet.write_table(arrow, tmp_path / "list.parquet")
    csv_list(tmp_path, "Coadd_Object_ID,xsize", f"{MOST},0.5", "-5,", ",-1", "353000001,1.25", "")
    csv_list(tmp_path, "Coadd_Object_ID\txsize", f"{MOST}\t0.5", "-5\t", "\t-1", "353000001\t1.25", "", name="t.tsv")
    lists = {path.name: read_requests(path) for path in tmp_path.iterdir()}
    assert len(lists) == 8
    for read in lists.values():
        assert read.object_id is not None
        assert read.object_id.tolist() == [MOST, -5, 0, 353000001]
        assert read.outcome.tolist() == [Outcome.DONE, Outcome.DONE, Outcome.NO_ID, Outcome.DONE]
        assert read.sizes is not None
        np.testing.assert_array_equal(read.sizes.y, sizes)  # one side means a square
    assert len({read.fingerprint() for read in lists.values()}) == 1


def test_different_lists_have_different_fingerprints(tmp_path: Path) -> None:
    several = [("ID", "1", "2"), ("ID", "2", "1"), ("ID", "1"), ("ID", "1", "x"), ("ID", "1", "y"), ("RA,DEC", "1,2")]
    several += [("ID,XSIZE", "1,1", "2,1"), ("ID,YSIZE,XSIZE", "1,1,2", "2,1,1")]
    prints = {read_requests(csv_list(tmp_path, *lines)).fingerprint() for lines in several}
    assert len(prints) == len(several)


@pytest.mark.parametrize("column", ["COADD_OBJECT_ID", "coadd_object_id", "Object_Id", "id", "objid"])
def test_usual_id_columns_are_found_in_upper_and_lower_case(tmp_path: Path, column: str) -> None:
    read = read_requests(csv_list(tmp_path, f'dec,"{column}" ,ra', "1,17,2"))
    assert read.object_id is not None
    assert read.object_id.tolist() == [17]  # not the position


@pytest.mark.parametrize(("ra", "dec"), [("RA", "DEC"), ("ra", "Dec"), ("alphawin_j2000", "DELTAWIN_J2000")])
def test_usual_position_columns_are_found_in_upper_and_lower_case(tmp_path: Path, ra: str, dec: str) -> None:
    read = read_requests(csv_list(tmp_path, f"{dec};{ra}", "-28.25;1e1"))
    assert read.ra is not None
    assert read.dec is not None
    assert (read.ra.tolist(), read.dec.tolist()) == ([10.0], [-28.25])


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = csv_list(tmp_path, "ID,other,x,y", "1,2,3,4")
    assert read_requests(path, ColumnNames(object_id="other")).object_id == [2]
    positions = read_requests(path, ColumnNames(ra="x", dec="Y"))
    assert positions.object_id is None
    assert (positions.ra, positions.dec) == ([3.0], [4.0])


def test_a_blank_line_is_a_row_except_at_the_end(tmp_path: Path) -> None:
    assert outcomes(csv_list(tmp_path, "ID", "1", "", '""', "4", "", "")) == ["DONE", "NO_ID", "NO_ID", "DONE"]
    assert outcomes(csv_list(tmp_path, "N,ID\r", "a,1\r", "\r", "b,\r", "\r", "")) == ["DONE", "NO_ID", "NO_ID"]
    assert outcomes(csv_list(tmp_path, "ID")) == []


def test_rows_without_a_position_on_the_sky_are_reported(tmp_path: Path) -> None:
    rows = ["10,90", "-10,-90", "360,0", "10,90.1", "361,0", ",1", "1,", "nan,1", "inf,1", "12:60:00,1", "1e400,2"]
    read = read_requests(csv_list(tmp_path, "RA,DEC", *rows))
    assert [Outcome(code).name for code in read.outcome] == ["DONE"] * 3 + ["NO_POSITION"] * 8
    forms = "give RA in deg or h:m:s, Dec in deg or d:m:s"
    assert read.texts == {
        8: f"RA 'inf', Dec '1': {forms}",
        9: f"RA '12:60:00', Dec '1': {forms}",
        10: f"RA '1e400', Dec '2': {forms}",
    }


def test_positions_may_be_sexagesimal(tmp_path: Path) -> None:
    rows = ["03:36:00.0,-28:15:00", "3h36m0s,-28d15m0s", "3 36 00,-28 15 00", "+54,-28.25", "54d0m,-28:15"]
    read = read_requests(csv_list(tmp_path, "RA,DEC", *rows))
    assert read.ra is not None
    assert read.dec is not None
    assert (read.ra.tolist(), read.dec.tolist()) == ([54.0] * 5, [-28.25] * 5)


def written(path: Path, table: Table) -> Path:
    table.write(path, format={".vot": "votable"}.get(path.suffix))
    return path


@pytest.mark.parametrize("name", ["l.fits", "l.ecsv", "l.vot", "l.parquet"])
def test_units_of_positions_and_sizes_are_converted(tmp_path: Path, name: str) -> None:
    angles = {"RA": [54.0, 3.0] * u.deg, "DEC": [-28.0, 1.0] * u.deg}
    sizes = {"XSIZE": [8.0, 9.0] * u.arcsec, "YSIZE": [0.25, 0.5] * u.arcmin}
    table = QTable({**{name: angle.to(u.rad) for name, angle in angles.items()}, **sizes})
    read = read_requests(written(tmp_path / name, table))
    assert read.ra is not None
    assert read.sizes is not None
    np.testing.assert_allclose(read.ra, [54.0, 3.0], rtol=1e-15)
    np.testing.assert_allclose(read.sizes.x, [8 / 60, 9 / 60], rtol=1e-15)
    assert read.sizes.y.tolist() == [0.25, 0.5]


@pytest.mark.parametrize(("column", "unit"), [("XSIZE", "pix"), ("YSIZE", "mag"), ("RA", "pix"), ("DEC", "km")])
@pytest.mark.parametrize("name", ["l.fits", "l.ecsv", "l.vot", "l.parquet"])
def test_another_unit_is_refused_by_name(tmp_path: Path, name: str, column: str, unit: str) -> None:
    table = Table({"RA": [1.0], "DEC": [2.0], "XSIZE": [1.0], "YSIZE": [1.0]}, units={column: unit})
    with pytest.raises(RequestError, match=f"^list .*{name}: column {column} has the unit '{unit}', which is not"):
        read_requests(written(tmp_path / name, table))


def test_text_sizes_that_cannot_be_read_are_quoted(tmp_path: Path) -> None:
    read = read_requests(csv_list(tmp_path, "ID,XSIZE,YSIZE", "1,big,1", "2,1,0:30", "x,big,1", "3,0,1"))
    assert read.texts == {0: "XSIZE 'big': give arcmin", 1: "YSIZE '0:30': give arcmin", 2: "'x'"}
    assert [Outcome(code).name for code in read.outcome] == ["BAD_SIZE", "BAD_SIZE", "BAD_ID", "BAD_SIZE"]


@pytest.mark.parametrize(
    "of", [pa.string(), pa.large_string(), pa.string_view(), pa.binary_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_ids_of_every_text_type_are_read_digit_by_digit(tmp_path: Path, of: pa.DataType) -> None:
    ids = [str(MOST), "-5", "x", None]
    values = [text and text.encode() for text in ids] if of == pa.binary_view() else ids
    parquet.write_table(pa.table({"ID": pa.array(values, of)}), tmp_path / "l.parquet")
    read = read_requests(tmp_path / "l.parquet")
    assert read.object_id is not None
    assert read.object_id.tolist() == [MOST, -5, 0, 0]
    assert outcomes(tmp_path / "l.parquet") == ["DONE", "DONE", "BAD_ID", "NO_ID"]


def test_a_record_is_a_row_whatever_is_inside_its_quotes(tmp_path: Path) -> None:
    lines = [f'{number},"see also\n1005, and 7"' for number in range(60_000)]
    read = read_requests(csv_list(tmp_path, "ID,NOTE", *lines))
    assert read.object_id is not None
    np.testing.assert_array_equal(read.object_id, np.arange(60_000))
    assert read.own.given["NOTE"].unique().to_pylist() == ["see also\n1005, and 7"]


def test_own_columns_have_the_type_of_all_their_values(tmp_path: Path) -> None:
    header = "ID,int,float,code,text,huge,empty,some,mixed"
    rows = ["1,5,1.50,007,a b,9223372036854775808,,,1", "2,-7,nan,12, c,1,,3,x", "3,0,1e3,1,,2,,,2"]
    own = read_requests(csv_list(tmp_path, header, *rows)).own
    assert own.given["float"].to_pylist() == ["1.50", "nan", "1e3"]
    typed = own.typed(slice(0, 3)).to_pydict()
    assert np.isnan(typed["float"][1])
    assert {name: values for name, values in typed.items() if name != "float"} == {
        "int": [5, -7, 0],
        "code": ["007", "12", "1"],
        "text": ["a b", " c", ""],
        "huge": ["9223372036854775808", "1", "2"],
        "empty": ["", "", ""],
        "some": [None, 3, None],
        "mixed": ["1", "x", "2"],
    }
    assert own.typed(np.array([2, 0]))["int"].to_pylist() == [0, 5]


def test_a_type_is_that_of_all_rows_not_of_the_first(tmp_path: Path) -> None:
    rows = [*(f"{n},{n},," for n in range(3000)), "7,x,3,", "8,,2.5,y"]
    own = read_requests(csv_list(tmp_path, "ID,A,B,C", *rows)).own
    assert own.types.types == [pa.string(), pa.float64(), pa.string()]


def test_own_columns_have_different_names_in_the_manifest() -> None:
    assert manifest_names(["NOTE", "TILE", "list_tile", "ra"], ["row", "tile"]) == [
        "NOTE",
        "list_TILE",
        "list_list_tile",
        "ra",
    ]


def test_columns_that_a_manifest_cannot_hold_are_left_out_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Table({"ID": [1, 2], "V": np.ones((2, 3)), "M": [1.5, 2.5]}).write(tmp_path / "l.fits")
    assert read_requests(tmp_path / "l.fits").own.given.to_pydict() == {"M": [1.5, 2.5]}
    (record,) = caplog.records
    assert record.getMessage() == (
        f"list {tmp_path}/l.fits: left out of the manifest: V (not one number or UTF-8 text a row)"
    )


STANDARD_INPUTS = {
    "csv": lambda path: path.write_text("ID,N\n5,a\n7,b\n"),
    "csv.gz": lambda path: path.write_bytes(gzip.compress(b"ID,N\n5,a\n7,b\n")),
    "fits": lambda path: Table({"ID": [5, 7], "N": ["a", "b"]}).write(path),
    "parquet": lambda path: parquet.write_table(pa.table({"ID": [5, 7], "N": ["a", "b"]}), path),
    "vot": lambda path: Table({"ID": [5, 7], "N": ["a", "b"]}).write(path, format="votable"),
}


@pytest.mark.parametrize("form", STANDARD_INPUTS)
def test_a_list_may_come_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    STANDARD_INPUTS[form](tmp_path / f"l.{form}")
    with (tmp_path / f"l.{form}").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        read = read_requests(Path("-"))
    assert read.object_id is not None
    assert read.object_id.tolist() == [5, 7]
    assert read.own.given.to_pydict() == {"N": ["a", "b"]}
    with (tmp_path / f"l.{form}").open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        with pytest.raises(RequestError) as caught:
            read_requests(Path("-"), ColumnNames(object_id="X"))
    assert str(caught.value) == "list from standard input: has no column X: name one of ID, N"


def test_rows_with_an_impossible_size_are_reported(tmp_path: Path) -> None:
    rows = ["1,0.5,1", "1,,1", "1,1,nan", "1,,", "1,0,1", "1,1,-2", "1,big,1", "1,inf,1", ",0,0"]
    read = read_requests(csv_list(tmp_path, "ID,XSIZE,YSIZE", *rows))
    assert [Outcome(code).name for code in read.outcome] == ["DONE"] * 4 + ["BAD_SIZE"] * 4 + ["NO_ID"]
    assert read.sizes is not None
    np.testing.assert_array_equal(
        np.column_stack([read.sizes.x, read.sizes.y])[:4], [[0.5, 1], [1, 1], [1, 1], [np.nan] * 2]
    )


@pytest.mark.parametrize(
    ("column", "named"),
    [(pa.array([1.0, 2.0]), "float"), (pa.array([True, False]), "bool"), (pa.array([[1], [2]]), "object")],
)
def test_non_integer_ids_are_refused(tmp_path: Path, column: pa.Array, named: str) -> None:
    parquet.write_table(pa.table({"ID": column}), tmp_path / "list.parquet")
    with pytest.raises(RequestError, match=f"list.parquet: .*{named}.*not integers"):
        read_requests(tmp_path / "list.parquet")


def test_ids_beyond_64_bits_or_as_text_in_a_table_are_read_digit_by_digit(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"ID": pa.array([2**63, MOST], pa.uint64())}), tmp_path / "u.parquet")
    assert outcomes(tmp_path / "u.parquet") == ["BAD_ID", "DONE"]
    fits.BinTableHDU.from_columns([fits.Column("ID", "20A", array=[str(MOST), "x", ""])]).writeto(tmp_path / "t.fits")
    read = read_requests(tmp_path / "t.fits")
    assert read.object_id is not None
    assert read.object_id[0] == MOST
    assert outcomes(tmp_path / "t.fits") == ["DONE", "BAD_ID", "NO_ID"]
    parquet.write_table(pa.table({"ID": pa.nulls(2)}), tmp_path / "n.parquet")
    assert outcomes(tmp_path / "n.parquet") == ["NO_ID", "NO_ID"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.csv", None, "cannot be read"),
        ("list.csv", b"", "no column"),
        ("list.csv", b"\xff\xfe\x00", "is UTF-16 text: save it as UTF-8"),
        ("list.csv", b"NAME,MAG\na,1\n", "no column of object IDs.*NAME, MAG.*--id-column"),
        ("list.csv", b"RA\n1\n", "no column"),
        ("list.csv", b"Id,id,x\n1,2,3\n", "2 columns ID"),
        ("list.csv", b"ID,B\n1,2\n1,2,3\n", "cannot be read"),
        ("list.parquet", b"ID\n1\n", "cannot be read"),
        ("list.fits", b"ID\n1\n", "cannot be read"),
        ("list.ecsv", b"ID\n1\n", "cannot be read"),
        ("list.doc", b"ID\x00\x01\n1\n", "the content shows no known format: give FITS, Parquet, VOTable, ECSV, IPAC"),
    ],
)
def test_an_unusable_list_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=f"{name}: .*{says}") as caught:
        read_requests(tmp_path / name)
    assert "\n" not in str(caught.value)


def sexagesimal(value: Decimal) -> str:
    """Write seconds as hhmmss.ssss, truncated."""
    whole = int(value * 10_000)
    return f"{whole // 36_000_000:02d}{whole // 600_000 % 60:02d}{whole // 10_000 % 60:02d}.{whole % 10_000:04d}"


@settings(deadline=None, max_examples=500)
@given(
    ra=st.decimals(-360, 360, places=9, allow_nan=False),
    dec=st.decimals(-90, 90, places=9, allow_nan=False),
)
def test_a_position_is_named_by_its_truncated_coordinates(ra: Decimal, dec: Decimal) -> None:
    sign = "-" if dec < 0 else "+"
    expected = f"DESJ{sexagesimal((ra + 360) % 360 * 240)}{sign}{sexagesimal(abs(dec) * 3600)}"
    key = int(names.position_keys(np.array([float(ra)]), np.array([float(dec)]))[0])
    assert names.designation(key) == expected
    assert names.folder_name(key, True) == expected[:8] + expected[expected.index(sign) :][:5]


@pytest.mark.parametrize(
    ("ra", "dec", "name"),
    [
        (359.99999999999, 0.0, "DESJ235959.9999+000000.0000"),
        (-1e-13, -0.0, "DESJ000000.0000+000000.0000"),
        (360.0, -1e-9, "DESJ000000.0000-000000.0000"),
        (0.0, 90.0, "DESJ000000.0000+900000.0000"),
        (187.70593075, 12.39112331, "DESJ123049.4233+122328.0439"),  # M 87
    ],
)
def test_a_position_at_ra_0_or_a_pole_has_a_valid_name(ra: float, dec: float, name: str) -> None:
    assert names.designation(int(names.position_keys(np.array([ra]), np.array([dec]))[0])) == name


@pytest.mark.parametrize(
    ("object_id", "folder"), [(0, "0"), (999, "0"), (1000, "1"), (-1, "-1"), (-1000, "-1"), (-1001, "-2")]
)
def test_a_thousand_ids_share_a_folder(object_id: int, folder: str) -> None:
    assert names.folder_name(object_id, False) == folder


@pytest.mark.parametrize("prefix", ["/", "a/b", "..", "a..", ".a", "a;b", "a b", "a\n", "ä", "\0", "\\", "x" * 101])
def test_a_prefix_that_cannot_begin_a_file_name_is_refused(prefix: str) -> None:
    with pytest.raises(RequestError, match="prefix"):
        names.check_prefix(prefix)


@pytest.mark.parametrize("prefix", ["", "des_", "Y6.A2-", "x" * 100])
def test_a_plain_prefix_is_accepted(prefix: str) -> None:
    names.check_prefix(prefix)
