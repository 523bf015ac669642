"""CMU-MOSI: 2,199 utterances of 93 video reviews; what is said, how it sounds, the face; liked or not.

One vector a modality and utterance, and a label of two classes: accuracy, weighted F1 and the majority rate
(`metrics_sentiment.binary_scores`), and no more, can be told from it; the seven-class and regression scores
belong to the aligned release (`labkit.data.aligned`) and to `labkit.data.affect`.

Mind: the language and vision vectors are outputs of networks that were trained on the labels of the training
videos, those held out for validation among them. So training figures say little, and validation figures as
little: only the test split tells what is known of a video not seen before. Accuracy of logistic regression,
mean over 10 seeds of the split:

=========  ========  ==========  ====
from       training  validation  test
=========  ========  ==========  ====
language   99 %      98 %        75 %
audio      66 %      46 %        55 %
vision     93 %      90 %        52 %
all three  100 %     99 %        75 %
=========  ========  ==========  ====

On test always "positive" scores 62.1 %: from one utterance, audio and vision do not reach it.

Source:
    Zadeh, Zellers, Pincus & Morency, "MOSI: Multimodal Corpus of Sentiment Intensity", arXiv:1606.06259.
    Vectors: Poria et al., "Context-Dependent Sentiment Analysis in User-Generated Videos", ACL 2017, as
    github.com/declare-lab/multimodal-deep-learning, contextual-multimodal-fusion, has them.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.batch import Batch
from labkit.data import files, formats
from labkit.data.draws import permutation

MODALITIES = ("language", "audio", "vision")
CHANNELS = {"language": 100, "audio": 73, "vision": 100}
NAMES = {"language": "text", "audio": "audio", "vision": "video"}  # in the release
SPLITS = ("train", "val", "test")
TRAINING_VIDEOS = 62  # of 93
MOST = 8.0  # deviations: what is further off is clipped

Split = Literal["train", "val", "test"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Mosi:
    """CMU-MOSI, and which of its training videos are held out for validation.

    Args:
        val_videos: How many of the 62 training videos make up the validation split, 1 to 61. No video is in
            two splits.
        seed: Which ones: they are drawn. The test split is the 31 videos that the release gives.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed.
    """

    val_videos: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("val_videos", 1, TRAINING_VIDEOS - 1), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{name} must be a whole number from {low} to {high}, got {value!r}"
                )

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Read one split, from the pack or from the original tables.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU.

        Returns:
            language (B, 1, 100), audio (B, 1, 73), vision (B, 1, 100): sequences of one step, standardised
            by mean and deviation of the training split, then clipped to -8 to 8 (the audio statistics
            come unscaled and have heavy tails). Labels 0 negative, 1 positive. Factors: `video` (B,), 0 to
            61 in the training videos, 62 to 92 in the test videos; `utterance` (B,), its number in the video.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if a file is missing, damaged or not the published one.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        packed = files.pack("mosi")
        table = _packed(packed) if packed is not None else _original()
        videos = _videos(table)
        given = table["test"].astype(bool)
        order = permutation(int(videos[~given].max()) + 1, "mosi", self.seed).numpy()
        held = np.isin(videos, order[: self.val_videos])
        train = ~given & ~held
        rows = {"train": train, "val": held, "test": given}[split]
        x = {name: _standardised(table[name], train, rows) for name in MODALITIES}
        return Batch(
            {name: torch.from_numpy(values)[:, None] for name, values in x.items()},
            y=torch.from_numpy(table["label"][rows].astype(np.int64)),
            factors={
                "video": torch.from_numpy(videos[rows]),
                "utterance": torch.tensor([_parsed(name)[1] for name in table["utterance"][rows]]),
            },
        ).to(torch.device("cpu" if device is None else device))


def _standardised(values: Array, train: Array, rows: Array) -> NDArray[np.float32]:
    known = values[train].astype(np.float64)
    spread = known.std(0)
    scaled = (values[rows] - known.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.clip(scaled, -MOST, MOST).astype(np.float32)


def _videos(table: dict[str, Array]) -> NDArray[np.int64]:
    """Number of each row's video: training videos first, each part in the order of the names."""
    named = [
        (bool(t), _parsed(u)[0]) for t, u in zip(table["test"], table["utterance"], strict=True)
    ]
    number = {video: i for i, video in enumerate(sorted(set(named)))}
    return np.array([number[video] for video in named])


def _parsed(utterance: str) -> tuple[str, int]:
    """Video and number: "2iD-tVS8NPw_10" -> ("2iD-tVS8NPw", 10)."""
    video, _, number = str(utterance).rpartition("_")
    return video, int(number)


# From files to a table -----------------------------------------------------------------------------


def _packed(path: Path) -> dict[str, Array]:
    fields: formats.Fields = {}
    for part in ("train", "test"):
        fields |= {f"{part}_label": ("u", (None,)), f"{part}_utterance": ("U", (None,))}
        fields |= {f"{part}_{NAMES[m]}": ("f", (None, CHANNELS[m])) for m in MODALITIES}
    arrays = formats.read_pack(path, fields)
    return _joined(
        {
            part: {name: arrays[f"{part}_{NAMES.get(name, name)}"]
                   for name in (*MODALITIES, "label", "utterance")}
            for part in ("train", "test")
        }
    )  # fmt: skip


def _original() -> dict[str, Array]:
    """The pack's arrays, read from the published tables."""
    transcripts = files.need(files.entry("transcripts.csv"))
    parts: dict[str, dict[str, Array]] = {}
    for part in ("train", "test"):
        utterances = read_utterances(transcripts, files.need(files.entry(f"text_{part}.csv")))
        parts[part] = {"utterance": utterances}
        for name in MODALITIES:
            path = files.need(files.entry(f"{NAMES[name]}_{part}0.csv"))
            values, labels = read_table(path, CHANNELS[name])
            if len(values) != len(utterances):
                raise formats.damaged(
                    path, f"{len(values)} rows", f"the {len(utterances)} of text_{part}.csv"
                )
            if (labels != parts[part].setdefault("label", labels)).any():
                raise formats.damaged(
                    path, "other labels", f"those of {NAMES['language']}_{part}0.csv"
                )
            parts[part][name] = values
    return _joined(parts)


def _joined(parts: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """Training and test rows one after the other, with `test` to tell them apart."""
    table = {
        name: np.concatenate([parts["train"][name], parts["test"][name]]) for name in parts["train"]
    }
    return table | {
        "test": np.repeat([0, 1], [len(parts["train"]["label"]), len(parts["test"]["label"])])
    }


def read_table(path: Path, channels: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read the vectors of one modality: a line an utterance, numbers between commas, the label last.

    Args:
        path: Such as text_train0.csv.
        channels: Numbers of a vector.

    Returns:
        Vectors (N, channels) and labels (N,), 0 or 1.

    Raises:
        LabkitError: on anything but finite numbers, on lines of another length and on other labels.
    """
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        values = np.array([[float(cell) for cell in line.split(",")] for line in lines])
    except ValueError as error:  # no text, no number, or lines of several lengths
        raise formats.damaged(path, str(error), "numbers between commas, as many a line") from error
    if values.ndim != 2 or values.shape[1] != channels + 1:
        found = f"a table of shape {values.shape}"
        raise formats.damaged(path, found, f"lines of {channels} numbers and a label")
    if not np.isfinite(values).all() or not np.isin(values[:, -1], (0, 1)).all():
        found = "a number that is not finite, or a label other than 0 and 1"
        raise formats.damaged(path, found, "finite numbers, labels 0 and 1")
    return values[:, :-1].astype(np.float32), values[:, -1].astype(np.uint8)


def read_utterances(transcripts: Path, order: Path) -> NDArray[np.str_]:
    """Read which utterance each row of the vectors is.

    Args:
        transcripts: transcripts.csv: a line an utterance, its name first.
        order: text_train.csv or text_test.csv: a line a row, first the line of transcripts.csv, from 0.

    Returns:
        Names, video and number, such as "2iD-tVS8NPw_10". Shape (N,).

    Raises:
        LabkitError: if a file is no such table, or a line that is asked for is not there.
    """
    names = [line[0] for line in _lines(transcripts)]
    found = []
    for number, line in enumerate(_lines(order), 1):
        if not line[0].isdecimal() or int(line[0]) >= len(names):
            allowed = f"a line of {transcripts.name}, 0 to {len(names) - 1}"
            raise formats.damaged(order, f"row {number}: {line[0]!r}", allowed)
        name = names[int(line[0])]
        if re.fullmatch(r".+_\d+", name, flags=re.ASCII) is None:
            raise formats.damaged(transcripts, f"the name {name!r}", "a video, _ and a number")
        found.append(name)
    return np.array(found, dtype=np.str_)


def _lines(path: Path) -> list[list[str]]:
    """The lines of a table that are not empty."""
    try:
        return [line for line in csv.reader(io.StringIO(path.read_text("utf-8"))) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise formats.damaged(path, f"no table ({error})", "text in columns") from error
