"""Writing a recipe into a pivot: integer weights, and Q/DQ pairs where integers are computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from lepton_core.errors import OptimizeError
from lepton_core.recipe import Layer, Recipe, Tensor, check_against
from lepton_onnx._cleanup import captured, replace_items
from lepton_onnx._protobuf import opset_of
from lepton_onnx._qdq_numbers import bias_integers, weight_integers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

_LOWEST_OPSET = 13
"""First opset whose DequantizeLinear takes a scale per channel."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model that a recipe was written into.

    Attributes:
        model: The model, weights in memory; names of inputs, outputs and values are kept.
        integer_layers: Layers that compute with integers, by operator type.
        weight_layers: Layers whose weight alone is stored as integers.
        pairs: Number of Q/DQ pairs on activations.
    """

    model: ModelProto
    integer_layers: Mapping[str, int]
    weight_layers: int
    pairs: int


def lower(
    model: ModelProto,
    recipe: Recipe,
    *,
    digest: str,
    integers: Mapping[str, NDArray[np.int8]] | None = None,
    integer_ops: Collection[str] | None = None,
    dynamic: bool = True,
    float_outputs: bool = True,
) -> Lowered:
    """Write *recipe* into *model*.

    A quantized weight ``w`` becomes the int8 initializer ``w/int8`` with a DequantizeLinear that
    yields ``w``. A value ``v`` that an integer operator yields is ``v/float`` -> QuantizeLinear ->
    ``v/int8`` -> DequantizeLinear -> ``v``; one that a float operator yields keeps its name, and
    integer operators read ``v/dequantized``. So a reader of the file finds every value of the
    recipe under its own name.

    Args:
        model: The pivot with its weights in memory; it is not changed.
        recipe: A recipe for it.
        digest: The pivot's digest.
        integers: Integers from the recipe's sidecar, by weight name.
        integer_ops: Operators that the runtime computes with integers; layers of other operators
            keep an integer weight and compute in float. All by default.
        dynamic: Whether the runtime quantizes inputs at run time (DynamicQuantizeLinear and
            MatMulInteger); if not, dynamic layers keep an integer weight.
        float_outputs: Whether the runtime's matrix products yield float directly, so that
            optional values are left unquantized.

    Returns:
        The lowered model, checked by ONNX's checker.

    Raises:
        OptimizeError: ``LPT-OPT-003`` … ``005`` the recipe does not fit, ``LPT-OPT-007`` the
            pivot's opset is too low, ``LPT-OPT-008`` the result is not valid ONNX.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    shapes = {t.name: tuple(t.dims) for t in copy.graph.initializer}
    values = {n for node in copy.graph.node for n in node.output} | set(shapes)
    values |= {v.name for v in copy.graph.input}
    check_against(recipe, digest, values, shapes)
    if opset_of(copy) < _LOWEST_OPSET:
        raise OptimizeError(
            "LPT-OPT-007",
            f"A pivot of opset {opset_of(copy)} cannot be quantized",
            cause=f"scales per channel need opset {_LOWEST_OPSET}",
            remedy="Convert the source with --opset 21.",
        )
    usable = _usable(recipe, integer_ops, dynamic=dynamic)
    writer = _Writer(copy, usable, dict(integers or {}), float_outputs)
    writer.write()
    _check(copy)
    static = [layer.op for layer in usable.layers.values() if layer.mode != "weight"]
    return Lowered(
        copy,
        {op: static.count(op) for op in sorted(set(static))},
        sum(layer.mode == "weight" for layer in usable.layers.values()),
        writer.pairs,
    )


def _usable(recipe: Recipe, ops: Collection[str] | None, *, dynamic: bool) -> Recipe:
    """Return the recipe as this runtime can use it."""
    layers: dict[str, Layer] = {}
    for name, layer in recipe.layers.items():
        able = ops is None or layer.op in ops
        if layer.mode == "weight" or (able and (layer.mode == "static" or dynamic)):
            layers[name] = layer
        elif layer.weight is not None:
            layers[name] = replace(layer, mode="weight")
    return replace(recipe, layers=layers)


def _check(model: ModelProto) -> None:
    try:
        if model.ByteSize() < 2**31 - 1:
            onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise OptimizeError(
            "LPT-OPT-008",
            "The recipe leads to a graph that is not valid ONNX",
            cause=" ".join(str(error).split())[:500],
            remedy="Remove the layer that the cause names from the recipe.",
        ) from error


@dataclass
class _Writer:
    """Walks the outermost graph once, in topological order."""

    model: ModelProto
    recipe: Recipe
    integers: dict[str, NDArray[np.int8]]
    float_outputs: bool
    pairs: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.weights = {t.name: t for t in graph.initializer}
        layers = self.recipe.layers
        self.static = {k: v for k, v in layers.items() if v.mode == "static"}
        read = {name for layer in self.static.values() for name in layer.inputs}
        self.produced = {v.output for v in self.static.values() if self._keeps(v.output, read)}
        self.quantized_weights = {v.weight for v in layers.values() if v.weight}
        self.tables = {
            v.weight for v in layers.values() if v.op == "Gather" and v.mode == "weight"
        }
        self.biases = {
            (node, layer.bias): name
            for name, layer in self.static.items()
            if layer.bias is not None
            for node in (name, *layer.fused)
        }
        self.taken = {n for node in graph.node for n in (*node.input, *node.output)}

    def _keeps(self, value: str, read: set[str]) -> bool:
        """Tell whether an integer layer's output is quantized here."""
        return value in read or not (self.recipe.tensors[value].optional and self.float_outputs)

    def write(self) -> None:
        graph = self.model.graph
        for node in list(graph.node):
            new = NodeProto()
            new.CopyFrom(node)
            self._write_node(new)
        replace_items(graph.node, self.nodes)
        used = {n for node in graph.node for n in (*node.input, *captured(node))}
        used |= {v.name for v in graph.output}
        used -= {n for node in graph.node for n in node.output}
        kept = [t for t in graph.initializer if t.name in used]
        replace_items(graph.initializer, kept)

    def _write_node(self, node: NodeProto) -> None:
        name = node.output[0]
        layer = self.recipe.layers.get(name)
        for value in (*node.input, *sorted(captured(node))):
            if value in self.quantized_weights and value not in self.done:
                self._write_weight(value)
        if layer is not None and layer.op == "Gather" and layer.mode == "weight":
            self._write_gather(node, layer)
        elif layer is not None and layer.mode == "dynamic":
            self._write_dynamic(node, layer)
        else:
            self._write_plain(node, self.static.get(name))

    def _write_plain(self, node: NodeProto, layer: Layer | None) -> None:
        for index, value in enumerate(node.input):
            bias_of = self.biases.get((node.output[0], value))
            if bias_of is not None:
                node.input[index] = self._bias(bias_of)
            elif layer is not None and value in layer.inputs and value not in self.produced:
                node.input[index] = self._dequantized(value)
        behind = []
        for index, value in enumerate(node.output):
            if value in self.produced:
                node.output[index] = f"{value}/float"
                behind.append(value)
        self.nodes.append(node)
        for value in behind:
            self._pair(value, f"{value}/float", value)

    # --- activations --------------------------------------------------------------------------

    def _dequantized(self, value: str) -> str:
        """Return the name of a float operator's value after Q/DQ, which is added once."""
        result = f"{value}/dequantized"
        if result not in self.done:
            self.done.add(result)
            self._pair(value, value, result)
        return result

    def _pair(self, value: str, source: str, result: str) -> None:
        tensor = self.recipe.tensors[value]
        root = tensor.same_as or value
        scale, zero = self._parameters(root, tensor)
        middle = f"{value}/int8"
        for op, inlet, outlet, suffix in (
            ("QuantizeLinear", source, middle, "quantize"),
            ("DequantizeLinear", middle, result, "dequantize"),
        ):
            name = f"{value}/{suffix}"  # nodes have names of their own, beside the values'
            self.nodes.append(helper.make_node(op, [inlet, scale, zero], [outlet], name=name))
        self.pairs += 1

    def _parameters(self, root: str, tensor: Tensor) -> tuple[str, str]:
        scale = self._constant(f"{root}/scale", np.asarray(tensor.scale, np.float32))
        zeros = np.full(np.shape(tensor.scale), tensor.zero_point, np.int8)
        return scale, self._constant(f"{root}/zero_point", zeros)

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.done:
            self.done.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    # --- weights ------------------------------------------------------------------------------

    def _write_weight(self, name: str) -> None:
        self.done.add(name)
        tensor = self.recipe.tensors[name]
        codes = self.integers.get(name)
        values = numpy_helper.to_array(self.weights[name])
        if codes is None:
            codes = weight_integers(values, tensor)
        elif codes.shape != values.shape:
            raise OptimizeError(
                "LPT-OPT-006",
                f"The sidecar's integers for {name!r} have another shape than the weight",
                cause=f"{list(codes.shape)} instead of {list(values.shape)}",
                remedy="Write the recipe again.",
            )
        stored = self._constant(f"{name}/int8", codes)
        scale, zero = self._parameters(name, tensor)
        node = helper.make_node(
            "DequantizeLinear", [stored, scale, zero], [name], name=f"{name}/dequantize"
        )
        if tensor.axis is not None:
            node.attribute.append(helper.make_attribute("axis", tensor.axis))
        if self._read_as_float(name):
            self.nodes.append(node)

    def _read_as_float(self, weight: str) -> bool:
        """Tell whether anything reads a weight other than as the integers themselves."""
        whole = {
            name
            for name, layer in self.recipe.layers.items()
            if layer.weight == weight
            and (layer.mode == "dynamic" or (layer.op == "Gather" and layer.mode == "weight"))
        }
        graph = self.model.graph
        readers = [n for n in graph.node if weight in n.input or weight in captured(n)]
        return any(n.output[0] not in whole for n in readers) or any(
            v.name == weight for v in graph.output
        )

    def _bias(self, name: str) -> str:
        """Return the float form of a layer's int32 bias, which is added once."""
        result = f"{name}/bias"
        if result in self.done:
            return result
        self.done.add(result)
        layer = self.static[name]
        bias, weight = self.weights[layer.bias or ""], self.recipe.tensors[layer.weight or ""]
        source = self.recipe.tensors[layer.inputs[0]]
        values = numpy_helper.to_array(bias)
        codes, scale = bias_integers(values, source.scales[0], weight)
        inputs = [
            self._constant(f"{result}/int32", codes),
            self._constant(f"{result}/scale", scale),
        ]
        node = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/dequantize")
        if scale.ndim:
            node.attribute.append(helper.make_attribute("axis", values.ndim - 1))
        self.nodes.append(node)
        return result

    # --- weights alone, and inputs quantized at run time --------------------------------------

    def _write_gather(self, node: NodeProto, layer: Layer) -> None:
        """Gather integers and dequantize the rows gathered, not the whole table."""
        table, result = layer.weight or "", node.output[0]
        tensor = self.recipe.tensors[table]
        scale, zero = self._parameters(table, tensor)
        node.input[0], node.output[0] = f"{table}/int8", f"{result}/int8"
        inputs = [node.output[0], scale, zero]
        dequantize = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/dequantize")
        if tensor.axis is not None:
            dequantize.attribute.append(helper.make_attribute("axis", -1))
        self.nodes += [node, dequantize]

    def _write_dynamic(self, node: NodeProto, layer: Layer) -> None:
        """Write a matrix product whose input gets scale and zero point at run time."""
        source, weight, result = layer.inputs[0], layer.weight or "", node.output[0]
        names = [f"{source}/dynamic", f"{source}/dynamic_scale", f"{source}/dynamic_zero_point"]
        if names[0] not in self.done:
            self.done.add(names[0])
            self.nodes.append(
                helper.make_node("DynamicQuantizeLinear", [source], names, name=names[0])
            )
        codes = f"{weight}/int8"
        if any(a.name == "transB" and a.i for a in node.attribute):
            codes = self._transposed(codes)
        scale = f"{weight}/scale"
        bias = [n for n in node.input[2:] if n]
        last = f"{result}/product" if bias else result
        self.nodes += [
            helper.make_node(
                "MatMulInteger",
                [names[0], codes, names[2]],
                [f"{result}/int32"],
                name=f"{result}/int32",
            ),
            helper.make_node(
                "Cast", [f"{result}/int32"], [f"{result}/sum"], name=f"{result}/sum", to=1
            ),
            helper.make_node(
                "Mul", [names[1], scale], [f"{result}/scale"], name=f"{result}/scale"
            ),
            helper.make_node("Mul", [f"{result}/sum", f"{result}/scale"], [last], name=last),
        ]
        if bias:
            self.nodes.append(helper.make_node("Add", [last, bias[0]], [result], name=result))

    def _transposed(self, codes: str) -> str:
        result = f"{codes}/transposed"
        if result not in self.done:
            self.done.add(result)
            self.nodes.append(
                helper.make_node("Transpose", [codes], [result], name=result, perm=[1, 0])
            )
        return result


__all__ = ["Lowered", "lower"]
