"""Errors: one line, caught as usual Python exceptions, sent between processes."""

from __future__ import annotations

import pickle

import pytest

from archive_builder import errors
from archive_builder.errors import ArchiveBuilderError

MESSAGE = 'shard a/b.h5: it\'s "damaged": rebuild its tile'

EXAMPLES = [
    *(
        kind(MESSAGE)
        for kind in (
            ArchiveBuilderError,
            errors.RecipeError,
            errors.RequestError,
            errors.TableError,
            errors.TileError,
            errors.ArchiveError,
            errors.EngineError,
            errors.DamagedIndexError,
            errors.NoArchiveError,
            errors.PositionOutsideError,
            errors.CutoutTooLargeError,
        )
    ),
    errors.DuplicateObjectError(17, "A", "B"),
    errors.DuplicateObjectError(None, "A", "B"),
    errors.ObjectNotFoundError(17, "archive"),
    errors.ObjectNotFoundError("within 2 arcsec of RA 1, Dec 2", "archive"),
    errors.ObjectSkippedError(17, "A", "noise", {"g": 3.25, "r": float("nan")}),
]

every_error = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def test_examples_cover_every_error_class() -> None:
    there = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert {type(error) for error in EXAMPLES} == there


@every_error
def test_message_is_the_unquoted_line(error: ArchiveBuilderError) -> None:
    assert str(error) == error.args[0]
    assert "\n" not in str(error)


@every_error
def test_error_is_the_same_after_pickling(error: ArchiveBuilderError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), repr(vars(again))) == (type(error), str(error), repr(vars(error)))


@every_error
def test_unknown_id_is_a_key_error_and_a_wrong_request_a_value_error(error: ArchiveBuilderError) -> None:
    assert isinstance(error, KeyError) == isinstance(error, errors.ObjectNotFoundError)
    assert isinstance(error, ValueError) == isinstance(error, errors.RequestError | errors.RecipeError)


@pytest.mark.parametrize("kind", [ArchiveBuilderError, errors.RequestError])
def test_message_from_a_foreign_file_stays_on_one_line(kind: type[ArchiveBuilderError]) -> None:
    assert str(kind("name\n\x1b[31mred")) == "name\\n\\x1b[31mred"
    assert str(errors.ObjectNotFoundError(17, "a\nb")).startswith("object 17 is not in the archive a\\nb")
    assert len(str(kind("x" * 5000))) < 2010
