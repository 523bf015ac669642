"""What is measured for notebook 09: right answers with each set of modalities, under noise, and the cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labkit import metrics
from labkit.batch import Batch, add_noise, subset_name, subsets
from labkit.shootout.entries import Entry
from labkit.shootout.plan import ALONE, PAIRED, PREDICTOR, REGRESSION, TAUGHT, Setting
from labkit.sweep import sweep

ROWS = 512  # samples at a time
ALL = "all"  # noise on every modality
CLEAN = "nothing"

Condition = tuple[str, float]  # which modality is noisy, and how much


def levels(preset: str) -> tuple[float, ...]:
    """Levels of noise, 0 left out: deviations over the mean magnitude of a modality."""
    return (0.5, 1.0, 2.0) if preset in ("full", "paper") else (1.0,)


def conditions(setting: Setting, levels: Sequence[float]) -> list[Condition]:
    """No noise; each level of noise on each modality; each level on all."""
    return [
        (CLEAN, 0.0),
        *((name, level) for name in (*setting.names, ALL) for level in levels),
    ]


def visible_names(setting: Setting) -> list[str]:
    """Names of all sets of modalities, everything last."""
    return [subset_name(row, setting.names) for row in subsets(len(setting.names))]


def noisy(batch: Batch, condition: Condition, seed: int) -> Batch:
    """The samples with noise on one modality or all: the same noise for every method and every level."""
    name, level = condition
    if name == CLEAN:
        return batch
    generator = torch.Generator(batch.device).manual_seed(seed)
    wanted = batch.modalities if name == ALL else (name,)
    return add_noise(batch, dict.fromkeys(wanted, level), generator)


def loudness(setting: Setting, seed: int) -> dict[str, float]:
    """Modality -> deviation of noise of level 1 over the modality's own, of a number from sample to sample.

    The unit of a level, the mean magnitude, counts an offset as signal: one level is not as loud everywhere.
    """
    test = split_of(setting, seed, "test")
    found = {}
    for name, x in noisy(test, (ALL, 1.0), seed).x.items():
        here = test.observed[:, test.column(name)]
        clean = test.x[name][here]
        found[name] = float((x[here] - clean).std() / clean.var(0).mean().sqrt())
    return found


def loudness_table(studies: Mapping[str, Setting], seed: int) -> pd.DataFrame:
    """`loudness` of every data set: ``data``, ``modality``, ``noise of level 1`` in deviations."""
    return pd.DataFrame([
        {"data": name, "modality": modality, "noise of level 1": round(value, 1)}
        for name, setting in studies.items() for modality, value in loudness(setting, seed).items()
    ])  # fmt: skip


@lru_cache(maxsize=4)
def split_of(setting: Setting, seed: int, split: str, device: str = "cpu") -> Batch:
    """A split with the setting's modalities alone, kept: real clips take long to read."""
    batch: Batch = setting.recipe(seed).load(split, device=device)
    return batch.only(*setting.names) if len(setting.names) < len(batch.modalities) else batch


def majority(setting: Setting, seed: int, device: str = "cpu") -> int:
    """The class of who sees nothing: the most frequent one in training, the smallest of equals."""
    y = split_of(setting, seed, "train", device).y
    assert y is not None
    return int(y.bincount().argmax())


@torch.no_grad()
def asked(
    setting: Setting,
    answer: Callable[[Batch], tuple[Tensor, Tensor]],
    reads: Sequence[str],
    levels: Sequence[float],
    seed: int,
    device: str = "cpu",
) -> dict[str, list[list[float]]]:
    """Ask a method about the test split: a row each condition, a column each set of visible modalities.

    Args:
        setting: Data.
        answer: Samples that miss something -> logits (B, K), and which expert gave each, 1 if it is the dear
            one or there is but one.
        reads: Which modalities it can read. Where none of them is visible, the class that was the most
            frequent in training is the answer, and costs nothing.
        levels: Of noise.
        seed: Of the data, and of the noise.
        device: Where to compute.

    Returns:
        ``right``: right answers in %; ``dear``, ``cheap``: share of answers of either expert.
    """
    test = split_of(setting, seed, "test", device)
    assert test.y is not None
    guess = majority(setting, seed, device)
    every = subsets(len(setting.names)).to(device)
    can = torch.tensor([name in reads for name in setting.names], device=device)
    found: dict[str, list[list[float]]] = {"right": [], "dear": [], "cheap": []}
    for condition in conditions(setting, levels):
        changed = noisy(test, condition, seed)
        rows: dict[str, list[float]] = {name: [] for name in found}
        for mask in every:
            here = mask & can & test.observed
            blind = ~here.any(1)
            some = (~blind).nonzero()[:, 0]
            said = torch.full_like(test.y, guess)
            path = torch.full_like(test.y, -1)
            for piece in some.split(ROWS) if len(some) else ():  # nobody is asked about nothing
                part = changed[piece]
                logits, path[piece] = answer(part.with_observed(here[piece]))
                said[piece] = logits.argmax(1)
            rows["right"].append(100 * float((said == test.y).double().mean()))
            rows["dear"].append(float((path == 1).double().mean()))
            rows["cheap"].append(float((path == 0).double().mean()))
        for name, values in rows.items():
            found[name].append(values)
    return found


def scored(
    setting: Setting, entry: tuple[str, bool], levels: tuple[float, ...], seed: int, device: str = "cpu"
) -> dict[str, Any]:  # fmt: skip
    """`asked` of one entry; its ``weights``, ``madds`` under each condition; ``floor``, the majority rate."""
    way, gaps = entry
    method = Entry(setting, way, gaps, seed, device)
    costs = method.costs()
    found = asked(setting, method.answer, setting.reads(way), levels, seed, device)
    spent = [
        [dear * costs["madds"] + cheap * costs["cheap"] for dear, cheap in zip(*each, strict=True)]
        for each in zip(found["dear"], found["cheap"], strict=True)
    ]
    return {
        "right": found["right"], "madds": spent, "weights": costs["weights"],
        "floor": floor(setting, seed, device),
    }  # fmt: skip


def floor(setting: Setting, seed: int, device: str = "cpu") -> float:
    """Right answers of who always says the most frequent class of the training split, in %."""
    train, test = (split_of(setting, seed, split, device).y for split in ("train", "test"))
    assert train is not None
    assert test is not None
    return 100 * metrics.majority_rate(train, test)


def table(
    studies: Mapping[str, Setting],
    levels: Sequence[float],
    seeds: Sequence[int],
    device: str = "cpu",
) -> pd.DataFrame:
    """Every entry on every data set: a row a condition and set of visible modalities.

    Returns:
        Columns ``data``, ``way``, ``gaps``, ``seed``, ``visible``, ``noisy``, ``level``, ``accuracy`` and
        ``floor`` (%), ``madds`` of an answer (mean over samples), ``weights``.
    """
    frames = []
    for name, setting in studies.items():
        entries = ordered(setting)
        grid: dict[str, list[Any]] = {
            "setting": [setting], "entry": entries, "levels": [tuple(levels)], "device": [device]
        }  # fmt: skip
        found = sweep(scored, grid, seeds, workers=None if device == "cpu" else 1)
        place = {entry: i for i, entry in enumerate(setting.ways)}
        found = found.sort_values("entry", key=lambda each: each.map(place), kind="stable")
        frames += [
            long(setting, levels, dict(row)).assign(data=name) for _, row in found.iterrows()
        ]
    return pd.concat(frames, ignore_index=True)


def ordered(setting: Setting) -> list[tuple[str, bool]]:
    """Entries, those first that others build on: so that no two processes wait for one."""
    early = (
        ("early", False),
        ("early", True),
        (PREDICTOR, False),
        (f"{setting.cheap} {ALONE}", False),
    )

    def place(entry: tuple[str, bool]) -> int:
        if entry in early:
            return 0
        if entry == ("DiCMoR", True):  # on DiCMoR's flows, which are on its predictor
            return 3
        built = entry[0] in ("DynMM", "DiCMoR", REGRESSION, PAIRED) or entry[0].endswith(
            f" {TAUGHT}"
        )
        return 2 if built else 1

    return sorted(setting.ways, key=place)


def long(setting: Setting, levels: Sequence[float], row: Mapping[str, Any]) -> pd.DataFrame:
    """What `scored` gave, with its ``entry`` and ``seed``, as rows of `table`."""
    way, gaps = row["entry"]
    names = visible_names(setting)
    return pd.DataFrame([
        {
            "way": way, "gaps": gaps, "seed": row["seed"], "visible": visible, "noisy": which, "level": level,
            "accuracy": right, "floor": row["floor"], "madds": spent, "weights": row["weights"],
        }
        for (which, level), rights, costs in zip(
            conditions(setting, levels), row["right"], row["madds"], strict=True
        )
        for visible, right, spent in zip(names, rights, costs, strict=True)
    ])  # fmt: skip


def entered(
    name: str, studies: Mapping[str, Setting], make: Callable[[Setting, int], Callable[[Batch], Tensor]],
    madds: Callable[[Setting], float], levels: Sequence[float], seeds: Sequence[int],
    reads: Sequence[str] | None = None, device: str = "cpu",
) -> pd.DataFrame:  # fmt: skip
    """Rows of `table` for a model of your own, to put beside the others.

    Args:
        name: What to call it.
        studies: Data -> setting.
        make: Setting and seed -> your trained model: a function from a batch of B samples, of which some miss
            something (`Batch.observed`; zeros stand there), to logits (B, K).
        madds: Setting -> multiply-adds of one answer; see `labkit.madds.counted`.
        levels: Of noise.
        seeds: Of the data.
        reads: Which modalities it can read; None = all.
        device: Where to compute.

    Raises:
        ValueError: if the model gives another shape than (B, classes).
    """
    frames = []
    for data, setting in studies.items():
        for seed in seeds:
            answer = _answering(setting, make(setting, seed))
            found = asked(setting, answer, reads or setting.names, levels, seed, device)
            row = {
                "entry": (name, False), "seed": seed, "right": found["right"], "weights": float("nan"),
                "madds": [[madds(setting) * share for share in each] for each in found["dear"]],
                "floor": floor(setting, seed, device),
            }  # fmt: skip
            frames.append(long(setting, levels, row).assign(data=data))
    return pd.concat(frames, ignore_index=True)


def _answering(
    setting: Setting, predict: Callable[[Batch], Tensor]
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """What `asked` wants, from a function that gives logits alone."""

    def answer(batch: Batch) -> tuple[Tensor, Tensor]:
        logits = predict(batch.aligned(dict(setting.modalities)))
        if tuple(logits.shape) != (len(batch), setting.classes):
            raise ValueError(
                f"your model must give ({len(batch)}, {setting.classes}) for {len(batch)} samples, got "
                f"{tuple(logits.shape)}"
            )
        return logits, torch.ones(len(batch), dtype=torch.int64, device=batch.device)

    return answer


def mixture(
    *entries: tuple[str, bool], device: str = "cpu"
) -> Callable[[Setting, int], Callable[[Batch], Tensor]]:
    """A model made of entries: the mean of their probabilities. What `entered` takes as ``make``.

    Raises:
        ValueError: by what is returned, on an entry that cannot read all modalities.
    """

    def make(setting: Setting, seed: int) -> Callable[[Batch], Tensor]:
        for way, _ in entries:
            if setting.reads(way) != setting.names:
                raise ValueError(
                    f"entries must read all of {', '.join(setting.names)}; {way!r} does not"
                )
        members = [Entry(setting, *entry, seed, device) for entry in entries]
        return lambda batch: (
            torch.stack([each.answer(batch)[0].softmax(1) for each in members]).mean(0).log()
        )

    return make


def mixture_madds(
    *entries: tuple[str, bool], seed: int = 0, device: str = "cpu"
) -> Callable[[Setting], float]:
    """What an answer of a `mixture` of that seed costs: the sum over its entries."""
    return lambda setting: sum(
        Entry(setting, *entry, seed, device).costs()["madds"] for entry in entries
    )
