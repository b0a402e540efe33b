"""Finding the first value at which two variants part.

Both variants keep the pivot that they were lowered from (:mod:`lepton_core.origins`). Its inner
values are made outputs, the pivot so tapped is lowered again by each variant's own edge, precision
and recipe, and both run on the same samples. Two errors are measured for each value:

* *error*: how far the second variant is from the first, each running on its own;
* *own error*: how far the operators that yield the value are from the first variant's when they are
  fed the first variant's values. That part is made there; the rest came in with the inputs.

The value named is the first in topological order whose error exceeds the tolerance and reaches an
output; the culprit is the first on the way to it whose own error does.

This is a work module: it imports numpy.
"""

from __future__ import annotations

from lepton_core.bisecting._find import bisect
from lepton_core.bisecting._types import Bisection, Parting, Side

__all__ = ["Bisection", "Parting", "Side", "bisect"]
