"""Load an IR with OpenVINO alone; bundles ship this file as ``runtime.py``.

OpenVINO is imported with its telemetry off: without the package ``openvino_telemetry`` it binds a
stub that sends nothing.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUIREMENTS = ("numpy", "openvino")


def load(
    path: str | Path, threads: int | None = None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Open a model.

    Args:
        path: The ``.xml`` file; the ``.bin`` file of its values lies beside it.
        threads: Threads of inference; OpenVINO's own choice by default.

    Returns:
        A function from named input arrays to named output arrays; any thread may call it.
    """
    import numpy as np

    openvino = _openvino()
    core = openvino.Core()
    model = core.read_model(str(path))
    if _may_saturate(model):
        core.set_property("CPU", {"LP_TRANSFORMS_MODE": False})
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = core.compile_model(model, "CPU", config)
    note = model.get_rt_info(["lepton", "signature"])
    signature = json.loads(str(getattr(note, "value", note)))
    inputs = _order([spec["name"] for spec in signature["inputs"]], compiled.inputs)
    outputs = _order([spec["name"] for spec in signature["outputs"]], compiled.outputs)

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        if set(arrays) != set(inputs):
            raise ValueError(f"the inputs are {', '.join(inputs)}, not {', '.join(arrays)}")
        request = compiled.create_infer_request()
        request.infer({inputs[name]: np.asarray(array) for name, array in arrays.items()})
        return {n: np.array(request.get_output_tensor(i).data) for n, i in outputs.items()}

    return run


def _order(names: list[str], ports: Any) -> dict[str, int]:  # noqa: ANN401 - the runtime's class
    """Return the place of each port by name; ports that share a tensor carry all its names."""
    found = {}
    for position, name in enumerate(names):
        order = [position, *(i for i in range(len(ports)) if i != position)]
        found[name] = next(i for i in order if name in ports[i].get_names())
    return found


def _may_saturate(model: Any) -> bool:  # noqa: ANN401 - the runtime's class
    """Tell whether the CPU adds products of 8-bit integers in 16 bits that are too few for them.

    x86 without VNNI does; weights of at most 64 keep such sums exact all the same.
    """
    import numpy as np

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    cpu = Path("/proc/cpuinfo")
    words = cpu.read_text().split() if cpu.exists() else []
    if {"avx512_vnni", "avx_vnni", "amx_int8"}.intersection(words):
        return False
    computed, quantizing, wide = set(), [], False
    for node in model.get_ordered_ops():
        kind, name = node.get_type_name(), node.get_friendly_name()
        sources = {value.get_node().get_friendly_name() for value in node.input_values()}
        if kind in ("Parameter", "ReadValue") or sources & computed:
            computed.add(name)
        if kind == "FakeQuantize":
            quantizing.append(name)
        elif kind == "Constant" and node.get_output_element_type(0).get_type_name() == "i8":
            wide |= bool(np.abs(node.get_data().astype(np.int16)).max(initial=0) > 64)
    # Weights that the graph quantizes itself may have any magnitude.
    return bool(quantizing) and (wide or not computed.issuperset(quantizing))


def _openvino() -> Any:  # noqa: ANN401 - the package has no types
    held = sys.modules.get("openvino_telemetry")
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino  # type: ignore[import-untyped]
    finally:
        if held is not None:
            sys.modules["openvino_telemetry"] = held
        else:
            sys.modules.pop("openvino_telemetry", None)
    return openvino
