"""Buffer of a tile's rows, compared with the whole tile in one array."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.measure.quantize import BLANK, Lossless, NoiseScaled
from archive_builder.store.rows import CHUNK, RowBuffer

BANDS, HEIGHT, WIDTH = 2, 300, 90


def tile(seed: int, holes: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    flux = rng.integers(-1000, 1000, (BANDS, HEIGHT, WIDTH)).astype(np.float32)
    flux[rng.random(flux.shape) < holes] = np.nan
    return flux


def padded(flux: np.ndarray, by: int) -> np.ndarray:
    return np.pad(flux, ((0, 0), (by, by), (by, by)), constant_values=np.nan)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 99),
    holes=st.sampled_from([0.0, 0.001, 0.4]),
    strips=st.lists(st.integers(1, 200), min_size=1, max_size=10),
    x0=st.integers(-60, 100),
    y0=st.integers(-60, 310),
    size=st.integers(1, 60),
)
def test_window_and_blank_fraction_equal_those_of_the_whole_tile(
    seed: int, holes: float, strips: list[int], x0: int, y0: int, size: int
) -> None:
    flux = tile(seed, holes)
    rows = RowBuffer(NoiseScaled((1.0,) * BANDS), (HEIGHT, WIDTH))
    for strip in [*strips, HEIGHT]:
        rows.append(flux[:, rows.end : rows.end + strip])
        if rows.end == HEIGHT:
            break
    window = np.empty((BANDS, size, size), dtype=np.int32)
    rows.window(x0, y0, window)
    expected = padded(flux, 400)[:, y0 + 400 : y0 + 400 + size, x0 + 400 : x0 + 400 + size]
    np.testing.assert_array_equal(window, np.where(np.isnan(expected), BLANK, expected))
    for bands in (list(range(BANDS)), [BANDS - 1]):
        fraction = rows.blank_fraction(np.array([x0]), np.array([y0]), size, bands)
        assert fraction[0] == np.isnan(expected[bands]).mean(axis=(1, 2)).max()


def test_slabs_are_released_in_order_and_once() -> None:
    flux = tile(0, 0.0)
    rows = RowBuffer(Lossless((1.0,) * BANDS), (HEIGHT, WIDTH))
    released = []
    for y in range(0, HEIGHT, 50):
        rows.append(flux[:, y : y + 50])
        released += [(number, slab.copy()) for number, slab in rows.release(rows.end - 20)]
    released += [(number, slab.copy()) for number, slab in rows.release(HEIGHT)]
    assert [number for number, _ in released] == list(range(-(-HEIGHT // CHUNK)))
    np.testing.assert_array_equal(np.concatenate([slab for _, slab in released], axis=1), flux)
