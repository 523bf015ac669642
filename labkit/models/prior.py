"""The prior that the flows of all modalities share: a Gaussian for each label.

Source:
    Wang, Cui & Li, "Distribution-Consistent Modal Recovering for Incomplete Multimodal Learning", ICCV 2023;
    released code: github.com/mdswyz/DiCMoR, dicmor.py:50-56 and 166-220, where the seven Gaussians are stored
    as convolutions of a zero input, and every sample is a turn of a loop. The flows are in
    `labkit.models.flow`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

PriorKind = Literal["single", "class", "linear"]
PRIORS: tuple[PriorKind, ...] = ("single", "class", "linear")


class Prior(nn.Module):
    """A diagonal Gaussian in latent space for each label; the same for all modalities and all times.

    Args:
        channels: C.
        kind: ``single`` Gaussian whatever the label; one for each ``class``; or one whose mean is ``linear``
            in a label that is a number, mu(y) = mean_0 + y mean_1.
        classes: Number of classes; for ``linear``, how many labels `logits` compares.
        learned_scale: Deviations are learnt, as in the released code; else all are 1.
        lowest: The label of class 0: labels lowest, lowest + 1, ... are classes 0, 1, ... (-3 for sentiment).

    Raises:
        ValueError: on an unknown kind, or fewer than one class.
    """

    def __init__(
        self, channels: int, kind: PriorKind = "class", classes: int = 7,
        learned_scale: bool = True, lowest: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if kind not in PRIORS:
            raise ValueError(f"kind must be one of {', '.join(PRIORS)}; got {kind!r}")
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.kind, self.classes, self.lowest = kind, classes, lowest
        rows = {"single": 1, "class": classes, "linear": 2}[kind]
        self.mean = nn.Parameter(torch.zeros(rows, channels))
        self.log_sd: Tensor | nn.Parameter
        if learned_scale:
            self.log_sd = nn.Parameter(torch.zeros(1 if kind == "linear" else rows, channels))
        else:
            self.register_buffer("log_sd", torch.zeros(1, channels))

    def class_of(self, y: Tensor) -> Tensor:
        """Index of the class of a label: the nearest, halves to the even number, as numpy rounds.

        Raises:
            ValueError: if a label has no class. Asking costs a GPU a sync.
        """
        index = self._class_of(y)
        if index.numel():
            low, high = torch.stack(index.aminmax()).tolist()
            if not 0 <= low <= high < self.classes:
                allowed = f"{self.lowest} to {self.lowest + self.classes - 1}"
                raise ValueError(f"y must round to {allowed}, got {y.min():g} to {y.max():g}")
        return index

    def _class_of(self, y: Tensor) -> Tensor:
        return (y.round().long() if y.is_floating_point() else y) - self.lowest

    def moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation for labels (B,): (B, C) each, or what broadcasts to it."""
        if self.kind == "linear":
            return self.mean[0] + y[:, None].to(self.mean) * self.mean[1], self.log_sd
        if self.kind == "single":
            return self.mean, self.log_sd
        # On a GPU labels are checked where a training starts, not at every step.
        index = self._class_of(y) if y.is_cuda else self.class_of(y)
        return self.mean[index], self.log_sd[index] if len(self.log_sd) > 1 else self.log_sd

    def log_prob(self, z: Tensor, y: Tensor) -> Tensor:
        """Log density p(z|y) of each row, in nats.

        Args:
            z: (M, B, T, C).
            y: (B,) labels.

        Returns:
            (M, B, T).
        """
        mean, log_sd = (m[:, None] for m in self.moments(y))  # (B, 1, C)
        return _gaussian(z, mean, log_sd)

    def logits(self, z: Tensor) -> Tensor:
        """Log density of each row under every label: with equal shares of labels, logits of p(y|z).

        The sum over the rows of a sequence (its padding left out), and over modalities that are taken for
        independent given y, are the logits of all of them. The released code never asks.

        Args:
            z: (..., C).

        Returns:
            (..., K); all equal for a single Gaussian.
        """
        labels = torch.arange(self.classes, device=z.device) + self.lowest
        mean, log_sd = self.moments(labels)
        precision = (-2 * log_sd).exp()  # (z - mean)^2 / sd^2, as two products of matrices
        squares = (
            z.square() @ precision.mT
            - 2 * z @ (mean * precision).mT
            + (mean.square() * precision).sum(-1)
        )
        found = -0.5 * squares - log_sd.sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)
        return found.expand(*z.shape[:-1], self.classes)


def _gaussian(z: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, summed over the last axis."""
    squares = ((z - mean) * (-log_sd).exp()).square() + 2 * log_sd
    return -0.5 * (squares.sum(-1) + z.shape[-1] * math.log(2 * math.pi))


def bits(log_density: Tensor, observed: Tensor, channels: int) -> Tensor:
    """Minus the mean log density, in bits a number; the lower the better, and it may be negative.

    The released loss stops at 0 (dicmor.py:212-220), where its gradient vanishes; this does not.

    Args:
        log_density: (M, B, T), nats a row.
        observed: What counts, True = present and no padding; (M, B, T).
        channels: C, numbers in a row.

    Returns:
        (M,): for each modality; 0 where nothing was observed.
    """
    total = torch.where(observed, log_density, 0).sum((1, 2))
    count = observed.sum((1, 2)).clamp(min=1)
    return -total / (math.log(2) * channels * count)
