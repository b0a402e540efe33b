"""Load a package with coremltools alone; bundles ship this file as ``runtime.py``.

It runs on a Mac: coremltools passes the package on to Core ML there, and has nothing that runs it
elsewhere. No Mac has run this file yet; tests run it with a stand-in for coremltools.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUIREMENTS = ("numpy", "coremltools")


def load(
    path: str | Path, threads: int | None = None, units: str = "CPU_ONLY"
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Open a package.

    Args:
        path: The ``.mlpackage``.
        threads: Core ML has no such setting; it is ignored.
        units: What computes, by coremltools' names: ``"CPU_ONLY"``, ``"CPU_AND_NE"``,
            ``"CPU_AND_GPU"`` or ``"ALL"``.

    Returns:
        A function from named input arrays to named output arrays.
    """
    import coremltools  # type: ignore[import-untyped]

    del threads
    here = Path(__file__).parent
    ports = json.loads((here / "features.json").read_text(encoding="utf-8"))
    signature = json.loads((here / "signature.json").read_text(encoding="utf-8"))
    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit[units])

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        names = [port["name"] for port in ports["inputs"]]
        if set(arrays) != set(names):
            raise ValueError(f"the inputs are {', '.join(names)}, not {', '.join(arrays)}")
        made = model.predict(
            {port["feature"]: _into_package(arrays[port["name"]], port) for port in ports["inputs"]}
        )
        return {
            port["name"]: _out_of_package(made[port["feature"]], signature["outputs"][place])
            for place, port in enumerate(ports["outputs"])
        }

    return run


def _into_package(array: Any, port: Mapping[str, Any]) -> Any:  # noqa: ANN401 - arrays
    """Return an input as the package takes it: in its type, a number as one element."""
    import numpy as np

    given = np.asarray(array)
    with np.errstate(invalid="ignore", over="ignore"):
        own = given.astype(port["dtype"])
    same = np.isfinite(own) == np.isfinite(given)
    if own.dtype.kind != "f":
        same = own == given
    if not np.all(same):
        raise ValueError(f"{port['name']!r} holds numbers beyond {port['dtype']}")
    return np.ascontiguousarray(own.reshape(own.shape or (1,)))


def _out_of_package(array: Any, spec: Mapping[str, Any]) -> Any:  # noqa: ANN401 - arrays
    import numpy as np

    found = np.asarray(array).astype(spec["dtype"])
    return found.reshape(()) if not spec["shape"] and found.size == 1 else found
