"""For tests of plugins and of the core: a complete fake target, reporters, conformance checks.

The core never imports this package. A plugin's tests may; it needs numpy and, for
:mod:`.conformance`, pytest.
"""

from __future__ import annotations

from lepton_core.testing.reporting import RecordingReporter

__all__ = ["RecordingReporter"]
