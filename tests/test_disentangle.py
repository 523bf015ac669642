"""Scores of disentanglement: 1 for a code of factors, low when it is rotated, 0 when it knows nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from labkit import disentangle
from labkit.latent.space import random_rotation

N = 4000


def world(n: int = N) -> tuple[Tensor, dict[str, Tensor]]:
    """Six latents, of which four are a factor each and two are noise."""
    g = torch.Generator().manual_seed(0)
    shape, size = torch.randint(5, (n,), generator=g), torch.rand(n, generator=g)
    slant, weight = torch.randn(2, n, generator=g, dtype=torch.float64)
    factors = {"shape": shape, "size": size, "slant": slant, "weight": weight}
    spread = [(values.double() - values.double().mean()) / values.double().std()
              for values in factors.values()]  # fmt: skip
    noise = torch.randn(n, 2, generator=g, dtype=torch.float64)
    return torch.cat([torch.stack(spread, 1), noise], 1), factors


def test_a_latent_for_each_factor_scores_one():
    found = disentangle.examine(*world()).scores
    assert found.mig > 0.97
    # A category's second best latent still scores chance, 1 / 5: its gap is 0.8, the others' 1.
    assert found.sap == pytest.approx((3 + 0.8) / 4, abs=0.02)
    assert min(found.disentanglement, found.completeness, found.informativeness) > 0.95


def test_a_rotation_keeps_the_information_and_loses_the_axes():
    codes, factors = world()
    aligned = disentangle.examine(codes, factors).scores
    turn = random_rotation(6, torch.Generator().manual_seed(1))
    turned = disentangle.examine(codes @ turn, factors).scores
    assert turned.mig < 0.2 and turned.sap < 0.4
    assert turned.disentanglement < 0.5 and turned.completeness < 0.5
    assert turned.informativeness > 0.75 * aligned.informativeness


def test_a_code_that_knows_nothing_scores_zero():
    _, factors = world()
    codes = torch.randn(N, 6, generator=torch.Generator().manual_seed(2))
    assert disentangle.mutual_information(codes, factors).max() < 0.02
    found = disentangle.examine(codes, factors).scores
    assert found.mig < 0.005 and found.sap < 0.02
    assert found.informativeness < 0.02
    assert found.disentanglement < 0.1 and found.completeness < 0.1


# Mutual information ------------------------------------------------------------------------------


def test_information_of_a_table_is_that_of_the_book():
    """Rows (code) and columns (factor) of a 2 x 2 table, and Miller's and Madow's (4 - 2 - 2 + 1) / 2N."""
    table = [[300, 100], [50, 150]]
    code = torch.tensor([0.0] * 400 + [1.0] * 200)[:, None]
    factor = torch.tensor([0] * 300 + [1] * 100 + [0] * 50 + [1] * 150)
    by_hand = sum(
        n / 600 * math.log(n / 600 / (row / 600 * column / 600))
        for counts, row in zip(table, (400, 200), strict=True)
        for n, column in zip(counts, (350, 250), strict=True)
    )
    found = disentangle.mutual_information(code, {"f": factor}, bins=600)
    assert found.item() == pytest.approx(by_hand - 1 / 1200, abs=1e-12)
    entropy = disentangle.entropies({"f": factor})
    assert entropy.item() == pytest.approx(
        -sum(p * math.log(p) for p in (350 / 600, 250 / 600)), abs=1e-12
    )


def test_information_of_gaussians_is_the_closed_form_up_to_the_bins():
    g = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, 20_000, generator=g, dtype=torch.float64)
    for rho in (0.0, 0.5, 0.8):
        code = (rho * a + math.sqrt(1 - rho**2) * noise)[:, None]
        found = disentangle.mutual_information(code, {"a": a}).item()
        assert found == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.03)


def test_only_the_order_of_a_code_counts():
    codes, factors = world()
    plain = disentangle.mutual_information(codes, factors)
    torch.testing.assert_close(disentangle.mutual_information(codes.exp(), factors), plain)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        disentangle.mutual_information(codes[:, order], factors), plain[order]
    )


def test_the_gap_is_best_minus_second_over_entropy():
    information = torch.tensor([[1.0, 0.2], [0.25, 0.9], [0.5, 0.1]], dtype=torch.float64)
    found = disentangle.mig(information, torch.tensor([2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.7], dtype=torch.float64))


# SAP, DCI ----------------------------------------------------------------------------------------


def test_single_latents_score_correlation_or_accuracy():
    g = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, N, generator=g, dtype=torch.float64)
    classes = (a > 0).long()
    scores, gap = disentangle.separated_attributes(
        torch.stack([0.6 * a + 0.8 * noise, a, torch.zeros(N)], 1), {"a": a, "sign": classes}
    )
    assert scores[:, 0].tolist() == pytest.approx([0.36, 1, 0], abs=0.03)
    # P(sign right) = 1/2 + arcsin(0.6) / pi for the noisy latent; a constant names one of two classes.
    assert scores[:, 1].tolist() == pytest.approx(
        [0.5 + math.asin(0.6) / math.pi, 1, 0.5], abs=0.03
    )
    torch.testing.assert_close(gap, scores[1] - scores[0])


def test_concentration_of_importances_by_hand():
    one_each = torch.eye(3)
    assert disentangle.disentanglement(one_each) == disentangle.completeness(one_each) == 1
    alike = torch.full((4, 3), 0.25)
    assert disentangle.disentanglement(alike) == pytest.approx(0, abs=1e-12)
    assert disentangle.completeness(alike) == pytest.approx(0, abs=1e-12)
    # Two latents share factor 0, factor 1 has its own; nothing is mixed: D = 1, C < 1.
    shared = torch.tensor([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert disentangle.disentanglement(shared) == pytest.approx(1)
    assert disentangle.completeness(shared) == pytest.approx(1 - 0.5 * math.log(2) / math.log(3))
    # A latent that matters little weighs little.
    little = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.01, 0.01]])
    assert disentangle.disentanglement(little) == pytest.approx(1 - 0.02 / 2.02)
    assert disentangle.disentanglement(torch.zeros(2, 2)) == 0


def test_a_forest_explains_what_the_code_holds():
    codes, factors = world()
    importance, explained = disentangle.importances(codes, factors)
    assert importance.argmax(0).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(importance.sum(0), torch.ones(4, dtype=torch.float64))
    assert explained.min() > 0.95
    _, constant = disentangle.importances(codes, {"same": torch.zeros(N, dtype=torch.long)})
    assert constant.item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, f: (c[:, 0], f), r"codes must be \(N, D\)"),
        (lambda c, f: (c, {}), "at least one factor"),
        (lambda c, f: (c[:100], f), r"factor 'shape' must be \(100,\)"),
        (lambda c, f: (c.masked_fill(c > 2, math.nan), f), "finite"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        disentangle.mutual_information(*change(*world()))


def test_bins_gaps_and_importances_that_do_not_fit_are_refused():
    codes, factors = world(100)
    with pytest.raises(ValueError, match=r"bins must lie in 2\.\.100"):
        disentangle.mutual_information(codes, factors, bins=101)
    with pytest.raises(ValueError, match="at least 2 latents"):
        disentangle.separated_attributes(codes[:, :1], factors)
    with pytest.raises(ValueError, match=r"information must be \(D, K\), D >= 2"):
        disentangle.mig(torch.ones(1, 3), torch.ones(3))
    with pytest.raises(ValueError, match="importances must be >= 0"):
        disentangle.disentanglement(-torch.eye(2))
