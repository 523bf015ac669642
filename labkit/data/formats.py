"""Readers of the file formats in which the real data are published.

Hoda's run-length .cdb, MATLAB's .mat (Hoda, UTD-MHAD), Kannada-MNIST's idx.gz and .npy, the Free
Spoken Digit Dataset's .wav files (in a folder, a tarball or a zip), and the packed .npz. No reader
unpickles, and none trusts a length that a file states: a damaged file ends in a `LabkitError` that
names it, says what was found and what is allowed, and what to do.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit import LabkitError

Bytes = NDArray[np.uint8]
Fields = dict[str, tuple[str, tuple[int | None, ...]]]  # name -> kind of dtype, shape

SAMPLE_RATE = 8000
RECORDING = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[a-z]+)_(?P<index>[0-9]{1,2})\.wav")
_BROKEN_ARCHIVE = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def damaged(path: Path | str, found: str, allowed: str) -> LabkitError:
    """The error for a file that cannot be read."""
    return LabkitError(
        f"{path} is damaged or not the file it should be: found {found}; allowed is {allowed}. "
        f"Delete it and get it again with `labkit data get`."
    )


def read_pack(path: Path, fields: Fields) -> dict[str, Any]:
    """Read arrays of a packed .npz.

    Args:
        path: The file.
        fields: Name -> (kind of dtype as numpy's one letter: u, i, b, U; shape, None = any length).

    Returns:
        Name -> array, for the names in `fields`.

    Raises:
        LabkitError: if the archive is broken, an array is absent, or has another type or shape.
    """
    arrays = {}
    try:
        # Opened here: given a path, numpy leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            absent = sorted(set(fields) - set(archive.files))
            if absent:
                raise damaged(
                    path, f"arrays {sorted(archive.files)}", f"an archive that has {absent} too"
                )
            for name in fields:
                arrays[name] = archive[name]
    except FileNotFoundError:
        raise
    except (ValueError, *_BROKEN_ARCHIVE) as error:
        raise damaged(
            path, f"an unreadable archive ({error})", "a NumPy .npz without pickles"
        ) from error
    for name, (kind, shape) in fields.items():
        array = arrays[name]
        if array.dtype.kind != kind or not _fits(array.shape, shape):
            found = f"{name} of type {array.dtype} and shape {array.shape}"
            raise damaged(path, found, f"kind {kind!r} and shape {shape}")
    return arrays


def read_npy(path: Path, shape: tuple[int | None, ...]) -> Bytes:
    """Read a .npy of bytes (Kannada-MNIST's training images).

    Raises:
        LabkitError: if it is no .npy, holds objects, or has another type or shape.
    """
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, SyntaxError, *_BROKEN_ARCHIVE) as error:
        raise damaged(
            path, f"an unreadable file ({error})", "a NumPy .npy without pickles"
        ) from error
    if (
        not isinstance(array, np.ndarray)
        or array.dtype != np.uint8
        or not _fits(array.shape, shape)
    ):
        found = (
            f"{array.dtype} of shape {array.shape}"
            if isinstance(array, np.ndarray)
            else "an archive"
        )
        raise damaged(path, found, f"uint8 of shape {shape}")
    return array


def read_idx(path: Path, shape: tuple[int | None, ...]) -> Bytes:
    """Read an idx file of bytes, gzipped or not (MNIST's format).

    Args:
        path: The file.
        shape: Shape to expect; None = any length.

    Raises:
        LabkitError: if the header, the shape or the amount of data is wrong.
    """
    raw = path.read_bytes()
    try:
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(
            path, f"a gzip stream that ends badly ({error})", "a whole gzip file"
        ) from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or content[3] != len(shape):
        raise damaged(
            path, f"header {content[:4].hex()!r}", f"'000008{len(shape):02x}' (idx of bytes)"
        )
    start = 4 + 4 * len(shape)
    if len(content) < start:
        raise damaged(path, f"{len(content)} bytes", f"a header of {start} bytes")
    lengths = struct.unpack(f">{len(shape)}I", content[4:start])
    if not _fits(lengths, shape) or len(content) - start != math.prod(lengths):
        found = f"{len(content) - start} bytes for shape {lengths}"
        raise damaged(path, found, f"shape {shape}, one byte a value")
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)


def read_cdb(path: Path) -> tuple[list[Bytes], Bytes]:
    """Read Hoda's .cdb: run-length coded binary bitmaps of varying size.

    Layout: a header of 1024 bytes (u16 year, u8 month, day, height, width, u32 count, 128 u32 counts
    a class, u8 kind, 256 comment, rest spare), then for each image 0xFF, label, width, height, u16
    bytes that follow, and the run lengths of each row, beginning with background.

    Returns:
        Bitmaps (h, w) of 0 and 1, and labels (N,).

    Raises:
        LabkitError: if header, marks or run lengths contradict each other.

    Source:
        H. Khosravi, E. Kabir, Pattern Recognition Letters 28 (2007); reader of amir-saniyan.
    """
    data = path.read_bytes()
    if len(data) < 1024:
        raise damaged(path, f"{len(data)} bytes", "a header of 1024 bytes")
    count, counts, kind = (
        *struct.unpack_from("<I", data, 6),
        struct.unpack_from("<128I", data, 10),
        data[522],
    )
    if data[4] or data[5] or kind or sum(counts) != count:
        found = (
            f"box {data[4]} x {data[5]}, kind {kind}, {count} images in classes of {sum(counts)}"
        )
        raise damaged(path, found, "box 0 x 0 (sizes vary), kind 0 (binary), equal counts")
    images, labels, at = [], np.zeros(count, np.uint8), 1024
    for i in range(count):
        mark, label, width, height, length = struct.unpack_from(
            "<4BH", data[at : at + 6].ljust(6, b"\0")
        )
        runs = np.frombuffer(data[at + 6 : at + 6 + length], np.uint8)
        if mark != 0xFF or label > 9 or len(runs) != length:
            found = f"{data[at : at + 6].hex(' ') or 'the end'} and {len(runs)} bytes of image at byte {at}"
            raise damaged(
                path, found, f"image {i} of {count}: ff, label 0 to 9, sizes, length, runs"
            )
        images.append(_unroll(path, i, runs, height, width))
        labels[i] = label
        at += 6 + length
    if at != len(data) or (np.bincount(labels, minlength=128) != counts).any():
        raise damaged(
            path, f"{len(data) - at} bytes left over, or other labels", "the counts of its header"
        )
    return images, labels


def _unroll(path: Path, i: int, runs: Bytes, height: int, width: int) -> Bytes:
    """Run lengths -> bitmap: background and ink take turns inside a row, each row begins anew."""
    ink, column, colors = 0, 0, []
    for run in runs.tolist():
        colors.append(ink)
        column += run
        ink = 0 if column == width else 1 - ink
        column = 0 if column == width else column
        if column > width:
            raise damaged(
                path, f"a row longer than {width} pixels in image {i}", "rows as wide as the image"
            )
    bitmap = np.repeat(np.array(colors, np.uint8), runs)
    if not bitmap.size or bitmap.size != height * width:
        raise damaged(
            path, f"{bitmap.size} pixels in image {i}", f"{width} x {height}, both above 0"
        )
    return bitmap.reshape(height, width)


def read_hoda_mat(path: Path) -> tuple[list[Bytes], Bytes]:
    """Read Hoda's training digits from Data_hoda_full.mat (needs scipy).

    Returns:
        Bitmaps (h, w) of 0 and 1, and labels (N,).

    Raises:
        LabkitError: if scipy is absent, or the file holds something else.
    """
    content = _mat(path)
    if "Data" not in content or "labels" not in content:
        names = sorted(name for name in content if not name.startswith("__"))
        raise damaged(path, f"variables {names}", "Data (a cell of bitmaps) and labels")
    cells, labels = content["Data"].ravel(), np.asarray(content["labels"]).ravel()
    if len(cells) != len(labels) or not len(labels) or not np.isin(labels, range(10)).all():
        raise damaged(
            path, f"{len(cells)} bitmaps, {len(labels)} labels", "as many bitmaps as labels 0 to 9"
        )
    images = []
    for i, cell in enumerate(cells):
        bitmap = np.asarray(cell)
        if bitmap.ndim != 2 or not bitmap.size or bitmap.dtype.kind not in "biuf":
            raise damaged(path, f"{bitmap.dtype} {bitmap.shape} at image {i}", "a bitmap (h, w)")
        images.append((bitmap != 0).astype(np.uint8))
    return images, labels.astype(np.uint8)


def read_mat(path: Path, name: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Read one array of numbers from a .mat (needs scipy).

    Args:
        path: The file.
        name: The variable's name.
        shape: Shape to expect; None = any length above 0.

    Raises:
        LabkitError: if scipy is absent, or the file holds something else, or numbers that are not finite.
    """
    content = _mat(path)
    if name not in content:
        names = sorted(name for name in content if not name.startswith("__"))
        raise damaged(path, f"variables {names}", f"{name}, shape {shape}")
    array = np.asarray(content[name])
    if array.dtype.kind not in "buif" or not _fits(array.shape, shape) or not array.size:
        raise damaged(
            path, f"{name} of type {array.dtype} and shape {array.shape}", f"shape {shape}"
        )
    if not np.isfinite(array).all():
        raise damaged(path, f"{name} with numbers that are not finite", "finite numbers")
    return array


def _mat(path: Path) -> dict[str, Any]:
    """Variables of a .mat; scipy's reader runs nothing that a file holds."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise LabkitError(f"{path} needs scipy: pip install labkit[data]") from error
    try:
        content: dict[str, Any] = loadmat(
            str(path), appendmat=False
        )  # str: of a Path, it hides that it is absent
    except FileNotFoundError:
        raise
    except Exception as error:  # scipy raises whatever its parser stumbles on
        raise damaged(path, f"an unreadable file ({error!r})", "MATLAB 5 format") from error
    return content


def read_wav(
    content: bytes, name: Path | str, rate: int = SAMPLE_RATE, channels: int = 1
) -> NDArray[np.int16]:
    """Decode one recording of 16 bit, by default as the digits are: mono, 8 kHz.

    Args:
        content: The whole file.
        name: What to call it in an error.
        rate: Samples a second that it must have.
        channels: Most channels it may have; more than one become their mean.

    Returns:
        Samples, shape (n,), int16.

    Raises:
        LabkitError: if it is no such .wav, or shorter than it says.
    """
    allowed = f"{'mono' if channels == 1 else f'at most {channels} channels'}, 16 bit, {rate} Hz"
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            count, frames = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise damaged(name, f"no wav ({error or 'it ends early'})", allowed) from error
    if not 1 <= form[0] <= channels or form[1:] != (16, rate):
        raise damaged(name, f"{form[0]} channels, {form[1]} bit, {form[2]} Hz", allowed)
    if len(frames) != 2 * form[0] * count or not count:
        samples = len(frames) // (2 * form[0])
        raise damaged(name, f"{samples} samples", f"the {count} it promises, at least 1")
    return np.frombuffer(frames, "<i2").reshape(count, -1).mean(1).astype(np.int16)


def recordings(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every recording in a folder, a .tar.gz or a .zip.

    Files not named digit_speaker_index.wav are passed over; nothing is written to the disk.

    Raises:
        LabkitError: if the archive is damaged.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*.wav")):
            if RECORDING.fullmatch(file.name):
                yield file.name, file.read_bytes()
        return
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if RECORDING.fullmatch(Path(name).name):
                        yield Path(name).name, archive.read(name)
        else:
            with tarfile.open(path) as tarball:
                for member in tarball:
                    name = Path(member.name).name
                    content = tarball.extractfile(member) if RECORDING.fullmatch(name) else None
                    if content is not None:
                        yield name, content.read()
    except FileNotFoundError:
        raise
    except (tarfile.TarError, *_BROKEN_ARCHIVE) as error:
        raise damaged(
            path, f"an unreadable archive ({error})", ".tar.gz or .zip of wavs"
        ) from error


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        w in (None, s) for s, w in zip(shape, wanted, strict=True)
    )
