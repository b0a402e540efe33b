"""Checking a built variant again: digests first, then outputs against the source."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.errors import LeptonError, SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.built import Built
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.types import Model


_TIMING = 0.25
"""Seconds, about, for timing a variant in turns with the fp32 one beside it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found out.

    Attributes:
        path: The artifact.
        target: Target it was built for.
        precision: Its precision.
        digest: Its digest, which is the recorded one.
        recorded: Verdict of the passport beside it.
        source: The source it was compared with.
        source_unchanged: Whether that has the digest that the passport records; ``None`` for an
            origin that the source was converted to.
        origin: Whether it is the model that the artifact was lowered from, kept beside it, because
            the source is not here.
        verdict: The new verdict; ``None`` if nothing was run.
        why: The new verdict's reasons.
        same_rows: Whether the rows are those of the recorded proof.
        passport: The new passport.
        proof: What kind of proof the passport is, if it says so.
        device: What was merged: a device's part of the passport.
        written: Where the new passport was written.
    """

    path: str
    target: str
    precision: str
    digest: str
    recorded: str
    source: str = ""
    source_unchanged: bool | None = None
    origin: bool = False
    verdict: str | None = None
    why: str = ""
    same_rows: bool | None = None
    passport: Mapping[str, Any] | None = None
    proof: str = ""
    device: Mapping[str, Any] | None = None
    written: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        data = {
            "schema": 1,
            "ok": self.verdict in ("pass", None),
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "metrics": None,
            "errors": None,
            "gain": None,
        }
        if self.passport is not None:
            from lepton_core.passport import variant_summary

            summary = variant_summary(self.passport)
            data |= {name: summary[name] for name in ("metrics", "errors", "gain")}
        return data


def verify(
    text: str,
    *,
    hooks: Hooks,
    context: Context,
    data: str | None,
    against: str | None,
    metric: str | None,
    max_drop: float | None,
    threads: int | None,
) -> Outcome:
    """Check a variant again.

    Args:
        text: An artifact, its directory, or its passport.
        hooks: Calls the plugins.
        context: Where to write scratch files.
        data: Samples; ``None`` checks digests only.
        against: Source; the recorded one if ``None``.
        metric: Metric; the recorded one if ``None``.
        max_drop: Budget; the recorded one if ``None``.
        threads: Threads of each session.

    Raises:
        UsageError: There is no passport there.
        LeptonError: ``LPT-CLI-003`` the artifact is not the one that was proved.
        SourceError: LPT-CLI-004 the source is gone, and no origin was kept.
        StorageError: LPT-ORIG-001 the origin is damaged.
    """
    built = find_variant(text)
    outcome = check_digests(built)
    if data is None and against is None:
        return outcome
    source, origin = _source(built, against, context)
    outcome = replace(outcome, **_source_facts(source, built, origin=origin))
    if data is None:
        return outcome
    passport, same = _prove_again(
        built, source, data, hooks, context, metric=metric, max_drop=max_drop, threads=threads
    )
    verdict = passport["verdict"]
    return replace(
        outcome,
        verdict=verdict["verdict"],
        why=verdict["why"],
        same_rows=same,
        passport=passport,
        proof=str(passport["variant"]["session"].get("proof", "")),
    )


def find_variant(text: str) -> Built:
    """Return the variant that a text names, with its passport.

    Raises:
        SourceError: LPT-CLI-007, there is nothing.
        UsageError: LPT-CLI-002, it has no passport.
    """
    from lepton_core.built import find_built

    path = Path(text).expanduser()
    if not path.exists():
        raise SourceError(
            "LPT-CLI-007",
            f"There is no variant {text!r}",
            cause=f"{path} does not exist",
            remedy="Name an artifact that `lepton port` built, its directory, or its passport.",
        )
    built = find_built(text)
    if built is None or built.passport is None:
        raise UsageError(
            "LPT-CLI-002",
            f"There is no passport beside {text!r}",
            cause="Only variants that `lepton port` has proved have one.",
            remedy="Name OUT/TARGET/PRECISION of a port result, or port the model first.",
        )
    return built


def check_digests(built: Built) -> Outcome:
    """Return what is known of a variant whose digest is the recorded one.

    Raises:
        LeptonError: LPT-CLI-003, it is not.
    """
    from lepton_core.artifacts import EXTERNAL_FILES

    passport = built.passport or {}
    main = Path(built.model.path)
    digest = _compare(main, built.model.digest)
    beside = dict.fromkeys(built.model.metadata.get(EXTERNAL_FILES, ()))  # an older passport's
    for name, recorded in {**beside, **passport.get("variant", {}).get("files", {})}.items():
        _compare(main.parent / name, recorded)
    return Outcome(
        built.model.path,
        built.target,
        built.precision,
        digest,
        passport["verdict"]["verdict"],
        proof=str(passport["variant"]["session"].get("proof", "")),
    )


def _compare(path: Path, recorded: str | None) -> str:
    """Return a file's digest, or a folder's, if it is the recorded one; that it is there, if none.

    Raises:
        LeptonError: LPT-CLI-003, it is not.
    """
    from lepton_core.files import digest_path

    found = digest_path(path) if path.exists() else "nothing"
    if found == recorded or (recorded is None and path.exists()):
        return found
    raise LeptonError(
        "LPT-CLI-003",
        f"{path} is not what was proved",
        cause=f"its digest is {found}, the passport records {recorded or 'that it belongs there'}",
        remedy="Do not use it; build it again with `lepton port`.",
        details={"recorded": recorded, "found": found},
    )


def _source(built: Built, against: str | None, context: Context) -> tuple[Model, bool]:
    """Read the source: the one named, or the one recorded, or the origin kept in its place.

    Returns:
        The model, and whether it is the origin.
    """
    from lepton_core import api
    from lepton_core.origins import find_origin

    recorded = (built.passport or {})["source"]
    if against is None:
        path = recorded["path"]
        against = f"{path}:{recorded['entry']}" if recorded.get("entry") else path
        looks_like_path = Path(path).is_absolute()
        if looks_like_path and not Path(path).exists():
            if (origin := find_origin(built.model)) is not None:
                return origin, True
            raise SourceError(
                "LPT-CLI-004",
                "The source that the passport records is gone",
                cause=f"{path} does not exist, and no origin was kept with the artifact",
                remedy="Name the source with --against SOURCE.",
                details={"source": path},
            )
    workdir = context.workdir / "source"
    workdir.mkdir()
    return api.load(against, context=replace(context, workdir=workdir)), False


def _source_facts(source: Model, built: Built, *, origin: bool) -> dict[str, Any]:
    recorded = (built.passport or {})["source"]
    name = f"{source.path}:{source.entry}" if source.entry else source.path
    same = source.digest == recorded["digest"]
    unchanged = None if origin and not same else same  # what an origin was made of has other bytes
    return {"source": name, "source_unchanged": unchanged, "origin": origin}


def _prove_again(
    built: Built,
    source: Model,
    data: str,
    hooks: Hooks,
    context: Context,
    *,
    metric: str | None,
    max_drop: float | None,
    threads: int | None,
) -> tuple[dict[str, Any], bool]:
    """Run source and variant on the held-out rows; returns a passport, and if rows are the same."""
    from lepton_core import api
    from lepton_core._proof import choose_rows, load_outputs
    from lepton_core.evaluate import evaluate_isolated
    from lepton_core.passport import make_passport
    from lepton_core.samples import load_samples, save
    from lepton_core.types import EvaluateRequest, Target

    recorded = dict(built.passport or {})
    given = load_samples(data)

    def work(name: str) -> Context:
        (context.workdir / name).mkdir()
        return replace(context, workdir=context.workdir / name)

    owner, runnable = api._runnable(source, work("runnable"))
    seed = recorded["samples"]["split"]["seed"] or 0
    calibration, held_out = choose_rows(given, runnable, seed)
    folder = context.workdir / "samples"
    save(held_out, folder)
    target = Target.parse(built.target)
    results = []
    for name, plugin, model, device in (
        ("reference", owner, runnable, None),
        ("actual", target.id, built.model, target.device),
    ):
        place = work(name)
        request = EvaluateRequest(
            plugin,
            str(folder),
            out=str(place.workdir / "outputs"),
            device=device,
            threads=threads,
            reference=name == "reference",
        )
        results.append(evaluate_isolated(hooks, model, request, place))
    reference, actual = results
    passport = make_passport(
        source=source.evolve(
            signature=runnable.signature, metadata={**runnable.metadata, **source.metadata}
        ),
        variant=built.model,
        target=built.target,
        precision=built.precision,
        reference=load_outputs(reference),
        actual=load_outputs(actual),
        held_out=held_out,
        calibration=calibration,
        split_seed=seed,
        metric=metric or _recorded_metric(recorded),
        max_drop=recorded["verdict"]["budget"] if max_drop is None else max_drop,
        limits=_recorded_limits(recorded),
        session_facts=actual.facts,
    )
    plain = _plain_of(built)
    if plain is not None:
        from lepton_core.gains import measure_gain

        pair = plain.model, built.model
        gain = measure_gain(
            hooks, pair, target, work("gain"), samples=held_out, seconds=_TIMING, threads=threads
        )
        passport["gain"] = gain.to_dict()
    if recorded.get("devices"):  # they ran this very artifact
        from lepton_core._device_proof import with_devices

        passport = with_devices(passport, recorded["devices"])
    return passport, held_out.digest == recorded["samples"]["digest"]


def _plain_of(built: Built) -> Built | None:
    """Return the fp32 variant beside a compressed one in the same result, if it is as recorded."""
    from lepton_core.built import find_built
    from lepton_core.files import digest_path
    from lepton_core.verdicts import precision_class

    if built.place is None or precision_class(built.precision) == "fp32":
        return None
    try:
        plain = find_built(built.place.parent.parent / "fp32")
    except LeptonError:  # it was not kept, or is damaged
        return None
    if plain is None or plain.passport is None or built.passport is None:
        return None
    alike = plain.target == built.target and plain.precision == "fp32"
    same = plain.passport["source"]["digest"] == built.passport["source"]["digest"]
    intact = alike and same and digest_path(plain.model.path) == plain.model.digest
    return plain if intact else None


def _recorded_metric(recorded: Mapping[str, Any]) -> str | None:
    metric = recorded["metric"]
    if not metric:
        return None
    return f"{metric['name']}:{metric['output']}" if metric.get("output") else str(metric["name"])


def _recorded_limits(recorded: Mapping[str, Any]) -> Any:  # noqa: ANN401 - verdicts.Limits
    from lepton_core.verdicts import Limits

    plain = {key: value for key, value in recorded["limits"].items() if key != "applied"}
    return Limits.from_dict(plain)


__all__ = ["Outcome", "verify"]
