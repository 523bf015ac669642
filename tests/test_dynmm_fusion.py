"""DynMM, fusion level: skipped stages change nothing but the time; weights mean what they say."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.dynmm_fusion import (
    PATHS,
    VOID,
    FusionConfig,
    FusionNet,
    depth_costs,
    fuse_of,
    fused,
    median_frequency,
    nyu,
    paths_of,
    pixel_loss,
)
from labkit.models.gates import Relaxation, one_path, random_paths
from labkit.models.rgbd import CELLS, Double, Sizes
from labkit.train import TrainConfig, fit

SMALL = FusionConfig(Sizes(
    5, (32, 48), stem=4, maps=(4, 8, 8, 8), context=8, decoder=(8, 8, 4), bins=(1, 2)
))  # fmt: skip


def pictures(n: int = 10, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(-1, 5, (n, 32, 48), generator=generator)
    return Batch(
        {"rgb": torch.rand(n, 3, 32, 48, generator=generator),
         "depth": 6 * torch.rand(n, 1, 32, 48, generator=generator)}, y=y,
    )  # fmt: skip


def built(config: FusionConfig = SMALL, seed: int = 0) -> FusionNet:
    torch.manual_seed(seed)
    net = config.build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net.eval().requires_grad_(False)


def mixed(net: FusionNet, batch: Batch, fuse: Tensor) -> Tensor:
    logits: Tensor = net.mixed(*net.start(batch), fuse)[0]
    return logits


# Routed and mixed ------------------------------------------------------------------------------------


PATTERNS = {
    **{f"path {k}": torch.full((10,), k) for k in range(PATHS)},
    "mixed": torch.arange(10) * 3 % PATHS,
    "mixed, no 4": torch.arange(10) % 3,
}


@pytest.mark.parametrize("name", PATTERNS)
def test_routed_is_mixed_with_one_path(name: str) -> None:
    net, batch, fuse = built(), pictures(), fuse_of(PATTERNS[name])
    torch.testing.assert_close(
        net.answer(batch, fuse).logits, mixed(net, batch, fuse), atol=1e-5, rtol=1e-5
    )


def test_any_pattern_of_cells_can_be_routed_also_those_no_path_has() -> None:
    net, batch = built(), pictures(16)
    fuse = (torch.arange(16)[:, None] >> torch.arange(4) & 1).float()
    torch.testing.assert_close(
        net.answer(batch, fuse).logits, mixed(net, batch, fuse), atol=1e-5, rtol=1e-5
    )
    said = mixed(net, batch[torch.zeros(16, dtype=torch.long)], fuse)
    assert len({round(float(each.abs().sum()), 3) for each in said}) == 16, "all patterns differ"


def test_depth_runs_for_the_pictures_that_need_it_alone() -> None:
    net, rows = built(), [list[int]() for _ in range(CELLS)]
    for stage, seen in zip(net.depth.stages, rows, strict=True):  # type: ignore[union-attr]
        stage.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
    path = torch.tensor([0, 3, 1, 1, 4, 0, 0, 2, 3, 0])
    net.answer(pictures(), fuse_of(path))
    assert rows == [[6], [4], [3], [1]]
    for seen in rows:
        seen.clear()
    net.answer(pictures(), fuse_of(torch.zeros(10, dtype=torch.long)))
    assert rows == [[], [], [], []]


def test_the_static_network_is_path_4_and_path_0_knows_depth_from_the_first_layer_alone() -> None:
    net, batch = built(), pictures()
    static = built(replace(SMALL, path=4))
    static.load_state_dict({k: v for k, v in net.state_dict().items() if "gate" not in k})
    always = fuse_of(torch.full((10,), 4))
    torch.testing.assert_close(static.answer(batch).logits, net.answer(batch, always).logits)
    net.requires_grad_(True)
    logits = mixed(net, batch, fuse_of(torch.zeros(10, dtype=torch.long)))
    named = dict(net.named_parameters())
    slopes = torch.autograd.grad(logits.square().sum(), list(named.values()), allow_unused=True)
    reached = {
        name for name, s in zip(named, slopes, strict=True) if s is not None and s.abs().sum() > 0
    }
    assert any(name.startswith("depth.stem") for name in reached)
    assert not any(name.startswith(("depth.stages", "cells")) for name in reached)


def test_with_an_open_first_layer_path_0_sees_no_depth() -> None:
    net, batch = built(replace(SMALL, first=False)), pictures()
    other = Batch({"rgb": batch.x["rgb"], "depth": batch.x["depth"] + 3}, y=batch.y)
    at = {k: fuse_of(torch.full((10,), k)) for k in range(PATHS)}
    assert torch.equal(net.answer(batch, at[0]).logits, net.answer(other, at[0]).logits)
    for k in range(1, PATHS):
        assert not torch.allclose(net.answer(batch, at[k]).logits, net.answer(other, at[k]).logits)
    chosen = net.choose(*net.start(batch)), net.choose(*net.start(other))
    assert not torch.allclose(*chosen), "the gate sees depth all the same"
    fused_first = built(SMALL)
    assert not torch.allclose(
        fused_first.answer(batch, at[0]).logits, fused_first.answer(other, at[0]).logits
    )


def test_without_depth_depth_is_not_read() -> None:
    net, batch = built(replace(SMALL, depth=False, path=0)), pictures()
    assert not any(name.startswith(("depth", "first", "cells")) for name in net.state_dict())
    alone = net.answer(batch.only("rgb")).logits
    assert alone.shape == (10, 5, 32, 48)
    assert torch.equal(net.answer(batch).logits, alone)
    early = built(replace(SMALL, path=2))
    assert len(early.cells) == 2
    with pytest.raises(ValueError, match="fuse must be 0 beyond the network's 2 cells"):
        early.answer(batch, fuse_of(torch.full((10,), 3)))


# The gate ----------------------------------------------------------------------------------------------


def test_weights_of_paths_are_shares_of_fusion() -> None:
    g = torch.randn(7, PATHS, generator=torch.Generator().manual_seed(0)).softmax(-1)
    share = fused(g)
    w = 1 - share
    torch.testing.assert_close(w[:, 0], g[:, 0])
    torch.testing.assert_close(w[:, 1], g[:, 0] + g[:, 1])
    torch.testing.assert_close(w[:, 2], g[:, 0] + g[:, 1] + g[:, 2])
    torch.testing.assert_close(share[:, 3], g[:, 4])
    assert (w.diff(dim=1) >= 0).all()
    torch.testing.assert_close(paths_of(share), g)
    torch.testing.assert_close(fused(torch.eye(PATHS)), fuse_of(torch.arange(PATHS)))


def test_depth_runs_as_far_as_the_last_cell_that_fuses() -> None:
    fuse = torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]])
    assert paths_of(fuse).argmax(-1).tolist() == [3, 1, 0, 4]


def test_the_gate_chooses_and_free_cells_choose_by_themselves() -> None:
    batch = pictures()
    for gate in ("global", "cells"):
        net = built(replace(SMALL, gate=gate))
        logits = net.choose(*net.start(batch))
        said = net.answer(batch)
        if gate == "global":
            torch.testing.assert_close(said.fuse, fuse_of(logits.argmax(-1)))
        else:
            torch.testing.assert_close(said.fuse, (logits[..., 0] > logits[..., 1]).float())
        torch.testing.assert_close(said.logits, mixed(net, batch, said.fuse), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("resource", ["official", "madds"])
def test_costs_are_expected_costs_and_pull_towards_the_shallow(resource: Any) -> None:
    config = replace(SMALL, resource=resource, weight=1.0, side=False)
    net = config.build().eval()
    weights = torch.randn(10, PATHS, requires_grad=True)
    net.choose = lambda *_: weights  # type: ignore[method-assign]
    batch, generator = pictures(), torch.Generator()
    total, parts = net.loss(batch, 0, generator)
    costs = torch.tensor(depth_costs(config))
    chosen = one_path(weights).mean(0)
    torch.testing.assert_close(parts["cost"], (chosen * costs).sum() / costs[-1])
    spent = (chosen * costs).mean() if resource == "official" else parts["cost"]
    torch.testing.assert_close(total.detach(), parts["task"] + spent)
    slope = torch.autograd.grad((paths_of(fused(weights.softmax(-1))) @ costs).mean(), weights)[
        0
    ].mean(0)
    assert slope[4] > 0 > slope[0]


def test_costs_rise_with_the_path_and_are_those_of_what_runs() -> None:
    costs = depth_costs(SMALL)
    assert len(costs) == PATHS and all(a < b for a, b in itertools.pairwise(costs))
    assert costs == depth_costs(replace(SMALL, path=2)), "of any network of these sizes"
    torch.testing.assert_close(built().costs, torch.tensor(costs))


def test_exploring_reaches_every_stage_and_does_not_teach_the_gate() -> None:
    net = replace(SMALL, relaxation=Relaxation(hard=False, explore=5)).build().train()
    for step, taught in ((4, False), (5, True)):
        net.zero_grad()
        net.loss(pictures(), step, torch.Generator().manual_seed(1))[0].backward()
        slopes = [p.grad for name, p in net.named_parameters() if name.startswith("gate")]
        assert any(s is not None and s.abs().sum() > 0 for s in slopes) is taught
        last = net.depth.stages[-1][0].body[0][0].weight.grad  # type: ignore[union-attr,index]
        assert last is not None and last.abs().sum() > 0


@pytest.mark.parametrize("gate", ["global", "cells"])
def test_it_learns(gate: Any) -> None:
    batch = pictures(16)
    y = (batch.x["rgb"][:, 0] > 0.5).long() + 2 * (batch.x["depth"][:, 0] > 3).long()
    net = replace(SMALL, gate=gate).build()
    history = fit(net, replace(batch, y=y), TrainConfig(12, 8, 1e-2), progress=False)
    assert history.train["task"][-1] < 0.8 * history.train["task"][0]


# Loss ----------------------------------------------------------------------------------------------------


def test_void_pixels_count_nowhere_and_rare_classes_more() -> None:
    y = pictures(4).y
    assert y is not None
    logits, balance = torch.randn(4, 5, 32, 48), torch.tensor([1.0, 2, 3, 4, 5])
    keep = y != VOID
    by_hand = nn.functional.cross_entropy(
        logits.permute(0, 2, 3, 1)[keep], y[keep], balance, reduction="mean"
    )
    torch.testing.assert_close(pixel_loss(logits, y, balance), by_hand)
    other = logits.clone()
    other.permute(0, 2, 3, 1)[~keep] = 100.0
    torch.testing.assert_close(pixel_loss(other, y, balance), by_hand)
    assert pixel_loss(logits, torch.full_like(y, VOID), balance) == 0
    half = pixel_loss(logits[..., ::2, ::2], y, balance)
    torch.testing.assert_close(half, pixel_loss(logits[..., ::2, ::2], y[:, 1::2, 1::2], balance))


def test_median_frequency_by_hand() -> None:
    y = torch.full((2, 2, 4), VOID)
    y[0] = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]])  # class 0: 6 of 8, class 1: 2 of 8
    y[1] = torch.tensor([[0, 0, 2, 2], [2, 2, 2, 2]])  # class 0: 2 of 8, class 2: 6 of 8
    shares = [8 / 16, 2 / 8, 6 / 8]
    assert median_frequency(y, 4) == pytest.approx((1.0, 2.0, 0.5 / shares[2], 0.0))


def test_doubling_starts_as_bilinear_inside() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    double = Double(1).requires_grad_(False)
    wanted = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(double(x)[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "none"}, "gate must be 'global' or 'cells'"),
        ({"path": 5}, "path must be None or 0 to 4, got 5"),
        ({"depth": False}, "path must be 0 without depth, got None"),
        ({"resource": "watt"}, "resource must be 'official' or 'madds'"),
        ({"balance": (1.0, 2.0)}, "balance must have 5 weights, got 2"),
        ({"weight": -1.0}, "weight must be at least 0"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_pictures_that_cannot_be_halved_are_named() -> None:
    with pytest.raises(ValueError, match="size must be multiples of 16"):
        Sizes(size=(30, 48))


def test_the_papers_network_has_its_parts() -> None:
    with torch.device("meta"):
        net = nyu().build()
    assert [len(stage) for stage in net.colour.stages] == [3, 4, 6, 3]  # type: ignore[arg-type]
    assert net.shapes == {"rgb": (3, 480, 640), "depth": (1, 480, 640)}
    encoder = sum(p.numel() for p in net.colour.parameters())
    assert encoder == 23_508_032, "ResNet-50 without its classifier"
    assert random_paths(torch.zeros(3, PATHS), torch.Generator()).shape == (3, 5)


# On a GPU ---------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_on_a_device_losses_and_answers_are_those_of_the_cpu(device: str) -> None:
    net, batch, path = built(), pictures(), PATTERNS["mixed"]

    def on(place: str) -> list[Tensor]:
        there, here = copy.deepcopy(net).to(place), batch.to(place)
        with torch.no_grad():
            loss, parts = there.loss(here, 0, torch.Generator(place))
            routed = there.answer(here, fuse_of(path.to(place))).logits
            found = [routed, there.choose(*there.start(here)), loss, parts["cost"]]
        assert all(each.device.type == place for each in found)
        return [each.cpu() for each in found]

    torch.testing.assert_close(on(device), on("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gate", ["global", "cells"])
def test_a_gate_trains_on_a_device_through_all_its_stages(gate: str, device: str) -> None:
    relaxation = Relaxation(hard=False, explore=2, anneal=4)
    config = replace(SMALL, gate=gate, relaxation=relaxation, weight=0.1)  # type: ignore[arg-type]
    net, batch = config.build().to(device), pictures().to(device)
    history = fit(net, batch, TrainConfig(8, 10, 1e-2), progress=False)
    assert {"task", "cost", "fused", "total"} == history.train.keys()
    assert history.train["task"][-1] < history.train["task"][0]
    assert net.answer(batch).logits.device.type == device
