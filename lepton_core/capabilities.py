"""What a plugin says about itself, as static data.

A plugin's ``info.py`` holds one :class:`TargetInfo` or :class:`ExtensionInfo` under the name
``INFO`` and imports nothing but this module, so that matrices, plans and pre-flight checks are
made without importing a backend.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from lepton_core._version import SPEC_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping


class Support(Enum):
    """How far a capability is there; what is not declared is ``UNKNOWN``."""

    UNKNOWN = "unknown"
    UNSUPPORTED = "unsupported"
    """Not possible with the underlying runtime."""
    NOT_IMPLEMENTED = "not-implemented"
    """Possible with the runtime, not yet done by the plugin."""
    VERSIONED = "versioned"
    """Done from a certain version of the runtime on."""
    FULL = "full"

    def __bool__(self) -> bool:
        return self in (Support.VERSIONED, Support.FULL)


@dataclass(frozen=True, slots=True)
class Capability:
    """One declared capability.

    Attributes:
        support: How far it is there.
        versions: With ``VERSIONED``: a PEP 440 specifier of the backend (``">=1.18"``).
        note: A short remark that tables and errors show.
    """

    support: Support
    versions: str | None = None
    note: str = ""


UNDECLARED = Capability(Support.UNKNOWN, note="not declared by the plugin")
FULL = Capability(Support.FULL)
INNER = "session.inner"
"""Capability of a target whose sessions show inner values (:class:`.context.InnerSession`)."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A conversion that a plugin owns: one format in, one format out.

    Attributes:
        source: Format id that goes in (``"pivot"``).
        result: Format id that comes out (``"onnxruntime"``).
        precisions: Precisions it can produce.
        cost: Relative cost; the planner takes the cheapest path.
        isolated: Whether it runs in the plugin's worker process, one at a time.
        options: Options that it takes. ``port`` gives it no others. In ``convert`` the last step
            of a path also gets those that no step names, and refuses what it does not know.
        input_options: Those of them that speak of the inputs of the whole model; where a part of a
            model is converted alone, they are left out.
    """

    source: str
    result: str
    precisions: tuple[str, ...] = ("fp32",)
    cost: int = 1
    isolated: bool = True
    options: tuple[str, ...] = ()
    input_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """A kind of source that a plugin can read, recognised without opening it.

    Attributes:
        id: Format id of the resulting model (``"onnx"``, ``"torch.factory"``).
        title: What people call it.
        suffixes: File suffixes that mean this format, lower case with the dot.
        entry_suffixes: Suffixes of a file written as ``file.py:name``.
        directory_files: A directory that holds one of these files is of this format.
        names: Whether a bare name that is no path may be of this format (a hub's cached name).
        example: What a user would type.
    """

    id: str
    title: str
    suffixes: tuple[str, ...] = ()
    entry_suffixes: tuple[str, ...] = ()
    directory_files: tuple[str, ...] = ()
    names: bool = False
    example: str = ""


@dataclass(frozen=True, slots=True)
class Opens:
    """A format that a plugin can open as a session.

    Attributes:
        format: Format id.
        reference_rank: Lower is preferred when the *source* itself must be run to compare
            against; ``None`` means never for that.
        suffixes: Suffixes of artifacts of this format, lower case with the dot, by which one
            that has lost its card is known.
    """

    format: str
    reference_rank: int | None = None
    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backend:
    """A package that a plugin needs at run time.

    Attributes:
        module: Import name (``"onnxruntime"``).
        distributions: Distributions that provide it, any one is enough.
        specifier: PEP 440 specifier of versions that work.
        pip: What to install when it is missing (``"lepton-onnxruntime[cpu]"``).
        fallbacks: Packages under other import names that do where this one is missing.
    """

    module: str
    distributions: tuple[str, ...]
    specifier: str = ""
    pip: str = ""
    fallbacks: tuple[Backend, ...] = ()


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A change to a model's graph that ``adapt`` can make, declared by the plugin that brings it.

    A rewrite is done where a target needs it: where the target forbids an operator that it
    removes, wants static shapes, or names it; one that is ``standard`` is done for every target.

    Attributes:
        name: What users write after ``--rewrite`` (``"fold-batch-norm"``).
        summary: One line: what it does.
        formats: Format ids of the models it works on; their owner runs it.
        implementation: ``"package.module:function"``; the owner of the format says what it is
            called with, and imports it only to run it.
        removes: Operators that are gone afterwards (``"aten.hardswish"``, any overload).
        fixes_shapes: Whether it gives symbolic dimensions their sizes.
        standard: Whether it is done for every target, needed or not.
        tolerance: Largest relative L2 difference of an output that it may cause in float32; 0
            means that every bit stays. A run that measures more is refused.
        needs: What must hold for it to be possible, in words.
    """

    name: str
    summary: str
    formats: tuple[str, ...]
    implementation: str = ""
    removes: tuple[str, ...] = ()
    fixes_shapes: bool = False
    standard: bool = False
    tolerance: float = 0.0
    needs: str = ""

    @property
    def numbers(self) -> str:
        """What it does to numbers: ``"exact"``, or how far they may move."""
        return f"within {self.tolerance:g}" if self.tolerance else "exact"


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What every plugin declares.

    Attributes:
        id: The entry point's name.
        title: Display name.
        distribution: The pip distribution that ships it.
        summary: One line.
        spec_version: Major version of the hook contract it was written for.
        sources: Kinds of source it reads.
        edges: Conversions it owns.
        opens: Formats it can run.
        capabilities: Verb or feature name to :class:`Capability`; undeclared is unknown.
            Verbs: ``adapt convert optimize deploy adjust migrate open``. Features use dotted
            names, such as ``precision.fp16``, ``shapes.dynamic-batch``, ``scheme.int8-static``.
        backends: Packages it needs at run time.
        isolated: Verbs (besides the edges' own flag) that run in the plugin's worker process.
        rewrites: Changes to models' graphs that it brings, also for formats of other plugins.
    """

    id: str
    title: str
    distribution: str
    summary: str = ""
    spec_version: int = SPEC_VERSION
    sources: tuple[SourceFormat, ...] = ()
    edges: tuple[Edge, ...] = ()
    opens: tuple[Opens, ...] = ()
    capabilities: Mapping[str, Capability] = field(default_factory=dict)
    backends: tuple[Backend, ...] = ()
    isolated: tuple[str, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()

    def capability(self, name: str) -> Capability:
        """Return the declared capability *name*, or one that says "unknown"."""
        return self.capabilities.get(name, UNDECLARED)

    def opens_format(self, format_id: str) -> Opens | None:
        """Return the :class:`Opens` entry of *format_id*, if the plugin can run it."""
        return next((o for o in self.opens if o.format == format_id), None)


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a target asks of a model; ``adapt`` rewrites towards it.

    Attributes:
        static_shapes: Every dimension must be a number.
        max_rank: Highest tensor rank, if limited.
        opsets: Lowest and highest ONNX opset it reads, if it reads ONNX.
        domains: ONNX operator domains it knows.
        forbidden_ops: Operators that it cannot run: ONNX's as ``"Domain::Op"`` or ``"Op"``,
            torch's as ``"aten.name"`` (every overload) or ``"aten.name.overload"``.
        rewrites: Names of rewrites that it wants even where no operator is forbidden.
        channel_multiple: Its kernels are quick with widths that are multiples of this; pruning
            rounds to them.
    """

    static_shapes: bool = False
    max_rank: int | None = None
    opsets: tuple[int, int] | None = None
    domains: tuple[str, ...] = ("", "ai.onnx")
    forbidden_ops: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    channel_multiple: int = 8


BY_RECIPE = ("int8", "int16", "int8-weight", "int4", "mixed", "sparse", "palette")
"""Precisions that a target reaches by lowering a recipe."""

PRECISIONS = (
    "fp32", "fp16", "bf16", "int16", "int8", "int8-weight", "int4", "mixed", "sparse", "palette",
    "auto",
)  # fmt: skip
"""Precisions that ``port`` can be asked for; ``auto`` is chosen by the engine."""


def scheme_of(precision: str) -> str:
    """Return the capability that lowering a recipe of a precision needs (``"scheme.int8-static"``).

    ``int8-weight`` and ``int4`` store weights alone as integers; ``int16`` has activations of 16
    bits and weights of 8; ``mixed`` has several of these in one recipe. Weights that are ``sparse``
    are float with zeros, those of a ``palette`` share a few values. What variants are called
    (``palette4``, ``int8-sparse``) leads to the same.
    """
    precision = precision.removesuffix("-sparse")
    if precision in ("mixed", "sparse"):
        return f"scheme.{precision}"
    if precision.startswith("palette"):
        return "scheme.palette"
    bits = precision.removesuffix("-weight")
    weights_alone = precision.endswith("-weight") or bits == "int4"
    if weights_alone:
        return f"scheme.{bits}-weight-only"
    return "scheme.int16-static" if precision == "int16" else "scheme.int8-static"


@dataclass(frozen=True, slots=True)
class TargetInfo(PluginInfo):
    """What a target (runtime + device + limits) declares beside :class:`PluginInfo`.

    Attributes:
        artifact: Format id of what is shipped to it; the end of its conversion path.
        precisions: Precisions in which variants can be built.
        devices: Device names accepted after the colon of a target string.
        platforms: Platforms on which artifacts run (``"linux"``, ``"android"``, …).
        constraints: What it asks of a model.
        narrow: ``"package.module:function"`` that finds the smallest part of a model which a
            conversion fails on (:mod:`lepton_core.narrowing`); empty for none. Targets that convert
            from the pivot name ``"lepton_onnx.narrow:narrow"``.
    """

    artifact: str = ""
    precisions: tuple[str, ...] = ("fp32",)
    devices: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    constraints: Constraints = field(default_factory=Constraints)
    narrow: str = ""

    @property
    def offered(self) -> tuple[str, ...]:
        """All precisions that can be asked for: its own, and those that recipes lead to."""
        more = [p for p in BY_RECIPE if self.capability(f"precision.{p}").support]
        return tuple(dict.fromkeys((*self.precisions, *more)))


@dataclass(frozen=True, slots=True)
class ExtensionInfo(PluginInfo):
    """What an extension (engine, format library, wrapper, observer, policy) declares.

    Attributes:
        engine: Engine name for ``optimize``, ``deploy``, ``adjust`` or ``migrate``, if it is one.
        always: Whether it wraps or observes other plugins' steps and so must be loaded before
            the first of them.
    """

    engine: str = ""
    always: bool = False


__all__ = [
    "BY_RECIPE",
    "FULL",
    "INNER",
    "PRECISIONS",
    "UNDECLARED",
    "Backend",
    "Capability",
    "Constraints",
    "Edge",
    "ExtensionInfo",
    "Opens",
    "PluginInfo",
    "Rewrite",
    "SourceFormat",
    "Support",
    "TargetInfo",
    "scheme_of",
]
