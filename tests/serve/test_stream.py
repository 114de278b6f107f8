"""The whole archive as a stream: every object once, in an order that can be split, resumed and repeated."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archive_builder import Archive, RequestError
from archive_builder.builder.driver import build
from archive_builder.errors import ArchiveError
from archive_builder.serve import stream as streaming
from archive_builder.serve.stream import Batch, BatchStream


@pytest.fixture
def archive(demo_archive: Path):
    with Archive(demo_archive) as opened:
        yield opened


def stored_ids(archive: Path) -> np.ndarray:
    """Return the IDs of an archive's cutouts in stored order, tile by tile, read from the shards."""
    found = []
    for path in sorted((archive / "shards").iterdir()):
        with h5py.File(path) as shard:
            found.append(shard["objects/object_id"][...])
    assert min(map(len, found)) > 0
    return np.concatenate(found)


def ids_of(stream: list[Batch]) -> list[int]:
    return [object_id for batch in stream for object_id in batch.object_id.tolist()]


class Tiles:
    """Tiles without image files: row r of tile t is the object 1000 t + r, and its single pixel has that value."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.read: list[int] = []

    def stored_rows(self) -> list[tuple[int, int]]:
        return list(enumerate(self.counts))

    def common_form(self, size: object, bands: object) -> tuple[tuple[int, int], list[int]]:
        return (1, 1), [0]

    def read_rows(self, tile: int, count: int, first: int, bands: list[int], out: list[np.ndarray]) -> np.ndarray:
        assert first + len(out) <= count == self.counts[tile]
        self.read.append(tile)
        ids = 1000 * tile + first + np.arange(len(out))
        for object_id, data in zip(ids, out, strict=True):
            data[...] = object_id
        return ids

    def all(self) -> list[int]:
        return [1000 * tile + row for tile, count in enumerate(self.counts) for row in range(count)]


tiles = st.lists(st.integers(0, 60), max_size=30).map(Tiles)
seeds = st.none() | st.integers(0, 2**70)
buffers = st.integers(1, 200)  # bytes, in rows of one 4-byte pixel


# ---- one stream


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("buffer", [1, 10 * 4 * 5 * 9 * 9, 2**28])
def test_epoch_has_every_object_once(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, seed: int | None, buffer: int
) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", buffer)
    stream = list(archive.batches(9, batch_size=7, shuffle_seed=seed))
    assert sorted(ids_of(stream)) == sorted(stored_ids(archive.path))


def test_unshuffled_stream_is_in_stored_order(archive: Archive) -> None:
    assert ids_of(list(archive.batches(3, batch_size=8))) == stored_ids(archive.path).tolist()


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("size", "bands"), [(None, None), (33, "Yg"), ((5, 12), ["r"]), ("4 arcsec", "grizY")])
def test_every_cutout_belongs_to_its_id(archive: Archive, seed: int | None, size: object, bands: object) -> None:
    compared = 0
    for batch in archive.batches(size, bands, batch_size=16, shuffle_seed=seed):
        assert (batch.object_id.dtype, batch.data.dtype) == (np.int64, np.float32)
        for object_id, data in zip(batch.object_id.tolist(), batch.data, strict=True):
            np.testing.assert_array_equal(data, archive.get(object_id, size, bands).data)
            compared += 1
    assert compared == len(stored_ids(archive.path))


def test_all_batches_except_the_last_are_full(archive: Archive) -> None:
    count = len(stored_ids(archive.path))
    for batch_size in (1, 7, count - 1, count, count + 1, 10**6):
        stream = BatchStream(archive.reader, 2, batch_size=batch_size, shuffle_seed=1)
        sizes = [len(batch.object_id) for batch in stream]
        full, rest = divmod(count, batch_size)
        assert sizes == [batch_size] * full + [rest] * (rest > 0)
        assert len(stream) == len(sizes)


def test_seed_and_epoch_decide_the_order(archive: Archive) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return ids_of(list(BatchStream(archive.reader, 1, batch_size=16, shuffle_seed=seed, epoch=epoch)))

    assert order(5, 2) == order(5, 2)
    orders = {tuple(order(seed, epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2**64, 0)]}
    assert len(orders) == 5


def test_batch_does_not_keep_other_batches_in_memory(archive: Archive) -> None:
    for seed in (None, 1):
        stream = list(archive.batches(4, batch_size=16, shuffle_seed=seed))
        assert len(stream) > 1
        for batch in stream:
            owner = batch.data if batch.data.base is None else batch.data.base
            assert owner.nbytes == batch.data.nbytes


# ---- mixing


def test_every_shuffled_batch_has_objects_of_both_tiles(archive: Archive) -> None:
    stream = [batch.object_id for batch in archive.batches(1, batch_size=25, shuffle_seed=1)]
    assert len(stream) > 2
    for ids in stream[:-1]:
        tile_id = archive.reader.find(ids).tile_id
        assert 0.1 < np.mean(tile_id == tile_id[0]) < 0.9


def test_batches_of_a_large_archive_mix_tiles_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 4 * 320)
    survey = Tiles([1000] * 40)
    for seed in range(5):
        stream = [batch.object_id for batch in BatchStream(survey, 1, batch_size=32, shuffle_seed=seed)]
        of_tiles = [len(set((ids // 1000).tolist())) for ids in stream]
        assert np.median(of_tiles) >= 5
        assert min(of_tiles) >= 2
        neighbours = np.mean([np.mean(np.abs(np.diff(ids)) == 1) for ids in stream])
        assert neighbours < 0.05


def test_shuffled_stream_reads_tiles_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 4 * 160)
    survey = Tiles([400] * 32)
    for _ in BatchStream(survey, 1, batch_size=16, shuffle_seed=1):
        pass
    assert set(survey.read) == set(range(32))
    last = {tile: number for number, tile in enumerate(survey.read)}
    seen: list[int] = []
    for number, tile in enumerate(survey.read):
        seen.append(tile)
        still_open = {tile for tile in seen if last[tile] >= number}
        assert len(still_open) <= streaming.TILES_TOGETHER  # an archive keeps as many shards open


def test_part_reads_few_tiles() -> None:
    for seed in (None, 1):
        survey = Tiles([500] * 64)
        for _ in BatchStream(survey, 1, batch_size=10, shuffle_seed=seed, part=3, parts=8):
            pass
        assert 8 <= len(set(survey.read)) <= 2 * streaming.TILES_TOGETHER


# ---- split and resumed


@given(tiles, seeds, st.integers(0, 3), st.integers(1, 40), st.integers(1, 50), buffers)
def test_parts_are_disjoint_and_complete(
    survey: Tiles, seed: int | None, epoch: int, batch_size: int, parts: int, buffer: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BUFFER_BYTES", 4 * buffer)
        streams = [
            BatchStream(survey, 1, batch_size=batch_size, shuffle_seed=seed, epoch=epoch, part=part, parts=parts)
            for part in range(parts)
        ]
        pieces = [list(stream) for stream in streams]
    assert [len(stream) for stream in streams] == [len(piece) for piece in pieces]
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    every = [batch for piece in pieces for batch in piece]
    assert all(len(batch.object_id) == batch_size for batch in every[:-1])
    assert sorted(ids_of(every)) == survey.all()
    assert all((batch.data[:, 0, 0, 0] == batch.object_id).all() for batch in every)
    if seed is None:
        assert ids_of(every) == survey.all()


@given(tiles, seeds, st.integers(1, 20), st.integers(1, 5), st.integers(0, 60), buffers)
def test_skip_leaves_out_the_first_batches(
    survey: Tiles, seed: int | None, batch_size: int, parts: int, skip: int, buffer: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BUFFER_BYTES", 4 * buffer)
        for part in range(parts):
            arguments = {"part": part, "parts": parts}
            whole = BatchStream(survey, 1, batch_size=batch_size, shuffle_seed=seed, **arguments)
            rest = BatchStream(survey, 1, batch_size=batch_size, shuffle_seed=seed, **arguments, skip=skip)
            expected = [batch.object_id.tolist() for batch in whole][skip:]
            assert [batch.object_id.tolist() for batch in rest] == expected


def test_skipped_rows_are_not_read_except_for_one_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BUFFER_BYTES", 4 * 40)
    survey = Tiles([400])
    survey.read_rows = count_rows(survey)  # type: ignore[method-assign]
    stream = BatchStream(survey, 1, batch_size=10, shuffle_seed=1, skip=30)
    assert len(list(stream)) == 10
    assert sum(survey.read) <= 100 + 40


def count_rows(survey: Tiles):
    """Return a `read_rows` that appends the number of rows it reads to ``survey.read``."""

    def read_rows(tile: int, count: int, first: int, bands: list[int], out: list[np.ndarray]) -> np.ndarray:
        survey.read.append(len(out))
        return np.arange(first, first + len(out))

    return read_rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.integers(1, 70), st.integers(1, 30), seeds)
def test_parts_of_a_real_archive_are_disjoint_and_complete(
    archive: Archive, parts: int, batch_size: int, seed: int | None
) -> None:
    every = [
        object_id
        for part in range(parts)
        for object_id in ids_of(
            list(BatchStream(archive.reader, 1, "g", batch_size=batch_size, shuffle_seed=seed, part=part, parts=parts))
        )
    ]
    assert sorted(every) == sorted(stored_ids(archive.path))


def test_more_parts_than_batches_leave_empty_ones(archive: Archive) -> None:
    count = len(stored_ids(archive.path))
    pieces = [
        list(BatchStream(archive.reader, 1, batch_size=count, shuffle_seed=1, part=part, parts=3)) for part in range(3)
    ]
    assert sorted(map(len, pieces)) == [0, 0, 1]


# ---- an archive that changes during the stream


def test_stream_continues_over_a_rebuilt_tile_with_the_same_number_of_cutouts_only(
    survey_copy: Path, tmp_path: Path
) -> None:
    recipe, place = survey_copy / "survey.toml", tmp_path / "archive"
    build(recipe, place)
    with Archive(place) as archive:
        expected = ids_of(list(archive.batches(9, batch_size=5)))
        stream = archive.batches(9, batch_size=5)
        first = [next(stream)]
        build(recipe, place, force=True)
        assert ids_of(first + list(stream)) == expected
        stream = archive.batches(9, batch_size=5)
        next(stream)
        path = max(survey_copy.glob("*/*_cat.fits"))
        catalog = Table.read(path)
        catalog[np.isin(catalog["COADD_OBJECT_ID"], expected[:-1])].write(path, overwrite=True)  # one fewer
        assert build(recipe, place).failures == {}
        with pytest.raises(
            ArchiveError, match=r"cutouts, not \d+ as at the start of the stream: start again if the tile was rebuilt"
        ):
            list(stream)
        assert ids_of(list(archive.batches(9, batch_size=5))) == expected[:-1]


@pytest.mark.parametrize("wrong", ["+ 1", "- 1"])
def test_stream_refuses_an_index_with_other_counts_than_the_shards(
    demo_archive: Path, tmp_path: Path, wrong: str
) -> None:
    place = Path(shutil.copytree(demo_archive, tmp_path / "archive"))
    with closing(sqlite3.connect(place / "index.sqlite")) as db, db:
        db.execute(f"UPDATE tiles SET stored = stored {wrong} WHERE tile_id = 2")
    with (
        Archive(place) as archive,
        pytest.raises(ArchiveError, match="if the tile was rebuilt, else reindex the archive"),
    ):
        list(archive.batches(9))


# ---- invalid arguments, and forks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0: give a whole number, 1 or more"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"batch_size": "8"}, "batch_size is '8'"),
        ({"shuffle_seed": -1}, "shuffle_seed is -1"),
        ({"shuffle_seed": ""}, "shuffle_seed is ''"),
        ({"epoch": -1}, "epoch is -1"),
        ({"skip": -1}, "skip is -1"),
        ({"skip": None}, "skip is None"),
        ({"parts": 0}, "parts is 0"),
        ({"part": -1, "parts": 2}, "part is -1"),
        ({"part": 2, "parts": 2}, "part 2 of 2"),
        ({"size": 229}, "at most 228 px"),
        ({"size": 0}, "size 0"),
        ({"bands": "gu"}, "no band 'u'"),
    ],
)
def test_invalid_argument_is_an_error_on_one_line(archive: Archive, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        BatchStream(archive.reader, **arguments)
    assert "\n" not in str(caught.value)


def test_stream_is_the_same_in_a_forked_child_even_after_another_archive_is_removed(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    shutil.copy(archive.path / "index.sqlite", tmp_path / "gone")
    gone = [Archive(tmp_path / "gone") for _ in range(4)]
    shutil.rmtree(tmp_path / "gone")
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)  # receives exceptions of a fork hook
    expected = ids_of(list(archive.batches(4, batch_size=16, shuffle_seed=1)))
    child = os.fork()
    if child == 0:
        same = ids_of(list(archive.batches(4, batch_size=16, shuffle_seed=1))) == expected
        os._exit(0 if same and not ignored else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ids_of(list(archive.batches(4, batch_size=16, shuffle_seed=1))) == expected
    for one in gone:
        one.close()
