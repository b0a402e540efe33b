"""A conversion that ended without an answer: what it was at, and a folder that does it again.

A converter may take its process with it: a signal, an exit, a limit. The caller then knows what
the worker said last (:meth:`.Context.about_to`, an open bar, the innermost frames of its stack),
still holds the model and the request, and makes of them a :class:`.ConversionError` that names the
operator and a reproducer:

.. code-block:: text

    lepton-tflite-XXXXXXXX/
        model.onnx      what was to be converted, unless it is the user's own file
        recipe.json     the recipe, if there is one
        call.json       owner, model and request
        convert.py      runs that in its own process
        log.txt         what the worker printed
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_core import types
from lepton_core.errors import (
    ConversionError,
    LeptonError,
    PluginFailureError,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeoutError,
)
from lepton_core.narrowing import NARROW, narrowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.capabilities import PluginInfo
    from lepton_core.context import Context

CALL = "call.json"
_SCHEMA = 1
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)', re.M)
_SCRIPT = '''"""Converts the model of call.json here, as a worker of lepton did when it ended."""

from pathlib import Path

from lepton_core.crashes import replay

replay(Path(__file__).parent)
print("The conversion ended well here, so what failed is not in the model and the request alone.")
'''


@contextlib.contextmanager
def crashes_named(
    verb: str, info: PluginInfo, model: types.Model, request: object, context: Context
) -> Iterator[None]:
    """Turn the end of a converter's process into an error that names operator and reproducer.

    An engine converts in its own worker. Where that ends, its error stays what it is, and begins
    with the last word of the conversion; a worker that could not be started is left alone.

    Where neither the end nor a refusal names an operator, parts of the graph may tell
    (:mod:`lepton_core.narrowing`).

    Raises:
        ConversionError: LPT-CONV-001, the process ended; the error that says how is its cause.
    """
    converts = isinstance(request, types.ConvertRequest) and verb == "convert"
    if converts:  # heard where this process is a worker itself
        context.about_to(f"converting with {info.title}")
    try:
        yield
    except (WorkerError, PluginFailureError) as error:
        if not _ended(error):
            raise
        if isinstance(request, types.ConvertRequest) and converts:
            named = _named(error, info, model, request)
            if not named.details["operator"]:
                named.__cause__ = error
                named = narrowed(named, info, model, request, context)
            raise named from error
        _quote(error)
        raise
    except ConversionError as error:
        if not (isinstance(request, types.ConvertRequest) and converts and NARROW in error.details):
            raise
        found = narrowed(error, info, model, request, context)
        if found is error:
            raise
        raise found from error
    finally:
        if converts:
            context.about_to("")


def _quote(error: LeptonError) -> None:
    """Put the last word of a conversion before the cause, and its reproducer before the remedy."""
    said = error.details
    if not said.get("step"):
        return
    at = f", at the operator {said['operator']!r}" if said.get("operator") else ""
    at += f" ({said['where']})" if said.get("where") else ""
    word = f"It was {said['step']}{at}."
    if word in (error.cause or ""):  # quoted by a verb that was called by this one
        return
    error.cause = "\n".join(filter(None, (word, error.cause)))
    folder = str(said.get("reproducer", ""))
    if folder and Path(folder).is_dir():
        error.remedy = f"{_again(folder)}{error.remedy or ''}".strip()


def _again(folder: str) -> str:
    return f"`python {folder}/convert.py` does it again. " if folder else ""


def _ended(error: LeptonError) -> bool:
    if isinstance(error, WorkerError):
        return error.code != "LPT-WORK-005"  # it was never started
    return error.details.get("exception") == "SystemExit"  # some backends call sys.exit


def _named(
    error: LeptonError, info: PluginInfo, model: types.Model, request: types.ConvertRequest
) -> ConversionError:
    said = error.details
    operator, step = str(said.get("operator", "")), str(said.get("step", ""))
    where = str(said.get("where", ""))
    folder = str(said.get("reproducer", ""))
    if not folder or not Path(folder).is_dir():  # one that has ended in order removes its own
        folder = write_reproducer(info.id, model, request, error)
    at = f" while {step}" if step else ""
    if not step and said.get("bar"):
        at = f" at the step {said['bar']!r}"
    at += f", at the operator {operator!r}" if operator else ""
    at += f" ({where})" if where else ""
    frame = _innermost(error.cause or "")
    causes = (f"{error.code}: {error.message}.", frame, error.cause)
    details = {key: said[key] for key in ("step", "operator", "where") if said.get(key)}
    return ConversionError(
        "LPT-CONV-001",
        f"The converter of {info.title} {_how(error)}{at}",
        cause="\n".join(line for line in causes if line),
        remedy=f"{_again(folder)}{_remedy(error)}",
        details={
            "operator": operator,
            **details,
            "plugin": info.id,
            "reproducer": folder or None,
            "worker": {**error.to_dict(), "cause": None},
        },
    )


def _how(error: LeptonError) -> str:
    if isinstance(error, WorkerTimeoutError):
        return "passed its time limit"
    if isinstance(error, WorkerMemoryError):
        return "passed its memory limit"
    if error.code == "LPT-WORK-004":
        return "ran out of memory"
    return "ended its process" if isinstance(error, PluginFailureError) else "crashed"


def _remedy(error: LeptonError) -> str:
    limits = isinstance(error, WorkerTimeoutError | WorkerMemoryError)
    if limits or error.code == "LPT-WORK-004":
        return error.remedy or ""
    return (
        "Other targets are not touched by it. Replace the operator, choose another target, or "
        "report it to the plugin's makers."
    )


def _innermost(log: str) -> str:
    """Return the frame in which a fatal signal came, from what faulthandler wrote."""
    found = _FRAME.search(log)
    if found is None:
        return ""
    path = "/".join(Path(found["file"]).parts[-2:])
    return f"It was in {found['name']} ({path}:{found['line']})."


def write_reproducer(
    owner: str,
    model: types.Model,
    request: types.ConvertRequest,
    error: LeptonError,
    *,
    keep: bool = False,
) -> str:
    """Write a folder below the system's temporary one that calls the converter again.

    What lepton made itself (a pivot) is linked or copied there, because a run removes it; a file
    of the user's stays where it is.

    Args:
        owner: The plugin that converts.
        model: What was to be converted.
        request: What was asked for.
        error: How it ended.
        keep: Whether the model is linked or copied whoever made it.

    Returns:
        The folder; empty if it cannot be written.
    """
    from lepton_core._recipe_step import keep_recipe
    from lepton_core.codec import to_data

    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"lepton-{owner}-"))
        place = model.path
        own = keep or (bool(model.lineage) and model.entry is None)
        if own and Path(model.path).is_file():
            place = _kept(model, folder)
        data = {"schema": _SCHEMA, "owner": owner, "model": to_data(model.evolve(path=place))}
        asked = to_data(request)
        if request.recipe:
            keep_recipe(request.recipe, folder)
            asked["recipe"] = "recipe.json"
        (folder / CALL).write_text(json.dumps({**data, "request": asked}, indent=1) + "\n")
        (folder / "convert.py").write_text(_SCRIPT, encoding="utf-8")
        (folder / "log.txt").write_text(f"{error}\n", encoding="utf-8")
    except (OSError, LeptonError):  # the crash is what must be told
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return ""
    return str(folder)


def _kept(model: types.Model, folder: Path) -> str:
    from lepton_core.artifacts import artifact_files

    main = Path(model.path)
    for path in artifact_files(model):
        place = folder / path.relative_to(main.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)  # costs nothing where it is possible
        except OSError:
            shutil.copyfile(path, place)
    return main.name


def replay(folder: Path) -> types.ConvertResult:
    """Convert what :func:`write_reproducer` kept, in this process.

    Args:
        folder: What it returned.

    Returns:
        The result; its files are gone.

    Raises:
        LeptonError: As the conversion; a crash ends the process.
    """
    from lepton_core.codec import from_data
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry

    data: dict[str, Any] = json.loads((folder / CALL).read_text(encoding="utf-8"))
    model = from_data(data["model"], types.Model)
    if (folder / model.path).exists():  # an absolute path stays what it is
        model = model.evolve(path=str((folder / model.path).absolute()))
    request = data["request"]
    if request.get("recipe"):
        request["recipe"] = str((folder / request["recipe"]).absolute())
    asked = from_data(request, types.ConvertRequest)
    with tempfile.TemporaryDirectory(prefix="lepton-") as workdir:
        context = Context(Path(workdir))
        found = Hooks(Registry()).call(
            "convert", data["owner"], model, asked, context, isolated=False
        )
        assert isinstance(found, types.ConvertResult)  # noqa: S101 - call has checked it
        return found


__all__ = ["CALL", "crashes_named", "replay", "write_reproducer"]
