"""What notebook 06 looks at, sample by sample: labs and figures read it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from labkit.batch import Batch, add_noise
from labkit.choosing.measure import chosen, routed, score
from labkit.choosing.plan import Setting, answers, gates, gates_of
from labkit.models.dynmm import Gates
from labkit.models.experts import Task, task_loss
from labkit.models.gates import cost, gumbel, one_path, relaxed

LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of noise, in units of mean|x|
DRAWS = 1000  # of an arm, to see how often each comes

Values = NDArray[np.float64]

# Whom the gates send where ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Opened:
    """The held-out samples of one seed, what the experts answer, and whom the gates send where.

    Attributes:
        setting: Data and sizes.
        gates: Of all weights of the cost, L.
        batch: The test split, n samples.
        said: What cheap, dear and other experts answer, (3, n, K).
        logits: Of the gates, (L, n, 2): cheap, dear.
    """

    setting: Setting
    gates: Gates
    batch: Batch
    said: Tensor
    logits: Tensor

    @property
    def y(self) -> Tensor:
        """What is true: (n, K) labels, or (n,) classes."""
        assert self.batch.y is not None
        return self.batch.y

    @property
    def dear(self) -> Tensor:
        """Who is sent to the dear expert, (L, n) bool."""
        return self.logits.argmax(-1).bool()


@lru_cache(maxsize=16)
def opened(
    setting: Setting, seed: int = 0, resource: Any = "official", device: str = "cpu"
) -> Opened:
    """Load or train what `Opened` holds; kept while the kernel runs."""
    batch, said = answers(setting, seed, "test", device)
    model = gates_of(gates(setting, seed, None, resource, device))
    with torch.no_grad():
        return Opened(setting, model, batch, said, model.choose(batch))


@lru_cache(maxsize=16)
def study(
    setting: Setting, seed: int = 0, resource: Any = "official", device: str = "cpu"
) -> dict[str, Any]:
    """What the study measures of a seed (`measure.chosen`), kept while the kernel runs."""
    return chosen(setting, seed, resource, device)


def nearest(weights: Sequence[float], wanted: float) -> int:
    """Index of the weight above 0 that is nearest to `wanted` in ratio.

    Raises:
        ValueError: if none is above 0.
    """
    above = [i for i, weight in enumerate(weights) if weight > 0]
    if not above:
        raise ValueError(f"weights must have one above 0, got {tuple(weights)}")
    return min(above, key=lambda i: abs(np.log(weights[i] / wanted)))


def along(share: ArrayLike, values: ArrayLike, at: ArrayLike) -> Values:
    """Values that were measured at some shares (L,), on lines between them, at others (A,).

    Where one share was measured several times their mean counts; beyond all shares there is NaN.
    """
    x, where = np.unique(np.asarray(share, float), return_inverse=True)
    y = np.bincount(where, np.asarray(values, float)) / np.bincount(where)
    found: Values = np.interp(np.asarray(at, float), x, y, left=np.nan, right=np.nan)
    return found


# A plane of samples -------------------------------------------------------------------------------


class Plane(NamedTuple):
    """Samples by two of their properties, in deviations from the mean, (n, 2), and what these are."""

    points: Values
    axes: tuple[str, str]


@lru_cache(maxsize=16)
def plane_of(
    setting: Setting, seed: int, by: Literal["inputs", "sureness"], device: str = "cpu"
) -> Plane:
    """Held-out samples by what is measured of their inputs, or by how sure the experts are.

    ``inputs``: to the right the size of what the cheap expert reads; up how clear the image is, where the
    data know it, else the size of the other modalities. ``sureness``: to the right of the cheap expert, up
    of the dear one.
    """
    batch, said = answers(setting, seed, "test", device)
    if by == "sureness":
        pair = sureness(setting.task, said[:2])
        return Plane(_standard(pair), ("the cheap expert is sure", "the dear expert is sure"))
    few, more = (list(expert.network.shapes) for expert in (setting.cheap, setting.other))
    across = log_size(batch, few)
    if "image_noise" in batch.factors:
        up, name = -batch.factors["image_noise"].log(), "the image is clear"
    else:
        up, name = log_size(batch, more), f"size of {' and '.join(more)}"
    return Plane(_standard(torch.stack((across, up))), (f"size of {' and '.join(few)}", name))


def _standard(pair: Tensor) -> Values:
    """(2, n) as (n, 2) in deviations from the mean."""
    rows = pair.double()
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True).clamp(min=1e-9)
    return rows.T.cpu().numpy()


def log_size(batch: Batch, names: Sequence[str]) -> Tensor:
    """Logarithm of the root mean square of some modalities, steps of padding left out, (n,)."""
    parts = [x[:, None] if x.ndim == 2 else x for x in (batch.x[name].double() for name in names)]
    total = torch.stack([x.square().flatten(1).sum(1) for x in parts]).sum(0)
    count = torch.stack([steps_of(x).sum(1) * x.shape[-1] for x in parts]).sum(0)
    return (total / count).clamp(min=1e-12).log() / 2


def steps_of(x: Tensor) -> Tensor:
    """Steps of sequences (n, T, C) that are no padding, (n, T) bool; at least one is."""
    steps = torch.arange(x.shape[1], device=x.device)
    last = torch.where((x != 0).any(-1), steps, 0).amax(1)
    return steps <= last[:, None]


def sureness(task: Task, logits: Tensor) -> Tensor:
    """How far from even the probabilities of logits (..., n, K) are, 0 to 1, (..., n)."""
    if task == "labels":
        return (2 * logits.sigmoid() - 1).abs().mean(-1)
    k = logits.shape[-1]
    return (logits.softmax(-1).amax(-1) - 1 / k) * k / (k - 1)


# Anatomy ------------------------------------------------------------------------------------------


def doubtful(at: Opened, gate: int, weight: float = 0.7) -> int:
    """The held-out sample, one with a label, to whose dear expert a gate gives nearest to this weight."""
    away = (at.logits[gate].softmax(-1)[:, 1] - weight).abs()
    labelled = at.y.any(-1) if at.y.ndim == 2 else torch.ones_like(away, dtype=torch.bool)
    return int(torch.where(labelled, away, 2.0).argmin())


class Pushes(NamedTuple):
    """Gradients (2,) of a sample's loss with respect to the gate's logits."""

    soft: Tensor
    straight: Tensor


def pushes(at: Opened, gate: int, sample: int, temperature: float, noise: Tensor) -> Pushes:
    """Gradients through a soft gate, and straight-through one that goes a single path.

    Args:
        at: What is open.
        gate: Index of the weight of the cost.
        sample: Of the test split.
        temperature: Of the relaxation.
        noise: (2,), added to the logits; zeros for none.
    """
    config, y = at.gates.config, at.y[sample : sample + 1]
    prices = at.gates.model.prices
    found = []
    with torch.enable_grad():
        for hard in (False, True):
            logits = at.logits[gate, sample].detach().clone().requires_grad_()
            weights = relaxed(logits + noise, temperature, hard)
            mixed = weights @ at.said[:2, sample]
            loss = task_loss(at.setting.task, mixed[None], y)
            loss = loss + config.weights[gate] * cost(weights[None], prices)
            found.append(torch.autograd.grad(loss, logits)[0])
    return Pushes(*found)


def noise_of(shape: Sequence[int], seed: int, device: str = "cpu") -> Tensor:
    """Gumbel noise of a seed."""
    return gumbel(torch.zeros(*shape), torch.Generator().manual_seed(seed)).to(device)


def drawn(logits: Tensor, seed: int = 0, count: int = DRAWS) -> Tensor:
    """How often each arm is the likeliest once Gumbel noise is added to logits (K,): shares (K,)."""
    noise = noise_of((count, *logits.shape), seed, str(logits.device))
    return one_path(logits + noise).double().mean(0)


# Corrupted inputs ---------------------------------------------------------------------------------


def changed(
    batch: Batch, modality: str, level: float = 0.0, blank: bool = False, seed: int = 0
) -> Batch:
    """The batch with one modality noisy, in units of its mean|x|, or blank: all zeros.

    The same samples get the same noise at each level, only larger. Padding stays padding.

    Raises:
        ValueError: on an unknown modality or a negative level.
    """
    batch.column(modality)
    x = batch.x[modality]
    if blank:
        return replace(batch, x={**batch.x, modality: torch.zeros_like(x)})
    generator = torch.Generator(batch.device).manual_seed(seed)
    noisy = add_noise(batch, {modality: level}, generator).x[modality]
    if x.ndim == 3:
        noisy = noisy * steps_of(x)[..., None]
    return replace(batch, x={**batch.x, modality: noisy})


def resized(batch: Batch, like: Batch, modality: str) -> Batch:
    """The batch with one modality of each sample scaled to the size that it has in `like`."""
    found, wanted = (each.x[modality].flatten(1).norm(dim=1) for each in (batch, like))
    factor = (wanted / found.clamp(min=1e-12)).view(-1, *[1] * (batch.x[modality].ndim - 1))
    return replace(batch, x={**batch.x, modality: batch.x[modality] * factor})


class Under(NamedTuple):
    """What becomes of the split under a change.

    Attributes:
        share: Sent to the dear expert, (L,).
        score: Of the gates in %, (L,).
        experts: Of cheap and dear in %, (2,).
    """

    share: Tensor
    score: Tensor
    experts: Tensor


@lru_cache(maxsize=128)
def under(
    setting: Setting, seed: int, modality: str, level: float = 0.0, blank: bool = False,
    device: str = "cpu",
) -> Under:  # fmt: skip
    """See `Under`; of the gates with the official cost. Kept while the kernel runs."""
    at = opened(setting, seed, "official", device)
    logits, said = asked_again(at, changed(at.batch, modality, level, blank))
    dear = logits.argmax(-1).bool()
    return Under(
        dear.double().mean(-1),
        score(setting.task, routed(said, dear), at.y),
        score(setting.task, said, at.y),
    )


def spoiled(
    setting: Setting, seeds: Sequence[int], level: float = 2.0, device: str = "cpu"
) -> pd.DataFrame:
    """Whom the gate that is nearest to 40 % sends once what the cheap expert reads is bad.

    Returns:
        A row a seed: ``share`` and ``cheap`` (score in %) as they are, and under noise of this level
        (``noisy_share``, ``noisy_cheap``) and with nothing there (``blank_share``, ``blank_cheap``).
    """
    (name, *_), rows = setting.cheap.network.shapes, []
    for seed in seeds:
        found = {
            "": under(setting, seed, name, device=device),
            "noisy_": under(setting, seed, name, level, device=device),
            "blank_": under(setting, seed, name, blank=True, device=device),
        }
        gate = int((found[""].share - 0.4).abs().argmin())
        row: dict[str, Any] = {"seed": seed}
        for key, each in found.items():
            row |= {f"{key}share": float(each.share[gate]), f"{key}cheap": float(each.experts[0])}
        rows.append(row)
    return pd.DataFrame(rows)


@torch.no_grad()
def asked_again(at: Opened, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of the gates (L, B, 2) on other inputs, and what cheap and dear answer, (2, B, K)."""
    at.gates.eval()
    return at.gates.choose(batch), at.gates.model.everyone(batch).transpose(0, 1)
