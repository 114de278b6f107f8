"""The output of a bulk request: formats, bands, size and packing of every cutout."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from archive_builder.bands import band_names
from archive_builder.choices import BANDS_FORMAT, FILE_FORMATS, OTHER_ENDINGS
from archive_builder.errors import RequestError
from archive_builder.exporting.names import file_names, text_names
from archive_builder.exporting.packs import PACKS
from archive_builder.geometry import Size, parse_shape
from archive_builder.serve.archive import Archive
from archive_builder.serve.snapshot import Bands
from archive_builder.serve.style import Style
from archive_builder.units import names

LONGEST_FILE = 255 - 32
"""Maximum size of a file name, bytes: a file system holds 255, and a file has a longer name while it is written."""

LONGEST_IN_TAR = 100
"""Maximum size of a name in a tar file that all programs read, bytes."""


@dataclass(frozen=True)
class Output:
    """Output of every row of the list."""

    archive: Path
    """Folder of the archive."""

    directory: Path
    """Folder of the export."""

    formats: tuple[str, ...]
    """Formats of the files; empty for an HDF5 pack."""

    bands: tuple[str, ...]
    """Bands in the order wanted."""

    size: tuple[int | str, int | str] | None
    """Height and width for rows without a size of their own: px or text. None for the archive's size."""

    prefix: str
    """Start of every file name."""

    pack: str | None
    """Kind of pack; None for single files."""

    style: Style
    """Look of pictures."""


def text_names_of(ids: Collection[str], output: Output) -> dict[str, str]:
    """Return the file names of text IDs for one output; see `archive_builder.exporting.names.text_names`."""
    is_tar = output.pack == "webdataset"
    bands = output.bands if BANDS_FORMAT in output.formats else ()
    rest = file_names("_99999x99999", "" if is_tar else output.prefix, (*output.formats, "json"), bands)
    longest = (LONGEST_IN_TAR if is_tar else LONGEST_FILE) - max(map(len, rest))
    return text_names(ids, longest, bands, with_dots=not is_tar)


def check_formats(formats: str | Sequence[str], pack: str | None, style: Style) -> tuple[str, ...]:
    """Return the formats of an export: ``fits`` by default, ``npy`` for a WebDataset, none for an HDF5 pack.

    Raises
    ------
    RequestError
        A format or the pack is unknown, or cannot hold the resampled pictures of the style.
    """
    if pack is not None and pack not in PACKS:
        raise RequestError(f"pack {pack!r} is unknown: give {' or '.join(PACKS)}")
    formats = [OTHER_ENDINGS.get(kind, kind) for kind in names(formats)]
    known = [*FILE_FORMATS, BANDS_FORMAT]
    for kind in formats:
        if kind not in known:
            raise RequestError(f"format {kind!r} is unknown: give any of {', '.join(known)}")
    chosen = tuple(dict.fromkeys(formats)) or (("fits",) if pack is None else ("npy",))
    for kind in (pack,) if pack == "hdf5" else chosen:
        style.check_format(kind)
    return () if pack == "hdf5" else chosen


def check_bands(bands: Bands | None, archive: Archive) -> tuple[str, ...]:
    """Return the bands of an export: all by default.

    Raises
    ------
    RequestError
        A band is unknown or repeated, or no band is given.
    """
    if bands is None:
        return archive.bands
    chosen = band_names(bands, archive.bands, f"the archive {archive.path}")
    if len(set(chosen)) < len(chosen):
        raise RequestError(f"bands {','.join(chosen)!r}: give each wanted band once")
    return chosen


def plain_size(size: Size | None) -> tuple[int | str, int | str] | None:
    """Return a size as height and width in a form that JSON can store: px, or the text of an angle.

    Raises
    ------
    RequestError
        The size cannot be read.

    Examples
    --------
    >>> plain_size(("64px", "0.5 arcmin"))
    (64, '0.5 arcmin')
    """
    if size is None:
        return None
    sides = size if isinstance(size, tuple | list) else (size, size)
    # An angle has twice as many pixels of half the size.
    coarse, fine = parse_shape(size, 1e-4), parse_shape(size, 5e-5)
    height, width = (n if n == m else str(side).strip() for side, n, m in zip(sides, coarse, fine, strict=True))
    return height, width
