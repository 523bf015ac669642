"""What is asked of the trained models: one function a question.

Each `..._of` takes a run and the recipe of its data and returns plain numbers, so that `store.once` can
keep them; the functions at the end ask every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit import metrics
from labkit.batch import Batch, subsets
from labkit.data.digits import MODALITIES, Digits
from labkit.evidence import effective_samples, evaluate_subsets, log_mean_weight, log_weights
from labkit.floors import floors
from labkit.missing.plan import SUBSETS, Plan, Runs
from labkit.models import mvae
from labkit.models.readers import FactorRegressor, Judge
from labkit.store import Run, fit_once, once
from labkit.train import TrainConfig

SPLITS = {"train": "train", "held-out": "test"}  # what a reader calls it -> what the data call it
AMPLITUDES = (1.0, 3.0, 10.0, 30.0, 150.0, 1500.0)  # pushes, in standard deviations of the prior


# Table 1, evidence, calibration ------------------------------------------------------------------


def table_of(run: Run, data: Digits, split: str) -> dict[str, dict[str, float]]:
    """One model's Table 1: subset -> figures; as many training samples as there are held-out ones.

    Figures: see `evidence.evaluate_subsets`; and ``loss``, the objective at the final beta, which has
    no constants and is therefore no likelihood.
    """
    model, batch = mvae_of(run), _load(run, data, split)[: data.n_test]
    table = evaluate_subsets(model, batch, _generator(run))
    config = model.config
    for figures in table.values():
        errors = sum(m.weight * figures[m.name] for m in config.modalities)
        label = config.label_weight * figures["label"]
        figures["loss"] = errors + label + config.kl_weight * figures["kl"]
    return table


def evidence_of(run: Run, data: Digits, rows: int, draws: int) -> dict[str, Any]:
    """What a model says of held-out samples, in nats a sample, by importance sampling.

    Returns:
        ``samples``: K = 1, 10, ... draws; ``bound`` on log p of the whole triplet and ``ess``, the
        effective share of the draws: each subset (what the proposal sees) -> a value for every K;
        ``own``: subset -> -log p(x_S); ``conditional``: subset -> -log p of the modalities that are not
        in it given those that are; ``labelled``: -log p of the triplet and its label; ``terms``: what
        `evidence.evaluate_subsets` gives for the same samples with everything visible (20 draws of z).
    """
    model, batch, generator = mvae_of(run), _load(run, data, "test")[:rows], _generator(run)
    everything = torch.ones(len(MODALITIES), dtype=torch.bool)
    counts = [10**e for e in range(8) if 10**e <= draws]
    result: dict[str, Any] = {
        "samples": counts,
        "bound": {},
        "ess": {},
        "own": {},
        "conditional": {},
    }
    for name, subset in zip(SUBSETS, subsets(len(MODALITIES)), strict=True):
        whole = log_weights(model, batch, everything, subset, draws, generator)  # (K, B)
        # Draws fall into groups of k: averaging the groups' bounds uses all of them for every k.
        groups = [whole[: draws // k * k].view(-1, k, len(batch)).movedim(1, 0) for k in counts]
        result["bound"][name] = [float(log_mean_weight(g).mean()) for g in groups]
        result["ess"][name] = [float(effective_samples(g).mean()) / len(g) for g in groups]
        seen = log_mean_weight(whole)
        if not subset.all():
            seen = log_mean_weight(log_weights(model, batch, subset, subset, draws, generator))
            result["conditional"][name] = float((seen - log_mean_weight(whole)).mean())
        result["own"][name] = -float(seen.mean())
    labelled = log_weights(model, batch, everything, everything, draws, generator, label=True)
    many = batch[torch.arange(len(batch), device=batch.device).repeat(20)]
    terms = evaluate_subsets(model, many, generator)[SUBSETS[-1]]
    return result | {"labelled": -float(log_mean_weight(labelled).mean()), "terms": terms}


@torch.no_grad()
def calibration_of(run: Run, data: Digits) -> dict[str, dict[str, Any]]:
    """Is the label decoder as sure as it is right? Held-out, by subset.

    Returns:
        Subset -> ``ece`` (15 bins), ``nll`` (nats), ``brier``, the reliability diagram's ``confidence``,
        ``accuracy`` and ``count`` by bin; and ``probe``, the held-out accuracy of a linear classifier on
        the posterior means, which owes nothing to the label decoder.
    """
    model, batch = mvae_of(run), _load(run, data, "test")
    learned = _load(run, data, "train")[: data.n_test]
    visible, y = subsets(len(MODALITIES))[:, None], labels_of(batch)
    logits = model.predict(batch, visible)  # (S, B, C)
    means, known = model.encode(batch, visible).mean, model.encode(learned, visible).mean
    ece, nll, brier = metrics.ece(logits, y), metrics.nll(logits, y), metrics.brier(logits, y)
    result = {}
    for i, name in enumerate(SUBSETS):
        diagram = metrics.reliability(logits[i], y)
        result[name] = {
            "ece": float(ece[i]),
            "nll": float(nll[i]),
            "brier": float(brier[i]),
            "probe": metrics.linear_probe(known[i], labels_of(learned), means[i], y),
            **{part: values.tolist() for part, values in diagram._asdict().items()},
        }
    return result


# Coherence and style -----------------------------------------------------------------------------


def judges(plan: Plan, kind: str, seed: int, device: str = "cpu") -> list[Run]:
    """A small classifier of each modality, trained on real samples of the same data."""
    data, shapes = plan.recipe(kind, seed), {m.name: m.shape for m in plan.model.modalities}
    epochs = {"speech": 12}  # thirteen numbers: cheap, and slow to learn
    fits = {
        name: TrainConfig(epochs.get(name, 6), 128, 5e-3, schedule="cosine") for name in MODALITIES
    }
    judged = [(Judge(name, shapes[name]), fits[name]) for name in MODALITIES]
    return [fit_once(judge, data, fit, seed, device=device) for judge, fit in judged]


@torch.no_grad()
def coherence_of(run: Run, *judged: Run, data: Digits) -> dict[str, Any]:
    """Does what is generated show the right digit? Read by classifiers trained on real samples.

    Returns:
        ``judge``: modality -> the judge's accuracy on real held-out samples (no ceiling: a blurred
        model digit may be read better); ``cross``: modality ->
        subset that lacks it -> share read as the true class; ``joint``: share of prior draws whose
        modalities are all read alike; ``diversity``: modality -> variance within a class of what is
        generated from the other two, over that of the data (decoder means: less than 1).
    """
    model, batch = mvae_of(run), _load(run, data, "test")
    y, powerset = labels_of(batch), subsets(len(MODALITIES))
    generated = model.means(model.encode(batch, powerset[:, None]).mean)
    z = torch.randn(2000, model.config.latent, generator=_generator(run), device=y.device)
    drawn = model.means(z)
    result: dict[str, Any] = {"judge": {}, "cross": {}, "diversity": {}}
    for i, (name, judge) in enumerate(zip(MODALITIES, judged, strict=True)):
        lacking = (~powerset[:, i]).nonzero()[:, 0]
        shares = metrics.cross_coherence(judge.model(generated[name][lacking]), y)
        names = [SUBSETS[s] for s in lacking.tolist()]
        from_the_rest = generated[name][lacking[-1]]
        result["judge"][name] = float(metrics.accuracy(judge.model(batch.x[name]), y))
        result["cross"][name] = dict(zip(names, shares.tolist(), strict=True))
        result["diversity"][name] = float(metrics.diversity(from_the_rest, y, batch.x[name], y))
    read = [judge.model(drawn[name]) for name, judge in zip(MODALITIES, judged, strict=True)]
    return result | {"joint": float(metrics.joint_coherence(read))}


def slant_reader(plan: Plan, kind: str, seed: int, device: str = "cpu") -> Run:
    """A small network that reads the slant of a Kannada digit."""
    shape = next(m.shape for m in plan.model.modalities if m.name == "kannada")
    reader = FactorRegressor("kannada", shape, "slant_kannada", mean=0.0, std=0.25)
    fit = TrainConfig(12, 128, 5e-3, schedule="cosine")
    return fit_once(reader, plan.recipe(kind, seed), fit, seed, device=device)


@torch.no_grad()
def style_of(run: Run, reader: Run, data: Digits) -> dict[str, float]:
    """Does a Kannada digit generated from the Farsi one have the slant of the one that was hidden?

    Returns:
        ``r2`` of the two slants within class, ``null`` (95 % of unrelated factors stay below),
        ``reader`` (the same R2 for real held-out Kannada digits: what the reader itself can see) and
        ``ceiling``: rho^2, the most that a look at the Farsi digit can tell.
    """
    model, batch = mvae_of(run), _load(run, data, "test")
    hidden = batch.factors["slant_kannada"]
    generated = model.means(model.encode(batch.only("farsi")).mean)["kannada"]
    crossed = metrics.style_r2(hidden, reader.model(generated), batch.y)
    own = metrics.style_r2(hidden, reader.model(batch.x["kannada"]), batch.y)
    return {
        "r2": float(crossed.value),
        "null": crossed.null_bound,
        "reader": float(own.value),
        "ceiling": data.rho**2,
    }


# The latent space --------------------------------------------------------------------------------


@torch.no_grad()
def precision_of(run: Run, data: Digits) -> dict[str, Any]:
    """Who decides each latent dimension?

    Returns:
        ``share`` [prior, modalities...][D] of the total precision, and the number of ``active`` units
        (mean KL above 0.05 nats) with everything visible.
    """
    model, batch = mvae_of(run), _load(run, data, "test")
    _, logvar = model.experts(batch)
    units = metrics.active_units(*model.encode(batch))
    return {"share": metrics.expert_share(logvar).tolist(), "active": units.by_kl}


@torch.no_grad()
def flips_of(
    run: Run, data: Digits, rows: int, amplitudes: Sequence[float] = AMPLITUDES
) -> dict[str, Any]:
    """The poster's Figure 3 with its control: push z along a latent, or along a random direction.

    z is the posterior mean of held-out triplets; a push is +- amplitude.

    Returns:
        ``latents`` [D][A] and ``random`` [D][A]: share of pushes after which the label decoder says
        something else; ``saturated`` [A]: share of image pixels with |logit| > 20 along the latents.
    """
    model, batch = mvae_of(run), _load(run, data, "test")[:rows]
    z = model.encode(batch).mean
    d = z.shape[1]
    latents = torch.eye(d)
    random = F.normalize(torch.randn(d, d, generator=torch.Generator().manual_seed(0)), dim=1)
    before = model.decode_label(z).argmax(-1)
    pushes = torch.cartesian_prod(torch.tensor(amplitudes), torch.tensor([1.0, -1.0])).prod(
        1
    )  # (2A,)
    result: dict[str, Any] = {}
    for name, directions in (("latents", latents), ("random", random)):
        moves = (pushes[:, None, None] * directions).to(z)  # (2A, D, D)
        # One direction at a time: all at once would be 2 A D B latents.
        flipped = [
            (model.decode_label(z + moves[:, i, None]).argmax(-1) != before).double().mean(1)
            for i in range(d)
        ]
        result[name] = torch.stack(flipped).view(d, len(amplitudes), 2).mean(-1).tolist()
    pixels = model.decode(
        z[:10] + (pushes[:, None, None] * latents).to(z)[:, :, None], ["farsi", "kannada"]
    )
    hot = torch.stack([(p.abs() > 20).double().flatten(1).mean(1) for p in pixels.values()]).mean(0)
    return result | {"saturated": hot.view(len(amplitudes), 2).mean(1).tolist()}


# Every seed --------------------------------------------------------------------------------------


def scores(plan: Plan, runs: Runs) -> pd.DataFrame:
    """Every figure of Table 1, a row each: kind, seed, split, subset (visible), metric, value."""
    rows = []
    for (kind, seed), run in runs.items():
        for name, split in SPLITS.items():
            table = once(table_of, run, data=plan.recipe(kind, seed), split=split)
            for subset, figures in table.items():
                for metric, value in figures.items():
                    rows.append((kind, seed, name, subset, metric, value))
    return pd.DataFrame(rows, columns=["kind", "seed", "split", "subset", "metric", "value"])


def validation(plan: Plan, runs: Runs) -> list[dict[str, float]]:
    """Figures of the validation split, everything visible, for every seed of the poster's kind."""
    jobs = [(job, run) for job, run in runs.items() if job[0] == "poster"]
    tables = [once(table_of, run, data=plan.recipe(*job), split="val") for job, run in jobs]
    return [table[SUBSETS[-1]] for table in tables]


def evidence(
    plan: Plan, runs: Runs, kinds: Sequence[str] = ("poster", "cross", "own")
) -> dict[str, list[dict[str, Any]]]:
    """`evidence_of` every seed of these kinds."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for (kind, seed), run in runs.items():
        if kind in kinds:
            data = plan.recipe(kind, seed)
            found[kind].append(once(evidence_of, run, data=data, rows=plan.rows, draws=plan.draws))
    return found


def flips(plan: Plan, runs: Runs) -> list[dict[str, Any]]:
    """`flips_of` every seed of the poster's kind."""
    jobs = [(job, run) for job, run in runs.items() if job[0] == "poster"]
    return [once(flips_of, run, data=plan.recipe(*job), rows=200) for job, run in jobs]


def coherences(plan: Plan, runs: Runs, device: str = "cpu") -> list[dict[str, Any]]:
    """`coherence_of` every seed of the poster's kind."""
    jobs = [(job, run) for job, run in runs.items() if job[0] == "poster"]
    return [
        once(coherence_of, run, *judges(plan, *job, device), data=plan.recipe(*job))
        for job, run in jobs
    ]


def calibrations(plan: Plan, runs: Runs) -> list[dict[str, dict[str, Any]]]:
    """`calibration_of` every seed of the poster's kind."""
    jobs = [(job, run) for job, run in runs.items() if job[0] == "poster"]
    return [once(calibration_of, run, data=plan.recipe(*job)) for job, run in jobs]


def precisions(plan: Plan, runs: Runs) -> list[dict[str, Any]]:
    """`precision_of` every seed of the poster's kind."""
    jobs = [(job, run) for job, run in runs.items() if job[0] == "poster"]
    return [once(precision_of, run, data=plan.recipe(*job)) for job, run in jobs]


def styles(plan: Plan, runs: Runs, device: str = "cpu") -> dict[str, list[dict[str, float]]]:
    """`style_of` every seed, ``unlinked`` and ``linked``; empty where the factors are not known."""
    found: dict[str, list[dict[str, float]]] = {"unlinked": [], "linked": []}
    names = {"poster": "unlinked", "linked styles": "linked"}
    for (kind, seed), run in runs.items():
        if plan.data.source == "procedural" and kind in names:
            reader = slant_reader(plan, kind, seed, device)
            found[names[kind]].append(once(style_of, run, reader, data=plan.recipe(kind, seed)))
    return found


def floors_by_split(
    plan: Plan, seeds: Sequence[int], kind: str = "poster"
) -> dict[str, dict[str, dict[str, float]]]:
    """`floors_of` the data of one kind, mean over the seeds."""
    found = [once(floors_of, data=plan.recipe(kind, seed)) for seed in seeds]
    return {
        split: {
            modality: {
                floor: sum(each[split][modality][floor] for each in found) / len(found)
                for floor in values
            }
            for modality, values in modalities.items()
        }
        for split, modalities in found[0].items()
    }


def floors_of(data: Digits) -> dict[str, dict[str, dict[str, float]]]:
    """Floors of every error, split -> modality -> floor -> value; means are fitted on train."""
    likelihoods = {m.name: m.likelihood for m in mvae.digit_modalities()}
    learned = data.load("train")
    result = {}
    for name, split in SPLITS.items():
        found = floors(learned, data.load("test") if split == "test" else learned, likelihoods)
        result[name] = {modality: floor._asdict() for modality, floor in found.items()}
    return result


def majority_of(data: Digits) -> float:
    """Held-out accuracy of always naming the most frequent training class."""
    return metrics.majority_rate(labels_of(data.load("train")), labels_of(data.load("test")))


# Pieces ------------------------------------------------------------------------------------------


def mvae_of(run: Run) -> mvae.MVAE:
    """The run's model, which must be an MVAE."""
    if not isinstance(run.model, mvae.MVAE):
        raise TypeError(f"this asks an MVAE, got a run of {type(run.model).__name__}")
    return run.model


def labels_of(batch: Batch) -> Tensor:
    """The batch's class labels (B,), which must be there.

    Raises:
        ValueError: if there are none, or numbers to regress on instead.
    """
    if batch.y is None:
        raise ValueError("this study needs labelled samples: batch.y is None")
    if batch.y.is_floating_point():
        raise ValueError(f"this study needs int64 class labels, got batch.y of {batch.y.dtype}")
    return batch.y


def _load(run: Run, data: Digits, split: Any) -> Batch:
    return data.load(split, device=next(run.model.parameters()).device)


def _generator(run: Run) -> torch.Generator:
    return torch.Generator(next(run.model.parameters()).device).manual_seed(run.meta["seed"])
