"""Make a contact sheet: colour cutouts of an archive's brightest catalogued galaxies, side by side.

usage: python contact_sheet.py ARCHIVE SURVEY FILE.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from PIL import Image

from archive_builder import Archive, ObjectSkippedError
from archive_builder.serve.render import lupton_rgb

COLUMNS, ROWS, SIDE, GAP = 8, 4, 114, 4
"""Cutouts across and down; pixels of each and between them."""


def main(archive: Path, survey: Path, picture: Path) -> None:
    catalog = vstack([Table.read(path) for path in sorted(survey.glob("*/*_cat.fits"))], metadata_conflicts="silent")
    # Stars brighter than this are saturated in the demo survey and hide their neighbours.
    catalog = catalog[catalog["MAG_AUTO_I"] > 15]
    catalog.sort("MAG_AUTO_I")
    sheet = np.full((ROWS * (SIDE + GAP) + GAP, COLUMNS * (SIDE + GAP) + GAP, 3), 40, dtype=np.uint8)
    places = iter(np.ndindex(ROWS, COLUMNS))
    place = next(places)
    with Archive(archive) as opened:
        for object_id in catalog["COADD_OBJECT_ID"]:
            try:
                red, green, blue = opened.get(int(object_id), size=SIDE, bands="irg").data
            except ObjectSkippedError:
                continue
            top, left = (GAP + n * (SIDE + GAP) for n in place)
            sheet[top : top + SIDE, left : left + SIDE] = lupton_rgb(red, green, blue)
            place = next(places, None)
            if place is None:
                break
    Image.fromarray(sheet).save(picture)
    print(f"{picture}: the {COLUMNS * ROWS} brightest objects with a cutout, i r g as red green blue")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
