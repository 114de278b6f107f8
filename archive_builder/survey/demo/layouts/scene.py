"""The sky of one tile in pixels, without a survey's files: images, noise, gaps and objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import BANDS, SATURATION, ZERO_POINT, FloatArray, PixelArray
from archive_builder.survey.demo.light import Stamp, add_sources, saturate, stamps_on
from archive_builder.survey.demo.noise import NOISE_CELL, hole_on, noise_image, noise_mesh
from archive_builder.survey.demo.sources import draw_sources
from archive_builder.survey.demo.tiles import SURVEY_DEC, SURVEY_RA, Draw, Tile

OTHER_BANDS = 1000
"""Step of the seed from one set of five bands to the next: the demo's camera has five."""


@dataclass(frozen=True)
class Scene:
    """The sky of one tile in pixels."""

    number: int
    """Number of the tile in its survey, from 0."""
    x: FloatArray
    """(N,) columns of the objects, px from 0."""
    y: FloatArray
    """(N,) rows of the objects, px from 0."""
    stamps: tuple[Stamp, ...]
    """Light of the objects."""
    tile: Tile
    """The demo's tile with the noise and the gap of this scene."""

    @property
    def size(self) -> int:
        """Side of the tile, px."""
        return self.tile.size

    @property
    def gap(self) -> NDArray[np.bool_]:
        """(size, size) True for pixels without data. Only the first tile of a survey has a gap."""
        hole = hole_on(self.tile)
        gap = np.zeros((self.size, self.size), dtype=bool)
        gap[hole.box][hole.inside] = True
        return gap

    def flux(self, band: int, zero_point: float = ZERO_POINT) -> PixelArray:
        """Return the image of a band, (size, size), in flux of a zero point; NaN in the gap.

        Parameters
        ----------
        band : int
            Number of the band, from 0. Bands beyond the fifth repeat the sources of the first five with other noise.
        zero_point : float
            AB magnitude of one image unit.
        """
        tile, same = self._camera(band)
        image = noise_image(noise_mesh(tile, same), self.size, tile.rng(Draw.NOISE + same))
        add_sources(image, list(self.stamps), same)
        saturate(image, list(self.stamps), same)
        image[self.gap] = np.nan
        return (image * unit(zero_point)).astype(np.float32)

    def noise(self, band: int, zero_point: float = ZERO_POINT) -> FloatArray:
        """Return the background RMS of a band, (size, size), in flux of a zero point; NaN in the gap."""
        tile, same = self._camera(band)
        cells = noise_mesh(tile, same).astype(np.float64) * unit(zero_point)
        rms = np.repeat(np.repeat(cells, NOISE_CELL, axis=0)[: self.size], NOISE_CELL, axis=1)[:, : self.size].copy()
        rms[self.gap] = np.nan
        return rms

    def flags(self, band: int, no_data: int, saturated: int) -> NDArray[np.int64]:
        """Return flags, (size, size): `no_data` in the gap, `saturated` on saturated pixels, else 0."""
        with np.errstate(invalid="ignore"):
            flags = np.where(self.flux(band) >= np.float32(SATURATION), saturated, 0).astype(np.int64)
        flags[self.gap] = no_data
        return flags

    def _camera(self, band: int) -> tuple[Tile, int]:
        """Return the demo's tile and band that give the noise of a band."""
        sets, same = divmod(band, len(BANDS))
        return replace(self.tile, seed=self.tile.seed + OTHER_BANDS * sets), same


def unit(zero_point: float) -> float:
    """Return the factor from the demo's counts to flux of a zero point."""
    return float(10.0 ** (0.4 * (zero_point - ZERO_POINT)))


def draw_scene(number: int, size: int, objects: int, seed: int) -> Scene:
    """Return the sky of a tile of `size` px with a number of objects."""
    tile = Tile(number, f"tile{number}", size, SURVEY_RA, SURVEY_DEC, seed)
    sources = draw_sources(tile, [], objects)
    x, y = tile.pixels(sources.ra, sources.dec)
    return Scene(number, x, y, tuple(stamps_on(tile, sources)), tile)
