"""A predictor on sequences of several modalities: projected to one width, fused, answered.

What DiCMoR and the methods beside it share: they fill in what a missing modality's features would have been
and leave the answer to this network, which need not know that anything was missing. `Features` are what they
fill in. A modality that nobody filled in is zeros.

Source:
    The projections and, with ``fusion="mult"``, the fusion are those of Wang, Cui & Li, "Distribution-
    Consistent Modal Recovering for Incomplete Multimodal Learning", ICCV 2023 (released code:
    github.com/mdswyz/DiCMoR, dicmor.py). ``pooled`` is the small fusion of teaching size.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch, draw_patterns
from labkit.models.mult import MulT

Fusion = Literal["pooled", "mult"]


class Features(NamedTuple):
    """What modalities look like when all have one width.

    Attributes:
        x: (M, B, T, D); zeros where not observed.
        observed: (B, M) bool.
        length: (B,) steps that are no padding, at least 1.
    """

    x: Tensor
    observed: Tensor
    length: Tensor

    @property
    def valid(self) -> Tensor:
        """Steps that are no padding, (B, T) bool."""
        return torch.arange(self.x.shape[2], device=self.x.device) < self.length[:, None]

    def rows(self, visible: Tensor) -> Tensor:
        """Steps of a sample's visible modalities that are no padding: (B, M) bool -> (M, B, T) bool."""
        return visible.T[..., None] & self.valid


@dataclass(frozen=True)
class Predictor:
    """Projections, fusion and answer.

    Args:
        modalities: Name and channels of each modality.
        steps: T of the data.
        width: D; None = no projection: channels are features as they are.
        kernel: Steps that the projection, a convolution without bias or padding, sees at a time.
        fusion: ``pooled``: a network on every step, the mean over steps, a network on all of them; ``mult``:
            cross-modal transformers (`labkit.models.mult`).
        hidden: Width of the networks of ``pooled``.
        layers: Of the cross-modal encoders of ``mult``.
        heads: Of their attention.
        dropout: Of their attention weights.
        embed_dropout: Of what enters them.
        output_dropout: In the last layer.
        classes: Number of classes; None = the answer is a number.
        hide: Probability with which training hides each modality, one at least being kept; 0.5 shows all
            subsets equally often. That is "modality dropout". 0 = train on what is there.

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    modalities: tuple[tuple[str, int], ...]
    steps: int
    width: int | None = None
    kernel: int = 1
    fusion: Fusion = "pooled"
    hidden: int = 64
    layers: int = 4
    heads: int = 8
    dropout: float = 0.0
    embed_dropout: float = 0.0
    output_dropout: float = 0.0
    classes: int | None = 5
    hide: float = 0.0

    def __post_init__(self) -> None:
        names = [name for name, _ in self.modalities]
        if len(names) < 2 or len({*names}) < len(names):
            raise ValueError(f"modalities must be two or more of different names, got {names}")
        if not 1 <= self.kernel <= self.steps:
            raise ValueError(
                f"kernel must lie between 1 and steps ({self.steps}), got {self.kernel}"
            )
        if self.fusion not in ("pooled", "mult"):
            raise ValueError(f"fusion must be 'pooled' or 'mult', got {self.fusion!r}")
        for name, least in (("classes", 2), ("width", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be None or at least {least}, got {value}")
        if not 0 <= self.hide < 1:
            raise ValueError(f"hide must lie in [0, 1), got {self.hide}")
        widths = {channels for _, channels in self.modalities}
        if self.width is None and (len(widths) > 1 or self.kernel > 1):
            raise ValueError(
                f"width must be given where modalities have different channels ({sorted(widths)}) "
                f"or kernel is more than 1 ({self.kernel})"
            )

    @property
    def channels(self) -> int:
        """Width D of the features."""
        return self.modalities[0][1] if self.width is None else self.width

    @property
    def outputs(self) -> int:
        """Numbers of the answer."""
        return self.classes or 1

    def build(self, parent: PredictorNet | None = None) -> PredictorNet:
        """A new network; torch's random state sets its weights.

        Args:
            parent: Whose projections it takes over, and leaves as they are: so it reads the same features.
        """
        net = PredictorNet(self)
        if parent is not None:
            net.projections.load_state_dict(parent.projections.state_dict())
            net.projections.requires_grad_(False)
        return net


class PredictorNet(nn.Module):
    """Network of a `Predictor`."""

    def __init__(self, config: Predictor) -> None:
        super().__init__()
        self.config = config
        self.shapes = {name: (config.steps, channels) for name, channels in config.modalities}
        self.projections = nn.ModuleDict({
            name: nn.Conv1d(channels, config.width, config.kernel, bias=False)
            for name, channels in config.modalities if config.width
        })  # fmt: skip
        count = len(config.modalities)
        self.fusion: MulT | Pooled
        if config.fusion == "mult":
            self.fusion = MulT(
                count, config.channels, config.layers, config.outputs, config.heads,
                config.dropout, config.embed_dropout, config.output_dropout,
            )  # fmt: skip
        else:
            self.fusion = Pooled(
                count, config.channels, config.hidden, config.outputs, config.output_dropout
            )

    def features(self, batch: Batch) -> Features:
        """Project the modalities of a batch; what is not observed can reach nothing.

        A sequence ends with the last step at which one of the observed modalities is not all zeros; that
        its length is known from one that a method hides later on is taken as given.
        """
        batch = batch.aligned(self.shapes)
        values = [batch.x[name] for name in self.shapes]
        here = torch.stack([(x != 0).any(-1) for x in values]).any(0)  # (B, T)
        steps = torch.arange(1, self.config.steps + 1, device=here.device)
        length = (here * steps).amax(1).clamp(min=self.config.kernel) - (self.config.kernel - 1)
        if self.projections:
            projected = [
                net(x.mT).mT for net, x in zip(self.projections.values(), values, strict=True)
            ]
            values = projected
        return Features(torch.stack(values), batch.observed, length)

    def answer(self, x: Tensor, length: Tensor) -> Tensor:
        """Logits (B, classes), or numbers (B, 1), from features (M, B, T, D) of all modalities."""
        answer: Tensor = self.fusion(x, length)
        return answer.float()

    def predict(self, batch: Batch, visible: Tensor | None = None) -> Tensor:
        """Answer with zeros for whatever is not visible, (B, outputs).

        Args:
            batch: B samples.
            visible: (B, M) bool; only its observed part counts. None = all that is observed.
        """
        seen, visible = self.look(batch, visible)
        return self.answer(shown(seen.x, visible), seen.length)

    def look(self, batch: Batch, visible: Tensor | None = None) -> tuple[Features, Tensor]:
        """Features, and what of them is both visible and observed, (B, M).

        Raises:
            ValueError: if nothing is left of a row.
        """
        seen = self.features(batch)
        visible = seen.observed if visible is None else visible.to(seen.x.device) & seen.observed
        empty = ~visible.any(1)
        if bool(empty.any()):
            raise ValueError(
                f"visible leaves {int(empty.sum())} rows without any observed modality "
                f"(first: row {int(empty.nonzero()[0])})"
            )
        return seen, visible

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy with the labels, or the mean absolute error of the number."""
        seen = self.features(batch)
        visible = hidden(seen.observed, self.config.hide, generator)
        answer = self.answer(shown(seen.x, visible), seen.length)
        loss, parts = task(answer, batch)
        return loss, parts


class Pooled(nn.Module):
    """Fusion of teaching size: networks on each step, the mean over steps, a network on all modalities.

    Args:
        modalities: M.
        width: D.
        hidden: Width of both layers of each network.
        outputs: Numbers of the answer.
        dropout: Before the answer.
    """

    def __init__(
        self, modalities: int, width: int, hidden: int, outputs: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(modalities, width, hidden) * (2 / width) ** 0.5)
        self.b1 = nn.Parameter(torch.zeros(modalities, 1, hidden))
        self.w2 = nn.Parameter(torch.randn(modalities, hidden, hidden) * (2 / hidden) ** 0.5)
        self.b2 = nn.Parameter(torch.zeros(modalities, 1, hidden))
        self.head = nn.Sequential(
            nn.Linear(modalities * hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, features: Tensor, length: Tensor) -> Tensor:
        """(M, B, T, D), steps that count (B,) -> (B, outputs)."""
        shape = features.shape[:3]
        inner = torch.baddbmm(self.b1, features.flatten(1, 2), self.w1).relu_()
        inner = torch.baddbmm(self.b2, inner, self.w2).relu_().view(*shape, -1)
        valid = torch.arange(shape[2], device=length.device) < length[:, None]
        pooled = (inner * valid[..., None]).sum(2) / length[:, None]  # (M, B, hidden)
        answer: Tensor = self.head(pooled.transpose(0, 1).flatten(1))
        return answer


# What all who train on these share ------------------------------------------------------------------


def shown(x: Tensor, visible: Tensor) -> Tensor:
    """Features (M, B, T, D) with zeros where a modality is not visible (B, M)."""
    return torch.where(visible.T[..., None, None], x, 0.0)


def hidden(observed: Tensor, hide: float, generator: torch.Generator) -> Tensor:
    """Hide observed modalities (B, M) with probability `hide` each, never all of a row's."""
    if hide == 0:
        return observed
    return draw_patterns(torch.where(observed, hide, 1.0), generator).to(observed.device)


def moments(seen: Features, names: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each modality's channels over what is observed and no padding, (M, 1, 1, D) each.

    Raises:
        ValueError: if a modality (of `names`) is observed nowhere.
    """
    here = seen.rows(seen.observed)
    empty = [name for name, row in zip(names, here, strict=True) if not row.any()]
    if empty:
        raise ValueError(
            f"the first batch shows nothing of {', '.join(empty)}: it sets their scale"
        )
    rows = [x[row].float() for x, row in zip(seen.x, here, strict=True)]
    deviation = torch.stack([x.std(0, correction=0) for x in rows]).clamp(min=1e-3)
    return torch.stack([x.mean(0) for x in rows])[:, None, None], deviation[:, None, None]


def task(answer: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of an answer and its parts: cross-entropy and accuracy, or the mean absolute error.

    Raises:
        ValueError: if the batch has no labels, or classes where a number is asked for, or the reverse.
    """
    if batch.y is None:
        raise ValueError("the batch has no labels: y is None")
    wants = answer.shape[-1] > 1
    if batch.y.is_floating_point() == wants:
        kinds = ("classes (int64)", "numbers (floating point)")
        raise ValueError(f"y must be {kinds[not wants]} for this predictor, got {batch.y.dtype}")
    if not wants:
        error = (answer[:, 0] - batch.y).abs().mean()
        return error, {"mae": error.detach()}
    loss = F.cross_entropy(answer, batch.y)
    return loss, {"accuracy": (answer.argmax(-1) == batch.y).float().mean()}
