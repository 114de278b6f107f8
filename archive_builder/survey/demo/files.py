"""Files of a tile: images, colour picture, catalogue."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from PIL import Image

from archive_builder.survey.demo.camera import (
    BACKGROUND_RMS,
    BANDS,
    PIXEL_SCALE,
    PSF_FWHM,
    SATURATION,
    ZERO_POINT,
    FloatArray,
    PixelArray,
)
from archive_builder.survey.demo.light import PSF_HALF_LIGHT, Stamp, add_sources, saturate, stamps_on
from archive_builder.survey.demo.noise import NOISE_CELL, Hole, hole_on, noise_image, noise_mesh
from archive_builder.survey.demo.sources import Sources, draw_sources
from archive_builder.survey.demo.tiles import Draw, Tile, neighbours_of

NO_DATA_BIT, SATURATED_BIT = 1, 2
"""Bits of the MSK image: BADPIX_BPM and BADPIX_SATURATE of DES."""

FILTER_CARDS = {
    "g": "g DECam SDSS c0001 4720.0 1520.0",
    "r": "r DECam SDSS c0002 6415.0 1480.0",
    "i": "i DECam SDSS c0003 7835.0 1470.0",
    "z": "z DECam SDSS c0004 9260.0 1520.0",
    "Y": "Y DECam c0005 10095.0 1130.0",
}

QUANTIZE_LEVEL = 16.0
"""Quantization steps per background RMS, as with `fpack -q 16`."""

FIRST_OBJECT_ID = 353_000_000

COLOR_SCALE = {"i": 1.65, "r": 1.1, "g": 0.72}
"""Counts per display unit in red, green and blue: a typical galaxy becomes warm white."""


def make_tile(folder: Path, tile: Tile, layout: list[Tile], objects: int) -> None:
    """Write the images, the colour picture and the catalogue of one tile."""
    folder.mkdir(parents=True)
    neighbours = neighbours_of(tile, layout)
    own = draw_sources(tile, neighbours, objects)
    stamps = stamps_on(tile, own)
    for other in neighbours:
        stamps += stamps_on(tile, draw_sources(other, neighbours_of(other, layout), objects))
    hole = hole_on(tile)
    color = np.empty((tile.size, tile.size, 3), dtype=np.uint8)
    for band, letter in enumerate(BANDS):
        science = _band_image(tile, band, stamps, hole)
        if letter in COLOR_SCALE:
            _tint(color[:, :, list(COLOR_SCALE).index(letter)], science / np.float32(COLOR_SCALE[letter]))
        _write_band(folder / f"{tile.name}_r1p01_{letter}.fits.fz", tile, band, science, hole)
        del science  # keep only one band in memory
    Image.fromarray(color).save(folder / f"{tile.name}_r1p01_irg.tiff", compression="jpeg", quality=90)
    _write_catalog(folder / f"{tile.name}_r1p01_cat.fits", tile, own)


def _band_image(tile: Tile, band: int, stamps: list[Stamp], hole: Hole) -> PixelArray:
    """Return one band of a tile (size, size), counts."""
    image = noise_image(noise_mesh(tile, band), tile.size, tile.rng(Draw.NOISE + band))
    add_sources(image, stamps, band)
    saturate(image, stamps, band)
    image[hole.box][hole.inside] = np.nan
    return image


def _weight_image(mesh: PixelArray, size: int, hole: Hole) -> PixelArray:
    """Return the weights, 1 / RMS^2, and 0 in the hole."""
    cells = (1.0 / mesh**2).astype(np.float32)
    weight = np.repeat(np.repeat(cells, NOISE_CELL, axis=0)[:size], NOISE_CELL, axis=1)[:, :size]
    weight[hole.box][hole.inside] = 0.0
    return weight


def _mask_image(science: PixelArray, hole: Hole) -> NDArray[np.int32]:
    """Return the mask bits of each pixel, 0 for a good pixel."""
    mask = np.zeros(science.shape, dtype=np.int32)
    mask[science >= SATURATION] = SATURATED_BIT
    mask[hole.box][hole.inside] = NO_DATA_BIT
    return mask


def _tint(channel: NDArray[np.uint8], image: PixelArray) -> None:
    """Fill one colour channel from an image in display units, with an asinh stretch, top of the sky first."""
    for row, counts in zip(range(len(image) - 1, -1, -1), image, strict=True):
        # Linear up to twice the noise, logarithmic above. The sky is dark grey; 3000 units are white.
        stretched = 0.08 + 0.92 * np.arcsinh(np.nan_to_num(counts, nan=-np.inf) / 6.0) / np.arcsinh(500.0)
        channel[row] = np.clip(255.0 * stretched, 0.0, 255.0)


def _write_band(path: Path, tile: Tile, band: int, science: PixelArray, hole: Hole) -> None:
    """Write one band in the form of fpack: an empty primary HDU and the compressed images SCI, MSK and WGT."""
    fits.PrimaryHDU().writeto(path)
    _append_image(path, "SCI", science, tile, band)
    _append_image(path, "MSK", _mask_image(science, hole), tile, band)
    _append_image(path, "WGT", _weight_image(noise_mesh(tile, band), tile.size, hole), tile, band)


def _append_image(path: Path, name: str, data: NDArray[np.generic], tile: Tile, band: int) -> None:
    """Append one compressed image; only one is in memory at a time."""
    hdu = fits.CompImageHDU(
        data,
        header=_image_header(tile, band),
        name=name,
        compression_type="RICE_1",
        quantize_level=QUANTIZE_LEVEL,
        quantize_method=fits.hdu.compressed.SUBTRACTIVE_DITHER_2,  # keeps an exact 0
        dither_seed=1 + (tile.index * len(BANDS) + band) % 10000,
    )
    with fits.open(path, mode="append") as file:
        file.append(hdu)


def _image_header(tile: Tile, band: int) -> fits.Header:
    """Return the header cards of one image."""
    letter = BANDS[band]
    header = tile.wcs_cards()
    header.extend(
        [
            ("OBJECT", "Demo survey", "Synthetic sky"),
            ("TILENAME", tile.name, "Name of the tile"),
            ("TILEID", tile.index, "Number of the tile"),
            ("BAND", letter, "Short name for filter"),
            ("FILTER", FILTER_CARDS[letter], "Filter used in the exposures"),
            ("BUNIT", "adu", "Counts, 1 at magnitude MAGZERO"),
            ("MAGZERO", ZERO_POINT, "[mag] AB zero point"),
            ("EXPTIME", 45.0 if letter == "Y" else 90.0, "[s] Equivalent exposure time"),
            ("GAIN", 4.0, "Equivalent gain, e-/adu"),
            ("SATURATE", SATURATION, "[adu] Saturation level"),
            ("FWHM", round(PSF_FWHM * PIXEL_SCALE, 3), "[arcsec] Width of the PSF"),
            ("SKYRMS", BACKGROUND_RMS[letter], "[adu] Typical background RMS of the survey"),
        ]
    )
    return header


def _write_catalog(path: Path, tile: Tile, sources: Sources) -> None:
    """Write the objects of one tile, sorted by ID, with the columns of DES DR2."""
    count = len(sources.ra)
    rng = tile.rng(Draw.CATALOG)
    x, y = tile.pixels(sources.ra, sources.dec)
    radius = np.hypot(sources.half_light * np.sqrt(sources.axis_ratio), PSF_HALF_LIGHT)
    columns = [
        fits.Column("COADD_OBJECT_ID", "K", array=_object_ids(tile, count, rng)),
        fits.Column("TILENAME", f"{len(tile.name)}A", array=np.full(count, tile.name)),
        fits.Column("ALPHAWIN_J2000", "D", unit="deg", array=sources.ra),
        fits.Column("DELTAWIN_J2000", "D", unit="deg", array=sources.dec),
        fits.Column("XWIN_IMAGE", "D", unit="pixel", array=x + 1.0),
        fits.Column("YWIN_IMAGE", "D", unit="pixel", array=y + 1.0),
        fits.Column("FLUX_RADIUS_I", "E", unit="pixel", array=radius),
        fits.Column("CLASS_STAR_I", "E", array=_star_class(sources, rng)),
    ]
    magnitudes = _measured_magnitudes(sources, radius, rng)
    for letter, magnitude in zip(BANDS, magnitudes.T, strict=True):
        columns.append(fits.Column(f"MAG_AUTO_{letter.upper()}", "E", unit="mag", array=magnitude))
    fits.BinTableHDU.from_columns(columns, name="OBJECTS").writeto(path)


def _object_ids(tile: Tile, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return increasing IDs with gaps: two thirds of the IDs in the block of a tile are unused."""
    block = 3 * count
    return FIRST_OBJECT_ID + tile.index * block + np.sort(rng.choice(block, count, replace=False))


def _measured_magnitudes(sources: Sources, radius: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return magnitudes (N, bands) with the error of an aperture of two half-light radii; 99 without a detection."""
    rms = np.array([BACKGROUND_RMS[band] for band in BANDS])
    error = rms * (2.0 * radius * sqrt(np.pi))[:, None]
    flux = sources.flux + error * rng.standard_normal(sources.mag.shape)
    magnitude = ZERO_POINT - 2.5 * np.log10(np.maximum(flux, 1e-9))
    return np.where(flux > 0.0, magnitude, 99.0)


def _star_class(sources: Sources, rng: np.random.Generator) -> FloatArray:
    """Return the stellarity of SExtractor: 1 for stars, 0 for galaxies, near 0.5 at the faint end."""
    doubt = np.clip((sources.mag[:, BANDS.index("i")] - 19.0) / 5.0, 0.0, 1.0)
    opinion = 0.5 + np.where(sources.is_star, 0.48, -0.48) * (1.0 - doubt)
    return np.clip(opinion + 0.1 * doubt * rng.standard_normal(len(doubt)), 0.0, 1.0)
