"""The main job: one model in, a proved variant for every target out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.types import Limits, Model, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lepton_core.context import Reporter
    from lepton_core.dispatch import Hooks

EXIT_OK, EXIT_NONE_KEPT, EXIT_ONLY_WEAK = 0, 1, 3
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class PortOptions:
    """Everything :func:`port` can be asked for beside source and targets.

    Attributes:
        samples: ``.npz``, folder of ``.npy``, or ``file.py:callable``; ``None`` means random
            input, and then no verdict is better than weak.
        precisions: Precisions to build for each target.
        metric: Name of the metric; chosen by the kind of outputs and labels if ``None``.
        max_drop: Largest accepted loss, in the metric's own unit; the metric's default if
            ``None``.
        out: Directory of the result; must be new, empty, or an earlier result.
        seed: Seed of the split and of everything random.
        threads: Intra-op threads of all sessions; ``None`` sizes them to the container.
        limits: Bounds of each worker's job.
        latency_seconds: Time to spend on timing each variant and round; 0 for no timing.
        show_samples: Store pictures of the worst samples in the page; off because samples are
            never stored unless asked.
        force: Replace what is at ``out`` even if lepton did not write it.
        compression: Options of the compression engine for the precisions ``sparse``, ``palette``
            and ``mixed``: ``sparsity``, ``pattern``, ``prune``, ``scope``, ``palette``, ``group``.
        conversion: Options of the conversions on the way, by what they are for: a target as it is
            asked for, its id for all its devices, or either with a precision
            (``{"tflite": {"layout": "nhwc"}, "tflite/int8": {"weights": "dynamic"}}``).
    """

    samples: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    metric: str | None = None
    max_drop: float | None = None
    out: Path = Path("lepton-out")
    seed: int = 0
    threads: int | None = None
    limits: Limits = field(default_factory=Limits)
    latency_seconds: float = 0.4
    show_samples: bool = False
    force: bool = False
    compression: Mapping[str, Any] = field(default_factory=dict)
    conversion: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetVariants:
    """All variants that were tried for one target, in the order asked for."""

    target: str
    variants: tuple[Variant, ...]

    @property
    def kept(self) -> tuple[Variant, ...]:
        """The variants that are part of the result."""
        return tuple(v for v in self.variants if v.kept)

    @property
    def best(self) -> Variant:
        """The kept variant to ship: passed before weak, then the fastest here.

        Raises:
            VerbError: None was kept; says why for each.
        """
        if not self.kept:
            from lepton_core.errors import ConversionError

            reasons = "\n".join(f"    {v.precision}: {v.why}" for v in self.variants)
            raise ConversionError(
                "LPT-PORT-001",
                f"No variant for {self.target} was kept",
                cause=reasons,
                remedy="Loosen --max-drop, or ask for another precision.",
            )
        return min(self.kept, key=lambda v: (v.verdict != "pass", _p50(v)))


def _p50(variant: Variant) -> float:
    latency = variant.passport["latency"]["variant"] if variant.passport else None
    return float(latency["p50_ms"]) if latency else float("inf")


@dataclass(frozen=True, slots=True)
class PortResult:
    """What a port run produced; ``result["tflite"].best`` is the variant to ship.

    Attributes:
        source: Facts about the source (JSON types).
        variants: Every requested combination, kept or not.
        out: Directory that holds the artifacts, passports, ``report.html``, ``result.json``.
    """

    source: Mapping[str, Any]
    variants: tuple[Variant, ...]
    out: Path

    def __repr__(self) -> str:
        """Return the variants with their verdicts; the rest is in the fields."""
        variants = ", ".join(
            f"{v.target} {v.precision}: {v.verdict}, {'kept' if v.kept else 'not kept'}"
            for v in self.variants
        )
        return f"PortResult(ok={self.ok}, out={str(self.out)!r}, variants=[{variants}])"

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / "report.html"

    @property
    def targets(self) -> tuple[str, ...]:
        """Requested targets, in order."""
        return tuple(dict.fromkeys(v.target for v in self.variants))

    def __getitem__(self, target: str) -> TargetVariants:
        if target not in self.targets:
            raise KeyError(target)
        return TargetVariants(target, tuple(v for v in self.variants if v.target == target))

    def __iter__(self) -> Iterator[TargetVariants]:
        return (self[target] for target in self.targets)

    def _has(self, verdict: str) -> bool:
        return all(any(v.kept and v.verdict == verdict for v in one.variants) for one in self)

    @property
    def ok(self) -> bool:
        """Whether every target has a kept variant with verdict pass."""
        return bool(self.variants) and self._has("pass")

    def exit_code(self, *, strict: bool = False, allow_weak: bool = False) -> int:
        """Return 0 (proved), 1 (a target has nothing, or strict), or 3 (only weak).

        Args:
            strict: Any requested variant that was not kept counts as a failure.
            allow_weak: Accept weak verdicts.
        """
        if strict and not all(v.kept for v in self.variants):
            return EXIT_NONE_KEPT
        if not all(one.kept for one in self) or not self.variants:
            return EXIT_NONE_KEPT
        if self.ok or allow_weak:
            return EXIT_OK
        return EXIT_ONLY_WEAK

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of the contract (schema 1)."""
        return {
            "schema": SCHEMA,
            "source": dict(self.source),
            "variants": [_summary(v) for v in self.variants],
            "ok": self.ok,
            "out": str(self.out),
            "report": str(self.report),
        }


def _summary(variant: Variant) -> dict[str, Any]:
    facts = _NOTHING_MEASURED
    if variant.passport is not None:
        from lepton_core.passport import variant_summary

        facts = variant_summary(variant.passport)
    return {
        "target": variant.target,
        "precision": variant.precision,
        "path": variant.model.path if variant.model else None,
        "size_bytes": facts["size_bytes"],
        "latency_ms": facts["latency_ms"] or {"p50": None, "p95": None},
        "metrics": facts["metrics"]
        or {"name": None, "source": None, "variant": None, "drop": None},
        "errors": facts["errors"],
        "gain": facts["gain"],
        "verdict": variant.verdict,
        "proof": facts["proof"],
        "kept": variant.kept,
        "why": variant.why,
        "warnings": facts["warnings"],
        "passport": variant.passport.path if variant.passport is not None else None,
    }


_NOTHING_MEASURED: Mapping[str, Any] = {
    "size_bytes": None,
    "latency_ms": None,
    "metrics": None,
    "gain": None,
    "proof": None,
    "warnings": [],
    "errors": {"max_abs": None, "rel_l2": None, "sqnr_db": None, "cosine": None},
}


def port(
    source: str | Path | Model,
    *,
    targets: Sequence[str],
    samples: str | Path | None = None,
    precisions: Sequence[str] = ("fp32",),
    metric: str | None = None,
    max_drop: float | None = None,
    out: str | Path = "lepton-out",
    seed: int = 0,
    threads: int | None = None,
    limits: Limits | None = None,
    latency_seconds: float = 0.4,
    show_samples: bool = False,
    force: bool = False,
    compression: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    reporter: Reporter | None = None,
    hooks: Hooks | None = None,
) -> PortResult:
    """Build, prove and keep a variant of *source* for every target and precision.

    Each variant is compared with the *source* on held-out samples and gets a passport; a
    compressed variant is kept only if it is smaller or faster than the target's fp32 one.

    Args:
        source: ``model.onnx``, ``file.py:factory``, ``model.pt2``, a Hugging Face directory or
            cached name, what ``lepton adapt`` wrote, or a model.
        targets: Target strings (``"onnxruntime"``, ``"tflite:android-arm64"``).
        samples: See :class:`PortOptions`; so are the other arguments.
        precisions: Precisions to build.
        metric: Name of the metric.
        max_drop: Largest accepted loss in the metric's own unit.
        out: Directory of the result.
        seed: Seed.
        threads: Intra-op threads.
        limits: Bounds of each worker's job.
        latency_seconds: Time per timing round.
        show_samples: Store pictures of the worst samples.
        force: Replace foreign content of ``out``.
        compression: Options of the compression engine.
        options: Options of conversions, by target; ``conversion`` of :class:`PortOptions`.
        reporter: Where progress goes; nowhere by default.
        hooks: Hooks to call; the process's own by default.

    Returns:
        Every requested combination with its verdict, kept or not.

    Raises:
        UsageError: A target, precision or metric is not known, no precision that is asked for
            heeds an option of the compression engine, or options of conversions are for something
            that is not asked for (``LPT-USE-015``) or not known on the way there (``016``).
        SourceError: The source cannot be found or read.
        SampleError: The samples do not fit it.
        PluginError: A target's plugin is not installed or cannot be used.
        ConversionError: The source cannot be brought to the pivot at all.
        StorageError: The result cannot be written; nothing is left behind.
    """
    from lepton_core._port_job import PortJob
    from lepton_core.context import SilentReporter
    from lepton_core.hooks import default

    asked = PortOptions(
        samples=None if samples is None else str(samples),
        precisions=tuple(dict.fromkeys(precisions)),
        metric=metric,
        max_drop=max_drop,
        out=Path(out),
        seed=seed,
        threads=threads,
        limits=limits or Limits(),
        latency_seconds=latency_seconds,
        show_samples=show_samples,
        force=force,
        compression=dict(compression or {}),
        conversion={target: dict(own) for target, own in (options or {}).items()},
    )
    job = PortJob(hooks or default(), reporter or SilentReporter(), asked)
    named = source if isinstance(source, Model) else str(source)
    return job.run(named, tuple(dict.fromkeys(targets)))


__all__ = ["PortOptions", "PortResult", "TargetVariants", "port"]
