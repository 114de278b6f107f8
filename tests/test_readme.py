"""The README's commands and Python examples run in order, and their output is compared."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block of the README: its language and its text."""

VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME"),
    (r"\d+:\d\d:\d\d", "DURATION"),
    (r"[\d,.]+ (objects/s|rows/s|tiles/h|min|h|s)\b", r"N \1"),
    (r"peak memory [\d,.]+ [kMG]B", "peak memory N"),
)
"""Patterns for the numbers of an output that vary from run to run: speeds, times, memory."""


@dataclass(frozen=True)
class Step:
    """One step of the README."""

    line: int
    """Line of the README."""

    language: str
    """``console``, ``pycon`` or ``python``."""

    text: str
    """A command and its output, or a block of Python examples."""


def steps() -> Iterator[Step]:
    """Yield the commands and the Python examples of the README, in order."""
    text = README.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        language, content = block[1], block[2]
        line = text.count("\n", 0, block.start()) + 2
        if language == "console":
            for command in re.finditer(r"^\$ .*\n(?:(?!\$ ).*\n)*", content, re.MULTILINE):
                yield Step(line + content.count("\n", 0, command.start()), language, command[0])
        elif language in ("pycon", "python"):
            yield Step(line, language, content)


def normalized(output: str) -> str:
    """Replace the numbers that vary."""
    for pattern, name in VARYING:
        output = re.sub(pattern, name, output)
    return output


def pattern_of(expected: str) -> str:
    """Return the regular expression of an expected output: a line ``...`` stands for any lines."""
    lines = [r"(?:.*\n)*?" if line == "..." else f"{re.escape(line)}\n" for line in normalized(expected).splitlines()]
    return "".join(lines)


def run_command(step: Step, folder: Path) -> None:
    command, _, expected = step.text.partition("\n")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command.removeprefix("$ "),
        shell=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == ("error: " in expected), f"README line {step.line}: {command}\n{done.stdout}"
    if not re.fullmatch(pattern_of(expected), normalized(done.stdout)):
        pytest.fail(f"README line {step.line}: {command} prints\n{done.stdout}")


def run_examples(step: Step, names: dict[str, object]) -> int:
    """Run a block of Python examples; return the number of examples."""
    test = doctest.DocTestParser().get_doctest(step.text, names, "README", str(README), step.line - 1)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    report: list[str] = []
    result = runner.run(test, out=report.append, clear_globs=False)
    assert result.failed == 0, "".join(report)
    names.update(test.globs)
    return result.attempted


def run_script(step: Step) -> list[str]:
    """Run a block that needs PyTorch, or without PyTorch compare its calls with the source; return the names called."""
    tree = ast.parse(step.text)
    calls = {ast.unparse(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if find_spec("torch") is not None:
        exec(compile(tree, f"README line {step.line}", "exec"), {})
    source = ast.parse((README.parent / "archive_builder/training/torch.py").read_text(encoding="utf-8"))
    ours = {node.name: node for node in source.body if isinstance(node, ast.ClassDef)}
    imported = next(node for node in tree.body if isinstance(node, ast.ImportFrom) and "training" in str(node.module))
    for name in (alias.name for alias in imported.names):
        (init,) = (node for node in ours[name].body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
        parameters = {argument.arg for argument in (*init.args.args, *init.args.kwonlyargs)}
        assert {keyword.arg for keyword in calls[name].keywords} <= parameters, f"README line {step.line}: {name}"
    return sorted(calls)


def test_commands_and_examples_of_the_readme_print_the_shown_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    commands = examples = 0
    for step in steps():
        if step.language == "console":
            run_command(step, tmp_path)
            commands += 1
        elif step.language == "pycon":
            examples += run_examples(step, names)
        else:
            assert run_script(step) == ["CutoutDataset", "CutoutStream", "DataLoader"]
    assert commands >= 10
    assert examples >= 12
    assert (tmp_path / "galaxy.fits").stat().st_size > 0
    assert (tmp_path / "galaxy.png").stat().st_size > 0


def test_every_file_linked_in_the_readme_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) >= 8
    assert [link for link in links if "://" not in link and not (README.parent / link).is_file()] == []


def test_the_recipe_of_the_readme_is_that_of_the_demo_survey(tmp_path: Path) -> None:
    from archive_builder.survey.demo.survey import make_survey

    recipes = [content for language, content in BLOCK.findall(README.read_text(encoding="utf-8")) if language == "toml"]
    assert recipes == [make_survey(tmp_path, tiles=1, tile_size=600, objects=5).read_text(encoding="utf-8")]
