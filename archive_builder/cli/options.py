"""Options and exits that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias, get_args

import click

from archive_builder.cli.logs import Verbosity, logs
from archive_builder.errors import printable
from archive_builder.serve.style import USUAL_STYLE, Color, Compression

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

a_path = click.Path(path_type=Path)
"""A file or folder, given to the command as `Path`."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")

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


def _number_option(field: str, text: str) -> Callable[[Command], Command]:
    """Return the option for a number of `Style`."""
    default = getattr(USUAL_STYLE, field)
    return click.option(f"--{field}", type=float, metavar="X", default=default, show_default=True, help=text)


_PICTURE_OPTIONS = (
    click.option(
        "--color",
        type=click.Choice(get_args(Color)),
        default=USUAL_STYLE.color,
        show_default=True,
        help="Colours of a PNG or TIFF: the survey's own picture, Lupton's composite of three bands, or the "
        "first of these that is available.",
    ),
    click.option("--rgb", metavar="BANDS", help="Bands of the composite, red first: irg, or F160W,F814W,F606W."),
    _number_option("stretch", "Linear stretch of the composite, in flux at zero point 30."),
    _number_option("softening", "Softening Q of the composite; a larger Q is more logarithmic."),
    _number_option("minimum", "Flux mapped to black, in flux at zero point 30."),
    click.option(
        "--compression",
        type=click.Choice(get_args(Compression)),
        default=USUAL_STYLE.compression,
        show_default=True,
        help="Compression of a TIFF.",
    ),
)
"""Options for the look of a PNG or TIFF; they are the fields of `Style`."""


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
