"""Lab of the shoot-out: hide modalities, add noise, set a budget: who is right, and who knows this sample?

Scores are read from a finished table. What is said of one sample is computed as the sliders move, by the
trained networks of one seed; what is not in the store yet is trained when the lab first asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch

from labkit.batch import Batch, subset_name
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREEN, GREY
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, number, toggle, whole
from labkit.shootout.entries import Entry
from labkit.shootout.measure import ALL, CLEAN, noisy, split_of
from labkit.shootout.plan import NEAREST, PREDICTOR, TRAINED_TWICE, Setting
from labkit.shootout.reading import front, named

PLACES = ("first", "second", "third")
UNITS = {"madds": ("thousand MAdds", 1e3), "weights": ("thousand weights", 1e3)}
TRAINED = {"all": (False, True), "on complete data": (False,), "on gaps": (True,)}
SIDE = 24  # pixels of a modality's picture, at least
SHORT = {
    f"{way}{gaps}": f"{short}{gaps}" for gaps in ("", ", gaps")
    for way, short in (("Gradient-Blending", "Blending"), (PREDICTOR, "predictor"))
}  # fmt: skip


def shootout(
    studies: Mapping[str, Setting], table: pd.DataFrame, seed: int = 0, device: str = "cpu",
    states: Sequence[str] = (),
) -> Lab:  # fmt: skip
    """Every method on one data set, with what is visible, noisy and affordable under the hand.

    Args:
        studies: Data -> setting, of `labkit.shootout.plan.studies`.
        table: Of `labkit.shootout.measure.table`, on the same data.
        seed: Of the networks that are asked about one sample.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the table lacks one of the data sets, or noise.
    """
    missing = [name for name in studies if name not in set(table["data"])]
    if missing:
        raise ValueError(f"table must have all data sets, lacks {', '.join(missing)}")
    names, most = [*studies], max(len(setting.names) for setting in studies.values())
    places = PLACES[:most]
    whose = [
        ", ".join(
            f"{each.names[i]} ({name})" for name, each in studies.items() if i < len(each.names)
        )
        for i in range(most)
    ]
    highest = float(table["level"].max())
    if not highest > 0:
        raise ValueError("table must have a level of noise above 0")
    last = PLACES[len(studies[names[0]].names) - 1]
    rows = min(len(_test(setting, seed, device)) for setting in studies.values())
    fields = [
        ("data", str, choice(names[0], names, "data", "On which data set.")),
        *(
            (place, bool, toggle(True, place, f"Is it visible? {said}."))
            for place, said in zip(places, whose, strict=True)
        ),
        ("noisy", str, choice(ALL, (*places, ALL), "noise on", "Which modality is noisy.")),
        ("level", float, number(0.0, 0.0, highest, "noise", "Deviation over the mean magnitude. "
         "Right answers are those of the nearest level that was measured; the sample has just this one.")),
        ("budget", float, number(1.0, 0.0, 1.0, "budget", "What a method may cost, as a share.")),
        ("over", str, choice("madds", tuple(UNITS), "cost", "madds: multiply-adds of an answer; weights: of "
         "the network.")),
        ("trained", str, choice("on gaps", tuple(TRAINED), "trained", "Methods trained on complete data, or "
         "with modalities hidden in training, or all. The nearest mean and the MVAE are there in any case.")),
        ("sample", int, whole(0, 0, rows - 1, "sample", "Which held-out sample all are asked about.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "All there": {},
        f"The {places[0]} is missing": {places[0]: False},
        f"Only the {last}": {place: place == last for place in places},
        "Noise on all": {"level": highest},
        "Noise on the first": {"level": highest, "noisy": places[0]},
        "Half the money": {"budget": 0.5},
        "Trained on complete data": {places[0]: False, "trained": "on complete data"},
    }
    return Lab(
        "shootout", "Shoot-out: who is right when something is missing, noisy or dear?",
        state_of("shootout", fields, presets),
        lambda state: shootout_pictures(studies, table, seed, device, state),
        question=_question(table, names), states=states,
    )  # fmt: skip


def _question(table: pd.DataFrame, names: Sequence[str]) -> Question | None:
    """What training on gaps is worth for early fusion, with the first modality missing."""
    name = names[0]
    clean = table[(table["data"] == name) & (table["noisy"] == CLEAN) & (table["way"] == "early")]
    if clean.empty:
        return None
    kept = max(clean["visible"], key=len).split("+")[1:]
    part = clean[clean["visible"] == "+".join(kept)]
    plain, gaps = (part[part["gaps"] == on]["accuracy"].mean() for on in (False, True))
    whole = clean[(clean["visible"] == max(clean["visible"], key=len)) & ~clean["gaps"]][
        "accuracy"
    ].mean()
    if np.isnan(plain) or np.isnan(gaps):
        return None
    gain = gaps - plain
    return Question(
        f"{name}: early fusion, trained on complete data, is right of {whole:.0f} %. Now the first modality "
        f"is missing, and {plain:.0f} % are left. How many if modalities were hidden at random in training?",
        ("fewer", "up to five points more", "more than that"),
        answer=0 if gain < 0 else 1 if gain <= 5 else 2,
        why=f"{gaps:.0f} %. It is the same network at the same price; what is missing now was missing in "
        "training at times.",
        then={PLACES[0]: False, "trained": "all"},
    )  # fmt: skip


# Pictures -----------------------------------------------------------------------------------------


def shootout_pictures(
    studies: Mapping[str, Setting], table: pd.DataFrame, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `shootout`."""
    setting = studies[state.data]
    visible = [bool(getattr(state, place)) for place in PLACES[: len(setting.names)]]
    shown = subset_name(visible, setting.names)
    name, level = nearest(table, setting, state)
    entries = entries_of(setting, state)
    part = table[
        (table["data"] == state.data) & (table["noisy"] == name) & (table["level"] == level)
    ]
    found = part.groupby(["way", "gaps", "visible"])[
        ["accuracy", "madds", "weights", "floor"]
    ].mean()
    floor = float(part["floor"].mean())
    right, cost = {}, {}
    for way, gaps in entries:
        entry = named(way, gaps)
        if any(visible):
            row = found.loc[(way, gaps, shown)]
            right[entry], cost[entry] = float(row["accuracy"]), float(row[state.over])
        else:  # there is nothing to ask, and nothing to pay
            right[entry], cost[entry] = floor, 0.0
    unit, scale = UNITS[state.over]
    limit = max(state.budget * max(cost.values()), min(cost.values()))
    within = [entry for entry in cost if cost[entry] <= limit * (1 + 1e-9)]
    on = front(cost, right)
    order = sorted(cost, key=lambda entry: (cost[entry], right[entry]))
    best = max(within, key=lambda entry: (right[entry], -cost[entry]))
    said = _asked(studies, state, seed, device, visible) if any(visible) else None
    truth = _test(setting, seed, device).y
    assert truth is not None
    label = int(truth[state.sample])
    noise = "no noise" if name == CLEAN else f"noise of {level:g} on {name}"
    says = (
        f"{state.data}: visible {shown}, {noise}. "
        f"For at most {limit / scale:,.0f} {unit} the best is {best}, {right[best]:.1f} % right. "
        f"Better than all that cost less: {together(on)}. Majority: {floor:.1f} %."
    )  # fmt: skip
    if said is not None:
        hits = sum(int(p.argmax()) == label for p in said.values())
        says += f" Sample {state.sample} is of class {label}: {hits} of {len(said)} methods say so."
    colors = [BLUE if e == best else GREEN if e in on else GREY for e in order]
    labels = [f"{SHORT.get(e, e)}{' *' if e in on else ''}" for e in order]
    probabilities = [
        0.0 if said is None else float(said[e][label]) if e in said else 0.0 for e in order
    ]
    return {
        "right (%), the cheapest first; *: on the front; ticks: majority": pictures.bars(
            labels, [right[e] for e in order], says, high=100, unit="right (%)", colors=colors,
            marks=[floor] * len(order),
        ),
        "what it costs; ticks: the budget": pictures.bars(
            labels, [cost[e] / scale for e in order], says, high=max(*cost.values(), 1.0) / scale, unit=unit,
            colors=colors, marks=[limit / scale] * len(order),
        ),
        "the sample, as it is seen": _seen(studies, state, seed, device, visible, says),
        "what each gives its class; ticks: chance": pictures.bars(
            labels, probabilities, says, unit="probability", colors=colors,
            marks=[1 / setting.classes] * len(order),
        ),
        "numbers": pictures.figures({
            "best": (right[best], f"% right, {best}"),
            "cost": (cost[best] / scale, unit),
            "on the front": (len(on), f"of {len(order)} entries"),
            **_lead(right),
        }),
    }  # fmt: skip


def entries_of(setting: Setting, state: Any) -> list[tuple[str, bool]]:
    """Those that are shown: by how they were trained, and the nearest mean and the MVAE always."""
    return [
        (way, gaps) for way, gaps in setting.ways
        if gaps in TRAINED[state.trained] or way in (NEAREST, "MVAE")
    ]  # fmt: skip


def _lead(right: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """What training on gaps is worth, where both ways are shown, all else alike."""
    both = [right[f"{e}, gaps"] - right[e] for e in TRAINED_TWICE if {e, f"{e}, gaps"} <= {*right}]
    return (
        {"lead of gaps": (float(np.mean(both)), "points, mean over methods trained both ways")}
        if both
        else {}
    )


def nearest(table: pd.DataFrame, setting: Setting, state: Any) -> tuple[str, float]:
    """The condition of the table that is nearest to a state: which modality is noisy, and how much."""
    levels = sorted({0.0, *table["level"]})
    level = min(levels, key=lambda each: abs(each - state.level))
    place = PLACES.index(state.noisy) if state.noisy in PLACES else None
    if level == 0 or (place is not None and place >= len(setting.names)):
        return CLEAN, 0.0
    return (ALL if place is None else setting.names[place]), level


def _test(setting: Setting, seed: int, device: str) -> Batch:
    return split_of(setting, seed, "test", device)


@lru_cache(maxsize=8)
def _noise(setting: Setting, seed: int, device: str) -> dict[str, torch.Tensor]:
    """What noise of level 1 adds to the test split: each level adds a multiple of it."""
    test = _test(setting, seed, device)
    return {name: x - test.x[name] for name, x in noisy(test, (ALL, 1.0), seed).x.items()}


@lru_cache(maxsize=128)
def _entry(setting: Setting, way: str, gaps: bool, seed: int, device: str) -> Entry:
    return Entry(setting, way, gaps, seed, device)


def _sample(
    studies: Mapping[str, Setting], state: Any, seed: int, device: str, visible: Sequence[bool]
) -> Batch:
    """The sample as it is seen: with its noise, the same as in the table, and without what is hidden."""
    setting = studies[state.data]
    one = _test(setting, seed, device)[state.sample : state.sample + 1]
    place = PLACES.index(state.noisy) if state.noisy in PLACES else None
    noise = _noise(setting, seed, device)
    x = {
        name: values + state.level * noise[name][state.sample] if place in (None, i) else values
        for i, (name, values) in enumerate(one.x.items())
    }
    one = replace(one, x=x)
    return one.with_observed(torch.tensor([visible], device=one.device) & one.observed)


def _asked(
    studies: Mapping[str, Setting], state: Any, seed: int, device: str, visible: Sequence[bool]
) -> dict[str, torch.Tensor]:
    """Entry -> probabilities (K,) of the sample; who sees nothing of it is left out."""
    setting, said = studies[state.data], {}
    one = _sample(studies, state, seed, device, visible)
    for way, gaps in entries_of(setting, state):
        reads = setting.reads(way)
        if not any(
            here and name in reads for name, here in zip(setting.names, visible, strict=True)
        ):
            continue
        logits, _ = _entry(setting, way, gaps, seed, device).answer(one)
        said[named(way, gaps)] = logits[0].softmax(0).cpu()
    return said


def _seen(
    studies: Mapping[str, Setting],
    state: Any,
    seed: int,
    device: str,
    visible: Sequence[bool],
    says: str,
) -> Picture:
    """All modalities of the sample as grey pictures, those that are visible framed, hidden ones blank."""
    setting = studies[state.data]
    whole = _sample(studies, state, seed, device, [True] * len(setting.names))
    scale = _test(setting, seed, device)
    tiles = []
    for name, here in zip(setting.names, visible, strict=True):
        x = whole.x[name][0]
        low, high = scale.x[name][:200].min(), scale.x[name][:200].max()
        flat = _flat((x - low) / (high - low).clamp(min=1e-6))
        tiles.append(flat if here else np.ones_like(flat))
    height, width = (max(tile.shape[i] for tile in tiles) for i in (0, 1))
    pixels = np.array([[_stretched(tile, height, width) for tile in tiles]])
    return pictures.images(pixels, [], [*setting.names], says, framed=np.array([visible]))


def _flat(x: torch.Tensor) -> np.ndarray:
    """A sample as one grey picture: the middle frame of a clip's mean over channels, channels over steps."""
    if x.ndim == 4:
        x = x[:, x.shape[1] // 2].mean(0)
    elif x.ndim == 1:
        x = x[None].expand(4, -1)
    elif x.shape[0] == 1:
        x = x.expand(4, -1)
    values: np.ndarray = x.clamp(0, 1).cpu().numpy()
    return values.T if x.ndim == 2 and x.shape[0] < SIDE <= x.shape[1] else values


def _stretched(tile: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels repeated until they fill the frame."""
    rows, columns = (np.arange(n) * tile.shape[i] // n for i, n in enumerate((height, width)))
    return tile[rows][:, columns]
