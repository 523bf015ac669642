r"""The Modality Focusing Hypothesis on networks: a teacher that hears, a student that sees.

A network is a body, which turns a modality into 128 channels, and a linear head. Two of them are trained
jointly so that they agree (`Joint`, Algorithm 1, step 1). What comes before the channels does not change
when channels are permuted or frozen, so they are computed once and kept (`Channels`): all of Algorithm 1 and
all teachers of the paper's modes are then a matrix product each. Students learn from the teacher's logits,
which lie beside their samples as one more column of the data (`taught`).

Source:
    Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis", ICLR 2023, section 5 and Algorithm 1; released
    code: github.com/zihuixue/MFH, folder ravdess. Where ours differs, it says so. The linear models of
    section 4 are in `labkit.models.mfh`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models.mfh import Distillation, gap_scores

Mode = Literal["all", "random", "general", "specific"]
MODES: dict[Mode, int] = {
    "all": -1,
    "random": 0,
    "general": 1,
    "specific": 2,
}  # the released numbers
TEACHER = "teacher"  # the column of a batch that holds a teacher's logits

# Networks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Branch:
    """The body of a network: one modality to channels.

    Args:
        shape: Shape of a sample: (features,), (height, width), (colours, height, width), or (colours,
            frames, height, width), whose frames become colours.
        maps: Feature maps of the convolutions, of which the first two are followed by halving the picture;
            none: the sample is read as one vector, which teaching sizes do well with.
        kernels: Their sizes. The paper's image network has 3, 3, 3, its audio network 7, 5, 5.
        pool: Height and width of the grid that is left after them (by taking maxima).
        hidden: Width of the layer before the channels.
        channels: What Algorithm 1 ranks, D.
        center: Taken off every input first.
        scale: What it is divided by then.
    """

    shape: tuple[int, ...]
    maps: tuple[int, ...] = ()
    kernels: tuple[int, ...] = ()
    pool: tuple[int, int] = (7, 14)
    hidden: int = 128
    channels: int = 128
    center: float = 0.0
    scale: float = 1.0

    def build(self) -> nn.Sequential:
        """The untrained body: samples (B, *shape) to channels (B, D), none of them negative."""
        layers: list[nn.Module] = [_Scaled(self.center, self.scale)]
        width = math.prod(self.shape)
        if self.maps:
            width = math.prod(self.shape[:-2])
            layers.append(_AsPicture())
            for i, (maps, kernel) in enumerate(zip(self.maps, self.kernels, strict=True)):
                layers += [nn.Conv2d(width, maps, kernel, padding=1), nn.ReLU()]
                layers.append(nn.MaxPool2d(2) if i < 2 else nn.AdaptiveMaxPool2d(self.pool))
                width = maps
            width *= math.prod(self.pool)
        layers.append(nn.Flatten())
        for inside, out in ((width, self.hidden), (self.hidden, self.channels)):
            layers += [nn.Linear(inside, out), nn.ReLU()]
        return nn.Sequential(*layers)


def paper(modality: Literal["audio", "image"]) -> Branch:
    """The released RAVDESS networks: audio (40, frames), image (3, 256, 512)."""
    maps, width = (32, 64, 128), 1024
    if modality == "image":
        return Branch((3, 256, 512), maps, (3, 3, 3), hidden=width)
    return Branch((40, 256), maps, (7, 5, 5), hidden=width, center=-10.59, scale=85.66)


class _Scaled(nn.Module):
    def __init__(self, center: float, scale: float) -> None:
        super().__init__()
        self.center, self.scale = center, scale

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale


class _AsPicture(nn.Module):
    """Samples (B, H, W), (B, C, H, W) or (B, C, T, H, W) as (B, colours, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1, *x.shape[-2:])


@dataclass(frozen=True)
class Classifier:
    """A network of one modality, or of several whose channels lie side by side.

    Args:
        branches: Modality and body, in order.
        classes: Number of classes C.
        loss: What it minimises; with a teacher, its logits are the batch's modality ``teacher``.
    """

    branches: tuple[tuple[str, Branch], ...]
    classes: int = 8
    loss: Distillation = field(default_factory=lambda: Distillation(teacher=0.0))

    def build(self) -> ClassifierNet:
        """The untrained network; torch's global seed sets its weights."""
        return ClassifierNet(self)


class ClassifierNet(nn.Module):
    """Network of a `Classifier`."""

    def __init__(self, config: Classifier) -> None:
        super().__init__()
        self.config = config
        self.bodies = nn.ModuleDict({name: branch.build() for name, branch in config.branches})
        self.head = nn.Linear(sum(b.channels for _, b in config.branches), config.classes)

    def channels(self, batch: Batch) -> Tensor:
        """What the head reads: (B, D)."""
        return torch.cat([body(batch.x[name]) for name, body in self.bodies.items()], 1)

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        return self.head(self.channels(batch))

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The config's loss, and the labels' cross-entropy ``ce``."""
        logits, y = self.predict(batch), labels_of(batch)
        teacher = batch.x[TEACHER] if self.config.loss.teacher else logits.detach()
        total = self.config.loss.loss(logits, teacher, y)
        return total, {"ce": F.cross_entropy(logits, y)}


# Algorithm 1, step 1: two networks that agree --------------------------------------------------------


@dataclass(frozen=True)
class Joint:
    """Teacher and student trained together: CE(y, f_a) + CE(y, f_b) + distance * MSE(f_a, f_b).

    Args:
        a: The teacher's modality and body.
        b: The student's.
        classes: Number of classes C.
        distance: Weight of the mean squared distance of the logits; 0: two networks that know nothing of
            each other.
    """

    a: tuple[str, Branch]
    b: tuple[str, Branch]
    classes: int = 8
    distance: float = 1.0

    def build(self) -> JointNet:
        """The untrained pair; torch's global seed sets its weights."""
        return JointNet(self)


class JointNet(nn.Module):
    """Networks of a `Joint`."""

    def __init__(self, config: Joint) -> None:
        super().__init__()
        self.config = config
        self.a, self.b = (
            Classifier((each,), config.classes).build() for each in (config.a, config.b)
        )

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum, and its parts ``ce_a``, ``ce_b`` and ``distance``."""
        y, a, b = labels_of(batch), self.a.predict(batch), self.b.predict(batch)
        parts = {
            "ce_a": F.cross_entropy(a, y),
            "ce_b": F.cross_entropy(b, y),
            "distance": F.mse_loss(a, b),
        }
        return parts["ce_a"] + parts["ce_b"] + self.config.distance * parts["distance"], parts


# Cached channels ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Channels:
    """A trained teacher after its body, over a set of samples: all that Algorithm 1 needs.

    Attributes:
        z: The teacher's channels, (N, D).
        weight: Its head's weights, (C, D).
        bias: Its head's bias, (C,).
        gap: Its logits minus the student's, (C, N).
    """

    z: Tensor
    weight: Tensor
    bias: Tensor
    gap: Tensor

    def scores(self) -> Tensor:
        """Algorithm 1 in closed form over all samples at once, (D,); large = modality-general.

        The released code keeps the last batch's scores alone (ravdess/utils/helper.py:344).
        """
        return gap_scores(self.weight, self.z, self.gap)

    def heaviness(self) -> Tensor:
        """How much of the teacher's logits each channel makes: mean of W^2 over classes times Var(z), (D,).

        A control for `scores` that knows nothing of any student.
        """
        return self.weight.square().mean(0) * self.z.var(0, correction=0)

    def logits(self, frozen: Tensor | None = None, mean: Tensor | None = None) -> Tensor:
        """The teacher's logits (N, C), with some channels (D,) bool frozen to `mean` (D,).

        The released code freezes to the mean of whatever batch a sample is in; we freeze to the mean over the
        training samples, so that a teacher's answer depends on its sample alone.
        """
        z = self.z
        if frozen is not None:
            z = torch.where(frozen, z.mean(0) if mean is None else mean, z)
        return F.linear(z, self.weight, self.bias)


@torch.no_grad()
def cached(joint: JointNet, batch: Batch) -> Channels:
    """Run both bodies once over a batch."""
    z = joint.a.channels(batch)
    head = joint.a.head
    gap = (head(z) - joint.b.predict(batch)).T
    return Channels(z, head.weight.detach(), head.bias.detach(), gap)


def frozen(scores: Tensor, mode: Mode, ratio: float, generator: torch.Generator) -> Tensor:
    """Which channels a teacher loses: int(ratio * D) of them, (D,) bool.

    Args:
        scores: Algorithm 1's, (D,).
        mode: ``all``: it loses none (released number -1); ``random``: any (0); ``general``: the lowest
            scores, so that it keeps what is modality-general (1); ``specific``: the highest (2).
        ratio: Share of the channels.
        generator: Draws those of ``random``.

    Raises:
        ValueError: on an unknown mode, or a ratio outside [0, 1].
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1], got {ratio}")
    width = len(scores)
    count = 0 if mode == "all" else int(ratio * width)
    if mode == "random":
        order = torch.randperm(width, generator=generator).to(scores.device)
    else:  # by rank, not by index
        order = scores.argsort(descending=mode == "specific", stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, order[:count], True)


def frozen_by_index(scores: Tensor, ratio: float) -> Tensor:
    """What the released VGGSound code freezes in place of the lowest scores: **positions** below ratio * D.

    It sorts the scores, and then compares the *indices* with the threshold (vggsound/mfh_kd/main.py:44):
    whatever the scores are, the same channels go.
    """
    order = scores.argsort()
    gone = order[order < int(ratio * len(scores))]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, gone, True)


# Teaching ----------------------------------------------------------------------------------------


def taught(batch: Batch, logits: Tensor) -> Batch:
    """The batch with a teacher's logits (B, C) beside it, as the modality ``teacher``."""
    return Batch({**batch.x, TEACHER: logits}, y=batch.y)


def student_of(config: Joint, loss: Distillation) -> Classifier:
    """A fresh student of modality b that minimises `loss`."""
    return replace(Classifier((config.b,), config.classes), loss=loss)


def labels_of(batch: Batch) -> Tensor:
    """The labels (B,).

    Raises:
        ValueError: if the batch has none, or numbers to regress on instead.
    """
    if batch.y is None:
        raise ValueError("a teacher or student is trained on labels, and the batch has none")
    if batch.y.is_floating_point():
        raise ValueError(
            f"a teacher or student is trained on int64 class labels, got batch.y of {batch.y.dtype}"
        )
    return batch.y
