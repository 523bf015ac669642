"""Rooms, seen by a colour camera and a depth camera; the class of every pixel is to be told.

`Rooms` is the recipe, `Rooms.load` the data. Procedural rooms are furnished (`labkit.data.interiors`) and
cast ray by ray (`labkit.data.painting`), so that depth is exact before the camera's errors (`sense`).
Red and blue boxes differ in colour alone; canvases stand out from the wall, windows lie behind it, posters on
it; of two warm lamps the nearer one leads, which takes colour and depth to tell. The kinds of scene are

    bright      colours tell nearly everything: each kind of hanging looks different, lamps show by their size
                which is nearer
    dark        little light, and everything takes after the colour of the wall: depth has clear edges
    ambiguous   hangings of all kinds look alike, and a pair of lamps is of one size in the picture
    corrupted   as bright, but the depth is noisy and full of holes

Sample i is the same whatever the number of samples. Real pictures are NYU Depth V2 (`labkit.data.nyu`).

Intersection over union of a small network (U-shaped, 228,000 weights, 30 epochs) on the test split, 48 rows,
mean of two seeds, which differ by 0.5 at most in the first row:

    ==================  ====  =====  ====
    percent             rgb   depth  both
    ==================  ====  =====  ====
    mean of 10 classes  75.3   56.9  84.0
    bright              84.0   62.7  89.3
    dark                70.7   60.4  82.2
    ambiguous           66.2   64.2  81.9
    corrupted           83.1   43.6  83.5
    window              44.6   71.8  78.4
    poster              30.5   25.1  42.3
    canvas              46.0   54.5  64.0
    red and blue box    93.4   30.9  94.7
    lead lamp           83.0   37.3  92.2
    ==================  ====  =====  ====

Source:
    After the fusion experiment of Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data import interiors, painting
from labkit.data.draws import Draws, balanced_labels
from labkit.data.interiors import CLASSES as CLASSES
from labkit.data.raycast import SPREAD

MODALITIES = ("rgb", "depth")
SPLITS = ("train", "val", "test")
SCENES = ("bright", "dark", "ambiguous", "corrupted")
# From and to, for each kind of scene; `LOOK` has what may be asked for.
RANGES = {
    "light": ((0.75, 1.0), (0.12, 0.3), (0.6, 1.0), (0.6, 1.0)),
    "similarity": ((0.0, 0.25), (0.5, 0.75), (0.0, 0.25), (0.0, 0.25)),
    "noise": ((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (25.0, 50.0)),
    "holes": ((0.02, 0.08), (0.0, 0.04), (0.02, 0.06), (0.35, 0.6)),
}
LOOK = {
    "light": 1.5,
    "similarity": 1.0,
    "noise": 100.0,
    "holes": 1.0,
}  # largest values; all start at 0
GRAIN = 0.02  # deviation of a pixel's colour
STEP = 0.0028  # depth is rounded to steps of this times its square, metres
JITTER = 0.0014  # and has a deviation of this times its square
BASELINE = 0.075  # metres between the depth camera and its projector
BLOBS = (9, 12)  # grid of the random holes
CHUNK = 16  # samples made at a time: what keeps memory small
LIMITS = {"height": (24, 384), "seed": (0, 2**63 - 1), "held_out": (0, 794),
          "n_train": (1, 10**9), "n_val": (1, 10**9), "n_test": (1, 10**9)}  # fmt: skip

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Rooms:
    """Recipe of a data set of pictures with depth.

    Args:
        source: "procedural", or "real" for NYU Depth V2.
        height: Rows of a picture, a multiple of 12 from 24 to 384; there are a third more columns. At another
            size the scenes are the same. Real pictures have 96 or 48 rows.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of the samples. Of real data it draws which images are held out.
        held_out: Real data only: so many of the 795 training images are the validation split. 0 = none, as
            for published results, and there is no validation split: choose settings before.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed. With source="real"
            everything but `height`, `seed` and `held_out` stays as it is.
    """

    source: Literal["procedural", "real"] = "procedural"
    height: int = 96
    n_train: int = 700
    n_val: int = 150
    n_test: int = 300
    seed: int = 0
    held_out: int = 100

    def __post_init__(self) -> None:
        _one_of("source", self.source, ("procedural", "real"))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{name} must be a whole number from {low} to {high}, got {value!r}"
                )
        real = self.source == "real"
        _one_of("height", self.height, (96, 48) if real else tuple(range(24, 385, 12)))
        for field in fields(self):
            value = getattr(self, field.name)
            foreign = {"n_train", "n_val", "n_test"} if real else {"held_out"}
            if field.name in foreign and value != field.default:
                raise ValueError(
                    f"{field.name} must stay {field.default} with source={self.source!r}, got {value}: "
                    + ("all real images are used" if real else
                       "n_val says how many procedural samples validate")
                )  # fmt: skip

    @property
    def width(self) -> int:
        """Columns of a picture."""
        return self.height * 4 // 3

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        if self.source == "real":
            from labkit.data import nyu

            return nyu.CLASSES
        return CLASSES

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU. Procedural samples are made there.

        Returns:
            rgb (B, 3, H, W) in [0, 1]; depth (B, 1, H, W), metres, 0 = a hole; labels (B, H, W) as `classes`,
            -1 = none. Factors of procedural samples: `scene` (B,), a number of `SCENES`; `light`,
            `similarity`, `noise`, `holes` (B,), as `look` has them; `exact` (B, 1, H, W), depth without
            errors.
            Real ones: see `labkit.data.nyu.load`.

        Raises:
            ValueError: on an unknown split.
            LabkitError: if a file of the real data is missing or damaged.
        """
        _one_of("split", split, SPLITS)
        place = torch.device("cpu" if device is None else device)
        if self.source == "real":
            from labkit.data import nyu  # reads files; procedural samples never need it

            return nyu.load(split, self.height, self.seed, self.held_out).to(place)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        index = torch.arange(n, device=place)
        parts = [_render(self, split, part, {}) for part in index.split(CHUNK)]
        return Batch(
            {name: torch.cat([part.x[name] for part in parts]) for name in MODALITIES},
            y=torch.cat([part.y for part in parts if part.y is not None]),
            factors={
                name: torch.cat([part.factors[name] for part in parts]) for name in parts[0].factors
            },
        )

    def look(
        self,
        split: Split,
        rows: Sequence[int] | Tensor,
        light: float | None = None,
        similarity: float | None = None,
        noise: float | None = None,
        holes: float | None = None,
        device: torch.device | str | None = None,
    ) -> Batch:
        """Make some samples of a split once more, under other circumstances.

        Args:
            split: "train", "val" or "test".
            rows: Numbers of the samples.
            light: Brightness, 0 to 1.5. None, here and below: each sample keeps its own.
            similarity: Share of the wall's colour in all other colours, 0 to 1.
            noise: Factor of the depth's error, 0 to 100; 1 is a Kinect's.
            holes: Share of the picture that random holes in the depth take, 0 to 1.
            device: Where the tensors shall be made; None = CPU.

        Returns:
            As `load` has them; with nothing asked for bit for bit.

        Raises:
            ValueError: with source="real", or if a value is out of range.
        """
        _one_of("split", split, SPLITS)
        if self.source == "real":
            raise ValueError(
                "look needs source='procedural': real rooms are as they were photographed"
            )
        asked = {"light": light, "similarity": similarity, "noise": noise, "holes": holes}
        given = {name: value for name, value in asked.items() if value is not None}
        for name, value in given.items():
            if not 0 <= value <= LOOK[name]:
                raise ValueError(f"{name} must lie in 0..{LOOK[name]:g}, got {value!r}")
        index = torch.as_tensor(rows, dtype=torch.int64, device=device)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        if index.ndim != 1 or not len(index) or int(index.min()) < 0 or int(index.max()) >= n:
            raise ValueError(f"rows must be numbers from 0 to {n - 1}, at least one, got {rows!r}")
        return _render(self, split, index, given)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


def _render(recipe: Rooms, split: str, index: Tensor, given: dict[str, float]) -> Batch:
    """Samples of these numbers; what is `given` replaces the samples' own."""
    draws = Draws(index, "rooms", recipe.seed, split)
    scene = balanced_labels(index, len(SCENES), *draws.address)
    factors = {"scene": scene}
    for name, ranges in RANGES.items():
        low, high = torch.tensor(ranges, device=index.device)[scene].unbind(1)
        own = low + (high - low) * draws.uniform(name)
        factors[name] = torch.full_like(own, given[name]) if name in given else own
    room = interiors.furnish(draws, scene == SCENES.index("ambiguous"))
    shape = (recipe.height, recipe.width)
    seen = painting.paint(room, *shape, factors["similarity"])
    exact = seen.depth.view(-1, 1, *shape)
    rgb = seen.colour.view(-1, 3, *shape) * factors["light"].view(-1, 1, 1, 1)
    rgb = (rgb + GRAIN * _grain(draws, "rgb", rgb)).clamp(0, 1)
    depth = sense(exact, factors["noise"], factors["holes"], draws)
    factors["exact"] = exact
    return Batch({"rgb": rgb, "depth": depth}, y=seen.label.view(-1, *shape), factors=factors)


# The depth camera ----------------------------------------------------------------------------------


def sense(exact: Tensor, noise: Tensor, holes: Tensor, draws: Draws) -> Tensor:
    """What a Kinect makes of depth: it measures 1 / depth, in steps, and not where its pattern does not fall.

    Args:
        exact: (B, 1, H, W), metres.
        noise: Factor of the error; at 1 the deviation is 0.0014 times the square of the depth. (B,).
        holes: Share of the picture that random holes take. (B,).
        draws: Of the samples.

    Returns:
        (B, 1, H, W), metres, rounded to steps of 0.0028 times the square of the depth; 0 in holes, and in the
        shadow of what is nearer, whose left is seen and not lit.

    Source:
        Khoshelham & Elberink, "Accuracy and resolution of Kinect depth data for indoor mapping applications",
        Sensors 12 (2012), whose figures at 5 m are a deviation of 4 and a step of 7 centimetres.
    """
    inverse = 1 / exact
    error = JITTER * noise.view(-1, 1, 1, 1) * _grain(draws, "depth", exact)
    level = ((inverse + error).clamp(min=1 / 12) / STEP).round()
    lost = _shadow(inverse) | _blobs(holes, draws, exact.shape[-2:])
    return torch.where(lost, 0.0, 1 / (STEP * level))


def _shadow(inverse: Tensor) -> Tensor:
    """Where something nearer, to the right, keeps the projector's light away."""
    columns = inverse.shape[-1]
    shift = BASELINE * columns / (2 * SPREAD)  # pixels, times the difference of 1 / depth
    lost = torch.zeros_like(inverse, dtype=torch.bool)
    for step in range(1, round(shift) + 1):  # nothing is nearer than a metre
        lost[..., :-step] |= (inverse[..., step:] - inverse[..., :-step]) * shift > step - 0.5
    return lost


def _blobs(holes: Tensor, draws: Draws, shape: torch.Size) -> Tensor:
    """Random holes that take their share of each picture; a larger share holds the smaller one's."""
    coarse = draws.uniform("holes", 1, *BLOBS)
    field = torch.nn.functional.interpolate(
        coarse, tuple(shape), mode="bilinear", align_corners=True
    )
    flat = field.flatten(1)
    place = (holes * flat.shape[1]).round().long()
    edge = torch.cat((flat.sort(1).values, torch.full_like(flat[:, :1], torch.inf)), 1)
    return (flat < edge.gather(1, place[:, None])).view_as(field)


def _grain(draws: Draws, stream: str, like: Tensor) -> Tensor:
    """Uniform noise of deviation 1 in the shape of `like`: four numbers a draw of 64 bits."""
    bits = draws.bits(f"{stream}/grain", like[0].numel() // 4).view(torch.int16)
    return bits.to(like.dtype).mul_(3**0.5 / 2**15).view_as(like)
