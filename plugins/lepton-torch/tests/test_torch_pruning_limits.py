"""``adapt --prune`` at its limits: times that are missed, few rows, odd outputs, names to keep."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch
from adapting import exported, randomised
from torch import nn

from lepton_core.capabilities import Constraints
from lepton_core.errors import AdaptError, OperationCancelledError, UsageError
from lepton_core.types import AdaptRequest, PruneRequest
from lepton_torch import plugin
from lepton_torch._archive import load_program
from lepton_torch._pruning import _latency, _measure, _receipt
from lepton_torch._pruning._choose import choose
from lepton_torch._pruning._groups import find_groups
from lepton_torch._pruning._proof import traced

IMAGE = torch.zeros(2, 1, 8, 8)


class Net(nn.Module):
    """Two convolutions with a norm between them, and a head."""

    def __init__(self):
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.norm(self.a(x))))).mean((2, 3)))


class Scores(Net):
    """Gives a number for all rows together and classes beside the scores."""

    def forward(self, x):
        scores = super().forward(x)
        return scores.square().mean(), scores.argmax(1), self.head.weight * 1.0, scores


class Classes(Net):
    """Gives no scores at all."""

    def forward(self, x):
        scores = super().forward(x)
        return scores.argmax(1), scores.mean()


@pytest.fixture(autouse=True, scope="module")
def quick():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lepton_core.timing._PAIRS", 5)
        patch.setattr("lepton_core.timing._TURN_SECONDS", 0.001)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net():
    return exported(randomised(Net()), IMAGE)


@pytest.fixture
def rows(tmp_path):
    return saved(tmp_path, 40)


def saved(folder, count, kinds=None):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(kinds or count, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "rows.npz", x=images[np.arange(count) % len(images)])
    return str(folder / "rows.npz")


def prune(model, context, samples=None, **asked):
    request = AdaptRequest(
        "torch",
        constraints=Constraints(channel_multiple=4),
        prune=PruneRequest(**{"epochs": 2, "rounds": 1, **asked}),
        samples=samples,
    )
    return plugin.lepton_adapt(model, request, context)


def widths(model):
    state = load_program(model.path).exported.state_dict
    return {n: state[f"{n}.weight"].shape[0] for n in ("a", "b")}


# --- budgets of time ----------------------------------------------------------------------------


def timed(monkeypatch, *speedups):
    """Let the search find any share quick enough, and the result as quick as said, in turn."""
    said = iter(speedups)

    def entry(low, speedup, high):
        return {
            "before_ms": 1.0, "after_ms": 1.0 / speedup, "speedup": speedup,
            "interval": [low, high], "rows": 1, "runtime": "torch",
        }  # fmt: skip

    monkeypatch.setattr(_latency, "_TRIES", 1)
    monkeypatch.setattr(_latency, "compare_latency", lambda *_: [entry(90.0, 100.0, 110.0)])
    monkeypatch.setattr(_receipt, "compare_latency", lambda *_: [entry(*next(said))])


@pytest.mark.parametrize("budget", [{"share": 0.5}, {"milliseconds": 0.5}])
def test_a_time_that_is_missed_for_certain_is_refused(net, rows, hooks, monkeypatch, budget):
    timed(monkeypatch, (1.1, 1.2, 1.3), (1.2, 1.3, 1.4))
    context = hooks.context()
    with pytest.raises(AdaptError) as caught:
        prune(net, context, rows, metric="latency", **budget)
    assert caught.value.code == "LPT-ADAPT-020"
    assert caught.value.details["closest"] == pytest.approx(2.0 / 1.3)
    assert "of the MACs" in caught.value.cause or "smallest width" in caught.value.cause
    assert not [p for p in context.workdir.iterdir() if not p.name.startswith(".")]


def test_a_time_that_is_missed_is_cut_for_once_more(net, rows, hooks, monkeypatch):
    timed(monkeypatch, (2.1, 2.2, 2.3))
    once = prune(net, hooks.context(), rows, metric="latency", share=0.5)
    timed(monkeypatch, (1.1, 1.2, 1.3), (2.1, 2.2, 2.3))
    again = prune(net, hooks.context(), rows, metric="latency", share=0.5)
    shares = [r.facts["pruning"]["macs"]["share"] for r in (once, again)]
    assert shares[1] < shares[0]
    assert len(again.facts["pruning"]["recovery"]) == 2
    assert not any("not certain" in w for w in again.warnings)


def test_a_time_that_may_be_missed_is_told(net, rows, hooks, monkeypatch):
    timed(monkeypatch, (1.9, 2.1, 2.3))
    result = prune(net, hooks.context(), rows, metric="latency", share=0.5)
    assert any("50% of the time holds is not certain" in w for w in result.warnings)


def test_times_of_two_runtimes_are_never_compared(net, hooks, monkeypatch):
    build, compare, pairs = _measure.build, _measure.compare_latency, []

    def failing(program, target, folder, context):
        made, why = build(program, "torch", folder, context)
        if target == "other" and not pairs and "try-0" in folder.name:
            return _measure.Built(made.model, "other", made.size), ""
        return made, "it is too small" if target == "other" else why

    def watched(old, new, *rest):
        pairs.append((old.runtime, new.runtime))
        return compare(old, new, *rest)

    monkeypatch.setattr(_latency, "_TRIES", 1)
    monkeypatch.setattr(_latency, "build", failing)
    monkeypatch.setattr(_latency, "compare_latency", watched)
    program = load_program(net.path)
    structure = traced(program, 0)
    groups, _ = find_groups(structure, 4)
    settings = type("S", (), {"milliseconds": 1e6, "share": None})()
    flat = {int(c): 1.0 for g in groups for c in g.classes}
    _, notes = _latency.share_for_latency(
        program, structure, groups, flat, settings, target="other", samples=None,
        context=hooks.context(),
    )  # fmt: skip
    assert set(pairs) == {("torch", "torch")}
    assert notes == ("Times were measured on torch, not on other: it is too small",)


def test_a_share_that_was_reached_can_be_asked_for(net):
    structure = traced(load_program(net.path), 0)
    groups, _ = find_groups(structure, 1)
    flat = {int(c): 1.0 for g in groups for c in g.classes}
    for wanted in np.linspace(0.05, 0.95, 40):
        first = choose(structure, groups, flat, metric="macs", share=float(wanted))
        again = choose(structure, groups, flat, metric="macs", share=first.share)
        assert again.limit == "" or first.limit
        assert again.share == first.share


def test_requests_of_many_rows_are_timed_whatever_the_batch_is_called(hooks, tmp_path):
    batch = torch.export.Dim("n", min=1, max=16)
    with torch.no_grad():
        program = torch.export.export(randomised(Net()), (IMAGE,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    from lepton_core.types import Model

    loaded = load_program(tmp_path / "model.pt2")
    loaded.bounds.update({"n": loaded.bounds.pop(str(loaded.signature.inputs[0].shape[0]))})
    spec = loaded.signature.inputs[0]
    object.__setattr__(spec, "shape", ("n", *spec.shape[1:]))
    assert _measure.request_rows(loaded) == (1, 16)
    result = prune(Model("torch.export", str(tmp_path / "model.pt2")), hooks.context(), share=0.5)
    assert [one["rows"] for one in result.facts["pruning"]["latency"]] == [1, 16]


def test_cancelling_is_no_reason_to_time_on_torch(net, hooks):
    cancelled = threading.Event()
    cancelled.set()

    class Cancelled:
        def convert(self, request, settings, context):
            context.checkpoint()

    context = dataclasses.replace(hooks.context(), cancelled=cancelled, hooks=Cancelled())
    with pytest.raises(OperationCancelledError):
        _measure.build(load_program(net.path), "torch", context.workdir / "x", context)


# --- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "kinds", "asked"),
    [(1, 1, {}), (2, 2, {}), (12, 1, {}), (12, 1, {"max_drop": 0.5}), (12, 1, {"rows": 3})],
)
def test_too_few_rows_are_refused(net, hooks, tmp_path, count, kinds, asked):
    with pytest.raises(UsageError) as caught:
        prune(net, hooks.context(), saved(tmp_path, count, kinds), share=0.5, **asked)
    assert caught.value.code == "LPT-ADAPT-022"
    assert f"{count} row" in caught.value.cause
    assert "at least" in caught.value.remedy


def test_a_loss_that_is_no_number_is_refused(net, hooks, tmp_path):
    with pytest.raises(UsageError) as caught:
        prune(net, hooks.context(), saved(tmp_path, 12), share=0.5, max_drop=float("nan"))
    assert caught.value.code == "LPT-ADAPT-022"
    assert "a largest loss is a number" in caught.value.cause


def test_three_rows_are_enough(net, hooks, tmp_path):
    result = prune(net, hooks.context(), saved(tmp_path, 3), share=0.5)
    assert result.facts["pruning"]["accuracy"]["rows"] == 2
    assert not any("No samples" in w for w in result.warnings)


# --- outputs ------------------------------------------------------------------------------------


def test_only_outputs_with_rows_are_trained_towards(rows, hooks):
    model = exported(randomised(Scores()), IMAGE)
    result = prune(model, hooks.context(), rows, share=0.5)
    (one,) = result.facts["pruning"]["recovery"]
    assert np.isfinite(one["loss"]).all()
    assert one["loss"][1] <= one["loss"][0]


def test_a_model_without_such_outputs_is_refused_with_rows_and_pruned_without(rows, hooks):
    model = exported(randomised(Classes()), IMAGE)
    with pytest.raises(AdaptError) as caught:
        prune(model, hooks.context(), rows, share=0.5)
    assert caught.value.code == "LPT-ADAPT-023"
    assert "without --data" in caught.value.remedy


# --- names and recipes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "norm", "norm.weight", "norm.bias", "a.bias"])
def test_what_is_kept_keeps_its_width(net, hooks, name):
    result = prune(net, hooks.context(), share=0.7, keep=(name,))
    assert widths(result.model)["a"] == 16
    assert widths(result.model)["b"] < 16


def test_a_recipe_tells_its_groups_whatever_the_multiple(net, hooks, tmp_path):
    context = hooks.context()
    prune(net, context, share=0.6, multiple=1)
    recipe = context.workdir / "pruning.json"
    again = prune(net, hooks.context(), recipe=str(recipe), rounds=3)
    mine = json.loads(recipe.read_text())
    told = again.facts["pruning"]["groups"]
    keys = ("layer", "before", "after", "removed")
    assert [{k: g[k] for k in keys} for g in told] == [
        {k: g[k] for k in keys} for g in mine["groups"]
    ]
    assert "least_important_kept" not in told[0]
    assert again.model.metadata["pruning"]["asked"] == {"recipe": "pruning.json", "epochs": 2}
    assert not any("multiple" in line for line in again.considered[0].left)


def test_a_recipe_that_removes_nothing_changes_nothing(net, rows, hooks, tmp_path):
    context = hooks.context()
    prune(net, context, share=0.6)
    data = json.loads((context.workdir / "pruning.json").read_text())
    (tmp_path / "pruning.json").write_text(json.dumps({**data, "weights": {}}))
    result = prune(net, hooks.context(), rows, recipe=str(tmp_path / "pruning.json"), rounds=3)
    assert widths(result.model) == widths(net)
    assert result.considered[0].changes == ()
    assert result.facts["pruning"]["recovery"] == []
    assert "The recipe removes nothing." in result.warnings
