"""F1 of several labels that are 0 or 1 each: micro counts every decision alike, macro every label.

Micro F1 pools the decisions of all labels before it divides, so frequent labels rule it; macro F1 is the mean
of the labels' own F1, so a rare label that is never found costs as much as a frequent one. Leading axes are
batch axes: logits (L, B, K) and labels (B, K) give a score for each of L routings, in one call, on the device
of the logits. Scores are float64, without gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LabelF1(NamedTuple):
    """F1 of several labels, in [0, 1]."""

    micro: Tensor  # of all decisions together, shape (...)
    macro: Tensor  # mean of `each`, shape (...)
    each: Tensor  # of each label alone, shape (..., K)


def label_f1(logits: Tensor, y: Tensor, threshold: float = 0.0) -> LabelF1:
    """Score the labels whose logit lies above the threshold.

    F1 = 2 TP / (2 TP + FP + FN). A label that neither occurs nor is predicted has 0 / 0: it counts as 0, and
    takes part in the mean, as scikit-learn's `f1_score` has it with zero_division=0. So has the micro F1 of
    labels none of which occurs or is predicted.

    Args:
        logits: Shape (..., B, K), floating point.
        y: Truth, 0 or 1, shape (B, K), any dtype.
        threshold: A label is predicted where its logit is larger; 0 is a probability of 0.5. Of
            probabilities instead of logits, it is 0.5.

    Returns:
        micro and macro of shape (...), each of shape (..., K), float64.

    Raises:
        ValueError: if shapes disagree, there is no sample or no label, `y` holds anything but 0 and 1, or a
            logit is NaN.

    Source:
        Arevalo et al., "Gated Multimodal Units for Information Fusion", 2017, and Xue & Marculescu, "Dynamic
        Multimodal Fusion", CVPR MULA 2023, Table 1. A probability of exactly 0.5 is no prediction there
        either: it is rounded to even.
    """
    truth = _checked(logits, y)
    predicted = logits > threshold
    both = (predicted & truth).sum(-2).double()  # (..., K)
    either = (predicted.sum(-2) + truth.sum(-2)).double()  # 2 TP + FP + FN
    each = _ratio(both, either)
    return LabelF1(_ratio(both.sum(-1), either.sum(-1)), each.mean(-1), each)


def label_floor(y_train: Tensor, y: Tensor) -> LabelF1:
    """Score the best answer that is the same for every sample, by the training labels.

    Of constant answers, macro F1 and each label's own are best with every label predicted; micro F1 with the
    commonest labels alone, as many of them as score best on `y_train`.

    Args:
        y_train: Labels of the training samples, 0 or 1, shape (N, K).
        y: Labels of the held-out samples, shape (B, K).

    Returns:
        micro, shape (), of that choice; macro, shape (), and each, shape (K,), of all labels predicted.

    Raises:
        ValueError: as `label_f1`, or if the two have different numbers of labels.
    """
    if y_train.ndim != 2 or y.ndim != 2 or y_train.shape[1] != y.shape[1]:
        raise ValueError(
            f"y_train and y must have shapes (N, K) and (B, K); got {_say(y_train)} and {_say(y)}"
        )
    order = y_train.double().mean(0).argsort(descending=True, stable=True)
    place = torch.arange(len(order), device=order.device)
    rank = torch.empty_like(order).scatter_(0, order, place)
    chosen = rank <= place[:, None]  # row k: the k + 1 commonest
    tried = label_f1(_always(chosen, y_train), y_train).micro
    best = label_f1(_always(chosen[tried.argmax()], y), y).micro
    every = label_f1(_always(chosen[-1], y), y)
    return LabelF1(best, every.macro, every.each)


def _always(chosen: Tensor, y: Tensor) -> Tensor:
    """Logits (..., B, K) of the same labels (..., K) for every sample."""
    return (2.0 * chosen - 1)[..., None, :].expand(*chosen.shape[:-1], *y.shape)


def _ratio(both: Tensor, either: Tensor) -> Tensor:
    return torch.where(either > 0, 2 * both / either.clamp(min=1), 0.0)


def _checked(logits: Tensor, y: Tensor) -> Tensor:
    """The truth as bool, once all fits."""
    if not logits.is_floating_point() or logits.ndim < 2 or logits.shape[-2:] != y.shape:
        raise ValueError(
            f"logits must be floating point, of shape (..., B, K), and y of shape (B, K); "
            f"got {_say(logits)} and {_say(y)}"
        )
    if not y.numel():
        raise ValueError(f"y must hold at least one sample and one label, got {_say(y)}")
    if bool(((y != 0) & (y != 1)).any()):
        raise ValueError(f"y must hold 0 and 1, got {y.unique().tolist()[:5]}")
    if bool(logits.isnan().any()):
        raise ValueError(f"logits hold {int(logits.isnan().sum())} NaN")
    return y.bool()


def _say(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
