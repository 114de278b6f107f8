"""The commands about a built archive: ``status``, ``verify`` and ``reindex``."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_builder.cli.logs import Verbosity
from archive_builder.cli.options import (
    CONTINUES,
    FAILED,
    a_path,
    after_interrupt,
    as_json,
    cpu_workers,
    example,
    log_options,
    plot_option,
)
from archive_builder.cli.progress import Meter
from archive_builder.errors import printable

if TYPE_CHECKING:
    from archive_builder.maintain.verify import Finding

log = logging.getLogger(__name__)

KINDS = """\b
Kinds of problems:
  shard   damaged shard: --repair rebuilds its tile
  index   damaged index: --repair rebuilds it from the shards
  orphan  file that the index does not know: its line says what to do
  survey  tile that cannot be compared with the survey's files

"""
"""Part of the help of ``verify``."""


@click.command(
    "status", short_help="Show contents, progress and failed tiles.", epilog=example("archive-builder status archive")
)
@click.argument("archive", type=a_path)
@plot_option("the footprint, by state and by depth,")
@as_json
def status_command(archive: Path, plot: Path | None, as_json: bool) -> None:
    """Show the contents of ARCHIVE, the progress of its build, and the tiles that failed."""
    from archive_builder.builder.status import archive_status
    from archive_builder.cli.status_text import status_text

    answer = archive_status(archive)
    if plot is not None:
        from archive_builder.cli.status_plot import plot_status

        plot_status(archive, plot)
    click.echo(json.dumps(asdict(answer)) if as_json else status_text(answer))


@click.command(
    "verify",
    short_help="Check the integrity of an archive.",
    epilog=KINDS
    + example(
        "archive-builder verify archive --deep",
        "archive-builder verify archive --deep --survey survey.toml --repair",
    ),
)
@click.argument("archive", type=a_path)
@click.option("--deep", is_flag=True, help="Read every byte, and compare cutouts with the survey if it is given.")
@click.option("--survey", type=a_path, metavar="RECIPE", help="Recipe that the archive was built from.")
@click.option(
    "--repair", "to_repair", is_flag=True, help="Rebuild damaged shards (needs --survey) and a damaged index."
)
@cpu_workers()
@log_options
@as_json
def verify_command(
    archive: Path,
    deep: bool,
    survey: Path | None,
    to_repair: bool,
    workers: int | None,
    as_json: bool,
    verbosity: Verbosity,
) -> None:
    """Check the integrity of ARCHIVE: its index against its shards, and with --deep every byte of them.

    Each problem is one line that begins with its kind. The exit status is 1 if a shard or the index is damaged.
    """
    findings = _findings(archive, deep, survey, workers, verbosity)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.kind}: {finding.what}")
    damage = _damage(findings)
    if to_repair and damage:
        from archive_builder.maintain.repair import repair

        after_interrupt(CONTINUES)
        log.info("repairing %d problems", len(damage))
        repair(archive, damage, survey, workers)
        damage = _damage(_findings(archive, deep, survey, workers, verbosity))
        click.echo(f"repaired: {len(damage)} problems left", err=as_json)
    elif not as_json:
        click.echo(_outcome(findings, len(damage)))
    if damage:
        remedy = _remedy(damage, deep, survey)
        click.echo(f"error: archive {archive}: {len(damage)} problems found: {remedy}", err=True)
        sys.exit(FAILED)


def _outcome(findings: list[Finding], problems: int) -> str:
    """Return the outcome in words."""
    left_out = sum(finding.kind == "survey" for finding in findings)
    if problems or not left_out:
        return f"{problems} problems found" if problems else "all is well"
    return f"no problems found, but {left_out} tiles were not compared with the survey"


def _remedy(damage: list[Finding], deep: bool, survey: Path | None) -> str:
    """Return the command that finds the same problems again and repairs them."""
    needs_recipe = any(finding.kind == "shard" for finding in damage)
    recipe = f" --survey {survey or 'RECIPE'}" if needs_recipe or survey else ""
    return f"run verify{' --deep' * deep} --repair{recipe}"


def _findings(
    archive: Path, deep: bool, survey: Path | None, workers: int | None, verbosity: Verbosity
) -> list[Finding]:
    """Return the problems of an archive, and show the progress of the search."""
    from archive_builder.maintain.verify import verify

    with _tile_meter(verbosity) as meter:
        on_tile = partial(_tile_done, meter)
        found = verify(archive, deep=deep, survey=survey, workers=workers, on_start=meter.start, on_tile=on_tile)
        findings = list(found)
    for finding in findings:
        log.error("%s: %s", finding.kind, finding.what, extra={"tile": finding.tile})
    log.info("%s: %d findings", archive, len(findings), extra={"findings": len(findings)})
    return findings


def _damage(findings: list[Finding]) -> list[Finding]:
    """Return the findings that a repair would remove."""
    return [finding for finding in findings if finding.kind in ("shard", "index")]


def _tile_meter(verbosity: Verbosity) -> Meter:
    """Return a meter of tiles; work of a few seconds leaves no line, except on a terminal."""
    return Meter(sys.stderr, "tile", pause=10.0, patience=10.0, verbosity=verbosity)


def _tile_done(meter: Meter, tile: str) -> None:
    """Show and log that a tile is done."""
    log.info("tile %s done", tile, extra={"tile": tile, "seconds": round(meter.seconds, 3)})
    meter.advance(1, f"tile {tile}", meter.speed(1))


@click.command(
    "reindex", short_help="Rebuild the index from the shards.", epilog=example("archive-builder reindex archive")
)
@click.argument("archive", type=a_path)
@cpu_workers()
@log_options
@as_json
def reindex_command(archive: Path, workers: int | None, as_json: bool, verbosity: Verbosity) -> None:
    """Rebuild the index of ARCHIVE from its shards alone.

    The old index stays in use until the new one is complete.
    """
    from archive_builder.maintain.reindex import reindex

    with _tile_meter(verbosity) as meter:
        report = reindex(archive, workers=workers, on_start=meter.start, on_tile=partial(_tile_done, meter))
    text = f"{report.tiles} tiles and {report.objects} objects indexed, {len(report.left_out)} files left out"
    log.info("%s", text, extra={"tiles": report.tiles, "objects": report.objects})
    click.echo(json.dumps(asdict(report)) if as_json else text)
    for name, reason in report.left_out.items():
        log.warning("left out %s: %s", name, reason)
        click.echo(printable(f"left out {name}: {reason}"), err=True)
