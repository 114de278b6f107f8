"""Lookup by object ID: pixels, places on the sky, errors, and use from many threads and processes."""

import os
import pickle
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archive_builder import (
    Archive,
    ArchiveError,
    CutoutTooLargeError,
    ObjectNotFoundError,
    ObjectSkippedError,
    RequestError,
)
from archive_builder.builder.driver import build
from archive_builder.cli.main import main
from archive_builder.store.shard_reader import Shard


@pytest.fixture
def archive(demo_archive: Path):
    with Archive(demo_archive) as opened:
        yield opened


def objects(archive: Path, skipped: bool = False) -> np.ndarray:
    """Return the IDs of all objects with a cutout, or of the skipped ones, read from the shards."""
    found = []
    for path in sorted((archive / "shards").iterdir()):
        with Shard(path) as shard:
            found.append((shard.skipped if skipped else shard.objects).object_id)
    return np.concatenate(found)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 10_000), ny=st.integers(1, 228), nx=st.integers(1, 228), bands=st.permutations("grizY"))
def test_cutout_of_any_size_is_cutout2d_of_the_tile(
    demo_survey: Path, archive: Archive, number: int, ny: int, nx: int, bands: list[str]
) -> None:
    ids = objects(archive.path)
    object_id = int(ids[number % len(ids)])
    cutout = archive.get(object_id, size=(ny, nx), bands=bands[:3])
    assert cutout.bands == tuple(bands[:3])
    assert cutout.data.dtype == np.float32
    for band, data in zip(cutout.bands, cutout.data, strict=True):
        image, header = fits.getdata(next((demo_survey / cutout.tile).glob(f"*_{band}.fits.fz")), "SCI", header=True)
        x, y = WCS(header).all_world2pix(cutout.ra, cutout.dec, 0)
        theirs = Cutout2D(image, (round(float(x)), round(float(y))), (ny, nx), mode="partial", fill_value=np.nan)
        np.testing.assert_array_equal(np.isnan(data), np.isnan(theirs.data))
        assert np.nanmax(np.abs(data.astype(float) - theirs.data), initial=0) <= cutout.step[band] / 2


SIP = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 2e-6, "A_0_2": -1e-6, "B_1_1": 3e-6, "CTYPE1": "RA---TAN-SIP"} | {
    "CTYPE2": "DEC--TAN-SIP"
}
TPV = {"PV1_0": 1e-5, "PV1_1": 1.0002, "PV1_4": 3e-3, "PV2_1": 0.9997, "PV2_5": -2e-3, "CTYPE1": "RA---TPV"} | {
    "CTYPE2": "DEC--TPV"
}


def survey_with(survey: Path, cards: dict[str, object]) -> Path:
    """Rewrite a survey's images as plain FITS with further cards in their headers."""
    for path in survey.glob("*/*.fits.fz"):
        with fits.open(path) as hdus:
            image = fits.ImageHDU(hdus["SCI"].data, hdus["SCI"].header, name="SCI")
        image.header.update(cards)
        path.unlink()
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(path.with_suffix(""))
    return survey


@pytest.mark.parametrize("cards", [{}, SIP, TPV], ids=["TAN", "SIP", "TPV"])
def test_pixels_of_a_cutout_have_the_sky_positions_of_the_tiles_pixels(
    survey_copy: Path, tmp_path: Path, cards: dict[str, object]
) -> None:
    survey = survey_with(survey_copy, cards)
    report = build(survey / "survey.toml", tmp_path / "archive")
    assert (report.built, report.failures) == (2, {})
    rng = np.random.default_rng(0)
    with Archive(tmp_path / "archive") as archive:
        for object_id in rng.choice(objects(archive.path), 10):
            cutout = archive.get(object_id, size=(int(rng.integers(1, 228)), int(rng.integers(1, 228))))
            tile = WCS(fits.getheader(next((survey / cutout.tile).glob("*_Y.fits")), "SCI"))
            ny, nx = cutout.data.shape[1:]
            x, y = rng.uniform(-0.5, nx - 0.5, 50), rng.uniform(-0.5, ny - 0.5, 50)
            for wcs in (cutout.wcs, WCS(cutout.header("Y"))):
                ours = np.array(wcs.all_pix2world(x, y, 0))
                theirs = np.array(tile.all_pix2world(x + cutout.origin[0], y + cutout.origin[1], 0))
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
            place = np.array(cutout.wcs.world_to_pixel(cutout.coord))
            assert np.abs(place - (nx // 2, ny // 2)).max() <= 0.5 + 1e-6


def test_header_keeps_the_tiles_cards_and_drops_those_of_the_file_format(demo_survey: Path, archive: Archive) -> None:
    cutout = archive.get(int(objects(archive.path)[0]), size=50, bands="r")
    tile = fits.getheader(next((demo_survey / cutout.tile).glob("*_r.fits.fz")), "SCI")
    ours = cutout.header("r")
    for keyword in ("FILTER", "MAGZERO", "CRVAL1", "CD1_1", "CTYPE2", "TILENAME"):
        assert ours[keyword] == tile[keyword]
    assert (ours["NAXIS1"], ours["NAXIS2"], ours["BITPIX"]) == (50, 50, -32)
    assert ours["CRPIX1"] == tile["CRPIX1"] - cutout.origin[0]
    leftovers = [k for k in ours if k.startswith(("ZTILE", "ZIMAGE", "ZCMP", "ZQUANT", "FZ", "CHECKSUM", "DATASUM"))]
    assert leftovers == []
    assert ours["OBJECT"] == str(cutout.object_id)
    with pytest.raises(RequestError, match="no band g"):
        cutout.header("g")


@pytest.mark.parametrize("size", [None, 64, "0.5arcmin", 20 * u.arcsec, (10, 30)])
def test_get_many_equals_get_of_each_id_in_the_order_of_the_ids(archive: Archive, size: object) -> None:
    ids = np.random.default_rng(1).choice(objects(archive.path), 30)  # repeats included
    many = archive.get_many(ids, size=size, bands="Yg")  # type: ignore[arg-type]
    assert many.dtype == np.float32
    for object_id, data in zip(ids, many, strict=True):
        np.testing.assert_array_equal(data, archive.get(object_id, size=size, bands="Yg").data)  # type: ignore[arg-type]


def test_get_many_of_no_ids_is_empty(archive: Archive) -> None:
    assert archive.get_many([], size=7).shape == (0, 5, 7, 7)


def test_get_many_raises_or_returns_nan_for_missing_cutouts(archive: Archive) -> None:
    good, skipped = int(objects(archive.path)[0]), int(objects(archive.path, skipped=True)[0])
    with pytest.raises(ObjectSkippedError):
        archive.get_many([good, skipped])
    with pytest.raises(ObjectNotFoundError):
        archive.get_many([good, 17])
    many = archive.get_many([17, good, skipped], size=9, missing="blank")
    assert np.isnan(many[[0, 2]]).all()
    np.testing.assert_array_equal(many[1], archive.get(good, size=9).data)


def test_locate_returns_tile_row_and_status(archive: Archive, demo_archive: Path) -> None:
    stored, skipped = 0, 0
    for path in (demo_archive / "shards").iterdir():
        with Shard(path) as shard:
            where = archive.locate(int(shard.objects.object_id[3]))
            assert (where.tile, where.row, where.status, where.shard) == (shard.info.tile, 3, "stored", path)
            stored += 1
            if len(shard.reason):
                where = archive.locate(int(shard.skipped.object_id[0]))
                assert where.status == {1: "noise", 2: "blank", 3: "outside"}[int(shard.reason[0])]
                skipped += 1
    assert (stored, skipped) == (2, 2)


def test_error_of_a_skipped_object_has_the_reason_and_the_noise(archive: Archive, demo_archive: Path) -> None:
    reasons = set()
    for path in (demo_archive / "shards").iterdir():
        with Shard(path) as shard:
            for row, object_id in enumerate(shard.skipped.object_id):
                with pytest.raises(ObjectSkippedError) as caught:
                    archive.get(int(object_id))
                assert caught.value.reason == {1: "noise", 2: "blank", 3: "outside"}[int(shard.reason[row])]
                np.testing.assert_array_equal(list(caught.value.rms.values()), shard.skipped.rms[row])
                again = pickle.loads(pickle.dumps(caught.value))
                assert str(again) == str(caught.value)
                reasons.add(caught.value.reason)
    assert reasons == {"noise", "blank"}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"size": 501}, CutoutTooLargeError, r"at most \d+ px"),
        ({"size": (5, 1000)}, CutoutTooLargeError, r"at most \d+ px"),
        ({"size": "3 arcmin"}, CutoutTooLargeError, r"at most \d+ px"),
        ({"size": -1}, RequestError, "size -1"),
        ({"bands": "gu"}, RequestError, "no band 'u'"),
        ({"bands": ""}, RequestError, "no band is given"),
        ({"bands": 5}, RequestError, "no band '5'"),
        ({"object_id": 1.5}, RequestError, "object ID 1.5 is not a 64-bit integer"),
        ({"object_id": "353000001.0"}, RequestError, "object ID '353000001.0' is not a 64-bit integer"),
        ({"object_id": 2**63}, RequestError, "is not a 64-bit integer"),
        ({"object_id": 2**70}, RequestError, "is not a 64-bit integer"),
        ({"object_id": -5}, ObjectNotFoundError, "object -5 is not in the archive"),
    ],
)
def test_invalid_request_is_an_error_on_one_line(
    archive: Archive, arguments: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        archive.get(**({"object_id": int(objects(archive.path)[0])} | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_folder_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="not a cutout archive"):
        Archive(tmp_path)


def test_archive_can_be_pickled_and_moved_to_another_folder(archive: Archive, tmp_path: Path) -> None:
    object_id = int(objects(archive.path)[0])
    with pickle.loads(pickle.dumps(archive)) as copy:
        np.testing.assert_array_equal(copy.get(object_id).data, archive.get(object_id).data)
    shutil.copytree(archive.path, tmp_path / "here").rename(tmp_path / "moved")
    with Archive(tmp_path / "moved") as moved:
        np.testing.assert_array_equal(moved.get(object_id).data, archive.get(object_id).data)
        assert moved.locate(object_id).shard.parent == tmp_path / "moved" / "shards"


def test_archive_works_in_a_forked_child(archive: Archive) -> None:
    ids = objects(archive.path)
    expected = archive.get_many(ids, size=16)
    with archive.reader._lock:  # another thread of the parent may hold the lock at the fork
        child = os.fork()
        if child == 0:
            same = np.array_equal(archive.get_many(ids, size=16), expected, equal_nan=True)
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(archive.get_many(ids, size=16), expected)


def test_archive_works_from_many_threads_with_one_shard_open(demo_archive: Path) -> None:
    ids = objects(demo_archive)
    with Archive(demo_archive, open_shards=1) as archive:
        expected = archive.get_many(ids, size=20)
        right, wrong = [], []

        def work(seed: int) -> None:
            for number in np.random.default_rng(seed).integers(0, len(ids), 40):
                same = np.array_equal(archive.get(ids[number], size=20).data, expected[number], equal_nan=True)
                (right if same else wrong).append(int(number))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(right) == 6 * 40
        assert archive.reader.open_shards == 1


def test_command_line_writes_fits_and_npy(archive: Archive, demo_archive: Path, tmp_path: Path) -> None:
    object_id = int(objects(demo_archive)[0])
    expected = archive.get(object_id, size="0.25arcmin", bands="ri").data
    for name in ("c.fits", "c.npy"):
        arguments = ["get", str(demo_archive), str(object_id), "--size", "0.25arcmin", "--bands", "ri", "-o"]
        done = CliRunner().invoke(main, [*arguments, str(tmp_path / name)])
        assert (done.exit_code, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), expected)
    with fits.open(tmp_path / "c.fits", checksum=True) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI_r", "SCI_i"]
        np.testing.assert_array_equal([hdu.data for hdu in hdus[1:]], expected)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["17", "-o", "c.fits"], 1, "object 17 is not in the archive"),
        (["FIRST", "-o", "c.gif"], 2, "end it in .fits"),
        (["FIRST", "--size", "5000", "-o", "c.fits"], 2, "ask for at most"),
        (["FIRST", "-o", "no/such/folder/c.fits"], 1, "cannot be written"),
    ],
)
def test_command_line_fails_with_one_line_and_leaves_no_file(
    demo_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], status: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    first = str(objects(demo_archive)[0])
    failed = CliRunner().invoke(main, ["get", str(demo_archive), *[first if a == "FIRST" else a for a in arguments]])
    assert failed.exit_code == status
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1
    assert words in failed.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_catalogued_id_has_an_answer(archive: Archive, demo_survey: Path) -> None:
    answered = 0
    for path in demo_survey.glob("*/*_cat.fits"):
        for object_id in Table.read(path)["COADD_OBJECT_ID"]:
            assert archive.locate(int(object_id)).tile == path.parent.name
            answered += 1
    assert answered == 120
