"""The tree of expected failures."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_core import errors
from lepton_core.errors import LeptonError, error_from_dict

CLASSES = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
EXIT_CODES = {
    "UsageError": 2,
    "UnknownTargetError": 2,
    "SourceError": 2,
    "SampleError": 2,
    "PluginNotInstalledError": 4,
    "PluginFailureError": 1,
    "UnsupportedOperationError": 4,
    "PlanError": 4,
    "ConversionError": 1,
    "OptimizeError": 1,
    "OptimizeRequestError": 2,
    "WorkerTimeoutError": 1,
    "StorageError": 5,
    "OperationCancelledError": 130,
}


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_exit_codes(name, code):
    assert getattr(errors, name).exit_code == code


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_class_is_in_the_tree_with_a_docstring(cls):
    assert issubclass(cls, LeptonError)
    assert cls.__doc__
    assert cls.__name__ in errors.__doc__


def test_all_names_the_whole_tree():
    assert {c.__name__ for c in CLASSES} >= set(EXIT_CODES)
    assert len(CLASSES) == len(set(CLASSES)) >= 28


@pytest.mark.parametrize("code", ["", "LPT", "LPT-1", "lpt-use-001", "LPT-USE-1", "LPT-USE-0001"])
def test_refuses_what_is_no_code(code):
    with pytest.raises(ValueError, match="not an error code"):
        LeptonError(code, "message")


def test_text_says_code_cause_and_hint():
    error = LeptonError("LPT-USE-001", "It is wrong", cause="because", remedy="do that")
    assert str(error) == "LPT-USE-001: It is wrong\n  cause: because\n  hint: do that"
    assert str(LeptonError("LPT-USE-001", "It is wrong")) == "LPT-USE-001: It is wrong"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(CLASSES),
    st.text(),
    st.none() | st.text(),
    st.dictionaries(st.text(max_size=4), json_values),
)
def test_survives_json_and_pickle(cls, message, cause, details):
    error = cls("ACME-AREA-007", message, cause=cause, remedy="r", details=details)
    for copy in (
        error_from_dict(json.loads(json.dumps(error.to_dict()))),
        pickle.loads(pickle.dumps(error)),
    ):
        assert type(copy) is cls
        assert copy.to_dict() == error.to_dict()
        assert str(copy) == str(error)


def test_a_vendors_class_that_is_not_known_here_comes_back_as_the_base():
    data = LeptonError("ACME-RUN-001", "m").to_dict() | {"type": "AcmeError"}
    assert type(error_from_dict(data)) is LeptonError


def test_details_are_copied():
    details = {"a": 1}
    error = LeptonError("LPT-USE-001", "m", details=details)
    details["a"] = 2
    assert error.details == {"a": 1}
