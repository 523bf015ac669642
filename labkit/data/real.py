"""The real digits: Hoda, Kannada-MNIST and the Free Spoken Digit Dataset, put together by class.

From files (labkit.data.files finds and verifies them) to arrays, and from three unrelated releases to
triplets of one digit. What takes seconds, resizing and cepstra, is kept under labkit's cache by the
hash of what it was made from.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import files, formats
from labkit.data.draws import Draws, balanced_labels, permutation
from labkit.files import cache_dir, write_atomic

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
BOX = 20  # pixels of the longer side of a digit
SIZE = 28
FRAMES = 20  # frames of the sequence that pool="none" gives

Array = NDArray[Any]


@dataclass(frozen=True)
class Images:
    """Images of one release and split: pixels (N, 28, 28) uint8, labels (N,), writers (N,) or None."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    writers: NDArray[np.uint8] | None = None


def load(split: str, n: int, *, seed: int, pool: str, held_out: int | None) -> Batch:
    """Put triplets of one digit together: the poster's pairing, balanced and seeded.

    Images are used at most once; recordings, of which there are few, are drawn with replacement.
    Training and validation share the training releases 80 : 20 inside each class, by seed.

    Args:
        split: "train", "val" or "test".
        n: Number of triplets.
        seed: Seed of the validation split and of the pairing.
        pool: "poster", "mean" or "none".
        held_out: Speaker who speaks in the test split and nowhere else; None: FSDD's own split.

    Returns:
        The batch; factors `speaker`, and `writer_kannada` where the writers are known.

    Raises:
        ValueError: if n is more than the releases can give.
        LabkitError: if a file is missing or damaged.
    """
    release = "test" if split == "test" else "train"
    images = {"farsi": hoda(release), "kannada": kannada(release)}
    pools = {name: _pools(made.labels, split, seed, name) for name, made in images.items()}
    most = 10 * min(len(members) for by_class in pools.values() for members in by_class)
    if n > most:
        raise ValueError(
            f"n_{split} may be at most {most} with source='real', because no image is used twice; got {n}"
        )
    y = balanced_labels(torch.arange(n), 10, seed, split)
    counted = torch.nn.functional.one_hot(y, 10).cumsum(0)
    turn = counted.gather(1, y[:, None])[:, 0] - 1  # this is the turn-th sample of its class
    x: dict[str, Tensor] = {}
    factors: dict[str, Tensor] = {}
    for name, made in images.items():
        members = torch.stack([by_class[: most // 10] for by_class in pools[name]])
        chosen = members[y, turn].numpy()
        x[name] = torch.from_numpy(made.pixels[chosen]).float() / 255
        if made.writers is not None:
            factors[f"writer_{name}"] = torch.from_numpy(made.writers[chosen].astype(np.int64))
    x["speech"], factors["speaker"] = _speech(split, y, seed, pool, held_out)
    return Batch(x, y=y, factors=factors)


def _pools(labels: Array, split: str, seed: int, name: str) -> list[Tensor]:
    """Samples of each class that a split may use, in an order drawn by seed."""
    pools = []
    for digit in range(10):
        members = torch.from_numpy(np.flatnonzero(labels == digit))
        if split == "test":
            pools.append(members[permutation(len(members), seed, name, "test", digit)])
            continue
        # Validation is cut off by one order and paired by another, so that neither depends on n.
        members = members[permutation(len(members), seed, name, "split", digit)]
        cut = len(members) * 4 // 5
        members = members[:cut] if split == "train" else members[cut:]
        pools.append(members[permutation(len(members), seed, name, split, digit)])
    return pools


def _speech(
    split: str, y: Tensor, seed: int, pool: str, held_out: int | None
) -> tuple[Tensor, Tensor]:
    """Cepstra drawn with replacement inside the class, scaled by the training recordings' range."""
    table = cepstra()
    speaker, digit, test = table["speaker"], table["digit"], table["index"] < 5
    if held_out is not None:
        test = speaker == held_out
    release = np.flatnonzero(test if split == "test" else ~test)
    training = _pools(digit[~test], "train", seed, "speech")
    seen = torch.from_numpy(np.flatnonzero(~test))[torch.cat(training)].numpy()
    values = table["sequence" if pool == "none" else pool].astype(np.float32)
    axes = tuple(range(values.ndim - 1))
    low, high = values[seen].min(axes), values[seen].max(axes)
    by_class = _pools(digit[release], split, seed, "speech")
    pools = [torch.from_numpy(release)[members] for members in by_class]
    sizes = torch.tensor([len(members) for members in pools])
    table_of_pools = torch.nn.utils.rnn.pad_sequence(pools, batch_first=True)
    draw = Draws(torch.arange(len(y)), seed, split).bits("recording") % sizes[y]
    chosen = table_of_pools[y, draw].numpy()
    scaled = (values[chosen] - low) / np.maximum(high - low, 1e-12)
    return torch.from_numpy(scaled), torch.from_numpy(speaker[chosen].astype(np.int64))


# Images --------------------------------------------------------------------------------------------


def hoda(release: str) -> Images:
    """Hoda's Farsi digits: 60,000 of the training release, or 20,000 of the test release.

    Raises:
        LabkitError: if the file is missing or damaged.
    """
    packed = files.pack("hoda")
    if packed is not None:
        return _packed_images(packed, release, writers=False)
    original = files.need(
        files.entry("Test 20000.cdb" if release == "test" else "Data_hoda_full.mat")
    )

    def make() -> dict[str, Array]:
        bitmaps, labels = (
            formats.read_cdb(original) if release == "test" else formats.read_hoda_mat(original)
        )
        return {"images": fit_bitmaps(bitmaps), "labels": labels}

    made = _kept(f"hoda-{release}", [files.sha256_of(original)], make)
    return Images(made["images"], made["labels"])


def kannada(release: str) -> Images:
    """Kannada-MNIST: 60,000 digits of the training release, or 10,000 of the test release.

    Raises:
        LabkitError: if a file is missing or damaged.
    """
    packed = files.pack("kannada")
    if packed is not None:
        return _packed_images(packed, release, writers=True)
    # The training images' .gz is published too, but only the .npy's hash is known.
    images = (
        "X_kannada_MNIST_test-idx3-ubyte.gz" if release == "test" else "X_kannada_MNIST_train.npy"
    )
    image_file = files.need(files.entry(images))
    label_file = files.need(files.entry(f"y_kannada_MNIST_{release}-idx1-ubyte.gz"))
    read = formats.read_idx if release == "test" else formats.read_npy
    return Images(read(image_file, (None, SIZE, SIZE)), formats.read_idx(label_file, (None,)))


def _packed_images(path: Path, release: str, writers: bool) -> Images:
    fields: formats.Fields = {f"{release}_images": ("u", (None, SIZE, SIZE))}
    for name in ("labels", "writers") if writers else ("labels",):
        fields[f"{release}_{name}"] = ("u", (None,))
    arrays = formats.read_pack(path, fields)
    return Images(*(arrays[name] for name in fields))


def fit_bitmaps(bitmaps: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Bring tight bitmaps of any size to 28 x 28, as the packs have them.

    The longer side gets 20 pixels (area averaging down, linear up, aspect kept), and the centre of
    mass lies in the middle.

    Args:
        bitmaps: Arrays (h, w) of 0 and 1, each with some ink.

    Returns:
        White ink on black, shape (N, 28, 28), uint8.
    """
    fitted = np.zeros((len(bitmaps), SIZE, SIZE), np.uint8)
    for image, bitmap in zip(fitted, bitmaps, strict=True):
        height, width = (max(1, round(side * BOX / max(bitmap.shape))) for side in bitmap.shape)
        small = (
            _resampling(bitmap.shape[0], height) @ bitmap @ _resampling(bitmap.shape[1], width).T
        )
        ink = max(float(small.sum()), 1e-9)
        middle = (SIZE - 1) / 2
        top = _place(middle - float(small.sum(1) @ np.arange(height)) / ink, height)
        left = _place(middle - float(small.sum(0) @ np.arange(width)) / ink, width)
        image[top : top + height, left : left + width] = (small * 255 + 0.5).astype(np.uint8)
    return fitted


def _place(offset: float, length: int) -> int:
    return min(max(int(np.floor(offset + 0.5)), 0), SIZE - length)


@cache
def _resampling(source: int, target: int) -> NDArray[np.float64]:
    """Matrix (target, source) that resizes one axis: area averaging down, linear interpolation up."""
    if target < source:
        edges = np.arange(target + 1) * (source / target)
        pixels = np.arange(source)
        shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        weights = np.clip(shared, 0, None)
        return weights / weights.sum(1, keepdims=True)
    centre = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    return np.clip(1 - np.abs(centre[:, None] - np.arange(source)), 0, None)


# Recordings ----------------------------------------------------------------------------------------


def cepstra() -> dict[str, Array]:
    """Cepstra of all 3,000 recordings, from the cache if they have been computed before.

    Returns:
        `digit`, `speaker`, `index` (N,); `poster`, `mean` (N, 13); `sequence` (N, 20, 13).

    Raises:
        LabkitError: if the recordings are missing or damaged, or librosa is not installed.
    """
    packed = files.pack("fsdd")
    if packed is not None:
        return _kept(
            "fsdd", [files.sha256_of(packed)], lambda: _features(*_packed_recordings(packed))
        )
    original = files.need(files.entry("free-spoken-digit-dataset.tar.gz"))
    hashes = sorted(files.registry().values())  # the recordings have just been compared with these
    return _kept("fsdd", hashes, lambda: _features(*_wav_recordings(original)))


def _packed_recordings(path: Path) -> tuple[list[NDArray[np.int16]], dict[str, Array]]:
    arrays = formats.read_pack(path, {
        "waveforms": ("i", (None,)), "offsets": ("i", (None,)), "speakers": ("U", (len(SPEAKERS),)),
        "digit": ("u", (None,)), "speaker": ("u", (None,)), "index": ("u", (None,)),
    })  # fmt: skip
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != len(arrays["waveforms"]) or (np.diff(offsets) <= 0).any():
        raise formats.damaged(
            path, "offsets that do not cut waveforms", "rising ones from 0 to their length"
        )
    waves = np.split(arrays["waveforms"], offsets[1:-1])
    return waves, {name: arrays[name] for name in ("digit", "speaker", "index")}


def _wav_recordings(path: Path) -> tuple[list[NDArray[np.int16]], dict[str, Array]]:
    """Recordings of a folder or archive in the pack's order: by speaker, digit, index."""
    found = {}
    for name, content in formats.recordings(path):
        match = formats.RECORDING.fullmatch(name)
        if match and match["speaker"] in SPEAKERS:
            key = (SPEAKERS.index(match["speaker"]), int(match["digit"]), int(match["index"]))
            found[key] = formats.read_wav(content, f"{path}: {name}")
    keys = np.array(sorted(found), np.uint8).reshape(-1, 3)
    labels: dict[str, Array] = {"digit": keys[:, 1], "speaker": keys[:, 0], "index": keys[:, 2]}
    return [found[key] for key in sorted(found)], labels


def _features(waves: list[NDArray[np.int16]], labels: dict[str, Array]) -> dict[str, Array]:
    poster, mean, sequence = [], [], []
    for coefficients in mfcc(waves):
        average = coefficients.mean(0)
        mean.append(average)
        poster.append(average / np.maximum(coefficients.std(0), 1e-6))
        at = np.linspace(0, len(coefficients) - 1, FRAMES)
        known = np.arange(len(coefficients))
        sequence.append(np.stack([np.interp(at, known, column) for column in coefficients.T], 1))
    made = {"poster": poster, "mean": mean, "sequence": sequence}
    return labels | {name: np.stack(values).astype(np.float32) for name, values in made.items()}


def mfcc(waves: list[NDArray[np.int16]]) -> list[NDArray[np.float64]]:
    """Mel-frequency cepstra with python_speech_features' defaults, computed with librosa.

    25 ms frames every 10 ms, no window, 256-point power spectrum, 26 HTK mel filters, natural log,
    orthonormal DCT-II, 13 coefficients, lifter 22, the first one replaced by the log frame energy.

    Args:
        waves: Recordings at 8 kHz, int16.

    Returns:
        Coefficients of each, shape (frames, 13).

    Raises:
        LabkitError: if librosa is not installed.

    Source:
        python_speech_features.mfcc; differs: filters are exact triangles, theirs have edges rounded
        to FFT bins.
    """
    try:
        import librosa
    except ImportError as error:
        raise LabkitError(
            "cepstra of real recordings need librosa, which is not installed: pip install labkit[data]"
        ) from error
    frame, hop, fft = formats.SAMPLE_RATE // 40, formats.SAMPLE_RATE // 100, 256
    frames = []
    for wave in waves:
        flat = librosa.effects.preemphasis(wave.astype(np.float64), coef=0.97, zi=[0.0])
        missing = -(len(flat) - frame) % hop if len(flat) > frame else frame - len(flat)
        padded = np.pad(flat, (0, missing))
        frames.append(np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop])
    # All frames of all recordings at once: one transform, one product, seconds instead of half a minute.
    power = np.abs(np.fft.rfft(np.concatenate(frames), fft)) ** 2 / fft
    filters = librosa.filters.mel(sr=formats.SAMPLE_RATE, n_fft=fft, n_mels=26, htk=True, norm=None)
    tiny = np.finfo(float).eps  # digital silence has no logarithm
    mel = np.log(np.maximum(power @ filters.T, tiny))
    made = librosa.feature.mfcc(S=mel.T, n_mfcc=13, dct_type=2, norm="ortho").T
    made *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)  # librosa's own lifter counts from 1
    made[:, 0] = np.log(np.maximum(power.sum(1), tiny))
    return np.split(made, np.cumsum([len(piece) for piece in frames])[:-1])


# Cache ---------------------------------------------------------------------------------------------


def _kept(
    name: str, made_from: list[str], make: Callable[[], dict[str, Array]]
) -> dict[str, Array]:
    """Arrays made once from files with these hashes; a damaged copy is made again."""
    source = Path(__file__).read_bytes()  # another way of computing is another content
    key = hashlib.sha256("\n".join(made_from).encode() + source).hexdigest()[:16]
    path = cache_dir() / "data" / "made" / f"{name}-{key}.npz"
    if path.exists():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                return {field: archive[field] for field in archive.files}
        except Exception:  # whatever is wrong with it, it can be made again
            path.unlink(missing_ok=True)
    arrays = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())
    return arrays
