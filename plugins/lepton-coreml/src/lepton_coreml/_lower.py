"""Writing a recipe into a pivot in the form that Core ML keeps as integers.

The lowering is that of every target (:mod:`lepton_onnx.lowering`); then three forms that would be
folded into floats are written as one DequantizeLinear on the constant itself: a Cast and a Mul
that restore a weight, a Gather of integers, and ONNX Runtime's MatMulNBits. Pruned weights and
palettes get their forms in :mod:`lepton_coreml._small`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_core import recipe as recipes
from lepton_core.errors import UnsupportedOperationError
from lepton_coreml._integers import INTEGER_OPS
from lepton_coreml._library import BITS, INPUTS
from lepton_coreml._same import Numbers
from lepton_coreml._small import write_small
from lepton_onnx.editing import put_nodes
from lepton_onnx.lowering import lower_recipe
from lepton_onnx.qdq import reads_table, restored_weight, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def lower(
    proto: ModelProto, path: str, digest: str, device: str, *, half: bool = False
) -> tuple[ModelProto, dict[str, Any], Numbers]:
    """Write the recipe at *path* into a pivot.

    Args:
        proto: The pivot with its weights in memory; it is not changed.
        path: The recipe.
        digest: Digest of the pivot.
        device: ``"ios17"`` or ``"ios18"``.
        half: Whether the program computes in float16.

    Returns:
        The lowered graph, facts as :func:`lepton_onnx.lowering.lower_recipe` gives them, and the
        numbers that a package made from it must store.

    Raises:
        OptimizeError: LPT-OPT-001 … 008, the recipe cannot be read or does not fit.
        UnsupportedOperationError: LPT-CONV-508, it needs what the device has not; LPT-CONV-502,
            it has integers between layers, and the program is to compute in float16.
    """
    lowered, facts = lower_recipe(
        proto,
        path,
        digest,
        integer_ops=INTEGER_OPS,
        unsigned=False,
        dynamic=False,
        sparse_dtypes=(),
    )
    _refuse_what_the_device_has_not(facts, device)
    numbers = Numbers.of(lowered)
    if half:
        _refuse_integer_values(lowered)
    facts["restored_weights"] = _Rewriter(lowered).run()
    recipe = recipes.read(path)
    if recipe.pruned or recipe.palettes:
        small = write_small(lowered, recipe, recipes.load_arrays(recipe, path), device, half=half)
        numbers = replace(numbers, small=small)
        facts["small_weights"] = {name: dict(own) for name, own in small.facts.items()}
    return lowered, facts, numbers


def _refuse_integer_values(lowered: ModelProto) -> None:
    """Refuse float16 around layers of integers: their scales would be others than elsewhere.

    Rows of a table that are restored behind a lookup are weights, which nothing quantizes.
    """
    found = next((n.input[0] for n in lowered.graph.node if n.op_type == "QuantizeLinear"), None)
    if found is not None:
        raise UnsupportedOperationError(
            "LPT-CONV-502",
            f"compute=fp16 and integers between layers ({found!r}) do not go together",
            cause="quantize and dequantize of a float16 program have float16 scales, which make "
            "other integers than the recipe's do.",
            remedy="Leave compute out, or choose a precision of weights alone: int8-weight, int4, "
            "palette or sparse.",
        )


def _refuse_what_the_device_has_not(facts: Mapping[str, Any], device: str) -> None:
    if facts["recipe"]["scheme"] == "int16-static":
        raise UnsupportedOperationError(
            "LPT-CONV-508",
            "coreml cannot hold this recipe: it has activations of 16 bits",
            cause="Core ML quantizes to 8 bits.",
            remedy="Choose another precision, such as int8, or another target.",
        )
    if facts["block_layers"] and device != "ios18":
        raise UnsupportedOperationError(
            "LPT-CONV-508",
            f"coreml:{device} cannot hold this recipe: it has weights with a scale for each block",
            cause="They need iOS 18.",
            remedy="Choose --to coreml:ios18, or another precision.",
        )


class _Rewriter:
    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        self._made_by = {n: node for node in model.graph.node for n in node.output}
        self._new: dict[str, TensorProto] = {}

    def run(self) -> int:
        """Rewrite the graph in place; return how many weights were written anew."""
        nodes: list[NodeProto] = []
        rules = (self._restored, self._gathered, self._product)
        count = 0
        for node in self._graph.node:
            made = next((m for rule in rules if (m := rule(node)) is not None), None)
            nodes += [node] if made is None else made
            count += bool(made)
        put_nodes(self._graph, nodes, {**self._constants, **self._new})
        return count

    def _add(self, name: str, array: NDArray[Any]) -> str:
        self._new[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def _restored(self, node: NodeProto) -> list[NodeProto] | None:
        """Return a DequantizeLinear in the place of a Cast and a Mul of a constant."""
        found = restored_weight(node, self._made_by, self._constants)
        if found is None:
            return None
        parts = [found.codes, self._add(f"{found.name}/scale", found.scale)]
        return [_dequantize(parts, node.output[0], found.axis)]

    def _gathered(self, node: NodeProto) -> list[NodeProto] | None:
        """Return a table that is dequantized before the Gather that reads it."""
        if reads_table(node, self._constants):
            back = self._reader(node.output[0])
            if back is None:
                return None
            table = node.input[0]
            scale = numpy_helper.to_array(self._constants[back.input[1]])
            axis = len(self._constants[table].dims) - 1 if scale.ndim else None
            whole = f"{table}/dequantized"
            gather = helper.make_node(
                "Gather", [whole, node.input[1]], [back.output[0]], name=node.name
            )
            gather.attribute.extend(node.attribute)
            return [_dequantize([table, *back.input[1:]], whole, axis), gather]
        if node.op_type == "DequantizeLinear":
            source = self._made_by.get(node.input[0])
            if source is not None and reads_table(source, self._constants):
                return []  # written in front of the Gather
        return None

    def _reader(self, value: str) -> NodeProto | None:
        readers = [n for n in self._graph.node if value in n.input]
        found = readers[0] if len(readers) == 1 else None
        return found if found is not None and found.op_type == "DequantizeLinear" else None

    def _product(self, node: NodeProto) -> list[NodeProto] | None:
        """Return a DequantizeLinear with blocks and a MatMul in the place of MatMulNBits."""
        if node.op_type != "MatMulNBits":
            return None
        numbers = {a.name: a.i for a in node.attribute}
        arrays = [numpy_helper.to_array(self._constants[n]) for n in node.input[1:] if n]
        found = unpack(arrays, numbers["K"], numbers["bits"], numbers["block_size"])
        name = node.input[1].rpartition("/")[0]
        block = found.block
        full = found.scale.shape[1] * block
        codes = np.zeros((full, numbers["N"]), found.codes.dtype)
        if found.zero_point is not None:
            codes[:] = np.repeat(found.zero_point.T, block, axis=0)
        codes[: numbers["K"]] = found.codes.T
        parts = [
            self._add(f"{name}/int8", codes),
            self._add(f"{name}/scale", found.scale.T),
        ]
        if found.zero_point is not None:
            parts.append(self._add(f"{name}/zero_point", found.zero_point.T))
        weight = f"{node.output[0]}/weight"
        back = _dequantize(parts, weight, 0)
        back.attribute.append(helper.make_attribute("block_size", block))
        back.attribute.append(helper.make_attribute(BITS, 8 if numbers["bits"] == 8 else 4))
        back.attribute.append(helper.make_attribute(INPUTS, numbers["K"]))
        nodes = [back]
        if full != numbers["K"]:  # the last block is not full
            ends = [self._add(f"{name}/{key}", np.array([value], np.int64)) for key, value in (
                ("start", 0), ("end", numbers["K"]), ("axis", 0))]  # fmt: skip
            cut = f"{weight}/cut"
            nodes.append(helper.make_node("Slice", [weight, *ends], [cut], name=cut))
            weight = cut
        return [
            *nodes,
            helper.make_node("MatMul", [node.input[0], weight], [node.output[0]], name=node.name),
        ]


def _dequantize(inputs: list[str], result: str, axis: int | None) -> NodeProto:
    node = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/dequantize")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


__all__ = ["lower"]
