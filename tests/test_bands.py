"""Lists of bands in every accepted form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder.bands import band_names
from archive_builder.errors import RequestError

LETTERS = ("g", "r", "i", "z", "Y")
HUBBLE = ("F160W", "F606W", "F814W")


@given(st.lists(st.sampled_from(LETTERS), min_size=1))
def test_every_form_of_a_list_of_letters_gives_the_same_list(bands: list[str]) -> None:
    expected = tuple(bands)
    assert band_names("".join(bands), LETTERS) == expected
    assert band_names(",".join(bands), LETTERS) == expected
    assert band_names(", ".join(bands), LETTERS) == expected
    assert band_names(bands, LETTERS) == expected
    assert band_names(expected, LETTERS) == expected
    assert band_names(iter(bands), LETTERS) == expected
    from_numpy = band_names(np.array(bands), LETTERS)
    assert from_numpy == expected
    assert {type(name) for name in from_numpy} == {str}


NAMES = st.lists(st.text("abcXYZ0123456789_", min_size=1, max_size=6), min_size=1, max_size=8, unique=True)


@given(NAMES, st.data())
def test_names_of_any_length_work_with_commas_and_as_a_list(known: list[str], data: st.DataObject) -> None:
    bands = data.draw(st.lists(st.sampled_from(known), min_size=1))
    assert band_names(bands, known) == tuple(bands)
    if len(bands) > 1:
        assert band_names(",".join(bands), known) == tuple(bands)
    assert band_names(bands[0], known) == (bands[0],)


def test_known_name_is_one_band_even_if_its_letters_are_bands_too() -> None:
    assert band_names("gri", ("g", "r", "i", "gri")) == ("gri",)
    assert band_names("F814W", HUBBLE) == ("F814W",)
    assert band_names("F160W,F814W,F606W", HUBBLE) == ("F160W", "F814W", "F606W")


@pytest.mark.parametrize(
    ("bands", "known", "unknown"),
    [
        ("gu", LETTERS, "u"),
        ("g,u", LETTERS, "u"),
        (["g", "u"], LETTERS, "u"),
        (np.array(["gri"]), LETTERS, "gri"),
        ("u", LETTERS, "u"),
        ("g,,r", LETTERS, ""),
        ("F115W", HUBBLE, "F115W"),
        ("F160W,F115W", HUBBLE, "F115W"),
        ("F160WF814W", HUBBLE, "F160WF814W"),
    ],
)
def test_error_names_an_unknown_band_and_lists_the_known_ones(bands: str, known: tuple[str, ...], unknown: str) -> None:
    with pytest.raises(RequestError) as caught:
        band_names(bands, known, "the archive a/b")
    assert str(caught.value) == f"the archive a/b has no band {unknown!r}: it has {', '.join(known)}"


@pytest.mark.parametrize("bands", ["", "  ", (), [], np.array([], dtype=str)])
def test_request_without_a_band_is_refused(bands: str) -> None:
    with pytest.raises(RequestError, match=r"^no band is given: the archive has g, r, i, z, Y$"):
        band_names(bands, LETTERS)
