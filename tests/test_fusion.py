"""Fusion by the book: late fusion is a sum, and a sum cannot do what a product can."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from labkit.batch import Batch
from labkit.data.clips import ceilings
from labkit.madds import counted
from labkit.models.backbones import Clip, Steps
from labkit.models.blending import Blend
from labkit.models.fusion import CrossAttention, Early, Late, Single
from labkit.models.inception import Inception
from labkit.models.misa import Misa
from labkit.models.xnorm import Exchange, XNorm

SHAPES = {"rgb": (3, 2, 8, 8), "flow": (2, 2, 8, 8)}
BASE: dict[str, Any] = {
    "modalities": tuple(SHAPES.items()), "backbone": Clip((4, 6)), "classes": 3, "hidden": 8,
}  # fmt: skip
CROSS = CrossAttention(**BASE, width=8, layers=1, heads=2)
PARTLY = torch.tensor([[True, True], [True, False], [False, True]]).repeat(2, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clips(n: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in SHAPES.items()}
    return Batch(x, y=torch.arange(n) % 3)


def built(config: Any) -> Any:
    return config.build().double().eval()


# One, late and early ------------------------------------------------------------------------------------


@pytest.mark.parametrize("only", SHAPES)
def test_late_fusion_that_weighs_one_stream_alone_is_that_stream(only: str) -> None:
    i, batch = list(SHAPES).index(only), clips()
    late = built(Late(**BASE, weights=((1.0, 0.0), (0.0, 1.0))[i]))
    single = built(Single(**BASE, only=only))
    single.streams.each[0].load_state_dict(late.streams.each[i].state_dict())
    single.head.load_state_dict(late.heads[i].state_dict())
    assert torch.equal(single.predict(batch), late.predict(batch))
    assert torch.equal(single.predict(batch.only(only)), late.predict(batch))
    equal = built(Late(**BASE))
    equal.load_state_dict(late.state_dict())
    assert torch.equal(single.predict(batch.only(only)), equal.predict(batch.only(only)))
    assert not torch.allclose(single.predict(batch), equal.predict(batch))


def test_late_fusion_is_the_weighted_mean_of_logits() -> None:
    net, batch = built(Late(**BASE)), clips()
    (one, other), observed = net.logits(batch)
    assert observed.all()
    codes, _ = net.streams(batch)
    assert torch.equal(one, net.heads[0](codes[0])) and torch.equal(other, net.heads[1](codes[1]))
    torch.testing.assert_close(net.predict(batch), (one + other) / 2)
    for weights in ((1.0, 3.0), (1, 3), (0.25, 0.75)):
        weighted = built(Late(**BASE, weights=weights))
        weighted.load_state_dict(net.state_dict())
        torch.testing.assert_close(weighted.predict(batch), one / 4 + 3 * other / 4)


def test_equal_weights_do_not_care_who_is_first() -> None:
    net, batch = built(Late(**BASE, weights=(0.5, 0.5))), clips()
    turned = built(replace(net.config, modalities=tuple(SHAPES.items())[::-1]))
    for i in range(2):
        turned.streams.each[i].load_state_dict(net.streams.each[1 - i].state_dict())
        turned.heads[i].load_state_dict(net.heads[1 - i].state_dict())
    torch.testing.assert_close(turned.predict(batch), net.predict(batch), rtol=1e-12, atol=0)


def test_three_may_be_fused() -> None:
    shapes = {"a": (5, 3), "b": (5, 2), "c": (5, 4)}
    batch = Batch({name: torch.randn(4, *shape).double() for name, shape in shapes.items()})
    base = {**BASE, "modalities": tuple(shapes.items()), "backbone": Steps((4, 6))}
    late = built(Late(**base))
    logits, _ = late.logits(batch)
    torch.testing.assert_close(late.predict(batch), sum(logits) / 3)
    two = late.predict(batch.only("c", "a"))
    torch.testing.assert_close(two, (logits[0] + logits[2]) / 2)
    for config in (Early(**base), replace(CROSS, **base), Misa(**base, width=8)):
        assert built(config).predict(batch).shape == (4, 3)


def test_early_fusion_reads_codes_side_by_side() -> None:
    net, batch = built(Early(**BASE)), clips().with_observed(PARTLY)
    codes, _ = net.streams(batch)
    torch.testing.assert_close(net.predict(batch), net.head(torch.cat(codes, 1)))
    nothing = torch.cat((codes[0][1:2], torch.zeros(1, 6).double()), 1)
    torch.testing.assert_close(net.predict(batch)[1:2], net.head(nothing))


def test_late_early_and_x_norm_of_one_seed_have_the_same_streams_and_heads() -> None:
    """So that a difference between two methods of one seed is none between their starts."""
    states = []
    for config in (Late(**BASE), XNorm(**BASE), Early(**BASE), CROSS, Single(**BASE)):
        torch.manual_seed(3)
        states.append(config.build().state_dict())
    late, xnorm, *others = states
    assert all(torch.equal(xnorm[name], value) for name, value in late.items())
    for other in others:
        streams = [name for name in other if name.startswith("streams")]
        assert streams and all(torch.equal(other[name], late[name]) for name in streams)


# What a sum can do --------------------------------------------------------------------------------------

CELLS = torch.cartesian_prod(torch.arange(2), torch.arange(2))  # handle, direction
XOR = CELLS[:, 0] ^ CELLS[:, 1]


def best_of_sums(rho: float, product: bool = False) -> float:
    """Accuracy of the best f(handle) + g(direction) > 0 on a grid, or with a product beside the sum."""
    grid = torch.linspace(-2, 2, 9)
    terms = torch.cartesian_prod(*[grid] * (5 if product else 4))
    f, g = terms[:, :2], terms[:, 2:4]
    score = f[:, CELLS[:, 0]] + g[:, CELLS[:, 1]]
    if product:
        score = score + terms[:, 4:] * (2 * CELLS - 1).prod(1)
    said = (score > 0).long()
    right = rho * (said == XOR) + (1 - rho) * (said == CELLS[:, 1])
    return float(right.float().mean(1).max())


def test_no_sum_gets_more_than_3_of_4_cells_of_xor_and_a_product_gets_all() -> None:
    assert best_of_sums(1.0) == 0.75 == ceilings(1.0)["late"]
    assert best_of_sums(1.0, product=True) == 1.0 == ceilings(1.0)["joint"]


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_ceilings_are_the_best_on_a_grid(rho: float) -> None:
    assert best_of_sums(rho) == pytest.approx(ceilings(rho)["late"])
    assert best_of_sums(rho, product=True) == pytest.approx(ceilings(rho)["joint"])


def interaction(config: Any) -> float:
    """How far logits of four clips, two of rgb with two of flow each, are from a sum."""
    pair = clips(2)
    batch = Batch({m: x[CELLS[:, i]] for i, (m, x) in enumerate(pair.x.items())})
    with torch.no_grad():
        both, one, other, neither = built(config).predict(batch)
    return float((both - one - other + neither).abs().max())


SUMS = {
    "late": Late(**BASE, weights=(0.3, 0.7)),
    "without sites": XNorm(**BASE, sites=()),
    "own": XNorm(**BASE, exchange=Exchange(own=True)),
    "zero": XNorm(**BASE, exchange=Exchange(zero_init=True)),
    "rgb": Single(**BASE),
}
PRODUCTS = {
    "early": Early(**BASE),
    "cross": CROSS,
    "xnorm": XNorm(**BASE),
    "gamma": XNorm(**BASE, exchange=Exchange(only="gamma")),
    "beta": XNorm(**BASE, exchange=Exchange(only="beta")),
    "pool": XNorm(**BASE, exchange=Exchange(pool=True)),
    "last site": XNorm(**BASE, sites=(1,)),
    "blend": Blend(**BASE),
    "misa": Misa(**BASE, width=8),
}


@pytest.mark.parametrize("config", SUMS.values(), ids=SUMS)
def test_what_adds_has_no_interaction(config: Any) -> None:
    assert interaction(config) < 1e-12


@pytest.mark.parametrize("config", PRODUCTS.values(), ids=PRODUCTS)
def test_what_fuses_has(config: Any) -> None:
    assert interaction(config) > 1e-6


# Cross-attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("causal", "read", "seen"),
    [
        (True, "first", [0]),  # the released code's
        (True, "last", range(98)),
        (True, "mean", range(98)),
        (False, "first", range(98)),
        (False, "last", range(98)),
        (False, "mean", range(98)),
    ],
)
def test_which_of_98_cells_an_answer_depends_on(causal: bool, read: Any, seen: Any) -> None:
    config = replace(CROSS, causal=causal, read=read)
    cells = torch.randn(2, 3, 98, 8).double().requires_grad_()
    built(config).fusion(cells).square().sum().backward()
    assert cells.grad is not None
    for modality in cells.grad.abs().sum((1, 3)):
        assert (modality > 1e-9).nonzero()[:, 0].tolist() == list(seen)


def test_in_a_clip_the_released_reading_sees_one_corner_of_the_last_maps() -> None:
    seen = {}
    for name, config in {
        "ours": CROSS,
        "released": replace(CROSS, causal=True, read="first"),
    }.items():
        torch.manual_seed(0)
        net, batch = built(config), clips()
        maps, observed = net.streams.maps(batch)
        net.streams.maps = lambda _, found=(maps, observed): found
        slopes = torch.autograd.grad(net.predict(batch).square().sum(), maps)
        seen[name] = [(slope.abs().sum((0, 1)) > 1e-9).nonzero().tolist() for slope in slopes]
    assert seen["released"] == [[[0, 0, 0]]] * 2
    assert [len(cells) for cells in seen["ours"]] == [8, 8]


def test_cells_are_projected_without_bias_and_zeros_where_missing() -> None:
    net, batch = built(CROSS), clips().with_observed(PARTLY)
    raw, _ = net.streams.cells(batch)
    cells = net.cells(batch)
    assert cells.shape == (2, 6, 8, 8)
    for i, projection in enumerate(net.projections):
        torch.testing.assert_close(cells[i], raw[i] @ projection.weight.T)
        assert cells[i, ~PARTLY[:, i]].abs().max() == 0 < cells[i, PARTLY[:, i]].abs().min()
    torch.testing.assert_close(net.predict(batch), net.fusion(cells))


def test_settings_reach_the_transformers() -> None:
    config = replace(CROSS, attend_dropout=0.2, embed_dropout=0.3, dropout=0.4, causal=True)
    fusion = replace(config, read="last").build().fusion
    for part in (fusion.cross, fusion.memory):
        assert (part.dropout, part.embed_dropout, part.causal, part.heads) == (0.2, 0.3, True, 2)
    assert (fusion.output_dropout, fusion.read) == (0.4, "last")
    assert [len(part.w_q) for part in (fusion.cross, fusion.memory)] == [1, 3]


# Sizes --------------------------------------------------------------------------------------------------


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_weights_and_costs_on_inceptions_are_the_published_ones() -> None:
    shapes = {"rgb": (3, 16, 224, 224), "flow": (2, 16, 224, 224)}
    base: Any = {"modalities": tuple(shapes.items()), "backbone": Inception()}
    configs: dict[str, Any] = {
        "rgb": Single(**base), "flow": Single(**base, only="flow"),
        "late": Late(**base), "early": Early(**base), "gb": Blend(**base),
        "xnorm": XNorm(**base, sites=(0, 1, 2)),
        "mult": CrossAttention(**base, width=30, layers=5, heads=5),
        "misa": Misa(**base, inside=1024, width=128, feed=2048),
    }  # fmt: skip
    with torch.device("meta"):
        nets = {name: config.build().eval() for name, config in configs.items()}
    found = {name: numbers(net) for name, net in nets.items()}
    assert found["xnorm"] - found["late"] == 5_512_192
    sites = [numbers(site) for site in nets["xnorm"].exchanges.values()]
    assert sites == [2 * n for n in (131_584, 525_312, 2_099_200)]
    for name in ("mult", "misa"):  # the released streams of these end in the 400 logits of Kinetics
        above = numbers(nets[name]) - numbers(nets[name].streams)
        assert above == {"mult": 293_288, "misa": 85_818_120}[name]
        found[name] = above + 12_697_264 + 12_675_312
    assert {name: round(n / 1e6, 2) for name, n in found.items()} == {
        "rgb": 12.45, "flow": 12.43, "late": 24.88, "early": 24.87, "gb": 24.93, "xnorm": 30.40,
        "mult": 25.67, "misa": 111.19,
    }  # fmt: skip
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in shapes.items()}).to("meta")
    costs = [counted(partial(nets[name].predict, batch)) for name in ("late", "xnorm")]
    assert [round(n / 1e9, 2) for n in costs] == [53.37, 56.25]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Single(**BASE, only="sound"), "only must be one of rgb, flow; got 'sound'"),
        (lambda: Late(**BASE, weights=(1.0,)), r"2 numbers of at least 0, not all 0, or none; got \(1.0,\)"),
        (lambda: Late(**BASE, weights=(1.0, -0.1)), r"weights must be 2 numbers .* got \(1.0, -0.1\)"),
        (lambda: Late(**BASE, weights=(0.0, 0.0)), r"weights must be 2 numbers .* got \(0.0, 0.0\)"),
        (lambda: replace(CROSS, heads=3).build(), r"width must be divisible by 2 and by heads \(3\), got 8"),
        (lambda: replace(CROSS, heads=0).build(), "heads must be at least 1, got 0"),
        (lambda: replace(CROSS, layers=0).build(), "layers must be at least 1, got 0"),
        (lambda: CrossAttention(**{**BASE, "read": "middle"}).build(),
         "read must be one of last, first, mean; got 'middle'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
