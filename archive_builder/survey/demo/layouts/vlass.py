"""Files of the VLA Sky Survey's Quick Look images: four axes, Jy/beam, RMS images, one component catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from archive_builder.survey.demo.layouts.files import positions, sky_cards, stacked, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

TILES = (("T10t12", "J073401-033000", 113.504, -3.5), ("T10t12", "J073802-033000", 114.508, -3.5))
"""Tile, subtile, and centre of the subtile, deg."""

ZERO_POINT = 8.9
"""A jansky."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the images and the component catalogue."""
    tables = []
    for scene, (tile, name, ra, dec) in zip(scenes, TILES, strict=False):
        stem = f"VLASS2.1.ql.{tile}.{name}.10.2048.v1"
        folder = directory / "VLASS2.1" / tile / stem
        header = _header(scene, ra, dec)
        write(folder / f"{stem}.I.iter1.image.pbcor.tt0.subim.fits", primary=_cube(scene.flux(0, ZERO_POINT), header))
        write(
            folder / f"{stem}.I.iter1.image.pbcor.tt0.rms.subim.fits", primary=_cube(scene.noise(0, ZERO_POINT), header)
        )
        ra_objects, dec_objects = positions(header, scene.x, scene.y)
        count = len(ra_objects)
        names = [f"VLASS2QLCIR J{a:.5f}{d:+.5f}" for a, d in zip(ra_objects, dec_objects, strict=True)]
        columns = {"Component_name": names, "Component_id": np.arange(count), "RA": ra_objects, "DEC": dec_objects}
        tables.append({**columns, "Tile": [tile] * count, "Subtile": [name] * count})
    write_table(directory / "CIRADA_VLASS2QL_table1_components.csv", stacked(tables))


def _cube(data: NDArray[np.floating], header: fits.Header) -> fits.PrimaryHDU:
    """Return an image with an axis of frequency and one of Stokes I, as CASA writes it."""
    return fits.PrimaryHDU(data.astype(np.float32)[None, None], header)


def _header(scene: Scene, ra: float, dec: float) -> fits.Header:
    middle = scene.size / 2 + 1
    header = sky_cards(ra, dec, 1.0, (middle, middle), "CDELT", "SIN")
    del header["CROTA2"]
    cards = {"BUNIT": "Jy/beam", "BTYPE": "Intensity", "BMAJ": 7e-4, "BMIN": 6e-4, "BPA": 20.0, "RADESYS": "FK5"}
    axes = {
        "EQUINOX": 2000.0,
        "LONPOLE": 180.0,
        "LATPOLE": dec,
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CTYPE3": "FREQ",
        "CRVAL3": 2.987741489322e9,
        "CDELT3": 1.95e9,
        "CRPIX3": 1.0,
        "CUNIT3": "Hz",
        "CTYPE4": "STOKES",
        "CRVAL4": 1.0,
        "CDELT4": 1.0,
        "CRPIX4": 1.0,
        "CUNIT4": "",
        **{f"PC{i}_{j}": float(i == j) for i in range(1, 5) for j in range(1, 5)},
    }
    return fits.Header([*header.cards, *cards.items(), *axes.items(), ("SPECSYS", "LSRK"), ("RESTFRQ", 2.98e9)])
