"""One catalogue for all tiles: each row goes to the tile on which it lies deepest inside.

One job per tile reads a header, then one job reads the catalogue and writes its rows to a file, sorted by tile. This
job needs about 120 bytes of memory a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.builder.listing import Rows, file_stamp, first_band
from archive_builder.builder.one_tile import attempt
from archive_builder.errors import RecipeError
from archive_builder.geometry import Shape, footprint, pixel_scale, sky_to_pixel, unit_vectors
from archive_builder.measure.owners import edge_depth, owns, repeated
from archive_builder.object_ids import IdKind, ObjectIds
from archive_builder.run.engine import Engine, Lost, run_with_retries
from archive_builder.survey.catalog import Catalog, read_catalog
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe

BAND = 0.25
"""Height of the bands of Dec in which rows are sorted by RA, deg."""


@dataclass(frozen=True)
class Located:
    """Place of a tile on the sky, or the reason why it is unknown."""

    tile: str
    """Name of the tile."""

    error: str | None = None
    """Reason of the failure."""

    wcs: WCS | None = None
    """WCS of the first band."""

    shape: Shape = (0, 0)
    """Shape of the tile, px."""


@dataclass(frozen=True)
class LocateJob:
    """A tile to locate."""

    files: TileFiles
    """Source files of the tile."""

    recipe: Recipe
    """Recipe of the archive."""

    def __str__(self) -> str:
        """Return an empty text: the log does not announce this short job."""
        return ""


@dataclass(frozen=True)
class SplitJob:
    """A catalogue to split."""

    catalog: Path
    """The catalogue of all tiles."""

    recipe: Recipe
    """Recipe of the archive."""

    tiles: tuple[Located, ...]
    """Tiles whose place is known, by name."""

    path: Path
    """File for the rows, sorted by tile."""

    id_kind: IdKind
    """Kind of the archive's object IDs."""

    def __str__(self) -> str:
        """Return the catalogue, for a log."""
        return f"split of catalogue {self.catalog}"


@dataclass(frozen=True)
class Split:
    """Rows of a catalogue by tile."""

    rows: Mapping[str, Rows] = field(default_factory=dict)
    """Rows of each tile that has some, by tile."""

    elsewhere: Mapping[str, ObjectIds] = field(default_factory=dict)
    """IDs that a tile lists and another tile owns, ascending, by tile."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that go to no tile, by reason."""

    failed: Mapping[str, str] = field(default_factory=dict)
    """Tiles whose place is unknown, with the reason."""


def split_catalog(
    tiles: Sequence[TileFiles], recipe: Recipe, engine: Engine, retries: int, path: Path, id_kind: IdKind
) -> Split:
    """Split the catalogue of all tiles.

    Parameters
    ----------
    tiles : sequence of TileFiles
        All complete tiles of the survey.
    recipe : Recipe
    engine : Engine
    retries : int
        Retries after a worker dies.
    path : Path
        File for the rows; the caller removes it.
    id_kind : str
        Kind of the archive's object IDs.

    Raises
    ------
    RecipeError
        The catalogue cannot be used.
    """
    if not tiles:
        return Split()
    jobs = [LocateJob(files, recipe) for files in tiles]
    located = sorted(_outcomes(run_with_retries(engine, locate, jobs, retries)), key=lambda place: place.tile)
    good = tuple(place for place in located if place.error is None)
    job = SplitJob(tiles[0].catalog, recipe, good, path, id_kind)
    for outcome in run_with_retries(engine, split, [job], retries):
        answer = f"catalogue {job.catalog}: {outcome.cause}" if isinstance(outcome, Lost) else outcome
    if isinstance(answer, str):
        raise RecipeError(answer)
    return Split(
        answer.rows,
        answer.elsewhere,
        answer.left_out,
        {place.tile: place.error for place in located if place.error is not None},
    )


def _outcomes(outcomes: Iterator[Located | Lost[LocateJob]]) -> Iterator[Located]:
    for outcome in outcomes:
        yield Located(outcome.job.files.tile, outcome.cause) if isinstance(outcome, Lost) else outcome


def locate(job: LocateJob) -> Located:
    """Read the header of a tile; every error is returned as a result."""
    place = attempt(lambda: _locate(job), next(iter(job.files.images.values())).path)
    return Located(job.files.tile, error=place) if isinstance(place, str) else place


def _locate(job: LocateJob) -> Located:
    with first_band(job.files, job.recipe) as tile:
        return Located(job.files.tile, None, tile.wcs, tile.shape)


def split(job: SplitJob) -> Split | str:
    """Split a catalogue; an error is returned as text."""
    return attempt(lambda: _split(job), job.path)


def _split(job: SplitJob) -> Split:
    stamp = file_stamp(job.catalog)
    catalog = read_catalog(job.catalog, job.recipe.catalog, "", job.id_kind)
    tile, depth = deepest_tile(catalog, [(place.wcs, place.shape) for place in job.tiles if place.wcs is not None])
    order = np.argsort(tile, kind="stable")
    edges = np.searchsorted(tile[order], np.arange(len(job.tiles) + 1))
    with job.path.open("wb") as file:
        for column in (catalog.object_id, catalog.ra, catalog.dec):
            column[order].tofile(file)
    names = [place.tile for place in job.tiles]
    rows = {
        name: Rows(job.path, int(start), int(stop), len(order), stamp, catalog.object_id.dtype.str)
        for name, start, stop in zip(names, edges[:-1], edges[1:], strict=True)
        if stop > start
    }
    without_position = int((~catalog.has_position).sum())
    left_out = {
        "on no tile": int((tile < 0).sum()) - without_position,
        "without position": without_position,
        "without ID": catalog.without_id,
    }
    losers = _elsewhere(catalog.object_id, depth, tile)
    return Split(rows, {names[number]: ids for number, ids in losers.items()}, left_out)


def deepest_tile(catalog: Catalog, tiles: Sequence[tuple[WCS, Shape]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the tile on which each row lies deepest inside, and the row's depth there.

    Parameters
    ----------
    catalog : Catalog
    tiles : sequence of (WCS, (ny, nx))
        Tiles by name: of two tiles with the same depth the first has the row.

    Returns
    -------
    tile : ndarray of int32, (N,)
        Number of the tile; -1 for a row on no tile.
    depth : ndarray of int32, (N,)
        Depth inside that tile, milliarcsec; -1 for a row on no tile.
    """
    found, best = np.full(len(catalog.ra), -1, dtype=np.int32), np.full(len(catalog.ra), -1, dtype=np.int32)
    near = _Sorted(catalog)
    for number, (wcs, shape) in enumerate(tiles):
        rows = near.around(footprint(wcs, shape))
        depth = edge_depth(*sky_to_pixel(wcs, shape, catalog.ra[rows], catalog.dec[rows]), shape, pixel_scale(wcs))
        better = depth > best[rows]
        found[rows[better]], best[rows[better]] = number, depth[better]
    return found, best


class _Sorted:
    """Rows of a catalogue with a position, in bands of Dec, by RA."""

    def __init__(self, catalog: Catalog) -> None:
        rows = np.flatnonzero(catalog.has_position)
        band = ((catalog.dec[rows] + 90) / BAND).astype(np.int64)
        ra = catalog.ra[rows] % 360
        order = np.lexsort((ra, band))
        self._rows, self._ra = rows[order], ra[order]
        self._first = np.searchsorted(band[order], np.arange(int(180 / BAND) + 2))

    def around(self, corners: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the rows in a box of RA and Dec that holds a tile, int (n,); the box may hold more than the tile.

        Parameters
        ----------
        corners : ndarray of float64, (4, 2)
            RA and Dec of the tile's corners, deg.
        """
        vectors = unit_vectors(*corners.T)
        centre = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
        # The edges of an image bulge: no further than a tenth of its radius on any survey's tile.
        radius = 1.1 * np.degrees(np.arccos(np.clip(vectors @ centre, -1, 1)).max())
        if (corners == corners[0]).all():  # the image has no corners on the sky
            radius = 180.0
        ra0, dec0 = np.degrees(np.arctan2(centre[1], centre[0])), np.degrees(np.arcsin(centre[2]))
        low, high = (int(np.clip((dec0 + side + 90) / BAND, 0, 180 / BAND)) for side in (-radius, radius))
        everywhere = abs(dec0) + radius >= 90
        reach = 180.0 if everywhere else np.degrees(np.arcsin(np.sin(np.radians(radius)) / np.cos(np.radians(dec0))))
        pieces = [
            self._rows[start:stop] for band in range(low, high + 1) for start, stop in self._within(band, ra0, reach)
        ]
        return np.concatenate([np.empty(0, dtype=np.intp), *pieces])

    def _within(self, band: int, ra: float, reach: float) -> Iterator[tuple[int, int]]:
        """Yield the stretches of a band that lie within ``reach`` deg of an RA."""
        first, last = int(self._first[band]), int(self._first[band + 1])
        column = self._ra[first:last]
        low, high = (ra - reach) % 360, (ra + reach) % 360
        if reach >= 180:
            yield first, last
        elif low <= high:
            yield first + int(np.searchsorted(column, low)), first + int(np.searchsorted(column, high, side="right"))
        else:
            yield first, first + int(np.searchsorted(column, high, side="right"))
            yield first + int(np.searchsorted(column, low)), last


def _elsewhere(object_id: ObjectIds, depth: NDArray[np.int32], tile: NDArray[np.int32]) -> dict[int, ObjectIds]:
    """Return the IDs that a tile lists and another tile owns, by the number of the tile."""
    rows = np.flatnonzero(tile >= 0)
    rows = rows[np.isin(object_id[rows], repeated(object_id[rows]))]
    rows = rows[np.argsort(tile[rows], kind="stable")]
    is_owner = owns(object_id[rows], depth[rows], np.arange(len(rows)))
    losers: dict[int, ObjectIds] = {}
    for number in np.unique(tile[rows[~is_owner]]).tolist():
        here = tile[rows] == number
        ids = np.setdiff1d(object_id[rows[here & ~is_owner]], object_id[rows[here & is_owner]])
        if len(ids):
            losers[number] = ids
    return losers
