"""Samples from the user's own Python function; its errors are shown with its own lines."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.errors import OperationCancelledError, SampleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

    Array = NDArray[Any]

_LABELS = "labels"
_RETURNS = (
    "Return a dict of arrays with one row per sample, a pair (dict, labels), or an iterable of "
    "dicts, one per sample."
)


def call_samples(script: Path, name: str, written: str) -> tuple[dict[str, Array], Array | None]:
    """Import *script*, call *name* in it, and collect what it returns.

    Args:
        script: The user's file.
        name: A callable in it that takes no arguments.
        written: How the user wrote it, for messages.

    Returns:
        Arrays by input name, and labels or ``None``.

    Raises:
        SampleError: ``LPT-DATA-007`` no such callable, or the file cannot be imported;
            ``LPT-DATA-008`` it raised; ``LPT-DATA-009`` it returned something else.
    """
    with _directory_on_path(script):
        function = _find(script, name, written)
        with _user_code(script, "LPT-DATA-008", f"Samples {written!r} failed"):
            returned = function()
            if not isinstance(returned, Mapping | tuple):
                returned = _stack(returned, written)
        return _normalise(returned, script, written)


@contextmanager
def _directory_on_path(script: Path) -> Iterator[None]:
    """Let the script import its neighbours, as ``python script.py`` would."""
    directory = str(script.parent)
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        if directory in sys.path:
            sys.path.remove(directory)


@contextmanager
def _user_code(script: Path, code: str, message: str) -> Iterator[None]:
    try:
        yield
    except (SampleError, KeyboardInterrupt, OperationCancelledError):
        raise
    except (Exception, SystemExit) as error:
        raise SampleError(
            code,
            message,
            cause=f"{type(error).__name__}: {error} ({_place(error, script)})",
            remedy="The error is in that file; fix it there.",
        ) from error


def _place(error: BaseException, script: Path) -> str:
    """Return ``file:line`` of the user's own last line on the way to *error*."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == str(script)]
    if not own:
        return str(script)
    return f"{script}:{own[-1].lineno} in {own[-1].name}"


def _find(script: Path, name: str, written: str) -> Callable[[], Any]:
    with _user_code(script, "LPT-DATA-007", f"{script.name} cannot be imported"):
        module = _import(script)
    found = getattr(module, name, None) if name else None
    if callable(found):
        return found  # type: ignore[no-any-return]
    known = _defined(script)
    near = difflib.get_close_matches(name, known, n=1)
    raise SampleError(
        "LPT-DATA-007",
        f"There is no callable {name!r} in {script.name}",
        cause=f"it defines {', '.join(known)}" if known else "it defines no functions",
        remedy=f"Did you mean {script.name}:{near[0]}?" if near else "Write file.py:NAME.",
        details={"written": written, "defined": known},
    )


def _import(script: Path) -> ModuleType:
    # A name of its own: the user's "data.py" must not shadow an installed module.
    name = f"_lepton_samples_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    if spec is None or spec.loader is None:
        msg = f"{script} is not a Python file"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _defined(script: Path) -> list[str]:
    tree = ast.parse(script.read_bytes())
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def _stack(returned: object, written: str) -> tuple[dict[str, Any], Any]:
    """Turn an iterable of per-sample mappings into arrays with one row per sample."""
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | np.ndarray):
        raise _wrong(written, f"it returned {_kind(returned)}")
    columns: dict[str, list[Array]] = {}
    labels: list[Any] = []
    for index, item in enumerate(returned):
        row, label = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not isinstance(row, Mapping):
            raise _wrong(written, f"sample {index} is {_kind(row)}, not a dict")
        if index and set(row) != set(columns):
            raise _wrong(
                written, f"sample {index} has {sorted(row)}, sample 0 has {sorted(columns)}"
            )
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column.append(_same_shape(np.asarray(value), column, f"{name!r} of sample {index}"))
        if label is not None:
            labels.append(label)
    return {name: np.stack(column) for name, column in columns.items()}, labels or None


def _same_shape(value: Array, column: list[Array], where: str) -> Array:
    if column and value.shape != column[0].shape:
        msg = f"{where} has shape {value.shape}, sample 0 has {column[0].shape}"
        raise ValueError(msg)
    return value


def _normalise(
    returned: object, script: Path, written: str
) -> tuple[dict[str, Array], Array | None]:
    mapping, labels = returned, None
    if isinstance(returned, tuple):
        if len(returned) != 2:
            raise _wrong(written, f"it returned a tuple of {len(returned)}")
        mapping, labels = returned
    if not isinstance(mapping, Mapping):
        raise _wrong(written, f"it returned {_kind(mapping)}")
    with _user_code(script, "LPT-DATA-009", f"{written!r} did not return arrays"):
        arrays = {_name(name, written): np.asarray(value) for name, value in mapping.items()}
        if labels is None:
            labels = arrays.pop(_LABELS, None)
        columns = arrays if labels is None else {**arrays, _LABELS: np.asarray(labels)}
    for name, array in columns.items():
        if array.dtype.hasobject:
            raise _wrong(written, f"{name!r} is not an array of numbers ({array.dtype})")
    return arrays, columns.get(_LABELS) if labels is not None else None


def _name(name: object, written: str) -> str:
    if not isinstance(name, str):
        raise _wrong(written, f"a name is {_kind(name)}, not a string")
    return name


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _wrong(written: str, cause: str) -> SampleError:
    return SampleError(
        "LPT-DATA-009", f"{written!r} did not return samples", cause=cause, remedy=_RETURNS
    )


__all__ = ["call_samples"]
