"""Streams: one network a modality, cut into stages, so that fusion can do something between them.

All methods of the fusion bench (`labkit.models.xnorm`, `fusion`, `misa`, `blending`) read the same streams:
what differs between them is nothing but the fusion. `Clip` is a small 3-D CNN, `Steps` the same for
sequences, `labkit.models.inception.Inception` the network of the paper.

A missing modality is zeros, and where a stream is not observed, its code is zeros, too, so that nothing of it
but the knowledge that it is missing reaches an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.predictor import task


class Stream(nn.Module):
    """What all streams have.

    Attributes:
        stages: Maps (B, C, *grid) -> (B, C', *grid').
        widths: C' of each stage.
        width: Numbers of the code.
    """

    stages: nn.ModuleList
    widths: tuple[int, ...]
    width: int

    def enter(self, x: Tensor) -> Tensor:
        """Samples as maps, (B, C, *grid)."""
        return x

    def code(self, maps: Tensor) -> Tensor:
        """Maps of the last stage as numbers, (B, width): their mean over the grid."""
        return maps.flatten(2).mean(2)


class Backbone(Protocol):
    """Recipe of a stream."""

    def build(self, shape: tuple[int, ...]) -> Stream:
        """A stream of samples of this shape."""
        ...


@dataclass(frozen=True)
class Clip:
    """A small 3-D CNN for clips (C, T, H, W): each stage halves height and width.

    Args:
        widths: Maps of each stage.

    Raises:
        ValueError: on no stage, or one without maps.
    """

    widths: tuple[int, ...] = (12, 24, 32)

    def __post_init__(self) -> None:
        _check(self.widths)

    def build(self, shape: tuple[int, ...]) -> Stream:
        """A stream of clips.

        Raises:
            ValueError: unless the shape has four sizes.
        """
        if len(shape) != 4:
            raise ValueError(f"a clip must have shape (C, T, H, W), got {shape}")
        return _Convolved(shape[0], self.widths, _volume)


@dataclass(frozen=True)
class Steps:
    """A small 1-D CNN for sequences (T, C); every step counts, padding too.

    Args:
        widths: Maps of each stage.

    Raises:
        ValueError: on no stage, or one without maps.
    """

    widths: tuple[int, ...] = (32, 32, 32)

    def __post_init__(self) -> None:
        _check(self.widths)

    def build(self, shape: tuple[int, ...]) -> Stream:
        """A stream of sequences.

        Raises:
            ValueError: unless the shape has two sizes.
        """
        if len(shape) != 2:
            raise ValueError(f"a sequence must have shape (T, C), got {shape}")
        return _Sequence(shape[1], self.widths, _line)


def _check(widths: tuple[int, ...]) -> None:
    if not widths or min(widths) < 1:
        raise ValueError(
            f"widths must be one number of maps a stage, each at least 1, got {widths}"
        )


class _Convolved(Stream):
    def __init__(
        self, channels: int, widths: tuple[int, ...], stage: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        sizes = zip((channels, *widths), widths, strict=False)
        self.stages = nn.ModuleList(stage(before, after) for before, after in sizes)
        self.widths, self.width = widths, widths[-1]


class _Sequence(_Convolved):
    def enter(self, x: Tensor) -> Tensor:
        return x.mT


def _volume(before: int, after: int) -> nn.Module:
    conv = nn.Conv3d(before, after, 3, (1, 2, 2), 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(after), nn.ReLU())


def _line(before: int, after: int) -> nn.Module:
    conv = nn.Conv1d(before, after, 3, 1, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(after), nn.ReLU())


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

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    modalities: Modalities
    backbone: Any = Clip()
    classes: int | None = 8
    hidden: int = 128
    dropout: float = 0.1

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
    """A network of the bench: subclasses say how to come by logits."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, classes), or numbers (B, 1)."""

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with the labels, or the mean absolute error of the number."""
        return task(self.predict(batch).float(), batch)


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
