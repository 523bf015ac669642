"""EPIC-KITCHENS: which frames are read, that colour and flow show the same place, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from labkit import LabkitError
from labkit.batch import Batch
from labkit.data import epic, files
from labkit.data.epic import Clip, Epic, flow_number, sampled, scaled

ROWS = (
    Clip("P01_02_1", "P01", "P01_02", 1, 8, 3),
    Clip("P01_02_10", "P01", "P01_02", 3, 4, 0),
    Clip("P22_107_5", "P22", "P22_107", 21, 42, 7),
    Clip("P22_107_6", "P22", "P22_107", 30, 30, 2),
    Clip("P22_107_7", "P22", "P22_107", 22, 33, 2),
)
WIDE, HIGH = 24, 16  # of the pictures made here


def table(path: Path, rows: Iterable[Any] = ROWS, columns: Iterable[str] = epic.COLUMNS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, quality=100, subsampling=0)


def frames_of(clip: Clip) -> Iterable[tuple[str, int]]:
    """(part, number) of all frames of a clip."""
    yield from (("rgb", n) for n in range(clip.start, clip.stop + 1))
    for n in range(flow_number(clip.start), flow_number(clip.stop) + 1):
        yield from ((part, n) for part in ("u", "v"))


def place(folder: Path, clip: Clip, part: str, number: int) -> Path:
    home = folder / clip.participant
    kind = "rgb_frames" if part == "rgb" else "flow_frames"
    return home / kind / clip.video / part.replace("rgb", "") / f"frame_{number:010d}.jpg"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release whose frames tell their number: red 3 n, blue 250 - 3 n, u 5 n and v 250 - 5 n."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    home = tmp_path / epic.FOLDER
    for split in epic.SPLITS:
        table(home / f"{split}.csv")
    for clip in ROWS:
        for part, n in frames_of(clip):
            level = {"rgb": [3 * n, 0, 250 - 3 * n], "u": [5 * n], "v": [250 - 5 * n]}[part]
            picture(place(home, clip, part, n), np.full((HIGH, WIDE, len(level)), level).squeeze())
    return home


SMALL = Epic(frames=4, scale=16, size=12)


def levels(values: torch.Tensor) -> torch.Tensor:
    """Values in [-1, 1] as levels 0 to 255, of which a JPEG of one colour may miss two."""
    return (values + 1) * 255 / 2


# Which frames --------------------------------------------------------------------------------------


@given(start=st.integers(1, 10**6), length=st.integers(0, 5000), count=st.integers(1, 64))
def test_sampled_frames_go_from_the_first_to_the_last(start: int, length: int, count: int) -> None:
    made = sampled(start, start + length, count)
    assert len(made) == count and made[0] == start
    assert made[-1] == (start + length if count > 1 else start)
    steps = np.diff(made)
    assert (steps >= 0).all() and (count == 1 or steps.max() - steps.min() <= 1)
    if count == 16:  # as the authors' code has them
        assert made == (np.linspace(0, length, 16).astype(int) + start).tolist()


def test_sampled_frames_are_rounded_down_and_repeat_in_a_short_clip() -> None:
    assert sampled(10, 17, 4) == [10, 12, 14, 17]
    assert sampled(3, 4, 4) == [3, 3, 3, 4]
    assert sampled(7, 7, 3) == [7, 7, 7]


def test_flow_has_half_as_many_frames_and_scaling_keeps_the_aspect() -> None:
    assert [flow_number(n) for n in range(1, 8)] == [1, 1, 2, 2, 3, 3, 4]
    assert scaled(256, 456, 256) == (256, 456)
    assert scaled(1080, 1918, 256) == (256, 455)
    assert scaled(456, 256, 128) == (228, 128)


# What is read --------------------------------------------------------------------------------------


def test_a_split_is_the_frames_of_its_table(folder: Path) -> None:
    assert SMALL.clips("test") == ROWS
    batch = SMALL.load("test")
    assert batch.modalities == ("rgb", "flow") and batch.observed.all() and len(batch) == 5
    shapes = {name: tuple(x.shape[1:]) for name, x in batch.x.items()}
    assert shapes == SMALL.shapes == {"rgb": (3, 4, 12, 12), "flow": (2, 4, 12, 12)}
    assert all(x.dtype == torch.float32 and x.abs().max() <= 1 for x in batch.x.values())
    assert batch.y is not None and batch.y.tolist() == [3, 0, 7, 2, 2]
    assert {name: values.tolist() for name, values in batch.factors.items()} == {
        "participant": [1, 1, 22, 22, 22],
        "video": [2, 2, 107, 107, 107],
        "narration": [1, 10, 5, 6, 7],
        "start": [1, 3, 21, 30, 22],
        "stop": [8, 4, 42, 30, 33],
        "row": [0, 1, 2, 3, 4],
    }
    numbers = torch.tensor([sampled(clip.start, clip.stop, 4) for clip in ROWS])
    halves = torch.tensor(
        [[1, 2, 3, 4], [2, 2, 2, 2], [11, 14, 17, 21], [15] * 4, [11, 13, 15, 17]]
    )
    for name, channel, expected in (
        ("rgb", 0, 3 * numbers), ("rgb", 1, 0 * numbers), ("rgb", 2, 250 - 3 * numbers),
        ("flow", 0, 5 * halves), ("flow", 1, 250 - 5 * halves),
    ):  # fmt: skip
        found = levels(batch.x[name][:, channel])
        assert float((found - expected[..., None, None]).abs().max()) <= 2, (name, channel)


def test_some_clips_are_spread_over_the_table(folder: Path) -> None:
    assert SMALL.load("train", n=2).factors["row"].tolist() == [0, 2]
    assert SMALL.load("train", n=5).factors["row"].tolist() == [0, 1, 2, 3, 4]
    for n in (0, 6, True):
        with pytest.raises(ValueError, match=f"n must be a whole number from 1 to 5, got {n}"):
            SMALL.load("train", n)


def ramps(home: Path, clip: Clip, wide: int = WIDE, flow: int = WIDE) -> None:
    """Frames whose red and u grow to the right, whose green and v downwards; both from 5 to 245."""
    for part, n in frames_of(clip):
        width = wide if part == "rgb" else flow
        height = width * HIGH // WIDE
        right = np.broadcast_to(5 + 240 * (np.arange(width) + 0.5) / width, (height, width))
        down = np.broadcast_to(5 + 240 * (np.arange(height)[:, None] + 0.5) / height, right.shape)
        values = {"rgb": np.stack((right, down, 0 * down), 2), "u": right, "v": down}[part]
        picture(place(home, clip, part, n), values)


@pytest.mark.parametrize(("wide", "flow"), [(24, 24), (48, 24), (24, 96), (96, 48)])
def test_colour_and_flow_of_any_size_agree(folder: Path, wide: int, flow: int) -> None:
    ramps(folder, ROWS[0], wide, flow)
    batch = SMALL.load("val", n=1)
    rgb, motion = levels(batch.x["rgb"][0]), levels(batch.x["flow"][0])
    right = 5 + 240 * (torch.arange(6, 18) + 0.5) / 24  # the middle 12 of 24 columns
    down = (5 + 240 * (torch.arange(2, 14) + 0.5) / 16)[:, None]
    for found, expected in ((rgb[0], right), (rgb[1], down), (motion[0], right), (motion[1], down)):
        assert float((found - expected).abs().max()) < 6


def test_minibatches_for_evaluation_have_all_clips_in_order(folder: Path) -> None:
    parts, whole = list(SMALL.batches("test", 2)), SMALL.load("test")
    assert [len(part) for part in parts] == [2, 2, 1]
    for name in whole.x:
        assert torch.equal(torch.cat([part.x[name] for part in parts]), whole.x[name])
    assert torch.equal(torch.cat([part.factors["row"] for part in parts]), whole.factors["row"])


def epoch(seed: int, joint: bool = True, times: int = 1) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [part for _ in range(times) for part in SMALL.batches("train", 3, generator, joint)]


def test_minibatches_for_training_are_shuffled_and_repeatable(folder: Path) -> None:
    orders = [torch.cat([part.factors["row"] for part in epoch(seed)]) for seed in range(4)]
    assert all(order.sort().values.tolist() == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) > 1
    for one, two in zip(epoch(1), epoch(1), strict=True):
        assert torch.equal(one.x["rgb"], two.x["rgb"])


def test_training_crops_and_mirrors_colour_and_flow_alike_or_each_for_itself(folder: Path) -> None:
    for clip in ROWS:
        ramps(folder, clip)

    def views(joint: bool) -> list[tuple[float, float, bool]]:
        """Largest differences of colour and flow, across and down, and whether colour is mirrored."""
        found = []
        for part in epoch(0, joint, times=3):
            assert part.x["rgb"].shape[1:] == SMALL.shapes["rgb"]
            for rgb, flow in zip(part.x["rgb"][:, :, 0], part.x["flow"][:, :, 0], strict=True):
                mirrored = bool(rgb[0, 0, 0] > rgb[0, 0, -1])
                across = flow[0] + rgb[0] if mirrored else flow[0] - rgb[0]  # u turns its sign
                down = flow[1] - rgb[1]
                found.append((float(across.abs().max()), float(down.abs().max()), mirrored))
        return found

    alike, apart = views(True), views(False)
    assert max(max(across, down) for across, down, _ in alike) < 0.06
    assert {mirrored for *_, mirrored in alike} == {True, False}
    assert sum(max(across, down) > 0.1 for across, down, _ in apart) > len(apart) / 2


# What is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("P01_02_1", "P01", "P01_02", 9, 8, 3), "frames 9 to 8 in line 2"),
        (("P01_02_1", "P01", "P01_02", 0, 8, 3), "frames 0 to 8 in line 2"),
        (("P01_02_1", "P01", "P01_02", 1, 8, 8), "verb 8 in line 2; allowed is 0 to 7"),
        (("P01_02_1", "P01", "P01_02", 1, 8, -1), "'1', '8', '-1' in line 2"),
        (("P01_02_1", "P01", "P01_02", 1.5, 8, 3), "'1.5', '8', '3' in line 2"),
        (("P01_02_1", "P01", "P01_02", 1, 8), "'1', '8', '' in line 2"),
        (("P01_02_1", "P01", "P01_03", 1, 8, 3), "'P01_02_1' of video 'P01_03' of 'P01' in line 2"),
        (("P01_02_1", "P02", "P01_02", 1, 8, 3), "of 'P02' in line 2"),
        (("../x_02_1", "../x", "../x_02", 1, 8, 3), "narration '../x_02_1'"),
    ],
)
def test_wrong_rows_are_named(folder: Path, row: tuple[Any, ...], says: str) -> None:
    table(folder / "train.csv", [row])
    with pytest.raises(LabkitError, match=f"train.csv is damaged.*{says}.*epic_downloader"):
        SMALL.clips("train")


def test_wrong_tables_are_named(folder: Path) -> None:
    path = folder / "train.csv"
    table(path, [row[:-1] for row in ROWS], epic.COLUMNS[:-1])
    with pytest.raises(LabkitError, match=r"columns \['narration_id', .*a table that has verb too"):
        SMALL.load("train")
    table(path, [])
    with pytest.raises(LabkitError, match="found no clip"):
        SMALL.load("train")
    for content in (b"", b"<html>", b"\xff\xfe\x00P"):
        path.write_bytes(content)
        with pytest.raises(LabkitError, match=r"train\.csv is damaged"):
            SMALL.batches("train", 2)
    table(path, [(*row, "x", "more") for row in ROWS], (*epic.COLUMNS, "id", "noun"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert (
        SMALL.clips("train") == ROWS
    )  # other columns are passed over, and what Windows puts first


def test_missing_and_damaged_pictures_are_named_and_what_to_do(folder: Path) -> None:
    for part, n in (("rgb", 5), ("u", 2), ("v", 4)):
        path = place(folder, ROWS[0], part, n)
        whole = path.read_bytes()
        path.unlink()
        with pytest.raises(LabkitError, match=f"{path.name} is not there. Frames come.*unpack"):
            SMALL.load("test")
        for content in (b"", b"<html>not found</html>", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(LabkitError, match=f"{path.name} is damaged.*Delete it and get it"):
                list(SMALL.batches("test", 2))
        path.write_bytes(whole)
    assert len(SMALL.load("test")) == 5


def test_pictures_of_other_sizes_are_refused(folder: Path) -> None:
    path = place(folder, ROWS[0], "rgb", 1)
    picture(path, np.zeros((HIGH, WIDE + 2, 3)))
    with pytest.raises(LabkitError, match=r"P01_02 is damaged.*\[\(24, 16\), \(26, 16\)\] pixels"):
        SMALL.load("test")
    picture(path, np.zeros((HIGH, WIDE, 3)))
    for part, n in frames_of(ROWS[0]):
        if part == "v":
            picture(place(folder, ROWS[0], part, n), np.zeros((HIGH, HIGH)))
    with pytest.raises(LabkitError, match="found pictures of 16 x 16 pixels; .* colour, 24 x 16"):
        SMALL.load("test")
    for part, n in frames_of(ROWS[0]):
        picture(place(folder, ROWS[0], part, n), np.zeros((36, 24, 3)[: 3 if part == "rgb" else 2]))
    assert SMALL.load("test", n=1).x["flow"].shape == (1, 2, 4, 12, 12)  # upright ones are not


def test_wrong_settings_and_arguments_are_named_at_once(folder: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"frames": 0}, "frames must be a whole number from 1 to 128, got 0"),
        ({"size": True}, "size must be a whole number"),
        ({"size": 17}, "size must be at most scale=16, got 17"),
    ]
    for change, says in wrong:
        with pytest.raises(ValueError, match=says):
            replace(SMALL, **change)
    dev: Any = "dev"
    for call in (SMALL.load, SMALL.clips, lambda split: SMALL.batches(split, 2)):
        with pytest.raises(ValueError, match="split must be one of .*'test'; got 'dev'"):
            call(dev)
    with pytest.raises(ValueError, match="size must be a whole number from 1 to .*, got 0"):
        SMALL.batches("train", 0)


# Where it lies -------------------------------------------------------------------------------------


def test_a_missing_release_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    with pytest.raises(LabkitError) as caught:
        Epic().load("val")
    for words in (
        "no val.csv there",
        "ihp-lab/XNorm",
        str(tmp_path / epic.FOLDER),
        "--flow-frames",
    ):
        assert words in str(caught.value)


def test_a_path_may_be_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_DATA")
    with pytest.raises(LabkitError):
        SMALL.clips("val")
    assert replace(SMALL, path=str(folder)).clips("val") == ROWS


def test_the_catalogue_knows_tables_and_kitchens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["train.csv", "val.csv", "test.csv", "P01", "P08", "P22"]
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    entries = [item for item in files.catalogue() if item.dataset == "epic"]
    assert [Path(item.file).name for item in entries] == names
    assert all(item.local is None for item in entries)
    assert files.check("epic") == ["nothing of epic is here: run `labkit data get epic`"]
    assert files._problems("epic") is None  # `labkit data check` passes it over
    with pytest.raises(LabkitError, match=r"train\.csv of epic .* is not fetched, .* Frames come"):
        files.get("epic")
    table(tmp_path / "upstream/epic/train.csv")
    with pytest.raises(LabkitError, match=r"val\.csv of epic"):
        files.get("epic")
    for split in ("val", "test"):
        table(tmp_path / f"upstream/epic/{split}.csv")
    (tmp_path / "upstream/epic/P01").write_bytes(b"not a folder")
    with pytest.raises(LabkitError, match=r"upstream/epic/P01/ of epic .*epic_downloader\.py"):
        files.get("epic")
    (tmp_path / "upstream/epic/P01").unlink()
    for kitchen in ("P01", "P08", "P22"):
        (tmp_path / "upstream/epic" / kitchen).mkdir()
    assert [path.name for path in files.get("epic")] == names
    assert files.check("epic") == [] == files.check()
