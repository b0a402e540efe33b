"""The whole-model choice: what is kept was measured smaller or faster here, within the budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_compress._bench import Bench, Trial
from lepton_compress._build import all_values, choose_layers
from lepton_compress._calibrate import Range, observe
from lepton_compress._job import RECIPE, Job, lower
from lepton_compress._no_gain import no_gain
from lepton_compress._options import RECOVERIES
from lepton_compress._recover import Recoverer
from lepton_compress._recover_recipe import Recovery
from lepton_compress._select import PRODUCTS
from lepton_core.errors import OptimizeError
from lepton_core.progress import show_board
from lepton_core.samples import split
from lepton_core.types import OptimizeResult

if TYPE_CHECKING:
    from lepton_core import recipe as recipes
    from lepton_core.samples import Samples

ESTIMATORS = ("minmax", "mse", "percentile:99.99")
"""Range estimators in the order in which they are tried."""

SENSITIVITY_ROWS = 128


@dataclass
class Search:
    """One choice: candidates are built, measured on rows not calibrated on, and compared.

    Attributes:
        job: What was asked for.
        calibration: Rows to calibrate on.
        bench: Measures candidates.
        trials: Everything tried, in order; the float model first.
        ranges: Ranges by estimator, once observed.
        recovery: What is done to the float graph before it becomes integers.
        recovered: What was tried for that, for the record.
        diagnosis: Why int8 loses here, for the record.
    """

    job: Job
    calibration: Samples
    bench: Bench
    trials: list[Trial]
    ranges: dict[str, dict[str, Range]]
    recovery: Recovery = field(default_factory=Recovery)
    recovered: dict[str, Any] = field(default_factory=dict)
    diagnosis: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> Trial | None:
        """Return the first candidate that passes and gains; ``None`` if there is none."""
        auto = self.job.request.precision == "auto" and self.job.options.estimator == "minmax"
        estimators = ESTIMATORS if auto else (self.job.options.estimator,)
        for estimator in estimators:
            trial = self.try_recipe(estimator, ())
            if estimator == estimators[0]:
                trial = self.recover(trial)
            if self.accepts(trial):
                return trial
        best = min(self.trials[1:], key=lambda t: t.error)
        return self._with_float_layers(best.estimator)

    def recover(self, trial: Trial) -> Trial:
        """Get back what can be got back without labels; what is kept holds for all that follows."""
        asked = self.job.options.recover
        methods = RECOVERIES if asked is None else asked
        recoverer = Recoverer(self.job, self.calibration, self.bench, trial.estimator, trial)
        recoverer.run(methods)
        self.recovered = recoverer.facts(trial)
        self.diagnosis = recoverer.diagnosis()
        if recoverer.best is not trial:
            self.recovery, self.ranges = recoverer.recovery, {}
            self.trials.append(recoverer.best)
            self.show()
        return recoverer.best

    def try_recipe(self, estimator: str, float_layers: tuple[str, ...]) -> Trial:
        """Build and measure static int8 with some layers kept float."""
        recipe = self._recipe(estimator, float_layers)
        name = f"{recipe.precision} ({estimator}"
        name += f", {len(float_layers)} layers float)" if float_layers else ")"
        trial = self.bench.measure(name, recipe, estimator, float_layers)
        self.trials.append(trial)
        self.show()
        return trial

    def show(self) -> None:
        """Show what was tried so far, where there is a terminal."""
        rows = [
            (t.name, f"{t.size:,}", f"{t.error:.2e}", f"{t.drop:.4f}",
             t.gain.time_text if t.gain else "", t.verdict)
            for t in self.trials
        ]  # fmt: skip
        columns = ("candidate", "bytes", "error", "loss", "beside fp32", "verdict")
        reporter = self.job.context.reporter
        show_board(reporter, f"{len(self.trials) - 1} candidates", columns, rows)

    def _recipe(self, estimator: str, float_layers: tuple[str, ...]) -> recipes.Recipe:
        if estimator not in self.ranges:
            graph, _ = self.recovery.on(self.job.graph)
            layers = choose_layers(graph, self.job.options.keep).layers
            names = all_values(graph, layers.values())
            self.ranges[estimator] = observe(
                graph, names, self.calibration, self.job.scratch, estimator,
                threads=self.job.options.threads,
            )  # fmt: skip
        keep = (*self.job.options.keep, *float_layers)
        ranges = self.ranges[estimator]
        return self.recovery.recipe(self.job, self.calibration, estimator, keep, ranges)[0]

    def accepts(self, trial: Trial) -> bool:
        """Tell whether a candidate is within the budget and smaller or faster than float."""
        return trial.passes and bool(trial.gains)

    def _with_float_layers(self, estimator: str) -> Trial | None:
        """Keep the layers that hurt most float, twice as many each time, up to half of them."""
        order = [name for name, _ in self.sensitivity(estimator)]
        count = 1
        while count <= len(order) // 2:
            trial = self.try_recipe(estimator, tuple(order[:count]))
            if self.accepts(trial):
                return trial
            count *= 2
        return None

    def sensitivity(self, estimator: str) -> list[tuple[str, float]]:
        """Return the products by the error that each alone causes, worst first."""
        layers = choose_layers(self.job.graph, self.job.options.keep).layers
        products = [n for n, layer in layers.items() if layer.op in PRODUCTS and layer.weight]
        small = self.bench.on_rows(SENSITIVITY_ROWS)
        found = []
        for name in products:
            others = tuple(n for n in products if n != name)
            recipe = self._recipe(estimator, others)
            found.append((name, small.measure(name, recipe, estimator, others).error))
        return sorted(found, key=lambda item: (-item[1], item[0]))


def choose(job: Job, samples: Samples) -> OptimizeResult:
    """Try static int8 under a budget; keep float where nothing is gained within it.

    Raises:
        OptimizeError: ``LPT-OPT-014`` int8 was asked for and nothing meets the budget, with the
            closest candidate and the layer that limits it; or what meets it gains nothing.
    """
    calibration, validation = split(samples, seed=job.context.seed)
    if calibration is None:
        calibration = validation
    bench = Bench.prepare(job, validation)
    search = Search(job, calibration, bench, [bench.measure_float()], {})
    kept = search.run()
    show_board(job.context.reporter, "", (), ())
    facts = _facts(search, kept)
    if kept is not None and kept.recipe is not None:
        place = job.write(kept.recipe, job.context.workdir / RECIPE)
        why = f"{kept.name}: {kept.gains}; {kept.why}"
        return OptimizeResult(lower(job, place), str(place), why, facts)
    why = _why_float(search)
    if job.request.precision != "auto":
        raise _budget_error(search, job.request.max_drop, why)
    return OptimizeResult(lower(job, None), None, why, facts)


def _facts(search: Search, kept: Trial | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trials": [trial.summary() for trial in search.trials],
        "verdict": (kept or search.trials[0]).verdict,
        "calibrated_on": len(search.calibration),
        "measured_on": search.bench.rows,
        "recovery": search.recovered,
        "diagnosis": search.diagnosis,
    }
    if search.job.pruning is not None:
        facts["pruning"] = search.job.pruning.facts
    if kept is not None and kept.recipe is not None:
        facts |= {"recipe": {"digest": kept.recipe.digest, "scheme": kept.recipe.scheme}}
        facts |= kept.facts
        facts["float_layers"] = list(kept.float_layers)
    return facts


def _why_float(search: Search) -> str:
    passing = [t for t in search.trials[1:] if t.passes]
    if passing:
        return f"kept fp32, because {passing[0].name} is neither smaller nor faster here"
    best = min(search.trials[1:], key=lambda t: (t.drop, t.error))
    return f"kept fp32, because nothing met the budget; the closest is {best.name}: {best.why}"


def _budget_error(search: Search, max_drop: float | None, why: str) -> OptimizeError:
    best = min(search.trials[1:], key=lambda t: (not t.passes, t.drop, t.error))
    if best.passes:
        details = {"closest": best.summary(), "limited_by": None, "max_drop": max_drop}
        return no_gain(search.job.request.precision, best, search.trials[0], details)
    worst = search.sensitivity(best.estimator)[:1]
    limit = f"; {worst[0][0]!r} alone causes a relative error of {worst[0][1]:.3g}" if worst else ""
    return OptimizeError(
        "LPT-OPT-014",
        f"No {search.job.request.precision} variant meets the budget of {max_drop}",
        cause=f"{why.removeprefix('kept fp32, because ')}{limit}",
        remedy="Loosen --max-drop, give more samples, or ask for fp16 or auto.",
        details={
            "closest": best.summary(),
            "limited_by": worst[0][0] if worst else None,
            "max_drop": max_drop,
        },
    )


__all__ = ["ESTIMATORS", "Search", "choose"]
