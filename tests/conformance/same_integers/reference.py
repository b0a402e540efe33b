"""The integers that a recipe means, in arithmetic that loses nothing.

The recipe is written into the pivot as for every target, and the Q/DQ graph is walked once. A
value that a DequantizeLinear yields stands for ``scale * (integer - zero point)``:

* products (Conv, ConvTranspose, Gemm, MatMul) sum products of integers, with the int32 bias; these
  sums are exact. They are multiplied by the product of both scales;
* every other operator takes the real numbers in float64 (ONNX's reference implementation);
* a QuantizeLinear divides by the scale, rounds half to even, adds the zero point and saturates.
  Samples are divided in float32, as the rules of recipes say.

The pairs are written by the code that lowers for the runtimes as well, so each of them is held
against the recipe's own numbers on the way.

Scales have 24 bits of mantissa, so float64 is wrong by less than 1e-12 units before rounding;
:attr:`Reference.margin` says how close to a tie any value comes that is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lepton_core import recipe as recipes
from lepton_onnx import qdq

PRODUCTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""Operators that sum products, and the axis of the result that runs over output channels."""

TIE = 1e-9
"""Closer than this to half a unit counts as a tie: two decimals of float64 are kept in hand."""


RULES = {
    "float32": "the operator in float32, and the division by the scale",
    "half up": "ties to the larger integer",
    "half away": "ties away from the zero point",
    "half away, whole": "ties away from the integer 0",
}
"""Other ways to come to integers, which runtimes are held against where they differ."""


@dataclass(frozen=True)
class Reference:
    """What a recipe computes on some samples.

    Attributes:
        integers: int8 by value of the pivot, batch first.
        numbers: Scale (float32) and zero point by value.
        outputs: Outputs of the model, dequantized, float32 by name.
        units: float64 by value: in units of its scale, before rounding.
        rules: Integers by other rules, from the same inputs, by rule and value; :data:`RULES`.
        margin: Smallest distance, in units, of a value from a tie that it is not.
    """

    integers: dict
    numbers: dict
    outputs: dict
    units: dict
    rules: dict
    margin: float

    def real(self, value):
        """Return a value's integers as the float32 that every runtime takes them for."""
        scale, zero = self.numbers[value]
        return scale * (self.integers[value].astype(np.float32) - np.float32(zero))


def required(recipe):
    """Return a recipe in which every value is quantized, also where only float operators read."""
    tensors = {name: replace(entry, optional=False) for name, entry in recipe.tensors.items()}
    return replace(recipe, tensors=tensors)


def compute(pivot, path, inputs):
    """Return the integers of every quantized value.

    Args:
        pivot: The pivot.
        path: Its recipe.
        inputs: Samples by input name.

    Raises:
        ValueError: A pair in the lowered graph has other numbers than the recipe.
    """
    recipe = recipes.read(path)
    arrays = recipes.load_arrays(recipe, path)
    integers = {n: arrays[t.integers] for n, t in recipe.tensors.items() if t.integers}
    lowered = qdq.lower(
        onnx.load(pivot.path), required(recipe), digest=pivot.digest, integers=integers,
        arrays=arrays, dynamic=False, float_outputs=False,
    ).model  # fmt: skip
    return _Walk(lowered, recipe, inputs).run()


def from_tie(units):
    """Return how far values are from half-way between two integers."""
    return np.abs(units - np.floor(units) - 0.5)


class _Walk:
    def __init__(self, model, recipe, inputs):
        self.model, self.recipe = model, recipe
        self.values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.values |= inputs
        self.samples = set(inputs)
        self.singles = dict(self.values)  # the same in float32, from each pair on
        self.coded = {}  # by result of a DequantizeLinear: integers, scale
        self.found = Reference({}, {}, {}, {}, {rule: {} for rule in RULES}, 0.5)

    def run(self):
        margin = 0.5
        for node in self.model.graph.node:
            if node.op_type == "QuantizeLinear":
                margin = min(margin, self._quantize(node))
                continue
            if node.op_type == "DequantizeLinear":
                self._dequantize(node)
                continue
            arrays = [self.singles.get(name) for name in node.input]
            self.singles[node.output[0]] = _evaluate(node, arrays)
            if node.op_type in PRODUCTS and set(node.input[:2]) <= self.coded.keys():
                self._product(node)
            else:
                self._real(node)
        outputs = {v.name: np.float32(self.values[v.name]) for v in self.model.graph.output}
        return replace(self.found, outputs=outputs, margin=margin)

    def _quantize(self, node):
        """Store a value's integers; return how close to a tie a value came that is none."""
        source, scale, zero = (self.values[n] for n in node.input)
        name = node.input[0].removesuffix("/float")
        self._hold(name, scale, zero)
        if node.input[0] in self.samples:
            exact = (source / scale).astype(np.float64)
        else:
            exact = source / np.float64(scale)
        distance = from_tie(exact)
        ties = distance < TIE
        # Errors of float64 must not decide a tie.
        rounded = np.where(ties, np.rint(np.floor(exact) + 0.5), np.rint(exact)) + zero
        codes = _saturated(rounded)
        for rule, units in (
            ("float32", np.rint(self.singles[node.input[0]] / scale)),
            ("half up", np.where(ties, np.floor(exact) + 1, np.rint(exact))),
            ("half away", np.where(ties, _away(exact, 0), np.rint(exact))),
            ("half away, whole", np.where(ties, _away(exact, zero), np.rint(exact))),
        ):
            self.found.rules[rule][name] = _saturated(units + zero)
        self.found.integers[name] = self.values[node.output[0]] = codes
        self.found.numbers[name] = np.float32(scale), int(zero)
        self.found.units[name] = exact
        return float(distance[~ties].min(initial=0.5))

    def _dequantize(self, node):
        codes, scale = self.values[node.input[0]], self.values[node.input[1]]
        zero = self.values[node.input[2]] if len(node.input) > 2 else np.int8(0)
        self._hold(node.input[0].removesuffix("/int8").removesuffix("/int32"), scale, zero)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [1] * codes.ndim
        if scale.ndim:
            shape[axis] = -1
            scale, zero = scale.reshape(shape), np.reshape(zero, shape if zero.ndim else ())
        shifted = codes.astype(np.float64) - zero
        self.coded[node.output[0]] = shifted, scale.astype(np.float64)
        self.values[node.output[0]] = shifted * scale.astype(np.float64)
        self.singles[node.output[0]] = (codes.astype(np.float32) - np.float32(zero)) * scale

    def _hold(self, name, scale, zero):
        """Compare the numbers of a pair with those of the recipe."""
        tensors, layers = self.recipe.tensors, self.recipe.layers
        if name in tensors:
            wanted = np.float32(tensors[name].scale), tensors[name].zero_point
        elif name in layers:  # what a fused activation cuts has the numbers of what it yields
            like = tensors[layers[name].output]
            wanted = np.float32(like.scale), like.zero_point
        else:
            layer = layers[name.removesuffix("/bias")]
            read, weight = (np.float32(tensors[n].scale) for n in (layer.inputs[0], layer.weight))
            wanted = read * weight, 0
        if not np.array_equal(scale, wanted[0]) or not np.all(zero == wanted[1]):
            raise ValueError(f"{name!r} has {scale} and {zero} instead of {wanted} of the recipe")

    def _product(self, node):
        """Sum products of integers with the bias's, then multiply by both scales."""
        (left, left_scale), (right, right_scale) = (self.coded[n] for n in node.input[:2])
        arrays = [left, right]
        if len(node.input) > 2:
            arrays.append(self.coded[node.input[2]][0])
        sums = _evaluate(node, arrays)
        assert np.array_equal(sums, np.rint(sums))
        assert np.abs(sums).max(initial=0) < 2**31
        shape = [1] * sums.ndim
        shape[PRODUCTS[node.op_type]] = -1
        factor = left_scale.reshape(-1) * right_scale.reshape(-1)
        self.values[node.output[0]] = sums * factor.reshape(shape)

    def _real(self, node):
        arrays = [self.values.get(name) for name in node.input]
        result = _evaluate(node, [_double(a, n, node) for n, a in enumerate(arrays)])
        self.values[node.output[0]] = result


def _away(ties, zero):
    """Round numbers half-way between integers away from 0, counted with the zero point."""
    return np.floor(ties) + (ties + np.float64(zero) > 0)


def _saturated(codes):
    return np.clip(codes, -128, 127).astype(np.int8)


def _double(array, place, node):
    """Return floats in float64; but Resize takes its scales as float32."""
    if array is None or array.dtype != np.float32 or (node.op_type == "Resize" and place):
        return array
    return array.astype(np.float64)


def _evaluate(node, arrays):
    names = [f"i{n}" if a is not None else "" for n, a in enumerate(arrays)]
    single = helper.make_node(node.op_type, names, ["y"], domain=node.domain)
    single.attribute.extend(node.attribute)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
        if a is not None
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)
    graph = helper.make_graph([single], "one", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    feed = {n: a for n, a in zip(names, arrays, strict=True) if a is not None}
    (result,) = ReferenceEvaluator(model).run(None, feed)
    return result
