"""Names and defaults that the command line offers, apart from the modules that implement them.

Those modules take a second to import; ``archive-builder --help`` needs only the names.
"""

from __future__ import annotations

ENGINES = ("local", "parsl", "mpi")
"""Engines that run a build's jobs."""

FILE_FORMATS = ("fits", "png", "jpg", "tiff", "npy", "npz")
"""Formats of a file with one cutout, by the ending of its name."""

PICTURE_FORMATS = ("png", "jpg", "tiff")
"""Those of these formats that are pictures."""

OTHER_ENDINGS = {"jpeg": "jpg", "tif": "tiff"}
"""Further endings of these formats."""

BANDS_FORMAT = "fits-bands"
"""The format of an export that makes one FITS file a band."""

PACK_NAMES = ("hdf5", "webdataset")
"""Containers of many cutouts."""

PLAN_TILES = 5
"""Tiles that a plan samples by default."""

PLAN_SEED = 1
"""Seed of the random choice of these tiles by default."""

PLAN_WORKERS = (1, 4, 16, 64, 256)
"""Numbers of workers for which a plan forecasts the wall time by default."""
