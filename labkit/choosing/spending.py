"""What a choice costs at the paper's sizes: multiply-adds part by part, and time on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit import madds
from labkit.choosing.reading import Values
from labkit.models import dynmm
from labkit.models.dynmm import DynmmConfig, grouped
from labkit.models.experts import Network

# The bill -----------------------------------------------------------------------------------------

PAPER = {  # million MAdds of one expert and the gate, as the released code has them
    "MM-IMDB": {"E1": 1.25261, "E2": 10.86908, "both": 12.1},  # both: DynMM-d, table 1
    "MOSEI": {"E1": 135.13226, "E2": 320.03205},
}


@lru_cache(maxsize=1)
def bills() -> dict[str, dict[str, list[madds.Line]]]:
    """Bills of one sample at the paper's sizes: data set -> ``E1``, ``E2``, ``gate`` -> lines."""
    configs: dict[str, DynmmConfig] = {"MM-IMDB": dynmm.movies(), "MOSEI": dynmm.sentiment()}
    return {
        name: {
            which: lines_of(network)
            for which, network in zip(
                ("E1", "E2", "gate"),
                (*(expert.network for expert in config.experts), config.gate),
                strict=True,
            )
        }
        for name, config in configs.items()
    }


def lines_of(network: Network) -> list[madds.Line]:
    """The bill of one sample, its parts named by what they are: text encoder, head."""
    with torch.device("meta"):
        net = network.build().eval()
    lines = madds.bill(net, lambda: net(madds.meta_inputs(net.shapes)))
    names = ["encoder"] if network.early else [f"{name} encoder" for name in network.shapes]
    return [
        line._replace(
            part=names[int(line.part.split(".")[1])] if line.part.startswith("encoders") else "head"
        )
        for line in lines
    ]


# The clock ----------------------------------------------------------------------------------------

SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the dear expert, at which is timed


class Times(NamedTuple):
    """Milliseconds of a batch.

    Attributes:
        everyone: Gate and both experts for all samples, then a choice.
        routed: At `SHARES`: the gate, then each sample's expert, samples of one expert together.
        promised: At `SHARES`: what `everyone` takes, by the share of MAdds that `routed` needs.
    """

    everyone: float
    routed: Values
    promised: Values


@lru_cache(maxsize=8)
def clocked(rows: int, budget_s: float = 1.5) -> Times:
    """Time MM-IMDB's gate and experts at the paper's size; medians of at least 3 rounds, kept.

    Args:
        rows: Samples of the batch.
        budget_s: No round begins after it.
    """
    config = dynmm.movies()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = config.build(*(expert.build() for expert in config.experts)).eval()
        x = {name: torch.randn(rows, *shape) for name, shape in model.shapes.items()}
        order = torch.randperm(rows)
    paths = [(order < round(share * rows)).long() for share in SHARES]
    experts = list(model.experts)

    def everyone() -> Tensor:
        path = model.gate(x).argmax(-1)
        each = torch.stack([expert(x) for expert in experts])
        return each[path, torch.arange(rows)]

    def grouped_by(path: Tensor) -> Callable[[], Tensor]:
        def run() -> Tensor:
            model.gate(x).argmax(-1)  # it has to be asked, whatever the path is here
            return grouped(experts, x, path)

        return run

    ways: list[Callable[[], Tensor]] = [everyone, *map(grouped_by, paths)]
    taken: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        for way in ways:
            way()
        begun = time.perf_counter()
        while len(taken[0]) < 3 or time.perf_counter() - begun < budget_s:
            for way, seconds in zip(ways, taken, strict=True):
                start = time.perf_counter()
                way()
                seconds.append(time.perf_counter() - start)
    whole, *parts = (1e3 * statistics.median(seconds) for seconds in taken)
    return Times(whole, np.array(parts), whole * promised_share())


def promised_share(shares: Sequence[float] = SHARES) -> Values:
    """MAdds of routed over those of everything, MM-IMDB at the paper's size: products alone."""
    cheap, dear, gate = (madds.total(bills()["MM-IMDB"][name]) for name in ("E1", "E2", "gate"))
    found = [(gate + (1 - r) * cheap + r * dear) / (gate + cheap + dear) for r in shares]
    return np.array(found)
