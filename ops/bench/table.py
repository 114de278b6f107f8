"""Result tables: medians of the repeats beside their targets, and a line about the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import astropy
import h5py
import hdf5plugin
import numpy


@dataclass(frozen=True)
class Quantity:
    """A row of the table."""

    key: str
    """Key of the measured value."""

    label: str
    """Name of the row."""

    unit: str
    """Unit of the value."""

    bound: float | None = None
    """Target, if any."""

    at_most: bool = False
    """True if the target is an upper limit."""

    digits: int = 0
    """Digits after the decimal point."""

    def show(self, value: float) -> str:
        return f"{value:,.{self.digits}f}"

    def show_bound(self) -> str:
        if self.bound is None:
            return ""
        return f"{'at most' if self.at_most else 'at least'} {self.bound:,g}"

    def reached(self, value: float) -> str:
        if self.bound is None:
            return ""
        return "yes" if (value <= self.bound if self.at_most else value >= self.bound) else "NO"


HEAD = ("quantity", "unit", "measured", "min to max", "target", "met")


def as_text(repeats: Sequence[dict[str, float]], quantities: Sequence[Quantity]) -> str:
    """Return an aligned Markdown table without the quantities that were not measured."""
    lines = [HEAD, *(_line(q, [r[q.key] for r in repeats if q.key in r]) for q in quantities)]
    return aligned([line for line in lines if line[2]], words=2)


def aligned(lines: Sequence[Sequence[str]], words: int) -> str:
    """Return a Markdown table; the first line is the head. Align the first ``words`` columns left, the others right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * w if i < words else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(_pad(line, widths, words))} |" for line in (lines[0], rule, *lines[1:]))


def medians(repeats: Sequence[dict[str, float]], quantities: Sequence[Quantity]) -> dict[str, float]:
    """Return the median of every measured quantity."""
    keys = [q.key for q in quantities]
    return {key: median(values) for key in keys if (values := [r[key] for r in repeats if key in r])}


def machine() -> str:
    """Return a line about the machine and the libraries."""
    return (
        f"{os.cpu_count()} cores, {_cpu_name()}, {platform.system()}; Python {platform.python_version()}, "
        f"astropy {astropy.__version__}, numpy {numpy.__version__}, h5py {h5py.__version__}, "
        f"HDF5 {h5py.version.hdf5_version}, hdf5plugin {hdf5plugin.version}"
    )


def _line(quantity: Quantity, values: list[float]) -> tuple[str, ...]:
    if not values:
        return (quantity.label, quantity.unit, "", "", "", "")
    middle, show = median(values), quantity.show
    spread = f"{show(min(values))} to {show(max(values))}"
    return quantity.label, quantity.unit, show(middle), spread, quantity.show_bound(), quantity.reached(middle)


def _pad(line: Sequence[str], widths: list[int], words: int) -> list[str]:
    """Pad words on the right, numbers on the left."""
    cells = zip(line, widths, strict=True)
    return [cell.ljust(width) if i < words else cell.rjust(width) for i, (cell, width) in enumerate(cells)]


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
