"""What makes up for the losses of integers: channels rescaled, biases corrected."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec resolves the annotations at run time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESCALINGS = ("equalize", "smooth", "balance")
"""Why channels were rescaled: equal ranges of weights on both sides (cross-layer equalization),
part of the spread of inputs moved into the weights that read them (SmoothQuant), or equal ranges
of the channels of an output."""

CORRECTIONS = ("analytic", "empirical")
"""How corrections of biases were found: from the rounding of weights and the means of inputs, or
from the means of outputs, one layer after the other."""

LARGEST_EXPONENT = 60


@dataclass(frozen=True, slots=True)
class Rescaled:
    """How the channels of one value were brought into one range; the function stays the same.

    The integers of the value stand for ``value * 2**-exponent``, channel by channel. Weights that
    yield it are divided by these factors and weights that read it are multiplied by them; where a
    side does not take part, the lowering multiplies the value itself. Powers of two keep every
    float exact.

    Attributes:
        by: One or more of :data:`RESCALINGS`, joined by ``+``, in the order applied.
        axis: Channel axis of the value.
        exponents: One integer per channel.
        divided: Axis by weight or bias that yields the value. Empty: the value is multiplied.
        multiplied: Axis by weight that reads it. Along an axis of ``k`` times as many entries,
            ``k`` consecutive ones share an exponent. Whatever else reads the value gets it as it
            was.
    """

    by: str
    axis: int
    exponents: tuple[int, ...]
    divided: Mapping[str, int] = field(default_factory=dict)
    multiplied: Mapping[str, int] = field(default_factory=dict)

    def problem(self) -> str:
        """Return what is wrong with the entry in itself, or nothing."""
        odd = [part for part in self.by.split("+") if part not in RESCALINGS]
        far = [e for e in self.exponents if abs(e) > LARGEST_EXPONENT]
        checks = (
            (bool(odd), f"by {odd[:1]} is none of {', '.join(RESCALINGS)}"),
            (self.axis < 0, f"axis is {self.axis}; axes count from 0"),
            (not self.exponents, "the list of exponents is empty"),
            (bool(far), f"exponent {far[:1]} is larger than {LARGEST_EXPONENT} in magnitude"),
            (not self.divided and not self.multiplied, "nothing is divided or multiplied"),
        )
        return next((problem for wrong, problem in checks if wrong), "")

    def shape_problem(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Return why weights of *shapes* cannot have this entry, or nothing."""
        for name, axis in (*self.divided.items(), *self.multiplied.items()):
            shape = shapes.get(name)
            if shape is None:
                return f"{name!r} is not a weight of the pivot"
            if not 0 <= axis < len(shape) or not shape[axis] or shape[axis] % len(self.exponents):
                return (
                    f"{name!r} has the shape {list(shape)}, and {len(self.exponents)} exponents do "
                    f"not fit its axis {axis}"
                )
        return ""


@dataclass(frozen=True, slots=True)
class Correction:
    """What is added to the bias of one layer, so that its mean output stays what it was.

    Attributes:
        by: One of :data:`CORRECTIONS`.
        bias: The bias, after rescaling.
        values: What is added, one float32 per entry.
    """

    by: str
    bias: str
    values: tuple[float, ...]

    def problem(self) -> str:
        """Return what is wrong with the entry in itself, or nothing."""
        import math

        checks = (
            (self.by not in CORRECTIONS, f"by {self.by!r} is none of {', '.join(CORRECTIONS)}"),
            (not all(map(math.isfinite, self.values)), "a value is not finite"),
        )
        return next((problem for wrong, problem in checks if wrong), "")

    def shape_problem(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Return why a bias of *shapes* cannot have this entry, or nothing."""
        shape = shapes.get(self.bias)
        if shape is None or tuple(shape) != (len(self.values),):
            found = "no weight" if shape is None else f"of the shape {list(shape)}"
            return f"{self.bias!r} is {found}, and there are {len(self.values)} values"
        return ""


__all__ = ["CORRECTIONS", "LARGEST_EXPONENT", "RESCALINGS", "Correction", "Rescaled"]
