"""Codecs: pixels to stored values and back, with a bounded error.

Flux is quantized in steps of the noise as by fpack (Pence, Seaman & White 2009, PASP 121, 414), without dithering:
``stored = round(flux / step)``. The step is at most the band's background RMS over ``q``, so the error of a flux is at
most ``rms / (2 q)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

BLANK = -(2**31)
"""Stored integer of a pixel without data: the lowest int32, a common BLANK of FITS."""

LARGEST = 2**31 - 1
"""Largest stored integer."""

STEP_BITS = 5
"""Significant bits of a step.

Decoding rounds the product of a stored integer and a step to the 24 bits of a float32. With a step of 5 bits the
product is exact up to 2^19 steps (32,000 times the RMS at q = 16), and the bound holds to the last bit. Rounding the
step down costs 0.03 bits a pixel.
"""

BLOCK_ROWS = 16
"""Rows encoded at once: they stay in the processor's cache."""


class UnstorableError(ValueError):
    """The value of a pixel is larger than the largest stored integer.

    Attributes
    ----------
    value : float
        Value of the pixel, image units.
    band : int
        Number of the band.
    """

    def __init__(self, band: int, value: float) -> None:
        self.band = band
        self.value = value
        super().__init__(f"value {value:.6g} is too large for the quantization step")


def step_for(rms: float, levels: float) -> float:
    """Return the quantization step of a band: ``rms / levels``, rounded down to `STEP_BITS` bits.

    Parameters
    ----------
    rms : float
        Background RMS, image units; finite and positive.
    levels : float
        Steps per RMS, the ``q`` of fpack.

    Examples
    --------
    >>> step_for(20.0, 16)
    1.25
    """
    mantissa, exponent = math.frexp(rms / levels)
    return math.ldexp(math.floor(math.ldexp(mantissa, STEP_BITS)), exponent - STEP_BITS)


def step_without_noise(largest: float) -> float:
    """Return the quantization step of a band without measurable noise from its largest absolute value.

    A constant band is stored exactly. In any other band the error is at most 2^-31 of the largest value, which is
    finer than float32 near that value.
    """
    return math.ldexp(largest, -30) if largest > 0 and math.isfinite(largest) else 1.0


@dataclass(frozen=True)
class NoiseScaled:
    """Codec of flux: integers that count steps, ``flux = step * stored``."""

    step: tuple[float, ...]
    """Step per band, image units."""

    encoding = "linear"
    dtype = np.dtype("<i4")
    output = np.dtype(np.float32)
    blank = BLANK

    def encode(self, flux: NDArray[np.float32], out: NDArray[np.int32]) -> bool:
        """Quantize flux.

        Parameters
        ----------
        flux : ndarray of float32, (bands, rows, nx)
            Image units; a value that is not finite becomes blank.
        out : ndarray of int32, (bands, rows, nx)
            Receives the stored integers.

        Returns
        -------
        bool
            True if any pixel is blank.

        Raises
        ------
        UnstorableError
            A finite value is too large.
        """
        blank = False
        for band, step in enumerate(self.step):
            for y in range(0, flux.shape[1], BLOCK_ROWS):
                block = slice(y, y + BLOCK_ROWS)
                blank |= _encode(flux[band, block], 1.0 / step, band, out[band, block])
        return blank

    def decode(self, stored: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the flux of stored values (bands, ...), NaN where they are blank.

        The product is computed in float32 where that is exact, else in float64.
        """
        steps = np.array(self.step).reshape(-1, *[1] * (stored.ndim - 1))
        blank = stored == BLANK if stored.min(initial=0) == BLANK else None
        known = stored if blank is None else np.where(blank, 0, stored)
        if max(known.max(initial=0), -int(known.min(initial=0))) < 2**24:
            flux = known.astype(np.float32)
            flux *= steps.astype(np.float32)
        else:
            flux = (known * steps).astype(np.float32)
        if blank is not None:
            flux[blank] = np.nan
        return flux


def _encode(flux: NDArray[np.float32], per_unit: float, band: int, out: NDArray[np.int32]) -> bool:
    """Quantize some rows of one band, and return True if any pixel is blank."""
    # In float32 a quotient of 1e5 steps would exceed the bound by 1%.
    steps = np.multiply(flux, per_unit, dtype=np.float64)
    np.rint(steps, out=steps)
    lowest, highest = steps.min(), steps.max()
    blank = not (np.isfinite(lowest) and np.isfinite(highest))
    if blank:
        invalid = ~np.isfinite(steps)
        steps[invalid] = 0
        lowest, highest = steps.min(), steps.max()
    if highest > LARGEST or lowest < -LARGEST:
        raise UnstorableError(band, float((highest if highest > -lowest else lowest) / per_unit))
    np.copyto(out, steps, casting="unsafe")
    if blank:
        out[invalid] = BLANK
    return blank


@dataclass(frozen=True)
class Lossless:
    """Codec of flux without loss: float32 bit for bit."""

    step: tuple[float, ...]
    """1 for each band."""

    encoding = "exact"
    dtype = np.dtype("<f4")
    output = np.dtype(np.float32)
    blank = float("nan")

    def encode(self, flux: NDArray[np.float32], out: NDArray[np.float32]) -> bool:
        """Copy ``flux`` into ``out``, and return True if any pixel is blank."""
        np.copyto(out, flux)
        return bool(np.isnan(flux.min(initial=0.0)))

    def decode(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the stored values (bands, ...)."""
        return stored


WEIGHT_BLANK = -(2**15)
"""Stored value of a weight of zero and of a pixel off the tile."""

WEIGHT_STEP = 0.0198
"""Step of the logarithm of a weight: the error of a weight is at most 1%."""


@dataclass(frozen=True)
class LogScaled:
    """Codec of weights: integers that count steps of the logarithm, ``weight = exp(step * stored)``, 0 where blank."""

    step: tuple[float, ...]
    """`WEIGHT_STEP` for each band."""

    encoding = "log"
    dtype = np.dtype("<i2")
    output = np.dtype(np.float32)
    blank = WEIGHT_BLANK

    def encode(self, weight: NDArray[np.float32], out: NDArray[np.int16]) -> bool:
        """Quantize weights (bands, rows, nx). A weight that is not positive and finite is stored as blank."""
        for band, step in enumerate(self.step):
            for y in range(0, weight.shape[1], BLOCK_ROWS):
                block = weight[band, y : y + BLOCK_ROWS]
                known = (block > 0) & np.isfinite(block)
                steps = np.rint(np.log(np.where(known, block, 1)) / step)
                out[band, y : y + BLOCK_ROWS] = np.where(known, steps, WEIGHT_BLANK)
        return False

    def decode(self, stored: NDArray[np.int16]) -> NDArray[np.float32]:
        """Return the weights of stored values (bands, ...)."""
        steps = np.array(self.step, dtype=np.float32).reshape(-1, *[1] * (stored.ndim - 1))
        weight: NDArray[np.float32] = np.exp(stored * steps)
        weight[stored == WEIGHT_BLANK] = 0
        return weight


@dataclass(frozen=True)
class Flags:
    """Codec of a mask: its integers unchanged."""

    step: tuple[float, ...]
    """1 for each band."""

    encoding = "flags"
    dtype: ClassVar[np.dtype[Any]] = np.dtype("<i4")
    output: ClassVar[np.dtype[Any]] = np.dtype(np.int32)
    blank = -1
    """Flags of a pixel off the tile: every bit is set."""

    def encode(self, flags: NDArray[np.signedinteger[Any]], out: NDArray[np.signedinteger[Any]]) -> bool:
        """Copy ``flags`` into ``out``."""
        np.copyto(out, flags)
        return False

    def decode(self, stored: NDArray[np.signedinteger[Any]]) -> NDArray[np.signedinteger[Any]]:
        """Return the stored flags."""
        return stored


@dataclass(frozen=True)
class Flags64(Flags):
    """Codec of a mask whose file has more than 32 bits a pixel, or 32 bits without sign."""

    encoding = "flags64"
    dtype = np.dtype("<i8")
    output = np.dtype(np.int64)


Codec = NoiseScaled | Lossless | LogScaled | Flags
"""Stored form of a plane's pixels."""


def codec_of(encoding: str, step: tuple[float, ...]) -> Codec:
    """Return the codec of an encoding.

    Parameters
    ----------
    encoding : str
        ``linear``, ``exact``, ``log``, ``flags`` or ``flags64``.
    step : tuple of float
        Step per band.

    Raises
    ------
    ValueError
        The encoding is unknown.
    """
    for kind in (NoiseScaled, Lossless, LogScaled, Flags, Flags64):
        if kind.encoding == encoding:
            return kind(step)
    raise ValueError(f"unknown encoding {encoding!r}")
