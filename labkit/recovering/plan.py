"""What is trained for notebook 05: a predictor, and ways to fill in what it misses, on each data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.data import mosi as mosi_data
from labkit.data.actions import Actions
from labkit.data.affect import Affect
from labkit.data.mosi import Mosi
from labkit.data.recipes import seeded
from labkit.models.dicmor import DiCMoR, DicmorConfig
from labkit.models.flow import FlowConfig, released
from labkit.models.mvae import MVAE, Modality, MVAEConfig
from labkit.models.predictor import Features, Predictor, PredictorNet, shown
from labkit.models.recovery import Regressor, RegressorNet
from labkit.store import Run, fit_once
from labkit.train import TrainConfig

# Ways of flows: what each changes of class priors, all channels mixed, no pairing.
FLOWS: Mapping[str, Mapping[str, Any]] = {
    "class prior": {},
    "single prior": {"prior": "single"},
    "half-identity": {"mixing": "none"},
    "class prior, paired": {"pairing": 5.0},
    "single prior, paired": {"prior": "single", "pairing": 5.0},
}
# The paper's last stage, on flows of one of these ways: all but the projections goes on learning, on gaps.
TUNED: Mapping[str, str] = {
    "class prior, tuned": "class prior",
    "half-identity, tuned": "half-identity",
}
# What fills in, the simplest first. Of these, "same class" and "true" could not be had at test time.
FILLS = ("zeros", "mean", "other", "same class", "regression", "MVAE", *FLOWS, *TUNED, "true")
WAYS = (*FILLS, "modality dropout")  # that one fills in nothing: its predictor was trained on gaps

BLOCKS = 2  # of the reconstruction module, where there is one

Fill = Callable[[Batch, Features, Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """One data set and the sizes of all that is trained on it.

    Args:
        data: The data; a seed replaces its own.
        predictor: Reads what was filled in; trained on complete data.
        fit: How predictors descend, and the MVAE; but as long as flows, where these run all their epochs.
        flow: Flows of its features, all channels mixed.
        flows: How flows and regression descend.
        latent: Latent dimensions of the MVAE.
    """

    data: Any
    predictor: Predictor
    fit: TrainConfig
    flow: FlowConfig
    flows: TrainConfig
    latent: int = 16

    def recipe(self, seed: int) -> Any:
        """Data of one seed; of real actions, another subject is held out from training."""
        return seeded(self.data, seed)

    def config(self, way: str) -> DicmorConfig:
        """The model of one of `FLOWS` or `TUNED`."""
        if way in TUNED:
            return replace(self.config(TUNED[way]), stage="whole", blocks=BLOCKS)
        changes = dict(FLOWS[way])
        flow = self.flow
        if changes.pop("mixing", None) == "none":  # as released, but for depth and width
            flow = replace(
                released(flow.channels, flow.modalities), steps=flow.steps, hidden=flow.hidden
            )
        return replace(DicmorConfig(self.predictor, flow), **changes)

    def mvae(self) -> MVAEConfig:
        """An MVAE of the raw sequences: Gaussian modalities of unit weight, a label decoder."""
        modalities = tuple(
            Modality(
                name, (self.predictor.steps, channels), "gaussian", 0.5, (128, 128), (128, 128)
            )
            for name, channels in self.predictor.modalities
        )
        return MVAEConfig(modalities, self.latent, self.predictor.classes, (64,), objective="cross")

    def state(self) -> dict[str, Any]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "epochs": self.fit.epochs, "flow_epochs": self.flows.epochs, "lr": self.fit.lr,
            "flow_lr": self.flows.lr, "flow_steps": self.flow.steps, "channels": self.flow.channels,
        }  # fmt: skip


def sentiment(preset: str) -> Setting:
    """Procedural language, audio and vision (`labkit.data.affect`): smoke, quick, full; paper is as full.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    sizes = {  # training and held-out samples, epochs of predictors and of flows
        "smoke": (600, 300, 8, 10),
        "quick": (3000, 1500, 15, 30),
        "full": (3000, 1500, 15, 60),
    }
    train, test, epochs, flow_epochs = _sizes(preset, sizes)
    data = Affect(n_train=train, n_test=test)
    predictor = Predictor(
        tuple((name, data.channels) for name in ("language", "audio", "vision")), data.steps,
        classes=data.classes,
    )  # fmt: skip
    size = 128 if train > 1000 else 50
    return Setting(
        data, predictor, TrainConfig(epochs, size, 2e-3, schedule="cosine", clip=1.0),
        FlowConfig(data.channels, 3), TrainConfig(flow_epochs, size, 8e-3, schedule="cosine", clip=5.0),
    )  # fmt: skip


def _sizes(preset: str, sizes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    if preset not in (*sizes, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}, paper")
    return sizes["full" if preset == "paper" else preset]


def mosi(preset: str) -> Setting:
    """Real language, audio and vision, a vector an utterance (`labkit.data.mosi`); sizes as `sentiment`.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    epochs, flow_epochs = _sizes(preset, {"smoke": (4, 4), "quick": (15, 60), "full": (15, 100)})
    predictor = Predictor(
        tuple(mosi_data.CHANNELS.items()), 1, width=16, hidden=32, output_dropout=0.5, classes=2
    )
    return Setting(
        Mosi(), predictor, TrainConfig(epochs, 64, 1e-3, "adamw", weight_decay=0.1, schedule="cosine"),
        FlowConfig(16, 3, steps=4), _few(flow_epochs),
    )  # fmt: skip


def actions(preset: str, source: Literal["procedural", "real"] = "procedural") -> Setting:
    """Accelerometer, gyroscope, skeleton and depth (`labkit.data.actions`): sizes as `sentiment`.

    A clip is one step: what an action is, no window of an eighth of it shows.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    train, test, epochs, flow_epochs = _sizes(
        preset,
        {"smoke": (300, 200, 4, 4), "quick": (1000, 600, 30, 60), "full": (2000, 1000, 30, 100)},
    )
    if source == "real":
        data, epochs = Actions(source="real", steps=1), 3 * epochs
    else:
        data = Actions(n_train=train, n_val=100, n_test=test, steps=1)
    predictor = Predictor(
        tuple(data.channels.items()),
        data.steps,
        width=32,
        output_dropout=0.5,
        classes=data.n_classes,
    )
    return Setting(
        data, predictor, TrainConfig(epochs, 64, 2e-3, "adamw", weight_decay=0.01, schedule="cosine"),
        FlowConfig(32, 4, steps=4), _few(flow_epochs), latent=32,
    )  # fmt: skip


def studies(
    preset: str, source: Literal["procedural", "real"] = "procedural"
) -> dict[str, Setting]:
    """Name of the data -> setting, the one that labs show first: sentiment and actions, or UTD-MHAD and MOSI.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    if source == "real":
        return {"UTD-MHAD": actions(preset, source), "MOSI": mosi(preset)}
    return {"sentiment": sentiment(preset), "actions": actions(preset)}


def _few(epochs: int) -> TrainConfig:
    """For few samples: flows and regression stop where the validation split says so."""
    return TrainConfig(epochs, 64, 4e-3, "adamw", weight_decay=0.01, clip=5.0, patience=12)


# Training ---------------------------------------------------------------------------------------------


def trained(
    setting: Setting, seed: int, what: str, device: str = "cpu", progress: bool = False
) -> Run:
    """One trained model, or found in the store.

    Args:
        setting: Data and sizes.
        seed: Seed of data, first weights and order.
        what: "predictor", "modality dropout", "regression", "MVAE", one of `FLOWS` or `TUNED`, or "judge": a
            predictor trained on gaps, on the projections of "predictor".
        device: Where to train.
        progress: Show a line while training.
    """
    data = setting.recipe(seed)
    common: dict[str, Any] = {"device": device, "progress": progress}
    if what == "MVAE":
        same = (
            setting.fit
            if setting.flows.patience
            else replace(setting.fit, epochs=setting.flows.epochs)
        )
        return fit_once(setting.mvae(), data, same, seed, **common)
    if what == "modality dropout" or (what == "judge" and setting.predictor.width is None):
        return fit_once(replace(setting.predictor, hide=0.5), data, setting.fit, seed, **common)
    if what in TUNED:
        flows = trained(setting, seed, TUNED[what], device, progress)
        return fit_once(setting.config(what), data, setting.fit, seed, (flows,), **common)
    predictor = fit_once(setting.predictor, data, setting.fit, seed, **common)
    if what == "predictor":
        return predictor
    if what == "judge":
        gaps = replace(setting.predictor, hide=0.5)
        return fit_once(gaps, data, setting.fit, seed, (predictor,), **common)
    config: Any = Regressor(setting.predictor) if what == "regression" else setting.config(what)
    return fit_once(config, data, setting.flows, seed, (predictor,), **common)


def predictor_of(run: Run) -> PredictorNet:
    """The predictor that a run trained or built on."""
    model = run.model
    net = model if isinstance(model, PredictorNet) else model.predictor
    assert isinstance(net, PredictorNet)
    return net.requires_grad_(False)


def dicmor_of(run: Run) -> DiCMoR:
    """The DiCMoR of a run."""
    assert isinstance(run.model, DiCMoR)
    return run.model.requires_grad_(False)


# Filling in -------------------------------------------------------------------------------------------


def filler(setting: Setting, way: str, seed: int, device: str = "cpu") -> tuple[PredictorNet, Fill]:
    """A predictor, and what fills in its features: (batch, its features, visible (B, M)) -> (M, B, T, D).

    Whatever fills in keeps what is visible as it is, and reads nothing else; but "same class" reads the
    label, and "true" what is missing.

    Raises:
        ValueError: on an unknown way.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}; got {way!r}")
    if way == "modality dropout":
        net = predictor_of(trained(setting, seed, way, device))
        return net, lambda batch, seen, visible: shown(seen.x, visible)
    net = predictor_of(trained(setting, seed, "predictor", device))
    if way == "zeros":
        return net, lambda batch, seen, visible: shown(seen.x, visible)
    if way == "true":
        return net, lambda batch, seen, visible: seen.x
    if way in ("mean", "other", "same class"):
        return net, _from_training(setting, way, seed, net, device)
    run = trained(setting, seed, way, device)
    if way in TUNED:
        net = predictor_of(run)
    return net, _learned(run.model.requires_grad_(False), net)


def _learned(model: nn.Module, net: PredictorNet) -> Fill:
    if isinstance(model, MVAE):

        def decoded(batch: Batch, seen: Features, visible: Tensor) -> Tensor:
            filled = model.recover(batch.aligned(model.shapes).with_observed(visible))
            return net.features(filled).x

        return decoded
    assert isinstance(model, RegressorNet | DiCMoR)
    return lambda batch, seen, visible: model.recover(seen, visible)


def _from_training(setting: Setting, way: str, seed: int, net: PredictorNet, device: str) -> Fill:
    """The mean of the training split, or a training sample, of the same class if wanted."""
    train = setting.recipe(seed).load("train", device=device)
    known = net.features(train)
    rows = known.rows(known.observed)
    mean = torch.stack([x[row].mean(0) for x, row in zip(known.x, rows, strict=True)])[
        :, None, None
    ]

    def fill(batch: Batch, seen: Features, visible: Tensor) -> Tensor:
        if way == "mean":
            guess = mean
        else:
            generator = torch.Generator().manual_seed(seed)
            score = torch.rand(len(batch), len(train), generator=generator).to(seen.x.device)
            if way == "same class":
                assert batch.y is not None
                assert train.y is not None
                score = score + (batch.y[:, None] == train.y)
            guess = known.x[:, score.argmax(1)]
        return torch.where(visible.T[..., None, None], seen.x, guess)

    return fill
