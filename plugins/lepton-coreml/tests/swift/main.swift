// Calls the class of a bundle as an app would; its model gives the arrays that lie in a folder.
import CoreML
import Foundation

let (bundle, exchange) = (URL(fileURLWithPath: CommandLine.arguments[1]), URL(fileURLWithPath: CommandLine.arguments[2]))

struct Line: Codable {
    let feature: String
    let type: Int
    let shape: [Int]
    let values: [Double]
}

func lines(_ file: String) throws -> [Line] {
    try JSONDecoder().decode([Line].self, from: Data(contentsOf: exchange.appendingPathComponent(file)))
}

func write(_ object: some Encodable, _ file: String) throws {
    let coder = JSONEncoder()
    coder.nonConformingFloatEncodingStrategy =
        .convertToString(positiveInfinity: "inf", negativeInfinity: "-inf", nan: "nan")
    try coder.encode(object).write(to: exchange.appendingPathComponent(file))
}

MLModel.answer = { given in
    let seen = given.featureNames.sorted().map { name in
        let array = given.featureValue(for: name)!.multiArrayValue!
        return Line(
            feature: name, type: array.dataType.rawValue, shape: array.shape.map(\.intValue),
            values: (0..<array.count).map { array[$0].doubleValue })
    }
    try write(seen, "given.json")
    var made: [String: MLFeatureValue] = [:]
    for line in try lines("answers.json") {
        let array = try MLMultiArray(
            shape: line.shape.map { NSNumber(value: $0) },
            dataType: MLMultiArrayDataType(rawValue: line.type)!)
        for (place, value) in line.values.enumerated() { array[place] = NSNumber(value: value) }
        made[line.feature] = MLFeatureValue(multiArray: array)
    }
    return try MLDictionaryFeatureProvider(dictionary: made)
}

let model = try Named(contentsOf: bundle.appendingPathComponent("model.mlmodelc"), computeUnits: .cpuOnly)
do {
    try write(model.checkGolden(in: bundle), "errors.json")
} catch Named.Failure.off(let name, let error, let limit) {
    try write([name: [error, limit]], "off.json")
}

var refused: [String: String] = [:]
func expect(_ what: String, _ call: () throws -> Void) {
    do { try call() } catch let failure as Named.Failure { refused[what] = "\(failure)" } catch {
        refused[what] = "another error: \(error)"
    }
}
let first = Named.inputs[0]
expect("name") { _ = try Named.array(for: "nobody", shape: [1]) }
expect("axes") { _ = try Named.array(for: first.name, shape: []) }
expect("size") { _ = try Named.array(for: first.name, shape: first.sizes.map { $0.upperBound + 1 }) }
expect("input") { _ = try model.run([:]) }
expect("pairs") { _ = try model.checkGolden(in: exchange) }
try write(refused, "refused.json")
