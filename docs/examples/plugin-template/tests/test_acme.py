from pathlib import Path

import pytest
from lepton_acme import info, plugin

from lepton_core.testing.conformance import TargetConformance
from lepton_core.types import Model


class TestAcme(TargetConformance):
    plugin, info = plugin, info.INFO

    @pytest.fixture
    def source(self):
        return Model("pivot", str(Path(__file__).with_name("small") / "model.onnx"))
