"""Plots with matplotlib, an optional dependency: style, band colours and maps of the sky."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import RequestError, one_line

FORMATS = (".png", ".pdf", ".svg")
"""File name extensions of a plot."""

BAND_COLORS = {
    "u": "#7a4fbf",
    "g": "#1f9e50",
    "r": "#d62f27",
    "i": "#e88b00",
    "z": "#1f5fb0",
    "y": "#222222",
    "j": "#8c6d31",
    "h": "#a0522d",
    "k": "#6b0f1a",
}
"""Colours of bands by the first letter of the name.

In every kind of colour vision, two of them differ by at least a tenth of the difference between black and white.
"""

OTHER_COLORS = ("#4c78a8", "#b279a2", "#72b7b2", "#9d755d", "#bab0ac", "#54a24b")
"""Colours of the other bands, in turn, and of bands that share a first letter."""

STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "pdf.fonttype": 42,
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "archive-builder",
}
"""Style of all plots: matplotlib's rc parameters."""

STEPS = (45.0, 30.0, 15.0, 10.0, 5.0, 2.0, 1.0)
"""Steps of the sky grid, deg; for smaller maps, 5, 2 and 1 times a negative power of ten."""

FEW = 300
"""Number of tiles below which each tile has a white edge."""


def check_plot(path: Path) -> None:
    """Check that a plot can be made, before the work for its contents.

    Raises
    ------
    RequestError
        The name does not end in one of `FORMATS`, the folder does not exist, or matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise RequestError(f"plot {path}: unknown format: use one of {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise RequestError(f"plot {path}: folder {path.parent} does not exist: create it")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise RequestError("plot: matplotlib is not installed: pip install '.[plot]'") from None


@contextmanager
def style() -> Iterator[None]:
    """Apply `STYLE` inside a ``with`` block, without a change to other users of matplotlib in the process."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def save(figure: Any, path: Path) -> None:
    """Write a figure to a file.

    Raises
    ------
    RequestError
        The file cannot be written.
    """
    try:
        figure.savefig(path, dpi=150, metadata={"Creator": "archive-builder"} if path.suffix == ".pdf" else None)
    except OSError as error:
        raise RequestError(f"plot {path}: cannot be written: {one_line(error)}") from None


def band_colors(bands: Sequence[str]) -> dict[str, str]:
    """Return a colour for each band, the same in every plot."""
    colors: dict[str, str] = {}
    others = iter(OTHER_COLORS * (len(bands) // len(OTHER_COLORS) + 1))
    for band in bands:
        usual = BAND_COLORS.get(band[0].lower())
        colors[band] = usual if usual and usual not in colors.values() else next(others)
    return colors


class SkyMap:
    """Equal-area map of part of the sky, with RA increasing to the left.

    The projection is sinusoidal: ``x = -(RA - middle) cos(Dec)``, ``y = Dec``. The map is cut where the survey
    has a gap in RA.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    corners : ndarray of float64, (N, 4, 2)
        RA and Dec of all tiles of the map, deg; N is at least 1.
    """

    def __init__(self, axes: Any, corners: NDArray[np.float64]) -> None:
        self._axes = axes
        self._tiles = len(corners)
        self._middle = middle_ra(corners[:, 0, 0])
        axes.set_aspect("equal")
        axes.spines[:].set(visible=True, color="#888888", linewidth=0.6)
        self._frame(self.project(corners))

    @property
    def width(self) -> float:
        """Width of the map, deg."""
        left, right = self._axes.get_xlim()
        return float(right - left)

    @property
    def width_to_height(self) -> float:
        """Width of the map divided by its height."""
        bottom, top = self._axes.get_ylim()
        return self.width / float(top - bottom)

    def project(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions of corners (N, 4, 2) on the map; the four corners of a tile stay together."""
        first = corners[:, :1, 0]
        offset = _wrapped(first - self._middle) + _wrapped(corners[..., 0] - first)
        return np.stack([-offset * np.cos(np.radians(corners[..., 1])), corners[..., 1]], axis=-1)

    def draw(self, corners: NDArray[np.float64], **style: Any) -> Any:
        """Draw tiles, (N, 4, 2), and return their `PolyCollection`, which takes the keyword arguments."""
        from matplotlib.collections import PolyCollection

        # With many tiles, white edges would cover the tiles.
        edge = (
            {"edgecolor": "white", "linewidth": 0.5} if self._tiles < FEW else {"edgecolor": "face", "linewidth": 0.1}
        )
        return self._axes.add_collection(PolyCollection(list(self.project(corners)), **{**edge, **style}))

    @property
    def below(self) -> Any:
        """Axes coordinates, 0 to 1, moved down below the labels of the map."""
        from matplotlib.transforms import ScaledTranslation

        return self._axes.transAxes + ScaledTranslation(0, -self._room_below, self._axes.figure.dpi_scale_trans)

    def color_bar(self, tiles: Any, label: str) -> None:
        """Draw a colour bar below the map, for tiles drawn with an ``array``."""
        scale = self._axes.inset_axes((0.1, -0.045, 0.8, 0.045), transform=self.below)
        low, high = tiles.get_clim()
        goes_on = tiles.get_array().min() < low or tiles.get_array().max() > high
        extend = "both" if goes_on else "neither"
        bar = self._axes.figure.colorbar(tiles, cax=scale, orientation="horizontal", extend=extend)
        bar.outline.set_linewidth(0.5)
        bar.set_label(label)

    def _frame(self, points: NDArray[np.float64]) -> None:
        """Set the limits and draw the grid of RA and Dec."""
        low, high = points.reshape(-1, 2).min(axis=0), points.reshape(-1, 2).max(axis=0)
        margin = 0.04 * float((high - low).max())
        (left, bottom), (right, top) = low - margin, high + margin
        bottom, top = max(bottom, -90.0), min(top, 90.0)
        self._axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="RA", ylabel="Dec")
        self._axes.grid(False)
        edge = top if abs(top) < abs(bottom) and top - bottom > 10 else bottom  # the wider edge
        self._draw_parallels(bottom, top)
        self._draw_meridians(bottom, top, max(-left, right), edge)
        self._room_below = 0.45
        if edge == top:
            self._room_below = 0.15
            self._axes.xaxis.tick_top()
            self._axes.xaxis.set_label_position("top")

    def _draw_parallels(self, bottom: float, top: float) -> None:
        places = grid_lines(bottom, top)
        self._axes.set_yticks(places, [_degrees(place, places) for place in places])
        for place in places:
            self._axes.axhline(place, color="#e0e0e0", linewidth=0.5, zorder=0)

    def _draw_meridians(self, bottom: float, top: float, half_width: float, edge: float) -> None:
        """Draw the lines of equal RA, with labels at one edge of the map."""
        reach = min(180.0, half_width / max(math.cos(math.radians(edge)), 1e-3))
        places = grid_lines(self._middle - reach, self._middle + reach)
        dec = np.linspace(bottom, top, 60)
        for place in places:
            x = -(place - self._middle) * np.cos(np.radians(dec))
            self._axes.plot(x, dec, color="#e0e0e0", linewidth=0.5, zorder=0, scalex=False, scaley=False)
        left, right = self._axes.get_xlim()
        at = {-(place - self._middle) * math.cos(math.radians(edge)): place for place in places}
        seen = {x: _degrees(place % 360.0, places) for x, place in at.items() if left <= x <= right}
        self._axes.set_xticks(list(seen), list(seen.values()))


def middle_ra(ra: ArrayLike) -> float:
    """Return the middle of the shortest arc that contains all RA values, deg."""
    ordered = np.unique(np.asarray(ra, dtype=np.float64) % 360.0)
    gaps = np.diff(ordered, append=ordered[0] + 360.0)
    widest = int(gaps.argmax())
    return float((ordered[widest] + gaps[widest] + (360.0 - gaps[widest]) / 2) % 360.0)


def grid_lines(low: float, high: float) -> list[float]:
    """Return round values between two limits, deg: about five, or three if the labels are long."""
    least = 4 if high - low > 4 else 2.5
    steps = [step * 10.0**-power for power in range(6) for step in (STEPS if power == 0 else STEPS[-3:])]
    step = next((step for step in steps if (high - low) / step >= least), steps[-1])
    return [round(n * step, 6) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _wrapped(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return angles wrapped to -180 to 180, deg."""
    return (angle + 180.0) % 360.0 - 180.0


def _degrees(value: float, places: Sequence[float]) -> str:
    """Return an angle as text, with the digits that distinguish the places of a grid."""
    step = abs(places[1] - places[0]) if len(places) > 1 else 1.0
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return f"{value:.{digits}f}°".replace("-", "−")
