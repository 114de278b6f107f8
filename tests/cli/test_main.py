"""Every command: its help, its errors, its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from archive_builder import errors
from archive_builder.cli import main as cli
from archive_builder.cli.main import main

COMMANDS = sorted(main.commands)


def test_commands_are_the_documented_ones() -> None:
    assert {"build", "demo", "export", "get", "init", "plan", "recipes", "reindex", "status", "verify"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_the_command_with_an_example_and_every_option(command: str) -> None:
    for option in ("-h", "--help"):
        page = CliRunner().invoke(main, [command, option], terminal_width=80)
        assert page.exit_code == 0
        assert f"archive-builder {command} " in page.stdout.partition("Example")[2]
        assert max(map(len, page.stdout.splitlines())) <= 90
    for parameter in main.commands[command].params:
        if parameter.param_type_name == "option":
            assert parameter.help, parameter.name  # type: ignore[attr-defined]
    whole = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout
    (line,) = [line for line in whole.splitlines() if line.startswith(f"  {command} ")]
    assert line.endswith(".")
    assert not line.endswith("...")


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (errors.RequestError("size 0: give more"), 2, "error: size 0: give more"),
        (errors.RecipeError("recipe a: mistake"), 2, "error: recipe a: mistake"),
        (errors.NoArchiveError("a is no archive"), 2, "error: a is no archive"),
        (
            errors.ObjectNotFoundError(17, "a"),
            1,
            "error: object 17 is not in the archive a: check the ID and the survey",
        ),
        (errors.ArchiveError("shard\nb"), 1, "error: shard\\nb"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was changed"),
    ],
)
def test_error_gives_one_line_and_its_exit_status(
    raised: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(**options: object) -> None:
        raise raised

    monkeypatch.setattr(cli.status_command, "callback", fail)
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"{line}\n")
