"""What is left behind where a conversion fails: the graph, and a script that fails the same way."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_core.errors import ConversionError
from lepton_core.recipe import SIDECAR_SUFFIX
from lepton_onnx.external import external_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lepton_core.types import ConvertRequest

_SCRIPT = '''"""Converts the graph beside it to LiteRT, as lepton did when it failed."""

from pathlib import Path

from lepton_core.types import ConvertRequest, Model
from lepton_tflite._convert import attempt

here = Path(__file__).parent
model = Model("pivot", str(here / "model.onnx"), digest={digest!r})
request = ConvertRequest(
    "tflite",
    precision={precision!r},
    device={device!r},
    recipe={recipe},
    dynamic_batch={dynamic_batch!r},
    options={options!r},
)
attempt(model, request)
print("The graph is converted here, so what failed is not in it.")
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
def reproducer(source: Path, parent: str, request: ConvertRequest) -> Iterator[Saved]:
    """Write a reproducer before the conversion, and remove it unless that fails.

    The script makes the same request of the same code, so all that is done to the file after the
    converter's part (opening the batch, the recipe's integers, the proof) is in it too. It stands
    there before, because a converter that crashes takes the process with it; the error of a crash
    then names it (:meth:`.Context.about_to`).

    Args:
        source: The pivot.
        parent: Its digest, which a recipe is held against.
        request: What was asked for; its recipe is copied.
    """
    folder = Path(tempfile.mkdtemp(prefix="lepton-tflite-"))
    saved = Saved(folder)
    for file in (source, *external_files(source)):
        _link(file, folder / ("model.onnx" if file == source else file.name))
    recipe = _copied(request.recipe, folder) if request.recipe else "None"
    script = _SCRIPT.format(
        digest=parent, precision=request.precision, device=request.device, recipe=recipe,
        dynamic_batch=request.dynamic_batch, options=dict(request.options),
    )  # fmt: skip
    (folder / "convert.py").write_text(script, encoding="utf-8")
    try:
        yield saved
    finally:
        if not saved.kept:
            shutil.rmtree(folder, ignore_errors=True)


def _copied(recipe: str, folder: Path) -> str:
    """Copy a recipe and the arrays beside it; returns how the script names it."""
    file, arrays = Path(recipe), Path(recipe).with_suffix(SIDECAR_SUFFIX)
    with contextlib.suppress(OSError):  # reading it says what is wrong with it
        shutil.copyfile(file, folder / "recipe.json")
        if arrays.exists():
            shutil.copyfile(arrays, folder / f"recipe{SIDECAR_SUFFIX}")
    return 'str(here / "recipe.json")'


def _link(file: Path, place: Path) -> None:
    """Link a file, which costs nothing, or copy it where that is not possible."""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


__all__ = ["Saved", "reproducer"]
