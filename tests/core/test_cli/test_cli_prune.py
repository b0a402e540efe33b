"""The options of ``lepton adapt`` that prune: budgets, what excludes what, the receipt."""

from __future__ import annotations

import click
import pytest

from lepton_core.cli._prune import BUDGET, prune_request, receipt_lines
from lepton_core.errors import UsageError
from lepton_core.types import PruneRequest

NOTHING = {
    "prune": None, "prune_recipe": None, "prune_by": None, "prune_multiple": None,
    "prune_keep": (), "rounds": None, "recover_epochs": None, "recover_seconds": None,
    "recover_rows": None, "max_drop": None, "data": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs=0.5", {"metric": "macs", "share": 0.5}),
        ("parameters = .25", {"metric": "parameters", "share": 0.25}),
        ("latency=70%", {"metric": "latency", "share": 0.7}),
        ("latency=2.5ms", {"metric": "latency", "milliseconds": 2.5}),
    ],
)
def test_budgets(text, expected):
    assert BUDGET.convert(text, None, None) == expected


@pytest.mark.parametrize(
    "text",
    ["0.5", "macs", "macs=1.5", "macs=0", "flops=0.5", "macs=3ms", "latency=-1ms", "macs=50"],
)
def test_what_is_no_budget(text):
    with pytest.raises(click.BadParameter):
        BUDGET.convert(text, None, None)


def test_options_become_a_request_and_are_taken_out():
    given = {
        **NOTHING, "prune": {"metric": "macs", "share": 0.5}, "prune_keep": ("a,b", "c"),
        "prune_multiple": 4, "recover_seconds": 90.0, "data": "rows.npz",
    }  # fmt: skip
    found = prune_request(given)
    assert found == PruneRequest("macs", 0.5, multiple=4, keep=("a", "b", "c"), seconds=90.0)
    assert given == {"data": "rows.npz"}


def test_what_trains_may_stand_beside_a_recipe():
    given = {**NOTHING, "prune_recipe": "pruning.json", "recover_epochs": 5, "max_drop": 0.1}
    assert prune_request(given) == PruneRequest(recipe="pruning.json", epochs=5, max_drop=0.1)


def test_without_a_budget_nothing_is_pruned():
    assert prune_request(dict(NOTHING)) is None


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"prune": {"share": 0.5}, "prune_recipe": "pruning.json"}, "both"),
        ({"data": "rows.npz"}, "--data"),
        ({"prune_by": "l1"}, "--prune-by"),
        ({"max_drop": 0.0}, "--max-drop"),
        ({"prune_keep": ("a",)}, "--prune-keep"),
        ({"rounds": 3}, "--rounds"),
        ({"recover_epochs": 60}, "--recover-epochs"),
        *[
            ({"prune_recipe": "pruning.json", name: value}, option)
            for name, value, option in (
                ("prune_by", "l1", "--prune-by"),
                ("prune_multiple", 4, "--prune-multiple"),
                ("prune_keep", ("a",), "--prune-keep"),
                ("rounds", 3, "--rounds"),
            )
        ],
    ],
)
def test_options_that_say_too_much_or_too_little(more, word):
    with pytest.raises(UsageError) as caught:
        prune_request({**NOTHING, **more})
    assert caught.value.code == "LPT-USE-008"
    assert word in str(caught.value.cause)


def test_the_receipt_is_a_line_for_each_measure():
    pair = {"before": 2000, "after": 1000, "share": 0.5}
    time = {
        "before_ms": 0.4, "after_ms": 0.2, "speedup": 2.0, "interval": [1.9, 2.1], "rows": 1,
        "runtime": "onnxruntime",
    }  # fmt: skip
    accuracy = {"metric": "top1", "before": 0.99, "after": 0.98, "drop": 0.01, "rows": 600}
    receipt = {
        "macs": pair, "parameters": pair, "size_bytes": pair, "latency": [time],
        "accuracy": accuracy, "note": "timed on torch",
    }  # fmt: skip
    assert receipt_lines(receipt) == [
        "MACs per row 2,000 -> 1,000 (50.0%)",
        "parameters 2,000 -> 1,000 (50.0%)",
        "size 1.95 KiB -> 1000 B (50.0%)",
        "1 row 0.4 -> 0.2 ms, 2.00x faster (1.90 to 2.10 at 95 %) on onnxruntime",
        "top1 0.99 -> 0.98 (drop 0.01) on 600 rows held out",
        "timed on torch",
    ]
    assert receipt_lines(None) == []
