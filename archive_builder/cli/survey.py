"""The commands about a survey: ``demo`` and ``plan``."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_builder import units
from archive_builder.choices import PLAN_SEED, PLAN_TILES, PLAN_WORKERS
from archive_builder.cli.logs import Verbosity
from archive_builder.cli.options import (
    a_path,
    after_interrupt,
    as_json,
    example,
    exit_after_failures,
    log_options,
    plot_option,
)
from archive_builder.cli.progress import Meter
from archive_builder.errors import RequestError, printable

if TYPE_CHECKING:
    from archive_builder.builder.one_tile import TileResult
    from archive_builder.forecast.sample import TileSample
    from archive_builder.survey.discovery import Discovery, TileFiles
    from archive_builder.survey.recipe import StorageSection

log = logging.getLogger(__name__)


@click.command(
    "demo",
    short_help="Make a synthetic survey to try the commands on.",
    epilog=example("archive-builder demo survey --tiles 4", "archive-builder demo survey --layout euclid"),
)
@click.argument("directory", type=a_path)
@click.option(
    "--layout",
    metavar="NAME",
    help="Write the files as this survey does, with the recipe that ships for it; archive-builder recipes lists the "
    "names (default: as DES, with the demo's own recipe).",
)
@click.option("--tiles", metavar="N", type=int, help="Number of tiles (default: 4; with --layout 1, at most 2).")
@click.option("--tile-size", metavar="PX", type=int, help="Side of a tile, pixels (default: 1000; with --layout 256).")
@click.option("--objects", metavar="N", type=int, help="Catalogued objects per tile (default: 400; with --layout 40).")
@click.option(
    "--seed", metavar="N", default=1, show_default=True, help="Random seed; the same seed makes the same survey."
)
def demo_command(directory: Path, layout: str | None, **options: Any) -> None:
    """Make a synthetic survey in DES's file layout, or another survey's, with its recipe DIRECTORY/survey.toml."""
    from archive_builder.survey.demo import make_survey
    from archive_builder.survey.demo.layouts import make_layout

    after_interrupt(f"{directory} is incomplete: remove it and run the command again")
    given = {name: value for name, value in options.items() if value is not None}
    try:
        recipe = make_survey(directory, **given) if layout is None else make_layout(directory, layout, **given)
    except (ValueError, OSError) as error:
        raise RequestError(str(error)) from None
    tiles = given.get("tiles", 4 if layout is None else 1)
    made = "1 tile" if tiles == 1 else f"{tiles} tiles"
    click.echo(f"{made} made: build their archive with: archive-builder build {recipe} ARCHIVE")


@click.command(
    "plan",
    short_help="Forecast size and time of an archive.",
    epilog=example("archive-builder plan survey.toml", "archive-builder plan survey.toml --sample 20 --plot plan.pdf"),
)
@click.argument("recipe", type=a_path)
@click.option(
    "--sample", metavar="N", default=PLAN_TILES, show_default=True, type=click.IntRange(1), help="Tiles to sample."
)
@click.option(
    "--seed",
    metavar="N",
    default=PLAN_SEED,
    show_default=True,
    type=click.IntRange(0),
    help="Random seed of the sample; another seed samples other tiles.",
)
@click.option(
    "--tile", "tiles", multiple=True, metavar="NAME", help="Sample this tile instead of random ones; may be repeated."
)
@click.option(
    "--workers",
    metavar="N",
    multiple=True,
    default=PLAN_WORKERS,
    show_default=True,
    type=click.IntRange(1),
    help="Forecast the wall time for this number of workers; may be repeated.",
)
@click.option(
    "--work",
    type=a_path,
    metavar="DIR",
    help="Folder for temporary files (default: the system's). It needs room for one shard of the largest alternative, "
    "usually stamps: about 9 GB for 40,000 cutouts of 228 px in five bands.",
)
@plot_option("the forecast")
@log_options
@as_json
def plan_command(recipe: Path, plot: Path | None, as_json: bool, verbosity: Verbosity, **options: Any) -> None:
    """Forecast the archive of RECIPE before it is built: objects, bytes, hours, and the noise of the tiles.

    The command builds a sample of the tiles in a temporary folder and scales the result to the whole survey.
    """
    from archive_builder.cli.plan_text import plan_text
    from archive_builder.forecast.plan import plan

    if plot is not None:
        from archive_builder.cli.figures import check_plot

        check_plot(plot)
    with Meter(sys.stderr, "tile", verbosity=verbosity) as meter:
        news = _News(meter)
        forecast = plan(
            recipe,
            **options,
            on_start=news.start,
            on_tile=news.tile,
            on_reference=news.reference,
            on_alternative=news.alternative,
        )
    if plot is not None:
        from archive_builder.cli.plan_plot import plot_plan
        from archive_builder.survey.recipe import load_recipe

        plot_plan(forecast, load_recipe(recipe), plot)
    click.echo(json.dumps(asdict(forecast)) if as_json else plan_text(forecast))
    exit_after_failures(forecast.failed)


class _News:
    """Shows and logs the progress of a sample."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._done = meter, 0

    def start(self, found: Discovery, chosen: Sequence[TileFiles]) -> None:
        """Show the size of the sample."""
        text = f"building a sample of {len(chosen)} of {len(found.tiles)} tiles"
        log.info("%s", text, extra={"tiles": len(chosen)})
        self._meter.say(text)
        self._meter.start(len(chosen))

    def tile(self, sample: TileSample) -> None:
        """Show the cost of a sampled tile."""
        self._advance(f"tile {sample.result.tile}", sample.result, logging.ERROR)

    def reference(self, sample: TileSample, storages: Sequence[StorageSection]) -> None:
        """Show which tile is built in every layout and quantization."""
        text = f"building tile {sample.result.tile} in {len(storages)} layouts and quantizations"
        log.info("%s", text, extra={"tile": sample.result.tile})
        self._meter.say(text)
        self._meter.start(len(storages), "build")
        self._done = 0

    def alternative(self, storage: StorageSection, result: TileResult) -> None:
        """Show the cost of one layout and quantization. One that cannot be built is left out of the forecast."""
        self._advance(f"{storage.layout}, {storage.quantization}", result, logging.INFO)

    def _advance(self, name: str, result: TileResult, failure: int) -> None:
        """Show one build, and log it; a failure at the level given."""
        self._done += 1
        if result.error is not None:
            news = f"{name}: failed: {result.error}"
            log.log(failure, "%s", news, extra={"tile": result.tile})
        else:
            news = f"{name}: {units.size(result.bytes)} in {units.duration(result.seconds)}"
            cost = {"stored": result.stored, "bytes": result.bytes, "seconds": round(result.seconds, 3)}
            log.info("%s", news, extra={"tile": result.tile, **cost})
        rate = f"{self._meter.seconds / self._done:.1f} s each"
        self._meter.advance(1, printable(news), rate, urgent=result.error is not None and failure == logging.ERROR)
