"""The two small networks that look at generated samples: a classifier and a factor regressor.

Coherence and style transfer are measured by asking a network trained on *real* samples about
*generated* ones (`labkit.metrics` turns its answers into figures). Its own held-out accuracy or
R^2 is printed beside them: no yardstick, no figure.

They live apart from the pure functions of `labkit.metrics`, so that a better plot of coherence does
not retrain the judge that the store keeps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from labkit.batch import Batch


@dataclass(frozen=True)
class Judge:
    """A small classifier of one modality, the yardstick of coherence.

    Args:
        modality: Name of the modality it reads.
        shape: Shape of one sample, such as (28, 28).
        classes: Number of classes C.
        hidden: Width of the first hidden layer; the second has half of it.
    """

    modality: str
    shape: tuple[int, ...]
    classes: int = 10
    hidden: int = 256

    def build(self) -> JudgeNet:
        """Make the untrained network; torch's global seed sets its weights."""
        return JudgeNet(self)


class JudgeNet(nn.Module):
    """Network of a `Judge`: call it on samples (..., *shape) for logits (..., C)."""

    def __init__(self, config: Judge) -> None:
        super().__init__()
        self.config = config
        self.net = _reader(config.shape, config.hidden, config.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Read samples (..., *shape) -> logits (..., C)."""
        return _read(self.net, x, self.config.shape)

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C) of a batch in which the modality is observed everywhere."""
        return self(_complete(batch, self.config.modality))

    def loss(
        self, batch: Batch, step: int = 0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy in nats, mean over the rows observed; parts: ``accuracy``.

        `step` and `generator` belong to the protocol and change nothing here.
        """
        if batch.y is None:
            raise ValueError("a Judge needs labels to learn from: batch.y is None")
        x, weight = _masked(batch, self.config.modality)
        logits = self(x)
        total = (weight * functional.cross_entropy(logits, batch.y, reduction="none")).sum()
        return total, {"accuracy": (weight * (logits.argmax(-1) == batch.y)).sum()}


@dataclass(frozen=True)
class FactorRegressor:
    """A small regressor of one true factor of a procedural modality, the yardstick of style.

    Args:
        modality: Name of the modality it reads.
        shape: Shape of one sample, as for `Judge`.
        factor: Name in `Batch.factors`; one number a sample.
        mean: Mean of the factor on the train split, in its units.
        std: Standard deviation there, > 0. Both are settings, so that a run's key names them.
        hidden: Width of the first hidden layer; the second has half of it.
    """

    modality: str
    shape: tuple[int, ...]
    factor: str
    mean: float = 0.0
    std: float = 1.0
    hidden: int = 256

    def build(self) -> FactorNet:
        """Make the untrained network; torch's global seed sets its weights."""
        if not self.std > 0:
            raise ValueError(f"std must be > 0 (the factor's spread on train), got {self.std}")
        return FactorNet(self)


class FactorNet(nn.Module):
    """Network of a `FactorRegressor`: call it on samples (..., *shape) for factors (...)."""

    def __init__(self, config: FactorRegressor) -> None:
        super().__init__()
        self.config = config
        self.net = _reader(config.shape, config.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Measure the factor of samples (..., *shape) -> (...), in the factor's units."""
        standard = _read(self.net, x, self.config.shape).squeeze(-1)
        return standard * self.config.std + self.config.mean

    def predict(self, batch: Batch) -> Tensor:
        """Factor (B,) of a batch in which the modality is observed everywhere."""
        return self(_complete(batch, self.config.modality))

    def loss(
        self, batch: Batch, step: int = 0, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error in units of `std`, mean over the rows observed: near 1 - R^2.

        Parts: ``error``, the mean absolute error in the factor's units.
        """
        factor = self.config.factor
        if factor not in batch.factors or batch.factors[factor].dim() != 1:
            known = ", ".join(name for name, values in batch.factors.items() if values.dim() == 1)
            raise ValueError(f"factor {factor!r} is not one of shape (B,) here: {known or 'none'}")
        x, weight = _masked(batch, self.config.modality)
        error = self(x) - batch.factors[factor]
        total = (weight * (error / self.config.std).square()).sum()
        return total, {"error": (weight * error.abs()).sum()}


def _reader(shape: tuple[int, ...], hidden: int, outputs: int) -> nn.Sequential:
    # Measured on procedural digits: two convolutions took three times as long and were no better
    # on new writers; without the normalisation, speech (spread 0.1 about 0.5) was read 6 to 17
    # points worse.
    if not shape or min(shape) < 1 or hidden < 2:
        raise ValueError(f"shape must name sizes, as (28, 28), and hidden >= 2: {shape}, {hidden}")
    first = [nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.LayerNorm(hidden), nn.SiLU()]
    second = [nn.Linear(hidden, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, outputs)]
    return nn.Sequential(*first, *second)


def _read(net: nn.Module, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if x.shape[-len(shape) :] != tuple(shape):
        raise ValueError(f"samples must have shape (..., *{tuple(shape)}), got {tuple(x.shape)}")
    read = net(x.reshape(-1, *shape))
    return read.reshape(*x.shape[: -len(shape)], read.shape[-1])


def _masked(batch: Batch, modality: str) -> tuple[Tensor, Tensor]:
    """Samples with zeros where unobserved, and row weights (B,) that average the others.

    No row is picked out, as that would make every training step wait for the device.
    """
    here = batch.observed[:, batch.column(modality)]
    x = batch.x[modality]
    weight = here / here.sum().clamp(min=1)
    return torch.where(here.view(-1, *[1] * (x.dim() - 1)), x, 0.0), weight


def _complete(batch: Batch, modality: str) -> Tensor:
    """Samples of a modality that no row may lack: there would be nothing to read."""
    here = batch.observed[:, batch.column(modality)]
    if not bool(here.all()):
        raise ValueError(
            f"{modality!r} is missing in {int((~here).sum())} of {len(batch)} rows: choose the "
            f"others first, batch[batch.observed[:, batch.column({modality!r})]]"
        )
    return batch.x[modality]
