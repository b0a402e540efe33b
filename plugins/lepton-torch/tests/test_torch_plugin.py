"""What the plugin declares, and that declaring it costs nothing."""

import subprocess
import sys

import pluggy

from lepton_core.capabilities import TargetInfo
from lepton_core.hookspecs import LeptonSpecs
from lepton_core.markers import PROJECT_NAME
from lepton_torch import plugin
from lepton_torch.info import INFO


def test_importing_plugin_and_info_loads_no_framework():
    code = (
        "import sys, lepton_torch.plugin, lepton_torch.info, lepton_torch._check;"
        "print([m for m in ('torch', 'numpy', 'onnx', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_hooks_fit_the_contract():
    manager = pluggy.PluginManager(PROJECT_NAME)
    manager.add_hookspecs(LeptonSpecs)
    manager.register(plugin)
    manager.check_pending()
    names = {call.name for call in manager.get_hookcallers(plugin)}
    names_wanted = {"adapt", "inspect", "check", "convert", "open"}
    assert names == {f"lepton_{verb}" for verb in names_wanted}


def test_declared_edges_lead_from_every_source_to_the_pivot():
    assert isinstance(INFO, TargetInfo)
    edges = {(e.source, e.result): e for e in INFO.edges}
    assert set(edges) == {
        ("torch.factory", "torch.export"),
        ("huggingface", "torch.export"),
        ("torch.export", "pivot"),
        ("pivot", "torch.export"),
    }
    assert all(e.isolated for e in edges.values())
    assert INFO.opens_format("torch.export").reference_rank == 0
    assert INFO.artifact == "torch.export"
    assert all(name.split(".")[0] for name in INFO.capabilities)
