"""A flipped byte anywhere in an archive: verify finds the damage or it is harmless, and no reader is misled."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import pytest

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.errors import ArchiveBuilderError
from archive_builder.maintain.verify import verify
from archive_builder.serve.cutout import Cutout
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.demo import make_survey

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"
FLIPS = 500 if FULL else 40

HANGS = 60
"""Seconds without an answer after which a reader counts as hanging; a usual answer takes 0.1 s."""


# ---- reading an archive, in a process of its own that damaged files may kill


def describe(cutout: Cutout) -> dict[str, Any]:
    """Return all properties of a cutout except the way it was found."""
    planes = [
        getattr(cutout, {"SCI": "data", "WGT": "weight", "MSK": "mask", "COLOR": "color"}[p]) for p in cutout.planes
    ]
    pixels = [(str(plane.dtype), plane.shape, hashlib.sha256(plane.tobytes()).hexdigest()) for plane in planes]
    headers = [cutout.header(band).tostring() for band in cutout.bands]
    where = (cutout.object_id, cutout.tile, cutout.ra, cutout.dec, cutout.origin, cutout.bands, cutout.planes)
    numbers = (cutout.zero_point, str(cutout.rms), cutout.step, cutout.wcs.to_header_string())
    return {"cutout": repr((pixels, headers, where, numbers))}


def around(archive: Archive, position: tuple[float, float]) -> dict[str, Any]:
    """Return the table rows of the objects near a position, by object ID."""
    return {str(row["object_id"]): repr(tuple(row)) for row in archive.cone_search(position, "1 arcmin")}


def stream(archive: Archive) -> dict[str, Any]:
    """Return a checksum of every cutout in the batches of an archive, by object ID."""
    batches = archive.batches(batch_size=5)
    return {
        str(n): hashlib.sha256(d.tobytes()).hexdigest()
        for b in batches
        for n, d in zip(b.object_id, b.data, strict=True)
    }


def questions(ids: list[int], position: tuple[float, float], layout: str) -> dict[str, Callable[[Archive], Any]]:
    """Return all queries by name. Every answer is a dict; a damaged archive may return only a part."""
    found: dict[str, Callable[[Archive], Any]] = {
        "get many": lambda a: {"many": hashlib.sha256(a.get_many(ids).tobytes()).hexdigest()},
        "get a small one": lambda a: describe(a.get(ids[0], size=(21, 30), bands=a.bands[::-1])),
        "cone search": lambda a: around(a, position),
        "nearest": lambda a: {"nearest": a.nearest(position, "1 arcmin").object_id},
        "batches": stream,
    }
    if layout == "mosaic":
        found["at"] = lambda a: describe(a.at(position, size=20))
    return found | {f"get {n}": lambda a, n=n: describe(a.get(n)) for n in ids}


def answer(question: Callable[[Archive], Any], archive: Archive) -> Any:
    """Return the answer to a query, or the name of the error."""
    try:
        return question(archive)
    except ArchiveBuilderError as error:
        return f"raised {type(error).__name__}"
    except Exception as error:  # a bug: the test reports it with the byte that causes it
        return f"strange {type(error).__name__}: {error}"


def ask(path: Path, asked: dict[str, Callable[[Archive], Any]]) -> dict[str, Any]:
    """Open the archive and return the answers to all queries."""
    opened = answer(lambda _: Archive(path), None)  # type: ignore[arg-type]
    if isinstance(opened, str):
        return dict.fromkeys(asked, opened)
    with opened:
        return {name: answer(question, opened) for name, question in asked.items()}


def look(path: Path) -> list[str]:
    """Return the kinds of the findings of verify, or the name of the error."""
    try:
        return [finding.kind for finding in verify(path, deep=True)]
    except ArchiveBuilderError as error:
        return [f"raised {type(error).__name__}"]
    except Exception as error:
        return [f"strange {type(error).__name__}: {error}"]


def judge(now: Any, before: dict[str, Any]) -> str:
    """Compare an answer with the answer before the damage."""
    if isinstance(now, str):
        return now
    if now == before:
        return "same"
    return "less" if now.items() < before.items() else "differs"


def read_on_demand(path: Path, ids: list[int], position: tuple[float, float], layout: str) -> None:
    """Print the answers of a reader and of verify for each line on stdin."""
    asked = questions(ids, position, layout)
    before = ask(path, asked)
    assert look(path) == []
    assert all(isinstance(one, dict) and one for one in before.values()), before
    print("ready", flush=True)
    for _ in sys.stdin:
        signal.alarm(HANGS)  # the alarm ends this process, even in a library's endless loop
        now = ask(path, asked)
        said = {"reader": {name: judge(now[name], before[name]) for name in asked}, "verify": look(path)}
        signal.alarm(0)
        print(json.dumps(said), flush=True)


def open_each(path: Path, damage: list[tuple[int, int]]) -> None:
    """Open a shard once for each flipped byte; print each byte before its flip."""
    good = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for offset, bits in damage:
            print(f"byte {offset} ^ {bits}", flush=True)
            os.pwrite(file.fileno(), bytes([good[offset] ^ bits]), offset)
            signal.alarm(HANGS)
            with suppress(ArchiveBuilderError), Shard(path) as shard:
                shard.read_through()
            signal.alarm(0)
            os.pwrite(file.fileno(), good[offset : offset + 1], offset)
    print("all", flush=True)


# ---- the damage


@contextmanager
def flipped(path: Path, offset: int, bits: int) -> Iterator[None]:
    """Flip bits of one byte for the duration of the context, after a check that the byte differs."""
    assert 0 < bits < 256
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]

        def put(value: int) -> None:
            file.seek(offset)
            file.write(bytes([value]))
            file.flush()

        put(byte ^ bits)
        assert path.read_bytes()[offset] != byte
        try:
            yield
        finally:
            put(byte)


def outside_of_pixels(path: Path) -> list[int]:
    """Return the offsets outside the pixels of a shard: tables, attributes, headers, HDF5's own structures."""
    taken = bytearray(path.stat().st_size)
    with h5py.File(path) as file:
        for group in ("", "weight/", "mask/", "color/"):
            for name in ("pixels", "cutouts", "jpeg"):
                dataset = file.get(f"{group}{name}")
                if dataset is not None and not dataset.is_virtual:
                    for chunk in map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks())):
                        taken[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\1" * chunk.size
    return [offset for offset, there in enumerate(taken) if not there]


def filled(path: Path) -> list[int]:
    """Return the offsets of nonzero bytes of an index. A small index is mostly unused space."""
    return [offset for offset, byte in enumerate(path.read_bytes()) if byte]


def offsets(path: Path, chance: random.Random) -> Iterator[int]:
    """Choose offsets in a file: half of them anywhere, half where damage matters most."""
    rich = outside_of_pixels(path) if path.suffix == ".h5" else filled(path)
    for number in range(FLIPS):
        yield chance.choice(rich) if number % 2 else chance.randrange(path.stat().st_size)


# ---- claims


@pytest.fixture(scope="module", params=["mosaic", "stamps"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An archive of two tiles with all planes, and its layout."""
    folder = tmp_path_factory.mktemp("flipped")
    recipe = make_survey(folder / "survey", tiles=2, tile_size=256, objects=8, seed=3)
    text = re.sub(r"(?m)^(max_background_rms|min_depth) .*\n", "", recipe.read_text())
    for key, value in {"bands": '["r", "i"]', "size": "40", "layout": f'"{request.param}"'}.items():
        text, n = re.subn(rf"(?m)^{key}\s*=.*\n", f"{key} = {value}\n", text)
        assert n == 1, key
    recipe.write_text(text + 'planes = ["WGT", "MSK"]\n')
    assert build(recipe, folder / "archive").failures == {}
    return folder / "archive", request.param


class Reader:
    """A process that reads an archive on demand."""

    def __init__(self, archive: Path, layout: str) -> None:
        with Archive(archive) as opened:
            batches = list(opened.batches())
            ids = [int(n) for batch in batches for n in batch.object_id]
            cutouts = [opened.get(n) for n in ids]
        # A position on one tile only. In the overlap, the other tile would answer if one footprint is damaged.
        middle = sum(c.ra for c in cutouts) / len(cutouts)
        outermost = max(cutouts, key=lambda c: abs(c.ra - middle))
        arguments = json.dumps([str(archive), ids, [outermost.ra, outermost.dec], layout])
        command = [sys.executable, __file__, "read on demand", arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._read("before any damage") == "ready\n"

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def look(self, damage: str) -> dict[str, Any]:
        """Return the answers of a reader and of verify for the present files."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return dict(json.loads(self._read(damage)))

    def _read(self, damage: str) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, f"{damage}: the reader died, exit status {self._process.wait()}"
        return said


def outcomes(archive: Path, layout: str, path: Path) -> Counter[str]:
    """Flip bytes of a file one after another; count the outcomes."""
    counts, chance = Counter[str](), random.Random()
    wrong: list[str] = []
    with Reader(archive, layout) as reader:
        for offset in offsets(path, chance):
            bits = chance.randrange(1, 256)
            with flipped(path, offset, bits):
                said = reader.look(f"byte {offset} ^ {bits}")
            answers, found = set(said["reader"].values()), said["verify"]
            strange = any(one.startswith("strange") for one in [*answers, *found])
            if strange or "differs" in answers or (answers != {"same"} and not found):
                told = {one: [name for name, other in said["reader"].items() if other == one] for one in answers}
                wrong.append(f"byte {offset} ^ {bits}: verify {found}, reader {told}")
            counts["found by verify"] += bool(found)
            counts["told by the reader"] += answers != {"same"}
            counts["harmless"] += not found
        again = reader.look("after all damage")
    assert not wrong, "\n".join(wrong)
    assert (set(again["reader"].values()), again["verify"]) == ({"same"}, [])
    return counts


def test_a_flipped_byte_of_a_shard_is_found_by_verify_and_misleads_no_reader(
    kept: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    archive, layout = kept
    counts = outcomes(archive, layout, min(archive.glob("shards/*.h5")))
    with capsys.disabled():
        print(f"\n{FLIPS} bytes of a shard ({layout}) flipped: {dict(counts)}")
    assert counts["found by verify"] == FLIPS
    assert counts["told by the reader"]


def test_a_flipped_byte_of_the_index_is_found_or_harmless_and_misleads_no_reader(
    kept: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    archive, layout = kept
    counts = outcomes(archive, layout, archive / "index.sqlite")
    with capsys.disabled():
        print(f"\n{FLIPS} bytes of the index ({layout}) flipped: {dict(counts)}")
    assert counts["found by verify"]
    assert counts["told by the reader"]


def test_no_flipped_byte_outside_the_pixels_hangs_or_kills_a_reader(kept: tuple[Path, str], tmp_path: Path) -> None:
    """The bytes include the list of virtual cutouts, which HDF5 keeps in its global heap without a checksum."""
    archive, layout = kept
    path = shutil.copy(min(archive.glob("shards/*.h5")), tmp_path / "shard.h5")
    good, chance = path.read_bytes(), random.Random()
    heap = good.find(b"GCOL")
    assert (heap >= 0) == (layout == "mosaic")
    fragile = range(heap, heap + int.from_bytes(good[heap + 8 : heap + 16], "little")) if heap >= 0 else range(0)
    assert layout == "stamps" or 4096 <= len(fragile) < len(good) - heap
    others = outside_of_pixels(path)
    chosen = sorted({*fragile, *(others if FULL else chance.sample(others, 1000))})
    arguments = json.dumps([str(path), [(offset, chance.randrange(1, 256)) for offset in chosen]])
    done = subprocess.run([sys.executable, __file__, "open each", arguments], capture_output=True, text=True)
    *_, last = done.stdout.splitlines()
    assert (last, done.stderr, done.returncode) == ("all", "", 0)


if __name__ == "__main__":
    first, *rest = json.loads(sys.argv[-1])
    if sys.argv[1] == "open each":
        open_each(Path(first), *rest)
    else:
        read_on_demand(Path(first), *rest)
