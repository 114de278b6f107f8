"""Files of DES DR2: one file a band with SCI, MSK and WGT by fpack, one catalogue a tile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from archive_builder.survey.demo.layouts.files import fpacked, positions, sky_cards, with_cards, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

BANDS = ("g", "r", "i", "z", "Y")

TILES = (("DES0001-0541", 0.373846, -5.694444), ("DES0003-5748", 0.752856, -57.808333))
"""Name and centre of each tile, deg."""

ZERO_POINT = 30.0

NO_DATA, SATURATED = 1, 2
"""Bits of MSK: BADPIX_BPM and BADPIX_SATURATE."""

FIRST_ID = 917_000_000


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the files of all tiles."""
    for scene, (name, ra, dec) in zip(scenes, TILES, strict=False):
        middle = (scene.size + 1) / 2
        sky = sky_cards(ra, dec, 0.263, (middle, middle), CUNIT1="deg", CUNIT2="deg", RADESYS="ICRS", EQUINOX=2000.0)
        for number, band in enumerate(BANDS):
            header = with_cards(sky, TILENAME=name, BAND=band, FILTER=f"{band} DECam", BUNIT="ADU", MAGZERO=ZERO_POINT)
            weight = np.nan_to_num(scene.noise(number, ZERO_POINT) ** -2.0, nan=0.0).astype(np.float32)
            # The gap holds an exact 0, as SWarp leaves it.
            science = np.nan_to_num(scene.flux(number, ZERO_POINT), nan=0.0)
            write(
                directory / name / f"{name}_r4907p01_{band}.fits.fz",
                fpacked(science, header, "SCI"),
                fpacked(scene.flags(number, NO_DATA, SATURATED).astype(np.int32), header, "MSK"),
                fpacked(weight, header, "WGT"),
            )
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        ids = FIRST_ID + 1000 * scene.number + np.arange(len(scene.x))
        columns = {
            "COADD_OBJECT_ID": ids,
            "TILENAME": [name] * len(ids),
            "RA": ra_objects,
            "DEC": dec_objects,
            "ALPHAWIN_J2000": ra_objects,
            "DELTAWIN_J2000": dec_objects,
            "XWIN_IMAGE": scene.x + 1,
            "YWIN_IMAGE": scene.y + 1,
        }
        write_table(directory / name / f"{name}_dr2_main.fits", columns)
