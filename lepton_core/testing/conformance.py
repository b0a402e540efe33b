"""First checks that any plugin must pass; a vendor's tests subclass these.

.. code-block:: python

    class TestAcme(TargetConformance):
        plugin, info = lepton_acme.plugin, lepton_acme.info.INFO

        @pytest.fixture
        def source(self):
            return Model("pivot", str(Path(__file__).with_name("small") / "model.onnx"))

``lepton convert MODEL --to onnxruntime --format pivot --out tests/small`` writes such a pivot. The
checks need pytest and numpy, and run the plugin in this process. docs/how-to/write-a-plugin.md
shows the whole file.
"""

# ruff: noqa: S101 - assertions are what a kit is made of
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from lepton_core import types
from lepton_core.dispatch import RESULTS, Hooks
from lepton_core.errors import LeptonError, PluginFailureError, SessionError
from lepton_core.files import digest_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lepton_core.capabilities import PluginInfo, TargetInfo
    from lepton_core.context import Context, Session
    from lepton_core.types import Model, TensorSpec


def example_inputs(signature: types.Signature, *, rows: int = 2, seed: int = 0) -> dict[str, Any]:
    """Return one array per input: normal floats, zeros for integers and booleans.

    Args:
        signature: Inputs with dtype and shape.
        rows: Size of every dimension that is not a number.
        seed: Seed of the floats.
    """
    import numpy as np

    rng = np.random.default_rng(seed)

    def array(spec: TensorSpec) -> Any:  # noqa: ANN401 - an array of any dtype
        shape = tuple(d if isinstance(d, int) else rows for d in spec.shape)
        if np.dtype(spec.dtype).kind == "f":
            return rng.normal(size=shape).astype(spec.dtype)
        return np.zeros(shape, spec.dtype)

    return {spec.name: array(spec) for spec in signature.inputs}


PRECISIONS = ("fp64", "fp32", "fp16", "bf16", "int16", "int8", "int4")
"""What a node may compute in; ``" dynamic"`` after it says that its input is quantized then."""


def check_execution_map(session: Session) -> None:
    """Hold a session's execution map to the form that all targets have in common.

    Raises:
        AssertionError: It differs, or contradicts itself or the session's facts.
    """
    import json

    from lepton_core.execution import NOT_TOLD, execution_map

    found = execution_map(session)
    assert found.runtime == session.facts["runtime"], "the map's runtime is that of the facts"
    assert found.nodes, "the map lists the nodes that ran"
    for node in found.nodes:
        assert node.operator, f"{node} says its operator"
        assert node.precision.removesuffix(" dynamic") in (*PRECISIONS, ""), (
            f"{node}: a precision is one of {', '.join(PRECISIONS)}, or empty"
        )
        assert node.device == node.device.lower(), f"{node}: devices are written in small letters"
        assert node.provider or found.notes, f"{node} has no provider, and no note says why"
        assert all(node.sources), f"{node}: a source that is not known is left out"
    computing = [node for node in found.nodes if node.precision]
    assert any(node.sources for node in computing), "no node is traced to the model"
    totals, wrong = found.totals(), "totals() does not add up to the nodes"
    assert totals == session.facts["execution"], (
        "set the session's fact \"execution\" to the map's totals()"
    )
    assert totals["nodes"] == len(found.nodes) == sum(totals["devices"].values()), wrong
    assert totals["computing"] == len(computing) == sum(totals["precisions"].values()), wrong
    assert sum(sum(c.values()) for c in totals["providers"].values()) == len(found.nodes), wrong
    assert set(totals["providers"]) <= {node.provider or NOT_TOLD for node in found.nodes}, wrong
    data, form = json.loads(json.dumps(found.to_dict())), "to_dict() has other fields"
    assert set(data) == {"runtime", "totals", "nodes", "notes"}, form
    fields = {"name", "operator", "sources", "device", "provider", "precision"}
    assert all(set(node) == fields for node in data["nodes"]), form


class PluginConformance:
    """What holds for every plugin.

    Attributes:
        plugin: The plugin module or object.
        info: Its description.
    """

    plugin: ClassVar[object]
    info: ClassVar[PluginInfo]

    @pytest.fixture
    def hooks(self) -> Hooks:
        """Return hooks over this plugin alone; registering checks its signatures."""
        from lepton_core.registry import Registry

        registry = Registry(environ={}, entries=())
        registry.register(self.plugin, self.info)
        return Hooks(registry)

    def test_declares_only_verbs_that_it_implements(self, hooks: Hooks) -> None:
        """A verb that is declared supported has a hook, and a hook is not declared unsupported."""
        for verb in (*RESULTS, "open"):
            declared = self.info.capabilities.get(verb)
            has_hook = hasattr(self.plugin, f"lepton_{verb}")
            if declared is not None:
                assert bool(declared.support) <= has_hook, (
                    f"{verb} is declared but has no hook: write lepton_{verb} in plugin.py, or "
                    "declare it NOT_IMPLEMENTED or UNSUPPORTED in info.py"
                )

    def test_edges_and_sources_are_unique(self) -> None:
        """No edge, source format or opened format is declared twice."""
        listed: dict[str, list[Any]] = {
            "edges": [(edge.source, edge.result) for edge in self.info.edges],
            "sources": [source.id for source in self.info.sources],
            "opens": [opens.format for opens in self.info.opens],
        }
        for name, items in listed.items():
            assert len(items) == len(set(items)), f"{name} in info.py lists one twice: {items}"

    def test_edges_need_a_convert_hook(self) -> None:
        """Who declares edges converts."""
        assert not self.info.edges or hasattr(self.plugin, "lepton_convert"), (
            "info.py declares edges, and plugin.py has no lepton_convert that walks them"
        )


class TargetConformance(PluginConformance):
    """What holds for every target; needs a ``source`` fixture with a model that fits it."""

    info: ClassVar[TargetInfo]
    tells_execution: ClassVar[bool] = False
    """Whether sessions have to have an execution map; those that have one are held to its form."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Model:
        """Return a small model in a format that leads to this target."""
        raise NotImplementedError("Override the fixture source: a small model for this target.")

    @pytest.fixture
    def place(self, tmp_path: Path) -> Context:
        """Return a context with an empty workdir."""
        from lepton_core.context import Context

        (tmp_path / "conformance").mkdir()
        return Context(tmp_path / "conformance")

    def build(self, hooks: Hooks, source: Model, place: Context, name: str = "a") -> Model:
        """Convert *source* for this target in a workdir called *name*."""
        workdir = place.workdir / name
        workdir.mkdir()
        request = types.ConvertRequest(self.info.id)
        return hooks.convert(source, request, replace(place, workdir=workdir)).model

    def open(self, hooks: Hooks, model: Model, place: Context) -> Session:
        """Open *model* on this target."""
        return hooks.open(model, types.OpenRequest(self.info.id), place)

    def test_the_artifact_format_is_declared_and_can_be_opened(self) -> None:
        """What is shipped to a target is what it opens."""
        assert self.info.artifact, "set artifact in info.py to the format that convert writes"
        assert self.info.opens_format(self.info.artifact), (
            f"info.py needs opens=(Opens({self.info.artifact!r}),): the artifact is run here"
        )

    def test_convert_fills_in_the_result(self, hooks: Hooks, source: Model, place: Context) -> None:
        """Format, absolute path, digest, signature and lineage are those of the new file."""
        built = self.build(hooks, source, place)
        assert built.format == self.info.artifact, (
            f"the model that convert returns has the format {built.format!r}; info.py says that "
            f"the artifact is {self.info.artifact!r}"
        )
        assert built.digest == digest_path(built.path), (
            f"set digest=lepton_core.files.digest_path(path) of the new file, not {built.digest!r}"
        )
        assert built.path.startswith(str(place.workdir)), (
            f"files go under context.workdir, not to {built.path}"
        )
        assert built.signature is not None, (
            "set signature of the model that convert returns: names, dtypes and shapes of the new "
            "file's inputs and outputs, as the session will state them"
        )
        assert built.lineage, (
            "the step is part of the model's history: add a LineageStep to lineage of the model "
            "that convert returns"
        )

    def test_convert_changes_no_input(self, hooks: Hooks, source: Model, place: Context) -> None:
        """The source's bytes stay as they are."""
        before = digest_path(source.path)
        self.build(hooks, source, place)
        assert digest_path(source.path) == before, (
            "convert changed its source; copy it to context.workdir first "
            "(lepton_core.artifacts.copy_artifact)"
        )

    def test_convert_is_reproducible(self, hooks: Hooks, source: Model, place: Context) -> None:
        """The same inputs and seed give the same bytes."""
        digests = {self.build(hooks, source, place, name).digest for name in ("a", "b")}
        assert len(digests) == 1, (
            f"two conversions of one model gave different bytes ({', '.join(sorted(digests))}): "
            "normalise dates, UUIDs and orders that the converter writes, and paths of the workdir"
        )

    def test_a_session_keeps_to_its_signature(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """Outputs come in order with the dtypes and ranks stated, the same every time."""
        import numpy as np

        with self.open(hooks, self.build(hooks, source, place), place) as session:
            inputs = example_inputs(session.signature)
            first, second = session.run(inputs), session.run(inputs)
            stated = [spec.name for spec in session.signature.outputs]
            assert list(first) == stated, (
                f"run returns {list(first)}; the signature states the outputs {stated}"
            )
            for spec in session.signature.outputs:
                array = first[spec.name]
                assert array.dtype == np.dtype(spec.dtype), (
                    f"{spec.name} is {array.dtype}; the signature states {spec.dtype}"
                )
                assert array.ndim == len(spec.shape), (
                    f"{spec.name} has the shape {array.shape}; the signature states {spec.shape}"
                )
                np.testing.assert_array_equal(
                    array,
                    second[spec.name],
                    f"{spec.name}: two runs with the same inputs differ; is a buffer used again?",
                )
            missing = {"storage_precision", "execution_precision"} - set(session.facts)
            assert not missing, f"the session's facts lack {', '.join(sorted(missing))}"

    def test_an_execution_map_has_the_common_form(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """Which nodes ran where, in which precision, is said by every target in the same words."""
        from lepton_core.execution import TellsExecution, execution_map

        with self.open(hooks, self.build(hooks, source, place), place) as session:
            if self.tells_execution or isinstance(session, TellsExecution):
                check_execution_map(session)
                return
            with pytest.raises(SessionError) as caught:
                execution_map(session)
            assert caught.value.code == "LPT-RUN-004", (
                "a session without execution_map() is told apart by LPT-RUN-004, not by "
                f"{caught.value.code}"
            )

    def test_a_session_refuses_wrong_inputs(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """Missing and unknown inputs are session errors that say what was expected."""
        with self.open(hooks, self.build(hooks, source, place), place) as session:
            inputs = example_inputs(session.signature)
            extra = {**inputs, "no such input": next(iter(inputs.values()))}
            for wrong, given in (({}, "no inputs"), (extra, "an input that there is not")):
                error = _error_of(session.run, wrong)
                assert isinstance(error, SessionError), (
                    f"run got {given} and {_said(error)}; raise a SessionError "
                    "(lepton_onnx.arrays.checked_inputs does)"
                )
                assert error.remedy, f"the error for {given} has no remedy: say what is expected"

    def test_a_session_closes_twice(self, hooks: Hooks, source: Model, place: Context) -> None:
        """Closing again does nothing."""
        session = self.open(hooks, self.build(hooks, source, place), place)
        session.close()
        session.close()

    def test_a_damaged_artifact_is_an_expected_failure(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """A truncated file is refused with an error of the tree, not with a crash."""
        from pathlib import Path

        built = self.build(hooks, source, place)
        path = Path(built.path)
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        largest = max(files, key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:20])
        # Without a digest the core does not refuse it first; the plugin must.
        error = _error_of(lambda: self.open(hooks, built.evolve(digest=""), place).close())
        assert isinstance(error, LeptonError) and not isinstance(error, PluginFailureError), (
            f"{largest.name} was cut to 20 bytes, and opening it {_said(error)}; catch what the "
            "runtime raises, and raise a SessionError with a code, a cause and a remedy"
        )


def _error_of(call: Callable[..., object], *arguments: object) -> Exception | None:
    """Return what a call raises, if it does."""
    try:
        call(*arguments)
    except Exception as error:
        return error
    return None


def _said(error: Exception | None) -> str:
    """Return what came of a call, for a message."""
    if error is None:
        return "did not fail"
    shown = error.__cause__ if isinstance(error, PluginFailureError) else None
    return f"raised {type(shown or error).__name__}: {shown or error}"


__all__ = [
    "PRECISIONS",
    "PluginConformance",
    "TargetConformance",
    "check_execution_map",
    "example_inputs",
]
