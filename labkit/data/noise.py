"""Noise on one of two modalities, as DynMM's robustness test adds it, and the same for each sample by itself.

A modality that is hit gets Gaussian noise whose standard deviation, not variance, is `level` times mean|x|
(`labkit.batch.add_noise`). Three modes say which one may be hit: "rgb" (0 in the authors' code), "depth" (1),
or "either" (2), which hits rgb or depth or none, never both. Each is hit with a chance of 0.33.

`per_sample` is the one to use: it draws for each sample, from its seed and number alone, so that a sample
gets the same noise in whatever batch it comes. `per_mini_batch` is the authors' rule, for comparison.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, Figure 6; eval.py of their code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch, add_noise
from labkit.data.draws import Draws

MODES = ("rgb", "depth", "either")
CHANCE = 0.33

Mode = Literal["rgb", "depth", "either"]


def hits(u: Tensor, mode: Mode, chance: float = CHANCE) -> Tensor:
    """Which modality a uniform number lets be hit.

    Args:
        u: In [0, 1]; shape (N,).
        mode: One of `MODES`.
        chance: Of each modality that the mode names: at most 1, at most 1/2 with "either".

    Returns:
        (N, 2) bool: rgb, depth. Never both.

    Raises:
        ValueError: on an unknown mode, or a chance out of range.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}; got {mode!r}")
    most = 0.5 if mode == "either" else 1.0
    if not 0 <= chance <= most:
        raise ValueError(f"chance must lie in 0..{most:g} with mode={mode!r}, got {chance!r}")
    never, first = torch.zeros_like(u, dtype=torch.bool), u < chance
    second = {"rgb": never, "depth": first, "either": (u >= chance) & (u < 2 * chance)}[mode]
    return torch.stack((never if mode == "depth" else first, second), 1)


def per_sample(
    batch: Batch,
    level: float,
    mode: Mode,
    seed: int = 0,
    index: Tensor | None = None,
    chance: float = CHANCE,
) -> Batch:
    """Add noise to each sample by itself, in units of the sample's own mean|x|.

    Args:
        batch: Has modalities "rgb" and "depth"; what is not observed stays as it is.
        level: Deviation of the noise, relative to mean|x|; at 0 the values stay.
        mode: Which modality may be hit.
        seed: Of the noise.
        index: Numbers of the samples, (B,) int64; None = 0, 1, 2 ... A part of a batch needs its own numbers
            to get the same noise as in the whole.
        chance: Of each modality; 1 hits the modality in every sample ("either": at most 1/2).

    Returns:
        The batch with noise; at a larger level the same noise is larger.

    Raises:
        ValueError: on a negative level, an unknown mode, a chance out of range, or another number of indices.
    """
    _check(batch, level)
    number = torch.arange(len(batch), device=batch.device) if index is None else index
    if number.dtype != torch.int64 or number.shape != (len(batch),):
        raise ValueError(
            f"index must be int64 of shape ({len(batch)},), got {number.dtype} of {tuple(number.shape)}"
        )
    draws = Draws(number.to(batch.device), "noise", seed)
    hit = hits(draws.uniform("hit"), mode, chance)
    x = dict(batch.x)
    for column, name in enumerate(MODES[:2]):
        values = batch.x[name]
        here = batch.rows(name) & hit[:, column].view(-1, *[1] * (values.ndim - 1))
        size = values.flatten(1).abs().mean(1).view(-1, *[1] * (values.ndim - 1))
        grain = draws.normal(name, *values.shape[1:]).to(values.dtype)
        # Not a product with `here`: what is not observed may be NaN.
        x[name] = torch.where(here, values + level * size * grain, values)
    return replace(batch, x=x)


def per_mini_batch(
    batch: Batch, level: float, mode: Mode, generator: torch.Generator, batch_size: int = 8
) -> Batch:
    """Add noise as the authors' code does: one draw a mini-batch, which hits all its samples or none.

    Args:
        batch: Has modalities "rgb" and "depth".
        level: Deviation of the noise, relative to mean|x| over the mini-batch.
        mode: Which modality may be hit.
        generator: Draws which mini-batch is hit, and the noise.
        batch_size: Samples of a mini-batch; the authors' is 8.

    Raises:
        ValueError: on a negative level, an unknown mode, or a batch size below 1.
    """
    _check(batch, level)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    count = -(-len(batch) // batch_size)
    u = torch.rand(count, generator=generator, device=generator.device)
    parts = []
    for k, (rgb, depth) in enumerate(hits(u, mode).tolist()):
        part = batch[k * batch_size : (k + 1) * batch_size]
        parts.append(add_noise(part, {"rgb": level * rgb, "depth": level * depth}, generator).x)
    x = {name: torch.cat([part[name] for part in parts]) for name in batch.x}
    return replace(batch, x=x)


def _check(batch: Batch, level: float) -> None:
    for name in MODES[:2]:
        batch.column(name)
    if not 0 <= level < float("inf"):
        raise ValueError(f"level must be a number of at least 0, got {level!r}")
