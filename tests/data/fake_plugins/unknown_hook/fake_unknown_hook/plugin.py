"""It implements a hook that no specification has."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_polish(model, request, context):
    """Decline."""
