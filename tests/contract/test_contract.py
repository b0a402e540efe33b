"""The façade equals the specifications; requests and results are plain data."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lepton_core
from lepton_core import codec, hooks, types
from lepton_core.dispatch import RESULTS, Hooks
from lepton_core.hookspecs import LeptonSpecs

VERBS = sorted(
    name.removeprefix("lepton_")
    for name in vars(LeptonSpecs)
    if name.startswith("lepton_") and "stage" not in name
)
SPECS = {name: spec for name, spec in vars(LeptonSpecs).items() if name.startswith("lepton_")}
CLASSES = [cls for name in types.__all__ if dataclasses.is_dataclass(cls := getattr(types, name))]
REQUESTS = {verb: getattr(types, f"{verb.capitalize()}Request") for verb in VERBS}


def parameters(function):
    return [p for p in inspect.signature(function).parameters.values() if p.name != "self"]


# --- specifications -----------------------------------------------------------------------------


def test_the_verbs_are_these():
    verbs = "adapt adjust check convert deploy inspect migrate open optimize"
    assert verbs.split() == VERBS


@pytest.mark.parametrize("name", SPECS)
def test_a_specification_takes_plain_parameters_without_defaults(name):
    expected = ["event"] if "stage" in name else ["model", "request", "context"]
    assert [p.name for p in parameters(SPECS[name])] == expected
    for parameter in parameters(SPECS[name]):
        assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        assert parameter.default is parameter.empty
        assert parameter.annotation is not parameter.empty


@pytest.mark.parametrize("name", SPECS)
def test_verbs_have_one_answer_and_observers_none(name):
    options = SPECS[name].lepton_spec
    assert options["firstresult"] is ("stage" not in name)
    assert options["historic"] is False


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_documented_in_the_fixed_form(name):
    text = inspect.getdoc(SPECS[name])
    summary = text.splitlines()[0]
    assert summary.endswith(".")
    assert len(summary) <= 90
    assert re.search(r"^\.\. versionadded:: \d+\.\d+$", text, re.MULTILINE)
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    named = re.findall(r"^    (\w+): \S", arguments, re.MULTILINE)
    assert named == [p.name for p in parameters(SPECS[name])]
    if "stage" not in name:
        assert "\nCalled " in text, "says who calls it, on whom"
        assert "Returns:\n" in text
        if name != "lepton_check":
            assert re.search(r"Raises:\n    \w+Error: ", text)


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_in_the_reference(name, root):
    page = (root / "docs/reference/hooks.md").read_text(encoding="utf-8")
    assert f"\n## {name}\n" in page


# --- façade -------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("where", [hooks, Hooks], ids=["functions", "methods"])
def test_the_typed_facade_equals_the_specifications(verb, where):
    spec = SPECS[f"lepton_{verb}"]
    facade = getattr(where, verb)
    names = [(p.name, p.kind, p.default) for p in parameters(facade)]
    assert names == [(p.name, p.kind, p.default) for p in parameters(spec)]
    spec_return = str(inspect.signature(spec).return_annotation).removesuffix(" | None")
    facade_return = str(inspect.signature(facade).return_annotation)
    assert facade_return.removeprefix("types.") == spec_return
    for ours, theirs in zip(parameters(facade), parameters(spec), strict=True):
        assert str(ours.annotation).removeprefix("types.") == str(theirs.annotation)


def test_hooks_has_nothing_that_no_specification_has():
    extra = set(hooks.__all__) - set(VERBS)
    assert extra == {"default", "use"}


@pytest.mark.parametrize("verb", [v for v in VERBS if hasattr(lepton_core, v)])
def test_the_keyword_facade_takes_the_fields_of_the_request(verb):
    facade = inspect.signature(getattr(lepton_core, verb))
    keywords = {p.name: p for p in facade.parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert next(iter(facade.parameters)) == "model"
    keywords.pop("context")
    fields = {f.name: f for f in dataclasses.fields(REQUESTS[verb])}
    assert list(keywords) == list(fields), "names and order"
    for name, field in fields.items():
        given = keywords[name].default
        if field.default is not dataclasses.MISSING:
            assert given == field.default, name
        elif field.default_factory is not dataclasses.MISSING:
            assert given is None, name
        elif (verb, name) != ("open", "target"):  # found by itself if it is not given
            assert given is inspect.Parameter.empty, name


def test_the_keyword_facade_has_every_verb_of_the_design():
    for verb in ("adapt", "convert", "optimize", "deploy", "adjust", "migrate", "open", "inspect"):
        assert verb in lepton_core.__all__


# --- plain data ---------------------------------------------------------------------------------


def test_every_verb_has_a_request_and_a_result():
    for verb in VERBS:
        assert REQUESTS[verb] in CLASSES
        if verb != "open":
            assert RESULTS[verb] is getattr(types, f"{verb.capitalize()}Result")
    assert set(RESULTS) == set(VERBS) - {"open"}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_types_are_frozen_with_slots_and_document_every_field(cls):
    assert cls.__dataclass_params__.frozen
    assert "__slots__" in vars(cls)
    text = inspect.getdoc(cls)
    listed = re.findall(r"^    (\w+): ", text.partition("Attributes:\n")[2], re.MULTILINE)
    if listed:
        assert listed == [f.name for f in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_growth_is_by_fields_with_defaults(cls):
    """Only what identifies a request or a result is required."""
    required = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    assert len(required) <= 3


texts = st.text(max_size=6)
floats = st.floats(allow_nan=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def strategy(hint):
    """Return values of an annotation that occurs in the types; anything else is not plain."""
    simple = {str: texts, int: st.integers(-(2**63), 2**63 - 1), float: floats, bool: st.booleans(),
              NoneType: st.none(), Any: plain}  # fmt: skip
    if hint in simple:
        return simple[hint]
    if dataclasses.is_dataclass(hint):
        fields = get_type_hints(hint)
        return st.builds(hint, **{name: strategy(kind) for name, kind in fields.items()})
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of(*map(strategy, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(strategy(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(strategy, arguments))
    if origin is Mapping:
        return st.dictionaries(strategy(arguments[0]), strategy(arguments[1]), max_size=3)
    raise AssertionError(f"{hint} is no annotation of plain data")


# A variant belongs to one process: it holds its passport as an object. Its parts cross.
CROSSING = [cls for cls in CLASSES if cls is not types.Variant]


@pytest.mark.parametrize("cls", CROSSING, ids=lambda c: c.__name__)
def test_types_survive_the_border_and_json(cls):
    import msgspec

    @settings(max_examples=15, deadline=None)
    @given(strategy(cls))
    def round_trip(value):
        assert codec.untagged(codec.unpack(codec.pack(codec.tagged(value)))) == value
        data = codec.to_data(value)
        if _is_finite(data):  # JSON has no infinities
            assert codec.from_data(msgspec.json.decode(msgspec.json.encode(data)), cls) == value

    round_trip()


def _is_finite(data):
    if isinstance(data, float):
        return abs(data) != float("inf")
    if isinstance(data, dict):
        return all(map(_is_finite, data.values()))
    return all(map(_is_finite, data)) if isinstance(data, list | tuple) else True
