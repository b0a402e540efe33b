// Made by lepton from the model's signature and from the inputs and outputs of @FILE@.
// Add the package to the app's target (Xcode compiles it to @STEM@.mlmodelc), or load it as it is.
// No compiler of Swift and no Apple device has seen this file when it was made.

import CoreML
import Foundation

/// @SIGNATURE@
@available(iOS @IOS@, macOS @MACOS@, *)
public final class @CLASS@ {
    /// An input or output.
    public struct Port: Sendable {
        /// Name in the model.
        public let name: String
        /// Name in the package.
        public let feature: String
        /// Type of its arrays.
        public let type: MLMultiArrayDataType
        /// Sizes that the package takes, by axis; empty where they follow from the inputs.
        public let sizes: [ClosedRange<Int>]
    }

    /// What goes wrong.
    public enum Failure: Error {
        case missing(String)
        case shape(String, have: [Int], takes: [ClosedRange<Int>])
        case unreadable(String)
        case off(String, error: Double, limit: Double)
    }

    public static let inputs: [Port] = [
@INPUTS@
    ]

    public static let outputs: [Port] = [
@OUTPUTS@
    ]

    /// Units that compute unless others are asked for: Core ML chooses among CPU, GPU and Neural
    /// Engine. `.cpuOnly` and `.cpuAndNeuralEngine` are the others that prove_on_mac.py tries.
    public static let computeUnits: MLComputeUnits = .all

    private let model: MLModel

    /// Load a package (.mlpackage, compiled here) or what Xcode compiled it to (.mlmodelc).
    public init(contentsOf url: URL, computeUnits: MLComputeUnits = @CLASS@.computeUnits) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = computeUnits
        let compiled = try url.pathExtension == "mlmodelc" ? url : MLModel.compileModel(at: url)
        model = try MLModel(contentsOf: compiled, configuration: configuration)
    }

    /// Return an array for an input, to be filled in row-major order.
    public static func array(for name: String, shape: [Int]) throws -> MLMultiArray {
        guard let port = inputs.first(where: { $0.name == name }) else {
            throw Failure.missing(name)
        }
        let fits = zip(shape, port.sizes).allSatisfy { $0.1.contains($0.0) }
        guard fits, shape.count == port.sizes.count else {
            throw Failure.shape(name, have: shape, takes: port.sizes)
        }
        return try MLMultiArray(shape: shape.map { NSNumber(value: $0) }, dataType: port.type)
    }

    /// Run once: arrays by the model's names of inputs in, by those of its outputs out.
    public func run(_ arrays: [String: MLMultiArray]) throws -> [String: MLMultiArray] {
        var given: [String: MLFeatureValue] = [:]
        for port in Self.inputs {
            guard let array = arrays[port.name] else { throw Failure.missing(port.name) }
            given[port.feature] = MLFeatureValue(multiArray: array)
        }
        let provider: MLFeatureProvider = try MLDictionaryFeatureProvider(dictionary: given)
        let made = try model.prediction(from: provider)
        var found: [String: MLMultiArray] = [:]
        for port in Self.outputs {
            guard let array = made.featureValue(for: port.feature)?.multiArrayValue else {
                throw Failure.missing(port.name)
            }
            found[port.name] = array
        }
        return found
    }

    /// Run the golden pairs of the bundle's folder; return each output's relative L2 error.
    ///
    /// Throws `Failure.off` if one exceeds the tolerance that golden/golden.json states.
    public func checkGolden(in bundle: URL) throws -> [String: Double] {
        let folder = bundle.appendingPathComponent("golden")
        let text = try Data(contentsOf: folder.appendingPathComponent("golden.json"))
        guard let index = try JSONSerialization.jsonObject(with: text) as? [String: Any],
            let given = index["inputs"] as? [String: String],
            let wanted = index["outputs"] as? [String: String],
            let limit = index["rel_l2"] as? Double
        else {
            throw Failure.unreadable("golden.json")
        }
        var arrays: [String: MLMultiArray] = [:]
        for (name, file) in given {
            let (shape, values) = try Self.npy(folder.appendingPathComponent(file))
            let array = try Self.array(for: name, shape: shape.isEmpty ? [1] : shape)
            for (place, value) in values.enumerated() {
                array[place] = NSNumber(value: value)
            }
            arrays[name] = array
        }
        let found = try run(arrays)
        var errors: [String: Double] = [:]
        for (name, file) in wanted {
            let (_, values) = try Self.npy(folder.appendingPathComponent(file))
            guard let array = found[name], array.count == values.count else {
                throw Failure.missing(name)
            }
            let error = Self.relativeError(array, values)
            guard error <= limit else {
                throw Failure.off(name, error: error, limit: limit)
            }
            errors[name] = error
        }
        return errors
    }

    private static func relativeError(_ array: MLMultiArray, _ wanted: [Double]) -> Double {
        var difference = 0.0
        var size = 0.0
        for (place, value) in wanted.enumerated() {
            let have = array[place].doubleValue
            size += value.isFinite ? value * value : 0
            if have == value || (have.isNaN && value.isNaN) { continue }
            difference += (have - value) * (have - value)
        }
        return size > 0 ? (difference / size).squareRoot() : difference.squareRoot()
    }

    /// Read NumPy's file of one array: its shape, and its values in row-major order.
    private static func npy(_ url: URL) throws -> ([Int], [Double]) {
        let broken = Failure.unreadable(url.lastPathComponent)
        let data = try [UInt8](Data(contentsOf: url))
        guard data.count >= 12, Array(data[0..<6]) == [0x93, 0x4E, 0x55, 0x4D, 0x50, 0x59] else {
            throw broken
        }
        let start = data[6] > 1 ? 12 : 10
        var length = Int(data[8]) | Int(data[9]) << 8
        if start == 12 { length |= Int(data[10]) << 16 | Int(data[11]) << 24 }
        let body = start + length
        guard data.count >= body,
            let header = String(bytes: data[start..<body], encoding: .utf8),
            header.contains("'fortran_order': False"),
            let kind = text(in: header, from: "'descr': '", to: "'"),
            let sizes = text(in: header, from: "'shape': (", to: ")")
        else {
            throw broken
        }
        let shape = sizes.split(separator: ",").compactMap {
            Int($0.trimmingCharacters(in: .whitespaces))
        }
        let count = shape.reduce(1, *)
        guard !kind.hasPrefix(">"), let width = Int(String(kind.suffix(1))),
            (1...8).contains(width), data.count == body + count * width
        else {
            throw broken
        }
        var values: [Double] = []
        values.reserveCapacity(count)
        for place in 0..<count {
            var bits: UInt64 = 0
            for byte in (0..<width).reversed() {
                bits = bits << 8 | UInt64(data[body + place * width + byte])
            }
            guard let value = number(bits, String(kind.suffix(2))) else { throw broken }
            values.append(value)
        }
        return (shape, values)
    }

    private static func text(in header: String, from: String, to: String) -> String? {
        guard let start = header.range(of: from) else { return nil }
        let rest = header[start.upperBound...]
        guard let end = rest.range(of: to) else { return nil }
        return String(rest[..<end.lowerBound])
    }

    private static func number(_ bits: UInt64, _ kind: String) -> Double? {
        switch kind {
        case "f8": return Double(bitPattern: bits)
        case "f4": return Double(Float(bitPattern: UInt32(truncatingIfNeeded: bits)))
        case "f2": return half(UInt16(truncatingIfNeeded: bits))
        case "i8": return Double(Int64(bitPattern: bits))
        case "i4": return Double(Int32(truncatingIfNeeded: bits))
        case "i2": return Double(Int16(truncatingIfNeeded: bits))
        case "i1": return Double(Int8(truncatingIfNeeded: bits))
        case "u8", "u4", "u2", "u1", "b1": return Double(bits)
        default: return nil
        }
    }

    /// float16 by its bits; Macs with Intel's processors have no such type.
    private static func half(_ bits: UInt16) -> Double {
        let sign = bits >> 15 == 0 ? 1.0 : -1.0
        let exponent = Int(bits >> 10) % 32
        let fraction = Double(bits % 1024)
        switch exponent {
        case 0: return sign * fraction * pow(2, -24)
        case 31: return fraction == 0 ? sign * Double.infinity : Double.nan
        default: return sign * (1 + fraction / 1024) * pow(2, Double(exponent - 15))
        }
    }
}
