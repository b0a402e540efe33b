import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import FLOATS, lay_out

import lepton_kernels as lk
from lepton_kernels import _native, reference

SCHEMES = ["signed_max", "absmax", "asymmetric"]


@st.composite
def layers(draw, most=40):
    """Weights, and inputs that depend on each other."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    outputs, inputs = draw(st.integers(1, 12)), draw(st.integers(1, most))
    dtype = FLOATS[draw(st.sampled_from(list(FLOATS)))]
    weight = (rng.standard_normal((outputs, inputs)) * 0.1).astype(dtype)
    mixing = rng.standard_normal((inputs, inputs)) * rng.uniform(0.1, 3, inputs)
    x = (rng.standard_normal((2 * inputs, inputs)) @ mixing).astype(np.float32)
    return lay_out(draw, weight), x


@given(data=st.data())
def test_gptq_equals_its_definition(data):
    weight, x = data.draw(layers())
    hessian = reference.gram(x) / len(x)
    options = {
        "bits": data.draw(st.integers(2, 8)),
        "scheme": data.draw(st.sampled_from(SCHEMES)),
        "clip": data.draw(st.sampled_from(["range", "range", "mse"])),
        "act_order": data.draw(st.booleans()),
        "damp": data.draw(st.sampled_from([0.01, 0.3])),
    }
    size = data.draw(st.sampled_from([1, 3, 8, 16, 32, None]))
    got = lk.gptq(weight, hessian, size, threads=data.draw(st.integers(1, 3)), **options)
    codes, scale, zero = reference.gptq(weight, hessian, size or weight.shape[1], **options)
    np.testing.assert_array_equal(got.scale, scale)
    np.testing.assert_array_equal(got.codes, codes)
    if options["scheme"] == "asymmetric":
        np.testing.assert_array_equal(got.zero_point, zero)
    else:
        assert got.zero_point is None and got.codes.dtype == np.int8


def layer(outputs=200, inputs=300, samples=600):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((outputs, inputs), dtype=np.float32)
    mixing = rng.standard_normal((inputs, inputs)) / np.sqrt(inputs) + np.eye(inputs)
    x = rng.standard_normal((samples, inputs)) @ mixing * rng.uniform(0.1, 4, inputs)
    return weight, x.astype(np.float32)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("size", [64, 300])
def test_blocks_and_threads_do_not_matter(act_order, size):
    weight, x = layer()
    hessian = lk.HessianAccumulator(300).update(x).result()
    want = reference.gptq(weight, hessian, size, 4, "signed_max", act_order=act_order)
    for threads in (1, 2, 3):
        got = lk.gptq(weight, hessian, size, act_order=act_order, threads=threads)
        np.testing.assert_array_equal(got.codes, want[0])
        np.testing.assert_array_equal(got.scale, want[1])


@pytest.mark.parametrize("act_order", [False, True])
def test_outputs_change_less_than_by_rounding_to_nearest(act_order):
    weight, x = layer()
    hessian = lk.HessianAccumulator(300).update(x).result()

    def error(found):
        return lk.output_error(weight, lk.dequantize_blocks(*found, 60), x)

    nearest = error(lk.quantize_blocks(weight, 60))
    found = error(lk.gptq(weight, hessian, 60, act_order=act_order))
    clipped = error(lk.gptq(weight, hessian, 60, act_order=act_order, clip="mse"))
    assert found < 0.8 * nearest
    assert clipped < found


def test_it_is_the_algorithm_of_the_paper():
    """The factor of the inverse, with updates of all later columns, in float64."""
    weight, x = layer(50, 64, 300)
    hessian = x.T.astype(np.float64) @ x / len(x)
    got = lk.gptq(weight, hessian, None, bits=3, scheme="absmax")
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(64)
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = weight.astype(np.float64)
    scale = got.scale[:, 0].astype(np.float64)
    want = np.zeros(weight.shape)
    for j in range(64):
        want[:, j] = np.clip(np.rint(left[:, j] / scale), -3, 3)
        lost = (left[:, j] - want[:, j] * scale) / upper[j, j]
        left[:, j:] -= np.outer(lost, upper[j, j:])
    # Rounding of float32 may tip a value that lies in the middle, and with it the rest of a row.
    assert np.mean(np.all(want == got.codes, axis=1)) >= 0.95


def test_out_is_filled_and_returned():
    weight, x = layer(4, 8, 20)
    out = np.empty(weight.shape, np.int8)
    got = lk.gptq(weight, reference.gram(x), 4, out=out)
    assert got.codes is out
    np.testing.assert_array_equal(out, lk.gptq(weight, reference.gram(x), 4).codes)
    assert lk.gptq(np.empty((0, 8), np.float32), reference.gram(x), 4).scale.shape == (0, 2)


@pytest.mark.parametrize("n", [1, 7, 130, 300])
def test_the_factor_equals_its_definition(n):
    x = np.random.default_rng(n).standard_normal((2 * n, n))
    a = x.T @ x
    for threads in (1, 3):
        factor = a.copy()
        _native.cholesky(factor, threads)
        np.testing.assert_array_equal(np.tril(factor), reference.cholesky(a))
    np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(a), rtol=1e-9, atol=1e-9)


@given(data=st.data())
def test_hessians_equal_their_definition(data):
    _, x = data.draw(layers())
    x = np.tile(x, (data.draw(st.integers(1, 8)), 1))
    cut = data.draw(st.integers(0, len(x)))
    n = x.shape[1]
    whole = lk.HessianAccumulator(n).update(x, threads=data.draw(st.integers(1, 3)))
    np.testing.assert_array_equal(whole.result(), reference.gram(x) / len(x))
    halves = lk.HessianAccumulator(n).update(lay_out(data.draw, x[:cut]))
    halves.merge(pickle.loads(pickle.dumps(lk.HessianAccumulator(n).update(x[cut:]))))
    assert halves.count == len(x)
    np.testing.assert_array_equal(
        halves.result(), (reference.gram(x[:cut]) + reference.gram(x[cut:])) / len(x)
    )


MEMORY = np.eye(3)
BAD = {
    "dtype": ({"weight": np.ones((2, 3))}, TypeError, "float64 is not supported"),
    "dimensions": ({"weight": np.ones(3, np.float32)}, ValueError, "outputs, inputs"),
    "hessian shape": ({"hessian": np.eye(2)}, ValueError, r"needed is \(3, 3\)"),
    "hessian dtype": ({"hessian": np.eye(3, dtype=int)}, TypeError, "accepted: float32, float64"),
    "hessian NaN": ({"hessian": np.eye(3) * np.nan}, ValueError, "NaN"),
    "not definite": ({"hessian": -np.eye(3)}, ValueError, "not positive definite"),
    "not symmetric": ({"hessian": np.tri(3)}, ValueError, r"element \(0, 1\) is 0.0 and \(1, 0\)"),
    "out over the hessian": (
        {"hessian": MEMORY, "out": MEMORY.view(np.int8).ravel()[:6].reshape(2, 3)},
        ValueError,
        "shares memory",
    ),
    "zeros": ({"hessian": np.zeros((3, 3))}, ValueError, "raise damp"),
    "damp": ({"damp": -1}, ValueError, "damp is -1"),
    "bits": ({"bits": 9}, ValueError, "2 to 8"),
    "block": ({"block_size": 0}, ValueError, "at least 1"),
    "scheme": ({"scheme": "other"}, ValueError, "signed_max, absmax, asymmetric"),
    "clip": ({"clip": "other"}, ValueError, "accepted"),
    "weight NaN": ({"weight": np.float32([[1, 2, np.nan]])}, ValueError, "1 of 1 blocks"),
    "out": ({"out": np.empty((2, 3), np.uint8)}, ValueError, "needed is int8"),
    "out shape": ({"out": np.empty((3, 2), np.int8)}, ValueError, r"needed is \(2, 3\)"),
    "threads": ({"threads": 0}, ValueError, "at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_say_what_is_accepted(case):
    change, error, text = BAD[case]
    arguments = {"weight": np.ones((2, 3), np.float32), "hessian": np.eye(3)} | change
    with pytest.raises(error, match=text) as caught:
        lk.gptq(**arguments)
    assert isinstance(caught.value, lk.KernelError)


def test_bad_samples():
    accumulator = lk.HessianAccumulator(3)
    with pytest.raises(lk.KernelError, match="no sample"):
        accumulator.result()
    with pytest.raises(lk.KernelError, match="must be 3 long"):
        accumulator.update(np.ones((2, 4), np.float32))
    with pytest.raises(lk.KernelTypeError, match="float64"):
        accumulator.update(np.ones((2, 3)))
    with pytest.raises(lk.KernelError, match="must agree"):
        accumulator.merge(lk.HessianAccumulator(4))
    with pytest.raises(lk.KernelError, match="at least 1"):
        lk.HessianAccumulator(0)


def test_an_input_that_is_always_zero_has_a_place():
    weight, x = layer(5, 8, 30)
    x[:, 3] = 0
    found = lk.gptq(weight, reference.gram(x), 4)
    back = lk.dequantize_blocks(*found, 4)
    assert np.abs(back[:, 3] - weight[:, 3]).max() <= np.abs(found.scale).max()


def test_a_hessian_may_differ_from_its_columns_by_rounding():
    weight, x = layer(4, 130, 300)
    hessian = reference.gram(x)
    root = np.sqrt(np.diag(hessian))
    for apart, fits in ((0.9e-4, True), (1.1e-4, False)):
        other = hessian.copy()
        other[129, 2] += apart * root[129] * root[2]
        if fits:
            lk.gptq(weight, other, 8)
        else:
            with pytest.raises(lk.KernelError, match=r"element \(2, 129\)"):
                lk.gptq(weight, other, 8)


@pytest.mark.parametrize("damp", [np.float32(0.25), np.float64(0.25), np.int64(1), 1])
def test_damping_takes_any_real_number(damp):
    weight, x = layer(4, 8, 20)
    hessian = reference.gram(x)
    got, want = (
        lk.gptq(weight, hessian, 4, damp=damp),
        lk.gptq(weight, hessian, 4, damp=float(damp)),
    )
    np.testing.assert_array_equal(got.codes, want.codes)
