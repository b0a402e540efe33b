"""What a bundle for LiteRT ships besides the model: a Kotlin class that an Android app calls.

The class follows from the signature alone. It reads and fills direct buffers, by the names that
the file's own signature holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lepton_core.embedded.snippets import class_name
from lepton_tflite._ports import turned_signature

if TYPE_CHECKING:
    from lepton_core.types import Model, TensorSpec

_BYTES = {"float32": 4, "int32": 4, "int64": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""Size of an element in the file; 64-bit integers have 32 bits there."""

_PAGE = """// Made by lepton from the model's signature.
// build.gradle: implementation("com.google.ai.edge.litert:litert:1.4.0"), and
// androidResources {{ noCompress += "tflite" }}; put {file} into src/main/assets.
package {package}

import android.content.Context
import org.tensorflow.lite.Interpreter
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/** {signature} */
class {name}(context: Context, threads: Int = 2) : AutoCloseable {{
    private val interpreter: Interpreter

    init {{
        val asset = context.assets.openFd("{file}")
        val model = FileInputStream(asset.fileDescriptor).use {{
            it.channel.map(FileChannel.MapMode.READ_ONLY, asset.startOffset, asset.declaredLength)
        }}
        interpreter = Interpreter(model, Interpreter.Options().setNumThreads(threads))
    }}

    /** Buffers of inputs by name, to be filled in row-major order. */
    val inputs: Map<String, ByteBuffer> = mapOf(
{inputs}
    )

    /** Buffers of outputs by name, filled by [run]. */
    val outputs: Map<String, ByteBuffer> = mapOf(
{outputs}
    )
{grids}
    /** Run on one row: what stands in [inputs]. */
    fun run() {{
        (inputs.values + outputs.values).forEach {{ it.rewind() }}
        interpreter.runSignature(inputs, outputs, "serving_default")
        outputs.values.forEach {{ it.rewind() }}
    }}

    override fun close() = interpreter.close()

    private fun buffer(bytes: Int): ByteBuffer =
        ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
}}
"""

_GRIDS = """
    /** What an integer of a buffer of int8 stands for: (integer - zeroPoint) * scale. */
    class Grid(val scale: Float, val zeroPoint: Int)

    /** Grids of the buffers of int8 whose values are floats of the model, by name. */
    val grids: Map<String, Grid> = mapOf(
{entries}
    )
"""


def files(model: Model, name: str) -> dict[str, str]:
    """Return what to write beside a model, by file name.

    Args:
        model: The .tflite file with its signature.
        name: Name of the deployment; the class is called after it.
    """
    if model.signature is None:
        return {}
    title = class_name(name)
    turned = model.metadata.get("nhwc_inputs", ())
    signature = turned_signature(model.signature, turned)
    page = _PAGE.format(
        package=f"lepton.{title.lower()}",
        name=title,
        file=model.path.replace("\\", "/").rpartition("/")[2],
        signature=str(signature).replace("*/", "* /"),
        inputs="\n".join(_entry(s, model) for s in signature.inputs),
        outputs="\n".join(_entry(s, model) for s in signature.outputs),
        grids=_grids(model),
    )
    layouts = {"layouts.json": json.dumps(dict.fromkeys(turned, "NHWC"))} if turned else {}
    return {f"{title}.kt": page, **layouts}


def _entry(spec: TensorSpec, model: Model) -> str:
    count = 1
    for dim in spec.shape:
        count *= dim if isinstance(dim, int) else 1
    kind = {"int64": "int32", "float16": "float32", "float64": "float32"}.get(
        spec.dtype, spec.dtype
    )
    if spec.name in model.metadata.get("integer_ports", ()):
        kind = "int8"
    size = count * _BYTES.get(kind, 4)
    note = f"{kind}, {spec}" + (", channels last" if spec.layout == "NHWC" else "")
    return f'        "{_quoted(spec.name)}" to buffer({size}),  // {note}'


def _grids(model: Model) -> str:
    found = model.metadata.get("port_grids", {})
    entries = (
        f'        "{_quoted(name)}" to Grid({own["scale"]:.9g}f, {own["zero_point"]}),'
        for name, own in found.items()
    )
    return _GRIDS.format(entries="\n".join(entries)) if found else ""


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")


__all__ = ["files"]
