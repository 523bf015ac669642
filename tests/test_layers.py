"""Layers that papers share: the fast Mish is Mish."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from labkit.models.layers import Mish


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 3e-6), (torch.bfloat16, 0.05)]
)
def test_mish_and_its_slope_equal_the_definition(dtype: torch.dtype, tolerance: float) -> None:
    exact = torch.linspace(-60, 100, 4001, dtype=torch.float64, requires_grad=True)
    x = exact.detach().to(dtype).requires_grad_()
    ours, theirs = Mish()(x), exact * F.softplus(exact).tanh()
    ours.sum().backward()
    theirs.sum().backward()
    rounding = (exact - x.double()).abs()  # what the type itself cannot hold
    assert ours.dtype == dtype
    assert ((ours - theirs).abs() <= tolerance * (1 + theirs.abs()) + 1.1 * rounding).all()
    assert (x.grad - exact.grad).abs().max() <= tolerance + 1.1 * rounding.max()


def test_mish_passes_gradcheck_and_bears_any_number() -> None:
    x = torch.linspace(-5, 25, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Mish(), (x,))
    far = torch.tensor([-1e30, -1e4, 1e4, 1e30], requires_grad=True)
    out = Mish()(far)
    out.sum().backward()
    assert out.tolist() == [0, 0, far[2].item(), far[3].item()]
    assert far.grad.tolist() == [0, 0, 1, 1]


@pytest.mark.gpu
def test_mish_on_a_gpu_is_torchs_own() -> None:
    x = torch.linspace(-5, 25, 31, device="cuda")
    torch.testing.assert_close(Mish()(x), F.mish(x), rtol=0, atol=0)
