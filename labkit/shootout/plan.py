"""What is trained for notebook 09: every method that can take a data set, on complete data and on gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from labkit import madds
from labkit.batch import Batch
from labkit.data.affect import Affect
from labkit.data.clips import Clips
from labkit.data.digits import Digits
from labkit.data.mosi import CHANNELS, Mosi
from labkit.data.recipes import seeded
from labkit.exchanging import plan as exchanging
from labkit.exchanging.blend import blended
from labkit.models.backbones import Clip, Pictures, Steps
from labkit.models.blending import Blend
from labkit.models.experts import Network
from labkit.models.flow import FlowConfig
from labkit.models.fusion import CrossAttention, Early, Late, Single
from labkit.models.misa import Misa
from labkit.models.mvae import Modality, MVAEConfig, digit_modalities
from labkit.models.predictor import Predictor
from labkit.models.roles import Gated, Taught
from labkit.models.streams import Answering, Bench, Modalities
from labkit.models.xnorm import XNorm
from labkit.recovering import plan as recovering
from labkit.shootout.beds import Patterns, Sequences, as_sequences
from labkit.store import Run, fit_once
from labkit.train import TrainConfig, isolated_rng

NEAREST = "nearest mean"  # is not trained: see `labkit.shootout.entries`
ALONE, TAUGHT = "alone", "taught"  # behind a modality's name: "rgb alone", "rgb taught"
FUSIONS: Mapping[str, type[Bench]] = {
    "late": Late, "early": Early, "MISA": Misa, "MulT": CrossAttention, "Gradient-Blending": Blend,
    "X-Norm": XNorm,
}  # fmt: skip
PREDICTOR = "DiCMoR's predictor"  # nothing filled in: zeros stand where something is missing
REGRESSION, PAIRED = "regression", "paired flows"  # other ways to fill in; see notebook 05
RECOVERY: Mapping[tuple[str, bool], str] = {  # method, trained on gaps -> its name in `recovering.plan`
    (PREDICTOR, False): "predictor", (PREDICTOR, True): "modality dropout",
    ("DiCMoR", False): "class prior", ("DiCMoR", True): "class prior, tuned",
    (REGRESSION, False): "regression", (PAIRED, False): "class prior, paired",
}  # fmt: skip
TRAINED_TWICE = (*FUSIONS, PREDICTOR)  # on complete data and on gaps, all else alike
# Given more time on gaps, where few samples show all there is; early fusion as a control.
PATIENT: Mapping[str, str] = {"early, long": "early", "X-Norm, long": "X-Norm"}
BARE = "MISA, bare"  # on gaps, without its three conditions: a control
TIMES = 4  # as many epochs as all others have
HIDE = 0.5  # of each modality, in training on gaps: all subsets equally often


@dataclass(frozen=True)
class Setting:
    """One data set and the sizes of all that is trained on it.

    Args:
        data: Recipe; a seed replaces its own.
        modalities: Name and shape of each, in order.
        backbone: Of every stream.
        classes: Number of classes.
        cheap: The modality that DynMM's cheap expert reads.
        fit: How all descend, but for flows.
        flows: How DiCMoR's flows descend.
        mvae: Of the raw modalities.
    """

    data: Any
    modalities: Modalities
    backbone: Any
    classes: int
    cheap: str
    fit: TrainConfig
    flows: TrainConfig
    mvae: MVAEConfig

    def recipe(self, seed: int) -> Any:
        """Data of one seed; of real actions, another subject is held out from training."""
        return seeded(self.data, seed)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the modalities."""
        return tuple(name for name, _ in self.modalities)

    @property
    def ways(self) -> tuple[tuple[str, bool], ...]:
        """All that enter: a method, and whether it is trained on gaps.

        Methods of one modality have no gaps to be trained on. An MVAE is trained on all subsets; it has no
        other form. X-Norm exchanges between two modalities, no more. It and early fusion also get more
        epochs on gaps, and MISA is also trained on gaps without its conditions.
        """
        alone = [f"{name} {role}" for role in (ALONE, TAUGHT) for name in self.names]
        both = [name for name in FUSIONS if name != "X-Norm" or len(self.names) == 2]
        both += ["DynMM", PREDICTOR, "DiCMoR"]
        entries = [(way, False) for way in (NEAREST, *alone)]
        for way in both:
            entries += [(way, False), (way, True)]
            entries += [(long, True) for long, short in PATIENT.items() if short == way]
            entries += [(BARE, True)] * (way == "MISA")
        return (*entries, (REGRESSION, False), (PAIRED, False), ("MVAE", True))

    def reads(self, way: str) -> tuple[str, ...]:
        """Which modalities a method can read."""
        name, _, role = way.rpartition(" ")
        return (name,) if role in (ALONE, TAUGHT) else self.names

    def bench(self, way: str, gaps: bool = False) -> Bench:
        """The network of a method of the fusion bench, or of one modality alone."""
        common: dict[str, Any] = {
            "modalities": self.modalities, "backbone": self.backbone, "classes": self.classes
        }  # fmt: skip
        if way.endswith(f" {ALONE}"):
            return Single(only=self.reads(way)[0], **common)
        if way == "Gradient-Blending":
            common["weights"] = (1.0,) * (len(self.names) + 1)
        if way == BARE:
            return Misa(hide=HIDE, similar=0.0, differ=0.0, recover=0.0, **common)
        return FUSIONS[PATIENT.get(way, way)](hide=HIDE if gaps else 0.0, **common)

    def recovery(self) -> recovering.Setting:
        """DiCMoR's predictor and flows, on sequences."""
        blank = as_sequences(Batch({n: torch.zeros(1, *shape) for n, shape in self.modalities}))
        channels = tuple((name, x.shape[2]) for name, x in blank.x.items())
        steps = next(iter(blank.x.values())).shape[1]
        predictor = Predictor(channels, steps, width=16, classes=self.classes)
        return recovering.Setting(
            Sequences(self.data), predictor, self.fit, FlowConfig(16, len(self.names)), self.flows
        )

    def gated(self, gaps: bool) -> Gated:
        """DynMM: one modality alone, or early fusion of all."""
        methods = (self.bench(f"{self.cheap} {ALONE}"), self.bench("early", gaps))
        gate = Network(self.modalities, "mlp", ((),), (16,), 2, early=True)
        return Gated(methods, gate, tuple(float(price(method)) for method in methods))

    def state(self) -> dict[str, Any]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "epochs": self.fit.epochs, "lr": self.fit.lr, "flow_epochs": self.flows.epochs,
            "n_train": getattr(self.data, "n_train", None), "cheap": self.cheap,
        }  # fmt: skip


# Data sets ----------------------------------------------------------------------------------------


def clips(preset: str) -> Setting:
    """RGB and flow (`labkit.data.clips`), of which the product decides: no sum can be right of all.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    train, test, epochs, flows = _sizes(
        preset, {"smoke": (96, 64, 2, 2), "quick": (600, 300, 8, 20), "full": (1600, 800, 8, 40)}
    )
    data = Clips(rho=1.0, n_train=train, n_val=train // 4, n_test=test)
    shapes, count = tuple(data.shapes.items()), len(data.classes)
    return Setting(
        data,
        shapes,
        Clip(),
        count,
        "rgb",
        exchanging.descent(epochs),
        _flows(flows),
        _mvae(shapes, count, 0.05, 10.0),
    )


def affect(preset: str) -> Setting:
    """Language, audio and vision (`labkit.data.affect`)."""
    train, test, epochs, flows = _sizes(
        preset,
        {"smoke": (200, 100, 2, 2), "quick": (800, 400, 8, 20), "full": (3000, 1500, 16, 60)},
    )
    data = Affect(n_train=train, n_val=train // 4, n_test=test)
    shape = (data.steps, data.channels)
    shapes = tuple((name, shape) for name in ("language", "audio", "vision"))
    return Setting(
        data, shapes, Steps(), data.classes, "language", exchanging.descent(epochs), _flows(flows),
        _mvae(shapes, data.classes),
    )  # fmt: skip


def digits(preset: str, source: Literal["procedural", "real"] = "procedural") -> Setting:
    """Two scripts and a voice (`labkit.data.digits`)."""
    train, test, epochs, flows = _sizes(
        preset,
        {"smoke": (200, 100, 2, 2), "quick": (1000, 400, 8, 20), "full": (4000, 1500, 10, 60)},
    )
    data = Digits(source=source, n_train=train, n_val=train // 5, n_test=test)
    mvae = MVAEConfig(digit_modalities(), objective="cross", kl_weight=0.16)
    shapes = tuple((modality.name, modality.shape) for modality in mvae.modalities)
    return Setting(
        data, shapes, Pictures(), 10, "speech", exchanging.descent(epochs), _flows(flows), mvae
    )


def seen(preset: str) -> Setting:
    """UTD-MHAD as a camera sees it: depth and its motion."""
    base = exchanging.seen(preset)
    (flows,) = _sizes(preset, {"smoke": (1,), "quick": (20,), "full": (60,)})
    shapes, count = base.modalities, base.classes
    return Setting(
        base.data, shapes, base.backbone, count, "depth", base.fit, _flows(flows),
        _mvae(shapes, count, 0.05, 10.0),
    )  # fmt: skip


def mosi(preset: str) -> Setting:
    """Real words, voice and face, a vector an utterance (`labkit.data.mosi`)."""
    epochs, flows = _sizes(preset, {"smoke": (2, 2), "quick": (8, 30), "full": (8, 60)})
    shapes = tuple((name, (1, channels)) for name, channels in CHANNELS.items())
    return Setting(
        Mosi(),
        shapes,
        Steps(),
        2,
        "language",
        exchanging.descent(epochs),
        _flows(flows),
        _mvae(shapes, 2),
    )


def studies(
    preset: str, source: Literal["procedural", "real"] = "procedural"
) -> dict[str, Setting]:
    """Name of the data -> setting: clips, affect, digits.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    if source == "real":
        return {"UTD-MHAD": seen(preset), "MOSI": mosi(preset), "digits": digits(preset, source)}
    return {"clips": clips(preset), "affect": affect(preset), "digits": digits(preset)}


def _sizes(preset: str, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if preset not in (*sizes, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}, paper")
    return sizes["full" if preset == "paper" else preset]


def _mvae(
    modalities: Modalities, classes: int, weight: float = 0.5, label: float = 1.0
) -> MVAEConfig:
    """Gaussian modalities of one weight a number, a label decoder."""
    each = tuple(
        Modality(n, shape, "gaussian", weight, (128, 128), (128, 128)) for n, shape in modalities
    )
    return MVAEConfig(each, 16, classes, (64,), label_weight=label, objective="cross")


def _generative(epochs: int) -> TrainConfig:
    return TrainConfig(epochs, 32, 2e-3, schedule="cosine", clip=100.0)


def _flows(epochs: int) -> TrainConfig:
    return TrainConfig(epochs, 64, 4e-3, "adamw", weight_decay=0.01, schedule="cosine", clip=5.0)


# Training -----------------------------------------------------------------------------------------


def trained(
    setting: Setting, way: str, gaps: bool, seed: int, device: str = "cpu", progress: bool = False
) -> Run:
    """One entry, trained or found in the store.

    Args:
        setting: Data and sizes.
        way: A method, of `Setting.ways`.
        gaps: Whether it is trained on gaps.
        seed: Of data, weights and descent.
        device: Where to train.
        progress: Show progress lines.

    Raises:
        ValueError: on what is no entry; the message lists them.
    """
    if (way, gaps) not in setting.ways or way == NEAREST:
        known = "; ".join(f"{way}{' (gaps)' if on else ''}" for way, on in setting.ways[1:])
        raise ValueError(f"way and gaps must be one of: {known}; got {way!r}, {gaps}")
    data = setting.recipe(seed)
    common: dict[str, Any] = {"device": device, "progress": progress}
    if way == "MVAE":
        return fit_once(setting.mvae, data, _generative(2 * setting.fit.epochs), seed, **common)
    if (way, gaps) in RECOVERY:
        return recovering.trained(setting.recovery(), seed, RECOVERY[way, gaps], **common)
    if way == "DynMM":
        cheap = trained(setting, f"{setting.cheap} {ALONE}", False, seed, **common)
        dear = trained(setting, "early", gaps, seed, **common)
        seen = Patterns(data) if gaps else data
        return fit_once(setting.gated(gaps), seen, setting.fit, seed, (cheap, dear), **common)
    if way.endswith(f" {TAUGHT}"):
        teacher = trained(setting, "early", False, seed, **common)
        student = setting.bench(f"{setting.reads(way)[0]} {ALONE}")
        return fit_once(Taught(student), data, setting.fit, seed, (teacher,), **common)
    config = setting.bench(way, gaps)
    if isinstance(config, Blend):
        return blended(config, data, setting.fit, seed, "gain", 2, device, progress)[0]
    epochs = setting.fit.epochs * (TIMES if way in PATIENT else 1)
    return fit_once(config, data, replace(setting.fit, epochs=epochs), seed, **common)


@lru_cache(maxsize=64)
def price(config: Bench) -> int:
    """MAdds of one answer of an untrained network."""
    with isolated_rng(0, torch.device("cpu")):
        net: Answering = config.build().eval()  # type: ignore[attr-defined]
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in config.modalities})
    return madds.counted(lambda: net.predict(batch), net)
