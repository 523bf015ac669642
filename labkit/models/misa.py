r"""MISA: what is said twice and what is said once, in spaces of their own.

Each modality's sequence becomes one vector, and that is seen twice: by one encoder that all modalities share,
and by a private one. Shared codes shall be distributed alike (`cmd`), private ones tell other things
than shared ones and each other (`difference`), and both together give the vector back. A transformer looks at
all codes before the answer.

.. math:: L = L_{task} + \alpha\, L_{sim} + \beta\, L_{diff} + \gamma\, L_{recon}

Source:
    Hazarika, Zimmermann & Poria, "MISA: Modality-Invariant and -Specific Representations for Multimodal
    Sentiment Analysis", ACM MM 2020; as in X-Norm's comparison (github.com/ihp-lab/XNorm, networks/misa.py),
    the weights MMSA's for MOSI (github.com/thuiar/MMSA). Differs: the vectors that are to be given back are
    no goal that moves (`Misa.moving`): there all codes can shrink to constants, which are given back and
    alike at no cost (notebook 08 measures what is learnt, with trained streams; the released ones are
    frozen). Constants are alike and have nothing in common whatever the goal does: if it stands still, the
    reconstruction alone holds codes open (notebook 09, *MISA, bare*). The lengths in `difference` have a
    gradient; the distance of moments has one where it is 0; codes of missing modalities reach nothing;
    streams are trained like all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.predictor import task
from labkit.models.streams import Answering, Bench

MOMENTS = 5


def cmd(one: Tensor, other: Tensor, moments: int = MOMENTS) -> Tensor:
    """Central moment discrepancy of two sets of samples (B, D): distances of means and of central moments.

    Source: Zellinger et al., "Central Moment Discrepancy (CMD) for Domain-Invariant Representation Learning",
    ICLR 2017, without the scaling by the interval.
    """
    means = one.mean(0), other.mean(0)
    centred = one - means[0], other - means[1]
    found = _distance(*means)
    for k in range(2, moments + 1):
        found = found + _distance(*(each.pow(k).mean(0) for each in centred))
    return found


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Euclidean distance whose gradient is 0 where it is 0."""
    squared = (one - other).square().sum()
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared inner product of two spaces' dimensions, over samples (B, D) centred and of length 1."""
    one, other = (
        x / (x.norm(dim=1, keepdim=True) + 1e-6) for x in (one - one.mean(0), other - other.mean(0))
    )
    return (one.T @ other).square().mean()


@dataclass(frozen=True)
class Misa(Bench):
    """Sequences of cells, private and shared codes, and a transformer over these.

    Args:
        inside: Width of each direction of the two LSTMs.
        width: D of the codes, a multiple of `heads`.
        heads: Of the transformer's attention.
        feed: Width of its feed-forward network.
        similar: Weight of the distance of the shared codes' moments.
        differ: Weight of what private codes have in common with others.
        recover: Weight of the reconstruction.
        moving: Its gradient reaches the vector that is to be given back, too, as in the published code.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    inside: int = 32
    width: int = 32
    heads: int = 2
    feed: int = 128
    similar: float = 0.3
    differ: float = 0.1
    recover: float = 1.0
    moving: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("inside", "width", "heads", "feed"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        for name in ("similar", "differ", "recover"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    def build(self) -> MisaNet:
        """The untrained network."""
        return MisaNet(self)


class Codes(NamedTuple):
    """Of each modality, (M, B, D): its vector, the private and the shared code, the vector given back."""

    vector: Tensor
    private: Tensor
    shared: Tensor
    recovered: Tensor


class MisaNet(Answering):
    """Network of a `Misa`."""

    def __init__(self, config: Misa) -> None:
        super().__init__()
        self.config = config
        self.streams = config.streams()
        count, width = len(config.modalities), config.width
        self.readers = nn.ModuleList(
            Reader(self.streams.widths[-1], config.inside, width) for _ in range(count)
        )
        self.private = nn.ModuleList(_coder(width) for _ in range(count))
        self.shared = _coder(width)
        self.recover = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
        self.attend = nn.TransformerEncoderLayer(
            width, config.heads, config.feed, config.dropout, batch_first=True
        )
        self.answer = nn.Sequential(
            nn.Linear(2 * count * width, count * width), nn.Dropout(config.dropout), nn.ReLU(),
            nn.Linear(count * width, config.outputs),
        )  # fmt: skip

    def codes(self, batch: Batch) -> tuple[Codes, Tensor]:
        """Codes of all modalities, and what is observed, (B, M)."""
        cells, observed = self.streams.cells(batch)
        vectors = [reader(x) for reader, x in zip(self.readers, cells, strict=True)]
        private = [net(v) for net, v in zip(self.private, vectors, strict=True)]
        shared = [self.shared(v) for v in vectors]
        back = [net(p + s) for net, p, s in zip(self.recover, private, shared, strict=True)]
        return Codes(*(torch.stack(each) for each in (vectors, private, shared, back))), observed

    def answered(self, codes: Codes, observed: Tensor) -> Tensor:
        """Logits (B, K) from the codes of what is observed."""
        tokens = torch.cat((codes.private, codes.shared)).transpose(0, 1)  # (B, 2 M, D)
        missing = ~torch.cat((observed, observed), 1)
        told = self.attend(tokens, src_key_padding_mask=missing)
        told = torch.where(missing[..., None], 0.0, told)
        answer: Tensor = self.answer(told.flatten(1))
        return answer

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        return self.answered(*self.codes(batch))

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the task and of the three conditions, which count for complete samples alone.

        Returns:
            The loss; detached parts ``task``, ``similar``, ``differ``, ``recover``, and of the task.
        """
        batch = self.partly(batch, generator)
        codes, observed = self.codes(batch)
        answer, parts = task(self.answered(codes, observed).float(), batch)
        conditions = {name: answer.new_zeros(()) for name in ("similar", "differ", "recover")}
        whole = observed.all(1)
        if bool(whole.any()):
            conditions = self.conditions(Codes(*(each[:, whole].float() for each in codes)))
        total = answer
        for name, value in conditions.items():
            total = total + getattr(self.config, name) * value
        return total, {
            "task": answer.detach(),
            **{k: v.detach() for k, v in conditions.items()},
            **parts,
        }

    def conditions(self, codes: Codes) -> dict[str, Tensor]:
        """How far shared codes are from alike, private ones from different, and vectors from recovered."""
        pairs = list(combinations(range(len(codes.vector)), 2))
        similar = torch.stack([cmd(codes.shared[i], codes.shared[j]) for i, j in pairs])
        apart = [difference(p, s) for p, s in zip(codes.private, codes.shared, strict=True)]
        apart += [difference(codes.private[i], codes.private[j]) for i, j in pairs]
        goal = codes.vector if self.config.moving else codes.vector.detach()
        recover = (codes.recovered - goal).square().mean()
        return {"similar": similar.mean(), "differ": torch.stack(apart).sum(), "recover": recover}


class Reader(nn.Module):
    """Two bidirectional LSTMs, one on the other, whose last states become one vector.

    Args:
        cells: Numbers of a cell.
        inside: Width of each direction.
        width: Numbers of the vector.
    """

    def __init__(self, cells: int, inside: int, width: int) -> None:
        super().__init__()
        self.first = nn.LSTM(cells, inside, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * inside)
        self.second = nn.LSTM(2 * inside, inside, batch_first=True, bidirectional=True)
        self.project = nn.Sequential(nn.Linear(4 * inside, width), nn.ReLU(), nn.LayerNorm(width))

    def forward(self, cells: Tensor) -> Tensor:
        """(B, cells, numbers) -> (B, width)."""
        told, (one, _) = self.first(cells)
        _, (two, _) = self.second(self.norm(told))
        vector: Tensor = self.project(torch.cat((one, two)).transpose(0, 1).flatten(1))
        return vector


def _coder(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
