"""Files of KiDS DR4: coadds in flux of magnitude 0, weights, 8-bit masks; the bands of a tile differ in size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from archive_builder.survey.demo.layouts.files import positions, sky_cards, with_cards, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

BANDS = ("u", "g", "r", "i")

MARGINS = (4, 0, 1, 2)
"""Rows that each band lacks at the top, px."""

TILES = (("181.5_-2.5", 181.5, -2.5), ("182.5_-2.5", 182.5, -2.5))
"""Name and centre of each tile, deg."""

ZERO_POINT = 0.0

NO_DATA, SATURATED = 64, 2
"""Bits of the mask: bad pixel, saturation core."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the coadds, weights, masks and catalogues of all tiles."""
    for scene, (name, ra, dec) in zip(scenes, TILES, strict=False):
        middle = scene.size / 2 + 0.5
        sky = sky_cards(ra, dec, 0.2, (middle, middle), CUNIT1="deg", CUNIT2="deg", RADESYS="ICRS", EQUINOX=2000.0)
        for number, (band, margin) in enumerate(zip(BANDS, MARGINS, strict=True)):
            rows = slice(0, scene.size - margin)
            header = with_cards(sky, FILTER=f"{band}_SDSS", BUNIT="", PHOTZP=ZERO_POINT, OBJECT=f"KIDS_{name}")
            flux = np.nan_to_num(scene.flux(number, ZERO_POINT), nan=0.0)
            # Weights follow the inverse variance up to a factor.
            weight = np.nan_to_num(scene.noise(number, 25.0) ** -2.0, nan=0.0).astype(np.float32)
            flags = scene.flags(number, NO_DATA, SATURATED).astype(np.uint8)
            for kind, data in (("sci", flux), ("wei", weight), ("msk", flags)):
                primary = fits.PrimaryHDU(data[rows], header)
                write(directory / f"KiDS_DR4.0_{name}_{band}_{kind}.fits", primary=primary)
        _write_catalog(directory / f"KiDS_DR4.0_{name}_ugriZYJHKs_cat.fits", scene, name, sky)


def _write_catalog(path: Path, scene: Scene, name: str, sky: fits.Header) -> None:
    ra, dec = positions(sky, scene.x, scene.y)
    count = len(ra)
    columns = {
        "ID": [f"KiDSDR4 J{a:.5f}{d:+.5f}" for a, d in zip(ra, dec, strict=True)],
        "KIDS_TILE": [f"KIDS_{name}"] * count,
        "SeqNr": np.arange(1, count + 1, dtype=np.int32),
        "RAJ2000": ra,
        "DECJ2000": dec,
        "Xpos": scene.x + 1,
        "Ypos": scene.y + 1,
        "MASK": np.zeros(count, np.int32),
    }
    write_table(path, columns, "OBJECTS")
