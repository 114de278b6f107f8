"""Owners of object IDs that several catalogue rows list, decided before any tile is cut.

The row that lies deepest inside its tile owns the ID; see `archive_builder.measure.owners`. The decision needs the
catalogues and the headers of the tiles to build, and the index. Tiles that are not built take part if they list an ID
of these tiles. Such a tile is built too if it gains or loses an ID.

A tile that cannot be built again keeps its IDs, whatever the depth: its files are gone, or changed and not requested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.builder.changes import Changes, Task
from archive_builder.builder.claims import CLAIM, Claims, claim_type
from archive_builder.builder.listing import NOTHING, digest, first_band, place
from archive_builder.builder.one_tile import attempt
from archive_builder.builder.shared_catalog import Split
from archive_builder.geometry import pixel_scale
from archive_builder.measure.owners import edge_depth, owns, repeated
from archive_builder.object_ids import IdKind, ObjectIds
from archive_builder.run.engine import Engine, Lost, run_with_retries
from archive_builder.store.index import Index
from archive_builder.store.records import TileRow
from archive_builder.survey.catalog import read_catalog
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe

MOVED = "with objects that moved"
"""Reason for building a tile that gains or loses an object."""

EMPTIED = "the catalogue has no more objects on this tile: remove the tile from the survey, and build with --prune"
"""Reason for the failure of a tile in the archive on which no row lies any more."""

NEVER_YIELDS = np.iinfo(np.int32).max
"""Depth of the objects of a tile that cannot be built again."""


@dataclass(frozen=True)
class ListingJob:
    """A tile whose objects are listed."""

    files: TileFiles
    """Source files of the tile."""

    recipe: Recipe
    """Recipe of the archive."""

    id_kind: IdKind
    """Kind of the archive's object IDs."""

    def __str__(self) -> str:
        """Return an empty text: the log does not announce this short job."""
        return ""


@dataclass(frozen=True)
class Listing:
    """Object IDs of a tile's catalogue, each with its depth inside the tile; or the reason why there are none."""

    tile: str
    """Name of the tile."""

    error: str | None = None
    """Reason of the failure; the other values are empty."""

    object_id: ObjectIds = field(default_factory=lambda: NOTHING)
    """Object IDs without repeats, ascending, (N,)."""

    depth: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    """Depth of the deepest row of each ID, milliarcsec, (N,)."""

    digest: str = ""
    """Hash of all rows; see `archive_builder.builder.listing.digest`."""


def list_objects(job: ListingJob) -> Listing:
    """List the objects of one tile; every error is returned as a result."""
    listing = attempt(lambda: _list(job), job.files.catalog)
    return Listing(job.files.tile, error=listing) if isinstance(listing, str) else listing


def _list(job: ListingJob) -> Listing:
    files = job.files
    catalog = read_catalog(files.catalog, job.recipe.catalog, files.tile, job.id_kind)
    with first_band(files, job.recipe) as tile:
        objects = place(catalog, tile)
        depth = edge_depth(objects.x, objects.y, tile.shape, pixel_scale(tile.wcs))
    chosen = np.flatnonzero(owns(objects.object_id, depth, np.arange(len(depth))))
    chosen = chosen[np.argsort(objects.object_id[chosen])]
    return Listing(files.tile, None, objects.object_id[chosen], depth[chosen], digest(objects.object_id, depth))


@dataclass(frozen=True)
class Owners:
    """Owners of the IDs that several rows list."""

    changes: Changes
    """Tiles to build: those requested, and those that gain or lose an ID. A tile without a listing cannot be built."""

    elsewhere: Mapping[str, ObjectIds] = field(default_factory=dict)
    """IDs that each tile to build lists and another tile owns, ascending, by tile."""

    listings: Mapping[str, str] = field(default_factory=dict)
    """Hash of the objects of each listed tile; see `Listing.digest`."""


@dataclass(frozen=True)
class Contest:
    """Everything that the decision needs besides the changes."""

    files: Mapping[str, TileFiles]
    """Complete tiles of the survey, by name."""

    known: Mapping[str, TileRow]
    """Tiles of the index, by name."""

    index: Index | None
    """Index that takes the new shards; None if it does not exist yet."""

    list_all: Callable[[Sequence[TileFiles]], Iterator[Listing]]
    """Lists the objects of tiles, in any order."""

    is_unchanged: Callable[[TileFiles], bool]
    """Returns True if a tile's shard is up to date."""

    removed: Collection[str] = ()
    """Tiles that the build removes from the archive."""

    whole: bool = True
    """True if the build considers all tiles of the survey."""

    folder: Path | None = None
    """Folder of a temporary file; None for the system's."""


def list_with(
    engine: Engine, recipe: Recipe, retries: int, id_kind: IdKind
) -> Callable[[Sequence[TileFiles]], Iterator[Listing]]:
    """Return a function that lists the objects of tiles by an engine."""

    def list_all(tiles: Sequence[TileFiles]) -> Iterator[Listing]:
        jobs = [ListingJob(files, recipe, id_kind) for files in tiles]
        for outcome in run_with_retries(engine, list_objects, jobs, retries):
            yield Listing(outcome.job.files.tile, outcome.cause) if isinstance(outcome, Lost) else outcome

    return list_all


def find_owners(changes: Changes, contest: Contest) -> Owners:
    """Decide which tile owns each ID that the tiles to build list, or owned before.

    Parameters
    ----------
    changes : Changes
        Tiles to build.
    contest : Contest
    """
    return _Decision(changes, contest).run()


class _Decision:
    """One decision; see :func:`find_owners`."""

    def __init__(self, changes: Changes, contest: Contest) -> None:
        self._changes, self._contest = changes, contest
        self._names = sorted(contest.files.keys() | contest.known.keys())
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._listings: dict[str, str] = {}
        self._failed: dict[str, str] = {}

    def run(self) -> Owners:
        """List the tiles, decide, and add the tiles that gain or lose an ID."""
        with Claims(self._contest.folder) as claims:
            self._list_tasks(claims)
            tasks, others = self._contested(claims)
        others = self._with_depth(others)
        everything = np.concatenate([tasks, others["claim"]])
        is_owner = owns(everything["object_id"], everything["depth"], everything["tile"])
        lost = self._by_tile(tasks[~is_owner[: len(tasks)]])
        now = is_owner[len(tasks) :]
        due = self._due(others["claim"], others["is_owner"], now)
        return Owners(self._new_changes(due), {**lost, **due}, self._listings)

    def _list_tasks(self, claims: Claims) -> None:
        """List the objects of the tiles to build."""
        for listing in self._contest.list_all([task.files for task in self._changes.tasks]):
            if listing.error is not None:
                self._failed[listing.tile] = listing.error
                continue
            self._listings[listing.tile] = listing.digest
            claims.add(listing.object_id, listing.depth, self._numbers[listing.tile])

    def _contested(self, claims: Claims) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the contested claims of the tiles to build, and those of all other tiles, not yet with their depth."""
        rivals = _Rivals(self._contest, self._numbers, self._listings.keys())
        freed = rivals.freed()
        tasks, others = [np.empty(0, dtype=CLAIM)], [freed]
        for part in claims.parts():
            found = rivals.of(np.unique(part["object_id"]))
            contested = [repeated(part["object_id"]), found["claim"]["object_id"], freed["claim"]["object_id"]]
            tasks.append(part[np.isin(part["object_id"], np.concatenate(contested))])
            others.append(found)
        return np.concatenate(tasks), _without_repeats(np.concatenate(others))

    def _with_depth(self, others: NDArray[Any]) -> NDArray[Any]:
        """Return the claims of tiles that are not being built with their depth, without claims that cannot succeed."""
        tiles = {self._names[number] for number in np.unique(others["claim"]["tile"]).tolist()}
        files = self._contest.files
        able = [files[name] for name in sorted(tiles) if name in files and self._contest.is_unchanged(files[name])]
        claim = others["claim"]
        claim["depth"] = np.where(others["is_owner"], NEVER_YIELDS, claim["depth"])
        stays = others["is_owner"].copy()
        for listing in self._contest.list_all(able):
            rows = np.flatnonzero(claim["tile"] == self._numbers[listing.tile])
            rows = rows[np.isin(claim["object_id"][rows], listing.object_id)]
            claim["depth"][rows] = listing.depth[np.searchsorted(listing.object_id, claim["object_id"][rows])]
            stays[rows] = True
            self._listings[listing.tile] = listing.digest
        return np.asarray(others[stays])

    def _due(self, claim: NDArray[Any], before: NDArray[np.bool_], now: NDArray[np.bool_]) -> dict[str, ObjectIds]:
        """Return the tiles that gain or lose an ID, each with all IDs that other tiles own."""
        gained, lost = self._by_tile(claim[now & ~before]), self._by_tile(claim[before & ~now])
        due = {}
        for name in gained.keys() | lost.keys():
            assert self._contest.index is not None
            before_ids = self._contest.index.elsewhere(self._contest.known[name].tile_id)
            kept = np.setdiff1d(before_ids, gained.get(name, NOTHING))
            due[name] = np.union1d(kept, lost.get(name, NOTHING))
        return due

    def _by_tile(self, claims: NDArray[Any]) -> dict[str, ObjectIds]:
        """Return the IDs of claims, ascending, by tile."""
        claims = claims[np.lexsort((claims["object_id"], claims["tile"]))]
        numbers, first = np.unique(claims["tile"], return_index=True)
        groups = np.split(claims["object_id"], first[1:])
        return {self._names[n]: ids for n, ids in zip(numbers.tolist(), groups, strict=False)}

    def _new_changes(self, due: Collection[str]) -> Changes:
        """Return the changes with the tiles that are due, and without those that cannot be listed."""
        changes, files = self._changes, self._contest.files
        tasks = [task for task in changes.tasks if task.files.tile not in self._failed]
        tasks += [Task(files[name], MOVED) for name in due]
        return replace(
            changes,
            tasks=tuple(sorted(tasks, key=lambda task: task.files.tile)),
            unchanged=tuple(name for name in changes.unchanged if name not in due),
            incomplete={**changes.incomplete, **self._failed},
        )


def _rival_type(claim: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type of a claim of a tile in the index, and True if the tile owns the ID."""
    return np.dtype([("claim", claim), ("is_owner", np.bool_)])


RIVAL = _rival_type(CLAIM)
"""This type for no claim."""


def _without_repeats(others: NDArray[Any]) -> NDArray[Any]:
    """Return each claim of a tile to an ID once."""
    others = others[np.lexsort((others["claim"]["tile"], others["claim"]["object_id"]))]
    claim = others["claim"]
    again = (claim["object_id"][1:] == claim["object_id"][:-1]) & (claim["tile"][1:] == claim["tile"][:-1])
    return np.asarray(others[np.r_[True, ~again][: len(others)]])


class _Rivals:
    """Claims of the tiles in the index that are not being built.

    Parameters
    ----------
    contest : Contest
    numbers : mapping of str to int
        Numbers of all tiles, by name.
    listed : collection of str
        Tiles that are being built.
    """

    def __init__(self, contest: Contest, numbers: Mapping[str, int], listed: Collection[str]) -> None:
        self._index, self._whole = contest.index, contest.whole
        leaving = {*listed, *contest.removed}
        self._number = {row.tile_id: numbers[name] for name, row in contest.known.items() if name not in leaving}
        self._leaving = [row.tile_id for name, row in contest.known.items() if name in leaving]

    def of(self, object_id: ObjectIds) -> NDArray[Any]:
        """Return the claims to these IDs, of the type `RIVAL`."""
        if self._index is None or not self._number:
            return np.empty(0, dtype=RIVAL)
        places = self._index.find(object_id)
        owned = places.tile_id >= 0
        owners = self._claims(object_id[owned], places.tile_id[owned], True)
        return np.concatenate([owners, self._claims(*self._index.rivals(object_id), False)])

    def freed(self) -> NDArray[Any]:
        """Return the claims to IDs whose owner is built or removed, or which have no owner, of the type `RIVAL`."""
        if self._index is None or not self._number:
            return np.empty(0, dtype=RIVAL)
        return self._claims(*self._index.rivals_of(self._leaving, without_owner=self._whole), False)

    def _claims(self, object_id: ObjectIds, tile_id: NDArray[np.int64], is_owner: bool) -> NDArray[Any]:
        """Return IDs and tiles of the index, (n,), as claims."""
        takes_part = np.isin(tile_id, list(self._number))
        object_id, tile_id = object_id[takes_part], tile_id[takes_part]
        claims = np.zeros(len(object_id), dtype=_rival_type(claim_type(object_id.dtype)))
        claims["claim"]["object_id"] = object_id
        claims["claim"]["tile"] = [self._number[number] for number in tile_id.tolist()]
        claims["is_owner"] = is_owner
        return claims


# ---- one catalogue for all tiles


def share_out_rows(changes: Changes, contest: Contest, split: Split) -> Owners:
    """Decide which tiles to build from the rows that each tile has in the catalogue of all tiles.

    Parameters
    ----------
    changes : Changes
        Tiles to build.
    contest : Contest
    split : Split
        Rows of all tiles.
    """
    tasks = [task for task in changes.tasks if task.files.tile in split.rows]
    missing = [task.files.tile for task in changes.tasks if task.files.tile not in {**split.rows, **split.failed}]
    failed = {name: error for name, error in split.failed.items() if name in {t.files.tile for t in changes.tasks}}
    failed |= {name: EMPTIED for name in missing if name in contest.known and contest.known[name].shard}
    building = {task.files.tile for task in tasks}
    able = [name for name in contest.files if name not in building and name in contest.known]
    due = [name for name in able if contest.is_unchanged(contest.files[name]) and _has_moved(name, contest, split)]
    failed |= {name: EMPTIED for name in due if name not in split.rows}
    tasks += [Task(contest.files[name], MOVED) for name in due if name in split.rows]
    names = [task.files.tile for task in tasks]
    kept = _kept_elsewhere(names, contest, split)
    new = replace(
        changes,
        tasks=tuple(sorted(tasks, key=lambda task: task.files.tile)),
        unchanged=tuple(name for name in changes.unchanged if name not in due),
        incomplete={**changes.incomplete, **failed},
        empty=tuple(name for name in missing if name not in failed),
        left_out=split.left_out,
    )
    elsewhere = {name: np.union1d(split.elsewhere.get(name, NOTHING), kept.get(name, NOTHING)) for name in names}
    return Owners(new, elsewhere)


def _has_moved(name: str, contest: Contest, split: Split) -> bool:
    """Return True if a tile has other rows in the catalogue than in its shard, by the index."""
    row, index = contest.known[name], contest.index
    if row.shard is None or index is None or name in split.failed:
        return False
    if name not in split.rows:
        return index.objects_of(row) > 0
    elsewhere = split.elsewhere.get(name, NOTHING)
    if len(split.rows[name]) != row.stored + row.skipped or not np.array_equal(index.elsewhere(row.tile_id), elsewhere):
        return True
    owned = np.setdiff1d(split.rows[name].read().object_id, elsewhere)
    return bool((index.find(owned).tile_id != row.tile_id).any())


def _kept_elsewhere(names: Sequence[str], contest: Contest, split: Split) -> dict[str, ObjectIds]:
    """Return the IDs of tiles to build that tiles keep which cannot be built again, by tile."""
    leaving = {*names, *contest.removed}
    staying = [row.tile_id for name, row in contest.known.items() if name not in leaving and row.shard]
    if contest.index is None or not staying:
        return {}
    kept = {}
    for name in names:
        ids = np.unique(split.rows[name].read().object_id)
        kept[name] = ids[np.isin(contest.index.find(ids).tile_id, staying)] if len(ids) else NOTHING
    return kept
