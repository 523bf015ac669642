"""Lab of crops and mirror images (X-Norm): one for both streams or one each, and what becomes of labels.

It reads a finished table; the clip that it shows is made anew. A mirror turns the sign of u, the motion to
the right, or leaves it as it was, as the released code does: then the patch goes one way, and u says the
other. What clips show, and so which labels are wrong, is told by u here. What is inside the exchange is in
`labkit.live.insight`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from labkit.batch import Batch, add_noise
from labkit.data.clips import CLASSES
from labkit.exchanging import crops as reading
from labkit.exchanging.crops import FLIPS, PADDING, Place
from labkit.exchanging.measure import LEVELS
from labkit.exchanging.plan import LONG, Setting
from labkit.live import pictures
from labkit.live.exchange import BOTH as EVERY
from labkit.live.exchange import (
    CLEAN,
    SIDES,
    Noise,
    frame_of,
    noise_fields,
    noise_of,
    noise_said,
    signed,
)
from labkit.live.flowing import BLUE, GREY, RED
from labkit.live.insight import sum_ceiling
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, toggle, whole

ONE, TWO = "one for both", "one each"
BOTH = (True, False), (ONE, TWO)  # whether u turns, and the crop
DRAWS, ROWS = 40, 40  # draws and training clips to choose from
UNMEASURED = ", trained with u turned"  # of scores where u keeps its sign: nobody was trained so


def crops(setting: Setting, table: pd.DataFrame, seed: int = 0, states: Sequence[str] = ()) -> Lab:
    """One crop for both streams or one each, mirror images or none, dense parameters or pooled ones.

    Args:
        setting: Data and sizes; see `labkit.exchanging.plan`; procedural clips.
        table: Of `labkit.exchanging.measure.shift_table`; in its training mirrors turn u.
        seed: Of the clips that are shown.
        states: State lines; see `Lab`.

    Raises:
        ValueError: on other data than clips.
    """
    data = reading.recipe(setting, seed)
    ways = [*dict.fromkeys(table["way"])]
    fields = [
        ("crop", str, choice(TWO, (ONE, TWO), "crop", f"Where a training clip is cut, up to {PADDING} "
         "pixels off its middle: one place for both streams, or one for each, as in the released code.")),
        ("mirror", bool, toggle(False, "mirror", f"{FLIPS:.0%} of the training clips are mirrored, or, with "
         "a crop for each stream, of its clips. What moved to the right then moves to the left.")),
        ("negate", bool, toggle(True, "turn u", "In a mirror, u, the motion to the right, has to turn its "
         "sign. The released code mirrors the picture of flow and leaves u as it was: what is seen to go to "
         "the left is then said to go to the right.")),
        ("draw", int, whole(0, 0, DRAWS - 1, "draw", "Seed of crops and mirrors of the clip that is shown.")),
        ("row", int, whole(0, 0, min(ROWS, data.n_train) - 1, "clip", "Which training clip is shown.")),
        *noise_fields(),
    ]  # fmt: skip
    single, both = (_drawn(setting, seed, True, flow) for flow in (False, True))
    mirrored = {"crop": ONE, "mirror": True, "draw": both}
    presets: dict[str, Mapping[str, Any]] = {
        "As released": {**mirrored, "crop": TWO, "negate": False}, "One crop": {"crop": ONE},
        "Two crops": {"crop": TWO}, "Two mirrors, u turned": {**mirrored, "crop": TWO, "draw": single},
        "One mirror for both": mirrored, "One mirror, u kept": {**mirrored, "negate": False},
        "Noisy flow": {"noisy": "flow", "level": 1.0},
    }  # fmt: skip
    scores, wrong = _scores(table), _wrong(setting, seed)
    right, long = scores[ways[0]], scores.get(f"{ways[0]}, {LONG}")
    more = (
        f"With the long budget: {long[False, 0.0]:.0f} and {long[True, 0.0]:.0f} %. "
        if long
        else ""
    )
    question = Question(
        "A clip opens or closes something: polarity = handle XOR direction. The stream of colours is "
        "mirrored, the stream of motion is not. What does the clip show now?",
        ("the same verb", "its opposite", "neither"),
        answer=1,
        why=f"One of two signs turns, so their XOR does: the label is wrong. If each stream is mirrored by "
        f"itself, that is so for {wrong[True, TWO]:.0%} of the training clips, and "
        f"{ways[0]} is then right of {right[False, FLIPS]:.0f} %. Mirror both, and both signs turn: the verb "
        f"stays, and it is right of {right[True, FLIPS]:.0f} %. Without mirrors, when all labels hold, it is "
        f"right of {right[False, 0.0]:.0f} % with two crops, and of {right[True, 0.0]:.0f} % with one. {more}"
        "(The released code never turns u: there one sign alone turns even if both streams are mirrored.)",
        then={"crop": TWO, "mirror": True, "negate": True, "draw": single, "row": 0},
    )  # fmt: skip
    return Lab(
        "crops", "Crops and mirrors: do both streams look at the same place?",
        state_of("crops", fields, presets), lambda state: crops_pictures(setting, table, seed, state),
        question=question if data.rho == 1 else None, states=states,
    )  # fmt: skip


def _drawn(setting: Setting, seed: int, rgb: bool, flow: bool) -> int:
    """The first draw that mirrors just these streams, if each has its own draw."""
    each = (_places(setting, seed, draw, False, True) for draw in range(DRAWS))
    wanted = (rgb, flow)
    return next(
        i for i, found in enumerate(each)
        if (bool(found["rgb"].mirrored), bool(found["flow"].mirrored)) == wanted
    )  # fmt: skip


def _places(setting: Setting, seed: int, draw: int, joint: bool, mirror: bool) -> dict[str, Place]:
    """Where one clip is cut."""
    names, size = [name for name, _ in setting.modalities], reading.recipe(setting, seed).size
    return reading.places(names, 1, size, draw, joint, FLIPS * mirror)


def _wrong(setting: Setting, seed: int) -> dict[tuple[bool, str], float]:
    """(Whether u turns, crop) -> share of the training clips whose label is wrong, if half are mirrored."""
    return {
        (negate, crop): reading.wrong(setting, seed, crop == ONE, negate)
        for negate, crop in itertools.product(*BOTH)
    }  # fmt: skip


def crops_pictures(
    setting: Setting, table: pd.DataFrame, seed: int, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `crops`."""
    joint, flips = state.crop == ONE, FLIPS * state.mirror
    batch = reading.clip(setting, seed, state.row)
    found = _places(setting, seed, state.draw, joint, state.mirror)
    assert batch.y is not None
    was, now = int(batch.y), int(reading.seen(batch.factors, reading.by_u(found, state.negate)))
    unturned = state.mirror and not state.negate
    off, torn = float(reading.apart(found)), bool(found["flow"].mirrored) and unturned
    wrong = _wrong(setting, seed) if state.mirror else dict.fromkeys(itertools.product(*BOTH), 0.0)
    torn_share = reading.at_odds(setting, seed, joint) if unturned else 0.0
    noise = noise_of(state)
    scores, note = _scores(table, noise), UNMEASURED * unturned
    gap = {way: each[True, flips] - each[False, flips] for way, each in scores.items()}
    says = (
        f'Training clip {state.row}, "{CLASSES[was]}", draw {state.draw}, crop: {state.crop}. '
        + together([f"{name} is cut {_where(place)}" for name, place in found.items()])
        + f", {off:.1f} pixels apart. "
        + _at_odds(int(batch.factors["direction"])) * torn
        + (
            f'{"By u, it" if torn else "It"} now shows "{CLASSES[now]}": the label is wrong. '
            if now != was
            else f"{'By u, the' if torn else 'The'} label holds. "
        )
        + f"Trained so{', but with u turned' * unturned}, right of clips that are not shifted: "
        + together([f"{way} {each[joint, flips]:.1f} %" for way, each in scores.items()])
        + "."
        + noise_said(noise)
    )
    views = {"as it is": batch} | {
        crop: reading.shifted(batch, state.draw, crop == ONE, flips, state.negate)
        for crop in (ONE, TWO)
    }
    noisy = {crop: _with_noise(view, noise, state.row) for crop, view in views.items()}
    ceiling = sum_ceiling(setting)
    conditions = [(True, 0.0), (False, 0.0), (True, FLIPS), (False, FLIPS)]
    names = ["one crop", "two crops", "one, mirror", "two, mirror"]
    charts = {
        f"{way}: right of clips not shifted (%)": pictures.bars(
            names,
            [each[c] for c in conditions],
            says,
            high=100,
            unit="right (%)",
            marks=[ceiling] * 4 if ceiling else None,
            colors=[(BLUE if c == (joint, flips) and not note else GREY) for c in conditions],
        )
        for way, each in scores.items()
    }
    return {
        **charts,
        "clips whose label is wrong": pictures.bars(
            ["one, u turned", "two, u turned", "one, u kept", "two, u kept"], [*wrong.values()], says,
            unit="probability",
            colors=[RED if which == (state.negate, state.crop) else GREY for which in wrong],
        ),
        "a frame in training; orange moves to the right, purple to the left": pictures.images(
            np.stack([_row(noisy[crop], view) for crop, view in views.items()]), list(views),
            ["rgb", "flow", "both"],
            says, framed=[[shown] * 3 for shown in (False, joint, not joint)],
        ),
        "numbers": pictures.figures({
            "apart": (off, "pixels, the crops of this clip"),
            "label right": (float(now == was), "of this clip, by u; 1 = yes, 0 = no"),
            "wrong labels": (100 * wrong[state.negate, state.crop], "% of the training clips"),
            "at odds": (100 * torn_share, "% of them, patch and u"),
            **{f"{way}": (each[joint, flips], f"% right{note}") for way, each in scores.items()},
            **{f"{way}, gained": (value, f"points by one crop{note}") for way, value in gap.items()},
        }),
    }  # fmt: skip


def _at_odds(direction: int) -> str:
    """What a mirrored flow shows whose u keeps its sign."""
    return f"In flow the patch now goes to the {SIDES[1 - direction]}, and u says to the {SIDES[direction]}. "


def _scores(
    table: pd.DataFrame, noise: Noise = CLEAN
) -> dict[str, dict[tuple[bool, float], float]]:
    """Way -> (joint, flips) -> mean accuracy over seeds, with noise on a line between levels."""
    where, level = noise
    right = table["noisy"].map(lambda found: float(np.interp(level, LEVELS, found[where])))
    means = table.assign(right=right).groupby(["way", "joint", "flips"], sort=False)["right"].mean()
    ways = dict.fromkeys(table["way"])
    return {
        way: {(bool(joint), float(flips)): float(v) for (joint, flips), v in means[way].items()}
        for way in ways
    }


def _where(place: Place) -> str:
    """A place in words."""
    right, down = int(place.right), int(place.down)
    parts = [f"{abs(right)} to the {'right' if right > 0 else 'left'}"] * bool(right)
    parts += [f"{abs(down)} {'down' if down > 0 else 'up'}"] * bool(down)
    return (together(parts) if parts else "in the middle") + " and mirrored" * bool(place.mirrored)


def _with_noise(view: Batch, noise: Noise, seed: int) -> Batch:
    """A clip as it is seen with noise; a level scales one draw."""
    where, level = noise
    names = view.modalities if where == EVERY else (where,)
    return add_noise(view, dict.fromkeys(names, level), torch.Generator().manual_seed(seed))


def _row(view: Batch, clear: Batch) -> np.ndarray:
    """Middle frame of rgb, of flow, and where it moves, without noise, laid on rgb: (3, h, w, 3), 0 to 1."""
    middle = view.x["rgb"].shape[2] // 2
    colours, motion = (frame_of(view, name, middle) for name in ("rgb", "flow"))
    where = signed(clear.x["flow"][0, 0, middle].sign(), 1.0)
    both = np.where((where < 1).any(-1, keepdims=True), 0.6 * where + 0.4 * colours, colours)
    return np.stack((colours, motion, both))
