"""Packs of cutouts: pieces of an HDF5 data set or of a WebDataset."""

from __future__ import annotations

import io
import json
import math
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from archive_builder.atomic import whole_file
from archive_builder.choices import BANDS_FORMAT, PACK_NAMES
from archive_builder.errors import ArchiveBuilderError, one_line
from archive_builder.exporting.names import Sample, file_names, sample_key
from archive_builder.serve.cutout import FORMATS, Cutout
from archive_builder.serve.style import Style
from archive_builder.store.format import HDF5_VERSIONS

WRITE_ERRORS = (OSError, RuntimeError, ValueError)
"""Errors of h5py and tarfile on a full disk; some come when the file is closed."""

BYTES_AT_ONCE = 8 * 2**20
"""Maximum size of the cutouts that an HDF5 piece reads and writes at once, bytes."""


def piece_name(prefix: str, number: int, suffix: str) -> str:
    """Return the file name of a piece.

    Examples
    --------
    >>> piece_name("des_", 17, ".h5")
    'des_00017.h5'
    """
    return f"{prefix}{number:05d}{suffix}"


def encode(cutout: Cutout, formats: Sequence[str], style: Style) -> list[bytes]:
    """Return the files of a cutout, in the order of `archive_builder.exporting.names.file_names`.

    Raises
    ------
    RequestError
        The cutout lacks a band or plane that a format needs.
    ArchiveError
        A picture in the archive is damaged.
    """
    contents = []
    for kind in formats:
        if kind == BANDS_FORMAT:
            contents += [cutout.to_bytes((band,)) for band in cutout.bands]
        else:
            contents.append(FORMATS[kind](cutout, style))
    return contents


class Piece(ABC):
    """Writer of one file of cutouts.

    The file gets its name when the block ends without an error. A piece without cutouts leaves no file.

    Parameters
    ----------
    path : Path
        Name of the file. An existing file is replaced, or removed if the piece stays empty.
    formats : sequence of str
        Formats of the files in the piece; an HDF5 piece ignores them.
    style : Style
        Look of pictures.
    own : pyarrow.Table, optional
        The list's own columns for the rows of the job. A cutout gets those of the first row that asks for it.
    """

    suffix: ClassVar[str]
    """End of the file name."""

    def __init__(self, path: Path, formats: Sequence[str], style: Style, own: pa.Table | None = None) -> None:
        self.path, self._formats, self._style = path, tuple(formats), style
        self._own = pa.table({}) if own is None else own
        self._stack = ExitStack()
        self._is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, and rename it if there was no error."""
        with self._errors_named():
            self._stack.__exit__(kind, value, trace)
            if kind is None and self._is_empty:
                self.path.unlink(missing_ok=True)

    @abstractmethod
    def add(self, sample: Sample, cutout: Cutout) -> None:
        """Append a cutout.

        Raises
        ------
        RequestError
            The cutout lacks a band or plane that a format needs.
        ArchiveError
            A picture in the archive is damaged.
        ArchiveBuilderError
            The file cannot be written.
        """

    @classmethod
    @abstractmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Return True if a file exists and holds exactly these samples in this order."""

    def _temporary(self) -> Path:
        """Return the name to write to until the block ends."""
        self._is_empty = False
        # Not flushed to the disk, like all other files of an export: flushing could take twice the time.
        return self._stack.enter_context(whole_file(self.path))

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turn the errors of a full disk into one that names the file."""
        try:
            yield
        except ArchiveBuilderError:  # some are a ValueError too
            raise
        except WRITE_ERRORS as error:
            raise ArchiveBuilderError(f"{self.path}: cannot be written: {one_line(error)}") from None


class Hdf5Piece(Piece):
    """Writer of ``/cutouts (n, bands, ny, nx)`` float32 and a table of the same rows, with the list's own columns.

    The own columns are in ``/list``. A missing integer is the value of the dataset's attribute ``missing``.
    """

    suffix = ".h5"

    def __init__(self, path: Path, formats: Sequence[str], style: Style, own: pa.Table | None = None) -> None:
        super().__init__(path, formats, style, own)
        self._cutouts: h5py.Dataset | None = None
        self._rows: list[Sample] = []
        self._sky: list[NDArray[np.float64]] = []

    @classmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Return True if a file exists and holds exactly these samples in this order."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                return bool(np.array_equal(file["request_row"][...], [sample.row for sample in samples]))
        except (OSError, KeyError):
            return False

    def add(self, sample: Sample, cutout: Cutout) -> None:
        """Append a cutout."""
        sky = sample.position or (cutout.ra, cutout.dec)
        self.add_objects([sample], cutout.bands, np.array([sky]), cutout.data[np.newaxis])

    def add_objects(
        self, samples: Sequence[Sample], bands: Sequence[str], sky: NDArray[np.float64], data: NDArray[np.float32]
    ) -> None:
        """Append many cutouts: faster than one by one.

        Parameters
        ----------
        samples : sequence of Sample
            Samples of the cutouts, (N,).
        bands : sequence of str
            Bands of the cutouts.
        sky : ndarray of float64, (N, 2)
            RA and Dec, deg.
        data : ndarray of float32, (N, bands, ny, nx)
            Pixels, image units.

        Raises
        ------
        ArchiveBuilderError
            The file cannot be written.
        """
        with self._errors_named():
            if self._cutouts is None:
                self._cutouts = self._create(bands, data.shape[1:])
            row = len(self._cutouts)
            self._cutouts.resize(row + len(data), axis=0)
            self._cutouts[row:] = data
            self._rows += samples
            self._sky.append(sky)

    def _create(self, bands: Sequence[str], shape: tuple[int, ...]) -> h5py.Dataset:
        # No other process knows the temporary name: the file needs no lock, and some file systems have none.
        options = {"libver": HDF5_VERSIONS, "rdcc_nbytes": 0, "locking": False}
        file = self._stack.enter_context(h5py.File(self._temporary(), "w", **options))
        self._stack.callback(self._write_table, file)
        file.attrs["bands"] = list(bands)
        size = {"shape": (0, *shape), "maxshape": (None, *shape), "chunks": (1, *shape)}
        return file.create_dataset("cutouts", dtype=np.float32, track_times=False, **size)

    def _write_table(self, file: h5py.File) -> None:
        ra, dec = np.concatenate([np.empty((0, 2)), *self._sky]).T
        table = {"request_row": np.array([sample.row for sample in self._rows], dtype=np.int64), "ra": ra, "dec": dec}
        if self._rows and self._rows[0].position is None:
            table["object_id"] = np.array([sample.key for sample in self._rows], dtype=np.int64)
        for name, column in table.items():
            file.create_dataset(name, data=column, track_times=False)
        own = self._own.take([sample.numbers[0] for sample in self._rows]) if self._own.num_columns else self._own
        taken: set[str] = set()
        for name, column in zip(own.column_names, own.columns, strict=True):
            _write_own_column(file.require_group("list"), _dataset_name(name, taken), column)


def _dataset_name(name: str, taken: set[str]) -> str:
    """Return a column name as a new name of a dataset, without ``/``; add the name to `taken`."""
    label = name.replace("/", "_").replace("\0", "_")
    label = "_" * len(label) if set(label) == {"."} else label
    while label in taken:
        label += "_"
    taken.add(label)
    return label


def _write_own_column(group: h5py.Group, name: str, column: pa.ChunkedArray) -> None:
    """Write one of the list's own columns: numbers as they are, anything else as text."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    if pa.types.is_floating(column.type):
        group.create_dataset(name, data=column.to_numpy(), track_times=False)
    elif pa.types.is_integer(column.type):
        limits = np.iinfo(column.type.to_pandas_dtype())
        missing = limits.min if limits.min < 0 else limits.max
        filled = pc.fill_null(column, pa.scalar(missing, column.type))
        dataset = group.create_dataset(name, data=filled.to_numpy(), track_times=False)
        if column.null_count:
            dataset.attrs["missing"] = filled.type.to_pandas_dtype()(missing)
    else:
        # HDF5 ends a text at its first zero byte.
        texts = [text.replace("\0", "") for text in pc.fill_null(column.cast(pa.string()), "").to_pylist()]
        group.create_dataset(name, data=texts, dtype=h5py.string_dtype(), track_times=False)


@dataclass(frozen=True)
class SampleDescription:
    """Content of a WebDataset sample's JSON."""

    name: str
    """Name of the cutout."""

    object_id: int | None
    """Object ID; None for a position."""

    ra: float
    """Right ascension, deg."""

    dec: float
    """Declination, deg."""

    request_row: int
    """First row of the list that asks for the cutout."""

    tile: str
    """Name of the tile."""

    bands: tuple[str, ...]
    """Bands in the order of the pixels."""

    ny: int
    """Rows of the cutout, px."""

    nx: int
    """Columns of the cutout, px."""

    list: dict[str, Any]
    """The list's own columns."""

    @classmethod
    def of(cls, sample: Sample, cutout: Cutout, own: dict[str, Any]) -> SampleDescription:
        """Return the description of a cutout."""
        ra, dec = sample.position or (cutout.ra, cutout.dec)
        object_id = sample.key if sample.position is None else None
        ny, nx = cutout.data.shape[1:]
        return cls(sample.name, object_id, ra, dec, sample.row, cutout.tile, cutout.bands, ny, nx, own)


class WebDatasetPiece(Piece):
    """Writer of a tar file with ``key.json`` and ``key.npy``, ``key.png`` and so on for each sample."""

    suffix = ".tar"

    def __init__(self, path: Path, formats: Sequence[str], style: Style, own: pa.Table | None = None) -> None:
        super().__init__(path, formats, style, own)
        self._tar: tarfile.TarFile | None = None

    @classmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Return True if a file exists and holds exactly these samples in this order."""
        try:
            with tarfile.open(path) as file:
                there = [name.removesuffix(".json") for name in file.getnames() if name.endswith(".json")]
        except (OSError, tarfile.TarError):
            return False
        return there == [sample_key(sample.name) for sample in samples]

    def add(self, sample: Sample, cutout: Cutout) -> None:
        """Append the files of a cutout."""
        key = sample_key(sample.name)
        members = file_names(key, "", self._formats, cutout.bands, "."), encode(cutout, self._formats, self._style)
        own = {
            name: _in_json(column[sample.numbers[0]].as_py())
            for name, column in zip(self._own.column_names, self._own.columns, strict=True)
        }
        description = json.dumps(asdict(SampleDescription.of(sample, cutout, own))).encode()
        with self._errors_named():
            if self._tar is None:
                tar = tarfile.open(self._temporary(), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (by the stack)
                self._tar = self._stack.enter_context(tar)
            for name, content in (*zip(*members, strict=True), (f"{key}.json", description)):
                _add_member(self._tar, name, content)


def _in_json(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no times."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file without owner and time: a repeat gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


PACKS: dict[str, type[Piece]] = dict(zip(PACK_NAMES, (Hdf5Piece, WebDatasetPiece), strict=True))
"""Packs by name."""
