"""Experts: networks of some modalities that answer by themselves, and differ in what they cost.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, section 4; released code:
    github.com/zihuixue/DynMM, on layers of MultiBench (Liang et al., NeurIPS 2021). Differs: padding is
    neither attended to nor read out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch

Kind = Literal["mlp", "maxout", "transformer"]
Task = Literal["labels", "classes", "number"]

# Networks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """Encoders of some modalities, whose codes lie side by side, and a head on them.

    Args:
        modalities: Name and shape of each; transformers want (steps, channels), others read a vector.
        kind: ``mlp``; ``maxout``: the larger of two linear maps, batch-normalised, dropout 0.3; or
            ``transformer``: of a sequence, read out at its last step.
        widths: Of the layers of each modality's encoder, the last of which is followed by no ReLU; () = no
            encoder; of transformers just its one width.
        head: Widths between the codes and the answer.
        outputs: Numbers of the answer.
        early: One encoder reads all modalities, their channels side by side.
        layers: Of transformers.
        heads: Of their attention.
        inside: Width of their feed-forward networks.
        dropout: In transformers.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    modalities: tuple[tuple[str, tuple[int, ...]], ...]
    kind: Kind
    widths: tuple[tuple[int, ...], ...]
    head: tuple[int, ...] = ()
    outputs: int = 1
    early: bool = False
    layers: int = 5
    heads: int = 5
    inside: int = 2048
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in ("mlp", "maxout", "transformer"):
            raise ValueError(f"kind must be mlp, maxout or transformer, got {self.kind!r}")
        encoders = 1 if self.early else len(self.modalities)
        if not self.modalities or len(self.widths) != encoders:
            raise ValueError(f"widths must be given for {encoders} encoders, got {self.widths}")
        if self.kind == "transformer":
            for name, shape in self.modalities:
                if len(shape) != 2:
                    raise ValueError(
                        f"{name} must be (steps, channels) for a transformer, got {shape}"
                    )
            if len({shape[0] for _, shape in self.modalities}) > 1:
                raise ValueError(f"modalities must have as many steps, got {dict(self.modalities)}")
            for widths in self.widths:
                if len(widths) != 1 or widths[0] % self.heads:
                    raise ValueError(
                        f"a transformer has one width, a multiple of heads ({self.heads}); got {self.widths}"
                    )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of a sample of each modality."""
        return dict(self.modalities)

    def build(self) -> NetworkNet:
        """The untrained network."""
        return NetworkNet(self)


class NetworkNet(nn.Module):
    """Modalities in, numbers out; `Network` says how."""

    def __init__(self, config: Network) -> None:
        super().__init__()
        self.config, self.shapes = config, config.shapes
        flat = config.kind != "transformer"
        inputs = [math.prod(shape) if flat else shape[-1] for _, shape in config.modalities]
        if config.early:
            inputs = [sum(inputs)]
        self.encoders = nn.ModuleList(
            _encoder(config, n, widths) for n, widths in zip(inputs, config.widths, strict=True)
        )
        code = sum((n, *widths)[-1] for n, widths in zip(inputs, config.widths, strict=True))
        self.head = _mlp((code, *config.head, config.outputs))
        self.joined = config.early and config.widths == ((),)
        if self.joined:
            self.head[0] = Joined(code, (*config.head, config.outputs)[0])

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Modality -> (B, ...), of which others are not read; gives (B, outputs)."""
        parts = [x[name] for name in self.shapes]
        if self.config.kind != "transformer":
            parts = [part.flatten(1) for part in parts]
        if self.joined:
            said: Tensor = self.head(parts)
            return said
        if self.config.early:
            parts = [torch.cat(parts, -1)]
        codes = [encoder(part) for encoder, part in zip(self.encoders, parts, strict=True)]
        answer: Tensor = self.head(torch.cat(codes, -1))
        return answer


def _encoder(config: Network, inputs: int, widths: tuple[int, ...]) -> nn.Module:
    if config.kind == "mlp":
        return _mlp((inputs, *widths))
    if config.kind == "transformer":
        return Sequence2Code(config, inputs, widths[0])
    layers: list[nn.Module] = [nn.BatchNorm1d(inputs)]
    for before, after in itertools.pairwise((inputs, *widths)):
        layers += [Maxout(before, after), nn.BatchNorm1d(after), nn.Dropout(0.3)]
    return nn.Sequential(*layers)


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Joined(nn.Linear):
    """A linear map of vectors side by side, without putting them there: no copy of what a gate reads."""

    def forward(self, parts: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Several of (B, ...), together of `in_features`, -> (B, out_features)."""
        out: Tensor = self.bias
        weights = self.weight.split([part.shape[-1] for part in parts], 1)
        for part, weight in zip(parts, weights, strict=True):
            out = torch.addmm(out, part, weight.mT)
        return out


class Maxout(nn.Module):
    """The larger of two linear maps, number by number (Goodfellow et al., "Maxout Networks", ICML 2013)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        return self.linear(x).unflatten(-1, (-1, 2)).amax(-1)


class Sequence2Code(nn.Module):
    """A transformer encoder of a sequence, read out at the last step that is no padding.

    Steps at the end that are 0 in all channels are padding.
    """

    def __init__(self, config: Network, inputs: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv1d(inputs, width, 1, bias=False)
        layer = nn.TransformerEncoderLayer(
            width, config.heads, config.inside, config.dropout, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, channels) -> (B, width)."""
        steps = torch.arange(x.shape[1], device=x.device)
        last = torch.where((x != 0).any(-1), steps, 0).amax(1)  # (B,)
        code = self.project(x.transpose(1, 2)).transpose(1, 2)
        code = self.layers(code, src_key_padding_mask=steps > last[:, None])
        return code[torch.arange(len(x), device=x.device), last]


# Experts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expert:
    """A network that answers by itself.

    Args:
        network: What it reads, and how.
        task: ``labels``: several may hold at once, cross-entropy of each; ``classes``: one of them holds,
            cross-entropy; ``number``: absolute error.
    """

    network: Network
    task: Task = "labels"

    def __post_init__(self) -> None:
        if self.task not in ("labels", "classes", "number"):
            raise ValueError(f"task must be labels, classes or number, got {self.task!r}")

    def build(self) -> ExpertNet:
        """The untrained expert."""
        return ExpertNet(self)


class ExpertNet(NetworkNet):
    """An expert and its loss."""

    def __init__(self, config: Expert) -> None:
        super().__init__(config.network)
        self.expert = config

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The task's loss, and as parts nothing else."""
        x = batch.only(*self.shapes).aligned(self.shapes).x
        return task_loss(self.expert.task, self(x), batch.y), {}


def task_loss(task: Task, logits: Tensor, y: Tensor | None) -> Tensor:
    """Mean loss of logits (..., B, K), one for each of what leads them.

    Args:
        task: As `Expert`.
        logits: (..., B, K).
        y: ``labels`` (B, K), 0 or 1; ``classes`` (B,), int64; ``number`` (B,).

    Raises:
        ValueError: without labels.
    """
    if y is None:
        raise ValueError("batch.y is None: an expert is trained on labels")
    rows = logits.shape[:-1]
    if task == "classes":
        wanted = y.expand(rows).flatten()
        each = F.cross_entropy(logits.flatten(0, -2).float(), wanted, reduction="none")
        return each.view(rows).mean(-1)
    if task == "number":
        return (logits[..., 0] - y).abs().mean(-1)
    wanted = y.to(logits).expand(logits.shape)
    each = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return each.mean((-1, -2))
