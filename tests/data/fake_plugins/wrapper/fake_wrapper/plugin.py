"""Wraps every conversion and leaves its mark in the facts."""

import os
from dataclasses import replace

from lepton_core.markers import hookimpl


@hookimpl(wrapper=True)
def lepton_convert(model, request, context):
    """Add the process that the wrapper ran in."""
    result = yield
    return replace(result, facts={**result.facts, "wrapped_in": os.getpid()})
