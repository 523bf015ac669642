"""Labs of what was recovered (DiCMoR): one sample in the theatre, and all of them as a distribution.

They read trained models from the store; what is not there yet is trained when a lab first asks for it. How
classes fare is in `labkit.live.judging`, what comes of two sources in `labkit.live.merging`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.data.affect import Affect
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, toggle, whole
from labkit.metrics_gap import sliced_wasserstein
from labkit.models.predictor import shown
from labkit.recovering.plan import FLOWS, TUNED, Setting
from labkit.recovering.reading import Opened, opened

WAYS = (*FLOWS, *TUNED, "regression", "MVAE", "same class", "zeros")
WAY_HELP = (
    "What fills in. Flows: one Gaussian a class or a single one, with latents of a sample paired or not, or "
    "the released flow, half an identity; tuned: after the paper's last stage, which refines what was "
    "recovered. Same class: a training sample of the true class, an oracle."
)
SAMPLE_HELP = "Which held-out sample."


def names_of(setting: Setting) -> list[str]:
    """Names of the modalities."""
    return [name for name, _ in setting.predictor.modalities]


def asked(setting: Setting, question: Question) -> Question | None:
    """Questions are about the procedural sentiment data, whose answers are known."""
    return question if isinstance(setting.data, Affect) else None


def source_and_target(names: Sequence[str], source: str, target: str) -> tuple[int, int]:
    """Indices of two modalities.

    Raises:
        ValueError: if they are one.
    """
    if source == target:
        raise ValueError(
            f"{target} is visible: choose another modality to recover, or another source"
        )
    return names.index(source), names.index(target)


def choices(names: Sequence[str], source: int = 0, target: int = -1) -> list[Any]:
    """The fields ``source`` and ``target``."""
    return [
        ("source", str, choice(names[source], names, "from", "The one modality that is visible.")),
        ("target", str, choice(names[target], names, "recovered", "The modality that is filled in.")),
    ]  # fmt: skip


# What was filled in, kept ------------------------------------------------------------------------------


class Split(NamedTuple):
    """The true features of the held-out split."""

    x: Tensor  # (M, B, T, D)
    valid: Tensor  # (B, T)
    y: Tensor  # (B,)
    mean: Tensor  # (M, 1, 1, D)
    deviation: Tensor
    low: Tensor  # (M, 1, 1, D): 2nd percentile of each feature
    high: Tensor


@lru_cache(maxsize=8)
def split_of(setting: Setting, seed: int, device: str = "cpu") -> Split:
    """Held-out features and their scales; kept while the kernel runs."""
    at = opened(setting, "true", seed, device)
    x, valid, y = at.seen.x.cpu(), at.seen.valid.cpu(), at.batch.y
    assert y is not None
    rows = [each[valid] for each in x]
    low, high = torch.stack([torch.quantile(r, torch.tensor([0.02, 0.98]), 0) for r in rows], 1)
    scales = [
        torch.stack([r.mean(0) for r in rows]),
        torch.stack([r.std(0, correction=0).clamp(min=1e-3) for r in rows]),
        low,
        torch.maximum(high, low + 1e-3),
    ]
    return Split(x, valid, y.cpu(), *[s[:, None, None] for s in scales])


@lru_cache(maxsize=32)
def filled(
    setting: Setting, way: str, seed: int, visible: tuple[bool, ...], device: str = "cpu"
) -> Tensor:
    """Features of the whole split with what is not visible filled in, (M, B, T, D)."""
    return opened(setting, way, seed, device).filled(visible).cpu()


class Compared(NamedTuple):
    """One modality as it was filled in, beside what is true, in units of each feature's deviation."""

    true: Tensor  # (N, D) rows
    made: Tensor
    swd: float
    cosine: Tensor  # (B,): mean over the steps of a sample
    said: Tensor  # (B,): the class that the judge reads


@lru_cache(maxsize=32)
def compared(
    setting: Setting, way: str, seed: int, visible: tuple[bool, ...], target: int, device: str
) -> Compared:
    """See `Compared`; kept while the kernel runs."""
    split, x = split_of(setting, seed, device), filled(setting, way, seed, visible, device)
    true, made = ((each - split.mean)[target] / split.deviation[target] for each in (split.x, x))
    cosine = (F.cosine_similarity(true, made, dim=-1) * split.valid).sum(1) / split.valid.sum(1)
    at = opened(setting, way, seed, device)
    said = at.read(x.to(at.seen.x.device), target).argmax(-1).cpu()
    true, made = true[split.valid], made[split.valid]
    return Compared(true, made, float(sliced_wasserstein(made, true)), cosine, said)


def strip(x: Tensor, split: Split, modality: int, sample: int) -> Tensor:
    """Features (T, D) of a sample as grey (H, W): a row a feature, a column a step; white after its end.

    Of a single step, features stand side by side.
    """
    low, high = (each[modality, 0] for each in (split.low, split.high))
    grey = torch.where(split.valid[sample, :, None], (x - low) / (high - low), 1.0)
    grey = grey if len(x) == 1 else grey.T
    tall, wide = -(-16 // len(grey)), -(-24 // grey.shape[1])  # pixels of a number
    return grey.repeat_interleave(tall, 0).repeat_interleave(wide, 1)


def one(at: Opened, sample: int) -> Opened:
    """The same of one sample."""
    return at.part(slice(sample, sample + 1))


@torch.no_grad()
def on_gaps(at: Opened, visible: Sequence[bool]) -> Tensor:
    """Probabilities of the predictor that was trained on gaps, with nothing filled in, (B, C)."""
    mask = torch.as_tensor(visible, device=at.seen.x.device).expand_as(at.seen.observed)
    return at.judge.answer(shown(at.seen.x, mask), at.seen.length).softmax(-1)


# The theatre -----------------------------------------------------------------------------------------


def theatre(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """One sample: what is visible, what is filled in, and what the predictor makes of it.

    Args:
        setting: Data and sizes; see `labkit.recovering.plan`.
        seed: Of all that was trained.
        device: Where to compute.
        states: State lines; see `Lab`.
    """
    names, last = names_of(setting), len(split_of(setting, seed, device).y) - 1
    fields = [
        ("sample", int, whole(0, 0, last, "sample", SAMPLE_HELP)),
        *[
            (name, bool, toggle(m == 0, name, "Is it visible? What is not is filled in."))
            for m, name in enumerate(names)
        ],
        ("way", str, choice("class prior", WAYS, "filled in by", WAY_HELP)),
    ]
    first = {name: m == 0 for m, name in enumerate(names)}
    presets: dict[str, Mapping[str, Any]] = {
        f"Only {names[0]}": first, f"All but {names[0]}": {n: not on for n, on in first.items()},
        "Paired": {"way": "class prior, paired"}, "Regression": {"way": "regression"},
        "The released flow": {"way": "half-identity"},
    }  # fmt: skip
    question = Question(
        f"Only {names[0]} is visible. Flows with class priors fill in the rest; latents were not paired. "
        "What does it look like?",
        (f"this sample's own {names[-1]}", "one of its class, hardly its own", "the mean of all"),
        answer=1,
        hides=("features over time; framed: visible", "cosine", "cosine of all"),
        why="Likelihood makes what is recovered distributed as what is true, class by class; nothing pairs "
        "one sample's modalities. So the cosine to its own is not much above that of any sample of the class "
        "(same class). A regression comes nearer, and gives up variety for it.",
        then={**first, "way": "class prior"},
    )
    return Lab(
        "theatre", "Recovery theatre: one sample, filled in", state_of("theatre", fields, presets),
        lambda state: theatre_pictures(setting, seed, device, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


def theatre_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `theatre`."""
    names, i = names_of(setting), state.sample
    visible = tuple(getattr(state, name) for name in names)
    if not any(visible):
        raise ValueError(f"nothing is visible: tick at least one of {', '.join(names)}")
    split = split_of(setting, seed, device)
    x = filled(setting, state.way, seed, visible, device)
    hidden = [m for m, on in enumerate(visible) if not on]
    targets = hidden or [*range(len(names))]
    found = [compared(setting, state.way, seed, visible, m, device) for m in targets]
    at, y = one(opened(setting, state.way, seed, device), i), int(split.y[i])
    where = at.seen.x.device
    whole_, recovered = (at.answer(each[:, i : i + 1].to(where))[0].cpu() for each in (split.x, x))
    gaps = on_gaps(at, visible)[0].cpu()
    own = float(np.mean([float(each.cosine[i]) for each in found]))
    swd = float(np.mean([each.swd for each in found]))
    read = float(np.mean([float((each.said == split.y).double().mean()) for each in found]))
    what = together([names[m] for m in hidden]) if hidden else "nothing"
    says = (
        f"Sample {i}, class {y}: {what} filled in from {together([n for n in names if getattr(state, n)])} "
        f"by {state.way}. Cosine to its own {own:.2f}. The predictor says {_said(recovered)}, with "
        f"everything seen {_said(whole_)}; one that was trained on gaps says {_said(gaps)}."
    )
    if hidden:
        reads = [
            f"{names[m]} as {int(each.said[i])}" for m, each in zip(targets, found, strict=True)
        ]
        says += f" The judge reads {together(reads)}."
    strips = [
        torch.stack([strip(each[m, i], split, m, i) for m in range(len(names))])
        for each in (split.x, x)
    ]
    classes = likeliest((recovered, gaps, whole_), y)
    labels = [f"{c}, true" if c == y else str(c) for c in classes]
    colors = [GREEN if c == y else GREY for c in classes]
    bars = {
        title: pictures.bars(
            labels, p[classes], says, unit="probability", colors=colors, marks=whole_[classes]
        )
        for title, p in (
            ("predictor, filled in; ticks: all seen", recovered),
            ("trained on gaps; ticks: all seen", gaps),
        )
    }
    return {
        "features over time; framed: visible": pictures.images(
            torch.stack(strips).numpy(), ["true", "filled in"], names, says,
            [visible, [False] * len(names)],
        ),
        **bars,
        "numbers": pictures.figures({
            "cosine": (own, "to its own, 1 = the same"),
            "cosine of all": (
                float(np.mean([float(each.cosine.mean()) for each in found])), "mean of the split"
            ),
            "sliced Wasserstein": (swd, "deviations, over the split"),
            "judge": (100 * read, "% of the split read as their class"),
        }),
    }  # fmt: skip


def _said(p: Tensor) -> str:
    return f"{int(p.argmax())} ({float(p.max()):.0%})"


def likeliest(answers: Sequence[Tensor], y: int, most: int = 6) -> list[int]:
    """The classes that are worth a bar: all of a few, else the likeliest ones and the true one, in order."""
    if len(answers[0]) <= most:
        return [*range(len(answers[0]))]
    order = torch.stack([*answers]).amax(0).argsort(descending=True).tolist()
    return sorted({y, *order[: most - 1]})


# The gap ---------------------------------------------------------------------------------------------

EDGES = np.linspace(-4, 4, 42)  # of the histograms, in deviations
CELLS = 32  # of the pictures of two features, each way


def gap(setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()) -> Lab:
    """The distribution of what was filled in beside the true one; arguments as `theatre`."""
    names, width = names_of(setting), setting.predictor.channels
    fields = [
        ("feature", int, whole(0, 0, width - 1, "feature", "Which feature's density is drawn.")),
        *choices(names),
        ("way", str, choice("class prior", WAYS, "filled in by", WAY_HELP)),
    ]
    presets = {way.capitalize(): {"way": way} for way in ("class prior", "regression", "zeros")}
    question = Question(
        "A regression is as near to what is true as can be, in mean squared error. How wide is the density "
        "of what it recovers, beside the true one?",
        ("as wide", "narrower", "wider"),
        answer=1,
        why="It answers with the mean of all that could be true, and a mean varies less. A draw varies as "
        "the truth does and lies farther from it: near, or alike as a distribution, not both.",
        then={"way": "regression"},
    )
    return Lab(
        "gap", "Distribution gap: what was filled in, and what is true", state_of("gap", fields, presets),
        lambda state: gap_pictures(setting, seed, device, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


def gap_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `gap`."""
    names, width = names_of(setting), setting.predictor.channels
    source, target = source_and_target(names, state.source, state.target)
    visible = tuple(m == source for m in range(len(names)))
    found = compared(setting, state.way, seed, visible, target, device)
    f, other = state.feature, (state.feature + 1) % width
    both = (found.true, found.made)
    density = [
        np.histogram(each[:, f], EDGES)[0] / (len(each) * (EDGES[1] - EDGES[0])) for each in both
    ]
    spread = [float(each[:, f].quantile(0.9) - each[:, f].quantile(0.1)) for each in both]
    ratio = spread[1] / max(spread[0], 1e-6)
    cosine = float(found.cosine.mean())
    says = (
        f"{state.target} recovered from {state.source} by {state.way}: feature {f} spreads over {ratio:.2f} "
        f"of the true range; sliced Wasserstein distance {found.swd:.3f} deviations, cosine to its own "
        f"{cosine:.2f}."
    )
    inner = EDGES[::2] * 0.875  # both features within 3.5 deviations
    cells = [
        np.histogram2d(each[:, other], each[:, f], bins=np.linspace(inner[0], inner[-1], CELLS + 1))[0]
        for each in both
    ]  # fmt: skip
    top = np.quantile(cells[0], 0.995)
    grey = np.stack([np.flipud(1 - np.clip(each / max(top, 1), 0, 1) ** 0.5) for each in cells])
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    return {
        "density of the feature": pictures.curves(
            middle,
            [
                pictures.line("true", density[0]),
                pictures.line("filled in", density[1], RED if state.way == "regression" else BLUE, (6, 3)),
            ],
            f"feature {f} of {state.target}, deviations", "density", says,
            limits=(0, 1.5 * float(density[0].max())),
        ),
        "this feature (right) and the next (up)": pictures.images(
            grey[None].repeat(3, 2).repeat(3, 3), [], ["true", "filled in"], says
        ),
        "numbers": pictures.figures({
            "sliced Wasserstein": (found.swd, "deviations, all features"),
            "spread": (ratio, "of the true 10th to 90th percentile"),
            "cosine": (cosine, "to its own, mean"),
        }),
    }  # fmt: skip
