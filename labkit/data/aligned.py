"""CMU-MOSI and CMU-MOSEI as sequences: 50 words, each with how it was said and the face that said it.

Reads `aligned_50.pkl` of the MMSA project: BERT vectors, acoustic and facial features aligned to the words,
and sentiment on a scale from -3 to 3. It is the release that DiCMoR and most of the field report on. DynMM's
experiments are on an older one, with GloVe vectors of 300 numbers: `mosei_senti_data.pkl` of MultiBench
(``words="glove"``). Both have to be put in place by hand.

They are pickles. What reads them here (`labkit.data.pickles`) runs nothing that the file names.

Source:
    Zadeh et al., arXiv:1606.06259 (MOSI) and ACL 2018 (MOSEI); features: Yu, Xu, Yuan & Wu, AAAI 2021
    (github.com/thuiar/MMSA), and Liang et al., NeurIPS 2021 (github.com/pliang279/MultiBench). Differs from
    their loaders: a feature that is not finite is an error, but for the -inf of the audio, which becomes 0 as
    in DiCMoR's (data_loader.py:66).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files
from labkit.data.pickles import Array, damaged, read_pickle

MODALITIES = ("language", "audio", "vision")
KEYS = {"language": "text", "audio": "audio", "vision": "vision"}  # in the file
LABELS = {"bert": "regression_labels", "glove": "labels"}
GLOVE = 300  # numbers of a word
CHANNELS = {
    "mosi": {"language": 768, "audio": 5, "vision": 20},
    "mosei": {"language": 768, "audio": 74, "vision": 35},
}
STEPS = 50
SPLITS = {"train": "train", "val": "valid", "test": "test"}  # ours: the file's
SIZES = {"mosi": "about 0.4 GB", "mosei": "about 4 GB"}  # 32-bit numbers; none is published

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Aligned:
    """The aligned release of CMU-MOSI or CMU-MOSEI.

    Args:
        path: The file, absolute or below a data folder ($LABKIT_DATA), for instance
            "upstream/mosi/aligned_50.pkl".
        dataset: "mosi" or "mosei": how many channels audio (5 or 74) and vision (20 or 35) have.
        words: "bert", as MMSA has them, or "glove", as MultiBench has those of MOSEI.

    Raises:
        ValueError: on an unknown data set, or words that it does not have.
    """

    path: str
    dataset: Literal["mosi", "mosei"] = "mosi"
    words: Literal["bert", "glove"] = "bert"

    def __post_init__(self) -> None:
        if self.dataset not in CHANNELS:
            raise ValueError(f"dataset must be 'mosi' or 'mosei', got {self.dataset!r}")
        if self.words not in LABELS:
            raise ValueError(f"words must be 'bert' or 'glove', got {self.words!r}")
        if self.words == "glove" and self.dataset != "mosei":
            raise ValueError("words='glove' needs dataset='mosei': no such release of MOSI is read")

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Read one split. The whole file is read for it, and needs as much memory as it is long.

        Args:
            split: "train", "val" ("valid" in the file) or "test".
            device: Where the tensors shall be; None = CPU.

        Returns:
            language (B, 50, 768), audio (B, 50, 5 or 74), vision (B, 50, 20 or 35), as they are in the file,
            not standardised; `y` (B,), sentiment from -3 to 3, float32. Factor `length` (B,), 1 to 50: steps
            up to the last one that the attention mask of `text_bert` (its second row) shows, BERT's marks of
            beginning and end among them; 50 everywhere if the file has no `text_bert`. With GloVe language is
            (B, 50, 300); the file's padding, which comes first, comes last, as in MultiBench, and samples
            without a word are left out.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if the file is missing, damaged, asks for anything but arrays, or lacks a part.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        path = self._found()
        part = _Part(path, read_pickle(path), SPLITS[split])
        y = part.numbers(LABELS[self.words]).reshape(-1)
        if not (np.abs(y) <= 3).all():  # NaN is refused too
            raise damaged(path, f"labels from {y.min()} to {y.max()}", "sentiment of -3 to 3")
        x = {}
        widths = CHANNELS[self.dataset] | ({"language": GLOVE} if self.words == "glove" else {})
        for name, channels in widths.items():
            values = part.numbers(KEYS[name], len(y), STEPS, channels)
            if name == "audio":
                values[values == -np.inf] = 0
            if not np.isfinite(values).all():
                found = f"{int((~np.isfinite(values)).sum())} numbers that are not finite"
                raise damaged(path, f"{part.name}/{KEYS[name]} with {found}", "finite numbers")
            x[name] = torch.from_numpy(values)
        place = torch.device("cpu" if device is None else device)
        if self.words == "glove":
            return _from_first_word(Batch(x, y=torch.from_numpy(y))).to(place)
        factors = {"length": torch.from_numpy(_lengths(part, len(y)))}
        return Batch(x, y=torch.from_numpy(y), factors=factors).to(place)

    def _release(self) -> str:
        if self.words == "glove":
            return (
                "mosei_senti_data.pkl is not fetched, for it lies behind the links of "
                "github.com/pliang279/MultiBench: get it there"
            )
        return (
            f"aligned_50.pkl of {self.dataset.upper()} ({SIZES[self.dataset]}) is not fetched, for it lies "
            "behind the links of github.com/thuiar/MMSA: get Processed/aligned_50.pkl there"
        )

    def _found(self) -> Path:
        places = [root / self.path for root in files.roots()]  # an absolute path stays what it is
        for place in places:
            if place.is_file():
                return place
        raise LabkitError(
            f"{' and '.join(dict.fromkeys(map(str, places)))}: not there. {self._release()} and put it at "
            f"{places[0]}. "
            f"Procedural utterances (labkit.data.affect) need no download."
        )


def _from_first_word(batch: Batch) -> Batch:
    """Samples that have a word, from their first one on; what was before it, as zeros, after them."""
    spoken = (batch.x["language"] != 0).any(-1)
    batch, spoken = batch[spoken.any(1)], spoken[spoken.any(1)]
    first = spoken.int().argmax(1)
    steps = torch.arange(STEPS) + first[:, None]
    index = steps.clamp(max=STEPS - 1)[..., None]
    there = (steps < STEPS)[..., None]
    x = {
        name: torch.where(there, values.gather(1, index.expand(-1, -1, values.shape[-1])), 0)
        for name, values in batch.x.items()
    }
    return Batch(x, y=batch.y, factors={"length": STEPS - first})


def _lengths(part: _Part, rows: int) -> NDArray[np.int64]:
    if "text_bert" not in part:
        return np.full(rows, STEPS)
    attention = part.numbers("text_bert", rows, 3, STEPS)[:, 1]
    if not np.isin(attention, (0, 1)).all():
        found = f"{part.name}/text_bert with an attention mask from {attention.min()} to {attention.max()}"
        raise damaged(part.path, found, "0 and 1")
    return np.maximum((attention * np.arange(1, STEPS + 1)).max(1).astype(np.int64), 1)


class _Part:
    """One split of the file."""

    def __init__(self, path: Path, content: Any, name: str) -> None:
        self.path, self.name = path, name
        if not isinstance(content, dict) or not isinstance(content.get(name), dict):
            found = (
                sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            )
            raise damaged(path, f"{found}", "a dict of the splits train, valid and test")
        self.arrays: dict[Any, Any] = content[name]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def numbers(self, key: str, *shape: int) -> NDArray[np.float32]:
        """A copy of an array, of this shape, or of (N,), (N, 1) or (N, 1, 1) if none is given."""
        if key not in self.arrays:
            there = sorted(map(str, self.arrays))
            raise damaged(self.path, f"{there} in {self.name}", f"{key} too")
        array = self.arrays[key]
        values = array.values if isinstance(array, Array) else array
        if isinstance(values, list) and all(type(value) in (int, float) for value in values):
            values = np.array(values, np.float64)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            what = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise damaged(self.path, f"{self.name}/{key} of {what}", "an array of numbers")
        fits = (
            values.shape == shape if shape else values.shape == (values.size, 1, 1)[: values.ndim]
        )
        if not fits or not values.size:
            allowed = f"shape {shape or '(N,)'}, N >= 1"
            raise damaged(self.path, f"{self.name}/{key} of shape {values.shape}", allowed)
        with np.errstate(over="ignore", invalid="ignore"):  # infinite or NaN then, and seen to be
            return values.astype(np.float32)
