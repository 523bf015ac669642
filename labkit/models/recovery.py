"""What a reviewer would try first: simpler ways to fill in a missing modality's features.

All of them fill in the features of one predictor (`labkit.models.predictor`), so that they can be compared
with flows (`labkit.models.dicmor`) on the same masks: nothing but what they fill in differs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.predictor import Features, Predictor, PredictorNet, moments, shown


@dataclass(frozen=True)
class Regressor:
    """Regression from each modality to each other one, step by step, by mean squared error.

    Args:
        predictor: Whose features it recovers.
        hidden: Width of both hidden layers of each network.
    """

    predictor: Predictor
    hidden: int = 64

    def build(self, parent: PredictorNet) -> RegressorNet:
        """New networks on the features of a trained predictor, which stays as it is."""
        return RegressorNet(self, copy.deepcopy(parent))


class RegressorNet(nn.Module):
    """M x M networks as one: weights are stacked along (target, source)."""

    mean: Tensor  # (M, 1, 1, D) of the features
    deviation: Tensor

    def __init__(self, config: Regressor, predictor: PredictorNet) -> None:
        super().__init__()
        self.config, self.predictor, self.shapes = (
            config,
            predictor.requires_grad_(False),
            predictor.shapes,
        )
        count, width = len(config.predictor.modalities), config.predictor.channels
        sizes = (width, config.hidden, config.hidden, width)
        self.weights = nn.ParameterList(
            torch.randn(count * count, a, b) * (2 / a) ** 0.5 for a, b in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(count * count, 1, b) for b in sizes[1:])
        self.register_buffer("mean", torch.zeros(count, 1, 1, width))
        self.register_buffer("deviation", torch.ones(count, 1, 1, width))

    def guesses(self, x: Tensor) -> Tensor:
        """Every modality from every one: features (M, B, T, D) -> (target M, source M, B, T, D)."""
        count = len(x)
        rows = ((x - self.mean) / self.deviation).flatten(1, 2).repeat(count, 1, 1)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            rows = torch.baddbmm(bias, rows.relu() if i else rows, weight)
        found = rows.view(count, count, *x.shape[1:])
        return found * self.deviation[:, None] + self.mean[:, None]

    def recover(self, seen: Features, visible: Tensor) -> Tensor:
        """The mean of what the visible modalities (B, M) say, where one is hidden: (M, B, T, D)."""
        there = visible.T[..., None, None].to(seen.x)
        guess = (self.guesses(shown(seen.x, visible)) * there).sum(1) / there.sum(0)
        return torch.where(visible.T[..., None, None], seen.x, guess)

    def predict(self, batch: Batch, visible: Tensor | None = None) -> Tensor:
        """The predictor's answer on recovered features, (B, outputs); as `DiCMoR.predict`."""
        seen, visible = self.predictor.look(batch, visible)
        return self.predictor.answer(self.recover(seen, visible), seen.length)

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over the pairs of modalities, in units of each feature's variance.

        The first step sets these units by its samples.
        """
        seen = self.predictor.features(batch)
        here = seen.rows(seen.observed)
        if step == 0 and self.training:
            self.mean, self.deviation = moments(seen, self.shapes)
        error = (
            ((self.guesses(seen.x) - seen.x[:, None]) / self.deviation[:, None]).square().mean(-1)
        )
        pairs = ~torch.eye(len(seen.x), dtype=torch.bool, device=error.device)[..., None, None]
        both = here[:, None] & here[None] & pairs
        total = torch.where(both, error, 0).sum() / both.sum().clamp(min=1)
        return total, {}
