"""Streams, and what all methods of the fusion bench have in common: what is missing reaches no answer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models.backbones import Clip, Steps
from labkit.models.blending import Blend
from labkit.models.fusion import CrossAttention, Early, Late, Single
from labkit.models.misa import Misa
from labkit.models.predictor import task
from labkit.models.streams import Bench, Streams, head, mean_of
from labkit.models.xnorm import Exchange, XNorm
from labkit.train import TrainConfig, fit

SHAPES = {"rgb": (3, 2, 8, 8), "flow": (2, 2, 8, 8)}
BASE: dict[str, Any] = {
    "modalities": tuple(SHAPES.items()), "backbone": Clip((4, 6)), "classes": 3, "hidden": 8,
}  # fmt: skip
METHODS: dict[str, Any] = {
    "single": Single(**BASE),
    "late": Late(**BASE, weights=(0.25, 0.75)),
    "early": Early(**BASE),
    "cross": CrossAttention(**BASE, width=8, layers=1, heads=2, attend_dropout=0, embed_dropout=0),
    "xnorm": XNorm(**BASE),
    "sequential": XNorm(**BASE, exchange=Exchange(sequential=True, pool=True, norm="channel")),
    "own": XNorm(**BASE, exchange=Exchange(own=True, norm="instance")),
    "blend": Blend(**BASE, weights=(0.5, 1.0, 2.0)),
    "misa": Misa(**BASE, inside=4, width=8, feed=16),
}
each_method = pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
# The three patterns of two modalities, twice.
PARTLY = torch.tensor([[True, True], [True, False], [False, True]]).repeat(2, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def clips(n: int = 6, seed: int = 0, shapes: dict[str, Any] = SHAPES) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in shapes.items()}
    return Batch(x, y=torch.arange(n) % 3)


def shaken(config: Any) -> Any:
    """A network in eval mode, all of its weights and statistics moved."""
    net = config.build().double().eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn_like(weight)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return net


def answerable(net: Any, batch: Batch) -> Batch:
    """The rows that a network can answer: what `Single` reads has to be there."""
    return batch[batch.observed[:, 0]] if len(net.streams.streams) == 1 else batch


def fill(batch: Batch, value: float) -> Batch:
    """The same batch with this in all that is missing."""
    x = {name: torch.where(batch.rows(name), batch.x[name], value) for name in batch.x}
    return replace(batch, x=x)


# Streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "shape", "grids"),
    [(Clip((4, 6)), (3, 5, 9, 8), [(5, 5, 4), (5, 3, 2)]), (Steps((4, 6)), (7, 3), [(7,), (7,)])],
)  # fmt: skip
def test_stages_of_clips_halve_height_and_width_and_those_of_sequences_nothing(
    recipe: Any, shape: tuple[int, ...], grids: list[tuple[int, ...]]
) -> None:
    stream, x = recipe.build(shape), torch.randn(2, *shape)
    maps = stream.enter(x)
    assert torch.equal(maps, x if len(shape) == 4 else x.transpose(1, 2))
    assert (stream.widths, stream.width) == ((4, 6), 6)
    for stage, width, grid in zip(stream.stages, (4, 6), grids, strict=True):
        maps = stage(maps)
        assert maps.shape == (2, width, *grid)
    torch.testing.assert_close(stream.code(maps), maps.mean(list(range(2, maps.ndim))))


@pytest.mark.parametrize(
    ("recipe", "shape", "by_hand"),
    [(Clip((4,)), (3, 4, 8, 6), lambda x, w: F.conv3d(x, w, stride=(1, 2, 2), padding=1)),
     (Steps((4,)), (5, 3), lambda x, w: F.conv1d(x, w, padding=1))],
)  # fmt: skip
def test_a_stage_is_convolution_normalisation_and_relu(
    recipe: Any, shape: tuple[int, ...], by_hand: Any
) -> None:
    stream = recipe.build(shape).train()
    x, conv = stream.enter(torch.randn(8, *shape)), stream.stages[0][0]
    maps = by_hand(x, conv.weight)
    assert conv.bias is None, "normalisation takes it off again"
    over = [d for d in range(maps.ndim) if d != 1]
    deviation = (maps.var(over, correction=0, keepdim=True) + 1e-5).sqrt()
    wanted = ((maps - maps.mean(over, keepdim=True)) / deviation).relu()
    torch.testing.assert_close(stream.stages[0](x), wanted)


# Samples in, codes out --------------------------------------------------------------------------------


def test_codes_follow_the_order_of_the_network_and_are_zeros_where_nothing_is_observed() -> None:
    net, batch = shaken(Late(**BASE)).streams, clips().with_observed(PARTLY)
    codes, observed = net(batch)
    assert torch.equal(observed, PARTLY) and [code.shape for code in codes] == [(6, 6)] * 2
    for i, (stream, name) in enumerate(zip(net.streams, SHAPES, strict=True)):
        maps = batch.x[name]
        for stage in stream.stages:
            maps = stage(maps)
        alone = maps.mean((2, 3, 4))
        torch.testing.assert_close(codes[i][PARTLY[:, i]], alone[PARTLY[:, i]])
        assert codes[i][~PARTLY[:, i]].abs().max() == 0 < alone[~PARTLY[:, i]].abs().max()
    turned, seen = net(batch.only("flow", "rgb"))
    assert torch.equal(seen, observed)
    assert all(torch.equal(*pair) for pair in zip(codes, turned, strict=True))


def test_other_modalities_are_left_out() -> None:
    net, batch = shaken(Late(**BASE)), clips()
    more = Batch({"sound": torch.randn(6, 4).double(), **batch.x})
    assert torch.equal(net.predict(more), net.predict(batch))
    with pytest.raises(ValueError, match="unknown modality 'sound'; this model knows rgb, flow"):
        net.predict(more.only("sound"))
    with pytest.raises(ValueError, match=r"x\['rgb'\] must have samples of shape \(3, 2, 8, 8\)"):
        net.predict(replace(batch, x={**batch.x, "rgb": batch.x["rgb"][:, :, :1]}))
    single = shaken(Single(**BASE))
    assert torch.equal(single.predict(more), single.predict(batch.only("rgb")))
    with pytest.raises(ValueError, match="leaves 2 rows with nothing observed"):
        single.predict(batch.with_observed(PARTLY))


def test_cells_are_places_in_raster_order() -> None:
    net, batch = shaken(Late(**BASE)).streams, clips().with_observed(PARTLY)
    maps, _ = net.maps(batch)
    cells, observed = net.cells(batch)
    assert cells.shape == (2, 6, 8, 6) and torch.equal(observed, PARTLY)
    at = [(t, h, w) for t in range(2) for h in range(2) for w in range(2)]
    for k, (t, h, w) in enumerate(at):
        for i in range(2):
            there = PARTLY[:, i]
            assert torch.equal(cells[i, there, k], maps[i][there, :, t, h, w])
            assert cells[i, ~there].abs().max() == 0
    shapes = {**SHAPES, "flow": (2, 1, 8, 8)}
    uneven = Streams(tuple(shapes.items()), Clip((4, 6))).double()
    with pytest.raises(ValueError, match=r"one shape, got \(6, 2, 2, 2\), \(6, 1, 2, 2\)"):
        uneven.cells(clips(shapes=shapes))


# Heads and means --------------------------------------------------------------------------------------


def test_a_head_is_three_layers_and_drops_no_logits() -> None:
    net = head(5, replace(METHODS["late"], dropout=0.5)).double()
    one, _, _, two, _, _, three = net
    x = torch.randn(64, 5).double()
    wanted = three(two(one(x).tanh()).tanh())
    torch.testing.assert_close(net.eval()(x), wanted)
    assert three.out_features == 3 and sum(p.numel() for p in net.parameters()) == 48 + 72 + 27
    said = net.train()(x)
    assert not torch.allclose(said, wanted) and bool((said != 0).all())
    dropped = (net[:3](x) == 0).double().mean()
    assert dropped == pytest.approx(0.5, abs=0.1)


def test_a_mean_counts_who_is_observed() -> None:
    logits = [torch.tensor([[1.0, 2.0]] * 4), torch.tensor([[10.0, 30.0]] * 4)]
    seen = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
    wanted = torch.tensor([[7.75, 23.0], [1.0, 2.0], [10.0, 30.0], [0.0, 0.0]])
    for weights in ((0.25, 0.75), (1, 3)):
        torch.testing.assert_close(mean_of(logits, weights, seen), wanted)
    certain = mean_of(logits, (1, 0), seen)
    assert torch.equal(certain[:2], logits[0][:2]) and certain[2:].abs().max() == 0


# All methods ------------------------------------------------------------------------------------------


@each_method
def test_an_answer_has_a_logit_a_class_or_is_a_number(config: Any) -> None:
    net, batch = shaken(config), clips()
    assert net.predict(batch).shape == (6, 3)
    loss, parts = net.loss(batch, 0, torch.Generator())
    assert loss.shape == () and 0 <= parts["accuracy"] <= 1
    number = shaken(replace(config, classes=None))
    real = replace(batch, y=torch.linspace(-1, 1, 6))
    assert number.predict(real).shape == (6, 1)
    parts = number.loss(real, 0, torch.Generator())[1]
    wanted = (number.predict(real).float()[:, 0] - real.y).abs().mean()
    torch.testing.assert_close(parts["mae"], wanted.detach())
    if not isinstance(config, Blend | Misa):  # these have losses of their own
        wanted, said = task(net.predict(batch).float(), batch)
        assert torch.equal(loss, wanted) and parts.keys() ^ said.keys() == {"mae", "accuracy"}
    with pytest.raises(ValueError, match="the batch has no labels: y is None"):
        net.loss(replace(batch, y=None), 0, torch.Generator())


@each_method
def test_what_is_missing_reaches_nothing(config: Any) -> None:
    net = shaken(config)
    batch = answerable(net, clips().with_observed(PARTLY))
    answer, losses, slopes = net.predict(fill(batch, 0.0)), [], []
    for value in (1e3, math.nan):
        assert torch.equal(net.predict(fill(batch, value)), answer), value
        there = copy.deepcopy(net).train()
        torch.manual_seed(1)
        loss, _ = there.loss(fill(batch, value), 0, torch.Generator())
        loss.backward()
        losses.append(loss)
        slopes.append([p.grad for p in there.parameters() if p.grad is not None])
    assert losses[0].isfinite() and torch.equal(*losses)
    for one, other in zip(*slopes, strict=True):
        assert one.isfinite().all() and torch.equal(one, other)
    whole = net.predict(clips())
    if len(net.streams.streams) == 2:
        assert not torch.allclose(whole[1:3], answer[1:3]), "what is there counts"
    torch.testing.assert_close(net.predict(clips().only("rgb"))[1], answer[1])  # left out = missing


@each_method
def test_a_sample_alone_is_that_of_a_batch(config: Any) -> None:
    net = shaken(config)
    batch = answerable(net, clips().with_observed(PARTLY))
    together = net.predict(batch)
    for i in range(len(batch)):
        alone = net.predict(batch[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # PyTorch has faster ways then
        torch.testing.assert_close(net.predict(batch), together, rtol=1e-9, atol=1e-9)


@each_method
def test_every_weight_gets_a_gradient(config: Any) -> None:
    net = shaken(config).train()
    net.loss(clips(), 0, torch.Generator())[0].backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        grad = weight.grad
        if name.endswith("b_kv"):  # the first half are biases of keys, which a softmax cannot feel
            grad = grad.chunk(2, -1)[1]
        if name.endswith("self_attn.in_proj_bias"):  # the middle third
            grad = torch.cat((grad[:8], grad[16:]))
        assert grad.abs().max() > 1e-9, name


@each_method
def test_training_and_answering_leave_what_they_should(config: Any) -> None:
    net, batch = shaken(replace(config, dropout=0.5)), clips()
    before = copy.deepcopy(net.state_dict())
    assert torch.equal(net.predict(batch), net.predict(batch))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.train()
    assert not torch.allclose(net.predict(batch), net.predict(batch)), "dropout acts"
    moved = {n for n, value in net.state_dict().items() if not torch.equal(value, before[n])}
    assert moved == {n for n, _ in net.named_buffers()}, "statistics move, weights do not"


@each_method
def test_a_network_is_a_function_of_torchs_seed(config: Any) -> None:
    nets = []
    for s in (1, 1, 2):
        torch.manual_seed(s)
        nets.append(config.build().state_dict())
    for name, one in nets[0].items():
        assert torch.equal(one, nets[1][name]), name
        constant = len(one.unique()) == 1
        assert constant or not torch.equal(one, nets[2][name]), name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Clip(()), r"widths must be one number of maps a stage, each at least 1, got \(\)"),
        (lambda: Clip((4, 0)), r"each at least 1, got \(4, 0\)"),
        (lambda: Steps((0,)), r"each at least 1, got \(0,\)"),
        (lambda: Clip().build((3, 8, 8)), r"a clip must have shape \(C, T, H, W\), got \(3, 8, 8\)"),
        (lambda: Steps().build((3, 8, 8)), r"a sequence must have shape \(T, C\), got \(3, 8, 8\)"),
        (lambda: Bench((("rgb", (3, 2)),)), r"two or more of different names, got \['rgb'\]"),
        (lambda: Bench((("a", (3, 2)), ("a", (3, 2)))), r"different names, got \['a', 'a'\]"),
        (lambda: Bench(BASE["modalities"], classes=1), "None or at least 2, got 1"),
        (lambda: Bench(BASE["modalities"], hidden=0), "hidden must be at least 1, got 0"),
        (lambda: Bench(BASE["modalities"], dropout=1.0), r"must lie in \[0, 1\), got 1.0"),
        (lambda: Bench(BASE["modalities"], dropout=-0.1), r"must lie in \[0, 1\), got -0.1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# On a GPU ---------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@each_method
def test_on_a_device_losses_and_answers_are_those_of_the_cpu(config: Any, device: str) -> None:
    net = shaken(replace(config, dropout=0.0))
    batch = answerable(net, clips().with_observed(PARTLY))

    def on(place: str) -> list[Tensor]:
        there, here = copy.deepcopy(net).to(place), batch.to(place)
        found = [there.predict(here)]
        there.train()  # cuDNN has slopes of LSTMs in training alone
        loss, parts = there.loss(here, 0, torch.Generator(place))
        loss.backward()
        found += [loss, *parts.values(), *(p.grad for p in there.parameters())]
        assert all(each.device.type == place for each in found)
        return [each.detach().cpu() for each in found]

    torch.testing.assert_close(on(device), on("cpu"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@each_method
def test_it_trains_on_a_device_and_answers_in_half_precision(config: Any, device: str) -> None:
    x, y = {name: values.float() for name, values in clips(24).x.items()}, torch.arange(24) % 2
    batch = Batch({**x, "rgb": x["rgb"] + 2 * y.view(-1, 1, 1, 1, 1)}, y=y).to(device)
    net: Any = replace(config, classes=2).build().to(device)
    history = fit(net, batch, TrainConfig(6, 12, 1e-2, clip=1.0), progress=False)
    assert history.train["total"][-1] < 0.95 * history.train["total"][0]
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        near = net.predict(batch).float()
    torch.testing.assert_close(near, net.predict(batch).detach(), rtol=0.05, atol=0.05)
