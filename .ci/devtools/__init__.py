"""Set-up, wheels and clean environments of the lepton tree; the standard library alone."""
