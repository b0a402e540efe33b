"""Trained and exported networks give torch's numbers on OpenVINO."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("openvino-networks")

FP32_LIMIT = 1e-4
FP16_LIMIT = 2e-2


def relative(found, expected):
    found, expected = found.astype("f8"), expected.astype("f8")
    return np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1.0)


@pytest.mark.parametrize("name", ["digits", "encoder", "lstm", "tokens"])
def test_parity_with_torch(networks, convert, opened, name):
    network = networks(name)
    for precision, limit in (("fp32", FP32_LIMIT), ("fp16", FP16_LIMIT)):
        session = opened(convert(network.pivot, precision).model)
        found = session.run(network.feed)
        assert list(found) == list(network.expected)
        worst = 0.0
        for key, expected in network.expected.items():
            assert found[key].dtype == expected.dtype
            assert found[key].shape == expected.shape
            if expected.dtype.kind == "i":
                np.testing.assert_array_equal(found[key], expected)
            worst = max(worst, relative(found[key], expected))
        assert worst <= limit
        print(f"{name} {precision}: relative L2 {worst:.1e}")
        assert set(session.facts["execution_layers"]) == {"fp32"}
        for rows in (1, 2):
            part = session.run({k: v[:rows] for k, v in network.feed.items()})
            for key, expected in network.expected.items():
                assert relative(part[key], expected[:rows]) <= limit


def test_the_digits_are_still_read(networks, convert, opened):
    network = networks("digits")
    source = network.expected["logits"].argmax(1)
    assert (source == network.labels).mean() > 0.9
    for precision in ("fp32", "fp16"):
        found = opened(convert(network.pivot, precision).model).run(network.feed)["logits"]
        assert (found.argmax(1) == source).mean() >= 0.995


def test_other_lengths_than_exported(networks, convert, opened):
    """Symbolic dimensions beside the batch stay free."""
    network = networks("encoder")
    session = opened(convert(network.pivot).model, threads=1)
    whole = network.feed["x"]
    for length in (9, 4, 1):
        assert session.run({"x": whole[:, :length]})["y"].shape == (3, 7)
    assert relative(session.run({"x": whole})["y"], network.expected["y"]) <= FP32_LIMIT
