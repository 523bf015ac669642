"""MAdds: the paper's constants to the last printed digit, and two counts that agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labkit import madds
from labkit.models import dynmm
from labkit.models.dynmm_fusion import FusionNet, depth_costs, nyu
from labkit.models.experts import Network

MOVIES, SENTIMENT = dynmm.movies(), dynmm.sentiment()
NETWORKS = {  # as counted by thop for one sample: text, all modalities, gate
    "MM-IMDB": (MOVIES, (689_664, 10_306_136, 562_944)),
    "MOSEI": (SENTIMENT, (124_687_744, 309_587_528, 10_444_520)),
}


def networks(config: dynmm.DynmmConfig) -> tuple[Network, ...]:
    return (*(expert.network for expert in config.experts), config.gate)


def lines_of(network: Network, rows: int = 1) -> list[madds.Line]:
    with torch.device("meta"):
        net = network.build().eval()
    return madds.bill(net, lambda: net(madds.meta_inputs(net.shapes, rows)))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_papers_constants_of_modality_level(name: str) -> None:
    config, wanted = NETWORKS[name]
    found = [madds.total(lines_of(network), madds.THOP) for network in networks(config)]
    assert tuple(found) == wanted
    cheap, dear, gate = found
    assert (round((cheap + gate) / 1e6, 5), round((dear + gate) / 1e6, 5)) == config.costs


def test_what_the_paper_leaves_out_is_attention() -> None:
    missing = [madds.total(lines_of(network), ("attention",)) for network in networks(SENTIMENT)]
    assert missing == [17_400_000, 39_900_000, 350_000]  # 14 %, 13 % and 3 %


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_pytorch_counts_the_same_products(name: str, rows: int) -> None:
    for network in networks(NETWORKS[name][0]):
        net = network.build().eval()
        x = {key: torch.randn(rows, *shape) for key, shape in net.shapes.items()}
        assert madds.counted(lambda net=net, x=x: net(x)) == madds.total(lines_of(network, rows))


def test_the_papers_constants_of_fusion_level() -> None:
    costs = depth_costs(nyu())
    assert [round(c, 8) for c in costs] == [
        0.2506752,
        4.39420573,
        10.72382115,
        19.71582947,
        24.679084,
    ]


def run_of(net: FusionNet) -> Callable[[], None]:
    rgb, depth = torch.empty(1, 3, 480, 640), torch.empty(1, 1, 480, 640)

    def run() -> None:
        colour, deep = net.colour.stem(rgb), net.depth.stem(depth)  # type: ignore[union-attr]
        colour = net.first(colour, deep)  # type: ignore[misc]
        colour, deep = (F.max_pool2d(each, 3, 2, 1) for each in (colour, deep))
        net.choose(colour, deep)
        net.mixed(colour, deep, torch.empty(1, 4))

    return run


def test_the_papers_total_is_that_of_a_lighter_decoder() -> None:
    light, trained = nyu((128, 128, 128)), nyu()
    found = []
    for config in (light, trained):
        with torch.device("meta"):
            net = FusionNet(config).eval()
            found.append(madds.bill(net, run_of(net)))
    assert madds.total(found[0], madds.THOP) == 57_013_874_200
    gate = madds.total([line for line in found[0] if line.part.startswith("gate")], madds.THOP)
    assert gate == 117_545_392
    assert madds.total(found[1], madds.THOP) == 65_679_832_600


def test_a_bill_has_a_line_for_each_layer_each_time_it_runs() -> None:
    layer = nn.Linear(3, 4)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2)).eval()
    lines = madds.bill(model, lambda: [model(torch.zeros(5, 3)) for _ in range(2)])
    assert lines[:3] == [("0", "linear", 60), ("2", "linear", 40), ("3", "batch norm", 20)]
    assert len(lines) == 6
    frame = madds.table(lines)
    assert frame.loc["0", "linear"] == 120 and frame.loc["3", "batch norm"] == 40
    again = madds.bill(model, lambda: None)
    assert not again, "nobody listens any more"
    assert torch.backends.mha.get_fastpath_enabled()


def test_convolutions_count_groups_bias_and_stride() -> None:
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
    with torch.device("meta"):
        x = torch.empty(2, 4, 6, 6)
    lines = madds.bill(conv.to("meta"), lambda: conv(x))
    out = 2 * 8 * 3 * 3
    assert lines == [("", "conv", out * 2 * 9), ("", "bias", out)]
