"""File systems without locks: the kernel refuses the calls by a seccomp filter. Readers work, builds are refused."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import execute, tree

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.builder.lock import BuildLock
from archive_builder.errors import ArchiveError
from archive_builder.store.file_locks import MOUNT
from archive_builder.store.index_file import read_without_locks

CALLS = {"x86_64": {"flock": 73, "fcntl": 72}, "aarch64": {"flock": 32, "fcntl": 25}}.get(platform.machine())
"""Numbers of the two system calls that lock a file."""

pytestmark = pytest.mark.skipif(
    CALLS is None or sys.platform != "linux",
    reason="the numbers of the system calls are those of Linux",
)

COMMAND = (sys.executable, "-c", "from archive_builder.cli.main import main; main()")
BOUND = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
"""Command that removes root's exemption from file permissions."""
LOCK_COMMANDS = (5, 6, 7, 36, 37, 38)
"""Commands of fcntl about locks: F_GETLK, F_SETLK, F_SETLKW, and those of open file descriptions."""
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
"""Instructions of the kernel's packet filter: load a word, jump if equal, return."""
REFUSE, ALLOW = 0x0005_0000, 0x7FFF_0000
"""Answers of a seccomp filter: fail with an error number, let the call pass."""
BOTH = ("flock", "fcntl")

KINDS = {
    "ENOSYS": (errno.ENOSYS, BOTH),
    "ENOLCK": (errno.ENOLCK, BOTH),
    "EOPNOTSUPP": (errno.EOPNOTSUPP, BOTH),
    "EINVAL": (errno.EINVAL, BOTH),
    "ENOTSUPP of Cray DVS": (524, BOTH),
    "flock only": (errno.ENOSYS, ("flock",)),
    "flock only, ENOLCK": (errno.ENOLCK, ("flock",)),
    "fcntl only": (errno.ENOSYS, ("fcntl",)),
    "fcntl only, ENOLCK": (errno.ENOLCK, ("fcntl",)),
}
NONE: tuple[int, Collection[str]] = (errno.ENOSYS, ())
"""No call is refused."""

FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"

CHOSEN = KINDS if FULL else {name: KINDS[name] for name in ("ENOSYS", "ENOLCK", "fcntl only, ENOLCK")}

every_kind = pytest.mark.parametrize("kind", CHOSEN.values(), ids=CHOSEN)
"""Error numbers, and the calls that fail with them."""


@pytest.fixture
def archive_copy(demo_archive: Path, tmp_path: Path) -> Path:
    """Copy of the archive that the test may change."""
    return Path(shutil.copytree(demo_archive, tmp_path / "archive"))


def refuse_locks(number: int, calls: Collection[str]) -> None:
    """Let these calls of this process and of its children fail with an error number, for ever."""
    assert CALLS is not None
    refuse = (RETURN, 0, 0, REFUSE | number)
    steps = [(LOAD, 0, 0, 0)]  # the number of the call
    if "flock" in calls:
        steps += [(EQUALS, 0, 1, CALLS["flock"]), refuse]
    if "fcntl" in calls:
        steps += [(EQUALS, 0, 1 + 2 * len(LOCK_COMMANDS), CALLS["fcntl"]), (LOAD, 0, 0, 24)]  # its second argument
        steps += [step for command in LOCK_COMMANDS for step in ((EQUALS, 0, 1, command), refuse)]
    steps.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, mode_filter, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def run(kind: tuple[int, Collection[str]], *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the program on a system without these locks."""
    return run_program(kind, COMMAND, *arguments, **environment)


def run_program(
    kind: tuple[int, Collection[str]], program: Collection[str], *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*BOUND, *program, *map(str, arguments)]
    env, start = os.environ | environment, partial(refuse_locks, *kind)
    return subprocess.run(command, capture_output=True, text=True, env=env, preexec_fn=start)


def stored(archive: Path) -> list[int]:
    with Archive(archive) as opened:
        return [int(number) for number in opened.ids()]


PROBE = """
import fcntl, sys
file = open(sys.argv[1])
for lock in (fcntl.flock, fcntl.lockf):
    try:
        lock(file, fcntl.LOCK_SH)
        print(0)
    except OSError as error:
        print(error.errno)
"""


@every_kind
def test_the_kernel_refuses_these_locks(kind: tuple[int, Collection[str]], demo_archive: Path) -> None:
    done = run_program(kind, (sys.executable, "-c", PROBE), demo_archive / "index.sqlite")
    assert done.stdout.split() == [str(kind[0] if call in kind[1] else 0) for call in BOTH]


# ---- readers

READ = """
import sys, time
import numpy as np
from archive_builder import Archive
started = time.monotonic()
with Archive(sys.argv[1]) as archive:
    ids = archive.ids()
    single = np.array([archive.get(int(number)).data for number in ids])
    np.testing.assert_array_equal(single, archive.get_many(ids))
    rows = sum(len(batch.object_id) for batch in archive.batches())
assert rows == len(ids) > 0
np.save(sys.argv[2], single)
print(time.monotonic() - started < 50)  # not the minute that SQLite waits for another process
"""


@every_kind
def test_python_reads_a_finished_archive(kind: tuple[int, Collection[str]], demo_archive: Path, tmp_path: Path) -> None:
    done = run_program(kind, (sys.executable, "-c", READ), demo_archive, tmp_path / "pixels.npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
    with Archive(demo_archive) as archive:
        np.testing.assert_array_equal(np.load(tmp_path / "pixels.npy"), archive.get_many(archive.ids()))


def test_commands_read_a_finished_archive(demo_archive: Path, tmp_path: Path) -> None:
    ids = stored(demo_archive)[:3]
    wanted = tmp_path / "list.csv"
    wanted.write_text("object_id\n" + "\n".join(map(str, ids)))
    done = [
        run(KINDS["ENOLCK"], "status", demo_archive, "--json"),
        run(KINDS["ENOLCK"], "get", demo_archive, ids[0], "-o", tmp_path / "one.fits"),
        run(KINDS["ENOLCK"], "export", demo_archive, wanted, "-o", tmp_path / "files", "--format", "npy"),
        run(KINDS["ENOLCK"], "export", demo_archive, wanted, "-o", tmp_path / "pack", "--pack", "hdf5"),
        run(KINDS["ENOLCK"], "verify", demo_archive, "--deep", "--workers", "2"),
    ]
    assert [(one.returncode, "error" in one.stderr) for one in done] == [(0, False)] * 5
    assert json.loads(done[0].stdout)
    assert len(list((tmp_path / "files").rglob("*.npy"))) == 3
    assert done[-1].stdout == "all is well\n"


def test_a_read_only_folder_is_read(archive_copy: Path, tmp_path: Path) -> None:
    object_id = stored(archive_copy)[0]
    before = tree(archive_copy)
    for path in [archive_copy, archive_copy / "shards", *archive_copy.rglob("*.*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        for kind in (KINDS["ENOSYS"], NONE):
            assert run(kind, "get", archive_copy, object_id, "-o", tmp_path / "one.fits").returncode == 0
    finally:
        for path in [archive_copy, archive_copy / "shards"]:
            path.chmod(0o755)
    assert tree(archive_copy) == before


def test_a_forced_lock_of_hdf5_is_an_error_that_names_the_variable(demo_archive: Path, tmp_path: Path) -> None:
    get = ("get", demo_archive, stored(demo_archive)[0], "-o", tmp_path / "one.fits")
    done = run(KINDS["ENOLCK"], *get, HDF5_USE_FILE_LOCKING="TRUE")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(": unset HDF5_USE_FILE_LOCKING\n")
    assert run(KINDS["ENOLCK"], *get, HDF5_USE_FILE_LOCKING="FALSE").returncode == 0


# ---- an unfinished transaction

HALF_COMMIT = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE objects SET status = 2, row = 0")
db.execute("CREATE TABLE t (i)")
db.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(20000)])
os._exit(0)
"""


def test_rows_of_an_unfinished_transaction_are_not_served(archive_copy: Path, tmp_path: Path) -> None:
    object_id = stored(archive_copy)[0]
    good = (archive_copy / "index.sqlite").read_bytes()
    subprocess.run([sys.executable, "-c", HALF_COMMIT, archive_copy / "index.sqlite"], check=True)
    assert (archive_copy / "index.sqlite-journal").read_bytes()[:8] == bytes.fromhex("d9d505f920a163d7")
    before = tree(archive_copy)
    assert before["index.sqlite"] != good
    for kind in ("ENOLCK", "fcntl only"):
        done = run(KINDS[kind], "get", archive_copy, object_id, "-o", tmp_path / f"{kind}.fits")
        assert done.returncode == 1
        assert done.stderr == (
            f"error: index {archive_copy / 'index.sqlite'}: its file system has no locks, and index.sqlite-journal "
            "lies beside it: wait for the end of the build; if there is none, build again where the file system has "
            f"locks: {MOUNT}\n"
        )
    assert tree(archive_copy) == before
    # Where locks work the reader undoes the transaction.
    assert run(NONE, "get", archive_copy, object_id, "-o", tmp_path / "locked.fits").returncode == 0
    assert not (archive_copy / "index.sqlite-journal").exists()


READ_ON = """
import sys, time
from archive_builder import Archive
with Archive(sys.argv[1]) as archive:
    ids = [int(number) for number in archive.ids()]
    expected = {number: archive.locate(number).row for number in ids}
    print("ready", flush=True)
    end, count = time.monotonic() + 3, 0
    while time.monotonic() < end:
        for number in ids:
            assert archive.locate(number).row == expected[number]
            count += 1
print(count)
"""


def test_readers_follow_the_commits_of_a_host_with_locks(archive_copy: Path) -> None:
    start = partial(refuse_locks, *KINDS["ENOSYS"])
    command = [sys.executable, "-c", READ_ON, str(archive_copy)]
    commits = 0
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=start) as reader,
        closing(sqlite3.connect(archive_copy / "index.sqlite", isolation_level=None)) as index,
    ):
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        while reader.poll() is None:
            index.execute("UPDATE tiles SET seconds = ?", [commits])
            commits += 1
            time.sleep(0.05)
        assert int(reader.stdout.read()) > 100
    assert reader.returncode == 0
    assert commits > 10


def test_a_change_during_a_lookup_is_an_error_whatever_the_lookup_gave(archive_copy: Path) -> None:
    index = archive_copy / "index.sqlite"
    with read_without_locks(index):
        pass
    message = "changed during the lookup, and its file system has no locks: retry"
    with pytest.raises(ArchiveError, match=message), read_without_locks(index):
        execute(archive_copy, "UPDATE tiles SET seconds = seconds + 1")
    with pytest.raises(ArchiveError, match=message), read_without_locks(index):
        execute(archive_copy, "UPDATE tiles SET seconds = seconds + 2", "COMMIT", "SELECT half_a_page")
    with pytest.raises(ValueError, match="half a page"), read_without_locks(index):
        raise ValueError("half a page")


# ---- builds


@every_kind
def test_a_build_is_refused_in_a_line_that_names_the_mount_option(
    kind: tuple[int, Collection[str]], demo_survey: Path, archive_copy: Path
) -> None:
    before = tree(archive_copy)
    done = run(kind, "build", demo_survey / "survey.toml", archive_copy, "--force", "--workers", "1")
    reason = os.strerror(kind[0])
    line = f"error: archive {archive_copy}: its file system has no file locks ({reason}): {MOUNT}\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert tree(archive_copy) == before


def test_reindex_and_repair_are_refused_in_the_same_line(demo_survey: Path, archive_copy: Path) -> None:
    next((archive_copy / "shards").iterdir()).write_bytes(b"damage")
    before = tree(archive_copy)
    repair = ("verify", archive_copy, "--repair", "--survey", demo_survey / "survey.toml")
    for arguments in (("reindex", archive_copy), repair):
        done = run(KINDS["ENOLCK"], *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: archive {archive_copy}: its file system has no file locks (")
        assert (done.stderr.count("\n"), MOUNT in done.stderr) == (1, True)
    assert tree(archive_copy) == before


def test_a_new_archive_is_refused_and_built_where_locks_work(demo_survey: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    done = run(KINDS["ENOSYS"], "build", demo_survey / "survey.toml", archive)
    assert (done.returncode, done.stderr.count("\n"), MOUNT in done.stderr) == (1, 1, True)
    assert tree(archive) == {"build.lock": b""}
    assert build(demo_survey / "survey.toml", archive).failures == {}


HOLDER = """
import pathlib, sys
from archive_builder.builder.lock import holder_of
print(holder_of(pathlib.Path(sys.argv[1])))
"""


def test_no_process_counts_as_the_holder_of_a_lock_that_cannot_be_had(archive_copy: Path) -> None:
    program = (sys.executable, "-c", HOLDER)
    with BuildLock(archive_copy):
        done = [run_program(kind, program, archive_copy) for kind in (NONE, KINDS["ENOSYS"])]
    assert ["alive=True" in one.stdout for one in done] == [True, False]
    assert ["alive=False" in one.stdout for one in done] == [False, True]
