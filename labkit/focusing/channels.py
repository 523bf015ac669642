"""What is asked of Algorithm 1 on Gaussian data in notebook 04: closed form, distance, surgery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from labkit.data.gaussians import Gaussians, Stack, Venn, narrowed, stack
from labkit.focusing.gaussian import Answer, Plan
from labkit.models import mfh
from labkit.progress import progress_line
from labkit.store import once

REPEATS = (1, 3, 10, 30, 100, 1000)  # M of the paper
DISTANCES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # weights of the distance in joint training
KEPT = (1, 2, 5, 8, 10, 12, 15, 20, 30, 40, 50)
VENN = Venn(10, 10, 0)
HARD = Venn(30, 10, 0)


def _drawn(venn: Venn, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> Stack:
    return stack([Gaussians(venn, script="modify")], seeds, "train", dtype)


def _channels(data: Stack) -> Tensor:
    """The teacher's channels (S, N, D)."""
    return data.a.x.gather(2, data.a.place.expand(*data.a.x.shape[:2], -1))[..., :-1]


def permutations(venn: Venn, repeats: Sequence[int], seeds: Sequence[int]) -> Answer:
    """Algorithm 1 as printed, by M, against its closed form.

    Returns:
        ``error``: mean |difference| over the channels, and ``correlation``, [M][S] each.
    """
    data = _drawn(venn, seeds, torch.float64)
    pair = mfh.joint(data, mfh.first_pair(data, seeds))
    exact, _ = mfh.general_scores(data, pair)
    a, b = (v.x.gather(2, v.place.expand(*v.x.shape[:2], -1)) for v in (data.a, data.b))
    gap, z = pair[0] @ a.mT - pair[1] @ b.mT, _channels(data)
    error, correlation = [], []
    for count in repeats:
        drawn = torch.stack([
            mfh.permuted_scores(pair[0][s, :, :-1], z[s], gap[s], count, torch.Generator().manual_seed(seed))
            for s, seed in enumerate(seeds)
        ])  # fmt: skip
        error.append((drawn - exact).abs().mean(1).tolist())
        both = torch.stack([drawn, exact], 1)
        correlation.append([float(torch.corrcoef(rows)[0, 1]) for rows in both])
    return {"repeats": list(repeats), "error": error, "correlation": correlation}


def ablation(venn: Venn, distances: Sequence[float], seeds: Sequence[int]) -> Answer:
    """Algorithm 1 by the weight of the distance in joint training.

    Returns:
        [distances][S] each: ``all``: AUC of shared channels against all others; ``decisive``: against those
        of a alone; ``weight``: the same as ``decisive``, ranked by the teacher's mean |weight|; ``apart``:
        mean squared distance of the logits.
    """
    data, start = _drawn(venn, seeds), mfh.first_pair(_drawn(venn, seeds), seeds)
    shared = torch.zeros(venn.channels_a, dtype=torch.bool).index_fill(0, venn.shared, True)
    decisive = torch.arange(venn.channels_a) < venn.latents
    found: dict[str, list[list[float]]] = {n: [] for n in ("all", "decisive", "weight", "apart")}
    for distance in distances:
        pair = mfh.joint(data, start, distance=distance)
        scores, _ = mfh.general_scores(data, pair)
        weight = pair[0][..., :-1].abs().mean(1)
        a, b = (v.x.gather(2, v.place.expand(*v.x.shape[:2], -1)) for v in (data.a, data.b))
        found["all"].append([_auc(shared, row) for row in scores])
        found["decisive"].append([_auc(shared[decisive], row[decisive]) for row in scores])
        found["weight"].append([_auc(shared[decisive], row[decisive]) for row in weight])
        found["apart"].append((pair[0] @ a.mT - pair[1] @ b.mT).square().mean((1, 2)).tolist())
    return {"distances": list(distances), **found}


def _auc(truth: Tensor, scores: Tensor) -> float:
    return float(roc_auc_score(truth, scores))


def surgery(venn: Venn, kept: Sequence[int], seeds: Sequence[int]) -> Answer:
    """A teacher that keeps so many channels, the best first by each way, and is trained anew on them.

    Returns:
        Way -> ``teacher``, ``student`` [kept][S] in %, and ``alone`` [kept][S].
    """
    data = {s: stack([Gaussians(venn, script="modify")], seeds, s) for s in ("train", "test")}
    train = data["train"]
    scores, _ = mfh.general_scores(train, mfh.joint(train, mfh.first_pair(train, seeds)))
    width = venn.channels_a
    orders = {
        "truth": torch.arange(width).expand(len(seeds), -1),  # shared, then a's own, then noise
        "algorithm": scores.argsort(-1, descending=True),
        "random": torch.stack(
            [torch.randperm(width, generator=torch.Generator().manual_seed(s)) for s in seeds]
        ),
    }
    found: dict[str, Any] = {"kept": list(kept)}
    for way, order in orders.items():
        rows = []
        for count in kept:
            pair = [narrowed(data[s], order[:, :count]) for s in ("train", "test")]
            rows.append(mfh.crossmodal(pair[0], seeds).accuracies(pair[1]))
        found[way] = {name: [(100 * row[name][:, 0]).tolist() for row in rows] for name in rows[0]}
    return found


def study(plan: Plan, seed: int) -> dict[str, Answer]:
    """All of it for one seed of a notebook: ``permutations``, ``ablation``, ``hard``, ``surgery``."""
    seeds = tuple(plan.seeds(seed))
    asked: dict[str, tuple[Any, dict[str, Any]]] = {
        "permutations": (permutations, {"venn": VENN, "repeats": REPEATS, "seeds": seeds[:3]}),
        "ablation": (ablation, {"venn": VENN, "distances": DISTANCES, "seeds": seeds[:20]}),
        "hard": (ablation, {"venn": HARD, "distances": DISTANCES, "seeds": seeds[:20]}),
        "surgery": (surgery, {"venn": VENN, "kept": KEPT, "seeds": seeds}),
    }
    found = {}
    with progress_line("questions to Algorithm 1", len(asked), unit="question") as bar:
        for name, (question, settings) in asked.items():
            found[name] = once(question, **settings)
            bar.update()
    return found
