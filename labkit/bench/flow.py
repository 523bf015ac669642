"""Flows as one writes them first: a modality, a step, an operation at a time (for `make bench` and tests).

Formulas are written out rather than taken from `labkit.models.flow`, whose weights these functions read.
As in the usual code of Glow, 1x1 convolutions mix the channels of (B, C, T) sequences, and their
determinants and inverses are computed where they are needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.bench.timing import compare
from labkit.models.flow import FlowConfig, Flows, Folded


def plain_matrices(flows: Flows) -> Tensor:
    """The mixing of every step and modality, (K, M, C, C): z = x W for a row x."""
    mixed = flows._mixing()
    if mixed is None:
        return torch.eye(flows.config.channels, dtype=flows.w1.dtype).expand(
            *flows.w1.shape[:2], -1, -1
        )
    return mixed[0]


def plain_coupling(flows: Flows, step: int, m: int, kept: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C/2, T) -> what the other half is multiplied by, and its shift."""
    hidden = F.relu(F.conv1d(kept, flows.w1[step, m].T[..., None], flows.b1[step, m, 0]))
    hidden = F.relu(F.conv1d(hidden, flows.w2[step, m].T[..., None], flows.b2[step, m, 0]))
    out = F.conv1d(hidden, flows.w3[step, m].T[..., None], flows.b3[step, m, 0])
    q, shift = (out * (3 * flows.gain[step, m, 0, :, None]).exp()).chunk(2, 1)
    by = (2 * torch.tanh(q / 2)).exp() if flows.config.scale == "bounded" else torch.sigmoid(q + 2)
    return by, shift


def plain_forward(flows: Flows, matrices: Tensor, m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sequences of modality m, (B, C, T), to latents, and the log-determinant of each, (B,)."""
    log_det = x.new_zeros(len(x))
    for step in range(flows.config.steps):
        if flows.loc is not None and flows.log_scale is not None:
            x = (x + flows.loc[step, m, 0, :, None]) * flows.log_scale[step, m, 0, :, None].exp()
            log_det = log_det + x.shape[-1] * flows.log_scale[step, m].sum()
        x = F.conv1d(x, matrices[step, m].T[..., None])
        log_det = log_det + x.shape[-1] * torch.linalg.slogdet(matrices[step, m])[1]
        kept, moved = x.chunk(2, 1)
        by, shift = plain_coupling(flows, step, m, kept)
        x = torch.cat((kept, (moved + shift) * by), 1)
        log_det = log_det + by.log().sum((1, 2))
    return x, log_det


def plain_inverse(flows: Flows, matrices: Tensor, m: int, z: Tensor) -> Tensor:
    """Latents of modality m, (B, C, T), to sequences."""
    for step in reversed(range(flows.config.steps)):
        kept, moved = z.chunk(2, 1)
        by, shift = plain_coupling(flows, step, m, kept)
        z = torch.cat((kept, moved / by - shift), 1)
        z = F.conv1d(z, torch.linalg.inv(matrices[step, m]).T[..., None])
        if flows.loc is not None and flows.log_scale is not None:
            z = z * (-flows.log_scale[step, m, 0, :, None]).exp() - flows.loc[step, m, 0, :, None]
    return z


@torch.no_grad()
def flow_both_ways(rounds: int) -> dict[str, Any]:
    """Three modalities to latents and back at MOSI's shape, against one operation after the other."""
    config = FlowConfig(channels=32, modalities=3, steps=8, hidden=64, mixing="learned")
    torch.manual_seed(0)
    flows = config.build()
    for weight in flows.parameters():
        weight.add_(0.02 * torch.randn_like(weight))
    matrices, kept = plain_matrices(flows), flows.fold()
    result: dict[str, Any] = {
        "what": "forward and inverse of three modalities, 46 time steps of 32 channels, 8 steps of ActNorm, "
        "learned mixing and bounded coupling, float32, one thread, no gradient; folded: what does not depend "
        "on the data is computed in the call, kept: it was before",
    }
    for batch in (4, 64):
        x = torch.randn(3, batch, 46, 32)
        wide = x.mT.contiguous()

        def plain(wide: Tensor = wide) -> list[tuple[Tensor, Tensor, Tensor]]:
            made = [plain_forward(flows, matrices, m, wide[m]) for m in range(3)]
            return [
                (z, log_det, plain_inverse(flows, matrices, m, z))
                for m, (z, log_det) in enumerate(made)
            ]

        def ours(folded: Folded | None = None, x: Tensor = x) -> tuple[Tensor, Tensor, Tensor]:
            folded = folded or flows.fold()
            z, log_det = folded.forward(x)
            return z, log_det, folded.inverse(z)

        z, log_det, back = ours()
        for m, (plain_z, plain_log_det, plain_back) in enumerate(plain()):
            torch.testing.assert_close(z[m].mT, plain_z, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(log_det[m].sum(-1), plain_log_det, rtol=1e-3, atol=1e-2)
            torch.testing.assert_close(back[m].mT, plain_back, rtol=1e-3, atol=1e-4)
        row = compare({"plain": plain, "folded": ours, "kept": lambda: ours(kept)}, rounds)
        row["largest_error_of_the_inverse"] = float((back - x).abs().max())
        result[f"batch of {batch}"] = row
    return result
