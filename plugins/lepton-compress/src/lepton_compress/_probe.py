"""Asking the installed runtime whether it loads what is planned, before anything is written.

For each kind of operator that a recipe would hold (operator, types, attributes, form of weight) a
small copy of it is lowered and opened on the target. What it refuses stays float, with the reason;
the rest is compressed as planned. Only a refusal of the compressed form counts: where the small
copy in float is refused as well, it says nothing about integers; and where the operator loads among
its neighbours, as it will stand in the result, it is no refusal.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_compress import __version__
from lepton_compress._probe_float import small_float_recipe
from lepton_compress._probe_graph import (
    Planned,
    key_of_operator,
    neighbours,
    size_of_weight,
    small_model,
    small_recipe,
)
from lepton_compress._search_cache import key_of
from lepton_core import recipe as recipes
from lepton_core.environment import cpu_name, versions_of
from lepton_core.errors import (
    ConversionError,
    OptimizeError,
    SessionError,
    UnsupportedOperationError,
    WorkerError,
)
from lepton_core.types import EXECUTION_FACTS, ConvertRequest, Model, OpenRequest, Target
from lepton_onnx import pivot
from lepton_onnx.external import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lepton_compress._job import Job
    from lepton_core.errors import LeptonError

REFUSED = (UnsupportedOperationError, ConversionError, SessionError, WorkerError)
"""What a target that does not take something raises."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a runtime does not load.

    Attributes:
        op: The operator.
        dtype: What it would have computed with or stored.
        runtime: The runtime with its version.
        names: First outputs of the layers that are like it.
        cause: What the runtime said.
        target: The target, where several share the recipe.
    """

    op: str
    dtype: str
    runtime: str
    names: tuple[str, ...]
    cause: str
    target: str = ""

    @property
    def why(self) -> str:
        """The reason that a recipe gives for a layer that stays float."""
        whose = f"{self.target} shares the recipe, and " if self.target else ""
        return f"{whose}{self.runtime} does not load {self.op} with {self.dtype}: {self.cause}"

    @property
    def warning(self) -> str:
        """The same for people, with what became of it."""
        some = ", ".join(map(repr, self.names[:3]))
        more = f" and {len(self.names) - 3} more" if len(self.names) > 3 else ""
        return f"{some}{more} stay{'s' * (len(self.names) == 1)} float: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        target = {"target": self.target} if self.target else {}
        return {"op": self.op, "dtype": self.dtype, "runtime": self.runtime,
                "layers": list(self.names), "cause": self.cause, **target}  # fmt: skip


class Prober:
    """Asks one target for one job.

    Args:
        job: The request; its scratch folder is written to.
        target: Who is asked; the request's by default.
        named: Whether refusals name the target.

    Attributes:
        asked: Kinds of operators that were looked up.
        known: Those of them that this version of the runtime had loaded before.
        seconds: What asking took.
        refusals: What was refused, so far.
    """

    def __init__(self, job: Job, target: Target | None = None, *, named: bool = False) -> None:
        import platformdirs

        self._job = job
        hooks = job.context.hooks
        assert hooks is not None  # noqa: S101 - checked by the engine
        self._hooks = hooks
        self._target = target or Target(job.request.target, job.request.device)
        self._named = str(self._target) if named else ""
        info = hooks.registry.info(self._target.id)
        names = [name for backend in info.backends for name in backend.distributions]
        found = versions_of(*names)
        self.runtime = ", ".join(f"{n} {v}" for n, v in found.items()) or info.title
        self._scope = key_of(
            {"schema": 1, "engine": __version__, "target": str(self._target), "tools": found,
             "plugin": versions_of(info.distribution), "cpu": cpu_name()}
        )  # fmt: skip
        folder = Path(platformdirs.user_cache_dir("lepton")) / "loads"
        self._place = folder / f"{self._scope[:32]}.txt"
        self._loaded = self._remembered()
        self._number = 0
        self.asked = self.known = 0
        self.seconds = 0.0
        self.refusals: list[Refusal] = []

    def ask(
        self, planned: Iterable[Planned], around: Sequence[Planned] | None = None
    ) -> list[Refusal]:
        """Return what the runtime refuses of what is planned.

        Args:
            planned: What to ask for.
            around: All operators of the plan; *planned* by default.
        """
        began = time.perf_counter()
        planned = list(planned)
        around = planned if around is None else around
        graph, options = self._job.graph, self._job.options
        kinds: dict[str, list[Planned]] = {}
        for one in planned:
            kinds.setdefault(key_of_operator(graph, one, options), []).append(one)
        keys = {key: key_of({"scope": self._scope, "operator": key}) for key in kinds}
        fresh = {k: alike for k, alike in kinds.items() if keys[k] not in self._loaded}
        self.asked += len(kinds)
        self.known += len(kinds) - len(fresh)
        refused: dict[str, str] = {}
        if fresh:
            few = {k: min(a, key=lambda o: size_of_weight(graph, o)) for k, a in fresh.items()}
            refused, tried = self._refused(few)
            self._remember({keys[key] for key in tried - refused.keys()})
        # Neighbours differ from layer to layer and model to model, so that is asked for each.
        left = {key: self._unfit(kinds[key], around) for key in refused}
        found = [
            Refusal(unfit[0].layer.op, unfit[0].dtype, self.runtime,
                    tuple(one.name for one in unfit), refused[key], self._named)
            for key, unfit in left.items() if unfit
        ]  # fmt: skip
        self.refusals += found
        self.seconds += time.perf_counter() - began
        return found

    def facts(self) -> dict[str, Any]:
        """Return what the record of a result says about it, JSON types."""
        return {
            "runtime": self.runtime, "asked": self.asked, "known": self.known,
            "seconds": round(self.seconds, 3), "refused": [r.to_dict() for r in self.refusals],
        }  # fmt: skip

    def _remembered(self) -> set[str]:
        """Return keys of what this version loaded in earlier runs; refusals are asked again."""
        try:
            return set(self._place.read_text(encoding="ascii").split())
        except (OSError, UnicodeError):
            return set()

    def _remember(self, keys: set[str]) -> None:
        self._loaded |= keys
        with contextlib.suppress(OSError):  # without the file the same is asked again
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with self._place.open("a", encoding="ascii") as stream:
                stream.write("".join(f"{key}\n" for key in sorted(keys)))

    def _refused(self, few: dict[str, Planned]) -> tuple[dict[str, str], set[str]]:
        """Return causes by key, and the keys that there is an answer for."""
        if self._problem(list(few.values())) is None:
            return {}, set(few)
        if self._problem(list(few.values()), compressed=False) is not None:
            return self._one_by_one(few)
        return self._halved(few)

    def _unfit(self, alike: list[Planned], around: Sequence[Planned]) -> list[Planned]:
        """Return which operators that are refused alone do not load among their neighbours."""
        graph, options = self._job.graph, self._job.options
        loads: dict[tuple[str, ...], bool] = {}
        unfit = []
        for one in alike:
            group = neighbours(one, around)
            kind = tuple(key_of_operator(graph, other, options) for other in group)
            if kind not in loads:
                loads[kind] = len(group) > 1 and self._problem(group, together=True) is None
            if not loads[kind]:
                unfit.append(one)
        return unfit

    def _halved(self, few: dict[str, Planned]) -> tuple[dict[str, str], set[str]]:
        """Find what is refused among operators that load in float, by halving them."""
        keys = list(few)
        refused: dict[str, str] = {}
        parts = [keys[: len(keys) // 2], keys[len(keys) // 2 :]] if len(keys) > 1 else [keys]
        for part in parts:
            error = self._problem([few[k] for k in part])
            if error is None:
                continue
            if len(part) == 1:
                refused[part[0]] = _cause(error)
            else:
                refused |= self._halved({k: few[k] for k in part})[0]
        return refused, set(keys)

    def _one_by_one(self, few: dict[str, Planned]) -> tuple[dict[str, str], set[str]]:
        """Ask for each alone, where some of them are refused in float, too."""
        refused: dict[str, str] = {}
        answered: set[str] = set()
        for key, one in few.items():
            if self._problem([one], compressed=False) is not None:
                continue
            answered.add(key)
            error = self._problem([one])
            if error is not None:
                refused[key] = _cause(error)
        return refused, answered

    def _problem(
        self, planned: Sequence[Planned], *, compressed: bool = True, together: bool = False
    ) -> LeptonError | None:
        """Lower small copies and open what comes out; return what the target raised."""
        self._job.context.checkpoint()
        self._number += 1
        folder = self._job.scratch.workdir / f"probe-{self._target.id}-{self._number:03d}"
        out = folder / "model"
        out.mkdir(parents=True)
        inside = replace(self._job.scratch, workdir=out)
        try:
            model, own = small_model(self._job.graph, planned, together=together)
            path = folder / "pivot.onnx"
            pivot.save(model, path)
            base = Model(
                "pivot", str(path), signature=pivot.signature(model), digest=digest(path),
                metadata={"opset": self._job.opset},
            )  # fmt: skip
            place = None
            if compressed:
                small = small_float_recipe if planned[0].form else small_recipe
                recipe, arrays = small(model, own, base.digest, self._job.opset, self._job.options)
                place = str(recipes.write(recipe, folder / "recipe.json", integers=arrays))
            asked = ConvertRequest(self._target.id, device=self._target.device, recipe=place)
            made = self._hooks.convert(base, asked, inside).model
            opening = OpenRequest(
                self._target.id, self._target.device, 1, without=(EXECUTION_FACTS,)
            )
            self._hooks.open(made, opening, inside).close()
        except REFUSED as error:
            return error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return None


def loads_of(probers: Sequence[Prober]) -> dict[str, Any]:
    """Return what the record of a result says about all that were asked, JSON types."""
    first, *more = (prober.facts() for prober in probers)
    for one in more:
        first = {
            "runtime": f"{first['runtime']}; {one['runtime']}",
            **{key: round(first[key] + one[key], 3) for key in ("asked", "known", "seconds")},
            "refused": [*first["refused"], *one["refused"]],
        }
    return first


def with_reasons(facts: Mapping[str, Any], refused: Mapping[str, str]) -> dict[str, Any]:
    """Return facts in which weights that stay whole have what a runtime said as the reason."""
    found = dict(facts)
    for name in ("pruning", "palettes"):
        part = found.get(name)
        if part and refused.keys() & part["whole"].keys():
            whole = {weight: refused.get(weight, why) for weight, why in part["whole"].items()}
            found[name] = {**part, "whole": whole}
    return found


def _cause(error: LeptonError) -> str:
    text = error.cause or error.message
    return text.strip().splitlines()[0].strip()


def nothing_left(refusals: Sequence[Refusal]) -> OptimizeError:
    """Return the error for a model of which nothing is left to compress."""
    first = refusals[0]
    return OptimizeError(
        "LPT-OPT-040",
        f"{first.runtime} loads no operator of the model as it would be compressed",
        cause="; ".join(dict.fromkeys(r.why for r in refusals)),
        remedy="Install another version of the runtime, choose another target or precision, or "
        "convert to fp16.",
        details={"refused": [r.to_dict() for r in refusals]},
    )


__all__ = ["REFUSED", "Prober", "Refusal", "loads_of", "nothing_left", "with_reasons"]
