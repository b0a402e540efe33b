"""First checks that any plugin must pass; a vendor's tests subclass these.

.. code-block:: python

    class TestAcme(TargetConformance):
        plugin, info = lepton_acme.plugin, lepton_acme.info.INFO

        @pytest.fixture
        def source(self, tmp_path):
            return Model("pivot", str(write_a_small_model(tmp_path)))

The checks need pytest and numpy, and run the plugin in this process.
"""

# ruff: noqa: S101 - assertions are what a kit is made of
from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from lepton_core import types
from lepton_core.dispatch import RESULTS, Hooks
from lepton_core.errors import LeptonError, SessionError
from lepton_core.files import digest_path

if TYPE_CHECKING:
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
    assert found.runtime == session.facts["runtime"]
    assert found.nodes
    for node in found.nodes:
        assert node.operator
        assert node.precision.removesuffix(" dynamic") in (*PRECISIONS, ""), node
        assert node.device == node.device.lower(), node
        assert node.provider or found.notes, f"{node} has no provider, and no note says why"
        assert all(node.sources), node
    computing = [node for node in found.nodes if node.precision]
    assert any(node.sources for node in computing), "no node is traced to the model"
    totals = found.totals()
    assert totals == session.facts["execution"]
    assert totals["nodes"] == len(found.nodes) == sum(totals["devices"].values())
    assert totals["computing"] == len(computing) == sum(totals["precisions"].values())
    assert sum(sum(c.values()) for c in totals["providers"].values()) == len(found.nodes)
    assert set(totals["providers"]) <= {node.provider or NOT_TOLD for node in found.nodes}
    data = json.loads(json.dumps(found.to_dict()))
    assert set(data) == {"runtime", "totals", "nodes", "notes"}
    fields = {"name", "operator", "sources", "device", "provider", "precision"}
    assert all(set(node) == fields for node in data["nodes"])


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
                assert bool(declared.support) <= has_hook, f"{verb} is declared but has no hook"

    def test_edges_and_sources_are_unique(self) -> None:
        """No edge, source format or opened format is declared twice."""
        for listed in (
            [(edge.source, edge.result) for edge in self.info.edges],
            [source.id for source in self.info.sources],
            [opens.format for opens in self.info.opens],
        ):
            assert len(listed) == len(set(listed)), listed

    def test_edges_need_a_convert_hook(self) -> None:
        """Who declares edges converts."""
        assert not self.info.edges or hasattr(self.plugin, "lepton_convert")


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
        assert self.info.artifact
        assert self.info.opens_format(self.info.artifact)

    def test_convert_fills_in_the_result(self, hooks: Hooks, source: Model, place: Context) -> None:
        """Format, absolute path, digest, signature and lineage are those of the new file."""
        built = self.build(hooks, source, place)
        assert built.format == self.info.artifact
        assert built.digest == digest_path(built.path)
        assert built.path.startswith(str(place.workdir)), "files go under the workdir"
        assert built.signature is not None
        assert built.lineage, "the step is part of the model's history"

    def test_convert_changes_no_input(self, hooks: Hooks, source: Model, place: Context) -> None:
        """The source's bytes stay as they are."""
        before = digest_path(source.path)
        self.build(hooks, source, place)
        assert digest_path(source.path) == before

    def test_convert_is_reproducible(self, hooks: Hooks, source: Model, place: Context) -> None:
        """The same inputs and seed give the same bytes."""
        digests = {self.build(hooks, source, place, name).digest for name in ("a", "b")}
        assert len(digests) == 1

    def test_a_session_keeps_to_its_signature(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """Outputs come in order with the dtypes and ranks stated, the same every time."""
        import numpy as np

        with self.open(hooks, self.build(hooks, source, place), place) as session:
            inputs = example_inputs(session.signature)
            first, second = session.run(inputs), session.run(inputs)
            assert list(first) == [spec.name for spec in session.signature.outputs]
            for spec in session.signature.outputs:
                assert first[spec.name].dtype == np.dtype(spec.dtype)
                assert first[spec.name].ndim == len(spec.shape)
                np.testing.assert_array_equal(first[spec.name], second[spec.name])
            assert {"storage_precision", "execution_precision"} <= set(session.facts)

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
            assert caught.value.code == "LPT-RUN-004"

    def test_a_session_refuses_wrong_inputs(
        self, hooks: Hooks, source: Model, place: Context
    ) -> None:
        """Missing and unknown inputs are session errors that say what was expected."""
        with self.open(hooks, self.build(hooks, source, place), place) as session:
            inputs = example_inputs(session.signature)
            for wrong in ({}, {**inputs, "no such input": next(iter(inputs.values()))}):
                with pytest.raises(SessionError) as caught:
                    session.run(wrong)
                assert caught.value.remedy

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
        with pytest.raises(LeptonError) as caught:
            self.open(hooks, built.evolve(digest=""), place).close()
        assert type(caught.value).__name__ != "PluginFailureError", "say it in your own words"


__all__ = [
    "PRECISIONS",
    "PluginConformance",
    "TargetConformance",
    "check_execution_map",
    "example_inputs",
]
