"""Backbones of pictures and vectors: one grid for both, and equal places of a vector count as one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.models import mult
from labkit.models.backbones import Pictures, Stream
from labkit.models.fusion import CrossAttention, Early, Late
from labkit.models.misa import Misa
from labkit.models.streams import Streams
from labkit.models.xnorm import XNorm

SHAPES: dict[str, tuple[int, ...]] = {"script": (28, 28), "voice": (13,)}
BASE: dict[str, Any] = {
    "modalities": tuple(SHAPES.items()), "backbone": Pictures((4, 6, 8)), "classes": 3, "hidden": 8,
}  # fmt: skip
CROSS = CrossAttention(**BASE, width=8, layers=1, heads=2)
METHODS = {
    "late": Late(**BASE), "early": Early(**BASE), "xnorm": XNorm(**BASE, sites=(2,)), "cross": CROSS,
    "misa": Misa(**BASE, inside=4, width=8, feed=16),
}  # fmt: skip


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def samples(n: int = 6, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Batch:
    g = torch.Generator().manual_seed(1)
    x = {m: torch.randn(n, *shape, generator=g, dtype=torch.float64) for m, shape in shapes.items()}
    return Batch(x, y=torch.arange(n) % 3)


def through(stream: Stream, x: Tensor) -> list[Tensor]:
    """Maps of each stage."""
    maps = [stream.enter(x)]
    for stage in stream.stages:
        maps.append(stage(maps[-1]))
    return maps[1:]


# Shapes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "entered", "grids"),
    [
        ((28, 28), (1, 28, 28), [(14, 14), (7, 7), (4, 4)]),
        ((9, 12), (1, 9, 12), [(5, 6), (3, 3), (2, 2)]),
        ((13,), (13, 1, 1), [(1, 1), (1, 1), (4, 4)]),
        ((1,), (1, 1, 1), [(1, 1), (1, 1), (4, 4)]),
    ],
)
def test_stages_halve_pictures_and_a_vector_fills_the_grid_at_last(
    shape: tuple[int, ...], entered: tuple[int, ...], grids: list[tuple[int, int]]
) -> None:
    stream, x = Pictures((4, 6, 8)).build(shape), torch.randn(2, *shape)
    assert torch.equal(stream.enter(x), x.view(2, *entered))
    maps = through(stream, x)
    assert [m.shape for m in maps] == [(2, w, *g) for w, g in zip((4, 6, 8), grids, strict=True)]
    assert (stream.widths, stream.width) == ((4, 6, 8), 8)
    uneven = through(Pictures((4, 6), (2, 3)).build((5,)), torch.randn(2, 5))[-1]
    assert uneven.shape == (2, 6, 2, 3)
    assert stream.code(maps[-1]).shape == (2, 8)
    torch.testing.assert_close(stream.code(maps[-1]), maps[-1].mean((2, 3)))


def test_a_stage_is_convolution_normalisation_and_relu() -> None:
    def normal(maps: Tensor) -> Tensor:
        deviation = maps.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
        return ((maps - maps.mean((0, 2, 3), keepdim=True)) / deviation.sqrt()).relu()

    x = torch.randn(8, 7, 6)
    stage: Any = Pictures((4,)).build((7, 6)).train().stages[0]
    assert stage[0].bias is None, "normalisation takes it off again"
    wanted = normal(F.conv2d(x[:, None], stage[0].weight, stride=2, padding=1))
    torch.testing.assert_close(stage(x[:, None]), wanted)

    vector = torch.randn(8, 5)
    first: Any = Pictures((4, 3)).build((5,)).train().stages[0]
    wanted = normal((vector @ first[0].weight[..., 0, 0].T)[..., None, None])
    torch.testing.assert_close(first(vector[..., None, None]), wanted)


def test_a_vector_has_as_many_layers_as_a_picture_and_no_weight_for_its_grid() -> None:
    count = {
        grid: sum(p.numel() for p in Pictures((4, 6), grid).build((5,)).parameters())
        for grid in ((1, 1), (4, 4), (2, 3))
    }
    layers = 5 * 4 + 2 * 4 + 4 * 6 + 2 * 6  # matrices, scales and shifts
    assert set(count.values()) == {layers}
    picture = Pictures((4, 6)).build((8, 8))
    assert sum(p.numel() for p in picture.parameters()) == 9 * (1 * 4 + 4 * 6) + 2 * (4 + 6)


# Equal places -------------------------------------------------------------------------------------


def test_a_vector_is_the_same_at_all_places_and_a_picture_is_not() -> None:
    net, batch = Streams(BASE["modalities"], BASE["backbone"]).double().eval(), samples()
    (picture, vector), _ = net.maps(batch)
    assert picture.shape == vector.shape == (6, 8, 4, 4)
    assert torch.equal(vector, vector[..., :1, :1].expand_as(vector))
    assert not torch.equal(picture, picture[..., :1, :1].expand_as(picture))
    assert bool((vector[:, :, 0, 0].std(0) > 0).any()), "samples differ"
    stream = net.streams[1]
    torch.testing.assert_close(stream.code(vector), vector[..., 0, 0], rtol=1e-12, atol=0)
    cells, _ = net.cells(batch)
    assert cells.shape == (2, 6, 16, 8)


def twins(other: tuple[int, int]) -> tuple[Any, Any]:
    """Two networks of two vectors with the same weights, one on a single place, one on a grid of these."""
    shapes = (("voice", (13,)), ("speech", (5,)))
    nets = []
    for grid in ((1, 1), other):
        torch.manual_seed(2)
        config = replace(CROSS, modalities=shapes, backbone=Pictures((4, 6, 8), grid), read="mean")
        nets.append(config.build().double().eval())
    nets[1].load_state_dict(nets[0].state_dict())
    return nets[0], nets[1]


@pytest.mark.parametrize("grid", [(4, 4), (2, 3), (1, 5)])
def test_attention_to_equal_places_is_attention_to_one(
    monkeypatch: pytest.MonkeyPatch, grid: tuple[int, int]
) -> None:
    one, many = twins(grid)
    batch = samples(shapes={"voice": (13,), "speech": (5,)})
    positions = mult.positions
    assert not torch.allclose(one.predict(batch), many.predict(batch)), (
        "positions tell places apart"
    )
    monkeypatch.setattr(mult, "positions", lambda *args: 0 * positions(*args))
    torch.testing.assert_close(many.predict(batch), one.predict(batch), rtol=1e-10, atol=1e-12)
    uneven = torch.rand(2, 6, grid[0] * grid[1], 8).double()
    told = many.fusion(uneven), one.fusion(uneven[:, :, :1])
    assert not torch.allclose(*told), "what is not the same everywhere does count"


# Gradients, and what is missing -------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_every_weight_and_every_number_of_a_sample_gets_a_gradient(name: str) -> None:
    stream = Pictures((8, 8, 8)).build(SHAPES[name]).double().train()
    x = samples(16).x[name].requires_grad_()
    code = stream.code(through(stream, x)[-1])
    (code * torch.randn_like(code)).sum().backward()
    for weight_name, weight in stream.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 1e-9, weight_name
    assert x.grad is not None
    assert bool((x.grad.abs().amax(0) > 1e-12).all())


def test_a_vectors_gradient_is_that_of_one_place() -> None:
    found = []
    for grid in ((1, 1), (4, 4)):
        torch.manual_seed(3)
        stream = Pictures((4, 6), grid).build((5,)).double().train()
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(4)).double()
        stream.code(through(stream, x)[-1]).pow(2).sum().backward()
        found.append([p.grad for p in stream.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS)
def test_all_methods_fuse_a_picture_with_a_vector(config: Any) -> None:
    net = config.build().double().eval()
    seen = torch.tensor([[True, True], [True, False], [False, True]]).repeat(2, 1)
    batch = samples().with_observed(seen)
    answer = net.predict(batch)
    assert answer.shape == (6, 3) and bool(answer.isfinite().all())
    hidden = {m: torch.where(batch.rows(m), x, 1e3) for m, x in batch.x.items()}
    assert torch.equal(net.predict(replace(batch, x=hidden)), answer)
    assert not torch.allclose(net.predict(samples())[1:3], answer[1:3]), "what is there counts"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Pictures(()), r"widths must be one number of maps a stage, each at least 1, got \(\)"),
        (lambda: Pictures((4, 0)), r"each at least 1, got \(4, 0\)"),
        (lambda: Pictures().build((3, 8, 8)), r"shape \(H, W\), a vector \(N,\), got \(3, 8, 8\)"),
        (lambda: Pictures().build(()), r"a picture must have shape \(H, W\), a vector \(N,\), got \(\)"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def test_another_grid_than_that_of_pictures_is_refused_where_cells_meet() -> None:
    net = replace(CROSS, backbone=Pictures((4, 6, 8), (2, 2))).build().double().eval()
    with pytest.raises(ValueError, match=r"maps of one shape, got \(8, 4, 4\), \(8, 2, 2\)"):
        net.predict(samples())
