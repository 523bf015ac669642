"""Crops and flips of clips: the same place in all modalities, and motion that turns with the mirror."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.augment import Box, augmented, boxes, centre, crop, flip


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(n: int = 6, height: int = 7, width: int = 9) -> Batch:
    """Clips whose values say where they come from: row, column and sample; flow says the same."""
    row, column = torch.arange(height).float()[:, None], torch.arange(width).float()
    shape = (n, 1, 2, height, width)
    sample = torch.arange(n).float().view(-1, 1, 1, 1, 1).expand(shape)
    x = torch.cat((column.expand(shape), row.expand(shape), sample), 1)
    return Batch({"rgb": x, "flow": x[:, :2].clone()}, y=torch.arange(n))


def test_a_crop_is_the_part_that_its_box_names() -> None:
    clip = places().x["rgb"]
    box = Box(torch.tensor([0, 1, 2, 3, 2, 1]), torch.tensor([5, 4, 3, 2, 1, 0]), 4, 3)
    made = crop(clip, box)
    assert made.shape == (6, 3, 2, 4, 3)
    for i, (top, left) in enumerate(zip(box.top.tolist(), box.left.tolist(), strict=True)):
        assert torch.equal(made[i], clip[i, :, :, top : top + 4, left : left + 3])
    whole = crop(clip, centre(6, (7, 9), (7, 9)))
    assert torch.equal(whole, clip)
    assert crop(clip.to(torch.uint8), box).dtype == torch.uint8


def test_outside_of_the_picture_its_edge_is_repeated() -> None:
    clip = places(1).x["rgb"]
    made = crop(clip, Box(torch.tensor([-2]), torch.tensor([5]), 5, 6))
    assert made[0, 0, 0, 0].tolist() == [5, 6, 7, 8, 8, 8]
    assert made[0, 1, 1, :, 0].tolist() == [0, 0, 0, 1, 2]


def test_the_centre_is_in_the_middle() -> None:
    box = centre(2, (7, 10), (3, 5))
    assert box.top.tolist() == [2, 2] and box.left.tolist() == [2, 2] and box[2:] == (3, 5)


def test_boxes_reach_every_place_equally_often_and_no_other() -> None:
    box = boxes(6000, (6, 5), (4, 5), draws(), padding=1)
    for values, low, high in ((box.top, -1, 3), (box.left, -1, 1)):
        count = (values - low).bincount()
        assert len(count) == high - low + 1
        assert (count / 6000 * len(count) - 1).abs().max() < 0.1
    assert torch.corrcoef(torch.stack((box.top, box.left)).float())[0, 1].abs() < 0.05
    assert boxes(1, (6, 5), (8, 7), draws(), padding=1)[:2] == (torch.tensor([-1]),) * 2
    again = boxes(6000, (6, 5), (4, 5), draws(), padding=1)
    assert torch.equal(box.top, again.top) and torch.equal(box.left, again.left)


@pytest.mark.parametrize("negate", [False, True])
def test_a_flip_mirrors_and_twice_is_nothing(negate: bool) -> None:
    clip = torch.randn(4, 2, 3, 5, 6, generator=draws())
    before, which = clip.clone(), torch.tensor([True, False, True, False])
    made = flip(clip, which, negate)
    sign = torch.tensor([-1.0 if negate else 1.0, 1.0]).view(2, 1, 1, 1)
    assert torch.equal(made[which], clip[which].flip(-1) * sign)
    assert torch.equal(made[~which], clip[~which])
    assert torch.equal(flip(made, which, negate), clip)
    assert torch.equal(clip, before)  # what came in stays


def mirrored(clip: Tensor) -> Tensor:
    """Which samples run backwards along their rows; shape (B,)."""
    step = clip[:, 0, 0, 0, 1] - clip[:, 0, 0, 0, 0]
    assert bool((step.abs() == 1).all())
    return step < 0


def test_one_box_and_one_flip_serve_all_modalities_of_a_sample() -> None:
    batch = places(200)
    made = augmented(batch, (4, 5), draws())
    rgb, flow = made.x["rgb"], made.x["flow"]
    assert rgb.shape == (200, 3, 2, 4, 5) and flow.shape == (200, 2, 2, 4, 5)
    assert torch.equal(flow[:, 1], rgb[:, 1])  # the rows of one box
    which = mirrored(rgb)
    assert 70 < int(which.sum()) < 130
    assert torch.equal(flow[:, 0], torch.where(which.view(-1, 1, 1, 1), -rgb[:, 0], rgb[:, 0]))
    assert (rgb[:, 2] == torch.arange(200.0).view(-1, 1, 1, 1)).all()  # nobody else's picture
    corners = {(float(clip[1, 0, 0, 0]), float(clip[0, 0, 0].min())) for clip in rgb}
    assert corners == {(float(i), float(j)) for i in range(4) for j in range(5)}
    assert made.y is batch.y and made.observed.all()


def test_each_modality_for_itself_looks_elsewhere() -> None:
    made = augmented(places(400), (4, 5), draws(), joint=False)
    rgb, flow = made.x["rgb"], made.x["flow"]
    same_rows = (rgb[:, 1, 0, 0, 0] == flow[:, 1, 0, 0, 0]).float().mean()
    assert 0.15 < float(same_rows) < 0.35  # of four places
    turned = flow[:, 0, 0, 0].sum(-1) < 0
    assert 0.4 < float(turned.float().mean()) < 0.6
    assert 0.4 < float((mirrored(rgb) == turned).float().mean()) < 0.6


def test_motion_by_any_of_its_names_turns_and_other_pictures_do_not() -> None:
    clip = torch.rand(3, 2, 2, 4, 4, generator=draws()) + 1
    batch = Batch(dict.fromkeys(("depth", "motion", "flow"), clip))
    made = augmented(batch, (4, 4), draws(), flips=1.0)
    assert torch.equal(made.x["depth"], clip.flip(-1))
    for name in ("motion", "flow"):
        assert torch.equal(made.x[name][:, 0], -clip[:, 0].flip(-1))
        assert torch.equal(made.x[name][:, 1], clip[:, 1].flip(-1))
    still = augmented(batch, (4, 4), draws(), flips=0.0)
    assert all(torch.equal(still.x[name], clip) for name in batch.x)


@pytest.mark.parametrize("joint", [True, False])
def test_the_released_mirror_leaves_motion_its_sign_and_draws_the_same(joint: bool) -> None:
    batch = places(80)
    kept, turned = (
        augmented(batch, (4, 5), draws(), joint, padding=1, negate=negate) for negate in (False, True)
    )  # fmt: skip
    assert torch.equal(kept.x["rgb"], turned.x["rgb"])
    which = mirrored(augmented(batch, (4, 5), draws(), joint, negate=False).x["flow"])
    assert 20 < int(which.sum()) < 60
    sign = torch.where(turned.x["flow"][:, 0].flatten(1).sum(1) < 0, -1.0, 1.0)
    assert torch.equal(kept.x["flow"][:, 0], turned.x["flow"][:, 0] * sign.view(-1, 1, 1, 1))
    assert torch.equal(kept.x["flow"][:, 1], turned.x["flow"][:, 1])
    if joint:  # both were the same clip: a mirror without a sign leaves them so
        assert torch.equal(kept.x["flow"], kept.x["rgb"][:, :2])
        assert not torch.equal(turned.x["flow"], turned.x["rgb"][:, :2])
    assert torch.equal(
        augmented(batch, (4, 5), draws(), joint, padding=1).x["flow"], turned.x["flow"]
    )


def test_what_is_not_observed_reaches_nothing() -> None:
    batch = places(4)
    batch.x["flow"][1] = torch.nan
    observed = torch.tensor([[True, True], [True, False], [True, True], [True, True]])
    made = augmented(Batch(batch.x, observed), (4, 5), draws(), padding=2)
    assert torch.equal(made.observed, observed)
    rest = torch.tensor([0, 2, 3])
    assert made.x["flow"][1].isnan().all() and made.x["flow"][rest].isfinite().all()
    assert made.x["rgb"].isfinite().all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda b, g: augmented(b, (8, 5), g), r"to must lie between 1 and .*7 x 9 .*got 8 x 5"),
        (lambda b, g: augmented(b, (0, 5), g), r"got 0 x 5"),
        (lambda b, g: augmented(b, (4, 5), g, padding=-1), "padding must be at least 0, got -1"),
        (lambda b, g: augmented(b, (4, 5), g, flips=1.5), r"flips must lie in 0\.\.1, got 1\.5"),
        (lambda b, g: boxes(0, (4, 5), (4, 5), g), "n must be at least 1, got 0"),
        (lambda b, g: centre(1, (4, 5), (5, 5)), "got 5 x 5"),
        (
            lambda b, g: crop(b.x["rgb"], centre(2, (7, 9), (4, 5))),
            "each of the 6 samples, got top",
        ),
        (
            lambda b, g: crop(b.x["rgb"][0], centre(3, (7, 9), (4, 5))),
            r"clip must have shape \(B, C",
        ),
        (lambda b, g: flip(b.x["rgb"], torch.ones(6)), r"which must be bool of shape \(6,\), got"),
        (lambda b, g: flip(b.x["rgb"][0], torch.ones(3).bool()), "clip must have shape"),
        (
            lambda b, g: augmented(Batch(b.x | {"sound": torch.zeros(6, 3)}), (4, 5), g),
            r"x\['sound'\] must have shape \(B, C, T, H, W\), got \(6, 3\)",
        ),
        (
            lambda b, g: augmented(Batch(b.x | {"depth": b.x["rgb"][..., 1:]}), (4, 5), g),
            r"the same rows and columns, got .*'depth': \(7, 8\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[Batch, Any], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(places(), draws())
