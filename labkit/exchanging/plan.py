"""What is trained for notebook 08: eight fusion methods on equal terms, and controls of the exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn.functional import avg_pool3d

from labkit.batch import Batch
from labkit.data.actions import Actions
from labkit.data.affect import Affect
from labkit.data.augment import augmented
from labkit.data.clips import Clips
from labkit.data.mosi import Mosi
from labkit.data.recipes import seeded
from labkit.exchanging.blend import Rule, blended
from labkit.models.backbones import Clip, Steps
from labkit.models.blending import Blend
from labkit.models.fusion import CrossAttention, Early, Late, Single
from labkit.models.misa import Misa
from labkit.models.streams import Answering, Bench
from labkit.models.xnorm import Exchange, XNorm
from labkit.store import Run, fit_once
from labkit.train import TrainConfig

FUSIONS = ("late", "early", "MISA", "MulT", "Gradient-Blending", "X-Norm")
# X-Norm with another exchange: what is its own doing, and what of it is needed.
EXCHANGES: Mapping[str, Exchange] = {
    "X-Norm, own": Exchange(own=True),
    "X-Norm, pooled": Exchange(pool=True),
    "X-Norm, beta": Exchange(only="beta"),
    "X-Norm, gamma": Exchange(only="gamma"),
    "X-Norm, zero init": Exchange(zero_init=True),
    "X-Norm, sequential": Exchange(sequential=True),
}
MULTS: Mapping[str, Mapping[str, Any]] = {
    "MulT, first cell": {"read": "first"},
    "MulT, as released": {"read": "first", "causal": True},
}
MISAS: Mapping[str, Mapping[str, Any]] = {"MISA, moving goal": {"moving": True}}
# Weights of MISA's conditions to try: none, MMSA's for MOSI, and X-Norm's where they are another.
DIALS: Mapping[str, tuple[float, ...]] = {
    "similar": (0.0, 0.3, 1.0),
    "differ": (0.0, 0.1, 0.3),
    "recover": (0.0, 1.0),
}
OWN = "X-Norm, own"  # the control: as much of everything, nothing exchanged
LONG = "long"  # a way with this word behind it has the long budget: "early, long"


@dataclass(frozen=True)
class Setting:
    """One data set and the sizes of all that is trained on it.

    Args:
        data: Recipe of the data; a seed replaces its own.
        modalities: Name and shape of the two that are fused.
        backbone: Of every stream.
        classes: Number of classes.
        fit: How all methods descend.
        long: Epochs of the long budget.
        sites: Stages after which X-Norm exchanges.
        windows: Of Gradient-Blending.
    """

    data: Any
    modalities: tuple[tuple[str, tuple[int, ...]], ...]
    backbone: Any
    classes: int
    fit: TrainConfig
    long: int
    sites: tuple[int, ...] = (0, 1)
    windows: int = 2

    def recipe(self, seed: int) -> Any:
        """Data of one seed; of real actions, another subject is held out from training."""
        return seeded(self.data, seed)

    @property
    def alone(self) -> tuple[str, ...]:
        """The ways that see a single modality: ``rgb alone``."""
        return tuple(f"{name} alone" for name, _ in self.modalities)

    @property
    def methods(self) -> tuple[str, ...]:
        """All methods of the bench, the simplest first."""
        return (*self.alone, *FUSIONS)

    @property
    def compared(self) -> tuple[str, ...]:
        """What is compared on every data set: all methods, and the control of the exchange."""
        return (*self.methods, OWN)

    @property
    def ways(self) -> tuple[str, ...]:
        """All that can be trained, but for long budgets."""
        return (*self.methods, *EXCHANGES, *MULTS, *MISAS)

    def config(self, way: str) -> Bench:
        """The network of one of `ways`, a long budget or not.

        Raises:
            ValueError: on an unknown way; the message lists the known ones.
        """
        way = way.removesuffix(f", {LONG}")
        if way not in self.ways:
            raise ValueError(f"way must be one of {'; '.join(self.ways)}; got {way!r}")
        common: dict[str, Any] = {
            "modalities": self.modalities, "backbone": self.backbone, "classes": self.classes
        }  # fmt: skip
        if way in self.alone:
            return Single(only=way.removesuffix(" alone"), **common)
        if way in EXCHANGES or way == "X-Norm":
            return XNorm(sites=self.sites, exchange=EXCHANGES.get(way, Exchange()), **common)
        if way in MULTS or way == "MulT":
            return CrossAttention(**MULTS.get(way, {}), **common)
        if way in MISAS or way == "MISA":
            return Misa(**MISAS.get(way, {}), **common)
        kinds: dict[str, Any] = {"late": Late, "early": Early, "Gradient-Blending": Blend}
        return kinds[way](**common)

    def budget(self, way: str) -> TrainConfig:
        """How a way descends."""
        return replace(self.fit, epochs=self.long) if way.endswith(f", {LONG}") else self.fit

    def state(self) -> dict[str, Any]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "epochs": self.fit.epochs,
            "long": self.long,
            "lr": self.fit.lr,
            "sites": list(self.sites),
        }


# Data sets ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Actions as a depth camera sees them: clips of depth and of its motion.

    Args:
        actions: Recipe.
        pool: Pixels of a side that become one, their mean: a step takes a quarter of the time.
    """

    actions: Actions
    pool: int = 2

    def load(self, split: Any, device: torch.device | str | None = None) -> Batch:
        """One split: see `Actions.clips`."""
        clips = self.actions.clips(split, device)
        window = (1, self.pool, self.pool)
        return replace(clips, x={name: avg_pool3d(x, window) for name, x in clips.x.items()})


def clips(preset: str, rho: float = 1.0) -> Setting:
    """Procedural RGB and flow (`labkit.data.clips`): smoke, quick, full; paper is as full.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    train, test, epochs, long = _sizes(
        preset, {"smoke": (96, 64, 2, 4), "quick": (480, 300, 8, 16), "full": (1600, 800, 8, 24)}
    )
    data = Clips(rho=rho, n_train=train, n_val=train // 4, n_test=test)
    return Setting(
        data, tuple(data.shapes.items()), Clip(), len(data.classes), descent(epochs), long
    )


def rhos(preset: str) -> tuple[float, ...]:
    """Shares of synergy at which methods are trained: 2, 3 or 5 of them."""
    (steps,) = _sizes(preset, {"smoke": (1,), "quick": (2,), "full": (4,)})
    return tuple(i / steps for i in range(steps + 1))


def bed(preset: str) -> Setting:
    """Few clips whose rgb can be learnt by heart: where Gradient-Blending has something to weigh."""
    setting = clips(preset, 0.0)
    few = min(400, setting.data.n_train)
    return replace(setting, data=replace(setting.data, n_train=few, n_val=few, watermark=1.0))


def affect(preset: str) -> Setting:
    """Procedural language and audio (`labkit.data.affect`)."""
    train, test, epochs, long = _sizes(
        preset,
        {"smoke": (200, 100, 2, 4), "quick": (500, 300, 8, 16), "full": (3000, 1500, 16, 32)},
    )
    data = Affect(n_train=train, n_val=train // 4, n_test=test)
    shape = (data.steps, data.channels)
    return Setting(
        data, (("language", shape), ("audio", shape)), Steps(), data.classes, descent(epochs), long
    )


def worn(preset: str, source: str = "procedural") -> Setting:
    """Actions as a wrist feels them: accelerometer and gyroscope (`labkit.data.actions`), real: UTD-MHAD."""
    train, test, epochs, long = _sizes(
        preset, {"smoke": (96, 64, 2, 4), "quick": (480, 300, 12, 24), "full": (1200, 600, 30, 60)}
    )
    data = (
        Actions(source="real")
        if source == "real"
        else Actions(n_train=train, n_val=train // 4, n_test=test)
    )
    shapes = tuple(
        (name, (data.steps, data.channels[name])) for name in ("accelerometer", "gyroscope")
    )
    return Setting(data, shapes, Steps(), data.n_classes, descent(epochs), long)


def dials(preset: str) -> Mapping[str, tuple[float, ...]]:
    """Weights of MISA's conditions to train at: `DIALS`, of quick those between MMSA's and X-Norm's."""
    return {**DIALS, "differ": DIALS["differ"][1:]} if preset == "quick" else DIALS


def seen(preset: str) -> Setting:
    """UTD-MHAD as a camera sees it: depth and its motion."""
    epochs, long = _sizes(preset, {"smoke": (2, 4), "quick": (10, 20), "full": (30, 60)})
    data = Seen(Actions(source="real"))
    batch = data.load("val")[:1]
    shapes = tuple((name, tuple(x.shape[1:])) for name, x in batch.x.items())
    return Setting(data, shapes, Clip(), data.actions.n_classes, descent(epochs), long)


def mosi(preset: str) -> Setting:
    """Real words and voices, a vector an utterance (`labkit.data.mosi`)."""
    epochs, long = _sizes(preset, {"smoke": (2, 4), "quick": (8, 16), "full": (8, 16)})
    from labkit.data.mosi import CHANNELS

    shapes = tuple((name, (1, CHANNELS[name])) for name in ("language", "audio"))
    return Setting(Mosi(), shapes, Steps(), 2, descent(epochs), long)


def studies(
    preset: str, source: Literal["procedural", "real"] = "procedural"
) -> dict[str, Setting]:
    """Name of the data -> setting.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    if source == "real":
        return {"seen": seen(preset), "worn": worn(preset, "real"), "MOSI": mosi(preset)}
    return {
        "clips, synergy": clips(preset), "clips, sum": clips(preset, 0.0),
        "affect": affect(preset), "actions": worn(preset),
    }  # fmt: skip


def _sizes(preset: str, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if preset not in (*sizes, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}, paper")
    return sizes["full" if preset == "paper" else preset]


def descent(epochs: int) -> TrainConfig:
    """The paper's descent, but for the learning rate and without early stopping: all have one budget."""
    return TrainConfig(epochs, 32, 1e-3, "adamw", weight_decay=1e-4, clip=1.0)


# Training -----------------------------------------------------------------------------------------


def trained(
    setting: Setting,
    way: str,
    seed: int,
    device: str = "cpu",
    progress: bool = False,
    rule: Rule = "gain",
) -> Run:
    """One way, trained or found in the store.

    Args:
        setting: Data and sizes.
        way: One of its ways, with ", long" or without.
        seed: Of data, weights and descent.
        device: Where to train.
        progress: Show progress lines.
        rule: Of Gradient-Blending's weights.
    """
    config, data, budget = setting.config(way), setting.recipe(seed), setting.budget(way)
    if isinstance(config, Blend):
        return blended(config, data, budget, seed, rule, setting.windows, device, progress)[0]
    return fit_once(config, data, budget, seed, device=device, progress=progress)


def net_of(run: Run) -> Answering:
    """The network of a run."""
    assert isinstance(run.model, Answering)
    return run.model.requires_grad_(False)


# Augmentation -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmented:
    """A network that is trained on shifted clips and mirror images.

    Args:
        config: The network.
        joint: One shift and one flip for all modalities of a sample; else one for each, as in the released
            code.
        flips: Probability of a mirror image.
        padding: Pixels by which a clip is shifted at most.
    """

    config: Any
    joint: bool = True
    flips: float = 0.0
    padding: int = 3

    def build(self) -> AugmentedNet:
        """The untrained network."""
        return AugmentedNet(self)


class AugmentedNet(Answering):
    """Network of an `Augmented`."""

    def __init__(self, config: Augmented) -> None:
        super().__init__()
        self.config, self.net = config, config.config.build()

    def predict(self, batch: Batch) -> torch.Tensor:
        """Logits (B, K) of clips as they are."""
        answer: torch.Tensor = self.net.predict(batch)
        return answer

    def loss(self, batch: Batch, step: int, generator: torch.Generator) -> Any:
        """The network's own loss, on shifted clips."""
        asked, (height, width) = self.config, next(iter(batch.x.values())).shape[-2:]
        shifted = augmented(
            batch, (height, width), generator, asked.joint, asked.padding, asked.flips
        )
        return self.net.loss(shifted, step, generator)
