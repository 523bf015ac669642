r"""MulT: every modality attends to every other one, and what it heard is remembered and read at the end.

For each ordered pair of modalities there is a *cross-modal encoder* t <- s: a transformer whose queries come
from the target t and whose keys and values from the source s, the source's own embedding at every layer. What
the target heard from all others lies side by side and goes through a transformer of its own (the *memory*),
of which the last step is read.

.. math:: Z_{t \leftarrow s}^{[i]} = \hat Z + \mathrm{FFN}(\mathrm{LN}(\hat Z)), \quad
          \hat Z = Z_{t \leftarrow s}^{[i-1]} +
          \mathrm{Attention}(\mathrm{LN}(Z_{t \leftarrow s}^{[i-1]}), \mathrm{LN}(Z_s^{[0]}))

All encoders of one shape are computed as one: their weights are stacked along a first axis. Since keys and
values come from Z_s^[0] at every layer, those of all layers are one product.

Source:
    Tsai, Bai, Liang, Kolter, Morency & Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal
    Language Sequences", ACL 2019, section 3, https://arxiv.org/abs/1906.00295; here with the sizes and the
    causal mask that DiCMoR's released code has (github.com/mdswyz/DiCMoR, transformer.py). Differs: padding
    reaches no answer, and the last step that is read is the sequence's own. The residual is the code's.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Read = Literal["last", "first", "mean"]

# Steps up to which, on a CPU, weights as a tensor cost less than torch's fused attention.
FEW = 32


class Encoders(nn.Module):
    """E transformers of the same shape, pre-norm, with sinusoidal positions.

    Args:
        count: E.
        width: D, divisible by `heads` and by 2.
        layers: Number of layers.
        heads: Heads of the attention.
        dropout: Of attention weights.
        embed_dropout: Of what comes in.
        causal: A step attends to no later one.

    Raises:
        ValueError: if a number is too small or does not divide.
    """

    def __init__(
        self, count: int, width: int, layers: int, heads: int = 8,
        dropout: float = 0.0, embed_dropout: float = 0.0, causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in {
            "count": count,
            "width": width,
            "layers": layers,
            "heads": heads,
        }.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if width % heads or width % 2:
            raise ValueError(f"width must be divisible by 2 and by heads ({heads}), got {width}")
        self.heads, self.dropout, self.embed_dropout, self.causal = (
            heads,
            dropout,
            embed_dropout,
            causal,
        )
        stack = (layers, count)

        def matrix(inside: int, outside: int) -> nn.Parameter:
            bound = math.sqrt(6 / (inside + outside))  # Xavier
            return nn.Parameter(torch.empty(*stack, inside, outside).uniform_(-bound, bound))

        def row(size: int, value: float = 0.0) -> nn.Parameter:
            return nn.Parameter(torch.full((*stack, 1, size), value))

        self.attend_norm, self.attend_shift = row(width, 1.0), row(width)
        self.w_q, self.b_q = matrix(width, width), row(width)
        self.w_kv, self.b_kv = matrix(width, 2 * width), row(2 * width)
        self.w_out, self.b_out = matrix(width, width), row(width)
        self.feed_norm, self.feed_shift = row(width, 1.0), row(width)
        self.w1, self.b1 = matrix(width, 4 * width), row(4 * width)
        self.w2, self.b2 = matrix(4 * width, width), row(width)
        self.last_norm = nn.Parameter(torch.ones(count, 1, width))
        self.last_shift = nn.Parameter(torch.zeros(count, 1, width))

    def forward(
        self, query: Tensor, source: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """Let queries attend to their source, or, without one, to themselves.

        Args:
            query: (E, B, T, D).
            source: (E, B, S, D); None = self-attention.
            valid: (E, B, S) bool, which steps of the source are no padding; the first one has to be.

        Returns:
            (E, B, T, D).

        Raises:
            ValueError: if a shape does not fit.
        """
        count, width = self.last_norm.shape[0], self.last_norm.shape[-1]
        for name, x in {"query": query, "source": query if source is None else source}.items():
            if (
                x.ndim != 4
                or x.shape[0] != count
                or x.shape[-1] != width
                or x.shape[1] != query.shape[1]
            ):
                raise ValueError(
                    f"{name} must be ({count}, B, steps, {width}), got {tuple(x.shape)}"
                )
        shape = query.shape
        x = self._embed(query)
        steps, mask = shape[2] if source is None else source.shape[2], None
        if valid is not None or (self.causal and steps != shape[2]):
            mask = self._mask(shape[2], steps, valid, query.device)
        keys = None if source is None else self._keys(self._embed(source))
        for i in range(len(self.w_q)):
            normal = _normal(x)
            heard = keys[i] if keys is not None else self._keys(normal, i)[0]
            q = torch.baddbmm(
                *_affine(
                    self.w_q[i], self.b_q[i], self.attend_norm[i], self.attend_shift[i], normal
                )
            )
            told = self._attend(q.view(shape), heard.view(count, shape[1], steps, 2 * width), mask)
            x = x + torch.baddbmm(self.b_out[i], told, self.w_out[i])
            inner = _affine(
                self.w1[i], self.b1[i], self.feed_norm[i], self.feed_shift[i], _normal(x)
            )
            x = x + torch.baddbmm(self.b2[i], torch.baddbmm(*inner).relu_(), self.w2[i])
        return (_normal(x) * self.last_norm + self.last_shift).view(shape)

    def _embed(self, x: Tensor) -> Tensor:
        """Scaled, with positions: (E, B * steps, D)."""
        x = math.sqrt(x.shape[-1]) * x + positions(x.shape[2], x.shape[3], x.device)
        return F.dropout(x, self.embed_dropout, self.training).flatten(1, 2)

    def _keys(self, x: Tensor, layer: int | None = None) -> Tensor:
        """Keys and values of one layer, or of all: (layers, E, N, 2 D)."""
        at = slice(None) if layer is None else slice(layer, layer + 1)
        w = self.attend_norm[at].mT * self.w_kv[at]
        b = self.b_kv[at] + self.attend_shift[at] @ self.w_kv[at]
        return (_normal(x) if layer is None else x) @ w + b

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """(E, B, T, D), (E, B, S, 2 D) -> (E, B T, D)."""
        k, v = kv.chunk(2, -1)
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(0, 1) for x in (q, k, v)
        )
        p = self.dropout if self.training else 0.0
        if self.causal or mask is not None or q.is_cuda or max(q.shape[-2], k.shape[-2]) > FEW:
            told = F.scaled_dot_product_attention(
                q, k, v, mask, p, is_causal=self.causal and mask is None
            )
        else:
            weights = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1)
            told = F.dropout(weights, p) @ v
        return told.transpose(1, 2).reshape(len(kv), -1, kv.shape[-1] // 2)

    def _mask(self, steps: int, sources: int, valid: Tensor | None, device: torch.device) -> Tensor:
        """What may be attended to: (T, S), or (E B, 1, T, S)."""
        seen = torch.ones(steps, sources, dtype=torch.bool, device=device)
        seen = seen.tril(abs(sources - steps)) if self.causal else seen
        return seen if valid is None else seen & valid.flatten(0, 1)[:, None, None]


def _normal(x: Tensor) -> Tensor:
    """What LayerNorm does before its own weights."""
    return F.layer_norm(x, x.shape[-1:])


def _affine(
    w: Tensor, b: Tensor, scale: Tensor, shift: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A LayerNorm's weights folded into the matrix behind it: arguments of `baddbmm`."""
    return b + shift @ w, x, scale.mT * w


def positions(steps: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Sines, then cosines, of the steps 1, 2, ...: (steps, width), wavelengths from 2 pi to 20,000 pi."""
    rate = torch.exp(
        torch.arange(width // 2, device=device) * -(math.log(10_000) / max(width // 2 - 1, 1))
    )
    angle = torch.arange(1, steps + 1, device=device)[:, None] * rate
    return torch.cat((angle.sin(), angle.cos()), 1)


class MulT(nn.Module):
    """Fusion of M modalities: M (M - 1) cross-modal encoders, M memories, a residual layer, the answer.

    Args:
        modalities: M, at least 2.
        width: D of the modalities' features.
        layers: Of the cross-modal encoders; memories have at least 3.
        outputs: Numbers of the answer.
        heads: Heads of the attention.
        dropout: Of attention weights.
        embed_dropout: Of what comes in.
        output_dropout: In the last layer.
        causal: A step attends to no later one.
        read: Which steps are read: the ``last``, the ``first``, or the ``mean`` of all that are no padding.

    Raises:
        ValueError: on a single modality, an unknown `read`, or a number that does not divide.
    """

    def __init__(
        self, modalities: int, width: int, layers: int, outputs: int, heads: int = 8, dropout: float = 0.0,
        embed_dropout: float = 0.0, output_dropout: float = 0.0, causal: bool = True, read: Read = "last",
    ) -> None:  # fmt: skip
        super().__init__()
        if modalities < 2:
            raise ValueError(f"modalities must be at least 2, got {modalities}")
        if read not in get_args(Read):
            raise ValueError(f"read must be one of {', '.join(get_args(Read))}; got {read!r}")
        self.read = read
        pairs = [(t, s) for t in range(modalities) for s in range(modalities) if s != t]
        self.targets, self.sources = ([pair[i] for pair in pairs] for i in range(2))
        memory = (modalities - 1) * width
        self.cross = Encoders(len(pairs), width, layers, heads, dropout, embed_dropout, causal)
        self.memory = Encoders(
            modalities, memory, max(layers, 3), heads, dropout, embed_dropout, causal
        )
        self.inner = nn.Linear(modalities * memory, modalities * memory)
        self.outer = nn.Linear(modalities * memory, modalities * memory)
        self.answer = nn.Linear(modalities * memory, outputs)
        self.output_dropout = output_dropout

    def forward(self, features: Tensor, length: Tensor | None = None) -> Tensor:
        """Answer from the features of all modalities.

        Args:
            features: (M, B, T, D).
            length: (B,) steps that are no padding, at least 1; None = all.

        Returns:
            (B, outputs).
        """
        modalities, _, steps, _ = features.shape
        valid = None
        if length is not None and not self.cross.causal:  # else no step that counts sees padding
            valid = torch.arange(steps, device=length.device) < length[:, None]
            valid = valid.expand(len(self.targets), -1, -1)
        heard = self.cross(features[self.targets], features[self.sources], valid)
        heard = (
            heard.unflatten(0, (modalities, -1)).movedim(1, 3).flatten(3)
        )  # (M, B, T, (M - 1) D)
        told = self.memory(heard, valid=None if valid is None else valid[:modalities])
        read = self._read(told, length).transpose(0, 1).flatten(1)
        inner = F.dropout(self.inner(read).relu(), self.output_dropout, self.training)
        answer: Tensor = self.answer(read + self.outer(inner))
        return answer

    def _read(self, told: Tensor, length: Tensor | None) -> Tensor:
        """What is read of (M, B, T, D): (M, B, D)."""
        if self.read == "first":
            return told[:, :, 0]
        if length is None:
            return told[:, :, -1] if self.read == "last" else told.mean(2)
        if self.read == "last":
            return told[:, torch.arange(len(length), device=length.device), length - 1]
        valid = torch.arange(told.shape[2], device=length.device) < length[:, None]
        return (told * valid[..., None]).sum(2) / length[:, None]
