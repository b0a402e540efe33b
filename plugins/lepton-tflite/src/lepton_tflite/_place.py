"""Integers in the place of the float weights that the converter saw as inputs of the graph.

Three forms, by what the runtime has. In *hybrid* kernels an operator reads the integers and
quantizes its float input row by row as it runs (dynamic int8). A *lookup* takes integer rows and
restores those. Else a DEQUANTIZE, which the runtime computes when it loads the file, *unpacks* the
weight, and the operator computes in float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

import lepton_kernels as lk
from lepton_core.errors import ConversionError
from lepton_tflite import _flatbuffer as flat
from lepton_tflite._forms import HYBRID, TURNS, Form, numbers_for, why_not_hybrid
from lepton_tflite._integers import axis_orders, differs
from lepton_tflite._ports import WEIGHTS
from lepton_tflite._schema import schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lepton_tflite._weights import Weight

AUTO, DYNAMIC, _ = WEIGHTS


@dataclass
class Placed:
    """What became of the weights.

    Attributes:
        notes: How each stands in the file, for reading it back; ``again`` has how it stands in
            further tensors of the same name.
        hybrid: Those that hybrid kernels read.
        unpacked: Those that are unpacked to floats, with why where hybrid kernels were wanted.
    """

    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    hybrid: list[str] = field(default_factory=list)
    unpacked: dict[str, str] = field(default_factory=dict)


def detach_ports(model: Any, inputs: int, weights: Sequence[Weight]) -> dict[str, int]:  # noqa: ANN401
    """Take the weights' inputs from a converted file's signature.

    Args:
        model: ``ModelT`` as the converter made it, with the ports ``args_0`` ….
        inputs: How many of them are inputs of the model.
        weights: What stands behind these.

    Returns:
        The tensor of each weight, by name.

    Raises:
        ConversionError: LPT-CONV-403, the file does not have them.
    """
    if not weights:
        return {}
    port, graph = model.signatureDefs[0], model.subgraphs[0]
    found = {flat.text(entry.name): entry for entry in port.inputs}
    wanted = {f"args_{inputs + i}": weight.name for i, weight in enumerate(weights)}
    missing = [name for key, name in wanted.items() if key not in found]
    if missing:
        raise ConversionError(
            "LPT-CONV-403",
            "The converter's file has other inputs or outputs than the pivot",
            cause=f"It takes no weight {missing[0]!r}.",
            remedy="Report this model as a bug.",
        )
    port.inputs[:] = [entry for key, entry in found.items() if key not in wanted]
    graph.inputs = np.asarray([entry.tensorIndex for entry in port.inputs], np.int32)
    return {name: int(found[key].tensorIndex) for key, name in wanted.items()}


def place(
    model: Any,  # noqa: ANN401 - a generated class
    places: dict[str, int],
    weights: Sequence[Weight],
    kind: str,
) -> Placed:
    """Write integers where a file reads the floats of weights.

    Args:
        model: ``ModelT``; it is changed.
        places: The tensor of each weight, of :func:`detach_ports`.
        weights: The weights.
        kind: One of :data:`._ports.WEIGHTS`.

    Raises:
        ConversionError: LPT-CONV-411, nothing reads a weight.
    """
    writer = _Writer(model, kind)
    for weight in weights:
        writer.write(weight, places[weight.name])
    writer.finish()
    return writer.placed


class _Writer:
    def __init__(self, model: Any, kind: str) -> None:  # noqa: ANN401 - a generated class
        self._model, self._graph, self._kind = model, model.subgraphs[0], kind
        self._front: list[Any] = []
        self._gone: list[Any] = []
        self._behind: list[tuple[Any, Any]] = []
        self._made: dict[tuple[Any, ...], int] = {}
        self.placed = Placed()

    def write(self, weight: Weight, index: int) -> None:
        self._made = {}
        readers = list(self._readers(Form(weight, weight.codes, weight.axis), index))
        if not readers:
            raise differs(f"Nothing in it reads the weight {weight.name!r}.")
        for operator, slot, form in readers:
            name = self._name(operator)
            if self._looked_up(operator, slot, form, name):
                self._look_up(operator, slot, form, name)
                continue
            wanted = self._kind == DYNAMIC or (
                self._kind == AUTO and (weight.dynamic or weight.block is not None)
            )
            why_not = why_not_hybrid(name, slot, form, operator) if wanted else ""
            if wanted and not why_not:
                self._make_hybrid(operator, slot, form, name)
            else:
                self._unpack(operator, slot, form, why_not)

    def finish(self) -> None:
        gone = {id(operator) for operator in self._gone}
        behind = {id(before): after for before, after in self._behind}
        operators = list(self._front)
        for operator in self._graph.operators:
            if id(operator) not in gone:
                operators.append(operator)
            if id(operator) in behind:
                operators.append(behind[id(operator)])
        self._graph.operators = operators

    def _name(self, operator: Any) -> str:  # noqa: ANN401 - a generated class
        return flat.operator_name(self._model.operatorCodes[operator.opcodeIndex])

    def _readers(self, form: Form, index: int) -> Iterator[tuple[Any, int, Form]]:
        """Yield what computes with a weight: operator, place, and the integers turned for it.

        Operators that only turn the weight are left out, and the integers turned here.
        """
        for operator in self._graph.operators:
            for slot in np.flatnonzero(np.asarray(operator.inputs) == index):
                turned = self._turned(form, operator) if slot == 0 else None
                if turned is None:
                    yield operator, int(slot), form
                else:
                    self._gone.append(operator)
                    yield from self._readers(turned, int(operator.outputs[0]))

    def _turned(self, form: Form, operator: Any) -> Form | None:  # noqa: ANN401
        """Return a weight as an operator turns it, ``None`` for one that does anything else."""
        name = self._name(operator)
        if form.weight.by_block or name not in TURNS or len(operator.inputs) < 2:
            return None
        given = flat.array_of(self._model, self._graph.tensors[operator.inputs[1]])
        if given is None or operator.outputs[0] in self._graph.outputs:
            return None
        return TURNS[name](form, [int(v) for v in given])

    # --- the forms ----------------------------------------------------------------------------

    def _looked_up(self, operator: Any, slot: int, form: Form, name: str) -> bool:  # noqa: ANN401
        """Tell whether an operator looks rows up in a table whose rows can be restored."""
        if form.weight.block is not None or form.codes.ndim != 2 or form.axis == 0:
            return False
        if name == "EMBEDDING_LOOKUP":
            return slot == 1
        own = operator.builtinOptions
        if name == "GATHER_ND":  # by one index
            return slot == 0 and self._graph.tensors[operator.inputs[1]].shape[-1] == 1
        return name == "GATHER" and slot == 0 and not (own and (own.axis or own.batchDims))

    def _look_up(self, operator: Any, slot: int, form: Form, name: str) -> None:  # noqa: ANN401
        graph, out = self._graph, int(operator.outputs[0])
        result = graph.tensors[out]
        rows = flat.add_tensor(
            graph, f"{flat.text(result.name)}/int8", "int8", result.shape, result.shapeSignature
        )
        axis = None if form.axis is None else len(result.shape) - 1
        graph.tensors[rows].quantization = numbers_for(form, axis)
        table, ids = self._constant(form), int(operator.inputs[1 - slot])
        if name == "EMBEDDING_LOOKUP":  # which takes no scales along columns
            operator.opcodeIndex = flat.operator_code(self._model, schema.BuiltinOperator.GATHER)
            operator.builtinOptionsType = schema.BuiltinOptions.GatherOptions
            operator.builtinOptions = schema.GatherOptionsT()
        code = self._model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, 2)
        operator.inputs = np.asarray([table, ids], np.int32)
        operator.outputs = np.asarray([rows], np.int32)
        self._behind.append((operator, self._dequantize(form, rows, out)))

    def _make_hybrid(self, operator: Any, slot: int, form: Form, name: str) -> None:  # noqa: ANN401
        weight = form.weight
        constant = self._blockwise(form) if weight.by_block else self._constant(form)
        operator.inputs = np.array(operator.inputs, np.int32)
        operator.inputs[slot] = constant
        version = HYBRID[name][2]
        flat.operator_code(self._model, getattr(schema.BuiltinOperator, name), version)
        if hasattr(operator.builtinOptions, "asymmetricQuantizeInputs"):
            operator.builtinOptions.asymmetricQuantizeInputs = True
        if weight.name not in self.placed.hybrid:
            self.placed.hybrid.append(weight.name)

    def _unpack(self, operator: Any, slot: int, form: Form, why: str) -> None:  # noqa: ANN401
        key = ("float", *form.key)
        if key not in self._made:
            graph, weight = self._graph, form.weight
            codes = self._blocks_apart(form) if weight.by_block else self._constant(form)
            wide = graph.tensors[codes]
            result = flat.add_tensor(graph, f"{weight.name}/float", "float32", wide.shape)
            self._front.append(self._dequantize(form, codes, result))
            if weight.by_block:
                result = self._joined(weight, result)
            self._made[key] = result
        operator.inputs = np.array(operator.inputs, np.int32)
        operator.inputs[slot] = self._made[key]
        self.placed.unpacked.setdefault(form.weight.name, why)

    def _dequantize(self, form: Form, source: int, result: int) -> Any:  # noqa: ANN401
        version = 6 if form.weight.bits == 4 else 5 if form.axis is not None else 2
        code = flat.operator_code(self._model, schema.BuiltinOperator.DEQUANTIZE, version)
        return flat.make_operator(code, [source], [result])

    def _joined(self, weight: Weight, source: int) -> int:
        """Return a matrix from its blocks, which lie one below the other."""
        outputs, inputs = weight.codes.shape
        whole = (outputs, weight.scale.shape[1] * int(weight.block or 0))
        result = self._shaped("RESHAPE", weight, source, whole, [np.array(whole, np.int32)])
        if whole[1] == inputs:
            return result
        ends = [np.zeros(2, np.int32), np.array([outputs, inputs], np.int32)]
        return self._shaped("SLICE", weight, result, (outputs, inputs), ends)

    def _shaped(
        self, name: str, weight: Weight, source: int, shape: tuple[int, int],
        given: list[NDArray[np.int32]],
    ) -> int:  # fmt: skip
        graph, inputs = self._graph, [source]
        for number, values in enumerate(given):
            key = f"{weight.name}/{name.lower()}_{number}"
            inputs.append(flat.add_tensor(graph, key, "int32", values.shape))
            flat.set_array(self._model, graph.tensors[inputs[-1]], values)
        result = flat.add_tensor(graph, f"{weight.name}/{name.lower()}", "float32", shape)
        code = flat.operator_code(self._model, getattr(schema.BuiltinOperator, name))
        operator = flat.make_operator(code, inputs, [result])
        if name == "RESHAPE":
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT()
            operator.builtinOptions.newShape = given[0]
        self._front.append(operator)
        return result

    # --- constants ----------------------------------------------------------------------------

    def _constant(self, form: Form) -> int:
        if form.key not in self._made:
            index = self._store(form.weight, form.codes)
            self._graph.tensors[index].quantization = numbers_for(form, form.axis)
            self._note(form)
            self._made[form.key] = index
        return self._made[form.key]

    def _blocks_apart(self, form: Form) -> int:
        """Store blocks one below the other, a last one filled up, each with its scale."""
        weight, block = form.weight, int(form.weight.block or 0)
        outputs, inputs = weight.codes.shape
        count = weight.scale.shape[1]
        full = np.zeros((outputs, count * block), np.int8)
        full[:, :inputs] = weight.codes
        index = self._store(weight, full.reshape(-1, block))
        self._graph.tensors[index].quantization = numbers_for(form, 0)
        self._note(form)
        return index

    def _blockwise(self, form: Form) -> int:
        """Store a matrix whose scales for blocks are a tensor of its own."""
        weight = form.weight
        key = ("blocks", *form.key)
        if key in self._made:
            return self._made[key]
        index = self._made[key] = self._store(weight, weight.codes)
        scales = flat.add_tensor(self._graph, f"{weight.name}/scale", "float16", weight.scale.shape)
        flat.set_array(self._model, self._graph.tensors[scales], weight.scale.astype(np.float16))
        own, details = schema.QuantizationParametersT(), schema.BlockwiseQuantizationT()
        details.scales, details.zeroPoints, details.blockSize = scales, -1, weight.block
        own.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        own.details = details
        self._graph.tensors[index].quantization = own
        self._note(form)
        return index

    def _store(self, weight: Weight, codes: NDArray[np.int8]) -> int:
        codes = np.ascontiguousarray(codes)
        dtype = f"int{weight.bits}"
        index = flat.add_tensor(self._graph, f"{weight.name}/{dtype}", dtype, codes.shape)
        tensor = self._graph.tensors[index]
        if weight.bits == 8:
            flat.set_array(self._model, tensor, codes)
        else:
            flat.set_packed(self._model, tensor, lk.pack_int4(codes.reshape(-1)))
        return index

    def _note(self, form: Form) -> None:
        weight = form.weight
        if weight.block is None:
            pivot = weight.codes.transpose(np.argsort(weight.order))
            own: dict[str, Any] = {
                "axis": None if weight.axis is None else weight.order[weight.axis]
            }
        else:
            pivot = weight.codes
            own = {"block": weight.block, "offset": weight.offset}
        stands = _as_it_stands(pivot, pivot if weight.by_block else form.codes)
        if stands is None:
            raise differs(f"The weight {weight.name!r} does not stand in the file as it should.")
        note = self.placed.notes.get(weight.name)
        if note is None:
            own |= {"shape": list(pivot.shape), **stands, "again": []}
            self.placed.notes[weight.name] = own
        else:
            note["again"].append(stands)


def _as_it_stands(pivot: NDArray[np.int8], codes: NDArray[np.int8]) -> dict[str, list[int]] | None:
    """Return the order of a weight's axes in a file, and which run backwards there.

    The kernels of transposed convolutions are turned over where CONV_2D computes these.
    """
    axes = range(pivot.ndim)
    for flipped in (some for n in range(pivot.ndim + 1) for some in combinations(axes, n)):
        turned = np.flip(pivot, flipped)
        for order in axis_orders(pivot.shape, codes.shape):
            if np.array_equal(turned.transpose(order).reshape(codes.shape), codes):
                return {"order": list(order), "flipped": list(flipped)}
    return None


__all__ = ["Placed", "detach_ports", "place"]
