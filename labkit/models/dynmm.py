r"""DynMM, modality level: a gate that chooses, sample by sample, which modalities are looked at.

Experts differ in what they read and in what they cost: text alone, say, or text and image. Each is trained by
itself. A gate reads all modalities and chooses the expert that answers:

.. math:: y = \sum_k g_k(x)\, E_k(x), \qquad L = L_{task} + \lambda \sum_k g_k\, C_k

In training g is relaxed (`labkit.models.gates`). At test time it is one path: `DynMM.answer` runs the samples
that chose the same expert together, and an expert that nobody chose not at all.

Experts that stay as they are answer once: `DynMM.with_answers` keeps their logits beside their samples, and
training a gate costs no more than the gate. `Gates` trains the gates of many :math:`\lambda` at once.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, section 3 and tables 1 and 2; released code:
    github.com/zihuixue/DynMM, ModalityDynMM/multimedia/imdb_dyn.py and affect/affect_dyn.py. Differs: paths
    that are not chosen do not run; frozen experts are in eval mode, so that their running statistics stay;
    the cost can be that of the experts in MAdds, as in the paper, or 0 and 1, as in the code.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.madds import plain_attention
from labkit.models.experts import Expert, ExpertNet, Network, task_loss
from labkit.models.gates import Relaxation, cost

Resource = Literal["official", "madds"]
ANSWERS = "experts"  # the factor of a batch that holds what all experts answer

# The gate ---------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What was answered, and by whom.

    Attributes:
        logits: (B, K).
        path: (B,) number of the expert.
    """

    logits: Tensor
    path: Tensor


@dataclass(frozen=True)
class DynmmConfig:
    r"""Experts and the gate before them.

    Args:
        experts: At least two with one task and as many outputs, the cheapest first.
        gate: Reads the modalities; its outputs are as many as experts.
        costs: Of the experts in MAdds, or in any unit; only their ratios count.
        resource: ``official``: the first expert costs 0 and every other one 1, as in the released code;
            ``madds``: their `costs` over the highest.
        weight: :math:`\lambda`, of the cost beside the task's loss.
        relaxation: Of the gate.
        frozen: Experts stay as they are.

    Raises:
        ValueError: on experts that do not go together, or a gate or costs that do not go with them.
    """

    experts: tuple[Expert, ...]
    gate: Network
    costs: tuple[float, ...]
    resource: Resource = "madds"
    weight: float = 0.1
    relaxation: Relaxation = field(default_factory=Relaxation)
    frozen: bool = True

    def __post_init__(self) -> None:
        count = len(self.experts)
        if count < 2 or len({(e.task, e.network.outputs) for e in self.experts}) > 1:
            raise ValueError("experts must be at least two, with one task and as many outputs")
        if self.gate.outputs != count:
            raise ValueError(
                f"gate must have {count} outputs, one an expert, got {self.gate.outputs}"
            )
        if len(self.costs) != count or not all(math.isfinite(c) and c > 0 for c in self.costs):
            raise ValueError(f"costs must be {count} numbers above 0, got {self.costs}")
        if self.resource not in ("official", "madds"):
            raise ValueError(f"resource must be 'official' or 'madds', got {self.resource!r}")
        if not self.weight >= 0:
            raise ValueError(f"weight must be at least 0, got {self.weight}")

    @property
    def prices(self) -> Tensor:
        """What the loss takes each expert to cost, (E,)."""
        if self.resource == "official":
            return torch.tensor([0.0] + [1.0] * (len(self.experts) - 1))
        return torch.tensor(self.costs) / max(self.costs)

    def build(self, *experts: ExpertNet) -> DynMM:
        """A new gate in front of trained experts, of which it has copies.

        Raises:
            ValueError: if they are others than the configuration's.
        """
        found = tuple(expert.expert for expert in experts)
        if found != self.experts:
            raise ValueError(f"experts must be {self.experts}, got {found}")
        return DynMM(self, [copy.deepcopy(expert) for expert in experts])


class DynMM(nn.Module):
    """A gate and its experts."""

    prices: Tensor  # (E,)

    def __init__(self, config: DynmmConfig, experts: Sequence[ExpertNet]) -> None:
        super().__init__()
        self.config = config
        self.gate = config.gate.build()
        self.experts = nn.ModuleList(experts)
        self.experts.requires_grad_(not config.frozen)
        nets = (self.gate, *experts)
        self.shapes = {name: shape for net in nets for name, shape in net.shapes.items()}
        self.register_buffer("prices", config.prices)

    def train(self, mode: bool = True) -> DynMM:
        """As any module; but frozen experts stay in eval mode, their running statistics as they are."""
        super().train(mode)
        if self.config.frozen:
            self.experts.eval()
        return self

    def everyone(self, batch: Batch) -> Tensor:
        """What each expert answers, (B, E, K): kept beside the samples, or computed."""
        if ANSWERS in batch.factors:
            return batch.factors[ANSWERS]
        x = batch.aligned(self.shapes).x
        return torch.stack([expert(x) for expert in self.experts], 1)

    def with_answers(self, batch: Batch) -> Batch:
        """The batch with what its experts answer kept beside its samples (the factor `ANSWERS`)."""
        self.eval()
        with torch.no_grad():
            parts = [self.everyone(part) for part in pieces(batch)]
        return replace(batch, factors={**batch.factors, ANSWERS: torch.cat(parts)})

    def prepare(self, batch: Batch) -> Batch:
        """What `labkit.train.fit` does once: frozen experts answer all samples."""
        return self.with_answers(batch) if self.config.frozen else batch

    def choose(self, batch: Batch) -> Tensor:
        """Logits of the gate, (B, E)."""
        logits: Tensor = self.gate(batch.aligned(self.shapes).x)
        return logits

    def mixed(self, batch: Batch, weights: Tensor) -> Tensor:
        """All experts' answers by weights (B, E): (B, K). Every expert runs."""
        return torch.einsum("be,bek->bk", weights, self.everyone(batch))

    def answer(self, batch: Batch, path: Tensor | None = None) -> Answer:
        """Each sample's answer by its own expert; samples of one expert run together, nothing else runs.

        Args:
            batch: B samples.
            path: (B,) int64, the expert of each; None = the gate's choice.

        Raises:
            ValueError: on a path that there is not.
        """
        x = batch.aligned(self.shapes).x
        if path is None:
            path = self.gate(x).argmax(-1)
        return Answer(grouped(list(self.experts), x, path), path)

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Task and cost, by a relaxed gate in training and by its choice in eval mode.

        Returns:
            The loss; detached parts ``task``, ``cost``, and ``first``: the first expert's share.
        """
        weights = gate_weights(self.config, self.choose(batch), step, generator, self.training)
        task = task_loss(self.config.experts[0].task, self.mixed(batch, weights), batch.y)
        spent = cost(weights, self.prices)
        parts = {"task": task, "cost": spent, "first": weights[:, 0].mean()}
        return task + self.config.weight * spent, {k: v.detach() for k, v in parts.items()}


def gate_weights(
    config: DynmmConfig, logits: Tensor, step: int, generator: torch.Generator, training: bool
) -> Tensor:
    """Weights (..., E) of a step of training, or of the choice at test time."""
    relaxation = config.relaxation if training else Relaxation()
    return relaxation.weights(logits, step, generator)


def pieces(batch: Batch, rows: int = 1024) -> Iterator[Batch]:
    """The batch in pieces that fit into memory."""
    for start in range(0, len(batch), rows):
        yield batch[start : start + rows]


def grouped(experts: Sequence[nn.Module], x: Mapping[str, Tensor], path: Tensor) -> Tensor:
    """Each row by the expert it chose, (B, K).

    Args:
        experts: E modules with `shapes`, which say what each reads.
        x: Modality -> (B, ...).
        path: (B,) int64.

    Raises:
        ValueError: on a path that there is not.
    """
    counts = torch.bincount(path, minlength=len(experts)).tolist()  # the one wait for the device
    if len(counts) > len(experts):
        raise ValueError(f"path must be below {len(experts)}, got {len(counts) - 1}")
    parts = path.argsort(stable=True).split(counts)
    out: Tensor | None = None
    for expert, rows in zip(experts, parts, strict=True):
        if not len(rows):
            continue
        shapes: Any = expert.shapes
        if len(rows) == len(path):
            whole: Tensor = expert(x)
            return whole
        said = expert({name: x[name][rows] for name in shapes})
        out = said.new_empty(len(path), *said.shape[1:]) if out is None else out
        out = out.index_copy(0, rows, said)
    assert out is not None
    return out


# Many gates -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GatesConfig:
    r"""The gates of many weights of the cost, trained at once from the same start on the same samples.

    Args:
        dynmm: The rest; its experts are frozen.
        weights: :math:`\lambda` of each gate.

    Raises:
        ValueError: on no weights, one below 0, or experts that are not frozen.
    """

    dynmm: DynmmConfig
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.weights or not all(w >= 0 for w in self.weights):
            raise ValueError(f"weights must be numbers of at least 0, got {self.weights}")
        if not self.dynmm.frozen:
            raise ValueError("dynmm.frozen must be True: many gates share their experts")

    def build(self, *experts: ExpertNet) -> Gates:
        """New gates in front of trained experts."""
        return Gates(self, self.dynmm.build(*experts))


class Gates(nn.Module):
    """L gates in front of the same experts; their parameters are stacked, (L, ...)."""

    weights: Tensor  # (L,)

    def __init__(self, config: GatesConfig, model: DynMM) -> None:
        super().__init__()
        self.config, self.model, self.shapes = config, model.requires_grad_(False), model.shapes
        self.names = [name for name, _ in model.gate.named_parameters()]
        self.stacked = nn.ParameterList(
            nn.Parameter(weight.detach().expand(len(config.weights), *weight.shape).clone())
            for weight in model.gate.parameters()
        )
        self.register_buffer("weights", torch.tensor(config.weights))

    def choose(self, batch: Batch) -> Tensor:
        """Logits of all gates, (L, B, E)."""
        x = batch.aligned(self.shapes).x

        def one(*parameters: Tensor) -> Tensor:
            named = dict(zip(self.names, parameters, strict=True))
            found: Tensor = torch.func.functional_call(self.model.gate, named, (x,))
            return found

        with plain_attention():  # there is no fused attention of many networks
            logits: Tensor = torch.vmap(one, randomness="different")(*self.stacked)
        return logits

    def prepare(self, batch: Batch) -> Batch:
        """What `labkit.train.fit` does once: the experts answer all samples."""
        return self.model.with_answers(batch)

    def loss(
        self, batch: Batch, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the L losses, which have no parameter in common, and the means of their parts."""
        config = self.config.dynmm
        weights = gate_weights(config, self.choose(batch), step, generator, self.training)
        mixed = torch.einsum("lbe,bek->lbk", weights, self.model.everyone(batch))
        task = task_loss(config.experts[0].task, mixed, batch.y)
        spent = cost(weights, self.model.prices)
        parts = {"task": task.mean().detach(), "cost": spent.mean().detach()}
        return (task + self.weights * spent).sum(), parts

    def one(self, index: int) -> DynMM:
        """The model of one gate."""
        model = copy.deepcopy(self.model)
        model.config = replace(model.config, weight=self.config.weights[index])
        found = zip(model.gate.parameters(), self.stacked, strict=True)
        with torch.no_grad():
            for weight, stack in found:
                weight.copy_(stack[index])
        return model.eval()


# Presets ----------------------------------------------------------------------------------------------


def movies(weight: float = 0.1) -> DynmmConfig:
    """The paper's sizes for MM-IMDB: text alone, or text and image; 23 genres."""
    text, image = ("text", (300,)), ("image", (4096,))
    cheap = Network((text,), "mlp", ((512, 512),), (512,), 23)
    dear = Network((text, image), "maxout", ((512, 512), (1024, 512)), (), 23)
    gate = Network((text, image), "mlp", ((),), (128,), 2, early=True)
    return DynmmConfig((Expert(cheap), Expert(dear)), gate, (1.25261, 10.86908), "official", weight)


def sentiment(weight: float = 0.1) -> DynmmConfig:
    """The paper's sizes for CMU-MOSEI: text alone, or text, audio and vision; a number."""
    text, audio, vision = ("text", (50, 300)), ("audio", (50, 74)), ("vision", (50, 35))
    cheap = Network((text,), "transformer", ((120,),), (64,), 1)
    dear = Network((vision, audio, text), "transformer", ((60,), (120,), (120,)), (128,), 1)
    gate = Network((vision, audio, text), "transformer", ((10,),), (), 2, early=True)
    experts = (Expert(cheap, "number"), Expert(dear, "number"))
    return DynmmConfig(experts, gate, (135.13226, 320.03205), "official", weight)
