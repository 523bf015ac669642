"""X-Norm: exact identities, known answers, and an exchange that is one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models.backbones import Clip, Steps
from labkit.models.fusion import Late, LateNet
from labkit.models.xnorm import Exchange, NormExchange, Site, XNorm, XNormNet, _mapped, normal

SHAPES = {"rgb": (3, 2, 8, 8), "flow": (2, 2, 8, 8)}
SMALL = XNorm(tuple(SHAPES.items()), Clip((4, 6)), hidden=8)
LATE = Late(SMALL.modalities, SMALL.backbone, hidden=8)
RELEASED = Exchange()
OVER: dict[Any, tuple[int, ...]] = {"layer": (1, 2), "instance": (2,), "channel": (1,)}
VARIANTS: list[dict[str, Any]] = [
    {}, {"norm": "instance"}, {"norm": "channel"}, {"pool": True}, {"only": "gamma"}, {"only": "beta"},
    {"one_plus_gamma": True}, {"own": True}, {"sequential": True}, {"detach": True},
]  # fmt: skip
each_variant = pytest.mark.parametrize("exchange", [Exchange(**v) for v in VARIANTS], ids=repr)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clips(n: int = 6, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in SHAPES.items()}
    return Batch(x, y=torch.arange(n) % 8)


def maps(width: int = 4, n: int = 3, grid: tuple[int, ...] = (2, 4, 4)) -> Tensor:
    return torch.randn(n, width, *grid).double()


def site(exchange: Exchange = RELEASED, width: int = 4) -> Any:
    return NormExchange(width, exchange).double()


def saying(gamma: float, beta: float, exchange: Exchange) -> Any:
    """A site of 4 maps whose encoders say the same of everything."""
    module = site(replace(exchange, zero_init=True))
    with torch.no_grad():
        for encoder in module.encoders:
            encoder.bias[:4], encoder.bias[4:] = beta, gamma  # beta comes first
    return module


def built(exchange: Exchange = RELEASED, **changes: Any) -> XNormNet:
    net = replace(SMALL, exchange=exchange, **changes).build().double().eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
    return net


def late_of(net: XNormNet) -> LateNet:
    """Late fusion of the same streams and heads."""
    late = LATE.build().double().eval()
    late.load_state_dict({k: v for k, v in net.state_dict().items() if "exchanges" not in k})
    return late


def same(found: Any, wanted: Any) -> bool:
    return all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


# Identities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", OVER)
@pytest.mark.parametrize("pool", [False, True])
def test_zero_encoders_are_the_identity(norm: Any, pool: bool) -> None:
    pair = maps(), maps()
    assert same(site(Exchange(norm, pool=pool, zero_init=True))(pair), pair)
    for found, given in zip(site(Exchange(norm, pool=pool))(pair), pair, strict=True):
        assert not torch.allclose(found, given), "the released start is none"


@pytest.mark.parametrize("pool", [False, True])
def test_with_zero_encoders_a_step_is_late_fusions_bit_for_bit(pool: bool) -> None:
    """One state dict of streams and heads; answer, loss and all slopes."""
    net, batch = built(Exchange(zero_init=True, pool=pool)), clips()
    late = late_of(net)
    assert torch.equal(net.eval().predict(batch), late.predict(batch))
    losses = []
    for model in (net, late):
        torch.manual_seed(1)
        losses.append(model.train().loss(batch, 0, torch.Generator())[0])
        losses[-1].backward()
    assert torch.equal(*losses)
    for name, weight in late.named_parameters():
        assert torch.equal(net.get_parameter(name).grad, weight.grad), name  # type: ignore[arg-type]
    for weight in net.exchanges.parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 1e-9, "and it learns at once"
    net = built(sites=())
    assert torch.equal(net.predict(batch), late_of(net).predict(batch)), "so it is without sites"


def test_twins_stay_twins_and_swapped_streams_swap_but_in_sequence() -> None:
    x, y, module = maps(), maps(), site()
    tied, swapped = copy.deepcopy(module), copy.deepcopy(module)
    tied.encoders[1].load_state_dict(module.encoders[0].state_dict())
    assert torch.equal(*tied((x, x.clone())))
    for i in range(2):
        swapped.encoders[i].load_state_dict(module.encoders[1 - i].state_dict())
    assert same(swapped((y, x)), module((x, y))[::-1])
    first, _ = module((x, y))
    second = module((first, y))[1]
    for each in (tied, swapped, module):
        each.config = Exchange(sequential=True)
    assert same(module((x, y)), (first, second)), "the second hears of the changed first"
    assert not torch.allclose(*tied((x, x.clone())))
    for one, other in zip(swapped((y, x)), module((x, y))[::-1], strict=True):
        assert not torch.allclose(one, other)


def test_own_parameters_are_those_of_a_partner_who_is_the_same() -> None:
    x, module, own = maps(), site(), site(Exchange(own=True))
    module.encoders[1].load_state_dict(module.encoders[0].state_dict())
    own.load_state_dict(module.state_dict())
    one, other = own((x, maps()))
    assert torch.equal(one, module((x, x))[0]) and not torch.allclose(one, other)


# Known answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", OVER)
@pytest.mark.parametrize("pool", [False, True])
def test_gamma_1_and_beta_0_add_the_norm(norm: Any, pool: bool) -> None:
    pair, exchange = (maps(), maps()), Exchange(norm, pool=pool)
    once, twice = (saying(g, b, exchange)(pair) for g, b in ((1, 0), (2, 0.3)))
    for x, one, two in zip(pair, once, twice, strict=True):
        torch.testing.assert_close(one, x + normal(x.flatten(2), norm).view_as(x))
        torch.testing.assert_close(two, x + 2 * (one - x) + 0.3)


@pytest.mark.parametrize("norm", OVER)
def test_a_norm_has_mean_0_and_unbiased_deviation_1(norm: Any) -> None:
    x, over = 3 + 50 * maps(16, grid=(24,)), OVER[norm]
    found = normal(x, norm)
    torch.testing.assert_close(found.mean(over), torch.zeros_like(found.mean(over)))
    wanted = torch.ones_like(found.std(over))
    torch.testing.assert_close(found.std(over), wanted, rtol=1e-6, atol=0)
    by_hand = (x - x.mean(over, keepdim=True)) / x.std(over, keepdim=True)
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normal(7 * x - 4, norm), found, rtol=1e-6, atol=1e-6)


def test_it_is_the_released_codes_on_maps_of_many_numbers() -> None:
    x, y = maps(64, 2, (8, 8, 8)), maps(64, 2, (8, 8, 8))
    module = site(width=64)

    def released(x: Tensor, y: Tensor, encoder: Any) -> Tensor:
        flat = x.view(len(x), -1)
        mean, deviation = (each.view(-1, 1, 1, 1, 1) for each in (flat.mean(1), flat.std(1) + 1e-8))
        beta, gamma = F.conv3d(y, encoder.weight[..., None, None], encoder.bias).chunk(2, 1)
        return x + (x - mean) / deviation * gamma + beta

    one, other = module((x, y))
    torch.testing.assert_close(one, released(x, y, module.encoders[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other, released(y, x, module.encoders[1]), rtol=1e-4, atol=1e-4)
    layer = F.layer_norm(x, x.shape[1:])
    torch.testing.assert_close(normal(x.flatten(2)).view_as(x), layer, rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_released_start_is_a_kick_of_four_fifths() -> None:
    x, y, module = maps(256, 2).relu(), maps(256, 2).relu(), site(width=256)
    made, gamma = module((x, y))[0], module.say(0, y).gamma
    assert float((made - x).norm() / x.norm()) == pytest.approx(0.82, abs=0.02)
    assert float(gamma.std()) == pytest.approx(0.41, abs=0.02)
    assert float(gamma.mean()) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("pool", [False, True], ids=["dense", "pooled"])
def test_a_constant_map_gives_finite_numbers_and_bounded_slopes(pool: bool) -> None:
    for norm in OVER:
        x = torch.full((3, 4, 2, 4, 4), 0.7, requires_grad=True)
        made, _ = saying(1, 0, Exchange(norm, pool=pool)).float()((x, maps().float()))
        torch.testing.assert_close(made, x, rtol=0, atol=1e-3)
        (slope,) = torch.autograd.grad(made, x, torch.randn_like(made))
        assert slope.isfinite().all() and slope.abs().max() < 4e3  # 10^2.5 a number, not 10^8
    single = maps(grid=(1, 1, 1))
    assert site(Exchange("instance", pool=True))((single, single))[0].isfinite().all()


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({"only": "gamma"}, lambda x, n, gamma, beta: x + gamma * n),
     ({"only": "beta"}, lambda x, n, gamma, beta: x + beta),
     ({"one_plus_gamma": True}, lambda x, n, gamma, beta: x + (1 + gamma) * n + beta)],
)  # fmt: skip
def test_parts_of_the_sum(changes: Any, wanted: Callable[..., Tensor]) -> None:
    x, y, module, part = maps(), maps(), site(), site(Exchange(**changes))
    part.load_state_dict(module.state_dict())
    gamma, beta = (each.view_as(x) for each in module.say(0, y))
    by_hand = wanted(x, normal(x.flatten(2)).view_as(x), gamma, beta)
    torch.testing.assert_close(part((x, y))[0], by_hand)


@pytest.mark.parametrize("cells", [1, 2, 40], ids=["pooled", "few", "many"])
def test_a_map_of_weights_is_a_convolution_whichever_is_larger(cells: int) -> None:
    g = torch.Generator().manual_seed(0)
    w, b, x = (
        torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_(True)
        for shape in ((12, 9), (12,), (4, 9, cells))
    )
    assert (w.numel() > x.numel()) is (cells < 40), "both ways are taken"
    found, wanted = _mapped(w, b, x), F.conv1d(x, w[..., None], b)
    torch.testing.assert_close(found, wanted)
    ways = (torch.autograd.grad(each.square().sum(), (w, b, x)) for each in (found, wanted))
    for one, other in zip(*ways, strict=True):
        torch.testing.assert_close(one, other)


def test_pooled_parameters_are_one_a_map_and_of_the_partners_mean() -> None:
    y, module = maps(), site(Exchange(pool=True))
    said = module.say(0, y)
    assert said.gamma.shape == said.beta.shape == (3, 4, 1)
    mixed = y.flatten(2)[..., torch.randperm(32)].view_as(y)
    for one, other in zip(said, module.say(0, mixed), strict=True):
        torch.testing.assert_close(one, other)
    dense = site().say(0, y)
    assert dense.gamma.shape == (3, 4, 32) and dense.gamma.std(2).min() > 0.01


# Who depends on whom ------------------------------------------------------------------------------------


@each_variant
def test_what_is_told_depends_on_the_partner_alone(exchange: Exchange) -> None:
    x, y, module = maps().requires_grad_(), maps().requires_grad_(), site(exchange)
    made = module((x, y))
    hears = not (exchange.own or exchange.detach)
    for to, mine, partners in ((0, x, y), (1, y, x)):
        total = made[to].square().sum()
        for given, counts in ((mine, True), (partners, hears)):
            (slope,) = torch.autograd.grad(total, given, retain_graph=True, allow_unused=True)
            assert (slope is not None and bool(slope.abs().max() > 1e-3)) is counts
        for weight in module.encoders[to].parameters():  # detached or not, encoders learn
            (slope,) = torch.autograd.grad(total, weight, retain_graph=True)
            assert slope.abs().max() > 1e-3
    if not exchange.own:  # of other scale and mean the norm is the same, and so is what is added
        near, far = 1e3 * x + 5, 1e5 * x - 7
        added = module((near, y))[0] - near
        torch.testing.assert_close(module((far, y))[0] - far, added, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(module((near, y + 1))[0] - near, added, rtol=1e-2)


@each_variant
def test_a_site_knows_neither_mode_nor_batch(exchange: Exchange) -> None:
    x, y, module = maps(), maps(), site(exchange)
    told = module.train()((x, y))
    assert same(module.eval()((x, y)), told)
    for i in range(3):
        for one, other in zip(module((x[i : i + 1], y[i : i + 1])), told, strict=True):
            torch.testing.assert_close(one[0], other[i], rtol=1e-12, atol=1e-12)
    assert sum(v.numel() for v in module.state_dict().values()) == 2 * (2 * 4 * 4 + 2 * 4)


@each_variant
def test_a_stream_whose_partner_is_missing_stays_as_it_is(exchange: Exchange) -> None:
    seen = torch.tensor([[True, True], [True, False], [False, True]])
    x, y, module = maps(), maps(), site(exchange)
    whole, part = module((x, y)), module((x, y), seen)
    for i, given in enumerate((x, y)):
        assert torch.equal(part[i][0], whole[i][0])
        alone = whole[i] if exchange.own else given
        assert torch.equal(part[i][1 + i], alone[1 + i])
    batch, net = clips(), built(exchange)
    wanted = net.logits(batch) if exchange.own else late_of(net).logits(batch)[0]
    for i, name in enumerate(SHAPES):
        assert torch.equal(net.predict(batch.only(name)), wanted[i])


# The network --------------------------------------------------------------------------------------------


@each_variant
def test_records_say_what_happened(exchange: Exchange) -> None:
    net, batch, kept = built(exchange), clips(), dict[int, Site]()
    *answers, observed = net.logits(batch, sites=kept)
    assert list(kept) == [0, 1] and same((*answers, observed), net.logits(batch))
    after: Any = net.streams.enter(batch)[0]
    for i, record in kept.items():
        module: Any = net.exchanges[str(i)]
        assert same(record.before, net.streams.stage(i, after))
        after = record.after
        for to in range(2):
            made = module.modulated(record.before[to], record.said[to])
            torch.testing.assert_close(record.after[to], made, rtol=1e-12, atol=1e-12)
    for net_head, x, said in zip(net.heads, after, answers, strict=True):
        torch.testing.assert_close(net_head(x.mean((2, 3, 4))), said)


def test_cut_streams_hear_nothing() -> None:
    net, batch = built(), clips()
    whole, alone = net.logits(batch)[:2], late_of(net).logits(batch)[0]
    everything = [(i, stream) for i in (0, 1) for stream in (0, 1)]
    assert torch.equal(net.predict(batch, everything), late_of(net).predict(batch))
    for stream in range(2):
        silent = net.logits(batch, [(i, stream) for i in (0, 1)])[:2]
        assert torch.equal(silent[stream], alone[stream])
        assert not torch.allclose(silent[1 - stream], alone[1 - stream])
        kept = dict[int, Site]()
        last = net.logits(batch, [(1, stream)], kept)[:2]
        assert torch.equal(last[1 - stream], whole[1 - stream])
        assert not torch.allclose(last[stream], whole[stream])
        assert kept[1].after[stream] is kept[1].before[stream]
        assert not torch.allclose(kept[0].after[stream], kept[0].before[stream])
    net.config = replace(SMALL, weight=0.25)
    torch.testing.assert_close(net.predict(batch), 0.25 * whole[0] + 0.75 * whole[1])


def test_sites_are_where_they_are_asked_for() -> None:
    answers: list[Tensor] = []
    for sites in ((), (0,), (1,), (0, 1)):
        torch.manual_seed(0)
        net = built(sites=sites)
        assert set(net.exchanges) == {str(i) for i in sites}
        answers.append(net.predict(clips()))
        assert not any(torch.allclose(answers[-1], each) for each in answers[:-1])


def test_grids_may_differ_if_nothing_is_told_cell_by_cell() -> None:
    wide, other = maps(), maps(grid=(2, 2, 2))
    with pytest.raises(ValueError, match=r"unless pooled, got \(3, 4, 2, 4, 4\) and \(3, 4, 2, 2"):
        site()((wide, other))
    for exchange in (Exchange(pool=True), Exchange(own=True)):
        assert [x.shape for x in site(exchange)((wide, other))] == [wide.shape, other.shape]
    line = replace(SMALL, modalities=(("a", (5, 3)), ("b", (9, 2))), backbone=Steps((4, 6)))
    net = replace(line, exchange=Exchange(pool=True)).build()
    batch = Batch({"a": torch.randn(2, 5, 3), "b": torch.randn(2, 9, 2)})
    assert net.predict(batch).shape == (2, 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Exchange(norm="batch"), "norm must be layer, instance or channel, got 'batch'"),  # type: ignore[arg-type]
        (lambda: Exchange(only="alpha"), "only must be both, gamma or beta, got 'alpha'"),  # type: ignore[arg-type]
        (lambda: replace(SMALL, modalities=(*SMALL.modalities, ("c", (1, 2, 8, 8)))),
         "modalities must be two to exchange, got 3"),
        (lambda: replace(SMALL, weight=1.5), "weight must lie between 0 and 1, got 1.5"),
        (lambda: replace(SMALL, sites=(1, 1)), r"sites must be different stages, from 0; got \(1, 1\)"),
        (lambda: replace(SMALL, sites=(-1,)), r"from 0; got \(-1,\)"),
        (lambda: replace(SMALL, sites=(0, 2)).build(), r"sites must lie below 2, got \(0, 2\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
