"""Parts of a network that segments colour and depth, after ESANet.

Source:
    Seichter, Koehler, Lewandowski, Wengefeld & Gross, "Efficient RGB-D Semantic Segmentation for Indoor Scene
    Analysis", ICRA 2021; ResNet: He et al., CVPR 2016; pyramid pooling: Zhao et al., CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELLS = 4  # stages of an encoder, after each of which two may be fused


@dataclass(frozen=True)
class Sizes:
    """Sizes of encoders, context and decoder.

    Args:
        classes: Number of classes.
        size: Height and width of the pictures.
        stem: Maps of the first layer.
        maps: Maps after each of the four stages.
        blocks: Residual blocks of each stage.
        bottleneck: Blocks of three convolutions (ResNet-50), whose middle has a quarter of the maps; not of
            two.
        pool: Halve the pictures once more after the first layer, as ResNets do.
        bins: Grids of the pyramid pooling.
        context: Maps after it.
        decoder: Maps of the three steps of the decoder.
        refine: Blocks of each of them.

    Raises:
        ValueError: on pictures that cannot be halved so often.
    """

    classes: int = 10
    size: tuple[int, int] = (48, 64)
    stem: int = 16
    maps: tuple[int, int, int, int] = (16, 32, 64, 64)
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    bottleneck: bool = False
    pool: bool = False
    bins: tuple[int, ...] = (1, 3)
    context: int = 64
    decoder: tuple[int, int, int] = (64, 32, 16)
    refine: int = 1

    def __post_init__(self) -> None:
        coarsest = self.stride * 8
        if any(n % coarsest for n in self.size):
            raise ValueError(f"size must be multiples of {coarsest}, got {self.size}")

    @property
    def stride(self) -> int:
        """By how much pictures are smaller in the first stage."""
        return 4 if self.pool else 2


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, and batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """A residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        if bottleneck:
            inner = outputs // 4
            self.body = nn.Sequential(
                _conv(inputs, inner), nn.ReLU(), _conv(inner, inner, 3, stride), nn.ReLU(),
                _conv(inner, outputs),
            )  # fmt: skip
        else:
            self.body = nn.Sequential(
                _conv(inputs, outputs, 3, stride), nn.ReLU(), _conv(outputs, outputs, 3)
            )
        same = inputs == outputs and stride == 1
        self.past = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        out: Tensor = (self.body(x) + self.past(x)).relu()
        return out


class Mean(nn.Module):
    """Mean over the picture."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> (B, maps, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


class Weighed(nn.Module):
    """Squeeze and excitation: each map times a number that depends on the means of all."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        few = max(maps // 16, 2)
        self.ask = nn.Sequential(
            Mean(), nn.Conv2d(maps, few, 1), nn.ReLU(), nn.Conv2d(few, maps, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> the same shape."""
        out: Tensor = x * self.ask(x)
        return out


class Fuse(nn.Module):
    """Colour and depth, weighed and added."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.colour, self.depth = Weighed(maps), Weighed(maps)

    def forward(self, colour: Tensor, depth: Tensor) -> Tensor:
        """Two of (B, maps, H, W) -> one."""
        out: Tensor = self.colour(colour) + self.depth(depth)
        return out


class Encoder(nn.Module):
    """First layer and four stages of one modality."""

    def __init__(self, sizes: Sizes, colours: int) -> None:
        super().__init__()
        kernel = 7 if sizes.pool else 3
        self.stem = nn.Sequential(_conv(colours, sizes.stem, kernel, 2), nn.ReLU())
        widths = (sizes.stem, *sizes.maps)
        self.stages = nn.ModuleList(
            nn.Sequential(*(
                Residual(widths[j] if i == 0 else widths[j + 1], widths[j + 1],
                         2 if i == 0 and j else 1, sizes.bottleneck)
                for i in range(sizes.blocks[j])
            ))
            for j in range(CELLS)
        )  # fmt: skip


class Flat(nn.Module):
    """A residual block of 3 x 1 and 1 x 3 convolutions (ESANet's NonBottleneck1D)."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        tall = [nn.Conv2d(maps, maps, (3, 1), padding=(1, 0)) for _ in range(2)]
        wide = [nn.Conv2d(maps, maps, (1, 3), padding=(0, 1)) for _ in range(2)]
        self.body = nn.Sequential(
            tall[0], nn.ReLU(), wide[0], nn.BatchNorm2d(maps), nn.ReLU(),
            tall[1], nn.ReLU(), wide[1], nn.BatchNorm2d(maps),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> the same shape."""
        out: Tensor = (self.body(x) + x).relu()
        return out


class Double(nn.Module):
    """Twice as high and wide: each pixel four times, then a 3 x 3 filter a map, first that of bilinear."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(maps, maps, 3, padding=1, groups=maps)
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        with torch.no_grad():
            self.filter.weight.copy_((row[:, None] * row).expand_as(self.filter.weight))
            assert self.filter.bias is not None
            self.filter.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> (B, maps, 2 H, 2 W)."""
        out: Tensor = self.filter(F.interpolate(x, scale_factor=2, mode="nearest"))
        return out


class Context(nn.Module):
    """Pyramid pooling: means over coarse grids beside the maps themselves."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        maps, bins = sizes.maps[-1], sizes.bins
        part = maps // len(bins)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(grid), _conv(maps, part), nn.ReLU()) for grid in bins
        )
        self.join = nn.Sequential(_conv(maps + part * len(bins), sizes.context), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, maps, H, W) -> (B, context, H, W)."""
        size, seen = x.shape[-2:], [x]
        for part in self.parts:
            seen.append(F.interpolate(part(x), size, mode="nearest"))
        out: Tensor = self.join(torch.cat(seen, 1))
        return out


class Decoder(nn.Module):
    """From the context to logits of every pixel, with what cells gave added on the way."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        steps = sizes.decoder
        before = (sizes.context, *steps)
        self.skips = nn.ModuleList(
            nn.Sequential(_conv(maps, step), nn.ReLU())
            for maps, step in zip(sizes.maps[-2::-1], steps, strict=True)
        )
        self.steps = nn.ModuleList(
            nn.Sequential(
                _conv(before[i], step, 3), nn.ReLU(), *(Flat(step) for _ in range(sizes.refine))
            )
            for i, step in enumerate(steps)
        )
        self.doubles = nn.ModuleList(Double(step) for step in steps)
        self.sides = nn.ModuleList(nn.Conv2d(step, sizes.classes, 1) for step in steps)
        self.last = nn.Conv2d(steps[-1], sizes.classes, 3, padding=1)
        self.finish = nn.Sequential(
            *(Double(sizes.classes) for _ in range(sizes.stride.bit_length() - 1))
        )

    def forward(
        self, x: Tensor, cells: Sequence[Tensor], side: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Context and what the four cells gave; logits (B, classes, H, W), and smaller ones where wanted."""
        smaller = []
        for i, step in enumerate(self.steps):
            x = step(x)
            if side:
                smaller.append(self.sides[i](x))
            x = self.doubles[i](x) + self.skips[i](cells[CELLS - 2 - i])
        return self.finish(self.last(x)), smaller
