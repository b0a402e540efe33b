"""``lepton completion``: the script that makes a shell complete commands, options, targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import click
from click.shell_completion import ShellComplete, add_completion_class

from lepton_core.cli._command import command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lepton_core.cli._app import App

_INSTALL = {
    "bash": "lepton completion bash > ~/.lepton-completion.bash\n"
    "echo 'source ~/.lepton-completion.bash' >> ~/.bashrc",
    "zsh": "lepton completion zsh > ~/.lepton-completion.zsh\n"
    "echo 'source ~/.lepton-completion.zsh' >> ~/.zshrc",
    "fish": "lepton completion fish > ~/.config/fish/completions/lepton.fish",
    "powershell": "lepton completion powershell >> $PROFILE",
}

_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $env:%(complete_var)s = "powershell_complete"
    $env:COMP_WORDS = $commandAst.ToString()
    $env:COMP_WORD = $wordToComplete
    %(prog_name)s | ForEach-Object {
        $kind, $value, $about = $_ -split "`t", 3
        if (-not $about) { $about = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, $kind, $about)
    }
    Remove-Item Env:%(complete_var)s, Env:COMP_WORDS, Env:COMP_WORD
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell 5.1 and later."""

    name: ClassVar[str] = "powershell"
    source_template: ClassVar[str] = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is being typed, and that one."""
        import os

        from click.shell_completion import split_arg_string

        words = split_arg_string(os.environ["COMP_WORDS"])[1:]
        incomplete = os.environ.get("COMP_WORD", "")
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return kind, value and explanation, separated by tabs."""
        kind = "ParameterName" if item.value.startswith("-") else "ParameterValue"
        return f"{kind}\t{item.value}\t{item.help or ''}"


def register() -> None:
    """Make PowerShell known to click."""
    add_completion_class(PowerShellComplete)


@command(
    "completion",
    examples="""
    # try it in this shell
    source <(lepton completion bash)
    # keep it
    lepton completion bash > ~/.lepton-completion.bash
    """,
)
@click.argument("shell", type=click.Choice(list(_INSTALL)))
def completion_command(app: App, shell: str) -> int:
    """Print the completion script of SHELL; how to install it goes to standard error."""
    from click.shell_completion import get_completion_class

    from lepton_core.cli._main import cli

    register()
    complete = get_completion_class(shell)
    if complete is None:
        msg = f"no completion class for {shell}"
        raise RuntimeError(msg)
    script = complete(cli, {}, "lepton", "_LEPTON_COMPLETE").source()
    if app.json:
        app.emit({"ok": True, "shell": shell, "script": script, "install": _INSTALL[shell]})
        return 0
    app.line(script.rstrip("\n"))
    app.note("To install it, run:\n" + _INSTALL[shell])
    return 0


__all__ = ["PowerShellComplete", "completion_command", "register"]
