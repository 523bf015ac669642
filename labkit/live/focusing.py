"""Focusing lab: move gamma or alpha, and teacher and students are trained anew under your hand (MFH).

Every move of a slider is a real experiment in the kernel: draws of the data, three models a seed, 1,000
steps of descent each, and their test accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from labkit.data.gaussians import Gaussians, Stack, Venn, increase_alpha, increase_gamma, stack
from labkit.live import pictures
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.state import State, choice, number, whole
from labkit.models.mfh import Distillation, Trained, crossmodal

COLORS = {"teacher": "#0072B2", "student": "#D55E00", "alone": "#7f7f7f"}
DASHES = {"teacher": (), "student": (6, 4), "alone": (2, 3)}
BOTH, ONLY_A = tuple(range(0, 11, 2)), tuple(range(0, 41, 10))  # the points of Figures 2 and 3
SHADES = {"noise": 40, "alone": 140, "both": 255}
_LOSS = "of what the student minimises."


@dataclass(frozen=True)
class Focus(State):
    """State of `gamma` and `alpha`."""

    PRESETS: ClassVar = {
        "As published": {},
        "Labels only": {"teacher": 0.0},
        "Teacher only": {"labels": 0.0, "reduction": "batchmean"},
        "The released hyperplane": {"hyperplane": "randn"},
    }

    amount: int = whole(4, 0, 10, "shared latents", "Decisive latents that both modalities show.")
    labels: float = number(1.0, 0, 3, "labels", f"Weight of the labels' cross-entropy {_LOSS}")
    teacher: float = number(1.0, 0, 3, "teacher", f"Weight of KL(teacher || student) {_LOSS}")
    temperature: float = number(
        1.0, 0.2, 10, "temperature", "Both softmaxes of the KL are of logits over this.", log=True
    )
    reduction: str = choice(
        "mean", ("mean", "batchmean"), "KL is a", "mean over samples and classes (as released), or over "
        "samples (the textbook): half the weight, or all of it.",
    )  # fmt: skip
    hyperplane: str = choice(
        "ones", ("ones", "randn"), "hyperplane", "Latents weigh the same (the paper's figures), or "
        "weights are drawn (the released script).",
    )  # fmt: skip
    runs: int = whole(10, 3, 30, "runs", "Seeds, each with data and first weights of its own.")


@dataclass(frozen=True)
class More(Focus):
    """State of `alpha`."""

    amount: int = whole(
        20, 0, 40, "latents of a alone", "Decisive latents that only the teacher's modality shows."
    )


def gamma(states: Sequence[str] = ()) -> Lab:
    """Figure 2: raise the share that both modalities see, at an equally good teacher."""
    question = Question(
        "Raise the number of shared latents. The teacher stays as good as it is. What of its student?",
        ("nothing: it learns from a teacher of the same accuracy", "it gains", "it loses"),
        answer=1,
        hides=("accuracy over gamma",),
        why="What counts is how much of what the teacher uses the student can see, too.",
        then={"amount": 10},
    )
    return _lab(
        "gamma", "More in common: gamma, retrained", Focus(), increase_gamma, BOTH, question, states
    )


def alpha(states: Sequence[str] = ()) -> Lab:
    """Figure 3: give the teacher what the student cannot see. It gets far better; does its student?"""
    question = Question(
        "Give the teacher 40 more latents that the student cannot see: it is right 89 % of the time, not "
        "58. What of its student?",
        ("it gains, too: a better teacher", "nothing", "it gains less than from the worse teacher"),
        answer=2,
        hides=("accuracy over alpha",),
        why="The better teacher answers from what its student cannot see.",
        then={"amount": 40},
    )
    return _lab(
        "alpha",
        "A better teacher: alpha, retrained",
        More(),
        increase_alpha,
        ONLY_A,
        question,
        states,
    )


def _lab(
    name: str, title: str, initial: Focus, venn: Any, points: tuple[int, ...], question: Question,
    states: Sequence[str],
) -> Lab:  # fmt: skip
    def compute(state: Any) -> Mapping[str, Picture]:
        return focus_pictures(state, venn, points)

    return Lab(name, title, initial, compute, question=question, states=states)


def focus_pictures(state: Any, venn: Any, points: tuple[int, ...]) -> Mapping[str, Picture]:
    """State -> pictures; `venn` makes the data of an amount, `points` are the amounts of the curve."""
    seeds = tuple(range(state.runs))
    loss = Distillation(state.labels, state.teacher, state.temperature, state.reduction)
    here = venn(state.amount)
    train, test = (_stacked((here,), state.hyperplane, seeds, split) for split in ("train", "test"))
    trained = crossmodal(train, seeds, loss)
    accuracies = {name: 100 * v[:, 0] for name, v in trained.accuracies(test).items()}
    gain = accuracies["student"] - accuracies["alone"]
    share, of = (here.gamma, "gamma") if venn is increase_gamma else (here.alpha, "alpha")
    says = (
        f"{of} {share:.2f}: teacher {accuracies['teacher'].mean():.1f} %, student "
        f"{accuracies['student'].mean():.1f} %, without a teacher {accuracies['alone'].mean():.1f} %."
    )
    # No formula says how good one can be where weights are drawn.
    best = [here.bayes("a"), here.bayes("b"), here.bayes("b")] if state.hyperplane == "ones" else []
    return {
        "right answers": pictures.bars(
            list(COLORS), [float(accuracies[n].mean()) / 100 for n in COLORS], says,
            colors=list(COLORS.values()), marks=best, unit="probability",
        ),
        f"accuracy over {of}": _figure(
            _curve(loss, venn, points, state.hyperplane, seeds),
            [getattr(venn(amount), of) for amount in points], of, share, says,
        ),
        "channels of a and b": pictures.images(_channels(here), ["a", "b"], [], says),
        "weight on each channel of b": _weights(trained, train, says),
        "numbers": pictures.figures({
            "gamma": (here.gamma, "of the latents seen, shared"),
            "alpha": (here.alpha, "a's alone"),
            "gain": (float(gain.mean()), "points from the teacher"),
            "sd of the gain": (float(gain.std(correction=0)), f"points over {state.runs} runs"),
            "student": (float(accuracies["student"].mean()), "% right"),
            "teacher": (float(accuracies["teacher"].mean()), "% right"),
        }),
    }  # fmt: skip


def _figure(
    curve: Mapping[str, np.ndarray], at: Sequence[float], of: str, share: float, says: str
) -> Picture:
    """Accuracies over gamma or alpha; `share` is where the slider stands."""
    values = np.concatenate(list(curve.values()))
    lines = [pictures.line(name, curve[name], COLORS[name], DASHES[name]) for name in curve]
    limits = (5 * np.floor(values.min() / 5), 5 * np.ceil(values.max() / 5))
    return pictures.curves(at, lines, of, "right answers (%)", says, marker=share, limits=limits)


def _weights(trained: Trained, data: Stack, says: str) -> Picture:
    """How much the student relies on each channel, with its teacher and without."""
    columns = data.b.place[0, :-1]
    size = {n: getattr(trained, n)[:, 0, columns].abs().mean(0) for n in ("student", "alone")}
    lines = [pictures.line(n, values, COLORS[n], DASHES[n]) for n, values in size.items()]
    top = float(max(values.max() for values in size.values()))
    return pictures.curves(
        np.arange(len(columns)), lines, "channel", "mean |weight|", says, limits=(0, top)
    )


@lru_cache(maxsize=64)
def _stacked(venns: tuple[Venn, ...], hyperplane: Any, seeds: tuple[int, ...], split: Any) -> Stack:
    return stack([Gaussians(venn, hyperplane=hyperplane) for venn in venns], seeds, split)


@lru_cache(maxsize=8)
def _curve(
    loss: Distillation, venn: Any, points: tuple[int, ...], hyperplane: str, seeds: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """The whole figure: mean accuracy in percent at every point, (P,) each. Kept while gamma moves."""
    venns = tuple(venn(amount) for amount in points)
    trained = crossmodal(_stacked(venns, hyperplane, seeds, "train"), seeds, loss)
    found = trained.accuracies(_stacked(venns, hyperplane, seeds, "test"))
    return {name: 100 * values.mean(0).numpy() for name, values in found.items()}


def _channels(venn: Venn) -> torch.Tensor:
    """What each channel holds, as strips of grey blocks (2, 1, H, W): noise dark, shared white, else grey."""
    width = max(venn.channels_a, venn.channels_b)
    strips = torch.zeros(2, width)
    views = ((venn.channels_a, venn.a), (venn.channels_b, venn.b))
    for strip, (channels, (start, stop)) in zip(strips, views, strict=True):
        strip[:channels] = SHADES["noise"]
        strip[start:stop] = SHADES["alone"]
        strip[venn.shared] = SHADES["both"]
    return strips.repeat_interleave(4, 1)[:, None, None].expand(2, 1, 30, 4 * width) / 255
