r"""Gates: a choice among K paths that can be learnt although it is a choice.

A gate's network gives logits. How they become weights of the K paths is its *relaxation*:

* ``soft``: :math:`g = \mathrm{softmax}(a / \tau)`; every path runs.
* ``hard``: one path, the likeliest. Its gradient is that of the soft gate (*straight-through*).

Either may add Gumbel noise to the logits, with which the likeliest path is a draw from softmax(a). At test
time a gate is always hard and adds nothing.

Source:
    Xue & Marculescu, "Dynamic Multimodal Fusion", CVPR-W 2023, equations 2 and 3 and section 3.4; released
    code: github.com/zihuixue/DynMM, which never adds the Gumbel noise of equation 3. Gumbel-softmax:
    Jang, Gu & Poole, ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relaxation:
    """How a gate is trained, over the steps of its training.

    Args:
        hard: Straight-through from the first step on.
        gumbel: Add Gumbel noise in training.
        start: Temperature of the first step.
        end: Temperature after `anneal` steps, from when on the gate is hard. Between, it falls by the same
            factor each step.
        anneal: Steps, after those of `explore`; None = the temperature stays at `start`.
        explore: In these many first steps each sample takes a random path (the paper's stage I).

    Raises:
        ValueError: on a value out of range; the message names it.
    """

    hard: bool = True
    gumbel: bool = False
    start: float = 1.0
    end: float = 1e-3
    anneal: int | None = None
    explore: int = 0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.anneal is not None and self.anneal < 1:
            raise ValueError(f"anneal must be None or at least 1 step, got {self.anneal}")
        if self.explore < 0:
            raise ValueError(f"explore must be at least 0 steps, got {self.explore}")

    def temperature(self, step: int) -> float:
        """Temperature of a step, from 0."""
        if self.anneal is None:
            return self.start
        done = min(max(step - self.explore, 0) / self.anneal, 1.0)
        return self.start * (self.end / self.start) ** done

    def is_hard(self, step: int) -> bool:
        """Whether a step of training goes one path."""
        return self.hard or (self.anneal is not None and step >= self.explore + self.anneal)

    def weights(self, logits: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Weights of the paths in a step of training, (..., K), that sum to 1.

        Args:
            logits: (..., K).
            step: From 0.
            generator: Of the logits' device; of paths taken at random and of Gumbel noise.
        """
        if step < self.explore:
            return random_paths(logits, generator)
        if self.gumbel:
            logits = logits + gumbel(logits, generator)
        return relaxed(logits, self.temperature(step), self.is_hard(step))


def relaxed(logits: Tensor, temperature: float = 1.0, hard: bool = False) -> Tensor:
    """Weights of paths from logits, (..., K); `hard`: one path forward, the soft gradient backward."""
    soft = (logits.float() / temperature).softmax(-1)
    return one_path(soft) - soft.detach() + soft if hard else soft


def one_path(logits: Tensor) -> Tensor:
    """The likeliest path as 0 and 1, (..., K); of equals the first."""
    return torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)


def random_paths(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A path each, all equally often, as 0 and 1; the shape of `logits`, which is not read."""
    *rows, count = logits.shape
    path = torch.randint(count, rows, generator=generator, device=logits.device)
    return torch.nn.functional.one_hot(path, count).to(logits.dtype)


def gumbel(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel(0, 1) noise of the logits' shape."""
    uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
    return -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))


def entropy(weights: Tensor) -> Tensor:
    """Of weights (..., K), in nats: log K where all are equal, 0 where one path has all."""
    return -torch.special.xlogy(weights, weights).sum(-1)


def cost(weights: Tensor, costs: Tensor, budget: float = 0.0) -> Tensor:
    r"""What a batch costs beyond a budget: the mean of :math:`\sum_k g_k C_k`, less the budget, or 0.

    Args:
        weights: (..., N, K), of N samples.
        costs: (K,), in any unit.
        budget: In that unit.

    Returns:
        (...,).
    """
    return ((weights @ costs.to(weights)).mean(-1) - budget).clamp(min=0.0)


def shares(paths: Tensor, count: int) -> Tensor:
    """How often each of `count` paths was taken, (count,), from their numbers (N,)."""
    return torch.bincount(paths, minlength=count).double() / max(len(paths), 1)
