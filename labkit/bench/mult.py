"""MulT's encoders as one writes them first: a pair, a layer, an operation at a time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.timing import compare
from labkit.models.mult import Encoders, positions


def plain_encoder(
    encoders: Encoders,
    e: int,
    query: Tensor,
    source: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Encoder e without dropout: queries (B, T, D), source (B, S, D), valid (B, S) -> (B, T, D).

    As in the usual code keys and values are normalised and projected anew in every layer. The formulas are
    written out rather than taken from `labkit.models.mult`, whose weights this reads.
    """
    batch, steps, width = query.shape
    heads = encoders.heads

    def embedded(x: Tensor) -> Tensor:
        return math.sqrt(width) * x + positions(x.shape[1], width).to(x)

    def split(x: Tensor) -> Tensor:
        return x.view(batch, -1, heads, width // heads).transpose(1, 2)

    x, from_source = embedded(query), None if source is None else embedded(source)
    sources = steps if source is None else source.shape[1]
    hidden = torch.zeros(steps, sources, dtype=torch.bool, device=query.device)
    if encoders.causal:
        hidden = torch.ones_like(hidden).triu(1 + abs(sources - steps))
    if valid is not None:
        hidden = hidden | ~valid[:, None, None]
    for i in range(len(encoders.w_q)):
        scale, shift = encoders.attend_norm[i, e, 0], encoders.attend_shift[i, e, 0]
        normal = F.layer_norm(x, (width,), scale, shift)
        told = normal if from_source is None else F.layer_norm(from_source, (width,), scale, shift)
        q = split(F.linear(normal, encoders.w_q[i, e].T, encoders.b_q[i, e, 0]))
        k, v = map(
            split, F.linear(told, encoders.w_kv[i, e].T, encoders.b_kv[i, e, 0]).chunk(2, -1)
        )
        weights = (q @ k.mT / math.sqrt(width // heads)).masked_fill(hidden, -torch.inf).softmax(-1)
        heard = (weights @ v).transpose(1, 2).reshape(batch, steps, width)
        x = x + F.linear(heard, encoders.w_out[i, e].T, encoders.b_out[i, e, 0])
        inner = F.layer_norm(x, (width,), encoders.feed_norm[i, e, 0], encoders.feed_shift[i, e, 0])
        inner = F.linear(inner, encoders.w1[i, e].T, encoders.b1[i, e, 0]).relu()
        x = x + F.linear(inner, encoders.w2[i, e].T, encoders.b2[i, e, 0])
    return F.layer_norm(x, (width,), encoders.last_norm[e, 0], encoders.last_shift[e, 0])


def cross_modal(rounds: int) -> dict[str, Any]:
    """Six cross-modal encoders at MOSI's shape, forward and backward, against one after the other."""
    torch.manual_seed(0)
    encoders = Encoders(6, 32, 4)
    result: dict[str, Any] = {
        "what": "six encoders of 4 layers, 8 heads, width 32, over 46 steps, forward and backward, float32, "
        "one thread, no dropout",
    }
    for batch in (4, 32):
        query, source = torch.randn(2, 6, batch, 46, 32)

        def plain(query: Tensor = query, source: Tensor = source) -> Tensor:
            encoders.zero_grad()
            out = torch.stack([plain_encoder(encoders, e, query[e], source[e]) for e in range(6)])
            out.square().mean().backward()
            return out

        def stacked(query: Tensor = query, source: Tensor = source) -> Tensor:
            encoders.zero_grad()
            out = encoders(query, source)
            out.square().mean().backward()
            return out

        torch.testing.assert_close(stacked(), plain(), rtol=1e-3, atol=1e-4)
        result[f"batch of {batch}"] = compare({"plain": plain, "stacked": stacked}, rounds)
    return result
