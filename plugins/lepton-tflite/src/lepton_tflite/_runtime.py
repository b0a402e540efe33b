"""The runtime's package, and calls of an interpreter."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_core.environment import version_of
from lepton_core.errors import PluginDependencyError
from lepton_core.installing import install_command

if TYPE_CHECKING:
    from collections.abc import Mapping


def interpreter_module() -> Any:  # noqa: ANN401 - the package has no types
    """Return the module that holds ``Interpreter``: ai-edge-litert's, else tflite-runtime's.

    Raises:
        PluginDependencyError: LPT-RUN-401, neither can be imported, or tflite-runtime, whose last
            build is for NumPy 1, stands beside NumPy 2.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        return _older(error)
    return interpreter


def _older(error: ImportError) -> Any:  # noqa: ANN401 - the package has no types
    # Beside NumPy 2 its import ends well, and the first interpreter in a SystemError.
    module = find_module("tflite_runtime")
    if module is None:
        raise missing(error) from error
    if int(np.__version__.partition(".")[0]) > 1:
        raise PluginDependencyError(
            "LPT-RUN-401",
            f"tflite-runtime works with NumPy 1, and NumPy {np.__version__} is installed",
            cause=f"It is the fallback for ai-edge-litert, which is not there: {error}",
            remedy=install_command("lepton-tflite"),
        ) from error
    from tflite_runtime import interpreter

    return interpreter


def find_module(name: str) -> Any:  # noqa: ANN401 - a module's specification
    """Return where a package would be imported from, or ``None``."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the latter if the import was forbidden
        return None


def missing(error: ImportError) -> PluginDependencyError:
    """Return what says that the runtime's package cannot be imported."""
    return PluginDependencyError(
        "LPT-RUN-401",
        "The LiteRT runtime cannot be imported",
        cause=str(error),
        remedy=install_command("lepton-tflite"),
    )


def runtime_name() -> tuple[str, str]:
    """Return which runtime sessions run on, ``"litert"`` or ``"tflite-runtime"``; its version."""
    own = interpreter_module().__name__.startswith("ai_edge_litert")
    name, package = ("litert", "ai-edge-litert") if own else ("tflite-runtime",) * 2
    return name, version_of(package) or ""


def make_interpreter(
    source: str | bytes, threads: int | None = None, *, delegate: bool = True
) -> Any:  # noqa: ANN401 - a class of the runtime
    """Return an interpreter on a file or on a file's bytes, tensors not yet allocated.

    Args:
        source: Path, or content.
        threads: Threads of the kernels.
        delegate: Whether XNNPACK may run what it can.

    Raises:
        ValueError: The runtime refuses the file.
    """
    module = interpreter_module()
    resolver = module.OpResolverType
    place = {"model_path": source} if isinstance(source, str) else {"model_content": source}
    return module.Interpreter(
        **place,
        num_threads=threads,
        experimental_op_resolver_type=(
            resolver.AUTO if delegate else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )


class Calls:
    """Runs an interpreter on arrays of the file's own types and of any size that it takes.

    The interpreter's tensors are allocated, for the sizes that the details name.

    Attributes:
        inputs: The runtime's details of each input, by name.
        outputs: Those of each output.
    """

    def __init__(
        self,
        interpreter: Any,  # noqa: ANN401 - a class of the runtime
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any],
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._interpreter: Any = interpreter
        self._shapes = {d["index"]: tuple(map(int, d["shape"])) for d in inputs.values()}

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once.

        Raises:
            ValueError, RuntimeError: The runtime's own.
        """
        shapes = {self.inputs[n]["index"]: a.shape for n, a in arrays.items()}
        # A call that fails may leave tensors without memory: the next one sizes all of them again.
        known, self._shapes = self._shapes, {}
        if shapes != known:
            self._resize({i: shape for i, shape in shapes.items() if known.get(i) != shape})
        given = {n: np.asarray(array, order="C") for n, array in arrays.items()}
        found = self._invoke(given)
        self._shapes = shapes
        return found

    def run_rows(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once per row, and put the rows together; there has to be one."""
        rows = len(next(iter(arrays.values())))
        parts = [self.run({n: a[i : i + 1] for n, a in arrays.items()}) for i in range(rows)]
        if rows == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Let go of the interpreter."""
        self._interpreter = None

    def _resize(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        """Give inputs other sizes, by their index."""
        for index, shape in shapes.items():
            self._interpreter.resize_tensor_input(index, shape)
        self._interpreter.allocate_tensors()

    def _invoke(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run on arrays of the sizes that the inputs have, contiguous; returns new arrays."""
        for name, array in arrays.items():
            self._interpreter.set_tensor(self.inputs[name]["index"], array)
        self._interpreter.invoke()
        return {n: self._interpreter.get_tensor(d["index"]) for n, d in self.outputs.items()}


__all__ = [
    "Calls",
    "find_module",
    "interpreter_module",
    "make_interpreter",
    "missing",
    "runtime_name",
]
