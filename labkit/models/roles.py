r"""Methods of the fusion bench in other roles: as the student of another, and as the expert of a gate.

`Taught` is a method, of one modality as a rule, that learns from a trained one's logits beside the labels:
the cross-modal distillation that the Modality Focusing Hypothesis is about. `Gated` puts DynMM's gate before
two trained ones, the first of which reads less and costs less.

Source:
    Xue, Gao, Ren & Zhao, "The Modality Focusing Hypothesis", ICLR 2023, and Xue & Marculescu,
    "Dynamic Multimodal Fusion", CVPR-W 2023, section 3: the same losses (`labkit.models.mfh`, `dynmm`), on
    the bench's streams.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.models.dynmm import DynMM, DynmmConfig, Resource, pieces
from labkit.models.experts import Network, task_loss
from labkit.models.mfh import Distillation
from labkit.models.streams import Answering, Bench

TEACHER = "teacher"  # the factor of a batch that holds a teacher's logits

# A student ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taught:
    """A method that learns from the logits of a trained one.

    Args:
        student: The method.
        loss: What it minimises.

    Raises:
        ValueError: if its answer is a number: there are no logits to learn from.
    """

    student: Bench
    loss: Distillation = field(default_factory=lambda: Distillation(reduction="batchmean"))

    def __post_init__(self) -> None:
        if self.student.classes is None:
            raise ValueError("student must answer with classes to be taught, got a number")

    def build(self, teacher: Answering | None = None) -> TaughtNet:
        """An untrained student.

        Args:
            teacher: Whose logits it learns from; needed to train it.
        """
        return TaughtNet(self, teacher)


class TaughtNet(Answering):
    """Network of a `Taught`; its teacher is no part of it."""

    def __init__(self, config: Taught, teacher: Answering | None) -> None:
        super().__init__()
        self.config = config
        self.net: Answering = config.student.build()  # type: ignore[attr-defined]
        self._teacher = () if teacher is None else (copy.deepcopy(teacher).eval(),)

    def prepare(self, batch: Batch) -> Batch:
        """What `labkit.train.fit` does once: the teacher answers all samples.

        Raises:
            ValueError: without a teacher.
        """
        if not self._teacher:
            raise ValueError("teacher is missing: build(teacher) to train a student")
        teacher = self._teacher[0].to(batch.device)
        with torch.no_grad():
            said = torch.cat([teacher.predict(part).float() for part in pieces(batch)])
        return replace(batch, factors={**batch.factors, TEACHER: said})

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K) of the student."""
        return self.net.predict(batch)

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Labels and teacher.

        Raises:
            ValueError: without labels, or on a batch that no teacher has answered.
        """
        if batch.y is None or TEACHER not in batch.factors:
            raise ValueError("batch must have labels and a teacher's logits: see TaughtNet.prepare")
        logits = self.predict(self.net.partly(batch, generator)).float()
        right = (logits.argmax(1) == batch.y).float().mean()
        total = self.config.loss.loss(logits, batch.factors[TEACHER], batch.y)
        return total, {"accuracy": right.detach()}


# An expert ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seat:
    """A method as an expert: what `labkit.models.dynmm` asks of one."""

    network: Bench
    task: Any = "classes"

    def build(self) -> SeatNet:
        """The untrained expert."""
        return SeatNet(self, self.network.build())  # type: ignore[attr-defined]


class SeatNet(nn.Module):
    """A trained method as an expert.

    A gate hands on samples without a word on what is observed, zeros where nothing is. So a modality is taken
    for missing where it is all zeros; where all of them are, for observed.
    """

    def __init__(self, seat: Seat, net: Answering) -> None:
        super().__init__()
        self.expert, self.net = seat, net
        only = getattr(seat.network, "only", None)
        self.shapes = {n: s for n, s in seat.network.modalities if only in (None, n)}

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        """Modality -> (B, ...); gives (B, K)."""
        here = torch.stack([(x[name] != 0).flatten(1).any(1) for name in self.shapes], 1)
        observed = here | ~here.any(1, keepdim=True)
        return self.net.predict(Batch({name: x[name] for name in self.shapes}, observed))

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The task's loss."""
        return task_loss(
            "classes", self(batch.only(*self.shapes).aligned(self.shapes).x), batch.y
        ), {}


@dataclass(frozen=True)
class Gated:
    r"""DynMM's gate before methods of the bench, which stay as they are.

    Args:
        methods: Two or more, the cheapest first.
        gate: Reads all modalities, an output a method.
        costs: Of the methods, in MAdds.
        weight: :math:`\lambda`, of the cost beside the task's loss.
        resource: See `labkit.models.dynmm.DynmmConfig`.
    """

    methods: tuple[Bench, ...]
    gate: Network
    costs: tuple[float, ...]
    weight: float = 0.1
    resource: Resource = "official"

    @property
    def dynmm(self) -> DynmmConfig:
        """The same in DynMM's words."""
        seats: Any = tuple(Seat(method) for method in self.methods)
        return DynmmConfig(seats, self.gate, self.costs, self.resource, self.weight)

    def build(self, *methods: Answering) -> DynMM:
        """A new gate in front of trained methods, of which it has copies; untrained ones if none are given.

        Raises:
            ValueError: if they are others than the configuration's.
        """
        config = self.dynmm
        seats: list[Any] = [*config.experts]
        if not methods:
            return DynMM(config, [seat.build() for seat in seats])
        found = tuple(net.config for net in methods)
        if found != self.methods:
            raise ValueError(f"methods must be {self.methods}, got {found}")
        nets: list[Any] = [
            SeatNet(seat, copy.deepcopy(net)) for seat, net in zip(seats, methods, strict=True)
        ]
        return DynMM(config, nets)
