"""Figures of teachers and students on Gaussian data; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labkit import metrics
from labkit.drawing import INK, SOFT, Look, canvas, level, right_labels, rows_of, styled

# The three models: everywhere in notebooks 03 and 04.
ROLES = {
    "teacher": Look("#0072B2", "s", "//", "-"),
    "student": Look("#D55E00", "o", "", "-"),
    "alone": Look(SOFT, "d", "", (0, (2, 1.5))),
}
NAMES = {"teacher": "teacher", "student": "student", "alone": "student alone"}
# Ways to choose a general teacher's channels.
WAYS = {
    "truth": Look(INK, "o", "", "-"),
    "algorithm": Look("#009E73", "^", "", "--"),
    "random": Look("#CC79A7", "X", "", ":"),
}

Answer = Mapping[str, Any]


@styled
def focus_curves(
    blocks: Sequence[Answer],
    of: str,
    printed: Mapping[str, Sequence[float]] | None = None,
    runs: int | None = None,
    title: str | None = None,
) -> Figure:
    """Redraw Figure 2 or 3: what teacher and student get right, and what the teacher gave its student.

    Args:
        blocks: One a seed: ``x`` [R], and ``teacher``, ``student``, ``alone`` [R][runs] in %.
        of: What x is: gamma or alpha.
        printed: The paper's curves, drawn as rings.
        runs: Runs behind the paper's curves: the left panel shows the means of as many; None = all.
        title: Instead of the question.
    """
    first = {name: np.asarray(blocks[0][name])[:, :runs] for name in ROLES}
    x, drawn = blocks[0]["x"], first["teacher"].shape[1]
    fig = canvas(
        10, 4.3, title or f"What becomes of teacher and student when {of} grows?",
        f"Left: held-out accuracy, mean over {drawn} runs; band: ± 1 standard deviation of the gain; rings: "
        "the paper's figure. Right: accuracy with the teacher minus without, over "
        f"{np.shape(blocks[0]['teacher'])[1]} runs a seed; bars: 95 % interval of the mean; a line a seed.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2, width_ratios=[1.25, 1])
    labels = []
    for name, role in ROLES.items():
        mean = first[name].mean(1)
        left.plot(x, mean, color=role.color, ls=role.line, marker=role.marker)
        if printed is not None:
            ring: dict[str, Any] = {"mfc": "none", "mec": INK, "ms": 11, "mew": 1, "ls": "none"}
            left.plot(x, printed[name], "o", **ring)
        labels.append((float(mean[-1]), NAMES[name], role.color))
    mean, sd = first["student"].mean(1), (first["student"] - first["alone"]).std(1)
    left.fill_between(x, mean - sd, mean + sd, color=ROLES["student"].color, alpha=0.15, lw=0)
    left.set(xlabel=of, ylabel="right answers, held-out (%)")
    right_labels(left, labels)
    for shift, block in zip(_shifts(len(blocks), x), blocks, strict=True):
        gain = np.subtract(block["student"], block["alone"])
        _means(right, np.asarray(block["x"]) + shift, gain, ROLES["student"])
    level(right, 0, "no teacher")
    right.set(xlabel=of, ylabel="the student's gain (points)")
    return fig


def _shifts(count: int, x: Sequence[float]) -> np.ndarray:
    """Places of the seeds beside each other, so that their bars can be told apart."""
    return (np.arange(count) - (count - 1) / 2) * 0.012 * (max(x) - min(x))


def _means(ax: Axes, x: Any, values: np.ndarray, look: Look, label: str | None = None) -> None:
    """Means of values (R, runs) with the 95 % interval of each."""
    mean, half = np.transpose([metrics.mean_ci(row.tolist()) for row in np.asarray(values)])
    ax.errorbar(
        x, mean, half, color=look.color, ls=look.line, marker=look.marker, capsize=3, label=label
    )


@styled
def two_scripts(curves: Mapping[str, Answer], title: str | None = None) -> Figure:
    """The same figure made in two ways, side by side on one scale: name -> answer as in `focus_curves`."""
    fig = canvas(
        10, 3.9, title or "Which of the two drew the paper's figure?",
        "Held-out accuracy; bars: 95 % interval of the mean over the runs.",
    )  # fmt: skip
    panels = fig.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for ax, (name, found) in zip(panels, curves.items(), strict=True):
        for role, each in ROLES.items():
            _means(ax, found["x"], np.asarray(found[role]), each, NAMES[role])
        ax.set(xlabel="gamma", title=name)
    panels[0].set_ylabel("right answers, held-out (%)")
    panels[0].legend(frameon=False, fontsize=10)
    return fig


@styled
def teachers_map(found: Answer, ranks: Mapping[str, float], title: str | None = None) -> Figure:
    """Every teacher a dot: what its student gained, over how good it is and over gamma.

    Args:
        found: ``gamma`` [R], and ``teacher``, ``student``, ``alone`` [R][runs] in %.
        ranks: Rank correlation of the gain with ``teacher`` (accuracy) and ``gamma``.
        title: Instead of the question.
    """
    gain = np.mean(np.subtract(found["student"], found["alone"]), 1)
    accuracy, gamma = np.mean(found["teacher"], 1), np.asarray(found["gamma"])
    fig = canvas(
        10, 4.3, title or "A good teacher: one that is right, or one that looks where its student can see?",
        f"{len(gain)} teachers of one and the same student; a dot is the mean over "
        f"{np.shape(found['teacher'])[1]} runs. Colour: the other panel's axis.",
    )  # fmt: skip
    axes = fig.subplots(1, 2, sharey=True)
    sides = (
        (axes[0], accuracy, gamma, "the teacher's right answers (%)", "gamma", ranks["teacher"]),
        (axes[1], gamma, accuracy, "gamma", "teacher (%)", ranks["gamma"]),
    )
    for ax, x, color, said, other, rank in sides:
        dots = ax.scatter(x, gain, c=color, cmap="cividis", s=34, edgecolor="white", linewidth=0.5)
        fig.colorbar(dots, ax=ax, label=other)
        ax.set(xlabel=said, title=f"rank correlation {rank:+.2f}".replace("-", "−"))
        level(ax, 0)
    axes[0].set_ylabel("the student's gain (points)")
    return fig


@styled
def weight_profiles(profiles: Mapping[str, Answer], title: str | None = None) -> Figure:
    """How much each model relies on each channel.

    Args:
        profiles: Teacher -> ``teacher``, ``student``, ``alone``: mean |weight| [channels] each.
        title: Instead of the question.
    """
    fig = canvas(
        10, 3.9, title or "Where does a teacher move its student's weights?",
        "Mean |weight| over the runs. Of 50 latents, b (the student) shows 0 to 9; a (the teacher) the same, "
        "or 10 to 19. All other channels are noise.",
    )  # fmt: skip
    panels = fig.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
    for ax, (name, found) in zip(panels, profiles.items(), strict=True):
        ax.axvspan(-0.5, 9.5, color="#f1ede2", zorder=0)
        for role, each in ROLES.items():
            ax.plot(found[role], color=each.color, ls=each.line, lw=1.6, label=NAMES[role])
        ax.set(
            xlabel="channel",
            title=f"{name}",
            ylim=(0, None),
            xlim=(-0.5, len(found["alone"]) - 0.5),
        )
    panels[0].set_ylabel("mean |weight|")
    panels[0].legend(frameon=False, fontsize=10)
    return fig


@styled
def loss_knobs(rows: Sequence[Answer], title: str | None = None) -> Figure:
    """The student's gain over the weight of its teacher, at gamma 0 and 1, for every kind of KL.

    Args:
        rows: ``weight``, ``reduction``, ``temperature``, ``gain`` [2][runs].
        title: Instead of the question.
    """
    fig = canvas(
        10, 4.1, title or "Can the loss repair a teacher that looks elsewhere?",
        "Bars: 95 % interval of the mean. The labels' cross-entropy has weight 1; published: mean, weight 1. "
        "mean at weight w is batchmean at w / 2: its curve is the other's, stretched.",
    )  # fmt: skip
    panels = fig.subplots(1, 2)
    kinds = list(dict.fromkeys((row["reduction"], row["temperature"]) for row in rows))
    looks = (Look("#D55E00", "o", "", "-"), Look(INK, "s", "", "-"), Look("#009E73", "^", "", "--"),
             Look("#56B4E9", "v", "", ":"))  # fmt: skip
    for side, (ax, name) in enumerate(
        zip(panels, ("nothing in common", "all in common"), strict=True)
    ):
        for each, (reduction, temperature) in zip(looks, kinds, strict=True):
            mine = [
                r for r in rows if (r["reduction"], r["temperature"]) == (reduction, temperature)
            ]
            heat = "" if temperature == 1 else f", temperature {temperature:g}"
            gain = np.array([r["gain"][side] for r in mine])
            _means(ax, [r["weight"] for r in mine], gain, each, reduction + heat)
        level(ax, 0)
        ax.set(xlabel="weight of the teacher", title=f"gamma {side}: {name}")
    panels[0].set_ylabel("the student's gain (points)")
    panels[0].legend(frameon=False, fontsize=10)
    return fig


@styled
def general_teachers(blocks: Sequence[Sequence[Answer]], title: str | None = None) -> Figure:
    """Draw Table 2: what giving up channels does to the teacher, and to its student.

    Args:
        blocks: One a seed: rows with ``gamma``, ``regular`` and the ways of choosing, each with ``teacher``
            and ``student`` [runs] in %.
        title: Instead of the question.
    """
    fig = canvas(
        10, 4.2, title or "What if the teacher forgets all that its student cannot see?",
        "Against the teacher of all channels and its student (dashed line); bars: 95 % interval, paired. "
        "As many channels stay as are shared: the shared ones, those that Algorithm 1 ranks highest, or any.",
    )  # fmt: skip
    panels = fig.subplots(1, 2)
    for ax, model in zip(panels, ("teacher", "student"), strict=True):
        for shift, block in zip(_shifts(len(blocks), (0.25, 0.75)), blocks, strict=True):
            x = np.array([row["gamma"] for row in block]) + shift
            for way, each in WAYS.items():
                change = [np.subtract(row[way][model], row["regular"][model]) for row in block]
                _means(ax, x, np.array(change), each, way if block is blocks[0] else None)
        level(ax, 0)
        ax.set(xlabel="gamma of the regular teacher", title=f"the {model}")
    panels[0].set_ylabel("change of right answers (points)")
    panels[1].legend(frameon=False, fontsize=10, title="channels kept", loc=(0.35, 0.28))
    return fig


@styled
def ceilings(found: Answer, title: str | None = None) -> Figure:
    """How good can one be when part of what decides is seen by nobody?

    Args:
        found: ``x`` hidden latents, ``bayes`` in % [R]; ``teacher``, ``student``, ``alone`` [R][runs] in %.
        title: Instead of the question.
    """
    fig = canvas(
        8.6, 4.1, title or "How good can a student be if nobody sees all that decides?",
        "Ten latents are seen by both; the others by nobody. Bars: 95 % interval. The ceiling is the best "
        "that any rule can reach: 1/2 + arcsin(sqrt(10 / latents)) / pi. Trained on 200 samples.",
    )  # fmt: skip
    ax = fig.subplots()
    x = np.arange(len(found["x"]))
    ax.plot(x, found["bayes"], color=INK, lw=1.5, marker="_", ms=16)
    labels = [(float(found["bayes"][-1]), "ceiling", INK)]
    for role, each in ROLES.items():
        values = rows_of(found[role])
        _means(ax, x, values, each)
        labels.append((float(values[-1].mean()), NAMES[role], each.color))
    ax.set_xticks(x, [str(hidden) for hidden in found["x"]])
    ax.set(xlabel="latents that nobody sees", ylabel="right answers, held-out (%)")
    right_labels(ax, labels)
    return fig
