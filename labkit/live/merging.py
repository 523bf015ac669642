"""Lab of two sources (DiCMoR): what is recovered from both, by mixing latents, or what comes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.live import pictures
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.recovering import (
    SAMPLE_HELP,
    WAY_HELP,
    asked,
    likeliest,
    names_of,
    one,
    split_of,
    strip,
)
from labkit.live.state import choice, number, whole
from labkit.live.still import CLASSES
from labkit.models.dicmor import DiCMoR
from labkit.recovering.plan import FLOWS, Setting, dicmor_of, trained
from labkit.recovering.reading import between, opened

STEPS = 21  # of the path between two sources


def merge(setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()) -> Lab:
    """Between two sources: mix their latents, or what comes of each; arguments as `recovering.theatre`.

    Raises:
        ValueError: if there are fewer than three modalities.
    """
    names = names_of(setting)
    if len(names) < 3:
        raise ValueError(f"merging two sources takes three modalities, got {together(names)}")
    last = len(split_of(setting, seed, device).y) - 1
    fields = [
        ("weight", float, number(0.5, 0, 1, "weight", "Of the second source; the first has the rest.")),
        ("sample", int, whole(0, 0, last, "sample", SAMPLE_HELP)),
        ("first", str, choice(names[0], names, "from", "The first source.")),
        ("second", str, choice(names[1], names, "and", "The second source.")),
        ("target", str, choice(names[-1], names, "recovered", "The modality that is filled in.")),
        ("way", str, choice("class prior", tuple(FLOWS), "flows", WAY_HELP)),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "The first alone": {"weight": 0.0}, "The second alone": {"weight": 1.0},
        "Half and half": {}, "Paired": {"way": "class prior, paired"},
        "The released flow": {"way": "half-identity"},
    }  # fmt: skip
    question = Question(
        f"{names[0].capitalize()} and {names[1]} each give a latent. Average the two and go back to "
        f"{names[-1]}. How far does what comes lie from the mean of all, beside what is true?",
        ("as far", "nearer", "farther"),
        answer=1,
        hides=("features over time; framed: latents mixed", "numbers"),
        why="Latents of two modalities are two draws of a class. Their mean lies nearer to the middle than a "
        "draw does, and so does what comes back: nearer to the truth on average, less varied than it. Mixing "
        "what comes of each does the same; the two differ as far as the flow bends.",
        then={"weight": 0.5, "way": "class prior"},
    )  # fmt: skip
    return Lab(
        "merge", "Two sources: mixing latents, mixing data", state_of("merge", fields, presets),
        lambda state: merge_pictures(setting, seed, device, state),
        question=asked(setting, question), states=states,
    )  # fmt: skip


class Path(NamedTuple):
    """What is recovered of one sample on the way from one source to the other."""

    x: Tensor  # (STEPS, T, D)
    ends: Tensor  # (2, T, D): from each source alone
    read: Tensor  # (STEPS, C): how the judge reads it


@lru_cache(maxsize=256)
def path_of(
    setting: Setting, way: str, seed: int, sample: int, sources: tuple[int, int], target: int,
    device: str = "cpu",
) -> Path:  # fmt: skip
    """See `Path`; kept while the weight moves."""
    at = one(opened(setting, way, seed, device), sample)
    model = flows_of(setting, way, seed, device)
    many = at.part(torch.zeros(STEPS, dtype=torch.long, device=at.seen.x.device))
    weights: Any = torch.linspace(0, 1, STEPS, device=at.seen.x.device)[:, None, None]
    x = between(model, many.seen, weights, sources, target)
    everything = many.seen.x.clone()
    everything[target] = x
    return Path(x.cpu(), x[[0, -1]].cpu(), many.read(everything, target).cpu())


@lru_cache(maxsize=8)
def flows_of(setting: Setting, way: str, seed: int, device: str) -> DiCMoR:
    """The model of a way, kept while the kernel runs."""
    return dicmor_of(trained(setting, seed, way, device))


def merge_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `merge`."""
    names, i, w = names_of(setting), state.sample, state.weight
    chosen = [state.first, state.second, state.target]
    if len({*chosen}) < 3:
        raise ValueError(
            f"choose two different sources and a third modality to recover; got {', '.join(chosen)}"
        )
    first, second, target = (names.index(name) for name in chosen)
    split = split_of(setting, seed, device)
    path = path_of(setting, state.way, seed, i, (first, second), target, device)
    model = flows_of(setting, state.way, seed, device)
    at = one(opened(setting, state.way, seed, device), i)
    latent = between(model, at.seen, w, (first, second), target)[0].cpu()
    data = torch.lerp(path.ends[0], path.ends[1], w)
    true, valid = split.x[target, i], split.valid[i]
    unit = split.deviation[target, 0]
    apart = float((((latent - data) / unit)[valid]).square().mean().sqrt())
    kinds = ("latents mixed", "data mixed", "the first alone", "true")
    sizes = {
        name: float((((x - split.mean[target, 0]) / unit)[valid]).square().mean().sqrt())
        for name, x in zip(kinds, (latent, data, path.ends[0], true), strict=True)
    }
    y, here = int(split.y[i]), int(path.read[round(w * (STEPS - 1))].argmax())
    says = (
        f"Sample {i}, class {y}: {state.target} from {1 - w:.0%} {state.first} and {w:.0%} {state.second}, "
        f"by {state.way}. The judge reads class {here}. Mixing latents and mixing data differ by {apart:.2f} "
        f"deviations; from the mean of all they lie {sizes['latents mixed']:.2f} and "
        f"{sizes['data mixed']:.2f}, the true one {sizes['true']:.2f}."
    )
    rows = [path.ends[0], latent, data, path.ends[1], true]
    likely = likeliest([*path.read], y, 4)
    return {
        "features over time; framed: latents mixed": pictures.images(
            torch.stack([strip(x, split, target, i) for x in rows])[:, None].numpy(),
            ["the first alone", "latents mixed", "data mixed", "the second alone", "true"], [], says,
            [[False], [True], [False], [False], [False]],
        ),
        "how the judge reads latents mixed": pictures.curves(
            np.linspace(0, 1, STEPS),
            [
                pictures.line(
                    f"{c}, true" if c == y else str(c), path.read[:, c], CLASSES[c % 10],
                    () if c == y else (5, 3),
                )
                for c in likely
            ],
            f"weight of {state.second}", "probability", says, marker=w,
        ),
        "numbers": pictures.figures({
            "apart": (apart, "deviations, latents mixed from data mixed"),
            **{f"size, {n}": (size, "deviations from the mean of all") for n, size in sizes.items()},
            "true class": (float(path.read[round(w * (STEPS - 1)), y]), "probability, judge"),
        }),
    }  # fmt: skip
