"""The runtime's package."""

from __future__ import annotations

from typing import Any

from lepton_core.errors import PluginDependencyError


def interpreter_module() -> Any:  # noqa: ANN401 - the package has no types
    """Return the module that holds ``Interpreter``.

    Raises:
        PluginDependencyError: LPT-RUN-401, it cannot be imported.
    """
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise PluginDependencyError(
            "LPT-RUN-401",
            "The LiteRT runtime cannot be imported",
            cause=str(error),
            remedy="pip install lepton-tflite",
        ) from error
    return interpreter


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


__all__ = ["interpreter_module", "make_interpreter"]
