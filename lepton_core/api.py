"""The verbs as people call them: a model and keywords in, a result out.

Each function builds the verb's request from its keywords, which have the names and defaults of
the request's fields, and calls :mod:`lepton_core.hooks`. ``model`` may be what one would type on
the command line. Without a ``context``, files go to a new temporary directory.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import hooks, types
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lepton_core.capabilities import Constraints, TargetInfo
    from lepton_core.context import Context, Session
    from lepton_core.types import Model, Variant


def _context(context: Context | None) -> Context:
    if context is not None:
        return context
    import tempfile

    from lepton_core.context import Context

    return Context(Path(tempfile.mkdtemp(prefix="lepton-")))


def load(source: str | Path | Model | Variant, *, context: Context | None = None) -> Model:
    """Read a source: format, signature, digest, metadata.

    Args:
        source: ``model.onnx``, ``file.py:factory``, ``model.pt2``, a Hugging Face directory or
            cached name, or what lepton has built; a model that has been read is returned as it is,
            and of a variant its artifact.
        context: Surroundings.

    Raises:
        UsageError: LPT-USE-007, the variant was not built.
        SourceError: It cannot be found or read.
        SessionError: LPT-RUN-003, it was built by lepton and has been changed since.
        PluginError: The plugin that reads it is not installed or cannot be used.
    """
    if isinstance(source, types.Variant):
        source = _built(source)
    if isinstance(source, types.Model):
        model = source
        if model.digest:
            return model
    else:
        from lepton_core.sources import resolve

        model = resolve(str(source), hooks.default().registry)
        if model.digest:
            return model
    request = types.InspectRequest(operators=False)
    return hooks.inspect(model, request, _context(context)).model


def targets() -> dict[str, TargetInfo]:
    """Return what every usable target declares; imports no backend."""
    return hooks.default().registry.targets()


def inspect(
    model: str | Path | Model,
    *,
    operators: bool = True,
    values: bool = False,
    context: Context | None = None,
) -> types.InspectResult:
    """Read a source and list its operators; see :class:`~lepton_core.types.InspectRequest`."""
    from lepton_core.sources import resolve

    if not isinstance(model, types.Model):
        model = resolve(str(model), hooks.default().registry)
    return hooks.inspect(model, types.InspectRequest(operators, values), _context(context))


def adapt(
    model: str | Path | Model,
    *,
    target: str,
    rewrites: tuple[str, ...] = (),
    shapes: Mapping[str, int] | None = None,
    options: Mapping[str, Any] | None = None,
    bounds: Mapping[str, tuple[int, int]] | None = None,
    constraints: Constraints | None = None,
    prune: types.PruneRequest | None = None,
    samples: str | None = None,
    context: Context | None = None,
) -> types.AdaptResult:
    """Fit a model to a target's constraints; see :class:`~lepton_core.types.AdaptRequest`."""
    context = _context(context)
    request = types.AdaptRequest(
        target, rewrites, shapes or {}, options or {}, bounds or {}, constraints, prune, samples
    )
    return hooks.adapt(load(model, context=context), request, context)


def convert(
    model: str | Path | Model,
    *,
    target: str,
    to_format: str = "",
    precision: str = "fp32",
    device: str | None = None,
    recipe: str | None = None,
    opset: int = 21,
    dynamic_batch: bool = True,
    options: Mapping[str, Any] | None = None,
    context: Context | None = None,
) -> types.ConvertResult:
    """Convert for a target along the planned path; see :class:`.types.ConvertRequest`."""
    context = _context(context)
    request = types.ConvertRequest(
        target, to_format, precision, device, recipe, opset, dynamic_batch, options or {}
    )
    return hooks.convert(load(model, context=context), request, context)


def optimize(
    model: str | Path | Model,
    *,
    target: str,
    engine: str = "compress",
    precision: str = "",
    max_drop: float | None = None,
    samples: str | None = None,
    recipe: str | None = None,
    options: Mapping[str, Any] | None = None,
    max_size: float | None = None,
    device: str | None = None,
    timing_seconds: float = 0.25,
    shared_with: Sequence[str] = (),
    context: Context | None = None,
) -> types.OptimizeResult:
    """Compress a model under a budget; see :class:`~lepton_core.types.OptimizeRequest`.

    Without *precision* it is int8, or that of the *recipe*.
    """
    context = _context(context)
    request = types.OptimizeRequest(
        target, engine, precision, max_drop, samples, recipe, options or {}, max_size, device,
        timing_seconds, tuple(shared_with),
    )  # fmt: skip
    return hooks.optimize(load(model, context=context), request, context)


def deploy(
    model: str | Path | Model | Variant,
    *,
    name: str,
    target: str,
    alias: str | None = None,
    kind: str = "embedded",
    engine: str = "embedded",
    options: Mapping[str, Any] | None = None,
    context: Context | None = None,
) -> types.DeployResult:
    """Put a model under a name; see :class:`~lepton_core.types.DeployRequest`.

    Args:
        model: A variant, a model, or what one would type, also a version of the store
            (``NAME@ALIAS`` or ``NAME@VERSION``).
        name: Name of the deployment.
        target: Target string; ``""`` means the variant's.
        alias: Alias to point at the new version.
        kind: ``"embedded"`` or ``"bundle"``.
        engine: Engine that does it.
        options: Engine-specific options.
        context: Surroundings.

    Raises:
        UsageError: The variant was not built, or there is no target.
        DeployError: It could not be deployed; what stood before still stands.
    """
    from lepton_core.built import find_stored

    context = _context(context)
    if isinstance(model, types.Variant):
        target, model = target or model.target, _built(model)
    types.Target.parse(target)
    request = types.DeployRequest(name, target, alias, kind, engine, options or {})
    stored = find_stored(model) if isinstance(model, str) else None
    return hooks.deploy(stored or load(model, context=context), request, context)


def adjust(
    model: str | Path | Model,
    *,
    name: str,
    objective: str = "latency",
    floor: float | None = None,
    engine: str = "embedded",
    options: Mapping[str, Any] | None = None,
    context: Context | None = None,
) -> types.AdjustResult:
    """Tune a deployment; see :class:`~lepton_core.types.AdjustRequest`."""
    context = _context(context)
    request = types.AdjustRequest(name, objective, floor, engine, options or {})
    return hooks.adjust(load(model, context=context), request, context)


def migrate(
    model: str | Path | Model | None = None,
    *,
    name: str,
    target: str,
    engine: str = "embedded",
    options: Mapping[str, Any] | None = None,
    context: Context | None = None,
) -> types.MigrateResult:
    """Move a deployment to another target; see :class:`~lepton_core.types.MigrateRequest`.

    Args:
        model: What it was built from; needed only where the engine does not know.
        name: Name of the deployment.
        target: Target string to move to.
        engine: Engine that does it.
        options: Those of the engine; the embedded one takes :class:`.migration._options.Options`.
        context: Surroundings.

    Raises:
        MigrateError: It cannot be moved; what stood before still stands.
    """
    context = _context(context)
    request = types.MigrateRequest(name, target, engine, options or {})
    given = types.Model("deployment", name) if model is None else load(model, context=context)
    return hooks.migrate(given, request, context)


def open(
    model: str | Path | Model | Variant,
    *,
    target: str = "",
    device: str | None = None,
    threads: int | None = None,
    reference: bool = False,
    options: Mapping[str, Any] | None = None,
    without: tuple[str, ...] = (),
    context: Context | None = None,
) -> Session:
    """Open a session in this process; see :class:`~lepton_core.types.OpenRequest`.

    Args:
        model: A variant, a model, or what one would type.
        target: Target id; by default the variant's, else the plugin that runs the format best.
        device: Device of the target.
        threads: Intra-op threads.
        reference: Run as the yardstick.
        options: Owner-specific options.
        without: What the session may leave out: ``execution_facts``, ``plan_memory``.
        context: Surroundings.

    Raises:
        UsageError: The variant was not built.
        SessionError: The runtime refuses the model.
    """
    context = _context(context)
    if isinstance(model, types.Variant):
        parsed = types.Target.parse(target or model.target)
        target, device, model = parsed.id, device or parsed.device, _built(model)
    model = load(model, context=context)
    if not target:
        target, model = _runnable(model, context)
    request = types.OpenRequest(target, device, threads, reference, options or {}, without)
    return hooks.open(model, request, context)


def _built(variant: Variant) -> Model:
    """Return the artifact of a variant that was built.

    Raises:
        UsageError: LPT-USE-007, there is none.
    """
    if variant.model is None:
        raise UsageError(
            "LPT-USE-007",
            f"The {variant.precision} variant for {variant.target} was not kept",
            cause=variant.why,
            remedy="Take one that was kept: result[target].best.",
        )
    return variant.model


def _runnable(model: Model, context: Context) -> tuple[str, Model]:
    """Return the plugin that runs this model best, converting it first if it must be."""
    from lepton_core.errors import LeptonError
    from lepton_core.planner import reachable

    bound = hooks.default()
    for name, info in bound.registry.targets().items():
        if info.artifact == model.format:
            bound.registry.require(name)
            return name, model
    problem: LeptonError | None = None
    for steps in reachable(model.format, bound.registry.infos()):
        end = steps[-1].edge.result if steps else model.format
        try:
            owner = bound.reference_owner(end)
        except LeptonError as error:
            problem = problem or error
            continue
        for number, step in enumerate(steps):
            workdir = context.workdir / f"{number:02d}-{step.edge.result}"
            workdir.mkdir(parents=True, exist_ok=True)
            request = types.ConvertRequest(owner)
            part = replace(context, workdir=workdir)
            model = bound.convert_step(model, step, request, part).model
        return owner, model
    raise problem or RuntimeError("a format reaches at least itself")


__all__ = [
    "adapt",
    "adjust",
    "convert",
    "deploy",
    "inspect",
    "load",
    "migrate",
    "open",
    "optimize",
    "targets",
]
