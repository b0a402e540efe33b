"""An exported program with its contract: names, dtypes and symbolic dimensions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from lepton_core.errors import SourceError
from lepton_core.types import Signature, TensorSpec
from lepton_torch._outputs import unique_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.export import ExportedProgram

CONTRACT_FILE = "lepton.json"
"""Name of our record inside a ``.pt2`` (under ``extra/``)."""
_SCHEMA = 1


@dataclass
class Program:
    """A program and the names that its tensors have everywhere.

    Attributes:
        exported: The program.
        signature: Inputs in the order of the graph, outputs in the order of the return.
        bounds: Smallest and largest size by symbol; ``None`` is unbounded.
        notes: Facts that travel inside the file (JSON types).
    """

    exported: ExportedProgram
    signature: Signature
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def contract(self) -> str:
        """Return the JSON text that is stored in the ``.pt2``."""
        data = {
            "schema": _SCHEMA,
            "inputs": [_spec_to_json(s) for s in self.signature.inputs],
            "outputs": [_spec_to_json(s) for s in self.signature.outputs],
            "bounds": {k: list(v) for k, v in self.bounds.items()},
            "notes": self.notes,
        }
        return json.dumps(data, indent=1, sort_keys=True)


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _spec_from_json(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(data["name"], data["dtype"], tuple(data["shape"]))


def dtype_name(dtype: torch.dtype) -> str:
    """Return NumPy's name of a torch dtype (``bfloat16`` keeps its own)."""
    return str(dtype).removeprefix("torch.")


def describe_program(
    exported: ExportedProgram,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Program:
    """Read names, dtypes and dimensions off a program.

    Args:
        exported: The program.
        input_names: Names of the tensor inputs; by default those of the placeholders.
        output_names: Names of the outputs; by default from the structure that is returned.
        axes: Symbols by input and dimension; by default the first dimension is ``batch`` and
            others are called after input and position.
    """
    values = {n.name: n.meta.get("val") for n in exported.graph.nodes}
    places = [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind.name == "USER_INPUT" and isinstance(spec.arg, TensorArgument)
    ]
    names = list(input_names or places)
    symbols: dict[sympy.Symbol, str] = {}
    inputs = []
    for name, place in zip(names, places, strict=True):
        _name_symbols(symbols, name, values[place], (axes or {}).get(name, {}))
        inputs.append(_spec(name, values[place], symbols))
    results = [
        spec.arg.name
        for spec in exported.graph_signature.output_specs
        if spec.kind.name == "USER_OUTPUT" and isinstance(spec.arg, TensorArgument)
    ]
    chosen = unique_names(output_names or _names_of_outputs(exported), names)
    outputs = tuple(_spec(n, values[r], symbols) for n, r in zip(chosen, results, strict=True))
    return Program(exported, Signature(tuple(inputs), outputs), _bounds(exported, symbols))


def _name_symbols(
    symbols: dict[sympy.Symbol, str], name: str, value: torch.Tensor, axes: Mapping[int, str]
) -> None:
    for position, size in enumerate(value.shape):
        if not isinstance(size, torch.SymInt):
            continue
        expression = size.node.expr
        if isinstance(expression, sympy.Symbol) and expression not in symbols:
            default = (
                f"{name}_dim{position}" if position or "batch" in symbols.values() else "batch"
            )
            symbols[expression] = axes.get(position, default)


def _spec(name: str, value: torch.Tensor, symbols: Mapping[sympy.Symbol, str]) -> TensorSpec:
    shape: list[int | str | None] = []
    for size in value.shape:
        if not isinstance(size, torch.SymInt):
            shape.append(int(size))
            continue
        expression = size.node.expr
        if expression.free_symbols <= set(symbols):
            named = {old: sympy.Symbol(new) for old, new in symbols.items()}
            shape.append(str(expression.xreplace(named)))
        else:  # depends on the values, not on the shapes of the inputs
            shape.append(None)
    return TensorSpec(name, dtype_name(value.dtype), tuple(shape))


def _names_of_outputs(exported: ExportedProgram) -> list[str]:
    from lepton_torch._outputs import named_tensors

    spec = exported.call_spec.out_spec
    kept = [
        torch.empty(0) if isinstance(s.arg, TensorArgument) else None
        for s in exported.graph_signature.output_specs
        if s.kind.name == "USER_OUTPUT"
    ]
    return [name for name, _ in named_tensors(pytree.tree_unflatten(kept, spec))]


def _bounds(
    exported: ExportedProgram, symbols: Mapping[sympy.Symbol, str]
) -> dict[str, tuple[int, int | None]]:
    found: dict[str, tuple[int, int | None]] = {}
    for symbol, name in symbols.items():
        limits = exported.range_constraints.get(symbol)
        lower = _number(limits.lower) if limits else None
        found[name] = (1 if lower is None else lower, _number(limits.upper) if limits else None)
    return found


def _number(bound: object) -> int | None:
    """Return a finite bound; sympy's and torch's infinities are ``None``."""
    if isinstance(bound, (int, sympy.Integer)):
        return int(bound)
    return None


def program_from_contract(exported: ExportedProgram, text: str) -> Program:
    """Combine a loaded program with the contract that was stored beside it.

    Raises:
        SourceError: The contract does not belong to the program.
    """
    try:
        data = json.loads(text)
        inputs = tuple(_spec_from_json(s) for s in data["inputs"])
        outputs = tuple(_spec_from_json(s) for s in data["outputs"])
        bounds = {k: (int(v[0]), v[1]) for k, v in data["bounds"].items()}
        notes = dict(data["notes"])
        fresh = describe_program(
            exported, [s.name for s in inputs], [s.name for s in outputs]
        ).signature
        same = [(s.name, s.dtype, len(s.shape)) for s in fresh.inputs + fresh.outputs] == [
            (s.name, s.dtype, len(s.shape)) for s in inputs + outputs
        ]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _foreign_contract(repr(error)) from error
    if not same:
        raise _foreign_contract("names, dtypes or ranks differ")
    return Program(exported, Signature(inputs, outputs), bounds, notes)


def _foreign_contract(cause: str) -> SourceError:
    return SourceError(
        "LPT-SRC-125",
        f"extra/{CONTRACT_FILE} in the archive does not fit the program",
        cause=cause,
        remedy="Export the model again.",
    )
