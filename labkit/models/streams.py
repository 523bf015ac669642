"""Streams: one network a modality, cut into stages, so that fusion can do something between them.

All methods of the fusion bench (`labkit.models.xnorm`, `fusion`, `misa`, `blending`) read the same streams:
what differs between them is nothing but the fusion. Networks of one modality are in `labkit.models.backbones`
and, the paper's, in `labkit.models.inception`.

A missing modality is zeros, and where a stream is not observed, its code is zeros, too, so that nothing of it
but the knowledge that it is missing reaches an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.backbones import Backbone, Clip, Stream
from labkit.models.predictor import hidden, task

# Samples in, codes out ----------------------------------------------------------------------------

Modalities = tuple[tuple[str, tuple[int, ...]], ...]


class Streams(nn.Module):
    """A stream for each modality.

    Args:
        modalities: Name and shape of each.
        backbone: Recipe of every stream.
    """

    def __init__(self, modalities: Modalities, backbone: Backbone) -> None:
        super().__init__()
        self.shapes = dict(modalities)
        self.each = nn.ModuleList(backbone.build(shape) for shape in self.shapes.values())

    @property
    def streams(self) -> list[Stream]:
        """One a modality."""
        return cast(list[Stream], list(self.each))

    @property
    def widths(self) -> tuple[int, ...]:
        """Maps of each stage."""
        return self.streams[0].widths

    @property
    def width(self) -> int:
        """Numbers of a code."""
        return self.streams[0].width

    def enter(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Maps for each first stage, and what is observed, (B, M); other modalities are left out.

        Raises:
            ValueError: if there are none but others, in the batch or in a row, or samples have another
                shape.
        """
        others = [name for name in batch.modalities if name not in self.shapes]
        if 0 < len(others) < len(batch.modalities):  # only then: `drop` waits for the device
            batch = batch.drop(*others)
        batch = batch.aligned(self.shapes)
        samples = zip(self.streams, batch.x.values(), strict=True)
        return [stream.enter(x) for stream, x in samples], batch.observed

    def stage(self, i: int, maps: Sequence[Tensor]) -> list[Tensor]:
        """Stage i of each stream."""
        return [stream.stages[i](x) for stream, x in zip(self.streams, maps, strict=True)]

    def maps(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Maps of the last stages, and what is observed."""
        maps, observed = self.enter(batch)
        for i in range(len(self.widths)):
            maps = self.stage(i, maps)
        return maps, observed

    def code(self, maps: Sequence[Tensor], observed: Tensor) -> list[Tensor]:
        """Codes (B, width); zeros where a modality is not observed."""
        codes = [stream.code(x) for stream, x in zip(self.streams, maps, strict=True)]
        return [torch.where(observed[:, i, None], code, 0.0) for i, code in enumerate(codes)]

    def cells(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Maps of the last stages as sequences of cells in raster order, and what is observed.

        Returns:
            (M, B, cells, maps), zeros where a modality is not observed; (B, M).

        Raises:
            ValueError: if the streams end in grids of different sizes.
        """
        maps, observed = self.maps(batch)
        if len({x.shape for x in maps}) > 1:
            found = ", ".join(str(tuple(x.shape[1:])) for x in maps)
            raise ValueError(f"streams must end in maps of one shape, got {found}")
        cells = torch.stack([x.flatten(2).mT for x in maps])
        return torch.where(observed.T[..., None, None], cells, 0.0), observed

    def forward(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Codes of all modalities, and what is observed."""
        maps, observed = self.maps(batch)
        return self.code(maps, observed), observed


# What all methods have ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """What is the same in all methods of the bench.

    Args:
        modalities: Name and shape of each, two or more.
        backbone: Recipe of every stream.
        classes: Number of classes; None = the answer is a number.
        hidden: Width of the layers behind the codes.
        dropout: Between these.
        hide: Probability with which training hides each modality, one at least being kept; 0.5 shows all
            subsets equally often ("modality dropout"). 0 = train on what is there.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    modalities: Modalities
    backbone: Any = field(default_factory=Clip)
    classes: int | None = 8
    hidden: int = 128
    dropout: float = 0.1
    hide: float = 0.0

    def __post_init__(self) -> None:
        names = [name for name, _ in self.modalities]
        if len(names) < 2 or len({*names}) < len(names):
            raise ValueError(f"modalities must be two or more of different names, got {names}")
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes must be None or at least 2, got {self.classes}")
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 <= self.hide < 1:
            raise ValueError(f"hide must lie in [0, 1), got {self.hide}")

    @property
    def outputs(self) -> int:
        """Numbers of the answer."""
        return self.classes or 1

    def streams(self, names: Sequence[str] | None = None) -> Streams:
        """Untrained streams of these modalities; None = all."""
        wanted = [
            (name, shape) for name, shape in self.modalities if names is None or name in names
        ]
        return Streams(tuple(wanted), self.backbone)


class Answering(nn.Module, ABC):
    """A network of the bench: subclasses say how to come by logits.

    Attributes:
        config: A `Bench`.
    """

    config: Any

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, classes), or numbers (B, 1)."""

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with the labels, or the mean absolute error of the number."""
        batch = self.partly(batch, generator)
        return task(self.predict(batch).float(), batch)

    def partly(self, batch: Batch, generator: torch.Generator) -> Batch:
        """What training looks at: the batch, less what `hide` hides."""
        if not self.config.hide:
            return batch
        return batch.with_observed(hidden(batch.observed, self.config.hide, generator))


def head(inside: int, config: Bench) -> nn.Sequential:
    """From a code to the answer; no dropout on the logits (the released code drops these, too)."""
    hidden, p = config.hidden, config.dropout
    return nn.Sequential(
        nn.Linear(inside, hidden), nn.Dropout(p), nn.Tanh(),
        nn.Linear(hidden, hidden), nn.Dropout(p), nn.Tanh(), nn.Linear(hidden, config.outputs),
    )  # fmt: skip


def mean_of(logits: Sequence[Tensor], weights: Sequence[float], observed: Tensor) -> Tensor:
    """Weighted mean (B, K) of the observed modalities' logits, (B, K) each; 0 if they weigh nothing."""
    share = torch.stack([here * float(w) for here, w in zip(observed.T, weights, strict=True)], 1)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    return torch.stack([share[:, i, None] * one for i, one in enumerate(logits)]).sum(0)
