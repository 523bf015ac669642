"""Figures of Algorithm 1 and of students whose teacher lost channels; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from labkit import metrics
from labkit.batch import Batch
from labkit.drawing import INK, SOFT, Look, canvas, level, offsets, plain_log, styled
from labkit.figures_focusing import ROLES, WAYS, _means

Answer = Mapping[str, Any]
RED = "#b22222"


@styled
def heard_and_seen(batch: Batch, count: int = 8, title: str | None = None) -> Figure:
    """Draw a sound and a face of some samples, one of each class as far as there are classes.

    Args:
        batch: audio (B, bands, frames) and face (B, 3, H, W), both in [0, 1]; labels.
        count: Columns.
        title: Instead of the question.
    """
    assert batch.y is not None
    y = batch.y.tolist()
    rows = [y.index(c) for c in sorted(set(y))][:count]
    fig = canvas(
        10.5, 2.9, title or "What do the two show of the same emotion?",
        "Above: what the student sees. Below: what the teacher hears, 40 frequency bands (low ones below) "
        "over time. Over each pair: its class.",
    )  # fmt: skip
    panels = fig.subplots(2, len(rows), squeeze=False, height_ratios=[1, 1.2])
    for (face, sound), i in zip(panels.T, rows, strict=True):
        face.imshow(batch.x["face"][i].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
        sound.imshow(batch.x["audio"][i].cpu().numpy(), origin="lower", aspect="auto", cmap="magma")
        face.set_title(f"{y[i]}", loc="center", fontweight="bold")
        for ax in (face, sound):
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            ax.spines[:].set_visible(False)
    return fig


@styled
def permutation_error(blocks: Sequence[Answer], title: str | None = None) -> Figure:
    """How fast permutations approach the closed form.

    Args:
        blocks: One a seed: ``repeats`` [M], ``error`` and ``correlation`` [M][runs].
        title: Instead of the question.
    """
    fig = canvas(
        9, 3.6, title or "How many permutations are worth one formula?",
        "Mean over the runs of a seed; a line a seed. Dashed: an error that falls as 1 / sqrt(M).",
    )  # fmt: skip
    left, right = fig.subplots(1, 2)
    for block in blocks:
        left.plot(block["repeats"], np.mean(block["error"], 1), "o-", color=INK)
        right.plot(block["repeats"], 1 - np.mean(block["correlation"], 1), "s-", color="#0072B2")
    m, error = np.asarray(blocks[0]["repeats"]), np.mean(blocks[0]["error"][0])
    left.plot(m, error / np.sqrt(m), color=SOFT, lw=1, ls=(0, (4, 2)))
    for ax, said in ((left, "mean |difference| of the scores"), (right, "1 - correlation")):
        plain_log(ax, "x", "y")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set(xlabel="permutations, M", ylabel=said)
    return fig


@styled
def distance_ablation(panels: Mapping[str, Sequence[Answer]], title: str | None = None) -> Figure:
    """Does the distance in joint training matter, or the permutation?

    Args:
        panels: Name of the data -> one answer a seed: ``distances`` [K]; ``all``, ``decisive``, ``weight``
            [K][runs].
        title: Instead of the question.
    """
    fig = canvas(
        10, 4, title or "What finds the shared channels: the permutation, or training to agree?",
        "AUC of shared channels, 1 = all ranked first, 0.5 = by chance. Bars: 95 % interval over the runs, "
        "first "
        "seed. Leftmost: no distance in joint training; published: 1.",
    )  # fmt: skip
    looks = {
        "all": ("score: shared against all others", Look(INK, "o", "", "-")),
        "decisive": ("score: shared against a's own", Look("#009E73", "^", "", "-")),
        "weight": ("mere |weight|: shared against a's own", Look("#CC79A7", "X", "", "--")),
    }
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (name, blocks) in zip(axes, panels.items(), strict=True):
        x = np.arange(len(blocks[0]["distances"]))
        for what, (said, each) in looks.items():
            _means(ax, x, np.asarray(blocks[0][what]), each, said)
        level(ax, 0.5)
        ax.set_xticks(x, [f"{d:g}" for d in blocks[0]["distances"]])
        ax.set(xlabel="weight of the distance", title=name, ylim=(0.25, 1.02))
    axes[0].set_ylabel("AUC")
    axes[0].legend(frameon=False, fontsize=10, loc="lower right")
    return fig


@styled
def surgery(found: Answer, shared: int, title: str | None = None) -> Figure:
    """Teacher and student by the number of channels that the teacher keeps.

    Args:
        found: ``kept`` [K], and way -> ``teacher``, ``student``, ``alone`` [K][runs] in %.
        shared: How many channels are shared.
        title: Instead of the question.
    """
    fig = canvas(
        10, 4.1, title or "How many channels should a teacher keep?",
        "Kept: the best first, by truth (shared, then the teacher's own, then noise), by Algorithm 1, or "
        "at random; "
        f"the teacher is trained anew. Vertical line: {shared} channels are shared. Bars: 95 % interval.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2)
    for way, each in WAYS.items():
        rows = found[way]
        _means(left, found["kept"], np.asarray(rows["teacher"]), each)
        _means(right, found["kept"], np.subtract(rows["student"], rows["alone"]), each, way)
    for ax in (left, right):
        ax.axvline(shared, color=SOFT, lw=1)
        ax.set_xlabel("channels kept, of 50")
    level(right, 0)
    left.set_ylabel("the teacher's right answers (%)")
    right.set_ylabel("the student's gain (points)")
    right.legend(frameon=False, fontsize=10)
    return fig


@styled
def saliency_tails(
    scores: Sequence[float], share: float = 0.25, title: str | None = None
) -> Figure:
    """Redraw the paper's saliency vector: by channel, and sorted with its tails red.

    Args:
        scores: Saliency of each channel in [0, 1].
        share: Share of the channels in each tail.
        title: Instead of the question.
    """
    values = np.asarray(scores)
    fig = canvas(
        9.5, 3.5, title or "How is generality spread over the channels?",
        f"Saliency of {len(values)} channels, 0 to 1. Right: sorted; red: the {100 * share:.0f} % at "
        "either end.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2, sharey=True)
    left.plot(values, "o", ms=4, color=ROLES["teacher"].color)
    ranked, tail = np.sort(values), round(share * len(values))
    color = [RED if i < tail or i >= len(values) - tail else SOFT for i in range(len(values))]
    right.scatter(np.arange(len(values)), ranked, c=color, s=16)
    left.set(xlabel="channel", ylabel="saliency")
    right.set(xlabel="rank")
    return fig


@styled
def lesson_dots(
    lessons: pd.DataFrame,
    ways: Mapping[str, tuple[str, float]],
    majority: float,
    title: str | None = None,
) -> Figure:
    """Accuracy of teachers and students by what the teacher lost; every seed a dot.

    Args:
        lessons: ``way``, ``ratio``, ``seed``, ``teacher``, ``student`` in %.
        ways: Name to write -> way and ratio, in the order drawn.
        majority: Accuracy of the most frequent class in %.
        title: Instead of the question.
    """
    fig = canvas(
        10, 4.2, title or "Whose student learns most?",
        "Held-out accuracy; a small dot a seed, a large mark the mean, bars 95 % interval. Dashed: the "
        "student "
        "without a teacher; dotted: the most frequent class.",
    )  # fmt: skip
    ax = fig.subplots()
    alone = lessons[lessons["way"] == "alone"]["student"].mean()
    for i, (way, ratio) in enumerate(ways.values()):
        rows = lessons[(lessons["way"] == way) & np.isclose(lessons["ratio"], ratio)].sort_values(
            "seed"
        )
        for side, who in ((-0.16, "teacher"), (0.16, "student")):
            values, role = rows[who].to_numpy(float), ROLES[who]
            if np.isnan(values).any():
                continue
            mean, half = metrics.mean_ci(values.tolist())
            ax.plot(
                i + side + offsets(len(values), 0.14),
                values,
                "o",
                ms=3.5,
                color=role.color,
                alpha=0.6,
            )
            ax.errorbar(
                i + side, mean, None if np.isnan(half) else half, color=role.color, marker=role.marker, ms=9,
                capsize=4, label=who if i == 1 else None, ls="none",
            )  # fmt: skip
    ax.axhline(alone, color=ROLES["student"].color, lw=1.2, ls=(0, (4, 2)), zorder=1)
    ax.axhline(majority, color=SOFT, lw=1.2, ls=":", zorder=1)
    ax.set_xticks(range(len(ways)), list(ways))
    ax.set(ylabel="right answers, held-out (%)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=10, loc="upper right")
    return fig


@styled
def table_of_students(
    table: pd.DataFrame, printed: Mapping[str, float], title: str | None = None
) -> Figure:
    """Redraw Table 1: teachers, and what their students gain over the student alone.

    Args:
        table: ``way``, ``seed``, ``teacher`` and ``student`` in %; way ``alone`` has no teacher.
        printed: Way -> the paper's accuracy of the student in %, ``alone`` among them.
        title: Instead of the question.
    """
    fig = canvas(
        9, 3.8, title or "Which of two teachers helps a small student that hears?",
        "Held-out. A dot a seed; bars: mean. Rings: gains printed in the paper's Table 1 (AV-MNIST), on "
        "its own "
        "data and networks.",
    )  # fmt: skip
    ways = [way for way in printed if way != "alone"]
    by = {way: rows.sort_values("seed") for way, rows in table.groupby("way")}
    left, right = fig.subplots(1, 2)
    for i, way in enumerate(ways):
        teacher = by[way]["teacher"].to_numpy(float)
        gain = by[way]["student"].to_numpy(float) - by["alone"]["student"].to_numpy(float)
        for ax, values, role in ((left, teacher, "teacher"), (right, gain, "student")):
            color = ROLES[role].color
            ax.bar(i, values.mean(), color=color, alpha=0.35, width=0.5)
            ax.plot(i + offsets(len(values), 0.2), values, "o", ms=5, color=color)
        right.plot(i + 0.32, printed[way] - printed["alone"], "o", mfc="none", mec=INK, ms=10)
    for ax in (left, right):
        ax.set_xticks(range(len(ways)), [f"teacher {way}" for way in ways])
    left.set(ylabel="the teacher's right answers (%)", ylim=(50, 100))
    right.set_ylabel("the student's gain (points)")
    level(right, 0)
    return fig


@styled
def what_scores_rank(agreed: Answer, title: str | None = None) -> Figure:
    """What the score of Algorithm 1 goes with, channel by channel.

    Args:
        agreed: ``scores``, ``heaviness`` and, where known, ``generality`` [D].
        title: Instead of the question.
    """
    panels = {"heaviness": "the channel's weight in the teacher's logits"}
    if "generality" in agreed:
        panels["generality"] = "share of what it knows that its student sees"
    fig = canvas(
        9.5 if len(panels) > 1 else 5.5, 3.9, title or "What does the score rank a network's channels by?",
        "Each dot is a channel of the teacher; axes: ranks, so that a perfect agreement is a diagonal.",
    )  # fmt: skip
    axes = fig.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    rank = np.argsort(np.argsort(agreed["scores"]))
    for ax, (name, said) in zip(axes, panels.items(), strict=True):
        ax.scatter(np.argsort(np.argsort(agreed[name])), rank, s=16, color=ROLES["teacher"].color)
        ax.set(xlabel=f"rank of {said}")
    axes[0].set_ylabel("rank of the score")
    return fig


@styled
def band_bars(found: Answer, title: str | None = None) -> Figure:
    """What permuting each frequency band of the teacher's input does.

    Args:
        found: ``kind`` of each band: shared, audio or nuisance; ``score`` and ``importance``.
        title: Instead of the question.
    """
    colors = {"shared": "#0072B2", "audio": "#D55E00", "nuisance": "#b0b0b0"}
    hatches = {"shared": "", "audio": "//", "nuisance": ".."}
    fig = canvas(
        10, 3.8, title or "And at the input, where every latent has bands of its own?",
        "Held-out sounds, one band permuted at a time. Left: how much farther the teacher is driven from its "
        "student; right: from itself.",
    )  # fmt: skip
    x = np.arange(len(found["kind"]))
    said = {"score": "score of Algorithm 1", "importance": "mere importance"}
    for ax, (name, label) in zip(fig.subplots(1, 2), said.items(), strict=True):
        for kind, color in colors.items():
            mine = np.array([k == kind for k in found["kind"]])
            word = {"audio": "the teacher's alone"}.get(kind, kind)
            ax.bar(x[mine], np.asarray(found[name])[mine], color=color, hatch=hatches[kind], width=0.8,
                   edgecolor="white", label=word)  # fmt: skip
        level(ax, 0)
        ax.set(xlabel="frequency band", ylabel=label)
    ax.set_ylim(0, 1.3 * max(found["importance"]))
    ax.legend(frameon=False, fontsize=10, loc="upper left")
    return fig


@styled
def ratio_curves(lessons: pd.DataFrame, ways: Sequence[str], title: str | None = None) -> Figure:
    """Teacher and student by the share of channels that the teacher lost, for several ways to choose.

    Args:
        lessons: ``way``, ``ratio``, ``seed``, ``teacher``, ``student`` in %; ratio 0 is way ``all``.
        ways: Ways to draw.
        title: Instead of the question.
    """
    fig = canvas(
        10, 4, title or "How much may a teacher lose?",
        "Held-out accuracy; bars: 95 % interval over the seeds. Dashed: the student without a teacher.",
    )  # fmt: skip
    panels = fig.subplots(1, 2)
    looks = (Look(INK, "o", "", "-"), Look("#CC79A7", "X", "", ":"), Look("#0072B2", "s", "", "--"),
             Look("#009E73", "^", "", "-."))  # fmt: skip
    for ax, who in zip(panels, ("teacher", "student"), strict=True):
        for way, each in zip(ways, looks, strict=False):
            rows = lessons[lessons["way"].isin([way, "all"])]
            by = rows.groupby("ratio")[who].apply(list)
            _means(ax, by.index, np.array(by.tolist()), each, way)
        ax.set(xlabel="share of the channels that the teacher lost", title=f"the {who}")
    alone = lessons[lessons["way"] == "alone"]["student"].mean()
    panels[1].axhline(alone, color=ROLES["student"].color, lw=1.2, ls=(0, (4, 2)))
    panels[0].set_ylabel("right answers, held-out (%)")
    panels[0].legend(frameon=False, fontsize=10)
    return fig
