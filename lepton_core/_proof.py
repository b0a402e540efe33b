"""The last part of the main job: compare, judge, decide what is kept, write passports."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import environment
from lepton_core._port_timing import plain_of
from lepton_core.artifacts import artifact_size, write_card
from lepton_core.gains import Gain
from lepton_core.origins import ORIGIN, PIVOT, can_be_origin, keep_origin
from lepton_core.passport import Passport, dump_passport, make_passport
from lepton_core.samples import match, random_samples, split
from lepton_core.types import EvaluateResult, Model, Variant
from lepton_core.verdicts import precision_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from lepton_core._port_parts import Built
    from lepton_core.dispatch import Hooks
    from lepton_core.porting import PortOptions, PortResult
    from lepton_core.samples import Samples

RANDOM_ROWS = 64


@dataclass(slots=True)
class Yardstick:
    """The source as it was run, and the samples it was run on.

    Attributes:
        held_out: Rows that every variant is compared on.
        calibration: Rows set aside for compression, if any.
        owner: Plugin that runs the source.
        model: The form of the source that it runs.
        folder: Where the held-out rows are saved for worker processes.
        reference: The source's outputs on them.
        latency: Timing of the source, once measured.
    """

    held_out: Samples
    calibration: Samples | None
    owner: str
    model: Model
    folder: Path
    reference: EvaluateResult
    latency: dict[str, float] | None = None


def choose_rows(given: Samples | None, model: Model, seed: int) -> tuple[Samples | None, Samples]:
    """Return calibration and held-out rows that fit the model.

    Args:
        given: The user's samples, or ``None`` for random rows (and weak verdicts).
        model: Model whose signature they must fit.
        seed: Seed of the split.

    Raises:
        SampleError: They do not fit.
    """
    if model.signature is None:
        msg = f"the {model.format} model has not been read"
        raise ValueError(msg)
    if given is None:
        return None, random_samples(model.signature, RANDOM_ROWS, seed)
    return split(match(given, model.signature), seed=seed)


def load_outputs(result: EvaluateResult) -> dict[str, np.ndarray]:
    """Open the outputs of an evaluation, memory-mapped."""
    import numpy as np

    return {name: np.load(path, mmap_mode="r") for name, path in result.outputs.items()}


class Prover:
    """Writes a passport for everything that was built and decides what is kept.

    Args:
        hooks: Tells which packages matter for the record.
        options: What was asked for.
        stage: Directory in which the result is put together.
        out: Where it will stand in the end.
        source: The source as it was inspected.
        yardstick: The source as it was run.
    """

    def __init__(
        self,
        *,
        hooks: Hooks,
        options: PortOptions,
        stage: Path,
        out: Path,
        source: Model,
        yardstick: Yardstick,
    ) -> None:
        self.hooks = hooks
        self.options = options
        self.stage = stage
        self.out = out
        self.source = source
        self.yardstick = yardstick
        self._reference = load_outputs(yardstick.reference)
        self._created = datetime.now(UTC).isoformat(timespec="seconds")

    def prove_all(self, built: Sequence[Built]) -> tuple[Variant, ...]:
        """Return a variant for each combination, in the order asked for."""
        passports = [self._passport(one) for one in built]
        return tuple(
            self._variant(one, passport, self._yard_of(one, built, passports))
            for one, passport in zip(built, passports, strict=True)
        )

    # --- passports ----------------------------------------------------------------------------

    def _passport(self, one: Built) -> Passport | None:
        if one.model is None or one.outputs is None or one.error is not None:
            return None
        yardstick = self.yardstick
        data = make_passport(
            source=self._source_model(),
            variant=one.model,
            target=str(one.target),
            precision=one.precision,
            reference=self._reference,
            actual=load_outputs(one.outputs),
            held_out=yardstick.held_out,
            calibration=yardstick.calibration,
            split_seed=None if yardstick.held_out.origin == "random" else self.options.seed,
            metric=self.options.metric,
            max_drop=self.options.max_drop,
            session_facts=one.outputs.facts,
            latency=_latency(one.latency, one.outputs),
            source_latency=_latency(yardstick.latency, yardstick.reference),
            size_bytes=artifact_size(one.model),
            source_size_bytes=artifact_size(yardstick.model),
            coverage=one.coverage,
            environment=self._environment(one),
            warnings=one.warnings,
            created=self._created,
        )
        data["variant"]["path"] = self._final(one.model).path  # digests are of where it stands now
        return Passport(data)

    def _source_model(self) -> Model:
        """The source as the user named it, with what the run found out about it."""
        run = self.yardstick.model
        return self.source.evolve(
            signature=run.signature, metadata={**run.metadata, **self.source.metadata}
        )

    def _environment(self, one: Built) -> Mapping[str, Any]:
        names = [
            name
            for owner in dict.fromkeys((self.yardstick.owner, one.target.id))
            for backend in self.hooks.registry.info(owner).backends
            for name in backend.distributions
        ]
        plugins = [
            self.hooks.registry.info(owner).distribution
            for owner in dict.fromkeys((self.yardstick.owner, one.target.id))
        ]
        return environment.describe(*plugins, *names)

    def _final(self, model: Model) -> Model:
        """Return the model at the place where it will stand in the end."""
        return model.evolve(path=str(self._place(Path(model.path))))

    def _place(self, path: Path) -> Path:
        return self.out / path.relative_to(self.stage)

    # --- keeping ------------------------------------------------------------------------------

    def _yard_of(
        self, one: Built, built: Sequence[Built], passports: Sequence[Passport | None]
    ) -> Passport | None:
        """Return the passport of the same target's fp32 variant, to do no harm against."""
        plain = plain_of(one, built)
        return next((p for b, p in zip(built, passports, strict=True) if b is plain), None)

    def _gain(self, one: Built, passport: Passport, yard: Passport) -> Gain:
        """Return what a variant gains over the fp32 one."""
        size, before = passport["variant"]["size_bytes"], yard["variant"]["size_bytes"]
        inputs = "random" if self.yardstick.held_out.origin == "random" else "samples"
        return Gain(before, size, one.race, one.untimed, inputs)

    def _variant(self, one: Built, passport: Passport | None, yard: Passport | None) -> Variant:
        target, precision = str(one.target), one.precision
        if passport is None or one.model is None:
            why = _reason(one)
            return Variant(target, precision, None, None, "fail", False, why)
        gain = None if yard is None else self._gain(one, passport, yard)
        if gain is not None:
            passport["gain"] = gain.to_dict()
        kept, why = _decide(passport, gain, yard)
        why = "; ".join((why, *one.recovered)) if kept else why
        folder = Path(one.model.path).parent
        model: Model | None = self._final(one.model)
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            model = None
        file = folder / "passport.json"
        file.write_text(dump_passport(passport), encoding="utf-8")
        if model is not None:
            write_card(folder, one.model, kind="variant", target=target, precision=precision)
        placed = Passport(passport, path=str(self._place(file)))
        return Variant(target, precision, model, placed, passport.verdict, kept, why)

    def keep_origins(self, built: Sequence[Built], variants: Sequence[Variant]) -> None:
        """Keep what the kept variants were lowered from: one pivot once, others beside them."""
        shared: Model | None = None
        for one, variant in zip(built, variants, strict=True):
            origin = one.origin
            if not variant.kept or one.model is None or origin is None or not can_be_origin(origin):
                continue
            if origin.format == PIVOT and shared is None:
                shared = origin
                keep_origin(origin, self.stage / PIVOT)
            elif shared is None or origin.digest != shared.digest:
                keep_origin(origin, Path(one.model.path).parent / ORIGIN)

    # --- pages --------------------------------------------------------------------------------

    def write_pages(self, result: PortResult) -> None:
        """Write the page of the run and one for each passport."""
        from lepton_core.report import render_passport, render_port
        from lepton_core.report.thumbnails import worst_pictures

        links: list[str | None] = []
        for variant in result.variants:
            if variant.passport is None:
                links.append(None)
                continue
            page = Path(variant.passport.path).relative_to(self.out).with_suffix(".html")
            passport = dict(variant.passport)
            shown = self.options.show_samples
            pictures = worst_pictures(passport, self.yardstick.held_out) if shown else None
            html = render_passport(passport, pictures=pictures)
            (self.stage / page).write_text(html, encoding="utf-8")
            links.append(page.as_posix())
        passports = [v.passport and dict(v.passport) for v in result.variants]
        html = render_port(result.to_dict(), passports, pages=links)
        (self.stage / result.report.name).write_text(html, encoding="utf-8")


def _reason(one: Built) -> str:
    if one.error is None:
        return "not built"
    text = f"{one.error.code}: {one.error.message}"
    hint = one.error.cause or one.error.remedy
    text = f"{text} ({hint.splitlines()[0].strip()})" if hint else text
    folder = one.error.details.get("reproducer")
    return f"{text}; {folder}/convert.py does it again" if folder else text


def _decide(
    passport: Passport, gain: Gain | None, yard: Passport | None = None
) -> tuple[bool, str]:
    """Keep what does not fail and, for a compressed variant, is smaller or faster than fp32.

    Args:
        passport: Of the variant.
        gain: Over the fp32 variant of its target; ``None`` if there is none, or it is that one.
        yard: The passport of that fp32 variant.
    """
    if passport.verdict == "fail":
        return False, passport.why
    stored = passport["variant"]["storage_precision"]
    if precision_class(passport["variant"]["precision"]) == "half" and stored == "fp32":
        return False, "nothing in it is stored in half precision, so it is the fp32 variant again"
    if yard is not None and passport["variant"]["digest"] == yard["variant"]["digest"]:
        return False, "nothing in it is stored in another way, so it is the fp32 variant again"
    if gain is None:
        return True, passport.why
    if gain.any:  # what is smaller and slower says both
        return True, f"{gain.text}; {passport.why}"
    measured = f" ({gain.size_text}, {gain.time_text})" if gain.race else ""
    return False, f"kept fp32 instead: neither smaller nor faster here{measured}"


def _latency(measured: Mapping[str, float] | None, run: EvaluateResult) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "p50_ms": measured["p50_ms"],
        "p95_ms": measured["p95_ms"],
        "batch": int(measured["batch"]),
        "runs": int(measured["runs"]),
        "threads": run.facts.get("threads"),
    }
