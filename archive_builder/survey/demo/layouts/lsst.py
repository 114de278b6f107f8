"""Files of the LSST pipelines: exposures with IMAGE, MASK and VARIANCE, for HSC PDR3 and Rubin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from archive_builder.survey.demo.layouts.files import (
    fpacked,
    positions,
    sky_cards,
    stacked,
    with_cards,
    write,
    write_table,
)
from archive_builder.survey.demo.layouts.scene import Scene

SATURATED, NO_DATA = 2, 256
"""Bits of MASK: SAT and NO_DATA."""

HSC_BANDS = ("G", "R", "I", "Z", "Y")

HSC_TRACT = (9813, 150.16528925619836, 1.487603305785124)
"""Tract of the COSMOS field, and its centre, deg."""

HSC_PATCHES = ("4,4", "5,4")

HSC_ZERO_POINT = 27.0

RUBIN_BANDS = ("u", "g", "r", "i", "z", "y")

RUBIN_TRACT = (5063, 53.223140495867767, -27.520661157024794)
"""Tract of the Extended Chandra Deep Field South, and its centre, deg."""

RUBIN_PATCHES = (34, 35)

RUBIN_ZERO_POINT = 31.4
"""A nanojansky."""

RUBIN_RUN = "LSSTComCam_runs_DRP_DP1_v29_0_0_DM-50260_20250420T065452Z"

GAP = 300
"""Distance of the next patch from the reference pixel of the tract, px more than a patch is wide."""


def write_hsc(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the patches of HSC, the tile table and the catalogue from the database."""
    tract, ra, dec = HSC_TRACT
    tables, tiles = [], []
    for scene, patch in zip(scenes, HSC_PATCHES, strict=False):
        name = f"{tract}-{patch.replace(',', '0')}"
        tiles.append((name, str(tract), patch))
        sky = _sky(scene, ra, dec, 0.168)
        for number, band in enumerate(HSC_BANDS):
            folder = directory / "deepCoadd-results" / f"HSC-{band}" / str(tract) / patch
            path = folder / f"calexp-HSC-{band}-{tract}-{patch}.fits"
            _write_exposure(path, scene, number, HSC_ZERO_POINT, sky, FILTER=f"HSC-{band}")
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        ids = 43_158_176_442_374_224 + 4_294_967_296 * scene.number + np.arange(len(scene.x))
        tables.append(
            {
                "object_id": ids,
                "ra": ra_objects,
                "dec": dec_objects,
                **_places(tract, int(patch.replace(",", "0")), len(ids)),
            }
        )
    write_table(directory / "tiles.csv", dict(zip(("tile", "tract", "patch"), zip(*tiles, strict=True), strict=True)))
    write_table(directory / "pdr3_wide_forced.fits", stacked(tables))


def write_rubin(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the patches of Rubin and the table of the objects."""
    tract, ra, dec = RUBIN_TRACT
    tables = []
    for scene, patch in zip(scenes, RUBIN_PATCHES, strict=False):
        sky = _sky(scene, ra, dec, 0.2)
        for number, band in enumerate(RUBIN_BANDS):
            folder = directory / "deep_coadd" / str(tract) / str(patch) / band
            path = folder / f"deep_coadd_{tract}_{patch}_{band}_lsst_cells_v1_{RUBIN_RUN}.fits"
            _write_exposure(path, scene, number, RUBIN_ZERO_POINT, sky, BUNIT="nJy")
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        ids = 611_255_759_837_069_401 + 1000 * scene.number + np.arange(len(scene.x))
        columns = {"objectId": ids, "coord_ra": ra_objects, "coord_dec": dec_objects}
        tables.append({**columns, **_places(tract, patch, len(ids))})
    write_table(directory / "objects.parquet", stacked(tables))


def _places(tract: int, patch: int, count: int) -> dict[str, Any]:
    """Return the columns of tract and patch of a number of objects."""
    return {"tract": np.full(count, tract), "patch": np.full(count, patch)}


def _sky(scene: Scene, ra: float, dec: float, scale: float) -> fits.Header:
    """Return the WCS of a patch: all patches of a tract have one tangent plane, each with its own CRPIX."""
    x0 = scene.number * (scene.size + GAP)
    return sky_cards(ra, dec, scale, (1000.0 - x0, 700.0), RADESYS="ICRS", EQUINOX=2000.0, LTV1=-float(x0), LTV2=0.0)


def _write_exposure(path: Path, scene: Scene, band: int, zero_point: float, sky: fits.Header, **cards: Any) -> None:
    """Write one exposure: compressed without loss, with tables of the PSF and the inputs after the images."""
    variance = (scene.noise(band, zero_point) ** 2).astype(np.float32)
    flags = scene.flags(band, NO_DATA, SATURATED).astype(np.int32)
    header = with_cards(sky, **{"BUNIT": cards["BUNIT"]} if "BUNIT" in cards else {})
    masks = {"HIERARCH MP_SAT": 1, "HIERARCH MP_NO_DATA": 8}
    primary = fits.PrimaryHDU(header=fits.Header([("AR_HDU", 5), *cards.items()]))
    write(
        path,
        fpacked(scene.flux(band, zero_point), header, "IMAGE", "GZIP_2", 0.0),
        fpacked(flags, with_cards(sky, **masks), "MASK", "RICE_1", 0.0),
        fpacked(variance, header, "VARIANCE", "GZIP_2", 0.0),
        fits.BinTableHDU.from_columns([fits.Column("id", "J", array=np.arange(3))], name="ARCHIVE_INDEX"),
        primary=primary,
    )
