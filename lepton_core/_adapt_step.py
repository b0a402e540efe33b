"""The part of the main job that fits a model to its targets, once per family of constraints."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_core.errors import LeptonError, PluginError
from lepton_core.rewrites import matches, may_apply, offers
from lepton_core.types import AdaptRequest, AdaptResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lepton_core.capabilities import Constraints, Rewrite
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.samples import Samples
    from lepton_core.types import Model, Signature


@dataclass(frozen=True, slots=True)
class Family:
    """What decides how a model is adapted; targets that agree in it share the result.

    Attributes:
        digest: Digest of the model.
        static_shapes: Whether every dimension needs a size.
        sizes: The sizes, if so.
        rewrites: Rewrites that are wanted by name.
        forbidden: Operators of this kind of model that are forbidden.
    """

    digest: str
    static_shapes: bool
    sizes: tuple[tuple[str, int], ...]
    rewrites: tuple[str, ...]
    forbidden: tuple[str, ...]


class AdaptStep:
    """Adapted models of one run.

    Args:
        hooks: Calls the owner of the format.
    """

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._made: dict[Family, AdaptResult | LeptonError] = {}
        self._lock = threading.Lock()

    def place(self, formats: list[str], target: str, signature: Signature | None) -> int | None:
        """Return the place on a path of formats at which a model is adapted, if it is at all.

        That is the last format that rewrites work on, so that what comes before is shared.

        Args:
            formats: Formats from the source to the artifact.
            target: Target id.
            signature: Inputs and outputs, where symbolic dimensions show.
        """
        constraints = self._hooks.registry.target(target).constraints
        if constraints == type(constraints)():
            return None
        tensors = signature.inputs if signature else ()
        symbolic = any(not isinstance(dim, int) for t in tensors for dim in t.shape)
        for number in range(len(formats) - 1, -1, -1):
            if not self._adapts(formats[number]):
                continue
            rewrites = self._rewrites(formats[number])
            if rewrites:
                wanted = may_apply(constraints, rewrites, symbolic=symbolic)
                return number if wanted else None
        return None

    def _adapts(self, format_id: str) -> bool:
        try:
            owner = self._hooks.source_owner(format_id)
            return bool(self._hooks.registry.info(owner).capability("adapt").support)
        except PluginError:
            return False

    def _rewrites(self, format_id: str) -> tuple[Rewrite, ...]:
        return tuple(offer.rewrite for offer in offers(self._hooks.registry, format_id))

    def make(
        self, model: Model, target: str, samples: Samples, context: Callable[[str], Context]
    ) -> AdaptResult:
        """Return the model as the target needs it; one family is adapted once.

        Args:
            model: The model, in a format that rewrites work on.
            target: Target id.
            samples: Rows whose sizes fixed dimensions take; the batch becomes 1.
            context: Makes a context with a directory of its own.

        Raises:
            AdaptError: It cannot be adapted.
        """
        constraints = self._hooks.registry.target(target).constraints
        sizes = _sizes(model, samples) if constraints.static_shapes else {}
        family = self._family(model, constraints, sizes)
        with self._lock:
            if family not in self._made:
                request = AdaptRequest(target, shapes=sizes, constraints=constraints)
                try:
                    self._made[family] = self._hooks.adapt(model, request, context("adapt"))
                except LeptonError as error:
                    self._made[family] = error
            made = self._made[family]
        if isinstance(made, LeptonError):
            raise made.with_traceback(None)
        return made

    def _family(self, model: Model, constraints: Constraints, sizes: Mapping[str, int]) -> Family:
        rewrites = self._rewrites(model.format)
        removed = {name for rewrite in rewrites for name in rewrite.removes}
        prefixes = {name.partition(".")[0] for name in removed if "." in name}
        relevant = tuple(
            name
            for name in sorted(constraints.forbidden_ops)
            if name.partition(".")[0] in prefixes or any(matches(name, r) for r in removed)
        )
        return Family(
            model.digest,
            constraints.static_shapes,
            tuple(sorted(sizes.items())),
            tuple(sorted(constraints.rewrites)),
            relevant,
        )


def _sizes(model: Model, samples: Samples) -> dict[str, int]:
    """Return a size for every symbol of the inputs: 1 for the batch, else what the samples have."""
    found: dict[str, int] = {}
    for spec in model.signature.inputs if model.signature else ():
        array = samples.inputs.get(spec.name)
        for position, dim in enumerate(spec.shape):
            if not isinstance(dim, str) or not dim.isidentifier():
                continue
            if position == 0:
                found.setdefault(dim, 1)
            elif array is not None and array.ndim == len(spec.shape):
                found.setdefault(dim, int(array.shape[position]))
    return found


__all__ = ["AdaptStep", "Family"]
