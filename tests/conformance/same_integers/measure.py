"""Each layer alone on integers of the reference, and whole networks, on each runtime."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import onnx

from lepton_core import recipe as recipes
from lepton_core.bisecting._plan import FED, recipe_for
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_onnx._signature import signature
from lepton_onnx.external import digest

from .reference import TIE, required

BATCH = 64

RUNTIMES = {
    "onnxruntime": {"onnxruntime": {}},
    "openvino": {"openvino": {}, "openvino, fast": {"integer_products": "fast"}},
    "tflite": {"tflite": {}, "tflite, own kernels": {"xnnpack": False}},
    "coreml": {"coreml": {}},
}
"""By target: names that results have, and the options that its file is opened with for them."""


@dataclass(frozen=True)
class Difference:
    """Integers of a runtime held against the reference's.

    Attributes:
        count: How many integers there are.
        differ: How many differ.
        beyond: How many differ by more than one unit.
        largest: By how many units they differ at most.
        up: How many of those that differ are larger than the reference's.
        ties: How many of those that differ are a tie in the reference, and its other side here.
        distance: Largest distance of one that differs from the last tie on the way to the runtime's
            integer, in units before rounding: what its arithmetic is wrong by, at least.
        off: Largest distance of a runtime's value from an integer. What it yields is float; where
            that is no integer times the scale, it did not round there. 0 for what it computes in
            float, which is rounded here.
        rule: Of :data:`.reference.RULES` and ``"recipe"``: the one whose integers are closest.
        unexplained: How many integers differ from those of this rule.
    """

    count: int
    differ: int
    beyond: int
    largest: int
    up: int
    ties: int
    distance: float
    off: float
    rule: str
    unexplained: int

    @property
    def equal(self):
        """Share of equal integers."""
        return 1 - self.differ / self.count


def compare(expected, units, got, scale, zero, others):
    """Return how a runtime's integers differ from the reference's.

    Args:
        expected: int8 of the reference.
        units: float64 of the reference before rounding and without the zero point.
        got: float32 of the runtime, of the same shape.
        scale: Scale of the value.
        zero: Its zero point.
        others: int8 of other rules by their names.

    Raises:
        ValueError: The shapes differ, or the runtime's values are not finite.
    """
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise ValueError(f"{got.shape} instead of {expected.shape}, or not finite")
    found = got.astype(np.float64) / np.float64(scale) + zero
    nearest = np.rint(found)
    delta = nearest - expected  # in float64: what did not saturate may be any number
    left = {"recipe": int((delta != 0).sum())}
    left |= {rule: int((nearest != integers).sum()) for rule, integers in others.items()}
    rule = min(left, key=left.__getitem__)
    parted = delta != 0
    crossed = (nearest - np.float64(zero) - 0.5 * np.sign(delta))[parted]
    distances = np.abs(units[parted] - crossed)
    return Difference(
        delta.size, int(parted.sum()), int((np.abs(delta) > 1).sum()),
        int(np.abs(delta).max(initial=0)), int((delta > 0).sum()),
        int((distances < TIE).sum()), float(distances.max(initial=0.0)),
        float(np.abs(found - nearest).max(initial=0.0)), rule, left[rule],
    )  # fmt: skip


def unjudged(target):
    """Let a part be converted whatever normal inputs give; for LiteRT, in this process.

    A layer alone may map them to a few integers around 0, of which one unit is more than a file may
    be off by. Here every integer is compared, on inputs that a network has.
    """
    if target != "tflite":
        return contextlib.nullcontext()
    return mock.patch("lepton_tflite._convert.LIMIT", math.inf)


@dataclass(frozen=True)
class Yield:
    """One quantized value, and what it follows from.

    Attributes:
        output: The value.
        op: Type of the operator that yields it; of the first of those that are fused.
        inputs: Quantized values that it follows from, with none in between.
    """

    output: str
    op: str
    inputs: tuple[str, ...]


def yields(recipe, model):
    """Return the quantized values that a network computes, those of float operators too.

    Args:
        recipe: The recipe.
        model: ``ModelProto`` of the pivot.
    """
    producer = {name: node for node in model.graph.node for name in node.output}
    own = {layer.output: layer for layer in recipe.layers.values()}
    found = []
    for name, entry in recipe.tensors.items():
        if entry.kind != "activation" or name not in producer:
            continue
        if name in own:
            found.append(Yield(name, own[name].op, own[name].inputs))
            continue
        inputs, ahead = [], list(producer[name].input)
        while ahead:
            value = ahead.pop(0)
            if value in recipe.tensors:
                inputs.append(value)
            elif value in producer:
                ahead += producer[value].input
        found.append(Yield(name, producer[name].op_type, tuple(dict.fromkeys(inputs))))
    return found


def apart(layers):
    """Divide layers into groups in which none reads what another yields."""
    groups = []
    for layer in layers:
        for group in groups:
            yields = {one.output for one in group}
            reads = {name for one in group for name in one.inputs}
            if not yields & set(layer.inputs) and layer.output not in reads:
                group.append(layer)
                break
        else:
            groups.append([layer])
    return groups


class Bench:
    """Lowers parts of one network for one target, and runs them.

    Args:
        prepared: The network.
        reference: What its recipe computes on the held-out digits.
        target: Of :data:`RUNTIMES`.
        hooks: Calls the plugins.
        folder: Where files go.
    """

    def __init__(self, prepared, reference, target, hooks, folder):
        self.prepared, self.reference, self.hooks, self.folder = prepared, reference, hooks, folder
        self.target = target
        self.recipe = recipes.read(prepared.recipe)
        self.arrays = recipes.load_arrays(self.recipe, prepared.recipe)
        (self.input,) = (spec.name for spec in prepared.pivot.signature.inputs)
        self.yields = yields(self.recipe, onnx.load(prepared.pivot.path))
        self.facts = {}
        self.integer_ops = set()
        self._layers = {layer.output for layer in self.recipe.layers.values()}
        self._number = 0

    # --- each layer alone ---------------------------------------------------------------------

    def layers(self):
        """Return the difference of each layer that is fed the reference's integers.

        Layers are lowered by their part of the recipe, each with inputs of its own, to files in
        which none reads what another yields. What the target computes in float is rounded as the
        pair behind it does.

        Returns:
            By name of :data:`RUNTIMES`, then by the value that the layer yields.
        """
        found = {name: {} for name in RUNTIMES[self.target]}
        for group in apart(self.yields):
            for name, outputs in self._group([one.output for one in group]).items():
                found[name] |= {one.output: self._compare(one, outputs) for one in group}
        return found

    def floats(self):
        """Return the values that the target computes in float, as its files so far say."""
        return [one.output for one in self.yields if self._is_float(one)]

    def _is_float(self, one):
        return one.output not in self._layers or one.op not in self.integer_ops

    def _group(self, outputs):
        cuts = [n for n in self.reference.integers if n in self.recipe.tensors and n != self.input]
        pivot, names = self._pivot({"taps": outputs, "cuts": cuts})
        part = recipe_for(required(self.recipe), pivot.digest, names, cuts)
        feed = {f"{name}{FED}": self.reference.real(name) for name in cuts}
        feed[self.input] = self.reference.real(self.input)
        with unjudged(self.target):
            here = Hooks(self.hooks.registry) if self.target == "tflite" else self.hooks
            made = self._made(pivot, part, here)
        return self._opened(made, feed)

    # --- whole networks -----------------------------------------------------------------------

    def whole(self, *samples):
        """Return the difference of each value when the network runs on its own.

        Values that only float operators read are left out: they are no integers there.

        Args:
            samples: What it is given, one after the other.

        Returns:
            For each of *samples*: by name of :data:`RUNTIMES`, then by value.
        """
        kept = [one for one in self.yields if not self.recipe.tensors[one.output].optional]
        pivot, _ = self._pivot({"taps": [one.output for one in kept]})
        own = replace(self.recipe, pivot=replace(self.recipe.pivot, digest=pivot.digest))
        made = self._made(pivot, own)
        return [
            {
                name: {one.output: self._compare(one, outputs) for one in kept}
                for name, outputs in self._opened(made, {self.input: sample}).items()
            }
            for sample in samples
        ]

    def outputs(self):
        """Return what the network gives out as it is deployed: float32 (rows, classes)."""
        made = self._made(self.prepared.pivot, self.recipe)
        found = self._opened(made, {self.input: self.prepared.held})
        return {name: next(iter(outputs.values())) for name, outputs in found.items()}

    # --- lowering and running -----------------------------------------------------------------

    def _compare(self, one, outputs):
        name, got = one.output, outputs[one.output]
        scale, zero = self.reference.numbers[name]
        if self._is_float(one):
            codes = np.clip(np.rint(got / scale) + zero, -128, 127)
            got = scale * np.float32(codes - zero)
        others = {rule: found[name] for rule, found in self.reference.rules.items()}
        units, integers = self.reference.units[name], self.reference.integers[name]
        return compare(integers, units, got, scale, zero, others)

    def _pivot(self, options):
        request = ConvertRequest(self.target, to_format="pivot", options=options)
        source = self.prepared.pivot.evolve(format="onnx")
        made = self.hooks.convert(source, request, self._place())
        model = onnx.load(made.model.path)
        for value in model.graph.input:  # what is fed has as many rows as the samples have
            value.type.tensor_type.shape.dim[0].dim_param = "rows"
        onnx.save(model, made.model.path)
        path = made.model.path
        return replace(made.model, signature=signature(path), digest=digest(path)), made.facts[
            "names"
        ]

    def _made(self, pivot, recipe, hooks=None):
        place = self._place()
        path = recipes.write(recipe, place.workdir / "recipe.json", integers=self.arrays)
        request = ConvertRequest(self.target, recipe=str(path))
        made = (hooks or self.hooks).convert(pivot, request, self._place())
        self.integer_ops = set(made.facts["integer_layers"])
        return made.model

    def _opened(self, model, feed):
        """Return the outputs by name of :data:`RUNTIMES`."""
        return {
            name: self._run(name, model, options, feed)
            for name, options in RUNTIMES[self.target].items()
        }

    def _run(self, name, model, options, feed):
        opening = OpenRequest(self.target, threads=2, options=options)
        parts = []
        with self.hooks.open(model, opening, self._place()) as session:
            takes = [spec.name for spec in session.signature.inputs]
            fixed = session.signature.inputs[0].shape[0]
            batch = fixed if isinstance(fixed, int) else BATCH  # a .tflite may take one row
            for start in range(0, len(self.prepared.held), batch):
                rows = slice(start, start + batch)
                parts.append(session.run({name: feed[name][rows] for name in takes}))
            self.facts[name] = session.facts.get("integers", "")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _place(self):
        self._number += 1
        place = self.folder / f"{self._number:02d}"
        place.mkdir(parents=True)
        return Context(place, hooks=self.hooks)
