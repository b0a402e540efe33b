"""What the commands need to know of something that lepton has built; see :mod:`.built`."""

from lepton_core.built import Built, find_built, taken_in, write_marker

__all__ = ["Built", "find_built", "taken_in", "write_marker"]
