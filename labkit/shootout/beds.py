"""The data of the shoot-out, and views of it: as sequences, and with every missing pattern."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from labkit.batch import Batch, subsets
from labkit.data.recipes import seeded


@dataclass(frozen=True)
class Sequences:
    """Modalities as sequences of as many steps, for methods that read nothing else.

    Sequences of one length stay as they are. Else clips (C, T, H, W) become T steps, and all others one step.

    Args:
        data: Recipe.
        seed: Replaces its own.
    """

    data: Any
    seed: int = 0

    def load(self, split: Any, device: torch.device | str | None = None) -> Batch:
        """One split; every modality (B, T, channels)."""
        batch = seeded(self.data, self.seed).load(split, device=device)
        return as_sequences(batch)


def as_sequences(batch: Batch) -> Batch:
    """The same samples as sequences (B, T, channels)."""
    if all(x.ndim == 3 for x in batch.x.values()) and len(_steps(batch)) == 1:
        return batch
    x = {}
    for name, values in batch.x.items():
        clip = values.ndim == 5
        steps = values.movedim(2, 1) if clip else values[:, None]
        x[name] = steps.flatten(2)
    return replace(batch, x=x)


def _steps(batch: Batch) -> set[int]:
    return {x.shape[1] for x in batch.x.values()}


@dataclass(frozen=True)
class Patterns:
    """Every sample of the training and validation splits once with each non-empty set of its modalities.

    Args:
        data: Recipe.
    """

    data: Any

    def load(self, split: Any, device: torch.device | str | None = None) -> Batch:
        """One split; the test split as it is."""
        batch: Batch = self.data.load(split, device=device)
        return batch if split == "test" else every_pattern(batch)


def every_pattern(batch: Batch) -> Batch:
    """Each sample once for every set of modalities that it has: B samples as S B or fewer, everything last.

    Samples of one set stand together, in their order.
    """
    every = subsets(len(batch.x)).to(batch.device)  # (S, M)
    has = (every[:, None] <= batch.observed).all(2)  # (S, B)
    chosen, index = has.nonzero(as_tuple=True)
    return replace(batch[index], observed=every[chosen])
