"""Contents of an archive read by the HDF5 and SQLite projects' own programs, compared with the library."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import hdf5plugin
import numpy as np
import pytest
from astropy.table import Table

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.survey.demo import make_survey

SIZE = 32
OBJECTS = 1400
"""Number of objects, more than the rows in one block behind a mosaic's ``/cutouts``."""

SHARD_FORMAT = json.loads((Path(__file__).parents[2] / "schema" / "shard.json").read_text(encoding="utf-8"))

STORAGE = [("mosaic", "16"), ("stamps", "16"), ("mosaic", '"lossless"'), ("stamps", '"lossless"')]


@dataclass(frozen=True)
class Built:
    """An archive of a synthetic survey."""

    path: Path
    layout: str
    object_ids: list[int]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return make_survey(tmp_path_factory.mktemp("survey"), tiles=1, tile_size=600, objects=OBJECTS, seed=3)


@pytest.fixture(scope="module", params=STORAGE, ids=lambda storage: "-".join(storage).replace('"', ""))
def built(request, recipe, tmp_path_factory) -> Built:
    layout, quantization = request.param
    text = recipe.read_text(encoding="utf-8")
    for key, value in {
        "size": str(SIZE),
        "max_background_rms": "{ r = 6.0 }",
        "min_depth": "{ i = 23.0 }",
        "max_blank_fraction": "0.8",
        "layout": f'"{layout}"',
        "quantization": quantization,
    }.items():
        text, changed = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, f"the demo's recipe has {changed} lines of {key}"
    edited = recipe.with_name(f"{layout}-{quantization.strip(chr(34))}.toml")
    edited.write_text(text, encoding="utf-8")
    path = tmp_path_factory.mktemp("archive")
    assert build(edited, path).failures == {}
    (catalog,) = recipe.parent.glob("*/*_cat.fits")
    return Built(path, layout, Table.read(catalog)["COADD_OBJECT_ID"].tolist())


@pytest.fixture(scope="module")
def archive(built):
    with Archive(built.path) as archive:
        yield archive


@pytest.fixture(scope="module")
def shard(built) -> Path:
    (shard,) = built.path.glob("shards/*.h5")
    return shard


@pytest.fixture(scope="module")
def h5dump(run):
    """Run h5dump with the filters of hdf5plugin, printing numbers with all their digits."""
    environment = {**os.environ, "HDF5_PLUGIN_PATH": hdf5plugin.PLUGINS_PATH}

    def dump(*arguments: object) -> str:
        return run("h5dump", "-w", 0, "-m", "%.17g", *arguments, env=environment)

    return dump


def values(text: str) -> list[str]:
    """Return the values printed by h5dump between ``DATA {`` and ``}``, without the index before each line."""
    data = re.search(r"\bDATA \{(.*?)\}", text, flags=re.DOTALL)
    assert data, text
    return re.findall(r'"[^"]*"|[^\s,]+', re.sub(r"^\s*\(\d+(,\d+)*\):", "", data[1], flags=re.MULTILINE))


def rows_to_look_at(archive: Archive, object_ids: list[int]) -> dict[int, int]:
    """Return IDs by row: first, middle and last, one across each side of the tile, one wholly on the tile."""
    stored = {where.row: i for i in object_ids if (where := archive.locate(i)).status == "stored"}
    rows = {0, 1, len(stored) // 2, len(stored) - 1}
    cutouts = {row: archive.get(i) for row, i in stored.items()}
    for side in (np.s_[:, 0], np.s_[:, -1], np.s_[0, :], np.s_[-1, :]):
        rows.add(next(row for row, c in cutouts.items() if np.isnan(c.data[0][side]).all()))
    rows.add(next(row for row, c in cutouts.items() if not np.isnan(c.data).any()))
    return {row: stored[row] for row in sorted(rows)}


def test_h5dump_reads_the_same_cutouts_as_the_library(built, archive, shard, h5dump):
    scale = np.array(values(h5dump("-a", "/cutouts/scale", shard)), dtype=np.float64)
    blank = float(values(h5dump("-a", "/cutouts/blank", shard))[0])
    rows = rows_to_look_at(archive, built.object_ids)
    for row, object_id in rows.items():
        served = archive.get(object_id).data
        count = ",".join(str(n) for n in (1, *served.shape))
        text = h5dump("-d", "/cutouts", "-s", f"{row},0,0,0", "-c", count, shard)
        stored = np.array(values(text), dtype=np.float64).reshape(served.shape)
        is_blank = np.isnan(stored) if np.isnan(blank) else stored == blank
        flux = np.where(is_blank, np.nan, stored * scale[:, None, None]).astype(np.float32)
        np.testing.assert_array_equal(is_blank, np.isnan(served), err_msg=f"row {row}")
        np.testing.assert_array_equal(flux, served, err_msg=f"row {row}")
        assert np.nanstd(served) > 0
    assert len(rows) >= 6
    assert max(rows) > 1000


def test_h5dump_reads_the_same_tables_as_the_library(built, archive, shard, h5dump):
    ids = [int(value) for value in values(h5dump("-d", "/objects/object_id", shard))]
    ra, dec = (np.array(values(h5dump("-d", f"/objects/{name}", shard)), dtype=np.float64) for name in ("ra", "dec"))
    skipped = [int(value) for value in values(h5dump("-d", "/skipped/object_id", shard))]
    assert sorted(ids + skipped) == sorted(built.object_ids)
    for row in range(0, len(ids), 97):
        cutout = archive.get(ids[row])
        assert archive.locate(ids[row]).row == row
        assert (cutout.ra, cutout.dec) == (ra[row], dec[row])


def test_h5dump_shows_the_attributes_of_the_written_format(shard, h5dump):
    header = h5dump("-H", shard)
    missing = [name for name in SHARD_FORMAT["attributes"] if f'ATTRIBUTE "{name}"' not in header]
    assert missing == []
    assert values(h5dump("-a", "/format", shard)) == [f'"{SHARD_FORMAT["format"]}"']
    assert values(h5dump("-a", "/format_version", shard)) == [str(SHARD_FORMAT["format_version"])]
    assert values(h5dump("-a", "/bands", shard)) == ['"g"', '"r"', '"i"', '"z"', '"Y"']
    assert values(h5dump("-a", "/size", shard)) == [str(SIZE)]


def test_h5ls_lists_the_datasets_of_the_written_format(built, shard, run):
    listed = dict(re.findall(r"^(/\S*)\s+Dataset \{(.*)\}$", run("h5ls", "-r", shard), flags=re.MULTILINE))
    image = {
        f"/{name}"
        for name, dataset in SHARD_FORMAT["planes"]["datasets"].items()
        if dataset.get("layout", built.layout) == built.layout
    }
    wanted = image | SHARD_FORMAT["datasets"].keys() | SHARD_FORMAT["color"]["datasets"].keys()
    assert wanted == {path for path in listed if not path.startswith("/blocks/")}
    rows = re.match(r"\d+", listed["/cutouts"])[0]
    assert listed["/cutouts"].replace("/Inf", "") == f"{rows}, 5, {SIZE}, {SIZE}"
    assert listed["/objects/object_id"] == rows


@pytest.fixture(scope="module")
def query(built, run):
    """Return a function that runs a query on the index with sqlite3; each row is a mapping."""

    def ask(sql: str) -> list[dict[str, object]]:
        return json.loads(run("sqlite3", "-readonly", "-json", built.path / "index.sqlite", sql) or "[]")

    return ask


def test_sqlite3_finds_no_damage_in_the_index(query):
    assert query("PRAGMA integrity_check") == [{"integrity_check": "ok"}]


def test_sqlite3_counts_every_object_of_the_catalogue(built, query):
    assert query("SELECT count(*) AS n, count(DISTINCT object_id) AS ids FROM objects") == [
        {"n": len(built.object_ids), "ids": len(built.object_ids)}
    ]
    (tile,) = query("SELECT stored, skipped, state FROM tiles")
    (counted,) = query("SELECT sum(status = 0) AS stored, sum(status > 0) AS skipped FROM objects")
    assert tile == {**counted, "state": "built"}


def test_sqlite3_finds_an_object_at_the_same_place_as_the_library(built, archive, query):
    status = ("stored", "noise", "blank", "outside")
    seen = set()
    for object_id in built.object_ids[::41]:
        (found,) = query(
            f"SELECT name, row, status, shard FROM objects JOIN tiles USING (tile_id) WHERE object_id = {object_id}"
        )
        where = archive.locate(object_id)
        assert (found["name"], found["row"], status[found["status"]]) == (where.tile, where.row, where.status)
        assert built.path / found["shard"] == where.shard
        seen.add(where.status)
    assert len(seen) > 1
