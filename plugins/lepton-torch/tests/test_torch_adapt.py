"""``lepton_adapt`` as a whole: sources, reports, proofs, refusals, rewrites of other plugins."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapting import adapt, exported, randomised
from torch import nn

from lepton_core.capabilities import Constraints, ExtensionInfo, Rewrite
from lepton_core.context import Context
from lepton_core.dispatch import Hooks as CoreHooks
from lepton_core.errors import AdaptError, PluginConflictError, UsageError
from lepton_core.registry import Registry
from lepton_core.types import AdaptRequest, ConvertRequest, Model
from lepton_torch import plugin
from lepton_torch.info import INFO, REWRITES

X = torch.randn(2, 4, 8, 8)
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image):
        x = nn.functional.hardswish(self.norm(self.conv(image)))
        x = nn.functional.dropout(x, 0.5, self.training)
        return {"logits": nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)}


def net():
    return Net().train(), torch.zeros(1, 1, 8, 8)
"""


def request(**asked):
    constraints = asked.pop("constraints", Constraints())
    return AdaptRequest("target", constraints=constraints, **asked)


# --- sources and what comes back ----------------------------------------------------------------


def test_a_factory_becomes_a_program_with_the_users_lines(factory, hooks):
    model = hooks.inspect(factory(NET)).model
    forbidden = Constraints(forbidden_ops=("aten.hardswish", "aten.adaptive_avg_pool2d"))
    result = plugin.lepton_adapt(model, request(constraints=forbidden), hooks.context())
    assert [line.partition(": ")[0] for line in result.changes] == [
        "drop-training-only", "fold-batch-norm", "fix-adaptive-pool", "expand-hardswish",
    ]  # fmt: skip
    assert "user_net.py:11 in forward" in result.changes[1]
    assert "user_net.py:13 in forward" in result.changes[2]
    assert result.model.format == "torch.export"
    assert result.model.entry is None
    (step,) = result.model.lineage
    assert (step.step, step.parent) == ("adapt", model.digest)
    assert step.request["changes"] == list(result.changes)
    again = hooks.inspect(result.model)
    assert again.model.digest == result.model.digest
    assert again.model.metadata["adapted"][0]["changes"] == list(result.changes)
    assert not [u.name for u in again.operators if "hardswish" in u.name or "adaptive" in u.name]


def test_the_same_request_gives_the_same_bytes(factory, hooks):
    model = factory(NET)
    digests = {
        plugin.lepton_adapt(model, request(), hooks.context(seed=3)).model.digest for _ in range(2)
    }
    assert len(digests) == 1


def test_an_adapted_model_runs_and_converts_under_the_same_names(digits, digits_program, hooks):
    made = plugin.lepton_adapt(digits_program.model, request(shapes={"batch": 1}), hooks.context())
    assert str(made.model.signature) == "(image: float32[1, 1, 8, 8]) -> (logits: float32[1, 10])"
    images = digits.images[:20]
    with hooks.open(digits_program.model) as session:
        want = session.run({"image": images})["logits"]
    with hooks.open(made.model) as session:
        got = [session.run({"image": row[None]})["logits"] for row in images]
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-4, atol=1e-5)
    pivot = hooks.pivot(made.model).model
    assert [s.step for s in pivot.lineage] == [
        "materialise",
        "adapt",
        "convert torch.export -> pivot",
    ]
    assert str(pivot.signature) == str(made.model.signature)


def test_nothing_to_do_returns_the_program_as_it_is(hooks):
    model = exported(nn.Sequential(nn.ReLU()), X)
    result = adapt(model)
    assert result.model == model
    assert result.changes == ()
    assert {one.rewrite for one in result.considered} == {r.name for r in REWRITES}
    assert all(one.why for one in result.considered)


@pytest.mark.conformance
def test_a_bert_directory_is_adapted_without_being_asked_for_anything(hooks, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=48,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    model = Model("huggingface", str(tmp_path))
    made = plugin.lepton_adapt(model, request(), hooks.context())
    assert made.model.format == "torch.export"
    assert made.changes
    assert all("drop-training-only" in line and line.endswith("exact") for line in made.changes)
    assert made.model.signature.inputs[0].shape == ("batch", "sequence")
    assert "transformers/models/bert" in made.changes[0]
    with hooks.open(hooks.materialise(model).model) as a, hooks.open(made.model) as b:
        rows = {s.name: np.ones((3, 7), np.int64) for s in made.model.signature.inputs}
        np.testing.assert_array_equal(a.run(rows)["logits"], b.run(rows)["logits"])
    static = plugin.lepton_adapt(
        made.model, request(shapes={"batch": 1, "sequence": 9}), hooks.context()
    )
    assert static.model.signature.inputs[0].shape == (1, 9)


# --- what is asked for --------------------------------------------------------------------------


def test_a_named_rewrite_is_done_needed_or_not_and_no_other():
    module = randomised(
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Hardswish())
    )
    result = adapt(exported(module, X), rewrites=("expand-hardswish",))
    assert [c.partition(":")[0] for c in result.changes] == ["expand-hardswish"]
    by = {one.rewrite: one.why for one in result.considered}
    assert by["expand-hardswish"] == "asked for"
    assert by["fold-batch-norm"] == "other rewrites are asked for"


def test_what_is_still_open_after_a_choice_is_said():
    model = exported(nn.Sequential(nn.Hardswish(), nn.SiLU()), X)
    result = adapt(model, ("aten.silu",), rewrites=("expand-hardswish",))
    assert any("aten.silu.default" in w and "still" in w for w in result.warnings)


def test_a_target_may_want_a_rewrite_by_name():
    model = exported(nn.Sequential(nn.AdaptiveAvgPool2d(4)), X)
    result = adapt(model, constraints=Constraints(rewrites=("fix-adaptive-pool",)))
    assert "kernel 2x2" in result.changes[0]


def test_a_named_rewrite_that_can_be_done_nowhere_says_why_and_where():
    module = randomised(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()))
    with pytest.raises(AdaptError, match="fold-batch-norm") as caught:
        adapt(exported(module, X), rewrites=("fold-batch-norm",))
    assert caught.value.code == "LPT-ADAPT-008"
    assert "no convolution or linear layer" in caught.value.cause
    assert "module 1" in caught.value.cause


def test_an_operator_that_nobody_removes_is_refused():
    with pytest.raises(AdaptError, match=r"aten\.erfinv") as caught:
        adapt(exported(nn.Sequential(Erfinv()), X), ("aten.erfinv",))
    assert caught.value.code == "LPT-ADAPT-009"
    assert "test_torch_adapt.py" in str(caught.value)


class Erfinv(nn.Module):
    def forward(self, x):
        return torch.erfinv(x.tanh())


def test_static_shapes_need_every_size():
    path = exported(nn.Sequential(nn.ReLU()), X).path
    batch, rows = torch.export.Dim("batch", max=9), torch.export.Dim("rows", max=99)
    program = torch.export.export(nn.ReLU(), (X,), dynamic_shapes=({0: batch, 2: rows},))
    torch.export.save(program, path)
    model, static = Model("torch.export", path), Constraints(static_shapes=True)
    with pytest.raises(AdaptError, match="input_dim2") as caught:
        adapt(model, constraints=static)
    assert caught.value.code == "LPT-ADAPT-005"
    done = adapt(model, constraints=static, shapes={"input_dim2": 5})
    assert done.model.signature.inputs[0].shape == (1, 4, 5, 8)


# --- programs that cannot be adapted ------------------------------------------------------------


class Drops(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


def test_training_mode_is_refused_with_the_place():
    with pytest.raises(AdaptError, match="training mode") as caught:
        adapt(exported(Drops(), X))
    assert caught.value.code == "LPT-ADAPT-007"
    assert "test_torch_adapt.py" in caught.value.message
    assert "eval" in caught.value.remedy


def test_a_custom_operator_is_refused_with_the_place():
    @torch.library.custom_op("lepton_adapt_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)

    class Uses(nn.Module):
        def forward(self, x):
            return twice(x)

    with pytest.raises(AdaptError, match="lepton_adapt_test") as caught:
        adapt(exported(Uses(), X))
    assert caught.value.code == "LPT-ADAPT-006"
    assert "test_torch_adapt.py" in caught.value.message


class Branches(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda x: nn.functional.silu(x) + 1, lambda x: x * 2, (x,))


def test_what_stands_in_control_flow_is_left_and_said():
    with pytest.raises(AdaptError, match="silu") as caught:
        adapt(exported(Branches(), X, dynamic=False), ("aten.silu",))
    assert caught.value.code == "LPT-ADAPT-009"
    assert "inside of control flow" in str(caught.value)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x, factor, more):
        return {"out": self.norm(self.conv(x)) * factor + more["shift"]}


def test_a_foreign_program_with_nested_and_constant_inputs(hooks, tmp_path):
    module = randomised(Nested())
    shift = torch.randn(2, 4, 8, 8)
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module, (X, 3, {"shift": shift})), path)
    made = adapt(Model("torch.export", str(path)))
    assert "fold-batch-norm" in made.changes[0]
    names = [spec.name for spec in made.model.signature.inputs]
    with torch.no_grad():
        want = module(X, 3, {"shift": shift})["out"].numpy()
    with hooks.open(made.model) as session:
        given = dict(zip(names, (X.numpy(), shift.numpy()), strict=True))
        got = session.run(given)
    np.testing.assert_allclose(got["out"], want, rtol=1e-4, atol=1e-5)


# --- rewrites of other plugins ------------------------------------------------------------------


def _double(editor):
    for node in editor.find("aten.relu"):
        with editor.before(node):
            (x,) = node.args
            once = editor.call(torch.ops.aten.relu.default, x)
            editor.replace(
                node, editor.call(torch.ops.aten.mul.Tensor, once, editor.factor), "done"
            )


def _fails(editor):
    raise RuntimeError("the plugin's own fault")


@pytest.fixture
def bring(monkeypatch, tmp_path):
    """Return a function that registers a plugin with one rewrite of relu and adapts with it."""

    def run(implementation, tolerance=0.0, name="rewrite-relu", factor=1.0):
        home = types.ModuleType("fake_rewrites_home")
        home.rewrite = implementation
        monkeypatch.setitem(sys.modules, home.__name__, home)
        monkeypatch.setattr("lepton_torch._editor.Editor.factor", factor, raising=False)
        registry = Registry(environ={}, entries=())
        rewrite = Rewrite(
            name, "writes relu anew", ("torch.export",), "fake_rewrites_home:rewrite",
            removes=("aten.relu",), tolerance=tolerance,
        )  # fmt: skip
        registry.register(plugin, INFO)
        info = ExtensionInfo("extra", "Extra", "fake-extra", rewrites=(rewrite,))
        registry.register(types.ModuleType("extra"), info)
        model = exported(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), X)
        context = Context(tmp_path)
        return CoreHooks(registry).adapt(model, AdaptRequest("torch", (name,)), context), context

    return run


def test_a_plugin_brings_a_rewrite(bring):
    result, _ = bring(_double, factor=1.0)
    (line,) = result.changes
    assert line == "rewrite-relu: done at module 1; exact"


def test_a_rewrite_that_changes_more_than_it_declares_is_refused_and_nothing_is_written(
    bring, tmp_path
):
    with pytest.raises(AdaptError, match="rewrite-relu") as caught:
        bring(_double, factor=1.0001, tolerance=1e-5)
    assert caught.value.code == "LPT-ADAPT-010"
    assert caught.value.details["difference"] == pytest.approx(1e-4, rel=1e-2)
    assert "fake-extra" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_within_its_tolerance_the_measured_difference_is_said(bring):
    result, _ = bring(_double, factor=1.0001, tolerance=1e-3)
    assert result.changes[0].endswith("differs by 1.0e-04 at most")


def test_a_plugins_fault_names_the_plugin(bring):
    with pytest.raises(AdaptError, match="fake-extra") as caught:
        bring(_fails)
    assert caught.value.code == "LPT-ADAPT-011"
    assert "own fault" in caught.value.cause


def test_two_rewrites_of_one_name_are_a_conflict(bring):
    with pytest.raises(PluginConflictError, match="fold-batch-norm") as caught:
        bring(_double, name="fold-batch-norm")
    assert caught.value.code == "LPT-ADAPT-002"


def test_an_unknown_rewrite_suggests_the_nearest(tmp_path):
    registry = Registry(environ={}, entries=())
    registry.register(plugin, INFO)
    model = Model("torch.export", str(tmp_path / "never-read.pt2"))
    with pytest.raises(UsageError, match="fold-batchnorm") as caught:
        CoreHooks(registry).adapt(
            model, AdaptRequest("torch", ("fold-batchnorm",)), Context(tmp_path)
        )
    assert caught.value.code == "LPT-ADAPT-001"
    assert "fold-batch-norm" in caught.value.remedy


def test_every_rewrite_can_be_imported_and_is_described():
    import importlib

    for rewrite in REWRITES:
        module, _, name = rewrite.implementation.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
        assert rewrite.summary
        assert set(rewrite.formats) == {source.id for source in INFO.sources}


def test_the_torch_target_takes_its_own_constraints(hooks, tmp_path):
    """The constraints travel with the request, so that the owner need not know the target."""
    registry = Registry(environ={}, entries=())
    strict = replace(INFO, constraints=Constraints(forbidden_ops=("aten.silu",)))
    registry.register(plugin, strict)
    model = exported(nn.Sequential(nn.SiLU()), X)
    result = CoreHooks(registry).adapt(model, AdaptRequest("torch"), Context(tmp_path))
    assert "expand-silu" in result.changes[0]
    converted = CoreHooks(registry).convert(
        result.model, ConvertRequest("torch", to_format="pivot"), hooks.context()
    )
    assert converted.model.lineage[0].step == "adapt"
