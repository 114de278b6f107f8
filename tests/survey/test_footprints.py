"""Footprints of tiles from the tile table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from archive_builder.survey.footprints import tile_corners
from archive_builder.survey.recipe import load_recipe

RECIPE = """
[survey]
name = "S"
bands = ["r"]
image = "{tile}.fits"
zero_point = 30.0
[catalog]
path = "{tile}.csv"
object_id = "ID"
ra = "RA"
dec = "DEC"
[cutout]
size = 8
"""


def corners(folder: Path, table: str, side: float = 0.5) -> tuple[dict[str, np.ndarray], str]:
    (folder / "tiles.csv").write_text(table)
    (folder / "survey.toml").write_text(RECIPE.replace("[survey]", '[survey]\ntiles = "tiles.csv"'))
    return tile_corners(load_recipe(folder / "survey.toml"), side)


def test_box_equals_the_tables_box_also_across_ra_zero(tmp_path: Path) -> None:
    found, columns = corners(tmp_path, "tile,RALL,DECLL,RAUR,DECUR\nA,10,-5,11,-4\nB,359.5,0,0.5,1\nC,,,,\nD,x,1,2,3\n")
    assert columns == "RALL, DECLL, RAUR, DECUR"
    assert found.keys() == {"A", "B"}
    np.testing.assert_allclose(found["A"], [(10, -5), (11, -5), (11, -4), (10, -4)])
    assert np.ptp(found["B"][:, 0]) == pytest.approx(1)


@pytest.mark.parametrize("dec", [0, -60, 85])
def test_centre_becomes_a_square_on_the_sky(tmp_path: Path, dec: float) -> None:
    found, columns = corners(tmp_path, f"tile,ra_cent,dec_cent\nA,359.9,{dec}\n")
    assert columns == "ra_cent, dec_cent"
    west, east, north, _ = (SkyCoord(*at, unit=u.deg) for at in found["A"])
    middle = SkyCoord(359.9, dec, unit=u.deg)
    assert abs(east.dec - north.dec).deg == pytest.approx(0.5)
    assert middle.separation(SkyCoord(west.ra, middle.dec)).deg == pytest.approx(0.25, rel=0.01)


def test_no_table_or_a_table_without_positions_gives_no_footprints(tmp_path: Path) -> None:
    assert corners(tmp_path, "tile,path\nA,x\n") == ({}, "")
    (tmp_path / "survey.toml").write_text(RECIPE)
    assert tile_corners(load_recipe(tmp_path / "survey.toml"), 1) == ({}, "")
