"""MAdds of what PyTorch's counter does not see: LSTMs, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.madds import counted
from labkit.models.backbones import Steps
from labkit.models.misa import Misa

STEPS, INPUTS, HIDDEN = 7, 3, 5
ONE_STEP = 4 * HIDDEN * (INPUTS + HIDDEN)  # four gates, each of what comes in and of what was said


class Reading(nn.Module):
    """An LSTM between two linear maps, and what goes wrong behind it."""

    def __init__(self, bidirectional: bool = False) -> None:
        super().__init__()
        self.before = nn.Linear(2, INPUTS)
        self.lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True, bidirectional=bidirectional)
        self.after = nn.Linear(HIDDEN * (2 if bidirectional else 1), 4)

    def forward(self, x: Tensor, fails: bool = False) -> Tensor:
        told, _ = self.lstm(self.before(x))
        if fails:
            raise RuntimeError("it went wrong")
        answer: Tensor = self.after(told[:, -1])
        return answer


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) for part in model.modules())


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstm_is_counted_by_steps_directions_and_samples(rows: int, bidirectional: bool) -> None:
    directions = 2 if bidirectional else 1
    lstm = nn.LSTM(INPUTS, HIDDEN, batch_first=True, bidirectional=bidirectional)
    x = torch.randn(rows, STEPS, INPUTS)
    assert counted(lambda: lstm(x), lstm) == rows * STEPS * directions * ONE_STEP
    assert counted(lambda: lstm(x)) == 0, "without a model nobody sees it"
    assert counted(lambda: [lstm(x), lstm(x)], lstm) == 2 * rows * STEPS * directions * ONE_STEP
    assert counted(lambda: None, lstm) == 0


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_comes_on_top_of_what_pytorch_counts(bidirectional: bool) -> None:
    model, x = Reading(bidirectional).eval(), torch.randn(2, STEPS, 2)
    directions = 2 if bidirectional else 1
    linear = 2 * (STEPS * 2 * INPUTS + directions * HIDDEN * 4)
    assert counted(lambda: model(x)) == linear
    assert counted(lambda: model(x), model) == linear + 2 * STEPS * directions * ONE_STEP
    assert counted(lambda: model(x), model.after) == linear, "of another model none"


def test_two_of_them_are_two() -> None:
    model = nn.ModuleList([
        nn.LSTM(INPUTS, HIDDEN, batch_first=True),
        nn.LSTM(HIDDEN, 2, batch_first=True),
    ])  # fmt: skip

    def run() -> Any:
        told, _ = model[0](torch.zeros(1, STEPS, INPUTS))
        return model[1](told[:, :3])

    assert counted(run, model) == STEPS * ONE_STEP + 3 * 4 * 2 * (HIDDEN + 2)


def test_misa_has_four_a_modality() -> None:
    """Two bidirectional ones, the second of which reads both directions of the first."""
    shapes = (("a", (6, 3)), ("b", (6, 2)))
    config = Misa(shapes, Steps((4,)), classes=3, inside=5, width=8, feed=16)
    net = config.build().eval()
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in shapes})
    outside = counted(lambda: net.predict(batch))
    lstms = 2 * 6 * 2 * 4 * 5 * ((4 + 5) + (10 + 5))
    assert counted(lambda: net.predict(batch), net) == outside + lstms


def test_nobody_listens_any_more_even_if_it_went_wrong() -> None:
    model, x = Reading(), torch.zeros(1, STEPS, 2)
    own: list[int] = []
    model.lstm.register_forward_hook(lambda *_: own.append(1))
    assert counted(lambda: model(x), model) > 0 and hooks(model) == 1
    with pytest.raises(RuntimeError, match="it went wrong"):
        counted(lambda: model(x, fails=True), model)
    assert hooks(model) == 1, "its own"
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ZeroDivisionError):
        counted(lambda: 1 // 0, model)
    assert hooks(model) == 1 and len(own) == 2 and torch.backends.mha.get_fastpath_enabled() == fast
    first, second = (counted(lambda: model(x), model) for _ in range(2))
    assert first == second, "nothing is left of the last count"
    assert model(x).requires_grad, "gradients are as they were"


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_layer_counts_and_time_may_come_first(bidirectional: bool) -> None:
    ways = 2 if bidirectional else 1
    first, second = 4 * 5 * (3 + 5), 4 * 5 * (ways * 5 + 5)
    net = nn.LSTM(3, 5, 2, bidirectional=bidirectional)
    assert counted(lambda: net(torch.zeros(4, 2, 3)), net) == 8 * ways * (first + second)
    with torch.device("meta"):
        bare = nn.LSTM(3, 5, 2, bidirectional=bidirectional)
    found = counted(lambda: bare(torch.empty(4, 2, 3, device="meta")), bare)
    assert found == 8 * ways * (first + second)
