"""Lab of a swap (X-Norm): rgb stays, flow is turned round; what do three networks make of it?

They are read from the store; what is not there yet is trained when the lab first asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.clips import CLASSES, PAIRS
from labkit.exchanging import measure, reading
from labkit.exchanging.plan import Setting
from labkit.live import pictures
from labkit.live.exchange import (
    CLEAN,
    KEPT,
    SAYS,
    SIDES,
    WAY,
    Noise,
    answer_bars,
    busiest,
    change_of,
    clips_of,
    frame_field,
    frame_of,
    noise_fields,
    noise_of,
    noise_said,
    scale_of,
    signed,
    truth_of,
    with_noise,
)
from labkit.live.flowing import BLUE, GREY
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of
from labkit.live.pictures import Picture
from labkit.live.state import choice, toggle, whole

RIVALS = ("late", "X-Norm, own", WAY)  # whose rgb streams are asked what they see of a movement
SHORT = {"late": "late", "X-Norm, own": "own", WAY: WAY}


def swap(setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()) -> Lab:
    """One clip of which only flow is changed: what do three networks say, and their rgb streams see?

    Args:
        setting: Data and sizes, of `labkit.exchanging.plan.clips`.
        seed: Of data and networks.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the setting is not of procedural clips.
    """
    data = clips_of(setting)
    first, then = (_seen(setting, seed, device, WAY, 0, turned).maps for turned in (False, True))
    fields = [
        ("row", int, whole(0, 0, data.n_test - 1, "clip", "Which held-out clip.")),
        ("turned", bool, toggle(False, "flow turned round", "Flow goes to the other side; rgb stays.")),
        ("speed", str, choice(KEPT, (KEPT, *PAIRS), "speed of", "Flow is as fast as with this object; rgb "
         "keeps its own.")),
        ("map", int, whole(busiest(first, then), 0, len(first) - 1, "map", "Which map of the rgb streams; "
         "each network has its own.")),
        ("frame", int, frame_field(data)),
        *noise_fields(),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "As it is": {"turned": False, "speed": KEPT}, "Turned round": {"turned": True, "speed": KEPT},
        "Another speed": {"turned": False, "speed": PAIRS[-1]},
        "Turned round, noisy": {"turned": True, "speed": KEPT, "noisy": "flow", "level": 1.0},
    }  # fmt: skip
    many = {way: measure.turned(setting, way, seed, device) for way in RIVALS}
    other = [f"{many[way]['heads'][0]:.0f} % ({way})" for way in RIVALS]
    right = [f"{many[way]['right'][1]:.0f} % ({way})" for way in RIVALS]
    question = Question(
        "The rgb clip stays; the flow beside it is turned round. What happens to the maps of the rgb stream "
        "behind the first site?",
        ("nothing: rgb shows no movement", "they change in X-Norm alone", "they change in all three"),
        answer=1,
        why="In X-Norm they are scaled and shifted by what flow shows. In late fusion, and where each stream "
        "tells itself, the rgb stream cannot know. Over many clips, its own head gives another answer in "
        f"{', '.join(other)}; of the turned clips are right {', '.join(right)}.",
        then={"turned": True},
    )  # fmt: skip
    return Lab(
        "swap", "Swap: what does the rgb stream see of the movement?", state_of("swap", fields, presets),
        lambda state: swap_pictures(setting, seed, device, state), question=question, states=states,
    )  # fmt: skip


class Seen(NamedTuple):
    """What a network makes of a clip: probabilities (K,), those of rgb's own head, rgb's maps, its gamma."""

    said: Tensor
    head: Tensor
    maps: Tensor
    gamma: Tensor


def clip_of(
    setting: Setting, seed: int, device: str, row: int, turned: bool, speed: str = KEPT,
    noise: Noise = CLEAN,
) -> Batch:  # fmt: skip
    """The clip of a state of `swap`; its noise is the same however flow is changed."""
    pair = None if speed == KEPT else PAIRS.index(speed)
    batch = reading.steered(setting, seed, row, turned, pair, device)
    return with_noise(setting, seed, device, row, batch, noise)


@lru_cache(maxsize=128)
def _seen(setting: Setting, seed: int, device: str, way: str, *clip: Any) -> Seen:
    """What a network makes of a clip of `clip_of`, kept while sliders move."""
    net, batch = reading.network(setting, way, seed, device), clip_of(setting, seed, device, *clip)
    if way == "late":
        said, head = measure.answers(net, batch)[0], measure.heads(net, batch)[0, 0]
        maps = measure.behind(net, batch, setting.sites[0])[0][0]
        return Seen(said.softmax(0).cpu(), head.softmax(0).cpu(), maps.cpu(), torch.zeros(()))
    told = reading.told(net, batch)
    site = told.sites[setting.sites[0]]
    assert site.said[0].gamma is not None
    gamma = site.said[0].gamma.view_as(site.before[0])[0]
    return Seen(told.probabilities, told.own[0], site.after[0][0].cpu(), gamma.cpu())


def swap_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `swap`."""
    noise = noise_of(state)
    asked = ((state.row, False, KEPT, noise), (state.row, state.turned, state.speed, noise))
    own, now = (clip_of(setting, seed, device, *clip) for clip in asked)
    before, after = (
        {way: _seen(setting, seed, device, way, *clip) for way in RIVALS} for clip in asked
    )
    truth, frames = truth_of(now), range(clips_of(setting).frames)
    moved = {way: change_of(before[way].maps, after[way].maps) for way in RIVALS}
    heads = [float((after[way].head - before[way].head).abs().sum() / 2) for way in RIVALS]
    answers = [f"{way}: {CLASSES[after[way].said.argmax()]}" for way in RIVALS]
    changes = [f"{way} {moved[way]:.0%}" for way in RIVALS]
    says = (
        f"Clip {state.row}: flow {'turned round' if state.turned else 'as it is'}, to the "
        f"{SIDES[int(now.factors['direction'])]}, {float(now.factors['speed']):.2f} pixels a frame; the verb "
        f"is {CLASSES[truth]}.{noise_said(noise)} Answers: {'; '.join(answers)}. The maps of the rgb "
        f"stream changed by: {', '.join(changes)}. {SAYS}"
    )
    film = [[frame_of(clip, name, t) for t in frames]
            for clip, name in ((own, "rgb"), (own, "flow"), (now, "flow"))]  # fmt: skip
    return {
        "frames; orange: to the right, purple: to the left": pictures.images(
            np.array(film), ["rgb, stays", "flow, before", "flow, now"], [str(t) for t in frames], says
        ),
        f"a map of rgb behind site {setting.sites[0]}; orange: above 0, purple: below": _maps(
            before, after, state, says
        ),
        "rgb's own head: probability moved": pictures.bars(
            [SHORT[way] for way in RIVALS], heads, says, unit="probability", colors=[GREY, GREY, BLUE]
        ),
        "the gamma that rgb is told, in this map": _gammas(before, after, state, says),
        **{
            f"{SHORT[way]}; blue: true; ticks: before": answer_bars(
                after[way].said, before[way].said, truth, says
            )
            for way in RIVALS
        },
        "numbers": pictures.figures({
            **{SHORT[way]: (float(after[way].said[truth]), "probability of the true verb")
               for way in RIVALS},
            **{f"{SHORT[way]} maps": (100 * moved[way], "% of the rgb maps' size changed")
               for way in RIVALS},
        }),
    }  # fmt: skip


def _maps(before: Mapping[str, Seen], after: Mapping[str, Seen], state: Any, says: str) -> Picture:
    """Before, now and the change, on one scale, a row a network."""
    rows, labels = [], []
    for way in RIVALS:
        first, then = (each[way].maps[state.map] for each in (before, after))
        most = scale_of(first, then)
        shown = first[state.frame], then[state.frame], (then - first)[state.frame]
        rows.append([signed(x, most) for x in shown])
        labels.append(f"{SHORT[way]} ±{most:.2g}")
    return pictures.images(np.array(rows), labels, ["before", "now", "change"], says)


def _gammas(
    before: Mapping[str, Seen], after: Mapping[str, Seen], state: Any, says: str
) -> Picture:
    """Before and now, of who is told a gamma."""
    columns = []
    for way in RIVALS[1:]:
        both = [each[way].gamma[state.map] for each in (before, after)]
        columns.append([signed(x[state.frame], scale_of(*both)) for x in both])
    pixels = np.array(columns).swapaxes(0, 1)
    return pictures.images(pixels, ["before", "now"], [SHORT[way] for way in RIVALS[1:]], says)
