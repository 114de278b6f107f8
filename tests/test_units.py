"""Units and human-readable numbers."""

import re

import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st

from archive_builder import units
from archive_builder.errors import RequestError

UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


@given(st.floats(1, 9e17))
def test_printed_size_is_short_and_within_a_hundredth_of_the_number(number: float) -> None:
    text = units.size(number)
    value, unit = text.split()
    assert float(value.replace(",", "")) * UNITS[unit] == pytest.approx(number, rel=0.01, abs=0.5)
    assert len(text) <= 8


@given(st.floats(0.1, 1e8))
def test_printed_duration_has_two_units_at_most_and_is_within_a_twentieth(seconds: float) -> None:
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
def test_duration_carries_into_the_next_unit(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


def test_counts_are_spelled_out_to_ten_million() -> None:
    assert units.count(39712) == "39,712"
    assert units.count(399_234_567) == "399.2 M"


def test_share_of_zero_is_not_a_number() -> None:
    assert units.share(1, 8) == "12.5 %"
    assert units.share(0, 0) == "-"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2e9), ("8GiB", 2**33), ("500 mb", 5e8), ("1.5G", 1.5 * 2**30), ("2000000000", 2e9), ("7B", 7)],
)
def test_amounts_of_memory_are_read_in_all_usual_forms(text: str, expected: float) -> None:
    assert units.parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-2GB", "0", "2 quarts", "nan", "2GBB"])
def test_invalid_amounts_of_memory_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="give it as 2GB"):
        units.parse_memory(text)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (64, (64, "px")),
        ("64", (64, "px")),
        ("64px", (64, "px")),
        ("64 px ", (64, "px")),
        (5 * u.pix, (5, "px")),
        ("0.5arcmin", (30, "arcsec")),
        ("1 deg", (3600, "arcsec")),
        (30 * u.arcsec, (30, "arcsec")),
    ],
)
def test_length_is_pixels_or_arcsec(length: units.Length, expected: tuple[float, str]) -> None:
    value, unit = units.parse_length(length)
    assert (pytest.approx(value), unit) == expected


@pytest.mark.parametrize("length", ["big", "", "1 kg", None, [5] * 3, "3 m"])
def test_invalid_lengths_are_refused(length: units.Length) -> None:
    with pytest.raises(RequestError, match=r"size .* (cannot be read|is neither pixels nor an angle)"):
        units.parse_length(length)


@given(st.floats(0, 179))
def test_radius_is_the_same_in_every_unit(degrees: float) -> None:
    assert units.to_degrees(f"{degrees!r} deg") == degrees
    assert units.to_degrees(degrees * 60 * u.arcmin) == pytest.approx(degrees, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("radius", ["1 kg", "wide", "-1 arcsec", "181 deg", "nan deg", 5 * u.m])
def test_invalid_radii_are_refused(radius: u.Quantity | str) -> None:
    with pytest.raises(RequestError, match=r"radius .* (is not an angle|is not between 0 and 180 deg)"):
        units.to_degrees(radius)
