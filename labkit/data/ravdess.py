"""RAVDESS: 24 actors speak two sentences in eight emotions; their voices and their faces.

The real half of `labkit.data.faces`, read from the pack, or from the originals: the recordings and
the table of facial action units. 60 clips an actor, 1,440 in all; the folds are made of actors, so
that who is tested has not been heard or seen in training.

Source:
    Livingstone & Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)",
    PLoS ONE 13(5), 2018. Action units, teachers' outputs and folds: Luna-Jimenez et al., "Multimodal
    Emotion Recognition on RAVDESS Dataset Using Transfer Learning", Sensors 21(22), 2021.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files, formats, real

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
# Actors of each fold of Luna-Jimenez et al. 2021; both sexes are in each.
FOLDS = (
    (2, 5, 14, 15, 16),
    (3, 6, 7, 13, 18),
    (10, 11, 12, 19, 20),
    (8, 17, 21, 23, 24),
    (1, 4, 9, 22),
)
AUS = tuple(
    f"AU{number}_{kind}"
    for kind, numbers in (
        ("r", "01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26 45"),  # intensity, 0 to 5
        ("c", "01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26 28 45"),  # share of frames with it
    )
    for number in numbers.split()
)
BANDS, FRAMES = 40, 100
RATE = 48_000  # samples a second
HOP, WINDOW = 1536, 2048  # samples: 32 ms and 43 ms
RANGE_DB = (-100.0, -10.0)  # what 0 and 255 stand for
SILENCE_DB = 30.0  # speech is what is at most this much below the loudest frame,
MARGIN = 4  # and as many frames before it

Array = NDArray[Any]


# Names ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clip:
    """One clip of the original release, as its name tells.

    Args:
        modality: 1 sound and video, 2 video alone, 3 sound alone.
        channel: 1 speech, 2 song.
        emotion: 1 to 8, as `EMOTIONS`.
        intensity: 1 normal, 2 strong (not with neutral).
        statement: 1 "Kids are talking by the door", 2 "Dogs are sitting by the door".
        repetition: 1 or 2.
        actor: 1 to 24.

    Raises:
        ValueError: on a number out of range.

    Example:
        >>> Clip.parse("03-01-06-01-02-01-12.wav").sex
        'female'
    """

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    def __post_init__(self) -> None:
        most = {"modality": 3, "channel": 2, "emotion": 8, "intensity": 2, "statement": 2,
                "repetition": 2, "actor": 24}  # fmt: skip
        for field, high in most.items():
            if not 1 <= getattr(self, field) <= high:
                raise ValueError(f"{field} must be 1 to {high}, got {getattr(self, field)}")
        if self.emotion == 1 and self.intensity == 2:
            raise ValueError("intensity must be 1 with emotion 1 (neutral), got 2")

    @classmethod
    def parse(cls, name: str) -> Clip:
        """Read a name such as "03-01-06-01-02-01-12.wav"; the extension may be left out.

        Raises:
            ValueError: if it is no such name; the message says which field is wrong.
        """
        match = re.fullmatch(r"(\d\d(?:-\d\d){6})(?:\.wav|\.mp4)?", name)
        if match is None:
            raise ValueError(
                f"name must be seven numbers of two digits as in 03-01-06-01-02-01-12.wav, got {name!r}"
            )
        try:
            return cls(*map(int, match[1].split("-")))
        except ValueError as error:
            raise ValueError(f"{error} in {name!r}") from None

    @property
    def name(self) -> str:
        """Name of the file; those with video are .mp4."""
        stem = "-".join(f"{number:02}" for number in astuple(self))
        return stem + (".wav" if self.modality == 3 else ".mp4")

    @property
    def take(self) -> tuple[int, ...]:
        """What sound and video of one recording have in common; the order of the clips in the pack."""
        return astuple(self)[1:]

    @property
    def sex(self) -> str:
        """Of the actor: "male" where the number is odd, else "female"."""
        return "male" if self.actor % 2 else "female"


# From files to a batch -----------------------------------------------------------------------------


def load(split: str, fold: int) -> Batch:
    """One split of the spoken clips, with no actor in two of them.

    Args:
        split: "test": the actors of `fold`; "val": those of the next fold; "train": all others.
        fold: 0 to 4.

    Returns:
        audio (B, 40, 100): log-mel from the start of speech, 40 bands of 50 to 7600 Hz by 100 frames of
        32 ms, in [0, 1] for -100 to -10 dB re full scale; face (B, 35): action units (`AUS`) averaged
        over the video, standardised by mean and deviation of the training split; labels as `EMOTIONS`.
        Factors: actor, fold, intensity, statement, repetition (B,), the last three 0 or 1; from the
        pack also the published outputs of teachers, `teacher_audio` and `teacher_face` (B, 8): each was
        trained on the other folds, so they may be used with `fold` as the split and in no other way.

    Raises:
        LabkitError: if neither the pack nor the originals are here, or a file is damaged.
    """
    packed = files.pack("ravdess")
    table = _packed(packed) if packed is not None else _original()
    part = (table["fold"].astype(int) - fold) % len(FOLDS)  # 0 test, 1 validation
    train = table["face_au"][part > 1].astype(np.float64)
    spread = train.std(0)
    face = (table["face_au"] - train.mean(0)) / np.where(spread > 0, spread, 1.0)
    rows = {"test": part == 0, "val": part == 1, "train": part > 1}[split]
    x = {
        "audio": torch.from_numpy(table["audio_logmel"][rows]).float() / 255,
        "face": torch.from_numpy(face[rows].astype(np.float32)),
    }
    whole = {
        name: torch.from_numpy(table[name][rows].astype(np.int64))
        for name in ("actor", "fold", "intensity", "statement", "repetition")
    }
    teachers = {
        name: torch.from_numpy(table[f"{name}_logits"][rows])
        for name in ("teacher_audio", "teacher_face") if f"{name}_logits" in table
    }  # fmt: skip
    y = torch.from_numpy(table["emotion"][rows].astype(np.int64))
    return Batch(x, y=y, factors=whole | teachers)


def _packed(path: Path) -> dict[str, Array]:
    labels = ("emotion", "intensity", "statement", "repetition", "actor", "fold")
    fields: formats.Fields = dict.fromkeys(labels, ("u", (None,)))
    fields |= {"audio_logmel": ("u", (None, BANDS, FRAMES)), "face_au": ("f", (None, len(AUS)))}
    fields |= {f"teacher_{name}_logits": ("f", (None, len(EMOTIONS))) for name in ("audio", "face")}
    return formats.read_pack(path, fields)


def _original() -> dict[str, Array]:
    """The pack's arrays made from the original recordings and action units, without the teachers."""
    folder = files.need(files.entry("Actor_*"))
    units = files.need(files.entry("df_average_AUs_total.csv"))
    clips = speech_clips(folder)
    faces = read_action_units(units)
    alone = [clip for clip in clips if clip.take not in faces]
    if alone or len(clips) != files.CLIPS:
        found = f"{len(clips)} recordings, {len(alone)} of them without a face"
        raise formats.damaged(folder, found, f"the {files.CLIPS} spoken clips of {units.name}")
    # Made in half a minute; sizes and times of half a gigabyte of recordings stand for their hash.
    seen = [f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in clips.values()]
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    made = real._kept("ravdess", [code, *seen], lambda: {"audio_logmel": read_speech(clips)})
    fold_of = {actor: fold for fold, actors in enumerate(FOLDS) for actor in actors}
    fields = ("emotion", "intensity", "statement", "repetition")
    return made | {
        "face_au": np.stack([faces[clip.take] for clip in clips]),
        "actor": np.array([clip.actor for clip in clips], np.uint8),
        "fold": np.array([fold_of[clip.actor] for clip in clips], np.uint8),
        **{f: np.array([getattr(clip, f) - 1 for clip in clips], np.uint8) for f in fields},
    }


# Recordings ----------------------------------------------------------------------------------------


def speech_clips(folder: Path) -> dict[Clip, Path]:
    """The spoken clips in a folder of the original release, in the pack's order.

    Args:
        folder: Holds Actor_01 to Actor_24 with .wav files; other files are passed over.

    Raises:
        LabkitError: on a name that breaks the scheme.
    """
    found = {}
    for path in folder.rglob("03-01-*.wav"):
        try:
            found[Clip.parse(path.name)] = path
        except ValueError as error:
            raise formats.damaged(path, str(error), "a name of the release") from error
    return dict(sorted(found.items(), key=lambda item: item[0].take))


def read_speech(clips: dict[Clip, Path]) -> NDArray[np.uint8]:
    """Log-mel pictures of recordings, as the pack has them.

    Args:
        clips: As from `speech_clips`.

    Returns:
        Shape (N, 40, 100), uint8.

    Raises:
        LabkitError: if a recording is damaged, or librosa is not installed.
    """
    pictures = np.zeros((len(clips), BANDS, FRAMES), np.uint8)
    for picture, path in zip(pictures, clips.values(), strict=True):
        picture[:] = log_mel(formats.read_wav(path.read_bytes(), path, rate=RATE, channels=2))
    return pictures


def log_mel(wave: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Log-mel picture of a recording, from four frames before its speech on.

    Speech begins with the first frame at most 30 dB below the loudest one. A sine at full scale has
    0 dB; 0 stands for -100 dB and less (and for what lies behind the end), 255 for -10 dB and more.

    Args:
        wave: Samples at 48 kHz, shape (n,), int16.

    Returns:
        Shape (40, 100), uint8; low bands first.

    Source:
        Bands, frames, scale and threshold are the pack's; differs: the pack does not state its window
        and margin. Here: Hann, 43 ms; four frames, which is what its pictures show.
    """
    flat = np.pad(wave.astype(np.float64) / 2**15, (0, max(0, WINDOW - len(wave))))
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(flat, WINDOW)[::HOP] * window
    power = 4 / (WINDOW * np.square(window).sum()) * np.abs(np.fft.rfft(frames)) ** 2
    mel = power @ _filters().T  # (T, 40)
    low, high = RANGE_DB
    level = 10 * np.log10(np.maximum(mel.sum(1), 10 ** (low / 10)))
    start = max(int((level >= level.max() - SILENCE_DB).argmax()) - MARGIN, 0)
    decibels = 10 * np.log10(np.maximum(mel[start : start + FRAMES], 10 ** (low / 10)))
    picture = np.zeros((BANDS, FRAMES), np.uint8)
    scaled = np.clip((decibels - low) * 255 / (high - low), 0, 255)
    picture[:, : len(scaled)] = np.round(scaled).T
    return picture


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """Mel filters (40, bins), triangles of height 1 between 50 and 7600 Hz."""
    try:
        import librosa
    except ImportError as error:
        raise LabkitError(
            "log-mel pictures of real recordings need librosa, which is not installed: "
            "pip install labkit[data]"
        ) from error
    filters: NDArray[np.float64] = librosa.filters.mel(
        sr=RATE, n_fft=WINDOW, n_mels=BANDS, fmin=50.0, fmax=7600.0, norm=None
    )
    return filters


# Action units --------------------------------------------------------------------------------------


def read_action_units(path: Path) -> dict[tuple[int, ...], NDArray[np.float32]]:
    """Read the published averages of the action units: one line a video, separated by semicolons.

    Args:
        path: df_average_AUs_total.csv.

    Returns:
        `Clip.take` -> the 35 numbers of `AUS`, float32.

    Raises:
        LabkitError: if a column is absent, a name or number is none, or a clip stands there twice.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text("utf-8")), delimiter=";"))
    except UnicodeDecodeError as error:
        raise formats.damaged(path, f"no text ({error})", "a table") from error
    absent = {*AUS, "name"} - set(lines[0] if lines else {})
    if absent:
        raise formats.damaged(path, f"no columns {sorted(absent)}", f"name and {len(AUS)} units")
    faces: dict[tuple[int, ...], NDArray[np.float32]] = {}
    for number, line in enumerate(lines, 2):
        try:
            take = Clip.parse(line["name"]).take
            values = np.array([float(line[unit]) for unit in AUS], np.float32)
        except (ValueError, TypeError) as error:
            raise formats.damaged(path, f"line {number}: {error}", "names and numbers") from error
        if take in faces or not np.isfinite(values).all():
            found = f"line {number}: {line['name']} again, or a number that is not finite"
            raise formats.damaged(path, found, "each clip once, finite numbers")
        faces[take] = values
    return faces
