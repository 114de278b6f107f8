"""Plot of the forecast of an archive: noise, thresholds, cost and footprint on one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from archive_builder import units
from archive_builder.cli.figures import SkyMap, band_colors, check_plot, save, style
from archive_builder.forecast.estimate import Distribution
from archive_builder.forecast.forecast import Criterion, Forecast
from archive_builder.survey.footprints import tile_corners
from archive_builder.survey.recipe import Recipe

PAGE = (11.7, 8.3)
"""Size of the page, inches: A4, landscape."""

LIMIT = {"linestyle": (0, (4, 2)), "linewidth": 1.2}
"""Line style of the recipe's thresholds."""

ROUND_TIMES = (0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 70 * 86400)
"""Ticks of the axis of wall time, s."""

SAMPLED, OTHERS, INCOMPLETE = "#e8590c", "#c9d6e4", "#f2c4c4"
"""Colours of the tiles."""

BARS, OWN = "#b8c4d0", "#2b6cb0"
"""Colours of the alternatives and of the recipe's storage."""


def plot_plan(forecast: Forecast, recipe: Recipe, path: Path) -> None:
    """Plot a forecast to a file.

    Parameters
    ----------
    forecast : Forecast
    recipe : Recipe
        Recipe of the archive. Its tile table may give the positions of the other tiles.
    path : Path
        File to write: ``.png``, ``.pdf`` or ``.svg``.

    Raises
    ------
    RequestError
        The plot cannot be made: matplotlib is not installed, or the name or folder of the file is wrong.
    """
    check_plot(path)
    with style():
        save(plan_figure(forecast, recipe), path)


def plan_figure(forecast: Forecast, recipe: Recipe) -> Any:
    """Return the plot of a forecast, a matplotlib `Figure`."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=PAGE, layout=ConstrainedLayoutEngine(hspace=0.07, wspace=0.04))
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 1.25))
    page = _Page(forecast, band_colors([band.band for band in forecast.bands]))
    first = figure.add_subplot(grid[0, 0])
    page.histograms(first, "rms")
    page.histograms(figure.add_subplot(grid[0, 1]), "depth")
    page.storages(figure.add_subplot(grid[0, 2]))
    page.curves(figure.add_subplot(grid[1, 0]), "max_background_rms")
    page.curves(figure.add_subplot(grid[1, 1]), "min_depth")
    page.curves(figure.add_subplot(grid[1, 2]), "max_blank_fraction")
    page.footprint(figure.add_subplot(grid[2, :2]), recipe)
    page.wall_times(figure.add_subplot(grid[2, 2]))
    figure.suptitle(page.title(), x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=len(forecast.bands))
    return figure


class _Page:
    """Panels of the page."""

    def __init__(self, forecast: Forecast, colors: dict[str, str]) -> None:
        self._forecast, self._colors = forecast, colors

    def title(self) -> str:
        """Return the title: the totals of the forecast."""
        forecast, own = self._forecast, self._forecast.storages[0]
        return (
            f"{forecast.survey}: {forecast.tiles:,} tiles, {units.count(forecast.objects.value)} objects, "
            f"{units.share(forecast.stored.value, forecast.objects.value)} stored: "
            f"{units.size(own.bytes.value)}, {own.core_hours.value:,.3g} core hours"
        )

    def histograms(self, axes: Any, quantity: str) -> None:
        """Plot the noise distribution of each band, with the recipe's thresholds."""
        for band in self._forecast.bands:
            shown: Distribution = getattr(band, quantity)
            if shown.counts:
                share = 100 * np.array(shown.counts) / sum(shown.counts)
                style = {"color": self._colors[band.band], "label": band.band}
                axes.stairs(share, shown.edges, fill=True, alpha=0.25, color=style["color"])
                axes.stairs(share, shown.edges, linewidth=1.1, **style)
        self._draw_limits(axes, "max_background_rms" if quantity == "rms" else "min_depth", 0.97)
        axes.set(ylabel="objects per bin (%)", ylim=(0, None))
        if quantity == "rms":
            _logarithmic(axes)
            axes.set(xlabel="background RMS (image units)", title="noise at the objects")
        else:
            axes.set(xlabel="depth (AB mag, 5σ in 1.95″)", title="depth at the objects")

    def curves(self, axes: Any, key: str) -> None:
        """Plot the objects that the thresholds of one key select, each band by itself."""
        for criterion in self._criteria(key):
            color = self._color(criterion)
            axes.plot([k.threshold for k in criterion.curve], [100 * k.share for k in criterion.curve], color=color)
            if criterion.limit is not None and criterion.kept_by_limit is not None:
                axes.plot(criterion.limit, 100 * criterion.kept_by_limit, "o", color=color, markersize=4)
        self._draw_limits(axes, key, 0.5)
        axes.set(ylim=(0, 104), ylabel="objects kept (%)", title=f"kept by {key} alone")
        if key == "max_background_rms":
            _logarithmic(axes)
            axes.set_xlabel("largest background RMS (image units)")
        else:
            axes.set_xlabel("smallest depth (AB mag)" if key == "min_depth" else "largest fraction without data")

    def _criteria(self, key: str) -> Sequence[Criterion]:
        if key == "max_blank_fraction":
            return [self._forecast.blank]
        return [getattr(band, key) for band in self._forecast.bands]

    def _color(self, criterion: Criterion) -> str:
        return self._colors[criterion.band] if criterion.band else "#444444"

    def _draw_limits(self, axes: Any, key: str, height: float) -> None:
        """Draw the recipe's thresholds of one key; each label stands lower than the one before."""
        for row, criterion in enumerate(c for c in self._criteria(key) if c.limit is not None):
            color = self._color(criterion)
            axes.axvline(criterion.limit, color=color, **LIMIT)
            axes.annotate(
                f"{criterion.band or ''} {criterion.limit:g}".strip(),
                (criterion.limit, height - 0.08 * row),
                xycoords=("data", "axes fraction"),
                xytext=(3, 0),
                textcoords="offset points",
                color=color,
                fontsize=7.5,
                va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
            )

    def storages(self, axes: Any) -> None:
        """Plot the cost of each layout and quantization."""
        ways = self._forecast.storages
        sizes = [way.bytes.value for way in ways]
        axes.barh(range(len(ways)), sizes, color=[OWN, *[BARS] * (len(ways) - 1)], height=0.65)
        for row, way in enumerate(ways):
            text = f"{units.size(way.bytes.value)}, {way.core_hours.value:,.3g} h"
            axes.annotate(
                text, (way.bytes.value, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
            )
        names = [
            f"{w.layout} {w.quantization if isinstance(w.quantization, str) else f'q={w.quantization:g}'}" for w in ways
        ]
        axes.set_yticks(range(len(ways)), names)
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.set_xscale("log")
        axes.set(xlim=(min(sizes) / 3, max(sizes) * 30), title="size and core hours (bold: the recipe)")
        axes.xaxis.set_major_formatter(lambda value, _: re.sub(r"\.0+ ", " ", units.size(value)))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)

    def wall_times(self, axes: Any) -> None:
        """Plot the wall time by the number of workers."""
        walls = sorted(self._forecast.wall, key=lambda wall: wall.workers)
        workers, seconds = [wall.workers for wall in walls], [wall.seconds for wall in walls]
        axes.plot(workers, seconds, "o-", color=OWN, markersize=4)
        for at in zip(workers, seconds, strict=True):
            text = units.duration(at[1])
            axes.annotate(text, at, xytext=(4, 3), textcoords="offset points", fontsize=7.5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        low, high = min(seconds) / 2, max(seconds) * 2
        ticks = [time for time in ROUND_TIMES if low <= time <= high]
        axes.set_xticks(workers, [str(n) for n in workers])
        axes.set_yticks(ticks, [units.duration(time) for time in ticks])
        axes.minorticks_off()
        axes.set(xlim=(min(workers) / 2, max(workers) * 8), ylim=(low, high))
        axes.set(xlabel="workers", title="wall time, if the disks are fast enough")

    def footprint(self, axes: Any, recipe: Recipe) -> None:
        """Draw the sampled tiles, and the other tiles with a known position."""
        sampled = np.array([tile.footprint for tile in self._forecast.sampled])
        side = float(np.median(np.ptp(sampled[..., 1], axis=1)))
        others, columns = tile_corners(recipe, side)
        for tile in self._forecast.sampled:
            others.pop(tile.tile, None)
        known = np.array([*others.values()]).reshape(-1, 4, 2)
        there = np.array([tile not in self._forecast.incomplete for tile in others], dtype=bool)
        sky = SkyMap(axes, np.concatenate([sampled, known]))
        for chosen, color in ((there, OTHERS), (~there, INCOMPLETE)):
            sky.draw(known[chosen], facecolor=color)
        sky.draw(sampled, facecolor="#e8590c55", edgecolor=SAMPLED, linewidth=1.0, zorder=3)
        if side < 0.05 * sky.width:
            centres = sky.project(sampled).mean(axis=1)
            axes.plot(*centres.T, "o", color=SAMPLED, markersize=8, markerfacecolor="none", zorder=4)
        axes.set_title(self._caption(int(there.sum()), int((~there).sum()), columns), fontweight="normal", fontsize=8)

    def _caption(self, others: int, incomplete: int, columns: str) -> str:
        """Return the caption of the map: its tiles and the source of their positions."""
        sampled, missing = len(self._forecast.sampled), f", {incomplete:,} incomplete ones (pink)" if incomplete else ""
        if others or incomplete:
            drawn = f"{sampled} sampled tiles (orange) from their headers,"
            return f"footprint: {drawn}\n{others:,} others{missing} from the tile table's {columns}"
        if sampled == self._forecast.tiles:
            return "footprint: all tiles, all of them sampled"
        why = f"{columns} give no tile's position" if columns else "no tile table gives RA and Dec of the others"
        return f"footprint: only the {sampled} sampled tiles; {why}"


def _logarithmic(axes: Any) -> None:
    """Make the x axis logarithmic, with labels at 1, 2, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
