"""Every figure of merit, and beside it what a trivial answer would score.

Pure functions on tensors. Labels and true factors come in only to *score*: nothing here hands them
to a model. Scores are float64, without gradient. Leading axes are batch axes: logits (S, B, C) and
labels (B,) give a score for each of S subsets, in one call. What does not fit raises ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from labkit.floors import Floor as Floor  # part of this module's surface, in files of their own
from labkit.floors import floors as floors
from labkit.models.readers import FactorRegressor as FactorRegressor
from labkit.models.readers import Judge as Judge

# Classification: logits (..., B, C), y (B,) int64 -> (...) --------------------------------------


def accuracy(logits: Tensor, y: Tensor) -> Tensor:
    """Measure the share of samples whose largest logit (the first of equals) is the true class.

    Args:
        logits: Shape (..., B, C).
        y: True classes, shape (B,), int64 in 0..C-1.

    Returns:
        Shape (...), in [0, 1]; print `majority_rate` beside it.

    Raises:
        ValueError: if shapes disagree, y is empty or holds no class of C, or a logit is NaN. The
            other scores of logits take the same arguments and raise the same errors.
    """
    return (_checked(logits, y).argmax(-1) == y).double().mean(-1)


def nll(logits: Tensor, y: Tensor) -> Tensor:
    """Average the negative log-likelihood of the true class, in nats."""
    log_probs = _checked(logits, y).log_softmax(-1)
    return -log_probs.gather(-1, y.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1).mean(-1)


def brier(logits: Tensor, y: Tensor) -> Tensor:
    """Average the squared distance from probabilities to the one-hot truth, summed over classes.

    Returns:
        Shape (...), in [0, 2]: for C = 2, twice the common one-class form.

    Source:
        Brier 1950, "Verification of forecasts expressed in terms of probability".
    """
    probs = _checked(logits, y).softmax(-1)
    return (probs - functional.one_hot(y, logits.shape[-1])).square().sum(-1).mean(-1)


class Reliability(NamedTuple):
    """What a reliability diagram draws, bin by bin; each field has shape (..., bins)."""

    confidence: Tensor  # mean confidence; NaN in an empty bin
    accuracy: Tensor  # share correct; NaN in an empty bin
    count: Tensor  # type: ignore[assignment]  # samples, int64 (hides tuple.count)


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """Sort predictions by their probability into equal bins ((m - 1) / bins, m / bins].

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, predicted = _checked(logits, y).softmax(-1).max(-1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)[1:-1]
    place = torch.bucketize(confidence, edges)  # (..., B), right end included

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(*values.shape[:-1], bins).scatter_add_(-1, place, values)

    count = total(torch.ones_like(confidence))
    correct = total((predicted == y).double())
    return Reliability(total(confidence) / count, correct / count, count.long())


def ece(logits: Tensor, y: Tensor, bins: int = 15) -> Tensor:
    """Average |accuracy - confidence| over the bins of `reliability`, weighted by their counts.

    Returns:
        Shape (...), in [0, 1]. Never quite 0 by chance alone: a calibrated model may expect up to
        0.5 sqrt(bins / B).
    """
    confidence, correct, count = reliability(logits, y, bins)
    return (count * (correct - confidence).abs().nan_to_num(0.0)).sum(-1) / len(y)


def majority_rate(y_train: Tensor, y_test: Tensor) -> float:
    """Score the commonest class of `y_train` (N,), the smallest of equals, on `y_test` (B,)."""
    if not len(y_train) or not len(y_test):
        raise ValueError("y_train and y_test must not be empty: there is no rate of nothing")
    return float((y_test == y_train.bincount().argmax()).double().mean())


def linear_probe(train: Tensor, y_train: Tensor, test: Tensor, y_test: Tensor) -> float:
    """Score a logistic regression on frozen features: class information without a label head.

    Args:
        train: Features, shape (N, D): all that is fitted, standardisation included, is fitted here.
        y_train: Their classes, shape (N,).
        test: Held-out features, shape (B, D).
        y_test: Their classes, shape (B,).

    Returns:
        Accuracy on `test`, in [0, 1], of scikit-learn's regression (L2 penalty with C = 1).
    """
    from sklearn.linear_model import LogisticRegression  # a second of start-up: only when used

    center, scale = train.double().mean(0), train.double().std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    known, new = (((f.double() - center) / scale).detach().cpu().numpy() for f in (train, test))
    probe = LogisticRegression(max_iter=1000).fit(known, y_train.cpu().numpy())
    return float(probe.score(new, y_test.cpu().numpy()))


# Generated samples: coherence, diversity, style -------------------------------------------------


def cross_coherence(judge_logits: Tensor, y: Tensor) -> Tensor:
    """Measure the share of generated samples that a judge reads as the class they came from.

    Args:
        judge_logits: A `Judge`'s logits on one modality generated from each of S subsets that do
            not contain it, shape (S, B, C).
        y: True classes of the samples given, shape (B,).

    Returns:
        Shape (S,), in [0, 1]; print the judge's own held-out accuracy beside it.

    Source:
        Shi et al. 2019, "Variational Mixture-of-Experts Autoencoders ...", also for the joint one.
    """
    return accuracy(judge_logits, y)


def joint_coherence(judge_logits: Sequence[Tensor]) -> Tensor:
    """Measure the share of prior draws z whose M >= 2 modalities are all read as one class.

    Args:
        judge_logits: One tensor (..., B, C) a modality, decoded from the same B draws.

    Returns:
        Shape (...), in [0, 1]; unrelated modalities with even classes score C^(1 - M).
    """
    shapes = [tuple(logits.shape) for logits in judge_logits]
    if len(shapes) < 2 or len(set(shapes)) > 1:
        raise ValueError(f"judge_logits must be two or more tensors of one shape, got {shapes}")
    _refuse_nan(judge_logits=torch.stack(list(judge_logits)))
    read = torch.stack([logits.argmax(-1) for logits in judge_logits])  # (M, ..., B)
    return (read == read[0]).all(0).double().mean(-1)


def diversity(generated: Tensor, y: Tensor, reference: Tensor, y_reference: Tensor) -> Tensor:
    """Divide the variance within a class of generated samples by that of real ones.

    Variances are summed over features and averaged over the classes in `y`. Decoder means lack
    the noise of the likelihood and score lower than samples: compare like with like.

    Args:
        generated: Shape (..., B, *features).
        y: Classes they were made for, shape (B,).
        reference: Real samples, shape (N, *features).
        y_reference: Their classes, shape (N,). Both sets need two samples of each class in `y`.

    Returns:
        Shape (...): 1 = as varied as the data, 0 = one and the same sample a class.
    """
    if generated.shape[-reference.dim() :] != (wanted := (len(y), *reference.shape[1:])):
        raise ValueError(f"generated must end in the shape {wanted}, got {tuple(generated.shape)}")
    classes = y.unique().tolist()
    if few := [c for c in classes if min(int((y == c).sum()), int((y_reference == c).sum())) < 2]:
        raise ValueError(f"classes {few} have fewer than 2 samples in generated or in reference")

    def spread(x: Tensor, labels: Tensor) -> Tensor:  # (..., B, F) -> (...)
        parts = [x[..., labels == c, :].detach().double().var(-2).sum(-1) for c in classes]
        return torch.stack(parts).mean(0)

    natural = spread(reference.flatten(1), y_reference)
    if not bool(natural > 0):
        raise ValueError("reference does not vary within a class: nothing to compare with")
    return spread(generated.flatten(generated.dim() - reference.dim() + 1), y) / natural


def r2(prediction: Tensor, target: Tensor) -> Tensor:
    """Measure the share of variance predicted, 1 - SSE / SST: (..., B), (B,) -> (...), at most 1."""
    _check_pair("target", target, "prediction", prediction)
    prediction, target = prediction.detach().double(), target.detach().double()
    total = (target - target.mean()).square().sum()
    if not bool(total > 1e-12 * target.square().sum()):
        raise ValueError("target does not vary: a constant has no variance to predict")
    return 1 - (prediction - target).square().sum(-1) / total


class StyleR2(NamedTuple):
    """A squared correlation, and the bound under which 95 % of unrelated factors stay."""

    value: Tensor  # (...), in [0, 1]
    null_bound: float
    samples: int


def style_r2(given: Tensor, measured: Tensor, y: Tensor | None = None) -> StyleR2:
    """Ask whether a style factor crosses from one modality into another, generated one.

    With procedural factors correlated by rho, samples of the exact conditional distribution score
    rho^2 (times the R^2 of the `FactorRegressor` that measures). That is a ceiling only against
    the true factor of the modality that was *missing*: against the factor given, a decoder of
    means leaves the unexplained part out and may score up to 1. At rho = 0 both are null.

    Args:
        given: True factor, shape (B,).
        measured: Factor read from the generated modality, shape (..., B). No spread scores 0.
        y: Classes, shape (B,). If given, class means are taken out first (pooled within-class
            correlation), so that a style typical of a digit does not pass for transfer.

    Returns:
        `StyleR2`; its bound t^2 / (t^2 + df) is exact for independent Gaussian factors, with t the
        97.5 % quantile of Student's t for df = B - 1 - classes (one class without y).
    """
    _check_pair("given", given, "measured", measured)
    if y is not None:
        _check_pair("y", y, "given", given)
    group = torch.zeros_like(given).long() if y is None else y.unique(return_inverse=True)[1]
    member = functional.one_hot(group).double()  # (B, classes)
    df = len(given) - 1 - member.shape[1]
    cause, cause_power = _within(given.detach().double(), group, member)
    effect, effect_power = _within(measured.detach().double(), group, member)
    if df < 1 or not bool(cause_power > 0):
        raise ValueError("given must vary within class, over 2 samples more than there are classes")
    share = (effect @ cause).square() / (cause_power * effect_power)
    t = _t_quantile(df)
    return StyleR2(torch.where(effect_power > 0, share, 0.0), t**2 / (t**2 + df), len(given))


def _within(values: Tensor, group: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Deviations from class means (..., B), and their sum of squares (...)."""
    rest = values - (values @ member / member.sum(0))[..., group]
    power = rest.square().sum(-1)
    # Where nothing varies, rounding leaves crumbs: they must not be scaled up to a style.
    return rest, torch.where(power > 1e-12 * values.square().sum(-1), power, 0.0)


# Latent space -----------------------------------------------------------------------------------


class ActiveUnits(NamedTuple):
    """How many latent dimensions a posterior really uses, by two definitions."""

    kl_per_dim: Tensor  # (D,), nats, mean over the batch
    by_kl: int  # dimensions with a KL above 0.05 nats
    by_variance: int  # dimensions whose posterior mean has a variance above 0.01 over the data


def active_units(mean: Tensor, logvar: Tensor) -> ActiveUnits:
    """Count the dimensions in which Gaussian posteriors (B, D), B >= 2, leave the N(0, I) prior.

    Source:
        Burda et al. 2016, "Importance Weighted Autoencoders", section 5 (variance of the mean,
        threshold 0.01); the KL threshold is ours.
    """
    if mean.dim() != 2 or mean.shape != logvar.shape or len(mean) < 2:
        raise ValueError(f"mean, logvar must be (B, D), B >= 2; got {mean.shape}, {logvar.shape}")
    mean, logvar = mean.detach().double(), logvar.detach().double()
    kl = 0.5 * (mean.square() + logvar.expm1() - logvar).mean(0)
    return ActiveUnits(kl, int((kl > 0.05).sum()), int((mean.var(0) > 0.01).sum()))


def expert_share(logvar: Tensor, observed: Tensor | None = None) -> Tensor:
    """Split the precision of a product of experts between the N(0, I) prior and the modalities.

    Args:
        logvar: Log-variances of the experts, shape (M, B, D), of any finite size: the shares are a
            softmax over -logvar with the prior's 0, so nothing overflows.
        observed: True where an expert takes part, shape (B, M), bool; None = everywhere. What a
            hidden expert holds, NaN included, is never read.

    Returns:
        Shape (M + 1, D), prior first: mean share over the batch (0 where hidden); sums to 1.
    """
    if logvar.dim() != 3 or (observed is not None and observed.shape != logvar.shape[1::-1]):
        raise ValueError(f"logvar must be (M, B, D), got {logvar.shape}, and observed (B, M), bool")
    weight = -logvar.detach().double()
    if observed is not None:
        weight = weight.masked_fill(~observed.T.unsqueeze(-1), -math.inf)
    if bool((weight.isnan() | (weight == math.inf)).any()):
        raise ValueError("logvar is NaN or -inf where observed: the encoder diverged")
    return torch.cat([torch.zeros_like(weight[:1]), weight]).softmax(0).mean(1)


# Spread over seeds, and checks ------------------------------------------------------------------


def mean_ci(values: Sequence[float] | Tensor) -> tuple[float, float]:
    """Average a figure over n seeds, with the half width of its 95 % interval, t sd / sqrt(n).

    Student's t is 12.7 for two seeds and 4.3 for three. One seed shows no spread: NaN.
    """
    numbers = torch.as_tensor(values, dtype=torch.float64).detach()
    if numbers.dim() != 1 or not len(numbers):
        raise ValueError(f"values must be a list of one or more numbers, got {values!r}")
    if len(numbers) == 1:
        return float(numbers), math.nan
    error = float(numbers.std()) / math.sqrt(len(numbers))
    return float(numbers.mean()), _t_quantile(len(numbers) - 1) * error


def _t_quantile(df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))  # two-sided 95 %


def _check_pair(name: str, single: Tensor, other_name: str, batched: Tensor) -> None:
    if single.dim() != 1 or batched.shape[-1:] != single.shape:
        shapes = f"{tuple(single.shape)} and {tuple(batched.shape)}"
        raise ValueError(f"{name} must have shape (B,) and {other_name} (..., B), got {shapes}")
    _refuse_nan(**{name: single, other_name: batched})


def _refuse_nan(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if bool(tensor.isnan().any()):
            raise ValueError(f"{name} holds NaN: the model that made it diverged, see its history")


def _checked(logits: Tensor, y: Tensor) -> Tensor:
    """Logits in float64, once they and the labels are known to fit."""
    if y.dim() != 1 or not len(y) or logits.dim() < 2 or logits.shape[-2] != len(y):
        shapes = f"{tuple(logits.shape)} and {tuple(y.shape)}"
        raise ValueError(f"logits must have shape (..., B, C) and y (B,), B >= 1; got {shapes}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= logits.shape[-1]:
        raise ValueError(f"y must lie in 0..{logits.shape[-1] - 1}, got {low}..{high}")
    _refuse_nan(logits=logits)
    return logits.detach().double()
