"""The front door: commands to functions, answers to text, errors to one line and an exit status."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from archive_builder import errors
from archive_builder.builder.changes import Changes
from archive_builder.builder.driver import BuildReport, build, plan_changes
from archive_builder.builder.memory import Load
from archive_builder.builder.status import archive_status
from archive_builder.cli.figures import check_plot
from archive_builder.cli.meter import Meter
from archive_builder.cli.plan_plot import plot_plan
from archive_builder.cli.plan_text import plan_text
from archive_builder.cli.progress import PlanProgress, Progress
from archive_builder.cli.status_plot import plot_status
from archive_builder.cli.status_text import status_text
from archive_builder.exporting.export import ExportReport, export
from archive_builder.exporting.names import BANDS_FORMAT
from archive_builder.exporting.packs import PACKS
from archive_builder.exporting.request_list import ColumnNames
from archive_builder.forecast.plan import SAMPLE, SEED, WORKERS, plan
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.repair import repair
from archive_builder.maintain.verify import Finding, Survey, verify
from archive_builder.run.engines import ENGINES, choose_engine
from archive_builder.run.machine import available_cpus, parse_memory
from archive_builder.serve.archive import Archive
from archive_builder.serve.cutout import FORMATS
from archive_builder.serve.style import Style
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

FAILED, WRONG_REQUEST = 1, 2
"""Exit status: some of it failed; the request itself is wrong."""

WRONG_REQUESTS = (errors.RecipeError, errors.RequestError, errors.NoArchiveError)
"""Errors that no second try can mend."""

as_many_workers = click.option(
    "--workers",
    default=available_cpus,
    show_default="the processors it may use",
    type=click.IntRange(1, 1024),
    help="Processes, at most.",
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def picture_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how a PNG or TIFF looks; they are the fields of `Style`."""
    usual = Style()
    for option in (
        click.option(
            "--color",
            type=click.Choice(["auto", "survey", "lupton"]),
            default=usual.color,
            show_default=True,
            help="The survey's own picture, or Lupton's composite of three bands.",
        ),
        click.option("--rgb", help="The composite's bands, red first: irg, say."),
        click.option(
            "--stretch", type=float, default=usual.stretch, show_default=True, help="The composite's stretch."
        ),
        click.option("--softening", type=float, default=usual.softening, show_default=True, help="The composite's Q."),
        click.option("--minimum", type=float, default=usual.minimum, show_default=True, help="What it shows as black."),
        click.option(
            "--compression",
            type=click.Choice(["jpeg", "lzw", "none"]),
            default=usual.compression,
            show_default=True,
            help="Of a TIFF.",
        ),
    ):
        command = option(command)
    return command


def plot_option(what: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option that draws a picture too."""
    text = f"Draw {what}: FILE.png, .pdf or .svg; needs the extra plot."
    return click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help=text)


def _band_names(bands: str | None) -> Sequence[str] | None:
    """Return bands as they are named on the command line: gri, or with commas between longer names."""
    return bands.split(",") if bands and "," in bands else bands


class _Commands(click.Group):
    """Turns the package's errors into one line on stderr and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.ArchiveBuilderError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(WRONG_REQUEST if isinstance(error, WRONG_REQUESTS) else FAILED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="archive-builder")
def main() -> None:
    """Build and use a survey's pre-computed cutout archive."""


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--tiles", default=4, show_default=True, help="How many tiles.")
@click.option("--tile-size", default=1000, show_default=True, help="Side of a tile in pixels of 0.263 arcsec.")
@click.option("--objects", default=400, show_default=True, help="Catalogued objects a tile.")
@click.option("--seed", default=1, show_default=True, help="The same seed makes the same survey.")
def demo(directory: Path, tiles: int, tile_size: int, objects: int, seed: int) -> None:
    """Make up a survey in DES's file layout, with its recipe DIRECTORY/survey.toml."""
    try:
        recipe = make_survey(directory, tiles=tiles, tile_size=tile_size, objects=objects, seed=seed)
    except (ValueError, OSError) as error:
        raise errors.RequestError(str(error)) from None
    click.echo(f"{tiles} tiles made: build their archive with: archive-builder build {recipe} ARCHIVE")


@main.command("plan")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--sample", default=SAMPLE, show_default=True, type=click.IntRange(1), help="Tiles to sample.")
@click.option("--seed", default=SEED, show_default=True, type=click.IntRange(0), help="Another one samples others.")
@click.option("--tile", "tiles", multiple=True, metavar="NAME", help="Sample this tile instead; may be repeated.")
@click.option(
    "--workers",
    multiple=True,
    default=WORKERS,
    show_default=True,
    type=click.IntRange(1),
    help="Work the time out for so many processes; may be repeated.",
)
@click.option("--work", type=click.Path(path_type=Path), metavar="DIR", help="Room for two shards, for a while.")
@plot_option("the forecast")
@as_json
def plan_command(recipe: Path, plot: Path | None, as_json: bool, **options: Any) -> None:
    """Say what the archive of RECIPE will take, from a sample of its tiles: objects, bytes, hours, and their noise."""
    if plot is not None:
        check_plot(plot)
    progress = PlanProgress(sys.stderr)
    try:
        forecast = plan(recipe, **options, on_start=progress.start, on_tile=progress.tile_done)
    finally:
        progress.close()
    if plot is not None:
        plot_plan(forecast, load_recipe(recipe), plot)
    click.echo(json.dumps(asdict(forecast)) if as_json else plan_text(forecast))
    for tile, reason in forecast.failed.items():
        click.echo(errors.printable(f"error: tile {tile}: {reason}"), err=True)
    if forecast.failed:
        sys.exit(FAILED)


@main.command("build")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--tile", "tiles", multiple=True, metavar="NAME", help="Only this tile; may be repeated.")
@click.option("--workers", type=click.IntRange(1, 1024), help="Of this machine; as many as it bears without it.")
@click.option("--memory", metavar="AMOUNT", help="That all processes may take: 2GB, 8GiB; what is free without it.")
@click.option("--engine", default="local", show_default=True, type=click.Choice(ENGINES), help="Where tiles are built.")
@click.option("--parsl-config", type=click.Path(path_type=Path), metavar="FILE", help="For --engine parsl.")
@click.option("--retries", default=1, show_default=True, type=click.IntRange(0), help="For a tile whose worker died.")
@click.option("--force", is_flag=True, help="Build unchanged tiles again; for all tiles, the settings may be others.")
@click.option("--hash", "contents", is_flag=True, help="Compare what is in the files, not only their sizes and times.")
@click.option("--prune", is_flag=True, help="Remove tiles that the survey has no longer.")
@click.option("--dry-run", is_flag=True, help="Say what would be built and why, and stop there.")
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
    **options: Any,
) -> None:
    """Build ARCHIVE by RECIPE: every tile that is new, changed, or failed last time."""
    where = choose_engine(engine, parsl_config=parsl_config, archive=archive)
    budget = parse_memory(memory) if memory else None
    if dry_run:
        _show_changes(plan_changes(recipe, archive, **{k: options[k] for k in ("tiles", "force", "contents")}), as_json)
        return
    # So that batch jobs are given back, as they are after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    progress = Progress(sys.stderr)
    try:
        report = build(
            recipe,
            archive,
            workers=workers,
            memory=budget,
            engine=where,
            **options,
            on_plan=progress.start,
            on_load=lambda load: _say_if_fewer(load, workers),
            on_tile=progress.tile_done,
        )
    finally:
        progress.close()
    click.echo(json.dumps(asdict(report)) if as_json else _build_summary(report))
    for tile, reason in report.failures.items():
        click.echo(errors.printable(f"error: tile {tile}: {reason}"), err=True)
    if report.failures:
        sys.exit(FAILED)


def _say_if_fewer(load: Load, workers: int | None) -> None:
    """Say so if the memory does not bear the workers asked for."""
    if load.fewer and workers:
        click.echo(f"{load.workers} workers instead of {workers}: no more fit into the memory", err=True)


def _show_changes(changes: Changes, as_json: bool) -> None:
    """Say what a build would do."""
    if as_json:
        build_for = {task.files.tile: task.reason for task in changes.tasks}
        answer = {"build": build_for, "unchanged": len(changes.unchanged), "incomplete": dict(changes.incomplete)}
        click.echo(json.dumps({**answer, "gone": changes.gone}))
        return
    for task in changes.tasks:
        click.echo(f"build tile {task.files.tile}: {task.reason}")
    for tile, error in changes.incomplete.items():
        click.echo(errors.printable(f"cannot build tile {tile}: {error}"))
    for tile in changes.gone:
        click.echo(f"gone from the survey: tile {tile}")
    click.echo(changes.summary())


def _build_summary(report: BuildReport) -> str:
    """Say what a build came to."""
    tiles = f"{report.built} tiles built, {report.unchanged} unchanged, {len(report.failures)} failed"
    if report.gone:
        tiles += f", {len(report.gone)} gone from the survey and " + ("removed" if report.pruned else "kept (--prune)")
    if not report.built:
        return tiles
    if report.retried:
        tiles += f"; {report.retried} begun again because a worker died"
    skipped = ", ".join(f"{n} for {reason}" for reason, n in report.skipped.items() if n) or "none"
    return (
        f"{tiles}\n{report.stored} objects stored; skipped: {skipped}\n"
        f"{report.bytes / 1e6:.1f} MB in shards, peak memory {report.peak_memory / 1e6:.0f} MB a process"
    )


@main.command()
@click.argument("archive", type=click.Path(path_type=Path))
@plot_option("the footprint, by state and by depth")
@as_json
def status(archive: Path, plot: Path | None, as_json: bool) -> None:
    """Say what ARCHIVE holds, how far its build is and which tiles failed."""
    answer = archive_status(archive)
    if plot is not None:
        plot_status(archive, plot)
    click.echo(json.dumps(asdict(answer)) if as_json else status_text(answer))


@main.command("verify")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Read every byte, and compare with the survey if it is given.")
@click.option("--survey", type=click.Path(path_type=Path), metavar="RECIPE", help="The survey it was built from.")
@click.option("--repair", "mend", is_flag=True, help="Build damaged shards again, make a damaged index anew.")
@as_many_workers
@as_json
def verify_command(archive: Path, deep: bool, survey: Path | None, mend: bool, workers: int, as_json: bool) -> None:
    """Check that ARCHIVE is what it says it is."""
    source = None
    if survey is not None:
        recipe = load_recipe(survey)
        source = recipe, {files.tile: files for files in discover(recipe).tiles}
    findings = _findings(archive, deep, source, workers)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            click.echo(f"{finding.kind}: {finding.what}")
    damage = [finding for finding in findings if finding.kind in ("shard", "index")]
    if mend and damage:
        repair(archive, damage, survey, workers)
        damage = [f for f in _findings(archive, deep, source, workers) if f.kind in ("shard", "index")]
        click.echo(f"mended: {len(damage)} findings are left", err=as_json)
    elif not as_json:
        click.echo(f"{len(damage)} things are wrong" if damage else "all is well")
    if damage:
        click.echo(f"error: archive {archive}: {len(damage)} things are wrong: verify --repair mends them", err=True)
        sys.exit(FAILED)


def _findings(archive: Path, deep: bool, source: Survey | None, workers: int) -> list[Finding]:
    """Return what is wrong with an archive, and show how far the search is."""
    with _tile_meter() as meter:
        return list(verify(archive, deep, source, workers, meter.start, partial(_count_tile, meter)))


@contextmanager
def _tile_meter() -> Iterator[Meter]:
    """Give a meter of tiles that says nothing of what is done in some seconds, except on a terminal."""
    meter = Meter(sys.stderr, "tile", pause=10.0, patience=10.0)
    try:
        yield meter
    finally:
        meter.close()


def _count_tile(meter: Meter, name: str) -> None:
    meter.advance(1, f"tile {name}", meter.speed(1))


@main.command("reindex")
@click.argument("archive", type=click.Path(path_type=Path))
@as_many_workers
@as_json
def reindex_command(archive: Path, workers: int, as_json: bool) -> None:
    """Make ARCHIVE's index anew from its shards alone."""
    with _tile_meter() as meter:
        report = reindex(archive, workers, meter.start, partial(_count_tile, meter))
    text = f"{report.tiles} tiles and {report.objects} objects indexed, {len(report.left_out)} files left out"
    click.echo(json.dumps(asdict(report)) if as_json else text)
    for name, reason in report.left_out.items():
        click.echo(errors.printable(f"left out {name}: {reason}"), err=True)


@main.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("object_id", type=int)
@click.option("--size", help="Pixels or an angle: 64, 0.5arcmin; the archive's own size without it.")
@click.option("--bands", help="In the order wanted, gri say; all without it. Longer names with commas between.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help=f"FILE.{{{','.join(FORMATS)}}}")
@picture_options
@as_json
def get(
    archive: Path, object_id: int, size: str | None, bands: str | None, output: Path, as_json: bool, **style: Any
) -> None:
    """Write the cutout of OBJECT_ID from ARCHIVE to a file."""
    with Archive(archive) as opened:
        cutout = opened.get(object_id, size=size, bands=_band_names(bands))
        cutout.write(output, **style)
    answer = {
        "object_id": cutout.object_id,
        "tile": cutout.tile,
        "ra": cutout.ra,
        "dec": cutout.dec,
        "bands": cutout.bands,
        "shape": cutout.data.shape[1:],
        "file": str(output),
    }
    ny, nx = cutout.data.shape[1:]
    text = f"{output}: object {object_id} of tile {cutout.tile}, {nx} x {ny} px in {', '.join(cutout.bands)}"
    click.echo(json.dumps(answer) if as_json else text)


@main.command("export")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("requests", metavar="LIST", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="A new folder, or one to go on in."
)
@click.option("--format", "formats", multiple=True, type=click.Choice([*FORMATS, BANDS_FORMAT]), help="Repeatable.")
@click.option("--size", help="Pixels or an angle, for rows without XSIZE and YSIZE; the archive's own size without it.")
@click.option("--bands", help="In the order wanted, gri say; all without it. Longer names with commas between.")
@click.option("--prefix", default="", help="What every file's name begins with.")
@click.option("--pack", type=click.Choice(list(PACKS)), help="Pack about 1000 cutouts into a file.")
@click.option("--id-column", help="LIST's column of object IDs.")
@click.option("--ra-column", help="LIST's column of RA in deg.")
@click.option("--dec-column", help="LIST's column of Dec in deg.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024), help="Worker processes.")
@picture_options
@as_json
def export_command(
    archive: Path,
    requests: Path,
    output: Path,
    formats: tuple[str, ...],
    size: str | None,
    bands: str | None,
    prefix: str,
    pack: str | None,
    id_column: str | None,
    ra_column: str | None,
    dec_column: str | None,
    workers: int,
    as_json: bool,
    **style: Any,
) -> None:
    """Make the cutouts of everything on LIST: object IDs or positions in a CSV, Parquet, FITS or ECSV file.

    Repeating an export makes what is missing. OUTPUT/manifest.csv answers LIST row by row.
    """
    meter = Meter(sys.stderr, "row", pause=10.0)
    try:
        report = export(
            archive,
            requests,
            output,
            formats=formats,
            size=size,
            bands=_band_names(bands),
            prefix=prefix,
            pack=pack,
            style=Style(**style),
            columns=ColumnNames(id_column, ra_column, dec_column),
            workers=workers,
            on_start=meter.start,
            on_rows=lambda rows: meter.advance(rows, "rows", meter.speed(rows)),
        )
    finally:
        meter.close()
    click.echo(json.dumps(asdict(report)) if as_json else _export_summary(report))
    if report.failures:
        counts = ", ".join(f"{n} {reason}" for reason, n in report.failures.items())
        first = f" (the first that failed: {report.first_error})" if report.first_error else ""
        missing = f"{report.rows - report.done} of {report.rows} rows have no cutout"
        click.echo(f"error: {missing}: {counts}: see {output}/manifest.csv{first}", err=True)
        sys.exit(FAILED)


def _export_summary(report: ExportReport) -> str:
    """Say what an export came to."""
    return (
        f"{report.directory}: {report.done} of {report.rows} rows served; {report.made} files made, {report.kept} kept"
    )
