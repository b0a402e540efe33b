"""What importing costs, and who may import what."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

HEAVY = {
    "numpy", "torch", "onnx", "onnxruntime", "onnxscript", "transformers", "scipy", "sklearn",
    "pandas", "openvino", "coremltools", "tensorflow", "ai_edge_litert", "litert_torch",
    "tflite_runtime", "safetensors", "huggingface_hub",
}  # fmt: skip
LAZY = HEAVY | {
    "pluggy", "stevedore", "click", "rich", "msgspec", "psutil", "jinja2", "platformdirs",
    "packaging", "lepton_kernels", "hypothesis", "yaml",
}  # fmt: skip


def modules_after(code, *flags):
    """Return the names of the modules that a fresh interpreter has loaded after *code*."""
    script = f"import sys; before = set(sys.modules); {code}; import json; "
    script += "print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def roots(modules):
    return {name.partition(".")[0] for name in modules}


def test_importing_the_core_loads_nothing_of_weight():
    loaded = modules_after("import lepton_core")
    assert not roots(loaded) & LAZY
    assert {m for m in loaded if m.startswith("lepton_core")} == {
        "lepton_core",
        "lepton_core._version",
    }
    assert len(loaded) < 40, sorted(loaded)


@pytest.mark.parametrize("name", ["LeptonError", "Model", "Target", "TensorSpec", "Signature"])
def test_light_names_stay_light(name):
    assert not roots(modules_after(f"from lepton_core import {name}")) & LAZY


def test_descriptions_of_plugins_are_made_of_the_capabilities_alone(root):
    loaded = modules_after("import lepton_core.capabilities")
    assert not roots(loaded) & LAZY
    assert {m for m in loaded if m.startswith("lepton_core")} == {
        "lepton_core", "lepton_core._version", "lepton_core.capabilities",
    }  # fmt: skip


def plugin_modules(root, *names):
    return sorted(
        file for name in names for file in root.glob(f"plugins/*/src/*/{name}.py") if file.is_file()
    )


@pytest.mark.parametrize("name", ["info", "plugin"])
def test_light_modules_of_plugins_import_nothing_heavy(root, name):
    for file in plugin_modules(root, name):
        source, package = file.parent.parent, file.parent.name
        loaded = modules_after(
            f"sys.path.insert(0, {str(source)!r}); import {package}.{name} as module; "
            f"assert module.__file__.startswith({str(source)!r})"
        )
        limit = HEAVY if name == "plugin" else LAZY
        assert not roots(loaded) & limit, file


def test_listing_and_describing_load_no_plugin_and_no_backend(fakes):
    """In a fresh process, over whatever is installed beside the tests."""
    code = "from lepton_core.registry import Registry; r = Registry(environ={}); r.records"
    loaded = modules_after(code)
    assert not roots(loaded) & (LAZY - {"packaging"})
    assert not [m for m in loaded if m.endswith((".info", ".plugin"))]
    loaded = modules_after(code + "; import warnings; warnings.simplefilter('ignore'); r.infos()")
    assert not roots(loaded) & (LAZY - {"packaging"})
    assert not [m for m in loaded if m.endswith(".plugin")]


def imports_at_module_level(tree):
    """Yield (line, root module) of the imports that run when the module is imported."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").partition(".")[0]
        pending.extend(ast.iter_child_nodes(node))


def test_the_walk_sees_imports_where_they_are():
    tree = ast.parse(
        "import a.b\nif TYPE_CHECKING:\n    import no\nelse:\n    import c\n"
        "def f():\n    import no\nclass K:\n    import d\ntry:\n    from e import x\n"
        "except ImportError:\n    pass\nfrom . import no\n"
    )
    assert {name for _, name in imports_at_module_level(tree)} == {"a", "c", "d", "e"}


BACKENDS = HEAVY - {"numpy", "scipy"}


def test_no_backend_at_module_level(root):
    files = [
        *sorted((root / "lepton_core").rglob("*.py")),
        *plugin_modules(root, "plugin", "info", "__init__"),
    ]
    assert len(files) > 20
    found = [
        f"{file.relative_to(root)}:{line} {name}"
        for file in files
        for line, name in imports_at_module_level(ast.parse(file.read_text(encoding="utf-8")))
        if name in BACKENDS
    ]
    assert not found


def test_the_core_imports_no_plugin_and_no_framework_at_all(root):
    """Not even inside a function: arrows run one way."""
    plugins = {p.name for p in root.glob("plugins/*/src/*") if p.is_dir()}
    found = []
    for file in sorted((root / "lepton_core").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            found += [
                f"{file.relative_to(root)}:{node.lineno} {name}"
                for name in names
                if name.partition(".")[0] in plugins | BACKENDS
            ]
    assert not found


def test_the_core_never_imports_the_testing_package(root):
    found = [
        str(file.relative_to(root))
        for file in sorted((root / "lepton_core").rglob("*.py"))
        if "testing" not in file.relative_to(root / "lepton_core").parts
        and "lepton_core.testing" in file.read_text(encoding="utf-8")
    ]
    assert not found


def test_ruff_bans_the_same_backends(root):
    import tomllib

    table = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    banned = set(
        table["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
    )
    assert {"torch", "onnx", "onnxruntime", "transformers"} <= banned & BACKENDS


def test_only_one_module_knows_stevedore_and_few_know_pluggy(root):
    users = {"stevedore": set(), "pluggy": set(), "msgspec": set()}
    for file in sorted((root / "lepton_core").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                users.get(name.partition(".")[0], set()).add(file.name)
    assert users["stevedore"] == {"_discovery.py"}
    assert users["pluggy"] <= {"markers.py", "registry.py", "_plugin_checks.py"}
