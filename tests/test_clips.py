"""Clips of two modalities: what tells the class, what each modality shows, what each setting changes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import clips
from labkit.data.clips import CLASSES, EPIC, LIMITS, MODALITIES, SPEED, STEP, Clips, ceilings

SMALL = Clips(n_train=48, n_val=16, n_test=48)
CLEAR = replace(SMALL, noise=0.0)
BUSY = replace(SMALL, repeated=0.5, overlap=0.5, shortcut=0.5, clutter=1.0, kitchens=3,
               watermark=1.0, imbalance=1.0, shift=2.0)  # fmt: skip
ROWS = torch.arange(48)


@cache
def many(rho: float = 1.0, imbalance: float = 0.0) -> Batch:
    """Enough clips to count in, of small pictures."""
    return Clips(rho=rho, imbalance=imbalance, frames=2, size=12, n_train=2400).load("train")


def labels(batch: Batch) -> Tensor:
    assert batch.y is not None
    return batch.y


def share(where: Tensor) -> float:
    return float(where.float().mean())


def places(batch: Batch) -> list[Tensor]:
    """Where object, handle and patch are, (B, T, H, W) each; without noise, before a black ground."""
    red = torch.tensor(clips.RED)[:, None, None, None] - 0.5
    handle = (batch.x["rgb"] - red).abs().amax(1) < 1e-5
    return [(batch.x["rgb"].amax(1) > -0.4) & ~handle, handle, batch.x["flow"][:, 0] != 0]


def middle(where: Tensor) -> tuple[Tensor, Tensor]:
    """Mean column and row of what is True, each (B, T), in pixels of 16 off the picture's middle."""
    line = (torch.arange(where.shape[-1]) + 0.5) * 16 / where.shape[-1] - 8
    count = where.sum((2, 3))
    return (where * line).sum((2, 3)) / count, (where * line[:, None]).sum((2, 3)) / count


def mean_over(x: Tensor, where: Tensor) -> Tensor:
    """Mean (B, C) of (B, C, T, H, W) over where (B, T, H, W) is True."""
    return (x * where[:, None]).sum((2, 3, 4)) / where.sum((1, 2, 3))[:, None]


def test_shapes_and_splits() -> None:
    batch = SMALL.load("train")
    assert {name: tuple(x.shape[1:]) for name, x in batch.x.items()} == SMALL.shapes
    assert SMALL.shapes == {"rgb": (3, 6, 16, 16), "flow": (2, 6, 16, 16)}
    assert [len(SMALL.load(split)) for split in ("train", "val", "test")] == [48, 16, 48]
    assert SMALL.classes == CLASSES and len({*CLASSES}) == 8
    assert CLASSES[2] == "open the cross" and batch.factors["synergy"].dtype == torch.bool


def test_a_sample_is_the_same_however_many_there_are() -> None:
    few, edges = Clips(frames=2, size=12, n_train=7), [0, clips.CHUNK - 1, clips.CHUNK, 2399]
    looked = few.look("train", torch.tensor(edges))
    for batch, rows in ((few.load("train"), list(range(7))), (looked, edges)):
        assert torch.equal(labels(batch), labels(many())[rows])
        for name in MODALITIES:
            torch.testing.assert_close(batch.x[name], many().x[name][rows], rtol=0, atol=1e-5)


def test_one_seed_is_one_data_set_and_splits_are_others() -> None:
    batch = SMALL.load("train")
    for name in MODALITIES:
        assert torch.equal(batch.x[name], SMALL.load("train").x[name])
        for other in (SMALL.load("test"), replace(SMALL, seed=1).load("train")):
            moved = (other.x[name] - batch.x[name]).flatten(1).abs().mean(1)
            assert float(moved.min()) > 0.1  # every single clip


def test_the_label_follows_from_pair_handle_direction_and_synergy() -> None:
    crossed = {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 0}  # handle, direction
    for pair, (handle, direction), synergy in product(range(4), crossed, (False, True)):
        change = {"pair": pair, "handle": handle, "direction": direction, "synergy": synergy}
        batch = SMALL.look("test", ROWS[:2], **change)
        polarity = crossed[handle, direction] if synergy else direction
        assert batch.factors["polarity"].tolist() == [polarity] * 2
        assert labels(batch).tolist() == [2 * pair + polarity] * 2


def test_classes_are_equally_frequent_and_synergy_is_as_frequent_as_asked() -> None:
    batch = many(0.75)
    told, handle = batch.factors, batch.factors["handle"]
    assert labels(batch).view(-1, 8).sort(1).values.eq(torch.arange(8)).all()  # in every eight
    assert share(told["synergy"]) == pytest.approx(0.75, abs=0.025)
    halves = [share(handle), share(handle == told["polarity"])]
    assert halves == pytest.approx([0.5, 0.5], abs=0.03)
    crossed = torch.where(told["synergy"], handle ^ told["direction"], told["direction"])
    assert torch.equal(labels(batch), 2 * told["pair"] + crossed)
    assert many(1.0).factors["synergy"].all() and not many(0.0).factors["synergy"].any()


def test_imbalanced_classes_are_as_frequent_as_in_epic_kitchens() -> None:
    epic = torch.tensor(EPIC).double() / 11_127
    for imbalance in (0.0, 0.3, 1.0):
        shares = imbalance * epic + (1 - imbalance) / 8
        torch.testing.assert_close(Clips(imbalance=imbalance).shares, shares)
    found = labels(many(imbalance=1.0)).bincount(minlength=8).double() / 2400
    torch.testing.assert_close(found, epic, rtol=0, atol=0.025)


def test_with_full_synergy_neither_factor_alone_tells_polarity_and_both_do() -> None:
    told = many(1.0).factors
    for name, value in product(("handle", "direction"), (0, 1)):
        alone = share(told["polarity"][told[name] == value])
        assert alone == pytest.approx(0.5, abs=0.04), name
    assert torch.equal(told["polarity"] == 1, told["handle"] != told["direction"])
    assert torch.equal(many(0.0).factors["polarity"], many(0.0).factors["direction"])


@pytest.mark.parametrize("name", ["handle", "direction", "synergy"])
def test_a_look_changes_what_is_asked_and_nothing_else(name: str) -> None:
    before = SMALL.look("train", ROWS)
    told = before.factors
    after = SMALL.look("train", ROWS, **{name: 1 - told[name].long()})
    kept = {"pair", "handle", "direction", "synergy", "speed", "kitchen"} - {name}
    assert all(torch.equal(after.factors[k], told[k]) for k in kept)
    for m in MODALITIES:
        changed = (after.x[m] != before.x[m]).flatten(1).any(1)
        shows = (name, m) in [("handle", "rgb"), ("direction", "flow")]
        assert changed.all() if shows else not changed.any()
    # With the handle on the left synergy changes nothing: direction alone tells, as without.
    flipped = told["handle"] == 1 if name == "synergy" else torch.tensor(True)
    assert torch.equal(labels(after) != labels(before), flipped.expand(48))
    slow, fast = (SMALL.look("train", ROWS, pair=pair).factors["speed"] for pair in (1, 3))
    torch.testing.assert_close(fast - slow, torch.full((48,), 2 * STEP))


@pytest.mark.parametrize("change", [{}, {"size": 32}, {"size": 12}, {"frames": 11}])
def test_flow_shows_direction_and_speed_at_any_size(change: dict[str, int]) -> None:
    recipe = replace(CLEAR, **change)
    batch = recipe.load("train")
    right, speed = 2 * batch.factors["direction"] - 1, batch.factors["speed"]
    patch, pixel = places(batch)[2], 16 / recipe.size
    assert batch.x["flow"].shape == (48, 2, recipe.frames, recipe.size, recipe.size)
    u, v = mean_over(batch.x["flow"], patch).unbind(1)
    torch.testing.assert_close(2 * u, right * speed)  # so its sign is the direction
    assert float(v.std()) == pytest.approx(0.1, abs=0.03) and float(v.abs().max()) < 0.4
    within = speed < 1.7  # a faster patch leaves the picture at its end
    assert within.sum() > 40 and share(patch[within]) == pytest.approx((7 / 16) ** 2, rel=0.2)
    column, row = (each[within] for each in middle(patch))
    moved = (right * speed)[within, None] * torch.linspace(-2.5, 2.5, recipe.frames)
    assert float((column - moved).abs().max()) <= pixel / 2 + 1e-5  # the nearest pixel
    assert float((column - moved).mean()) == pytest.approx(0, abs=0.1)
    assert float(row.abs().max()) <= pixel / 2


@pytest.mark.parametrize("change", [{}, {"size": 32}, {"size": 12}, {"frames": 11}])
def test_rgb_shows_the_handle_on_its_side_at_any_size(change: dict[str, int]) -> None:
    for side in (0, 1):  # left, right
        batch = replace(CLEAR, **change).look("train", ROWS, pair=0, handle=side)
        (x, y), (handle_x, handle_y), _ = map(middle, places(batch))
        gap = (handle_x - x) * (2 * side - 1)  # 5 pixels, less where the border cuts it off
        assert float(gap.nanmedian()) == pytest.approx(5, abs=0.5) and not bool((gap < 2.5).any())
        assert share((handle_y - y).abs() < 1) > 0.95
        assert float(x.std(1).mean()) == pytest.approx(1, abs=0.2)  # it trembles in each clip


def test_rgb_shows_the_pair_by_a_shape() -> None:
    looks = [CLEAR.look("train", ROWS, pair=pair) for pair in range(4)]
    block, cross, rows, columns = (places(batch)[0] for batch in looks)
    assert (block.sum((2, 3)) == 49).all()
    for shape in (cross, rows, columns):
        assert not (shape & ~block).any() and (shape.sum((2, 3)) < 40).all()
    for stripes, line in ((rows, 3), (columns, 2)):
        filled = stripes.sum(line)  # a stripe is whole or absent, and every other line has one
        assert {0, 7} >= {*filled.unique().tolist()}
        assert {3, 4} >= {*(filled == 7).sum(2).unique().tolist()}
    assert (cross.any(2).sum(2) == 7).all() and (cross.any(3).sum(2) == 7).all()


def test_noise_is_as_large_as_asked_in_every_frame() -> None:
    quiet = CLEAR.load("train")
    for level, name in product((0.25, 2.0), MODALITIES):
        grain = (replace(SMALL, noise=level).load("train").x[name] - quiet.x[name]) / level
        assert [float(grain.std()), float(grain.mean())] == pytest.approx([1, 0], abs=0.01)
        assert float((grain[:, :, 1:] * grain[:, :, :-1]).mean()) == pytest.approx(0, abs=0.02)


def test_repeated_frames_of_flow_are_the_ones_before_noise_and_all() -> None:
    fresh, batch = SMALL.load("train"), replace(SMALL, repeated=0.5).load("train")
    flow, own = batch.x["flow"].transpose(1, 2), fresh.x["flow"].transpose(1, 2)
    assert torch.equal(flow[:, 0], own[:, 0])
    again = (flow[:, 1:] == flow[:, :-1]).flatten(2).all(2)
    assert torch.equal(again, (flow[:, 1:] != own[:, 1:]).flatten(2).any(2))
    assert share(again) == pytest.approx(0.5, abs=0.1)
    assert len(again.unique(dim=0)) > 20  # each clip in its own way
    assert torch.equal(batch.x["rgb"], fresh.x["rgb"])


@pytest.mark.parametrize("frames", [6, 5])
def test_overlapping_clips_begin_with_the_second_half_of_the_clip_before(frames: int) -> None:
    own = replace(SMALL, frames=frames).load("train")
    batch, half = replace(SMALL, frames=frames, overlap=0.6).load("train"), frames // 2
    late = (batch.x["rgb"] != own.x["rgb"]).flatten(1).any(1)
    assert share(late) == pytest.approx(0.6, abs=0.15) and (late[1:] & late[:-1]).any()
    rows = late.nonzero()[late[0].long() :, 0]
    for name, x in batch.x.items():
        assert torch.equal(x[~late], own.x[name][~late])
        assert torch.equal(x[:, :, half:], own.x[name][:, :, half:])
        assert torch.equal(x[rows][:, :, :half], x[rows - 1][:, :, -half:])  # as shown, itself late
    assert torch.equal(labels(batch), labels(own))


def test_shift_moves_the_patch_off_the_object_in_any_direction() -> None:
    still, batch = (replace(CLEAR, shift=s).look("train", ROWS, pair=0) for s in (0.0, 3.0))
    assert torch.equal(still.x["rgb"], batch.x["rgb"])
    pairs = zip(middle(places(batch)[2]), middle(places(still)[2]), strict=True)
    across, down = ((after - before).mean(1) for after, before in pairs)
    far = torch.hypot(across, down)
    assert float(far.mean()) == pytest.approx(3, abs=0.1) and float((far - 3).abs().max()) < 0.8
    assert (2 * (across > 0) + (down > 0)).bincount(minlength=4).min() >= 6


def test_clutter_lies_behind_the_object_and_is_as_bright_as_asked() -> None:
    plain = CLEAR.load("train")
    front = places(plain)[0] | places(plain)[1]
    for level in (0.3, 1.0):
        batch = replace(CLEAR, clutter=level).load("train")
        assert torch.equal(batch.x["flow"], plain.x["flow"])
        assert not ((batch.x["rgb"] != plain.x["rgb"]) & front[:, None]).any()
        bright = (batch.x["rgb"].amax(1) + 0.5)[~front].view(-1)
        assert 0.8 * level < float(bright.max()) <= level + 1e-6
        assert 0.02 < share(bright > 1e-6) < 3 * 9 / 256


def test_a_kitchen_has_one_colour_of_its_ground_in_every_split() -> None:
    palettes = []
    for split in clips.SPLITS:
        batch = replace(CLEAR, kitchens=3).load(split)  # type: ignore[arg-type]
        corner = batch.x["rgb"][:, :, :, 0, 0].mT + 0.5
        grounds = [corner[batch.factors["kitchen"] == k].flatten(0, 1) for k in range(3)]
        assert all(torch.equal(ground, ground[:1].expand_as(ground)) for ground in grounds)
        palettes.append(torch.stack([ground[0] for ground in grounds]))
        assert torch.equal(palettes[-1], palettes[0]) and 0 < palettes[0].max() <= 0.3
    assert float(torch.pdist(palettes[0]).min()) > 0.01


def test_a_shortcut_colours_classes_in_training_and_validation_and_never_in_the_test() -> None:
    recipe = replace(CLEAR, shortcut=1.0, n_train=200, n_val=200)
    hues = torch.zeros(8, 3)
    for strength, split in product((1.0, 0.7), clips.SPLITS[:2]):
        batch = replace(recipe, shortcut=strength).load(split)
        seen, y = mean_over(batch.x["rgb"], places(batch)[0]), labels(batch)
        hues = hues if hues.any() else hues.index_copy(0, y, seen)  # the first decides
        same = (seen - hues[y]).abs().amax(1) < 1e-4
        assert share(same) == pytest.approx(strength, abs=(1 - strength) / 3)
    assert float(torch.pdist(hues).min()) > 0.5
    assert torch.equal(recipe.load("test").x["rgb"], CLEAR.load("test").x["rgb"])


def test_a_watermark_is_a_clips_own_and_the_same_in_all_its_frames() -> None:
    plain, batch = SMALL.load("train"), replace(SMALL, watermark=2.0).load("train")
    assert torch.equal(batch.x["flow"], plain.x["flow"])
    mark = batch.x["rgb"] - plain.x["rgb"]
    torch.testing.assert_close(mark, mark[:, :, :1].expand_as(mark))
    torch.testing.assert_close(mark.abs(), torch.ones_like(mark))
    assert float(mark[:, :, 0].flatten(1).corrcoef().fill_diagonal_(0).abs().max()) < 0.2


@pytest.mark.parametrize("name", LIMITS)
def test_ranges_are_what_they_say(name: str) -> None:
    low, high = LIMITS[name]
    whole = [2.5] if isinstance(getattr(SMALL, name), int) else []
    kind, made = "a whole number" if whole else "a number", partial(replace, SMALL)
    assert made(**{name: low}) != made(**{name: high})  # both are allowed
    for wrong in (low - 1, high + 1, True, "much", float("nan"), *whole):
        says = f"{name} must be {kind} from {low} to {high}, got {wrong!r}"
        with pytest.raises(ValueError, match=re.escape(says)):
            made(**{name: wrong})


def test_what_cannot_be_is_named() -> None:
    wrong: list[tuple[str, Any, str]] = [
        ("speed", 1, "can change pair, handle, direction and synergy, not speed"),
        ("pair", 4, r"pair must be one whole number from 0 to 3 or 48 of them, got \[4\] in shape"),
        ("handle", -1, r"handle must be one whole number from 0 to 1 or 48.*got \[-1\]"),
        ("direction", torch.tensor([0, 1]), r"direction must be.*in shape \(2,\)"),
        ("direction", torch.tensor(0.5), r"direction must be one whole number.*got \[0.5\]"),
    ]
    for name, value, says in wrong:
        with pytest.raises(ValueError, match=says):
            SMALL.look("train", ROWS, **{name: value})
    for make in (SMALL.load, lambda split: SMALL.look(split, ROWS)):
        with pytest.raises(ValueError, match="must be one of 'train', 'val', 'test'; got 'dev'"):
            make("dev")  # type: ignore[arg-type]
    for rho in (-0.1, 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"rho must lie between 0 and 1, got {rho}"):
            ceilings(rho)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_ceilings_are_those_of_an_exhaustive_search(rho: float) -> None:
    cells = list(product(range(2), range(2)))  # handle, direction
    closes = torch.tensor([(1 - rho) * d + rho * (h ^ d) for h, d in cells])  # probability

    def best(says: Tensor) -> float:
        """Accuracy of the best of some answers (N, cells), True = closes."""
        return float(torch.where(says, closes, 1 - closes).mean(1).max())

    logits = torch.cartesian_prod(*[torch.linspace(-1.5, 1.5, 7)] * 2)  # of 0 and of 1
    h, d = logits[:, [0, 0, 1, 1]], logits[:, [0, 1, 0, 1]] + 0.25  # no sum is 0
    found, anything = ceilings(rho), torch.tensor(list(product([False, True], repeat=4)))
    assert found["rgb"] == pytest.approx(best(h >= 0))
    assert found["late"] == pytest.approx(best((h[:, None] + d).flatten(0, 1) > 0))
    assert found["joint"] == pytest.approx(best(anything))
    assert found["flow"] == pytest.approx(best(d > 0) * ceilings(0.0)["flow"])
    assert (found["joint"] > found["late"]) == (rho > 0.5)


@pytest.mark.parametrize("rho", [0.0, 0.75, 1.0])
def test_ceilings_are_what_the_best_answer_to_many_clips_reaches(rho: float) -> None:
    told, y = many(rho).factors, labels(many(rho))
    pair, handle, direction = (told[name] for name in ("pair", "handle", "direction"))
    ahead = told["speed"][:, None] - SPEED - STEP * torch.arange(4)  # of the mean of each pair
    own, nearest = ahead.gather(1, pair[:, None]), ahead.abs().argmin(1)
    assert [float(own.std()), float(own.mean())] == pytest.approx([clips.HASTE, 0], abs=0.01)
    assert float(told["speed"].min()) == pytest.approx(clips.SLOWEST)  # nothing stands still
    answers = {"flow": 2 * nearest + direction, "rgb": 2 * pair + handle}
    answers["late"] = 2 * pair + (handle * (rho > 0.5) | direction)  # at most one cell is wrong
    answers["joint"] = 2 * pair + (handle * (rho > 0.5) ^ direction)
    for name, limit in ceilings(rho).items():
        assert share(answers[name] == y) == pytest.approx(limit, abs=0.025), name


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", [SMALL, BUSY])
def test_samples_made_on_a_gpu_are_those_made_here(recipe: Clips) -> None:
    here, there = recipe.load("train"), recipe.load("train", device="cuda")
    assert there.device.type == "cuda" and torch.equal(labels(there).cpu(), labels(here))
    for name in MODALITIES:  # rounding may put an edge on the other side of a pixel's middle
        assert share((there.x[name].cpu() - here.x[name]).abs() > 1e-4) < 1e-3
    assert recipe.look("test", ROWS.cuda(), handle=ROWS % 2).device.type == "cuda"
