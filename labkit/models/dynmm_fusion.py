r"""DynMM, fusion level: a gate that chooses, image by image, how deep depth is fused into colour.

Two encoders read colour and depth in four stages. After each stage, a *cell* may fuse: colour goes on as
itself or with depth added, each channel weighed by squeeze and excitation. A path fuses in the first k cells,
k = 0 to 4, and what no cell needs of the depth encoder does not run:

.. math:: f_j = w_j\, r_j + (1 - w_j)\, \mathrm{SE}(r_j, d_j), \qquad w_j = g_0 + \dots + g_{j-1}

The gate reads colour and depth after the first layer. As published that layer always fuses, so that depth can
never be switched off altogether, and colour not at all; without `first`, path 0 sees colour alone.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, section 3.3 and tables 3 and 4; released code:
    github.com/zihuixue/DynMM, FusionDynMM/src/models/model_skip_mod_globalgate.py. The static network (`path`
    = 4) is ESANet: Seichter et al., ICRA 2021. Differs: skipped stages do not run; void pixels count nowhere;
    mean and deviation of the inputs belong to the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.madds import THOP, bill, total
from labkit.models.gates import Relaxation, cost, one_path
from labkit.models.rgbd import CELLS, Context, Decoder, Encoder, Fuse, Mean, Sizes

PATHS = CELLS + 1
VOID = -1  # the label of pixels that count nowhere

Gate = Literal["global", "cells"]
Resource = Literal["official", "madds"]


@dataclass(frozen=True)
class FusionConfig:
    """A network that segments colour and depth, and its gate.

    Args:
        sizes: Of its parts.
        side: Smaller answers in training, at each step of the decoder.
        gate: ``global``: one of the five paths; ``cells``: each cell fuses or not by itself, 16 patterns.
        path: Every picture takes this path, and there is no gate: 4 = always fuse. None = the gate chooses.
        depth: Without it the network sees colour alone, and `path` must be 0.
        first: Depth is fused in the first layer, too, on all paths; where there is no depth it says nothing.
        center: Mean of red, green, blue and depth in the training data.
        scale: Their deviations.
        balance: Weight of each class in the loss, as of `median_frequency`; empty = all alike.
        resource: ``official``: the mean over the paths of share times cost in GMAdds, that is a fifth of
            the expected cost; ``madds``: the expected cost over that of the dearest path.
        weight: Of the cost beside the loss of the task.
        relaxation: Of the gate in training.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    sizes: Sizes = field(default_factory=Sizes)
    side: bool = True
    gate: Gate = "global"
    path: int | None = None
    depth: bool = True
    first: bool = True
    center: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 3.0)
    scale: tuple[float, float, float, float] = (0.25, 0.25, 0.25, 1.5)
    balance: tuple[float, ...] = ()
    resource: Resource = "madds"
    weight: float = 0.0
    relaxation: Relaxation = field(default_factory=lambda: Relaxation(hard=False))

    def __post_init__(self) -> None:
        if self.gate not in ("global", "cells"):
            raise ValueError(f"gate must be 'global' or 'cells', got {self.gate!r}")
        if self.path is not None and not 0 <= self.path <= CELLS:
            raise ValueError(f"path must be None or 0 to {CELLS}, got {self.path}")
        if not self.depth and self.path != 0:
            raise ValueError(f"path must be 0 without depth, got {self.path}")
        if self.resource not in ("official", "madds"):
            raise ValueError(f"resource must be 'official' or 'madds', got {self.resource!r}")
        classes = self.sizes.classes
        if len(self.balance) not in (0, classes):
            raise ValueError(f"balance must have {classes} weights, got {len(self.balance)}")
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")

    def build(self) -> FusionNet:
        """The untrained network."""
        return FusionNet(self)


# The network --------------------------------------------------------------------------------------


class Segmented(NamedTuple):
    """What was answered, and how deep depth was fused.

    Attributes:
        logits: (B, classes, H, W).
        fuse: (B, 4), 1 where a cell fused.
    """

    logits: Tensor
    fuse: Tensor


def fused(weights: Tensor) -> Tensor:
    """Share of fusion in each cell, 1 - w_j, from weights of the five paths: (..., 5) -> (..., 4)."""
    return 1 - weights.cumsum(-1)[..., :CELLS]


def fuse_of(path: Tensor) -> Tensor:
    """Paths (B,) int64, 0 to 4, as cells that fuse: (B, 4), 0 or 1."""
    return (torch.arange(CELLS, device=path.device) < path[:, None]).float()


class FusionNet(nn.Module):
    """Encoders, cells, gate and decoder; `FusionConfig` says which."""

    center: Tensor  # (4, 1, 1)
    scale: Tensor
    balance: Tensor  # (classes,)
    costs: Tensor  # (5,) GMAdds

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        height, width = config.sizes.size
        self.shapes = {"rgb": (3, height, width)} | (
            {"depth": (1, height, width)} if config.depth else {}
        )
        self.colour = Encoder(config.sizes, 3)
        self.depth = Encoder(config.sizes, 1) if config.depth else None
        self.first = Fuse(config.sizes.stem) if config.depth and config.first else None
        deep = CELLS if config.path is None else config.path
        self.cells = nn.ModuleList(Fuse(maps) for maps in config.sizes.maps[:deep])
        if self.depth is not None:
            del self.depth.stages[deep:]
        self.context, self.decoder = Context(config.sizes), Decoder(config.sizes)
        self.gate = None
        if config.path is None:
            self.gate = nn.Sequential(
                nn.Conv2d(2 * config.sizes.stem, 8, 5, 2), nn.BatchNorm2d(8), nn.Tanh(),
                nn.Conv2d(8, 8, 5, 2), nn.BatchNorm2d(8), nn.Tanh(), Mean(),
                nn.Conv2d(8, PATHS if config.gate == "global" else 2 * CELLS, 1, bias=False),
            )  # fmt: skip
        self.register_buffer("center", torch.tensor(config.center)[:, None, None])
        self.register_buffer("scale", torch.tensor(config.scale)[:, None, None])
        self.register_buffer(
            "balance", torch.tensor(config.balance or (1.0,) * config.sizes.classes)
        )
        costs = depth_costs(config) if config.path is None else (1.0,) * PATHS
        self.register_buffer("costs", torch.tensor(costs))
        # A step on a CPU takes four fifths of the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    # From pictures to logits --------------------------------------------------------------------------

    def start(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Colour and depth after the first layer, which may fuse; without depth it is twice colour."""
        known = [name for name in batch.modalities if name in self.shapes]
        x = batch.only(*known).aligned(self.shapes).x
        colour = self.colour.stem((x["rgb"] - self.center[:3]) / self.scale[:3])
        depth = colour
        if self.depth is not None:
            depth = self.depth.stem((x["depth"] - self.center[3:]) / self.scale[3:])
        if self.first is not None:
            colour = self.first(colour, depth)
        if self.config.sizes.pool:
            colour, depth = (F.max_pool2d(each, 3, 2, 1) for each in (colour, depth))
        return colour, depth

    def choose(self, colour: Tensor, depth: Tensor) -> Tensor:
        """Logits of the gate from what `start` gave: (B, 5), or (B, 4, 2), whose first is to fuse."""
        assert self.gate is not None
        logits = self.gate(torch.cat((colour, depth), 1)).flatten(1)
        return logits if self.config.gate == "global" else logits.unflatten(1, (CELLS, 2))

    def chosen(self, logits: Tensor) -> Tensor:
        """Cells that fuse by the gate's choice, (B, 4), 0 or 1."""
        weights = one_path(logits)
        return fused(weights) if self.config.gate == "global" else weights[..., 0]

    def mixed(self, colour: Tensor, depth: Tensor, fuse: Tensor, side: bool = False) -> Any:
        """Logits where each cell fuses by a share (B, 4); all stages of depth run."""
        given = []
        for j, stage in enumerate(self.colour.stages):
            colour = stage(colour)
            if j < len(self.cells) and self.depth is not None:
                depth = self.depth.stages[j](depth)
                w = fuse[:, j, None, None, None]
                colour = (1 - w) * colour + w * self.cells[j](colour, depth)
            given.append(colour)
        return self.decoder(self.context(colour), given, side)

    def routed(self, colour: Tensor, depth: Tensor, fuse: Tensor) -> Tensor:
        """As `mixed` with 0 and 1, but depth's stages run for the pictures that need them alone."""
        cells = torch.arange(1, CELLS + 1, device=fuse.device)
        need = (fuse * cells).amax(1).long()  # the last cell that fuses: how many stages of depth
        order = need.argsort(descending=True, stable=True)
        counts = [*(need[:, None] >= cells).sum(0).tolist(), 0]  # the one wait for the device
        colour, depth, fuse = colour[order], depth[order], fuse[order] > 0
        given = []
        for j, stage in enumerate(self.colour.stages):
            colour = stage(colour)
            if n := counts[j]:
                assert self.depth is not None
                depth = self.depth.stages[j](depth[:n])
                both = self.cells[j](colour[:n], depth)
                both = torch.where(fuse[:n, j, None, None, None], both, colour[:n])
                colour = torch.cat((both, colour[n:]))
            given.append(colour)
        logits: Tensor = self.decoder(self.context(colour), given, False)[0]
        return logits[order.argsort()]

    def answer(self, batch: Batch, fuse: Tensor | None = None) -> Segmented:
        """Logits of every pixel; what no cell needs does not run.

        Args:
            batch: B pictures of colour and depth.
            fuse: (B, 4), 1 where a cell fuses, as of `fuse_of`, or any other pattern; None = by the gate,
                or the network's one path.

        Raises:
            ValueError: if a cell shall fuse that the network does not have.
        """
        colour, depth = self.start(batch)
        if fuse is None and self.gate is not None:
            fuse = self.chosen(self.choose(colour, depth))
        elif fuse is None:
            path = torch.full((len(batch),), self.config.path or 0, device=colour.device)
            fuse = fuse_of(path)
        if bool(fuse[:, len(self.cells) :].any()):
            raise ValueError(f"fuse must be 0 beyond the network's {len(self.cells)} cells")
        return Segmented(self.routed(colour, depth, fuse), fuse)

    # Training -----------------------------------------------------------------------------------------

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of all pixels with a label, at four sizes in training, and the cost of the path.

        Returns:
            The loss; detached parts ``task``, ``cost`` (share of the dearest path's) and ``fused`` (mean over
            cells).
        """
        colour, depth = self.start(batch)
        spent = colour.new_zeros(())
        if self.gate is None:
            fuse = fuse_of(torch.full((len(batch),), self.config.path or 0, device=colour.device))
        else:
            logits = self.choose(colour, depth)
            relaxation = self.config.relaxation if self.training else Relaxation()
            weights = relaxation.weights(logits, step, generator)
            fuse = fused(weights) if self.config.gate == "global" else weights[..., 0]
            spent = cost(paths_of(fuse), self.costs)
        said, smaller = self.mixed(colour, depth, fuse, self.training and self.config.side)
        assert batch.y is not None
        task = said.new_zeros(())
        for each in (said, *smaller):
            task = task + pixel_loss(each, batch.y, self.balance)
        highest = self.costs[-1].clamp(min=1e-9)
        by = 1 / PATHS if self.config.resource == "official" else 1 / highest
        parts = {"task": task, "cost": spent / highest, "fused": fuse.mean()}
        total_ = task + self.config.weight * by * spent
        return total_, {k: v.detach() for k, v in parts.items()}


def paths_of(fuse: Tensor) -> Tensor:
    """Weights of the five depths of the depth encoder, from shares of fusion: (..., 4) -> (..., 5).

    Depth runs as far as the last cell that fuses, cells taken for independent; of global gates exactly the
    gate's weights.
    """
    need = (
        fuse.flip(-1).cummax(-1).values.flip(-1)
    )  # how much of stage j is needed by it or a later cell
    one = torch.ones_like(need[..., :1])
    return torch.cat((one, need), -1) - torch.cat((need, torch.zeros_like(one)), -1)


def pixel_loss(logits: Tensor, y: Tensor, balance: Tensor) -> Tensor:
    """Weighted cross-entropy of pixels with a label, over the sum of their weights; 0 if there are none.

    Args:
        logits: (B, classes, h, w); labels are taken at every H / h-th pixel.
        y: (B, H, W), `VOID` where a pixel counts nowhere.
        balance: (classes,).
    """
    by = y.shape[-1] // logits.shape[-1]
    y = y[:, by // 2 :: by, by // 2 :: by]
    each = F.cross_entropy(logits.float(), y, balance, ignore_index=VOID, reduction="sum")
    weight = torch.where(y != VOID, balance[y.clamp(min=0)], 0).sum()
    return each / weight.clamp(min=1e-6)


def median_frequency(y: Tensor, classes: int) -> tuple[float, ...]:
    """Weights that make rare classes count: the median share of the classes over each one's.

    A class's share is that of its pixels among those of the pictures that have it (Eigen & Fergus, ICCV
    2015).

    Args:
        y: (B, H, W), `VOID` where a pixel counts nowhere.
        classes: Their number; one that never occurs has weight 0.
    """
    counts = torch.stack([(y == c).flatten(1).sum(1) for c in range(classes)], 1).double()  # (B, C)
    there = counts > 0
    pixels = counts.sum(1, keepdim=True)
    share = counts.sum(0) / (there * pixels).sum(0).clamp(min=1)
    found = share > 0
    median = share[found].median()
    return tuple(torch.where(found, median / share.clamp(min=1e-12), 0.0).tolist())


# What a path costs --------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def depth_costs(config: FusionConfig) -> tuple[float, ...]:
    """GMAdds of the depth encoder and its fusions on each of the five paths, counted as in the paper.

    The fusion in the first layer, which every path has, counts with the rest of the network.
    """
    with torch.device("meta"):
        net = FusionNet(replace(config, path=CELLS)).eval()
        picture = torch.empty(1, 1, *config.sizes.size)

    def run() -> None:
        assert net.depth is not None
        depth = net.depth.stem(picture)
        depth = F.max_pool2d(depth, 3, 2, 1) if config.sizes.pool else depth
        for stage, cell in zip(net.depth.stages, net.cells, strict=True):
            depth = stage(depth)
            cell(depth, depth)

    lines = bill(net, run)
    found = [total([line for line in lines if line.part.startswith("depth.stem")], THOP)]
    for j in range(len(net.cells)):
        heads = (f"depth.stages.{j}.", f"cells.{j}.")
        found.append(found[-1] + total([x for x in lines if x.part.startswith(heads)], THOP))
    return tuple(n / 1e9 for n in found)


# Presets ------------------------------------------------------------------------------------------


def nyu(maps: tuple[int, int, int] = (512, 256, 128), **changes: Any) -> FusionConfig:
    """The paper's sizes for NYU Depth V2: two ResNet-50, 480 x 640, 40 classes.

    The totals of the paper's table 4 are those of ``maps=(128, 128, 128)``, the defaults of the released
    class, which are not what the released arguments train.

    Args:
        maps: Of the decoder's steps; the first is the context's, too.
        changes: Other arguments of `FusionConfig`.
    """
    sizes = Sizes(
        40, (480, 640), 64, (256, 512, 1024, 2048), (3, 4, 6, 3), bottleneck=True, pool=True, bins=(1, 5),
        context=maps[0], decoder=maps, refine=3,
    )  # fmt: skip
    inputs: dict[str, Any] = {
        "center": (0.485, 0.456, 0.406, 2.841949), "scale": (0.229, 0.224, 0.225, 1.417259),
    }  # fmt: skip
    return FusionConfig(sizes, **inputs | changes)
