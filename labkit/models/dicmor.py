r"""DiCMoR: move a distribution from the modalities that are there to the one that is missing.

Each modality's features x_m go through a flow F_m of their own into one latent space, where all of them have
one class-specific prior p(z|y) (`labkit.models.flow`, `labkit.models.prior`). What a missing modality m would
have looked like is then

.. math:: \tilde x_m = F_m^{-1}\big(F_s(x_s)\big)

for one modality s that is there. Of several, their latents are averaged, or what comes of each; see `Merge`.
A reconstruction module may refine it, and a predictor reads it as if it had been there.

Flows learn by likelihood alone. Likelihood makes the *distribution* of what is recovered right, class by
class; it does not pair what one person said with that person's face. `pairing` does.

The stages: a predictor on complete data (`labkit.models.predictor`), then ``flows`` on its projections, which
stay as they are, and then, where there is a reconstruction module, ``whole``: everything but the projections.

Source:
    Wang, Cui & Li, "Distribution-Consistent Modal Recovering for Incomplete Multimodal Learning", ICCV 2023;
    released code: github.com/mdswyz/DiCMoR, dicmor.py and rcan.py. `preset(..., official=True)` has its
    layers, losses and switches (`labkit.models.flow.released`). Not taken over: dropout in front of the
    frozen projection, which fits the flow to corrupted features; a dropout of attention for each source (ours
    is that of language for all); one missing pattern a batch; padding that counts; gradients summed over
    eight batches and clipped value by value. The paper's figure merges latents, its code learns a 1 x 1
    convolution.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.flow import FlowConfig, Folded, released
from labkit.models.predictor import Features, Predictor, PredictorNet, hidden, moments, shown, task
from labkit.models.prior import Prior, PriorKind, bits
from labkit.models.rcan import Reconstruction

Merge = Literal["latent_mean", "data_mean", "learned_1x1"]
Stage = Literal["flows", "whole"]
MERGES: tuple[Merge, ...] = ("latent_mean", "data_mean", "learned_1x1")


@dataclass(frozen=True)
class DicmorConfig:
    """Everything that defines a DiCMoR.

    Args:
        predictor: Of stage one, whose projections and fusion this starts from.
        flow: Flows of the predictor's modalities and width.
        prior: ``single``, ``class`` or ``linear``, see `Prior`.
        levels: Labels that the prior tells apart; None = the predictor's classes.
        lowest: The lowest of them.
        learned_scale: The prior's deviations are learnt.
        merge: Of several sources, ``latent_mean``: average the latents, then one inverse flow (the paper's
            figure); ``data_mean``: average what every source gives; ``learned_1x1``: where all others are
            there, a learned convolution of what each gives, else their mean (the released code).
        pairing: Weight of the mean squared distance between the latents of one sample's modalities.
        detach: What was recovered teaches neither flows nor prior (the released code).
        blocks: Blocks of the reconstruction module; 0 = none.
        stage: What `loss` trains, see the module.
        hide: In stage ``whole``: probability with which each modality is hidden, one at least being kept.
        weight: In stage ``whole``: of likelihood and reconstruction beside the task.
        stop_at_zero: Bits below 0 count as 0, where their gradient vanishes (the released code).

    Raises:
        ValueError: on a value out of range, or flows that do not fit the predictor.
    """

    predictor: Predictor
    flow: FlowConfig
    prior: PriorKind = "class"
    levels: int | None = None
    lowest: int = 0
    learned_scale: bool = True
    merge: Merge = "latent_mean"
    pairing: float = 0.0
    detach: bool = True
    blocks: int = 0
    stage: Stage = "flows"
    hide: float = 0.5
    weight: float = 0.1
    stop_at_zero: bool = False

    def __post_init__(self) -> None:
        fits = (len(self.predictor.modalities), self.predictor.channels)
        if (self.flow.modalities, self.flow.channels) != fits:
            raise ValueError(
                f"flow must have the predictor's {fits[0]} modalities of {fits[1]} channels; "
                f"got {self.flow.modalities} of {self.flow.channels}"
            )
        if self.merge not in MERGES:
            raise ValueError(f"merge must be one of {', '.join(MERGES)}; got {self.merge!r}")
        if self.stage not in ("flows", "whole"):
            raise ValueError(f"stage must be 'flows' or 'whole', got {self.stage!r}")
        for name in ("pairing", "weight", "blocks"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 < self.hide < 1:
            raise ValueError(f"hide must lie strictly between 0 and 1, got {self.hide}")
        if self.levels is None and self.predictor.classes is None:
            raise ValueError("levels must be given for a predictor whose answer is a number")

    def build(self, parent: PredictorNet | DiCMoR) -> DiCMoR:
        """A model that goes on from a predictor, with new flows, or from a model of an earlier stage.

        Raises:
            ValueError: if the parent is of another predictor, or has other flows or another prior.
        """
        predictor = parent if isinstance(parent, PredictorNet) else parent.predictor
        model = DiCMoR(self, copy.deepcopy(predictor))
        if isinstance(parent, DiCMoR):
            for name in ("flow", "prior", "levels", "lowest", "learned_scale"):
                mine, theirs = getattr(self, name), getattr(parent.config, name)
                if mine != theirs:
                    raise ValueError(f"{name} must be the parent's, {theirs}; got {mine}")
            missing, unknown = model.load_state_dict(parent.state_dict(), strict=False)
            if unknown or any(not name.startswith(("join", "refine")) for name in missing):
                raise ValueError(
                    f"parent must have the parts of this model; {missing + unknown} do not fit"
                )
        return model


# The model ------------------------------------------------------------------------------------------


class DiCMoR(nn.Module):
    """Flows, prior and recovery in front of a predictor; `DicmorConfig` says which."""

    mean: Tensor  # (M, 1, 1, D) of the features, taken off before the flows
    deviation: Tensor
    started: Tensor  # these two, and ActNorms, are set

    def __init__(self, config: DicmorConfig, predictor: PredictorNet) -> None:
        super().__init__()
        if predictor.config != config.predictor:
            raise ValueError(f"predictor must be {config.predictor}, got {predictor.config}")
        self.config, self.predictor, self.shapes = config, predictor, predictor.shapes
        count, width = config.flow.modalities, config.flow.channels
        self.flows = config.flow.build()
        levels = config.levels or config.predictor.outputs
        self.prior = Prior(width, config.prior, levels, config.learned_scale, config.lowest)
        self.register_buffer("mean", torch.zeros(count, 1, 1, width))
        self.register_buffer("deviation", torch.ones(count, 1, 1, width))
        self.register_buffer("started", torch.tensor(False))
        self.join = None
        if config.merge == "learned_1x1":
            self.join = nn.Conv1d(count * (count - 1) * width, count * width, 1, groups=count)
        self.refine = Reconstruction(count, width, config.blocks) if config.blocks else None
        self.predictor.requires_grad_(config.stage == "whole")
        self.predictor.projections.requires_grad_(False)
        if config.stage == "flows":
            for part in (self.join, self.refine):
                if part is not None:
                    part.requires_grad_(False)

    # Features to latents and back ---------------------------------------------------------------

    def latents(self, seen: Features) -> tuple[Tensor, Tensor]:
        """Latents of all modalities (M, B, T, D), and log |det| of each row (M, B, T), in nats."""
        return self._latents(self.flows.fold(), seen.x)

    def _latents(self, folded: Folded, x: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = folded.forward((x.float() - self.mean) / self.deviation)
        return z, log_det - self.deviation.log().sum((1, 2, 3))[:, None, None]

    def _features(self, folded: Folded, z: Tensor) -> Tensor:
        return folded.inverse(z) * self.deviation + self.mean

    def recover(self, seen: Features, visible: Tensor) -> Tensor:
        """Features (M, B, T, D) with a guess at whatever is not visible.

        Args:
            seen: Features of B samples.
            visible: (B, M) bool, a part of what is observed, at least one in each row.
        """
        folded = self.flows.fold()
        z, _ = self._latents(folded, shown(seen.x, visible))
        return torch.where(
            visible.T[..., None, None], seen.x, self._guess(folded, z, visible, seen.length)
        )

    def _guess(self, folded: Folded, z: Tensor, visible: Tensor, length: Tensor) -> Tensor:
        guess = self.carried(folded, z, visible)
        return guess if self.refine is None else self.refine(guess, length)

    def carried(self, folded: Folded, z: Tensor, visible: Tensor) -> Tensor:
        """Latents of the visible modalities, carried over to every modality: (M, B, T, D).

        Args:
            folded: The flows.
            z: (M, B, T, D); those of modalities that are not visible are not read.
            visible: (B, M) bool.
        """
        there, count = visible.T[..., None, None].to(z), len(z)  # (M, B, 1, 1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.detach):
            if self.config.merge == "latent_mean":
                mean = (z * there).sum(0) / there.sum(0)
                return self._features(folded, mean.expand_as(z))
            each = self._features(folded, z.expand(count, *z.shape).flatten(1, 2))
            each = each.view(count, *z.shape)  # (target, source, B, T, D)
        mean = (each * there).sum(1) / there.sum(0)
        if self.join is None:
            return mean
        others = torch.stack([each[m, [s for s in range(count) if s != m]] for m in range(count)])
        rows = others.permute(2, 0, 1, 4, 3).flatten(1, 3)  # (B, M (M - 1) D, T)
        joined = self.join(rows).unflatten(1, (count, -1)).permute(1, 0, 3, 2)
        whole = (
            visible.sum(1, keepdim=True) - visible.long() == count - 1
        )  # (B, M): all others are there
        return torch.where(whole.T[..., None, None], joined, mean)

    # Answers, which read no label -------------------------------------------------------------------

    def predict(self, batch: Batch, visible: Tensor | None = None) -> Tensor:
        """The predictor's answer on recovered features, (B, outputs).

        Args:
            batch: B samples.
            visible: (B, M) bool; only its observed part counts. None = all that is observed.
        """
        seen, visible = self.predictor.look(batch, visible)
        return self.predictor.answer(self.recover(seen, visible), seen.length)

    def classify(self, batch: Batch, visible: Tensor | None = None) -> Tensor:
        """Logits of p(y|z) from flows and prior alone, (B, levels), as if classes were equally frequent.

        Rows and modalities are taken for independent given the label. The released code never asks.
        """
        seen, visible = self.predictor.look(batch, visible)
        z, _ = self.latents(seen._replace(x=shown(seen.x, visible)))
        return torch.where(seen.rows(visible)[..., None], self.prior.logits(z), 0.0).sum((0, 2))

    # Training ---------------------------------------------------------------------------------------

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage ``flows``: bits a number, summed over modalities, and pairing. Stage ``whole``: the task too.

        The first step of a training that starts new flows sets mean and deviation of the features, and every
        ActNorm, by its samples; but not that of the released flow in stage ``whole``, which takes them as
        they are.

        Returns:
            The loss, and detached parts: ``bits`` (mean over modalities), ``pairing``; in stage ``whole``
            also ``reconstruction`` and those of the task.

        Raises:
            ValueError: at the first step, if a label has no class, or a modality is nowhere observed.
        """
        assert batch.y is not None
        seen = self.predictor.features(batch)
        visible = None
        if self.config.stage == "whole":
            visible = hidden(seen.observed, self.config.hide, generator)
        guess = seen.x
        with torch.autocast(
            seen.x.device.type, enabled=False
        ):  # a flow in bf16 is no inverse of itself
            if step == 0 and self.training:
                self.prior.class_of(
                    batch.y
                )  # whatever the prior's kind: says which label has no class
                self._start(seen)
            here, folded = seen.rows(seen.observed), self.flows.fold()
            z, log_det = self._latents(folded, seen.x)
            each = bits(self.prior.log_prob(z, batch.y) + log_det, here, z.shape[-1])
            total = each.clamp(min=0).sum() if self.config.stop_at_zero else each.sum()
            parts = {"bits": each.mean()}
            if self.config.pairing:
                parts["pairing"] = distance(z, here)
                total = total + self.config.pairing * parts["pairing"]
            if visible is not None:
                guess = self._guess(folded, z, visible, seen.length)
        if visible is not None:
            filled = torch.where(visible.T[..., None, None], seen.x, guess)
            said, more = task(self.predictor.answer(filled, seen.length), batch)
            missing = seen.rows(seen.observed & ~visible)[..., None]
            error = torch.where(missing, guess - seen.x, 0).square().sum()
            parts["reconstruction"] = error / (missing.sum() * z.shape[-1]).clamp(min=1)
            total = said + self.config.weight * (total + parts["reconstruction"])
            parts |= more
        return total, {name: value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def _start(self, seen: Features) -> None:
        """Mean, deviation and ActNorms by a first batch, if that was not done."""
        flow = self.config.flow
        if self.started or (self.config.stage == "whole" and not flow.normalise):
            return
        self.mean, self.deviation = moments(seen, self.shapes)
        self.started.fill_(True)
        if flow.normalise:
            scaled = (seen.x.float() - self.mean) / self.deviation
            rows = [x[row] for x, row in zip(scaled, seen.rows(seen.observed), strict=True)]
            most = max(
                map(len, rows)
            )  # as many of each modality: those of which there are fewer, again
            again = [x[torch.arange(most, device=x.device) % len(x)] for x in rows]
            self.flows.start_normalised(torch.stack(again))


def distance(z: Tensor, here: Tensor) -> Tensor:
    """Mean squared distance between two modalities' latents of a row, a number; rows that lack one aside.

    Args:
        z: (M, B, T, D).
        here: (M, B, T) bool.
    """
    pairs = torch.tensor([*combinations(range(len(z)), 2)], device=z.device).T
    both = (here[pairs[0]] & here[pairs[1]])[..., None]
    gap = torch.where(both, z[pairs[0]] - z[pairs[1]], 0).square().sum()
    return gap / (both.sum() * z.shape[-1]).clamp(min=1)


# Presets --------------------------------------------------------------------------------------------


def teaching(predictor: Predictor, **changes: object) -> DicmorConfig:
    """Small flows on a predictor's features, and no reconstruction module."""
    flow = FlowConfig(predictor.channels, len(predictor.modalities))
    return replace(DicmorConfig(predictor, flow), **changes)  # type: ignore[arg-type]


def preset(name: Literal["mosi", "mosei"], official: bool = False) -> DicmorConfig:
    """The paper's sizes for the aligned releases of CMU-MOSI and CMU-MOSEI.

    Args:
        name: Which.
        official: What the released code computes instead of what the paper describes.

    Raises:
        ValueError: on an unknown name.
    """
    if name not in ("mosi", "mosei"):
        raise ValueError(f"name must be 'mosi' or 'mosei', got {name!r}")
    audio, vision, width, layers, drop = (
        (5, 20, 32, 4, 0.3) if name == "mosi" else (74, 35, 64, 6, 0.2)
    )
    predictor = Predictor(
        (("language", 768), ("audio", audio), ("vision", vision)), 50, width, 5, "mult", layers=layers,
        dropout=drop, embed_dropout=0.2 if name == "mosi" else 0.0,
        output_dropout=0.5 if name == "mosi" else 0.2, classes=None,
    )  # fmt: skip
    flow = released(width) if official else FlowConfig(width, 3, 8, 64, "learned")
    merge: Merge = "learned_1x1" if official else "latent_mean"
    return DicmorConfig(
        predictor, flow, levels=7, lowest=-3, merge=merge, blocks=20, stage="whole" if official else "flows",
        stop_at_zero=official,
    )  # fmt: skip


def unused(width: int) -> dict[str, int]:
    """Parameters that the released code builds for three modalities and never trains, by name.

    Args:
        width: D.
    """
    flow = 32 * (2 * width + width**2) + 2 * width**2 + 4 * width
    prior = 2 * width**2 + 2 * width
    return {
        "ActNorm and mixing of 32 steps, and a prior, in each of three flows": 3 * flow,
        "weights of convolutions of zeros, and a second scale, in each of seven priors": 7 * prior,
        "weight_l, weight_a, weight_v": 3 * (4 * width**2 + 2 * width),
    }  # fmt: skip
