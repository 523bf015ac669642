"""Figures of what goes on inside a model: training, latent space, evidence; see `labkit.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labkit.drawing import (
    ERRORS,
    INK,
    KINDS,
    SOFT,
    Look,
    canvas,
    kind_looks,
    level,
    look,
    pick,
    plain_log,
    right_labels,
    rows_of,
    styled,
)

# Training ----------------------------------------------------------------------------------------


@styled
def learning_curves(
    history_train: Mapping[str, Sequence[float]],
    history_val: Mapping[str, Sequence[float]],
    beta: Sequence[float],
    floor: float | None = None,
    title: str | None = None,
) -> Figure:
    """Draw the poster's Figure 4: joint loss and accuracies over the epochs, and what beta did.

    Args:
        history_train: ``joint``, ``accuracy`` and ``accuracy_<modality>``, a value an epoch.
        history_val: The same on validation samples.
        beta: KL weight at the end of each epoch.
        floor: Majority rate, a fraction.
        title: Instead of the question.

    Raises:
        ValueError: if a curve is absent or has not one value an epoch.
    """
    epochs = np.arange(1, len(beta) + 1)
    curves = {"everything": ("accuracy", Look(INK, "D", "", "-"))}
    for name in history_train:
        if name.startswith("accuracy_"):
            modality = name.removeprefix("accuracy_")
            curves[f"{modality} alone"] = (name, look(modality))
    fig = canvas(
        10, 4.8, title or "What is learned, and how fast?",
        "Thick, with marks: validation samples, after each epoch. Thin, dotted: training samples, mean "
        "while the weights move. The joint loss weighs the KL term by beta, so it is not the same "
        "quantity from epoch to epoch.",
    )  # fmt: skip
    axes = fig.subplot_mosaic([["loss", "accuracy"], ["beta", "accuracy"]], height_ratios=[4, 1.1])
    loss, scale, hits = axes["loss"], axes["beta"], axes["accuracy"]
    last = _train_and_val(loss, epochs, history_train, history_val, "joint", Look(INK, "D"))
    right_labels(loss, [(last, "val", INK), (float(history_train["joint"][-1]), "train", SOFT)])
    loss.set_ylabel("joint loss (nats a sample)")
    loss.tick_params(labelbottom=False)
    scale.plot(epochs, _curve(beta, epochs, "beta"), color=look("kl").color, marker="D", ms=4)
    scale.set(ylabel="beta (KL)", xlabel="epoch", ylim=(0, 1.15 * max(beta)))
    scale.sharex(loss)
    ends = [] if floor is None else [(100 * floor, f"majority {100 * floor:.1f}", SOFT)]
    if floor is not None:
        level(hits, 100 * floor)
    for text, (name, mark) in curves.items():
        last = _train_and_val(hits, epochs, history_train, history_val, name, mark, 100)
        ends.append((last, f"{text} {last:.1f}", mark.color))
    right_labels(hits, ends, 0.06)
    for ax in (scale, hits):
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    hits.set(ylabel="accuracy (% of samples)", xlabel="epoch")
    return fig


def _curve(values: Sequence[float], epochs: np.ndarray, name: str) -> np.ndarray:
    if len(values) != len(epochs):
        raise ValueError(f"{name} has {len(values)} values, beta has {len(epochs)}: one an epoch")
    return np.asarray(values, dtype=float)


def _train_and_val(
    ax: Axes, epochs: np.ndarray, train: Mapping[str, Sequence[float]],
    val: Mapping[str, Sequence[float]], name: str, mark: Look, factor: float = 1,
) -> float:  # fmt: skip
    """Draw one figure's two curves; returns the last validation value."""
    before = factor * _curve(pick(train, name, "history_train"), epochs, name)
    after = factor * _curve(pick(val, name, "history_val"), epochs, name)
    ax.plot(epochs, before, color=mark.color, lw=1.1, ls=(0, (1, 1.2)))
    every = max(1, len(epochs) // 8)
    ax.plot(
        epochs, after, color=mark.color, ls=mark.line, marker=mark.marker, ms=5, markevery=every
    )
    return float(after[-1])


# Latent space ------------------------------------------------------------------------------------


@styled
def precision_bars(share: Any, names: Sequence[str], title: str | None = None) -> Figure:
    """Draw who decides each latent dimension: shares of the product's precision, stacked.

    Args:
        share: (M + 1, D), the prior first; each column sums to 1.
        names: The M modalities.
        title: Instead of the question.

    Raises:
        ValueError: if the shape does not fit the names or the shares do not sum to 1.
    """
    parts = np.asarray(share, dtype=float)
    if parts.ndim != 2 or len(parts) != len(names) + 1:
        raise ValueError(
            f"share must be ({len(names) + 1}, D): prior, {', '.join(names)}; got {parts.shape}"
        )
    if not np.allclose(parts.sum(0), 1, atol=1e-3):
        raise ValueError("share must sum to 1 over prior and modalities, in each dimension")
    order = np.argsort(parts[0], kind="stable")
    fig = canvas(
        10, 4.4, title or "Who decides each latent dimension?",
        "Share of the total precision that each expert brings, mean over samples; dimensions from the "
        "most informed (left) to those left to the prior (right).",
    )  # fmt: skip
    ax = fig.subplots()
    place, base = np.arange(len(order)), np.zeros(len(order))
    for name, values in zip([*names, "prior"], [*parts[1:], parts[0]], strict=True):
        mark = look(name)
        ax.bar(
            place, 100 * values[order], 0.86, bottom=100 * base, fc=mark.color, ec="white", lw=0.6,
            hatch=mark.hatch, label=f"{name}: mean {100 * values.mean():.0f} %",
        )  # fmt: skip
        base = base + values[order]
    few = len(order) <= 40
    ax.set_xticks(
        place if few else place[::16], [str(d) for d in (order if few else place[::16] + 1)]
    )
    ax.tick_params(axis="x", length=0)
    ax.set(xlim=(-0.7, len(order) - 0.3), ylim=(0, 100))
    ax.set_xlabel("latent dimension (its index)" if few else "latent dimensions, by rank")
    ax.set_ylabel("share of the precision (%)")
    ax.legend(
        loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=len(parts), frameon=False,
        fontsize=10, handleheight=1.3, handlelength=2.2, columnspacing=1.6,
    )  # fmt: skip
    return fig


@styled
def flip_rates(
    amplitudes: Sequence[float],
    latents: Any,
    random: Any,
    chance: float,
    published: float | None = 1500.0,
    title: str | None = None,
) -> Figure:
    """Draw how often pushing z along one direction changes the label, by how far it is pushed.

    Args:
        amplitudes: A pushes, in standard deviations of the prior (or of the aggregate posterior).
        latents: (D, A), share of samples whose label flips when a latent is pushed.
        random: (R, A), the same along random directions: the control.
        chance: Flip rate of a label drawn at random, such as 0.9 for ten classes.
        published: Amplitude used by the poster, in the same unit; None = not marked.
        title: Instead of the question.

    Raises:
        ValueError: if a curve has not one value an amplitude.
    """
    at, each, control = np.asarray(amplitudes, dtype=float), rows_of(latents), rows_of(random)
    for name, curves in (("latents", each), ("random", control)):
        if curves.shape[1] != len(at):
            raise ValueError(f"{name} must be (n, {len(at)}), one an amplitude; got {curves.shape}")
    mark = KINDS[1]
    fig = canvas(
        9, 4.8, title or "Does one latent change the digit, or does any large push?",
        f"Grey: each of the {len(each)} latents; black: their mean. Pale, edged: from the least to the most "
        f"sensitive of {len(control)} random directions, the control; diamonds: their mean.",
    )  # fmt: skip
    ax = fig.subplots()
    plain_log(ax, "x")
    band: dict[str, Any] = {"fc": mark.color + "30", "ec": mark.color, "ls": (0, (4, 2)), "lw": 1}
    ax.fill_between(at, 100 * control.min(0), 100 * control.max(0), zorder=1, **band)
    ax.plot(at, 100 * each.T, color="#8a8a8a", lw=0.7, alpha=0.8, zorder=2)
    ax.plot(at, 100 * control.mean(0), color=mark.color, ls="--", marker=mark.marker, lw=2.5, ms=6)
    ax.plot(at, 100 * each.mean(0), color=INK, marker="o", lw=2.5, ms=5)
    ax.set(ylim=(-3, 103), xlim=(at.min() / 1.15, at.max() * 1.15))
    ax.axvspan(ax.get_xlim()[0], 3, color="#f1f1f1", lw=0, zorder=0)
    level(ax, 100 * chance, f"a label drawn at random: {100 * chance:.0f}")
    marks = {3.0: "← 3 sd of the prior "}
    if published is not None:
        ax.axvline(published, color=SOFT, lw=1.2, ls=":")
        marks[published] = f"poster: ±{published:g}"
    for x, text in marks.items():
        ax.annotate(
            text, (x, 1), (0, 3), xycoords=("data", "axes fraction"), fontsize=10, color=SOFT,
            textcoords="offset points", ha="right", va="bottom",
        )  # fmt: skip
    ends = [(each, "latents", INK), (control, "random", "#a34c80")]
    right_labels(ax, [(100 * float(v[:, -1].mean()), text, color) for v, text, color in ends])
    ax.set_xlabel("amplitude of the push, ± (standard deviations of the prior)")
    ax.set_ylabel("label changes (% of samples)")
    return fig


# Evidence ----------------------------------------------------------------------------------------


@styled
def waterfall(
    parts: Mapping[str, float],
    weights: Mapping[str, float],
    beta: float,
    constants: float,
    evidence: float | None = None,
    title: str | None = None,
) -> Figure:
    """Take the loss of one visible subset apart, and go on from it to what it should have been.

    Args:
        parts: Each modality's unweighted error, ``label`` and ``kl``: nats (or squared error) a sample.
        weights: Weight of each modality's error; ``label`` too unless it is 1.
        beta: KL weight of the training loss.
        constants: Log-normalisers of the likelihoods, added to the loss to get -ELBO (nats).
        evidence: Importance-sampled -log p of the same data under the same likelihoods, nats; with the
            label, as -ELBO has it.
        title: Instead of the question.

    Raises:
        ValueError: if a weight has no part, or ``kl`` is absent.
    """
    kl, steps = pick(parts, "kl", "parts"), []
    for name in [*(n for n in weights if n != "label"), *(["label"] if "label" in parts else [])]:
        weight = weights.get(name, 1.0)
        times = "" if weight == 1 else f"{weight:g} × "
        error, _ = pick(ERRORS, name, "labkit.drawing.ERRORS")
        steps.append((f"{times}{error}, {name}", weight * pick(parts, name, "parts"), look(name)))
    steps.append((f"{beta:.3g} × KL", beta * kl, look("kl")))
    trained = sum(value for _, value, _ in steps)
    steps.append(("loss as trained", trained, Look(INK, "o")))
    if beta != 1:
        steps.append((f"the other {1 - beta:.3g} × KL", (1 - beta) * kl, look("kl")))
    steps.append(("likelihoods' constants", constants, look("prior")))
    steps.append(("−ELBO (beta 1)", trained + (1 - beta) * kl + constants, Look(INK, "o")))
    fig = canvas(
        9, 4.9, title or "What is the number that training reports?",
        "Each bar starts where the last one ended; black: sums. −ELBO bounds −log p from above"
        + ("; the loss as trained does not." if beta < 1 else ".")
        + (" Diamond: by importance sampling, a tighter bound." if evidence is not None else ""),
    )  # fmt: skip
    ax = fig.subplots()
    reach = _bars(ax, steps)
    if evidence is not None:
        y = len(steps)  # the row below the last bar
        ax.plot(evidence, y, "D", color=INK, mfc="white", mew=2, ms=9)
        ax.vlines(evidence, y - 0.67, y, color=INK, lw=1.2, ls=":")
        ax.annotate(
            f"{evidence:.1f}", (evidence, y), (9, 0), textcoords="offset points", va="center"
        )
        reach = max(reach, evidence)
    names = [text for text, _, _ in steps] + ["−log p, estimated"] * (evidence is not None)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlim=(0, 1.12 * reach), ylim=(len(names) - 0.4, -0.6), xlabel="nats a sample")
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    return fig


def _bars(ax: Axes, steps: Sequence[tuple[str, float, Look]]) -> float:
    """Bars that start where the last one ended, sums from zero; returns the farthest end."""
    end, reach = 0.0, 0.0
    for y, (_, value, mark) in enumerate(steps):
        start = 0.0 if mark.color == INK else end
        ax.barh(y, value, 0.66, left=start, fc=mark.color, ec="white", lw=0, hatch=mark.hatch)
        end = start + value
        edge = max(start, end)
        if y < len(steps) - 1:
            ax.plot([end, end], [y - 0.33, y + 1.33], color=SOFT, lw=0.8, zorder=0)
        ax.annotate(
            f"{value:+.1f}".replace("-", "−") if mark.color != INK else f"{value:.1f}", (edge, y), (5, 0),
            textcoords="offset points", va="center", fontsize=10,
            fontweight="bold" if mark.color == INK else "normal",
        )  # fmt: skip
        reach = max(reach, edge)
    return reach


@styled
def evidence_curve(
    samples: Sequence[int],
    bounds: Mapping[str, Any],
    ess: Mapping[str, Any],
    title: str | None = None,
) -> Figure:
    """Draw the importance-weighted bound on log p against the draws, and how many of them count.

    Args:
        samples: K, the numbers of draws.
        bounds: Kind of model -> bound in nats a sample, (K,) or (seeds, K).
        ess: Kind of model -> effective share of the draws, ESS / K, likewise.
        title: Instead of the question.

    Raises:
        ValueError: if a curve has not one value a K, or a kind lacks one of the two.
    """
    at = np.asarray(samples, dtype=float)
    fig = canvas(
        10, 4.5, title or "How likely are the data, and how far can the estimate be trusted?",
        "Thick: mean over seeds; thin: one seed each. Left: at K = 1 the bound is the ELBO; it rises "
        "towards log p. Right: where a curve nears the dotted line, one draw carries the whole sum "
        "and the bound is still loose.",
    )  # fmt: skip
    left, right = fig.subplots(1, 2)
    for ax, table, factor in ((left, bounds, 1), (right, ess, 100)):
        ends = []
        plain_log(ax, *("x" if ax is left else "xy"))
        for kind, mark in kind_looks(list(bounds)).items():
            seeds = factor * rows_of(pick(table, kind, "bounds and ess"))
            if seeds.shape[1] != len(at):
                raise ValueError(
                    f"{kind!r} has curves of {seeds.shape[1]} values, samples {len(at)}"
                )
            if len(seeds) > 1:
                ax.plot(at, seeds.T, color=mark.color, lw=0.8, alpha=0.6)
            mean = seeds.mean(0)
            ax.plot(at, mean, color=mark.color, ls=mark.line, marker=mark.marker, lw=2.5)
            ends.append((float(mean[-1]), kind, INK))
        if ax is right:
            ax.plot(at, 100 / at, color=SOFT, lw=1.2, ls=":")
            ends.append((float(100 / at[-1]), "one draw", SOFT))
        right_labels(ax, ends)
        ax.set_xlabel("K, draws for each sample")
    left.set_ylabel("bound on log p (nats a sample)")
    right.set_ylabel("effective draws, ESS / K (%)")
    return fig
