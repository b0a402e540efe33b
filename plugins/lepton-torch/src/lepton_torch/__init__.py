"""PyTorch as a source of models, as the exporter to the pivot, and as a target."""
