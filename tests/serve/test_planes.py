"""Weights and masks: the survey's values in every layout, and the errors for missing planes."""

import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archive_builder import Archive, RequestError
from archive_builder.builder.driver import build
from archive_builder.builder.one_tile import TileJob, TileResult, run_job
from archive_builder.measure.quantize import Flags, LogScaled
from archive_builder.serve.cutout import Cutout
from archive_builder.store.contents import Contents
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

BANDS = "grizY"
SIDE = 400
"""Side of the tile, px."""

SIZE = 90
"""Side of the archived cutouts, px."""

ONE_PER_CENT = 0.01


def write_recipe(survey: Path, to: Path, **values: str) -> Path:
    """Write a copy of a survey's recipe without quality cuts and with other values, in TOML syntax; return its path."""
    text = (survey / "survey.toml").read_text()
    text = (
        re.sub(r"(?m)^(max_background_rms|min_depth|max_blank_fraction) .*\n", "", text) + 'planes = ["WGT", "MSK"]\n'
    )
    for key, value in ({"root": f'"{survey}"', "size": str(SIZE)} | values).items():
        text, n = re.subn(rf"(?m)^{key}\s*=.*\n", f"{key} = {value}\n" if value else "", text)
        assert n == 1, key
    to.write_text(text)
    return to


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of one tile. Do not change it."""
    folder = tmp_path_factory.mktemp("planes") / "survey"
    make_survey(folder, tiles=1, tile_size=SIDE, objects=50, seed=7)
    return folder


@dataclass(frozen=True)
class Kept:
    """An archive with planes, and the planes of its source."""

    archive: Archive
    source: dict[str, NDArray]
    lossless: bool
    is_mosaic: bool


def read_source(survey: Path) -> dict[str, NDArray]:
    """Return each plane of the tile (bands, ny, nx)."""
    paths = [next(survey.glob(f"*/*_{band}.fits.fz")) for band in BANDS]
    return {plane: np.array([fits.getdata(path, plane) for path in paths]) for plane in ("SCI", "WGT", "MSK")}


@pytest.fixture(scope="module", params=["mosaic 16", "stamps 4", "mosaic lossless", "stamps lossless"])
def kept(request: pytest.FixtureRequest, survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("planes")
    layout, quantization = request.param.split()
    lossless = quantization == "lossless"
    recipe = write_recipe(
        survey,
        folder / "survey.toml",
        layout=f'"{layout}"',
        quantization=f'"{quantization}"' if lossless else quantization,
    )
    report = build(recipe, folder / "archive")
    assert (report.stored, report.failures) == (50, {})
    with Archive(folder / "archive") as archive:
        yield Kept(archive, read_source(survey), lossless, layout == "mosaic")


def objects(archive: Archive) -> list[int]:
    return [int(object_id) for object_id in archive.cone_search((54.0, -28.0), "1 deg")["object_id"]]


def window(plane: NDArray, cutout: Cutout, off: float) -> NDArray:
    """Cut the window of a cutout out of a padded plane of the tile."""
    x, y = (n + SIDE for n in cutout.origin)
    ny, nx = cutout.shape
    bands = [BANDS.index(band) for band in cutout.bands]
    padded = np.pad(plane[bands], ((0, 0), (SIDE, SIDE), (SIDE, SIDE)), constant_values=off)
    return padded[:, y : y + ny, x : x + nx]


def assert_planes_are_the_sources(cutout: Cutout, kept: Kept) -> None:
    weight, mask = window(kept.source["WGT"], cutout, 0), window(kept.source["MSK"], cutout, -1)
    assert (cutout.weight.dtype, cutout.mask.dtype) == (np.float32, np.int32)
    assert cutout.weight.shape == cutout.mask.shape == cutout.data.shape
    np.testing.assert_array_equal(cutout.mask, mask)
    np.testing.assert_array_equal(cutout.weight == 0, weight == 0)
    np.testing.assert_allclose(cutout.weight, weight, rtol=0 if kept.lossless else ONE_PER_CENT * 1.001)


def test_planes_of_every_cutout_equal_the_sources(kept: Kept) -> None:
    hanging, holes, saturated = 0, 0, 0
    for object_id in objects(kept.archive):
        cutout = kept.archive.get(object_id)
        assert_planes_are_the_sources(cutout, kept)
        hanging += bool((cutout.mask == -1).any())
        holes += bool((cutout.mask == 1).any())
        saturated += bool((cutout.mask == 2).any())
        np.testing.assert_array_equal(np.isnan(cutout.data), np.isnan(window(kept.source["SCI"], cutout, np.nan)))
        assert (cutout.weight[np.isnan(cutout.data)] == 0).all()
    assert min(hanging, holes, saturated) > 0


def test_only_images_have_the_images_unit(kept: Kept) -> None:
    hdus = kept.archive.get(objects(kept.archive)[0]).to_hdus()
    assert {hdu.name[:3]: hdu.header.get("BUNIT") for hdu in hdus[1:]} == {"SCI": "adu", "WGT": None, "MSK": None}


@settings(max_examples=30)
@given(data=st.data())
def test_planes_of_a_smaller_cutout_and_of_some_bands_equal_the_sources(kept: Kept, data: st.DataObject) -> None:
    object_id = data.draw(st.sampled_from(objects(kept.archive)))
    shape = data.draw(st.tuples(st.integers(1, SIZE), st.integers(1, SIZE)))
    bands = data.draw(st.permutations(BANDS))[: data.draw(st.integers(1, 5))]
    cutout = kept.archive.get(object_id, size=shape, bands=bands)
    assert cutout.bands == tuple(bands)
    assert_planes_are_the_sources(cutout, kept)


def test_mosaic_serves_planes_at_any_size_and_position(kept: Kept) -> None:
    if not kept.is_mosaic:
        with pytest.raises(RequestError):
            kept.archive.at((54.0, -28.0), size=5)
        return
    # Fifty cutouts of 90 px together touch every chunk of 128 px of the tile.
    assert_planes_are_the_sources(kept.archive.at((54.0, -28.0), size=(333, 200), bands="Yg"), kept)
    assert_planes_are_the_sources(kept.archive.get(objects(kept.archive)[-1], size=151), kept)


def test_planes_can_be_read_after_the_archive_is_closed_and_after_pickling(kept: Kept) -> None:
    with Archive(kept.archive.path) as archive:
        cutout = archive.get(objects(archive)[0], size=33)
        sent = pickle.dumps(cutout)
    assert_planes_are_the_sources(cutout, kept)
    received = pickle.loads(sent)
    assert_planes_are_the_sources(received, kept)
    np.testing.assert_array_equal(received.data, cutout.data)
    assert received.to_bytes() == cutout.to_bytes()


def test_pickled_cutout_keeps_the_planes_that_were_read(kept: Kept) -> None:
    cutout = kept.archive.get(objects(kept.archive)[0], size=20)
    weight = cutout.weight.copy()
    received = pickle.loads(pickle.dumps(cutout))
    np.testing.assert_array_equal(received.__dict__["weight"], weight)


def as_text(value: str | bytes) -> str:
    """Return an HDF5 string, of fixed or variable length, as str."""
    return value.decode() if isinstance(value, bytes) else value


def test_shard_follows_the_written_format(kept: Kept) -> None:
    (path,) = (kept.archive.path / "shards").iterdir()
    with h5py.File(path) as plain:
        assert Contents(plain).violations() == []
        assert [as_text(plane) for plane in plain.attrs["planes"]] == ["SCI", "WGT", "MSK", "COLOR"]
        expected = {"weight": ("exact", "float32") if kept.lossless else ("log", "int16"), "mask": ("flags", "int32")}
        for group, (encoding, dtype) in expected.items():
            cutouts = plain[group]["cutouts"]
            assert (as_text(cutouts.attrs["encoding"]), cutouts.dtype.name) == (encoding, dtype)
            assert ("pixels" in plain[group], "written" in plain[group]) == (kept.is_mosaic,) * 2


def test_plain_h5py_reads_the_planes_by_the_written_format(kept: Kept) -> None:
    (path,) = (kept.archive.path / "shards").iterdir()
    with h5py.File(path) as plain:
        ids = plain["objects/object_id"][...]
        assert len(ids) == 50
        weight, mask = plain["weight/cutouts"], plain["mask/cutouts"]
        scale, blank = weight.attrs["scale"][:, None, None], weight.attrs["blank"]
        for row, object_id in enumerate(ids):
            cutout = kept.archive.get(int(object_id))
            np.testing.assert_array_equal(mask[row], cutout.mask)
            stored = weight[row]
            off = np.isnan(stored) if kept.lossless else stored == blank
            decoded = np.where(off, 0, stored if kept.lossless else np.exp(scale * stored))
            np.testing.assert_allclose(cutout.weight, decoded, rtol=3e-6)
            if kept.lossless:
                assert np.isnan(blank)


# ---- one plane only, or none


def test_archive_can_keep_the_mask_only(survey: Path, tmp_path: Path) -> None:
    recipe = write_recipe(survey, tmp_path / "survey.toml", planes='["MSK"]', color="")
    assert build(recipe, tmp_path / "archive").failures == {}
    with Archive(tmp_path / "archive") as archive:
        cutout = archive.get(objects(archive)[0], size=31)
        np.testing.assert_array_equal(cutout.mask, window(read_source(survey)["MSK"], cutout, -1))
        assert cutout.planes == ("SCI", "MSK")
        with pytest.raises(RequestError, match=r"no WGT .*planes\.weight"):
            _ = cutout.weight
        assert [hdu.header["EXTNAME"] for hdu in cutout.to_hdus()[1:3]] == ["SCI_g", "MSK_g"]


@pytest.mark.parametrize(("name", "plane"), [("weight", "WGT"), ("mask", "MSK")])
def test_error_for_a_missing_plane_names_the_recipes_key(demo_archive: Path, name: str, plane: str) -> None:
    with Archive(demo_archive) as archive:
        table = archive.cone_search((54.0, -28.0), "1 deg")
        cutout = archive.get(int(table["object_id"][table["status"] == "stored"][0]))
        with pytest.raises(RequestError, match=rf"no {plane} .*planes\.{name}") as caught:
            getattr(cutout, name)
    assert "\n" not in str(caught.value)


# ---- contents of the survey's files


def rewrite(survey: Path, band: str, change: Callable[[fits.HDUList], None]) -> None:
    """Rewrite one band's file as plain FITS with a change."""
    (path,) = survey.glob(f"*/*_{band}.fits.fz")
    with fits.open(path) as packed:
        images = [fits.ImageHDU(hdu.data, hdu.header, name=hdu.name) for hdu in packed[1:]]
    hdus = fits.HDUList([fits.PrimaryHDU(), *images])
    change(hdus)
    path.unlink()
    hdus.writeto(path.with_suffix(""))


def build_one(survey: Path, archive: Path, **values: str) -> TileResult:
    """Build a survey's only tile in this process."""
    (archive / "shards").mkdir(parents=True)
    recipe = load_recipe(write_recipe(survey, archive.with_suffix(".toml"), **values))
    return run_job(TileJob(discover(recipe).tiles[0], recipe, SIZE, archive, 1))


def shards(archive: Path) -> list[Path]:
    """Return all files in the folder of shards."""
    return list((archive / "shards").iterdir())


@pytest.fixture
def own_survey(tmp_path: Path) -> Path:
    """Folder of a small survey that the test may change."""
    make_survey(tmp_path / "survey", tiles=1, tile_size=256, objects=10, seed=8)
    return tmp_path / "survey"


@pytest.mark.parametrize("plane", ["WGT", "MSK"])
def test_band_without_a_plane_fails_its_tile_with_one_line(own_survey: Path, tmp_path: Path, plane: str) -> None:
    def remove(hdus: fits.HDUList) -> None:
        del hdus[plane]

    rewrite(own_survey, "i", remove)
    result = build_one(own_survey, tmp_path / "archive")
    assert result.error is not None
    assert re.search(rf"_i\.fits: has no HDU {plane} \(it has 0 PRIMARY, 1 SCI, 2 \w+\): ", result.error)
    assert "\n" not in result.error
    assert shards(tmp_path / "archive") == []


def test_plane_of_another_size_fails_its_tile_with_one_line(own_survey: Path, tmp_path: Path) -> None:
    def crop(hdus: fits.HDUList) -> None:
        hdus["MSK"].data = hdus["MSK"].data[:-1]

    rewrite(own_survey, "z", crop)
    result = build_one(own_survey, tmp_path / "archive")
    assert result.error == (
        "band z's MSK is 256 x 255 px but band g is 256 x 256: all bands of a tile must share their pixels"
    )


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.uint8, [0, 1, 128, 255]),
        (np.int16, [0, 1, -1, -(2**15), 2**15 - 1]),
        (np.uint16, [0, 1, 2**15, 2**16 - 1]),
        (np.int32, [0, 1, -1, -(2**31), 2**31 - 1]),
        (np.uint32, [0, 1, 2**30, 2**31 - 1]),
        (np.int64, [0, 1, -1, -(2**63), 2**63 - 1, 2**40]),
        (np.uint64, [0, 1, 2**63, 2**64 - 1, 2**40]),
        (np.uint32, [0, 2**31, 2**32 - 1]),
        (np.float32, [0.0, 1.0, 2.0**24]),
    ],
)
def test_masks_of_any_type_are_read_back_bit_for_bit(
    own_survey: Path, tmp_path: Path, dtype: type, values: list[float]
) -> None:
    flags = np.resize(np.array(values, dtype=dtype), (256, 256))

    def put(hdus: fits.HDUList) -> None:
        hdus["MSK"] = fits.ImageHDU(flags, hdus["MSK"].header, name="MSK")

    rewrite(own_survey, "r", put)
    assert build_one(own_survey, tmp_path / "archive").error is None
    with Shard(*shards(tmp_path / "archive")) as shard:
        out = np.empty((1, 256, 256), dtype=shard.dtype("MSK"))
        shard.read_window(0, 0, [1], out, "MSK")
        assert shard.dtype("MSK").itemsize == (8 if dtype in (np.int64, np.uint64, np.uint32) else 4)
    touched = written_pixels(tmp_path / "archive")
    np.testing.assert_array_equal(out[0][touched], flags[touched].astype(np.int64))
    assert touched.any()


def written_pixels(archive: Path) -> NDArray[np.bool_]:
    """Return True for the pixels of the mask in written chunks."""
    with h5py.File(*shards(archive)) as plain:
        return np.kron(plain["mask/written"][...], np.ones((128, 128), dtype=np.uint8)).astype(bool)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.float32, 0.5),
        (np.float64, 1e10),
        (np.float32, np.nan),
    ],
)
def test_mask_of_fractions_fails_its_tile_with_one_line(
    own_survey: Path, tmp_path: Path, dtype: type, value: float
) -> None:
    flags = np.zeros((256, 256), dtype=dtype)
    flags[200, 100] = value

    def put(hdus: fits.HDUList) -> None:
        hdus["MSK"] = fits.ImageHDU(flags, hdus["MSK"].header, name="MSK")

    rewrite(own_survey, "g", put)
    result = build_one(own_survey, tmp_path / "archive")
    assert result.error is not None
    assert result.error.endswith(
        "_g.fits: the mask has values that are not 32-bit integers: correct planes.mask, or remove it"
    )
    assert shards(tmp_path / "archive") == []


def test_weights_of_any_magnitude_keep_their_bound_and_invalid_ones_become_0(own_survey: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = (10.0 ** rng.uniform(-37, 37, (256, 256))).astype(np.float32)
    weights[:, ::7] = np.resize([0.0, -1.0, np.nan, np.inf, -np.inf], (256, 37))

    def put(hdus: fits.HDUList) -> None:
        hdus["WGT"].data = weights

    rewrite(own_survey, "g", put)
    assert build_one(own_survey, tmp_path / "archive").error is None
    touched = written_pixels(tmp_path / "archive")
    with Shard(*shards(tmp_path / "archive")) as shard:
        out = np.empty((1, 256, 256), dtype=np.float32)
        shard.read_window(0, 0, [0], out, "WGT")
    known = (weights > 0) & np.isfinite(weights)
    assert min((touched & ~known).sum(), (touched & known).sum()) > 1000
    assert (out[0][touched & ~known] == 0).all()
    np.testing.assert_allclose(out[0][touched & known], weights[touched & known], rtol=ONE_PER_CENT)


def test_lossless_weights_are_0_off_the_tile_and_in_its_holes(own_survey: Path, tmp_path: Path) -> None:
    assert build_one(own_survey, tmp_path / "archive", quantization='"lossless"').error is None
    with Shard(*shards(tmp_path / "archive")) as shard:
        out = np.full((5, 300, 300), 7, dtype=np.float32)
        shard.read_window(-30, -30, slice(0, 5), out, "WGT")
    assert (out[:, :30] == 0).all()
    assert (out[:, :, :30] == 0).all()
    assert np.isfinite(out).all()


positive = st.floats(np.float32(1e-37), np.float32(3e38), width=32)


@given(weights=st.lists(st.one_of(positive, st.sampled_from([0.0, -1.0, float("nan"), float("inf")])), min_size=1))
def test_error_of_a_weight_is_at_most_one_per_cent_and_0_stays_0(weights: list[float]) -> None:
    values = np.array(weights, dtype=np.float32)[None, None]
    codec, stored = LogScaled((0.0198,)), np.empty((1, 1, len(weights)), dtype=np.int16)
    codec.encode(values, stored)
    back = codec.decode(stored).astype(float)
    known = (values > 0) & np.isfinite(values)
    np.testing.assert_array_equal(back > 0, known)
    np.testing.assert_allclose(back[known], values[known], rtol=ONE_PER_CENT)


@given(flags=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1))
def test_flags_are_read_back_unchanged(flags: list[int]) -> None:
    values = np.array(flags, dtype=np.int32)[None, None]
    codec, stored = Flags((1.0,)), np.empty_like(values)
    codec.encode(values, stored)
    np.testing.assert_array_equal(codec.decode(stored), values)
