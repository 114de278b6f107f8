"""Colour composites of three bands, and the PNG and TIFF files of pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray
from PIL import Image

from archive_builder.bands import band_names
from archive_builder.errors import RequestError
from archive_builder.serve.style import USUAL_STYLE, Compression, Style

GALAXY = {"u": 8.0, "g": 2.3, "r": 1.5, "i": 1.0, "z": 0.8, "Y": 0.7, "y": 0.7}
"""Factor of each band in a composite: the inverse flux of a typical galaxy, which therefore appears white."""

BLUE_TO_RED = ("u", "g", "r", "i", "z", "y", "Y")
"""Bands whose order in wavelength is known by name."""

PNG_OPTIONS = {"compress_level": 1, "compress_type": 3}
"""zlib's level 1, run lengths only. Sky noise does not repeat: this is as small as level 6, in half the time."""

TIFF_QUALITY = 90
"""JPEG quality of a TIFF, STIFF's default."""

TIFF_COMPRESSIONS = {"jpeg": "jpeg", "lzw": "tiff_lzw", "none": "raw"}
"""Pillow's name of each compression."""


def lupton_rgb(
    data: NDArray[np.float32], bands: Sequence[str], zero_points: Mapping[str, float], style: Style = USUAL_STYLE
) -> NDArray[np.uint8]:
    """Return the composite of three bands after Lupton et al. (2004, PASP 116, 133).

    Parameters
    ----------
    data : ndarray of float32, (bands, ny, nx)
        Image units; NaN without data, which is mapped to black.
    bands : sequence of str
        Names of the bands, in the order of ``data``.
    zero_points : mapping of str to float
        AB magnitude of one image unit, per band.
    style : Style
        Bands, stretch, softening and black level.

    Returns
    -------
    ndarray of uint8, (ny, nx, 3)
        Row 0 is the sky's top.

    Raises
    ------
    RequestError
        The data lack a band of the composite.
    """
    images = [
        np.nan_to_num(
            data[bands.index(band)] * (GALAXY.get(band, 1.0) * 10 ** (0.4 * (30.0 - zero_points[band]))),
            nan=style.minimum,
        )
        for band in _three_bands(bands, style.rgb)
    ]
    with np.errstate(invalid="ignore"):  # astropy divides by the intensity before it checks for 0
        composite = make_lupton_rgb(*images, minimum=style.minimum, stretch=style.stretch, Q=style.softening)
    return np.asarray(composite)[::-1]


def _factor(band: str, zero_point: float) -> float:
    """Return the factor of a band's pixels in a composite."""
    return float(GALAXY.get(band, 1.0) * 10 ** (0.4 * (30.0 - zero_point)))


def _three_bands(known: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the bands of red, green and blue."""
    if wanted is not None:
        chosen = band_names(wanted, known, "the cutout")
        if len(chosen) != 3:
            raise RequestError(f"a composite takes three bands, not {len(chosen)}: give irg, for example")
        return chosen
    if set("irg") <= set(known):
        return "i", "r", "g"
    if len(known) < 3:
        raise RequestError(f"a composite takes three bands: the cutout has {', '.join(known)} only")
    by_wavelength = [band for band in BLUE_TO_RED if band in known]
    ordered = by_wavelength if len(by_wavelength) >= 3 else list(known)
    return ordered[-1], ordered[len(ordered) // 2], ordered[0]


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (ny, nx, 3), as a PNG file."""
    return _encoded(image, "PNG", **PNG_OPTIONS)


def tiff_bytes(image: NDArray[np.uint8], compression: Compression) -> bytes:
    """Return a picture, uint8 (ny, nx, 3), as a TIFF file."""
    quality = {"quality": TIFF_QUALITY} if compression == "jpeg" else {}
    return _encoded(image, "TIFF", compression=TIFF_COMPRESSIONS[compression], **quality)


def _encoded(image: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()
