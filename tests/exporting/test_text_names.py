"""File names of text IDs: possible on any file system, different for different IDs, and the same in every run."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from archive_builder.exporting.names import folder_name, text_names

LONGEST = 40

IDS = st.lists(
    st.one_of(st.text(min_size=1, max_size=60), st.text("aA_./-é:x2g", min_size=1, max_size=6)), min_size=1, unique=True
).map(lambda ids: [text for text in ids if text.isascii() or text.isprintable()])


@given(ids=IDS)
@example(ids=["a/b", "a_b", "A/B", "a:b", "a_b_648fa9b3", "a_b_c14cddc0"])
@example(ids=["é", "e\u0301", "É"])
@example(ids=[".", "..", "-", "_", "__", "CON/", "x" * 60, "x" * 61])
@example(ids=["a", "a_2x2", "a_2x2_g", "a_g", "a_g_2x2", "a_2x2_g_2x2"])
def test_names_are_possible_and_different(ids: list[str]) -> None:
    names = text_names(ids, LONGEST, ["g"])
    assert list(names) == ids
    for name in names.values():
        assert 0 < len(name.encode()) <= LONGEST
        assert name[0] not in "-."
        assert not set(name) & set('/\\:*?"<>|;\0')
        assert name.isprintable()
    alike = [unicodedata.normalize("NFC", name).casefold() for name in names.values()]
    files = [f"{name}{size}{band}" for name in alike for size in ("", "_2x2") for band in ("", "_g")]
    assert len(set(files)) == 4 * len(ids)


@given(ids=IDS)
def test_names_do_not_depend_on_the_order(ids: list[str]) -> None:
    assert text_names(ids[::-1], LONGEST) == text_names(ids, LONGEST)


@pytest.mark.parametrize(
    ("text", "name"),
    [("330368/1234", "330368_1234"), ("J1000+02", "J1000+02"), ("a b", "a b"), ("v1.2", "v1.2"), ("é😀", "é😀")],
)
def test_a_name_is_the_id_as_far_as_possible(text: str, name: str) -> None:
    assert text_names([text, "other"], LONGEST)[text] == name


def test_keys_of_samples_have_no_dots() -> None:
    assert text_names(["v1.2", "x"], LONGEST, with_dots=False) == {"v1.2": "v1_2", "x": "x"}
    names = text_names(["v1.2", "v1_2"], LONGEST, with_dots=False)
    assert len(set(names.values())) == 2
    assert not any("." in name for name in names.values())


def test_folders_hold_few_files() -> None:
    folders = [folder_name(f"brick/{n}", False) for n in range(40_000)]
    assert max(map(folders.count, set(folders[:50]))) < 40
