"""Structure of the package: imports follow the layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "archive_builder"

LAYERS = (
    ("errors", "choices"),
    ("atomic", "bands", "frames", "object_ids", "units"),
    ("geometry",),
    ("survey",),
    ("measure",),
    ("store",),
    ("run",),
    ("builder",),
    ("maintain",),
    ("forecast",),
    ("serve",),
    ("exporting", "training"),
    ("cli",),
)
"""Folders and modules of the package by layer. A module imports only from its own row and from earlier rows."""

STRANGERS = ({"builder", "maintain", "forecast"}, {"serve", "exporting", "training"})
"""Two groups that do not import each other: they share the archive on disk."""


def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package, by module name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, including imports inside functions and for types."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "archive_builder":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "archive_builder")


def room(name: str) -> str:
    """Return the folder or top-level module that a module belongs to; empty for the package itself."""
    return [*name.split("."), ""][1]


def test_modules_are_found() -> None:
    assert len(MODULES) > 80
    assert sum(len(list(imports(name))) for name in MODULES) > 300


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_its_own_layer_and_from_lower_ones(name: str) -> None:
    if room(name) in ("", "__main__"):  # the public interface and the command may import everything
        return
    rank = {member: number for number, row in enumerate(LAYERS) for member in row}
    assert room(name) in rank, f"{name} is in no layer"
    for imported in imports(name):
        is_own = room(imported) == room(name)
        assert is_own or rank[room(imported)] < rank[room(name)], f"{name} imports {imported}"


def test_building_and_serving_do_not_import_each_other() -> None:
    wrong = [
        (name, imported)
        for name in MODULES
        for imported in imports(name)
        for one, other in (STRANGERS, STRANGERS[::-1])
        if room(name) in one and room(imported) in other
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {m for m in imports(name) if m != name} for name in MODULES if room(name) != ""}
    while leaves := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert sorted(graph) == []


def test_no_top_level_name_equals_a_public_function_or_an_output_folder() -> None:
    taken = {"build", "plan", "export", "verify", "reindex", "dist", "env"}
    names = {path.stem for path in PACKAGE.iterdir()}
    assert "builder" in names
    assert names & taken == set()
