"""Movies with several genres each: a text that is sometimes clear, and a picture that is always poor.

`Movies` is the recipe, `Movies.load` the data. A hidden *gist* of six numbers decides the labels, each by a
plane of its own. Text shows the gist through little noise in the *easy* samples; in the *hard* ones it hardly
speaks of it. Image shows it in all of them, through much noise. So an expert that reads the text does as well
as one that reads both where the sample is easy, and much worse where it is hard; and which of the two it is
can be seen in the text, without knowing the labels: a text that says little has small numbers. Sample i is
the same, to rounding, whatever the number of samples. Real ones are MM-IMDB (`labkit.data.mmimdb`).

Text has 32 numbers and image 64: an expert of both costs about three times what one of the text costs, and
all of them, and a gate, are trained in seconds.

F1 in %, mean of three seeds; experts and gate of DynMM's design, 64 wide, the gate 32 (experts frozen,
decisions hard, straight-through, loss + lambda x share of samples sent to E2, lambda 0.045 to 0.08):

==========================  =====  =====  =====  =====  =====  =====
micro and macro F1          all           easy          hard
==========================  =====  =====  =====  =====  =====  =====
text (E1)                    66.6   59.4   78.8   72.3   37.9   25.0
text and image (E2)          72.2   63.7   78.9   72.3   57.5   42.2
image                        61.8   48.3   62.1   48.6   61.3   47.7
best constant answer         44.9   34.0
E2 where hard, else E1       72.1   63.8
gate, 41 % to E2             71.3   63.3
random, 41 % to E2           68.9   61.2
==========================  =====  =====  =====  =====  =====  =====

Source:
    After the data of Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR MULA 2023 (MM-IMDB: text and poster,
    23 genres), with everything known that the claim of that paper is about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.data.draws import Draws

MODALITIES = ("text", "image")
SPLITS = ("train", "val", "test")
WIDTHS = {"text": 32, "image": 64}  # numbers of a sample
GIST = 6  # hidden numbers of a sample, from which all else is made
GAIN = 1.5  # deviation of what the tanh bends
LIMITS: dict[str, tuple[float, float]] = {
    "labels": (2, 23), "hard": (0, 1), "clarity": (0, 1), "text_noise": (0, 10), "image_noise": (0, 10),
    "uneven": (0, 2), "common": (0.01, 0.99), "imbalance": (1, 100), "n_train": (1, 10**9),
    "n_val": (1, 10**9), "n_test": (1, 10**9), "seed": (0, 2**63 - 1), "world": (0, 2**63 - 1),
}  # fmt: skip

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Movies:
    """Recipe of a data set of movies.

    Args:
        source: "procedural", or "real" for MM-IMDB.
        labels: K, genres, 2 to 23.
        hard: Share of the samples whose text hardly speaks of the gist, 0 to 1.
        clarity: The clearest that a hard sample's text gets, 0 to 1: in it the gist counts as a number from 0
            to this, in an easy one as 1.
        text_noise: Deviation of the text's noise, 0 to 10; its signal has about 0.8 at clarity 1.
        image_noise: Deviation of the image's noise, 0 to 10, beside a signal of about 0.8.
        uneven: Deviation of the logarithm of what a sample's image noise is multiplied by, 0 to 2.
        common: Share of samples that have the commonest label, 0.01 to 0.99.
        imbalance: How many times commoner it is than the rarest, 1 to 100; those between have shares in equal
            ratios. At 1 all are equally common, and macro F1 is nearly micro F1.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples.
        world: Seed of what stays: the labels' planes, and how text and image show the gist.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed. With source="real"
            everything else stays as it is.
    """

    source: Literal["procedural", "real"] = "procedural"
    labels: int = 8
    hard: float = 0.35
    clarity: float = 0.15
    text_noise: float = 0.5
    image_noise: float = 1.7
    uneven: float = 0.3
    common: float = 0.45
    imbalance: float = 6.0
    n_train: int = 4000
    n_val: int = 1000
    n_test: int = 2000
    seed: int = 0
    world: int = 0

    def __post_init__(self) -> None:
        if self.source not in ("procedural", "real"):
            raise ValueError(f"source must be 'procedural' or 'real', got {self.source!r}")
        for field in fields(self)[1:]:
            value, (low, high) = getattr(self, field.name), LIMITS[field.name]
            whole = isinstance(field.default, int)
            right = isinstance(value, int) if whole else isinstance(value, (int, float))
            if isinstance(value, bool) or not right or not low <= value <= high:
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name} must be {kind} from {low} to {high}, got {value!r}")
            if self.source == "real" and value != field.default:
                raise ValueError(
                    f"{field.name} must stay {field.default} with source='real', got {value}: "
                    "the real movies are what they are"
                )

    @property
    def shapes(self) -> dict[str, tuple[int]]:
        """Modality -> shape of one sample: 32 and 64 numbers, or MM-IMDB's 300 and 4096."""
        if self.source == "real":
            from labkit.data import mmimdb

            return {name: (width,) for name, width in mmimdb.WIDTHS.items()}
        return {name: (width,) for name, width in WIDTHS.items()}

    @property
    def n_labels(self) -> int:
        """K: `labels`, or MM-IMDB's 23."""
        return self.labels if self.source == "procedural" else 23

    @property
    def shares(self) -> Tensor:
        """Share of samples that have each label, commonest first, shape (K,). Procedural data only."""
        return self.common * self.imbalance ** -torch.linspace(0, 1, self.labels)

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU. Procedural samples are made there.

        Returns:
            text (B, 32) and image (B, 64), float32; y (B, K), float32, 1 where a sample has the label, else 0
            (a sample may have none). Factors: `hard` (B,), bool; `clarity` (B,), what the gist counts
            as in the text, 1 in easy samples; `image_noise` (B,), deviation of the sample's image noise;
            `gist` (B, 6). Real: as `labkit.data.mmimdb.MmImdb.load`.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if the file of the real data is missing or damaged.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        if self.source == "real":
            from labkit.data.mmimdb import MmImdb  # reads a file; procedural samples never need it

            return MmImdb().load(split, device)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        draws = Draws(torch.arange(n, device=device), "movies", self.seed, split)
        fixed = self.fixed(draws.index.device)
        gist = draws.normal("gist", GIST)
        hard = draws.uniform("hard") < self.hard
        clarity = torch.where(hard, self.clarity * draws.uniform("clarity"), 1.0)
        deviation = self.image_noise * (self.uneven * draws.normal("uneven")).exp()
        text = torch.tanh(clarity[:, None] * (gist @ fixed.text))
        text = text + self.text_noise * draws.normal("text/noise", WIDTHS["text"])
        image = torch.tanh(gist @ fixed.image)
        image = image + deviation[:, None] * draws.normal("image/noise", WIDTHS["image"])
        factors = {"hard": hard, "clarity": clarity, "image_noise": deviation, "gist": gist}
        return Batch({"text": text, "image": image}, y=fixed.truth(gist), factors=factors)

    def fixed(self, device: torch.device | str | None = None) -> Fixed:
        """What does not change from sample to sample: planes of the labels and maps of the modalities."""
        made = Fixed(*(constant.to(device) for constant in _fixed(self.world, self.labels)))
        # A gist's distance along a plane's normal is standard normal, so this cuts off the share wanted.
        offset = math.sqrt(2) * torch.erfinv(2 * self.shares - 1)
        return made._replace(offset=offset.to(made.normals))


class Fixed(NamedTuple):
    """Constants of a world.

    `normals` (K, 6), of length 1, and `offset` (K,) of the labels' planes; `text` (6, 32); `image` (6, 64).
    """

    normals: Tensor
    text: Tensor
    image: Tensor
    offset: Tensor

    def truth(self, gist: Tensor) -> Tensor:
        """Labels (B, K), float32, of a gist (B, 6)."""
        return (gist @ self.normals.T + self.offset > 0).float()


@lru_cache(maxsize=64)
def _fixed(world: int, labels: int) -> Fixed:
    def drawn(name: str, rows: int) -> Tensor:
        directions = Draws(torch.arange(rows), "movies", "world", world).normal(name, GIST)
        return F.normalize(directions.double(), dim=1).float()

    text, image = (GAIN * drawn(name, width).T for name, width in WIDTHS.items())
    return Fixed(drawn("normals", labels), text, image, torch.zeros(labels))
