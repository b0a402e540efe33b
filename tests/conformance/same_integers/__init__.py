"""Measuring "same integers everywhere": each layer alone, and end to end, on each runtime.

``.ci/same_integers.py`` runs it and writes ``docs/reference/same-integers.md``.
"""
