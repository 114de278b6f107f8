"""Quantization: flux to stored values and back, within the error bound."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from archive_builder.measure.quantize import (
    BLANK,
    STEP_BITS,
    Lossless,
    NoiseScaled,
    UnstorableError,
    step_for,
    step_without_noise,
)

rms_values = st.floats(1e-6, 1e6)
levels = st.floats(0.5, 1000)


def round_trip(flux: np.ndarray, codec: NoiseScaled | Lossless) -> np.ndarray:
    stored = np.empty(flux.shape, dtype=codec.dtype)
    codec.encode(flux, stored)
    return codec.decode(stored)


@given(rms=rms_values, q=levels)
def test_step_is_at_most_rms_over_q_and_only_slightly_less(rms: float, q: float) -> None:
    step = step_for(rms, q)
    assert rms / q * (1 - 2.0 ** (1 - STEP_BITS)) < step <= rms / q


@given(rms=rms_values, q=levels)
def test_step_has_few_bits_so_products_are_exact(rms: float, q: float) -> None:
    mantissa = math.frexp(step_for(rms, q))[0] * 2**STEP_BITS
    assert mantissa == int(mantissa)


@given(
    signal=arrays.arrays(np.float32, (2, 3, 20), elements=st.floats(-30_000, 30_000, width=32)),
    rms=st.floats(0.01, 1000),
)
def test_no_pixel_is_off_by_more_than_rms_over_2q(signal: np.ndarray, rms: float) -> None:
    # Up to 2^19 steps, 32,000 times the RMS, the bound holds in float32 to the last bit.
    flux = (signal * np.float32(rms)).astype(np.float32)
    back = round_trip(flux, NoiseScaled((step_for(rms, 16),) * 2))
    assert (np.abs(back.astype(np.float64) - flux) <= rms / 32).all()


@given(flux=arrays.arrays(np.float32, (1, 1, 50), elements=st.floats(-(2**27), 2**27, width=32)))
def test_error_of_large_values_is_at_most_half_a_float32_digit_larger(flux: np.ndarray) -> None:
    back = round_trip(flux, NoiseScaled((step_for(3.0, 16),)))
    bound = 3.0 / 32 + np.spacing(np.abs(flux)).astype(np.float64) / 2
    assert (np.abs(back.astype(np.float64) - flux) <= bound).all()


@given(st.data())
def test_exactly_the_non_finite_pixels_become_blank(data: st.DataObject) -> None:
    flux = data.draw(arrays.arrays(np.float32, (2, 40, 5), elements=st.floats(-1e4, 1e4, width=32)))
    holes = data.draw(arrays.arrays(np.bool_, flux.shape))
    flux[holes] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    codec = NoiseScaled((0.1, 0.2))
    stored = np.empty(flux.shape, np.int32)
    assert codec.encode(flux, stored) == holes.any()
    np.testing.assert_array_equal(stored == BLANK, holes)
    np.testing.assert_array_equal(np.isnan(codec.decode(stored)), holes)


@pytest.mark.parametrize("value", [3e9, -3e9, 2.0**31])
def test_value_too_large_for_an_integer_is_refused(value: float) -> None:
    flux = np.array([[[1.0]], [[value]]], dtype=np.float32)
    with pytest.raises(UnstorableError) as caught:
        NoiseScaled((1.0, 1.0)).encode(flux, np.empty(flux.shape, np.int32))
    assert caught.value.band == 1
    assert caught.value.value == pytest.approx(value)


@given(value=st.floats(-(2.0**100), 2.0**100, width=32))
def test_constant_band_is_stored_exactly(value: float) -> None:
    flux = np.full((1, 4, 4), value, dtype=np.float32)
    np.testing.assert_array_equal(round_trip(flux, NoiseScaled((step_without_noise(abs(value)),))), flux)


@pytest.mark.parametrize("largest", [0.0, math.nan, math.inf])
def test_band_without_flux_has_a_step_of_one(largest: float) -> None:
    assert step_without_noise(largest) == 1.0


@given(flux=arrays.arrays(np.uint32, (2, 3, 4)))
def test_lossless_keeps_every_bit(flux: np.ndarray) -> None:
    bits = flux.view(np.float32)
    np.testing.assert_array_equal(round_trip(bits, Lossless((1.0, 1.0))).view(np.uint32), flux)
