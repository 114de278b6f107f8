"""The runbook's table of error lines agrees with the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TABLE = re.compile(r"^## Error lines and their remedies\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def quoted_lines() -> list[str]:
    """Return the error lines that the runbook quotes; ``...`` stands for any text."""
    table = TABLE.search((ROOT / "ops/runbook.md").read_text(encoding="utf-8"))
    assert table is not None
    firsts = [row.split("|")[1] for row in table[1].splitlines() if row.startswith("| `")]
    return [line for first in firsts for line in re.findall(r"`([^`]+)`", first)]


def messages() -> list[str]:
    """Return every text of the package except docstrings, with ``...`` for inserted values."""
    found = []
    for path in sorted((ROOT / "archive_builder").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if id(node) in docstrings:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


MESSAGES = messages()


def test_lines_and_messages_are_found() -> None:
    assert len(quoted_lines()) > 30
    assert len(MESSAGES) > 1000


@pytest.mark.parametrize("line", quoted_lines())
def test_every_error_line_of_the_runbook_is_in_the_code(line: str) -> None:
    pieces = [piece.strip() for piece in line.split("...")]
    pattern = re.compile(".*".join(re.escape(piece) for piece in pieces if piece), re.DOTALL)
    assert any(pattern.search(message) for message in MESSAGES)
