// Runs the classes of bundles as an app would: with Android's Context, assets and interpreter.
package lepton.harness

import java.io.File
import java.nio.ByteBuffer
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config

@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34], manifest = Config.NONE)
class Run {
    @Test
    fun everyBundle() {
        val context = RuntimeEnvironment.getApplication()
        @Suppress("DEPRECATION")
        check(context.assets.addAssetPath(System.getProperty("lepton.apk")) != 0)
        cases(context)
    }
}

/** Fill inputs from files, run twice, and write what came out; files are numbered in the maps' order. */
fun exchange(
    case: String,
    inputs: Map<String, ByteBuffer>,
    outputs: Map<String, ByteBuffer>,
    run: () -> Unit,
) {
    val folder = File(System.getProperty("lepton.exchange"), case)
    File(folder, "names.txt").writeText((inputs.keys + outputs.keys).joinToString("\u0000"))
    inputs.values.forEachIndexed { i, buffer ->
        val bytes = File(folder, "input-$i").readBytes()
        check(bytes.size == buffer.remaining()) { "$case: ${bytes.size} bytes, not ${buffer.remaining()}" }
        buffer.put(bytes)
    }
    for (round in 0..1) {
        run()
        outputs.values.forEachIndexed { i, buffer ->
            File(folder, "output-$i-$round").writeBytes(ByteArray(buffer.remaining()).also { buffer.get(it) })
        }
    }
}

fun note(case: String, text: String) =
    File(File(System.getProperty("lepton.exchange"), case), "grids.txt").writeText(text)
