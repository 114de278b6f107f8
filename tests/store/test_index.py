"""The index, compared with a dictionary and with plain sqlite3."""

import random
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.errors import ArchiveError, DuplicateObjectError, NoArchiveError
from archive_builder.store.file_names import INDEX_NAME
from archive_builder.store.index import Index
from archive_builder.store.records import Settings, TileEntry, TileRecord

ids = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30, unique=True)


def commit(index: Index, name: str, stored: list[int], skipped: list[int], replaced: list[int] | None = ()) -> None:  # type: ignore[assignment]
    entry = TileEntry(
        TileRecord(
            name=name,
            state="built",
            shard=f"shards/{name}.h5",
            generation=1,
            stored=len(stored),
            skipped=len(skipped),
        ),
        np.array(stored, dtype=np.int64),
        np.array(skipped, dtype=np.int64),
        np.full(len(skipped), 2, dtype=np.uint8),
        None if replaced is None else np.array(replaced, dtype=np.int64),
    )
    index.commit_tiles([entry])


def contents(folder: Path) -> set[tuple[int, int, int]]:
    connection = sqlite3.connect(folder / INDEX_NAME)
    try:
        return set(connection.execute("SELECT object_id, row, status FROM objects"))
    finally:
        connection.close()


@settings(max_examples=30)
@given(objects=ids, asked=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=10), data=st.data())
def test_every_id_is_found_at_its_place_and_no_other_id_is_found(
    objects: list[int], asked: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(objects)))
    stored, skipped = objects[:cut], objects[cut:]
    with TemporaryDirectory() as folder, Index(Path(folder), writable=True) as index:
        commit(index, "a", stored, skipped)
        expected = {key: (row, 0) for row, key in enumerate(stored)} | {
            key: (row, 2) for row, key in enumerate(skipped)
        }
        question = data.draw(st.permutations(objects * 2 + asked))
        places = index.find(np.array(question, dtype=np.int64))
        for key, tile, row, status in zip(question, places.tile_id, places.row, places.status, strict=True):
            if key in expected:
                assert (row, status) == expected[key]
                assert index.tile(int(tile)).name == "a"
            else:
                assert tile == -1
        assert contents(Path(folder)) == {(key, *place) for key, place in expected.items()}


def test_lookup_of_more_ids_than_one_statement_accepts_is_complete(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        everything = list(range(0, 70_000, 2))
        commit(index, "a", everything, [])
        places = index.find(np.arange(70_000)[::-1])
        np.testing.assert_array_equal(places.row[::-1][::2], np.arange(35_000))
        assert (places.tile_id[::-1][1::2] == -1).all()


@pytest.mark.parametrize("replaced", [[1, 2, 3], None])
def test_replaced_tile_leaves_none_of_its_old_objects(tmp_path: Path, replaced: list[int] | None) -> None:
    with Index(tmp_path, writable=True) as index:
        commit(index, "a", [1, 2], [3])
        commit(index, "b", [7], [])
        commit(index, "a", [2, 5], [], replaced)
        assert contents(tmp_path) == {(2, 0, 0), (5, 1, 0), (7, 0, 0)}
        assert [tile.name for tile in index.tiles()] == ["a", "b"]


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 350), min_size=1, max_size=5), spread=st.integers(1, 8), data=st.data())
def test_lookup_of_many_close_ids_is_complete(sizes: list[int], spread: int, data: st.DataObject) -> None:
    """A statement takes some hundred rows, and a range scan finds IDs that lie close together."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    universe = rng.choice(sum(sizes) * spread + 1, sum(sizes), replace=False) - 50
    tiles = np.split(universe, np.cumsum(sizes)[:-1])
    with TemporaryDirectory() as folder, Index(Path(folder), writable=True) as index:
        expected = {}
        for number, objects in enumerate(tiles):
            stored, skipped = np.split(objects, [data.draw(st.integers(0, len(objects)))])
            commit(index, f"t{number}", stored.tolist(), skipped.tolist())
            expected |= {key: (f"t{number}", row, 0) for row, key in enumerate(stored.tolist())}
            expected |= {key: (f"t{number}", row, 2) for row, key in enumerate(skipped.tolist())}
        names = {tile.tile_id: tile.name for tile in index.tiles()}
        question = rng.permutation(np.arange(universe.min(initial=0) - 3, universe.max(initial=0) + 4))
        places = index.find(question)
        answer = zip(places.tile_id.tolist(), places.row.tolist(), places.status.tolist(), strict=True)
        found = {key: (names.get(n), *place) for key, (n, *place) in zip(question.tolist(), answer, strict=True)}
        assert {key: place for key, place in found.items() if place[0] is not None} == expected
        assert (places.generation == np.where(places.tile_id < 0, -1, 1)).all()
        assert contents(Path(folder)) == {(key, row, status) for key, (_, row, status) in expected.items()}


def test_rebuilt_tile_keeps_its_objects_even_if_its_old_shard_is_missing(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        commit(index, "a", [1, 2], [3])
        commit(index, "b", [7], [])
        commit(index, "a", [3, 1], [2], None)
        assert contents(tmp_path) == {(3, 0, 0), (1, 1, 0), (2, 0, 2), (7, 0, 0)}


def test_pages_are_full_in_any_order_of_the_tiles(tmp_path: Path) -> None:
    """Inserted by rising ID, a row would take 16.6 bytes; in the order of the shard, 17.1 bytes."""
    rng = np.random.default_rng(1)
    with Index(tmp_path, writable=True) as index:
        for number in rng.permutation(60).tolist():
            ids = 61_407_318 + number * 5000 + rng.choice(4400, 4000, replace=False)
            commit(index, f"t{number}", ids.tolist(), [])
    assert (tmp_path / INDEX_NAME).stat().st_size < 16.2 * 60 * 4000


def test_joint_and_single_lookups_agree_for_any_damaged_byte(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        commit(index, "a", list(range(1000, 1150)), [1151])
        commit(index, "b", list(range(1160, 1240, 2)), [])
    good, path = (tmp_path / INDEX_NAME).read_bytes(), tmp_path / INDEX_NAME
    chance = random.Random(1)
    asked = np.arange(990, 1250)
    answers = 0
    for offset in chance.choices([place for place, byte in enumerate(good) if byte], k=200):
        damaged = bytearray(good)
        damaged[offset] ^= chance.randrange(1, 256)
        path.write_bytes(damaged)
        with suppress(ArchiveError), Index(tmp_path) as index:
            together = index.find(asked)
            for place, number in enumerate(asked):
                try:
                    alone = index.find(np.array([number]))
                except ArchiveError as error:
                    pytest.fail(f"byte {offset}: object {number} is found together with others, not alone: {error}")
                for name in ("tile_id", "row", "status", "generation"):
                    assert getattr(together, name)[place] == getattr(alone, name)[0], (offset, number)
            answers += 1
    assert answers > 20


def test_id_of_another_tile_is_refused_and_nothing_of_the_tile_is_committed(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        commit(index, "a", [1, 2], [3])
        with pytest.raises(DuplicateObjectError, match=r"object 3 of tile b belongs to tile a"):
            commit(index, "b", [10, 3], [11])
        assert contents(tmp_path) == {(1, 0, 0), (2, 1, 0), (3, 0, 2)}
        assert [tile.name for tile in index.tiles()] == ["a"]


def test_recorded_failure_keeps_the_good_shard(tmp_path: Path) -> None:
    with Index(tmp_path, writable=True) as index:
        commit(index, "a", [1], [])
        index.record_failure("a", "a lorry ran over it")
        index.record_failure("b", "so did a bus")
        a, b = index.tiles()
        assert (a.state, a.error, a.shard) == ("failed", "a lorry ran over it", "shards/a.h5")
        assert (b.state, b.shard) == ("failed", None)
        assert contents(tmp_path) == {(1, 0, 0)}


def test_settings_are_read_back(tmp_path: Path) -> None:
    recipe = {"survey": {"name": "S"}, "storage": {"layout": "mosaic"}}
    settings = Settings(size=228, bands=("g", "r"), format_version=1, recipe=recipe)
    with Index(tmp_path, writable=True) as index:
        index.set_settings(settings)
    with Index(tmp_path) as index:
        assert index.settings == settings


def test_reader_cannot_write(tmp_path: Path) -> None:
    Index(tmp_path, writable=True).close()
    with Index(tmp_path) as index, pytest.raises(ArchiveError, match="readonly"):
        index.record_failure("a", "")


def test_folder_without_an_index_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(NoArchiveError, match="not a cutout archive"):
        Index(tmp_path)


def test_error_names_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / INDEX_NAME).write_bytes(b"not a database, whatever its name says" * 100)
    with pytest.raises(ArchiveError, match=INDEX_NAME):
        Index(tmp_path)


PATHS = {"of a URI": "a b?c=1#d%41&mode=rw", "not ASCII": "caf\u00e9", "not UTF-8": "\udcff", "quotes": "'\"\\;"}


@pytest.mark.parametrize("name", PATHS.values(), ids=PATHS)
def test_an_archive_may_have_any_path(name: str, demo_archive: Path, tmp_path: Path) -> None:
    archive = shutil.copytree(demo_archive, tmp_path / name)
    with Index(archive) as index, Index(demo_archive) as original:
        np.testing.assert_array_equal(index.ids(), original.ids())
    with Index(archive, writable=True) as index:
        assert index.begin_build(planned=1) > 0


def test_a_path_too_long_for_sqlite_is_named(tmp_path: Path) -> None:
    archive = tmp_path.joinpath(*["x" * 200] * 3)
    archive.mkdir(parents=True)
    with pytest.raises(ArchiveError, match="its path is longer than SQLite allows, 512 bytes: give a shorter path"):
        Index(archive, writable=True)
