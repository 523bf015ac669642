"""What cameras see of furnished rooms: colours under a light, exact depth, and the class of every pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labkit.data import raycast
from labkit.data.interiors import (
    BOXES,
    CANVAS,
    CEILING,
    FLOOR,
    HANGINGS,
    ROUND,
    WALL,
    WINDOW,
    Room,
)
from labkit.data.raycast import Solids, cosine_sine

SKY, GROUND, FRAME, SASH = (
    (0.55, 0.76, 0.97),
    (0.35, 0.48, 0.22),
    (0.24, 0.14, 0.08),
    (0.93, 0.93, 0.9),
)


class Seen(NamedTuple):
    """What cameras see of rooms: `colour` (B, 3, P), `depth` (B, P), `label` (B, P)."""

    colour: Tensor
    depth: Tensor
    label: Tensor


def paint(room: Room, height: int, width: int, similarity: Tensor) -> Seen:
    """Look into rooms.

    Args:
        room: B rooms.
        height: Rows.
        width: Columns.
        similarity: Share of the wall's colour in all other colours, 0..1. (B,).

    Returns:
        Colour under full light, exact depth and labels, of height x width pixels. What hangs in a style
        looks the same whatever its kind.
    """
    place, ray = room.camera.place, raycast.rays(height, width, room.camera)
    depth, face = raycast.room(place, ray, room.size)
    flat, curved = (
        Solids(*(part[:, rows] for part in room.solids))
        for rows in (slice(ROUND), slice(ROUND, None))
    )
    hits = torch.cat((raycast.boxes(place, ray, flat), raycast.cylinders(place, ray, curved)), 1)
    nearest, which = hits.min(1)
    solid = nearest < depth
    wall_point = place[..., None] + depth[:, None] * ray
    hanging, hung = _hanging(room, wall_point, face)
    kind = room.kind.gather(1, hanging)
    label = torch.tensor((WALL, WALL, FLOOR, CEILING, WALL), device=face.device)[face]
    label = torch.where(hung & (kind != CANVAS), kind, label)
    label = torch.where(solid, room.labels.gather(1, which), label)
    through = hung & (kind == WINDOW) & ~solid
    exact = torch.where(solid, nearest, depth)
    point = torch.where(solid[:, None], place[..., None] + nearest[:, None] * ray, wall_point)
    normal = _inward(face)
    normal = torch.where(solid[:, None], raycast.normals(point, room.solids, which, ROUND), normal)
    colour = _surface_colour(room, point, face)
    own = torch.stack([room.colours[..., c].gather(1, which) for c in range(3)], 1)
    colour = torch.where(solid[:, None], own, colour)
    canvas = solid & (which < HANGINGS)
    shown = torch.where(canvas, which.clamp(max=HANGINGS - 1), hanging)
    printed = canvas | (hung & (kind != CANVAS) & ~solid)
    colour = torch.where(printed[:, None], _print(room, shown, point), colour)
    wall = room.surfaces[:, 1, :, None]
    colour = colour + similarity[:, None, None] * (wall - colour)
    colour = colour * _shade(room, point, normal, solid, canvas)[:, None]
    return Seen(
        colour, torch.where(through, _beyond(room, face, hanging, place, ray), exact), label
    )


def _hanging(room: Room, point: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Which hanging's place a point on a wall lies in (B, P), and whether it lies in any (B, P)."""
    walls = torch.tensor((4, 4, 4, 0, 1), device=face.device)[:, None]
    back = walls == 4
    along = torch.where(back, point[:, :1], point[:, 2:])
    inside = (
        ((along - room.along[..., None]).abs() < room.half_along[..., None])
        & ((point[:, 1:2] - room.up[..., None]).abs() < room.half_up[..., None])
        & (face[:, None] == walls)
        & (room.kind != WALL)[..., None]
    )
    # Places do not overlap, so that at most one holds a point.
    number = torch.arange(HANGINGS, device=face.device)[:, None]
    return (inside * number).sum(1), inside.any(1)


def _beyond(room: Room, face: Tensor, hanging: Tensor, place: Tensor, ray: Tensor) -> Tensor:
    """Depth of what lies behind windows: a plane behind the wall, at most 9.5 m away."""
    more = room.beyond.gather(1, hanging)
    back = (room.size[:, 2:] + more) / ray[:, 2]
    sign = torch.where(face == 1, 1.0, -1.0)
    side = (sign * (room.size[:, :1] / 2 + more) - place[:, :1]) / ray[:, 0]
    return torch.where(face == 4, back, side).clamp(max=9.5)


def _inward(face: Tensor) -> Tensor:
    """Normals of the room's faces, (B, 3, P)."""
    table = torch.tensor(
        ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, -1)), device=face.device
    )
    return table.T[:, face].transpose(0, 1).float()


def _surface_colour(room: Room, point: Tensor, face: Tensor) -> Tensor:
    """Colour of floor boards, walls with a skirting, ceiling."""
    x, y, z = point.unbind(1)
    seam = room.seam[:, None]
    board = (x / 0.2 + seam).floor()
    plank = (z / 1.3 + _part(board * 0.755 + seam)).floor()
    tone = 0.8 + 0.4 * _part(board * 0.618 + plank * 0.377 + seam)
    which = torch.where(face == 2, 0, torch.where(face == 3, 2, 1))
    made = torch.stack([room.surfaces[..., c].gather(1, which) for c in range(3)], 1)
    factor = torch.where(face == 2, tone, 1.0)
    factor = torch.where((which == 1) & (y < 0.11), 0.55, factor)
    return made * factor[:, None]


def _print(room: Room, hanging: Tensor, point: Tensor) -> Tensor:
    """What is printed where on a hanging: a poster's shapes, a framed landscape, or a view through panes."""

    def of(values: Tensor) -> Tensor:
        return values.gather(1, hanging)

    back = hanging < 3
    along = torch.where(back, point[:, 0], point[:, 2])
    a = ((along - of(room.along)) / of(room.half_along)).clamp(-1, 1)
    b = ((point[:, 1] - of(room.up)) / of(room.half_up)).clamp(-1, 1)
    inks = room.prints.flatten(2)
    ink = [torch.stack([of(inks[..., 3 * k + c]) for c in range(3)], 1) for k in range(3)]
    phase = of(inks[..., 0])

    def constant(colour: tuple[float, float, float]) -> Tensor:
        return torch.tensor(colour, device=point.device)[:, None]

    disc = (a - 0.5 * phase).square() + (b - 0.2).square() < 0.22
    bars = (b < -0.4) & (_part(3 * b) < 0.55)
    poster = torch.where(disc[:, None], ink[1], torch.where(bars[:, None], ink[2], ink[0]))
    hills = 0.7 * (_part(0.8 * a + phase) - 0.5).abs() - 0.25
    sky = constant(SKY) * (0.75 + 0.25 * b[:, None])
    land = torch.where((b < hills)[:, None], 0.5 * ink[2] + 0.1, 0.6 * ink[1] + 0.4 * sky)
    edge = torch.maximum(a.abs(), b.abs())
    canvas = torch.where((edge > 0.78)[:, None], constant(FRAME), land)
    view = torch.where((b < hills - 0.25)[:, None], constant(GROUND), sky * 0.9 + 0.1)
    sash = (edge > 0.86) | (a.abs() < 0.07) | (b.abs() < 0.07)
    window = torch.where(sash[:, None], constant(SASH), view)
    style = of(room.style)[:, None]
    return torch.where(style == 0, poster, torch.where(style == 1, canvas, window))


def _shade(room: Room, point: Tensor, normal: Tensor, solid: Tensor, canvas: Tensor) -> Tensor:
    """How bright a surface is, about 0.4 to 1.5: a light under the ceiling, dim corners, shadows of boxes."""
    to = room.light[..., None] - point
    square = to.square().sum(1)
    facing = ((to * normal).sum(1) / square.sqrt()).clamp(min=0)
    bright = 0.6 + 1.1 * facing / (1 + square / 9) + 0.35 * (-normal[:, 1]).clamp(min=0)
    x, y, z = point.unbind(1)
    wide, high, deep = (room.size[:, axis, None] for axis in range(3))
    gaps = torch.stack((wide / 2 - x.abs(), y, high - y, deep - z), 1)
    second = gaps.sort(1).values[:, 1]  # the smallest is the distance from the own wall
    corner = 1 - 0.3 / (1 + (second / 0.15).square())
    boxes = slice(HANGINGS, HANGINGS + BOXES)
    cos, sin = cosine_sine(room.solids.turn[:, boxes, None])
    centre, half = room.solids.centre[:, boxes], room.solids.half[:, boxes]
    dx, dz = x[:, None] - centre[..., 0, None], z[:, None] - centre[..., 2, None]
    out = torch.maximum(
        (dx * cos - dz * sin).abs() - half[..., 0, None],
        (dx * sin + dz * cos).abs() - half[..., 2, None],
    )
    dark = (0.5 - 2.2 * out.clamp(min=0)).clamp(min=0).amax(1)
    bright = bright * torch.where((y < 0.01) & ~solid, 1 - dark, 1.0)
    return bright * torch.where(solid & ~canvas, 1.0, corner)


def _part(values: Tensor) -> Tensor:
    """The fractional part."""
    return values - values.floor()
