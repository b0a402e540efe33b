"""What a recipe holds."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field
from typing import Any

from lepton_core.recipe._blocks import BlockWeight  # noqa: TC001 - as above
from lepton_core.recipe._recovery import Correction, Rescaled  # noqa: TC001 - as above
from lepton_core.recipe._sparse import PalettizedWeight, PrunedWeight  # noqa: TC001 - as above

SCHEMA = 4
"""Newest version of the file's layout. 2 has ``blocks``, 3 ``rescaled`` or ``corrections``, 4
``pruned`` or ``palettes``; a recipe without them is written as 1."""

RULES = 1
"""Version of the integer rules: how scales and integers follow from ranges and weights.

Rules 1: real = scale * (integer - zero point); integers are round-half-to-even of real / scale in
float32, saturated. Weights are int8 in -127..127, symmetric, per output channel, at
absmax / 127. Activations are int8 in -128..127, asymmetric, per tensor, over a range that holds
zero. Biases are int32 at input scale * weight scale. Concat, reshape, transpose, pooling and
resize have equal scales on both sides; means that are computed as products do not. Softmax and
logistic outputs have 1/256 and -128.
Activations of the scheme int16-static are int16, symmetric with zero point 0, at absmax / 32767;
softmax and logistic outputs have 1/32768, and biases stay float32.
"""

SCHEMES = (
    "int8-static", "int16-static", "int8-dynamic", "int8-weight-only", "int4-weight-only", "mixed",
    "sparse", "palette",
)  # fmt: skip
"""Ways to compress: integers with ranges known beforehand (activations of 8 or 16 bits, weights of
8), with ranges found at run time, as storage alone, or layers of several of these side by side;
float weights of which some are 0, or weights that share the values of a table."""

KINDS = ("activation", "weight")

MEAN = "/mean"
"""Ending of the weight of a mean that is computed as a product: a layer of the operator ``Conv``
named N, whose weight is ``N/mean``, stands for an AveragePool of the pivot. The pivot has no such
weight; each of its values is (1 - 2^-12) / k for windows of k values."""


@dataclass(frozen=True, slots=True)
class PivotId:
    """The pivot that a recipe belongs to.

    Attributes:
        digest: ``"sha256:<hex>"`` of the pivot.
        opset: Its opset.
    """

    digest: str
    opset: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """The samples that ranges were observed on.

    Attributes:
        samples: How many rows.
        digest: Their digest.
        estimator: Range estimator used where a tensor does not name its own.
        origin: Where they came from (``"npz"``).
        runtime: What ran the forward passes, with its version; empty if nothing was run.
    """

    samples: int
    digest: str
    estimator: str = "minmax"
    origin: str = ""
    runtime: str = ""


@dataclass(frozen=True, slots=True)
class Tensor:
    """How one value or weight of the pivot is stored.

    Attributes:
        kind: ``"activation"`` or ``"weight"``.
        scale: One scale, or one per channel along *axis*; used as float32.
        zero_point: Integer that stands for 0.0; always 0 for weights.
        dtype: ``"int8"``; ``"int16"`` for activations of the scheme int16-static.
        axis: Channel axis of per-channel scales; ``None`` for one scale.
        observed: Smallest and largest value seen in calibration; for a weight its own.
        estimator: How the range followed: ``"minmax"``, ``"percentile:99.99"``, ``"mse"``,
            ``"absmax"`` (weights), ``"fixed"`` (by rule, whatever was seen), ``"manual"``.
        rounding: How reals become integers; ``"half-even"``.
        same_as: Value whose scale and zero point this one shares by rule.
        optional: Only float operators read this value, so a runtime whose integer kernel can
            yield float here leaves it unquantized; one that cannot uses these numbers.
        integers: Name in the sidecar of integers that no rule reproduces; ``None`` for those that
            follow from the pivot's weight and the scale.
    """

    kind: str
    scale: float | tuple[float, ...]
    zero_point: int = 0
    dtype: str = "int8"
    axis: int | None = None
    observed: tuple[float, float] | None = None
    estimator: str = "minmax"
    rounding: str = "half-even"
    same_as: str | None = None
    optional: bool = False
    integers: str | None = None

    @property
    def scales(self) -> tuple[float, ...]:
        """The scales as a tuple, also where there is only one."""
        return self.scale if isinstance(self.scale, tuple) else (self.scale,)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator that computes with integers.

    Attributes:
        op: Operator type (``"Conv"``); that of the pivot, but for means (:data:`MEAN`).
        output: Value that carries the quantized result: the operator's own output, or that of
            what is fused behind it (a bias, an activation).
        inputs: Values that it reads as integers.
        weight: Weight that it reads as integers, if any.
        bias: Bias that becomes int32 at input scale * weight scale, if any.
        fused: Outputs of the operators between it and *output*, in order, *output* included.
        mode: ``"static"``, ``"dynamic"`` (inputs get their scale at run time) or ``"weight"``
            (the weight is stored as integers, the operator computes in float). A weight of
            :attr:`Recipe.blocks` is read in this mode only.
    """

    op: str
    output: str
    inputs: tuple[str, ...] = ()
    weight: str | None = None
    bias: str | None = None
    fused: tuple[str, ...] = ()
    mode: str = "static"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one pivot is compressed.

    Attributes:
        pivot: The pivot it belongs to.
        scheme: One of :data:`SCHEMES`.
        tensors: By value name of the pivot.
        layers: By name of the operator's first output in the pivot.
        blocks: Weights in few bits with a scale for each block, by name.
        rescaled: Values whose channels were brought into one range, by name, in the order of the
            graph.
        corrections: What is added to the bias of a layer, by the layer's name in ``layers``.
        pruned: Weights of which some values are 0, by name.
        palettes: Weights that are stored as places in a table of few values, by name.
        kept_float: Operators that stay float, by first output, with the reason.
        requires: What a machine needs for exact integers (``{"cpu": {"any": ["vnni", ...]}}``).
        calibration: What ranges were observed on; ``None`` where nothing was calibrated.
        sidecar: Digest of the sidecar; ``None`` if there is none. Written by
            :func:`~lepton_core.recipe.write`.
        rules: Version of the integer rules.
        schema: Version of the layout; written by what the recipe holds.
        written_by: Distribution and version that wrote it.
        notes: What a reader should know.
    """

    pivot: PivotId
    scheme: str
    tensors: Mapping[str, Tensor]
    layers: Mapping[str, Layer]
    kept_float: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    sidecar: str | None = None
    rules: int = RULES
    schema: int = 1
    written_by: str = ""
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, BlockWeight] = field(default_factory=dict)
    rescaled: Mapping[str, Rescaled] = field(default_factory=dict)
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    pruned: Mapping[str, PrunedWeight] = field(default_factory=dict)
    palettes: Mapping[str, PalettizedWeight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = 3 if self.rescaled or self.corrections else 2 if self.blocks else 1
        needed = 4 if self.pruned or self.palettes else needed
        if self.schema < needed:
            object.__setattr__(self, "schema", needed)

    @property
    def precision(self) -> str:
        """What a model lowered from it is called: ``"int8"``, ``"int8-weight"``, ``"palette4"``, ….

        Where weights are pruned, ``-sparse`` is added, as in ``"int8-sparse"``; pruned weights in
        float are ``"sparse"``.
        """
        name = self.scheme.partition("-")[0]
        if self.scheme == "int8-weight-only" and self.blocks:
            name = "int8-weight"
        elif self.scheme == "palette" and self.palettes:
            name += str(max(entry.bits for entry in self.palettes.values()))
        return f"{name}-sparse" if self.pruned and name != "sparse" else name

    @property
    def stored(self) -> list[dict[str, str]]:
        """Names in the sidecar with their dtypes, by entry, without those of ``tensors``.

        Masks, indices and tables have names of their own; blocks may share input scales.
        """
        found = [entry.stored for entry in self.pruned.values()]
        found += [entry.stored for entry in self.palettes.values()]
        return found + [entry.stored for entry in self.blocks.values()]

    @property
    def digest(self) -> str:
        """``"sha256:<hex>"`` of the recipe's text as :func:`~lepton_core.recipe.dumps` writes it.

        It does not cover the sidecar, whose digest stands in the text.
        """
        from lepton_core.files import digest_bytes
        from lepton_core.recipe._io import dumps

        return digest_bytes(dumps(self).encode())


__all__ = [
    "KINDS",
    "MEAN",
    "RULES",
    "SCHEMA",
    "SCHEMES",
    "Calibration",
    "Layer",
    "PivotId",
    "Recipe",
    "Tensor",
]
