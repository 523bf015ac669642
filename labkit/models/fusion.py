r"""Fusion by the book: one modality alone, late, early, by cross-attention, on streams that all share.

``Single`` reads one stream. ``Late`` is the mean of all streams' logits: a sum :math:`f(x_1) + g(x_2)`, which
no product of the two can come out of. ``Early`` lets one network read all codes side by side, which can
come by a product, but has to learn it. ``CrossAttention`` (MulT) lets every cell of one stream's last maps
attend to all cells of the other.

Source:
    As compared in the released code of X-Norm, github.com/ihp-lab/XNorm (Yin, Xu, Zu & Soleymani, ICMI 2022).
    MulT: Tsai et al., ACL 2019 (`labkit.models.mult`). Differs: MulT attends without a mask and reads the
    mean or the last cell (the released code masks the future and then reads cell 0, which has seen one of
    98) and has no dropout behind ReLU and residuals; its streams are trained like all others (there they are
    frozen).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.mult import MulT, Read
from labkit.models.streams import Answering, Bench, head, mean_of


@dataclass(frozen=True)
class Single(Bench):
    """One modality alone.

    Args:
        only: Its name.

    Raises:
        ValueError: on a name that is not among the modalities, or if it is to be hidden.
    """

    only: str = "rgb"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.only not in dict(self.modalities):
            raise ValueError(
                f"only must be one of {', '.join(dict(self.modalities))}; got {self.only!r}"
            )
        if self.hide:
            raise ValueError(f"hide must be 0 where one modality is read, got {self.hide}")

    def build(self) -> SingleNet:
        """The untrained network."""
        return SingleNet(self)


class SingleNet(Answering):
    """One stream and its head."""

    def __init__(self, config: Single) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams((config.only,))
        self.head = head(self.streams.width, config)

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        codes, _ = self.streams(batch)
        answer: Tensor = self.head(codes[0])
        return answer


@dataclass(frozen=True)
class Late(Bench):
    """The mean of all streams' logits.

    Args:
        weights: Of each stream's logits; () = all alike. Those of what is missing are taken out.

    Raises:
        ValueError: on another number of weights than of modalities, one below 0, or zeros alone.
    """

    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        given, count = self.weights, len(self.modalities)
        if given and (len(given) != count or min(given) < 0 or not sum(given) > 0):
            raise ValueError(
                f"weights must be {count} numbers of at least 0, not all 0, or none; got {given}"
            )

    def build(self) -> LateNet:
        """The untrained network."""
        return LateNet(self)


class LateNet(Answering):
    """Streams, each with a head."""

    def __init__(self, config: Late) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        self.heads = nn.ModuleList(head(self.streams.width, config) for _ in config.modalities)
        self.weights = config.weights or (1.0,) * len(config.modalities)

    def logits(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Logits of each stream, (B, K), and what is observed, (B, M)."""
        codes, observed = self.streams(batch)
        return [net(code) for net, code in zip(self.heads, codes, strict=True)], observed

    def predict(self, batch: Batch) -> Tensor:
        """Weighted mean of the logits of what is observed, (B, K)."""
        logits, observed = self.logits(batch)
        return mean_of(logits, self.weights, observed)


@dataclass(frozen=True)
class Early(Bench):
    """One head reads all codes, side by side."""

    def build(self) -> EarlyNet:
        """The untrained network."""
        return EarlyNet(self)


class EarlyNet(Answering):
    """Streams and one head."""

    def __init__(self, config: Early) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        self.head = head(len(config.modalities) * self.streams.width, config)

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K); the code of what is missing is zeros."""
        codes, _ = self.streams(batch)
        answer: Tensor = self.head(torch.cat(codes, 1))
        return answer


@dataclass(frozen=True)
class CrossAttention(Bench):
    """MulT on the cells of the streams' last maps, in raster order.

    Args:
        width: D of the projected cells, divisible by 2 and by `heads`.
        layers: Of the cross-modal encoders; memories have at least 3.
        heads: Of the attention.
        attend_dropout: Of attention weights.
        embed_dropout: Of what enters.
        causal: A cell attends to no later one: wrong for cells of space and time, and what the code does.
        read: Which cells are read: the ``last``, the ``first`` (as the code does), or the ``mean`` of all.
    """

    width: int = 16
    layers: int = 2
    heads: int = 4
    attend_dropout: float = 0.1
    embed_dropout: float = 0.25
    causal: bool = False
    read: Read = "mean"

    def build(self) -> CrossAttentionNet:
        """The untrained network.

        Raises:
            ValueError: if a number does not divide; the message names it.
        """
        return CrossAttentionNet(self)


class CrossAttentionNet(Answering):
    """Streams, projections without bias, and `MulT`."""

    def __init__(self, config: CrossAttention) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        maps = self.streams.widths[-1]
        self.projections = nn.ModuleList(
            nn.Linear(maps, config.width, bias=False) for _ in config.modalities
        )
        self.fusion = MulT(
            len(config.modalities), config.width, config.layers, config.outputs, config.heads,
            config.attend_dropout, config.embed_dropout, config.dropout, config.causal, config.read,
        )  # fmt: skip

    def cells(self, batch: Batch) -> Tensor:
        """What attends, (M, B, cells, D); zeros where a modality is missing."""
        cells, _ = self.streams.cells(batch)
        return torch.stack([net(x) for net, x in zip(self.projections, cells, strict=True)])

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        answer: Tensor = self.fusion(self.cells(batch))
        return answer
