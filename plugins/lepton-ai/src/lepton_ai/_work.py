"""What the verbs share: where results go, staging, progress, warnings."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from lepton_ai._inputs import describe
from lepton_ai._targets import checked, default_target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lepton_ai._inputs import Input, ModelLike
    from lepton_core.context import Context
    from lepton_core.types import Model, Target

ROOT = "lepton-ai-out"

P = ParamSpec("P")
R = TypeVar("R")


class ModelWarning(UserWarning):
    """Something about a result that the user should know, such as a verdict that is weak."""


@dataclass(frozen=True, slots=True)
class Job:
    """One call of a verb that writes a directory.

    Attributes:
        verb: Name of the verb.
        source: The model that goes in.
        target: Target string.
        out: Directory of the result.
    """

    verb: str
    source: Input
    target: str
    out: Path

    @classmethod
    def of(
        cls,
        verb: str,
        model: ModelLike,
        target: str | None,
        out: str | os.PathLike[str] | None,
        folder: str,
    ) -> Job:
        """Settle target and place.

        Args:
            verb: Name of the verb.
            model: As it was given.
            target: Target string; ``None`` is the one that the model was made for, or else this
                machine (:func:`.default_target`).
            out: Directory of the result; ``None`` is ``lepton-ai-out/NAME/TARGET/FOLDER``.
            folder: Last part of that.

        Raises:
            UsageError: LPT-AI-001, no model; LPT-USE-001, an empty target.
            PluginError: The target cannot be used.
        """
        source = describe(model)
        chosen = checked(target or source.target or default_target())
        if out is None:
            out = Path(ROOT, source.name, chosen.replace(":", "-"), folder)
        return cls(verb, source, chosen, Path(out).expanduser().absolute())

    @property
    def parsed(self) -> Target:
        """The target, split into id and device."""
        from lepton_core.types import Target

        return Target.parse(self.target)

    @contextlib.contextmanager
    def stage(self, *, seed: int, force: bool) -> Iterator[Stage]:
        """Yield a place to work in that becomes the result if the block ends well.

        Raises:
            StorageError: The place holds something that lepton did not write, or cannot be
                written.
        """
        from lepton_core.context import Context
        from lepton_core.staging import staged

        with reporting() as reporter, staged(self.out, force=force) as folder:
            context = Context(folder, seed, reporter)
            bar = reporter.task(f"{self.verb} {self.source.name} for {self.target}")
            with tempfile.TemporaryDirectory(prefix=".scratch-", dir=folder) as scratch:
                yield Stage(self, context, replace(context, workdir=Path(scratch)))
            bar.finish()


@dataclass(frozen=True, slots=True)
class Stage:
    """A result in the making.

    Attributes:
        job: What it is for.
        context: Writes into the result.
        scratch: Writes what is thrown away.
    """

    job: Job
    context: Context
    scratch: Context

    def load(self) -> Model:
        """Read the model that goes in.

        Raises:
            SourceError: It cannot be found or read.
            SessionError: LPT-RUN-003, it is a result of lepton and has been changed since.
        """
        import lepton_core
        from lepton_core.artifacts import verify_artifact

        model = lepton_core.load(self.job.source.given, context=self.scratch)
        verify_artifact(model)
        return model

    def final(self, path: str) -> str:
        """Return where a file of the result will stand."""
        return str(self.job.out / Path(path).relative_to(self.context.workdir))

    def close(self, model: Model, precision: str, more: Mapping[str, Any]) -> Model:
        """Write the marker, and return the model at the place where it will stand."""
        from lepton_core.built import taken_in, write_marker

        job, folder = self.job, self.context.workdir
        return write_marker(
            folder,
            job.out,
            taken_in(model, folder),
            kind=job.verb,
            target=job.target,
            precision=precision,
            more={"name": job.source.name, **more},
        )


@contextlib.contextmanager
def reporting() -> Iterator[Any]:
    """Yield where progress goes: bars on a terminal, nowhere otherwise."""
    from lepton_core.progress import reporter_for

    with reporter_for(sys.stderr, json=True) as reporter:
        yield reporter


@contextlib.contextmanager
def scratch_context() -> Iterator[Context]:
    """Yield a context for a verb whose result stands elsewhere, such as in a store."""
    from lepton_core.context import Context

    with reporting() as reporter, tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        yield Context(Path(folder), reporter=reporter)


def verb(method: Callable[P, R]) -> Callable[P, R]:
    """Let an expected failure of a verb end at the verb, without the stacks of worker processes.

    ``LEPTON_DEBUG=1`` shows them all, as ``--debug`` does on the command line. What a plugin
    raises unexpectedly keeps them.
    """

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from lepton_core.errors import LeptonError, PluginFailureError

        try:
            return method(*args, **kwargs)
        except PluginFailureError:
            raise
        except LeptonError as error:
            if os.environ.get("LEPTON_DEBUG", "") not in ("", "0"):
                raise
            raise error.with_traceback(None) from None

    return call


def warn(texts: Iterable[str]) -> None:
    """Warn at the line that called the verb, through :func:`verb`."""
    for text in texts:
        warnings.warn(text, ModelWarning, stacklevel=4)


__all__ = [
    "ROOT",
    "Job",
    "ModelWarning",
    "Stage",
    "reporting",
    "scratch_context",
    "verb",
    "warn",
]
