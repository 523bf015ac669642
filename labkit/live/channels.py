"""Labs of Algorithm 1 (MFH): permute a channel of the teacher, and take channels away from it.

Both train in the kernel: the microscope a pair of networks, which is kept while channels are looked at; the
surgeon teachers and students of as many seeds as are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from labkit.data.gaussians import Gaussians, Stack, Venn, narrowed, stack
from labkit.live import pictures
from labkit.live.focusing import COLORS, DASHES
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, number, whole
from labkit.models import mfh

CHANNELS = 50
KINDS = ("shared", "the teacher's alone", "noise")
KIND_COLORS = ("#0072B2", "#D55E00", "#7f7f7f")
POINTS = (1, 2, 5, 8, 10, 12, 15, 20, 30, 40, 50)  # channels kept, on the surgeon's curve


def _venn(only_a: int, both: int) -> Venn:
    return Venn(only_a, both, 0, channels_a=CHANNELS, channels_b=CHANNELS)


def kind_of(channel: int, both: int, only_a: int) -> int:
    """What a channel of the teacher holds, as an index of `KINDS`."""
    return 0 if channel < both else 1 if channel < both + only_a else 2


# The microscope ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(State):
    """State of `microscope`."""

    PRESETS: ClassVar = {
        "As published": {},
        "A channel of the teacher's alone": {"channel": 15},
        "Noise": {"channel": 40},
        "No distance term": {"distance": 0.0},
        "Hard: thirty of its own": {"only_a": 30},
    }

    channel: int = whole(
        3, 0, CHANNELS - 1, "channel", "The channel of the teacher that is permuted."
    )
    permutations: int = whole(
        30, 1, 100, "permutations", "How often it is permuted: M of the paper."
    )
    distance: float = number(
        1.0,
        0,
        10,
        "distance",
        "Weight of the distance of the logits while both are trained; published: 1.",
    )
    both: int = whole(
        10, 5, 20, "shared latents", "Latents that both see: channels 0 to this, less one."
    )
    only_a: int = whole(
        10, 5, 30, "of the teacher alone", "Latents in the teacher's next channels."
    )
    seed: int = whole(42, 0, 100, "seed", "Data and first weights.")


class Pair(NamedTuple):
    """A jointly trained pair over its 200 samples."""

    weight: Tensor  # (2, D), the teacher's
    z: Tensor  # (N, D), its channels
    a: Tensor  # (2, N), its logits
    b: Tensor  # (2, N), the student's
    y: Tensor  # (N,)
    scores: Tensor  # (D,), the closed form


@lru_cache(maxsize=64)
def _pair(only_a: int, both: int, distance: float, seed: int) -> Pair:
    settings = [Gaussians(_venn(only_a, both), script="modify")]
    data = stack(settings, [seed], "train")
    a, b = mfh.joint(data, mfh.first_pair(data, [seed]), distance=distance)
    x_a, x_b = (v.x.gather(2, v.place.expand(*v.x.shape[:2], -1))[0] for v in (data.a, data.b))
    scores, _ = mfh.general_scores(data, (a, b))
    return Pair(a[0, :, :-1], x_a[:, :-1], a[0] @ x_a.T, b[0] @ x_b.T, data.y[0], scores[0])


def microscope(states: Sequence[str] = ()) -> Lab:
    """Permute one channel of the teacher: how far is it driven from its student?"""
    question = Question(
        "Channel 3 holds a latent that both see. Now permute one that only the teacher sees. What of the "
        "distance between the two networks?",
        ("it grows as much", "it grows less, or not at all", "it shrinks by half"),
        answer=1,
        why="What the student cannot see was never part of what they agree on.",
        then={"channel": 15},
    )
    return Lab("microscope", "One channel permuted: Algorithm 1", Look(), look_pictures,
               question=question, states=states)  # fmt: skip


def look_pictures(state: Look) -> Mapping[str, Picture]:
    """State -> pictures of the microscope."""
    pair = _pair(state.only_a, state.both, state.distance, state.seed)
    kind, d = kind_of(state.channel, state.both, state.only_a), state.channel
    moves = torch.stack([_order(len(pair.y), state.seed, m) for m in range(state.permutations)])
    moved = pair.z[:, d][moves] - pair.z[:, d]  # (M, N)
    after = pair.a + pair.weight[:, d][:, None] * moved[:, None]  # (M, 2, N)
    excess = (after - pair.b).square().mean((1, 2)) - (pair.a - pair.b).square().mean()
    running = excess.cumsum(0) / torch.arange(1, state.permutations + 1)
    exact = float(pair.scores[d])
    auc = _aucs(pair, state.both, state.only_a)
    says = (
        f"Channel {d}, {KINDS[kind]}: {float(running[-1]):.3f} after {state.permutations} permutations, "
        f"{exact:.3f} by the formula."
    )
    return {
        "teacher (right) and student (up), permuted": _scatter(after[0], pair, says),
        "mean over permutations": _running(running, exact, says),
        "saliency of every channel": _saliency(pair.scores, d, state.both, state.only_a, says),
        "numbers": pictures.figures({
            "score": (float(running[-1]), f"by {state.permutations} permutations"),
            "formula": (exact, "over all of them"),
            "AUC": (auc[0], "fraction: shared against all others"),
            "AUC decisive": (auc[1], "fraction: shared against the teacher's alone"),
            "AUC by weight": (auc[2], "fraction: the same by |weight|"),
        }),
    }  # fmt: skip


def _order(n: int, seed: int, number: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(1000 * seed + number))


def _scatter(after: Tensor, pair: Pair, says: str) -> Picture:
    """Every sample's logit difference by both networks: a dot now, in its class's colour."""
    teacher, before, student = (pair_[1] - pair_[0] for pair_ in (after, pair.a, pair.b))
    half = 1.05 * float(torch.stack([teacher, before, student]).abs().max())
    return pictures.plane(
        says, points=torch.stack([teacher, student], 1).numpy(), classes=pair.y.numpy(),
        samples=torch.stack([before, student], 1).numpy(), path=[[-half, -half], [half, half]],
        half=half, axes=("teacher's logit", "student's logit"),
    )  # fmt: skip


def _running(running: Tensor, exact: float, says: str) -> Picture:
    count = torch.arange(1, len(running) + 1).numpy()
    if len(count) == 1:  # one point is no line
        count, running = np.array([1, 2]), running.repeat(2)
    values = [*running.tolist(), exact, 0.0]
    room = 0.1 * (max(values) - min(values)) + 1e-3
    lines = [
        pictures.line("mean", running.numpy(), "#0072B2"),
        pictures.line("formula", np.full(len(count), exact), "#D55E00", (6, 4)),
    ]
    limits = (min(values) - room, max(values) + room)
    return pictures.curves(count, lines, "permutations", "excess distance", says, limits=limits)


def _saliency(scores: Tensor, channel: int, both: int, only_a: int, says: str) -> Picture:
    """One curve a kind of channel; elsewhere it lies on the axis."""
    values = mfh.saliency(scores)
    kinds = torch.tensor([kind_of(d, both, only_a) for d in range(CHANNELS)])
    dashes = ((), (6, 4), (2, 3))
    lines = [
        pictures.line(name, torch.where(kinds == k, values, 0.0).numpy(), KIND_COLORS[k], dashes[k])
        for k, name in enumerate(KINDS)
    ]
    return pictures.curves(np.arange(CHANNELS), lines, "channel", "saliency", says, marker=channel)


def _aucs(pair: Pair, both: int, only_a: int) -> tuple[float, float, float]:
    shared, decisive = torch.arange(CHANNELS) < both, torch.arange(CHANNELS) < both + only_a
    weight = pair.weight.abs().mean(0)
    return (
        float(roc_auc_score(shared, pair.scores)),
        float(roc_auc_score(shared[decisive], pair.scores[decisive])),
        float(roc_auc_score(shared[decisive], weight[decisive])),
    )


# The surgeon -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut(State):
    """State of `surgeon`."""

    PRESETS: ClassVar = {
        "The regular teacher": {},
        "Shared channels alone": {"kept": 10, "way": "truth"},
        "As Algorithm 1 ranks": {"kept": 10},
        "At random": {"kept": 10, "way": "random"},
    }

    kept: int = whole(
        50, 1, CHANNELS, "channels kept", "How many channels the teacher keeps; it is trained anew."
    )
    way: str = choice(
        "algorithm", ("truth", "algorithm", "random"), "which", "truth: shared ones first, then the "
        "teacher's "
        "own, then noise; algorithm: those of the highest score; random: any.",
    )  # fmt: skip
    both: int = whole(10, 5, 20, "shared latents", "Latents that both see.")
    only_a: int = whole(10, 5, 30, "of the teacher alone", "Latents that only the teacher sees.")
    runs: int = whole(10, 3, 20, "runs", "Seeds, each with data and first weights of its own.")


class Theatre(NamedTuple):
    """Data of a surgeon's setting, and the order in which each way keeps channels, (S, D)."""

    train: Stack
    test: Stack
    orders: dict[str, Tensor]


@lru_cache(maxsize=16)
def _theatre(only_a: int, both: int, runs: int) -> Theatre:
    seeds, settings = range(runs), [Gaussians(_venn(only_a, both), script="modify")]
    train, test = (stack(settings, seeds, split) for split in ("train", "test"))
    scores, _ = mfh.general_scores(train, mfh.joint(train, mfh.first_pair(train, seeds)))
    drawn = [torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return Theatre(train, test, {
        "truth": torch.arange(CHANNELS).expand(runs, -1),
        "algorithm": scores.argsort(-1, descending=True),
        "random": torch.stack(drawn),
    })  # fmt: skip


@lru_cache(maxsize=1024)
def _operated(only_a: int, both: int, runs: int, way: str, kept: int) -> dict[str, np.ndarray]:
    """Accuracy of teacher, student and student alone in %, (S,) each."""
    theatre = _theatre(only_a, both, runs)
    chosen = theatre.orders[way][:, :kept]
    train, test = (narrowed(data, chosen) for data in (theatre.train, theatre.test))
    found = mfh.crossmodal(train, range(runs)).accuracies(test)
    return {name: 100 * values[:, 0].numpy() for name, values in found.items()}


def surgeon(states: Sequence[str] = ()) -> Lab:
    """Take channels away from the teacher, and train it and its student anew."""
    question = Question(
        "Ten of the teacher's fifty channels are shared. Keep only the ten that Algorithm 1 ranks highest. "
        "The "
        "teacher falls from 89 % to 73 %. Its student?",
        ("falls, too", "stays", "gains two points"),
        answer=2,
        why="What the teacher gave up was noise to its student.",
        then={"kept": 10},
    )
    return Lab("surgeon", "The channel surgeon: teacher and student, retrained", Cut(), cut_pictures,
               question=question, states=states)  # fmt: skip


def cut_pictures(state: Cut) -> Mapping[str, Picture]:
    """State -> pictures of the surgeon."""
    setting = (state.only_a, state.both, state.runs, state.way)
    now = _operated(*setting, state.kept)
    gain = now["student"] - now["alone"]
    chosen = _theatre(*setting[:3]).orders[state.way][:, : state.kept]
    shared, own = (
        float(((chosen >= low) & (chosen < high)).sum(1).double().mean()) / (high - low)
        for low, high in ((0, state.both), (state.both, state.both + state.only_a))
    )
    says = (
        f"{state.kept} channels kept: teacher {now['teacher'].mean():.1f} %, student "
        f"{now['student'].mean():.1f} %, without a teacher {now['alone'].mean():.1f} %."
    )
    curve = [_operated(*setting, kept) for kept in POINTS]
    return {
        "right answers": pictures.bars(
            list(COLORS), [float(now[n].mean()) / 100 for n in COLORS], says,
            colors=list(COLORS.values()), unit="probability",
        ),
        "the teacher": _over_kept([c["teacher"].mean() for c in curve], "teacher", state.kept, says),
        "what its student gains": _over_kept(
            [(c["student"] - c["alone"]).mean() for c in curve], "student", state.kept, says
        ),
        "kept": pictures.bars(
            list(KINDS[:2]), [shared, own], says, colors=list(KIND_COLORS[:2]), unit="share kept"
        ),
        "numbers": pictures.figures({
            "gain": (float(gain.mean()), "points from the teacher"),
            "sd of the gain": (float(gain.std()), f"points over {state.runs} runs"),
            "student": (float(now["student"].mean()), "% right"),
            "teacher": (float(now["teacher"].mean()), "% right"),
        }),
    }  # fmt: skip


def _over_kept(values: Sequence[float], who: str, kept: int, says: str) -> Picture:
    """A curve over the channels kept; the marker stands where the slider does."""
    points = np.asarray(values)
    if who == "teacher":
        limits, label = (50.0, 100.0), "right answers (%)"
    else:
        limits, label = (
            (min(-0.5, float(points.min()) - 0.2), max(2.5, float(points.max()) + 0.2)),
            "points",
        )
    lines = [pictures.line(who, points, COLORS[who], DASHES[who])]
    return pictures.curves(POINTS, lines, "channels kept", label, says, marker=kept, limits=limits)
