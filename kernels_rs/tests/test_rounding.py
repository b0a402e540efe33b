import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import axes, floats

import lepton_kernels as lk
from lepton_kernels import reference

INTEGERS = ["int2", "uint3", "int4", "int8", "uint8", "int16", "uint16"]


@given(data=st.data())
def test_other_roundings_equal_their_definition(data):
    x = data.draw(floats(nan=True))
    dtype = data.draw(st.sampled_from(INTEGERS))
    limits = lk.integer_limits(dtype)
    axis = data.draw(axes(x.ndim))
    channels = () if axis is None else (x.shape[axis],)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    # Powers of two make exact ties.
    scale = np.asarray(2.0 ** rng.integers(-8, 8, channels), np.float32)
    zero = rng.integers(*limits, channels, endpoint=True)
    rounding = data.draw(st.sampled_from(["half_away", "stochastic"]))
    seed = data.draw(st.integers(0, 2**64 - 1)) if rounding == "stochastic" else 0
    rule = {"rounding": rounding, "seed": seed}
    options = {"dtype": dtype, "axis": axis, **rule}
    threads = data.draw(st.integers(1, 3))
    got = lk.quantize(x, scale, zero, nan="zero_point", threads=threads, **options)
    want = reference.quantize(x, scale, zero, limits, axis, **rule)
    np.testing.assert_array_equal(got, want)
    fake = lk.fake_quantize(x, scale, zero, nan="zero_point", **options)
    restored = reference.fake_quantize(x, scale, zero, limits, axis, **rule)
    np.testing.assert_array_equal(fake.view(np.uint32), restored.view(np.uint32))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("rounding", ["half_away", "stochastic"])
def test_large_arrays_do_not_depend_on_threads(axis, rounding):
    x = np.random.default_rng(0).standard_normal((30, 200, 101), dtype=np.float32)
    scale = np.float32(0.013) if axis is None else np.linspace(0.01, 0.02, x.shape[axis])
    want = reference.quantize(x, np.float32(scale), 3, (-128, 127), axis, rounding=rounding)
    for threads in (1, 2, 3):
        got = lk.quantize(x, scale, 3, axis=axis, rounding=rounding, threads=threads)
        np.testing.assert_array_equal(got, want)


def test_the_generator_is_that_of_random123():
    # Its published answer for a counter and a key of zeros.
    want = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert reference.philox(0, 4).tolist() == want


def test_stochastic_rounding_keeps_the_mean_and_hears_the_seed():
    x = np.full(1_000_000, 0.3, np.float32)
    first = lk.quantize(x, 1.0, rounding="stochastic", seed=1)
    second = lk.quantize(x, 1.0, rounding="stochastic", seed=2)
    # Four standard deviations of a mean of a million draws.
    for q in (first, second):
        assert abs(q.mean() - 0.3) < 4 * np.sqrt(0.21 / x.size)
    assert (first != second).mean() == pytest.approx(0.42, abs=0.01)
    # Neighbours are independent.
    assert np.mean(first[1:] * first[:-1]) == pytest.approx(0.09, abs=0.003)


def test_ties_go_away_from_zero():
    got = lk.quantize(np.float32([0.5, 1.5, -0.5, -2.5, 2.4]), 1.0, rounding="half_away")
    assert got.tolist() == [1, 2, -1, -3, 2]


def test_nan_is_refused_and_located():
    x = np.ones((4, 5), np.float32)
    x[1, 2] = np.nan
    with pytest.raises(lk.KernelError, match="1 NaN, the first at linear index 7"):
        lk.quantize(x, 1.0, rounding="half_away")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rounding": "up"}, ValueError, "accepted: half_even, half_away, stochastic"),
        ({"seed": 1}, ValueError, "only rounding"),
        ({"rounding": "stochastic", "seed": -1}, ValueError, "at least 0"),
        ({"rounding": "stochastic", "seed": 2**64}, ValueError, "below 2"),
        ({"rounding": "stochastic", "seed": 0.5}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_arguments_say_what_is_accepted(options, error, text):
    for kernel in (lk.quantize, lk.fake_quantize):
        with pytest.raises(error, match=text):
            kernel(np.ones(3, np.float32), 1.0, **options)
