"""Labs of many scenes (DynMM, fusion level): whom a gate sends deep, what noise costs, how a gate learns.

They read trained networks from the store, but `noise`, which reads a finished table. One scene at a time is
in `labkit.live.scenes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labkit.data.noise import CHANCE
from labkit.data.rooms import SCENES
from labkit.fusing import reading
from labkit.fusing.measure import shuffled
from labkit.fusing.plan import Setting
from labkit.fusing.reading import Noisy
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.scenes import ORANGE, QUARTERS, procedural
from labkit.live.state import choice, toggle, whole
from labkit.metrics_segmentation import mean_iou
from labkit.models.dynmm_fusion import PATHS
from labkit.models.gates import shares

# Whom the gate sends where -----------------------------------------------------------------------------

ALL, THIRD = "every picture", "every third picture"
DRAWS = 5  # of paths dealt out anew
LABELS = [f"path {k}" for k in range(PATHS)]


def histogram(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = (),
    way: str | None = None,
) -> Lab:  # fmt: skip
    """Paths that the gate takes, by kind of scene, while noise grows.

    Args:
        setting: Data and sizes; see `labkit.fusing.plan`.
        seed: Of data and network.
        device: Where to compute.
        states: State lines; see `Lab`.
        way: Whose gate; None = annealed, the middle weight.

    Raises:
        ValueError: if the way has no trained gate.
    """
    way = reading.gate_way(setting, way)
    fields = [
        ("quarters", int, whole(0, 0, QUARTERS, "noise quarters", "Deviation of the noise in quarters of the "
         "picture's mean|x|: 4 is 1.")),
        ("mode", str, choice("depth", ("depth", "rgb"), "noise on", "Which modality is noisy.")),
        ("hit", str, choice(ALL, (ALL, THIRD), "hit", "The published test hits every third picture.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Clean": {}, "Noisy depth": {"quarters": 4}, "Noisy colour": {"quarters": 4, "mode": "rgb"},
        "The published test": {"quarters": 4, "hit": THIRD},
    }  # fmt: skip
    question = Question(
        "The gate's paths are dealt out anew: each as often as before, to other pictures. What can change?",
        ("what it costs", "how often each path runs", "only what is right"),
        answer=2,
        hides=("mIoU of the gate and of one path for all", "dealt out anew"),
        why="Cost and shares of the paths stay as they are, to the last picture. What mIoU loses is what the "
        "gate knows about pictures. If nothing is lost, its choice is as good as a lottery.",
    )
    return Lab(
        "histogram", "Path histogram: whom does the gate send deep?",
        state_of("histogram", fields, presets),
        lambda state: histogram_pictures(setting, way, seed, device, state),
        question=question if procedural(setting) else None, states=states,
    )  # fmt: skip


def histogram_pictures(
    setting: Setting, way: str, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `histogram`."""
    noise = (state.mode, state.quarters / 4, 1.0 if state.hit == ALL else CHANCE)
    batch = reading.crowd(setting, seed, *noise, device=device)
    paths = reading.chosen(setting, way, seed, *noise, device=device)
    each = torch.stack([
        reading.counts(setting, way, seed, reading.cells_of(k), *noise, device=device) for k in range(PATHS)
    ])  # fmt: skip
    scores = {
        "gate": dealt(each, paths),
        "dealt anew": float(np.mean([dealt(each, shuffled(paths, i)) for i in range(DRAWS)])),
        **{f"always {k}": dealt(each, torch.full_like(paths, k)) for k in range(PATHS)},
    }
    costs = torch.tensor(reading.path_costs(reading.network(setting, way, seed, device)))
    cost = 100 * float(costs[paths].mean())
    kinds = {"all pictures": torch.ones_like(paths, dtype=torch.bool)}
    if "scene" in batch.factors:
        kinds = {name: batch.factors["scene"].cpu() == i for i, name in enumerate(SCENES)}
    found = {name: shares(paths[rows], PATHS).numpy() for name, rows in kinds.items()}
    deepest = [f"{name} {v @ np.arange(PATHS):.1f}" for name, v in found.items()]
    says = (
        f"{state.mode} noise {state.quarters / 4:g} in {state.hit}, {len(paths)} pictures: cells that fuse, "
        f"mean: {together(deepest)}. mIoU {scores['gate']:.1f} %, with the same paths dealt out anew "
        f"{scores['dealt anew']:.1f} %, always path 4 {scores[f'always {PATHS - 1}']:.1f} %."
    )
    colors = [ORANGE, GREEN, *[GREY] * PATHS]
    return {
        **{
            f"{name} (%)": pictures.bars(
                LABELS, 100 * values, says, high=100, unit=f"% of {name}", colors=[BLUE] * PATHS
            )
            for name, values in found.items()
        },
        "mIoU of the gate and of one path for all": pictures.bars(
            [*scores], [*scores.values()], says, high=100, unit="mIoU (%)", colors=colors
        ),
        "numbers": pictures.figures({
            "gate": (scores["gate"], "% mIoU"),
            "dealt out anew": (scores["dealt anew"], f"% mIoU, mean of {DRAWS} draws"),
            "cost": (cost, "% of the deepest path's MAdds"),
            "paths in use": (reading.in_use(shares(paths, PATHS).numpy()), f"of {PATHS}"),
        }),
    }  # fmt: skip


def dealt(each: Tensor, paths: Tensor) -> float:
    """Score (mIoU in %) where each picture takes its path (B,), from matrices (5, B, C, C)."""
    return 100 * float(mean_iou(each[paths, torch.arange(len(paths))].sum(0)))


# Noise ------------------------------------------------------------------------------------------------

LINES = {
    "gate": (ORANGE, ()), "always full": (BLUE, (6, 3)), "best early exit": (GREEN, (2, 3)),
    "dealt out anew": (GREY, (8, 3, 2, 3)),
}  # fmt: skip
SHORT = {
    "gate": "gate",
    "always full": "full",
    "best early exit": "early exit",
    "dealt out anew": "dealt",
}


def noise(
    table: pd.DataFrame, way: str, best: Mapping[int, str], states: Sequence[str] = ()
) -> Lab:  # fmt: skip
    """Scores over the noise level, of a gate and of networks of one path.

    Args:
        table: Of `measure.noise_table`, with the gate, "static 4" and the early exits.
        way: The gate.
        best: Seed -> the early exit that was best on its validation split (`measure.best_static`).
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the table lacks a way or a seed.
    """
    found = reading.noisy_of(table, way, best)
    modes, last = [*found.miou], len(found.levels) - 1
    mode = "depth" if "depth" in modes else modes[0]
    steps = ", ".join(f"{v:g}" for v in found.levels)
    fields = [
        ("level", int, whole(0, 0, last, "step of noise", f"How far the lines are drawn, from 0: {steps}, "
         "in units of mean|x|.")),
        ("mode", str, choice(mode, modes, "noise on", "Which modality may be hit; either: one of both.")),
        *[
            (SHORT[name].replace(" ", "_"), bool, toggle(True, SHORT[name], help))
            for name, help in (
                ("gate", f"The gate: {way}."), ("always full", "A network of its own that always fuses."),
                ("best early exit", "Of networks that all stop at one cell, the best on validation."),
                ("dealt out anew", "The gate's paths, dealt out to other pictures."),
            )
        ],
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {"Clean": {"level": 0}, "All of it": {"level": last}}
    presets |= {f"Noise on {each}": {"mode": each} for each in modes}
    order = [*LINES][:3]
    drops = [_drop(found, mode, name, last) for name in order]
    question = Question(
        f"Noise of {found.levels[-1]:g} on {mode}, in every third picture. Which loses the least?",
        ("the gate", "the network that always fuses", "the best early exit"),
        answer=int(np.argmin(drops)),
        why=f"With noise on {mode} the gate loses {drops[0]:.1f} points, the network that always fuses "
        f"{drops[1]:.1f}, the best early exit {drops[2]:.1f}. Compare a gate with networks of one path "
        "before believing that choosing makes robust.",
        then={"mode": mode, "level": last},
    )  # fmt: skip
    return Lab(
        "weather", "Noise curves: does choosing make robust?", state_of("weather", fields, presets),
        lambda state: noise_pictures(found, state), question=question, states=states,
    )  # fmt: skip


def until(values: Any, last: int) -> np.ndarray:
    """Values up to an index, NaN beyond: a line that has come so far."""
    line = np.array(values, np.float32)
    line[last + 1 :] = np.nan
    return line


def _drop(found: Noisy, mode: str, name: str, level: int) -> float:
    """Points of mIoU lost at a level, mean over seeds and draws."""
    mean = found.miou[mode][name].mean((0, 2))
    return float(mean[0] - mean[level])


def noise_pictures(found: Noisy, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `noise`."""
    shown = [name for name in LINES if getattr(state, SHORT[name].replace(" ", "_"))]
    if not shown:
        raise ValueError(f"nothing is shown: tick at least one of {', '.join(SHORT.values())}")
    values = found.miou[state.mode]
    means = {name: values[name].mean((0, 2)) for name in LINES}
    i, level = state.level, float(found.levels[state.level])
    gap = values["gate"] - values["always full"]
    anew = values["gate"] - values["dealt out anew"]
    drops = {name: _drop(found, state.mode, name, i) for name in LINES}
    says = f"Noise {level:g} on {state.mode}: mIoU " + ", ".join(
        f"{name} {means[name][i]:.1f} % (lost {drops[name]:.1f})" for name in shown
    )
    says += f". Gate less always full: {gap[:, i].mean():+.1f} points."
    lines = [pictures.line(SHORT[name], until(means[name], i), *LINES[name]) for name in shown]
    every = np.concatenate([means[name] for name in shown])
    limits = 5 * np.floor(every.min() / 5), 5 * np.ceil((every.max() + 0.01) / 5)
    ahead = {"gate - full": gap.mean((0, 2)), "gate - dealt": anew.mean((0, 2))}
    gaps = [
        pictures.line("gate - full", until(ahead["gate - full"], i), BLUE, (6, 3)),
        pictures.line("gate - dealt", until(ahead["gate - dealt"], i), GREY, (8, 3, 2, 3)),
        pictures.line("equal", np.zeros(len(found.levels)), "", (1, 3)),
    ]
    most = max(1.0, float(np.ceil(1.1 * max(np.abs(each).max() for each in ahead.values()))))
    top = max(1.0, 1.1 * max(drops.values()))
    return {
        "mIoU over the noise": pictures.curves(
            found.levels, lines, "noise (mean|x|)", "mIoU (%)", says, limits=limits, marker=level
        ),
        "what the gate is ahead": pictures.curves(
            found.levels, gaps, "noise (mean|x|)", "points of mIoU", says, limits=(-most, most),
            marker=level,
        ),
        "lost at this noise": pictures.bars(
            [SHORT[name] for name in shown], [max(drops[name], 0.0) for name in shown], says, high=top,
            unit="points of mIoU", colors=[LINES[name][0] for name in shown],
        ),
        "numbers": pictures.figures({
            "level": (level, "of the noise, in mean|x|"),
            **{f"{SHORT[name]} lost": (drops[name], "points of mIoU") for name in LINES},
            "gate less full": (float(gap[:, i].mean()), "points"),
            "spread": (float(gap[:, i].std()), "points, sd of it over seeds and draws"),
        }),
    }  # fmt: skip


# While it learns ---------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _trainings(setting: Setting, way: str, seed: int, device: str) -> tuple[dict[str, Any], ...]:
    """The same training without stage I, and with it."""
    bare = replace(setting, explore=0.0)
    return tuple(reading.annealing(each, way, seed, device) for each in (bare, setting))


def anneal(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = (),
    way: str | None = None,
) -> Lab:  # fmt: skip
    """A training of an annealed gate, epoch by epoch, with stage I or without; arguments as `histogram`."""
    way = reading.gate_way(setting, way)
    if not way.startswith("annealed"):
        raise ValueError(f"way must be annealed: a hard gate has no temperature; got {way!r}")
    epochs = [round(e) for e in _trainings(setting, way, seed, device)[1]["epoch"]]
    last = len(epochs) - 1
    fields = [
        ("look", int, whole(0, 0, last, "look", f"When: after {', '.join(map(str, epochs))} epochs.")),
        ("stage1", bool, toggle(True, "stage I", f"Random paths in the first {setting.explore:.0%} of the "
         "steps, before the gate chooses.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Before training": {"look": 0}, "Half way": {"look": last // 2}, "Trained": {"look": last},
        "Without stage I": {"stage1": False},
    }  # fmt: skip
    question = Question(
        "The soft gate mixes all paths, the hard one takes the likeliest. The temperature falls to 0.001. "
        "What becomes of the difference of their mIoU?",
        ("it grows", "it stays", "it closes"),
        answer=2,
        why="The colder, the nearer the soft weights are to 0 and 1: in the end both are the same network. "
        "One that stays warm is tested on what it was never trained to be.",
        then={"look": last, "stage1": True},
    )
    return Lab(
        "anneal", "Anneal player: from mixing to choosing", state_of("anneal", fields, presets),
        lambda state: anneal_pictures(setting, way, seed, device, state),
        question=question if procedural(setting) else None, states=states,
    )  # fmt: skip


def anneal_pictures(
    setting: Setting, way: str, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `anneal`."""
    both, i = _trainings(setting, way, seed, device), state.look
    found, other = both[state.stage1], both[not state.stage1]
    x, marker = np.array(found["epoch"]), float(found["epoch"][i])
    used = [[reading.in_use(paths) for paths in each["paths"]] for each in both]
    gap = np.array(found["soft"]) - np.array(found["hard"])
    says = (
        f"{'With' if state.stage1 else 'Without'} stage I, after {marker:g} epochs: temperature "
        f"{found['temperature'][i]:.3g}, entropy of the gate {found['entropy'][i]:.2f} nats, "
        f"{used[state.stage1][i]:.1f} paths in use. mIoU on the validation split: soft "
        f"{found['soft'][i]:.1f} %, hard {found['hard'][i]:.1f} %."
    )
    share = np.array(found["entropy"]) / np.log(PATHS)

    def seen(name: str, values: Any, color: str = "", dash: Sequence[int] = ()) -> dict[str, Any]:
        return pictures.line(name, until(values, i), color, dash)

    heat = np.array(found["temperature"]) / found["temperature"][0]
    top = 5 * np.ceil(max(*found["soft"], *found["hard"], 1) / 5)
    return {
        "mIoU on the validation split": pictures.curves(
            x,
            [seen("soft", found["soft"], BLUE), seen("hard", found["hard"], ORANGE, (6, 3))],
            "epoch", "mIoU (%)", says, limits=(0, top), marker=marker,
        ),
        "temperature and entropy, from 1": pictures.curves(
            x, [seen("temperature", heat, RED, (2, 3)), seen("entropy", share)],
            "epoch", "share of the largest", says, limits=(0, 1.02), marker=marker,
        ),
        "paths in use: with stage I and without": pictures.curves(
            x, [seen("with", used[1], BLUE), seen("without", used[0], RED, (6, 3))],
            "epoch", "paths", says, limits=(0, PATHS + 0.1), marker=marker,
        ),
        "pictures by path; ticks: the other training": pictures.bars(
            LABELS, found["paths"][i], says, unit="probability", colors=[BLUE] * PATHS,
            marks=other["paths"][i],
        ),
        "numbers": pictures.figures({
            "epoch": (marker, f"of {x[-1]:g}"),
            "temperature": (found["temperature"][i], ""),
            "entropy": (found["entropy"][i], f"nats of {np.log(PATHS):.2f}"),
            "soft less hard": (float(gap[i]), "points of mIoU"),
            "paths in use": (used[state.stage1][i], f"of {PATHS}"),
        }),
    }  # fmt: skip
