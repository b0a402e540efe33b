"""What users may set about a deployment, checked before it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton_core.deployment._routes import PREFIX, Dispatch
from lepton_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPEN = "threads (a whole number from 1), device (text), options (an object)"


def check_setting(key: str, value: Any) -> None:  # noqa: ANN401 - JSON types
    """Check a setting that a user gives: a handle that cannot read it would only alarm.

    Args:
        key: ``"open"``, ``"dispatch.ALIAS"``, or a key with a dot that an engine of the user's
            reads.
        value: Its value.

    Raises:
        UsageError: LPT-DEP-013, there is no such setting, or it does not take this value.
        DeployError: LPT-DEP-010, the value is no dispatch table.
    """
    if key == "open":
        if wrong := _wrong_opening(value):
            raise _refused(f"The setting {key!r} does not take {wrong}", f"It takes {_OPEN}.")
    elif key.startswith(PREFIX):
        Dispatch.of(value)
    elif key.startswith("migrate."):
        raise _refused(
            f"{key!r} is the journal of migrations, which only `lepton migrate` writes",
            "`lepton migrate NAME --resume` takes up what is left; --clear drops the journal.",
        )
    elif "." not in key:
        raise _refused(
            f"There is no setting {key!r}",
            f"`open` takes {_OPEN}; settings that an engine of yours reads are named ENGINE.KEY.",
        )


def _wrong_opening(value: Mapping[str, Any]) -> str:
    threads = value.get("threads")
    if "threads" in value and (type(threads) is not int or threads < 1):
        return f"threads={threads!r}"
    for name, kind in (("device", str), ("options", dict)):
        if name in value and not isinstance(value[name], kind):
            return f"{name}={value[name]!r}"
    return ", ".join(sorted(value.keys() - {"threads", "device", "options"}))


def _refused(message: str, remedy: str) -> UsageError:
    return UsageError("LPT-DEP-013", message, remedy=remedy)


__all__ = ["check_setting"]
