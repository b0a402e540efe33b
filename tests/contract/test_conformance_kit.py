"""The conformance kit passes on the fake target, and fails on one that breaks the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lepton_core import types
from lepton_core.capabilities import Opens
from lepton_core.dispatch import Hooks
from lepton_core.markers import hookimpl
from lepton_core.testing import fake_target
from lepton_core.testing.conformance import TargetConformance
from lepton_core.testing.fake_target import write_graph


def _source(tmp_path):
    layers = [{"op": "linear", "weight": [[1.0, 2.0]], "bias": [0.5]}, {"op": "relu"}]
    return types.Model("fake-graph", str(write_graph(tmp_path / "n.fake", 2, layers)))


class TestFakeTarget(TargetConformance):
    plugin, info = fake_target, fake_target.INFO

    @pytest.fixture
    def source(self, tmp_path):
        return _source(tmp_path)


class Careless:
    """Changes its input, differs from run to run and leaves the lineage out."""

    calls = 0

    @hookimpl
    def lepton_convert(self, model, request, context):
        self.calls += 1
        with open(model.path, "a") as stream:
            stream.write(" ")
        path = context.workdir / "m"
        path.write_text(str(self.calls))
        return types.ConvertResult(
            model.evolve(format="fake", path=str(path), digest=f"sha256:{self.calls}")
        )

    @hookimpl
    def lepton_open(self, model, request, context):
        with open(model.path) as stream:
            raise RuntimeError(f"the runtime knows nothing of {stream.read(1)!r}")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("test_convert_fills_in_the_result", "set digest=lepton_core.files.digest_path"),
        ("test_convert_changes_no_input", "copy it to context.workdir first"),
        ("test_convert_is_reproducible", "normalise dates"),
        ("test_a_damaged_artifact_is_an_expected_failure", "RuntimeError: the runtime .* catch"),
    ],
)
def test_the_kit_finds_what_is_wrong(registry, tmp_path, context, name, advice):
    class Kit(TargetConformance):
        plugin = Careless()
        info = replace(fake_target.INFO, capabilities={}, sources=(), opens=(Opens("fake"),))

    registry.register(Kit.plugin, Kit.info)
    with pytest.raises(AssertionError, match=advice):
        getattr(Kit(), name)(Hooks(registry), _source(tmp_path), context)


def test_the_kit_finds_a_verb_that_is_declared_but_missing():
    class Kit(TargetConformance):
        plugin, info = Careless(), fake_target.INFO

    with pytest.raises(AssertionError, match="declared but has no hook"):
        Kit().test_declares_only_verbs_that_it_implements(None)
