"""Static description."""

from lepton_core.testing.fake_info import INFO

__all__ = ["INFO"]
