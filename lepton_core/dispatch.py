"""Calling hooks: each step goes to exactly one owner plus the wrappers, never to all.

:class:`Hooks` finds the owner from declared data, loads it (or sends the step to its worker
process), calls its hook between the stage events, checks what comes back, and turns whatever a
plugin raises beside :class:`~lepton_core.errors.LeptonError` into a failure that names it.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from lepton_core import types
from lepton_core._plugin_checks import check_backends
from lepton_core._stages import Stage
from lepton_core._turns import one_at_a_time
from lepton_core.artifacts import verify_artifact
from lepton_core.catalogue import KNOWN
from lepton_core.context import Session
from lepton_core.conversion import finished
from lepton_core.crashes import crashes_named
from lepton_core.errors import (
    LeptonError,
    PluginConflictError,
    PluginFailureError,
    PluginNotInstalledError,
    UnsupportedOperationError,
    WorkerCrashError,
)
from lepton_core.files import disk_errors, is_disk_error
from lepton_core.planner import Plan, Step, plan_for_target
from lepton_core.rewrites import completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lepton_core.capabilities import PluginInfo
    from lepton_core.context import Context
    from lepton_core.registry import Registry
    from lepton_core.types import Model
    from lepton_core.workers import WorkerPool

RESULTS: Mapping[str, type] = {
    "inspect": types.InspectResult,
    "check": types.CheckResult,
    "adapt": types.AdaptResult,
    "convert": types.ConvertResult,
    "optimize": types.OptimizeResult,
    "deploy": types.DeployResult,
    "adjust": types.AdjustResult,
    "migrate": types.MigrateResult,
}


class Hooks:
    """The hooks of one registry as typed methods.

    Args:
        registry: Where plugins come from.
        pool: Worker processes for the steps that plugins declare isolated; without one,
            everything runs in this process, isolated conversions one at a time.
    """

    def __init__(self, registry: Registry, pool: WorkerPool | None = None) -> None:
        self.registry = registry
        self.pool = pool
        self._stand_ins: dict[str, object] = {}
        self._lock = threading.Lock()

    # --- the verbs ----------------------------------------------------------------------------

    def inspect(
        self, model: Model, request: types.InspectRequest, context: Context
    ) -> types.InspectResult:
        """Read a source; see :meth:`.LeptonSpecs.lepton_inspect`."""
        owner = self.source_owner(model.format)
        return cast("types.InspectResult", self.call("inspect", owner, model, request, context))

    def check(
        self, model: Model, request: types.CheckRequest, context: Context
    ) -> types.CheckResult:
        """Judge a source for a target; see :meth:`.LeptonSpecs.lepton_check`."""
        owner = self.registry.target(request.target).id
        return cast("types.CheckResult", self.call("check", owner, model, request, context))

    def adapt(
        self, model: Model, request: types.AdaptRequest, context: Context
    ) -> types.AdaptResult:
        """Fit a model to a target; see :meth:`.LeptonSpecs.lepton_adapt`."""
        self.registry.target(request.target)
        owner = self.source_owner(model.format)
        request = completed(request, model.format, self.registry)
        return cast("types.AdaptResult", self.call("adapt", owner, model, request, context))

    def convert(
        self, model: Model, request: types.ConvertRequest, context: Context
    ) -> types.ConvertResult:
        """Convert along the planned path; see :meth:`.LeptonSpecs.lepton_convert`."""
        return self.lower(model, request, context)[0]

    def lower(
        self, model: Model, request: types.ConvertRequest, context: Context
    ) -> tuple[types.ConvertResult, Model | None]:
        """Convert along the planned path.

        Returns:
            The result and its :mod:`origin <lepton_core.origins>`: what the last step lowered.
        """
        from lepton_core.conversion import convert_under

        walked = convert_under(self, model, request, context)
        return walked.result, walked.origin

    def plan(self, model: Model, request: types.ConvertRequest) -> Plan:
        """Plan the conversion that *request* asks for.

        Raises:
            PlanError: There is no path.
        """
        target = self.registry.target(request.target)
        if request.to_format:
            target = replace(target, artifact=request.to_format)
        # A recipe says itself what is stored as what; the path is that of the float model.
        precision = "fp32" if request.recipe else request.precision
        return plan_for_target(model.format, target, self.registry.infos(), precision)

    def convert_step(
        self, model: Model, step: Step, request: types.ConvertRequest, context: Context
    ) -> types.ConvertResult:
        """Walk one edge of a plan."""
        part = replace(request, to_format=step.edge.result, precision=step.precision)
        found = self.call("convert", step.owner, model, part, context, isolated=step.edge.isolated)
        return finished(cast("types.ConvertResult", found), model, step, request.options)

    def optimize(
        self, model: Model, request: types.OptimizeRequest, context: Context
    ) -> types.OptimizeResult:
        """Compress a model; see :meth:`.LeptonSpecs.lepton_optimize`."""
        owner = self.engine_owner("optimize", request.engine)
        return cast("types.OptimizeResult", self.call("optimize", owner, model, request, context))

    def deploy(
        self, model: Model, request: types.DeployRequest, context: Context
    ) -> types.DeployResult:
        """Put a model under a name; see :meth:`.LeptonSpecs.lepton_deploy`."""
        owner = self.engine_owner("deploy", request.engine)
        return cast("types.DeployResult", self.call("deploy", owner, model, request, context))

    def adjust(
        self, model: Model, request: types.AdjustRequest, context: Context
    ) -> types.AdjustResult:
        """Tune a deployment; see :meth:`.LeptonSpecs.lepton_adjust`."""
        owner = self.engine_owner("adjust", request.engine)
        return cast("types.AdjustResult", self.call("adjust", owner, model, request, context))

    def migrate(
        self, model: Model, request: types.MigrateRequest, context: Context
    ) -> types.MigrateResult:
        """Move a deployment; see :meth:`.LeptonSpecs.lepton_migrate`."""
        owner = self.engine_owner("migrate", request.engine)
        return cast("types.MigrateResult", self.call("migrate", owner, model, request, context))

    def open(self, model: Model, request: types.OpenRequest, context: Context) -> Session:
        """Open a session in this process; see :meth:`.LeptonSpecs.lepton_open`."""
        if request.target not in self.registry.records:
            self.registry.target(request.target)  # says what is near, hidden or not installed
        info = self.registry.info(request.target)
        if info.opens_format(model.format) is None:
            formats = ", ".join(o.format for o in info.opens) or "nothing"
            raise UnsupportedOperationError(
                "LPT-OP-003",
                f"{info.title} does not open the format {model.format!r}",
                cause=f"it opens: {formats}",
                remedy=f"Convert the model first: `lepton convert MODEL --to {request.target}`.",
            )
        verify_artifact(model)
        return cast(
            "Session", self.call("open", request.target, model, request, context, isolated=False)
        )

    # --- owners -------------------------------------------------------------------------------

    def source_owner(self, format_id: str) -> str:
        """Return the plugin that reads sources of a format.

        Raises:
            PluginNotInstalledError: No installed plugin reads it.
            PluginConflictError: More than one does.
        """
        infos = self.registry.infos()
        readers = [n for n, i in infos.items() if any(s.id == format_id for s in i.sources)]
        if readers:
            return self._only(readers, f"reading the format {format_id!r}")
        raise PluginNotInstalledError(
            "LPT-PLUG-001",
            f"No installed plugin reads the format {format_id!r}",
            remedy="`lepton plugins` lists what is installed.",
        )

    def reference_owner(self, format_id: str) -> str:
        """Return the plugin that best runs a source of this format as the yardstick.

        Raises:
            PluginNotInstalledError: No usable plugin can run it.
        """
        ranked = []
        for name, info in self.registry.infos().items():
            opens = info.opens_format(format_id)
            if opens is not None and opens.reference_rank is not None:
                ranked.append((opens.reference_rank, name, info))
        problems = []
        for _, name, info in sorted(ranked, key=lambda item: item[:2]):
            try:
                check_backends(info)
            except LeptonError as error:
                problems.append(error)
                continue
            return name
        if problems:
            raise problems[0]
        raise PluginNotInstalledError(
            "LPT-PLUG-009",
            f"No installed plugin can run a model of the format {format_id!r} as the yardstick",
            remedy="Install the source's own runtime, such as lepton-torch or "
            "lepton-onnxruntime[cpu].",
        )

    def engine_owner(self, verb: str, engine: str) -> str:
        """Return the plugin that is the engine *engine*.

        Raises:
            PluginNotInstalledError: It is not installed; says how far it is supported.
            PluginConflictError: Two plugins are this engine.
        """
        from lepton_core.capabilities import ExtensionInfo

        engines = [
            name
            for name, info in self.registry.infos().items()
            if name == engine or (isinstance(info, ExtensionInfo) and info.engine == engine)
        ]
        if engines:
            return self._only(engines, f"the engine {engine!r}")
        known = KNOWN.get(engine)
        support = known.support.value if known else "unknown"
        raise PluginNotInstalledError(
            "LPT-PLUG-001",
            f"`{verb}` needs the engine {engine!r}, which is not installed; support: {support}",
            remedy=known.remedy if known else "`lepton plugins` lists what is installed.",
            details={"verb": verb, "engine": engine, "support": support},
        )

    def _only(self, names: list[str], what: str) -> str:
        if len(names) == 1:
            return names[0]
        raise PluginConflictError(
            "LPT-PLUG-012",
            f"{len(names)} plugins claim {what}",
            cause=", ".join(f"{name} ({self.registry.record(name).origin})" for name in names),
            remedy="Switch all but one off with LEPTON_DISABLED_PLUGINS.",
        )

    # --- one call -----------------------------------------------------------------------------

    def call(
        self,
        verb: str,
        owner: str,
        model: Model,
        request: Any,  # noqa: ANN401 - one of the request classes
        context: Context,
        *,
        isolated: bool | None = None,
    ) -> Any:  # noqa: ANN401 - the verb's result class
        """Call one verb of one plugin, in its worker process if it is declared isolated.

        Raises:
            UnsupportedOperationError: The plugin declares that it cannot, or declined.
            PluginFailureError: It raised something unexpected, or returned a wrong type.
            LeptonError: Whatever expected failure the plugin raised.
        """
        info = self.registry.info(owner)
        self._check_declared(verb, info)
        check_backends(info)
        if isolated is None:
            isolated = verb in info.isolated
        remote = isolated and self.pool is not None and self.registry.record(owner).entry
        context = replace(context, hooks=self)
        event = types.StageEvent(verb, owner, getattr(request, "target", ""), model.digest)
        named = crashes_named(verb, info, model, request, context)
        shared = verb == "convert" and isolated and not remote
        alone = one_at_a_time(context) if shared else contextlib.nullcontext()
        with alone, self.stage(event), named, disk_errors(f"the files of `{verb}`"):
            if remote:
                result = self._call_worker(verb, owner, model, request, context)
            else:
                result = self._call_here(verb, owner, model, request, context)
            return self._checked(verb, info, result)

    def _check_declared(self, verb: str, info: PluginInfo) -> None:
        declared = info.capability(verb)
        if verb not in RESULTS and verb != "open":
            msg = f"{verb!r} is not a verb"
            raise ValueError(msg)
        if declared.support or verb not in info.capabilities:
            return  # undeclared is unknown: the plugin is asked and may decline
        raise UnsupportedOperationError(
            "LPT-OP-001",
            f"{info.title} does not {verb}; support: {declared.support.value}",
            cause=declared.note or None,
            remedy="`lepton targets` shows what each target can do.",
            details={"plugin": info.id, "verb": verb, "support": declared.support.value},
        )

    def _call_here(
        self,
        verb: str,
        owner: str,
        model: Model,
        request: object,
        context: Context,
    ) -> object:
        self.registry.load_always()
        return self._call_hook(verb, owner, self.registry.load(owner), (model, request, context))

    def call_owner(
        self, verb: str, owner: str, model: Model, request: object, context: Context
    ) -> object:
        """Call the owner's own hook and nothing around it; what a worker process does."""
        plugin = self.registry.load(owner)
        result = self._call_hook(verb, owner, plugin, (model, request, context), wrapped=False)
        if result is None:  # declining is answered where the call came from
            return None
        return self._checked(verb, self.registry.info(owner), result)

    def _call_worker(
        self,
        verb: str,
        owner: str,
        model: Model,
        request: object,
        context: Context,
    ) -> object:
        """Run the owner's hook in its worker; wrappers run here, around a stand-in for it."""
        self.registry.load_always()
        return self._call_hook(verb, owner, self._stand_in(owner), (model, request, context))

    def _stand_in(self, owner: str) -> object:
        """Return the object that sends a plugin's hooks to its worker, registered once."""
        from lepton_core.workers import Remote

        if self.pool is None:
            msg = "a remote call needs a worker pool"
            raise RuntimeError(msg)
        with self._lock:
            if owner not in self._stand_ins:
                stand_in = Remote(self.pool, owner)
                # Other hooks may share the registry, with a pool of their own.
                self.registry.manager.register(stand_in, f"{owner}@worker-{id(stand_in)}")
                self._stand_ins[owner] = stand_in
            return self._stand_ins[owner]

    def _call_hook(
        self,
        verb: str,
        owner: str,
        plugin: object,
        arguments: tuple[Model, object, Context],
        *,
        wrapped: bool = True,
    ) -> object:
        name = f"lepton_{verb}"
        manager = self.registry.manager
        others = [
            impl.plugin
            for impl in getattr(manager.hook, name).get_hookimpls()
            if impl.plugin is not plugin and not (wrapped and (impl.wrapper or impl.hookwrapper))
        ]
        caller = manager.subset_hook_caller(name, remove_plugins=others)
        with self.guarded(verb, owner):
            return caller(**dict(zip(("model", "request", "context"), arguments, strict=True)))

    @contextlib.contextmanager
    def guarded(self, verb: str, owner: str) -> Iterator[None]:
        """Turn what a plugin raises unexpectedly into a failure that names it.

        Raises:
            PluginFailureError: It raised something beside ``LeptonError`` and disk errors.
            WorkerCrashError: It ran out of memory.
        """
        try:
            yield
        except LeptonError:
            raise
        except MemoryError as error:
            raise WorkerCrashError(
                "LPT-WORK-004",
                f"`{verb}` by the plugin {owner!r} ran out of memory",
                cause=str(error) or None,
                remedy="Use a smaller batch or model, or a machine with more memory.",
            ) from error
        except (Exception, SystemExit) as error:  # some backends call sys.exit
            if is_disk_error(error):
                raise
            record = self.registry.record(owner)
            raise PluginFailureError(
                "LPT-PLUG-010",
                f"The plugin {owner!r} ({record.origin}) failed unexpectedly in `{verb}`",
                cause=f"{type(error).__name__}: {error}",
                remedy="Run again with --debug for the traceback, and report it to the plugin's "
                "makers.",
                details={"plugin": owner, "verb": verb, "exception": type(error).__name__},
            ) from error

    def _checked(self, verb: str, info: PluginInfo, result: object) -> object:
        if result is None:
            support = info.capability(verb).support.value
            raise UnsupportedOperationError(
                "LPT-OP-002",
                f"{info.title} declined to {verb} this model; declared support: {support}",
                remedy="`lepton check MODEL --to TARGET` says what would fit.",
                details={"plugin": info.id, "verb": verb, "support": support},
            )
        expected = RESULTS.get(verb, Session)
        if not isinstance(result, expected):
            raise PluginFailureError(
                "LPT-PLUG-011",
                f"The plugin {info.id!r} ({self.registry.record(info.id).origin}) returned a "
                f"{type(result).__name__} from `{verb}`, expected a {expected.__name__}",
                remedy="Report this to the plugin's makers.",
            )
        return result

    # --- stage events -------------------------------------------------------------------------

    def stage(self, event: types.StageEvent) -> Stage:
        """Announce a stage to observers around a ``with`` block."""
        return Stage(self.registry, event)


__all__ = ["RESULTS", "Hooks"]
