"""The index of an archive: one SQLite file that leads from an object ID to a row of a shard."""

from __future__ import annotations

import json
import os
import sqlite3
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import sqlite_utils
from numpy.typing import NDArray

from archive_builder.errors import ArchiveError, DamagedIndexError, DuplicateObjectError, NoArchiveError, one_line
from archive_builder.measure.quality import INDEXED, Status
from archive_builder.store.file_locks import MOUNT
from archive_builder.store.file_names import INDEX_NAME
from archive_builder.store.index_file import (
    check_tables,
    create_index,
    is_busy,
    is_half_written,
    is_refused_lock,
    open_index,
    read_without_locks,
)
from archive_builder.store.records import (
    BuildRow,
    InvalidRecordError,
    Places,
    Settings,
    TileEntry,
    TileRecord,
    TileRow,
    count_indexed,
    parse_row,
    parse_settings,
    skip_counts,
    tile_corners,
    tile_depth,
)

BATCH = 10_000
"""Object IDs in one statement."""

DENSE = 4
"""Range-scan when at least one ID in this many is wanted: three times as fast."""

FIRST_SHARE = 0.503
"""Share of a tile's rows that are inserted first; with 0.5 and 0.51 the pages are 2% less full."""

ROWS_AT_ONCE = 100
"""Rows in one INSERT: 0.6 of the time of single rows."""

CACHE_KIB = 16384
"""Page cache of a connection, KiB: the 6 MB of a tile's objects stay in memory until the commit."""

LOOKUP = "SELECT tile_id, row, status, generation FROM objects JOIN tiles USING (tile_id) WHERE object_id = ?"
"""Query for the place of one object."""

LOOKUP_MANY = """
SELECT group_concat(object_id), group_concat(tile_id), group_concat(row), group_concat(status)
FROM objects WHERE object_id
"""
"""Query for the places of objects, without its last condition. Columns come as text: a third of the time of rows."""

LONGEST_PATH = 460
"""Path of an index that SQLite can open, bytes: at most 512, with the endings of journals and temporary files."""

INT64 = np.iinfo(np.int64)
"""Range of object IDs."""

IDS = """
SELECT group_concat(object_id) FROM (
    SELECT object_id FROM objects WHERE object_id >= ?1 AND (?2 IS NULL OR status = ?2) ORDER BY object_id LIMIT ?3
)
"""
"""Query for the next IDs of objects: 5 million IDs/s, half the time of rows."""

AMONG = "IN (SELECT value FROM json_each(?))"
"""Condition for numbers given as JSON."""

RIVALS_OF = """
SELECT elsewhere.object_id, elsewhere.tile_id FROM elsewhere LEFT JOIN objects USING (object_id)
WHERE elsewhere.tile_id NOT IN (SELECT value FROM json_each(?1))
AND (objects.tile_id IN (SELECT value FROM json_each(?1)) OR (?2 AND objects.tile_id IS NULL))
"""
"""Query for the tiles that list IDs of some owners, or of none."""

NOT_JSON = (ValueError, TypeError, RecursionError, OverflowError)
"""Errors of reading numbers from JSON."""


def utc_now() -> str:
    """Return the time in the form of the index: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Index:
    """The index of an archive.

    Parameters
    ----------
    archive : Path
        Folder of the archive.
    writable : bool
        Open the index for a build, and create it if it is missing.
    name : str
        File name of the index; another than `INDEX_NAME` for an index that is being made.

    Raises
    ------
    ArchiveError
        The index is missing or cannot be read.
    """

    def __init__(self, archive: Path, writable: bool = False, name: str = INDEX_NAME) -> None:
        self.path = archive / name
        if not writable and not self.path.is_file():
            raise NoArchiveError(f"{archive} is not a cutout archive: it has no {INDEX_NAME}: check the path")
        self._is_locked = True
        with self._explained():
            if writable and not self.path.is_file():
                create_index(self.path)
            connection, self._is_locked = open_index(self.path, writable)
            self._db = sqlite_utils.Database(connection, execute_plugins=False)
        with self._explained():
            # A view or trigger in a foreign file must not run functions.
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
        """Return True if another process has written to the index since the last call."""
        try:
            return self._has_changed()
        except ArchiveError:
            if self._is_locked:
                raise
            return True  # during this call

    def _has_changed(self) -> bool:
        with self._explained():
            if self.path.stat().st_ino != self._file:
                return True
            try:
                before, self._version = self._version, self._data_version()
            except sqlite3.OperationalError as error:
                if is_half_written(error):
                    return True  # opening the file again undoes the transaction
                raise
            return before != self._version

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    # ---- reading

    @property
    def settings(self) -> Settings | None:
        """Settings that all shards share; None for a new archive."""
        with self._explained():
            return parse_settings({str(row["key"]): row["value"] for row in self._db["settings"].rows})

    def tiles(self) -> list[TileRow]:
        """Return the rows of the table ``tiles``, by name."""
        with self._explained():
            return [_tile_row(row) for row in self._db["tiles"].rows_where(order_by="name")]

    def tiles_by_name(self) -> dict[str, TileRow]:
        """Return the rows of the table ``tiles`` by the tile's name."""
        return {tile.name: tile for tile in self.tiles()}

    def tile(self, tile_id: int) -> TileRow:
        """Return one row of the table ``tiles``."""
        with self._explained():
            rows = [_tile_row(row) for row in self._db["tiles"].rows_where("tile_id = ?", [tile_id])]
        if not rows:
            raise ArchiveError(f"index {self.path}: tile number {tile_id} is gone: retry")
        return rows[0]

    def footprint(self, tile: TileRecord) -> NDArray[np.float64]:
        """Return the corners of a tile, RA and Dec in deg (ICRS), float64 (4, 2)."""
        with self._explained():
            return tile_corners(tile)

    def has_footprint(self, tile: TileRecord, corners: NDArray[np.float64]) -> bool:
        """Return True if a row of the table ``tiles`` gives these corners."""
        return np.allclose(self.footprint(tile), corners, rtol=0, atol=1e-9)

    def skipped_for(self, tile: TileRecord) -> dict[str, int]:
        """Return the number of a tile's objects without a cutout, by reason."""
        with self._explained():
            return skip_counts(tile)

    def objects_of(self, tile: TileRecord) -> int:
        """Return the number of a tile's objects in the index, by the tile's counts."""
        with self._explained():
            return count_indexed(tile)

    def depth(self, tile: TileRecord) -> dict[str, float | None]:
        """Return the depth of a tile per band, AB mag; None where not measured."""
        with self._explained():
            return tile_depth(tile)

    def last_build(self) -> BuildRow | None:
        """Return the newest row of the table ``builds``; None if there has been no build."""
        with self._explained():
            rows = self._db["builds"].rows_where(order_by="-build_id", limit=1)
            return next((parse_row(BuildRow, row, f"build {row['build_id']}") for row in rows), None)

    def count_objects(self) -> int:
        """Return the number of objects."""
        with self._explained():
            return int(self._db["objects"].count)

    def damage(self) -> list[str]:
        """Return the faults that SQLite finds in the file's structure; every page is read."""
        with self._explained():
            lines = [row[0] for row in self._db.execute("PRAGMA integrity_check")]
        return [] if lines == ["ok"] else [" ".join(str(line).split()) for line in lines]

    # ---- looking objects up

    def find(self, object_id: NDArray[np.int64]) -> Places:
        """Look objects up.

        Parameters
        ----------
        object_id : ndarray of int64, (N,)
            In any order; repeats are allowed.

        Returns
        -------
        Places
            In the order given, all as of one moment.
        """
        if len(object_id) == 1:  # the usual lookup: four times faster than as a batch
            with self._explained():
                row = self._db.execute(LOOKUP, [int(object_id[0])]).fetchone()
                return Places(*np.array([_place(row) if row else [-1] * 4]).T)
        unique, inverse = np.unique(object_id, return_inverse=True)
        found = np.full((len(unique), 4), -1, dtype=np.int64)
        with self._explained(), self._db.atomic():
            for first in range(0, len(unique), BATCH):
                ids = unique[first : first + BATCH]
                rows = self._rows_of(ids)
                found[first + np.searchsorted(ids, rows[:, 0]), :3] = rows[:, 1:]
            self._add_generations(found)
        return Places(*found[inverse].T)

    def _rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return ID, tile, row and status of the known ones among ascending IDs, (n, 4)."""
        low, high = int(ids[0]), int(ids[-1])
        if high - low >= DENSE * len(ids):
            return self._rows(AMONG, [json.dumps(ids.tolist())])
        rows = self._rows("BETWEEN ? AND ?", [low, high])
        if (np.diff(rows[:, 0]) <= 0).any():
            raise InvalidRecordError("its objects are not in order")
        rows = rows[np.isin(rows[:, 0], ids)]
        # A damaged page may end a range early: an ID missing from the range is looked up alone.
        rest = ids[~np.isin(ids, rows[:, 0])]
        return np.concatenate([rows, self._rows(AMONG, [json.dumps(rest.tolist())])]) if len(rest) else rows

    def _rows(self, condition: str, values: list[Any]) -> NDArray[np.int64]:
        """Return ID, tile, row and status of objects, (n, 4)."""
        rows = _number_columns(self._db.execute(f"{LOOKUP_MANY} {condition}", values).fetchone())
        _check_status(rows[:, 3])
        return rows

    def _add_generations(self, found: NDArray[np.int64]) -> None:
        """Add the tile's generation to the place of each object; an object without a tile has no place."""
        tiles = self._generations(np.unique(found[:, 0]))
        is_known = np.isin(found[:, 0], tiles[:, 0])
        found[~is_known] = -1
        found[is_known, 3] = tiles[np.searchsorted(tiles[:, 0], found[is_known, 0]), 1]

    def _generations(self, tile_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return number and generation of the known ones among tiles, by number, (n, 2)."""
        query = f"SELECT group_concat(tile_id), group_concat(generation) FROM tiles WHERE tile_id {AMONG}"
        tiles = _number_columns(self._db.execute(query, [json.dumps(tile_id.tolist())]).fetchone())
        return tiles[np.argsort(tiles[:, 0])]

    def ids(self, status: Status | None = None) -> NDArray[np.int64]:
        """Return the IDs of all objects, or of those with one status, in ascending order.

        Each batch is read by itself: a transaction of minutes would keep a build from its commits.
        """
        found, first = array("q"), int(INT64.min)
        with self._explained():
            while True:
                wanted = None if status is None else int(status)
                ids = _number_columns(self._db.execute(IDS, [first, wanted, BATCH]).fetchone())[:, 0]
                if (ids[1:] <= ids[:-1]).any() or (ids[:1] < first).any():
                    raise InvalidRecordError("its objects are not in order")
                found.frombytes(ids.tobytes())
                if len(ids) < BATCH or ids[-1] == INT64.max:
                    return np.frombuffer(found, dtype=np.int64)
                first = int(ids[-1]) + 1

    # ---- IDs in several catalogues

    def elsewhere(self, tile_id: int) -> NDArray[np.int64]:
        """Return the IDs that a tile's catalogue lists and another tile owns, int64 (n,), in ascending order."""
        with self._explained():
            rows = self._db.execute("SELECT object_id FROM elsewhere WHERE tile_id = ? ORDER BY object_id", [tile_id])
            return _integers(rows, 1)[:, 0]

    def rivals(self, object_id: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles that list some IDs without owning them: ID and tile, int64 (n, 2)."""
        ids = np.unique(object_id)
        with self._explained():
            if self._db.execute("SELECT NOT EXISTS (SELECT 1 FROM elsewhere)").fetchone()[0]:
                return np.empty((0, 2), dtype=np.int64)
            query = f"SELECT object_id, tile_id FROM elsewhere WHERE object_id {AMONG}"
            found = [np.empty((0, 2), dtype=np.int64)]
            for first in range(0, len(ids), BATCH):
                batch = json.dumps(ids[first : first + BATCH].tolist())
                found.append(_integers(self._db.execute(query, [batch]), 2))
            return np.concatenate(found)

    def rivals_of(self, owners: Sequence[int], *, without_owner: bool) -> NDArray[np.int64]:
        """Return the tiles that list IDs of some owners: ID and tile, int64 (n, 2), without the owners themselves.

        Parameters
        ----------
        owners : sequence of int
            Numbers of tiles.
        without_owner : bool
            Return also the tiles that list an ID without an owner.
        """
        tiles = json.dumps([int(number) for number in owners])
        with self._explained():
            return _integers(self._db.execute(RIVALS_OF, [tiles, without_owner]), 2)

    # ---- writing

    def set_settings(self, settings: Settings) -> None:
        """Store the settings that all shards share."""
        rows = [{"key": key, "value": json.dumps(value)} for key, value in settings.model_dump().items()]
        with self._explained(), self._db.atomic():
            self._db["settings"].upsert_all(rows, pk="key")

    def commit_tiles(self, entries: Sequence[TileEntry]) -> None:
        """Replace the old shards of tiles by new ones, in one transaction.

        Raises
        ------
        DuplicateObjectError
            An object belongs to another tile; nothing has changed.
        """
        with self._explained(), self._db.atomic():
            for entry in entries:
                self._remove_replaced(entry)
            numbers = [self._put_tile(**entry.tile.model_dump()) for entry in entries]
            for tile_id, entry in zip(numbers, entries, strict=True):
                try:
                    self._insert(_object_rows(entry, tile_id))
                except sqlite3.IntegrityError:
                    raise self._conflict(entry, tile_id) from None
                self._put_elsewhere(tile_id, entry.elsewhere)

    def remove_tile(self, tile_id: int, objects: NDArray[np.int64] | None) -> None:
        """Remove a tile and its objects; with None the whole index is searched for its objects."""
        with self._explained(), self._db.atomic():
            if objects is None:
                self._remove_all_objects(tile_id)
            else:
                self._remove_objects(tile_id, objects)
            self._put_elsewhere(tile_id, np.empty(0, dtype=np.int64))
            self._db["tiles"].delete(tile_id)

    def record_fingerprints(self, fingerprints: Mapping[str, tuple[str, str]]) -> None:
        """Store new fingerprints of unchanged tiles: of their files, and of the contents."""
        with self._explained(), self._db.atomic():
            for name, (files, contents) in fingerprints.items():
                self._put_tile(name, input_fingerprint=files, input_hash=contents)

    def record_failure(self, name: str, error: str, build_id: int | None = None) -> None:
        """Store that the last attempt at a tile failed; its old shard stays."""
        with self._explained(), self._db.atomic():
            self._put_tile(name, state="failed", error=error, build_id=build_id)

    def begin_build(self, planned: int) -> int:
        """Store the start of a build, and return its number.

        Parameters
        ----------
        planned : int
            Tiles to build.
        """
        row = {"started": utc_now(), "planned": planned}
        with self._explained(), self._db.atomic():
            return int(self._db["builds"].insert(row).last_pk)

    def end_build(self, build_id: int) -> None:
        """Store the end of a build."""
        with self._explained(), self._db.atomic():
            self._db["builds"].update(build_id, {"finished": utc_now()})

    def _insert(self, rows: NDArray[np.int64]) -> None:
        """Insert rows into the table ``objects``, (n, 4)."""
        whole = len(rows) // ROWS_AT_ONCE * ROWS_AT_ONCE
        for part, at_once in ((rows[:whole], ROWS_AT_ONCE), (rows[whole:], 1)):
            places = ", ".join(["(?, ?, ?, ?)"] * at_once)
            statement = f"INSERT INTO objects (object_id, tile_id, row, status) VALUES {places}"
            self._db.conn.executemany(statement, part.reshape(-1, 4 * at_once).tolist())

    def _put_elsewhere(self, tile_id: int, ids: NDArray[np.int64]) -> None:
        """Replace the IDs that a tile lists without owning them."""
        self._db.execute("DELETE FROM elsewhere WHERE tile_id = ?", [tile_id])
        rows = ((tile_id, object_id) for object_id in ids.tolist())
        self._db.conn.executemany("INSERT INTO elsewhere (tile_id, object_id) VALUES (?, ?)", rows)

    def _remove_replaced(self, entry: TileEntry) -> None:
        """Remove the objects of a tile's old shard."""
        known = self._tile_named(entry.tile.name)
        if known is None:
            return
        if entry.replaced is not None:
            self._remove_objects(known.tile_id, entry.replaced)
        # Most objects of the old shard are also in the new one. The tile's row has their total.
        elif self._remove_objects(known.tile_id, entry.objects) != count_indexed(known):
            self._remove_all_objects(known.tile_id)

    def _remove_objects(self, tile_id: int, ids: NDArray[np.int64]) -> int:
        """Remove the objects of a tile among these IDs, and return their number."""
        statement = "DELETE FROM objects WHERE object_id = ? AND tile_id = ?"
        rows = zip(np.sort(ids).tolist(), [tile_id] * len(ids), strict=True)
        return int(self._db.conn.executemany(statement, rows).rowcount)

    def _remove_all_objects(self, tile_id: int) -> None:
        """Remove all objects of a tile by a search through the whole table."""
        self._db.execute("DELETE FROM objects WHERE tile_id = ?", [tile_id])

    def _put_tile(self, name: str, **columns: Any) -> int:
        """Insert or update columns of a tile's row, and return its ``tile_id``."""
        known = self._tile_named(name)
        if known is not None:
            self._db["tiles"].update(known.tile_id, columns)
            return known.tile_id
        return int(self._db["tiles"].insert({"name": name, **columns}).last_pk)

    def _tile_named(self, name: str) -> TileRow | None:
        """Return the row of a tile; None if there is none."""
        return next((_tile_row(row) for row in self._db["tiles"].rows_where("name = ?", [name])), None)

    def _conflict(self, entry: TileEntry, tile_id: int) -> DuplicateObjectError:
        """Return the error that names the first object of another tile."""
        ids, name = np.unique(entry.objects), entry.tile.name
        for first in range(0, len(ids), BATCH):
            rows = self._rows_of(ids[first : first + BATCH])
            others = rows[rows[:, 1] != tile_id]
            if len(others):
                object_id, other = (int(value) for value in others[0, :2])
                if not len(self._generations(others[:1, 1])):
                    raise InvalidRecordError(f"object {object_id} is on tile number {other}, which the index lacks")
                return DuplicateObjectError(object_id, name, self.tile(other).name)
        return DuplicateObjectError(None, name, name)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into one that names the file and the remedy."""
        try:
            with nullcontext() if self._is_locked else read_without_locks(self.path):
                yield
        except FileNotFoundError:
            raise NoArchiveError(
                f"{self.path.parent} is not a cutout archive: its {INDEX_NAME} was removed: restore or reindex it"
            ) from None
        except OSError as error:
            raise ArchiveError(
                f"index {self.path}: cannot be used ({one_line(error)}): check that it is a file with write access"
            ) from None
        except sqlite3.OperationalError as error:
            if is_half_written(error):
                raise ArchiveError(
                    f"index {self.path}: a build was killed during a commit: "
                    "build again as a user with write access to the archive"
                ) from None
            if len(os.fsencode(self.path.absolute())) > LONGEST_PATH:
                raise ArchiveError(
                    f"index {self.path}: its path is longer than SQLite allows, 512 bytes: give a shorter path"
                ) from None
            if is_refused_lock(error) and not is_busy(error):
                raise ArchiveError(f"index {self.path}: its file system refuses a file lock: {MOUNT}") from None
            raise ArchiveError(
                f"index {self.path}: {one_line(error)}: check the free space and the locks of the disk"
            ) from None
        except InvalidRecordError as error:
            raise DamagedIndexError(f"index {self.path}: {error}: reindex the archive") from None
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite quotes what it cannot read
            raise ArchiveError(
                f"index {self.path}: {one_line(error)}: the file is damaged: reindex the archive"
            ) from None


def object_places(
    stored: NDArray[np.int64], skipped: NDArray[np.int64], reason: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return ID, row and status of the objects of a tile in the form of the index: those that the tile owns."""
    ids = np.concatenate([stored, skipped])
    row = np.concatenate([np.arange(len(stored)), np.arange(len(skipped))])
    status = np.concatenate([np.full(len(stored), int(Status.STORED)), reason])
    owned = status != Status.ELSEWHERE
    return ids[owned], row[owned], status[owned]


def _object_rows(entry: TileEntry, tile_id: int) -> NDArray[np.int64]:
    """Return a tile's rows of the table ``objects`` in the order of insertion, (n, 4)."""
    ids, row, status = object_places(entry.stored, entry.skipped, entry.reason)
    return np.stack([ids, np.full(len(ids), tile_id), row, status], axis=1)[_order_to_insert(ids)]


def _order_to_insert(ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return an order of IDs that leaves SQLite's pages full.

    The IDs of a tile lie close together, mostly between those of other tiles. There SQLite leaves its pages 88% full
    after rows in ascending order, and half full after rows in descending order. So half of the rows are inserted in
    descending order, and the others fill the pages: 97% full, and no row is moved twice.
    """
    rising = np.argsort(ids)
    is_first = np.diff(np.floor(np.arange(len(ids) + 1) * FIRST_SHARE)) > 0
    return np.concatenate([rising[is_first][::-1], rising[~is_first]])


# ---- checks of values that are read by the million: plain code, a record each would be too slow


def _tile_row(row: Mapping[str, Any]) -> TileRow:
    return parse_row(TileRow, row, f"tile {row['name']}")


def _place(row: Sequence[Any]) -> list[int]:
    """Return tile, row, status and generation of an object, if they are integers."""
    if not all(isinstance(value, int) for value in row):
        raise InvalidRecordError("an object's place is not an integer")
    _check_status(np.array(row[2]))
    return list(row)


def _number_columns(texts: Sequence[str | None]) -> NDArray[np.int64]:
    """Return columns of integers, each a text of numbers and commas, as an array (n, columns)."""
    try:
        columns = [json.loads(f"[{text or ''}]", parse_float=_refuse, parse_constant=_refuse) for text in texts]
        return np.array(columns, dtype=np.int64).reshape(len(texts), len(columns[0])).T
    except NOT_JSON:
        raise InvalidRecordError("an object's place is not an integer") from None


def _check_status(status: NDArray[np.int64]) -> None:
    if ((status < 0) | (status > max(INDEXED))).any():
        raise InvalidRecordError("an object has an unknown status")


def _integers(rows: Iterable[Sequence[Any]], columns: int) -> NDArray[np.int64]:
    """Return rows of integers as an array, (n, columns)."""
    found = list(rows)
    if not all(isinstance(value, int) for row in found for value in row):
        raise InvalidRecordError("an object's place is not an integer")
    return np.array(found, dtype=np.int64).reshape(-1, columns)


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not an integer")
