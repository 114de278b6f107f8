"""Builds killed at any instant: readers get correct pixels, and the next build completes the archive."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table, vstack

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.errors import NoArchiveError, ObjectSkippedError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import verify
from archive_builder.survey.demo import make_survey

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks up processes in Linux's /proc")

COMMAND = (sys.executable, "-c", "from archive_builder.cli.main import main; main()")
FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"
KILLS = 200 if FULL else 8
LASTS = 4.0
"""Approximate duration of a build, s. A build that ends before the kill counts as "over"."""
VERSIONS = ("before", "after")
HOT = bytes.fromhex("d9d505f920a163d7")
"""First bytes of an SQLite journal that is on the disk. SQLite writes the index itself only after that."""


Answers = dict[str, dict[int, tuple[Any, ...]]]
"""Answers of an archive by tile and object ID."""


# ---- a survey in two versions, and the contents of both archives


@dataclass(frozen=True)
class Survey:
    """A survey of three tiles. Two tiles change between the versions, and an object moves between these two."""

    folder: Path
    other: Path
    """Folder with the changing files of each version."""

    def switch(self, version: str) -> Path:
        """Install a version's files with that version's times; return the recipe's path."""
        for path in (self.other / version).rglob("*.fits*"):
            place = self.folder / path.relative_to(self.other / version)
            shutil.copy2(path, place.with_suffix(".new"))
            place.with_suffix(".new").replace(place)
        return self.folder / "survey.toml"


def change(survey: Path, first: str, second: str) -> None:
    """Make the second version: one band of a tile is brighter, and one object moves to another tile's catalogue."""
    image = next((survey / first).glob("*_r.fits.fz"))
    with fits.open(image) as hdus:
        pixels, header = hdus["SCI"].data + np.float32(100), hdus["SCI"].header
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(pixels, header, name="SCI")]).writeto(image, overwrite=True)
    paths = [next((survey / tile).glob("*_cat.fits")) for tile in (first, second)]
    ours, theirs = (Table.read(path) for path in paths)
    ours[1:].write(paths[0], overwrite=True)
    vstack([theirs, ours[:1]]).write(paths[1], overwrite=True)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    survey = Survey(tmp_path_factory.mktemp("killed") / "survey", tmp_path_factory.mktemp("versions"))
    recipe = make_survey(survey.folder, tiles=3, tile_size=300, objects=30, seed=4)
    recipe.write_text(recipe.read_text().replace('bands = ["g", "r", "i", "z", "Y"]', 'bands = ["r", "i"]'))
    first, second, _ = sorted(path.name for path in survey.folder.iterdir() if path.is_dir())
    for version in VERSIONS:
        if version == "after":
            change(survey.folder, first, second)
        for path in [*survey.folder.glob(f"{first}/*_r.fits.fz"), *survey.folder.glob("*/*_cat.fits")]:
            kept = survey.other / version / path.relative_to(survey.folder)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)
    return survey


@dataclass(frozen=True)
class Peace:
    """An archive built without interruption."""

    archive: Path
    answers: Answers


@pytest.fixture(scope="module")
def peace(survey: Survey, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Peace]:
    """Return an archive of each version, built without interruption."""
    found = {}
    for version in VERSIONS:
        archive = tmp_path_factory.mktemp("peace") / version
        assert build(survey.switch(version), archive).failures == {}
        found[version] = Peace(archive, answers(archive))
    one, two = (peace.answers for peace in found.values())
    assert [one[tile] == two[tile] for tile in sorted(one)] == [False, False, True]
    # Tuples of 7 values for objects with a cutout, of 4 values for skipped objects.
    assert {len(answer) for tile in one.values() for answer in tile.values()} == {7, 4}
    return found


def rows(archive: Path) -> dict[int, tuple[str, int, int]]:
    """Return tile, row and status of every object in the index."""
    question = "SELECT object_id, name, row, status FROM objects JOIN tiles USING (tile_id)"
    with closing(sqlite3.connect(archive / "index.sqlite")) as index:
        return {object_id: where for object_id, *where in index.execute(question)}


def answers(archive: Path) -> Answers:
    """Return the archive's answer for each object in the index, by tile."""
    found: Answers = {}
    with Archive(archive) as opened:
        for object_id, (tile, *_) in rows(archive).items():
            try:
                cutout = opened.get(object_id)
                pixels = hashlib.sha256(cutout.data.tobytes()).hexdigest()
                answer = (cutout.tile, cutout.object_id, pixels, cutout.ra, cutout.dec, cutout.origin, str(cutout.rms))
            except ObjectSkippedError as error:
                answer = (error.tile, error.object_id, error.reason, str(error.rms))
            found.setdefault(tile, {})[object_id] = answer
    return found


def datasets(path: Path) -> dict[str, Any]:
    """Return all datasets and attributes of a shard except its generation."""
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[...]} if isinstance(item, h5py.Dataset) else {}))
        found |= {f"@{name}": np.asarray(value) for name, value in file.attrs.items() if name != "generation"}
    return found


def shards(archive: Path) -> dict[str, Path]:
    """Return the shard of each tile, from the index."""
    with closing(sqlite3.connect(archive / "index.sqlite")) as index:
        return {name: archive / shard for name, shard in index.execute("SELECT name, shard FROM tiles")}


def assert_is_as_in_peace(archive: Path, peace: Peace) -> None:
    assert list(verify(archive, deep=True)) == []
    assert rows(archive) == rows(peace.archive) != {}
    ours, theirs = shards(archive), shards(peace.archive)
    assert set((archive / "shards").iterdir()) == set(ours.values())
    assert {path.name for path in archive.iterdir()} == {"index.sqlite", "build.lock", "shards"}
    assert ours.keys() == theirs.keys()
    assert len(ours) == 3
    for tile, path in ours.items():
        here, there = datasets(path), datasets(theirs[tile])
        assert "cutouts" in here
        assert here.keys() == there.keys()
        for name in here:
            np.testing.assert_array_equal(here[name], there[name], err_msg=f"{tile} {name}")


# ---- a build and its files on the disk


class Build:
    """A build by the command line, in its own process group."""

    def __init__(self, recipe: Path, archive: Path, workers: int) -> None:
        self.archive = archive
        self.before = files(archive)
        self.generations = generations(archive)
        command = [*COMMAND, "build", str(recipe), str(archive), "--workers", str(workers)]
        self.process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def members(self) -> list[int]:
        """Return the running processes of the build: the driver and the workers."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(group) == self.process.pid and state != "Z":
                found.append(int(path.parent.name))
        return found

    def kill(self, whom: str, chance: random.Random) -> None:
        """Kill the whole group, the driver, or a worker if one runs; return when no process of the build is left."""
        with suppress(ProcessLookupError):  # the process may have ended
            if whom == "group":
                os.killpg(self.process.pid, signal.SIGKILL)
            elif whom == "worker" and (workers := [pid for pid in self.members() if pid != self.process.pid]):
                os.kill(chance.choice(workers), signal.SIGKILL)
                self.process.send_signal(signal.SIGCONT)  # the driver may be stopped
            else:
                self.process.kill()
        self.process.wait()
        while self.members():
            time.sleep(0.001)

    def wait_until(self, happened: Callable[[], bool]) -> None:
        while not happened() and self.process.poll() is None:
            pass


def files(archive: Path) -> set[str]:
    """Return the names of all files of an archive."""
    names: set[str] = set()
    for folder in (archive, archive / "shards"):
        if folder.is_dir():
            names |= set(os.listdir(folder))
    return names


def wait_at_begin(run: Build, chance: random.Random) -> None:
    run.wait_until(lambda: "build.lock" in files(run.archive) if not run.before else holder(run.archive) != "")
    time.sleep(chance.uniform(0, 0.02))


def wait_anywhere(run: Build, chance: random.Random) -> None:
    time.sleep(chance.uniform(0, LASTS))


def wait_for_part(run: Build, chance: random.Random) -> None:
    nth, seen = chance.randint(1, 3), set()

    def happened() -> bool:
        seen.update(name for name in files(run.archive) if name.endswith(".part") and ".h5." in name)
        return len(seen - run.before) >= nth

    run.wait_until(happened)
    time.sleep(chance.uniform(0, 0.2))


def wait_for_shard(run: Build, chance: random.Random) -> None:
    nth, seen = chance.randint(1, 2), set()

    def happened() -> bool:
        seen.update(name for name in files(run.archive) if name.endswith(".h5"))
        return len(seen - run.before) >= nth

    run.wait_until(happened)
    time.sleep(chance.uniform(0, 0.02))


def journal_begins_with(archive: Path) -> bytes | None:
    try:
        with (archive / "index.sqlite-journal").open("rb") as file:
            return file.read(len(HOT))
    except OSError:
        return None


def wait_for_journal(run: Build, chance: random.Random) -> None:
    wait_for_shard(run, chance)
    run.wait_until(lambda: journal_begins_with(run.archive) == HOT)


def wait_for_commit(run: Build, chance: random.Random) -> None:
    """Continue the driver in steps of some microseconds: the work after a commit takes no longer."""
    wait_for_journal(run, chance)
    journal = str(run.archive / "index.sqlite-journal")
    while os.path.exists(journal) and run.process.poll() is None:
        run.process.send_signal(signal.SIGCONT)
        step_ends = time.perf_counter() + chance.uniform(0, 4e-5)
        while time.perf_counter() < step_ends:
            pass
        run.process.send_signal(signal.SIGSTOP)


AIMS = (wait_at_begin, wait_anywhere, wait_for_part, wait_for_shard, wait_for_journal, wait_for_commit)
"""Events to wait for before the kill. Random times alone would almost never hit the 10 ms of a commit."""


def holder(archive: Path) -> str:
    """Return the text in the lock file; the lock of a killed build keeps its text."""
    lock = archive / "build.lock"
    return lock.read_text() if lock.exists() else ""


def generations(archive: Path) -> dict[str, int]:
    """Return each tile's generation, from a copy of the index. Opening the index itself would roll back its journal."""
    if not (archive / "index.sqlite").exists():
        return {}
    with TemporaryDirectory() as folder:
        for path in archive.glob("index.sqlite*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(f"{folder}/index.sqlite")) as index:
            return dict(index.execute("SELECT name, generation FROM tiles WHERE shard IS NOT NULL"))


PHASES = (
    "before anything",
    "while reading",
    "while writing",
    "between rename and commit",
    "in the commit",
    "between commit and removal of the old shard",
    "over",
)


def phase(run: Build) -> str:
    """Return the phase of a build at its kill, from the files on the disk."""
    if not holder(run.archive):
        return "over" if generations(run.archive) != run.generations else "before anything"
    if journal_begins_with(run.archive) == HOT:
        return "in the commit"
    now = generations(run.archive)
    there = [path.name.rsplit(".", 2) for path in (run.archive / "shards").glob("[!.]*.h5")]
    if any(int(generation) > now.get(tile, 0) for tile, generation, _ in there):
        return "between rename and commit"
    if any(int(generation) < now[tile] for tile, generation, _ in there):
        return "between commit and removal of the old shard"
    return "while writing" if any((run.archive / "shards").glob(".*.part")) else "while reading"


# ---- claims


def assert_readers_are_served(run: Build, peace: dict[str, Peace]) -> None:
    """Assert that every tile is wholly one version, and that verify finds nothing but orphans."""
    try:
        there = answers(run.archive)
    except NoArchiveError:
        assert not run.generations
        with pytest.raises(NoArchiveError):
            list(verify(run.archive, deep=True))
        return
    assert there.keys() >= run.generations.keys()
    for tile, answer in there.items():
        assert answer in [version.answers[tile] for version in peace.values()], tile
    assert {finding.kind for finding in verify(run.archive, deep=True)} <= {"orphan"}


def begin_builds(survey: Survey, folder: Path, chance: random.Random) -> Iterator[tuple[str, Build]]:
    """Start builds and yield each at the moment to kill it; one lasting archive alternates with new archives."""
    lasting, first = folder / "lasting", chance.randrange(len(AIMS))
    build(survey.switch("before"), lasting)
    for number in range(KILLS):
        version = VERSIONS[(number // 2 + 1) % 2]
        recipe = survey.switch(version)
        run = Build(recipe, folder / f"new{number}" if number % 2 else lasting, workers=chance.choice((1, 2)))
        AIMS[(number // 2 + first) % len(AIMS)](run, chance)
        yield version, run


def test_a_build_killed_at_any_instant_serves_correct_pixels_and_the_next_completes_it(
    survey: Survey, peace: dict[str, Peace], tmp_path: Path
) -> None:
    chance, phases = random.Random(), Counter[str]()
    for version, run in begin_builds(survey, tmp_path, chance):
        run.kill(chance.choice(("group", "group", "driver", "driver", "worker")), chance)
        phases[phase(run)] += 1
        assert_readers_are_served(run, peace)
        assert build(survey.folder / "survey.toml", run.archive, workers=chance.choice((1, 2))).failures == {}
        assert_is_as_in_peace(run.archive, peace[version])
        if not run.generations:
            shutil.rmtree(run.archive)
    print(f"{KILLS} kills: {dict(phases)}")
    assert phases.keys() - {"over", "before anything"}
    assert not FULL or phases.keys() == set(PHASES)


def test_the_workers_of_a_killed_driver_stop_at_once(survey: Survey, tmp_path: Path) -> None:
    run = Build(survey.switch("before"), tmp_path / "archive", workers=2)
    run.wait_until(lambda: any((tmp_path / "archive").glob("shards/.*.part")))
    run.kill("driver", random.Random())
    assert any((tmp_path / "archive").glob("shards/.*.part"))
    assert not any((tmp_path / "archive").glob("shards/*.1.h5"))


# ---- a long commit, as with a catalogue of millions of objects

LONG_COMMIT = """
import sys, numpy as np
from pathlib import Path
from archive_builder.store.index import Index
from archive_builder.store.records import TileEntry, TileRecord
ids = np.arange(10**12, 10**12 + 2 * 10**6)
entry = TileEntry(TileRecord(name="LONG", state="built"), ids, ids[:0], ids[:0].astype(np.uint8), ids[:0])
with Index(Path(sys.argv[1]), writable=True) as index:
    index.commit_tiles([entry])
print("committed")
"""


def kill_in_commit(archive: Path) -> None:
    """Leave a half-written index, as a builder does that dies while SQLite writes the pages of a commit to the disk."""
    process = subprocess.Popen([sys.executable, "-c", LONG_COMMIT, str(archive)], stdout=subprocess.PIPE)
    while journal_begins_with(archive) != HOT:
        assert process.poll() is None
    process.kill()
    assert process.communicate()[0] == b""
    assert journal_begins_with(archive) == HOT


@pytest.fixture
def half_written(survey: Survey, peace: dict[str, Peace], tmp_path: Path) -> Path:
    """An archive with a builder killed during a commit."""
    survey.switch("before")
    archive = Path(shutil.copytree(peace["before"].archive, tmp_path / "archive"))
    kill_in_commit(archive)
    return archive


def test_a_kill_during_a_commit_leaves_the_previous_state_readable(half_written: Path, peace: dict[str, Peace]) -> None:
    with Archive(half_written) as archive:
        assert archive.locate(next(iter(rows(peace["before"].archive)))).tile
    assert answers(half_written) == peace["before"].answers
    assert list(verify(half_written, deep=True)) == []


def test_a_build_succeeds_after_a_kill_during_a_commit(
    half_written: Path, survey: Survey, peace: dict[str, Peace]
) -> None:
    assert build(survey.switch("after"), half_written).built == 2
    assert_is_as_in_peace(half_written, peace["after"])


def test_verify_finds_nothing_after_a_kill_during_a_commit(half_written: Path) -> None:
    assert list(verify(half_written, deep=True)) == []


def test_the_journal_of_a_dead_builder_does_not_undo_a_new_index(half_written: Path, peace: dict[str, Peace]) -> None:
    tile = min(peace["before"].answers)
    (half_written / "shards" / f"{tile}.1.h5").unlink()
    assert reindex(half_written).tiles == 2
    there = {name: answer for name, answer in peace["before"].answers.items() if name != tile}
    assert answers(half_written) == there
    assert list(verify(half_written, deep=True)) == []


def test_an_open_archive_keeps_serving_during_and_after_a_kill_in_a_commit(
    peace: dict[str, Peace], tmp_path: Path
) -> None:
    archive = Path(shutil.copytree(peace["before"].archive, tmp_path / "archive"))
    one, *_, other = sorted(rows(archive))
    with Archive(archive) as opened:
        tile = opened.locate(one).tile
        kill_in_commit(archive)
        assert opened.locate(one).tile == tile
        assert opened.locate(other).tile == rows(archive)[other][0]


def test_a_reader_without_write_permission_gets_an_error_after_a_kill_in_a_commit(half_written: Path) -> None:
    program = "import sys; from archive_builder import Archive; Archive(sys.argv[1])"
    # Without these capabilities, file permissions apply to root.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    (half_written / "index.sqlite").chmod(0o444)
    half_written.chmod(0o555)
    done = subprocess.run([*bound, sys.executable, "-c", program, half_written], capture_output=True, text=True)
    half_written.chmod(0o755)
    assert done.stderr.splitlines()[-1].endswith("build again as a user with write access to the archive")


def test_a_folder_without_any_build_is_no_archive(tmp_path: Path, survey: Survey) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(NoArchiveError):
        list(verify(tmp_path))
    with pytest.raises(NoArchiveError):
        Archive(tmp_path)
