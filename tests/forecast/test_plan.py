"""Forecasts compared with the archives that are then built; wall times are not compared."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from helpers import run

from archive_builder.builder.driver import build
from archive_builder.builder.one_tile import TileResult
from archive_builder.errors import RecipeError, RequestError, TileError
from archive_builder.forecast.forecast import Criterion, Forecast
from archive_builder.forecast.plan import choose_tiles, plan
from archive_builder.forecast.sample import TileSample
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import Discovery, TileFiles, discover
from archive_builder.survey.recipe import StorageSection, load_recipe

TILES = 4
BANDS = '["r", "i", "z"]'
OTHERS = [
    ("mosaic", "4"),
    ("mosaic", '"lossless"'),
    ("stamps", "16"),
    ("stamps", "4"),
]
"""Layouts and quantizations other than the demo recipe's."""


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Survey of different tiles in three bands: one has a hole, each has a noisy corner. Tests must not change it."""
    folder = tmp_path_factory.mktemp("plan") / "survey"
    recipe = make_survey(folder, tiles=TILES, tile_size=400, objects=60, seed=3)
    recipe.write_text(re.sub(r"(?m)^bands = .*$", f"bands = {BANDS}", recipe.read_text()))
    return folder


@pytest.fixture(scope="module")
def whole(survey: Path) -> Forecast:
    """Forecast from a sample of all tiles."""
    return plan(survey / "survey.toml", sample=TILES)


def recipe_with(survey: Path, folder: Path, **values: str) -> Path:
    """Write the survey's recipe with other values, in TOML syntax; return its path."""
    text = (survey / "survey.toml").read_text()
    for key, value in {"root": json.dumps(str(survey)), **values}.items():
        text, n = re.subn(rf"(?m)^{key}\s*=.*$", f"{key} = {value}", text)
        assert n == 1, key
    path = folder / "survey.toml"
    path.write_text(text)
    return path


def bytes_of(archive: Path) -> int:
    return sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())


def column(archive: Path, name: str) -> np.ndarray:
    """Return a column of all objects on the tiles, stored and skipped, from the shards."""
    found = []
    for path in (archive / "shards").glob("*.h5"):
        with h5py.File(path) as shard:
            found += [shard[f"objects/{name}"][...], shard[f"skipped/{name}"][shard["skipped/reason"][...] != 3]]
    return np.concatenate(found)


# ---- against the build


def test_forecast_from_all_tiles_equals_the_cost_of_the_build(survey: Path, whole: Forecast, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    report = build(survey / "survey.toml", archive, workers=2)
    assert (whole.tiles, whole.objects.value, whole.objects.error) == (TILES, 60 * TILES, 0)
    assert whole.stored.value == report.stored
    assert {reason: estimate.value for reason, estimate in whole.skipped.items()} == report.skipped
    assert report.skipped["noise"] > 0 < report.skipped["blank"]
    assert sum(tile.bytes for tile in whole.sampled) == report.bytes
    own = whole.storages[0]
    assert (own.layout, own.quantization, own.bytes.error) == ("mosaic", 16, 0)
    assert own.bytes.value == pytest.approx(bytes_of(archive), rel=0.01)
    rms = column(archive, "rms")
    for number, band in enumerate(whole.bands):
        expected = np.percentile(rms[:, number], [5, 50, 95])
        np.testing.assert_allclose([band.rms.percentiles[p] for p in (5, 50, 95)], expected, rtol=1e-5)


@pytest.mark.parametrize("planes", ["[]", '["WGT", "MSK"]'])
def test_forecast_from_some_tiles_is_within_a_tenth_of_the_cost_of_the_build(
    survey: Path, tmp_path: Path, planes: str
) -> None:
    recipe = recipe_with(survey, tmp_path, quantization=f"8\nplanes = {planes}")
    forecast = plan(recipe, sample=2)
    assert len(forecast.sampled) == 2
    report = build(recipe, tmp_path / "archive", workers=2)
    assert report.failures == {}
    assert (forecast.storages[0].layout, forecast.storages[0].quantization) == ("mosaic", 8)
    assert forecast.storages[0].bytes.value == pytest.approx(bytes_of(tmp_path / "archive"), rel=0.1)
    assert forecast.objects.value == 60 * TILES
    assert forecast.stored.value == pytest.approx(report.stored, rel=0.25)


@pytest.mark.parametrize(("layout", "quantization"), OTHERS)
def test_forecasts_of_other_storages_are_within_a_tenth_of_their_builds(
    survey: Path, whole: Forecast, tmp_path: Path, layout: str, quantization: str
) -> None:
    assert len(whole.storages) == 1 + len(OTHERS)
    (forecast,) = (
        way for way in whole.storages if (way.layout, way.quantization) == (layout, json.loads(quantization))
    )
    recipe = recipe_with(survey, tmp_path, layout=f'"{layout}"', quantization=quantization)
    assert build(recipe, tmp_path / "archive", workers=2).failures == {}
    assert forecast.bytes.value == pytest.approx(bytes_of(tmp_path / "archive"), rel=0.1)


def test_forecast_from_stamps_is_exact_for_stamps_and_within_a_fifth_for_mosaics(survey: Path, tmp_path: Path) -> None:
    """The forecast of mosaics comes from a sample built as stamps."""
    recipe = recipe_with(survey, tmp_path, layout='"stamps"', quantization='"lossless"')
    forecast = plan(recipe, sample=TILES)
    assert (forecast.storages[0].layout, forecast.storages[0].quantization) == ("stamps", "lossless")
    by_way = {(way.layout, way.quantization): way.bytes.value for way in forecast.storages}
    assert build(recipe, tmp_path / "stamps", workers=2).failures == {}
    assert by_way["stamps", "lossless"] == pytest.approx(bytes_of(tmp_path / "stamps"), rel=0.01)
    other = recipe_with(survey, tmp_path, layout='"mosaic"')
    assert build(other, tmp_path / "mosaic", workers=2).failures == {}
    # On small tiles, a tenth of a file is neither pixels nor objects; on full-size tiles, this part is negligible.
    assert by_way["mosaic", 16] == pytest.approx(bytes_of(tmp_path / "mosaic"), rel=0.2)


def kept_at(criterion: Criterion, share: float) -> float:
    (threshold,) = (kept.threshold for kept in criterion.ladder if kept.share == share)
    return threshold


@pytest.mark.parametrize("key", ["max_background_rms", "min_depth", "max_blank_fraction"])
def test_threshold_keeps_the_forecast_share_in_a_build(survey: Path, whole: Forecast, tmp_path: Path, key: str) -> None:
    others = {"max_background_rms": "{}", "min_depth": "{}", "max_blank_fraction": "1.0"}
    if key == "max_blank_fraction":
        (share,) = (kept.share for kept in whole.blank.ladder if kept.threshold == 0.2)
        value = "0.2"
    else:
        band = next(band for band in whole.bands if band.band == "z")
        share, value = 0.75, f"{{ z = {kept_at(getattr(band, key), 0.75)!r} }}"
    recipe = recipe_with(survey, tmp_path, **{**others, key: value})
    report = build(recipe, tmp_path / "archive", workers=2)
    on_tiles = report.stored + report.skipped["noise"] + report.skipped["blank"]
    assert report.stored / on_tiles == pytest.approx(share, abs=1.1 / on_tiles)
    assert 0 < report.stored < on_tiles


def test_each_threshold_of_the_recipe_is_evaluated_alone(survey: Path, whole: Forecast, tmp_path: Path) -> None:
    limits = [
        (c.key, c.band, c.limit)
        for band in whole.bands
        for c in (band.max_background_rms, band.min_depth)
        if c.limit is not None
    ]
    assert limits == [("max_background_rms", "r", 3.8), ("min_depth", "i", 24.15)]
    recipe = recipe_with(survey, tmp_path, min_depth="{}", max_blank_fraction="1.0")
    report = build(recipe, tmp_path / "archive", workers=2)
    r = next(band for band in whole.bands if band.band == "r")
    assert r.max_background_rms.kept_by_limit == report.stored / (report.stored + report.skipped["noise"])
    assert whole.blank.limit == 0.5


# ---- choice of tiles


def listed(count: int) -> Discovery:
    return Discovery(tuple(TileFiles(f"T{n:05d}", {}, Path()) for n in range(count)), {})


@pytest.mark.parametrize(("tiles", "sample"), [(10169, 5), (10, 3), (7, 7), (3, 5), (1, 1)])
def test_sampled_tiles_are_spread_over_the_list_and_the_same_for_the_same_seed(tiles: int, sample: int) -> None:
    found = listed(tiles)
    chosen = [files.tile for files in choose_tiles(found, sample, 1)]
    assert [files.tile for files in choose_tiles(found, sample, 1)] == chosen
    assert len(set(chosen)) == min(tiles, sample)
    for part, tile in enumerate(chosen):
        assert tiles * part // len(chosen) <= int(tile[1:]) <= -(-tiles * (part + 1) // len(chosen))
    if tiles > 100:
        assert len({tuple(f.tile for f in choose_tiles(found, sample, seed)) for seed in range(20)}) == 20


def test_every_tile_can_be_sampled() -> None:
    found = listed(7)
    assert {f.tile for seed in range(60) for f in choose_tiles(found, 2, seed)} == {f.tile for f in found.tiles}


def test_named_tiles_are_sampled_instead_of_random_ones(survey: Path) -> None:
    names = [files.tile for files in discover(load_recipe(survey / "survey.toml")).tiles]
    forecast = plan(survey / "survey.toml", tiles=[names[3]], workers=(2,))
    assert [tile.tile for tile in forecast.sampled] == [names[3]]
    assert (forecast.storages[0].bytes.error, forecast.objects.error) == (None, None)
    assert [wall.workers for wall in forecast.wall] == [2]
    with pytest.raises(RequestError, match="tile NOWHERE cannot be sampled: it is not in the survey"):
        plan(survey / "survey.toml", tiles=["NOWHERE"])


# ---- errors


@pytest.fixture
def survey_copy(survey: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(survey, tmp_path / "survey"))


def folders(survey: Path) -> list[Path]:
    return sorted(path for path in survey.iterdir() if path.is_dir())


def test_incomplete_tiles_are_named_and_left_out(survey: Path, survey_copy: Path) -> None:
    first, second, *rest = folders(survey_copy)
    next(first.glob("*_z.fits.fz")).unlink()
    next(second.glob("*_cat.fits")).unlink()
    result = run("plan", survey_copy / "survey.toml", "--sample", 1)
    assert result.exit_code == 0
    assert re.search(rf"^Demo: {len(rest)} tiles, {60 * len(rest)} objects", result.stdout)
    assert "2 more tiles are incomplete and left out:\n" in result.stdout
    assert re.search(
        rf"  tile {first.name}: no file for band z: .*\n  tile {second.name}: no file for the catalogue", result.stdout
    )


def test_sampled_tile_that_cannot_be_built_is_named_and_the_others_represent_it(survey_copy: Path) -> None:
    bad, *_ = folders(survey_copy)
    path = next(bad.glob("*_i.fits.fz"))
    path.write_bytes(path.read_bytes()[:50_000])
    result = run("plan", survey_copy / "survey.toml", "--sample", TILES, "--json")
    assert result.exit_code == 1
    *_, error = result.stderr.splitlines()
    assert error.startswith(f"error: tile {bad.name}: {path}: ")
    answer = json.loads(result.stdout)
    assert list(answer["failed"]) == [bad.name]
    assert (answer["tiles"], len(answer["sampled"]), answer["objects"]["value"]) == (TILES, TILES - 1, 60 * TILES)
    assert answer["storages"][0]["bytes"]["error"] > 0


def test_survey_without_a_buildable_tile_is_an_error_on_one_line(survey_copy: Path) -> None:
    for folder in folders(survey_copy):
        path = next(folder.glob("*_r.fits.fz"))
        path.write_bytes(b"SIMPLE")
    with pytest.raises(TileError, match=rf"none of the {TILES} sampled tiles can be built \(tile DEM"):
        plan(recipe_with(survey_copy, survey_copy, size="64"), sample=TILES)
    for folder in folders(survey_copy):
        next(folder.glob("*_r.fits.fz")).unlink()
    with pytest.raises(RecipeError, match=rf"none of the survey's {TILES} tiles is complete \(tile DEM"):
        plan(survey_copy / "survey.toml")
    result = run("plan", survey_copy / "survey.toml")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_objects_that_cannot_be_counted_are_estimated_from_the_sample(survey: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(folders(survey)):
        table = Table.read(next(folder.glob("*_cat.fits")))
        columns = ["COADD_OBJECT_ID", "ALPHAWIN_J2000", "DELTAWIN_J2000"]
        table[: 60 - number][columns].write(tmp_path / f"{folder.name}_cat.csv")
    recipe = recipe_with(survey, tmp_path, path=json.dumps(f"{tmp_path}/{{tile}}_cat.csv"))
    everything, some = plan(recipe, sample=TILES), plan(recipe, sample=2)
    assert not everything.counted
    assert (everything.objects.value, everything.objects.error) == (60 * TILES - sum(range(TILES)), 0)
    assert some.objects.value == pytest.approx(everything.objects.value, abs=2 * TILES)
    assert some.objects.error > 0
    assert "objects (estimated from the sample)" in run("plan", recipe, "--sample", 2).stdout


def test_tile_of_few_objects_is_sampled_around_its_objects(survey_copy: Path, tmp_path: Path) -> None:
    for folder in folders(survey_copy):
        path = next(folder.glob("*_cat.fits"))
        table = Table.read(path)
        table.sort("DELTAWIN_J2000")
        table[-2:].write(path, overwrite=True)
    all_pass = {"max_background_rms": "{}", "min_depth": "{}", "max_blank_fraction": "1.0"}
    forecast = plan(recipe_with(survey_copy, tmp_path, **all_pass), sample=TILES)
    assert forecast.stored.value == 2 * TILES
    stamps = next(way for way in forecast.storages if (way.layout, way.quantization) == ("stamps", 16))
    recipe = recipe_with(survey_copy, tmp_path, **all_pass, layout='"stamps"')
    assert build(recipe, tmp_path / "archive", workers=2).stored == 2 * TILES
    assert stamps.bytes.value == pytest.approx(bytes_of(tmp_path / "archive"), rel=0.1)


def root_of(recipe: Path) -> str:
    """Return the root of a recipe's survey, in TOML syntax."""
    (root,) = re.findall(r"(?m)^root\s*=\s*(.*)$", recipe.read_text())
    return root


def no_object_passes(survey: Path, folder: Path) -> Path:
    return recipe_with(survey, folder, max_background_rms="{ r = 0.001 }")


def no_band_has_noise(survey: Path, folder: Path) -> Path:
    """Make every image constant: its background RMS cannot be measured."""
    copy = Path(shutil.copytree(survey, folder / "flat"))
    for path in copy.glob("*/*.fits.fz"):
        with fits.open(path) as hdus:
            images = [fits.ImageHDU(hdus[name].data * 0 + 1, hdus[name].header, name) for name in ("SCI", "WGT", "MSK")]
        path.unlink()
        fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path.with_suffix(""))
    return recipe_with(copy, folder)


@pytest.mark.parametrize("prepare", [no_object_passes, no_band_has_noise])
def test_forecast_of_an_archive_without_cutouts_equals_its_build(
    survey: Path, tmp_path: Path, prepare: Callable[[Path, Path], Path]
) -> None:
    recipe = prepare(survey, tmp_path)
    forecast = plan(recipe, sample=TILES)
    assert forecast.stored.value == 0
    by_way = {(way.layout, way.quantization): way.bytes.value for way in forecast.storages}
    for layout, quantization in [("mosaic", "16"), *OTHERS]:
        folder = tmp_path / f"{layout} {json.loads(quantization)}"
        folder.mkdir()
        own = recipe_with(recipe.parent, folder, layout=f'"{layout}"', quantization=quantization, root=root_of(recipe))
        report = build(own, folder / "archive", workers=1)
        assert (report.stored, report.failures) == (0, {})
        assert by_way.pop((layout, json.loads(quantization))) == pytest.approx(bytes_of(folder / "archive"), rel=0.05)
    assert by_way == {}
    assert run("plan", recipe, "--sample", 2).exit_code == 0


def test_plan_leaves_no_files_and_needs_no_archive(survey: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in survey.rglob("*")}
    result = run("plan", survey / "survey.toml", "--sample", 1, "--work", tmp_path)
    assert result.exit_code == 0
    assert list(tmp_path.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in survey.rglob("*")} == before
    gone = run("plan", survey / "survey.toml", "--work", tmp_path / "nowhere")
    assert (gone.exit_code, gone.stderr.splitlines()[-1].split(":")[:2]) == (
        2,
        ["error", f" temporary folder in {tmp_path / 'nowhere'} cannot be made"],
    )


# ---- the tile built in every layout and quantization


def test_reference_tile_is_the_median_and_each_of_its_shards_is_removed_before_the_next(
    survey: Path, tmp_path: Path
) -> None:
    called: list[tuple[str, str, float | str, int]] = []
    chosen: list[TileSample] = []
    samples: list[TileSample] = []

    def note(storage: StorageSection, result: TileResult) -> None:
        left = [path for path in tmp_path.rglob("*") if path.is_file() and ".h5" in path.name]
        called.append((result.tile, storage.layout, storage.quantization, len(left)))

    forecast = plan(
        survey / "survey.toml",
        sample=3,
        work=tmp_path,
        on_tile=samples.append,
        on_reference=lambda sample, storages: chosen.append(sample),
        on_alternative=note,
    )
    assert chosen == [sorted(samples, key=lambda sample: sample.cutouts)[1]]
    assert chosen[0].result.tile == forecast.reference
    ways = [("mosaic", 16), *(("mosaic", q) for q in (4, "lossless")), *(("stamps", q) for q in (4, 16))]
    assert called == [(forecast.reference, layout, quantization, 0) for layout, quantization in ways]
    assert [(way.layout, way.quantization) for way in forecast.storages] == ways


def test_alternative_that_cannot_be_stored_is_left_out_with_its_reason(survey_copy: Path, tmp_path: Path) -> None:
    for folder in folders(survey_copy):
        path = next(folder.glob("*_i.fits.fz"))
        with fits.open(path) as hdus:
            images = [fits.ImageHDU(hdus[name].data, hdus[name].header, name) for name in ("SCI", "WGT", "MSK")]
        images[0].data[200, 200] = 1e30
        path.unlink()
        fits.HDUList([fits.PrimaryHDU(), *images]).writeto(path.with_suffix(""))
    recipe = recipe_with(survey_copy, tmp_path, quantization='"lossless"')
    forecast = plan(recipe, sample=1)
    assert [(way.layout, way.quantization) for way in forecast.storages] == [
        ("mosaic", "lossless"),
    ]
    assert list(forecast.left_out) == ["mosaic 4", "mosaic 16", "stamps 4", "stamps 16"]
    assert [reason.startswith("band i: a pixel in rows ") for reason in forecast.left_out.values()] == [True] * 4
    result = run("plan", recipe, "--sample", 1)
    assert result.exit_code == 0
    assert len(re.findall(r"^  (?:mosaic|stamps) \d+ left out: band i: a pixel in rows ", result.stdout, re.M)) == 4


# ---- output


def test_json_is_valid_and_holds_the_whole_forecast(survey: Path, whole: Forecast) -> None:
    result = run("plan", survey / "survey.toml", "--sample", TILES, "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    answer = json.loads(result.stdout, parse_constant=refuse)
    expected = json.loads(json.dumps(asdict(whole)))
    assert answer.keys() == expected.keys()
    for key in ("tiles", "objects", "stored", "skipped", "bands", "blank", "size", "counted", "incomplete"):
        assert answer[key] == expected[key]
    assert answer["storages"][0]["bytes"] == expected["storages"][0]["bytes"]


def test_text_shows_the_figures_of_the_json(survey: Path) -> None:
    told = run("plan", survey / "survey.toml", "--sample", 2, "--workers", 7)
    assert (told.exit_code, told.stderr.count("\n")) == (0, 3 + 1 + 1 + len(OTHERS))
    text = told.stdout
    assert text.startswith(
        f"Demo: {TILES} tiles, {60 * TILES} objects (counted in the catalogues)\n2 tiles sampled: DEM"
    )
    assert "by the recipe: cutouts of 228 px in r, i, z; mosaic, q = 16\n" in text
    assert re.search(r"^  workers  wall time +reads +writes +memory\n  7 ", text, re.M)
    assert text.count("the recipe\n") == 1
    for line in (
        "max_background_rms r = 3.8 alone keeps ",
        "min_depth i = 24.15 alone keeps ",
        "max_blank_fraction = 0.5 alone",
    ):
        assert line in text
