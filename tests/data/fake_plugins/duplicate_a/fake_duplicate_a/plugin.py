"""One of two that claim a name."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_open(model, request, context):
    """Decline."""
