"""The ACME runtime as a target of lepton."""
