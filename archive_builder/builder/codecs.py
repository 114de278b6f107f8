"""Choice of the codecs of a tile: quantization steps from the noise of a sample of its rows, scale of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import TileError
from archive_builder.measure.noise import cell_rms, sample_rows
from archive_builder.measure.quantize import (
    WEIGHT_STEP,
    Codec,
    Flags,
    Flags64,
    LogScaled,
    Lossless,
    NoiseScaled,
    step_for,
    step_without_noise,
)
from archive_builder.survey.tile import Tile

MOST_ROUNDED = 1e-3
"""Maximum fraction of pixels that float32 may round by more than half a quantization step."""


def choose_codecs(tile: Tile, quantization: float | str, mesh: int, planes: Sequence[str] = ()) -> dict[str, Codec]:
    """Return the codec of each plane; the quantization steps of the image follow from a sample of its rows."""
    every = range(len(tile.bands))
    ones = (1.0,) * len(tile.bands)
    is_lossless = isinstance(quantization, str)
    rms = [np.nan if is_lossless and "WGT" not in planes else _median_rms(tile, band, mesh) for band in every]
    if "WGT" in planes:
        tile.scale_weights([_weight_scale(tile, band, rms[band], mesh) for band in every])
    if is_lossless:
        codecs: dict[str, Codec] = {"SCI": Lossless(ones), "WGT": Lossless(ones)}
    else:
        steps = tuple(_step(tile, band, rms[band], float(quantization), mesh) for band in every)
        codecs = {"SCI": NoiseScaled(steps), "WGT": LogScaled((WEIGHT_STEP,) * len(tile.bands))}
        for band in every:
            _check_float32_holds(tile, band, steps[band], mesh)
    if "MSK" in planes:
        codecs["MSK"] = Flags64(ones) if tile.mask_dtype().itemsize > 4 else Flags(ones)
    return {plane: codecs[plane] for plane in ("SCI", *planes)}


def _median_rms(tile: Tile, band: int, mesh: int) -> float:
    """Return the median background RMS of a sample of a band's rows; NaN if it cannot be measured."""
    rms = np.concatenate([cell_rms(rows, mesh) for rows in _level_strips(tile, band, sample_rows(tile.shape[0], mesh))])
    return float(np.nanmedian(rms)) if np.isfinite(rms).any() else float("nan")


def _level_strips(tile: Tile, band: int, rows: list[tuple[int, int]]) -> Iterator[NDArray[np.float32]]:
    """Yield strips of one band, float32 (rows, nx), from which noise can be measured.

    The median level is subtracted where float32 cannot hold the pixels: rounding would hide or replace their noise.
    """
    for (y0, y1), strip in zip(rows, _strips(tile, band, rows), strict=True):
        exact = tile.read_exactly(band, y0, y1)
        known = np.isfinite(strip)
        if exact is not None and known.any():
            strip[known] = exact[known] - np.median(exact[known])
        yield strip


def _weight_scale(tile: Tile, band: int, rms: float, mesh: int) -> float:
    """Return the factor that makes a band's relative weights inverse variance: 1 / (median weight * RMS^2); else 1.

    The factor is 0 for a band without measurable noise or without weights: its weights say nothing.
    """
    parts = [tile.relative_weights(band, y0, y1) for y0, y1 in sample_rows(tile.shape[0], mesh)]
    known = [part[np.isfinite(part) & (part > 0)] for part in parts if part is not None]
    if not known:
        return 1.0
    weights = np.concatenate(known)
    return 1.0 / (float(np.median(weights)) * rms**2) if len(weights) and rms > 0 else 0.0


def _check_float32_holds(tile: Tile, band: int, step: float, mesh: int) -> None:
    """Refuse a band with pixels that float32 rounds by more than half a quantization step.

    A few bright pixels may be rounded so, up to `MOST_ROUNDED` of a sample of the rows: their error is 6e-8 of their
    value.

    Raises
    ------
    TileError
        More pixels are rounded.
    """
    rounded = known = 0
    worst = 0.0
    for y0, y1 in sample_rows(tile.shape[0], mesh):
        exact = tile.read_exactly(band, y0, y1)
        if exact is None:
            return
        (strip,) = _strips(tile, band, [(y0, y1)])
        exact = exact[np.isfinite(strip)].astype(np.longdouble)
        with np.errstate(over="ignore"):
            error = np.abs(exact.astype(np.float32) - exact)
        rounded, known = rounded + int((error > step / 2).sum()), known + len(error)
        worst = max(worst, float(error.max(initial=0.0)))
    if rounded > MOST_ROUNDED * known:
        raise TileError(
            f"band {tile.bands[band]}: float32 would round its pixels by up to {worst:.3g}, more than half a "
            f"quantization step of {step:.3g}: subtract the constant level of the image, or lower storage.quantization"
        )


def _step(tile: Tile, band: int, rms: float, levels: float, mesh: int) -> float:
    """Return the quantization step of one band from its median background RMS."""
    if np.isfinite(rms):
        return step_for(rms, levels)
    everything = [(y, min(y + mesh, tile.shape[0])) for y in range(0, tile.shape[0], mesh)]
    largest = 0.0
    for rows in _strips(tile, band, everything):
        finite = rows[np.isfinite(rows)]
        largest = max(largest, float(np.abs(finite).max(initial=0.0)))
    return step_without_noise(largest)


def _strips(tile: Tile, band: int, rows: list[tuple[int, int]]) -> Iterator[NDArray[np.float32]]:
    """Yield strips of one band, float32 (rows, nx)."""
    for y0, y1 in rows:
        strip = np.empty((y1 - y0, tile.shape[1]), dtype=np.float32)
        tile.read_band(band, y0, y1, strip)
        yield strip
