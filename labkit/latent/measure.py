"""What is asked of every seed: pushes and walks through the latent space, and the factors in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labkit import disentangle, metrics
from labkit.batch import Batch
from labkit.data.digits import MODALITIES, Digits
from labkit.latent.plan import Plan
from labkit.latent.pushes import encoded, flips_of, latents_of, looks_of, reach_of
from labkit.latent.space import random_rotation
from labkit.latent.walks import paths_of, temperature_of
from labkit.missing.measure import judges, labels_of
from labkit.missing.plan import Runs
from labkit.store import Run, once
from labkit.train import isolated_rng

Answers = list[dict[str, Any]]  # one a seed

# Factors -----------------------------------------------------------------------------------------


@torch.no_grad()
def factors_of(run: Run, data: Digits, rows: int, rotations: int) -> dict[str, Any]:
    """Does one latent carry one factor, or one modality? Scores of the posterior means, and of two controls.

    Controls: the same means *rotated* at random, and the means of the same network *untrained*.

    Returns:
        ``factors``: names of the K factors; ``share`` [D][K], mutual information of means with factors over
        the factor's entropy; ``explained`` [K], what a forest on all latents explains of new samples;
        ``precision`` [D][M], shares of the messages' precision. And where more than the digit is known
        (procedural data): the scores of the means, ``trained``, and of the controls ``rotated`` [R] and
        ``untrained``: `disentangle.Scores`, and ``modality``, DCI's D with the factors of a modality taken
        together; and ``knowledge`` [D][M], which modality's factors a latent knows (zeros where none).
    """
    more = replace(data, n_test=max(rows, data.n_test)) if data.source == "procedural" else data
    model, batch, posterior = encoded(run, more)
    codes, known = posterior.mean[:rows].double(), _known(batch[:rows], data)
    messages = metrics.expert_share(model.experts(batch[:rows])[1])[1:]  # (M, D), without the prior
    result = {"factors": list(known), "precision": (messages / messages.sum(0)).T.tolist()}
    if len(known) < 2:
        information = disentangle.mutual_information(codes, known)
        _, explained = disentangle.importances(codes, known)
        share = information / disentangle.entropies(known)
        return result | {"share": share.tolist(), "explained": explained.tolist()}
    generator = torch.Generator().manual_seed(run.meta["seed"])
    turns = [random_rotation(codes.shape[1], generator).to(codes) for _ in range(rotations)]
    with isolated_rng(run.meta["seed"], torch.device("cpu")):
        blank = model.config.build().to(codes.device)
    found = disentangle.examine(codes, known)
    knowledge = _knowledge(found, list(known))
    return result | {
        "share": (found.information / found.entropy).tolist(),
        "explained": found.explained.tolist(),
        "knowledge": (knowledge / knowledge.sum(1, keepdim=True).clamp(min=1e-12)).tolist(),
        "trained": _scored(found, list(known)),
        "rotated": [_scored(disentangle.examine(codes @ turn, known), [*known]) for turn in turns],
        "untrained": _scored(
            disentangle.examine(blank.encode(batch[:rows]).mean, known), list(known)
        ),
    }


def _scored(found: disentangle.Examination, names: Sequence[str]) -> dict[str, float]:
    modality = disentangle.disentanglement(_knowledge(found, names))
    return {**found.scores._asdict(), "modality": modality}


def _knowledge(found: disentangle.Examination, names: Sequence[str]) -> Tensor:
    """How much each latent matters to what is known of each modality: (D, M), columns summing to 1.

    Importances of a modality's factors, each weighted with what is explained of it, from 5 % on: a forest
    that finds nothing spreads its importances anywhere. Where nothing is explained all latents are equal.
    """
    weighted = found.importance * torch.where(found.explained > 0.05, found.explained, 0.0)
    owner = [modality_of(name) for name in names]
    columns = []
    for modality in MODALITIES:
        own = weighted[:, [i for i, o in enumerate(owner) if o == modality]].sum(1)
        columns.append(own / own.sum() if own.sum() > 0 else torch.ones_like(own) / len(own))
    return torch.stack(columns, 1)


def modality_of(factor: str) -> str | None:
    """The modality that a factor of procedural data belongs to; None for the digit, which all share."""
    if factor == "digit":
        return None
    return next((m for m in MODALITIES if factor.endswith(f"_{m}")), "speech")


def _known(batch: Batch, data: Digits) -> dict[str, Tensor]:
    """The digit, and on procedural data every factor that made the sample."""
    factors = batch.factors if data.source == "procedural" else {}
    return {"digit": labels_of(batch), **factors}


# Every seed --------------------------------------------------------------------------------------


def script_judges(plan: Plan, seed: int, device: str = "cpu") -> list[Run]:
    """Classifiers of the two scripts, trained on real samples: notebook 01's."""
    return judges(plan, "poster", seed, device)[:2]


def latents(plan: Plan, runs: Runs) -> Answers:
    """`pushes.latents_of` every seed."""
    return _ask(latents_of, plan, runs)


def flips(plan: Plan, runs: Runs) -> Answers:
    """`pushes.flips_of` every seed."""
    return _ask(flips_of, plan, runs, rows=plan.pushed)


def looks(plan: Plan, runs: Runs, device: str = "cpu") -> Answers:
    """`pushes.looks_of` every seed."""
    return _ask(looks_of, plan, runs, device, rows=min(50, plan.pushed))


def reach(plan: Plan, runs: Runs) -> Answers:
    """`pushes.reach_of` every seed."""
    return _ask(reach_of, plan, runs, rows=plan.pushed)


def paths(plan: Plan, runs: Runs, device: str = "cpu") -> Answers:
    """`walks.paths_of` every seed."""
    return _ask(paths_of, plan, runs, device)


def temperatures(plan: Plan, runs: Runs, device: str = "cpu") -> Answers:
    """`walks.temperature_of` every seed."""
    return _ask(temperature_of, plan, runs, device, rows=200)


def factors(plan: Plan, runs: Runs) -> Answers:
    """`factors_of` every seed."""
    return _ask(factors_of, plan, runs, rows=plan.known, rotations=plan.rotations)


def _ask(
    question: Callable[..., Any], plan: Plan, runs: Runs, device: str = "", **settings: Any
) -> Answers:
    """Ask each seed's "poster" model, once; with a device, of its pictures: the judges look on."""
    found = []
    for job, run in runs.items():
        if job[0] == "poster":
            judged = script_judges(plan, job[1], device) if device else []
            found.append(once(question, run, *judged, data=plan.recipe(*job), **settings))
    return found
