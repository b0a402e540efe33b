import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import axes, floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference


@st.composite
def parameters(draw, shape, low, high):
    axis = draw(axes(len(shape)))
    channels = () if axis is None else (shape[axis],)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** rng.uniform(-5, 5, channels)
    if draw(st.booleans()):
        scale = 2.0 ** np.round(np.log2(scale))  # exact ties occur
    scale = scale * rng.choice([-1, 1], channels)
    zero = rng.integers(low, high + 1, channels) if draw(st.booleans()) else 0
    return axis, np.asarray(scale, np.float32), zero


INTEGERS = [
    ("int2", False),
    ("int2", True),
    ("uint2", False),
    ("int3", False),
    ("uint3", False),
    ("int4", False),
    ("int4", True),
    ("uint4", False),
    ("int8", False),
    ("int8", True),
    ("uint8", False),
    ("int16", False),
    ("int16", True),
    ("uint16", False),
]

STORAGE = {f"{kind}{bits}": f"{kind}8" for kind in ("int", "uint") for bits in (2, 3, 4)}


@given(data=st.data())
def test_quantize_equals_its_definition(data):
    x = data.draw(floats(nan=True))
    dtype, narrow = data.draw(st.sampled_from(INTEGERS))
    low, high = lk.integer_limits(dtype, narrow=narrow)
    axis, scale, zero = data.draw(parameters(x.shape, low, high))
    got = lk.quantize(
        x,
        scale,
        zero,
        dtype=dtype,
        axis=axis,
        narrow=narrow,
        nan="zero_point",
        threads=data.draw(st.integers(1, 3)),
    )
    assert got.dtype == STORAGE.get(dtype, dtype) and got.flags.c_contiguous
    np.testing.assert_array_equal(got, reference.quantize(x, scale, zero, (low, high), axis))
    fake = lk.fake_quantize(
        x, scale, zero, dtype=dtype, axis=axis, narrow=narrow, nan="zero_point", threads=2
    )
    want = reference.fake_quantize(x, scale, zero, (low, high), axis)
    assert fake.dtype == np.float32
    np.testing.assert_array_equal(fake.view(np.uint32), want.view(np.uint32))


@given(data=st.data())
def test_dequantize_equals_its_definition(data):
    like = data.draw(floats())
    dtype = data.draw(st.sampled_from(["int8", "uint8", "int16", "uint16", "int32"]))
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    q = rng.integers(limits.min, limits.max, like.shape, dtype, endpoint=True)
    q = lay_out(data.draw, np.asarray(q))
    axis, scale, zero = data.draw(parameters(q.shape, limits.min, limits.max))
    if dtype == "int32":
        zero = 0
    got = lk.dequantize(q, scale, zero, axis=axis)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_array_equal(got, reference.dequantize(q, scale, zero, axis))


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_large_arrays_do_not_depend_on_threads(axis):
    x = np.random.default_rng(0).standard_normal((30, 200, 300), dtype=np.float32)
    scale = np.float32(0.013) if axis is None else np.linspace(0.01, 0.02, x.shape[axis])
    want = reference.quantize(x, np.float32(scale), 3, (-128, 127), axis)
    for threads in (1, 2, 3, 8, None):
        got = lk.quantize(x, scale, 3, axis=axis, threads=threads)
        np.testing.assert_array_equal(got, want)
        fake = lk.fake_quantize(x, scale, 3, axis=axis, threads=threads)
    restored = lk.dequantize(got, scale, 3, axis=axis)
    np.testing.assert_array_equal(fake, restored)
    np.testing.assert_array_equal(restored, reference.dequantize(got, np.float32(scale), 3, axis))


def test_the_division_is_a_division():
    x = np.arange(1, 4_000_001, dtype=np.float32)
    scale = np.float32(0.1)
    by_reciprocal = np.clip(np.rint(x * (np.float32(1) / scale)), -128, 127)
    got = lk.quantize(x[:2000] / 1000, scale / 1000)
    np.testing.assert_array_equal(
        got, np.clip(np.rint(x[:2000] / 1000 / (scale / np.float32(1000))), -128, 127)
    )
    # The two differ somewhere, or the test above would prove nothing.
    assert (by_reciprocal != np.clip(np.rint(x / scale), -128, 127)).any() or (
        np.rint(x * (np.float32(1) / scale)) != np.rint(x / scale)
    ).any()


def test_out_is_filled_and_returned():
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    out = np.empty((3, 4), np.int8)
    assert lk.quantize(x, 0.01, out=out) is out
    np.testing.assert_array_equal(out, lk.quantize(x, 0.01))
    fake = np.empty((3, 4), np.float32)
    assert lk.fake_quantize(x, 0.01, out=fake) is fake
    np.testing.assert_array_equal(fake, lk.dequantize(out, 0.01))
    with pytest.raises(lk.KernelError, match="shares memory"):
        lk.fake_quantize(x, 0.01, out=x)
    back = np.empty((3, 4), np.float32)
    assert lk.dequantize(out, 0.01, out=back) is back


@pytest.mark.parametrize("dtype", ["int2", "uint2", "int3", "uint3", "int4", "uint4"])
def test_few_bits_lie_one_to_a_byte(dtype):
    low, high = lk.integer_limits(dtype)
    x = np.linspace(low - 2, high + 2, 24, dtype=np.float32).reshape(4, 6)
    codes = np.empty((4, 6), STORAGE[dtype])
    assert lk.quantize(x, 1.0, dtype=dtype, out=codes) is codes
    assert (codes.min(), codes.max()) == (low, high)
    bits = int(dtype[-1])
    assert high - low + 1 == 2**bits
    restored = lk.unpack_bits(lk.pack_bits(codes, bits), bits, 6, signed=low < 0)
    np.testing.assert_array_equal(restored, codes)
    np.testing.assert_array_equal(lk.fake_quantize(x, 1.0, dtype=dtype), lk.dequantize(codes, 1.0))
    fused, scale = lk.quantize_symmetric(x, dtype=dtype, axis=0)
    assert fused.dtype == codes.dtype
    np.testing.assert_array_equal(scale, lk.scale_symmetric(x, dtype, axis=0))
    np.testing.assert_array_equal(fused, lk.quantize(x, scale, dtype=dtype, axis=0, narrow=low < 0))


def test_nan_is_refused_and_located():
    x = np.ones((4, 5), np.float32)
    x[1, 2] = x[3, 4] = np.nan
    out = np.full((4, 5), 99, np.int8)
    with pytest.raises(lk.KernelError, match="2 NaN, the first at linear index 7"):
        lk.quantize(x, 1.0, 5, out=out)
    assert out[1, 2] == 5 and out[0, 0] == 6


BAD = {
    "float64": ({"x": np.ones(3)}, TypeError, "float64 is not supported"),
    "swapped bytes": ({"x": np.ones(3, ">f4")}, TypeError, "not supported"),
    "text": ({"x": ["a"]}, TypeError, "not supported"),
    "dtype": ({"dtype": "int7"}, TypeError, "int7"),
    "int32": (
        {"dtype": "int32"},
        TypeError,
        "accepted: int2, uint2, int3, uint3, int4, uint4, int8, uint8, int16, uint16",
    ),
    "narrow": ({"dtype": "uint8", "narrow": True}, ValueError, "signed"),
    "axis": ({"axis": 2, "scale": [1.0]}, ValueError, "axis 2 is out of range"),
    "axis type": ({"axis": 0.5}, TypeError, "axis must be"),
    "zero scale": ({"scale": 0.0}, ValueError, r"scale\[0\] is 0"),
    "negative denormal scale": ({"scale": -1e-40}, ValueError, r"scale\[0\] is -"),
    "denormal scale": ({"scale": 1e-40}, ValueError, "denormal"),
    "huge scale": ({"scale": 1e300}, ValueError, "inf"),
    "nan scale": ({"scale": np.nan}, ValueError, "NaN"),
    "second scale": ({"scale": [1, 0, 1], "axis": 1}, ValueError, r"scale\[1\]"),
    "scale type": ({"scale": "1"}, TypeError, "scale must be real"),
    "scale length": ({"scale": [1.0, 2.0], "axis": 1}, ValueError, r"shape \(3,\)"),
    "scale for channels": ({"scale": 1.0, "axis": 1}, ValueError, r"shape \(3,\)"),
    "scales for a tensor": ({"scale": [1.0, 2.0]}, ValueError, "single value"),
    "zero point": ({"zero_point": 128}, ValueError, "accepted are -128 to 127"),
    "zero point of few bits": (
        {"dtype": "int4", "zero_point": 8},
        ValueError,
        "accepted are -8 to 7",
    ),
    "huge zero point": ({"zero_point": 2**40}, ValueError, str(2**40)),
    "zero point type": ({"zero_point": 0.5}, TypeError, "zero_point must be integers"),
    "nan policy": ({"nan": "ignore"}, ValueError, "accepted"),
    "threads": ({"threads": 0}, ValueError, "at least 1"),
    "threads type": ({"threads": 1.5}, TypeError, "threads must be"),
    "out dtype": ({"out": np.empty((2, 3), np.uint8)}, ValueError, "needed is int8"),
    "out shape": ({"out": np.empty((3, 2), np.int8)}, ValueError, r"needed is \[2, 3\]"),
    "out strides": ({"out": np.empty((2, 6), np.int8)[:, ::2]}, ValueError, "contiguous"),
    "out of few bits": (
        {"dtype": "uint4", "out": np.empty((2, 3), np.int8)},
        ValueError,
        "needed is uint8",
    ),
    "out type": ({"out": [0]}, TypeError, "NumPy array"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_say_what_is_accepted(case):
    change, error, text = BAD[case]
    arguments = {"x": np.ones((2, 3), np.float32), "scale": 1.0} | change
    with pytest.raises(error, match=text) as caught:
        lk.quantize(**arguments)
    assert isinstance(caught.value, lk.KernelError)


def test_out_must_be_writable_and_apart():
    x = np.ones(8, np.float32)
    frozen = np.empty(8, np.int8)
    frozen.flags.writeable = False
    with pytest.raises(lk.KernelError, match="read-only"):
        lk.quantize(x, 1.0, out=frozen)
    with pytest.raises(lk.KernelError, match="shares memory"):
        lk.quantize(x, 1.0, out=x.view(np.int8)[:8])


def test_int32_has_no_zero_point():
    with pytest.raises(lk.KernelError, match="accepted are 0 to 0"):
        lk.dequantize(np.ones(2, np.int32), 1.0, 1)


def test_empty_arrays_give_empty_arrays():
    assert lk.quantize(np.empty((0, 3), np.float32), [1, 1, 1], axis=1).shape == (0, 3)
    assert lk.quantize(np.empty((3, 0), np.float32), np.empty(0), axis=1).shape == (3, 0)
    assert lk.dequantize(np.empty((2, 0), np.int8), 1.0).shape == (2, 0)


@given(data=st.data())
def test_biases_equal_their_definition(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(0, 30))
    bias = (rng.standard_normal(n) * 10.0 ** rng.uniform(-6, 4)).astype(np.float32)
    scale_x = float(2.0 ** rng.integers(-12, 3))
    scale_w = 2.0 ** np.round(rng.uniform(-20, 0, n))
    if data.draw(st.booleans()):
        scale_x, scale_w = float(rng.uniform(1e-4, 1)), rng.uniform(-1e-2, 1e-2, n)
    scale_w = scale_w.astype(np.float32)
    got = lk.quantize_bias(bias, scale_x, scale_w)
    codes, scale, saturated = reference.quantize_bias(bias, scale_x, scale_w)
    assert got.codes.dtype == np.int32 and got.scale.dtype == np.float32
    np.testing.assert_array_equal(got.codes, codes)
    np.testing.assert_array_equal(got.scale, scale)
    assert got.saturated == saturated
    if n:
        single = lk.quantize_bias(bias, scale_x, scale_w[0])
        assert single.scale.shape == () and single.codes.shape == (n,)
        assert single.codes[0] == codes[0]


def test_bias_ties_go_to_even_and_the_ends_saturate():
    got = lk.quantize_bias([0.5, 1.5, -2.5, 3e9, -3e9, 2147483647.0], 1.0, 1.0)
    assert got.codes.tolist() == [0, 2, -2, 2**31 - 1, -(2**31), 2**31 - 1]
    assert got.saturated == 2


def test_bad_biases():
    for arguments, text in (
        (([1.0, np.nan], 1.0, 1.0), "1 of 2 biases"),
        (([1.0, 2.0], 1.0, [1.0, 2.0, 3.0]), r"scale_w has shape \(3,\)"),
        (([1.0, 2.0], [1.0, 2.0], 1.0), "single scale_x"),
        (([1.0], 1e-30, 1e-30), "denormal"),
        (([1.0], 0.0, 1.0), "product"),
        ((["a"], 1.0, 1.0), "real numbers"),
    ):
        with pytest.raises(lk.KernelError, match=text):
            lk.quantize_bias(*arguments)


@pytest.mark.parametrize("kernel", [lk.quantize, lk.fake_quantize, lk.dequantize])
def test_out_must_not_share_memory_with_the_parameters(kernel):
    """They are read while it is written."""
    x = np.ones((2, 3), np.int8 if kernel is lk.dequantize else np.float32)
    memory = np.ones(6, np.float32)
    out = memory.reshape(2, 3)
    if kernel is lk.quantize:
        out = memory.view(np.int8)[:6].reshape(2, 3)
    with pytest.raises(lk.KernelError, match="shares memory"):
        kernel(x, memory[:3], axis=1, out=out)
    memory[:] = 0
    with pytest.raises(lk.KernelError, match="shares memory"):
        kernel(x, np.ones(3), memory.view(np.int64), axis=1, out=out)


def test_zero_points_beyond_int64_do_not_wrap():
    with pytest.raises(lk.KernelError, match="18446744073709551615"):
        lk.quantize(np.ones(2, np.float32), 1.0, np.uint64(2**64 - 1))
