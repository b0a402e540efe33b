"""Write the pages that are made from the sources: hooks, errors, rewrites, README's targets, ….

Run ``python docs/generate.py`` after a change of a hook's docstring, an error, a variable, or
a plugin's description;
``python docs/generate.py --check`` only tells whether the pages are up to date. A test does, too.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lepton_core.capabilities import PluginInfo

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
SOURCES = ("lepton_core", "plugins/*/src", "kernels_rs/python")
CODE = re.compile(r"LPT-[A-Z]+-\d{3}")
_RAISES = re.compile(rf"{CODE.pattern}|Error\(\s*code\b")
"""What a file has that raises a code, or makes errors of codes passed to it."""
NOTE = "<!-- Written by docs/generate.py; change the sources, not this page. -->\n"

VARIABLES = {
    "LEPTON_PLUGINS": "Ids of the only plugins to see, separated by commas; empty means all. Acts "
    "before anything is imported.",
    "LEPTON_DISABLED_PLUGINS": "Ids of plugins to hide, separated by commas. Acts before anything "
    "is imported.",
    "LEPTON_STRICT_PLUGINS": "With `1`, a plugin that cannot be used is an error everywhere, and "
    "not a warning until it is needed. For continuous integration.",
    "LEPTON_ISOLATION": "With `0`, heavy steps run in this process and not in worker processes. "
    "For debuggers; limits on time and memory then do not apply.",
    "LEPTON_DEBUG": "With `1`, the same as `--debug`: tracebacks of errors, also of workers.",
    "LEPTON_STORE": "Folder of the store; the user's data folder by default.",
    "LEPTON_NARROW_SECONDS": "Time for finding the operator that a conversion fails at, where the "
    "converter does not say, by converting parts of the graph; 120 by default, 0 for none.",
    "LEPTON_FAILPOINT": "For tests: name of a point at which the process kills itself, as a crash "
    "there would.",
}


def source_files() -> list[Path]:
    """Return every Python file that is shipped, in a fixed order."""
    roots = [root for pattern in SOURCES for root in sorted(ROOT.glob(pattern))]
    return [file for root in roots for file in sorted(root.rglob("*.py"))]


# --- hooks ----------------------------------------------------------------------------------------


def hooks_page() -> str:
    """Return the page of all hooks, from their docstrings."""
    from lepton_core import hookspecs

    parts = [f"# Hooks\n\n{NOTE}\n{_plain_roles(inspect.getdoc(hookspecs) or '')}\n"]
    for name, spec in vars(hookspecs.LeptonSpecs).items():
        if not name.startswith("lepton_"):
            continue
        parameters = [p for p in inspect.signature(spec).parameters.values() if p.name != "self"]
        listed = ", ".join(f"{p.name}: {p.annotation}" for p in parameters)
        returns = inspect.signature(spec).return_annotation
        parts.append(
            f"## {name}\n\n```python\n{name}({listed}) -> {returns}\n```\n\n"
            f"{_plain_roles(_markdown(inspect.getdoc(spec) or ''))}"
        )
    return "\n".join(parts)


def _markdown(docstring: str) -> str:
    """Turn a Google-style docstring's sections into lists."""
    lines: list[str] = []
    section = ""
    for line in docstring.splitlines():
        if line in ("Args:", "Returns:", "Raises:"):
            section = line[:-1]
            lines += [f"**{section}**", ""]
        elif section and line.startswith("        "):
            lines[-1] += f" {line.strip()}"
        elif section in ("Args", "Raises") and line.startswith("    "):
            name, _, text = line.strip().partition(": ")
            lines.append(f"- `{name}`: {text}")
        elif line.startswith(".. versionadded::"):
            section = ""
            lines.append(f"*Since {line.rpartition(' ')[2]}.*")
        else:
            lines.append(line.strip() if section else line)
    return "\n".join(lines) + "\n"


def _plain_roles(text: str) -> str:
    """Replace Sphinx roles and double backticks by Markdown's backticks."""
    text = re.sub(r":\w+:`~?\.?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


# --- errors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RaiseSite:
    """One place that makes an error: its class, message and remedy as templates."""

    file: Path
    line: int
    error: str
    message: str
    remedy: str


@dataclass
class ErrorCode:
    """Everything the sources say about one code."""

    code: str
    sites: list[RaiseSite] = field(default_factory=list)

    @property
    def errors(self) -> set[str]:
        """Classes it is raised as; more than one is a mistake."""
        return {site.error for site in self.sites}


def _template(node: ast.expr | None) -> str:  # noqa: PLR0911 - one per kind of node
    """Return the text of a string expression; what is filled in stands in braces."""
    match node:
        case None:
            return ""
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_template, parts))
        case ast.FormattedValue(value=value):
            words = re.findall(r"[a-z]+", ast.unparse(value).rpartition(".")[2])
            return f"{{{' '.join(words[:3]) or 'value'}}}"
        case ast.Call(func=ast.Name(id="install_command"), args=args):
            from lepton_core.installing import install_command

            return install_command(*(_template(argument) or "{it}" for argument in args))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _template(left) + _template(right)
        case ast.IfExp(body=one, orelse=other) | ast.BoolOp(values=[one, other]):
            return " / ".join(dict.fromkeys(filter(None, (_template(one), _template(other)))))
        case _:
            return f"{{{ast.unparse(node).rpartition('.')[2].partition('(')[0].strip('_')}}}"


class _Scan(ast.NodeVisitor):
    """Finds the codes of one file with the call that each is an argument of."""

    def __init__(self, file: Path, makers: dict[str, ast.Call]) -> None:
        self.file, self.makers = file, makers
        self.found: list[tuple[str, RaiseSite]] = []
        self.stack: list[ast.AST] = []

    def generic_visit(self, node: ast.AST) -> None:
        self.stack.append(node)
        super().generic_visit(node)
        self.stack.pop()

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and CODE.fullmatch(node.value) and not self._is_compared():
            self.found.append((node.value, self._site(node)))

    def _is_compared(self) -> bool:
        """Tell whether the code is asked for here, not raised."""
        around = (n for n in reversed(self.stack) if isinstance(n, ast.Call | ast.Compare))
        return isinstance(next(around, None), ast.Compare)

    def _site(self, node: ast.Constant) -> RaiseSite:
        calls = [n for n in self.stack if isinstance(n, ast.Call)]
        functions = [n for n in self.stack if isinstance(n, ast.FunctionDef)]
        if not calls and functions:  # the default of a parameter
            calls = [self.makers[functions[-1].name]]
        call = calls[-1]
        name = ast.unparse(call.func).rpartition(".")[2]
        maker = call if name.endswith("Error") else self.makers.get(name)
        if maker is None:
            msg = f"{self.file}:{node.lineno}: {name} makes no error that can be found"
            raise LookupError(msg)
        texts = [a for a in call.args if isinstance(a, ast.JoinedStr | ast.BinOp) or _is_text(a)]
        remedy = next(
            (k.value for k in [*call.keywords, *maker.keywords] if k.arg == "remedy"), None
        )
        return RaiseSite(
            self.file,
            node.lineno,
            ast.unparse(maker.func).rpartition(".")[2],
            _template(texts[0]) if texts else "{message}",
            _template(remedy),
        )


def _is_text(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and not CODE.fullmatch(node.value)
    )


def _makers(trees: dict[Path, ast.Module]) -> dict[str, ast.Call]:
    """Return the helper functions that get a code passed, with the error call inside them."""
    found = {}
    for tree in trees.values():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Error"):
                    first = call.args[0] if call.args else None
                    if isinstance(first, ast.Name) and first.id == "code":
                        found[function.name] = call
    return found


@functools.cache
def error_codes() -> dict[str, ErrorCode]:
    """Return every code in the sources, sorted, with the places that raise it."""
    texts = {file: file.read_text(encoding="utf-8") for file in source_files()}
    trees = {file: ast.parse(text) for file, text in texts.items() if _RAISES.search(text)}
    makers = _makers(trees)
    codes: dict[str, ErrorCode] = {}
    for file, tree in trees.items():
        scan = _Scan(file.relative_to(ROOT), makers)
        scan.visit(tree)
        for code, site in scan.found:
            codes.setdefault(code, ErrorCode(code)).sites.append(site)
    return dict(sorted(codes.items()))


def errors_page() -> str:
    """Return the page of all error codes, from the places that raise them."""
    from lepton_core import errors

    tree = (inspect.getdoc(errors) or "").partition(".. code-block:: text\n\n")[2]
    tree = tree.partition("\n\nAn error says")[0]
    parts = [
        f"# Errors\n\n{NOTE}\nEvery failure that lepton expects is a `LeptonError` with a code "
        "that never changes its meaning, a cause and a remedy. Parts in {braces} are filled "
        "in.\n\n```text\n"
        + "\n".join(line.removeprefix("    ") for line in tree.splitlines())
        + "\n```\n"
    ]
    for entry in error_codes().values():
        name = sorted(entry.errors)[0]
        exit_code = getattr(errors, name).exit_code
        parts.append(f"## {entry.code}\n\n`{name}`, exit code {exit_code}.\n")
        seen = dict.fromkeys((site.message, site.remedy) for site in entry.sites)
        for message, remedy in seen:
            said = remedy and not re.fullmatch(r"\{[^}]*\}", remedy)
            hint = f"  \n  *What to do:* {remedy}" if said else ""
            parts.append(f"- {message}{hint}\n")
    return "\n".join(parts)


# --- environment ----------------------------------------------------------------------------------


def variables_in_sources() -> set[str]:
    """Return the names of the variables that the sources speak of."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in source_files())
    return set(re.findall(r"\bLEPTON_[A-Z_]*[A-Z]\b", text))


def environment_page() -> str:
    """Return the page of environment variables.

    Raises:
        LookupError: A variable has no meaning written down here.
    """
    used = variables_in_sources()
    if used - VARIABLES.keys():
        msg = f"say in docs/generate.py what {', '.join(sorted(used - VARIABLES.keys()))} means"
        raise LookupError(msg)
    rows = "\n".join(f"| `{name}` | {VARIABLES[name]} |" for name in VARIABLES if name in used)
    return f"# Environment variables\n\n{NOTE}\n| Variable | Meaning |\n|---|---|\n{rows}\n"


# --- rewrites -------------------------------------------------------------------------------------

_REWRITES = """\
A rewrite changes a model's graph so that a target can run it. `lepton adapt` does those that the
target needs; `lepton port` does the same on the way. `lepton rewrites` prints this list for what is
installed, and [the guide](../how-to/adapt-a-model.md) says how to use and to add them.

*numbers*: `exact` keeps every bit. `within x` may move an output by a relative L2 difference of up
to x in float32, and by as many of its own roundings in half precision (2e-2 at most). Every run
measures it, on the example inputs and on random ones; a rewrite that moves more is refused.
"""


def rewrites_page() -> str:
    """Return the page of the rewrites that the plugins of this tree bring."""
    from lepton_core.rewrites import when

    parts = [f"# Rewrites\n\n{NOTE}\n{_REWRITES}"]
    for info in plugin_infos():
        if not info.rewrites:
            continue
        formats = ", ".join(f"`{name}`" for name in info.rewrites[0].formats)
        parts.append(f"## {info.distribution}\n\nFor models of the formats {formats}.\n")
        for rewrite in info.rewrites:
            done = re.sub(r"\baten\.\w+", r"`\g<0>`", when(rewrite))
            rows = [f"- numbers: {rewrite.numbers}", f"- done {done}"]
            if rewrite.standard and rewrite.removes:
                rows.append("- removes " + ", ".join(f"`{name}`" for name in rewrite.removes))
            rows += [f"- needs {rewrite.needs}"] if rewrite.needs else []
            summary = rewrite.summary[:1].upper() + rewrite.summary[1:]
            parts.append(f"### {rewrite.name}\n\n{summary}.\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


# --- README ---------------------------------------------------------------------------------------

_BEGIN = "<!-- targets: written by docs/generate.py from what plugins declare -->\n"
_END = "<!-- end of targets -->\n"


def plugin_infos() -> list[PluginInfo]:
    """Return what the plugins of this tree declare."""
    found = []
    for file in sorted(ROOT.glob("plugins/*/src/*/info.py")):
        # An info module imports nothing but the core, so that its package is not needed.
        spec = importlib.util.spec_from_file_location(f"_info_of_{file.parent.name}", file)
        if spec is None or spec.loader is None:
            raise ImportError(file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module.INFO)
    return found


def targets_table() -> str:
    """Return the targets of this tree as a table, and those that are planned."""
    from lepton_core.capabilities import TargetInfo
    from lepton_core.catalogue import KNOWN

    rows = {}
    for info in plugin_infos():
        if isinstance(info, TargetInfo):
            precisions, devices = ", ".join(info.offered), ", ".join(info.devices)
            rows[info.id] = f"| `{info.id}` | {info.title} | works | {precisions} | {devices} |"
    planned = {
        known.id: f"| `{known.id}` | {known.title} | planned | | |"
        for known in KNOWN.values()
        if known.kind == "target" and known.id not in rows
    }
    lines = [*(rows[name] for name in sorted(rows)), *(planned[name] for name in sorted(planned))]
    head = "| target | | status | precisions | devices |\n|---|---|---|---|---|\n"
    return head + "".join(f"{line}\n" for line in lines)


def readme() -> str:
    """Return the README with its table of targets written anew."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        msg = f"README.md lacks the lines {_BEGIN!r} and {_END!r}"
        raise LookupError(msg)
    return before + _BEGIN + targets_table() + _END + after


def pages() -> dict[Path, str]:
    """Return every generated page by its path."""
    return {
        ROOT / "README.md": readme(),
        PAGES / "hooks.md": hooks_page(),
        PAGES / "errors.md": errors_page(),
        PAGES / "environment.md": environment_page(),
        PAGES / "rewrites.md": rewrites_page(),
    }


def main() -> int:
    """Write the pages, or tell which are out of date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of date")
    check = parser.parse_args().check
    stale = [
        (path, text)
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(text, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
