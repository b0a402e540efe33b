"""Wants a lepton-core of the future."""
