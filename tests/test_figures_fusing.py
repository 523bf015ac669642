"""Figures of notebook 07: what was measured is drawn, of both data sets, one seed and more."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from labkit import figures_fusing as figures
from labkit.batch import Batch
from labkit.data import interiors, nyu
from labkit.data.rooms import SCENES
from labkit.fusing import colours
from labkit.fusing.reading import in_use

LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0)
COSTS = (0.12, 0.36, 0.58, 0.8, 1.0)
GATES = tuple(f"{kind}, {w:g}" for kind in ("hard", "annealed") for w in (0.0, 0.1, 0.3))
WAYS = ("colour", *(f"static {k}" for k in range(5)), "stage I", *GATES)


def measured(seeds: int, known: bool = True, ways: tuple[str, ...] = WAYS) -> pd.DataFrame:
    """A plausible `measure.table`; without kinds of scene as of real pictures."""
    noise, rows = np.random.default_rng(0), []
    for seed, way in itertools.product(range(seeds), ways):
        k = int(way[-1]) if way.startswith("static") else 2
        paths = noise.dirichlet(np.full(5, 0.8), len(SCENES))
        row: dict[str, Any] = {"way": way, "seed": seed, "miou": 50 + 3 * k + noise.normal()}
        row |= {"cost": 0.0 if way == "colour" else COSTS[k], "random": float("nan")}
        if way in GATES:
            row |= {
                "cost": 0.9 - float(way.split(", ")[1]) + 0.03 * noise.normal(),
                "random": row["miou"] - 2,
            }
        row["paths"] = paths.mean(0).tolist()
        if known:
            row["scenes"] = {n: 50 + 5 * i + k + noise.normal() for i, n in enumerate(SCENES)}
            row["scene_paths"] = {n: paths[i].tolist() for i, n in enumerate(SCENES)}
        rows.append(row)
    return pd.DataFrame(rows)


def under_noise(seeds: int, modes: tuple[str, ...] = ("depth", "rgb")) -> pd.DataFrame:
    noise, rows = np.random.default_rng(1), []
    ways = ("annealed, 0.1", "static 0", "static 1", "static 4", "closable gate", "closable 4")
    for seed, way, mode, level, draw in itertools.product(
        range(seeds), ways, modes, LEVELS, range(2)
    ):
        miou = 60 - 3 * level * (1 + ways.index(way)) + noise.normal()
        anew = miou - 1 if way in GATES else float("nan")
        rows.append({"way": way, "mode": mode, "level": level, "draw": draw, "seed": seed,
                     "miou": miou, "random": anew})  # fmt: skip
    return pd.DataFrame(rows)


BEST = {0: "static 1", 1: "static 0", 2: "static 1"}


def scenes(
    classes: tuple[str, ...], known: bool
) -> tuple[Batch, dict[str, torch.Tensor], torch.Tensor]:
    drawn = torch.Generator().manual_seed(2)
    y = torch.randint(-1, len(classes), (4, 24, 32), generator=drawn)
    x = {"rgb": torch.rand(4, 3, 24, 32, generator=drawn), "depth": 8 * torch.rand(4, 1, 24, 32)}
    batch = Batch(x, y=y, factors={"scene": torch.arange(4)} if known else {})
    right, wrong = y.clamp(min=0), (y.clamp(min=0) + 1) % len(classes)
    half = torch.where(torch.arange(32) < 8, right, wrong)
    answers = {"colour alone": wrong, "always full": half, "gate": right}
    return batch, answers, torch.tensor([0, 4, 2, 1])


def history(seed: int) -> dict[str, Any]:
    noise, epochs = np.random.default_rng(seed), np.arange(9)
    soft = 50 * (1 - 0.7**epochs) + noise.normal(size=9)
    paths = noise.dirichlet(np.ones(5), 9)
    return {
        "epoch": epochs.tolist(), "temperature": (0.5**epochs).tolist(), "soft": soft.tolist(),
        "hard": (soft - 3 * 0.6**epochs).tolist(), "entropy": (np.log(5) * 0.7**epochs).tolist(),
        "paths": paths.tolist(),
    }  # fmt: skip


def sheet(classes: tuple[str, ...], known: bool) -> Figure:
    return figures.scene_sheet(*scenes(classes, known), classes)


BOTH = {"with stage I": [history(0), history(1)], "without": [history(2)]}
DRAW: dict[str, Callable[[], Figure]] = {
    "pareto": lambda: figures.depth_pareto(measured(3)),
    "pareto, 1 seed, 1 weight": lambda: figures.depth_pareto(
        measured(1, ways=(*WAYS[:7], "annealed, 0.1"))
    ),
    "paths": lambda: figures.scene_paths(measured(3), "annealed, 0.1"),
    "paths, 1 seed": lambda: figures.scene_paths(measured(1), "hard, 0.3"),
    "paths, real": lambda: figures.scene_paths(measured(2, known=False), "annealed, 0.1"),
    "noise": lambda: figures.noise_curves(under_noise(3), "annealed, 0.1", BEST),
    "noise, 3 modes": lambda: figures.noise_curves(
        under_noise(1, ("depth", "rgb", "either")), "annealed, 0.1", BEST
    ),
    "closable": lambda: figures.closable_curves(under_noise(3), "annealed, 0.1"),
    "closable, 1 seed": lambda: figures.closable_curves(
        under_noise(1, ("depth",)), "annealed, 0.1"
    ),
    "sheet": lambda: sheet(interiors.CLASSES, True),
    "sheet, real": lambda: sheet(nyu.CLASSES, False),
    "annealing": lambda: figures.annealing(BOTH),
    "annealing, one": lambda: figures.annealing({"with stage I": [history(0)]}),
}


@pytest.mark.parametrize("name", DRAW)
def test_no_text_is_cut_small_or_on_top_of_another(
    name: str, drawn: Callable[[str], Figure], legible: Callable[[Figure], None]
) -> None:
    legible(drawn(name))


def named(lines: list[Line2D]) -> dict[str, Line2D]:
    return {str(line.get_label()): line for line in lines if str(line.get_label())[0] != "_"}


def of(table: pd.DataFrame, way: str, column: str) -> np.ndarray:
    return np.array(table[table["way"] == way][column].tolist())


def legends(fig: Figure) -> list[str]:
    return [t.get_text() for legend in fig.legends for t in legend.get_texts()]


# What each figure draws --------------------------------------------------------------------------------


def test_the_pareto_draws_every_way_and_its_paths_dealt_out_anew(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = measured(3), drawn("pareto")
    ax = fig.axes[0]
    marks = named(ax.get_lines())
    static = [of(table, f"static {k}", "miou").mean() for k in range(5)]
    np.testing.assert_allclose(marks["one depth for all"].get_ydata(), static)
    np.testing.assert_allclose(marks["one depth for all"].get_xdata(), 100 * np.array(COSTS))
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
    assert len(hollow) == len(GATES)
    for way in GATES:
        mark = marks[f"gate, {way.replace(', ', ', weight ')}"]
        at = (100 * of(table, way, "cost").mean(), of(table, way, "miou").mean())
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx(at)
        anew = next(h for h in hollow if h.get_xdata()[0] == pytest.approx(at[0]))
        assert anew.get_ydata()[0] == pytest.approx(at[1] - 2)
    seeds = [line for line in ax.get_lines() if line.get_markersize() == 4]
    assert sum(len(line.get_xdata()) for line in seeds) == len(table)
    looks = {(m.get_color(), m.get_marker()) for m in marks.values()}
    assert len(looks) == len(marks) == 9
    assert [t.get_text() for t in ax.texts] == list("01234")


def test_the_paths_draw_shares_and_scores_of_each_kind_of_scene(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = measured(3), drawn("paths")
    left, right = fig.axes
    gate = table[table["way"] == "annealed, 0.1"]
    thick = [bar for bar in left.patches if bar.get_height() == pytest.approx(0.44)]
    shares = np.array([[row[n] for n in SCENES] for row in gate["scene_paths"]]).mean(0)
    np.testing.assert_allclose([bar.get_width() for bar in thick], 100 * shares.flatten())
    thin = [bar for bar in left.patches if bar not in thick]
    assert len(thin) == 3 * 4 * 5
    assert thick[0].get_facecolor() != thick[4].get_facecolor()
    assert thick[1].get_hatch() != thick[2].get_hatch()
    written = [round(v) for v in (100 * shares).flatten() if v >= 8]
    assert [int(t.get_text()) for t in left.texts] == written
    assert ((shares > 0.02) & (shares < 0.08)).any(), "some are too narrow for a number"
    for way, label in {"static 0": "network of path 0", "annealed, 0.1": "gate"}.items():
        wanted = [of(table, way, "scenes")[s][n] for s in range(3) for n in SCENES]
        mean = np.array(wanted).reshape(3, 4).mean(0)
        np.testing.assert_allclose(named(right.get_lines())[label].get_xdata(), mean)
    assert [t.get_text() for t in left.get_yticklabels()] == list(SCENES)


def test_real_pictures_have_no_kinds_of_scene(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("paths, real").axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["all"]
    table = measured(2, known=False)
    gate = named(right.get_lines())["gate"].get_xdata()
    assert gate[0] == pytest.approx(of(table, "annealed, 0.1", "miou").mean())


def test_closable_curves_draw_the_lead_of_each_gate_over_its_own_full_network(
    drawn: Callable[[str], Figure],
) -> None:
    table = under_noise(3)
    mean = table[table["mode"] == "depth"].groupby(["way", "level"])["miou"].mean()
    left, right = drawn("closable").axes
    pairs = {
        "first layer fuses": ("annealed, 0.1", "static 4"),
        "path 0 sees no depth": ("closable gate", "closable 4"),
    }
    for name, (gate, full) in pairs.items():
        np.testing.assert_allclose(named(left.get_lines())[name].get_ydata(), mean[gate])
        lead = (mean[gate] - mean[full]).to_numpy()
        np.testing.assert_allclose(named(right.get_lines())[name].get_ydata(), lead)
    with pytest.raises(ValueError, match="table has no way 'closable 4'"):
        figures.closable_curves(table[table["way"] != "closable 4"], "annealed, 0.1")


def test_noise_curves_draw_means_spans_and_what_the_gate_is_ahead(
    drawn: Callable[[str], Figure],
) -> None:
    table, fig = under_noise(3), drawn("noise")
    assert len(fig.axes) == 4
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles[:2] == ["noise on depth", "noise on colour"]
    for above, below, mode in zip(fig.axes[:2], fig.axes[2:], ("depth", "rgb"), strict=True):
        rows = table[table["mode"] == mode]

        def grid(pick: pd.Series, column: str = "miou", rows: pd.DataFrame = rows) -> np.ndarray:
            return rows[pick][column].to_numpy().reshape(3, len(LEVELS), 2)

        gate = rows["way"] == "annealed, 0.1"
        exits = pd.concat([rows[(rows["seed"] == s) & (rows["way"] == BEST[s])] for s in BEST])
        wanted = {
            "gate": grid(gate), "always full": grid(rows["way"] == "static 4"),
            "best early exit": exits["miou"].to_numpy().reshape(3, len(LEVELS), 2),
            "dealt out anew": grid(gate, "random"),
        }  # fmt: skip
        lines = named(above.get_lines())
        assert list(lines) == list(wanted)
        for (name, line), band in zip(lines.items(), above.collections, strict=True):
            np.testing.assert_allclose(line.get_ydata(), wanted[name].mean((0, 2)))
            outline = band.get_paths()[0].vertices[:, 1]
            for edge in (*wanted[name].min((0, 2)), *wanted[name].max((0, 2))):
                assert np.abs(outline - edge).min() < 1e-9
        ahead = named(below.get_lines())
        assert list(ahead) == [*wanted][1:]
        gap = (wanted["gate"] - wanted["best early exit"]).mean((0, 2))
        np.testing.assert_allclose(ahead["best early exit"].get_ydata(), gap)
        assert set(ahead["dealt out anew"].get_ydata().round(9)) == {1.0}
    assert len(drawn("noise, 3 modes").axes) == 6
    assert drawn("noise, 3 modes").axes[2].get_title(loc="left") == "noise on colour or depth"


@pytest.mark.parametrize("name", ["sheet", "sheet, real"])
def test_the_sheet_shows_every_scene_and_how_much_is_right(
    name: str, drawn: Callable[[str], Figure]
) -> None:
    fig, known = drawn(name), name == "sheet"
    classes = interiors.CLASSES if known else nyu.CLASSES
    batch, answers, paths = scenes(classes, known)
    axes = np.array(fig.axes).reshape(4, 6)
    for j, said in enumerate(answers.values(), 3):
        shown = axes[2, j].images[0].get_array()
        np.testing.assert_array_equal(shown, colours.class_image(said[2], classes))
    assert [ax.get_xlabel() for ax in axes[:, 3]] == ["0 %"] * 4
    assert [ax.get_xlabel() for ax in axes[:, 5]] == [f"100 %, path {k}" for k in paths.tolist()]
    np.testing.assert_array_equal(axes[1, 0].images[0].get_array(), batch.x["rgb"][1].movedim(0, 2))
    left = [ax.get_ylabel() for ax in axes[:, 0]]
    assert left == (list(SCENES) if known else [f"picture {i}" for i in range(4)])
    assert legends(fig) == [name.replace("_", " ") for name in classes]


def test_annealing_draws_each_training_beside_its_mean(drawn: Callable[[str], Figure]) -> None:
    fig = drawn("annealing")
    axes = np.array(fig.axes).reshape(2, 3)
    for row, records in zip(axes, BOTH.values(), strict=True):
        soft = named(row[1].get_lines())["soft"].get_ydata()
        np.testing.assert_allclose(soft, np.mean([r["soft"] for r in records], 0))
        assert len(row[1].get_lines()) == 2 * (1 + len(records))
        entropy = named(row[0].get_lines())["entropy"].get_ydata()
        assert entropy[0] == pytest.approx(1) and entropy[-1] < 0.1
        used = named(row[2].get_lines())["paths in use"].get_ydata()
        assert used[3] == pytest.approx(np.mean([in_use(r["paths"][3]) for r in records]))
    assert in_use([0.2] * 5) == pytest.approx(5) and in_use([0, 1, 0, 0, 0]) == pytest.approx(1)
    assert "2 seeds" in fig.get_supxlabel()


# Colours and what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [interiors.CLASSES, nyu.CLASSES])
def test_every_class_has_a_colour_of_its_own_that_is_not_that_of_no_class(
    classes: tuple[str, ...],
) -> None:
    found = colours.colors_of(classes)
    assert len({*found, colours.VOID}) == len(classes) + 1
    y = torch.arange(-1, len(classes))[None, None]
    image = colours.class_image(y, classes)
    assert image.shape == (1, 1, len(classes) + 1, 3)
    np.testing.assert_array_equal(image[0, 0, 0], [1, 1, 1])
    np.testing.assert_array_equal(image[0, 0, 1], colours.rgb(found[0]))
    apart = np.abs(image[0, 0, :, None] - image[0, 0, None]).sum(-1)
    assert (apart + 3 * np.eye(len(apart))).min() > 0.2


def test_depth_is_grey_from_near_to_far_and_holes_are_orange() -> None:
    image = colours.depth_image(torch.tensor([[0.0, 1.0, 4.5, 20.0]]))
    np.testing.assert_allclose(image[0, 1:], [[1, 1, 1], [0.5, 0.5, 0.5], [0, 0, 0]])
    np.testing.assert_array_equal(image[0, 0], colours.rgb(colours.HOLE))
    wrong = colours.error_image(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, -1]]))
    shades = (colours.RIGHT, colours.WRONG, colours.VOID)
    np.testing.assert_array_equal(wrong[0], [colours.rgb(c) for c in shades])


def test_what_was_not_measured_is_refused() -> None:
    table = measured(1)
    with pytest.raises(ValueError, match=r"no way 'static 3'; it has colour, static 0"):
        figures.depth_pareto(table[table["way"] != "static 3"])
    with pytest.raises(ValueError, match=r"no way 'magic'; it has colour"):
        figures.scene_paths(table, "magic")
    with pytest.raises(ValueError, match="best must name an early exit for each seed; none for"):
        figures.noise_curves(under_noise(2), "annealed, 0.1", {0: "static 1"})
    with pytest.raises(ValueError, match=r"table has no way 'hard, 1'; it has annealed, 0.1"):
        figures.noise_curves(under_noise(1), "hard, 1", BEST)
    batch, answers, paths = scenes(interiors.CLASSES, True)
    with pytest.raises(ValueError, match=r"answers\['gate'\] must be \(4, 24, 32\)"):
        figures.scene_sheet(batch, {**answers, "gate": paths}, paths, interiors.CLASSES)
    with pytest.raises(ValueError, match="batch must have 2 to 6 pictures, got 1"):
        figures.scene_sheet(batch[:1], answers, paths, interiors.CLASSES)
    with pytest.raises(ValueError, match="classes must be among floor, wall.*; got dragon"):
        colours.colors_of(["floor", "dragon"])
    with pytest.raises(ValueError, match="histories must be one or two names with records"):
        figures.annealing({"none": []})


def test_a_title_can_state_the_finding() -> None:
    title = "A gate is a lottery"
    assert figures.depth_pareto(measured(1), title=title).get_suptitle() == title
