"""Random samples, for lack of data: they exercise a model, they prove nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SampleError
from lepton_core.samples._match import require_inputs
from lepton_core.samples._types import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.types import Signature, TensorSpec

DEFAULT_SIZE = 32
"""Size of a dimension that the signature leaves open."""


def random_samples(
    signature: Signature, n: int, seed: int, *, sizes: Mapping[str, int] | None = None
) -> Samples:
    """Return *n* rows of noise that fit a signature.

    Floats are standard normal; integers are 0 or 1, which is a valid index for any embedding and
    a valid mask; bools are fair coins. Open dimensions take the size given for their symbol, else
    :data:`DEFAULT_SIZE`. A verdict from these rows is at best weak.

    Args:
        signature: Inputs to make.
        n: Number of rows, at least 1.
        seed: The same seed gives the same rows.
        sizes: Size by symbolic dimension.

    Raises:
        SampleError: ``LPT-DATA-010`` no rows asked for, ``LPT-DATA-013`` an input of a type that
            noise cannot be made for, ``LPT-DATA-023`` there are no inputs.
    """
    if n < 1:
        raise SampleError(
            "LPT-DATA-010", f"{n} random samples were asked for", remedy="Ask for at least 1."
        )
    require_inputs(signature)
    generator = np.random.Generator(np.random.PCG64(seed))
    inputs = {s.name: _noise(s, n, generator, sizes or {}) for s in signature.inputs}
    note = f"{n} random rows (seed {seed}), because no samples were given"
    return Samples(inputs, None, "random", f"random:{seed}", (note,))


def _noise(
    spec: TensorSpec, n: int, generator: np.random.Generator, sizes: Mapping[str, int]
) -> NDArray[Any]:
    shape = (n, *(_size(dim, sizes) for dim in spec.shape[1:]))
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        return generator.integers(0, 2, shape).astype(dtype)
    raise SampleError(
        "LPT-DATA-013",
        f"Random samples cannot be made for input {spec.name!r} of type {spec.dtype}",
        remedy="Give real samples with --data.",
    )


def _size(dim: int | str | None, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    return sizes.get(dim, DEFAULT_SIZE) if dim is not None else DEFAULT_SIZE


__all__ = ["DEFAULT_SIZE", "random_samples"]
