"""Calling litert-torch, quietly, and saying what failed."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import tempfile
import threading
import warnings
from typing import TYPE_CHECKING, Any

from lepton_core.environment import versions_of
from lepton_core.errors import ConversionError, PluginDependencyError
from lepton_core.installing import install_command
from lepton_core.narrowing import NARROW
from lepton_tflite._words import silent, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from lepton_tflite._words import Tell

_OPERATOR = re.compile(
    r"TF Select ops: (\w+)|'((?:tfl|stablehlo|tf|vhlo|chlo|quant)\.[a-z0-9_]+)'"
    r"|\b(aten[.:]+[a-zA-Z0-9_]+(?:\.[a-zA-Z0-9_]+)?)"
    r"|(?:error|failed to legalize operation):? '([a-z0-9_.]+)'"
)
_LONGEST = 600
_one_at_a_time = threading.RLock()
"""Held while the process's stderr is elsewhere; two who turn it back in another order lose it."""


def packages() -> Any:  # noqa: ANN401 - the package has no types
    """Return ``litert_torch``, imported without its progress output.

    Raises:
        PluginDependencyError: LPT-CONV-401, it is not installed.
    """
    held = os.environ.get("LITERT_TORCH_SHOW_PROGRESS")
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    try:
        with quiet():
            import litert_torch
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-CONV-401",
            "The converter to LiteRT cannot be imported",
            cause=str(error),
            remedy="Running .tflite files does not need it; "
            + install_command("lepton-tflite[convert]"),
        ) from error
    finally:
        if held is None:
            del os.environ["LITERT_TORCH_SHOW_PROGRESS"]
        else:
            os.environ["LITERT_TORCH_SHOW_PROGRESS"] = held
    return litert_torch


def convert_module(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    integer: bool = False,
    tell: Tell = silent,
) -> bytes:
    """Convert a module for fixed sizes.

    Args:
        module: In eval mode; gives a tuple of tensors.
        inputs: One tensor per input, of the sizes to convert for.
        integer: Whether quantized operators become integer kernels, with the scales and zero
            points that stand in the module. The converter does so only in the mode that a PT2E
            quantizer switches on; the quantizer itself is not run.
        tell: Hears of every step and operator before the converter comes to it.

    Returns:
        The file's bytes.

    Raises:
        ConversionError: LPT-CONV-402, the converter refuses the module; the operator is named.
        PluginDependencyError: LPT-CONV-401.
    """
    package = packages()
    options: dict[str, Any] = {}
    if integer:
        from litert_torch.quantize import pt2e_quantizer, quant_config

        symmetric = pt2e_quantizer.get_symmetric_quantization_config()
        quantizer = pt2e_quantizer.PT2EQuantizer().set_global(symmetric)
        options["quant_config"] = quant_config.QuantConfig(pt2e_quantizer=quantizer)
    printed: list[str] = []
    try:
        with quiet(printed), told(tell):
            return bytes(package.convert(module, tuple(inputs), **options).model_content())
    except Exception as error:
        raise _refused(error, "".join(printed)) from error


def _refused(error: Exception, printed: str) -> ConversionError:
    said = f"{error}\n{printed}"
    match = _OPERATOR.search(said)
    operator = next((g for g in match.groups() if g), "") if match else ""
    version = versions_of("litert-torch").get("litert-torch", "")
    return ConversionError(
        "LPT-CONV-402",
        f"litert-torch {version} cannot convert " + (f"{operator!r}" if operator else "the model"),
        cause=" ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST],
        remedy="Replace the operator in the model, or choose another target.",
        details={
            "operator": operator,
            "log": printed[-2000:],
            **({} if operator else {NARROW: True}),
        },
    )


@contextlib.contextmanager
def quiet(printed: list[str] | None = None) -> Iterator[None]:
    """Collect what Python and the native libraries print, until the block ends.

    Args:
        printed: Gets the text.
    """
    with _one_at_a_time:
        yield from _collected(printed)


def _collected(printed: list[str] | None) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    said = _Log.of_worker()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as sink,
        contextlib.nullcontext() if said else _native(sink),
    ):
        handlers = logging.root.handlers[:]
        level = logging.root.level
        logging.root.handlers[:] = [logging.StreamHandler(sink)]
        try:
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(sink),
                contextlib.redirect_stderr(sink),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.root.handlers[:] = handlers
            logging.root.setLevel(level)
            if printed is not None:
                sink.flush()
                sink.seek(0)
                printed.append(sink.read() + (said.since() if said else ""))


class _Log:
    """The log of a worker process, which its stderr is already.

    What the native libraries print goes on going there, because it must outlive a crash.
    """

    def __init__(self) -> None:
        self._begin = os.lseek(2, 0, os.SEEK_CUR)

    @classmethod
    def of_worker(cls) -> _Log | None:
        """Return the log; ``None`` where this is no worker and stderr may be a user's terminal."""
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        if spec is None or not spec.name.startswith("lepton_core.workers."):
            return None
        return cls() if stat.S_ISREG(os.fstat(2).st_mode) else None

    def since(self) -> str:
        """Return what has been printed since this object was made."""
        end = os.lseek(2, 0, os.SEEK_CUR)
        os.lseek(2, self._begin, os.SEEK_SET)
        try:
            return os.read(2, max(0, end - self._begin)).decode(errors="replace")
        finally:
            os.lseek(2, end, os.SEEK_SET)


@contextlib.contextmanager
def _native(sink: Any) -> Iterator[None]:  # noqa: ANN401 - a file
    """Send the process's own stderr to *sink*."""
    kept = os.dup(2)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


__all__ = ["convert_module", "packages", "quiet"]
