"""Progress of a command: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from archive_builder.cli.logs import Verbosity

if TYPE_CHECKING:
    from tqdm import tqdm


class Meter:
    """Shows how much of the work is done; leaving its context restores the terminal.

    Parameters
    ----------
    stream : file
        A terminal gets a bar, any other file gets lines.
    unit : str
        The unit of work, ``"tile"`` for example.
    pause : float
        Minimum time between two lines, s; 0 for a line at every step.
    patience : float
        Time before the first line, s; shorter work leaves no line.
    verbosity : Verbosity
        ``QUIET`` shows nothing. ``VERBOSE`` shows no lines except urgent ones: the log has one for each step.
    """

    def __init__(
        self,
        stream: TextIO,
        unit: str,
        pause: float = 0.0,
        patience: float = 0.0,
        verbosity: Verbosity = Verbosity.USUAL,
    ) -> None:
        self._stream, self._unit, self._pause, self._patience = stream, unit, pause, patience
        self._verbosity = verbosity
        self._bar: tqdm | None = None
        self._total = self._done = 0
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_bar()

    @property
    def seconds(self) -> float:
        """Time since the start, s."""
        return time.monotonic() - self._started

    def speed(self, more: int) -> str:
        """Return the units done per second, including ``more`` that are not counted yet."""
        return self.rate(self._done + more, f"{self._unit}s")

    def rate(self, done: int, unit: str) -> str:
        """Return a number of finished units as a rate per second."""
        seconds = self.seconds
        return f"{done / seconds if seconds else 0.0:,.0f} {unit}/s"

    def say(self, text: str) -> None:
        """Write a line about the whole work."""
        if self._verbosity is Verbosity.USUAL:
            print(text, file=self._stream, flush=True)

    def start(self, total: int, unit: str | None = None) -> None:
        """Start the clock; a second call starts the next part of the work.

        Parameters
        ----------
        total : int
            Units to do.
        unit : str, optional
            Another unit than before.
        """
        self._close_bar()
        self._unit = unit or self._unit
        self._total, self._done, self._started = total, 0, time.monotonic()
        self._last_line = self._started
        if total and self._stream.isatty() and self._verbosity is not Verbosity.QUIET:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit=self._unit, file=self._stream, dynamic_ncols=True)

    def advance(self, done: int, news: str, rate: str, urgent: bool = False) -> None:
        """Count finished work.

        Parameters
        ----------
        done : int
            Units done since the last call.
        news : str
            Text of the line; a bar shows urgent news only.
        rate : str
            Speed in the caller's own unit.
        urgent : bool
            Show the line even if none is due.
        """
        self._done += done
        if self._bar is not None:
            self._bar.set_postfix_str(rate)
            self._bar.update(done)
            if urgent:
                self._bar.write(news, file=self._stream)
        elif self._verbosity is not Verbosity.QUIET and (urgent or self._is_line_due()):
            self._last_line = time.monotonic()
            left = timedelta(seconds=round(self.seconds / max(self._done, 1) * (self._total - self._done)))
            print(f"[{self._done}/{self._total}] {news} ({rate}, {left} left)", file=self._stream, flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _is_line_due(self) -> bool:
        if self._verbosity is Verbosity.VERBOSE or self.seconds < self._patience:
            return False
        return self._done == self._total or time.monotonic() - self._last_line >= self._pause
