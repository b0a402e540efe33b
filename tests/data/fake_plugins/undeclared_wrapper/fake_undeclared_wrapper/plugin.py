"""It wraps other plugins' steps without declaring so."""

from lepton_core.markers import hookimpl


@hookimpl(wrapper=True)
def lepton_convert(model, request, context):
    """Pass on."""
    return (yield)
