"""Adjusting: measure the variants, ask the policy, try its table, keep it or go back."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.adjusting._candidates import find_candidates, require_one
from lepton_core.adjusting._effect import PAIRS, LiveWatch, Probe
from lepton_core.adjusting._history import (
    KEPT,
    REVERTED,
    Change,
    Tables,
    new_id,
    with_alias,
)
from lepton_core.adjusting._observe import Observer, thread_counts
from lepton_core.adjusting._policy import ask
from lepton_core.adjusting._verdict import answers_from, judge
from lepton_core.adjusting._workload import fitted, workload
from lepton_core.deployment._alarms import plain_details
from lepton_core.embedded._options import read_options
from lepton_core.environment import available_cpus, available_memory
from lepton_core.errors import (
    AdjustError,
    LeptonError,
    OperationCancelledError,
    StorageError,
    UsageError,
)
from lepton_core.store._failpoints import reach
from lepton_core.types import AdjustResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.adjusting._candidates import Candidate
    from lepton_core.adjusting._effect import Effect
    from lepton_core.adjusting._observe import Observation
    from lepton_core.adjusting._policy import Proposal
    from lepton_core.adjusting._workload import Load
    from lepton_core.context import Context
    from lepton_core.deployment._routes import Route
    from lepton_core.dispatch import Hooks
    from lepton_core.store import Resolved, Store
    from lepton_core.types import AdjustRequest

OBJECTIVES = ("latency", "throughput", "memory")
_TRIAL_SECONDS = 300.0
_FATAL = (OperationCancelledError, StorageError)


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the embedded engine.

    Attributes:
        store: Folder of the store; ``LEPTON_STORE`` or the user's data folder by default.
        alias: Alias whose dispatch table is adjusted.
        policy: Policy that plans.
        deadline: Seconds that the policy may take.
        rows: Numbers of rows of calls; by default what live handles measured.
        callers: Threads that call at the same time; 1, or all CPUs for throughput, by default.
        samples: Samples to call with; by default the golden inputs of the alias's version if they
            are real, else noise.
        seconds: Time for each timing.
        settle: Seconds to wait for live handles to measure a change.
        min_gain: Gain below which nothing is changed.
        allow_weak: Whether variants whose passport is weak may run.
        dry_run: Only measure and plan.
    """

    store: str | None = None
    alias: str = "production"
    policy: str = "best-measured"
    deadline: float = 30.0
    rows: tuple[int, ...] = ()
    callers: int | None = None
    samples: str | None = None
    seconds: float = 0.15
    settle: float = 20.0
    min_gain: float = 0.05
    allow_weak: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing.

        Raises:
            ValueError: One is out of its range.
        """
        least = {"rows": min(self.rows, default=1), "callers": self.callers or 1}
        for name, value in least.items():
            if value < 1 or (name == "callers" and self.callers == 0):
                raise ValueError(f"{name} must be at least 1")
        if self.deadline <= 0:
            raise ValueError("deadline must be more than 0")
        if min(self.seconds, self.settle, self.min_gain) < 0 or self.min_gain >= 1:
            raise ValueError("seconds, settle and min_gain must not be negative; min_gain under 1")


def adjust(request: AdjustRequest, context: Context, hooks: Hooks) -> AdjustResult:
    """Do what :func:`lepton_core.embedded.plugin.lepton_adjust` says.

    Raises:
        UsageError: LPT-DEP-005; LPT-ADJ-010, the policy is none; LPT-STORE-006 … 009, the
            reference leads nowhere.
        AdjustError: LPT-ADJ-001 (nothing meets the floor), LPT-ADJ-002 (another process is at
            it), LPT-ADJ-007 (an objective that is not known, or cannot be measured here),
            LPT-ADJ-011 (what the alias points to is interpreted here, not run).
        DeployError: LPT-STORE-010, someone else changed the table meanwhile.
        StorageError: The store cannot be read or written.
    """
    options = read_options(request.options, Options)
    if request.objective not in OBJECTIVES:
        raise AdjustError(
            "LPT-ADJ-007",
            f"There is no objective {request.objective!r}",
            remedy=f"Choose {', '.join(OBJECTIVES)}.",
        )
    from lepton_core.store import Store

    with (
        tempfile.TemporaryDirectory(dir=context.workdir, prefix=".adjust-") as scratch,
        Store(options.store, create=False) as store,
    ):
        work = replace(context, workdir=Path(scratch))
        return Adjustment(store, hooks, request, options, work).run()


class Adjustment:
    """One run.

    Args:
        store: Where the deployment is.
        hooks: Runs models and the policy.
        request: What was asked for.
        options: Its options.
        context: Scratch files, progress, cancellation.
    """

    def __init__(
        self,
        store: Store,
        hooks: Hooks,
        request: AdjustRequest,
        options: Options,
        context: Context,
    ) -> None:
        self._store = store
        self._hooks = hooks
        self._request = request
        self._options = options
        self._context = context
        self._base: Resolved = with_alias(store, f"{request.name}@{options.alias}")
        self._tables = Tables(store, self._base)
        self._cpus = available_cpus()
        bulk = request.objective == "throughput"
        self._callers = options.callers or (self._cpus if bulk else 1)
        self._observer = Observer(
            store,
            hooks,
            context,
            self._base.version,
            samples=options.samples,
            callers=self._callers,
            seconds=options.seconds,
        )

    def run(self) -> AdjustResult:
        """Measure, plan, try, judge."""
        self._check_policy()  # before minutes of measuring
        settled = self._tables.settle()
        candidates = find_candidates(
            self._store,
            self._hooks,
            self._base,
            floor=self._request.floor,
            allow_weak=self._options.allow_weak,
        )
        allowed = [c for c in candidates if not c.refused]
        loads, known_from = workload(
            self._store,
            self._request.name,
            self._options.alias,
            self._request.objective,
            self._options.rows,
        )
        loads = fitted(loads, self._base.version.model.signature)
        routes = self._tables.routes
        threads = {*thread_counts(self._cpus), *(self._threads(route) for route in routes)}
        batches = {route.batch for route in routes if route.batch}
        own = self._base.version.id
        seen, failed = self._observer.observe(allowed, loads, threads, batches, must=own)
        candidates = tuple(
            replace(c, refused=failed.get(c.version.id, c.refused)) for c in candidates
        )
        require_one(self._base, candidates, self._request.floor)
        allowed = [c for c in candidates if not c.refused]
        self._check_observed(seen)
        facts = self._facts(candidates, loads, known_from, seen)
        if settled is not None:
            facts["interrupted"] = settled.to_dict()
        try:
            proposal = self._ask(allowed, loads, seen)
        except _FATAL:
            raise
        except LeptonError as error:
            self._alarm(error)
            return self._result((), {**facts, "alarm": error.to_dict()})
        if proposal is None:
            return self._result((), facts)
        change = self._change(proposal, facts)
        if self._options.dry_run:
            return self._result((change,), facts)
        broken = [failed[route.version] for route in routes if route.version in failed]
        if broken:
            done = self._leave(change, broken[0])
        else:
            done = self._try(change, candidates, loads, trial_seconds(seen))
        return self._result((done,), facts)

    def _check_policy(self) -> None:
        policy = self._options.policy
        owner = self._hooks.engine_owner("adjust", policy)
        if owner == self._hooks.engine_owner("adjust", "embedded"):
            raise UsageError(
                "LPT-ADJ-010",
                f"{policy!r} is the engine that adjusts, and no policy",
                remedy="`best-measured` is one; `lepton plugins` lists extensions that bring more.",
            )

    def _check_observed(self, seen: Sequence[Observation]) -> None:
        if self._request.objective == "memory" and not all(o.memory_bytes for o in seen):
            raise AdjustError(
                "LPT-ADJ-007",
                "The memory of a session cannot be measured here",
                cause="targets run inside this process (LEPTON_ISOLATION=0), not in their own",
                remedy="Unset LEPTON_ISOLATION, or choose another objective.",
            )

    def _ask(
        self, allowed: Sequence[Candidate], loads: Sequence[Load], seen: Sequence[Observation]
    ) -> Proposal | None:
        folder = self._context.workdir / "policy"
        folder.mkdir()
        options: Mapping[str, Any] = {
            "base": self._base.version.id,
            "current": [
                replace(route, threads=self._threads(route)).to_dict()
                for route in self._tables.routes
            ],
            "workload": [load.to_dict() for load in loads],
            "observations": [one.to_dict() for one in seen],
            "limits": {"threads": self._cpus, "memory_bytes": available_memory()},
            "min_gain": self._options.min_gain,
        }
        return ask(
            self._hooks,
            self._options.policy,
            replace(self._request, options=options),
            replace(self._context, workdir=folder),
            deadline=self._options.deadline,
            versions=[c.version.id for c in allowed],
            threads=max(self._cpus, *(self._threads(route) for route in self._tables.routes)),
        )

    def _threads(self, route: Route) -> int:
        """Return the threads that a route runs with: its own, the deployment's setting, or all."""
        setting = self._store.settings(self._base.name).get("open")
        own = setting.value.get("threads") if setting and setting.value else None
        return route.threads or (own if isinstance(own, int) and own > 0 else self._cpus)

    def _change(self, proposal: Proposal, facts: Mapping[str, Any]) -> Change:
        return Change(
            new_id(),
            "planned",
            self._request.objective,
            proposal.cause,
            policy=self._options.policy,
            routes_before=self._tables.routes,
            routes_after=proposal.routes,
            predicted={"ratio": proposal.ratio},
            parent=self._tables.present.change,
            considered={key: facts[key] for key in ("observations", "candidates", "workload")},
        )

    def _leave(self, change: Change, why: str) -> Change:
        """Let the change count at once: what ran before cannot be compared with, or gone back to.

        What it routes to was run while it was timed.
        """
        self._tables.try_out(change, _TRIAL_SECONDS)
        return self._tables.finish(change, KEPT, f"what ran before does not run here: {why}")

    def _try(
        self, change: Change, judged: Sequence[Candidate], loads: Sequence[Load], seconds: float
    ) -> Change:
        """Let the change count, measure it, and keep it or go back."""
        ran = {route.version for route in self._tables.routes}
        live = LiveWatch(self._store, self._base, self._tables.present.change, ran)
        may_run = {c.version.id for c in judged if not c.refused}
        forced = not ran <= may_run
        self._tables.try_out(change, seconds + self._options.settle)
        reach("adjust.on-trial")
        try:
            effect = self._measure(change, loads, live)
        except BaseException as error:
            self._tables.finish(change, REVERTED, f"it could not be measured: {_words(error)}")
            if isinstance(error, _FATAL) or not isinstance(error, LeptonError):
                raise
            self._alarm(error)
            return self._tables.history()[-1]
        if self._request.objective != "memory":
            effect = replace(effect, answers=self._answers(change, judged))
        kept, verdict = judge(effect, forced=forced, limit=self._limit(change, judged))
        reach("adjust.measured")
        done = self._tables.finish(change, KEPT if kept else REVERTED, verdict, effect.to_dict())
        reach("adjust.finished")
        return done

    def _answers(self, change: Change, judged: Sequence[Candidate]) -> str:
        return answers_from(
            self._observer.inputs_from,
            change.routes_before,
            change.routes_after,
            {c.version.id: c.version for c in judged},
            self._store,
        )

    def _limit(self, change: Change, judged: Sequence[Candidate]) -> float:
        """Return how far the answers may move: what the coarser precision of both tables allows."""
        from lepton_core.deployment._golden import tolerance_of

        precision = {c.version.id: c.version.precision or "unknown" for c in judged}
        routes = (*change.routes_before, *change.routes_after)
        return max(tolerance_of(precision.get(route.version, "unknown")) for route in routes)

    def _measure(self, change: Change, loads: Sequence[Load], live: LiveWatch) -> Effect:
        bar = self._context.reporter.task("compare", None)
        if self._request.objective == "memory":
            effect = self._compare_memory(change)
        else:
            inputs = {load.rows: self._inputs(load.rows) for load in loads}
            probe = Probe(self._store, self._hooks, self._base, inputs, self._callers)
            effect = probe.compare(
                change.routes_before,
                change.routes_after,
                loads,
                self._request.objective,
                self._context.checkpoint,
            )
            if live.there and self._request.objective == "latency":
                ratio, calls = live.after(change.id, self._options.settle)
                effect = replace(effect, live=ratio, live_calls=calls)
        bar.finish()
        return effect

    def _inputs(self, rows: int) -> list[dict[str, Any]]:
        from lepton_core.samples import load_saved
        from lepton_core.timing import feeds

        version = self._base.version
        samples = load_saved(self._observer.inputs(version))
        assert version.model.signature is not None  # noqa: S101 - the observer has checked it
        return feeds(version.model.signature, samples, rows)

    def _compare_memory(self, change: Change) -> Effect:
        """Measure both tables again, each session in a process that has done nothing before."""
        from lepton_core.adjusting._effect import Effect
        from lepton_core.timing import interval

        versions = {v.id: v for v in self._store.versions(self._base.name)}

        def size(routes: Sequence[Route]) -> int:
            sessions = {(r.version, self._threads(r)) for r in routes}
            return sum(self._observer.memory(versions[v], threads) for v, threads in sessions)

        ratios = [size(change.routes_after) / size(change.routes_before) for _ in range(3)]
        return Effect(sorted(ratios)[1], *interval(ratios), len(ratios))

    def _alarm(self, error: LeptonError) -> None:
        details = {"kind": "policy", "alias": self._options.alias, **error.to_dict()}
        self._store.record(
            "deployment.alarm",
            self._request.name,
            why=error.message,
            details=plain_details(details),
        )

    def _facts(
        self,
        candidates: Sequence[Candidate],
        loads: Sequence[Load],
        known_from: str,
        seen: Sequence[Observation],
    ) -> dict[str, Any]:
        return {
            "workload": [load.to_dict() for load in loads],
            "workload_from": known_from,
            "callers": self._callers,
            "candidates": [one.to_dict() for one in candidates],
            "observations": [_rounded(one.to_dict()) for one in seen],
        }

    def _result(self, changes: tuple[Change, ...], facts: dict[str, Any]) -> AdjustResult:
        routes = [route.to_dict() for route in self._tables.routes]
        return AdjustResult(
            self._request.name, tuple(c.to_dict() for c in changes), {**facts, "routes": routes}
        )


def trial_seconds(seen: Sequence[Observation]) -> float:
    """Return how long a comparison may take: two tables in turns, however slow the model is."""
    slowest: dict[int, float] = {}
    for one in seen:
        slowest[one.rows] = max(slowest.get(one.rows, 0.0), one.p95_ms / 1000)
    return _TRIAL_SECONDS + 2 * (PAIRS + 1) * sum(slowest.values())


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, LeptonError) else f"{type(error).__name__}: {error}"


def _rounded(data: dict[str, Any]) -> dict[str, Any]:
    """Cut measurements to four digits: the ledger keeps them for good."""
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in data.items()}


__all__ = ["Adjustment", "Options", "adjust"]
