"""The class of a bundle for Android, compiled by Kotlin's compiler and run as an app runs it.

Maven fetches the compiler, the interpreter's API with its native library for Android, and Android
itself with Robolectric, which runs it on a JVM: about 250 MB on the first run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lepton_core
from lepton_core.types import InspectRequest, Model, Signature, TensorSpec
from lepton_tflite import plugin
from lepton_tflite.bundle_files import _TAKEN, files

HERE = Path(__file__).with_name("android")
GUIDE = Path(__file__).parents[3] / "docs/how-to/ship-to-android.md"

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("tflite"),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (shutil.which("java") and shutil.which("mvn")),
        reason="needs java (17 or newer) and mvn on the PATH",
    ),
]

NAMES = [
    "class", "val", "3d", "a b", 'say "x"', "$price ${it}", "größe/µ", "数", "😀", "back\\slash",
    "line\nbreak", "tab\t", "/* open", "close */", "//", "it", "inputs", "`tick`", "'", "%s {x}",
]  # fmt: skip
"""Names of inputs and outputs that mean something to Kotlin, its comments or its literals."""
CALLED = [name for name in NAMES if name not in ("😀", "it")]
"""Those that a call finds: JNI has another UTF-8 beyond U+FFFF than the file."""


def call(*command, **more):
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, **more
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def jars(tmp_path_factory):
    """Everything that the compiler and the run need: a class path, the library, Android."""
    place = tmp_path_factory.mktemp("jars")
    call("mvn", "-q", "-B", "-f", HERE / "pom.xml", "dependency:build-classpath",
         f"-Dmdep.outputFile={place}/path.txt")  # fmt: skip
    found = {"path": []}
    for path in map(Path, (place / "path.txt").read_text().strip().split(os.pathsep)):
        if path.suffix == ".aar":
            with zipfile.ZipFile(path) as archive:
                jar = archive.extract("classes.jar", place / path.stem)
                if path.stem.startswith("tensorflow-lite-2"):
                    found["library"] = archive.extract("jni/x86_64/libtensorflowlite_jni.so", place)
        elif path.stem.startswith("android-all"):
            jar = found["android"] = str(path)
        else:
            jar = str(path)
        found["path"] += [jar]
    return found


def path_of(jars, *more):
    return os.pathsep.join([*jars["path"], *map(str, more)])


def compile_all(jars, sources, out):
    """Compile with warnings as errors, and with the compiler's extra checks."""
    paths = []
    for name, text in sources.items():
        paths.append(out.parent / "sources" / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_text(text, encoding="utf-8")
    call(
        "java", "-XX:TieredStopAtLevel=1", "-cp", path_of(jars),
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror", "-Wextra", "-no-stdlib",
        "-no-reflect", "-jvm-target", "17", "-cp", path_of(jars), "-d", out, *paths,
    )  # fmt: skip


def odd_classes():
    """Classes of models with such names, and of deployments with such names."""
    kinds = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")
    specs = [TensorSpec(n, kinds[i % len(kinds)], ("b", 2)) for i, n in enumerate(NAMES)]
    scales = (1.0, 1e-05, 0.1, 3e8, 1e-38)
    grids = {n: {"scale": s, "zero_point": 9} for n, s in zip(NAMES, scales, strict=False)}
    metadata = {"integer_ports": [NAMES[0]], "port_grids": grids}
    titles = [*sorted(_TAKEN - {"Interpreter"}), "class", "in", "object", "typealias", "package",
              "null", "3 nets", "???", "Any", "List"]  # fmt: skip
    sources = {}
    for title in titles:  # all names in the first, and in the others what their own name may upset
        ports = tuple(specs[: 2 if sources else None])
        signature = Signature(ports, ports[::-1])
        model = Model("tflite", f"/x/{title}$.tflite", signature=signature, metadata=metadata)
        sources |= files(model, title)
    return {f"odd/{name}": text for name, text in sources.items()}


def recipe_of(pivot, weights, folder):
    """Write a recipe for a convolution, its activation, a pool and a product."""
    rules = {"dtype": "int8", "estimator": "minmax", "rounding": "half-even"}

    def weight(array):
        top = np.abs(array).reshape(len(array), -1).max(axis=1)
        scale = [float(s) for s in (top / 127).astype("f4")]
        return {"kind": "weight", "scale": scale, "zero_point": 0, "axis": 0, **rules}

    def activation(scale, zero):
        return {"kind": "activation", "scale": scale, "zero_point": zero, **rules}

    data = {
        "schema": 1, "rules": 1, "written_by": "test", "scheme": "int8-static",
        "pivot": {"digest": pivot.digest, "opset": 21}, "requires": {}, "calibration": None,
        "sidecar": None, "notes": [], "kept_float": {},
        "tensors": {
            "image": activation(0.03, 3), "w": weight(weights["w"]), "r": activation(0.06, -128),
            "f": activation(0.06, -128) | {"same_as": "r"}, "d": weight(weights["d"]),
            "scores": activation(0.05, -7),
        },
        "layers": {
            "c": {"op": "Conv", "inputs": ["image"], "output": "r", "weight": "w", "fused": ["r"],
                  "mode": "static"},
            "f": {"op": "Flatten", "inputs": ["r"], "output": "f", "mode": "static"},
            "scores": {"op": "Gemm", "inputs": ["f"], "output": "scores", "weight": "d",
                       "mode": "static"},
        },
    }  # fmt: skip
    path = folder / "recipe.json"
    path.write_text(json.dumps(data))
    return str(path)


@pytest.fixture(scope="module")
def models(single, pivot, convert, graphs, to_pivot, handmade, tmp_path_factory):
    """Real files: several inputs, fp16, channels last, an int8 border, and names as above."""
    place = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "d": rng.normal(size=(5, 4 * 36)) / 12}
    weights = {name: array.astype("f4") for name, array in weights.items()}
    source = to_pivot(
        graphs.model(
            [graphs.node("Conv", ["image", "w"], ["c"]), graphs.node("Relu", ["c"], ["r"]),
             graphs.node("Flatten", ["r"], ["f"]),
             graphs.node("Gemm", ["f", "d"], ["scores"], transB=1)],
            [graphs.value("image", ["batch", 3, 8, 8])], [graphs.value("scores", ["batch", 5])],
            [graphs.weight(name, array) for name, array in weights.items()],
        )
    )  # fmt: skip
    recipe = recipe_of(source, weights, place)
    (place / "named.tflite").write_bytes(
        handmade.file_of(
            dict.fromkeys(CALLED, ("float32", (1, 3), None, None)),
            [("TANH", [CALLED[i]], [CALLED[i + 1]]) for i in range(0, len(CALLED), 2)],
            CALLED[::2], CALLED[1::2], version=1,
        )
    )  # fmt: skip
    named = plugin.lepton_inspect(Model("tflite", str(place / "named.tflite")), InspectRequest(),
                                  lepton_core.context.Context(place)).model  # fmt: skip
    return {
        "small-net": single.model,
        "half": convert(pivot, precision="fp16").model,
        "last": convert(pivot, options={"layout": "nhwc"}).model,
        "digits": convert(source, recipe=recipe, options={"io": "int8"}).model,
        "fun": convert(source, recipe=recipe, options={"layout": "nhwc", "batch": 1}).model,
        "interpreter": named,
    }


@pytest.fixture(scope="module")
def bundles(models, tmp_path_factory):
    """Deploy each; returns the folders."""
    place = tmp_path_factory.mktemp("bundles")
    for name, model in models.items():
        options = {"store": str(place / "store"), "out": str(place / name), "golden_rows": 1}
        lepton_core.deploy(
            model, name=name, target="tflite:android-arm64", kind="bundle", options=options
        )
    return {name: place / name for name in models}


def golden(bundle, ports):
    """Return the golden arrays of inputs or outputs, in the order of the signature."""
    index = json.loads((bundle / "golden/golden.json").read_text())
    files = index["inputs"] | index["outputs"]
    return {spec.name: np.load(bundle / "golden" / files[spec.name]) for spec in ports}


def class_of(bundle):
    (path,) = bundle.glob("*.kt")
    text = path.read_text(encoding="utf-8")
    return text, re.search(r"^package (.*)$", text, re.M)[1], path.stem


def guide_snippet():
    """The call that the guide shows, which is to compile as it stands."""
    (snippet,) = re.findall(r"```kotlin\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    return (
        "package guide\nimport android.content.Context\nimport lepton.digits.Digits\n"
        f"fun shown(context: Context, pixels: FloatArray): Int {{\n{snippet}return digit\n}}\n"
    )


def calls(bundles):
    """Write the function that makes each class and runs it on its input."""
    lines = ["package lepton.harness", "fun cases(context: android.content.Context) {"]
    for name, bundle in bundles.items():
        text, package, title = class_of(bundle)
        lines.append(f'{package}.{title}(context, 2, "{name}.tflite").use {{')
        if "val grids" in text:
            shown = "${g.key}=${g.value.scale}=${g.value.zeroPoint}"
            lines.append(
                f'note("{name}", it.grids.entries.joinToString("\\n") {{ g -> "{shown}" }})'
            )
        lines.append(f'exchange("{name}", it.inputs, it.outputs) {{ it.run() }} }}')
    return "\n".join([*lines, "}\n"])


def into_file(model, name, array):
    """Return an input as the file takes it, by the record of its conversion."""
    if name in model.metadata.get("nhwc_inputs", ()):
        array = array.transpose(0, 2, 3, 1)
    if name in model.metadata.get("integer_ports", ()):
        grid = model.metadata["port_grids"][name]
        whole = np.rint(array / np.float32(grid["scale"])) + grid["zero_point"]
        return np.clip(whole, -128, 127).astype(np.int8)
    return array.astype(np.int32) if array.dtype == np.int64 else array


@pytest.fixture(scope="module")
def compiled(jars, bundles, tmp_path_factory):
    """Compile all classes, and what calls them."""
    place = tmp_path_factory.mktemp("compiled")
    sources = {f"{name}.kt": class_of(bundle)[0] for name, bundle in bundles.items()}
    harness = {"Run.kt": (HERE / "Run.kt").read_text(), "Cases.kt": calls(bundles)}
    guide = {"Guide.kt": guide_snippet()}
    compile_all(jars, sources | odd_classes() | harness | guide, place / "classes")
    return place / "classes"


@pytest.fixture(scope="module")
def ran(jars, compiled, bundles, models, tmp_path_factory):
    """Run the classes of the bundles under Android's own code."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64") or not shutil.which("cc"):
        pytest.skip("needs Linux on x86_64 and a C compiler: Android's library is loaded there")
    place = tmp_path_factory.mktemp("run")
    with zipfile.ZipFile(place / "app.apk", "w", zipfile.ZIP_STORED) as apk:
        for name, bundle in bundles.items():
            apk.write(bundle / "model" / Path(models[name].path).name, f"assets/{name}.tflite")
    for name, bundle in bundles.items():
        folder = place / "exchange" / name
        folder.mkdir(parents=True)
        for i, (port, array) in enumerate(golden(bundle, models[name].signature.inputs).items()):
            wanted = np.ascontiguousarray(into_file(models[name], port, array))
            (folder / f"input-{i}").write_bytes(wanted.tobytes())

    native = place / "native"
    native.mkdir()
    shutil.copy(jars["library"], native)
    flags = ("-shared", "-fPIC", "-O1", "-fno-builtin", "-Wall", "-Werror", "-Wl,-Bsymbolic")
    call("cc", *flags, "-Wl,-soname,libc.so", "-o", native / "libc.so", HERE / "bionic.c")
    (place / "empty.c").write_text("")
    for name in ("libm.so", "libdl.so", "liblog.so"):  # what they would hold is in libc.so
        call("cc", "-shared", f"-Wl,-soname,{name}", "-o", native / name, place / "empty.c")
    (place / "android").mkdir()
    (place / "android" / Path(jars["android"]).name).symlink_to(jars["android"])
    log = call(
        "java", "--add-opens=java.base/java.io=ALL-UNNAMED",  # Android closes files by their number
        f"-Djava.library.path={native}", "-Drobolectric.offline=true",
        f"-Drobolectric.dependency.dir={place}/android",
        "-Drobolectric.usePreinstrumentedJars=false", f"-Dlepton.apk={place}/app.apk",
        f"-Dlepton.exchange={place}/exchange", "-cp", path_of(jars, compiled),
        "org.junit.runner.JUnitCore", "lepton.harness.Run",
        env=os.environ | {"LD_LIBRARY_PATH": str(native)},
    )  # fmt: skip
    return place / "exchange", log


def test_every_name_and_type_compiles(compiled):
    made = {str(path.relative_to(compiled)) for path in compiled.rglob("*.class")}
    assert len({m for m in made if m.startswith("lepton/") and "$" not in m}) > 30
    for name in (
        "fun_/Fun",
        "class_/Class",
        "modelinterpreter/ModelInterpreter",
        "digits/Digits$Grid",
    ):
        assert f"lepton/{name}.class" in made


CASES = ("small-net", "half", "last", "digits", "fun", "interpreter")


@pytest.mark.parametrize("name", CASES)
def test_android_gives_the_golden_outputs(ran, bundles, models, name):
    folder, bundle, model = ran[0] / name, bundles[name], models[name]
    outputs = golden(bundle, model.signature.outputs)
    names = [spec.name for spec in model.signature.inputs]
    assert (folder / "names.txt").read_text().split("\0") == [*names, *outputs]
    grids = model.metadata.get("port_grids", {})
    for i, (port, wanted) in enumerate(outputs.items()):
        kind = "i1" if port in model.metadata.get("integer_ports", ()) else (
            wanted.dtype.str.replace("i8", "i4"))  # fmt: skip
        for turn in (0, 1):
            found = np.frombuffer((folder / f"output-{i}-{turn}").read_bytes(), kind)
            found = found.reshape(wanted.shape)
            if kind == "i1":
                grid = grids[port]
                unit = np.float32(grid["scale"])
                found = (found.astype("f4") - grid["zero_point"]) * unit
                assert np.abs(found - wanted).max() < 1.001 * unit
            elif wanted.dtype.kind == "f":
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(found, wanted)
        assert len(np.unique(wanted)) > 1 or wanted.size < 3  # not one number everywhere


def test_the_class_has_the_grids_of_the_file(ran, models):
    lines = (ran[0] / "digits" / "grids.txt").read_text().split("\n")
    found = {name: (float(s), int(z)) for name, s, z in (line.split("=") for line in lines)}
    grids = models["digits"].metadata["port_grids"]
    assert set(found) == set(grids) == {"image", "scores"}
    for name, grid in grids.items():
        assert found[name] == (pytest.approx(grid["scale"], rel=1e-7), grid["zero_point"])


def test_nothing_stays_open(ran):
    """Android's own guard reports a file that was never closed."""
    assert "OK (1 test)" in ran[1]
    assert "was acquired" not in ran[1]
