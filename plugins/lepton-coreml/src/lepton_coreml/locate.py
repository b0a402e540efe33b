"""Where a package went wrong: compared with the one that the same pivot gives now.

A conversion gives the same bytes every time, so a package that was damaged or edited is measured
against one built anew: operation by operation, constant by constant, and value by value on inputs.
The command for it is ``lepton bisect``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._interpreter import Interpreter, OperatorError
from lepton_coreml._mil._package import open_package
from lepton_coreml._mil._program import Constant, Name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lepton_coreml._mil._program import Operation, Program

    Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two packages of one pivot.

    Attributes:
        operations: Operations that are missing, new, or connected otherwise, in words.
        constants: Names of constants with other values, with the number of elements that differ.
        first: Name of the first value that parts; empty if none does.
        kind: Operator that makes it.
        error: Its relative L2 error; infinite where the operation fails.
    """

    operations: tuple[str, ...]
    constants: Mapping[str, int]
    first: str = ""
    kind: str = ""
    error: float = 0.0


def compare(
    package: str | Path,
    clean: str | Path,
    inputs: Mapping[str, Array],
    tolerance: float = 1e-6,
) -> Difference:
    """Compare a package with a clean one.

    Args:
        package: The ``.mlpackage`` in question.
        clean: The one that its pivot gives.
        inputs: Arrays by the packages' own names of inputs, in their shapes; float32, float16 or
            int32 as the packages declare them.
        tolerance: Largest relative L2 error that does not count as parting.

    Raises:
        SessionError: LPT-RUN-501 … 504, one of the packages cannot be read.
    """
    ours, theirs = (open_package(Path(place)).program() for place in (package, clean))
    operations, constants = differences(ours, theirs)
    first, kind, error = _first(ours, theirs, inputs, tolerance)
    return Difference(operations, constants, first, kind, error)


def differences(program: Program, clean: Program) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return what differs in a program's operations, in words, and in its constants.

    Returns:
        Operations that are missing, new, or connected otherwise; and by name of a constant how
        many of its elements differ in any bit.
    """
    return _operations(program, clean), _constants(program, clean)


def _operations(program: Program, clean: Program) -> tuple[str, ...]:
    ours = {op.name: op for op in program.block.operations}
    theirs = {op.name: op for op in clean.block.operations}
    found = [f"{theirs[n].kind} {n!r} is missing" for n in theirs if n not in ours]
    found += [f"{ours[n].kind} {n!r} is new" for n in ours if n not in theirs]
    found += [
        f"{theirs[name].kind} {name!r}: {what}"
        for name in theirs
        if name in ours and (what := _other(ours[name], theirs[name]))
    ]
    if program.block.outputs != clean.block.outputs:
        found.append("the outputs are others")
    if (program.inputs, program.outputs) != (clean.inputs, clean.outputs):
        found.append("the model declares other inputs or outputs")
    return tuple(found)


def _other(one: Operation, two: Operation) -> str:
    if one.kind != two.kind:
        return f"it is {one.kind} now"
    if one.outputs != two.outputs:
        return "its outputs are declared otherwise"
    for key in {**one.inputs, **two.inputs}:
        left, right = (_names(op, key) for op in (one, two))
        if left != right:
            return f"{key} comes from {', '.join(left)} instead of {', '.join(right)}"
    return ""


def _names(operation: Operation, key: str) -> list[str]:
    return [a.name if isinstance(a, Name) else "a constant" for a in operation.inputs.get(key, ())]


def _constants(program: Program, clean: Program) -> dict[str, int]:
    ours, theirs = dict(program.constants()), dict(clean.constants())
    found = {}
    for name, constant in theirs.items():
        count = _differing(ours[name], constant) if name in ours else 0
        if count:
            found[name] = count
    return found


def _differing(one: Constant, two: Constant) -> int:
    left, right = np.asarray(one.value), np.asarray(two.value)
    if left.shape != right.shape or left.dtype != right.dtype:
        return max(left.size, right.size)
    if left.dtype.kind == "f":  # bits count: also -0 and the kinds of NaN
        wide = f"u{left.dtype.itemsize}"
        left, right = np.atleast_1d(left).view(wide), np.atleast_1d(right).view(wide)
    return int(np.count_nonzero(left != right))


def _first(
    program: Program, clean: Program, inputs: Mapping[str, Array], tolerance: float
) -> tuple[str, str, float]:
    known: dict[str, Array] = {}
    judge = Interpreter(clean)
    judge.run(inputs, known.__setitem__)
    found: list[tuple[str, float]] = []

    def watch(name: str, value: Array) -> None:
        if not found and name in known and (error := _error(value, known[name])) > tolerance:
            found.append((name, error))

    try:
        interpreter = Interpreter(program)
        interpreter.run(inputs, watch)
    except OperatorError as failure:
        if not found:
            return failure.operation.name, failure.operation.kind, float("inf")
        name, error = found[0]
        return name, _kind(judge, name), error
    return (found[0][0], _kind(judge, found[0][0]), found[0][1]) if found else ("", "", 0.0)


def _kind(interpreter: Interpreter, name: str) -> str:
    made = (op.kind for op in interpreter.operations if name in (n for n, _ in op.outputs))
    return next(made, "")


def _error(one: Array, two: Array) -> float:
    if np.shape(one) != np.shape(two):
        return float("inf")
    left, right = np.asarray(one, np.float64), np.asarray(two, np.float64)
    if not np.array_equal(np.isfinite(left), np.isfinite(right)):
        return float("inf")
    finite = np.isfinite(right)
    size = float(np.linalg.norm(right[finite]))
    error = float(np.linalg.norm(left[finite] - right[finite]))
    return error / size if size else error


__all__ = ["Difference", "compare", "differences"]
