"""Actions as two streams: a depth picture says what is where, optical flow how it moves.

`Actions.clips` has both as clips of 12 frames, depth as it is and the flow between its frames, which
`optical_flow` computes; real ones are UTD-MHAD's. The second pair of streams of the same actions,
accelerometer and gyroscope, are sequences: `Actions.load(...).only("accelerometer", "gyroscope")`.

Flow is made from depth alone: it tells nothing that depth does not, in another form. What comes nearer, and
so gets brighter, is taken for something that grows. To a linear model flow is worth less than depth, and
beside it nothing. `labkit.metrics.linear_probe` on all pixels of all frames, people unseen in training:

    =============  ==========  ==============  ========
    held-out, %    procedural  of three seeds  UTD-MHAD
    =============  ==========  ==============  ========
    depth                59.8  58.3 to 62.0        62.6
    motion               44.0  42.2 to 45.4        59.8
    both                 58.4  55.8 to 60.3        60.0
    chance                8.3                       3.7
    =============  ==========  ==============  ========

UTD-MHAD: trained on subjects 3, 5 and 7 (held_out=1), tested on 2, 4, 6 and 8. Pictures averaged to 10 x 10
before: depth 66.5, motion 59.5, both 61.9 %. With subject 1 in training: 67.7, 63.3, 64.2 %.

Source:
    Lucas & Kanade, "An iterative image registration technique with an application to stereo vision", IJCAI
    1981; differs: one step on one scale, and regularised (`STILL`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import actions, bodies
from labkit.data.actions import Actions

MODALITIES = ("depth", "motion")
FRAMES = actions.LENGTHS["depth"]  # of a clip
SMOOTH = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
SLOPE = (1 / 12, -8 / 12, 0.0, 8 / 12, -1 / 12)  # the derivative in the middle of five
STILL = 1e-4  # squared brightness a pixel; where slopes are smaller, nothing is taken to move
CHUNK = 32  # clips at a time: what keeps the products in the cache


def optical_flow(frames: Tensor, still: float = STILL) -> Tensor:
    r"""Estimate how each pixel moves from frame to frame, by least squares over its neighbours.

    .. math:: \Big(\sum w\, g g^\top + \epsilon I\Big)\, d = -\sum w\, g\, \partial_t I

    with the slope g of the mean of two frames, and their difference; frames and sums are smoothed by
    `SMOOTH`. Pictures go on beyond their edges as they end. Good to 0.02 pixels for movements of up to half a
    pixel of waves 12 pixels long (with `still` = 1e-6); those over some two pixels come out too small.

    Args:
        frames: Brightness, shape (B, T, H, W), floating point, T >= 2.
        still: Epsilon, above 0. The larger, the less moves where the picture is nearly even. Where it is
            quite even, or stays as it is, motion is 0 with any.

    Returns:
        Pixels a frame to the right and downwards, shape (B, 2, T, H, W): at frame t from t to t + 1, the last
        one as the one before.

    Raises:
        ValueError: if the shape or type is another, or `still` is not above 0.
    """
    if frames.ndim != 4 or frames.shape[1] < 2 or not frames.is_floating_point():
        raise ValueError(
            f"frames must be floating point of shape (B, T, H, W) with T >= 2, got {frames.dtype} of "
            f"{tuple(frames.shape)}"
        )
    if not still > 0:
        raise ValueError(f"still must be above 0, got {still!r}")
    parts = [_flow(part, still) for part in frames.split(CHUNK)]
    return torch.cat(parts)


def _flow(frames: Tensor, still: float) -> Tensor:
    across, down = (_neighbours(SMOOTH, frames, axis) for axis in (-1, -2))
    smooth = down @ frames @ across.mT
    middle, change = (smooth[:, 1:] + smooth[:, :-1]) / 2, smooth[:, 1:] - smooth[:, :-1]
    right = middle @ _neighbours(SLOPE, frames, -1).mT
    below = _neighbours(SLOPE, frames, -2) @ middle
    pairs = ((right, right), (right, below), (below, below), (right, change), (below, change))
    xx, xy, yy, xt, yt = (down @ (one * two) @ across.mT for one, two in pairs)
    xx, yy = xx + still, yy + still
    u, v = xy * yt - yy * xt, xy * xt - xx * yt
    moved = torch.stack((u, v), 1) / (xx * yy - xy * xy)[:, None]
    return torch.cat((moved, moved[:, :, -1:]), 2)


def _neighbours(weights: tuple[float, ...], frames: Tensor, axis: int) -> Tensor:
    """The matrix that weights each pixel's neighbours along an axis; the edge is repeated beyond it."""
    n = frames.shape[axis]
    at = torch.arange(n, device=frames.device)
    made = frames.new_zeros(n, n)
    for k, weight in enumerate(weights):
        made[at, (at + k - len(weights) // 2).clamp(0, n - 1)] += weight
    return made


# Actions -------------------------------------------------------------------------------------------


def clips(recipe: Actions, split: actions.Split, device: torch.device | str | None = None) -> Batch:
    """Make or read one split as two streams (`Actions.clips` is the way to it).

    Args:
        recipe: Which actions; its `steps` changes nothing.
        split: "train", "val" or "test".
        device: Where the tensors shall be; None = CPU. Procedural samples are made there.

    Returns:
        depth (B, 1, 12, H, W), not standardised: 0 = background, up to 1, near = bright; procedural ones have
        noise beside. H = W = 40, procedural 10. motion (B, 2, 12, H, W): to the right and downwards, 0 =
        none, in units of the training samples' root mean square (procedural: the first 512), clipped at +-8;
        the last frame has the motion of the one before. Labels and factors as `Actions.load` has them.

    Raises:
        ValueError: on an unknown split, or "val" with source="real" and held_out=None.
        LabkitError: if a file of the real data is missing or damaged.
    """
    actions._one_of("split", split, actions.SPLITS)
    place = torch.device("cpu" if device is None else device)
    if recipe.source == "real":
        from labkit.data import utd_mhad  # reads files; procedural samples never need it

        whole = utd_mhad.load()
        known, rows = actions.rows_of(whole.factors["subject"], recipe, split)
        batch, unit = whole[rows], _unit(optical_flow(whole.x["depth"][known]))
        depth = batch.x["depth"]
    else:
        n = {"train": recipe.n_train, "val": recipe.n_val, "test": recipe.n_test}[split]
        batch = actions._samples(replace(recipe, steps=FRAMES), split, n, place)
        depth = _pictures(batch)
        some = replace(recipe, steps=FRAMES, n_train=actions.REFERENCE, n_val=1, n_test=1)
        unit = _reference(some, place)
    motion = (optical_flow(depth) / unit).clamp(-actions.LIMIT, actions.LIMIT)
    x = {"depth": depth[:, None], "motion": motion}
    return Batch(x, y=batch.y, factors=batch.factors).to(place)


@lru_cache(maxsize=16)
def _reference(recipe: Actions, device: torch.device) -> Tensor:
    """The unit of motion of the first training samples, so that no sample depends on how many there are."""
    some = actions._samples(recipe, "train", recipe.n_train, device)
    return _unit(optical_flow(_pictures(some)))


def _pictures(batch: Batch) -> Tensor:
    return batch.x["depth"].unflatten(-1, (bodies.PIXELS, bodies.PIXELS))


def _unit(motion: Tensor) -> Tensor:
    """Root mean square: one number for both directions, and no mean taken off: what is still stays 0."""
    return motion.double().square().mean().sqrt().to(motion.dtype)
