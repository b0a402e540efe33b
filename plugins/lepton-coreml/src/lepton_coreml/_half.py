"""Float16 programs: which operations compute in float16, and compressed constants in it.

coremltools' own pass casts what a ``constexpr_*`` operator reads like any other input: it lifts
what becomes 0 to the smallest float16, and casts a weight while the program runs where only its
reader stays float32. Here such a constant is written whole, scales, tables and values rounded to
float16 once, half to even; or it stays float32 together with everything that reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

LARGEST = 65504.0
"""Largest finite float16."""
OFF = 2.0**-9
"""Largest relative error of a scale that is rounded to float16; it multiplies every integer."""

_CONSTEXPR = "constexpr_"
_MOVES = frozenset({"transpose", "reshape", "expand_dims", "squeeze", "slice_by_index"})
"""Operators that may stand between a weight and what reads it."""


def holds_scales(scales: NDArray[Any]) -> bool:
    """Tell whether float16 holds every scale to :data:`OFF`: below about 1.5e-5 it may not."""
    exact = np.abs(np.asarray(scales, np.float64))
    rounded = np.abs(np.asarray(scales).astype(np.float16).astype(np.float64))
    return bool(np.all(np.abs(rounded - exact) <= OFF * exact))


class HalfPrecision:
    """Answers coremltools' pass, which asks about every operation in order.

    A compressed constant is rewritten when it is asked about, so that the pass leaves it alone.

    Args:
        keep: MIL operators, and names of operations, that stay float32.

    Attributes:
        unseen: Names of *keep* that no operation had so far.
    """

    def __init__(self, keep: Collection[str]) -> None:
        self.unseen = set(keep)
        self._keep = frozenset(keep)
        self._full: set[str] = set()

    def __call__(self, op: Any) -> bool:  # noqa: ANN401 - coremltools has no types
        """Return whether the pass is to cast an operation's inputs to float16."""
        self.unseen.difference_update((op.op_type, op.name))
        if op.op_type.startswith(_CONSTEXPR):
            if not any(c.op_type.startswith(_CONSTEXPR) for c in _readers(op)):
                self._decide(op)
            return False
        return not self._stays(op)

    def _decide(self, last: Any) -> None:  # noqa: ANN401
        """Write the constant that *last* makes in float16, with what it is restored from."""
        parts = [last, *(v.op for v in _inputs(last) if _is_constexpr(v))]
        parts = list(dict.fromkeys(parts))
        if all(map(_fits, parts)) and not any(map(self._will_stay, _readers(last))):
            _rewrite(last)
        else:
            self._full.update(part.name for part in parts)

    def _will_stay(self, op: Any) -> bool:  # noqa: ANN401
        """Tell of an operation that the pass has not come to whether it stays float32."""
        from coremltools.converters.mil.mil.passes.defs.quantization import FP16ComputePrecision

        return bool(FP16ComputePrecision.fp16_overflow(op)) or self._stays(op)

    def _stays(self, op: Any) -> bool:  # noqa: ANN401
        if op.op_type in self._keep or op.name in self._keep:
            return True
        weights = [weight for v in _inputs(op) if (weight := _weight(v)) is not None]
        if any(w.name in self._full or not _fits(w) for w in weights):
            return True
        # What turns or cuts a weight goes with what reads it.
        return bool(weights) and op.op_type in _MOVES and any(map(self._will_stay, _readers(op)))


def _inputs(op: Any) -> Iterator[Any]:  # noqa: ANN401
    for value in op.inputs.values():
        yield from value if isinstance(value, list | tuple) else (value,)


def _readers(op: Any) -> list[Any]:  # noqa: ANN401
    return list(dict.fromkeys(child for out in op.outputs for child in out.child_ops))


def _is_constexpr(value: Any) -> bool:  # noqa: ANN401
    return value is not None and value.op is not None and value.op.op_type.startswith(_CONSTEXPR)


def _weight(value: Any) -> Any:  # noqa: ANN401
    """Return the compressed constant that a value is, or that it is moved from; else ``None``."""
    if value is None or value.op is None:
        return None
    if value.op.op_type in _MOVES:
        return _weight(value.op.x)
    return value.op if _is_constexpr(value) else None


def _floats(op: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the float32 constants that a compressed constant is restored from."""
    return {
        name: value.val
        for name, value in op.inputs.items()
        if value is not None and value.val is not None and value.is_tensor_or_scalar_of("fp32")
    }


def _fits(op: Any) -> bool:  # noqa: ANN401
    held = _floats(op)
    inside = all(np.all(np.abs(values) <= LARGEST) for values in held.values())
    return inside and ("scale" not in held or holds_scales(held["scale"]))


def _rewrite(last: Any) -> None:  # noqa: ANN401
    from coremltools.converters.mil.mil import Builder

    made: dict[Any, Any] = {}

    def halved(op: Any) -> Any:  # noqa: ANN401 - an output, or several
        given: dict[str, Any] = {n: v for n, v in op.inputs.items() if v is not None}
        for name, value in given.items():
            if _is_constexpr(value):
                before = value.op
                if before not in made:
                    made[before] = halved(before)
                given[name] = made[before][before.outputs.index(value)]
        given |= {name: np.asarray(v).astype(np.float16) for name, v in _floats(op).items()}
        built = getattr(Builder, op.op_type)(**given, name=f"{op.name}_half", before_op=last)
        return built if isinstance(built, list | tuple) else (built,)

    (result,) = halved(last)
    wide = Builder.cast(x=result, dtype="fp32", name=f"{last.name}_full", before_op=last)
    last.enclosing_block.replace_uses_of_var_after_op(
        anchor_op=last, old_var=last.outputs[0], new_var=wide, force_replace=True
    )
    last.enclosing_block.remove_ops([last])
    for before in made:  # what something else reads as well stays
        if not _readers(before):
            before.enclosing_block.remove_ops([before])


__all__ = ["LARGEST", "OFF", "HalfPrecision", "holds_scales"]
