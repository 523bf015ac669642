"""Backbones: networks of one modality, cut into stages, that all fusion methods of the bench share.

`Clip` is a small 3-D CNN, `Steps` the same for sequences, `Pictures` for pictures and vectors;
`labkit.models.inception` has the network of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


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


@dataclass(frozen=True)
class Pictures:
    """A small 2-D CNN for pictures (H, W), each stage halving both; a network of as many layers for vectors.

    A vector's last maps are the same at all places, as if it had been seen in each of them: so streams end
    in one grid.

    Args:
        widths: Maps of each stage.
        grid: Places of the last maps of a vector: the same as pictures end in.

    Raises:
        ValueError: on no stage, or one without maps.
    """

    widths: tuple[int, ...] = (12, 24, 32)
    grid: tuple[int, int] = (4, 4)

    def __post_init__(self) -> None:
        _check(self.widths)

    def build(self, shape: tuple[int, ...]) -> Stream:
        """A stream of pictures or vectors.

        Raises:
            ValueError: unless the shape has one size or two.
        """
        if len(shape) == 2:
            return _Picture(1, self.widths, _plane)
        if len(shape) == 1:
            return _Vector(shape[0], self.widths, self.grid)
        raise ValueError(f"a picture must have shape (H, W), a vector (N,), got {shape}")


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


class _Picture(_Convolved):
    def enter(self, x: Tensor) -> Tensor:
        return x[:, None]


class _Vector(_Convolved):
    def __init__(self, channels: int, widths: tuple[int, ...], grid: tuple[int, int]) -> None:
        super().__init__(channels, widths, _point)
        self.stages[-1] = nn.Sequential(self.stages[-1], _Repeat(grid))

    def enter(self, x: Tensor) -> Tensor:
        return x[..., None, None]


class _Repeat(nn.Module):
    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, maps: Tensor) -> Tensor:
        return maps.expand(-1, -1, *self.grid)


def _volume(before: int, after: int) -> nn.Module:
    conv = nn.Conv3d(before, after, 3, (1, 2, 2), 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(after), nn.ReLU())


def _line(before: int, after: int) -> nn.Module:
    conv = nn.Conv1d(before, after, 3, 1, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(after), nn.ReLU())


def _plane(before: int, after: int) -> nn.Module:
    conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


def _point(before: int, after: int) -> nn.Module:
    conv = nn.Conv2d(before, after, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())
