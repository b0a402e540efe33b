"""``.pt2`` files: foreign ones, damaged ones, and ones that would run code."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lepton_core.errors import SourceError
from lepton_core.types import Model


class Trap:
    """Unpickling it leaves a mark."""

    def __reduce__(self):
        return (exec, ("import torch; torch.lepton_trap_sprung = True",))


@pytest.fixture(autouse=True)
def trap_stays_shut():
    yield
    assert not hasattr(torch, "lepton_trap_sprung")


@pytest.fixture
def good(digits_program) -> Path:
    return Path(digits_program.model.path)


def rewrite(good: Path, out: Path, change: dict) -> Model:
    """Copy an archive with members replaced (bytes), edited (a function) or added."""
    change = dict(change)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.namelist():
            data = old.read(member)
            name = member.split("/", 1)[1]
            if name in change:
                edit = change.pop(name)
                data = edit(data) if callable(edit) else edit
            new.writestr(member, data)
        for name, data in change.items():
            new.writestr(f"model/{name}", data)
    return Model("torch.export", str(out))


def edit_graph(function):
    def edit(data: bytes) -> bytes:
        graph = json.loads(data)
        function(graph)
        return json.dumps(graph).encode()

    return edit


def refuse(hooks, model, code="LPT-SRC-122"):
    with pytest.raises(SourceError) as caught:
        hooks.open(model)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return caught.value


def saved(module, example, path, **options):
    torch.export.save(torch.export.export(module, example, **options), path)
    return Model("torch.export", str(path))


@pytest.mark.filterwarnings("ignore")
def test_program_of_another_hand(hooks, tmp_path):
    class Pair(torch.nn.Module):
        def forward(self, left, right, *, flag=None):
            return {"sum": left + right, "parts": (left * 2, [right])}

    batch = torch.export.Dim("n", max=50)
    model = saved(
        Pair(),
        (torch.rand(2, 3), torch.rand(2, 3)),
        tmp_path / "pair.pt2",
        dynamic_shapes=({0: batch}, {0: batch}, None)[:2],
    )
    found = hooks.inspect(model)
    assert str(found.model.signature) == (
        "(left: float32[batch, 3], right: float32[batch, 3]) -> (sum: float32[batch, 3], "
        "parts_0: float32[batch, 3], parts_1_0: float32[batch, 3])"
    )
    with hooks.open(model) as session:
        out = session.run(dict.fromkeys(["left", "right"], np.ones((4, 3), "float32")))
    assert out["sum"][0, 0] == 2


@pytest.mark.filterwarnings("ignore")
def test_program_with_nested_and_constant_inputs(hooks, tmp_path):
    class Nested(torch.nn.Module):
        def forward(self, batch, scale, flag):
            return batch["a"] * scale + batch["b"][0]

    inputs = ({"a": torch.ones(2), "b": [torch.ones(2)]}, 3, None)
    model = saved(Nested(), inputs, tmp_path / "nested.pt2")
    with hooks.open(model) as session:
        names = [s.name for s in session.signature.inputs]
        arrays = [np.float32([1, 2]), np.float32([10, 20])]
        assert session.run(dict(zip(names, arrays, strict=True)))["output"].tolist() == [13, 26]


def test_missing_file(hooks):
    refuse(hooks, Model("torch.export", "nowhere.pt2"), "LPT-SRC-101")


@pytest.mark.parametrize("keep", [0, 10, 1000, -30])
def test_truncated(hooks, good, tmp_path, keep):
    path = tmp_path / "cut.pt2"
    path.write_bytes(good.read_bytes()[:keep])
    refuse(hooks, Model("torch.export", str(path)), "LPT-SRC-121")


def test_flipped_weight(hooks, good, tmp_path):
    data = bytearray(good.read_bytes())
    data[data.index(b"data/weights/weight_0") + 100] ^= 0xFF
    path = tmp_path / "flipped.pt2"
    path.write_bytes(bytes(data))
    assert "checksum" in refuse(hooks, Model("torch.export", str(path)), "LPT-SRC-121").cause


def test_not_a_program(hooks, tmp_path):
    for name, data in (("text.pt2", b"hello"), ("model.pt2", pickle.dumps(Trap()))):
        (tmp_path / name).write_bytes(data)
        refuse(hooks, Model("torch.export", str(tmp_path / name)), "LPT-SRC-121")


def test_torch_save_checkpoint_is_not_unpickled(hooks, tmp_path):
    torch.save({"weights": Trap()}, tmp_path / "checkpoint.pt2")
    refuse(hooks, Model("torch.export", str(tmp_path / "checkpoint.pt2")), "LPT-SRC-123")


def test_unchanged_copy_opens(hooks, good, tmp_path):
    with hooks.open(rewrite(good, tmp_path / "copy.pt2", {})) as session:
        assert session.run({"image": np.zeros((2, 1, 8, 8), "float32")})["logits"].shape == (2, 10)


def test_pickled_example_inputs(hooks, good, tmp_path):
    buffer = io.BytesIO()
    torch.save(((Trap(),), {}), buffer)
    change = {"data/sample_inputs/model.pt": buffer.getvalue()}
    assert "example inputs" in refuse(hooks, rewrite(good, tmp_path / "a.pt2", change)).cause


@pytest.mark.parametrize("kind", ["weights", "constants"])
def test_pickled_weights_and_constants(hooks, good, tmp_path, kind):
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)

    def edit(data):
        config = json.loads(data)
        config["config"]["evil"] = {
            "path_name": "tensor_9" if kind == "constants" else "weight_9",
            "is_param": False,
            "use_pickle": True,
            "tensor_meta": None,
        }
        return json.dumps(config).encode()

    change = {
        f"data/{kind}/model_{kind}_config.json": edit,
        f"data/{kind}/tensor_9": buffer.getvalue(),
        f"data/{kind}/weight_9": buffer.getvalue(),
    }
    assert "pickle" in refuse(hooks, rewrite(good, tmp_path / "a.pt2", change)).cause
    change = {f"data/{kind}/model.pt": buffer.getvalue()}
    assert "pickle" in refuse(hooks, rewrite(good, tmp_path / "b.pt2", change)).cause


def test_pickled_object_constants(hooks, good, tmp_path):
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False}
    config = json.dumps({"config": {"evil": {**entry, "tensor_meta": None}}}).encode()
    change = {
        "data/constants/model_constants_config.json": config,
        "data/constants/opaque_obj_0": pickle.dumps(Trap()),
    }
    refuse(hooks, rewrite(good, tmp_path / "a.pt2", change))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.unknown_library.thing.default",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "#extension:thing",
        "builtins.eval",
    ],
)
def test_call_targets_that_are_no_operators(hooks, good, tmp_path, target):
    def edit(graph):
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    model = rewrite(good, tmp_path / "a.pt2", {"models/model.json": edit_graph(edit)})
    assert target in refuse(hooks, model).cause


@pytest.mark.parametrize(
    "text",
    [
        "setattr(__import__('torch'), 'lepton_trap_sprung', True)",
        "().__class__",
        "Symbol('s0', positive=print())",
        "Symbol('__import__')",
        "[x for x in (1,)]",
        "1 +",
    ],
)
def test_shape_expressions_that_are_no_arithmetic(hooks, good, tmp_path, text):
    def edit(graph):
        tensors = graph["graph_module"]["graph"]["tensor_values"]
        tensors["image"]["sizes"][0]["as_expr"]["expr_str"] = text

    model = rewrite(good, tmp_path / "a.pt2", {"models/model.json": edit_graph(edit)})
    assert "shape expression" in refuse(hooks, model).cause


def test_names_that_would_become_code(hooks, good, tmp_path):
    def edit(graph):
        graph["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = "x=print('hi')"

    model = rewrite(good, tmp_path / "a.pt2", {"models/model.json": edit_graph(edit)})
    assert "plain name" in refuse(hooks, model).cause


@pytest.mark.parametrize("text", ['{"__enum__": true, "fqn": "os:path"}', "defaultdict"])
def test_structures_that_would_import(hooks, good, tmp_path, text):
    if text == "defaultdict":
        text = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x"})
    spec = json.dumps([1, {"type": "builtins.dict", "context": text, "children_spec": []}])

    def edit(graph):
        graph["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec

    model = rewrite(good, tmp_path / "a.pt2", {"models/model.json": edit_graph(edit)})
    assert "import" in refuse(hooks, model).cause


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("data/aotinductor/model/a.so", "compiled code"),
        ("../../escape", "leads out"),
    ],
)
def test_members_that_do_not_belong(hooks, good, tmp_path, name, says):
    assert says in refuse(hooks, rewrite(good, tmp_path / "a.pt2", {name: b"x"})).cause


def test_bomb(hooks, tmp_path):
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/archive_format", b"pt2")
        archive.writestr("model/data/weights/weight_0", bytes(20_000_000))
    assert "unpacks" in refuse(hooks, Model("torch.export", str(path))).cause


def test_contract_of_another_program(hooks, good, tmp_path):
    text = (b"\0", b"{}", b'{"inputs": [], "outputs": [], "bounds": {}, "notes": {}}')
    for index, data in enumerate(text):
        model = rewrite(good, tmp_path / f"{index}.pt2", {"extra/lepton.json": data})
        refuse(hooks, model, "LPT-SRC-125")
