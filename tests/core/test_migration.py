"""A deployment moves to another target only if it proves to be the same there, and comes back."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core import types
from lepton_core.context import Context
from lepton_core.dispatch import Hooks
from lepton_core.errors import (
    ConversionError,
    LeptonError,
    MigrateError,
    PlanError,
    SampleError,
    StorageError,
    UsageError,
)
from lepton_core.migration import _engine, _journal, _steps, history, return_watched
from lepton_core.migration._owner import Owner
from lepton_core.store import Store

ROWS = 200
X = np.ones((1, 6), np.float32)


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """Tell the faulty target what to do from now on."""
    place = tmp_path / "fault"
    monkeypatch.setenv("FAULTY_FILE", str(place))
    return place.write_text


@pytest.fixture
def hooks(fakes, faulty):
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    registry = fakes("ok", "faulty")
    registry.register(plugin, INFO)
    return Hooks(registry)


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(ROWS, 6)).astype(np.float32))
    return str(tmp_path / "data.npz")


@pytest.fixture
def source(graph_file, hooks, context):
    folder = context.workdir / "source"
    folder.mkdir()
    model = types.Model("fake-graph", str(graph_file))
    read = hooks.inspect(model, types.InspectRequest(), Context(folder)).model
    return hooks.adapt(read, types.AdaptRequest("fake"), Context(folder)).model


@pytest.fixture
def place(tmp_path, source, hooks, context):
    """A store with the deployment N on the fake target, with its origin."""
    root = tmp_path / "store"
    request = types.DeployRequest("N", "fake", "production", options={"store": str(root)})
    hooks.deploy(source, request, context)
    return root


@pytest.fixture
def migrate(hooks, place, context):
    def run(target="faulty", *, model=None, name="N", **options):
        options = {"store": str(place), "watch": 0, "latency_seconds": 0, **options}
        request = types.MigrateRequest(name, target, options=options)
        return hooks.migrate(model or types.Model("deployment", name), request, context)

    return run


@pytest.fixture
def store(place):
    with Store(place) as store:
        yield store


def left_over(store):
    """Everything that a migration must not leave behind."""
    pins = store.database.select("SELECT version, reason FROM pins")
    views = list((store.path / "views").glob("*"))
    report = store.verify()
    assert report.ok, report.damage
    return pins, views


def refused(code, call, kind=LeptonError, **options):
    with pytest.raises(kind) as caught:
        call(**options)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


# --- the way through --------------------------------------------------------------------------


def test_it_moves_with_a_passport_against_the_old_version(migrate, store, data):
    old = store.alias("N")
    result = migrate(data=data, metric="agreement")
    assert result.outcome == "done", result.why
    now = store.resolve("N@production")
    assert now.version.target == "faulty"
    assert now.alias.generation == old.generation + 1
    passport = store.passport(now.version)
    assert passport["source"]["path"] == f"N@{old.version}"
    assert passport["verdict"]["verdict"] == "pass"
    assert passport["samples"]["n"] == ROWS
    assert result.facts["claim"] == f"0 of {ROWS} changed: under 1.5 % at 95 %"
    assert result.facts["from"]["version"] == old.version
    (row,) = (r for r in store.ledger(name="N", kind="version.add")
              if r.details["version"] == now.version.id)  # fmt: skip
    assert row.why.startswith("compared by migration"), "proved or not is what the verdict says"
    assert [f.path for f in now.version.role("origin")] == [
        "origin/adapted.fake", "origin/origin.json",
    ]  # fmt: skip
    assert [s["step"] for s in history(store, "N")] == [
        "plan", "build", "verify", "switch", "watch", "done",
    ]  # fmt: skip
    assert left_over(store) == ([], [])


def test_and_back_again_and_what_it_was_can_be_rolled_back_to(migrate, store, data):
    first = store.alias("N").version
    assert migrate(data=data).outcome == "done"
    assert migrate("fake", data=data).outcome == "done"
    assert store.resolve("N").version.target == "fake"
    assert store.rollback("N").generation == 4
    assert store.resolve("N").version.target == "faulty"
    assert store.rollback("N").version == first


def test_the_golden_inputs_and_the_real_ones_of_the_old_version_go_along(
    migrate, store, hooks, source, context, data, place
):
    options = {"store": str(place), "samples": data, "golden_rows": 40}
    hooks.deploy(source, types.DeployRequest("N", "fake", "production", options=options), context)
    result = migrate()
    assert result.outcome == "done", result.why
    assert result.facts["samples"]["n"] == 40, "real golden inputs are recorded inputs"
    assert result.facts["golden"] == {
        "origin": "npz", "rows": 40, "output": "y", "rel_l2": 0.0, "limit": 1e-4, "within": True,
    }  # fmt: skip
    assert store.resolve("N").version.role("golden")


@pytest.mark.parametrize(("target", "kept"), [("fake:cpu", {"tidy": 1}), ("faulty", None)])
def test_options_of_a_conversion_go_along_to_the_same_runtime(
    hooks, source, context, data, place, store, target, kept
):
    """They say how its file is; those of another runtime are others."""
    from lepton_core.conversion import convert_into

    folders = [context.workdir / name for name in ("built", "scratch")]
    for folder in folders:
        folder.mkdir()
    asked = types.ConvertRequest("fake", options={"tidy": 1})
    made = convert_into(hooks, source, asked, *(Context(folder) for folder in folders))
    options = {"store": str(place)}
    request = types.DeployRequest("tidy", "fake", "production", options=options)
    hooks.deploy(made.result.model, request, context)
    options |= {"watch": 0, "latency_seconds": 0, "data": data}
    moved = hooks.migrate(
        types.Model("deployment", "tidy"), types.MigrateRequest("tidy", target, options=options),
        context,
    )  # fmt: skip
    assert moved.outcome == "done", moved.why
    version = store.resolve("tidy@production").version
    assert version.target == target
    assert version.model.lineage[-1].request.get("options") == kept


def test_half_precision_stays_half(migrate, store, hooks, source, context, data, place):
    options = {"store": str(place), "precision": "fp16"}
    hooks.deploy(source, types.DeployRequest("N", "fake", "production", options=options), context)
    assert migrate(data=data).outcome == "done"
    assert store.resolve("N").version.precision == "fp16"


def test_only_noise_is_weak_and_is_refused_unless_it_is_accepted(migrate, store):
    before = store.alias("N")
    result = migrate()
    assert (result.outcome, result.facts["verdict"]) == ("returned", "weak")
    assert "random noise" in result.why
    assert store.alias("N") == before
    assert migrate(allow_weak=True).outcome == "done"
    assert left_over(store) == ([], [])


def test_a_dry_run_writes_nothing(migrate, store, data):
    rows = store.ledger()
    result = migrate(data=data, dry_run=True)
    assert result.outcome == "returned"
    assert result.facts["would_switch"]
    assert not migrate(dry_run=True).facts["would_switch"]
    assert store.ledger() == rows


def test_an_explicit_source_serves_where_no_origin_is_stored(
    migrate, store, hooks, source, tmp_path, data
):
    folder = tmp_path / "bare"
    folder.mkdir()
    bare = hooks.convert(source, types.ConvertRequest("fake"), Context(folder)).model
    store.add("bare", bare, target="fake", alias="production")
    error = refused("LPT-MIG-003", migrate, name="bare", data=data)
    assert "--source" in error.remedy
    assert migrate(name="bare", model=source, data=data).outcome == "done"


# --- not the same -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("off", "relative L2 error 0.1"),
        ("nan", "NaN or infinite"),
        ("renamed", "signature does not fit the callers"),
        ("raise", "It fails"),
        ("refuse", "It does not open"),
    ],
)
def test_what_is_not_equivalent_never_gets_the_alias(migrate, store, faulty, data, fault, why):
    before = store.alias("N")
    # The candidate is built while all is well, and goes wrong when it is compared.
    steps = dict(_steps.STEPS)
    migrate_step = steps["verify"]

    def verify(job, journal):
        faulty(fault)
        migrate_step(job, journal)

    _engine.STEPS["verify"] = verify
    try:
        result = migrate(data=data)
    finally:
        _engine.STEPS["verify"] = migrate_step
    assert result.outcome == "returned"
    assert why in result.why
    assert store.alias("N") == before
    last = store.ledger(name="N", kind="setting.set")[-1].details["value"]
    assert (last["step"], last["why"]) == ("returned", result.why)
    if "outputs" in result.facts:
        assert last["facts"]["outputs"] == result.facts["outputs"]
        assert last["facts"]["worst"] or fault == "renamed"
    candidate = store.resolve(f"N@{last['candidate']}").version
    assert candidate.target == "faulty", "it is kept, under no alias"
    assert [a.version for a in store.aliases("N")] == [before.version]
    assert left_over(store) == ([], [])


def test_what_cannot_be_built_says_why_and_is_written_down(migrate, store, faulty, data):
    faulty("unbuildable")
    refused("FAULTY-CONV-001", migrate, ConversionError, data=data)
    assert history(store, "N")[-1]["code"] == "FAULTY-CONV-001"
    faulty("")
    assert migrate(data=data).outcome == "done"


def test_a_crash_of_the_new_runtime_ends_only_its_worker(
    fakes, faulty, pool, place, context, data, store
):
    from lepton_core.embedded import plugin
    from lepton_core.embedded.info import INFO

    registry = fakes("ok", "faulty")
    registry.register(plugin, INFO)
    faulty("crash")
    options = {"store": str(place), "watch": 0, "data": data}
    request = types.MigrateRequest("N", "faulty", options=options)
    model = types.Model("deployment", "N")
    with pytest.raises(LeptonError, match="LPT-WORK-00") as caught:
        Hooks(registry, pool).migrate(model, request, context)
    assert "SIGABRT" in str(caught.value) or "signal 6" in str(caught.value)
    assert history(store, "N")[-1]["step"] == "returned"
    assert left_over(store) == ([], [])


# --- refusals ---------------------------------------------------------------------------------


def test_what_cannot_be_migrated_is_refused_with_what_is_possible(
    migrate, store, hooks, source, tmp_path, data
):
    rows = store.ledger()
    refused("LPT-MIG-002", migrate, UsageError, target="fake")
    refused("LPT-STORE-009", migrate, UsageError, alias="stage")
    refused("LPT-STORE-007", migrate, UsageError, name="M")
    refused("LPT-USE-003", migrate, UsageError, target="nowhere")
    refused("LPT-PLUG-001", migrate, target="coreml")
    refused("LPT-USE-006", migrate, UsageError, target="faulty:gpu")
    refused("LPT-MIG-001", migrate, UsageError, speed=3)
    refused("LPT-MIG-001", migrate, UsageError, watch=-1)
    refused("LPT-MIG-010", migrate, UsageError, resume=True)
    refused("LPT-METRIC-001", migrate, UsageError, metric="speed")
    np.savez(tmp_path / "wide.npz", x=np.ones((3, 9), np.float32))
    refused("LPT-DATA-014", migrate, SampleError, data=str(tmp_path / "wide.npz"))
    folder = tmp_path / "small"
    folder.mkdir()
    small = hooks.optimize(source, types.OptimizeRequest("fake", engine="fake"), Context(folder))
    store.add("Q", small.model, target="fake", precision="int8", alias="production")
    error = refused("LPT-MIG-004", migrate, MigrateError, name="Q", data=data)
    assert "recipe" in error.remedy
    assert store.ledger()[: len(rows)] == rows
    assert history(store, "N") == ()


@pytest.mark.parametrize("golden_rows", [2, 0])
def test_an_interpreter_in_place_of_a_device_gets_no_traffic(
    migrate, store, hooks, source, place, context, faulty, data, golden_rows
):
    options = {"store": str(place), "golden_rows": golden_rows}
    hooks.deploy(source, types.DeployRequest("I", "fake", "production", options=options), context)
    faulty("interpreted")
    old = store.alias("I")
    for dry_run in (True, False):
        error = refused("LPT-MIG-011", migrate, MigrateError, name="I", data=data, dry_run=dry_run)
        assert "--kind bundle" in error.remedy and "--to faulty:reference" in error.remedy
    assert store.alias("I") == old
    assert history(store, "I")[-1]["step"] == "returned"
    assert left_over(store) == ([], [])


def test_who_names_the_interpreter_gets_it(migrate, store, faulty, data):
    faulty("interpreted")
    assert migrate("faulty:reference", data=data).outcome == "done"
    assert store.resolve("N").version.target == "faulty:reference"
    assert migrate("fake", data=data).outcome == "done", "and away from it"


def test_a_precision_that_the_target_lacks_names_those_that_have_it(
    migrate, store, hooks, source, tmp_path, monkeypatch
):
    from dataclasses import replace

    info = hooks.registry.infos()["faulty"]
    edge = replace(info.edges[0], precisions=("fp32",))
    place = tmp_path / "half"
    place.mkdir()
    half = hooks.convert(source, types.ConvertRequest("fake", precision="fp16"), Context(place))
    from lepton_core.origins import keep_origin

    keep_origin(source, place / "origin")
    store.add(
        "H", half.model, target="fake", precision="fp16", alias="production",
        origin=place / "origin",
    )  # fmt: skip
    real = hooks.registry.infos

    def infos(*kind):
        found = real(*kind)
        return {**found, "faulty": replace(info, edges=(edge,))} if "faulty" in found else found

    monkeypatch.setattr(hooks.registry, "infos", infos)
    error = refused("LPT-PLAN-002", migrate, PlanError, name="H")
    assert "fake" in error.remedy


def test_a_tampered_version_is_refused_with_the_reason(migrate, store, data):
    before = store.alias("N")
    version = store.resolve("N").version
    for role in ("model", "origin"):
        file = next(
            f for f in version.role(role) if not f.path.endswith(".json") or role == "model"
        )
        path = store.cas.path(file.digest)
        whole = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(whole[:-1] + b"?")
        error = refused("LPT-STORE-004", migrate, StorageError, data=data)
        assert file.path in error.message
        assert store.alias("N") == before
        path.write_bytes(whole)
    assert migrate(data=data).outcome == "done"


# --- two at once, and others meanwhile ---------------------------------------------------------


def at(step, then, monkeypatch):
    """Do something before a step begins."""
    real = _steps.STEPS[step]

    def patched(job, journal):
        then(job, journal)
        real(job, journal)

    monkeypatch.setitem(_engine.STEPS, step, patched)


def test_of_two_migrations_at_once_exactly_one_goes_on(migrate, store, data, monkeypatch):
    together = threading.Barrier(2)
    plain = _steps.Job.plan

    def plan(job, alias, target):
        made = plain(job, alias, target)
        if threading.current_thread().name.startswith("racer") and not getattr(job, "met", False):
            job.met = True
            together.wait(20)
        return made

    monkeypatch.setattr(_steps.Job, "plan", plan)
    said = []

    def race():
        try:
            said.append(migrate(data=data).outcome)
        except MigrateError as error:
            said.append(error.code)

    racers = [threading.Thread(target=race, name=f"racer-{n}") for n in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(said) == ["LPT-MIG-008", "done"]
    assert store.alias("N").generation == 2
    assert left_over(store) == ([], [])


@pytest.mark.parametrize("step", ["build", "verify", "switch", "watch"])
def test_an_alias_that_someone_else_moved_stays_there(migrate, store, data, monkeypatch, step):
    version = store.alias("N").version

    def move(job, journal):
        store.remove_alias("N", "production")
        store.promote("N", version, "production", why="someone else")

    at(step, move, monkeypatch)
    result = migrate(data=data, watch=5)
    assert result.outcome == "returned"
    assert "someone else moved" in result.why
    assert store.alias("N").version == version
    assert left_over(store) == ([], [])


def test_a_migration_that_is_under_way_is_not_disturbed(migrate, store, data, monkeypatch):
    said = []

    def second(job, journal):
        said.append(refused("LPT-MIG-008", migrate, MigrateError, data=data))
        said.append(refused("LPT-MIG-008", migrate, MigrateError, resume=True, target=""))

    at("verify", second, monkeypatch)
    assert migrate(data=data).outcome == "done"
    assert len(said) == 2


# --- taking over from the dead ------------------------------------------------------------------


def die_before(step, monkeypatch):
    """End the process's part at a step, as a crash would: nothing is written any more."""

    class Dead(BaseException):
        pass

    def stop(job, journal):
        raise Dead

    monkeypatch.setitem(_engine.STEPS, step, stop)
    return Dead


@pytest.mark.parametrize("step", ["plan", "build", "verify", "switch", "watch"])
@pytest.mark.parametrize("how", ["resume", "again"])
def test_a_migration_is_taken_up_where_it_was_left(migrate, store, data, monkeypatch, step, how):
    with monkeypatch.context() as patch:
        dead = die_before(step, patch)
        with pytest.raises(dead):
            migrate(data=data, watch=0.3)
    record, _ = _journal.read(store, "N", "production")
    assert record.step == step
    result = migrate("" if how == "resume" else "faulty", resume=how == "resume")
    assert result.outcome == "done", result.why
    assert result.facts["id"] == record.id
    assert store.resolve("N").version.target == "faulty"
    assert left_over(store) == ([], [])


def test_what_was_left_gives_way_to_another_target(migrate, store, data, monkeypatch):
    for step, target in (("verify", "faulty"), ("watch", "fake")):
        with monkeypatch.context() as patch:
            dead = die_before(step, patch)
            with pytest.raises(dead):
                migrate(data=data)
        result = migrate("faulty:npu" if step == "verify" else target, data=data)
        assert result.outcome == "done", result.why
        store.rollback("N")
        steps = [s["step"] for s in history(store, "N")]
        assert steps.count("done") + steps.count("returned") >= 2
        if step == "verify":
            why = [s["why"] for s in history(store, "N") if s["step"] == "returned"]
            assert why == ["given up for a migration to faulty:npu"]
    assert left_over(store) == ([], [])


def test_a_process_of_another_machine_keeps_its_migration_for_a_while(migrate, store, data):
    me = Owner.me()
    assert not Owner("elsewhere", 1, 0.0, time.time() - 1000).lives("m", 0)
    assert Owner("elsewhere", 1, 0.0, time.time() - 1).lives("m", 0)
    assert Owner("elsewhere", 1, 0.0, 0.0).lives("m", time.time())
    assert not me.lives("m0", 0), "this process is not at it"
    assert not Owner(me.host, 2**22 + 1, 0.0, time.time()).lives("m", 0)
    assert not Owner(me.host, 1, 0.0, time.time()).lives("m", 0), "that number was used again"


def test_a_journal_that_cannot_be_read_is_refused(migrate, store, data):
    store.set_setting("N", "migrate.production", {"step": "dance"})
    error = refused("LPT-MIG-009", migrate, MigrateError, data=data)
    assert "store set" in error.remedy
    store.set_setting("N", "migrate.production", None)
    assert migrate(data=data).outcome == "done"


# --- the watch --------------------------------------------------------------------------------


def open_it(hooks, place, **options):
    return lepton_core.deployment(
        "N", store=place, hooks=hooks, **{"poll_seconds": 0.02, "flush_seconds": 0.05, **options}
    )


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Callers:
    """Threads that call a deployment all the time and count what failed."""

    def __init__(self, deployed, n=4):
        self.deployed, self.calls, self.failed = deployed, 0, []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(n)]
        for thread in self._threads:
            thread.start()

    def _call(self):
        x = np.ones((1, 6), np.float32)
        while not self._stop.is_set():
            try:
                self.deployed.run({"x": x})
            except LeptonError as error:
                self.failed.append(error)
            self.calls += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_calls_go_on_while_it_moves_and_none_fails(migrate, store, hooks, place, data):
    with open_it(hooks, place) as deployed, Callers(deployed) as callers:
        until(lambda: callers.calls > 100)
        result = migrate(data=data, watch=3)
        until(lambda: deployed.version == result.facts["to"]["version"])
        before = callers.calls
        until(lambda: callers.calls > before + 100)
        assert deployed.swaps == 1, "the journal does not make handles open anything anew"
    assert result.outcome == "done", result.why
    assert callers.failed == []
    assert result.facts["watch"]["measured"]["calls"] > 0
    assert result.facts["watch"]["alarms"] == []


def test_a_handle_whose_calls_fail_brings_it_back(
    migrate, store, hooks, place, faulty, data, monkeypatch
):
    old = store.alias("N").version
    monkeypatch.setattr(_steps, "probe", lambda *_: "")  # it would see the fault first
    with open_it(hooks, place) as deployed, Callers(deployed) as callers:

        def spoil():
            until(lambda: deployed.version != old)
            faulty("raise")

        spoiler = threading.Thread(target=spoil)
        spoiler.start()
        result = migrate(data=data, watch=30)
        spoiler.join()
        until(lambda: deployed.version == old)
        alarm = next(a for a in deployed.alarms if a.kind == "health")
    assert result.outcome == "returned"
    assert store.alias("N").version == old
    assert alarm.version == result.facts["to"]["version"]
    assert callers.failed
    assert "failed" in result.why
    assert left_over(store) == ([], [])


def test_a_handle_brings_it_back_though_the_migrating_process_died(
    migrate, store, hooks, place, faulty, data, monkeypatch
):
    old = store.alias("N").version
    dead = die_before("watch", monkeypatch)
    with open_it(hooks, place) as deployed:
        with pytest.raises(dead):
            migrate(data=data, watch=60)
        until(lambda: deployed.version != old)
        faulty("raise")
        for _ in range(4):
            with pytest.raises(LeptonError):
                deployed.run({"x": np.ones((1, 6), np.float32)})
        until(lambda: store.alias("N").version == old)
        until(lambda: deployed.version == old)
        assert deployed.run({"x": np.ones((1, 6), np.float32)})["y"].shape == (1, 3)
    last = history(store, "N")[-1]
    assert last["step"] == "returned"
    assert "alarm (health)" in last["why"]
    assert store.history("N")[-1].details["action"] == "rollback"
    assert left_over(store) == ([], [])


def test_a_version_that_a_handle_cannot_open_comes_back(
    migrate, store, hooks, place, faulty, data, monkeypatch
):
    old = store.alias("N").version
    dead = die_before("watch", monkeypatch)
    with open_it(hooks, place, poll_seconds=None) as deployed:
        with pytest.raises(dead):
            migrate(data=data, watch=60)
        faulty("refuse")
        assert deployed.check() is False
        assert deployed.alarms[-1].kind == "swap"
    assert store.alias("N").version == old


def test_inputs_that_do_not_fit_are_the_callers_fault(store, hooks, place):
    with open_it(hooks, place) as deployed:
        for bad in ({}, {"x": np.ones((1, 7), np.float32)}, {"x": np.ones((1, 6))}, {"y": X}) * 3:
            with pytest.raises(LeptonError):
                deployed.run(bad)
        time.sleep(0.1)
        assert deployed.alarms == ()
        assert deployed.stats()[deployed.version].errors == 12
        assert deployed.stats()[deployed.version].faults == 0


def test_an_alarm_after_the_watch_moves_nothing(migrate, store, data):
    result = migrate(data=data)
    version = result.facts["to"]["version"]
    assert not return_watched(store, "N", "production", version, "late")
    assert store.alias("N").version == version


@pytest.mark.parametrize("what", ["alarm", "errors", "slow", "few"])
def test_the_watch_reads_ledger_and_measurements(migrate, store, data, monkeypatch, what):
    old = store.alias("N").version
    fast, slow = {"300": 100}, {"400": 100}
    row = {"alias": "production", "calls": 100, "errors": 0, "faults": 0}
    store.metrics.write("N", [{**row, "version": old, "buckets": fast}])

    def speak(job, journal):
        new = journal.present.result
        if what == "alarm":
            details = {"kind": "swap", "version": new, "alias": "production"}
            store.record("deployment.alarm", "N", why="it hurts", details=details)
            return
        change = {"errors": {"faults": 9}, "slow": {"buckets": slow}, "few": {"faults": 2}}[what]
        store.metrics.write("N", [{**row, "version": new, "buckets": fast, **change}])

    at("watch", speak, monkeypatch)
    result = migrate(data=data)
    if what == "few":
        assert result.outcome == "done", "two failed calls of a hundred say nothing"
        return
    assert result.outcome == "returned"
    assert store.alias("N").version == old
    expected = {"alarm": "it hurts", "errors": "9 of 109 calls", "slow": "median latency"}[what]
    assert expected in result.why


def test_it_is_asked_once_more_after_the_switch(migrate, store, faulty, data, monkeypatch):
    old = store.alias("N").version
    at("watch", lambda *_: faulty("off"), monkeypatch)
    result = migrate(data=data)
    assert result.outcome == "returned"
    assert "after the switch" in result.why
    assert store.alias("N").version == old


def test_a_stop_on_request_leaves_the_alias_and_says_what_it_did(migrate, store, data, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        at("verify", interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            migrate(data=data)
    assert history(store, "N")[-1]["why"] == "stopped on request"
    assert left_over(store) == ([], [])
    with monkeypatch.context() as patch:
        at("watch", interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            migrate(data=data)
    assert history(store, "N")[-1]["step"] == "watch"
    assert migrate("", resume=True).outcome == "done"


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def lepton(hooks, capsys):
    from lepton_core import hooks as process_hooks
    from lepton_core.cli import main

    process_hooks.use(hooks)

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_the_command_tells_what_was_compared(lepton, place, data, faulty):
    base = ("migrate", "N", "--to", "faulty", "--store", place, "--watch", "0")
    code, out, _ = lepton(*base)
    assert code == 3
    assert "returned: weak" in out
    page = place.parent / "page.html"
    code, out, _ = lepton(*base, "--data", data, "--dry-run", "--json", "--page", page)
    assert code == 0
    assert "faulty fp32: pass" in page.read_text(encoding="utf-8")
    faulty("off")
    code, out, _ = lepton(*base, "--data", data)
    assert code == 1
    assert "returned: not the same model" in out
    assert "worst rows" in out
    faulty("")
    code, out, _ = lepton(*base, "--data", data, "--metric", "agreement")
    assert code == 0, out
    assert f"0 of {ROWS} changed: under 1.5 % at 95 %" in out
    assert "done: within the numeric limits" in out
    code, out, _ = lepton("migrate", "N", "--log", "--store", place)
    assert code == 0
    assert [word for word in ("plan", "verify", "done", "returned") if word in out]
    code, out, _ = lepton("migrate", "N", "--log", "--store", place, "--json")
    assert json.loads(out)["steps"][-1]["step"] == "done"


def test_the_command_needs_a_target_or_something_to_resume(lepton, place):
    code, _, err = lepton("migrate", "N", "--store", place)
    assert code == 2
    assert "LPT-USE-110" in err
    code, _, err = lepton("migrate", "N", "--resume", "--store", place)
    assert code == 2
    assert "LPT-MIG-010" in err


def test_the_function_needs_no_model(hooks, place, data, tmp_path):
    from lepton_core import hooks as process_hooks

    process_hooks.use(hooks)
    (tmp_path / "w").mkdir()
    result = lepton_core.migrate(
        name="N", target="faulty", options={"store": place, "data": data, "watch": 0},
        context=Context(tmp_path / "w"),
    )  # fmt: skip
    assert result.outcome == "done"
    assert not list(Path(tmp_path / "w").iterdir())
