"""The documents, followed: their commands are run, their links and tables are true."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)[ \t]*(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORT = (
    "port", "digits.py:net", "--to", "onnxruntime", "--precision", "fp32,fp16",
    "--data", "digits.npz", "--max-drop", "0.005",
)  # fmt: skip

# One worker trains and ports, so that none does it twice.
pytestmark = [pytest.mark.xdist_group("docs"), pytest.mark.timeout(600)]


def documents():
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language, mark):
    """Every fenced block that begins with ```LANGUAGE MARK``."""
    found = []
    for page in documents():
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if (match[1], match[2].strip()) == (language, mark):
                line = text[: match.start()].count("\n") + 1
                name = f"{page.relative_to(ROOT).as_posix()}:{line}"
                found.append(pytest.param(match[3], id=name))
    assert found, f"no document has a block {language} {mark}"
    return found


def run(arguments, folder, *, check=True, **environ):
    """Run Python with the arguments as a user would: installed packages, one folder."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=500,
        check=False,
    )
    assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done


def lepton(*arguments, folder, check=True, **environ):
    return run(["-m", "lepton_core.cli", *arguments], folder, check=check, **environ)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the tutorial's network, trained."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("digits")
    shutil.copy(ROOT / "docs/examples/digits.py", folder)
    run(["digits.py"], folder)
    return folder


@pytest.fixture(scope="session")
def ported(trained):
    """The JSON object of a real run, and the folder that it wrote to."""
    done = lepton(*PORT, "--out", "lepton-out", "--json", folder=trained)
    return json.loads(done.stdout), trained / "lepton-out"


@pytest.fixture
def digits(ported, tmp_path):
    """A copy of network and result, so that no snippet depends on another."""
    folder = tmp_path / "with space"
    shutil.copytree(ported[1].parent, folder)
    return folder


# --- snippets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", blocks("python", "digits"))
def test_python_of_the_documents_runs(code, digits):
    """A block that begins with ```python digits`` runs beside the trained network."""
    run(["-W", "error::DeprecationWarning", "-c", code], digits)


@pytest.mark.parametrize("text", blocks("console", "digits"))
def test_commands_of_the_documents_print_what_they_show(text, digits):
    """A block that begins with ```console digits`` shows exactly what is printed.

    A last line ``[exit N]`` states the exit code; 0 if there is none. ``…`` stands for anything.
    """
    check_command(text, digits)


def check_command(text, folder, **environ):
    """Run the command of a block in a folder, and compare what it prints with what is shown."""
    command, *shown = text.rstrip("\n").split("\n")
    words = shlex.split(command.removeprefix("$ "))
    environ |= dict(word.split("=", 1) for word in words[: words.index("lepton")])
    code = 0
    if shown and (stated := re.fullmatch(r"\[exit (\d+)\]", shown[-1])):
        code, shown = int(stated[1]), shown[:-1]
    arguments = words[words.index("lepton") + 1 :]
    done = lepton(*arguments, folder=folder, check=False, **environ)
    assert done.returncode == code, done.stdout + done.stderr
    printed = (done.stdout + done.stderr).rstrip("\n")
    pattern = ".*".join(re.escape(part) for part in "\n".join(shown).split("…"))
    assert re.fullmatch(pattern, printed, re.DOTALL), printed


def test_the_page_of_deployments_can_be_followed(digits):
    """Blocks that begin with ```console in-order`` or ```python in-order`` build on each other."""
    pytest.importorskip("openvino")
    page = (ROOT / "docs/how-to/deploy-and-roll-back.md").read_text(encoding="utf-8")
    steps = [match for match in FENCE.finditer(page) if match[2].strip() == "in-order"]
    assert [step[1] for step in steps].count("console") > 4
    store = str(digits / "store")
    for step in steps:
        if step[1] == "python":
            run(["-c", step[3]], digits, LEPTON_STORE=store)
        else:
            check_command(step[3], digits, LEPTON_STORE=store)


# --- the contract for programs --------------------------------------------------------------------

_TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
    "number": (int, float), "null": type(None),
}  # fmt: skip
_KEYWORDS = {
    "$schema", "$defs", "title", "description", "type", "required", "properties", "items", "$ref",
    "const", "enum", "pattern", "minItems", "anyOf",
}  # fmt: skip


def is_of(value, kinds):
    return any(
        isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        for kind in kinds
    )


def problems(value, schema, root, where="$"):
    """The ways in which a value breaks a JSON Schema, for the keywords that ours uses."""
    assert schema.keys() <= _KEYWORDS, f"{where}: this test does not know all of {schema.keys()}"
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not is_of(value, kinds):
        yield f"{where}: {value!r} is not {kinds}"
        return
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{where}: {value!r} is not one of the constants"
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    if "anyOf" in schema and all([*problems(value, one, root, where)] for one in schema["anyOf"]):
        yield f"{where}: {value!r} fits nothing that is allowed"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{where}: {len(value)} items"
        for number, item in enumerate(value):
            yield from problems(item, schema.get("items", {}), root, f"{where}[{number}]")
    if isinstance(value, dict):
        yield from (f"{where}: no {key}" for key in schema.get("required", ()) if key not in value)
        for key, part in schema.get("properties", {}).items():
            if key in value:
                yield from problems(value[key], part, root, f"{where}.{key}")


def undeclared(value, schema, root):
    """Keys of a value that the schema does not mention."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        return {key for item in value for key in undeclared(item, schema["items"], root)}
    if not isinstance(value, dict):
        return set()
    declared = schema.get("properties", {})
    below = (undeclared(v, declared[k], root) for k, v in value.items() if k in declared)
    return (value.keys() - declared.keys()).union(*below)


@pytest.fixture(scope="session")
def schema():
    return json.loads((ROOT / "docs/reference/port.schema.json").read_text(encoding="utf-8"))


def test_a_real_port_fits_the_schema(ported, schema):
    result, folder = ported
    assert [*problems(result, schema, schema)] == []
    assert undeclared(result, schema, schema) == set()
    assert result["ok"]
    assert result == json.loads((folder / "result.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("source", "digest"), "md5:00"),
        (("variants", 0, "verdict"), "good"),
        (("variants", 0, "errors", "rel_l2"), "NaN"),
        (("variants", 0, "kept"), 1),
        (("variants",), []),
    ],
)
def test_the_schema_refuses_what_is_wrong(ported, schema, path, value):
    broken = json.loads(json.dumps(ported[0]))
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert [*problems(broken, schema, schema)]


def test_the_examples_in_the_json_reference_are_true(schema):
    text = (ROOT / "docs/reference/json.md").read_text(encoding="utf-8")
    result, error = (json.loads(m[3]) for m in FENCE.finditer(text) if m[1] == "json")
    assert [*problems(result, schema, schema)] == []
    done = lepton(
        "port", "digits.py:net", "--to", "onnxrutnime", "--json", folder=ROOT, check=False
    )
    assert done.returncode == 2
    real = json.loads(done.stdout)
    assert real.keys() == error.keys()
    assert real["error"].keys() == error["error"].keys()
    assert real["error"]["code"] == error["error"]["code"]


# --- tables and links -----------------------------------------------------------------------------


def test_the_readme_lists_the_targets_as_they_show_themselves():
    """The table comes from the tree (docs/generate.py); what is installed must agree with it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (works|planned) \| ?(.*?) ?\|", text, re.MULTILINE)
    shown = {name: (title, status, precisions) for name, title, status, precisions in rows}
    listed = json.loads(lepton("targets", "--json", folder=ROOT).stdout)["targets"]
    ready = [t for t in listed if t["status"] == "ready" and t["id"] in shown]
    assert ready
    for target in ready:
        precisions = ", ".join(target["precisions"])
        assert shown[target["id"]] == (target["title"], "works", precisions)


def test_links_between_documents_lead_somewhere():
    done = run(
        [
            "-c",
            "import docs\n"
            "broken = [m for page in docs.documents() for m in docs.broken_links(page)]\n"
            "raise SystemExit('\\n'.join(broken) or 0)",
        ],
        ROOT / ".ci",
    )
    assert done.returncode == 0


def test_images_are_small_and_used():
    text = "".join(page.read_text(encoding="utf-8") for page in documents())
    for image in (ROOT / "docs/images").iterdir():
        assert image.stat().st_size < 200_000, image.name
        assert image.name in text, f"{image.name} is in no document"


def test_pictures_show_the_targets_as_the_readme_lists_them():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `\w+` \| (.+?) \| works \| (.*?) \|", text, re.MULTILINE)
    offered = {title.partition(" (")[0]: set(given.split(", ")) for title, given in rows}
    assert len(offered) == 5
    drawn = {}
    for image in (ROOT / "docs/images").glob("*.svg"):
        shown = ElementTree.parse(image).getroot()
        said = (shown.findtext("{*}desc") or "").split(".")
        groups = [
            ["".join(t.itertext()) for t in g.iterfind("{*}text")]
            for g in shown.iterfind(".//{*}g")
        ]
        for title in offered:
            told = [part for part in (*said, *map(" ".join, groups)) if title in part]
            assert "planned" not in "".join(told), f"{image.name}: {title} works"
            for group in groups:
                if title in group:
                    drawn[title] = " ".join(group)
    for title, precisions in offered.items():
        named = set(re.findall(r"[\w-]+", drawn[title]))
        assert precisions <= named, f"port.svg: {title} offers {precisions - named} as well"


# --- the plugin template --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def acme(tmp_path_factory):
    """The folder of the plugin template, with its wheel unpacked in ``site``."""
    pytest.importorskip("hatchling")
    source = tmp_path_factory.mktemp("acme") / "plugin-template"
    shutil.copytree(ROOT / "docs/examples/plugin-template", source)
    run(["-m", "hatchling", "build", "-t", "wheel", "-d", "wheels"], source)
    (wheel,) = (source / "wheels").glob("lepton_acme-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(source / "site")
    return source


def test_the_plugin_template_builds_and_ports(acme, digits):
    path = str(acme / "site")
    listed = json.loads(lepton("plugins", "--json", folder=digits, PYTHONPATH=path).stdout)
    (shown,) = (plugin for plugin in listed["plugins"] if plugin["id"] == "acme")
    assert shown["status"] == "ok", shown
    done = lepton(
        "port", "digits.py:net", "--to", "acme", "--data", "digits.npz", "--max-drop", "0.005",
        "--json", folder=digits, PYTHONPATH=path,
    )  # fmt: skip
    (variant,) = json.loads(done.stdout)["variants"]
    assert (variant["target"], variant["verdict"], variant["kept"]) == ("acme", "pass", True)
    assert 0 < variant["errors"]["rel_l2"] < 1e-5


def test_the_plugin_template_passes_the_conformance_kit(acme, digits):
    page = (ROOT / "docs/how-to/write-a-plugin.md").read_text(encoding="utf-8")
    own_tests = (acme / "tests/test_acme.py").read_text(encoding="utf-8")
    assert f"```python\n{own_tests}```" in page, "the page shows the whole file"
    lepton(
        "convert", digits / "digits.py:net", "--to", "onnxruntime", "--format", "pivot",
        "--out", "tests/small", folder=acme,
    )  # fmt: skip
    done = run(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        acme,
        PYTHONPATH=str(acme / "site"),
    )
    assert re.search(r"^12 passed", done.stdout, re.MULTILINE), done.stdout


def test_the_plugin_template_can_be_bundled(acme, digits):
    done = lepton(
        "deploy", "lepton-out/pivot/model.onnx", "--name", "digits", "--to", "acme",
        "--kind", "bundle", "--out", "bundle", "--store", "store",
        folder=digits, PYTHONPATH=str(acme / "site"),
    )  # fmt: skip
    assert (digits / "bundle/runtime.py").is_file(), done.stdout
    checked = run(["run.py"], digits / "bundle")
    assert checked.stdout.startswith("ok: every file, golden pairs within")
