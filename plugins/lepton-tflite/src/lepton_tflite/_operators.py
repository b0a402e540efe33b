"""Operators of the pivot that do not reach a file that the runtime runs.

The bridge to torch has no translation of them, litert-torch does not lower them, or what it lowers
them to has no kernel in the runtime. The tests convert one of each that the bridge translates.
"""

from __future__ import annotations

NO_KERNEL = {
    "TopK": "litert-torch writes it as a sort, for which the runtime has no kernel",
    "NonZero": "the size of its result depends on values",
    "Compress": "the size of its result depends on values",
}
"""Why, by operator, for those that the bridge translates."""


def why_not(name: str) -> str:
    """Return why an operator cannot be run, or an empty text.

    Args:
        name: Qualified name (``"ai.onnx::Conv"``).
    """
    domain, _, operator = name.rpartition("::")
    if domain not in ("", "ai.onnx"):
        return f"the domain {domain!r} is not ONNX's own"
    if operator in NO_KERNEL:
        return NO_KERNEL[operator]
    from lepton_torch._bridge.catalogue import covered

    return "" if covered(name) else "it has no translation to torch"


__all__ = ["NO_KERNEL", "why_not"]
