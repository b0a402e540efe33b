"""Options of conversions in the main job: whose they are, who gets them, what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_core.capabilities import Edge, Opens, TargetInfo
from lepton_core.cli._types import target_pairs
from lepton_core.conversion import options_asked
from lepton_core.dispatch import Hooks
from lepton_core.errors import UsageError
from lepton_core.markers import hookimpl
from lepton_core.origins import find_origin
from lepton_core.porting import port
from lepton_core.testing import _fake_graph as work
from lepton_core.testing import fake_target
from lepton_core.types import ConvertResult, LineageStep

EXACT, LAYOUT, WEIGHTS = "exact", "layout", "weights"


class Chain:
    """Converts fake graphs by way of a middle format, and remembers what it was asked for."""

    def __init__(self, end):
        self.end = end
        self.asked = []

    @hookimpl
    def lepton_convert(self, model, request, context):
        self.asked.append((request.target, request.to_format, request.precision,
                           dict(request.options)))  # fmt: skip
        step = LineageStep(f"to {request.to_format}", "chain", model.digest)
        made = model.evolve(format=request.to_format, lineage=(*model.lineage, step))
        graph = work.read(model.path)
        if request.options.get(EXACT):
            graph["note"] = "exact"
        return ConvertResult(work.write(graph, context.workdir / "model.json", made))

    @hookimpl
    def lepton_open(self, model, request, context):
        return fake_target.lepton_open(model, request, context)


def info(end, options, *, first=False):
    edges = [Edge("middle", end, ("fp32", "fp16"), options=options)]
    if first:
        edges.append(Edge("fake-graph", "middle", options=(EXACT,)))
    return TargetInfo(
        end, end.title(), f"test-{end}", edges=tuple(edges), opens=(Opens(end),), artifact=end,
        precisions=("fp32", "fp16"), devices=("cpu", "phone.1"),
    )  # fmt: skip


@pytest.fixture
def chains(fake_registry):
    """Two targets behind one middle format."""
    one, two = Chain("alpha"), Chain("beta")
    fake_registry.register(one, info("alpha", (LAYOUT,), first=True))
    fake_registry.register(two, info("beta", (LAYOUT, WEIGHTS)))
    return one, two


@pytest.fixture
def run(chains, fake_registry, tmp_path):
    rng = np.random.default_rng(7)
    layers = [{"op": "linear", "weight": rng.normal(size=(3, 6)), "bias": rng.normal(size=3)}]
    graph = fake_target.write_graph(tmp_path / "net.fake", 6, layers)
    np.savez(tmp_path / "rows.npz", x=rng.normal(size=(100, 6)).astype("f4"))

    def call(options, targets=("alpha", "beta"), precisions=("fp32",)):
        made = port(
            graph, targets=targets, precisions=precisions, samples=tmp_path / "rows.npz",
            out=tmp_path / "out", latency_seconds=0, hooks=Hooks(fake_registry), options=options,
        )  # fmt: skip
        return {(v.target, v.precision): v for v in made.variants}

    return call


def calls(chains, to):
    return [(target, options) for one in chains for target, end, _, options in one.asked
            if end == to]  # fmt: skip


def test_each_step_gets_its_own_options_and_lineage_has_them(run, chains):
    made = run({"alpha": {EXACT: True, LAYOUT: "last"}, "beta": {WEIGHTS: "few"}})
    assert calls(chains, "alpha") == [("alpha", {LAYOUT: "last"})]
    assert calls(chains, "beta") == [("beta", {WEIGHTS: "few"})]
    assert calls(chains, "middle") == [("alpha", {EXACT: True}), ("beta", {})]
    one, two = (made[target, "fp32"].model for target in ("alpha", "beta"))
    assert [step.request.get("options") for step in one.lineage] == [{EXACT: True},
                                                                      {LAYOUT: "last"}]  # fmt: skip
    assert (options_asked(one), options_asked(two)) == ({LAYOUT: "last"}, {WEIGHTS: "few"})
    passport = made["alpha", "fp32"].passport["variant"]["lineage"]
    assert passport[-1]["request"]["options"] == {LAYOUT: "last"}


def test_steps_are_shared_where_options_are_the_same(run, chains):
    run({"alpha": {EXACT: True, LAYOUT: "last"}, "beta": {EXACT: True}})
    assert calls(chains, "middle") == [("alpha", {EXACT: True})]


def test_no_options_are_as_ever(run, chains):
    made = run({})
    assert calls(chains, "middle") == [("alpha", {})]
    assert "options" not in made["beta", "fp32"].model.lineage[-1].request


def test_variants_keep_what_they_were_lowered_from(run):
    """The middle format is not the pivot, so that each has its own; both can be found."""
    made = run({"alpha": {EXACT: True}})
    for target, note in (("alpha", "exact"), ("beta", None)):
        origin = find_origin(made[target, "fp32"].model)
        assert origin.format == "middle"
        assert work.read(origin.path).get("note") == note


def test_what_says_more_of_a_variant_counts_more(run, chains):
    run(
        {"beta": {LAYOUT: "a", WEIGHTS: "a"}, "beta/fp16": {LAYOUT: "b"},
         "beta:phone.1": {LAYOUT: "c"}, "beta:phone.1/fp16": {WEIGHTS: "d"}},
        ("beta", "beta:phone.1"), ("fp32", "fp16"),
    )  # fmt: skip
    found = [(precision, options) for _, end, precision, options in chains[1].asked
             if end == "beta"]  # fmt: skip
    assert found == [
        ("fp32", {LAYOUT: "a", WEIGHTS: "a"}), ("fp16", {LAYOUT: "b", WEIGHTS: "a"}),
        ("fp32", {LAYOUT: "c", WEIGHTS: "a"}), ("fp16", {LAYOUT: "b", WEIGHTS: "d"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"gamma": {LAYOUT: "a"}}, "LPT-USE-015", "gamma"),
        ({"beta/int8": {LAYOUT: "a"}}, "LPT-USE-015", "beta/int8"),
        ({"beta:phone.1": {LAYOUT: "a"}}, "LPT-USE-015", "beta:phone.1"),
        ({"alpha": {WEIGHTS: "a"}}, "LPT-USE-016", WEIGHTS),
        ({"beta": {"layuot": "a"}}, "LPT-USE-016", "layuot"),
    ],
)
def test_options_that_nothing_takes_are_refused_before_anything_is_built(
    run, chains, tmp_path, options, code, named
):
    with pytest.raises(UsageError) as caught:
        run(options)
    assert caught.value.code == code
    assert repr(named) in caught.value.message
    assert not [one.asked for one in chains if one.asked]
    assert not (tmp_path / "out").exists()


def test_what_a_target_takes_is_said(run):
    with pytest.raises(UsageError) as caught:
        run({"beta": {"layuot": "a"}})
    assert caught.value.cause == (
        "fake-graph -> middle -> beta: the options are exact, layout, weights"
    )
    with pytest.raises(UsageError) as caught:
        run({"fake": {LAYOUT: "a"}}, ("fake",))
    assert caught.value.cause == "fake-graph -> fake: the options are none"


def test_options_of_the_command_line_name_their_target():
    found = target_pairs(
        ("tflite.layout=nhwc", "tflite.batch=2", "tflite/int8.weights=dynamic",
         "openvino:gpu.1.keep=[1]"),
        "--option",
    )  # fmt: skip
    assert found == {
        "tflite": {"layout": "nhwc", "batch": 2}, "tflite/int8": {"weights": "dynamic"},
        "openvino:gpu.1": {"keep": [1]},
    }  # fmt: skip
    for wrong in ("layout=nhwc", "tflite.=nhwc", ".layout=nhwc", "tflite.layout"):
        with pytest.raises(UsageError) as caught:
            target_pairs((wrong,), "--option")
        assert caught.value.code == "LPT-USE-107"
        assert "TARGET" in caught.value.remedy or "=" not in wrong
