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
def scores(draw):
    r = draw(floats(nan=draw(st.booleans()), min_side=1, min_dims=1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with np.errstate(all="ignore"):
        a = r.astype(np.float64) + rng.choice([0, 0.1, 3]) * rng.standard_normal(r.shape)
        a = np.asarray(a).astype(draw(st.sampled_from([np.float32, np.float64, r.dtype])))
    masked = rng.random(r.shape) < draw(st.sampled_from([0, 0.2]))
    a = np.where(masked, a.dtype.type(-np.inf), a)
    return r, lay_out(draw, a)


@given(data=st.data())
def test_rows_equal_their_definition(data):
    r, a = data.draw(scores())
    axis = data.draw(st.integers(-r.ndim, r.ndim - 1))
    k = data.draw(st.integers(1, r.shape[axis]))
    got = lk.AgreementAccumulator(k)
    got.update(r, a, axis=axis, threads=data.draw(st.integers(1, 3)))
    rows = [np.moveaxis(side, axis, -1) for side in (r, a)]
    divergences, same, shared = reference.row_agreement(*rows, k)
    finite = [d for d in divergences if not math.isnan(d)]
    assert got.rows == len(divergences) and got.nonfinite == len(divergences) - len(finite)
    assert (got.top1, got.shared) == (sum(same), sum(shared))
    assert got.kl_sum == pytest.approx(sum(finite), rel=1e-9, abs=1e-11 * len(finite))
    assert got.kl_max == pytest.approx(max([0, *finite]), rel=1e-9, abs=1e-11)


def test_the_divergence_is_that_of_scipy():
    special = pytest.importorskip("scipy.special")
    rng = np.random.default_rng(0)
    r = 4 * rng.standard_normal((50, 1000))
    a = r + 0.3 * rng.standard_normal(r.shape)
    p, q = special.softmax(r, -1), special.softmax(a, -1)
    want = special.rel_entr(p, q).sum(-1)
    got = lk.row_agreement(r, a, 10)
    assert got.kl_mean == pytest.approx(want.mean(), rel=1e-12)
    assert got.kl_max == pytest.approx(want.max(), rel=1e-12)
    assert got.top1 == np.mean(r.argmax(-1) == a.argmax(-1))
    assert 0.5 < got.topk < 1 and got.k == 10
    for threads in (1, 2, 5):
        assert lk.row_agreement(r, a, 10, threads=threads) == got


def test_nonfinite_rows_are_counted_and_never_hidden():
    r = np.float32([[1, 2], [np.nan, 1], [3, 1], [-np.inf, 0], [1, 1]])
    a = np.float32([[1, 2], [0, 1], [np.inf, 1], [-np.inf, 0], [-np.inf, 1]])
    sums = lk.AgreementAccumulator(1).update(r, a)
    failed = sums.result()
    assert (failed.rows, failed.nonfinite) == (5, 2)
    assert failed.kl_mean == failed.kl_max == math.inf and failed.top1 == 2 / 5
    # What the reference holds likely and the other side rules out costs everything.
    assert sums.result(nonfinite="skip").kl_mean == math.inf
    kept = lk.AgreementAccumulator(1).update(r[:4], a[:4]).result(nonfinite="skip")
    assert (kept.kl_mean, kept.top1, kept.nonfinite) == (0, 1, 2)


def test_batches_merge_to_the_whole():
    rng = np.random.default_rng(1)
    r = rng.standard_normal((30, 20)).astype(np.float32)
    a = r + np.float32(0.1) * rng.standard_normal((30, 20), dtype=np.float32)
    whole = lk.row_agreement(r, a)
    first = lk.AgreementAccumulator().update(r[:7], a[:7])
    first.merge(pickle.loads(pickle.dumps(lk.AgreementAccumulator().update(r[7:], a[7:]))))
    again = lk.AgreementAccumulator(**json.loads(json.dumps(first.to_dict())))
    assert again.result().topk == whole.topk
    assert again.result().kl_mean == pytest.approx(whole.kl_mean, rel=1e-14)


ones = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lk.row_agreement(ones, ones[:1], 1), "shapes differ"),
        (lambda: lk.row_agreement(ones, ones[0], 1), "shapes differ"),
        (lambda: lk.row_agreement(ones, ones, 4), "1 to 3"),
        (lambda: lk.row_agreement(ones, ones, 0), "at least 1"),
        (lambda: lk.row_agreement(ones, ones, 1, axis=2), "axis 2"),
        (lambda: lk.row_agreement(1.0, 1.0, 1), "no dimension"),
        (lambda: lk.row_agreement(ones[:0], ones[:0], 1), "no row"),
        (lambda: lk.row_agreement(ones, ones.astype(complex), 1), "complex"),
        (lambda: lk.AgreementAccumulator(1).merge(lk.AgreementAccumulator(2)), "1 and 2"),
        (lambda: lk.AgreementAccumulator(1).result(nonfinite="no"), "accepted"),
        (lambda: lk.AgreementAccumulator("a"), "k must be an integer"),
        (lambda: lk.AgreementAccumulator(0), "k must be at least 1"),
    ],
)
def test_bad_arguments_say_what_is_accepted(call, text):
    with pytest.raises(lk.KernelError, match=text):
        call()
