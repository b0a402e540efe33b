"""The Swift class of a bundle meets Swift's compiler, with a stand-in for Apple's module CoreML.

The class is compiled as Swift 5 and as Swift 6, with warnings as errors, against Swift's own
Foundation, and run. CoreML exists on Apple's systems alone, so ``swift/CoreML.swift`` says what
that module declares. This shows that the class is right Swift, reads golden pairs, calls Core ML by
the package's names and types and judges what it gets; not what Core ML makes of a package.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core.types import Signature
from lepton_coreml import bundle_files

HERE = Path(__file__).with_name("swift")
GUIDE = Path(__file__).parents[3] / "docs/how-to/ship-to-ios.md"
TYPES = {"float32": 65568, "float16": 65552, "int32": 131104}
NAMES = ["class", "3d", "a b", 'say "x"', "\\(it)", "größe/µ", "😀", "back\\slash", "line\nbreak",
         "*/", "/*", "//", "`tick`", "#", "self", "@CLASS@", "\u2028", "\x00"]  # fmt: skip
"""Names that Swift, its comments or its literals give a meaning of its own."""

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not shutil.which("swiftc"),
        reason="needs swiftc on the PATH (Debian 13: apt-get install swiftlang)",
    ),
]


def swiftc(*given, cwd):
    command = ["swiftc", "-warnings-as-errors", *map(str, given)]
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.fixture(scope="module")
def coreml(tmp_path_factory):
    """Folder with the compiled stand-in."""
    folder = tmp_path_factory.mktemp("coreml")
    shutil.copy(HERE / "CoreML.swift", folder)
    swiftc("-emit-module", "-emit-library", "-static", "-module-name", "CoreML", "-o",
           "libCoreML.a", "CoreML.swift", cwd=folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def shipped(converted, tmp_path_factory):
    """A bundle by the name of its graph."""
    place = tmp_path_factory.mktemp("shipped")

    def call(graph, precision="fp32"):
        out = place / f"{graph}-{precision}"
        options = {"store": str(place / "store"), "out": str(out)}
        model = converted(graph, precision).model
        lepton_core.deploy(model, name="named", target="coreml", kind="bundle", options=options)
        return out

    return call


def odd_classes(model):
    """Classes with such names, and of deployments whose names the class or Swift itself uses."""
    spec = model.signature.inputs[0]
    made = {}
    for title in [*NAMES, *sorted(bundle_files._TAKEN), "class", "Protocol", "Optional", "Set",
                  "in", "3 nets", "???", "CoreML", "Foundation", "Void", "Never"]:  # fmt: skip
        named = replace(spec, name=title)
        signature = Signature((named, *model.signature.inputs[1:]), model.signature.outputs)
        text = bundle_files.files(model.evolve(signature=signature), title)
        (file,) = (name for name in text if name.endswith(".swift"))
        made[file] = text[file]
    return made


def guide_snippet():
    """The call that the guide shows, which is to compile as it stands."""
    (snippet,) = re.findall(r"```swift\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    return (
        "import CoreML\nimport Foundation\n@available(iOS 18, macOS 15, *)\n"
        f"func shown(pixels: [Float]) throws -> MLMultiArray {{\n{snippet}return logits\n}}\n"
    )


@pytest.mark.parametrize("version", ["5", "6"])
def test_every_class_is_right_swift(converted, coreml, tmp_path, version):
    model = converted("perceptron").model
    for file, text in odd_classes(model).items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    (tmp_path / "Digits.swift").write_text(bundle_files.files(model, "digits")["Digits.swift"])
    (tmp_path / "Guide.swift").write_text(guide_snippet())
    files = sorted(tmp_path.glob("*.swift"))
    assert len(files) > 30
    swiftc("-swift-version", version, "-typecheck", "-parse-as-library", "-module-name", "App",
           "-I", coreml, *files, cwd=tmp_path)  # fmt: skip


def golden(bundle, kind):
    index = json.loads((bundle / "golden/golden.json").read_text())
    return {n: np.load(bundle / "golden" / f) for n, f in index[kind].items()}, index["rel_l2"]


def answers(bundle, factor):
    """Return what the package gives, for the golden outputs times a factor."""
    ports = json.loads((bundle / "features.json").read_text())["outputs"]
    wanted, _ = golden(bundle, "outputs")
    return [
        {
            "feature": port["feature"],
            "type": TYPES[port["dtype"]],
            "shape": list(wanted[port["name"]].shape) or [1],
            "values": (wanted[port["name"]].reshape(-1).astype(float) * factor).tolist(),
        }
        for port in ports
    ]


@pytest.mark.parametrize("graph", ["network", "tokens"])
def test_the_class_runs_and_judges_golden_pairs(shipped, coreml, tmp_path, graph):
    bundle = shipped(graph)
    shutil.copy(HERE / "main.swift", tmp_path)
    shutil.copy(bundle / "Named.swift", tmp_path)
    swiftc("-swift-version", "5", "-I", coreml, "-L", coreml, "-lCoreML", "-o", "program",
           "main.swift", "Named.swift", cwd=tmp_path)  # fmt: skip

    def run(factor):
        exchange = tmp_path / str(factor)
        exchange.mkdir()
        (exchange / "answers.json").write_text(json.dumps(answers(bundle, factor)))
        done = subprocess.run(
            [tmp_path / "program", bundle, exchange], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return {f.stem: json.loads(f.read_text()) for f in exchange.glob("*.json")}

    found = run(1)
    outputs, limit = golden(bundle, "outputs")
    assert found["errors"] == dict.fromkeys(outputs, 0)
    inputs, _ = golden(bundle, "inputs")
    ports = json.loads((bundle / "features.json").read_text())["inputs"]
    given = {line["feature"]: line for line in found["given"]}
    assert len(given) == len(ports)
    for port in ports:
        line, array = given[port["feature"]], inputs[port["name"]]
        assert line["type"] == TYPES[port["dtype"]]
        assert line["shape"] == list(array.shape)
        np.testing.assert_array_equal(np.array(line["values"]), array.astype(float).reshape(-1))
    refused = found["refused"]
    assert set(refused) == {"name", "axes", "size", "input", "pairs"}
    assert 'missing("nobody")' in refused["name"]
    assert all("shape(" in refused[key] for key in ("axes", "size"))
    assert "missing(" in refused["input"]

    ((name, (error, said)),) = run(1 + 3 * limit)["off"].items()
    assert name in outputs
    assert said == limit
    assert error == pytest.approx(3 * limit, rel=1e-6)
