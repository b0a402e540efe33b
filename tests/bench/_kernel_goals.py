"""The numbers that the kernels are to reach, held against a report of `kernels.py`.

Ratios are those of the best CPU times in the one run, which other work on the machine raises less
than medians; sizes other than the default ones judge the same ratios and the same limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Cases = dict[str, Any]


class MissingError(KeyError):
    """A case or a peer that was not measured."""


@dataclass(frozen=True)
class Goal:
    """One line of the judgement: a number, and the limit that it is to keep."""

    text: str
    measured: float
    limit: float
    at_most: bool

    @property
    def met(self) -> bool:
        """Whether the limit is kept."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


def row(cases: Cases, case: str, peer: str) -> dict[str, Any]:
    """What was measured of a peer."""
    try:
        return dict(cases[case]["peers"][peer])
    except KeyError as error:
        raise MissingError(f"{case}: {peer}") from error


def cpu(cases: Cases, case: str, peer: str) -> float:
    """Its best CPU seconds."""
    return float(row(cases, case, peer)["cpu_s"]["best"])


def wall(cases: Cases, case: str, peer: str) -> float:
    """Its best wall seconds."""
    return float(row(cases, case, peer)["wall_s"]["best"])


def times_faster(
    case: str, peer: str, least: float, own: str = "lepton", *, note: str = ""
) -> tuple[Any, ...]:
    """A goal: the best CPU time of a peer over ours."""

    def ratio(cases: Cases) -> float:
        return cpu(cases, case, peer) / cpu(cases, case, own)

    return (f"{case}{note}: times faster than {peer}", ratio, least, False)


def at_most(text: str, number: Any, limit: float) -> tuple[Any, ...]:
    """A goal: a number that may not be exceeded."""
    return (text, number, limit, True)


def seconds(case: str, peer: str, limit: float) -> tuple[Any, ...]:
    """A goal: CPU seconds of ours."""
    return at_most(f"{case}: CPU seconds of {peer}", lambda c: cpu(c, case, peer), limit)


def no_worse(case: str, peer: str, other: str, tolerance: float = 1.0) -> tuple[Any, ...]:
    """A goal: our error over that of a peer."""

    def ratio(cases: Cases) -> float:
        return float(row(cases, case, peer)["error"]) / float(row(cases, case, other)["error"])

    return at_most(f"{case}: error of {peer} over that of {other}", ratio, tolerance)


def memory_speed(case: str, own: str, probe: str) -> tuple[Any, ...]:
    """A goal: our CPU time over that of reading and writing as much."""

    def ratio(cases: Cases) -> float:
        return cpu(cases, case, own) / cpu(cases, case, probe)

    return at_most(f"{case}: CPU time over that of the bare memory traffic", ratio, 1.3)


def _unlike(cases: Cases) -> float:
    names = ("lepton", "lepton, 2 threads", "lepton, two calls")
    rows = [row(cases, "int8_symmetric", name) for name in names]
    return float(sum(found["values_unlike_definition"] for found in rows))


def _two_threads(cases: Cases) -> float:
    one = wall(cases, "int8_symmetric", "lepton")
    return one / wall(cases, "int8_symmetric", "lepton, 2 threads")


def _two_over_bare(cases: Cases) -> float:
    bare = wall(cases, "int8_symmetric", "probe, 2 threads")
    return wall(cases, "int8_symmetric", "lepton, 2 threads") / bare


INT8, INT4, CLIP, PALETTE = "int8_symmetric", "int4_blocks", "clip_search", "palette"
FLOAT = "lepton, asymmetric, float zero points"
# The form that recipes use. The other one computes what nncf does, up to rounding.
GPTQ = "lepton, MSE scales, activation order"

# The numbers that the project set out to reach.
AGREED: list[tuple[Any, ...]] = [
    memory_speed(INT8, "lepton", "probe: read once, fill fresh int8"),
    times_faster(INT8, "torch", 10),
    times_faster(INT8, "onnxruntime's tool", 10),
    times_faster(INT8, "ai-edge-quantizer", 10),
    times_faster(INT8, "numpy in row blocks", 1.5),
    (f"{INT8}: wall time of one thread over that of two", _two_threads, 1.6, False),
    at_most(f"{INT8}: integers unlike the definition", _unlike, 0),
    times_faster(INT4, "onnxruntime C++ kernel", 10),
    times_faster(INT4, "gguf Q4_0", 6),
    at_most(f"{INT4}: relative error", lambda c: float(row(c, INT4, "lepton")["error"]), 0.0914),
    seconds(CLIP, FLOAT, 0.3),
    no_worse(CLIP, FLOAT, "onnxruntime HQQ, a 16th of the rows"),
    times_faster("histogram", "numpy bincount in blocks", 4),
    times_faster("histogram", "onnxruntime's collector", 25),
    seconds("thresholds", "lepton, entropy, 128 levels", 0.003),
    times_faster(PALETTE, "coremltools fp16, 16 entries", 20, "lepton fp16, 16 entries"),
    times_faster(PALETTE, "coremltools fp16, 64 entries", 20, "lepton fp16, 64 entries"),
    no_worse(PALETTE, "lepton fp16, 16 entries", "coremltools fp16, 16 entries", 1.001),
    no_worse(PALETTE, "lepton fp16, 64 entries", "coremltools fp16, 64 entries", 1.001),
    times_faster("half_mask", "numpy partition", 5, "lepton (exact count)"),
    times_faster("mask_2_4", "numpy comparisons", 8),
    memory_speed("float16", "lepton (with counts)", "probe: read once, fill fresh 16 bits"),
    memory_speed("bfloat16", "lepton (with counts)", "probe: read once, fill fresh 16 bits"),
    memory_speed("float8", "lepton (with counts)", "probe: read once, fill fresh 8 bits"),
    times_faster("gptq", "nncf", 3, GPTQ, note=" (the form that recipes use)"),
    no_worse("gptq", GPTQ, "nncf"),
    seconds("many_tensors", "lepton", 0.12),
]

# What was added later, beside them.
OWN: list[tuple[Any, ...]] = [
    at_most(f"{INT8}: wall time over that of the bare traffic, 2 threads", _two_over_bare, 1.1),
    seconds(CLIP, "lepton, signed maximum", 0.3),
    seconds(CLIP, "lepton, asymmetric", 0.3),
    seconds(CLIP, "lepton, int8 by row, scales", 0.3),
    no_worse(CLIP, f"{FLOAT}, 128", "onnxruntime HQQ, blocks of 128, a 16th"),
    times_faster("gptq", "nncf", 3, note=" (scales by range, in order)"),
    no_worse("gptq", "lepton", "nncf", 1.0001),
    times_faster("block_mask", "numpy, threshold by partition", 1),
    times_faster("row_agreement", "numpy, float32, without top-10", 1),
]

GOALS = [("agreed", goal) for goal in AGREED] + [("own", goal) for goal in OWN]


def judge(cases: Cases) -> list[dict[str, Any]]:
    """Every goal with what was measured, and whether it is met.

    Args:
        cases: The cases of a report, by name.

    Returns:
        One entry for each goal; it is set by what was "agreed" at first or the project's "own", and
        the verdict is "met", "MISSED" or "not measured".
    """
    return list(_judge(cases))


def _judge(cases: Cases) -> Iterator[dict[str, Any]]:
    for set_by, (text, number, limit, is_most) in GOALS:
        sign = "<=" if is_most else ">="
        entry = {"goal": f"{text} {sign} {limit:g}", "set_by": set_by, "limit": limit}
        try:
            goal = Goal(text, number(cases), limit, is_most)
        except MissingError as missing:
            yield entry | {"verdict": "not measured", "measured": f"without {missing.args[0]}"}
            continue
        yield entry | {
            "verdict": "met" if goal.met else "MISSED",
            "measured": f"{goal.measured:.4g}",
        }
