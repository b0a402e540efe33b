"""Sizes that a package declares: what it takes is what was run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_core.errors import ConversionError, LeptonError
from lepton_core.types import ConvertRequest
from lepton_coreml import _convert, plugin
from lepton_coreml._mil._package import open_package
from lepton_coreml._prove import run_once


@pytest.fixture
def convert(graphs, tmp_path, context):
    def call(proto, **wanted):
        pivot = graphs.to_pivot(proto, tmp_path / "pivot")
        return plugin.lepton_convert(pivot, ConvertRequest("coreml", **wanted), context)

    return call


def two_names(graphs):
    """Two sizes that must be equal: torch takes them for one that it has not been told of."""
    return graphs.model(
        [graphs.node("Add", ["x", "z"], ["y"])],
        [graphs.value("x", ["n", 4]), graphs.value("z", ["m", 4])],
        [graphs.value("y", ["n", 4])],
    )


def positions(graphs):
    """A table of 32 positions is cut to the length of the input."""
    return graphs.model(
        [
            graphs.node("Shape", ["x"], ["sizes"], start=1, end=2),
            graphs.node("Slice", ["table", "start", "sizes", "start"], ["p"]),
            graphs.node("Add", ["x", "p"], ["y"]),
        ],
        [graphs.value("x", ["n", "t"])],
        [graphs.value("y", ["n", "t"])],
        [
            graphs.weight("start", np.array([0])),
            graphs.weight("table", np.arange(32, dtype="f4")),
        ],
    )


def test_one_row_is_taken_where_torch_states_two(graphs, convert, opened):
    result = convert(two_names(graphs))
    assert all(low == 1 for low, _ in result.facts["symbols"].values())
    session = opened(result.model)
    for rows in (1, 2, 64):
        x = np.ones((rows, 4), "f4")
        np.testing.assert_array_equal(session.run({"x": x, "z": x})["y"], x + x)


def test_the_largest_size_is_that_of_the_model(graphs, convert, opened):
    result = convert(positions(graphs))
    shape = open_package(Path(result.model.path)).program().inputs[0].shape
    assert shape == ((1, 64), (1, 32))
    assert not any("does not run" in w for w in result.warnings)


@pytest.mark.parametrize(("names", "sizes"), [((), "(64, 40)"), ((("n", "t"),), "(1, 40)")])
def test_a_bound_that_the_program_does_not_reach_is_warned_of(graphs, convert, names, sizes):
    package = open_package(Path(convert(positions(graphs)).model.path))
    assert run_once(package.path, names) == []
    message = package.message()
    (x,) = message.description.input
    x.type.multiArrayType.shapeRange.sizeRanges[1].upperBound = 40
    package.model_file.write_bytes(message.SerializeToString())
    (warning,) = run_once(package.path, names)
    assert f"inputs of {sizes} and does not run" in warning


def test_a_very_large_size_keeps_no_other_from_being_tried(graphs, convert):
    result = convert(positions(graphs), options={"max_batch": 5000})
    package = open_package(Path(result.model.path))
    message = package.message()
    (x,) = message.description.input
    x.type.multiArrayType.shapeRange.sizeRanges[1].upperBound = 40
    package.model_file.write_bytes(message.SerializeToString())
    (warning,) = run_once(package.path, (("n", "t"),))
    assert "inputs of (1, 40) and does not run" in warning


def test_two_rows_at_least_where_one_cannot_be_proved(graphs, convert, monkeypatch):
    tried = []

    def at_first_refused(path, names):
        tried.append(open_package(path).program().inputs[0].shape[0])
        if len(tried) == 1:
            raise ConversionError("LPT-CONV-509", "x", remedy="y")
        return run_once(path, names)

    monkeypatch.setattr(_convert, "run_once", at_first_refused)
    result = convert(two_names(graphs))
    assert tried == [(1, 64), (2, 64)]
    assert any("takes n from 2 on" in w for w in result.warnings)


def test_the_remedy_fits_the_direction(graphs, convert, opened):
    session = opened(convert(two_names(graphs), options={"max_batch": 4}).model)
    remedies = []
    for rows in (0, 5):
        x = np.ones((rows, 4), "f4")
        with pytest.raises(LeptonError) as caught:
            session.run({"x": x, "z": x})
        assert caught.value.code == "LPT-RUN-508"
        remedies.append(caught.value.remedy)
    assert "Run fewer" not in remedies[0]
    assert "Run fewer" in remedies[1]
