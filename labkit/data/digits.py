"""Digits in three modalities: handwritten in two scripts, and spoken.

`Digits` is the recipe, `Digits.load` the data. Procedural digits need no download, know every factor
that made them, and are a pure function of the recipe: sample i is the same whatever the number of
samples. Real digits are Hoda (Farsi), Kannada-MNIST and the Free Spoken Digit Dataset, put together
by class as the poster "Reconstructing Missing Modality" did (Mishra & Agarwal 2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import strokes, voices
from labkit.data.draws import Draws, balanced_labels

MODALITIES = ("farsi", "kannada", "speech")
SPLITS = ("train", "val", "test")
CHUNK = 256  # samples rendered at a time: fastest on a CPU, and the unit of reproducibility

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Digits:
    """Recipe of a three-modality digit data set.

    Args:
        source: "procedural", or "real" for the original releases.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples (procedural) or of pairing and validation split (real).
        rho: Correlation of slant_farsi, slant_kannada and speech rate, 0 to 1. At 0 the class is
            all that the modalities share. Procedural only.
        difficulty: Scale of sloppiness and noise; 1 puts single modalities near 90 % held-out.
            Procedural only.
        thickness: Scale of the Farsi pen's half-width. Procedural only.
        speakers: "shared": all six speak in every split; "held-out": `held_out_speaker` speaks
            in the test split and nowhere else.
        held_out_speaker: 0 to 5.
        pool: Speech as one vector ("poster", "mean") or a sequence ("none"); see `voices.pool`.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed.
    """

    source: Literal["procedural", "real"] = "procedural"
    n_train: int = 8000
    n_val: int = 1000
    n_test: int = 2000
    seed: int = 0
    rho: float = 0.0
    difficulty: float = 1.0
    thickness: float = 1.0
    speakers: Literal["shared", "held-out"] = "shared"
    held_out_speaker: int = 0
    pool: Literal["poster", "mean", "none"] = "poster"

    def __post_init__(self) -> None:
        _one_of("source", self.source, ("procedural", "real"))
        _one_of("speakers", self.speakers, ("shared", "held-out"))
        _one_of("pool", self.pool, ("poster", "mean", "none"))
        for name in ("n_train", "n_val", "n_test"):
            _whole(name, getattr(self, name), 1, 10**9)
        _whole("seed", self.seed, 0, 2**63 - 1)
        _whole("held_out_speaker", self.held_out_speaker, 0, voices.SPEAKERS - 1)
        _between("rho", self.rho, 0.0, 1.0)
        _between("difficulty", self.difficulty, 0.0, 3.0)
        _between("thickness", self.thickness, 0.25, 2.0)
        if self.source == "real":
            for name, plain in (("rho", 0.0), ("difficulty", 1.0), ("thickness", 1.0)):
                if getattr(self, name) != plain:
                    raise ValueError(
                        f"{name} must stay {plain} with source='real', got {getattr(self, name)}: "
                        f"only procedural digits can be told how to vary; use source='procedural'"
                    )

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU. Procedural digits are made there.

        Returns:
            farsi and kannada (B, 28, 28) in [0, 1], white on black; speech (B, 13), or (B, 20, 13)
            with pool="none", scaled so that the training recordings lie in [0, 1]; labels; and the
            factors that are known (`factors`), each of shape (B,).

        Raises:
            ValueError: on an unknown split, or more samples than the real release can give.
            LabkitError: if a file of the real release is missing or damaged.
        """
        _one_of("split", split, SPLITS)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        place = torch.device("cpu" if device is None else device)
        if self.source == "real":
            from labkit.data import real  # reads files; procedural digits never need it

            return real.load(
                split, n, seed=self.seed, pool=self.pool,
                held_out=self.held_out_speaker if self.speakers == "held-out" else None,
            ).to(place)  # fmt: skip
        return _procedural(self, split, n, place)


def load(
    split: Split,
    n: int | None = None,
    source: Literal["procedural", "real"] = "procedural",
    seed: int = 0,
    device: torch.device | str | None = None,
    **options: Any,
) -> Batch:
    """Load one split of the digits: `Digits(...)` in one call.

    Args:
        split: "train", "val" or "test".
        n: Number of samples; None = the recipe's (8000, 1000, 2000).
        source: "procedural" or "real".
        seed: Seed.
        device: Where the tensors shall be; None = CPU.
        **options: Other fields of `Digits`.

    Returns:
        The batch, as from `Digits.load`.

    Raises:
        ValueError, LabkitError: as `Digits` and `Digits.load`.

    Example:
        >>> load("test", n=20).modalities
        ('farsi', 'kannada', 'speech')
    """
    recipe = Digits(source=source, seed=seed, **options)
    _one_of("split", split, SPLITS)
    sizes: dict[str, Any] = {} if n is None else {f"n_{split}": n}
    return replace(recipe, **sizes).load(split, device)


# Procedural digits ---------------------------------------------------------------------------------

CALIBRATION = 4  # chunks of the training split that fix the range of speech


def _procedural(recipe: Digits, split: str, n: int, device: torch.device) -> Batch:
    """All samples of a split, made in whole chunks.

    A sample sits at the same place of an equally shaped tensor whatever n is, so that not even the
    tail of a vector instruction can change its bits.
    """
    chunks = [_chunk(recipe, split, start, device) for start in range(0, n, CHUNK)]

    def join(pieces: list[Tensor]) -> Tensor:
        return torch.cat(pieces)[:n]

    x = {name: join([chunk.x[name] for chunk in chunks]) for name in MODALITIES}
    low, high = _speech_range(recipe.difficulty, recipe.pool, tuple(_cast(recipe, "train")))
    x["speech"] = (x["speech"] - low.to(device)) / (high - low).to(device)
    factors = {name: join([chunk.factors[name] for chunk in chunks]) for name in chunks[0].factors}
    return Batch(x, y=join([chunk.y for chunk in chunks if chunk.y is not None]), factors=factors)


def _chunk(recipe: Digits, split: str, start: int, device: torch.device) -> Batch:
    """Samples start .. start + CHUNK - 1 of a split; speech not yet brought into its range."""
    index = torch.arange(start, start + CHUNK, device=device)
    draws = Draws(index, recipe.seed, split)
    y = balanced_labels(index, 10, recipe.seed, split)
    style = _styles(draws, recipe.rho)
    x: dict[str, Tensor] = {}
    factors: dict[str, Tensor] = {}
    for name, script in strokes.SCRIPTS.items():
        thickness = recipe.thickness if name == "farsi" else 1.0
        made = strokes.draw_factors(draws, script, split, style[name], thickness, recipe.difficulty)
        x[name] = strokes.draw_images(draws, script, y, made, recipe.difficulty)
        factors |= {f"{factor}_{name}": values for factor, values in made.items()}
    made = voices.draw_factors(draws, style["speech"], _cast(recipe, split), recipe.difficulty)
    x["speech"] = voices.pool(voices.draw_cepstra(draws, y, made, recipe.difficulty), recipe.pool)
    return Batch(x, y=y, factors=factors | made)


def _styles(draws: Draws, rho: float) -> dict[str, Tensor]:
    """One standard normal a modality, any two correlated by rho through one shared latent."""
    shared = draws.normal("style")
    return {
        name: math.sqrt(rho) * shared + math.sqrt(1 - rho) * draws.normal(f"{name}/style")
        for name in MODALITIES
    }


def _cast(recipe: Digits, split: str) -> list[int]:
    """Who speaks in a split."""
    everyone = list(range(voices.SPEAKERS))
    if recipe.speakers == "shared":
        return everyone
    held_out = recipe.held_out_speaker
    return [held_out] if split == "test" else [person for person in everyone if person != held_out]


@lru_cache(maxsize=64)
def _speech_range(difficulty: float, pool: str, cast: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each coefficient over a fixed draw of training utterances.

    Seed 0, made on the CPU: constants of the recipe, so that no sample depends on how many are
    asked for, and a model trained on one seed can read another.
    """
    spoken = []
    for start in range(0, CALIBRATION * CHUNK, CHUNK):
        index = torch.arange(start, start + CHUNK)
        draws = Draws(index, 0, "train")
        made = voices.draw_factors(draws, _styles(draws, 0.0)["speech"], list(cast), difficulty)
        cepstra = voices.draw_cepstra(
            draws, balanced_labels(index, 10, 0, "train"), made, difficulty
        )
        spoken.append(voices.pool(cepstra, pool).reshape(-1, voices.CEPSTRA))
    values = torch.cat(spoken)
    return values.amin(0), values.amax(0)


# Checks --------------------------------------------------------------------------------------------


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value!r}")
