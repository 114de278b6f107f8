"""Full disks, missing permissions and files that change during a build: one clear error line, no damage."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table

from archive_builder import Archive
from archive_builder.builder.changes import Changes
from archive_builder.builder.driver import BuildReport, build
from archive_builder.errors import ArchiveError
from archive_builder.maintain.verify import verify
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.demo import make_survey

COMMAND = (sys.executable, "-c", "from archive_builder.cli.main import main; main()")
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
"""Command that removes root's exemption from file permissions."""
FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"
PAGE = 4096
"""Page size of a tmpfs and of SQLite, bytes."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of two tiles with catalogues large enough to fill pages of the index. Do not change it."""
    folder = tmp_path_factory.mktemp("made") / "survey"
    recipe = make_survey(folder, tiles=2, tile_size=300, objects=400, seed=6)
    text = re.sub(r"(?m)^(max_background_rms|min_depth) .*\n", "", recipe.read_text())
    text = text.replace('bands = ["g", "r", "i", "z", "Y"]', 'bands = ["r", "i"]')
    recipe.write_text(text.replace('size = "1 arcmin"', "size = 64"))
    return folder


@pytest.fixture
def survey(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "survey"))


@pytest.fixture(scope="module")
def good(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of `made`. Do not change it."""
    archive = tmp_path_factory.mktemp("good") / "archive"
    assert build(made / "survey.toml", archive).failures == {}
    return archive


def tiles(survey: Path) -> list[Path]:
    return sorted(path for path in survey.iterdir() if path.is_dir())


def shard(archive: Path, tile: Path) -> Path:
    (found,) = archive.glob(f"shards/{tile.name}.*.h5")
    return found


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of the program with the permissions of an ordinary user."""
    return subprocess.run([*BOUND, *COMMAND, *map(str, arguments)], capture_output=True, text=True)


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the error lines of a failed command, after a check that the rest of stderr is progress."""
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert not [line for line in lines if not line.startswith(("error: ", "[")) and " to build" not in line], (
        done.stderr
    )
    return [line for line in lines if line.startswith("error: ")]


def assert_serves(archive: Path, survey: Path, served: list[Path]) -> None:
    """Assert that an archive has no damage, exactly the tiles `served`, and their source pixels."""
    assert list(verify(archive, deep=True)) == []
    assert sorted(path.name.split(".")[0] for path in (archive / "shards").iterdir()) == [tile.name for tile in served]
    with Archive(archive) as opened:
        for tile in served:
            image = fits.getdata(next(tile.glob("*_r.fits*")), "SCI").astype(np.float32)
            with Shard(shard(archive, tile)) as source:
                table = source.objects
            assert len(table.object_id)
            for row in range(0, len(table.object_id), 40):
                cutout = opened.get(table.object_id[row], bands="r")
                where = round(table.x[row]), round(table.y[row])
                theirs = Cutout2D(image, where, 64, mode="partial", fill_value=np.nan).data
                np.testing.assert_array_equal(np.isnan(cutout.data[0]), np.isnan(theirs))
                off = np.abs(cutout.data[0].astype(float) - theirs)
                assert np.nanmax(off, initial=0) <= cutout.step["r"] / 2


# ---- a full disk


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system on a folder; skip the test where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"size={16 << 20}", "tmpfs") as disk:
        yield disk


def leave(disk: Path, free: int) -> Path:
    """Fill a disk until ``free`` bytes are left; return the file that fills the disk."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    there = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (there.f_bavail - free // PAGE) * PAGE)
    assert os.statvfs(disk).f_bavail == free // PAGE
    return ballast


def test_a_tile_too_large_for_the_disk_fails_alone_and_is_built_when_there_is_room(
    survey: Path, good: Path, small_disk: Path
) -> None:
    archive, (first, second) = small_disk / "archive", tiles(survey)
    ballast = leave(small_disk, shard(good, first).stat().st_size + 20 * PAGE)
    (line,) = errors(run("build", survey / "survey.toml", archive))
    assert line.startswith(f"error: tile {second.name}: ")
    assert "No space left on device" in line
    assert len(line) < 300
    assert_serves(archive, survey, [first])
    ballast.unlink()
    done = run("build", survey / "survey.toml", archive, "--json")
    assert (done.returncode, done.stderr.count("1 failed before")) == (0, 1)
    assert_serves(archive, survey, [first, second])


def test_a_tile_whose_rebuild_fails_on_a_full_disk_keeps_its_old_cutouts(survey: Path, small_disk: Path) -> None:
    archive, (first, second) = small_disk / "archive", tiles(survey)
    assert build(survey / "survey.toml", archive).built == 2
    ballast = leave(small_disk, 10 * PAGE)
    report = build(survey / "survey.toml", archive, force=True)
    assert report.failures.keys() == {first.name, second.name}
    assert all("No space left on device" in error for error in report.failures.values())
    assert_serves(archive, survey, [first, second])
    ballast.unlink()
    assert build(survey / "survey.toml", archive).built == 2
    assert_serves(archive, survey, [first, second])


def test_a_disk_that_fills_up_during_a_commit_leaves_the_committed_tiles(
    survey: Path, good: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, both = small_disk / "archive", tiles(survey)
    pages = sum(-(-shard(good, tile).stat().st_size // PAGE) for tile in both)
    outcomes = []
    for spare in range(2, 26, 1 if FULL else 6):
        ballast = leave(small_disk, (pages + spare) * PAGE)
        try:
            failures = build(survey / "survey.toml", archive).failures
            outcomes.append(
                "+".join(sorted({"index" if "index" in e else "shard" for e in failures.values()})) or "well"
            )
            assert all("database or disk is full" in e or "No space left" in e for e in failures.values())
            assert_serves(archive, survey, [tile for tile in both if tile.name not in failures])
        except ArchiveError as error:  # no room to record the failure either
            outcomes.append("not noted")
            assert "database or disk is full" in str(error)
            assert {finding.kind for finding in verify(archive, deep=True)} <= {"orphan"}
        ballast.unlink()
        assert build(survey / "survey.toml", archive).failures == {}
        assert_serves(archive, survey, both)
        shutil.rmtree(archive)
    with capsys.disabled():
        print(f"\nindex on a full disk, by pages to spare: {outcomes}")
    assert {"index", "not noted"} & set(outcomes)


def test_a_build_on_a_full_disk_names_the_cause_and_damages_nothing(survey: Path, small_disk: Path) -> None:
    archive = small_disk / "archive"
    assert build(survey / "survey.toml", archive).built == 2
    leave(small_disk, 0)
    (line,) = errors(run("build", survey / "survey.toml", archive, "--force"))
    assert "No space left on device" in line
    assert_serves(archive, survey, tiles(survey))


def test_a_new_archive_on_a_full_disk_is_an_error_that_names_the_cause(survey: Path, small_disk: Path) -> None:
    (small_disk / "archive").mkdir()
    leave(small_disk, 0)
    (line,) = errors(run("build", survey / "survey.toml", small_disk / "archive"))
    assert "No space left on device" in line


# ---- missing permissions


@pytest.fixture
def archive(good: Path, tmp_path: Path) -> Path:
    """Copy of the archive of `made`."""
    return Path(shutil.copytree(good, tmp_path / "archive"))


@contextmanager
def unwritable(*folders: Path) -> Iterator[None]:
    """Remove the write permission from folders."""
    for folder in folders:
        folder.chmod(0o555)
    try:
        yield
    finally:
        for folder in folders:
            folder.chmod(0o755)


READ = """
import sys
from archive_builder import Archive
with Archive(sys.argv[1]) as archive:
    for object_id in map(int, sys.argv[2:]):
        archive.get(object_id)
print("read")
"""


def some_ids(archive: Path) -> list[str]:
    return [str(object_id) for path in archive.glob("shards/*.h5") for object_id in ids_of(path)[::50]]


def ids_of(path: Path) -> np.ndarray:
    with Shard(path) as source:
        return source.objects.object_id


def test_a_user_with_read_permission_can_look_up_but_not_build_or_reindex(
    survey: Path, archive: Path, tmp_path: Path
) -> None:
    for path in archive.rglob("*.*"):
        path.chmod(0o444)
    with unwritable(archive, archive / "shards"):
        for command in (["build", survey / "survey.toml", archive, "--force"], ["reindex", archive]):
            (line,) = errors(run(*command))
            assert line.startswith(f"error: archive {archive}: ")
            assert line.endswith("Permission denied: get write access to the folder")
        done = run("verify", archive, "--deep")
        assert (done.returncode, done.stdout, done.stderr) == (0, "all is well\n", "")
        done = subprocess.run([*BOUND, sys.executable, "-c", READ, archive, *some_ids(archive)], capture_output=True)
        assert (done.stdout, done.stderr) == (b"read\n", b"")


def test_an_archive_that_may_not_be_created_is_an_error_on_one_line(survey: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    archive = tmp_path / "folder/archive"
    with unwritable(archive.parent):
        (line,) = errors(run("build", survey / "survey.toml", archive))
    assert line == f"error: archive {archive}: its folder cannot be made: Permission denied: give another folder"


def test_a_read_only_folder_of_shards_fails_each_tile(survey: Path, archive: Path) -> None:
    with unwritable(archive / "shards"):
        lines = errors(run("build", survey / "survey.toml", archive, "--force"))
    assert [line.split(": ")[1] for line in lines] == [f"tile {tile.name}" for tile in tiles(survey)]
    assert all("Permission denied" in line for line in lines)
    assert_serves(archive, survey, tiles(survey))


def test_a_leftover_that_may_not_be_removed_is_an_error_on_one_line(survey: Path, archive: Path) -> None:
    leftover = archive / "shards/.left.1.h5.0123456789abcdef.17.part"
    leftover.touch()
    with unwritable(archive / "shards"):
        (line,) = errors(run("build", survey / "survey.toml", archive))
    assert str(leftover) in line
    assert line.endswith("(Permission denied): remove it by hand")


def test_an_old_shard_that_may_not_be_removed_does_not_fail_its_tile(survey: Path, archive: Path) -> None:
    first, second = tiles(survey)
    old = shard(archive, first)
    if subprocess.run(["chattr", "+i", old], capture_output=True).returncode:
        pytest.skip("files cannot be made immutable here")
    try:
        rewrite(image_of(first), 1000)
        done = run("build", survey / "survey.toml", archive, "--force")
        assert done.returncode == 0
        (orphan,) = verify(archive, deep=True)
        assert (orphan.kind, orphan.what) == (
            "orphan",
            f"{old}: is not in the index: the next build removes it",
        )
    finally:
        subprocess.run(["chattr", "-i", old], check=True)
    assert build(survey / "survey.toml", archive).unchanged == 2
    assert_serves(archive, survey, [first, second])


def test_an_unreadable_image_fails_its_tile_alone_until_permission_returns(survey: Path, tmp_path: Path) -> None:
    archive, (first, second) = tmp_path / "archive", tiles(survey)
    image = image_of(first)
    image.chmod(0)
    (line,) = errors(run("build", survey / "survey.toml", archive))
    assert line.startswith(f"error: tile {first.name}: {image}: ")
    assert "ermission denied" in line
    assert_serves(archive, survey, [second])
    image.chmod(0o444)
    assert run("build", survey / "survey.toml", archive).returncode == 0
    assert_serves(archive, survey, [first, second])


def test_an_archive_on_a_read_only_disk_is_served_but_not_built_or_reindexed(survey: Path, archive: Path) -> None:
    with mounted(archive, "--bind", "-o", "ro", str(archive)):
        assert os.statvfs(archive).f_flag & os.ST_RDONLY
        assert_serves(archive, survey, tiles(survey))
        done = subprocess.run([sys.executable, "-c", READ, archive, *some_ids(archive)], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("read\n", "")
        for command in (["build", survey / "survey.toml", archive], ["reindex", archive]):
            (line,) = errors(run(*command))
            assert line.startswith(f"error: archive {archive}: ")
            assert line.endswith("Read-only file system: get write access to the folder")


# ---- sources that change during a build


def rewrite(path: Path, add: float) -> None:
    """Replace an image by a brighter one."""
    with fits.open(path) as hdus:
        pixels, header = hdus["SCI"].data + np.float32(add), hdus["SCI"].header
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, header, name="SCI")]).writeto(path, overwrite=True)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def touch(path: Path) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def overwrite(path: Path) -> None:
    """Change bytes inside a file, in place."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"other pixels" * 100)


def image_of(tile: Path) -> Path:
    return next(tile.glob("*_r.fits*"))


def catalogue_of(tile: Path) -> Path:
    return next(tile.glob("*_cat.fits"))


@pytest.mark.parametrize("which", [image_of, catalogue_of])
def test_a_file_removed_before_the_read_fails_its_tile_alone_until_it_is_restored(
    survey: Path, tmp_path: Path, which: Callable[[Path], Path]
) -> None:
    archive, (first, second) = tmp_path / "archive", tiles(survey)
    path = which(first)

    def vanish(changes: Changes) -> None:
        path.rename(tmp_path / "gone")

    report = build(survey / "survey.toml", archive, on_plan=vanish)
    assert report.failures == {first.name: f"{path}: No such file or directory: restore the file"}
    assert report.built == 1
    assert_serves(archive, survey, [second])
    (tmp_path / "gone").rename(path)
    assert build(survey / "survey.toml", archive).built == 1
    assert_serves(archive, survey, [first, second])


def test_a_file_that_changes_before_the_read_is_built_with_its_new_contents(survey: Path, tmp_path: Path) -> None:
    archive, (first, second) = tmp_path / "archive", tiles(survey)
    report = build(survey / "survey.toml", archive, on_plan=lambda changes: rewrite(image_of(first), 1000))
    assert (report.built, report.failures) == (2, {})
    assert_serves(archive, survey, [first, second])
    assert build(survey / "survey.toml", archive).unchanged == 2


def build_and_change(survey: Path, archive: Path, tile: Path, change: Callable[[], None]) -> BuildReport:
    """Build, and make a change while a tile is being written; the tile's worker is stopped meanwhile."""

    def change_when_it_is_written() -> None:
        while not (parts := list(archive.glob(f"shards/.{tile.name}.*.part"))):
            pass
        worker = int(parts[0].name.split(".")[-2])
        os.kill(worker, signal.SIGSTOP)
        change()
        os.kill(worker, signal.SIGCONT)

    changer = threading.Thread(target=change_when_it_is_written)
    changer.start()
    report = build(survey / "survey.toml", archive)
    changer.join()
    return report


@pytest.mark.parametrize("damage", [truncate, touch, overwrite, Path.unlink, partial(rewrite, add=5)])
def test_an_image_that_changes_during_the_read_fails_its_tile_alone_until_it_is_whole(
    survey: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    archive, (first, second) = tmp_path / "archive", tiles(survey)
    image = image_of(first)
    shutil.copy2(image, tmp_path / "kept")
    report = build_and_change(survey, archive, first, partial(damage, image))
    (error,) = report.failures.values()
    assert report.failures.keys() == {first.name}
    assert "\n" not in error
    assert any(hint in error for hint in ("changed while it was read", "restore the file", "replace it"))
    assert_serves(archive, survey, [second])
    if damage in (truncate, overwrite, Path.unlink):
        shutil.copy2(tmp_path / "kept", image)
    assert build(survey / "survey.toml", archive).built == 1
    assert_serves(archive, survey, [first, second])


def test_a_catalogue_that_changes_during_the_build_fails_its_tile_until_the_next_build(
    survey: Path, tmp_path: Path
) -> None:
    archive, (first, second) = tmp_path / "archive", tiles(survey)
    assert build(survey / "survey.toml", archive).built == 2
    touch(image_of(first))
    catalogue = Table.read(catalogue_of(first))
    gone = int(catalogue["COADD_OBJECT_ID"][0])

    def shorten() -> None:
        catalogue[1:].write(catalogue_of(first), overwrite=True)

    report = build_and_change(survey, archive, first, shorten)
    assert report.failures == {first.name: "a file of this tile changed while it was read: build it again"}
    with Archive(archive) as opened:
        assert opened.locate(gone).tile == first.name
    assert build(survey / "survey.toml", archive).built == 1
    with Archive(archive) as opened:
        assert opened.reader.find([gone]).tile_id.tolist() == [-1]
    assert_serves(archive, survey, [first, second])
