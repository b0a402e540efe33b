"""What a rewrite of torch graphs is called with; plugins that bring rewrites build on it.

A rewrite is declared in a plugin's ``INFO`` (:class:`lepton_core.capabilities.Rewrite`) for the
formats ``torch.factory``, ``huggingface`` and ``torch.export``; its implementation is a function
that takes an :class:`Editor` and changes the graph::

    def expand_square(editor):
        for node in editor.find("aten.square"):
            with editor.before(node):
                (x,) = node.args
                editor.replace(node, editor.call(torch.ops.aten.mul.Tensor, x, x))

Whatever it does is measured against the graph before it; a difference above the declared tolerance
ends the run.
"""

from lepton_torch._editor import Editor

__all__ = ["Editor"]
