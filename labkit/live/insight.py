"""Labs of what is inside an exchange (X-Norm): gamma and beta while it learns, and how alike streams become.

They read finished records of `labkit.exchanging.reading.learning`, and trained networks from the store. What
crops and mirror images do to streams that exchange maps is in `labkit.live.cropping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from labkit.data.clips import Clips, ceilings
from labkit.drawing import pick
from labkit.exchanging import reading
from labkit.exchanging.plan import Setting
from labkit.live import pictures
from labkit.live.annealing import until
from labkit.live.flowing import BLUE, GREEN, GREY, RED
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, toggle, whole

Record = Mapping[str, Sequence[Any]]
Records = Mapping[str, Sequence[Record]]
WAY = "X-Norm"
STREAMS = (BLUE, RED)  # of the first and of the second modality
DASHES: tuple[tuple[int, ...], ...] = ((), (6, 3), (2, 3), (8, 3, 2, 3))  # of sites, or of stages
BEFORE = "before the exchange"
LINES: dict[str, tuple[str, tuple[int, ...]]] = {
    "late": (GREY, (2, 3)), WAY: (BLUE, ()), BEFORE: (RED, (6, 3)),
}  # fmt: skip
PARTS, MIDDLE = ("gamma", "beta"), (0.05, 0.95)  # of what is told; where its middle begins and ends
NEAR = 5.0  # points within which two accuracies are the same
ALIKE = 0.05  # CKA within which two pairs of streams are as alike


def averaged(records: Records, way: str) -> dict[str, np.ndarray]:
    """Mean over the trainings of a way, of each number of a record at each look; of quantiles, (looks, Q).

    Raises:
        ValueError: if the records lack the way, or have no training of it.
    """
    each = pick(records, way, "records")
    if not each:
        raise ValueError(f"records must have at least one training of {way}, got none")
    return {name: np.mean([record[name] for record in each], 0) for name in each[0]}


def look_field(epochs: np.ndarray) -> tuple[str, Any, Any]:
    """The field ``look``: at which of these epochs."""
    when = ", ".join(f"{e:g}" for e in epochs)
    return ("look", int, whole(0, 0, len(epochs) - 1, "look", f"When: after {when} epochs."))


def trainings(n: int) -> str:
    """How many trainings, in words."""
    return "one training" if n == 1 else f"mean of {n} trainings"


# Sites --------------------------------------------------------------------------------------------


def sites(
    setting: Setting, records: Records, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:  # fmt: skip
    """Gamma and beta over training, and the trained network with some of them cut.

    Args:
        setting: Data and sizes; see `labkit.exchanging.plan`.
        records: Way -> a record a seed, as of `labkit.exchanging.reading.learning`: "X-Norm", and for the
            question "late".
        seed: Of the network that is cut.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the records have no X-Norm.
    """
    found = averaged(records, WAY)
    last = len(found["epoch"]) - 1
    told = {f"cut_{name.replace(' ', '_')}": place for name, place in places(setting).items()}
    fields = [
        look_field(found["epoch"]),
        *[
            (field, bool, toggle(False, f"cut {name}", f"At test time {name.split()[0]} is told nothing "
             f"after stage {name.split()[1]}; the network is the trained one."))
            for field, name in zip(told, places(setting), strict=True)
        ],
    ]  # fmt: skip

    def cutting(*streams: int) -> dict[str, Any]:
        return {"look": last} | {field: m in streams for field, (_, m) in told.items()}

    names = [name for name, _ in setting.modalities]
    presets: dict[str, Mapping[str, Any]] = {
        "Before training": {"look": 0}, "Half way": {"look": last // 2}, "Trained": {"look": last},
        **{f"{name} hears nothing": cutting(m) for m, name in enumerate(names)},
        "No exchange at all": cutting(0, 1),
    }  # fmt: skip
    return Lab(
        "sites", "Sites: gamma and beta while X-Norm learns", state_of("sites", fields, presets),
        lambda state: sites_pictures(setting, records, seed, device, state),
        question=_silenced(setting, records, seed, device, cutting(0, 1)), states=states,
    )  # fmt: skip


def places(setting: Setting) -> dict[str, tuple[int, int]]:
    """What a stream is told, ``rgb 1`` after the first stage, -> (site, stream)."""
    return {
        f"{name} {i + 1}": (i, m)
        for i in setting.sites
        for m, (name, _) in enumerate(setting.modalities)
    }


def _silenced(
    setting: Setting, records: Records, seed: int, device: str, then: Mapping[str, Any]
) -> Question | None:
    """What is left of X-Norm without exchange, beside late fusion; needs to know late fusion."""
    if "late" not in records:
        return None
    late = float(averaged(records, "late")["accuracy"][-1])
    bare = reading.without(setting, WAY, seed, tuple(places(setting).values()), device)
    entire = reading.without(setting, WAY, seed, (), device)
    answer = 0 if bare < late - NEAR else 2 if bare > late + NEAR else 1
    return Question(
        f"X-Norm without sites is late fusion. Trained with them it is right of {entire:.0f} %; late "
        f"fusion, trained as such, of {late:.0f} %. Now all that the streams of the trained X-Norm are told "
        "is cut. Is it right of fewer clips than late fusion, as many, or more?",
        ("fewer", f"as many, within {NEAR:g} points", "more"),
        answer=answer,
        hides=(_cut_view(setting), "all cut"),
        why=f"{bare:.0f} %. The later stages and the heads were trained on maps that had been scaled and "
        "shifted; without, they read maps that they have never seen. Cutting says how much a network relies "
        "on something, not what it would have learnt without it: that is what the control with its own "
        "parameters is for.",
        then=then,
    )  # fmt: skip


def sites_pictures(
    setting: Setting, records: Records, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `sites`."""
    found, i = averaged(records, WAY), state.look
    x, marker = found["epoch"], float(found["epoch"][i])
    told = places(setting)
    cut = [name for name in told if getattr(state, f"cut_{name.replace(' ', '_')}")]

    def right(chosen: Sequence[str]) -> float:
        return reading.without(setting, WAY, seed, tuple(told[name] for name in chosen), device)

    looks = {
        name: (STREAMS[m], DASHES[setting.sites.index(site) % len(DASHES)])
        for name, (site, m) in told.items()
    }
    moved = {name: found[f"moved {site}/{m}"] for name, (site, m) in told.items()}
    spread = {
        f"{part} {name}": found[f"{part} {site}/{m}"]
        for part in PARTS
        for name, (site, m) in told.items()
        if f"{part} {site}/{m}" in found
    }
    bars = {"nothing cut": right([]), **{f"cut {name}": right([name]) for name in told}}
    bars |= {"all cut": right([*told]), "as ticked": (now := right(cut))}
    says = (
        f"After {marker:g} epochs, {trainings(len(records[WAY]))}: the exchange moves "
        + together([f"{name} by {values[i]:.2f}" for name, values in moved.items()])
        + f" times its own size; {found['accuracy'][i]:.1f} % right on the validation split. The trained "
        f"network of seed {seed} with {together(cut) if cut else 'nothing'} cut in the test: {now:.1f} % "
        f"right, uncut {bars['nothing cut']:.1f} %."
    )
    orders, widths = _orders(found, told, looks, i, says)
    ceiling = sum_ceiling(setting)
    ticks = {} if ceiling is None else {"marks": [ceiling] * len(bars)}
    top = float(np.ceil(2.2 * max(values.max() for values in moved.values())) / 2)
    return {
        "size of the change over the maps' own": pictures.curves(
            x, [pictures.line(name, until(values, i), *looks[name]) for name, values in moved.items()],
            "epoch", "size of the change", says, limits=(0, top), marker=marker,
        ),
        "deviation of gamma and beta; ticks: untrained": pictures.bars(
            list(spread), [values[i] for values in spread.values()], says,
            high=max(values.max() for values in spread.values()), unit="deviation",
            marks=[values[0] for values in spread.values()],
            colors=[STREAMS[told[name.partition(" ")[2]][1]] for name in spread],
        ),
        **orders,
        "right on the validation split": pictures.curves(
            x, [pictures.line(way, until(averaged(records, way)["accuracy"], i), *LINES[way])
                for way in ("late", WAY) if way in records],
            "epoch", "right (%)", says, limits=(0, 102), marker=marker,
        ),
        _cut_view(setting): pictures.bars(
            list(bars), list(bars.values()), says, high=100, unit="right (%)", **ticks,
            colors=[GREY, *[STREAMS[m] for _, m in told.values()], GREY, GREEN],
        ),
        "numbers": pictures.figures({
            "epoch": (marker, f"of {x[-1]:g}"),
            "validation": (float(found["accuracy"][i]), "% right then"),
            "as ticked": (now, f"% right of {reading.CROWD} held-out, trained"),
            "nothing cut": (bars["nothing cut"], "% right"), "all cut": (bars["all cut"], "% right"),
            **widths,
        }),
    }  # fmt: skip


def _cut_view(setting: Setting) -> str:
    ticks = sum_ceiling(setting) is not None
    return "trained, cut in the test (% right)" + "; ticks: a sum's most" * ticks


def _orders(
    found: Mapping[str, np.ndarray], told: Mapping[str, tuple[int, int]], looks: Mapping[str, Any], i: int,
    says: str,
) -> tuple[dict[str, Picture], dict[str, tuple[float, str]]]:  # fmt: skip
    """How all numbers of gamma and of beta are distributed at look i: pictures, and a width of each."""
    shown, widths = {}, {}
    ends = [reading.QUANTILES.index(share) for share in MIDDLE]
    for part in PARTS:
        values = {name: found[f"{part} {site}/{m} quantiles"] for name, (site, m) in told.items()}
        middle = {name: each[i, ends] for name, each in values.items()}
        most = float(np.ceil(10.5 * max(np.abs(each).max() for each in values.values())) / 10)
        shown[f"{part}, from its smallest number to its largest"] = pictures.curves(
            100 * np.array(reading.QUANTILES),
            [pictures.line(name, each[i], *looks[name]) for name, each in values.items()],
            "% of its numbers below", part, limits=(-most, most),
            alt=f"{says} Nine tenths of {part}'s numbers lie between "
            + together([f"{a:.2f} and {b:.2f} ({name})" for name, (a, b) in middle.items()]) + ".",
        )  # fmt: skip
        width = float(np.mean([b - a for a, b in middle.values()]))
        widths[f"{part} width"] = (width, "of its middle nine tenths, mean over sites and streams")
    return shown, widths


def sum_ceiling(setting: Setting) -> float | None:
    """What a sum of two streams' logits reaches at most, in %; None = not known of these data."""
    known = isinstance(setting.data, Clips) and not setting.data.imbalance
    return 100 * ceilings(setting.data.rho)["late"] if known else None


# Alignment ----------------------------------------------------------------------------------------


def alignment(records: Records, states: Sequence[str] = ()) -> Lab:
    """How alike the two streams' maps become, with exchanges and without: is the claim of aligning true?

    Args:
        records: "late" and "X-Norm" -> a record a seed, as of `labkit.exchanging.reading.learning`.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if one of the two has no record.
    """
    ours, late = (averaged(records, way) for way in (WAY, "late"))
    last = len(ours["epoch"]) - 1
    stages = [name.partition(" ")[2] for name in late if name.startswith("alike")]
    options = [str(int(stage) + 1) for stage in stages]
    fields = [
        look_field(ours["epoch"]),
        ("stage", str, choice(options[-1], options, "stage", "Behind which stage of the streams. The claim "
         "is about what the heads read: the last one.")),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Before training": {"look": 0}, "After the first look": {"look": 1}, "Trained": {"look": last},
        **{f"Stage {name}, trained": {"look": last, "stage": name} for name in options[:-1]},
    }  # fmt: skip
    ends = [float(each[f"alike {stages[-1]}"][-1]) for each in (ours, late)]
    ahead = ends[0] - ends[1]
    question = Question(
        'The paper says that exchanging works by "implicitly aligning the feature spaces" of the two '
        "streams. Behind the last stage of trained networks, which pair of streams is more alike?",
        ("X-Norm's", "late fusion's", f"neither, within {ALIKE:g}"),
        answer=0 if ahead > ALIKE else 1 if ahead < -ALIKE else 2,
        why=f"Linear CKA is {ends[0]:.2f} with exchanges and {ends[1]:.2f} without. But beta adds to a "
        "stream what a matrix makes of the other one, so that an exchange makes them alike whatever it is "
        "good for. Look at an untrained network; at when streams are most alike; at when answers are right.",
        then={"look": last, "stage": options[-1]},
    )  # fmt: skip
    return Lab(
        "alignment", "Alignment: do streams that exchange become alike?",
        state_of("alignment", fields, presets), lambda state: alignment_pictures(records, state),
        question=question, states=states,
    )  # fmt: skip


def alignment_pictures(records: Records, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `alignment`."""
    ours, late = (averaged(records, way) for way in (WAY, "late"))
    i, stage = state.look, int(state.stage) - 1
    x, marker = ours["epoch"], float(ours["epoch"][i])
    count = sum(name.startswith("alike") for name in late)
    lines = {"late": late[f"alike {stage}"], WAY: ours[f"alike {stage}"]}
    if f"before {stage}" in ours:
        lines[BEFORE] = ours[f"before {stage}"]
    now = {name: float(values[i]) for name, values in lines.items()}
    bars = {}
    for k in range(count):
        bars[f"{k + 1} late"] = (late[f"alike {k}"][i], LINES["late"][0])
        if f"before {k}" in ours:
            bars[f"{k + 1} before"] = (ours[f"before {k}"][i], LINES[BEFORE][0])
        bars[f"{k + 1} {WAY}"] = (ours[f"alike {k}"][i], LINES[WAY][0])
    ahead = [ours[f"alike {k}"] - late[f"alike {k}"] for k in range(count)]
    each = [
        one[f"alike {stage}"][i] - other[f"alike {stage}"][i]
        for one, other in zip(records[WAY], records["late"], strict=False)
    ]
    way = "more" if now[WAY] > now["late"] else "less"
    says = (
        f"After {marker:g} epochs, {trainings(len(records[WAY]))}, behind stage {stage + 1}: the streams of "
        f"X-Norm are {now[WAY]:.2f} alike (linear CKA), those of late fusion {now['late']:.2f}: X-Norm's are "
        f"{way} alike."
    )
    if BEFORE in now:
        says += f" Before the exchange there they are {now[BEFORE]:.2f} alike."
    says += (
        f" Right on the validation split: X-Norm {ours['accuracy'][i]:.1f} %, late fusion "
        f"{late['accuracy'][i]:.1f} %."
    )
    shown = [pictures.line(name, until(y, i), *LINES[name]) for name, y in lines.items()]
    gaps = [
        pictures.line(f"stage {k + 1}", until(y, i), BLUE * (k == stage), DASHES[k % len(DASHES)])
        for k, y in enumerate(ahead)
    ]
    zero = pictures.line("as alike", np.zeros(len(x)), GREY, (1, 3))
    accuracies = [
        pictures.line(name, until(each["accuracy"], i), *LINES[name])
        for name, each in (("late", late), (WAY, ours))
    ]
    return {
        "how alike, behind the stage": pictures.curves(
            x, shown, "epoch", "linear CKA", says, limits=(0, 1.02), marker=marker
        ),
        "X-Norm less late fusion": pictures.curves(
            x, [*gaps, zero], "epoch", "CKA more", says, limits=(-1, 1), marker=marker
        ),
        "right on the validation split": pictures.curves(
            x, accuracies, "epoch", "right (%)", says, limits=(0, 102), marker=marker
        ),
        "linear CKA behind each stage": pictures.bars(
            list(bars), [value for value, _ in bars.values()], says, unit="linear CKA",
            colors=[color for _, color in bars.values()],
        ),
        "numbers": pictures.figures({
            "epoch": (marker, f"of {x[-1]:g}"), "X-Norm": (now[WAY], "linear CKA"),
            "late": (now["late"], "linear CKA"),
            "ahead": (now[WAY] - now["late"], "CKA, X-Norm less late fusion"),
            **({"spread": (float(np.std(each)), f"CKA, sd of it over {len(each)} seeds")}
               if len(each) > 1 else {}),
            "right": (float(ours["accuracy"][i]), "%, X-Norm, validation split"),
        }),
    }  # fmt: skip
