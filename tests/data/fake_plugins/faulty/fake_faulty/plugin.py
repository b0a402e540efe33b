"""Runs what the fake target runs, until the file that FAULTY_FILE names says otherwise."""

import os
import time
from dataclasses import replace
from pathlib import Path

from lepton_core import types
from lepton_core.errors import ConversionError, SessionError
from lepton_core.markers import hookimpl
from lepton_core.testing import _fake_graph as work
from lepton_core.testing import fake_target

FAULTS = ("off", "crash", "raise", "refuse", "renamed", "slow", "unbuildable", "nan", "interpreted")


def fault():
    place = os.environ.get("FAULTY_FILE", "")
    return Path(place).read_text().strip() if place and Path(place).is_file() else ""


@hookimpl
def lepton_convert(model, request, context):
    if (model.format, request.to_format) != ("fake-graph", "faulty"):
        return None
    if fault() == "unbuildable":
        raise ConversionError("FAULTY-CONV-001", "It cannot be built", remedy="Do not.")
    made = fake_target.lepton_convert(model, replace(request, to_format="fake"), context)
    steps = fake_target._step(model, "convert fake-graph -> faulty", precision=request.precision)
    return types.ConvertResult(made.model.evolve(format="faulty", lineage=steps), made.facts)


class Session(work.FakeSession):
    def run(self, inputs):
        outputs = super().run(inputs)
        what = fault()
        if what == "off":
            return {k: v * work.F32(1.1) for k, v in outputs.items()}
        if what == "nan":
            return {k: v * work.F32("nan") for k, v in outputs.items()}
        if what == "crash":
            os.abort()
        if what == "raise":
            raise SessionError("FAULTY-RUN-001", "It fails", remedy="Do not.")
        if what == "renamed":
            return {f"{k}2": v for k, v in outputs.items()}
        if what == "slow":
            time.sleep(0.02)
        return outputs


@hookimpl
def lepton_open(model, request, context):
    if fault() == "refuse":
        raise SessionError("FAULTY-RUN-002", "It does not open", remedy="Do not.")
    session = Session(work.read(model.path), request.threads or 1)
    if fault() == "interpreted":
        session.facts = {**session.facts, "device": types.REFERENCE_DEVICE}
    if fault() == "renamed":
        outputs = tuple(replace(s, name=f"{s.name}2") for s in session.signature.outputs)
        session.signature = replace(session.signature, outputs=outputs)
    return session
