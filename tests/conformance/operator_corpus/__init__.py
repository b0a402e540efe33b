"""ONNX's node tests on every target: the operator corpus.

``.ci/operators.py`` runs it and writes ``docs/reference/operators-by-target.md``.
"""
