"""Emotion in two modalities, heard and seen: the data of teacher (audio) and student (face).

`Faces` is the recipe, `Faces.load` the data. Procedural samples are made from three kinds of latents,
standard normal numbers: *shared* ones are heard and seen, *audio-only* ones heard, *face-only* ones
seen; which of 8 classes it is, all of them decide. Every latent has frequency bands and a trait of the
face of its own, so that what a channel is worth is known at the input. Sample i is the same whatever
the number of samples. Real ones are RAVDESS (`labkit.data.ravdess`).

At the defaults the most frequent class makes up 15 %; small networks reach 58 % from the sound and 37 to
42 % from the face, and who knew the latents that a modality shows could reach 71 and 49 %.

Source:
    After the audio and image experiment of Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis",
    ICLR 2023, whose teacher hears and whose student sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import portraits
from labkit.data.draws import Draws

MODALITIES = ("audio", "face")
KINDS = ("shared", "audio_only", "face_only")  # of latents; the order of the task's rows
SPLITS = ("train", "val", "test")
CLASSES = 8
CHUNK = 256  # samples drawn at a time: fastest on a CPU, and the unit of reproducibility
FOLDS = 5
GRAIN = 0.15  # deviation of a pixel for noise 1
LIMITS = {"shared": (1, 6), "audio_only": (0, 8), "face_only": (0, 4),
          "n_train": (1, 10**9), "n_val": (1, 10**9), "n_test": (1, 10**9),
          "seed": (0, 2**63 - 1), "fold": (0, FOLDS - 1)}  # fmt: skip

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Faces:
    """Recipe of a data set of voices and faces.

    Args:
        source: "procedural", or "real" for RAVDESS.
        shared: Latents that both modalities show, 1 to 6 (a face has six such traits: `portraits.SHARED`).
        audio_only: Latents that only the sound shows, 0 to 8.
        face_only: Latents that only the face shows, 0 to 4 (`portraits.FACE_ONLY`).
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples; the task, which latents make which class, does not depend on it.
            Nothing in the real data is drawn: there it changes nothing.
        fold: Real data only: actors of this fold are the test split, those of the next one the
            validation split, all others the training split. 0 to 4.
        noise: Deviation of the error with which a modality shows a latent (whose own deviation is 1),
            0 to 1; 0.15 times as much is the deviation of each pixel. Procedural only.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed. With
            source="real" all there is is given: everything but `seed` and `fold` stays as it is.
    """

    source: Literal["procedural", "real"] = "procedural"
    shared: int = 4
    audio_only: int = 4
    face_only: int = 2
    n_train: int = 1200
    n_val: int = 300
    n_test: int = 1000
    seed: int = 0
    fold: int = 0
    noise: float = 0.3

    def __post_init__(self) -> None:
        _one_of("source", self.source, ("procedural", "real"))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{name} must be a whole number from {low} to {high}, got {value!r}"
                )
        if not 0 <= self.noise <= 1:
            raise ValueError(f"noise must lie between 0 and 1, got {self.noise!r}")
        foreign = {"procedural": {"fold"}, "real": {*LIMITS, "noise"} - {"seed", "fold"}}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in foreign[self.source] and value != field.default:
                raise ValueError(
                    f"{field.name} must stay {field.default} with source={self.source!r}, got {value}: "
                    + ("the real clips are what they are" if self.source == "real" else
                       "only the real clips are split by actors")
                )  # fmt: skip

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU. Procedural samples are made there.

        Returns:
            Procedural: audio (B, 40, 64), a log-mel picture with low bands first, and face
            (B, 3, 32, 64), red, green and blue, both in [0, 1]; labels 0 to 7; factors `shared`,
            `audio_only`, `face_only` (B, number of latents) and the nuisances.
            Real: see `labkit.data.ravdess.load`.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if a file of the real data is missing or damaged.
        """
        _one_of("split", split, SPLITS)
        place = torch.device("cpu" if device is None else device)
        if self.source == "real":
            from labkit.data import ravdess  # reads files; procedural samples never need it

            return ravdess.load(split, self.fold).to(place)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        # Whole chunks: a sample sits at the same place of an equally shaped tensor whatever n is.
        chunks = [_chunk(self, split, start, place) for start in range(0, n, CHUNK)]
        return Batch(
            {name: torch.cat([chunk.x[name] for chunk in chunks])[:n] for name in MODALITIES},
            y=torch.cat([chunk.y for chunk in chunks if chunk.y is not None])[:n],
            factors={
                name: torch.cat([chunk.factors[name] for chunk in chunks])[:n]
                for name in chunks[0].factors
            },
        )

    def bands(self) -> list[str]:
        """What each of the 40 audio bands shows: "shared", "audio" (audio-only) or "nuisance".

        Raises:
            ValueError: with source="real", where nobody knows.
        """
        if self.source == "real":
            raise ValueError("bands are known with source='procedural' only, got 'real'")
        kinds = ["shared"] * self.shared + ["audio"] * self.audio_only + ["nuisance"]
        return [kinds[owner] for owner in portraits.band_owners(self.shared, self.audio_only)]


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


# The task ------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def task(shared: int, audio_only: int, face_only: int) -> tuple[Tensor, Tensor]:
    """Which latents make which class: y = argmax(latents @ weights + offsets).

    Constants, drawn once: a latent keeps its weights whatever the other counts are, and all latents
    weigh the same. The offsets make every class about as frequent as any other, even with one latent.

    Args:
        shared: Number of shared latents.
        audio_only: Number of audio-only latents.
        face_only: Number of face-only latents.

    Returns:
        Weights (K, 8), rows in the order shared, audio-only, face-only, and offsets (8,), float32.
    """
    counts = zip(KINDS, (shared, audio_only, face_only), strict=True)
    weights = torch.cat(
        [Draws(torch.arange(k), "faces", "task").normal(name, CLASSES) for name, k in counts]
    )
    weights = weights - weights.mean(1, keepdim=True)
    weights = weights / weights.norm(dim=1, keepdim=True)
    points = Draws(torch.arange(4096), "faces", "task").normal("points", len(weights))
    scores, offsets = (points @ weights).double(), torch.zeros(CLASSES, dtype=torch.float64)
    # Ascent of a concave function (semi-discrete optimal transport): there is one solution.
    for step in range(1000):
        share = (scores + offsets).argmax(1).bincount(minlength=CLASSES) / len(points)
        if float((share * CLASSES - 1).abs().max()) < 0.1:
            break
        offsets -= (share - 1 / CLASSES) / (1 + step / 50)
    # Rounded, so that no processor's last bit decides a label.
    return weights, offsets.mul(1000).round().div(1000).float()


def _chunk(recipe: Faces, split: str, start: int, device: torch.device) -> Batch:
    """Samples start .. start + CHUNK - 1 of a split."""
    index = torch.arange(start, start + CHUNK, device=device)
    draws = Draws(index, "faces", recipe.seed, split)
    latents = {name: _normal(draws, name, getattr(recipe, name)) for name in KINDS}
    weights, offsets = (
        constant.to(device) for constant in task(recipe.shared, recipe.audio_only, recipe.face_only)
    )
    y = (torch.cat(list(latents.values()), 1) @ weights + offsets).argmax(1)
    nuisances = portraits.draw_nuisances(draws)

    def shown(modality: str, kind: str) -> Tensor:
        """Latents as a modality shows them: with an error of its own."""
        z = latents[kind]
        return z + recipe.noise * _normal(draws, f"{modality}/slip/{kind}", z.shape[1])

    audio = portraits.draw_sounds(shown("audio", "shared"), shown("audio", "audio_only"), nuisances)
    face = portraits.draw_faces(shown("face", "shared"), shown("face", "face_only"), nuisances)
    x = {
        name: (clean + GRAIN * recipe.noise * _grain(draws, name, clean)).clamp_(0, 1)
        for name, clean in (("audio", audio), ("face", face))
    }
    return Batch(x, y=y, factors=latents | nuisances)


def _normal(draws: Draws, stream: str, count: int) -> Tensor:
    """Standard normal numbers, shape (B, count); count may be 0."""
    return draws.normal(stream, max(count, 1))[:, :count]


def _grain(draws: Draws, stream: str, like: Tensor) -> Tensor:
    """Uniform noise of deviation 1 in the shape of `like`: four numbers a draw of 64 bits."""
    bits = draws.bits(f"{stream}/grain", like[0].numel() // 4).view(torch.int16)
    return bits.to(like.dtype).mul_(math.sqrt(3) / 2**15).view_as(like)
