"""What is asked of networks in notebook 04: teachers that lose channels, and what their students learn.

A `Setting` is a data set with a pair of networks. For every seed the pair is trained once and kept (`pair`);
its teacher's channels are ranked; and each student is one point of a sweep (`student`), with the same first
weights and the same order of samples whatever its teacher lost, so that students are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch
from labkit.data.faces import Faces
from labkit.data.sounds import Sounds
from labkit.models.mfh import Distillation
from labkit.models.mfh_networks import (
    MODES,
    Branch,
    ClassifierNet,
    Joint,
    JointNet,
    cached,
    frozen,
    frozen_by_index,
    labels_of,
    paper,
    student_of,
    taught,
)
from labkit.store import Run, fit_once, once
from labkit.sweep import sweep
from labkit.train import TrainConfig, fit, isolated_rng

# No teacher; the paper's modes; what makes most of the logits stays; positions in place of ranks.
WAYS = ("alone", *MODES, "heavy", "truth", "index")


@dataclass(frozen=True)
class Setting:
    """A data set, a pair of networks, and how they are trained.

    Args:
        data: The data; a seed replaces its own (and chooses the fold, where there are folds).
        joint: Teacher and student.
        fit: How the pair descends.
        lesson: How a student descends.
        loss: What a student minimises. The released RAVDESS code has no labels in it.
    """

    data: Any
    joint: Joint
    fit: TrainConfig
    lesson: TrainConfig
    loss: Distillation = Distillation(labels=0.0, reduction="batchmean")  # noqa: RUF009

    def recipe(self, seed: int) -> Any:
        """Data of one seed: drawn by it, or, of the real clips, the fold of this number."""
        real = getattr(self.data, "source", "procedural") == "real"
        return replace(self.data, fold=seed % 5) if real else replace(self.data, seed=seed)


SIZES = {  # training samples, held-out samples, epochs on procedural and on real data
    "smoke": (240, 300, 8, 8),
    "quick": (1200, 1000, 25, 40),
    "full": (1200, 1000, 40, 60),
}


def emotions(preset: str, source: Literal["procedural", "real"] = "procedural") -> Setting:
    """The teacher hears and the student sees: sizes of smoke, quick, full, and paper.

    The paper's networks read pictures of faces, which the real pack does not have: its faces are 35 numbers,
    and its student a network of three layers. "paper" is "full" with the paper's audio network in front.

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    if preset not in (*SIZES, "paper"):
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(SIZES)}, paper")
    train, test, made, real = SIZES["full" if preset == "paper" else preset]
    # Pictures in [0, 1] are brought around 0.
    heard = Branch((40, 100 if source == "real" else 64), center=0.5, scale=0.25)
    if preset == "paper":
        heard = replace(paper("audio"), shape=heard.shape, center=0.5, scale=0.25)
    if source == "real":
        data, face, epochs = Faces(source="real"), Branch((35,)), real
    else:
        data, epochs = Faces(n_train=train, n_test=test), made
        face = Branch((3, 32, 64), center=0.5, scale=0.25)
    fit = TrainConfig(epochs, 64, 1e-3, schedule="cosine")
    return Setting(data, Joint(("audio", heard), ("face", face)), fit, fit)


def clips(preset: str) -> Setting:
    """Things that sound and move, after VGGSound: sizes of smoke, quick, full, and paper (as full).

    Raises:
        ValueError: on an unknown preset; the message lists the known ones.
    """
    sizes = {"smoke": (200, 200, 5), "quick": (1000, 1000, 15), "full": (1000, 1000, 15)}
    sizes["paper"] = sizes["full"]
    if preset not in sizes:
        raise ValueError(f"unknown preset {preset!r}; choose one of {', '.join(sizes)}")
    train, test, epochs = sizes[preset]
    heard = Branch((64, 64), center=0.3, scale=0.3)
    seen = Branch((3, 8, 16, 16), center=0.4, scale=0.25)
    fit = TrainConfig(epochs, 64, 1e-3, schedule="cosine")
    joint = Joint(("audio", heard), ("video", seen), classes=20)
    return Setting(Sounds(n_train=train, n_test=test), joint, fit, fit)


def pair(setting: Setting, seed: int, device: str = "cpu") -> Run:
    """Teacher and student trained jointly, or found in the store (Algorithm 1, step 1)."""
    return fit_once(
        setting.joint, setting.recipe(seed), setting.fit, seed, device=device, progress=False
    )


def agreed(setting: Setting, seed: int, device: str = "cpu") -> dict[str, Any]:
    """What the pair knows, and how its teacher's channels rank.

    Returns:
        ``teacher``, ``student``: held-out accuracy in %, and ``teacher_train``, ``student_train``; ``scores``
        and ``heaviness`` of the D channels (see `mfh_networks.Channels`), and their `generality` where the
        latents are known; ``majority``: held-out, of the most frequent training label, in %.
    """
    net, splits = _pair_and_data(setting, seed, device)
    found: dict[str, Any] = {}
    for split, ending in (("test", ""), ("train", "_train")):
        for name, model in (("teacher", net.a), ("student", net.b)):
            found[name + ending] = _right(model.predict(splits[split]), splits[split])
    channels = cached(net, splits["train"])
    found["scores"] = channels.scores().tolist()
    found["heaviness"] = channels.heaviness().tolist()
    if "shared" in splits["train"].factors:
        found["generality"] = generality(channels.z, splits["train"]).tolist()
    y = {name: labels_of(batch) for name, batch in splits.items()}
    found["majority"] = 100 * metrics.majority_rate(y["train"], y["test"])
    return found


def student(
    setting: Setting, way: str, ratio: float, seed: int, device: str = "cpu"
) -> dict[str, float]:
    """Train one student and test it.

    Args:
        setting: Data and networks.
        way: ``alone``: on labels, without a teacher; one of `mfh_networks.MODES`: the teacher of `pair` with
            so many channels frozen; ``heavy``: it keeps what makes most of its logits, whatever a student
            sees; ``truth``: what knows most of the latents that both show (`generality`; data with factors);
            ``index``: frozen as the released VGGSound code does; ``given audio``, ``given face``: the
            published teachers of the real clips.
        ratio: Share of the channels that are frozen.
        seed: Seed of data, pair, first weights and order.
        device: Where to train.

    Returns:
        Held-out accuracy in %: ``student``, ``teacher`` (nan if alone), and the student's on the training
        split, ``train``.
    """
    net, splits = _pair_and_data(setting, seed, device)
    loss, logits = setting.loss, {}
    if way == "alone":
        loss = Distillation(teacher=0.0)
    elif way.startswith("given "):
        logits = {name: batch.factors[f"teacher_{way[6:]}"] for name, batch in splits.items()}
    else:
        channels = cached(net, splits["train"])
        ranks = generality(channels.z, splits["train"]) if way == "truth" else channels.scores()
        ranks = channels.heaviness() if way == "heavy" else ranks
        lost, mean = lose(ranks, way, ratio, seed), channels.z.mean(0)
        logits = {name: cached(net, batch).logits(lost, mean) for name, batch in splits.items()}
    learner = taught_student(setting, splits, logits, loss, seed)
    return {
        "student": _right(learner.predict(splits["test"]), splits["test"]),
        "teacher": _right(logits["test"], splits["test"]) if logits else float("nan"),
        "train": _right(learner.predict(splits["train"]), splits["train"]),
    }


def taught_student(
    setting: Setting,
    splits: dict[str, Batch],
    logits: dict[str, Tensor],
    loss: Distillation,
    seed: int,
) -> ClassifierNet:
    """A fresh student, trained on the training split with these teacher's logits beside it."""
    config = student_of(setting.joint, loss)
    batch = splits["train"]
    with isolated_rng(seed, torch.device("cpu")):
        learner = config.build().to(batch.device)
    shown = batch.only(setting.joint.b[0])
    fit(
        learner, taught(shown, logits["train"]) if logits else shown, setting.lesson, seed=seed,
        progress=False,
    )  # fmt: skip
    return learner.requires_grad_(False)


def lose(ranks: Tensor, way: str, ratio: float, seed: int) -> Tensor:
    """Which of a teacher's channels are frozen, (D,) bool, where `ranks` (D,) is what the way ranks by.

    Raises:
        ValueError: on an unknown way or a ratio outside [0, 1].
    """
    if way == "index":
        return frozen_by_index(ranks, ratio)
    mode: Any = "general" if way in ("heavy", "truth") else way
    return frozen(ranks, mode, ratio, torch.Generator().manual_seed(seed))


def generality(z: Tensor, batch: Batch) -> Tensor:
    """Of what a teacher's channel knows about the latents, the share that its student sees, (D,) in [0, 1].

    R^2 of the channel explained linearly by the latents that both show, over that and the R^2 by those that
    the teacher's modality alone shows. Dead channels, which know nothing, have 0.

    Args:
        z: Channels, (N, D).
        batch: The samples they are of, with factors ``shared`` and ``audio_only``.

    Raises:
        ValueError: if the batch does not know these factors (real data).
    """
    if not {"shared", "audio_only"} <= batch.factors.keys():
        raise ValueError("generality needs the factors shared and audio_only: procedural faces")
    alive = z.var(0) > 1e-8
    known = [
        torch.where(alive, _explained(z, batch.factors[n]), 0.0) for n in ("shared", "audio_only")
    ]
    return known[0] / (known[0] + known[1]).clamp(min=1e-6)


def _explained(z: Tensor, x: Tensor) -> Tensor:
    """R^2 of each channel (N, D), explained linearly by x (N, K): (D,)."""
    z, x = z - z.mean(0), x - x.mean(0)
    left = z - x @ torch.linalg.lstsq(x, z).solution
    return 1 - left.square().sum(0) / z.square().sum(0).clamp(min=1e-12)


def bands(setting: Setting, seed: int, repeats: int = 3, device: str = "cpu") -> dict[str, Any]:
    """Algorithm 1 at the input, by permutation: permute one frequency band of the held-out sounds at a time.

    Returns:
        For each band, lowest first: ``score``, excess distance of the teacher's logits from the student's;
        ``importance``, their distance from what they were; ``kind``, see `Faces.bands`.
    """
    net, splits = _pair_and_data(setting, seed, device)
    batch = splits["test"]
    name, x = setting.joint.a[0], batch.x[setting.joint.a[0]]
    before, pupil = net.a.predict(batch), net.b.predict(batch)
    base = (before - pupil).square().mean()
    generator = torch.Generator().manual_seed(seed)
    score, importance = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    for band in range(x.shape[1]):
        for _ in range(repeats):
            moved = x.clone()
            moved[:, band] = x[torch.randperm(len(x), generator=generator).to(x.device), band]
            after = net.a.predict(Batch({name: moved}, y=batch.y))
            score[band] += ((after - pupil).square().mean() - base) / repeats
            importance[band] += (after - before).square().mean() / repeats
    kinds = setting.data.bands()
    return {"score": score.tolist(), "importance": importance.tolist(), "kind": kinds}


def _pair_and_data(setting: Setting, seed: int, device: str) -> tuple[JointNet, dict[str, Batch]]:
    net = pair(setting, seed, device).model
    assert isinstance(net, JointNet)
    data = setting.recipe(seed)
    return net.requires_grad_(False), {s: data.load(s, device=device) for s in ("train", "test")}


def _right(logits: Tensor, batch: Batch) -> float:
    return 100 * float(metrics.accuracy(logits, labels_of(batch)))


def lessons(
    setting: Setting, seeds: Sequence[int], ways: Sequence[str], ratios: Sequence[float], device: str = "cpu"
) -> pd.DataFrame:  # fmt: skip
    """Students of a setting, side by side in processes: ``way``, ``ratio``, ``seed`` and `student`'s."""
    grid = {"setting": [setting], "way": ways, "ratio": ratios, "device": [device]}
    found = sweep(student, grid, seeds, workers=None if device == "cpu" else 1)
    return found.drop(columns=["setting", "device"])


def all_lessons(
    setting: Setting, seeds: Sequence[int], ratio: float, device: str = "cpu"
) -> pd.DataFrame:
    """All that notebook 04 asks of a setting; at other ratios than `ratio` only the ways that rank."""
    workers = None if device == "cpu" else 1
    sweep(agreed, {"setting": [setting], "device": [device]}, seeds, workers=workers)  # pairs first
    made = setting.data.source == "procedural"
    ranked = ("general", "heavy", *(("truth",) if made else ()))
    whole = ("alone", "all", *(() if made else ("given audio", "given face")))
    others = tuple(r for r in (0.25, 0.5, 0.75, 0.9) if r != ratio)
    return pd.concat([
        lessons(setting, seeds, whole, (0.0,), device),
        lessons(setting, seeds, (*ranked, "random", "specific"), (ratio,), device),
        lessons(setting, seeds, ranked, others, device),
    ], ignore_index=True)  # fmt: skip


def clip_lessons(setting: Setting, seeds: Sequence[int], device: str = "cpu") -> pd.DataFrame:
    """Students of teachers that lost a share of their channels, by rank and by index."""
    ratios = (0.25, 0.5, 0.75, 0.9)
    for seed in seeds:
        pair(setting, seed, device)  # else two processes would want the same one
    return pd.concat([
        lessons(setting, seeds, ("alone", "all"), (0.0,), device),
        lessons(setting, seeds, ("general", "index"), ratios, device),
    ], ignore_index=True)  # fmt: skip


def pair_of(setting: Setting, seed: int, device: str = "cpu") -> dict[str, Any]:
    """`agreed`, kept."""
    return once(agreed, setting=setting, seed=seed, device=device)


def bands_of(setting: Setting, seed: int, device: str = "cpu") -> dict[str, Any]:
    """`bands`, kept."""
    return once(bands, setting=setting, seed=seed, device=device)


def state(setting: Setting) -> dict[str, Any]:
    """The sizes as the ledger keeps them beside the numbers."""
    return {
        "epochs": setting.fit.epochs, "batch_size": setting.fit.batch_size, "lr": setting.fit.lr,
        "distance": setting.joint.distance, "channels": setting.joint.a[1].channels,
    }  # fmt: skip
