"""Costs scaled from the reference tile, compared with tiles of known cost."""

from __future__ import annotations

from itertools import product

import pytest

from archive_builder.builder.one_tile import TileResult
from archive_builder.forecast.alternatives import Reference, alternatives, choose_reference, split_costs
from archive_builder.forecast.sample import TileSample
from archive_builder.survey.recipe import StorageSection

STORAGES = [
    StorageSection(layout=layout, quantization=quantization)
    for layout, quantization in product(("mosaic", "stamps"), (4, 16, "lossless"))
]


def made_up_build(storage: StorageSection, pixels: int, cutouts: int) -> tuple[TileResult, int]:
    """Return a tile's build and the part of its bytes that is proportional to its pixels."""
    levels = {4: 3, 16: 5, "lossless": 8}[storage.quantization]
    if storage.layout == "mosaic":
        growing, rest, seconds = levels * pixels, 2 * cutouts, 3.0 * pixels
    else:
        growing, rest, seconds = pixels, 100 * levels * cutouts, 3.0 * pixels + levels * cutouts
    return TileResult("T", stored=cutouts, bytes=growing + rest, seconds=seconds), growing


def made_up_sample(storage: StorageSection, pixels: int, cutouts: int, waiting: float = 1.0) -> TileSample:
    """Return the sample of a tile; a slow disk multiplies the wall time."""
    result, growing = made_up_build(storage, pixels, cutouts)
    result = TileResult("T", stored=cutouts, bytes=result.bytes, seconds=waiting * result.seconds)
    return TileSample(result, pixel_bytes=growing, cutouts=cutouts)


def reference(own: StorageSection, pixels: int, cutouts: int) -> Reference:
    costs = split_costs({storage: made_up_build(storage, pixels, cutouts) for storage in STORAGES})
    return Reference(made_up_sample(own, pixels, cutouts), own, costs, {})


@pytest.mark.parametrize("own", STORAGES, ids=str)
@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize(("pixels", "cutouts"), [(30, 4), (20, 7), (10, 11), (30, 0)])
def test_scaled_cost_of_another_tile_equals_the_cost_of_its_build(
    own: StorageSection, storage: StorageSection, pixels: int, cutouts: int
) -> None:
    cost = reference(own, 20, 7).scaled(storage, made_up_sample(own, pixels, cutouts), pixels / 20)
    build, growing = made_up_build(storage, pixels, cutouts)
    assert cost.pixel_bytes == pytest.approx(growing)
    assert cost.object_bytes == pytest.approx(build.bytes - growing)
    assert cost.pixel_seconds == pytest.approx(3 * pixels)
    assert cost.object_seconds == pytest.approx(build.seconds - 3 * pixels)


@pytest.mark.parametrize("own", STORAGES, ids=str)
def test_cost_in_the_recipes_own_storage_equals_the_sample_on_any_disk(own: StorageSection) -> None:
    sample = made_up_sample(own, 10, 11, waiting=1.5)
    cost = reference(own, 20, 7).scaled(own, sample, 0.5)
    assert cost.pixel_bytes + cost.object_bytes == pytest.approx(sample.result.bytes)
    assert cost.pixel_seconds + cost.object_seconds == pytest.approx(sample.result.seconds)


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_tiles_without_cutouts_cost_the_same_as_the_reference_tile(storage: StorageSection) -> None:
    own = STORAGES[0]
    cost = reference(own, 20, 0).scaled(storage, made_up_sample(own, 20, 0), 1.0)
    build, _ = made_up_build(storage, 20, 0)
    assert (cost.pixel_bytes + cost.object_bytes, cost.object_seconds) == (build.bytes, 0)


def test_alternatives_are_the_usual_storages_without_the_recipes_own() -> None:
    own = StorageSection(layout="stamps", quantization=16)
    expected = [("mosaic", 4), ("mosaic", 16), ("mosaic", "lossless"), ("stamps", 4)]
    assert [(way.layout, way.quantization) for way in alternatives(own)] == expected
    assert len(alternatives(StorageSection(quantization=8))) == 5


def test_tile_without_cutouts_is_chosen_only_if_no_tile_has_cutouts() -> None:
    def chosen(*cutouts: float) -> float:
        return choose_reference([TileSample(TileResult("T"), cutouts=n) for n in cutouts]).cutouts

    assert [chosen(0, 0, 0, 5), chosen(0, 9, 4, 6), chosen(0, 0), chosen(3)] == [5, 6, 0, 3]
