"""The archive in PyTorch: DataLoader's workers, forked or spawned, give each object of a plain loop once.

`ops/requirements.lock` does not hold torch, which takes several GB on some platforms: `ops/test` skips this file.
To run these tests, install ``torch`` beside the package: ``pip install --editable '.[torch,test]'``.
"""

import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from archive_builder import Archive, ObjectNotFoundError, ObjectSkippedError, RequestError, build  # noqa: E402
from archive_builder.serve.stream import BatchStream  # noqa: E402
from archive_builder.survey.demo import make_survey  # noqa: E402
from archive_builder.training.torch import CutoutDataset, CutoutStream  # noqa: E402

# Test with several workers even on few cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes:UserWarning")

METHODS = ("fork", "spawn")


@pytest.fixture
def archive(demo_archive: Path):
    with Archive(demo_archive) as opened:
        opened.get_many(ids_in(demo_archive, "objects"), size=8)  # a typical archive has open shards
        yield opened


def ids_in(archive: Path, table: str) -> list[int]:
    """Return the IDs in one table of all shards, in stored order."""
    found: list[int] = []
    for path in sorted((archive / "shards").iterdir()):
        with h5py.File(path) as shard:
            found += shard[table]["object_id"][...].tolist()
    assert found
    return found


def ids_of(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]]:
    return [object_id.tolist() for object_id, _ in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [object_id for batch in batches for object_id in batch]


def assert_is(data: torch.Tensor, cutout: np.ndarray) -> None:
    """Assert that a tensor equals a cutout after `torch.nan_to_num`, which replaces NaN by 0."""
    assert data.dtype == torch.float32
    np.testing.assert_array_equal(data.numpy(), np.where(np.isnan(cutout), 0, cutout))


# ---- in DataLoader's workers


@pytest.mark.parametrize("method", METHODS)
def test_dataset_in_four_workers_equals_the_plain_loop(archive: Archive, method: str) -> None:
    ids = np.random.default_rng(0).permutation(ids_in(archive.path, "objects"))
    dataset = CutoutDataset(archive, ids, size=16, bands="gri", transform=torch.nan_to_num)
    loader = DataLoader(dataset, batch_size=9, num_workers=4, multiprocessing_context=method)
    loaded = torch.cat(list(loader))
    assert loaded.shape == (len(ids), 3, 16, 16)
    for object_id, data in zip(ids.tolist(), loaded, strict=True):
        assert_is(data, archive.get(object_id, 16, "gri").data)


@pytest.mark.parametrize("method", METHODS)
def test_stream_in_four_workers_has_every_object_once(archive: Archive, method: str) -> None:
    stream = CutoutStream(archive, 16, "gri", batch_size=9, shuffle_seed=1, transform=torch.nan_to_num)
    loader = DataLoader(stream, batch_size=None, num_workers=4, multiprocessing_context=method)
    assert len(loader) == len(stream)  # the loader now warns if there are more batches
    batches = list(loader)
    assert len(batches) == len(stream)
    plain = [
        object_id
        for batch in archive.batches(16, "gri", batch_size=9, shuffle_seed=1)
        for object_id in batch.object_id.tolist()
    ]
    assert sorted(flat(ids_of(batches))) == sorted(plain) == sorted(ids_in(archive.path, "objects"))
    for ids, cutouts in batches:
        assert (ids.dtype, cutouts.shape) == (torch.int64, (len(ids), 3, 16, 16))
        for object_id, data in zip(ids.tolist(), cutouts, strict=True):
            assert_is(data, archive.get(object_id, 16, "gri").data)


def test_stream_without_workers_equals_the_archives_stream(archive: Archive) -> None:
    stream = CutoutStream(archive.path, 8, batch_size=11, shuffle_seed=4)
    assert len(stream) > 1
    for (ids, data), batch in zip(
        DataLoader(stream, batch_size=None), archive.batches(8, batch_size=11, shuffle_seed=4), strict=True
    ):
        np.testing.assert_array_equal(ids.numpy(), batch.object_id)
        np.testing.assert_array_equal(data.numpy(), batch.data)


def test_number_of_workers_does_not_change_the_number_of_batches(archive: Archive) -> None:
    stream = CutoutStream(archive, 4, batch_size=10, shuffle_seed=1)
    assert len(stream) == -(-len(ids_in(archive.path, "objects")) // 10)
    for workers in (0, 1, 3, 4):
        assert len(list(DataLoader(stream, batch_size=None, num_workers=workers))) == len(stream)


# ---- epochs, and resuming


@pytest.mark.parametrize(("method", "workers"), [("fork", 3), ("spawn", 1)])
def test_persistent_workers_receive_the_epoch(archive: Archive, method: str, workers: int) -> None:
    stream = CutoutStream(archive, 4, batch_size=10, shuffle_seed=1)
    how = {"num_workers": workers, "multiprocessing_context": method, "persistent_workers": True}
    loader = DataLoader(stream, batch_size=None, **how)
    seen = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        seen.append(ids_of(loader))
        assert sorted(flat(seen[-1])) == sorted(ids_in(archive.path, "objects"))
    assert seen[0] == seen[2] != seen[1]
    stream.set_epoch(1, position=3)
    assert ids_of(loader) == seen[1][3:]
    del loader  # its workers end here, not at the end of the tests


@pytest.mark.parametrize(("workers", "batch_size", "ranks"), [(0, 9, 1), (1, 9, 2), (3, 9, 1), (4, 11, 2)])
def test_resumed_stream_is_exactly_the_rest(archive: Archive, workers: int, batch_size: int, ranks: int) -> None:
    for rank in range(ranks):
        split = {"rank": rank, "world_size": ranks, "epoch": 3}
        make = partial(CutoutStream, archive, 2, "g", batch_size=batch_size, shuffle_seed=7, **split)
        whole = ids_of(DataLoader(make(), batch_size=None, num_workers=workers))
        assert len(whole) > 1
        for position in range(len(whole) + 1):
            rest = DataLoader(make(position=position), batch_size=None, num_workers=workers)
            assert ids_of(rest) == whole[position:]


def test_prefetched_batches_come_again_after_resuming(archive: Archive) -> None:
    stream = CutoutStream(archive, 4, batch_size=8, shuffle_seed=1)
    loader = DataLoader(stream, batch_size=None, num_workers=2, prefetch_factor=3)
    whole = ids_of(loader)
    running = iter(loader)
    taken = [next(running)[0].tolist() for _ in range(5)]
    del running
    stream.set_epoch(0, position=5)
    assert taken + ids_of(loader) == whole


# ---- ranks


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_share_the_objects(archive: Archive, workers: int) -> None:
    streams = [CutoutStream(archive, 4, batch_size=8, shuffle_seed=1, rank=rank, world_size=2) for rank in (0, 1)]
    shares = [ids_of(DataLoader(stream, batch_size=None, num_workers=workers)) for stream in streams]
    assert sorted(flat(shares[0] + shares[1])) == sorted(ids_in(archive.path, "objects"))
    assert [len(share) for share in shares] == [len(stream) for stream in streams]
    assert abs(len(shares[0]) - len(shares[1])) <= 1


RANK = """
import sys
from torch import distributed
from torch.utils.data import DataLoader
from archive_builder.survey.demo import make_survey  # noqa: E402
from archive_builder.training.torch import CutoutStream
archive, store, rank = sys.argv[1:]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
if __name__ == "__main__":
    for ids, _ in DataLoader(CutoutStream(archive, 4, batch_size=8, shuffle_seed=1), batch_size=None, num_workers=1):
        print(*ids.tolist())
    distributed.destroy_process_group()
"""


def test_default_ranks_are_those_of_torch_distributed(demo_archive: Path, tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(demo_archive), str(tmp_path / "store"), str(rank)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    shares = [[int(word) for word in process.communicate(timeout=60)[0].split()] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    assert min(map(len, shares)) > 0
    assert sorted(shares[0] + shares[1]) == sorted(ids_in(demo_archive, "objects"))


# ---- the data set itself, and invalid arguments


def test_dataset_accepts_one_number_or_several(archive: Archive) -> None:
    ids = ids_in(archive.path, "objects")
    dataset = CutoutDataset(archive.path, ids, size=(6, 9))
    assert len(dataset) == len(ids)
    np.testing.assert_array_equal(dataset[-1].numpy(), archive.get(ids[-1], (6, 9)).data)
    several = dataset.__getitems__([5, 0, 5])
    assert isinstance(several, list)
    np.testing.assert_array_equal(torch.stack(several).numpy(), archive.get_many([ids[5], ids[0], ids[5]], (6, 9)))
    with pytest.raises(IndexError):
        dataset[len(ids)]


def test_blank_pixels_are_nan_unless_transformed(archive: Archive) -> None:
    ids = ids_in(archive.path, "objects")
    blank = [i for i, data in enumerate(archive.get_many(ids)) if np.isnan(data).any()]
    assert blank
    assert torch.isnan(CutoutDataset(archive, ids)[blank[0]]).any()
    assert not torch.isnan(CutoutDataset(archive, ids, transform=torch.nan_to_num)[blank[0]]).any()


def test_object_without_a_cutout_is_refused_at_once(archive: Archive) -> None:
    good, skipped = ids_in(archive.path, "objects")[0], ids_in(archive.path, "skipped")[0]
    with pytest.raises(ObjectSkippedError):
        CutoutDataset(archive, [good, skipped])
    with pytest.raises(ObjectNotFoundError):
        CutoutDataset(archive, [good, 17])
    with pytest.raises(RequestError, match="64-bit integers"):
        CutoutDataset(archive, [1.5])
    with pytest.raises(RequestError, match="no band"):
        CutoutDataset(archive, [good], bands="u")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epoch": -1}, "epoch is -1"),
        ({"position": -1}, "skip is -1"),
        ({"position": 1000}, r"position 1000: this rank has \d+ batches"),
        ({"rank": 0}, "rank 0 of a world_size None: give both"),
        ({"world_size": 2}, "rank None of a world_size 2: give both"),
        ({"rank": 2, "world_size": 2}, "rank 2 of a world_size 2"),
    ],
)
def test_invalid_argument_is_an_error_on_one_line(archive: Archive, arguments: dict[str, int], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        CutoutStream(archive, 4, **{"batch_size": 8} | arguments)
    assert "\n" not in str(caught.value)


def test_stream_leaves_its_archive_usable(archive: Archive) -> None:
    list(
        DataLoader(
            CutoutStream(archive, 4, batch_size=8, shuffle_seed=1),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="fork",
        )
    )
    assert len(list(BatchStream(archive.reader, 4, batch_size=8, shuffle_seed=1))) == len(
        CutoutStream(archive, 4, batch_size=8, shuffle_seed=1)
    )


def test_text_ids_come_as_a_list_of_str(tmp_path: Path) -> None:
    recipe = tmp_path / "survey/survey.toml"
    make_survey(recipe.parent, tiles=1, tile_size=300, objects=20, seed=3)
    recipe.write_text(recipe.read_text().replace("[catalog]", '[catalog]\nunique_within = "tile"'))
    assert build(recipe, tmp_path / "archive", workers=1).failures == {}
    with Archive(tmp_path / "archive") as archive:
        ids = archive.ids()
        batches = list(DataLoader(CutoutStream(archive, size=8, batch_size=4), batch_size=None))
        assert sorted(n for known, _ in batches for n in known) == ids.tolist()
        assert all(type(n) is str for known, _ in batches for n in known)
        dataset = CutoutDataset(archive, ids[::-1].tolist(), size=8, transform=torch.nan_to_num)
        assert_is(dataset[0], archive.get(ids[-1], size=8).data)
        with pytest.raises(RequestError, match="object ID 3 is no text"):
            CutoutDataset(archive, [ids[0], 3])
