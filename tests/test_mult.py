"""MulT: the stack equals one encoder after the other, and nobody sees what he may not."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from labkit.bench.mult import plain_encoder
from labkit.models.mult import FEW, Encoders, MulT, Read, positions


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(module: Encoders | MulT) -> None:
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.2 * torch.randn_like(weight))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sources", [None, 5, 7, FEW + 1])
@pytest.mark.parametrize("padded", [True, False])
def test_the_stack_is_one_encoder_after_the_other(
    causal: bool, sources: int | None, padded: bool
) -> None:
    encoders = Encoders(3, 8, 2, heads=2, causal=causal).double()
    shaken(encoders)
    query = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    source = None if sources is None else torch.randn(3, 4, sources, 8, dtype=torch.float64)
    valid = None
    if padded:
        valid = (
            torch.arange(sources or 5) < torch.tensor([1, 3, 4, sources or 5])[:, None]
        ).expand(3, -1, -1)
    found = encoders(query, source, valid)
    for e in range(3):
        alone = plain_encoder(
            encoders,
            e,
            query[e],
            None if source is None else source[e],
            None if valid is None else valid[e],
        )
        torch.testing.assert_close(found[e], alone, rtol=1e-9, atol=1e-9)


def test_a_step_sees_no_later_one_and_the_last_sees_all() -> None:
    encoders = Encoders(1, 8, 2, heads=2).double()
    shaken(encoders)
    source = torch.randn(1, 1, 6, 8, dtype=torch.float64, requires_grad=True)
    told = encoders(torch.randn(1, 1, 6, 8, dtype=torch.float64), source)
    for step, sees in ((2, 3), (5, 6)):
        (grad,) = torch.autograd.grad(told[0, 0, step].sum(), source, retain_graph=True)
        moved = grad[0, 0].abs().sum(-1) > 1e-12
        assert moved.tolist() == [t < sees for t in range(6)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("read", ["last", "first", "mean"])
def test_whatever_is_read_padding_is_not(causal: bool, read: Read) -> None:
    fusion = MulT(3, 8, 1, 2, heads=2, causal=causal, read=read).double().eval()
    shaken(fusion)
    features, length = torch.randn(3, 4, 6, 8, dtype=torch.float64), torch.tensor([6, 3, 1, 4])
    answer = fusion(features, length)
    other = features.clone()
    for row, steps in enumerate(length.tolist()):
        other[:, row, steps:] = 1e3
        alone = fusion(features[:, row : row + 1, :steps])  # as if there were no padding
        torch.testing.assert_close(alone, answer[row : row + 1])
    torch.testing.assert_close(fusion(other, length), answer)
    torch.testing.assert_close(fusion(features, torch.full((4,), 6)), fusion(features))
    if not (causal and read == "first"):  # which has seen one step alone
        assert not torch.allclose(fusion(other)[1:], answer[1:], rtol=1e-2)


def test_reading_is_of_what_the_memories_tell() -> None:
    found = {}
    for read in get_args(Read):
        torch.manual_seed(0)
        fusion = MulT(2, 8, 1, 2, heads=2, read=read)
        told, length = torch.randn(2, 3, 6, 8), torch.tensor([6, 3, 1])
        found[read] = fusion._read(told, None), fusion._read(told, length)
    for i, steps in enumerate(length.tolist()):
        for read, (whole, part) in found.items():
            first, last, mean = told[:, i, 0], told[:, i, steps - 1], told[:, i, :steps].mean(1)
            wanted = {"first": first, "last": last, "mean": mean}[read]
            torch.testing.assert_close(part[:, i], wanted)
            if steps == 6:
                torch.testing.assert_close(whole[:, i], wanted)


@pytest.mark.parametrize(
    ("causal", "read", "seen"),
    [(True, "last", 7), (True, "mean", 7), (True, "first", 1), (False, "first", 7), (False, "mean", 7)],
)  # fmt: skip
def test_how_many_steps_an_answer_has_seen(causal: bool, read: Read, seen: int) -> None:
    fusion = MulT(2, 8, 1, 2, heads=2, causal=causal, read=read).double()
    features = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    fusion(features).square().sum().backward()
    assert features.grad is not None
    moved = features.grad.abs().sum((0, 1, 3)) > 1e-12
    assert moved.tolist() == [t < seen for t in range(7)]


@pytest.mark.parametrize(
    ("width", "layers", "counts"),
    [(32, 4, (305_280, 600_192, 74_305)), (64, 6, (1_800_192, 3_569_664, 296_065))],
)
def test_parameter_counts_are_those_of_the_released_fusion(
    width: int, layers: int, counts: tuple[int, ...]
) -> None:
    fusion = MulT(3, width, layers, 1)
    cross, memory = (
        sum(p.numel() for p in part.parameters()) for part in (fusion.cross, fusion.memory)
    )
    assert (cross, memory, sum(p.numel() for p in fusion.parameters()) - cross - memory) == counts


def test_every_weight_gets_a_gradient_but_keys_biases_which_a_softmax_cannot_feel() -> None:
    fusion = MulT(3, 8, 1, 2, heads=2).double()
    shaken(fusion)
    fusion(torch.randn(3, 4, 6, 8, dtype=torch.float64)).square().sum().backward()
    for name, weight in fusion.named_parameters():
        grad = weight.grad
        assert grad is not None
        if name.endswith("b_kv"):
            key, grad = grad.chunk(2, -1)
            assert key.abs().max() < 1e-9
        assert grad.abs().max() > 1e-9, name


def test_dropout_is_of_training_only() -> None:
    fusion = MulT(3, 8, 1, 2, heads=2, dropout=0.5, embed_dropout=0.5, output_dropout=0.5)
    features = torch.randn(3, 4, 6, 8)

    def twice() -> Tensor:
        return fusion(features) - fusion(features)

    assert twice().abs().max() > 0.01
    fusion.eval()
    assert twice().abs().max() == 0


def test_positions_by_hand() -> None:
    found = positions(2, 4)
    wanted = torch.tensor([1.0, 1e-4]), torch.tensor([2.0, 2e-4])
    torch.testing.assert_close(found, torch.stack([torch.cat((a.sin(), a.cos())) for a in wanted]))


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="width must be divisible by 2 and by heads"):
        Encoders(1, 10, 1, heads=4)
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        Encoders(1, 8, 0)
    with pytest.raises(ValueError, match="modalities must be at least 2, got 1"):
        MulT(1, 8, 1, 1)
    with pytest.raises(ValueError, match="read must be one of last, first, mean; got 'middle'"):
        MulT(2, 8, 1, 1, read="middle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"source must be \(2, B, steps, 8\), got \(2, 3, 4, 6\)"):
        Encoders(2, 8, 1, heads=2)(torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4, 6))


def test_mult_is_put_together_as_the_paper_says() -> None:
    f = MulT(3, 8, 2, 2, heads=2).double().eval()
    shaken(f)
    x, length = torch.randn(3, 4, 6, 8).double(), torch.tensor([6, 3, 1, 4])
    last, e = [], 0
    for t in range(3):
        heard = []
        for s in range(3):
            if s != t:
                heard.append(plain_encoder(f.cross, e, x[t], x[s]))
                e += 1
        told = plain_encoder(f.memory, t, torch.cat(heard, -1))
        last.append(told[range(4), length - 1])
    h = torch.cat(last, -1)
    torch.testing.assert_close(f(x, length), f.answer(h + f.outer(f.inner(h).relu())))


@pytest.mark.parametrize("steps", [6, FEW + 1])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("which", ["dropout", "embed_dropout", "output_dropout"])
def test_each_dropout_acts(which: str, causal: bool, steps: int) -> None:
    options: Any = {which: 0.5}
    f = MulT(3, 8, 1, 2, heads=2, causal=causal, **options)
    x = torch.randn(3, 4, steps, 8)
    assert (f(x) - f(x)).abs().max() > 1e-4
