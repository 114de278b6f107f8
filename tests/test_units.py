"""Numbers as people read them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder import units

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@given(st.floats(1, 9e17))
def test_size_is_within_a_hundredth_of_what_it_says_and_short(number: float) -> None:
    text = units.size(number)
    value, unit = text.split()
    assert float(value.replace(",", "")) * UNITS[unit] == pytest.approx(number, rel=0.01, abs=0.5)
    assert len(text) <= 8


@given(st.floats(0.1, 1e8))
def test_duration_is_within_a_twentieth_of_what_it_says_in_two_units_at_most(seconds: float) -> None:
    parts = re.findall(r"([\d.]+) (\w+)", units.duration(seconds))
    assert 1 <= len(parts) <= 2
    assert sum(float(value) * SECONDS[unit] for value, unit in parts) == pytest.approx(seconds, rel=0.05, abs=0.06)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.23, "4.2 s"),
        (59.7, "1 min"),
        (192, "3 min 12 s"),
        (3599.6, "1 h"),
        (86399, "1 d"),
        (140400, "1 d 15 h"),
    ],
)
def test_duration_carries_over_into_the_next_unit(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_counts_are_spelled_out_to_ten_million() -> None:
    assert units.count(39712) == "39,712"
    assert units.count(399_234_567) == "399.2 M"


def test_share_of_nothing_is_no_number() -> None:
    assert units.share(1, 8) == "12.5 %"
    assert units.share(0, 0) == "-"
