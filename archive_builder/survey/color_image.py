"""A tile's colour picture, as STIFF makes it, some rows at a time."""

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
"""Tags of TIFF that say where its strips are."""

STRIP_TAGS = (256, 258, 259, 262, 266, 277, 284, 317, 338, 339, 347, 530, 531, 532)
"""Tags that say how a strip is to be read: its width, its samples, their compression and their colours."""

BY_ITSELF = (1, 5, 7, 8, 32773, 32946)
"""Compressions that can be undone strip by strip: none, LZW, JPEG, Deflate and PackBits."""


class Picture:
    """A tile's colour picture, open for reading; its first row is the sky's top.

    Of a TIFF in strips only the strips asked for are decoded. Any other file is read whole.

    Parameters
    ----------
    path : Path
        A TIFF, PNG or JPEG.
    shape : (ny, nx)
        Of the tile, which the picture must have too.

    Raises
    ------
    TileError
        The file cannot be read, or is not the tile's size.
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
        """How many rows are decoded together: all of a file that has no strips."""
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
            They cannot be read.
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
        """Return one strip as a TIFF of its own: Pillow decodes whole files only."""
        file: Any = self._file
        tags, size = file.tag_v2, file.tag_v2[STRIP_BYTE_COUNTS][number]
        directory = ImageFileDirectory_v2()
        for tag in STRIP_TAGS:
            if tag in tags:
                directory.tagtype[tag] = tags.tagtype[tag]
                directory[tag] = tags[tag]
        # The strip follows the directory, which adds its own length to the offset.
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
        """Refuse a picture of another size than the tile's, or of no colours."""
        width, height = self._file.size
        if (width, height) != shape[::-1]:
            raise TileError(
                f"{self._path}: the colour picture is {width} x {height} px but the tile "
                f"{shape[1]} x {shape[0]}: make it anew, or leave out survey.color"
            )
        if self._file.mode not in ("RGB", "RGBA", "L"):
            raise TileError(
                f"{self._path}: the colour picture is of mode {self._file.mode}, not 8-bit RGB: make it anew"
            )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what Pillow raises into an error that names the file and the remedy."""
        # Pillow refuses large pictures by their size alone, and a tile is one; here the size is known beforehand.
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with warnings.catch_warnings():
                # Of a damaged file it also warns, before it gives up or goes on.
                warnings.simplefilter("ignore", UserWarning)
                yield
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise TileError(
                f"{self._path}: the colour picture cannot be read ({one_line(error)}): make it anew"
            ) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _rgb(picture: Image.Image) -> Image.Image:
    """Return a picture's pixels as 8-bit RGB."""
    if picture.mode != "RGB":
        return picture.convert("RGB")
    picture.load()
    return picture
