"""What an answer costs: multiply-adds, counted layer by layer, and what a count leaves out.

One multiply-add is one multiplication whose result is added to a sum. `bill` listens to a model while it
answers and writes a line for each layer; `total` adds up the lines of the kinds that one wants to count.
`counted` is the independent count of all matrix products by PyTorch itself. Nothing has to be computed for a
bill: on the device ``meta`` the largest model costs nothing.

The paper counts by thop, that is `THOP`: linear maps and convolutions that are modules of their own, with
biases of convolutions, two a number for batch normalisation, and means over a grid. Attention is no module of
these kinds, so that it is left out, its projections included.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, tables 1 to 4; released code:
    github.com/zihuixue/DynMM, count_flop.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Kind = Literal["linear", "conv", "attention", "bias", "batch norm", "layer norm", "pooling"]
PRODUCTS: tuple[Kind, ...] = ("linear", "conv", "attention")  # what a matrix unit does
THOP: tuple[Kind, ...] = ("linear", "conv", "bias", "batch norm", "pooling")


class Line(NamedTuple):
    """One entry of a bill.

    Attributes:
        part: Name of the module.
        kind: What it does.
        madds: Of the whole batch.
    """

    part: str
    kind: Kind
    madds: int


def bill(model: nn.Module, run: Callable[[], Any]) -> list[Line]:
    """One line for each layer that runs, each time it runs.

    Args:
        model: Whose layers are listened to.
        run: Lets it answer; in eval mode and without gradients.
    """
    lines: list[Line] = []
    with _listening(model, lines), torch.no_grad():
        run()
    return lines


@contextmanager
def _listening(model: nn.Module, lines: list[Line]) -> Iterator[None]:
    inside = {
        id(child) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for child in m.children()
    }  # fmt: skip
    handles = [
        module.register_forward_hook(_listener(name, lines), with_kwargs=True)
        for name, module in model.named_modules()
        if id(module) not in inside
    ]
    try:
        with plain_attention():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as modules and matrix products: PyTorch's fast ways pass by modules and the counter."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _listener(name: str, lines: list[Line]) -> Callable[..., None]:
    def listen(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], out: Any) -> None:
        lines.extend(Line(name, kind, n) for kind, n in _madds(module, args, out) if n)

    return listen


def _madds(module: nn.Module, args: Sequence[Any], out: Any) -> Iterator[tuple[Kind, int]]:
    if isinstance(module, nn.Linear):
        yield "linear", out.numel() * module.in_features
    elif isinstance(module, nn.Conv1d | nn.Conv2d):
        yield "conv", out.numel() * module.weight[0].numel()
        yield "bias", out.numel() if module.bias is not None else 0
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        yield "batch norm", 2 * out.numel()
    elif isinstance(module, nn.LayerNorm):
        yield "layer norm", 2 * out.numel()
    elif isinstance(module, nn.AdaptiveAvgPool2d):
        yield "pooling", (args[0].numel() // out.numel() + 1) * out.numel()
    elif isinstance(module, nn.MultiheadAttention):
        query, key = args[0], args[1]
        batch, steps, width = query.shape
        projections = width**2 * (2 * query.shape[1] + 2 * key.shape[1])
        yield "attention", batch * (projections + 2 * steps * key.shape[1] * width)


def total(lines: Sequence[Line], kinds: Collection[Kind] = PRODUCTS) -> int:
    """MAdds of the lines of these kinds."""
    return sum(line.madds for line in lines if line.kind in kinds)


def table(lines: Sequence[Line]) -> pd.DataFrame:
    """The bill by part and kind, MAdds of parts that ran more than once added up."""
    frame = pd.DataFrame(lines, columns=["part", "kind", "madds"])
    return frame.pivot_table(
        index="part", columns="kind", values="madds", aggfunc="sum", sort=False
    )


def counted(run: Callable[[], Any], model: nn.Module | None = None) -> int:
    """MAdds of all matrix products and convolutions that run, as PyTorch counts them (half its FLOPs).

    Args:
        run: What runs, on one sample.
        model: Whose LSTMs are counted, too: these PyTorch's counter does not see.
    """
    inside = [0]

    def listen(lstm: nn.LSTM, given: tuple[Tensor, ...], told: Any) -> None:
        if given[0].device.type == "meta":
            return  # there it is made of products that are counted
        ways, width = 2 if lstm.bidirectional else 1, lstm.hidden_size
        reads = lstm.input_size + (lstm.num_layers - 1) * ways * width + lstm.num_layers * width
        steps = given[0].shape[:-1].numel()  # of all samples
        inside[0] += steps * ways * 4 * width * reads

    found = [part for part in model.modules() if isinstance(part, nn.LSTM)] if model else []
    hooks = [lstm.register_forward_hook(listen) for lstm in found]
    try:
        with plain_attention(), FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return int(counter.get_total_flops()) // 2 + inside[0]


def meta_inputs(shapes: dict[str, tuple[int, ...]], rows: int = 1) -> dict[str, Tensor]:
    """Samples without content, to bill a model on the device ``meta``."""
    return {name: torch.empty(rows, *shape, device="meta") for name, shape in shapes.items()}
