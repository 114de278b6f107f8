"""The errors that this package raises on purpose: one line that names the cause and the remedy."""

from __future__ import annotations

import os

LONGEST = 2000
"""Maximum characters of a message."""

REASON_WORDS = {"position": "without position", "id": "without ID", "elsewhere": "elsewhere"}
"""Words for the reasons of a missing cutout that do not follow "for"."""


class ArchiveBuilderError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        """Return the message on one line, with control characters escaped."""
        # Not super(): in a subclass that is also a KeyError, super() would quote the message.
        return printable(Exception.__str__(self))


class RecipeError(ArchiveBuilderError, ValueError):
    """The recipe contains a mistake, or does not fit the archive or the survey's files."""


class RequestError(ArchiveBuilderError, ValueError):
    """The request itself is wrong: a size, a band, a file name."""


class TileError(ArchiveBuilderError):
    """One tile cannot be built; the others can."""


class ArchiveError(ArchiveBuilderError):
    """A folder is not an archive, or a file of an archive is missing, foreign or damaged."""


class EngineError(ArchiveBuilderError):
    """The engine that runs a build's jobs failed as a whole; finished tiles stay in the archive."""


class DamagedIndexError(ArchiveError):
    """The index contains invalid values."""


class NoArchiveError(ArchiveError):
    """A folder holds no archive."""


class DuplicateObjectError(ArchiveBuilderError):
    """Two tiles have the same object ID.

    Attributes
    ----------
    object_id : int or None
        The ID; None if unknown.
    tile : str
        The tile that cannot be indexed.
    other : str
        The tile that has the ID in the index.
    """

    def __init__(self, object_id: int | None, tile: str, other: str) -> None:
        self.object_id, self.tile, self.other = object_id, tile, other
        what = "an object" if object_id is None else f"object {object_id}"
        super().__init__(
            f"{what} of tile {tile} belongs to tile {other} already: list an ID in one tile's catalogue only"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.object_id, self.tile, self.other)


class ObjectNotFoundError(ArchiveBuilderError, KeyError):
    """The archive does not have this object ID, or no object at a position.

    Attributes
    ----------
    object_id : int or str
        The object ID, or the place: ``"within 2 arcsec of RA ..., Dec ..."``.
    archive : object
        The archive's folder.
    """

    def __init__(self, object_id: int | str, archive: object) -> None:
        self.object_id = object_id
        self.archive = archive
        if isinstance(object_id, str):
            super().__init__(f"no object of the archive {archive} lies {object_id}: give a larger radius")
        else:
            super().__init__(f"object {object_id} is not in the archive {archive}: check the ID and the survey")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.object_id, self.archive)


class ObjectSkippedError(ArchiveBuilderError):
    """The object is in the catalogue, but was left out of the archive.

    Attributes
    ----------
    object_id : int
    tile : str
    reason : str
        ``"noise"``, ``"blank"``, ``"outside"`` or ``"position"``.
    rms : dict of str to float
        Background RMS per band at the object, image units; NaN where it could not be measured.
    """

    def __init__(self, object_id: int, tile: str, reason: str, rms: dict[str, float]) -> None:
        self.object_id = object_id
        self.tile = tile
        self.reason = reason
        self.rms = rms
        measured = ", ".join(f"{band} {value:.4g}" for band, value in rms.items())
        remedy = f"(background RMS {measured}): the recipe's [quality] sets the limits"
        if reason == "position":
            remedy = "on the sky: correct RA and Dec in the catalogue, and build again"
        super().__init__(f"object {object_id} on tile {tile} has no cutout: skipped {reason_words(reason)} {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.object_id, self.tile, self.reason, self.rms)


class PositionOutsideError(RequestError):
    """The position lies on no tile of the archive."""


class TableError(ArchiveBuilderError):
    """A table cannot be read. The message names no file: the reader of the catalogue or list adds the name."""


class CutoutTooLargeError(RequestError):
    """The archive cannot serve a cutout of this size."""


def reason_words(reason: str) -> str:
    """Return a reason for a missing cutout in words: ``for noise``, ``without position``."""
    return REASON_WORDS.get(reason, f"for {reason}")


def printable(text: str) -> str:
    """Return a text in the form of one line on a terminal.

    A message may quote a foreign file: control characters are escaped, and a text longer than `LONGEST` loses its
    middle.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """Return a foreign error's message on one line, without the path that operating-system errors repeat."""
    # HDF5 puts a paragraph of its own into the operating system's errors.
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split()) or type(error).__name__
