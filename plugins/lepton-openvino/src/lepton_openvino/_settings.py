"""From a request to the properties that OpenVINO compiles with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core.environment import available_cpus
from lepton_core.errors import SessionError
from lepton_core.switches import as_switch
from lepton_openvino._products import CHOICES, FLOAT_EXACT, OPTION
from lepton_openvino._telemetry import openvino
from lepton_openvino.info import INFO

if TYPE_CHECKING:
    from lepton_core.types import OpenRequest

PRECISIONS = ("f32", "bf16", "f16")
HINTS = ("latency", "throughput")
ROUNDED = "dynamic_quantization"
"""Option and fact: whether inputs of products with weights in few bits are rounded to int8."""
_CHOICES = {
    "inference_precision": PRECISIONS,
    "hint": HINTS,
    ROUNDED: ("auto", "off"),
    OPTION: CHOICES,
}
OPTIONS = ("inference_precision", "hint", "streams", "pinning", "cache", ROUNDED, OPTION)
CACHE_FOLDER = "openvino-cache"


def check_request(request: OpenRequest) -> None:
    """Check what was asked for, before anything is read.

    Raises:
        SessionError: LPT-RUN-306 (a device that OpenVINO has no name for), 307 (an option), 310
            (threads).
    """
    name = (request.device or "cpu").partition(".")[0]
    if name not in INFO.devices:
        raise SessionError(
            "LPT-RUN-306",
            f"OpenVINO has no device {request.device!r}",
            remedy=f"Use one of {', '.join(INFO.devices)}, as in openvino:{INFO.devices[1]}.",
        )
    for key in request.options:
        if key not in OPTIONS:
            raise SessionError(
                "LPT-RUN-307",
                f"openvino has no option {key!r} for opening",
                remedy=f"Options are {', '.join(OPTIONS)}.",
            )
    for key, choices in _CHOICES.items():
        given = request.options.get(key, choices[0])
        if given not in choices:
            raise SessionError(
                "LPT-RUN-307",
                f"The option {key} cannot be {given!r}",
                remedy=f"It is one of {', '.join(choices)}.",
            )
    if as_switch(request.options.get("pinning", False)) is None:
        raise SessionError(
            "LPT-RUN-307",
            f"The option pinning cannot be {request.options['pinning']!r}",
            remedy="It is true or false.",
        )
    _check_cache(request.options.get("cache") or False)
    streams = request.options.get("streams", 1)
    if not isinstance(streams, int) or isinstance(streams, bool) or streams < 1:
        raise SessionError(
            "LPT-RUN-307",
            f"The option streams cannot be {streams!r}",
            remedy="It is a number of calls that run side by side, 1 or more; the hint "
            "'throughput' leaves the number to OpenVINO.",
        )
    if request.threads is not None and request.threads < 1:
        raise SessionError(
            "LPT-RUN-310",
            f"{request.threads} threads were asked for",
            remedy="Ask for 1 or more, or leave it out to use what the container allows.",
        )


def _check_cache(given: object) -> None:
    path = isinstance(given, str | Path)
    if as_switch(given) is not None or (path and not Path(given).expanduser().is_file()):
        return
    raise SessionError(
        "LPT-RUN-307",
        f"The option cache cannot be {given!r}" + (", which is a file" if path else ""),
        remedy="It is true, false, or the name of a folder.",
    )


def device_name(request: OpenRequest) -> str:
    """Return OpenVINO's name of the device (``CPU``, ``GPU.1``)."""
    return (request.device or "cpu").upper()


def inference_precision(request: OpenRequest) -> str:
    """Return the precision to compute in; the yardstick is always computed in f32."""
    if request.reference:
        return "f32"
    return str(request.options.get("inference_precision", "f32"))


def properties(request: OpenRequest, workdir: Path, products: str | None) -> dict[str, Any]:
    """Return the properties to compile with.

    The precision is always set: left to itself, OpenVINO computes in bfloat16 on CPUs that have
    it, and in float16 on GPUs. One stream takes all threads, which is what a single request
    wants; ``hint="throughput"`` leaves it to OpenVINO how many calls share them, ``streams`` sets
    it. Inputs of products with weights in few bits are rounded where OpenVINO does it, which is
    what makes them fast, unless the option asks for floats. Threads are not pinned to cores: two
    sessions of one container would take the same.
    Nothing is cached on disk unless the option ``cache`` asks for it: in a folder that it names,
    or under *workdir*.

    Args:
        request: What was asked for.
        workdir: Where a cache without a folder of its own is.
        products: How products of integers are summed.
    """
    hint = str(request.options.get("hint", "latency"))
    on_cpu: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": request.threads or available_cpus(),
        "ENABLE_CPU_PINNING": as_switch(request.options.get("pinning", False)),
    }
    everywhere: dict[str, Any] = {
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": inference_precision(request),
        "CACHE_DIR": _cache_folder(request, workdir, products),
    }
    if "streams" in request.options:
        everywhere["NUM_STREAMS"] = request.options["streams"]
    elif hint == "latency":
        on_cpu["NUM_STREAMS"] = 1
    if _inputs_stay_float(request):
        on_cpu["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    if request.reference:
        everywhere["EXECUTION_MODE_HINT"] = "ACCURACY"
        on_cpu["KV_CACHE_PRECISION"] = "f32"
    device = device_name(request)
    if device == "CPU":
        return everywhere | on_cpu
    if device == "AUTO":
        # Without this, requests start on the CPU and move to another device while they run.
        return everywhere | {"DEVICE_PROPERTIES": {"CPU": on_cpu}, "ENABLE_STARTUP_FALLBACK": False}
    return everywhere


def _inputs_stay_float(request: OpenRequest) -> bool:
    return request.reference or request.options.get(ROUNDED) == "off"


def _cache_folder(request: OpenRequest, workdir: Path, products: str | None) -> str:
    """Return where compiled models are kept; empty for nowhere.

    OpenVINO finds a compiled model by the file and by some of the properties. What sums products
    of integers, what rounds inputs and what makes the yardstick are not among them, so that each
    has its own folder.
    """
    if not _cached(request):
        return ""
    asked = request.options["cache"]
    folder = workdir / CACHE_FOLDER if as_switch(asked) else Path(asked).expanduser()
    if products == FLOAT_EXACT:
        folder /= "float-products"
    if request.options.get(ROUNDED) == "off":
        folder /= "float-inputs"
    return str(folder / "yardstick" if request.reference else folder)


def _cached(request: OpenRequest) -> bool:
    return as_switch(request.options.get("cache") or False) is not False


def compiled_facts(compiled: Any, request: OpenRequest) -> dict[str, Any]:  # noqa: ANN401
    """Return what the compiled model says about itself.

    Raises:
        SessionError: LPT-RUN-308, it computes in another precision than was asked for.
    """
    devices = [str(name) for name in _get(compiled, "EXECUTION_DEVICES", ())]
    got = _get(compiled, "INFERENCE_PRECISION_HINT", None)
    asked = inference_precision(request)
    if got is not None and got.get_type_name() != asked:
        raise SessionError(
            "LPT-RUN-308",
            f"{_full_name(devices, request)} cannot compute in {asked}; it would use "
            f"{got.get_type_name()}",
            remedy=f'Ask for what it has: options={{"inference_precision": '
            f'"{got.get_type_name()}"}}.',
        )
    threads = _get(compiled, "INFERENCE_NUM_THREADS", None)
    streams = _get(compiled, "NUM_STREAMS", None)
    group = _get(compiled, "DYNAMIC_QUANTIZATION_GROUP_SIZE", None)
    return {
        "device": _full_name(devices, request),
        "execution_devices": devices,
        "threads": None if threads is None else int(threads),
        "streams": None if streams is None else int(streams),
        "inference_precision": asked,
        ROUNDED: None if group is None else int(group),
        "pinning": bool(_get(compiled, "ENABLE_CPU_PINNING", False)),
        "hint": str(request.options.get("hint", "latency")),
        "cache": _cached(request),
        "loaded_from_cache": _from_cache(compiled),
    }


def _get(compiled: Any, name: str, otherwise: Any) -> Any:  # noqa: ANN401
    """Return a property, looking through AUTO at the device it chose."""
    supported = compiled.get_property("SUPPORTED_PROPERTIES")
    if name in supported:
        return compiled.get_property(name)
    if "DEVICE_PROPERTIES" in supported:
        for values in compiled.get_property("DEVICE_PROPERTIES").values():
            if name in values:
                return values[name]
    return otherwise


def _from_cache(compiled: Any) -> bool:  # noqa: ANN401
    """Tell whether a compiled model was loaded; the property is not among those it lists."""
    try:
        return bool(compiled.get_property("LOADED_FROM_CACHE"))
    except RuntimeError:  # AUTO and other devices may not know it
        return False


def _full_name(devices: list[str], request: OpenRequest) -> str:
    core = openvino().Core()
    names = devices or [device_name(request)]
    return ", ".join(str(core.get_property(n.strip("()"), "FULL_DEVICE_NAME")) for n in names)


__all__ = [
    "CACHE_FOLDER",
    "OPTIONS",
    "check_request",
    "compiled_facts",
    "device_name",
    "inference_precision",
    "properties",
]
