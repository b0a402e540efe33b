"""Deploying: convert if need be, try, store, point the alias there, write a bundle."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core._recipe_step import recipe_beside
from lepton_core.embedded._options import read_options
from lepton_core.embedded._stored import taken_up
from lepton_core.errors import StorageError, UsageError
from lepton_core.types import ConvertRequest, DeployResult, OpenRequest, Target

if TYPE_CHECKING:
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.types import DeployRequest, Model

GOLDEN_ROWS = 2
KINDS = ("embedded", "bundle")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the embedded engine.

    Attributes:
        store: Folder of the store; ``LEPTON_STORE`` or the user's data folder by default.
        out: Folder of the bundle; ``NAME`` under ``context.workdir`` by default.
        precision: Precision of the artifact, and of a conversion where one is needed.
        passport: Path of its passport; by default the ``passport.json`` beside the artifact, if
            it is about this artifact.
        recipe: Paths of the recipe's files; by default ``recipe.json`` and its sidecar beside the
            artifact, if it was made by them.
        samples: Samples whose first rows become golden inputs; they are stored then. By default
            golden inputs are noise.
        golden_rows: Number of golden rows; 0 for none.
        golden: Folder of golden pairs to keep in the place of new ones.
        expect: Generation of the alias that the caller has seen.
        why: Reason, for the ledger.
        force: Replace whatever is at *out*.
    """

    store: str | None = None
    out: str | None = None
    precision: str = ""
    passport: str | None = None
    recipe: tuple[str, ...] = ()
    samples: str | None = None
    golden_rows: int = GOLDEN_ROWS
    golden: str | None = None
    expect: int | None = None
    why: str = ""
    force: bool = False


def deploy(model: Model, request: DeployRequest, context: Context) -> DeployResult:
    """Do what :func:`lepton_core.embedded.plugin.lepton_deploy` says.

    Raises:
        UsageError: LPT-DEP-005, LPT-DEP-009; LPT-STORE-006, the name or alias cannot be one.
        DeployError: LPT-DEP-004 (no loading code for a bundle), LPT-STORE-010 (the alias moved
            meanwhile).
        SessionError: The artifact does not open or run here.
        StorageError: The store or the bundle cannot be written; both are as before.
    """
    from lepton_core.store import Store

    options = read_options(request.options, Options)
    if request.kind not in KINDS:
        raise UsageError(
            "LPT-DEP-009",
            f"The embedded engine has no deployments of the kind {request.kind!r}",
            remedy=f"Choose {' or '.join(KINDS)}.",
        )
    hooks = _hooks(context)
    target = Target.parse(request.target)
    # What the alias is now decides: whoever moves it while this one is tried, wins.
    expect = _generation(request, options) if options.expect is None else options.expect
    if request.kind == "bundle":
        from lepton_core.embedded._bundle import check_place, runtime_file

        runtime = runtime_file(hooks.registry, target.id)
        out = Path(options.out) if options.out else context.workdir / request.name
        check_place(out, force=options.force)
    with (
        tempfile.TemporaryDirectory(dir=context.workdir, prefix=".deploy-") as scratch,
        taken_up(model, options, hooks.registry.target(target.id).artifact) as (source, options),
    ):
        work = replace(context, workdir=Path(scratch))
        artifact, before = _artifact(hooks, source, target, options, work)
        passport = options.passport or _passport_beside(artifact)
        recipe = options.recipe or recipe_beside(artifact)
        origin = keep_origin_of(artifact, before, work.workdir / "origin")
        context.checkpoint()
        artifact, golden, facts = _try(hooks, artifact, target, options, work)
        context.checkpoint()
        with Store(options.store) as store:
            added = store.add(
                request.name,
                artifact,
                target=str(target),
                precision=_precision(artifact, options),
                passport=passport,
                recipe=recipe,
                golden=golden,
                origin=origin,
                alias=request.alias,
                expect=expect,
                why=options.why,
            )
            location, said = str(store.path), facts
            if request.kind == "bundle":
                from lepton_core.embedded._bundle import own_files, write_bundle

                own = own_files(hooks.registry, added.version.target)
                sums = write_bundle(store, added, runtime, out, force=options.force, own=own)
                location = str(out.absolute())
                store.record(
                    "bundle.write",
                    request.name,
                    why=options.why,
                    details={"version": added.version.id, "sums": sums},
                )
    said |= {"target": str(target), "size_bytes": added.version.size_bytes}
    if added.alias is not None:
        said |= {"alias": added.alias.alias, "generation": added.alias.generation}
    return DeployResult(request.name, added.version.id, location, said)


def _generation(request: DeployRequest, options: Options) -> int | None:
    """Return how often the alias was moved so far; ``None`` without an alias."""
    from lepton_core.store import Store

    if request.alias is None:
        return None
    try:
        with Store(options.store, create=False) as store:
            state = store.alias(request.name, request.alias)
    except StorageError as error:
        if error.code != "LPT-STORE-002":
            raise
        return 0
    return state.generation if state else 0


def _hooks(context: Context) -> Hooks:
    if context.hooks is None:
        from lepton_core.hooks import default

        return default()
    return context.hooks


def _precision(artifact: Model, options: Options) -> str:
    return options.precision or str(artifact.metadata.get("precision", ""))


def _passport_beside(artifact: Model) -> Path | None:
    """Return the passport that the main job wrote beside this artifact, if it did."""
    import json

    place = Path(artifact.path).parent / "passport.json"
    try:
        about = json.loads(place.read_text(encoding="utf-8"))["variant"]
        same = bool(artifact.digest) and about["digest"] == artifact.digest
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return place if same else None


def keep_origin_of(artifact: Model, before: Model | None, folder: Path) -> Path | None:
    """Copy what the artifact was lowered from into a folder, to be stored with it.

    Args:
        artifact: The artifact.
        before: What it was lowered from here; it is looked for beside the artifact otherwise.
        folder: Where to.

    Returns:
        The folder, ``None`` if no origin is known or the artifact is one itself.

    Raises:
        StorageError: LPT-ORIG-001, it stands there and is damaged.
    """
    from lepton_core.origins import can_be_origin, find_origin, keep_origin

    origin = before if before is not None else find_origin(artifact)
    if origin is None or not can_be_origin(origin):
        return None
    keep_origin(origin, folder)
    return folder


def _artifact(
    hooks: Hooks, model: Model, target: Target, options: Options, context: Context
) -> tuple[Model, Model | None]:
    """Return the model in the target's artifact format, and what it was converted from if so."""
    info = hooks.registry.target(target.id)
    if model.format == info.artifact:
        return model, None
    folder = context.workdir / "artifact"
    folder.mkdir()
    request = ConvertRequest(target.id, precision=options.precision or "fp32", device=target.device)
    if recipe := next((path for path in options.recipe if path.endswith(".json")), None):
        request = ConvertRequest(target.id, device=target.device, recipe=recipe)
    done, before = hooks.lower(model, request, replace(context, workdir=folder))
    return done.model, before


def _try(
    hooks: Hooks, artifact: Model, target: Target, options: Options, context: Context
) -> tuple[Model, Path | None, dict[str, Any]]:
    """Open the artifact, run it, and keep what it answered.

    Returns:
        The artifact with its signature, the folder of golden pairs if any, and facts.
    """
    folder = context.workdir / "session"
    folder.mkdir()
    request = OpenRequest(target.id, target.device)
    with hooks.open(artifact, request, replace(context, workdir=folder)) as session:
        artifact = artifact.evolve(signature=artifact.signature or session.signature)
        facts: dict[str, Any] = {"session": dict(session.facts)}
        if options.golden_rows < 1:
            return artifact, None, facts
        from lepton_core.deployment._golden import check_golden, tolerance_of, write_golden

        if options.golden is not None:
            kept = Path(options.golden)
            facts["golden"] = {"kept": True, "repeated_rel_l2": check_golden(session, kept)}
            return artifact, kept, facts
        from lepton_core.samples import batches, load_samples, match, random_samples

        rows = options.golden_rows
        if options.samples is None:
            samples = random_samples(session.signature, rows, context.seed)
        else:
            import numpy as np

            matched = match(load_samples(options.samples), session.signature)
            samples = matched.rows(np.arange(min(rows, len(matched))))
        inputs, _ = next(iter(batches(samples, session.signature, batch_size=rows)))
        outputs = session.run(inputs)
        limit = tolerance_of(_precision(artifact, options))
        golden = write_golden(
            context.workdir / "golden", inputs, outputs, origin=samples.origin, rel_l2=limit
        )
        again = check_golden(session, golden)
        facts["golden"] = {"rows": rows, "origin": samples.origin, "repeated_rel_l2": again}
    return artifact, golden, facts


__all__ = ["KINDS", "Options", "deploy"]
