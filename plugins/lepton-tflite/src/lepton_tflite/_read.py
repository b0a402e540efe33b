"""Integers of a file as the recipe has them, by value name of the pivot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_onnx.qdq import Blocks, Stored, compare_blocks
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._integers import differs, numbers_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lepton_tflite._weights import Weight


def read_back(path: str | Path) -> dict[str, Stored]:
    """Return how a file stores weights and values, by value name of the pivot.

    Args:
        path: A .tflite file that lepton lowered a recipe to.

    Returns:
        Weights with integers in the pivot's order of axes, activations without; biases are found
        as ``"<layer>/bias"``, weights with blocks by :func:`read_blocks`. Of a weight that stands
        in several tensors it is the first.
    """
    found: dict[str, Stored] = {}
    for name, stored in every_tensor(Path(path).read_bytes()):
        if isinstance(stored, Stored):
            found.setdefault(name, stored)
    return found


def read_blocks(path: str | Path) -> dict[str, Blocks]:
    """Return the weights of a file that have scales for blocks, by value name of the pivot.

    Args:
        path: A .tflite file that lepton lowered a recipe to.
    """
    found: dict[str, Blocks] = {}
    for name, stored in every_tensor(Path(path).read_bytes()):
        if isinstance(stored, Blocks):
            found.setdefault(name, stored)
    return found


def every_tensor(data: bytes) -> Iterator[tuple[str, Stored | Blocks]]:
    """Yield what each tensor of integers in a file holds, with the pivot's name for it.

    A weight that operators take in several forms stands in several tensors, and equal weights may
    stand in one.
    """
    model, weights = flat.unpack(data), flat.read_notes(flat.root_of(data)).get("weights", {})
    graph = model.subgraphs[0]
    seen: Counter[str] = Counter()
    for tensor in graph.tensors:
        name, _, kind = flat.text(tensor.name).rpartition("/")
        if kind not in ("int4", "int8", "int32"):
            continue
        codes = flat.array_of(model, tensor)
        for key, note in _stands_for(name, seen[name], weights):
            if note is not None and "block" in note and codes is not None:
                yield key, _blocks(model, graph, tensor, codes, note)
            elif (numbers := numbers_of(tensor)) is not None:
                yield key, _stored(codes, numbers, note)
        seen[name] += 1


def _stands_for(
    name: str, place: int, weights: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield what a tensor stands for, with its note: the *place*-th of several with a name."""
    note = weights.get(name)
    if note is None:
        yield name, None
        return
    here = [] if "stored_as" in note else [note]
    here += [{**note, **other} for other in note.get("again", ())]
    if place < len(here):
        yield name, here[place]
    if place == 0:
        for other, its in weights.items():
            if its.get("stored_as") == name:
                yield other, its


def _stored(
    codes: NDArray[Any] | None,
    numbers: tuple[NDArray[np.float32], NDArray[Any]],
    note: dict[str, Any] | None,
) -> Stored:
    if note is not None and codes is not None:
        codes = _restored(codes, note)
    scale, zero = numbers
    axis = note.get("axis") if note else None
    single = len(scale) == 1 and axis is None
    return Stored(scale[0] if single else scale, zero[0] if single else zero, axis, codes)


def _restored(codes: NDArray[Any], note: dict[str, Any]) -> NDArray[Any]:
    order, shape = note["order"], note["shape"]
    turned = codes.reshape([shape[i] for i in order]).transpose(np.argsort(order))
    return np.ascontiguousarray(np.flip(turned, note.get("flipped", ())))


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
        codes = _restored(codes, note)
    if not offset:
        return Blocks(codes, scale, None, note["block"])
    codes, zero = ((a.astype(np.int16) + offset).astype(np.uint8) for a in (codes, zero))
    return Blocks(codes, scale, zero, note["block"])


def check_weights(data: bytes, weights: Sequence[Weight]) -> None:
    """Read weights back from a file, and hold each against the recipe's numbers.

    Args:
        data: The file.
        weights: What has to stand in it, each in one tensor or several.

    Raises:
        ConversionError: LPT-CONV-411, one does not stand there, or with other numbers.
    """
    found: dict[str, list[Stored | Blocks]] = {}
    for name, stored in every_tensor(data):
        found.setdefault(name, []).append(stored)
    for weight in weights:
        held = found.get(weight.name, [])
        if not held or not all(_is(weight, stored) for stored in held):
            raise differs(f"The weight {weight.name!r} does not stand in the file as it should.")


def _is(weight: Weight, stored: Stored | Blocks) -> bool:
    if isinstance(stored, Blocks):
        return weight.block is not None and not compare_blocks(
            {weight.name: weight.blocks()}, {weight.name: stored}
        )
    axis = None if weight.axis is None else weight.order[weight.axis]
    return (
        stored.axis == axis
        and not np.any(stored.zero_point)
        and np.array_equal(np.ravel(stored.scale), weight.scale)
        and np.array_equal(stored.integers, weight.codes.transpose(np.argsort(weight.order)))
    )


__all__ = ["check_weights", "every_tensor", "read_back", "read_blocks"]
