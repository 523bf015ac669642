"""Fusion labs: which modalities are visible, who is how sure, and what their product decodes to.

Two labs share one computation (page/labs.js, `fusionLab`): `missing_modalities`, where one digit is seen
through switches, and `conflict`, where every modality shows a digit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.drawing import look
from labkit.live import pictures
from labkit.live.decoder import Assets, Net, pack
from labkit.live.lab import Lab, Question
from labkit.live.learning import Learner
from labkit.live.pictures import Picture
from labkit.live.samples import SAMPLE_HELP, SAMPLES, SHAPE, choose, images_of
from labkit.live.state import State, number, toggle, whole
from labkit.models.mvae import LOGVAR_BOUND, MVAE, Encoder, Posterior, product_of_experts
from labkit.weights import Recipe

_SEEN = "Is this modality visible? A missing one sends no message: its variance is infinite."
_NOISE = (
    "Gaussian noise on what is seen, its standard deviation in units of the modality's mean size; the "
    "model was trained without."
)
_SURER = "Log-precision added to this modality's message: how much surer it is than it should be."


@dataclass(frozen=True)
class Fusion(State):
    """State of `missing_modalities`."""

    PRESETS: ClassVar = {
        "Only Farsi": {"kannada": False, "speech": False},
        "Only speech": {"farsi": False, "kannada": False},
        "Nothing": {"farsi": False, "kannada": False, "speech": False},
        "Noisy speech": {"noise_speech": 2.0},
    }

    farsi: bool = toggle(True, "farsi", _SEEN)
    noise_farsi: float = number(0.0, 0, 5, "farsi noise", _NOISE)
    digit: int = whole(3, 0, 9, "digit", "Which digit was written and spoken.")
    kannada: bool = toggle(True, "kannada", _SEEN)
    noise_kannada: float = number(0.0, 0, 5, "kannada noise", _NOISE)
    sample: int = whole(0, 0, SAMPLES - 1, "sample", SAMPLE_HELP)
    speech: bool = toggle(True, "speech", _SEEN)
    noise_speech: float = number(0.0, 0, 5, "speech noise", _NOISE)


@dataclass(frozen=True)
class Conflict(State):
    """State of `conflict`."""

    PRESETS: ClassVar = {
        "All agree": {"digit_farsi": 3, "digit_kannada": 3, "digit_speech": 3},
        "A sure liar": {"digit_kannada": 3, "digit_speech": 3, "surer_farsi": 4.0},
        "Two against one": {"digit_kannada": 3, "digit_speech": 3},
    }

    farsi: bool = toggle(True, "farsi", _SEEN)
    digit_farsi: int = whole(7, 0, 9, "farsi shows", "The digit in the Farsi image.")
    surer_farsi: float = number(0.0, -6, 6, "farsi surer by", _SURER, unit="nats")
    kannada: bool = toggle(True, "kannada", _SEEN)
    digit_kannada: int = whole(3, 0, 9, "kannada shows", "The digit in the Kannada image.")
    surer_kannada: float = number(0.0, -6, 6, "kannada surer by", _SURER, unit="nats")
    speech: bool = toggle(True, "speech", _SEEN)
    digit_speech: int = whole(3, 0, 9, "speech says", "The digit that is spoken.")
    surer_speech: float = number(0.0, -6, 6, "speech surer by", _SURER, unit="nats")
    sample: int = whole(0, 0, SAMPLES - 1, "sample", "Which held-out sample of each digit.")
    noise: float = number(0.0, 0, 5, "noise", _NOISE)


def missing_modalities(
    model: MVAE, batch: Batch, states: Sequence[str] = (), recipe: Recipe | None = None
) -> Lab:
    """Switch modalities on and off and watch the posterior and what it decodes to.

    Args:
        model: A trained MVAE with a label decoder; D = 2 shows the latent plane.
        batch: Held-out samples with labels 0 to 9, at least three of each.
        states: State lines; see `Lab`.
        recipe: How a model of the same sizes is trained; gives the lab a button that does it.
    """
    question = Question(
        "Only speech is visible. What will the two images look like?",
        ("sharp, in some hand", "blurred: the mean of the digit", "grey noise"),
        answer=1,
        why="Speech tells which digit, not whose hand: the average of all hands is the best guess.",
        then={"farsi": False, "kannada": False, "speech": True},
    )
    title = "Missing modalities: who sends a message, and what comes of it"
    return _lab("missing", title, Fusion(), model, batch, states, question, recipe)


def conflict(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """Let modalities disagree and change how sure each is; arguments as `missing_modalities`."""
    question = Question(
        "Farsi shows a 7, the other two a 3, and Farsi's message is made surer and surer. Who wins?",
        ("the majority", "whoever is surest", "nobody: always a mixture of both"),
        answer=1,
        why="A product of experts weighs by precision, not by head count.",
        then={"digit_farsi": 7, "digit_kannada": 3, "digit_speech": 3, "surer_farsi": 4.0},
    )
    title = "Conflict: a vote weighted by confidence"
    return _lab("conflict", title, Conflict(), model, batch, states, question, None)


def _lab(
    name: str, title: str, initial: State, model: MVAE, batch: Batch,
    states: Sequence[str], question: Question, recipe: Recipe | None,
) -> Lab:  # fmt: skip
    bench = Bench.of(model, batch)

    def rebuild(learned: MVAE) -> tuple[Any, Assets]:
        again = Bench.of(learned, batch)
        return again.compute, again.assets()

    learner = None
    if recipe is not None:
        data, seed = recipe.data, recipe.seed
        learner = Learner(recipe.ramped, lambda: data.load("train"), recipe.fit, rebuild, seed)
    return Lab(
        name, title, initial, bench.compute, page="fusion", assets=bench.assets(),
        facts=bench.facts(), question=question, states=states, learner=learner,
    )  # fmt: skip


def _stack(encoder: Encoder) -> nn.Sequential:
    """An encoder without its centring and its bound: one stack, mean and raw log-variance side by side."""
    joined = nn.Linear(encoder.mean.in_features, 2 * encoder.mean.out_features)
    heads = (encoder.mean, encoder.logvar)
    joined.load_state_dict({
        name: torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias")
    })  # fmt: skip
    return nn.Sequential(encoder.body, joined)


@dataclass(frozen=True)
class Bench:
    """Everything that the fusion labs look at: a model, some samples and their messages.

    Args:
        model: The MVAE.
        seen: Modality -> samples (10, SAMPLES, *shape); grey values are 255ths.
        grain: Modality -> fixed standard normal noise (*shape).
        size: Modality -> mean |x|, the unit of the noise level (see `batch.add_noise`).
        points: Posterior means of held-out samples, everything visible, (N, D).
        classes: Their labels (N,).
        noise: Fixed standard normal draws (K, D).
    """

    model: MVAE
    seen: dict[str, Tensor]
    grain: dict[str, Tensor]
    size: dict[str, float]
    points: Tensor
    classes: Tensor
    noise: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: MVAE, batch: Batch, points: int = 400, draws: int = 150) -> Bench:
        """Choose samples and compute their messages.

        Raises:
            ValueError: without labels, a label decoder, or three samples of each digit.
        """
        chosen = choose(model, batch, points)
        generator, images = torch.Generator().manual_seed(0), images_of(model)
        noise = torch.randn(draws, model.config.latent, generator=generator)
        seen = {name: x.unflatten(0, SHAPE) for name, x in chosen.few.x.items()}
        for name in images:  # what the page has
            seen[name] = torch.from_numpy(pictures.to_bytes(seen[name])).float() / 255
        return cls(
            chosen.model,
            seen,
            {name: torch.randn(x.shape[2:], generator=generator) for name, x in seen.items()},
            {name: float(x.abs().mean()) for name, x in chosen.many.x.items()},
            chosen.model.encode(chosen.many).mean,
            chosen.classes,
            noise,
        )

    @property
    def images(self) -> list[str]:
        """Names of the modalities that are images."""
        return images_of(self.model)

    def assets(self) -> Assets:
        """What the page needs to do the same: these arrays, the encoders and the decoders."""
        assert self.model.label is not None  # or `of` would have said so
        nets = {
            m.name: Net(
                self.model.decoders[m.name],
                "sigmoid" if m.likelihood == "bernoulli" else "identity",
            )
            for m in self.model.config.modalities
        }
        for name, encoder in self.model.encoders.items():
            nets[f"encode {name}"] = Net(_stack(cast(Encoder, encoder)))
        return pack(self.arrays(), nets | {"label": Net(self.model.label, "softmax")})

    def arrays(self) -> dict[str, Tensor]:
        """Samples, noise and a cloud of latents, by the names that page/labs.js reads."""
        seen = {
            f"seen_{name}": torch.from_numpy(pictures.to_bytes(x)) if name in self.images else x
            for name, x in self.seen.items()
        }
        return seen | {
            **{f"grain_{name}": noise for name, noise in self.grain.items()},
            "points": self.points,
            "classes": self.classes.to(torch.uint8),
            "noise": self.noise,
        }

    def facts(self) -> dict[str, Any]:
        """Plain values that the page needs."""
        names = list(self.model.modalities)
        colors = {name: look(name).color for name in (*names, "prior")}
        inputs = {
            m.name: {"size": self.size[m.name], "center": m.center, "scale": m.scale}
            for m in self.model.config.modalities
        }
        return {
            "modalities": names, "images": self.images, "colors": colors, "half": self.half,
            "inputs": inputs, "bound": LOGVAR_BOUND,
        }  # fmt: skip

    @property
    def half(self) -> float:
        """Half the width of the latent plane that shows nearly all posterior means."""
        return float(self.points.abs().quantile(0.99).clamp(min=2.5)) * 1.15

    @torch.no_grad()
    def compute(self, state: Any) -> Mapping[str, Picture]:
        """Fusion or Conflict -> pictures."""
        names = list(self.model.modalities)
        digits = {n: getattr(state, f"digit_{n}", getattr(state, "digit", 0)) for n in names}
        visible = {n: getattr(state, n) for n in names}
        seen = {n: self._seen(n, digits[n], state) for n in names}
        surer = torch.tensor([getattr(state, f"surer_{n}", 0.0) for n in names])
        mean, logvar = self.model.experts(Batch({n: x[None] for n, x in seen.items()}))  # (M, 1, D)
        logvar = logvar - surer[:, None, None]
        posterior = product_of_experts(mean, logvar, torch.tensor([list(visible.values())]))
        made = self.model.means(posterior.mean)
        label = self.model.decode_label(posterior.mean)[0].softmax(-1)
        shown = ", ".join(f"{n} {digits[n]}" for n in names if visible[n]) or "nothing"
        says = (
            f"Visible: {shown}. The label decoder says {int(label.argmax())} ({label.max():.0%})."
        )
        found = {"reconstruction": self._images(seen, made, visible, says)}
        if self.noise.shape[1] == 2:
            found |= self._planes(mean, logvar, posterior, visible, says)
        found["label"] = pictures.bars(
            [str(c) for c in range(len(label))], label, says, unit="probability"
        )
        for n in names:
            if n not in self.images:
                found[n] = pictures.curves(
                    torch.arange(len(seen[n])),
                    [
                        pictures.line("seen", seen[n], dash=(4, 3)),
                        pictures.line("decoded", made[n][0], look(n).color),
                    ],
                    "coefficient", "value", says,
                )  # fmt: skip
        found["numbers"] = pictures.figures({
            "knowledge": (float(posterior.kl().sum()), "nats from the prior"),
            "spread": (float((posterior.logvar.mean() / 2).exp()), "posterior sd, geometric mean"),
            "label probability": (float(label.max()), f"for {int(label.argmax())}"),
        })  # fmt: skip
        return found

    def _seen(self, name: str, digit: int, state: Any) -> Tensor:
        """What the encoder gets, (*shape): a sample and its noise."""
        level = getattr(state, f"noise_{name}", getattr(state, "noise", 0.0))
        return self.seen[name][digit, state.sample] + level * self.size[name] * self.grain[name]

    def _images(
        self, seen: dict[str, Tensor], made: dict[str, Tensor], visible: dict[str, bool], says: str
    ) -> Picture:
        rows = [[seen[n] for n in self.images], [made[n][0] for n in self.images]]
        grid = torch.stack([torch.stack(row) for row in rows])
        framed = [[visible[n] for n in self.images], [False] * len(self.images)]
        return pictures.images(grid, ["seen", "decoded"], self.images, says, framed)

    def _planes(
        self,
        mean: Tensor,
        logvar: Tensor,
        posterior: Posterior,
        visible: dict[str, bool],
        says: str,
    ) -> dict[str, Picture]:
        """The whole latent plane, and a close-up that just holds all messages and their product."""
        middle, sd = posterior.mean[0], (posterior.logvar[0] / 2).exp()
        prior = pictures.ellipse("prior", [0, 0], [1, 1], look("prior").color, (2, 4))
        product = pictures.ellipse("product", middle, sd)
        messages, half = [], 3 * float(sd.max())
        for m, (n, on) in enumerate(visible.items()):
            if on:
                width = (logvar[m, 0] / 2).exp()
                messages.append(pictures.ellipse(n, mean[m, 0], width, look(n).color, (7, 4)))
                half = max(half, float(((mean[m, 0] - middle).abs() + 1.3 * width).max()))
        shared: Any = {
            "points": self.points, "classes": self.classes,
            "samples": middle + sd * self.noise,
        }  # fmt: skip
        return {
            "latent plane": pictures.plane(
                says, ellipses=[prior, product], half=self.half, **shared
            ),
            "close-up": pictures.plane(
                says, ellipses=[prior, *messages, product], center=middle, half=half, **shared
            ),
        }
