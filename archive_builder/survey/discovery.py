"""Tiles of a survey, their files, and a fingerprint of these files."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from archive_builder.errors import RecipeError, TableError, TileError
from archive_builder.survey.recipe import Hdu, Recipe
from archive_builder.survey.tables import as_text, open_table
from archive_builder.survey.zero_point import FilledRule

TILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
"""Valid tile names: a shard file has the name of its tile."""

PLACEHOLDER = re.compile(r"\{([^}]*)\}")
"""Placeholders of a pattern: ``{tile}``, ``{band}``, a column of the tile table."""


@dataclass(frozen=True)
class Source:
    """Place of one image."""

    path: Path
    """FITS file."""

    hdu: Hdu | None = None
    """Name or number of the HDU; None for the only image of the file."""

    slice: int | None = None
    """Slice of a cube; None for a 2-D image."""


@dataclass(frozen=True)
class TileFiles:
    """The files of one tile."""

    tile: str
    """Tile name."""

    images: Mapping[str, Source]
    """Image of each band, in the order of the recipe; without the bands that the tile lacks."""

    catalog: Path
    """Catalogue with the objects of the tile."""

    color: Path | None = None
    """Colour picture; None if the recipe names none."""

    planes: Mapping[str, Mapping[str, Source]] = field(default_factory=dict)
    """Images of each further plane, ``WGT`` and ``MSK``, by band."""

    zero_points: Mapping[str, FilledRule] = field(default_factory=dict)
    """Rule for the zero point of each band."""

    catalog_keys: str = ""
    """The recipe's keys for the catalogue, as text."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files: images, planes, catalogue, colour picture."""
        every = [*(source.path for source in self._sources()), self.catalog, *([self.color] if self.color else [])]
        return tuple(dict.fromkeys(every))

    def _sources(self) -> list[Source]:
        return [source for images in (self.images, *self.planes.values()) for source in images.values()]

    def image_bytes(self) -> int:
        """Return the size of the image files, bytes.

        Raises
        ------
        TileError
            A file is missing.
        """
        with _missing_files_named():
            return sum(path.stat().st_size for path in {source.path for source in self.images.values()})

    def fingerprint(self) -> str:
        """Return a short hash of the paths, sizes and modification times of all files, and of the way to read them.

        Raises
        ------
        TileError
            A file is missing.
        """
        with _missing_files_named():
            facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        return hashlib.sha256(json.dumps([facts, self._reading()]).encode()).hexdigest()[:16]

    def _reading(self) -> list[object]:
        """Return the way to read the files as plain values: a change of the recipe makes the tile due."""
        places = [(source.hdu, source.slice) for source in self._sources()]
        return [places, {band: str(rule) for band, rule in self.zero_points.items()}, self.catalog_keys]

    def content_hash(self) -> str:
        """Return a short hash of the contents of all files, and of the way to read them.

        Raises
        ------
        TileError
            A file cannot be read.
        """
        total = hashlib.sha256(json.dumps(self._reading()).encode())
        for path in self.paths:
            with _missing_files_named(), path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:16]


@contextmanager
def _missing_files_named() -> Iterator[None]:
    """Turn an error of the operating system into one that names the file."""
    try:
        yield
    except OSError as error:
        raise TileError(f"{error.filename}: {error.strerror}: restore the file") from None


@dataclass(frozen=True)
class Discovery:
    """Tiles that the recipe finds in the folder of a survey."""

    tiles: tuple[TileFiles, ...]
    """Complete tiles, sorted by name."""

    incomplete: Mapping[str, str]
    """Error text of each incomplete tile, by name."""


def discover(recipe: Recipe) -> Discovery:
    """Find every tile of a survey and its files.

    Raises
    ------
    RecipeError
        The tile table cannot be used, a pattern has an unknown placeholder, or no tile is found.
    """
    rows = tile_table(recipe) if recipe.survey.tiles else _matching_tiles(recipe)
    if not rows:
        raise RecipeError(f"no tile found: correct survey.image, {recipe.survey.image!r} under {recipe.survey.root}")
    tiles, incomplete = [], {}
    for name, row in sorted(rows.items()):
        try:
            tiles.append(_files_of(name, row, recipe))
        except TileError as error:
            incomplete[name] = str(error)
    return Discovery(tuple(tiles), incomplete)


def tile_table(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Return the rows of the recipe's tile table by tile, all values as text.

    The recipe must name a tile table: any format of `archive_builder.survey.tables`.

    Raises
    ------
    RecipeError
        The tile table cannot be read, lacks the column ``tile``, or lists a tile twice.
    """
    path = recipe.survey.tiles
    assert path is not None
    try:
        table = open_table(path)
        # A repeated name is ambiguous: no pattern can use it.
        names = [name for name in table.names if name == "tile" or table.names.count(name) == 1]
        if "tile" not in names:
            raise TableError(
                f"has no column tile (it has {', '.join(table.names)}): rename the column with the tile names"
            )
        columns = {name: as_text(column).to_pylist() for name, column in table.read(names, text=True).items()}
    except TableError as error:
        raise RecipeError(f"tile table {path}: {error}") from None
    every = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    listed = [row for row in every if any(row.values())]
    rows = {row["tile"]: row for row in listed}
    if len(rows) != len(listed):
        raise RecipeError(f"tile table {path}: lists a tile twice: keep one row for each tile")
    return rows


def _matching_tiles(recipe: Recipe) -> dict[str, dict[str, str]]:
    """Return the tiles with an image in at least one band, from the pattern alone."""
    pattern = recipe.survey.image
    if "{tile}" not in pattern:
        raise RecipeError("survey.image has no {tile} and there is no tile table: give one of these")
    anything = _fill(pattern, {"tile": "*", "band": "*"})
    expression = re.compile(_as_regex(pattern, recipe.survey.bands))
    found = glob.iglob(anything, root_dir=recipe.survey.root)
    names = {match["tile"] for path in found if (match := expression.fullmatch(path))}
    return {name: {"tile": name} for name in names}


def _as_regex(pattern: str, bands: tuple[str, ...]) -> str:
    """Return a glob pattern with ``{tile}`` and ``{band}`` as a regular expression with the group ``tile``."""
    pieces = []
    seen = False
    for piece in re.split(r"(\{tile\}|\{band\}|\*|\?|\[[^]]+\])", pattern):
        if piece == "{tile}":
            pieces.append("(?P=tile)" if seen else "(?P<tile>[^/]+?)")
            seen = True
        elif piece == "{band}":
            pieces.append("(?:" + "|".join(map(re.escape, bands)) + ")")
        elif piece in ("*", "?"):
            pieces.append("[^/]" + piece.replace("?", ""))
        elif piece.startswith("["):
            pieces.append("[" + re.sub(r"[\\[&~|]", r"\\\g<0>", piece[1:]).replace("!", "^", piece.startswith("[!")))
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)


def _files_of(tile: str, row: Mapping[str, str], recipe: Recipe) -> TileFiles:
    """Return the files of one tile."""
    if not TILE_NAME.fullmatch(tile):
        raise TileError(
            f"{tile!r} cannot be a tile's name: use only letters, digits and . _ + -, and begin with a letter or digit"
        )
    used = PLACEHOLDER.findall(" ".join(_patterns(recipe)))
    for column, value in row.items():
        if column in used and (Path(value or "").is_absolute() or ".." in Path(value or "").parts):
            raise TileError(
                f"{column} {value!r} of the tile table leads out of the survey's folder: give a path inside"
            )
    escaped = {column: glob.escape(value or "") for column, value in row.items()}
    survey, root = recipe.survey, recipe.survey.root
    images = _images(recipe, row)
    catalog = _only_match(root, _fill(recipe.catalog.path, escaped), "the catalogue")
    color = _only_match(root, _fill(survey.color, escaped), "the colour picture") if survey.color else None
    return TileFiles(
        tile,
        images,
        catalog,
        color,
        planes=_planes(recipe, row, images),
        zero_points={band: _zero_point(recipe, band, row) for band in recipe.survey.bands},
        catalog_keys=recipe.catalog.model_dump_json(exclude={"path", "duplicates", "object_id", "unique_within"}),
    )


def _patterns(recipe: Recipe) -> list[str]:
    """Return the patterns of a recipe's paths."""
    planes = (plane.image for plane in (recipe.planes.weight, recipe.planes.mask) if plane and plane.image)
    return [recipe.survey.image, recipe.catalog.path, *([recipe.survey.color] if recipe.survey.color else []), *planes]


def _source(pattern: str, hdu: Hdu | None, band: str, row: Mapping[str, str], root: Path, what: str) -> Source:
    """Return the place of an image of a band, by its patterns."""
    values = {column: value or "" for column, value in row.items()} | {"band": band}
    path = _only_match(root, _fill(pattern, {name: glob.escape(value) for name, value in values.items()}), what)
    return Source(path, _fill(hdu, values) if isinstance(hdu, str) else hdu)


def _images(recipe: Recipe, row: Mapping[str, str]) -> dict[str, Source]:
    """Return the place of the image of each band that the tile has.

    Raises
    ------
    TileError
        A band has no file or several; with ``survey.missing_bands = "blank"``, no band has a file.
    """
    survey, found = recipe.survey, {}
    for band in survey.bands:
        try:
            source = _source(survey.image, survey.image_hdu, band, row, survey.root, f"band {band}")
            found[band] = replace(source, slice=survey.image_slice.get(band))
        except _NoFileError:
            if survey.missing_bands == "fail":
                raise
    if not found:
        raise TileError(f"no band has a file: nothing matches {survey.image}: restore the files, or remove the tile")
    return found


def _planes(recipe: Recipe, row: Mapping[str, str], images: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """Return the places of the further planes of a tile, by plane and band."""
    found: dict[str, dict[str, Source]] = {}
    for name, what, plane in (("WGT", "weights", recipe.planes.weight), ("MSK", "mask", recipe.planes.mask)):
        if plane is not None:
            pattern = plane.image or recipe.survey.image
            found[name] = {
                band: _source(pattern, plane.hdu, band, row, recipe.survey.root, f"{what} of band {band}")
                for band in images
            }
    return found


def _zero_point(recipe: Recipe, band: str, row: Mapping[str, str]) -> FilledRule:
    """Return the rule for a band's zero point, with the number in place of a column of the tile table."""
    rule = recipe.survey.zero_point_rule(band)
    if not (isinstance(rule, str) and "{" in rule):
        return rule
    text = _fill(rule.replace("{band}", band), row)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TileError(f"the tile table gives {text!r} as zero point of band {band}: give a number")
    return number


def _fill(pattern: str, values: Mapping[str, str]) -> str:
    """Fill the ``{placeholders}`` of a pattern."""
    for name in PLACEHOLDER.findall(pattern):
        if name not in values:
            raise RecipeError(f"pattern {pattern!r}: there is no {{{name}}}: use one of {', '.join(sorted(values))}")
    return PLACEHOLDER.sub(lambda match: values[match[1]], pattern)


class _NoFileError(TileError):
    """No file matches a pattern."""


def _only_match(root: Path, pattern: str, what: str) -> Path:
    """Return the only file that matches."""
    matches = sorted(glob.glob(pattern, root_dir=root))
    if not matches:
        raise _NoFileError(
            f"no file for {what}: nothing matches {root / pattern}: restore the file, or correct the pattern"
        )
    if len(matches) > 1:
        raise TileError(
            f"{len(matches)} files for {what}: {matches[0]} and {matches[1]} both match {pattern}: "
            "make the pattern in the recipe match only one"
        )
    return root / matches[0]
