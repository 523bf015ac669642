"""Labs of one scene (DynMM, fusion level): what every path answers, and cells set by hand.

They read trained networks from the store; what is not there yet is trained when a lab first asks for it.
Whole splits and trainings are in `labkit.live.annealing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.batch import Batch
from labkit.data.rooms import LOOK
from labkit.fusing import colours, reading
from labkit.fusing.plan import Setting
from labkit.fusing.reading import Told
from labkit.live import pictures
from labkit.live.flowing import BLUE, GREY
from labkit.live.lab import Lab, Question
from labkit.live.masking import state_of, together
from labkit.live.pictures import Picture
from labkit.live.state import choice, number, toggle, whole
from labkit.metrics_segmentation import confusion, iou, mean_iou, pixel_accuracy
from labkit.models.dynmm_fusion import PATHS, fuse_of
from labkit.models.rgbd import CELLS

GATE = "gate"
ORANGE = "#E69F00"  # the gate's own path
QUARTERS = 8  # of the noise's largest level, 2
SCENE_HELP = "Which held-out picture."
NOISE_HELP = "Deviation of the noise, in units of the picture's mean|x|; 0 = the clean picture."


def procedural(setting: Setting) -> bool:
    """Whether scenes can be made anew under other circumstances."""
    return setting.data.source == "procedural"


def named(setting: Setting) -> list[str]:
    """Names of the classes, for a label."""
    return [name.replace("_", " ") for name in setting.data.classes]


# The scene -------------------------------------------------------------------------------------------


def scene(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = (),
    way: str | None = None,
) -> Lab:  # fmt: skip
    """One held-out scene: what colour and depth show, and what each of the five paths makes of it.

    Args:
        setting: Data and sizes; see `labkit.fusing.plan`.
        seed: Of data and network.
        device: Where to compute.
        states: State lines; see `Lab`.
        way: Whose gate; None = annealed, the middle weight.

    Raises:
        ValueError: if the way has no trained gate.
    """
    way, made = reading.gate_way(setting, way), procedural(setting)
    last = len(reading.held_out(setting, seed, device)) - 1
    fields: list[Any] = [("row", int, whole(0, 0, last, "scene", SCENE_HELP))]
    if made:
        fields += [
            ("light", float, number(1.0, 0.1, 2, "light", "Factor of the scene's own light.", unit="×")),
            ("similarity", float, number(0.0, -1, 1, "colour similarity", "Added to the share of the wall's "
             "colour in all other colours.", unit="more")),
            ("noise", float, number(1.0, 0.02, 50, "depth noise", "Factor of the scene's own error of depth: "
             "a good camera's is 1 to 2, a corrupted one's 25 to 50.", unit="×", log=True)),
            ("holes", float, number(0.0, -1, 1, "holes", "Added to the share of the picture without depth.",
             unit="more")),
        ]  # fmt: skip
    else:
        fields += [
            ("colour", float, number(0.0, 0, 2, "noise on colour", NOISE_HELP)),
            ("depth", float, number(0.0, 0, 2, "noise on depth", NOISE_HELP)),
        ]
    options = (GATE, *map(str, range(PATHS)))
    fields.append(("path", str, choice(GATE, options, "path", "How many cells fuse, the first ones: 0 to 4; "
                   "or as the gate chooses.")))  # fmt: skip
    worst: dict[str, Any] = {"noise": 25.0, "holes": 0.5} if made else {"depth": 2.0}
    presets: dict[str, Mapping[str, Any]] = {"As it is": {}, "Bad depth": worst}
    presets |= (
        {"Dark": {"light": 0.25, "similarity": 0.5}} if made else {"Bad colour": {"colour": 1.0}}
    )
    presets |= {
        "Bad depth, path 0": {**worst, "path": "0"},
        "Bad depth, path 4": {**worst, "path": "4"},
    }
    question = Question(
        "Path 0 fuses in no cell. Its depth gets noisy and full of holes. What becomes of its answer?",
        ("nothing: it does not see depth", "it changes: depth comes in before the first cell",
         "it changes in dark scenes alone"),
        answer=1,
        why="The first layer always fuses. The gate reads what comes of it, so that depth can never be "
        "switched off altogether: only a network of colour alone does not mind.",
        then={**worst, "path": "0"},
    )  # fmt: skip
    return Lab(
        "scene", "Scene lab: five paths through one scene", state_of("scene", fields, presets),
        lambda state: scene_pictures(setting, way, seed, device, state),
        question=question if made else None, states=states,
    )  # fmt: skip


def batch_of(setting: Setting, seed: int, device: str, state: Any) -> Batch:
    """The one picture of a state of `scene`."""
    if procedural(setting):
        asked = (state.light, state.similarity, state.noise, state.holes)
        return reading.scene(setting, seed, state.row, *asked, device=device)
    return reading.noised(setting, seed, state.row, state.colour, state.depth, device)


@lru_cache(maxsize=64)
def _told(setting: Setting, way: str, seed: int, device: str, **asked: Any) -> Told:
    """All paths of one picture, kept: another path is only another look at them."""
    make = reading.scene if procedural(setting) else reading.noised
    return reading.told(
        reading.network(setting, way, seed, device), make(setting, seed, **asked, device=device)
    )


def scene_pictures(
    setting: Setting, way: str, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `scene`."""
    asked = {k: v for k, v in vars(state).items() if k != "path"}
    found, batch = (
        _told(setting, way, seed, device, **asked),
        batch_of(setting, seed, device, state),
    )
    assert batch.y is not None
    y, classes = batch.y[0].cpu(), setting.data.classes
    each = confusion(found.said, y.expand_as(found.said), len(classes), per_image=True)
    right = 100 * pixel_accuracy(each)
    path = found.path if state.path == GATE else int(state.path)
    cost = reading.path_costs(reading.network(setting, way, seed, device))[path]
    score = 100 * float(mean_iou(each[path], "skip"))
    kind = reading.scene_name(batch)
    says = (
        f"Scene {state.row}{f', {kind}' if kind else ''}: path {path}, "
        f"{'the choice of the gate' if state.path == GATE else f'forced; the gate would take {found.path}'}. "
        f"{right[path]:.1f} % of the pixels are right. Right by path, from 0: "
        f"{', '.join(f'{v:.1f}' for v in right)} %."
    )
    told = colours.class_image(found.said, classes)
    wrong = colours.error_image(found.said, y.expand_as(found.said))
    columns = [f"{k}: {v:.1f} %" for k, v in enumerate(right)]
    marked = [[k == found.path for k in range(PATHS)]] * 2
    return {
        "what is seen, what is true, what the path says and where it is wrong": seen(
            batch, found.said[path], setting, f"path {path}", says
        ),
        "IoU of classes; (not here); ticks: path 4": class_bars(setting, each[path], says, each[CELLS]),
        "the five paths, pixels right; orange: the gate's; blue: looked at": pictures.images(
            np.stack((told, wrong)), ["says", "wrong"], columns, says, marked, (0, path)
        ),
        "the gate's weights; orange: its path": pictures.bars(
            [f"path {k}" for k in range(PATHS)], found.weights, says, unit="probability",
            colors=[ORANGE if k == found.path else BLUE if k == path else GREY for k in range(PATHS)],
        ),
        "numbers": pictures.figures({
            "right": (float(right[path]), "% of the pixels"),
            "mIoU": (score, "% of the picture's classes"),
            "path": (path, f"of {CELLS} cells fuse; the gate takes {found.path}"),
            "depth encoder": (100 * cost, "% of the deepest path's MAdds"),
            **{name: (float(batch.factors[name][0]), f"of 0 to {most:g}") for name, most in LOOK.items()
               if name in batch.factors},
        }),
    }  # fmt: skip


def seen(batch: Batch, said: Tensor, setting: Setting, by: str, alt: str) -> Picture:
    """Colour, depth, truth, answer (H, W) and errors of the first sample, side by side."""
    assert batch.y is not None
    y, classes = batch.y[0].cpu(), setting.data.classes
    row = (
        colours.colour_image(batch.x["rgb"][0]), colours.depth_image(batch.x["depth"][0, 0]),
        colours.class_image(y, classes), colours.class_image(said, classes),
        colours.error_image(said, y),
    )  # fmt: skip
    return pictures.images(np.stack(row)[None], [], ["colour", "depth", "true", by, "wrong"], alt)


def class_bars(setting: Setting, matrix: Tensor, alt: str, other: Tensor) -> Picture:
    """IoU of each class in its colour, the legend of the pictures; ticks are those of another matrix."""
    here = matrix.sum(1) > 0
    names = [
        name if there else f"({name})" for name, there in zip(named(setting), here, strict=True)
    ]
    return pictures.bars(
        names, 100 * iou(matrix), alt, high=100, unit="IoU (%)", marks=100 * iou(other),
        colors=colours.colors_of(setting.data.classes),
    )  # fmt: skip


# Surgery ---------------------------------------------------------------------------------------------


def surgery(
    setting: Setting, seed: int = 0, device: str = "cpu", states: Sequence[str] = (),
    way: str | None = None,
) -> Lab:  # fmt: skip
    """Each cell fuses or not by hand, also as no path of the gate does; arguments as `scene`."""
    way = reading.gate_way(setting, way)
    last = len(reading.held_out(setting, seed, device)) - 1
    fields = [
        ("row", int, whole(0, 0, last, "scene", SCENE_HELP)),
        ("quarters", int, whole(0, 0, QUARTERS, "noise quarters", "Noise on depth, in every picture: 4 is a "
         "deviation of 1 times the picture's mean depth.")),
        *[
            (f"cell{j + 1}", bool, toggle(j < 2, f"cell {j + 1}", f"Does depth come in after stage {j + 1}? "
             "The paths of the gate fuse in the first cells alone."))
            for j in range(CELLS)
        ],
    ]  # fmt: skip

    def cells(*on: int) -> dict[str, Any]:
        return {f"cell{j + 1}": j + 1 in on for j in range(CELLS)}

    presets: dict[str, Mapping[str, Any]] = {
        "No cell": cells(), "All cells": cells(1, 2, 3, 4), "The last alone": cells(4),
        "All but the first": cells(2, 3, 4), "First and last": cells(1, 4),
    }  # fmt: skip
    question = Question(
        "Only the last cell fuses. How many of the four stages of the depth encoder must run?",
        ("one: the last", "all four", "none"),
        answer=1,
        why="A stage reads what the one before it gave, so the last one needs them all. That is why paths "
        "fuse in the first cells: depth is dear by how far it runs, not by how often it is fused.",
        then=cells(4),
    )
    return Lab(
        "surgery", "Surgery: fuse where no path does", state_of("surgery", fields, presets),
        lambda state: surgery_pictures(setting, way, seed, device, state),
        question=question if procedural(setting) else None, states=states,
    )  # fmt: skip


def surgery_pictures(
    setting: Setting, way: str, seed: int, device: str, state: Any
) -> Mapping[str, Picture]:
    """State -> pictures of `surgery`."""
    cells = tuple(bool(getattr(state, f"cell{j + 1}")) for j in range(CELLS))
    net, level = reading.network(setting, way, seed, device), state.quarters / 4
    batch = reading.noised(setting, seed, state.row, depth=level, device=device)
    said = reading.patched(net, batch, cells)[0].cpu()
    assert batch.y is not None
    matrix = confusion(said[None], batch.y.cpu(), setting.sizes.classes)
    right = 100 * float(pixel_accuracy(matrix))
    ran = max((j + 1 for j in range(CELLS) if cells[j]), default=0)
    cost = reading.path_costs(net)[ran]
    patterns = [cells, *(reading.cells_of(path) for path in range(PATHS))]
    kept = [reading.counts(setting, way, seed, p, level=level, device=device) for p in patterns]
    scores = [100 * float(mean_iou(each.sum(0))) for each in kept]
    fuse = [str(j + 1) for j in range(CELLS) if cells[j]]
    where = f"cell{'s' if len(fuse) > 1 else ''} {together(fuse)}" if fuse else "no cell"
    path = ran if cells in patterns[1:] else None
    says = (
        f"Depth comes in at {where}: {ran} of {CELLS} stages of depth run. "
        f"{'This is no path of the gate.' if path is None else f'This is path {path}.'} Scene {state.row}: "
        f"{right:.1f} % of the pixels right. {len(kept[0])} pictures: mIoU {scores[0]:.1f} %, of the paths "
        f"from 0: {', '.join(f'{v:.1f}' for v in scores[1:])} %."
    )
    return {
        "what is seen, what is true, what these cells say and where it is wrong": seen(
            batch, said, setting, "these cells", says
        ),
        "mIoU over pictures; blue: these cells": pictures.bars(
            ["these cells", *(f"path {k}" for k in range(PATHS))], scores, says, high=100, unit="mIoU (%)",
            colors=[BLUE, *[GREY] * PATHS],
        ),
        "IoU of classes; (not here); ticks: path 4": class_bars(
            setting, matrix, says, _full(setting, way, seed, device, state.row, state.quarters)
        ),
        "numbers": pictures.figures({
            "right": (right, "% of the pixels"),
            "stages": (ran, f"of {CELLS} of the depth encoder ran"),
            "depth encoder": (100 * cost, "% of the deepest path's MAdds"),
            "mIoU": (scores[0], f"% over {len(kept[0])} pictures"),
            "best path": (max(scores[1:]), f"% is the mIoU of path {int(np.argmax(scores[1:]))}"),
        }),
    }  # fmt: skip


@lru_cache(maxsize=64)
def _full(setting: Setting, way: str, seed: int, device: str, row: int, quarters: int) -> Tensor:
    """Confusion of one picture where all cells fuse."""
    net = reading.network(setting, way, seed, device)
    batch = reading.noised(setting, seed, row, depth=quarters / 4, device=device)
    fuse = fuse_of(torch.tensor([CELLS], device=batch.device))
    assert batch.y is not None
    with torch.no_grad():
        said = net.answer(batch, fuse).logits.argmax(1)
    return confusion(said, batch.y, setting.sizes.classes).cpu()
