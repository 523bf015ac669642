"""Does each latent dimension carry one factor? Three scores of disentanglement, and what feeds them.

All take codes (N, D), such as posterior means, and true factors: name -> values (N,), integers for
categories, floating point for quantities. None is worth printing without the same score of the same
codes *rotated*: a rotation keeps every bit of information and destroys the axes.

* MIG: Chen et al. 2018, "Isolating Sources of Disentanglement in VAEs",
  https://arxiv.org/abs/1802.04942, equation 6.
* SAP: Kumar et al. 2018, "Variational Inference of Disentangled Latent Concepts from Unlabeled
  Observations", https://arxiv.org/abs/1711.00848, section 3.
* DCI: Eastwood & Williams 2018, "A Framework for the Quantitative Evaluation of Disentangled
  Representations", ICLR, https://openreview.net/forum?id=By-7dz-AZ, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BINS = 20  # equally filled bins of a quantity, as in the studies that compare these scores


class Scores(NamedTuple):
    """The scores of one code, each in [0, 1]; means over the factors unless said."""

    mig: float
    sap: float
    disentanglement: float  # DCI's D: mean over latents, weighted by importance
    completeness: float  # DCI's C
    informativeness: float  # DCI's I: what the predictors explain of new samples


# Mutual information ------------------------------------------------------------------------------


def mutual_information(codes: Tensor, factors: Mapping[str, Tensor], bins: int = BINS) -> Tensor:
    """Mutual information of each latent with each factor, nats, (D, K).

    Codes and quantities are sorted into equally filled bins, categories stay what they are. From the
    plug-in estimate of scikit-learn its bias is taken (Miller & Madow): without it 20 x 20 bins and
    4,000 samples would show 0.05 nats between things that have nothing to do with each other.

    Args:
        codes: (N, D).
        factors: K factors, name -> (N,).
        bins: Bins of a quantity, at least 2 and at most N.

    Raises:
        ValueError: if shapes disagree, a value is not finite, or bins do not fit.
    """
    latents, known = _checked(codes, factors)
    if not 2 <= bins <= len(latents):
        raise ValueError(f"bins must lie in 2..{len(latents)}, the number of samples; got {bins}")
    columns = [_binned(column, bins) for column in latents.T]
    levels = [_levels(values, bins) for values in known.values()]
    table = [[_information(column, factor) for factor in levels] for column in columns]
    return torch.tensor(table, dtype=torch.float64)


def entropies(factors: Mapping[str, Tensor], bins: int = BINS) -> Tensor:
    """Entropy of each factor, nats, (K,), in the bins of `mutual_information`."""
    from scipy.stats import entropy

    arrays = {name: values.detach().cpu().numpy() for name, values in factors.items()}
    counts = [np.bincount(_levels(values, bins)) for values in arrays.values()]
    return torch.tensor([float(entropy(count)) for count in counts], dtype=torch.float64)


def mig(information: Tensor, entropy: Tensor) -> Tensor:
    """Mutual information gap of each factor: (best latent - second best) / entropy, (K,).

    Args:
        information: (D, K) with D >= 2, from `mutual_information`.
        entropy: (K,), from `entropies`.
    """
    if information.ndim != 2 or len(information) < 2 or entropy.shape != information.shape[1:]:
        shapes = f"{tuple(information.shape)} and {tuple(entropy.shape)}"
        raise ValueError(f"information must be (D, K), D >= 2, and entropy (K,); got {shapes}")
    best, second = information.topk(2, 0).values
    return (best - second) / entropy


def _information(column: np.ndarray, factor: np.ndarray) -> float:
    from sklearn.metrics import mutual_info_score

    table = np.zeros((column.max() + 1, factor.max() + 1))
    np.add.at(table, (column, factor), 1)
    seen = np.count_nonzero(table), np.count_nonzero(table.sum(1)), np.count_nonzero(table.sum(0))
    bias = (seen[0] - seen[1] - seen[2] + 1) / (2 * len(column))
    return max(0.0, float(mutual_info_score(None, None, contingency=table)) - bias)


# SAP ---------------------------------------------------------------------------------------------


def separated_attributes(codes: Tensor, factors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """How well each single latent predicts each factor (D, K), and the gap of the best two (K,).

    Quantities: squared correlation. Categories: balanced accuracy, on the half of the samples that
    it was not fitted to, of thresholds on the latent (a decision tree with a leaf a class).

    Args:
        codes: (N, D), D >= 2.
        factors: K factors, name -> (N,).
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    latents, known = _checked(codes, factors)
    if latents.shape[1] < 2:
        raise ValueError("a gap needs at least 2 latents, got 1")
    half = len(latents) // 2
    columns = []
    for values in known.values():
        if values.dtype.kind == "f":
            columns.append(_correlations(latents, values) ** 2)
            continue
        leaves = max(2, len(np.unique(values)))
        found = []
        for latent in latents.T[..., None]:
            tree = DecisionTreeClassifier(
                max_leaf_nodes=leaves, class_weight="balanced", random_state=0
            ).fit(latent[:half], values[:half])
            found.append(balanced_accuracy_score(values[half:], tree.predict(latent[half:])))
        columns.append(np.array(found))
    scores = torch.from_numpy(np.stack(columns, 1))
    best, second = scores.topk(2, 0).values
    return scores, best - second


def _correlations(latents: np.ndarray, values: np.ndarray) -> np.ndarray:
    spread, centred = latents - latents.mean(0), values - values.mean()
    power = np.sqrt((spread**2).sum(0) * (centred**2).sum())
    return np.divide(centred @ spread, power, out=np.zeros(len(power)), where=power > 0)


# DCI ---------------------------------------------------------------------------------------------


def importances(
    codes: Tensor, factors: Mapping[str, Tensor], trees: int = 10
) -> tuple[Tensor, Tensor]:
    """How much each latent matters to a random forest that predicts each factor from all of them.

    Args:
        codes: (N, D).
        factors: K factors, name -> (N,).
        trees: Trees of a forest.

    Returns:
        Importances (D, K), each column summing to 1 (to 0 where a forest finds nothing); and how much
        of the other half of the samples a forest explains, (K,): R2 of a quantity, for categories
        accuracy in units of what the majority leaves open. Not below 0.
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    latents, known = _checked(codes, factors)
    half = len(latents) // 2
    columns, explained = [], []
    for values in known.values():
        kind = RandomForestRegressor if values.dtype.kind == "f" else RandomForestClassifier
        forest = kind(trees, min_samples_leaf=10, max_features=1.0, random_state=0)
        forest.fit(latents[:half], values[:half])
        score = float(forest.score(latents[half:], values[half:]))
        if values.dtype.kind != "f":
            majority = np.bincount(np.unique(values, return_inverse=True)[1]).max() / len(values)
            score = (score - majority) / (1 - majority) if majority < 1 else 0.0
        columns.append(forest.feature_importances_)
        explained.append(max(0.0, score))
    return torch.from_numpy(np.stack(columns, 1)), torch.tensor(explained, dtype=torch.float64)


def disentanglement(importance: Tensor) -> float:
    """DCI's D: does each latent matter to one factor only? Importances (D, K) -> [0, 1].

    1 - entropy (base K) of each latent's shares, weighted by how much the latent matters.
    """
    return _concentration(importance.double())


def completeness(importance: Tensor) -> float:
    """DCI's C: does one latent only matter to each factor? Importances (D, K) -> [0, 1]."""
    return _concentration(importance.double().T)


def _concentration(importance: Tensor) -> float:
    if importance.ndim != 2 or min(importance.shape) < 2 or bool((importance < 0).any()):
        raise ValueError(
            f"importances must be >= 0, of 2 or more latents and factors; got {importance.shape}"
        )
    total = importance.sum(1, keepdim=True)
    if not bool(total.sum() > 0):
        return 0.0
    share = importance / total.clamp(min=torch.finfo(torch.float64).tiny)
    entropy = -(share * share.clamp(min=1e-300).log()).sum(1) / math.log(importance.shape[1])
    return float(((1 - entropy) * total[:, 0] / total.sum()).sum())


# All three ---------------------------------------------------------------------------------------


class Examination(NamedTuple):
    """What the scores of one code are made of."""

    information: Tensor  # (D, K), nats
    entropy: Tensor  # (K,), nats
    importance: Tensor  # (D, K), of the latents to a forest
    explained: Tensor  # (K,), by that forest
    scores: Scores


def examine(codes: Tensor, factors: Mapping[str, Tensor], bins: int = BINS) -> Examination:
    """All scores of codes (N, D) against factors, name -> (N,), with their parts; D and K at least 2."""
    information, entropy = mutual_information(codes, factors, bins), entropies(factors, bins)
    _, gap = separated_attributes(codes, factors)
    importance, explained = importances(codes, factors)
    made = Scores(
        float(mig(information, entropy).mean()),
        float(gap.mean()),
        disentanglement(importance),
        completeness(importance),
        float(explained.mean()),
    )
    return Examination(information, entropy, importance, explained, made)


# Pieces ------------------------------------------------------------------------------------------


def _binned(values: np.ndarray, bins: int) -> np.ndarray:
    """Ranks cut into `bins` equal parts; equal values share a bin."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    first = np.concatenate([[0], counts.cumsum()[:-1]])
    middle = first + (counts - 1) / 2
    return np.unique((middle * bins / len(values)).astype(np.int64)[place], return_inverse=True)[1]


def _levels(values: np.ndarray, bins: int) -> np.ndarray:
    """Categories as 0, 1, ...; quantities in bins."""
    if values.dtype.kind == "f":
        return _binned(values, bins)
    return np.unique(values, return_inverse=True)[1]


def _checked(
    codes: Tensor, factors: Mapping[str, Tensor]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Codes and factors as arrays, once they are known to fit."""
    if codes.ndim != 2 or len(codes) < 4:
        raise ValueError(f"codes must be (N, D), N >= 4; got {tuple(codes.shape)}")
    if not factors:
        raise ValueError("factors must hold at least one factor, name -> values (N,); got none")
    for name, values in factors.items():
        if values.shape != codes.shape[:1]:
            raise ValueError(
                f"factor {name!r} must be ({len(codes)},), a value a code; got {tuple(values.shape)}"
            )
    if bool(not codes.isfinite().all()) or not all(v.isfinite().all() for v in factors.values()):
        raise ValueError("codes and factors must be finite")
    known = {name: values.detach().cpu().numpy() for name, values in factors.items()}
    return codes.detach().double().cpu().numpy(), known
