"""An archive as PyTorch data sets; needs the extra ``torch``.

Pixels without data are NaN; ``transform=torch.nan_to_num`` makes them 0. Both data sets work in the workers of a
`torch.utils.data.DataLoader`, forked or spawned: each worker opens the archive's files for itself. For spawned workers
the transform must be picklable: a function of a module, not a lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from archive_builder.errors import RequestError
from archive_builder.geometry import Size
from archive_builder.object_ids import kind_of
from archive_builder.serve.archive import Archive
from archive_builder.serve.snapshot import Bands
from archive_builder.serve.stream import Batch, BatchStream, part_of

try:
    import torch
    from torch import Tensor, distributed
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ModuleNotFoundError:
    raise ImportError("archive_builder.training.torch needs PyTorch: pip install '.[torch]'") from None

Transform = Callable[[Tensor], Tensor]
"""Function that changes cutouts before the data set returns them."""


class CutoutDataset(Dataset[Tensor]):  # type: ignore[misc]
    """The cutouts of a list of objects, by their number in the list.

    Parameters
    ----------
    archive : str, Path or Archive
        The archive's folder, or the open archive.
    ids : array_like of int or str, (N,)
        Object IDs of the archive's kind; repeats are allowed.
    size, bands
        See `Archive.get_many`.
    transform : callable, optional
        Called with each cutout, a float32 tensor (bands, ny, nx).

    Raises
    ------
    ObjectNotFoundError, ObjectSkippedError
        An object has no cutout: the error comes here, and not hours later in a worker.
    RequestError
        The size, a band or the IDs are wrong.

    Examples
    --------
    >>> dataset = CutoutDataset("archive", ids, size=64, transform=torch.nan_to_num)
    >>> for data in DataLoader(dataset, batch_size=256, shuffle=True, num_workers=4):
    ...     train(data)  # (256, bands, 64, 64)
    """

    def __init__(
        self,
        archive: str | Path | Archive,
        ids: ArrayLike,
        size: Size | None = None,
        bands: Bands | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.archive = _opened(archive)
        self._size, self._bands, self._transform = size, _names(self.archive, size, bands), transform
        self.ids = self.archive.reader.checked_ids(ids).copy()
        absent = np.flatnonzero(~self.archive.reader.find(self.ids).has_cutout)
        if len(absent):
            self.archive.get(self.ids[absent[0]].item())  # raises the reason

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Tensor:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Tensor]:
        """Return several cutouts in the order of their numbers, read together: every shard is opened once.

        DataLoader calls this with the numbers of a whole batch.
        """
        data = torch.from_numpy(self.archive.get_many(self.ids[list(numbers)], self._size, self._bands))
        cutouts = list(data.unbind())
        return cutouts if self._transform is None else [self._transform(cutout) for cutout in cutouts]


class CutoutStream(IterableDataset[tuple[Tensor | list[str], Tensor]]):  # type: ignore[misc]
    """The cutouts of a whole archive in ready batches: ``DataLoader(stream, batch_size=None)``.

    A batch is a pair: the object IDs, int64 (n,) or a list of n str, and the cutouts, float32 (n, bands, ny, nx). The
    batches are those of `archive_builder.serve.stream.BatchStream`; every rank takes its share of them, and the workers
    of its loader divide this share. Over all ranks and workers every object comes once an epoch. All batches are full
    except the last one of the last rank; some ranks may have one batch more than others.

    To resume, make the stream with the same arguments and with the epoch and the position to continue from. The rest of
    the epoch is then exact, batch by batch in the same order, if the archive, the arguments, the number of ranks and
    the DataLoader's ``num_workers`` are the same, and ``in_order`` is True. With another ``num_workers`` an epoch
    consists of other batches: resume at its start.

    Parameters
    ----------
    archive : str, Path or Archive
        The archive's folder, or the open archive.
    size, bands
        See `Archive.get_many`.
    batch_size : int
        Cutouts in a batch.
    shuffle_seed : int, optional
        Seed of the shuffle. Without a seed the cutouts of every worker come in the order of the shards.
    epoch : int
        Number of the epoch: with the same seed, each epoch has its own order. See `set_epoch`.
    position : int
        Batches that this rank has taken from its loader in this epoch: the stream leaves them out.
    rank, world_size : int, optional
        Number of this process, and number of processes (default: those of `torch.distributed` if that is initialized,
        else one process).
    transform : callable, optional
        Called with the cutouts of each batch, a float32 tensor (n, bands, ny, nx).

    Raises
    ------
    RequestError
        A number, the size or a band is wrong.
    ArchiveError
        During the iteration: a rebuilt tile has another number of cutouts than at the start of the stream.

    Examples
    --------
    >>> stream = CutoutStream("archive", size=64, shuffle_seed=1, transform=torch.nan_to_num)
    >>> loader = DataLoader(stream, batch_size=None, num_workers=4, persistent_workers=True)
    >>> for epoch in range(10):
    ...     stream.set_epoch(epoch)
    ...     for object_id, data in loader:
    ...         train(data)  # (256, bands, 64, 64)
    """

    def __init__(
        self,
        archive: str | Path | Archive,
        size: Size | None = None,
        bands: Bands | None = None,
        *,
        batch_size: int = 256,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        position: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.archive = _opened(archive)
        self._size, self._bands = size, _names(self.archive, size, bands)
        self._batch_size, self._shuffle_seed = batch_size, shuffle_seed
        self._transform = transform
        self._rank, self._world_size = _rank_and_world_size(rank, world_size)
        # Memory shared with the workers: persistent workers see a new epoch.
        self._now = torch.zeros(2, dtype=torch.int64).share_memory_()
        self.set_epoch(epoch, position)

    @property
    def epoch(self) -> int:
        """Epoch of the next iteration."""
        return int(self._now[0])

    @property
    def position(self) -> int:
        """Batches of this rank that the next iteration leaves out."""
        return int(self._now[1])

    def set_epoch(self, epoch: int, position: int = 0) -> None:
        """Set the epoch, and the position in it, of the iterations that start after this call.

        Raises
        ------
        RequestError
            The epoch or the position does not exist.
        """
        batches = len(self._part(self._rank, self._world_size, epoch, position))
        if position > batches:
            raise RequestError(f"position {position}: this rank has {batches} batches an epoch, give no more")
        self._now[:] = torch.tensor([epoch, position])

    def __len__(self) -> int:
        """Return the number of this rank's batches in a whole epoch, with those before the position."""
        return len(self._part(self._rank, self._world_size))

    def __iter__(self) -> Iterator[tuple[Tensor | list[str], Tensor]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        parts, first = self._world_size * workers, self._rank * workers
        total = len(self._part(0, 1))
        taken, turn = _taken([len(part_of(total, first + w, parts)) for w in range(workers)], self.position)
        mine = (worker + turn) % workers  # the loader asks worker 0 first: worker 0 continues with the next turn
        return map(self._tensors, self._part(first + mine, parts, self.epoch, taken[mine]))

    def _part(self, part: int, parts: int, epoch: int = 0, skip: int = 0) -> BatchStream:
        return BatchStream(
            self.archive.reader,
            self._size,
            self._bands,
            batch_size=self._batch_size,
            shuffle_seed=self._shuffle_seed,
            epoch=epoch,
            part=part,
            parts=parts,
            skip=skip,
        )

    def _tensors(self, batch: Batch) -> tuple[Tensor | list[str], Tensor]:
        data, ids = torch.from_numpy(batch.data), batch.object_id
        known = torch.from_numpy(ids) if kind_of(ids) == "integer" else ids.tolist()
        return known, data if self._transform is None else self._transform(data)


def _opened(archive: str | Path | Archive) -> Archive:
    return archive if isinstance(archive, Archive) else Archive(archive)


def _names(archive: Archive, size: Size | None, bands: Bands | None) -> tuple[str, ...]:
    """Return the names of the bands, after a check of the size and the bands."""
    _, numbers = archive.reader.common_form(size, bands)
    return tuple(archive.bands[number] for number in numbers)


def _rank_and_world_size(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank and the number of ranks: those given, or those of `torch.distributed`."""
    if rank is None and world_size is None:
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise RequestError(f"rank {rank} of a world_size {world_size}: give both, with ranks from 0 to world_size - 1")
    return rank, world_size


def _taken(batches: Sequence[int], position: int) -> tuple[list[int], int]:
    """Return the batches that a DataLoader has taken of each worker.

    The loader takes one batch of each worker in turn, without the workers that have none left.

    Parameters
    ----------
    batches : sequence of int, (workers,)
        Batches of each worker.
    position : int
        Batches taken of all workers together; all batches if there are fewer.

    Returns
    -------
    taken, turn : list of int, int
        Batches taken of each worker; the worker whose turn is next.
    """
    rounds = min(position // len(batches), *batches)
    taken, worker = [rounds] * len(batches), 0
    while sum(taken) < min(position, sum(batches)):
        taken[worker] += taken[worker] < batches[worker]
        worker = (worker + 1) % len(batches)
    return taken, worker
