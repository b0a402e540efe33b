"""Weights that a recipe stores as integers while their operators take floats.

The converter folds what it can into constant weights, a factor behind a product for one, and then
they are no longer the recipe's. So it gets to see such weights as inputs of the graph, as floats,
of which it can assume nothing. In its file they are replaced by the integers (:mod:`._place`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import lepton_kernels as lk
from lepton_onnx.editing import put_nodes, replace_items
from lepton_onnx.qdq import Blocks, reads_table, restored_weight, unpack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.recipe import Recipe

_DOMAIN = "com.microsoft"


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A weight as integers.

    Attributes:
        name: Its name in the pivot.
        codes: int8, matrices of products outputs first; of four bits if *bits* is 4.
        scale: float32: one, one per channel along *axis*, or ``(outputs, blocks)``.
        axis: Axis of *codes* that scales lie along; ``None`` for one scale.
        order: Axes of the pivot's weight in the order in which *codes* has them.
        block: Consecutive inputs that share a scale; ``None`` for weights without blocks.
        zero_point: int8, as *scale*; ``None`` where it is 0.
        offset: What integers and zero points of the recipe have been lowered by to be signed.
        bits: 8 or 4, in which an integer is stored.
        dynamic: Whether the recipe wants the inputs of its products quantized at run time, those
            of all products that take floats.
    """

    name: str
    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int | None
    order: tuple[int, ...]
    block: int | None = None
    zero_point: NDArray[np.int8] | None = None
    offset: int = 0
    bits: int = 8
    dynamic: bool = False

    @property
    def by_block(self) -> bool:
        """Whether an output has several scales."""
        return self.block is not None and self.scale.shape[1] > 1

    def values(self) -> NDArray[np.float32]:
        """Return the floats that the integers stand for, in the shape of *codes*."""
        if self.block is not None:
            blocks = self.blocks()
            return lk.dequantize_blocks(blocks.codes, blocks.scale, blocks.zero_point, self.block)
        shape = [1] * self.codes.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        return self.codes.astype(np.float32) * self.scale.reshape(shape)

    def blocks(self) -> Blocks:
        """Return a weight with blocks as the recipe has it."""
        assert self.block is not None  # noqa: S101 - for those alone
        if self.zero_point is None:
            return Blocks(self.codes, self.scale, None, self.block)
        codes, zero = (
            (a.astype(np.int16) + self.offset).astype(np.uint8)
            for a in (self.codes, self.zero_point)
        )
        return Blocks(codes, self.scale, zero, self.block)


def take_weights(model: ModelProto, recipe: Recipe) -> list[Weight]:
    """Make inputs of the weights that are restored to floats in a lowered graph.

    Args:
        model: What :func:`lepton_onnx.lowering.lower_recipe` gave; it is changed. The new inputs
            stand behind its own, in the order of what is returned.
        recipe: The recipe.
    """
    return _Taker(model, recipe).run()


class _Taker:
    def __init__(self, model: ModelProto, recipe: Recipe) -> None:
        self._model, self._graph = model, model.graph
        self._constants = {t.name: t for t in model.graph.initializer}
        self._made_by = {n: node for node in model.graph.node for n in node.output}
        self._weights: dict[str, Weight] = {}
        self._before: list[NodeProto] = []
        modes: dict[str, set[str]] = {}
        for layer in recipe.layers.values():
            if layer.weight and layer.mode != "static" and layer.op != "Gather":
                modes.setdefault(layer.weight, set()).add(layer.mode)
        self._dynamic = {name for name, found in modes.items() if found == {"dynamic"}}
        self._tensors = recipe.tensors
        self._axes = {name: entry.axis for name, entry in recipe.blocks.items()}

    def run(self) -> list[Weight]:
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            made = next((m for rule in (self._restored, self._gathered, self._product)
                         if (m := rule(node)) is not None), None)  # fmt: skip
            nodes += [node] if made is None else made
        put_nodes(self._graph, [*self._before, *nodes], self._constants)
        if all(node.domain != _DOMAIN for node in self._graph.node):
            kept = [entry for entry in self._model.opset_import if entry.domain != _DOMAIN]
            replace_items(self._model.opset_import, kept)
        return list(self._weights.values())

    def _array(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._constants[name])

    # --- the forms in which a lowered graph restores weights ------------------------------------

    def _restored(self, node: NodeProto) -> list[NodeProto] | None:
        """Take the weight of a Cast and a Mul, which all float operators read."""
        found = restored_weight(node, self._made_by, self._constants)
        if found is None:
            return None
        if found.name not in self._tensors:  # the model's own integers
            return None
        # The recipe's axis: that of a weight for a single output shows in no shape of scales.
        name, codes, axis = found.name, found.codes, self._tensors[found.name].axis
        looked_up = any(n.op_type == "Gather" and n.input[0] == codes for n in self._graph.node)
        turned = self._is_matrix_of_products(node.output[0]) and axis in (None, 1)
        self._take(name, self._array(codes), found.scale, axis, turned=turned and not looked_up)
        if self._weights[name].order == (1, 0):
            return [_node("Transpose", [_port(name)], node.output[0], perm=[1, 0])]
        return [_node("Identity", [_port(name)], node.output[0])]

    def _gathered(self, node: NodeProto) -> list[NodeProto] | None:
        """Take a table whose rows are restored behind the lookup."""
        if reads_table(node, self._constants):
            return []  # written in the place of the DequantizeLinear behind it
        source = self._made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if source is None or not reads_table(source, self._constants):
            return None
        table = source.input[0]
        name, scale = table.removesuffix("/int8"), self._array(node.input[1])
        axis = self._array(table).ndim - 1 if scale.ndim else None
        self._take(name, self._array(table), scale, axis, turned=False)
        gather = helper.make_node(
            "Gather", [_port(name), source.input[1]], [node.output[0]], name=source.name
        )
        gather.attribute.extend(source.attribute)
        return [gather]

    def _product(self, node: NodeProto) -> list[NodeProto] | None:
        """Take a weight in few bits, with scales for blocks."""
        if node.op_type != "MatMulNBits":
            return None
        name = node.input[1].rpartition("/")[0]
        if name not in self._weights:
            numbers = {a.name: a.i for a in node.attribute}
            arrays = [self._array(n) for n in node.input[1:] if n]
            found = unpack(arrays, numbers["K"], numbers["bits"], numbers["block_size"])
            bits = 8 if numbers["bits"] == 8 else 4
            offset = 2 ** (bits - 1) if found.zero_point is not None else 0
            codes, zero = (
                None if a is None else (a.astype(np.int16) - offset).astype(np.int8)
                for a in (found.codes, found.zero_point)
            )
            assert codes is not None  # noqa: S101 - there are always integers
            order = (0, 1) if self._axes[name] == 1 else (1, 0)
            self._add(Weight(
                name, codes, found.scale, 0, order, found.block, zero, offset, bits,
            ))  # fmt: skip
            matrix = _node("Transpose", [_port(name)], f"{_port(name)}/matrix", perm=[1, 0])
            self._before.append(matrix)
        return [_node("MatMul", [node.input[0], f"{_port(name)}/matrix"], node.output[0])]

    # --- taking one ---------------------------------------------------------------------------

    def _is_matrix_of_products(self, value: str) -> bool:
        """Tell whether a value is the second factor of products, ``(inputs, outputs)``, alone."""
        readers = [n for n in self._graph.node if value in n.input]
        return bool(readers) and all(
            n.op_type in ("MatMul", "Gemm")
            and list(n.input).index(value) == 1
            and list(n.input).count(value) == 1
            and not any(a.name == "transB" and a.i for a in n.attribute)
            for n in readers
        )

    def _take(
        self, name: str, codes: NDArray[np.int8], scale: NDArray[np.float32], axis: int | None,
        *, turned: bool,
    ) -> None:  # fmt: skip
        if name in self._weights:
            return
        turned = turned and codes.ndim == 2
        order = (1, 0) if turned else tuple(range(codes.ndim))
        self._add(Weight(
            name, np.ascontiguousarray(codes.transpose(order)), scale.reshape(-1),
            None if axis is None else order.index(axis), order, dynamic=name in self._dynamic,
        ))  # fmt: skip

    def _add(self, weight: Weight) -> None:
        self._weights[weight.name] = weight
        self._graph.input.append(
            helper.make_tensor_value_info(_port(weight.name), TensorProto.FLOAT, weight.codes.shape)
        )


def _port(name: str) -> str:
    return f"{name}/float"


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:  # noqa: ANN401
    return helper.make_node(op, inputs, [output], name=output, **attributes)


__all__ = ["Weight", "take_weights"]
