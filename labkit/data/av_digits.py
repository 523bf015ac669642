"""Digits heard and seen, the picture dimmed: a case study after AV-MNIST.

`AVDigits` is `labkit.data.digits.Digits` with one script and the voice, and with most of the picture's
variance taken away, so that neither tells all, and the two together tell far more.

Source:
    Vielzeuf, Lechervy, Pateux & Jurie, "CentralNet: a Multilayer Approach for Multimodal Fusion", ECCV
    Workshops 2018, who took 75 % of the energy off MNIST's images by principal component analysis and put
    spoken digits beside them; Table 1 of Xue et al., "The Modality Focusing Hypothesis", ICLR 2023,
    distils on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.digits import Digits

FITTED = 2000  # training images of seed 0 that the components are those of


@dataclass(frozen=True)
class AVDigits:
    """Recipe of digits heard (``audio``) and seen (``image``).

    Args:
        source: "procedural", or "real": Hoda's Farsi digits and the Free Spoken Digit Dataset.
        energy: Share of the images' variance that is left: the smallest principal components that hold it.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples, as of `Digits`.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    source: Literal["procedural", "real"] = "procedural"
    energy: float = 0.25
    n_train: int = 1000
    n_val: int = 200
    n_test: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must lie in (0, 1], got {self.energy}")
        self._digits()

    def _digits(self) -> Digits:
        return Digits(
            source=self.source, n_train=self.n_train, n_val=self.n_val, n_test=self.n_test, seed=self.seed
        )  # fmt: skip

    def load(
        self, split: Literal["train", "val", "test"], device: torch.device | str | None = None
    ) -> Batch:
        """One split: audio (B, 13) in about [0, 1], image (B, 28, 28) around 0, labels 0 to 9.

        Raises:
            ValueError, LabkitError: as `Digits.load`.
        """
        digits = self._digits().load(split)
        mean, dropped = _components(self.source, self.energy)
        flat = digits.x["farsi"].flatten(1) - mean
        image = (flat - flat @ dropped @ dropped.T).unflatten(1, (28, 28))
        batch = Batch({"audio": digits.x["speech"], "image": image}, y=digits.y)
        return batch.to("cpu" if device is None else device)


@lru_cache(maxsize=8)
def _components(source: Literal["procedural", "real"], energy: float) -> tuple[Tensor, Tensor]:
    """Mean image (784,), and the largest components (784, K): all but `energy` of the variance."""
    x = Digits(source=source, n_train=FITTED).load("train").x["farsi"].flatten(1)
    mean = x.mean(0)
    _, values, vectors = torch.linalg.svd((x - mean).double(), full_matrices=False)
    share = values.square().cumsum(0) / values.square().sum()
    count = int((share <= 1 - energy).sum())
    return mean, vectors[:count].T.float()
