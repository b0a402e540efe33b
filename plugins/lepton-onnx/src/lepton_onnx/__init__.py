"""The pivot as a library: load, check and stabilise ONNX graphs without a runtime."""
