"""The forms that a search can store a weight in, and what they are called.

A form is a way to compute (float, integer inputs, integer weights alone, a palette), and may be
pruned besides: ``int8-sparse50`` is static int8 of which half of the weight is 0, ``palette4`` a
float weight that shares 16 values, ``sparse2:4`` a float weight of which 2 of 4 inputs stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lepton_compress._options import Options
    from lepton_core.capabilities import TargetInfo

FLOAT, INT8, WEIGHT8, WEIGHT4 = "fp32", "int8", "int8-weight", "int4"
PALETTE = "palette"
WHOLE = (FLOAT, INT8, WEIGHT8, WEIGHT4)
"""Float; int8 inputs and weights; weights alone in 8 bits; in 4 bits by block."""

BLOCK_BITS = {WEIGHT8: 8, WEIGHT4: 4}
_STORED = {FLOAT: 32.0, INT8: 8.0, WEIGHT8: 9.0, WEIGHT4: 5.0}


@dataclass(frozen=True, slots=True)
class Level:
    """How much of a weight becomes 0.

    Attributes:
        share: Share of its values; 0 where a pattern says it.
        pattern: ``(n, m)``: of ``m`` consecutive inputs ``n`` stay.
    """

    share: float = 0.0
    pattern: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Return ``"50"`` or ``"2:4"``."""
        if self.pattern is not None:
            return "{}:{}".format(*self.pattern)
        return f"{100 * self.share:g}"

    @property
    def left(self) -> float:
        """Share of the values that stays."""
        return 1 - self.share if self.pattern is None else self.pattern[0] / self.pattern[1]

    def options(self, options: Options) -> Options:
        """Return options that prune so much."""
        scope = options.scope if self.pattern is None else ""
        return replace(options, sparsity=self.share, pattern=self.pattern, scope=scope)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to store a weight.

    Attributes:
        base: One of :data:`WHOLE`, or :data:`PALETTE`.
        bits: Of the indices of a palette; 0 for others.
        level: How much is pruned; ``None`` for nothing.
    """

    base: str
    bits: int = 0
    level: Level | None = None

    @property
    def name(self) -> str:
        """What it is called in results."""
        name = f"{PALETTE}{self.bits}" if self.base == PALETTE else self.base
        if self.level is None:
            return name
        return f"sparse{self.level}" if name == FLOAT else f"{name}-sparse{self.level}"

    @property
    def whole(self) -> Form:
        """The same without pruning."""
        return replace(self, level=None)

    @property
    def stored_bits(self) -> float:
        """Bits that a value takes, about; masks and scales included."""
        bits = float(self.bits) if self.base == PALETTE else _STORED[self.base]
        return bits if self.level is None else min(bits, 1 + bits * self.level.left)

    @property
    def why_float(self) -> str:
        """Why an operator with such a weight computes in float; empty if it does not."""
        if self.base == PALETTE:
            return f"its weight shares {2**self.bits} values"
        pruned = self.level is not None and self.base == FLOAT
        return "its weight is pruned and stays float" if pruned else ""


def forms_of(options: Options) -> dict[str, Form]:
    """Return the forms that a search may choose between, float first, by name."""
    palettes = [Form(PALETTE, bits) for bits in sorted(options.palettes, reverse=True)]
    plain = [Form(base) for base in WHOLE] + palettes
    levels = [Level(share) for share in options.sparsities]
    levels += [Level(0.0, pattern) for pattern in options.patterns]
    pruned = [replace(form, level=level) for level in levels for form in plain]
    return {form.name: form for form in (*plain, *pruned)}


def offered_by(info: TargetInfo, forms: Mapping[str, Form]) -> tuple[dict[str, Form], list[str]]:
    """Return the forms that a target declares to lower, and what is left out, for people."""
    left, said = dict(forms), []
    for scheme in ("sparse", PALETTE):
        if info.capability(f"scheme.{scheme}").support:
            continue
        lacking = [n for n, f in left.items() if (f.level if scheme == "sparse" else f.bits)]
        if lacking:
            said.append(
                f"{', '.join(lacking)} are left out: {info.title} lowers no recipes of the scheme "
                f"{scheme}"
            )
        left = {name: form for name, form in left.items() if name not in lacking}
    return left, said


def next_better(form: Form, forms: Iterable[Form]) -> Form:
    """Return the form to take where a weight does not have *form*: a more exact one of its kind."""
    if form.level is not None:
        return form.whole
    if form.base == PALETTE:
        larger = [f for f in forms if f.base == PALETTE and f.level is None and f.bits > form.bits]
        return min(larger, key=lambda f: f.bits, default=Form(FLOAT))
    return Form(WHOLE[max(WHOLE.index(form.base) - 1, 0)])


__all__ = [
    "BLOCK_BITS", "FLOAT", "INT8", "PALETTE", "WEIGHT4", "WEIGHT8", "WHOLE", "Form", "Level",
    "forms_of", "next_better", "offered_by",
]  # fmt: skip
