"""What is left behind where a conversion fails: the graph, and a script that fails the same way."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError
from lepton_onnx.external import external_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_tflite._ports import Ports

_SCRIPT = '''"""Converts the graph beside it to LiteRT, as lepton did when it failed."""

from pathlib import Path

import torch
import litert_torch
from lepton_onnx import pivot
from lepton_torch.bridge import load_module

SHAPES = {shapes}

proto = pivot.load(Path(__file__).with_name("model.onnx"))
inputs = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in SHAPES)
print(litert_torch.convert(load_module(proto, inputs), inputs))
'''


class Saved:
    """Where the reproducer lies; it is kept once an error was named by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = False

    def named(self, error: ConversionError) -> ConversionError:
        """Return an error that also says where the reproducer is."""
        self.kept = True
        return ConversionError(
            error.code,
            error.message,
            cause=error.cause,
            remedy=f"{error.remedy} {self.folder}/convert.py reproduces it.",
            details={**error.details, "reproducer": str(self.folder)},
        )


@contextlib.contextmanager
def reproducer(source: Path, ports: Ports) -> Iterator[Saved]:
    """Write a reproducer before the conversion, and remove it unless that fails.

    It stands there before, because a converter that crashes takes the process with it; the
    process's log, which the error of a crash quotes, then names the place.
    """
    folder = Path(tempfile.mkdtemp(prefix="lepton-tflite-"))
    saved = Saved(folder)
    for file in (source, *external_files(source)):
        _link(file, folder / ("model.onnx" if file == source else file.name))
    shapes = [
        ([d if isinstance(d, int) else 1 for d in s.shape], s.dtype) for s in ports.signature.inputs
    ]
    (folder / "convert.py").write_text(_SCRIPT.format(shapes=shapes), encoding="utf-8")
    if _in_worker():
        sys.stderr.write(f"converting; if this crashes, {folder}/convert.py reproduces it\n")
    try:
        yield saved
    finally:
        if not saved.kept:
            shutil.rmtree(folder, ignore_errors=True)


def _in_worker() -> bool:
    """Tell whether this process's stderr is a worker's log, and not a user's terminal."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.startswith("lepton_core.workers.")


def _link(file: Path, place: Path) -> None:
    """Link a file, which costs nothing, or copy it where that is not possible."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


__all__ = ["Saved", "reproducer"]
