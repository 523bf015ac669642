"""Scores of sentiment, as the field reports them, and what a constant answer would score.

Sentiment lies on a scale from -3 to 3, or is negative or positive. Scores are floats, shares in [0, 1]; what
does not fit raises ValueError.

Source:
    Zadeh et al., "Multimodal Language Analysis in the Wild: CMU-MOSEI", ACL 2018, and the code of Wang, Cui &
    Li, ICCV 2023 (DiCMoR), trains/utils/metricsTop.py. Differs: all of its scores are returned, and not
    rounded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sentiment_scores(prediction: Tensor, truth: Tensor) -> dict[str, float]:
    """Score sentiment on the scale from -3 to 3; print `sentiment_majority` beside it.

    Args:
        prediction: Shape (N,), any floating point.
        truth: Shape (N,).

    Returns:
        acc2_nonzero, f1_nonzero: positive (above 0) against the rest, over the samples whose truth is not 0.
        A prediction of exactly 0 counts as negative. F1 is weighted by the classes' frequencies.
        acc2_has_zero, f1_has_zero: not negative (0 or above) against negative, over all samples.
        acc7, acc5, acc3: share of equal steps, clipped to 3, 2, 1 in size and rounded (half to even: 2.5
        becomes 2).
        mae: mean absolute error, in steps. corr: Pearson's correlation; NaN where one of the two is constant.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or all of the truth is 0 (or there is none).
    """
    prediction, truth = _numbers(prediction=prediction, truth=truth)
    counted = truth != 0
    if not bool(counted.any()):
        raise ValueError(
            f"truth must hold a number other than 0: acc2_nonzero of {len(truth)} has none"
        )
    sign, has_zero = (prediction > 0)[counted], prediction >= 0
    return {
        "acc2_nonzero": _accuracy(sign, (truth > 0)[counted]),
        "f1_nonzero": _weighted_f1(sign, (truth > 0)[counted]),
        "acc2_has_zero": _accuracy(has_zero, truth >= 0),
        "f1_has_zero": _weighted_f1(has_zero, truth >= 0),
        **{
            f"acc{2 * most + 1}": _accuracy(
                *(x.clamp(-most, most).round() for x in (prediction, truth))
            )
            for most in (3, 2, 1)
        },
        "mae": float((prediction - truth).abs().mean()),
        "corr": _correlation(prediction, truth),
    }


def sentiment_majority(train: Tensor, truth: Tensor) -> dict[str, float]:
    """Score the answer that is always the same in both forms of Acc-2.

    Args:
        train: Sentiment of the training samples, shape (M,).
        truth: Sentiment of the held-out samples, shape (N,).

    Returns:
        acc2_nonzero, acc2_has_zero: the side that is commoner in `train` (negative if neither is), scored on
        `truth`; held_out_nonzero, held_out_has_zero: the share of the side that is commoner in `truth`, the
        most that a constant can score there.

    Raises:
        ValueError: as `sentiment_scores`.
    """
    (train,), (truth,) = _numbers(train=train), _numbers(truth=truth)
    if not bool((train != 0).any() and (truth != 0).any()):
        raise ValueError("train and truth must each hold a number other than 0")
    scores = {}
    for name, sides in (
        ("nonzero", [sample[sample != 0] > 0 for sample in (train, truth)]),
        ("has_zero", [sample >= 0 for sample in (train, truth)]),
    ):
        known, held_out = (
            float(side.double().mean()) for side in sides
        )  # shares of the upper side
        scores[f"acc2_{name}"] = held_out if known > 0.5 else 1 - held_out
        scores[f"held_out_{name}"] = max(held_out, 1 - held_out)
    return scores


def binary_scores(prediction: Tensor, y: Tensor) -> dict[str, float]:
    """Score sentiment that is negative (0) or positive (1).

    Args:
        prediction: Logits, shape (B, 2), floating point, or labels, shape (B,), int64.
        y: True labels, shape (B,), int64.

    Returns:
        accuracy; f1, weighted by the classes' frequencies; majority, the share of the label that is commoner
        in `y`, the most that a constant can score (`metrics.majority_rate` asks the training labels).

    Raises:
        ValueError: if shapes or types disagree, a label is neither 0 nor 1, or a logit is NaN.
    """
    if prediction.is_floating_point():
        if prediction.shape != (len(y), 2) or bool(prediction.isnan().any()):
            nans = int(prediction.isnan().sum())
            raise ValueError(
                f"logits must have shape ({len(y)}, 2) and no NaN; got {_say(prediction)}, {nans} NaN"
            )
        prediction = prediction.argmax(-1)
    for name, labels in (("prediction", prediction), ("y", y)):
        if labels.dtype != torch.int64 or labels.shape != y.flatten().shape or not len(labels):
            raise ValueError(
                f"{name} must be int64 labels of shape (B,), B >= 1, got {_say(labels)}"
            )
        if bool(((labels != 0) & (labels != 1)).any()):
            raise ValueError(f"{name} must hold 0 and 1, got {labels.unique().tolist()[:5]}")
    share = float(y.double().mean())
    return {
        "accuracy": _accuracy(prediction, y),
        "f1": _weighted_f1(prediction, y),
        "majority": max(share, 1 - share),
    }


def _accuracy(prediction: Tensor, truth: Tensor) -> float:
    return float((prediction == truth).double().mean())


def _weighted_f1(prediction: Tensor, truth: Tensor) -> float:
    from sklearn.metrics import f1_score  # a second of start-up: only when used

    return float(f1_score(truth.cpu().numpy(), prediction.cpu().numpy(), average="weighted"))


def _correlation(a: Tensor, b: Tensor) -> float:
    if bool((a == a[0]).all() or (b == b[0]).all()):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float((a / a.norm()) @ (b / b.norm()))


def _numbers(**tensors: Tensor) -> list[Tensor]:
    """The tensors in float64, once they are known to be finite and of one shape (N,)."""
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    names = " and ".join(tensors)
    if len(shapes) > 1 or any(t.dim() != 1 or not len(t) for t in tensors.values()):
        found = " and ".join(map(_say, tensors.values()))
        raise ValueError(f"{names} must have one shape (N,), N >= 1; got {found}")
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{name} holds {int((~tensor.isfinite()).sum())} numbers that are not finite"
            )
    return [tensor.detach().double() for tensor in tensors.values()]


def _say(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
