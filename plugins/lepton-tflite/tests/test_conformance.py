"""LiteRT passes the conformance kit, from outside, as a vendor's target would."""

from __future__ import annotations

import shutil

import pytest

from lepton_core.testing.conformance import TargetConformance
from lepton_tflite import info, plugin

pytestmark = pytest.mark.xdist_group("tflite")
pytest.importorskip("litert_torch")


class TestTflite(TargetConformance):
    plugin, info = plugin, info.INFO
    tells_execution = True

    @pytest.fixture(autouse=True)
    def once(self, single):
        """Hold the file that all tests share: each check of its own would take seconds."""
        self.made = single.model

    @pytest.fixture
    def source(self, pivot):
        return pivot

    def build(self, hooks, source, place, name="a"):
        if name == "b":  # the second of the check that the same bytes come out
            return super().build(hooks, source, place, name)
        (place.workdir / name).mkdir()
        path = place.workdir / name / "model.tflite"
        shutil.copy(self.made.path, path)
        return self.made.evolve(path=str(path))
