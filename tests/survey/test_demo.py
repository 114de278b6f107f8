"""The synthetic survey agrees with its description."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table, vstack
from astropy.wcs import WCS
from PIL import Image

from archive_builder.survey.demo import make_survey

BANDS = "grizY"
SIZE = 560
OBJECTS = 130


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("demo"), tiles=4, tile_size=SIZE, objects=OBJECTS, seed=5).parent


def tile_folders(survey: Path) -> list[Path]:
    return sorted(path for path in survey.iterdir() if path.is_dir())


def first_tile(survey: Path) -> Path:
    return survey / "DEM033600-280000"


def band_file(tile: Path, band: str) -> Path:
    return tile / f"{tile.name}_r1p01_{band}.fits.fz"


def pixels(tile: Path, band: str, hdu: str = "SCI") -> np.ndarray:
    with fits.open(band_file(tile, band)) as file:
        return file[hdu].data


def header(tile: Path, band: str) -> fits.Header:
    with fits.open(band_file(tile, band)) as file:
        return file["SCI"].header


def catalog(tile: Path) -> Table:
    return Table.read(tile / f"{tile.name}_r1p01_cat.fits")


def pixel_positions(tile: Path, table: Table) -> tuple[np.ndarray, np.ndarray]:
    return WCS(header(tile, "i")).all_world2pix(table["ALPHAWIN_J2000"], table["DELTAWIN_J2000"], 0)


def depth_in(tile: Path, table: Table) -> np.ndarray:
    x, y = pixel_positions(tile, table)
    return np.minimum(np.minimum(x, y), SIZE - 1 - np.maximum(x, y))


def measured_background(image: np.ndarray) -> sep.Background:
    blank = np.isnan(image)
    filled = np.where(blank, 0.0, image).astype(np.float32)
    return sep.Background(filled, mask=blank, bw=128, bh=128, fw=3, fh=3)


def saturated_star(tile: Path) -> tuple[int, int]:
    table = catalog(tile)
    star = table[[np.argmin(table["MAG_AUTO_I"])]]
    x, y = pixel_positions(tile, star)
    return round(float(x[0])), round(float(y[0]))


def peak_offset(image: np.ndarray, x: float, y: float) -> float:
    """Return the distance of the brightest of the 11 x 11 pixels around a position, px."""
    box = Cutout2D(image, (x, y), 11, mode="partial", fill_value=-np.inf)
    row, column = np.unravel_index(np.argmax(box.data), box.data.shape)
    peak_x, peak_y = box.to_original_position((column, row))
    return float(np.hypot(peak_x - x, peak_y - y))


def aperture_flux(image: np.ndarray, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return the light within a radius of positions, minus the light around them."""
    return sep.sum_circle(np.ascontiguousarray(image), x, y, radius, bkgann=(radius + 2, radius + 8))[0]


# ---- the files


def test_every_tile_has_five_bands_a_picture_and_a_catalogue(survey):
    folders = tile_folders(survey)
    assert len(folders) == 4
    for tile in folders:
        endings = [f"{band}.fits.fz" for band in BANDS] + ["irg.tiff", "cat.fits"]
        assert {path.name for path in tile.iterdir()} == {f"{tile.name}_r1p01_{ending}" for ending in endings}


@pytest.mark.parametrize("band", BANDS)
def test_images_have_the_hdus_and_the_compression_of_fpack(survey, band):
    with fits.open(band_file(first_tile(survey), band), disable_image_compression=True) as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "SCI", "MSK", "WGT"]
        assert file[0].header["NAXIS"] == 0
        assert [hdu.header["ZCMPTYPE"] for hdu in file[1:]] == ["RICE_1"] * 3
        assert [hdu.header["ZBITPIX"] for hdu in file[1:]] == [-32, 32, -32]
        assert file["SCI"].header["ZVAL3"] == 16.0
        assert file["SCI"].header["FILTER"].startswith(band)
        assert file["SCI"].header["TILENAME"] == "DEM033600-280000"


def test_a_pixel_is_0_263_arcsec(survey):
    scales = WCS(header(first_tile(survey), "g")).proj_plane_pixel_scales()
    assert [scale.to_value("arcsec") for scale in scales] == pytest.approx([0.263, 0.263])


def test_the_patterns_of_the_recipe_find_the_files(survey):
    recipe = tomllib.loads((survey / "survey.toml").read_text())
    tile = first_tile(survey)
    images = [recipe["survey"]["image"].format(tile=tile.name, band=band) for band in recipe["survey"]["bands"]]
    others = [recipe[table][key].format(tile=tile.name) for table, key in (("survey", "color"), ("catalog", "path"))]
    found = [path for pattern in images + others for path in survey.glob(pattern)]
    assert sorted(found) == sorted(tile.iterdir())
    assert set(list(recipe["catalog"].values())[1:]) <= set(catalog(tile).colnames)


def test_equal_arguments_give_equal_bytes_and_another_seed_does_not(tmp_path):
    first, again, other = (
        make_survey(tmp_path / name, tiles=1, tile_size=256, objects=10, seed=seed).parent
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    names = [path.relative_to(first) for path in sorted(first.rglob("*.*"))]
    assert len(names) == 8
    for name in names:
        assert (first / name).read_bytes() == (again / name).read_bytes()
        if name.suffix != ".toml":
            assert (first / name).read_bytes() != (other / name).read_bytes()


def test_a_tile_keeps_its_noise_and_its_star_when_the_survey_grows(survey, tmp_path):
    alone = make_survey(tmp_path, tiles=1, tile_size=SIZE, objects=OBJECTS, seed=5).parent
    assert saturated_star(first_tile(alone)) == saturated_star(first_tile(survey))
    weights = [pixels(first_tile(where), "r", "WGT") for where in (alone, survey)]
    assert np.array_equal(*weights)


# ---- the catalogues


def test_every_tile_has_the_requested_number_of_objects_and_no_id_twice(survey):
    tables = [catalog(tile) for tile in tile_folders(survey)]
    assert [len(table) for table in tables] == [OBJECTS] * 4
    ids = np.concatenate([table["COADD_OBJECT_ID"] for table in tables])
    assert ids.dtype.kind == "i"
    assert len(np.unique(ids)) == 4 * OBJECTS


def test_ids_have_gaps(survey):
    ids = np.sort(catalog(first_tile(survey))["COADD_OBJECT_ID"])
    assert np.diff(ids).max() > 2


def test_an_object_is_catalogued_by_the_tile_where_it_lies_deepest_inside(survey):
    folders = tile_folders(survey)
    for tile in folders:
        depths = np.array([depth_in(other, catalog(tile)) for other in folders])
        assert {folders[best] for best in np.argmax(depths, axis=0)} == {tile}


def test_objects_lie_up_to_the_edge_of_the_survey(survey):
    depth = np.concatenate([depth_in(tile, catalog(tile)) for tile in tile_folders(survey)])
    assert 0.0 < depth.min() + 0.5 < 10.0
    assert np.count_nonzero(depth < 114) > 0.2 * len(depth)


def test_pixel_columns_of_the_catalogue_agree_with_the_wcs(survey):
    for tile in tile_folders(survey):
        table = catalog(tile)
        x, y = pixel_positions(tile, table)
        assert np.allclose(table["XWIN_IMAGE"], x + 1, atol=1e-6)
        assert np.allclose(table["YWIN_IMAGE"], y + 1, atol=1e-6)


def test_stars_have_the_size_of_the_psf_and_galaxies_are_larger(survey):
    table = vstack([catalog(tile) for tile in tile_folders(survey)])
    bright = table[table["MAG_AUTO_I"] < 21]
    stars = bright["CLASS_STAR_I"] > 0.5
    assert 0.0 < np.count_nonzero(stars) < len(bright)
    assert bright["FLUX_RADIUS_I"][stars].max() < bright["FLUX_RADIUS_I"][~stars].min()


# ---- the sky


def isolated(tile: Path, brighter_than: float) -> Table:
    """Return bright, unsaturated objects far from the tile's edge, its hole and disturbing objects."""
    table = vstack([catalog(tile), *(catalog(other) for other in tile_folders(tile.parent) if other != tile)])
    x, y = pixel_positions(tile, table)
    magnitude = np.asarray(table["MAG_AUTO_I"])
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(len(table))
    disturbing = np.where(magnitude < 14.5, 90.0, 25.0) * (magnitude < magnitude[:, None] + 3.0)
    chosen = np.all(distance > disturbing, axis=1) & (depth_in(tile, table) > 40)
    chosen &= (magnitude < brighter_than) & (magnitude > 15.0)
    hole = np.isnan(pixels(tile, "i"))
    for k in np.flatnonzero(chosen):
        chosen[k] = not Cutout2D(hole, (x[k], y[k]), 61, mode="partial", fill_value=0).data.any()
    return table[chosen & (table["TILENAME"] == tile.name)]


def test_catalogued_sources_are_where_the_images_peak(survey):
    checked = 0
    for tile in tile_folders(survey):
        image, table = pixels(tile, "i"), isolated(tile, 21.5)
        offsets = [peak_offset(image, x, y) for x, y in zip(*pixel_positions(tile, table), strict=True)]
        assert max(offsets, default=0.0) < 1.8
        checked += len(offsets)
    assert checked >= 8


@pytest.mark.parametrize("band", BANDS)
def test_images_hold_the_light_of_the_catalogue(survey, band):
    difference = []
    for tile in tile_folders(survey):
        table = isolated(tile, 20.5)
        table = table[table["CLASS_STAR_I"] > 0.5]  # nearly all of a star's light is in the aperture
        flux = aperture_flux(pixels(tile, band), *pixel_positions(tile, table), 12.0)
        magnitude = table.columns[f"MAG_AUTO_{band.upper()}"]
        difference.append(30.0 - 2.5 * np.log10(flux) - magnitude)
    assert len(np.concatenate(difference)) >= 5
    assert abs(np.median(np.concatenate(difference))) < 0.1


def test_neighbouring_tiles_show_the_same_source_at_the_same_place_on_the_sky(survey):
    seen = []
    for tile in tile_folders(survey):
        table = isolated(tile, 20.5)
        for other in tile_folders(survey):
            shared = table[depth_in(other, table) > 15] if other != tile else table[:0]
            images = [pixels(where, "i") for where in (tile, other)]
            places = [np.transpose(pixel_positions(where, shared)) for where in (tile, other)]
            for here, there in zip(*places, strict=True):
                if not np.isnan(Cutout2D(images[1], there, 30, mode="partial").data).any():
                    assert peak_offset(images[1], *there) < 1.8
                    at = (here[:, None], there[:, None])
                    seen.append([aperture_flux(images[k], *at[k], 5.0)[0] for k in (0, 1)])
    assert len(seen) >= 4
    assert np.allclose(*np.transpose(seen), rtol=0.1)


def test_a_source_has_the_same_shape_in_two_bands(survey):
    places = [
        (tile, x, y)
        for tile in tile_folders(survey)
        for x, y in zip(*pixel_positions(tile, isolated(tile, 20.0)), strict=True)
    ]
    assert len(places) >= 6
    for tile, x, y in places:
        g, i, weight_g, weight_i = (
            Cutout2D(pixels(tile, band, hdu), (x, y), 15).data for hdu in ("SCI", "WGT") for band in "gi"
        )
        ratio = np.sum(g * i) / np.sum(i * i)
        variance = 1.0 / weight_g + ratio**2 / weight_i
        assert np.mean((g - ratio * i) ** 2 / variance) < 1.6
        assert np.mean((i - np.mean(i)) ** 2 * weight_i) > 5.0


def test_a_saturated_star_has_a_flat_top_and_bleeds_along_its_column(survey):
    for tile in tile_folders(survey):
        x, y = saturated_star(tile)
        image, level = pixels(tile, "i"), header(tile, "i")["SATURATE"]
        assert np.nanmax(image) == pytest.approx(level, rel=1e-4)
        full = image > 0.9999 * level
        assert full[y, x - 2 : x + 3].all()
        along, across = np.count_nonzero(full[:, x]), np.count_nonzero(full[y])
        assert along > 1.5 * across
        assert np.array_equal(full, pixels(tile, "i", "MSK") & 2 > 0)


def test_the_first_row_of_the_picture_is_the_top_of_the_sky(survey):
    for tile in tile_folders(survey):
        with Image.open(tile / f"{tile.name}_r1p01_irg.tiff") as picture:
            assert (picture.mode, picture.size) == ("RGB", (SIZE, SIZE))
            assert picture.info["compression"] == "jpeg"
            rows = np.asarray(picture)
        x, y = saturated_star(tile)
        assert rows[SIZE - 1 - y, x].min() > 240
        assert rows[y, x].max() < 240


def test_the_picture_shows_i_r_and_g_as_red_green_and_blue(survey):
    tile = tile_folders(survey)[-1]
    with Image.open(tile / f"{tile.name}_r1p01_irg.tiff") as picture:
        channels = np.asarray(picture)[::-1].transpose(2, 0, 1).astype(float)
    noise = np.array([np.clip(pixels(tile, band), -20, 20)[:100].ravel() for band in "irg"])
    assert np.isfinite(noise).all()
    correlation = np.corrcoef(channels[:, :100].reshape(3, -1), noise)[:3, 3:]
    assert np.argmax(correlation, axis=1).tolist() == [0, 1, 2]


# ---- noise and gaps


@pytest.mark.parametrize("band", BANDS)
def test_the_weight_is_one_over_the_square_of_the_measured_noise(survey, band):
    for tile in tile_folders(survey):
        weight = pixels(tile, band, "WGT")
        rms = measured_background(pixels(tile, band)).rms()
        ratio = (rms * np.sqrt(weight))[weight > 0]
        assert np.median(ratio) == pytest.approx(1.0, abs=0.12)


def test_noise_differs_between_tiles_and_within_a_tile(survey):
    typical = []
    for tile in tile_folders(survey):
        rms = measured_background(pixels(tile, "r")).rms()
        assert rms.max() > 1.3 * rms.min()
        typical.append(np.median(rms))
    assert max(typical) > 1.05 * min(typical)
    assert 2.6 * 0.7 < min(typical) < max(typical) < 2.6 * 1.4


def test_noise_is_correlated_with_the_next_pixel_but_not_beyond_the_kernel(survey):
    # In Y the noise buries nearly every source; pixels of 3 times the noise or more are left out.
    image = pixels(first_tile(survey), "Y") * np.sqrt(pixels(first_tile(survey), "Y", "WGT"))
    image[~(np.abs(image) < 3.0)] = np.nan

    def correlation(dy: int, dx: int) -> float:
        product = image[dy:, dx:] * image[: SIZE - dy, : SIZE - dx]
        return float(np.nanmean(product) / np.nanmean(image**2))

    assert correlation(0, 1) == pytest.approx(0.29, abs=0.08)
    assert correlation(1, 0) == pytest.approx(0.29, abs=0.08)
    assert abs(correlation(0, 5)) < 0.08
    assert abs(correlation(5, 0)) < 0.08


def test_the_first_tile_has_a_hole_without_data_and_without_weight(survey):
    tile = first_tile(survey)
    hole = np.isnan(pixels(tile, "g"))
    assert 0.03 < hole.mean() < 0.07
    for band in BANDS:
        assert np.array_equal(np.isnan(pixels(tile, band)), hole)
        assert np.array_equal(pixels(tile, band, "WGT") == 0.0, hole)
        assert np.array_equal(pixels(tile, band, "MSK") & 1 > 0, hole)


def test_some_catalogued_objects_lie_in_the_hole(survey):
    tile = first_tile(survey)
    x, y = np.rint(pixel_positions(tile, catalog(tile))).astype(int).clip(0, SIZE - 1)
    assert np.count_nonzero(np.isnan(pixels(tile, "g"))[y, x]) >= 1


def test_the_mask_is_clear_outside_the_hole_and_the_saturated_stars(survey):
    for tile in tile_folders(survey):
        mask, image = pixels(tile, "z", "MSK"), pixels(tile, "z")
        flagged = np.isnan(image) | (image > 0.9999 * header(tile, "z")["SATURATE"])
        assert np.array_equal(mask != 0, flagged)


def test_the_recipe_skips_a_tenth_of_the_default_survey_for_noise_or_blank_pixels(tmp_path):
    recipe = tomllib.loads(make_survey(tmp_path).read_text())["quality"]
    noisy, blank = [], []
    for tile in tile_folders(tmp_path):
        r, i = pixels(tile, "r"), pixels(tile, "i")
        x, y = np.rint(pixel_positions(tile, catalog(tile))).astype(int)
        at = np.clip(y, 0, 999), np.clip(x, 0, 999)
        aperture_rms = measured_background(i).rms()[at] * np.sqrt(np.pi) * 0.975 / 0.263
        depth = 30.0 - 2.5 * np.log10(5.0 * aperture_rms)
        noise = measured_background(r).rms()[at]
        noisy.append((noise > recipe["max_background_rms"]["r"]) | (depth < recipe["min_depth"]["i"]))
        padded = np.pad(np.isnan(r), 114, constant_values=True)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (228, 228))
        blank.extend(windows[b, a].mean() > recipe["max_blank_fraction"] for a, b in zip(x, y, strict=True))
    skipped = np.concatenate(noisy) | np.array(blank)
    assert 0.05 < skipped.mean() < 0.15
    assert np.mean(np.concatenate(noisy)) > 0.02
    assert np.mean(blank) > 0.005


# ---- refused arguments


@pytest.mark.parametrize(
    ("senseless", "named"),
    [
        ({"tiles": 0}, "at least one tile"),
        ({"tile_size": 255}, "at least 256 px"),
        ({"objects": 0}, "1 to 10000 objects"),
        ({"objects": 10001}, "1 to 10000 objects"),
        ({"seed": -1}, "seed"),
        ({"tiles": 20000, "tile_size": 10000}, "90 degrees"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line_before_any_file_is_written(tmp_path, senseless, named):
    with pytest.raises(ValueError, match=named) as refusal:
        make_survey(tmp_path / "demo", **senseless)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "demo").exists()


def test_a_survey_does_not_overwrite_another(survey):
    before = sorted(survey.rglob("*"))
    with pytest.raises(FileExistsError, match="holds a synthetic survey"):
        make_survey(survey, tiles=1, tile_size=256, objects=10)
    assert sorted(survey.rglob("*")) == before
