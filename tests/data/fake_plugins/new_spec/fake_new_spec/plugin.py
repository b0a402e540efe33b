"""Never imported."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_open(model, request, context):
    """Decline."""
