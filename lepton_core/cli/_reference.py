"""The reference page of the command line, made from the commands themselves.

``python -m lepton_core.cli._reference > docs/reference/cli.md`` writes it anew.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import click

from lepton_core.cli._command import OUTPUT, Command, Option
from lepton_core.cli._main import COMMANDS, cli

_HEAD = """\
# Command line

`lepton` is the command of lepton-core. Results go to standard output, everything else to
standard error; on a terminal long work shows progress bars, piped output is quiet. Every command
takes `--json` and then prints exactly one JSON object with `schema` and `ok`; an error is
`{"schema": 1, "ok": false, "error": {"code", "message", "cause", "remedy", …}}`.

| exit code | meaning |
|---|---|
| 0 | done; for `port` and `verify`: every target has a kept variant that passed |
| 1 | tried, and there is no result that holds; a worker or a plugin failed |
| 2 | wrong usage, model or samples |
| 3 | the best result is only weak (`--allow-weak` accepts it) |
| 4 | a plugin is missing, broken, or not able to do it |
| 5 | storage: disk full, no permission, a place that is not ours |
| 70 | a bug in lepton; `--debug` shows the traceback |
| 130 | stopped with Ctrl-C; nothing half-written is left (143: ended by SIGTERM) |

Environment: `LEPTON_DEBUG=1` is `--debug`; `NO_COLOR` forbids colours; `LEPTON_PLUGINS` and
`LEPTON_DISABLED_PLUGINS` are comma-separated ids of plugins to allow and to block;
`LEPTON_STRICT_PLUGINS=1` turns a broken plugin into an error; `LEPTON_ISOLATION=0` runs
everything in one process.

Every command also takes `-q` (results and errors only), `-v` (say more; progress as lines when
piped), `--debug` (tracebacks, also of worker processes), `--color/--no-color`, and `-h`.
"""


def render() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD, _commands_table()]
    parts += [_section(name, found, parent) for name, found, parent in leaf_commands()]
    return "\n".join(parts)


def leaf_commands() -> list[tuple[str, Command, click.Context]]:
    """Return every command that does something, by its words, with the context above it.

    Commands of a group count (``"store list"``), the group itself only through its default.
    """
    root = click.Context(cli, info_name="lepton")
    found: list[tuple[str, Command, click.Context]] = []
    for name in COMMANDS:
        one = cli.get_command(root, name)
        if isinstance(one, Command):
            found.append((name, one, root))
        elif isinstance(one, click.Group):
            above = click.Context(one, info_name=name, parent=root)
            for inner in one.list_commands(above):
                sub = one.get_command(above, inner)
                if isinstance(sub, Command) and inner == getattr(one, "default", None):
                    found.append((name, sub, root))
                elif isinstance(sub, Command):
                    found.append((f"{name} {inner}", sub, above))
    return found


def _commands_table() -> str:
    sections = [name for name, _, _ in leaf_commands()]
    rows = []
    for name, entry in COMMANDS.items():
        first = next(section for section in sections if section.split()[0] == name)
        rows.append(f"| [`{name}`](#lepton-{first.replace(' ', '-')}) | {entry[2]} |")
    return "\n".join(["| command | |", "|---|---|", *rows, ""])


def _section(name: str, command: Command, parent: click.Context) -> str:
    """Return a command's section; wrapped by us, so that it does not depend on click's version."""
    with click.Context(command, info_name=name.rsplit(maxsplit=1)[-1], parent=parent) as ctx:
        usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    lines = [f"## lepton {name}", "", f"`{usage}`", "", inspect.cleandoc(command.help or ""), ""]
    groups: dict[str, list[Option]] = {}
    for parameter in command.params:
        if isinstance(parameter, Option) and parameter.group != OUTPUT:
            groups.setdefault(parameter.group, []).append(parameter)
    for group, options in groups.items():
        lines += [f"| {group} | | default |", "|---|---|---|"]
        lines += [_row(option) for option in options]
        lines.append("")
    lines += ["```console", *(_prompt(line) for line in command.examples), "```", ""]
    return "\n".join(lines)


def _prompt(line: str) -> str:
    return line if line.startswith("#") else f"$ {line}"


def _row(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag:
        kind = option.metavar or option.type.name.upper().removesuffix(" RANGE")
        names += f" {kind}" if isinstance(kind, str) else ""
    default = option.default
    shown = ""
    if option.required:
        shown = "required"
    elif option.show_default and isinstance(default, str | int | tuple | Path) and default != ():
        values = default if isinstance(default, tuple) else (default,)
        shown = "yes" if default is True else ", ".join(map(str, values))
    return f"| {names} | {option.help} | {shown} |".replace("<", "\\<")


if __name__ == "__main__":
    sys.stdout.write(render())

__all__ = ["leaf_commands", "render"]
