"""Which command installs a distribution, for the hints of errors."""

from __future__ import annotations

import re

_OURS = re.compile(
    r"lepton-(core|kernels|onnx|torch|onnxruntime|openvino|tflite|coreml|compress|ai)(\[[a-z,]+\])?"
)


def install_command(requirement: str, *options: str) -> str:
    """Return the command that installs a distribution.

    lepton's own are on no package index yet, and what an index has under their names is not ours:
    they are named by their wheels.

    Args:
        requirement: What to install (``"openvino>=2026"``, ``"lepton-onnxruntime[cpu]"``).
        options: Of pip (``"--upgrade"``).

    Returns:
        A line for a shell.
    """
    pip = " ".join(("pip install", *options))
    ours = _OURS.fullmatch(requirement)
    if ours is None:
        return f'{pip} "{requirement}"'
    name, extras = ours.groups()
    wheel = f"dist/lepton_{name}-*.whl"
    named = f'"$(ls {wheel}){extras}"' if extras else wheel
    return f"{pip} {named}  # from `make wheels` in lepton's tree"


__all__ = ["install_command"]
