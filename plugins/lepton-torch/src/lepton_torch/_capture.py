"""Captures a live module with torch.export: dynamic where possible, static where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from lepton_core.errors import LeptonError
from lepton_torch._chatter import captured
from lepton_torch._explain import RefusalError, explain, failure, first_line
from lepton_torch._operators import refuse_state
from lepton_torch._outputs import flat_forward, named_tensors, unique_names
from lepton_torch._program import Program, describe_program
from lepton_torch._usercode import describe_frame, parse_stack, pick_frame, where_raised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.export import ExportedProgram

    from lepton_torch._sources import LiveSource

MAX_BATCH = 65_536
"""Upper bound of a symbolic batch: keeps index arithmetic far from 32 bits."""
_PROBED_BATCHES = (1, 3)
_TOLERANCE = 1e-4
_BATCH = "batch"


def capture(
    source: LiveSource, dynamic_batch: bool = True, required: bool = False
) -> tuple[Program, list[str]]:
    """Export a live module.

    The first dimension of every input that has the size of the first input's becomes the symbol
    ``batch``, bounded by 1 and 65,536; an example of batch 1 is doubled, because torch.export
    takes sizes 0 and 1 for constants. The program is then run against the module, at the
    example's batch and at 1 and 3. What fails that is exported with static shapes.

    Args:
        source: The module and its example inputs.
        dynamic_batch: Whether to try symbolic dimensions at all.
        required: Whether static shapes are no way out.

    Returns:
        The program and what the user should know.

    Raises:
        ConversionError: The module cannot be captured; names the construct and the user's line.
    """
    warnings = list(source.warnings)
    axes = _symbolic_axes(source) if dynamic_batch else {}
    program: Program | None = None
    if axes:
        try:
            program = _attempt(source, axes, _doubled(source.inputs, axes), warnings)
        except RefusalError as refusal:
            try:
                static = None if required else _attempt(source, {}, source.inputs, warnings)
            except RefusalError as deeper:
                raise failure(source, deeper) from deeper.error
            if static is None:
                raise failure(source, refusal, dynamic=True) from refusal.error
            program = static
            warnings.append(
                f"The batch size is fixed at {_batch_of(source.inputs)}: {refusal}. "
                "Static shapes were exported."
            )
    else:
        try:
            program = _attempt(source, {}, source.inputs, warnings)
        except RefusalError as refusal:
            raise failure(source, refusal) from refusal.error
    _normalise_stacks(program.exported, source)
    program.notes = {**_notes(source, program), "warnings": list(warnings)}
    return program, warnings


def _batch_of(inputs: Mapping[str, torch.Tensor]) -> int | None:
    first = next(iter(inputs.values()))
    return int(first.shape[0]) if first.ndim else None


def _symbolic_axes(source: LiveSource) -> dict[str, dict[int, str]]:
    """Return the symbol by input and dimension: the batch, and what the source adds."""
    batch = _batch_of(source.inputs)
    axes: dict[str, dict[int, str]] = {}
    for name, value in source.inputs.items():
        own = dict(source.axes.get(name, {}))
        if batch and value.ndim and value.shape[0] == batch:
            own[0] = _BATCH
        if own:
            axes[name] = own
    return axes if any(_BATCH in own.values() for own in axes.values()) else {}


def _with_batch(
    inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]], size: int
) -> dict[str, torch.Tensor]:
    """Return the inputs with *size* rows, cycling through those that are there."""
    rows = {}
    for name, value in inputs.items():
        if axes.get(name, {}).get(0) == _BATCH:
            index = torch.arange(size) % value.shape[0]
            rows[name] = value.index_select(0, index)
        else:
            rows[name] = value
    return rows


def _shorter(
    inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, torch.Tensor]:
    """Return the inputs with every symbolic dimension beside the batch cut in half."""
    result = dict(inputs)
    for name, own in axes.items():
        for position, symbol in own.items():
            if symbol != _BATCH:
                size = max(1, result[name].shape[position] // 2)
                result[name] = result[name].narrow(position, 0, size).clone()
    return result


def _doubled(
    inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, torch.Tensor]:
    return dict(inputs) if _batch_of(inputs) != 1 else _with_batch(inputs, axes, 2)


def _dynamic_shapes(source: LiveSource, axes: Mapping[str, Mapping[int, str]]) -> Any:  # noqa: ANN401
    if not axes:
        return None
    symbols = {s for own in axes.values() for s in own.values()}
    dims = {s: Dim(s, min=1, max=source.bounds.get(s, MAX_BATCH)) for s in sorted(symbols)}
    return {
        name: {i: dims[s] for i, s in axes.get(name, {}).items()} or None for name in source.inputs
    }


def _attempt(
    source: LiveSource,
    axes: Mapping[str, Mapping[int, str]],
    inputs: dict[str, torch.Tensor],
    warnings: list[str],
) -> Program:
    """Capture once and prove the result against the module.

    Raises:
        RefusalError: It cannot be captured, or computes something else.
        ConversionError: No export of this module would be faithful.
    """
    names = unique_names((n for n, _ in named_tensors(source.call(inputs))), inputs)
    exported = _export(source, axes, inputs)
    refuse_state(exported, source.root)
    program = describe_program(exported, list(inputs), names, axes)
    _prove(source, program, axes, inputs, warnings)
    return program


def _export(
    source: LiveSource, axes: Mapping[str, Mapping[int, str]], inputs: dict[str, torch.Tensor]
) -> ExportedProgram:
    shapes = _dynamic_shapes(source, axes)

    def export() -> ExportedProgram:
        with torch.no_grad(), flat_forward(source.module, list(inputs), source.positional):
            return torch.export.export(source.module, (), dict(inputs), dynamic_shapes=shapes)

    try:
        with captured():
            return export()
    except LeptonError:
        raise
    except Exception as error:
        raise explain(error, source, export) from error


def _prove(
    source: LiveSource,
    program: Program,
    axes: Mapping[str, Mapping[int, str]],
    inputs: dict[str, torch.Tensor],
    warnings: list[str],
) -> None:
    """Run program and module side by side.

    Raises:
        RefusalError: They differ, or one of them cannot run at another batch size.
    """
    first, second = (_run_module(source, inputs) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, second, strict=True)) and not _close(
        first, second
    ):
        warnings.append(
            "The module gives different outputs for the same input (a random operator, or "
            "dropout that is on in eval mode); its variants cannot be compared to it."
        )
        return
    with captured():
        runner = program.exported.module()
    trials = [inputs]
    if axes:
        trials += [_with_batch(inputs, axes, n) for n in _PROBED_BATCHES]
        trials.append(_shorter(inputs, axes))
    for trial in trials:
        size = _batch_of(trial)
        try:
            expected = _run_module(source, trial)
        except Exception as error:
            place = where_raised(error, source.root)
            reason = f"the module fails at batch {size} with {type(error).__name__}"
            raise RefusalError(f"{reason}: {first_line(str(error))}", place, error) from error
        try:
            with captured(), torch.no_grad():
                flat = runner(**trial)
        except Exception as error:
            text = f"the exported program fails at batch {size}: {first_line(str(error))}"
            raise RefusalError(text, "", error) from error
        if not _close(expected, list(flat)):
            text = f"the exported program computes something else at batch {size}"
            raise RefusalError(text, "")


def _run_module(source: LiveSource, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with captured():
        fresh = {k: v.clone() for k, v in inputs.items()}  # forward may write into its input
        return [tensor for _, tensor in named_tensors(source.call(fresh))]


def _close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Compare by relative L2 for floats and exactly for the rest; NaN equals NaN."""
    return len(left) == len(right) and all(map(_same, left, right))


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = a.isfinite()
    rest = torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num())
    if not (rest and torch.equal(finite, b.isfinite())):
        return False
    x, y = a[finite].double(), b[finite].double()
    return float((x - y).norm()) <= _TOLERANCE * (float(x.norm()) + 1e-6)


def _normalise_stacks(exported: ExportedProgram, source: LiveSource) -> None:
    """Keep only the user's frame per operator, without the folders of this machine."""
    for module in exported.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            text = node.meta.get("stack_trace")
            if text is None:
                continue
            frame = pick_frame(parse_stack(text), source.root)
            if frame is None:
                del node.meta["stack_trace"]
                continue
            place = describe_frame(frame, source.root)
            file, _, rest = place.partition(":")
            line, _, name = rest.partition(" in ")
            node.meta["stack_trace"] = f'File "{file}", line {line}, in {name or "?"}'


def _notes(source: LiveSource, program: Program) -> dict[str, Any]:
    symbols = sorted(program.bounds)
    return {
        **source.metadata,
        "exporter": f"torch.export {torch.__version__.split('+')[0]}",
        "source": {**source.origin, "digest": source.digest},
        "dynamic_batch": _BATCH in symbols,
        "batch_symbol": _BATCH if _BATCH in symbols else None,
        "symbols": {k: list(v) for k, v in program.bounds.items()},
        "parameters": sum(p.numel() for p in source.module.parameters()),
    }
