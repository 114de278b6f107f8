"""An ID in several catalogues goes to the tile on which it lies deepest inside, in one build or in many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.builder import claims
from archive_builder.builder.changes import Changes, Task
from archive_builder.builder.claims import Claims
from archive_builder.builder.owners import Contest, Listing, find_owners
from archive_builder.measure.quality import Status, count_reasons
from archive_builder.store.index import Index
from archive_builder.store.records import TileEntry, TileRecord
from archive_builder.survey.discovery import TileFiles

TILES = "ABCD"

Catalogs = dict[str, dict[int, int]]
"""Depth of each object on each tile."""

catalogs = st.dictionaries(
    st.sampled_from(TILES), st.dictionaries(st.integers(1, 6), st.integers(-2, 3), min_size=1, max_size=6)
)
steps = st.lists(st.tuples(catalogs, st.sets(st.sampled_from(TILES)), st.booleans()), min_size=1, max_size=5)


@dataclass
class Archive:
    """An index, the catalogues of its tiles, and those of the survey."""

    index: Index
    survey: Catalogs = field(default_factory=dict)
    built: Catalogs = field(default_factory=dict)

    def files(self, name: str) -> TileFiles:
        return TileFiles(name, {}, Path(name))

    def list_all(self, tiles: Sequence[TileFiles]) -> Iterator[Listing]:
        for files in tiles:
            ids = sorted(self.survey[files.tile])
            depth = np.array([self.survey[files.tile][n] for n in ids], dtype=np.int32)
            yield Listing(files.tile, None, np.array(ids, dtype=np.int64), depth, "")

    def build(self, selected: set[str], prune: bool) -> list[str]:
        """Build the selected tiles that have changed, all if none is selected; return the tiles built."""
        chosen = [name for name in sorted(self.survey) if not selected or name in selected]
        changed = [name for name in chosen if self.survey[name] != self.built.get(name)]
        known = self.index.tiles_by_name()
        gone = [name for name in known if name not in self.survey] if prune and not selected else []
        contest = Contest(
            files={name: self.files(name) for name in self.survey},
            known=known,
            index=self.index,
            list_all=self.list_all,
            is_unchanged=lambda files: self.survey[files.tile] == self.built.get(files.tile),
            removed=gone,
            whole=not selected,
        )
        owners = find_owners(Changes(tuple(Task(self.files(name), "changed") for name in changed)), contest)
        for name in gone:
            self.index.remove_tile(known[name].tile_id, None)
            del self.built[name]
        names = [task.files.tile for task in owners.changes.tasks]
        self.index.commit_tiles([self.entry(name, owners.elsewhere.get(name, np.empty(0))) for name in names])
        self.built |= {name: self.survey[name] for name in names}
        return names

    def entry(self, name: str, elsewhere: np.ndarray) -> TileEntry:
        ids = np.array(sorted(self.survey[name]), dtype=np.int64)
        skipped = ids[np.isin(ids, elsewhere)]
        assert len(skipped) == len(elsewhere)
        reason = np.full(len(skipped), Status.ELSEWHERE, np.uint8)
        record = TileRecord(
            name=name,
            state="built",
            shard=f"shards/{name}",
            stored=len(ids) - len(skipped),
            skipped=len(skipped),
            skipped_for=json.dumps(count_reasons(reason)),
        )
        return TileEntry(record, np.setdiff1d(ids, skipped), skipped, reason, None)

    def owners(self) -> dict[int, str]:
        names = {row.tile_id: row.name for row in self.index.tiles()}
        ids = self.index.ids()
        return (
            {int(n): names[int(t)] for n, t in zip(ids, self.index.find(ids).tile_id, strict=True)} if len(ids) else {}
        )

    def rivals(self) -> set[tuple[int, str]]:
        return {(int(n), row.name) for row in self.index.tiles() for n in self.index.elsewhere(row.tile_id)}


def deepest(survey: Catalogs) -> dict[int, str]:
    """Return the tile of each ID by brute force: the deepest, and of equal tiles the first by name."""
    every = sorted((n, -depth, name) for name, objects in survey.items() for n, depth in objects.items())
    return {n: name for n, _, name in reversed(every)}


@settings(max_examples=60)
@given(steps=steps)
def test_any_sequence_of_builds_ends_as_one_build_of_everything(
    steps: list[tuple[Catalogs, set[str], bool]],
) -> None:
    with TemporaryDirectory() as folder, Index(Path(folder), writable=True) as index:
        archive = Archive(index)
        for survey, selected, keeps in steps:
            # Tiles leave the survey only with a build that removes them.
            archive.survey = {**(archive.survey if keeps or selected else {}), **survey}
            archive.build(selected, prune=not keeps)
            listed = {(n, name) for name, objects in archive.built.items() for n in objects}
            assert archive.rivals() | {*archive.owners().items()} == listed
            assert archive.rivals() & {*archive.owners().items()} == set()
        archive.build(set(), prune=True)
        assert archive.owners() == deepest(archive.survey)
        assert archive.build(set(), prune=True) == []


def test_only_the_tiles_that_gain_or_lose_an_object_are_built_again(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        archive = Archive(index, {"A": {1: 5, 2: 5}, "B": {2: 3, 3: 3}, "C": {3: 1, 4: 1}})
        assert archive.build(set(), prune=False) == ["A", "B", "C"]
        assert archive.owners() == {1: "A", 2: "A", 3: "B", 4: "C"}
        archive.survey["B"] = {2: 6, 3: 3}
        assert archive.build(set(), prune=False) == ["A", "B"]
        assert archive.owners() == {1: "A", 2: "B", 3: "B", 4: "C"}
        del archive.survey["B"]
        assert archive.build(set(), prune=False) == []  # the tile stays in the archive with its objects
        assert archive.build(set(), prune=True) == ["A", "C"]
        assert archive.owners() == {1: "A", 2: "A", 3: "C", 4: "C"}


def test_a_tile_that_cannot_be_listed_is_not_built_and_keeps_its_objects(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        archive = Archive(index, {"A": {1: 1}, "B": {2: 1}})
        archive.build(set(), prune=False)
        contest = Contest(
            files={name: archive.files(name) for name in "AB"},
            known=index.tiles_by_name(),
            index=index,
            list_all=lambda tiles: iter(
                [
                    Listing("A", error="the catalogue is damaged")
                    if files.tile == "A"
                    else Listing("B", None, np.array([1, 2]), np.array([9, 9], dtype=np.int32), "")
                    for files in tiles
                ]
            ),
            is_unchanged=lambda files: False,
        )
        owners = find_owners(Changes(tuple(Task(archive.files(name), "changed") for name in "AB")), contest)
        assert [task.files.tile for task in owners.changes.tasks] == ["B"]
        assert owners.changes.incomplete == {"A": "the catalogue is damaged"}
        assert {name: ids.tolist() for name, ids in owners.elsewhere.items()} == {"B": [1]}


@pytest.mark.parametrize("in_memory", [10**6, 100])
def test_claims_to_an_id_stay_together_in_memory_and_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(claims, "IN_MEMORY", in_memory)
    rng = np.random.default_rng(5)
    given = []
    with Claims(tmp_path) as all_claims:
        for tile in range(20):
            ids = np.unique(rng.integers(-40, 40, 30)) * 10**15
            depth = rng.integers(-9, 9, len(ids)).astype(np.int32)
            given += [(n, d, tile) for n, d in zip(ids.tolist(), depth.tolist(), strict=True)]
            all_claims.add(ids, depth, tile)
        parts = list(all_claims.parts())
        assert list(tmp_path.iterdir()) == []  # the file has no name
    assert len(parts) == (1 if in_memory > len(given) else claims.PARTS)
    assert sorted(row for part in parts for row in part.tolist()) == sorted(given)
    ids_of = [set(part["object_id"].tolist()) for part in parts]
    assert sum(map(len, ids_of)) == len(set().union(*ids_of))


def test_the_status_of_a_row_that_gives_way_is_not_in_the_index() -> None:
    assert max(status for status in Status if status != Status.ELSEWHERE) < Status.ELSEWHERE
