"""The protobuf messages of an ML Program, built from a table.

Field numbers are those of ``Model.proto``, ``FeatureTypes.proto`` and ``MIL.proto`` in
https://github.com/apple/coremltools/tree/main/mlmodel/format; only what a program needs stands
here. Fields that the table leaves out survive a rewrite as unknown fields. The classes live in a
pool of their own, so that they do not meet those of coremltools in the same process.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "lepton.coreml"

_TABLE = """
Model: specificationVersion=1:int32 description=2:ModelDescription mlProgram=502:Program
ModelDescription: input=1:*Feature output=10:*Feature state=13:*Feature metadata=100:Metadata
 functions=20:*FunctionDescription defaultFunctionName=21:string
FunctionDescription: name=1:string input=2:*Feature output=3:*Feature
Metadata: shortDescription=1:string versionString=2:string author=3:string license=4:string
 userDefined=100:%string
Feature: name=1:string shortDescription=2:string type=3:FeatureType
FeatureType: multiArrayType=5:ArrayType isOptional=1000:bool
ArrayType: shape=1:*int64 dataType=2:int32 enumeratedShapes=21:EnumeratedShapes
 shapeRange=31:ShapeRange
EnumeratedShapes: shapes=1:*Shape
Shape: shape=1:*int64
ShapeRange: sizeRanges=1:*SizeRange
SizeRange: lowerBound=1:uint64 upperBound=2:int64
Program: version=1:int64 functions=2:%Function docString=3:string attributes=4:%Value
Function: inputs=1:*NamedValueType opset=2:string blocks=3:%Block attributes=4:%Value
Block: inputs=1:*NamedValueType outputs=2:*string operations=3:*Operation attributes=4:%Value
Operation: type=1:string inputs=2:%Argument outputs=3:*NamedValueType blocks=4:*Block
 attributes=5:%Value
Argument: arguments=1:*Binding
Binding: name=1:string value=2:Value
NamedValueType: name=1:string type=2:ValueType
ValueType: tensorType=1:TensorType listType=2:ListType tupleType=3:TupleType
 dictionaryType=4:DictionaryType stateType=5:StateType
TensorType: dataType=1:int32 rank=2:int64 dimensions=3:*Dimension
ListType: type=1:ValueType length=2:Dimension
TupleType: types=1:*ValueType
DictionaryType: keyType=1:ValueType valueType=2:ValueType
StateType: wrappedType=1:ValueType
Dimension: constant=1:ConstantDimension unknown=2:UnknownDimension
ConstantDimension: size=1:uint64
UnknownDimension: variadic=1:bool
Value: docString=1:string type=2:ValueType immediateValue=3:ImmediateValue
 blobFileValue=5:BlobFileValue
ImmediateValue: tensor=1:TensorValue tuple=2:TupleValue list=3:TupleValue dictionary=4:Dictionary
BlobFileValue: fileName=1:string offset=2:uint64
TensorValue: floats=1:Floats ints=2:Ints bools=3:Bools strings=4:Strings longInts=5:LongInts
 doubles=6:Doubles bytes=7:Bytes
Floats: values=1:*float
Doubles: values=1:*double
Ints: values=1:*int32
LongInts: values=1:*int64
Bools: values=1:*bool
Strings: values=1:*string
Bytes: values=1:bytes
TupleValue: values=1:*Value
Dictionary: values=1:*Pair
Pair: key=1:Value value=2:Value
"""
"""A message a line; ``*`` is repeated, ``%`` a map from strings."""

_KINDS = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9,
    "bytes": 12,
}  # fmt: skip
_MESSAGE, _OPTIONAL, _REPEATED = 11, 1, 3
_UNIONS = {
    "Binding": ("name", "value"),
    "FeatureType": ("multiArrayType",),
    "ArrayType": ("enumeratedShapes", "shapeRange"),
    "ValueType": ("tensorType", "listType", "tupleType", "dictionaryType", "stateType"),
    "Dimension": ("constant", "unknown"),
    "Value": ("immediateValue", "blobFileValue"),
    "ImmediateValue": ("tensor", "tuple", "list", "dictionary"),
    "TensorValue": ("floats", "ints", "bools", "strings", "longInts", "doubles", "bytes"),
}
"""Fields of which one at most is set."""


@functools.cache
def messages() -> Any:  # noqa: ANN401 - classes made at run time
    """Return the class of every message by name (``messages()["Model"]``)."""
    file = descriptor_pb2.FileDescriptorProto(
        name="lepton/coreml.proto", package=_PACKAGE, syntax="proto3"
    )
    for line in _TABLE.strip().replace("\n ", " ").splitlines():
        name, _, fields = line.partition(":")
        _add_message(file.message_type.add(name=name), fields.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    find = pool.FindMessageTypeByName
    return {n: message_factory.GetMessageClass(find(f"{_PACKAGE}.{n}")) for n in names}


def _add_message(message: Any, fields: list[str]) -> None:  # noqa: ANN401 - protobuf
    union = _UNIONS.get(message.name, ())
    if union:
        message.oneof_decl.add(name="kind")
    for text in fields:
        name, _, rest = text.partition("=")
        number, _, kind = rest.partition(":")
        mark = kind[0] if kind[0] in "*%" else ""
        kind = kind.removeprefix(mark)
        field = message.field.add(name=name, number=int(number))
        field.label = _REPEATED if mark else _OPTIONAL
        if mark == "%":
            entry = message.nested_type.add(name=name[0].upper() + name[1:] + "Entry")
            entry.options.map_entry = True
            _add_message(entry, ["key=1:string", f"value=2:{kind}"])
            _set_kind(field, f"{message.name}.{entry.name}")
        else:
            _set_kind(field, kind)
        if name in union:
            field.oneof_index = 0


def _set_kind(field: Any, kind: str) -> None:  # noqa: ANN401 - protobuf
    if kind in _KINDS:
        field.type = _KINDS[kind]
    else:
        field.type = _MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


__all__ = ["messages"]
