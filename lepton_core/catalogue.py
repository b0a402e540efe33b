"""First-party plugins by name, so that an error can say what to install.

This is a hint table only: nothing is loaded from it, and a vendor's plugin needs no entry here.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_core.capabilities import Support
from lepton_core.installing import install_command


@dataclass(frozen=True, slots=True)
class KnownPlugin:
    """A plugin that this version of lepton knows by name.

    Attributes:
        id: Plugin id.
        title: Display name.
        kind: ``"target"``, ``"engine"`` or ``"format"``.
        support: ``FULL`` if it can be installed today, ``NOT_IMPLEMENTED`` if it is planned.
        pip: What to install.
        suffixes: Source suffixes it reads (``".pt2"``; ``".py:"`` for ``file.py:name``).
    """

    id: str
    title: str
    kind: str
    support: Support
    pip: str = ""
    suffixes: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """What to do to get it."""
        if self.support:
            return install_command(self.pip)
        return f"{self.title} is planned; this version of lepton has no plugin for it yet."


KNOWN = {
    known.id: known
    for known in (
        KnownPlugin("onnx", "ONNX", "format", Support.FULL, "lepton-onnx", (".onnx",)),
        KnownPlugin(
            "onnxruntime", "ONNX Runtime", "target", Support.FULL, "lepton-onnxruntime[cpu]"
        ),
        KnownPlugin(
            "torch",
            "PyTorch",
            "target",
            Support.FULL,
            "lepton-torch[huggingface]",
            (".py:", ".pt2", "config.json"),
        ),
        KnownPlugin("openvino", "OpenVINO", "target", Support.FULL, "lepton-openvino"),
        KnownPlugin(
            "tflite",
            "LiteRT (TensorFlow Lite)",
            "target",
            Support.FULL,
            "lepton-tflite",
            (".tflite",),
        ),
        KnownPlugin("coreml", "Core ML", "target", Support.FULL, "lepton-coreml"),
        KnownPlugin(
            "compress", "The compression engine", "engine", Support.FULL, "lepton-compress"
        ),
    )
}

__all__ = ["KNOWN", "KnownPlugin"]
