"""The labs as a person meets them: in JupyterLab, by mouse and by keyboard, in light and dark."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

from labkit import weights
from labkit.live import cross, fusion, latent
from labkit.live.gallery import held_out
from labkit.live.lab import Lab
from labkit.reproduce import reproduce

pytestmark = pytest.mark.browser

GAP = 2
# Width, height and the red channel, in base64: JSON would take a second for a grid.
GREY = """(c) => {
  const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height), bytes = [];
  for (let i = 0; i < data.length; i += 4) bytes.push(String.fromCharCode(data[i]));
  return [c.width, c.height, btoa(bytes.join(""))];
}"""
IMPORTS = """\
from labkit import weights
from labkit.live import cross, fusion, latent
from labkit.live.gallery import held_out
batch = held_out()
"""
LABS: dict[str, tuple[str, Callable[[], Lab]]] = {
    "missing": (
        "fusion.missing_modalities(weights.load('mvae2'), batch)",
        lambda: fusion.missing_modalities(weights.load("mvae2"), held_out()),
    ),
    "conflict": (
        "fusion.conflict(weights.load('mvae2'), batch)",
        lambda: fusion.conflict(weights.load("mvae2"), held_out()),
    ),
    "matrix": (
        "cross.matrix(weights.load('mvae32'), batch)",
        lambda: cross.matrix(weights.load("mvae32"), held_out()),
    ),
    "probe": (
        "latent.probe(weights.load('mvae32'), batch)",
        lambda: latent.probe(weights.load("mvae32"), held_out()),
    ),
    "plane": (
        "latent.plane(weights.load('mvae2'), batch)",
        lambda: latent.plane(weights.load("mvae2"), held_out()),
    ),
    "between": (
        "latent.between(weights.load('mvae32'), batch)",
        lambda: latent.between(weights.load("mvae32"), held_out()),
    ),
}


@pytest.fixture(scope="module")
def page(open_notebook: Callable[..., Page]) -> Iterator[Page]:
    cells = [IMPORTS, *(code for code, _ in LABS.values())]
    opened = open_notebook("labs", *cells, wait_for=lab_of("between") + "[data-difference]")
    yield opened
    assert opened.watched.outside == []  # type: ignore[attr-defined]
    assert opened.watched.errors == []  # type: ignore[attr-defined]


def lab_of(name: str) -> str:
    return f".labkit[data-lab='{name}']"


@pytest.fixture(params=list(LABS))
def lab(request: pytest.FixtureRequest, page: Page) -> tuple[Locator, Lab]:
    place = page.locator(lab_of(request.param))
    place.scroll_into_view_if_needed()
    page.wait_for_selector(lab_of(request.param) + "[data-difference]")
    for name in ("Reset",):
        place.get_by_role("button", name=name).click()
    return place, twin(request.param)


@functools.cache
def twin(name: str) -> Lab:
    """The same lab in this process, to compare with."""
    return LABS[name][1]()


def line_of(place: Locator) -> str:
    return place.locator(".lk-line input").input_value()


def settle(page: Page) -> None:
    """Two frames: the one in which a change is drawn, and one more."""
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


def shown(place: Locator, view: str) -> np.ndarray:
    """Grey values on the canvas of a view, (rows, columns, height, width) without the gaps."""
    canvas = place.locator(f"[data-view='{view}'] canvas")
    width, height, data = canvas.evaluate(GREY)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width)


def same_as_torch(place: Locator, twin: Lab) -> None:
    """Every image on the page is what torch makes of the state that the page shows."""
    _, query = line_of(place).split("?")
    twin.state = {c.name: c.value for c in parse(twin, query)}
    for view, picture in twin.flush().items():
        canvas = place.locator(f"[data-view='{view}'] canvas")
        if picture["kind"] != "figures":
            assert canvas.get_attribute("data-state") == line_of(place)
        if picture["kind"] != "images":
            continue
        sheet, pixels = shown(place, view), picture["pixels"]
        rows, columns, height, width = pixels.shape
        for r in range(rows):
            for c in range(columns):
                top, left = GAP + r * (height + GAP), GAP + c * (width + GAP)
                cell = sheet[top : top + height, left : left + width].astype(int)
                assert np.abs(cell - pixels[r, c]).max() <= 1, (view, r, c, query)


class Field:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value


def parse(twin: Lab, query: str) -> list[Field]:
    state = twin.kind.from_query(query)
    return [Field(c["name"], getattr(state, c["name"])) for c in twin.spec["controls"]]


def test_the_page_checks_its_decoder_and_draws_what_torch_draws(lab: tuple[Locator, Lab]) -> None:
    place, twin = lab
    assert float(place.get_attribute("data-difference") or 1) < 1e-4
    assert place.get_attribute("data-simd") == "true", place.get_attribute("data-reason")
    same_as_torch(place, twin)


def test_every_control_works_by_keyboard(page: Page, lab: tuple[Locator, Lab]) -> None:
    place, twin = lab
    for control in place.locator(".lk-controls input, .lk-controls select").all():
        before = line_of(place)
        control.focus()
        kind = control.get_attribute("type")
        name = control.get_attribute("name")
        if kind == "checkbox":
            page.keyboard.press("Space")
        else:
            page.keyboard.press("ArrowDown" if kind is None else "ArrowRight")
            if line_of(place) == before:  # it stood at its end
                page.keyboard.press("ArrowUp" if kind is None else "ArrowLeft")
        settle(page)
        assert line_of(place) != before, f"{name} did nothing"
        same_as_torch(place, twin)
    for button in place.locator(".lk-presets button").all():
        button.focus()
        page.keyboard.press("Enter")
        settle(page)
        same_as_torch(place, twin)


def test_every_slider_and_switch_works_by_mouse(page: Page, lab: tuple[Locator, Lab]) -> None:
    place, twin = lab
    for control in place.locator(".lk-controls input").all():
        control.scroll_into_view_if_needed()
        before, box = line_of(place), control.bounding_box()
        assert box is not None
        if control.get_attribute("type") == "checkbox":
            control.click()
        else:
            middle = box["y"] + box["height"] / 2
            page.mouse.move(box["x"] + 8, middle)
            page.mouse.down()
            for part in (0.9, 0.25, 0.62):
                page.mouse.move(box["x"] + part * box["width"], middle)
            page.mouse.up()
        settle(page)
        assert line_of(place) != before, control.get_attribute("name")
        same_as_torch(place, twin)


@pytest.mark.parametrize(("name", "view"), [("plane", "map"), ("matrix", "reconstructions")])
def test_pictures_answer_to_pointer_and_arrow_keys(page: Page, name: str, view: str) -> None:
    place, other = page.locator(lab_of(name)), twin(name)
    canvas = place.locator(f"[data-view='{view}'] canvas")
    canvas.scroll_into_view_if_needed()
    place.get_by_role("button", name="Reset").click()
    start, box = line_of(place), canvas.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.2 * box["height"])
    settle(page)
    clicked = line_of(place)
    assert clicked != start
    same_as_torch(place, other)
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert line_of(place) != clicked
    same_as_torch(place, other)


def test_hovering_decodes_what_is_under_the_pointer_and_changes_nothing(page: Page) -> None:
    place, other = page.locator(lab_of("plane")), twin("plane")
    canvas = place.locator("[data-view='map'] canvas")
    canvas.scroll_into_view_if_needed()
    place.get_by_role("button", name="Reset").click()
    settle(page)
    line, image = line_of(place), shown(place, "decoded")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.6 * box["height"])
    settle(page)
    assert line_of(place) == line
    hovered = canvas.get_attribute("data-state") or ""
    assert hovered != line
    other.state = {c.name: c.value for c in parse(other, hovered.split("?")[1])}
    pixels, sheet = other.flush()["decoded"]["pixels"], shown(place, "decoded")
    assert np.abs(sheet[GAP : GAP + 28, GAP : GAP + 28].astype(int) - pixels[0, 0]).max() <= 1
    page.mouse.move(box["x"] - 40, box["y"] - 40)
    settle(page)
    assert canvas.get_attribute("data-state") == line
    assert (shown(place, "decoded") == image).all()


def test_a_wrong_state_line_shows_the_error_box_and_a_right_one_opens_the_state(
    page: Page, lab: tuple[Locator, Lab]
) -> None:
    place, twin = lab
    box, line = place.locator(".lk-error"), place.locator(".lk-line input")
    name = twin.spec["name"]
    before = line_of(place)
    line.fill(f"{name}?nonsense=99")
    line.press("Enter")
    assert box.is_visible()
    assert "unknown field 'nonsense'" in box.inner_text()
    field = twin.spec["controls"][0]
    line.fill(f"{name}?{field['name']}=1e9")
    line.press("Enter")
    assert f"{field['name']} must be" in box.inner_text()
    page.keyboard.press("Tab")
    line.fill(before)
    line.press("Enter")
    settle(page)
    assert box.is_hidden()
    same_as_torch(place, twin)


def test_the_kernel_knows_the_state_after_release(page: Page, lab: tuple[Locator, Lab]) -> None:
    place, twin = lab
    first = place.locator(".lk-controls input").first
    first.focus()
    page.keyboard.press("ArrowRight" if first.get_attribute("type") == "range" else "Space")
    settle(page)
    wanted = twin.kind.from_query(line_of(place).split("?")[1]).to_query()
    code = f"from labkit.live.lab import Lab\nLab._open['{twin.spec['name']}'].now.to_query()"
    script = """
    async (code) => {
      const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
      const future = kernel.requestExecute({ code, store_history: false });
      let text = '';
      future.onIOPub = (m) => { if (m.content.data) text = m.content.data['text/plain']; };
      await future.done;
      return text;
    }"""
    for _ in range(20):
        if page.evaluate(script, code) == repr(wanted):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"the kernel has {page.evaluate(script, code)}, the page shows {wanted}")


def test_a_line_copied_from_the_page_gives_the_same_numbers_in_a_run(
    page: Page, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    place = page.locator(lab_of("missing"))
    place.scroll_into_view_if_needed()
    place.get_by_role("button", name="Only speech").click()
    place.locator("input[name='digit']").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    line, shown_numbers = line_of(place), place.locator(".lk-numbers li").all_inner_texts()
    assert line != f"missing?{twin('missing').now.to_query()}"
    opened = """\
from labkit import weights
from labkit.live import fusion
from labkit.live.gallery import held_out
from labkit.live.lab import numbers
lab = fusion.missing_modalities(weights.load("mvae2"), held_out(), states)
lab"""
    notebook = tiny(opened, results="ledger.results(numbers(lab))")
    text = notebook.read_text()
    wanted = json.dumps("states: list[str] = []  # lines\ngain: float")[1:-1]
    notebook.write_text(text.replace("gain: float", wanted, 1))
    (made,) = reproduce([notebook], parameters={"states": [line]}, figures_dir=tmp_path)
    found = json.loads(made.read_text())["metrics"]
    for name, text in zip(("knowledge", "spread", "label_probability"), shown_numbers, strict=True):
        value = float(re.search(r"[-0-9.e]+", text.replace(name.replace("_", " "), ""))[0])
        assert found[f"lab.missing.{name}"]["value"] == pytest.approx(
            value, rel=0.005
        )  # 3 digits shown


def test_nothing_serious_for_axe_and_every_control_has_a_name(
    page: Page, lab: tuple[Locator, Lab]
) -> None:
    place, _ = lab
    for control in place.locator("input, select, button, canvas").all():
        name = control.evaluate(
            "e => e.getAttribute('aria-label') || (e.labels && e.labels[0]?.innerText) || e.innerText"
        )
        assert name, control.evaluate("e => e.outerHTML")
    found = Axe().run(page, context=lab_of(place.get_attribute("data-lab") or ""))
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == [], [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in serious]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_screens_in_both_themes(page: Page, theme: str, tmp_path: Path) -> None:
    """Pictures to look at; kept where LABKIT_SCREENS says."""
    folder = Path(os.environ.get("LABKIT_SCREENS", tmp_path))
    page.evaluate(
        "theme => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme
    )
    page.wait_for_timeout(1500)
    word = theme.split()[1].lower()
    for name in LABS:
        place = page.locator(lab_of(name))
        place.scroll_into_view_if_needed()
        place.get_by_role("button", name="Reset").click()
        settle(page)
        path = folder / f"{name}.{word}.png"
        place.screenshot(path=path)
        assert path.stat().st_size > 5000
