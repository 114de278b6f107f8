"""The recipe of an archive: ``survey.toml``, read and validated."""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from archive_builder.errors import RecipeError, RequestError, one_line
from archive_builder.geometry import parse_shape

Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]
"""A finite number; ``true`` and ``"1"`` are not numbers, here and below."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
"""A finite number above zero."""

Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
"""A number from 0 to 1."""


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

    image_hdu: str | Annotated[int, Field(ge=0, strict=True)] | None = None
    """Name or number of the image HDU (default: the first image HDU)."""

    blank_value: Finite | None = None
    """A pixel value that means no data, besides NaN: 0.0 in coadds made by SWarp."""

    color: str | None = None
    """Glob pattern of the colour picture of a tile."""

    zero_point: Finite
    """AB magnitude of one image unit."""

    @field_validator("bands")
    @classmethod
    def _bands_are_names(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) != len(bands):
            raise ValueError("a band is named twice: name each band once")
        if any(not band or band != band.strip() or "," in band for band in bands):
            raise ValueError("a band name must not be empty, contain a comma, or begin or end with a space")
        return bands


class CatalogSection(_Section):
    """``[catalog]``: the objects to cut out."""

    path: str
    """Glob pattern of the catalogue of a tile (FITS, ECSV, CSV, Parquet), or path of one catalogue for all tiles: each
    row goes to the tile of the column ``tile``, without it to the tile on which the row lies deepest inside."""

    object_id: str
    """Column of the object IDs, 64-bit integers."""

    ra: str
    """Column of the right ascension, deg, ICRS."""

    dec: str
    """Column of the declination, deg, ICRS."""

    tile: str | None = None
    """Column of the tile names, for one catalogue of all tiles."""

    duplicates: Literal["deepest", "fail"] = "deepest"
    """An ID in several rows: ``deepest`` gives the ID to the row that lies deepest inside its tile; ``fail`` fails the
    tile."""

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

    planes: tuple[Literal["WGT", "MSK"], ...] = ()
    """Further HDUs of each image to store: weights to 1% (exactly if lossless), masks exactly."""

    @field_validator("planes")
    @classmethod
    def _planes_differ(cls, planes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(planes)) != len(planes):
            raise ValueError("a plane is named twice: name each plane once")
        return planes


class Recipe(_Section):
    """A whole recipe."""

    survey: SurveySection
    catalog: CatalogSection
    cutout: CutoutSection
    quality: QualitySection = Field(default_factory=QualitySection)
    storage: StorageSection = Field(default_factory=StorageSection)

    @model_validator(mode="after")
    def _thresholds_name_known_bands(self) -> Self:
        for key in ("max_background_rms", "min_depth"):
            for band in getattr(self.quality, key):
                if band not in self.survey.bands:
                    raise ValueError(f"quality.{key} names band {band!r}, which is not in survey.bands")
        return self

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that all shards of an archive must share, as plain values."""
        return {
            "survey": self.survey.model_dump(include={"name", "bands", "zero_point", "blank_value"}, mode="json"),
            "cutout": self.cutout.model_dump(mode="json"),
            "quality": self.quality.model_dump(mode="json"),
            "storage": self.storage.model_dump(mode="json"),
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
        values = tomllib.loads(path.read_text(encoding="utf-8"))
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
    return f"{key}: {message[0].lower()}{message[1:]} (it is {error['input']!r})" if key else message


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
