"""Layers and networks against the recipe's integers: the results hold, and so does the page.

``.ci/same_integers.py`` wrote them. ``make conformance`` measures one network again.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lepton_core import recipe as recipes
from lepton_core.recipe import Layer, PivotId, Recipe, Tensor

FOLDER = Path(__file__).with_name("same_integers")
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "same-integers.md"
RESULTS = json.loads((FOLDER / "results.json").read_text())
SATURATING = "openvino, fast"
"""Its sums saturate on some CPUs, so that how far it is off depends on where it is measured."""
MEANS = ("AveragePool", "Resize")
"""Operators whose exact results are often ties."""
SLACK = 0.05
"""Share of integers of whole networks, and of ties, that may differ more than in the results, which
are of more digits."""


def module(name):
    if "same_integers" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "same_integers", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
        )
        sys.modules["same_integers"] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"same_integers.{name}")


def each(results, part="layers"):
    for network, found in results["networks"].items():
        for runtime, ways in found["runtimes"].items():
            for value, one in ways[part].items():
                yield (network, runtime, value), one


def broken(results, found):
    """Yield each claim of *results* that *found*, of some of their networks, does not hold."""
    for part in ("layers", "from_integers", "from_samples"):
        before = dict(each(results, part))
        for key, one in each(found, part):
            network, runtime, value = key
            if runtime == SATURATING:
                continue
            claimed, where = before[key], (part, *key)
            if one["off"] >= 1e-3:
                yield where, "it yields no integers"
            if one["differ"] / one["count"] > claimed["differ"] / claimed["count"] + SLACK:
                yield where, "more differ"
            if part != "layers":
                continue
            rounded, before_it = ((o["differ"] - o["ties"]) / o["count"] for o in (one, claimed))
            if rounded > 2 * before_it + 0.001:
                yield where, "more differ beside ties"
            if one["beyond"]:
                yield where, "more than one unit"
            if one["distance"] > module("page").SMALL:
                yield where, "no rounding error"
            if one["ties"] and found["networks"][network]["layers"][value]["operator"] not in MEANS:
                yield where, "ties"


def test_integers_are_compared_one_by_one():
    """One equal, one off by one at a tie, one off by two and more than saturated."""
    compare = module("measure").compare
    units = np.array([3.2, 4.5, 200.0])
    expected = np.array([13, 14, 127], np.int8)
    got = np.float32(0.25) * np.array([3, 5, 115], np.float32)
    rules = {"half up": np.array([13, 15, 125], np.int8), "float32": expected}
    one = compare(expected, units, got, np.float32(0.25), 10, rules)
    assert (one.count, one.differ, one.beyond, one.largest, one.up) == (3, 2, 1, 2, 1)
    assert (one.ties, one.distance, one.off) == (1, 84.5, 0.0)
    assert (one.rule, one.unexplained) == ("half up", 0)
    assert one.equal == pytest.approx(1 / 3)
    between = compare(expected, units, got + np.float32(0.1), np.float32(0.25), 10, rules)
    assert between.off == pytest.approx(0.4, abs=1e-4)
    unsaturated = np.float32(0.25) * np.array([3, 4, 500], np.float32)
    beyond = compare(expected, units, unsaturated, np.float32(0.25), 10, rules)
    assert (beyond.differ, beyond.beyond, beyond.largest, beyond.up) == (1, 1, 383, 1)
    with pytest.raises(ValueError, match="instead of"):
        compare(expected, units, got[:2], np.float32(0.25), 10, rules)
    with pytest.raises(ValueError, match="finite"):
        compare(expected, units, got * np.float32(np.inf), np.float32(0.25), 10, rules)


@pytest.mark.parametrize(
    ("unit", "integer", "runtime", "ties", "distance"),
    [
        (3.49, 3, 2, 0, 0.99),  # a wrong number, however close the tie above is
        (3.49, 3, 4, 0, 0.01),
        (4.5, 4, 5, 1, 0.0),
        (4.5, 4, 3, 0, 1.0),
        (4.5, 4, 6, 0, 1.0),
        (140.0, 117, 116, 0, 23.5),  # saturated; 117 is the last integer above the zero point 10
    ],
)
def test_distances_are_from_the_tie_that_was_crossed(unit, integer, runtime, ties, distance):
    one = module("measure").compare(
        np.array([integer + 10], np.int8), np.array([unit]), np.float32([runtime * 0.25]),
        np.float32(0.25), 10, {},
    )  # fmt: skip
    assert (one.ties, one.distance) == (ties, pytest.approx(distance))


SAMPLES = np.float32([[1, 2.25], [0.25, -1], [0.5, 0.5], [100, -100]])
"""At a scale of 0.5 the second and the third number are ties, and the last two saturate."""


@pytest.fixture
def gemm(tmp_path):
    """Return a function that writes a Gemm and its recipe, and computes the reference."""
    weight, bias = np.float32([[1, -0.5], [0.25, 0.75]]), np.float32([0.5, -0.25])
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 2]) for n in "xy"]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([node], "gemm", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.save(model, tmp_path / "gemm.onnx")
    pivot = SimpleNamespace(path=tmp_path / "gemm.onnx", digest="sha256:0")

    def compute(integers=None):
        tensors = {
            "x": Tensor("activation", 0.5, 2),
            "w": Tensor("weight", (0.25, 0.125), axis=0, integers="w" if integers else None),
            "y": Tensor("activation", 0.5, -3, optional=True),
        }
        layers = {"y": Layer("Gemm", "y", ("x",), "w", "b")}
        recipe = Recipe(PivotId(pivot.digest, 21), "int8-static", tensors, layers)
        path = recipes.write(recipe, tmp_path / "recipe.json", integers=integers)
        return module("reference").compute(pivot, path, {"x": SAMPLES})

    return compute


def test_the_reference_is_what_one_computes_by_hand(gemm):
    """Weights are [[4, -2], [2, 6]], the bias is [4, -4], and ties go to the even integer."""
    found = gemm()
    assert found.integers["x"].tolist() == [[4, 6], [2, 0], [3, 3], [127, -128]]
    assert found.units["y"].tolist() == [[1, 3], [2, -2], [1.5, 0.5], [191, -66.75]]
    assert found.integers["y"].tolist() == [[-2, 0], [-1, -5], [-1, -3], [127, -70]]
    assert found.rules["half up"]["y"].tolist() == [[-2, 0], [-1, -5], [-1, -2], [127, -70]]
    assert found.outputs["y"][0].tolist() == [0.5, 1.5]
    assert found.margin == 0.25


def test_the_reference_takes_the_integers_of_the_sidecar(gemm):
    found = gemm({"w": np.array([[5, -2], [2, 6]], np.int8)})
    assert found.units["y"][:2].tolist() == [[1.5, 3], [2, -2]]


@pytest.mark.parametrize("name", ["x/scale", "w/scale", "y/zero_point", "y/bias/scale"])
def test_the_reference_refuses_pairs_of_other_numbers_than_the_recipe(gemm, monkeypatch, name):
    """They are written by the code that lowers for the runtimes, and it may err for all alike."""
    qdq = module("reference").qdq
    lower = qdq.lower

    def other(*args, **options):
        lowered = lower(*args, **options)
        (found,) = (t for t in lowered.model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(found)
        found.CopyFrom(numpy_helper.from_array(array + array.dtype.type(1), name))
        return lowered

    monkeypatch.setattr(qdq, "lower", other)
    with pytest.raises(ValueError, match="of the recipe"):
        gemm()


def test_layers_of_one_file_do_not_read_each_other():
    def layer(output, *inputs):
        return SimpleNamespace(output=output, inputs=inputs)

    layers = [layer("a", "x"), layer("b", "a"), layer("c", "b"), layer("d", "a", "c")]
    groups = [[one.output for one in group] for group in module("measure").apart(layers)]
    assert groups == [["a", "c"], ["b", "d"]]


def test_shares_are_rounded_down():
    share = module("page").share
    assert share(0, 7) == "100.0000 %"
    assert share(1, 10**9) == "99.9999 %"


def test_the_page_shows_the_results():
    text = PAGE.read_text()
    assert module("page").filled(text, RESULTS) == text, "run .ci/same_integers.py --page"


def test_every_runtime_rounded_to_integers_where_the_results_count_them():
    for part in ("layers", "from_integers", "from_samples"):
        odd = {key: one["off"] for key, one in each(RESULTS, part) if one["off"] > 1e-3}
        assert not odd, part


def test_no_layer_is_off_by_more_than_one_unit():
    off = {key for key, one in each(RESULTS) if one["beyond"]}
    assert {runtime for _, runtime, _ in off} <= {SATURATING}


def test_layers_that_differ_more_do_so_in_or_next_to_ties():
    """Whatever is below 99.9 % has a reason on the page."""
    below = {key: one for key, one in each(RESULTS) if one["differ"] > 0.001 * one["count"]}
    odd = [
        key for key, one in below.items()
        if one["distance"] > module("page").SMALL and key[1] != SATURATING
    ]  # fmt: skip
    assert not odd


@pytest.mark.parametrize(
    ("part", "value", "changes", "why"),
    [
        ("layers", "relu_2", {"differ": 8000, "distance": 1e-5}, "more differ beside ties"),
        ("layers", "relu_2", {"differ": 1, "distance": 0.4}, "no rounding error"),
        ("layers", "relu_2", {"differ": 1, "ties": 1}, "ties"),
        ("layers", "relu_2", {"differ": 1, "beyond": 1, "largest": 2}, "more than one unit"),
        ("layers", "avg_pool2d", {"differ": 9000, "ties": 9000}, "more differ"),
        ("from_samples", "relu_3", {"differ": 4000}, "more differ"),
        ("from_samples", "relu_3", {"off": 0.3}, "it yields no integers"),
    ],
)
def test_worse_results_do_not_hold(part, value, changes, why):
    assert list(broken(RESULTS, RESULTS)) == []
    worse = copy.deepcopy(RESULTS)
    worse["networks"]["cnn"]["runtimes"]["onnxruntime"][part][value] |= changes
    where = (part, "cnn", "onnxruntime", value)
    assert list(broken(RESULTS, worse)) == [(where, why)]


def test_only_means_tie_in_the_results():
    operators = {n: found["layers"] for n, found in RESULTS["networks"].items()}
    tied = {
        operators[network][value]["operator"]
        for (network, runtime, value), one in each(RESULTS)
        if one["ties"] and runtime != SATURATING
    }
    assert tied <= set(MEANS)


def test_means_that_are_products_are_the_same_on_every_runtime():
    """No tie is left, and nothing that a session computes by default is below 99.9 %."""
    networks = [name for name in RESULTS["networks"] if name.endswith("products")]
    assert len(networks) == 2
    for name in networks:
        assert not any(layer["ties"] for layer in RESULTS["networks"][name]["layers"].values())
    for (network, runtime, value), one in each(RESULTS):
        if network in networks and runtime not in (SATURATING, "tflite, own kernels"):
            assert one["differ"] <= 0.001 * one["count"], (network, runtime, value)


@pytest.mark.conformance
@pytest.mark.timeout(1800)
def test_the_results_hold_where_they_are_measured_again(tmp_path):
    found = module("campaign").results(tmp_path, ["cnn"], rows=100)
    for part in ("layers", "from_integers", "from_samples"):
        claimed = {key for key, _ in each(RESULTS, part) if key[0] == "cnn"}
        assert {key for key, _ in each(found, part)} == claimed
    assert list(broken(RESULTS, found)) == []
    agree = found["networks"]["cnn"]["agree"]
    assert all(count >= 95 for pair, count in agree.items() if SATURATING not in pair), agree
