"""Colour picture of a tile, read some rows at a time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image, TiffTags, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from archive_builder.errors import TileError, one_line
from archive_builder.geometry import Shape

IMAGE_LENGTH, COMPRESSION, STRIP_OFFSETS, ORIENTATION = 257, 259, 273, 274
ROWS_PER_STRIP, STRIP_BYTE_COUNTS, PLANAR_CONFIGURATION = 278, 279, 284
"""TIFF tags with the places of the strips."""

STRIP_TAGS = (256, 258, 259, 262, 266, 277, 284, 317, 338, 339, 347, 530, 531, 532)
"""TIFF tags for decoding a strip: width, samples, compression and colours."""

BY_ITSELF = (1, 5, 7, 8, 32773, 32946)
"""Compressions that allow decoding of single strips: none, LZW, JPEG, Deflate, PackBits."""


class Picture:
    """The colour picture of a tile, open for reading; the first row is the top of the sky, as STIFF writes it.

    From a TIFF in strips, only the requested strips are decoded. Any other file is decoded whole.

    Parameters
    ----------
    path : Path
        A TIFF, PNG or JPEG.
    shape : (ny, nx)
        Size of the tile, px; the picture must have the same size.

    Raises
    ------
    TileError
        The file cannot be read, or has another size than the tile.
    """

    def __init__(self, path: Path, shape: Shape) -> None:
        self._path = path
        self._whole: Image.Image | None = None
        with self._readable():
            self._file = Image.open(path, formats=["TIFF", "PNG", "JPEG"])
        try:
            self._check(shape)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def strip_rows(self) -> int:
        """Rows that are decoded together: all rows of a file without strips."""
        height: int = self._file.size[1]
        tags = self._file.tag_v2 if isinstance(self._file, TiffImageFile) else {}
        rows = min(tags.get(ROWS_PER_STRIP, height), height)
        counts = [len(tags.get(tag, ())) for tag in (STRIP_OFFSETS, STRIP_BYTE_COUNTS)]
        plain = tags.get(PLANAR_CONFIGURATION, 1) == tags.get(ORIENTATION, 1) == 1 and rows > 0
        return rows if plain and tags.get(COMPRESSION) in BY_ITSELF and counts == [-(-height // rows)] * 2 else height

    def rows(self, top: int, bottom: int) -> Image.Image:
        """Read rows ``top:bottom``.

        Returns
        -------
        PIL.Image.Image
            8-bit RGB.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        (width, height), step = self._file.size, self.strip_rows
        with self._readable():
            if step == height:
                self._whole = self._whole or _rgb(self._file)
                return self._whole.crop((0, top, width, bottom))
            out = Image.new("RGB", (width, bottom - top))
            for number in range(top // step, -(-bottom // step)):
                out.paste(_rgb(self._strip(number, min(step, height - number * step))), (0, number * step - top))
            return out

    def _strip(self, number: int, rows: int) -> Image.Image:
        """Return one strip as a separate TIFF, since Pillow decodes only whole files."""
        file: Any = self._file
        tags, size = file.tag_v2, file.tag_v2[STRIP_BYTE_COUNTS][number]
        directory = ImageFileDirectory_v2()
        for tag in STRIP_TAGS:
            if tag in tags:
                directory.tagtype[tag] = tags.tagtype[tag]
                directory[tag] = tags[tag]
        # The strip follows the directory; Pillow adds the length of the directory to the offset.
        for tag, value in ((IMAGE_LENGTH, rows), (ROWS_PER_STRIP, rows), (STRIP_OFFSETS, 0), (STRIP_BYTE_COUNTS, size)):
            directory.tagtype[tag] = TiffTags.LONG
            directory[tag] = value
        strip = io.BytesIO()
        directory.save(strip)
        file.fp.seek(tags[STRIP_OFFSETS][number])
        strip.write(file.fp.read(size))
        strip.seek(0)
        return Image.open(strip, formats=["TIFF"])

    def _check(self, shape: Shape) -> None:
        """Refuse a picture of another size than the tile, or of an unknown mode."""
        width, height = self._file.size
        if (width, height) != shape[::-1]:
            raise TileError(
                f"{self._path}: the colour picture is {width} x {height} px but the tile "
                f"{shape[1]} x {shape[0]}: make the picture again, or remove survey.color"
            )
        if self._file.mode not in ("RGB", "RGBA", "L"):
            raise TileError(
                f"{self._path}: the colour picture has mode {self._file.mode}, not 8-bit RGB: make the picture again"
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn an error of Pillow into one that names the file and the remedy."""
        # Pillow refuses large pictures by default, and a tile is large. The size is checked against the tile instead.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with warnings.catch_warnings():
                # Pillow also warns about a damaged file, before it raises an error or continues.
                warnings.simplefilter("ignore", UserWarning)
                yield
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise TileError(
                f"{self._path}: the colour picture cannot be read ({one_line(error)}): make the picture again"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(picture: Image.Image) -> Image.Image:
    """Return the pixels of a picture as 8-bit RGB."""
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()
    return picture
