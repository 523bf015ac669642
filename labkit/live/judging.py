"""Labs of classes (DiCMoR): clouds of latents, whose class is recovered, and when recovery beats looking.

They read trained models from the store, as those of `labkit.live.recovering`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit import metrics
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of
from labkit.live.pictures import Picture
from labkit.live.recovering import (
    WAY_HELP,
    WAYS,
    asked,
    choices,
    names_of,
    source_and_target,
)
from labkit.live.state import choice, number, whole
from labkit.live.still import CLASSES
from labkit.models.dicmor import DiCMoR
from labkit.recovering.plan import Setting
from labkit.recovering.reading import (
    EPOCHS,
    latents_of,
    learned,
    noisy,
    opened,
    plane_of,
    swapped,
)

# Clouds of latents -----------------------------------------------------------------------------------

ALL = "all"
PRIORS = ("class prior", "single prior")
POINTS = 400  # held-out samples


class Look(NamedTuple):
    """Flows and prior at one time of their training."""

    z: Tensor  # (M, B, D) mean latents
    mean: Tensor  # (K, D) of the prior
    sd: Tensor
    right: Tensor  # (M + 1,): accuracy of p(y|z) from each modality, and from all
    gap: float  # between modalities, of a class, over that between classes


class Clouds(NamedTuple):
    """A training, looked at after each of `EPOCHS`, on the plane of its last look."""

    looks: list[Look]
    y: Tensor
    centre: Tensor
    directions: Tensor
    middle: Tensor  # (2,) of the plane's points
    half: float


@lru_cache(maxsize=4)
def clouds_of(setting: Setting, way: str, seed: int, device: str = "cpu") -> Clouds:
    """See `Clouds`; trains what is not in the store, and keeps it while the kernel runs."""
    batch = setting.recipe(seed).load("test", device=device)[:POINTS]
    looks = [_look(learned(setting, way, epochs, seed, device), batch) for epochs in EPOCHS]
    centre, directions = plane_of(looks[-1].z)
    flat = ((looks[-1].z - centre) @ directions).flatten(0, 1)
    middle = flat.median(0).values
    half = 1.25 * float((flat - middle).abs().quantile(0.99))
    assert batch.y is not None
    return Clouds(looks, batch.y.cpu(), centre, directions, middle, half)


@torch.no_grad()
def _look(model: DiCMoR, batch: Any) -> Look:
    z, (names, y) = latents_of(model, batch).cpu(), (list(model.shapes), batch.y)
    seen = torch.eye(len(names), dtype=torch.bool, device=y.device)
    subsets = torch.cat([seen, seen.any(0, keepdim=True)])
    right = [metrics.accuracy(model.classify(batch, s.expand(len(y), -1)), y) for s in subsets]
    present = y.unique()
    means = torch.stack([z[:, y.cpu() == c].mean(1) for c in present.cpu()], 1)  # (M, K, D)
    between_modalities = torch.cdist(means.transpose(0, 1), means.transpose(0, 1))  # (K, M, M)
    between_classes = torch.cdist(means, means)  # (M, K, K)
    gap = _off_diagonal(between_modalities) / max(_off_diagonal(between_classes), 1e-9)
    sd = model.prior.log_sd.exp().expand_as(model.prior.mean)
    return Look(z, model.prior.mean.cpu(), sd.cpu(), torch.tensor([float(r) for r in right]), gap)


def _off_diagonal(x: Tensor) -> float:
    """Mean of square matrices (..., N, N) without their diagonals."""
    n = x.shape[-1]
    return float(x.sum((-1, -2)).mean() / max(n * (n - 1), 1))


def classes(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """Mean latents of held-out samples and the prior's Gaussians, while they are learnt.

    Args:
        setting: Data and sizes; see `labkit.recovering.plan`.
        seed: Of all that was trained.
        device: Where to compute.
        states: State lines; see `Lab`.
    """
    names, last = names_of(setting), len(EPOCHS) - 1
    after = ", ".join(map(str, EPOCHS))
    fields = [
        ("look", int, whole(last, 0, last, "look", f"When: after {after} epochs.")),
        ("prior", str, choice(PRIORS[0], PRIORS, "prior", "One Gaussian a class, the same for all "
         "modalities, or one for everything.")),
        ("modality", str, choice(ALL, (ALL, *names), "latents of", "Whose latents are drawn.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Before training": {"look": 0}, "Trained": {},
        **{f"{name.capitalize()} alone": {"modality": name} for name in names},
        "One Gaussian for all": {"prior": PRIORS[1]},
    }  # fmt: skip
    question = Question(
        "Each modality's flow is trained by its own likelihood alone; no sample is paired. Will a class lie "
        "at the same place in all modalities' latents?",
        ("no: nothing ties them", "yes, nearly: they share its Gaussian", "only by chance"),
        answer=1,
        hides=("mean latents; ellipses: the prior", "while it learns", "modalities apart"),
        why="The class's Gaussian is one and the same for all flows, so each must send the class there. With "
        "a single Gaussian nothing says where a class goes, and each flow puts it elsewhere.",
        then={"look": last, "prior": PRIORS[0], "modality": ALL},
    )  # fmt: skip
    return Lab(
        "classes", "Class clouds: where flows send what they see", state_of("classes", fields, presets),
        lambda state: class_pictures(clouds_of(setting, state.prior, seed, device), names, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


def class_pictures(clouds: Clouds, names: Sequence[str], state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `classes`."""
    look, which = clouds.looks[state.look], [ALL, *names].index(state.modality) - 1
    chosen = look.z if which < 0 else look.z[which : which + 1]
    points = ((chosen - clouds.centre) @ clouds.directions).flatten(0, 1)
    y = clouds.y.repeat(len(chosen))
    mean = (look.mean - clouds.centre) @ clouds.directions  # (K, 2)
    sd = (look.sd.square() @ clouds.directions.square()).sqrt()
    few = len(mean) <= 10
    ellipses = [
        pictures.ellipse(
            "prior" if len(mean) == 1 else str(c) if few else "",
            mean[c], sd[c], "" if len(mean) == 1 else CLASSES[c % 10],
        )
        for c in range(len(mean))
    ]  # fmt: skip
    right = 100 * float(look.right[which])
    single = state.prior == PRIORS[1]
    says = (
        f"{state.prior}, after {EPOCHS[state.look]} epochs: a class's centres lie {look.gap:.2f} times as "
        "far apart between modalities as classes do within one. "
        + ("A single Gaussian tells no class from another."
           if single else f"The flow's own p(y|z) is right for {right:.0f} % from {state.modality}.")
    )  # fmt: skip
    steps = np.arange(len(EPOCHS))
    gaps = np.array([100 * each.gap for each in clouds.looks])
    lines = [
        pictures.line("modalities apart", gaps, RED, (6, 3)),
        pictures.line(
            "p(y|z) right", [100 * float(each.right[which]) for each in clouds.looks], BLUE
        ),
    ]
    return {
        "mean latents; ellipses: the prior": pictures.plane(
            says, points=points, classes=y, ellipses=ellipses, center=clouds.middle, half=clouds.half,
            axes=("1st direction", "2nd direction"),
        ),
        "while it learns": pictures.curves(
            steps, lines, f"look: after {', '.join(map(str, EPOCHS))} epochs", "%", says,
            limits=(0, max(100, 20 * np.ceil(gaps.max() / 20))), marker=state.look,
        ),
        "numbers": pictures.figures({
            "epochs": (EPOCHS[state.look], "of training"),
            "modalities apart": (100 * look.gap, "% of the distance of classes"),
            "right": (right, f"% by p(y|z), from {state.modality}"),
        }),
    }  # fmt: skip


# Whose class is it? ----------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def confusion(
    setting: Setting, way: str, seed: int, source: int, target: int, device: str = "cpu"
) -> np.ndarray:
    """True class, read class, in %, (C, C): `reading.swapped`, kept while the kernel runs."""
    return np.array(swapped(setting, way, seed, source, target, device))


@lru_cache(maxsize=8)
def _shares(setting: Setting, seed: int, device: str) -> np.ndarray:
    y = opened(setting, "true", seed, device).batch.y
    assert y is not None
    count = torch.bincount(y.cpu(), minlength=setting.predictor.outputs).double()
    return (count / count.sum()).numpy()


def swap(setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()) -> Lab:
    """What class the judge reads in a modality that was recovered from another; arguments as `classes`."""
    names = names_of(setting)
    fields = [
        *choices(names),
        ("way", str, choice("class prior", WAYS, "filled in by", WAY_HELP)),
    ]
    presets = {way.capitalize(): {"way": way} for way in WAYS[:3]}
    presets["Regression"] = {"way": "regression"}
    question = Question(
        f"{names[-1].capitalize()} is recovered from {names[0]} with one Gaussian for all classes, and read "
        "by a judge that knows true samples. How often is it of its own class?",
        ("nearly always", "about half of the time", "hardly more often than by chance"),
        answer=2,
        why="With one Gaussian each flow turns the latents as it likes: what stands for one class here "
        "stands for another there. One Gaussian a class ties them.",
        then={"source": names[0], "target": names[-1], "way": "single prior"},
    )  # fmt: skip
    return Lab(
        "swap", "Whose class is it? What a judge reads in what was recovered",
        state_of("swap", fields, presets),
        lambda state: swap_pictures(setting, seed, device, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


def swap_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `swap`."""
    names, count = names_of(setting), setting.predictor.outputs
    pair = source_and_target(names, state.source, state.target)
    found, best = (confusion(setting, way, seed, *pair, device) for way in (state.way, "true"))
    share = _shares(setting, seed, device)
    own, true = (float(share @ np.diag(each)) for each in (found, best))
    wrong = found - np.diag(np.diag(found))
    at = np.unravel_index(wrong.argmax(), wrong.shape)
    says = (
        f"{state.target} recovered from {state.source} by {state.way}: read as its own class "
        f"{own:.0f} % of the time, the true one {true:.0f} %, chance {100 / count:.0f} %. Most mistaken: "
        f"class {at[0]} for {at[1]}, {wrong[at]:.0f} %."
    )
    side = 14 if count <= 10 else 5
    cells = 1 - np.broadcast_to(found[..., None, None] / 100, (count, count, side, side))
    labels = [str(c) for c in range(count)] if count <= 10 else []
    return {
        "true class (down), read class (right); dark: often": pictures.images(
            cells, labels, labels, says, np.eye(count, dtype=bool)
        ),
        "read as its own class; ticks: the true modality": pictures.bars(
            [str(c) for c in range(count)], np.diag(found) / 100, says, unit="probability",
            colors=[BLUE] * count, marks=np.diag(best) / 100,
        ),
        "numbers": pictures.figures({
            "agreement": (own, "% read as their class"),
            "of the true modality": (true, "% read as their class"),
            "chance": (100 / count, "%"),
            "mean of the diagonal": (float(np.diag(found).mean()), "%, classes alike"),
        }),
    }  # fmt: skip


# When recovery beats looking -------------------------------------------------------------------------

LEVELS = tuple(np.arange(0, 4.5, 0.5).tolist())


@lru_cache(maxsize=32)
def noise_curves(
    setting: Setting, way: str, seed: int, source: int, target: int, device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Accuracy over `LEVELS`: `reading.noisy`, kept while the level moves."""
    found = noisy(setting, way, seed, LEVELS, source, target, device)
    return {name: np.array(values) for name, values in found.items()}


def noise(setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()) -> Lab:
    """Noise on one modality: look at it, or recover it from a clean one? Arguments as `classes`."""
    names = names_of(setting)
    fields = [
        ("level", float, number(1.0, 0, LEVELS[-1], "noise", "Its deviation, in those of each feature of "
         "what is recovered; accuracies between the points of the curves are interpolated.")),
        *choices(names),
        ("way", str, choice("class prior", WAYS[:-1], "filled in by", WAY_HELP)),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Clean": {"level": 0.0}, "Drowned": {"level": 4.0},
        "Regression": {"way": "regression"}, "Single prior": {"way": "single prior"},
    }  # fmt: skip
    question = Question(
        f"{names[-1].capitalize()} gets noisier and noisier, {names[0]} stays clean. Can {names[-1]} that "
        "was recovered be worth more than the real, noisy one?",
        ("no: what was measured is always worth more",
         "yes, if it is noisy enough",
         f"yes, and then it tells more than {names[0]} does"),
        answer=1,
        hides=("the modality alone", "beside all others", "numbers"),
        why=f"From some noise on, the sensor tells less of the class than {names[0]} does. But recovery "
        f"adds no information: it is computed from {names[0]}, and no computation knows more of the class "
        "than its input (data-processing inequality). See what a predictor trained on gaps does without it.",
        then={"level": LEVELS[-1], "source": names[0], "target": names[-1], "way": "class prior"},
    )  # fmt: skip
    return Lab(
        "noise", "Noise dial: look, or recover?", state_of("noise", fields, presets),
        lambda state: noise_pictures(setting, seed, device, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


def noise_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `noise`."""
    names = names_of(setting)
    pair = source_and_target(names, state.source, state.target)
    found = noise_curves(setting, state.way, seed, *pair, device)
    now = {name: float(np.interp(state.level, LEVELS, values)) for name, values in found.items()}
    better = {
        "alone": crossing(found["noisy alone"], found["recovered alone"]),
        "beside all others": crossing(found["noisy"], found["recovered"]),
    }
    says = (
        f"Noise {state.level:.1f}: {state.target} alone is read right {now['noisy alone']:.0f} % of the "
        f"time, recovered from {state.source} {now['recovered alone']:.0f} %; all together "
        f"{now['noisy']:.0f} and {now['recovered']:.0f} %, without it {now['without']:.0f} %. "
    )
    says += " ".join(
        f"{where.capitalize()}, looking is better at noise {LEVELS[-1]:.0f}."
        if since is None
        else f"{where.capitalize()}, recovery beats looking "
        + (f"from noise {since:.1f} on." if since else "at every noise.")
        for where, since in better.items()
    )
    alone = {"noisy": ("noisy alone", RED, ()), "recovered": ("recovered alone", BLUE, (6, 3))}
    beside = {
        "noisy": ("noisy", RED, ()), "recovered": ("recovered", BLUE, (6, 3)),
        "without": ("without", GREY, (2, 3)),
    }  # fmt: skip
    charts = {
        title: pictures.curves(
            LEVELS,
            [pictures.line(label, found[name], color, dash) for label, (name, color, dash) in ways.items()],
            f"noise on {state.target}, deviations", "right answers (%)", says,
            limits=_limits([found[name] for name, *_ in ways.values()]), marker=state.level,
        )
        for title, ways in (("the modality alone", alone), ("beside all others", beside))
    }  # fmt: skip
    bars = {
        "alone, noisy": ("noisy alone", RED), "alone, recovered": ("recovered alone", BLUE),
        "all, noisy": ("noisy", RED), "all, recovered": ("recovered", BLUE),
        "all, without": ("without", GREEN),
    }  # fmt: skip
    return {
        **charts,
        "right answers at this noise": pictures.bars(
            list(bars), [now[name] / 100 for name, _ in bars.values()], says, unit="probability",
            colors=[color for _, color in bars.values()],
        ),
        "numbers": pictures.figures({
            "noisy alone": (now["noisy alone"], "% read right"),
            "recovered alone": (now["recovered alone"], "% read right"),
            "noisy": (now["noisy"], "% right, beside all others"),
            "recovered": (now["recovered"], "% right, beside all others"),
            "without": (now["without"], "% right, trained on gaps"),
            **{f"better {n}": (v, "deviations of noise on") for n, v in better.items() if v is not None},
        }),
    }  # fmt: skip


def crossing(looked: np.ndarray, recovered: np.ndarray) -> float | None:
    """Noise from which on recovery is better at all `LEVELS`, between them on a line; None = never."""
    behind = np.flatnonzero(recovered <= looked)
    if not len(behind):
        return 0.0
    if (last := int(behind[-1])) == len(LEVELS) - 1:
        return None
    ahead = recovered - looked
    part = -ahead[last] / (ahead[last + 1] - ahead[last])
    return float(LEVELS[last] + part * (LEVELS[last + 1] - LEVELS[last]))


def _limits(lines: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate(lines)
    return 10 * float(np.floor(values.min() / 10)), 10 * float(np.ceil((values.max() + 0.1) / 10))
