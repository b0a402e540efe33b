"""How much each weight costs at the output, at each precision, by trying it.

Two interventions are measured for each unit and precision: *only* it is quantized and the rest
stays float, and *back*: everything is quantized but it. The first says what it costs by itself, the
second what putting it back would give, errors of the others included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._plan import leave_out_refused
from lepton_compress._search_measure import Meter, Point, cache_for
from lepton_compress._search_solve import Cost, Costs
from lepton_compress._search_space import FLOAT, Space
from lepton_compress._steps import steps_of_choices
from lepton_core.errors import LeptonError, SampleError, UnsupportedOperationError
from lepton_core.remaining import expect
from lepton_core.samples import split
from lepton_core.types import OptimizeResult

if TYPE_CHECKING:
    from lepton_compress._job import Job
    from lepton_core.samples import Samples

ROWS = 128
"""Rows that sensitivities are measured on, unless the option ``rows`` says otherwise."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one precision does to one unit.

    Attributes:
        unit: Name of the unit.
        precision: The precision.
        only: The model with this unit quantized and all others float.
        back: The model with all units at this precision, or the next better one that they have,
            and this one float; ``None`` if it was not measured.
        saved: Bytes that it saves against float.
    """

    unit: str
    precision: str
    only: Point
    back: Point | None
    saved: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "unit": self.unit,
            "precision": self.precision,
            "saved_bytes": self.saved,
            "only": _brief(self.only),
            "back": None if self.back is None else _brief(self.back),
        }


def _brief(point: Point) -> dict[str, Any]:
    data = point.to_dict()
    names = ("error", "sqnr_db", "kl", "drop", "worst_slice", "slice_drop", "size")
    return {name: data[name] for name in names}


def whole(space: Space, precision: str) -> dict[str, str]:
    """Return the choice of a precision for every unit, or of the next better one that it has."""
    form = space.forms[precision]
    return {name: space.has(unit, form).name for name, unit in space.units.items()}


def measure_all(
    space: Space, meter: Meter, *, back: bool
) -> tuple[Point, dict[str, Point], list[Sensitivity]]:
    """Measure every unit at every precision.

    Returns:
        The float model; the whole model by precision (empty without *back*); every sensitivity,
        in the order of the graph.

    Raises:
        UnsupportedOperationError: The target holds none of the precisions.
    """
    _leave_out_refused(space, meter)
    pairs = [(u.name, c) for u in space.units.values() for c in u.choices if c != FLOAT]
    used = [c for c in space.forms if c != FLOAT and any(c == choice for _, choice in pairs)]
    wholes = {choice: whole(space, choice) for choice in used} if back else {}
    jobs: list[dict[str, str]] = [{}, *wholes.values(), *({u: c} for u, c in pairs)]
    if back:
        jobs += [{**wholes[c], u: FLOAT} for u, c in pairs]
    steps = steps_of_choices(space, len(meter.samples), len(jobs), searched=not back)
    expect(space.job.context.reporter, steps)
    points = meter.of_all(jobs, f"sensitivity of {len(space.units)} weights")
    plain = points[0]
    start = 1 + len(wholes)
    only = points[start : start + len(pairs)]
    behind = points[start + len(pairs) :] if back else [None] * len(pairs)
    found = [
        Sensitivity(unit, choice, one, two, plain.size - one.size)
        for (unit, choice), one, two in zip(pairs, only, behind, strict=True)
    ]
    return plain, dict(zip(wholes, points[1:start], strict=True)), found


def _leave_out_refused(space: Space, meter: Meter) -> None:
    """Ask for each operator, then try each form of weights once.

    What is measured here is not measured again. What is pruned has to take fewer bytes than the
    same weight whole: not every target stores it so in every form.
    """
    leave_out_refused(space)
    problem: LeptonError | None = None
    no_smaller: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for form, every in space.alike():
        names = [n for n in every if n in space.units and form.name in space.units[n].choices]
        if not names:
            continue
        try:
            point = meter.of({names[0]: form.name})
        except UnsupportedOperationError as error:
            problem = error
            space.leave_out(form.name, names, error.cause or str(error))
            continue
        if form.level is not None and point.size >= meter.of({names[0]: form.whole.name}).size:
            space.take(form.name, names)
            no_smaller.setdefault((form.whole.name, tuple(names)), []).append(form.name)
    for (whole_form, group), left_out in no_smaller.items():
        cause = f"files of the target hold them in no fewer bytes than {whole_form}"
        space.note_left_out(", ".join(left_out), group, cause)
    space.require_units(problem)


def costs_of(space: Space, plain: Point, found: list[Sensitivity]) -> Costs:
    """Return what a search adds up: bytes saved and power of the error, from *only*."""
    costs: Costs = {name: {FLOAT: Cost(0.0, 0.0)} for name in space.units}
    for one in found:
        power = max(0.0, one.only.error**2 - plain.error**2)
        costs[one.unit][one.precision] = Cost(float(one.only.size - plain.size), power)
    return costs


def slices_of(samples: Samples, given: str | None, total: int) -> np.ndarray[Any, Any] | None:
    """Return the name of each row's slice: those given, or one for each class of the labels.

    Args:
        samples: Rows, with their numbers in the user's file.
        given: Path of an .npy file with one name or number for each row of the user's file.
        total: Rows of that file.

    Raises:
        SampleError: ``LPT-OPT-033``, the file cannot be read or has another number of rows.
    """
    if given is None:
        labels = samples.labels
        if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iub":
            return None
        return np.asarray([f"class {label}" for label in labels])
    try:
        names = np.load(given, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _bad_slices(given, f"{type(error).__name__}: {error}") from error
    if not isinstance(names, np.ndarray) or names.shape != (total,):
        shape = getattr(names, "shape", "several arrays")
        raise _bad_slices(given, f"it has the shape {shape}; there are {total} rows")
    return np.asarray([str(name) for name in names[samples.original_rows]])


def _bad_slices(given: str, cause: str) -> SampleError:
    return SampleError(
        "LPT-OPT-033",
        f"The slices in {given} cannot be used",
        cause=cause,
        remedy="Give an .npy file with one number or text for each row of the samples.",
    )


def analyse(job: Job, samples: Samples) -> OptimizeResult:
    """Measure sensitivities and report them; nothing is compressed.

    A third of the rows calibrates, the others are measured on.
    """
    calibration, rest = split(samples, seed=job.context.seed)
    space = Space(job, calibration or rest)
    space.prepare()
    slices = slices_of(rest, job.options.slices, len(samples))
    cache = cache_for(job, [space.calibration])
    meter = Meter(job, space, rest, cache, slices).on_rows(job.options.rows or ROWS)
    plain, wholes, found = measure_all(space, meter, back=True)
    facts = {
        "verdict": "unmeasured",
        "sensitivity": facts_of(space, meter, plain, wholes, found),
        "measured": meter.measured,
        "from_cache": cache.hits,
        "calibrated_on": len(space.calibration),
        "measured_on": len(meter.samples),
    }
    worst = max(found, key=lambda one: one.only.error)
    why = (
        f"{worst.unit} costs most: alone at {worst.precision} it makes a relative error of "
        f"{worst.only.error:.3g}"
    )
    return OptimizeResult(job.base, None, why, facts, (*space.refused, *meter.warnings))


def facts_of(
    space: Space, meter: Meter, plain: Point, wholes: dict[str, Point], found: list[Sensitivity]
) -> dict[str, Any]:
    """Return sensitivities as JSON types."""
    return {
        "metric": meter.metric.metric.name,
        "units": [
            {"name": u.name, "op": u.op, "values": u.values, "choices": list(u.choices)}
            for u in space.units.values()
        ],
        "float": _brief(plain),
        "whole": {choice: _brief(point) for choice, point in wholes.items()},
        "table": [one.to_dict() for one in found],
    }


__all__ = [
    "ROWS", "Sensitivity", "analyse", "costs_of", "facts_of", "measure_all", "slices_of", "whole",
]  # fmt: skip
