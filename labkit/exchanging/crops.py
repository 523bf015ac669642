"""What shifts and mirror images of training make of clips: where each stream looks, and whether labels hold.

One crop serves both streams, or each has its own (`labkit.data.augment`). A mirror turns the side of the
handle and the direction of the motion; the rule of `labkit.data.clips` then says which verb is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.augment import augmented
from labkit.data.clips import MODALITIES, Clips
from labkit.exchanging.plan import Augmented, Setting

PADDING = Augmented.padding  # pixels by which a clip is shifted at most, as in training
FLIPS = 0.5  # share of mirror images, where there are any


class Place(NamedTuple):
    """Where clips of one modality were cut out.

    Attributes:
        right: Pixels by which the box lies to the right of the clip's middle, (B,).
        down: Pixels by which it lies below it, (B,).
        mirrored: Whether the clip is a mirror image, bool, (B,).
    """

    right: Tensor
    down: Tensor
    mirrored: Tensor


def recipe(setting: Setting, seed: int) -> Clips:
    """Recipe of the clips of one seed.

    Raises:
        ValueError: if the data are no procedural clips.
    """
    if not isinstance(setting.data, Clips):
        raise ValueError(f"setting must be of procedural clips, got {type(setting.data).__name__}")
    made: Clips = setting.recipe(seed)
    return made


@lru_cache(maxsize=128)
def clip(setting: Setting, seed: int, row: int) -> Batch:
    """One clip of the training split, without noise, so that edges are seen."""
    return replace(recipe(setting, seed), noise=0.0).look("train", torch.tensor([row]))


def shifted(batch: Batch, draw: int, joint: bool, flips: float, negate: bool = True) -> Batch:
    """The clips as `labkit.exchanging.plan.AugmentedNet` trains on them; a draw is a seed.

    Args:
        batch: Clips.
        draw: The seed.
        joint: One crop for both streams, or one each.
        flips: Share of mirror images.
        negate: Whether u turns its sign in a mirror; the released code keeps it.
    """
    height, width = next(iter(batch.x.values())).shape[-2:]
    generator = torch.Generator().manual_seed(draw)
    return augmented(batch, (height, width), generator, joint, PADDING, flips, negate)


def places(
    modalities: Sequence[str], n: int, size: int, draw: int, joint: bool, flips: float
) -> dict[str, Place]:
    """Where `shifted` cuts n clips of size x size: modality -> place.

    It is read off rulers, clips of coordinates that get the same draws.
    """
    line = torch.arange(size, dtype=torch.float32)
    row, column = line[:, None].expand(size, size), line.expand(size, size)
    ruler = torch.stack((torch.zeros_like(row), column, row))[:, None]  # a mirror turns channel 0
    batch = Batch(dict.fromkeys(modalities, ruler.expand(n, *ruler.shape)))
    found, middle = {}, size // 2
    for name, seen in shifted(batch, draw, joint, flips).x.items():
        columns, rows = seen[:, 1, 0, middle], seen[:, 2, 0, :, middle]
        mirrored = columns[:, 0] > columns[:, -1]
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        found[name] = Place(columns[:, middle] - middle, rows[:, middle] - middle, mirrored)
    return found


def apart(found: Mapping[str, Place]) -> Tensor:
    """Pixels between the boxes of two streams, (B,)."""
    one, other = found.values()
    return torch.hypot(one.right - other.right, one.down - other.down)


def seen(factors: Mapping[str, Tensor], found: Mapping[str, Place]) -> Tensor:
    """Label (B,) of what clips show after their mirrors: rgb has the handle, flow the direction."""
    handle = factors["handle"] ^ found["rgb"].mirrored.long()
    direction = factors["direction"] ^ found["flow"].mirrored.long()
    return 2 * factors["pair"] + (direction ^ (handle * factors["synergy"].long()))


def by_u(found: Mapping[str, Place], negate: bool) -> dict[str, Place]:
    """Places as u tells of them: a flow whose u keeps its sign goes where it went, mirror or not."""
    flow = found["flow"]
    return {**found, "flow": flow._replace(mirrored=flow.mirrored & negate)}


@lru_cache(maxsize=16)
def wrong(setting: Setting, seed: int, joint: bool, negate: bool = True) -> float:
    """Share of the training clips that show another verb than their label says, if half are mirrored.

    The direction is what u says: without `negate` a mirror does not turn it.
    """
    (factors, y), found = _train(setting, seed), _trained(setting, seed, joint)
    return float((seen(factors, by_u(found, negate)) != y).double().mean())


def at_odds(setting: Setting, seed: int, joint: bool) -> float:
    """Share of them whose patch goes the other way than u says, if u keeps its sign in a mirror."""
    return float(_trained(setting, seed, joint)["flow"].mirrored.double().mean())


@lru_cache(maxsize=4)
def _train(setting: Setting, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Factors and labels of the training clips; the clips are not kept."""
    batch = recipe(setting, seed).load("train")
    assert batch.y is not None
    return batch.factors, batch.y


@lru_cache(maxsize=8)
def _trained(setting: Setting, seed: int, joint: bool) -> dict[str, Place]:
    """Where each training clip is cut, if half are mirrored."""
    data, (_, y) = recipe(setting, seed), _train(setting, seed)
    return places(MODALITIES, len(y), data.size, seed, joint, FLIPS)
