"""The kit that every target passes."""

from __future__ import annotations

import pytest

from lepton_core.testing.conformance import TargetConformance
from lepton_coreml import info, plugin


class TestCoreML(TargetConformance):
    plugin, info = plugin, info.INFO

    @pytest.fixture
    def source(self, pivots):
        return pivots("perceptron")
