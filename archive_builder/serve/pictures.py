"""Cutouts as files and as pictures: FITS, PNG, TIFF, npy, npz, and colour."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray
from PIL import Image

from archive_builder.atomic import write_whole
from archive_builder.bands import band_names
from archive_builder.choices import FILE_FORMATS
from archive_builder.errors import RequestError
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.style import USUAL_STYLE, Style

GALAXY = {"u": 8.0, "g": 2.3, "r": 1.5, "i": 1.0, "z": 0.8, "Y": 0.7, "y": 0.7}
"""By what a band is multiplied in a composite: the inverse flux of a typical galaxy, which so comes out white."""

BLUE_TO_RED = ("u", "g", "r", "i", "z", "y", "Y")
"""The bands whose order in wavelength is known by name."""


def picture(cutout: Cutout, style: Style = USUAL_STYLE) -> NDArray[np.uint8]:
    """Return a colour picture of a cutout, north up as DES shows it.

    Parameters
    ----------
    cutout : Cutout
    style : Style

    Returns
    -------
    ndarray of uint8, (ny, nx, 3)
        The first row is the sky's top.

    Raises
    ------
    RequestError
        The archive has no picture of its own, or the cutout lacks a band.
    """
    if style.color == "survey" or (style.color == "auto" and style.rgb is None and "COLOR" in cutout.planes):
        return cutout.color
    return lupton_rgb(cutout, style)


def lupton_rgb(cutout: Cutout, style: Style = USUAL_STYLE) -> NDArray[np.uint8]:
    """Return the composite of three bands after Lupton et al. (2004, PASP 116, 133); see :func:`picture`."""
    bands = _three_bands(cutout, style.rgb)
    unit = 10 ** (0.4 * (30.0 - cutout.zero_point))
    images = [
        # Where there is no data it is as dark as it gets.
        np.nan_to_num(cutout.data[cutout.bands.index(band)] * (GALAXY.get(band, 1.0) * unit), nan=style.minimum)
        for band in bands
    ]
    with np.errstate(invalid="ignore"):  # astropy divides by the intensity first and asks whether it is 0 after
        composite = make_lupton_rgb(*images, minimum=style.minimum, stretch=style.stretch, Q=style.softening)
    return np.asarray(composite)[::-1]


def _three_bands(cutout: Cutout, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return which bands are red, green and blue."""
    there = cutout.bands
    if wanted is not None:
        chosen = band_names(wanted, there, "the cutout")
        if len(chosen) != 3:
            raise RequestError(f"a composite takes three bands, not {len(chosen)}: give irg, say")
        return chosen
    if set("irg") <= set(there):
        return "i", "r", "g"
    if len(there) < 3:
        raise RequestError(f"a composite takes three bands: the cutout has {', '.join(there)} only")
    known = [band for band in BLUE_TO_RED if band in there]
    ordered = known if len(known) >= 3 else list(there)
    return ordered[-1], ordered[len(ordered) // 2], ordered[0]


def write_cutout(cutout: Cutout, path: Path, style: Style = USUAL_STYLE) -> None:
    """Write a cutout in the format its name ends in, whole or not at all.

    Raises
    ------
    RequestError
        The name ends in no known format, or the cutout lacks what the format needs.
    ArchiveBuilderError
        The file cannot be written.
    """
    ending = path.suffix.lower().removeprefix(".")
    encode = FORMATS.get("tiff" if ending == "tif" else ending)
    if encode is None:
        raise RequestError(f"{path}: cannot tell the format from its name: end it in .{', .'.join(FORMATS)}")
    write_whole(path, encode(cutout, style))


def write_bands(cutout: Cutout, folder: Path, stem: str) -> list[Path]:
    """Write a FITS file for each band, ``{stem}_{band}.fits``, the naming DES's users have scripts for."""
    paths = []
    for band in cutout.bands:
        paths.append(folder / f"{stem}_{band}.fits")
        write_whole(paths[-1], cutout.to_bytes((band,)))
    return paths


def _fits(cutout: Cutout, style: Style) -> bytes:
    return cutout.to_bytes()


def _png(cutout: Cutout, style: Style) -> bytes:
    return _encoded(picture(cutout, style), "PNG", **PNG_OPTIONS)


def _tiff(cutout: Cutout, style: Style) -> bytes:
    compression = {"jpeg": "jpeg", "lzw": "tiff_lzw", "none": "raw"}[style.compression]
    quality = {"quality": TIFF_QUALITY} if style.compression == "jpeg" else {}
    return _encoded(picture(cutout, style), "TIFF", compression=compression, **quality)


PNG_OPTIONS = {"compress_level": 1, "compress_type": 3}
"""zlib's level 1 with run lengths only: sky noise does not repeat, and this is as small as level 6 in half the time."""

TIFF_QUALITY = 90
"""JPEG quality of a TIFF, STIFF's own default."""


def _encoded(image: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def _npy(cutout: Cutout, style: Style) -> bytes:
    file = io.BytesIO()
    np.save(file, cutout.data)
    return file.getvalue()


def _npz(cutout: Cutout, style: Style) -> bytes:
    arrays: dict[str, Any] = {"data": cutout.data, "bands": list(cutout.bands), "ra": cutout.ra, "dec": cutout.dec}
    if cutout.object_id is not None:
        arrays["object_id"] = np.int64(cutout.object_id)
    for name, plane in (("weight", "WGT"), ("mask", "MSK"), ("color", "COLOR")):
        if plane in cutout.planes:
            arrays[name] = getattr(cutout, name)
    return npz_bytes(arrays)


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Return arrays as an npz file that does not depend on when it was made, as numpy's own does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.save(member, np.asarray(values))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return file.getvalue()


FORMATS: dict[str, Callable[[Cutout, Style], bytes]] = dict(
    zip(FILE_FORMATS, (_fits, _png, _tiff, _npy, _npz), strict=True)
)
"""The encoder of each format, by the ending of the file's name."""
