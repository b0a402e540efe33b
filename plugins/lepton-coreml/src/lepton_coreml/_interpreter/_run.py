"""Running a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_coreml._interpreter._registry import OPERATORS
from lepton_coreml._mil._program import Constant, Name
from lepton_coreml._mil._types import numpy_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from lepton_coreml._mil._program import Operation, Program, TypeSpec

    Array = NDArray[Any]

_OWN = {"name", "val"}


class OperatorError(Exception):
    """An operation that cannot be run, named.

    Args:
        operation: The operation.
        cause: Why.
        unknown: Whether the interpreter does not know the operator at all.
    """

    def __init__(self, operation: Operation, cause: str, *, unknown: bool = False) -> None:
        super().__init__(f"{operation.kind} {operation.name!r}: {cause}")
        self.operation = operation
        self.cause = cause
        self.unknown = unknown


class Interpreter:
    """A program, ready to run; constants are decompressed once.

    Args:
        program: The program.

    Raises:
        OperatorError: It has an operator that is not known, or a compressed constant that cannot
            be restored.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._constants: dict[str, Any] = {}
        self._steps: list[Operation] = []
        for operation in program.block.operations:
            if operation.kind == "const":
                self._constants[operation.name] = operation.attributes["val"].value
            elif operation.kind.startswith("constexpr_"):
                self._constants.update(_results(operation, self._constants))
            elif operation.kind not in OPERATORS:
                raise OperatorError(operation, "the operator is not known here", unknown=True)
            else:
                self._steps.append(operation)
        self._last = _last_uses(self._steps)

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What is run, in order."""
        return tuple(self._steps)

    def constant(self, name: str) -> Any:  # noqa: ANN401 - an array or a text
        """Return a constant, decompressed; ``None`` if there is none of that name."""
        return self._constants.get(name)

    def run(
        self,
        inputs: Mapping[str, Array],
        watch: Callable[[str, Array], None] | None = None,
    ) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: Arrays by name of the program's inputs, of their declared types.
            watch: Called with name and value of everything that an operation makes.

        Returns:
            Arrays by name of the program's outputs.

        Raises:
            OperatorError: An operation's inputs do not fit, or its result is not of the type and
                shape that the program declares.
        """
        values: dict[str, Any] = dict(inputs)
        for _, made in self._walk(values, {}):
            if watch is not None:
                for name, value in made.items():
                    watch(name, value)
        return {n: self._lookup(n, values) for n in self._program.block.outputs}

    def steps(
        self, inputs: Mapping[str, Array], fed: Mapping[str, Array] | None = None
    ) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Yield every operation with what it makes, in order.

        Args:
            inputs: As for :meth:`run`.
            fed: Values by name that operations read in the place of those made here.

        Raises:
            OperatorError: As :meth:`run`.
        """
        yield from self._walk(dict(inputs), fed or {})

    def _walk(
        self, values: dict[str, Any], fed: Mapping[str, Array]
    ) -> Iterator[tuple[Operation, dict[str, Array]]]:
        """Run; *values* holds what is still read, and what comes out in the end."""
        outputs = set(self._program.block.outputs)
        for number, operation in enumerate(self._steps):
            with np.errstate(all="ignore"):
                made = _results(operation, fed, values, self._constants)
            values.update(made)
            yield operation, made
            for name in self._last.get(number, ()):
                if name not in outputs:
                    values.pop(name, None)

    def _lookup(self, name: str, values: Mapping[str, Any]) -> Array:
        found = values[name] if name in values else self._constants[name]
        return np.asarray(found)


def _last_uses(steps: list[Operation]) -> dict[int, list[str]]:
    """Return the values that nothing reads after each step."""
    last: dict[str, int] = {}
    for number, operation in enumerate(steps):
        for arguments in operation.inputs.values():
            last.update((a.name, number) for a in arguments if isinstance(a, Name))
    ends: dict[int, list[str]] = {}
    for name, number in last.items():
        ends.setdefault(number, []).append(name)
    return ends


def _results(operation: Operation, *known: Mapping[str, Any]) -> dict[str, Any]:
    """Run one operation and return its outputs as the program declares them."""
    try:
        given = {
            parameter: _argument(parameter, arguments, known)
            for parameter, arguments in operation.inputs.items()
        }
        for key, constant in operation.attributes.items():
            if key not in _OWN:
                given[key] = _computed(constant.value)
        results = OPERATORS[operation.kind](**given)
    except OperatorError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise OperatorError(operation, f"{type(error).__name__}: {text}") from error
    made = results if isinstance(results, tuple) else (results,)
    if len(made) < len(operation.outputs):
        raise OperatorError(operation, f"it makes {len(made)} values, more are declared")
    return {
        name: _declared(operation, name, spec, value)
        for (name, spec), value in zip(operation.outputs, made, strict=False)
    }


def _argument(
    parameter: str, arguments: tuple[Name | Constant, ...], known: tuple[Mapping[str, Any], ...]
) -> Any:  # noqa: ANN401 - an array, a text, or a list of these
    values = [_computed(_value(argument, known)) for argument in arguments]
    return values if parameter == "values" or len(values) != 1 else values[0]


def _value(argument: Name | Constant, known: tuple[Mapping[str, Any], ...]) -> Any:  # noqa: ANN401
    if isinstance(argument, Constant):
        return argument.value
    for values in known:
        if argument.name in values:
            return values[argument.name]
    msg = f"nothing makes {argument.name!r}"
    raise KeyError(msg)


def _computed(value: Any) -> Any:  # noqa: ANN401 - see above
    """Return float16 as float32: the arithmetic is float32, and results are rounded."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype == np.float16:
        return value.astype(np.float32)
    return value


def _declared(operation: Operation, name: str, spec: TypeSpec, value: Any) -> Array:  # noqa: ANN401
    array = np.asarray(value)
    if len(spec.shape) != array.ndim or any(
        want is not None and want != have
        for want, have in zip(spec.shape, array.shape, strict=True)
    ):
        raise OperatorError(
            operation,
            f"{name!r} has the shape {list(array.shape)}; the program declares "
            f"{['?' if d is None else d for d in spec.shape]}",
        )
    dtype = numpy_of(spec.dtype)
    return array if array.dtype == dtype else array.astype(dtype)


__all__ = ["Interpreter", "OperatorError"]
