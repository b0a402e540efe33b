import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_strategies import floats, lay_out

import lepton_kernels as lk
from lepton_kernels import reference


@st.composite
def pairs(draw):
    r = draw(floats(nan=True, min_side=1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["same", "near", "float64", "int", "zero"]))
    with np.errstate(all="ignore"):
        a = np.asarray(r.astype(np.float64))
        if kind == "near":
            a = (a * (1 + 1e-3 * rng.standard_normal(r.shape))).astype(np.float32)
        elif kind == "int":
            a = rng.integers(-100, 100, r.shape).astype(draw(st.sampled_from("bhilBHIL?")))
        elif kind == "zero":
            a = np.zeros(r.shape, np.float32)
        elif kind == "same":
            a = a.astype(r.dtype)
    return r, lay_out(draw, np.asarray(a))


@given(pair=pairs(), threads=st.integers(1, 3))
def test_metrics_equal_their_definition(pair, threads):
    r, a = pair
    accumulator = lk.ErrorAccumulator().update(r, a, threads=threads)
    got = accumulator.result(nonfinite="skip")
    want = reference.error_metrics(r, a)
    assert (got.count, got.compared) == (r.size, want["compared"])
    assert got.nonfinite_mismatched == want["nonfinite_mismatched"]
    r64, a64 = r.astype(np.float64), a.astype(np.float64)
    assert got.nan_reference == np.isnan(r64).sum() and got.nan_actual == np.isnan(a64).sum()
    assert got.inf_reference == np.isinf(r64).sum() and got.inf_actual == np.isinf(a64).sum()
    assert got.max_abs == want["max_abs"]
    for name in ("mean_abs", "rel_l2", "sqnr_db", "psnr_db"):
        assert getattr(got, name) == pytest.approx(want[name], rel=1e-11, abs=1e-11), name
    assert got.cosine == pytest.approx(want["cosine"], abs=1e-12)
    zero, under, counts, over = reference.error_histogram(r, a)
    histogram = got.histogram
    assert (histogram.zero, histogram.underflow, histogram.overflow) == (zero, under, over)
    np.testing.assert_array_equal(histogram.counts, counts)


@given(pair=pairs(), cut=st.floats(0, 1))
def test_batches_merge_to_the_whole(pair, cut):
    r, a = (np.ravel(side) for side in pair)
    at = int(cut * r.size)
    whole = lk.ErrorAccumulator().update(r, a)
    first = lk.ErrorAccumulator().update(r[:at], a[:at])
    second = lk.ErrorAccumulator().update(r[at:], a[at:])
    second = pickle.loads(pickle.dumps(second))
    plain = json.loads(json.dumps(second.to_dict()))
    merged = first.merge(lk.ErrorAccumulator.from_dict(plain))
    for name, value in whole.to_dict().items():
        if name.endswith("_sum"):
            assert merged.to_dict()[name] == pytest.approx(value, rel=1e-12)
        else:
            assert merged.to_dict()[name] == value


def test_large_arrays_do_not_depend_on_threads():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((1000, 1301), dtype=np.float32)
    a = (r + 1e-3 * rng.standard_normal(r.shape)).astype(np.float16)
    r[7, 9] = np.nan
    one = lk.ErrorAccumulator().update(r, a, threads=1)
    for threads in (2, 3, None):
        assert lk.ErrorAccumulator().update(r, a, threads=threads) == one


def test_degenerate_cases():
    zero, one = np.zeros(5, np.float32), np.ones(5, np.float32)
    same = lk.error_metrics(one, one)
    assert (same.max_abs, same.rel_l2, same.sqnr_db, same.cosine) == (0, 0, math.inf, 1)
    assert same.histogram.zero == 5
    both = lk.error_metrics(zero, zero)
    assert (both.rel_l2, both.sqnr_db, both.cosine) == (0, math.inf, 1)
    lost = lk.error_metrics(zero, one)
    assert (lost.rel_l2, lost.sqnr_db, lost.cosine) == (math.inf, -math.inf, 0)
    assert lk.error_metrics(one, zero).cosine == 0
    assert lk.error_metrics(one, -one).cosine == -1


def test_a_nonfinite_mismatch_fails_every_limit():
    r = np.array([1, 2, 3], np.float32)
    got = lk.error_metrics(r, np.array([1, np.nan, 3], np.float32))
    assert not got.max_abs <= 1e9 and not got.rel_l2 <= 1e9
    assert not got.sqnr_db >= -1e9 and not got.cosine >= -1
    assert got.nan_actual == 1 and got.nonfinite_mismatched == 1
    agreed = np.array([np.inf, np.nan, 1], np.float32)
    got = lk.error_metrics(agreed, agreed)
    assert (got.max_abs, got.cosine, got.compared, got.nan_actual) == (0, 1, 1, 1)


def test_bad_arguments():
    x = np.ones((2, 3), np.float32)
    with pytest.raises(lk.KernelError, match=r"expected \[2, 3\], got \[3, 2\]"):
        lk.error_metrics(x, x.T)
    with pytest.raises(lk.KernelError, match="nothing to compare"):
        lk.error_metrics(x[:0], x[:0])
    with pytest.raises(lk.KernelTypeError, match="complex64"):
        lk.error_metrics(x, x.astype(np.complex64))
    with pytest.raises(lk.KernelTypeError, match="not supported"):
        lk.error_metrics(x, x.astype(object))
    with pytest.raises(lk.KernelError, match="accepted"):
        lk.ErrorAccumulator().update(x, x).result(nonfinite="hide")
    with pytest.raises(lk.KernelError, match="entries"):
        lk.ErrorAccumulator.from_dict({"count": 1})
    short = lk.ErrorAccumulator().to_dict() | {"histogram": [0]}
    with pytest.raises(lk.KernelError, match="67"):
        lk.ErrorAccumulator.from_dict(short)
