"""What an MVAE says of data: every term by visible subset, and the evidence by importance sampling.

A loss is not a likelihood. `evaluate_subsets` gives the terms of the poster's Table 1, and
`log_weights` what the table leaves out: how likely the data are under the model, with an effective
sample size that says how far to trust the estimate.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.batch import Batch, subset_name, subsets
from labkit.models.mvae import MVAE, Posterior, log_normal


@torch.no_grad()
def evaluate_subsets(
    model: MVAE, batch: Batch, generator: torch.Generator, chunk: int = 256
) -> dict[str, dict[str, float]]:
    """Score each visible subset on every modality, whatever the objective was (poster, Table 1).

    Args:
        model: A trained model.
        batch: Complete samples with labels.
        generator: Draws z.
        chunk: Samples at a time: small enough to stay in the cache of a CPU.

    Returns:
        Subset name -> figures, means over the samples: an error a modality (sampled z, summed over
        its numbers), ``label`` (cross-entropy), ``kl``, ``neg_elbo`` (beta 1, label and the
        likelihoods' constants included), ``accuracy`` (at the posterior mean) and
        ``accuracy_sampled`` (at a sampled z).
    """
    powerset = subsets(len(model.shapes))
    visible = powerset[:, None]
    constants = sum(m.log_normaliser for m in model.config.modalities)
    total: dict[str, Tensor] = {}
    for start in range(0, len(batch), chunk):
        part = batch[start : start + chunk]
        terms = model.terms(part, visible, torch.ones_like(visible), generator)
        terms["neg_elbo"] = model.weigh(terms, kl_weight=1.0) + constants
        if "correct" in terms and part.y is not None:
            terms["accuracy_sampled"] = terms.pop("correct")
            terms["accuracy"] = model.predict(part, visible).argmax(-1) == part.y
        for name, values in terms.items():
            total[name] = total.get(name, torch.zeros(())) + values.double().sum(1).cpu()
    figures = {name: (values / len(batch)).tolist() for name, values in total.items()}
    names = [subset_name(row, tuple(model.shapes)) for row in powerset.tolist()]
    return {
        row: {name: values[i] for name, values in figures.items()} for i, row in enumerate(names)
    }


@torch.no_grad()
def log_weights(
    model: MVAE,
    batch: Batch,
    targets: Tensor,
    proposal: Tensor,
    samples: int,
    generator: torch.Generator,
    label: bool = False,
    chunk: int = 2048,
) -> Tensor:
    """Importance log-weights log p(x_T, z) - log q(z | x_S) of draws z ~ q(z | x_S).

    Their mean is the ELBO of x_T; `log_mean_weight` is the importance-weighted bound, which rises to
    log p(x_T) with the number of draws. The likelihoods are the declared ones, constants included.

    Args:
        model: A trained model.
        batch: B samples.
        targets: T, the modalities whose likelihood is asked for, (M,) bool. Where one of them is not
            observed it is left out for that row.
        proposal: S, the modalities that the proposal sees, (M,) bool.
        samples: K, draws for each sample.
        generator: Draws z.
        label: Include log p(y | z).
        chunk: Rows decoded at a time: small enough to stay in the cache of a CPU.

    Returns:
        (K, B), nats.

    Raises:
        ValueError: if `label` is asked for without labels or without a label decoder.

    Source:
        Burda, Grosse, Salakhutdinov 2016, equation 8, https://arxiv.org/abs/1509.00519.
    """
    if label and (model.label is None or batch.y is None):
        raise ValueError("label=True needs a batch with labels and a model with a label decoder")
    batch = batch.aligned(model.shapes)
    wanted = [
        m for m, chosen in zip(model.config.modalities, targets.tolist(), strict=True) if chosen
    ]
    posterior = model.encode(batch, proposal[None])
    step = max(1, chunk // max(1, len(batch)))
    weights = []
    for start in range(0, samples, step):
        draws = min(step, samples - start)
        z = Posterior(*(part.expand(draws, -1, -1) for part in posterior)).sample(
            generator
        )  # (k, B, D)
        log_w = log_normal(z, torch.zeros_like(z), torch.zeros_like(z)) - posterior.log_prob(z)
        decoded = model.decode(z, [m.name for m in wanted])
        for modality in wanted:
            error = modality.error(decoded[modality.name], batch.x[modality.name])
            log_p = -(modality.weight * error + modality.log_normaliser)
            log_w = log_w + torch.where(batch.observed[:, batch.column(modality.name)], log_p, 0.0)
        if label and batch.y is not None:
            log_p = model.decode_label(z).log_softmax(-1)
            log_w = log_w + log_p.gather(-1, batch.y.expand(draws, -1)[..., None])[..., 0]
        weights.append(log_w)
    return torch.cat(weights)


def log_mean_weight(weights: Tensor) -> Tensor:
    """Importance-weighted bound on log p, nats: log of the mean weight. Log-weights (K, B) -> (B,)."""
    return weights.logsumexp(0) - math.log(len(weights))


def effective_samples(weights: Tensor) -> Tensor:
    """Effective number of draws, between 1 and K, (sum w)^2 / sum w^2. Log-weights (K, B) -> (B,)."""
    return (2 * weights.logsumexp(0) - (2 * weights).logsumexp(0)).exp()


def conditional_nll(
    model: MVAE,
    batch: Batch,
    targets: Tensor,
    given: Tensor,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """-log p(x_T | x_S) in nats, (B,): importance sampling of the joint minus that of what is given.

    Both use q(z | x_S) as their proposal, so a conditional that needs information S does not hold is
    paid for, not borrowed from the target. A difference of two bounds is an estimate, not a bound.

    Args:
        model: A trained model.
        batch: B samples.
        targets: T, (M,) bool, the modalities to be predicted.
        given: S, (M,) bool, the modalities seen; no overlap with T.
        samples: Draws for each sample.
        generator: Draws z.

    Raises:
        ValueError: if a modality is both given and to be predicted.
    """
    if bool((targets & given).any()):
        raise ValueError("targets and given overlap: a modality cannot be both predicted and seen")
    joint = log_mean_weight(log_weights(model, batch, targets | given, given, samples, generator))
    return log_mean_weight(log_weights(model, batch, given, given, samples, generator)) - joint
