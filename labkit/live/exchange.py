"""Lab of the exchange (X-Norm): one site taken apart by hand.

It reads a trained network from the store; if it is not there yet, it is trained when the lab first asks for
it; beside it, networks as training begins. A clip whose flow is turned round: `labkit.live.swapping`; synergy
as a dial: `labkit.live.synergy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.batch import Batch, add_noise
from labkit.data.clips import CLASSES, MODALITIES, PAIRS, Clips
from labkit.exchanging import measure, reading
from labkit.exchanging.measure import Parts
from labkit.exchanging.plan import Setting
from labkit.exchanging.reading import Told
from labkit.fusing.colours import colour_image, rgb
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREY
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of
from labkit.live.pictures import Picture
from labkit.live.state import choice, number, toggle, whole
from labkit.models.xnorm import Exchange

WAY = "X-Norm"
KEPT = "own"  # of a factor: the clip's
SIDES = ("left", "right")
PARTNER, SELF, OTHER = "partner", "own", "another"  # whose maps gamma and beta come from
TRAINED, FRESH, ZERO = "trained", "untrained", "zero init"
BOTH, NOISIEST = "both", 3.0  # what is noisy, and how much at most
VERBS = [name.replace(" the ", " ") for name in CLASSES]
ABOVE, BELOW = "#E08214", "#542788"  # of 0: orange and purple, the darker one below
LEAST = 24  # pixels of a side that an image has at least
FASTEST, SHARE = (
    1.0,
    0.98,
)  # where colours end: of flow, in its unit; of maps, so many numbers are smaller
SAYS = "Orange: above 0 (flow: to the right), purple: below (to the left). Maps: up to the number after ±."


def clips_of(setting: Setting) -> Clips:
    """The recipe of a setting whose clips can be made with other factors.

    Raises:
        ValueError: if it has other data.
    """
    if not isinstance(setting.data, Clips):
        raise ValueError(f"setting.data must be Clips, got {type(setting.data).__name__}")
    return setting.data


def signed(values: Tensor, most: float) -> np.ndarray:
    """Numbers (H, W) as colours (h, w, 3): 0 is white, full colour from `most` on."""
    share = (values / most).clamp(-1, 1).cpu().numpy()[..., None]
    return enlarged(1 - np.abs(share) * (1 - np.where(share > 0, rgb(ABOVE), rgb(BELOW))))


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) of at least `LEAST` pixels a side, each of its pixels a square."""
    times = max(1, -(-LEAST // min(image.shape[:2])))
    return image.repeat(times, 0).repeat(times, 1)


def frame_of(batch: Batch, name: str, frame: int) -> np.ndarray:
    """A modality of the first clip: rgb in its colours; of flow, how far it goes to the right."""
    x = batch.x[name][0, :, frame]
    return enlarged(colour_image(x + 0.5)) if name == "rgb" else signed(x[0], FASTEST)


def scale_of(*maps: Tensor) -> float:
    """Where the colours of maps end: `SHARE` of all numbers that are not 0 are smaller."""
    sizes = torch.cat([each.abs().flatten() for each in maps])
    sizes = sizes[sizes > 0]
    return float(sizes.quantile(SHARE)) if len(sizes) else 1.0


def change_of(before: Tensor, after: Tensor) -> float:
    """Size of a change over the size of what changes."""
    return float((after - before).norm() / before.norm().clamp(min=1e-6))


def answer_bars(said: Tensor, before: Tensor, truth: int, says: str) -> Picture:
    """A probability a verb, the true one's bar blue; ticks are those of another answer."""
    colors = [BLUE if k == truth else GREY for k in range(len(VERBS))]
    return pictures.bars(VERBS, said, says, unit="probability", colors=colors, marks=before)


def truth_of(batch: Batch) -> int:
    """The class of the first clip."""
    assert batch.y is not None
    return int(batch.y[0])


# Noise --------------------------------------------------------------------------------------------

Noise = tuple[str, float]  # a modality or `BOTH`, and the deviation over the mean magnitude
CLEAN: Noise = (BOTH, 0.0)


def noise_fields() -> list[tuple[str, Any, Any]]:
    """The controls ``noisy`` and ``level``."""
    says = (
        "Deviation of what is added to every number of the clip, over the modality's mean magnitude in the "
        "held-out split. It is the same draw at all levels: the slider scales it. No network was trained on "
        "it."
    )  # fmt: skip
    return [
        ("noisy", str, choice(BOTH, (*MODALITIES, BOTH), "noise on", "Which stream's clips are noisy.")),
        ("level", float, number(0.0, 0, NOISIEST, "noise", says)),
    ]  # fmt: skip


@lru_cache(maxsize=4)
def _noise(setting: Setting, seed: int, device: str) -> dict[str, Tensor]:
    """What noise of level 1 adds to each held-out clip: a level adds a multiple of it."""
    batch = reading.held_out(setting, seed, device)
    generator = torch.Generator(batch.device).manual_seed(seed)
    return {name: x - batch.x[name] for name, x in add_noise(batch, 1.0, generator).x.items()}


def with_noise(
    setting: Setting, seed: int, device: str, row: int, batch: Batch, noise: Noise
) -> Batch:
    """A held-out clip, whatever was changed about it, with the noise of its row."""
    where, level = noise
    if noise == CLEAN:
        return batch
    added = _noise(setting, seed, device)
    return replace(batch, x={
        name: x + level * added[name][row : row + 1] if where in (name, BOTH) else x
        for name, x in batch.x.items()
    })  # fmt: skip


def noise_of(state: Any) -> Noise:
    """What the two controls say; whatever is noisy by nothing is clean."""
    return (state.noisy, state.level) if state.level else CLEAN


def noise_said(noise: Noise) -> str:
    """Noise in words, behind a sentence; nothing if there is none."""
    where, level = noise
    return f" Noise of {level:.2g} on {where}." * (level > 0)


# The exchange, live -------------------------------------------------------------------------------


def exchange(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """One map of one clip at a site of a trained X-Norm: x, norm(x), gamma, beta and what comes of them.

    Args:
        setting: Data and sizes, of `labkit.exchanging.plan.clips`.
        seed: Of data and network.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the setting is not of procedural clips.
    """
    data, net = clips_of(setting), reading.network(setting, WAY, seed, device)
    last, widest = data.n_test - 1, max(net.streams.widths[i] for i in setting.sites)
    sites = [str(i) for i in setting.sites]
    first = _told(setting, seed, device, TRAINED, 0, CLEAN).sites[setting.sites[0]]
    directions = reading.held_out(setting, seed, device).factors["direction"]
    turned = int((directions != directions[0]).long().argmax())
    fields = [
        ("row", int, whole(0, 0, last, "clip", "Which held-out clip.")),
        ("pair", str, choice(KEPT, (KEPT, *PAIRS), "pair", "The object's shape, and the speed with it.")),
        ("handle", str, choice(KEPT, (KEPT, *SIDES), "handle", "On which side of the object rgb shows it.")),
        ("direction", str, choice(KEPT, (KEPT, *SIDES), "moves to the", "Where flow shows the patch go.")),
        ("frame", int, frame_field(data)),
        ("site", str, choice(sites[0], sites, "site", "Behind which stage of the streams, from 0.")),
        ("stream", str, choice("rgb", MODALITIES, "stream", "Whose maps are changed.")),
        ("map", int, whole(busiest(first.before[0][0], first.after[0][0]), 0, widest - 1, "map", "Which map; "
         "a site with fewer maps counts from 0 again.")),
        ("whose", str, choice(PARTNER, (PARTNER, SELF, OTHER), "parameters", "Whose maps gamma and beta come "
         "from. partner: the other stream, as trained; own: the stream itself; another: the other stream, "
         "of another clip.")),
        ("other", int, whole(turned, 0, last, "another clip", "The clip that parameters of another clip "
         "come from.")),
        ("norm", str, choice("layer", ("layer", "instance", "channel"), "statistics", "What is normalised "
         "together. layer: all numbers of the clip, as trained; instance: each map by itself; channel: the "
         "numbers of all maps at one place.")),
        ("pooled", bool, toggle(False, "pooled", "Gamma and beta come from the mean of the maps over the "
         "grid: one number a map.")),
        ("one_plus", bool, toggle(False, "1 + gamma", "The factor is 1 + gamma.")),
        ("gamma", float, number(1.0, 0, 2, "gamma ×", "What gamma is multiplied by.")),
        ("beta", float, number(1.0, 0, 2, "beta ×", "What beta is multiplied by.")),
        ("network", str, choice(TRAINED, (TRAINED, FRESH, ZERO), "network", "Whose streams and sites. "
         "untrained: as training begins, gamma and beta at random; zero init: the same, but gamma and beta "
         "begin at 0, at all sites, and the network as late fusion.")),
        *noise_fields(),
    ]  # fmt: skip
    trained = {
        "whose": PARTNER, "norm": "layer", "pooled": False, "one_plus": False, "gamma": 1.0, "beta": 1.0,
        "network": TRAINED,
    }  # fmt: skip
    silent = {**trained, "gamma": 0.0, "beta": 0.0}
    presets: dict[str, Mapping[str, Any]] = {
        "As trained": trained, "Nothing said": silent, "Gamma alone": {**trained, "beta": 0.0},
        "Beta alone": {**trained, "gamma": 0.0}, "Own parameters": {**trained, "whose": SELF},
        "Another clip's": {**trained, "whose": OTHER, "other": turned}, "Pooled": {**trained, "pooled": True},
        "Untrained": {**trained, "network": FRESH}, "Zero init": {**trained, "network": ZERO},
        "Noisy flow": {**trained, "noisy": "flow", "level": 1.0},
    }  # fmt: skip
    question = Question(
        "Gamma and beta are both multiplied by 0: this stream is told nothing at this site. What becomes of "
        "its maps?",
        ("zeros", "norm(x): mean 0, deviation 1", "they stay as they are"),
        answer=2,
        why="x′ = x + gamma norm(x) + beta: x goes round all of it, and who is told nothing stays as he is. "
        "Without any exchange X-Norm is late fusion; with zero init it begins so, at all sites. (With 1 + "
        "gamma it is not: norm(x) is added anyhow.)",
        then=silent,
    )
    return Lab(
        "exchange", "The exchange, live: what one stream does to the other",
        state_of("exchange", fields, presets),
        lambda state: exchange_pictures(setting, seed, device, state), question=question, states=states,
    )  # fmt: skip


def frame_field(data: Clips) -> Any:
    """The control of the frame; it starts in the middle."""
    says = "Which frame of the clip, and of its maps, which have as many."
    return whole(data.frames // 2, 0, data.frames - 1, "frame", says)


def busiest(before: Tensor, after: Tensor) -> int:
    """Which of the maps (C, *grid) changes most."""
    return int((after - before).flatten(1).norm(dim=1).argmax())


def _net(setting: Setting, seed: int, device: str, name: str) -> Any:
    """The network of that name."""
    way = f"{WAY}, zero init" if name == ZERO else WAY
    made = reading.network if name == TRAINED else reading.untrained
    return made(setting, way, seed, device)


def _clip(
    setting: Setting, seed: int, device: str, row: int, noise: Noise, **factors: int
) -> Batch:
    """One held-out clip with other factors than its own, as networks see it."""
    batch = reading.clip(setting, seed, row, device, **factors)
    return with_noise(setting, seed, device, row, batch, noise)


@lru_cache(maxsize=128)
def _told(
    setting: Setting, seed: int, device: str, name: str, row: int, noise: Noise, **factors: int
) -> Told:
    """What a network makes of a clip, kept while sliders move."""
    batch = _clip(setting, seed, device, row, noise, **factors)
    return reading.told(_net(setting, seed, device, name), batch)


def exchange_pictures(
    setting: Setting, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `exchange`."""
    words = {"pair": PAIRS, "handle": SIDES, "direction": SIDES}
    given = {name: getattr(state, name) for name in words}
    factors: dict[str, Any] = {name: words[name].index(w) for name, w in given.items() if w != KEPT}
    where, noise = (setting, seed, device), noise_of(state)
    net, site, stream = _net(*where, state.network), int(state.site), MODALITIES.index(state.stream)
    batch = _clip(*where, state.row, noise, **factors)
    told = _told(*where, state.network, state.row, noise, **factors)
    usual, clean = (
        _told(*where, TRAINED, state.row, each, **factors).probabilities for each in (noise, CLEAN)
    )
    speaker = stream if state.whose == SELF else 1 - stream
    teller, teaching = batch, told
    if state.whose == OTHER:
        teller = _clip(*where, state.other, noise)
        teaching = _told(*where, state.network, state.other, noise)
    x, source = told.sites[site].before[stream], teaching.sites[site].before[speaker]
    how = Exchange(norm=state.norm, pool=state.pooled, one_plus_gamma=state.one_plus)
    times = state.gamma, state.beta
    found = measure.parts(net.exchanges[str(site)], stream, x, source, how, times)
    after = found.after[None].to(x.device)
    said = measure.instead(net, batch, site, stream, after)[0].softmax(0).cpu()
    truth, m = truth_of(batch), state.map % len(found.x)
    whole_change, change = change_of(found.x, found.after), change_of(found.x[m], found.after[m])
    by = (
        f"{MODALITIES[speaker]} of {f'clip {state.other}' if state.whose == OTHER else 'this clip'}"
    )
    says = (
        f"Clip {state.row}, {CLASSES[truth]}; site {site}, {state.stream} stream, map {m}."
        f"{noise_said(noise)} Network: {state.network}. Gamma and beta, times {state.gamma:.2g} and "
        f"{state.beta:.2g}, come from {by}. The maps change by {whole_change:.0%} of their size, this one "
        f"by {change:.0%}. The network says {CLASSES[said.argmax()]} ({float(said.max()):.0%}); as "
        f"trained {CLASSES[usual.argmax()]}. {SAYS}"
    )
    seen = ((batch, "rgb"), (batch, "flow"), (teller, MODALITIES[speaker]))
    shown = np.stack([frame_of(one, name, state.frame) for one, name in seen])[None]
    return {
        "the clip, and what tells; orange: to the right, purple: to the left": pictures.images(
            shown, [], ["rgb", "flow", f"tells: {by}"], says
        ),
        "the answer; blue: the true verb; ticks: as trained": answer_bars(
            said, usual, truth, says
        ),
        "one map; added = gamma norm(x) + beta; orange: above 0, purple: below": steps(
            found, m, state.frame, says
        ),
        "numbers": pictures.figures({
            "changed": (100 * whole_change, "% of the maps' size"),
            "map changed": (100 * change, "% of this map's"),
            **moments("x", found.x, "all maps"), **moments("norm(x)", found.normal, "all maps"),
            **moments("here", found.normal[m], "norm(x) in this map"),
            "true verb": (float(said[truth]), f"probability, as trained {usual[truth]:.3f}"),
            "without noise": (float(clean[truth]), "probability of the true verb, as trained"),
        }),
    }  # fmt: skip


def moments(name: str, maps: Tensor, of: str) -> dict[str, tuple[float, str]]:
    """Mean and deviation, as numbers of a lab; to four digits, for a mean that is 0 but for rounding."""
    mean, deviation = (round(float(v), 4) + 0.0 for v in (maps.mean(), maps.std()))
    return {f"{name} mean": (mean, f"of {of}"), f"{name} deviation": (deviation, f"of {of}")}


def steps(found: Parts, m: int, frame: int, says: str) -> Picture:
    """A map of a site at a frame, step by step; what is added together is on one scale."""
    one = Parts(*(each[m] for each in found))
    sum_scale = scale_of(one.x, one.beta, one.added, one.after)
    scales = [sum_scale, scale_of(one.normal), scale_of(one.gamma), *[sum_scale] * 3]
    names = ("x", "norm(x)", "gamma", "beta", "added", "x′")
    pixels = [signed(maps[frame], most) for maps, most in zip(one, scales, strict=True)]
    columns = [f"{name} ±{most:.2g}" for name, most in zip(names, scales, strict=True)]
    return pictures.images(np.stack(pixels)[None], [], columns, says)
