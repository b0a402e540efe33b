"""What can be shown about a package without a device: it runs, and its constants are the pivot's.

Numbers alone miss a flipped bit of a late weight (it moves an output by 1e-7), so every constant
is compared with those of the pivot as well, and the SHA-256 of the file of weights is kept.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import ConversionError, LeptonError
from lepton_core.files import digest_path
from lepton_coreml._features import ARRAYS
from lepton_coreml._interpreter import Interpreter, OperatorError
from lepton_coreml._mil._package import open_package

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto

    from lepton_coreml._mil._program import Feature, Program

    Array = NDArray[Any]
    Names = Sequence[tuple[str, ...]]

_SMALL = 16
"""Constants of fewer elements are parameters of operators as often as weights."""
_LISTED = 12
_ROWS, _CHEAP = 1024, 4096
"""Largest size, and numbers in all inputs together, up to which the largest sizes are run."""


def example(feature: Feature, rows: int) -> Array:
    """Return zeros that fit an input.

    Args:
        feature: The input.
        rows: Size of every open dimension, as far as its bounds allow.
    """
    shape = [d if isinstance(d, int) else _size(d, rows) for d in feature.shape]
    return np.zeros(shape, ARRAYS[feature.dtype])


def _size(bounds: tuple[int, int], rows: int) -> int:
    low, high = bounds
    return max(low, rows) if high < 0 else min(max(low, rows), high)


def run_once(path: Path, names: Names = ()) -> list[str]:
    """Open a package and run it on zeros: with the smallest sizes, with 3, and with the largest.

    The largest sizes are left out where they are many numbers.

    Args:
        path: The package.
        names: What the dimensions of each input are called; the same name is the same size. Where
            one is open and is called ``""``, only all the largest sizes together are run.

    Returns:
        A warning if it runs with the smaller sizes and not with the largest.

    Raises:
        ConversionError: LPT-CONV-509, it does not run; the operator is named.
    """
    try:
        program = open_package(path).program()
        interpreter = Interpreter(program)
        opened = [d for f in program.inputs for d in f.shape if not isinstance(d, int)]
        for rows in (1, 3) if opened else (1,):
            interpreter.run({f.name: example(f, rows) for f in program.inputs})
        return _largest(interpreter, program, names)
    except OperatorError as error:
        what = "is not known to" if error.unknown else "fails in"
        raise ConversionError(
            "LPT-CONV-509",
            f"The converted program cannot be proved: {error.operation.kind} "
            f"({error.operation.name!r}) {what} the reference interpreter",
            cause=error.cause,
            remedy="Replace the operator in the model, or choose another target.",
            details={"operator": error.operation.kind, "where": error.operation.name},
        ) from error
    except LeptonError as error:
        raise ConversionError(
            "LPT-CONV-509",
            "The converted package cannot be read back",
            cause=f"{error.message}: {error.cause}",
            remedy="Report this model as a bug.",
        ) from error


def _largest(interpreter: Interpreter, program: Program, names: Names) -> list[str]:
    for sizes in _largest_sizes(program, names):
        feed = {
            f.name: np.zeros(shape, ARRAYS[f.dtype])
            for f, shape in zip(program.inputs, sizes, strict=True)
        }
        try:
            interpreter.run(feed)
        except OperatorError as error:
            return [
                f"The package declares inputs of {' and '.join(map(str, sizes))} and does not run "
                f"with them: {error.operation.kind} ({error.operation.name!r}), {error.cause} "
                "State the largest that the model takes: the options max_batch and max_size."
            ]
    return []


def _largest_sizes(program: Program, names: Names) -> list[list[tuple[int, ...]]]:
    """Return shapes of all inputs: each open size at its largest in turn, or all at once.

    A size without a bound, or with a very large one, is left out, and keeps no other from its turn.
    """
    called = names or [("",) * len(f.shape) for f in program.inputs]
    pairs = list(zip(program.inputs, called, strict=True))
    opened = [
        (name, bounds)
        for feature, own in pairs
        for name, bounds in zip(own, feature.shape, strict=False)
        if not isinstance(bounds, int)
    ]
    turns = list(dict.fromkeys(name for name, _ in opened))
    if "" in turns:
        turns = [""]
    found = []
    for turn in turns:
        most = max(high for name, (_, high) in opened if turn in ("", name))
        if 0 < most <= _ROWS:
            found.append([_turned(feature, own, turn, most) for feature, own in pairs])
    return [s for s in found if sum(int(np.prod(one)) for one in s) <= _CHEAP]


def _turned(feature: Feature, own: tuple[str, ...], turn: str, most: int) -> tuple[int, ...]:
    """Return an input's shape with the sizes of a turn at *most*, and the others at their least."""
    return tuple(
        d if isinstance(d, int) else _size(d, most if turn in ("", own[i]) else 1)
        for i, d in enumerate(feature.shape)
    )


def constants_record(
    path: Path, proto: ModelProto, *, half: bool, more: Iterable[Array] = ()
) -> dict[str, Any]:
    """Compare a package's floating-point constants with the pivot's weights.

    Integers of a recipe are compared by :func:`lepton_coreml._same.check_numbers`.

    A constant counts as found if the pivot holds the same values in any order, those of an LSTM
    by direction; what coremltools computed from weights (a folded normalisation, the sum of two
    biases) is listed as derived.

    Args:
        path: The package.
        proto: The pivot with its weights in memory.
        half: Whether float32 weights were rounded to float16.
        more: What a recipe has in the place of weights: tables, and values that stay.

    Returns:
        ``sha256`` of the file of weights, ``constants``, ``found``, ``derived`` (names, the first
        twelve), ``elements`` and ``elements_found``.
    """
    from onnx import numpy_helper

    package = open_package(path)
    program = package.program()
    recurrent = {n for node in proto.graph.node if node.op_type == "LSTM" for n in node.input[1:3]}
    known: set[str] = set()

    def add(part: Array) -> None:
        known.add(fingerprint(part))
        if half and part.dtype == np.float32:
            with np.errstate(over="ignore"):
                known.add(fingerprint(part.astype(np.float16)))

    for array in more:
        add(array)
    for tensor in proto.graph.initializer:
        values = numpy_helper.to_array(tensor)
        for part in (values, *(values if tensor.name in recurrent else ())):
            add(part)
    found, derived, elements, hit = 0, [], 0, 0
    for name, array, _ in stored_arrays(program):
        if array.dtype.kind != "f":
            continue
        elements += array.size
        if fingerprint(array) in known:
            found += 1
            hit += array.size
        else:
            derived.append(name)
    files = package.weight_files()
    return {
        "sha256": digest_path(files[0]) if files else "",
        "constants": found + len(derived),
        "found": found,
        "derived": derived[:_LISTED],
        "elements": elements,
        "elements_found": hit,
    }


def kept_in_fp32(path: Path, asked: Collection[str]) -> dict[str, str]:
    """Return operations of a float16 package that yield float32, with the reason.

    Args:
        path: The package.
        asked: Operators and names of operations that were to stay.
    """
    kept = {}
    for operation in open_package(path).program().block.operations:
        if operation.kind in ("const", "cast") or operation.outputs[0][1].dtype != "fp32":
            continue
        if operation.kind in asked or operation.name in asked:
            why = "asked for"
        elif operation.kind.startswith("constexpr_"):
            why = "float16 does not hold its scales or values, or what reads it stays float32"
        else:
            why = "a constant of it stays float32, or it has no float16 form"
        kept[operation.name] = f"{operation.kind}: {why}"
    return kept


def stored_arrays(program: Program) -> list[tuple[str, Array, str]]:
    """Return name, values and element type of every constant that is large enough to be a weight.

    Raises:
        SessionError: A constant cannot be read.
    """
    return [
        (name, constant.value, constant.type.dtype)
        for name, constant in program.constants()
        if isinstance(constant.value, np.ndarray)
        and constant.value.size >= _SMALL
        and constant.value.dtype.kind in "fiu"
        and (constant.value.dtype.kind == "f" or constant.value.dtype.itemsize == 1)
    ]


def fingerprint(values: Array) -> str:
    """Return a digest of an array's values that does not depend on the order of its axes."""
    flat = np.sort(np.ascontiguousarray(values).reshape(-1), kind="stable")
    text = f"{flat.dtype.str}:{flat.size}:".encode()
    return hashlib.sha256(text + flat.tobytes()).hexdigest()


__all__ = [
    "constants_record",
    "example",
    "fingerprint",
    "kept_in_fp32",
    "run_once",
    "stored_arrays",
]
