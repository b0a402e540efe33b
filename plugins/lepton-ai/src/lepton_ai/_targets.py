"""Which target is meant where none is named: this machine."""

from __future__ import annotations

from lepton_core.errors import LeptonError, PluginNotInstalledError

DESKTOP = ("onnxruntime", "openvino")
"""Targets that run here, the preferred one first: ONNX Runtime reads every recipe scheme."""


def default_target() -> str:
    """Return the target for this machine: ``onnxruntime``, or ``openvino`` if that is unusable.

    A target is usable if its plugin is installed and not switched off, and the runtime that it
    needs is there in a version that works. Both run on the CPU unless a target string names
    another device (``"openvino:gpu"``).

    Raises:
        PluginNotInstalledError: LPT-AI-002, none is usable; the cause has a reason for each.
    """
    from lepton_core.hooks import default

    registry = default().registry
    reasons = []
    for name in DESKTOP:
        try:
            registry.require(name)
        except LeptonError as error:
            reasons.append(str(error.message))
            continue
        return name
    raise PluginNotInstalledError(
        "LPT-AI-002",
        "No target for this machine can be used",
        cause="; ".join(reasons),
        remedy="Install lepton-ai again, or name another target: `lepton targets` lists them.",
    )


def checked(target: str) -> str:
    """Return a target string in its one spelling after making sure that it can be used here.

    Raises:
        UsageError: LPT-USE-001, it is empty.
        UnknownTargetError: There is no such target.
        PluginError: It is not installed, or cannot be used.
    """
    from lepton_core.hooks import default
    from lepton_core.types import Target

    parsed = Target.parse(target)
    registry = default().registry
    registry.target(parsed.id)
    registry.require(parsed.id)
    return str(parsed)


__all__ = ["DESKTOP", "checked", "default_target"]
