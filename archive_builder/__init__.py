"""Pre-computed cutouts of a sky survey: build the archive once, then look objects up by ID.

Importing the package is quick: each name below is imported when it is first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archive_builder.builder.driver import build
    from archive_builder.errors import (
        ArchiveBuilderError,
        ArchiveError,
        CutoutTooLargeError,
        DamagedIndexError,
        DuplicateObjectError,
        EngineError,
        NoArchiveError,
        ObjectNotFoundError,
        ObjectSkippedError,
        PositionOutsideError,
        RecipeError,
        RequestError,
        TileError,
    )
    from archive_builder.exporting.export import export
    from archive_builder.forecast.plan import plan
    from archive_builder.maintain.reindex import reindex
    from archive_builder.maintain.verify import verify
    from archive_builder.serve.archive import Archive
    from archive_builder.serve.cutout import Cutout
    from archive_builder.serve.lookup import Location
    from archive_builder.serve.stream import Batch
    from archive_builder.serve.style import Style

    __version__: str

__all__ = [
    "Archive",
    "ArchiveBuilderError",
    "ArchiveError",
    "Batch",
    "Cutout",
    "CutoutTooLargeError",
    "DamagedIndexError",
    "DuplicateObjectError",
    "EngineError",
    "Location",
    "NoArchiveError",
    "ObjectNotFoundError",
    "ObjectSkippedError",
    "PositionOutsideError",
    "RecipeError",
    "RequestError",
    "Style",
    "TileError",
    "__version__",
    "build",
    "export",
    "plan",
    "reindex",
    "verify",
]

_MODULES = {
    "Archive": "serve.archive",
    "Batch": "serve.stream",
    "Cutout": "serve.cutout",
    "Location": "serve.lookup",
    "Style": "serve.style",
    "build": "builder.driver",
    "export": "exporting.export",
    "plan": "forecast.plan",
    "reindex": "maintain.reindex",
    "verify": "maintain.verify",
}
"""The module of each public name; all others are errors."""

logging.getLogger(__name__).addHandler(logging.NullHandler())

if not TYPE_CHECKING:  # with this function in view, a type checker would accept any name

    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("archive-builder")
        else:
            value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted(__all__)
