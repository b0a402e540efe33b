"""Recurrent layers: torch's own where they compute the same, step by step elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Value

Tensors = tuple[torch.Tensor, ...]

_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
}


@dataclass(frozen=True)
class _Layer:
    """What the three kinds of layers have in common.

    Attributes:
        node: The node.
        rows: Input, time first.
        w: Weights of the input, one block of gates per direction.
        r: Weights of the state.
        b: Biases of both, the input's first; ``None`` for none.
        lengths: Steps of every row; ``None`` where all rows have all steps.
        states: First state and, in an LSTM, first cell; direction first.
        functions: Activations, those of one direction after those of the other.
    """

    node: Node
    rows: torch.Tensor
    w: torch.Tensor
    r: torch.Tensor
    b: torch.Tensor | None
    lengths: torch.Tensor | None
    states: Tensors
    functions: list[str]

    @property
    def ways(self) -> int:
        """Number of directions."""
        return int(self.w.shape[0])

    def plain(self, functions: Sequence[str]) -> bool:
        """Tell whether torch's layer of these activations computes the same."""
        node = self.node
        usual = self.functions == [f.lower() for f in functions] * self.ways
        odd = node.get("clip", 0) or node.get("input_forget", 0) or self.lengths is not None
        return usual and not odd

    def bias(self, way: int, which: int) -> torch.Tensor:
        """Return a direction's bias of the input (0) or of the state (1)."""
        rows = self.w.shape[1]
        if self.b is None:
            return torch.zeros(rows, dtype=self.w.dtype)
        return self.b[way][which * rows : (which + 1) * rows]

    def act(self, way: int, which: int, x: torch.Tensor, clips: bool = True) -> torch.Tensor:
        """Apply an activation of a direction; what it takes is clipped if the node says so."""
        count = len(self.functions) // self.ways
        clip = self.node.get("clip", 0) if clips else 0
        function = _ACTIVATIONS[self.functions[way * count + which]]
        return function(x.clamp(-clip, clip) if clip else x)


def _layer(
    node: Node,
    x: torch.Tensor,
    weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    lengths: Value | None,
    states: Sequence[torch.Tensor | None],
    functions: Sequence[str],
) -> _Layer:
    """Bring a node's inputs into one form.

    Raises:
        ConversionError: LPT-CONV-112, an activation is not known, or there are too few or too many.
    """
    w, r, b = weights
    rows = x.transpose(0, 1) if node.get("layout", 0) else x
    chosen = [name.lower() for name in node.get("activations") or [*functions] * w.shape[0]]
    odd = sorted(set(chosen) - set(_ACTIVATIONS))
    if odd or node.get("activation_alpha") or node.get("activation_beta"):
        node.refuse(f"its activations are {', '.join(chosen)}")
    takes = len(functions) * w.shape[0]
    if len(chosen) != takes:
        node.refuse(
            f"it names {len(chosen)} activations, and {w.shape[0]} directions take {takes}",
            "Name the activations of every direction.",
        )
    if isinstance(lengths, Known):
        steps = lengths.ints()
        full = isinstance(rows.shape[0], int) and all(n == rows.shape[0] for n in steps)
        lengths = None if full else lengths.tensor()

    def first(state: torch.Tensor | None) -> torch.Tensor:
        if state is None:
            return torch.zeros([w.shape[0], rows.shape[1], r.shape[2]], dtype=x.dtype)
        return state.transpose(0, 1) if node.get("layout", 0) else state

    return _Layer(node, rows, w, r, b, lengths, tuple(first(s) for s in states), chosen)


def _reordered(weight: torch.Tensor, gates: Sequence[int]) -> torch.Tensor:
    """Bring the gates of a weight or bias (rows in blocks) into torch's order."""
    blocks = weight.chunk(len(gates), dim=0)
    return torch.cat([blocks[g] for g in gates]) if len(gates) > 1 else weight


def _weights(layer: _Layer, gates: Sequence[int]) -> list[torch.Tensor]:
    """Return torch's list: w_ih, w_hh, b_ih, b_hh for every direction."""
    flat: list[torch.Tensor] = []
    for way in range(layer.ways):
        flat += [_reordered(layer.w[way], gates), _reordered(layer.r[way], gates)]
        flat += [_reordered(layer.bias(way, which), gates) for which in (0, 1)]
    return flat


def _result(node: Node, steps: torch.Tensor, states: Sequence[torch.Tensor], ways: int) -> Tensors:
    """Bring torch's output into ONNX's layout: a direction axis of its own."""
    length, batch = steps.shape[0], steps.shape[1]
    split = steps.reshape(length, batch, ways, -1)
    if node.get("layout", 0):
        return (split.permute(1, 0, 2, 3), *(s.transpose(0, 1) for s in states))
    return (split.permute(0, 2, 1, 3), *states)


def _whole(
    layer: _Layer, run: Callable[[torch.Tensor, bool], tuple[torch.Tensor, Sequence[torch.Tensor]]]
) -> Tensors:
    """Run torch's layer on all steps, turned round where it reads backwards."""
    backwards = layer.node.get("direction") == "reverse"
    steps, states = run(layer.rows.flip(0) if backwards else layer.rows, layer.ways == 2)
    return _result(layer.node, steps.flip(0) if backwards else steps, states, layer.ways)


def _turned(rows: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Turn the steps of every row round; those beyond its length stay where they are."""
    if lengths is None:
        return rows.flip(0)
    at = torch.arange(rows.shape[0]).unsqueeze(1)
    ends = lengths.to(torch.int64).unsqueeze(0)
    index = torch.where(at < ends, ends - 1 - at, at)
    return rows.gather(0, index.unsqueeze(2).expand(rows.shape))


def _stepped(layer: _Layer, cell: Callable[[int, torch.Tensor, Tensors], Tensors]) -> Tensors:
    """Run a cell step by step; rows that have ended keep their states and give zeros.

    A row without a step ends in states of zeros, whatever it starts from, as in onnxruntime.
    """
    outputs, ends = [], []
    for way in range(layer.ways):
        backwards = way == 1 or layer.node.get("direction") == "reverse"
        rows = _turned(layer.rows, layer.lengths) if backwards else layer.rows
        states: Tensors = tuple(s[way] for s in layer.states)
        made = []
        for number, step in enumerate(list(rows)):
            fresh = cell(way, step, states)
            if layer.lengths is None:
                states = fresh
                made.append(fresh[0])
                continue
            live = (layer.lengths > number).unsqueeze(1)
            states = tuple(torch.where(live, a, b) for a, b in zip(fresh, states, strict=True))
            made.append(torch.where(live, fresh[0], torch.zeros_like(fresh[0])))
        steps = torch.stack(made)
        outputs.append(_turned(steps, layer.lengths) if backwards else steps)
        if layer.lengths is not None:
            some = (layer.lengths > 0).unsqueeze(1)
            states = tuple(torch.where(some, s, torch.zeros_like(s)) for s in states)
        ends.append(states)
    last = [torch.stack([e[i] for e in ends]) for i in range(len(layer.states))]
    return _result(layer.node, torch.cat(outputs, -1), last, layer.ways)


@operator("LSTM", either=(4,))
def lstm(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: Value | None = None,
    h0: torch.Tensor | None = None,
    c0: torch.Tensor | None = None,
    peepholes: torch.Tensor | None = None,
) -> Tensors:
    """Run a long short-term memory; ONNX keeps its gates as i, o, f, c, torch as i, f, c, o."""
    usual = ("Sigmoid", "Tanh", "Tanh")
    layer = _layer(node, x, (w, r, b), lengths, (h0, c0), usual)
    if peepholes is not None or not layer.plain(usual):
        return _stepped(layer, _lstm_cell(layer, peepholes))
    flat = _weights(layer, (0, 2, 3, 1))

    def run(rows: torch.Tensor, both: bool) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h, c = torch.lstm(rows, list(layer.states), flat, True, 1, 0.0, False, both, False)
        return steps, (h, c)

    return _whole(layer, run)


def _lstm_cell(
    layer: _Layer, peepholes: torch.Tensor | None
) -> Callable[[int, torch.Tensor, Tensors], Tensors]:
    w, r, act = layer.w, layer.r, layer.act

    def cell(way: int, step: torch.Tensor, states: Tensors) -> Tensors:
        h, c = states
        bias = layer.bias(way, 0) + layer.bias(way, 1)
        i, o, f, g = (step @ w[way].T + h @ r[way].T + bias).chunk(4, dim=1)
        p_i, p_o, p_f = peepholes[way].chunk(3) if peepholes is not None else (0.0, 0.0, 0.0)
        i = act(way, 0, i + p_i * c)
        f = 1 - i if layer.node.get("input_forget", 0) else act(way, 0, f + p_f * c)
        c = f * c + i * act(way, 1, g)
        out = act(way, 2, c, clips=False)  # onnxruntime clips what the gates take alone
        return act(way, 0, o + p_o * c) * out, c

    return cell


@operator("GRU", either=(4,))
def gru(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: Value | None = None,
    h0: torch.Tensor | None = None,
) -> Tensors:
    """Run a gated recurrent unit; ONNX keeps its gates as z, r, h, torch as r, z, h.

    Torch's layer applies the reset gate after the product with the state; without
    ``linear_before_reset`` ONNX applies it before, which is computed step by step.
    """
    usual = ("Sigmoid", "Tanh")
    layer = _layer(node, x, (w, r, b), lengths, (h0,), usual)
    if not node.get("linear_before_reset", 0) or not layer.plain(usual):
        return _stepped(layer, _gru_cell(layer))
    flat = _weights(layer, (1, 0, 2))

    def run(rows: torch.Tensor, both: bool) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h = torch.gru(rows, layer.states[0], flat, True, 1, 0.0, False, both, False)
        return steps, (h,)

    return _whole(layer, run)


def _gru_cell(layer: _Layer) -> Callable[[int, torch.Tensor, Tensors], Tensors]:
    w, r, act = layer.w, layer.r, layer.act
    late = bool(layer.node.get("linear_before_reset", 0))

    def cell(way: int, step: torch.Tensor, states: Tensors) -> Tensors:
        (h,) = states
        z, reset, g = (step @ w[way].T + layer.bias(way, 0)).chunk(3, dim=1)
        r_z, r_r, r_g = r[way].chunk(3)
        b_z, b_r, b_g = layer.bias(way, 1).chunk(3)
        z = act(way, 0, z + h @ r_z.T + b_z)
        reset = act(way, 0, reset + h @ r_r.T + b_r)
        inner = reset * (h @ r_g.T + b_g) if late else (reset * h) @ r_g.T + b_g
        return ((1 - z) * act(way, 1, g + inner) + z * h,)

    return cell


@operator("RNN", either=(4,))
def rnn(
    node: Node,
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: Value | None = None,
    h0: torch.Tensor | None = None,
) -> Tensors:
    """Run a plain recurrent layer."""
    layer = _layer(node, x, (w, r, b), lengths, (h0,), ("Tanh",))
    kinds = {"Tanh": torch.rnn_tanh, "Relu": torch.rnn_relu}
    function = next((kinds[name] for name in kinds if layer.plain((name,))), None)
    if function is None:

        def cell(way: int, step: torch.Tensor, states: Tensors) -> Tensors:
            bias = layer.bias(way, 0) + layer.bias(way, 1)
            return (layer.act(way, 0, step @ w[way].T + states[0] @ r[way].T + bias),)

        return _stepped(layer, cell)
    flat = _weights(layer, (0,))

    def run(rows: torch.Tensor, both: bool) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        steps, h = function(rows, layer.states[0], flat, True, 1, 0.0, False, both, False)
        return steps, (h,)

    return _whole(layer, run)
