"""Small trained models that ship with labkit, so that a lab shows something on its first opening.

`load("mvae2")` takes a few milliseconds; `labkit weights make` trains the same again, and
`labkit weights check` measures what is shipped once more, on held-out digits made here. Each model is a
pair of files: weights in float16 and, beside them, the settings, the hash and the figures.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from labkit import LabkitError
from labkit.data.digits import Digits
from labkit.evidence import evaluate_subsets
from labkit.files import sha256_of, write_atomic
from labkit.models.mvae import MVAE, MVAEConfig, digit_modalities
from labkit.train import TrainConfig, fit, isolated_rng

FOLDER = Path(__file__).parent
TOLERANCE = {"accuracy": 0.005, "farsi": 0.5, "kannada": 0.5, "speech": 0.001}  # other machines
DATA = Digits(n_train=20_000, n_val=1000, n_test=2000)
FIT = TrainConfig(16, 128, 5e-3, schedule="cosine", clip=100.0)


@dataclass(frozen=True)
class Recipe:
    """How a shipped model was made.

    Args:
        config: The model, half as wide as the teaching presets: it must be small on disk and in a page.
        data: What it has learnt from, and is measured on (the test split).
        fit: How it descended.
        seed: Seed of all of it.
    """

    config: MVAEConfig
    data: Digits = DATA
    fit: TrainConfig = FIT
    seed: int = 0

    @property
    def ramped(self) -> MVAEConfig:
        """The model with beta rising over all of training."""
        steps = self.fit.epochs * math.ceil(self.data.n_train / self.fit.batch_size)
        return replace(self.config, kl_steps=steps)


def _narrow(latent: int, beta: float) -> MVAEConfig:
    return MVAEConfig(
        digit_modalities((128, 128), (128, 128), (128, 128), (128, 128)),
        latent=latent, label_decoder=(128,), kl_weight=beta,
    )  # fmt: skip


# With two latents the poster's beta of 0.16 makes posteriors too narrow to see.
SHIPPED = {"mvae2": Recipe(_narrow(2, beta=1.0)), "mvae32": Recipe(_narrow(32, beta=0.16))}


@cache
def load(name: str) -> MVAE:
    """A shipped model, in eval mode, on the CPU; shared, so do not train it.

    Args:
        name: ``mvae2`` (two latent dimensions, to look at) or ``mvae32``.

    Raises:
        ValueError: on an unknown name.
        LabkitError: if the files are damaged.
    """
    recipe, path = _recipe(name), FOLDER / f"{name}.safetensors"
    if sha256_of(path) != facts(name)["sha256"]:
        raise LabkitError(f"{path} is damaged: install labkit again, or run labkit weights make")
    with isolated_rng(0, torch.device("cpu")):
        model = recipe.ramped.build()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval()


def facts(name: str) -> dict[str, Any]:
    """What stands beside the weights: sha256, settings, held-out figures by visible subset."""
    _recipe(name)
    return dict(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def make(name: str, folder: Path = FOLDER) -> Path:
    """Train a model by its recipe, measure what float16 leaves of it, and write both files."""
    recipe = _recipe(name)
    with isolated_rng(recipe.seed, torch.device("cpu")):
        model = recipe.ramped.build()
    fit(model, recipe.data.load("train"), recipe.fit, seed=recipe.seed)
    halves = {key: value.half() for key, value in model.state_dict().items()}
    model.load_state_dict({key: value.float() for key, value in halves.items()})
    path = folder / f"{name}.safetensors"
    write_atomic(path, save(halves))
    settings = {key: asdict(getattr(recipe, key)) for key in ("config", "data", "fit")}
    record = {
        "sha256": sha256_of(path),
        "held-out": measure(model, recipe),
        **settings,
        "seed": recipe.seed,
        "torch": torch.__version__,
    }
    write_atomic(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return path


def measure(model: MVAE, recipe: Recipe) -> dict[str, dict[str, float]]:
    """Held-out accuracy and errors (nats, nats, squared) for each set of visible modalities."""
    batch = recipe.data.load("test")
    table = evaluate_subsets(model, batch, torch.Generator().manual_seed(recipe.seed))
    return {name: {key: round(row[key], 5) for key in TOLERANCE} for name, row in table.items()}


def check(name: str) -> list[str]:
    """Measure a shipped model again; one line for each figure that is not what the file says."""
    said, found = facts(name)["held-out"], measure(load(name), _recipe(name))
    return [
        f"{name}, {subset} visible: {key} is {found[subset][key]}, the file says {value}"
        for subset, figures in said.items()
        for key, value in figures.items()
        if abs(found[subset][key] - value) > TOLERANCE[key]
    ]


def _recipe(name: str) -> Recipe:
    if name not in SHIPPED:
        raise ValueError(f"unknown weights {name!r}; labkit ships {', '.join(SHIPPED)}")
    return SHIPPED[name]
