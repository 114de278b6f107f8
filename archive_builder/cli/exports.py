"""The command ``export``."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_builder.choices import BANDS_FORMAT, FILE_FORMATS, PACK_NAMES
from archive_builder.cli.logs import Verbosity
from archive_builder.cli.options import (
    CONTINUES,
    FAILED,
    NegativeNumbers,
    a_path,
    after_interrupt,
    as_json,
    bands_option,
    example,
    log_options,
    picture_options,
    workers_option,
)
from archive_builder.cli.progress import Meter

if TYPE_CHECKING:
    from archive_builder.exporting.export import ExportReport

log = logging.getLogger(__name__)


@click.command(
    "export",
    cls=NegativeNumbers,
    short_help="Write the cutouts of a list of objects or positions.",
    epilog=example(
        "archive-builder export archive objects.csv -o cutouts --format fits --format png",
        "archive-builder export archive objects.csv -o packs --pack hdf5 --workers 8",
    ),
)
@click.argument("archive", type=a_path)
@click.argument("requests", metavar="LIST", type=a_path)
@click.option("-o", "--output", required=True, type=a_path, help="New folder, or the folder of an export to continue.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice([*FILE_FORMATS, BANDS_FORMAT]),
    help=f"Format of the files; may be repeated (default: fits, and npy in a webdataset). {BANDS_FORMAT}: one FITS "
    "file per band.",
)
@click.option(
    "--size",
    metavar="SIZE",
    help="Pixels or an angle, for rows without XSIZE and YSIZE: 64, 0.5arcmin (default: the archive's own size).",
)
@bands_option
@click.option("--prefix", default="", metavar="TEXT", help="Start of every file name.")
@click.option("--pack", type=click.Choice(PACK_NAMES), help="Pack about 1000 cutouts into each file.")
@click.option(
    "--id-column",
    metavar="NAME",
    help="Column of LIST with object IDs (default: COADD_OBJECT_ID, OBJECT_ID, ID or the like).",
)
@click.option(
    "--ra-column",
    metavar="NAME",
    help="Column of LIST with RA, in deg if it has no unit (default: RA, ALPHAWIN_J2000 or the like).",
)
@click.option(
    "--dec-column",
    metavar="NAME",
    help="Column of LIST with Dec, in deg if it has no unit (default: DEC, DELTAWIN_J2000 or the like).",
)
@workers_option(1, "Maximum worker processes (default: 1).")
@picture_options
@log_options
@as_json
def export_command(
    archive: Path,
    requests: Path,
    output: Path,
    id_column: str | None,
    ra_column: str | None,
    dec_column: str | None,
    as_json: bool,
    verbosity: Verbosity,
    **options: Any,
) -> None:
    """Write the cutouts of all rows of LIST: object IDs or positions in a CSV, Parquet, FITS, VOTable or other table.

    LIST may be - for standard input. OUTPUT/manifest.csv has the result of every row of LIST, and the other columns of
    LIST. Run the same command again to continue an export.
    Positions need an archive with the layout mosaic.
    """
    from archive_builder.exporting.export import export
    from archive_builder.exporting.request_list import ColumnNames
    from archive_builder.serve.style import Style

    style = Style(**{name: options.pop(name) for name in Style.__dataclass_fields__})
    after_interrupt(CONTINUES)
    with Meter(sys.stderr, "row", pause=10.0, verbosity=verbosity) as meter:
        report = export(
            archive,
            requests,
            output,
            **options,
            style=style,
            columns=ColumnNames(id_column, ra_column, dec_column),
            on_start=meter.start,
            on_rows=lambda rows: _rows_done(meter, rows),
        )
    log.info(
        "%s",
        _summary(report),
        extra={"rows": report.rows, "done": report.done, "made": report.made, "kept": report.kept},
    )
    click.echo(json.dumps(asdict(report)) if as_json else _summary(report))
    if report.failures:
        counts = ", ".join(f"{n} {reason}" for reason, n in report.failures.items())
        first = f" (first error: {report.first_error})" if report.first_error else ""
        missing = f"{report.rows - report.done} of {report.rows} rows have no cutout"
        text = f"{missing}: {counts}: see {output}/manifest.csv{first}"
        log.error("%s", text)
        click.echo(f"error: {text}", err=True)
        sys.exit(FAILED)


def _rows_done(meter: Meter, rows: int) -> None:
    """Show and log that more rows are done."""
    log.info("%d rows done", rows, extra={"rows": rows, "seconds": round(meter.seconds, 3)})
    meter.advance(rows, "rows", meter.speed(rows))


def _summary(report: ExportReport) -> str:
    """Return the result of an export in words."""
    return (
        f"{report.directory}: {report.done} of {report.rows} rows served; {report.made} files made, {report.kept} kept"
    )
