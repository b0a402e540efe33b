"""An observer that fails."""
