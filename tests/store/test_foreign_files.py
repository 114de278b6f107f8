"""Files from a stranger: nothing outside the archive is read, no code from data runs, memory stays bounded."""

from __future__ import annotations

import ast
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from click.testing import CliRunner
from helpers import execute
from PIL import Image

import archive_builder
from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.cli.main import main
from archive_builder.errors import ArchiveBuilderError, ArchiveError, ObjectNotFoundError, RequestError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import verify
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.demo import make_survey

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

A = "DEM033600-280000"
SECRET = 1_234_567
"""Value of every pixel in the files outside the archive."""

MEMORY = 1 << 30
"""Memory limit for all foreign files together, beyond the imports, bytes."""

Attack = Callable[[h5py.File, Path], object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of one tile and two archives: a mosaic with a colour picture, and stamps."""
    folder = tmp_path_factory.mktemp("foreign")
    recipe = make_survey(folder / "survey", tiles=1, tile_size=256, objects=10, seed=2)
    text = re.sub(r"(?m)^(max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    text = re.sub(r"(?m)^bands = .*$", 'bands = ["g", "r"]', re.sub(r"(?m)^size = .*$", "size = 32", text))
    text = text.replace("[storage]", '[storage]\nplanes = ["MSK"]')
    for layout in ("mosaic", "stamps"):
        recipe.write_text(re.sub(r'(?m)^layout = "\w+"', f'layout = "{layout}"', text))
        assert build(recipe, folder / layout).failures == {}
    outside = folder / "outside"
    outside.mkdir()
    np.full(2 * 256 * 256, SECRET, dtype="<i4").tofile(outside / "secret.bin")
    shutil.copy(folder / f"mosaic/shards/{A}.1.h5", outside / "secret.h5")
    with h5py.File(outside / "secret.h5", "r+") as file:
        file["pixels"][...] = SECRET
        file["stamps"] = np.full((10, 2, 32, 32), SECRET, dtype="<i4")
    return folder


def use(path: Path) -> list[np.ndarray]:
    """Return all contents of a shard, read by the library."""
    with Shard(path) as shard:
        size, info = shard.info.size, shard.info
        found = [np.array(shard.headers), shard.reason, shard.objects.rms, shard.skipped.rms, np.array(shard.step)]
        for row in range(min(len(shard.objects.object_id), 20)):
            for plane in (plane for plane in info.planes if plane != "COLOR"):
                out = np.empty((len(info.bands), size, size), dtype=np.int32 if plane == "MSK" else np.float32)
                shard.read(row, (size, size), slice(None), out, plane)
                found.append(out)
            x, y = shard.objects.x[row], shard.objects.y[row]
            if info.layout == "mosaic":
                shard.holds(float(x), float(y), (size, size))
        if "COLOR" in info.planes:
            found.append(shard.read_color(0, 0, (256, 256)))
        return [*found, np.array(str(shard.settings))]


def saw_secret(arrays: list[np.ndarray], step: float) -> bool:
    return any(np.isin(a, [SECRET, np.float32(SECRET * step)]).any() for a in arrays if a.dtype.kind in "if")


def is_one_line(error: BaseException) -> bool:
    text = str(error)
    return text.isprintable() and len(text) < 3000


# ---- attacks on a mosaic's shard


def replaced(name: str, make: Attack, **attributes: Any) -> Attack:
    """Return an attack that replaces an item, keeps its attributes, and sets attributes of the file."""

    def attack(file: h5py.File, outside: Path) -> None:
        kept = dict(file[name].attrs) if isinstance(file[name], h5py.Dataset) else {}
        del file[name]
        made = make(file, outside)
        if made is not None:
            file[name] = made
        if name in file and file.get(name, getlink=True).__class__ is h5py.HardLink:
            file[name].attrs.update(kept)
        for key, value in attributes.items():
            file.attrs[key] = value

    return attack


def layout_of(outside: Path) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((2, 256, 256), "<i4")
    layout[...] = h5py.VirtualSource(outside / "secret.h5", "pixels", (2, 256, 256))
    return layout


def tables_of(rows: int, chunks: int = 8192) -> Attack:
    """Return an attack that claims many objects."""

    def attack(file: h5py.File, outside: Path) -> None:
        for name in list(file["objects"]):
            old = file[f"objects/{name}"]
            shape, dtype = (rows, *old.shape[1:]), old.dtype
            del file[f"objects/{name}"]
            file.create_dataset(f"objects/{name}", shape, dtype, chunks=(chunks, *shape[1:]), fletcher32=True)
        del file["cutouts"], file["mask/cutouts"]
        for group in ("/", "/mask"):
            made = file.create_dataset(f"{group}/cutouts", (rows, 2, 32, 32), "<i4", chunks=(1, 2, 32, 32))
            made.attrs.update(dict(file[f"{group}/pixels"].attrs))

    return attack


def mosaic_of(side: int, chunks: tuple[int, ...] = (2, 128, 128)) -> Attack:
    """Return an attack that claims a large tile."""

    def attack(file: h5py.File, outside: Path) -> None:
        for group in ("/", "/mask"):
            kept = dict(file[f"{group}/pixels"].attrs)
            del file[f"{group}/pixels"], file[f"{group}/written"]
            made = file.create_dataset(f"{group}/pixels", (2, side, side), "<i4", chunks=chunks)
            made.attrs.update(kept)
            shape = (-(-side // 128),) * 2
            file.create_dataset(f"{group}/written", shape, "u1", chunks=(128, 128))
        n = (-(-side // 128)) ** 2 + 1
        del file["color/start"]
        file.create_dataset("color/start", (n,), "<i8", chunks=(8192,))
        file.attrs["height"], file.attrs["width"] = np.int64(side), np.int64(side)

    return attack


def cycle(name: str) -> Attack:
    return lambda file, _: file.__setitem__(name, file["/"])


def pixels(*arguments: Any, **options: Any) -> Attack:
    return replaced("pixels", lambda file, _: file.create_dataset("pixels", *arguments, **options) and None)


def external(file: h5py.File, outside: Path) -> None:
    file.create_dataset("pixels", (2, 256, 256), "<i4", external=[(outside / "secret.bin", 0, h5py.h5f.UNLIMITED)])


def external_table(file: h5py.File, outside: Path) -> None:
    file.create_dataset("objects/x", (10,), "<f8", external=[(outside / "secret.bin", 0, h5py.h5f.UNLIMITED)])


def invalid_header(file: h5py.File, outside: Path) -> None:
    del file["headers"]
    file["headers"] = np.array([b"\xff\xfe", b"\xff\n"], dtype=h5py.string_dtype("utf-8", 2))


def stamps_elsewhere(file: h5py.File, outside: Path) -> None:
    """Label a mosaic as stamps: its virtual cutouts could then lead to any file."""
    file.attrs["layout"] = np.bytes_("stamps")
    layout = h5py.VirtualLayout((10, 2, 32, 32), "<i4")
    layout[...] = h5py.VirtualSource(outside / "secret.h5", "stamps", (10, 2, 32, 32))
    for group in ("/", "/mask"):
        kept = dict(file[f"{group}/cutouts"].attrs)
        del file[f"{group}/cutouts"]
        file.create_virtual_dataset(f"{group}/cutouts", layout)
        file[f"{group}/cutouts"].attrs.update(kept)


ATTACKS: dict[str, Attack] = {
    "pixels by external link": replaced("pixels", lambda _, out: h5py.ExternalLink(out / "secret.h5", "/pixels")),
    "pixels by soft link": replaced("pixels", lambda *_: h5py.SoftLink("/mask/pixels")),
    "pixels by a link to nowhere": replaced("pixels", lambda *_: h5py.SoftLink("/nowhere")),
    "objects by external link": replaced("objects", lambda _, out: h5py.ExternalLink(out / "secret.h5", "/objects")),
    "mask by external link": replaced("mask", lambda _, out: h5py.ExternalLink(out / "secret.h5", "/mask")),
    "headers by external link": replaced("headers", lambda _, out: h5py.ExternalLink(out / "secret.h5", "/headers")),
    "colour by external link": replaced("color", lambda _, out: h5py.ExternalLink(out / "secret.h5", "/color")),
    "link to a fifo": replaced("pixels", lambda _, out: h5py.ExternalLink("/dev/zero", "/pixels")),
    "pixels stored outside": replaced("pixels", external),
    "table stored outside": replaced("objects/x", external_table),
    "virtual pixels": replaced("pixels", lambda f, out: f.create_virtual_dataset("pixels", layout_of(out)) and None),
    "virtual stamps": stamps_elsewhere,
    "group in itself": cycle("objects/again"),
    "file in itself": cycle("again"),
    "deep cycle": cycle("mask/again"),
    "gzip": pixels((2, 256, 256), "<i4", compression="gzip"),
    "lzf": pixels((2, 256, 256), "<i4", compression="lzf"),
    "another plugin": pixels((2, 256, 256), "<i4", **hdf5plugin.Blosc()),
    "filter that is nowhere": pixels((2, 256, 256), "<i4", chunks=True, compression=32767, allow_unknown_filter=True),
    "10^15 pixels": mosaic_of(3 * 10**7),
    "10^11 pixels": mosaic_of(3 * 10**5),
    "10^12 objects": tables_of(10**12),
    "10^8 objects": tables_of(10**8),
    "10^7 objects": tables_of(10**7),
    "10^7 objects in one chunk": tables_of(10**7, 10**7),
    "huge chunk": pixels((2, 256, 256), "<i4", chunks=(2, 2**14, 2**14), maxshape=(None, None, None)),
    "doubles": pixels((2, 256, 256), "<f8"),
    "bytes": pixels((2, 256, 256), "i1"),
    "other byte order and sign": pixels((2, 256, 256), "<u4"),
    "texts": pixels((2, 256, 256), h5py.string_dtype()),
    "lists": pixels((2, 256, 256), h5py.vlen_dtype("<i4")),
    "references": pixels((2, 256, 256), h5py.ref_dtype),
    "records": pixels((2, 256, 256), np.dtype([("a", "<i4")])),
    "one number": pixels((), "<i4"),
    "nothing": replaced("pixels", lambda file, _: h5py.Empty("<i4")),
    "group of that name": replaced("pixels", lambda file, _: file.create_group("pixels") and None),
    "type of that name": replaced("pixels", lambda *_: np.dtype("<i4")),
    "transposed": pixels((256, 256, 2), "<i4"),
    "ids as lists": replaced("objects/object_id", lambda *_: np.array([[1]] * 10)),
    "ids as floats": replaced("objects/object_id", lambda *_: np.arange(10.0)),
    "ids as texts": replaced("objects/object_id", lambda *_: [b"1"] * 10),
    "fewer ids": replaced("objects/object_id", lambda *_: np.arange(3)),
    "headers as numbers": replaced("headers", lambda *_: np.arange(2)),
    "headers that are no text": invalid_header,
    "no image among the planes": lambda file, _: file.attrs.__setitem__("planes", np.array([b"MSK"])),
    "unknown plane": lambda file, _: file.attrs.__setitem__("planes", np.array([b"SCI", b"NEW"])),
    "unknown layout": lambda file, _: file.attrs.__setitem__("layout", np.bytes_("../x")),
    "unknown encoding": lambda file, _: file["pixels"].attrs.__setitem__("encoding", np.bytes_("pickle")),
    "scale of one band": lambda file, _: file["pixels"].attrs.__setitem__("scale", np.ones(1)),
    "scale as text": lambda file, _: file["pixels"].attrs.__setitem__("scale", np.bytes_("1")),
    "no scale": lambda file, _: file["pixels"].attrs.__delitem__("scale"),
    "size of zero": lambda file, _: file.attrs.__setitem__("size", np.int64(0)),
    "negative height": lambda file, _: file.attrs.__setitem__("height", np.int64(-1)),
    "huge size": lambda file, _: file.attrs.__setitem__("size", np.int64(2**62)),
    "tile elsewhere": lambda file, _: file.attrs.__setitem__("tile", np.bytes_("../../etc/passwd")),
    "tile on two lines": lambda file, _: file.attrs.__setitem__("tile", np.bytes_("a\nb\x1b[31m")),
    "recipe nested": lambda file, _: file.attrs.__setitem__("recipe", np.bytes_("[" * 30_000)),
}


@pytest.fixture(scope="module")
def attacked(place: Path) -> dict[str, Path]:
    """A shard for each attack."""
    folder = place / "attacked"
    folder.mkdir()
    files = {}
    for number, (name, attack) in enumerate(ATTACKS.items()):
        files[name] = folder / f"{number}.h5"
        shutil.copy(place / f"mosaic/shards/{A}.1.h5", files[name])
        with h5py.File(files[name], "r+") as file:
            attack(file, place / "outside")
    return files


@pytest.mark.parametrize("name", ATTACKS)
def test_foreign_shard_is_an_error_on_one_line_that_names_it(attacked: dict[str, Path], name: str) -> None:
    with pytest.raises(ArchiveError) as caught:
        use(attacked[name])
    assert is_one_line(caught.value)
    assert str(attacked[name]) in str(caught.value)


def test_good_shards_are_read_and_the_check_detects_the_secret(place: Path) -> None:
    for path in (place / f"mosaic/shards/{A}.1.h5", place / f"stamps/shards/{A}.1.h5"):
        with h5py.File(path) as file:
            step = float(file["pixels" if "pixels" in file else "cutouts"].attrs["scale"][0])
        assert not saw_secret(use(path), step)
    seen = place / "seen.h5"
    shutil.copy(place / "outside/secret.h5", seen)
    with h5py.File(seen, "r+") as file:
        del file["stamps"]
        step = float(file["pixels"].attrs["scale"][0])
    assert saw_secret(use(seen), step)


MEASURE = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import test_foreign_files as tests
limit = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (limit + tests.MEMORY,) * 2)
refused = 0
for path in sys.argv[2:]:
    try:
        tests.use(Path(path))
        print("read", path)
    except tests.ArchiveError as error:
        refused += 1
        if "emory" in str(error):
            print(error)
print(refused, "refused")
"""


def test_all_foreign_shards_together_take_at_most_a_gigabyte(attacked: dict[str, Path]) -> None:
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), *map(str, attacked.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (f"{len(ATTACKS)} refused\n", "", 0)


# ---- attributes


STRANGE: dict[str, Any] = {
    "list": np.arange(3),
    "list of texts": np.array([b"a", b"b", b"c"]),
    "number": np.float32(7),
    "text": np.bytes_("seven"),
    "long text": np.bytes_("x\n" * 30_000),
    "not UTF-8": np.array(b"\xff\xfe\n", dtype=h5py.string_dtype("utf-8", 3)),
    "not UTF-8 of varying length": b"\xff\xfe\n",
    "nothing": h5py.Empty("f4"),
    "huge": np.int64(2**62),
    "negative": np.int64(-5),
    "not a number": np.float64(np.nan),
    "record": np.zeros((), dtype=[("a", "<i4")]),
    "matrix": np.zeros((3, 3)),
    "truth": np.bool_(True),
}

HARMLESS = {
    "survey",
    "software",
    "input_fingerprint",
    "quantization",
    "zero_point",
    "pixel_scale",
    "tile",
    "generation",
    "without_id",
}
"""Attributes that accept any value of the right type; tile and generation must equal those of the index."""


def strange_shards(place: Path, tmp_path: Path, group: str) -> list[tuple[str, str, Path]]:
    with h5py.File(place / f"mosaic/shards/{A}.1.h5") as file:
        names = list(file[group].attrs)
    made = []
    for name in names:
        for number, (kind, value) in enumerate({"missing": None, **STRANGE}.items()):
            path = tmp_path / f"{name}-{number}.h5"
            shutil.copy(place / f"mosaic/shards/{A}.1.h5", path)
            with h5py.File(path, "r+") as file:
                del file[group].attrs[name]
                if value is not None:
                    file[group].attrs[name] = value
            made.append((name, kind, path))
    return made


@pytest.mark.parametrize("group", ["/", "pixels"])
def test_missing_or_wrong_attributes_are_errors_on_one_line(place: Path, tmp_path: Path, group: str) -> None:
    read, refused = set(), set()
    for name, kind, path in strange_shards(place, tmp_path, group):
        try:
            use(path)
            read.add((name, kind))
        except ArchiveError as error:
            assert is_one_line(error), (name, kind)
            assert str(path) in str(error), (name, kind)
            refused.add((name, kind))
        path.unlink()
    assert {kind for _, kind in refused} == {"missing", *STRANGE}
    assert {name for name, _ in read} <= HARMLESS | {"blank"}
    assert not {name for name, kind in read if kind in ("missing", "list", "record", "matrix", "nothing")}


# ---- colour pictures


def jpeg(width: int, height: int, claims: tuple[int, int] | None = None) -> bytes:
    """Return a JPEG; its header may claim another size, height first."""
    file = BytesIO()
    Image.new("RGB", (width, height), (9, 9, 9)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    if claims:
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = claims[0].to_bytes(2, "big") + claims[1].to_bytes(2, "big")
    return bytes(data)


def other_format(name: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (128, 128)).save(file, name)
    return file.getvalue()


PICTURES: dict[str, tuple[bytes, list[int] | None]] = {
    "bomb": (jpeg(128, 128, (65_500, 65_500)), None),
    "smaller bomb": (jpeg(128, 128, (12_000, 12_000)), None),
    "too large": (jpeg(200, 128), None),
    "too small": (jpeg(64, 64), None),
    "one row short": (jpeg(128, 127), None),
    "cut off": (jpeg(128, 128)[:300], None),
    "garbage": (b"garbage", None),
    "PNG": (other_format("PNG"), None),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 128 128\n(/etc/passwd) run\n", None),
    "empty": (jpeg(128, 128), [0, 0, 0, 0, 0]),
    "falling": (jpeg(128, 128), [500, 400, 300, 200, 100]),
    "negative": (jpeg(128, 128), [-(2**62), -(2**61), -5, -4, -3]),
    "beyond": (jpeg(128, 128), [2**62, 2**62 + 1, 2**62 + 2, 2**62 + 3, 2**62 + 4]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_invalid_picture_of_a_square_is_an_error(place: Path, tmp_path: Path, name: str) -> None:
    data, start = PICTURES[name]
    path = tmp_path / "t.h5"
    shutil.copy(place / f"mosaic/shards/{A}.1.h5", path)
    with h5py.File(path, "r+") as file:
        del file["color/jpeg"], file["color/start"]
        file["color/jpeg"] = np.frombuffer(data, dtype=np.uint8)
        file["color/start"] = np.array(start or [0, *[len(data)] * 4], dtype=np.int64)
    with Shard(path) as shard, pytest.raises(ArchiveError) as caught:
        shard.read_color(0, 0, (128, 128))
    assert is_one_line(caught.value)
    assert str(path) in str(caught.value)


# ---- the index


def objects(archive: Path) -> list[int]:
    connection = sqlite3.connect(archive / "index.sqlite")
    try:
        return [n for (n,) in connection.execute("SELECT object_id FROM objects WHERE status = 0")]
    finally:
        connection.close()


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    """Copy of the archive, two folders below forbidden files."""
    for name in ("secret.h5", "T.1.h5", f"{A}.1.h5"):
        shutil.copy(place / "outside/secret.h5", tmp_path / name)
    return Path(shutil.copytree(place / "mosaic", tmp_path / "somewhere/archive"))


def questions(archive: Path, ids: list[int]) -> dict[str, Callable[[], object]]:
    """Return a query for every way into an archive; each opens the archive itself."""

    def ask(what: Callable[[Archive], object]) -> Callable[[], object]:
        def answer() -> object:
            with Archive(archive) as opened:
                return what(opened)

        return answer

    return {
        "get": ask(lambda a: a.get(ids[0]).data),
        "get_many": ask(lambda a: a.get_many(ids)),
        "batches": ask(lambda a: [batch.data for batch in a.batches()]),
        "at": ask(lambda a: a.at((54.0, -28.0), size=8).data),
        "cone_search": ask(lambda a: a.cone_search((54.0, -28.0), "1 deg")),
        "locate": ask(lambda a: a.locate(ids[0]).shard),
    }


def assert_refused(archive: Path, ids: list[int], some_may_answer: bool = False) -> None:
    """Assert that every query is an error on one line, and that no answer shows the secret."""
    for name, question in questions(archive, ids).items():
        try:
            answer = question()
        except ArchiveError as error:
            assert is_one_line(error), name
        except RequestError:
            assert some_may_answer, name
        else:
            assert some_may_answer, name
            for data in answer if isinstance(answer, list) else [answer]:
                assert not isinstance(data, np.ndarray) or not (np.nan_to_num(data) > 1e4).any(), name
    findings = list(verify(archive))
    assert findings
    for finding in findings:
        assert finding.what.isprintable()


@pytest.mark.parametrize(
    "shard",
    ["../../secret.h5", "{out}/secret.h5", f"shards/../shards/{A}.1.h5", f"shards//{A}.1.h5", "", "shards", "\n"],
)
def test_shard_at_an_unexpected_path_is_not_opened(archive: Path, tmp_path: Path, shard: str) -> None:
    ids, shard = objects(archive), shard.format(out=tmp_path)
    execute(archive, f"UPDATE tiles SET shard = '{shard}'")
    assert_refused(archive, ids, some_may_answer=shard == "")
    assert list(verify(archive)) != []


@pytest.mark.parametrize(
    "name", ["../T", "../../T", "a/b", "/etc/T", "..", ".", ".hidden", "", "a\nb", "a\x1b[31m", "x" * 5000, "a b", "ü"]
)
def test_tile_with_an_unsafe_name_is_refused(archive: Path, name: str) -> None:
    ids = objects(archive)
    execute(archive, f"UPDATE tiles SET name = '{name}', shard = 'shards/{name}.1.h5'")
    assert_refused(archive, ids)
    result = CliRunner().invoke(main, ["status", str(archive)], catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    reindex(archive)
    with Archive(archive) as opened:
        assert opened.locate(ids[0]).tile == A


TABLES = {
    "view of tiles": ["ALTER TABLE tiles RENAME TO t", "CREATE VIEW tiles AS SELECT * FROM t"],
    "view of objects": ["ALTER TABLE objects RENAME TO o", "CREATE VIEW objects AS SELECT * FROM o"],
    "endless view": [
        "DROP TABLE objects",
        "CREATE VIEW objects AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS object_id, 1 AS tile_id, 0 AS row, 0 AS status FROM n",
    ],
    "endless settings": [
        "DROP TABLE settings",
        "CREATE VIEW settings AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS key, '1' AS value FROM n",
    ],
    "other view": ["CREATE VIEW v AS SELECT 1"],
    "trigger": ["CREATE TRIGGER t AFTER UPDATE ON tiles BEGIN DELETE FROM objects; END"],
    "virtual table": ["DROP TABLE objects", "CREATE VIRTUAL TABLE objects USING fts5(object_id, tile_id, row, status)"],
    "worked-out column": [
        "DROP TABLE objects",
        "CREATE TABLE objects (object_id INTEGER PRIMARY KEY, tile_id INTEGER, row INTEGER, "
        "status INTEGER AS (length(hex(zeroblob(1000)))))",
        "INSERT INTO objects (object_id, tile_id, row) VALUES (1, 1, 0)",
    ],
    "column too many": ["ALTER TABLE tiles ADD COLUMN more TEXT"],
    "column too few": ["ALTER TABLE tiles DROP COLUMN checksum"],
    "no table": ["DROP TABLE settings"],
}


@pytest.mark.parametrize("name", TABLES)
def test_index_with_other_tables_is_refused_by_readers_and_builders(place: Path, archive: Path, name: str) -> None:
    ids = objects(archive)
    execute(archive, *TABLES[name])
    assert_refused(archive, ids)
    before = (archive / "index.sqlite").read_bytes()
    with pytest.raises(ArchiveError, match=r"its tables are not those of an index"):
        build(place / "survey/survey.toml", archive)
    assert (archive / "index.sqlite").read_bytes() == before
    reindex(archive)
    with Archive(archive) as opened:
        assert opened.locate(ids[0]).tile == A


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", "{"),
        ("size", "1e9"),
        ("size", "-1"),
        ("size", '"x"'),
        ("bands", "[]"),
        ("bands", "{}"),
        ("bands", "[1]"),
    ]
    + [("recipe", text) for text in ("[" * 3000, "null", "[]", '{"survey": []}', "\x00")],
)
def test_invalid_settings_are_refused(archive: Path, key: str, value: str) -> None:
    ids = objects(archive)
    execute(archive, f"UPDATE settings SET value = CAST(x'{value.encode().hex()}' AS TEXT) WHERE key = '{key}'")
    assert_refused(archive, ids)
    result = CliRunner().invoke(main, ["status", str(archive)], catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "change", ["row = -1", "row = 10", "row = 9223372036854775807", "row = 1e300", "row = x'00'", "status = 9"]
)
def test_object_with_a_wrong_row_is_an_error(archive: Path, change: str) -> None:
    ids = objects(archive)
    execute(archive, f"UPDATE objects SET {change}")
    with Archive(archive) as opened:
        for question in (lambda: opened.get(ids[0]), lambda: opened.get_many(ids)):
            with pytest.raises(ArchiveError) as caught:
                question()
            assert is_one_line(caught.value)


def test_object_ids_beyond_64_bits_are_wrong_requests(place: Path, tmp_path: Path) -> None:
    with Archive(place / "mosaic") as opened:
        for number in (2**63, -(2**63) - 1, 2**64, 10**30, -(10**30), 1.5, "1", None):
            many = (lambda n: opened.get_many([n]), lambda n: opened.reader.find([n]))
            for question in (opened.get, opened.locate, *many):
                with pytest.raises(RequestError) as caught:
                    question(number)  # type: ignore[arg-type]
                assert is_one_line(caught.value)
        for number in (2**63 - 1, -(2**63), 0, -1):
            with pytest.raises(ObjectNotFoundError):
                opened.get(number)
    for number in (2**63, 10**30):
        result = CliRunner().invoke(main, ["get", str(place / "mosaic"), str(number), "-o", str(tmp_path / "x.fits")])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


# ---- reindexing and the survey


def test_reindex_leaves_out_foreign_shards(place: Path, attacked: dict[str, Path], tmp_path: Path) -> None:
    archive = Path(shutil.copytree(place / "mosaic", tmp_path / "archive"))
    for path in attacked.values():
        shutil.copy(path, archive / f"shards/{path.name}")
    (archive / "shards/a\nb.1.h5").write_bytes(b"garbage")
    (archive / "shards/folder.1.h5").mkdir()
    (archive / "shards/loop.1.h5").symlink_to("loop.1.h5")
    result = CliRunner().invoke(main, ["reindex", str(archive)], catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("\n")) == (0, len(attacked) + 3)
    assert objects(archive) == objects(place / "mosaic")


@pytest.mark.parametrize("name", ["..", "../x", "/etc/x", "a/b", ".x", "a\nb", "a\x1b[31mb", "-x", "*", "a{band}"])
def test_tile_table_cannot_lead_out_of_the_archive(place: Path, tmp_path: Path, name: str) -> None:
    survey = Path(shutil.copytree(place / "survey", tmp_path / "survey"))
    recipe = survey / "survey.toml"
    recipe.write_text(recipe.read_text().replace("[survey]", '[survey]\ntiles = "tiles.csv"'))
    (survey / "tiles.csv").write_text(f'tile,n\n"{name}",1\n')
    before = set(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["build", str(recipe), str(tmp_path / "archive")], catch_exceptions=False)
    assert result.exit_code != 0
    assert result.stderr.splitlines()[-1].startswith("error: tile ")
    assert all(line.isprintable() for line in result.stderr.splitlines())
    made = {path.relative_to(tmp_path) for path in {*tmp_path.rglob("*")} - before}
    assert {path.parts[0] for path in made} <= {"archive"}
    assert not [path for path in made if path.suffix == ".h5"]


# ---- code from data


def calls() -> list[tuple[str, ast.Call]]:
    """Return every call in the package, with the called name."""
    found = []
    for path in Path(archive_builder.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((ast.unparse(node.func), node))
    return found


def test_no_file_contents_are_ever_executed() -> None:
    everything = calls()
    assert len(everything) > 500
    banned = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "enable_load_extension"}
    assert {name for name, _ in everything} & banned == set()
    for name, call in everything:
        keywords = {word.arg: word.value for word in call.keywords}
        if name.split(".")[-1] == "load" and name.split(".")[0] in ("np", "numpy"):
            assert isinstance(given := keywords.get("allow_pickle"), ast.Constant)
            assert given.value is False
        assert not ("allow_pickle" in keywords and ast.unparse(keywords["allow_pickle"]) != "False")
        assert "shell" not in keywords
    imported = set()
    for path in Path(archive_builder.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    assert {"h5py", "sqlite3"} <= imported
    assert imported & {"pickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "subprocess"} == set()


def test_json_answers_keep_foreign_text_and_printed_lines_escape_it(archive: Path) -> None:
    execute(archive, "INSERT INTO tiles (name, state, error) VALUES ('T', 'failed', 'two\nlines \x1b[31m')")
    told = CliRunner().invoke(main, ["status", str(archive)], catch_exceptions=False)
    assert all(line.isprintable() for line in told.stdout.splitlines())
    assert [line for line in told.stdout.splitlines() if "lines" in line] == [r"tile T failed: two\nlines \x1b[31m"]
    answer = CliRunner().invoke(main, ["status", str(archive), "--json"], catch_exceptions=False)
    assert json.loads(answer.stdout)["failures"] == {"T": "two\nlines \x1b[31m"}


def test_errors_of_this_package_are_one_line_with_any_quoted_text() -> None:
    for text in ("a\nb", "\x1b]0;title\x07", "\udcff", "x" * 10**6, "\u2028", "\u202e"):
        assert is_one_line(ArchiveBuilderError(f"file {text}: is damaged"))
    assert str(ArchiveError("Größe 5″: naïve")) == "Größe 5″: naïve"
