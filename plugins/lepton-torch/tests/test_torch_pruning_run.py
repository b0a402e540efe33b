"""``adapt --prune`` as a whole: budgets, recovery, receipts, recipes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapting import exported, randomised
from torch import nn

from lepton_core.capabilities import Constraints
from lepton_core.errors import AdaptError, UsageError
from lepton_core.types import AdaptRequest, Model, PruneRequest
from lepton_torch import plugin
from lepton_torch._archive import load_program
from lepton_torch._pruning import _latency, _run
from lepton_torch._pruning._choose import choose
from lepton_torch._pruning._classes import Cut
from lepton_torch._pruning._data import Rows
from lepton_torch._pruning._groups import find_groups
from lepton_torch._pruning._importance import CRITERIA, importance
from lepton_torch._pruning._proof import traced
from lepton_torch._pruning._recover import recover

A, B = [16, 1, 3, 3], [16, 16, 3, 3]
"""Shapes of the weights of :class:`Small`."""


class Small(nn.Module):
    """Two convolutions and a head; the first one has four channels that do nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(x.mean((2, 3)))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def quick_timing():
    """Nothing here is about how fast it is; the benchmark is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lepton_core.timing._PAIRS", 5)
        patch.setattr("lepton_core.timing._TURN_SECONDS", 0.001)
        yield


@pytest.fixture(scope="module")
def small():
    module = randomised(Small())
    dead = [1, 6, 10, 15]
    with torch.no_grad():
        module.a.weight[dead] = 0.0
        module.a.bias[dead] = 0.0
        module.b.weight[:, dead] *= 0.1
    return exported(module, torch.zeros(2, 1, 8, 8)), dead


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Images whose class is the quarter that is bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 240)
    images = rng.normal(0, 0.3, (240, 1, 8, 8)).astype(np.float32)
    for row, label in enumerate(labels):
        y, x = divmod(int(label), 2)
        images[row, 0, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] += 1.0
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, x=images, labels=labels)
    return str(path)


def prune(model, hooks, samples=None, seed=0, **asked):
    asked.setdefault("epochs", 4)
    request = AdaptRequest(
        "torch",
        constraints=Constraints(channel_multiple=4),
        prune=PruneRequest(**asked),
        samples=samples,
    )
    context = hooks.context(seed)
    return plugin.lepton_adapt(model, request, context), context.workdir


def weights(model):
    return {n: tuple(t.shape) for n, t in load_program(model.path).exported.state_dict.items()}


@pytest.fixture(scope="module")
def pruned(small, rows, hooks):
    return prune(small[0], hooks, rows, share=0.5)


def test_the_budget_holds_and_the_receipt_says_what_was_counted(small, pruned):
    result, folder = pruned
    receipt = result.facts["pruning"]
    before, after = weights(small[0]), weights(result.model)
    count = lambda shapes: sum(int(np.prod(s)) for s in shapes.values())  # noqa: E731
    assert receipt["parameters"]["before"] == count(before)
    assert receipt["parameters"]["after"] == count(after)
    macs = 64 * (9 * after["a.weight"][0] * (1 + after["b.weight"][0])) + 4 * after["b.weight"][0]
    assert receipt["macs"]["after"] == macs
    assert receipt["macs"]["share"] <= 0.5
    assert {s[0] % 4 for n, s in after.items() if n in ("a.weight", "b.weight")} == {0}
    assert receipt["size_bytes"]["after"] < receipt["size_bytes"]["before"]
    (single, many) = receipt["latency"]
    assert (single["rows"], many["rows"]) == (1, 32)
    assert single["interval"][0] <= single["speedup"] <= single["interval"][1]
    assert len(receipt["recovery"]) == 3
    found = receipt["accuracy"]
    assert found["rows"] == 160
    assert found["drop"] == pytest.approx(found["before"] - found["after"])
    assert result.changes[0].startswith("prune: a.weight: 16 to ")
    assert "test_torch_pruning_run.py:" in result.changes[0]
    assert result.considered[0].left == ("head.weight: it is an output of the model",)
    assert (folder / "pruning.json").is_file()
    assert result.model.metadata["pruning"]["asked"]["share"] == 0.5
    assert result.model.lineage[-1].request["prune"]["share"] == 0.5


def test_the_same_request_gives_the_same_bytes(small, rows, hooks, pruned):
    again, folder = prune(small[0], hooks, rows, share=0.5)
    assert again.model.digest == pruned[0].model.digest
    mine, theirs = (json.loads((f / "pruning.json").read_text()) for f in (folder, pruned[1]))
    assert mine["weights"] == theirs["weights"]
    assert mine["groups"] == theirs["groups"]
    first, second = (f / "pruning.json" for f in (folder, pruned[1]))
    assert first.read_bytes() == second.read_bytes()


def test_recovery_gets_nearer_to_the_original(digits, digits_program, hooks):
    path = hooks.context().workdir / "rows.npz"
    np.savez(path, image=digits.images[:240])
    asked = {"share": 0.5, "multiple": 1, "rounds": 1, "rows": 200}
    bare, _ = prune(digits_program.model, hooks, str(path), epochs=0, **asked)
    trained, _ = prune(digits_program.model, hooks, str(path), epochs=15, **asked)
    assert bare.facts["pruning"]["recovery"] == []
    (one,) = trained.facts["pruning"]["recovery"]
    assert one["loss"][1] < 0.5 * one["loss"][0]
    assert weights(bare.model) == weights(trained.model)
    outputs = []
    for model in (digits_program.model, bare.model, trained.model):
        with hooks.open(model) as session:
            outputs.append(session.run({"image": digits.images[240:290]})["logits"])
    want, before, after = outputs
    assert np.linalg.norm(after - want) < 0.6 * np.linalg.norm(before - want)


def test_a_recipe_gives_the_same_structure_again(small, rows, hooks, pruned):
    result, folder = pruned
    again, _ = prune(small[0], hooks, recipe=str(folder / "pruning.json"))
    assert weights(again.model) == weights(result.model)
    kept = json.loads((folder / "pruning.json").read_text())["weights"]["a.weight"]["kept"]["0"]
    original = load_program(small[0].path).exported.state_dict["a.weight"]
    sliced = load_program(again.model.path).exported.state_dict["a.weight"]
    assert torch.equal(sliced, original[kept])


def test_a_recipe_of_another_model_is_refused(small, hooks, pruned, tmp_path):
    data = json.loads((pruned[1] / "pruning.json").read_text())
    place = tmp_path / "pruning.json"
    for change, cause in (
        ({"c.weight": data["weights"]["a.weight"]}, "no weight 'c.weight'"),
        ({"head.weight": {"shape": [4, 16], "kept": {"0": [0, 1]}}}, "must stay"),
        ({"a.weight": {"shape": A, "kept": {"0": [99]}}}, "no such indices"),
        ({"a.weight": {"shape": A, "kept": {"-4": [0, 1]}}}, "no such indices"),
        (
            {
                "a.weight": {"shape": A, "kept": {"0": [1, 2]}},
                "b.weight": {"shape": B, "kept": {"1": [0]}},
            },
            "lose more",
        ),
        ({"a.weight": {"shape": [32, 1, 3, 3], "kept": {"0": [0, 1]}}}, "written for 32"),
    ):
        place.write_text(json.dumps({**data, "weights": change}))
        with pytest.raises(AdaptError) as caught:
            prune(small[0], hooks, recipe=str(place))
        assert caught.value.code == "LPT-ADAPT-016"
        assert cause in str(caught.value.cause)
    place.write_text("{}")
    with pytest.raises(AdaptError) as caught:
        prune(small[0], hooks, recipe=str(place))
    assert caught.value.code == "LPT-ADAPT-015"


def test_without_samples_weights_alone_decide(small, hooks):
    result, _ = prune(small[0], hooks, share=0.8)
    assert "nothing was trained" in result.warnings[0]
    assert "accuracy" not in result.facts["pruning"]
    assert result.facts["pruning"]["latency"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_channels_that_do_nothing_go_first(criterion, small, rows):
    from lepton_core.samples import load_samples

    model, dead = small
    program = load_program(model.path)
    structure = traced(program, 0)
    groups, _ = find_groups(structure, 4)
    data = Rows(program, structure.graph_module, load_samples(rows), 0)
    found = importance(
        structure, groups, structure.graph_module, Cut(structure.classes, []), criterion,
        batches=data.first(64, 16),
    )  # fmt: skip
    (group,) = [g for g in groups if g.name == "a.weight"]
    order = sorted(range(16), key=lambda n: found[int(group.classes[n])])
    assert sorted(order[:4]) == dead


def test_the_cheapest_blocks_go_until_the_budget_holds_and_not_further(small):
    structure = traced(load_program(small[0].path), 0)
    groups, _ = find_groups(structure, 4)
    flat = {int(c): 1.0 for g in groups for c in g.classes}
    chosen = choose(structure, groups, flat, metric="macs", share=0.6)
    assert chosen.share <= 0.6
    gone = set(chosen.removed)
    for group in groups:  # giving any block back would break the budget
        mine = [int(c) for c in group.classes if int(c) in gone]
        if mine:
            back = Cut(structure.classes, sorted(gone - set(mine[:4])))
            assert structure.macs(back) > 0.6 * structure.macs()
    least = choose(structure, groups, flat, metric="macs", share=0.01)
    assert "smallest width" in least.limit


def test_a_budget_in_milliseconds_is_measured(small, rows, hooks, monkeypatch):
    monkeypatch.setattr(_latency, "_TRIES", 1)
    result, _ = prune(
        small[0], hooks, rows, metric="latency", milliseconds=1000.0, rounds=1, epochs=1
    )
    assert 0.5 <= result.facts["pruning"]["macs"]["share"] < 0.6  # the first try was quick enough
    with pytest.raises(AdaptError) as caught:
        prune(small[0], hooks, rows, metric="latency", milliseconds=1e-6)
    assert caught.value.code == "LPT-ADAPT-020"


def test_a_loss_that_is_not_finite_starts_again_from_the_best(small, rows, monkeypatch):
    from lepton_core.samples import load_samples
    from lepton_torch._pruning import _recover

    program = load_program(small[0].path)
    structure = traced(program, 0)
    graph = structure.graph_module
    data = Rows(program, graph, load_samples(rows), 0)
    data.teacher = [t + 1.0 for t in data.teacher]  # something to learn
    monkeypatch.setattr(_recover, "_RATE", 1e30)
    monkeypatch.setattr(_recover.nn.utils, "clip_grad_norm_", lambda *_: None)
    before = {n: p.detach().clone() for n, p in graph.named_parameters()}
    found = recover(graph, data, epochs=2, deadline=None, seed=0)
    assert found.restarts == 3
    assert found.after <= found.before
    assert all(torch.isfinite(p).all() for p in graph.parameters())
    assert all(torch.equal(before[n], p) for n, p in graph.named_parameters())


def test_time_runs_out_and_the_best_so_far_is_kept(small, rows, hooks):
    result, _ = prune(small[0], hooks, rows, share=0.5, epochs=500, seconds=0.5, rounds=1)
    (one,) = result.facts["pruning"]["recovery"]
    assert one["stopped"] == "time"
    assert one["epochs"] < 500
    assert any("time ran out" in w for w in result.warnings)


def test_a_group_whose_removal_is_not_zeroing_is_left_and_named(small, rows, hooks, monkeypatch):
    holds = _run.Prover.holds

    def doubted(self, cut):
        whole = self._structure.weights["a.weight"][0]
        return bool(cut.mask(whole).all()) and holds(self, cut)

    monkeypatch.setattr(_run.Prover, "holds", doubted)
    result, _ = prune(small[0], hooks, rows, share=0.6, epochs=0)
    shapes = weights(result.model)
    assert shapes["a.weight"][0] == 16
    assert shapes["b.weight"][0] < 16
    left = result.considered[0].left
    assert "a.weight: removing it was not the same as setting it to zero" in left


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"share": 0.05}, "LPT-ADAPT-020"),
        ({"share": 0.5, "keep": ("nothing",)}, "LPT-ADAPT-017"),
        ({"share": 0.5, "multiple": 64}, "LPT-ADAPT-018"),
        ({"share": 0.4, "max_drop": -1.0, "epochs": 0}, "LPT-ADAPT-021"),
    ],
)
def test_what_cannot_be_met_is_refused_and_nothing_is_written(asked, code, small, rows, hooks):
    context = hooks.context()
    request = AdaptRequest(
        "torch", constraints=Constraints(channel_multiple=4), samples=rows,
        prune=PruneRequest(**{"epochs": 1, **asked}),
    )  # fmt: skip
    with pytest.raises(AdaptError) as caught:
        plugin.lepton_adapt(small[0], request, context)
    assert caught.value.code == code
    assert caught.value.remedy
    assert not [p for p in context.workdir.iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"share": 1.5}, {"share": 0.5, "metric": "flops"}, {"share": 0.5, "importance": "luck"},
        {"milliseconds": 2.0}, {"share": 0.5, "rounds": 0}, {"share": 0.5, "max_drop": 0.1},
        {"share": 0.5, "importance": "taylor"}, {"share": 0.5, "seconds": float("nan")},
        {"share": 0.5, "metric": "latency", "milliseconds": 1.0},
        *[{"recipe": "pruning.json", **more} for more in (
            {"keep": ("a",)}, {"multiple": 4}, {"importance": "l1"}, {"rounds": 2}, {"share": 0.5},
        )],
    ],
)  # fmt: skip
def test_requests_that_make_no_sense_are_refused(asked, small, hooks):
    with pytest.raises(UsageError) as caught:
        prune(small[0], hooks, **asked)
    assert caught.value.code == "LPT-ADAPT-022"


def test_a_fixed_batch_is_pruned_and_recovered(rows, hooks):
    model = exported(randomised(Small()), torch.zeros(8, 1, 8, 8), dynamic=False)
    result, _ = prune(model, hooks, rows, share=0.5, epochs=2)
    assert result.facts["pruning"]["macs"]["share"] <= 0.5
    assert result.model.signature.inputs[0].shape == (8, 1, 8, 8)
    assert [one["rows"] for one in result.facts["pruning"]["latency"]] == [8]


def test_pruning_and_rewriting_go_together(digits, hooks):
    path = hooks.context().workdir / "rows.npz"
    np.savez(path, image=digits.images, labels=digits.labels)
    request = AdaptRequest(
        "onnxruntime",
        prune=PruneRequest(share=0.6, multiple=2, epochs=4, rounds=1),
        samples=str(path),
    )
    result = plugin.lepton_adapt(digits.model, request, hooks.context())
    kinds = [line.partition(":")[0] for line in result.changes]
    assert kinds == ["prune", "fold-batch-norm"]
    step = result.model.lineage[-1]
    assert step.request["changes"] == list(result.changes)
    again = plugin.lepton_adapt(result.model, replace(request, prune=None), hooks.context())
    assert again.changes == ()
    pivot = hooks.pivot(result.model).model
    assert isinstance(pivot, Model)
