"""What ``adapt``, ``convert`` and ``optimize`` share: options, and a result in a directory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lepton_core.cli._command import option
from lepton_core.cli._types import DURATION, SEED, SIZE, TargetType, pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lepton_core.cli._app import App
    from lepton_core.context import Context
    from lepton_core.types import Model, Target

_RESULT, _LIMITS = "Result", "Limits"


def verb_options(out: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add what the three commands share."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in (
            option("--mem-limit", group=_LIMITS, type=SIZE, help="Memory for each worker."),
            option("--time-limit", group=_LIMITS, type=DURATION, help="Time for each job."),
            option("--seed", group=_LIMITS, type=SEED, default=0, help="Seed of all randomness."),
            option(
                "--force",
                group=_RESULT,
                is_flag=True,
                show_default=False,
                help="Replace what is at --out even if lepton did not write it.",
            ),
            option(
                "--out",
                group=_RESULT,
                default=out,
                metavar="DIR",
                type=click.Path(path_type=Path),
                help="Directory of the result.",
            ),
            option(
                "--option",
                "options",
                multiple=True,
                metavar="KEY=VALUE",
                help="Setting of the plugin that does it; may be repeated.",
            ),
            option(
                "--to",
                "target",
                required=True,
                metavar="TARGET",
                type=TargetType(),
                help="Target it is for.",
            ),
            click.argument("model"),
        ):
            function = add(function)
        return function

    return decorate


class VerbWork:
    """One run of a verb: where it writes, and what it has to work on.

    Args:
        app: Output.
        given: Options that the commands share; they are taken out.
    """

    def __init__(self, app: App, given: dict[str, Any]) -> None:
        from lepton_core.types import Limits, Target

        self.app = app
        self.hooks = app.hooks()
        self.out: Path = given.pop("out")
        self.force: bool = given.pop("force")
        self.seed: int = given.pop("seed")
        self.limits = Limits(given.pop("time_limit"), given.pop("mem_limit"))
        self.target: Target = Target.parse(given.pop("target"))
        self.options = pairs(given.pop("options"), "--option")
        self.hooks.registry.target(self.target.id)

    @contextlib.contextmanager
    def stage(self) -> Iterator[tuple[Path, Context, Context]]:
        """Yield the stage, a context that writes into it, and one for scratch files."""
        from lepton_core.context import Context
        from lepton_core.staging import staged

        with self.app.reporter() as reporter, staged(self.out, force=self.force) as stage:
            context = Context(stage, self.seed, reporter, self.limits)
            with tempfile.TemporaryDirectory(prefix=".scratch-", dir=stage) as scratch:
                yield stage, context, replace(context, workdir=Path(scratch))

    def load(self, text: str, context: Context) -> Model:
        """Return what the user named: something built, or a source that is read first."""
        from lepton_core import api
        from lepton_core.built import find_built

        built = find_built(text)
        return api.load(text, context=context) if built is None else built.model

    def close(self, stage: Path, model: Model, kind: str, precision: str) -> Model:
        """Write the marker and return the model at its final place.

        Args:
            stage: Where the result stands now.
            model: The result; what its own record says of its precision counts.
            kind: Verb that made it.
            precision: Precision that was asked for.
        """
        from lepton_core.built import taken_in, write_marker

        precision = str(model.metadata.get("precision") or precision)
        model = taken_in(model, stage)
        return write_marker(
            stage, self.out, model, kind=kind, target=str(self.target), precision=precision
        )

    def show(self, model: Model, **more: Any) -> None:  # noqa: ANN401 - plain data
        """Print the result."""
        from lepton_core.artifacts import artifact_size
        from lepton_core.cli._port import size_text
        from lepton_core.codec import to_data

        size = artifact_size(model)
        if self.app.json:
            data = {"ok": True, "model": to_data(model), "out": str(self.out.absolute())}
            self.app.emit({**data, "size_bytes": size, **to_data(more)})
            return
        self.app.line(f"{model.path}  ({model.format}, {size_text(size)})")
        if model.signature is not None:
            self.app.line(f"  {model.signature}")
        for name, value in more.items():
            if name == "warnings" or (name == "facts" and not self.app.verbose):
                continue
            for line in [value] if isinstance(value, str) else value_lines(value):
                if line:
                    self.app.line(f"  {name}: {line}")
        for warning in more.get("warnings", ()):
            self.app.warn(warning)


def value_lines(value: Any) -> list[str]:  # noqa: ANN401 - plain data
    """Return a list as lines, and the short facts of a mapping as one line; JSON has them all."""
    if isinstance(value, Mapping):
        short = {k: v for k, v in value.items() if isinstance(v, str | int | float) and v != ""}
        return [", ".join(f"{key} = {inner}" for key, inner in short.items())]
    return [str(inner) for inner in value or ()]


def prepared(data: str | None, model: Model, scratch: Path) -> tuple[str | None, tuple[str, ...]]:
    """Load samples, fit them to the model, and write them as one file for the engine.

    Returns:
        The file, and what was done to the samples on the way, for the user to read.
    """
    from lepton_core.cli._arrays import save_samples
    from lepton_core.samples import load_samples, match

    if data is None:
        return None, ()
    samples = load_samples(data)
    if model.signature is not None:
        samples = match(samples, model.signature)
    return save_samples(samples, scratch / "samples.npz"), samples.notes


__all__ = ["VerbWork", "prepared", "value_lines", "verb_options"]
