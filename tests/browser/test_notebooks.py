"""Every lab notebook, opened in JupyterLab and run to its last cell as a reader would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import nbformat
import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
LABS = {
    "01_missing_modalities": ["missing", "conflict", "matrix"],
    "02_latent_probing": ["probe", "plane", "between"],
    "03_modality_focusing": ["gamma", "alpha"],
    "04_which_channels_matter": ["microscope", "surgeon"],
    "05_recovering_modalities": [
        "half", "inverse", "classes", "theatre", "gap", "methods", "masks", "swap", "noise", "merge",
    ],
    "06_choosing_experts": ["anatomy", "routing", "corrupt", "bill", "clock"],
    "07_fusion_under_noise": ["scene", "histogram", "weather", "anneal", "surgery"],
    "08_exchanging_norms": [
        "xor", "exchange", "swap", "synergy", "sites", "alignment", "crops", "blending", "cells", "misa",
        "price",
    ],
    "09_shootout": ["shootout"],
}  # fmt: skip
KERNEL = {
    "gamma",
    "alpha",
    "microscope",
    "surgeon",
    *LABS["05_recovering_modalities"],
    *LABS["06_choosing_experts"],
    *LABS["07_fusion_under_noise"],
    *LABS["08_exchanging_norms"],
    *LABS["09_shootout"],
}  # labs that the kernel computes
BOARDS = {  # dots, what one says when pointed at, and what holds once the second button is pressed
    "03_modality_focusing": (
        98, "gamma: ", "document.querySelector('.js-plotly-plot .xtitle').textContent === 'gamma'",
    ),
    "06_choosing_experts": (
        24, "MAdds: ", "document.querySelector('.js-plotly-plot').data[0].visible === false",
    ),
    "08_exchanging_norms": (
        9, "MAdds: ", "document.querySelector('.js-plotly-plot .xtitle').textContent === 'weights'",
    ),
    "09_shootout": (
        29, "MAdds: ",
        "document.querySelector('.js-plotly-plot .ytitle').textContent.startsWith('complete')",
    ),
}  # fmt: skip
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.context.model.toJSON().cells
  .filter((c) => c.cell_type === "code")
  .map((c) => [c.execution_count, (c.outputs || []).map((o) => o.output_type), c.metadata.tags || []])"""


def point_at_the_board(page: Page, dots: int, says: str, then: str) -> None:
    """JupyterLab draws the board with plotly, not its picture; a dot says what it is; a button changes it."""
    board = page.locator(".js-plotly-plot")
    board.scroll_into_view_if_needed()
    points = board.locator(".scatterlayer .point")
    assert points.count() == dots
    place = points.nth(dots // 2).bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    board.locator(".hoverlayer .hovertext").first.wait_for()
    assert says in (board.locator(".hoverlayer").text_content() or "")
    buttons = board.locator(".updatemenu-button")
    if not buttons.count():  # a list that opens
        board.locator(".updatemenu-header").first.click()
        buttons = board.locator(".updatemenu-dropdown-button")
    buttons.nth(1).click()
    page.wait_for_function(f"() => {then}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*LABS][::-1]
)  # the other tests of notebooks begin at the other end
def test_run_all_reaches_the_ledger_and_every_lab_is_live(
    name: str, open_notebook: Callable[..., Page], server: Any
) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace('preset: str = "quick"', 'preset: str = "smoke"')
    last = ".jp-Notebook-cell:last-child, .jp-RenderedHTMLCommon caption"
    page = open_notebook(name, notebook=notebook, wait_for=last, timeout=60)
    page.wait_for_function(
        f"() => ({OUTPUTS})().some(([, kinds, tags]) => kinds.includes('error')"
        " || (tags.includes('results') && kinds.length > 0))",
        timeout=420_000,
    )
    cells = page.evaluate(f"({OUTPUTS})()")
    assert [kinds for _, kinds, _ in cells if "error" in kinds] == []
    assert all(count for count, _, _ in cells), "a cell was not run"
    lines = {}
    for lab in LABS[name]:
        place = page.locator(f".labkit[data-lab='{lab}']")
        place.scroll_into_view_if_needed()
        ready = " canvas[data-state]" if lab in KERNEL else "[data-difference]"
        page.wait_for_selector(f".labkit[data-lab='{lab}']{ready}", state="attached")
        skip = place.get_by_role("button", name="Show without a guess")
        assert skip.count() == bool(place.locator(".lk-covered").count())
        if skip.count():
            skip.click()
        assert all(canvas.is_visible() for canvas in place.locator("canvas").all())
        before = place.locator(".lk-line input").input_value()
        sliders = place.locator(".lk-controls input[type='range']")
        control = sliders if sliders.count() else place.locator(".lk-controls select")
        control.first.focus()
        page.keyboard.press("ArrowRight")
        if place.locator(".lk-line input").input_value() == before:  # it stood at its end
            page.keyboard.press("ArrowLeft")
        lines[lab] = place.locator(".lk-line input").input_value()
        assert lines[lab] != before
    if name in BOARDS:
        point_at_the_board(page, *BOARDS[name])
    assert page.watched.outside == []  # type: ignore[attr-defined]
    assert page.watched.errors == []  # type: ignore[attr-defined]
    page.wait_for_timeout(1000)  # the kernel is told when the hand rests
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    path = server.root / f"{name}.ipynb"
    saved: dict[str, Any] = {}
    for _ in range(50):
        page.wait_for_timeout(200)
        widgets = nbformat.read(path, as_version=4).metadata.get("widgets", {})
        if widgets:
            saved = widgets["application/vnd.jupyter.widget-state+json"]["state"]
            break
    assert path.stat().st_size < 3e6, "with its widgets' state the notebook is too large to mail"
    states = {
        model["state"]["spec"]["name"]: model["state"]["state"]
        for model in saved.values() if "spec" in model["state"]
    }  # fmt: skip
    for lab, line in lines.items():
        shown = dict(parse_qsl(line.split("?")[1]))
        kept = {k: str(int(v) if isinstance(v, bool) else v) for k, v in states[lab].items()}
        assert kept.keys() == shown.keys()
        for field, text in shown.items():
            assert kept[field] == text or float(kept[field]) == float(text), (lab, field)
