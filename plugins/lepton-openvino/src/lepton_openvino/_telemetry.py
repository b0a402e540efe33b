"""Importing OpenVINO with its telemetry off.

OpenVINO's Python package sends an event to a web analytics service when it is imported, and more
when a model is converted, from child processes, unless the user has opted out; and it writes an
identifier into the user's home. It does so through the package ``openvino_telemetry``, and carries
a stub that does nothing for installations without that package. While OpenVINO is imported here,
``openvino_telemetry`` cannot be found, so that every module of OpenVINO binds the stub, for good.
No environment variable is set that child processes would inherit, and no file is written.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from lepton_core.errors import PluginDependencyError
from lepton_core.installing import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

_SENDER = "openvino_telemetry"
_lock = threading.Lock()


def openvino() -> Any:  # noqa: ANN401 - the package has no types
    """Return the package ``openvino``, imported with its telemetry off.

    If the process has imported OpenVINO before, that import is the application's own; what is
    used from here on (reading, saving, compiling, running) sends nothing in either case.

    Raises:
        PluginDependencyError: LPT-RUN-309, it is not installed or its libraries do not load.
    """
    with _lock:
        try:
            if "openvino" in sys.modules:
                import openvino as package  # type: ignore[import-untyped]
            else:
                with _without_sender():
                    import openvino as package
        except ImportError as error:
            raise PluginDependencyError(
                "LPT-RUN-309",
                "OpenVINO cannot be imported",
                cause=str(error),
                remedy=install_command("lepton-openvino"),
            ) from error
    return package


@contextlib.contextmanager
def _without_sender() -> Iterator[None]:
    """Make ``import openvino_telemetry`` fail, and put back what was there."""
    held = {
        name: module
        for name, module in list(sys.modules.items())  # other threads import meanwhile
        if name == _SENDER or name.startswith(f"{_SENDER}.")
    }
    for name in held:
        del sys.modules[name]
    sys.modules[_SENDER] = None  # type: ignore[assignment]  # makes the import raise ImportError
    try:
        yield
    finally:
        del sys.modules[_SENDER]
        sys.modules.update(held)
