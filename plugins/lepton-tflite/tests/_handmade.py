"""Files of a few operators, written with the format's own classes: no converter, no seconds."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from lepton_tflite import _flatbuffer as flat


def options(kind, **values):
    """Return an operator's options (``"FullyConnectedOptions"``)."""
    made = getattr(schema, f"{kind}T")()
    for name, value in values.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def file_of(tensors, operators, inputs, outputs, version=4):
    """Return a file's bytes.

    Args:
        tensors: By name: dtype, shape, values or ``None``, scale and zero point or ``None``.
        operators: Name, names of inputs and of outputs, and options if it has some.
        inputs: Names; the entry's ports have the tensors' names.
        outputs: Names.
        version: Of the operators.
    """
    model = schema.ModelT()
    model.version, model.operatorCodes = 3, []
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    index = {}
    for name, (dtype, shape, values, grid) in tensors.items():
        index[name] = flat.add_tensor(graph, name, dtype, shape)
        tensor = graph.tensors[-1]
        if values is not None:
            flat.set_array(model, tensor, np.asarray(values, dtype).reshape(shape))
        if grid is not None:
            own = tensor.quantization = schema.QuantizationParametersT()
            own.scale = np.atleast_1d(np.asarray(grid[0], "f4"))
            own.zeroPoint = np.broadcast_to(np.int64(grid[1]), own.scale.shape).copy()
    for operator, takes, gives, *more in operators:
        code = flat.operator_code(model, getattr(schema.BuiltinOperator, operator), version)
        made = flat.make_operator(
            code, [index.get(n, -1) for n in takes], [index[n] for n in gives]
        )
        if more:
            made.builtinOptions = more[0]
            kind = type(more[0]).__name__.removesuffix("T")
            made.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        graph.operators.append(made)
    graph.inputs = np.array([index[n] for n in inputs], np.int32)
    graph.outputs = np.array([index[n] for n in outputs], np.int32)
    entry = schema.SignatureDefT()
    entry.signatureKey, entry.subgraphIndex = b"serving_default", 0
    entry.inputs = [_port(n, index[n]) for n in inputs]
    entry.outputs = [_port(n, index[n]) for n in outputs]
    model.signatureDefs = [entry]
    return flat.pack(model)


def _port(name, index):
    port = schema.TensorMapT()
    port.name, port.tensorIndex = name.encode(), index
    return port


def int8_net(seed=0):
    """Return a layer with integers from end to end: int8 of 12 values to int8 of 5."""
    rng = np.random.default_rng(seed)
    return file_of(
        {
            "x": ("int8", (1, 12), None, (0.05, 3)),
            "w": ("int8", (5, 12), rng.integers(-127, 128, (5, 12)), (0.01, 0)),
            "b": ("int32", (5,), rng.integers(-500, 500, 5), (0.05 * 0.01, 0)),
            "y": ("int8", (1, 5), None, (0.11, -4)),
        },
        [("FULLY_CONNECTED", ["x", "w", "b"], ["y"], options("FullyConnectedOptions"))],
        ["x"],
        ["y"],
    )
