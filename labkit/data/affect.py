"""Sentiment in three modalities: what is said, how it sounds, and the face. Sequences of feature vectors.

`Affect` is the recipe, `Affect.load` the data. At every time step all modalities show one *content*, made of
the class's mean, the speaker's *style*, which all modalities share too, and something that wanders on
through the sequence. Language shows it almost without noise, audio and vision with much, and with more in one
sample than in another. Each adds channels of its own that tell nothing, and mixes all of them by a fixed
invertible map: so each modality can be turned into any other, but for its noise. Sample i is the same,
to rounding, whatever the number of samples.

Source:
    After the data of Wang, Cui & Li, "Distribution-Consistent Modal Recovering for Incomplete Multimodal
    Learning", ICCV 2023 (CMU-MOSI and MOSEI: language, acoustic, vision), with everything known that the
    claim of that paper is about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.data.draws import Draws, balanced_labels

MODALITIES = ("language", "audio", "vision")
SPLITS = ("train", "val", "test")
CONTENT = 4  # numbers of the content at a time step
WANDER = 0.5  # deviation of what wanders
MEMORY = 0.7  # and its correlation from one step to the next
BLUR = 0.25  # deviation of the sentiment around its class
UNEVEN = 0.5  # deviation of the logarithm of a sample's noise, audio and vision
SLOPE = 0.2  # of the leaky ReLU below 0

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Affect:
    """Recipe of a data set of utterances.

    Args:
        classes: Steps of the scale, odd: 5 are -2 to 2, 7 are -3 to 3.
        steps: T, time steps of the longest sequence.
        shortest: Time steps of the shortest; None = all are of T steps. What follows the end of a sequence
            is 0.
        separation: Norm of every class's mean.
        style: Deviation of the speaker's style. At 0 modalities share nothing but the class and what
            wanders.
        noise: Deviations of the noise on the content: language, audio, vision.
        nuisance: Channels of its own that each modality adds, even; a modality has 4 + nuisance.
        flat: Each modality sees a plane of its own of the content, so that none can be turned into another.
        skew: 0: all classes equally often. Else each class is exp(skew) times as frequent as the one
            below it.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples.
        world: Seed of what stays: class means and maps of the modalities.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    classes: int = 5
    steps: int = 12
    shortest: int | None = None
    separation: float = 1.6
    style: float = 0.5
    noise: tuple[float, float, float] = (0.15, 1.0, 1.2)
    nuisance: int = 4
    flat: bool = False
    skew: float = 0.0
    n_train: int = 3000
    n_val: int = 500
    n_test: int = 1500
    seed: int = 0
    world: int = 0

    def __post_init__(self) -> None:
        if self.classes not in (3, 5, 7, 9):
            raise ValueError(f"classes must be 3, 5, 7 or 9, got {self.classes}")
        if self.nuisance < 0 or self.nuisance % 2:
            raise ValueError(f"nuisance must be even and at least 0, got {self.nuisance}")
        for name in ("steps", "n_train", "n_val", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.shortest is not None and not 1 <= self.shortest <= self.steps:
            raise ValueError(f"shortest must lie between 1 and {self.steps}, got {self.shortest}")
        for name in ("separation", "style", "skew", "seed", "world"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if len(self.noise) != 3 or min(self.noise) < 0:
            raise ValueError(f"noise must be three numbers of at least 0, got {self.noise}")

    @property
    def centre(self) -> int:
        """The class whose sentiment is neutral: sentiment = class - centre, roughly."""
        return self.classes // 2

    @property
    def channels(self) -> int:
        """Numbers of a modality at a time step, D."""
        return CONTENT + self.nuisance

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be made; None = CPU.

        Returns:
            language, audio, vision (B, T, D); labels 0 to classes - 1; factors `sentiment` (B,), in steps of
            the scale, `length` (B,) time steps, `content` (B, T, 4), `style` (B, 4), `unevenness` (B, 3),
            what a sample's noise is multiplied by in each modality.

        Raises:
            ValueError: on an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        index = torch.arange(n, device=device)
        draws, fixed = Draws(index, "affect", self.seed, split), self.fixed(index.device)
        y = self._labels(draws)
        length = self._lengths(draws)
        content, style = self._content(draws, fixed.means[y])
        uneven = (UNEVEN * draws.normal("unevenness", 3)).exp()
        uneven[:, 0] = 1  # language is as clear in one sample as in the other
        inside = torch.arange(self.steps, device=index.device) < length[:, None]
        x = {}
        for m, name in enumerate(MODALITIES):
            grain = draws.normal(f"{name}/noise", self.steps, CONTENT)
            seen = content @ fixed.views[m] + self.noise[m] * uneven[:, m, None, None] * grain
            own = draws.normal(f"{name}/own", self.steps, max(self.nuisance, 1))[
                ..., : self.nuisance
            ]
            own = fixed.own_mean[m] + fixed.own_sd[m] * own
            x[name] = fixed.show(torch.cat((seen, own), -1), m) * inside[..., None]
        sentiment = y - self.centre + BLUR * draws.normal("blur")
        factors = {
            "sentiment": sentiment.clamp(-self.centre, self.centre), "length": length,
            "content": content * inside[..., None], "style": style, "unevenness": uneven,
        }  # fmt: skip
        return Batch(x, y=y, factors=factors)

    def fixed(self, device: torch.device | str | None = None) -> Fixed:
        """What does not change from sample to sample: class means and the maps of the modalities."""
        made = _fixed(self.world, self.classes, self.nuisance, self.flat)
        found = Fixed(*(constant.to(device) for constant in made))
        return found._replace(means=self.separation * found.means)

    def _labels(self, draws: Draws) -> Tensor:
        if self.skew == 0:
            return balanced_labels(draws.index, self.classes, *draws.address)
        share = torch.softmax(self.skew * torch.arange(self.classes, device=draws.index.device), 0)
        return torch.bucketize(draws.uniform("class"), share.cumsum(0)[:-1])

    def _lengths(self, draws: Draws) -> Tensor:
        shortest = self.steps if self.shortest is None else self.shortest
        return shortest + draws.choice("length", self.steps - shortest + 1)

    def _content(self, draws: Draws, means: Tensor) -> tuple[Tensor, Tensor]:
        """Content (B, T, 4) = mean + style + what wanders; and the style (B, 4)."""
        style = self.style * draws.normal("style", CONTENT)
        wander = (
            WANDER * memory(self.steps, means.device) @ draws.normal("wander", self.steps, CONTENT)
        )
        return means[:, None] + style[:, None] + wander, style


def memory(steps: int, device: torch.device | str | None = None) -> Tensor:
    """(T, T): turns white noise into an AR(1) process of deviation 1 that starts as it goes on."""
    since = torch.arange(steps, device=device)
    since = since[:, None] - since
    fresh = torch.full((steps,), math.sqrt(1 - MEMORY**2), device=device)
    fresh[0] = 1
    return torch.where(since >= 0, MEMORY ** since.clamp(min=0), 0) * fresh


class Fixed(NamedTuple):
    """Constants of a world; the first axis is the modality's, but of `means`.

    `means` (classes, 4); `views` (3, 4, 4), identities, or projections onto a plane; `own_mean` and `own_sd`
    (3, nuisance); `first` and `second`, rotations (3, D, D); `offset` (3, D).
    """

    means: Tensor
    views: Tensor
    own_mean: Tensor
    own_sd: Tensor
    first: Tensor
    second: Tensor
    offset: Tensor

    def show(self, parts: Tensor, m: int) -> Tensor:
        """Content as seen and own channels, (..., D), to features: rotate, shift, bend, rotate."""
        return F.leaky_relu(parts @ self.first[m] + self.offset[m], SLOPE) @ self.second[m]

    def unshow(self, x: Tensor, m: int) -> Tensor:
        """The inverse of `show`: features (..., D) to content as seen (the first 4) and own channels."""
        bent = x @ self.second[m].mT
        return (torch.where(bent < 0, bent / SLOPE, bent) - self.offset[m]) @ self.first[m].mT


@lru_cache(maxsize=64)
def _fixed(world: int, classes: int, nuisance: int, flat: bool) -> Fixed:
    size, modalities = CONTENT + nuisance, len(MODALITIES)

    def drawn(name: str, rows: int, *shape: int) -> Tensor:
        return Draws(torch.arange(rows), "affect", "world", world).normal(name, *shape).double()

    means = F.normalize(drawn("means", classes, CONTENT), dim=1)
    rotations = torch.linalg.qr(drawn("rotations", 2 * modalities, size, size))[0].float()
    views = torch.eye(CONTENT).repeat(modalities, 1, 1)
    if flat:
        plane = torch.linalg.qr(drawn("planes", modalities, CONTENT, 2))[0]
        views = (plane @ plane.mT).float()
    own = drawn("own", modalities, 2, max(nuisance, 1))[..., :nuisance].float()
    offset = 0.5 * drawn("offset", modalities, size).float()
    return Fixed(
        means.float(), views, own[:, 0], (0.3 * own[:, 1]).exp(),
        rotations[:modalities], rotations[modalities:], offset,
    )  # fmt: skip
