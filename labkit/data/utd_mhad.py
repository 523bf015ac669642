"""UTD-MHAD: 8 people perform 27 actions up to 4 times, before a depth camera and with a sensor on the body.

The real half of `labkit.data.actions`, read from the pack, or from the originals, three .mat files a
performance. The sensor sits on the right wrist, in the last six actions on the right thigh. There are 861
performances, 31 or 32 of an action.

Source:
    Chen, Jafari & Kehtarnavaz, "UTD-MHAD: A multimodal dataset for human action recognition utilizing a
    depth camera and a wearable inertial sensor", ICIP 2015.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.batch import Batch
from labkit.data import files, formats, real

ACTIONS = (
    "swipe_left", "swipe_right", "wave", "clap", "throw", "arm_cross", "basketball_shoot", "draw_x",
    "draw_circle_cw", "draw_circle_ccw", "draw_triangle", "bowling", "boxing", "baseball_swing",
    "tennis_swing", "arm_curl", "tennis_serve", "push", "knock", "catch", "pickup_throw", "jog", "walk",
    "sit_to_stand", "stand_to_sit", "lunge", "squat",
)  # fmt: skip
KINDS = ("inertial", "skeleton", "depth")  # files of a performance; the columns of `lengths`
NAME = re.compile(rf"a(\d\d?)_s(\d)_t(\d)_({'|'.join(KINDS)})\.mat")
PIXELS = 40  # rows and columns of the pack's depth pictures

Array = NDArray[Any]
Key = tuple[int, int, int]  # action, subject, trial, counted from 1


def load() -> Batch:
    """All performances, not yet cut into steps.

    Returns:
        accelerometer (861, 128, 3), unit g; gyroscope (861, 128, 3), degrees per second; skeleton
        (861, 32, 20, 3), metres relative to the hip centre of the first frame, joints as
        `labkit.data.bodies.JOINTS`; depth (861, 12, 40, 40), 0 background, up to 1, near = bright; each
        resampled to as many samples as stand here. Labels 0 to 26 as `ACTIONS`. Factors: `subject`
        (861,), 1 to 8; `trial` (861,), 1 to 4; `lengths` (861, 3), samples of `KINDS` before.

    Raises:
        LabkitError: if neither the pack nor the originals are here, or a file is damaged.
    """
    packed = files.pack("utd_mhad")
    table = _packed(packed) if packed is not None else _original()
    names = {"accelerometer": "accel", "gyroscope": "gyro", "skeleton": "skeleton"}
    x = {name: torch.from_numpy(table[field]).float() for name, field in names.items()}
    x["depth"] = torch.from_numpy(table["depth"]).float() / 255
    labels = {
        name: torch.from_numpy(table[name].astype(np.int64))
        for name in ("action", "subject", "trial", "lengths")
    }
    return Batch(x, y=labels.pop("action"), factors=labels)


def _packed(path: Path) -> dict[str, Array]:
    fields: formats.Fields = dict.fromkeys(("action", "subject", "trial"), ("u", (None,)))
    fields |= {"accel": ("f", (None, 128, 3)), "gyro": ("f", (None, 128, 3))}
    fields |= {"skeleton": ("f", (None, 32, 20, 3)), "depth": ("u", (None, 12, PIXELS, PIXELS))}
    return formats.read_pack(path, fields | {"lengths": ("u", (None, 3))})


# Originals -----------------------------------------------------------------------------------------


def _original() -> dict[str, Array]:
    """The pack's arrays made from the original files."""
    folder = files.need(files.entry("a*_s*_t*_*.mat"))
    found = performances(folder)
    # Made in minutes; sizes and times of the files stand for their hashes.
    status = [path.stat() for paths in found.values() for path in paths.values()]
    seen = [f"{key} {sorted(paths.values())}" for key, paths in found.items()]
    seen += [f"{item.st_size} {item.st_mtime_ns}" for item in status]
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()

    def make() -> dict[str, Array]:
        read = [read_performance(paths) for paths in found.values()]
        return {name: np.stack([arrays[name] for arrays in read]) for name in read[0]}

    keys = np.array(list(found), np.uint8)
    labels: dict[str, Array] = {
        "action": keys[:, 0] - 1,
        "subject": keys[:, 1],
        "trial": keys[:, 2],
    }
    return real._kept("utd_mhad", [code, *seen], make) | labels


def performances(folder: Path) -> dict[Key, dict[str, Path]]:
    """The performances in a folder of the original release, in the pack's order.

    Args:
        folder: Holds a1_s1_t1_inertial.mat and so on, also in folders of its own.

    Returns:
        (action, subject, trial), from 1 -> kind, as `KINDS` -> file.

    Raises:
        LabkitError: on a number out of range, or unless all three files of 861 performances are there.
    """
    found: dict[Key, dict[str, Path]] = {}
    for path in folder.rglob("a*_s*_t*_*.mat"):
        match = NAME.fullmatch(path.name)
        key = tuple(int(number) for number in match.groups()[:3]) if match else ()
        if match is None or not (1 <= key[0] <= 27 and 1 <= key[1] <= 8 and 1 <= key[2] <= 4):
            raise formats.damaged(
                path, f"name {path.name!r}", "a1_s1_t1 to a27_s8_t4, " + ", ".join(KINDS)
            )
        found.setdefault((key[0], key[1], key[2]), {})[match[4]] = path
    whole = sum(len(paths) == len(KINDS) for paths in found.values())
    if whole != files.PERFORMANCES or len(found) != whole:
        text = f"{len(found)} performances, {whole} of them with all of {', '.join(KINDS)}"
        raise formats.damaged(folder, text, f"{files.PERFORMANCES} whole performances")
    return dict(sorted(found.items()))


def read_performance(paths: dict[str, Path]) -> dict[str, Array]:
    """Read the three files of a performance and reduce them as the pack does.

    Args:
        paths: Kind, as `KINDS` -> file.

    Returns:
        accel (128, 3), unit g, and gyro (128, 3), degrees per second, float16; skeleton (32, 20, 3), float16,
        metres relative to the hip centre of the first frame; depth (12, 40, 40), uint8, as `reduce_depth`;
        lengths (3,), uint16.

    Raises:
        LabkitError: if a file is damaged.
    """
    sensor = formats.read_mat(paths["inertial"], "d_iner", (None, 6)).astype(np.float64)
    joints = formats.read_mat(paths["skeleton"], "d_skel", (20, 3, None)).astype(np.float64)
    depth = formats.read_mat(paths["depth"], "d_depth", (240, 320, None)).transpose(2, 0, 1)
    if not depth.any():
        raise formats.damaged(paths["depth"], "a clip without a person", "depths above 0")
    joints = joints.transpose(2, 0, 1)
    joints = joints - joints[0, 3]  # the hip centre
    moved = _resampled(sensor, 128)
    return {
        "accel": moved[:, :3],
        "gyro": moved[:, 3:],
        "skeleton": _resampled(joints, 32),
        "depth": reduce_depth(depth),
        "lengths": np.array([len(sensor), len(joints), len(depth)], np.uint16),
    }


def _resampled(clip: Array, count: int) -> Array:
    """Interpolated linearly in time, first and last sample kept: (n, ...) to (count, ...), float16."""
    time = np.linspace(0, len(clip) - 1, count)
    before = time.astype(int).clip(max=max(len(clip) - 2, 0))
    after = (before + 1).clip(max=len(clip) - 1)
    share = (time - before).reshape(-1, *[1] * (clip.ndim - 1))
    made: Array = clip[before] * (1 - share) + clip[after] * share
    return made.astype(np.float16)


def reduce_depth(depth: Array) -> NDArray[np.uint8]:
    """Twelve frames of a depth clip, cropped to a square around the person, 40 x 40.

    Args:
        depth: Millimetres, 0 = background, shape (n, rows, columns); not all 0.

    Returns:
        Shape (12, 40, 40), uint8: 0 background; 255 and 1 are the depths that one hundredth of the twelve
        frames' depths lies before and behind.

    Source:
        The recipe is the pack's, which does not state it whole: found by comparison with the one performance
        whose original is at hand, bit for bit. That does not tell whether the pack fills a square that
        leaves the picture with background, as here, or moves it.
    """
    seen = np.asarray(depth.any(0))
    (top, bottom), (left, right) = (np.flatnonzero(seen.any(k))[[0, -1]] for k in (1, 0))
    side = int(max(bottom - top, right - left)) + 1
    row, column = (int(a) - (side - int(b - a + 1)) // 2 for a, b in ((top, bottom), (left, right)))
    chosen = np.linspace(0, len(depth) - 1, 12).round().astype(int)
    frames = np.pad(depth[chosen].astype(np.float64), ((0, 0), (side, side), (side, side)))
    frames = frames[:, row + side : row + 2 * side, column + side : column + 2 * side]
    present = frames[frames > 0]
    near, far = np.percentile(present if present.size else [1.0], (1, 99))
    bright = np.clip(255 - (frames - near) * 254 / max(far - near, 1.0), 1, 255) * (frames > 0)
    edges = np.linspace(0, side, PIXELS + 1)
    pixel = np.arange(side)
    # Share of each pixel (columns) in the area of each new one (rows).
    share = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    share = share.clip(0) * PIXELS / side
    return np.rint(share @ bright @ share.T).astype(np.uint8)
