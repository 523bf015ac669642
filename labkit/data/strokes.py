"""Two handwritten scripts drawn from skeletons: the image half of the procedural digits.

A digit is a few strokes of control points; a Catmull-Rom curve through them gives 64 points; a
writer bends the plane, slant, scale, aspect and rotation act on it, and a separable Gaussian splat
turns points into pixels: one batched matrix product for all images.
Coordinates: x to the right, y *down*, the digit's box is [-1, 1]^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from labkit.data.draws import Draws

SIZE = 28  # pixels a side
POINTS = 64  # points on all strokes of a digit together
PIXELS_PER_UNIT = 10.0  # the box is 20 pixels wide, as in MNIST
SHARPNESS = 14.0  # slope k of the ink's sigmoid, both scripts (6 would leave grey edges)
WRITERS = 20
WRITER_SPLITS = {"train": range(14), "val": range(14, 17), "test": range(17, 20)}

# Shapes as the digits are written (compare Hoda and Kannada-MNIST): x,y of the control points in
# hundredths of the box, a bar between strokes.
FARSI = {
    0: "0,60 -42,42 -60,0 -42,-42 0,-60 42,-42 60,0 42,42 0,60",
    1: "-14,-95 -6,-35 4,30 14,95",
    2: "64,-92 50,-56 22,-30 -10,-26 -32,-48 -48,-95 -36,0 -18,95",
    3: "80,-95 58,-42 28,-96 2,-36 -28,-42 -50,-97 -38,0 -20,95",
    4: "72,-22 20,-8 -24,-24 -50,-92 -40,5 -20,95 | 64,-84 26,-95 2,-55 20,-8",
    5: "2,42 -36,84 -72,50 -40,-24 4,-86 42,-30 72,46 40,84 2,42",
    6: "-4,-86 -50,-90 -64,-40 -22,-6 26,-30 60,-94 26,-16 -8,42 -40,96",
    7: "-66,-86 -40,-4 -4,88 26,4 58,-84 64,-82 70,-74",
    8: "-74,74 -68,82 -60,86 -28,0 0,-88 36,0 68,86",
    9: "18,-50 6,-92 -42,-92 -64,-42 -20,-4 18,-44 20,-10 28,40 40,96",
}
KANNADA = {
    0: "0,-92 -40,-60 -50,0 -38,64 2,92 40,62 50,0 40,-62 0,-92",
    1: "-44,90 -48,20 -40,-52 -2,-90 38,-56 48,20 46,90",
    2: "0,46 -14,2 10,-46 50,-60 80,-24 72,26 36,48 0,54 -35,55 -65,56 -95,58",
    3: "-38,-58 -4,-92 34,-66 24,-16 -22,22 -52,60 -22,95 14,62 -14,26 20,58 60,86",
    4: "-10,-62 -30,-90 -50,-60 -6,-8 32,42 0,90 -34,44 6,-10 40,-50 46,-94",
    5: (
        "-80,-50 -50,-88 -20,-50 -36,10 -66,74 "
        "| -74,10 0,12 74,4 "
        "| 20,84 16,20 24,-66 52,-86 60,-30 50,30 68,80"
    ),
    6: "36,-86 -6,-92 -38,-64 -26,-28 10,-16 -30,0 -52,40 -26,78 24,80 84,62",
    7: "-52,-54 -8,-92 40,-66 32,-16 2,30 -28,66 -44,84 -20,84 10,80 44,80 82,74",
    8: "-20,-36 -14,-70 -44,-84 -66,-30 -54,44 -8,86 36,46 34,-24 34,-66 60,-72 90,-62",
    9: "84,-76 30,-82 -16,-76 -42,-46 -22,-14 14,-8 -24,8 -46,44 -22,86 34,78",
}


@dataclass(frozen=True)
class Script:
    """How one script is written: its skeletons, its pen and how its writers fail.

    Args:
        name: Modality name.
        digits: Digit -> control points, as in `FARSI`.
        partner: Digit -> the digit that a sloppy hand drifts towards (same stroke structure).
        half_width: Range of the stroke's half-width, in box units.
        jitter: Standard deviation of the control points' offsets, in box units, at difficulty 1.
        slop: Scale of the drift towards the partner at difficulty 1; 0.5 is half-way.
    """

    name: str
    digits: dict[int, str]
    partner: dict[int, int]
    half_width: tuple[float, float]
    jitter: float
    slop: float


# Different pairs in each modality, so that their errors are independent and fusion can mend them.
SCRIPTS = {
    "farsi": Script(
        "farsi",
        digits=FARSI,
        partner={2: 3, 3: 2, 6: 9, 9: 6, 7: 8, 8: 7, 0: 5, 5: 0},
        half_width=(0.11, 0.19),
        jitter=0.065,
        slop=0.3,
    ),
    "kannada": Script(
        "kannada",
        digits=KANNADA,
        partner={2: 7, 3: 7, 7: 3, 6: 9, 9: 6},
        half_width=(0.05, 0.09),
        jitter=0.08,
        slop=0.36,
    ),
}


# From control points to curves ---------------------------------------------------------------------


def _read(text: str) -> list[Tensor]:
    """Control points of a digit's strokes, each (P, 2), from their notation."""
    strokes = [[point.split(",") for point in stroke.split()] for stroke in text.split("|")]
    return [
        torch.tensor([[int(x), int(y)] for x, y in stroke]).double() / 100 for stroke in strokes
    ]


def catmull_rom(count: int, position: Tensor) -> Tensor:
    """Weights of a Catmull-Rom curve through `count` control points (ends repeated).

    Args:
        count: Control points of the stroke.
        position: Where on the curve, in units of control points, shape (Q,), in [0, count - 1].

    Returns:
        Weights, shape (Q, count); curve = weights @ control points. Rows sum to 1.

    Source:
        Catmull & Rom 1974, uniform knots.
    """
    segment = position.floor().clamp(0, count - 2).long()
    t = position - segment
    basis = torch.stack(
        [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3], -1
    )
    columns = (segment[:, None] + torch.arange(-1, 3)).clamp(0, count - 1)
    return torch.zeros(len(t), count, dtype=t.dtype).scatter_add_(1, columns, basis / 2)


def _even_positions(own: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    """Positions of a digit's points, as even along its curve and its partner's as can be.

    What counts is the longer of the two: a digit that drifts towards its partner must not tear.
    """
    fine, steps = [], []
    for stroke, goal in zip(own, other, strict=True):
        at = torch.linspace(0, len(stroke) - 1, 40 * (len(stroke) - 1) + 1, dtype=stroke.dtype)
        weights = catmull_rom(len(stroke), at)
        lengths = [(weights @ control).diff(dim=0).norm(dim=-1) for control in (stroke, goal)]
        fine.append(at)
        steps.append(torch.maximum(*lengths))
    total = [float(step.sum()) for step in steps]
    counts = [max(3, round(POINTS * length / sum(total))) for length in total]
    counts[total.index(max(total))] += POINTS - sum(counts)
    positions = []
    for at, step, count in zip(fine, steps, counts, strict=True):
        along = torch.cat([step.new_zeros(1), step.cumsum(0)])
        wanted = torch.linspace(0, float(along[-1]), count, dtype=step.dtype)
        right = torch.searchsorted(along, wanted).clamp(1, len(along) - 1)
        share = (wanted - along[right - 1]) / (along[right] - along[right - 1]).clamp(min=1e-9)
        positions.append(at[right - 1] + share.clamp(0, 1) * (at[right] - at[right - 1]))
    return positions


@cache
def _skeletons(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tables of a script, padded to equal sizes.

    Returns:
        Curves (10, Q, P), control points and the partner's (10, P, 2), and 1 where points q and
        q + 1 lie on one stroke (10, Q - 1).
    """
    script = SCRIPTS[name]
    written = {digit: _read(text) for digit, text in script.digits.items()}
    most = max(sum(map(len, strokes)) for strokes in written.values())
    curves, joined = torch.zeros(10, POINTS, most), torch.ones(10, POINTS - 1)
    control, partner = torch.zeros(10, most, 2), torch.zeros(10, most, 2)
    for digit, own in written.items():
        other = written[script.partner.get(digit, digit)]
        row = column = 0
        for stroke, position in zip(own, _even_positions(own, other), strict=True):
            rows, columns = slice(row, row + len(position)), slice(column, column + len(stroke))
            curves[digit, rows, columns] = catmull_rom(len(stroke), position).float()
            row, column = rows.stop, columns.stop
            if row < POINTS:
                joined[digit, row - 1] = 0.0
        control[digit, :column], partner[digit, :column] = torch.cat(own), torch.cat(other)
    return curves, control, partner, joined


# Hands ---------------------------------------------------------------------------------------------

_WAVES = torch.tensor([[2.0, 0.0], [0.0, 2.0], [1.6, 1.6], [1.6, -1.6]])


def writer_warp(points: Tensor, writer: Tensor) -> Tensor:
    """Bend points as a writer does: a smooth field of four sine waves, fixed for each of 20 writers.

    Args:
        points: Points in the box, shape (B, Q, 2).
        writer: Writer of each sample, shape (B,), int64, 0 to 19.

    Returns:
        Moved points, shape (B, Q, 2).
    """
    hands = Draws(torch.arange(WRITERS), "writers")  # one population, whatever the seed of the data
    push = (0.05 * hands.normal("push", 4, 2)).to(points.device)[writer]
    phase = hands.uniform("phase", 4, high=2 * math.pi).to(points.device)[writer]
    waves = torch.sin(points @ _WAVES.to(points.device).T + phase[:, None])
    return points + waves @ push


def draw_factors(
    draws: Draws, script: Script, split: str, slant: Tensor, thickness: float, difficulty: float
) -> dict[str, Tensor]:
    """Draw what makes each image of a script its own; `slant` comes standardised, from outside."""
    name, (thin, thick) = script.name, script.half_width
    writers = WRITER_SPLITS[split]
    sloppy = script.slop * difficulty * draws.normal(f"{name}/slop").abs()
    return {
        "slant": 0.25 * slant,
        "thickness": thickness * draws.uniform(f"{name}/thickness", low=thin, high=thick),
        "scale": draws.uniform(f"{name}/scale", low=0.88, high=1.08),
        "aspect": draws.uniform(f"{name}/aspect", low=0.85, high=1.15),
        "rotation": draws.uniform(f"{name}/rotation", low=-0.12, high=0.12),
        "writer": writers[0] + draws.choice(f"{name}/writer", len(writers)),
        "slop": sloppy.clamp(max=0.75),
    }


def draw_images(
    draws: Draws, script: Script, y: Tensor, factors: dict[str, Tensor], difficulty: float
) -> Tensor:
    """Write and render digits.

    Args:
        draws: Random numbers of these samples (the jitter comes from here).
        script: What to write with.
        y: Digits, shape (B,), int64.
        factors: As from `draw_factors`.
        difficulty: Scale of the jitter.

    Returns:
        Images in [0, 1], white ink on black, shape (B, 28, 28), float32.
    """
    curves, control, partner, joined = (table.to(y.device)[y] for table in _skeletons(script.name))
    drift = factors["slop"][:, None, None]
    jitter = script.jitter * difficulty * draws.normal(f"{script.name}/jitter", *control.shape[1:])
    points = curves @ (torch.lerp(control, partner, drift) + jitter)
    points = writer_warp(points, factors["writer"])
    points = _place(points, factors)
    return render(points, joined, factors["thickness"])


def _place(points: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """Scale, stretch, slant and rotate about the origin, then put the centre of the ink there."""
    wide = factors["scale"] * factors["aspect"].sqrt()
    high = factors["scale"] / factors["aspect"].sqrt()
    cos, sin = factors["rotation"].cos(), factors["rotation"].sin()
    lean = -factors["slant"] * high  # y points down: a positive slant leans to the right, like "/"
    matrix = torch.stack(
        [cos * wide, cos * lean - sin * high, sin * wide, sin * lean + cos * high], -1
    )
    points = points @ matrix.view(-1, 2, 2).transpose(1, 2)
    return points - points.mean(1, keepdim=True)


# Pixels --------------------------------------------------------------------------------------------


def render(points: Tensor, joined: Tensor, half_width: Tensor) -> Tensor:
    """Turn stroke points into pixels with a separable Gaussian splat.

    A line of Gaussian dots, each weighted by the length of line it stands for, has the profile
    exp(-d^2 / 2 s^2) across the line; the sigmoid makes ink of everything above 1/2, that is within
    1.1774 s of it. Each dot is a product of a row and a column, so all dots of an image are one
    matrix product: 3,600 exponentials an image instead of 50,000.

    Args:
        points: Points along the strokes, shape (B, Q, 2), in box units.
        joined: 1 where points q and q + 1 lie on one stroke, shape (B, Q - 1).
        half_width: Half the width of the stroke, shape (B,), in box units.

    Returns:
        Images in [0, 1], shape (B, 28, 28).
    """
    s = (half_width / math.sqrt(2 * math.log(2)))[:, None]
    step = (points[:, 1:] - points[:, :-1]).square().sum(-1).sqrt() * joined / 2
    length = torch.nn.functional.pad(step, (1, 0)) + torch.nn.functional.pad(step, (0, 1))
    weight = length / (s * math.sqrt(2 * math.pi))
    pixel = (torch.arange(SIZE, device=points.device) - (SIZE - 1) / 2) / PIXELS_PER_UNIT
    scaled = points / (math.sqrt(2) * s[..., None])
    grid = pixel[None, :, None] / (math.sqrt(2) * s[..., None])
    across = torch.exp(-(grid - scaled[:, None, :, 0]).square())
    down = torch.exp(-(grid - scaled[:, None, :, 1]).square()) * weight[:, None]
    ink = down @ across.transpose(1, 2)
    return torch.sigmoid(SHARPNESS * (ink - 0.5))
