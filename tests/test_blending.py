"""Gradient-Blending: weights by hand, and heads that answer when they should."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models.backbones import Clip, Steps
from labkit.models.blending import CLAMP, FLOOR, Blend, gain_weights, official_weights

SHAPES = {"rgb": (3, 2, 8, 8), "flow": (2, 2, 8, 8)}
SMALL = Blend(tuple(SHAPES.items()), Clip((4, 6)), classes=3, hidden=8)
PARTLY = torch.tensor([[True, True], [True, False], [False, True]]).repeat(2, 1)
BEFORE = torch.tensor([[2.08, 2.08], [2.08, 2.08]])  # nothing learnt yet, of 8 classes
AFTER = torch.tensor([[0.30, 1.20], [1.95, 2.00]])  # one that overfits, one that hardly learns


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clips(n: int = 6, seed: int = 0, shapes: dict[str, Any] = SHAPES) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in shapes.items()}
    return Batch(x, y=torch.arange(n) % 3)


def close(found: Tensor, wanted: list[float], atol: float = 5e-5) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=atol)


# Weights ------------------------------------------------------------------------------------------------


def test_gains_by_hand() -> None:
    raw = [0.88 / 0.90**2, 0.08 / 0.05**2]
    assert raw == pytest.approx([1.0864, 32.0], abs=5e-5)
    close(gain_weights(BEFORE, AFTER), [0.0328, 0.9672])
    close(gain_weights(BEFORE, AFTER), [each / sum(raw) for each in raw])
    # the gap counts from the one there was: .60 of .90 here
    before = torch.tensor([[1.50, 1.80], [2.08, 2.08]])
    raw[0] = 0.60 / 0.60**2
    close(gain_weights(before, AFTER), [each / sum(raw) for each in raw])


def test_released_weights_by_hand() -> None:
    raw = [1.20 / 0.90**2, 2.00 / 0.05**2]
    assert raw == pytest.approx([1.4815, 800.0], abs=5e-5)
    close(official_weights(AFTER), [0.0018, 0.9982])
    three = torch.cat((AFTER, torch.tensor([[0.20, 1.15]])))
    close(official_weights(three), [0.0018, 0.9966, 0.0016])


@pytest.mark.parametrize("held", [2.08, 2.0801, 2.07])
def test_a_dead_head_gets_all_by_the_released_rule_and_nothing_by_its_gain(held: float) -> None:
    after = torch.tensor([[0.30, 1.20], [2.08, held], [0.20, 1.15]])
    before = torch.tensor([[2.08, 2.08], [2.08, held], [2.08, 2.08]])
    close(official_weights(after), [0.0, 1.0, 0.0], atol=1e-3)
    found = gain_weights(before, after)
    assert found[1] == 0 and found[[0, 2]].min() > 0.4
    assert float(found.sum()) == pytest.approx(1)
    worse = torch.tensor([[0.30, 1.20], [1.95, 2.20], [0.20, 1.15]])
    close(gain_weights(before, worse), found.tolist(), atol=1e-6)


def test_weights_do_not_depend_on_the_unit_of_losses() -> None:
    bits = 1 / math.log(2)
    close(gain_weights(bits * BEFORE, bits * AFTER), gain_weights(BEFORE, AFTER).tolist())
    close(official_weights(bits * AFTER), official_weights(AFTER).tolist())


@pytest.mark.parametrize("gap", [0.0, -0.5, FLOOR / 2])
def test_who_overfits_by_next_to_nothing_is_taken_to_overfit_a_little_with_a_warning(
    gap: float,
) -> None:
    after = torch.tensor([[0.30, 1.20], [1.0, 1.0 + gap]])
    raw = [0.88 / 0.90**2, (1.08 - gap) / FLOOR**2]
    with pytest.warns(UserWarning, match=r"overfitted by less than 0.01; that is taken instead"):
        found = gain_weights(BEFORE, after)
    close(found, [each / sum(raw) for each in raw])
    assert found.isfinite().all()
    with warnings.catch_warnings():  # none, as who gained nothing needs no gap
        warnings.simplefilter("error")
        gain_weights(BEFORE, torch.tensor([[0.30, 1.20], [2.08, 2.08]]))


def test_the_released_rule_takes_little_for_a_gap_that_is_none() -> None:
    raw = [1.20 / 0.90**2, 0.95 / CLAMP**2]
    for held in (0.95, 1.0):
        after = torch.tensor([[0.30, 1.20], [1.0, held]])
        found = official_weights(after).double()
        assert float(found[0]) == pytest.approx(raw[0] / raw[1] * 0.95 / held, rel=1e-3)


def test_if_none_gained_all_weigh_the_same() -> None:
    close(gain_weights(BEFORE.repeat(2, 1)[:3], 2 * BEFORE.repeat(2, 1)[:3]), [1 / 3] * 3)


def test_losses_of_a_wrong_shape_are_named() -> None:
    for before, after in ((BEFORE, AFTER[:1]), (BEFORE[0], AFTER[0]), (BEFORE.repeat(1, 2),) * 2):
        with pytest.raises(ValueError, match=r"before and after must be \(heads, 2\), got"):
            gain_weights(before, after)
    with pytest.raises(ValueError, match=r"must be \(heads, 2\), got \(2,\) and \(2,\)"):
        official_weights(AFTER[0])


# The network --------------------------------------------------------------------------------------------


def test_heads_read_codes_of_their_own_and_the_joint_one_all() -> None:
    net, batch = SMALL.build().double().eval(), clips().with_observed(PARTLY)
    codes, _ = net.streams(batch)
    (one, other, joint), observed = net.logits(batch)
    assert torch.equal(observed, PARTLY)
    assert torch.equal(one, net.heads[0](codes[0])) and torch.equal(other, net.heads[1](codes[1]))
    assert torch.equal(joint, net.joint(torch.cat(codes, 1)))
    wanted = torch.stack([(joint, one, other)[i % 3][i] for i in range(6)])
    assert torch.equal(net.predict(batch), wanted)


def test_of_three_modalities_two_are_answered_by_the_joint_head() -> None:
    shapes = {"a": (5, 3), "b": (5, 2), "c": (5, 4)}
    config = replace(
        SMALL, modalities=tuple(shapes.items()), backbone=Steps((4, 6)), weights=(1.0,) * 4
    )
    net, batch = config.build().double().eval(), clips(shapes=shapes)
    for names, k in ((("a", "c"), 3), (("a", "b", "c"), 3), (("b",), 1), (("c",), 2)):
        part = batch.only(*names)
        assert torch.equal(net.predict(part), net.logits(part)[0][k])


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 0.0, 1.5), (0.0, 0.0, 1.0)])
def test_the_loss_is_the_weighted_sum(weights: tuple[float, ...]) -> None:
    net, batch = replace(SMALL, weights=weights).build().double().eval(), clips()
    logits, _ = net.logits(batch)
    each = [F.cross_entropy(one.float(), batch.y) for one in logits]  # type: ignore[arg-type]
    total, parts = net.loss(batch, 0, torch.Generator())
    summed = sum(w * one for w, one in zip(weights, each, strict=True))
    torch.testing.assert_close(total.float(), summed)
    assert list(parts) == ["head 0", "head 1", "head 2", "accuracy"]
    for k in range(3):
        torch.testing.assert_close(parts[f"head {k}"], each[k].detach())
        assert not parts[f"head {k}"].requires_grad
    right = [int(said) == k % 3 for k, said in enumerate(logits[2].argmax(1))]
    assert float(parts["accuracy"]) == pytest.approx(sum(right) / 6)


@pytest.mark.parametrize(
    ("weights", "still"),
    [((1.0, 0.0, 0.0), ["streams.each.1", "heads.1", "joint"]),
     ((0.0, 1.0, 0.0), ["streams.each.0", "heads.0", "joint"]),
     ((1.0, 1.0, 0.0), ["joint"]),
     ((0.0, 0.0, 1.0), ["heads.0", "heads.1"])],
)  # fmt: skip
def test_a_head_of_weight_0_learns_nothing(weights: tuple[float, ...], still: list[str]) -> None:
    net = replace(SMALL, weights=weights).build().double()
    net.loss(clips(), 0, torch.Generator())[0].backward()
    for name, weight in net.named_parameters():
        moves = weight.grad is not None and bool(weight.grad.abs().max() > 0)
        assert moves is not name.startswith(tuple(still)), name


def test_single_heads_learn_side_by_side_as_each_would_alone() -> None:
    """What `labkit.exchanging` counts on: one training for all single modalities."""
    slopes = {}
    for weights in ((1.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
        torch.manual_seed(0)
        net = replace(SMALL, weights=weights, dropout=0.0).build().double()
        net.loss(clips(), 0, torch.Generator())[0].backward()
        slopes[weights] = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    both, *alone = slopes.values()
    for each in alone:
        for name, slope in each.items():
            torch.testing.assert_close(slope, both[name])


def test_a_network_goes_on_from_its_parent() -> None:
    parent = SMALL.build()
    child = replace(SMALL, weights=(0.1, 0.2, 3.0)).build(parent)
    for (name, one), other in zip(
        parent.state_dict().items(), child.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other) and one.data_ptr() != other.data_ptr(), name
    assert child.config.weights == (0.1, 0.2, 3.0)
    assert not torch.equal(SMALL.build().joint[0].weight, parent.joint[0].weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)])
def test_wrong_weights_are_named(weights: tuple[float, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"weights must be 3 numbers of at least 0, not all 0.* got"
    ):
        replace(SMALL, weights=weights)
