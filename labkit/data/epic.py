"""EPIC-KITCHENS-100: clips of cooking from a camera on the head, as colour and as optical flow, and 8 verbs.

Reads the selection that X-Norm was tried on: three tables of clips from three kitchens, and the frames that
EPIC-KITCHENS publishes as pictures. Both have to be put in place by hand (`labkit data get epic` says how):

    upstream/epic/train.csv, val.csv, test.csv
    upstream/epic/P01/rgb_frames/P01_02/frame_0000000516.jpg
    upstream/epic/P01/flow_frames/P01_02/u/frame_0000000258.jpg, and v/ beside u/

A table has the columns `COLUMNS`, a clip a row, sorted by kitchen; frames count from 1, and a frame of flow
stands for two of colour. There are 11,127, 1,893 and 2,115 clips of 58, 15 and 15 videos. No video is in two
splits, all kitchens are in each, and 60 % of the training clips are from one of them. The commonest verb is
27 to 29 % of a split. Scaled and cropped, a clip takes 16 MB: `load` is for some clips, `batches` for all.

Source:
    Damen et al., "Rescaling egocentric vision", IJCV 130 (2022); verb_classes.csv of its annotations has the
    verbs' names (that the tables' numbers are its own was compared for take and open alone). Tables and
    sampling: github.com/ihp-lab/XNorm, data.py (Yin, Xu, Zu & Soleymani, "X-Norm", ICMI 2022). Differs: flow
    is scaled to the size of colour (theirs: colour to 226 rows, flow to 224, if they have fewer), colour and
    flow are cropped and mirrored alike, and a mirror turns the sign of horizontal flow.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import augment, files

VERBS = ("take", "put", "wash", "open", "close", "insert", "turn-on", "cut")
SPLITS = ("train", "val", "test")
COLUMNS = ("narration_id", "participant_id", "video_id", "start_frame", "stop_frame", "verb")
FOLDER = str(Path(files.entry("upstream/epic/train.csv").file).parent)
NARRATION = re.compile(r"(?P<video>(?P<kitchen>P\d\d)_\d{2,3})_\d{1,4}")
LIMITS = {"frames": (1, 128), "scale": (1, 2160), "size": (1, 2160)}
WORKERS = 4  # threads that read pictures
ASPECT = 0.02  # relative difference of the aspects of colour and flow that rounding explains

Split = Literal["train", "val", "test"]


class Clip(NamedTuple):
    """A row of a table: `start` to `stop`, both included, are frames of colour; `verb` as `VERBS`."""

    narration: str
    participant: str
    video: str
    start: int
    stop: int
    verb: int


def sampled(start: int, stop: int, count: int) -> list[int]:
    """Numbers of frames, evenly spaced and rounded down: `start` first, `stop` last (of one: `start`).

    A clip of fewer frames than `count` repeats some.

    Raises:
        ValueError: if `stop` lies before `start`, or `count` is below 1.
    """
    if stop < start:
        raise ValueError(f"stop must be at least start={start}, got {stop}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return [start + i * (stop - start) // max(count - 1, 1) for i in range(count)]


def flow_number(frame: int) -> int:
    """The frame of flow that belongs to a frame of colour, of which there are twice as many."""
    return (frame + 1) // 2


def scaled(height: int, width: int, short: int) -> tuple[int, int]:
    """Rows and columns of a picture whose shorter side becomes `short`, its aspect kept."""
    side = min(height, width)
    return round(height * short / side), round(width * short / side)


@dataclass(frozen=True)
class Epic:
    """The clips of EPIC-KITCHENS-100 that X-Norm was tried on.

    Args:
        path: Folder of tables and frames, absolute or below a data folder ($LABKIT_DATA).
        frames: T, frames of a clip, of colour and of flow, 1 to 128.
        scale: Pixels of the shorter side, to which pictures are scaled before they are cropped.
        size: S, rows and columns of the crop, at most `scale`.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed.
    """

    path: str = FOLDER
    frames: int = 16
    scale: int = 256
    size: int = 224

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            _whole(name, getattr(self, name), low, high)
        if self.size > self.scale:
            raise ValueError(f"size must be at most scale={self.scale}, got {self.size}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Modality -> shape of a clip."""
        return {
            name: (channels, self.frames, self.size, self.size)
            for name, channels in (("rgb", 3), ("flow", 2))
        }

    def clips(self, split: Split) -> tuple[Clip, ...]:
        """Read the table of a split; no picture is looked at.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if the table is missing, lacks a column, or a row is not as it should be.
        """
        return _table(self._folder(split) / f"{split}.csv")

    def load(
        self, split: Split, n: int | None = None, device: torch.device | str | None = None
    ) -> Batch:
        """Read clips of a split, cropped in the middle.

        Args:
            split: "train", "val" or "test".
            n: How many, evenly spread over the table; None = all, which fit into no ordinary memory.
            device: Where the tensors shall be; None = CPU.

        Returns:
            rgb (B, 3, T, S, S) and flow (B, 2, T, S, S), float32 in [-1, 1]: horizontal (to the right) and
            vertical motion in the release's units, 0 = none (but for rounding: 1/255). Labels 0 to 7 as
            `VERBS`. Factors, all (B,) int64: `participant` and `video`, numbers as in P01_102;
            `narration`, number in its video; `start` and `stop`, frames; `row` of the table, from 0.

        Raises:
            ValueError: on an unknown split, or `n` out of range.
            LabkitError: if a table or picture is missing or damaged.
        """
        clips = self.clips(split)
        count = len(clips) if n is None else _whole("n", n, 1, len(clips))
        rows = [i * len(clips) // count for i in range(count)]
        batch = self._read(self._folder(split), clips, rows, None, True)
        return batch.to(torch.device("cpu" if device is None else device))

    def batches(
        self,
        split: Split,
        size: int,
        generator: torch.Generator | None = None,
        joint: bool = True,
        device: torch.device | str | None = None,
    ) -> Iterator[Batch]:
        """Read all clips of a split once, some at a time; nothing is kept.

        Args:
            split: "train", "val" or "test".
            size: Clips of a minibatch; the last one may have fewer, for none is left out.
            generator: Draws the order, crops and mirrors (`labkit.data.augment`), for training. None = the
                table's order, cropped in the middle, for evaluation.
            joint: Whether colour and flow of a clip are cropped and mirrored alike; the authors' are not.
                Counts only with a generator.
            device: Where the tensors shall be; None = CPU.

        Returns:
            Minibatches as `load` has them.

        Raises:
            ValueError: on an unknown split, or a size below 1.
            LabkitError: if a table is missing or damaged, now; if a picture is, when its turn has come.
        """
        clips, folder = self.clips(split), self._folder(split)
        _whole("size", size, 1, 2**31)
        if generator is None:
            order = list(range(len(clips)))
        else:
            order = torch.randperm(
                len(clips), generator=generator, device=generator.device
            ).tolist()
        place = torch.device("cpu" if device is None else device)
        parts = (order[first : first + size] for first in range(0, len(order), size))
        return (self._read(folder, clips, part, generator, joint).to(place) for part in parts)

    def _folder(self, split: str) -> Path:
        """The folder that has the split's table."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}; got {split!r}")
        places = [root / self.path for root in files.roots()]  # an absolute path stays what it is
        found = next((place for place in places if (place / f"{split}.csv").is_file()), None)
        if found is None:
            raise LabkitError(
                f"{' and '.join(dict.fromkeys(map(str, places)))}: no {split}.csv there. Get it from "
                f"{files.entry(f'upstream/epic/{split}.csv').url} and put it into {places[0]}. "
                f"{files.BY_HAND['epic']} Procedural clips need no download."
            )
        return found

    def _read(
        self,
        folder: Path,
        clips: tuple[Clip, ...],
        rows: list[int],
        generator: torch.Generator | None,
        joint: bool,
    ) -> Batch:
        """These rows, cropped: at random if there is a generator."""
        made: list[Batch] = []
        with ThreadPoolExecutor(WORKERS) as pool:
            for first in range(0, len(rows), WORKERS):  # whole pictures wait for no more than these
                some = (clips[row] for row in rows[first : first + WORKERS])
                whole = pool.map(lambda clip: self._whole(folder, clip), some)
                made += [self._cropped(batch, generator, joint) for batch in whole]
        chosen = [clips[row] for row in rows]
        factors = {
            "participant": [int(clip.participant[1:]) for clip in chosen],
            "video": [int(clip.video.split("_")[1]) for clip in chosen],
            "narration": [int(clip.narration.split("_")[2]) for clip in chosen],
            "start": [clip.start for clip in chosen],
            "stop": [clip.stop for clip in chosen],
            "row": rows,
        }
        return Batch(
            {name: torch.cat([batch.x[name] for batch in made]) for name in self.shapes},
            y=torch.tensor([clip.verb for clip in chosen]),
            factors={name: torch.tensor(values) for name, values in factors.items()},
        )

    def _cropped(self, whole: Batch, generator: torch.Generator | None, joint: bool) -> Batch:
        to = (self.size, self.size)
        if generator is not None:
            return augment.augmented(whole, to, generator, joint)
        rows, columns = whole.x["rgb"].shape[-2:]
        box = augment.centre(1, (rows, columns), to)
        return Batch({name: augment.crop(clip, box) for name, clip in whole.x.items()})

    def _whole(self, folder: Path, clip: Clip) -> Batch:
        """One clip, scaled and not cropped: rgb (1, 3, T, h, w), flow (1, 2, T, h, w)."""
        home, first, last = folder / clip.participant, clip.start, clip.stop
        numbers = sampled(first, last, self.frames)
        rgb = _pictures(home / "rgb_frames" / clip.video, numbers, "RGB")
        numbers = sampled(flow_number(first), flow_number(last), self.frames)
        place = home / "flow_frames" / clip.video
        motion = [_pictures(place / part, numbers, "L") for part in ("u", "v")]
        width, height = rgb[0].size
        for columns, rows in (part[0].size for part in motion):
            if abs(columns * height / (rows * width) - 1) > ASPECT:
                allowed = f"the aspect of colour, {width} x {height}"
                raise _damaged(place, f"pictures of {columns} x {rows} pixels", allowed)
        to = scaled(height, width, self.scale)
        flow = torch.cat([_values(part, to) for part in motion])
        return Batch({"rgb": _values(rgb, to)[None], "flow": flow[None]})


# Tables and pictures -------------------------------------------------------------------------------


def _table(path: Path) -> tuple[Clip, ...]:
    try:
        lines = csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline=""))
        absent = sorted(set(COLUMNS) - set(lines.fieldnames or ()))
        if absent:
            raise _damaged(
                path, f"columns {lines.fieldnames}", f"a table that has {', '.join(absent)} too"
            )
        clips = tuple(_clip(path, lines.line_num, line) for line in lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, f"an unreadable file ({error})", "a csv in UTF-8") from error
    if not clips:
        raise _damaged(path, "no clip", "a clip a row")
    return clips


def _clip(path: Path, line: int, given: dict[str, Any]) -> Clip:
    narration, participant, video, *numbers = (given[name] or "" for name in COLUMNS)
    name = NARRATION.fullmatch(narration)
    if name is None or (name["kitchen"], name["video"]) != (participant, video):
        found = f"narration {narration!r} of video {video!r} of {participant!r} in line {line}"
        raise _damaged(path, found, "for instance 'P01_02_3' of 'P01_02' of 'P01'")
    if not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
        found = f"start_frame, stop_frame, verb {', '.join(map(repr, numbers))} in line {line}"
        raise _damaged(path, found, "whole numbers")
    start, stop, verb = map(int, numbers)
    if not 1 <= start <= stop:
        found = f"frames {start} to {stop} in line {line}"
        raise _damaged(path, found, "frames from 1 on, stop_frame not before start_frame")
    if verb >= len(VERBS):
        raise _damaged(path, f"verb {verb} in line {line}", f"0 to {len(VERBS) - 1}")
    return Clip(narration, participant, video, start, stop, verb)


def _pictures(folder: Path, numbers: list[int], mode: str) -> list[Image.Image]:
    """The frames of these numbers, all of one size; each file is read once."""
    read = {n: _picture(folder / f"frame_{n:010d}.jpg", mode) for n in dict.fromkeys(numbers)}
    sizes = sorted({picture.size for picture in read.values()})
    if len(sizes) > 1:
        raise _damaged(
            folder, f"frames of {sizes} pixels in one clip", "frames of one size in a video"
        )
    return [read[n] for n in numbers]


def _picture(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert(mode)
    except FileNotFoundError as error:
        raise LabkitError(f"{path} is not there. {files.BY_HAND['epic']}") from error
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for whatever is wrong
        raise _damaged(path, f"an unreadable picture ({error})", "a whole JPEG") from error


def _values(pictures: list[Image.Image], to: tuple[int, int]) -> Tensor:
    """Scaled pictures as numbers in [-1, 1]: (C, T, h, w)."""
    size = to[::-1]  # Pillow's are columns and rows
    # A picture that has its size already is copied as it is.
    frames = [picture.resize(size, Image.Resampling.BILINEAR) for picture in pictures]
    values = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames]))
    return values.view(len(frames), *to, -1).permute(3, 0, 1, 2).float() * (2 / 255) - 1


def _damaged(path: Path, found: str, allowed: str) -> LabkitError:
    return LabkitError(
        f"{path} is damaged or not what it should be: found {found}; allowed is {allowed}. Delete it and "
        f"get it again. {files.BY_HAND['epic']}"
    )


def _whole(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return value
