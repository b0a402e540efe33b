"""The program's commands; each is imported when it is run or its help is asked for."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

import click

from lepton_core.cli._app import App
from lepton_core.cli._command import common_options
from lepton_core.errors import UsageError

_HOME = "lepton_core.cli"
# name: (module, heading, one line)
COMMANDS = {
    "port": ("_port", "Main job", "Build and prove a model for one or more targets."),
    "check": ("_check", "Main job", "Say what would fit where, without converting anything."),
    "verify": ("_verify", "Main job", "Re-check a built variant against its source."),
    "open": ("_open", "Main job", "Run a model, or show its signature and facts."),
    "bisect": ("_bisect", "Main job", "Find the first value at which two variants part."),
    "sensitivity": ("_sensitivity", "Main job", "Measure what each weight costs when compressed."),
    "adapt": ("_adapt", "Single verbs", "Rewrite a model to meet a target's constraints."),
    "convert": ("_convert", "Single verbs", "Convert a model to a target's format."),
    "optimize": ("_optimize", "Single verbs", "Compress a model under a budget."),
    "deploy": ("_deployment", "Single verbs", "Put a model under a name, as a new version."),
    "adjust": ("_adjust", "Single verbs", "Tune a deployment by what it measured."),
    "migrate": ("_migrate", "Single verbs", "Move a deployment to another target."),
    "store": ("store_commands", "Surroundings", "Look after versions, aliases and the ledger."),
    "targets": ("_targets", "Surroundings", "List targets, their state and abilities."),
    "rewrites": ("_rewrites", "Surroundings", "List what adapt can do to a model's graph."),
    "plugins": ("_plugins", "Surroundings", "List installed plugins and why any fails."),
    "doctor": ("_doctor", "Surroundings", "Check this environment and say how to repair it."),
    "completion": ("_completion", "Surroundings", "Print the completion script of a shell."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and one line, and imports one when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"{_HOME}.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, f"{cmd_name}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name.

        Raises:
            UsageError: There is none; suggests the nearest.
        """
        name = args[0]
        if name not in COMMANDS and not ctx.resilient_parsing and not name.startswith("-"):
            near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(
                "LPT-USE-102",
                f"There is no command {name!r}",
                remedy=f"{hint}`lepton --help` lists them.",
                details={"command": name, "nearest": near},
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, without importing them."""
        for heading in dict.fromkeys(entry[1] for entry in COMMANDS.values()):
            rows = [(name, line) for name, (_, head, line) in COMMANDS.items() if head == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write where to start."""
        formatter.write_paragraph()
        formatter.write("Start here:\n")
        formatter.write("  $ lepton port model.onnx --to onnxruntime --data samples.npz\n")
        formatter.write("  $ lepton COMMAND --help\n")


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-V", "--version", is_flag=True, help="Show the version and exit.")
@common_options
@click.pass_context
def cli(ctx: click.Context, /, version: bool, **options: Any) -> None:  # noqa: ANN401
    """One AI model to every platform, with proof that it still is the same model."""
    app = ctx.ensure_object(App)
    options["json"] = options.pop("as_json")
    app.merge(**options)


__all__ = ["COMMANDS", "cli"]
