"""What notebook 05 looks at, sample by sample: labs and figures read it here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch
from labkit.models.dicmor import DiCMoR
from labkit.models.flow import FlowConfig, Flows, Mixing, Scale
from labkit.models.predictor import Features, PredictorNet, shown
from labkit.recovering.plan import Fill, Setting, dicmor_of, filler, predictor_of, trained
from labkit.store import Run, fit_once
from labkit.train import isolated_rng

EPOCHS = (0, 1, 2, 4, 8, 16)  # at which a training is looked at
DEPTHS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class Opened:
    """The held-out samples of one seed, and how one way fills in what they miss.

    Attributes:
        way: One of `plan.WAYS`.
        net: The predictor.
        judge: Reads the class from one modality alone.
        batch: The test split.
        seen: Its features.
        fill: (batch, features, visible (B, M)) -> features (M, B, T, D).
    """

    way: str
    net: PredictorNet
    judge: PredictorNet
    batch: Batch
    seen: Features
    fill: Fill

    @property
    def names(self) -> list[str]:
        """Names of the modalities."""
        return [*self.net.shapes]

    def part(self, rows: slice | Tensor) -> Opened:
        """The same of some samples."""
        seen = Features(self.seen.x[:, rows], self.seen.observed[rows], self.seen.length[rows])
        return replace(self, batch=self.batch[rows], seen=seen)

    def filled(self, visible: Sequence[bool] | Tensor) -> Tensor:
        """Features (M, B, T, D), with what is not visible filled in; `visible` is (M,) or (B, M)."""
        mask = torch.as_tensor(visible, device=self.seen.x.device).expand_as(self.seen.observed)
        with torch.no_grad():
            return self.fill(self.batch, self.seen, mask)

    def answer(self, x: Tensor) -> Tensor:
        """Probabilities of the predictor on features, (B, C)."""
        with torch.no_grad():
            return self.net.answer(x, self.seen.length).softmax(-1)

    def read(self, x: Tensor, modality: int) -> Tensor:
        """Probabilities of the judge from one modality of features alone, (B, C)."""
        alone = torch.zeros_like(self.seen.observed)
        alone[:, modality] = True
        with torch.no_grad():
            return self.judge.answer(shown(x, alone), self.seen.length).softmax(-1)


@lru_cache(maxsize=16)
def opened(setting: Setting, way: str, seed: int, device: str = "cpu") -> Opened:
    """Load or train what `Opened` holds; kept while the kernel runs."""
    net, fill = filler(setting, way, seed, device)
    judge = predictor_of(trained(setting, seed, "judge", device))
    batch = setting.recipe(seed).load("test", device=device)
    with torch.no_grad():
        seen = net.features(batch)
    return Opened(way, net, judge, batch, seen, fill)


# While it learns -------------------------------------------------------------------------------------


def learned(setting: Setting, way: str, epochs: int, seed: int, device: str = "cpu") -> DiCMoR:
    """The flows of a way after so many epochs at a constant rate; 0 = none, but scaled by a first batch.

    With equal seeds the first epochs of a longer training are those of a shorter one.
    """
    base = trained(setting, seed, "predictor", device)
    fit = replace(setting.flows, schedule="constant", epochs=max(epochs, 1))
    if epochs:
        return dicmor_of(_flow_run(setting, way, fit, seed, base, device))
    with isolated_rng(seed, torch.device("cpu")):
        model = setting.config(way).build(predictor_of(base))
    model.train().loss(
        setting.recipe(seed).load("train", device=device)[:500], 0, torch.Generator()
    )
    return model.eval().requires_grad_(False)


def _flow_run(setting: Setting, way: str, fit: Any, seed: int, base: Run, device: str) -> Run:
    return fit_once(
        setting.config(way), setting.recipe(seed), fit, seed, (base,), device=device, progress=False
    )


def latents_of(model: DiCMoR, batch: Batch) -> Tensor:
    """Mean latent of each sample over its steps, (M, B, D)."""
    with torch.no_grad():
        seen = model.predictor.features(batch)
        z, _ = model.latents(seen)
    valid = seen.valid[..., None]
    return (z * valid).sum(2) / seen.length[:, None]


def plane_of(z: Tensor) -> tuple[Tensor, Tensor]:
    """The plane of the largest variance of latents (..., D): its centre (D,) and two directions (D, 2)."""
    rows = z.flatten(0, -2)
    centre = rows.mean(0)
    directions = torch.linalg.svd(rows - centre, full_matrices=False)[2][:2].T
    return centre, directions * torch.where(directions.sum(0) < 0, -1.0, 1.0)


def planes(
    setting: Setting, way: str, seed: int, rows: int = 150, device: str = "cpu"
) -> list[dict[str, Any]]:
    """Latents of some held-out samples in one plane, after each of `EPOCHS`.

    The plane is that of the last epoch's class means, or, with one Gaussian, of its latents.

    Returns:
        ``epoch``; ``points`` (M, B, 2); ``y`` (B,); the prior's Gaussians in the plane: ``means`` (K, 2),
        ``covariances`` (K, 2, 2).
    """
    batch = setting.recipe(seed).load("test", device=device)
    batch = batch[
        torch.linspace(0, len(batch) - 1, min(rows, len(batch)), device=batch.device).long()
    ]
    models = {epoch: learned(setting, way, epoch, seed, device) for epoch in EPOCHS}
    last, found = models[EPOCHS[-1]], []
    centre, directions = plane_of(
        last.prior.mean if len(last.prior.mean) > 2 else latents_of(last, batch)
    )
    for epoch, model in models.items():
        points = (latents_of(model, batch) - centre) @ directions
        variance = torch.diag_embed((2 * model.prior.log_sd).exp())
        assert batch.y is not None
        found.append({
            "epoch": epoch, "points": points.cpu().numpy(), "y": batch.y.cpu().numpy(),
            "means": ((model.prior.mean - centre) @ directions).cpu().numpy(),
            "covariances": (directions.T @ variance @ directions).cpu().numpy(),
        })  # fmt: skip
    return found


# Whose class is it? ------------------------------------------------------------------------------------


def swapped(
    setting: Setting, way: str, seed: int, source: int = 0, target: int = 2, device: str = "cpu"
) -> list[list[float]]:
    """How the judge reads what is recovered of one modality from another: true class, read class, in %."""
    at = opened(setting, way, seed, device)
    visible = [m == source for m in range(len(at.names))]
    said = at.read(at.filled(visible), target).argmax(-1)
    y, classes = at.batch.y, setting.predictor.outputs
    assert y is not None
    counts = (
        torch.bincount(classes * y + said, minlength=classes**2).view(classes, classes).double()
    )
    return (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).tolist()


def noisy(
    setting: Setting, way: str, seed: int, levels: Sequence[float], source: int = 0, target: int = 2,
    device: str = "cpu",
) -> dict[str, list[float]]:  # fmt: skip
    """Noise on one modality: is it better to look at it, or to recover it from another one?

    Args:
        setting: Data and sizes.
        way: What recovers.
        seed: Seed of all that was trained.
        levels: Deviations of the noise, in units of each feature's own.
        source: From what is recovered; it stays clean.
        target: What is noisy, or recovered.
        device: Where to compute.

    Returns:
        Held-out accuracy in %, one a level: ``noisy alone``, ``recovered alone``, read by the judge;
        ``noisy``, ``recovered``: the predictor's, which sees all other modalities; ``without``: the
        predictor that was trained on gaps, without the target.
    """
    at = opened(setting, way, seed, device)
    count, y = len(at.names), at.batch.y
    assert y is not None
    deviation = at.seen.x[target][at.seen.valid].std(0)
    generator = torch.Generator().manual_seed(seed)
    grain = torch.randn(at.seen.x[target].shape, generator=generator).to(at.seen.x)
    alone = at.filled([m == source for m in range(count)])
    rest = at.filled([m != target for m in range(count)])
    rate = {
        "recovered alone": metrics.accuracy(at.read(alone, target), y),
        "recovered": metrics.accuracy(at.answer(rest), y),
        "without": metrics.accuracy(_without(at, target), y),
    }
    found: dict[str, list[float]] = {
        name: [100 * float(v)] * len(levels) for name, v in rate.items()
    }
    found |= {"noisy alone": [], "noisy": []}
    for level in levels:
        x = at.seen.x.clone()
        x[target] += level * deviation * grain
        found["noisy alone"].append(100 * float(metrics.accuracy(at.read(x, target), y)))
        found["noisy"].append(100 * float(metrics.accuracy(at.answer(x), y)))
    return found


def _without(at: Opened, target: int) -> Tensor:
    visible = torch.ones_like(at.seen.observed)
    visible[:, target] = False
    with torch.no_grad():
        return at.judge.answer(shown(at.seen.x, visible), at.seen.length).softmax(-1)


# Two sources ------------------------------------------------------------------------------------------


def between(
    model: DiCMoR, seen: Features, weight: float, sources: tuple[int, int], target: int
) -> Tensor:
    """One modality from two, weight of the second 0 to 1, by the mean of latents: (B, T, D)."""
    with torch.no_grad():
        z, _ = model.latents(seen)
        z = torch.lerp(z[sources[0]], z[sources[1]], weight)
        return model._features(model.flows.fold(), z.expand_as(seen.x))[target]


# Flows by themselves -----------------------------------------------------------------------------------


def random_flows(
    depth: int,
    mixing: Mixing,
    scale: Scale = "bounded",
    channels: int = 8,
    by: float = 0.3,
    seed: int = 0,
) -> Flows:
    """Flows of one modality whose every weight was moved at random, in float64: what depth alone does."""
    config = FlowConfig(channels, 1, depth, 32, mixing, scale, normalise=False)
    with isolated_rng(seed, torch.device("cpu")):
        flows = config.build().double().requires_grad_(False)
        for weight in flows.parameters():
            weight.add_(by * torch.randn_like(weight))
    return flows


def inverse_errors(
    kind: Literal["ours", "released"],
    dtype: torch.dtype,
    depths: Sequence[int] = DEPTHS,
    seeds: int = 5,
) -> list[float]:
    """Largest error of x -> z -> x over 200 rows, the median over random flows, for each depth.

    "ours" mixes by rotations and bounds the scale; "released" does neither.
    """
    found = []
    for depth in depths:
        errors = []
        for seed in range(seeds):
            mixing, scale = ("orthogonal", "bounded") if kind == "ours" else ("none", "sigmoid")
            folded = random_flows(depth, mixing, scale, 32, 0.05, seed).to(dtype).fold()  # type: ignore[arg-type]
            x = torch.randn(
                1, 200, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
            )
            x = x.to(dtype)
            errors.append(float((folded.inverse(folded.forward(x)[0]) - x).abs().max()))
        found.append(sorted(errors)[len(errors) // 2])
    return found


def halves(
    depths: Sequence[int] = (1, 8, 32), shown: int = 8, seed: int = 0
) -> tuple[Any, Any, Any]:
    """Random flows of 8 channels, without mixing and with it: what passes, and how straight the rest is.

    Returns:
        x (N,), the first channel; z, name -> (N,), what became of it after `shown` steps; lines, name ->
        (the last channel (121,), depth -> what becomes of it while all others are held fixed).
    """
    x = torch.randn(1, 300, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    along = torch.linspace(-3, 3, 121, dtype=torch.float64)
    held = x[:, :1].repeat(1, len(along), 1)
    held[..., -1] = along
    z, lines = {}, {}
    pairs: tuple[tuple[str, Mixing], ...] = (
        ("without mixing", "none"),
        ("with mixing", "orthogonal"),
    )
    for name, mixing in pairs:
        flows = {
            depth: random_flows(depth, mixing, "sigmoid", by=0.25, seed=seed).fold()
            for depth in {*depths, shown}
        }
        z[name] = flows[shown].forward(x)[0][0, :, 0].numpy()
        curves = {depth: flows[depth].forward(held)[0][0, :, -1].numpy() for depth in depths}
        lines[name] = (along.numpy(), curves)
    return x[0, :, 0].numpy(), z, lines
