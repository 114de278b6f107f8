"""Progress of a command on a terminal, in a file, and at every verbosity."""

from __future__ import annotations

from io import StringIO

import pytest

from archive_builder.cli import progress
from archive_builder.cli.logs import Verbosity
from archive_builder.cli.progress import Meter


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_every_advance_prints_a_line() -> None:
    stream = StringIO()
    with Meter(stream, "tile") as meter:
        meter.start(2)
        meter.advance(1, "one", meter.speed(1))
        meter.advance(1, "two", meter.speed(1))
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == ["[1/2] one", "[2/2] two"]


def test_short_work_prints_no_line_and_long_work_prints_one_each_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = StringIO()
    meter = Meter(stream, "tile", pause=10, patience=10)
    meter.start(30)
    for number in range(1, 31):
        now = 1000.0 + number
        meter.advance(1, f"tile {number}", meter.speed(1))
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == [
        "[10/30] tile 10",
        "[20/30] tile 20",
        "[30/30] tile 30",
    ]
    stream.truncate(0)
    meter.start(1)
    meter.advance(1, "bad news", "", urgent=True)
    assert "bad news" in stream.getvalue()
    quick = StringIO()
    meter = Meter(quick, "tile", pause=10, patience=10)
    meter.start(1)
    meter.advance(1, "tile 1", meter.speed(1))
    assert quick.getvalue() == ""


def shown(stream: StringIO, verbosity: Verbosity) -> str:
    with Meter(stream, "tile", verbosity=verbosity) as meter:
        meter.say("the work")
        meter.start(2)
        meter.advance(1, "usual news", "")
        meter.advance(1, "urgent news", "", urgent=True)
    return stream.getvalue()


def test_terminal_shows_a_bar_with_urgent_news_above() -> None:
    text = shown(Terminal(), Verbosity.USUAL)
    assert "2/2" in text
    assert "urgent news\n" in text
    assert "usual news" not in text


def test_quiet_shows_nothing() -> None:
    assert shown(StringIO(), Verbosity.QUIET) == ""
    assert shown(Terminal(), Verbosity.QUIET) == ""


def test_verbose_leaves_usual_lines_to_the_log() -> None:
    text = shown(StringIO(), Verbosity.VERBOSE)
    assert "urgent news" in text
    assert "usual news" not in text
    assert "the work" not in text
