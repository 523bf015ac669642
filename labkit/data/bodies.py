"""The figure of `labkit.data.actions`: its joint angles in time, its joints, and what sensors see of them."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from labkit.data.draws import Draws

ANGLES = ("raise", "abduct", "elbow", "roll",  # right arm
          "left raise", "left abduct", "left elbow",
          "right hip", "right knee", "left hip", "left knee", "lean", "yaw")  # fmt: skip
PIXELS = 10  # rows and columns of a depth picture
JOINTS = ("head", "shoulder_center", "spine", "hip_center",
          "left_shoulder", "left_elbow", "left_wrist", "left_hand",
          "right_shoulder", "right_elbow", "right_wrist", "right_hand",
          "left_hip", "left_knee", "left_ankle", "left_foot",
          "right_hip", "right_knee", "right_ankle", "right_foot")  # fmt: skip
BONES = ((0, 1), (1, 2), (2, 3), (1, 4), (4, 5), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (10, 11),
         (3, 12), (12, 13), (13, 14), (14, 15), (3, 16), (16, 17), (17, 18), (18, 19))  # fmt: skip


@lru_cache(maxsize=1)
def movements() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a class does: constants, drawn once.

    Returns:
        `hold`, `swing` and `phase` (27, 13), radians, and `cycles` (27,): while a movement lasts, an angle
        is hold + swing * sin(2 pi cycles tau + phase), tau from 0 to 1.
    """
    draws = Draws(torch.arange(9), "actions", "task")
    hold, swing = torch.zeros(9, 3, 13), torch.zeros(9, 3, 13)
    hold[:, :, :3] = draws.uniform("hold", 1, 3) * torch.tensor([1.6, 1.0, 1.4])
    swing[:, :, :3] = draws.normal("swing", 1, 3) * torch.tensor([0.4, 0.3, 0.5])
    swing[:, :, 12] = 0.15 * draws.normal("yaw", 1)
    hold[:, 1, 3] = draws.normal("roll").sign() * 0.5
    swing[:, 1, 3] = 0.7
    hold[:, 1, 2] += 0.4  # who turns the forearm bends the arm a little more
    swing[:, 1, 2] += 0.2 * swing[:, 1, 2].sign()
    others = ((4, 3), (7, 2), (9, 2))  # first angle and count: left arm, right leg, left leg
    for kind, (first, count) in enumerate(others):
        joints = slice(first, first + count)
        hold[kind::3, 2, joints] = 0.5 + 0.4 * draws.uniform("other hold", 3)[kind::3, :count]
        swing[kind::3, 2, joints] = 0.3 * draws.normal("other swing", 3)[kind::3, :count]
    hold[:, 2, 11] = 0.25  # and who moves something else leans forward
    phase = math.pi * draws.normal("phase", 1, 13).expand(9, 3, 13)
    cycles = (1.0 + draws.choice("cycles", 3))[:, None].expand(9, 3)
    return hold.flatten(0, 1), swing.flatten(0, 1), phase.flatten(0, 1), cycles.flatten()


def trajectories(clock: Tensor, y: Tensor, who: dict[str, Tensor], wander: Tensor) -> Tensor:
    """Joint angles of moving people.

    Args:
        clock: Times in shares of the clip, shape (t,).
        y: Classes, shape (B,).
        who: `onset` and `span`, shares of the clip, and `amplitude` (B,); `posture` (B, 13), radians.
        wander: Radians of three sines and three cosines that are added to each angle, shape (B, 6, 13).

    Returns:
        Radians as `ANGLES`, shape (B, t, 13).
    """
    hold, swing, phase, cycles = (constant.to(clock.device)[y] for constant in movements())
    tau = (clock - who["onset"][:, None]) / who["span"][:, None]
    edge = (torch.minimum(tau, 1 - tau) / 0.2).clamp(0, 1)
    active = (who["amplitude"][:, None] * edge.square() * (3 - 2 * edge))[..., None]
    turn = 2 * math.pi * cycles[:, None, None] * tau.clamp(0, 1)[..., None] + phase[:, None]
    waves = 2 * math.pi * clock[:, None] * torch.arange(1, 4, device=clock.device)
    basis = torch.cat((waves.sin(), waves.cos()), 1)  # (t, 6)
    moving = active * (hold[:, None] + swing[:, None] * turn.sin())
    return who["posture"][:, None] + moving + basis @ wander


def pose(angles: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Forward kinematics of a person who looks at the camera.

    Args:
        angles: Joint angles as `ANGLES`, radians, shape (B, t, 13); all 0 = upright, arms down.
        size: Factor of all lengths, shape (B,); 1 is a person of 1.6 m.

    Returns:
        Joints (B, t, 20, 3) as `JOINTS`, metres relative to the hip centre: x to the person's right, y up,
        z away from the camera. And the forearm's frame (B, t, 3, 3), whose columns are its axes in the
        world; its y axis runs from wrist to elbow.
    """
    names = {name: angles[..., i] for i, name in enumerate(ANGLES)}
    upright = torch.eye(3, device=angles.device).expand(*angles.shape[:2], 3, 3)
    trunk = _turned(_turned(upright, 1, names["yaw"]), 0, -names["lean"])

    def limb(
        start: Tensor, upper: Tensor, lower: Tensor, lengths: tuple[float, ...]
    ) -> list[Tensor]:
        """Start of a limb and the ends of its bones, which hang down the frames' y axes."""
        middle = start - lengths[0] * upper[..., 1]
        end = middle - lengths[1] * lower[..., 1]
        return [start, middle, end, end - lengths[2] * lower[..., 1]]

    def at(x: float, y: float) -> Tensor:
        return trunk[..., 0] * x + trunk[..., 1] * y

    arms, forearm = [], trunk
    for side, prefix in ((-1, "left "), (1, "")):
        upper = _turned(trunk, 2, side * names[f"{prefix}abduct"])
        upper = _turned(upper, 0, names[f"{prefix}raise"])
        forearm = _turned(upper, 0, names[f"{prefix}elbow"])
        arms += limb(at(0.16 * side, 0.3), upper, forearm, (0.27, 0.22, 0.07))
    legs = []
    for side, prefix in ((-1, "left"), (1, "right")):
        thigh = _turned(upright, 0, names[f"{prefix} hip"])
        shank = _turned(thigh, 0, -names[f"{prefix} knee"])
        hip = upright[..., 0] * 0.075 * side - upright[..., 1] * 0.07
        legs += limb(hip, thigh, shank, (0.44, 0.36, 0.06))
    spine = [at(0, 0.59), at(0, 0.4), at(0, 0.06), at(0, 0.0)]
    joints = torch.stack([*spine, *arms, *legs], -2) * size.view(-1, 1, 1, 1)
    return joints, _turned(forearm, 1, names["roll"])


def _turned(frame: Tensor, axis: int, angle: Tensor) -> Tensor:
    """Frames (..., 3, 3), columns their axes, each turned about its own x, y or z axis (0, 1, 2) by (...)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    out = frame.clone()
    out[..., i] = cos * frame[..., i] + sin * frame[..., j]
    out[..., j] = cos * frame[..., j] - sin * frame[..., i]
    return out


def inertial(wrist: Tensor, forearm: Tensor, tick: float) -> tuple[Tensor, Tensor]:
    """What a sensor on the wrist measures, in its own frame, the forearm's.

    Args:
        wrist: Positions in metres, y up, shape (B, t + 2, 3): with one sample before and one after.
        forearm: The sensor's axes, columns, shape (B, t + 2, 3, 3).
        tick: Seconds between samples.

    Returns:
        Acceleration minus gravity's (B, t, 3) in units of g: one of length 1 that points up when the arm
        rests; and angular velocity (B, t, 3) in degrees per second.
    """
    force = (wrist[:, 2:] - 2 * wrist[:, 1:-1] + wrist[:, :-2]) / (9.81 * tick**2)
    force = force + torch.tensor([0.0, 1.0, 0.0], device=wrist.device)
    local = (forearm[:, 1:-1].mT @ force[..., None])[..., 0]
    change = forearm[:, :-2].mT @ forearm[:, 2:]
    twice = change - change.mT
    axis = 0.5 * torch.stack((twice[..., 2, 1], twice[..., 0, 2], twice[..., 1, 0]), -1)
    sine = axis.norm(dim=-1, keepdim=True)
    cosine = 0.5 * (change.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1)
    ratio = torch.where(sine > 1e-6, torch.atan2(sine, cosine) / sine.clamp(min=1e-6), 1.0)
    return local, axis * ratio * (180 / math.pi) / (2 * tick)


def render(joints: Tensor) -> Tensor:
    """Coarse depth pictures: the bones as blobs, cropped to a square around the clip's joints.

    Args:
        joints: Positions (B, t, 20, 3) as from `pose`.

    Returns:
        Shape (B, t, 10, 10), rows from above: 0 background, up to 1, near = bright.
    """
    start, end = (joints[:, :, [bone[k] for bone in BONES]] for k in (0, 1))
    share = torch.tensor([0.0, 0.33, 0.67], device=joints.device)[:, None]
    points = (start[..., None, :] + share * (end - start)[..., None, :]).flatten(2, 3)
    low, high = joints.amin((1, 2)), joints.amax((1, 2))  # (B, 3)
    side = (high - low)[:, :2].amax(1)[:, None, None] * 1.1
    centre = ((low + high) / 2)[:, None, None]
    place = (points - centre)[..., :2] / side[..., None] * PIXELS  # pixels from the middle
    near = (high[:, 2, None, None] - points[..., 2]) / (high - low)[:, 2, None, None].clamp(min=0.1)
    pixel = torch.arange(PIXELS, device=joints.device) - (PIXELS - 1) / 2
    columns = (-(place[..., :1] - pixel).square() / 0.8).exp()
    rows = (-(place[..., 1:] + pixel).square() / 0.8).exp()
    weight = (3 * near).exp()[..., None]  # what is near hides what is behind it
    covered = rows.mT @ columns
    front = (rows * weight).mT @ columns
    bright = (rows * weight * near[..., None]).mT @ columns / front.clamp(min=1e-6)
    return (1 - (-2 * covered).exp()) * (0.3 + 0.7 * bright)
