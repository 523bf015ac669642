"""Rays, and what they hit first: a room seen from inside, boxes and upright cylinders in it.

Axes: x to the right, y up from the floor, z ahead from the camera; metres. A ray advances one metre of depth
a unit, depth being what a depth camera gives: the distance along its line of sight, not along the ray. All
here works on many scenes at once, B, with K solids and P pixels, and uses nothing but sums, products,
quotients and roots, which are rounded alike wherever a number stands in a tensor: a scene is the same, bit
for bit, whatever is rendered beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD = 0.6  # tangent of half the horizontal angle of view: 62 degrees
FACES = ("left", "right", "floor", "ceiling", "back")  # of a room, as `room` numbers them
TINY = 1e-9  # no ray is quite parallel to a wall


class Camera(NamedTuple):
    """Where the cameras stand and look; each (B,). They stand at z = 0.

    `x` and `y` are metres; `down` and `right`, by which the line of sight is turned, are given as the tangent
    of half the angle, from which sine and cosine come without a transcendental function.
    """

    x: Tensor
    y: Tensor
    down: Tensor
    right: Tensor

    @property
    def place(self) -> Tensor:
        """(B, 3)."""
        return torch.stack((self.x, self.y, torch.zeros_like(self.x)), 1)


class Solids(NamedTuple):
    """Boxes or upright cylinders, turned about their upright axis.

    `centre` (B, K, 3); `half` (B, K, 3), half of the extents: a cylinder's first and third are its radius;
    negative = there is none; `turn` (B, K), tangent of half the angle.
    """

    centre: Tensor
    half: Tensor
    turn: Tensor


def cosine_sine(half_tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of an angle, from the tangent of half of it."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def rays(height: int, width: int, camera: Camera) -> Tensor:
    """Directions of the rays through the middles of all pixels.

    Args:
        height: H, rows.
        width: W, columns; pixels are square.
        camera: Of B scenes.

    Returns:
        (B, 3, H W), of depth 1 each.
    """
    device = camera.x.device
    column = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    row = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    across = (column * SPREAD).expand(height, width).reshape(-1)
    below = (row * (SPREAD * height / width))[:, None].expand(height, width).reshape(-1)
    (cp, sp), (cy, sy) = (cosine_sine(turn[:, None]) for turn in (camera.down, camera.right))
    ahead = cp - below * sp
    made = torch.stack((across * cy + ahead * sy, -(below * cp + sp), ahead * cy - across * sy), 1)
    return torch.where(made.abs() < TINY, TINY, made)


def room(place: Tensor, ray: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays leave a room: x from -W / 2 to W / 2, y from 0 to H, z up to D.

    Args:
        place: Of the cameras, inside the room. (B, 3).
        ray: (B, 3, P).
        size: W, H, D. (B, 3).

    Returns:
        Depth (B, P), and which of `FACES` it is (B, P).
    """
    wide, high, deep = (size[:, axis, None] for axis in range(3))
    back = torch.where(ray[:, 2] < 0, torch.inf, deep / ray[:, 2])
    side = torch.where(ray[:, 0] < 0, -wide / 2, wide / 2)
    flat = torch.where(ray[:, 1] < 0, 0.0, high)
    hits = torch.stack(
        ((side - place[:, :1]) / ray[:, 0], (flat - place[:, 1:2]) / ray[:, 1], back), 1
    )
    depth, axis = hits.min(1)
    positive = (ray > 0).gather(1, axis[:, None])[:, 0]
    return depth, torch.where(axis == 2, 4, 2 * axis + positive)


def boxes(place: Tensor, ray: Tensor, solids: Solids) -> Tensor:
    """Depth at which each ray enters each box; infinite where it does not. (B, K, P)."""
    start, along = _turned(place, ray, solids)
    enter: Tensor = ray.new_tensor(-torch.inf)
    leave: Tensor = ray.new_tensor(torch.inf)
    for axis in range(3):
        step = 1 / along[axis]
        middle = start[axis][..., None] * -step
        reach = solids.half[:, :, axis, None] * step.abs()
        enter, leave = torch.maximum(enter, middle - reach), torch.minimum(leave, middle + reach)
    return torch.where((enter < leave) & (enter > 0), enter, torch.inf)


def cylinders(place: Tensor, ray: Tensor, solids: Solids) -> Tensor:
    """Depth at which each ray enters each upright cylinder; infinite where it does not. (B, K, P)."""
    start = place[:, None] - solids.centre
    x, y, z = (start[:, :, axis, None] for axis in range(3))
    radius, tall = solids.half[:, :, 0, None], solids.half[:, :, 1, None]
    dx, dy, dz = (ray[:, axis, None] for axis in range(3))
    square = dx * dx + dz * dz
    half_b = x * dx + z * dz
    rest = half_b * half_b - square * (x * x + z * z - radius * radius)
    root = rest.clamp(min=0).sqrt()
    middle, reach = y * (-1 / dy), tall * (1 / dy).abs()
    enter = torch.maximum((-half_b - root) / square, middle - reach)
    leave = torch.minimum((root - half_b) / square, middle + reach)
    return torch.where((rest > 0) & (enter < leave) & (enter > 0) & (tall > 0), enter, torch.inf)


def _turned(place: Tensor, ray: Tensor, solids: Solids) -> tuple[list[Tensor], list[Tensor]]:
    """Starts (B, K) and directions (B, K, P) along the axes of each solid."""
    cos, sin = cosine_sine(solids.turn)
    x, y, z = (place[:, None] - solids.centre).unbind(2)
    c, s = cos[..., None], sin[..., None]
    dx, dy, dz = (ray[:, axis, None] for axis in range(3))
    return (
        [x * cos - z * sin, y, x * sin + z * cos],
        [dx * c - dz * s, dy, dx * s + dz * c],
    )


def normals(point: Tensor, solids: Solids, which: Tensor, first_cylinder: int) -> Tensor:
    """Which way the surface of a solid faces at points of it.

    Args:
        point: (B, 3, P).
        solids: Boxes first, then cylinders.
        which: Solid of each point. (B, P).
        first_cylinder: Number of boxes.

    Returns:
        (B, 3, P), of length 1.
    """
    centre, half = (
        torch.stack([part[:, :, axis].gather(1, which) for axis in range(3)], 1)
        for part in (solids.centre, solids.half)
    )
    cos, sin = cosine_sine(solids.turn.gather(1, which))
    x, y, z = (point - centre).unbind(1)
    x, z = x * cos - z * sin, x * sin + z * cos
    at = torch.stack((x, y, z), 1) / half
    # Of a box the side that the point is nearest to; of a cylinder the mantle, or an end.
    box = torch.zeros_like(at).scatter_(1, at.abs().argmax(1, keepdim=True), 1.0) * at.sign()
    upright = (at[:, 0].square() + at[:, 2].square()).sqrt()
    end = at[:, 1].abs() > upright
    mantle = torch.stack((at[:, 0] / upright, torch.zeros_like(x), at[:, 2] / upright), 1)
    ends = torch.stack((torch.zeros_like(x), at[:, 1].sign(), torch.zeros_like(x)), 1)
    round_ = torch.where(end[:, None], ends, mantle)
    made = torch.where((which >= first_cylinder)[:, None], round_, box)
    return torch.stack(
        (made[:, 0] * cos + made[:, 2] * sin, made[:, 1], made[:, 2] * cos - made[:, 0] * sin), 1
    )
