"""Figures: the values given are the values drawn, nothing overlaps, and grey print is enough."""

from __future__ import annotations

import base64
import html
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from labkit import LabkitError, drawing, figures, ledger
from labkit.batch import Batch
from labkit.drawing import KINDS, LOOKS
from labkit.floors import Floor
from labkit.metrics import Reliability, ece, reliability

NAMES = ("farsi", "kannada", "speech")
SUBSETS = ["+".join(some) for size in (1, 2, 3) for some in itertools.combinations(NAMES, size)]
VISIBLE = np.array([[name in subset.split("+") for name in NAMES] for subset in SUBSETS])
FLOORS = {
    "farsi": Floor(68.0, 230.0, 305.0),
    "kannada": Floor(188.0, 267.5, 284.5),
    "speech": Floor(0.0, 0.313, 0.375),
}
EPOCHS = 6


def scores(kinds: tuple[str, ...] = ("cross",)) -> pd.DataFrame:
    """Three seeds of a plausible Table 1, every value different."""
    rows = []
    for k, kind in enumerate(kinds):
        for seed, (i, subset) in itertools.product(range(3), enumerate(SUBSETS)):
            for s, split in enumerate(("train", "held-out")):
                wiggle = 0.01 * seed + 0.02 * s + 0.03 * k
                values = {"accuracy": 0.8 + 0.02 * i - wiggle}
                for name, floor in FLOORS.items():
                    low = 0.5 if name in subset.split("+") else 1.05
                    values[name] = floor.class_mean * (low + wiggle)
                rows += [(kind, seed, split, subset, m, v) for m, v in values.items()]
    return pd.DataFrame(rows, columns=["kind", "seed", "split", "subset", "metric", "value"])


def pictures(n: int = 10) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {"farsi": noise.random((n, 28, 28)), "kannada": noise.random((n, 28, 28)),
            "speech": noise.random((n, 13))}  # fmt: skip


def batch() -> Batch:
    x = {name: torch.tensor(values, dtype=torch.float32) for name, values in pictures(40).items()}
    return Batch(x, y=torch.arange(40) % 10)


def decoded() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(1)
    return {name: noise.random((7, *x.shape)) for name, x in pictures().items()}


def history(shift: float) -> dict[str, list[float]]:
    rise = np.linspace(0.3, 0.9, EPOCHS) + shift
    curves = {f"accuracy_{name}": rise - 0.05 * i for i, name in enumerate(NAMES)}
    curves |= {"joint": 500 - 300 * rise, "accuracy": rise + 0.03, "kl": 40 * rise}
    return {name: values.tolist() for name, values in curves.items()}


def share() -> np.ndarray:
    parts = np.random.default_rng(2).random((4, 32)) + 0.05
    return parts / parts.sum(0)


def bins() -> dict[str, Reliability]:
    y = torch.arange(400) % 10
    logits = torch.randn(7, 400, 10, generator=torch.Generator().manual_seed(0))
    logits = logits + 3 * torch.nn.functional.one_hot(y, 10)
    parts = reliability(logits, y)
    return {s: Reliability(*(part[i] for part in parts)) for i, s in enumerate(SUBSETS)}


PARTS = {"farsi": 115.8, "kannada": 250.6, "speech": 0.075, "label": 0.1, "kl": 76.0}
WEIGHTS = {"farsi": 1.0, "kannada": 1.0, "speech": 100.0}
AMPLITUDES = np.array([1.0, 3.0, 10.0, 30.0, 150.0, 1500.0])
FLIPS = np.linspace(0, 0.9, 6) * np.linspace(0.5, 1, 32)[:, None]
POINTS = pd.DataFrame(
    {"kind": ["cross"] * 3 + ["own"] * 3, "seed": [0, 1, 2] * 2,
     "excess": [9.0, 11.0, 10.0, 230.0, 245.0, 250.0], "joint": [451.0, 452, 450, 422, 423, 424]}
)  # fmt: skip
RHO = [0.0, 0.3, 0.6, 0.9]
STYLES = {("farsi", "kannada"): np.array([[0.01, 0.05, 0.2, 0.5], [0.0, 0.06, 0.25, 0.55]])}
DRAWS = [1, 10, 100, 1000]
BOUNDS = {
    "cross": [[-458.0, -455, -453, -451], [-459, -456, -452, -450]],
    "own": [-428.0, -425, -423, -422],
}
ESS = {"cross": [1.0, 0.3, 0.1, 0.04], "own": [1.0, 0.25, 0.08, 0.03]}

DRAW: dict[str, Callable[[], Figure]] = {
    "digits_sheet": lambda: figures.digits_sheet(batch()),
    "cross_generation": lambda: figures.cross_generation(pictures(), decoded(), VISIBLE, NAMES),
    "accuracy": lambda: figures.accuracy_by_subset(scores(), 0.1, dict.fromkeys(SUBSETS, 0.99)),
    "accuracy, two kinds": lambda: figures.accuracy_by_subset(scores(("cross", "own")), 0.1),
    "errors": lambda: figures.errors_by_subset(scores(), FLOORS),
    "errors, two kinds": lambda: figures.errors_by_subset(scores(("cross", "own")), FLOORS),
    "learning": lambda: figures.learning_curves(
        history(0.02), history(0.0), list(np.linspace(0.03, 0.16, EPOCHS)), floor=0.1
    ),
    "precision": lambda: figures.precision_bars(share(), NAMES),
    "waterfall": lambda: figures.waterfall(PARTS, WEIGHTS, 0.16, -22.5, evidence=440.0),
    "evidence": lambda: figures.evidence_curve(DRAWS, BOUNDS, ESS),
    "reliability": lambda: figures.reliability_diagram(bins()),
    "flips": lambda: figures.flip_rates(AMPLITUDES, FLIPS, FLIPS[::2] ** 1.1, 0.9),
    "trade_off": lambda: figures.trade_off(POINTS),
    "style": lambda: figures.style_transfer(RHO, STYLES, 0.01),
}


@pytest.fixture(scope="module")
def drawn() -> Callable[[str], Figure]:
    """Draw a figure once, laid out, for all tests that look at it."""
    made: dict[str, Figure] = {}

    def draw(name: str) -> Figure:
        if name not in made:
            made[name] = DRAW[name]()
            FigureCanvasAgg(made[name])
            with mpl.style.context(["default", drawing.STYLE]):
                made[name].draw_without_rendering()
        return made[name]

    return draw


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An open session; returns where its figures go."""
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path / "figures"))
    ledger.session("01_missing", preset="smoke", device="cpu")
    return tmp_path / "figures" / "01_missing"


# What any figure must be -------------------------------------------------------------------------


def texts(fig: Figure) -> list[Text]:
    """Every text on the page; ticks outside an axis' limits are not drawn."""
    hidden = set()
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not min(limits) <= tick.get_loc() <= max(limits) or not ax.axison:
                    hidden |= {tick.label1, tick.label2}
    shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [t for t in shown if t not in hidden]


@pytest.mark.parametrize("name", DRAW)
def test_no_text_is_cut_small_or_on_top_of_another(
    name: str, drawn: Callable[[str], Figure]
) -> None:
    fig = drawn(name)
    renderer = fig.canvas.get_renderer()
    boxes = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in texts(fig)]
    width, height = fig.bbox.size
    assert 8 <= fig.get_figwidth() <= 11.5
    assert min(t.get_fontsize() for t in texts(fig)) >= 10
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        apart = min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1
        assert apart, f"{text!r} lies on {other!r}"


UNITS = {
    "accuracy": ["accuracy (% of samples)"],
    "errors": ["farsi\n(nats)", "kannada\n(nats)", "speech\n(squared error)", "Errors a sample"],
    "learning": ["joint loss (nats a sample)", "accuracy (% of samples)", "epoch", "beta (KL)"],
    "precision": ["share of the precision (%)", "latent dimension (its index)"],
    "waterfall": ["nats a sample"],
    "evidence": ["bound on log p (nats a sample)", "effective draws, ESS / K (%)", "K, draws"],
    "reliability": ["share of samples (%)", "confidence", "ECE"],
    "flips": ["label changes (% of samples)", "± (standard deviations of the prior)"],
    "trade_off": ["⟵ better", "(nats a sample)"],
    "style": ["R² of the style", "ρ: correlation"],
}


@pytest.mark.parametrize("name", DRAW)
def test_title_and_units_stand_on_the_page(name: str, drawn: Callable[[str], Figure]) -> None:
    page = "\n".join(t.get_text() for t in texts(drawn(name)))
    assert drawn(name).get_suptitle().endswith("?")
    for unit in UNITS.get(name.split(",")[0], []):
        assert unit in page


def test_title_can_state_the_finding() -> None:
    fig = figures.trade_off(POINTS, title="Own fits better, cross guesses better")
    assert fig.get_suptitle() == "Own fits better, cross guesses better"


def test_users_style_neither_changes_a_figure_nor_is_changed(opened: Path) -> None:
    plain = figures.show(figures.trade_off(POINTS), "plain", "Two kinds of model").png
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        assert figures.show(figures.trade_off(POINTS), "plain", "Two kinds of model").png == plain
        assert mpl.rcParams["font.size"] == 30
    assert mpl.rcParams["axes.grid"] is False


def test_grey_print_is_enough() -> None:
    for looks in (list(LOOKS.values()), list(KINDS)):
        assert len({look.color for look in looks}) == len(looks)
        assert len({look.marker for look in looks}) == len(looks)
        assert len({look.hatch for look in looks}) == len(looks)
    modalities = [LOOKS[name] for name in NAMES]
    assert len({str(look.line) for look in modalities}) == 3
    assert len({str(look.line) for look in KINDS}) == len(KINDS)
    assert not {look.color for look in modalities} & {look.color for look in KINDS}


def test_modalities_have_fixed_colours() -> None:
    assert [LOOKS[name].color for name in (*NAMES, "prior")] == [
        "#0072B2", "#D55E00", "#009E73", "#7f7f7f",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"'smell' has no colour.*labkit.drawing.LOOKS"):
        drawing.look("smell")


def test_spread_moves_labels_apart_and_keeps_their_order() -> None:
    assert drawing.spread([0.1, 0.9], 0.1, 0, 1) == pytest.approx([0.1, 0.9])
    assert drawing.spread([0.5, 0.5], 0.1, 0, 1) == pytest.approx([0.45, 0.55])
    assert drawing.spread([0.9, 0.1, 0.11, 0.12], 0.1, 0, 1) == pytest.approx(
        [0.9, 0.01, 0.11, 0.21]
    )
    assert drawing.spread([1.0, 1.0], 0.1, 0, 1) == pytest.approx([0.9, 1.0])


# Showing and storing -----------------------------------------------------------------------------

ALT = 'Accuracy rises from 80 % with one modality to 92 % with three, "all" <seeds>.'


def test_show_stores_the_same_bytes_twice_and_displays_them(opened: Path) -> None:
    picture = figures.show(DRAW["style"](), "style", ALT)
    files = {path.name: path.read_bytes() for path in opened.iterdir()}
    assert set(files) == {f"style.smoke.procedural.{kind}" for kind in ("png", "svg")}
    figures.show(DRAW["style"](), "style", ALT)
    assert {path.name: path.read_bytes() for path in opened.iterdir()} == files
    assert picture.path.read_bytes() == picture.png == files["style.smoke.procedural.png"]
    assert picture.png[16:20] == round(8.5 * 144).to_bytes(4, "big")
    svg = files["style.smoke.procedural.svg"].decode()
    assert "dc:date" not in svg and "Matplotlib" not in svg
    assert "rises from 80 %" in svg


def test_alternative_text_reaches_the_page(opened: Path) -> None:
    from nbconvert import HTMLExporter

    picture = figures.show(figures.trade_off(POINTS), "trade-off", ALT)
    data = picture._repr_mimebundle_()
    assert base64.b64encode(picture.png).decode() in data["text/html"]
    assert data["text/plain"].startswith("Figure trade-off.smoke.procedural.png: Accuracy rises")
    output = nbformat.v4.new_output("display_data", data)
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    # however the page quotes it
    assert "Accuracy rises" in page and ALT in {
        html.unescape(found[1] or found[2])
        for found in re.finditer(r'alt=(?:"([^"]*)"|\'([^\']*)\')', page)
    }
    assert f'width="{96 * 8.5:.0f}"' in page


def test_show_refuses_what_would_not_do(opened: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"name must be .*got '../up'"):
        figures.show(Figure(), "../up", ALT)
    with pytest.raises(ValueError, match="alt must tell"):
        figures.show(Figure(), "empty", "figure")
    monkeypatch.setattr(ledger, "_session", None)
    with pytest.raises(LabkitError, match=r"ledger\.session"):
        figures.show(Figure(), "early", ALT)


# What each figure draws --------------------------------------------------------------------------


def heights(ax: Axes, **wanted: object) -> list[float]:
    """All y values of marks with these properties."""
    found: list[float] = []
    for line in ax.get_lines():
        got = {
            "marker": line.get_marker(),
            "filled": to_hex(line.get_markerfacecolor()) != "#ffffff",
        }
        if all(got[key] == value for key, value in wanted.items()):
            found += np.asarray(line.get_ydata(), dtype=float).tolist()
    return sorted(found)


def levels(ax: Axes) -> set[float]:
    """Heights of the lines of reference."""
    lines = [line for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]]
    return {round(float(line.get_ydata()[0]), 6) for line in lines}


def matrix(ax: Axes) -> dict[str, set[int]]:
    """Modality -> columns with a filled mark."""
    return {str(line.get_label()): {int(x) for x in line.get_xdata()} for line in ax.get_lines()
            if line.get_label() in NAMES}  # fmt: skip


def test_accuracy_draws_every_seed_the_floor_and_what_was_published(
    drawn: Callable[[str], Figure],
) -> None:
    plot, below = drawn("accuracy").axes
    table = scores()
    table = table[table["metric"] == "accuracy"]
    for split, filled in (("train", False), ("held-out", True)):
        given = sorted(100 * table[table["split"] == split]["value"])
        assert heights(plot, marker="o", filled=filled) == pytest.approx(given)
    assert heights(plot, marker="x") == pytest.approx([99.0] * 7)
    assert levels(plot) == {10.0}
    numbers = {t.get_text() for t in plot.texts}
    means = table[table["split"] == "held-out"].groupby("subset")["value"].mean()
    assert {f"{100 * mean:.1f}" for mean in means} <= numbers
    assert {"train", "held-out", "poster (train)", "majority 10.0"} <= numbers
    seen = {name: {i for i, s in enumerate(SUBSETS) if name in s.split("+")} for name in NAMES}
    assert matrix(below) == seen
    colors = {t.get_text(): t.get_color() for t in below.get_yticklabels()}
    assert colors == {name: LOOKS[name].color for name in NAMES}


def test_errors_are_filled_where_the_modality_was_seen(drawn: Callable[[str], Figure]) -> None:
    fig, table = drawn("errors"), scores()
    table = table[table["split"] == "held-out"]
    assert len(fig.axes) == 4
    for ax, name in zip(fig.axes, NAMES, strict=False):
        mine = table[table["metric"] == name]
        seen = mine["subset"].map(lambda s, name=name: name in s.split("+"))
        marker = LOOKS[name].marker
        assert heights(ax, marker=marker, filled=True) == pytest.approx(sorted(mine[seen]["value"]))
        assert heights(ax, marker=marker, filled=False) == pytest.approx(
            sorted(mine[~seen]["value"])
        )
        assert levels(ax) == {round(value, 6) for value in FLOORS[name]}
        assert ax.yaxis.label.get_color() == LOOKS[name].color
    two = drawn("errors, two kinds")
    assert [ax.get_title(loc="left") for ax in two.axes[:2]] == ["cross", "own"]


def test_scores_without_the_metric_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no rows with metric 'accuracy'; it has farsi"):
        figures.accuracy_by_subset(scores().query("metric != 'accuracy'"), 0.1)


def test_digits_sheet_shows_the_samples_of_each_class(drawn: Callable[[str], Figure]) -> None:
    fig, data = drawn("digits_sheet"), batch()
    seven = fig.axes[7].images[0].get_array()  # farsi, digit 7: samples 7, 17, 27, 37
    np.testing.assert_array_equal(seven[:28, 30:], data.x["farsi"][17])
    np.testing.assert_array_equal(seven[30:, :28], data.x["farsi"][27])
    mean, *curves = fig.axes[27].get_lines()
    np.testing.assert_allclose(mean.get_ydata(), data.x["speech"][7::10].mean(0), rtol=1e-6)
    np.testing.assert_array_equal([c.get_ydata() for c in curves], data.x["speech"][7::10])
    assert [ax.get_title(loc="center") for ax in fig.axes[:10]] == [str(d) for d in range(10)]
    with pytest.raises(ValueError, match="per_class=5"):
        figures.digits_sheet(data, per_class=5)
    with pytest.raises(ValueError, match="needs labels"):
        figures.digits_sheet(Batch({"farsi": torch.zeros(2, 28, 28)}))


def test_cross_generation_frames_what_was_seen(drawn: Callable[[str], Figure]) -> None:
    fig = drawn("cross_generation")
    _, *panels = fig.axes
    for m, (ax, name) in enumerate(zip(panels, NAMES, strict=True)):
        framed = [round(patch.get_y() - 1.46) for patch in ax.patches]
        assert framed == np.flatnonzero(VISIBLE[:, m]).tolist()
        assert {to_hex(patch.get_edgecolor()) for patch in ax.patches} == {
            LOOKS[name].color.lower()
        }
        for row, sample in enumerate([pictures()[name], *decoded()[name]]):
            sheet = np.asarray(ax.images[row].get_array().filled(np.nan))
            cells = sheet.reshape(len(sheet), 10, -1)
            side = (cells.shape[2] - (28 if sample.ndim == 3 else 5)) // 2
            np.testing.assert_allclose(
                cells[:, 4, side + 2], sample[4, :, 2] if sample.ndim == 3 else sample[4]
            )
    box = panels[0].get_window_extent()
    assert box.width / 10 == pytest.approx(box.height / panels[0].get_ylim()[0], rel=1e-3)  # square
    with pytest.raises(ValueError, match=r"reconstructions\['farsi'\] must be \(7, 9"):
        figures.cross_generation(pictures(), decoded(), VISIBLE, NAMES, labels=range(9))
    with pytest.raises(ValueError, match="originals has no 'kannada'"):
        figures.cross_generation({"farsi": 0}, decoded(), VISIBLE, NAMES)


def test_trade_off_marks_means_and_seeds(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("trade_off").axes[0]
    marks = {str(line.get_label()): line.get_xydata()[0] for line in ax.get_lines()}
    np.testing.assert_allclose(marks["cross"], [10, 451])
    np.testing.assert_allclose(marks["own"], [725 / 3, 423])
    assert heights(ax, filled=False) == [422, 423, 424, 450, 451, 452]
    with pytest.raises(ValueError, match=r"lacks the columns \['joint'\]"):
        figures.trade_off(POINTS.drop(columns="joint"))


def curve(ax: Axes, **wanted: object) -> Line2D:
    """The only line with these properties."""
    found = [
        line
        for line in ax.get_lines()
        if all(getattr(line, f"get_{k}")() == v for k, v in wanted.items())
    ]
    assert len(found) == 1
    return found[0]


def test_style_transfer_draws_ceiling_and_mean(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("style").axes[0]
    mean = curve(ax, markersize=10)
    np.testing.assert_allclose(mean.get_ydata(), [0.005, 0.055, 0.225, 0.525])
    assert mean.get_color() == LOOKS["kannada"].color
    rho, ceiling = curve(ax, linestyle="--").get_data()
    np.testing.assert_allclose(ceiling, rho**2)


def test_learning_curves_draw_both_splits(drawn: Callable[[str], Figure]) -> None:
    loss, scale, hits = (drawn("learning").axes[i] for i in (0, 1, 2))
    if scale.get_ylabel() != "beta (KL)":
        scale, hits = hits, scale
    np.testing.assert_allclose(curve(loss, marker="D").get_ydata(), history(0)["joint"])
    np.testing.assert_allclose(curve(loss, marker="None").get_ydata(), history(0.02)["joint"])
    np.testing.assert_allclose(
        curve(scale, marker="D").get_ydata(), np.linspace(0.03, 0.16, EPOCHS)
    )
    for name in NAMES:
        line = curve(hits, marker=LOOKS[name].marker)
        assert line.get_color() == LOOKS[name].color
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(history(0)[f"accuracy_{name}"]))
    assert levels(hits) == {10.0}
    with pytest.raises(ValueError, match="joint has 6 values, beta has 5"):
        figures.learning_curves(history(0), history(0), [0.1] * 5)


def test_precision_bars_stack_to_one_and_sort_by_the_prior(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("precision").axes[0]
    order = np.argsort(share()[0])
    bars = {c.get_label().split(":")[0]: c.patches for c in ax.containers}
    for row, name in enumerate(("prior", *NAMES)):
        np.testing.assert_allclose([b.get_height() for b in bars[name]], 100 * share()[row, order])
        assert to_hex(bars[name][0].get_facecolor()) == LOOKS[name].color.lower()
        assert (bars[name][0].get_hatch() or "") == LOOKS[name].hatch
    tops = [b.get_y() + b.get_height() for b in bars["prior"]]
    np.testing.assert_allclose(tops, 100)
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(i) for i in order]
    with pytest.raises(ValueError, match="sum to 1"):
        figures.precision_bars(2 * share(), NAMES)
    with pytest.raises(ValueError, match=r"share must be \(3, D\)"):
        figures.precision_bars(share(), NAMES[:2])
    many = np.repeat(share(), 2, axis=1)
    assert "rank" in figures.precision_bars(many, NAMES).axes[0].get_xlabel()


def test_waterfall_adds_up(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("waterfall").axes[0]
    rows = {t.get_text(): p for t, p in zip(ax.get_yticklabels(), ax.patches, strict=False)}
    trained = 115.8 + 250.6 + 7.5 + 0.1 + 0.16 * 76
    assert rows["loss as trained"].get_width() == pytest.approx(trained)
    assert rows["100 × squared error, speech"].get_width() == pytest.approx(7.5)
    assert rows["the other 0.84 × KL"].get_x() == pytest.approx(trained)
    assert rows["the other 0.84 × KL"].get_width() == pytest.approx(0.84 * 76)
    assert rows["likelihoods' constants"].get_width() == pytest.approx(-22.5)
    assert rows["−ELBO (beta 1)"].get_width() == pytest.approx(trained + 0.84 * 76 - 22.5)
    assert curve(ax, marker="D").get_xdata()[0] == 440.0
    assert "−22.5" in {t.get_text() for t in ax.texts}
    whole = figures.waterfall(PARTS, WEIGHTS, 1.0, -22.5)
    page = " ".join(t.get_text() for t in whole.findobj(Text))
    assert "the other" not in page and "does not" not in page and "Diamond" not in page
    with pytest.raises(ValueError, match="parts has no 'kl'"):
        figures.waterfall({"farsi": 1.0}, {"farsi": 1.0}, 1.0, 0.0)


def test_evidence_curve_shows_seeds_and_effective_draws(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("evidence").axes
    np.testing.assert_allclose(
        curve(left, marker="o").get_ydata(), np.mean(BOUNDS["cross"], axis=0)
    )
    np.testing.assert_allclose(curve(left, marker="D").get_ydata(), BOUNDS["own"])
    np.testing.assert_allclose(curve(right, marker="o").get_ydata(), [100, 30, 10, 4])
    np.testing.assert_allclose(curve(right, linestyle=":").get_ydata(), [100, 10, 1, 0.1])
    with pytest.raises(ValueError, match="curves of 4 values, samples 3"):
        figures.evidence_curve(DRAWS[:3], BOUNDS, ESS)


def test_reliability_prints_the_ece_that_metrics_computes() -> None:
    y = torch.arange(400) % 10
    logits = torch.randn(400, 10, generator=torch.Generator().manual_seed(1))
    ax = figures.reliability_diagram({"farsi": reliability(logits, y)}).axes[0]
    assert ax.get_title(loc="left") == f"farsi\nECE {100 * float(ece(logits, y)):.1f} %"
    assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(100)
    right = reliability(logits, y).accuracy
    drawn_points = [y for y in heights(ax, marker="o") if np.isfinite(y)]
    assert drawn_points == pytest.approx(sorted(100 * right[~right.isnan()].numpy()))


def test_flip_rates_draw_latents_control_and_chance(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("flips").axes[0]
    np.testing.assert_allclose(curve(ax, marker="o").get_ydata(), 100 * FLIPS.mean(0))
    control = FLIPS[::2] ** 1.1
    np.testing.assert_allclose(curve(ax, marker="D").get_ydata(), 100 * control.mean(0))
    thin = [line for line in ax.get_lines() if line.get_linewidth() == 0.7]
    np.testing.assert_allclose([line.get_ydata() for line in thin], 100 * FLIPS)
    assert levels(ax) == {90.0}
    assert [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"] == [1500]
    with pytest.raises(ValueError, match=r"random must be \(n, 6\)"):
        figures.flip_rates(AMPLITUDES, FLIPS, FLIPS[:, :4], 0.9)
