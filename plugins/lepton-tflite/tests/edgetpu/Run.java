import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import org.tensorflow.lite.Interpreter;

/** Runs each file on FILE.in, and writes FILE.out: one input and one output, as bytes. */
public class Run {
    static ByteBuffer direct(byte[] bytes) {
        ByteBuffer made = ByteBuffer.allocateDirect(bytes.length).order(ByteOrder.nativeOrder());
        made.put(bytes).rewind();
        return made;
    }

    public static void main(String[] files) throws Exception {
        for (String file : files) {
            ByteBuffer model = direct(Files.readAllBytes(Path.of(file)));
            try (Interpreter interpreter = new Interpreter(model)) {
                byte[] found = new byte[interpreter.getOutputTensor(0).numBytes()];
                ByteBuffer output = direct(found);
                interpreter.run(direct(Files.readAllBytes(Path.of(file + ".in"))), output);
                output.rewind();
                output.get(found);
                Files.write(Path.of(file + ".out"), found);
            }
        }
    }
}
