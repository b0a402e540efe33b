"""The command ``lepton``.

Starting it costs little: ``lepton --version`` imports nothing but the standard library, and a
command imports what it needs when it runs. Exit codes: 0 done, 1 no result that holds, 2 wrong
usage, source or samples, 3 only a weak result, 4 plugin missing or not able, 5 storage, 70 a bug
in lepton, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_VERSION = {"--version", "-V"}
_COMPLETE_VARIABLE = "_LEPTON_COMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Args:
        argv: Arguments without the program's name; the process's own by default.

    Returns:
        The exit code, for ``sys.exit``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if _VERSION & set(arguments) and set(arguments) <= {*_VERSION, "--json"}:
        return _print_version(as_json="--json" in arguments)
    from lepton_core.cli._run import run

    return run(arguments, complete_variable=_COMPLETE_VARIABLE)


def _print_version(*, as_json: bool) -> int:
    from lepton_core._version import SPEC_VERSION, __version__

    if as_json:
        line = f'{{"schema": 1, "ok": true, "version": "{__version__}", "spec": {SPEC_VERSION}}}'
    else:
        line = f"lepton {__version__}"
    try:
        print(line, flush=True)
    except OSError:
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return 0


__all__ = ["main"]
