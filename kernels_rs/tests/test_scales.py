import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import axes, floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference

SIGNED = ["int2", "int3", "int4", "int8", "int16"]
INTEGERS = [*SIGNED, *(f"u{name}" for name in SIGNED)]


@st.composite
def finite(draw):
    x = draw(floats(min_side=1))
    return lay_out(draw, np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0)))


@st.composite
def integers(draw):
    dtype = draw(st.sampled_from(INTEGERS))
    return dtype, dtype in SIGNED and draw(st.booleans())


def same(got, want, shape):
    for one, other, dtype in zip(got, want, (np.float32, np.int64), strict=True):
        assert one.dtype == dtype and one.shape == shape
        np.testing.assert_array_equal(one, other)


@given(data=st.data())
def test_affine_scales_equal_their_definition(data):
    x = data.draw(finite())
    axis = data.draw(axes(x.ndim))
    dtype, narrow = data.draw(integers())
    limits = lk.integer_limits(dtype, narrow=narrow)
    threads = data.draw(st.integers(1, 3))
    got = lk.scale_affine(x, dtype, axis=axis, narrow=narrow, threads=threads)
    ranges = reference.minmax(x, axis)
    shape = () if axis is None else (x.shape[axis],)
    same(got, reference.scale_affine(*ranges, limits), shape)
    same(lk.scale_from_minmax(*ranges, dtype, narrow=narrow), got, shape)
    out = np.empty(shape, np.float32), np.empty(shape, np.int64)
    filled = lk.scale_affine(x, dtype, axis=axis, narrow=narrow, out=out)
    assert filled[0] is out[0] and filled[1] is out[1]
    same(filled, got, shape)
    # Zero is exact, and `quantize` takes what comes out.
    options = {"dtype": dtype, "axis": axis, "narrow": narrow}
    zeros = lk.fake_quantize(np.zeros_like(x), *got, **options)
    assert not zeros.any()


@given(data=st.data())
def test_percentiles_of_both_tails_equal_their_definition(data):
    x = data.draw(finite())
    axis = data.draw(axes(x.ndim))
    dtype, narrow = data.draw(integers())
    percentile = data.draw(st.sampled_from([0.01, 50, 90, 99.9, 100]))
    options = {"axis": axis, "narrow": narrow, "threads": data.draw(st.integers(1, 3))}
    got = lk.scale_affine_percentile(x, percentile, dtype, **options)
    ranges = reference.percentile_range(x, percentile, axis)
    limits = lk.integer_limits(dtype, narrow=narrow)
    shape = () if axis is None else (x.shape[axis],)
    same(got, reference.scale_affine(*ranges, limits), shape)
    if percentile == 100:
        same(got, lk.scale_affine(x, dtype, **options), shape)
    if axis is None:
        assert reference.quantile_range(x, percentile) == tuple(map(float, ranges))


@given(data=st.data())
def test_signed_maxima_equal_their_definition(data):
    x = data.draw(finite())
    axis = data.draw(axes(x.ndim))
    dtype = data.draw(st.sampled_from(SIGNED))
    smallest, _ = lk.integer_limits(dtype)
    got = lk.scale_signed_max(x, dtype, axis=axis, threads=data.draw(st.integers(1, 3)))
    assert got.dtype == np.float32 and got.shape == (() if axis is None else (x.shape[axis],))
    np.testing.assert_array_equal(got, reference.scale_signed_max(x, smallest, axis))
    codes = lk.quantize(x, got, dtype=dtype, axis=axis)
    want = reference.quantize(x, got, 0, (smallest, -1 - smallest), axis)
    np.testing.assert_array_equal(codes, want)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_channels_have_the_scales_of_blocks(bits):
    x = np.random.default_rng(bits).standard_normal((5, 300), dtype=np.float32)
    x[0] = np.abs(x[0])
    x[1] = 0
    x[2, 0] = -x[2].max() - 1
    for scheme in ("asymmetric", "signed_max"):
        codes, scale, zero = lk.quantize_blocks(x, 300, bits=bits, scheme=scheme)
        if scheme == "asymmetric":
            got, place = lk.scale_affine(x, f"uint{bits}", axis=0)
            np.testing.assert_array_equal(place, zero[:, 0])
            own = lk.quantize(x, got, place, dtype=f"uint{bits}", axis=0)
            signed, other = lk.scale_affine(x, f"int{bits}", axis=0)
            np.testing.assert_array_equal(signed, got)
            np.testing.assert_array_equal(other, place - 2 ** (bits - 1))
        else:
            got = lk.scale_signed_max(x, f"int{bits}", axis=0)
            own = lk.quantize(x, got, dtype=f"int{bits}", axis=0)
        np.testing.assert_array_equal(got, scale[:, 0])
        np.testing.assert_array_equal(own, codes)


def test_uint8_scales_are_those_of_dynamic_quantize_linear():
    """The rule of the ONNX operator, whose scale and zero point are of the same formula."""
    scale, zero = lk.scale_affine(np.array([-1.0, 0.5, 4.1], np.float32), "uint8")
    assert scale == np.float32((np.float64(np.float32(4.1)) + 1) / 255)
    assert zero == np.rint(np.float32(1) / scale) == 50


@pytest.mark.parametrize("side", [1, -1])
def test_ranges_away_from_zero_are_widened(side):
    x = side * np.linspace(3, 4, 100, dtype=np.float32)
    for scale, zero in (lk.scale_affine(x), lk.scale_affine_percentile(x, 99)):
        assert zero == (-128 if side > 0 else 127)
        assert scale == pytest.approx(4 / 255, rel=2e-3)
    scale, zero = lk.scale_affine(np.zeros(4, np.float32), "uint4")
    assert (scale, zero) == (1, 0)
    scale, _ = lk.scale_affine(np.float32([0, 1e-45]))
    assert scale == np.finfo(np.float32).tiny
    scale, zero = lk.scale_affine(np.float32([-3.4e38, 3.4e38]), "int2")
    assert np.isfinite(scale) and zero == 0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_large_tensors_do_not_depend_on_threads(dtype):
    x = np.random.default_rng(1).standard_normal((3, 1100, 700), dtype=np.float32)
    x = (x + np.float32(0.5)).astype(dtype)[:, ::-1]
    for axis in (None, 0):
        ranges = reference.percentile_range(x, 99.9, axis)
        want = reference.scale_affine(*ranges, (-8, 7))
        for threads in (1, 2, 3):
            got = lk.scale_affine_percentile(x, 99.9, "int4", axis=axis, threads=threads)
            same(got, want, () if axis is None else (3,))
    for one_sided in (np.abs(x), -np.abs(x)):
        want = reference.scale_affine(*reference.percentile_range(one_sided, 98), (0, 255))
        same(lk.scale_affine_percentile(one_sided, 98, "uint8"), want, ())


def test_infinities_beyond_the_percentile_do_not_matter():
    x = np.append(np.linspace(-1, 1, 1000), [np.inf, -np.inf]).astype(np.float32)
    scale, _ = lk.scale_affine_percentile(x, 99)
    assert scale == pytest.approx(2 / 255, rel=0.02)
    with pytest.raises(lk.KernelError, match="1 of 1 channels hold NaN or infinite"):
        lk.scale_affine_percentile(x, 100)


KERNELS = {
    "affine": lk.scale_affine,
    "percentile": lambda x, *args, **kw: lk.scale_affine_percentile(x, 99, *args, **kw),
    "signed_max": lk.scale_signed_max,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_has_no_scale_is_refused(kernel):
    call = KERNELS[kernel]
    x = np.ones((2, 3), np.float32)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        x[1] = bad
        with pytest.raises(lk.KernelError, match=r"1 of 2 channels .* index 1|NaN"):
            call(x, axis=0)
    for empty in (np.empty(0, np.float32), np.empty((0, 3), np.float32)):
        with pytest.raises(lk.KernelError, match="no value"):
            call(empty, axis=None if empty.ndim == 1 else 1)
    none = call(np.empty((3, 0), np.float32), axis=1)
    assert all(part.shape == (0,) for part in (none if isinstance(none, tuple) else (none,)))
    for wrong, text in (
        ({"dtype": "int5"}, "int5"),
        ({"axis": 2}, "axis 2"),
        ({"threads": 0}, "at least 1"),
    ):
        with pytest.raises(lk.KernelError, match=text):
            call(np.ones((2, 3), np.float32), **wrong)
    with pytest.raises(lk.KernelTypeError, match="float64"):
        call(np.ones(3))


FLOAT, INT = np.empty(3, np.float32), np.empty(3, np.int64)
X = np.ones((2, 3), np.float32)
BAD = {
    "narrow": (lambda: lk.scale_affine(X, "uint8", narrow=True), "signed"),
    "unsigned": (lambda: lk.scale_signed_max(X, "uint4"), "signed dtype, got uint4"),
    "percentile": (lambda: lk.scale_affine_percentile(X, 0), "above 0 up to 100"),
    "nan percentile": (lambda: lk.scale_affine_percentile(X, np.nan), "above 0 up to 100"),
    "percentile type": (lambda: lk.scale_affine_percentile(X, "99"), "real number"),
    "crossed": (lambda: lk.scale_from_minmax([0, 2], [1, 1]), "low is 2.0 where high is 1.0"),
    "shapes": (lambda: lk.scale_from_minmax([0, 1], 1), r"shape \(2,\) and high \(\)"),
    "nan": (lambda: lk.scale_from_minmax(np.nan, 1), "NaN or infinite"),
    "beyond float32": (lambda: lk.scale_from_minmax(0, 1e39), "NaN or infinite"),
    "text": (lambda: lk.scale_from_minmax("0", 1), "low must be real"),
    "out": (lambda: lk.scale_affine(X, axis=1, out=FLOAT), "tuple of two arrays"),
    "out dtype": (lambda: lk.scale_affine(X, axis=1, out=(FLOAT, FLOAT)), "needed is int64"),
    "out shape": (lambda: lk.scale_affine(X, axis=0, out=(FLOAT, INT)), r"needed is \(2,\)"),
    "out shared": (
        lambda: lk.scale_affine(X, axis=1, out=(X[0], INT)),
        "shares memory",
    ),
    "signed out": (lambda: lk.scale_signed_max(X, axis=1, out=X[0]), "shares memory"),
    "signed out dtype": (lambda: lk.scale_signed_max(X, axis=1, out=INT), "needed is float32"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_say_what_is_accepted(case):
    call, text = BAD[case]
    with pytest.raises(lk.KernelError, match=text):
        call()
