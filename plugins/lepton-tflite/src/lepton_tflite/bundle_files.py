"""What a bundle for LiteRT ships besides the model: a Kotlin class that an Android app calls.

The class follows from the signature alone. It reads and fills direct buffers, by the names that
the file's own signature holds.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from lepton_core.embedded.snippets import class_name
from lepton_tflite._ports import file_dtype, turned_signature

if TYPE_CHECKING:
    from lepton_core.types import Model, TensorSpec

_BYTES = {"float32": 4, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1}
"""Size of an element in the file."""

_LITERT = "1.4.2"
"""The newest release of LiteRT for Android whose API has ``Interpreter.runSignature``: by Google's
reference, 2.x has the part of the interpreter's API alone that calls by number."""

_TAKEN = frozenset(
    {
        "AutoCloseable", "Buffer", "ByteBuffer", "ByteOrder", "Collection", "Context",
        "FileChannel", "FileInputStream", "Float", "Grid", "Int", "Interpreter", "Map", "String",
        "Unit",
    }
)  # fmt: skip
"""Names that the class itself uses."""

_KEYWORDS = frozenset(
    {
        "abstract", "as", "assert", "boolean", "break", "byte", "case", "catch", "char", "class",
        "const", "continue", "default", "do", "double", "else", "enum", "extends", "false", "final",
        "finally", "float", "for", "fun", "goto", "if", "implements", "import", "in", "instanceof",
        "int", "interface", "is", "long", "native", "new", "null", "object", "package", "private",
        "protected", "public", "return", "short", "static", "strictfp", "super", "switch",
        "synchronized", "this", "throw", "throws", "transient", "true", "try", "typealias",
        "typeof", "val", "var", "void", "volatile", "when", "while",
    }
)  # fmt: skip
"""What neither Kotlin nor Java takes as a part of a package's name."""

_PAGE = """// Made by lepton from the model's signature.
// build.gradle.kts: implementation("com.google.ai.edge.litert:litert:{litert}"), and in its android
// block androidResources {{ noCompress += "tflite" }}. Put {file} into src/main/assets.
package {package}

import android.content.Context
import org.tensorflow.lite.Interpreter
import java.io.FileInputStream
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel

/**
 * {signature}
 *
 * [asset] is what the file is called in the app's assets. Calls of one object have to take turns.
 */
class {name}(context: Context, threads: Int = 2, asset: String = {asset}) : AutoCloseable {{
    private val interpreter: Interpreter

    init {{
        val model = context.assets.openFd(asset).use {{ opened ->
            FileInputStream(opened.fileDescriptor).use {{
                val start = opened.startOffset
                it.channel.map(FileChannel.MapMode.READ_ONLY, start, opened.declaredLength)
            }}
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
        rewind(inputs.values)
        rewind(outputs.values)
        interpreter.runSignature(inputs, outputs, "serving_default")
        rewind(outputs.values)
    }}

    override fun close() = interpreter.close()

    private fun buffer(bytes: Int): ByteBuffer =
        ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

    private fun rewind(buffers: Collection<Buffer>) = buffers.forEach {{ it.rewind() }}
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
    title = class_name(name, _TAKEN)
    package = title.lower()
    file = model.path.replace("\\", "/").rpartition("/")[2]
    turned = model.metadata.get("nhwc_inputs", ())
    signature = turned_signature(model.signature, turned)
    page = _PAGE.format(
        litert=_LITERT,
        package=f"lepton.{package}{'_' * (package in _KEYWORDS)}",
        name=title,
        file=_comment(file),
        asset=_quoted(file),
        signature=_comment(str(signature)),
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
    whole = spec.name in model.metadata.get("integer_ports", ())
    kind = "int8" if whole else file_dtype(spec.dtype)
    size = count * _BYTES.get(kind, 4)
    note = f"{kind}, {spec}" + (", channels last" if spec.layout == "NHWC" else "")
    return f"        {_quoted(spec.name)} to buffer({size}),  // {_comment(note)}"


def _grids(model: Model) -> str:
    found = model.metadata.get("port_grids", {})
    entries = (
        f"        {_quoted(name)} to Grid({own['scale']:.9g}f, {own['zero_point']}),"
        for name, own in found.items()
    )
    return _GRIDS.format(entries="\n".join(entries)) if found else ""


def _quoted(text: str) -> str:
    """Return Kotlin's literal of a text."""
    kept = "".join(f"\\{c}" if c in '\\"$' else c for c in text)
    return '"' + "".join(c if c.isprintable() else _escaped(c) for c in kept) + '"'


def _escaped(character: str) -> str:
    """Return a character as units of UTF-16, which is what Kotlin escapes."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _comment(text: str) -> str:
    """Return a text on one line, without what opens or closes a comment: Kotlin's nest."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown.replace("*/", "* /").replace("/*", "/ *")


__all__ = ["files"]
