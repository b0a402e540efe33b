"""Recurrent layers: ``(sequence, batch, channels)``, states ``(batch, directions * hidden)``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_coreml._interpreter._activation import ACTIVATIONS
from lepton_coreml._interpreter._registry import operator

Array = NDArray[Any]


def _lstm_pass(
    x: Array,
    state: tuple[Array, Array],
    weights: tuple[Array, Array, Array | None, Array | None],
    functions: tuple[Any, Any, Any],
    clip: float | None,
) -> tuple[Array, Array, Array]:
    """Return the hidden state of every step, and the last hidden and cell states."""
    hidden, cell = state
    w_input, w_hidden, bias, peephole = weights
    gate, candidate, output = functions
    size = w_hidden.shape[1]
    looks = [None] * 3 if peephole is None else np.split(peephole, 3)
    steps = []
    projected = np.matmul(x, w_input.T)
    if bias is not None:
        projected = projected + bias
    for step in projected:
        total = step + np.matmul(hidden, w_hidden.T)
        i, f, o, z = (total[:, k * size : (k + 1) * size] for k in range(4))
        if peephole is not None:
            i, f = i + looks[0] * cell, f + looks[1] * cell
        fresh = candidate(z)
        if clip is not None:
            fresh = np.clip(fresh, -clip, clip)
        cell = gate(f) * cell + gate(i) * fresh
        if peephole is not None:
            o = o + looks[2] * cell
        hidden = gate(o) * output(cell)
        steps.append(hidden)
    return np.stack(steps), hidden, cell


@operator("lstm")
def lstm(
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: Array = np.False_,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Run an LSTM, gates in the order input, forget, output, cell."""
    names = (recurrent_activation, cell_activation, activation)
    functions = (ACTIVATIONS[names[0]], ACTIVATIONS[names[1]], ACTIVATIONS[names[2]])
    limit = None if clip is None else float(clip)
    size = weight_hh.shape[1]
    parts = []
    passes = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    for number, backward in enumerate(passes):
        own = slice(number * size, (number + 1) * size)
        second = direction == "bidirectional" and backward
        weights = (
            (weight_ih_back, weight_hh_back, bias_back, peephole_back)
            if second
            else (weight_ih, weight_hh, bias, peephole)
        )
        if weights[0] is None or weights[1] is None:
            msg = "the weights of the backward direction are missing"
            raise ValueError(msg)
        turned = x[::-1] if backward else x
        state = (initial_h[:, own], initial_c[:, own])
        steps, hidden, cell = _lstm_pass(
            turned, state, (weights[0], weights[1], weights[2], weights[3]), functions, limit
        )
        parts.append((steps[::-1] if backward else steps, hidden, cell))
    steps, hidden, cell = (np.concatenate([part[i] for part in parts], axis=-1) for i in range(3))
    return (steps if output_sequence else hidden[None]), hidden, cell


@operator("rnn")
def rnn(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: Array = np.False_,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """Run a plain recurrent layer."""
    function = ACTIVATIONS[activation]
    hidden = initial_h
    steps = []
    for step in x[::-1] if direction == "reverse" else x:
        total = np.matmul(step, weight_ih.T) + np.matmul(hidden, weight_hh.T)
        hidden = function(total if bias is None else total + bias)
        steps.append(hidden)
    stacked = np.stack(steps[::-1] if direction == "reverse" else steps)
    return (stacked if output_sequence else hidden[None]), hidden


__all__ = ["lstm", "rnn"]
