"""Claims an edge that the fake target owns."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_convert(model, request, context):
    """Never be called: two owners are none."""
    raise AssertionError("a conflict is no plan")
