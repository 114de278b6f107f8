"""Archives whose object IDs are text: built, indexed again, verified and served by every entry point."""

from __future__ import annotations

import json
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from helpers import execute, run
from hypothesis import given, settings
from hypothesis import strategies as st
from overlaps import GRID, RECIPE, write_image
from pyarrow import parquet

from archive_builder import Archive, ObjectNotFoundError, RequestError, build, export, reindex, verify
from archive_builder.errors import TileError
from archive_builder.object_ids import LONGEST_ID
from archive_builder.survey.catalog import read_catalog, read_id_kind
from archive_builder.survey.recipe import CatalogSection

Column = Sequence[object] | np.ndarray

TOUGH = [
    "330368/1234",
    "00123",
    "J1000+02",
    "naïve 'a' \"b\"",
    "a/b",
    "a_b",
    "A/B",
    "..",
    "-x",
    "é😀",
    "x" * LONGEST_ID,
]
"""IDs that file systems, FITS, HDF5, JSON or SQL may fail on."""


def write_tables(folder: Path, tables: dict[str, dict[str, Column]], catalog: str = 'object_id = "ID"') -> Path:
    """Write a survey of tiles A, B, ... and their catalogues; return its recipe."""
    for place, (name, columns) in enumerate(tables.items()):
        count = len(next(iter(columns.values())))
        x, y = np.linspace(20, 76, count) + 64 * place, np.linspace(20, 76, count)
        ra, dec = GRID.all_pix2world(x, y, 0)
        parquet.write_table(pa.table({**columns, "RA": ra, "DEC": dec}), folder / f"{name}.parquet")
        write_image(folder, name, place)
    text = RECIPE.replace("{tile}.csv", "{tile}.parquet").replace('object_id = "ID"', catalog)
    (folder / "survey.toml").write_text(text)
    return folder / "survey.toml"


def built(folder: Path, *tiles: dict[str, Column], catalog: str = 'object_id = "ID"') -> Path:
    """Build a survey, and return the archive."""
    recipe = write_tables(folder, dict(zip("ABC", tiles, strict=False)), catalog)
    report = build(recipe, folder / "archive", workers=1)
    assert report.failures == {}
    assert list(verify(folder / "archive", deep=True, survey=recipe, workers=1)) == []
    return folder / "archive"


@pytest.fixture(scope="module")
def tough(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an archive of the objects `TOUGH` on two tiles."""
    return built(tmp_path_factory.mktemp("tough"), {"ID": TOUGH[:6]}, {"ID": TOUGH[6:]})


@pytest.fixture
def opened(tough: Path) -> Iterator[Archive]:
    with Archive(tough) as archive:
        yield archive


# ---- the recipe


@pytest.mark.parametrize(
    ("columns", "catalog", "expected"),
    [
        ({"ID": [3, 2**63 - 1]}, 'object_id = "ID"', [3, 2**63 - 1]),
        ({"ID": [3, -5]}, 'object_id = ["ID"]', [-5, 3]),
        ({"ID": ["10", "9"]}, 'object_id = "ID"', ["10", "9"]),
        ({"ID": [" 00123", "b "]}, 'object_id = "ID"', ["00123", "b"]),
        ({"B": [330368, -1], "O": [1234, 5]}, 'object_id = ["B", "O"]', ["-1/5", "330368/1234"]),
        ({"B": np.array([2**64 - 1], np.uint64), "O": ["0b"]}, 'object_id = ["B", "O"]', [f"{2**64 - 1}/0b"]),
        ({"N": [17, 18]}, 'object_id = "N"\nunique_within = "tile"', ["A/17", "A/18"]),
        ({"N": ["x"], "M": [1]}, 'object_id = ["N", "M"]\nunique_within = "tile"', ["A/x/1"]),
        ({"B": pa.array(["a", None, "c"]), "O": [1, 2, 3]}, 'object_id = ["B", "O"]', ["a/1", "c/3"]),
    ],
)
def test_columns_give_the_ids(
    tmp_path: Path, columns: dict[str, Column], catalog: str, expected: list[int] | list[str]
) -> None:
    with Archive(built(tmp_path, columns, catalog=catalog)) as archive:
        assert archive.ids().tolist() == expected
        assert archive.ids().dtype.kind == ("i" if isinstance(expected[0], int) else "U")
        assert archive.get(expected[0]).object_id == expected[0]


def test_numbers_unique_within_a_tile_are_told_apart(tmp_path: Path) -> None:
    archive = built(tmp_path, {"N": [1, 2]}, {"N": [1, 2]}, catalog='object_id = "N"\nunique_within = "tile"')
    with Archive(archive) as opened:
        assert [(n, opened.locate(n).tile) for n in opened.ids().tolist()] == [
            ("A/1", "A"),
            ("A/2", "A"),
            ("B/1", "B"),
            ("B/2", "B"),
        ]


@pytest.mark.parametrize("kinds", [([1, 2], ["a", "b"]), (["a", "b"], [1, 2])])
def test_a_tile_with_another_kind_of_ids_fails_with_one_line(tmp_path: Path, kinds: tuple[Any, Any]) -> None:
    recipe = write_tables(tmp_path, {"A": {"ID": kinds[0]}, "B": {"ID": kinds[1]}})
    words = ["integers" if isinstance(ids[0], int) else "text" for ids in kinds]
    report = build(recipe, tmp_path / "archive", workers=1)
    assert report.failures == {
        "B": f"catalogue {tmp_path / 'B.parquet'}: column ID is {words[1]}, but the IDs of the archive are {words[0]}: "
        "give the IDs of all tiles one kind"
    }
    with Archive(tmp_path / "archive") as archive:
        assert archive.ids().tolist() == kinds[0]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5, 2.5], "column ID is float64, neither integers nor text"),
        (["a\tb", "c"], "column ID: ID 'a\\tb' has a control character"),
        (["x" * (LONGEST_ID + 1)], f"is longer than {LONGEST_ID} bytes"),
    ],
)
def test_bad_ids_are_refused_in_one_line(tmp_path: Path, ids: list[object], message: str) -> None:
    report = build(write_tables(tmp_path, {"A": {"ID": ids}}), tmp_path / "archive", workers=1)
    assert len(report.failures["A"].splitlines()) == 1
    assert message in report.failures["A"]


def test_an_archive_without_objects_takes_the_kind_of_the_corrected_catalogue(tmp_path: Path) -> None:
    recipe = write_tables(tmp_path, {"A": {"ID": [1.5, 2.5]}})
    assert build(recipe, tmp_path / "archive", workers=1).built == 0
    write_tables(tmp_path, {"A": {"ID": ["1.5", "2.5"]}})
    assert build(recipe, tmp_path / "archive", workers=1).failures == {}
    with Archive(tmp_path / "archive") as archive:
        assert archive.ids().tolist() == ["1.5", "2.5"]


def test_csv_ids_keep_their_zeros_also_where_all_are_digits(tmp_path: Path) -> None:
    recipe = write_tables(tmp_path, {"A": {"ID": ["a"]}, "B": {"ID": ["b"]}})
    recipe.write_text(recipe.read_text().replace("{tile}.parquet", "{tile}.csv"))
    for tile, place, ids in (("A", 0, ("J1", "007")), ("B", 1, ("00123", "00045"))):
        ra, dec = GRID.all_pix2world([48 + 64 * place] * 2, [40, 60], 0)
        rows = [f"{n},{a!r},{d!r}" for n, a, d in zip(ids, ra.tolist(), dec.tolist(), strict=True)]
        (tmp_path / f"{tile}.csv").write_text("\n".join(["ID,RA,DEC", rows[0], "", rows[1], ""]))
    assert build(recipe, tmp_path / "archive", workers=1).failures == {}
    with Archive(tmp_path / "archive") as archive:
        assert archive.ids().tolist() == ["00045", "00123", "007", "J1"]


def test_zeros_before_a_digit_make_the_ids_of_a_csv_text(tmp_path: Path) -> None:
    path = tmp_path / "cat.csv"
    path.write_text("ID,RA,DEC\n0123,1,2\n123,1,2\n")
    section = CatalogSection(path="{tile}", object_id="ID", ra="RA", dec="DEC")
    assert read_id_kind(path, section, "T") == "text"
    assert read_catalog(path, section, "T").object_id.tolist() == ["0123", "123"]
    path.write_text("ID,RA,DEC\n0,1,2\n-10,1,2\n")
    assert read_id_kind(path, section, "T") == "integer"


def test_parts_of_joined_ids_cannot_be_confused(tmp_path: Path) -> None:
    path = tmp_path / "cat.csv"
    path.write_text("A,B,RA,DEC\n1/2,3,1,2\n1,2/3,1,2\n")
    section = CatalogSection(path="{tile}", object_id=("A", "B"), ra="RA", dec="DEC")
    with pytest.raises(TileError, match="column A has a / in a part of an ID"):
        read_catalog(path, section, "T")


def test_an_id_in_two_catalogues_goes_to_the_deepest_row(tmp_path: Path) -> None:
    shared = [f"{n:02d}/x" for n in range(8)]
    archive = built(tmp_path, {"ID": shared}, {"ID": [*shared[4:], "only/b"]})
    with Archive(archive) as opened:
        tiles = {n: opened.locate(n).tile for n in opened.ids("any").tolist()}
    assert sorted(tiles) == [*shared, "only/b"]
    assert set(tiles.values()) == {"A", "B"}
    elsewhere = execute(archive, "SELECT object_id, name FROM elsewhere JOIN tiles USING (tile_id)")
    assert len(elsewhere) == 4
    assert all(tiles[n] != tile for n, tile in elsewhere)


def test_one_catalogue_of_all_tiles_has_text_ids(tmp_path: Path) -> None:
    recipe = write_tables(tmp_path, {"A": {"ID": ["a"]}, "B": {"ID": ["b"]}})
    recipe.write_text(recipe.read_text().replace("{tile}.parquet", "all.parquet"))
    ra, dec = GRID.all_pix2world([20, 30, 140, 150], [40, 40, 40, 50], 0)
    parquet.write_table(
        pa.table({"ID": ["a/1", "é", "00", "longer one"], "RA": ra, "DEC": dec}), tmp_path / "all.parquet"
    )
    assert build(recipe, tmp_path / "archive", workers=1).failures == {}
    with Archive(tmp_path / "archive") as archive:
        assert {n: archive.locate(n).tile for n in archive.ids().tolist()} == {
            "00": "B",
            "a/1": "A",
            "longer one": "B",
            "é": "A",
        }
    assert build(recipe, tmp_path / "archive", workers=1).unchanged == 2
    recipe.write_text(recipe.read_text().replace('object_id = "ID"', 'object_id = "ID"\nunique_within = "tile"'))
    assert "does not tell the tile of an ID" in run("plan", recipe).stderr


# ---- any text


@settings(max_examples=5)
@given(
    ids=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300)
        .map(lambda text: pa.compute.utf8_trim_whitespace(pa.scalar(text)).as_py())
        .filter(lambda text: text and text == text.strip() and len(text.encode()) <= LONGEST_ID),
        min_size=6,
        max_size=16,
        unique=True,
    )
)
def test_any_text_is_found_indexed_again_and_exported(ids: list[str]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        archive = built(folder, {"ID": ids})
        before = execute(archive, "SELECT * FROM objects ORDER BY object_id")
        reindex(archive, workers=1)
        assert execute(archive, "SELECT * FROM objects ORDER BY object_id") == before
        assert list(verify(archive, deep=True, workers=1)) == []
        with Archive(archive) as opened:
            assert opened.ids().tolist() == sorted(ids, key=lambda text: text.encode())
            for object_id in ids:
                assert opened.get(object_id).object_id == opened.locate(object_id).object_id == object_id
            assert sorted(str(n) for batch in opened.batches(size=4) for n in batch.object_id) == sorted(ids)
        parquet.write_table(pa.table({"ID": ids}), folder / "list.parquet")
        assert export(archive, folder / "list.parquet", folder / "out", formats="npz").failures == {}
        files = manifest(folder / "out")["file"]
        assert len({file.lower() for file in files}) == len(ids)
        for object_id, file in zip(ids, files, strict=True):
            with np.load(folder / "out" / file) as arrays:
                assert arrays["object_id"].item() == object_id


def manifest(folder: Path) -> dict[str, list[Any]]:
    return parquet.read_table(folder / "manifest.parquet").to_pydict()  # type: ignore[no-any-return]


# ---- lookups


@pytest.mark.parametrize(
    "given",
    [
        lambda ids: ids,
        tuple,
        np.array,
        lambda ids: np.array(ids, dtype=object),
        lambda ids: np.array([n.encode() for n in ids]),
        lambda ids: np.array(ids, dtype=np.dtypes.StringDType()),
        lambda ids: Table({"ID": ids})["ID"],
        lambda ids: MaskedColumn(ids),
        pa.array,
        lambda ids: pa.chunked_array([ids[:3], ids[3:]]),
        lambda ids: [f" {n} " for n in ids],
        lambda ids: (n for n in ids),
    ],
)
def test_many_are_found_in_any_array_of_text(opened: Archive, given: Any) -> None:
    ids = TOUGH[::-1]
    expected = np.stack([opened.get(n, size=8).data for n in ids])
    np.testing.assert_array_equal(opened.get_many(given(ids), size=8), expected)


@pytest.mark.parametrize(
    "given", [353, [353], np.array([353]), [353, "a/b"], ["a/b", None], "a/b", [1.5], [["a/b"]], ["\udcff"], ["a\0b"]]
)
def test_anything_but_text_is_a_wrong_request(opened: Archive, given: Any) -> None:
    with pytest.raises(RequestError) as caught:
        opened.get_many(given)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_ids_in_an_array_are_a_wrong_request(opened: Archive) -> None:
    with pytest.raises(RequestError, match="1 of the object IDs are missing: leave them out"):
        opened.get_many(MaskedColumn(["a/b", "00123"], mask=[False, True]))


def test_an_integer_is_refused_and_an_unknown_text_is_not_found(opened: Archive) -> None:
    with pytest.raises(RequestError, match="object ID 353 is no text, and the IDs of this archive are text"):
        opened.get(353)
    for unknown in ("123", "a", "", "x" * 100_000, "a/b'; DROP TABLE objects"):
        with pytest.raises(ObjectNotFoundError) as caught:
            opened.locate(unknown)
        assert isinstance(caught.value, KeyError)
        assert unknown not in opened
    assert "00123" in opened
    assert all(other not in opened for other in (123, None, 1.5, b"\xff", "\udcff"))
    assert np.isnan(opened.get_many(["no/such", "a/b"], missing="blank")[0]).all()


def test_positions_lead_to_text_ids(opened: Archive) -> None:
    cutout = opened.get("a/b")
    assert opened.nearest((cutout.ra, cutout.dec)).object_id == "a/b"
    around = opened.cone_search((cutout.ra, cutout.dec), "1 arcmin")
    assert around["object_id"][0] == "a/b"
    assert len(opened.cone_search((10.0, 10.0), "1 arcsec")) == 0
    assert opened.cone_search((10.0, 10.0), "1 arcsec")["object_id"].dtype.kind == "U"


def test_files_and_pickles_hold_text_ids(opened: Archive, tmp_path: Path) -> None:
    for object_id in TOUGH:
        cutout = pickle.loads(pickle.dumps(opened.get(object_id)))
        assert cutout.object_id == object_id
        card = fits.HDUList.fromstring(cutout.to_bytes())[1].header["OBJECT"]
        assert card == object_id.encode("ascii", "backslashreplace").decode()
        cutout.write(tmp_path / "c.npz")
        with np.load(tmp_path / "c.npz") as arrays:
            assert arrays["object_id"].item() == object_id


def test_the_command_line_takes_ids_as_text(tough: Path, demo_archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.fits"
    answer = json.loads(run("get", tough, "00123", "-o", out, "--json").stdout)
    assert (answer["object_id"], answer["tile"]) == ("00123", "A")
    assert f"object {TOUGH[3]} of tile A" in run("get", tough, TOUGH[3], "-o", out).stdout
    assert run("get", tough, "-o", out, "--", "-x").exit_code == 0
    with Archive(demo_archive) as archive:
        known = int(archive.ids()[0])
    assert json.loads(run("get", demo_archive, f"0{known}", "-o", out, "--json").stdout)["object_id"] == known
    for wrong, message in (("353.0", "is not a 64-bit integer"), ("abc", "is not a 64-bit integer"), ("-7", "not in")):
        result = run("get", demo_archive, wrong, "-o", out)
        assert result.exit_code != 0
        assert (message in result.stderr, result.stderr.count("\n")) == (True, 1)


def test_integer_archives_take_digits(demo_archive: Path) -> None:
    with Archive(demo_archive) as archive:
        ids = archive.ids()[:3]
        texts = [str(n) for n in ids]
        np.testing.assert_array_equal(archive.get_many(texts, size=8), archive.get_many(ids, size=8))
        assert archive.get(f" 0{ids[0]} ").object_id == archive.get(np.uint64(ids[0])).object_id == ids[0]
        assert texts[0] in archive
        assert all(other not in archive for other in ("x", "", "1.0", "1e3", "١", "9" * 5000, None))
        with pytest.raises(RequestError, match="object ID 'x' is not a 64-bit integer"):
            archive.get_many([texts[0], "x"])


# ---- exports


NAMES = ["330368_1234", "00123", "J1000+02", "naïve 'a' _b_", "a_b_c14cddc0", "a_b_648fa9b3", "A_B_998d3ed8"]
"""Names of the first of `TOUGH`."""


def test_files_are_named_by_the_ids(tough: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"ID": TOUGH}), tmp_path / "list.parquet")
    (tmp_path / "list.csv").write_text("ID\n" + "".join('"{}"\n'.format(n.replace('"', '""')) for n in TOUGH))
    for number, path in enumerate((tmp_path / "list.parquet", tmp_path / "list.csv")):
        folder = tmp_path / f"out{number}"
        report = export(tough, path, folder, formats="fits", prefix="p-")
        assert (report.done, report.failures) == (len(TOUGH), {})
        found = manifest(folder)
        assert found["object_id"] == TOUGH
        names = [file.split("/")[1] for file in found["file"]]
        assert names[: len(NAMES)] == [f"p-{name}.fits" for name in NAMES]
        assert all((folder / file).is_file() for file in found["file"])
        assert export(tough, path, folder, formats="fits", prefix="p-").kept == len(TOUGH)


def test_packs_hold_the_ids(tough: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"ID": [*TOUGH, "no.such"]}), tmp_path / "list.parquet")
    export(tough, tmp_path / "list.parquet", tmp_path / "h", pack="hdf5")
    found = manifest(tmp_path / "h")
    with h5py.File(tmp_path / "h" / found["file"][0]) as file:
        there = file["object_id"].asstr()[...].tolist()
    assert [there[place] for place in found["place"][:-1]] == TOUGH
    assert found["reason"][-1] == "not in the archive"
    export(tough, tmp_path / "list.parquet", tmp_path / "w", pack="webdataset")
    found = manifest(tmp_path / "w")
    with tarfile.open(tmp_path / "w" / found["file"][0]) as tar:
        for object_id, key in zip(TOUGH, found["place"], strict=False):
            member = tar.extractfile(f"{key}.json")
            assert member is not None
            assert json.load(member)["object_id"] == object_id
            assert not {"/", "."} & set(key)


def test_a_list_of_integers_does_not_fit_text_ids(tough: Path, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"ID": [123]}), tmp_path / "list.parquet")
    with pytest.raises(RequestError, match="column of IDs is int64, but the IDs of the archive are text: give text"):
        export(tough, tmp_path / "list.parquet", tmp_path / "out")
    (tmp_path / "list.csv").write_text(f"ID\n00123\n123\n\n{'y' * 2000}\n")
    assert export(tough, tmp_path / "list.csv", tmp_path / "out").done == 1
    assert [reason and reason.split(":")[0] for reason in manifest(tmp_path / "out")["reason"]] == [
        None,
        "not in the archive",
        "no ID",
        "not an ID",
    ]
