"""Clips of an action in two modalities, rgb and flow, whose sum may be worth less than their product.

`Clips` is the recipe, `Clips.load` the data. A class is a verb of a *pair* (open and close, say), and which
of its two *polarities* it is. Colour shows the pair by the shape of an object, which also has a red *handle*
on its left or on its right; flow shows a patch that moves to the left or to the right, a little faster from
pair to pair. In a share ``rho`` of the clips, the *synergy*, the same movement opens or closes depending on
where the handle is,

    polarity = handle XOR direction,

in all others the direction alone tells: polarity = direction. At rho = 1 no sum of what colour says and
what flow says can be right of all clips: `ceilings` has what each kind of answer can reach at most. Sample i
is the same, to rounding, whatever the number of samples. Real clips are UTD-MHAD's (`labkit.data.actions`,
`Actions.clips`) and EPIC-Kitchens' (`labkit.data.epic`).

Test accuracy in %, of what `ceilings` allows; mean of three seeds, all else as it is here and in
`labkit.models` (8 epochs of AdamW, batches of 32, step 0.001, weight decay 0.0001, clipped at 1):

======  =============  =============  =============
rho           0             0.5             1
======  =============  =============  =============
rgb     49.3 of  50.0  49.3 of  50.0  49.3 of  50.0
flow    68.3 of  75.2  43.3 of  56.4  32.8 of  37.6
late    99.7 of 100.0  66.6 of  75.0  47.0 of  75.0
early   99.8 of 100.0  66.4 of  75.0  54.5 of 100.0
X-Norm  99.8 of 100.0  73.5 of  75.0  99.7 of 100.0
======  =============  =============  =============

At rho = 1 the sum with the least cross-entropy says nothing of the polarity, so late fusion ends near rgb's
half, not at its ceiling; early fusion reached 50.2, 47.7 and 65.5.

Source:
    After the fusion experiment of Yin, Xu, Zu & Soleymani, "X-Norm: Exchanging Normalization Parameters for
    Bimodal Fusion", ICMI 2022 (EPIC-Kitchens: 8 verbs, RGB and flow), with everything known that the claim of
    that paper is about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.draws import Draws, balanced_labels

MODALITIES = ("rgb", "flow")
SPLITS = ("train", "val", "test")
PAIRS = ("block", "cross", "rows", "columns")  # shapes of the object
CLASSES = tuple(f"{verb} the {pair}" for pair in PAIRS for verb in ("open", "close"))
# Clips of each class in EPIC-Kitchens' training split of the released code (0 take, 1 put, 2 wash, ...).
EPIC = (3230, 3089, 1913, 990, 792, 274, 521, 318)
SPEED, STEP, HASTE = 0.5, 0.35, 0.18  # pixels a frame of pair 0, more from pair to pair, deviation
SLOWEST = 0.1  # pixels a frame: whoever stood still would show no direction
CHANGES = {"pair": 4, "handle": 2, "direction": 2, "synergy": 2}  # values of what can change
RED = (1.0, 0.1, 0.1)
REACH = 3.5  # half the object's side, pixels of 16
CHUNK = 512  # samples made at a time: what keeps memory small
LIMITS: dict[str, tuple[float, float]] = {
    "rho": (0, 1), "noise": (0, 4), "imbalance": (0, 1), "shift": (0, 6), "repeated": (0, 0.95),
    "clutter": (0, 1), "overlap": (0, 1), "kitchens": (1, 32), "shortcut": (0, 1), "watermark": (0, 4),
    "frames": (2, 64), "size": (12, 64), "n_train": (1, 10**9), "n_val": (1, 10**9), "n_test": (1, 10**9),
    "seed": (0, 2**63 - 1),
}  # fmt: skip

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Clips:
    """Recipe of a data set of clips.

    Args:
        rho: Synergy: share of the clips whose polarity is handle XOR direction, 0 to 1.
        noise: Deviation of every pixel's noise, 0 to 4, beside colours from 0 to 1.
        imbalance: 0: all classes equally often; 1: as often as in EPIC-Kitchens; between: between.
        shift: Pixels of 16 by which the moving patch lies off the object, in any direction, 0 to 6.
        repeated: Probability with which a frame of flow is the one before it once more, noise and all (one is
            doubled, one dropped), 0 to 0.95; 0.5 leaves as many different ones as flow at half rate has.
        clutter: Brightness of three blocks in the background, 0 to 1.
        overlap: Share of the clips whose first half is the second half of the clip before, 0 to 1; what is
            told of them is their second half.
        kitchens: Domains, each with a colour of its background, 1 to 32; all are in every split.
        shortcut: Probability with which, in training and validation, the object has the colour of its
            class, 0 to 1; in the test it never depends on the class.
        watermark: Strength of a pattern of each clip's own in all its frames of rgb, 0 to 4: it can be
            learnt by heart and tells nothing.
        frames: T, 2 to 64.
        size: Rows and columns, 12 to 64.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed.
    """

    rho: float = 1.0
    noise: float = 0.25
    imbalance: float = 0.0
    shift: float = 0.0
    repeated: float = 0.0
    clutter: float = 0.0
    overlap: float = 0.0
    kitchens: int = 1
    shortcut: float = 0.0
    watermark: float = 0.0
    frames: int = 6
    size: int = 16
    n_train: int = 1600
    n_val: int = 400
    n_test: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), LIMITS[field.name]
            whole = isinstance(field.default, int)
            right = isinstance(value, int) if whole else isinstance(value, (int, float))
            if isinstance(value, bool) or not right or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name} must be {kind} from {low} to {high}, got {value!r}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality -> shape of one sample."""
        grid = (self.frames, self.size, self.size)
        return {"rgb": (3, *grid), "flow": (2, *grid)}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return CLASSES

    @property
    def shares(self) -> Tensor:
        """Share of the clips that have each class, (8,)."""
        epic = torch.tensor(EPIC, dtype=torch.float64)
        return torch.lerp(torch.full_like(epic, 1 / 8), epic / epic.sum(), self.imbalance)

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make one split.

        Args:
            split: "train", "val" or "test".
            device: Where the samples are made; None = CPU.

        Returns:
            rgb (B, 3, T, H, W), colours from 0 to 1 less 0.5; flow (B, 2, T, H, W), u > 0 to the right and
            v, which tells nothing, in units of 2 pixels a frame; both with noise. y (B,), twice the pair
            plus the polarity. Factors, (B,): `pair` 0 to 3, `polarity`, `handle` and `direction` 0 or 1
            (1 = right), `synergy` bool, `speed` pixels a frame, `kitchen`. Pixels are 16 to a row, frames 6
            to a clip: more of them show the same movement.

        Raises:
            ValueError: on an unknown split.
        """
        _check(split)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        index = torch.arange(n, device=device)
        parts = [self._made(index[i : i + CHUNK], split) for i in range(0, n, CHUNK)]
        return Batch(
            {m: torch.cat([part.x[m] for part in parts]) for m in MODALITIES},
            y=torch.cat([part.y for part in parts if part.y is not None]),
            factors={k: torch.cat([part.factors[k] for part in parts]) for k in parts[0].factors},
        )

    def look(self, split: Split, index: Tensor, **changed: Tensor | int) -> Batch:
        """Some clips as they would be with other factors; all that is random about them stays.

        Args:
            split: Of the samples.
            index: (B,) their numbers.
            **changed: ``pair``, ``handle`` or ``direction``, one value or one a sample; ``synergy``, bool.
                The label follows.

        Returns:
            As of `load`.

        Raises:
            ValueError: on an unknown split, another factor, or a value that the factor cannot have.
        """
        _check(split)
        for name, value in changed.items():
            if name not in CHANGES:
                raise ValueError(f"can change pair, handle, direction and synergy, not {name}")
            given, last = torch.as_tensor(value), CHANGES[name] - 1
            whole = bool((given == given.long().clamp(0, last)).all())
            if not whole or given.shape not in ((), index.shape):
                raise ValueError(
                    f"{name} must be one whole number from 0 to {last} or {len(index)} of them, "
                    f"got {given.unique().tolist()} in shape {tuple(given.shape)}"
                )
        return self._made(index, split, **changed)

    def _made(self, index: Tensor, split: str, **changed: Tensor | int) -> Batch:
        draws = Draws(index, "clips", self.seed, split)
        told = self._told(draws, **changed)
        x = self._seen(draws, told, split)
        if self.overlap:
            earlier = Draws(index - 1, "clips", self.seed, split)
            before = self._seen(earlier, self._told(earlier), split)
            late = (draws.uniform("overlap") < self.overlap)[:, None, None, None, None]
            half = self.frames // 2
            joined = {m: torch.cat((before[m][:, :, -half:], x[m][:, :, half:]), 2) for m in x}
            x = {m: torch.where(late, joined[m], x[m]) for m in x}
        return Batch(x, y=2 * told["pair"] + told["polarity"], factors=told)

    def _told(self, draws: Draws, **changed: Tensor | int) -> dict[str, Tensor]:
        """Factors of the samples."""
        if self.imbalance:
            edges = self.shares.cumsum(0)[:-1].float().to(draws.index.device)
            y = torch.bucketize(draws.uniform("class"), edges)
        else:
            y = balanced_labels(draws.index, len(CLASSES), *draws.address)
        told = {"pair": y // 2, "handle": draws.choice("handle", 2)}
        synergy = draws.uniform("synergy") < self.rho
        told["direction"] = (y % 2) ^ (told["handle"] * synergy)
        told["synergy"] = synergy
        for name, value in changed.items():
            told[name] = torch.as_tensor(value, device=y.device).to(told[name].dtype).expand(len(y))
        told["polarity"] = told["direction"] ^ (told["handle"] * told["synergy"])
        speed = SPEED + STEP * told["pair"] + HASTE * draws.normal("speed")
        told["speed"] = speed.clamp(min=SLOWEST)
        told["kitchen"] = draws.choice("kitchen", self.kitchens)
        return told

    def _seen(self, draws: Draws, told: dict[str, Tensor], split: str) -> dict[str, Tensor]:
        x = {"rgb": self._colours(draws, told, split) - 0.5, "flow": self._motion(draws, told)}
        for name, clip in x.items():
            grain = draws.normal(f"{name}/noise", *clip.shape[1:])
            x[name] = clip + self.noise * grain
        if self.repeated:
            x["flow"] = self._held(draws, x["flow"])
        return x

    def _grid(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (B, T, H, W) to the right of and below a centre (B, T, 2), in pixels of 16."""
        line = (torch.arange(self.size, device=centre.device) + 0.5) * 16 / self.size - 8
        right = line - centre[..., 0, None]
        below = line - centre[..., 1, None]
        shape = (*centre.shape[:2], self.size, self.size)
        return right[:, :, None].expand(shape), below[..., None].expand(shape)

    def _colours(self, draws: Draws, told: dict[str, Tensor], split: str) -> Tensor:
        """An object with a handle that trembles before its background, (B, 3, T, H, W), 0 to 1."""
        n, device = len(draws.index), draws.index.device
        right, below = self._grid(draws.normal("tremble", self.frames, 2))
        inside = _box(right, below, REACH, REACH)
        rows, columns = ((each.floor() % 2 == 0) for each in (below, right))
        cross = (right.abs() < 1.2) | (below.abs() < 1.2)
        shapes = torch.stack([inside, inside & cross, inside & rows, inside & columns], 1)
        shape = shapes[torch.arange(n, device=device), told["pair"]]
        colour = draws.uniform("colour", 3, low=0.3)
        if self.shortcut and split != "test":
            y = 2 * told["pair"] + told["polarity"]
            hue = 0.3 + 0.7 * torch.stack((y // 4, y // 2 % 2, y % 2), 1)  # corners of all colours
            short = draws.uniform("shortcut") < self.shortcut
            colour = torch.where(short[:, None], hue, colour)
        ground = torch.zeros(n, 3, device=device)
        if self.kitchens > 1:
            palette = Draws(told["kitchen"], "clips", "kitchens", self.seed)
            ground = 0.3 * palette.uniform("ground", 3)
        made = ground[:, :, None, None, None].expand(-1, -1, *right.shape[1:])
        if self.clutter:
            made = self._cluttered(draws, made)
        made = _painted(made, shape, colour)
        side = (2 * told["handle"] - 1)[:, None, None, None]
        handle = _box(right - side * (REACH + 1.5), below, 1.5, 1.5)
        made = _painted(made, handle, torch.tensor(RED, device=device).expand(n, 3))
        if self.watermark:
            mark = draws.uniform("watermark", 3, 1, self.size, self.size, low=-1.0).sign()
            made = made + 0.5 * self.watermark * mark
        return made

    def _cluttered(self, draws: Draws, made: Tensor) -> Tensor:
        for i in range(3):
            place = draws.uniform(f"clutter/{i}", 1, 2, low=-8.0, high=8.0)
            block = _box(*self._grid(place.expand(-1, self.frames, 2)), 1.5, 1.5)
            made = _painted(made, block, self.clutter * draws.uniform(f"clutter/{i}/colour", 3))
        return made

    def _motion(self, draws: Draws, told: dict[str, Tensor]) -> Tensor:
        """A patch that moves to one side: (B, 2, T, H, W)."""
        frame = torch.arange(self.frames, device=draws.index.device)
        velocity = (2 * told["direction"] - 1) * told["speed"]
        middle = velocity[:, None] * (frame - (self.frames - 1) / 2) * 5 / (self.frames - 1)
        angle = draws.uniform("shift", high=2 * math.pi)
        off = self.shift * torch.stack((angle.cos(), angle.sin()), 1)
        centre = torch.stack((middle, torch.zeros_like(middle)), 2) + off[:, None]
        patch = _box(*self._grid(centre), REACH, REACH)
        uv = torch.stack((velocity, 0.2 * draws.normal("drift")), 1) / 2
        return patch[:, None] * uv[:, :, None, None, None]

    def _held(self, draws: Draws, clip: Tensor) -> Tensor:
        """A clip (B, C, T, H, W), some frames of which are the ones before them once more."""
        again = draws.uniform("repeated", self.frames) < self.repeated
        again[:, 0] = False
        frame = torch.where(again, -1, torch.arange(self.frames, device=clip.device)).cummax(1)
        return clip.gather(2, frame.values[:, None, :, None, None].expand_as(clip))


def _check(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")


def _box(right: Tensor, below: Tensor, width: float, height: float) -> Tensor:
    """Whether a distance lies within half a width and half a height."""
    return (right.abs() < width) & (below.abs() < height)


def _painted(made: Tensor, where: Tensor, colour: Tensor) -> Tensor:
    """(B, 3, T, H, W) with a colour (B, 3) where (B, T, H, W) says so."""
    return torch.where(where[:, None], colour[:, :, None, None, None], made)


# What can be reached ------------------------------------------------------------------------------


def ceilings(rho: float) -> dict[str, float]:
    """Accuracy that an answer can reach at most, all classes being equally frequent.

    Args:
        rho: Share of the clips whose polarity is handle XOR direction.

    Returns:
        ``rgb``: knows the pair, and of the polarity nothing. ``flow``: knows the direction, and the pair
        from the speed. ``late``: any sum of logits of one and logits of the other: either it follows the
        direction, or it gives up one of the four cells of handle and direction. ``joint``: anything.

    Raises:
        ValueError: unless 0 <= rho <= 1.
    """
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must lie between 0 and 1, got {rho}")
    tail = 0.5 * math.erfc(STEP / 2 / HASTE / math.sqrt(2))
    pair = 1 - 2 * (len(PAIRS) - 1) / len(PAIRS) * tail  # of four Gaussians side by side
    direction = 1 - rho / 2
    return {
        "rgb": 0.5,
        "flow": pair * direction,
        "late": max(direction, 0.75),
        "joint": 0.5 + 0.5 * max(rho, 1 - rho),
    }
