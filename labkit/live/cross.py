"""Cross-generation lab: one sample seen in every way, and what each way leaves open (Figure 2).

The page computes the same (`matrixLab` in page/labs.js).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from labkit.batch import Batch, subset_name, subsets
from labkit.live import pictures
from labkit.live.decoder import pack
from labkit.live.held import Held
from labkit.live.lab import Gesture, Lab
from labkit.live.pictures import Picture
from labkit.live.samples import SAMPLE_HELP, SAMPLES, SHAPE
from labkit.live.state import State, number, whole
from labkit.models.mvae import MVAE

DRAWS = 16  # from the posterior of the chosen cell


@dataclass(frozen=True)
class Matrix(State):
    """State of `matrix`."""

    PRESETS: ClassVar = {
        "Farsi from speech": {"row": 2, "column": 0},
        "Its own hand": {"row": 0, "column": 0},
        "Cold (tau 0)": {"tau": 0.0},
        "Hot (tau 3)": {"tau": 3.0},
    }

    digit: int = whole(3, 0, 9, "digit", "Which digit was written and spoken.")
    sample: int = whole(0, 0, SAMPLES - 1, "sample", SAMPLE_HELP)
    tau: float = number(
        1.0, 0, 3, "temperature", "z = mean + temperature x sd x noise; 1 is the posterior."
    )
    row: int = whole(2, 0, 6, "visible set", "Row of the matrix: what is visible.", hidden=True)
    column: int = whole(
        0, 0, 1, "script", "Column of the matrix: which script is drawn.", hidden=True
    )


def matrix(model: MVAE, batch: Batch, states: Sequence[str] = ()) -> Lab:
    """The poster's Figure 2 for one sample: every visible set, and 16 draws of the cell you click."""
    held = Held.of(model, batch)
    names = tuple(model.modalities)
    visible = subsets(len(names))
    posterior = model.encode(held.batch, visible[:, None])
    arrays = {
        "mean": posterior.mean.detach().unflatten(1, SHAPE),
        "logvar": posterior.logvar.detach().unflatten(1, SHAPE),
        "noise": torch.randn(
            DRAWS, model.config.latent, generator=torch.Generator().manual_seed(0)
        ),
        "visible": visible.to(torch.uint8),
    }
    for name in held.images:
        seen = held.batch.x[name].unflatten(0, SHAPE)
        arrays[f"seen_{name}"] = torch.from_numpy(pictures.to_bytes(seen))
    rows = [subset_name(row, names) for row in visible]
    facts = {
        "images": held.images,
        "size": list(held.size),
        "rows": rows,
        "modalities": list(names),
    }
    return Lab(
        "matrix", "Seven ways to be seen, and what each one leaves open", Matrix(),
        lambda state: matrix_pictures(held, arrays, rows, state), page="matrix",
        assets=pack(arrays, held.nets()), facts=facts, states=states,
        gestures={"reconstructions": Gesture((("row", "column"),), "chooses a cell; arrow keys too")},
    )  # fmt: skip


@torch.no_grad()
def matrix_pictures(
    held: Held, arrays: Mapping[str, Tensor], rows: Sequence[str], state: Any
) -> Mapping[str, Picture]:
    """State of `matrix` -> pictures."""
    mean = arrays["mean"][:, state.digit, state.sample]  # (S, D)
    sd = (arrays["logvar"][state.row, state.digit, state.sample] / 2).exp()
    script = held.images[state.column]
    made = held.model.means(mean)
    z = mean[state.row] + state.tau * sd * arrays["noise"]  # (16, D)
    drawn = held.model.means(z)[script]
    labels = held.model.decode_label(z).argmax(-1)
    right = float((labels == state.digit).float().mean())
    columns = [list(held.model.modalities).index(n) for n in held.images]
    framed = arrays["visible"][:, columns].bool()
    says = f"{script} drawn 16 times from {rows[state.row]}: {right:.0%} are still labelled {state.digit}."
    grid = torch.stack([made[n] for n in held.images], 1)  # (S, scripts, H, W)
    originals = torch.stack([arrays[f"seen_{n}"][state.digit, state.sample] for n in held.images])
    return {
        "reconstructions": pictures.images(
            grid, rows, held.images, says, framed, (state.row, state.column)
        ),
        "original": pictures.images(originals[None].numpy(), [], held.images, says),
        "draws": pictures.images(drawn.unflatten(0, (4, 4)), [], [], says),
        "numbers": pictures.figures({
            "labelled right": (right, "of the 16 draws"),
            "spread of the draws": (float(drawn.std(0).mean()), "grey, mean sd of a pixel"),
            "posterior sd": (float(sd.log().mean().exp()), "geometric mean"),
        }),
    }  # fmt: skip
