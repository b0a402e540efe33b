"""Recurrent layers: torch's own where they compute the same, step by step elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lepton_torch._bridge._registry import operator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._bridge._registry import Node

Tensors = tuple[torch.Tensor, ...]


def _reordered(weight: torch.Tensor, gates: Sequence[int]) -> torch.Tensor:
    """Bring the gates of a weight or bias (rows in blocks) into torch's order."""
    blocks = weight.chunk(len(gates), dim=0)
    return torch.cat([blocks[g] for g in gates]) if len(gates) > 1 else weight


def _weights(
    w: torch.Tensor, r: torch.Tensor, b: torch.Tensor | None, gates: Sequence[int]
) -> list[torch.Tensor]:
    """Return torch's list: w_ih, w_hh, b_ih, b_hh for every direction."""
    flat: list[torch.Tensor] = []
    for way in range(w.shape[0]):
        flat += [_reordered(w[way], gates), _reordered(r[way], gates)]
        rows = w.shape[1]
        both = torch.zeros(2 * rows, dtype=w.dtype) if b is None else b[way]
        flat += [_reordered(both[:rows], gates), _reordered(both[rows:], gates)]
    return flat


def _check(node: Node, lengths: torch.Tensor | None, plain: list[str]) -> None:
    """Refuse what torch's layers do not compute.

    Raises:
        ConversionError: LPT-CONV-112.
    """
    ways = 2 if node.get("direction") == "bidirectional" else 1
    wanted = [name.lower() for name in node.get("activations") or plain * ways]
    if wanted != [name.lower() for name in plain] * ways:
        node.refuse(f"its activations are {', '.join(wanted)}")
    if node.get("clip", 0):
        node.refuse("it clips its gates")
    if lengths is not None:
        node.refuse("its sequences have lengths of their own", "Pad, and mask the results.")
    if node.get("input_forget", 0):
        node.refuse("its input and forget gates are coupled")


def _state(
    node: Node, x: torch.Tensor, state: torch.Tensor | None, ways: int, hidden: int
) -> torch.Tensor:
    if state is None:
        return torch.zeros([ways, x.shape[1], hidden], dtype=x.dtype)
    return state.transpose(0, 1) if node.get("layout", 0) else state


def _result(node: Node, steps: torch.Tensor, states: Sequence[torch.Tensor], ways: int) -> Tensors:
    """Bring torch's output into ONNX's layout: a direction axis of its own."""
    length, batch = steps.shape[0], steps.shape[1]
    split = steps.reshape(length, batch, ways, -1)
    if node.get("layout", 0):
        return (split.permute(1, 0, 2, 3), *(s.transpose(0, 1) for s in states))
    return (split.permute(0, 2, 1, 3), *states)


def _run(
    node: Node,
    x: torch.Tensor,
    ways: int,
    layer: Callable[[torch.Tensor], tuple[torch.Tensor, Sequence[torch.Tensor]]],
) -> Tensors:
    """Run a layer on time-major input, turned round where it reads backwards."""
    sequence = x.transpose(0, 1) if node.get("layout", 0) else x
    backwards = node.get("direction") == "reverse"
    steps, states = layer(sequence.flip(0) if backwards else sequence)
    return _result(node, steps.flip(0) if backwards else steps, states, ways)


def _time_major(node: Node, x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1) if node.get("layout", 0) else x


@operator("LSTM")
def lstm(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
    peepholes: torch.Tensor | None = None,
) -> Tensors:
    """Run a long short-term memory; ONNX keeps its gates as i, o, f, c, torch as i, f, c, o."""
    _check(node, lengths, ["Sigmoid", "Tanh", "Tanh"])
    ways, hidden = w.shape[0], r.shape[2]
    rows = _time_major(node, x)
    state = [_state(node, rows, s, ways, hidden) for s in (h0, c0)]
    if peepholes is not None:
        return _run(node, x, ways, lambda s: _peephole(s, w, r, b, state, peepholes))
    flat = _weights(w, r, b, (0, 2, 3, 1))

    def layer(sequence: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h, c = torch.lstm(sequence, state, flat, True, 1, 0.0, False, ways == 2, False)
        return steps, (h, c)

    return _run(node, x, ways, layer)


def _peephole(
    sequence: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None,
    state: list[torch.Tensor],
    peepholes: torch.Tensor,
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Step by step, because torch's layer has no weights from the cell to the gates."""
    ends: list[tuple[torch.Tensor, torch.Tensor]] = []
    outputs = []
    for way in range(w.shape[0]):
        p_i, p_o, p_f = peepholes[way].chunk(3)
        h, c = state[0][way], state[1][way]
        bias = b[way].chunk(2)[0] + b[way].chunk(2)[1] if b is not None else 0.0
        steps = list(sequence.flip(0) if way else sequence)
        made = []
        for step in steps:
            i, o, f, g = (step @ w[way].T + h @ r[way].T + bias).chunk(4, dim=1)
            i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
            made.append(h)
        outputs.append(torch.stack(made[::-1] if way else made))
        ends.append((h, c))
    return torch.cat(outputs, -1), [torch.stack([e[i] for e in ends]) for i in (0, 1)]


@operator("GRU")
def gru(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h0: torch.Tensor | None = None,
) -> Tensors:
    """Run a gated recurrent unit; ONNX keeps its gates as z, r, h, torch as r, z, h."""
    _check(node, lengths, ["Sigmoid", "Tanh"])
    ways, hidden = w.shape[0], r.shape[2]
    state = _state(node, _time_major(node, x), h0, ways, hidden)
    if not node.get("linear_before_reset", 0):
        return _run(node, x, ways, lambda s: _gru_steps(s, w, r, b, state))
    flat = _weights(w, r, b, (1, 0, 2))

    def layer(sequence: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h = torch.gru(sequence, state, flat, True, 1, 0.0, False, ways == 2, False)
        return steps, (h,)

    return _run(node, x, ways, layer)


def _gru_steps(
    sequence: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    """Step by step: the reset gate acts before the product, which torch's layer does not do."""
    outputs, ends = [], []
    for way in range(w.shape[0]):
        size = r.shape[2]
        h = state[way]
        both = b[way] if b is not None else torch.zeros(6 * size, dtype=w.dtype)
        bias = both[: 3 * size] + both[3 * size :]
        made = []
        for step in list(sequence.flip(0) if way else sequence):
            z, reset, g = (step @ w[way].T + bias).chunk(3, dim=1)
            z = torch.sigmoid(z + h @ r[way][:size].T)
            reset = torch.sigmoid(reset + h @ r[way][size : 2 * size].T)
            g = torch.tanh(g + (reset * h) @ r[way][2 * size :].T)
            h = (1 - z) * g + z * h
            made.append(h)
        outputs.append(torch.stack(made[::-1] if way else made))
        ends.append(h)
    return torch.cat(outputs, -1), (torch.stack(ends),)


@operator("RNN")
def rnn(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h0: torch.Tensor | None = None,
) -> Tensors:
    """Run a plain recurrent layer with tanh or relu."""
    first = (node.get("activations") or ["Tanh"])[0].capitalize()
    _check(node, lengths, [first])
    if first not in ("Tanh", "Relu"):
        node.refuse(f"its activation is {first}")
    ways, hidden = w.shape[0], r.shape[2]
    state = _state(node, _time_major(node, x), h0, ways, hidden)
    flat = _weights(w, r, b, (0,))
    function = torch.rnn_tanh if first == "Tanh" else torch.rnn_relu

    def layer(sequence: torch.Tensor) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h = function(sequence, state, flat, True, 1, 0.0, False, ways == 2, False)
        return steps, (h,)

    return _run(node, x, ways, layer)
