"""The state of an archive in words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from archive_builder import units
from archive_builder.builder.lock import Holder
from archive_builder.builder.status import ArchiveStatus, BuildState
from archive_builder.errors import printable


def status_text(status: ArchiveStatus) -> str:
    """Return what `archive-builder status` prints."""
    return "\n".join(printable(line) for line in _lines(status))


def _lines(status: ArchiveStatus) -> Iterator[str]:
    depth = ", ".join(f"{band} {value:.2f}" for band, value in status.depth.items() if value is not None)
    yield f"{status.survey}: {status.built} tiles built, {len(status.failures)} failed"
    yield f"{status.stored} objects stored; skipped: {units.by_reason(status.skipped_for)}"
    yield f"cutouts of {status.size} px in {', '.join(status.bands)}; {units.size(status.bytes)} in shards"
    yield f"median depth {depth} (AB mag, 5 sigma)" if depth else "depth not measured"
    if status.build is not None:
        yield from _build_lines(status.build, status.lock)
    elif status.lock is not None and status.lock.alive is not False:
        yield f"locked by {_who(status.lock)}"
    if status.slowest:
        yield "slowest: " + ", ".join(f"{tile} {units.duration(s)}" for tile, s in status.slowest.items())
    for tile, reason in status.failures.items():
        yield f"tile {tile} failed: {reason}"


def _build_lines(build: BuildState, lock: Holder | None) -> Iterator[str]:
    """Yield the lines about the last build."""
    what = "whole rebuild" if build.rebuild else "build"
    speed = units.duration(build.seconds)
    if build.objects_per_second is not None and build.tiles_per_hour is not None:
        speed += f", {build.objects_per_second:,.0f} objects/s, {build.tiles_per_hour:,.0f} tiles/h"
    if build.state == "at work" and lock is not None:
        yield f"a {what} is running: {_who(lock)}"
    else:
        yield f"the last {what} started {build.started} and was {build.state}"
    yield f"  {build.planned} tiles to build: {build.built} built, {build.failed} failed, {build.left} left ({speed})"
    if build.seconds_left is not None:
        yield f"  {timedelta(seconds=round(build.seconds_left))} left"
    if build.state == "interrupted" or (build.rebuild and build.state == "finished"):
        yield "  build again with the same recipe" + (" and --force" if build.rebuild else "") + " to continue"


def _who(lock: Holder) -> str:
    sure = "" if lock.alive else ", according to its lock"
    return f"process {lock.pid} on {lock.host} since {lock.since}{sure}"
