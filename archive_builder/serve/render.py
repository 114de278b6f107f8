"""Cutouts as files and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.visualization import make_lupton_rgb
from numpy.typing import NDArray

from archive_builder.errors import ArchiveBuilderError, RequestError, one_line
from archive_builder.serve.cutout import Cutout

STRETCH_RMS = 12.0
"""Lupton's linear stretch in units of the background RMS: faint galaxies show, the noise stays dark."""

SOFTENING = 8.0
"""Lupton's Q: how early the stretch turns from linear to logarithmic."""


def write_cutout(cutout: Cutout, path: Path) -> None:
    """Write a cutout as ``.fits`` or ``.npy``, by the file's name; whole or not at all.

    Raises
    ------
    RequestError
        The name ends otherwise.
    ArchiveBuilderError
        The file cannot be written.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise RequestError(f"{path}: cannot tell the format from its name: end it in {' or '.join(WRITERS)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        writer(cutout, temporary)
        temporary.replace(path)
    except OSError as error:
        raise ArchiveBuilderError(f"{path}: cannot be written: {one_line(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_fits(cutout: Cutout, path: Path) -> None:
    with path.open("wb") as file:
        cutout.to_hdus().writeto(file)


def _write_npy(cutout: Cutout, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, cutout.data)


WRITERS: dict[str, Callable[[Cutout, Path], None]] = {".fits": _write_fits, ".npy": _write_npy}
"""What writes which kind of file."""


def lupton_rgb(red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make a colour picture of three bands (Lupton et al. 2004, PASP 116, 133), north up.

    Each band is scaled to the same noise first, so that no band's noise colours the sky.

    Parameters
    ----------
    red, green, blue : ndarray of float32, (ny, nx)
        Images of three bands, the reddest first; blank pixels come out black.

    Returns
    -------
    ndarray of uint8, (ny, nx, 3)
        Its first row is the sky's top.
    """
    scaled = [np.nan_to_num(image / _noise(image)) for image in (red, green, blue)]
    return np.asarray(make_lupton_rgb(*scaled, minimum=-1.0, stretch=STRETCH_RMS, Q=SOFTENING))[::-1]


def _noise(image: NDArray[np.float32]) -> float:
    """Return an image's noise from its median absolute deviation."""
    known = image[np.isfinite(image)]
    if known.size == 0:
        return 1.0
    return 1.4826 * float(np.median(np.abs(known - np.median(known)))) or 1.0
