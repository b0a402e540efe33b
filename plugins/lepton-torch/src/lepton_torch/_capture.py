"""Captures a live module with torch.export: dynamic where possible, static where not."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from lepton_core.errors import ConversionError, LeptonError
from lepton_torch._chatter import captured
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


@dataclass(frozen=True)
class _Refusal(Exception):
    """Why a module could not be captured, in words, and where."""

    reason: str
    where: str
    error: BaseException | None = None

    def __str__(self) -> str:
        return self.reason + (f" ({self.where})" if self.where else "")


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
        except _Refusal as refusal:
            try:
                static = None if required else _attempt(source, {}, source.inputs, warnings)
            except _Refusal as deeper:
                raise _failure(source, deeper) from deeper.error
            if static is None:
                raise _failure(source, refusal, dynamic=True) from refusal.error
            program = static
            warnings.append(
                f"The batch size is fixed at {_batch_of(source.inputs)}: {refusal}. "
                "Static shapes were exported."
            )
    else:
        try:
            program = _attempt(source, {}, source.inputs, warnings)
        except _Refusal as refusal:
            raise _failure(source, refusal) from refusal.error
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


def _doubled(
    inputs: Mapping[str, torch.Tensor], axes: Mapping[str, Mapping[int, str]]
) -> dict[str, torch.Tensor]:
    return dict(inputs) if _batch_of(inputs) != 1 else _with_batch(inputs, axes, 2)


def _dynamic_shapes(source: LiveSource, axes: Mapping[str, Mapping[int, str]]) -> Any:  # noqa: ANN401
    if not axes:
        return None
    symbols = {s for own in axes.values() for s in own.values()}
    dims = {s: Dim(s, min=1, max=source.bounds.get(s, MAX_BATCH)) for s in sorted(symbols)}
    shapes = [
        {i: dims[s] for i, s in axes.get(name, {}).items()} or None for name in source.inputs
    ]
    if source.positional:
        return tuple(shapes)
    return dict(zip(source.inputs, shapes, strict=True))


def _attempt(
    source: LiveSource,
    axes: Mapping[str, Mapping[int, str]],
    inputs: dict[str, torch.Tensor],
    warnings: list[str],
) -> Program:
    """Capture once and prove the result against the module.

    Raises:
        _Refusal: It cannot be captured, or computes something else.
        ConversionError: No export of this module would be faithful.
    """
    names = unique_names((n for n, _ in named_tensors(source.call(inputs))), inputs)
    exported = _export(source, axes, inputs)
    mutated = _mutated_buffers(exported)
    if mutated:
        name, place = next(iter(mutated.items()))
        raise ConversionError(
            "LPT-CONV-104",
            f"forward changes the buffer {name!r}" + (f" at {place}" if place else ""),
            cause="An exported model is a function of its inputs; runtimes would each start "
            "from the saved value and drift from the module.",
            remedy="Pass the state in and out as tensors, or stop updating it in eval mode.",
            details={"where": place, "buffers": sorted(mutated)},
        )
    program = describe_program(exported, list(inputs), names, axes)
    _prove(source, program, axes, inputs, warnings)
    return program


def _export(
    source: LiveSource, axes: Mapping[str, Mapping[int, str]], inputs: dict[str, torch.Tensor]
) -> ExportedProgram:
    args, kwargs = (tuple(inputs.values()), {}) if source.positional else ((), dict(inputs))
    shapes = _dynamic_shapes(source, axes)
    try:
        with captured(), torch.no_grad(), flat_forward(source.module):
            return torch.export.export(source.module, args, kwargs, dynamic_shapes=shapes)
    except LeptonError:
        raise
    except Exception as error:
        raise _refusal(source, error, args, kwargs, shapes) from error


def _refusal(
    source: LiveSource, error: Exception, args: tuple[Any, ...], kwargs: Any, shapes: Any  # noqa: ANN401
) -> _Refusal:
    """Explain torch's error in one sentence with the user's line."""
    text = str(error)
    if "Constraints violated" in text or "specialized" in text.split("\n", 1)[0]:
        place = _where_specialised(source, args, kwargs, shapes)
        found = re.search(r"marked (\S+) as dynamic but your code specialized it[^(]*\((\d+)\)", text)
        fixed = f"it fixes {found[1]} to {found[2]}" if found else _first_line(text)
        return _Refusal(f"the code does not work for every size: {fixed}", place, error)
    where = where_raised(error, source.root) or _where_in_text(text, source)
    kind = type(error).__name__
    if "data-dependent" in text.lower() or kind == "GuardOnDataDependentSymNode":
        return _Refusal("a decision in Python depends on the values of a tensor", where, error)
    return _Refusal(f"{kind}: {_first_line(text)}", where, error)


def _first_line(text: str) -> str:
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "no message")[:300]


def _where_in_text(text: str, source: LiveSource) -> str:
    frame = pick_frame(parse_stack(text), source.root)
    return describe_frame(frame, source.root)


def _where_specialised(
    source: LiveSource, args: tuple[Any, ...], kwargs: Any, shapes: Any  # noqa: ANN401
) -> str:
    """Export again with torch's log of shape decisions on, to learn the line of the first one."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    try:
        with captured() as chatter, torch.no_grad(), flat_forward(source.module):
            chatter.setLevel(logging.INFO)
            logger.setLevel(logging.INFO)
            torch.export.export(source.module, args, kwargs, dynamic_shapes=shapes)
    except Exception:  # noqa: S110 - it failed before; only the log matters
        pass
    finally:
        logger.setLevel(level)
    pattern = re.compile(r"(\S+\.py):(\d+) in (\w+)")
    for record in chatter.records:
        if not re.search(r"\beval\b|specializ|set_replacement|solve", record):
            continue
        for file, line, name in pattern.findall(record):
            folder = source.root
            short = file.rsplit("/", 1)[-1]
            if folder is not None and (folder / short).is_file():
                return f"{short}:{line} in {name}"
    return ""


def _mutated_buffers(exported: ExportedProgram) -> dict[str, str]:
    """Return buffers that ``forward`` writes to, with the user's line."""
    buffers = exported.graph_signature.inputs_to_buffers
    found: dict[str, str] = {}
    for node in exported.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
            info = argument.alias_info
            name = getattr(value, "name", None)
            if info is not None and info.is_write and name in buffers:
                frame = pick_frame(parse_stack(node.meta.get("stack_trace")))
                found.setdefault(buffers[name], describe_frame(frame, _parent(frame)))
    return found


def _parent(frame: tuple[str, int, str] | None) -> Any:  # noqa: ANN401
    from pathlib import Path

    return Path(frame[0]).parent if frame else None


def _prove(
    source: LiveSource,
    program: Program,
    axes: Mapping[str, Mapping[int, str]],
    inputs: dict[str, torch.Tensor],
    warnings: list[str],
) -> None:
    """Run program and module side by side.

    Raises:
        _Refusal: They differ, or one of them cannot run at another batch size.
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
    for trial in trials:
        size = _batch_of(trial)
        try:
            expected = _run_module(source, trial)
        except Exception as error:
            place = where_raised(error, source.root)
            reason = f"the module fails at batch {size} with {type(error).__name__}"
            raise _Refusal(f"{reason}: {_first_line(str(error))}", place, error) from error
        try:
            with captured(), torch.no_grad():
                flat = runner(*trial.values()) if source.positional else runner(**trial)
        except Exception as error:
            text = f"the exported program fails at batch {size}: {_first_line(str(error))}"
            raise _Refusal(text, "", error) from error
        if not _close(expected, list(flat)):
            text = f"the exported program computes something else at batch {size}"
            raise _Refusal(text, "")


def _run_module(source: LiveSource, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with captured():
        fresh = {k: v.clone() for k, v in inputs.items()}  # forward may write into its input
        return [tensor for _, tensor in named_tensors(source.call(fresh))]


def _close(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """Compare by relative L2 for floats and exactly for the rest; NaN equals NaN."""
    if len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return False
            continue
        x, y = a.double().nan_to_num(), b.double().nan_to_num()
        if not torch.equal(a.isnan(), b.isnan()):
            return False
        if float((x - y).norm()) > _TOLERANCE * (float(x.norm()) + 1e-6):
            return False
    return True


def _failure(source: LiveSource, refusal: _Refusal, dynamic: bool = False) -> ConversionError:
    """Return the error for a module that cannot be captured."""
    name = source.origin.get("module", "the module")
    remedies = {
        "a decision in Python": "Use torch.where, torch.cond or masking instead of Python's if, "
        "while or indexing by a tensor's value.",
        "the code does not work": "Use the sizes of the input (x.shape[0]) and -1 in reshapes "
        "instead of fixed numbers, and no Python loop over the batch.",
        "the exported program computes": "Keep constants that depend on the batch out of "
        "__init__ and of Python's state.",
    }
    remedy = next((v for k, v in remedies.items() if refusal.reason.startswith(k)), None)
    return ConversionError(
        "LPT-CONV-102" if dynamic else "LPT-CONV-101",
        f"{name} cannot be exported"
        + (" with a dynamic batch" if dynamic else "")
        + (f": {refusal.where}" if refusal.where else ""),
        cause=refusal.reason,
        remedy=remedy or "Write the line with tensor operators that torch.export can follow.",
        details={"where": refusal.where, "reason": refusal.reason},
    )


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
        "exporter": f"torch.export {torch.__version__.split('+')[0]}",
        "source": {**source.origin, "digest": source.digest},
        "dynamic_batch": _BATCH in symbols,
        "batch_symbol": _BATCH if _BATCH in symbols else None,
        "symbols": {k: list(v) for k, v in program.bounds.items()},
        "parameters": sum(p.numel() for p in source.module.parameters()),
    }
