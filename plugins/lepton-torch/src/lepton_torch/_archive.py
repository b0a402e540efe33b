"""Reads and writes ``.pt2`` archives without ever running what they say.

``torch.export.load`` (torch 2.13) trusts its file in several places: weights, constants and
example inputs may be pickles (loaded with ``weights_only=False``, for example inputs as a silent
fallback), operators are looked up by dotted name anywhere below ``torch`` (``torch.os.system``),
shape expressions go through ``sympy.sympify``, which evaluates Python, names end up in generated
code, and compiled libraries under ``data/aotinductor`` are loaded. So the records are read first,
through the same C++ reader that the loader uses, and everything outside a narrow form is refused.
Nothing is unpacked to disk.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from lepton_core.errors import SourceError
from lepton_torch._chatter import captured
from lepton_torch._disk import bytes_of, writing
from lepton_torch._program import (
    CONTRACT_FILE,
    Program,
    describe_program,
    program_from_contract,
)

_NAMESPACES = {"aten", "prims", "higher_order", "quantized_decomposed", "torchvision"}
_FORBIDDEN_OPERATORS = {"aten.from_file"}  # maps any file of this machine
_ARITHMETIC = {
    "abs", "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "index", "inv", "invert", "le",
    "lshift", "lt", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow", "rshift", "sub",
    "truediv", "truth", "xor",
}  # fmt: skip
_SYMPY_CALLS = {
    "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "Float",
    "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity",
    "IntTrueDiv", "Integer", "LShift", "Le", "LessThan", "Lt", "Max", "Min", "Mod",
    "ModularIndexing", "Mul", "Ne", "Not", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod",
    "RShift", "Rational", "RoundDecimal", "RoundToInt", "StrictGreaterThan", "StrictLessThan",
    "Symbol", "ToFloat", "TruncToFloat", "TruncToInt", "Unequality", "Where", "ceiling", "floor",
    "sqrt",
}  # fmt: skip
_EXPRESSION = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name,
    ast.Call, ast.keyword, ast.Tuple, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z|\Z")
_WORD = re.compile(r"(?!.*__)[\w.+-]+\Z")
_QUALIFIED = re.compile(r"[\w.\-/ :\[\]]*\Z")
_OPERATOR = re.compile(r"torch\.ops\.([A-Za-z]\w*)\.(\w+?)(?:\.([A-Za-z]\w*))?\Z")
_SYMBOLIC = re.compile(r"(torch\.sym_[a-z_]+|torch\._sym_[a-z_]+|math\.[a-z][a-z0-9_]*)\Z")
_MAX_DEPTH = 400


def load_program(path: str | Path) -> Program:
    """Read an exported program after checking that reading it runs nothing.

    Args:
        path: A ``.pt2`` file.

    Returns:
        The program with its contract: ours if the archive holds one, else read off the graph.

    Raises:
        SourceError: The file is missing, damaged, of an old format, or would run code.
    """
    path = Path(path)
    _check_container(path)
    try:
        with captured() as chatter:
            contract = _check_records(path)
            exported = torch.export.load(path)
    except SourceError:
        raise
    except Exception as error:
        reason = chatter.errors[0] if chatter.errors else error  # torch logs the first cause
        raise _damaged(path, f"{type(reason).__name__}: {str(reason)[:500]}") from error
    return program_from_contract(exported, contract) if contract else describe_program(exported)


def save_program(program: Program, path: Path) -> None:
    """Write a program with its contract; the same program gives the same bytes.

    The example inputs are replaced by zeros, so that no sample of the user's is kept.

    Args:
        program: What to write.
        path: A file called ``*.pt2``; its stem becomes the name of the archive's folder.

    Raises:
        StorageError: The disk is full or the place may not be written.
    """
    exported = program.exported
    if exported.example_inputs is not None:
        exported.example_inputs = torch.utils._pytree.tree_map_only(
            torch.Tensor, torch.zeros_like, exported.example_inputs
        )
    size = bytes_of([*exported.state_dict.values(), *exported.constants.values()])
    with writing(path, size), captured():
        torch.export.save(exported, path, extra_files={CONTRACT_FILE: program.contract()})


def _damaged(path: Path, cause: str) -> SourceError:
    return SourceError(
        "LPT-SRC-121",
        f"{path.name} is not a readable exported program",
        cause=cause,
        remedy="Write it again with torch.export.save.",
    )


def _refused(path: Path, cause: str) -> SourceError:
    return SourceError(
        "LPT-SRC-122",
        f"{path.name} was refused: reading it could run code",
        cause=cause,
        remedy="Export the model from its source with torch.export.save, or port the factory "
        "that makes it (FILE.py:FACTORY).",
    )


def _check_container(path: Path) -> None:
    """Check that the file is a whole zip archive of a sane size."""
    if not path.is_file():
        raise SourceError(
            "LPT-SRC-101", f"{path} does not exist", remedy="Give the path of an existing file."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            if any(".." in PurePosixPath(n).parts or n.startswith(("/", "\\")) for n in names):
                raise _refused(path, "a member's name leads out of the archive")
            if len(set(names)) != len(names):
                raise _refused(path, "two members have the same name")
            if sum(m.file_size for m in members) > 4 * path.stat().st_size + (1 << 20):
                raise _refused(path, "it unpacks to more than four times its size")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, str(error) or repr(error)) from error
    if damaged:
        raise _damaged(path, f"the checksum of {damaged} does not hold")


def _check_records(path: Path) -> str | None:
    """Check every record that the loader will act on; return the text of our contract."""
    reader = torch._C.PyTorchFileReader(str(path))
    records = set(reader.get_all_records())
    if "archive_format" not in records or reader.get_record("archive_format") != b"pt2":
        raise SourceError(
            "LPT-SRC-123",
            f"{path.name} is not in today's format of exported programs",
            cause="Files of torch 2.7 and older hold pickles, TorchScript files are no exports.",
            remedy="Write it again with torch.export.save of a newer torch.",
        )
    models = sorted(r for r in records if r.startswith("models/"))
    if "models/model.json" not in records:
        found = ", ".join(PurePosixPath(m).stem for m in models) or "none"
        raise _damaged(path, f"it holds no program called 'model' (found: {found})")
    compiled = [r for r in records if r.startswith("data/aotinductor/")]
    if compiled:
        raise _refused(path, f"it holds compiled code ({min(compiled)})")
    for record in models:
        _check_model(path, reader, records, PurePosixPath(record).stem)
    name = f"extra/{CONTRACT_FILE}"
    return reader.get_record(name).decode() if name in records else None


def _check_model(path: Path, reader: Any, records: set[str], name: str) -> None:  # noqa: ANN401
    for kind in ("weights", "constants"):
        if f"data/{kind}/{name}.pt" in records:
            raise _refused(path, f"its {kind} are a pickle (data/{kind}/{name}.pt)")
        config = json.loads(reader.get_record(f"data/{kind}/{name}_{kind}_config.json"))
        for key, payload in config["config"].items():
            if payload.get("use_pickle", True) or "obj" in payload["path_name"]:
                raise _refused(path, f"{key!r} is stored as a pickle")
            if not _QUALIFIED.match(key) or not _QUALIFIED.match(payload["path_name"]):
                raise _refused(path, f"{key!r} is not a plain name")
    sample = reader.get_record(f"data/sample_inputs/{name}.pt")
    if sample:
        try:
            torch.load(io.BytesIO(sample), weights_only=True)
        except Exception as error:
            raise _refused(path, "its example inputs hold more than tensors") from error
    try:
        _check_json(json.loads(reader.get_record(f"models/{name}.json")), "", 0)
    except _RefusalError as refusal:
        raise _refused(path, str(refusal)) from None


class _RefusalError(Exception):
    """A record is not of the narrow form; the message says which."""


def _check_json(value: object, key: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise _RefusalError("the graph is nested too deeply")
    if isinstance(value, list):
        for item in value:
            _check_json(item, key, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if key == "range_constraints":
                check_expression(name)
            if name != "metadata":  # plain strings, never looked at as code
                _check_json(item, name, depth + 1)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(value: str, key: str) -> None:
    if key in ("target", "as_operator"):
        check_operator(value)
    elif key == "expr_str":
        check_expression(value)
    elif key in ("in_spec", "out_spec"):
        _check_structure(value)
    elif key in ("name", "graph_name", "arg", "as_sym_int_name"):
        if not _NAME.match(value):
            raise _RefusalError(f"{value!r} is not a plain name")
    elif key.endswith("_name") and not _QUALIFIED.match(value):
        raise _RefusalError(f"{value!r} is not a plain name")


def check_operator(target: str) -> None:
    """Refuse a call target that is no tensor operator or arithmetic."""
    if target.startswith("_operator.") and target.removeprefix("_operator.") in _ARITHMETIC:
        return
    if _SYMBOLIC.match(target):
        return
    found = _OPERATOR.match(target)
    if found is None:
        raise _RefusalError(f"it calls {target!r}, which is no operator")
    namespace, name, _ = found.groups()
    if f"{namespace}.{name}" in _FORBIDDEN_OPERATORS:
        raise _RefusalError(f"it calls {target!r}, which reads files")
    if namespace not in _NAMESPACES and not _is_custom_operator(f"{namespace}::{name}"):
        raise _RefusalError(f"it calls {target!r}, which is not registered in this process")


def _is_custom_operator(qualified: str) -> bool:
    """Tell whether an operator was registered by code outside torch with torch.library."""
    from torch._library.custom_ops import OPDEFS

    definition = OPDEFS.get(qualified)
    module = getattr(getattr(definition, "_init_fn", None), "__module__", "torch")
    return not (module == "torch" or module.startswith("torch."))


def check_expression(text: str) -> None:
    """Refuse a shape expression that is more than arithmetic over symbols."""
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        raise _RefusalError(f"{text[:80]!r} is no shape expression") from None
    for node in ast.walk(tree):
        fine = isinstance(node, _EXPRESSION)
        if isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Name) and node.func.id in _SYMPY_CALLS
        elif isinstance(node, ast.keyword):
            fine = isinstance(node.value, ast.Constant)
        elif isinstance(node, ast.Constant):  # a text is the name in Symbol('s0') or a number
            fine = isinstance(node.value, (int, float)) or (
                isinstance(node.value, str) and bool(_WORD.match(node.value))
            )
        elif isinstance(node, ast.Name):
            fine = "__" not in node.id
        if not fine:
            raise _RefusalError(f"{text[:80]!r} is no shape expression")


def _check_structure(text: str) -> None:
    """Refuse a description of nested inputs that would import a module."""
    if not text:
        return
    if "__enum__" in text:
        raise _RefusalError("the structure of its inputs or outputs names an enum to import")
    for factory in re.findall(r'default_factory_module\\*"\s*:\s*\\*"([^"\\]*)', text):
        if factory != "builtins":
            raise _RefusalError(f"the structure of its inputs or outputs imports {factory!r}")
