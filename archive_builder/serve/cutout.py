"""A cutout: pixels, bands, WCS, headers, and what else the archive keeps of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.errors import RequestError
from archive_builder.geometry import Shape
from archive_builder.serve.headers import BLOCK, Card, TileHeaders, image_cards, to_block
from archive_builder.survey.fits_warnings import quiet_astropy


@dataclass(frozen=True)
class Cutout:
    """The pixels around one object, or around a position.

    Attributes
    ----------
    data : ndarray of float32, (bands, ny, nx)
        Image units; NaN where the survey has no data, and off the tile.
    bands : tuple of str
        In the order of ``data``.
    object_id : int or None
        None for a cutout at a position.
    tile : str
        The tile it was cut from.
    generation : int
        Which of the tile's shards it comes from, counted from 1.
    ra, dec : float
        The position asked for in deg, ICRS: the object's.
    origin : tuple of int
        Column and row of the tile, ``(x0, y0)`` from 0, on which ``data[:, 0, 0]`` lies.
    zero_point : float
        AB magnitude of one image unit.
    rms : dict of str to float
        Background RMS at the object per band, image units; NaN where it was not measured.
    step : dict of str to float
        Quantization step per band, image units: no pixel is off by more than half of it. 0 if lossless.
    headers : TileHeaders
        The tile's own headers.
    planes : tuple of str
        What the archive has of this cutout: ``SCI``, and perhaps ``WGT``, ``MSK``, ``COLOR``.
    read_plane : callable
        Reads one of the others.
    """

    data: NDArray[np.float32]
    bands: tuple[str, ...]
    object_id: int | None
    tile: str
    generation: int
    ra: float
    dec: float
    origin: tuple[int, int]
    zero_point: float
    rms: dict[str, float]
    step: dict[str, float]
    headers: TileHeaders
    planes: tuple[str, ...]
    read_plane: Callable[[str], NDArray[Any]]

    @property
    def shape(self) -> Shape:
        """Rows and columns, ``(ny, nx)``."""
        return self.data.shape[1], self.data.shape[2]

    @cached_property
    def coord(self) -> SkyCoord:
        """The position asked for, ICRS."""
        return SkyCoord(self.ra, self.dec, unit="deg", frame="icrs")

    @cached_property
    def wcs(self) -> WCS:
        """The WCS of the cutout's pixels; all bands share it."""
        with quiet_astropy():
            return WCS(self.header(self.bands[0]))

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """The weights, (bands, ny, nx): the inverse variance to 1%, 0 where there is no data.

        Raises
        ------
        RequestError
            The archive does not keep them.
        """
        return self._plane("WGT")

    @cached_property
    def mask(self) -> NDArray[np.int32]:
        """The mask's flags, (bands, ny, nx), as the survey has them; -1, every bit, off the tile.

        Raises
        ------
        RequestError
            The archive does not keep them.
        """
        return self._plane("MSK")

    @cached_property
    def color(self) -> NDArray[np.uint8]:
        """The survey's own colour picture, (ny, nx, 3), as pictures are: the first row is the sky's top.

        Raises
        ------
        RequestError
            The archive does not keep it.
        """
        return self._plane("COLOR")

    def _plane(self, plane: str) -> NDArray[Any]:
        if plane not in self.planes:
            where = "survey.color" if plane == "COLOR" else "storage.planes"
            raise RequestError(f"the archive keeps no {plane} of tile {self.tile}: the recipe's {where} decides")
        return self.read_plane(plane)

    def header(self, band: str) -> fits.Header:
        """Return the FITS header of one band's image.

        The tile's own, with NAXIS and CRPIX as the cut makes them, without what described the tile's file,
        and with the object, its tile, the noise and the quantization added.

        Parameters
        ----------
        band : str

        Raises
        ------
        RequestError
            The cutout does not have this band.
        """
        if band not in self.bands:
            raise RequestError(f"the cutout has no band {band}: it has {', '.join(self.bands)}")
        return fits.Header.fromstring(self._header_text("SCI", band))

    def to_bytes(self, bands: tuple[str, ...] | None = None) -> bytes:
        """Return the cutout as a FITS file.

        An empty primary HDU, then for each band an image ``SCI_{band}``, and where the archive keeps them its
        weights ``WGT_{band}`` and its mask ``MSK_{band}``.

        Parameters
        ----------
        bands : tuple of str, optional
            Some of the cutout's bands; all by default.
        """
        pieces: list[bytes | memoryview] = [self._primary]
        for band in self.bands if bands is None else bands:
            number = self.bands.index(band)
            for plane in self.planes:
                if plane != "COLOR":
                    image = self.data if plane == "SCI" else self._planes[plane]
                    pieces.append(to_block(self._header_text(plane, band)))
                    data = image[number].astype(image.dtype.newbyteorder(">")).data
                    pieces += [data, bytes(-data.nbytes % BLOCK)]
        return b"".join(pieces)

    def to_hdus(self) -> fits.HDUList:
        """Return the cutout as astropy's HDUs; see :meth:`to_bytes`."""
        return fits.HDUList.fromstring(self.to_bytes())

    def write(self, path: str | Path, **style: Any) -> None:
        """Write the cutout to a file, whole or not at all.

        Parameters
        ----------
        path : str or Path
            Its ending decides: ``.fits``, ``.png``, ``.tiff``, ``.npy``, ``.npz``.
        **style
            How a picture looks: see :class:`archive_builder.serve.style.Style`.
        """
        from archive_builder.serve.pictures import write_cutout  # it imports this module
        from archive_builder.serve.style import Style

        write_cutout(self, Path(path), Style(**style))

    @property
    def _planes(self) -> dict[str, NDArray[Any]]:
        """The planes that are images like the cutout itself, but for that."""
        return {
            plane: getattr(self, name) for plane, name in (("WGT", "weight"), ("MSK", "mask")) if plane in self.planes
        }

    @cached_property
    def _primary(self) -> bytes:
        cards = [
            Card("SIMPLE", True, "FITS standard"),
            Card("BITPIX", 8, "No data here"),
            Card("NAXIS", 0, "No data here"),
            Card("EXTEND", True, "Images follow"),
            *self._object_cards,
        ]
        return to_block("".join(card.text for card in cards))

    @cached_property
    def _object_cards(self) -> list[Card]:
        """The cards that all images of this cutout share."""
        name = [] if self.object_id is None else [Card("OBJECT", str(self.object_id), "Object ID of the survey")]
        return [
            *name,
            Card("OBJ_RA", self.ra, "[deg] Position asked for, ICRS"),
            Card("OBJ_DEC", self.dec, "[deg] Position asked for, ICRS"),
            Card("TILE", self.tile, "Tile this was cut from"),
            Card("ARCHGEN", self.generation, "Generation of the tile in the archive"),
            Card("CUTX0", self.origin[0], "Tile column of the first pixel, from 0"),
            Card("CUTY0", self.origin[1], "Tile row of the first pixel, from 0"),
        ]

    def _header_text(self, plane: str, band: str) -> str:
        """Return the header of one image as text, without END."""
        own = [Card("BAND", band, "Band of this image")]
        if plane == "SCI":
            own.append(Card("QSTEP", self.step[band], "Quantization step, 0 if lossless"))
            if np.isfinite(self.rms[band]):
                own.append(Card("BKGRMS", self.rms[band], "Background RMS at the object"))
        first = image_cards(f"{plane}_{band}", self.shape, 32 if plane == "MSK" else -32)
        without = () if plane == "SCI" else ("BUNIT",)  # it is the image's
        return self.headers.template(band).fill(first, self.origin, [*own, *self._object_cards], without)
