"""Parts of the search that need no model: the path, moves, bounds, the sequence, the cache."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from lepton_compress import _search_measure, _search_recover
from lepton_compress._options import read_options
from lepton_compress._recover_recipe import Recovery
from lepton_compress._search import Search
from lepton_compress._search_cache import Cache
from lepton_compress._search_find import Finder
from lepton_compress._search_measure import Meter, Point, cache_for, divergence
from lepton_compress._search_recover import recover_before_search
from lepton_compress._search_solve import Cost, count, everything, hull, path, predicted, smaller
from lepton_compress._search_verify import bound_of, check, in_sequence
from lepton_core import environment, hooks
from lepton_core.context import SilentReporter
from lepton_core.statistics import binomial_upper
from lepton_core.types import OptimizeRequest
from lepton_core.verdicts import Limits


def random_costs(seed, units=5):
    random = np.random.default_rng(seed)
    costs = {}
    for unit in range(units):
        errors = np.sort(random.exponential(1.0, 3))
        sizes = -np.sort(random.integers(10, 1000, 3))
        costs[f"u{unit}"] = {"fp32": Cost(0, 0)} | {
            name: Cost(float(size), float(error))
            for name, size, error in zip(("a", "b", "c"), sizes, errors, strict=True)
        }
    return costs


def test_a_hull_leaves_out_what_is_larger_and_worse_or_above_the_line():
    choices = {"fp32": Cost(0, 0), "int8": Cost(-75, 1), "w8": Cost(-70, 2), "int4": Cost(-85, 1.5)}
    assert hull(choices) == ["fp32", "int8", "int4"]
    assert hull({"fp32": Cost(0, 0), "big": Cost(5, 1)}) == ["fp32"]
    assert hull({"fp32": Cost(0, 0), "free": Cost(-5, 0)}) == ["free"]


@pytest.mark.parametrize("seed", range(5))
def test_every_step_of_the_path_is_the_best_of_its_size(seed):
    """Against all choices: none as small has less error, by Lagrange's theorem."""
    costs = random_costs(seed)
    whole = [predicted(costs, c) for c in everything(costs)]
    way = path(costs)
    assert len(whole) == count(costs) == 4**5
    sizes = [predicted(costs, c).size for c in way]
    assert sizes == sorted(sizes, reverse=True)
    for chosen in way:
        mine = predicted(costs, chosen)
        best = min(c.error for c in whole if c.size <= mine.size + 1e-9)
        assert mine.error == pytest.approx(best, abs=1e-9)


def test_moves_are_smaller_and_come_by_error():
    costs = random_costs(9, units=3)
    start = dict.fromkeys(costs, "a")
    moves = list(smaller(costs, start))
    now = predicted(costs, start)
    found = [predicted(costs, m) for m in moves]
    assert all(c.size < now.size for c in found)
    assert [c.error for c in found] == sorted(c.error for c in found)
    assert any(sum(m[u] != "a" for u in m) == 2 for m in moves)


def point(drop=0.0, worse=0, better=0, rows=400, size=100, error=0.01, spread=0.0, **chosen):
    return Point(chosen, size, drop, spread, worse, better, rows, error, 0.9999)


def test_bounds_of_shares():
    none = point()
    assert bound_of(none, share=True, confidence=0.95) == binomial_upper(0, 400, 0.95)
    few = point(drop=3 / 400, worse=5, better=2)
    assert bound_of(few, share=True, confidence=0.95) == binomial_upper(5, 400, 0.95)
    many = point(drop=5 / 400, worse=20, better=15)
    # Agresti and Min: (5 / 402) + 1.645 * sqrt(36 - 25 / 402) / 402
    assert bound_of(many, share=True, confidence=0.95) == pytest.approx(0.03696, abs=2e-4)
    assert bound_of(many, share=True, confidence=0.95) < binomial_upper(20, 400, 0.95)


def test_bounds_cover_what_they_say():
    """Of 2,000 draws at a true loss of 3 %, the bound lies below it in at most 5 %."""
    random = np.random.default_rng(0)
    below = 0
    for worse, better in zip(
        random.binomial(400, 0.05, 2000), random.binomial(400, 0.02, 2000), strict=True
    ):
        one = point(drop=(worse - better) / 400, worse=int(worse), better=int(better))
        below += bound_of(one, share=True, confidence=0.95) < 0.03
    assert below <= 0.06 * 2000


def test_a_loss_within_the_budget_is_not_enough_unless_the_bound_is():
    limits = Limits()
    assert check(point(), 0.01, share=True, limits=limits).proved
    seen = point(drop=3 / 400, worse=3)
    found = check(seen, 0.01, share=True, limits=limits)
    assert not found.holds
    assert "0.0075" in found.why
    # 60 rows prove no loss below 4.9 %: they must show none
    assert check(point(rows=60), 0.02, share=True, limits=limits).holds
    assert not check(point(rows=60), 0.02, share=True, limits=limits).proved
    assert not check(point(drop=1 / 60, worse=1, rows=60), 0.02, share=True, limits=limits).holds
    even = point(worse=2, better=2, rows=60)
    assert check(even, 0.02, share=True, limits=limits).holds
    assert not check(point(error=0.2), 0.5, share=True, limits=limits).holds
    spread = point(drop=0.010, spread=0.1, rows=400)
    bound = bound_of(spread, share=False, confidence=0.95)
    assert bound == pytest.approx(0.010 + 1.645 * 0.005, rel=1e-3)


def test_nothing_is_proved_without_a_budget_or_beyond_one():
    limits = Limits()
    lossy = point(drop=0.2, worse=80)
    free = check(lossy, None, share=True, limits=limits)
    assert free.holds
    assert not free.proved
    assert not free.exceeds(None)
    by_size = check(lossy, 0.01, share=True, limits=limits, required=False)
    assert by_size.holds
    assert not by_size.proved
    assert by_size.exceeds(0.01)
    beyond = point(error=0.2)
    assert not check(beyond, 0.01, share=True, limits=limits, required=False).holds


def test_a_sequence_ends_with_the_first_failure():
    losses = iter([0.0, 0.0, 0.5, 0.0])
    points = [point(size=s) for s in (400, 300, 200, 100)]

    def measured(one):
        return check(point(drop=next(losses), worse=0, size=one.size), 0.01, share=True,
                     limits=Limits())  # fmt: skip

    kept, seen = in_sequence(points, lambda p: _failing(measured(p)))
    assert kept.point.size == 300
    assert [one.point.size for one in seen] == [400, 300, 200]


def test_what_two_searches_found_is_verified_in_one_sequence():
    """The smallest of one fails on held-out rows; what the other found next to it is taken."""

    def search(points, drops):
        best = min(points, key=lambda p: p.size)
        finder = SimpleNamespace(
            budget=0.05, limits=Limits(), pareto=lambda: points, accepts=lambda _: True,
            best=lambda: best,
        )  # fmt: skip
        held_out = SimpleNamespace(of=lambda chosen: drops[chosen["w"]])
        meter = SimpleNamespace(metric=SimpleNamespace(metric=SimpleNamespace(share=True)))
        return Search(None, None, meter, None, held_out, None, point(size=1000), [], finder, 0.05,
                      [])  # fmt: skip

    lossy, fine = point(drop=0.2, worse=80), point()
    one = search([point(size=900, w="a"), point(size=300, error=0.1, w="b")],
                 {"a": fine, "b": lossy})  # fmt: skip
    two = search([point(size=400, error=0.02, w="c"), point(size=950, error=0.02, w="d")],
                 {"c": fine, "d": fine})  # fmt: skip
    owner, kept = one.verify(one.finder.best(), [two])
    assert owner is two
    assert kept.point is fine
    assert [found.holds for found in owner.checked] == [True, True, False]
    owner, kept = one.verify(one.finder.best())
    assert owner is one
    assert [found.holds for found in owner.checked] == [True, False]


def _failing(found):
    from dataclasses import replace

    return replace(found, holds=found.point.drop == 0.0)


class _Meter:
    """Measures made-up choices: losses add up with an interaction that no prediction knows."""

    def __init__(self, costs, seed):
        self.costs, self.asked = costs, 0
        self.reporter = SilentReporter()
        random = np.random.default_rng(seed)
        self.weights = {u: random.uniform(0.7, 1.4) for u in costs}

    def of_all(self, choices, title):
        self.asked += len(choices)
        return [self._one(c) for c in choices]

    def _one(self, chosen):
        cost = predicted(self.costs, chosen)
        real = sum(self.costs[u][c].error * self.weights[u] for u, c in chosen.items())
        return Point(chosen, int(10_000 + cost.size), real / 100, 0.0, 0, 0, 100, 0.01, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_the_search_is_within_5_percent_of_the_best(seed):
    """On spaces of 1,024 choices, with a tenth of the measurements, against all of them."""
    costs = random_costs(seed)
    meter = _Meter(costs, seed)
    budget = np.random.default_rng(seed).uniform(0.005, 0.06)
    finder = Finder(meter, costs, budget, None, exhaustive=0, trials=100)
    found = finder.run()
    asked = meter.asked
    best = min(
        (p for p in meter.of_all(list(everything(costs)), "") if p.drop <= budget),
        key=lambda p: p.size,
    )
    assert asked <= 120
    assert found.drop <= budget
    assert found.size <= 1.05 * best.size


@pytest.mark.parametrize("seed", range(8))
def test_the_search_fills_a_size(seed):
    costs = random_costs(seed)
    meter = _Meter(costs, seed)
    limit = 10_000 - np.random.default_rng(seed).uniform(200, 1500)
    finder = Finder(meter, costs, None, limit, exhaustive=0, trials=100)
    found = finder.run()
    assert found.size <= limit
    pareto = finder.pareto()
    assert [p.size for p in pareto] == sorted((p.size for p in pareto), reverse=True)
    for one, two in itertools.pairwise(pareto):
        assert one.error < two.error or one.size > two.size


def test_a_cache_survives_a_line_that_was_cut_off(tmp_path):
    facts = {"pivot": "sha256:1"}
    cache = Cache(tmp_path, facts)
    cache.put("a", {"size": 1})
    cache.put("b", {"size": 2})
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    again = Cache(tmp_path, facts)
    assert again.get("a") == {"size": 1}
    assert again.get("b") is None
    again.put("c", {"size": 3})
    assert Cache(tmp_path, {"pivot": "sha256:2"}).get("a") is None
    assert [json.loads(line)["key"] for line in file.read_text().splitlines()[-1:]] == ["c"]
    assert Cache(tmp_path, facts).get("c") == {"size": 3}


def test_divergence_of_classes():
    scores = np.asarray([[2.0, 0.0], [0.0, 1.0]], np.float32)
    assert divergence(scores, scores) == 0.0
    p, q = 1 / (1 + np.exp(-2.0)), 0.5
    wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / q)) / 1
    assert divergence(scores[:1], np.zeros((1, 2), np.float32)) == pytest.approx(wanted, rel=1e-6)
    assert divergence(scores, np.full((2, 2), np.inf, np.float32)) == np.inf
    assert divergence(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32)) is None


def test_the_worst_slice_is_the_one_that_loses_most_of_those_large_enough():
    names = np.asarray(["a"] * 20 + ["b"] * 20 + ["c"] * 3)
    lost = np.concatenate([np.zeros(20), np.repeat([1.0, 0.0], 10), np.ones(3)])
    rows = SimpleNamespace(slices=names)
    assert Meter._worst_slice(rows, lost) == ("b", 0.5)
    assert Meter._worst_slice(rows, np.zeros(43)) == ("", 0.0)
    assert Meter._worst_slice(SimpleNamespace(slices=None), lost) == ("", 0.0)


@pytest.fixture
def cached(tmp_path):
    """Return the cache of a request for Core ML with these options."""

    def make(device=None, **options):
        request = OptimizeRequest("coreml", precision="mixed", device=device)
        options = read_options({"cache": str(tmp_path), **options}, "mixed")
        job = SimpleNamespace(
            options=options, request=request, base=SimpleNamespace(digest="sha256:0"),
            context=SimpleNamespace(hooks=hooks.default()),
        )  # fmt: skip
        return cache_for(job, [])

    return make


def test_devices_of_a_target_share_no_measurement(cached):
    """What one device holds, another may store in another form, or not at all."""
    cached("ios17").put("choice", {"size": 1})
    assert cached("ios17").get("choice") == {"size": 1}
    assert cached("ios18").get("choice") is None
    assert cached().get("choice") is None


def test_what_changes_a_result_shares_no_measurement(cached, monkeypatch):
    """Scales as float16 are other numbers, and so is what another converter or CPU makes."""
    cached().put("choice", {"size": 1})
    assert cached().get("choice") == {"size": 1}
    for options in ({"scales": "float16"}, {"method": "mse"}, {"symmetric": "no"}, {"block": 64}):
        assert cached(**options).get("choice") is None
    known = environment.version_of
    with monkeypatch.context() as other:
        other.setattr(environment, "version_of", lambda n: "0" if n == "coremltools" else known(n))
        assert cached().get("choice") is None
    monkeypatch.setattr(_search_measure, "cpu_name", lambda: "another")
    assert cached().get("choice") is None


def test_what_was_recovered_for_one_budget_is_not_taken_for_another(monkeypatch):
    """Nothing is tried where int8 passes; a tighter budget needs what a looser one did not."""
    tried, cache, rows = [], Cache(None, {}), SimpleNamespace(digest="sha256:1")
    nothing = {"recovery": Recovery().to_dict(), "facts": {}}
    monkeypatch.setattr(
        _search_recover, "_tried", lambda job, *_: tried.append(job.request.max_drop) or nothing
    )
    for budget in (0.05, 0.05, 0.001, None):
        request = OptimizeRequest("onnxruntime", precision="mixed", max_drop=budget)
        job = SimpleNamespace(options=read_options({}, "mixed"), request=request)
        assert recover_before_search(job, rows, rows, cache).recovery.empty
    assert tried == [0.05, 0.001, None]
