// A stand-in for the part of Apple's module CoreML that the class of a bundle calls, so that a compiler
// elsewhere than on a Mac can check the class: names, labels, types, what throws and what is deprecated
// are those of Apple's documentation (October 2026). Arrays are real, of numbers in row-major order; a model
// gives what a program says.
import Foundation

public enum MLMultiArrayDataType: Int, @unchecked Sendable {
    case double = 65600
    case float32 = 65568
    case float16 = 65552
    case int32 = 131104
    case int8 = 131080
    public static let float64 = MLMultiArrayDataType.double
    public static let float = MLMultiArrayDataType.float32
}

public enum MLComputeUnits: Int, @unchecked Sendable {
    case cpuOnly = 0
    case cpuAndGPU = 1
    case all = 2
    case cpuAndNeuralEngine = 3
}

open class MLMultiArray: NSObject {
    public let shape: [NSNumber]
    public let dataType: MLMultiArrayDataType
    public let count: Int
    private var values: [NSNumber]

    public init(shape: [NSNumber], dataType: MLMultiArrayDataType) throws {
        self.shape = shape
        self.dataType = dataType
        count = shape.reduce(1) { $0 * $1.intValue }
        values = Array(repeating: NSNumber(value: 0), count: count)
    }

    public subscript(index: Int) -> NSNumber {
        get { values[index] }
        set { values[index] = newValue }
    }
}

open class MLFeatureValue: NSObject {
    public let multiArrayValue: MLMultiArray?
    public init(multiArray value: MLMultiArray) { multiArrayValue = value }
}

public protocol MLFeatureProvider {
    var featureNames: Set<String> { get }
    func featureValue(for featureName: String) -> MLFeatureValue?
}

open class MLDictionaryFeatureProvider: NSObject, MLFeatureProvider {
    public let dictionary: [String: MLFeatureValue]
    public init(dictionary: [String: Any]) throws {
        self.dictionary = dictionary.compactMapValues { $0 as? MLFeatureValue }
    }
    public var featureNames: Set<String> { Set(dictionary.keys) }
    public func featureValue(for featureName: String) -> MLFeatureValue? { dictionary[featureName] }
}

open class MLModelConfiguration: NSObject {
    open var computeUnits: MLComputeUnits = .all
}

open class MLModel: NSObject {
    /// What a call gives; Apple's has no such thing.
    nonisolated(unsafe) public static var answer: (MLFeatureProvider) throws -> MLFeatureProvider = { $0 }
    public let configuration: MLModelConfiguration
    public init(contentsOf url: URL, configuration: MLModelConfiguration) throws {
        self.configuration = configuration
    }
    @available(macOS, deprecated: 13.0)
    @available(iOS, deprecated: 16.0)
    open class func compileModel(at modelURL: URL) throws -> URL { modelURL }
    open class func compileModel(at modelURL: URL) async throws -> URL { modelURL }
    open func prediction(from input: MLFeatureProvider) throws -> MLFeatureProvider {
        try MLModel.answer(input)
    }
}
