"""Public names of `archive_builder`: quick to import, and correct after any other imports."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import archive_builder
from archive_builder import training

REPOSITORY = Path(__file__).parents[1]

HEAVY = ("astropy.io", "h5py", "matplotlib", "multiprocess", "PIL", "pyarrow", "pydantic", "sep", "torch", "tqdm")

EXTRAS = {
    "archive_builder.run.mpi_engine": "mpi4py",
    "archive_builder.run.parsl_engine": "parsl",
    "archive_builder.training.torch": "PyTorch",
}
"""Modules that need an extra, and the extra's name in the error."""

USE_ALL = """
import importlib, json, pkgutil, sys
from pathlib import Path

import archive_builder

EXTRAS = json.loads(sys.argv[3])


def import_everything():
    imported, absent = [], {}
    for module in pkgutil.walk_packages(archive_builder.__path__, "archive_builder."):
        try:
            importlib.import_module(module.name)
            imported.append(module.name)
        except ImportError as error:
            if module.name not in EXTRAS:
                raise
            absent[module.name] = str(error)
    return imported, absent


def main():
    imported, absent = import_everything()
    survey, folder = Path(sys.argv[1]), Path(sys.argv[2])
    recipe, archive = survey / "survey.toml", folder / "archive"
    built = archive_builder.build(recipe, archive)
    forecast = archive_builder.plan(recipe, sample=1)
    with archive_builder.Archive(archive) as opened:
        ids = next(opened.batches(size=8)).object_id.tolist()
        cutout = opened.get(ids[0], size=16)
    assert isinstance(cutout, archive_builder.Cutout)
    (folder / "list.csv").write_text("\\n".join(["ID", *map(str, ids)]))
    style = archive_builder.Style(color="lupton")
    made = archive_builder.export(archive, folder / "list.csv", folder / "out", formats=["png"], style=style)
    indexed = archive_builder.reindex(archive)
    findings = list(archive_builder.verify(archive, deep=True))
    print(json.dumps({
        "imported": imported, "absent": absent, "built": built.built, "stored": built.stored,
        "tiles": forecast.tiles, "sampled": len(forecast.sampled), "asked": len(ids), "done": made.done,
        "indexed": indexed.tiles, "findings": len(findings),
    }))


if __name__ == "__main__":
    main()
"""


def python(*arguments: object, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_public_functions_work_after_every_module_is_imported(demo_survey: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(USE_ALL)
    answer = json.loads(python(script, demo_survey, tmp_path, json.dumps(EXTRAS)))

    folder = Path(archive_builder.__file__).parent
    files = [path for path in folder.rglob("*.py") if path != folder / "__init__.py"]
    assert len(answer["imported"]) + len(answer["absent"]) == len(files) > 60
    assert all(EXTRAS[module] in error for module, error in answer["absent"].items())

    assert (answer["built"], answer["indexed"], answer["findings"]) == (2, 2, 0)
    assert (answer["tiles"], answer["sampled"]) == (2, 1)
    assert answer["asked"] == answer["done"] == answer["stored"] > 50


WRONG_NUMBERS = [
    ("build", {"retries": -1}),
    ("build", {"workers": 0}),
    ("build", {"workers": "2"}),
    ("build", {"memory": "2GB"}),
    ("build", {"memory": -1}),
    ("plan", {"sample": 0}),
    ("plan", {"seed": -1}),
    ("plan", {"workers": (4, 0)}),
    ("verify", {"workers": 0}),
    ("reindex", {"workers": -1}),
    ("export", {"workers": 0}),
    ("export", {"workers": True}),
    ("Archive", {"open_shards": 0}),
]
"""A public function, and a number that it refuses."""


@pytest.mark.parametrize(("name", "wrong"), WRONG_NUMBERS)
def test_a_wrong_number_is_refused_before_anything_is_written(
    demo_survey: Path, demo_archive: Path, tmp_path: Path, name: str, wrong: dict[str, object]
) -> None:
    recipe, listed = demo_survey / "survey.toml", tmp_path / "list.csv"
    with archive_builder.Archive(demo_archive) as opened:
        listed.write_text(f"ID\n{opened.ids()[0]}\n")
    arguments = {
        "build": (recipe, tmp_path / "new"),
        "plan": (recipe,),
        "verify": (demo_archive,),
        "reindex": (demo_archive,),
        "export": (demo_archive, listed, tmp_path / "new"),
        "Archive": (demo_archive,),
    }[name]
    before = (demo_archive / "index.sqlite").stat()
    words = rf"^{next(iter(wrong))} is .*: give a whole number, [01] or more$"
    with pytest.raises(archive_builder.RequestError, match=words):
        list(getattr(archive_builder, name)(*arguments, **wrong))  # verify works when its findings are read
    assert not (tmp_path / "new").exists()
    assert (demo_archive / "index.sqlite").stat().st_mtime_ns == before.st_mtime_ns


def test_one_name_needs_no_list(demo_survey: Path, tmp_path: Path) -> None:
    recipe, archive, listed = demo_survey / "survey.toml", tmp_path / "archive", tmp_path / "list.csv"
    first = sorted(path.name for path in demo_survey.iterdir() if path.is_dir())[0]
    assert archive_builder.build(recipe, archive, tiles=first).built == 1
    assert [sample.tile for sample in archive_builder.plan(recipe, tiles=first).sampled] == [first]
    with archive_builder.Archive(archive) as opened:
        listed.write_text(f"ID\n{opened.ids()[0]}\n")
    assert archive_builder.export(archive, listed, tmp_path / "out", formats="png", bands="gri").made == 1
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1


def test_every_public_name_exists_and_has_its_own_name() -> None:
    assert archive_builder.__all__ == sorted(archive_builder.__all__)
    assert dir(archive_builder) == archive_builder.__all__
    for name in archive_builder.__all__:
        value = getattr(archive_builder, name)
        assert name == "__version__" or value.__name__ == name
    assert len(archive_builder.__all__) > 20


def test_type_checkers_see_the_same_names_as_python() -> None:
    tree = ast.parse(Path(archive_builder.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    places = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert {*places, "__version__"} == set(archive_builder.__all__)
    for name, module in places.items():
        assert getattr(archive_builder, name).__module__ == module


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'archive_builder' has no attribute 'cutouts'$"):
        archive_builder.cutouts  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'cutouts'"):
        from archive_builder import cutouts  # type: ignore[attr-defined]  # noqa: F401


def test_version_is_the_installed_one() -> None:
    shown = python("-m", "archive_builder", "--version")
    assert archive_builder.__version__ in shown


@pytest.mark.parametrize(
    "program",
    [
        "import archive_builder",
        "import archive_builder; dir(archive_builder); from archive_builder import ArchiveError, Style, __version__",
        "import archive_builder.training",
        "from archive_builder.cli.main import main; main(['--help'], standalone_mode=False)",
        "from archive_builder.cli.main import main; main(['build', '--help'], standalone_mode=False)",
        "from archive_builder.cli.main import main; main(['export', '--help'], standalone_mode=False)",
    ],
)
def test_heavy_modules_are_imported_when_used(program: str) -> None:
    *_, last = python("-c", f"import sys\n{program}\nprint(sorted(sys.modules))").splitlines()
    modules = ast.literal_eval(last)
    assert "archive_builder" in modules
    assert [name for name in HEAVY if name in modules] == []


def test_light_names_do_not_import_numpy() -> None:
    *_, last = python("-c", "import sys, archive_builder; print('numpy' in sys.modules)").splitlines()
    assert last == "False"


def test_python_started_in_the_checkout_reads_the_schema() -> None:
    program = (
        "import archive_builder, archive_builder.store.index, archive_builder.store.format as format\n"
        "print(archive_builder.__file__)\n"
        "print(format.shard_format()['format_version'])\n"
        "print('CREATE TABLE' in format.schema_text('index.sql'))\n"
    )
    file, version, schema = python("-c", program, cwd=REPOSITORY).splitlines()
    assert Path(file) == REPOSITORY / "archive_builder/__init__.py"
    assert version == str(json.loads((REPOSITORY / "schema/shard.json").read_text())["format_version"])
    assert schema == "True"


def test_training_offers_its_data_sets_or_explains_how_to_install_pytorch() -> None:
    assert {"CutoutDataset", "CutoutStream"} <= set(dir(training))
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        for name in ("CutoutDataset", "CutoutStream"):
            with pytest.raises(ImportError, match=r"needs PyTorch: pip install '\.\[torch\]'$"):
                getattr(training, name)
    else:
        from archive_builder.training import CutoutDataset, CutoutStream
        from archive_builder.training.torch import CutoutDataset as Dataset

        assert CutoutDataset is Dataset
        assert CutoutStream.__module__ == "archive_builder.training.torch"
    with pytest.raises(AttributeError):
        training.nothing  # type: ignore[attr-defined]  # noqa: B018
