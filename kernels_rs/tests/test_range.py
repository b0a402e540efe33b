import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import axes, floats

import lepton_kernels as lk
from lepton_kernels import reference


def same_bits(got, want):
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got)[got == 0], False)


@given(data=st.data())
def test_ranges_equal_their_definition(data):
    x = data.draw(floats(nan=True, min_side=1))
    axis = data.draw(axes(x.ndim))
    threads = data.draw(st.integers(1, 3))
    for got, want in zip(
        lk.minmax(x, axis=axis, threads=threads), reference.minmax(x, axis), strict=True
    ):
        assert got.dtype == np.float32
        same_bits(got, want)
    same_bits(lk.absmax(x, axis=axis, threads=threads), reference.absmax(x, axis))


@given(data=st.data())
def test_symmetric_scales_equal_their_definition(data):
    x = data.draw(floats(min_side=1))
    x = np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0))
    axis = data.draw(axes(x.ndim))
    got = lk.scale_symmetric(x, axis=axis)
    np.testing.assert_array_equal(got, reference.scale_symmetric(x, 127, axis))
    magnitude, high = lk.absmax(x, axis=axis), data.draw(st.sampled_from([1, 7, 127, 65535]))
    np.testing.assert_array_equal(
        lk.scale_from_absmax(magnitude, high), reference.scale_from_absmax(magnitude, high)
    )
    codes = lk.quantize(x, got, axis=axis, narrow=True)
    np.testing.assert_array_equal(codes, lk.quantize(x, got, axis=axis))
    fused, scale = lk.quantize_symmetric(x, axis=axis, threads=data.draw(st.integers(1, 3)))
    np.testing.assert_array_equal(scale, got)
    np.testing.assert_array_equal(fused, codes)
    unsigned, scale = lk.quantize_symmetric(x, dtype="uint8", axis=axis)
    np.testing.assert_array_equal(scale, reference.scale_symmetric(x, 255, axis))
    np.testing.assert_array_equal(unsigned, lk.quantize(x, scale, axis=axis, dtype="uint8"))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_large_arrays_do_not_depend_on_threads(axis):
    x = np.random.default_rng(0).standard_normal((30, 200, 300), dtype=np.float32)
    for threads in (1, 2, 5, None):
        for got, want in zip(
            lk.minmax(x, axis=axis, threads=threads), reference.minmax(x, axis), strict=True
        ):
            np.testing.assert_array_equal(got, want)


def test_out_is_filled_and_returned():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    low, high = np.empty(3, np.float32), np.empty(3, np.float32)
    got = lk.minmax(x, axis=1, out=(low, high))
    assert got[0] is low and got[1] is high
    np.testing.assert_array_equal(high, [3, 4, 5])
    single = np.empty((), np.float32)
    assert lk.absmax(-x, out=single) is single and single == 5


def test_nothing_to_reduce_is_an_error():
    for call in (lk.minmax, lk.absmax, lk.scale_symmetric, lk.quantize_symmetric):
        with pytest.raises(lk.KernelError, match="no values"):
            call(np.empty((0, 3), np.float32), axis=1)
        with pytest.raises(lk.KernelError, match="no values"):
            call(np.empty(0, np.float32))
        none = call(np.empty((3, 0), np.float32), axis=1)
        assert all(part.size == 0 for part in (none if isinstance(none, tuple) else (none,)))


def test_scales_need_finite_values():
    for bad in (np.nan, np.inf):
        with pytest.raises(lk.KernelError, match="1 of 2 channels"):
            lk.scale_symmetric(np.array([[1, bad], [1, 2]], np.float32), axis=0)
        for axis, channel in ((0, 0), (1, 1)):
            with pytest.raises(lk.KernelError, match=f"1 of 2 channels .* index {channel}"):
                lk.quantize_symmetric(np.array([[1, bad], [1, 2]], np.float32), axis=axis)


def test_scales_of_magnitudes_follow_the_same_rule():
    magnitude = np.array([[0, 1e-45], [3, 254]], np.float32)
    want = np.array([[1, 2.0**-126], [3 / np.float32(127), 2]], np.float32)
    np.testing.assert_array_equal(lk.scale_from_absmax(magnitude, 127), want)
    assert lk.scale_from_absmax([254.0], np.int64(127)).dtype == np.float32
    for high in (0, -127):
        with pytest.raises(lk.KernelError, match="high must be at least 1"):
            lk.scale_from_absmax(magnitude, high)
    with pytest.raises(lk.KernelTypeError, match="high must be an integer"):
        lk.scale_from_absmax(magnitude, 127.0)
    for bad, text in ((-1.0, "magnitude is -1.0"), (np.nan, "1 of 2"), (1e39, "1 of 2")):
        with pytest.raises(lk.KernelError, match=text):
            lk.scale_from_absmax([bad, 1.0], 127)
    with pytest.raises(lk.KernelTypeError, match="magnitude must be real numbers"):
        lk.scale_from_absmax(["a"], 127)


def test_bad_arguments():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(lk.KernelTypeError, match="float64"):
        lk.minmax(np.ones(3))
    with pytest.raises(lk.KernelError, match=r"out has shape \(2,\)"):
        lk.absmax(x, axis=1, out=np.empty(2, np.float32))
    with pytest.raises(lk.KernelError, match="shares memory"):
        same = np.empty(3, np.float32)
        lk.minmax(x, axis=1, out=(same, same))
    with pytest.raises(lk.KernelError, match="float64"):
        lk.absmax(x, axis=1, out=np.empty(3))


def test_arguments_of_other_types_are_refused():
    x = np.ones(3, np.float32)
    for wrong in ("foo", "int5"):
        for kernel in (lk.scale_symmetric, lk.quantize_symmetric):
            with pytest.raises(lk.KernelTypeError, match=wrong):
                kernel(x, dtype=wrong)
    with pytest.raises(lk.KernelTypeError, match="percentile must be a real number"):
        lk.scale_percentile(x, None)
    with pytest.raises(lk.KernelTypeError, match="tuple of two arrays"):
        lk.minmax(x, out=np.empty((), np.float32))
