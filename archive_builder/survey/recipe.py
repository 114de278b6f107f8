"""The recipe of an archive: ``survey.toml``, read and validated."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from archive_builder.errors import RecipeError, RequestError, one_line
from archive_builder.geometry import parse_shape
from archive_builder.survey.zero_point import Exposure, HeaderCard

Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
"""A finite number; ``true`` and ``"1"`` are not numbers, here and below."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
"""A finite number above zero."""

Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
"""A number from 0 to 1."""


Hdu: TypeAlias = str | Annotated[int, Field(ge=0, strict=True)]
"""Name or number of an HDU, or a pattern of a name with placeholders."""

IdColumn: TypeAlias = Annotated[str, Field(min_length=1, strict=True)]
"""Name of a column of object IDs."""

RULE_KEYS = frozenset({"card", "as", "number", "exposure"})
"""Keys of a zero point's rule, which are not bands."""

LONGEST_BAND = 60
"""Maximum characters of a band name: EXTNAME takes 68, with the name of the plane."""

ZeroPointRule: TypeAlias = Annotated[
    Finite | Annotated[str, Field(strict=True)] | HeaderCard | Exposure, Field(union_mode="left_to_right")
]
"""A zero point: a number, a header card, a column of the tile table as ``{column}``, or a table of a rule."""

OLD_PLANES = {"WGT": ("weight", {"hdu": "WGT"}), "MSK": ("mask", {"hdu": "MSK"})}
"""Present form of each name in the former key ``storage.planes``."""


class _Section(BaseModel):
    """A table of the recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SurveySection(_Section):
    """``[survey]``: the tiles and their files."""

    name: str = Field(min_length=1)
    """Name of the survey, written into headers."""

    root: Path = Path()
    """Base folder of all paths below, relative to the recipe."""

    tiles: Path | None = None
    """A table with a ``tile`` column; patterns can use its other columns as ``{column}``."""

    bands: tuple[str, ...] = Field(min_length=1)
    """Bands, in the order of storage."""

    image: str
    """Glob pattern of the image of a band, with ``{tile}``, ``{band}`` and columns of the tile table."""

    image_hdu: Hdu | None = None
    """Name or number of the image HDU, with the placeholders of ``image`` (default: the only image of the file)."""

    image_slice: dict[str, Annotated[int, Field(ge=0, strict=True)]] = Field(default={})
    """Slice of a cube that is the image of a band, from 0, for each band."""

    missing_bands: Literal["fail", "blank"] = "fail"
    """A tile without the file of a band fails, or is built with a band of NaN."""

    blank_value: Finite | None = None
    """A pixel value that means no data, besides NaN: 0.0 in coadds made by SWarp."""

    color: str | None = None
    """Glob pattern of the colour picture of a tile."""

    zero_point: Annotated[ZeroPointRule | dict[str, ZeroPointRule], Field(union_mode="left_to_right")]
    """AB magnitude of one image unit: for all bands, or for each band."""

    @field_validator("bands")
    @classmethod
    def _bands_are_names(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if any(not band or band != band.strip() or "," in band for band in bands):
            raise ValueError("a band name must not be empty, contain a comma, or begin or end with a space")
        for band in bands:
            if not (band.isascii() and band.isprintable() and "/" not in band and len(band) <= LONGEST_BAND):
                raise ValueError(
                    f"a FITS file cannot hold the band name {band!r}: "
                    f"use at most {LONGEST_BAND} ASCII characters, without /"
                )
        if len({band.lower() for band in bands}) != len(bands):
            raise ValueError("a band is named twice: FITS ignores case: give every band a name of its own")
        return bands

    @model_validator(mode="after")
    def _bands_have_files_of_their_own(self) -> Self:
        differs = any("{band}" in str(text) for text in (self.image, self.image_hdu)) or self.image_slice
        if len(self.bands) > 1 and not differs:
            raise ValueError(
                "every band would be the same image: put {band} into survey.image or survey.image_hdu, "
                "or set survey.image_slice"
            )
        for key in ("image_slice", "zero_point"):
            by_band = getattr(self, key)
            if isinstance(by_band, dict) and by_band and set(by_band) != set(self.bands):
                raise ValueError(f"survey.{key} is for {', '.join(by_band)}: give each of {', '.join(self.bands)} once")
        return self

    @field_validator("zero_point", mode="wrap")
    @classmethod
    def _zero_point_is_a_rule(cls, value: Any, read: Any) -> Any:
        is_rule = isinstance(value, dict) and bool(RULE_KEYS & value.keys())
        try:
            found = read(value)
        except ValidationError:
            found = None
        if found is None or (is_rule and isinstance(found, dict)):
            raise ValueError(
                'give a number, a header card such as "MAGZP", a column of the tile table as "{zp}", '
                '{ card = "FLUXMAG0", as = "flux of magnitude 0" }, { number = 25.0, exposure = "EXPTIME" }, '
                "or one of these for each band"
            )
        return found

    @field_validator("zero_point")
    @classmethod
    def _zero_point_text_is_a_card(cls, value: Any) -> Any:
        for rule in value.values() if isinstance(value, dict) else [value]:
            if isinstance(rule, str) and not ("{" in rule or rule[:1].isalpha()):
                raise ValueError("a text names a header card or a {column}: write a number without quotes")
        return value

    def zero_point_rule(self, band: str) -> ZeroPointRule:
        """Return the rule for one band's zero point."""
        return self.zero_point[band] if isinstance(self.zero_point, dict) else self.zero_point


class CatalogSection(_Section):
    """``[catalog]``: the objects to cut out."""

    path: str
    """Glob pattern of the catalogue of a tile, a table in any usual format, or path of one catalogue for all tiles. Its
    rows go to the tile of the column ``tile``, or without it to the tile on which they lie deepest inside."""

    object_id: IdColumn | Annotated[tuple[IdColumn, ...], Field(min_length=1)]
    """Column of the object IDs, 64-bit integers or text. Several columns: the ID is the text ``330368/1234``."""

    unique_within: Literal["tile"] | None = None
    """``"tile"``: the IDs are unique within a tile only, like SExtractor's NUMBER: the ID is the text ``TILE/17``."""

    ra: str
    """Column of the right ascension, or of the longitude in `frame`; deg if the file gives no unit."""

    dec: str
    """Column of the declination, or of the latitude in `frame`; deg if the file gives no unit."""

    frame: Literal["icrs", "fk5", "fk4", "galactic", "supergalactic", "ecliptic"] = "icrs"
    """Frame of the positions: FK5 of J2000, FK4 of B1950, or the mean ecliptic of J2000."""

    tile: str | None = None
    """Column of the tile names, for one catalogue of all tiles."""

    duplicates: Literal["deepest", "fail"] = "deepest"
    """An ID in several rows: ``deepest`` gives the ID to the row that lies deepest inside its tile; ``fail`` fails the
    tile."""

    @field_validator("object_id", mode="wrap")
    @classmethod
    def _object_id_names_columns(cls, value: Any, read: Any) -> Any:
        try:
            columns = read(value)
        except ValidationError:
            raise ValueError('give the name of a column, or several as ["BRICKID", "OBJID"]') from None
        if not isinstance(columns, str) and len(set(columns)) < len(columns):
            raise ValueError("a column is named twice: name each part of the ID once")
        return columns

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Columns of the object IDs."""
        return (self.object_id,) if isinstance(self.object_id, str) else self.object_id

    @property
    def joins_ids(self) -> bool:
        """True if an ID is made of several parts, and so a text."""
        return len(self.id_columns) > 1 or self.unique_within is not None

    @property
    def is_shared(self) -> bool:
        """True for one catalogue of all tiles without a column of tile names: the positions give each row its tile."""
        return self.tile is None and "{" not in self.path


class CutoutSection(_Section):
    """``[cutout]``: the size of the cutouts."""

    size: Annotated[int, Field(gt=0, strict=True)] | str
    """Side of an archived cutout: pixels, or an angle, for example ``"1 arcmin"``."""

    @field_validator("size")
    @classmethod
    def _size_can_be_read(cls, size: int | str) -> int | str:
        try:
            parse_shape(size, pixel_scale=1e-3)
        except RequestError as error:
            raise ValueError(str(error)) from None
        return size


class QualitySection(_Section):
    """``[quality]``: an object is skipped if any of these fails in any named band."""

    max_background_rms: dict[str, Positive] = Field(default_factory=dict)
    """Maximum background RMS at the object, per band, image units."""

    min_depth: dict[str, Finite] = Field(default_factory=dict)
    """Minimum depth per band, AB mag: 5 sigma in an aperture of 1.95", from the background RMS."""

    max_blank_fraction: Fraction = 1.0
    """Maximum fraction of cutout pixels without data, pixels outside the tile included, in the worst band."""

    background_mesh: Annotated[int, Field(ge=16, le=1024, strict=True)] = 128
    """Side of the cells for measuring the background RMS, px."""


class StorageSection(_Section):
    """``[storage]``: the storage of the pixels."""

    layout: Literal["mosaic", "stamps"] = "mosaic"
    """``mosaic`` stores each pixel once; ``stamps`` stores each cutout separately."""

    quantization: Annotated[float, Field(gt=0, le=1e6, strict=True)] | Literal["lossless"] = 16.0
    """Quantization steps per background RMS, or ``"lossless"`` for float32 bit for bit."""


class WeightPlane(_Section):
    """``[planes.weight]``: weights to store, to 1% (as float32 if lossless)."""

    image: str | None = None
    """Glob pattern of the file, with the placeholders of ``survey.image`` (default: the file of the image)."""

    hdu: Hdu | None = None
    """Name or number of the HDU, with the same placeholders (default: the only image of the file)."""

    kind: Literal["inverse variance", "variance", "rms", "weight"] = "inverse variance"
    """Meaning of a pixel. All are stored as inverse variance. ``weight`` is relative: the weights of a tile and band
    are scaled so that their median times the square of the median background RMS is 1."""


class MaskPlane(_Section):
    """``[planes.mask]``: flags to store, exactly."""

    image: str | None = None
    """Glob pattern of the file, with the placeholders of ``survey.image`` (default: the file of the image)."""

    hdu: Hdu | None = None
    """Name or number of the HDU, with the same placeholders (default: the only image of the file)."""


class PlanesSection(_Section):
    """``[planes]``: further images of each band to store."""

    weight: WeightPlane | None = None
    """Weights; none by default."""

    mask: MaskPlane | None = None
    """Flags of up to 64 bits; none by default."""

    @model_validator(mode="after")
    def _a_plane_is_not_the_image(self) -> Self:
        for name in ("weight", "mask"):
            plane = getattr(self, name)
            if plane is not None and plane.image is None and plane.hdu is None:
                raise ValueError(f"planes.{name} is the image itself: set planes.{name}.image or planes.{name}.hdu")
        return self


class Recipe(_Section):
    """A whole recipe."""

    survey: SurveySection
    catalog: CatalogSection
    cutout: CutoutSection
    quality: QualitySection = Field(default_factory=QualitySection)
    storage: StorageSection = Field(default_factory=StorageSection)
    planes: PlanesSection = Field(default_factory=PlanesSection)

    @model_validator(mode="before")
    @classmethod
    def _read_former_planes(cls, values: Any) -> Any:
        """Read the former key ``storage.planes`` as the section ``planes``."""
        storage = values.get("storage") if isinstance(values, dict) else None
        if not (isinstance(storage, dict) and "planes" in storage):
            return values
        names = storage["planes"]
        if not (isinstance(names, list | tuple) and set(names) <= set(OLD_PLANES) and "planes" not in values):
            raise ValueError(
                "storage.planes is now the tables [planes.weight] and [planes.mask]: write [planes.weight] with "
                'hdu = "WGT", and [planes.mask] with hdu = "MSK"'
            )
        kept = {key: value for key, value in storage.items() if key != "planes"}
        return {**values, "storage": kept, "planes": dict(OLD_PLANES[name] for name in names)}

    @property
    def kept_planes(self) -> tuple[str, ...]:
        """Further planes to store: any of ``WGT`` and ``MSK``."""
        planes = {"WGT": self.planes.weight, "MSK": self.planes.mask}
        return tuple(name for name, plane in planes.items() if plane is not None)

    @model_validator(mode="after")
    def _thresholds_name_known_bands(self) -> Self:
        for key in ("max_background_rms", "min_depth"):
            for band in getattr(self.quality, key):
                if band not in self.survey.bands:
                    raise ValueError(f"quality.{key} names band {band!r}, which is not in survey.bands")
        return self

    @model_validator(mode="after")
    def _ids_of_a_tile_know_their_tile(self) -> Self:
        if self.catalog.unique_within and self.catalog.is_shared:
            raise ValueError(
                "catalog.unique_within: one catalogue of all tiles does not tell the tile of an ID: "
                "set catalog.tile to the column of the tile names, or put {tile} into catalog.path"
            )
        return self

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that all shards of an archive must share, as plain values."""
        return {
            "survey": self.survey.model_dump(
                include={"name", "bands", "zero_point", "blank_value"}, mode="json", by_alias=True
            ),
            "catalog": {"object_id": list(self.catalog.id_columns), "unique_within": self.catalog.unique_within},
            "cutout": self.cutout.model_dump(mode="json"),
            "quality": self.quality.model_dump(mode="json"),
            "storage": self.storage.model_dump(mode="json"),
            "planes": {"weight": self.planes.weight and self.planes.weight.kind, "mask": self.planes.mask is not None},
            "color": self.survey.color is not None,
        }

    def fingerprint(self) -> str:
        """Return a short hash of `pixel_settings`."""
        text = json.dumps(self.pixel_settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; ``root`` of the result is absolute.

    Raises
    ------
    RecipeError
        The file cannot be read or is not TOML, or a key is missing, unknown or has an invalid value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path}: cannot be read: {one_line(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path}: is not TOML: {error}") from None
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_explain(e) for e in error.errors())
        raise RecipeError(f"recipe {path}: {' '.join(wrong.split())}") from None
    root = (path.parent / recipe.survey.root).resolve()
    if not root.is_dir():
        raise RecipeError(f"recipe {path}: survey.root is {root}, which is not a folder")
    tiles = recipe.survey.tiles and root / recipe.survey.tiles
    return recipe.model_copy(update={"survey": recipe.survey.model_copy(update={"root": root, "tiles": tiles})})


def recipe_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, the content of ``schema/recipe.schema.json``."""
    return Recipe.model_json_schema()


def _explain(error: Any) -> str:
    """Return one pydantic error as text, with the nearest known key for an unknown one."""
    where = [str(part) for part in error["loc"]]
    # The location of an unknown key never names a branch of a union, but the key itself may be called "str".
    is_unknown = error["type"] == "extra_forbidden"
    where = where if is_unknown else [part for part in where if not _is_union_branch(part)]
    key = ".".join(where)
    if is_unknown:
        known = difflib.get_close_matches(where[-1], _known_keys(where[:-1]), n=1, cutoff=0.5)
        return f"unknown key {key}" + (f": did you mean {'.'.join([*where[:-1], known[0]])}?" if known else "")
    if error["type"] == "missing":
        return f"missing key {key}"
    message = error["msg"].removeprefix("Value error, ")
    value = "" if isinstance(error["input"], dict) else f" (it is {error['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}{value}" if key else message


def _is_union_branch(part: str) -> bool:
    """Return True if a part of pydantic's location is the branch of a union, not a key."""
    return part in {"str", "int", "float"} or part.startswith(("constrained", "literal", "function-"))


def _known_keys(where: list[str]) -> list[str]:
    """Return the valid keys of a table of the recipe."""
    model: type[BaseModel] = Recipe
    for part in where:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
