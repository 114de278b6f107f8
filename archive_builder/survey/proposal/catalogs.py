"""Catalogues among the tables of a folder: columns of IDs and positions, one file a tile or one for all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from archive_builder.errors import TableError
from archive_builder.survey.proposal.names import Family, TileNames, families, pattern_of, tile_in
from archive_builder.survey.tables import as_text, holds_integers, holds_text, kind, open_table

IDS = (
    *(
        "coadd_object_id",
        "object_id",
        "objectid",
        "objid",
        "source_id",
        "sourceid",
        "obj_id",
        "ls_id",
        "cntr",
        "pts_key",
    ),
    *("id", "number", "seqnr", "objno", "component_id", "catid"),
)
"""Columns of IDs in lower case, the likeliest first."""

POSITIONS = (
    *(("alphawin_j2000", "deltawin_j2000"), ("alpha_j2000", "delta_j2000"), ("raj2000", "dej2000")),
    *(("raj2000", "decj2000"), ("right_ascension", "declination"), ("rastack", "decstack"), ("ramean", "decmean")),
    *(("coord_ra", "coord_dec"), ("ra_deg", "dec_deg"), ("ra", "dec"), ("radeg", "dedeg"), ("_ra", "_dec")),
)
"""Columns of RA and Dec in lower case, the likeliest first."""

TILES = (
    *("tile", "tilename", "tile_name", "tile_index", "tile_id", "tileid", "brickname", "brick", "coadd_id", "field"),
    *("patch", "skycell", "subtile", "coadd_key", "kids_tile"),
)
"""Columns of tile names in lower case."""

MOST_BYTES = 50_000_000
"""Maximum size of a table whose values are read."""


@dataclass(frozen=True)
class CatalogProposal:
    """The catalogue of a survey, as far as its tables tell."""

    path: str
    """Glob pattern or path."""
    object_id: str
    """Column of IDs; empty if none is found."""
    ra: str
    dec: str
    tile: str
    """Column of the tile names; empty for one file a tile, and for one file without such a column."""
    notes: tuple[str, ...]
    """Findings in words."""

    @property
    def is_complete(self) -> bool:
        """True if the catalogue can be read with these columns."""
        return bool(self.object_id and self.ra)


def find_catalog(
    folder: Path, names: Sequence[str], tiles: TileNames | None
) -> tuple[CatalogProposal | None, list[str]]:
    """Return the likeliest catalogue, None without one, and notes about all tables.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Tables, relative to the folder.
    tiles : TileNames or None
        Tiles of the images.
    """
    found, notes = [], []
    for family in families(names):
        first = min(family.files)
        try:
            columns = open_table(folder / first).names
        except TableError as error:
            notes.append(f"{first}: {error}")
            continue
        more = f" and {len(family.files) - 1} like it" if len(family.files) > 1 else ""
        notes.append(f"{first}{more}: columns {', '.join(columns[:12])}{', ...' if len(columns) > 12 else ''}")
        proposal = _proposal(folder, family, columns, tiles)
        if proposal is not None:
            found.append(proposal)
    best = max(found, key=lambda one: (one.is_complete, bool(one.object_id), "{tile}" in one.path), default=None)
    return best, notes


def _proposal(folder: Path, family: Family, columns: Sequence[str], tiles: TileNames | None) -> CatalogProposal | None:
    """Return the catalogue that a family of tables may be; None without columns of positions."""
    lower = {column.lower(): column for column in reversed(columns)}
    pair = next((pair for pair in POSITIONS if set(pair) <= lower.keys()), None)
    if pair is None:
        return None
    path = folder / min(family.files)
    likely = [lower[name] for name in IDS if name in lower]
    likely += [column for column in columns if re.search(r"id$", column, re.IGNORECASE) and column not in likely]
    paths = [folder / name for name in dict.fromkeys((min(family.files), max(family.files)))]
    object_id, notes = _id_column(paths, likely)
    pattern = _pattern_by_tile(family, tiles)
    tile = "" if "{tile}" in pattern else _tile_column(path, lower, tiles)
    if tile:
        notes.append(f"column {tile} holds names of tiles")
    return CatalogProposal(pattern, object_id, lower[pair[0]], lower[pair[1]], tile, tuple(notes))


def _id_column(paths: Sequence[Path], columns: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first column of integers or text with no value twice, and notes about the columns before it.

    Parameters
    ----------
    paths : sequence of Path
        One or two files of a family: an ID of the survey must not be in both.
    columns : sequence of str
        Columns to try.
    """
    notes: list[str] = []
    if max(path.stat().st_size for path in paths) > MOST_BYTES:
        return (columns[0] if columns else ""), [f"{paths[0].name} is large: the IDs were not read"] if columns else []
    for column in columns:
        try:
            found = [open_table(path, [column]).read([column])[column] for path in paths]
        except TableError as error:
            notes.append(f"column {column}: {error}")
            continue
        if not all(holds_integers(values) or holds_text(values) for values in found):
            notes.append(f"column {column} is {kind(found[0])}, no IDs")
            continue
        ids = [as_text(values).to_pylist() for values in found]
        if any(len(set(texts)) < len(texts) for texts in ids):
            notes.append(f"column {column} repeats values: no ID of an object")
        elif len(set().union(*ids)) < sum(map(len, ids)):
            notes.append(
                f"column {column} has values of {paths[0].name} in {paths[1].name} too: if it numbers the objects of "
                'one tile, set unique_within = "tile"'
            )
        else:
            return column, notes
    return "", notes


def _pattern_by_tile(family: Family, tiles: TileNames | None) -> str:
    """Return the pattern of a family with one file for each tile, else the path of the first file."""
    first = min(family.files)
    if tiles is None:
        return first
    known = frozenset(tiles.tiles)
    by_file = {name: (tile, "") for name in family.files if (tile := tile_in(name, known))}
    if sorted(tile for tile, _ in by_file.values()) != list(tiles.tiles):
        return first
    return pattern_of(by_file) or first


def _tile_column(path: Path, lower: dict[str, str], tiles: TileNames | None) -> str:
    """Return the column that holds names of tiles, empty if none is found."""
    if tiles is None or path.stat().st_size > MOST_BYTES:
        return ""
    for column in (lower[name] for name in TILES if name in lower):
        try:
            values = open_table(path, [column]).read([column], text=True)[column]
        except TableError:
            continue
        if set(as_text(values).to_pylist()) & set(tiles.tiles):
            return column
    return ""
