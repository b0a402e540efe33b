"""The torch target passes the conformance kit, from outside, as a vendor's target would."""

from __future__ import annotations

import pytest

from lepton_core.testing.conformance import TargetConformance
from lepton_core.types import Model
from lepton_torch import info, plugin

FACTORY = """
import torch

def net():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 300), torch.nn.ReLU())
    return module, {"input": torch.zeros(2, 4)}
"""


class TestTorch(TargetConformance):
    plugin, info = plugin, info.INFO

    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "net.py").write_text(FACTORY)
        return Model("torch.factory", str(tmp_path / "net.py"), "net")
