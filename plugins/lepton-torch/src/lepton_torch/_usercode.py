"""Imports a user's file and finds the place in it that an error or an operator comes from."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lepton_core.errors import LeptonError, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<name>\S+))?')
_TORCH = str(Path(torch.__file__).resolve().parent)
_OURS = str(Path(__file__).resolve().parent)
_STDLIB = str(Path(sysconfig.get_path("stdlib")).resolve())


def _is_installed(file: str) -> bool:
    return "site-packages" in Path(file).parts or "dist-packages" in Path(file).parts


def _is_machinery(file: str) -> bool:
    """Tell whether a file is torch's, ours, or Python's own: never the place to look."""
    if file.startswith("<"):
        return True
    path = Path(file)
    if path.is_relative_to(_TORCH) or path.is_relative_to(_OURS):
        return True
    return path.is_relative_to(_STDLIB) and not _is_installed(file)


def pick_frame(
    frames: Iterable[tuple[str, int, str]], root: Path | None = None
) -> tuple[str, int, str] | None:
    """Return the innermost frame of the user's own code, else of code outside torch.

    Args:
        frames: ``(file, line, function)``, outermost first.
        root: Folder of the user's file; frames below it come first.
    """
    seen = [frame for frame in frames if not _is_machinery(frame[0])]
    other = [frame for frame in seen if not _is_installed(frame[0])]
    own = [frame for frame in other if root is not None and _below(frame[0], root)]
    for group in (own, other, seen):
        if group:
            return group[-1]
    return None


def _below(file: str, root: Path) -> bool:
    return Path(file).is_relative_to(root)


def describe_frame(frame: tuple[str, int, str] | None, root: Path | None = None) -> str:
    """Return ``"net.py:31 in forward"``, the file relative to *root* if it lies below it."""
    if frame is None:
        return ""
    file, line, name = frame
    path = Path(file)
    if root is not None and path.is_relative_to(root):
        shown = path.relative_to(root).as_posix()
    elif not path.is_absolute():  # normalised before
        shown = path.as_posix()
    elif "site-packages" in path.parts:
        last = len(path.parts) - 1 - path.parts[::-1].index("site-packages")
        shown = "/".join(path.parts[last + 1 :])
    else:
        shown = path.name
    return f"{shown}:{line} in {name}" if name else f"{shown}:{line}"


def parse_stack(text: str | None) -> list[tuple[str, int, str]]:
    """Return the frames of a formatted stack, outermost first."""
    return [
        (found["file"], int(found["line"]), found["name"] or "")
        for found in _FRAME.finditer(text or "")
    ]


def where_raised(error: BaseException, root: Path | None = None) -> str:
    """Return the place in the user's code that raised *error*, or ``""``."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return describe_frame((error.filename, error.lineno, ""), root)
    frames = [
        (f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)
    ]
    return describe_frame(pick_frame(frames, root), root)


def near(name: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """Return the candidates that look like *name*."""
    return difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)


@contextlib.contextmanager
def user_module(path: Path) -> Iterator[ModuleType]:
    """Import a user's file for the length of the block.

    The file gets a module name made from its contents, so that two files called ``net.py`` do
    not meet and the names that torch records do not depend on where the file lies. Its folder
    leads ``sys.path`` meanwhile; modules that were imported from there are forgotten
    afterwards, because the next source may have others of the same names.

    Args:
        path: The file, absolute.

    Raises:
        SourceError: The file cannot be imported; names the line in it.
    """
    folder = str(path.parent)
    name = f"lepton_source_{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    before = set(sys.modules)
    sys.path.insert(0, folder)
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield _execute(name, path)
    finally:
        sys.dont_write_bytecode = writes
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
        for added in set(sys.modules) - before:
            file = getattr(sys.modules[added], "__file__", None)
            if file and _below(file, path.parent) and not _is_installed(file):
                del sys.modules[added]


def _execute(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SourceError(
            "LPT-SRC-102",
            f"{path.name} is not a Python file",
            remedy="Write a torch source as FILE.py:FACTORY.",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    call_user_code(f"{path.name} cannot be imported", spec.loader.exec_module, module, path=path)
    return module


def call_user_code(
    message: str,
    function: Callable[..., Any],
    *args: object,
    path: Path,
    code: str = "LPT-SRC-102",
    remedy: str = "",
) -> Any:  # noqa: ANN401 - whatever the user's function returns
    """Call a user's function; its failure becomes a :class:`SourceError` with its line.

    ``SystemExit`` counts as a failure: scripts call ``sys.exit`` at import.
    """
    try:
        return function(*args)
    except LeptonError:
        raise
    except (Exception, SystemExit) as error:
        place = where_raised(error, path.parent)
        raise SourceError(
            code,
            f"{message}: {type(error).__name__}" + (f" at {place}" if place else ""),
            cause=str(error) or repr(error),
            remedy=_remedy(error, path, remedy),
            details={"where": place, "error": type(error).__name__},
        ) from error


def _remedy(error: BaseException, path: Path, usual: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"Install {error.name!r} in this environment, or remove the import."
    if isinstance(error, SystemExit):
        return f"Put the script part of {path.name} under `if __name__ == '__main__':`."
    return usual or try_alone(path)


def try_alone(path: Path, entry: str | None = None) -> str:
    """Return a remedy: how to run a user's file, or call a function in it, without lepton."""
    called = f"['{entry}']()" if entry else ""
    return f"Try it alone: python -c \"import runpy; runpy.run_path('{path.name}'){called}\"."
