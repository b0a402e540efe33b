"""How products of 8-bit integers are kept exact on CPUs that add them in 16 bits.

x86 without VNNI multiplies uint8 by int8 with ``vpmaddubsw``, which adds two products in 16 bits
and saturates. OpenVINO has no slower kernels of its own that avoid it (ONNX Runtime has), but it
can leave its low-precision transformations out: scales and integers stay those of the file, and
the products of the integers are summed in float32. Weights that use half of their integers
(``--option recover=narrow``) cannot saturate and keep the fast kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.environment import NARROW, sums_may_saturate

if TYPE_CHECKING:
    from lepton_core.types import OpenRequest

OPTION = "integer_products"
CHOICES = ("exact", "fast")

EXACT = "exact: the CPU sums products of 8-bit integers in 32 bits"
NARROW_EXACT = "exact: no weight is large enough for two products to leave 16 bits"
FLOAT_EXACT = (
    "exact, by slower float kernels: the CPU has no VNNI, and its 16-bit sums could saturate"
)
SATURATING = "may saturate: the CPU has no VNNI, and the fast kernels were asked for"

_PROPERTY = "LP_TRANSFORMS_MODE"
_QUANTIZING = "FakeQuantize"
_FED = ("Parameter", "ReadValue")
_LARGEST = 128


def products_fact(network: Any, request: OpenRequest) -> str | None:  # noqa: ANN401
    """Say how products of integers are summed; ``None`` where none are computed.

    Args:
        network: OpenVINO's model, not compiled yet.
        request: Device, and the option ``integer_products``.
    """
    largest = _largest_weight(network)
    if largest is None:
        return None
    if (request.device or "cpu") not in ("cpu", "auto") or not sums_may_saturate():
        return EXACT
    if largest <= NARROW:
        return NARROW_EXACT
    return SATURATING if request.options.get(OPTION) == "fast" else FLOAT_EXACT


def apply_products(core: Any, fact: str | None) -> None:  # noqa: ANN401
    """Set up the runtime's CPU so that :func:`products_fact` is true of what it compiles.

    The property is set on the device and not handed over with the model, because AUTO drops it
    from the properties of the devices that it passes on.
    """
    if fact == FLOAT_EXACT:
        core.set_property("CPU", {_PROPERTY: False})


def _largest_weight(network: Any) -> int | None:  # noqa: ANN401
    """Return the largest magnitude of 8-bit weights that meet quantized activations.

    Weights that the graph itself quantizes get their integers as the runtime loads it, so that
    their magnitude is not known, and the largest there is counts.
    """
    computed: set[str] = set()
    quantizing, weights = [], []
    for operator in network.get_ordered_ops():
        kind, name = operator.get_type_name(), operator.get_friendly_name()
        sources = {value.get_node().get_friendly_name() for value in operator.input_values()}
        if kind in _FED or sources & computed:
            computed.add(name)
        if kind == _QUANTIZING:
            quantizing.append(name)
        elif kind == "Constant" and operator.get_output_element_type(0).get_type_name() == "i8":
            weights.append(int(np.abs(operator.get_data().astype(np.int16)).max(initial=0)))
    if not quantizing:
        return None
    if not computed.issuperset(quantizing):
        return _LARGEST
    return max(weights, default=None)


__all__ = [
    "CHOICES",
    "EXACT",
    "FLOAT_EXACT",
    "NARROW_EXACT",
    "OPTION",
    "SATURATING",
    "apply_products",
    "products_fact",
]
