"""Faults put into packages: what numbers alone catch, what digests catch, and where they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lepton_core.artifacts import verify_artifact
from lepton_core.context import Context
from lepton_core.errors import LeptonError
from lepton_core.files import digest_path
from lepton_core.types import OpenRequest
from lepton_coreml import plugin
from lepton_coreml._interpreter import Interpreter, OperatorError
from lepton_coreml._mil._blob import BlobFile
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._write import MODEL, WEIGHTS
from lepton_coreml.locate import compare

OPEN = OpenRequest("coreml")
OTHER_KIND = {
    "relu": "silu", "max_pool": "avg_pool", "add": "sub", "mul": "add", "softmax": "sigmoid",
    "reduce_mean": "reduce_max", "reduce_sum": "reduce_mean", "greater": "greater_equal",
    "reduce_argmax": "reduce_argmin", "gather": "gather_along_axis", "less": "less_equal",
}  # fmt: skip


def block_of(message):
    function = message.mlProgram.functions["main"]
    return function.blocks[function.opset]


def graph_faults(package):
    """Yield names of faults with functions that put them into the messages."""
    operations = block_of(package.message()).operations
    for number, operation in enumerate(operations):
        if operation.type in OTHER_KIND:
            yield f"{operation.type} becomes {OTHER_KIND[operation.type]}", _kind(number)
        if operation.type == "const":
            tensor = operation.attributes["val"].immediateValue.tensor
            which = tensor.WhichOneof("kind")
            if which in ("ints", "floats", "bools") and getattr(tensor, which).values:
                yield f"{operation.outputs[0].name} is another number", _number(number, which)
            continue
        names = [k for k, a in operation.inputs.items() if len(a.arguments) == 1]
        for key in ("bias", "y", "x"):
            if key in names:
                yield f"{key} of {operation.outputs[0].name} is another value", _rewire(number, key)
                break
        if operation.outputs[0].type.tensorType.rank > 1:
            yield f"{operation.outputs[0].name} is declared with a size more", _declare(number)
    if len(block_of(package.message()).outputs) > 1:
        yield "the outputs are swapped", _swap_outputs


def _kind(number):
    def change(message):
        operation = block_of(message).operations[number]
        operation.type = OTHER_KIND[operation.type]

    return change


def _number(number, which):
    def change(message):
        held = getattr(
            block_of(message).operations[number].attributes["val"].immediateValue.tensor, which
        )
        if which == "bools":
            held.values[-1] = not held.values[-1]
        else:
            held.values[-1] = held.values[-1] + 1 if which == "ints" else held.values[-1] * 1.05

    return change


def _rewire(number, key):
    def change(message):
        block = block_of(message)
        binding = block.operations[number].inputs[key].arguments[0]
        made = [v.name for op in block.operations[:number] for v in op.outputs]
        others = [n for n in (*made, *(v.name for v in block.inputs)) if n != binding.name]
        binding.name = others[-1]

    return change


def _declare(number):
    def change(message):
        dims = block_of(message).operations[number].outputs[0].type.tensorType.dimensions
        fixed = next((d for d in reversed(dims) if d.WhichOneof("kind") == "constant"), None)
        if fixed is not None:
            fixed.constant.size += 1

    return change


def _swap_outputs(message):
    outputs = block_of(message).outputs
    outputs[0], outputs[1] = outputs[1], outputs[0]


BITS = {"lowest bit": 0, "high bit of the mantissa": 22, "bit of the exponent": 25, "sign": 31}


def weight_faults(package):
    """Yield names of faults with the place of the bit to turn."""
    message = package.message()
    blobs = BlobFile(Path(package.path) / WEIGHTS)
    rng = np.random.default_rng(3)
    for operation in block_of(message).operations:
        value = operation.attributes["val"] if operation.type == "const" else None
        if value is None or value.WhichOneof("kind") != "blobFileValue":
            continue
        kind, start, size = blobs.place(value.blobFileValue.offset)
        if kind != "fp32":
            continue
        for name, bit in BITS.items():
            place = start + 4 * int(rng.integers(size // 4)) + bit // 8
            yield f"{name} of {operation.outputs[0].name}", (place, bit % 8)


def injected(model, folder, fault):
    """Return a copy with a fault in it."""
    place = folder / "faulty.mlpackage"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(model.path, place)
    if callable(fault):
        package = open_package(place)
        message = package.message()
        fault(message)
        (place / MODEL).write_bytes(message.SerializeToString(deterministic=True))
    else:
        data = bytearray((place / WEIGHTS).read_bytes())
        data[fault[0]] ^= 1 << fault[1]
        (place / WEIGHTS).write_bytes(bytes(data))
    return place


def caught_by_numbers(place, inputs, wanted):
    """Tell whether running it shows the fault, by the limits of a fp32 verdict."""
    try:
        made = Interpreter(open_package(place).program()).run(inputs)
    except (LeptonError, OperatorError):
        return True
    for name, array in wanted.items():
        if made.get(name) is None or made[name].shape != array.shape:
            return True
        error = np.linalg.norm(made[name].astype("f8") - array)
        if not error <= 1e-4 * np.linalg.norm(array.astype("f8")):
            return True
    return False


def refused_by(model, place, context):
    """Return the codes with which the artifact's digest and a session refuse a package."""
    faulty = model.evolve(path=str(place))
    codes = []
    for attempt in (verify_artifact, lambda m: plugin.lepton_open(m, OPEN, context)):
        try:
            attempt(faulty)
        except LeptonError as error:
            codes.append(error.code)
    return codes


@pytest.fixture(scope="module")
def campaign(converted, feeds, tmp_path_factory):
    """Every fault in three packages: what caught it.

    Rows of graph, sort, fault, whether numbers and the comparison caught it, codes of digests.
    """
    folder = tmp_path_factory.mktemp("faults")
    rows = []
    for name in ("perceptron", "network", "tokens"):
        model = converted(name).model
        package = open_package(Path(model.path))
        clean = package.program()
        feed = feeds(name, 16)
        inputs = {
            f.name: a if a.dtype == np.float32 else a.astype(np.int32)
            for f, a in zip(clean.inputs, feed.values(), strict=True)
        }
        wanted = Interpreter(clean).run(inputs)
        for sort, faults in (("graph", graph_faults(package)), ("weight", weight_faults(package))):
            for text, fault in faults:
                place = injected(model, folder, fault)
                if digest_path(place) == model.digest:
                    continue  # the fault changed nothing
                numbers = caught_by_numbers(place, inputs, wanted)
                located = None
                try:
                    found = compare(place, model.path, inputs)
                    located = bool(found.operations or found.constants)
                except LeptonError:
                    located = True  # it cannot be read at all
                digests = refused_by(model, place, Context(folder))
                rows.append((name, sort, text, numbers, located, digests))
    return rows


def share(rows, column):
    return sum(row[column] for row in rows) / len(rows)


def test_digests_catch_every_fault_and_numbers_do_not(campaign, converted, record_property):
    assert len(campaign) >= 60
    weights = [row for row in campaign if row[1] == "weight"]
    graphs = [row for row in campaign if row[1] == "graph"]
    assert len(weights) >= 20
    assert len(graphs) >= 30
    text = (
        f"{len(graphs)} graph and {len(weights)} weight faults; numbers alone catch "
        f"{share(campaign, 3):.0%} ({share(graphs, 3):.0%} and {share(weights, 3):.0%}), the "
        f"comparison of programs {share(campaign, 4):.0%}, the artifact's digest "
        f"{sum('LPT-RUN-003' in row[5] for row in campaign)}, the weights' own digest "
        f"{sum('LPT-RUN-505' in row[5] for row in campaign)}"
    )
    record_property("faults", text)
    print(text)
    assert share(campaign, 4) == 1.0
    assert all("LPT-RUN-003" in row[5] for row in campaign)
    assert all("LPT-RUN-505" in row[5] for row in weights)
    assert not any("LPT-RUN-505" in row[5] for row in graphs)  # the graph has no digest inside
    assert share(campaign, 3) > 0.5
    assert share(weights, 3) < 1.0  # why numbers are not enough


def test_a_low_bit_passes_the_numbers_and_not_the_constants(campaign):
    low = [row for row in campaign if row[2].startswith("lowest bit")]
    assert low
    assert not any(row[3] for row in low)
    assert all(row[4] for row in low)


def test_the_first_bad_layer_is_found(converted, feeds, tmp_path):
    """A weight in the middle is changed: the layer that reads it is named, not the output."""
    model = converted("network").model
    clean = open_package(Path(model.path)).program()
    deep = next(
        op.inputs["weight"][0].name for op in clean.block.operations
        if op.kind == "conv" and op.inputs["weight"][0].name.endswith("deep_weight")
    )  # fmt: skip
    constant = next(c for n, c in clean.constants() if n == deep)
    start = BlobFile(Path(model.path) / WEIGHTS).place(constant.blob.offset)[1]
    place = injected(model, tmp_path, (start + 3, 6))
    feed = {"in_image": feeds("network")["in.image"]}
    found = compare(place, model.path, feed)
    assert found.constants == {deep: 1}
    assert found.operations == ()
    assert found.kind == "conv"
    made = next(op for op in clean.block.operations if op.name == found.first)
    assert made.inputs["weight"][0].name == deep
    assert found.error > 1e-3


def test_two_builds_of_one_pivot_do_not_differ(converted, feeds):
    package = converted("network").model.path
    feed = {"in_image": feeds("network")["in.image"]}
    found = compare(package, package, feed)
    assert not found.operations
    assert not found.constants
    assert not found.first
