"""Who does what for a target, as ``lepton targets`` and ``lepton check`` say it."""

from __future__ import annotations

import io

import click
import pytest

from lepton_core.capabilities import (
    FULL,
    Capability,
    Edge,
    ExtensionInfo,
    SourceFormat,
    Support,
    TargetInfo,
)
from lepton_core.cli._app import App
from lepton_core.cli._targets import target_states, targets_command


def declared(**verbs):
    """A target that lowers recipes of int8 and int4, and declares levels of verbs."""
    return TargetInfo(
        id="acme", title="Acme", distribution="acme", artifact="acme",
        edges=(Edge("pivot", "acme"),),
        capabilities={
            "convert": FULL, "open": FULL,
            **{f"precision.{p}": FULL for p in ("int8", "int4")},
            "scheme.int8-static": FULL, "scheme.int4-weight-only": FULL,
            **{verb: Capability(support) for verb, support in verbs.items()},
        },
    )  # fmt: skip


ENGINES = (
    ExtensionInfo("press", "Press", "press", engine="press",
                  capabilities={"optimize": FULL, "precision.int8": FULL}),
    ExtensionInfo("embedded", "Embedded", "x", engine="embedded",
                  capabilities=dict.fromkeys(("deploy", "adjust"), FULL)),
    ExtensionInfo("policy", "A policy", "x", engine="policy", capabilities={"adjust": FULL}),
    ExtensionInfo("reader", "A reader", "x", sources=(SourceFormat("net", "Net"),),
                  capabilities={"adapt": FULL}),
)  # fmt: skip
NONE = dict.fromkeys(("adapt", "optimize", "deploy", "adjust", "migrate"), Support.UNSUPPORTED)


@pytest.mark.parametrize(
    ("engines", "said", "others"),
    [
        (ENGINES,
         "convert, open; adapt by reader; optimize by press; deploy, adjust by embedded; "
         "no: migrate",
         {"adapt": ["reader"], "optimize": ["press"], "deploy": ["embedded"],
          "adjust": ["embedded"]}),
        ((),
         "convert, open; not installed: adapt by a plugin that reads the source, optimize by "
         "compress; no: deploy, adjust, migrate",
         {}),
    ],
)  # fmt: skip
def test_verbs_that_others_do_are_told_from_those_that_nobody_can(
    registry, monkeypatch, engines, said, others
):
    for info in (declared(**NONE), *engines):
        registry.register(object(), info)
    stream = io.StringIO()
    monkeypatch.setattr(App, "registry", lambda _: registry)
    with click.Context(targets_command, obj=App(out=stream)) as context:
        context.invoke(targets_command, ready=True)
    assert f"  {said}\n" in stream.getvalue()
    data = next(s for s in target_states(registry) if s.id == "acme").to_dict()
    assert data["by_others"] == others
    assert data["verbs"]["migrate"] == "unsupported"


def test_a_target_without_recipes_is_not_optimized_by_an_engine(lepton, fake_registry):
    bare = TargetInfo(id="bare", title="Bare", distribution="b", artifact="bare",
                      capabilities={"optimize": Capability(Support.UNSUPPORTED)})  # fmt: skip
    for info in (bare, ENGINES[0]):
        fake_registry.register(object(), info)
    row = next(line for line in lepton("targets").out.splitlines() if line.startswith("bare"))
    assert "no: optimize" in row and "press" not in row


def test_check_lists_what_an_engine_makes(lepton, fake_registry, net):
    """Recipes belong to the pivot: a way that does not lead over it has no engine."""
    reader = ExtensionInfo("reader", "A reader", "x", edges=(Edge("fake-graph", "pivot"),))
    for info in (declared(), reader, ENGINES[0]):
        fake_registry.register(object(), info)
    ended = lepton("check", net, "--to", "acme,fake")
    assert "fp32; int8 with press  fake-graph -> pivot -> acme" in ended.out
    assert "fp32, fp16, int8       fake-graph -> fake" in ended.out
    acme, fake = lepton("check", net, "--to", "acme,fake", "--json").data["targets"]
    assert (acme["precisions"], acme["by_engine"]) == (["fp32"], {"press": ["int8"]})
    assert fake["by_engine"] == {}
