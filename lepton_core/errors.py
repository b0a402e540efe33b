"""Every failure that lepton expects, as one tree of exceptions with stable codes.

.. code-block:: text

    LeptonError
    ├── UsageError                  the call itself is wrong                    exit 2
    │   └── UnknownTargetError      no such target, with the nearest names
    ├── SourceError                 the model cannot be found or read           exit 2
    ├── SampleError                 the samples do not fit the model            exit 2
    ├── PluginError                 a plugin cannot be used                     exit 4
    │   ├── PluginNotInstalledError     nothing of that name is installed
    │   ├── PluginDependencyError       installed, what it needs is missing
    │   ├── PluginBrokenError           installed, fails at import or registration
    │   ├── PluginVersionError          installed, written for another contract
    │   ├── PluginConflictError         two distributions claim one name or step
    │   └── PluginFailureError          an unexpected exception inside a plugin
    ├── UnsupportedOperationError   the owner declares that it cannot           exit 4
    ├── PlanError                   no safe path of declared edges              exit 4
    ├── VerbError                   a verb was tried and failed                 exit 1
    │   ├── AdaptError · ConversionError
    │   ├── OptimizeError
    │   │   └── OptimizeRequestError    no such precision, option or value      exit 2
    │   └── DeployError · AdjustError · MigrateError
    ├── SessionError                a session cannot open or run                exit 1
    ├── WorkerError                 a worker process ended                      exit 1
    │   ├── WorkerTimeoutError · WorkerMemoryError
    │   └── WorkerCrashError
    ├── StorageError                disk full, no permission, not ours          exit 5
    └── OperationCancelledError     stopped by the user                         exit 130

An error says what was asked (``message``), why it cannot be (``cause``), and what to do next
(``remedy``). Its ``code`` (``LPT-CONV-002``) never changes meaning; ``docs/reference/errors.md``
lists them all. An exception outside this tree is a bug: of a plugin, and then it is wrapped in
:class:`PluginFailureError` with the plugin's name and version, or of lepton.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

_CODE = re.compile(r"^[A-Z][A-Z0-9]*-[A-Z]+-\d{3}$")


class LeptonError(Exception):
    """Base of all expected failures.

    Args:
        code: Stable code, ``<OWNER>-<AREA>-<NNN>``; lepton's own start with ``LPT``.
        message: What was asked and what went wrong, in one or two sentences.
        cause: Why, if it is known; may span several lines.
        remedy: What to do next.
        details: Plain data for programs (JSON types only).

    Raises:
        ValueError: ``code`` has not the form of a code.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        message: str,
        *,
        cause: str | None = None,
        remedy: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        if not _CODE.match(code):
            msg = f"{code!r} is not an error code of the form LPT-AREA-001"
            raise ValueError(msg)
        super().__init__(message)
        self.code = code
        self.message = message
        self.cause = cause
        self.remedy = remedy
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        lines = [f"{self.code}: {self.message}"]
        if self.cause:
            lines.append(f"  cause: {self.cause}")
        if self.remedy:
            lines.append(f"  hint: {self.remedy}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON types; :func:`error_from_dict` is the inverse."""
        return {
            "type": type(self).__name__,
            "code": self.code,
            "message": self.message,
            "cause": self.cause,
            "remedy": self.remedy,
            "details": self.details,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return (error_from_dict, (self.to_dict(),))


class UsageError(LeptonError):
    """The call itself is wrong: an option, a name, a combination."""

    exit_code = 2


class UnknownTargetError(UsageError):
    """No target of this name is installed or known; the nearest names are suggested."""


class SourceError(LeptonError):
    """The source model cannot be found, read, or trusted."""

    exit_code = 2


class SampleError(LeptonError):
    """Samples or labels do not fit the model, or cannot be read."""

    exit_code = 2


class PluginError(LeptonError):
    """A plugin cannot be used; subclasses say at which moment it failed."""

    exit_code = 4


class PluginNotInstalledError(PluginError):
    """The plugin is known but its distribution is not installed."""


class PluginDependencyError(PluginError):
    """The plugin is installed; a package that it needs is missing or too old."""


class PluginBrokenError(PluginError):
    """The plugin is installed but fails at import or at registration."""


class PluginVersionError(PluginError):
    """The plugin was written for another version of the hook contract."""


class PluginConflictError(PluginError):
    """Two distributions claim the same plugin name or the same step."""


class PluginFailureError(PluginError):
    """An unexpected exception inside a plugin, named with its distribution and version."""

    exit_code = 1


class UnsupportedOperationError(LeptonError):
    """The owner of a step declares that it cannot do what was asked."""

    exit_code = 4


class PlanError(LeptonError):
    """No safe path of declared edges leads from the source to the target."""

    exit_code = 4


class VerbError(LeptonError):
    """A verb was planned, tried, and failed."""


class AdaptError(VerbError):
    """The model could not be adapted to the target's constraints."""


class ConversionError(VerbError):
    """The model could not be converted; names the operator and the source line if known."""


class OptimizeError(VerbError):
    """The model could not be compressed."""


class OptimizeRequestError(OptimizeError):
    """The engine was asked for a precision, an option or a value that it does not have."""

    exit_code = 2


class DeployError(VerbError):
    """The model could not be deployed."""


class AdjustError(VerbError):
    """A deployment could not be adjusted."""


class MigrateError(VerbError):
    """A deployment could not be migrated."""


class SessionError(LeptonError):
    """A session cannot be opened, or a run of it failed."""


class WorkerError(LeptonError):
    """A worker process ended before it answered."""


class WorkerTimeoutError(WorkerError):
    """A worker passed its time limit and was ended."""


class WorkerMemoryError(WorkerError):
    """A worker passed its memory limit and was ended."""


class WorkerCrashError(WorkerError):
    """A worker died; the signal and its last words are in ``cause``."""


class StorageError(LeptonError):
    """Writing failed: disk full, no permission, or a place that is not ours."""

    exit_code = 5


class OperationCancelledError(LeptonError):
    """The user stopped the work; nothing half-written is left."""

    exit_code = 130


def _tree(root: type[LeptonError]) -> dict[str, type[LeptonError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_from_dict(data: dict[str, Any]) -> LeptonError:
    """Rebuild an error from :meth:`LeptonError.to_dict`.

    A class that this process does not know (a vendor's) comes back as :class:`LeptonError`.
    """
    cls = _tree(LeptonError).get(data["type"], LeptonError)
    error = cls.__new__(cls)
    LeptonError.__init__(
        error,
        data["code"],
        data["message"],
        cause=data.get("cause"),
        remedy=data.get("remedy"),
        details=data.get("details"),
    )
    return error


__all__ = [*sorted(_tree(LeptonError)), "error_from_dict"]  # noqa: PLE0604 - all strings
