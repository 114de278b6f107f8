"""Builds of an archive from a survey: the archive's contents, and the effect of a second build."""

import json
import os
import re
import shutil
import signal
import threading
from pathlib import Path

import h5py
import hdf5plugin
import multiprocess
import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder import Archive
from archive_builder.builder.driver import BuildEvent, build
from archive_builder.builder.one_tile import TileJob, build_tile
from archive_builder.cli.main import main
from archive_builder.errors import RecipeError
from archive_builder.store.index import Index
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py


def edit(survey: Path, **values: str) -> Path:
    """Change keys of a recipe, with values in TOML syntax; return the recipe's path."""
    recipe = survey / "survey.toml"
    text = recipe.read_text()
    for key, value in values.items():
        text, n = re.subn(rf"(?m)^{key}\s*=.*$", f"{key} = {value}", text)
        assert n == 1, key
    recipe.write_text(text)
    return recipe


def images(survey: Path, tile: str) -> dict[str, np.ndarray]:
    return {path.name.split("_")[-1][0]: fits.getdata(path, "SCI") for path in (survey / tile).glob("*.fits.fz")}


def datasets(path: Path) -> dict[str, np.ndarray]:
    """Return all datasets of a shard."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]} if isinstance(item, h5py.Dataset) else {}))
        found |= {f"@{name}": np.asarray(value) for name, value in file.attrs.items()}
    return found


def assert_equal_shards(one: Path, other: Path) -> None:
    first, second = datasets(one), datasets(other)
    assert len(first["cutouts"]) == len(first["objects/object_id"]) > 0
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def run_job(survey: Path, out: Path, strip_rows: int = 128) -> Path:
    """Build the first tile's shard in this process."""
    recipe = load_recipe(survey / "survey.toml")
    archive = out.with_suffix("")
    (archive / "shards").mkdir(parents=True)
    job = TileJob(discover(recipe).tiles[0], recipe, 228, archive, 1, strip_rows=strip_rows)
    return archive / build_tile(job).draft


@pytest.mark.parametrize(("layout", "quantization"), [("mosaic", 16), ("stamps", 4), ("stamps", "lossless")])
def test_every_cutout_equals_cutout2d_of_the_source_within_the_bound(
    survey_copy: Path, tmp_path: Path, layout: str, quantization: float | str
) -> None:
    recipe = edit(survey_copy, layout=f'"{layout}"', quantization=json.dumps(quantization))
    archive = tmp_path / "archive"
    assert build(recipe, archive).failures == {}
    compared = 0
    for path in sorted((archive / "shards").iterdir()):
        with Shard(path) as shard, Archive(archive) as opened:
            source = images(survey_copy, shard.info.tile)
            for object_id, x, y in zip(shard.objects.object_id, shard.objects.x, shard.objects.y, strict=True):
                cutout = opened.get(object_id)
                for band, data in zip(cutout.bands, cutout.data, strict=True):
                    theirs = Cutout2D(source[band], (round(x), round(y)), 228, mode="partial", fill_value=np.nan).data
                    np.testing.assert_array_equal(np.isnan(data), np.isnan(theirs))
                    assert np.nanmax(np.abs(data.astype(float) - theirs), initial=0) <= cutout.step[band] / 2
                    compared += 1
    assert compared > 400


def test_step_is_the_tiles_median_noise_over_q(demo_survey: Path, demo_archive: Path) -> None:
    compared = 0
    for path in (demo_archive / "shards").iterdir():
        with Shard(path) as shard:
            for band, step in zip(shard.info.bands, shard.step, strict=True):
                image = images(demo_survey, shard.info.tile)[band].astype(np.float32)
                hole = np.isnan(image)
                rms = sep.Background(np.nan_to_num(image), mask=hole, bw=128, bh=128).globalrms
                # The step is rounded down, by at most a sixteenth.
                assert 0.9 * rms / 16 < step < 1.05 * rms / 16
                compared += 1
    assert compared == 2 * 5


def test_layouts_hold_the_same_cutouts_in_the_same_order(survey_copy: Path, tmp_path: Path) -> None:
    mosaic = datasets(run_job(survey_copy, tmp_path / "mosaic.h5"))
    edit(survey_copy, layout='"stamps"')
    stamps = datasets(run_job(survey_copy, tmp_path / "stamps.h5"))
    for name in ("cutouts", "objects/object_id", "objects/rms", "skipped/object_id", "skipped/reason"):
        np.testing.assert_array_equal(mosaic[name], stamps[name], err_msg=name)


@settings(max_examples=4)
@given(strip_rows=st.integers(1, 600))
def test_shards_do_not_depend_on_the_strip_height(
    demo_survey: Path, tmp_path_factory: pytest.TempPathFactory, strip_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("strips")
    assert_equal_shards(run_job(demo_survey, folder / "a.h5"), run_job(demo_survey, folder / "b.h5", strip_rows))


def test_shards_do_not_depend_on_workers_or_on_the_order_of_tiles(
    demo_survey: Path, demo_archive: Path, tmp_path: Path
) -> None:
    tiles = sorted(path.name for path in demo_survey.iterdir() if path.is_dir())
    for tile in reversed(tiles):
        build(demo_survey / "survey.toml", tmp_path / "a", tiles=[tile])
    build(demo_survey / "survey.toml", tmp_path / "b", workers=2)
    shards = list((demo_archive / "shards").iterdir())
    assert len(shards) == len(tiles) == 2
    for shard in shards:
        assert_equal_shards(shard, tmp_path / "a/shards" / shard.name)
        assert_equal_shards(shard, tmp_path / "b/shards" / shard.name)


def test_next_build_removes_the_unfinished_index_of_a_killed_build(
    demo_survey: Path, demo_archive: Path, tmp_path: Path
) -> None:
    archive = shutil.copytree(demo_archive, tmp_path / "archive")
    whole = {path.name for path in archive.iterdir()}
    for ending in ("part", "part-journal"):
        (archive / f".index.sqlite.0123456789abcdef.17.{ending}").write_bytes(b"half")
    assert build(demo_survey / "survey.toml", archive).unchanged == 2
    assert {path.name for path in archive.iterdir()} == whole


def test_every_catalogued_object_is_stored_or_skipped_for_a_true_reason(demo_survey: Path, demo_archive: Path) -> None:
    recipe = load_recipe(demo_survey / "survey.toml")
    reasons = set()
    for path in (demo_archive / "shards").iterdir():
        with Shard(path) as shard:
            tile = shard.info.tile
            catalog = Table.read(next((demo_survey / tile).glob("*_cat.fits")))
            both = np.concatenate([shard.objects.object_id, shard.skipped.object_id])
            assert sorted(both) == sorted(catalog["COADD_OBJECT_ID"])
            image = images(demo_survey, tile)["r"].astype(np.float32)
            hole = np.isnan(image)
            r = shard.info.bands.index("r")
            rms = sep.Background(np.nan_to_num(image), mask=hole, bw=128, bh=128).rms()
            for row, reason in enumerate(shard.reason):
                x, y = round(shard.skipped.x[row]), round(shard.skipped.y[row])
                window = Cutout2D(image, (x, y), 228, mode="partial", fill_value=np.nan).data
                reasons.add(int(reason))
                assert (np.isnan(window).mean() > 0.5) == (reason == 2)
            limit = recipe.quality.max_background_rms["r"]
            assert (shard.objects.rms[:, r] <= limit).all()
            at = rms[np.rint(shard.objects.y).astype(int), np.rint(shard.objects.x).astype(int)]
            np.testing.assert_allclose(np.median(shard.objects.rms[:, r] / at), 1, atol=0.02)
    assert reasons == {1, 2}


def test_objects_off_the_tile_are_recorded_as_outside(survey_copy: Path, tmp_path: Path) -> None:
    path = next(iter(sorted(survey_copy.glob("*/*_cat.fits"))))
    catalog = Table.read(path)
    catalog["ALPHAWIN_J2000"][0] += 0.5  # half a degree: near the tile, but outside
    catalog["DELTAWIN_J2000"][1] = 80.0  # far away
    catalog.write(path, overwrite=True)
    with Shard(run_job(survey_copy, tmp_path / "t.h5")) as shard:
        outside = shard.skipped.take(np.flatnonzero(shard.reason == 3))
        assert sorted(outside.object_id) == sorted(catalog["COADD_OBJECT_ID"][:2])
        assert np.isnan(outside.rms).all()


@pytest.mark.parametrize("value", [0.0, 41.5, np.nan])
def test_constant_or_blank_band_is_stored_exactly(survey_copy: Path, tmp_path: Path, value: float) -> None:
    path = next(iter(sorted(survey_copy.glob("*/*_z.fits.fz"))))
    with fits.open(path) as hdus:
        flat = fits.PrimaryHDU(np.full(hdus["SCI"].shape, value, dtype=np.float32), hdus["SCI"].header)
    flat.header["EXTNAME"] = "SCI"
    flat.writeto(path, overwrite=True)
    edit(survey_copy, max_blank_fraction="1.0")
    with Shard(run_job(survey_copy, tmp_path / "t.h5")) as shard:
        out = np.empty((1, 64, 64), dtype=np.float32)
        middle = np.argmin(np.hypot(shard.objects.x - 250, shard.objects.y - 250))
        shard.read(int(middle), (64, 64), [shard.info.bands.index("z")], out)
        np.testing.assert_array_equal(out, np.full_like(out, value))


def test_pixel_too_bright_for_an_integer_fails_its_tile_and_the_error_names_the_remedy(
    survey_copy: Path, tmp_path: Path
) -> None:
    path = next(iter(sorted(survey_copy.glob("*/*_g.fits.fz"))))
    with fits.open(path) as hdus:
        image, header = hdus["SCI"].data, hdus["SCI"].header
    image[200, 200] = 1e12
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI")]).writeto(path, overwrite=True)
    report = build(survey_copy / "survey.toml", tmp_path / "archive")
    (error,) = report.failures.values()
    assert re.search(r"band g.*rows 128 to 256.*lossless", error)
    assert report.built == 1


def test_second_build_of_an_unchanged_survey_does_nothing(demo_survey: Path, demo_archive: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo_archive / "shards").iterdir()}
    report = build(demo_survey / "survey.toml", demo_archive)
    assert (report.built, report.unchanged, report.failures) == (0, 2, {})
    assert {path: path.stat().st_mtime_ns for path in (demo_archive / "shards").iterdir()} == before


def test_changed_tile_is_rebuilt_and_its_old_shard_is_removed(survey_copy: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    build(survey_copy / "survey.toml", archive)
    path = sorted(survey_copy.glob("*/*_cat.fits"))[0]
    catalog = Table.read(path)
    gone = int(catalog["COADD_OBJECT_ID"][0])
    catalog[1:].write(path, overwrite=True)
    report = build(survey_copy / "survey.toml", archive)
    assert (report.built, report.unchanged) == (1, 1)
    generations = sorted(path.name.split(".")[-2] for path in (archive / "shards").iterdir())
    assert generations == ["1", "2"]
    with Index(archive) as index:
        ids = np.concatenate([[gone], np.asarray(catalog["COADD_OBJECT_ID"][1:])])
        assert (index.find(ids).tile_id >= 0).tolist() == [False] + [True] * (len(ids) - 1)


def test_only_the_named_tiles_are_built_or_forced(demo_survey: Path, tmp_path: Path) -> None:
    tile = sorted(path.name for path in demo_survey.iterdir() if path.is_dir())[1]
    for generation, force in ((1, False), (2, True)):
        report = build(demo_survey / "survey.toml", tmp_path / "a", tiles=[tile], force=force)
        assert report.built == 1
        assert [path.name for path in (tmp_path / "a/shards").iterdir()] == [f"{tile}.{generation}.h5"]
    with pytest.raises(RecipeError, match="no tile NOWHERE"):
        build(demo_survey / "survey.toml", tmp_path / "a", tiles=["NOWHERE"])


def test_recipe_with_other_settings_is_refused_and_the_error_names_the_differences(
    survey_copy: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    build(survey_copy / "survey.toml", archive)
    edit(survey_copy, quantization="4", size='"30 arcsec"')
    with pytest.raises(
        RecipeError, match=r"cutout.size was \"1 arcmin\", is \"30 arcsec\".*quantization was 16.0, is 4"
    ):
        build(survey_copy / "survey.toml", archive)


def test_worker_that_dies_on_a_tile_fails_only_that_tile(demo_survey: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_first_writer() -> None:
        while not killed:
            for part in (tmp_path / "archive").glob("shards/.*.part"):
                killed.append(int(part.name.split(".")[-2]))
                os.kill(killed[0], signal.SIGKILL)
                break

    killer = threading.Thread(target=kill_first_writer)
    killer.start()
    report = build(demo_survey / "survey.toml", tmp_path / "archive", retries=0)
    killer.join()
    assert report.built == 1
    assert re.search("worker process died.*killed", *report.failures.values())
    report = build(demo_survey / "survey.toml", tmp_path / "archive")
    assert (report.built, report.unchanged, report.failures) == (1, 1, {})


def test_worker_that_dies_between_tiles_fails_no_tile(demo_survey: Path, tmp_path: Path) -> None:
    def kill_idle_worker(event: BuildEvent) -> None:
        (worker,) = multiprocess.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    report = build(demo_survey / "survey.toml", tmp_path / "archive", on_tile=kill_idle_worker)
    assert (report.built, report.failures) == (2, {})


def test_command_line_prints_its_report_and_exits_with_the_documented_status(survey_copy: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    recipe, archive = str(survey_copy / "survey.toml"), str(tmp_path / "archive")
    built = run(main, ["build", recipe, archive, "--json"])
    assert built.exit_code == 0
    report = json.loads(built.stdout)
    assert report["built"] == 2
    assert "[2/2] tile DEM" in built.stderr
    told = json.loads(run(main, ["status", archive, "--json"]).stdout)
    assert (told["built"], told["stored"], told["size"]) == (2, report["stored"], 228)
    next(survey_copy.glob("*/*_cat.fits")).unlink()
    failed = run(main, ["build", recipe, archive])
    assert failed.exit_code == 1
    assert "1 unchanged, 1 failed" in failed.stdout
    wrong = run(main, ["build", str(tmp_path / "nothing.toml"), archive])
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: recipe ")
    assert wrong.stderr.count("\n") == 1
