"""A training that is looked at while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from labkit.batch import Batch


class Watched(nn.Module):
    """A network that is looked at before some steps of its training; `labkit.train.fit` takes it as its own.

    Args:
        net: Has a `loss`.
        looks: Step -> what is called with it, which may put the network in eval mode.
    """

    def __init__(self, net: Any, looks: Mapping[int, Callable[[int], None]]) -> None:
        super().__init__()
        self.net, self._looks = net, looks

    def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
        """The network's own loss."""
        if self.training and step in self._looks:
            self._looks[step](step)
            self.net.train()
        return self.net.loss(batch, step, generator)
