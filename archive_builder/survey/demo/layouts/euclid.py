"""Files of the Euclid MER mosaics of VIS: background-subtracted mosaic, RMS, flags, final catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits

from archive_builder.survey.demo.layouts.files import positions, sky_cards, with_cards, write, write_table
from archive_builder.survey.demo.layouts.scene import Scene

TILES = (("102018211", 57.9990741, -51.5), ("102018212", 58.8, -51.5))
"""Index and centre of each tile, deg."""

ZERO_POINT = 24.6

NO_DATA, SATURATED = 1, 1 << 20

STAMP = "20241018T14{0:02d}10.276838Z_00.00"
"""Time and version in the file names."""


def write_survey(directory: Path, scenes: Sequence[Scene]) -> None:
    """Write the mosaics and catalogues of all tiles."""
    for scene, (name, ra, dec) in zip(scenes, TILES, strict=False):
        middle = scene.size / 2
        sky = sky_cards(ra, dec, 0.1, (middle, middle), CUNIT1="deg", CUNIT2="deg", RADESYS="ICRS", EQUINOX=2000.0)
        header = with_cards(sky, FILTER="VIS", INSTRUME="VIS", MAGZERO=ZERO_POINT, TILEID=int(name))
        folder = directory / "MER" / name / "VIS"
        planes = (
            ("BGSUB-MOSAIC-VIS", 0xACBD03, scene.flux(0, ZERO_POINT)),
            ("MOSAIC-VIS-RMS", 0xB3070B, scene.noise(0, ZERO_POINT).astype(np.float32)),
            ("MOSAIC-VIS-FLAG", 0xB260B9, scene.flags(0, NO_DATA, SATURATED).astype(np.int32)),
        )
        for number, (kind, first_code, data) in enumerate(planes):
            code = f"{first_code + 4096 * scene.number:06X}"
            path = folder / f"EUC_MER_{kind}_TILE{name}-{code}_{STAMP.format(20 + number + 5 * scene.number)}.fits"
            write(path, primary=fits.PrimaryHDU(data, header))
        ra_objects, dec_objects = positions(sky, scene.x, scene.y)
        # The IDs are made from the position; those of southern objects are negative.
        ids = [-int(f"{a * 1e6:09.0f}{-d * 1e7:09.0f}") for a, d in zip(ra_objects, dec_objects, strict=True)]
        columns = {"OBJECT_ID": np.array(ids), "RIGHT_ASCENSION": ra_objects, "DECLINATION": dec_objects}
        folder = directory / "catalogs" / "MER_FINAL_CATALOG" / name
        path = folder / f"EUC_MER_FINAL-CAT_TILE{name}-CC66F6_{STAMP.format(40 + scene.number)}.fits"
        write_table(path, columns, "EUC_MER__FINAL_CATALOG")
