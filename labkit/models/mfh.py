r"""The Modality Focusing Hypothesis: what a student of one modality learns from a teacher of another.

A teacher sees modality a, a student modality b; both are linear classifiers in the paper's analysis on
Gaussian data. The student minimises :math:`w_y\, CE(y, p) + w_q\, KL(q \| p)` with the teacher's
probabilities q. The hypothesis: what counts is not how often the teacher is right but how much of what
it uses the student can see, too (gamma, see `labkit.data.gaussians`).

The models are trained by plain gradient descent, hundreds at a time. Two columns of softmax weights whose
gradients are opposite are one column of logistic weights v = w1 - w0 with twice the step, so a model is
*one row*; all models that read the same samples are the rows of one matrix, and a step is two wide matrix
products for all of them (`descend`).

Source:
    Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis: Towards Understanding Crossmodal Knowledge
    Distillation", ICLR 2023; the released code is github.com/zihuixue/MFH. Where ours differs, it says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.data.gaussians import Stack

Reduction = Literal["mean", "batchmean"]
CLASSES = 2

# Losses ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distillation:
    """What a student minimises: labels * CE + teacher * KL.

    Args:
        labels: Weight of the cross-entropy with the labels, w_y.
        teacher: Weight of KL(teacher || student), w_q.
        temperature: Both softmaxes of the KL are taken of logits / temperature. The released code has 1.
        reduction: ``mean`` divides the KL by samples *and* classes, as the released Gaussian and RAVDESS
            code does (torch's default): 1 / C of the textbook's ``batchmean``.

    Raises:
        ValueError: on a negative weight, a temperature that is not positive, an unknown reduction.
    """

    labels: float = 1.0
    teacher: float = 1.0
    temperature: float = 1.0
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        for name in ("labels", "teacher"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, got {self.temperature}")
        if self.reduction not in ("mean", "batchmean"):
            raise ValueError(f"reduction must be 'mean' or 'batchmean', got {self.reduction!r}")

    def loss(self, student: Tensor, teacher: Tensor, y: Tensor) -> Tensor:
        """The loss of student logits (B, C), given teacher logits (B, C) and labels (B,); a scalar."""
        log_p = F.log_softmax(student / self.temperature, -1)
        log_q = F.log_softmax(teacher / self.temperature, -1)
        kl = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
        share = self.share(student.shape[-1])
        return self.labels * F.cross_entropy(student, y) + self.teacher * share * kl

    def share(self, classes: int = CLASSES) -> float:
        """What the reduction leaves of the KL of so many classes."""
        return 1 / classes if self.reduction == "mean" else 1.0


ALONE = Distillation(teacher=0.0)  # no teacher


# Many linear classifiers at once -----------------------------------------------------------------


def first_weights(features: int, generator: torch.Generator) -> Tensor:
    """The one row (features + 1,) of a fresh `nn.Linear(features, 2)`: w1 - w0, and b1 - b0 at its end."""
    bound = 1 / math.sqrt(features)
    weight = torch.empty(CLASSES, features).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(CLASSES).uniform_(-bound, bound, generator=generator)
    return torch.cat([weight[1] - weight[0], (bias[1] - bias[0])[None]])


@torch.no_grad()
def descend(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    losses: Sequence[Distillation] | None = None,
    teacher: Tensor | None = None,
    seen: Tensor | None = None,
    steps: int = 1000,
    lr: float = 0.1,
) -> Tensor:
    r"""Train S * R linear classifiers by full-batch gradient descent: R models on each of S sets of samples.

    The gradient of a logit is :math:`(w_y (\sigma(z) - y) + w_q c\, (\sigma(z/T) - q) / T) / N`, where
    c is 1 or, with reduction ``mean``, 1/2.

    Args:
        x: Samples with a last column of ones, (S, N, D + 1).
        y: Labels 0 or 1, (S, N).
        start: First weights, (S, R, D + 1), see `first_weights`.
        losses: What each of the R models minimises; None = the labels' cross-entropy.
        teacher: Logits of each model's teacher at temperature 1, (S, R, N); None = no teacher.
        seen: Columns that a model sees, (R, D + 1) bool; None = all. Its other weights stay 0.
        steps: Steps of descent.
        lr: Step of the two-column classifier; the row's is twice that.

    Returns:
        Weights (S, R, D + 1) in the dtype of x.

    Raises:
        ValueError: if a shape does not fit, or a loss has a teacher and there is none.
    """
    sets, samples, width = x.shape
    rows = start.shape[1] if start.ndim == 3 else 0
    if start.shape != (sets, rows, width) or y.shape != (sets, samples):
        raise ValueError(
            f"x {tuple(x.shape)} needs y {(sets, samples)} and start ({sets}, R, {width}); "
            f"got {tuple(y.shape)} and {tuple(start.shape)}"
        )
    rules = [ALONE] * rows if losses is None else [*losses]
    if len(rules) != rows:
        raise ValueError(f"losses must be one for each of {rows} models, got {len(rules)}")
    if teacher is None and any(rule.teacher for rule in rules):
        raise ValueError("a loss has a teacher: give its logits as teacher")
    if teacher is not None and teacher.shape != (sets, rows, samples):
        raise ValueError(f"teacher must be {(sets, rows, samples)}, got {tuple(teacher.shape)}")

    def of_row(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None]  # (R, 1)

    labelled = of_row([rule.labels for rule in rules])
    heat = of_row([rule.temperature for rule in rules])
    taught = of_row([rule.share() * rule.teacher / rule.temperature for rule in rules])
    wanted = labelled * y[:, None].to(x)  # (S, R, N): what the gradient takes off
    if teacher is not None:
        wanted = wanted + taught * (teacher.to(x) / heat).sigmoid()
    hot = any(rule.teacher and rule.temperature != 1 for rule in rules)
    slope = labelled if hot else labelled + taught
    x, across, wanted = x.contiguous(), x.mT.contiguous(), -wanted
    mask = None if seen is None else seen.to(x)
    weights = start.to(x) * 1 if mask is None else start.to(x) * mask
    logits, warm = torch.empty_like(wanted), torch.empty_like(wanted)
    step = -2 * lr / samples
    for _ in range(steps):
        torch.bmm(weights, across, out=logits)  # (S, R, N)
        if hot:
            torch.div(logits, heat, out=warm).sigmoid_().mul_(taught)
        torch.addcmul(wanted, logits.sigmoid_(), slope, out=logits)
        if hot:
            logits += warm
        weights.baddbmm_(logits, x, alpha=step)
        if mask is not None:
            weights *= mask
    return weights


def accuracy(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Share of samples (S, N, D + 1) that models (S, R, D + 1) get right: (S, R), float64."""
    return ((weights @ x.mT > 0) == (y[:, None] > 0)).double().mean(-1)


# Teacher, student, and the student without a teacher ---------------------------------------------


@dataclass(frozen=True)
class Trained:
    """What `crossmodal` trains: weights of R settings and S seeds over the columns of the views.

    Attributes:
        teacher: (S, R, U + 1).
        student: With the teacher, (S, R, V + 1).
        alone: The same student without one; the same for all settings if they show it the same samples,
            then (S, 1, V + 1).
    """

    teacher: Tensor
    student: Tensor
    alone: Tensor

    def accuracies(self, data: Stack) -> dict[str, Tensor]:
        """Share of right answers on a split: ``teacher``, ``student``, ``alone``, (S, R) each."""
        rows = self.teacher.shape[:2]
        return {
            "teacher": accuracy(data.a.x, data.y, self.teacher),
            "student": accuracy(data.b.x, data.y, self.student),
            "alone": accuracy(data.b.x, data.y, self.alone).expand(rows),
        }


def crossmodal(
    data: Stack,
    seeds: Sequence[int],
    loss: Distillation | None = None,
    *,
    steps: int = 1000,
    lr: float = 0.1,
) -> Trained:
    """Train teacher, student and the student alone for all settings and seeds at once.

    Args:
        data: The training split.
        seeds: Seeds of the first weights, one for each of the S sets: those of the published script, which
            draws teacher, student and student alone one after the other from seed + 1.
        loss: What students minimise; None = as published, `Distillation()`.
        steps: Steps of descent.
        lr: Step of the two-column classifiers.

    Raises:
        ValueError: if there are not as many seeds as sets of samples.
    """
    sets, rows = len(data.y), len(data.a.place)
    if len(seeds) != sets:
        raise ValueError(f"seeds must be one for each of {sets} sets of samples, got {len(seeds)}")
    wide_a, wide_b = (view.place.shape[1] - 1 for view in (data.a, data.b))
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed + 1)
        drawn.append([first_weights(width, generator) for width in (wide_a, wide_b, wide_b)])
    first, second, third = (
        torch.stack(part)[:, None].to(data.a.x).expand(sets, rows, -1)
        for part in zip(*drawn, strict=True)
    )
    teacher = descend(data.a.x, data.y, data.a.spread(first), seen=data.a.seen, steps=steps, lr=lr)
    logits, seen = teacher @ data.a.x.mT, data.b.seen
    # Where all settings show the student the same, it learns the same without a teacher: once will do.
    alone = rows if seen is not None else 1
    start = torch.cat([data.b.spread(second), data.b.spread(third)[:, :alone]], 1)
    students = descend(
        data.b.x, data.y, start,
        losses=[loss or Distillation()] * rows + [ALONE] * alone,
        teacher=torch.cat([logits, logits[:, :alone]], 1),
        seen=None if seen is None else torch.cat([seen, seen]),
        steps=steps, lr=lr,
    )  # fmt: skip
    return Trained(teacher, *students.split([rows, alone], 1))


# Algorithm 1: which channels are modality-general? -----------------------------------------------


def first_pair(data: Stack, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """First weights of `joint`, (S, 2, D + 1) each: fresh `nn.Linear`s of a, then b, from every seed."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for view in (data.a, data.b):
            width = view.place.shape[1] - 1
            empty, bound = torch.empty(CLASSES, width + 1), 1 / math.sqrt(width)
            drawn.append(empty.uniform_(-bound, bound, generator=generator))
    return torch.stack(drawn[::2]), torch.stack(drawn[1::2])


@torch.no_grad()
def joint(
    data: Stack,
    starts: tuple[Tensor, Tensor],
    *,
    distance: float = 1.0,
    steps: int = 1000,
    lr: float = 0.01,
    momentum: float = 0.9,
) -> tuple[Tensor, Tensor]:
    r"""Algorithm 1, step 1: train both modalities' classifiers so that they agree, S seeds at once.

    .. math:: CE(y, f_a(x_a)) + CE(y, f_b(x_b)) + w\, MSE(f_a(x_a), f_b(x_b))

    over logits, by gradient descent with momentum. The distance makes each prefer what the other can see,
    too. Both columns are kept: the distance tells logits apart that a softmax does not.

    Args:
        data: One setting (R = 1) of S seeds.
        starts: First weights of a and b, (S, 2, D + 1) each.
        distance: w; 0 trains two classifiers that know nothing of each other.
        steps: Steps of descent.
        lr: Step.
        momentum: Momentum, as `torch.optim.SGD` has it.

    Returns:
        Weights of a and b, (S, 2, D + 1) each.

    Raises:
        ValueError: if `data` holds more than one setting.
    """
    if len(data.a.place) != 1:
        raise ValueError(f"joint takes one setting at a time, got {len(data.a.place)}")
    xs = [view.x.gather(2, view.place.expand(*view.x.shape[:2], -1)) for view in (data.a, data.b)]
    across = [x.mT.contiguous() for x in xs]
    weights = [start.to(x).clone() for start, x in zip(starts, xs, strict=True)]
    speeds = [torch.zeros_like(w) for w in weights]
    samples = data.y.shape[1]
    truth = F.one_hot(data.y, CLASSES).mT.to(xs[0])  # (S, 2, N)
    for _ in range(steps):
        logits = [w @ x for w, x in zip(weights, across, strict=True)]
        gap = (logits[0] - logits[1]) * (2 * distance / CLASSES)
        for i, sign in enumerate((1.0, -1.0)):
            slope = (logits[i].softmax(1) - truth).add_(gap, alpha=sign)
            speeds[i].mul_(momentum).add_(slope @ xs[i], alpha=1 / samples)
            weights[i].sub_(speeds[i], alpha=lr)
    return weights[0], weights[1]


def general_scores(data: Stack, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Scores of both modalities' channels, (S, D) each, by `gap_scores` from what `joint` returns."""
    a, b = (view.x.gather(2, view.place.expand(*view.x.shape[:2], -1)) for view in (data.a, data.b))
    gap = weights[0] @ a.mT - weights[1] @ b.mT
    return (
        gap_scores(weights[0][..., :-1], a[..., :-1], gap),
        gap_scores(weights[1][..., :-1], b[..., :-1], -gap),
    )


def gap_scores(weight: Tensor, z: Tensor, gap: Tensor) -> Tensor:
    r"""Algorithm 1, steps 2 and 3, in closed form: how much permuting a channel drives f_a from f_b.

    What follows the channels is linear, so the expected distance over all permutations is known:

    .. math:: s_d = \frac1C \sum_c 2 W_{cd}^2\, Var(z_d) - 2 W_{cd}\, Cov(z_d, (f_a - f_b)_c)

    Where f_b uses the same latent with weight v it is the mean of 2 W v Var: teacher's weight times
    student's weight. For a channel that b cannot see it is 0, and for noise, too.

    Args:
        weight: Weights of the channels, (..., C, D).
        z: The channels, (..., N, D).
        gap: f_a - f_b, logits, (..., C, N).

    Returns:
        Excess of the mean squared distance over that without permutation, (..., D).

    Source:
        Our derivation; the paper averages over M permutations, see `permuted_scores`.
    """
    centred = z - z.mean(-2, keepdim=True)
    variance = centred.square().mean(-2)  # (..., D)
    covariance = (gap @ centred) / z.shape[-2]  # (..., C, D): Cov(gap_c, z_d)
    return (2 * weight.square() * variance[..., None, :] - 2 * weight * covariance).mean(-2)


def permuted_scores(
    weight: Tensor, z: Tensor, gap: Tensor, repeats: int, generator: torch.Generator
) -> Tensor:
    """Algorithm 1 as printed: the mean excess distance over `repeats` permutations of each channel.

    Args:
        weight: Weights of the channels, (C, D).
        z: The channels, (N, D).
        gap: f_a - f_b, logits, (C, N).
        repeats: M of the paper.
        generator: Draws the permutations, one a channel and repeat.

    Returns:
        Excess of the mean squared distance, (D,), as `gap_scores`.

    Raises:
        ValueError: if `repeats` is less than 1.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    total = torch.zeros_like(z[0])
    for _ in range(repeats):
        draws = torch.rand(z.shape, generator=generator, device=generator.device)
        order = draws.argsort(0).to(z.device)
        moved = z.gather(0, order) - z  # (N, D)
        # mean over samples and classes of (gap + W moved)^2 - gap^2
        cross = (gap @ moved) / len(z)  # (C, D)
        total += (2 * weight * cross + weight.square() * moved.square().mean(0)).mean(0)
    return total / repeats


def saliency(scores: Tensor) -> Tensor:
    """Scores (..., D) scaled to [0, 1]; where all are equal, all are 0. Large = modality-general decisive."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return torch.where(high > low, (scores - low) / (high - low), 0.0)


def kept(scores: Tensor, count: int) -> Tensor:
    """The `count` channels of the largest scores, (..., D) bool. By rank, not by index.

    Raises:
        ValueError: unless 0 <= count <= D.
    """
    if not 0 <= count <= scores.shape[-1]:
        raise ValueError(f"count must lie in 0 to {scores.shape[-1]}, got {count}")
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(-1, scores.topk(count, -1).indices, True)
