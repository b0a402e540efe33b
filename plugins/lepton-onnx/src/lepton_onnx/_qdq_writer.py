"""The walk that writes integers and Q/DQ pairs into a graph; see :mod:`lepton_onnx.qdq`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lepton_core.errors import OptimizeError
from lepton_onnx._cleanup import captured, replace_items
from lepton_onnx._qdq_numbers import bias_integers, weight_integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lepton_core.recipe import Layer, Recipe


@dataclass
class Writer:
    """Walks the outermost graph once, in topological order."""

    model: ModelProto
    recipe: Recipe
    integers: dict[str, NDArray[np.int8]]
    float_outputs: bool
    unsigned: bool
    pairs: int = 0
    nodes: list[NodeProto] = field(default_factory=list)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.weights = {t.name: t for t in graph.initializer}
        layers = self.recipe.layers
        self.static = {k: v for k, v in layers.items() if v.mode == "static"}
        self.whole = {k for k, v in layers.items() if _reads_integers(v)}
        read = {name for layer in self.static.values() for name in layer.inputs}
        self.produced = {v.output for v in self.static.values() if self._keeps(v.output, read)}
        self.quantized = {v.weight for v in layers.values() if v.weight}
        self.biases = {
            (node, layer.bias): name
            for name, layer in self.static.items()
            if layer.bias is not None and not self._wide(layer.inputs[0])
            for node in (name, *layer.fused)
        }
        self.floats = self._float_reads()
        self.clipped = {
            name: layer.output
            for name, layer in self.static.items()
            if layer.fused and layer.output in self.produced and self._clips(layer)
        }

    def _wide(self, value: str) -> bool:
        """Tell whether a value has 16 bits; no int32 is wide enough for biases of its products."""
        return value in self.recipe.tensors and self.recipe.tensors[value].dtype == "int16"

    def _clips(self, layer: Layer) -> bool:
        """Tell whether a fused activation cuts integers that its output could hold.

        That is so where another value's range decides the scale. Runtimes then keep the activation
        apart, so its input gets a Q/DQ pair of the same numbers, which changes no result:
        rounding is monotone and 0 is exact.
        """
        node = next(n for n in self.model.graph.node if layer.output in n.output)
        tensor = self.recipe.tensors[layer.output]
        if tensor.dtype == "int16":
            return False  # runtimes compute it in float, activation included
        scale = np.float32(tensor.scales[0])
        low, high = scale * (-128 - tensor.zero_point), scale * (127 - tensor.zero_point)
        if node.op_type == "Relu":
            return bool(low < 0)
        if node.op_type != "Clip":
            return False
        limits = [self._limit(node, i, w) for i, w in ((1, -np.inf), (2, np.inf))]
        slack = scale / 2  # rounding of the scale itself
        return bool(low < limits[0] - slack or high > limits[1] + slack)

    def _limit(self, node: NodeProto, index: int, default: float) -> float:
        if len(node.input) <= index or not node.input[index]:
            return default
        return float(numpy_helper.to_array(self.weights[node.input[index]]))

    def _keeps(self, value: str, read: set[str]) -> bool:
        """Tell whether an integer layer's output is quantized here."""
        return value in read or not (self.recipe.tensors[value].optional and self.float_outputs)

    def _float_reads(self) -> set[str]:
        """Return quantized values and weights that something reads as float."""
        graph = self.model.graph
        found = {v.name for v in graph.output}
        for node in graph.node:
            layer = self.recipe.layers.get(node.output[0])
            own: set[str] = set()
            if layer is not None and layer.mode == "static":
                own = {*layer.inputs, layer.weight or ""}
            elif node.output[0] in self.whole and layer is not None:
                own = {layer.weight or ""}
            found |= (set(node.input) - own) | captured(node)
        return found

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
            if value in self.quantized and value in self.floats and value not in self.done:
                self._restore_weight(value)
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
                node.input[index] = self._bias(bias_of, node)
            elif layer is not None and value in (*layer.inputs, layer.weight):
                self._require_integers(value)
                node.input[index] = self._own_float(value, f"{value}/dequantized")
        behind = []
        like = self.clipped.get(node.output[0])
        if like is not None:
            self._write_clipped(node, like)
            return
        for index, value in enumerate(node.output):
            if value in self.produced:
                node.output[index] = f"{value}/float"
                behind.append(value)
        self.nodes.append(node)
        for value in behind:
            self._quantize(value, f"{value}/float")
            if value in self.floats:
                self._own_float(value, value)

    def _write_clipped(self, node: NodeProto, like: str) -> None:
        """Quantize an operator's own output like that of the activation behind it."""
        value = node.output[0]
        node.output[0] = f"{value}/float"
        parameters = self._parameters(like)
        codes = self._codes(value)
        self.nodes.append(node)
        for op, source, result, suffix in (
            ("QuantizeLinear", node.output[0], codes, "quantize"),
            ("DequantizeLinear", codes, value, "dequantize"),
        ):
            self.nodes.append(
                helper.make_node(op, [source, *parameters], [result], name=f"{value}/{suffix}")
            )
        self.pairs += 1

    # --- integers and back --------------------------------------------------------------------

    def _codes(self, value: str) -> str:
        """Return the name of a value's or weight's integers."""
        if self._wide(value):
            return f"{value}/int16"
        return f"{value}/uint8" if self.unsigned and value not in self.weights else f"{value}/int8"

    def _require_integers(self, value: str) -> None:
        """Make sure that a value or weight is there as integers."""
        if value in self.weights:
            self._store(value)
        elif self._codes(value) not in self.done and value not in self.produced:
            self._quantize(value, value)

    def _quantize(self, value: str, source: str) -> None:
        codes = self._codes(value)
        self.done.add(codes)
        inputs = [source, *self._parameters(value)]
        name = f"{value}/quantize"
        self.nodes.append(helper.make_node("QuantizeLinear", inputs, [codes], name=name))
        self.pairs += 1

    def _own_float(self, value: str, wanted: str) -> str:
        """Add a DequantizeLinear for one reader; runtimes fuse those that nobody shares."""
        result, count = wanted, 1
        while result in self.done:
            count += 1
            result = f"{wanted}_{count}"
        self.done.add(result)
        axis = self.recipe.tensors[value].axis
        node = helper.make_node(
            "DequantizeLinear",
            [self._codes(value), *self._parameters(value)],
            [result],
            name=result if result != value else f"{value}/dequantize",
        )
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self.nodes.append(node)
        return result

    def _parameters(self, value: str) -> tuple[str, str]:
        tensor = self.recipe.tensors[value]
        root = tensor.same_as or value
        scale = self._constant(f"{root}/scale", np.asarray(tensor.scale, np.float32))
        zeros = np.full(np.shape(tensor.scale), tensor.zero_point, np.dtype(tensor.dtype))
        if self.unsigned and tensor.kind == "activation" and tensor.dtype == "int8":
            zeros = (zeros.astype(np.int16) + 128).astype(np.uint8)
        return scale, self._constant(f"{root}/zero_point", zeros)

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        if name not in self.done:
            self.done.add(name)
            self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    # --- weights and biases -------------------------------------------------------------------

    def _store(self, name: str) -> str:
        """Store a weight as integers, once; return the initializer's name."""
        if f"{name}/int8" in self.done:
            return f"{name}/int8"
        values = numpy_helper.to_array(self.weights[name])
        codes = self.integers.get(name)
        if codes is None:
            codes = weight_integers(values, self.recipe.tensors[name])
        elif codes.shape != values.shape:
            raise OptimizeError(
                "LPT-OPT-006",
                f"The sidecar's integers for {name!r} have another shape than the weight",
                cause=f"{list(codes.shape)} instead of {list(values.shape)}",
                remedy="Write the recipe again.",
            )
        return self._constant(f"{name}/int8", codes)

    def _restore_weight(self, name: str) -> None:
        """Yield a weight as float for operators that compute in float.

        A Cast and a Mul, which runtimes fold into a constant when they open the file; they leave
        a DequantizeLinear for every run.
        """
        self.done.add(name)
        tensor = self.recipe.tensors[name]
        shape = [1] * len(self.weights[name].dims)
        if tensor.axis is not None:
            shape[tensor.axis] = -1
        scale = np.asarray(tensor.scale, np.float32).reshape(
            shape if tensor.axis is not None else ()
        )
        inputs = [f"{name}/cast", self._constant(f"{name}/weight_scale", scale)]
        self.nodes += [
            helper.make_node(
                "Cast", [self._store(name)], [inputs[0]], name=inputs[0], to=TensorProto.FLOAT
            ),
            helper.make_node("Mul", inputs, [name], name=f"{name}/restore"),
        ]

    def _bias(self, name: str, reader: NodeProto) -> str:
        """Return a layer's bias on the grid of its accumulator, added once.

        Where the layer's own operator takes the bias it is int32, as its integer kernel wants it.
        Where an Add follows a MatMul, no kernel takes it, and the same numbers stand as float.
        """
        result = f"{name}/bias"
        if result in self.done:
            return result
        self.done.add(result)
        layer = self.static[name]
        bias, weight = self.weights[layer.bias or ""], self.recipe.tensors[layer.weight or ""]
        source = self.recipe.tensors[layer.inputs[0]]
        values = numpy_helper.to_array(bias)
        codes, scale = bias_integers(values, source.scales[0], weight)
        if reader.output[0] != name:
            self.model.graph.initializer.append(
                numpy_helper.from_array(codes.astype(np.float32) * scale, result)
            )
            return result
        inputs = [
            self._constant(f"{result}/int32", codes),
            self._constant(f"{result}/scale", scale),
        ]
        node = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/dequantize")
        if scale.ndim:
            node.attribute.append(helper.make_attribute("axis", values.ndim - 1))
        self.nodes.append(node)
        return result

    # --- tables, and inputs quantized at run time ---------------------------------------------

    def _write_gather(self, node: NodeProto, layer: Layer) -> None:
        """Gather integers and dequantize the rows gathered, not the whole table."""
        table, result = layer.weight or "", node.output[0]
        scale, zero = self._parameters(table)
        node.input[0], node.output[0] = self._store(table), f"{result}/int8"
        inputs = [node.output[0], scale, zero]
        back = helper.make_node("DequantizeLinear", inputs, [result], name=f"{result}/dequantize")
        if self.recipe.tensors[table].axis is not None:
            back.attribute.append(helper.make_attribute("axis", -1))
        self.nodes += [node, back]

    def _write_dynamic(self, node: NodeProto, layer: Layer) -> None:
        """Write a matrix product whose input gets scale and zero point at run time."""
        source, weight, result = layer.inputs[0], layer.weight or "", node.output[0]
        names = [f"{source}/dynamic", f"{source}/dynamic_scale", f"{source}/dynamic_zero_point"]
        if names[0] not in self.done:
            self.done.add(names[0])
            self._add("DynamicQuantizeLinear", [source], *names)
        codes = self._store(weight)
        if any(a.name == "transB" and a.i for a in node.attribute):
            codes = self._transposed(codes)
        scale, _ = self._parameters(weight)
        bias = [n for n in node.input[2:] if n]
        last = f"{result}/product" if bias else result
        self._add("MatMulInteger", [names[0], codes, names[2]], f"{result}/int32")
        self._add("Cast", [f"{result}/int32"], f"{result}/sum", to=TensorProto.FLOAT)
        self._add("Mul", [names[1], scale], f"{result}/scale")
        self._add("Mul", [f"{result}/sum", f"{result}/scale"], last)
        if bias:
            self._add("Add", [last, bias[0]], result)

    def _add(self, op: str, inputs: list[str], *outputs: str, **attributes: int) -> None:
        node = helper.make_node(op, inputs, list(outputs), name=outputs[0], **attributes)
        self.nodes.append(node)

    def _transposed(self, codes: str) -> str:
        result = f"{codes}/transposed"
        if result not in self.done:
            self.done.add(result)
            node = helper.make_node("Transpose", [codes], [result], name=result, perm=[1, 0])
            self.nodes.append(node)
        return result


def _reads_integers(layer: Layer) -> bool:
    """Tell whether a layer that is not static takes its weight's integers as they are."""
    return layer.mode == "dynamic" or (layer.mode == "weight" and layer.op == "Gather")


__all__ = ["Writer"]
