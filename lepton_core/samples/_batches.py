"""Feed samples to a session in the batches that its signature allows, and collect the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from lepton_core.errors import SampleError
from lepton_core.files import disk_errors, reserve
from lepton_core.samples._match import is_batched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from lepton_core.samples._types import Samples
    from lepton_core.types import Signature

    Array = NDArray[Any]
    Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]

DEFAULT_BATCH = 32
"""Rows per batch where the signature leaves it open."""

_MAX_BATCH_BYTES = 64 << 20


class Batch(NamedTuple):
    """Inputs for one run, and how many of its rows are samples.

    Attributes:
        inputs: One writable, C-ordered array per input.
        valid_rows: Rows from the front that count; the rest pads a fixed batch size.
    """

    inputs: dict[str, Array]
    valid_rows: int


class _Layout(NamedTuple):
    """How rows go into runs: rows taken per run, rows fed per run, inputs without a batch."""

    take: int
    feed: int | None
    unbatched: frozenset[str]

    @property
    def row_by_row(self) -> bool:
        return bool(self.unbatched)


def _layout(samples: Samples, signature: Signature, batch_size: int | None) -> _Layout:
    unbatched, fixed = set(), set()
    for spec in signature.inputs:
        if not is_batched(samples.inputs[spec.name], spec):
            unbatched.add(spec.name)
        elif isinstance(spec.shape[0], int):
            fixed.add(spec.shape[0])
    if len(fixed) > 1 or (fixed and min(fixed) < 1):
        raise SampleError(
            "LPT-DATA-014",
            f"The model's inputs have different fixed batch sizes: {sorted(fixed)}",
            remedy="Rows cannot be fed to such a model; give it one batch dimension.",
        )
    feed = fixed.pop() if fixed else None
    if unbatched:
        return _Layout(1, feed, frozenset(unbatched))
    if feed is not None:
        return _Layout(feed, feed, frozenset())
    if batch_size is not None and batch_size < 1:
        raise SampleError(
            "LPT-DATA-021", f"A batch of {batch_size} was asked for", remedy="Ask for at least 1."
        )
    return _Layout(batch_size or _open_batch(samples), None, frozenset())


def _open_batch(samples: Samples) -> int:
    row_bytes = sum(a.nbytes for a in samples.inputs.values()) // max(1, len(samples))
    return max(1, min(DEFAULT_BATCH, _MAX_BATCH_BYTES // max(1, row_bytes)))


def batches(
    samples: Samples, signature: Signature, batch_size: int | None = None
) -> Iterator[Batch]:
    """Yield samples as batches that a model with this signature accepts.

    Where the batch dimension is open, batches have *batch_size* rows and the last may be
    shorter. Where it is a fixed number, every batch has that many rows, the last padded by
    repeating its last row. An input without a batch dimension makes the whole model run row by
    row.

    Args:
        samples: Samples that :func:`~lepton_core.samples.match` has accepted for *signature*.
        signature: What the model takes.
        batch_size: Rows per batch where that is open; :data:`DEFAULT_BATCH` by default, fewer if
            rows are large.

    Raises:
        SampleError: ``LPT-DATA-014`` contradictory fixed batch sizes, ``LPT-DATA-021`` a batch
            size below 1.
    """
    yield from _feed(samples, signature, _layout(samples, signature, batch_size))


def _feed(samples: Samples, signature: Signature, layout: _Layout) -> Iterator[Batch]:
    names = [spec.name for spec in signature.inputs]
    for start in range(0, len(samples), layout.take):
        stop = min(start + layout.take, len(samples))
        inputs = {}
        for name in names:
            array = samples.inputs[name]
            if name in layout.unbatched:
                inputs[name] = np.array(array[start], order="C")
            else:
                inputs[name] = _pad(array[start:stop], layout.feed)
        yield Batch(inputs, stop - start)


def _pad(rows: Array, size: int | None) -> Array:
    short = 0 if size is None else size - len(rows)
    if short <= 0:
        return np.array(rows, order="C")
    return np.concatenate([rows, np.repeat(rows[-1:], short, axis=0)])


def collect_outputs(
    run: Run,
    samples: Samples,
    signature: Signature,
    *,
    batch_size: int | None = None,
    directory: Path | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Run all samples and return one array per output with one row per sample.

    Rows that pad a fixed batch are dropped. A model whose outputs do not have one row per row
    fed (a reduced output, or inputs without batch dimension) is run row by row, and each run's
    whole output becomes one row.

    Args:
        run: Runs one batch, such as ``session.run``.
        samples: Samples that fit *signature*.
        signature: What the model takes.
        batch_size: As for :func:`batches`.
        directory: Where to write the outputs as memory-mapped ``.npy`` files; in memory if not
            given.
        on_rows: Called with the number of rows done since the last call, for progress.

    Raises:
        SampleError: ``LPT-DATA-019`` outputs do not keep one row per sample, or change shape
            from run to run; or as :func:`batches`.
        StorageError: The disk is full.
    """
    layout = _layout(samples, signature, batch_size)
    first = _first_run(run, samples, signature, layout)
    if first is None:
        layout = layout._replace(take=1)
    single = layout.row_by_row or first is None
    store: dict[str, Array] = {}
    start = 0
    for batch in _feed(samples, signature, layout):
        outputs = first if first is not None and start == 0 else run(batch.inputs)
        fed = layout.feed or batch.valid_rows
        keep = not layout.row_by_row or len(layout.unbatched) < len(batch.inputs)
        for name, output in outputs.items():
            rows = _rows(np.asarray(output), fed, batch.valid_rows, single=single, keep=keep)
            if name not in store:
                store[name] = _allocate(rows, len(samples), directory, len(store))
            _put(store[name], rows, slice(start, start + batch.valid_rows), name)
        start += batch.valid_rows
        if on_rows is not None:
            on_rows(batch.valid_rows)
    return store


def _first_run(
    run: Run, samples: Samples, signature: Signature, layout: _Layout
) -> Mapping[str, Array] | None:
    """Run the first batch; ``None`` if its outputs do not keep rows and must be run singly."""
    batch = next(_feed(samples, signature, layout))
    fed = layout.feed or batch.valid_rows
    outputs = run(batch.inputs)
    if layout.row_by_row or all(np.ndim(o) and len(o) == fed for o in outputs.values()):
        return outputs
    if layout.feed is None or layout.feed == 1:
        return None
    shapes = {name: list(np.shape(output)) for name, output in outputs.items()}
    raise SampleError(
        "LPT-DATA-019",
        f"The model's outputs do not have one row for each of the {fed} rows fed",
        cause=f"output shapes {shapes}",
        remedy="Fix the model's batch dimension to 1, so that each run belongs to one sample.",
        details={"shapes": shapes, "fed": fed},
    )


def _rows(output: Array, fed: int, valid: int, *, single: bool, keep: bool) -> Array:
    if keep and output.ndim and len(output) == fed:
        return output[:valid]
    if single:
        return output[np.newaxis]
    return output  # its length is checked when it is stored


def _allocate(rows: Array, n: int, directory: Path | None, number: int) -> Array:
    shape = (n, *rows.shape[1:])
    if directory is None or rows.size == 0:
        return np.empty(shape, rows.dtype)
    with disk_errors(f"outputs in {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"output-{number:03d}.npy"
        mapped: Array = open_memmap(path, "w+", rows.dtype, shape)
        reserve(path)
        return mapped


def _put(store: Array, rows: Array, at: slice, name: str) -> None:
    if rows.shape != store[at].shape:
        raise SampleError(
            "LPT-DATA-019",
            f"Output {name!r} changes its shape from run to run",
            cause=f"rows of {list(store.shape[1:])}, then an output of {list(rows.shape)}",
            remedy="Give samples whose outputs have one size (pad sequences to one length).",
        )
    store[at] = rows


__all__ = ["DEFAULT_BATCH", "Batch", "batches", "collect_outputs"]
