"""A cache of the values last used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """A cache that keeps the values last used and drops the others.

    It has no lock: threads that share a cache take turns.

    Parameters
    ----------
    size : int
        Maximum number of values.
    on_evict : callable, optional
        Called with each dropped value, to close a file for example.

    Examples
    --------
    >>> squares: Lru[int, int] = Lru(2)
    >>> squares.get(3, lambda key: key**2)
    9
    """

    def __init__(self, size: int, on_evict: Callable[[V], object] | None = None) -> None:
        self._size, self._on_evict = size, on_evict
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """Return the value of a key.

        Parameters
        ----------
        key : hashable
        make : callable
            Makes the value from the key if the cache does not have it. An error of this call leaves the cache as it is.
        """
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = make(key)
        if len(self._values) > self._size:
            self._drop_oldest()
        return value

    def clear(self) -> None:
        """Drop all values."""
        while self._values:
            self._drop_oldest()

    def __len__(self) -> int:
        return len(self._values)

    def _drop_oldest(self) -> None:
        _, value = self._values.popitem(last=False)
        if self._on_evict is not None:
            self._on_evict(value)
