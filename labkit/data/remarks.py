"""Remarks about films, word by word, with the voice and the face: liked or not.

`Remarks` is the recipe, `Remarks.load` the data. There are three kinds of remarks, and the words show which:

* *plain*: "my sister chose the film, the ending felt wonderful". The words tell all; voice and face hardly
  stir.
* *vague*: "the plot was different somehow". The words tell nothing; the *tone* of voice and face does.
* *sarcastic* in style: "oh sure, the plot was wonderful". Half of them are meant, half mean the opposite, and
  a *wink*, in voice and face, tells which. Neither the words nor the wink tell anything alone.

So an expert that reads the text is right on plain remarks and guesses at the others, which it takes all
modalities to understand; and one can see in the text, without knowing the answer, that it will not do. Sample
i is the same, to rounding, whatever the number of samples.

Accuracy in %, mean of three seeds; a network a modality, averaged over the words, then one for all:

=================  ====  =====  =====  =========
expert             all   plain  vague  sarcastic
=================  ====  =====  =====  =========
text               77.8   96.5   47.4       49.5
audio and vision   65.3   61.6   94.3       49.4
all three          92.1   95.2   86.6       87.8
=================  ====  =====  =====  =========

Source:
    After the data of Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR MULA 2023 (CMU-MOSEI; its Figure 5:
    sentences with explicit words need the text alone), with everything known that the claim is about.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.draws import Draws, balanced_labels

MODALITIES = ("text", "audio", "vision")
SPLITS = ("train", "val", "test")
KINDS = ("plain", "vague", "sarcastic")  # the factor `kind` is the place in here
WIDTHS = {"text": 24, "audio": 8, "vision": 8}  # numbers of a time step
BLUR = 0.25  # deviation of the sentiment around what is meant
LEAST = 0.25  # sentiment is never nearer to 0

# Words by what stands for them in a pattern; those of GOOD and BAD by strength, 1, 2 and 3.
STRENGTHS = 3
GROUPS = {
    "THING": "film plot ending acting music story cast dialogue",
    "LINK": "was felt seemed looked",
    "GOOD": "nice decent pleasant great lovely moving wonderful brilliant superb",
    "BAD": "slow weak bland dull clumsy bad horrible dreadful terrible",
    "VAGUE": "different unusual curious interesting okay",
    "HEDGE": "somehow perhaps anyway whatever",
    "OH": "oh yeah well ha",
    "SURE": "sure right naturally totally",
    "WHEN": "monday friday saturday sunday",
    "WHO": "sister neighbour friend teacher",
}
OPENINGS = (
    "",
    "i saw it on WHEN ,",
    "my WHO chose the film ,",
    "the director is new ,",
    "with my WHO ,",
)
PATTERNS = {
    "plain": ("the THING LINK POLAR", "it LINK POLAR and the THING POLAR", "a POLAR THING"),
    "vague": ("the THING LINK VAGUE HEDGE", "it LINK VAGUE , HEDGE", "a THING , VAGUE HEDGE"),
    "sarcastic": ("OH SURE , the THING LINK POLAR", "OH , SURE a POLAR THING", "SURE , so POLAR"),
}
STEPS = 13  # words of the longest remark

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Remarks:
    """Recipe of a data set of remarks.

    Args:
        vague: Share of vague remarks, 0 to 1.
        sarcastic: Share of remarks of sarcastic style, 0 to 1; `vague` + `sarcastic` is at most 1.
        tone: Strength of the sentiment in voice and face, 0 to 10; where the words tell it (plain), a tenth
            as strong; none in sarcastic remarks, which are delivered without a stir but the wink.
        wink: Strength of the wink, 0 to 10.
        noise: Deviations of the noise, 0 to 10: on the words' vectors, voice, face.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples.
        world: Seed of what stays: the words' vectors, and how voice and face show tone and wink.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed.
    """

    vague: float = 0.2
    sarcastic: float = 0.2
    tone: float = 0.4
    wink: float = 0.7
    noise: tuple[float, float, float] = (0.5, 1.0, 1.2)
    n_train: int = 4000
    n_val: int = 1000
    n_test: int = 2000
    seed: int = 0
    world: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int):
                low, high = (1, 10**9) if field.name.startswith("n_") else (0, 2**63 - 1)
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int)
                    or not low <= value <= high
                ):
                    raise ValueError(
                        f"{field.name} must be a whole number from {low} to {high}, got {value!r}"
                    )
        for name, most in (("vague", 1), ("sarcastic", 1), ("tone", 10), ("wink", 10)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in 0..{most}, got {getattr(self, name)!r}")
        if self.vague + self.sarcastic > 1 + 1e-9:
            raise ValueError(
                f"vague + sarcastic must be at most 1, got {self.vague} + {self.sarcastic}"
            )
        if len(self.noise) != 3 or not all(0 <= deviation <= 10 for deviation in self.noise):
            raise ValueError(f"noise must be three numbers in 0..10, got {self.noise}")

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be made; None = CPU.

        Returns:
            text (B, 13, 24), a step a word, audio (B, 13, 8), vision (B, 13, 8), float32, 0 after the end of
            the remark; labels 0 negative, 1 positive, equally often. Factors: `sentiment` (B,), -3 to 3 but
            never 0; `kind` (B,), its place in `KINDS`; `flipped` (B,), bool, the opposite of the words is
            meant (only ever in sarcastic remarks); `length` (B,), words; `words` (B, 13), their places in
            `vocabulary()`, -1 after the end.

        Raises:
            ValueError: on an unknown split.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        draws = Draws(torch.arange(n, device=device), "remarks", self.seed, split)
        y = balanced_labels(draws.index, 2, *draws.address)
        at = draws.uniform("kind")
        kind = (at < self.vague + self.sarcastic).long() + (at < self.sarcastic).long()
        flipped = (kind == 2) & (draws.uniform("flipped") < 0.5)
        sign = 2 * y - 1
        words, said = _written(draws, kind, (y == 1) ^ flipped)
        size = torch.where(kind == 1, draws.uniform("size", low=0.5, high=2.5), said)
        size = (size + BLUR * draws.normal("blur")).clamp(LEAST, 3)
        factors = {
            "sentiment": sign * size, "kind": kind, "flipped": flipped,
            "length": (words >= 0).sum(1), "words": words,
        }  # fmt: skip
        return Batch(self._shown(draws, factors), y=y, factors=factors)

    def _shown(self, draws: Draws, factors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Vectors of words, voice and face at each step, (B, 13, C)."""
        fixed, words, kind = (
            _fixed(self.world, draws.index.device),
            factors["words"],
            factors["kind"],
        )
        stir = self.tone * draws.index.new_tensor([0.1, 1.0, 0.0], dtype=torch.float32)[kind]
        tone = stir * factors["sentiment"]
        wink = self.wink * torch.where(kind == 2, 2.0 * factors["flipped"] - 1, 0.0)
        clear = {
            "text": fixed.text[words.clamp(min=0)],
            "audio": (tone[:, None] * fixed.audio[0] + wink[:, None] * fixed.audio[1])[:, None],
            "vision": (tone[:, None] * fixed.vision[0] + wink[:, None] * fixed.vision[1])[:, None],
        }
        x = {}
        for deviation, (name, values) in zip(self.noise, clear.items(), strict=True):
            grain = deviation * draws.normal(f"{name}/noise", STEPS, WIDTHS[name])
            x[name] = (values + grain) * (words >= 0)[..., None]
        return x

    @staticmethod
    def words(batch: Batch) -> list[str]:
        """What is said in each sample, as text.

        Args:
            batch: As `load` gives it, or rows of it: batch[:5].

        Raises:
            ValueError: if the batch has no factor `words`.
        """
        if "words" not in batch.factors:
            raise ValueError(f"batch must have the factor 'words', got {', '.join(batch.factors)}")
        known = vocabulary()
        return [
            " ".join(known[word] for word in remark if word >= 0).replace(" ,", ",")
            for remark in batch.factors["words"].tolist()
        ]


def _written(draws: Draws, kind: Tensor, good: Tensor) -> tuple[Tensor, Tensor]:
    """Words (B, 13), -1 after the end, and the mean strength (B,) of those of GOOD and BAD, 0 without."""
    book = _book(draws.index.device)
    opening = book.openings[draws.choice("opening", len(book.openings))]  # (B, 13) slots
    pattern = book.patterns[kind, draws.choice("pattern", book.patterns.shape[1])]
    before = (opening >= 0).sum(1, keepdim=True)
    place = torch.arange(STEPS, device=draws.index.device) - before
    slot = torch.where(place < 0, opening, pattern.gather(1, place.clamp(min=0)))
    slot = torch.where((slot == book.polar) & ~good[:, None], slot + 1, slot)  # BAD follows GOOD
    first, count = book.first[slot], book.count[slot]
    drawn = (draws.bits("word", STEPS) & 0xFFFFFF) % count
    words = torch.where(slot >= 0, first + drawn, -1)
    polar = (slot == book.polar) | (slot == book.polar + 1)
    strength = torch.where(polar, 1 + drawn * STRENGTHS // count, 0).sum(1)
    return words, strength / polar.sum(1).clamp(min=1)


class _Book(NamedTuple):
    """Patterns as numbers: a slot is a group of words, of which one is drawn; -1 after the end."""

    vocabulary: tuple[str, ...]
    openings: Tensor  # (openings, 13)
    patterns: Tensor  # (kinds, patterns, 13)
    first: Tensor  # first word of each slot's group
    count: Tensor  # type: ignore[assignment]  # words of each slot's group (hides tuple.count)
    polar: int  # slot of GOOD; that of BAD follows


@lru_cache(maxsize=8)
def _book(device: torch.device) -> _Book:
    texts = [*OPENINGS, *(text for kind in KINDS for text in PATTERNS[kind])]
    plain = {word for text in texts for word in text.split()} - {*GROUPS, "POLAR"}
    groups = {name: words.split() for name, words in GROUPS.items()}
    groups |= {word: [word] for word in sorted(plain)}  # a word that stands for itself
    slots = {name: slot for slot, name in enumerate(groups)} | {"POLAR": list(groups).index("GOOD")}

    def coded(texts: tuple[str, ...]) -> list[list[int]]:
        rows = [[slots[word] for word in text.split()] for text in texts]
        return [row + [-1] * (STEPS - len(row)) for row in rows]

    vocabulary = tuple(word for words in groups.values() for word in words)
    count = torch.tensor([len(words) for words in groups.values()], device=device)
    return _Book(
        vocabulary, torch.tensor(coded(OPENINGS), device=device),
        torch.tensor([coded(PATTERNS[kind]) for kind in KINDS], device=device),
        count.cumsum(0) - count, count, slots["POLAR"],
    )  # fmt: skip


def vocabulary() -> tuple[str, ...]:
    """All words, in the order of their numbers."""
    return _book(torch.device("cpu")).vocabulary


class _Fixed(NamedTuple):
    """Constants of a world: the words' vectors (V, 24); directions of tone and wink (2, 8)."""

    text: Tensor
    audio: Tensor
    vision: Tensor


@lru_cache(maxsize=64)
def _fixed(world: int, device: torch.device) -> _Fixed:
    def drawn(name: str, rows: int) -> Tensor:
        return Draws(torch.arange(rows), "remarks", "world", world).normal(name, WIDTHS[name])

    made = {name: drawn(name, 2).double() for name in ("audio", "vision")}
    shown = {name: torch.linalg.qr(two.T)[0].T.float().to(device) for name, two in made.items()}
    return _Fixed(drawn("text", len(vocabulary())).to(device), **shown)
