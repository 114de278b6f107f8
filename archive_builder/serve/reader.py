"""The reader of an archive: one lock, the current snapshot, and its replacement after a build or a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import ArchiveBuilderError, ArchiveError, RequestError
from archive_builder.geometry import Size
from archive_builder.object_ids import ObjectId
from archive_builder.serve import bulk, lookup
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.snapshot import OPEN_SHARDS, Bands, Snapshot
from archive_builder.store.records import Places, Settings
from archive_builder.store.shard_reader import Shard

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 5
"""Attempts at a lookup while builds replace the shards it needs."""


def _answered(question: Callable[Concatenate[Snapshot, P], R]) -> Callable[Concatenate[ArchiveReader, P], R]:
    """Return a method that runs a lookup on a snapshot."""

    @wraps(question)
    def ask(self: ArchiveReader, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._answer(question, *args, **kwargs)

    return ask


class ArchiveReader:
    """The files of an archive, for lookups from several threads, after a fork, and during builds.

    Every lookup is a function of a `Snapshot`, in `archive_builder.serve.lookup` or `archive_builder.serve.bulk`. The
    reader holds one lock while a lookup runs. It opens a new snapshot when the index has changed: at every instant the
    index and its shards fit together, but a shard may vanish between the lookup of its name and its opening. The reader
    then repeats the lookup.

    A pickled reader opens the archive again. A forked child opens files of its own at its first lookup.

    Parameters
    ----------
    path : str or Path
        The archive's folder.
    open_shards : int
        Maximum number of open shards.

    Raises
    ------
    ArchiveError
        The folder is not an archive.
    """

    def __init__(self, path: str | Path, open_shards: int = OPEN_SHARDS) -> None:
        self.path = Path(path)
        self._open_shards = open_shards
        self._start()
        self._current()
        _readers.add(self)

    def _start(self) -> None:
        """Set the state of a reader without open files."""
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self.is_closed = False

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "open_shards": self._open_shards}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    find = _answered(lookup.find)
    checked_ids = _answered(lookup.checked_ids)
    locate = _answered(lookup.locate)
    has_cutout = _answered(lookup.has_cutout)
    object_ids = _answered(lookup.object_ids)
    summary = _answered(lookup.summary)
    cutout = _answered(lookup.cutout)
    cutout_at = _answered(lookup.cutout_at)
    cone_search = _answered(lookup.cone_search)
    tile_name = _answered(lookup.tile_name)
    tiles_at = _answered(lookup.tiles_at)
    read_objects = _answered(bulk.read_objects)
    read_rows = _answered(bulk.read_rows)
    stored_rows = _answered(bulk.stored_rows)
    common_form = _answered(bulk.common_form)

    @property
    def settings(self) -> Settings:
        """Settings that all shards share, as of the last lookup."""
        return self._settings

    @property
    def open_shards(self) -> int:
        """Number of open shards."""
        with self._lock:
            return 0 if self._snapshot is None else self._snapshot.open_shards

    def get_each(
        self, object_ids: ArrayLike, size: Size | None = None, bands: Bands | None = None
    ) -> Iterator[Cutout | ArchiveBuilderError]:
        """Yield the cutouts of many objects, or for each object without one the error that `Archive.get` raises.

        The objects are looked up together. Neighbouring objects in a row are read faster.

        Parameters
        ----------
        object_ids : array_like of int or str, (N,)
        size, bands
            See `Archive.get`.

        Yields
        ------
        Cutout or ArchiveBuilderError
            In the order of the IDs.
        """
        ids = self.checked_ids(object_ids)
        places = self.find(ids)
        for number, object_id in enumerate(ids.tolist()):
            yield self._one(object_id, places, number, size, bands)

    def _one(
        self, object_id: ObjectId, places: Places, number: int, size: Size | None, bands: Bands | None
    ) -> Cutout | ArchiveBuilderError:
        """Return one object's cutout by its place, or the error."""
        try:
            try:
                with self._lock:
                    snapshot = self._current()
                    where = lookup.location(snapshot, object_id, places, number)
                    return lookup.cutout_of(snapshot, where, size, bands)
            except ArchiveError:  # a build may have replaced the shard since the lookup
                return self.cutout(object_id, size, bands)
        except ArchiveBuilderError as error:
            return error

    def lend(self, path: Path, read: Callable[[Shard], NDArray[Any]]) -> NDArray[Any]:
        """Call a function with a shard: the archive's open one, or after `close` one open for this call only."""
        with self._lock:
            if not self.is_closed:
                return read(self._current().open_tile(path).shard)
        return lookup.lend_opened(path, read)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self.is_closed = True
            self._drop()

    def _answer(self, question: Callable[Concatenate[Snapshot, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a lookup on the current snapshot; repeat the lookup if a build replaced a shard meanwhile."""
        with self._lock:
            self._refresh()
            for _ in range(ATTEMPTS - 1):
                try:
                    return question(self._current(), *args, **kwargs)
                except ArchiveError:
                    if not self._refresh():
                        raise
            return question(self._current(), *args, **kwargs)

    def _refresh(self) -> bool:
        """Drop the snapshot if the index has changed since, and return True if it has."""
        if not self._current().index.has_changed():
            return False
        self._drop()
        return True

    def _current(self) -> Snapshot:
        """Return the snapshot; open the files if they are not open."""
        if self.is_closed:
            raise RequestError(f"the archive {self.path} is closed: open it again")
        if self._snapshot is None:
            self._snapshot = Snapshot(self.path, self._open_shards, weakref.WeakMethod(self.lend))
            self._settings = self._snapshot.settings
        return self._snapshot

    def _drop(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def after_fork(self) -> None:
        """Give a forked child a lock and files of its own; the parent's stay untouched."""
        if not self.is_closed:
            _abandoned.append((self._snapshot, self._lock))
            self._start()


_readers: weakref.WeakSet[ArchiveReader] = weakref.WeakSet()
"""All readers of this process."""

_abandoned: list[object] = []
"""Files that a child has from its parent: SQLite connections open across a fork must not even be closed."""


def _after_fork() -> None:
    for reader in list(_readers):
        reader.after_fork()


os.register_at_fork(after_in_child=_after_fork)
