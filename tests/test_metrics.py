"""Known answers, closed forms and invariants of labkit.metrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from labkit import metrics

SCORES = (metrics.accuracy, metrics.nll, metrics.brier, metrics.ece)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def labels(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def confident(hits: list[tuple[float, bool]]) -> tuple[Tensor, Tensor]:
    """Two-class logits with these confidences in class 0, and labels that make them right or not."""
    p = torch.tensor([confidence for confidence, _ in hits], dtype=torch.float64)
    return torch.stack([p, 1 - p], 1).log(), torch.tensor([int(not hit) for _, hit in hits])


# Classification ---------------------------------------------------------------------------------


def test_accuracy_counts_right_answers_per_subset() -> None:
    y = torch.tensor([0, 1, 2, 2])
    logits = torch.stack([torch.eye(3)[y], torch.eye(3)[[0, 1, 0, 0]], torch.eye(3)[[1, 0, 0, 1]]])
    assert metrics.accuracy(logits, y).tolist() == [1.0, 0.5, 0.0]
    assert metrics.cross_coherence(logits, y).tolist() == [1.0, 0.5, 0.0]


def test_nll_and_brier_agree_with_scikit_learn() -> None:
    logits, y = 3 * normal(200, 4), labels(200, 4)
    probs = logits.softmax(-1).numpy()
    one_class = [brier_score_loss(y.numpy() == c, probs[:, c]) for c in range(4)]
    assert float(metrics.nll(logits, y)) == pytest.approx(log_loss(y, probs), rel=1e-12)
    assert float(metrics.brier(logits, y)) == pytest.approx(sum(one_class), rel=1e-12)


def test_certain_answers_score_the_ends_of_the_scales() -> None:
    logits = torch.tensor([[[800.0, 0.0]] * 3, [[0.0, 800.0]] * 3])
    y = torch.zeros(3, dtype=torch.int64)
    assert metrics.brier(logits, y).tolist() == [0.0, 2.0]
    assert metrics.nll(logits, y).tolist() == [0.0, 800.0]
    assert metrics.ece(logits, y).tolist() == [0.0, 1.0]


def test_ece_is_zero_when_confidence_is_the_share_of_hits() -> None:
    hits = [(0.6, i < 3) for i in range(5)] + [(0.75, i < 3) for i in range(4)]
    assert float(metrics.ece(*confident(hits))) == pytest.approx(0.0, abs=1e-12)


def test_ece_of_a_constructed_miscalibration_is_exact() -> None:
    # 6 samples at 0.9 with 3 hits: gap 0.4; 4 samples at 0.6, all hits: gap 0.4 the other way;
    # 10 at 0.7 with 6 hits: gap 0.1. (6 * 0.4 + 4 * 0.4 + 10 * 0.1) / 20 = 0.25
    hits = [(0.9, i < 3) for i in range(6)] + [(0.6, True)] * 4 + [(0.7, i < 6) for i in range(10)]
    assert float(metrics.ece(*confident(hits))) == pytest.approx(0.25, abs=1e-12)
    # in one bin the two opposite gaps cancel: |13/20 - 0.74| = 0.09
    assert float(metrics.ece(*confident(hits), bins=1)) == pytest.approx(0.09, abs=1e-12)


def test_reliability_fills_bins_closed_on_the_right() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])  # confidence 0.5, 0.5 and 0.88
    confidence, correct, count = metrics.reliability(logits, torch.tensor([0, 1, 1]), bins=4)
    assert count.tolist() == [0, 2, 0, 1]
    assert count.dtype == torch.int64
    assert confidence[[1, 3]].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert correct[[1, 3]].tolist() == [0.5, 0.0]
    assert confidence[[0, 2]].isnan().all()
    assert correct[[0, 2]].isnan().all()


def test_a_calibrated_model_stays_below_the_documented_expectation() -> None:
    p = torch.rand(400, 500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = torch.stack([p, 1 - p], -1).log()
    # shared labels are drawn from the first model's own probabilities: only it is calibrated
    runs = [
        float(metrics.ece(row, (torch.rand(500, generator=g, dtype=torch.float64) > q).long()))
        for row, q, g in zip(
            logits, p, (torch.Generator().manual_seed(i) for i in range(400)), strict=True
        )
    ]
    assert 0.01 < np.mean(runs) < 0.5 * math.sqrt(15 / 500)


@quick
@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_a_stack_of_subsets_scores_like_a_loop(seed: int, dtype: torch.dtype) -> None:
    logits, y = (4 * normal(2, 3, 40, 5, seed=seed)).to(dtype), labels(40, 5, seed)
    for score in SCORES:
        stacked = score(logits, y)
        looped = torch.stack([torch.stack([score(one, y) for one in row]) for row in logits])
        assert stacked.dtype == torch.float64
        torch.testing.assert_close(stacked, looped, rtol=1e-12, atol=1e-14)
    bins = metrics.reliability(logits, y)
    assert bins.count.shape == (2, 3, 15)
    assert (bins.count.sum(-1) == 40).all()


@quick
@given(seed=seeds)
def test_scores_ignore_the_order_of_samples_and_the_memory_layout(seed: int) -> None:
    logits, y = normal(3, 30, 4, seed=seed), labels(30, 4, seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    turned = logits.permute(2, 1, 0).contiguous().permute(2, 1, 0)  # same values, other strides
    for score in SCORES:
        expected = score(logits, y)
        torch.testing.assert_close(
            score(logits[:, order], y[order]), expected, rtol=1e-9, atol=1e-12
        )
        torch.testing.assert_close(score(turned, y), expected, rtol=1e-12, atol=1e-14)


def test_scores_of_trainable_outputs_carry_no_gradient() -> None:
    out, y = normal(3, 20, 4).float().requires_grad_(), labels(20, 4)
    style = metrics.style_r2(normal(20), out[0, :, 0], y)
    results = [score(out, y) for score in SCORES]
    results += [
        *metrics.reliability(out, y),
        metrics.joint_coherence([out, out]),
        metrics.diversity(out, y, normal(20, 4), y),
        metrics.r2(out[0, :, 0], out[0, :, 1]),
        style.value,
        metrics.active_units(out[0], out[1]).kl_per_dim,
        metrics.expert_share(out),
    ]
    assert not any(result.requires_grad for result in results)
    assert metrics.mean_ci(out[0, :, 0])[1] > 0
    assert 0 <= metrics.linear_probe(out[0], y, out[1], y) <= 1


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"y \(B,\).*\(3, 2\) and \(4,\)"),
        (torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.int64), r"\(4, 2\) and \(4, 1\)"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "B >= 1"),
        (torch.zeros(1, 2), torch.tensor([2]), r"y must lie in 0\.\.1, got 2\.\.2"),
        (torch.zeros(1, 2), torch.tensor([-1]), r"y must lie in 0\.\.1, got -1"),
        (torch.tensor([[0.0, math.nan]]), torch.tensor([0]), "logits holds NaN"),
    ],
)
def test_scores_refuse_what_does_not_fit(score, logits, y, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        score(logits, y)


def test_reliability_needs_a_bin() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        metrics.ece(torch.zeros(1, 2), torch.tensor([0]), bins=0)


def test_majority_rate_guesses_from_train_and_scores_on_test() -> None:
    assert metrics.majority_rate(torch.tensor([2, 2, 1]), torch.tensor([1, 1, 1, 2])) == 0.25
    assert metrics.majority_rate(torch.tensor([3, 1]), torch.tensor([1, 3, 3])) == pytest.approx(
        1 / 3
    )
    with pytest.raises(ValueError, match="must not be empty"):
        metrics.majority_rate(torch.tensor([1]), torch.tensor([], dtype=torch.int64))


def test_linear_probe_reads_what_is_linear_and_nothing_else() -> None:
    y = torch.arange(300) % 3
    clusters = 8 * torch.eye(3)[y] + normal(300, 3).float()
    assert metrics.linear_probe(clusters[:200], y[:200], clusters[200:], y[200:]) == 1.0
    noise = normal(300, 3, seed=1)
    assert metrics.linear_probe(noise[:200], y[:200], noise[200:], y[200:]) < 0.5
    dead = torch.zeros(300, 2)
    assert metrics.linear_probe(dead[:200], y[:200], dead[200:], y[200:]) == pytest.approx(0.33)


def test_linear_probe_scales_held_out_features_by_the_train_set() -> None:
    train, y = torch.tensor([[-1.0], [-1.2], [1.0], [1.2]]), torch.tensor([0, 0, 1, 1])
    both_ones = torch.tensor([[0.5], [1.5]])  # centred on themselves, the first would be a zero
    assert metrics.linear_probe(train, y, both_ones, torch.tensor([1, 1])) == 1.0


# Generated samples ------------------------------------------------------------------------------


def test_joint_coherence_counts_draws_on_which_all_judges_agree() -> None:
    a, b, c = (
        torch.eye(3)[torch.tensor(read)] for read in ([0, 1, 2, 2], [0, 1, 2, 0], [0, 1, 1, 0])
    )
    assert float(metrics.joint_coherence([a, b])) == 0.75
    assert float(metrics.joint_coherence([a, b, c])) == 0.5
    assert metrics.joint_coherence([torch.stack([a, a]), torch.stack([a, b])]).tolist() == [
        1.0,
        0.75,
    ]


def test_joint_coherence_of_unrelated_modalities_is_chance() -> None:
    judges = [normal(20_000, 4, seed=seed) for seed in range(3)]
    assert float(metrics.joint_coherence(judges)) == pytest.approx(1 / 16, abs=0.006)  # 3.5 sd


@pytest.mark.parametrize(
    "judges", [[], [torch.zeros(2, 3)], [torch.zeros(2, 3), torch.zeros(2, 4)]]
)
def test_joint_coherence_refuses_shapes_that_differ(judges: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="two or more tensors of one shape"):
        metrics.joint_coherence(judges)


def test_joint_coherence_refuses_nan() -> None:
    with pytest.raises(ValueError, match="judge_logits holds NaN"):
        metrics.joint_coherence([torch.zeros(2, 3), torch.full((2, 3), math.nan)])


@quick
@given(seed=seeds, scale=st.floats(0, 3))
def test_diversity_is_the_ratio_of_variances_within_class(seed: int, scale: float) -> None:
    x, y = normal(40, 3, 2, seed=seed), torch.arange(40) % 4
    assert float(metrics.diversity(x, y, x, y)) == pytest.approx(1.0)
    shifted = scale * x + 10 * y[:, None, None]  # class means must not count as diversity
    both = metrics.diversity(torch.stack([shifted, x]), y, x, y)
    assert both.tolist() == pytest.approx([scale**2, 1.0], rel=1e-9, abs=1e-9)


def test_diversity_by_hand() -> None:
    reference, y_reference = torch.tensor([[0.0], [2.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1])
    generated, y = torch.tensor([[1.0], [3.0], [3.0], [7.0]]), torch.tensor([0, 0, 1, 1])
    # variances (2, 8), mean 5, against (2, 0), mean 1
    assert float(metrics.diversity(generated, y, reference, y_reference)) == pytest.approx(5.0)
    only_zero = metrics.diversity(generated[:2], y[:2], reference, y_reference)
    assert float(only_zero) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("generated", "y", "reference", "message"),
    [
        (
            torch.zeros(4, 3),
            [0, 0, 1, 1],
            torch.randn(4, 2),
            r"end in the shape \(4, 2\).*\(4, 3\)",
        ),
        (torch.zeros(4, 2), [0, 0, 0, 1], torch.randn(4, 2), r"classes \[1\] have fewer than 2"),
        (torch.zeros(4, 2), [0, 0, 7, 7], torch.randn(4, 2), r"classes \[7\] have fewer than 2"),
        (torch.zeros(4, 2), [0, 0, 1, 1], torch.ones(4, 2), "reference does not vary"),
    ],
)
def test_diversity_refuses_what_it_cannot_compare(
    generated: Tensor, y: list[int], reference: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.diversity(generated, torch.tensor(y), reference, torch.tensor([0, 0, 1, 1]))


def test_r2_by_hand() -> None:
    target = torch.tensor([0.0, 1.0, 2.0, 3.0])
    predictions = torch.stack([target, torch.full((4,), 1.5), 3 - target, target + 1])
    # SST = 5; SSE = 0, 5, 20, 4
    assert metrics.r2(predictions, target).tolist() == pytest.approx([1.0, 0.0, -3.0, 0.2])


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (torch.zeros(3), torch.full((3,), 0.1, dtype=torch.float64), "target does not vary"),
        (torch.zeros(3, 1), torch.arange(3.0), r"\(3,\) and \(3, 1\)"),
        (torch.full((3,), math.nan), torch.arange(3.0), "prediction holds NaN"),
    ],
)
def test_r2_refuses(prediction: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.r2(prediction, target)


def test_style_r2_is_the_squared_correlation() -> None:
    x, noise = normal(50), normal(50, seed=1)
    measured = torch.stack([x, 3 - 2 * x, x + noise, noise])
    expected = [np.corrcoef(x, row)[0, 1] ** 2 for row in measured]
    result = metrics.style_r2(x, measured)
    assert result.value.tolist() == pytest.approx(expected, rel=1e-9)
    assert result.samples == 50


def test_style_r2_within_class_is_blind_to_class_means() -> None:
    y = torch.arange(40) % 2
    within = torch.arange(40) // 2 % 2 * 2.0 - 1  # orthogonal to y
    across = torch.arange(40) // 4 % 2 * 2.0 - 1  # orthogonal to both
    x, measured = 10.0 * y + within, 10.0 * y + across
    assert float(metrics.style_r2(x, measured).value) == pytest.approx((25 / 26) ** 2)
    assert float(metrics.style_r2(x, measured, y).value) == pytest.approx(0.0, abs=1e-12)
    assert float(metrics.style_r2(x, -within + 3.0 * y, y).value) == pytest.approx(1.0)


def test_rho_squared_is_a_ceiling_against_the_factor_that_was_missing() -> None:
    rho, n = 0.6, 40_000
    given_factor, rest = normal(n), normal(n, seed=1)
    missing = rho * given_factor + math.sqrt(1 - rho**2) * rest
    sampled = rho * given_factor + math.sqrt(1 - rho**2) * normal(n, seed=2)
    mean = rho * given_factor
    against_given = metrics.style_r2(given_factor, torch.stack([sampled, mean])).value
    against_missing = metrics.style_r2(missing, torch.stack([sampled, mean])).value
    assert against_given.tolist() == pytest.approx([rho**2, 1.0], abs=0.02)
    assert against_missing.tolist() == pytest.approx([rho**4, rho**2], abs=0.02)


@pytest.mark.parametrize("classes", [1, 5])
def test_null_bound_is_kept_by_95_percent_of_unrelated_factors(classes: int) -> None:
    n, repeats = 30, 4000
    y = torch.arange(n) % classes if classes > 1 else None
    result = metrics.style_r2(normal(n), normal(repeats, n, seed=1), y)
    df = n - 1 - classes
    assert result.null_bound == pytest.approx(stats.beta.ppf(0.95, 0.5, df / 2), rel=1e-9)
    share = float((result.value <= result.null_bound).double().mean())
    assert share == pytest.approx(0.95, abs=0.012)  # 3.5 standard deviations


def test_no_spread_in_the_generated_factor_is_no_transfer() -> None:
    y = torch.arange(20) % 2
    measured = torch.stack([torch.full((20,), 0.1), 0.1 + 0.3 * y])  # one picture for each class
    measured = torch.cat([measured, measured + 1e-9 * normal(2, 20)])  # and rounding on top of it
    assert metrics.style_r2(normal(20), measured, y).value.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("factor", "measured", "y", "message"),
    [
        (
            torch.arange(4.0),
            torch.zeros(5),
            None,
            r"given must have shape \(B,\).*\(4,\) and \(5,\)",
        ),
        (torch.arange(4.0), torch.zeros(4), torch.zeros(3).long(), r"y must have shape .*\(3,\)"),
        (torch.arange(4.0), torch.full((4,), math.nan), None, "measured holds NaN"),
        (torch.ones(4), torch.arange(4.0), None, "given must vary within class"),
        (torch.tensor([0.0, 0, 1, 1]), torch.arange(4.0), torch.tensor([0, 0, 1, 1]), "must vary"),
        (torch.arange(2.0), torch.arange(2.0), None, "2 samples more"),
    ],
)
def test_style_r2_refuses(factor, measured, y, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metrics.style_r2(factor, measured, y)


# Latent space -----------------------------------------------------------------------------------


def test_active_units_of_hand_made_posteriors() -> None:
    # prior itself | informative | constant shift: KL 0.5 but the mean never moves | sharp, unmoved
    mean = torch.tensor([[0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]])
    logvar = torch.tensor([[0.0, -2.0, 0.0, -3.0]]).repeat(2, 1)
    units = metrics.active_units(mean, logvar)
    assert units.kl_per_dim[0] == 0
    assert float(units.kl_per_dim[2]) == pytest.approx(0.5)
    assert (units.by_kl, units.by_variance) == (3, 1)


def test_active_units_thresholds() -> None:
    scale = torch.tensor([0.09, 0.11, 0.30, 0.33])  # variance 0.0081, 0.0121; KL 0.045, 0.054
    mean = scale * torch.tensor([[1.0], [-1.0]]) / torch.tensor([math.sqrt(2)] * 2 + [1.0] * 2)
    units = metrics.active_units(mean, torch.zeros(2, 4))
    assert (units.by_kl, units.by_variance) == (1, 3)


def test_active_units_kl_is_the_closed_form() -> None:
    mean, logvar = normal(20, 5), normal(20, 5, seed=1)
    closed = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(
        metrics.active_units(mean, logvar).kl_per_dim, closed, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1)), ((1, 2), (1, 2)), ((2, 3, 2), (2, 3, 2))])
def test_active_units_refuses(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, D\), B >= 2"):
        metrics.active_units(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def test_expert_share_at_its_limits() -> None:
    equal = metrics.expert_share(torch.zeros(3, 2, 1))
    torch.testing.assert_close(equal, torch.full((4, 1), 0.25, dtype=torch.float64))
    extremes = torch.tensor([-120.0, 0.0, 120.0]).view(3, 1, 1)
    assert metrics.expert_share(extremes).flatten().tolist() == pytest.approx([0, 1, 0, 0])
    assert metrics.expert_share(extremes[2:]).flatten().tolist() == pytest.approx([1, 0])


def test_expert_share_is_the_precision_over_the_sum() -> None:
    logvar = normal(3, 40, 5)
    observed = torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    precision = torch.cat([torch.ones(1, 40, 5), (-logvar).exp() * observed.T[:, :, None]])
    expected = (precision / precision.sum(0)).mean(1)
    torch.testing.assert_close(metrics.expert_share(logvar, observed), expected, rtol=1e-12, atol=0)


@quick
@given(seed=seeds, size=st.floats(0, 120))
def test_expert_share_is_finite_sums_to_one_and_reads_no_hidden_expert(
    seed: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logvar = size * (2 * torch.rand(3, 10, 2, generator=generator) - 1)
    observed = torch.rand(10, 3, generator=generator) < 0.6
    share = metrics.expert_share(logvar, observed)
    hidden = ~observed.T[:, :, None]
    for junk in (math.nan, math.inf, -math.inf):
        assert torch.equal(metrics.expert_share(logvar.masked_fill(hidden, junk), observed), share)
    assert share.isfinite().all()
    torch.testing.assert_close(share.sum(0), torch.ones(2, dtype=torch.float64))
    nobody = metrics.expert_share(logvar, torch.zeros_like(observed))
    assert nobody[0].tolist() == [1, 1]
    assert (nobody[1:] == 0).all()


@pytest.mark.parametrize(
    ("logvar", "observed", "message"),
    [
        (torch.full((2, 3, 1), math.nan), None, "logvar is NaN or -inf where observed"),
        (torch.full((2, 3, 1), -math.inf), None, "logvar is NaN or -inf where observed"),
        (torch.zeros(2, 3), None, r"logvar must be \(M, B, D\)"),
        (torch.zeros(2, 3, 1), torch.ones(2, 3, dtype=torch.bool), r"observed \(B, M\)"),
    ],
)
def test_expert_share_refuses(logvar: Tensor, observed: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.expert_share(logvar, observed)


# Spread over seeds ------------------------------------------------------------------------------


def test_mean_ci_is_the_t_interval() -> None:
    values = [0.91, 0.93, 0.90, 0.95]
    mean, half = metrics.mean_ci(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-9)
    assert metrics.mean_ci(torch.tensor(values)) == pytest.approx((mean, half), rel=1e-6)
    assert metrics.mean_ci([1, 2, 3])[1] == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_mean_ci_of_one_seed_has_no_width() -> None:
    mean, half = metrics.mean_ci([0.5])
    assert mean == 0.5
    assert math.isnan(half)
    with pytest.raises(ValueError, match="one or more numbers"):
        metrics.mean_ci([])
