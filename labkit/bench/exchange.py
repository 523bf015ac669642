"""Sites of exchange and cross-attention as the released code of X-Norm writes them, and as here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.bench.mult import plain_encoder
from labkit.bench.timing import compare
from labkit.models.mult import MulT
from labkit.models.xnorm import EPSILON, Exchange, NormExchange


def plain_exchange(site: NormExchange, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """One site for maps (B, C, T, H, W), statistics repeated to the size of the maps."""

    def normal(x: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1)
        mean, variance = flat.mean(1), flat.var(1)
        shape = x.shape[1:]
        means = mean.view(-1, 1, 1, 1, 1).repeat(1, *shape)
        deviations = (variance + EPSILON).sqrt().view(-1, 1, 1, 1, 1).repeat(1, *shape)
        return (x - means) / deviations

    def told(x: Tensor, to: int) -> tuple[Tensor, Tensor]:
        encoder: Any = site.encoders[to]
        maps = torch.nn.functional.conv3d(x, encoder.weight[..., None, None], encoder.bias)
        beta, gamma = maps.chunk(2, 1)
        return beta, gamma

    (beta_one, gamma_one), (beta_other, gamma_other) = told(other, 0), told(one, 1)
    return (
        one + (normal(one) * gamma_one + beta_one),
        other + (normal(other) * gamma_other + beta_other),
    )


def norm_exchange(rounds: int) -> dict[str, Any]:
    """One site forward and backward, against statistics that are repeated to full size.

    What is saved is the repeating, so the ratio is high where maps are large. At the deep sites of I3D (14 x
    14 and 7 x 7 cells, 512 and 1024 channels) the product with the weights takes most of the time, both ways.
    """
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "what": "one site of exchange, forward and backward to maps and weights, float32, one thread; plain: "
        "mean and deviation repeated to the size of the maps, as in the released code",
    }
    shapes = {
        "teaching, site 0": (32, 12, 6, 8, 8), "teaching, site 1": (32, 24, 6, 4, 4),
        "I3D, Mixed_3b": (2, 256, 8, 28, 28), "I3D, Mixed_4d": (2, 512, 4, 14, 14),
        "I3D, Mixed_5c": (2, 1024, 2, 7, 7),
    }  # fmt: skip
    for name, shape in shapes.items():
        site = NormExchange(shape[1], Exchange())
        one, other = torch.randn(2, *shape).unbind()
        one.requires_grad_(True)
        other.requires_grad_(True)

        def run(
            way: Any, site: NormExchange = site, one: Tensor = one, other: Tensor = other
        ) -> Any:
            site.zero_grad()
            one.grad = other.grad = None
            made = way(one, other)
            (made[0].square().mean() + made[1].square().mean()).backward()
            return made

        def plain(site: NormExchange = site, run: Any = run) -> Any:
            return run(lambda a, b: plain_exchange(site, a, b))

        def ours(site: NormExchange = site, run: Any = run) -> Any:
            return run(lambda a, b: site((a, b)))

        torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-4)
        result[name] = compare({"plain": plain, "ours": ours}, rounds)
    return result


def plain_mult(fusion: MulT, features: Tensor) -> Tensor:
    """`MulT` without dropout, a pair and an operation at a time: (2, B, T, D) -> (B, K)."""
    heard = [
        plain_encoder(fusion.cross, e, features[t], features[s])
        for e, (t, s) in enumerate(zip(fusion.targets, fusion.sources, strict=True))
    ]
    told = [plain_encoder(fusion.memory, m, x).mean(1) for m, x in enumerate(heard)]
    read = torch.cat(told, 1)
    return fusion.answer(read + fusion.outer(fusion.inner(read).relu()))


def cross_attention(rounds: int) -> dict[str, Any]:
    """MulT of two modalities, forward and backward, against one pair and operation at a time."""
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "what": "cross-attention fusion of two modalities, forward and backward, float32, one thread, no "
        "dropout; plain: one encoder after the other, scores and weights as tensors",
    }
    sizes = {
        "released: 98 cells, width 30, 5 layers, batch 8": (98, 30, 5, 5, 8),
        "teaching: 24 cells, width 16, 2 layers, batch 32": (24, 16, 2, 4, 32),
    }
    for name, (cells, width, layers, heads, batch) in sizes.items():
        fusion = MulT(2, width, layers, 8, heads, causal=False, read="mean")
        features = torch.randn(2, batch, cells, width)

        def plain(fusion: MulT = fusion, features: Tensor = features) -> Tensor:
            fusion.zero_grad()
            out = plain_mult(fusion, features)
            out.square().mean().backward()
            return out

        def ours(fusion: MulT = fusion, features: Tensor = features) -> Tensor:
            fusion.zero_grad()
            out: Tensor = fusion(features)
            out.square().mean().backward()
            return out

        torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-4)
        result[name] = compare({"plain": plain, "ours": ours}, rounds)
    return result
