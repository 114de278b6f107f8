"""The command ``get``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from archive_builder.choices import FILE_FORMATS
from archive_builder.cli.options import (
    NegativeNumbers,
    a_path,
    as_json,
    bands_option,
    example,
    picture_options,
    size_option,
)


@click.command(
    "get",
    cls=NegativeNumbers,
    short_help="Write the cutout of one object to a file.",
    epilog=example(
        "archive-builder get archive 353099273 -o cutout.fits",
        "archive-builder get archive 353099273 --size 0.5arcmin --rgb irg -o cutout.png",
    ),
)
@click.argument("archive", type=a_path)
@click.argument("object_id")
@size_option
@bands_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=a_path,
    help=f"File to write; its ending is the format: .{', .'.join(FILE_FORMATS)}.",
)
@picture_options
@as_json
def get_command(
    archive: Path, object_id: str, size: str | None, bands: str | None, output: Path, as_json: bool, **style: Any
) -> None:
    """Write the cutout of OBJECT_ID from ARCHIVE to a file.

    Any size up to the archived one can be served; an archive with the layout mosaic can serve larger ones too. A
    picture has north up and east left, to the nearest quarter turn.
    """
    from archive_builder.serve.archive import Archive

    with Archive(archive) as opened:
        cutout = opened.get(object_id, size=size, bands=bands)
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
    text = f"{output}: object {cutout.object_id} of tile {cutout.tile}, {nx} x {ny} px in {', '.join(cutout.bands)}"
    click.echo(json.dumps(answer) if as_json else text)
