"""How far a long piece of work is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TextIO

from tqdm import tqdm


class Meter:
    """Shows how much of some work is done.

    Parameters
    ----------
    stream : file
        A terminal gets a bar, anything else lines.
    unit : str
        What is counted, ``"tile"`` say.
    pause : float
        Seconds between lines, at least; 0 for a line at every advance.
    patience : float
        Seconds before the first line: what is done sooner leaves none.
    """

    def __init__(self, stream: TextIO, unit: str, pause: float = 0.0, patience: float = 0.0) -> None:
        self._stream, self._unit, self._pause, self._patience = stream, unit, pause, patience
        self._bar: tqdm | None = None
        self._total = self._done = 0
        self._started = self._last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def speed(self, more: int) -> str:
        """Return how many units a second have been done, with some more that are not counted yet."""
        seconds = self.seconds
        return f"{(self._done + more) / seconds if seconds else 0.0:,.0f} {self._unit}s/s"

    def start(self, total: int) -> None:
        """Begin, with so many units to do."""
        self._total, self._started = total, time.monotonic()
        self._last_line = self._started
        if total and self._stream.isatty():
            self._bar = tqdm(total=total, unit=self._unit, file=self._stream, dynamic_ncols=True)

    def advance(self, done: int, news: str, rate: str, urgent: bool = False) -> None:
        """Count what has been done.

        Parameters
        ----------
        done : int
            Units done since the last call.
        news : str
            For a line; the bar shows it only if it is urgent.
        rate : str
            The speed in the caller's own unit.
        urgent : bool
            It must be seen.
        """
        self._done += done
        if self._bar is not None:
            self._bar.set_postfix_str(rate)
            self._bar.update(done)
            if urgent:
                self._bar.write(news, file=self._stream)
        elif urgent or (self.seconds >= self._patience and self._is_line_due()):
            self._last_line = time.monotonic()
            left = timedelta(seconds=round(self.seconds / max(self._done, 1) * (self._total - self._done)))
            print(f"[{self._done}/{self._total}] {news} ({rate}, {left} left)", file=self._stream, flush=True)

    def _is_line_due(self) -> bool:
        return self._done == self._total or time.monotonic() - self._last_line >= self._pause

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
