"""Planning a bisection: which values are compared, in which groups, and a part's recipe."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import lepton_kernels as lk
from lepton_core.bisecting._hints import hint_for
from lepton_core.bisecting._inside import _Values
from lepton_core.bisecting._plan import GROUP_BYTES, ancestors, groups, plan_taps, recipe_for
from lepton_core.bisecting._run import Errors
from lepton_core.errors import SessionError, UsageError
from lepton_core.recipe import (
    BlockWeight,
    Correction,
    Layer,
    PivotId,
    Recipe,
    Rescaled,
    Tensor,
    validate,
)
from lepton_core.samples import Samples
from lepton_core.types import Signature, TensorSpec, ValueUse


def use(name, *inputs, dtype="float32", size=4, output=False):
    return ValueUse(name, dtype, "Op", name, inputs, size, output)


CHAIN = (use("conv", "x"), use("relu", "conv"), use("shape", "relu", dtype="int64"),
         use("flat", "relu", "shape"), use("y", "flat", output=True))  # fmt: skip

RECIPE = Recipe(
    PivotId("sha256:old", 21),
    "int8-static",
    {
        "x": Tensor("activation", 0.5),
        "w": Tensor("weight", (0.1, 0.2), axis=0),
        "relu": Tensor("activation", 0.25, -128),
        "flat": Tensor("activation", 0.25, -128, same_as="relu"),
    },
    {
        "conv": Layer("Conv", "relu", ("x",), "w", fused=("relu",)),
        "flat": Layer("Reshape", "flat", ("relu",)),
    },
    kept_float={"y": "asked for"},
)


def test_values_inside_of_what_is_fused_are_passed_over():
    taps = plan_taps(CHAIN, [None, RECIPE])
    assert [t.use.name for t in taps] == ["relu", "flat", "y"]
    # flat reads relu twice, once by way of a shape
    assert [t.reads for t in taps] == [(), ("relu",), ("flat",)]
    assert [t.use.name for t in plan_taps(CHAIN, [None])] == ["conv", "relu", "flat", "y"]


def test_values_on_the_way_to_a_rescaled_one_are_passed_over():
    entry = Rescaled("equalize", 1, (1, -1), {"w": 0}, {"w2": 1})
    pooled = (*CHAIN[:2], use("pool", "relu"), use("view", "pool"), use("y", "view", output=True))
    recipe = dataclasses.replace(RECIPE, rescaled={"view": entry})
    assert [t.use.name for t in plan_taps(pooled, [recipe])] == ["view", "y"]
    itself = dataclasses.replace(RECIPE, rescaled={"relu": entry})
    assert [t.use.name for t in plan_taps(pooled, [itself])] == ["relu", "pool", "view", "y"]


def test_groups_keep_the_order_and_the_limit():
    values = [use(f"v{i}", f"v{i - 1}", size=GROUP_BYTES // 8) for i in range(7)]
    taps = plan_taps(values, [])
    parts = groups(taps, 2)
    assert [len(part) for part in parts] == [4, 3]
    assert [t for part in parts for t in part] == list(taps)
    assert [len(part) for part in groups(taps, 2, with_reads=True)] == [2, 2, 2, 1]
    huge = plan_taps([use("a", "x", size=9 * GROUP_BYTES)], [])
    assert [len(part) for part in groups(huge, 1)] == [1]


def test_ancestors_leave_out_what_does_not_lead_there():
    values = [use("a", "x"), use("b", "x"), use("c", "a"), use("d", "b", "c")]
    assert [t.use.name for t in ancestors(plan_taps(values, []), "c")] == ["a", "c"]


def test_a_part_of_a_recipe_reads_what_is_fed_with_the_same_numbers():
    part = recipe_for(RECIPE, "sha256:new", {"relu/fed", "flat", "y"}, {"relu", "flat"})
    validate(part)
    assert part.pivot.digest == "sha256:new"
    assert list(part.layers) == ["flat"]
    assert part.layers["flat"].inputs == ("relu/fed",)
    assert part.tensors["relu/fed"].scale == part.tensors["flat"].scale == 0.25
    assert part.tensors["relu/fed"].zero_point == -128
    assert part.kept_float == {"y": "asked for"}
    whole = recipe_for(RECIPE, "d", {"x", "w", "conv", "relu", "relu/fed", "flat"}, {"relu"})
    assert whole.layers["conv"] == RECIPE.layers["conv"]
    assert set(whole.tensors) == {"x", "w", "relu", "relu/fed", "flat"}


def test_a_rescaled_value_is_divided_on_one_side_and_multiplied_on_the_other():
    entry = Rescaled("equalize", 1, (1, -1), {"w": 0}, {"w2": 1, "w3": 1})
    odd = dataclasses.replace(
        RECIPE, rescaled={"relu": entry},
        corrections={"conv": Correction("analytic", "b", (0.5,)),
                     "gone": Correction("analytic", "c", (0.5,))},
    )  # fmt: skip
    yields = recipe_for(odd, "d", {"x", "w", "conv", "relu"}, {"relu"})
    assert dict(yields.rescaled) == {"relu": dataclasses.replace(entry, multiplied={})}
    assert list(yields.corrections) == ["conv"]
    reads = recipe_for(odd, "d", {"relu/fed", "w2", "flat"}, {"relu"})
    assert dict(reads.rescaled) == {
        "relu/fed": dataclasses.replace(entry, divided={}, multiplied={"w2": 1})
    }
    assert not reads.corrections
    assert hint_for("relu", metrics([1.0], [1.0]).result(), 80.0, "int8", odd) == ""


def metrics(a, b):
    return lk.ErrorAccumulator().update(np.asarray(a, np.float32), np.asarray(b, np.float32))


def test_hints_name_overflow_clipping_and_few_bits():
    over = metrics([7e4, 1.0], [np.inf, 1.0]).result()
    assert "float16 ends at 65504" in hint_for("v", over, 7e4, "fp16", None)
    same = metrics([1.0], [1.0]).result()
    assert hint_for("v", same, 1.0, "fp16", None) == ""
    assert "clipped at 63.75" in hint_for("relu", same, 80.0, "int8", RECIPE)
    assert "clipped" not in hint_for("relu", same, 63.0, "int8", RECIPE)
    few = dataclasses.replace(
        RECIPE, blocks={"m": BlockWeight(4, 32, 0)},
        layers={"y": Layer("MatMul", "y", (), "m", mode="weight")},
    )  # fmt: skip
    assert "4 bits in blocks of 32" in hint_for("y", same, 1.0, "int4", few)


def test_saturating_sums_are_suspected_only_where_the_cpu_lacks_what_the_recipe_needs():
    same = metrics([1.0], [1.0]).result()
    odd = dataclasses.replace(RECIPE, requires={"cpu": {"any": ["no_such_feature"]}})
    assert "saturate" in hint_for("relu", same, 1.0, "int8", odd, exact=False)
    assert "saturate" not in hint_for("relu", same, 1.0, "int8", odd)
    assert "saturate" not in hint_for("relu", same, 1.0, "int8", RECIPE, exact=False)


def test_other_shapes_are_no_match():
    errors = Errors()
    errors.update(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))
    assert errors.result().rel_l2 == np.inf


def test_what_is_no_variant_is_refused(tmp_path):
    from lepton_core.bisecting._sides import side_of

    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError) as error:
        side_of(str(tmp_path / "model.onnx"))
    assert error.value.code == "LPT-BIS-001"


class Inner:
    """A session that shows ``h = 2 x`` and ``y = h + 1``.

    Args:
        output: What it calls its output.
        fails: The value whose operator fails.
    """

    signature = Signature((TensorSpec("x", "float32", ("n", 2)),), ())

    def __init__(self, output="y", fails=""):
        self.output, self.fails = output, fails

    def inner(self, inputs, fed=None):
        value = inputs["x"]
        for name, operator in (("h", "mul"), ("y", "add")):
            if name == self.fails:
                where = {"where": name, "operator": operator}
                raise SessionError("LPT-RUN-506", "It fails", cause="a size", details=where)
            value = 2 * value if name == "h" else value + 1
            yield name, operator, value

    def run(self, inputs):
        *_, (_, _, made) = self.inner(inputs)
        return {self.output: made}


@pytest.mark.parametrize("odd", [Inner("other"), Inner(fails="h"), Inner()])
def test_an_artifact_of_other_outputs_or_one_that_fails_is_looked_into(odd, context):
    samples = Samples({"x": np.ones((3, 2), np.float32)})
    measured = _Values(Inner(), odd, context)
    found = {one.value: one.error for one in measured.run(samples)}
    assert found == ({"h": np.inf} if odd.fails else {"h": 0, "y": 0})
    assert measured.output_error == (0 if odd.output == "y" and not odd.fails else np.inf)
    assert measured.alone == 0, "what is behind an operator that fails has its counterpart"
