"""The Bitshuffle filter, whatever ``HDF5_PLUGIN_PATH`` holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hdf5plugin
import numpy as np
import pytest

from archive_builder import Archive
from archive_builder.survey.demo import make_survey

PLUGIN = Path(hdf5plugin.PLUGINS_PATH, "libh5bshuf.so")

pytestmark = pytest.mark.skipif(not PLUGIN.is_file(), reason="the plugins have other names on this system")

COMMAND = (sys.executable, "-c", "from archive_builder.cli.main import main; main()")


def in_folder(content: Callable[[], bytes]) -> Callable[[Path], str]:
    """Return a function that makes a folder with a library of this content under the filter's name."""

    def make(folder: Path) -> str:
        (folder / PLUGIN.name).write_bytes(content())
        return str(folder)

    return make


PATHS: dict[str, Callable[[Path], str]] = {
    "hdf5plugin": lambda _: hdf5plugin.PLUGINS_PATH,
    "empty": lambda _: "",
    "no folder": lambda folder: str(folder / "missing"),
    "file": lambda _: str(PLUGIN),
    "text": in_folder(lambda: b"not a library"),
    "nothing in the library": in_folder(lambda: b""),
    "library cut off": in_folder(lambda: PLUGIN.read_bytes()[:20000]),
    "another filter": in_folder(lambda: PLUGIN.with_name("libh5lz4.so").read_bytes()),
    "several": lambda folder: f"{folder}::{hdf5plugin.PLUGINS_PATH}",
}


ROUND_TRIP = """
import sys
import h5py
import numpy as np
from archive_builder.store.bitshuffle import bitshuffle
values = np.arange(10000)
with h5py.File(sys.argv[1], "w") as file:
    file.create_dataset("values", data=values, chunks=(1000,), **bitshuffle())
with h5py.File(sys.argv[1]) as file:
    np.testing.assert_array_equal(file["values"], values)
"""


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_filter_writes_and_reads(path: Callable[[Path], str], tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    environment = {**os.environ, "HDF5_PLUGIN_PATH": path(tmp_path / "plugins")}
    program = [sys.executable, "-c", ROUND_TRIP, tmp_path / "values.h5"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", ["hdf5plugin", "library cut off"])
def test_a_build_with_a_worker_and_a_lookup_work(path: str, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    recipe = make_survey(tmp_path / "survey", tiles=1, tile_size=256, objects=5, seed=2)
    text = re.sub(r"(?m)^(color|max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    recipe.write_text(re.sub(r"(?m)^size = .*$", "size = 32", re.sub(r"(?m)^bands = .*$", 'bands = ["r"]', text)))
    environment = {**os.environ, "HDF5_PLUGIN_PATH": PATHS[path](tmp_path / "plugins")}
    command = [*COMMAND, "build", recipe, tmp_path / "archive", "--workers", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Archive(tmp_path / "archive") as archive:
        object_id = int(archive.ids()[0])
        expected = archive.get(object_id).data
    command = [*COMMAND, "get", tmp_path / "archive", str(object_id), "-o", tmp_path / "one.npy"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), expected)


IN_USE = """
import os, sys
import h5py
import numpy as np
with h5py.File(sys.argv[1]) as file:
    dataset = file["pixels"]
    dataset[:, :1, :1]  # HDF5 loads the plugin, which cannot write
    import archive_builder.store.bitshuffle as bitshuffle
    try:
        bitshuffle.bitshuffle()
    except bitshuffle.ArchiveError as error:
        print(error)
    del dataset
bitshuffle.bitshuffle()
from h5py import h5pl
print(os.environ["HDF5_PLUGIN_PATH"] == sys.argv[2], h5pl.get(0).decode() == sys.argv[2])
"""


def test_a_filter_in_use_is_replaced_when_it_is_free_and_the_environment_stays(demo_archive: Path) -> None:
    shard, plugins = next((demo_archive / "shards").iterdir()), hdf5plugin.PLUGINS_PATH
    environment = {**os.environ, "HDF5_PLUGIN_PATH": plugins}
    done = subprocess.run(
        [sys.executable, "-c", IN_USE, shard, plugins], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    refusal, restored = done.stdout.splitlines()
    assert refusal.startswith("filter Bitshuffle: a plugin from HDF5_PLUGIN_PATH is in use by an open dataset")
    assert restored == "True True"
