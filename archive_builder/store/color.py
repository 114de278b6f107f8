"""The colour picture of a tile in its shard: a grid of small JPEGs, each decoded by itself."""

from __future__ import annotations

import io
from collections.abc import Callable

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from archive_builder.errors import ArchiveError, one_line
from archive_builder.geometry import Shape, window_pieces
from archive_builder.store.layout import write_table
from archive_builder.store.lru import Lru

SIDE = 128
"""Side of one JPEG, px; the same as the chunks of ``/pixels``."""

QUALITY = 85
"""JPEG quality, with colours at full resolution.

A tile of 10,000 px takes 46 MB; its STIFF picture has 108 MB. Quality 90 takes 70 MB. Quality 95 with colours at half
the resolution takes 56 MB, and the error is no smaller.
"""

JPEG_CHUNK = 1 << 16
"""Bytes of JPEGs in one chunk of the dataset."""

CACHED = 256
"""Decoded JPEGs kept per open shard, 12 MB."""

READ_AT_ONCE = 1 << 24
"""Bytes of JPEGs read at once by :meth:`ColorReader.read_through`."""

NO_PICTURE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""Errors of Pillow for a file that is no JPEG, or that claims an enormous size."""


def write_color(group: h5py.Group, rows: Callable[[int, int], Image.Image], shape: Shape) -> None:
    """Cut a picture into squares of `SIDE` pixels, and write each as a JPEG.

    The squares run row by row from the bottom of the sky. Row 0 of each square is the bottom of the sky too. The
    dataset ``jpeg`` has the JPEGs end to end; ``start`` has the first byte of each JPEG and the end of the last.

    Parameters
    ----------
    group : h5py.Group
        Group for the datasets.
    rows : callable
        Returns the rows ``first:end`` of the picture. Row 0 is the top of the sky, as in a TIFF of STIFF.
    shape : (ny, nx)
        Shape of the picture, px.
    """
    height, width = shape
    jpeg = group.create_dataset("jpeg", (0,), np.uint8, maxshape=(None,), chunks=(JPEG_CHUNK,), fletcher32=True)
    start = [0]
    for y in range(0, height, SIDE):
        strip = rows(height - min(y + SIDE, height), height - y)
        jpegs = [_jpeg(strip.crop((x, 0, min(x + SIDE, width), strip.height))) for x in range(0, width, SIDE)]
        jpeg.resize(start[-1] + sum(map(len, jpegs)), axis=0)
        jpeg[start[-1] :] = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
        for one in jpegs:
            start.append(start[-1] + len(one))
    write_table(group, "start", np.array(start, dtype=np.int64))


def _jpeg(square: Image.Image) -> bytes:
    """Return a square as a JPEG, upside down."""
    file = io.BytesIO()
    square.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


class ColorReader:
    """The colour picture of an open shard.

    Parameters
    ----------
    group : h5py.Group
        Group with the datasets.
    shape : (ny, nx)
        Shape of the tile, px.
    """

    def __init__(self, group: h5py.Group, shape: Shape) -> None:
        self._jpeg, self._start = group["jpeg"], group["start"][...]
        self._shape = shape
        self._columns = -(-shape[1] // SIDE)
        self._squares: Lru[int, NDArray[np.uint8]] = Lru(CACHED)

    def read(self, x0: int, y0: int, shape: Shape) -> NDArray[np.uint8]:
        """Read a window of the picture.

        Returns
        -------
        ndarray of uint8, (ny, nx, 3)
            Row 0 is the bottom of the sky, as in FITS; black off the tile.

        Raises
        ------
        ArchiveError
            The picture is damaged.
        """
        out = np.zeros((*shape, 3), dtype=np.uint8)
        for row, column, inside, place in window_pieces(x0, y0, shape, self._shape, SIDE):
            out[place] = self._squares.get(row * self._columns + column, self._read_square)[inside]
        return out

    def read_through(self) -> None:
        """Read every byte of the JPEGs."""
        for first in range(0, len(self._jpeg), READ_AT_ONCE):
            self._jpeg[first : first + READ_AT_ONCE]

    def _size(self, number: int) -> tuple[int, int]:
        """Return the expected width and height of a square, px."""
        row, column = divmod(number, self._columns)
        return min(SIDE, self._shape[1] - column * SIDE), min(SIDE, self._shape[0] - row * SIDE)

    def _read_square(self, number: int) -> NDArray[np.uint8]:
        """Return one decoded square."""
        try:
            data = self._jpeg[self._start[number] : self._start[number + 1]]
            with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as picture:
                if picture.size != self._size(number):
                    raise ArchiveError(f"a JPEG has {picture.size} px")
                return np.asarray(picture.convert("RGB"))
        except NO_PICTURE as error:
            raise ArchiveError(one_line(error)) from None
