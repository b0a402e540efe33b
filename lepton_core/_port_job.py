"""How :func:`lepton_core.porting.port` works, step by step."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import staging
from lepton_core._adapt_step import AdaptStep
from lepton_core._port_options import TargetOptions, for_step
from lepton_core._port_parts import Built, Start
from lepton_core._port_timing import FATAL, Timer
from lepton_core._proof import Prover, Yardstick, choose_rows
from lepton_core._recipe_step import RecipeStep, check_compression, keep_recipe, losses
from lepton_core.artifacts import copy_artifact
from lepton_core.capabilities import PRECISIONS
from lepton_core.catalogue import KNOWN
from lepton_core.context import Context
from lepton_core.conversion import source_of
from lepton_core.errors import (
    ConversionError,
    LeptonError,
    PlanError,
    PluginError,
    SessionError,
    UnsupportedOperationError,
    UsageError,
    WorkerError,
)
from lepton_core.evaluate import evaluate_isolated
from lepton_core.executor import LocalExecutor
from lepton_core.planner import Step, plan_for_target, reachable
from lepton_core.porting import PortResult
from lepton_core.sources import resolve
from lepton_core.types import (
    ConvertRequest,
    EvaluateRequest,
    EvaluateResult,
    InspectRequest,
    Model,
    OptimizeResult,
    Target,
)

if TYPE_CHECKING:
    from lepton_core.context import Reporter
    from lepton_core.dispatch import Hooks
    from lepton_core.porting import PortOptions
    from lepton_core.samples import Samples


REFUSALS = (UnsupportedOperationError, ConversionError, SessionError, WorkerError)
"""What a target raises that does not take a recipe."""


class PortJob:
    """One run of the main job.

    Args:
        hooks: Calls the plugins.
        reporter: Where progress goes.
        options: What was asked for.
    """

    def __init__(self, hooks: Hooks, reporter: Reporter, options: PortOptions) -> None:
        self.hooks = hooks
        self.reporter = reporter
        self.options = options
        self._steps: dict[tuple[str, ...], tuple[Model, dict[str, Any], tuple[str, ...]]] = {}
        self._of_targets = TargetOptions({}, ())
        self._lock = threading.Lock()
        self._recipes = RecipeStep(hooks, options)
        self._adaptations = AdaptStep(hooks)
        self._built: list[Built] = []
        self._scratch = Path()
        self._number = 0
        self._cancelled = threading.Event()

    # --- the run ------------------------------------------------------------------------------

    def run(self, source: str | Model, targets: tuple[str, ...]) -> PortResult:
        """Do it; see :func:`lepton_core.porting.port`."""
        asked = [
            (Target.parse(target), precision)
            for target in targets
            for precision in self.options.precisions
        ]
        self._check_request(asked)
        self._of_targets = TargetOptions(self.options.conversion, asked)
        staging.check_replaceable(self.options.out, force=self.options.force)
        named = resolve(source, self.hooks.registry) if isinstance(source, str) else source
        unread = source_of(self.hooks, named)
        self._check_options(unread.format, asked)
        given = self._given_samples()
        model = self._inspect(unread)
        if given is not None and model.signature is not None:
            choose_rows(given, model, self.options.seed)  # refuses what does not fit, early
        with staging.staged(self.options.out, force=self.options.force) as stage:
            self._scratch = stage / ".scratch"
            self._scratch.mkdir()
            try:
                result = self._run_in(stage, model, given, asked)
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)
        return result

    def _run_in(
        self, stage: Path, model: Model, given: Samples | None, asked: list[tuple[Target, str]]
    ) -> PortResult:
        yardstick = self._yardstick(model, given)
        bar = self.reporter.task("build", len(asked))
        built = self._build_all(stage, yardstick, model, asked, bar.advance)
        bar.finish()
        timing = self.options.latency_seconds, self.options.threads, self.reporter
        Timer(self.hooks, *timing, lambda: self._context("timing")).run(yardstick, built)
        out = self.options.out.absolute()
        prover = Prover(
            hooks=self.hooks,
            options=self.options,
            stage=stage,
            out=out,
            source=model,
            yardstick=yardstick,
        )
        variants = prover.prove_all(built)
        prover.keep_origins(built, variants)
        result = PortResult(_source_facts(model, yardstick), variants, out)
        prover.write_pages(result)
        _write_json(stage / "result.json", result.to_dict())
        _write_json(stage / staging.MARKER, {"schema": 1, "kind": "port", "result": "result.json"})
        return result

    def _check_request(self, asked: list[tuple[Target, str]]) -> None:
        if not asked:
            raise UsageError(
                "LPT-USE-004",
                "No target was asked for",
                remedy="Name at least one: --to onnxruntime. `lepton targets` lists them.",
            )
        check_compression(self.options)
        for target, precision in asked:
            info = self.hooks.registry.target(target.id)
            if precision not in PRECISIONS:
                raise UsageError(
                    "LPT-USE-005",
                    f"There is no precision {precision!r}",
                    cause=f"precisions: {', '.join(PRECISIONS)}",
                    remedy=f"{info.title} offers {', '.join(info.offered)}.",
                )
            if target.device and info.devices and target.device not in info.devices:
                raise UsageError(
                    "LPT-USE-006",
                    f"{info.title} has no device {target.device!r}",
                    cause=f"devices: {', '.join(info.devices)}",
                    remedy=f"Write {target.id}, or {target.id}:{info.devices[0]}.",
                )

    def _check_options(self, source: str, asked: list[tuple[Target, str]]) -> None:
        """Refuse options that nothing on the way takes; a way that is not there says so itself."""
        for target, precision in asked:
            with contextlib.suppress(PlanError, PluginError):
                path = self._plan(source, Built(target, precision))
                self._of_targets.check(target, precision, path)

    # --- the source ---------------------------------------------------------------------------

    def _context(self, name: str) -> Context:
        with self._lock:
            self._number += 1
            workdir = self._scratch / f"{self._number:03d}-{name}"
        workdir.mkdir()
        return self._context_at(workdir)

    def _context_at(self, workdir: Path) -> Context:
        return Context(
            workdir, self.options.seed, self.reporter, self.options.limits, self._cancelled
        )

    def _inspect(self, model: Model) -> Model:
        import tempfile

        if model.digest and model.signature is not None:  # what lepton built is recorded
            return model
        with tempfile.TemporaryDirectory(prefix="lepton-") as workdir:
            request = InspectRequest(operators=False)
            return self.hooks.inspect(model, request, self._context_at(Path(workdir))).model

    def _given_samples(self) -> Samples | None:
        """Load the samples and look up the metric before anything that takes long."""
        from lepton_core.metrics import find_metric
        from lepton_core.samples import load_samples

        if self.options.metric is not None:
            find_metric(self.options.metric)
        return None if self.options.samples is None else load_samples(self.options.samples)

    def _yardstick(self, model: Model, given: Samples | None) -> Yardstick:
        """Bring the source to a form that can be run, and run it on the held-out samples."""
        from lepton_core.samples import save

        owner, runnable = self._runnable(model)
        calibration, held_out = choose_rows(given, runnable, self.options.seed)
        folder = self._scratch / "samples"
        save(held_out, folder)
        request = EvaluateRequest(
            owner,
            str(folder),
            out=str(self._scratch / "reference"),
            threads=self.options.threads,
            reference=True,
        )
        reference = evaluate_isolated(self.hooks, runnable, request, self._context("reference"))
        return Yardstick(held_out, calibration, owner, runnable, folder, reference)

    def _runnable(self, model: Model) -> tuple[str, Model]:
        """Return the nearest form of the source that a plugin runs as the yardstick."""
        problem: LeptonError | None = None
        for steps in reachable(model.format, self.hooks.registry.infos()):
            end = steps[-1].edge.result if steps else model.format
            try:
                owner = self.hooks.reference_owner(end)
            except LeptonError as error:
                problem = problem or error
                continue
            return owner, self._walk(model, steps, ConvertRequest(owner), steps)[0]
        raise problem or RuntimeError("a source format reaches at least itself")

    # --- building -----------------------------------------------------------------------------

    def _walk(
        self,
        model: Model,
        steps: tuple[Step, ...],
        request: ConvertRequest,
        path: tuple[Step, ...],
    ) -> tuple[Model, dict[str, Any], tuple[str, ...]]:
        """Walk edges that several targets share; each is walked once with the same options.

        Args:
            model: Where they begin.
            steps: The edges.
            request: With the options of the whole path.
            path: The whole path, from the source to the artifact.
        """
        facts: dict[str, Any] = {}
        warned: tuple[str, ...] = ()
        for step in steps:
            options, said = for_step(step, path, request.options)
            key = (model.digest, step.edge.source, step.edge.result, step.precision, said)
            with self._lock:
                known = self._steps.get(key)
            if known is None:
                context = self._context(step.edge.result.replace("/", "-"))
                asked = replace(request, options=options)
                part = self.hooks.convert_step(model, step, asked, context)
                known = (part.model, dict(part.facts), part.warnings)
                with self._lock:
                    self._steps[key] = known
            model = known[0]
            facts.update(known[1])
            warned += known[2]
        return model, facts, warned

    def _build_all(
        self,
        stage: Path,
        yardstick: Yardstick,
        model: Model,
        asked: list[tuple[Target, str]],
        advance: Any,  # noqa: ANN401 - a bar's advance
    ) -> list[Built]:
        """Build every combination: targets side by side, each target's precisions in turn."""
        self._built = built = [Built(target, precision) for target, precision in asked]
        self._share_prefix(yardstick, model, built)
        groups: dict[str, list[Built]] = {}
        for one in built:
            groups.setdefault(one.target.id, []).append(one)

        def work(group: list[Built]) -> None:
            for one in group:
                self._build(stage, yardstick, one)
                advance(1)

        with LocalExecutor(len(groups), cancelled=self._cancelled) as executor:
            executor.map(work, groups.values())
        return built

    def _share_prefix(self, yardstick: Yardstick, model: Model, built: list[Built]) -> None:
        """Adapt and walk the edges before the last ones first, so that nothing is done twice."""
        for one in built:
            try:
                one.start = self._start(yardstick, model, one)
                start = one.start
                before, *_ = self._walk(
                    start.model, start.steps[:-1], self._request(one), start.path
                )
                one.origin = before if start.steps else None
            except FATAL:
                raise
            except LeptonError as error:
                one.error = error
        if built and all(one.error is not None for one in built) and built[0].error:
            raise built[0].error

    def _start(self, yardstick: Yardstick, model: Model, one: Built) -> Start:
        """Return what a target's way starts from; the source is adapted where the target asks."""
        steps = self._plan(model.format, one)
        formats = [model.format, *(step.edge.result for step in steps)]
        signature = yardstick.model.signature or model.signature
        place = self._adaptations.place(formats, one.target.id, signature)
        if place is None:
            return Start(model, steps, {})
        walked = steps[:place]
        before, facts, warned = self._walk(model, walked, self._request(one), steps)
        made = self._adaptations.make(before, one.target.id, yardstick.held_out, self._context)
        if made.changes:
            facts = {**facts, "adapted": list(made.changes)}
            names = dict.fromkeys(line.partition(":")[0] for line in made.changes)
            self.reporter.note(f"adapted for {one.target}: {', '.join(names)}")
        rest = self._plan(made.model.format, one)
        return Start(made.model, rest, facts, (*warned, *made.warnings), walked)

    def _request(self, one: Built) -> ConvertRequest:
        """Return the request for the path of a combination, with the options of all its steps."""
        options = self._of_targets.of(one.target, one.precision)
        return ConvertRequest(one.target.id, options=options)

    def _plan(self, source: str, one: Built) -> tuple[Step, ...]:
        info = self.hooks.registry.target(one.target.id)
        by_recipe = self._recipes.applies(one.target.id, one.precision)
        precision = "fp32" if by_recipe else one.precision
        return plan_for_target(source, info, self.hooks.registry.infos(), precision).steps

    def _build(self, stage: Path, yardstick: Yardstick, one: Built) -> None:
        if one.error is not None or one.start is None:
            return
        try:
            start = one.start
            way = self._walk(start.model, start.steps[:-1], self._request(one), start.path)
            if not self._recipes.applies(one.target.id, one.precision):
                self._lower(stage, yardstick, one, way)
                return
            made = self._recipe(yardstick, way[0], one)
            try:
                self._lower(stage, yardstick, one, way, made)
            except REFUSALS as refusal:
                if made.recipe is None:
                    raise
                wanted = way[0], one.target, one.precision, yardstick
                other = self._recipes.make_fitting(*wanted, self._context("recipe"))
                if other is None:
                    raise
                self.reporter.note(f"{one.target} has a recipe of its own: {refusal.message}")
                self._lower(stage, yardstick, one, way, other)
        except FATAL:
            raise
        except LeptonError as error:
            one.error = error

    def _lower(
        self,
        stage: Path,
        yardstick: Yardstick,
        one: Built,
        way: tuple[Model, dict[str, Any], tuple[str, ...]],
        made: OptimizeResult | None = None,
    ) -> None:
        """Take the last step of a way, by a recipe if one was made, and run what comes out."""
        assert one.start is not None  # noqa: S101 - it has been found
        start, recipe = one.start, made.recipe if made else None
        before, facts, warned = way[0], {**start.facts, **way[1]}, (*start.warnings, *way[2])
        if made:
            one.coverage = made.facts.get("coverage")
            found, back = losses(made.facts)
            one.recovered = tuple(back)
            warned = (*warned, *made.warnings, *found, *(() if recipe else (made.why,)))
        folder = stage / str(one.target).replace(":", "-") / one.precision
        if folder.exists():
            shutil.rmtree(folder)  # what is left of a recipe that was refused
        folder.mkdir(parents=True)
        if start.steps:
            request = self._request(one)
            own, _ = for_step(start.steps[-1], start.path, request.options)
            request = replace(request, device=one.target.device, recipe=recipe, options=own)
            context = self._context_at(folder)
            part = self.hooks.convert_step(before, start.steps[-1], request, context)
            one.model, one.facts = part.model, {**facts, **part.facts}
            one.warnings = (*warned, *part.warnings)
        else:
            one.model, one.facts = copy_artifact(before, folder), facts
        if recipe:
            keep_recipe(recipe, folder)
        one.outputs = self._evaluate(yardstick, one)

    def _recipe(self, yardstick: Yardstick, pivot: Model, one: Built) -> OptimizeResult:
        """Return what the engine makes of the pivot for all that share it, made once."""
        sharing = [
            other.target
            for other in self._built
            if other.precision == one.precision
            and other.origin is not None
            and other.origin.digest == pivot.digest
            and self._recipes.applies(other.target.id, one.precision)
        ]
        return self._recipes.make(
            pivot, one.target, one.precision, yardstick, self._context("recipe"), sharing=sharing
        )

    def _evaluate(self, yardstick: Yardstick, one: Built) -> EvaluateResult:
        context = self._context(f"outputs-{one.target.id}-{one.precision}")
        request = EvaluateRequest(
            one.target.id,
            str(yardstick.folder),
            out=str(context.workdir / "outputs"),
            device=one.target.device,
            threads=self.options.threads,
        )
        assert one.model is not None  # noqa: S101 - called after the build
        return evaluate_isolated(self.hooks, one.model, request, context)


def _source_facts(model: Model, yardstick: Yardstick) -> dict[str, Any]:
    name = f"{model.path}:{model.entry}" if model.entry else model.path
    signature = yardstick.model.signature if yardstick.model else model.signature
    return {
        "path": name,
        "format": model.format,
        "digest": model.digest,
        "signature": str(signature) if signature else None,
        "title": KNOWN[yardstick.owner].title if yardstick.owner in KNOWN else yardstick.owner,
    }


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
