"""ONNX Runtime itself: importing it quietly, its version, devices and options."""

from __future__ import annotations

import os
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from lepton_core.environment import available_cpus, sums_may_saturate, versions_of
from lepton_core.errors import PluginDependencyError, SessionError
from lepton_core.installing import install_command
from lepton_core.switches import as_switch
from lepton_onnxruntime.info import DISTRIBUTIONS

if TYPE_CHECKING:
    from types import ModuleType

    from lepton_core.types import OpenRequest

_SILENT = 4
_NODE_ERROR = re.compile(r"while running (\S+) node\. Name:'([^']*)' Status Message: (.*)", re.S)
_SOURCE_PLACE = re.compile(r"\S*/onnxruntime/\S+\.(h|cc):\d+\s*")


@cache
def onnxruntime() -> ModuleType:
    """Import ONNX Runtime with its log and its telemetry off.

    From 1.32 on the import itself starts a sender, which writes an identifier of the device and a
    queue of events into the user's cache folder; only the environment keeps it from that.

    Raises:
        PluginDependencyError: LPT-RUN-209, it is not installed or its libraries do not load.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-RUN-209",
            "ONNX Runtime cannot be imported",
            cause=str(error),
            remedy=install_command("lepton-onnxruntime[cpu]"),
        ) from error
    ort.set_default_logger_severity(_SILENT)
    ort.disable_telemetry_events()
    module: ModuleType = ort
    return module


OPTIONS = {"spinning": False, "plan_memory": True, "tf32": False, "execution_facts": True}
"""Switches of a session, with what they are if nobody says."""


def check_options(request: OpenRequest) -> None:
    """Check the options before anything is read.

    Raises:
        SessionError: LPT-RUN-211, there is no such option, or it is neither on nor off.
    """
    for name, value in request.options.items():
        if name not in OPTIONS:
            raise SessionError(
                "LPT-RUN-211",
                f"onnxruntime has no option {name!r} for opening",
                remedy=f"Options are {', '.join(OPTIONS)}.",
            )
        if as_switch(value) is None:
            raise SessionError(
                "LPT-RUN-211",
                f"The option {name} cannot be {value!r}",
                remedy="It is true or false.",
            )


def switched_on(request: OpenRequest, name: str) -> bool:
    """Return whether one of :data:`OPTIONS` is on; if nobody says, the caller may do without."""
    usual = OPTIONS[name] and name not in request.without
    return bool(as_switch(request.options.get(name, usual)))


def session_options(request: OpenRequest) -> Any:  # noqa: ANN401 - a class of the runtime
    """Return session options for *request*.

    One operator runs at a time, on as many threads as the container allows (or
    ``request.threads``). Threads do not spin while they wait: with spinning, idle threads take
    the cores away from whatever else runs in the container; ``options={"spinning": True}`` turns
    it on where the model has the machine for itself. After a first run the runtime plans one piece
    of memory for all values of the next; ``options={"plan_memory": False}`` leaves that out, for
    runs whose memory counts more than their time.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.enable_mem_pattern = switched_on(request, "plan_memory")
    options.intra_op_num_threads = request.threads or available_cpus()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    spinning = "1" if switched_on(request, "spinning") else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if request.reference:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return options


DISABLED_OPTIMIZERS = ("WeightBiasQuantization",)
"""Rewrites of graphs that are left out. This one gives a float weight between Q/DQ pairs (of a
ConvTranspose, which has no integer kernel) integers with one scale for all channels, so that what
runs is no longer what the file holds."""

EXACT = "exact: the CPU sums products of 8-bit integers in 32 bits"
SLOWER_EXACT = "exact, by slower kernels: the CPU has no VNNI, and its 16-bit sums could saturate"

FLOAT_EXACT = (
    "exact, in float: the runtime fails to choose the integer kernels that do not saturate"
)


def integer_kernels() -> str:
    """Say how products of uint8 and int8 are kept exact on this CPU.

    x86 without VNNI adds pairs of products in 16 bits, which saturates where both are large. ONNX
    Runtime has kernels that avoid it, but only uses them when told to.
    """
    return SLOWER_EXACT if sums_may_saturate() else EXACT


def providers(request: OpenRequest) -> list[Any]:
    """Return the execution providers for the device of *request*, best first.

    On CUDA, products of float32 are computed in float32; ``options={"tf32": True}`` allows the
    faster TensorFloat-32, which keeps 10 bits of each mantissa.

    Raises:
        SessionError: LPT-RUN-206, the device is not there, with the reason.
    """
    name, _, index = (request.device or "cpu").partition(":")
    if name == "cpu":
        return ["CPUExecutionProvider"]
    if name != "cuda" or (index and not index.isdecimal()):
        raise SessionError(
            "LPT-RUN-206",
            f"ONNX Runtime has no device {request.device!r} here",
            remedy="Use cpu or cuda, as in onnxruntime:cuda.",
        )
    _require_cuda()
    tf32 = "1" if switched_on(request, "tf32") and not request.reference else "0"
    options = {"device_id": index or "0", "use_tf32": tf32}
    return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


def _require_cuda() -> None:
    ort = onnxruntime()
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" in available:
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        return
    raise SessionError(
        "LPT-RUN-206",
        "This ONNX Runtime has no CUDA",
        cause=distribution_conflict() or f"It was built with {', '.join(available)}.",
        remedy="pip uninstall -y onnxruntime onnxruntime-gpu && "
        + install_command("lepton-onnxruntime[gpu]"),
    )


def distribution_conflict() -> str:
    """Say so if several distributions of ONNX Runtime are installed; else return ``""``."""
    installed = versions_of(*DISTRIBUTIONS)
    if len(installed) < 2:
        return ""
    listed = " and ".join(f"{name} {version}" for name, version in installed.items())
    return (
        f"{listed} are installed together and overwrite each other's files under one import "
        "name; keep exactly one."
    )


def explain(error: Exception) -> tuple[str, str]:
    """Return the operator with its node, and the reason, from an error of the runtime.

    The operator is empty if the error names none.
    """
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    match = _NODE_ERROR.search(text)
    if match:
        return f"{match[1]} (node {match[2]!r})", _SOURCE_PLACE.sub("", match[3])[:500]
    return "", _SOURCE_PLACE.sub("", text)[:500]


@cache
def known_operators() -> dict[str, frozenset[str]]:
    """Return the operators that the installed runtime defines, by domain (``""`` is ONNX's)."""
    onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[str, set[str]] = {}
    for schema in getattr(state, "get_all_operator_schema", list)():
        found.setdefault(schema.domain, set()).add(schema.name)
    return {domain: frozenset(names) for domain, names in found.items()}


@cache
def accepts_opset(opset: int) -> bool:
    """Tell whether the installed runtime loads a model of this opset, by loading a tiny one."""
    from onnx import TensorProto, helper

    ort = onnxruntime()
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads = 1
    try:
        ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:
        return False
    return True
