"""Bring your own model: the missing-modality and latent labs for any multimodal PyTorch model.

The model needs to know nothing of labkit: `encode` takes a dict of the modalities that are visible and
returns a latent, `decode` takes a latent and returns a dict of all modalities. It runs in the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.live import pictures
from labkit.live.lab import Lab
from labkit.live.pictures import Picture
from labkit.live.state import State, number, toggle, whole

Encode = Callable[[dict[str, Tensor]], Any]
Decode = Callable[[Tensor], Mapping[str, Tensor]]
SAMPLES = 50  # to choose from
PUSHES = 9  # pictures along a latent
RESERVED = ("sample", "index", "amplitude")


class Probe(NamedTuple):
    """The two labs: show each as the last line of a cell."""

    missing: Lab
    latent: Lab


def probe(
    encode: Encode,
    decode: Decode,
    modalities: Mapping[str, str],
    batch: Batch | Mapping[str, Tensor],
    *,
    name: str = "mine",
    states: Sequence[str] = (),
) -> Probe:
    """Open the labs on a model of your own.

    Args:
        encode: Visible modalities, name -> (B, *shape), to a latent: a tensor (B, D), or a pair of mean
            and log-variance, (B, D) each. It must accept every non-empty subset.
        decode: Latent (B, D) -> name -> (B, *shape), every modality; images in [0, 1].
        modalities: Name -> ``image`` ((H, W), (1, H, W) or (3, H, W)) or ``vector`` ((n,), n >= 2).
        batch: Samples to look at, name -> (B, *shape), or a `Batch`.
        name: First word of the state lines; labs of two models need two names.
        states: State lines; see `Lab`.

    Raises:
        ValueError: if something does not fit; the message names the modality, what came and what is
            expected.

    Example:
        >>> mine = probe(net.encode, net.decode, {"photo": "image", "sound": "vector"}, samples)
    """
    subject = Subject(encode, decode, dict(modalities), _samples(batch, modalities))
    subject.check()
    return Probe(
        Lab(
            f"{name}_missing", "Your model: what does it know when a modality is missing?",
            _missing_state(subject), subject.missing, states=states,
        ),
        Lab(
            f"{name}_latent", "Your model: what does one latent do?",
            _latent_state(subject), subject.latent, states=states,
        ),
    )  # fmt: skip


def _samples(
    batch: Batch | Mapping[str, Tensor], modalities: Mapping[str, str]
) -> dict[str, Tensor]:
    """The first samples of every modality, checked."""
    given = batch.x if isinstance(batch, Batch) else dict(batch)
    if not modalities:
        raise ValueError("modalities is empty: give name -> 'image' or 'vector'")
    found: dict[str, Tensor] = {}
    for name, kind in modalities.items():
        if kind not in ("image", "vector"):
            raise ValueError(f"modality {name!r} must be 'image' or 'vector', got {kind!r}")
        if not name.isidentifier() or name in RESERVED:
            raise ValueError(
                f"modality {name!r} needs a name of letters, digits and _, none of {RESERVED}"
            )
        if name not in given:
            raise ValueError(f"batch lacks the modality {name!r}; it has {', '.join(given)}")
        values, shape = given[name], tuple(given[name].shape[1:])
        image = len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))
        if not (image if kind == "image" else len(shape) == 1 and shape[0] >= 2):
            wanted = "(H, W), (1, H, W) or (3, H, W)" if kind == "image" else "(n,) with n >= 2"
            raise ValueError(f"modality {name!r} is a {kind}: samples of {wanted}, got {shape}")
        found[name] = values[:SAMPLES].detach().float()
    sizes = {name: len(values) for name, values in found.items()}
    if min(sizes.values()) < 2 or len(set(sizes.values())) > 1:
        raise ValueError(
            f"batch needs the same number of samples of each modality, 2 or more; got {sizes}"
        )
    return found


@dataclass
class Subject:
    """A model under the lens, and the samples it is shown."""

    encode: Encode
    decode: Decode
    modalities: dict[str, str]
    x: dict[str, Tensor]
    mean: Tensor = field(init=False)  # latents of all samples, everything visible, (B, D)
    sd: Tensor = field(init=False)  # their standard deviation, (D,)

    @torch.no_grad()
    def check(self) -> None:
        """Try every modality alone and all together; keep the latents."""
        for names in [[name] for name in self.modalities] + [list(self.modalities)]:
            mean, _ = self.infer({name: self.x[name] for name in names})
            self.outputs(mean)
        self.mean, self.sd = mean, mean.std(0)

    def infer(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Latent mean and log-variance (or None) of what is visible, checked."""
        what = "+".join(x)
        try:
            given = self.encode(dict(x))
        except Exception as error:
            raise ValueError(
                f"encode fails when {what} is visible: {type(error).__name__}: {error}. "
                f"It gets a dict that holds the visible modalities only"
            ) from error
        mean, logvar = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        rows = len(next(iter(x.values())))
        for part, value in (("a latent", mean), ("a log-variance", logvar)):
            if part == "a log-variance" and value is None:
                continue
            if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != rows:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(
                    f"encode must return {part} ({rows}, D) when {what} is visible, got {got}"
                )
            if not value.isfinite().all():
                raise ValueError(f"encode returns NaN or infinity when {what} is visible")
        return mean.float(), None if logvar is None else logvar.float()

    def outputs(self, z: Tensor) -> dict[str, Tensor]:
        """Every modality decoded from z (B, D), checked."""
        made = self.decode(z)
        if not isinstance(made, Mapping):
            raise ValueError(f"decode must return a dict of modalities, got {type(made).__name__}")
        found = {}
        for name, kind in self.modalities.items():
            wanted = (len(z), *self.x[name].shape[1:])
            if name not in made:
                raise ValueError(
                    f"decode lacks the modality {name!r}; it returns {', '.join(made)}"
                )
            if tuple(made[name].shape) != wanted:
                raise ValueError(
                    f"decode gives {name!r} as {tuple(made[name].shape)}, expected {wanted}"
                )
            value = made[name].float()
            if not value.isfinite().all():
                raise ValueError(f"decode gives NaN or infinity in {name!r}")
            low, high = float(value.min()), float(value.max())
            if kind == "image" and not -0.01 <= low <= high <= 1.01:
                raise ValueError(
                    f"decode gives {name!r} from {low:.3g} to {high:.3g}; an image lies in [0, 1] "
                    f"(logits? return their sigmoid)"
                )
            found[name] = value
        return found

    @torch.no_grad()
    def missing(self, state: Any) -> dict[str, Picture]:
        """What is decoded from the modalities that are switched on."""
        on = [name for name in self.modalities if getattr(state, name)]
        if not on:
            raise ValueError(
                "switch at least one modality on: your encoder has no word for nothing"
            )
        mean, logvar = self.infer({name: self.x[name][state.sample :][:1] for name in on})
        made = self.outputs(mean)
        says = f"Visible: {', '.join(on)}."
        found = {
            name: self._pair(name, state.sample, made[name][0], name in on, says)
            for name in self.modalities
        }
        errors = {
            f"{name}{'' if name in on else ', missing'}": (
                float((made[name][0] - self.x[name][state.sample]).square().mean().sqrt()), "rms error"
            )
            for name in self.modalities
        }  # fmt: skip
        if logvar is not None:
            kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)
            errors["knowledge"] = (float(kl.sum()), "nats from N(0, I)")
        return found | {"numbers": pictures.figures(errors)}

    def _pair(self, name: str, sample: int, made: Tensor, visible: bool, says: str) -> Picture:
        seen = self.x[name][sample]
        if self.modalities[name] == "image":
            grid = torch.stack([_grey(seen), _grey(made)])[:, None]
            return pictures.images(
                grid, ["original", "decoded"], [name], says, [[visible], [False]]
            )
        lines = [
            pictures.line("original", seen, dash=(4, 3)),
            pictures.line("decoded", made, "#009E73"),
        ]
        return self._curves(name, lines, says)

    @torch.no_grad()
    def latent(self, state: Any) -> dict[str, Picture]:
        """One latent pushed both ways, in standard deviations over the samples."""
        z = self.mean[state.sample]
        axis = torch.eye(len(z))[state.index].to(z) * self.sd[state.index]
        steps = torch.linspace(-state.amplitude, state.amplitude, PUSHES).to(z)
        made = self.outputs(z + steps[:, None] * axis)
        says = f"Latent {state.index} from -{state.amplitude:.3g} to {state.amplitude:.3g} sd."
        columns = [f"{step:.2g}" for step in steps.tolist()]
        found: dict[str, Picture] = {}
        moved = {}
        for name, kind in self.modalities.items():
            values = made[name]
            if kind == "image":
                grid = torch.stack([_grey(v) for v in values])[None]
                found[name] = pictures.images(grid, [], columns, says)
            else:
                lines = [
                    pictures.line(columns[0], values[0], "#0072B2", (6, 4)),
                    pictures.line("0", values[PUSHES // 2]),
                    pictures.line(columns[-1], values[-1], "#D55E00", (2, 3)),
                ]
                found[name] = self._curves(name, lines, says)
            moved[f"{name} moves"] = (
                float((values[-1] - values[0]).square().mean().sqrt()), "rms, end to end"
            )  # fmt: skip
        return found | {"numbers": pictures.figures(moved)}

    def _curves(self, name: str, lines: list[dict[str, Any]], says: str) -> Picture:
        low, high = float(self.x[name].min()), float(self.x[name].max())
        room = 0.1 * (high - low) + 1e-6
        x = torch.arange(self.x[name].shape[1])
        return pictures.curves(x, lines, "entry", name, says, limits=(low - room, high + room))


def _grey(image: Tensor) -> Tensor:
    """(H, W), (1, H, W) or (3, H, W) in [0, 1] -> (H, W); colour by its luma (Rec. 601)."""
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else torch.einsum(
        "chw,c->hw", image, torch.tensor([0.299, 0.587, 0.114]).to(image)
    )  # fmt: skip


def _missing_state(subject: Subject) -> State:
    last = len(subject.mean) - 1
    fields: list[Any] = [("sample", int, whole(0, 0, last, "sample", "Which of your samples."))]
    fields += [
        (name, bool, toggle(True, name, f"Does encode get to see {name}?"))
        for name in subject.modalities
    ]
    presets = {
        f"Only {name}": {each: each == name for each in subject.modalities}
        for name in subject.modalities
    }
    made: State = make_dataclass(
        "Missing", fields, bases=(State,), frozen=True, namespace={"PRESETS": presets}
    )()
    return made


def _latent_state(subject: Subject) -> State:
    last, latent = len(subject.mean) - 1, subject.mean.shape[1]
    spread = int(subject.sd.argmax())
    fields: list[Any] = [
        ("index", int, whole(spread, 0, latent - 1, "latent", "Which latent is pushed, from 0.")),
        ("amplitude", float, number(3.0, 0.1, 30, "amplitude", "The largest push, in standard deviations "
         "of this latent over your samples.", unit="sd", log=True)),
        ("sample", int, whole(0, 0, last, "sample", "Which of your samples.")),
    ]  # fmt: skip
    made: State = make_dataclass("Latent", fields, bases=(State,), frozen=True)()
    return made
