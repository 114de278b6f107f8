"""Files of the DESI Legacy Imaging Surveys DR10: bricks in nanomaggies, inverse variances and maskbits by fpack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from archive_builder.survey.demo.layouts.files import fpacked, positions, sky_cards, with_cards, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

BANDS = ("g", "r", "i", "z")

TILES = (("0001m002", 135663, 0.125, -0.25), ("0003m002", 135664, 0.375, -0.25))
"""Name, number and centre of each brick, deg."""

ZERO_POINT = 22.5
"""A nanomaggy."""

RELEASE = 10000

NOT_PRIMARY, ALLMASK_G = 1, 32
"""Bits of MASKBITS."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the files of all bricks."""
    for scene, (name, brick, ra, dec) in zip(scenes, TILES, strict=False):
        middle = scene.size / 2 + 0.5
        sky = sky_cards(ra, dec, 0.262, (middle, middle), EQUINOX=2000.0)
        folder = directory / "south" / "coadd" / name[:3] / name
        for number, band in enumerate(BANDS):
            header = with_cards(sky, BRICKNAM=name, BRICKID=brick, FILTER=band, BUNIT="nanomaggy", MAGZERO=ZERO_POINT)
            # The coadds hold 0 where no exposure contributes; fpack keeps this value.
            flux = np.nan_to_num(scene.flux(number, ZERO_POINT), nan=0.0)
            inverse = np.nan_to_num(scene.noise(number, ZERO_POINT) ** -2.0, nan=0.0).astype(np.float32)
            for kind, data in (("image", flux), ("invvar", inverse)):
                packed = fpacked(data, header, name=f"{kind.upper()}_{band.upper()}")
                write(folder / f"legacysurvey-{name}-{kind}-{band}.fits.fz", packed)
        flags = scene.flags(0, ALLMASK_G, NOT_PRIMARY)
        write(
            folder / f"legacysurvey-{name}-maskbits.fits.fz",
            fpacked(flags.astype(np.int32), sky, "MASKBITS", quantize_level=0.0),
            *(fpacked(np.zeros(flags.shape, np.uint8), sky, wise, quantize_level=0.0) for wise in ("WISEM1", "WISEM2")),
        )
        _write_catalog(directory / "south" / "tractor" / name[:3] / f"tractor-{name}.fits", scene, name, brick, sky)


def _write_catalog(path: Path, scene: Scene, name: str, brick: int, sky: object) -> None:
    ra, dec = positions(sky, scene.x, scene.y)
    count = len(ra)
    columns = {
        "release": np.full(count, RELEASE, np.int16),
        "brickid": np.full(count, brick, np.int32),
        "brickname": [name] * count,
        "objid": np.arange(count, dtype=np.int32),
        "brick_primary": np.ones(count, bool),
        "maskbits": np.zeros(count, np.int32),
        "type": ["PSF"] * count,
        "ra": ra,
        "dec": dec,
        "bx": scene.x.astype(np.float32),
        "by": scene.y.astype(np.float32),
    }
    write_table(path, columns)
