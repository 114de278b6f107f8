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
"""Colours of tiles by state."""

UNKNOWN = "#c8c8c8"
"""Colour of a tile whose depth could not be measured."""

WIDTH, FURNITURE = 3.8, 1.15
"""Width of a map, and height of its title, labels and scale together, inches."""


@dataclass(frozen=True)
class Coverage:
    """Footprints, states and depths of the tiles with a shard."""

    survey: str
    """Name of the survey."""

    bands: tuple[str, ...]
    """Names of the bands."""

    corners: NDArray[np.float64]
    """RA and Dec of the corners, deg, (N, 4, 2)."""

    failed: NDArray[np.bool_]
    """True where the last attempt failed and an older shard is served, (N,)."""

    depth: NDArray[np.float64]
    """Depth, AB mag, NaN where not measured, (N, bands)."""

    not_drawn: tuple[str, ...]
    """Tiles missing from the picture, in words: the position of a tile is not known before it is built."""


def read_coverage(archive: Path) -> Coverage:
    """Read footprints, states and depths of an archive's tiles from its index.

    Raises
    ------
    ArchiveError
        The folder is not an archive, or has no finished tile.
    """
    build = archive_status(archive).build
    with Index(archive) as index:
        settings, tiles = index.settings, index.tiles()
        kept = [tile for tile in tiles if tile.shard]
        if settings is None or not kept:
            raise NoArchiveError(f"archive {archive}: has no finished tile to draw: build it first")
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
        matplotlib is not installed, or the file's name or folder is wrong.
    ArchiveError
        The folder is not an archive, or has no finished tile.
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
    """Draw the state of each tile."""
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
    """Draw the depth of each tile in one band."""
    depth = coverage.depth[:, number]
    known = np.isfinite(depth)
    sky = SkyMap(axes, coverage.corners)
    if not known.all():
        sky.draw(coverage.corners[~known], facecolor=UNKNOWN)
    axes.set_title(f"{band}: not measured")
    if known.any():
        beyond = 1 if len(depth) > FEW else 0  # per cent of the tiles beyond each end of the scale
        low, high = np.percentile(depth[known], [beyond, 100 - beyond])
        tiles = sky.draw(coverage.corners[known], array=depth[known], cmap="viridis")
        tiles.set_clim(low - 0.005, high + 0.005)
        sky.color_bar(tiles, "depth (AB mag, 5σ in 1.95″)")
        axes.set_title(f"{band}: median {np.median(depth[known]):.2f}")
