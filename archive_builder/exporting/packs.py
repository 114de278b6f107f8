"""Many cutouts in one file: pieces of an HDF5 data set, or of a WebDataset."""

from __future__ import annotations

import io
import json
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.atomic import temporary_path
from archive_builder.errors import ArchiveBuilderError, one_line
from archive_builder.exporting.names import BANDS_FORMAT, Sample, file_names, sample_key
from archive_builder.serve.cutout import FORMATS, Cutout
from archive_builder.serve.style import Style
from archive_builder.store.format import HDF5_VERSIONS

WRITE_ERRORS = (OSError, RuntimeError, ValueError)
"""What h5py and tarfile raise when the disk is full, some of it while they close the file."""


BYTES_AT_ONCE = 8 * 2**20
"""Of the cutouts of an HDF5 piece that are read and written together."""


def piece_name(prefix: str, number: int, suffix: str) -> str:
    """Return the file of one piece."""
    return f"{prefix}{number:05d}{suffix}"


def encode(cutout: Cutout, formats: Sequence[str], style: Style) -> list[bytes]:
    """Return the files of a cutout, in the order of `archive_builder.exporting.names.file_names`.

    Raises
    ------
    RequestError
        The cutout lacks what a format needs.
    ArchiveError
        A picture of the archive's is damaged.
    """
    contents = []
    for kind in formats:
        if kind == BANDS_FORMAT:
            contents += [cutout.to_bytes((band,)) for band in cutout.bands]
        else:
            contents.append(FORMATS[kind](cutout, style))
    return contents


class Piece(ABC):
    """One file of cutouts in the making; it gets its name when it is whole, and only if there is anything in it.

    Parameters
    ----------
    path : Path
        Its name to be; a file of that name is replaced, or removed if nothing can be put into the new one.
    formats : sequence of str
        Of the files in it, if there are files in it.
    style : Style
        How pictures look.
    """

    suffix: ClassVar[str]
    """What its name ends in."""

    def __init__(self, path: Path, formats: Sequence[str], style: Style) -> None:
        self.path, self._formats, self._style = path, tuple(formats), style
        self._temporary = temporary_path(path)
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the file in its place if all went well."""
        try:
            if self._file is not None:
                self._close()
            if kind is None:
                self._publish()
        except WRITE_ERRORS as error:
            raise self._unwritable(error) from None
        finally:
            self._temporary.unlink(missing_ok=True)

    def add(self, sample: Sample, cutout: Cutout) -> None:
        """Append a cutout.

        Raises
        ------
        ArchiveBuilderError
            The file cannot be written.
        """
        try:
            if self._file is None:
                self._open(cutout)
            self._append(sample, cutout)
        except WRITE_ERRORS as error:
            raise self._unwritable(error) from None

    @classmethod
    @abstractmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Tell whether a file is there and holds all these, in this order."""

    @abstractmethod
    def _open(self, first: Cutout) -> None:
        """Begin the temporary file."""

    @abstractmethod
    def _append(self, sample: Sample, cutout: Cutout) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _publish(self) -> None:
        if self._file is None:
            self.path.unlink(missing_ok=True)
            return
        # Not flushed to the disk, like all other files of an export: it could take twice the time.
        self._temporary.replace(self.path)

    def _unwritable(self, error: Exception) -> ArchiveBuilderError:
        return ArchiveBuilderError(f"{self.path}: cannot be written: {one_line(error)}")


class Hdf5Piece(Piece):
    """``/cutouts (n, bands, ny, nx)`` float32 and a table of the same rows."""

    suffix = ".h5"

    def __init__(self, path: Path, formats: Sequence[str], style: Style) -> None:
        super().__init__(path, formats, style)
        self._table: dict[str, list[int | float]] = {"request_row": [], "ra": [], "dec": []}

    @classmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Tell whether a file is there and holds all these, in this order."""
        try:
            with h5py.File(path, "r", locking=False) as file:
                return bool(np.array_equal(file["request_row"][...], [sample.row for sample in samples]))
        except (OSError, KeyError):
            return False

    def add_objects(
        self, samples: Sequence[Sample], bands: Sequence[str], sky: NDArray[np.float64], data: NDArray[np.float32]
    ) -> None:
        """Append the cutouts of many objects: faster than one by one.

        Parameters
        ----------
        samples : sequence of Sample
        bands : sequence of str
        sky : ndarray of float64, (N, 2)
            RA and Dec in deg.
        data : ndarray of float32, (N, bands, ny, nx)

        Raises
        ------
        ArchiveBuilderError
            The file cannot be written.
        """
        try:
            if self._file is None:
                self._begin(bands, data.shape[1:])
            self._write(samples, sky, data)
        except WRITE_ERRORS as error:
            raise self._unwritable(error) from None

    def _open(self, first: Cutout) -> None:
        self._begin(first.bands, first.data.shape)

    def _begin(self, bands: Sequence[str], shape: tuple[int, ...]) -> None:
        self._file = h5py.File(self._temporary, "w", libver=HDF5_VERSIONS, rdcc_nbytes=0)
        self._file.attrs["bands"] = list(bands)
        self._cutouts = self._file.create_dataset(
            "cutouts",
            (0, *shape),
            maxshape=(None, *shape),
            chunks=(1, *shape),
            dtype=np.float32,
            track_times=False,
        )

    def _append(self, sample: Sample, cutout: Cutout) -> None:
        sky = sample.position or (cutout.ra, cutout.dec)
        self._write([sample], np.array([sky]), cutout.data[np.newaxis])

    def _write(self, samples: Sequence[Sample], sky: NDArray[np.float64], data: NDArray[np.float32]) -> None:
        """Append cutouts, and their rows of the table."""
        row = len(self._cutouts)
        self._cutouts.resize(row + len(data), axis=0)
        self._cutouts[row:] = data
        self._table["request_row"] += [sample.row for sample in samples]
        self._table["ra"] += sky[:, 0].tolist()
        self._table["dec"] += sky[:, 1].tolist()
        if samples[0].position is None:
            self._table.setdefault("object_id", []).extend(sample.key for sample in samples)

    def _close(self) -> None:
        with self._file as file:
            for name, values in self._table.items():
                kind = np.float64 if name in ("ra", "dec") else np.int64
                file.create_dataset(name, data=np.array(values, dtype=kind), track_times=False)


class WebDatasetPiece(Piece):
    """A tar file with, for each sample, ``key.json`` and ``key.npy``, ``key.png`` and so on."""

    suffix = ".tar"

    @classmethod
    def holds(cls, path: Path, samples: Sequence[Sample]) -> bool:
        """Tell whether a file is there and holds all these, in this order."""
        try:
            with tarfile.open(path) as file:
                there = [name.removesuffix(".json") for name in file.getnames() if name.endswith(".json")]
        except (OSError, tarfile.TarError):
            return False
        return there == [sample_key(sample.name) for sample in samples]

    def _open(self, first: Cutout) -> None:
        self._file = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by _close)

    def _append(self, sample: Sample, cutout: Cutout) -> None:
        key = sample_key(sample.name)
        contents = encode(cutout, self._formats, self._style)
        for name, content in zip(file_names(key, "", self._formats, cutout.bands, "."), contents, strict=True):
            self._member(name, content)
        self._member(f"{key}.json", json.dumps(_description(sample, cutout)).encode())

    def _member(self, name: str, content: bytes) -> None:
        """Append a file that looks the same whoever writes it, and when."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._file.addfile(info, io.BytesIO(content))

    def _close(self) -> None:
        self._file.close()


def _description(sample: Sample, cutout: Cutout) -> dict[str, Any]:
    """Return what a sample's JSON says."""
    ra, dec = sample.position or (cutout.ra, cutout.dec)
    return {
        "name": sample.name,
        "object_id": sample.key if sample.position is None else None,
        "ra": ra,
        "dec": dec,
        "request_row": sample.row,
        "tile": cutout.tile,
        "bands": list(cutout.bands),
        "ny": cutout.data.shape[1],
        "nx": cutout.data.shape[2],
    }


PACKS: dict[str, type[Piece]] = {"hdf5": Hdf5Piece, "webdataset": WebDatasetPiece}
"""What cutouts can be packed into."""
