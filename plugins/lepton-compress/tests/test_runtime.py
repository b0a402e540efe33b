"""On which runtime the forward passes run: named, tried, taken, recorded; ranges are the same."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from lepton_compress import _runtime
from lepton_compress._build import all_values, choose_layers
from lepton_compress._calibrate import observe
from lepton_compress._graph import Graph
from lepton_compress._runtime import Scratch, candidates
from lepton_core import recipe as recipes
from lepton_core.errors import OptimizeError, SessionError
from lepton_core.samples import Samples
from lepton_core.types import Limits, OptimizeRequest
from lepton_onnx import pivot

ROWS = 200


@pytest.fixture
def net(graphs):
    nodes = [graphs.conv("x", "w1", "b1", "a"), graphs.node("Relu", ["a"], ["r"]),
             graphs.conv("r", "w2", "b2", "y")]  # fmt: skip
    return graphs.build(nodes, graphs.convs)


@pytest.fixture
def rows():
    return Samples({"x": np.random.default_rng(1).standard_normal((ROWS, 3, 16, 16), np.float32)})


class Slow:
    """Hooks that make the sessions of some runtimes slow, or refuse them, and count their rows."""

    def __init__(self, hooks, slow=(), broken=(), failing=()):
        self._hooks, self._slow, self._broken, self._failing = hooks, slow, broken, failing
        self.rows = {}

    def __getattr__(self, name):
        return getattr(self._hooks, name)

    def open(self, model, request, context):
        if request.target in self._broken:
            raise SessionError("LPT-RUN-207", "It does not load")
        session = self._hooks.open(model, request, context)
        real, outer = session.run, self

        def run(inputs):
            if request.target in outer._failing:
                raise SessionError("LPT-RUN-205", "It failed in a node")
            outer.rows[request.target] = outer.rows.get(request.target, 0) + len(inputs["x"])
            if request.target in outer._slow:
                time.sleep(0.05)
            return real(inputs)

        session.run = run
        return session


def ranges(net, rows, context, asked, **hooks):
    context = Scratch.of(
        replace(context, hooks=Slow(context.hooks, **hooks)), context.workdir, asked
    )
    graph = Graph(pivot.load(net.path))
    names = all_values(graph, choose_layers(graph).layers.values())
    # A folder inside the scratch folder heeds the same choice.
    inside = replace(context, workdir=context.workdir / "inside")
    inside.workdir.mkdir()
    return observe(graph, names, rows, inside), context.runtimes, context.hooks.rows


def close(left, right):
    """Ranges that differ by the rounding of float32 sums alone."""
    return left.keys() == right.keys() and all(
        np.allclose(left[n].observed, right[n].observed, rtol=1e-4, atol=1e-5) for n in left
    )


def test_the_fastest_is_found_by_batches_that_count(net, rows, context_of):
    first, chosen, ran = ranges(net, rows, context_of("first"), "auto")
    assert (chosen.owner, chosen.trials) == ("onnxruntime", []), "too little work to ask"
    assert ran == {"onnxruntime": ROWS}
    found, chosen, ran = ranges(net, rows, context_of("slow"), "fastest", slow=("onnxruntime",))
    assert chosen.owner == "openvino"
    assert [t["runtime"].split()[0] for t in chosen.trials] == ["onnxruntime", "openvino"]
    assert chosen.trials[0]["seconds_per_row"] > chosen.trials[1]["seconds_per_row"]
    assert sum(ran.values()) == ROWS, "no row is run twice"
    assert ran["onnxruntime"] < ROWS / 2 < ran["openvino"]
    assert close(first, found)
    back, chosen, ran = ranges(net, rows, context_of("back"), "fastest", slow=("openvino",))
    assert chosen.owner == "onnxruntime"
    assert sum(ran.values()) == ROWS
    assert close(first, back)


def test_a_runtime_that_does_not_load_it_is_passed_over(net, rows, context_of):
    found, chosen, ran = ranges(
        net, rows, context_of("one"), "fastest", slow=("onnxruntime",), broken=("openvino",)
    )
    assert chosen.owner == "onnxruntime"
    assert "LPT-RUN-207" in chosen.trials[0]["problem"]
    assert ran == {"onnxruntime": ROWS}
    assert close(found, ranges(net, rows, context_of("two"), "auto")[0])


def test_a_runtime_that_fails_in_a_batch_is_passed_over(net, rows, context_of):
    found, chosen, ran = ranges(
        net, rows, context_of("one"), "fastest", slow=("onnxruntime",), failing=("openvino",)
    )
    assert chosen.owner == "onnxruntime"
    said = "LPT-RUN-205: It failed in a node"
    assert chosen.trials[0] == {"runtime": "openvino", "problem": said}
    assert ran == {"onnxruntime": ROWS}, "the batch that failed was run again"
    assert close(found, ranges(net, rows, context_of("two"), "auto")[0])
    with pytest.raises(SessionError, match="in a node"):  # what the user named is not replaced
        ranges(net, rows, context_of("named"), "openvino", failing=("openvino",))


@pytest.mark.parametrize("how", ["broken", "failing"])
def test_a_runtime_that_was_taken_and_fails_later_is_left(net, rows, context_of, how):
    context = Scratch.of(context_of("later"), context_of("later-work").workdir, "fastest")
    context.runtimes.owner, context.runtimes.decided = "openvino", True
    context = replace(context, hooks=Slow(context.hooks, **{how: ("openvino",)}))
    graph = Graph(pivot.load(net.path))
    assert observe(graph, ["r"], rows, context).keys() == {"r"}
    assert context.runtimes.owner == "onnxruntime"
    assert context.hooks.rows == {"onnxruntime": ROWS}


def test_others_are_tried_only_where_much_is_left(net, rows, context_of, monkeypatch):
    monkeypatch.setattr(_runtime, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(_runtime, "WORTH_OPENINGS", 0)
    _, chosen, _ = ranges(net, rows, context_of("much"), "auto", slow=("onnxruntime",))
    assert chosen.owner == "openvino"
    limited = replace(context_of("limited"), limits=Limits(memory_bytes=1 << 32))
    _, chosen, ran = ranges(net, rows, limited, "auto", slow=("onnxruntime",))
    assert ran == {"onnxruntime": ROWS}, "under a limit of memory there is one runtime"
    _, chosen, ran = ranges(net, rows, context_of("named"), "onnxruntime", slow=("onnxruntime",))
    assert ran == {"onnxruntime": ROWS}, "what the user names is taken"
    assert chosen.trials == []


@pytest.mark.conformance
def test_a_recipe_names_the_runtime_and_does_not_depend_on_it(net, rows, context_of, tmp_path):
    assert {"onnxruntime", "openvino"} <= set(candidates(context_of("any").hooks))
    np.savez(tmp_path / "rows.npz", x=rows.inputs["x"])
    made = {}
    for name in ("onnxruntime", "openvino"):
        work = context_of(name)
        asked = OptimizeRequest(
            "onnxruntime", samples=str(tmp_path / "rows.npz"), options={"runtime": name},
            timing_seconds=0.0,
        )  # fmt: skip
        result = work.hooks.optimize(net, asked, work)
        made[name] = recipes.read(result.recipe)
        ran = made[name].calibration.runtime
        assert ran.split()[0] == name
        assert result.facts["forward"] == {"runtime": ran, "asked": name, "trials": []}
    left, right = made.values()
    assert left.layers == right.layers
    for name, tensor in left.tensors.items():
        assert np.allclose(tensor.scales, right.tensors[name].scales, rtol=1e-4)
        assert abs(tensor.zero_point - right.tensors[name].zero_point) <= 1
    work, asked = context_of("odd"), OptimizeRequest("onnxruntime", options={"runtime": "tflite"})
    with pytest.raises(OptimizeError, match="no runtime") as failed:
        work.hooks.optimize(
            net, OptimizeRequest("onnxruntime", options={"runtime": "tflite"}), work
        )
    assert failed.value.code == "LPT-OPT-015"
    assert "openvino" in failed.value.cause
