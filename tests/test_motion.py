"""Optical flow against movements that are known, and actions as two streams."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import motion, utd_mhad
from labkit.data.actions import Actions
from labkit.data.augment import flip
from labkit.data.motion import STILL, optical_flow

needs_data = pytest.mark.skipif(
    not os.environ.get("LABKIT_DATA"), reason="LABKIT_DATA is not set: no real data on this machine"
)
SMALL = Actions(n_train=60, n_val=20, n_test=30)


def waves(right: float, below: float, frames: int = 3, size: int = 40) -> Tensor:
    """Waves some 12 pixels long in three directions, which move so far from frame to frame, float64."""
    row, column, time = (torch.arange(n, dtype=torch.float64) for n in (size, size, frames))
    x = column - right * time.view(-1, 1, 1)
    y = row[:, None] - below * time.view(-1, 1, 1)
    k = 2 * math.pi / 12
    total = (k * (x + 0.3 * y)).sin() + (k * (y - 0.4 * x) + 1).sin() + (0.6 * k * (x - y)).sin()
    return (0.5 + 0.15 * total)[None]


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Known movements -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [(0.1, 0.0), (0.0, 0.25), (-0.5, 0.3), (0.4, 0.5), (-0.2, -0.4)])
def test_a_small_shift_is_found_everywhere_but_at_the_edge(moved: tuple[float, float]) -> None:
    made = optical_flow(waves(*moved), still=1e-6)
    assert made.shape == (1, 2, 3, 40, 40)
    inner, true = made[..., 5:-5, 5:-5], torch.tensor(moved, dtype=torch.float64)
    assert float((inner - true.view(1, 2, 1, 1, 1)).abs().max()) < 0.02
    usual = optical_flow(waves(*moved))[..., 5:-5, 5:-5].mean((0, 2, 3, 4))
    assert float((usual - true).abs().max()) < 0.06


def test_what_stays_does_not_move_and_more_regularisation_moves_less() -> None:
    still = noise(2, 1, 12, 10).expand(2, 4, 12, 10)
    assert (optical_flow(still) == 0).all()
    sizes = [float(optical_flow(waves(0.4, 0.2), k).norm()) for k in (1e-6, STILL, 1e-2, 1.0)]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 0.1 * sizes[0]


def test_a_body_moves_and_the_empty_room_does_not() -> None:
    row, column = torch.arange(30.0)[:, None], torch.arange(40.0)
    places = 3 + 0.5 * torch.arange(5.0).view(-1, 1, 1)
    body = (1 - ((row - 12) ** 2 + (column - places) ** 2) / 30).clamp(min=0)[None]
    made = optical_flow(body)
    near = body[0, 0] > 0.2
    assert 0.3 < float(made[0, 0, 0][near].mean()) < 0.7
    assert abs(float(made[0, 1, 0][near].mean())) < 1e-4
    assert (made[..., 23:, :] == 0).all() and (made[..., 17:] == 0).all()  # exactly


def test_the_last_frame_moves_as_the_one_before() -> None:
    made = optical_flow(noise(2, 5, 8, 9))
    assert torch.equal(made[:, :, 4], made[:, :, 3])
    assert not torch.equal(made[:, :, 3], made[:, :, 2])


def test_mirrors_turns_and_time_act_on_motion_as_on_the_world() -> None:
    clip = noise(3, 4, 11, 9)
    made = optical_flow(clip)
    mirror = flip(made, torch.ones(3, dtype=torch.bool), negate_u=True)
    torch.testing.assert_close(optical_flow(clip.flip(-1)), mirror)
    torch.testing.assert_close(optical_flow(clip.flip(-2))[:, 1], -made[:, 1].flip(-2))
    torch.testing.assert_close(optical_flow(clip.mT), made.flip(1).mT)  # rows are columns, u is v
    back = optical_flow(clip.flip(1))[:, :, :3]
    torch.testing.assert_close(back, -made[:, :, :3].flip(2))


def test_a_clip_is_the_same_alone_and_among_others() -> None:
    clips = noise(motion.CHUNK + 3, 3, 6, 6)
    made = optical_flow(clips)
    assert len(made) == len(clips)
    for i in (0, motion.CHUNK - 1, motion.CHUNK, len(clips) - 1):
        torch.testing.assert_close(optical_flow(clips[i : i + 1])[0], made[i])
    assert optical_flow(clips.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("frames", "still", "says"),
    [
        (torch.rand(3, 8, 8), STILL, r"shape \(B, T, H, W\).*got torch.float32 of \(3, 8, 8\)"),
        (torch.rand(1, 1, 8, 8), STILL, "T >= 2"),
        (torch.ones(1, 2, 8, 8, dtype=torch.int64), STILL, "must be floating point"),
        (torch.rand(1, 2, 8, 8), 0.0, r"still must be above 0, got 0\.0"),
        (torch.rand(1, 2, 8, 8), math.nan, "still must be above 0, got nan"),
    ],
)
def test_wrong_arguments_are_named(frames: Tensor, still: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        optical_flow(frames, still)


# Actions as two streams ----------------------------------------------------------------------------


def test_procedural_streams_belong_to_the_samples_of_load() -> None:
    batch, known = SMALL.clips("test"), SMALL.load("test")
    assert batch.modalities == motion.MODALITIES and batch.observed.all()
    assert batch.x["depth"].shape == (30, 1, 12, 10, 10)
    assert batch.x["motion"].shape == (30, 2, 12, 10, 10)
    assert batch.y is not None and known.y is not None and torch.equal(batch.y, known.y)
    assert batch.factors.keys() == known.factors.keys()
    for name, values in known.factors.items():
        assert torch.equal(batch.factors[name], values)
    shown = replace(SMALL, steps=12).load("test").x["depth"]  # the same pictures, standardised
    pair = torch.stack((shown, batch.x["depth"].view(30, 12, 100)))
    each = [torch.corrcoef(pair[:, :, t, k])[0, 1] for t in (0, 5, 11) for k in (14, 45, 55)]
    assert min(each) > 0.999
    assert [len(SMALL.clips(split)) for split in ("train", "val")] == [60, 20]


def test_a_sample_is_the_same_however_many_there_are() -> None:
    many, few = SMALL.clips("train"), replace(SMALL, n_train=7, steps=3).clips("train")
    for name in motion.MODALITIES:
        torch.testing.assert_close(few.x[name], many.x[name][:7])


def test_procedural_motion_is_in_units_of_its_root_mean_square_and_nothing_is_taken_off() -> None:
    batch = replace(SMALL, n_train=512).clips("train")
    moved = batch.x["motion"]
    assert 0.95 < float(moved.square().mean().sqrt()) <= 1 and float(moved.abs().max()) <= 8
    raw = optical_flow(batch.x["depth"][:, 0])
    small = raw.abs() < raw.abs().max() / 9
    ratio = moved[small & (raw != 0)] / raw[small & (raw != 0)]
    assert float(ratio.std() / ratio.mean()) < 1e-4  # one factor for all


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        SMALL.clips("dev")  # type: ignore[arg-type]


def release(seed: int, *changed: int) -> Batch:
    """A made-up release of two performances a subject; those of `changed` subjects are others."""
    subject = torch.arange(1, 9).repeat_interleave(2)
    depth = noise(16, 12, 40, 40).float() * 0.5
    other = torch.isin(subject, torch.tensor(changed or (0,)))
    depth[other] = 1 - depth[other].square() * seed
    return Batch({"depth": depth}, y=torch.arange(16) % 27, factors={"subject": subject})


def test_real_splits_are_by_subject_and_nothing_of_the_test_reaches_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(split: Any, held_out: int | None, *changed: int) -> Batch:
        monkeypatch.setattr(utd_mhad, "load", lambda: release(3, *changed))
        return Actions("real", held_out=held_out).clips(split)

    for held_out, split, subjects in (
        (1, "train", [3, 5, 7]), (1, "val", [1]), (3, "val", [3]), (1, "test", [2, 4, 6, 8]),
        (None, "train", [1, 3, 5, 7]), (None, "test", [2, 4, 6, 8]),
    ):  # fmt: skip
        batch = read(split, held_out)
        assert batch.factors["subject"].unique().tolist() == subjects
        rows = torch.isin(release(3).factors["subject"], torch.tensor(subjects))
        assert torch.equal(batch.x["depth"][:, 0], release(3).x["depth"][rows])
        assert batch.y is not None and batch.y.tolist() == rows.nonzero()[:, 0].tolist()
    for split in ("train", "val"):
        assert torch.equal(read(split, 1, 2, 4, 6, 8).x["motion"], read(split, 1).x["motion"])
    assert not torch.equal(read("val", 1, 3).x["motion"], read("val", 1).x["motion"])
    assert torch.equal(read("train", 1, 1).x["motion"], read("train", 1).x["motion"])
    assert float(read("train", 1).x["motion"].square().mean()) == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="held_out=None.*got 'val'"):
        read("val", None)


@needs_data
def test_on_the_pack_people_move_and_the_room_does_not() -> None:
    batch = Actions("real").clips("val")
    depth, moved = batch.x["depth"], batch.x["motion"]
    assert depth.shape == (107, 1, 12, 40, 40) and moved.shape == (107, 2, 12, 40, 40)
    assert float(depth.min()) >= 0 and float(depth.max()) == 1
    shown = depth.amax((1, 2), keepdim=True)
    far = torch.nn.functional.max_pool2d(shown[:, 0], 9, 1, 4) == 0  # no person within four pixels
    assert far.float().mean() > 0.1
    assert (moved.abs().amax((1, 2))[far[:, 0]] == 0).all()
    assert 0.5 < float(moved.square().mean().sqrt()) < 1.5
