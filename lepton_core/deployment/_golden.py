"""Golden pairs: inputs with the outputs that the artifact gave when it was deployed.

A folder of ``.npy`` files and ``golden.json``, which names them. Inputs are noise unless the user
asks for real samples to be kept.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import DeployError
from lepton_core.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lepton_core.context import Session
    from lepton_core.samples import Samples
    from lepton_core.types import Signature

    Array = NDArray[Any]

INDEX = "golden.json"
SCHEMA = 1


_COMPRESSED = 0.15
_REL_L2 = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-2}


def tolerance_of(precision: str) -> float:
    """Return the relative L2 error up to which another machine gives the same answer."""
    return _REL_L2.get(precision or "fp32", _COMPRESSED)


def write_golden(
    folder: Path,
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    *,
    origin: str,
    rel_l2: float,
) -> Path:
    """Write one batch of inputs and the outputs that belong to it.

    Args:
        folder: Where; is made if it is not there.
        inputs: Arrays as a session takes them.
        outputs: Arrays as it gave them.
        origin: Where the inputs come from (``"random:0"``).
        rel_l2: Largest relative L2 error that counts as the same answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {
        "schema": SCHEMA,
        "origin": origin,
        "rel_l2": rel_l2,
        "inputs": {},
        "outputs": {},
    }
    for kind, arrays in (("inputs", inputs), ("outputs", outputs)):
        for number, (name, array) in enumerate(arrays.items()):
            file = f"{kind.removesuffix('s')}-{number:03d}.npy"
            np.save(folder / file, np.ascontiguousarray(array), allow_pickle=False)
            index[kind][name] = file
    write_atomic(folder / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")
    return folder


def read_golden(folder: Path) -> tuple[dict[str, Array], dict[str, Array], float]:
    """Return inputs, outputs and the tolerance.

    Raises:
        DeployError: LPT-DEP-006, the folder does not hold golden pairs.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        arrays = [
            {name: np.load(folder / file, allow_pickle=False) for name, file in index[kind].items()}
            for kind in ("inputs", "outputs")
        ]
        return arrays[0], arrays[1], float(index["rel_l2"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeployError(
            "LPT-DEP-006",
            f"{folder} does not hold golden pairs",
            cause=f"{type(error).__name__}: {error}",
            remedy="Deploy the artifact again.",
        ) from error


def origin_of(folder: Path) -> str:
    """Return where golden inputs come from: ``"random"``, or the origin of real samples."""
    try:
        return str(json.loads((folder / INDEX).read_text(encoding="utf-8")).get("origin", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def real_rows(folder: Path, signature: Signature) -> Samples | None:
    """Return golden inputs as samples, if they are real ones that stand in rows.

    Args:
        folder: Golden pairs.
        signature: What they were fed to.

    Returns:
        ``None`` if they are noise, or their inputs have no batch dimension in common.

    Raises:
        DeployError: LPT-DEP-006, the folder does not hold golden pairs.
        SampleError: They do not fit the signature.
    """
    from lepton_core.samples import Samples, match

    origin = origin_of(folder)
    if not origin or origin.startswith("random"):
        return None
    inputs, _, _ = read_golden(folder)
    if not _in_rows(inputs, signature):
        return None
    note = "the golden inputs of the present version"
    return match(Samples(dict(inputs), None, "folder", "golden", (note,)), signature)


def _in_rows(inputs: Mapping[str, Array], signature: Signature) -> bool:
    sizes = {len(array) if array.ndim else 0 for array in inputs.values()}
    ranks = {spec.name: len(spec.shape) for spec in signature.inputs}
    if len(sizes) != 1 or any(inputs[name].ndim != rank for name, rank in ranks.items()):
        return False
    fixed = {spec.shape[0] for spec in signature.inputs if isinstance(spec.shape[0], int)}
    return not fixed or fixed == sizes


def rel_l2(expected: Array, actual: Array) -> float:
    """Return ``|actual - expected| / |expected|`` over the values that are finite in both.

    Returns:
        Infinity if shapes differ, or if a value is finite in one and not in the other; for a
        reference of zeros the error's own norm.
    """
    if expected.shape != actual.shape:
        return float("inf")
    a, b = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return float("inf")
    size = float(np.linalg.norm(a[finite]))
    error = float(np.linalg.norm(b[finite] - a[finite]))
    return error / size if size else error


def check_golden(session: Session, folder: Path) -> float:
    """Run the golden inputs and compare; returns the worst relative L2 error.

    Raises:
        DeployError: LPT-DEP-006, the answers differ by more than the tolerance.
        SessionError: The runtime failed.
    """
    inputs, expected, tolerance = read_golden(folder)
    actual = session.run(inputs)
    worst, where = 0.0, ""
    for name, array in expected.items():
        error = rel_l2(array, actual[name]) if name in actual else float("inf")
        if error > worst:
            worst, where = error, name
    if worst > tolerance:
        raise DeployError(
            "LPT-DEP-006",
            "The model does not answer here as it did when it was deployed",
            cause=f"output {where!r} is off by a relative L2 of {worst:.3g}, at most "
            f"{tolerance:.3g} was expected",
            remedy="Runtime or processor differ too much; build and deploy for this machine.",
            details={"output": where, "rel_l2": worst, "tolerance": tolerance},
        )
    return worst


__all__ = [
    "check_golden",
    "origin_of",
    "read_golden",
    "real_rows",
    "rel_l2",
    "tolerance_of",
    "write_golden",
]
