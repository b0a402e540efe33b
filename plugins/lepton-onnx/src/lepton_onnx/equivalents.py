"""Forms of operators that a runtime lacks or gets wrong, in forms that it has.

For plugins whose runtimes read ONNX. Importing this module imports ``onnx``.
"""

from __future__ import annotations

from lepton_onnx._equivalents import (
    lower_ranks,
    pad_with_zero,
    pass_one_on,
    put_time_first,
)

__all__ = ["lower_ranks", "pad_with_zero", "pass_one_on", "put_time_first"]
