"""A complete target in small: every hook, really done, over layered networks in JSON.

It is the core's own test subject and the documentation's example of a plugin. Register it in
this process with ``registry.register(fake_target, fake_target.INFO)``; installed as a
distribution it would be the plugin's ``plugin.py``. As there, importing it costs nothing: the
arithmetic and numpy live in a work module that each hook imports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import types
from lepton_core.errors import (
    AdaptError,
    AdjustError,
    ConversionError,
    DeployError,
    MigrateError,
    OptimizeError,
)
from lepton_core.files import write_atomic
from lepton_core.markers import hookimpl
from lepton_core.testing.fake_info import INFO

if TYPE_CHECKING:
    from lepton_core.context import Context, Session
    from lepton_core.types import Model


def write_graph(path: Path, width: int, layers: list[dict[str, Any]]) -> Path:
    """Write a source graph.

    Args:
        path: Where, ending in ``.fake``.
        width: Values per row of the input.
        layers: ``{"op": "linear", "weight": [[...]], "bias": [...]}``, ``{"op": "relu"}``,
            ``{"op": "scale", "factor": 2.0}``.
    """
    import numpy as np

    from lepton_core.testing import _fake_graph as work

    plain = [
        {**layer, **{k: work.encode(np.asarray(layer[k], np.float32)) for k in _arrays(layer)}}
        for layer in layers
    ]
    work.write({"width": width, "layers": plain}, path, types.Model("fake-graph", str(path)))
    return path


def _step(model: Model, step: str, **request: Any) -> tuple[types.LineageStep, ...]:  # noqa: ANN401
    """Return the model's lineage with one step more."""
    owner = f"{INFO.distribution} (fake)"
    return (*model.lineage, types.LineageStep(step, owner, model.digest or None, request))


@hookimpl
def lepton_inspect(
    model: Model, request: types.InspectRequest, context: Context
) -> types.InspectResult:
    """Read a graph: signature, digest, operators with their layer."""
    from lepton_core.files import digest_path
    from lepton_core.testing import _fake_graph as work

    graph = work.read(model.path)
    names = [layer["op"] for layer in graph["layers"]]
    sizes = [work.decode(layer[k]).size for layer in graph["layers"] for k in _arrays(layer)]
    uses = tuple(
        types.OperatorUse(n, names.count(n), f"layer {names.index(n)}", n in work.OPERATORS)
        for n in sorted(set(names))
    )
    read = model.evolve(signature=work.signature(graph), digest=digest_path(model.path))
    return types.InspectResult(read, uses if request.operators else (), "fake", sum(sizes))


def _arrays(layer: dict[str, Any]) -> tuple[str, ...]:
    return ("weight", "bias") if layer["op"] == "linear" else ()


@hookimpl
def lepton_check(model: Model, request: types.CheckRequest, context: Context) -> types.CheckResult:
    """Judge by the operators alone: unknown ones are impossible, a scale must be folded."""
    unknown = [u for u in request.inspection.operators if not u.convertible]
    if unknown:
        return types.CheckResult(
            "impossible", tuple(f"operator {u.name!r} at {u.where} is not known" for u in unknown)
        )
    forbidden = [
        u for u in request.inspection.operators if u.name in INFO.constraints.forbidden_ops
    ]
    if forbidden:
        reasons = tuple(f"rewrite fold-scale: {u.count} of {u.name}" for u in forbidden)
        return types.CheckResult("needs-rewrite", reasons, INFO.precisions)
    return types.CheckResult("fits", (), INFO.precisions)


@hookimpl
def lepton_adapt(model: Model, request: types.AdaptRequest, context: Context) -> types.AdaptResult:
    """Fold every scale into the linear layer before it, or else the one after it."""
    from lepton_core.testing import _fake_graph as work

    if request.rewrites and "fold-scale" not in request.rewrites:
        return types.AdaptResult(model, (), ("nothing to do: fold-scale is not allowed",))
    graph = work.read(model.path)
    layers: list[dict[str, Any]] = []
    changes: list[str] = []
    pending = 1.0  # what the next linear layer must take in
    for place, layer in enumerate(graph["layers"]):
        if layer["op"] == "scale":
            changes.append(f"fold-scale: layer {place} (by {layer['factor']:g})")
            if pending == 1.0 and layers and layers[-1]["op"] == "linear":
                layers[-1] = _scaled(layers[-1], layer["factor"], ("weight", "bias"))
            else:
                pending *= layer["factor"]
        elif layer["op"] == "linear":
            layers.append(_scaled(layer, pending, ("weight",)))
            pending = 1.0
        elif pending == 1.0:
            layers.append(layer)
        else:
            break
    if pending != 1.0:
        raise AdaptError(
            "FAKE-ADAPT-001",
            f"The scale before layer {len(layers)} of {model.path} cannot be folded",
            cause="there is no linear layer beside it",
            remedy="Put a linear layer beside the scale.",
        )
    if not changes:
        return types.AdaptResult(model)
    lineage = _step(model, "adapt", target=request.target, rewrites=["fold-scale"])
    out = model.evolve(lineage=lineage)
    adapted = work.write({**graph, "layers": layers}, context.workdir / "adapted.fake", out)
    return types.AdaptResult(adapted, tuple(changes))


def _scaled(layer: dict[str, Any], factor: float, names: tuple[str, ...]) -> dict[str, Any]:
    from lepton_core.testing import _fake_graph as work

    return {**layer, **{k: work.encode(work.decode(layer[k]) * work.F32(factor)) for k in names}}


@hookimpl
def lepton_convert(
    model: Model, request: types.ConvertRequest, context: Context
) -> types.ConvertResult | None:
    """Store the weights at the precision asked for; None for an edge that is not declared."""
    from lepton_core.testing import _fake_graph as work

    if (model.format, request.to_format) != ("fake-graph", "fake"):
        return None
    graph = work.read(model.path)
    dtype = {"fp32": "float32", "fp16": "float16"}[request.precision]
    bar = context.reporter.task("convert layers", len(graph["layers"]))
    layers = []
    for place, layer in enumerate(graph["layers"]):
        context.checkpoint()
        if layer["op"] not in ("linear", "relu"):
            raise ConversionError(
                "FAKE-CONV-001",
                f"The target has no operator {layer['op']!r}",
                cause=f"layer {place} of {model.path}",
                remedy="Adapt the model first: `lepton adapt MODEL --to fake`.",
            )
        stored = {k: work.encode(work.decode(layer[k]).astype(dtype)) for k in _arrays(layer)}
        layers.append({**layer, **stored})
        bar.advance()
    bar.finish()
    lineage = _step(model, "convert fake-graph -> fake", precision=request.precision)
    out = model.evolve(format="fake", lineage=lineage)
    graph = {**graph, "layers": layers, "precision": request.precision}
    converted = work.write(graph, context.workdir / "model.json", out)
    return types.ConvertResult(converted, {"layers": len(layers), "storage": request.precision})


@hookimpl
def lepton_optimize(
    model: Model, request: types.OptimizeRequest, context: Context
) -> types.OptimizeResult:
    """Quantize weights to int8 and measure the loss on samples, if there are any."""
    import numpy as np

    from lepton_core.testing import _fake_graph as work

    graph = work.read(model.path)
    layers = []
    for layer in graph["layers"]:
        new = dict(layer)
        if layer["op"] == "linear":
            new["weight"] = work.encode(*work.quantize_rows(work.decode(layer["weight"])))
        layers.append(new)
    small = {**graph, "layers": layers, "precision": "int8"}
    loss, why = None, "weak: no samples were given, so nothing was measured"
    if request.samples:
        x = np.load(request.samples)["x"]
        before, after = work.run(graph, x), work.run(small, x)
        loss = float(np.linalg.norm(after - before) / (np.linalg.norm(before) or 1))
        why = f"relative L2 {loss:.2e} on {len(x)} samples"
        if request.max_drop is not None and loss > request.max_drop:
            raise OptimizeError(
                "FAKE-OPT-001",
                f"int8 loses {loss:.2e}, more than the budget {request.max_drop:.2e}",
                cause=why,
                remedy="Raise --max-drop, or keep fp32.",
                details={"loss": loss},
            )
    recipe = context.workdir / "recipe.json"
    rule = {"scheme": "int8 rows, -127..127, half to even", "model": model.digest}
    write_atomic(recipe, json.dumps(rule, sort_keys=True))
    out = model.evolve(format="fake", lineage=_step(model, "optimize", precision="int8"))
    result = work.write(small, context.workdir / "model.int8.json", out)
    return types.OptimizeResult(result, str(recipe), why, {"rel_l2": loss})


@hookimpl
def lepton_deploy(
    model: Model, request: types.DeployRequest, context: Context
) -> types.DeployResult:
    """Write a new immutable version, then point the deployment at it."""
    from lepton_core.files import digest_path

    if digest_path(model.path) != model.digest:
        raise DeployError(
            "FAKE-DEPL-001",
            f"{model.path} is not the file that was proved",
            cause="its digest has changed",
            remedy="Convert the model again.",
        )
    place = context.workdir / request.name
    version = str(1 + len(list(place.glob("v*.json"))))
    place.mkdir(exist_ok=True)
    artifact = place / f"v{version}.json"
    write_atomic(artifact, Path(model.path).read_bytes())
    _point(place, {"target": request.target, "version": version, "artifact": str(artifact)})
    return types.DeployResult(request.name, version, str(place), {"alias": request.alias})


def _point(place: Path, pointer: dict[str, str]) -> None:
    write_atomic(place / "current.json", json.dumps(pointer, sort_keys=True))


def _current(place: Path) -> dict[str, str] | None:
    path = place / "current.json"
    return json.loads(path.read_text()) if path.is_file() else None


@hookimpl
def lepton_adjust(
    model: Model, request: types.AdjustRequest, context: Context
) -> types.AdjustResult:
    """Pick threads and batch from ``options["telemetry"]`` and write a dispatch table.

    Each measurement has ``threads``, ``batch``, ``p50_ms`` and, for the floor, ``accuracy``.
    """
    floor = float("-inf") if request.floor is None else request.floor
    measured = [
        m for m in request.options.get("telemetry", ()) if m.get("accuracy", float("inf")) >= floor
    ]
    if not measured or _current(context.workdir / request.name) is None:
        raise AdjustError(
            "FAKE-ADJ-001",
            f"There is nothing to adjust {request.name!r} by",
            cause="it is not deployed, or no measurement reaches the floor",
            remedy="Deploy it, let it run, and pass its telemetry.",
        )
    by_throughput = request.objective == "throughput"
    cost = [m["p50_ms"] / m["batch"] if by_throughput else m["p50_ms"] for m in measured]
    best = measured[cost.index(min(cost))]
    table = {key: best[key] for key in ("threads", "batch")}
    write_atomic(context.workdir / request.name / "dispatch.json", json.dumps(table))
    changes = tuple({"set": key, "to": value} for key, value in table.items())
    return types.AdjustResult(request.name, changes, {"measured_p50_ms": best["p50_ms"]})


@hookimpl
def lepton_migrate(
    model: Model, request: types.MigrateRequest, context: Context
) -> types.MigrateResult:
    """Build for the new target, compare both on a grid of inputs, and only then move.

    ``options["tolerance"]`` is the largest accepted relative L2 error (1e-3).
    """
    import numpy as np

    place = context.workdir / request.name
    pointer = _current(place)
    if pointer is None or context.hooks is None or model.signature is None:
        raise MigrateError(
            "FAKE-MIG-001",
            f"There is no deployment {request.name!r}",
            remedy="Deploy it first, then migrate.",
        )
    hooks, workdir = context.hooks, context.workdir
    built = hooks.convert(model, types.ConvertRequest(request.target), context).model
    width = int(model.signature.inputs[0].shape[1] or 0)
    x = np.linspace(-1, 1, 16 * width, dtype=np.float32).reshape(16, width)
    outputs = []
    for one, target in ((model, pointer["target"]), (built, request.target)):
        with hooks.open(one, types.OpenRequest(target), context) as session:
            outputs.append(session.run({"x": x})["y"])
    error = float(np.linalg.norm(outputs[1] - outputs[0]) / (np.linalg.norm(outputs[0]) or 1))
    facts = {"rel_l2": error, "from": pointer["target"]}
    tolerance = float(request.options.get("tolerance", 1e-3))
    if not error <= tolerance:  # a NaN must return, too
        why = f"relative L2 {error:.2e} is more than {tolerance:g}; {pointer['target']} stays"
        return types.MigrateResult(request.name, "returned", why, facts)
    artifact = str(workdir / built.path)
    _point(place, {"target": request.target, "version": pointer["version"], "artifact": artifact})
    return types.MigrateResult(request.name, "done", f"relative L2 {error:.2e}", facts)


@hookimpl
def lepton_open(model: Model, request: types.OpenRequest, context: Context) -> Session:
    """Open a graph of any precision, as a source or as an artifact."""
    from lepton_core.environment import available_cpus
    from lepton_core.testing import _fake_graph as work

    return work.FakeSession(work.read(model.path), request.threads or available_cpus())


__all__ = [
    "INFO",
    "lepton_adapt",
    "lepton_adjust",
    "lepton_check",
    "lepton_convert",
    "lepton_deploy",
    "lepton_inspect",
    "lepton_migrate",
    "lepton_open",
    "lepton_optimize",
    "write_graph",
]
