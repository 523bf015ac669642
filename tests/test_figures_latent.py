"""Figures of the latent space: the values given are the values drawn, and nothing overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from labkit import drawing, figures
from labkit.drawing import LOOKS
from labkit.latent.space import published_shifts

RANDOM = np.random.default_rng(0)
AMPLITUDES = (0.1, 1.0, 3.0, 30.0, 1500.0)
SHIFTS = published_shifts().tolist()
LOGITS = {name: 30 * RANDOM.standard_normal((100, 28, 28)) for name in ("farsi", "kannada")}
READ = {name: RANDOM.integers(0, 10, 100).tolist() for name in LOGITS}
RATES = np.linspace(0, 0.9, 5) * np.linspace(0.5, 1, 32)[:, None]
FLIPS = {unit: {"latents": RATES, "random": RATES[::2] ** 1.1} for unit in ("prior", "aggregate")}
EFFECTS = {
    "z is beyond": [[0, 0, 0.1, 1, 1]],
    "label changes": [[0, 0, 0.05, 0.7, 0.9], [0, 0, 0.07, 0.6, 0.9]],
    "change of the pictures": [[0, 0.1, 0.2, 0.9, 1.3]],
    "saturated pixels": [[0, 0, 0, 0.1, 0.96]],
}
LOOK = {"changed": [[0, 0.1, 0.2, 0.9, 0.98]], "same": [[np.nan, 0.5, 0.3, 0.2, 0.15]],
        "chance": [[np.nan, 0.2, 0.1, 0.1, 0.12]]}  # fmt: skip
T = np.linspace(0, 1, 41)
PATH = {
    "percentile": 0.5 - T * (1 - T),
    "start": (1 - T) ** 2,
    "end": T**2,
    "others": 2 * T * (1 - T),
}
WAYS = ("straight", "spherical")
FACTORS = ["digit", *(f"{f}_{m}" for f in ("slant", "scale") for m in LOGITS), "speaker"]
SHARE = RANDOM.random((32, len(FACTORS))) * 0.3
OWNERS = [("speech", "farsi", "kannada")[i % 3] for i in range(32)]
ORDER = [*range(1, 32, 3), *range(2, 32, 3), *range(0, 32, 3)]  # farsi, kannada, speech
SCORE = {"mig": 0.01, "sap": 0.02, "disentanglement": 0.15, "completeness": 0.14,
         "modality": 0.4, "informativeness": 0.32}  # fmt: skip
SCORES = [{"trained": SCORE, "untrained": SCORE, "rotated": [SCORE, SCORE]}] * 3
MEANS, DIGITS = RANDOM.standard_normal((60, 2)), np.arange(60) % 10
WARM = {
    given: {
        "width": 0.2, "label": [0.9] * 4,
        **{m: {k: np.linspace(v, 0.7 * v, 4) for k, v in
               (("coherence", 0.9), ("diversity", 0.5), ("spread", 0.1))} for m in LOGITS},
    }
    for given in LOGITS
}  # fmt: skip

DRAW: dict[str, Callable[[], Figure]] = {
    "sweep, logits": lambda: figures.sweep_grid(LOGITS, SHIFTS, "logits", READ),
    "sweep, pixels": lambda: figures.sweep_grid(LOGITS, SHIFTS, "sigmoid"),
    "sweep, few": lambda: figures.sweep_grid(
        {m: v[:20] for m, v in LOGITS.items()}, published_shifts(3, 0.3).tolist(),
        read={m: v[:20] for m, v in READ.items()},
    ),
    "effects": lambda: figures.push_effects(AMPLITUDES, EFFECTS, EFFECTS),
    "flips": lambda: figures.flip_panels(AMPLITUDES, FLIPS, 7, 0.9),
    "agreement": lambda: figures.judges_agreement(AMPLITUDES, {"latents": LOOK, "random": LOOK}),
    "strips": lambda: figures.path_strips(
        {way: {m: RANDOM.random((11, 28, 28)) for m in LOGITS} for way in WAYS},
        {way: np.eye(10)[[3] * 20 + [5] * 5 + [7] * 20] for way in WAYS},
        {way: {m: READ[m][:11] for m in LOGITS} for way in WAYS},
    ),
    "paths": lambda: figures.path_curves(dict.fromkeys(WAYS, PATH)),
    "noise": lambda: figures.noise_sheet(
        {m: RANDOM.random((4, 8, 28, 28)) for m in LOGITS}, "farsi", (0, 1, 2, 3),
        RANDOM.random((28, 28)),
    ),
    "temperature": lambda: figures.temperature_curves((0, 1, 2, 3), WARM),
    "factors": lambda: figures.factor_matrix(SHARE, FACTORS, SHARE.max(0), OWNERS),
    "factors, one": lambda: figures.factor_matrix(
        SHARE[:, :1], FACTORS[:1], SHARE.max(0)[:1], OWNERS
    ),
    "scores": lambda: figures.score_controls(SCORES),
    "map": lambda: figures.latent_map(
        MEANS, DIGITS, {m: RANDOM.random((25, 28, 28)) for m in LOGITS}, 3.5
    ),
}  # fmt: skip


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
    assert fig.get_suptitle().endswith("?")


UNITS = {
    "sweep": ["standard deviations of the prior"],
    "effects": ["standard deviations of the prior", "share (%)", "poster: ±30 to ±1500"],
    "flips": [
        "label changes (% of samples)",
        "standard deviations of the cloud",
        "label drawn at random",
    ],
    "agreement": ["share (%)", "standard deviations of the prior", "by chance"],
    "strips": ["label (%)", "share of the way"],
    "paths": ["probability of the label (%)", "nearer to the centre (%)"],
    "temperature": ["read as the true digit (%)", "temperature τ"],
    "factors": ["share of the entropy (%)", "explained (%)"],
    "scores": ["MIG", "SAP", "rotated"],
    "map": ["latent 0", "standard deviations of the prior"],
}


@pytest.mark.parametrize("name", DRAW)
def test_units_stand_on_the_page(name: str, drawn: Callable[[str], Figure]) -> None:
    page = " ".join(t.get_text().replace("\n", " ") for t in texts(drawn(name)))
    for unit in UNITS.get(name.split(",")[0], []):
        assert unit in page


def test_a_title_can_state_the_finding() -> None:
    fig = figures.score_controls(SCORES, title="A rotation is as good")
    assert fig.get_suptitle() == "A rotation is as good"


# What each figure draws --------------------------------------------------------------------------


def lines(ax: Axes, **wanted: object) -> list[Line2D]:
    return [
        x for x in ax.get_lines() if all(getattr(x, f"get_{k}")() == v for k, v in wanted.items())
    ]


def picture(ax: Axes, row: int, column: int) -> np.ndarray:
    """One picture of a sheet of tiles of 28 x 28."""
    sheet = np.asarray(ax.images[0].get_array())
    return sheet[row * 30 : row * 30 + 28, column * 30 : column * 30 + 28]


def test_the_sweep_is_laid_out_row_by_row(drawn: Callable[[str], Figure]) -> None:
    farsi, kannada = drawn("sweep, pixels").axes
    for ax, name in ((farsi, "farsi"), (kannada, "kannada")):
        sigmoid = 1 / (1 + np.exp(-LOGITS[name][37]))
        np.testing.assert_allclose(picture(ax, 3, 7), sigmoid, rtol=1e-6, atol=1e-12)
        assert ax.get_title(loc="left") == name
    assert [t.get_text() for t in farsi.get_yticklabels()][::9] == ["−1500", "+1230"]
    assert [t.get_text() for t in kannada.get_yticklabels()][::9] == ["−1230", "+1500"]


def test_logits_are_stretched_picture_by_picture(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("sweep, logits").axes[0]
    logits = LOGITS["farsi"][37]
    stretched = (logits - logits.min()) / (logits.max() - logits.min())
    np.testing.assert_allclose(picture(ax, 3, 7), stretched, rtol=1e-6)
    corners = [t.get_text() for t in ax.texts]
    assert corners == [str(digit) for digit in READ["farsi"]]


def test_sweeps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="display must be 'logits' or 'sigmoid', got 'raw'"):
        figures.sweep_grid(LOGITS, SHIFTS, "raw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"logits\['farsi'\] must be \(99"):
        figures.sweep_grid(LOGITS, SHIFTS[:-1])
    with pytest.raises(ValueError, match=r"read\['kannada'\] must hold 100 digits, got 3"):
        figures.sweep_grid(LOGITS, SHIFTS, read={**READ, "kannada": [1, 2, 3]})
    with pytest.raises(ValueError, match="read has no 'kannada'"):
        figures.sweep_grid(LOGITS, SHIFTS, read={"farsi": READ["farsi"]})


def test_effects_are_means_over_the_seeds(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("effects").axes[0]
    (label,) = lines(ax, marker="D")
    np.testing.assert_allclose(label.get_ydata(), [0, 0, 6, 65, 90])
    assert len(lines(ax, linewidth=1.1)) == 4 and ax.get_ylim()[1] > 130
    with pytest.raises(ValueError, match="random has no 'z is beyond'"):
        figures.push_effects(AMPLITUDES, EFFECTS, {})
    with pytest.raises(ValueError, match="at most 6 effects"):
        figures.push_effects(AMPLITUDES, dict.fromkeys("abcdefg", [0.1] * 5), {})


def test_flip_panels_single_out_the_latent_and_count_the_others(
    drawn: Callable[[str], Figure],
) -> None:
    for ax in drawn("flips").axes:
        (mine,) = lines(ax, marker="o")
        np.testing.assert_allclose(mine.get_ydata(), 100 * RATES[7])
        others = np.array([line.get_ydata() for line in lines(ax, linewidth=0.7)])
        np.testing.assert_allclose(others, 100 * np.delete(RATES, 7, 0))
        counts = [int((table[:, 3] > 0.5).sum()) for table in (RATES, RATES[::2] ** 1.1)]
        assert f"{counts[0]} ({counts[1]})" in {t.get_text() for t in ax.texts}
    with pytest.raises(ValueError, match="flips has no 'aggregate'"):
        figures.flip_panels(AMPLITUDES, {"prior": FLIPS["prior"]}, 7, 0.9)
    with pytest.raises(ValueError, match=r"latents must be \(n, 4\)"):
        figures.flip_panels(AMPLITUDES[:-1], FLIPS, 7, 0.9)


def test_agreement_averages_the_seeds_that_have_a_value() -> None:
    seeds = {"changed": [[0.2] * 5] * 2, "chance": [[0.1] * 5] * 2,
             "same": [[np.nan, 0.2, 0.2, 0.2, 0.2], [np.nan, np.nan, 0.4, 0.4, 0.4]]}  # fmt: skip
    fig = figures.judges_agreement(AMPLITUDES, {"latents": seeds, "random": seeds})
    (same,) = lines(fig.axes[0], marker="D")
    np.testing.assert_allclose(same.get_ydata(), [np.nan, 20, 30, 30, 30])
    with pytest.raises(ValueError, match="looks has no 'random'"):
        figures.judges_agreement(AMPLITUDES, {"latents": seeds})


def test_paths_draw_both_ways(drawn: Callable[[str], Figure]) -> None:
    left, right = drawn("paths").axes
    np.testing.assert_allclose(lines(left, marker="o")[0].get_ydata(), 100 * PATH["percentile"])
    assert len(lines(right, marker="o")) == len(lines(right, marker="D")) == 3
    with pytest.raises(ValueError, match=r"paths\['straight'\] has no 'others'"):
        figures.path_curves({"straight": {k: v for k, v in PATH.items() if k != "others"}})


def test_what_was_given_is_filled(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("temperature").axes[0]
    filled = {line.get_label(): line.get_markerfacecolor() for line in ax.get_lines()}
    assert filled["farsi, given"] == LOOKS["farsi"].color
    assert filled["farsi, missing"] == filled["kannada, missing"] == "white"


def test_the_matrix_has_a_row_a_factor(drawn: Callable[[str], Figure]) -> None:
    matrix, bars = drawn("factors").axes[:2]
    np.testing.assert_allclose(np.asarray(matrix.images[0].get_array()), SHARE[ORDER].T)
    assert [t.get_text() for t in matrix.get_xticklabels()] == [str(i) for i in ORDER]
    assert [t.get_text() for t in matrix.texts] == ["farsi", "kannada", "speech"]
    assert [t.get_text() for t in matrix.get_yticklabels()][:2] == ["digit", "slant, farsi"]
    np.testing.assert_allclose([b.get_width() for b in bars.patches], 100 * SHARE.max(0))
    with pytest.raises(ValueError, match=r"share must be \(32, 6\)"):
        figures.factor_matrix(SHARE[:, :2], FACTORS, SHARE.max(0), OWNERS)


def test_every_score_has_its_controls(drawn: Callable[[str], Figure]) -> None:
    ax = drawn("scores").axes[0]
    count = {line.get_marker(): len(line.get_xdata()) for line in ax.get_lines()}
    assert count == {"o": 3, "D": 6, "X": 3}
    assert ax.texts[0].get_text() == "0.010   0.010   0.010"
    with pytest.raises(ValueError, match="at least one seed"):
        figures.score_controls([])


def test_the_map_writes_each_digit_where_it_lies(drawn: Callable[[str], Figure]) -> None:
    clouds = [c for c in drawn("map").axes[0].collections if isinstance(c, PathCollection)]
    assert len(clouds) == 10
    np.testing.assert_allclose(np.asarray(clouds[3].get_offsets()), MEANS[DIGITS == 3])
    with pytest.raises(ValueError, match=r"means must be \(N, 2\)"):
        figures.latent_map(MEANS[:, :1], DIGITS, {}, 3)
