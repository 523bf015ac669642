"""Distances between recovered and true: known answers (specs of DiCMoR, section 9, 14)."""

from __future__ import annotations

import pytest
import torch

from labkit.metrics_gap import cosine, rays, sliced_wasserstein


def test_14_equal_sets_have_distance_0_in_any_order() -> None:
    x = torch.randn(200, 5, dtype=torch.float64)
    assert sliced_wasserstein(x, x) == 0
    torch.testing.assert_close(
        sliced_wasserstein(x, x[torch.randperm(200)]), torch.zeros((), dtype=x.dtype)
    )


def test_14_a_shift_is_what_it_is_along_each_direction() -> None:
    x, shift = torch.randn(300, 5, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0])
    wanted = (rays(5, 64, 3) @ shift).abs().mean().double()
    torch.testing.assert_close(sliced_wasserstein(x, x + shift, 64, 3), wanted, rtol=1e-6, atol=0)


def test_what_has_shrunk_to_its_mean_is_as_far_as_a_gaussians_mean_absolute_value() -> None:
    x = torch.randn(20_000, 4, dtype=torch.float64)
    found = float(sliced_wasserstein(torch.zeros_like(x), x))
    assert found == pytest.approx((2 / torch.pi) ** 0.5, rel=0.02)


def test_cosine_is_1_for_the_same_rows_and_0_for_others() -> None:
    x = 3 + torch.randn(500, 2, 8)
    assert float(cosine(x, x)) == pytest.approx(1)
    assert abs(float(cosine(x[torch.randperm(500)], x))) < 0.05


def test_wrong_shapes_and_numbers_are_named() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"x and y must both be \(N, D\)"):
        sliced_wasserstein(x, x[:2])
    with pytest.raises(ValueError, match="must be finite"):
        sliced_wasserstein(x, x + torch.nan)
    with pytest.raises(ValueError, match="one shape"):
        cosine(x, x[:2])


def test_cosine_takes_off_the_true_mean_from_both() -> None:
    y = torch.randn(4000, 8)
    assert float(cosine(y + 5, y)) < 0.6
