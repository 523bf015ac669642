"""Entries of the shoot-out, ready to answer: trained methods, and the nearest class mean."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from labkit import madds
from labkit.batch import Batch
from labkit.models.dicmor import DiCMoR
from labkit.models.dynmm import DynMM
from labkit.models.mvae import MVAE
from labkit.models.predictor import PredictorNet
from labkit.models.recovery import RegressorNet
from labkit.models.streams import Answering
from labkit.shootout.beds import as_sequences
from labkit.shootout.plan import NEAREST, Setting, trained


class NearestMean(nn.Module):
    """The class whose mean sample is nearest, over all that is visible: what any network has to beat.

    A class without training samples is never the answer.

    Args:
        train: Labelled samples.
        classes: Number of classes.

    Raises:
        ValueError: without labels.
    """

    never: Tensor  # (K,) bool

    def __init__(self, train: Batch, classes: int) -> None:
        super().__init__()
        if train.y is None:
            raise ValueError("train must have labels")
        known = nn.functional.one_hot(train.y, classes).float()  # (N, K)
        self.register_buffer("never", known.sum(0) == 0)
        self.names, self.means, self.spread = train.modalities, nn.ParameterList(), []
        for name, values in train.x.items():
            x, here = values.flatten(1), train.observed[:, train.column(name)]
            count = known[here].sum(0)[:, None].clamp(min=1)
            means = known[here].T @ x[here] / count
            self.means.append(nn.Parameter(means, requires_grad=False))
            apart = (x[here] - means[train.y[here]]).square()
            self.spread.append(max(float(apart.mean()) if len(apart) else 0.0, 1e-12))

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K): minus the squared distance in deviations, mean over numbers, sum over modalities."""
        total = torch.zeros(len(batch), len(self.means[0]), device=batch.device)
        for name, means, spread in zip(self.names, self.means, self.spread, strict=True):
            x = torch.where(batch.rows(name), batch.x[name], 0.0).flatten(1)
            apart = means.square().sum(1) - 2 * x @ means.T + x.square().sum(1, keepdim=True)
            here = batch.observed[:, batch.column(name), None]
            total -= torch.where(here, apart / (spread * x.shape[1]), 0.0)
        return total.masked_fill(self.never, -math.inf)


class Entry:
    """A trained method, ready to answer.

    Args:
        setting: Data and sizes.
        way: A method.
        gaps: Whether it was trained on gaps.
        seed: Of data and training.
        device: Where to compute.
    """

    def __init__(
        self, setting: Setting, way: str, gaps: bool, seed: int, device: str = "cpu"
    ) -> None:
        if (way, gaps) not in setting.ways:
            trained(setting, way, gaps, seed)  # says what there is
        self.setting = setting
        self.shapes = dict(setting.modalities)
        self.model: Any
        if way == NEAREST:
            train = setting.recipe(seed).load("train", device=device).only(*setting.names)
            self.model = NearestMean(train, setting.classes)
            return
        self.model = trained(setting, way, gaps, seed, device).model.requires_grad_(False).eval()

    @torch.no_grad()
    def answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of samples that miss something, and which of two experts gave them, (B,) int64.

        Who has one network has one expert, 1. DynMM sends no sample to an expert that sees nothing of it.
        """
        whole = torch.ones(len(batch), dtype=torch.int64, device=batch.device)
        model = self.model
        if isinstance(model, DynMM):
            batch = batch.aligned(self.shapes)
            blind = ~batch.observed[:, batch.column(self.setting.cheap)]
            path = torch.where(blind, 1, model.choose(batch).argmax(1))
            said = model.answer(batch, path)
            return said.logits.float(), said.path
        if isinstance(model, DiCMoR | PredictorNet | RegressorNet):
            return model.predict(as_sequences(batch)), whole
        assert isinstance(model, Answering | MVAE | NearestMean)
        return model.predict(batch).float(), whole

    def costs(self) -> dict[str, float]:
        """``weights``, decoders' too; ``madds`` of an answer; ``cheap``: of DynMM's cheap expert and gate."""
        batch = Batch({name: torch.zeros(1, *shape) for name, shape in self.setting.modalities})
        batch = batch.to(next(self.model.parameters()).device)
        weights = sum(p.numel() for p in self.model.parameters())
        spent = float(madds.counted(lambda: self.answer(batch), self.model))
        if not isinstance(self.model, DynMM):
            return {"weights": weights, "madds": spent, "cheap": spent}
        gate = madds.counted(lambda: self.model.choose(batch))
        cheap, dear = self.model.config.costs
        return {"weights": weights, "madds": gate + dear, "cheap": gate + cheap}
