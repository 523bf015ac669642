"""Crops and flips of clips in which several modalities show the same scene, drawn once for all of them.

Two streams that exchange maps, pixel for pixel, have to look at the same place: `augmented` gives one box and
one flip to all clips of a sample. The authors of X-Norm draw both anew for each stream, so that in training
nothing lies where the other stream has it; `joint=False` does as they do, to show the difference.

In a mirror, what moved to the right moves to the left: a flip turns the sign of horizontal motion too. The
authors' code leaves it as it was, so that what is seen to go one way is said to go the other;
`negate=False` does as they do. Flips are for labels that a mirror does not change: `flips=0` where left and
right mean something.

Source:
    Yin, Xu, Zu & Soleymani, "X-Norm: Exchanging Normalization Parameters for Bimodal Fusion", ICMI 2022;
    data.py of their code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch

MOTIONS = ("flow", "motion")  # modalities whose first channel is motion to the right


class Box(NamedTuple):
    """Where each sample is cropped.

    Args:
        top: First row, int64, shape (B,); may lie outside of the picture.
        left: First column, as `top`.
        height: Rows, the same in all samples.
        width: Columns.
    """

    top: Tensor
    left: Tensor
    height: int
    width: int


def boxes(
    n: int, size: tuple[int, int], to: tuple[int, int], generator: torch.Generator, padding: int = 0
) -> Box:
    """Draw a box for each of n samples, all places equally likely.

    Args:
        n: Samples.
        size: Rows and columns of the pictures.
        to: Rows and columns of a box.
        generator: Draws rows, then columns; they lie on its device.
        padding: Pixels that a box may reach beyond each edge.

    Raises:
        ValueError: if a number is out of range, or a box is larger than picture and padding.
    """
    _check_sizes(size, to, padding)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    top, left = (
        torch.randint(-padding, whole - part + padding + 1, (n,), generator=generator,
                      device=generator.device)
        for whole, part in zip(size, to, strict=True)
    )  # fmt: skip
    return Box(top, left, *to)


def centre(n: int, size: tuple[int, int], to: tuple[int, int]) -> Box:
    """The box in the middle, for evaluation; of two middles the upper left one.

    Raises:
        ValueError: if a number is out of range, or the box is larger than the picture.
    """
    _check_sizes(size, to, 0)
    top, left = ((whole - part) // 2 for whole, part in zip(size, to, strict=True))
    return Box(torch.full((n,), top), torch.full((n,), left), *to)


def crop(clip: Tensor, box: Box) -> Tensor:
    """Cut each sample's box out of all of its frames; what lies outside repeats the picture's edge.

    Args:
        clip: Shape (B, C, T, H, W), of any type.
        box: Of these samples, on any device.

    Returns:
        Shape (B, C, T, box.height, box.width).

    Raises:
        ValueError: if the clip has another shape, or the box another number of samples.
    """
    _check_clip("clip", clip)
    if box.top.shape != (len(clip),) or box.left.shape != (len(clip),):
        raise ValueError(
            f"box must have a place for each of the {len(clip)} samples, got top of shape "
            f"{tuple(box.top.shape)} and left of {tuple(box.left.shape)}"
        )
    clip, top = _edged(clip, 3, box.top.to(clip.device), box.height)
    clip, left = _edged(clip, 4, box.left.to(clip.device), box.width)
    parts = clip.unfold(3, box.height, 1).unfold(4, box.width, 1)  # all of them: a view, not a copy
    return parts[torch.arange(len(clip), device=clip.device), :, :, top, left]


def _edged(clip: Tensor, axis: int, first: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Clips whose edges are repeated as far as boxes reach, and where the boxes begin in them."""
    size = clip.shape[axis]
    before, after = max(-int(first.min()), 0), max(int(first.max()) + count - size, 0)
    if before or after:
        place = torch.arange(-before, size + after, device=clip.device).clamp(0, size - 1)
        clip = clip.index_select(axis, place)
    return clip, first + before


def flip(clip: Tensor, which: Tensor, negate_u: bool = False) -> Tensor:
    """Mirror some samples, left to right.

    Args:
        clip: Shape (B, C, T, H, W).
        which: True = mirrored; bool, shape (B,), on any device.
        negate_u: Whether channel 0 is motion to the right, whose sign turns.

    Raises:
        ValueError: if a shape or type is another.
    """
    _check_clip("clip", clip)
    if which.dtype != torch.bool or which.shape != (len(clip),):
        raise ValueError(
            f"which must be bool of shape ({len(clip)},), got {which.dtype} of {tuple(which.shape)}"
        )
    mirrored = clip.flip(-1)
    if negate_u:
        mirrored[:, 0] = -mirrored[:, 0]  # a flip is a copy
    return torch.where(which.to(clip.device).view(-1, 1, 1, 1, 1), mirrored, clip)


def augmented(
    batch: Batch,
    to: tuple[int, int],
    generator: torch.Generator,
    joint: bool = True,
    padding: int = 0,
    flips: float = 0.5,
    negate: bool = True,
) -> Batch:
    """Crop all clips of a batch at random, and mirror some samples; horizontal motion turns its sign then.

    Args:
        batch: All of its modalities are clips (B, C, T, H, W) with the same H and W. In those of `MOTIONS`
            channel 0 is motion to the right, 0 = none.
        to: Rows and columns of the result.
        generator: Draws boxes and flips.
        joint: Whether one box and one flip serve all modalities of a sample. Otherwise each modality has its
            own, in the order of the batch.
        padding: Pixels that a box may reach beyond each edge, which is repeated there.
        flips: Chance of a sample to be mirrored; 0 where a mirror changes the label.
        negate: Whether a mirror turns the sign of horizontal motion; the released code does not. What is
            drawn does not depend on it.

    Returns:
        The batch with other clips; labels, factors and what is observed stay.

    Raises:
        ValueError: if clips have other shapes, or a number is out of range.
    """
    if not 0 <= flips <= 1:
        raise ValueError(f"flips must lie in 0..1, got {flips!r}")
    for name, clip in batch.x.items():
        _check_clip(f"x[{name!r}]", clip)
    sizes = {name: (clip.shape[-2], clip.shape[-1]) for name, clip in batch.x.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"clips must have the same rows and columns, got {sizes}")
    size = next(iter(sizes.values()))

    def draw() -> tuple[Box, Tensor]:
        box = boxes(len(batch), size, to, generator, padding)
        return box, torch.rand(len(batch), generator=generator, device=generator.device) < flips

    shared = draw() if joint else None
    x = {}
    for name, clip in batch.x.items():
        box, which = shared or draw()
        x[name] = flip(crop(clip, box), which, negate_u=negate and name in MOTIONS)
    return replace(batch, x=x)


def _check_clip(argument: str, clip: Tensor) -> None:
    if clip.ndim != 5:
        raise ValueError(f"{argument} must have shape (B, C, T, H, W), got {tuple(clip.shape)}")


def _check_sizes(size: tuple[int, int], to: tuple[int, int], padding: int) -> None:
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    if min(to) < 1 or any(part > whole + 2 * padding for whole, part in zip(size, to, strict=True)):
        raise ValueError(
            f"to must lie between 1 and the picture's {size[0]} x {size[1]} pixels with a padding of "
            f"{padding} on each side, got {to[0]} x {to[1]}"
        )
