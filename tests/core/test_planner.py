"""Paths over declared edges."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core.capabilities import Capability, Edge, PluginInfo, Support, TargetInfo
from lepton_core.errors import PlanError, PluginConflictError
from lepton_core.planner import Plan, owned_edges, plan, plan_for_target, reachable


def infos(**edges):
    """Return plugins from ``name=[Edge, ...]``."""
    return {
        name: PluginInfo(name, name.title(), f"lepton-{name}", edges=tuple(declared))
        for name, declared in edges.items()
    }


def route(found):
    return [(s.owner, s.edge.source, s.edge.result) for s in found.steps]


def test_the_source_as_it_is_needs_no_step():
    found = plan("a", "a", {})
    assert found == Plan("a", "a", ())
    assert str(found) == "a as it is"


def test_each_step_has_the_one_owner_that_declares_it():
    found = plan("a", "c", infos(x=[Edge("a", "b")], y=[Edge("b", "c")]))
    assert route(found) == [("x", "a", "b"), ("y", "b", "c")]
    assert str(found) == "a -> b (x), b -> c (y)"


def test_the_cheapest_path_wins_over_the_shortest():
    found = plan("a", "c", infos(x=[Edge("a", "b"), Edge("b", "c"), Edge("a", "c", cost=5)]))
    assert len(found.steps) == 2


def test_ties_go_to_fewer_steps_then_to_the_alphabet():
    edges = [Edge("a", "b"), Edge("b", "d"), Edge("a", "d", cost=2)]
    assert len(plan("a", "d", infos(x=edges)).steps) == 1
    edges = [Edge("a", "n"), Edge("n", "d"), Edge("a", "m"), Edge("m", "d")]
    for order in itertools.permutations(edges):
        assert route(plan("a", "d", infos(x=order)))[0] == ("x", "a", "m")


def test_only_the_last_step_takes_the_precision():
    edges = [Edge("a", "b", ("fp32", "fp16")), Edge("b", "c", ("fp32", "fp16"))]
    found = plan("a", "c", infos(x=edges), precision="fp16")
    assert [s.precision for s in found.steps] == ["fp32", "fp16"]


def test_a_step_before_the_last_must_offer_fp32():
    edges = [Edge("a", "b", ("fp16",)), Edge("b", "c", ("fp16",))]
    with pytest.raises(PlanError):
        plan("a", "c", infos(x=edges), precision="fp16")


def test_an_edge_back_to_the_own_format_changes_precision():
    found = plan("a", "a", infos(x=[Edge("a", "a", ("fp16",))]), precision="fp16")
    assert route(found) == [("x", "a", "a")]


def test_cycles_end():
    edges = [Edge("a", "b", cost=0), Edge("b", "a", cost=0)]
    with pytest.raises(PlanError):
        plan("a", "z", infos(x=edges))


def test_no_path_lists_what_there_is():
    with pytest.raises(PlanError) as caught:
        plan("a", "z", infos(x=[Edge("a", "b")]))
    assert caught.value.code == "LPT-PLAN-001"
    assert "a -> b" in caught.value.cause
    assert caught.value.details == {"source": "a", "result": "z"}


def test_a_target_says_itself_why_it_does_not_offer_a_precision():
    declared = {
        "precision.sparse": Capability(Support.UNSUPPORTED, note="zeros take as much"),
        "precision.int8": Capability(Support.FULL, note="from a recipe"),
    }
    target = TargetInfo(
        "t", "The Target", "lepton-t", edges=(Edge("a", "b"),), artifact="b", capabilities=declared
    )
    with pytest.raises(PlanError) as caught:
        plan_for_target("a", target, {"t": target}, "sparse")
    assert caught.value.code == "LPT-PLAN-002"
    assert caught.value.message == "The Target cannot be built at sparse"
    assert caught.value.cause == "zeros take as much; precisions offered: fp32, int8"
    with pytest.raises(PlanError, match="int8 without a recipe") as caught:
        plan_for_target("a", target, {"t": target}, "int8")
    assert "`lepton optimize --precision int8`" in caught.value.remedy
    with pytest.raises(PlanError, match="not declared by the plugin"):
        plan_for_target("a", target, {"t": target}, "int4")


def test_a_precision_that_is_not_offered_lists_those_that_are():
    with pytest.raises(PlanError) as caught:
        plan("a", "b", infos(x=[Edge("a", "b", ("fp32", "fp16"))]), precision="int8")
    assert caught.value.code == "LPT-PLAN-002"
    assert caught.value.details["offered"] == ["fp16", "fp32"]


def test_two_owners_of_a_step_on_the_way_are_a_conflict_with_both_names():
    both = infos(x=[Edge("a", "b")], y=[Edge("a", "b")])
    with pytest.raises(PluginConflictError) as caught:
        plan("a", "b", both)
    assert caught.value.code == "LPT-PLUG-008"
    for name in ("x (lepton-x)", "y (lepton-y)", "a -> b", "LEPTON_DISABLED_PLUGINS"):
        assert name in str(caught.value)


def test_two_owners_of_a_step_elsewhere_do_not_matter():
    both = infos(x=[Edge("a", "b"), Edge("q", "r")], y=[Edge("q", "r"), Edge("b", "c")])
    assert len(plan("a", "c", both).steps) == 2
    assert [str(s[-1].edge.result) for s in reachable("a", both) if s] == ["b", "c"]
    assert len(owned_edges(both)["q", "r"]) == 2


edge_lists = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"), st.integers(1, 5)),
    max_size=12,
    unique_by=lambda e: e[:2],
)


def _cheapest(edges, source, result):
    """Floyd and Warshall, as the yardstick."""
    best = {(a, b): cost for a, b, cost in edges}
    for via, a, b in itertools.product("abcdef", repeat=3):
        if (a, via) in best and (via, b) in best:
            best[a, b] = min(best.get((a, b), 10**9), best[a, via] + best[via, b])
    return best.get((source, result))


@given(edge_lists)
def test_cost_is_minimal(edges):
    declared = infos(x=[Edge(a, b, cost=cost) for a, b, cost in edges])
    expected = _cheapest(edges, "a", "f")
    if expected is None:
        with pytest.raises(PlanError):
            plan("a", "f", declared)
        return
    found = plan("a", "f", declared)
    assert sum(s.edge.cost for s in found.steps) == expected
    assert [s.edge.source for s in found.steps[1:]] == [s.edge.result for s in found.steps[:-1]]
