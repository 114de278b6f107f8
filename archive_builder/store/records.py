"""Typed records of an archive: rows of the index, and the object tables and attributes of a shard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from archive_builder.measure.quality import REASON_NAMES, Status
from archive_builder.store.format import shard_format
from archive_builder.survey.discovery import TILE_NAME


class InvalidRecordError(ValueError):
    """A value in an index is impossible: the index is damaged, or another program wrote it."""


def _check_time(text: str) -> str:
    """Accept ISO 8601 with a time zone."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("no time zone")
    return text


Count = Annotated[int, Field(ge=0)]
"""A whole number, 0 or more."""

Time = Annotated[str, AfterValidator(_check_time)]
"""A time in ISO 8601 with its time zone."""


class _Record(BaseModel):
    """A row of the index; values of another type than declared are refused, never converted."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class Settings(_Record):
    """Settings that all shards of an archive share."""

    format_version: Count
    """Version of the shards' format."""

    recipe: dict[str, Any]
    """Settings of the recipe: see `archive_builder.survey.recipe.Recipe.pixel_settings`."""

    size: Annotated[int, Field(ge=1)]
    """Side of a cutout, px."""

    bands: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Bands in the order of every band axis."""

    @model_validator(mode="after")
    def _recipe_names_survey_and_layout(self) -> Self:
        for section, key in (("survey", "name"), ("storage", "layout")):
            part = self.recipe.get(section)
            if not (isinstance(part, dict) and isinstance(part.get(key), str)):
                raise ValueError(f"recipe has no {section}.{key}")
        return self

    @classmethod
    def of(cls, recipe: Mapping[str, Any], size: int) -> Self:
        """Return the settings of a new archive.

        Parameters
        ----------
        recipe : mapping
            `Recipe.pixel_settings`.
        size : int
            Side of a cutout, px.
        """
        version = shard_format()["format_version"]
        return cls(format_version=version, recipe=dict(recipe), size=size, bands=tuple(recipe["survey"]["bands"]))

    @property
    def survey(self) -> str:
        """Name of the survey."""
        return str(self.recipe["survey"]["name"])

    @property
    def layout(self) -> str:
        """Layout of the shards, ``mosaic`` or ``stamps``."""
        return str(self.recipe["storage"]["layout"])

    @property
    def has_color(self) -> bool:
        """True if the shards hold the survey's colour pictures."""
        return bool(self.recipe.get("color"))


class TileRecord(_Record):
    """Columns of the table ``tiles`` without its key; see ``schema/index.sql``."""

    name: str
    """Name of the tile."""

    state: Literal["built", "failed"]
    """Outcome of the last attempt."""

    error: str | None = None
    """Reason of the last failure."""

    shard: str | None = None
    """Path of the shard below the archive; None if the tile has none."""

    generation: Count = 0
    """Number of shards the tile has had."""

    stored: Count = 0
    """Objects with a cutout."""

    skipped: Count = 0
    """Catalogue rows without a cutout."""

    skipped_for: str | None = None
    """JSON: catalogue rows without a cutout by reason. See :func:`skip_counts`."""

    depth: str | None = None
    """JSON: depth per band, AB mag. See :func:`tile_depth`."""

    input_fingerprint: str | None = None
    """Fingerprint of the source files: paths, sizes, times."""

    input_hash: str | None = None
    """Hash of the contents of the source files, if they were ever compared."""

    recipe_fingerprint: str | None = None
    """Fingerprint of the settings."""

    footprint: str | None = None
    """JSON: corners of the tile. See :func:`tile_corners`."""

    bytes: Count | None = None
    """Size of the shard, bytes."""

    checksum: str | None = None
    """Checksum of the shard, ``crc32:`` and eight hexadecimal digits."""

    seconds: float | None = None
    """Wall time of the build, s."""

    peak_memory: int | None = None
    """Peak memory of the worker, bytes."""

    built_at: Time | None = None
    """Time of the build, UTC."""

    build_id: Count | None = None
    """Number of the build that made the last attempt."""

    @model_validator(mode="after")
    def _name_is_a_file_name(self) -> Self:
        # A tile without a shard may have any name: the name may be why the tile failed.
        if self.shard is not None and not TILE_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is not a tile's name")
        return self


class TileRow(TileRecord):
    """A row of the table ``tiles``."""

    tile_id: int
    """Key of the row."""


class BuildRow(_Record):
    """A row of the table ``builds``."""

    build_id: int
    """Key of the row; later builds have larger numbers."""

    started: Time
    """Start of the build, UTC."""

    finished: Time | None
    """End of the build, UTC; None while it runs, and if it was killed."""

    planned: Count
    """Tiles to build."""


Row = TypeVar("Row", bound=_Record)


def parse_row(kind: type[Row], row: Mapping[str, Any], where: str) -> Row:
    """Return a row of the index as a record.

    Parameters
    ----------
    kind : type
        `TileRow`, `BuildRow` or `Settings`.
    row : mapping of str to object
        Columns by name.
    where : str
        The row, for the error: ``"tile DEM033600-280000"``.

    Raises
    ------
    InvalidRecordError
        A value is of another type or out of range.
    """
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InvalidRecordError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        column = str(first["loc"][0])
        raise InvalidRecordError(f"{where} has {column} {row.get(column)!r}") from None


def parse_settings(rows: Mapping[str, str]) -> Settings | None:
    """Return the settings of an index from its rows, key to JSON; None for an index without any.

    Raises
    ------
    InvalidRecordError
        A value is no JSON, or a setting is missing or impossible.
    """
    if not rows:
        return None
    try:
        values = {key: json.loads(value) for key, value in rows.items()}
        return parse_row(Settings, values, "settings")
    except (ValueError, TypeError, RecursionError):
        raise InvalidRecordError("its settings are not those of an archive") from None


_CORNERS = TypeAdapter(list[tuple[float, float]], config=ConfigDict(strict=True))
_SKIP_COUNTS = TypeAdapter(dict[str, Count], config=ConfigDict(strict=True))
_DEPTH = TypeAdapter(dict[str, Annotated[float, Field(allow_inf_nan=False)] | None], config=ConfigDict(strict=True))


def _parse_json(adapter: TypeAdapter[Any], tile: TileRecord, column: str) -> Any:
    """Return the JSON of one column of a tile's row."""
    text = getattr(tile, column)
    try:
        return adapter.validate_json(text if text is not None else "")
    except ValidationError:
        raise InvalidRecordError(f"tile {tile.name} has {column} {text!r}") from None


def tile_corners(tile: TileRecord) -> NDArray[np.float64]:
    """Return the corners of a tile, RA and Dec in deg (ICRS), float64 (4, 2).

    Raises
    ------
    InvalidRecordError
        The row has no footprint of four finite positions.
    """
    corners = np.array(_parse_json(_CORNERS, tile, "footprint"), dtype=np.float64)
    if corners.shape != (4, 2) or not np.isfinite(corners).all():
        raise InvalidRecordError(f"tile {tile.name} has footprint {tile.footprint!r}")
    return corners


def skip_counts(tile: TileRecord) -> dict[str, int]:
    """Return the number of a tile's objects without a cutout, by reason.

    Raises
    ------
    InvalidRecordError
        A reason is missing or unknown, or a count is no whole number.
    """
    counts: dict[str, int] = _parse_json(_SKIP_COUNTS, tile, "skipped_for")
    if set(counts) != set(REASON_NAMES):
        raise InvalidRecordError(f"tile {tile.name} has skipped_for {tile.skipped_for!r}")
    return counts


def count_indexed(tile: TileRecord) -> int:
    """Return the number of a tile's objects in the index: all rows but those that are elsewhere or have no ID.

    Raises
    ------
    InvalidRecordError
        See :func:`skip_counts`.
    """
    if tile.shard is None or tile.skipped_for is None:
        return tile.stored + tile.skipped
    counts = skip_counts(tile)
    return tile.stored + tile.skipped - counts["elsewhere"] - counts["id"]


def tile_depth(tile: TileRecord) -> dict[str, float | None]:
    """Return the depth of a tile per band, AB mag; None where not measured.

    Raises
    ------
    InvalidRecordError
        A depth is no finite number.
    """
    depth: dict[str, float | None] = _parse_json(_DEPTH, tile, "depth")
    return depth


@dataclass(frozen=True)
class Places:
    """Places of objects in an archive; parallel arrays in the order of the requested IDs."""

    tile_id: NDArray[np.int64]
    """Tile, (N,); -1 for an ID that is not in the index."""

    row: NDArray[np.int64]
    """Row of the shard's ``/cutouts``, or of its ``/skipped``, (N,)."""

    status: NDArray[np.int64]
    """`archive_builder.measure.quality.Status`, (N,)."""

    generation: NDArray[np.int64]
    """Generation of the tile's shard, (N,)."""

    @property
    def has_cutout(self) -> NDArray[np.bool_]:
        """True for an object with a cutout, (N,)."""
        return np.asarray((self.tile_id >= 0) & (self.status == Status.STORED))


def elsewhere_ids(
    stored: NDArray[np.int64], skipped: NDArray[np.int64], reason: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return the object IDs of a tile's catalogue that another tile owns, int64 (n,), in ascending order.

    Parameters
    ----------
    stored, skipped : ndarray of int64
        Object IDs with and without a cutout.
    reason : ndarray of uint8
        `Status` of each skipped object.
    """
    gave_way = reason == Status.ELSEWHERE
    # A catalogue may list an ID twice, and own the ID by its other row.
    return np.setdiff1d(skipped[gave_way], np.concatenate([stored, skipped[~gave_way]]))


@dataclass(frozen=True)
class TileEntry:
    """A new shard for the index."""

    tile: TileRecord
    """Row of the tile."""

    stored: NDArray[np.int64]
    """Object IDs in the order of the shard's ``/cutouts``."""

    skipped: NDArray[np.int64]
    """Object IDs in the order of the shard's ``/skipped``; repeats are possible."""

    reason: NDArray[np.uint8]
    """`Status` of each skipped object."""

    replaced: NDArray[np.int64] | None
    """Object IDs of the tile's old shard; None if unknown: the index then searches for them."""

    @property
    def objects(self) -> NDArray[np.int64]:
        """Object IDs that the index gives to the new shard."""
        return np.concatenate([self.stored, self.skipped[self.reason != Status.ELSEWHERE]])

    @property
    def elsewhere(self) -> NDArray[np.int64]:
        """Object IDs of the tile's catalogue that another tile owns, in ascending order."""
        return elsewhere_ids(self.stored, self.skipped, self.reason)


@dataclass(frozen=True)
class ShardInfo:
    """Attributes of a shard, without format and software versions."""

    survey: str
    """Name of the survey."""

    tile: str
    """Name of the tile."""

    generation: int
    """Number of shards the tile has had."""

    bands: tuple[str, ...]
    """Bands in the order of every band axis."""

    planes: tuple[str, ...]
    """``SCI``, the image, and the kept ones of ``WGT``, ``MSK`` and ``COLOR``."""

    layout: str
    """``mosaic`` or ``stamps``."""

    quantization: str
    """Steps per background RMS, or ``lossless``."""

    size: int
    """Side of a cutout, px."""

    height: int
    """Rows of the tile."""

    width: int
    """Columns of the tile."""

    pixel_scale: float
    """Pixel scale, arcsec."""

    zero_point: NDArray[np.float64]
    """AB magnitude of one image unit, per band, (bands,)."""

    footprint: NDArray[np.float64]
    """RA and Dec of the tile's corners, (4, 2), deg, ICRS."""

    input_fingerprint: str
    """Fingerprint of the source files."""

    recipe: str
    """JSON: settings of the recipe that all shards of an archive share."""

    without_id: int = 0
    """Rows of the tile's catalogue without an ID: they are in no table."""


@dataclass(frozen=True)
class ObjectTable:
    """Objects of a tile; parallel arrays."""

    object_id: NDArray[np.int64]
    """Object IDs of the survey, (N,)."""

    ra: NDArray[np.float64]
    """Right ascension, deg, ICRS, (N,)."""

    dec: NDArray[np.float64]
    """Declination, deg, ICRS, (N,)."""

    x: NDArray[np.float64]
    """Pixel column on the tile, from 0, (N,)."""

    y: NDArray[np.float64]
    """Pixel row on the tile, from 0, (N,)."""

    rms: NDArray[np.float32]
    """Background RMS, image units, (N, bands)."""

    def take(self, rows: NDArray[np.intp]) -> ObjectTable:
        """Return the rows given, in that order."""
        return ObjectTable(*(getattr(self, field.name)[rows] for field in fields(self)))
