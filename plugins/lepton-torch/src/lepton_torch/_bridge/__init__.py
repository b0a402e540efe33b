"""The bridge: an ONNX pivot becomes a torch exported program.

``_graph`` reads the pivot and folds its constants, ``_module`` walks the graph node by node as a
``torch.nn.Module``, ``_export`` captures that with ``torch.export``. The translations of single
operators stand in ``operators``, one file per family.
"""
