"""Labs of what goes on inside a gate (DynMM): one decision taken apart, and one made on a bad input.

Arguments are as in `labkit.live.routing`, which shows whom gates send where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.choosing.plan import Setting
from labkit.choosing.reading import (
    DRAWS,
    LEVELS,
    Opened,
    asked_again,
    changed,
    doubtful,
    drawn,
    nearest,
    noise_of,
    opened,
    pushes,
    resized,
    under,
)
from labkit.live import pictures
from labkit.live.flowing import GREEN, GREY
from labkit.live.lab import Lab, Question
from labkit.live.pictures import Picture
from labkit.live.routing import (
    CHEAP,
    DEAR,
    gate_of,
    half_weight,
    limits_of,
    procedural,
    reads,
    state_of,
    unit_of,
    weight_fields,
)
from labkit.live.state import choice, number, toggle, whole
from labkit.models.gates import entropy, one_path, relaxed

TEMPERATURES = (0.05, 20.0)  # lowest and highest
EXPERTS = ("cheap", "dear")


def sample_field(setting: Setting, at: Opened, weight: float) -> Any:
    """The control of the sample; it starts at one of which the gate is not too sure."""
    start = doubtful(at, nearest(setting.weights, weight))
    return whole(start, 0, len(at.batch) - 1, "sample", "Which held-out sample.")


# Anatomy ------------------------------------------------------------------------------------------


def anatomy(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """One decision of a gate: logits, temperature, noise, the weights used, and how it would learn.

    Args:
        setting: Data and sizes; see `labkit.choosing.plan`.
        seed: Of all that was trained.
        device: Where to compute.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if the setting has not two weights above 0.
    """
    at, start = opened(setting, seed, "official", device), half_weight(setting, seed, device)
    fields = [
        ("temperature", float, number(1.0, *TEMPERATURES, "temperature", "Logits are divided by it before "
         "the softmax: low, one expert gets all; high, both get the same.", log=True)),
        ("relaxation", str, choice("soft", ("soft", "hard"), "relaxation", "soft: both experts run and are "
         "mixed by weight; hard: the likelier one alone (straight-through: it learns as if it were soft).")),
        ("gumbel", bool, toggle(False, "Gumbel noise", "Added to the logits: with it the likelier expert is "
         "a draw. The paper's equation 3 has it, its released code has not.")),
        ("draw", int, whole(0, 0, 30, "draw", "Which draw of the noise.")),
        ("sample", int, sample_field(setting, at, start)),
        *weight_fields(setting, start),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "Soft": {"relaxation": "soft", "temperature": 1.0, "gumbel": False},
        "Straight-through": {"relaxation": "hard", "temperature": 1.0, "gumbel": False},
        "Gumbel draws": {"relaxation": "hard", "gumbel": True},
        "Cold": {"temperature": TEMPERATURES[0]}, "Hot": {"temperature": TEMPERATURES[1]},
    }  # fmt: skip
    question = Question(
        f"Noise is on, and the gate is hard. The temperature rises from 1 to {TEMPERATURES[1]:g}. How often "
        "does it now draw the dear expert?",
        ("more nearly every other time", "as often as before", "always, or never"),
        answer=1,
        why="Noise is added before the division, and dividing both numbers leaves the larger one the larger: "
        "a draw follows softmax(logits) at every temperature. What the temperature changes is how mixed the "
        "soft weights are, and with them how much a gate learns from a sample.",
        then={"gumbel": True, "relaxation": "hard", "temperature": TEMPERATURES[1]},
    )
    return Lab(
        "anatomy", "Gate anatomy: one decision", state_of("anatomy", fields, presets),
        lambda state: anatomy_pictures(setting, seed, device, state), question=question, states=states,
    )  # fmt: skip


def anatomy_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `anatomy`."""
    at, i, s = opened(setting, seed, "official", device), gate_of(setting, state), state.sample
    logits, hard, t = at.logits[i, s], state.relaxation == "hard", state.temperature
    noise = noise_of((2,), state.draw, device) if state.gumbel else torch.zeros_like(logits)
    soft, used = (relaxed(logits + noise, t, h) for h in (False, hard))
    wished = logits.softmax(-1)
    often = drawn(logits) if state.gumbel else one_path(logits).double()
    pull = pushes(at, i, s, t, noise)
    few, more = reads(setting)
    says = (
        f"Sample {s}: logits {_signed(logits[0])} for the cheap expert ({few}), {_signed(logits[1])} for the "
        f"dear one ({more})"
        + (
            f", with this noise {_signed((logits + noise)[0])} and {_signed((logits + noise)[1])}"
            * state.gumbel
        )
        + f". At temperature {t:.2g} a soft gate gives the dear expert {float(soft[1]):.0%}, this one, "
        f"{state.relaxation}, {float(used[1]):.0%}. "
        f"In {DRAWS:,} {'draws' if state.gumbel else 'calls'} it comes {float(often[1]):.0%} of the time. "
        f"Descent moves its logit {_way(pull.soft[1])} through a soft gate, {_way(pull.straight[1])} "
        "straight-through."
    )
    temperatures = np.geomspace(*TEMPERATURES, 61)
    each = torch.stack([relaxed(logits + noise, float(v), False)[1] for v in temperatures]).cpu()
    sizes = torch.stack([pull.soft, pull.straight]).abs().flatten().cpu()
    names = [
        f"{kind}, {EXPERTS[k]} {'↓' if g > 0 else '↑'}"
        for kind, gradient in (("soft", pull.soft), ("straight", pull.straight))
        for k, g in enumerate(gradient)
    ]
    return {
        "weights used; ticks: soft": pictures.bars(
            EXPERTS, used.cpu(), says, unit="probability", colors=[CHEAP, DEAR], marks=soft.cpu()
        ),
        f"drawn in {DRAWS:,}; ticks: softmax of the logits": pictures.bars(
            EXPERTS, often.cpu(), says, unit="probability", colors=[CHEAP, DEAR], marks=wished.cpu()
        ),
        "gradient of each logit; arrow: where descent moves it": pictures.bars(
            names, sizes, says, colors=[CHEAP, DEAR] * 2, high=max(0.01, 1.05 * float(sizes.max()))
        ),
        "weight of the dear expert over the temperature": pictures.curves(
            temperatures,
            [
                pictures.line("soft", each, DEAR),
                pictures.line("hard", (each > 0.5).double(), "", (6, 3)),
            ],
            "temperature", "weight", says, log=True, limits=(-0.02, 1.02), marker=t,
        ),
        "numbers": pictures.figures({
            "logit cheap": (float(logits[0]), ""), "logit dear": (float(logits[1]), ""),
            "weight": (float(used[1]), "of the dear expert"),
            "entropy": (abs(float(entropy(used))), "nats, of the weights used"),
            "drawn": (DRAWS * float(often[1]), f"of {DRAWS:,}, the dear expert"),
            "soft": (float(pull.soft[1]), "gradient of the dear logit"),
            "straight": (float(pull.straight[1]), "gradient of the dear logit, straight-through"),
        }),
    }  # fmt: skip


def _signed(value: Tensor) -> str:
    return f"{float(value):+.2f}".replace("-", "−")


def _way(gradient: Tensor) -> str:
    return f"{'down' if gradient > 0 else 'up'} by {abs(float(gradient)):.3f}"


# Corrupt one input --------------------------------------------------------------------------------


def corrupt(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = ()
) -> Lab:
    """Noise on one modality, or nothing at all in it: does the gate notice? Arguments as `routing`."""
    names, at = list(setting.dear.network.shapes), opened(setting, seed, "official", device)
    start = half_weight(setting, seed, device)
    fields = [
        ("level", float, number(0.0, 0.0, LEVELS[-1], "noise", "Deviation of the noise, in units of the mean "
         "size of that modality's numbers. No gate and no expert was trained with it.", unit="mean|x|")),
        ("modality", str, choice(names[0], names, "on", "The modality that is made worse.")),
        ("blank", bool, toggle(False, "blank it", "Zeros instead of the modality, whatever the noise.")),
        ("sample", int, sample_field(setting, at, start)),
        *weight_fields(setting, start),
    ]  # fmt: skip
    presets: dict[str, Mapping[str, Any]] = {
        "As it is": {"level": 0.0, "blank": False},
        **{f"Noisy {name}": {"level": 2.0, "modality": name, "blank": False} for name in names},
        **{f"No {name}": {"modality": name, "blank": True} for name in names},
    }
    return Lab(
        "corrupt", "Corrupt one input: does the gate notice?", state_of("corrupt", fields, presets),
        lambda state: corrupt_pictures(setting, seed, device, state),
        question=_notices(setting, seed, device) if procedural(setting) else None, states=states,
    )  # fmt: skip


def _notices(setting: Setting, seed: int, device: str) -> Question:
    weight = half_weight(setting, seed, device)
    i = setting.weights.index(weight)
    clean, noisy, none = (
        float(under(setting, seed, "text", level, blank, device).share[i])
        for level, blank in ((0.0, False), (2.0, False), (0.0, True))
    )
    answer = 0 if noisy > clean + 0.02 else 1 if noisy < clean - 0.02 else 2
    at = opened(setting, seed, "official", device)
    small = resized(changed(at.batch, "text", 2.0), at.batch, "text")
    quiet = float(asked_again(at, small)[0][i].argmax(-1).double().mean())
    return Question(
        "The text gets noise twice its own size, the image stays as it is. Now nobody should trust the text "
        "alone. What does the gate do?",
        ("it sends more samples to the dear expert", "it sends fewer", "as many as before"),
        answer=answer,
        hides=("all held-out samples: sent to dear, and scores",),
        why=f"It sent {clean:.0%} and now sends {noisy:.0%}. A gate knows what it was trained on: there, a "
        "text of large numbers was one that says much, and noise makes numbers large. Scaled back to its old "
        f"size, the same noisy text is sent {quiet:.0%} of the time, and a blank one {none:.0%}.",
        then={"level": 2.0, "modality": "text", "blank": False, "weight": weight}
        | ({"free": False} if 0.0 in setting.weights else {}),
    )  # fmt: skip


def corrupt_pictures(setting: Setting, seed: int, device: str, state: Any) -> Mapping[str, Picture]:
    """State -> pictures of `corrupt`."""
    i, s, name, unit = gate_of(setting, state), state.sample, state.modality, unit_of(setting)
    at, level = opened(setting, seed, "official", device), 0.0 if state.blank else state.level
    batch = changed(at.batch, name, level, state.blank)
    (clean, _), (logits, said) = (asked_again(at, each[s : s + 1]) for each in (at.batch, batch))
    before, after = (float(each[i, 0].softmax(-1)[1]) for each in (clean, logits))
    now = under(setting, seed, name, level, state.blank, device)
    was = under(setting, seed, name, 0.0, False, device)
    share, scored = float(now.share[i]), float(now.score[i])
    what = f"{name} blank" if state.blank else f"noise {level:.1f} on {name}"
    who = ("cheap", "dear")[after > 0.5]
    says = (
        f"Sample {s}, {what}: the gate gives the dear expert {after:.0%}, before {before:.0%}, and sends the "
        f"sample to the {who} one. Of all held-out samples {share:.0%} go to the dear expert, before "
        f"{float(was.share[i]):.0%}; score {scored:.1f}, before {float(was.score[i]):.1f} {unit}."
    )
    curves = [under(setting, seed, name, each, False, device) for each in LEVELS]
    lines = [
        pictures.line("to dear", [100 * float(u.share[i]) for u in curves], GREY, (2, 3)),
        pictures.line("gate", [float(u.score[i]) for u in curves]),
        pictures.line("cheap", [float(u.experts[0]) for u in curves], CHEAP, (6, 3)),
        pictures.line("dear", [float(u.experts[1]) for u in curves], DEAR, (8, 3, 2, 3)),
    ]  # fmt: skip
    answers = {
        f"the {which} expert says; ticks: the truth": _answer(setting, at, s, said[:, 0], k, says)
        for k, which in enumerate(("cheap", "dear"))
    }
    return {
        "to the dear expert, says the gate; ticks: half": pictures.bars(
            ["as it is", "changed"], [before, after], says, unit="probability",
            colors=[(CHEAP, DEAR)[p > 0.5] for p in (before, after)], marks=[0.5, 0.5],
        ),
        **answers,
        "all held-out samples: sent to dear, and scores": pictures.curves(
            LEVELS, lines,
            f"noise on {name}", f"% sent; {unit}", says,
            limits=limits_of(*(each["y"] for each in lines)), marker=state.level,
        ),
        "numbers": pictures.figures({
            "to dear": (after, "says the gate of this sample"),
            "share": (share, "of all go to the dear expert"),
            "score": (scored, unit), "cheap": (float(now.experts[0]), f"{unit}, were it for all"),
            "dear": (float(now.experts[1]), f"{unit}, were it for all"),
        }),
    }  # fmt: skip


def _answer(
    setting: Setting, at: Opened, sample: int, said: Tensor, which: int, says: str
) -> Picture:
    """Probabilities of the labels that are worth a bar, of one expert; `said` is (2, K)."""
    labels = setting.task == "labels"
    p = said.sigmoid() if labels else said.softmax(-1)
    y = at.y[sample] if labels else torch.nn.functional.one_hot(at.y[sample], p.shape[-1])
    shown = torch.maximum(p.amax(0), y.to(p)).argsort(descending=True)[:8].sort().values.tolist()
    kind = "label" if labels else "class"
    return pictures.bars(
        [f"{kind} {k}, true" if y[k] else f"{kind} {k}" for k in shown], p[which, shown].cpu(), says,
        unit="probability", colors=[GREEN if y[k] else GREY for k in shown],
        marks=y[shown].double().cpu(),
    )  # fmt: skip
