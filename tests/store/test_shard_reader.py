"""One shard in both layouts, read back by plain h5py and by the library."""

from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.atomic import rename_durably
from archive_builder.errors import ArchiveError
from archive_builder.geometry import window_origin
from archive_builder.measure.quantize import BLANK, Codec, Lossless, NoiseScaled
from archive_builder.store.contents import Contents
from archive_builder.store.format import checksum
from archive_builder.store.records import ObjectTable, ShardInfo
from archive_builder.store.rows import RowBuffer
from archive_builder.store.shard_reader import Shard
from archive_builder.store.shard_writer import ShardWriter

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

BANDS = ("g", "Y")
LAYOUTS = ("mosaic", "stamps")


def table(x: np.ndarray, y: np.ndarray, first_id: int = 2**60) -> ObjectTable:
    n = len(x)
    rms = np.ones((n, len(BANDS)), dtype=np.float32)
    return ObjectTable(np.arange(first_id, first_id + n), x / 1000, y / 1000, x, y, rms)


def write(path: Path, flux: np.ndarray, objects: ObjectTable, size: int, layout: str, codec: Codec) -> None:
    """Write a shard like the builder, but with the whole tile in one strip."""
    height, width = flux.shape[1:]
    quantization = "lossless" if isinstance(codec, Lossless) else "16.0"
    info = ShardInfo(
        "S",
        "T",
        1,
        BANDS,
        ("SCI",),
        layout,
        quantization,
        size,
        height,
        width,
        "integer",
        0.263,
        np.full(len(BANDS), 30.0),
        np.zeros((4, 2)),
        "in",
        "rec",
    )
    rows = RowBuffer(codec, (height, width))
    with ShardWriter(path, info, {"SCI": ["SIMPLE  = T"] * len(BANDS)}, {"SCI": codec}) as writer:
        rows.append(flux)
        writer.add_cutouts("SCI", *window_origin(objects.x, objects.y, (size, size)), rows)
        for number, slab in rows.release(height):
            writer.add_slab("SCI", number, slab)
        writer.finish(objects, table(np.array([-5.0]), np.array([3.0]), 1), np.array([3], dtype=np.uint8))
    rename_durably(writer.draft, path)


def window(flux: np.ndarray, x: float, y: float, size: int) -> np.ndarray:
    """Cut a window out of a padded tile, as the independent answer."""
    x0, y0 = round(x) - size // 2 + size, round(y) - size // 2 + size
    return np.pad(flux, ((0, 0), (size, size), (size, size)), constant_values=np.nan)[:, y0 : y0 + size, x0 : x0 + size]


def tile(height: int, width: int, seed: int = 0) -> np.ndarray:
    flux = np.random.default_rng(seed).integers(-1000, 1000, (len(BANDS), height, width)).astype(np.float32)
    flux[0, : height // 4, : width // 3] = np.nan
    return flux


@settings(max_examples=30)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 90),
    layout=st.sampled_from(LAYOUTS),
    lossless=st.booleans(),
    data=st.data(),
)
def test_cutouts_are_the_tiles_own_pixels_in_either_layout(
    height: int, width: int, size: int, layout: str, lossless: bool, data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, 6))
    inside = st.tuples(st.floats(-0.49, width - 0.51), st.floats(-0.49, height - 0.51))
    x, y = np.array(data.draw(st.lists(inside, min_size=n, max_size=n))).reshape(n, 2).T
    flux = tile(height, width)
    codec: Codec = Lossless((1.0,) * 2) if lossless else NoiseScaled((1.0,) * 2)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.h5"
        write(path, flux, table(x, y), size, layout, codec)
        expected = np.array([window(flux, *place, size) for place in zip(x, y, strict=True)])
        expected = expected.reshape(n, len(BANDS), size, size)
        with h5py.File(path) as plain:
            stored = plain["cutouts"][...]
            assert plain["cutouts"].attrs["scale"].tolist() == [1.0, 1.0]
        np.testing.assert_array_equal(stored, expected if lossless else np.where(np.isnan(expected), BLANK, expected))
        with Shard(path) as shard:
            for row in range(n):
                ny, nx = data.draw(st.integers(1, size)), data.draw(st.integers(1, size))
                got = np.empty((2, ny, nx), dtype=np.float32)
                shard.read(row, (ny, nx), [1, 0], got)
                dy, dx = size // 2 - ny // 2, size // 2 - nx // 2
                np.testing.assert_array_equal(got, expected[row][::-1, dy : dy + ny, dx : dx + nx])


@pytest.fixture(params=LAYOUTS)
def shard_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    x, y = np.array([20.0, 600.0, 990.0]), np.array([30.0, 40.0, 700.0])
    write(tmp_path / "t.h5", tile(768, 1000), table(x, y), 64, request.param, NoiseScaled((1.0, 1.0)))
    return tmp_path / "t.h5"


def test_mosaic_writes_only_the_chunks_touched_by_cutouts(tmp_path: Path) -> None:
    write(
        tmp_path / "t.h5",
        tile(768, 1000),
        table(np.array([300.0]), np.array([200.0])),
        64,
        "mosaic",
        NoiseScaled((1.0, 1.0)),
    )
    with h5py.File(tmp_path / "t.h5") as plain:
        pixels = plain["pixels"].id
        corners = {pixels.get_chunk_info(i).chunk_offset[1:] for i in range(pixels.get_num_chunks())}
    # The window is 268:332 by 168:232.
    assert corners == {(128, 256)}


def test_tables_are_read_back(shard_path: Path) -> None:
    with Shard(shard_path) as shard:
        assert shard.objects.object_id.tolist() == [2**60, 2**60 + 1, 2**60 + 2]
        assert shard.objects.x.tolist() == [20.0, 600.0, 990.0]
        assert shard.skipped.object_id.tolist() == [1]
        assert shard.reason.tolist() == [3]
        assert (shard.info.tile, shard.info.bands, shard.info.size) == ("T", BANDS, 64)


def test_unfinished_shard_leaves_no_file(tmp_path: Path) -> None:
    info = ShardInfo(
        "S",
        "T",
        1,
        BANDS,
        ("SCI",),
        "mosaic",
        "16.0",
        8,
        9,
        9,
        "integer",
        0.2,
        np.full(2, 30.0),
        np.zeros((4, 2)),
        "",
        "",
    )
    with (
        pytest.raises(RuntimeError),
        ShardWriter(tmp_path / "t.h5", info, {"SCI": ["", ""]}, {"SCI": NoiseScaled((1.0, 1.0))}),
    ):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_flipped_byte_among_the_pixels_is_an_error_that_names_shard_and_object(shard_path: Path) -> None:
    with h5py.File(shard_path) as plain:
        dataset = plain["pixels" if "pixels" in plain else "cutouts"]
        chunk = dataset.id.get_chunk_info(0)
    content = bytearray(shard_path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    shard_path.write_bytes(content)
    with Shard(shard_path) as shard, pytest.raises(ArchiveError, match=rf"{shard_path}.*object {2**60}"):
        shard.read(0, (64, 64), slice(0, 2), np.empty((2, 64, 64), np.float32))


@pytest.mark.parametrize("damage", ["missing", "garbage", "truncated", "foreign", "newer", "no pixels"])
def test_error_names_a_file_that_is_no_valid_shard(shard_path: Path, damage: str) -> None:
    if damage == "missing":
        shard_path.unlink()
    elif damage == "garbage":
        shard_path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 50)
    elif damage == "truncated":
        shard_path.write_bytes(shard_path.read_bytes()[: shard_path.stat().st_size // 2])
    else:
        with h5py.File(shard_path, "r+") as plain:
            if damage == "foreign":
                plain.attrs["format"] = "something else"
            elif damage == "newer":
                plain.attrs["format_version"] = 99
            else:
                del plain["pixels" if "pixels" in plain else "cutouts"]
    with pytest.raises(ArchiveError) as caught:
        Shard(shard_path)
    assert str(shard_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "complaint"),
    [("objects/ra", "/objects/ra is missing"), ("headers", "/headers is missing"), ("written", "/written is missing")],
)
def test_format_check_names_missing_parts(tmp_path: Path, path: str, complaint: str) -> None:
    write(
        tmp_path / "t.h5", tile(50, 50), table(np.array([9.0]), np.array([9.0])), 8, "mosaic", NoiseScaled((1.0, 1.0))
    )
    with h5py.File(tmp_path / "t.h5", "r+") as plain:
        del plain[path]
    with h5py.File(tmp_path / "t.h5") as plain:
        assert Contents(plain).violations() == [complaint]
    with pytest.raises(ArchiveError, match=complaint):
        Shard(tmp_path / "t.h5")


def test_format_check_names_wrong_shapes_and_types(tmp_path: Path) -> None:
    write(
        tmp_path / "t.h5", tile(50, 50), table(np.array([9.0]), np.array([9.0])), 8, "mosaic", NoiseScaled((1.0, 1.0))
    )
    with h5py.File(tmp_path / "t.h5", "r+") as plain:
        del plain["objects/ra"], plain["skipped/reason"]
        plain["objects/ra"] = np.zeros(2)
        plain["skipped/reason"] = np.zeros(1)
    with h5py.File(tmp_path / "t.h5") as plain:
        assert Contents(plain).violations() == [
            "/objects/ra has shape (2,), not (1,)",
            "/skipped/reason has type float64, not uint8",
        ]


def test_checksum_is_crc32(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"123456789")
    assert checksum(tmp_path / "file") == "crc32:cbf43926"  # check value in the CRC catalogues
