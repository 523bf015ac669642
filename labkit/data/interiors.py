"""Furnished rooms: what stands and hangs where, of which class and colour it is.

Metres, as in `labkit.data.raycast`; colours are red, green and blue in 0..1. What cameras see of a room:
`labkit.data.painting`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labkit.data.draws import Draws
from labkit.data.raycast import Camera, Solids, cosine_sine

CLASSES = (
    "floor", "wall", "ceiling", "window", "poster", "canvas", "red_box", "blue_box", "lead_lamp", "lamp",
)  # fmt: skip
(FLOOR, WALL, CEILING, WINDOW, POSTER, CANVAS, RED_BOX, BLUE_BOX, LEAD_LAMP, LAMP) = range(10)
VOID = -1  # things without a class: cords and clutter
HANGINGS = 5  # three on the back wall, one on each side wall
KINDS = (POSTER, CANVAS, WINDOW)  # of hangings, in the order of their own styles
BOXES = 3
LAMPS = 2
# Solids: the canvases, the boxes, a clutter box, the lamps' cords; then the lamps and a clutter bin.
CORDS = HANGINGS + BOXES + 1
ROUND = CORDS + LAMPS  # the first cylinder
WARM = 0.6  # share of the pairs of lamps

RED, BLUE = (0.78, 0.14, 0.12), (0.13, 0.25, 0.75)
ORANGE, TEAL = (0.95, 0.62, 0.12), (0.15, 0.72, 0.58)
CLUTTER = (0.30, 0.30, 0.28)


class Room(NamedTuple):
    """B rooms.

    `size` (B, 3): width, height, depth. `labels` (B, K): the solids' classes. Hangings: `kind` (B, 5), a
    class, or `WALL` where nothing hangs; `along` and `up`, the middle, along the wall (x on the back wall, z
    on the side walls) and above the floor; `half_along` and `half_up`; `beyond`, how far behind the wall a
    window shows something; `style`, 0 to 2, what it looks like. Colours: `colours` (B, K, 3) of the solids,
    `prints` (B, 5, 3, 3), three a hanging, `surfaces` (B, 3, 3) of floor, walls and ceiling. `light` (B, 3):
    where the light hangs. `seam` (B,): where floor boards begin.
    """

    camera: Camera
    size: Tensor
    solids: Solids
    labels: Tensor
    kind: Tensor
    along: Tensor
    up: Tensor
    half_along: Tensor
    half_up: Tensor
    beyond: Tensor
    style: Tensor
    colours: Tensor
    prints: Tensor
    surfaces: Tensor
    light: Tensor
    seam: Tensor


def furnish(draws: Draws, ambiguous: Tensor) -> Room:
    """Draw rooms.

    Args:
        draws: Of B samples.
        ambiguous: (B,) bool. Elsewhere each kind of hanging has a style of its own, and both lamps of a pair
            have one size, so that colours tell everything. Here styles are drawn, and the lamps are as
            large in the picture as each other.

    Returns:
        The rooms, on the device of `draws`.
    """
    u = draws.uniform("room", 12)

    def between(column: int, low: float, high: float) -> Tensor:
        return low + (high - low) * u[:, column]

    size = torch.stack((between(0, 3.2, 4.4), between(1, 2.4, 2.8), between(2, 4.2, 5.6)), 1)
    camera = Camera(
        between(3, -0.4, 0.4),
        between(4, 1.3, 1.65),
        between(5, 0.02, 0.07),
        between(6, -0.08, 0.08),
    )
    light = torch.stack(
        (between(7, -0.3, 0.3) * size[:, 0], size[:, 1] - 0.25, between(8, 0.25, 0.6) * size[:, 2]),
        1,
    )
    kind, along, up, half_along, half_up, thick, beyond = _hangings(draws, size)
    own = torch.where(kind == WINDOW, 2, torch.where(kind == CANVAS, 1, 0))
    style = torch.where(ambiguous[:, None], (3 * draws.uniform("style", HANGINGS)).long(), own)
    canvases = _canvases(kind, along, up, half_along, half_up, thick, size)
    boxes, box_labels = _boxes(draws, size)
    lamps, cords, lamp_labels, warm = _lamps(draws, size, camera, ambiguous)
    clutter, bin_ = _clutter(draws, size)
    solids = Solids(
        *(
            torch.cat(parts, 1)
            for parts in zip(canvases, boxes, clutter, cords, lamps, bin_, strict=True)
        )
    )
    void = torch.full_like(lamp_labels, VOID)
    canvas = torch.full_like(kind, CANVAS)
    labels = torch.cat((canvas, box_labels, void[:, :1], void, lamp_labels, void[:, :1]), 1)
    colours = _colours(draws, labels, warm)
    prints = draws.uniform("prints", HANGINGS, 3, 3, low=0.05, high=0.95)
    return Room(
        camera, size, solids, labels, kind, along, up, half_along, half_up, beyond, style,
        colours, prints, _surfaces(draws), light, u[:, 9],
    )  # fmt: skip


def _hangings(draws: Draws, size: Tensor) -> tuple[Tensor, ...]:
    """Kinds, places and extents of what hangs on the walls, each (B, 5)."""
    u = draws.uniform("hangings", 8, HANGINGS)
    kinds = torch.tensor((WALL, *KINDS), device=u.device)  # nothing, or one of three
    kind = kinds[torch.where(u[:, 0] < 0.2, 0, 1 + (3 * u[:, 7]).long())]
    third = size[:, :1] / 3
    half_along = torch.cat((0.28 + (third / 2 - 0.36) * u[:, 1, :3], 0.3 + 0.2 * u[:, 1, 3:]), 1)
    room = third / 2 - 0.04 - half_along[:, :3]  # to move in, inside its third of the back wall
    back = third * torch.tensor((-1, 0, 1), device=u.device) + room * (2 * u[:, 2, :3] - 1)
    side = size[:, 2:] - 0.1 - half_along[:, 3:] - 0.4 * u[:, 2, 3:]
    up = 1.4 + 0.35 * u[:, 3]
    return (
        kind, torch.cat((back, side), 1), up, half_along, 0.32 + 0.16 * u[:, 4],
        0.12 + 0.12 * u[:, 5], 0.7 + 1.8 * u[:, 6],
    )  # fmt: skip


def _canvases(
    kind: Tensor, along: Tensor, up: Tensor, half_along: Tensor, half_up: Tensor, thick: Tensor,
    size: Tensor,
) -> Solids:  # fmt: skip
    """A thin box before the wall for each hanging that is a canvas."""
    wall = torch.stack((size[:, 2], size[:, 2], size[:, 2], size[:, 0] / 2, size[:, 0] / 2), 1)
    sign = torch.tensor((1, 1, 1, -1, 1), device=kind.device)
    back = torch.tensor((True, True, True, False, False), device=kind.device)
    before = sign * (wall - thick / 2)
    centre = torch.stack(
        (torch.where(back, along, before), up, torch.where(back, before, along)), 2
    )
    half = torch.stack(
        (
            torch.where(back, half_along, thick / 2),
            half_up,
            torch.where(back, thick / 2, half_along),
        ),
        2,
    )
    half = torch.where((kind == CANVAS)[..., None], half, -1.0)
    return Solids(centre, half, torch.zeros_like(along))


def _boxes(draws: Draws, size: Tensor) -> tuple[Solids, Tensor]:
    """Boxes on the floor, each in its third of the width, red or blue by a coin."""
    u = draws.uniform("boxes", 8, BOXES)
    third = size[:, :1] / 3
    x = third * (torch.tensor((-1, 0, 1), device=u.device) + 0.24 * (u[:, 0] - 0.5))
    z = 2.1 + (size[:, 2:] - 2.85) * u[:, 1]
    half = torch.stack((0.2 + 0.16 * u[:, 2], 0.18 + 0.24 * u[:, 3], 0.2 + 0.16 * u[:, 4]), 2)
    centre = torch.stack((x, half[..., 1], z), 2)
    half = torch.where((u[:, 5] < 0.9)[..., None], half, -1.0)
    return Solids(centre, half, 0.8 * u[:, 6] - 0.4), torch.where(u[:, 7] < 0.5, RED_BOX, BLUE_BOX)


def _lamps(
    draws: Draws, size: Tensor, camera: Camera, ambiguous: Tensor
) -> tuple[Solids, Solids, Tensor, Tensor]:
    """A pair of drums on cords, of one colour: lamps, cords, labels (B, 2), and whether warm (B,).

    The warm lamp that is nearer than its neighbour leads; no other does.
    """
    u = draws.uniform("lamps", 13)
    swap = u[:, :1] < 0.5  # which of them, the left or the right one, is nearer
    near, gap = 1.7 + 0.7 * u[:, 1:2], 0.55 + 0.65 * u[:, 2:3]
    first = torch.tensor((True, False), device=u.device) ^ swap
    z = torch.where(first, near, near + gap)
    apart = 0.12 + 0.05 * u[:, 3:4]
    across = 0.6 * u[:, 4:5] - 0.3 + apart * torch.tensor((-1, 1), device=u.device)
    cos, sin = (part[:, None] for part in cosine_sine(camera.right))
    x = camera.x[:, None] + z * (across * cos + sin) / (cos - across * sin)
    x = torch.minimum(x.abs(), size[:, :1] / 2 - 0.35) * x.sign()
    # One size in metres; or one size in the picture.
    hide = ambiguous[:, None]
    scale = torch.where(hide, z / (near + gap / 2) * (0.95 + 0.1 * u[:, 5:7]), 1.0)
    radius = (0.16 + 0.06 * u[:, 7:8]) * scale
    half_up = radius * (0.75 + 0.5 * u[:, 8:9])
    rise = 0.14 + 0.16 * u[:, 9:10] - 2 * camera.down[:, None]
    rise = rise + torch.where(hide, 0.06 * (u[:, 10:12] - 0.5), 0.0)
    depth = torch.where(hide, z, near + gap / 2)
    y = torch.minimum(camera.y[:, None] + depth * rise, size[:, 1:2] - 0.08 - half_up)
    here = (u[:, 12:] < 0.92)[..., None]
    lamp = torch.where(here, torch.stack((radius, half_up, radius), 2), -1.0)
    cord_half = (size[:, 1:2] - y - half_up) / 2
    thin = torch.full_like(x, 0.011)
    cord = torch.where(here, torch.stack((thin, cord_half, thin), 2), -1.0)
    flat = torch.zeros_like(x)
    warm = draws.uniform("warm") < WARM
    labels = torch.where(first & warm[:, None], LEAD_LAMP, LAMP)
    return (
        Solids(torch.stack((x, y, z), 2), lamp, flat),
        Solids(torch.stack((x, size[:, 1:2] - cord_half, z), 2), cord, flat),
        labels,
        warm,
    )


def _clutter(draws: Draws, size: Tensor) -> tuple[Solids, Solids]:
    """A grey box in one back corner and a bin in the other, which have no class."""
    u = draws.uniform("clutter", 2, 5)
    side = torch.where(draws.uniform("side") < 0.5, 1.0, -1.0)
    half = 0.12 + 0.12 * u[:, :, :2]
    wide, tall = half[..., 0], half[..., 1] + 0.05
    x = torch.stack((side, -side), 1) * (size[:, :1] / 2 - wide - 0.15)
    z = size[:, 2:] - wide - 0.15
    extent = torch.stack((wide, tall, wide), 2)
    extent = torch.where((u[:, :, 2] < 0.6)[..., None], extent, -1.0)
    whole = Solids(torch.stack((x, tall, z), 2), extent, 0.3 * u[:, :, 3])
    return Solids(*(part[:, :1] for part in whole)), Solids(*(part[:, 1:] for part in whole))


def _colours(draws: Draws, labels: Tensor, warm: Tensor) -> Tensor:
    """Colours of the solids (B, K, 3), each a little brighter or darker than its group."""

    def of(colour: tuple[float, float, float]) -> Tensor:
        return torch.tensor(colour, device=labels.device)

    lamp = torch.where(warm[:, None, None], of(ORANGE), of(TEAL))
    plain = labels[..., None]
    made = torch.where(
        plain == RED_BOX, of(RED), torch.where(plain == BLUE_BOX, of(BLUE), of(CLUTTER))
    )
    made = torch.where(plain >= LEAD_LAMP, lamp, made)
    shape = (labels.shape[1], 3)
    vary = draws.uniform("vary", shape[0], 1, low=0.75, high=1.15)
    return (made * vary + draws.uniform("tint", *shape, low=-0.06, high=0.06)).clamp(0.02, 1)


def _surfaces(draws: Draws) -> Tensor:
    """Colours of floor, walls and ceiling (B, 3, 3)."""
    u = draws.uniform("surfaces", 3, 4)
    tint = u[..., 1:] - 0.5
    wood = torch.tensor((0.10, 0.0, -0.09), device=u.device)
    floor = 0.28 + 0.17 * u[:, 0, :1] + wood + 0.08 * tint[:, 0]
    wall = 0.52 + 0.2 * u[:, 1, :1] + 0.22 * tint[:, 1]
    return torch.stack((floor, wall, 0.8 + 0.1 * u[:, 2, :1] + 0.04 * tint[:, 2]), 1)
