"""The recipe that targets of one run share: who is asked, for whom, and how often."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lepton_core._proof import Yardstick
from lepton_core._recipe_step import RecipeStep
from lepton_core.context import Context
from lepton_core.porting import PortOptions
from lepton_core.types import Limits, Model, OptimizeResult, Target

ONE, TWO, THREE = Target("one"), Target("two", "phone"), Target("three")


@pytest.fixture
def step():
    asked = []

    def optimize(model, request, context):
        asked.append(request)
        return OptimizeResult(model, f"recipe-{len(asked)}.json")

    return SimpleNamespace(
        asked=asked, of=lambda **more: RecipeStep(SimpleNamespace(optimize=optimize),
                                                  PortOptions(**more)),
    )  # fmt: skip


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
