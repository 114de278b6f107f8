"""The public face of an archive: lookups by object ID and by position."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import ArchiveBuilderError, ObjectNotFoundError, RequestError
from archive_builder.geometry import Size
from archive_builder.serve.bulk import Missing
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.lookup import Location, Summary, is_object_id
from archive_builder.serve.reader import ArchiveReader
from archive_builder.serve.sky import Position, ra_dec
from archive_builder.serve.snapshot import OPEN_SHARDS, Bands
from archive_builder.serve.stream import Batch, BatchStream
from archive_builder.units import whole_number


class Archive:
    """An archive, open for lookups.

    ``len(archive)`` is the number of objects with a cutout, and ``353099273 in archive`` is True for such an object.
    An archive can be pickled, and used after a fork and from several threads; they take turns. It can be used while a
    build is replacing tiles: every answer is the old one or the new one.

    Parameters
    ----------
    path : str or Path
        The archive's folder.
    open_shards : int
        Maximum number of open shards.

    Attributes
    ----------
    reader : ArchiveReader
        The reader of the files, for code that needs many objects at once.

    Raises
    ------
    ArchiveError
        The folder is not an archive.
    RequestError
        ``open_shards`` is less than 1.

    Examples
    --------
    >>> with Archive("archive") as archive:
    ...     cutout = archive.get(353099273, size=64, bands="gri")
    ...     batch = archive.get_many(archive.ids()[:100], size=64)
    """

    def __init__(self, path: str | Path, open_shards: int = OPEN_SHARDS) -> None:
        self.reader = ArchiveReader(path, whole_number(open_shards, "open_shards", 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self.reader.close()

    @property
    def path(self) -> Path:
        """The archive's folder."""
        return self.reader.path

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands in the order of every band axis."""
        return self.reader.settings.bands

    @property
    def size(self) -> int:
        """Side of the archived cutouts, px."""
        return self.reader.settings.size

    # ---- contents

    def __len__(self) -> int:
        return self.reader.summary().cutouts

    def __contains__(self, object_id: object) -> bool:
        return is_object_id(object_id) and self.reader.has_cutout(int(object_id))

    def ids(self, status: str = "stored") -> NDArray[np.int64]:
        """Return the IDs of objects, in ascending order.

        Parameters
        ----------
        status : str
            ``"stored"``: the objects with a cutout; ``"any"``: all catalogued objects; ``"noise"``, ``"blank"``,
            ``"outside"`` or ``"position"``: the objects without a cutout for this reason.

        Returns
        -------
        ndarray of int64, (N,)
            During a build, each ID is as of when it is read.

        Raises
        ------
        RequestError
            The status is unknown.
        """
        return self.reader.object_ids(status)

    def locate(self, object_id: int) -> Location:
        """Find an object without reading pixels.

        Raises
        ------
        ObjectNotFoundError
            The archive does not have the ID.
        """
        return self.reader.locate(object_id)

    # ---- cutouts

    def get(self, object_id: int, size: Size | None = None, bands: Bands | None = None) -> Cutout:
        """Return an object's cutout.

        Parameters
        ----------
        object_id : int
        size : int, str, Quantity, or a pair ``(ny, nx)`` of them, optional
            Pixels or an angle (default: the archived size). A ``stamps`` archive serves no larger size; a ``mosaic``
            archive serves any size for which it has the pixels, up to the whole tile.
        bands : str, sequence or array of str, optional
            Bands in the order wanted: ``"gri"``, ``"g,r"`` or ``["g", "r"]`` (default: all). An empty tuple reads no
            pixels: a picture in the survey's own colours needs none.

        Raises
        ------
        ObjectNotFoundError
            The archive does not have the ID.
        ObjectSkippedError
            The object has no cutout; the error has the reason and the noise at the object.
        CutoutTooLargeError
            The archive cannot serve the size; the error names the largest one.
        RequestError
            The size or a band is wrong.
        ArchiveError
            The shard is missing or damaged.
        """
        return self.reader.cutout(object_id, size, bands)

    def get_many(
        self,
        object_ids: ArrayLike,
        size: Size | None = None,
        bands: Bands | None = None,
        missing: Missing = "raise",
    ) -> NDArray[np.float32]:
        """Return the cutouts of many objects, in the order of the IDs.

        The cutouts are read in the order of the shards: any order of the IDs is equally fast.

        Parameters
        ----------
        object_ids : array_like of int, (N,)
            Repeats are allowed.
        size, bands
            See :meth:`get`.
        missing : ``"raise"`` or ``"blank"``
            Treatment of an ID without a cutout: raise as :meth:`get` does, or return NaN.

        Returns
        -------
        ndarray of float32, (N, bands, ny, nx)

        Raises
        ------
        ArchiveBuilderError
            Same errors as :meth:`get`.
        """
        return self.reader.read_objects(object_ids, size, bands, missing)[1]

    def batches(
        self,
        size: Size | None = None,
        bands: Bands | None = None,
        *,
        batch_size: int = 256,
        shuffle_seed: int | None = None,
    ) -> Iterator[Batch]:
        """Stream the cutouts of the whole archive.

        Parameters
        ----------
        size, bands
            See :meth:`get`.
        batch_size : int
            Cutouts in a batch; the last batch may have fewer.
        shuffle_seed : int, optional
            Seed of the shuffle of the tiles, and of the cutouts within a buffer of a few tiles. The same seed
            gives the same order. Without a seed the cutouts come in the order of the shards.

        Returns
        -------
        iterator of Batch
            ``object_id`` (n,), and ``data`` float32 (n, bands, ny, nx).

        Raises
        ------
        RequestError
            A number, the size or a band is wrong.
        ArchiveError
            During the iteration: a rebuilt tile has another number of cutouts than at the start of the stream.
        """
        return iter(BatchStream(self.reader, size, bands, batch_size=batch_size, shuffle_seed=shuffle_seed))

    # ---- positions

    def at(self, position: Position, size: Size | None = None, bands: Bands | None = None) -> Cutout:
        """Return a cutout around a position, from a ``mosaic`` archive.

        Where tiles overlap, the cutout comes from the tile on which the position lies deepest inside.

        Parameters
        ----------
        position : SkyCoord or tuple
            A tuple is RA and Dec, deg, ICRS.
        size, bands
            See :meth:`get`.

        Raises
        ------
        PositionOutsideError
            The position lies on no tile.
        CutoutTooLargeError
            The archive does not have all pixels; the error names the largest size it can serve there.
        RequestError
            The archive is not a mosaic, or the size or a band is wrong.
        ArchiveError
            The tile is damaged, or the index places it elsewhere on the sky.
        """
        return self.reader.cutout_at(position, size, bands)

    def nearest(self, position: Position, radius: u.Quantity | str = "2 arcsec") -> Location:
        """Find the object nearest to a position, with a cutout or without.

        Parameters
        ----------
        position : SkyCoord or tuple
            A tuple is RA and Dec, deg, ICRS.
        radius : Quantity or str
            Maximum separation.

        Raises
        ------
        ObjectNotFoundError
            No object lies within the radius.
        """
        around = self.cone_search(position, radius)
        if len(around) == 0:
            ra, dec = ra_dec(position)
            raise ObjectNotFoundError(f"within {radius} of RA {ra:.6f}, Dec {dec:.6f}", self.path)
        return self.locate(int(around["object_id"][0]))

    def cone_search(self, position: Position, radius: u.Quantity | str) -> Table:
        """Return the objects around a position, the nearest first, with a cutout or without.

        Parameters
        ----------
        position : SkyCoord or tuple
            A tuple is RA and Dec, deg, ICRS.
        radius : Quantity or str
            An angle, ``"1 arcmin"`` for example.

        Returns
        -------
        astropy.table.Table
            Columns ``object_id``, ``ra`` and ``dec`` (deg), ``tile``, ``status``, ``separation`` (arcsec).

        Raises
        ------
        RequestError
            The position or the radius is wrong.
        """
        return self.reader.cone_search(position, radius)

    # ---- in a notebook

    def __repr__(self) -> str:
        about = self._about()
        if isinstance(about, str):
            return f"<Archive '{self.path}': {about}>"
        bands = ", ".join(about.bands)
        return (
            f"<Archive '{self.path}': {about.survey}, {about.tiles} tile{'s' * (about.tiles != 1)}, "
            f"{about.cutouts} cutout{'s' * (about.cutouts != 1)} of {about.size} px in {bands}>"
        )

    def _repr_html_(self) -> str:
        """Return a table of the contents for a notebook."""
        about = self._about()
        rows = {"archive": str(self.path)}
        if isinstance(about, str):
            rows["state"] = about
        else:
            rows |= {"survey": about.survey, "tiles": f"{about.tiles:,}", "cutouts": f"{about.cutouts:,}"}
            rows |= {"bands": ", ".join(about.bands), "size": f"{about.size} px", "layout": about.layout}
        lines = (f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
        return f"<table>{''.join(lines)}</table>"

    def _about(self) -> Summary | str:
        """Return the contents of the archive, or the reason why they cannot be read."""
        try:
            return self.reader.summary()
        except RequestError:
            return "closed"
        except ArchiveBuilderError as error:
            return str(error)
