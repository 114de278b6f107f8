"""Contact sheet of the brightest objects of an archive: survey colours above, composites below."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from PIL import Image

from archive_builder import Archive, Cutout, ObjectSkippedError
from archive_builder.serve.style import Style

COLUMNS, ROWS, SIDE, GAP = 8, 2, 114, 4
"""Objects across and down; side of a picture and gap between pictures, px."""


def main(archive: Path, survey: Path, file: Path) -> None:
    """Write the contact sheet."""
    with Archive(archive) as opened:
        cutouts = [cutout for cutout, _ in zip(brightest(opened, survey), range(COLUMNS * ROWS), strict=False)]
        rows = [sheet(cutouts, Style(color="survey")), sheet(cutouts, Style(color="lupton"))]
    Image.fromarray(np.vstack(rows)).save(file)
    print(f"{file}: {len(cutouts)} bright objects in survey colours, and below as composites of i, r, g")


def brightest(archive: Archive, survey: Path) -> Iterator[Cutout]:
    """Yield cutouts of unsaturated catalogued objects, brightest first."""
    tables = [Table.read(path) for path in sorted(survey.glob("*/*_cat.fits"))]
    catalog = vstack(tables, metadata_conflicts="silent")
    catalog.sort("MAG_AUTO_I")
    for object_id in catalog["COADD_OBJECT_ID"][catalog["MAG_AUTO_I"] > 15]:
        try:
            yield archive.get(int(object_id), size=SIDE)
        except ObjectSkippedError:
            continue


def sheet(cutouts: list[Cutout], style: Style) -> np.ndarray:
    """Return pictures side by side, uint8 (y, x, 3)."""
    canvas = np.full((ROWS * (SIDE + GAP), COLUMNS * (SIDE + GAP), 3), 40, dtype=np.uint8)
    for (row, column), cutout in zip(np.ndindex(ROWS, COLUMNS), cutouts, strict=False):
        y, x = row * (SIDE + GAP), column * (SIDE + GAP)
        canvas[y : y + SIDE, x : x + SIDE] = cutout.picture(style)
    return canvas


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="folder of the archive")
    parser.add_argument("survey", type=Path, help="folder of the demo survey")
    parser.add_argument("file", type=Path, help="PNG file to write")
    main(**vars(parser.parse_args()))
