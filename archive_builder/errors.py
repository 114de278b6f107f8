"""Every error this package raises on purpose: one line that names the culprit and the remedy."""

from __future__ import annotations

import os

LONGEST = 2000
"""Characters of a message."""


class ArchiveBuilderError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        """Return the message, on one line whatever a foreign file put into it."""
        return printable(super().__str__())


class RecipeError(ArchiveBuilderError):
    """The recipe cannot be used as it is written."""


class RequestError(ArchiveBuilderError):
    """What was asked for makes no sense: a size, a band, a file name."""


class TileError(ArchiveBuilderError):
    """One tile cannot be built; the others can."""


class ArchiveError(ArchiveBuilderError):
    """A folder is no archive, or a file of an archive is missing, foreign or damaged."""


class EngineError(ArchiveBuilderError):
    """What runs a build's jobs has failed as a whole; what was built stays."""


class DamagedIndexError(ArchiveError):
    """What an archive's index says makes no sense."""


class NoArchiveError(ArchiveError):
    """A folder holds no archive."""


class DuplicateObjectError(ArchiveBuilderError):
    """An object ID that is to be indexed belongs to another tile already.

    Attributes
    ----------
    object_id : int or None
    tile : str
        The tile that was to be indexed.
    other : str
        The tile that has it.
    """

    def __init__(self, object_id: int | None, tile: str, other: str) -> None:
        self.object_id, self.tile, self.other = object_id, tile, other
        what = "an object" if object_id is None else f"object {object_id}"
        super().__init__(
            f"{what} of tile {tile} belongs to tile {other} already: an ID may stand in one tile's catalogue only"
        )


class ObjectNotFoundError(ArchiveBuilderError):
    """The archive has never heard of this object.

    Attributes
    ----------
    object_id : int or str
        Its ID, or where it was looked for.
    """

    def __init__(self, object_id: int | str, archive: object) -> None:
        self.object_id = object_id
        self.archive = archive
        super().__init__(f"object {object_id} is not in the archive {archive}: check the ID and the survey")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.object_id, self.archive)


class ObjectSkippedError(ArchiveBuilderError):
    """The object was catalogued but left out of the archive.

    Attributes
    ----------
    object_id : int
    reason : str
        ``"noise"``, ``"blank"`` or ``"outside"``.
    rms : dict of str to float
        Background RMS per band at the object, image units; NaN where it could not be measured.
    """

    def __init__(self, object_id: int, tile: str, reason: str, rms: dict[str, float]) -> None:
        self.object_id = object_id
        self.tile = tile
        self.reason = reason
        self.rms = rms
        measured = ", ".join(f"{band} {value:.4g}" for band, value in rms.items())
        super().__init__(
            f"object {object_id} on tile {tile} has no cutout: skipped for {reason} "
            f"(background RMS {measured}); the recipe's [quality] decides"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.object_id, self.tile, self.reason, self.rms)


class PositionOutsideError(RequestError):
    """A position that lies on no tile of the archive."""


class TableError(ArchiveBuilderError):
    """A table cannot be read. The message names no file: the reader of the catalogue or list adds that."""


class CutoutTooLargeError(RequestError):
    """A size that the archive cannot serve."""


def printable(text: str) -> str:
    """Return a text that a terminal shows on one line: control characters escaped, the middle of a long one left out.

    What a file from somebody else says may hold anything.
    """
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """Return a foreign error's message on one line, without the path that operating-system errors repeat."""
    # HDF5 puts a paragraph of its own into the operating system's errors.
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split()) or type(error).__name__
