"""Structured pruning: channels, filters, heads and widths that really leave the program.

:mod:`._trace` finds which indices of which axes of which weights can only go together,
:mod:`._choose` which of them go under a budget, :mod:`._cut` takes them out of the graph,
:mod:`._recover` trains what is left towards the original, and :mod:`._run` goes through all of it.
"""
