"""Tables of every format give the same columns in one common form."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import os
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from archive_builder.errors import TableError
from archive_builder.survey.tables import Where, as_text, kind, open_table

MOST = 2**63 - 1

CSV = f" é ,1.5,{MOST}\nB,,\n,-2.0,-7\n"
"""Three rows: the second has no numbers, the third no text."""


def as_astropy(path: Path, **options: Any) -> None:
    gaps = [False, True, False]
    texts = (
        np.char.encode([" é ", "B", ""], "utf-8")
        if options.get("format", path.suffix) in ("fits", ".fits")
        else [" é ", "B", ""]
    )
    table = Table(
        {
            "T": Column(texts),
            "X": MaskedColumn([1.5, 0.0, -2.0], mask=gaps),
            "N": MaskedColumn([MOST, 0, -7], mask=gaps, dtype=np.int64, fill_value=-1),
        }
    )
    table.write(path, **options)


def as_arrow(path: Path) -> None:
    columns = {"T": ["\té ", "B", None], "X": [1.5, None, -2.0], "N": [MOST, None, -7]}
    parquet.write_table(pa.table(columns), path)


def gzipped(write: Callable[[Path], Any], path: Path) -> None:
    write(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "t.fits": as_astropy,
    "t.FIT": lambda path: as_astropy(path, format="fits"),
    "t.v2.ecsv": as_astropy,
    "t.parquet": as_arrow,
    "t.PARQ": as_arrow,
    "t.csv": lambda path: path.write_text(f"T,X,N\n{CSV}", encoding="utf-8"),
    "t.tsv": lambda path: path.write_text(f"T,X,N\n{CSV}".replace(",", "\t"), encoding="utf-8-sig"),
    "t.txt": lambda path: path.write_text(f'"T"; X ;N\n{CSV}'.replace(",", ";").replace("\n", "\r\n")),
    "t.csv.gz": lambda path: path.write_bytes(gzip.compress(f"T,X,N\n{CSV}".encode())),
    "t.CSV.BZ2": lambda path: path.write_bytes(bz2.compress(f"T,X,N\n{CSV}".encode())),
    "t.xz": lambda path: path.write_bytes(lzma.compress(f"T,X,N\n{CSV}".encode())),
    "gzipped.csv": lambda path: path.write_bytes(gzip.compress(f"# a comment\n\n# T,X,N\n{CSV}".encode())),
    "gzipped.parquet": lambda path: gzipped(as_arrow, path),
    "t.vot": lambda path: as_astropy(path, format="votable"),
    "gzipped.xml": lambda path: gzipped(partial(as_astropy, format="votable"), path),
}
FORMATS = pytest.mark.parametrize("name", WRITERS)


@FORMATS
def test_columns_have_one_form_in_every_format(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    table = open_table(tmp_path / name)
    assert table.names == ("T", "X", "N")
    columns = table.read(["N", "T", "X"])
    assert [kind(column) for column in columns.values()] == ["int64", "text", "float64"]
    assert list(columns) == ["N", "T", "X"]
    assert columns["N"].tolist() == [MOST, None, -7]
    assert columns["T"].to_pylist() == ["é", "B", ""]
    np.testing.assert_array_equal(columns["X"], [1.5, np.nan, -2.0])
    assert not np.ma.isMaskedArray(columns["X"])


@FORMATS
def test_rows_are_filtered_by_text(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    table = open_table(tmp_path / name)
    assert table.read(["N"], Where("T", "é"))["N"].tolist() == [MOST]
    assert table.read(["N", "T"], Where("T", ""))["N"].tolist() == [-7]
    assert list(table.read(["X"], Where("T", "B"))) == ["X"]
    assert [len(column) for column in table.read(["X", "T"], Where("T", "C")).values()] == [0, 0]


@FORMATS
def test_values_without_a_type_can_stay_text(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    columns = open_table(tmp_path / name).read(["X", "N"], text=True)
    untyped = name.lower().startswith(("t.csv", "t.tsv", "t.txt", "t.xz", "gzipped.csv"))
    assert [kind(column) for column in columns.values()] == (["text"] * 2 if untyped else ["float64", "int64"])
    assert as_text(columns["N"]).to_pylist() == [str(MOST), "", "-7"]


@pytest.mark.parametrize(
    ("name", "rows"), [("t.fits", 3), ("t.FIT", 3), ("t.parquet", 3), ("t.csv", None), ("t.v2.ecsv", None)]
)
def test_number_of_rows_is_given_if_no_row_must_be_read(tmp_path: Path, name: str, rows: int | None) -> None:
    WRITERS[name](tmp_path / name)
    assert open_table(tmp_path / name).rows == rows


def test_only_parquet_counts_rows_by_text(tmp_path: Path) -> None:
    for name in ("t.parquet", "t.fits", "t.csv"):
        WRITERS[name](tmp_path / name)
    assert open_table(tmp_path / "t.parquet").count("T") == Counter({"é": 1, "B": 1, "": 1})
    assert open_table(tmp_path / "t.fits").count("T") is None
    assert open_table(tmp_path / "t.csv").count("T") is None


def test_row_groups_of_other_texts_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = np.repeat(["A", "B", "C", "D"], 5)
    table = pa.table({"T": texts, "N": np.arange(20)})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=5)
    read: list[int] = []
    original = parquet.ParquetFile.read_row_group

    def spy(self: parquet.ParquetFile, number: int, **options: Any) -> pa.Table:
        read.append(number)
        return original(self, number, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", spy)
    assert open_table(tmp_path / "t.parquet").read(["N"], Where("T", "C"))["N"].tolist() == [10, 11, 12, 13, 14]
    assert read == [2]


@pytest.mark.parametrize("padded", ["A  ", "  A", "\tA\n", "A"])
def test_row_group_of_padded_texts_is_read(tmp_path: Path, padded: str) -> None:
    parquet.write_table(pa.table({"T": [padded, "B"], "N": [1, 2]}), tmp_path / "t.parquet", row_group_size=1)
    assert open_table(tmp_path / "t.parquet").read(["N"], Where("T", "A"))["N"].tolist() == [1]


def test_named_columns_select_the_table_of_a_fits_file(tmp_path: Path) -> None:
    small, large = Table({"ID": [1], "RA": [2.0]}), Table({"ID": [3, 4], "Z": [5, 6]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(small), fits.BinTableHDU(large)]).writeto(tmp_path / "t.fits")
    assert open_table(tmp_path / "t.fits", ["RA"]).read(["ID"])["ID"].tolist() == [1]
    assert open_table(tmp_path / "t.fits", ["RA"]).rows == 1
    assert open_table(tmp_path / "t.fits").read(["ID"])["ID"].tolist() == [3, 4]
    assert open_table(tmp_path / "t.fits", ["no such"]).names == ("ID", "Z")


@pytest.mark.parametrize(("end", "blank"), [("", 1), ("\n", 1), ("\n\n", 1), ("\r\n\r\n\r\n", 1)])
@pytest.mark.parametrize("other", ["", ",M"])
def test_blank_line_is_a_row_of_text_except_at_the_end(tmp_path: Path, end: str, blank: int, other: str) -> None:
    comma = "," if other else ""
    (tmp_path / "t.csv").write_bytes(f"N{other}\n1{comma}\n\n3{comma}{end}".encode())
    assert open_table(tmp_path / "t.csv").read(["N"], text=True)["N"].to_pylist() == ["1", *[""] * blank, "3"]
    assert open_table(tmp_path / "t.csv").read(["N"])["N"].tolist() == [1, 3]


@pytest.mark.parametrize("content", ["N", "N\n", "N\n\n\r\n", "\ufeffN\r\n"])
def test_header_alone_is_a_table_without_rows(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.csv").write_bytes(content.encode())
    table = open_table(tmp_path / "t.csv")
    assert table.read(["N"], text=True)["N"].to_pylist() == []
    assert table.read(["N"])["N"].tolist() == []


def test_repeated_column_name_is_refused_only_if_the_column_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("A,B,A\n1,2,3\n")
    table = open_table(tmp_path / "t.csv")
    assert table.names == ("A", "B", "A")
    assert table.read(["B"])["B"].tolist() == [2]
    with pytest.raises(TableError, match=r"^has 2 columns A: leave one$"):
        table.read(["A"])


@pytest.mark.parametrize("ending", [".dat", ".doc", ".fits", ""])
def test_the_content_tells_the_format_whatever_the_name(tmp_path: Path, ending: str) -> None:
    writers: dict[str, Callable[[Path], Any]] = {
        "fits": partial(as_astropy, format="fits"),
        "parquet": as_arrow,
        "votable": partial(as_astropy, format="votable"),
        "ecsv": partial(as_astropy, format="ascii.ecsv"),
    }
    for name, write in writers.items():
        write(tmp_path / f"{name}{ending}")
        assert open_table(tmp_path / f"{name}{ending}").read(["N"])["N"].tolist() == [MOST, None, -7], name
    assert len(list(tmp_path.iterdir())) == 4


def test_text_with_an_unknown_ending_is_read_and_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.doc").write_text("A\n1\n")
    assert open_table(tmp_path / "t.doc").names == ("A",)
    (tmp_path / "t.doc").write_bytes(bytes(range(256)))
    with pytest.raises(TableError, match=r"^the content shows no known format: give FITS, Parquet, VOTable"):
        open_table(tmp_path / "t.doc")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("A,B\n1,2\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("A,B\n1,2\n".encode("utf-16-be"), "is UTF-16 text: save it as UTF-8"),
        (b"PK\x03\x04xl/", "is a ZIP or Excel file: unpack it, or save the sheet as CSV"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "is a web page, not a table: download"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file: save the table as"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.fits", "t.parquet", "t.xml", "t"])
def test_well_known_files_that_are_no_table_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=f"^{says}"):
        open_table(tmp_path / name)


def python_records(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_quoted_values_hold_line_ends_separators_and_quotes_in_a_file_of_any_size(tmp_path: Path) -> None:
    note = 'see\n1005, and "7";\r\n\n'
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(
        [["ID", "NOTE\n(a, b)"], *([str(i), f"{note}{'x' * (i % 97)}"] for i in range(60_000))]
    )
    (tmp_path / "t.csv").write_text(out.getvalue(), newline="")
    assert (tmp_path / "t.csv").stat().st_size > 4 * 2**20  # pyarrow reads a mebibyte at once
    table = open_table(tmp_path / "t.csv")
    assert table.names == ("ID", "NOTE\n(a, b)")
    _, *expected = python_records(out.getvalue())
    assert table.read(["ID"])["ID"].tolist() == [int(record[0]) for record in expected]
    found, rest = table.read_all(["ID"])
    assert found["ID"].to_pylist() == [record[0] for record in expected]
    assert rest.columns["NOTE\n(a, b)"].to_pylist() == [record[1] for record in expected]


def test_a_record_may_be_longer_than_a_block(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('ID,N\n1,"' + "line\n" * 600_000 + '"\n2,b\n')
    assert open_table(tmp_path / "t.csv").read(["ID"])["ID"].tolist() == [1, 2]


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("content", ['ID,N\n1,"a\n2,b\n3,c\n', 'N,ID\n"a,1\nb,2\n', 'ID\n1\n"2\n3\n'])
def test_a_quote_without_its_closing_quote_is_refused(tmp_path: Path, content: str, text: bool) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(TableError, match=r"has a quote without its closing quote: close the quote|Expected 2 columns"):
        open_table(tmp_path / "t.csv").read(["ID"], text=text)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('\ufeff"ID",RA\n1,2\n', ("ID", "RA")),
        ('"mag (AB, auto)",ID\n20,1\n', ("mag (AB, auto)", "ID")),
        ('ID;"mag; AB, auto, x"\n1;20\n', ("ID", "mag; AB, auto, x")),
        ('ID,5" seeing\n1,"2"\n', ("ID", '5" seeing')),
        ("# ID,RA\n1,2\n", ("ID", "RA")),
        ("#ID\n1\n", ("ID",)),
        ("#,ID\n7,1\n", ("", "ID")),
        ("# made by hand, in 2025\n#\nID,RA\n1,2\n", ("ID", "RA")),
        ("# 1 object follows\n#ID,RA\n1,2\n", ("ID", "RA")),
        ("# 1 object follows\nID,RA\n1,2\n", ("ID", "RA")),
        ("\ufeff# a note\r\n# ID RA DEC\r\n 1  2   3\r\n", ("ID", "RA", "DEC")),
        ("ID RA\n1 2\n", ("ID", "RA")),
        ("ID|RA\n1|2\n", ("ID", "RA")),
        ("\n\nID\n1\n", ("ID",)),
        ("an ID\n1\n", ("an ID",)),
    ],
)
def test_headers_of_text_tables(tmp_path: Path, content: str, names: tuple[str, ...]) -> None:
    (tmp_path / "t.txt").write_text(content, encoding="utf-8", newline="")
    table = open_table(tmp_path / "t.txt")
    assert table.names == names
    column = names[-1] if "ID" not in names else "ID"
    assert table.read([column])[column].tolist() == [1]
    assert table.read([column], text=True)[column].to_pylist() == ["1"]


def test_sextractors_catalogue_is_read_with_its_vectors_and_units(tmp_path: Path) -> None:
    (tmp_path / "t.cat").write_text(
        "#   1 NUMBER          Running object number\n"
        "#   2 ALPHA_J2000     Right ascension of barycenter (J2000)    [deg]\n"
        "#   3 FLUX_APER       Flux vector   [count]\n"
        "#   5 FLAGS           Extraction flags\n"
        f"   {MOST}  54.25 -1.5 2.5 3\n   2  54.5 1.5 2.5  0\n"
    )
    table = open_table(tmp_path / "t.cat")
    assert table.names == ("NUMBER", "ALPHA_J2000", "FLUX_APER", "FLUX_APER_1", "FLAGS")
    assert table.units["ALPHA_J2000"] == "deg"
    columns = table.read(["NUMBER", "ALPHA_J2000", "FLAGS"])
    assert columns["NUMBER"].tolist() == [MOST, 2]
    assert columns["ALPHA_J2000"].tolist() == [54.25, 54.5]
    assert columns["FLAGS"].tolist() == [3, 0]


def test_ipac_table_is_read_with_its_units_and_missing_values(tmp_path: Path) -> None:
    table = Table({"ID": MaskedColumn([MOST, 5], mask=[False, True]), "ra": Column([54.25, 3.5], unit="deg")})
    table["T"] = ["a b", "c"]
    table.write(tmp_path / "t.tbl", format="ascii.ipac")
    found = open_table(tmp_path / "t.tbl")
    assert (found.names, found.units) == (("ID", "ra", "T"), {"ra": "deg"})
    columns = found.read(["ID", "ra", "T"])
    assert columns["ID"].tolist() == [MOST, None]
    assert columns["ra"].tolist() == [54.25, 3.5]
    assert columns["T"].to_pylist() == ["a b", "c"]
    text = (tmp_path / "t.tbl").read_text()
    (tmp_path / "bom.txt").write_text(text, encoding="utf-8-sig")
    assert open_table(tmp_path / "bom.txt").read(["ra"])["ra"].tolist() == [54.25, 3.5]


def test_units_are_those_of_the_file(tmp_path: Path) -> None:
    table = Table({"ID": [1], "RA": Column([1.0], unit="rad"), "D": Column([1.0], unit="arcmin")})
    for name, form in (("t.fits", "fits"), ("t.ecsv", "ascii.ecsv"), ("t.vot", "votable"), ("t.parquet", "parquet")):
        table.write(tmp_path / name, format=form)
    field = pa.field("RA", pa.float64(), metadata={"unit": "rad"})
    fields = [field, pa.field("D", pa.float64(), metadata={"unit": "arcmin"})]
    parquet.write_table(pa.table([[1.0], [1.0]], schema=pa.schema(fields)), tmp_path / "field.parquet")
    table.write(tmp_path / "vo.parquet", format="parquet.votable", metadata={n: {} for n in table.colnames})
    found = {path.name: open_table(path).units for path in tmp_path.iterdir()}
    assert len(found) == 6
    assert all(units == {"RA": "rad", "D": "arcmin"} for units in found.values())


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())]
BYTES = [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(4), pa.dictionary(pa.int8(), pa.binary())]


@pytest.mark.parametrize("of", [*TEXTS, *BYTES], ids=str)
def test_every_text_type_of_parquet_is_text(tmp_path: Path, of: pa.DataType) -> None:
    texts: list[Any] = ["1001", "12  ", None, "1001"]
    values = [text and text.encode() for text in texts] if of in BYTES else texts
    column = pa.array(values, of.value_type).dictionary_encode() if pa.types.is_dictionary(of) else pa.array(values, of)
    parquet.write_table(pa.table({"T": column, "N": [1, 2, 3, 4]}), tmp_path / "t.parquet", row_group_size=2)
    table = open_table(tmp_path / "t.parquet")
    assert table.read(["T"])["T"].to_pylist() == ["1001", "12", "", "1001"]
    assert table.read(["N"], Where("T", "1001"))["N"].tolist() == [1, 4]
    assert table.read(["T", "N"], Where("T", "12"))["N"].tolist() == [2]
    assert table.count("T") == Counter({"1001": 2, "12": 1, "": 1})
    assert table.read_all(["N"])[1].columns["T"].type == pa.string()


INTEGERS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]


@pytest.mark.parametrize("of", [*INTEGERS, pa.dictionary(pa.int8(), pa.int64()), pa.decimal128(20, 0)], ids=str)
def test_every_integer_type_of_parquet_is_integers_and_filtered_by_its_text(tmp_path: Path, of: pa.DataType) -> None:
    values = [Decimal(value) for value in (1, 2, 1)] if pa.types.is_decimal(of) else [1, 2, 1]
    column = pa.array(values).dictionary_encode() if pa.types.is_dictionary(of) else pa.array(values, of)
    parquet.write_table(pa.table({"T": column, "N": [5, 6, 7]}), tmp_path / "t.parquet", row_group_size=2)
    table = open_table(tmp_path / "t.parquet")
    assert table.read(["T"])["T"].tolist() == [1, 2, 1]
    assert table.read(["N"], Where("T", "1"))["N"].tolist() == [5, 7]
    assert table.read(["N"], Where("T", "0001"))["N"].tolist() == []
    assert table.count("T") == Counter({"1": 2, "2": 1})


SPACES = st.text("\t \n\u00a0\u3000", max_size=2)


@given(
    rows=st.lists(st.tuples(SPACES, st.text("AB1!\x01 é\t", max_size=3), SPACES), min_size=1, max_size=8),
    wanted=st.text("AB1!é", max_size=2),
)
def test_row_groups_are_left_out_only_if_no_row_matches(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], wanted: str
) -> None:
    texts = ["".join(row) for row in rows]
    path = tmp_path_factory.getbasetemp() / "groups.parquet"
    parquet.write_table(pa.table({"T": texts, "N": range(len(texts))}), path, row_group_size=2)
    table = open_table(path)
    stripped = as_text(table.read(["T"])["T"]).to_pylist()
    expected = [number for number, text in enumerate(stripped) if text == wanted]
    assert table.read(["N"], Where("T", wanted))["N"].tolist() == expected


def test_columns_with_one_value_a_row_are_plain_columns(tmp_path: Path) -> None:
    columns = [
        fits.Column("N", "1K", dim="(1)", array=np.array([[1], [2]])),
        fits.Column("T", "1A", array=["a", "b"]),
        fits.Column("V", "2D", array=np.ones((2, 2))),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    one = pa.FixedSizeListArray.from_arrays(pa.array([1, 2]), 1)
    two = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)
    parquet.write_table(pa.table({"N": one, "T": ["a", "b"], "V": two}), tmp_path / "t.parquet")
    for name in ("t.fits", "t.parquet"):
        table = open_table(tmp_path / name)
        assert table.read(["N"])["N"].tolist() == [1, 2]
        found, rest = table.read_all(["N"])
        assert found["N"].tolist() == [1, 2]
        assert rest.columns.to_pydict() == {"T": ["a", "b"]}
        assert rest.left_out == ("V",)


def test_columns_that_astropy_would_join_keep_their_names(tmp_path: Path) -> None:
    table = Table({"ID": [1], "at": SkyCoord([10.0], [20.0], unit="deg")})
    for name in ("t.fits", "t.ecsv", "t.parquet"):
        table.write(tmp_path / name)
        found = open_table(tmp_path / name)
        assert found.names == ("ID", "at.ra", "at.dec")
        assert found.units == {"at.ra": "deg", "at.dec": "deg"}
        assert found.read(["at.ra", "at.dec"]) == {"at.ra": [10.0], "at.dec": [20.0]}


def test_ecsv_with_vectors_and_quoted_line_ends_is_read(tmp_path: Path) -> None:
    Table({"ID": [1, 2], "T": ['a\n"b"', "c"], "V": np.ones((2, 3))}).write(tmp_path / "t.ecsv")
    found, rest = open_table(tmp_path / "t.ecsv").read_all(["ID", "T"])
    assert found["T"].to_pylist() == ['a\n"b"', "c"]
    assert rest.left_out == ("V",)


def test_lines_that_end_in_a_carriage_return_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"ID\r1\r2\r")
    with pytest.raises(TableError, match=r"^has lines that end in a carriage return alone: save"):
        open_table(tmp_path / "t.csv")


def test_masks_that_astropy_writes_into_parquet_are_missing_values(tmp_path: Path) -> None:
    as_astropy(tmp_path / "t.parquet", format="parquet")
    assert set(parquet.read_schema(tmp_path / "t.parquet").names) > {"X", "X.mask"}
    table = open_table(tmp_path / "t.parquet")
    assert table.names == ("T", "X", "N")
    np.testing.assert_array_equal(table.read(["X"])["X"], [1.5, np.nan, -2.0])
    assert table.read(["N"])["N"].tolist() == [MOST, None, -7]
    assert table.read(["N"], Where("N", ""))["N"].tolist() == [None]


def test_other_columns_are_carried_under_different_names_as_written(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes('ID,,A,A,é\n1, x ,007,1.50,\n2,"y ""z""",,,\xe9\n'.encode())
    _, rest = open_table(tmp_path / "t.csv").read_all(["ID"])
    assert rest.is_untyped
    assert rest.columns.to_pydict() == {
        "column2": [" x ", 'y "z"'],
        "A": ["007", ""],
        "A_2": ["1.50", ""],
        "é": ["", "\xe9"],
    }
    (tmp_path / "t.csv").write_bytes(b"ID,A,B\n1,\xe9,b\n")
    _, rest = open_table(tmp_path / "t.csv").read_all(["ID"])
    assert (rest.columns.to_pydict(), rest.left_out) == ({"B": ["b"]}, ("A",))


@FORMATS
def test_irregular_file_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(TableError, match=r"^is not a regular file: "):
        open_table(tmp_path / name)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(TableError, match=r"^is not a regular file: "):
        open_table(tmp_path / name)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("N,T\n1,é\n".encode("latin-1"))
    with pytest.raises(TableError, match=r"^cannot be read \(.*UTF8.*\): repair or replace the file$"):
        open_table(tmp_path / "t.csv").read(["T"])


def test_fits_column_without_a_name_is_ignored(tmp_path: Path) -> None:
    table = fits.BinTableHDU(Table({"A": [1], "ID": [7]}))
    table.writeto(tmp_path / "t.fits")
    content = (tmp_path / "t.fits").read_bytes()
    assert content.count(b"TTYPE1  = ") == 1
    (tmp_path / "t.fits").write_bytes(content.replace(b"TTYPE1  = ", b"HIDDEN  = "))
    found = open_table(tmp_path / "t.fits")
    assert found.names == ("", "ID")
    with pytest.raises(TableError, match=r"^has no column A: "):
        found.read(["A"])
