"""Files of SDSS frames resampled to common pixels by SWarp, with the script of the SDSS mosaic service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from archive_builder.survey.demo.layouts.files import positions, sky_cards, with_cards, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

BANDS = ("u", "g", "r", "i", "z")

TILES = (("011700.00+280000.0", 19.25, 28.0), ("011900.00+280000.0", 19.75, 28.0))
"""Name and centre of each mosaic, deg."""

ZERO_POINT = 22.5
"""A nanomaggy."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the mosaics and a catalogue for each."""
    for scene, (name, ra, dec) in zip(scenes, TILES, strict=False):
        middle = scene.size / 2 + 0.5
        sky = sky_cards(ra, dec, 0.396, (middle, middle), CUNIT1="deg", CUNIT2="deg", RADESYS="ICRS", EQUINOX=2000.0)
        for number, band in enumerate(BANDS):
            header = with_cards(sky, BUNIT="nanomaggy", SOFTNAME="SWarp", COMBINET="MEDIAN", OBJECT=name)
            # SWarp leaves an exact 0 where no frame contributes; the weights count frames.
            flux = np.nan_to_num(scene.flux(number, ZERO_POINT), nan=0.0)
            weight = np.where(scene.gap, 0.0, 1.0).astype(np.float32)
            weight[:, scene.size // 2 :] *= 2.0
            stem = directory / f"J{name}-{band}"
            write(stem.with_name(f"{stem.name}.fits"), primary=fits.PrimaryHDU(flux, header))
            write(stem.with_name(f"{stem.name}.weight.fits"), primary=fits.PrimaryHDU(weight, header))
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        ids = 1_237_648_720_142_401_611 + 65536 * scene.number + np.arange(len(scene.x))
        write_table(directory / f"J{name}-photoprimary.csv", {"objID": ids, "ra": ra_objects, "dec": dec_objects})
