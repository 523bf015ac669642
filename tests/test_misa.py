"""MISA: losses by hand, and codes of complete samples alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.models.backbones import Clip, Steps
from labkit.models.misa import Codes, Misa, Reader, cmd, difference
from labkit.models.predictor import task

SHAPES = {"rgb": (3, 2, 8, 8), "flow": (2, 2, 8, 8)}
SMALL = Misa(tuple(SHAPES.items()), Clip((4, 6)), classes=3, inside=4, width=8, feed=16)
LINES = {"a": (5, 3), "b": (5, 2), "c": (5, 4)}
PARTLY = torch.tensor([[True, True], [True, False], [False, True]]).repeat(3, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clips(n: int = 9, seed: int = 0, shapes: dict[str, Any] = SHAPES) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in shapes.items()}
    return Batch(x, y=torch.arange(n) % 3)


def built(config: Misa = SMALL) -> Any:
    return config.build().double().eval()


def rows(*values: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


# Distances ----------------------------------------------------------------------------------------------


def test_a_distance_of_moments_by_hand() -> None:
    assert float(cmd(rows([0.2, 0.6], [0.2, 0.6]), rows([0.5, 0.2]))) == pytest.approx(0.5)
    wide, narrow = rows([0.0], [1.0]), rows([0.25], [0.75])
    assert float(cmd(wide, narrow)) == pytest.approx(0.1875 + 0.05859375)  # second, fourth
    found = [float(cmd(wide, narrow, k)) for k in (1, 2, 3, 4, 5)]
    assert found == pytest.approx([0, 0.1875, 0.1875, 0.24609375, 0.24609375])
    skew, mirror = rows([0.0], [0.0], [3.0]), rows([0.0], [3.0], [3.0])
    # means 1 and 2; central moments -1, -1, 2 and their mirror image: third 2 and -2, fifth 10 and -10
    assert float(cmd(skew, mirror)) == pytest.approx(1 + 0 + 4 + 0 + 20)


def test_a_distance_of_moments_is_one() -> None:
    x, y = torch.rand(20, 4).double(), torch.rand(30, 4).double()
    assert cmd(x, x) == 0
    assert cmd(x, x[torch.randperm(20)]) < 1e-12, "order does not matter"
    assert cmd(x, y) == cmd(y, x) > 0
    torch.testing.assert_close(cmd(x + 3, y + 3), cmd(x, y))


def test_where_two_are_the_same_the_slope_is_finite() -> None:
    x = torch.rand(20, 4).double().requires_grad_()
    y = x.detach().clone().requires_grad_()
    cmd(x, y).backward()
    for each in (x, y):
        assert each.grad is not None and each.grad.abs().max() == 0
    (slope,) = torch.autograd.grad(cmd(x, x.detach() + 0.1), x)
    assert slope.isfinite().all() and slope.abs().max() > 1e-3


def test_differences_by_hand() -> None:
    first, second = rows([1, 0], [-1, 0], [1, 0], [-1, 0]), rows([0, 1], [0, 1], [0, -1], [0, -1])
    assert difference(first, second) < 1e-30
    assert float(difference(first, first)) == pytest.approx(4.0, abs=1e-4)
    each = torch.eye(4).double()
    assert float(difference(each, each)) == pytest.approx(1 / 3, abs=1e-4)


def test_differences_see_neither_mean_nor_scale() -> None:
    x, y = torch.rand(20, 4).double(), torch.rand(20, 4).double()
    wanted = difference(x, y)
    torch.testing.assert_close(difference(x + rows([1, 2, 3, 4]), y - 7), wanted)
    torch.testing.assert_close(difference(30 * x, 0.1 * y), wanted, rtol=1e-4, atol=0)
    assert not torch.allclose(difference(x, y[torch.randperm(20)]), wanted), "samples are pairs"
    for same in (torch.full((5, 3), 0.4), torch.full((1, 3), 0.4)):
        same.requires_grad_()
        value = difference(same, same)
        (slope,) = torch.autograd.grad(value, same)
        assert value == 0 and slope.isfinite().all()


def test_lengths_have_a_slope() -> None:
    """So that shrinking all codes, which does not change differences, is not what descent tries."""
    x, y = (torch.randn(20, 4).double() for _ in range(2))
    x = (x - x.mean(0)).requires_grad_()
    (slope,) = torch.autograd.grad(difference(x, y), x)
    along = (slope * x.detach()).sum() / slope.norm() / x.detach().norm()
    assert along.abs() < 1e-5 and slope.norm() > 1e-3  # without a slope of the lengths: 0.25


# The network --------------------------------------------------------------------------------------------


def test_a_reader_gives_the_last_states_of_both_directions_of_both_layers() -> None:
    reader, x = Reader(3, 4, 8).double(), torch.randn(2, 7, 3).double()
    told, _ = reader.first(x)
    again, _ = reader.second(reader.norm(told))
    last = [torch.cat((each[:, -1, :4], each[:, 0, 4:]), 1) for each in (told, again)]
    torch.testing.assert_close(reader(x), reader.project(torch.cat(last, 1)))
    x.requires_grad_()
    (slope,) = torch.autograd.grad(reader(x).square().mul(torch.arange(8)).sum(), x)
    assert slope.abs().sum(2).min() > 1e-9, "of all cells"


def test_codes_are_of_one_shared_and_of_private_encoders() -> None:
    net, batch = built(), clips().with_observed(PARTLY)
    cells, _ = net.streams.cells(batch)
    codes, observed = net.codes(batch)
    assert torch.equal(observed, PARTLY)
    for i in range(2):
        vector = net.readers[i](cells[i])
        private, shared = net.private[i](vector), net.shared(vector)
        wanted = Codes(vector, private, shared, net.recover[i](private + shared))
        for found, each in zip(codes, wanted, strict=True):
            torch.testing.assert_close(found[i], each)
    assert codes.private.min() > 0 and codes.private.max() < 1


@pytest.mark.parametrize("shapes", [SHAPES, LINES], ids=["two", "three"])
def test_an_answer_is_of_tokens_that_look_at_each_other(shapes: dict[str, Any]) -> None:
    backbone: Any = Clip((4, 6)) if shapes is SHAPES else Steps((4, 6))
    net = built(replace(SMALL, modalities=tuple(shapes.items()), backbone=backbone))
    batch, count = clips(shapes=shapes), len(shapes)
    codes, observed = net.codes(batch)
    tokens = torch.cat((codes.private, codes.shared)).transpose(0, 1)
    torch.testing.assert_close(net.predict(batch), net.answer(net.attend(tokens).flatten(1)))
    # of the second alone: its two tokens, zeros beside them
    alone = observed & (torch.arange(count) == 1)
    told = tokens.new_zeros(len(batch), 2 * count, 8)
    told[:, [1, count + 1]] = net.attend(tokens[:, [1, count + 1]])
    torch.testing.assert_close(net.answered(codes, alone), net.answer(told.flatten(1)))


@pytest.mark.parametrize("shapes", [SHAPES, LINES], ids=["two", "three"])
def test_conditions_by_hand(shapes: dict[str, Any]) -> None:
    codes = Codes(*torch.rand(4, len(shapes), 9, 8).double())
    found = built().conditions(codes)
    p, s = codes.private, codes.shared
    pairs = [(0, 1)] if len(shapes) == 2 else [(0, 1), (0, 2), (1, 2)]
    similar = sum(cmd(s[i], s[j]) for i, j in pairs) / len(pairs)
    apart = [difference(p[i], s[i]) for i in range(len(shapes))]
    apart += [difference(p[i], p[j]) for i, j in pairs]
    back = sum((codes.recovered[i] - codes.vector[i]).square().mean() for i in range(len(shapes)))
    wanted = {"similar": similar, "differ": sum(apart), "recover": back / len(shapes)}
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, torch.as_tensor(wanted[name]))
    same = Codes(codes.vector, p, s, codes.vector)
    assert built().conditions(same)["recover"] == 0


def test_the_loss_is_the_tasks_and_the_weighted_conditions() -> None:
    batch = clips()
    net = built(replace(SMALL, similar=0.5, differ=0.25, recover=2.0))
    total, parts = net.loss(batch, 0, torch.Generator())
    answer, said = task(net.predict(batch).float(), batch)
    codes, _ = net.codes(batch)
    wanted = net.conditions(Codes(*(each.float() for each in codes)))
    assert list(parts) == ["task", "similar", "differ", "recover", "accuracy"]
    for name, value in {"task": answer, **wanted, **said}.items():
        torch.testing.assert_close(parts[name], value.detach())
        assert not parts[name].requires_grad
    by_hand = answer + 0.5 * wanted["similar"] + 0.25 * wanted["differ"] + 2 * wanted["recover"]
    torch.testing.assert_close(total, by_hand)
    assert (SMALL.similar, SMALL.differ, SMALL.recover) == (0.3, 0.1, 1.0), "MMSA's for MOSI"


@pytest.mark.parametrize("moving", [False, True])
def test_what_is_to_be_given_back_is_no_goal_that_moves(moving: bool) -> None:
    vector, recovered = torch.rand(2, 2, 9, 8).double().requires_grad_(True)
    codes = Codes(vector, *torch.rand(2, 2, 9, 8).double(), recovered)
    recover = built(replace(SMALL, moving=moving)).conditions(codes)["recover"]
    inner = torch.autograd.grad(recover, (vector, recovered), allow_unused=True)
    torch.testing.assert_close(inner[1], 2 * (recovered - vector) / vector.numel())
    assert inner[0] is None if not moving else torch.equal(inner[0], -inner[1])


def test_conditions_are_of_complete_samples_alone() -> None:
    net, batch = built(), clips()
    _, parts = net.loss(batch.with_observed(PARTLY), 0, torch.Generator())
    _, whole = net.loss(batch[PARTLY.all(1)], 0, torch.Generator())
    for name in ("similar", "differ", "recover"):
        torch.testing.assert_close(parts[name], whole[name])
        assert whole[name] > 0
    single = batch.with_observed(torch.tensor([[True, False]]).expand(9, 2))
    total, parts = net.loss(single, 0, torch.Generator())
    assert [float(parts[name]) for name in ("similar", "differ", "recover")] == [0, 0, 0]
    torch.testing.assert_close(total.detach(), parts["task"])


def test_conditions_do_not_count_if_they_weigh_nothing() -> None:
    net = built(replace(SMALL, similar=0.0, differ=0.0, recover=0.0))
    net.loss(clips(), 0, torch.Generator())[0].backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in net.recover.parameters())
    assert net.shared[0].weight.grad.abs().max() > 0


@torch.no_grad()
def test_in_half_precision_conditions_are_summed_in_single() -> None:
    net, batch = SMALL.build().eval(), clips(64)
    batch = replace(batch, x={name: x.float() for name, x in batch.x.items()})
    with torch.autocast("cpu", torch.bfloat16):
        codes, _ = net.codes(batch)
        total, parts = net.loss(batch, 0, torch.Generator())
    assert codes.shared.dtype == torch.bfloat16
    assert {each.dtype for each in (total, parts["similar"], parts["recover"])} == {torch.float32}
    wanted = net.conditions(Codes(*(each.float() for each in codes)))
    torch.testing.assert_close(parts["similar"], wanted["similar"], rtol=1e-3, atol=0)
    torch.testing.assert_close(parts["recover"], wanted["recover"], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 9}, r"width must be a multiple of heads \(2\), got 9"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"inside": 0}, "inside must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"feed": 0}, "feed must be at least 1, got 0"),
        ({"similar": -1.0}, "similar must be at least 0, got -1.0"),
        ({"differ": float("nan")}, "differ must be at least 0, got nan"),
        ({"recover": -0.1}, "recover must be at least 0, got -0.1"),
    ],
)
def test_wrong_arguments_are_named(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)
