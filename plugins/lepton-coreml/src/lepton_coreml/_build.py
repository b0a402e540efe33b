"""Calling coremltools: from an exported program to a package as coremltools writes it."""

from __future__ import annotations

import re
import traceback
from typing import TYPE_CHECKING

import numpy as np

from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, UnsupportedOperationError
from lepton_coreml._coremltools import captured, coremltools
from lepton_coreml._half import HalfPrecision
from lepton_coreml._integers import Names
from lepton_coreml._mil._package import open_package
from lepton_coreml._shims import PASSES, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from lepton_coreml._frontend import Exported

TARGETS = {"ios17": "iOS17", "ios18": "iOS18"}
"""Deployment target of coremltools by device."""


def build(
    exported: Exported,
    out: Path,
    *,
    device: str,
    half: bool,
    keep: Collection[str] = (),
    recipe: bool = False,
    without: tuple[str, ...] = (),
    tell: Callable[[str, str], None] | None = None,
) -> str:
    """Convert and save.

    Args:
        exported: The program.
        out: Folder to write, ending in ``.mlpackage``. Another package is left beside it.
        device: ``"ios17"`` or ``"ios18"``.
        half: Whether to compute in float16.
        keep: MIL operators, or names of operations, that stay float32 then.
        recipe: Whether the program holds a recipe's integers.
        without: Shims to leave out, and passes to leave in, for the tests.
        tell: Gets kind and place of every operator before coremltools translates it.

    Returns:
        Text of the note that names quantized values; empty if there are none.

    Raises:
        ConversionError: LPT-CONV-504 (an operator without a translation), 505 (coremltools fails
            on an operator, or altogether).
        UnsupportedOperationError: LPT-CONV-503, *keep* names what the program does not have.
    """
    ct = coremltools()
    names = Names(exported.weights)
    precision = ct.precision.FLOAT32
    rounded = HalfPrecision(keep if half else ())
    if half:
        precision = ct.transform.FP16ComputePrecision(rounded)
    pipeline = ct.PassPipeline.DEFAULT
    if recipe:
        pipeline.remove_passes({one.name for one in PASSES} - set(without))
    with captured(tell) as chatter, installed(names, without):
        try:
            model = ct.convert(
                exported.program,
                # Without this a float16 program also gives float16, which cuts large outputs.
                outputs=[ct.TensorType(dtype=np.dtype(name).type) for name in exported.outputs],
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, TARGETS[device]),
                compute_precision=precision,
                pass_pipeline=pipeline,
                skip_model_load=True,
                # Else it lies in the system's temporary folder until the interpreter ends in order,
                # which a worker never does.
                package_dir=str(out.with_name(f"converted-{out.name}")),
            )
            model.save(str(out))
        except Exception as error:
            said = [*chatter.records, *chatter.printed.getvalue().splitlines()]
            traceback.clear_frames(error.__traceback__)  # they hold its folder of weights
            raise _failure(error, said) from error
    unseen = rounded.unseen
    if unseen:  # the pass does not ask about operations that stay float32 for reasons of its own
        for op in open_package(out).program().block.operations:
            unseen.difference_update((op.kind, op.name))
    if unseen:
        raise UnsupportedOperationError(
            "LPT-CONV-503",
            f"coreml cannot be converted with keep=[{min(unseen)!r}]",
            cause="The program has no operator and no operation of that name.",
            remedy="Leave it out, or name a MIL operator (such as softmax) or an operation that "
            "the package has.",
        )
    return names.note() if names.values else ""


_WHERE = re.compile(r"converting '([^']+)' op \(located at: '([^']*)'\)")
_UNKNOWN = re.compile(r"Unsupported fx node (\S+?),? kind (\S+)")
_NOT_THERE = re.compile(r"PyTorch convert function for op '([^']+)' not implemented")


def _failure(error: Exception, said: list[str]) -> ConversionError:
    version = versions_of("coremltools").get("coremltools", "")
    text = " ".join(str(error).split())[:500]
    unknown = _UNKNOWN.search(text) or _NOT_THERE.search(text)
    if unknown:
        operator = unknown.groups()[-1]
        return ConversionError(
            "LPT-CONV-504",
            f"coremltools {version} has no translation of the operator {operator!r}",
            cause=text,
            remedy="Replace it in the model, or choose another target.",
            details={"operator": operator},
        )
    found = next((m for line in reversed(said) if (m := _WHERE.search(line))), None)
    operator, place = found.groups() if found else ("", "")
    return ConversionError(
        "LPT-CONV-505",
        f"coremltools {version} cannot convert "
        + (f"{operator!r} at {place!r}" if operator else "the model"),
        cause=f"{type(error).__name__}: {text}",
        remedy="Convert with static shapes (dynamic_batch off) if it names a size; else choose "
        "another target.",
        details={"operator": operator, "where": place},
    )


__all__ = ["TARGETS", "build"]
