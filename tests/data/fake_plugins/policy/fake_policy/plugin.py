"""Does what FAKE_POLICY says."""

import os
import time

from lepton_core.markers import hookimpl
from lepton_core.types import AdjustResult


@hookimpl
def lepton_adjust(model, request, context):
    mode = os.environ.get("FAKE_POLICY", "nothing")
    if mode == "hang":
        time.sleep(600)
    if mode == "raise":
        raise ZeroDivisionError("a policy with a bug")
    if mode == "die":
        os._exit(9)
    changes = {
        "nothing": (),
        "nonsense": ({"routes": "all of them"},),
        "foreign": (_change([{"version": "v0123456789abcdef"}]),),
        "threads": (_change([{"version": request.options["base"], "threads": 10_000}]),),
        "slowest": (_change(_slowest(request)),),
    }[mode]
    return AdjustResult(request.name, changes)


def _slowest(request):
    worst = max(request.options["observations"], key=lambda way: way["p50_ms"])
    return [{"version": worst["version"], "threads": worst["threads"]}]


def _change(routes):
    return {"routes": routes, "cause": "a hunch", "predicted": {"ratio": 0.5}}
