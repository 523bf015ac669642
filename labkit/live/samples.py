"""Which held-out samples the labs of an MVAE show: a few of each digit, checked once for all labs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.models.mvae import MVAE

SAMPLES = 3  # of each digit, to choose from
SHAPE = (10, SAMPLES)
SAMPLE_HELP = "Which held-out sample of that digit."


class Chosen(NamedTuple):
    """A model in eval mode on the CPU and the samples its labs show.

    Attributes:
        model: The model.
        few: `SAMPLES` of each digit, digit after digit.
        many: A cloud of samples to draw in the background.
        classes: Labels of `many`.
    """

    model: MVAE
    few: Batch
    many: Batch
    classes: Tensor


def choose(model: MVAE, batch: Batch, points: int = 400) -> Chosen:
    """Pick the first samples of each digit, and the first `points` of all.

    Raises:
        ValueError: without labels, a label decoder, or `SAMPLES` samples of each digit 0 to 9.
    """
    labels = batch.y
    if labels is None or model.label is None:
        raise ValueError("the labs need labels in the batch and a label decoder in the model")
    counts = torch.bincount(labels, minlength=10)
    if len(counts) > 10 or int(counts.min()) < SAMPLES:
        raise ValueError(
            f"batch must hold at least {SAMPLES} samples of each digit 0 to 9, got {counts.tolist()}"
        )
    model, batch, y = model.cpu().eval(), batch.to("cpu").aligned(model.shapes), labels.cpu()
    rows = torch.cat([(y == c).nonzero()[:SAMPLES, 0] for c in range(10)])
    return Chosen(model, batch[rows], batch[:points], y[:points])


def images_of(model: MVAE) -> list[str]:
    """Names of the modalities that are images."""
    return [m.name for m in model.config.modalities if len(m.shape) == 2]
