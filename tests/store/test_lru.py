"""The least-recently-used cache, compared with a list kept by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder.store.lru import Lru


@given(st.integers(1, 5), st.lists(st.integers(0, 8)))
def test_cache_keeps_the_last_used_values_and_evicts_each_other_value_once(size: int, keys: list[int]) -> None:
    made: list[int] = []
    evicted: list[str] = []

    def make(key: int) -> str:
        made.append(key)
        return str(key)

    cache: Lru[int, str] = Lru(size, evicted.append)
    by_hand: list[int] = []
    expected_made, expected_evicted = [], []
    for key in keys:
        assert cache.get(key, make) == str(key)
        if key in by_hand:
            by_hand.remove(key)
        else:
            expected_made.append(key)
        by_hand.append(key)
        if len(by_hand) > size:
            expected_evicted.append(str(by_hand.pop(0)))
        assert len(cache) == len(by_hand)
    assert (made, evicted) == (expected_made, expected_evicted)
    cache.clear()
    assert len(cache) == 0
    assert evicted == expected_evicted + [str(key) for key in by_hand]


def test_error_during_the_creation_of_a_value_leaves_the_cache_unchanged() -> None:
    evicted: list[int] = []
    cache: Lru[int, int] = Lru(1, evicted.append)
    cache.get(1, lambda key: key)
    with pytest.raises(ZeroDivisionError):
        cache.get(0, lambda key: 1 // key)
    assert (len(cache), evicted) == (1, [])
    assert cache.get(1, lambda key: -1) == 1


def test_cache_without_a_callback_drops_values_silently() -> None:
    cache: Lru[str, bytes] = Lru(1)
    assert [cache.get(key, str.encode) for key in ("a", "b", "a")] == [b"a", b"b", b"a"]
