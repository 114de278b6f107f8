"""Plots: correct maps of the sky, legible labels, and a one-line error without matplotlib."""

from __future__ import annotations

import os
import re
import shutil
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run
from hypothesis import assume, given
from hypothesis import strategies as st

from archive_builder.builder.status import archive_status
from archive_builder.cli.figures import band_colors, grid_lines, middle_ra
from archive_builder.cli.plan_plot import plan_figure
from archive_builder.cli.status_plot import Coverage, read_coverage, status_figure
from archive_builder.forecast.plan import plan
from archive_builder.survey.demo import make_survey
from archive_builder.survey.recipe import load_recipe

if os.environ.get("ARCHIVE_BUILDER_REQUIRE_PROGRAMS"):
    import matplotlib  # noqa: F401
else:
    pytest.importorskip("matplotlib")

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from archive_builder.cli.figures import SkyMap, style


def box(ra: float, dec: float, side: float) -> np.ndarray:
    """Return the corners of a tile that is `side` deg wide in RA and high in Dec."""
    west, east, low, high = ra - side / 2, ra + side / 2, dec - side / 2, dec + side / 2
    return np.array([(west % 360, low), (east % 360, low), (east % 360, high), (west % 360, high)])


def wide_survey() -> np.ndarray:
    """Return tiles on both sides of RA 0, like those of DES, (N, 4, 2)."""
    places = (
        (ra % 360, dec) for dec in np.arange(-60, 6, 3) for ra in np.arange(-60, 100, 3 / np.cos(np.radians(dec)))
    )
    return np.array([box(ra, dec, 2.9) for ra, dec in places])


# ---- the sky


@given(st.lists(st.floats(0, 359.99), min_size=1, max_size=20), st.floats(0, 360))
def test_middle_is_the_middle_of_the_shortest_arc_at_any_ra(offsets: list[float], turn: float) -> None:
    ra = (np.array(offsets) / 3 + turn) % 360  # within 120 deg
    away = (ra - middle_ra(ra) + 180) % 360 - 180
    assert away.max() == pytest.approx(-away.min(), abs=1e-6)
    assert np.abs(away).max() <= 60 + 1e-6


@given(st.floats(-200, 200), st.floats(1e-3, 360))
def test_grid_lines_are_round_and_within_the_limits(low: float, width: float) -> None:
    lines = grid_lines(low, low + width)
    assert 2 <= len(lines) <= 11
    assert all(low - 1e-6 <= line <= low + width + 1e-6 for line in lines)
    steps = np.diff(lines)
    np.testing.assert_allclose(steps, steps[0], atol=1e-5)


def test_ra_rises_to_the_left_and_dec_upwards() -> None:
    sky = SkyMap(Figure().subplots(), np.array([box(ra, -30, 1) for ra in (350, 0, 10)]))
    west, middle, east, north = (
        sky.project(box(ra, dec, 1)[None]).mean(axis=(0, 1)) for ra, dec in ((350, -30), (0, -30), (10, -30), (0, -20))
    )
    assert east[0] < middle[0] < west[0]
    assert north[1] > middle[1]
    assert middle[0] == pytest.approx(0, abs=1)


def shoelace(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@given(st.floats(0, 360), st.floats(-80, 80), st.floats(0, 360))
def test_equal_areas_of_the_sky_are_equal_on_the_map_and_no_tile_is_torn(ra: float, dec: float, turn: float) -> None:
    sky = SkyMap(Figure().subplots(), np.array([box(turn, 0, 1), box(turn + 80, 0, 1)]))
    assume(abs((ra - turn - 40 + 180) % 360 - 180) < 170)
    (points,) = sky.project(box(ra, dec, 0.5)[None])
    area = 0.5 * np.degrees(np.sin(np.radians(dec + 0.25)) - np.sin(np.radians(dec - 0.25)))
    assert shoelace(points) == pytest.approx(area, rel=0.01)


# ---- the pictures


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles with thresholds in every band, in a tile table that lists a wide survey without files."""
    folder = tmp_path_factory.mktemp("figures") / "survey"
    recipe = make_survey(folder, tiles=2, tile_size=300, objects=40, seed=2)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    boxes = [[f"T{n}", *corners[0], *corners[2]] for n, corners in enumerate(wide_survey()[::7].tolist())]
    boxes += [[name, 54.0, -28.01, 54.02, -27.99] for name in names]
    (folder / "tiles.csv").write_text("tile,RALL,DECLL,RAUR,DECUR\n" + "\n".join(",".join(map(str, b)) for b in boxes))
    text = recipe.read_text().replace("[survey]", '[survey]\ntiles = "tiles.csv"')
    text = re.sub(
        r"(?m)^max_background_rms = .*$", "max_background_rms = { g = 2.4, r = 3.2, i = 5.9, z = 11, Y = 40 }", text
    )
    text = re.sub(r"(?m)^min_depth = .*$", "min_depth = { g = 25.2, r = 24.8, i = 24.2, z = 23.5, Y = 22.1 }", text)
    recipe.write_text(text)
    return folder


@pytest.fixture(scope="module", params=["plan", "plan without a tile table", "status", "status of a wide survey"])
def figure(request: pytest.FixtureRequest, survey: Path, demo_archive: Path) -> Any:
    """Return each kind of plot, drawn."""
    with style():
        if request.param.startswith("plan"):
            recipe = load_recipe(survey / "survey.toml")
            forecast = plan(survey / "survey.toml", sample=2)
            if request.param != "plan":
                recipe = recipe.model_copy(update={"survey": recipe.survey.model_copy(update={"tiles": None})})
            made = plan_figure(forecast, recipe)
        else:
            coverage = read_coverage(demo_archive)
            if request.param != "status":
                corners = wide_survey()
                depth = np.random.default_rng(1).normal(24, 0.1, (len(corners), 5))
                depth[:50, 4] = np.nan
                coverage = Coverage("DES-like", tuple("grizY"), corners, np.arange(len(corners)) % 50 == 0, depth, ())
            made = status_figure(coverage)
        FigureCanvasAgg(made).draw()
    return made


def texts(figure: Any) -> list[Any]:
    """Return the visible texts of a figure, without matplotlib's hidden tick labels beyond the ends of an axis."""
    unseen = set()
    for axis in figure.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                unseen |= {tick.label1, tick.label2}
    written = (text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip())
    return [text for text in written if text not in unseen]


def test_no_text_overlaps_another_or_leaves_the_page(figure: Any) -> None:
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts(figure)]
    assert len(boxes) > 30
    page = figure.bbox
    for name, at in boxes:
        assert page.x0 - 1 <= at.x0 < at.x1 <= page.x1 + 1, name
        assert page.y0 - 1 <= at.y0 < at.y1 <= page.y1 + 1, name
    for (one, a), (other, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        up = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across < 1 or up < 1, f"{one!r} and {other!r} overlap"


TILES_ON_MAP = {
    "plan": 2 + len(wide_survey()[::7]),
    "plan without a tile table": 2,
    "status": 2,
    "status of a wide survey": len(wide_survey()),
}
"""Tiles on each map of a plot: sampled tiles and those of the tile table, or the tiles of the archive."""


def test_every_map_has_all_tiles(figure: Any, request: pytest.FixtureRequest) -> None:
    maps = [axes for axes in figure.axes if axes.get_xlabel() == "RA"]
    assert maps
    expected = TILES_ON_MAP[request.node.callspec.params["figure"]]
    for axes in maps:
        left, right = axes.get_xlim()
        drawn = [path.vertices[:, 0] for tiles in axes.findobj(PolyCollection) for path in tiles.get_paths()]
        assert len(drawn) == expected
        assert all(left < x.min() < x.max() < right for x in drawn)


def test_thresholds_are_drawn_at_the_recipes_values_in_their_bands_colours(figure: Any, survey: Path) -> None:
    noise = [axes for axes in figure.axes if axes.get_xlabel() == "background RMS (image units)"]
    if not noise:
        pytest.skip("the picture has no thresholds")
    limits = load_recipe(survey / "survey.toml").quality.max_background_rms
    drawn = {line.get_color(): line.get_xdata()[0] for line in noise[0].lines if len(set(line.get_xdata())) == 1}
    assert drawn == {band_colors(list(limits))[band]: limit for band, limit in limits.items()}


@given(st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=9, unique=True))
def test_up_to_six_bands_have_distinct_colours(bands: list[str]) -> None:
    colors = band_colors(bands)
    assert list(colors) == bands
    if len(bands) <= 6:
        assert len(set(colors.values())) == len(bands)


def test_colour_of_a_usual_band_does_not_depend_on_the_other_bands() -> None:
    assert band_colors(["r"])["r"] == band_colors(["g", "r", "Y"])["r"] == band_colors(list("ugrizy"))["r"]


@pytest.mark.parametrize(("ending", "begins"), [("png", b"\x89PNG\r\n"), ("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_picture_has_the_format_of_its_file_name(
    demo_archive: Path, tmp_path: Path, ending: str, begins: bytes
) -> None:
    path = tmp_path / f"picture.{ending}"
    result = run("status", demo_archive, "--plot", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert path.read_bytes().startswith(begins)


def test_plan_draws_and_also_prints_the_forecast(survey: Path, tmp_path: Path) -> None:
    result = run("plan", survey / "survey.toml", "--sample", 1, "--plot", tmp_path / "plan.pdf")
    assert result.exit_code == 0
    assert result.stdout.startswith("Demo: 2 tiles, ")
    assert (tmp_path / "plan.pdf").stat().st_size > 10_000


def test_picture_counts_the_failed_tiles_without_a_shard(demo_survey: Path, tmp_path: Path) -> None:
    survey = Path(shutil.copytree(demo_survey, tmp_path / "survey"))
    next(survey.glob("*/*_cat.fits")).unlink()
    from archive_builder.builder.driver import build

    build(survey / "survey.toml", tmp_path / "archive")
    assert archive_status(tmp_path / "archive").build.failed == 1
    with style():
        figure = status_figure(read_coverage(tmp_path / "archive"))
    assert any("not drawn: 1 that failed and never had a shard" in text.get_text() for text in texts(figure))


# ---- errors


@pytest.mark.parametrize("command", ["plan", "status"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture.jpg", "picture.jpg: unknown format: use one of .png, .pdf, .svg"),
        ("nowhere/x.png", "nowhere does not exist: create it"),
    ],
)
def test_picture_that_cannot_be_written_is_refused_before_the_command_runs(
    demo_survey: Path, demo_archive: Path, tmp_path: Path, command: str, name: str, words: str
) -> None:
    what = demo_survey / "survey.toml" if command == "plan" else demo_archive
    result = run(command, what, "--plot", tmp_path / name)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert words in result.stderr


@pytest.mark.parametrize("command", ["plan", "status"])
def test_missing_matplotlib_is_an_error_on_one_line_with_the_remedy(
    demo_survey: Path, demo_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    what = demo_survey / "survey.toml" if command == "plan" else demo_archive
    result = run(command, what, "--plot", tmp_path / "picture.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: plot: matplotlib is not installed: pip install '.[plot]'\n"
