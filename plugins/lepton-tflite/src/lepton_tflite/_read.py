"""Integers of a file as the recipe has them, by value name of the pivot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_onnx.qdq import Blocks, Stored
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._integers import numbers_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read_back(path: str | Path) -> dict[str, Stored]:
    """Return how a file stores weights and values, by value name of the pivot.

    Args:
        path: A .tflite file that lepton lowered a recipe to.

    Returns:
        Weights with integers in the pivot's order of axes, activations without; biases are found
        as ``"<layer>/bias"``, weights with blocks by :func:`read_blocks`.
    """
    data = Path(path).read_bytes()
    model, weights = flat.unpack(data), flat.read_notes(flat.root_of(data)).get("weights", {})
    found: dict[str, Stored] = {}
    for tensor in model.subgraphs[0].tensors:
        name, numbers = flat.text(tensor.name), numbers_of(tensor)
        if numbers is None or not name.endswith(("/int8", "/int32")):
            continue
        value = name.rpartition("/")[0]
        if "block" in weights.get(value, {}):
            continue
        equal = [other for other, note in weights.items() if note.get("stored_as") == value]
        for key in (value, *equal):
            found.setdefault(key, _stored(flat.array_of(model, tensor), numbers, weights.get(key)))
    return found


def _stored(
    codes: NDArray[Any] | None,
    numbers: tuple[NDArray[np.float32], NDArray[Any]],
    note: dict[str, Any] | None,
) -> Stored:
    if note is not None and codes is not None:
        codes = _restored(codes, note["order"], note["shape"])
    scale, zero = numbers
    axis = note.get("axis") if note else None
    single = len(scale) == 1 and axis is None
    return Stored(scale[0] if single else scale, zero[0] if single else zero, axis, codes)


def _restored(codes: NDArray[Any], order: list[int], shape: list[int]) -> NDArray[Any]:
    turned = codes.reshape([shape[i] for i in order])
    return np.ascontiguousarray(turned.transpose(np.argsort(order)))


def read_blocks(path: str | Path) -> dict[str, Blocks]:
    """Return the weights of a file that have scales for blocks, by value name of the pivot.

    Args:
        path: A .tflite file that lepton lowered a recipe to.
    """
    data = Path(path).read_bytes()
    model, weights = flat.unpack(data), flat.read_notes(flat.root_of(data)).get("weights", {})
    graph = model.subgraphs[0]
    found = {}
    for tensor in graph.tensors:
        name, _, kind = flat.text(tensor.name).rpartition("/")
        note = weights.get(name, {})
        codes = flat.array_of(model, tensor)
        if kind not in ("int4", "int8") or "block" not in note or codes is None:
            continue
        found[name] = _blocks(model, graph, tensor, codes, note)
    return found


def _blocks(
    model: Any,  # noqa: ANN401 - generated classes
    graph: Any,  # noqa: ANN401
    tensor: Any,  # noqa: ANN401
    codes: NDArray[Any],
    note: dict[str, Any],
) -> Blocks:
    """Return one weight; blocks lie one below the other, or have a tensor of scales."""
    outputs, inputs = note["shape"]
    numbers, offset = numbers_of(tensor), note["offset"]
    if numbers is None:
        scale = flat.array_of(model, graph.tensors[tensor.quantization.details.scales])
        assert scale is not None  # noqa: S101 - written with it
        return Blocks(codes, scale.astype(np.float32), None, note["block"])
    scale, zero = (a.reshape(outputs, -1) for a in numbers)
    if scale.shape[1] > 1:
        codes = np.ascontiguousarray(codes.reshape(outputs, -1)[:, :inputs])
    else:
        codes = _restored(codes, note["order"], note["shape"])
    if not offset:
        return Blocks(codes, scale, None, note["block"])
    codes, zero = ((a.astype(np.int16) + offset).astype(np.uint8) for a in (codes, zero))
    return Blocks(codes, scale, zero, note["block"])


__all__ = ["read_back", "read_blocks"]
