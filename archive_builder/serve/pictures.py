"""Pictures of one to three bands, and their PNG, JPEG and TIFF files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray
from PIL import Image

from archive_builder.bands import band_names
from archive_builder.errors import RequestError
from archive_builder.serve.stretch import automatic_curve, in_noises, sky_and_noise
from archive_builder.serve.style import MINIMUM, SOFTENING, USUAL_STYLE, Compression, Style

Pixel = TypeVar("Pixel", np.uint8, np.float32)

GALAXY = {"u": 8.0, "g": 2.3, "r": 1.5, "i": 1.0, "z": 0.8, "Y": 0.7, "y": 0.7}
"""Factor of each band in a composite: the inverse flux of a typical galaxy, which therefore appears white."""

BLUE_TO_RED = ("u", "g", "r", "i", "z", "y", "Y")
"""Bands whose order in wavelength is known by name."""

PNG_OPTIONS = {"compress_level": 1, "compress_type": 3}
"""zlib's level 1, run lengths only. Sky noise does not repeat: this is as small as level 6, in half the time."""

JPEG_QUALITY = 90
"""Quality of a JPEG, also inside a TIFF: STIFF's default."""

JPEG_SIDE = 65500
"""Maximum side of a JPEG in libjpeg, px."""

TIFF_COMPRESSIONS = {"jpeg": "jpeg", "lzw": "tiff_lzw", "none": "raw"}
"""Pillow's name of each compression."""


def composite(
    data: NDArray[np.float32],
    bands: Sequence[str],
    zero_points: Mapping[str, float | None],
    rms: Mapping[str, float],
    style: Style = USUAL_STYLE,
) -> NDArray[np.uint8]:
    """Return the picture of one, two or three bands.

    One band gives a grey picture. Of two bands, the first is red, the second blue, and green is their mean. The stretch
    ``auto`` scales each band by its sky and noise: see `archive_builder.serve.stretch.automatic_curve`. A stretch that
    is a number gives the composite of Lupton et al. (2004, PASP 116, 133), of flux at zero point 30 times the factors
    in `GALAXY`.

    Parameters
    ----------
    data : ndarray of float32, (bands, ny, nx)
        Image units; NaN without data, which is mapped to black. Row 0 is the top.
    bands : sequence of str
        Names of the bands, in the order of ``data``.
    zero_points : mapping of str to float
        AB magnitude of one image unit per band; None if unknown. The stretch ``auto`` needs none.
    rms : mapping of str to float
        Background RMS per band, image units; NaN if unknown.
    style : Style
        Bands, stretch, softening and black level.

    Returns
    -------
    ndarray of uint8, (ny, nx, 3), or (ny, nx) in grey

    Raises
    ------
    RequestError
        The data lack a band of the composite, or a band lacks the zero point that the style needs.
    """
    chosen = _shown_bands(bands, style.rgb)
    images = {band: data[bands.index(band)] for band in dict.fromkeys(chosen)}
    if style.stretch == "auto":
        scaled, black = _in_noises(images, zero_points, rms, style.minimum)
        curve = automatic_curve(list(scaled.values()), style.softening, black)
        levels = {band: curve.levels(image) for band, image in scaled.items()}
        return levels[chosen[0]] if len(chosen) == 1 else np.stack(_channels([levels[b] for b in chosen]), axis=-1)
    minimum = MINIMUM if style.minimum is None else style.minimum
    flux = [
        np.nan_to_num(images[band] * _flux(band, zero_points), nan=minimum, posinf=minimum, neginf=minimum)
        for band in chosen
    ]
    softening = SOFTENING if style.softening is None else style.softening
    with np.errstate(invalid="ignore"):  # astropy divides by the intensity before it checks for 0
        picture = make_lupton_rgb(*_channels(flux), minimum=minimum, stretch=style.stretch, Q=softening)
    return np.asarray(picture[..., 0] if len(chosen) == 1 else picture)


def _in_noises(
    images: Mapping[str, NDArray[np.float32]],
    zero_points: Mapping[str, float | None],
    rms: Mapping[str, float],
    minimum: float | None,
) -> tuple[dict[str, NDArray[np.float32]], float | None]:
    """Return each band in units of its noise above its sky, or above ``minimum`` in flux; and black if given."""
    levels = {band: sky_and_noise(image, rms.get(band, math.nan)) for band, image in images.items()}
    if minimum is not None:
        levels = {band: (minimum / _flux(band, zero_points), noise) for band, (_, noise) in levels.items()}
    scaled = {band: in_noises(image, *levels[band]) for band, image in images.items()}
    return scaled, None if minimum is None else 0.0


def _channels(images: list[NDArray[Pixel]]) -> tuple[NDArray[Pixel], ...]:
    """Return red, green and blue from one to three images."""
    if len(images) == 3:
        return tuple(images)
    first, last = images[0], images[-1]
    return first, first if first is last else ((first + last.astype(np.float32)) / 2).astype(first.dtype), last


def _flux(band: str, zero_points: Mapping[str, float | None]) -> float:
    """Return the factor from image units to flux at zero point 30, with the band's weight in a composite."""
    zero_point = zero_points[band]
    if zero_point is None:
        raise RequestError(
            f"band {band} has no zero point, which a stretch or minimum in flux needs: leave both out (stretch auto)"
        )
    return float(GALAXY.get(band, 1.0) * 10 ** (0.4 * (30.0 - zero_point)))


def _shown_bands(known: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the bands of red, green and blue; of red and blue; or of grey."""
    if wanted is not None:
        chosen = band_names(wanted, known, "the cutout")
        if len(chosen) > 3:
            raise RequestError(f"a picture takes one, two or three bands, not {len(chosen)}: give irg, for example")
        return chosen
    if set("irg") <= set(known):
        return "i", "r", "g"
    if not known:
        raise RequestError("the cutout has no band: a composite needs at least one")
    by_wavelength = [band for band in BLUE_TO_RED if band in known]
    ordered = by_wavelength if len(by_wavelength) >= min(3, len(known)) else list(known)
    return tuple(dict.fromkeys((ordered[-1], ordered[len(ordered) // 2], ordered[0])))


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (ny, nx, 3) or (ny, nx), as a PNG file."""
    return _encoded(image, "PNG", **PNG_OPTIONS)


def jpeg_bytes(image: NDArray[np.uint8]) -> bytes:
    """Return a picture, uint8 (ny, nx, 3) or (ny, nx), as a JPEG file with colours at full resolution.

    Raises
    ------
    RequestError
        The picture is too large for a JPEG.
    """
    _check_jpeg(*image.shape[:2])
    return _encoded(image, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def tiff_bytes(image: NDArray[np.uint8], compression: Compression) -> bytes:
    """Return a picture, uint8 (ny, nx, 3) or (ny, nx), as a TIFF file.

    Raises
    ------
    RequestError
        The picture is too wide for the JPEGs inside; each holds a strip of rows.
    """
    quality = {}
    if compression == "jpeg":
        _check_jpeg(1, image.shape[1])
        quality = {"quality": JPEG_QUALITY}
    return _encoded(image, "TIFF", compression=TIFF_COMPRESSIONS[compression], **quality)


def _check_jpeg(*sides: int) -> None:
    """Refuse a JPEG with more pixels a side than it can have."""
    if max(sides) > JPEG_SIDE:
        raise RequestError(
            f"a JPEG has at most {JPEG_SIDE} px a side, not {max(sides)}: give png, or tiff with compression lzw"
        )


def _encoded(image: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()
