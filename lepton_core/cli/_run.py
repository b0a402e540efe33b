"""One run of the program: parse, work, and end with an honest exit code.

Whatever happens, at most one error is shown, in at most five lines, without a traceback unless
it is asked for; with ``--json`` it is one JSON object on standard output.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import TYPE_CHECKING

import click

from lepton_core.cli import _interrupt
from lepton_core.cli._app import App
from lepton_core.cli._failures import Failure, describe
from lepton_core.cli._main import cli

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

EXIT_PIPE = 141


def run(arguments: Sequence[str], *, complete_variable: str) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Arguments without the program's name.
        complete_variable: Environment variable in which a shell asks for completions.
    """
    instruction = os.environ.get(complete_variable)
    if instruction:
        from click.shell_completion import shell_complete

        from lepton_core.cli import _completion

        _completion.register()
        return shell_complete(cli, {}, "lepton", complete_variable, instruction)
    app = _app_from(arguments)
    with _lenient_streams(), _stdout_for_results_only(app), _own_warnings(app):
        try:
            try:
                code = _interrupt.guarded(lambda: _invoke(arguments, app))
            except BrokenPipeError:  # whoever read our output has seen enough
                raise
            except BaseException as error:
                _interrupt.end_workers()
                if _interrupt.stopped() and not isinstance(error, KeyboardInterrupt):
                    error = _interrupt.Interrupted()
                code = _report(describe(error, app), app)
            _flush(app)
        except BrokenPipeError:
            _forget_stdout()
            code = EXIT_PIPE
        except OSError as error:  # standard output itself cannot be written
            _forget_stdout()
            app.json, code = False, 5
            code = _report(describe(error, app), app)
    return _interrupt.finish(code)


def _app_from(arguments: Sequence[str]) -> App:
    """Find out how errors are to be shown before the arguments are parsed."""
    own = list(arguments)[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in own or os.environ.get("LEPTON_DEBUG", "") not in ("", "0")
    color = None
    for text in own:
        color = {"--color": True, "--no-color": False}.get(text, color)
    return App(json="--json" in own, debug=debug, color=color)


def _invoke(arguments: Sequence[str], app: App) -> int:
    from lepton_core.files import disk_errors

    if not arguments:
        with cli.make_context("lepton", [], resilient_parsing=True) as ctx:
            app.error_text(cli.get_help(ctx))
        return 2
    try:
        with (
            disk_errors("what the command writes"),
            cli.make_context("lepton", list(arguments), obj=app) as ctx,
        ):
            code = cli.invoke(ctx)
    except click.exceptions.Exit as error:
        return error.exit_code
    return code if isinstance(code, int) else 0


def _report(failure: Failure, app: App) -> int:
    """Show a failure and return its exit code."""
    if failure.traceback:
        app.error_text(failure.traceback.rstrip())
    if app.json:
        app.emit({"schema": 1, "ok": False, "error": failure.data})
    else:
        app.error_text(failure.text(app))
    return failure.exit_code


# --- streams ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _lenient_streams() -> Iterator[None]:
    """Replace what a stream's encoding cannot say instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    yield


@contextlib.contextmanager
def _stdout_for_results_only(app: App) -> Iterator[None]:
    """With ``--json``, send what others print to standard output to standard error."""
    if not app.json:
        yield
        return
    result: TextIO = sys.stdout
    try:
        real = result.fileno() == 1 and id(result) == id(sys.__stdout__)
    except (OSError, ValueError):
        real = False
    if real:
        sys.stdout.flush()
        result = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
    app.out, kept, sys.stdout = result, sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout = kept


def _flush(app: App) -> None:
    app.stdout.flush()
    with contextlib.suppress(OSError):
        sys.stderr.flush()


def _forget_stdout() -> None:
    """Point standard output elsewhere, so that the interpreter can flush it at its end."""
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _own_warnings(app: App) -> Iterator[None]:
    """Show plugins' warnings as ours; those of libraries only with ``-v`` or ``--debug``."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        *_: object,
        **__: object,
    ) -> None:
        from lepton_core.registry import PluginWarning

        if issubclass(category, PluginWarning):
            app.warn(str(message))
        elif app.debug or app.verbose:
            app.warn(f"{category.__name__}: {message} ({filename}:{lineno})")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


__all__ = ["run"]
