"""Human actions in four modalities: a sensor on the right wrist, a skeleton, a depth camera.

`Actions` is the recipe, `Actions.load` the data. Procedural samples are movements of a figure with 13 joint
angles. Classes come in threes: one gesture of the right arm; the same while the forearm turns, which above
all the sensor sees; the same while the other arm or a leg moves, which above all skeleton and camera see.
Whoever moves has a size, speed, amplitude and posture of their own, and is in one split alone. Sample i is
the same whatever the number of samples. Real ones are UTD-MHAD (`labkit.data.utd_mhad`).

Every modality is cut into equally many steps (`windows`), and standardised (`Scale`).

Logistic regression (`labkit.metrics.linear_probe`) on the flattened steps, people unseen in training:

    =============  ==========  ==============  =========
    held-out, %    procedural  of three seeds  UTD-MHAD
    =============  ==========  ==============  =========
    accelerometer        63.5  60.6 to 65.7         67.2
    gyroscope            64.8  64.0 to 65.3         59.8
    skeleton             65.6  62.8 to 68.2         75.3
    depth                60.3  58.3 to 62.9         73.5
    both inertial        73.4  72.9 to 74.3         70.5
    both seen            67.8  63.7 to 70.7         80.7
    all four             89.4  86.3 to 92.8         83.0
    chance                8.3                        3.7
    =============  ==========  ==============  =========

UTD-MHAD: trained on subjects 1, 3, 5 and 7, tested on the others. A stronger penalty raises its last figures
(C = 0.01: all four 85.8 %).

Source:
    After Chen, Jafari & Kehtarnavaz, "UTD-MHAD: A multimodal dataset for human action recognition utilizing
    a depth camera and a wearable inertial sensor", ICIP 2015.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from labkit.batch import Batch
from labkit.data import bodies
from labkit.data.draws import Draws, balanced_labels

MODALITIES = ("accelerometer", "gyroscope", "skeleton", "depth")
SPLITS = ("train", "val", "test")
LENGTHS = {"accelerometer": 128, "gyroscope": 128, "skeleton": 32, "depth": 12}  # samples of a clip
WIDTHS = {
    "accelerometer": 3,
    "gyroscope": 3,
    "skeleton": 60,
    "depth": bodies.PIXELS**2,
}  # numbers of each
NOISE = {
    "accelerometer": 0.1,
    "gyroscope": 30.0,
    "skeleton": 0.05,
    "depth": 0.1,
}  # deviations: g, deg/s, m
FLOOR = 0.1  # least deviation to divide by, of the modality's
LIMIT = 8.0  # largest standardised value
REFERENCE = 512  # procedural training samples that mean and deviation are taken from
CHUNK = 256  # samples made at a time: the unit of reproducibility
CLIP_S = 3.0  # seconds of a procedural clip
SUBJECTS = (1, 3, 5, 7)  # of UTD-MHAD, who do not test
PEOPLE = {"train": (0, 24), "val": (24, 8), "test": (32, 16)}  # first number, count
LIMITS = {"classes": (3, 27), "steps": (1, 32), "seed": (0, 2**63 - 1),
          "n_train": (1, 10**9), "n_val": (1, 10**9), "n_test": (1, 10**9)}  # fmt: skip

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Actions:
    """Recipe of a data set of actions.

    Args:
        source: "procedural", or "real" for UTD-MHAD.
        classes: Actions, 3 to 27; a class is the same movement whatever their number. Procedural only.
        steps: T, time steps of every modality, 1 to 32.
        n_train: Samples of the training split.
        n_val: Samples of the validation split.
        n_test: Samples of the test split.
        seed: Seed of people and samples; the classes' movements do not depend on it. Nothing in the real
            data is drawn: there it changes nothing.
        held_out: Real data only: subject 1, 3, 5 or 7, whose clips are the validation split; the other
            three are the training split. A regression on all modalities reaches 84.1, 88.9, 67.6 and 90.7 %
            on them, so 1 is nearest to the mean. None = all four train, as for published results, and
            there is no validation split: choose settings before. Subjects 2, 4, 6, 8 are always the test.
        style: How much people differ, 0 to 2. Procedural only.
        noise: Factor of the sensors' noise, 0 to 10. Procedural only.

    Raises:
        ValueError: on a value out of range; the message names it and what is allowed. With source="real"
            everything but `steps`, `seed` and `held_out` stays as it is.
    """

    source: Literal["procedural", "real"] = "procedural"
    classes: int = 12
    steps: int = 8
    n_train: int = 2000
    n_val: int = 500
    n_test: int = 1000
    seed: int = 0
    held_out: int | None = 1
    style: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        _one_of("source", self.source, ("procedural", "real"))
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{name} must be a whole number from {low} to {high}, got {value!r}"
                )
        for name, most in (("style", 2), ("noise", 10)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie in 0..{most}, got {getattr(self, name)!r}")
        _one_of("held_out", self.held_out, (*SUBJECTS, None))
        real = self.source == "real"
        foreign = {*LIMITS, "style", "noise"} - {"steps", "seed"} if real else {"held_out"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in foreign and value != field.default:
                raise ValueError(
                    f"{field.name} must stay {field.default} with source={self.source!r}, got {value}: "
                    + ("the real clips are what they are" if real else "people are split by design")
                )

    @property
    def channels(self) -> dict[str, int]:
        """Modality -> numbers at a time step, C. With 8 steps: 48, 48, 240, 200."""
        return {name: _per_step(name, self.steps) * WIDTHS[name] for name in MODALITIES}

    @property
    def n_classes(self) -> int:
        """Number of labels: `classes`, or UTD-MHAD's 27."""
        return self.classes if self.source == "procedural" else 27

    def load(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split.

        Args:
            split: "train", "val" or "test".
            device: Where the tensors shall be; None = CPU. Procedural samples are made there.

        Returns:
            accelerometer, gyroscope, skeleton, depth: (B, T, C), float32, C as `channels`, standardised;
            labels 0 to n_classes - 1. The sensor measures in its own frame, gravity included, g and
            degrees per second; the skeleton is in metres from the hip centre (real: of the first frame).
            Procedural: factors `subject`, `gesture` (class // 3), `variant` (class % 3), all (B,);
            `size`, `speed`, `amplitude` (B,), 1 = the average person's; `posture` (B, 13), radians, in the
            order of `labkit.data.bodies.ANGLES`; `onset` and `span` (B,), shares of the clip.
            Real: labels and factors `subject`, `trial`, `lengths` of `labkit.data.utd_mhad.load`; depth
            pictures are averaged from 40 x 40 to 10 x 10.

        Raises:
            ValueError: on an unknown split, or "val" with source="real" and held_out=None.
            LabkitError: if a file of the real data is missing or damaged.
        """
        _one_of("split", split, SPLITS)
        place = torch.device("cpu" if device is None else device)
        if self.source == "real":
            from labkit.data import utd_mhad  # reads files; procedural samples never need it

            return _real(utd_mhad.load(), self, split).to(place)
        n = {"train": self.n_train, "val": self.n_val, "test": self.n_test}[split]
        made = _samples(self, split, n, place)
        scales = _reference(replace(self, n_train=REFERENCE, n_val=1, n_test=1), place)
        return replace(made, x={name: scales[name](values) for name, values in made.x.items()})

    def clips(self, split: Split, device: torch.device | str | None = None) -> Batch:
        """Make or read one split as two streams, depth and motion: see `labkit.data.motion.clips`."""
        from labkit.data import motion  # which needs this module

        return motion.clips(self, split, device)


def _real(clips: Batch, recipe: Actions, split: str) -> Batch:
    """One split of all performances of UTD-MHAD."""
    known, rows = rows_of(clips.factors["subject"], recipe, split)
    depth = avg_pool2d(clips.x["depth"], clips.x["depth"].shape[-1] // bodies.PIXELS)
    x = sequences(clips.x | {"depth": depth}, recipe.steps)
    scales = {name: Scale.of(values[known]) for name, values in x.items()}
    return replace(clips[rows], x={name: scales[name](x[name][rows]) for name in x})


def rows_of(subject: Tensor, recipe: Actions, split: str) -> tuple[Tensor, Tensor]:
    """Which performances of UTD-MHAD train, and which are in the split: bool, as `subject`.

    Raises:
        ValueError: on "val" with held_out=None.
    """
    if split == "val" and recipe.held_out is None:
        raise ValueError(
            "split must be 'train' or 'test' with held_out=None, where subjects 1, 3, 5 and 7 all train; "
            "got 'val'. Choose settings with held_out=1, 3, 5 or 7."
        )
    test, val = subject % 2 == 0, subject == (recipe.held_out or 0)
    train = ~test & ~val
    return train, {"train": train, "val": val, "test": test}[split]


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")


# From clips to steps -------------------------------------------------------------------------------


def resample(x: Tensor, count: int) -> Tensor:
    """Interpolate linearly in time, first and last sample kept: (B, n, ...) to (B, count, ...)."""
    if x.shape[1] == count:
        return x
    time = torch.linspace(0, x.shape[1] - 1, count, dtype=torch.float64, device=x.device)
    before = time.long().clamp(max=max(x.shape[1] - 2, 0))
    after = (before + 1).clamp(max=x.shape[1] - 1)
    share = (time - before).to(x.dtype).view(-1, *[1] * (x.ndim - 2))
    return x[:, before] * (1 - share) + x[:, after] * share


def _per_step(modality: str, steps: int) -> int:
    return -(-LENGTHS[modality] // steps)


def windows(x: Tensor, steps: int, each: int) -> Tensor:
    """Resample to steps * each samples; `each` consecutive ones are the features of a step.

    Args:
        x: Clips, shape (B, n, ...).
        steps: Time steps T.
        each: Samples in a step.

    Returns:
        Shape (B, T, each * features); the samples of a step follow each other.
    """
    return resample(x, steps * each).reshape(len(x), steps, -1)


def sequences(clips: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """All modalities as sequences of equally many steps, not standardised.

    Args:
        clips: Modality -> (B, n, ...), where ... are `WIDTHS` numbers.
        steps: Time steps T; a modality has as few samples a step as keep all of `LENGTHS`.

    Returns:
        Modality -> (B, T, C), in the order of `MODALITIES`.
    """
    return {name: windows(clips[name], steps, _per_step(name, steps)) for name in MODALITIES}


class Scale(NamedTuple):
    """Standardisation of the features of one modality: `mean` and `deviation` (C,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scale:
        """Measure over samples and steps of (B, T, C).

        A deviation below a tenth of the modality's (root mean square of all features') is raised to it: a
        feature that is constant here, a pixel of background, may not explode where it is not.
        """
        flat = x.flatten(0, 1).double()
        spread = flat.std(0, correction=0)
        typical = float(spread.square().mean().sqrt()) or 1.0
        return cls(flat.mean(0).float(), spread.clamp(min=FLOOR * typical).float())

    def __call__(self, x: Tensor) -> Tensor:
        """Standardise (..., C), clipped at +-8."""
        return ((x - self.mean) / self.deviation).clamp(-LIMIT, LIMIT)


@lru_cache(maxsize=16)
def _reference(recipe: Actions, device: torch.device) -> dict[str, Scale]:
    """Scales from the first training samples, so that no sample depends on how many there are."""
    some = _samples(recipe, "train", recipe.n_train, device)
    return {name: Scale.of(values) for name, values in some.x.items()}


# Procedural samples --------------------------------------------------------------------------------


def _samples(recipe: Actions, split: str, n: int, device: torch.device) -> Batch:
    """The first n samples of a split, as sequences, not standardised."""
    chunks = [_chunk(recipe, split, start, device) for start in range(0, n, CHUNK)]
    return Batch(
        {name: torch.cat([chunk.x[name] for chunk in chunks])[:n] for name in MODALITIES},
        y=torch.cat([chunk.y for chunk in chunks if chunk.y is not None])[:n],
        factors={
            name: torch.cat([chunk.factors[name] for chunk in chunks])[:n]
            for name in chunks[0].factors
        },
    )


def _chunk(recipe: Actions, split: str, start: int, device: torch.device) -> Batch:
    """Samples start .. start + CHUNK - 1 of a split: a shape that does not depend on n."""
    draws = Draws(torch.arange(start, start + CHUNK, device=device), "actions", recipe.seed, split)
    y = balanced_labels(draws.index, recipe.classes, *draws.address)
    who = _people(draws, recipe, split)
    wander = 0.05 * draws.normal("wander", 6, len(bodies.ANGLES))
    clocks = {name: torch.linspace(0, 1, count, device=device) for name, count in LENGTHS.items()}
    tick = 1 / (LENGTHS["accelerometer"] - 1)
    around = torch.linspace(-tick, 1 + tick, LENGTHS["accelerometer"] + 2, device=device)
    joints, forearm = bodies.pose(bodies.trajectories(around, y, who, wander), who["size"])
    accelerometer, gyroscope = bodies.inertial(joints[:, :, 10], forearm, CLIP_S * tick)
    skeleton = bodies.pose(bodies.trajectories(clocks["skeleton"], y, who, wander), who["size"])[0]
    seen = bodies.pose(bodies.trajectories(clocks["depth"], y, who, wander), who["size"])[0]
    clips = {
        "accelerometer": accelerometer, "gyroscope": gyroscope,
        "skeleton": skeleton.flatten(2), "depth": bodies.render(seen).flatten(2),
    }  # fmt: skip
    for name, clip in clips.items():
        grain = draws.normal(f"{name}/noise", *clip.shape[1:])
        clips[name] = clip + recipe.noise * NOISE[name] * grain
    factors = who | {"gesture": y // 3, "variant": y % 3}
    return Batch(sequences(clips, recipe.steps), y=y, factors=factors)


def _people(draws: Draws, recipe: Actions, split: str) -> dict[str, Tensor]:
    """Who moves, and how they do it this time."""
    first, count = PEOPLE[split]
    subject = first + draws.choice("subject", count)
    own = Draws(subject, "actions", recipe.seed, "people")
    speed = (0.15 * recipe.style * own.normal("speed")).exp()
    amplitude = 0.2 * recipe.style * own.normal("amplitude") + 0.1 * draws.normal("amplitude")
    return {
        "subject": subject,
        "size": (0.08 * recipe.style * own.normal("size")).exp(),
        "speed": speed,
        "amplitude": amplitude.exp(),
        "posture": 0.12 * recipe.style * own.normal("posture", len(bodies.ANGLES)),
        "onset": draws.uniform("onset", low=0.04, high=0.16),
        "span": 0.7 / speed * (0.08 * draws.normal("span")).exp(),
    }
