"""IDs as requests give them, in the kind of the archive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder.errors import RequestError
from archive_builder.object_ids import IdKind, kind_of, no_ids, parse_id, parse_ids

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(number=INT64, zeros=st.integers(0, 30), blanks=st.text(" \t", max_size=2))
def test_digits_are_read_exactly(number: int, zeros: int, blanks: str) -> None:
    sign, digits = "-" * (number < 0), str(abs(number))
    text = f"{blanks}{sign}{'0' * zeros}{digits}{blanks}"
    assert parse_id(text, "integer") == parse_id(text.encode(), "integer") == parse_id(number, "integer") == number
    assert parse_ids([text, number], "integer").tolist() == [number, number]


@pytest.mark.parametrize(
    "value", ["", "x", "1.0", "1e3", "1_000", "0x1", "--1", str(2**63), "9" * 5000, None, 1.0, b"\xff"]
)
def test_anything_else_is_no_integer(value: object) -> None:
    with pytest.raises(RequestError, match="is not a 64-bit integer"):
        parse_id(value, "integer")


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_text_stays_as_written(text: str) -> None:
    assert parse_id(text, "text") == text.strip()
    assert parse_ids([text, "x"], "text").tolist() == [text.strip(), "x"]


@pytest.mark.parametrize("kind", ["integer", "text"])
def test_an_empty_list_has_the_kind(kind: IdKind) -> None:
    for empty in ([], (), np.empty(0), np.empty(0, dtype=str)):
        assert kind_of(parse_ids(empty, kind)) == kind_of(no_ids(kind)) == kind
