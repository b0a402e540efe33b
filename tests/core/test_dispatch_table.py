"""The dispatch table: which variant, threads and batch a call of so many rows gets."""

import threading
import time

import numpy as np
import pytest

import lepton_core
from lepton_core import types
from lepton_core._split import rows_of, run_split, splittable
from lepton_core.context import Context
from lepton_core.deployment._health import Health
from lepton_core.deployment._routes import Dispatch, Route, read_routes, setting_key
from lepton_core.dispatch import Hooks
from lepton_core.errors import DeployError, SessionError
from lepton_core.store import Store
from lepton_core.testing.fake_target import write_graph

X = np.ones((2, 4), np.float32)
KEY = setting_key("production")


@pytest.fixture
def hooks(fake_registry):
    return Hooks(fake_registry)


@pytest.fixture
def build(tmp_path, hooks):
    """Make an artifact whose answer is *factor* times the sum of its inputs."""

    def make(factor, width=4):
        folder = tmp_path / f"build-{factor}-{width}"
        folder.mkdir(exist_ok=True)
        layers = [{"op": "linear", "weight": np.full((1, width), factor), "bias": np.zeros(1)}]
        path = write_graph(folder / "net.fake", width, layers)
        model = hooks.inspect(
            types.Model("fake-graph", str(path)), types.InspectRequest(), Context(folder)
        ).model
        return hooks.convert(model, types.ConvertRequest("fake"), Context(folder)).model

    return make


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store") as store:
        yield store


def put(store, model, alias=None):
    return store.add("N", model, target="fake", alias=alias).version.id


@pytest.fixture
def versions(store, build):
    """Return three variants; the alias points to the first."""
    return [put(store, build(1.0), "production"), put(store, build(2.0)), put(store, build(3.0))]


def dispatch(store, base, *routes, **more):
    return store.set_setting("N", KEY, Dispatch(base, routes, **more).to_value())


def open_it(store, hooks, **options):
    return lepton_core.deployment("N", store=store, hooks=hooks, poll_seconds=None, **options)


def answers(deployed, *rows):
    return [float(deployed.run({"x": np.ones((n, 4), np.float32)})["y"][0, 0]) for n in rows]


def test_a_table_sends_calls_by_their_rows(store, hooks, versions):
    one, two, three = versions
    with open_it(store, hooks) as deployed:
        assert answers(deployed, 1, 100) == [4.0, 4.0]
        dispatch(store, one, Route(two, rows=1), Route(one, rows=8), Route(three), change="c1")
        assert deployed.check() is True
        assert answers(deployed, 1, 2, 8, 9, 1000) == [8.0, 4.0, 4.0, 12.0, 12.0]
        assert deployed.version == one, "the alias still points there"
        assert [r.version for r in deployed.routes] == [two, one, three]
        shown = deployed.snapshot()
        assert shown["change"] == "c1" and len(shown["routes"]) == 3
        counted = {v: s.rows for v, s in deployed.stats().items()}
        assert {b: n for b, (n, _) in counted[three].items()} == {4: 1, 10: 1}
        store.set_setting("N", KEY, None)
        assert deployed.check() is True
        assert answers(deployed, 1, 100) == [4.0, 4.0]
    assert not list((store.path / "views").iterdir())


def test_sessions_that_stay_are_not_opened_again(store, hooks, versions, monkeypatch):
    from lepton_core.deployment import _table

    opened = []
    real = _table.open_slot
    monkeypatch.setattr(
        _table, "open_slot", lambda *given: opened.append(given[2].version.id) or real(*given)
    )
    one, two, _ = versions
    with open_it(store, hooks) as deployed:
        dispatch(store, one, Route(one, rows=4), Route(two))
        assert deployed.check() is True
        dispatch(store, one, Route(one, rows=9), Route(two))
        assert deployed.check() is True
        dispatch(store, one, Route(one, rows=9), Route(two), change="confirmed")
        assert deployed.check() is False, "nothing about the routes changed"
        assert deployed.snapshot()["change"] == "confirmed"
    assert opened == [one, two]


def test_a_table_of_another_version_counts_no_more(store, hooks, versions):
    one, two, three = versions
    dispatch(store, one, Route(two))
    with open_it(store, hooks) as deployed:
        assert answers(deployed, 1) == [8.0]
        store.promote("N", three)
        assert deployed.check() is True
        assert answers(deployed, 1) == [12.0]
        store.rollback("N")
        assert deployed.check() is True
        assert answers(deployed, 1) == [8.0], "back on its version, it counts again"


def test_a_trial_that_nobody_ends_is_over_by_itself(store, hooks, versions):
    one, two, three = versions
    with open_it(store, hooks) as deployed:
        until = time.time() + 0.3
        dispatch(store, one, Route(three), until=until, before=(Route(two),))
        assert deployed.check() is True
        assert answers(deployed, 1) == [12.0]
        time.sleep(0.35)
        assert deployed.check() is True
        assert answers(deployed, 1) == [8.0]
        assert deployed.check() is False
    with open_it(store, hooks) as deployed:
        assert answers(deployed, 1) == [8.0]


def test_a_table_that_cannot_be_opened_gives_way(store, hooks, versions):
    one, two, _ = versions
    heard = []
    with open_it(store, hooks, on_alarm=heard.append) as deployed:
        dispatch(store, one, Route("v0123456789abcdef"), before=(Route(two),))
        assert deployed.check() is True
        assert answers(deployed, 1) == [8.0], "the table before it runs"
        store.set_setting("N", KEY, {"schema": 1, "nonsense": True})
        assert deployed.check() is True
        assert answers(deployed, 1) == [4.0], "the version of the alias runs"
        assert [(a.kind, a.code) for a in heard] == [
            ("dispatch", "LPT-STORE-008"),
            ("dispatch", "LPT-DEP-010"),
        ]
    assert len(store.ledger(kind="deployment.alarm")) == 2


def test_a_variant_that_does_not_fit_the_callers_gives_way(store, hooks, build, versions):
    wide = put(store, build(1.0, width=6))
    with open_it(store, hooks) as deployed:
        dispatch(store, versions[0], Route(wide))
        deployed.check()
        assert answers(deployed, 1) == [4.0]
        assert [a.code for a in deployed.alarms] == ["LPT-DEP-002"]


def test_threads_come_from_the_table_unless_the_application_fixed_them(store, hooks, versions):
    one = versions[0]
    store.set_setting("N", "open", {"threads": 3})
    dispatch(store, one, Route(one, rows=4, threads=1), Route(one, threads=2))

    def threads(**options):
        with open_it(store, hooks, **options) as deployed:
            return [r.slot.request.threads for r in deployed._table.routes]

    assert threads() == [1, 2]
    assert threads(threads=5) == [5, 5]
    store.set_setting("N", KEY, None)
    assert threads() == [3]


def test_large_calls_are_run_in_parts(store, hooks, versions, monkeypatch):
    one = versions[0]
    dispatch(store, one, Route(one, batch=4))
    with open_it(store, hooks) as deployed:
        session = deployed._table.main.session
        sizes = []
        real = session.run
        monkeypatch.setattr(
            session, "run", lambda x: sizes.append(len(x["x"])) or real(x), raising=False
        )
        x = np.arange(44, dtype=np.float32).reshape(11, 4)
        assert deployed.run({"x": x})["y"][:, 0].tolist() == x.sum(axis=1).tolist()
        assert sizes == [4, 4, 3]
        with pytest.raises(SessionError):
            deployed.run({"x": x[0]})


def test_uneven_inputs_reach_the_session_as_they_are():
    class Echo:
        def run(self, inputs):
            return dict(inputs)

    inputs = {"a": np.zeros((5, 1)), "b": np.zeros((3, 1))}
    assert run_split(Echo(), inputs, 2)["b"] is inputs["b"]
    assert rows_of({}) == 1 and rows_of({"a": np.float32(3)}) == 1 and rows_of([]) == 1


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("n", 4), ("n", 2)], True),
        ([("n", 4), ("m", 2)], False),
        ([(8, 4), (8, 2)], False),
        ([("n", 4), ()], False),
        ([(None, 4), (None, 2)], True),
    ],
)
def test_rows_are_independent_if_all_share_one_open_axis(shapes, expected):
    specs = [types.TensorSpec(f"t{i}", "float32", shape) for i, shape in enumerate(shapes)]
    assert splittable(types.Signature((specs[0],), (specs[1],))) is expected


@pytest.mark.parametrize(
    "routes",
    [
        [{"version": "v1", "rows": 4}],
        [{"version": "v1"}, {"version": "v1"}],
        [{"version": "v1", "rows": 4}, {"version": "v1", "rows": 4}, {"version": "v1"}],
        [{"version": "v1", "threads": 0}],
        [{"version": "v1", "batch": True}],
        [{"version": "v1", "colour": 1}],
        [{"version": ""}],
        [{}],
        ["v1"],
        7,
    ],
)
def test_what_is_no_table_is_refused(routes):
    with pytest.raises((ValueError, TypeError, KeyError)):
        read_routes(routes)
    with pytest.raises(DeployError, match="LPT-DEP-010"):
        Dispatch.of({**Dispatch("v1").to_value(), "routes": routes})


def test_what_a_table_names_is_kept_from_collection(store, hooks, versions):
    one, two, three = versions
    dispatch(store, one, Route(two))
    assert store.gc(grace=0).versions == (three,)
    store.set_setting("N", KEY, None)
    assert store.gc(grace=0).versions == (two,)


def test_no_call_fails_while_tables_change(store, hooks, versions):
    one, two, three = versions
    stop, problems, counts = threading.Event(), [], []

    def call(rows):
        number = 0
        try:
            while not stop.is_set():
                assert answers(deployed, rows)[0] in (4.0, 8.0, 12.0)
                number += 1
        except BaseException as error:
            problems.append(error)
        counts.append(number)

    with open_it(store, hooks) as deployed:
        threads = [threading.Thread(target=call, args=(n,)) for n in (1, 1, 20, 20)]
        for thread in threads:
            thread.start()
        for number in range(20):
            first, second = (two, three) if number % 2 else (three, one)
            dispatch(store, one, Route(first, rows=4), Route(second))
            assert deployed.check() is True
            time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems and min(counts) > 20
        assert sum(s.calls for s in deployed.stats().values()) == sum(counts)


def test_measurements_say_which_table_they_belong_to(store, hooks, versions):
    one, two, _ = versions
    with open_it(store, hooks, flush_seconds=3600) as deployed:
        answers(deployed, 1, 1, 30)
        dispatch(store, one, Route(two), change="c7")
        deployed.check()
        answers(deployed, 1)
    rows = [m.data for m in store.metrics.read("N")]
    assert [(r["change"], r["version"], r["calls"]) for r in rows] == [("", one, 3), ("c7", two, 1)]
    assert [rows[0]["rows"][b][0] for b in ("0", "5")] == [2, 1]


# --- health --------------------------------------------------------------------------------------


class Counted:
    """A telemetry whose counts we set, and a list of the alarms that follow from them."""

    def __init__(self):
        self.now, self.raised = (0, 0), []

    def counts(self, version):
        return self.now

    def errors(self):
        return ()

    def add(self, kind, version, error):
        self.raised.append((kind, version, error.code))


def looks(*steps):
    """Look once for each (seconds, calls, faults); return the place of the first alarm."""
    from types import SimpleNamespace

    counted = Counted()
    health = Health(counted, counted)
    table = SimpleNamespace(slots=(SimpleNamespace(version="v1"),))
    for number, (now, calls, faults) in enumerate(steps):
        counted.now = (calls, faults)
        health.look(table, now)
        if counted.raised:
            assert counted.raised == [("health", "v1", "LPT-DEP-012")]
            return number
    return None


def test_a_version_that_fails_from_the_start_alarms():
    assert looks((0, 0, 0), (1, 4, 2), (2, 6, 3)) == 2


def test_a_version_that_did_its_work_for_long_alarms_within_a_minute():
    steps = [(float(n), 1000 * n, 0) for n in range(500)]
    steps += [(500.0 + n, 500_000 + 1000 * n, 100 * n) for n in range(90)]
    first = looks(*steps)
    assert first is not None and 500 < first <= 560


def test_few_faults_are_no_alarm():
    assert looks(*[(float(n), 1000 * n, 20 * n) for n in range(300)]) is None
    assert looks(*[(100.0 * n, 10 * n, min(n, 2)) for n in range(50)]) is None


def test_a_version_that_went_and_comes_back_is_judged_anew():
    from types import SimpleNamespace

    counted = Counted()
    health = Health(counted, counted)
    one, other = (SimpleNamespace(slots=(SimpleNamespace(version=v),)) for v in ("v1", "v2"))
    counted.now = (10, 5)
    health.look(one, 0.0)
    assert len(counted.raised) == 1
    health.look(other, 1.0)
    counted.raised.clear()
    health.look(one, 2.0)
    assert not counted.raised, "what failed before it went counts no more"
    counted.now = (20, 12)
    health.look(one, 3.0)
    assert len(counted.raised) == 1, "and it alarms again if it fails again"
