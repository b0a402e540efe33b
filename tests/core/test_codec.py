"""Plain data and back."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from lepton_core import codec, types
from lepton_core.errors import UsageError


def test_paths_and_numpy_scalars_become_plain():
    value = types.ConvertResult(
        types.Model("fake", "m"),
        {"p": Path("a/b"), "f": np.float32(0.5), "i": np.int64(3), "b": np.bool_(True)},
    )
    data = codec.to_data(value)
    assert data["facts"] == {"p": str(Path("a/b")), "f": 0.5, "i": 3, "b": True}


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinities_cross(value):
    assert codec.unpack(codec.pack({"v": value}))["v"] == value
    assert math.isnan(codec.unpack(codec.pack({"v": math.nan}))["v"])


@pytest.mark.parametrize("value", [threading.Lock(), object(), lambda: None, np.zeros(3)])
def test_what_is_not_plain_is_named_as_a_usage_error(value):
    request = types.ConvertRequest("fake", options={"deep": [{"it": value}]})
    with pytest.raises(UsageError, match="not plain data") as caught:
        codec.to_data(request)
    assert caught.value.code == "LPT-USE-002"
    assert type(value).__name__ in str(caught.value)
    with pytest.raises(UsageError, match="not plain data"):
        codec.pack({"x": value})


@pytest.mark.parametrize("value", [2**70, "\udcff"])
def test_values_that_no_message_can_hold(value):
    with pytest.raises(UsageError, match="not plain data"):
        codec.pack({"x": value})


def test_from_data_checks_types():
    with pytest.raises(UsageError, match="Model") as caught:
        codec.from_data({"format": 3, "path": "x"}, types.Model)
    assert caught.value.code == "LPT-USE-002"
    assert "format" in caught.value.cause


def test_from_data_ignores_fields_of_a_newer_version():
    assert codec.from_data({"seconds": 1.0, "watts": 3}, types.Limits) == types.Limits(1.0)


@pytest.mark.parametrize("name", ["dict", "Any", "Mapping", "replace", "subprocess", "__name__"])
def test_untagged_builds_only_types_of_the_contract(name):
    with pytest.raises(UsageError, match="process border"):
        codec.untagged({"type": name, "data": {}})


def test_tagged_round_trip():
    model = types.Model(
        "onnx",
        "/m.onnx",
        signature=types.Signature(
            (types.TensorSpec("x", "float32", ("batch", None, 3)),),
            (types.TensorSpec("y", "float32", ("batch",), "N"),),
        ),
        lineage=(types.LineageStep("materialise", "acme 1.0"),),
    )
    assert codec.untagged(codec.unpack(codec.pack(codec.tagged(model)))) == model


def test_text_of_a_subclass_crosses_as_text():
    class Version(str):
        __slots__ = ()

    assert type(codec.to_data({"version": Version("2.13.0")})["version"]) is str
