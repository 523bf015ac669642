"""Scenes as pictures beside what networks say of them; see `labkit.figures_fusing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from labkit.batch import Batch
from labkit.drawing import SOFT, canvas, styled
from labkit.fusing import colours, reading


@styled
def scene_sheet(
    batch: Batch, answers: Mapping[str, Tensor], paths: Tensor, classes: Sequence[str],
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw scenes: what is seen, what is true, and what each network says.

    Args:
        batch: n pictures with labels, 2 to 6.
        answers: Name -> classes (n, H, W); the last one is the gate's.
        paths: The gate's, (n,).
        classes: Names, in the order of the labels.
        title: Instead of the question.

    Raises:
        ValueError: if an answer is not of the labels' shape, or there are too many pictures.
    """
    y = batch.y
    assert y is not None
    if not 2 <= len(batch) <= 6:
        raise ValueError(f"batch must have 2 to 6 pictures, got {len(batch)}")
    for name, said in answers.items():
        if said.shape != y.shape:
            raise ValueError(f"answers[{name!r}] must be {tuple(y.shape)}, got {tuple(said.shape)}")
    columns: dict[str, Any] = {
        "colour": colours.colour_image(batch.x["rgb"]),
        "depth": colours.depth_image(batch.x["depth"][:, 0]),
        "true": colours.class_image(y, classes),
        **{name: colours.class_image(said, classes) for name, said in answers.items()},
    }
    fig = canvas(
        10.5, 2 + 1.16 * len(batch), title or "What do three networks make of the same scenes?",
        "Held-out pictures. Depth: near is white, far is black, holes are orange. Under each answer: pixels "
        "that are right, and the path of the gate. White in what is true: no class, counts nowhere.",
    )  # fmt: skip
    panels = fig.subplots(len(batch), len(columns), squeeze=False)
    known = (y >= 0).flatten(1).sum(1).clamp(min=1)
    last = [*answers][-1]
    for j, (name, images) in enumerate(columns.items()):
        panels[0, j].set_title(name, loc="center", fontsize=10)
        for i in range(len(batch)):
            ax = panels[i, j]
            ax.imshow(images[i])
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
            if name in answers:
                share = 100 * float((answers[name][i] == y[i]).sum() / known[i])
                path = f", path {int(paths[i])}" if name == last else ""
                ax.set_xlabel(f"{share:.0f} %{path}", fontsize=10, labelpad=2)
    for i in range(len(batch)):
        panels[i, 0].set_ylabel(reading.scene_name(batch, i) or f"picture {i}", fontsize=10)
    handles = [Patch(facecolor=color, edgecolor=SOFT, lw=0.5, label=name.replace("_", " "))
               for name, color in zip(classes, colours.colors_of(classes), strict=True)]  # fmt: skip
    fig.legend(handles=handles, loc="outside right center", frameon=False, fontsize=10)
    return fig
