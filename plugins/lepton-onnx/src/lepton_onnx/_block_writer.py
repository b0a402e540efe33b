"""Writing weights in few bits into a graph: MatMulNBits in place of MatMul and Gemm.

MatMulNBits is ONNX Runtime's own operator (domain ``com.microsoft``), and OpenVINO reads it as a
constant of 2, 4 or 8 bits with its decompression (Convert, Subtract, Multiply), which its plugins
fuse into the product. A block-wise DequantizeLinear of opset 21 would say the same in as many
bytes, but ONNX Runtime fuses it and OpenVINO reads it only where blocks divide the inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

import lepton_kernels as lk
from lepton_core.errors import OptimizeError
from lepton_onnx._block_numbers import Blocks, block_integers, container, input_scale
from lepton_onnx._cleanup import captured, replace_items

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_core.recipe import Recipe

DOMAIN = "com.microsoft"
ACCURACY_LEVEL = 4
"""Inputs are rounded to 8 bits block by block at run time: ONNX Runtime's fast kernels. Its kernels
for float inputs take 4 to 40 times as long for 4 and 8 bits, and twice as long as float32."""


def write_blocks(model: ModelProto, recipe: Recipe, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Write the layers whose weights stand in ``recipe.blocks`` into *model*, in place.

    A weight ``w`` becomes ``w/uint4`` (or 2, 8): integers packed by output and block, with
    ``w/scale`` and, if they are not symmetric, ``w/zero_point``. Symmetric integers are stored with
    half of their range added, as the operator wants them. A last block that is not full is filled
    up with the integer for 0. Where a recipe rescales inputs, the value ``x`` is multiplied by
    ``<w>/input_factor`` first.

    Returns:
        How many layers were written.

    Raises:
        OptimizeError: ``LPT-OPT-005`` a layer does not fit the graph, ``LPT-OPT-006`` the sidecar
            does not fit.
    """
    layers = {name: v.weight for name, v in recipe.layers.items() if v.weight in recipe.blocks}
    if not layers:
        return 0
    writer = _Writer(model, recipe, arrays)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        weight = layers.get(node.output[0])
        nodes += writer.product(node, weight) if weight is not None else [node]
    replace_items(model.graph.node, nodes)
    used = {n for node in model.graph.node for n in (*node.input, *captured(node))}
    used |= {v.name for v in model.graph.output}
    kept = [t for t in model.graph.initializer if t.name in used or t.name not in recipe.blocks]
    replace_items(model.graph.initializer, [*kept, *writer.constants])
    if DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return len(layers)


class _Writer:
    def __init__(
        self, model: ModelProto, recipe: Recipe, arrays: Mapping[str, NDArray[Any]]
    ) -> None:
        self._recipe = recipe
        self._arrays = arrays
        self._weights = {t.name: t for t in model.graph.initializer}
        self._stored: dict[str, list[str]] = {}
        self._scaled: set[str] = set()
        self.constants: list[Any] = []

    def product(self, node: NodeProto, weight: str) -> list[NodeProto]:
        """Return the nodes in place of a MatMul or Gemm."""
        entry = self._recipe.blocks[weight]
        _require_product(node, weight, entry.axis)
        shape = self._weights[weight].dims
        inputs, outputs = shape[entry.axis], shape[1 - entry.axis]
        before, source = self._rescaled(node.input[0], weight, inputs)
        result = node.output[0]
        bias = [n for n in node.input[2:] if n]
        made = helper.make_node(
            "MatMulNBits",
            [source, *self._constants(weight)],
            [f"{result}/product" if bias else result],
            name=node.name or result,
            domain=DOMAIN,
            K=inputs,
            N=outputs,
            bits=container(entry.bits),
            block_size=entry.block,
            accuracy_level=ACCURACY_LEVEL,
        )
        behind = [
            helper.make_node("Add", [made.output[0], n], [result], name=f"{result}/add")
            for n in bias
        ]
        return [*before, made, *behind]

    def _rescaled(self, source: str, weight: str, inputs: int) -> tuple[list[NodeProto], str]:
        entry = self._recipe.blocks[weight]
        factors = input_scale(weight, inputs, entry, self._arrays)
        if factors is None:
            return [], source
        key = entry.input_scale or ""
        result = f"{source}/{key}"
        if result in self._scaled:
            return [], result
        self._scaled.add(result)
        constant = f"{key}/input_factor"
        if constant not in {t.name for t in self.constants}:
            self._add(constant, np.float32(1) / factors)
        return [helper.make_node("Mul", [source, constant], [result], name=result)], result

    def _constants(self, weight: str) -> list[str]:
        if weight not in self._stored:
            values = numpy_helper.to_array(self._weights[weight])
            entry = self._recipe.blocks[weight]
            found = block_integers(weight, values, entry, self._arrays)
            width = container(entry.bits)
            names = [f"{weight}/uint{width}", f"{weight}/scale"]
            self._add(names[0], pack(found, width))
            self._add(names[1], found.scale)
            if found.zero_point is not None:
                names.append(f"{weight}/zero_point")
                self._add(names[2], lk.pack_bits(found.zero_point, width))
            self._stored[weight] = names
        return self._stored[weight]

    def _add(self, name: str, array: NDArray[Any]) -> None:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))


def pack(found: Blocks, width: int) -> NDArray[np.uint8]:
    """Return integers as MatMulNBits stores them: ``(outputs, blocks, block * width / 8)``."""
    outputs, inputs = found.codes.shape
    blocks = found.scale.shape[1]
    full = np.zeros((outputs, blocks * found.block), np.uint8)
    if found.zero_point is None:
        half = 2 ** (width - 1)
        full[:] = half
        full[:, :inputs] = (found.codes.astype(np.int16) + half).astype(np.uint8)
    else:
        full[:] = np.repeat(found.zero_point, found.block, axis=1)
        full[:, :inputs] = found.codes
    return lk.pack_bits(full.reshape(outputs, blocks, found.block), width)


def _require_product(node: NodeProto, weight: str, axis: int) -> None:
    flags = {a.name: a for a in node.attribute}
    transposed = node.op_type == "Gemm" and "transB" in flags and flags["transB"].i
    plain = not (node.op_type == "Gemm" and "transA" in flags and flags["transA"].i)
    plain &= all(flags[n].f == 1.0 for n in ("alpha", "beta") if n in flags)
    if (
        node.op_type in ("MatMul", "Gemm")
        and plain
        and len(node.input) > 1
        and node.input[1] == weight
        and axis == (1 if transposed else 0)
    ):
        return
    raise OptimizeError(
        "LPT-OPT-005",
        f"The layer {node.output[0]!r} cannot read {weight!r} in blocks along axis {axis}",
        cause=f"it is {node.op_type} of {', '.join(node.input)}; a plain MatMul takes axis 0, a "
        "Gemm with transB axis 1",
        remedy="Correct the axis, or remove the layer from the recipe.",
    )


__all__ = ["ACCURACY_LEVEL", "DOMAIN", "pack", "write_blocks"]
