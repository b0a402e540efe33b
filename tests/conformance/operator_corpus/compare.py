"""Comparing outputs with those that a test expects."""

from __future__ import annotations

import numpy as np

_UNITS = 2
"""Units in the last place that half precision may differ by, if that is more than the test allows:
the reference rounds after each step where runtimes compute in float32."""


def difference(outputs, expected, case):
    """Return in words how outputs differ from those that a test expects, ``None`` if they do not.

    The tolerance is the test's own; half precision may differ by two units in the last place.
    """
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs, not {len(expected)}"
    for index, (found, wanted) in enumerate(zip(outputs, expected, strict=True)):
        if found.dtype != wanted.dtype:
            return f"output {index} is {found.dtype}, not {wanted.dtype}"
        if found.shape != wanted.shape:
            return f"output {index} has the shape {found.shape}, not {wanted.shape}"
        rtol = case.rtol
        if found.dtype.itemsize == 2 and found.dtype.kind not in "iub":
            digits = 10 if found.dtype == np.float16 else 7
            rtol = max(rtol, _UNITS * 2.0**-digits)
        pair = (found, wanted)
        if found.dtype.kind not in "biuc":
            pair = (found.astype(np.float64), wanted.astype(np.float64))
        try:
            np.testing.assert_allclose(*pair, rtol=rtol, atol=case.atol)
        except AssertionError as error:
            return f"output {index}: {' '.join(str(error).split())}"[:300]
    return None
