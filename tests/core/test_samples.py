"""Samples: reading, matching, splitting, feeding; every bad input has its code."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_core.errors import SampleError
from lepton_core.samples import (
    Samples,
    batches,
    collect_outputs,
    from_arrays,
    is_constant,
    load_samples,
    load_saved,
    match,
    random_samples,
    save,
    split,
    split_rows,
)
from lepton_core.samples._files import read_npz
from lepton_core.types import Signature, TensorSpec


def signature(*inputs):
    return Signature(tuple(inputs), (TensorSpec("y", "float32", ("batch", 10)),))


IMAGE = signature(TensorSpec("image", "float32", ("batch", 1, 8, 8)))


def images(n=12, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 1, 8, 8)).astype(dtype)


def fails(code, call, *args, **kwargs):
    with pytest.raises(SampleError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    assert caught.value.remedy
    return caught.value


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("save_npz", [np.savez, np.savez_compressed])
def test_npz_gives_inputs_and_labels(tmp_path, save_npz):
    x = images()
    save_npz(tmp_path / "s.npz", image=x, labels=np.arange(12))
    samples = load_samples("s.npz", cwd=tmp_path)
    assert samples.origin == "npz"
    assert len(samples) == 12
    np.testing.assert_array_equal(samples.inputs["image"], x)
    np.testing.assert_array_equal(samples.labels, np.arange(12))


def test_stored_npz_is_memory_mapped_compressed_is_not(tmp_path):
    np.savez(tmp_path / "a.npz", image=images(), order=np.asfortranarray(np.arange(12.0)[:, None]))
    np.savez_compressed(tmp_path / "b.npz", image=images())
    stored = load_samples(tmp_path / "a.npz")
    assert isinstance(stored.inputs["image"], np.memmap)
    np.testing.assert_array_equal(stored.inputs["image"], images())
    np.testing.assert_array_equal(stored.inputs["order"][:, 0], np.arange(12.0))
    assert not isinstance(load_samples(tmp_path / "b.npz").inputs["image"], np.memmap)


def test_fortran_order_survives(tmp_path):
    x = np.asfortranarray(np.arange(24.0).reshape(4, 6))
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "b.npz", x=x)
    for name in ("a.npz", "b.npz"):
        np.testing.assert_array_equal(load_samples(tmp_path / name).inputs["x"], x)


def test_folder_is_memory_mapped(tmp_path):
    np.save(tmp_path / "image.npy", images())
    np.save(tmp_path / "labels.npy", np.zeros(12, int))
    samples = load_samples(tmp_path)
    assert samples.origin == "folder"
    assert isinstance(samples.inputs["image"], np.memmap)
    assert list(samples.inputs) == ["image"]
    assert len(samples.labels) == 12


CALLABLES = """
import numpy as np
import neighbour
x = np.arange(6.0).reshape(3, 2)
def mapping(): return {"x": x}
def pair(): return {"x": x.tolist()}, [0, 1, 2]
def inside(): return {"x": x, "labels": [0, 1, 2]}
def generator():
    for row in x: yield {"x": row}
def labelled(): return [({"x": row}, i) for i, row in enumerate(x)]
def boom():
    raise ValueError("no data today")
def leaves(): raise SystemExit(3)
def nothing(): return None
def text(): return "x"
def objects(): return {"x": [object()]}
def triple(): return 1, 2, 3
def uneven():
    yield {"x": [1.0]}
    yield {"x": [1.0, 2.0]}
def other_keys():
    yield {"x": 1.0}
    yield {"y": 1.0}
def not_rows(): return [1, 2]
def none_at_all(): return []
value = 3
"""


@pytest.fixture
def script(tmp_path):
    (tmp_path / "data.py").write_text(CALLABLES)
    (tmp_path / "neighbour.py").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["mapping", "pair", "inside", "generator", "labelled"])
def test_callables(script, name):
    samples = load_samples(f"data.py:{name}", cwd=script)
    assert samples.origin == "callable"
    np.testing.assert_array_equal(samples.inputs["x"], np.arange(6.0).reshape(3, 2))
    if name in ("pair", "inside", "labelled"):
        np.testing.assert_array_equal(samples.labels, [0, 1, 2])
    else:
        assert samples.labels is None


def test_a_failing_callable_names_the_users_line(script):
    error = fails("LPT-DATA-008", load_samples, "data.py:boom", cwd=script)
    line = CALLABLES.splitlines().index('    raise ValueError("no data today")') + 1
    assert f"data.py:{line} in boom" in error.cause
    assert "no data today" in error.cause


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("leaves", "LPT-DATA-008"),
        ("uneven", "LPT-DATA-008"),
        ("nothing", "LPT-DATA-009"),
        ("text", "LPT-DATA-009"),
        ("objects", "LPT-DATA-009"),
        ("triple", "LPT-DATA-009"),
        ("other_keys", "LPT-DATA-009"),
        ("not_rows", "LPT-DATA-009"),
        ("none_at_all", "LPT-DATA-010"),
        ("value", "LPT-DATA-007"),
        ("", "LPT-DATA-007"),
    ],
)
def test_bad_callables(script, name, code):
    fails(code, load_samples, f"data.py:{name}", cwd=script)


def test_a_misspelt_callable_is_suggested(script):
    assert "mapping" in fails("LPT-DATA-007", load_samples, "data.py:maping", cwd=script).remedy


def test_a_script_with_a_syntax_error_names_the_line(tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\ndef f(:\n")
    error = fails("LPT-DATA-007", load_samples, "bad.py:f", cwd=tmp_path)
    assert "bad.py:2" in error.cause


def test_arrays_at_hand_are_samples():
    rows = {"a": [[1, 2], [3, 4], [5, 6]], "b": np.zeros((3, 2), np.float32), "labels": [0, 1, 1]}
    samples = from_arrays(rows)
    assert list(samples.inputs) == ["a", "b"]
    assert samples.inputs["a"].dtype.kind == "i"
    assert samples.labels.tolist() == [0, 1, 1]
    assert (len(samples), samples.origin) == (3, "arrays")


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ({}, "LPT-DATA-010"),
        ({"a": np.zeros((2, 1)), "b": np.zeros((3, 1))}, "LPT-DATA-011"),
        ({"a": [[1, 2], [3]]}, "LPT-DATA-022"),
        ({"a": [object()]}, "LPT-DATA-022"),
    ],
)
def test_arrays_that_are_no_samples(rows, code):
    with pytest.raises(SampleError) as caught:
        from_arrays(rows)
    assert caught.value.code == code
    assert caught.value.remedy


def test_missing_file_suggests_the_nearest(tmp_path):
    np.savez(tmp_path / "digits.npz", x=np.zeros(1))
    error = fails("LPT-DATA-001", load_samples, "digit.npz", cwd=tmp_path)
    assert "digits.npz" in error.remedy


def test_unknown_kinds(tmp_path):
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "a.py").write_text("")
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "empty").mkdir()
    for name in ("a.csv", "a.py", "a.npy"):
        fails("LPT-DATA-002", load_samples, name, cwd=tmp_path)
    fails("LPT-DATA-006", load_samples, "empty", cwd=tmp_path)


def test_pickled_objects_are_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    array = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "a.npz", x=array)
    np.savez_compressed(tmp_path / "b.npz", x=array)
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f" / "x.npy", array)
    for name in ("a.npz", "b.npz", "f"):
        fails("LPT-DATA-004", load_samples, name, cwd=tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_one_clear_error(tmp_path, compressed):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=np.arange(100.0))
    whole = buffer.getvalue()
    for length in range(0, len(whole), 37):
        (tmp_path / "t.npz").write_bytes(whole[:length])
        fails("LPT-DATA-003", load_samples, "t.npz", cwd=tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_bytes_are_found(tmp_path, compressed):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=np.arange(1000.0))
    whole = bytearray(buffer.getvalue())
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "d.npz").write_bytes(whole)
    fails("LPT-DATA-003", load_samples, "d.npz", cwd=tmp_path)


def test_truncated_npy(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100.0))
    data = (tmp_path / "x.npy").read_bytes()
    for length in (0, 5, 50, 200, len(data) - 1):
        (tmp_path / "x.npy").write_bytes(data[:length])
        fails("LPT-DATA-003", load_samples, tmp_path)


def test_archives_that_unpack_too_far_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 20))
    with pytest.raises(SampleError) as caught:
        read_npz(tmp_path / "bomb.npz", "bomb.npz", limit=1 << 20)
    assert caught.value.code == "LPT-DATA-005"


def test_a_header_that_claims_more_than_is_there(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    with zipfile.ZipFile(tmp_path / "l.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", buffer.getvalue() + bytes(64))
    fails("LPT-DATA-003", load_samples, "l.npz", cwd=tmp_path)


def test_empty_and_unequal(tmp_path):
    np.savez(tmp_path / "none.npz")
    np.savez(tmp_path / "zero.npz", x=np.zeros((0, 3)))
    np.savez(tmp_path / "scalar.npz", x=np.float32(3))
    np.savez(tmp_path / "unequal.npz", x=np.zeros((3, 1)), y=np.zeros((4, 1)))
    np.savez(tmp_path / "labels.npz", x=np.zeros((3, 1)), labels=np.zeros(4, int))
    for name, code in [("none", 10), ("zero", 10), ("scalar", 11), ("unequal", 11), ("labels", 17)]:
        fails(f"LPT-DATA-{code:03d}", load_samples, f"{name}.npz", cwd=tmp_path)


# --- matching ---------------------------------------------------------------------------------


def test_match_orders_inputs_and_ignores_extras():
    two = signature(TensorSpec("b", "int64", ("n", "s")), TensorSpec("a", "float32", ("n", "s")))
    given = {"a": np.ones((5, 3), np.float32), "x": np.ones(5), "b": np.ones((5, 3), np.int64)}
    matched = match(Samples(given), two)
    assert list(matched.inputs) == ["b", "a"]
    assert "'x' was ignored" in matched.notes[0]


def test_wrong_name_names_both_and_the_remedy():
    error = fails("LPT-DATA-012", match, Samples({"images": images()}), IMAGE)
    assert "'image'" in error.message
    assert "'images'" in error.message
    assert "numpy.savez(file, image=array)" in error.remedy


def test_missing_name_suggests_a_rename():
    two = signature(TensorSpec("ids", "int64", ("n", "s")), TensorSpec("mask", "int64", ("n", "s")))
    given = {"ids": np.ones((5, 3), np.int64), "masks": np.ones((5, 3), np.int64)}
    assert (
        "rename 'masks' to 'mask'".lower()
        in fails("LPT-DATA-012", match, Samples(given), two).remedy.lower()
    )


@pytest.mark.parametrize(
    ("given", "wanted", "note"),
    [
        ("float64", "float32", "cast"),
        ("float32", "float16", "cast"),
        ("int32", "int64", "cast"),
        ("int64", "int32", "cast"),
        ("uint8", "float32", "without scaling"),
        ("bool", "int64", "cast"),
        (">f4", "float32", None),
        ("float32", "float32", None),
    ],
)
def test_safe_casts_are_made_and_noted(given, wanted, note):
    spec = TensorSpec("x", wanted, ("n", 3))
    matched = match(Samples({"x": np.ones((4, 3), given)}), signature(spec))
    assert matched.inputs["x"].dtype == np.dtype(wanted)
    assert matched.inputs["x"].dtype.isnative
    assert (note is None and not matched.notes) or note in matched.notes[0]


@pytest.mark.parametrize(
    ("array", "wanted"),
    [
        (np.ones((4, 3)), "int64"),
        (np.ones((4, 3), complex), "float32"),
        (np.ones((4, 3), int), "bool"),
        (np.full((4, 3), 1e300), "float32"),
        (np.full((4, 3), 1 << 40), "int32"),
        (np.full((4, 3), -1), "uint8"),
        (np.array([["a"] * 3] * 4), "float32"),
        (np.ones((4, 3), np.float32), "bfloat16x"),
    ],
)
def test_unsafe_casts_are_refused(array, wanted):
    with np.errstate(over="ignore"):
        fails("LPT-DATA-013", match, Samples({"x": array}),
              signature(TensorSpec("x", wanted, ("n", 3))))  # fmt: skip


@pytest.mark.parametrize("shape", [(5, 1, 8, 9), (5, 64), (5, 1, 1, 1, 8, 8), (5, 3, 8, 8)])
def test_wrong_shapes(shape):
    error = fails("LPT-DATA-014", match, Samples({"image": np.zeros(shape, np.float32)}), IMAGE)
    assert error.details["row_shape"] == list(shape[1:])


def test_symbols_must_agree_across_inputs():
    two = signature(TensorSpec("a", "float32", ("n", "s")), TensorSpec("b", "float32", ("n", "s")))
    given = {"a": np.ones((5, 3), np.float32), "b": np.ones((5, 4), np.float32)}
    fails("LPT-DATA-015", match, Samples(given), two)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_name_the_first_row(bad):
    x = images(9)
    x[4, 0, 2, 2] = x[7, 0, 0, 0] = bad
    error = fails("LPT-DATA-016", match, Samples({"image": x}), IMAGE)
    assert error.details == {"input": "image", "first_row": 4, "rows": 2}
    chosen = Samples({"image": x}).rows([0, 7])
    assert fails("LPT-DATA-016", match, chosen, IMAGE).details["first_row"] == 7


@pytest.mark.parametrize("labels", [np.array(["a"] * 12), np.full(12, np.nan)])
def test_bad_labels(labels):
    fails("LPT-DATA-018", match, Samples({"image": images()}, labels), IMAGE)


def test_labels_may_be_an_input():
    spec = TensorSpec("labels", "int64", ("n",))
    matched = match(Samples({}, np.arange(4)), signature(spec))
    np.testing.assert_array_equal(matched.inputs["labels"], np.arange(4))
    assert matched.labels is None


# --- splitting --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.integers(0, 5),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_split_never_shares_a_row(values, seed, calibration):
    samples = Samples({"x": np.array(values, np.int64)[:, None]})
    if calibration is not None and calibration >= len(values):
        fails("LPT-DATA-020", split, samples, seed=seed, calibration=calibration)
        return
    first, second = split_rows(samples, seed=seed, calibration=calibration)
    assert sorted([*first, *second]) == list(range(len(values)))
    assert len(second) > 0
    wanted = min(len(values) // 3, 512) if calibration is None else calibration
    assert len(first) <= wanted
    seen = {values[i] for i in first}
    assert not seen & {values[i] for i in second}
    if len(set(values)) == len(values):
        assert len(first) == wanted


def test_split_is_of_the_content_not_of_the_order():
    samples = Samples({"x": np.arange(50)[:, None]})
    shuffled = samples.rows(np.random.default_rng(1).permutation(50))
    chosen = [set(split(s, seed=7)[0].inputs["x"][:, 0].tolist()) for s in (samples, shuffled)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != set(split(samples, seed=8)[0].inputs["x"][:, 0].tolist())


def test_split_keeps_original_row_numbers():
    samples = Samples({"x": np.arange(30)[:, None] * 10}, np.arange(30))
    first, second = split(samples, seed=0)
    for part in (first, second):
        np.testing.assert_array_equal(part.inputs["x"][:, 0], part.original_rows * 10)
        np.testing.assert_array_equal(part.labels, part.original_rows)


def test_identical_rows_are_all_held_out():
    samples = Samples({"x": np.ones((9, 2))})
    assert split(samples, seed=0)[0] is None
    assert is_constant(samples)
    assert not is_constant(Samples({"x": np.ones((1, 2))}))
    assert not is_constant(Samples({"x": np.eye(3)}))
    assert samples.distinct == 1


# --- digests and storage ----------------------------------------------------------------------


def test_digest_follows_content_only(tmp_path):
    x = images()
    np.savez(tmp_path / "a.npz", image=x, labels=np.arange(12))
    np.savez_compressed(tmp_path / "b.npz", labels=np.arange(12), image=np.asfortranarray(x))
    a, b = (load_samples(tmp_path / name) for name in ("a.npz", "b.npz"))
    assert a.digest == b.digest
    assert a.digest.startswith("sha256:")
    changed = x.copy()
    changed[3, 0, 0, 0] += 1
    assert Samples({"image": changed}, np.arange(12)).digest != a.digest
    assert Samples({"image": x}).digest != a.digest
    assert Samples({"other": x}, np.arange(12)).digest != a.digest


def test_saved_samples_come_back_mapped(tmp_path):
    samples = Samples({"../a b:0": images(), "t": np.zeros((12, 0))}, np.arange(12), "callable",
                      "f.py:g", ("a note",))  # fmt: skip
    save(samples, tmp_path / "all")
    save(samples, tmp_path / "some", rows=np.array([3, 5]))
    back = load_saved(tmp_path / "all")
    assert back.digest == samples.digest
    assert (back.origin, back.source, back.notes) == ("callable", "f.py:g", ("a note",))
    assert isinstance(back.inputs["../a b:0"], np.memmap)
    some = load_saved(tmp_path / "some")
    assert some.digest == samples.rows([3, 5]).digest
    np.testing.assert_array_equal(some.original_rows, [3, 5])
    (tmp_path / "all" / "samples.json").unlink()
    fails("LPT-DATA-003", load_saved, tmp_path / "all")


# --- random -----------------------------------------------------------------------------------


def test_random_samples_fit_and_repeat():
    sig = signature(
        TensorSpec("ids", "int64", ("n", "seq")),
        TensorSpec("mask", "bool", ("n", "seq")),
        TensorSpec("x", "float16", (1, 3, None)),
    )
    one = random_samples(sig, 7, 3, sizes={"seq": 5})
    assert one.origin == "random"
    assert one.inputs["ids"].shape == (7, 5)
    assert one.inputs["x"].shape == (7, 3, 32)
    assert one.digest == random_samples(sig, 7, 3, sizes={"seq": 5}).digest
    assert one.digest != random_samples(sig, 7, 4, sizes={"seq": 5}).digest
    match(one, sig)
    fails("LPT-DATA-010", random_samples, sig, 0, 0)
    fails("LPT-DATA-013", random_samples, signature(TensorSpec("s", "str", ("n",))), 1, 0)


def test_a_model_without_inputs_cannot_be_compared():
    constant = signature()
    fails("LPT-DATA-023", match, from_arrays({"x": np.zeros((40, 2), np.float32)}), constant)
    fails("LPT-DATA-023", random_samples, constant, 3, 0)


# --- feeding ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.one_of(st.none(), st.integers(1, 50)), st.booleans())
def test_batches_cover_all_rows_once(n, size, static):
    dim = size if static and size else "batch"
    sig = signature(TensorSpec("x", "float32", (dim, 2)))
    samples = Samples({"x": np.arange(2 * n, dtype=np.float32).reshape(n, 2)})
    seen = []
    for inputs, valid in batches(samples, sig, size):
        assert inputs["x"].flags.c_contiguous
        assert inputs["x"].flags.writeable
        if isinstance(dim, int):
            assert len(inputs["x"]) == dim
            assert (inputs["x"][valid:] == inputs["x"][valid - 1]).all()
        else:
            assert len(inputs["x"]) == valid
        seen.append(inputs["x"][:valid])
    np.testing.assert_array_equal(np.concatenate(seen), samples.inputs["x"])


@pytest.mark.parametrize("dim", ["batch", 1, 4, 7, None])
@pytest.mark.parametrize("to_disk", [False, True])
def test_collected_outputs_are_in_the_samples_order(tmp_path, dim, to_disk):
    sig = signature(TensorSpec("x", "float32", (dim, 2)))
    samples = Samples({"x": np.arange(20, dtype=np.float32).reshape(10, 2)})
    done = []
    out = collect_outputs(
        lambda inputs: {"y": inputs["x"] * 2, "sum": inputs["x"].sum(axis=1)},
        samples, sig, batch_size=3, directory=tmp_path if to_disk else None, on_rows=done.append,
    )  # fmt: skip
    np.testing.assert_array_equal(out["y"], samples.inputs["x"] * 2)
    np.testing.assert_array_equal(out["sum"], samples.inputs["x"].sum(axis=1))
    assert sum(done) == 10
    assert isinstance(out["y"], np.memmap) == to_disk


def test_inputs_without_batch_run_row_by_row():
    sig = signature(TensorSpec("x", "float32", (3,)), TensorSpec("k", "float32", ()))
    samples = Samples({"x": np.arange(12, dtype=np.float32).reshape(4, 3),
                       "k": np.arange(4, dtype=np.float32)})  # fmt: skip
    matched = match(samples, sig)
    out = collect_outputs(lambda i: {"y": i["x"] * i["k"]}, matched, sig)
    np.testing.assert_array_equal(out["y"], samples.inputs["x"] * samples.inputs["k"][:, None])


def test_reduced_outputs_are_collected_singly():
    sig = signature(TensorSpec("x", "float32", ("n", 3)))
    samples = Samples({"x": np.arange(12, dtype=np.float32).reshape(4, 3)})
    out = collect_outputs(lambda i: {"total": i["x"].sum()}, samples, sig)
    np.testing.assert_array_equal(out["total"], samples.inputs["x"].sum(axis=1))


def test_outputs_that_cannot_be_told_apart():
    fixed = signature(TensorSpec("x", "float32", (2, 3)))
    samples = Samples({"x": np.arange(12, dtype=np.float32).reshape(4, 3)})
    fails("LPT-DATA-019", collect_outputs, lambda i: {"total": i["x"].sum()}, samples, fixed)
    open_ = signature(TensorSpec("x", "float32", ("n", 3)))
    sizes = iter([2, 5, 5, 5])
    fails("LPT-DATA-019", collect_outputs, lambda i: {"y": np.zeros((1, next(sizes)))}, samples,
          open_, batch_size=1)  # fmt: skip
    fails("LPT-DATA-021", list, batches(samples, open_, -1))
    two = signature(TensorSpec("x", "float32", (2, 3)), TensorSpec("z", "float32", (3, 3)))
    both = Samples({"x": samples.inputs["x"], "z": samples.inputs["x"]})
    fails("LPT-DATA-014", list, batches(both, two))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")
def test_samples_that_are_mapped_do_not_stay_in_memory(tmp_path):
    """Checking them reads every page; what stays counts as the process's own."""
    x = np.ones((64, 1 << 18), np.float32)
    np.savez(tmp_path / "x.npz", x=x)

    def resident():
        lines = Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Rss")) << 10

    samples = load_samples(str(tmp_path / "x.npz"))
    spec = TensorSpec("x", "float32", ("n", x.shape[1]))
    before = resident()
    matched = match(samples, Signature((spec,), ()))
    assert is_constant(matched)
    assert resident() - before < x.nbytes // 4
