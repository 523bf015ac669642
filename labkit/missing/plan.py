"""What is trained for notebook 01: sizes by preset, and one `Kind` a thing varied."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import joblib
import torch

from labkit.batch import subset_name, subsets
from labkit.data.digits import MODALITIES, Digits
from labkit.models import mvae
from labkit.progress import progress_line
from labkit.store import Run, fit_once, fitted, store_root
from labkit.train import TrainConfig

SUBSETS = tuple(subset_name(row, MODALITIES) for row in subsets(len(MODALITIES)))


@dataclass(frozen=True)
class Kind:
    """One thing varied: an objective, a final KL weight, or the data.

    Args:
        objective: See `mvae.MVAEConfig`.
        kl_weight: beta at the end of its ramp. The poster's run was stopped at 0.16.
        speakers: "held-out": the test split is spoken by a speaker who is in no other split (speaker
            = seed mod 6).
        rho: Correlation of the style factors across modalities (procedural data).
        thickness: Scale of the Farsi pen (procedural data).
    """

    objective: mvae.Objective = "cross"
    kl_weight: float = 0.16
    speakers: Literal["shared", "held-out"] = "shared"
    rho: float = 0.0
    thickness: float = 1.0


KINDS = {
    "poster": Kind(),
    "cross": Kind(kl_weight=1.0),
    "own": Kind("own", kl_weight=1.0),
    "new speaker": Kind(speakers="held-out"),
    "linked styles": Kind(rho=0.9),
    "thin pen": Kind(thickness=0.45),
}
PROCEDURAL_ONLY = ("linked styles", "thin pen")


@dataclass(frozen=True)
class Plan:
    """Sizes of one preset and source.

    Args:
        data: The data; a seed replaces its own.
        fit: How the MVAEs descend.
        model: The MVAE, before a kind changes it.
        kinds: Names out of `KINDS`.
        rows: Held-out samples scored by importance sampling.
        draws: Importance draws for each of them.
    """

    data: Digits
    fit: TrainConfig
    model: mvae.MVAEConfig
    kinds: tuple[str, ...]
    rows: int
    draws: int

    def recipe(self, kind: str, seed: int) -> Digits:
        """Data of one kind and seed."""
        varied = KINDS[kind]
        data = replace(self.data, seed=seed, speakers=varied.speakers, held_out_speaker=seed % 6)
        if self.data.source == "real":
            return data
        return replace(data, rho=varied.rho, thickness=varied.thickness)

    def config(self, kind: str) -> mvae.MVAEConfig:
        """Model of one kind. beta rises over all of training to 0.16, or over its first half to 1."""
        varied = KINDS[kind]
        steps = self.fit.epochs * math.ceil(self.data.n_train / self.fit.batch_size)
        ramp = steps if varied.kl_weight < 1 else steps // 2
        return replace(
            self.model, objective=varied.objective, kl_weight=varied.kl_weight, kl_steps=ramp
        )

    def settings(self, kind: str, seed: int) -> tuple[mvae.MVAEConfig, Digits, TrainConfig, int]:
        """What `store.fit_once` takes."""
        return self.config(kind), self.recipe(kind, seed), self.fit, seed

    def state(self) -> dict[str, int | float | str]:
        """The sizes as the ledger keeps them beside the numbers."""
        return {
            "n_train": self.data.n_train,
            "n_test": self.data.n_test,
            "latent": self.model.latent,
            "epochs": self.fit.epochs,
            "batch_size": self.fit.batch_size,
            "lr": self.fit.lr,
            "optimizer": self.fit.optimizer,
            "importance_rows": self.rows,
            "importance_draws": self.draws,
        }


def sizes(preset: str, source: Literal["procedural", "real"] = "procedural") -> Plan:
    """Sizes of a preset: smoke (CI), quick (a laptop), full (the verdicts), paper (the poster's).

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    few, many = ("poster", "cross", "own", "new speaker"), tuple(KINDS)
    teaching = mvae.preset("teaching32")
    fit = TrainConfig(epochs=8, batch_size=128, lr=5e-3, schedule="cosine", clip=100.0)
    plans = {
        "smoke": Plan(
            Digits(n_train=1000, n_val=100, n_test=300),
            replace(fit, epochs=3, batch_size=32), teaching, few, rows=10, draws=100,
        ),
        "quick": Plan(
            Digits(n_train=6000, n_val=500, n_test=1000), fit, teaching, few, rows=20, draws=300
        ),
        "full": Plan(
            Digits(n_train=10_000, n_val=1000, n_test=3000),
            replace(fit, epochs=12), teaching, many, rows=64, draws=1000,
        ),
        "paper": Plan(
            Digits(n_train=48_000, n_val=12_000, n_test=20_000),
            TrainConfig(32, 128, 1e-3, "amsgrad"), mvae.preset("poster"), many, rows=100, draws=1000,
        ),
    }  # fmt: skip
    if preset not in plans:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(plans)}")
    chosen = plans[preset]
    if source == "procedural":
        return chosen
    kinds = tuple(kind for kind in chosen.kinds if kind not in PROCEDURAL_ONLY)
    limit = min(chosen.data.n_test, 10_000)  # Kannada-MNIST has 10,000 test images
    return replace(chosen, data=replace(chosen.data, source=source, n_test=limit), kinds=kinds)


Runs = Mapping[tuple[str, int], Run]


def train(plan: Plan, seeds: Sequence[int], device: str = "cpu") -> dict[tuple[str, int], Run]:
    """Train every kind with every seed, or find it in the store: (kind, seed) -> run.

    On a CPU the models are trained side by side, in as many processes as there are cores for them.
    """
    jobs = [(kind, seed) for kind in plan.kinds for seed in seeds]
    new = [job for job in jobs if not fitted(*plan.settings(*job))]
    threads = torch.get_num_threads()
    workers = min(len(new), (os.cpu_count() or 1) // threads)
    if device == "cpu" and workers > 1:
        parallel = joblib.Parallel(workers, return_as="generator_unordered")
        root = store_root()  # said to the workers, which may be older than the environment
        done = parallel(joblib.delayed(_train_quietly)(plan, *job, root, threads) for job in new)
        with progress_line("MVAEs trained", len(new), unit="model") as bar:
            for _ in done:
                bar.update()
    return {job: fit_once(*plan.settings(*job), device=device) for job in jobs}


def _train_quietly(plan: Plan, kind: str, seed: int, root: Path, threads: int) -> None:
    """One job of `train` in a worker process; the store hands the result over."""
    torch.set_num_threads(threads)
    fit_once(*plan.settings(kind, seed), root=root, progress=False)
