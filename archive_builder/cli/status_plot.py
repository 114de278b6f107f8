"""An archive's footprint as a picture: its tiles by state, and each band's depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.builder.status import archive_status
from archive_builder.cli.figures import FEW, SkyMap, check_plot, save, style
from archive_builder.errors import NoArchiveError
from archive_builder.store.index import Index

STATE_COLORS = {"built": "#4c9f70", "failed, its older cutouts are served": "#d62f27"}
"""What has become of a tile that is there to be drawn."""

UNKNOWN = "#c8c8c8"
"""Where a depth could not be measured."""


WIDTH, FURNITURE = 3.8, 1.15
"""Inches: how wide a map is, and how much its title, its labels and its scale need above and below."""


@dataclass(frozen=True)
class Coverage:
    """The tiles that have a shard, where they are and how deep."""

    survey: str
    """The survey's name."""

    bands: tuple[str, ...]
    """The bands."""

    corners: NDArray[np.float64]
    """RA and Dec in deg, (N, 4, 2)."""

    failed: NDArray[np.bool_]
    """Tiles whose last attempt failed, so that an older shard is served, (N,)."""

    depth: NDArray[np.float64]
    """AB mag, NaN where not measured, (N, bands)."""

    not_drawn: tuple[str, ...]
    """What is not on the picture, in words: nobody knows where a tile is that has never been built."""


def read_coverage(archive: Path) -> Coverage:
    """Read where an archive's tiles are and how deep, from its index.

    Raises
    ------
    ArchiveError
        The folder is no archive, or no tile of it has been built.
    """
    build = archive_status(archive).build
    with Index(archive) as index:
        settings, tiles = index.settings, index.tiles()
        kept = [tile for tile in tiles if tile.shard]
        if settings is None or not kept:
            raise NoArchiveError(f"{archive} is an archive in which nothing has been built yet: there is no footprint")
        depth = [index.depth(tile) for tile in kept]
        return Coverage(
            survey=settings.survey,
            bands=settings.bands,
            corners=np.array([index.footprint(tile) for tile in kept]),
            failed=np.array([tile.state == "failed" for tile in kept]),
            depth=np.array([[of.get(band) for band in settings.bands] for of in depth], dtype=np.float64),
            not_drawn=(
                *([f"{build.left:,} tiles left to build"] if build and build.left else ()),
                *([f"{len(tiles) - len(kept):,} that failed and never had a shard"] if len(tiles) > len(kept) else ()),
            ),
        )


def plot_status(archive: Path, path: Path) -> None:
    """Draw an archive's footprint by state and by depth.

    Parameters
    ----------
    archive : Path
    path : Path
        The picture: ``.png``, ``.pdf`` or ``.svg``.

    Raises
    ------
    RequestError
        The picture cannot be drawn: matplotlib is not there, or its name or folder is wrong.
    ArchiveError
        The folder is no archive, or no tile of it has been built.
    """
    check_plot(path)
    with style():
        save(status_figure(read_coverage(archive)), path)


def status_figure(coverage: Coverage) -> Any:
    """Return an archive's footprint as matplotlib's `Figure`."""
    from matplotlib.figure import Figure

    panels = 1 + len(coverage.bands)
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    sky = _draw_states(axes[0], coverage)
    figure.set_size_inches(WIDTH * columns, 0.5 + rows * (WIDTH / sky.width_to_height + FURNITURE))
    for number, band in enumerate(coverage.bands):
        _draw_depth(axes[1 + number], coverage, number, band)
    for unused in axes[panels:]:
        unused.set_axis_off()
    figure.suptitle(_title(coverage), fontsize=11, fontweight="bold")
    return figure


def _title(coverage: Coverage) -> str:
    title = f"{coverage.survey}: {len(coverage.corners):,} tiles in the archive"
    return f"{title}; not drawn: {', '.join(coverage.not_drawn)}" if coverage.not_drawn else title


def _draw_states(axes: Any, coverage: Coverage) -> SkyMap:
    """Draw what has become of each tile."""
    from matplotlib.patches import Patch

    sky = SkyMap(axes, coverage.corners)
    handles = []
    for (label, color), chosen in zip(STATE_COLORS.items(), (~coverage.failed, coverage.failed), strict=True):
        if chosen.any():
            sky.draw(coverage.corners[chosen], facecolor=color)
            handles.append(Patch(color=color, label=f"{label}: {int(chosen.sum()):,}"))
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=sky.below)
    axes.set_title("state")
    return sky


def _draw_depth(axes: Any, coverage: Coverage, number: int, band: str) -> None:
    """Draw how deep each tile is in one band."""
    depth = coverage.depth[:, number]
    known = np.isfinite(depth)
    sky = SkyMap(axes, coverage.corners)
    if not known.all():
        sky.draw(coverage.corners[~known], facecolor=UNKNOWN)
    axes.set_title(f"{band}: not measured")
    if known.any():
        beyond = 1 if len(depth) > FEW else 0  # per cent, at each end of the scale
        low, high = np.percentile(depth[known], [beyond, 100 - beyond])
        tiles = sky.draw(coverage.corners[known], array=depth[known], cmap="viridis")
        tiles.set_clim(low - 0.005, high + 0.005)
        sky.color_bar(tiles, "depth (AB mag, 5σ in 1.95″)")
        axes.set_title(f"{band}: median {np.median(depth[known]):.2f}")
