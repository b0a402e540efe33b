"""Whole networks from torch, in float32 and float16, at several batches."""

from __future__ import annotations

import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

from lepton_core.context import Context
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_coreml import plugin

pytestmark = pytest.mark.conformance

NETWORKS = runpy.run_path(str(Path(__file__).with_name("networks.py")))["NETWORKS"]


@pytest.fixture(scope="module")
def made(graphs, tmp_path_factory):
    import onnx
    import torch

    done = {}

    def call(name):
        if name in done:
            return done[name]
        torch.manual_seed(0)
        net, feed = NETWORKS[name]()
        tensors = tuple(torch.tensor(array) for array in feed.values())
        batch = torch.export.Dim("batch", min=1, max=1024)
        folder = tmp_path_factory.mktemp(name)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            found = net.eval()(*tensors)
            torch.onnx.export(
                net, tuple(t[:2] for t in tensors), dynamo=True, verbose=False, opset_version=21,
                input_names=list(feed), output_names=["y"],
                dynamic_shapes=tuple({0: batch} for _ in feed),
            ).save(str(folder / "exported.onnx"))  # fmt: skip
        pivot = graphs.to_pivot(onnx.load(folder / "exported.onnx"), folder / "pivot")
        done[name] = pivot, feed, found.numpy()
        return done[name]

    return call


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 1e-2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_torch_gives(name, precision, limit, made, tmp_path):
    pivot, feed, wanted = made(name)
    context = Context(tmp_path)
    request = ConvertRequest("coreml", precision=precision)
    result = plugin.lepton_convert(pivot, request, context)
    with plugin.lepton_open(result.model, OpenRequest("coreml"), context) as session:
        for rows in (1, 2, len(wanted)):
            found = session.run({k: v[:rows] for k, v in feed.items()})["y"]
            size = np.linalg.norm(wanted[:rows])
            assert np.linalg.norm(found - wanted[:rows]) < limit * size, rows
    record = result.facts["weights"]
    assert record["elements_found"] >= 0.5 * record["elements"]
