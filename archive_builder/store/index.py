"""The index: one SQLite file that leads from an object ID to a row of a shard."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import sqlite_utils
from numpy.typing import NDArray

from archive_builder.atomic import sync, whole_file
from archive_builder.errors import ArchiveError, DamagedIndexError, DuplicateObjectError, NoArchiveError, one_line
from archive_builder.measure.quality import Status
from archive_builder.store.sound import (
    NonsenseError,
    check_status,
    check_tables,
    depth_of,
    footprint_of,
    schema,
    skipped_for_of,
    sound_build,
    sound_columns,
    sound_place,
    sound_settings,
    sound_tile,
)
from archive_builder.survey.discovery import TILE_NAME

INDEX_NAME = "index.sqlite"
"""The index's file in the archive's folder."""

BUSY_SECONDS = 60.0
"""How long a reader waits while a tile is committed, and the builder for a reader."""

BATCH = 10_000
"""Object IDs in one statement."""

DENSE = 4
"""IDs of which every fourth or more may be asked for are read as one stretch: that is three times as fast."""

FIRST_SHARE = 0.503
"""Of a tile's rows, those put in first; with 0.5 and 0.51 the pages are 2% less full."""

ROWS_AT_ONCE = 100
"""Rows that one statement inserts: Python hands them over in 0.6 of the time that they take one by one."""

CACHE_KIB = 16384
"""Pages that a connection keeps: those of a tile's objects, 6 MB, are then not written before they are committed."""

LOOKUP = "SELECT tile_id, row, status, generation FROM objects JOIN tiles USING (tile_id) WHERE object_id = ?"
"""Where one object is."""

LOOKUP_MANY = """
SELECT group_concat(object_id), group_concat(tile_id), group_concat(row), group_concat(status)
FROM objects WHERE object_id
"""
"""Where objects are, up to which: columns as texts, which are read in a third of the time that rows take."""

AMONG = "IN (SELECT value FROM json_each(?))"
"""Among numbers given as JSON."""

SHARD_FOLDER = "shards"
"""The folder of the shards in an archive."""


def utc_now() -> str:
    """Return the time as the index has it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def shard_name(tile: str, generation: int) -> str:
    """Return where a tile's shard lies below the archive."""
    return f"{SHARD_FOLDER}/{tile}.{generation}.h5"


def is_shard_name(name: object, tile: str, generation: int) -> bool:
    """Tell whether a tile's shard is where it belongs: an index from somebody else might lead anywhere."""
    return name == shard_name(tile, generation) and TILE_NAME.fullmatch(tile) is not None


@dataclass(frozen=True)
class Places:
    """Where objects are; parallel arrays in the order of the IDs asked for."""

    tile_id: NDArray[np.int64]
    """-1 for an ID that is not in the index."""

    row: NDArray[np.int64]
    """In the shard's ``/cutouts``, or its ``/skipped``."""

    status: NDArray[np.int64]
    """See `archive_builder.measure.quality.Status`."""

    generation: NDArray[np.int64]
    """Of the tile's shard that the row is in."""


@dataclass(frozen=True)
class TileEntry:
    """A tile's new shard, for the index."""

    tile: Mapping[str, Any]
    """Its row in ``tiles``, without the ``tile_id``."""

    stored: NDArray[np.int64]
    """Object IDs in the order of the shard's ``/cutouts``."""

    skipped: NDArray[np.int64]
    """Object IDs in the order of its ``/skipped``."""

    reason: NDArray[np.uint8]
    """The `Status` of each of those."""

    replaced: NDArray[np.int64] | None
    """Object IDs of the tile's old shard; None if they cannot be told: then the index has to find them."""

    @property
    def objects(self) -> NDArray[np.int64]:
        """All its object IDs."""
        return np.concatenate([self.stored, self.skipped])


class Index:
    """The index of an archive.

    Parameters
    ----------
    archive : Path
        The archive's folder.
    writable : bool
        Open it for the builder, and make it if it is not there.
    name : str
        Its file's name: another than the usual for an index in the making.

    Raises
    ------
    ArchiveError
        There is no index, or it cannot be read.
    """

    def __init__(self, archive: Path, writable: bool = False, name: str = INDEX_NAME) -> None:
        self.path = archive / name
        if not writable and not self.path.is_file():
            raise NoArchiveError(f"{archive} is no cutout archive: it has no {INDEX_NAME}")
        with self._explained():
            if writable and not self.path.is_file():
                _make(self.path)
            self._db = sqlite_utils.Database(_open(self.path, writable), execute_plugins=False)
            # A view or trigger in somebody else's file must not run functions.
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            check_tables(self._db.conn)
            self._file = self.path.stat().st_ino
            self._version = self._data_version()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def has_changed(self) -> bool:
        """Tell whether anybody else has written to the index since the last time this was asked."""
        with self._explained():
            if self.path.stat().st_ino != self._file:
                return True
            try:
                before, self._version = self._version, self._data_version()
            except sqlite3.OperationalError as error:
                if _is_half_written(error):
                    return True  # opening it anew mends it
                raise
            return before != self._version

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    @property
    def settings(self) -> dict[str, Any]:
        """What all shards share; empty for a new archive."""
        with self._explained():
            return sound_settings(self._db["settings"].rows)

    def set_settings(self, settings: Mapping[str, Any]) -> None:
        """Store what all shards share."""
        rows = [{"key": key, "value": json.dumps(value)} for key, value in settings.items()]
        with self._explained(), self._db.atomic():
            self._db["settings"].upsert_all(rows, pk="key")

    def tiles(self) -> list[dict[str, Any]]:
        """Return the rows of the table ``tiles``, by name."""
        with self._explained():
            return [sound_tile(row) for row in self._db["tiles"].rows_where(order_by="name")]

    def count_objects(self) -> int:
        """Return how many objects there are."""
        with self._explained():
            return int(self._db["objects"].count)

    def damage(self) -> list[str]:
        """Return what SQLite finds wrong with the file's structure; every page is read."""
        with self._explained():
            lines = [row[0] for row in self._db.execute("PRAGMA integrity_check")]
        return [] if lines == ["ok"] else [" ".join(str(line).split()) for line in lines]

    def tile(self, tile_id: int) -> dict[str, Any]:
        """Return one row of the table ``tiles``."""
        with self._explained():
            rows = [sound_tile(row) for row in self._db["tiles"].rows_where("tile_id = ?", [tile_id])]
        if not rows:
            raise ArchiveError(f"index {self.path}: has no tile number {tile_id} any more: ask again")
        return rows[0]

    def footprint(self, tile: Mapping[str, Any]) -> NDArray[np.float64]:
        """Return the corners that a row of the table ``tiles`` gives, RA and Dec in deg, (4, 2)."""
        with self._explained():
            return footprint_of(tile)

    def has_footprint(self, tile: Mapping[str, Any], corners: NDArray[np.float64]) -> bool:
        """Tell whether a row of the table ``tiles`` gives these corners."""
        return np.allclose(self.footprint(tile), corners, rtol=0, atol=1e-9)

    def skipped_for(self, tile: Mapping[str, Any]) -> dict[str, int]:
        """Return how many objects without a cutout a row of the table ``tiles`` gives, by reason."""
        with self._explained():
            return skipped_for_of(tile)

    def depth(self, tile: Mapping[str, Any]) -> dict[str, float | None]:
        """Return the depth that a row of the table ``tiles`` gives, per band, AB mag; None where not measured."""
        with self._explained():
            return depth_of(tile)

    def last_build(self) -> dict[str, Any] | None:
        """Return the row of the table ``builds`` that is the newest, if there has been any build."""
        with self._explained():
            return next(
                (sound_build(row) for row in self._db["builds"].rows_where(order_by="-build_id", limit=1)), None
            )

    def find(self, object_id: NDArray[np.int64]) -> Places:
        """Look objects up.

        Parameters
        ----------
        object_id : ndarray of int64, (N,)
            In any order, repeats allowed.
        """
        if len(object_id) == 1:  # the usual lookup, four times faster without the batch's machinery
            with self._explained():
                row = self._db.execute(LOOKUP, [int(object_id[0])]).fetchone()
                return Places(*np.array([sound_place(row) if row else [-1] * 4]).T)
        unique, inverse = np.unique(object_id, return_inverse=True)
        found = np.full((len(unique), 4), -1, dtype=np.int64)
        # In one transaction: all of them as they are at one moment.
        with self._explained(), self._db.atomic():
            for first in range(0, len(unique), BATCH):
                ids = unique[first : first + BATCH]
                rows = self._rows_of(ids)
                found[first + np.searchsorted(ids, rows[:, 0]), :3] = rows[:, 1:]
            self._add_generations(found)
        return Places(*found[inverse].T)

    def _rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ID, tile, row and status of those of some objects that there are, (n, 4); their IDs must rise."""
        low, high = int(ids[0]), int(ids[-1])
        if high - low >= DENSE * len(ids):
            return self._rows(AMONG, [json.dumps(ids.tolist())])
        rows = self._rows("BETWEEN ? AND ?", [low, high])
        if (np.diff(rows[:, 0]) <= 0).any():
            raise NonsenseError("its objects are not in order")
        rows = rows[np.isin(rows[:, 0], ids)]
        # A damaged ID may end the stretch early: what is not on it is not there only if it is not found alone either.
        rest = ids[~np.isin(ids, rows[:, 0])]
        return np.concatenate([rows, self._rows(AMONG, [json.dumps(rest.tolist())])]) if len(rest) else rows

    def _rows(self, which: str, values: list[Any]) -> NDArray[np.int64]:
        """Return ID, tile, row and status of objects, (n, 4)."""
        rows = sound_columns(self._db.execute(f"{LOOKUP_MANY} {which}", values).fetchone())
        check_status(rows[:, 3])
        return rows

    def _add_generations(self, found: NDArray[np.int64]) -> None:
        """Add its tile's generation to the place of each object; an object without a tile is nowhere."""
        tiles = self._generations(np.unique(found[:, 0]))
        is_known = np.isin(found[:, 0], tiles[:, 0])
        found[~is_known] = -1
        found[is_known, 3] = tiles[np.searchsorted(tiles[:, 0], found[is_known, 0]), 1]

    def _generations(self, tile_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return number and generation of those of some tiles that there are, by number, (n, 2)."""
        question = f"SELECT group_concat(tile_id), group_concat(generation) FROM tiles WHERE tile_id {AMONG}"
        tiles = sound_columns(self._db.execute(question, [json.dumps(tile_id.tolist())]).fetchone())
        return tiles[np.argsort(tiles[:, 0])]

    def commit_tiles(self, entries: Sequence[TileEntry]) -> None:
        """Put tiles' new shards in the place of their old ones, in one transaction.

        Raises
        ------
        DuplicateObjectError
            An object belongs to another tile already; nothing has been changed.
        """
        with self._explained(), self._db.atomic():
            for entry in entries:
                self._remove_replaced(entry)
            numbers = [self._put_tile(entry.tile) for entry in entries]
            for tile_id, entry in zip(numbers, entries, strict=True):
                try:
                    self._insert(_object_rows(entry, tile_id))
                except sqlite3.IntegrityError:
                    raise self._conflict(entry, tile_id) from None

    def remove_tile(self, tile_id: int, objects: NDArray[np.int64] | None) -> None:
        """Forget a tile and its objects; None if they cannot be told: then the whole index is searched for them."""
        with self._explained(), self._db.atomic():
            if objects is None:
                self._remove_all_objects(tile_id)
            else:
                self._remove_objects(tile_id, objects)
            self._db["tiles"].delete(tile_id)

    def record_fingerprints(self, fingerprints: Mapping[str, tuple[str, str]]) -> None:
        """Note new fingerprints of tiles that have not changed: of their files, and of the contents."""
        with self._explained(), self._db.atomic():
            for name, (files, contents) in fingerprints.items():
                self._put_tile({"name": name, "input_fingerprint": files, "input_hash": contents})

    def record_failure(self, name: str, error: str, build_id: int | None = None) -> None:
        """Note that the last attempt at a tile failed; what was kept of it stays."""
        with self._explained(), self._db.atomic():
            self._put_tile({"name": name, "state": "failed", "error": error, "build_id": build_id})

    def begin_build(self, planned: int) -> int:
        """Note that a build of so many tiles begins; return its number."""
        row = {"started": utc_now(), "planned": planned}
        with self._explained(), self._db.atomic():
            return int(self._db["builds"].insert(row).last_pk)

    def end_build(self, build_id: int) -> None:
        """Note that a build is over."""
        with self._explained(), self._db.atomic():
            self._db["builds"].update(build_id, {"finished": utc_now()})

    def _insert(self, rows: NDArray[np.int64]) -> None:
        """Insert rows into the table ``objects``, (n, 4)."""
        whole = len(rows) // ROWS_AT_ONCE * ROWS_AT_ONCE
        for part, at_once in ((rows[:whole], ROWS_AT_ONCE), (rows[whole:], 1)):
            places = ", ".join(["(?, ?, ?, ?)"] * at_once)
            statement = f"INSERT INTO objects (object_id, tile_id, row, status) VALUES {places}"
            self._db.conn.executemany(statement, part.reshape(-1, 4 * at_once).tolist())

    def _remove_replaced(self, entry: TileEntry) -> None:
        """Remove the objects of a tile's old shard."""
        known = self._tile_named(entry.tile["name"])
        if known is None:
            return
        if entry.replaced is not None:
            self._remove_objects(known["tile_id"], entry.replaced)
        # Where they cannot be told, they mostly are the new shard's, and the tile's row knows how many there were.
        elif self._remove_objects(known["tile_id"], entry.objects) != known["stored"] + known["skipped"]:
            self._remove_all_objects(known["tile_id"])

    def _remove_objects(self, tile_id: int, ids: NDArray[np.int64]) -> int:
        """Remove those of some objects that are a tile's; return how many."""
        statement = "DELETE FROM objects WHERE object_id = ? AND tile_id = ?"
        rows = zip(np.sort(ids).tolist(), [tile_id] * len(ids), strict=True)
        return int(self._db.conn.executemany(statement, rows).rowcount)

    def _remove_all_objects(self, tile_id: int) -> None:
        """Remove a tile's objects, whichever they are: the whole table is searched."""
        self._db.execute("DELETE FROM objects WHERE tile_id = ?", [tile_id])

    def _put_tile(self, tile: Mapping[str, Any]) -> int:
        """Insert a tile's row, or update it; return its ``tile_id``."""
        known = self._tile_named(tile["name"])
        if known is not None:
            self._db["tiles"].update(known["tile_id"], dict(tile))
            return int(known["tile_id"])
        return int(self._db["tiles"].insert(dict(tile)).last_pk)

    def _tile_named(self, name: str) -> dict[str, Any] | None:
        """Return a tile's row, if there is one."""
        return next((sound_tile(row) for row in self._db["tiles"].rows_where("name = ?", [name])), None)

    def _conflict(self, entry: TileEntry, tile_id: int) -> DuplicateObjectError:
        """Return the error that names the first object that another tile has."""
        ids, name = np.unique(entry.objects), entry.tile["name"]
        for first in range(0, len(ids), BATCH):
            rows = self._rows_of(ids[first : first + BATCH])
            others = rows[rows[:, 1] != tile_id]
            if len(others):
                object_id, other = (int(value) for value in others[0, :2])
                if not len(self._generations(others[:1, 1])):
                    raise NonsenseError(f"object {object_id} is on tile number {other}, which it does not have")
                return DuplicateObjectError(object_id, name, self.tile(other)["name"])
        return DuplicateObjectError(None, name, name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one that names the file and the remedy."""
        try:
            yield
        except FileNotFoundError:
            raise NoArchiveError(
                f"{self.path.parent} is no cutout archive any more: its {INDEX_NAME} is gone"
            ) from None
        except sqlite3.OperationalError as error:
            if _is_half_written(error):
                raise ArchiveError(
                    f"index {self.path}: a build died while it wrote to it: "
                    "build again, as somebody who may write there"
                ) from None
            raise ArchiveError(f"index {self.path}: {one_line(error)}: is the disk full or the file locked?") from None
        except NonsenseError as error:
            raise DamagedIndexError(f"index {self.path}: {error}: reindex the archive") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes what it cannot read
            raise ArchiveError(f"index {self.path}: {one_line(error)}: the file is damaged") from None


def put_in_place(fresh: Path, index: Path) -> None:
    """Let a new index take the place of an old one.

    A journal that a dying builder left is the old one's: SQLite would undo the new one's pages by it.
    """
    _remove_journal(index)
    fresh.replace(index)
    sync(index.parent)


def _remove_journal(index: Path) -> None:
    """Remove the journal of an index that is to be replaced."""
    index.with_name(f"{index.name}-journal").unlink(missing_ok=True)


def _open(path: Path, writable: bool) -> sqlite3.Connection:
    """Open an index; what a builder that died had half written is undone by whoever opens it next and may."""
    if not writable:
        connection = _connect(path, "ro")
        try:
            connection.execute("PRAGMA data_version").fetchone()
            return connection
        except sqlite3.Error as error:
            connection.close()
            if not _is_half_written(error):
                raise
        with closing(_connect(path, "rw")) as mender:
            mender.execute("PRAGMA data_version").fetchone()
    return _connect(path, "rw" if writable else "ro")


def _is_half_written(error: sqlite3.Error) -> bool:
    """Tell whether SQLite refuses a file because it would have to undo a transaction there, and may not write."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Without check_same_thread: whoever shares an Index between threads must take turns.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def _make(path: Path) -> None:
    """Make an empty index, with all its tables or not at all."""
    _remove_journal(path)
    with whole_file(path, durable=True) as fresh, closing(_connect(fresh, "rwc")) as connection:
        connection.executescript(schema())


def object_places(
    stored: NDArray[np.int64], skipped: NDArray[np.int64], reason: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return ID, row and status of all objects of a tile, as the index has them."""
    row = np.concatenate([np.arange(len(stored)), np.arange(len(skipped))])
    return np.concatenate([stored, skipped]), row, np.concatenate([np.full(len(stored), int(Status.STORED)), reason])


def _object_rows(entry: TileEntry, tile_id: int) -> NDArray[np.int64]:
    """Return a tile's rows of the table ``objects`` in the order to put them in, (n, 4)."""
    ids, row, status = object_places(entry.stored, entry.skipped, entry.reason)
    return np.stack([ids, np.full(len(ids), tile_id), row, status], axis=1)[_order_to_insert(ids)]


def _order_to_insert(ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return an order of IDs in which they leave SQLite's pages full.

    The IDs of a tile lie close together, and most tiles come between others. There SQLite leaves its pages 88% full
    behind rows that are put in one after another, and half full if they come from the last to the first. So half of
    them come so, and the others fill the pages: 97% full, with no row moved twice.
    """
    rising = np.argsort(ids)
    is_first = np.diff(np.floor(np.arange(len(ids) + 1) * FIRST_SHARE)) > 0
    return np.concatenate([rising[is_first][::-1], rising[~is_first]])
