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
from torch import Tensor

from labkit.data.gaussians import Gaussians, Stack, Venn, narrowed, stack
from labkit.live import pictures
from labkit.live.focusing import COLORS, DASHES
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, whole
from labkit.models import mfh

CHANNELS = 50
KINDS = ("shared", "teacher's own", "noise")
KIND_COLORS = ("#009E73", "#CC79A7", "#7f7f7f")  # not those of teacher and student
KIND_DASHES = ((), (6, 4), (2, 3))
POINTS = (1, 2, 5, 8, 10, 12, 15, 20, 30, 40, 50)  # channels kept, on the surgeon's curve


def _venn(only_a: int, both: int) -> Venn:
    return Venn(only_a, both, 0, channels_a=CHANNELS, channels_b=CHANNELS)


def _ranges(both: int, only_a: int) -> tuple[tuple[int, int], ...]:
    """First channel of each of `KINDS`, and the one after its last."""
    return (0, both), (both, both + only_a), (both + only_a, CHANNELS)


def kind_of(channel: int, both: int, only_a: int) -> int:
    """What a channel of the teacher holds, as an index of `KINDS`."""
    return 0 if channel < both else 1 if channel < both + only_a else 2


# The microscope ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look(State):
    """State of `microscope`."""

    PRESETS: ClassVar = {
        "As published": {},
        "A channel of the teacher's own": {"channel": 15},
        "Noise": {"channel": 40},
        "No distance term": {"distance": "0"},
        "Hard: thirty of its own": {"only_a": 30},
    }

    channel: int = whole(
        3, 0, CHANNELS - 1, "channel", "The channel of the teacher that is permuted."
    )
    permutations: int = whole(
        30, 1, 100, "permutations", "How often it is permuted: M of the paper."
    )
    distance: str = choice(
        "1", ("0", "0.1", "0.3", "1", "3", "10"), "distance", "Weight of the distance of the logits while "
        "both are trained; published: 1.",
    )  # fmt: skip
    both: int = whole(
        10, 5, 20, "shared latents", "Latents that both see: channels 0 to this, less one."
    )
    only_a: int = whole(10, 5, 30, "teacher's own", "Latents in the teacher's next channels.")
    seed: int = whole(42, 0, 100, "seed", "Data and first weights.")


class Pair(NamedTuple):
    """A jointly trained pair over its 200 samples, and how well three rankings of channels do."""

    weight: Tensor  # (2, D), the teacher's
    z: Tensor  # (N, D), its channels
    a: Tensor  # (2, N), its logits
    b: Tensor  # (2, N), the student's
    y: Tensor  # (N,)
    scores: Tensor  # (D,), the closed form
    aucs: tuple[float, float, float]  # score against all others, against a's own; |weight| likewise


@lru_cache(maxsize=64)
def _pair(only_a: int, both: int, distance: float, seed: int) -> Pair:
    settings = [Gaussians(_venn(only_a, both), script="modify")]
    data = stack(settings, [seed], "train")
    a, b = mfh.joint(data, mfh.first_pair(data, [seed]), distance=distance)
    x_a, x_b = (v.x.gather(2, v.place.expand(*v.x.shape[:2], -1))[0] for v in (data.a, data.b))
    weight, scores = a[0, :, :-1], mfh.general_scores(data, (a, b))[0][0]
    decisive = both + only_a
    aucs = (
        auc(scores, both), auc(scores[:decisive], both), auc(weight.abs().mean(0)[:decisive], both)
    )  # fmt: skip
    return Pair(weight, x_a[:, :-1], a[0] @ x_a.T, b[0] @ x_b.T, data.y[0], scores, aucs)


def auc(scores: Tensor, both: int) -> float:
    """Share of pairs of a shared channel (the first `both`) and another that scores (D,) put in order."""
    gap = scores[:both, None] - scores[both:]
    return float(((gap > 0).double() + (gap == 0).double() / 2).mean())


def microscope(states: Sequence[str] = ()) -> Lab:
    """Permute one channel of the teacher: how far is it driven from its student?"""
    question = Question(
        "Channel 3 holds a latent that both see. Now permute one that only the teacher sees. What of the "
        "distance between the two networks?",
        ("it grows as much", "it grows less, or not at all", "it shrinks by half"),
        answer=1,
        hides=("saliency of every channel", "AUC", "AUC decisive"),
        why="What the student cannot see was never part of what they agree on.",
        then={"channel": 15},
    )
    return Lab("microscope", "One channel permuted: Algorithm 1", Look(), look_pictures,
               question=question, states=states)  # fmt: skip


def look_pictures(state: Look) -> Mapping[str, Picture]:
    """State -> pictures of the microscope."""
    pair = _pair(state.only_a, state.both, float(state.distance), state.seed)
    kind, d = kind_of(state.channel, state.both, state.only_a), state.channel
    after = _permuted(pair, d, state.permutations, state.seed)
    excess = (after - pair.b).square().mean((1, 2)) - (pair.a - pair.b).square().mean()
    running = excess.cumsum(0) / torch.arange(1, state.permutations + 1)
    exact = float(pair.scores[d])
    says = (
        f"Channel {d}, {KINDS[kind]}: {float(running[-1]):.3f} after {state.permutations} permutations, "
        f"{exact:.3f} by the formula."
    )
    return {
        "teacher (right), student (up); dots: before": _scatter(after[0], pair, says),
        "mean over permutations": _running(running, pair.scores, d, kind, says),
        "saliency of every channel": _saliency(pair.scores, d, state.both, state.only_a, says),
        "numbers": pictures.figures({
            "score": (float(running[-1]), f"by {state.permutations} permutations"),
            "formula": (exact, "over all of them"),
            "AUC": (pair.aucs[0], "fraction: shared against all others"),
            "AUC decisive": (pair.aucs[1], "fraction: shared against the teacher's alone"),
            "AUC by weight": (pair.aucs[2], "fraction: the same by |weight|"),
        }),
    }  # fmt: skip


def _permuted(pair: Pair, channel: int, count: int, seed: int) -> Tensor:
    """The teacher's logits (M, 2, N) after each of the first `count` permutations of a channel."""
    orders = torch.stack([permutation(len(pair.y), seed, m) for m in range(count)])
    moved = pair.z[:, channel][orders] - pair.z[:, channel]  # (M, N)
    return pair.a + pair.weight[:, channel][:, None] * moved[:, None]


def permutation(n: int, seed: int, number: int) -> Tensor:
    """The same for every channel, so that channels are compared by what they hold."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1000 * seed + number))


def _scatter(after: Tensor, pair: Pair, says: str) -> Picture:
    """Every sample's logit difference by both networks: a dot before, in its label's colour after."""
    teacher, before, student = (logits[1] - logits[0] for logits in (after, pair.a, pair.b))
    half = 1.05 * float(torch.stack([teacher, before, student]).abs().max())
    return pictures.plane(
        says, points=torch.stack([teacher, student], 1).numpy(), classes=pair.y.numpy(),
        samples=torch.stack([before, student], 1).numpy(), path=[[-half, -half], [half, half]],
        half=half, axes=("teacher's logit", "student's logit"),
    )  # fmt: skip


def _running(running: Tensor, scores: Tensor, channel: int, kind: int, says: str) -> Picture:
    """One scale for all channels, so that a teacher's own lies where it should: near 0."""
    count = torch.arange(1, len(running) + 1).numpy()
    if len(count) == 1:  # one point is no line
        count, running = np.array([1, 2]), running.repeat(2)
    lines = [
        pictures.line(f"channel {channel}, {KINDS[kind]}", running.numpy(), KIND_COLORS[kind]),
        pictures.line("formula", np.full(len(count), float(scores[channel])), "", (6, 4)),
    ]
    values = torch.cat([running, scores, torch.zeros(1)])
    room = 0.05 * float(values.max() - values.min())
    limits = (float(values.min()) - room, float(values.max()) + room)
    return pictures.curves(count, lines, "permutations", "excess distance", says, limits=limits)


def _saliency(scores: Tensor, channel: int, both: int, only_a: int, says: str) -> Picture:
    """One curve a kind of channel, NaN elsewhere: it ends where its channels do."""
    values = mfh.saliency(scores)
    kinds = torch.tensor([kind_of(d, both, only_a) for d in range(CHANNELS)])
    lines = [
        pictures.line(name, torch.where(kinds == k, values, torch.nan).numpy(), color, dash)
        for k, (name, color, dash) in enumerate(zip(KINDS, KIND_COLORS, KIND_DASHES, strict=True))
    ]
    return pictures.curves(np.arange(CHANNELS), lines, "channel", "saliency", says, marker=channel)


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
        "teacher's own, then noise; algorithm: those of the highest score; random: any.",
    )  # fmt: skip
    both: int = whole(10, 5, 20, "shared latents", "Latents that both see.")
    only_a: int = whole(10, 5, 30, "teacher's own", "Latents that only the teacher sees.")
    runs: int = whole(10, 3, 20, "runs", "Seeds, each with data and first weights of its own.")


class Theatre(NamedTuple):
    """Data of a surgeon's setting, and what a student learns there without a teacher."""

    train: Stack
    test: Stack
    alone: np.ndarray  # (S,), %


@lru_cache(maxsize=4)
def _theatre(only_a: int, both: int, runs: int) -> Theatre:
    settings = [Gaussians(_venn(only_a, both), script="modify")]
    train, test = (stack(settings, range(runs), split) for split in ("train", "test"))
    found = mfh.crossmodal(train, range(runs)).accuracies(test)
    return Theatre(train, test, 100 * found["alone"][:, 0].numpy())


@lru_cache(maxsize=16)
def _order(only_a: int, both: int, runs: int, way: str) -> Tensor:
    """The order in which channels are kept, (S, D)."""
    if way == "truth":  # shared, then a's own, then noise
        return torch.arange(CHANNELS).expand(runs, -1)
    if way == "random":
        drawn = [torch.Generator().manual_seed(seed) for seed in range(runs)]
        return torch.stack([torch.randperm(CHANNELS, generator=g) for g in drawn])
    train, seeds = _theatre(only_a, both, runs).train, range(runs)
    scores, _ = mfh.general_scores(train, mfh.joint(train, mfh.first_pair(train, seeds)))
    return scores.argsort(-1, descending=True)


@lru_cache(maxsize=512)
def _operated(
    only_a: int, both: int, runs: int, way: str, counts: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Accuracy in % of ``teacher`` and ``student`` for each count of channels kept, (S, K) each.

    The channels stand in the order in which they are kept, so that a teacher sees the first of them: all
    counts are rows of one descent.
    """
    theatre, width = _theatre(only_a, both, runs), max(counts)
    kept = _order(only_a, both, runs, way)[:, :width]
    train, test = (narrowed(data, kept) for data in (theatre.train, theatre.test))
    starts = [_first(seed, counts, width) for seed in range(runs)]
    first, second = (torch.stack(part) for part in zip(*starts, strict=True))
    seen = torch.arange(width + 1) < torch.tensor(counts)[:, None]
    seen[:, -1] = True  # the ones
    teacher = mfh.descend(train.a.x, train.y, first, seen=None if seen.all() else seen)
    student = mfh.descend(
        train.b.x, train.y, train.b.spread(second),
        losses=[mfh.Distillation()] * len(counts), teacher=teacher @ train.a.x.mT,
    )  # fmt: skip
    return {
        "teacher": 100 * mfh.accuracy(test.a.x, test.y, teacher).numpy(),
        "student": 100 * mfh.accuracy(test.b.x, test.y, student).numpy(),
    }


def _first(seed: int, counts: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
    """First weights of teachers (K, width + 1) and students (K, D + 1), as `mfh.crossmodal` draws them."""
    teachers, students = [], []
    for count in counts:
        generator = torch.Generator().manual_seed(seed + 1)
        own = mfh.first_weights(count, generator)
        teachers.append(torch.cat([own[:-1], own.new_zeros(width - count), own[-1:]]))
        students.append(mfh.first_weights(CHANNELS, generator))
    return torch.stack(teachers), torch.stack(students)


def surgeon(states: Sequence[str] = ()) -> Lab:
    """Take channels away from the teacher, and train it and its student anew."""
    question = Question(
        "Ten of the teacher's fifty channels are shared. Keep only the ten that Algorithm 1 ranks highest. "
        "The teacher falls from 89 % to 73 %. Its student?",
        ("falls, too", "stays", "gains two points"),
        answer=2,
        hides=("what its student gains",),
        why="What the teacher gave up was noise to its student.",
        then={"kept": 10},
    )
    return Lab("surgeon", "The channel surgeon: teacher and student, retrained", Cut(), cut_pictures,
               question=question, states=states)  # fmt: skip


def cut_pictures(state: Cut) -> Mapping[str, Picture]:
    """State -> pictures of the surgeon."""
    data = (state.only_a, state.both, state.runs)
    curve, alone = _operated(*data, state.way, POINTS), _theatre(*data).alone
    here = (state.kept,)
    counts, found = (
        (POINTS, curve) if state.kept in POINTS else (here, _operated(*data, state.way, here))
    )
    now = {name: values[:, counts.index(state.kept)] for name, values in found.items()}
    now["alone"] = alone
    gain = now["student"] - alone
    chosen = _order(*data, state.way)[:, : state.kept]
    says = (
        f"{state.kept} channels kept: teacher {now['teacher'].mean():.1f} %, student "
        f"{now['student'].mean():.1f} %, without a teacher {alone.mean():.1f} %."
    )
    return {
        "right answers; ticks: the best possible": pictures.bars(
            list(COLORS), [float(now[n].mean()) / 100 for n in COLORS], says,
            colors=list(COLORS.values()), marks=_best(state, chosen), unit="probability",
        ),
        "the teacher": _over_kept(curve["teacher"].mean(0), "teacher", state.kept, says),
        "what its student gains": _over_kept(
            (curve["student"] - alone[:, None]).mean(0), "student", state.kept, says
        ),
        "channels kept, by kind": _kept(state, chosen),
        "numbers": pictures.figures({
            "gain": (float(gain.mean()), "points from the teacher"),
            "sd of the gain": (float(gain.std()), f"points over {state.runs} runs"),
            "student": (float(now["student"].mean()), "% right"),
            "teacher": (float(now["teacher"].mean()), "% right"),
        }),
    }  # fmt: skip


def _best(state: Cut, chosen: Tensor) -> list[float]:
    """The best possible accuracy of teacher, student and student alone."""
    decisive = state.both + state.only_a
    counts = (chosen < decisive).sum(1).tolist()  # latents that the teacher still sees, (S,)
    teacher = np.mean([Venn(count, 0, decisive - count).bayes("a") for count in counts])
    student = _venn(state.only_a, state.both).bayes("b")
    return [float(teacher), student, student]


def _kept(state: Cut, chosen: Tensor) -> Picture:
    """Share of the channels of each kind that are kept, over all seeds."""
    ranges = _ranges(state.both, state.only_a)
    shares = [
        float(((chosen >= low) & (chosen < high)).sum(1).double().mean()) / max(high - low, 1)
        for low, high in ranges
    ]  # both and only_a may leave no noise
    says = ", ".join(
        f"{share:.0%} of {high - low} {name}"
        for share, (low, high), name in zip(shares, ranges, KINDS, strict=True)
    )
    return pictures.bars(
        list(KINDS), shares, f"Kept: {says}.", colors=list(KIND_COLORS), unit="share kept"
    )


def _over_kept(values: np.ndarray, who: str, kept: int, says: str) -> Picture:
    """A curve over the channels kept; the marker stands where the slider does."""
    label, limits = "right answers (%)", (50.0, 100.0)
    if who == "student":
        label, limits = "points", (min(-0.5, values.min() - 0.2), max(2.5, values.max() + 0.2))
    lines = [pictures.line(who, values, COLORS[who], DASHES[who])]
    return pictures.curves(POINTS, lines, "channels kept", label, says, marker=kept, limits=limits)
