"""Labs of flows by themselves (DiCMoR): what depth does to them, there and back, with random weights.

What reads trained flows is in `labkit.live.recovering`; masks all ways compared: `labkit.live.masking`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor

from labkit.live import pictures
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, whole
from labkit.models.flow import Mixing, Scale
from labkit.recovering.reading import DEPTHS, inverse_errors, random_flows

BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"
CHANNELS, MOVED = 8, 0.12  # of the random flows, and how far their weights were moved
REACH = 3.0  # how far one number of the input is moved to either side
ROWS = 10  # whose log-determinants are computed


# Half an identity ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Half(State):
    """State of `half`."""

    PRESETS: ClassVar = {
        "As released": {},
        "One step": {"depth": 1},
        "Another half": {"channel": 1},
        "Reversed between steps": {"mixing": "reverse"},
        "Rotated between steps": {"mixing": "orthogonal", "scale": "bounded"},
    }

    mixing: str = choice(
        "none", ("none", "reverse", "orthogonal"), "mixing", "What stands before each coupling: nothing, as "
        "released; the channels in reverse; or a rotation, another one at each step.",
    )  # fmt: skip
    depth: int = whole(32, 1, 32, "steps", "Couplings, one after the other; released: 32.")
    scale: str = choice(
        "sigmoid", ("sigmoid", "bounded"), "scale", "What a coupling multiplies by: sigmoid(q + 2), as "
        "released, or exp(2 tanh(q / 2)), between 0.14 and 7.4.",
    )  # fmt: skip
    channel: int = whole(
        5,
        0,
        CHANNELS - 1,
        "channel",
        "Which of the 8 channels is looked at; 0 to 3 are the first half.",
    )
    seed: int = whole(0, 0, 20, "weights", "Which random weights.")


def half(states: Sequence[str] = ()) -> Lab:
    """What passes a flow untouched, and how straight it leaves the rest."""
    question = Question(
        "32 couplings, nothing between them, as released. Hold the first half of a row fixed and move one "
        "number of the other half: how does its latent move?",
        ("along a curve: 32 steps bend a lot", "along a straight line, as with 1 step", "not at all"),
        answer=1,
        hides=("its latent as it alone moves", "off a straight line"),
        why="The first half passes unchanged, so every step moves and scales the other half by the same "
        "numbers, whatever is in it: 32 affine maps are one. Mixing lets the halves change places.",
        then={"mixing": "none", "depth": 32, "channel": 5},
    )  # fmt: skip
    return Lab(
        "half", "Half an identity: what 32 couplings do", Half(), half_pictures,
        question=question, states=states,
    )  # fmt: skip


@torch.no_grad()
def half_pictures(state: Half) -> Mapping[str, Picture]:
    """State -> pictures of `half`."""
    mixing, scale = cast(Mixing, state.mixing), cast(Scale, state.scale)
    folded = random_flows(state.depth, mixing, scale, CHANNELS, MOVED, state.seed).fold()
    generator, c = torch.Generator().manual_seed(state.seed), state.channel
    x = torch.randn(1, 300, CHANNELS, generator=generator, dtype=torch.float64)
    moved = x[:, :1].repeat(1, 61, 1)
    at = torch.linspace(-REACH, REACH, 61, dtype=torch.float64)
    moved[0, :, c] = at
    z, along = (folded.forward(each)[0][0] for each in (x, moved))
    passed = int((z[:, :, None] == x[0, :, None]).all(0).any(1).sum())
    path, straight, bend = bent(along[:, c])
    says = (
        f"{state.depth} steps, mixing {state.mixing}: {passed} of {CHANNELS} channels pass bit for bit; "
        f"along channel {c} its latent is {'straight' if bend < 1e-5 else 'bent'} ({bend:.1e} of its range)."
    )
    shown = torch.stack([x[0, :, c], z[:, c]], 1)
    reach = max(4.0, float(shown.abs().quantile(0.99)))
    return {
        "the channel before and after": pictures.plane(
            says, samples=shown, path=[[-reach, -reach], [reach, reach]], half=reach,
            axes=(f"x, channel {c}", f"z, channel {c}"),
        ),
        "its latent as it alone moves": pictures.curves(
            at,
            [pictures.line("latent", path, BLUE), pictures.line("straight", straight, "", (3, 3))],
            f"x of channel {c}, the others fixed", "z, as share of its range", says, limits=(-0.05, 1.05),
        ),
        "numbers": pictures.figures({
            "pass unchanged": (passed, f"of {CHANNELS} channels, bit for bit"),
            "off a straight line": (bend, "of the range, at most"),
            "sd of z": (float(z[:, c].std()), "where that of x is 1"),
        }),
    }  # fmt: skip


def bent(z: Tensor) -> tuple[Tensor, Tensor, float]:
    """A curve (N,) over its range, the line between its ends, and how far it leaves that; 0 = straight."""
    low, high = z.min(), z.max()
    path = (z - low) / (high - low).clamp(min=1e-300)
    straight = torch.lerp(path[0], path[-1], torch.linspace(0, 1, len(z), dtype=z.dtype))
    return path, straight, float((path - straight).abs().max())


# There and back ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inverse(State):
    """State of `inverse`."""

    PRESETS: ClassVar = {
        "As released": {"kind": "released", "doublings": 5},
        "As released, in float64": {"kind": "released", "doublings": 5, "precision": "float64"},
        "Ours": {"doublings": 3},
    }

    doublings: int = whole(3, 0, len(DEPTHS) - 1, "doublings", "Steps are 2 to this: 1 to 32.")
    precision: str = choice(
        "float32", ("float32", "float64"), "precision", "Of all that is computed."
    )
    kind: str = choice(
        "ours", ("ours", "released"), "kind", "ours: rotations between the couplings, a bounded scale; "
        "released: no mixing, sigmoid(q + 2).",
    )  # fmt: skip
    row: int = whole(
        0, 0, 9, "row", "Which row of 4 numbers goes through the small flow on the right."
    )


def inverse(states: Sequence[str] = ()) -> Lab:
    """What depth costs: the error of x -> z -> x; and is the log-determinant what autograd says?"""
    question = Question(
        "A flow can be inverted exactly, on paper. In float32, what does going through 32 steps and back "
        "cost, beside 1 step?",
        ("nothing: it is exact", "about ten times the error", "a million times the error"),
        answer=1,
        hides=("error of x, there and back",),
        why="Every step back divides by what the step there multiplied by, and rounds. Here weights are "
        "small; where training makes scales large, errors grow much faster. A bounded scale keeps them.",
        then={"doublings": 5, "precision": "float32"},
    )
    return Lab(
        "inverse", "There and back: the error of the inverse, and the log-determinant", Inverse(),
        inverse_pictures, question=question, states=states,
    )  # fmt: skip


def inverse_pictures(state: Inverse) -> Mapping[str, Picture]:
    """State -> pictures of `inverse`."""
    depth = DEPTHS[state.doublings]
    lines, here = [], 0.0
    for kind, color in (("ours", BLUE), ("released", RED)):
        for precision, dash in (("float32", ()), ("float64", (5, 3))):
            errors = _errors(kind, precision)
            shown = np.log10(np.maximum(errors, 1e-17))
            lines.append(pictures.line(f"{kind} {precision[-2:]}", shown, color, dash))
            if (kind, precision) == (state.kind, state.precision):
                here = errors[state.doublings]
    total, autograd = (each[:, state.row] for each in _running(state.kind, state.precision))
    apart = (total - autograd).abs()[:depth]
    says = (
        f"{state.kind}, {depth} steps in {state.precision}: the inverse is off by {here:.1e} at most. "
        f"The log-determinant is {float(total[depth - 1]):.3f} by the flow, "
        f"{float(autograd[depth - 1]):.3f} by autograd."
    )
    both = torch.cat([total, autograd])
    room = max(0.1, 0.05 * float(both.max() - both.min()))
    return {
        "error of x, there and back": pictures.curves(
            DEPTHS, lines, "steps", "log10 of the largest error", says, limits=(-17, -4), log=True,
            marker=depth,
        ),
        "log-determinant of a row of 4, step by step": pictures.curves(
            np.arange(1, len(total) + 1),
            [
                pictures.line("sum over steps", total, BLUE),
                pictures.line("autograd's Jacobian", autograd, "", (3, 3)),
            ],
            "steps", "log |det dz/dx|, nats", says, marker=depth,
            limits=(float(both.min()) - room, float(both.max()) + room),
        ),
        "numbers": pictures.figures({
            "error": (here, "largest of 200 rows, median over 5 flows"),
            "log-determinant": (float(total[depth - 1]), "nats"),
            "apart": (float(apart.max()), "nats, flow and autograd, at most"),
        }),
    }  # fmt: skip


@lru_cache(maxsize=4)
def _errors(kind: Literal["ours", "released"], precision: str) -> tuple[float, ...]:
    return tuple(inverse_errors(kind, getattr(torch, precision)))


@lru_cache(maxsize=4)
def _running(kind: str, precision: str) -> tuple[Tensor, Tensor]:
    """Log-determinant of a small flow up to each step, (steps, ROWS): its own, and autograd's Jacobian's."""
    mixing, scale = ("orthogonal", "bounded") if kind == "ours" else ("none", "sigmoid")
    flows = random_flows(DEPTHS[-1], cast(Mixing, mixing), cast(Scale, scale), 4, MOVED, 1)
    dtype = getattr(torch, precision)
    folded, eye = flows.to(dtype).fold(), torch.eye(4, dtype=dtype).repeat(ROWS, 1)[None]
    rows = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = rows.to(dtype).repeat_interleave(4, 0)[None].requires_grad_()  # a row of the Jacobian each
    z, total, found = x, torch.zeros(ROWS, dtype=dtype), []
    for step in range(DEPTHS[-1]):
        z, more = folded.steps(step, step + 1).forward(z)
        total = total + more[0, ::4]
        (jacobian,) = torch.autograd.grad(z, x, eye, retain_graph=True)
        found.append((total.detach(), torch.linalg.slogdet(jacobian.view(ROWS, 4, 4))[1]))
    ours, autograd = zip(*found, strict=True)
    return torch.stack(ours), torch.stack(autograd)
