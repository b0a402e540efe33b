"""A bundle for Core ML: what it ships, its program for a Mac, and the merge of what that writes.

There is neither a Mac nor Apple's runtime here. The program runs in a process of its own with a
*stand-in* for coremltools, whose ``MLModel`` computes with this plugin's reference interpreter, on
a machine that says it is a Mac. That tests the program's logic: digests, names and types, errors,
verdicts, the file. It does not show what Core ML makes of a package. Of the Swift text only names
and structure are checked; test_coreml_swift.py compiles and runs it.
"""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core import recipe as recipes
from lepton_core._device_proof import GRAPH_PROOF, seal_of
from lepton_core._passport_parts import compare
from lepton_core.cli import main
from lepton_core.context import Context
from lepton_core.errors import LeptonError
from lepton_core.files import digest_path
from lepton_core.passport import dump_passport, load_passport, make_passport
from lepton_core.recipe import Layer, PivotId, Recipe, Tensor
from lepton_core.report import render_passport
from lepton_core.report.thumbnails import picture_of, pictures_on
from lepton_core.samples import Samples
from lepton_core.types import ConvertRequest, OpenRequest
from lepton_coreml import bundle_files, bundle_prove, bundle_runtime, plugin
from lepton_coreml._mil._package import open_package
from lepton_onnx import pivot as pivots_of

STAND_IN = '''
"""A stand-in for coremltools: MLModel computes with lepton's reference interpreter."""

import enum
import os
import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lepton_coreml._interpreter import Interpreter
from lepton_coreml._mil._package import open_package

__version__ = "9.0 (stand-in)"
ComputeUnit = enum.Enum("ComputeUnit", "CPU_ONLY CPU_AND_NE CPU_AND_GPU ALL")
if os.environ.get("STAND_IN_MAC", "1") == "1":
    platform.system = lambda: "Darwin"
    platform.mac_ver = lambda: ("15.1", ("", "", ""), "arm64")


class MLModel:
    def __init__(self, path, compute_units):
        if compute_units.name == os.environ.get("STAND_IN_REFUSES"):
            raise RuntimeError("Error compiling model: the Neural Engine does not take it")
        program = open_package(Path(path)).program()
        self.interpreter = Interpreter(program)
        self.types = {f.name: f.dtype for f in program.inputs}
        self.off = float(os.environ.get("STAND_IN_OFF", 0)) * (compute_units.name == "ALL")

    def predict(self, arrays):
        kinds = {"fp32": np.float32, "fp16": np.float16, "int32": np.int32}
        for name, array in arrays.items():
            assert array.dtype == kinds[self.types[name]] and array.flags.c_contiguous, name
        made = self.interpreter.run(arrays)
        return {n: a + a.dtype.type(self.off) if a.dtype.kind == "f" else a
                for n, a in made.items()}


models = SimpleNamespace(MLModel=MLModel)
'''
TOOLS = {"sysctl": 'case "$2" in *brand*) echo "Apple M3 (stand-in)";; *) echo Mac15,3;; esac',
         "sw_vers": "echo 24B83"}  # fmt: skip


def int8_recipe(pivot):
    """The last product computes with integers."""
    from onnx import numpy_helper

    graph = pivots_of.load(pivot.path).graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}

    def scales(name, axis):
        found = np.abs(weights[name]).max(axis=1 - axis) / np.float32(127)
        return Tensor("weight", tuple(map(float, found)), axis=axis, estimator="absmax")

    tensors = {
        "r": Tensor("activation", 0.05, -128, observed=(0.0, 9.0)),
        "y": Tensor("activation", 0.1, 3, observed=(-9.0, 9.0)),
        "fc2.weight": scales("fc2.weight", 0),
    }
    layers = {"y": Layer("Gemm", "y", ("r",), "fc2.weight", "fc2.bias")}
    return Recipe(PivotId(pivot.digest, 21), "int8-static", tensors, layers)


def compressed(graphs, precision, folder):
    """Convert a pivot whose weights have forms; ``-fp16`` at the end for a float16 program."""
    own = runpy.run_path(str(Path(__file__).with_name("compressed.py")))
    precision, _, half = precision.partition("-fp")
    scheme, makers = own["SCHEMES"][precision]
    weights = {name: make() for name, make in makers.items()}
    pivot = graphs.to_pivot(own["graph_of"](graphs, weights), folder / "pivot")
    _, path = own["recipe_of"](pivot, weights, folder / "recipe.json", scheme)
    options = {"compute": "fp16"} if half else {}
    (folder / "made").mkdir()
    request = ConvertRequest("coreml", recipe=path, options=options)
    found = plugin.lepton_convert(pivot, request, Context(folder / "made"))
    x = np.random.default_rng(5).normal(size=(40, own["ROWS"])).astype("f4")
    return found, pivot, {"x": x}


@pytest.fixture(scope="module")
def ported(converted, graphs, pivots, reference, feeds, tmp_path_factory):
    """Packages with their passports, as a port leaves them; each is made once."""
    made = {}

    def call(name="perceptron", precision="fp32", device=None):
        key = (name, precision, device)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{precision}")
            if name == "compressed":
                found, pivot, feed = compressed(graphs, precision, folder)
                precision = found.model.metadata["precision"]
            else:
                pivot, feed, recipe = pivots(name), feeds(name, 40), None
                if precision == "int8":
                    recipe = str(recipes.write(int8_recipe(pivot), folder / "recipe.json"))
                found = converted(name, precision, device, recipe)
            place = folder / "model.mlpackage"
            shutil.copytree(found.model.path, place)
            model = found.model.evolve(path=str(place))
            session = plugin.lepton_open(model, OpenRequest("coreml"), Context(folder))
            passport = make_passport(
                source=pivot,
                variant=model,
                target="coreml",
                precision=precision,
                reference=reference(pivot, feed),
                actual=session.run(feed),
                held_out=Samples(feed, None, "npz", "x.npz"),
                session_facts=session.facts,
                warnings=found.warnings,
            )
            (folder / "passport.json").write_text(dump_passport(passport))
            made[key] = model
        return made[key]

    return call


@pytest.fixture(scope="module")
def shipped(ported, tmp_path_factory):
    """Bundles, deployed to one store; each is made once."""
    made = {}
    store = tmp_path_factory.mktemp("shipped") / "store"

    def call(name="perceptron", precision="fp32", device=None):
        key = (name, precision, device)
        if key not in made:
            out = store.parent / "-".join(filter(None, key))
            lepton_core.deploy(
                ported(name, precision, device),
                name=f"{name}-net",
                target=f"coreml:{device or 'ios18'}",
                kind="bundle",
                options={"store": str(store), "out": str(out)},
            )
            made[key] = out
        return made[key]

    call.store = store
    return call


@pytest.fixture
def bundle(shipped, tmp_path):
    """A bundle of one's own, as if copied to another machine."""

    def call(*wanted, **more):
        place = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        return Path(shutil.copytree(shipped(*wanted, **more), place))

    return call


@pytest.fixture(scope="module")
def mac(tmp_path_factory):
    """Run a bundle's program on what says it is a Mac."""
    folder = tmp_path_factory.mktemp("stand-in")
    (folder / "coremltools.py").write_text(STAND_IN)
    for name, line in TOOLS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)

    def call(place, *arguments, program="prove_on_mac.py", **environment):
        path = os.pathsep.join([str(folder), *(p for p in sys.path if p)])
        env = os.environ | {
            "PYTHONPATH": path,
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        return subprocess.run(
            [sys.executable, str(place / program), *map(str, arguments)],
            cwd=folder, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def written(shipped, mac, tmp_path_factory):
    """What the program writes on a perceptron's bundle."""
    place = tmp_path_factory.mktemp("written") / "bundle"
    done = mac(shutil.copytree(shipped(), place), "--runs", 2)
    assert done.returncode == 0, done.stderr
    return (place / "device-proof.json").read_text()


@pytest.fixture
def proof(written, tmp_path):
    """A proof of one's own to alter."""
    (tmp_path / "device-proof.json").write_text(written)
    return tmp_path / "device-proof.json"


@pytest.fixture
def variant(ported, tmp_path):
    """A port's folder of one's own."""
    return Path(shutil.copytree(Path(ported().path).parent, tmp_path / "fp32"))


@pytest.fixture
def merge(shipped, capsys):
    """Run ``lepton verify --merge``; returns exit code and the one JSON object."""

    def call(variant, file, *more):
        capsys.readouterr()
        given = ["verify", variant, "--merge", file, "--store", shipped.store, "--json", *more]
        code = main([str(part) for part in given])
        return code, json.loads(capsys.readouterr().out)

    return call


def altered(file, change):
    """Change a proof as someone would who knows how its seal is made."""
    data = json.loads(file.read_text())
    change(data)
    data["seal"] = seal_of(data)
    file.write_text(json.dumps(data))
    return file


# --- what it ships --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_is_whole_and_proves_itself(precision, shipped, bundle, mac, opened, ported):
    place = bundle(precision=precision)
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert {
        "PerceptronNet.swift", "SHA256SUMS", "features.json", "golden/golden.json", "lepton.json",
        "model/model.mlpackage/Manifest.json", "passport/passport.json", "preprocessing.json",
        "prove_on_mac.py", "run.py", "runtime.py", "signature.json",
    } <= names  # fmt: skip
    package = place / "model" / "model.mlpackage"
    assert digest_path(package) == ported(precision=precision).digest
    assert mac(place, program="run.py").stdout.startswith("ok: every file, golden pairs within")
    done = mac(place, "--runs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((place / "device-proof.json").read_text())
    assert found["artifact"]["digest"] == digest_path(package)
    assert found["golden"]["digest"] == digest_path(place / "golden")
    assert found["artifact"]["precision"] == precision
    assert found["device"] == {
        "platform": "macos", "os": "macOS 15.1", "build": "24B83", "chip": "Apple M3 (stand-in)",
        "model": "Mac15,3", "machine": os.uname().machine,
    }  # fmt: skip
    assert [run["units"] for run in found["runs"]] == ["CPU_ONLY", "CPU_AND_NE", "ALL"]
    for run in found["runs"]:
        assert run["verdict"] == "pass"
        assert run["outputs"]["y"]["rel_l2"] < 1e-6
        assert run["latency"]["batch"] == 2 and run["latency"]["p95_ms"] > 0
    limits = load_passport(place / "passport" / "passport.json")["limits"]["applied"]
    assert found["limits"] == {**limits, "from": "passport"}
    assert found["seal"] == seal_of(found)


COMPRESSED = [
    pytest.param("mixed-fp16", id="mixed-fp16"),  # every form in one package
    *(pytest.param(name, marks=pytest.mark.conformance, id=name)
      for name in ("palette4", "sparse", "int8-weight", "int4", "palette4-fp16")),
]  # fmt: skip


@pytest.mark.parametrize("precision", COMPRESSED)
def test_a_bundle_of_compressed_weights_is_whole_and_proves_itself(
    precision, shipped, bundle, mac, opened, ported
):
    model = ported("compressed", precision)
    place = bundle("compressed", precision)
    package = place / "model" / "model.mlpackage"
    assert digest_path(package) == model.digest
    session = opened(model.evolve(path=str(package)))
    kinds = {op.kind for op in open_package(package).program().block.operations}
    wanted = {"palette4": "constexpr_lut_to_dense", "sparse": "constexpr_sparse_to_dense",
              "int8-weight": "constexpr_blockwise_shift_scale",
              "int4": "constexpr_blockwise_shift_scale"}  # fmt: skip
    name, _, half = precision.partition("-fp")
    assert kinds >= ({wanted[name]} if name in wanted else set(wanted.values()))
    kind = session.facts["storage_precision"]
    assert kind == {"sparse": f"fp{half or 32}", "int8-weight": "int8", "mixed": kind}.get(
        name, name
    )
    assert mac(place, program="run.py").stdout.startswith("ok: every file, golden pairs within")
    done = mac(place, "--runs", 1, "--units", "CPU_ONLY,ALL")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((place / "device-proof.json").read_text())
    full = {"mixed": "mixed-sparse"}.get(name, name)
    assert found["artifact"]["precision"] == full == model.metadata["precision"]
    assert [run["verdict"] for run in found["runs"]] == ["pass", "pass"]
    assert all(one["rel_l2"] < 1e-6 for run in found["runs"] for one in run["outputs"].values())
    text = swift_of(place)
    assert "public final class CompressedNet {" in text and balanced(text)
    assert "@available(iOS 18, macOS 15, *)" in text
    assert 'Port(name: "x", feature: "x", type: .float32, sizes: [1...64, 96...96]),' in text


def test_integers_and_odd_names_pass(bundle, mac):
    """int64 and bool inputs are int32 in the package; ``in.image`` is ``in_image``."""
    for name in ("tokens", "network"):
        place = bundle(name)
        done = mac(place, "--units", "CPU_ONLY", "--runs", 1)
        assert done.returncode == 0, done.stdout + done.stderr
    ports = json.loads((bundle("tokens") / "features.json").read_text())
    assert [port["dtype"] for port in ports["inputs"]] == ["int32", "int32"]
    assert ports["inputs"][0]["shape"] == [[1, 64], 6]
    found = json.loads((place / "features.json").read_text())["inputs"]
    assert (found[0]["name"], found[0]["feature"]) == ("in.image", "in_image")


def test_the_program_takes_its_options(bundle, mac, tmp_path):
    place = bundle()
    done = mac(place, "--units", "ALL", "--runs", 1, "--out", tmp_path / "p.json")
    assert done.returncode == 0, done.stderr
    assert [run["units"] for run in json.loads((tmp_path / "p.json").read_text())["runs"]] == [
        "ALL"
    ]
    assert not (place / "device-proof.json").exists()
    for wrong in (("--units", "GPU"), ("--units", ","), ("--runs", "0")):
        assert mac(place, *wrong).returncode == 2


def test_a_changed_bundle_is_not_tried(bundle, mac):
    place = bundle()
    for name in (".DS_Store", "golden/._golden.json"):
        (place / name).write_text("the Finder's")
    assert mac(place, "--runs", 1, "--units", "ALL").returncode == 0
    (place / "device-proof.json").unlink()
    extra = place / "model" / "model.mlpackage" / "Data" / "more.bin"
    extra.write_text("x")
    said = mac(place).stderr
    assert "more.bin does not belong to the bundle" in said
    extra.unlink()
    path = place / "golden" / "output-000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    done = mac(place)
    assert done.returncode == 2
    assert "golden/output-000.npy is missing or is not the file" in done.stderr
    assert not (place / "device-proof.json").exists()


def test_a_refusing_unit_is_a_failure_of_that_unit_alone(bundle, mac):
    place = bundle()
    done = mac(place, "--runs", 1, STAND_IN_REFUSES="CPU_AND_NE")
    assert done.returncode == 1
    assert "the Neural Engine does not take it" in done.stdout
    runs = json.loads((place / "device-proof.json").read_text())["runs"]
    assert [run["verdict"] for run in runs] == ["pass", "fail", "pass"]
    assert runs[1]["latency"] is None


def test_the_program_is_one_for_older_pythons():
    for module in (bundle_prove, bundle_runtime):
        ast.parse(Path(module.__file__).read_text(), feature_version=(3, 10))


PAIRS = {
    "near": ([1.0, -2.0, 3.0], [1.0, -2.0, 3.001]),
    "equal": ([0.5, 1.5], [0.5, 1.5]),
    "zeros": ([0.0, 0.0], [0.0, 0.0]),
    "one is zero": ([0.0, 0.0], [0.0, 1.0]),
    "both not finite": ([np.nan, np.inf, 2.0], [np.nan, np.inf, 2.5]),
    "one not finite": ([1.0, 2.0], [1.0, np.nan]),
    "other sign": ([np.inf, 2.0], [-np.inf, 2.0]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_errors_are_those_of_a_passport(name):
    left, right = (np.array([values], np.float32) for values in PAIRS[name])
    found, wanted = bundle_prove.errors_of(left, right), compare(left, right)
    for key in ("max_abs", "mean_abs", "rel_l2", "cosine"):
        assert found[key] == pytest.approx(wanted[key], rel=1e-9, nan_ok=True), key
    assert found["nonfinite_mismatched"] == wanted["nonfinite_mismatched"]
    assert found["exact"] is wanted["exact"]


def test_integers_are_equal_or_not():
    left, right = np.array([[1, 2], [3, 2**62]]), np.array([[1, 2], [3, 2**62 + 1]])
    found = bundle_prove.errors_of(left, right)
    assert (found["exact"], found["mismatched_rows"], found["rows"]) == (True, 1, 2)
    assert "shape" in bundle_prove.errors_of(left, right[:1])["problem"]


# --- the Swift text -------------------------------------------------------------------------------


def swift_of(folder):
    (path,) = folder.glob("*.swift")
    return path.read_text()


def bare(text):
    """Return Swift without comments and without what stands in literals."""
    return re.sub(r'"(?:\\.|[^"\\\n])*"|//[^\n]*', lambda m: '""' if m[0][0] == '"' else "", text)


def balanced(text):
    pairs, opened = {")": "(", "]": "[", "}": "{"}, []
    for sign in bare(text):
        if sign in pairs.values():
            opened.append(sign)
        elif sign in pairs and (not opened or opened.pop() != pairs[sign]):
            return False
    return not opened


def test_the_class_names_what_the_package_names(shipped):
    text = swift_of(shipped("network"))
    assert "public final class NetworkNet {" in text
    assert 'Port(name: "in.image", feature: "in_image", type: .float32, sizes: [1...64, ' in text
    assert 'Port(name: "share", feature: "share", type: .float32' in text
    assert "computeUnits: MLComputeUnits = .all" in text
    assert balanced(text)
    assert not re.search(r"@[A-Z]+@", text)
    integers = swift_of(shipped("tokens"))
    assert 'Port(name: "ids", feature: "ids", type: .int32, sizes: [1...64, 6...6]),' in integers


@pytest.mark.parametrize(
    ("device", "systems"), [("ios17", "iOS 17, macOS 14"), ("ios18", "iOS 18, macOS 15")]
)
def test_the_class_says_which_systems_the_package_needs(device, systems, ported):
    made = bundle_files.files(ported("perceptron", "fp32", device), "x")
    assert f"@available({systems}, *)" in made["X.swift"]
    assert json.loads(made["features.json"])["needs"]["ios"] == int(device[-2:])


def test_a_package_for_a_newer_system_is_not_deployed_to_an_older(ported, tmp_path):
    out, store = tmp_path / "bundle", tmp_path / "store"
    given = ["deploy", Path(ported().path).parent, "--to", "coreml:ios17", "--name", "old",
             "--kind", "bundle", "--out", out, "--store", store]  # fmt: skip
    with pytest.raises(LeptonError) as caught:
        lepton_core.deploy(
            ported(), name="old", target="coreml:ios17", kind="bundle",
            options={"store": str(store), "out": str(out)},
        )  # fmt: skip
    error = caught.value
    assert error.code == "LPT-RUN-513"
    assert error.message == "model.mlpackage needs iOS 18 and macOS 15, and ios17 does not read it"
    assert "--to coreml:ios17" in error.remedy
    assert main([str(part) for part in given]) == 1
    assert not out.exists() and not store.exists()


def test_who_reads_a_package(ported, opened):
    for device in ("ios18", "reference", None):
        opened(ported(), device=device)
    for device in ("ios17", "ios18", None):
        opened(ported("perceptron", "fp32", "ios17"), device=device)


def test_names_are_quoted_as_swift_wants(ported):
    model = ported()
    hostile = 'a"b\\(c)\n@INPUTS@*/'
    spec = replace(model.signature.inputs[0], name=hostile)
    model = model.evolve(signature=replace(model.signature, inputs=(spec,)))
    made = bundle_files.files(model, "data")
    text = made["ModelData.swift"]
    assert 'Port(name: "a\\"b\\\\(c)\\u{a}@INPUTS@*/", feature: "x"' in text
    assert text.count("Port(name:") == 2
    assert balanced(text)
    assert text.count("\n") == swift_lines(ported())
    assert json.loads(made["features.json"])["inputs"][0]["name"] == hostile


def swift_lines(model):
    return bundle_files.files(model, "data")["ModelData.swift"].count("\n")


def test_what_is_shipped_runs_on_python_3_9(shipped):
    """Xcode brings it; `strict` of zip and unions of types are of 3.10."""
    for name in ("run.py", "runtime.py", "prove_on_mac.py"):
        tree = ast.parse(
            (shipped("perceptron") / name).read_text(encoding="utf-8"), feature_version=(3, 9)
        )
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            assert not any(keyword.arg == "strict" for keyword in call.keywords), call.lineno
            assert not any(isinstance(given, ast.BinOp) and isinstance(given.op, ast.BitOr)
                           for given in call.args), call.lineno  # fmt: skip


# --- merging --------------------------------------------------------------------------------------


def test_a_good_proof_makes_it_a_device_proof(variant, proof, merge):
    before = (variant / "passport.json").read_bytes()
    assert GRAPH_PROOF in before.decode()
    code, said = merge(variant, proof)
    assert (code, said["ok"], said["verdict"]) == (0, True, "pass")
    words = "device proof on Apple M3 (stand-in), macOS 15.1 (CPU_ONLY, CPU_AND_NE, ALL)"
    assert said["proof"] == words
    passport = load_passport(variant / "passport.json")
    assert passport["variant"]["session"]["proof"] == words
    assert "raph proof" not in json.dumps(passport)
    (device,) = passport["devices"]
    assert device["why"] == "within the numeric limits on 2 rows of noise"
    assert device["runs"][0]["outputs"]["y"]["rel_l2"] < 1e-6
    assert device["runtime"]["coremltools"] == "9.0 (stand-in)"
    old = json.loads(before)
    assert passport["verdict"] == old["verdict"] and passport["outputs"] == old["outputs"]
    once = (variant / "passport.json").read_bytes()
    assert merge(variant, proof)[0] == 0
    assert (variant / "passport.json").read_bytes() == once, "twice the same"
    assert [p.name for p in variant.iterdir() if p.name.startswith(".")] == []


def test_a_page_is_drawn_again_with_its_pictures(variant, proof, merge):
    passport = load_passport(variant / "passport.json")
    row = 7
    passport["worst"] = [{"row": row, "error": 0.5, "changed": None, "loss": 0.0}]
    (variant / "passport.json").write_text(dump_passport(passport))
    picture = picture_of(np.arange(64, dtype=np.float32).reshape(8, 8))
    page = variant / "passport.html"
    page.write_text(render_passport(passport, pictures={row: picture}), encoding="utf-8")
    assert merge(variant, proof)[0] == 0
    drawn = page.read_text(encoding="utf-8")
    assert "device proof on Apple M3" in drawn
    assert pictures_on(drawn) == {row: picture}


def test_a_bundle_knows_its_own_pairs(bundle, proof, merge, tmp_path):
    place = bundle()
    code, said = merge(place, proof, "--out", tmp_path / "new.json")
    assert code == 0, said
    assert load_passport(tmp_path / "new.json")["devices"]
    assert not load_passport(place / "passport" / "passport.json").get("devices")
    code, said = merge(place, proof)
    assert (code, said["error"]["code"]) == (2, "LPT-CLI-009")


def test_a_bundle_is_verified_and_opened_like_a_variant(bundle, feeds, tmp_path, capsys):
    place = bundle()
    np.savez(tmp_path / "x.npz", **feeds("perceptron"))
    assert main(["verify", str(place)]) == 0
    assert str(place / "model" / "model.mlpackage") in capsys.readouterr().out
    assert main(["open", str(place), "--data", str(tmp_path / "x.npz")]) == 0
    weights = place / "model" / "model.mlpackage" / "Data" / "com.apple.CoreML" / "weights"
    (weights / "weight.bin").write_bytes(b"other")
    assert main(["verify", str(place)]) == 1
    assert "LPT-CLI-003" in capsys.readouterr().err


def test_a_device_that_is_too_far_off_fails(variant, bundle, mac, merge):
    place = bundle()
    done = mac(place, "--runs", 1, STAND_IN_OFF="0.01")
    assert done.returncode == 1
    proof = place / "device-proof.json"
    lying = altered(proof, lambda data: data["runs"][2].update(verdict="pass", why=""))
    code, said = merge(variant, lying)
    assert (code, said["ok"], said["verdict"]) == (1, False, "fail")
    assert said["why"].startswith("ALL: output 'y': relative L2 error")
    assert said["proof"].endswith("(CPU_ONLY, CPU_AND_NE); fails on Apple M3 (stand-in), "
                                  "macOS 15.1 (ALL)")  # fmt: skip


def test_the_limits_are_those_of_the_passport(variant, proof, merge):
    def worse(data):
        data["limits"]["rel_l2"] = 1.0
        for run in data["runs"]:
            run["outputs"]["y"] |= {"exact": True, "rel_l2": 2e-4}

    assert merge(variant, altered(proof, worse))[0] == 1
    passport = load_passport(variant / "passport.json")
    assert passport["variant"]["session"]["proof"].startswith(GRAPH_PROOF)
    passport["limits"]["applied"]["rel_l2"] = 1e-3
    (variant / "passport.json").write_text(dump_passport(passport))
    assert merge(variant, proof)[0] == 0


def truncate(file):
    file.write_text(file.read_text()[:-200])


def edit(file):
    file.write_text(file.read_text().replace('"macOS 15.1"', '"macOS 26.0"'))


REFUSED = {
    "truncated": (truncate, "LPT-PASS-003"),
    "empty": (lambda f: f.write_text(""), "LPT-PASS-003"),
    "missing": (Path.unlink, "LPT-CLI-011"),
    "no proof": (lambda f: f.write_text("[]"), "LPT-PASS-003"),
    "edited": (edit, "LPT-PASS-003"),
    "other outputs": (
        lambda f: altered(f, lambda d: d["runs"][0].update(outputs={})),
        "LPT-PASS-003",
    ),
    "no runs": (lambda f: altered(f, lambda d: d.update(runs=[])), "LPT-PASS-003"),
    "no digest": (lambda f: altered(f, lambda d: d.update(artifact={})), "LPT-PASS-003"),
    "negative": (
        lambda f: altered(f, lambda d: d["runs"][0]["outputs"]["y"].update(rel_l2=-1.0)),
        "LPT-PASS-003",
    ),
    "later": (lambda f: altered(f, lambda d: d.update(schema=2)), "LPT-PASS-004"),
    "other pairs": (
        lambda f: altered(f, lambda d: d["golden"].update(digest="sha256:0")),
        "LPT-PASS-006",
    ),
    "unknown version": (
        lambda f: altered(f, lambda d: d["bundle"].update(version="v0123456789abcdef")),
        "LPT-PASS-007",
    ),
    "no Mac": (
        lambda f: altered(f, lambda d: d["device"].update(platform="linux", os="Linux 6")),
        "LPT-PASS-008",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_belong_is_refused(name, variant, proof, merge):
    change, code = REFUSED[name]
    change(proof)
    before = {path.name: path.read_bytes() for path in variant.iterdir() if path.is_file()}
    ended, said = merge(variant, proof)
    status = 2 if code == "LPT-CLI-011" else 1  # the command line is wrong, not the proof
    assert (ended, said["error"]["code"]) == (status, code), said
    assert said["error"]["remedy"] and said["error"]["cause" if name != "later" else "remedy"]
    after = {path.name: path.read_bytes() for path in variant.iterdir() if path.is_file()}
    assert after == before


def test_a_proof_of_another_artifact_is_refused(ported, bundle, mac, variant, merge):
    place = bundle(precision="fp16")
    assert mac(place, "--runs", 1, "--units", "ALL").returncode == 0
    code, said = merge(variant, place / "device-proof.json")
    assert (code, said["error"]["code"]) == (1, "LPT-PASS-005")


def test_pairs_of_another_deployment_of_the_artifact_are_other_pairs(
    ported, shipped, mac, proof, tmp_path, feeds, merge, variant
):
    np.savez(tmp_path / "real.npz", **feeds("perceptron", 5))
    lepton_core.deploy(
        ported(), name="real", target="coreml", kind="bundle",
        options={"store": str(shipped.store), "out": str(tmp_path / "real"),
                 "samples": str(tmp_path / "real.npz"), "golden_rows": 5},
    )  # fmt: skip
    assert mac(tmp_path / "real", "--runs", 1, "--units", "CPU_ONLY").returncode == 0
    other = tmp_path / "real" / "device-proof.json"
    named = json.loads(proof.read_text())["bundle"]
    code, said = merge(variant, other)
    assert code == 0 and said["why"] == "within the numeric limits on 5 rows"
    code, said = merge(variant, altered(other, lambda data: data.update(bundle=named)))
    assert (code, said["error"]["code"]) == (1, "LPT-PASS-006")


def test_a_machine_that_is_no_mac_proves_nothing(bundle, mac, merge, variant):
    place = bundle()
    assert mac(place, "--runs", 1, "--units", "ALL", STAND_IN_MAC="0").returncode == 0
    code, said = merge(variant, place / "device-proof.json")
    assert (code, said["error"]["code"]) == (1, "LPT-PASS-008")


def test_merging_runs_nothing(variant, proof, merge):
    code, said = merge(variant, proof, "--data", "x.npz")
    assert (code, said["error"]["code"]) == (2, "LPT-CLI-010")
