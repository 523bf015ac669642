"""Things that sound and move, on and off the screen: procedural clips after the VGGSound experiment of MFH.

A clip has a source on the screen, which is heard and seen, a source off the screen, which is only heard,
and a scene, which is only seen. There are 20 types of source: each is a timbre (where its partials lie, how
they glide, how fast it beats) and a way to look (a shape, a size, a path), which beat together. Sample i is
the same whatever the number of samples.

Source:
    After the VGGSound experiment of Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis", ICLR 2023,
    whose teacher hears and whose student sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.draws import Draws, balanced_labels

TYPES = 20
BANDS, STEPS = 64, 64  # of the spectrogram
FRAMES, SIDE = 8, 16  # of the video
CHUNK = 256  # samples drawn at a time: the unit of reproducibility
HEARD = ("pitch", "spacing", "glide", "beat", "breath")  # of a type's timbre, each in [0, 1)
LOOKS = ("size", "roundness", "angle", "turn", "reach")  # of its look, each in [0, 1)

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Sounds:
    """Recipe of a data set of clips.

    Args:
        off_screen: Loudness of the source off the screen over that of the one on it, 0 to 2 (rho).
        scene: How much the colour of the scene tells of the class, 0 (nothing) to 1.
        label: ``on_screen``: the type of the source on the screen. ``pair``: its family (5 of four types
            each) and the voice of the one off the screen (4 of five types each): 20 classes, too, of which
            the video tells the family alone.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples; the types do not depend on it.
        noise: Deviation of every pixel of the spectrogram; 0.6 of it of the video's. 0 to 1.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    off_screen: float = 0.5
    scene: float = 0.5
    label: Literal["on_screen", "pair"] = "on_screen"
    n_train: int = 1000
    n_val: int = 200
    n_test: int = 1000
    seed: int = 0
    noise: float = 0.15

    def __post_init__(self) -> None:
        for name, high in (("off_screen", 2), ("scene", 1), ("noise", 1)):
            if not 0 <= getattr(self, name) <= high:
                raise ValueError(f"{name} must lie in [0, {high}], got {getattr(self, name)}")
        if self.label not in ("on_screen", "pair"):
            raise ValueError(f"label must be 'on_screen' or 'pair', got {self.label!r}")
        for name in ("n_train", "n_val", "n_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make one split.

        Returns:
            audio (B, 64, 64), bands (low ones first) by time, and video (B, 3, 8, 16, 16), colours, frames,
            height and width, both in [0, 1]; labels 0 to 19; factors ``on_screen`` and ``off_screen``, the
            types (B,).

        Raises:
            ValueError: on an unknown split.
        """
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be train, val or test, got {split!r}")
        n = getattr(self, f"n_{split}")
        place = torch.device("cpu" if device is None else device)
        chunks = [_chunk(self, split, start, place) for start in range(0, n, CHUNK)]
        audio, video, on, off, y = (torch.cat(parts)[:n] for parts in zip(*chunks, strict=True))
        return Batch(
            {"audio": audio, "video": video}, y=y, factors={"on_screen": on, "off_screen": off}
        )


@lru_cache(maxsize=1)
def _types() -> dict[str, Tensor]:
    """Timbre and look of the 20 types: values spread evenly over [0, 1), in an order of each one's own."""
    index = torch.arange(TYPES)
    orders = {name: Draws(index, "types").bits(name).argsort() for name in (*HEARD, *LOOKS)}
    return {name: (order.float() + 0.5) / TYPES for name, order in orders.items()}


def _chunk(recipe: Sounds, split: Split, start: int, device: torch.device) -> tuple[Tensor, ...]:
    """Samples start .. start + CHUNK - 1: audio, video, types on and off the screen, labels."""
    index = torch.arange(start, start + CHUNK, device=device)
    draws = Draws(index, recipe.seed, split)
    y = balanced_labels(index, TYPES, recipe.seed, split)
    if recipe.label == "on_screen":
        on, off = y, draws.choice("off", TYPES)
    else:
        on, off = 4 * (y // 4) + draws.choice("on", 4), 4 * draws.choice("off", 5) + y % 4
    beat = {name: _Beat(draws, name) for name in ("on", "off")}
    heard = _sound(on, beat["on"]) + recipe.off_screen * _sound(off, beat["off"])
    audio = 1 - torch.exp(-1.5 * heard) + recipe.noise * draws.normal("hiss", BANDS, STEPS)
    video = _video(recipe, draws, on, y, beat["on"])
    video = video + 0.6 * recipe.noise * draws.normal("grain", 3, FRAMES, SIDE, SIDE)
    return audio.clamp(0, 1), video.clamp(0, 1), on, off, y


class _Beat:
    """How one source of each sample is played: when it begins, how fast, how high."""

    def __init__(self, draws: Draws, name: str) -> None:
        self.phase = draws.uniform(f"{name}/phase")
        self.tempo = draws.uniform(f"{name}/tempo", low=0.85, high=1.15)
        self.shift = draws.uniform(f"{name}/shift", low=-0.04, high=0.04)

    def at(self, rate: Tensor, steps: int) -> Tensor:
        """Loudness (B, steps) in [0, 1]; rate (B,) in beats a clip."""
        time = torch.linspace(0, 1, steps, device=rate.device)
        turn = self.phase[:, None] + (rate * self.tempo)[:, None] * time
        return (0.5 - 0.5 * torch.cos(2 * math.pi * turn)).pow(2)


def _of(kind: Tensor, name: str) -> Tensor:
    """A property of each sample's type, (B,)."""
    return _types()[name].to(kind.device)[kind]


def _rate(kind: Tensor) -> Tensor:
    return 1.0 + 5.0 * _of(kind, "beat")


def _sound(kind: Tensor, beat: _Beat) -> Tensor:
    """Energy (B, bands, steps) of one source: three gliding partials that beat, more or less breathy."""
    bands = torch.linspace(0, 1, BANDS, device=kind.device)[None, :, None]
    time = torch.linspace(-0.5, 0.5, STEPS, device=kind.device)
    base = 0.08 + 0.4 * _of(kind, "pitch") + beat.shift
    glide = 0.5 * (_of(kind, "glide") - 0.5)
    width = 0.012 + 0.03 * _of(kind, "breath")
    energy = torch.zeros(len(kind), BANDS, STEPS, device=kind.device)
    for partial in range(3):
        middle = base + partial * (0.07 + 0.13 * _of(kind, "spacing"))
        ridge = middle[:, None] + glide[:, None] * time
        apart = (bands - ridge[:, None, :]) / width[:, None, None]
        energy += 0.75**partial * torch.exp(-0.5 * apart.square())
    return energy * beat.at(_rate(kind), STEPS)[:, None]


def _video(recipe: Sounds, draws: Draws, kind: Tensor, y: Tensor, beat: _Beat) -> Tensor:
    """A bright shape (B, 3, frames, H, W) that beats and moves, before a scene."""
    device = kind.device
    axis = torch.linspace(-1, 1, SIDE, device=device)
    time = torch.linspace(0, 1, FRAMES, device=device)
    turn = 2 * math.pi * (beat.phase[:, None] + beat.tempo[:, None] * time)
    reach, lean = 0.15 + 0.45 * _of(kind, "reach"), 2 * math.pi * _of(kind, "angle")
    open_ = _of(kind, "turn")[:, None] * torch.cos(turn)  # 0: to and fro; 1: a circle
    along = torch.sin(turn)
    x = reach[:, None] * (along * lean.cos()[:, None] - open_ * lean.sin()[:, None])
    z = reach[:, None] * (along * lean.sin()[:, None] + open_ * lean.cos()[:, None])
    size = (0.2 + 0.3 * _of(kind, "size"))[:, None] * (0.75 + 0.25 * beat.at(_rate(kind), FRAMES))
    power = (0.7 + 5.0 * _of(kind, "roundness").square())[:, None, None, None]  # star, disc, square
    across = ((axis[None, None, None, :] - x[..., None, None]) / size[..., None, None]).abs()
    down = ((axis[None, None, :, None] - z[..., None, None]) / size[..., None, None]).abs()
    inside = torch.sigmoid(
        6 * (1 - (across.clamp(min=1e-3) ** power + down.clamp(min=1e-3) ** power))
    )
    told = torch.where(draws.uniform("told") < recipe.scene, y, draws.choice("elsewhere", TYPES))
    hue = 2 * math.pi * told.float() / TYPES
    shades = torch.stack([torch.cos(hue + 2 * math.pi * c / 3) for c in range(3)], 1)  # (B, 3)
    slope = draws.uniform("slope", low=-0.1, high=0.1)[:, None, None] * axis[:, None]
    scene = 0.35 + 0.15 * shades[:, :, None, None, None] + slope[:, None, None]
    return scene * (1 - inside[:, None]) + 0.95 * inside[:, None]
