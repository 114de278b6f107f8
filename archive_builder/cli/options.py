"""Options and exits that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias, get_args

import click

from archive_builder.cli.logs import Verbosity, logs
from archive_builder.errors import printable
from archive_builder.serve.style import MINIMUM, SOFTENING, USUAL_STYLE, Color, Compression, Rotate

Command: TypeAlias = Callable[..., None]

FAILED = 1
"""Exit status: some of it failed."""

WRONG_REQUEST = 2
"""Exit status: the request itself is wrong."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it: 128 and the number of the signal."""

NOTHING_CHANGED = "nothing was changed"
CONTINUES = "run the same command again to continue from here"
"""The state that Ctrl-C leaves, in words."""

INTERRUPT_KEY = "archive_builder.interrupt"
"""Key of this text in click's context."""

NEGATIVE = re.compile(r"-\.?[0-9]")
"""Start of a negative number."""

OPTION = re.compile(r"-.")
"""Start of an option; a single minus is standard input."""

a_path = click.Path(path_type=Path)
"""A file or folder, given to the command as `Path`."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


class NegativeNumbers(click.Command):
    """A command with arguments that may be negative numbers: ``-1003`` is a value, ``--sizee`` an unknown option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; an argument of a minus and a digit is no option."""
        if "--" not in args:  # after which click takes every argument as it is
            ctx.ignore_unknown_options = True
            values, rest, _ = self.make_parser(ctx).parse_args(list(args))
            given = [values.get(str(p.name)) for p in self.params if isinstance(p, click.Argument)]
            unknown = [a for a in (*given, *rest) if isinstance(a, str) and OPTION.match(a) and not NEGATIVE.match(a)]
            if unknown:
                ctx.ignore_unknown_options = False
                return super().parse_args(ctx, unknown[:1])  # raises click's own error with the nearest option
        return super().parse_args(ctx, args)


size_option = click.option(
    "--size", metavar="SIZE", help="Pixels or an angle: 64, 0.5arcmin (default: the archive's own size)."
)

bands_option = click.option(
    "--bands", metavar="BANDS", help="Bands in this order: gri, or F814W,F606W (default: all bands)."
)


def workers_option(default: Any, help_text: str) -> Callable[[Command], Command]:
    """Return the option ``--workers``."""
    return click.option("--workers", metavar="N", default=default, type=click.IntRange(1, 1024), help=help_text)


def cpu_workers() -> Callable[[Command], Command]:
    """Return the option ``--workers`` of commands whose workers need little memory."""
    return workers_option(None, "Maximum worker processes (default: one per CPU).")


def plot_option(subject: str) -> Callable[[Command], Command]:
    """Return the option that draws a picture too."""
    text = f"Draw {subject} into FILE.png, .pdf or .svg. Needs matplotlib: pip install '.[plot]'."
    return click.option("--plot", type=a_path, metavar="FILE", help=text)


class NumberOrAuto(click.ParamType):  # type: ignore[type-arg]
    """A number, or the word ``auto``."""

    name = "number or auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Return the number or the word."""
        try:
            return "auto" if value == "auto" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither auto nor a number", param, ctx)


def _choice_option(field: str, kind: Any, text: str) -> Callable[[Command], Command]:
    """Return the option for a name of `Style`."""
    default, choices = getattr(USUAL_STYLE, field), click.Choice(get_args(kind))
    return click.option(f"--{field}", type=choices, default=default, show_default=True, help=text)


_PICTURE_OPTIONS = (
    _choice_option(
        "color",
        Color,
        "Colours of a PNG, JPEG or TIFF: the survey's own picture, Lupton's composite of the bands, or the first of "
        "these that is available.",
    ),
    click.option(
        "--rgb",
        metavar="BANDS",
        help="Bands of the composite, red first: irg, or F160W,F814W,F606W; two for red and blue, one for grey.",
    ),
    click.option(
        "--stretch",
        type=NumberOrAuto(),
        metavar="X",
        default=USUAL_STYLE.stretch,
        show_default=True,
        help="auto: by the sky and noise of each band. A number: linear stretch of the composite, in flux at zero "
        "point 30.",
    ),
    click.option(
        "--softening",
        type=float,
        metavar="X",
        help=f"Softening Q of the composite; a larger Q is more logarithmic (default: {SOFTENING:g}, or by the "
        "brightness with --stretch auto).",
    ),
    click.option(
        "--minimum",
        type=float,
        metavar="X",
        help=f"Flux mapped to black, in flux at zero point 30 (default: {MINIMUM:g}, or below the sky with --stretch "
        "auto).",
    ),
    _choice_option(
        "rotate",
        Rotate,
        "North up by the nearest quarter turn and flip, or exactly by resampling; corners outside the cutout are then "
        "black.",
    ),
    click.option("--compass", is_flag=True, help="Draw arrows to the north and the east in a picture."),
    _choice_option("compression", Compression, "Compression of a TIFF."),
)
"""Options for the look of a picture; they are the fields of `Style`."""


def picture_options(command: Command) -> Command:
    """Add the options for the look of a picture."""
    for option in reversed(_PICTURE_OPTIONS):  # as decorators would be applied
        command = option(command)
    return command


def log_options(command: Command) -> Command:
    """Add ``-q``, ``-v`` and ``--log-json``; the command gets its `Verbosity` as ``verbosity``."""

    @click.option("-q", "--quiet", is_flag=True, help="Show errors and the result only.")
    @click.option("-v", "--verbose", is_flag=True, help="Show a message for each step.")
    @click.option("--log-json", type=a_path, metavar="FILE", help="Append messages to FILE, one JSON object a line.")
    @wraps(command)
    def logged(*, quiet: bool, verbose: bool, log_json: Path | None, **options: Any) -> None:
        if quiet and verbose:
            raise click.UsageError("give -q or -v, not both")
        verbosity = Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.USUAL
        with logs(verbosity, log_json):
            command(verbosity=verbosity, **options)

    return logged


def example(*lines: str) -> str:
    """Return the end of a help page, with command lines that a reader can try."""
    return "\b\n" + "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def after_interrupt(text: str) -> None:
    """Set the text that the command prints after Ctrl-C from here on."""
    click.get_current_context().meta[INTERRUPT_KEY] = text


def exit_after_failures(failures: Mapping[str, str]) -> None:
    """Print an error line for each failed tile, and end the command with the exit status 1 if there is any."""
    for tile, reason in failures.items():
        click.echo(printable(f"error: tile {tile}: {reason}"), err=True)
    if failures:
        sys.exit(FAILED)
