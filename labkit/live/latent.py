"""Latent labs: push one latent (Figure 3), walk the plane, go from one digit to another.

Each lab shows one model and a few held-out samples; the page computes it from the same arrays (the
functions of the same names in page/labs.js).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.drawing import look
from labkit.latent.space import published_shifts, spherical, straight
from labkit.live import pictures
from labkit.live.decoder import pack
from labkit.live.held import AMPLITUDES, LIMIT, Held
from labkit.live.lab import Gesture, Lab, Question
from labkit.live.pictures import Picture
from labkit.live.samples import SAMPLE_HELP, SAMPLES
from labkit.live.state import State, choice, number, whole
from labkit.models.mvae import MVAE

SATURATED = 20.0  # |logit|: a pixel that no gradient reaches any more
_DIGIT = "Which digit the latents are inferred from, all modalities visible."

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
        ("sample", int, whole(0, 0, SAMPLES - 1, "sample", SAMPLE_HELP)),
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
        hides=("flip rate",),
        why="Far from the data any direction changes the label.",
        then={"amplitude": LIMIT, "direction": "random"},
    )
    arrays = {
        "mean": held.mean, "sd": held.sd, "directions": held.directions, "flips": held.flips,
        "random_flips": held.random_flips, "amplitudes": torch.tensor(AMPLITUDES),
        "spread": held.spread, **held.rank(),
    }  # fmt: skip
    facts = {"images": held.images, "size": list(held.size), "saturated": SATURATED}
    return Lab(
        "probe", "Figure 3 under the microscope: 100 pushes of one latent",
        probe_state(model.config.latent, index), lambda state: probe_pictures(held, state),
        page="probe", assets=pack(arrays, held.nets("identity")), facts=facts,
        question=question, states=states,
    )  # fmt: skip


@torch.no_grad()
def probe_pictures(held: Held, state: Any) -> Mapping[str, Picture]:
    """State of `probe` -> pictures."""
    random = state.direction == "random"
    z = held.mean[state.digit, state.sample]
    axis = held.directions[state.index] if random else torch.eye(len(z))[state.index]
    sd = (held.spread if random else held.sd)[state.index]
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
            pictures.line("a random one", held.random_flips[state.index], "#D55E00", (6, 4)),
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
    says = "decodes the point under it; a click or the arrow keys move the ring"
    half = min(6.0, 1.15 * float(held.many.mean.abs().quantile(0.995).clamp(min=2.5)))
    arrays = {"points": held.many.mean, "classes": held.classes.to(torch.uint8), **held.rank()}
    facts = {"images": held.images, "size": list(held.size), "half": half}
    return Lab(
        "plane", "The latent plane: every point is a digit in every script", Map(),
        lambda state: plane_pictures(held, half, state), page="plane",
        assets=pack(arrays, held.nets()), facts=facts, states=states,
        gestures={"map": Gesture((("x", "y"),), says, hover=True)},
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
            says, points=held.many.mean, classes=held.classes, ellipses=[prior], handles=[z.tolist()],
            half=half,
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
    start_sample: int = whole(0, 0, SAMPLES - 1, "left sample", SAMPLE_HELP)
    end_sample: int = whole(0, 0, SAMPLES - 1, "right sample", SAMPLE_HELP)


STEPS = 9  # pictures on the way


def between(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """Walk from one sample to another, straight or on an arc; arguments as `probe`."""
    held = Held.of(model, batch)
    facts = {"images": held.images, "size": list(held.size), "steps": STEPS}
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
    path = walk(ends[:1], ends[1:], torch.linspace(0, 1, 41))[:, 0].float()  # (41, D)
    here = walk(ends[:1], ends[1:], torch.tensor([state.t]))[0, 0].float()
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
