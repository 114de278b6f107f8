"""The folder of an export: its options, its lock, and the leftovers of a killed run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from archive_builder.atomic import TEMPORARY, write_whole
from archive_builder.errors import ArchiveBuilderError, RequestError, one_line
from archive_builder.exporting.manifest import MANIFESTS
from archive_builder.exporting.plan import Plan
from archive_builder.serve.style import Style

OPTIONS_NAME = "export.json"
"""File with the options of an export."""


class Options(BaseModel):
    """Options that decide on the content of the files."""

    model_config = ConfigDict(frozen=True)

    list: str
    """Fingerprint of the list."""

    columns: str | None
    """Fingerprint of the list's own columns; None for files, which do not hold them."""

    archive: str
    """Path of the archive."""

    shards: str
    """Fingerprint of the archive's shards."""

    size: tuple[int | str, int | str] | None
    """Height and width."""

    bands: tuple[str, ...]
    """Bands."""

    formats: tuple[str, ...]
    """Formats of the files."""

    prefix: str
    """Start of every file name."""

    pack: str | None
    """Kind of pack."""

    style: Style
    """Look of pictures."""

    @classmethod
    def of(cls, plan: Plan) -> Options:
        """Return the options of a plan."""
        output = plan.output
        built = sorted([tile.name, tile.shard, tile.checksum] for tile in plan.tiles.values() if tile.shard)
        return cls(
            list=plan.requests.fingerprint(),
            columns=None if output.pack is None else plan.requests.own.fingerprint(),
            archive=str(output.archive.absolute()),
            shards=f"sha256:{hashlib.sha256(json.dumps(built).encode()).hexdigest()}",
            size=output.size,
            bands=output.bands,
            formats=output.formats,
            prefix=output.prefix,
            pack=output.pack,
            style=output.style,
        )

    def changes(self, before: Options) -> Iterator[str]:
        """Yield a text for each option that differs from an earlier run."""
        was, now = before.model_dump(mode="json"), self.model_dump(mode="json")
        for key in was:
            if was[key] == now[key] or (key == "columns" and was["pack"] != now["pack"]):
                continue
            if key == "list":
                yield "the list is different"
            elif key == "columns":
                yield "the list has other values in its own columns, which the pack holds"
            elif key == "shards":
                yield "the shards of the archive have changed"
            else:
                yield f"{key} was {json.dumps(was[key])}, is {json.dumps(now[key])}"


@contextmanager
def export_folder(directory: Path, options: Options) -> Iterator[None]:
    """Create an export's folder or continue in it, and lock it while the block runs.

    Raises
    ------
    RequestError
        The folder holds a different export, or other files.
    ArchiveBuilderError
        The folder cannot be written, or another export is running in it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            _lock(descriptor, directory)
            _check_options(directory, options)
            _reopen(directory)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArchiveBuilderError(f"{error.filename or directory}: cannot be written: {one_line(error)}") from None


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ArchiveBuilderError(
            f"{directory}: another export is running in this folder: wait until it ends"
        ) from None
    except OSError:
        pass  # a file system without locks


def _check_options(directory: Path, options: Options) -> None:
    """Write the options to a new folder, or compare them with those of an earlier run."""
    path = directory / OPTIONS_NAME
    if not path.exists():
        foreign = [entry.name for entry in os.scandir(directory) if not TEMPORARY.fullmatch(entry.name)]
        if foreign:
            raise RequestError(f"{directory} holds {foreign[0]} and is not an export: give a new folder")
        write_whole(path, (json.dumps(options.model_dump(mode="json"), indent=1) + "\n").encode())
        return
    try:
        before = Options.model_validate_json(path.read_bytes())
    except (ValueError, RequestError):
        raise RequestError(f"{path} is damaged: give a new folder") from None
    if changes := "; ".join(options.changes(before)):
        raise RequestError(f"{directory} holds a different export: {changes}: give a new folder")


def _reopen(directory: Path) -> None:
    """Remove the manifest, and the temporary files of a killed run.

    A manifest means that the last run was not killed.
    """
    if not all((directory / name).exists() for name in MANIFESTS):
        remove_temporary_files(directory)
    for name in reversed(MANIFESTS):
        (directory / name).unlink(missing_ok=True)


def remove_temporary_files(directory: Path) -> None:
    """Remove the unfinished files of killed processes from an export's folder."""
    for folder, _, files in os.walk(directory):
        for name in files:
            if TEMPORARY.fullmatch(name):
                Path(folder, name).unlink(missing_ok=True)
