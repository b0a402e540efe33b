import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_strategies import FLOATS, lay_out

import lepton_kernels as lk
from lepton_kernels import reference

SCHEMES = ["signed_max", "absmax", "asymmetric"]


def layer(outputs=40, inputs=96, samples=150, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
    x = rng.standard_normal((samples, inputs)) * np.exp(rng.standard_normal(inputs))
    return weight, x.astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_the_output_error_is_that_of_float64(threads):
    weight, x = layer(300, 96)
    actual = lk.dequantize_blocks(*lk.quantize_blocks(weight, 32), 32)
    got = lk.output_error(weight, actual, x, threads=threads)
    assert got == pytest.approx(reference.output_error(weight, actual, x), rel=1e-5)
    assert got == lk.output_error(weight, actual, x.reshape(3, -1, 96), threads=1)
    assert lk.output_error(weight, weight, x) == 0
    assert lk.output_error(weight * 0, weight, x) == np.inf


def test_awq_lowers_the_output_error():
    weight, x = layer(64, 128, 200)
    found = lk.awq_scales(weight, x, 32, bits=3)
    assert 0 < found.ratio < 1 and found.error < 0.9 * found.error_unscaled
    coded = lk.quantize_blocks(weight * found.scale, 32, bits=3, scheme="asymmetric")
    restored = lk.dequantize_blocks(*coded, 32) / found.scale
    assert found.error == pytest.approx(lk.output_error(weight, restored, x), rel=1e-6)
    again = lk.awq_scales(weight, x, 32, bits=3, threads=1)
    np.testing.assert_array_equal(found.scale, again.scale)
    assert found[1:] == again[1:]


@st.composite
def linear(draw):
    """Weights, other weights and inputs of a layer, of any layout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs, inputs, samples = (draw(st.integers(1, most)) for most in (9, 40, 30))
    dtype = FLOATS[draw(st.sampled_from(list(FLOATS)))]
    spread = np.exp(rng.standard_normal(inputs))
    weight = rng.standard_normal((outputs, inputs)).astype(dtype)
    moved = (weight.astype(np.float32) + rng.normal(0, 0.1, weight.shape)).astype(dtype)
    x = (rng.standard_normal((samples, inputs)) * spread).astype(np.float32)
    x[:, rng.random(inputs) < 0.2] = 0
    return tuple(lay_out(draw, array) for array in (weight, moved, x))


@given(layer=linear())
def test_output_errors_equal_their_definition(layer):
    want = reference.output_error(*layer)
    assert lk.output_error(*layer) == pytest.approx(want, rel=1e-4)


@given(layer=linear(), size=st.sampled_from([1, 4, 32]), scheme=st.sampled_from(SCHEMES))
def test_awq_scales_equal_their_definition(layer, size, scheme):
    weight, _, x = layer
    assume(x.any())
    got = lk.awq_scales(weight, x, size, bits=3, scheme=scheme, steps=6)
    scales, errors = reference.awq_scales(weight, x, size, 3, scheme=scheme, steps=6)
    place = round(got.ratio * 6)
    np.testing.assert_allclose(got.scale, scales[place], rtol=3e-7)
    assert got.error == pytest.approx(errors[place], rel=1e-3, abs=1e-6)
    assert got.error_unscaled == pytest.approx(errors[0], rel=1e-3, abs=1e-6)
    assert got.error <= min(errors) * (1 + 1e-3) + 1e-6


MATRICES = hnp.arrays(
    np.float32, (5, 7), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@given(
    weights=st.lists(MATRICES, min_size=1, max_size=3),
    inputs=hnp.arrays(np.float32, 7, elements=st.floats(0, 2.0**120, width=32)),
    alpha=st.floats(0, 1),
)
def test_smoothing_equals_its_definition(weights, inputs, alpha):
    got = lk.smoothquant_scales(inputs, weights, alpha=alpha)
    assert got.dtype == np.float32
    want = reference.smoothquant_scales(inputs, weights, alpha)
    np.testing.assert_allclose(got, want, rtol=3e-7)


@given(first=MATRICES, second=MATRICES, axis=st.sampled_from([-1, 0]))
@example(first=np.full((5, 7), 3e38, np.float32), second=np.full((5, 7), 7e-45, np.float32), axis=0)
def test_equalization_equals_its_definition(first, second, axis):
    got = lk.equalization_scales(first, second.T, first_axis=axis, second_axis=~axis)
    want = reference.equalization_scales(first, second.T, axis, ~axis)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=3e-7)


@given(data=st.data())
def test_bias_corrections_equal_their_definition(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    groups, inputs, outputs = (data.draw(st.integers(1, 4)) for _ in range(3))
    shape = (groups * outputs, inputs, *data.draw(hnp.array_shapes(max_side=3, max_dims=2)))
    weight, actual = rng.standard_normal((2, *shape), dtype=np.float32)
    mean = rng.standard_normal(groups * inputs)
    got = lk.bias_correction(lay_out(data.draw, weight), actual, mean, groups=groups)
    want = reference.bias_correction(weight, actual, mean, groups)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@given(
    weights=hnp.arrays(np.float32, (5, 7), elements=st.floats(-100, 100, width=32)),
    inputs=hnp.arrays(np.float32, 7, elements=st.floats(0, 100, width=32)),
    alpha=st.floats(0, 1),
)
def test_smoothing_shares_the_range(weights, inputs, alpha):
    scale = lk.smoothquant_scales(inputs, weights, alpha=alpha).astype(np.float64)
    assert scale.dtype == np.float64 and scale.shape == (7,)
    top = np.abs(weights).max(0).astype(np.float64)
    alive = (inputs > 0) & (top > 0)
    assert (scale[~alive] == 1).all()
    x, w, s = inputs[alive].astype(np.float64), top[alive], scale[alive]
    inside = (s > 1e-37) & (s < 1e38)
    np.testing.assert_allclose(s[inside], (x**alpha / w ** (1 - alpha))[inside], rtol=1e-6)


def test_smoothing_minds_all_readers():
    inputs = np.float32([4, 9])
    weights = [np.float32([[1, 0.5]]), np.float32([[0.25, -1], [0.5, 0.5]])]
    np.testing.assert_allclose(lk.smoothquant_scales(inputs, weights), [2, 3])


def test_equalized_layers_compute_the_same_and_quantize_better():
    rng = np.random.default_rng(3)
    spread = np.exp(2 * rng.standard_normal((32, 1)))
    first = (rng.standard_normal((32, 20)) * spread).astype(np.float32)
    second = rng.standard_normal((10, 32), dtype=np.float32)
    bias = rng.standard_normal(32).astype(np.float32)
    x = rng.standard_normal((100, 20)).astype(np.float32)
    scale = lk.equalization_scales(first, second)

    def network(a, b, c):
        return np.maximum(x @ a.T + b, 0) @ c.T

    want = network(first, bias, second)
    first_, bias_, second_ = first / scale[:, None], bias / scale, second * scale
    np.testing.assert_allclose(network(first_, bias_, second_), want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(lk.absmax(first_, axis=0), lk.absmax(second_, axis=1), rtol=1e-5)

    def coded(array):
        return lk.fake_quantize(array, lk.scale_symmetric(array))

    plain = np.linalg.norm(network(coded(first), bias, coded(second)) - want)
    equal = np.linalg.norm(network(coded(first_), bias_, coded(second_)) - want)
    assert equal < 0.7 * plain


def test_dead_channels_are_left_alone():
    first, second = np.float32([[0, 0], [4, 1]]), np.float32([[3, 1]])
    assert lk.equalization_scales(first, second).tolist() == [1, 2]
    assert lk.equalization_scales(second, first, first_axis=1, second_axis=0).tolist() == [1, 0.5]


def test_the_mean_output_is_kept():
    rng = np.random.default_rng(1)
    weight, x = layer(8, 12)
    x += 3
    actual = lk.fake_quantize(weight, lk.scale_symmetric(weight) * 8)
    correction = lk.bias_correction(weight, actual, x.astype(np.float64).mean(0))
    shift = (x.astype(np.float64) @ (weight - actual).T.astype(np.float64)).mean(0)
    np.testing.assert_allclose(correction, shift, rtol=1e-6, atol=1e-6)
    # A convolution of two groups, at a place far from the border.
    kernel = rng.standard_normal((6, 4, 3, 3), dtype=np.float32)
    mean = rng.standard_normal(8)
    got = lk.bias_correction(kernel, kernel * 0, mean, groups=2)
    want = [(kernel[o] * mean[4 * (o // 3) : 4 * (o // 3) + 4, None, None]).sum() for o in range(6)]
    np.testing.assert_allclose(got, want, rtol=1e-5)


ones = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: lk.output_error(ones, ones[:1], ones), ValueError, r"actual \(1, 3\)"),
        (lambda: lk.output_error(ones, ones, ones.T), ValueError, "must be 3 long"),
        (lambda: lk.output_error(ones.astype(float), ones, ones), TypeError, "float64"),
        (lambda: lk.awq_scales(ones, ones[:0]), ValueError, "no sample"),
        (lambda: lk.awq_scales(ones, ones * 0), ValueError, "nothing but zeros"),
        (lambda: lk.awq_scales(ones, ones, steps=0), ValueError, "at least 1"),
        (lambda: lk.awq_scales(ones[0], ones), ValueError, "2 dimensions"),
        (lambda: lk.smoothquant_scales(ones[0], ones, alpha=2), ValueError, "0 to 1"),
        (lambda: lk.smoothquant_scales(ones[:, 0], ones), ValueError, "3 inputs"),
        (lambda: lk.smoothquant_scales(ones[0], []), ValueError, "at least one layer"),
        (lambda: lk.smoothquant_scales(ones[0] * np.inf, ones), ValueError, "infinite"),
        (lambda: lk.equalization_scales(ones, ones), ValueError, "2 outputs .* 3 inputs"),
        (lambda: lk.equalization_scales(ones * np.nan, ones.T), ValueError, "NaN"),
        (lambda: lk.bias_correction(ones, ones, ones[0], groups=3), ValueError, r"\(9,\)"),
        (lambda: lk.bias_correction(ones, ones.T, ones[0]), ValueError, "equal shapes"),
        (lambda: lk.smoothquant_scales(["a"] * 3, ones), TypeError, "input_absmax must be real"),
        (lambda: lk.output_error(ones * np.nan, ones, ones), ValueError, "weight holds 6 NaN"),
        (lambda: lk.output_error(ones, ones * np.inf, ones), ValueError, "actual holds 6 NaN"),
        (lambda: lk.output_error(ones, ones, ones * np.nan), ValueError, "x holds 6 NaN"),
        (lambda: lk.output_error(ones * 3e38, ones, ones), ValueError, "leave float32"),
        (lambda: lk.bias_correction(ones * np.nan, ones, ones[0]), ValueError, "weight holds 6"),
        (lambda: lk.bias_correction(ones, ones * np.nan, ones[0]), ValueError, "actual holds 6"),
        (lambda: lk.bias_correction(ones, ones, ones[0] * np.inf), ValueError, "mean holds 3"),
        (lambda: lk.bias_correction(ones, ones, ["a"] * 3), TypeError, "input_mean must be real"),
    ],
)
def test_bad_arguments_say_what_is_accepted(call, error, text):
    with pytest.raises(error, match=text) as caught:
        call()
    assert isinstance(caught.value, lk.KernelError)


def test_layers_without_inputs():
    none = np.zeros((2, 0), np.float32)
    assert lk.output_error(none, none, np.zeros((3, 0), np.float32)) == 0
    assert lk.bias_correction(none, none, np.zeros(0)).tolist() == [0, 0]
    with pytest.raises(lk.KernelError, match="no sample"):
        lk.awq_scales(none, np.zeros((3, 0), np.float32))
