"""What was asked of a session, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_core.environment import available_cpus
from lepton_core.errors import SessionError
from lepton_core.switches import as_switch
from lepton_tflite._ports import NCHW, NHWC
from lepton_tflite.info import INFO

if TYPE_CHECKING:
    from lepton_core.types import OpenRequest

INTERPRETER, COMPILED = "interpreter", "compiled"
_CHOICES = {
    "io": ("float", "int8"),
    "layout": (NCHW, NHWC),
    "api": (INTERPRETER, COMPILED),
    "accelerator": ("cpu", "gpu", "npu"),
}
OPTIONS = ("xnnpack", *_CHOICES)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to open a file.

    Attributes:
        threads: Of the kernels.
        delegate: Whether XNNPACK may run what it can.
        io: ``"float"``, or ``"int8"`` to pass the border's integers as they are.
        layout: ``"nchw"``, or ``"nhwc"`` to pass inputs that the file takes so as they are.
        api: ``"interpreter"``, or ``"compiled"`` for LiteRT's ``CompiledModel``.
        accelerator: ``"cpu"``; with ``CompiledModel`` also ``"gpu"`` and ``"npu"``.
    """

    threads: int
    delegate: bool = True
    io: str = "float"
    layout: str = NCHW
    api: str = INTERPRETER
    accelerator: str = "cpu"


def parse_wanted(request: OpenRequest) -> Wanted:
    """Return how to open a file.

    Raises:
        SessionError: LPT-RUN-409 (device), 410 (an option), 411 (threads), 413 (its value).
    """
    device = request.device or "cpu"
    if device not in INFO.devices:
        raise SessionError(
            "LPT-RUN-409",
            f"LiteRT has no device {request.device!r}",
            remedy=f"Use one of {', '.join(INFO.devices)}; all of them run on the CPU here.",
        )
    for key in request.options:
        if key not in OPTIONS:
            raise SessionError(
                "LPT-RUN-410",
                f"tflite has no option {key!r} for opening",
                remedy=f"Options are {', '.join(OPTIONS)}.",
            )
    chosen = {key: _chosen(request, key) for key in _CHOICES}
    if chosen["accelerator"] != "cpu" and chosen["api"] != COMPILED:
        raise SessionError(
            "LPT-RUN-413",
            f"LiteRT's interpreter has no accelerator {chosen['accelerator']!r}",
            remedy="Add the option api=compiled, or leave the accelerator out.",
        )
    delegate = _switched_on(request) and not request.reference
    if request.threads is not None and request.threads < 1:
        raise SessionError(
            "LPT-RUN-411",
            f"{request.threads} threads were asked for",
            remedy="Ask for 1 or more, or leave it out to use what the container allows.",
        )
    return Wanted(request.threads or available_cpus(), delegate, **chosen)


def _chosen(request: OpenRequest, key: str) -> str:
    given = request.options.get(key, _CHOICES[key][0])
    if given not in _CHOICES[key]:
        raise SessionError(
            "LPT-RUN-413",
            f"The option {key} cannot be {given!r}",
            remedy=f"It is {' or '.join(_CHOICES[key])}.",
        )
    return str(given)


def _switched_on(request: OpenRequest) -> bool:
    """Return whether XNNPACK was asked for."""
    given = request.options.get("xnnpack", True)
    on = as_switch(given)
    if on is None:
        raise SessionError(
            "LPT-RUN-413",
            f"The option xnnpack cannot be {given!r}",
            remedy="It is true or false.",
        )
    return on


__all__ = ["COMPILED", "INTERPRETER", "OPTIONS", "Wanted", "parse_wanted"]
