"""MVAE's training step, and rendering digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch, subsets
from labkit.bench.timing import compare
from labkit.data import digits
from labkit.models.mvae import MVAE, preset


def powerset_loop(model: MVAE, batch: Batch, noise: Tensor, kl_weight: float) -> Tensor:
    """The training loss as the papers' codes compute it: a loop that encodes and decodes every subset anew.

    Formulas are written out rather than taken from `labkit.models.mvae`, so that this is also the
    reference its tests compare with. Complete batches only; objectives ``cross`` and ``own``.

    Args:
        model: The model.
        batch: B complete samples with labels.
        noise: Standard normal draws, (2^M - 1, B, D).
        kl_weight: beta.
    """
    total = torch.zeros((), dtype=noise.dtype)
    for s, subset in enumerate(subsets(len(model.modalities)).tolist()):
        precision, weighted = torch.ones((), dtype=noise.dtype), torch.zeros((), dtype=noise.dtype)
        for i, (name, encoder) in enumerate(model.encoders.items()):
            if subset[i]:
                mean, logvar = encoder(batch.x[name])
                precision = precision + logvar.neg().exp()
                weighted = weighted + logvar.neg().exp() * mean
        mean, variance = weighted / precision, 1 / precision
        z = mean + variance.sqrt() * noise[s]
        loss = kl_weight * 0.5 * (mean**2 + variance - 1 - variance.log()).sum(-1)
        for i, (name, modality) in enumerate(model.modalities.items()):
            out, target = model.decoders[name](z), batch.x[name].flatten(1)
            if modality.likelihood == "bernoulli":
                error = F.binary_cross_entropy_with_logits(out, target, reduction="none").sum(-1)
            else:
                error = (out - target).square().sum(-1)
            if model.config.objective == "cross" or subset[i]:
                loss = loss + modality.weight * error
        if model.label is not None and batch.y is not None:
            loss = loss + F.cross_entropy(model.label(z), batch.y, reduction="none")
        total = total + loss.mean()
    return total


def mvae_step(rounds: int) -> dict[str, Any]:
    """One training step of the poster's MVAE: 7 subsets batched, against the loop that re-encodes."""
    torch.manual_seed(0)
    model, batch = preset("poster").build(), digits.load("train", 64)
    # As `labkit.train` updates; lr 0, so that both ways see equal weights.
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, amsgrad=True, fused=True)

    def loop() -> Tensor:
        model.zero_grad(set_to_none=True)
        noise = torch.randn(7, 64, 512, generator=torch.Generator().manual_seed(1))
        loss = powerset_loop(model, batch, noise, model.kl_weight(0))
        loss.backward()
        return loss

    def batched() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss, _ = model.loss(batch, 0, torch.Generator().manual_seed(1))
        loss.backward()
        return loss

    def update(loss: Callable[[], Tensor]) -> None:
        loss()
        optimizer.step()

    torch.testing.assert_close(batched(), loop(), rtol=1e-5, atol=0)
    gradients = compare({"loop": loop, "batched": batched}, rounds)
    steps = compare({"loop": lambda: update(loop), "batched": lambda: update(batched)}, rounds)
    return {
        "what": "poster sizes (D = 512), batch 64, 7 subsets, float32, one thread",
        "forward_backward": gradients,
        "with_adam_update": steps,
    }


def render(rounds: int) -> dict[str, Any]:
    """Procedural digit images a second on one thread (a rate: there is nothing to compare it with)."""
    recipe = digits.Digits(n_train=2000)
    result = compare({"render": lambda: recipe.load("train")}, rounds)
    rate = 2 * recipe.n_train / (1e-3 * result["median_ms"]["render"])
    return {
        "what": "2,000 triplets (4,000 images and their speech), one thread",
        "images_per_second": round(rate),
    } | result
