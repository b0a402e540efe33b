"""A converter that takes its process with it at the first activation, as native ones may."""

import json
import os
import sys
from pathlib import Path

from lepton_core.errors import ConversionError
from lepton_core.markers import hookimpl


@hookimpl
def lepton_convert(model, request, context):
    """Go through the layers, and abort at the first relu."""
    for place, layer in enumerate(json.loads(Path(model.path).read_text())["layers"]):
        context.about_to("converting layers", operator=layer["op"], where=f"layer {place}")
        if layer["op"] == "relu":
            print("Assertion `rank > 0' failed.", file=sys.stderr, flush=True)
            os.abort()
    raise ConversionError("CRASH-CONV-001", "There is nothing to crash at")
