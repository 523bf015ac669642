r"""Multimodal variational autoencoder: one latent, a product of experts, every subset at once.

Reads beside two papers that share the model and differ in the objective:

* M. Wu, N. Goodman, "Multimodal Generative Models for Scalable Weakly-Supervised Learning",
  NeurIPS 2018, https://arxiv.org/abs/1802.05335 - objectives ``own`` and ``own+k``.
* N. Mishra, A. Agarwal, "Generative Multimodal Learning for Reconstructing Missing Modality",
  poster and report of course IFT 6269, Universite de Montreal, 2020 - objective ``cross``.

Each modality has an encoder that sends a *message* q~_i(z|x_i) = N(mu_i, diag exp(logvar_i)). The
posterior of a subset S is the product of its messages with the prior p(z) = N(0, I):

.. math:: \Lambda_S = 1 + \sum_{i \in S} e^{-\mathrm{logvar}_i}, \quad
          \mu_S = \Lambda_S^{-1} \sum_{i \in S} e^{-\mathrm{logvar}_i} \mu_i, \quad
          \mathrm{logvar}_S = -\log \Lambda_S

A missing modality is an expert of infinite variance: it drops out of both sums. So N encoder calls
serve all 2^N - 1 subsets, and N decoder calls decode them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch, draw_patterns, subsets
from labkit.models.layers import Mish

Objective = Literal["cross", "own", "own+k"]
LOGVAR_BOUND = 10.0  # a message's standard deviation stays between e^-5 and e^5


# What is fixed before training -------------------------------------------------------------------


@dataclass(frozen=True)
class Modality:
    """One input of the model.

    Args:
        name: Name in `Batch.x`.
        shape: Shape of one sample.
        likelihood: ``bernoulli`` (pixels in [0, 1]; error = binary cross-entropy, nats, summed) or
            ``gaussian`` (error = squared error, summed).
        weight: Weight of the error in the loss (the poster's lambda). For ``gaussian`` it *is* the
            likelihood: lambda * SE = -log N(x; mean, 1 / (2 lambda)) up to a constant.
        encoder: Hidden widths of the encoder. () = linear.
        decoder: Hidden widths of the decoder.
        center: The encoder sees (x - center) / scale, which costs nothing and lets a modality of small
            variance be learnt as fast as the others.
        scale: See `center`.
    """

    name: str
    shape: tuple[int, ...]
    likelihood: Literal["bernoulli", "gaussian"]
    weight: float = 1.0
    encoder: tuple[int, ...] = (256, 256)
    decoder: tuple[int, ...] = (256, 256)
    center: float = 0.0
    scale: float = 1.0

    @property
    def size(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.shape)

    def error(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Error of each sample, summed over its numbers. (..., B, *shape) and (B, *shape) -> (..., B)."""
        if self.likelihood == "bernoulli":
            each = F.binary_cross_entropy_with_logits(
                decoded, target.expand_as(decoded), reduction="none"
            )
        else:
            each = (decoded - target) ** 2
        return each.flatten(-len(self.shape)).sum(-1)

    @property
    def log_normaliser(self) -> float:
        """Nats to add to weight * error to get -log p(x|z).

        n/2 log(pi / weight) for a Gaussian; 0 for Bernoulli pixels, where grey values make exp(-BCE) an
        unnormalised density, as in every MVAE paper.
        """
        if self.likelihood == "bernoulli":
            return 0.0
        return 0.5 * self.size * math.log(math.pi / self.weight)


Widths = tuple[int, ...]


def digit_modalities(
    image_encoder: Widths = (256, 256),
    speech_encoder: Widths = (256, 256),
    image_decoder: Widths = (256, 256),
    speech_decoder: Widths = (256, 256),
    speech_center: float = 0.5,
    speech_scale: float = 0.1,
) -> tuple[Modality, ...]:
    """The three digit modalities with the poster's likelihoods and weights 1 / 1 / 100.

    The teaching sizes are the defaults. The features of speech lie around 0.5 with deviations of 0.1:
    the teaching encoder sees them centred and scaled, the poster's as they are.
    """
    farsi = Modality("farsi", (28, 28), "bernoulli", 1.0, image_encoder, image_decoder)
    speech = Modality("speech", (13,), "gaussian", 100.0, speech_encoder, speech_decoder)
    scaled = replace(speech, center=speech_center, scale=speech_scale)
    return farsi, replace(farsi, name="kannada"), scaled


@dataclass(frozen=True)
class MVAEConfig:
    """Everything that defines an MVAE. The defaults are the teaching size (D = 32).

    Args:
        modalities: The inputs, in the order of the experts.
        latent: Latent dimensions D.
        classes: Classes of the label decoder (the label is an output only), or None for no label.
        label_decoder: Hidden widths of the label decoder.
        label_weight: Weight of the label's cross-entropy.
        objective: Which reconstructions a subset S is trained on.
            ``cross`` (poster): all observed modalities, the hidden ones too;
            ``own`` (Wu & Goodman): the modalities in S only;
            ``own+k``: as own, on everything, each single modality and `sampled` random subsets.
        sampled: Random subsets a row for ``own+k``.
        kl_weight: Final weight beta of the KL term. Only beta = 1 makes the loss a bound.
        kl_steps: Steps over which beta rises linearly from 0; 0 = at once.
    """

    modalities: tuple[Modality, ...] = digit_modalities()
    latent: int = 32
    classes: int | None = 10
    label_decoder: tuple[int, ...] = (256,)
    label_weight: float = 1.0
    objective: Objective = "cross"
    sampled: int = 1
    kl_weight: float = 1.0
    kl_steps: int = 0

    def __post_init__(self) -> None:
        if self.objective not in ("cross", "own", "own+k"):
            raise ValueError(f"objective must be 'cross', 'own' or 'own+k', got {self.objective!r}")
        if self.latent < 1:
            raise ValueError(f"latent must be at least 1, got {self.latent}")
        if not self.modalities or len({m.name for m in self.modalities}) < len(self.modalities):
            raise ValueError(
                f"modalities need distinct names, got {[m.name for m in self.modalities]}"
            )

    def build(self) -> MVAE:
        """A new model with fresh weights (drawn from torch's global generator)."""
        return MVAE(self)


PRESETS = {
    "teaching2": MVAEConfig(latent=2),
    "teaching32": MVAEConfig(),
    # Report section 4.2.2; the ramp of 200 epochs x 375 steps was stopped at epoch 32 (beta 0.16).
    "poster": MVAEConfig(
        digit_modalities((2048, 1024, 512), (512, 512), (512,) * 4, (512,) * 3, 0.0, 1.0),
        latent=512,
        label_decoder=(512,) * 3,
        kl_steps=200 * 375,
    ),
}


def preset(name: str, **changes: Any) -> MVAEConfig:
    """A named configuration, with changes: ``preset("teaching32", objective="own")``.

    Raises:
        ValueError: on an unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)


# Fusion ------------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latent: `mean` and `logvar` (natural log), each (..., B, D)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One reparameterised draw, in the shape of the mean."""
        noise = torch.randn(
            self.mean.shape, dtype=self.mean.dtype, device=self.mean.device, generator=generator
        )
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) by dimension, nats, (..., B, D)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log q(z), nats, summed over the dimensions."""
        return log_normal(z, self.mean, self.logvar)


def product_of_experts(mean: Tensor, logvar: Tensor, observed: Tensor | None = None) -> Posterior:
    r"""Combine diagonal Gaussian experts with the N(0, I) prior expert.

    .. math:: q(z | x_S) \propto p(z) \prod_{i \in S} N(z; \mu_i, e^{\mathrm{logvar}_i})

    Works on log-precisions throughout (a softmax over the experts), so values and gradients stay
    finite for log-variances in [-120, 120]. A hidden expert's content, NaN included, is never read.

    Args:
        mean: Expert means, (M, B, D).
        logvar: Natural logs of the expert variances, (M, B, D).
        observed: True = the expert takes part, (..., B, M) bool; leading axes (all the subsets, say)
            are fused at once. None = all take part. A row without any gives the prior.

    Returns:
        The posterior, mean and logvar (..., B, D).

    Raises:
        ValueError: if the shapes disagree or `observed` is not bool.

    Source:
        Wu & Goodman 2018, section 2.2; differs: no epsilon added to the variances (the official code
        adds one twice, which bends the product and caps its precision).
    """
    if mean.shape != logvar.shape or mean.ndim != 3:
        raise ValueError(
            f"mean and logvar must both be (M, B, D), got {tuple(mean.shape)} and {tuple(logvar.shape)}"
        )
    if observed is None:
        observed = torch.ones(mean.shape[1], mean.shape[0], dtype=torch.bool, device=mean.device)
    if observed.dtype != torch.bool or observed.shape[-2:] != (mean.shape[1], mean.shape[0]):
        raise ValueError(f"observed must be bool (..., {mean.shape[1]}, {mean.shape[0]}), "
                         f"got {observed.dtype} {tuple(observed.shape)}")  # fmt: skip
    here = observed.movedim(-1, -2)[..., None]  # (..., M, B, 1)
    ever = here.reshape(-1, *here.shape[-3:]).any(0)  # (M, B, 1): what no set sees may be NaN
    mean = torch.where(ever, mean, 0.0)
    log_precision = torch.where(here, -logvar, -math.inf)
    prior = torch.zeros_like(log_precision[..., :1, :, :])
    total = torch.cat([prior, log_precision], -3).logsumexp(-3)  # (..., B, D), log Lambda_S
    share = (log_precision - total.unsqueeze(-3)).exp()  # (..., M, B, D), T_i / Lambda_S
    return Posterior((share * mean).sum(-3), -total)


# The model ---------------------------------------------------------------------------------------


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with Mish between them (x tanh(softplus(x)); the report calls it Swish)."""
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), Mish()]
    return nn.Sequential(*layers[:-1])


class Encoder(nn.Module):
    """x_i -> the message (mean, logvar). The log-variance head starts at zero and is bounded smoothly."""

    def __init__(self, modality: Modality, latent: int) -> None:
        super().__init__()
        self.modality = modality
        widths = (modality.size, *modality.encoder)
        self.body = nn.Sequential(mlp(*widths), Mish()) if modality.encoder else nn.Identity()
        width = widths[-1]
        self.mean = nn.Linear(width, latent)
        self.logvar = nn.Linear(width, latent)
        nn.init.zeros_(self.logvar.weight)
        nn.init.zeros_(self.logvar.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Samples (B, ...) -> mean and log-variance of their messages, (B, D) each."""
        h = self.body((x.flatten(1) - self.modality.center) / self.modality.scale)  # (B, width)
        raw = self.logvar(h).float() if h.dtype == torch.bfloat16 else self.logvar(h)
        return self.mean(h).to(raw.dtype), LOGVAR_BOUND * torch.tanh(raw / LOGVAR_BOUND)


class MVAE(nn.Module):
    """The multimodal VAE of both papers; `MVAEConfig` says which."""

    def __init__(self, config: MVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = {m.name: m for m in config.modalities}
        self.shapes = {m.name: m.shape for m in config.modalities}
        d = config.latent
        self.encoders = nn.ModuleDict({m.name: Encoder(m, d) for m in config.modalities})
        self.decoders = nn.ModuleDict(
            {m.name: mlp(d, *m.decoder, m.size) for m in config.modalities}
        )
        self.label = mlp(d, *config.label_decoder, config.classes) if config.classes else None

    # Encoding, decoding ----------------------------------------------------------------------

    def experts(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Messages of all modalities, mean and logvar, each (M, B, D)."""
        batch = batch.aligned(self.shapes)
        means, logvars = zip(
            *(net(batch.x[name]) for name, net in self.encoders.items()), strict=True
        )
        return torch.stack(means), torch.stack(logvars)

    def encode(self, batch: Batch, visible: Tensor | None = None) -> Posterior:
        """Posterior given the visible modalities, (..., B, D).

        Args:
            batch: B samples.
            visible: What may be looked at, (..., B, M) bool in the order of the configuration's
                modalities, or (..., 1, M) for all rows alike; only its observed part counts.
                None = all that is observed.
        """
        batch = batch.aligned(self.shapes)
        visible = batch.observed if visible is None else visible.to(batch.device) & batch.observed
        return product_of_experts(*self.experts(batch), visible)

    def decode(self, z: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Decode z (..., D) into what parameterises p(x|z).

        Args:
            z: Latents.
            names: Which to decode; None = every modality, and the label if there is a decoder of it.

        Returns:
            Modality name -> Bernoulli logits or Gaussian means (..., *shape); ``label`` -> logits
            (..., C).
        """
        if names is None:
            names = [*self.modalities] if self.label is None else [*self.modalities, "label"]
        return {
            name: self.decode_label(z) if name == "label" else self._decode(name, z)
            for name in names
        }

    def decode_label(self, z: Tensor) -> Tensor:
        """Label logits (..., C) of z (..., D).

        Raises:
            ValueError: if the model has no label decoder.
        """
        if self.label is None:
            raise ValueError(
                "this MVAE has no label decoder: build it with classes=<number of classes>"
            )
        return _float(self.label(z))

    def _decode(self, name: str, z: Tensor) -> Tensor:
        return _float(self.decoders[name](z)).unflatten(-1, self.modalities[name].shape)

    def means(self, z: Tensor) -> dict[str, Tensor]:
        """Z (..., D) -> the mean of each modality: pixels in [0, 1], Gaussian means."""
        decoded = self.decode(z)
        return {name: decoded[name].sigmoid() if m.likelihood == "bernoulli" else decoded[name]
                for name, m in self.modalities.items()}  # fmt: skip

    def predict(self, batch: Batch, visible: Tensor | None = None) -> Tensor:
        """Label logits (..., B, C) at the posterior mean. Reads no label.

        Raises:
            ValueError: if the model has no label decoder.
        """
        return self.decode_label(self.encode(batch, visible).mean)

    def recover(self, batch: Batch) -> Batch:
        """The batch with every missing modality filled by its reconstruction from the observed ones."""
        batch = batch.aligned(self.shapes)
        means = self.means(self.encode(batch).mean)
        filled = {
            name: torch.where(batch.rows(name), x, means[name].to(x.dtype))
            for name, x in batch.x.items()
        }
        return replace(batch, x=filled, observed=torch.ones_like(batch.observed))

    # Objective -------------------------------------------------------------------------------

    def terms(self, batch: Batch, visible: Tensor, targets: Tensor,
              generator: torch.Generator | None = None) -> dict[str, Tensor]:  # fmt: skip
        """Every term of the objective, for every visible set at once.

        Args:
            batch: B samples.
            visible: Visible sets, (S, B, M), or (S, 1, M) where all rows share them, bool.
            targets: Modalities that each set is scored on, in the shape of `visible`. Where all rows
                share them, a modality is decoded from those sets only. Only observed targets count.
            generator: Draws z; None = z is the posterior mean.

        Returns:
            (S, B) each, nats unless said: one error a modality by its name (unweighted, 0 where it is
            no target), ``label`` (cross-entropy; 0 without label), ``kl``; and ``correct`` (bool),
            the label decoder's hits.
        """
        batch = batch.aligned(self.shapes)
        posterior = self.encode(batch, visible)
        z = posterior.mean if generator is None else posterior.sample(generator)  # (S, B, D)
        scored = targets.to(batch.device) & batch.observed  # (S, B, M)
        out = {"kl": posterior.kl().sum(-1)}
        for i, (name, modality) in enumerate(self.modalities.items()):
            sets = (
                targets[:, 0, i].nonzero()[:, 0] if targets.shape[1] == 1 else torch.arange(len(z))
            )
            chosen = z if len(sets) == len(z) else z[sets]  # (S_i, B, D)
            error = modality.error(self._decode(name, chosen), batch.x[name])  # (S_i, B)
            if len(sets) < len(z):
                error = torch.zeros_like(out["kl"]).index_copy(0, sets.to(z.device), error)
            out[name] = torch.where(scored[..., i], error, 0.0)
        if self.label is None or batch.y is None:
            return out | {"label": torch.zeros_like(out["kl"])}
        logits = self.decode_label(z)  # (S, B, C)
        labels = batch.y.expand(logits.shape[:-1])
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return out | {
            "label": cross_entropy.view(labels.shape),
            "correct": logits.argmax(-1) == labels,
        }

    def weigh(self, terms: dict[str, Tensor], kl_weight: float) -> Tensor:
        """Loss of each set and sample, (S, B): weighted errors + label + beta KL, without constants."""
        errors = sum(m.weight * terms[m.name] for m in self.config.modalities)
        return errors + self.config.label_weight * terms["label"] + kl_weight * terms["kl"]

    def kl_weight(self, step: int) -> float:
        """Beta at this step of training: a linear ramp over `kl_steps` up to `kl_weight`."""
        ramp = 1.0 if self.config.kl_steps == 0 else min(1.0, (step + 1) / self.config.kl_steps)
        return self.config.kl_weight * ramp

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over the visible sets, mean over the batch (report section 4.2; Wu & Goodman eq. 5).

        A set counts for a row only where all of it is observed; so a row with gaps is trained on the
        subsets of what it has.

        Returns:
            The loss, and detached parts: ``joint`` (the loss of "everything visible", which the
            poster calls ELBO), its ``kl`` and errors, accuracies of everything and of each modality.
        """
        batch = batch.aligned(self.shapes)
        visible, targets = self._plan(batch.observed, generator)
        counts = (visible.to(batch.device) <= batch.observed).all(-1)  # (S, B)
        terms = self.terms(batch, visible, targets, generator)
        each = torch.where(counts, self.weigh(terms, self.kl_weight(step)), 0.0)
        return each.sum(0).mean(), self._parts(terms, each, counts)

    def _plan(self, observed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible sets and their targets: first the M single modalities, last everything.

        Where all rows share them they stay on the CPU, (S, 1, M), which spares a device sync.
        """
        powerset = subsets(len(self.modalities))[:, None]
        if self.config.objective == "cross":
            return powerset, torch.ones_like(powerset)
        if self.config.objective == "own":
            return powerset, powerset
        rows, m = observed.shape
        drawn = draw_patterns(
            torch.where(observed, 0.5, 1.0).repeat(self.config.sampled, 1), generator
        )
        single = torch.eye(m, dtype=torch.bool, device=observed.device)[:, None].expand(m, rows, m)
        visible = torch.cat([single, drawn.view(-1, rows, m), observed[None]])
        return visible, visible

    def _parts(self, terms: dict[str, Tensor], each: Tensor, counts: Tensor) -> dict[str, Tensor]:
        """Figures for the history: means over the samples for which the set counts."""
        names = list(self.modalities)
        share = counts.float() / counts.float().sum(1, keepdim=True).clamp(min=1)  # (S, B)
        parts = {"joint": (each * share)[-1].sum(), "kl": (terms["kl"] * share)[-1].sum()}
        parts |= {f"error_{name}": (terms[name] * share)[-1].sum() for name in names}
        if "correct" in terms:
            hits = (terms["correct"] * share).sum(1)  # (S,), in the order of `_plan`
            parts |= {"accuracy": hits[-1]}
            parts |= {f"accuracy_{name}": hits[i] for i, name in enumerate(names)}
        return {name: value.detach() for name, value in parts.items()}


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """Log density of a diagonal Gaussian, nats, summed over the last axis."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mean) ** 2 / logvar.exp()).sum(-1)


def _float(values: Tensor) -> Tensor:
    """Out of bfloat16: sums over pixels and the fusion are kept in full precision."""
    return values.float() if values.dtype == torch.bfloat16 else values
