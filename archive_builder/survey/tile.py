"""Images of one tile: pixels of all bands and planes in strips of rows, headers, WCS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.errors import TileError
from archive_builder.frames import frame_of
from archive_builder.survey.discovery import Source, TileFiles
from archive_builder.survey.headers import WCS_CARDS
from archive_builder.survey.image import Image, NoHduError, readable
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.zero_point import FilledRule, zero_point

WCS_TOLERANCE = 0.01
"""Maximum distance between the pixel positions of the same sky in two bands of a tile, px."""

PLANE_NAMES = {"SCI": "image", "WGT": "weights", "MSK": "mask"}
"""Name of each plane in messages."""

HDU_KEYS = {"SCI": "survey.image_hdu", "WGT": "planes.weight.hdu", "MSK": "planes.mask.hdu"}
"""Key of the recipe that names the HDU of each plane."""

EMPTY = {"SCI": np.nan, "WGT": 0, "MSK": -1}
"""Value of every pixel of a band that the tile lacks."""

WeightKind = Literal["inverse variance", "variance", "rms", "weight"]
"""Meaning of a pixel of the weights: see `archive_builder.survey.recipe.WeightPlane`."""


@dataclass(frozen=True)
class ReadingRules:
    """Meaning of a tile's pixels."""

    blank_value: float | None = None
    """A pixel value that means no data, besides NaN."""

    lossless: bool = False
    """True to refuse a pixel that float32 cannot hold exactly."""

    weight_kind: WeightKind = "inverse variance"
    """Meaning of a pixel of the weights."""

    missing_bands: Literal["fail", "blank"] = "fail"
    """A band whose HDU is missing fails the tile, or is a band of NaN."""

    zero_points: Mapping[str, FilledRule] = field(default_factory=dict)
    """Rule for the zero point of each band; 0 for a band without."""


PLAIN_PIXELS = ReadingRules()
"""Rules for pixels that need none."""


class Tile:
    """The images of one tile, open for reading.

    Parameters
    ----------
    images : mapping of str to Source
        Image of each band; may lack bands.
    bands : sequence of str, optional
        Bands in the order of every band axis (default: those of ``images``).
    planes : mapping of str to mapping of str to Source
        Images of the further planes to read, ``WGT`` and ``MSK``, by band.
    rules : ReadingRules

    Attributes
    ----------
    bands : tuple of str
    headers : dict of str to tuple of astropy.io.fits.Header
        Header of each band's image by plane, in the form for a plain 2-D image. A band that the tile lacks has the WCS
        cards of the first band.
    wcs : WCS
        WCS of the first band that the tile has; the other images agree to `WCS_TOLERANCE`.
    shape : (ny, nx)
    zero_points : tuple of float
        AB magnitude of one image unit, per band. For a band that the tile lacks: the number of its rule, or else the
        zero point of the first band, because there is no header to read.
    missing : tuple of str
        Bands that the tile lacks: NaN, weight 0, mask -1.

    Raises
    ------
    TileError
        A file cannot be read, or lacks the HDU or a WCS, or the images do not share their pixels.
    """

    def __init__(
        self,
        images: Mapping[str, Source],
        bands: Sequence[str] | None = None,
        planes: Mapping[str, Mapping[str, Source]] | None = None,
        rules: ReadingRules = PLAIN_PIXELS,
    ) -> None:
        self.bands = tuple(images if bands is None else bands)
        self._rules = rules
        self._weight_scale = np.ones(len(self.bands))
        self._images: dict[str, list[Image | None]] = {}
        try:
            for plane, sources in {"SCI": images, **(planes or {})}.items():
                opened = self._images.setdefault(plane, [])
                there = [band for band in self.bands if plane == "SCI" or band not in self.missing]
                opened.extend(self._opened(sources.get(band) if band in there else None, plane) for band in self.bands)
            self._there = self._present()
            self._refuse_shared_images()
            self.shape: geometry.Shape = self._common_shape()
            self.wcs = self._common_wcs()
            self.headers = {plane: tuple(self._headers(plane)) for plane in self._images}
            self.zero_points = self._zero_points()
            self._check_blank_value()
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, files: TileFiles, recipe: Recipe, *, planes: bool = False) -> Self:
        """Open the images of a tile by the rules of a recipe.

        Parameters
        ----------
        files : TileFiles
        recipe : Recipe
        planes : bool
            Open the further planes too.

        Raises
        ------
        TileError
            The images cannot be used.
        """
        rules = ReadingRules(
            recipe.survey.blank_value,
            recipe.storage.quantization == "lossless",
            recipe.planes.weight.kind if recipe.planes.weight else "inverse variance",
            recipe.survey.missing_bands,
            files.zero_points,
        )
        return cls(files.images, recipe.survey.bands, files.planes if planes else None, rules)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for images in self._images.values():
            for image in images:
                if image is not None:
                    image.close()

    @property
    def missing(self) -> tuple[str, ...]:
        """Bands that the tile lacks."""
        return tuple(band for band, image in zip(self.bands, self._images["SCI"], strict=True) if image is None)

    def scale_weights(self, factors: Sequence[float]) -> None:
        """Set the factor of each band's weights: of relative weights, to make them inverse variance."""
        self._weight_scale[:] = factors

    def mask_dtype(self) -> np.dtype[Any]:
        """Return the type of a stored mask: int32, or int64 if the file of any band has more bits."""
        kinds = {image.rows(0, 1).dtype for image in self._images["MSK"] if image is not None}
        is_wide = any(kind.kind in "iu" and not np.can_cast(kind, np.int32) for kind in kinds)
        return np.dtype(np.int64 if is_wide else np.int32)

    def pixel_bytes(self) -> int:
        """Return the bytes of a pixel in stored form, of the plane that needs most."""
        return self.mask_dtype().itemsize if "MSK" in self._images else 4

    def read(self, y0: int, y1: int, plane: str = "SCI", dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Read rows ``y0:y1`` of all bands.

        Parameters
        ----------
        y0, y1 : int
        plane : str
            ``SCI`` for the image, or one of the further planes: ``WGT``, ``MSK``.
        dtype : dtype, optional
            Type of the result: float32 by default.

        Returns
        -------
        ndarray, (bands, y1 - y0, nx)
            NaN for no data, and in weights 0.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        rows = np.empty((len(self.bands), y1 - y0, self.shape[1]), dtype=dtype or np.float32)
        for band in range(len(self.bands)):
            self.read_band(band, y0, y1, rows[band], plane)
        return rows

    def read_band(self, band: int, y0: int, y1: int, out: NDArray[Any], plane: str = "SCI") -> None:
        """Read rows ``y0:y1`` of one band, given by its number, into `out`, (y1 - y0, nx).

        Raises
        ------
        TileError
            The rows cannot be read, or the type of ``out`` cannot hold a value.
        """
        image = self._images[plane][band]
        if image is None:
            out[...] = EMPTY[plane]
            return
        stored = image.rows(y0, y1)
        if plane == "MSK":
            _copy_flags(stored, out, image)
            return
        rows = image.linear(stored)
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            values = rows if plane == "SCI" else self._inverse_variance(rows, band)
            np.copyto(out, values, casting="unsafe")
        if plane == "SCI":
            if self._rules.blank_value is not None:
                out[_equals(stored, self._rules.blank_value)] = np.nan
            self._check_held(rows, out, image)
            return
        is_lost = np.isinf(out) | ((out == 0) & (values > 0))
        if is_lost.any():
            raise TileError(
                f"{image.path}: float32 cannot hold the inverse variance {values[is_lost][0]:.3g}: change the unit of "
                "the image, or remove planes.weight"
            )

    def read_exactly(self, band: int, y0: int, y1: int) -> NDArray[Any] | None:
        """Return rows of one band in the file's type, (y1 - y0, nx); None if float32 holds every value of that type.

        Pixels without data have any value.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        image = self._images["SCI"][band]
        if image is None or np.can_cast(image.linear(image.rows(0, 1)).dtype, np.float32):
            return None
        return image.linear(image.rows(y0, y1))

    def relative_weights(self, band: int, y0: int, y1: int) -> NDArray[np.float64] | None:
        """Return rows of one band's weights as in the file, (y1 - y0, nx); None if they are not relative.

        Raises
        ------
        TileError
            The rows cannot be read.
        """
        image = self._images["WGT"][band] if "WGT" in self._images else None
        if image is None or self._rules.weight_kind != "weight":
            return None
        return image.linear(image.rows(y0, y1)).astype(np.float64)

    def _inverse_variance(self, rows: NDArray[Any], band: int) -> NDArray[np.float64]:
        """Return weights of the recipe's kind as inverse variance; 0 where there is none."""
        values = rows.astype(np.float64)
        kind = self._rules.weight_kind
        if kind in ("variance", "rms"):
            weight = 1 / (values if kind == "variance" else values**2)
        else:
            weight = values * self._weight_scale[band]
        return np.where(np.isfinite(weight) & (values > 0), weight, 0.0)

    def _check_held(self, rows: NDArray[Any], out: NDArray[Any], image: Image) -> None:
        """Refuse values that `out`, the copy of `rows` with NaN for no data, cannot hold."""
        if np.can_cast(rows.dtype, out.dtype):
            return
        known = np.isfinite(rows) & ~np.isnan(out)
        if np.isinf(out[known]).any():
            largest = rows[known][np.abs(rows[known]).argmax()]
            raise TileError(f"{image.path}: the pixel value {largest:g} is too large for float32: mask it")
        if self._rules.lossless and (rows[known] != out[known]).any():
            reason = "values from an asinh scale" if image.is_linearized else f"{rows.dtype.name} values"
            raise TileError(
                f"{image.path}: float32 cannot hold its {reason} exactly, so the archive cannot be lossless: "
                "set storage.quantization to a number"
            )

    def _opened(self, source: Source | None, plane: str) -> Image | None:
        """Open the image of one band; None for a band that the tile lacks."""
        if source is None:
            return None
        try:
            return Image(source, HDU_KEYS[plane], is_flux=plane != "MSK")
        except NoHduError:
            if plane != "SCI" or self._rules.missing_bands == "fail":
                raise
            return None

    def _present(self) -> Image:
        """Return the image of the first band that the tile has."""
        first = next((image for image in self._images["SCI"] if image is not None), None)
        if first is None:
            raise NoHduError("the tile has no image in any band: restore the files, or remove the tile")
        return first

    def _named(self) -> Iterator[tuple[str, str, Image]]:
        """Yield plane, band and image of all images."""
        for plane in sorted(self._images, key=list(PLANE_NAMES).index):
            for band, image in zip(self.bands, self._images[plane], strict=True):
                if image is not None:
                    yield plane, band, image

    def _refuse_shared_images(self) -> None:
        """Refuse two bands with the same pixels, and a plane that is the image itself; a mask may serve all bands."""
        seen: dict[tuple[Any, ...], str] = {}
        for plane, band, image in self._named():
            what = f"band {band}" if plane == "SCI" else f"the {PLANE_NAMES[plane]} of band {band}"
            other = seen.get(image.place)
            if other is not None and not (plane == "MSK" and other.startswith("the mask")):
                raise TileError(
                    f"{image.path}: {other} and {what} are the same image of this file: correct {HDU_KEYS[plane]}, "
                    "or the pattern of the file"
                )
            seen.setdefault(image.place, what)

    def _common_shape(self) -> geometry.Shape:
        ny, nx = self._there.shape
        for plane, band, image in self._named():
            if image.shape != (ny, nx):
                what = band if plane == "SCI" else f"{band}'s {plane}"
                raise TileError(
                    f"band {what} is {_by(image.shape)} px but band {self._first_band} is {_by((ny, nx))}: "
                    "all bands of a tile must share their pixels"
                )
        return ny, nx

    @property
    def _first_band(self) -> str:
        return next(band for band in self.bands if band not in self.missing)

    def _common_wcs(self) -> WCS:
        """Return the WCS of the first band; the other bands, and the planes that have a WCS, agree with it."""
        first = _wcs(self._there.header, self._there)
        for plane, band, image in self._named():
            if plane != "SCI" and not _has_sky(image):
                continue
            offset = geometry.wcs_offset(first, _wcs(image.header, image), self.shape)
            if offset > WCS_TOLERANCE:
                what = f"band {band}'s WCS" if plane == "SCI" else f"the WCS of band {band}'s {PLANE_NAMES[plane]}"
                raise TileError(
                    f"{what} is off band {self._first_band}'s by {offset:.3g} px "
                    f"(at most {WCS_TOLERANCE} px is allowed): resample the bands to common pixels"
                )
        return first

    def _headers(self, plane: str) -> Iterator[fits.Header]:
        """Yield the header of each band in one plane; weights and masks have the WCS cards of the image."""
        for own, image in zip(self._images[plane], self._images["SCI"], strict=True):
            if plane == "SCI" and own is not None:
                yield own.header
                continue
            sky = (image or self._there).header
            header = fits.Header([card for card in sky.cards if WCS_CARDS.fullmatch(card.keyword)])
            for card in own.header.cards if own is not None else ():
                if not WCS_CARDS.fullmatch(card.keyword):
                    header.append(card)
            yield header

    def _zero_points(self) -> tuple[float, ...]:
        rules = self._rules.zero_points
        known = {
            band: zero_point(rules.get(band, 0.0), image.header, str(image.path))
            for plane, band, image in self._named()
            if plane == "SCI"
        }
        for band in self.missing:
            rule = rules.get(band)
            known[band] = float(rule) if isinstance(rule, int | float) else known[self._first_band]
        return tuple(known[band] for band in self.bands)

    def _check_blank_value(self) -> None:
        if self._rules.blank_value is not None:
            for plane, _, image in self._named():
                if plane == "SCI":
                    image.check_keeps(self._rules.blank_value)


def _equals(stored: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Return True where pixels of a file have a value of the recipe.

    The file may hold the value as float32, or the header may scale integers to it: the last bits may differ.
    """
    if stored.dtype.kind in "iu":
        return np.asarray(stored == (int(value) if value.is_integer() else value))
    if stored.dtype.itemsize <= 4:
        return np.asarray(stored == np.float32(value))
    with np.errstate(over="ignore"):
        rounded = np.float64(np.float32(value))
    return np.asarray(np.isclose(stored, value, rtol=4 * np.finfo(np.float64).eps, atol=0.0) | (stored == rounded))


def _copy_flags(rows: NDArray[Any], out: NDArray[Any], image: Image) -> None:
    """Copy the flags of a mask; refuse values that are not whole numbers, or too large."""
    if rows.dtype == np.uint64:
        rows = rows.view(np.int64)  # 64 flags, bit by bit
    with np.errstate(invalid="ignore"):
        np.copyto(out, rows, casting="unsafe")
    if not np.can_cast(rows.dtype, out.dtype) and (rows != out).any():
        bits = 8 * out.dtype.itemsize
        raise TileError(
            f"{image.path}: the mask has values that are not {bits}-bit integers: correct planes.mask, or remove it"
        )


def _has_sky(image: Image) -> bool:
    """Return True if the header of an image has celestial coordinates."""
    with readable(image.path, "its WCS cannot be used", "correct the header"):
        return bool(WCS(image.header).has_celestial)


def _wcs(header: fits.Header, image: Image) -> WCS:
    """Return the celestial WCS of an image."""
    with readable(image.path, "its WCS cannot be used", "correct the header"):
        wcs = WCS(header)
        if wcs.has_celestial and wcs.naxis == 2:
            wcs.all_pix2world(0.0, 0.0, 0)
            try:
                frame_of(wcs)
            except TileError as error:
                raise TileError(f"{image.path}: {error}") from None
            return wcs
    raise TileError(f"{image.path}: the image has no sky coordinates: correct survey.image_hdu, or replace the file")


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in reversed(shape))
