"""Files of a pack: each is complete or missing, even on a full disk."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from archive_builder import Archive, RequestError
from archive_builder.exporting.names import Sample
from archive_builder.exporting.packs import PACKS
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.style import Style

FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
from archive_builder import Archive, ArchiveBuilderError
from archive_builder.exporting.names import Sample
from archive_builder.exporting.packs import PACKS
from archive_builder.serve.style import Style

archive, object_id, path, pack, limit = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Archive(archive) as opened:
    cutout = opened.get(int(object_id), size=40, bands="gi")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    with PACKS[pack](Path(path), ["npy"], Style()) as piece:
        for _ in range(3):
            piece.add(Sample(int(object_id), None, (40, 40), True, [0], 0), cutout)
except ArchiveBuilderError as error:
    print(error, flush=True)
os._exit(0)  # HDF5 cannot close its file, and may crash at the end of the process
"""
"""Program that writes a pack file under a limit on file sizes, as on a full disk."""


@pytest.fixture
def cutout(demo_archive: Path) -> Cutout:
    with closing(sqlite3.connect(demo_archive / "index.sqlite")) as index:
        (object_id,) = index.execute("SELECT min(object_id) FROM objects WHERE status = 0").fetchone()
    with Archive(demo_archive) as archive:
        return archive.get(object_id, size=40, bands="gi")


def sample_of(cutout: Cutout) -> Sample:
    return Sample(cutout.object_id or 0, None, (40, 40), True, [0], 0)


@pytest.mark.parametrize("pack", ["hdf5", "webdataset"])
@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_a_full_disk_is_an_error_on_one_line_and_leaves_the_old_piece(
    demo_archive: Path, cutout: Cutout, tmp_path: Path, pack: str, limit: int
) -> None:
    path = tmp_path / f"00000{PACKS[pack].suffix}"
    path.write_bytes(b"of an earlier run")
    arguments = [str(demo_archive), str(cutout.object_id), str(path), pack, str(limit)]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=False)
    assert re.fullmatch(rf"{re.escape(str(path))}: cannot be written: .+\n", done.stdout), done.stderr
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"of an earlier run"


@pytest.mark.parametrize("pack", ["hdf5", "webdataset"])
def test_a_failed_block_leaves_no_new_piece(cutout: Cutout, tmp_path: Path, pack: str) -> None:
    path = tmp_path / f"00000{PACKS[pack].suffix}"
    with pytest.raises(KeyboardInterrupt), PACKS[pack](path, ["npy"], Style()) as piece:  # noqa: PT012
        piece.add(sample_of(cutout), cutout)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("pack", ["hdf5", "webdataset"])
def test_a_piece_without_cutouts_removes_the_older_piece(tmp_path: Path, pack: str) -> None:
    path = tmp_path / f"00000{PACKS[pack].suffix}"
    path.write_bytes(b"of an earlier run")
    with PACKS[pack](path, ["npy"], Style()):
        pass
    assert os.listdir(tmp_path) == []


def test_a_webdataset_without_drawable_pictures_has_no_file(cutout: Cutout, tmp_path: Path) -> None:
    with (
        PACKS["webdataset"](tmp_path / "00000.tar", ["png"], Style(rgb="gigi")) as piece,
        pytest.raises(RequestError, match="one, two or three bands"),
    ):
        piece.add(sample_of(cutout), cutout)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("pack", ["hdf5", "webdataset"])
def test_a_piece_holds_exactly_its_samples(cutout: Cutout, tmp_path: Path, pack: str) -> None:
    path, sample = tmp_path / f"00000{PACKS[pack].suffix}", sample_of(cutout)
    assert not PACKS[pack].holds(path, [sample])
    with PACKS[pack](path, ["npy"], Style()) as piece:
        piece.add(sample, cutout)
    assert PACKS[pack].holds(path, [sample])
    assert not PACKS[pack].holds(path, [sample, sample])
    path.write_bytes(path.read_bytes()[:100])
    assert not PACKS[pack].holds(path, [sample])
