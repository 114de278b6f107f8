"""A survey's pre-computed cutout archive: built once, looked up by object ID ever after."""

from archive_builder.errors import (
    ArchiveBuilderError,
    ArchiveError,
    CutoutTooLargeError,
    ObjectNotFoundError,
    ObjectSkippedError,
    PositionOutsideError,
    RequestError,
)
from archive_builder.serve.archive import Archive, Location
from archive_builder.serve.cutout import Cutout

__all__ = [
    "Archive",
    "ArchiveBuilderError",
    "ArchiveError",
    "Cutout",
    "CutoutTooLargeError",
    "Location",
    "ObjectNotFoundError",
    "ObjectSkippedError",
    "PositionOutsideError",
    "RequestError",
]
