"""Rules about files: sizes, paths, public names, snippets of the documentation."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

FILE_LINES, FUNCTION_LINES = 450, 70


def shipped(root):
    return sorted(
        file
        for pattern in ("lepton_core/**/*.py", "plugins/*/src/**/*.py", "kernels_rs/python/**/*.py")
        for file in root.glob(pattern)
    )


def test_files_and_functions_stay_small(root):
    large = []
    for file in shipped(root):
        text = file.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > FILE_LINES:
            large.append(f"{file.relative_to(root)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body
                if ast.get_docstring(node) and len(body) > 1:
                    body = body[1:]
                length = (node.end_lineno or 0) - body[0].lineno + 1
                if length > FUNCTION_LINES:
                    large.append(f"{file.relative_to(root)}:{node.lineno} {node.name}: {length}")
    assert not large


def test_no_absolute_paths_of_a_machine_and_no_registry_hosts(root, tracked_files):
    needles = [
        re.escape("/" + "root/"),
        r"(?<![\w./])/" + r"work/",
        r"/" + r"home/\w+/",
        r"/Us" + r"ers/\w+/",
        *(re.escape(f"{name}.{top}") for name, top in (("pypi", "org"), ("crates", "io"))),
        re.escape("python" + "hosted.org"),
    ]
    pattern = re.compile("|".join(needles))
    found = []
    for path in tracked_files:
        if path.suffix in (".lock", ".png", ".gz", ".npz", ".onnx") or path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(root)}:{number} {match[0]}"
            for number, line in enumerate(text.splitlines(), 1)
            if (match := pattern.search(line))
        ]
    assert not found


def public_modules(root):
    for file in sorted((root / "lepton_core").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(p.startswith("_") for p in name.split(".")) and not name.endswith(".child"):
            yield name


def test_public_names_exist_and_are_documented_and_typed(root):
    odd = []
    for name in public_modules(root):
        try:
            module = import_module(name)
        except ImportError as error:  # an optional dependency of this module is not installed
            if (error.name or "").partition(".")[0] == "lepton_core":
                raise
            continue
        assert module.__doc__, name
        for public in getattr(module, "__all__", ()):
            value = getattr(module, public)
            home = getattr(value, "__module__", "") or ""
            if not home.startswith("lepton_core") or not callable(value):
                continue
            if not inspect.getdoc(value):
                odd.append(f"{name}.{public} has no docstring")
            if inspect.isfunction(value):
                signature = inspect.signature(value)
                missing = [
                    p.name
                    for p in signature.parameters.values()
                    if p.annotation is inspect.Parameter.empty and p.name != "self"
                ]
                if missing or signature.return_annotation is inspect.Signature.empty:
                    odd.append(f"{name}.{public} lacks annotations: {missing or 'return'}")
    assert not odd


# --- documentation ------------------------------------------------------------------------------

FENCE = re.compile(r"^```(python|console)[ \t]*(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def pages(root):
    skip = {root / "docs/reference" / name for name in ("hooks.md", "errors.md")}
    found = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [page for page in found if page.is_file() and page not in skip]


def snippets(root, language):
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                line = text[: match.start()].count("\n") + 1
                yield f"{page.relative_to(root)}:{line}", match[2].strip(), match[3]


def test_python_snippets_compile_and_those_marked_run_do(root, tmp_path):
    """A block that begins with ```python run`` is executed in an empty directory."""
    for where, mark, code in snippets(root, "python"):
        compile(code, where, "exec")
        if mark == "run":
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=tmp_path, capture_output=True, text=True, check=False,
                env={**os.environ, "PYTHONPATH": str(root)},
            )  # fmt: skip
            assert done.returncode == 0, f"{where}\n{done.stderr}"


def commands(root):
    for where, _, text in snippets(root, "console"):
        joined = text.replace("\\\n", " ")
        for line in joined.splitlines():
            if line.startswith("$ lepton"):
                yield where, shlex.split(line[2:].partition("#")[0])


def test_lepton_commands_in_the_documentation_are_understood(root):
    found = list(commands(root))
    if not (root / "lepton_core/cli").exists() and not (root / "lepton_core/cli.py").exists():
        pytest.skip("there is no command line yet")
    for where, words in found:
        arguments = [w for w in words[1:] if not w.startswith(">")]
        words_only = [a for a in arguments if not a.startswith("-")]
        inner = words_only[:1] == ["store"] or words_only[:2] in [
            ["adjust", name] for name in ("log", "undo", "explain")
        ]
        verb = words_only[: 2 if inner else 1]
        done = subprocess.run(
            [sys.executable, "-m", "lepton_core.cli", *verb, "--help"],
            capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip
        assert done.returncode == 0, f"{where}: {words}\n{done.stderr}"
        for option in (a.partition("=")[0] for a in arguments if a.startswith("--")):
            assert option in done.stdout, f"{where}: {words} has no {option}"
