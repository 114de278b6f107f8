"""Files of the atlas images of 2MASS and WISE: SIN projections, Vega zero points in MAGZP, whole files gzipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from archive_builder.survey.demo.layouts.files import (
    positions,
    sky_cards,
    stacked,
    with_cards,
    write,
    write_table,
)
from archive_builder.survey.demo.layouts.scene import Scene

TWO_MASS_BANDS = (("j", 20.9), ("h", 20.4), ("k", 19.9))
"""Band and its MAGZP, Vega mag."""

SCANS = (("1024501", "000502s", 56, 186), ("1024502", "000502s", 56, 198))
"""Atlas image number (coadd_key), night with hemisphere, scan and frame of each tile."""

SCAN_PLACE = (83.91, -43.16)
"""Centre of the first image, deg; the next one of a scan lies in Dec."""

SKY = 120.0
"""Sky background in the images, counts: 2MASS leaves it in."""

WISE_BANDS = (("w1", 20.5), ("w2", 19.5), ("w3", 18.0), ("w4", 13.0))
"""Band and its MAGZP, Vega mag."""

COADDS = (("0000p000_ac51", 0.0, 0.0), ("0015p000_ac51", 1.5, 0.0))
"""Name and centre of each coadd, deg."""


def write_2mass(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the atlas images, the tile table and the point sources."""
    tables, tiles = [], []
    for scene, (key, night, scan, frame) in zip(scenes, SCANS, strict=False):
        tiles.append((key, f"{night}/s{scan:03d}/image", f"{scan:03d}{frame:04d}"))
        middle = scene.size / 2 + 0.5
        dec = SCAN_PLACE[1] + scene.number * 1.2 * scene.size / 3600.0
        sky = sky_cards(SCAN_PLACE[0], dec, 1.0, (middle, middle), "CDELT", "SIN", EQUINOX=2000.0)
        for number, (band, magzp) in enumerate(TWO_MASS_BANDS):
            data = np.nan_to_num(scene.flux(number, magzp), nan=0.0) + np.float32(SKY)
            header = with_cards(sky, ORDATE=night[:6], SCANNO=scan, FILTER=band, MAGZP=magzp, ORIGIN="2MASS")
            path = directory / night / f"s{scan:03d}" / "image" / f"{band}i{scan:03d}{frame:04d}.fits.gz"
            write(path, primary=fits.PrimaryHDU(data, header))
        ra, dec_objects = positions(sky, scene.x, scene.y)
        ids = 51_256_800 + 1000 * scene.number + np.arange(len(ra))
        names = [f"{a:09.5f}{d:+09.5f}" for a, d in zip(ra, dec_objects, strict=True)]
        columns = {"ra": ra, "dec": dec_objects, "designation": names, "pts_key": ids}
        tables.append({**columns, "coadd_key": np.full(len(ids), int(key))})
    write_table(directory / "tiles.csv", dict(zip(("tile", "path", "frame"), zip(*tiles, strict=True), strict=True)))
    write_table(directory / "fp_psc.csv", stacked(tables))


def write_wise(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the atlas images with their uncertainties, and the sources."""
    tables = []
    for scene, (name, ra, dec) in zip(scenes, COADDS, strict=False):
        middle = (scene.size + 1) / 2
        sky = sky_cards(ra, dec, 1.375, (middle, middle), "CDELT", "SIN", EQUINOX=2000.0)
        folder = directory / name[:2] / name[:4] / name
        for number, (band, magzp) in enumerate(WISE_BANDS):
            header = with_cards(sky, BAND=number + 1, MAGZP=magzp, BUNIT="DN", COADDID=name)
            noise = scene.noise(number, magzp).astype(np.float32)
            write(folder / f"{name}-{band}-int-3.fits", primary=fits.PrimaryHDU(scene.flux(number, magzp), header))
            write(folder / f"{name}-{band}-unc-3.fits.gz", primary=fits.PrimaryHDU(noise, header))
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        ids = 1_330_000_101_351_000_000 + 1_000_000 * scene.number + np.arange(len(ra_objects))
        columns = {"cntr": ids, "ra": ra_objects, "dec": dec_objects}
        tables.append({**columns, "coadd_id": [name] * len(ids)})
    write_table(directory / "allwise.csv", stacked(tables))
