"""Lab of crops and mirror images (X-Norm): one for both streams or one each, and what becomes of labels.

It reads a finished table; the clip that it shows is made anew. What is inside the exchange is in
`labkit.live.insight`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from labkit.batch import Batch
from labkit.data.clips import CLASSES
from labkit.exchanging import crops as reading
from labkit.exchanging.crops import FLIPS, PADDING, Place
from labkit.exchanging.plan import Setting
from labkit.live import pictures
from labkit.live.exchange import frame_of, signed
from labkit.live.flowing import BLUE, GREY, RED
from labkit.live.insight import sum_ceiling
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, toggle, whole

ONE, TWO = "one for both", "one each"
DRAWS, ROWS = 40, 40  # draws and training clips to choose from


def crops(setting: Setting, table: pd.DataFrame, seed: int = 0, states: Sequence[str] = ()) -> Lab:
    """One crop for both streams or one each, mirror images or none, dense parameters or pooled ones.

    Args:
        setting: Data and sizes; see `labkit.exchanging.plan`; procedural clips.
        table: Of `labkit.exchanging.measure.shift_table`.
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
        ("draw", int, whole(0, 0, DRAWS - 1, "draw", "Seed of crops and mirrors of the clip that is shown.")),
        ("row", int, whole(0, 0, min(ROWS, data.n_train) - 1, "clip", "Which training clip is shown.")),
    ]  # fmt: skip
    single = _single(setting, seed)
    presets: dict[str, Mapping[str, Any]] = {
        "As released": {"crop": TWO, "mirror": True, "draw": single}, "One crop": {"crop": ONE},
        "Two crops": {"crop": TWO}, "One mirror for both": {"crop": ONE, "mirror": True, "draw": single},
    }  # fmt: skip
    right = _scores(table)[ways[0]]
    question = Question(
        "A clip opens or closes something: polarity = handle XOR direction. The stream of colours is "
        "mirrored, the stream of motion is not. What does the clip show now?",
        ("the same verb", "its opposite", "neither"),
        answer=1,
        why=f"One of two signs turns, so their XOR does: the label is wrong. If each stream is mirrored by "
        f"itself, that is so for {reading.wrong(setting, seed, False):.0%} of the training clips, and "
        f"{ways[0]} is then right of {right[False, FLIPS]:.0f} %. Mirror both, and both signs turn: the verb "
        f"stays, and it is right of {right[True, FLIPS]:.0f} %. Without mirrors, when all labels hold, it is "
        f"right of {right[False, 0.0]:.0f} % with two crops, and of {right[True, 0.0]:.0f} % with one.",
        then={"crop": TWO, "mirror": True, "draw": single, "row": 0},
    )  # fmt: skip
    return Lab(
        "crops", "Crops and mirrors: do both streams look at the same place?",
        state_of("crops", fields, presets), lambda state: crops_pictures(setting, table, seed, state),
        question=question if data.rho == 1 else None, states=states,
    )  # fmt: skip


def _single(setting: Setting, seed: int) -> int:
    """The first draw that mirrors colours and not motion, if both are drawn."""
    each = (_places(setting, seed, draw, False, True) for draw in range(DRAWS))
    return next(
        i for i, found in enumerate(each) if found["rgb"].mirrored and not found["flow"].mirrored
    )


def _places(setting: Setting, seed: int, draw: int, joint: bool, mirror: bool) -> dict[str, Place]:
    """Where one clip is cut."""
    names, size = [name for name, _ in setting.modalities], reading.recipe(setting, seed).size
    return reading.places(names, 1, size, draw, joint, FLIPS * mirror)


def crops_pictures(
    setting: Setting, table: pd.DataFrame, seed: int, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `crops`."""
    joint, flips = state.crop == ONE, FLIPS * state.mirror
    batch = reading.clip(setting, seed, state.row)
    found = _places(setting, seed, state.draw, joint, state.mirror)
    assert batch.y is not None
    was, now = int(batch.y), int(reading.seen(batch.factors, found))
    off = float(reading.apart(found))
    wrong = {
        name: reading.wrong(setting, seed, name == ONE) if state.mirror else 0.0
        for name in (ONE, TWO)
    }
    scores = _scores(table)
    gap = {way: each[True, flips] - each[False, flips] for way, each in scores.items()}
    says = (
        f'Training clip {state.row}, "{CLASSES[was]}", draw {state.draw}, crop: {state.crop}. '
        + together([f"{name} is cut {_where(place)}" for name, place in found.items()])
        + f", {off:.1f} pixels apart. "
        + (
            f'It now shows "{CLASSES[now]}": the label is wrong. '
            if now != was
            else "The label holds. "
        )
        + "Trained so, right of clips as they are: "
        + together([f"{way} {each[joint, flips]:.1f} %" for way, each in scores.items()])
        + "."
    )
    views = {"as it is": batch} | {
        name: reading.shifted(batch, state.draw, name == ONE, flips) for name in (ONE, TWO)
    }
    ceiling = sum_ceiling(setting)
    conditions = [(True, 0.0), (False, 0.0), (True, FLIPS), (False, FLIPS)]
    names = ["one crop", "two crops", "one, mirror", "two, mirror"]
    charts = {
        f"{way}: right of clips as they are (%)": pictures.bars(
            names,
            [each[c] for c in conditions],
            says,
            high=100,
            unit="right (%)",
            marks=[ceiling] * 4 if ceiling else None,
            colors=[(BLUE if c == (joint, flips) else GREY) for c in conditions],
        )
        for way, each in scores.items()
    }
    return {
        **charts,
        "clips whose label is wrong": pictures.bars(
            [*wrong], [*wrong.values()], says, unit="probability",
            colors=[RED if name == state.crop else GREY for name in wrong],
        ),
        "a frame in training; orange moves to the right, purple to the left": pictures.images(
            np.stack([_row(view) for view in views.values()]), list(views), ["rgb", "flow", "both"],
            says, framed=[[shown] * 3 for shown in (False, joint, not joint)],
        ),
        "numbers": pictures.figures({
            "apart": (off, "pixels, the crops of this clip"),
            "label right": (float(now == was), "of this clip; 1 = yes, 0 = no"),
            "wrong labels": (100 * wrong[state.crop], "% of the training clips"),
            **{f"{way}": (each[joint, flips], "% right") for way, each in scores.items()},
            **{f"{way}, gained": (value, "points by one crop") for way, value in gap.items()},
        }),
    }  # fmt: skip


def _scores(table: pd.DataFrame) -> dict[str, dict[tuple[bool, float], float]]:
    """Way -> (joint, flips) -> mean accuracy over seeds."""
    means = table.groupby(["way", "joint", "flips"], sort=False)["accuracy"].mean()
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


def _row(view: Batch) -> np.ndarray:
    """Middle frame of rgb, of flow, and where it moves laid on rgb: (3, h, w, 3), 0 to 1."""
    middle = view.x["rgb"].shape[2] // 2
    colours, motion = (frame_of(view, name, middle) for name in ("rgb", "flow"))
    where = signed(view.x["flow"][0, 0, middle].sign(), 1.0)
    both = np.where((where < 1).any(-1, keepdims=True), 0.6 * where + 0.4 * colours, colours)
    return np.stack((colours, motion, both))
