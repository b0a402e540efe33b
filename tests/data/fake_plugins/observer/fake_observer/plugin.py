"""Raises at every stage that it observes."""

from lepton_core.markers import hookimpl


@hookimpl
def lepton_stage_started(event):
    """Fail the loud way."""
    raise RuntimeError(f"cannot observe {event.stage}")


@hookimpl
def lepton_stage_finished(event):
    """Fail the quiet way."""
    raise SystemExit(event.status)
