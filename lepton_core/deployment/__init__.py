"""The deployment handle: ``lepton_core.deployment("digits@production")``.

.. code-block:: python

    import lepton_core as lepton

    with lepton.deployment("digits@production") as digits:
        outputs = digits.run({"image": image})

This module may itself be called, because the function and the package share their name: whatever
imported the package first, ``lepton_core.deployment(...)`` opens a deployment.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lepton_core.deployment._alarms import Alarm
from lepton_core.deployment._handle import Deployment
from lepton_core.deployment._open import open_deployment
from lepton_core.deployment._settings import check_setting
from lepton_core.deployment._telemetry import CallError, VersionStats


class _CallableModule(ModuleType):
    def __call__(self, reference: str, **options: Any) -> Deployment:  # noqa: ANN401
        """Open a deployment; see :func:`.open_deployment`."""
        return open_deployment(reference, **options)


sys.modules[__name__].__class__ = _CallableModule

__all__ = ["Alarm", "CallError", "Deployment", "VersionStats", "check_setting", "open_deployment"]
