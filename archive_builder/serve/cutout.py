"""A cutout: pixels, bands, WCS, headers, further planes, and its files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.atomic import write_whole
from archive_builder.bands import band_names
from archive_builder.choices import FILE_FORMATS, OTHER_ENDINGS
from archive_builder.errors import ArchiveBuilderError, RequestError
from archive_builder.geometry import Shape
from archive_builder.object_ids import ObjectId
from archive_builder.serve.compass import with_compass
from archive_builder.serve.orientation import SkyGrid
from archive_builder.serve.pictures import composite, jpeg_bytes, png_bytes, tiff_bytes
from archive_builder.serve.style import USUAL_STYLE, Style
from archive_builder.store.headers import BLOCK, Card, TileHeaders, image_cards, to_block
from archive_builder.survey.fits_warnings import quiet_astropy

IMAGE_PLANES = {"WGT": "weight", "MSK": "mask"}
"""Attribute of each plane that is an image like the cutout itself."""


@dataclass(frozen=True, eq=False, repr=False)
class Cutout:
    """The pixels around one object, or around a position.

    ``cutout["g"]`` is the image of one band. A notebook shows a cutout as a picture. Two cutouts are equal only if
    they are the same Python object.

    Attributes
    ----------
    data : ndarray of float32, (bands, ny, nx)
        Image units; NaN where the survey has no data, and off the tile.
    bands : tuple of str
        In the order of ``data``.
    object_id : int, str or None
        None for a cutout at a position.
    tile : str
        Name of the tile.
    generation : int
        Generation of the tile's shard, from 1.
    ra, dec : float
        Position of the object, or the position of the request, deg, ICRS.
    origin : tuple of int
        Column and row of ``data[:, 0, 0]`` on the tile, ``(x0, y0)``, from 0.
    zero_points : dict of str to float
        AB magnitude of one image unit, per band.
    rms : dict of str to float
        Background RMS at the object per band, image units; NaN where it was not measured.
    step : dict of str to float
        Quantization step per band, image units: the error of a pixel is at most half a step. 0 if lossless.
    headers : TileHeaders
        FITS headers of the tile.
    planes : tuple of str
        Planes in the archive: ``SCI`` and any of ``WGT``, ``MSK``, ``COLOR``.
    read_plane : callable
        Reads a plane by its name.

    Examples
    --------
    >>> cutout = archive.get(353099273, size=64, bands="gri")
    >>> cutout["g"].shape
    (64, 64)
    >>> cutout.write("galaxy.png")
    """

    data: NDArray[np.float32]
    bands: tuple[str, ...]
    object_id: ObjectId | None
    tile: str
    generation: int
    ra: float
    dec: float
    origin: tuple[int, int]
    zero_points: dict[str, float]
    rms: dict[str, float]
    step: dict[str, float]
    headers: TileHeaders
    planes: tuple[str, ...]
    read_plane: Callable[[str], NDArray[Any]]

    def __repr__(self) -> str:
        place = f"RA {self.ra:.6f}, Dec {self.dec:.6f}" if self.object_id is None else f"object {self.object_id}"
        shape = " x ".join(map(str, self.data.shape))
        return f"<Cutout of {place}: {shape}, tile {self.tile}, bands {', '.join(self.bands)}>"

    def __getitem__(self, band: str) -> NDArray[np.float32]:
        """Return one band's image, a view of ``data``, (ny, nx).

        Raises
        ------
        RequestError
            The cutout does not have this band.
        """
        image: NDArray[np.float32] = self.data[self._number(band)]
        return image

    @property
    def shape(self) -> Shape:
        """Rows and columns, ``(ny, nx)``."""
        return self.data.shape[1], self.data.shape[2]

    @property
    def zero_point(self) -> float | dict[str, float]:
        """AB magnitude of one image unit; by band where the bands differ."""
        values = set(self.zero_points.values())
        return values.pop() if len(values) == 1 else self.zero_points

    @cached_property
    def coord(self) -> SkyCoord:
        """Position of the object, or the position of the request, ICRS."""
        return SkyCoord(self.ra, self.dec, unit="deg", frame="icrs")

    @cached_property
    def wcs(self) -> WCS:
        """WCS of the cutout's pixels, the same for all bands."""
        with quiet_astropy():
            return WCS(fits.Header.fromstring(self.headers.wcs_cards(self.shape, self.origin)))

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """Weights, (bands, ny, nx): the inverse variance to 1%, 0 where there is no data.

        Raises
        ------
        RequestError
            The archive does not keep weights.
        """
        return self._plane("WGT")

    @cached_property
    def mask(self) -> NDArray[np.signedinteger[Any]]:
        """Flags of the survey's mask, int32 or int64 (bands, ny, nx); -1, every bit, off the tile.

        Raises
        ------
        RequestError
            The archive does not keep masks.
        """
        return self._plane("MSK")

    @cached_property
    def color(self) -> NDArray[np.uint8]:
        """The survey's own colour picture, (ny, nx, 3); row 0 shows the last row of ``data``.

        Raises
        ------
        RequestError
            The archive does not keep colour pictures.
        """
        return self._plane("COLOR")

    def _plane(self, plane: str) -> NDArray[Any]:
        if plane not in self.planes:
            where = "survey.color" if plane == "COLOR" else f"planes.{IMAGE_PLANES[plane]}"
            raise RequestError(
                f"the archive keeps no {plane} of tile {self.tile}: name it in the recipe's {where} and build again"
            )
        return self.read_plane(plane)

    def _number(self, band: str) -> int:
        if band not in self.bands:
            raise RequestError(f"the cutout has no band {band}: it has {', '.join(self.bands)}")
        return self.bands.index(band)

    def header(self, band: str) -> fits.Header:
        """Return the FITS header of one band's image.

        The header is the tile's, with NAXIS and CRPIX of the cutout, without the cards that describe the tile's file,
        and with cards for the object, the tile, the noise and the quantization.

        Raises
        ------
        RequestError
            The cutout does not have this band.
        """
        self._number(band)
        return fits.Header.fromstring(self._header_text("SCI", band, 32))

    def picture(self, style: Style = USUAL_STYLE) -> NDArray[np.uint8]:
        """Return a picture with north up and east left, to the nearest quarter turn unless the style resamples.

        Returns
        -------
        ndarray of uint8, (ny, nx, 3), or (ny, nx) in grey
            Row 0 is the top. A quarter turn swaps ny and nx.

        Raises
        ------
        RequestError
            The archive does not keep the survey's pictures, the cutout lacks a band, the WCS gives no orientation, or
            the picture is too small for a compass.
        """
        grid = SkyGrid.of(self.headers.wcs, self.origin, self.shape, self.tile, lambda: self.wcs)
        if style.uses_survey_colors("COLOR" in self.planes):
            image = grid.picture_up(self.color, style.rotate)
        else:
            data = grid.north_up(self.data, style.rotate)
            image = composite(data, self.bands, self.zero_points, self.rms, style)
        return with_compass(image, grid.directions(style.rotate)) if style.compass else image

    def to_nddata(self, band: str) -> CCDData:
        """Return one band as astropy's `~astropy.nddata.CCDData`.

        Its ``uncertainty`` is the inverse variance where the archive keeps weights, its ``mask`` is True for a pixel
        without data or with weight 0, its ``flags`` are those of the survey's mask where the archive keeps masks, and
        its ``unit`` is the header's BUNIT: dimensionless if that is missing or no unit. The arrays share their memory
        with the cutout.

        Raises
        ------
        RequestError
            The cutout does not have this band.
        """
        number, header = self._number(band), self.header(band)
        planes = {plane: image[number] for plane, image in self._planes.items()}
        data, weight = self.data[number], planes.get("WGT")
        return CCDData(
            data,
            unit=_unit(header.get("BUNIT")),
            uncertainty=None if weight is None else InverseVariance(weight, copy=False),
            mask=np.isnan(data) if weight is None else np.isnan(data) | (weight == 0),
            flags=planes.get("MSK"),
            wcs=self.wcs,
            meta=header,
        )

    def to_bytes(self, bands: str | Iterable[str] | None = None) -> bytes:
        """Return the cutout as a FITS file.

        The primary HDU is empty. Each band has an image ``SCI_{band}`` and, where the archive keeps them, its weights
        ``WGT_{band}`` and its mask ``MSK_{band}``.

        Parameters
        ----------
        bands : str or iterable of str, optional
            Bands of the file (default: all bands of the cutout).

        Raises
        ------
        RequestError
            The cutout does not have a band.
        """
        pieces: list[bytes | memoryview] = [self._primary]
        images = {"SCI": self.data, **self._planes}
        for band in self.bands if bands is None else band_names(bands, self.bands, "the cutout"):
            for plane, image in images.items():
                pieces.append(to_block(self._header_text(plane, band, 8 * image.dtype.itemsize)))
                data = image[self._number(band)].astype(image.dtype.newbyteorder(">")).data
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
            The ending is the format: ``.fits``, ``.png``, ``.jpg``, ``.tiff``, ``.npy``, ``.npz``.
        **style
            Look of a picture: see :class:`archive_builder.serve.style.Style`.

        Raises
        ------
        RequestError
            The ending is unknown, or the cutout lacks a band or plane that the format needs.
        ArchiveBuilderError
            The file cannot be written.
        """
        look, path = Style(**style), Path(path)
        ending = path.suffix.lower().removeprefix(".")
        kind = OTHER_ENDINGS.get(ending, ending)
        if kind not in FORMATS:
            raise RequestError(f"{path}: cannot tell the format from the name: end it in .{', .'.join(FORMATS)}")
        look.check_format(kind)
        write_whole(path, FORMATS[kind](self, look))

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook."""
        try:
            return png_bytes(self.picture())
        except ArchiveBuilderError:  # no band at all, or a damaged picture: the notebook shows the repr
            return None

    @property
    def _planes(self) -> dict[str, NDArray[Any]]:
        """Weights and mask, as far as the archive keeps them, each (bands, ny, nx)."""
        return {plane: getattr(self, IMAGE_PLANES[plane]) for plane in self.planes if plane in IMAGE_PLANES}

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
        """Cards that all images of this cutout share."""
        text = "" if self.object_id is None else _in_ascii(str(self.object_id))
        return [
            *([Card("OBJECT", text, "Object ID of the survey")] if text else []),
            Card("OBJ_RA", self.ra, "[deg] Requested position, ICRS"),
            Card("OBJ_DEC", self.dec, "[deg] Requested position, ICRS"),
            Card("TILE", self.tile, "Tile of the cutout"),
            Card("ARCHGEN", self.generation, "Generation of the tile in the archive"),
            Card("CUTX0", self.origin[0], "Tile column of the first pixel, from 0"),
            Card("CUTY0", self.origin[1], "Tile row of the first pixel, from 0"),
        ]

    def _header_text(self, plane: str, band: str, bits: int) -> str:
        """Return the header of one image of ``bits`` a pixel as text, without END."""
        own = [Card("BAND", band, "Band of this image")]
        if plane == "SCI":
            own.append(Card("PHOTZP", self.zero_points[band], "[mag] AB zero point: -2.5 log10(pixel) + PHOTZP"))
            own.append(Card("QSTEP", self.step[band], "Quantization step, 0 if lossless"))
            if np.isfinite(self.rms[band]):
                own.append(Card("BKGRMS", self.rms[band], "Background RMS at the object"))
        first = image_cards(f"{plane}_{band}", self.shape, bits if plane == "MSK" else -bits)
        without = () if plane == "SCI" else ("BUNIT",)  # weights may have been converted
        return self.headers.template(band, plane).fill(first, self.origin, [*own, *self._object_cards], without)


def _in_ascii(text: str) -> str:
    """Return a text as FITS can hold it: Python's escapes stand for other characters than ASCII."""
    return text.encode("ascii", "backslashreplace").decode()


def _unit(text: object) -> u.UnitBase:
    """Return the unit that a header's BUNIT names; dimensionless if the card is missing or no unit."""
    try:
        with quiet_astropy():
            return u.Unit(text) if isinstance(text, str) else u.dimensionless_unscaled
    except ValueError:
        return u.dimensionless_unscaled


def _npy(cutout: Cutout) -> bytes:
    file = io.BytesIO()
    np.save(file, cutout.data)
    return file.getvalue()


def _npz(cutout: Cutout) -> bytes:
    arrays: dict[str, Any] = {"data": cutout.data, "bands": list(cutout.bands), "ra": cutout.ra, "dec": cutout.dec}
    if cutout.object_id is not None:
        arrays["object_id"] = np.asarray(cutout.object_id)
    for plane, name in {**IMAGE_PLANES, "COLOR": "color"}.items():
        if plane in cutout.planes:
            arrays[name] = getattr(cutout, name)
    return _npz_bytes(arrays)


def _npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Return arrays as an npz file without the time of its making, which numpy leaves out too."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.save(member, np.asarray(values))
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return file.getvalue()


_ENCODERS: tuple[Callable[[Cutout, Style], bytes], ...] = (
    lambda cutout, style: cutout.to_bytes(),
    lambda cutout, style: png_bytes(cutout.picture(style)),
    lambda cutout, style: jpeg_bytes(cutout.picture(style)),
    lambda cutout, style: tiff_bytes(cutout.picture(style), style.compression),
    lambda cutout, style: _npy(cutout),
    lambda cutout, style: _npz(cutout),
)

FORMATS = dict(zip(FILE_FORMATS, _ENCODERS, strict=True))
"""Encoder of each format, by the ending of the file's name."""
