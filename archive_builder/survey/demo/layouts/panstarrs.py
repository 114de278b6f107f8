"""Files of Pan-STARRS1 stacks: 16-bit pixels on an asinh scale, variances, masks of 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import FloatArray
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

BANDS = ("g", "r", "i", "z", "y")

EXPOSURES = (731.0, 850.0, 915.0, 480.0, 660.0)
"""Exposure time of each band, s: the zero point is 25 + 2.5 log10 of this time."""

SKYCELLS = (("1334", "061"), ("1334", "062"))

CENTRE = (185.217391304, 7.999999999)
"""Centre of the projection cell 1334, deg."""

ASINH_UNIT = 2.5 * np.log10(np.e)

BLANK = -32768
"""Stored value of a pixel without data."""

NO_DATA, SATURATED = 8, 32
"""Bits of the mask: BLANK and SAT."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the stacks of all skycells and the catalogue."""
    tables = []
    for scene, (cell, sub) in zip(scenes, SKYCELLS, strict=False):
        x0 = scene.number * (scene.size + 300)
        sky = sky_cards(*CENTRE, 0.25, (900.0 - x0, 500.0), "PC001001", RADESYS="FK5", EQUINOX=2000.0)
        folder = directory / "rings.v3.skycell" / cell / sub
        for number, (band, exposure) in enumerate(zip(BANDS, EXPOSURES, strict=True)):
            zero_point = 25.0 + 2.5 * np.log10(exposure)
            header = with_cards(sky, EXPTIME=exposure, **{"HIERARCH FPA.FILTER": f"{band}.00000"})
            header.append(("HIERARCH FPA.ZP", 25.0))
            stem = folder / f"rings.v3.skycell.{cell}.{sub}.stk.{band}.unconv"
            variance = scene.noise(number, zero_point) ** 2
            _write_asinh(stem.with_name(f"{stem.name}.fits"), scene.flux(number, zero_point), header)
            _write_asinh(stem.with_name(f"{stem.name}.wt.fits"), variance, header)
            flags = scene.flags(number, NO_DATA, SATURATED).astype(np.uint16)
            write(stem.with_name(f"{stem.name}.mask.fits"), fpacked(flags, header, quantize_level=0.0))
        ra, dec = positions(sky, scene.x, scene.y)
        ids = 115_711_852_173_912_345 + 1_000_000 * scene.number + np.arange(len(ra))
        tables.append({"objID": ids, "raStack": ra, "decStack": dec, "skyCellID": [int(sub)] * len(ids)})
    write_table(directory / "stack_objects.csv", stacked(tables))


def _write_asinh(path: Path, flux: NDArray[np.floating], header: fits.Header) -> None:
    """Write flux on an asinh scale as 16-bit integers with BSCALE and BZERO, compressed by RICE."""
    values: FloatArray = flux.astype(np.float64)
    known = values[np.isfinite(values)]
    offset, softening = float(np.median(known)), max(float(np.std(known)), 1e-9)
    scaled = ASINH_UNIT * np.arcsinh((values - offset) / (2.0 * softening))
    low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
    zero, step = (low + high) / 2.0, max((high - low) / 65000.0, 1e-9)
    stored = np.where(np.isfinite(scaled), np.rint((scaled - zero) / step), BLANK).astype(np.int16)
    cards = with_cards(header, BSOFTEN=softening, BOFFSET=offset)
    write(path, fpacked(stored, cards, quantize_level=0.0))
    # astropy has no way to give the scale of integers that it compresses.
    with fits.open(path, mode="update", disable_image_compression=True) as file:
        file[1].header.update({"BSCALE": step, "BZERO": zero, "ZBLANK": BLANK, "BLANK": BLANK})
