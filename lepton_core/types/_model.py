"""What travels: models, their signatures and lineage, targets, variants."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_core.passport import Passport

Dim = int | str | None
"""A dimension: a number, a named symbol (``"batch"``), or unknown."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output.

    Attributes:
        name: Name that arrays are passed and returned under.
        dtype: NumPy dtype name (``"float32"``, ``"int64"``, ``"bool"``).
        shape: Dimensions; strings are symbols shared within the signature.
        layout: Axis letters if known (``"NCHW"``).
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    layout: str | None = None

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs and outputs of a model, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        left = ", ".join(map(str, self.inputs))
        return f"({left}) -> ({', '.join(map(str, self.outputs))})"


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One step of a model's history.

    Attributes:
        step: What was done (``"materialise"``, ``"convert torch.export -> pivot"``).
        owner: Distribution and version that did it (``"lepton-torch 0.1.0"``).
        parent: Digest of the model that went in, ``None`` for an original.
        request: The request as plain data.
        tools: Versions of the packages that did the work.
    """

    step: str
    owner: str
    parent: str | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """An immutable handle on one artifact.

    Attributes:
        format: Format id (``"onnx"``, ``"torch.factory"``, ``"torch.export"``, ``"pivot"``, a
            target's artifact format).
        path: Absolute path of the file or directory, or a name (hub cache).
        entry: What to call inside it (``"net"`` of ``digits.py:net``), if anything.
        signature: Named inputs and outputs; ``None`` until the model has been read.
        digest: ``"sha256:<hex>"`` over the artifact's bytes; ``""`` until it has been read.
        lineage: Steps that led here, oldest first.
        metadata: Preprocessing contract, labels, opset, and other facts (JSON types).
    """

    format: str
    path: str
    entry: str | None = None
    signature: Signature | None = None
    digest: str = ""
    lineage: tuple[LineageStep, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def evolve(self, **changes: Any) -> Model:  # noqa: ANN401 - mirrors dataclasses.replace
        """Return a copy with *changes*."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Target:
    """A target as users write it: ``openvino``, ``tflite:android-arm64``."""

    id: str
    device: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Split ``id[:device]``.

        Raises:
            UsageError: The text has no id.
        """
        name, _, device = text.strip().partition(":")
        if not name:
            from lepton_core.errors import UsageError

            raise UsageError(
                "LPT-USE-001",
                f"{text!r} is not a target",
                remedy="Write a target as NAME or NAME:DEVICE; `lepton targets` lists them.",
            )
        return cls(name, device or None)

    def __str__(self) -> str:
        return f"{self.id}:{self.device}" if self.device else self.id


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on a worker's job.

    Attributes:
        seconds: Wall-clock limit, ``None`` for none.
        memory_bytes: Resident memory of the worker and its children, ``None`` for none.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A model built for a target at a precision, with its proof.

    Attributes:
        target: Target string it was built for.
        precision: ``"fp32"``, ``"fp16"``, ….
        model: The artifact; ``None`` if it could not be built.
        passport: The passport, if there is one: plain data with ``verdict``, ``why``, ``proved``
            and ``path`` at hand.
        verdict: ``"pass"``, ``"weak"`` or ``"fail"``.
        kept: Whether it is part of the result.
        why: Why it is kept or not.
    """

    target: str
    precision: str
    model: Model | None
    passport: Passport | None = None
    verdict: str = "fail"
    kept: bool = False
    why: str = ""

    def __repr__(self) -> str:
        """Return what it is and how it was judged, without what was measured."""
        path = self.model.path if self.model else None
        return (
            f"Variant(target={self.target!r}, precision={self.precision!r}, "
            f"verdict={self.verdict!r}, kept={self.kept}, path={path!r})"
        )


__all__ = [
    "Dim",
    "Limits",
    "LineageStep",
    "Model",
    "Signature",
    "Target",
    "TensorSpec",
    "Variant",
]
