"""The rewrites that lepton-torch brings; each takes an :class:`lepton_torch.rewriting.Editor`."""
