"""Lepton with batteries: a class per verb, with defaults for the machine it runs on.

.. code-block:: python

    from lepton_ai import ModelAdapter, ModelConverter, ModelOptimizer

    adapter = ModelAdapter("bert-base-cased")
    adapted_model = adapter.adapt()
    converter = ModelConverter()
    converted_model = converter.convert(adapted_model)
    optimizer = ModelOptimizer(converted_model)
    optimized_model = optimizer.optimize()

Every verb takes whatever one would type on the command line (a file, ``file.py:factory``, a
Hugging Face directory or the name of one in the local cache) and every result of another one, as
an object or as a path. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

from lepton_ai._adapt import ModelAdapter
from lepton_ai._convert import ModelConverter
from lepton_ai._deployment import ModelAdjuster, ModelDeployer, ModelMigrator
from lepton_ai._inputs import ModelLike
from lepton_ai._optimize import ModelOptimizer
from lepton_ai._targets import default_target
from lepton_ai._work import ModelWarning

__version__ = "0.1.0"

__all__ = [
    "ModelAdapter",
    "ModelAdjuster",
    "ModelConverter",
    "ModelDeployer",
    "ModelLike",
    "ModelMigrator",
    "ModelOptimizer",
    "ModelWarning",
    "__version__",
    "default_target",
]
