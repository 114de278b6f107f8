"""Camera and bands of the synthetic survey."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BANDS = ("g", "r", "i", "z", "Y")

PIXEL_SCALE = 0.263
"""Pixel scale of DECam and of the DES coadds, arcsec."""

ZERO_POINT = 30.0
"""AB magnitude of one count, as in the DES coadds."""

BACKGROUND_RMS = {"g": 2.0, "r": 2.6, "i": 4.6, "z": 8.8, "Y": 32.0}
"""Typical background RMS of a DES coadd at zero point 30, counts."""

SATURATION = 1.0e5
"""Saturation level of a pixel, counts; the charge above it runs along the column."""

PSF_FWHM = 0.9 / PIXEL_SCALE
"""Full width of the PSF at half maximum, px."""

FloatArray = NDArray[np.float64]

PixelArray = NDArray[np.float32]
