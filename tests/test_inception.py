"""Inception-v1 I3D: published shapes, costs and names; TensorFlow's padding; whole checkpoints or none."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from labkit import LabkitError
from labkit.madds import counted
from labkit.models.fusion import Late
from labkit.models.inception import (
    MIXED,
    Inception,
    InceptionNet,
    Pool,
    Unit,
    endpoints,
    load_kinetics,
    pad_same,
    same,
)

TABLE = {  # of 16 frames of 224 x 224
    "Conv3d_1a_7x7": (64, 8, 112, 112),
    "MaxPool3d_2a_3x3": (64, 8, 56, 56),
    "Conv3d_2b_1x1": (64, 8, 56, 56),
    "Conv3d_2c_3x3": (192, 8, 56, 56),
    "MaxPool3d_3a_3x3": (192, 8, 28, 28),
    "Mixed_3b": (256, 8, 28, 28),
    "Mixed_3c": (480, 8, 28, 28),
    "MaxPool3d_4a_3x3": (480, 4, 14, 14),
    "Mixed_4b": (512, 4, 14, 14),
    "Mixed_4c": (512, 4, 14, 14),
    "Mixed_4d": (512, 4, 14, 14),
    "Mixed_4e": (528, 4, 14, 14),
    "Mixed_4f": (832, 4, 14, 14),
    "MaxPool3d_5a_2x2": (832, 2, 7, 7),
    "Mixed_5b": (832, 2, 7, 7),
    "Mixed_5c": (1024, 2, 7, 7),
}
COLOURS = {"rgb": 3, "flow": 2}
EXCHANGE = 5_512_192  # weights of X-Norm's three exchanges, in both directions


@cache
def net_of(colours: int = 3, seed: int = 0) -> InceptionNet:
    """A network with statistics of its own, in eval mode; whoever changes it takes a copy."""
    torch.manual_seed(seed)
    net = Inception(8, dropout=0.0).build((colours, 16, 64, 64))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.15, 0.35)  # type: ignore[union-attr]
    return net.eval()


def clips(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_meta(colours: int, width: int = 128) -> tuple[InceptionNet, Tensor]:
    shape = (colours, 16, 224, 224)
    with torch.device("meta"):
        return Inception(width).build(shape).eval(), torch.empty(1, *shape)


def numbers(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


# The published network ------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [3, 2])
def test_the_table_of_16_frames(colours: int) -> None:
    net, x = on_meta(colours)
    found = endpoints(net, x)
    assert {name: tuple(maps.shape[1:]) for name, maps in found.items()} == TABLE
    assert list(found) == list(TABLE), "in order"
    maps, ends = net.enter(x), []
    for stage in net.stages:
        maps = stage(maps)
        ends.append(tuple(maps.shape[1:]))
    assert ends == [TABLE[name] for name in ("Mixed_3b", "Mixed_4d", "Mixed_5c")]
    assert net.widths == tuple(end[0] for end in ends) == (256, 512, 1024)
    assert net.code(maps).shape == net(x).shape == (1, 128)
    assert net.width == 128


def weights_by_formula(colours: int, width: int) -> int:
    """Of all layers: filters without bias and two numbers a map for normalisation; a bias at the end."""
    units = [(colours, 64, 7), (64, 64, 1), (64, 192, 3)]
    inputs = 192
    for b0, b1a, b1b, b2a, b2b, b3b in MIXED.values():
        units += [(inputs, b0, 1), (inputs, b1a, 1), (b1a, b1b, 3), (inputs, b2a, 1), (b2a, b2b, 3)]
        units += [(inputs, b3b, 1)]
        inputs = b0 + b1b + b2b + b3b
    return sum(i * o * k**3 + 2 * o for i, o, k in units) + (inputs + 1) * width


def test_numbers_of_weights_are_the_published_ones() -> None:
    found = {name: numbers(on_meta(c)[0]) for name, c in COLOURS.items()}
    assert found == {name: weights_by_formula(c, 128) for name, c in COLOURS.items()}
    head = numbers(nn.Linear(128, 128), nn.Linear(128, 128), nn.Linear(128, 8))
    alone = {name: n + head for name, n in found.items()}
    assert alone == {"rgb": 12_452_520, "flow": 12_430_568}  # 12.45 M and 12.43 M
    late = sum(alone.values())
    assert (round(late / 1e6, 2), round((late + EXCHANGE) / 1e6, 2)) == (24.88, 30.40)
    widths = on_meta(3)[0].widths
    assert 2 * sum((c + 1) * 2 * c for c in widths) == EXCHANGE
    kinetics = numbers(on_meta(3, width=400)[0])
    assert kinetics == weights_by_formula(3, 400) == 12_697_264
    assert kinetics - 1025 * 400 == 12_287_264, "12.29 M without the logits"


def test_costs_are_the_published_ones() -> None:
    found = {}
    for name, colours in COLOURS.items():
        net, x = on_meta(colours)
        found[name] = counted(partial(net, x))
    assert {name: round(n / 1e9, 1) for name, n in found.items()} == {"rgb": 27.8, "flow": 25.6}
    both = sum(found.values())
    assert round(both / 1e9, 2) == 53.37
    sites = [TABLE[name] for name in ("Mixed_3b", "Mixed_4d", "Mixed_5c")]
    exchange = 2 * sum(2 * c * c * math.prod(grid) for c, *grid in sites)
    assert round((both + exchange) / 1e9, 2) == 56.25


@pytest.mark.parametrize(
    ("shape", "grid"),
    [((16, 64, 64), (2, 2, 2)), ((5, 33, 50), (1, 2, 2)), ((1, 1, 1), (1, 1, 1)),
     ((64, 256, 224), (8, 8, 7))],
)  # fmt: skip
def test_clips_of_any_size_have_one_code(
    shape: tuple[int, int, int], grid: tuple[int, int, int]
) -> None:
    with torch.device("meta"):
        net, x = Inception(8).build((3, *shape)).eval(), torch.empty(2, 3, *shape)
    assert endpoints(net, x)["Mixed_5c"].shape == (2, 1024, *grid)
    assert net(x).shape == (2, 8)


@pytest.mark.parametrize("grid", [(2, 7, 7), (2, 2, 2), (1, 3, 7), (8, 7, 7), (3, 9, 8)])
def test_a_code_is_a_linear_map_of_means_over_windows(grid: tuple[int, int, int]) -> None:
    net, maps = net_of(), clips(3, 1024, *grid)
    starts = [range(max(n - k, 0) + 1) for n, k in zip(grid, (2, 7, 7), strict=True)]
    each = [
        maps[:, :, t : t + 2, h : h + 7, w : w + 7].mean((2, 3, 4))
        for t, h, w in itertools.product(*starts)
    ]
    weight, bias = net.logits.weight.flatten(1), net.logits.bias
    wanted = nn.functional.linear(torch.stack(each).mean(0), weight, bias)
    torch.testing.assert_close(net.code(maps), wanted)


def test_dropout_comes_before_the_last_layer_and_in_training_alone() -> None:
    net = Inception(8, dropout=0.9).build((3, 16, 64, 64))
    maps = torch.ones(512, 1024, 2, 2, 2)
    with torch.no_grad():
        net.logits.weight.fill_(1 / 1024)
        nn.init.constant_(net.get_parameter("logits.bias"), 7.0)
        codes, sure = net.train().code(maps), net.eval().code(maps)
    torch.testing.assert_close(sure, torch.full((512, 8), 8.0))
    assert codes.mean() == pytest.approx(8, abs=0.02), "bias and mean survive"
    assert codes.std() == pytest.approx(math.sqrt(0.9 / 0.1 / 1024), rel=0.2)


def test_constants_are_the_published_ones() -> None:
    assert Inception() == Inception(width=128, dropout=0.1)
    for module in net_of().modules():
        if isinstance(module, Unit):
            assert module.conv3d.bias is None
            assert (module.bn.eps, module.bn.momentum) == (1e-3, 0.01)


# Padding --------------------------------------------------------------------------------------------

SIZES = list(itertools.product(range(1, 20), (1, 2, 3, 5, 7), (1, 2, 3, 4)))


def test_same_gives_as_many_windows_as_strides() -> None:
    for n, k, s in SIZES:
        before, after = same(n, k, s)
        windows = (n + before + after - k) // s + 1
        assert windows == math.ceil(n / s), (n, k, s)
        assert after - before in (0, 1), (n, k, s)
        if k > s:  # and not one zero too many
            assert (windows - 1) * s + k == n + before + after, (n, k, s)


def test_zeros_are_those_of_the_released_code() -> None:
    for n, k, s in SIZES:
        rest = n % s
        assert sum(same(n, k, s)) == max(k - (rest if rest else s), 0), (n, k, s)
    assert same(224, 7, 2) == (2, 3), "the larger half last"


def test_axes_are_padded_each_on_its_own() -> None:
    x = torch.ones(1, 1, 4, 5, 6)
    padded = pad_same(x, (7, 3, 1), (2, 1, 1))
    assert padded.shape == (1, 1, 4 + 5, 5 + 2, 6)
    assert torch.equal(padded[:, :, 2:6, 1:6], x) and padded.sum() == x.sum()
    assert pad_same(x, (1, 1, 1), (2, 2, 2)) is x, "nothing is copied for nothing"


def windows_of(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]
) -> dict[tuple[int, ...], Tensor]:
    """TensorFlow's definition, cell by cell: of each window (C, *kernel), with zeros outside."""
    grid, kept = x.shape[1:], {}
    out = [-(-n // s) for n, s in zip(grid, stride, strict=True)]
    zeros = [
        max((o - 1) * s + k - n, 0) // 2
        for o, s, k, n in zip(out, stride, kernel, grid, strict=True)
    ]
    for at in itertools.product(*map(range, out)):
        window = x.new_zeros(x.shape[0], *kernel)
        for p, q, r in itertools.product(*map(range, kernel)):
            t, h, w = (
                a * s - z + i for a, s, z, i in zip(at, stride, zeros, (p, q, r), strict=True)
            )
            if 0 <= t < grid[0] and 0 <= h < grid[1] and 0 <= w < grid[2]:
                window[:, p, q, r] = x[:, t, h, w]
        kept[at] = window
    return kept


@pytest.mark.parametrize("grid", [(4, 6, 5), (3, 5, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1), (3, 2)])
def test_a_unit_is_convolution_normalisation_and_relu(
    kernel: int, stride: int, grid: tuple[int, int, int]
) -> None:
    unit, x = Unit(2, 3, kernel, stride).double().eval(), clips(2, *grid).double()
    with torch.no_grad():
        for each in (unit.bn.weight, unit.bn.bias, unit.bn.running_mean, unit.bn.running_var):
            assert each is not None
            each.copy_(torch.rand(3) + 0.1)
        found = unit(x[None])[0]
        seen = windows_of(x, (kernel,) * 3, (stride,) * 3)
        assert found.shape[1:] == tuple(-(-n // stride) for n in grid)
        assert unit.bn.running_mean is not None and unit.bn.running_var is not None
        for at, window in seen.items():
            sums = (unit.conv3d.weight * window).sum((1, 2, 3, 4))
            normal = (sums - unit.bn.running_mean) / (unit.bn.running_var + 1e-3).sqrt()
            wanted = (normal * unit.bn.weight + unit.bn.bias).clamp(min=0)
            torch.testing.assert_close(found[(slice(None), *at)], wanted)


@pytest.mark.parametrize("grid", [(4, 6, 5), (3, 5, 8)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)  # fmt: skip
def test_maxima_see_the_zeros_of_the_border(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], grid: tuple[int, int, int]
) -> None:
    pool, x = Pool(kernel, stride), clips(2, *grid)
    below = -x.abs() - 0.1
    for maps in (x, below):
        found = pool(maps[None])[0]
        for at, window in windows_of(maps, kernel, stride).items():
            assert torch.equal(found[(slice(None), *at)], window.amax((1, 2, 3)))
    padded = pad_same(below[None], kernel, stride).shape[2:] != grid
    assert bool((pool(below[None]) == 0).any()) is padded


def test_a_mixed_layer_is_four_branches_in_order() -> None:
    net, x = net_of(), clips(1, 192, 2, 4, 4)
    mixed = net.get_submodule("stages.0.Mixed_3b")
    found = mixed(x).split([64, 128, 32, 32], 1)
    b = dict(mixed.named_children())
    inner = nn.functional.max_pool3d(nn.functional.pad(x, (1,) * 6), 3, 1)
    wanted = b["b0"](x), b["b1b"](b["b1a"](x)), b["b2b"](b["b2a"](x)), b["b3b"](inner)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# Training -------------------------------------------------------------------------------------------


def test_gradient_reaches_all_weights_and_statistics_move() -> None:
    net, x = copy.deepcopy(net_of(2)).train(), clips(2, 2, 16, 64, 64)
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(x).square().sum().backward()
    still = [
        name for name, p in net.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0
    ]  # fmt: skip
    assert not still
    assert not [name for name, value in net.named_buffers() if torch.equal(value, before[name])]


def test_eval_gives_the_same_code_again_and_row_by_row() -> None:
    net, x = net_of(), clips(2, 3, 8, 32, 32)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        codes = net(x)
        assert torch.equal(codes, net(x))
        torch.testing.assert_close(net(x[1:]), codes[1:], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(codes[0], codes[1], rtol=1e-2), "and it depends on the clip"
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Inception(0), "width must be at least 1, got 0"),
        (lambda: Inception(dropout=1.0), "dropout must be at least 0 and below 1, got 1.0"),
        (lambda: Inception(dropout=-0.1), "dropout must be at least 0 and below 1, got -0.1"),
        (lambda: Inception().build((3, 224, 224)), r"shape must be \(colours, T, H, W\)"),
        (lambda: Inception().build((3, 0, 64, 64)), r"each at least 1; got \(3, 0, 64, 64\)"),
    ],
)
def test_wrong_arguments_are_named(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


# Weights of Kinetics --------------------------------------------------------------------------------

KNOWN = {  # some of the published names, in full
    "Conv3d_1a_7x7.conv3d.weight": (64, 3, 7, 7, 7),
    "Conv3d_1a_7x7.bn.weight": (64,),
    "Conv3d_1a_7x7.bn.bias": (64,),
    "Conv3d_1a_7x7.bn.running_mean": (64,),
    "Conv3d_1a_7x7.bn.running_var": (64,),
    "Conv3d_2b_1x1.conv3d.weight": (64, 64, 1, 1, 1),
    "Conv3d_2c_3x3.conv3d.weight": (192, 64, 3, 3, 3),
    "Mixed_3b.b0.conv3d.weight": (64, 192, 1, 1, 1),
    "Mixed_3b.b1a.conv3d.weight": (96, 192, 1, 1, 1),
    "Mixed_3b.b1b.conv3d.weight": (128, 96, 3, 3, 3),
    "Mixed_3b.b2a.bn.running_mean": (16,),
    "Mixed_3b.b2b.conv3d.weight": (32, 16, 3, 3, 3),
    "Mixed_3b.b3b.conv3d.weight": (32, 192, 1, 1, 1),
    "Mixed_4f.b1b.bn.bias": (320,),
    "Mixed_5c.b2b.conv3d.weight": (128, 48, 3, 3, 3),
    "logits.conv3d.weight": (400, 1024, 1, 1, 1),
    "logits.conv3d.bias": (400,),
}


def published(net: InceptionNet, old: bool = True) -> dict[str, Tensor]:
    """A checkpoint under the published names; an old one does not say how often statistics were gathered."""
    made = {
        name.removeprefix(f"stages.{i}."): value.clone()
        for i in range(3)
        for name, value in net.state_dict().items()
        if name.startswith(f"stages.{i}.") and not (old and name.endswith("num_batches_tracked"))
    }
    return made | {
        "logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400),
    }  # fmt: skip


def write(state: Any, path: Path) -> None:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:  # in 2018 files were no archives
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "old")


def test_a_checkpoint_has_the_published_names() -> None:
    state = published(net_of())
    assert {name: tuple(state[name].shape) for name in KNOWN} == KNOWN
    assert len(state) == 5 * (3 + 6 * 9) + 2


@pytest.mark.parametrize("file", ["old.pt", "new.pt", "any.safetensors"])
def test_a_checkpoint_is_taken_but_for_its_logits(file: str, tmp_path: Path) -> None:
    giver, net = net_of(seed=1), copy.deepcopy(net_of())
    last = net.logits.weight.clone(), net.logits.bias
    state = published(giver, old=file == "old.pt")
    write(state, tmp_path / file)
    load_kinetics(net, tmp_path / file)
    for name, value in published(net, old=file == "old.pt").items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(net.logits.weight, last[0]) and net.logits.bias is last[1]
    x = clips(1, 3, 4, 16, 16)
    torch.testing.assert_close(endpoints(net, x), endpoints(giver, x))


def test_both_streams_of_a_method_start_from_a_folder_of_checkpoints(tmp_path: Path) -> None:
    givers = {"rgb": net_of(3, seed=1), "flow": net_of(2, seed=1)}
    for name, giver in givers.items():
        write(published(giver), tmp_path / f"{name}_imagenet.pt")
    shapes = (("rgb", (3, 16, 64, 64)), ("flow", (2, 16, 64, 64)))
    net: Any = Late(shapes, Inception(kinetics=str(tmp_path)), 8).build()
    for stream, giver in zip(net.streams.each, givers.values(), strict=True):
        for name, value in giver.stages.state_dict().items():
            assert torch.equal(stream.stages.state_dict()[name], value), name
    with pytest.raises(LabkitError, match="none for a network of 1"):
        Inception(kinetics=str(tmp_path)).build((1, 16, 64, 64))
    with pytest.raises(LabkitError, match=r"rgb_imagenet\.pt: not there\. A network of 3 colours"):
        Inception(kinetics=str(tmp_path / "elsewhere")).build((3, 16, 64, 64))


Change = Callable[[dict[str, Tensor]], Any]
FLAWS: dict[str, tuple[Change, str]] = {
    "missing": (
        lambda s: s.pop("Mixed_4b.b1a.bn.running_var"), "found no Mixed_4b.b1a.bn.running_var. A"
    ),
    "without logits": (lambda s: s.pop("logits.conv3d.bias"), "found no logits.conv3d.bias. A"),
    "unexpected": (
        lambda s: s.update(fc=torch.zeros(1)), "found fc, which this network does not have. A"
    ),
    "misshapen": (
        lambda s: s.update({"Mixed_5c.b0.bn.bias": torch.zeros(9)}),
        "found Mixed_5c.b0.bn.bias of shape (9,), not (384,). A",
    ),
    "of other classes": (
        lambda s: s.update({"logits.conv3d.bias": torch.zeros(600)}),
        "found logits.conv3d.bias of shape (600,), not (400,). A",
    ),
    "empty": (
        lambda s: s.clear(),
        "found no Conv3d_1a_7x7.conv3d.weight; no Conv3d_1a_7x7.bn.weight; no Conv3d_1a_7x7.bn.bias; "
        "and 284 more. A",
    ),
}  # fmt: skip


def flawed(colours: int = 3) -> dict[str, Tensor]:
    """A checkpoint of zeros, each tensor one number on the disk."""
    state = published(net_of(colours))
    return {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_checkpoint_that_does_not_fit_is_named_and_nothing_is_taken(
    flaw: str, tmp_path: Path
) -> None:
    change, message = FLAWS[flaw]
    state, net = flawed(), net_of()
    change(state)
    torch.save(state, tmp_path / "rgb_imagenet.pt")
    with pytest.raises(LabkitError) as caught:
        load_kinetics(net, tmp_path / "rgb_imagenet.pt")
    assert f"rgb_imagenet.pt does not fit: {message} network of 3 colours" in str(caught.value)
    assert not [x for x in net.modules() if isinstance(x, nn.Conv3d) and not x.weight.any()], (
        "no zeros"
    )


def test_the_checkpoint_of_the_other_modality_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    torch.save(flawed(3), path)
    found = r"of shape \(64, 3, 7, 7, 7\), not \(64, 2, 7, 7, 7\)"
    with pytest.raises(LabkitError, match=found) as caught:
        load_kinetics(net_of(2), path)
    assert "A network of 2 colours starts from flow_imagenet.pt" in str(caught.value)
    with torch.device("meta"):
        grey = Inception().build((1, 16, 64, 64))
    with pytest.raises(LabkitError, match="3 colours or 2, and there is none for a network of 1"):
        load_kinetics(grey, path)


class Harmful:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_what_is_no_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    net = net_of()
    bad, trace = tmp_path / "bad.pt", tmp_path / "trace"

    def refused(path: Path, message: str) -> None:
        with pytest.raises(LabkitError, match=message) as caught:
            load_kinetics(net, path)
        assert str(path) in str(caught.value) and "rgb_imagenet.pt: get it" in str(caught.value)

    refused(bad, "bad.pt: not there")
    refused(tmp_path, "not there")
    for content in (b"", b"hello", b"PK\x03\x04 and no more"):
        bad.write_bytes(content)
        refused(bad, "no checkpoint that can be read")
    torch.save({"x": Harmful(trace)}, bad)
    refused(bad, "no checkpoint that can be read.*Nothing in it was run")
    assert not trace.exists()
    torch.save({"state_dict": {}, "epoch": 3}, bad)
    refused(bad, "no checkpoint: found dict of dict, int; allowed are tensors by name")
    torch.save([1.0], bad)
    refused(bad, "no checkpoint: found list; allowed are tensors by name")
    packed = tmp_path / "bad.safetensors"
    packed.write_bytes(b"hello")
    refused(packed, "no checkpoint that can be read")


# On a GPU -------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_on_a_device_layers_and_slopes_are_those_of_the_cpu(device: str) -> None:
    net, x = copy.deepcopy(net_of()).double(), clips(2, 3, 4, 16, 16).double()

    def on(place: str) -> list[Tensor]:
        there, here = copy.deepcopy(net).to(place), x.to(place)
        found = [*endpoints(there, here).values(), there(here)]
        found += torch.autograd.grad(found[-1].square().sum(), list(there.parameters()))
        assert all(each.device.type == place for each in found)
        return [each.detach().cpu() for each in found]

    torch.testing.assert_close(on(device), on("cpu"), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_in_half_precision_codes_are_near(device: str) -> None:
    net, x = copy.deepcopy(net_of()).to(device), clips(2, 3, 8, 32, 32).to(device)
    with torch.no_grad(), torch.autocast(device, torch.bfloat16):
        code = net(x)
    assert code.dtype == torch.bfloat16
    with torch.no_grad():
        torch.testing.assert_close(code.float(), net(x), rtol=0.02, atol=0.005)
