"""What is trained for notebook 06: experts of few and of all modalities, and gates between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from labkit import madds
from labkit.batch import Batch
from labkit.data import mosi as mosi_data
from labkit.data import ravdess as ravdess_data
from labkit.data.faces import FOLDS, Faces
from labkit.data.mosi import Mosi
from labkit.data.movies import Movies
from labkit.data.remarks import Remarks
from labkit.models.dynmm import DynmmConfig, Gates, GatesConfig
from labkit.models.experts import Expert, ExpertNet, Network, Task
from labkit.models.gates import Relaxation
from labkit.store import Run, fit_once
from labkit.train import TrainConfig

# Weights of the cost: none, those at which one data set or another changes its mind, and no choice left.
WEIGHTS = (
    0.0, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, 1.8, 3.0,
    6.0,
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One data set and what is trained on it.

    Args:
        data: The data; a seed replaces its own.
        cheap: Reads few modalities.
        dear: Reads all.
        other: What the dear one reads beyond the cheap one, alone; in no gate's choice.
        gate: Reads all.
        fit: How experts descend.
        gates: How gates descend.
        weights: Of the cost, one gate each.
    """

    data: Any
    cheap: Expert
    dear: Expert
    other: Expert
    gate: Network
    fit: TrainConfig
    gates: TrainConfig
    weights: tuple[float, ...] = WEIGHTS

    def recipe(self, seed: int) -> Any:
        """Data of one seed: drawn by it, or, of RAVDESS, the fold of actors of this number."""
        folds = getattr(self.data, "source", "") == "real" and isinstance(self.data, Faces)
        return replace(self.data, fold=seed % FOLDS) if folds else replace(self.data, seed=seed)

    @property
    def task(self) -> Task:
        """What all experts answer."""
        return self.cheap.task

    @property
    def bill(self) -> dict[str, int]:
        """MAdds of one sample: ``cheap``, ``dear``, ``other``, ``gate``."""
        networks = {
            "cheap": self.cheap.network, "dear": self.dear.network, "other": self.other.network,
            "gate": self.gate,
        }  # fmt: skip
        return {name: madds_of(network) for name, network in networks.items()}

    def config(self, **changes: Any) -> DynmmConfig:
        """The gate and its two experts; its cost is the released code's, the share of the dear one."""
        bill = self.bill
        costs = (float(bill["cheap"]), float(bill["dear"]))
        config = DynmmConfig((self.cheap, self.dear), self.gate, costs, "official")
        return replace(config, **changes)

    def state(self) -> dict[str, Any]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "epochs": self.fit.epochs, "lr": self.fit.lr, "gate_epochs": self.gates.epochs,
            "gate_lr": self.gates.lr, "weights": list(self.weights), **self.bill,
        }  # fmt: skip


def madds_of(network: Network) -> int:
    """MAdds of one sample in all matrix products, attention included."""
    with torch.device("meta"):
        net = network.build().eval()
    return madds.total(madds.bill(net, lambda: net(madds.meta_inputs(net.shapes))))


# Data sets ----------------------------------------------------------------------------------------


def movies(preset: str) -> Setting:
    """Text, or text and image, and several genres (`labkit.data.movies`): smoke, quick, full, paper.

    Pictures are dear: the expert that looks at them, too, costs 7 times what the other one costs (15 times in
    the paper's experiment on MM-IMDB).

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    sizes: dict[str, tuple[int, ...]] = {
        "smoke": (600, 300, 4), "quick": (4000, 2000, 20), "full": (4000, 2000, 20),
    }  # fmt: skip
    train, test, epochs = _sizes(preset, sizes)
    data = Movies(text_noise=0.9, n_train=train, n_val=train // 4, n_test=test)
    text, image = data.shapes.items()
    k = data.n_labels
    return Setting(
        data,
        Expert(Network((text,), "mlp", ((64, 64),), (64,), k)),
        Expert(Network((text, image), "maxout", ((64, 64), (256, 64)), (), k)),
        Expert(Network((image,), "maxout", ((256, 64),), (), k)),
        Network((text, image), "mlp", ((),), (32,), 2, early=True),
        TrainConfig(2 * epochs, 128, 2e-3, "adamw", weight_decay=0.01, patience=6),
        TrainConfig(epochs, 128, 5e-3, "adamw", weight_decay=0.01, schedule="cosine"),
    )  # fmt: skip


def remarks(preset: str) -> Setting:
    """Words, or words, voice and face, of which some are sarcastic (`labkit.data.remarks`).

    Who also hears and sees costs 2.3 times as much (2.5 times in the paper's experiment on MOSEI).
    """
    sizes: dict[str, tuple[int, ...]] = {
        "smoke": (600, 300, 4), "quick": (3000, 2000, 12), "full": (4000, 2000, 15),
    }  # fmt: skip
    train, test, epochs = _sizes(preset, sizes)
    data = Remarks(n_train=train, n_val=train // 4, n_test=test)
    steps = data.load("val")[:1].x
    text, audio, vision = ((name, tuple(x.shape[1:])) for name, x in steps.items())
    small: dict[str, Any] = {"layers": 1, "heads": 4, "inside": 64}
    return Setting(
        data,
        Expert(Network((text,), "transformer", ((32,),), (32,), 2, **small), "classes"),
        Expert(
            Network((text, audio, vision), "transformer", ((32,), (24,), (24,)), (64,), 2, **small),
            "classes",
        ),
        Expert(
            Network((audio, vision), "transformer", ((24,), (24,)), (32,), 2, **small), "classes"
        ),
        Network((text, audio, vision), "mlp", ((),), (32,), 2, early=True),
        TrainConfig(2 * epochs, 128, 2e-3, "adamw", weight_decay=0.01, patience=6),
        TrainConfig(2 * epochs, 128, 2e-3, "adamw", weight_decay=0.01, schedule="cosine"),
    )


def mosi(preset: str) -> Setting:
    """Real words, or words, voice and face, a vector an utterance (`labkit.data.mosi`)."""
    (epochs,) = _sizes(preset, {"smoke": (3,), "quick": (15,), "full": (15,)})
    shapes = {name: (1, channels) for name, channels in mosi_data.CHANNELS.items()}
    text, audio, vision = shapes.items()
    return Setting(
        Mosi(),
        Expert(Network((text,), "mlp", ((64,),), (32,), 2), "classes"),
        Expert(Network((text, audio, vision), "maxout", ((32,), (32,), (32,)), (), 2), "classes"),
        Expert(Network((audio, vision), "maxout", ((32,), (32,)), (), 2), "classes"),
        Network((text, audio, vision), "mlp", ((),), (16,), 2, early=True),
        TrainConfig(epochs, 64, 1e-3, "adamw", weight_decay=0.1, schedule="cosine"),
        TrainConfig(epochs, 64, 2e-3, "adamw", weight_decay=0.1, schedule="cosine"),
    )


def ravdess(preset: str) -> Setting:
    """Real voices, or voices and faces, of actors nobody has seen before (`labkit.data.ravdess`).

    The gates' learning rate is a third of what it was at first: with 1e-3 more of them jumped.
    """
    (epochs,) = _sizes(preset, {"smoke": (3,), "quick": (20,), "full": (20,)})
    audio, face = (
        ("audio", (ravdess_data.BANDS, ravdess_data.FRAMES)),
        ("face", (len(ravdess_data.AUS),)),
    )
    k = len(ravdess_data.EMOTIONS)
    return Setting(
        Faces(source="real"),
        Expert(Network((audio,), "maxout", ((64,),), (), k), "classes"),
        Expert(Network((audio, face), "maxout", ((64,), (64,)), (), k), "classes"),
        Expert(Network((face,), "maxout", ((64,),), (), k), "classes"),
        Network((audio, face), "mlp", ((),), (16,), 2, early=True),
        TrainConfig(epochs, 32, 1e-3, "adamw", weight_decay=0.1, patience=4),
        TrainConfig(2 * epochs, 64, 3e-4, "adamw", weight_decay=0.1, schedule="cosine"),
    )


def studies(
    preset: str, source: Literal["procedural", "real"] = "procedural"
) -> dict[str, Setting]:
    """Name of the data -> setting, the one that labs show first: movies and remarks, or MOSI and RAVDESS.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    if source == "real":
        return {"MOSI": mosi(preset), "RAVDESS": ravdess(preset)}
    return {"movies": movies(preset), "remarks": remarks(preset)}


def _sizes(preset: str, sizes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if preset not in (*sizes, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}, paper")
    return sizes["full" if preset == "paper" else preset]


# Training -----------------------------------------------------------------------------------------


def expert(
    setting: Setting, seed: int, which: Literal["cheap", "dear", "other"], device: str = "cpu",
    progress: bool = False,
) -> Run:  # fmt: skip
    """One expert, trained or found in the store."""
    return fit_once(
        getattr(setting, which), setting.recipe(seed), setting.fit, seed, device=device, progress=progress
    )  # fmt: skip


def gates(
    setting: Setting, seed: int, relaxation: Relaxation | None = None, resource: Any = "official",
    device: str = "cpu", progress: bool = False,
) -> Run:  # fmt: skip
    """The gates of all weights of the cost, trained at once or found in the store."""
    parents = [expert(setting, seed, which, device) for which in ("cheap", "dear")]
    config = setting.config(resource=resource, relaxation=relaxation or Relaxation())
    return fit_once(
        GatesConfig(config, setting.weights), setting.recipe(seed), setting.gates, seed, parents,
        device=device, progress=progress,
    )  # fmt: skip


def gates_of(run: Run) -> Gates:
    """The gates of a run."""
    assert isinstance(run.model, Gates)
    return run.model.requires_grad_(False)


def answers(
    setting: Setting, seed: int, split: Any = "test", device: str = "cpu"
) -> tuple[Batch, Tensor]:
    """A split, and what cheap, dear and other experts answer: (3, n, K)."""
    batch = setting.recipe(seed).load(split, device=device)
    said = []
    for which in ("cheap", "dear", "other"):
        net = expert(setting, seed, which, device).model
        assert isinstance(net, ExpertNet)
        with torch.no_grad():
            said.append(net(batch.only(*net.shapes).aligned(net.shapes).x))
    return batch, torch.stack(said)
