"""A training that is looked at is the training it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.train import TrainConfig, fit
from labkit.watching import Watched


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.y is not None
        return nn.functional.cross_entropy(self.body(batch.x["a"]), batch.y), {}


def samples() -> Batch:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    return Batch({"a": x}, y=(x[:, 0] > 0).long())


def trained(looks: Any) -> Net:
    net = Net()
    fit(Watched(net, looks), samples(), TrainConfig(3, 4, 1e-2), seed=2, progress=False)
    return net


def test_looks_come_before_their_steps_and_change_nothing() -> None:
    seen: list[tuple[int, bool]] = []
    plain = trained({})

    def look(step: int) -> None:
        watched[0].eval()
        seen.append((step, bool((watched[0].body[0].weight == first).all())))

    watched = [Net()]
    first = watched[0].body[0].weight.detach().clone()
    fit(
        Watched(watched[0], {0: look, 5: look, 99: look}), samples(), TrainConfig(3, 4, 1e-2), seed=2,
        progress=False,
    )  # fmt: skip
    assert seen == [(0, True), (5, False)], "before the first step nothing has moved"
    for one, other in zip(plain.parameters(), watched[0].parameters(), strict=True):
        assert torch.equal(one, other), "dropout is on again after a look in eval mode"


def test_nobody_looks_outside_of_training() -> None:
    net = Watched(Net(), {0: lambda step: 1 / 0})
    net.eval()
    loss, _ = net.loss(samples(), 0, torch.Generator())
    assert bool(loss.isfinite())
