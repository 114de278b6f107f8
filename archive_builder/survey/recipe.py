"""The recipe: ``survey.toml``, read and validated."""

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
"""A finite number; neither ``true`` nor ``"1"`` is one, here and below."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
"""A finite number above zero."""

Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
"""A number from 0 to 1."""


class _Section(BaseModel):
    """A table of the recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SurveySection(_Section):
    """``[survey]``: where the tiles are and what they are made of."""

    name: str = Field(min_length=1)
    """The survey's name, as it goes into headers."""

    root: Path = Path()
    """Folder of all paths below, relative to the recipe."""

    tiles: Path | None = None
    """A CSV table with a ``tile`` column; its other columns can stand in the patterns as ``{column}``."""

    bands: tuple[str, ...] = Field(min_length=1)
    """The bands, in the order they are stored."""

    image: str
    """Glob pattern of a band's image, with ``{tile}``, ``{band}`` and columns of the tile table."""

    image_hdu: str | Annotated[int, Field(ge=0, strict=True)] | None = None
    """Name or number of the image's HDU; without it, the first HDU that is an image."""

    blank_value: Finite | None = None
    """A pixel value, besides NaN, that stands for no data: 0.0 in coadds made by SWarp."""

    color: str | None = None
    """Glob pattern of a tile's colour picture."""

    zero_point: Finite
    """AB magnitude of one image unit."""

    @field_validator("bands")
    @classmethod
    def _bands_are_names(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) != len(bands):
            raise ValueError("a band is named twice")
        if any(not band or band != band.strip() or "," in band for band in bands):
            raise ValueError("a band's name must not be empty or hold spaces at its ends or commas")
        return bands


class CatalogSection(_Section):
    """``[catalog]``: which objects to cut."""

    path: str
    """Glob pattern of a tile's catalogue (FITS, ECSV, CSV, Parquet), or of the one for all tiles."""

    object_id: str
    """Column of the 64-bit integer IDs."""

    ra: str
    """Column of the right ascension in deg, ICRS."""

    dec: str
    """Column of the declination in deg, ICRS."""

    tile: str | None = None
    """Column of the tile's name, where one catalogue serves all tiles."""


class CutoutSection(_Section):
    """``[cutout]``: how large."""

    size: Annotated[int, Field(gt=0, strict=True)] | str
    """Side of the archived cutouts: pixels, or an angle such as ``"1 arcmin"``."""

    @field_validator("size")
    @classmethod
    def _size_can_be_read(cls, size: int | str) -> int | str:
        try:
            parse_shape(size, pixel_scale=1e-3)
        except RequestError as error:
            raise ValueError(str(error)) from None
        return size


class QualitySection(_Section):
    """``[quality]``: an object is skipped where any of these fails in any named band."""

    max_background_rms: dict[str, Positive] = Field(default_factory=dict)
    """Largest background RMS at the object, per band, image units."""

    min_depth: dict[str, Finite] = Field(default_factory=dict)
    """Smallest depth per band, AB mag: 5 sigma in an aperture of 1.95", from the background RMS."""

    max_blank_fraction: Fraction = 1.0
    """Largest fraction of the cutout's pixels without data, off the tile included; the worst band counts."""

    background_mesh: Annotated[int, Field(ge=16, le=1024, strict=True)] = 128
    """Side in pixels of the cells in which the background RMS is measured."""


class StorageSection(_Section):
    """``[storage]``: how the pixels are kept."""

    layout: Literal["mosaic", "stamps"] = "mosaic"
    """``mosaic`` keeps every pixel once, ``stamps`` every cutout by itself."""

    quantization: Annotated[float, Field(gt=0, le=1e6, strict=True)] | Literal["lossless"] = 16.0
    """Steps per background RMS, or ``"lossless"`` for float32 bit for bit."""

    planes: tuple[Literal["WGT", "MSK"], ...] = ()
    """HDUs of every image that are kept too: weights to 1% (exactly if lossless), masks exactly."""

    @field_validator("planes")
    @classmethod
    def _planes_differ(cls, planes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(planes)) != len(planes):
            raise ValueError("a plane is named twice")
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

    @model_validator(mode="after")
    def _objects_can_be_told_apart_by_tile(self) -> Self:
        if self.catalog.tile is None and "{" not in self.catalog.path:
            raise ValueError(
                "catalog.path is the same for every tile: put {tile} into it, "
                "or name the column of the tile's name as catalog.tile"
            )
        return self

    def pixel_settings(self) -> dict[str, Any]:
        """Return the settings that all shards of one archive must share, as plain values."""
        return {
            "survey": self.survey.model_dump(include={"name", "bands", "zero_point", "blank_value"}, mode="json"),
            "cutout": self.cutout.model_dump(mode="json"),
            "quality": self.quality.model_dump(mode="json"),
            "storage": self.storage.model_dump(mode="json"),
            "color": self.survey.color is not None,
        }

    def fingerprint(self) -> str:
        """Return a short hash of :meth:`pixel_settings`."""
        text = json.dumps(self.pixel_settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; its ``root`` comes back absolute.

    Raises
    ------
    RecipeError
        The file cannot be read, is no TOML, or a key is missing, unknown or has a value it cannot have.
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
    """Return the recipe's JSON Schema, as it stands in ``schema/recipe.schema.json``."""
    return Recipe.model_json_schema()


def _explain(error: Any) -> str:
    """Turn one pydantic error into words, with the nearest known key for an unknown one."""
    where = [str(part) for part in error["loc"]]
    # An unknown key may be called like a branch of a union, and its location never names one.
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
    """Tell whether a part of pydantic's location names a branch of a union and no key."""
    return part in {"str", "int", "float"} or part.startswith(("constrained", "literal", "function-"))


def _known_keys(where: list[str]) -> list[str]:
    """Return the keys that a table of the recipe may hold."""
    model: type[BaseModel] = Recipe
    for part in where:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
