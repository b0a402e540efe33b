"""Attention and rotary position embeddings (opset 23 and later)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge._values import DTYPES

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node


def _heads(node: Node, x: torch.Tensor, name: str) -> torch.Tensor:
    """Return (batch, heads, length, size); three dimensions are split by the node's attribute."""
    if x.ndim == 4:
        return x
    return x.unflatten(-1, (node.get(name), -1)).transpose(1, 2)


def _allowed(
    length: Any,  # noqa: ANN401 - sizes, maybe symbolic
    total: Any,  # noqa: ANN401
    causal: bool,
    past: Any,  # noqa: ANN401
    valid: torch.Tensor | None,
) -> torch.Tensor | None:
    """Return which keys a query may see, by position alone; ``None`` for all of them.

    Args:
        length: Number of queries.
        total: Number of keys.
        causal: Whether a query sees no later key.
        past: Keys before the first query.
        valid: Keys that are no padding, for every row of the batch.
    """
    keys = torch.arange(total)
    allowed = None
    if causal:
        rows = torch.arange(length).unsqueeze(1)
        first = past if valid is None else (valid - length).reshape(-1, 1, 1, 1)
        allowed = keys <= rows + first
    if valid is not None:
        real = keys < valid.reshape(-1, 1, 1, 1)
        allowed = real if allowed is None else allowed & real
    return allowed


def _mask(
    given: torch.Tensor | None,
    allowed: torch.Tensor | None,
    total: Any,  # noqa: ANN401 - a size, maybe symbolic
) -> torch.Tensor | None:
    """Join the mask that was given with positions: booleans, or what is added to the scores."""
    if given is None:
        return allowed
    if isinstance(given.shape[-1], int) and given.shape[-1] != total:
        missing = False if given.dtype == torch.bool else -math.inf
        given = functional.pad(given, (0, total - given.shape[-1]), value=missing)
    if allowed is None:
        return given
    if given.dtype == torch.bool:
        return given & allowed
    return torch.where(allowed, given, -math.inf)


def _only_seeing(result: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give zeros to a query that sees no key, as ONNX and torch do.

    The runtimes that torch's operator is lowered to give NaN there, or a mean of all values.
    """
    seen = mask if mask.dtype == torch.bool else mask > -math.inf
    return torch.where(seen.to(result.dtype).amax(-1, keepdim=True) > 0, result, 0.0)


@operator("Attention")
def attention(
    node: Node,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    valid: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """Run scaled dot-product attention: torch's own where nobody looks at the scores."""
    flat = q.ndim == 3
    q, k, v = (
        _heads(node, x, name)
        for x, name in ((q, "q_num_heads"), (k, "kv_num_heads"), (v, "kv_num_heads"))
    )
    past: Any = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    scale = node.get("scale", 1.0 / math.sqrt(q.shape[-1]))
    causal = bool(node.get("is_causal", 0))
    inner = DTYPES.get(node.get("softmax_precision", 0), q.dtype)
    total = k.shape[2]
    plain = not node.get("softcap", 0.0) and len(node.outputs) < 4 and inner == q.dtype
    scores = None
    if plain and q.dtype in (torch.float32, torch.float64):
        alone = causal and mask is None and past_key is None and valid is None
        joined = mask if alone else _mask(
            mask, _allowed(q.shape[2], total, causal, past, valid), total
        )  # fmt: skip
        result = functional.scaled_dot_product_attention(
            q, k, v, joined, is_causal=alone, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
        if joined is not None:
            result = _only_seeing(result, joined)
    else:
        joined = _mask(mask, _allowed(q.shape[2], total, causal, past, valid), total)
        result, scores = _explicit(node, (q, k, v), joined, scale, inner)
    if flat:
        result = result.transpose(1, 2).flatten(2)
    return result, k, v, scores


def _explicit(
    node: Node,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    inner: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention in steps; return the result and the scores that the node asks for."""
    q, k, v = rows
    repeats = q.shape[1] // k.shape[1]
    if repeats != 1:
        k, v = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    root = math.sqrt(abs(scale))  # on both sides, as ONNX defines it: half precision may overflow
    stages = [torch.matmul(q * math.copysign(root, scale), (k * root).mT)]
    softcap = node.get("softcap", 0.0)
    stages.append(torch.tanh(stages[0] / softcap) * softcap if softcap else stages[0])
    scores = stages[1]
    if mask is not None and mask.dtype == torch.bool:
        scores = torch.where(mask, scores, -math.inf)
    elif mask is not None:
        scores = scores + mask
    stages.append(scores)
    weights = torch.softmax(scores.to(inner), -1)
    if mask is not None:  # a query that sees no key gives zeros
        weights = torch.where(scores.amax(-1, keepdim=True) == -math.inf, 0.0, weights)
    stages.append(weights.to(q.dtype))
    return torch.matmul(stages[3], v), stages[node.get("qk_matmul_output_mode", 0)]


@operator("RotaryEmbedding")
def rotary_embedding(
    node: Node,
    x: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turn pairs of channels by angles that grow with the position (arXiv:2104.09864)."""
    rows = x.transpose(1, 2) if x.ndim == 4 else x.unflatten(-1, (node.get("num_heads"), -1))
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    cosines, sines = cosines.unsqueeze(2), sines.unsqueeze(2)
    size = node.get("rotary_embedding_dim", 0) or rows.shape[-1]
    turned, rest = rows[..., :size], rows[..., size:]
    if node.get("interleaved", 0):
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, -1)
    pair = cosines * first - sines * second, sines * first + cosines * second
    turned = (
        torch.stack(pair, -1).flatten(-2) if node.get("interleaved", 0) else torch.cat(pair, -1)
    )
    result = torch.cat([turned, rest], -1) if size != rows.shape[-1] else turned
    return result.transpose(1, 2) if x.ndim == 4 else result.flatten(2)
