"""Adjusting: what may run, what is proposed, what is kept, and how little a bad policy can do."""

import importlib.util
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lepton_core
from lepton_core import types
from lepton_core.adjusting import explain, history, undo
from lepton_core.adjusting._effect import Effect, LiveWatch, difference
from lepton_core.adjusting._history import Change, Tables, new_id
from lepton_core.adjusting._observe import Observer, thread_counts
from lepton_core.adjusting._verdict import judge
from lepton_core.adjusting._workload import Load, fitted, workload
from lepton_core.cli import main
from lepton_core.cli._adjust import _show_result
from lepton_core.deployment._golden import write_golden
from lepton_core.deployment._routes import Dispatch, Route, setting_key
from lepton_core.deployment._table import OpenRoute
from lepton_core.dispatch import Hooks
from lepton_core.embedded import _adjust
from lepton_core.errors import AdjustError, DeployError, LeptonError, SessionError, UsageError
from lepton_core.policy._plan import plan
from lepton_core.store import Store
from lepton_core.timing import interval


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


passports = _load(Path(__file__).with_name("passports.py"))


@pytest.fixture(scope="module")
def sleepy():
    return _load(Path(__file__).parents[1] / "data" / "sleepy_target.py")


def register(registry, sleepy):
    from lepton_core import embedded, policy
    from lepton_core.embedded import info as embedded_info
    from lepton_core.embedded import plugin as embedded_plugin
    from lepton_core.policy import info as policy_info
    from lepton_core.policy import plugin as policy_plugin

    assert embedded and policy
    registry.register(embedded_plugin, embedded_info.INFO)
    registry.register(policy_plugin, policy_info.INFO)
    registry.register(sleepy, sleepy.INFO)
    return registry


@pytest.fixture
def hooks(registry, sleepy):
    return Hooks(register(registry, sleepy))


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr(_adjust, "available_cpus", lambda: 2)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


def passport(verdict="pass", accuracy=0.98):
    made = passports.passport()
    verdict = {**made["verdict"], "verdict": verdict, "why": "as tested"}
    metric = {**made["metric"], "variant": accuracy, "higher_is_better": True}
    return {**made, "verdict": verdict, "metric": metric}


@pytest.fixture
def put(store, sleepy, tmp_path):
    """Store an artifact of known times; returns the version's id."""

    def make(name, alias=None, proof=None, golden=None, **made):
        model = sleepy.artifact(tmp_path / f"{name}.json", **made)
        given = passport() if proof is None else proof
        added = store.add(
            "N", model, target="sleepy", precision=name, passport=given or None, alias=alias,
            golden=golden,
        )  # fmt: skip
        return added.version.id

    return make


@pytest.fixture
def variants(put):
    """Return a slow version behind the alias, and a fast variant of it."""
    return (
        put("slow", "production", ms={"1": 5.0, "2": 4.0}),
        put("fast", ms={"1": 1.0, "2": 1.5}),
    )


@pytest.fixture
def adjust(hooks, store, context):
    def run(objective="latency", floor=None, **options):
        options = {"store": str(store.path), "seconds": 0.0, "settle": 0.0, **options}
        request = types.AdjustRequest("N", objective, floor, options=options)
        return hooks.adjust(types.Model("deployment", "N"), request, context)

    return run


def values(deployed, rows=1):
    return float(deployed.run({"x": np.ones((rows, 4), np.float32)})["y"][0, 0])


# --- the run ------------------------------------------------------------------------------------


def test_the_best_variant_and_threads_are_tried_measured_and_kept(adjust, store, variants):
    slow, fast = variants
    result = adjust()
    (change,) = result.changes
    assert change["state"] == "kept", change["verdict"]
    (route,) = change["routes_after"]
    assert route == {"version": fast, "rows": None, "threads": 1, "batch": None}
    assert change["predicted"]["ratio"] == pytest.approx(0.25, abs=0.1)
    assert change["measured"]["ratio"] == pytest.approx(0.25, abs=0.1)
    assert change["measured"]["low"] <= change["measured"]["ratio"] <= change["measured"]["high"]
    assert "instead of" in change["cause"]
    states = [(c.id, c.state) for c in history(store, "N")]
    assert states == [(change["id"], "trial"), (change["id"], "kept")]
    assert {r.kind for r in store.ledger(name="N")} == {"version.add", "alias.set", "setting.set"}
    assert store.alias("N").version == slow, "the alias has not moved"
    assert store.verify().ok
    assert adjust().changes == (), "the best that was measured runs already"


def test_a_handle_follows_and_an_undo_leads_back(adjust, store, hooks, variants):
    slow, fast = variants
    with lepton_core.deployment("N", store=store, hooks=hooks, poll_seconds=None) as deployed:
        adjust()
        assert deployed.check() is True
        assert [(r.version, r.threads) for r in deployed.routes] == [(fast, 1)]
        taken = undo(store, "N", why="for a test")
        assert deployed.check() is True
        assert [r.version for r in deployed.routes] == [slow]
    last = history(store, "N")[-1]
    assert (last.state, last.undoes, last.verdict) == ("undone", taken.undoes, "for a test")
    with pytest.raises(AdjustError, match="LPT-ADJ-003"):
        undo(store, "N")


def test_undo_goes_back_step_by_step(store, variants):
    slow, fast = variants
    for threads in (1, 2):
        tables = Tables(store, store.resolve("N"))
        change = Change(new_id(), "planned", routes_after=(Route(fast, threads=threads),))
        tables.try_out(change, 60)
        tables.finish(change, "kept", "better")
    assert explain(store, "N")["routes"][0]["threads"] == 2
    undo(store, "N")
    assert explain(store, "N")["routes"][0]["threads"] == 1
    undo(store, "N")
    told = explain(store, "N")
    assert [r["version"] for r in told["routes"]] == [slow] and told["change"] is None
    assert told["last"]["state"] == "undone"


def test_explain_says_what_runs_by_which_change_and_what_was_refused(adjust, store, variants, put):
    refused = put("unproved", proof=False, ms={"1": 0.5, "2": 0.5})
    change = adjust().changes[0]
    told = explain(store, "N")
    assert told["routes"][0]["precision"] == "fast"
    assert told["change"]["id"] == change["id"] and not told["on_trial"]
    reasons = {c["version"]: c["refused"] for c in told["change"]["considered"]["candidates"]}
    assert "no passport" in reasons[refused] and reasons[variants[1]] == ""
    assert len(told["change"]["considered"]["observations"]) == 4
    json.dumps(told)


def test_calls_of_different_sizes_get_different_variants(adjust, hooks, store, put):
    put("steady", "production", ms={"1": 3.0, "2": 3.0})
    bulk = put("bulk", ms={"1": 4.0, "2": 4.0}, per_row_ms=0.0)
    single = put("single", ms={"1": 0.5, "2": 0.5}, per_row_ms=0.5)
    result = adjust(rows=(1, 32))
    assert result.changes[0]["state"] == "kept", result.changes[0]["verdict"]
    routes = result.facts["routes"]
    assert routes[0]["version"] == single
    assert routes[0]["rows"] == 5, "the border is the geometric mean of 1 and 32"
    assert single != routes[-1]["version"] != bulk, "32 rows stay where they are"
    with lepton_core.deployment("N", store=store, hooks=hooks, poll_seconds=None) as deployed:
        assert [r.rows for r in deployed.routes] == [5, None]


def test_throughput_counts_all_callers_and_parts_are_tried(adjust, put):
    put("one", "production", ms={"1": 2.0, "2": 2.0})
    result = adjust("throughput", callers=2, rows=(64,))
    seen = result.facts["observations"]
    assert {o["batch"] for o in seen} == {None, 8, 32}
    assert {(o["callers"], o["rows"]) for o in seen} == {(2, 64)}
    assert all(0 < o["rows_per_s"] <= 2 * 64 / 0.002 for o in seen), "two callers, 2 ms a call"
    assert result.changes == ()


def test_what_runs_now_runs_with_the_threads_of_its_setting(adjust, store, put):
    put("slow", "production", ms={"1": 6.0, "2": 1.0})
    store.set_setting("N", "open", {"threads": "many"})  # no number: as if there were none
    assert adjust(dry_run=True).changes == ()
    store.set_setting("N", "open", {"threads": 1})
    (change,) = adjust().changes
    assert change["routes_after"][0]["threads"] == 2
    assert change["predicted"]["ratio"] == pytest.approx(1 / 6, abs=0.15)


def test_a_dry_run_changes_nothing(adjust, store, variants):
    result = adjust(dry_run=True)
    assert result.changes[0]["state"] == "planned"
    assert history(store, "N") == ()


# --- a change that does not hold ----------------------------------------------------------------


def lying(monkeypatch, routes, ratio=0.5):
    from lepton_core.policy import _plan

    change = {"routes": routes, "cause": "a hunch", "predicted": {"ratio": ratio}}
    monkeypatch.setattr(_plan, "plan", lambda request: types.AdjustResult("N", (change,)))


def test_a_change_of_the_wrong_sign_reverts_itself(adjust, store, hooks, variants, monkeypatch):
    slow, fast = variants
    kept = adjust().changes[0]
    lying(monkeypatch, [{"version": slow, "threads": 1}])
    heard = []
    with lepton_core.deployment("N", store=store, hooks=hooks, poll_seconds=0.01) as deployed:
        watcher = threading.Thread(target=_note_routes, args=(deployed, heard))
        watcher.start()
        result = adjust()
        watcher.join()
        deployed.check()
        assert [r.version for r in deployed.routes] == [fast]
    (change,) = result.changes
    assert change["state"] == "reverted" and change["verdict"].startswith("wrong sign")
    assert change["measured"]["ratio"] > 3
    assert slow in heard, "it really was on trial"
    assert [c.state for c in history(store, "N")] == ["trial", "kept", "trial", "reverted"]
    told = explain(store, "N")
    assert told["change"]["id"] == kept["id"] and told["last"]["id"] == change["id"]
    assert not deployed.alarms


def _note_routes(deployed, heard):
    until = time.monotonic() + 20
    first = deployed.routes
    while time.monotonic() < until:
        heard.extend(r.version for r in deployed.routes)
        if len(set(heard)) > 1 and deployed.routes == first:
            return
        time.sleep(0.005)


@pytest.fixture
def rows(tmp_path):
    """Return a file of real rows."""
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.linspace(1, 2, 32, dtype=np.float32).reshape(8, 4))
    return str(path)


def test_answers_that_differ_revert_it(adjust, put, rows):
    put("fp32", "production", ms={"1": 4.0, "2": 4.0})
    put("int8", factor=2.0, ms={"1": 1.0, "2": 1.0})
    change = adjust(samples=rows).changes[0]
    assert change["state"] == "reverted"
    assert change["verdict"].startswith("the answers differ by 1, over 0.15; ")
    assert change["measured"]["answers"] == "samples"


def test_noise_does_not_judge_what_was_calibrated_for_real_rows(adjust, put):
    """Its passport passed on real rows; noise lies outside of its ranges."""
    put("fp32", "production", ms={"1": 4.0, "2": 4.0})
    put("int8", factor=2.0, ms={"1": 1.0, "2": 1.0})
    change = adjust().changes[0]
    assert change["state"] == "kept", change["verdict"]
    assert "its passport passed on real rows" in change["verdict"]
    assert change["measured"]["answers"] == "passport"
    assert change["measured"]["rel_l2"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("precision", "verdict", "origin"),
    [("int8", "weak", "npz"), ("int8", "pass", "random"), ("fp16", "pass", "npz")],
)
def test_noise_judges_where_no_passport_stands_for_the_answers(
    adjust, put, precision, verdict, origin
):
    proof = passport(verdict)
    proof = {**proof, "samples": {**proof["samples"], "origin": origin}}
    put("fp32", "production", ms={"1": 4.0, "2": 4.0})
    put(precision, proof=proof, factor=2.0, ms={"1": 1.0, "2": 1.0})
    change = adjust(allow_weak=True).changes[0]
    assert change["state"] == "reverted"
    assert "on random noise: give --data" in change["verdict"]
    assert change["measured"]["answers"] == "random"


def test_noise_still_finds_what_is_wrong_on_any_input(adjust, put):
    put("fp32", "production", ms={"1": 4.0, "2": 4.0})
    put("int8", factor=float("nan"), ms={"1": 1.0, "2": 1.0})
    change = adjust().changes[0]
    assert change["state"] == "reverted" and "answers differ by inf" in change["verdict"]
    assert change["measured"]["rel_l2"] == "Infinity"


@pytest.mark.parametrize(("origin", "answers"), [("npz", "golden"), ("random", "passport")])
def test_real_golden_inputs_are_called_with(adjust, put, tmp_path, origin, answers):
    x = np.linspace(1, 2, 8, dtype=np.float32).reshape(2, 4)
    kept = write_golden(tmp_path / "golden", {"x": x}, {"y": x}, origin=origin, rel_l2=1e-3)
    put("fp32", "production", golden=kept, ms={"1": 4.0, "2": 4.0})
    put("int8", factor=2.0, ms={"1": 1.0, "2": 1.0})
    change = adjust().changes[0]
    assert change["measured"]["answers"] == answers
    assert change["state"] == ("reverted" if answers == "golden" else "kept")
    assert ("on the stored golden inputs" in change["verdict"]) is (answers == "golden")


def test_a_change_that_cannot_be_opened_is_taken_back(adjust, store, variants, monkeypatch):
    slow, fast = variants
    lying(monkeypatch, [{"version": fast, "batch": 4}])
    monkeypatch.setattr("lepton_core.deployment._table.splittable", lambda signature: False)
    change = adjust().changes[0]
    assert change["state"] == "reverted" and "could not be measured" in change["verdict"]
    assert explain(store, "N")["routes"][0]["version"] == slow
    assert store.ledger(kind="deployment.alarm")[0].details["code"] == "LPT-DEP-011"


@pytest.mark.parametrize(
    ("effect", "forced", "kept", "word"),
    [
        (Effect(0.7, 0.6, 0.8, 20), False, True, "0.700"),
        (Effect(1.1, 0.9, 1.3, 20), False, False, "wrong sign"),
        (Effect(0.97, 0.9, 1.03, 20), False, False, "noise"),
        (Effect(0.7, 0.6, 0.8, 20, rel_l2=0.5), False, False, "differ"),
        (Effect(0.7, 0.6, 0.8, 20, live=1.2, live_calls=99), False, False, "live calls"),
        (Effect(0.7, 0.6, 0.8, 20, live=0.75, live_calls=99), False, True, "99 live"),
        (Effect(1.7, 1.6, 1.8, 20), True, True, "floor"),
    ],
)
def test_the_verdict(effect, forced, kept, word):
    said, why = judge(effect, forced=forced, limit=0.15)
    assert said is kept and word in why


def test_a_comparison_that_fails_with_several_callers_is_taken_back(adjust, variants, monkeypatch):
    def fail(self, inputs):
        raise SessionError("LPT-X-001", "the runtime is gone")

    monkeypatch.setattr(OpenRoute, "run", fail)
    (change,) = adjust(callers=2).changes
    assert change["state"] == "reverted" and "the runtime is gone" in change["verdict"]


def test_a_trial_lasts_as_long_as_live_handles_may_measure(adjust, store, variants):
    began = time.time()
    adjust(settle=4000.0)
    trial = store.ledger(name="N", kind="setting.set")[0].details["value"]
    assert trial["record"]["state"] == "trial" and trial["until"] > began + 4000.0


def test_the_interval_covers_the_median():
    rng = np.random.default_rng(5)
    covered = 0
    for seed in range(200):
        low, high = interval(list(rng.lognormal(0.0, 0.3, 20)), seed)
        covered += low <= 1.0 <= high
    assert covered >= 180, "95 % of intervals hold the median that is 1"
    assert interval([2.0]) == (2.0, 2.0)


# --- live calls ---------------------------------------------------------------------------------


def test_the_workload_is_what_live_handles_measured(store, hooks, variants):
    assert workload(store, "N", "production", "latency", ())[1] == "default"
    with lepton_core.deployment("N", store=store, hooks=hooks, flush_seconds=3600) as deployed:
        for rows in (1, 1, 60):
            values(deployed, rows)
    loads, known = workload(store, "N", "production", "latency", ())
    assert known == "live calls" and [load.rows for load in loads] == [1, 64]
    assert loads[0].share == pytest.approx(2 / 3, abs=0.2)  # sleeps, on a machine that is busy
    given, known = workload(store, "N", "production", "latency", (7, 3))
    assert known == "given" and [(load.rows, load.share) for load in given] == [(3, 0.5), (7, 0.5)]


def test_live_calls_have_a_say(adjust, store, hooks, variants):
    stop = threading.Event()
    with lepton_core.deployment(
        "N", store=store, hooks=hooks, poll_seconds=0.02, flush_seconds=0.1
    ) as deployed:

        def call():
            while not stop.is_set():
                values(deployed)

        caller = threading.Thread(target=call)
        caller.start()
        time.sleep(0.5)
        result = adjust(settle=20.0)
        stop.set()
        caller.join()
    (change,) = result.changes
    assert change["state"] == "kept", change["verdict"]
    assert change["measured"]["live"] == pytest.approx(0.25, abs=0.15)
    assert change["measured"]["live_calls"] >= 50
    assert result.facts["workload_from"] == "live calls"


def test_calls_of_an_earlier_version_are_no_measure(store, variants):
    slow, fast = variants
    row = {"alias": "production", "change": "", "version": slow, "rows": {"0": [900, 50.0]}}
    store.metrics.write("N", [row])
    base = store.resolve("N")
    assert LiveWatch(store, base, "", {slow}).there
    assert not LiveWatch(store, base, "", {fast}).there


def test_the_engine_is_no_policy_and_nothing_is_measured_for_it(adjust, store, variants):
    with pytest.raises(UsageError) as caught:
        adjust(policy="embedded")
    assert caught.value.code == "LPT-ADJ-010" and "best-measured" in caught.value.remedy
    assert store.ledger(kind="deployment.alarm") == ()


def test_how_far_answers_are_apart():
    labels = np.arange(100)
    moved = labels.copy()
    moved[0] = 99  # one label of a hundred, but 99 away
    assert difference([(labels, moved), (labels, labels)]) == 0.005
    half = np.ones(4, np.float32)
    assert difference([(half, half), (half, half * 1.5)]) == pytest.approx(0.5 / np.sqrt(2))
    assert difference([(half, half[:2])]) == np.inf
    assert difference([(labels[:0], labels[:0])]) == 0.0


# --- a policy that misbehaves -------------------------------------------------------------------


@pytest.fixture
def with_policy(fakes, sleepy, pool, store, context, monkeypatch):
    """Adjust by a vendor's policy, in its worker process."""

    def run(mode, **options):
        monkeypatch.setenv("FAKE_POLICY", mode)
        hooks = Hooks(register(fakes("policy"), sleepy), pool)
        options = {"store": str(store.path), "seconds": 0.0, "settle": 0.0, **options}
        request = types.AdjustRequest("N", options={"policy": "acme-policy", **options})
        return hooks.adjust(types.Model("deployment", "N"), request, context)

    yield run
    monkeypatch.delenv("FAKE_POLICY", raising=False)


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("hang", "LPT-WORK-001"),
        ("raise", "LPT-PLUG-010"),
        ("die", "LPT-WORK-003"),
        ("nonsense", "LPT-ADJ-005"),
        ("foreign", "LPT-ADJ-005"),
        ("threads", "LPT-ADJ-005"),
    ],
)
def test_a_bad_policy_costs_an_alarm_and_nothing_else(with_policy, store, variants, mode, code):
    result = with_policy(mode, deadline=2.0 if mode == "hang" else 60.0)
    assert result.changes == () and result.facts["alarm"]["code"] == code
    (row,) = store.ledger(kind="deployment.alarm")
    assert (row.details["kind"], row.details["code"]) == ("policy", code)
    assert history(store, "N") == () and store.verify().ok
    assert with_policy("nothing").changes == ()


def test_a_vendors_policy_plans_and_its_mistake_is_taken_back(with_policy, store, variants):
    (change,) = with_policy("slowest").changes
    assert change["state"] == "reverted" and change["policy"] == "acme-policy"
    assert change["predicted"]["ratio"] == 0.5 < change["measured"]["ratio"]


def test_a_policy_in_this_process_that_hangs_is_left_behind(adjust, variants, monkeypatch):
    from lepton_core.adjusting import _policy
    from lepton_core.policy import _plan

    go_on = threading.Event()
    monkeypatch.setattr(_policy, "_GRACE", 0.0)
    monkeypatch.setattr(_plan, "plan", lambda request: go_on.wait(30))
    result = adjust(deadline=0.3)
    go_on.set()
    assert result.facts["alarm"]["code"] == "LPT-ADJ-006"


# --- what may run -------------------------------------------------------------------------------


def test_only_proved_variants_of_the_same_source_may_run(adjust, put, variants):
    reasons = {
        put("other", source="sha256:" + "7" * 64, ms={"1": 0.1, "2": 0.1}): "another source",
        put("failed", proof=passport("fail"), ms={"1": 0.2, "2": 0.2}): "says fail",
        put("weak", proof=passport("weak"), ms={"1": 0.3, "2": 0.3}): "says weak",
    }
    result = adjust()
    said = {c["version"]: c["refused"] for c in result.facts["candidates"]}
    for version, word in reasons.items():
        assert word in said[version]
    assert result.facts["routes"][0]["version"] == variants[1]
    weak = adjust(allow_weak=True)
    assert weak.changes[0]["state"] == "kept"


def test_what_a_migration_left_without_a_passport_says_what_to_do(
    adjust, store, sleepy, tmp_path, variants
):
    model = sleepy.artifact(tmp_path / "moved.json", ms={"1": 1.0, "2": 1.0})
    facts = {"migrated_from": variants[0]}

    def add(**more):
        added = store.add("N", model, target="sleepy", precision="fp32", facts=facts, **more)
        return added.version.id

    def said():
        found = adjust(dry_run=True).facts["candidates"]
        return {c["version"]: c["refused"] for c in found}[candidate]

    candidate = add()
    assert "migrate again" in said()
    proved = add(passport=passport())
    assert said() == f"it is a migration's candidate; {proved} is the same with its passport"


def test_the_floor_holds_for_what_runs_as_well(adjust, put):
    put("slow", "production", proof=passport(accuracy=0.90), ms={"1": 1.0, "2": 1.0})
    better = put("better", proof=passport(accuracy=0.99), ms={"1": 2.0, "2": 2.0})
    (change,) = adjust(floor=0.95).changes
    assert change["state"] == "kept" and "floor" in change["verdict"]
    assert change["routes_after"][0]["version"] == better
    with pytest.raises(AdjustError, match="LPT-ADJ-001") as caught:
        adjust(floor=0.999)
    assert better in caught.value.remedy and "0.99" in caught.value.remedy


def test_the_closest_to_the_floor_where_lower_is_better(adjust, put):
    def error_rate(value):
        made = passport(accuracy=value)
        return {**made, "metric": {**made["metric"], "higher_is_better": False}}

    closest = put("slow", "production", proof=error_rate(0.10), ms={"1": 1.0, "2": 1.0})
    put("worse", proof=error_rate(0.30), ms={"1": 1.0, "2": 1.0})
    with pytest.raises(AdjustError, match="LPT-ADJ-001") as caught:
        adjust(floor=0.05)
    assert f"The closest is {closest} with 0.1" in caught.value.remedy


def test_a_version_without_a_signature_is_refused(adjust, store, sleepy, tmp_path, variants):
    bare = sleepy.artifact(tmp_path / "bare.json", ms={"1": 0.1, "2": 0.1}).evolve(signature=None)
    added = store.add("N", bare, target="sleepy", precision="bare", passport=passport())
    said = {c["version"]: c["refused"] for c in adjust(dry_run=True).facts["candidates"]}
    assert "without a signature" in said[added.version.id]
    store.promote("N", added.version.id)
    with pytest.raises(AdjustError, match="LPT-ADJ-001") as caught:
        adjust()
    assert "without a signature" in caught.value.cause and "floor" not in caught.value.remedy


def test_a_policy_that_is_not_there_is_told_before_anything_is_measured(
    adjust, store, variants, monkeypatch
):
    monkeypatch.setattr(Observer, "observe", lambda *a: pytest.fail("it has measured"))
    with pytest.raises(LeptonError, match="LPT-PLUG-001"):
        adjust(policy="no-such")
    assert not store.ledger(name="N", kind="deployment.alarm")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"objective": "beauty"}, "LPT-ADJ-007"),
        ({"objective": "memory"}, "LPT-ADJ-007"),
        ({"colour": "red"}, "LPT-DEP-005"),
        ({"rows": ("many",)}, "LPT-DEP-005"),
        ({"alias": "nowhere"}, "LPT-STORE-009"),
        ({"policy": "no-such"}, "LPT-PLUG-001"),
    ],
)
def test_bad_input_changes_nothing(adjust, store, variants, change, code):
    try:
        result = adjust(**change)
    except LeptonError as error:
        assert error.code == code
    else:
        assert result.facts["alarm"]["code"] == code
    assert history(store, "N") == ()


def test_a_version_is_not_adjusted(adjust, store, variants):
    with pytest.raises(AdjustError, match="LPT-ADJ-004"):
        adjust(alias=variants[1])
    with pytest.raises(UsageError, match="LPT-STORE-007"):
        undo(store, "nobody")


def test_threads_worth_trying():
    assert thread_counts(1) == (1,)
    assert thread_counts(2) == (1, 2)
    assert thread_counts(6) == (1, 2, 4, 6)


# --- two at once, and half way ------------------------------------------------------------------


def test_two_processes_do_not_adjust_at_once(adjust, store, variants):
    slow, fast = variants
    table = Dispatch(
        slow, (Route(fast),), time.time() + 60, (), "c1", Change("c1", "trial").to_dict()
    )
    store.set_setting("N", setting_key("production"), table.to_value())
    with pytest.raises(AdjustError, match="LPT-ADJ-002"):
        adjust()
    with pytest.raises(AdjustError, match="LPT-ADJ-002"):
        undo(store, "N")
    first, second = Tables(store, store.resolve("N")), Tables(store, store.resolve("N"))
    first.finish(Change("c1", "trial"), "reverted", "slower")
    with pytest.raises(DeployError, match="LPT-STORE-010"):
        second.finish(Change("c1", "trial"), "kept", "faster")


def test_an_interrupted_trial_is_ended_by_the_next_run(adjust, store, variants):
    slow, _ = variants
    change = Change(
        "c1", "trial", routes_before=(Route(slow),), routes_after=(Route(slow, threads=1),)
    )
    table = Dispatch(slow, change.routes_after, time.time() - 1, (), "c1", change.to_dict())
    store.set_setting("N", setting_key("production"), table.to_value())
    assert [r["version"] for r in explain(store, "N")["routes"]] == [slow]
    result = adjust(dry_run=True)
    assert result.facts["interrupted"]["id"] == "c1"
    assert [c.state for c in history(store, "N")] == ["trial", "interrupted"]


# --- the plan -----------------------------------------------------------------------------------


def way(version, threads, rows, ms, batch=None, memory=10):
    return {
        "version": version, "target": "t", "precision": "p", "threads": threads, "rows": rows,
        "batch": batch, "callers": 1, "p50_ms": ms, "p95_ms": ms, "rows_per_s": rows / ms,
        "memory_bytes": memory,
    }  # fmt: skip


def ask(ways, objective="latency", **more):
    rows = sorted({w["rows"] for w in ways})
    options = {
        "observations": ways,
        "workload": [{"rows": n, "share": 1 / len(rows)} for n in rows],
        "current": [{"version": "a", "rows": None, "threads": 2, "batch": None}],
        "limits": {"threads": 2, "memory_bytes": 1000},
        "min_gain": 0.05,
        **more,
    }
    result = plan(types.AdjustRequest("N", objective, options=options))
    return result.changes[0] if result.changes else None


def test_a_gain_below_the_least_changes_nothing():
    assert ask([way("a", 2, 1, 1.0), way("b", 2, 1, 0.96)]) is None
    assert ask([way("a", 2, 1, 1.0), way("b", 2, 1, 0.90)])["routes"][0]["version"] == "b"


def test_a_policy_is_no_engine(hooks, context):
    request = types.AdjustRequest("N", engine="best-measured")
    with pytest.raises(AdjustError, match="LPT-ADJ-008") as caught:
        hooks.adjust(types.Model("deployment", "N"), request, context)
    assert "--policy best-measured" in caught.value.remedy


def test_no_more_than_two_sessions():
    ways = [way("a", 2, n, 9.0) for n in (1, 16, 256)]
    for n, best in ((1, "b"), (16, "c"), (256, "d")):
        ways += [way(v, 2, n, 1.0 if v == best else 5.0) for v in "bcd"]
    change = ask(ways)
    assert len({(r["version"], r["threads"]) for r in change["routes"]}) == 1


def test_memory_limits_the_choice():
    ways = [way("a", 2, 1, 9.0), way("a", 2, 64, 9.0)]
    ways += [way("b", 1, 1, 1.0, memory=600), way("b", 1, 64, 5.0, memory=600)]
    ways += [way("c", 1, 1, 5.0, memory=600), way("c", 1, 64, 1.0, memory=600)]
    assert len(ask(ways, limits={"threads": 2, "memory_bytes": 2000})["routes"]) == 2
    assert len(ask(ways)["routes"]) == 1
    assert ask(ways, limits={"threads": 2, "memory_bytes": 500}) is None
    smallest = ask([way("a", 2, 1, 1.0, memory=90), way("b", 1, 1, 9.0, memory=30)], "memory")
    assert smallest["routes"][0]["version"] == "b" and smallest["predicted"]["ratio"] == 1 / 3


def test_parts_are_chosen_where_they_pay():
    change = ask([way("a", 2, 64, 9.0), way("a", 2, 64, 4.0, batch=8)], "throughput")
    assert change["routes"] == [{"version": "a", "threads": 2, "batch": 8, "rows": None}]
    assert "8 rows at a time" in change["cause"]


# --- the command --------------------------------------------------------------------------------


def test_the_log_of_what_was_never_changed_says_so(store, variants, capsys):
    assert main(["adjust", "log", "N", "--store", str(store.path)]) == 0
    assert capsys.readouterr().out == "N: nothing was changed yet\n"


def test_an_option_of_the_engine_is_not_lost_to_the_default_of_a_flag(store, variants, capsys):
    place = ["--store", str(store.path), "--json"]
    assert main(["adjust", "N", "--option", "policy=no-such", "--settle", "0", *place]) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "LPT-PLUG-001"


def test_a_dry_run_says_that_its_table_is_the_present_one(adjust, variants):
    lines = []
    app = SimpleNamespace(
        verbose=False, note=lines.append, line=lines.append, table=lambda *_: lines.append("table")
    )
    _show_result(app, adjust(dry_run=True))
    assert lines[0].startswith("planned") and lines[-2:] == [
        "nothing was changed; this runs now:",
        "table",
    ]


# --- what does not run, and what cannot be asked -------------------------------------------------


def test_a_variant_that_does_not_run_is_refused_and_the_others_go_on(
    adjust, put, sleepy, store, variants, monkeypatch
):
    broken = put("broken", ms={"1": 0.1, "2": 0.1})
    real = sleepy.Session.run

    def run(self, inputs):
        if self._ms == 0.1:
            raise RuntimeError("a runtime with a bug")
        return real(self, inputs)

    monkeypatch.setattr(sleepy.Session, "run", run)
    result = adjust()
    said = {c["version"]: c["refused"] for c in result.facts["candidates"]}
    assert "does not run here" in said[broken] and said[variants[1]] == ""
    assert result.changes[0]["routes_after"][0]["version"] == variants[1]


def test_a_variant_that_is_interpreted_here_is_refused(adjust, put, variants):
    """However fast that is: its device is another one."""
    interpreted = put("fp16", ms={"1": 0.1, "2": 0.1}, facts={"device": types.REFERENCE_DEVICE})
    result = adjust()
    said = {c["version"]: c["refused"] for c in result.facts["candidates"]}
    assert said[interpreted].endswith(f"LPT-ADJ-011: {interpreted} is interpreted here, not run")
    assert result.changes[0]["routes_after"][0]["version"] == variants[1]


def test_an_alias_of_what_is_interpreted_here_is_not_adjusted(adjust, put):
    put("only", "production", ms={"1": 0.1, "2": 0.1}, facts={"device": types.REFERENCE_DEVICE})
    with pytest.raises(AdjustError, match="interpreted here") as caught:
        adjust()
    assert caught.value.code == "LPT-ADJ-011"


def test_a_route_that_no_longer_runs_is_left(adjust, sleepy, store, variants, monkeypatch):
    slow, _ = variants
    assert adjust().changes[0]["state"] == "kept"
    real = sleepy.Session.run

    def run(self, inputs):
        if self._ms < 2:
            raise RuntimeError("a runtime with a bug")
        return real(self, inputs)

    monkeypatch.setattr(sleepy.Session, "run", run)
    (change,) = adjust().changes
    assert change["state"] == "kept" and "does not run here" in change["verdict"]
    assert {r["version"] for r in explain(store, "N")["routes"]} == {slow}


def test_how_far_answers_may_move_follows_versions_that_may_not_run(adjust, put, store):
    """What ran before is below the floor, but its precision is known."""
    put("fp32", "production", proof=passport(accuracy=0.5), ms={"1": 3.0, "2": 3.0})
    put("fp16", factor=1.1, ms={"1": 0.5, "2": 0.5})
    (change,) = adjust(floor=0.9).changes
    assert change["state"] == "reverted" and "over 0.02" in change["verdict"]


def test_a_version_that_itself_does_not_run_is_an_error(adjust, put, sleepy, monkeypatch):
    put("only", "production", ms={"1": 0.1, "2": 0.1})

    def run(self, inputs):
        raise RuntimeError("a runtime with a bug")

    monkeypatch.setattr(sleepy.Session, "run", run)
    with pytest.raises(LeptonError, match="LPT-PLUG-010"):
        adjust()


@pytest.mark.parametrize(
    "options",
    [{"rows": (0,)}, {"callers": 0}, {"deadline": 0.0}, {"settle": -1.0}, {"min_gain": 1.5}],
)
def test_numbers_out_of_range_are_refused(adjust, variants, options):
    with pytest.raises(UsageError, match="LPT-DEP-005"):
        adjust(**options)


def test_a_fixed_batch_is_called_as_it_is():
    def takes(*shape):
        spec = types.TensorSpec("x", "float32", shape)
        return types.Signature((spec,), (spec,))

    loads = (Load(1, 0.5), Load(64, 0.5))
    assert fitted(loads, takes("batch", 4)) == loads
    assert fitted(loads, takes(2, 4)) == (Load(2, 1.0),)
    assert fitted(loads, None) == loads


def test_what_runs_now_is_observed_whatever_it_is(adjust, store, variants):
    slow, _ = variants
    table = Dispatch(slow, (Route(slow, threads=3, batch=16),), change="c0")
    store.set_setting("N", setting_key("production"), table.to_value())
    result = adjust(rows=(64,), dry_run=True)
    seen = {(o["threads"], o["batch"]) for o in result.facts["observations"]}
    assert (3, 16) in seen
    assert result.changes[0]["predicted"]["ratio"] > 0


@pytest.mark.parametrize("asked", [["N@beta"], ["N", "--dry-run"]])
def test_another_engine_is_not_told_less_than_was_asked(fake_registry, tmp_path, capsys, asked):
    from lepton_core import hooks as process_hooks
    from lepton_core.cli import main

    process_hooks.use(Hooks(fake_registry))
    code = main(["adjust", *asked, "--engine", "fake", "--store", str(tmp_path)])
    err = capsys.readouterr().err
    assert code == 2 and "LPT-ADJ-009" in err and asked[-1].removeprefix("N") in err


def test_adjusting_again_and_again_goes_on_after_what_may_pass(monkeypatch, capsys):
    from lepton_core.cli import _adjust as commands
    from lepton_core.cli import main

    tries, naps = [], []

    def once(app, reference, given):
        tries.append(reference)
        if len(tries) == 1:
            raise AdjustError("LPT-ADJ-002", "another process is at it")
        if len(tries) == 2:
            raise DeployError("LPT-STORE-010", "someone else changed the table meanwhile")
        return 1

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_adjust_once", once)
    monkeypatch.setattr(commands.time, "sleep", sleep)
    assert main(["adjust", "N", "--every", "10m"]) == 0
    assert tries == ["N"] * 3 and naps == [600.0] * 3
    assert "LPT-ADJ-002" in capsys.readouterr().err
