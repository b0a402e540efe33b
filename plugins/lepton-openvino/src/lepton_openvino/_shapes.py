"""Finding out that shapes do not fit before a run, where OpenVINO does not say so.

With one thread, OpenVINO 2026.4 on CPU loses the error of an operator whose input shapes do not
fit together at run time, and returns the outputs of an earlier call, or empty ones. (With two or
more it raises.) So each new combination of input shapes is first propagated through a copy of the
graph, which takes milliseconds and raises; combinations that fit are remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_REMEMBERED = 4096

Shapes = tuple[tuple[int, ...], ...]


class ShapeGuard:
    """Checks combinations of input shapes by shape inference.

    Args:
        model: OpenVINO's model; it is copied, without its values.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - a class of the runtime
        self._model = model.clone()
        self._fitting: OrderedDict[Shapes, None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Check one combination, in the order of the model's inputs.

        Raises:
            RuntimeError: OpenVINO's, naming the operator whose inputs do not fit.
        """
        key = tuple(shapes)
        with self._lock:
            if key in self._fitting:
                self._fitting.move_to_end(key)
                return
            self._model.reshape({i: list(shape) for i, shape in enumerate(key)})
            self._fitting[key] = None
            if len(self._fitting) > _REMEMBERED:
                self._fitting.popitem(last=False)


__all__ = ["ShapeGuard"]
