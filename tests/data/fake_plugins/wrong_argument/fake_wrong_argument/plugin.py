"""Its hook takes an argument that the specification does not have."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_open(model, request, colour):
    """Decline."""
