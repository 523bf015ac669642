"""Reading the answers: half-way pushes, what figures are drawn from, and what the bundle keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.digits import MODALITIES, Digits
from labkit.latent.pushes import AMPLITUDES, IMAGES
from labkit.latent.walks import TEMPERATURES, WAYS
from labkit.ledger import metric
from labkit.missing.measure import labels_of, mvae_of
from labkit.store import Run

Answers = Sequence[Mapping[str, Any]]  # one a seed


# Numbers -----------------------------------------------------------------------------------------


def half_way(rates: Sequence[float], amplitudes: Sequence[float] = AMPLITUDES) -> float:
    """Push from which half of the labels change: log-linear between the pushes tried; inf if none does.

    Raises:
        ValueError: unless there is one rate an amplitude.
    """
    if len(rates) != len(amplitudes):
        raise ValueError(f"{len(rates)} rates, but {len(amplitudes)} amplitudes")
    above = next((i for i, rate in enumerate(rates) if rate >= 0.5), None)
    if above is None:
        return math.inf
    if above == 0:
        return amplitudes[0]
    low, high = (math.log(amplitudes[i]) for i in (above - 1, above))
    part = (0.5 - rates[above - 1]) / (rates[above] - rates[above - 1])
    return math.exp(low + part * (high - low))


def over_half(table: Sequence[Sequence[float]], amplitude: float) -> float:
    """Share of the directions along which a push changes more than half of the labels."""
    at = AMPLITUDES.index(amplitude)
    return float(np.mean([rates[at] > 0.5 for rates in table]))


def mean_at(answers: Answers, *path: str, amplitude: float) -> float:
    """A curve over the amplitudes (or a table of them), read at one: mean over the seeds.

    Raises:
        KeyError: if there is no such curve.
    """
    at, values = AMPLITUDES.index(amplitude), []
    for each in answers:
        found: Any = each
        for name in path:
            found = found[name]
        values.append(np.atleast_2d(np.asarray(found, dtype=float))[:, at].mean())
    return float(np.mean(values))


# What the figures are drawn from -----------------------------------------------------------------


def latent_of(run: Run, batch: Batch, digit: int) -> Tensor:
    """Posterior mean (D,) of the batch's first sample of a digit, everything visible.

    Raises:
        ValueError: if there is none.
    """
    rows = (labels_of(batch) == digit).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"the batch holds no sample of digit {digit}")
    with torch.no_grad():
        return mvae_of(run).encode(batch[rows[:1]]).mean[0]


@torch.no_grad()
def sweep(run: Run, judged: Sequence[Run], z: Tensor, index: int, shifts: Tensor) -> dict[str, Any]:
    """Arguments of `figures.sweep_grid`: z (D,) with one latent shifted, decoded in both scripts."""
    moved = z.repeat(len(shifts), 1)
    moved[:, index] += shifts.to(z)
    logits = mvae_of(run).decode(moved, IMAGES)
    return {
        "logits": {m: values.cpu().numpy() for m, values in logits.items()},
        "shifts": shifts.tolist(),
        "read": _read(judged, {m: values.sigmoid() for m, values in logits.items()}),
    }


@torch.no_grad()
def paths(
    run: Run, judged: Sequence[Run], start: Tensor, end: Tensor, pictures: int = 11
) -> dict[str, Any]:
    """Arguments of `figures.path_strips`: two latents (D,), and what lies between them."""
    model = mvae_of(run)
    found: dict[str, dict[str, Any]] = {"pictures": {}, "probs": {}, "read": {}}
    for name, way in WAYS.items():
        coarse = way(start[None], end[None], torch.linspace(0, 1, pictures))[:, 0]
        fine = way(start[None], end[None], torch.linspace(0, 1, 101))[:, 0]
        means = {m: values.sigmoid() for m, values in model.decode(coarse, IMAGES).items()}
        found["pictures"][name] = {m: values.cpu().numpy() for m, values in means.items()}
        found["probs"][name] = model.decode_label(fine).softmax(-1).cpu().numpy()
        found["read"][name] = _read(judged, means)
    return found


@torch.no_grad()
def noise(
    run: Run, batch: Batch, digit: int, given: str = "farsi", draws: int = 8
) -> dict[str, Any]:
    """Arguments of `figures.noise_sheet`: draws of z from the posterior of one script alone."""
    model = mvae_of(run)
    row = (labels_of(batch) == digit).nonzero()[:1, 0]
    sample = batch[row].only(given)
    mean, logvar = model.encode(sample)  # (1, D)
    generator = torch.Generator(mean.device).manual_seed(0)
    eps = torch.randn(draws, mean.shape[1], generator=generator, device=mean.device)
    shown = (0.0, 1.0, 2.0, 3.0)
    tau = torch.tensor(shown, device=mean.device)[:, None, None]
    logits = model.decode(mean + tau * (0.5 * logvar).exp() * eps, IMAGES)
    return {
        "pictures": {m: values.sigmoid().cpu().numpy() for m, values in logits.items()},
        "given": given,
        "temperatures": shown,
        "original": sample.x[given][0].cpu().numpy(),
    }


@torch.no_grad()
def plane(
    run: Run, batch: Batch, rows: int = 500, side: int = 15, reach: float | None = None
) -> dict[str, Any]:
    """Arguments of `figures.latent_map`: held-out means in two dimensions, and the decoded square.

    The square reaches to 3.5 standard deviations of the prior, or as far as 99 % of the samples.

    Raises:
        ValueError: if the model has not two latents.
    """
    model = mvae_of(run)
    if model.config.latent != 2:
        raise ValueError(f"a map needs a model of 2 latents, this one has {model.config.latent}")
    shown = batch[:rows]
    means = model.encode(shown).mean
    if reach is None:
        reach = max(3.5, math.ceil(2 * float(means.abs().amax(1).quantile(0.99))) / 2)
    line = torch.linspace(-reach, reach, side, device=batch.device)
    down, across = torch.meshgrid(line.flip(0), line, indexing="ij")
    logits = model.decode(torch.stack([across, down], -1).view(-1, 2), IMAGES)
    return {
        "means": means.cpu().numpy(),
        "y": labels_of(shown).tolist(),
        "pictures": {m: values.sigmoid().cpu().numpy() for m, values in logits.items()},
        "reach": reach,
    }


def effects(reach: Answers, looks: Answers, flips: Answers) -> dict[str, Any]:
    """Arguments of `figures.push_effects`: mean over the directions, a curve a seed."""
    found: dict[str, Any] = {"amplitudes": AMPLITUDES}
    for name in ("latents", "random"):
        found[name] = {
            "z is beyond": [each[name]["beyond"] for each in reach],
            "label changes": [np.mean(each["prior"][name], 0) for each in flips],
            "change of the pictures": [each[name]["moved"] for each in looks],
            "saturated pixels": [each[name]["saturated"] for each in looks],
        }
    return found


def matrix(found: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `figures.factor_matrix`: one seed's factors, and who decides each latent."""
    owners = [MODALITIES[int(np.argmax(row))] for row in found["precision"]]
    return {name: found[name] for name in ("share", "factors", "explained")} | {"owners": owners}


def over_seeds(answers: Answers) -> dict[str, Any]:
    """Answers of all seeds as one of the same shape: every curve becomes a list of curves."""
    first = answers[0]
    return {
        name: over_seeds([each[name] for each in answers])
        if isinstance(first[name], Mapping)
        else [each[name] for each in answers]
        for name in first
    }


def _read(judged: Sequence[Run], pictures: Mapping[str, Tensor]) -> dict[str, list[int]]:
    pairs = zip(judged, IMAGES, strict=True)
    return {m: judge.model(pictures[m]).argmax(-1).tolist() for judge, m in pairs}


def accuracy(run: Run, data: Digits) -> float:
    """Held-out accuracy of a model's label decoder, everything visible."""
    batch = data.load("test", device=next(run.model.parameters()).device)
    with torch.no_grad():
        return float((mvae_of(run).predict(batch).argmax(-1) == labels_of(batch)).double().mean())


# The bundle --------------------------------------------------------------------------------------


def summary(
    latents: Answers, flips: Answers, looks: Answers, reach: Answers, factors: Answers, ways: Answers,
    temperatures: Answers, accuracies: Mapping[str, Sequence[float]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The figures that the notebook's bundle keeps: name -> `ledger.metric`, a value a seed."""
    result = {f"accuracy.{name}": metric(found, "fraction") for name, found in accuracies.items()}
    for name in ("latents", "random"):
        for amplitude in (3.0, 30.0, 1500.0):
            where = {"amplitude": amplitude}
            key = f"{name}.{amplitude:g}"
            rates = [mean_at([each], "prior", name, **where) for each in flips]
            result[f"flips.{key}"] = metric(rates, "fraction")
            shares = [over_half(each["prior"][name], amplitude) for each in flips]
            result[f"over_half.{key}"] = metric(shares, "fraction of directions")
            for what, answers in (("saturated", looks), ("moved", looks), ("beyond", reach)):
                found = [mean_at([each], name, what, **where) for each in answers]
                result[f"{what}.{key}"] = metric(found, "fraction")
        same = [mean_at([each], name, "same", amplitude=1500.0) for each in looks]
        result[f"same_digit.{name}.1500"] = metric(same, "fraction")
        farthest = [each[name]["farthest"] for each in reach]
        result[f"way_out.{name}.farthest"] = metric(farthest, "sd of the prior")
        typical = [float(np.median(each[name]["way_out"])) for each in reach]
        result[f"way_out.{name}.median"] = metric(typical, "sd of the prior")
    for name in ("least", "largest"):
        pick = min if name == "least" else max
        result[f"sd.{name}"] = metric([pick(each["sd"]) for each in latents], "sd of the prior")
    if "trained" in factors[0]:
        for name in factors[0]["trained"]:
            turned = [float(np.mean([t[name] for t in each["rotated"]])) for each in factors]
            result[f"{name}.rotated"] = metric(turned, "fraction")
            for kind in ("trained", "untrained"):
                result[f"{name}.{kind}"] = metric(
                    [each[kind][name] for each in factors], "fraction"
                )
    for way in WAYS:
        for what in ("beyond", "nearer", "third", "apart", "apart_shuffled"):
            result[f"path.{way}.{what}"] = metric([each[way][what] for each in ways], "fraction")
    one = TEMPERATURES.index(1.0)
    for given in IMAGES:
        missing = next(m for m in IMAGES if m != given)
        for word, script in (("given", given), ("missing", missing)):
            spread = [each[given][script]["spread"][one] for each in temperatures]
            result[f"spread.{script}.{word}"] = metric(spread, "fraction of the data's variance")
    return result
