"""The command ``build``."""

from __future__ import annotations

import json
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_builder import units
from archive_builder.choices import ENGINES
from archive_builder.cli.logs import Verbosity
from archive_builder.cli.options import (
    CONTINUES,
    a_path,
    after_interrupt,
    as_json,
    example,
    exit_after_failures,
    log_options,
    workers_option,
)
from archive_builder.cli.progress import Meter
from archive_builder.errors import printable
from archive_builder.units import parse_memory

if TYPE_CHECKING:
    from archive_builder.builder.changes import Changes
    from archive_builder.builder.driver import BuildEvent, BuildReport
    from archive_builder.builder.memory import Load

log = logging.getLogger(__name__)


@click.command(
    "build",
    short_help="Build or update an archive from a recipe.",
    epilog=example(
        "archive-builder build survey.toml archive",
        "archive-builder build survey.toml archive --tile DES0102-4914 --dry-run",
    ),
)
@click.argument("recipe", type=a_path)
@click.argument("archive", type=a_path)
@click.option("--tile", "tiles", multiple=True, metavar="NAME", help="Build only this tile; may be repeated.")
@workers_option(None, "Maximum worker processes (default: one per CPU, fewer if memory is short).")
@click.option(
    "--memory",
    metavar="AMOUNT",
    help="Maximum memory of all processes together: 2GB, 8GiB (default: the free memory, less a tenth).",
)
@click.option(
    "--engine",
    default="local",
    show_default=True,
    type=click.Choice(ENGINES),
    help="Where workers run: on this machine, in batch jobs by Parsl, or on the ranks of mpiexec.",
)
@click.option(
    "--parsl-config", type=a_path, metavar="FILE", help="Python file that defines Parsl's config, for --engine parsl."
)
@click.option(
    "--retries",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(0),
    help="Retries of a tile after its worker dies.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Build unchanged tiles too. Without --tile this rebuilds the whole archive, and the recipe's settings may "
    "differ from before.",
)
@click.option("--hash", "contents", is_flag=True, help="Compare file contents, not only sizes and times.")
@click.option("--prune", is_flag=True, help="Remove tiles that are no longer in the survey.")
@click.option("--dry-run", is_flag=True, help="Show which tiles would be built and why, and change nothing.")
@log_options
@as_json
def build_command(
    recipe: Path,
    archive: Path,
    engine: str,
    workers: int | None,
    memory: str | None,
    parsl_config: Path | None,
    dry_run: bool,
    as_json: bool,
    verbosity: Verbosity,
    **options: Any,
) -> None:
    """Build ARCHIVE from RECIPE: every tile that is new, has changed or failed last time.

    Run the same command again to update the archive, or to continue a build that was interrupted. A tile that fails
    does not stop the others.
    """
    from archive_builder.builder.driver import build, plan_changes
    from archive_builder.run.engines import choose_engine

    where = choose_engine(engine, parsl_config=parsl_config, archive=archive)
    budget = parse_memory(memory) if memory else None
    if dry_run:
        same = {key: options[key] for key in ("tiles", "force", "contents", "prune")}
        _show_changes(plan_changes(recipe, archive, **same), as_json)
        return
    # SIGTERM ends the build like Ctrl-C, so the engine cancels its batch jobs.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    after_interrupt(CONTINUES)
    with Meter(sys.stderr, "tile", verbosity=verbosity) as meter:
        news = _News(meter, workers)
        report = build(
            recipe,
            archive,
            workers=workers,
            memory=budget,
            engine=where,
            **options,
            on_plan=news.plan,
            on_load=news.load,
            on_tile=news.tile,
        )
    log.info(
        "%s: %d tiles built, %d failed",
        archive,
        report.built,
        len(report.failures),
        extra={"built": report.built, "failed": len(report.failures), "stored": report.stored, "bytes": report.bytes},
    )
    click.echo(json.dumps(asdict(report)) if as_json else _summary(report))
    exit_after_failures(report.failures)


class _News:
    """Shows and logs the progress of a build."""

    def __init__(self, meter: Meter, workers: int | None) -> None:
        self._meter, self._workers = meter, workers
        self._objects = 0

    def plan(self, changes: Changes) -> None:
        """Show which tiles the build will make."""
        log.info("%s", changes.summary(), extra={"tiles": len(changes.tasks)})
        self._meter.say(changes.summary())
        if left_out := changes.rows_left_out():
            log.info("%s", left_out, extra={"left_out": dict(changes.left_out)})
            self._meter.say(left_out)
        self._meter.start(len(changes.tasks) + len(changes.incomplete))

    def load(self, load: Load) -> None:
        """Show the number of workers if memory is short."""
        log.info(
            "%d workers, each with at most %s of memory",
            load.workers,
            units.size(load.memory),
            extra={"workers": load.workers, "memory": load.memory},
        )
        if load.fewer and self._workers:
            self._meter.say(f"{load.workers} workers instead of {self._workers}: no more fit into the memory")

    def tile(self, event: BuildEvent) -> None:
        """Show a finished or failed tile."""
        self._objects += event.stored + event.skipped
        if event.error is not None:
            news = f"tile {event.tile}: failed: {event.error}"
            log.error("%s", news, extra={"tile": event.tile})
        else:
            news = f"tile {event.tile}: {event.stored} stored, {event.skipped} skipped"
            counts = {"stored": event.stored, "skipped": event.skipped, "seconds": round(event.seconds, 3)}
            log.info("%s", news, extra={"tile": event.tile, **counts})
        self._meter.advance(
            1, printable(news), self._meter.rate(self._objects, "objects"), urgent=event.error is not None
        )


def _show_changes(changes: Changes, as_json: bool) -> None:
    """Print the plan of a build."""
    if as_json:
        build_for = {task.files.tile: task.reason for task in changes.tasks}
        answer = {"build": build_for, "unchanged": len(changes.unchanged), "incomplete": dict(changes.incomplete)}
        shared = {"empty": changes.empty, "left_out": dict(changes.left_out)} if changes.left_out else {}
        click.echo(json.dumps({**answer, "gone": changes.gone, **shared}))
        return
    for task in changes.tasks:
        click.echo(f"build tile {task.files.tile}: {task.reason}")
    for tile, error in changes.incomplete.items():
        click.echo(printable(f"cannot build tile {tile}: {error}"))
    for tile in changes.gone:
        click.echo(f"gone from the survey: tile {tile}")
    click.echo(changes.summary())
    if left_out := changes.rows_left_out():
        click.echo(left_out)


def _summary(report: BuildReport) -> str:
    """Return the result of a build in words."""
    tiles = f"{report.built} tiles built, {report.unchanged} unchanged, {len(report.failures)} failed"
    if report.gone:
        tiles += f", {len(report.gone)} gone from the survey and " + ("removed" if report.pruned else "kept (--prune)")
    if not report.built:
        return tiles
    if report.retried:
        tiles += f"; {report.retried} retried after a worker died"
    blank = ", ".join(f"{band} on {number}" for band, number in report.missing.items())
    return (
        f"{tiles}\n{report.stored} objects stored; skipped: {units.by_reason(report.skipped)}\n"
        f"{f'blank bands, of {report.built} tiles: {blank}' + chr(10) if blank else ''}"
        f"{units.size(report.bytes)} in shards, peak memory {units.size(report.peak_memory)} a process"
    )
