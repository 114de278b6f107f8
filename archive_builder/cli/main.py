"""The command line: commands, errors as one line, exit status."""

from __future__ import annotations

from typing import Any

import click

from archive_builder import errors
from archive_builder.cli.building import build_command
from archive_builder.cli.checking import reindex_command, status_command, verify_command
from archive_builder.cli.exports import export_command
from archive_builder.cli.lookup import get_command
from archive_builder.cli.options import FAILED, INTERRUPT_KEY, INTERRUPTED, NOTHING_CHANGED, WRONG_REQUEST, example
from archive_builder.cli.recipes import init_command, recipes_command
from archive_builder.cli.survey import demo_command, plan_command

WRONG_REQUESTS = (errors.RecipeError, errors.RequestError, errors.NoArchiveError)
"""Errors that stay until the user changes the request."""


class Commands(click.Group):
    """Group of commands: every error ends with one line on stderr and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order of their use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Errors of this package end with ``error: ...`` and the status 1 or 2, Ctrl-C with one line and the status 130.
        """
        try:
            return super().invoke(ctx)
        except errors.ArchiveBuilderError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(WRONG_REQUEST if isinstance(error, WRONG_REQUESTS) else FAILED)
        except KeyboardInterrupt:
            click.echo(f"interrupted: {ctx.meta.get(INTERRUPT_KEY, NOTHING_CHANGED)}", err=True)
            ctx.exit(INTERRUPTED)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExit status: 0 all done; 1 some of it failed, see stderr;\n2 the request is wrong; 130 interrupted."
    "\n\n" + example("archive-builder demo survey", "archive-builder build survey/survey.toml archive"),
)
@click.version_option(package_name="archive-builder")
def main() -> None:
    """Build and use the cutout archive of a sky survey.

    An archive holds a cutout of every object in the survey's catalogues, in all bands. A recipe, survey.toml,
    names the survey's files and selects the objects.
    """


for command in (
    demo_command,
    recipes_command,
    init_command,
    plan_command,
    build_command,
    status_command,
    get_command,
    export_command,
    verify_command,
    reindex_command,
):
    main.add_command(command)
