"""Asking the runtime what it loads: small copies on real runtimes, and what a refusal leads to."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from lepton_compress import _probe
from lepton_compress._graph import Graph
from lepton_compress._job import Job
from lepton_compress._options import read_options
from lepton_compress._plan import _is_asked, planned, without_refused
from lepton_compress._probe import Prober
from lepton_compress._probe_graph import key_of_operator, small_model, small_recipe
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError, PluginDependencyError, SessionError
from lepton_core.types import OptimizeRequest, Target
from lepton_onnx import pivot


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def job_of(base, context, target="onnxruntime", precision="int8", **options):
    graph = Graph(pivot.load(base.path))
    request = OptimizeRequest(target, precision=precision)
    return Job(graph, base, request, read_options(options, precision), context, context)


def many(graphs):
    """Grouped, transposed and plain convolutions, pooling, sums, a table and two products."""
    node, rand = graphs.node, graphs.rand
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], pads=[1, 1, 1, 1], group=4),
        node("Relu", ["a"], ["r"]),
        node("ConvTranspose", ["r", "w2", "b2"], ["t"], strides=[2, 2], group=2),
        node("MaxPool", ["t"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w3"], ["c"], pads=[1, 1, 1, 1]), node("Add", ["c", "p"], ["s"]),
        node("Clip", ["s", "low", "high"], ["k"]), node("Flatten", ["k"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["g"], transB=1), node("MatMul", ["g", "w5"], ["m"]),
        node("Add", ["m", "b5"], ["y"]),
    ]  # fmt: skip
    weights = {
        "w1": rand(16, 2, 3, 3), "b1": rand(16), "w2": rand(16, 12, 2, 2), "b2": rand(24),
        "w3": rand(24, 24, 3, 3), "low": np.float32(0), "high": np.float32(6),
        "w4": rand(64, 24 * 16 * 16), "b4": rand(64), "w5": rand(64, 72), "b5": rand(72),
    }  # fmt: skip
    return graphs.build(nodes, weights, shape=("n", 8, 16, 16))


@pytest.mark.parametrize(
    ("target", "precision", "options", "layers"),
    [
        ("onnxruntime", "int8", {}, 7), ("onnxruntime", "int16", {}, 7),
        ("onnxruntime", "int8", {"scheme": "dynamic"}, 5), ("onnxruntime", "int4", {}, 2),
        ("onnxruntime", "int8-weight", {"symmetric": "no"}, 2),
        pytest.param("openvino", "int8", {}, 7, marks=pytest.mark.conformance),
        # OpenVINO 2026.4 refuses a pooling of 16 bits alone, and loads it where it will stand.
        ("openvino", "int16", {}, 7),
        ("onnxruntime", "palette", {"palette": 3, "sparsity": 0.5}, 3),
        ("onnxruntime", "sparse", {"sparsity": 0.6}, 3),
    ],
)  # fmt: skip
def test_a_runtime_loads_a_small_copy_of_each_kind(
    graphs, context, target, precision, options, layers
):
    job = job_of(many(graphs), context, target, precision, **options)
    wanted = planned(job, sampled=True)
    assert len(wanted) >= layers
    made = without_refused(job, sampled=True)
    facts = made.probers[0].facts()
    assert facts["refused"] == []
    assert facts["asked"] >= min(layers, 2)
    assert facts["known"] == 0
    assert facts["runtime"].startswith(target)
    assert made.options.keep == job.options.keep
    assert not [*Path(context.workdir).glob("probe-*/*")], "nothing is left behind"


def test_small_copies_are_small_and_like_the_real_ones(graphs, context):
    job = job_of(many(graphs), context)
    wanted = planned(job, sampled=True)
    model, own = small_model(job.graph, wanted)
    onnx.checker.check_model(model, full_check=True)
    assert sum(np.prod(t.dims) for t in model.graph.initializer) < 60_000
    assert len(own) == len(wanted)
    small = Graph(model)
    real = {key_of_operator(job.graph, one, job.options) for one in wanted}
    assert {key_of_operator(small, one, job.options) for one in own} == real
    recipe, _ = small_recipe(model, own, "sha256:0", 21, job.options)
    assert set(recipe.layers) == {one.name for one in own}
    for one, copy in zip(wanted, own, strict=True):
        layer = recipe.layers[copy.name]
        assert (layer.op, layer.mode, len(layer.fused)) == (
            one.layer.op, one.layer.mode, len(one.layer.fused)
        )  # fmt: skip
        if layer.inputs:
            assert recipe.tensors[layer.output].optional == one.optional


def test_answers_are_kept_for_one_version_of_the_runtime(graphs, context_of, monkeypatch):
    base = many(graphs)

    def ask(name):
        return without_refused(job_of(base, context_of(name)), sampled=True).probers[0].facts()

    first = ask("first")
    again = ask("again")
    assert (again["asked"], again["known"]) == (first["asked"], first["asked"])
    real = _probe.versions_of
    monkeypatch.setattr(
        _probe, "versions_of", lambda *names: {n: f"{v}.1" for n, v in real(*names).items()}
    )
    newer = ask("newer")
    assert newer["known"] == 0
    assert newer["runtime"] == f"{first['runtime']}.1"


class Picky:
    """Hooks of a runtime that lacks a kernel: it refuses models in which an operator has integers.

    Args:
        hooks: Everything else.
        ops: Operators without integer kernels.
        always: Refuse them in float as well.
    """

    def __init__(self, hooks, ops, *, always=False):
        self._hooks, self._ops, self._always = hooks, set(ops), always
        self.opened = itertools.count()

    def __getattr__(self, name):
        return getattr(self._hooks, name)

    def open(self, model, request, context):
        next(self.opened)
        graph = onnx.load(model.path).graph
        made = {name: node.op_type for node in graph.node for name in node.output}
        for node in graph.node:
            integer = any(made.get(name) == "DequantizeLinear" for name in node.input)
            if node.op_type in self._ops and (integer or self._always):
                raise SessionError(
                    "LPT-RUN-001", "The model does not load",
                    cause=f"NOT_IMPLEMENTED: no kernel of {node.op_type}",
                )  # fmt: skip
        return self._hooks.open(model, request, context)


@pytest.fixture
def samples(tmp_path):
    path = tmp_path / "rows.npz"
    rows = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.savez(path, x=rows)
    return str(path)


def small_cnn(graphs):
    node, rand = graphs.node, graphs.rand
    nodes = [
        node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]), node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": rand(8, 3, 3, 3), "w2": rand(512, 64), "b2": rand(64)}
    return graphs.build(nodes, weights, shape=("n", 3, 8, 8))


def picky(context, *ops, always=False):
    return replace(context, hooks=Picky(context.hooks, ops, always=always))


def test_what_is_refused_stays_float_with_the_reason(graphs, samples, context):
    from lepton_compress._optimize import optimize

    asked = OptimizeRequest("onnxruntime", samples=samples, timing_seconds=0.0)
    made = optimize(small_cnn(graphs), asked, picky(context, "Conv"))
    recipe = recipes.read(made.recipe)
    assert {layer.op for layer in recipe.layers.values()} == {"Gemm"}
    (refused,) = made.facts["loads"]["refused"]
    version = made.facts["loads"]["runtime"]
    name = refused["layers"][0]
    assert recipe.kept_float[name] == (
        f"{version} does not load Conv with int8 inputs and int8 weights: "
        "NOT_IMPLEMENTED: no kernel of Conv"
    )
    warned = " ".join(made.warnings)
    assert repr(name) in warned
    assert version in warned


def test_nothing_is_written_where_everything_is_refused(graphs, samples, context):
    from lepton_compress._optimize import optimize

    asked = OptimizeRequest("onnxruntime", samples=samples, timing_seconds=0.0)
    with pytest.raises(OptimizeError) as failed:
        optimize(small_cnn(graphs), asked, picky(context, "Gemm", "Conv"))
    assert failed.value.code == "LPT-OPT-040"
    assert "int8" in failed.value.cause
    assert "another version" in failed.value.remedy
    assert not [*Path(context.workdir).iterdir()]


def test_what_float_is_refused_for_says_nothing_about_integers(graphs, context):
    job = job_of(small_cnn(graphs), picky(context, "Conv", always=True))
    made = without_refused(job, sampled=True)
    assert made.probers[0].facts()["refused"] == []
    assert made.options.keep == ()


def test_many_kinds_are_halved_not_asked_one_by_one(graphs, context):
    job = job_of(many(graphs), picky(context, "MaxPool"))
    prober = Prober(job)
    wanted = planned(job, sampled=True)
    (refused,) = prober.ask(wanted)
    assert refused.op == "MaxPool"
    kinds = prober.asked
    assert kinds >= 7
    assert next(job.context.hooks.opened) <= 3 + 2 * int(np.ceil(np.log2(kinds)))


class Placed(Picky):
    """Hooks of a runtime that loads an operator's integers only behind another operator."""

    def open(self, model, request, context):
        graph = onnx.load(model.path).graph
        made = {name: node for node in graph.node for name in node.output}
        inputs = {value.name for value in graph.input}

        def source(name):
            node = made.get(name)
            moves = node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear")
            return source(node.input[0]) if moves else name

        for node in graph.node:
            first = made.get(node.input[0])
            integer = first is not None and first.op_type == "DequantizeLinear"
            if node.op_type in self._ops and integer and source(node.input[0]) in inputs:
                raise SessionError("LPT-RUN-001", "The model does not load", cause="alone")
        return self._hooks.open(model, request, context)


def pooled(graphs, *, first):
    """A pooling of the input, if *first*, and one behind a convolution."""
    node, rand = graphs.node, graphs.rand
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes = [node("MaxPool", ["x"], ["early"], **pool)] if first else []
    nodes += [
        node("Conv", ["early" if first else "x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        node("MaxPool", ["c"], ["late"], **pool), node("Conv", ["late", "w2"], ["y"]),
    ]  # fmt: skip
    weights = {"w1": rand(8, 3, 3, 3), "w2": rand(8, 8, 1, 1)}
    return graphs.build(nodes, weights, shape=("n", 3, 8, 8))


def test_what_loads_among_its_neighbours_is_asked_for_each_place(graphs, context_of):
    def refused(name, *, first):
        context = context_of(name)
        context = replace(context, hooks=Placed(context.hooks, ["MaxPool"]))
        prober = Prober(job_of(pooled(graphs, first=first), context))
        found = prober.ask(planned(prober._job, sampled=True))
        return [n for one in found for n in one.names]

    assert refused("behind", first=False) == []
    assert refused("both", first=True) == ["early"]


def test_a_search_leaves_the_precision_out_for_units_that_refuse_it(graphs, samples, context):
    from lepton_compress._optimize import optimize

    asked = OptimizeRequest(
        "onnxruntime", precision="mixed", samples=samples, options={"analyse": True, "rows": 16},
    )  # fmt: skip
    made = optimize(small_cnn(graphs), asked, picky(context, "Conv"))
    choices = {u["op"]: u["choices"] for u in made.facts["sensitivity"]["units"]}
    assert "int8" not in choices.get("Conv", [])
    assert "int8" in choices["Gemm"]
    assert any("does not load Conv" in text for text in made.warnings)


class Lacking:
    """Hooks that tell two targets of one runtime apart: one of them refuses operators.

    Args:
        hooks: Everything else.
        target: The target that refuses.
        refuses: Tells of a model whether it is refused.
    """

    def __init__(self, hooks, target, refuses):
        self._hooks, self._target, self._refuses = hooks, target, refuses
        self.asked = []

    def __getattr__(self, name):
        return getattr(self._hooks, name)

    def open(self, model, request, context):
        self.asked.append(str(request.target))
        if request.target == self._target and self._refuses(model):
            raise SessionError("LPT-RUN-001", "The model does not load", cause="no kernel here")
        return self._hooks.open(model, request, context)


def integer_convolutions(model):
    """Tell whether an IR of OpenVINO has a convolution behind a FakeQuantize."""
    text = Path(model.path).read_text()
    return 'type="Convolution"' in text and 'type="FakeQuantize"' in text


def shared(graphs, samples, context, target, refuses, **more):
    from lepton_compress._optimize import optimize

    pytest.importorskip("lepton_openvino")
    hooks = Lacking(context.hooks, target, refuses)
    request = OptimizeRequest(
        "onnxruntime", samples=samples, shared_with=("openvino",), timing_seconds=0.0,
        options={"recipe_only": True, **more},
    )  # fmt: skip
    return optimize(small_cnn(graphs), request, replace(context, hooks=hooks)), hooks


def test_what_one_target_of_a_shared_recipe_refuses_stays_float_for_all(graphs, samples, context):
    made, hooks = shared(graphs, samples, context, "openvino", integer_convolutions, ask="quick")
    assert {"onnxruntime", "openvino"} <= set(hooks.asked)
    recipe = recipes.read(made.recipe)
    assert "Conv" not in {layer.op for layer in recipe.layers.values()}
    why = recipe.kept_float["c"]
    assert why.startswith("openvino shares the recipe, and openvino ")
    assert "does not load Conv with int8 inputs and int8 weights" in why
    (refused,) = made.facts["loads"]["refused"]
    assert refused["target"] == "openvino"
    assert ";" in made.facts["loads"]["runtime"]
    assert any("openvino shares the recipe" in text for text in made.warnings)


def test_a_target_that_takes_nothing_is_no_reason_to_have_no_recipe(graphs, samples, context):
    made, _ = shared(
        graphs, samples, context, "openvino",
        lambda model: 'type="FakeQuantize"' in Path(model.path).read_text(), ask="quick",
    )  # fmt: skip
    recipe = recipes.read(made.recipe)
    assert {"Conv", "Gemm"} <= {layer.op for layer in recipe.layers.values()}
    assert not recipe.kept_float


def test_a_target_that_cannot_be_asked_is_passed_over(graphs, samples, context):
    """Its converter may not be installed; it says so when it lowers the recipe."""

    def broken(model):
        raise PluginDependencyError("LPT-PLUG-002", "It is not installed", remedy="Install it.")

    made, hooks = shared(graphs, samples, context, "openvino", broken, ask="quick")
    assert "openvino" in hooks.asked
    assert not recipes.read(made.recipe).kept_float


def test_who_lowers_a_recipe_himself_is_asked_only_if_he_says_so(graphs, samples, context):
    made, hooks = shared(graphs, samples, context, "openvino", integer_convolutions)
    assert "openvino" not in hooks.asked
    assert "loads" not in made.facts
    assert not recipes.read(made.recipe).kept_float


@pytest.mark.parametrize(
    ("ask", "targets"),
    [("all", ["onnxruntime", "openvino", "tflite"]), ("quick", ["onnxruntime", "openvino"]),
     ("no", []), ("", [])],
)  # fmt: skip
def test_slow_converters_are_asked_only_by_name(graphs, context, ask, targets):
    pytest.importorskip("lepton_tflite")
    job = job_of(small_cnn(graphs), context)
    request = replace(job.request, shared_with=("openvino", "tflite"))
    options = read_options({"recipe_only": True, **({"ask": ask} if ask else {})}, "int8")
    job = replace(job, request=request, options=options)
    every = [Target("onnxruntime"), Target("openvino"), Target("tflite")]
    assert [t.id for t in every if _is_asked(job, t)] == targets
    with pytest.raises(OptimizeError):
        read_options({"ask": "some"}, "int8")


def test_weights_that_stay_float_are_asked_for_as_well(graphs, context_of):
    from lepton_compress._optimize import optimize

    class Plain(Picky):
        """Refuses tables in front of an operator."""

        def open(self, model, request, context):
            graph = onnx.load(model.path).graph
            made = {name: node.op_type for node in graph.node for name in node.output}
            for node in graph.node:
                if node.op_type in self._ops and any(made.get(n) for n in node.input[1:]):
                    raise SessionError("LPT-RUN-001", "It does not load", cause="no tables here")
            return self._hooks.open(model, request, context)

    asked = OptimizeRequest(
        "onnxruntime", precision="palette", options={"palette": 3}, timing_seconds=0.0
    )
    node, rand = graphs.node, graphs.rand
    base = graphs.build(
        [node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]), node("Flatten", ["c"], ["f"]),
         node("Gemm", ["f", "w2"], ["y"])],
        {"w1": rand(64, 3, 3, 3), "w2": rand(4096, 64)}, shape=("n", 3, 8, 8),
    )  # fmt: skip
    context = context_of("one")
    with pytest.raises(OptimizeError) as failed:
        optimize(base, asked, replace(context, hooks=Plain(context.hooks, ["Conv", "Gemm"])))
    assert failed.value.code == "LPT-OPT-040"
    context = context_of("two")
    made = optimize(base, asked, replace(context, hooks=Plain(context.hooks, ["Conv"])))
    recipe = recipes.read(made.recipe)
    assert set(recipe.palettes) == {"w2"}
    (refused,) = made.facts["loads"]["refused"]
    assert (refused["op"], refused["dtype"]) == ("Conv", "palettes of 3 bits")
    assert "no tables here" in made.facts["palettes"]["whole"]["w1"]
