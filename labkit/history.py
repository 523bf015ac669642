"""What a training has seen: a mean an epoch for the reader, every step of an epoch for the check."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from labkit import LabkitError


@dataclass
class History:
    """What a `fit` has seen, one number an epoch.

    Attributes:
        train: Figure -> mean over the training samples of each epoch, taken while the weights
            move. `total` is the loss, the others are the parts that the model names.
        val: The same over the validation samples, after each epoch; empty without them.
        epoch_seconds: Wall time of each epoch, validation included.
        steps: Optimiser steps done.
        best_epoch: Epoch (from 0) with the best `monitor`; None without `patience`.
    """

    train: dict[str, list[float]] = field(default_factory=dict)
    val: dict[str, list[float]] = field(default_factory=dict)
    epoch_seconds: list[float] = field(default_factory=list)
    steps: int = 0
    best_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return len(self.epoch_seconds)

    def to_dict(self) -> dict[str, Any]:
        """The history as plain JSON-able values; `History(**record)` reads it back."""
        return asdict(self)


class Figures:
    """The figures of one epoch, a row a batch: on the device until `sync` fills `rows`.

    Attributes:
        names: `total` and the names of the parts.
        rows: For each batch, name -> value; empty before `sync`.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[dict[str, float]] = []
        self._values: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, total: Tensor, parts: dict[str, Tensor], size: int) -> None:
        """Note the figures of a batch of `size` samples, without waiting for the device.

        Raises:
            LabkitError: if they are no scalar tensors, or not those of the batch before.
        """
        figures = {"total": total, **parts}
        if "total" in parts:
            raise LabkitError("model.loss names a part 'total', the name of the loss: rename it")
        for name, value in figures.items():
            if not isinstance(value, Tensor) or value.ndim:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise LabkitError(f"model.loss must give scalar tensors, but {name} has {got}")
        if self.names and list(figures) != self.names:
            raise LabkitError(
                f"model.loss must name the same parts for every batch, got {list(figures)} "
                f"after {self.names}"
            )
        self.names = list(figures)
        self._values.append(torch.stack([value.detach() for value in figures.values()]))
        self._sizes.append(size)

    def means(self) -> dict[str, float]:
        """Mean over the samples of each figure (after `sync`)."""
        weights = [size / sum(self._sizes) for size in self._sizes]
        return {
            name: sum(row[name] * weight for row, weight in zip(self.rows, weights, strict=True))
            for name in self.names
        }


def sync(*epoch: Figures, extra: Tensor) -> float:
    """Bring all figures of an epoch to the host in one transfer, with one more scalar.

    Args:
        epoch: Figures to fill, for example of training and of validation.
        extra: A scalar tensor that rides along.

    Returns:
        The value of `extra`.
    """
    on_device = [value for figures in epoch for value in figures._values]
    numbers = iter(torch.cat([*on_device, extra.detach().view(1)]).tolist())
    for figures in epoch:
        figures.rows = [{name: next(numbers) for name in figures.names} for _ in figures._values]
    return next(numbers)


def not_finite(figures: dict[str, float]) -> str:
    """The figures that are NaN or infinite, as text; empty if all are finite."""
    return ", ".join(f"{k} = {v}" for k, v in figures.items() if not math.isfinite(v))
