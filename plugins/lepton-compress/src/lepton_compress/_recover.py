"""Getting back without labels what static int8 loses: what is tried, and what is kept.

What helps is found on calibration rows alone. Each method is measured on rows that were not
calibrated on, and stays only if it gains there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._calibrate import observe
from lepton_compress._channels import observe_axes, observe_channels
from lepton_compress._diagnose import (
    CURED,
    Finding,
    channel_findings,
    concat_findings,
    range_findings,
    sum_findings,
    weight_findings,
)
from lepton_compress._diagnose_cpu import saturation_findings
from lepton_compress._recover_bias import (
    MOST_LAYERS,
    analytic,
    channel_axis,
    correctable,
    empirical,
)
from lepton_compress._recover_judge import LITTLE, gains, saves_time
from lepton_compress._recover_recipe import Recovery
from lepton_compress._recover_scales import (
    STEPS,
    WIDE_STEPS,
    balance,
    equalize,
    merged,
    smooth,
    spread,
)
from lepton_compress._recover_sites import output_sites, reader_sites
from lepton_compress._recover_text import lines
from lepton_core.origins import LOCATIONS
from lepton_onnx import qdq

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from lepton_compress._bench import Bench, Trial
    from lepton_compress._channels import Channels
    from lepton_compress._graph import Graph
    from lepton_compress._job import Job
    from lepton_compress._recover_sites import Site
    from lepton_core.recipe import Correction, Rescaled
    from lepton_core.samples import Samples

ROWS = 256
"""Calibration rows that channels are looked at on."""

UNEVEN = 0.25
"""Channels are uneven if the one in the middle reaches less than this share of the largest."""

SLOWER = "slower"
"""Word by which a session says that its exact products of integers take other kernels."""


@dataclass
class Recoverer:
    """Tries methods one after the other on top of what was kept so far.

    Attributes:
        job: What was asked for.
        calibration: Rows to find things out on.
        bench: Measures on other rows.
        estimator: Range estimator.
        best: The candidate so far.
        recovery: What it has.
        steps: What was tried, for the record.
        findings: Why int8 loses here.
        each_weight: Whether a precision is yet to be chosen for each weight. What holds for one
            choice of the others alone is not tried then, and neither is what saves nothing but
            time.
    """

    job: Job
    calibration: Samples
    bench: Bench
    estimator: str
    best: Trial
    recovery: Recovery = field(default_factory=Recovery)
    steps: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    each_weight: bool = False

    def run(self, methods: Collection[str]) -> None:
        """Try each of *methods* that may help here, in a fixed order.

        Where int8 as it is passes and the error of its outputs is below :data:`LITTLE`, there is
        nothing to get back and no method is tried for it. Time may still be: see
        :meth:`_narrow_for_time`.
        """
        if not (self.best.passes and self.best.balanced <= LITTLE):
            self._recover(methods)
        if "narrow" in methods and not self.each_weight:
            self._narrow_for_time()

    def _recover(self, methods: Collection[str]) -> None:
        self.findings = self._diagnose()
        attempts = {
            "equalize": self._equalize,
            "smooth": self._smooth,
            "balance": self._balance,
        }
        wanted = [name for name in attempts if name in methods]
        gained = self._round([(name, attempts[name]) for name in wanted])
        first = wanted.index(gained[0]) if gained else 0
        # What a larger loss hid from the measurement before the first gain may show now.
        self._round([(name, attempts[name]) for name in wanted[:first]])
        last = [("narrow", self._narrow), ("bias", self._bias)]
        self._round([(name, attempt) for name, attempt in last if name in methods])

    def _round(self, attempts: list[tuple[str, Callable[[], None]]]) -> list[str]:
        """Try methods in turn; return those that gained."""
        gained = []
        for name, attempt in attempts:
            self.job.scratch.checkpoint()
            before = self.best
            attempt()
            if self.best is not before:
                gained.append(name)
        return gained

    def facts(self, before: Trial) -> dict[str, Any]:
        """Return what the record keeps about all that was tried after *before*."""
        return {
            "steps": self.steps,
            "text": lines(self.steps),
            "drop_before": _number(before.drop),
            "drop_after": _number(self.best.drop),
            "error_before": _number(before.balanced),
            "error_after": _number(self.best.balanced),
        }

    def diagnosis(self) -> list[dict[str, Any]]:
        """Return what the record keeps about why int8 loses here."""
        places = self.job.base.metadata.get(LOCATIONS, {})
        return [finding.facts(self.job.graph, places) for finding in self.findings]

    def _diagnose(self) -> list[Finding]:
        recipe, graph = self.best.recipe, self.job.graph
        if recipe is None:
            return []
        readers, heads = self._sites(outputs=False), self._sites(outputs=True)
        axes = {site.value: site.axis for site in (*readers, *heads)}
        sums = {n: (*v.inputs, n) for n, v in recipe.layers.items() if v.op == "Add"}
        for value in {v for group in sums.values() for v in group}:
            rank = len(graph.shapes.get(value, ()))
            axes.setdefault(value, 1 if rank == 4 else max(rank - 1, 0))
        seen = observe_channels(graph, axes, self._rows, self.job.scratch, threads=self._threads)
        _, chosen = self.recovery.recipe(
            self.job, self.calibration, self.estimator, self.job.options.keep
        )
        rows = self.bench.samples
        after = observe(graph, list(chosen), rows, self.job.scratch, threads=self._threads)
        return [
            *channel_findings(graph, readers, seen, head=False, steps=self._steps),
            *channel_findings(graph, heads, seen, head=True, steps=self._steps),
            *concat_findings(graph, recipe, chosen, steps=self._steps),
            *weight_findings(graph, recipe),
            *sum_findings(graph, recipe, seen),
            *range_findings(graph, recipe, chosen, after, clips=self.estimator != "minmax"),
            *saturation_findings(graph, recipe, self._rows, self.job.scratch),
        ]

    # --- methods ------------------------------------------------------------------------------

    def _equalize(self) -> None:
        sites = [s for s in self._sites(outputs=False) if s.product]
        if not sites:
            self._skip("equalize", "no two products have only ReLU or pooling between them")
            return
        seen = self._channels(sites)
        shares = {s.value: spread(seen[s.value].grouped(s.channels).absmax) for s in sites}
        if min(shares.values()) >= UNEVEN:
            self._skip("equalize", "the channels between products have even ranges")
            return
        self._try("equalize", equalize(self._graph, sites))

    def _smooth(self) -> None:
        sites = self._sites(outputs=False)
        entries, left = smooth(self._graph, sites, self._channels(sites), steps=self._steps)
        if not entries:
            self._skip("smooth", "no input of a product has channels so uneven that it would gain")
            return
        self._try("smooth", entries, expected={v: round(s, 4) for v, s in left.items()})

    def _balance(self) -> None:
        joins = [f for f in self.findings if f.mechanism == "mixed-head" and not f.methods]
        if joins:
            names = tuple(f.value for f in joins)
            candidate = replace(self.recovery, keep=names)
            self._measure("balance (join in float)", candidate, {"values": list(names)})
        sites = self._sites(outputs=True)
        if not sites:
            self._skip("balance", "no quantized output is read by float operators alone")
            return
        entries, before = balance(sites, self._channels(sites))
        if not entries:
            self._skip("balance", "the channels of outputs have even ranges")
            return
        self._try(
            "balance", entries, levels={v: round(self._steps * s, 1) for v, s in before.items()}
        )

    def _narrow(self) -> None:
        graph, names = self.recovery.on(self.job.graph)
        if self.best.recipe is None:
            return
        recipe = names.recipe(self.best.recipe)
        found = saturation_findings(graph, recipe, self._rows, self.job.scratch)
        if not found:
            self._skip("narrow", "sums of two products fit 16 bits, or this CPU has wider ones")
            return
        others = [f for f in self.findings if f.mechanism != found[0].mechanism]
        self.findings = [*others, *found]
        weights = tuple(recipe.layers[f.value].weight or "" for f in found)
        candidate = replace(self.recovery, narrow=weights)
        self._measure("narrow", candidate, {"values": [f.value for f in found]})

    def _narrow_for_time(self) -> None:
        """Try half the integers for all weights where the exact kernels are the slow ones."""
        recipe, before = self.best.recipe, self.best
        if recipe is None or SLOWER not in before.integers or not before.passes:
            return
        _, names = self.recovery.on(self.job.graph)
        layers = names.recipe(recipe).layers.values()
        weights = tuple(v.weight for v in layers if v.weight is not None and v.mode == "static")
        candidate = replace(self.recovery, narrow=weights)
        self._measure("narrow (faster kernels)", candidate, {"for": "time"}, self._saves_time)

    def _saves_time(self, new: Trial) -> bool:
        budgeted = self.job.request.max_drop is not None
        return saves_time(new, self.best, self.bench.rows, budgeted=budgeted)

    def _bias(self) -> None:
        recipe = self.best.recipe
        graph, names = self.recovery.on(self.job.graph)
        inside = names.recipe(recipe) if recipe is not None else None
        layers = correctable(graph, inside) if inside is not None else {}
        if inside is None or recipe is None or not layers:
            self._skip("bias", "no integer product has a bias of its own")
            return
        axes = [(v.inputs[0], channel_axis(graph, v.inputs[0], v.op)) for v in layers.values()]
        seen = observe_axes(graph, axes, self._rows, self.job.scratch, threads=self._threads)
        means = {place: one.mean for place, one in seen.items()}
        self._correct("bias (analytic)", analytic(graph, inside, means))
        if self.each_weight:
            self._skip("bias (empirical)", "it holds for one choice of the layers before alone")
            return
        if len(layers) > MOST_LAYERS:
            self._skip("bias (empirical)", f"there are more than {MOST_LAYERS} layers")
            return
        found = empirical(
            self.job.graph.model, graph, replace(recipe, corrections={}), self._rows,
            self.job.scratch, threads=self._threads,
        )  # fmt: skip
        self._correct("bias (empirical)", found)

    # --- trying -------------------------------------------------------------------------------

    def _try(self, method: str, entries: Mapping[str, Rescaled], **facts: Any) -> bool:  # noqa: ANN401
        rescaled = merged(self.recovery.rescaled, entries)
        order = {name: i for i, name in enumerate(
            [*self.job.graph.inputs, *(o for n in self.job.graph.nodes.values() for o in n.output)]
        )}  # fmt: skip
        ordered = {v: rescaled[v] for v in sorted(rescaled, key=lambda v: order[v])}
        facts["values"] = list(entries)
        return self._measure(method, replace(self.recovery, rescaled=ordered), facts)

    def _correct(self, method: str, corrections: Mapping[str, Correction]) -> bool:
        candidate = replace(self.recovery, corrections=corrections)
        return self._measure(method, candidate, {"layers": len(corrections)})

    def _measure(
        self,
        method: str,
        candidate: Recovery,
        facts: dict[str, Any],
        better: Callable[[Trial], bool] | None = None,
    ) -> bool:
        recipe, _ = candidate.recipe(
            self.job, self.calibration, self.estimator, self.job.options.keep
        )
        name = f"{recipe.precision} ({self.estimator}, {method})"
        trial = self.bench.measure(name, recipe, self.estimator, ())
        kept = better(trial) if better else gains(trial, self.best, self.bench.rows)
        self.steps.append(
            {
                "method": method,
                "kept": kept,
                "drop_before": _number(self.best.drop),
                "drop_after": _number(trial.drop),
                "error_before": _number(self.best.balanced),
                "error_after": _number(trial.balanced),
                "p50_ms_before": self.best.p50_ms,
                "p50_ms_after": trial.p50_ms,
                **facts,
            }
        )
        if kept:
            self._credit(method, self.steps[-1])
            self.best, self.recovery = trial, candidate
        return kept

    def _credit(self, method: str, step: Mapping[str, Any]) -> None:
        """Write into findings what their cure gave back, together with others of its kind.

        Of several ways that treat one value, the one that gave back most is its cure.
        """
        values = set(step.get("values", ()))
        shared = {k: step[k] for k in ("drop_before", "drop_after", "error_before", "error_after")}
        self.findings = [
            replace(f, gave_back={"method": method, **shared})
            if f.value in values
            and f.mechanism in CURED
            and (not f.gave_back or _given_back(step) > _given_back(f.gave_back))
            else f
            for f in self.findings
        ]

    def _skip(self, method: str, why: str) -> None:
        self.steps.append({"method": method, "kept": False, "why": why})

    # --- what is looked at --------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return WIDE_STEPS if self.job.request.precision == "int16" else STEPS

    @property
    def _threads(self) -> int | None:
        return self.job.options.threads

    @property
    def _rows(self) -> Samples:
        count = len(self.calibration)
        if count <= ROWS:
            return self.calibration
        return self.calibration.rows(np.linspace(0, count - 1, ROWS).astype(np.int64))

    @property
    def _graph(self) -> Graph:
        """The pivot with the weights as they are after what was kept, under its own names."""
        return self.recovery.on(self.job.graph)[0]

    def _sites(self, *, outputs: bool) -> list[Site]:
        recipe = self.best.recipe
        layers = recipe.layers if recipe is not None else {}
        return (output_sites if outputs else reader_sites)(self.job.graph, layers)

    def _channels(self, sites: list[Site]) -> dict[str, Channels]:
        """Return what the values of sites look like after what was kept."""
        axes = {site.value: site.axis for site in sites}
        seen = observe_channels(
            self.job.graph, axes, self._rows, self.job.scratch, threads=self._threads
        )
        for site in sites:
            if site.value in seen:
                seen[site.value] = seen[site.value].grouped(site.channels)
                entry = self.recovery.rescaled.get(site.value)
                if entry is not None:
                    back = qdq.factors(-e for e in entry.exponents)
                    seen[site.value] = seen[site.value].times(back)
        return seen


def recover(job: Job, samples: Samples) -> tuple[Recovery, dict[str, Any]]:
    """Find out what gives back what static int8 loses, without a budget.

    The rows are divided: two thirds verify what the others suggest.

    Args:
        job: What was asked for; its options name the methods.
        samples: Rows that none of the caller's measurements will use.

    Returns:
        What was kept, and facts for the record: ``recovery`` and ``diagnosis``.
    """
    from lepton_compress._bench import Bench
    from lepton_core.samples import split

    calibration, validation = split(samples, seed=job.context.seed)
    bench = Bench.prepare(job, validation)
    rows, estimator = calibration or validation, job.options.estimator
    recipe, _ = Recovery().recipe(job, rows, estimator, job.options.keep)
    plain = bench.measure(f"{recipe.precision} ({estimator})", recipe, estimator, ())
    recoverer = Recoverer(job, rows, bench, estimator, plain)
    recoverer.run(job.options.recover or ())
    facts = {"recovery": recoverer.facts(plain), "diagnosis": recoverer.diagnosis()}
    return recoverer.recovery, facts


def _given_back(step: Mapping[str, Any]) -> tuple[float, float]:
    """Return by how much the metric's drop and the error of the outputs fell."""
    drop, error = (
        _fallen(step[f"{name}_before"], step[f"{name}_after"]) for name in ("drop", "error")
    )
    return drop, error


def _fallen(before: float | None, after: float | None) -> float:
    # What is not known, or not finite, is None.
    if after is None:
        return 0.0
    return math.inf if before is None else before - after


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


__all__ = ["ROWS", "UNEVEN", "Recoverer", "recover"]
