"""Latent labs: push one latent (Figure 3), walk the plane, go from one digit to another, draw samples.

Each lab shows one model and a few held-out samples; the page computes it from the same arrays (the
functions of the same names in page/labs.js).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from labkit.batch import Batch, subset_name, subsets
from labkit.drawing import look
from labkit.latent.space import (
    Gauge,
    aggregate,
    gauge,
    published_shifts,
    random_directions,
    spherical,
    straight,
)
from labkit.live import pictures
from labkit.live.decoder import Net, pack
from labkit.live.lab import Gesture, Lab, Question
from labkit.live.pictures import Picture
from labkit.live.samples import SAMPLES, SHAPE, choose, images_of
from labkit.live.state import State, choice, number, whole
from labkit.models.mvae import MVAE, Posterior

LIMIT = 1500.0  # the poster's largest push, in standard deviations of the prior
AMPLITUDES = tuple(float(a) for a in torch.logspace(-1, 3.176091259055681, 40))  # 0.1 to 1500
SATURATED = 20.0  # |logit|: a pixel that no gradient reaches any more
_DIGIT = "Which digit the latents are inferred from, all modalities visible."
_SAMPLE = "Which held-out sample of that digit."


@dataclass(frozen=True)
class Held:
    """A model and what its labs look at, on the CPU.

    Args:
        model: The MVAE.
        mean: Posterior means of chosen samples, everything visible, (10, SAMPLES, D).
        logvar: Their log-variances.
        cloud: Posterior means of many held-out samples (N, D).
        classes: Their labels (N,).
        gauge: Ranks a latent by its distance to the aggregate posterior.
        sd: Standard deviation of the aggregate posterior, (D,).
        flips: Share of labels changed by +- pushes of `AMPLITUDES` along each latent, (D, A).
        random_flips: The same along as many random directions, (D, A).
        directions: Those directions, (D, D).
        noise: Fixed standard normal draws (16, D).
        batch: The chosen samples, 10 * SAMPLES.
    """

    model: MVAE
    mean: Tensor
    logvar: Tensor
    cloud: Tensor
    classes: Tensor
    gauge: Gauge
    sd: Tensor
    flips: Tensor
    random_flips: Tensor
    directions: Tensor
    noise: Tensor
    batch: Batch

    @classmethod
    @torch.no_grad()
    def of(cls, model: MVAE, batch: Batch, points: int = 400) -> Held:
        """Infer latents of held-out samples.

        Raises:
            ValueError: without labels, a label decoder, or three samples of each digit.
        """
        model, few, background, classes = choose(model, batch, points)
        posterior, many = model.encode(few), model.encode(background)
        latent = model.config.latent
        directions = random_directions(latent, latent, torch.Generator().manual_seed(0)).float()
        held = many.mean[:100]
        return cls(
            model,
            posterior.mean.unflatten(0, SHAPE),
            posterior.logvar.unflatten(0, SHAPE),
            many.mean,
            classes,
            gauge(many, torch.Generator().manual_seed(0)),
            aggregate(many).sd().float(),
            _flip_rates(model, held, torch.eye(latent)),
            _flip_rates(model, held, directions),
            directions,
            torch.randn(16, latent, generator=torch.Generator().manual_seed(0)),
            few,
        )

    @property
    def images(self) -> list[str]:
        """Names of the modalities that are images."""
        return images_of(self.model)

    @property
    def best(self) -> int:
        """The latent that says most: the largest mean KL over the chosen samples."""
        return int(Posterior(self.mean, self.logvar).kl().mean((0, 1)).argmax())

    def nets(self, output: Any = "sigmoid") -> dict[str, Net]:
        """Decoders of the images and of the label, for the page."""
        assert self.model.label is not None
        found = {name: Net(self.model.decoders[name], output) for name in self.images}
        return found | {"label": Net(self.model.label, "softmax")}

    def rank(self) -> dict[str, Tensor]:
        """The gauge as arrays: whiten with `whitener`, then look the norm up in `reference`."""
        eye = torch.eye(len(self.gauge.root), dtype=self.gauge.root.dtype)
        inverse = torch.linalg.solve_triangular(self.gauge.root, eye, upper=False)
        return {
            "center": self.gauge.cloud.mean.float(),
            "whitener": inverse.float(),
            "reference": self.gauge.reference.float(),
        }

    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.model.modalities[self.images[0]].shape
        return height, width


@torch.no_grad()
def _flip_rates(model: MVAE, z: Tensor, directions: Tensor) -> Tensor:
    """Share of +- pushes along each direction that change the label: (K, A)."""
    before = model.decode_label(z).argmax(-1)
    pushes = torch.tensor(AMPLITUDES)[:, None] * torch.tensor([1.0, -1.0])  # (A, 2)
    return torch.stack([
        (model.decode_label(z + pushes[..., None, None] * u).argmax(-1) != before).float().mean((1, 2))
        for u in directions
    ])  # fmt: skip


# Figure 3 under the microscope -------------------------------------------------------------------


def probe_state(latent: int, index: int) -> State:
    """The state of `probe` for a model of D latents."""
    fields = [
        ("index", int, whole(index, 0, latent - 1, "latent", "Which latent is pushed, from 0.")),
        ("amplitude", float, number(10.0, 0.1, LIMIT, "amplitude", "The largest push; the grid goes "
         "from minus to plus this in 100 steps, without zero.", log=True)),
        ("unit", str, choice("prior sd", ("prior sd", "aggregate sd"), "in", "Standard deviations of "
         "the prior (1), or of the aggregate posterior along this direction.")),
        ("direction", str, choice("latent", ("latent", "random"), "along", "The latent itself, or the "
         "random direction of the same number: the control.")),
        ("display", str, choice("sigmoid", ("sigmoid", "logits"), "pixels", "Probabilities; or raw "
         "logits, each image stretched to its own range, as the poster shows them.")),
        ("digit", int, whole(7, 0, 9, "digit", _DIGIT)),
        ("sample", int, whole(0, 0, SAMPLES - 1, "sample", _SAMPLE)),
    ]  # fmt: skip
    presets = {
        "Figure 3 as published": {"amplitude": LIMIT, "display": "logits"},
        "The same, as pixels": {"amplitude": LIMIT},
        "A random direction": {"amplitude": LIMIT, "direction": "random"},
        "Where the data are": {"amplitude": 3.0, "unit": "aggregate sd"},
    }
    space = {"PRESETS": presets, "__doc__": "State of `probe`."}
    made: State = make_dataclass("Probe", fields, bases=(State,), frozen=True, namespace=space)()
    return made


def probe(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """The poster's Figure 3: one latent pushed 100 times, decoded in every script.

    Args:
        model: A trained MVAE with a label decoder.
        batch: Held-out samples with labels 0 to 9, at least three of each.
        states: State lines; see `Lab`.
    """
    held = Held.of(model, batch)
    index = 201 if model.config.latent > 201 else held.best
    question = Question(
        "Push as far along a random direction instead of a latent. What happens to the digit?",
        ("nothing: only real latents mean something", "it changes just the same", "it vanishes"),
        answer=1,
        why="Far from the data any direction changes the label.",
        then={"amplitude": LIMIT, "direction": "random"},
    )
    arrays = {
        "mean": held.mean, "sd": held.sd, "directions": held.directions, "flips": held.flips,
        "random_flips": held.random_flips, "amplitudes": torch.tensor(AMPLITUDES),
        "spread": aggregate_spread(held), **held.rank(),
    }  # fmt: skip
    facts = {"images": held.images, "size": list(held.size()), "saturated": SATURATED}
    return Lab(
        "probe", "Figure 3 under the microscope: 100 pushes of one latent",
        probe_state(model.config.latent, index), lambda state: probe_pictures(held, state),
        page="probe", assets=pack(arrays, held.nets("identity")), facts=facts,
        question=question, states=states,
    )  # fmt: skip


def aggregate_spread(held: Held) -> Tensor:
    """Standard deviations of the aggregate posterior along the random directions, (D,)."""
    return held.gauge.cloud.sd(held.directions).float()


@torch.no_grad()
def probe_pictures(held: Held, state: Any) -> Mapping[str, Picture]:
    """State of `probe` -> pictures."""
    random = state.direction == "random"
    z = held.mean[state.digit, state.sample]
    axis = held.directions[state.index] if random else torch.eye(len(z))[state.index]
    sd = (aggregate_spread(held) if random else held.sd)[state.index]
    reach = state.amplitude * (1.0 if state.unit == "prior sd" else float(sd))
    shifts = published_shifts(50, 1).float() * (reach / 50)  # (100,)
    moved = z + shifts[:, None] * axis  # (100, D)
    before, after = (held.model.decode_label(v).argmax(-1) for v in (z, moved))
    logits = held.model.decode(moved, held.images)
    changed = float((after != before).float().mean())
    name = f"{'random direction' if random else 'latent'} {state.index}"
    says = f"{name} pushed from -{reach:.4g} to {reach:.4g}: {changed:.0%} of the pushes change the label."
    found = {
        script: pictures.images(
            _shown(values, state.display).unflatten(0, (10, 10)), [], [], f"{script}: {says}"
        )
        for script, values in logits.items()
    }
    found["flip rate"] = pictures.curves(
        AMPLITUDES,
        [
            pictures.line("this latent", held.flips[state.index]),
            pictures.line("this random one", held.random_flips[state.index], "#D55E00", (6, 4)),
            pictures.line("all random, mean", held.random_flips.mean(0), "#7f7f7f", (2, 3)),
        ],
        "push, standard deviations of the prior", "share of labels changed", says,
        log=True, marker=min(max(reach, AMPLITUDES[0]), AMPLITUDES[-1]),
    )  # fmt: skip
    ends = moved[[0, -1]]
    hot = torch.stack([(v.abs() > SATURATED).float().mean() for v in logits.values()]).mean()
    found["numbers"] = pictures.figures({
        "labels changed": (changed, "of the 100 pushes"),
        "held-out latents nearer than the ends": (float(held.gauge.percentile(ends).mean()), ""),
        "distance of the ends": (float(held.gauge.distance(ends).mean() / held.gauge.reference[-1]),
                                 "times the farthest held-out one"),
        "saturated pixels": (float(hot), f"with |logit| > {SATURATED:g}"),
    })  # fmt: skip
    return found


def _shown(logits: Tensor, display: str) -> Tensor:
    """Logits (N, H, W) as grey in [0, 1]: probabilities, or each image stretched to its range."""
    if display == "sigmoid":
        return logits.sigmoid()
    low, high = logits.amin((1, 2), keepdim=True), logits.amax((1, 2), keepdim=True)
    return (logits - low) / (high - low)


# The latent plane --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Map(State):
    """State of `plane`."""

    PRESETS: ClassVar = {
        "The prior's centre": {"x": 0.0, "y": 0.0},
        "A far corner": {"x": 6.0, "y": 6.0},
    }

    x: float = number(
        0.0, -6, 6, "z₁", "First latent: drag the ring, or use the arrow keys on the map."
    )
    y: float = number(0.0, -6, 6, "z₂", "Second latent.")


def plane(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """A two-dimensional latent space to walk in; arguments as `probe`, D must be 2.

    Raises:
        ValueError: if the model has another number of latents.
    """
    if model.config.latent != 2:
        raise ValueError(
            f"the latent plane needs a model with 2 latents, got {model.config.latent}"
        )
    held = Held.of(model, batch)
    half = min(6.0, 1.15 * float(held.cloud.abs().quantile(0.995).clamp(min=2.5)))
    arrays = {"points": held.cloud, "classes": held.classes.to(torch.uint8), **held.rank()}
    facts = {"images": held.images, "size": list(held.size()), "half": half}
    return Lab(
        "plane", "The latent plane: every point is a digit in every script", Map(),
        lambda state: plane_pictures(held, half, state), page="plane",
        assets=pack(arrays, held.nets()), facts=facts, states=states,
        gestures={"map": Gesture((("x", "y"),), "moves the point that is decoded; arrow keys too")},
    )  # fmt: skip


@torch.no_grad()
def plane_pictures(held: Held, half: float, state: Any) -> Mapping[str, Picture]:
    """State of `plane` -> pictures."""
    z = torch.tensor([state.x, state.y])
    label = held.model.decode_label(z).softmax(-1)
    made = held.model.means(z)
    best = f"{int(label.argmax())} ({label.max():.0%})"
    says = f"At ({state.x:.4g}, {state.y:.4g}) the label decoder says {best}."
    prior = pictures.ellipse("prior", [0, 0], [1, 1], look("prior").color, (2, 4))
    return {
        "map": pictures.plane(
            says, points=held.cloud, classes=held.classes, ellipses=[prior], handles=[z.tolist()], half=half
        ),
        "decoded": pictures.images(
            torch.stack([made[n] for n in held.images])[None], [], held.images, says
        ),
        "label": pictures.bars([str(c) for c in range(10)], label, says, unit="probability"),
        "numbers": pictures.figures({
            "label probability": (float(label.max()), f"for {int(label.argmax())}"),
            "held-out latents nearer": (float(held.gauge.percentile(z)), "(1 = beyond them all)"),
        }),
    }  # fmt: skip


# From one digit to another -----------------------------------------------------------------------


@dataclass(frozen=True)
class Between(State):
    """State of `between`."""

    PRESETS: ClassVar = {
        "Half way": {"t": 0.5},
        "On the arc": {"path": "spherical", "t": 0.5},
        "Same digit": {"start": 3, "end": 3, "end_sample": 1, "t": 0.5},
    }

    start: int = whole(3, 0, 9, "from", "The digit at the left end.")
    end: int = whole(8, 0, 9, "to", "The digit at the right end.")
    t: float = number(0.0, 0, 1, "way", "How far along the path the large pictures are.")
    path: str = choice(
        "straight", ("straight", "spherical"), "path", "A line, or an arc around the origin."
    )
    start_sample: int = whole(0, 0, SAMPLES - 1, "left sample", _SAMPLE)
    end_sample: int = whole(0, 0, SAMPLES - 1, "right sample", _SAMPLE)


STEPS = 9  # pictures on the way


def between(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """Walk from one sample to another, straight or on an arc; arguments as `probe`."""
    held = Held.of(model, batch)
    facts = {"images": held.images, "size": list(held.size()), "steps": STEPS}
    return Lab(
        "between", "Between two digits: what lies on the way", Between(),
        lambda state: between_pictures(held, state), page="between",
        assets=pack({"mean": held.mean, **held.rank()}, held.nets()), facts=facts, states=states,
    )  # fmt: skip


@torch.no_grad()
def between_pictures(held: Held, state: Any) -> Mapping[str, Picture]:
    """State of `between` -> pictures."""
    ends = held.mean[[state.start, state.end], [state.start_sample, state.end_sample]].double()
    walk = {"straight": straight, "spherical": spherical}[state.path]
    path = walk(ends[:1], ends[1:], 41)[:, 0].float()  # (41, D)
    here = _on(walk, ends, state.t)
    probabilities = held.model.decode_label(path).softmax(-1)
    label = held.model.decode_label(here).softmax(-1)
    strip, large = held.model.means(path[:: 40 // (STEPS - 1)]), held.model.means(here)
    third = sorted(set(probabilities.argmax(-1).tolist()) - {state.start, state.end})
    says = (
        f"From {state.start} to {state.end}, {state.path}: at {state.t:.2f} of the way the label decoder "
        f"says {int(label.argmax())} ({label.max():.0%})."
    )
    lines = [pictures.line(f"{state.start}", probabilities[:, state.start], "#0072B2")]
    if state.end != state.start:
        lines.append(pictures.line(f"{state.end}", probabilities[:, state.end], "#D55E00", (6, 4)))
    others = probabilities.clone()
    others[:, [state.start, state.end]] = 0
    lines.append(pictures.line("best other", others.amax(-1), "#7f7f7f", (2, 3)))
    rows = torch.stack([strip[n] for n in held.images])
    return {
        "on the way": pictures.images(rows, held.images, [], says),
        "here": pictures.images(torch.stack([large[n] for n in held.images])[None], [], held.images, says),
        "label": pictures.curves(
            torch.linspace(0, 1, 41), lines, "way", "label probability", says, marker=state.t
        ),
        "numbers": pictures.figures({
            "label probability": (float(label.max()), f"for {int(label.argmax())}"),
            "third digits on the way": (len(third), ""),
            "length of z": (float(here.norm()), "(both ends: "
                            f"{float(ends[0].norm()):.2f}, {float(ends[1].norm()):.2f})"),
            "held-out latents nearer": (float(held.gauge.percentile(here)), "(1 = beyond them all)"),
        }),
    }  # fmt: skip


def _on(walk: Any, ends: Tensor, t: float) -> Tensor:
    """The point at t of the path, (D,)."""
    if walk is straight:
        return ((1 - t) * ends[0] + t * ends[1]).float()
    cosine = torch.nn.functional.cosine_similarity(ends[0], ends[1], dim=-1).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin().abs() <= 1e-4:
        return ((1 - t) * ends[0] + t * ends[1]).float()
    return ((((1 - t) * angle).sin() * ends[0] + (t * angle).sin() * ends[1]) / angle.sin()).float()


# Every subset, and samples of one cell -----------------------------------------------------------


@dataclass(frozen=True)
class Matrix(State):
    """State of `matrix`."""

    PRESETS: ClassVar = {
        "Farsi from speech": {"row": 2, "column": 0},
        "Its own hand": {"row": 0, "column": 0},
        "Cold (tau 0)": {"tau": 0.0},
        "Hot (tau 3)": {"tau": 3.0},
    }

    digit: int = whole(3, 0, 9, "digit", "Which digit was written and spoken.")
    sample: int = whole(0, 0, SAMPLES - 1, "sample", _SAMPLE)
    tau: float = number(
        1.0, 0, 3, "temperature", "z = mean + temperature x sd x noise; 1 is the posterior."
    )
    row: int = whole(2, 0, 6, "visible set", "Row of the matrix: what is visible.", hidden=True)
    column: int = whole(
        0, 0, 1, "script", "Column of the matrix: which script is drawn.", hidden=True
    )


def matrix(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """The poster's Figure 2 for one sample: every visible set, and 16 draws of the cell you click."""
    held = Held.of(model, batch)
    names = tuple(model.modalities)
    visible = subsets(len(names))
    posterior = model.encode(held.batch, visible[:, None])
    shape = SHAPE
    arrays = {
        "mean": posterior.mean.detach().unflatten(1, shape),
        "logvar": posterior.logvar.detach().unflatten(1, shape),
        "noise": held.noise,
        "visible": visible.to(torch.uint8),
    }
    for name in held.images:
        seen = held.batch.x[name].unflatten(0, shape)
        arrays[f"seen_{name}"] = torch.from_numpy(pictures.to_bytes(seen))
    rows = [subset_name(row, names) for row in visible]
    facts = {
        "images": held.images,
        "size": list(held.size()),
        "rows": rows,
        "modalities": list(names),
    }
    return Lab(
        "matrix", "Seven ways to be seen, and what each one leaves open", Matrix(),
        lambda state: matrix_pictures(held, arrays, rows, state), page="matrix",
        assets=pack(arrays, held.nets()), facts=facts, states=states,
        gestures={"reconstructions": Gesture((("row", "column"),), "chooses a cell; arrow keys too")},
    )  # fmt: skip


@torch.no_grad()
def matrix_pictures(
    held: Held, arrays: Mapping[str, Tensor], rows: Sequence[str], state: Any
) -> Mapping[str, Picture]:
    """State of `matrix` -> pictures."""
    mean = arrays["mean"][:, state.digit, state.sample]  # (S, D)
    sd = (arrays["logvar"][state.row, state.digit, state.sample] / 2).exp()
    script = held.images[state.column]
    made = held.model.means(mean)
    z = mean[state.row] + state.tau * sd * held.noise  # (16, D)
    drawn = held.model.means(z)[script]
    labels = held.model.decode_label(z).argmax(-1)
    right = float((labels == state.digit).float().mean())
    columns = [list(held.model.modalities).index(n) for n in held.images]
    framed = arrays["visible"][:, columns].bool()
    says = f"{script} drawn 16 times from {rows[state.row]}: {right:.0%} are still labelled {state.digit}."
    grid = torch.stack([made[n] for n in held.images], 1)  # (S, scripts, H, W)
    originals = torch.stack([arrays[f"seen_{n}"][state.digit, state.sample] for n in held.images])
    return {
        "reconstructions": pictures.images(
            grid, rows, held.images, says, framed, (state.row, state.column)
        ),
        "original": pictures.images(originals[None].numpy(), [], held.images, says),
        "draws": pictures.images(drawn.unflatten(0, (4, 4)), [], [], says),
        "numbers": pictures.figures({
            "labelled right": (right, "of the 16 draws"),
            "spread of the draws": (float(drawn.std(0).mean()), "grey, mean sd of a pixel"),
            "posterior sd": (float(sd.log().mean().exp()), "geometric mean"),
        }),
    }  # fmt: skip
