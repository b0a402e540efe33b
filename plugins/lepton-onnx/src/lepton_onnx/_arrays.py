"""Checking the arrays that go into a session."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import SessionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lepton_core.types import Signature, TensorSpec


def checked_inputs(signature: Signature, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Check named arrays against a signature, without changing a value.

    Args:
        signature: What the model takes.
        inputs: One array per input; C or Fortran order, any byte order.

    Returns:
        The same arrays in the signature's order and in native byte order.

    Raises:
        SessionError: LPT-RUN-201 (missing), 202 (unknown), 203 (dtype), 204 (rank or shape).
    """
    wanted = {spec.name: spec for spec in signature.inputs}
    unknown = [name for name in inputs if name not in wanted]
    missing = [name for name in wanted if name not in inputs]
    if unknown:
        raise _unknown(unknown[0], signature, missing)
    if missing:
        raise SessionError(
            "LPT-RUN-201",
            f"Input {missing[0]!r} is missing",
            cause=f"Given: {_list(inputs)}; the model takes {signature}.",
            remedy=f"Pass an array for {_list(missing)}.",
        )
    symbols: dict[str, tuple[int, str]] = {}
    checked = {}
    for spec in signature.inputs:
        array = _checked_dtype(spec, inputs[spec.name])
        if isinstance(array, np.ndarray):
            _check_shape(spec, array, symbols)
        checked[spec.name] = array
    return checked


def _list(names: Any) -> str:  # noqa: ANN401 - any iterable of strings
    return ", ".join(repr(name) for name in names) or "nothing"


def _unknown(name: str, signature: Signature, missing: list[str]) -> SessionError:
    names = [spec.name for spec in signature.inputs]
    lower = {other.lower(): other for other in (missing or names)}
    near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)]
    return SessionError(
        "LPT-RUN-202",
        f"The model has no input {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        cause=f"It takes {signature}.",
        remedy=f"Use the names {_list(names)}.",
    )


def _checked_dtype(spec: TensorSpec, value: Any) -> Any:  # noqa: ANN401 - arrays, sequences
    if not isinstance(value, np.ndarray | np.generic):
        if spec.dtype in ("sequence", "optional", "map"):
            return value
        raise SessionError(
            "LPT-RUN-203",
            f"Input {spec.name!r} is a {type(value).__name__}, not an array",
            cause=f"The model takes {spec}.",
            remedy=f'Pass numpy.asarray(…, dtype="{spec.dtype}").',
        )
    array = np.asarray(value)
    if spec.dtype == "string":
        if array.dtype.kind in "OUS":
            return array.astype(object)
    elif array.dtype.name == spec.dtype:
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    raise SessionError(
        "LPT-RUN-203",
        f"Input {spec.name!r} has dtype {array.dtype.name}; the model takes {spec.dtype}",
        cause=f"The model takes {spec}.",
        remedy=f'Convert it: array.astype("{spec.dtype}").',
    )


def _check_shape(spec: TensorSpec, array: np.ndarray, symbols: dict[str, tuple[int, str]]) -> None:
    if spec.shape == (None,):
        return  # one unknown dimension also stands for an unknown rank
    if array.ndim != len(spec.shape):
        raise _shape_error(spec, array, f"It has {array.ndim} axes; {len(spec.shape)} are needed.")
    for axis, (have, want) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(want, int) and have != want:
            raise _shape_error(spec, array, f"Axis {axis} is {have}; it must be {want}.")
        if isinstance(want, str):
            bound, owner = symbols.setdefault(want, (have, spec.name))
            if bound != have:
                cause = f"Axis {axis} is {want!r}, which is {bound} in {owner!r}, but {have} here."
                raise _shape_error(spec, array, cause)


def _shape_error(spec: TensorSpec, array: np.ndarray, cause: str) -> SessionError:
    given = ", ".join(map(str, array.shape))
    return SessionError(
        "LPT-RUN-204",
        f"Input {spec.name!r} has shape [{given}]; the model takes {spec}",
        cause=cause,
        remedy="Reshape or resize the array; a single sample needs a leading axis of length 1.",
    )
