"""Tables of every format give the same columns in one common form."""

from __future__ import annotations

import bz2
import gzip
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
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
    untyped = name.lower().startswith(("t.csv", "t.tsv", "t.txt"))
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


def test_format_of_an_unknown_ending_is_the_callers_choice(tmp_path: Path) -> None:
    as_astropy(tmp_path / "t.cat", format="fits")
    (tmp_path / "t.dat").write_text("A\n1\n")
    assert open_table(tmp_path / "t.cat", otherwise="fits").names == ("T", "X", "N")
    assert open_table(tmp_path / "t.dat", otherwise="csv").names == ("A",)
    with pytest.raises(TableError, match=r"^the file name does not tell the format: end the name in \.csv"):
        open_table(tmp_path / "t.dat")


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
