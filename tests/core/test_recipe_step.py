"""The recipe that targets of one run share: who is asked, for whom, and how often."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lepton_core._proof import Yardstick
from lepton_core._recipe_step import RecipeStep
from lepton_core.capabilities import Capability, Support
from lepton_core.context import Context
from lepton_core.errors import OptimizeError
from lepton_core.porting import PortOptions
from lepton_core.types import Limits, Model, OptimizeResult, Target

ONE, TWO, THREE = Target("one"), Target("two", "phone"), Target("three")


@pytest.fixture
def step():
    asked = []

    refused = []

    def optimize(model, request, context):
        asked.append(request)
        if "everything" in refused:
            raise OptimizeError("LPT-OPT-040", "Nothing is left")
        return OptimizeResult(
            model, f"recipe-{len(asked)}.json", facts={"loads": {"refused": list(refused)}}
        )

    def target(name):
        support = Support.FULL if name == "one" else Support.UNKNOWN
        return SimpleNamespace(capability=lambda feature: Capability(support))

    hooks = SimpleNamespace(optimize=optimize, registry=SimpleNamespace(target=target))
    return SimpleNamespace(
        asked=asked, refused=refused, of=lambda **more: RecipeStep(hooks, PortOptions(**more))
    )


def make(step, precision, target, sharing, tmp_path, pivot="sha256:a"):
    model = Model("pivot", "pivot.onnx", digest=pivot)
    yardstick = Yardstick(None, None, "one", model, tmp_path, None)
    context = Context(tmp_path)
    return step.make(model, target, precision, yardstick, context, sharing=sharing).recipe


def test_a_recipe_is_made_once_for_all_that_share_it(step, tmp_path):
    own = step.of()
    for target in (TWO, ONE, THREE):
        assert make(own, "int4", target, [ONE, TWO, ONE, THREE], tmp_path) == "recipe-1.json"
    (request,) = step.asked
    assert (request.target, request.device) == ("one", None)
    assert request.shared_with == ("two:phone", "three")
    assert request.options["ask"] == "quick"


def test_a_limit_of_memory_leaves_no_room_for_all_runtimes_in_one_process(step, tmp_path):
    make(step.of(limits=Limits(memory_bytes=1 << 30)), "int8", ONE, [ONE, TWO], tmp_path)
    assert step.asked[0].options["ask"] == "no"


def test_a_choice_is_made_for_each_target_alone(step, tmp_path):
    own = step.of()
    for precision in ("mixed", "auto", "sparse"):
        step.asked.clear()
        for target in (ONE, TWO, ONE):
            make(own, precision, target, [ONE, TWO], tmp_path)
        assert [(r.target, r.device) for r in step.asked] == [("one", None), ("two", "phone")]
        assert {r.shared_with for r in step.asked} == {()}


def test_another_pivot_has_a_recipe_of_its_own(step, tmp_path):
    own = step.of(compression={"sparsity": 0.5})
    make(own, "sparse", ONE, [ONE], tmp_path)
    make(own, "sparse", TWO, [TWO], tmp_path, "sha256:b")
    assert [(r.target, r.shared_with) for r in step.asked] == [("one", ()), ("two", ())]


def fitting(step, target, tmp_path, precision="int8"):
    model = Model("pivot", "pivot.onnx", digest="sha256:a")
    yardstick = Yardstick(None, None, "one", model, tmp_path, None)
    return step.make_fitting(model, target, precision, yardstick, Context(tmp_path))


def test_who_refuses_a_recipe_is_asked_what_it_loads(step, tmp_path):
    step.refused.append({"op": "Conv"})
    assert fitting(step.of(), TWO, tmp_path).recipe == "recipe-1.json"
    (request,) = step.asked
    assert (request.target, request.device, request.shared_with) == ("two", "phone", ())
    assert request.options["ask"] == "all"


@pytest.mark.parametrize("refused", [[], ["everything"]])
def test_who_refuses_nothing_or_everything_has_no_recipe_of_its_own(step, refused, tmp_path):
    step.refused.extend(refused)
    assert fitting(step.of(), TWO, tmp_path) is None
    assert len(step.asked) == 1


def test_who_was_asked_before_or_has_no_room_is_not_asked_again(step, tmp_path):
    step.refused.append({"op": "Conv"})
    assert fitting(step.of(), ONE, tmp_path) is None
    limits = Limits(memory_bytes=1 << 30)
    assert fitting(step.of(limits=limits), TWO, tmp_path) is None
    assert step.asked == []
