"""Does a path that is not taken save time? Routed execution against running everything, for DynMM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor

from labkit import madds
from labkit.batch import Batch
from labkit.bench.timing import compare
from labkit.models import dynmm
from labkit.models.dynmm import DynMM, grouped
from labkit.models.dynmm_fusion import FusionConfig, FusionNet, depth_costs, fuse_of, nyu
from labkit.models.rgbd import Sizes

X = dict[str, Tensor]
DEAR = 0.16  # share of the dear expert in the paper's table 2, DynMM-a: (165.5 - 135.1) / (320.0 - 135.1)
SPENT = 19.5  # GMAdds of the depth encoder in the paper's table 3, DynMM-b


def shares_at(spent: float, costs: tuple[float, ...]) -> Tensor:
    """Shares of the paths with this mean cost, and otherwise as even as can be: p_k ~ exp(t C_k)."""
    c = torch.tensor(costs, dtype=torch.float64)
    tilt = brentq(lambda t: float((t * c).softmax(0) @ c) - spent, -10.0, 10.0)
    return (tilt * c).softmax(0)


def paths_at(shares: Tensor, rows: int) -> Tensor:
    """Paths of so many rows with these shares as nearly as can be, in mixed order, (rows,)."""
    ends = (shares.cumsum(0) * rows).round().long()
    paths = torch.bucketize(torch.arange(rows), ends, right=True)
    return paths[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]


@torch.no_grad()
def modality_level(rounds: int) -> dict[str, Any]:
    """The paper's experts and gates: samples grouped by expert, against both experts for all of them."""
    found: dict[str, Any] = {
        "what": "gate and experts at the paper's sizes, one thread, float32; everything: both experts for "
        "all samples, then a choice (the released code); routed: samples of one expert together. "
        "over_proportional: time over that of everything by the share of MAdds. MOSEI with the paper's share "
        f"of the dear expert, {DEAR:.0%}; MM-IMDB, whose cheap expert is the cheaper one, with none",
    }
    for name, config, share in (
        ("MOSEI", dynmm.sentiment(), DEAR),
        ("MM-IMDB", dynmm.movies(), 0.0),
    ):
        torch.manual_seed(0)
        model = config.build(*(expert.build() for expert in config.experts)).eval()
        experts = list(model.experts)
        for rows in (128, 512):
            x = {key: torch.randn(rows, *shape) for key, shape in model.shapes.items()}
            path = paths_at(torch.tensor([1 - share, share]), rows)

            def everything(x: X = x, path: Tensor = path, model: DynMM = model) -> Tensor:
                model.gate(x)
                each = torch.stack([expert(x) for expert in model.experts])
                return each[path, torch.arange(len(path))]

            def routed(
                x: X = x, path: Tensor = path, model: DynMM = model, experts: Any = experts
            ) -> Tensor:
                model.gate(x)
                return grouped(experts, x, path)

            torch.testing.assert_close(routed(), everything(), rtol=1e-4, atol=1e-4)
            few = rounds if name == "MM-IMDB" else max(rounds // 3, 3)  # MOSEI: seconds a round
            found[f"{name}, {rows} samples, {share:.0%} dear"] = _against(everything, routed, few)
    return found


@torch.no_grad()
def fusion_level(rounds: int) -> dict[str, Any]:
    """A teaching-size network on 96 x 128 pictures: depth's stages for those that need them, against all."""
    torch.manual_seed(0)
    sizes = Sizes(10, (96, 128))
    net = FusionNet(FusionConfig(sizes)).eval()
    costs = depth_costs(nyu())
    shares = shares_at(SPENT, costs)
    found: dict[str, Any] = {
        "what": "teaching size, pictures of 96 x 128, one thread, float32; everything: all stages of depth "
        "for all pictures (the released code); routed: stages for the pictures that need them. Shares of the "
        f"paths: as even as the paper's {SPENT} GMAdds of the depth encoder (DynMM-b) allow",
        "shares": [round(float(share), 3) for share in shares],
    }
    for rows in (128, 512):
        batch = Batch({"rgb": torch.rand(rows, 3, 96, 128), "depth": torch.rand(rows, 1, 96, 128)})
        paths = {
            "the paper's cost": paths_at(shares, rows),
            "all shallow": torch.zeros(rows).long(),
        }
        for name, path in paths.items():
            fuse = fuse_of(path)

            def everything(batch: Batch = batch, fuse: Tensor = fuse) -> Tensor:
                colour, depth = net.start(batch)
                net.choose(colour, depth)
                logits: Tensor = net.mixed(colour, depth, fuse)[0]
                return logits

            def routed(batch: Batch = batch, fuse: Tensor = fuse) -> Tensor:
                colour, depth = net.start(batch)
                net.choose(colour, depth)
                return net.routed(colour, depth, fuse)

            torch.testing.assert_close(routed(), everything(), rtol=1e-3, atol=1e-4)
            found[f"{rows} pictures, {name}"] = _against(everything, routed, max(rounds // 3, 3))
    return found


def _against(
    everything: Callable[[], Tensor], routed: Callable[[], Tensor], rounds: int
) -> dict[str, Any]:
    share = madds.counted(routed) / madds.counted(everything)
    row = compare({"everything": everything, "routed": routed}, rounds)
    times = row["ratio"]["everything"]
    return row | {"madds_share": round(share, 4), "over_proportional": round(1 / times / share, 3)}
