"""How far work is, told on something else than a terminal."""

from __future__ import annotations

from io import StringIO

import pytest

from archive_builder.cli import meter as metering
from archive_builder.cli.meter import Meter


def test_every_advance_is_a_line() -> None:
    stream = StringIO()
    meter = Meter(stream, "tile")
    meter.start(2)
    meter.advance(1, "one", meter.speed(1))
    meter.advance(1, "two", meter.speed(1))
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == ["[1/2] one", "[2/2] two"]


def test_what_is_done_within_its_patience_leaves_no_line_and_what_takes_longer_a_line_each_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(metering.time, "monotonic", lambda: now)
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
