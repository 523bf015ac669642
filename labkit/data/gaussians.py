"""Gaussian data of the Modality Focusing Hypothesis: two modalities that share what decides the label.

A label is decided by *latents*, standard normal numbers: y = 1 where their product with a hyperplane is
positive. Modality a (the teacher's) and b (the student's) each show some of the latents in channels of
their own and noise in the rest. Of the latents that are seen at all, the share that both show is gamma
(modality-general), the share that only a shows is alpha, the share that only b shows is beta::

    latents     | b alone |  both  | a alone | hidden |        alpha + beta + gamma = 1
    a           [ noise   | s s s s  s s s s s | noise ]
    b           [ s s s s s s s s s | noise .......... ]

A latent has the same channel in a and b. There is no noise on it: both show the same number.

Source:
    Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis", ICLR 2023, section 4.1 and appendix; data
    are drawn in the order of the published scripts, so that seeds give the published numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labkit.batch import Batch

PLANE = 500  # weights that the published script draws, whatever the number of latents

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Venn:
    """How many latents are seen by whom, and in how many channels.

    Args:
        only_a: Latents that modality a alone shows.
        both: Latents that both show.
        only_b: Latents that modality b alone shows.
        hidden: Latents that nobody shows: they make the label uncertain.
        channels_a: Channels of a, those of noise included.
        channels_b: Channels of b.

    Raises:
        ValueError: on a negative count, if nothing is seen, or if the channels do not suffice.
    """

    only_a: int
    both: int
    only_b: int
    hidden: int = 0
    channels_a: int = 50
    channels_b: int = 50

    def __post_init__(self) -> None:
        for name in ("only_a", "both", "only_b", "hidden"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.seen:
            raise ValueError("only_a, both and only_b are all 0: no modality sees any latent")
        for name, (_, stop) in (("channels_a", self.a), ("channels_b", self.b)):
            if getattr(self, name) < max(stop, 1):
                raise ValueError(
                    f"{name} must be at least {max(stop, 1)} to show the latents, got {getattr(self, name)}"
                )

    @property
    def latents(self) -> int:
        """Latents that decide the label."""
        return self.seen + self.hidden

    @property
    def seen(self) -> int:
        """Latents that some modality shows."""
        return self.only_a + self.both + self.only_b

    @property
    def a(self) -> tuple[int, int]:
        """First latent that a shows, and the one after the last."""
        return self.only_b, self.seen

    @property
    def b(self) -> tuple[int, int]:
        """The same of b."""
        return 0, self.only_b + self.both

    @property
    def shared(self) -> Tensor:
        """Channels of modality-general decisive latents, the same in a and b."""
        return torch.arange(self.only_b, self.only_b + self.both)

    @property
    def alpha(self) -> float:
        """Share of the latents seen that only a shows."""
        return self.only_a / self.seen

    @property
    def beta(self) -> float:
        """Share that only b shows."""
        return self.only_b / self.seen

    @property
    def gamma(self) -> float:
        """Share that both show."""
        return self.both / self.seen

    def bayes(self, modality: Literal["a", "b"]) -> float:
        """Best possible accuracy from one modality: 1/2 + arcsin(sqrt(m / D)) / pi.

        For latents of equal weight (``hyperplane="ones"``), of which the modality shows m of D.
        """
        start, stop = self.a if modality == "a" else self.b
        return 0.5 + float(np.arcsin(np.sqrt((stop - start) / self.latents))) / np.pi


def increase_gamma(both: int) -> Venn:
    """Experiment 1 (Figure 2): each modality shows 10 of 20 latents, `both` of them in common (0 to 10)."""
    if not 0 <= both <= 10:
        raise ValueError(f"both must be a whole number from 0 to 10, got {both}")
    return Venn(10 - both, both, 10 - both, hidden=both, channels_a=25)


def increase_alpha(only_a: int) -> Venn:
    """Experiment 2 (Figure 3): b shows 10 of 50 latents, a the same and `only_a` more (0 to 40)."""
    if not 0 <= only_a <= 40:
        raise ValueError(f"only_a must be a whole number from 0 to 40, got {only_a}")
    return Venn(only_a, 10, 0, hidden=40 - only_a)


def ratios(alpha: float, gamma: float, seen: int = 20, hidden: int = 0) -> Venn:
    """The data with these shares of `seen` latents; what is left is beta.

    Raises:
        ValueError: on shares that are no shares, or that no whole number of latents gives; the message
            names the nearest that one does.
    """
    counts = []
    for name, share in (("alpha", alpha), ("gamma", gamma)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")
        counts.append(round(share * seen))
        if abs(counts[-1] - share * seen) > 1e-6:
            raise ValueError(
                f"{name} = {share:g} is no whole number of {seen} latents; the nearest is "
                f"{counts[-1]} / {seen} = {counts[-1] / seen:g}"
            )
    if sum(counts) > seen:
        raise ValueError(f"alpha + gamma must be at most 1, got {alpha:g} + {gamma:g}")
    return Venn(counts[0], counts[1], seen - sum(counts), hidden)


@dataclass(frozen=True)
class Gaussians:
    """Recipe of one draw of the data.

    Args:
        venn: Who sees what.
        seed: Seed of the draw.
        hyperplane: ``ones``: every latent weighs the same, as the paper's figures were made; ``randn``:
            weights are drawn, as in the released `gauss/main.py`.
        script: Whose order of drawing is followed. ``main``: b before a, test data from seed + 1;
            ``modify`` (`gauss/main_modify_gamma.py`, Table 2): a before b, one stream for all.
        n_train: Training samples.
        n_test: Test samples.

    Raises:
        ValueError: on a value that is not allowed.
    """

    venn: Venn = field(default_factory=lambda: increase_gamma(5))
    seed: int = 0
    hyperplane: Literal["ones", "randn"] = "ones"
    script: Literal["main", "modify"] = "main"
    n_train: int = 200
    n_test: int = 1000

    def __post_init__(self) -> None:
        for name, allowed in (("hyperplane", ("ones", "randn")), ("script", ("main", "modify"))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if not 0 <= self.seed < 2**32 - 1:
            raise ValueError(f"seed must be a whole number from 0 to 2^32 - 2, got {self.seed}")
        if min(self.n_train, self.n_test) < 1:
            raise ValueError(
                f"n_train and n_test must be at least 1, got {self.n_train}, {self.n_test}"
            )

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """One split: modalities a (B, channels_a) and b (B, channels_b) in float64, and labels 0 and 1."""
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        x_a, x_b, y = (torch.from_numpy(part) for part in _arranged(self, split))
        return Batch({"a": x_a, "b": x_b}, y=y).to("cpu" if device is None else device)


def _arranged(data: Gaussians, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x_a, x_b and y of a split: the drawn noise with the latents put in their places."""
    venn = data.venn
    drawn = _drawn(
        data.seed, data.script, data.hyperplane, (data.n_train, data.n_test),
        venn.latents, venn.channels_a, venn.channels_b,
    )  # fmt: skip
    plane, splits = drawn
    latents, noise_a, noise_b = splits[split]
    x_a, x_b = noise_a.copy(), noise_b.copy()
    for x, (start, stop) in ((x_a, venn.a), (x_b, venn.b)):
        x[:, start:stop] = latents[:, start:stop]
    return x_a, x_b, (latents @ plane > 0).astype(np.int64)


Draws = tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]


@lru_cache(maxsize=128)
def _drawn(
    seed: int, script: str, hyperplane: str, sizes: tuple[int, int], latents: int, a: int, b: int
) -> Draws:
    """Hyperplane, and split -> latents, noise of a, noise of b. Who sees what changes none of it."""
    random = np.random.RandomState(seed)  # the published scripts' generator
    plane = random.randn(PLANE)[:latents] if hyperplane == "randn" else np.ones(latents)
    splits = {}
    for split, n in zip(("train", "test"), sizes, strict=True):
        if split == "test" and script == "main":
            random = np.random.RandomState(seed + 1)
        z = random.randn(n, latents)
        if script == "main":
            noise_b = random.randn(n, b)
            noise_a = random.randn(n, a)
        else:
            noise_a = random.randn(n, a)
            noise_b = random.randn(n, b)
        splits[split] = (z, noise_a, noise_b)
    return plane, splits


# Many draws at once ------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One modality of many draws, as the rows of `labkit.models.mfh.descend` want it.

    Settings that differ in who sees what share most of their numbers, so each number is kept once.

    Attributes:
        x: The channels of all settings side by side, and a column of ones, (S, N, U + 1).
        place: Column of x that holds each channel of a setting, and the ones', (R, D + 1).
    """

    x: Tensor
    place: Tensor

    @property
    def seen(self) -> Tensor | None:
        """Columns that each setting sees, (R, U + 1) bool; None = all see all."""
        mask = torch.zeros(len(self.place), self.x.shape[-1], dtype=torch.bool)
        mask = mask.to(self.place.device).scatter(1, self.place, True)
        return None if mask.all() else mask

    def spread(self, weights: Tensor) -> Tensor:
        """Weights of the channels (S, R, D + 1) as weights of the columns (S, R, U + 1)."""
        empty = weights.new_zeros(*weights.shape[:2], self.x.shape[-1])
        return empty.scatter(2, self.place.expand_as(weights), weights)


@dataclass(frozen=True)
class Stack:
    """S seeds of R settings, which differ in who sees what and share everything else.

    Attributes:
        a: The teacher's modality.
        b: The student's.
        y: Labels, (S, N); who sees what does not change them.
    """

    a: View
    b: View
    y: Tensor


def narrowed(data: Stack, channels: Tensor) -> Stack:
    """One setting with some of a's channels alone: what a modality-general teacher sees.

    Args:
        data: One setting (R = 1) of S seeds.
        channels: Channels of a that stay, (S, k) or (k,) for all seeds alike.

    Raises:
        ValueError: if there are several settings, or a channel does not exist or is given twice.
    """
    if len(data.a.place) != 1:
        raise ValueError(f"narrowed takes one setting at a time, got {len(data.a.place)}")
    sets, width = len(data.y), data.a.place.shape[1] - 1
    chosen = channels.expand(sets, -1).to(data.y)
    ordered = chosen.sort(1).values
    if (
        not chosen.numel()
        or ordered.min() < 0
        or ordered.max() >= width
        or (ordered.diff() == 0).any()
    ):
        raise ValueError(
            f"channels must be different ones of 0 to {width - 1}, got {channels.tolist()}"
        )
    columns = data.a.place[0][torch.cat([chosen, torch.full((sets, 1), width).to(chosen)], 1)]
    x = data.a.x.gather(2, columns[:, None].expand(-1, data.a.x.shape[1], -1))
    return replace(data, a=View(x, torch.arange(x.shape[-1], device=x.device)[None]))


def stack(
    settings: Sequence[Gaussians],
    seeds: Sequence[int],
    split: Split,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Stack:
    """Draw one split of several settings for several seeds.

    Args:
        settings: Recipes with equal numbers of latents and channels; their seeds are replaced.
        seeds: Seeds.
        split: "train" or "test".
        dtype: Type of x; the published scripts round to float32.
        device: Where the tensors shall be.

    Raises:
        ValueError: if there is no setting or no seed, or if settings differ in more than who sees what.
    """
    if not settings or not seeds:
        raise ValueError(f"settings and seeds must not be empty, got {len(settings)}, {len(seeds)}")
    alike = {
        (
            s.venn.latents,
            s.venn.channels_a,
            s.venn.channels_b,
            replace(s, seed=0, venn=Venn(0, 1, 0)),
        )
        for s in settings
    }
    if len(alike) > 1:
        raise ValueError(
            "settings must have equal latents, channels and recipes, so that they share their draws; got "
            + ", ".join(f"{latents} latents in {a} and {b} channels" for latents, a, b, _ in alike)
        )
    data, venn = settings[0], settings[0].venn
    sizes = (data.n_train, data.n_test)
    parts = [
        _drawn(
            seed,
            data.script,
            data.hyperplane,
            sizes,
            venn.latents,
            venn.channels_a,
            venn.channels_b,
        )
        for seed in seeds
    ]
    latents, noise_a, noise_b = (
        torch.from_numpy(np.stack([p[1][split][i] for p in parts])) for i in range(3)
    )
    planes = torch.from_numpy(np.stack([plane for plane, _ in parts]))
    y = (torch.einsum("snl,sl->sn", latents, planes) > 0).long().to(device)
    a, b = (
        _view(latents, noise, [getattr(s.venn, name) for s in settings], dtype, device)
        for name, noise in (("a", noise_a), ("b", noise_b))
    )
    return Stack(a, b, y)


def _view(
    latents: Tensor,
    noise: Tensor,
    ranges: Sequence[tuple[int, int]],
    dtype: torch.dtype,
    device: torch.device | str,
) -> View:
    """Noise and latents side by side, only those columns that some setting sees."""
    channels = noise.shape[-1]
    place = torch.arange(channels).repeat(len(ranges), 1)  # channel j is noise j ...
    for row, (start, stop) in zip(place, ranges, strict=True):
        row[start:stop] += channels  # ... or latent j
    used, place = place.unique(return_inverse=True)
    x = torch.cat([noise, latents], -1)[..., used].float().to(dtype)
    ones = torch.full((len(ranges), 1), len(used))
    return View(
        torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1).to(device),
        torch.cat([place, ones], 1).to(device),
    )
