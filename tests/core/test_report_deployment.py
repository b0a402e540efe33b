"""The page of a deployment tells what ran, how fast, what was changed, and nothing else."""

import itertools
import json
import re

import pytest

from lepton_core.adjusting._history import Change, Tables
from lepton_core.deployment._routes import Route
from lepton_core.deployment._telemetry import bucket_of
from lepton_core.report._timeline import _aside
from lepton_core.report.deployment import events_of, render_deployment
from lepton_core.store import Store
from lepton_core.types import Model

HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def versions(store, tmp_path):
    """Two versions; the alias moves to the second, is adjusted, and goes back."""
    ids = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.bin"
        path.write_bytes(name.encode() * 500)
        added = store.add(
            "N", Model("fake", str(path)), target=f"target-{name}", precision="fp32",
            alias="production", why=f"{HOSTILE} {name}",
        )  # fmt: skip
        ids.append(added.version.id)
    for state, verdict in (("kept", "measured 0.5"), ("reverted", "wrong sign")):
        tables = Tables(store, store.resolve("N"))
        change = Change(f"c-{state}", "planned", cause="a cause", routes_after=(Route(ids[0]),))
        tables.try_out(change, 60)
        tables.finish(change, state, verdict)
    store.record("deployment.alarm", "N", why="it failed", details={"kind": "swap"})
    return ids


def measured(store, version, calls, errors=0, alias="production", p50=0.5):
    buckets = {str(bucket_of(round(p50 * 1e6))): calls} if calls else {}
    store.metrics.write(
        "N",
        [{"alias": alias, "change": "", "seconds": 0.5, "version": version, "calls": calls,
          "errors": errors, "p50_ms": p50, "p95_ms": p50 and 2 * p50, "buckets": buckets,
          "rows": {}}],
    )  # fmt: skip


def test_the_median_is_that_of_all_calls(store, versions):
    for calls, p50 in ((60, 0.1), (40, 10.0)):
        measured(store, versions[0], calls, p50=p50)
    (row,) = re.findall(r"<tr><th[^>]*>target-one.*?</tr>", render_deployment(store, "N"))
    shown, unit = re.search(r">([0-9.]+) (\S+)</td></tr>$", row).groups()
    assert unit == "µs" and float(shown) == pytest.approx(100, rel=0.035), "buckets are 3.2 % wide"


def test_calls_failures_and_events_are_told(store, versions):
    one, two = versions
    measured(store, one, 1200)
    measured(store, two, 34, errors=2, p50=4.0)
    measured(store, two, 99, alias="beta")
    html = render_deployment(store, "N")
    assert "1,234 calls, 2 failed" in html
    assert html.count("<svg") == 2 and 'class="bad"' in html
    for text in ("target-one fp32", "now target-two fp32", "adjustment kept", "a cause: wrong sign",
                 "alarm: swap", "it failed"):  # fmt: skip
        assert text in html, text
    assert "adjustment trial" not in html
    assert HOSTILE not in html and "&lt;script&gt;" in html
    assert not re.search(r"(?:src|href)=\"(?!#)", html), "the page loads nothing"
    assert render_deployment(store, "N") == html, "the same store gives the same page"


def test_without_live_handles_the_events_stand_alone(store, versions):
    html = render_deployment(store, "N@production")
    assert "No live handle has measured" in html and "0 calls, 0 failed" in html
    measured(store, versions[0], 0, errors=3, p50=None)
    assert "0 calls, 3 failed" in render_deployment(store, "N")


def test_events_are_numbered_in_order(store, versions):
    known = {v.id: v for v in store.versions("N")}
    events = events_of(store.ledger(name="N"), known, "production")
    assert [e.seq for e in events] == sorted(e.seq for e in events)
    numbers = [e.number for e in events if e.number]
    assert numbers == list(range(1, len(numbers) + 1))
    assert {e.kind for e in events} == {"deploy", "move", "adjust", "alarm"}
    journal = {"step": "done", "target": "openvino", "why": "0 of 600 changed"}
    store.set_setting("N", "migrate.production", journal)
    last = events_of(store.ledger(name="N"), known, "production")[-1]
    assert (last.kind, last.mood, last.text) == ("migrate", "pass", "0 of 600 changed")


@pytest.mark.parametrize("number", [1, 20, 44, 60])
def test_marks_stay_in_the_chart_and_apart(number):
    for wanted in ([995.0] * number, [66.0] * number, [66.0, *[990.0] * (number - 1)]):
        places = _aside(wanted)
        assert min(places) >= 66.0 - 1e-6 and max(places) <= 996.0
        gaps = [b - a for a, b in itertools.pairwise(places)]
        assert all(gap >= min(21.0, 930.0 / number) - 1e-6 for gap in gaps)


def test_the_command_writes_the_page(store, versions, tmp_path, monkeypatch, capsys):
    from lepton_core.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["store", "page", "N", "--store", str(store.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["page"] == str(tmp_path / "N.html")
    assert (tmp_path / "N.html").read_text().startswith("<!doctype html>")
    assert main(["store", "page", "nobody", "--store", str(store.path)]) == 2
