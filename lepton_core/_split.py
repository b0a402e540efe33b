"""Running a large call in parts of a number of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from lepton_core.context import Session
    from lepton_core.types import Signature


def rows_of(inputs: Mapping[str, np.ndarray]) -> int:
    """Return the rows of a call: the length of its first input; 1 for what has none."""
    try:
        return len(next(iter(inputs.values())))
    except (AttributeError, StopIteration, TypeError):
        return 1  # not ours to judge: the session says what is wrong


def splittable(signature: Signature) -> bool:
    """Tell whether rows are independent by the signature: one open first axis for everything."""
    specs = (*signature.inputs, *signature.outputs)
    first = {spec.shape[0] if spec.shape else 0 for spec in specs}
    return len(first) == 1 and not isinstance(first.pop(), int)


def run_split(
    session: Session, inputs: Mapping[str, np.ndarray], batch: int
) -> dict[str, np.ndarray]:
    """Run a call in parts of *batch* rows.

    Args:
        session: A session whose signature is :func:`splittable`.
        inputs: Arrays with the same number of rows each.
        batch: Rows per run.

    Returns:
        The outputs of all rows, as one call would give them.

    Raises:
        SessionError: What the session says of the inputs.
    """
    rows = rows_of(inputs)
    if rows <= batch or any(rows_of({"": array}) != rows for array in inputs.values()):
        return session.run(inputs)  # uneven inputs: the session says so
    import numpy as np

    whole: dict[str, np.ndarray] = {}
    for start in range(0, rows, batch):
        part = session.run({name: array[start : start + batch] for name, array in inputs.items()})
        for name, array in part.items():
            if start == 0:
                whole[name] = np.empty((rows, *array.shape[1:]), array.dtype)
            whole[name][start : start + len(array)] = array
    return whole


__all__ = ["rows_of", "run_split", "splittable"]
