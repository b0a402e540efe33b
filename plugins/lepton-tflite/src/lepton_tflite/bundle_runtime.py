"""Load a .tflite file with LiteRT's runtime alone; bundles ship this file as ``runtime.py``.

Runs on ai-edge-litert. Where that is missing it takes tflite-runtime, which has the same classes
and wants NumPy 1.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUIREMENTS = ("numpy", "ai-edge-litert")


def load(
    path: str | Path, threads: int | None = None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Open a model.

    Args:
        path: The ``.tflite`` file.
        threads: Threads of the kernels; the runtime's own choice by default.

    Returns:
        A function from named input arrays to named output arrays; calls take turns.
    """
    import numpy as np

    here = Path(__file__).with_name("signature.json")
    signature = json.loads(here.read_text(encoding="utf-8"))
    layouts = here.with_name("layouts.json")  # of inputs that the file takes with channels last
    turned = json.loads(layouts.read_text(encoding="utf-8")) if layouts.is_file() else {}
    interpreter = _interpreter(str(path), threads)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    symbolic = any(isinstance(spec["shape"][:1] and spec["shape"][0], str)
                   for spec in signature["inputs"])  # fmt: skip
    opened = any(-1 in details["shape_signature"] for details in inputs.values())
    lock = threading.Lock()
    shapes: dict[str, Any] = {}  # of the last call that ran; after another all are sized again

    def once(arrays: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {name: array.shape for name, array in arrays.items()}
        known = dict(shapes)
        shapes.clear()
        if wanted != known:
            for name, details in inputs.items():
                interpreter.resize_tensor_input(details["index"], wanted[name])
            interpreter.allocate_tensors()
        for name, details in inputs.items():
            interpreter.set_tensor(details["index"], np.asarray(arrays[name], order="C"))
        interpreter.invoke()
        shapes.update(wanted)
        return {name: interpreter.get_tensor(d["index"]) for name, d in outputs.items()}

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        if set(arrays) != set(inputs):
            raise ValueError(f"the inputs are {', '.join(inputs)}, not {', '.join(arrays)}")
        given = {name: np.asarray(array) for name, array in arrays.items()}
        _check_shapes(given, signature["inputs"])
        given |= {name: given[name].transpose(0, 2, 3, 1) for name in turned}
        given = {name: _into_file(array, inputs[name]) for name, array in given.items()}
        with lock:
            if symbolic and not opened:  # the file takes one row
                rows = range(len(next(iter(given.values()))))
                parts = [once({n: a[i : i + 1] for n, a in given.items()}) for i in rows]
                found = {name: np.concatenate([p[name] for p in parts]) for name in outputs}
            else:
                found = once(given)
        return {
            s["name"]: _out_of_file(found[s["name"]], outputs[s["name"]], s["dtype"])
            for s in signature["outputs"]
        }

    return run


def _check_shapes(arrays: Mapping[str, Any], specs: Any) -> None:  # noqa: ANN401 - JSON
    """Raise ``ValueError`` for a shape that the signature does not allow, and for no rows."""
    sizes: dict[str, int] = {}
    for spec in specs:
        name, shape, dims = spec["name"], arrays[spec["name"]].shape, spec["shape"]
        fits = len(shape) == len(dims) and 0 not in shape
        for place, size in enumerate(shape if fits else ()):  # Python 3.9 has no zip that is strict
            dim = dims[place]
            fits = fits and size == (sizes.setdefault(dim, size) if isinstance(dim, str)
                                     else size if dim is None else dim)  # fmt: skip
        if not fits:
            raise ValueError(f"{name!r} has the shape {list(shape)}; {dims} is wanted")


def _into_file(array: Any, details: Any) -> Any:  # noqa: ANN401 - arrays
    """Return an array in the file's own type: 32 bits for 64, its int8 for floats."""
    import numpy as np

    wanted, own = np.dtype(details["dtype"]), details["quantization_parameters"]
    if array.dtype.kind == "f" and wanted.kind == "i" and len(own["scales"]):
        if not np.isfinite(array).all():
            raise ValueError(f"{details['name']!r} holds NaN or an infinity; {wanted} has none")
        limits = np.iinfo(wanted)
        grid = np.rint(array / np.float32(own["scales"][0])) + int(own["zero_points"][0])
        return np.clip(grid, limits.min, limits.max).astype(wanted)
    if array.dtype.kind == wanted.kind == "f":  # rounded, as long as it stays finite
        with np.errstate(over="ignore"):
            given = array.astype(wanted)
        if np.any(np.isinf(given) & np.isfinite(array)):
            raise ValueError(f"{details['name']!r} does not fit into {wanted}")
        return given
    with np.errstate(invalid="ignore"):  # NaN to an integer, which the comparison finds
        same = np.array_equal(array, array.astype(wanted), equal_nan=True)
    if not same:
        raise ValueError(f"{details['name']!r} does not fit into {wanted}")
    return array.astype(wanted)


def _out_of_file(array: Any, details: Any, dtype: str) -> Any:  # noqa: ANN401 - arrays
    import numpy as np

    own = details["quantization_parameters"]
    if array.dtype.kind == "i" and np.dtype(dtype).kind == "f" and len(own["scales"]):
        scale = np.float32(own["scales"][0])
        return (array.astype(np.float32) - int(own["zero_points"][0])) * scale
    return array.astype(dtype)


def _interpreter(path: str, threads: int | None) -> Any:  # noqa: ANN401 - the package has no types
    try:
        from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
    except ImportError:
        from tflite_runtime.interpreter import Interpreter  # type: ignore[import-not-found]
    return Interpreter(model_path=path, num_threads=threads)
