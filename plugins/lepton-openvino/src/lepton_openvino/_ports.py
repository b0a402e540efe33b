"""Inputs and outputs of an OpenVINO model, matched with a signature by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.types import Signature, TensorSpec
from lepton_openvino._dtypes import numpy_name

if TYPE_CHECKING:
    from collections.abc import Sequence


def signature_of(model: Any) -> Signature:  # noqa: ANN401 - a class of the runtime
    """Return the signature of a model; an unknown dimension has no name, an unknown rank one."""
    return Signature(
        inputs=tuple(_spec(port, f"input_{i}") for i, port in enumerate(model.inputs)),
        outputs=tuple(_spec(port, f"output_{i}") for i, port in enumerate(model.outputs)),
    )


def _spec(port: Any, otherwise: str) -> TensorSpec:  # noqa: ANN401 - a class of the runtime
    name = min(port.get_names(), default=otherwise)
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        return TensorSpec(name, numpy_name(port.get_element_type()), (None,))
    dims = tuple(d.get_length() if d.is_static else None for d in shape)
    return TensorSpec(name, numpy_name(port.get_element_type()), dims)


def indices(specs: Sequence[TensorSpec], ports: Sequence[Any]) -> list[int] | None:
    """Return the port of each spec, by name; ``None`` if names or dtypes do not match.

    Several outputs may share a tensor, and then each port carries all their names: the port at
    the spec's own position wins.
    """
    if len(specs) != len(ports):
        return None
    found = []
    for position, spec in enumerate(specs):
        order = [position, *(i for i in range(len(ports)) if i != position)]
        index = next((i for i in order if _matches(spec, ports[i])), None)
        if index is None:
            return None
        found.append(index)
    return found if len(set(found)) == len(found) else None


def _matches(spec: TensorSpec, port: Any) -> bool:  # noqa: ANN401 - a class of the runtime
    named = spec.name in port.get_names() or not port.get_names()
    return named and numpy_name(port.get_element_type()) == spec.dtype


__all__ = ["indices", "signature_of"]
