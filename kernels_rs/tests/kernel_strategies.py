"""Arrays of any shape, strides and values, for the property tests."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

EXTREMES = [
    0.0,
    -0.0,
    0.5,
    1.5,
    2.5,
    -0.5,
    126.5,
    127.5,
    -128.5,
    1e-45,
    -1e-40,
    float(np.finfo(np.float32).tiny),
    float(np.finfo(np.float32).max),
    float("inf"),
    float("-inf"),
]
FLOATS = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def lay_out(draw, array):
    """The same values behind other strides: sliced, reversed, transposed, shifted, unaligned."""
    how = draw(st.sampled_from(["plain", "fortran", "sliced", "reversed", "moved", "unaligned"]))
    if array.ndim == 0 or how == "plain":
        return array
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "sliced":
        wide = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    if how == "reversed":
        return array[::-1].copy()[::-1]
    if how == "moved":
        return np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0)
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@st.composite
def floats(draw, *, nan=False, min_side=0, dtypes=tuple(FLOATS), min_dims=0):
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=4, min_side=min_side, max_side=40))
    if np.prod(shape) > 20_000:
        shape = shape[:2]
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 10.0 ** draw(st.integers(-6, 6))
    special = EXTREMES + ([float("nan")] if nan else [])
    where = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))
    values = np.where(where, rng.choice(special, size=shape), values)
    with np.errstate(all="ignore"):
        array = np.asarray(values).astype(FLOATS[draw(st.sampled_from(dtypes))])
    return lay_out(draw, array)


@st.composite
def axes(draw, ndim):
    if ndim == 0:
        return None
    return draw(st.none() | st.integers(-ndim, ndim - 1))
