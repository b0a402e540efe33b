"""Converting one graph: the widest batch that is proved on it, else row by row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lepton_core.errors import ConversionError
from lepton_tflite import _proof
from lepton_tflite._batch import marker, open_batch, sizes_of
from lepton_tflite._finish import name_ports
from lepton_tflite._flatbuffer import unpack
from lepton_tflite._litert import convert_module
from lepton_tflite._place import detach_ports
from lepton_tflite._words import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from onnx import ModelProto

    from lepton_core.types import Signature
    from lepton_tflite._weights import Weight
    from lepton_tflite._words import Tell
    from lepton_torch.bridge import BridgeModule, Operator

OPEN, ROWS, FIXED = "open", "rows", "fixed"
"""How a file takes a batch: of any size, one row at a time, or as its shapes say."""

_TRIALS = (1, 2, 3)
_RUNNING = "running the converted file"
LIMIT = 1e-4
"""Largest relative L2 difference between a float32 file and the torch module."""


@dataclass
class Plan:
    """What is converted, and how it is judged.

    Attributes:
        proto: The graph, weights in memory.
        signature: Its inputs and outputs; the batch is the only symbol.
        symbol: The batch's name, ``None`` where every size is fixed.
        integer: Whether Q/DQ pairs become integer kernels.
        weights: Inputs of the graph behind those of the signature, which the file has as integers.
        place: Puts these integers into a converted file, given the tensor of each weight.
        limit: Largest accepted difference.
        demand_open: Whether another batch than an open one is refused.
        seal: Turns the edited file and its batch into the bytes that are shipped, which are judged.
        edit: Applied to every converted file, before its batch is opened.
        checkpoint: Called between long steps.
        tell: Hears what comes next.
    """

    proto: ModelProto
    signature: Signature
    symbol: str | None
    seal: Callable[[Any, str], bytes]
    integer: bool = False
    weights: tuple[Weight, ...] = ()
    place: Callable[[Any, dict[str, int]], None] | None = None
    limit: float = LIMIT
    demand_open: bool = False
    edit: Callable[[Any], None] | None = None
    checkpoint: Callable[[], None] = field(default=lambda: None)
    tell: Tell = silent


@dataclass(frozen=True)
class Built:
    """A file that was run.

    Attributes:
        data: Its bytes.
        batch: ``"open"``, ``"rows"`` or ``"fixed"``.
        difference: Largest relative L2 difference to the torch module.
        closed: Why the batch is not open.
    """

    data: bytes
    batch: str
    difference: float
    closed: tuple[str, ...] = ()


def build(plan: Plan) -> Built:
    """Convert a graph.

    Raises:
        ConversionError: LPT-CONV-402, 403; 404 (the runtime does not load the file, or gives other
            numbers), 405 (the batch cannot be opened and that was demanded), 406 (the file gives
            other values), 416 (it is too large).
    """
    inputs = _tensors(plan.signature, {plan.symbol: 1} if plan.symbol else {})
    plan.tell("translating the graph to torch")
    module = _Source.of(plan, inputs)
    plan.checkpoint()
    if plan.symbol is None:
        model = _converted(plan, module, inputs)
        data = plan.seal(model, FIXED)
        worst = _judged(plan, data, [_trial(plan, module, {}, 0), _trial(plan, module, {}, 1)])
        return Built(data, FIXED, worst)
    opened, problems = _open(plan, module)
    if opened is not None:
        return opened
    if plan.demand_open:
        raise ConversionError(
            "LPT-CONV-405",
            "The batch of this model cannot stay open on tflite",
            cause="; ".join(problems),
            remedy="Leave the demand out: the file then takes one row, and sessions loop over "
            "the rows of a batch.",
        )
    plan.checkpoint()
    model = _converted(plan, module, inputs)
    trials = [_trial(plan, module, {plan.symbol: rows}, rows) for rows in _TRIALS]
    data = plan.seal(model, ROWS)
    worst = _judged(plan, data, trials, by_rows=True)
    return Built(data, ROWS, worst, problems)


@dataclass(frozen=True)
class _Source:
    """The torch module of a graph.

    Attributes:
        module: The module that is converted.
        weights: What it takes behind the model's inputs.
        exact: What the file is held against: the same, but that equal values of a TopK come in
            ONNX's order, which is the runtime's too.
    """

    module: BridgeModule
    weights: tuple[torch.Tensor, ...]
    exact: BridgeModule

    @classmethod
    def of(cls, plan: Plan, inputs: tuple[torch.Tensor, ...]) -> _Source:
        """Translate the graph."""
        import torch
        from torch.nn import Module

        from lepton_tflite import _own
        from lepton_torch.bridge import load_module

        weights = tuple(torch.from_numpy(weight.values()) for weight in plan.weights)
        given = (*inputs, *weights)
        other: dict[str, Operator] = {}
        held = None
        if plan.integer:
            from lepton_tflite._decomposed import overrides

            held = Module()
            other = overrides(held)
        module = exact = load_module(plan.proto, given, _own.overrides() | other, held)
        if any(node.op_type in _own.SORTS for node in plan.proto.graph.node):
            exact = load_module(plan.proto, given, other, held)
        return cls(module, weights, exact)

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run it on the model's inputs."""
        return self.exact(*inputs, *self.weights)  # type: ignore[no-any-return]


def _open(plan: Plan, module: _Source) -> tuple[Built | None, tuple[str, ...]]:
    """Convert with an open batch; returns why not where that cannot be."""
    symbol = str(plan.symbol)
    rows = marker(_sizes(plan.proto, plan.signature, plan.weights))
    if rows is None:
        return None, ("no prime divides none of the model's sizes",)
    try:
        inputs = _tensors(plan.signature, {symbol: rows})
        model = _converted(plan, module, inputs)
    except ConversionError as error:
        return None, (error.message,)
    problems = open_batch(model, rows)
    if problems:
        return None, tuple(dict.fromkeys(problems))
    trials = [_trial(plan, module, {symbol: n}, n) for n in (*_TRIALS, rows, rows + 2)]
    data = plan.seal(model, OPEN)
    try:
        worst, where = _proof.worst_of(data, trials)
    except _proof.LoadError as error:
        return None, (f"the opened file does not run: {error}",)
    if not worst <= plan.limit:
        return None, (f"the opened file gives other values for {where!r} at some batch",)
    return Built(data, OPEN, worst), ()


def _converted(plan: Plan, source: _Source, inputs: tuple[torch.Tensor, ...]) -> Any:  # noqa: ANN401
    given = (*inputs, *source.weights)
    model = unpack(convert_module(source.module, given, integer=plan.integer, tell=plan.tell))
    plan.tell(_RUNNING)
    places = detach_ports(model, len(inputs), plan.weights)
    name_ports(model, plan.signature)
    if plan.edit is not None:
        plan.edit(model)
    if plan.place is not None:
        plan.place(model, places)
    plan.checkpoint()
    return model


def _trial(plan: Plan, source: _Source, sizes: Mapping[str, int], seed: int) -> _proof.Trial:
    arrays = _proof.example(plan.signature, sizes, seed)
    return _proof.run_torch(source, plan.signature, arrays)


def _judged(plan: Plan, data: bytes, trials: list[_proof.Trial], *, by_rows: bool = False) -> float:
    """Return the largest difference.

    Raises:
        ConversionError: LPT-CONV-404.
    """
    try:
        worst, where = _proof.worst_of(data, trials, by_rows=by_rows)
    except _proof.LoadError as error:
        raise ConversionError(
            "LPT-CONV-404",
            "The converter wrote a file that the runtime does not run",
            cause=str(error),
            remedy="Replace the operator that the cause names, or choose another target.",
        ) from error
    if worst <= plan.limit:
        return worst
    rows = " when it is run row by row" if by_rows else ""
    raise ConversionError(
        "LPT-CONV-406",
        f"The converted file gives other values for {where!r} than the model{rows}",
        cause=f"The relative L2 difference is {worst:.3g}; {plan.limit:g} is the limit.",
        remedy="If the model mixes the rows of a batch, fix the batch: --static-batch. Else report "
        "it as a bug.",
        details={"output": where},
    )


def _tensors(signature: Signature, sizes: Mapping[Any, int]) -> tuple[torch.Tensor, ...]:
    import torch

    arrays = _proof.example(signature, sizes)
    return tuple(torch.from_numpy(arrays[spec.name]) for spec in signature.inputs)


def _sizes(proto: ModelProto, signature: Signature, weights: tuple[Weight, ...] = ()) -> set[int]:
    """Return the sizes that stand in a graph: shapes, attributes and small integer constants."""
    from onnx import numpy_helper

    shapes: list[Any] = [s.shape for s in (*signature.inputs, *signature.outputs)]
    for weight in weights:
        block = weight.block or 1
        shapes += [weight.codes.shape, (*weight.scale.shape, block)]
    for tensor in proto.graph.initializer:
        shapes.append(tuple(tensor.dims))
        if tensor.data_type == 7 and len(tensor.dims) <= 1:
            shapes.append([abs(int(v)) for v in numpy_helper.to_array(tensor).reshape(-1)[:64]])
    for value in proto.graph.value_info:
        shapes.append([d.dim_value for d in value.type.tensor_type.shape.dim if d.dim_value])
    for node in proto.graph.node:
        shapes += [tuple(a.ints)[:16] for a in node.attribute if a.ints]
    return sizes_of(shapes)


__all__ = ["FIXED", "LIMIT", "OPEN", "ROWS", "Built", "Plan", "build"]
