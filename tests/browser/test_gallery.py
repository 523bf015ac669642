"""One HTML file from a file:// address, with no server, no kernel and no network."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from labkit.live import gallery

pytestmark = pytest.mark.browser
# Width, height and the red channel, in base64.
GREY = """(c) => {
  const { data } = c.getContext("2d").getImageData(0, 0, c.width, c.height), bytes = [];
  for (let i = 0; i < data.length; i += 4) bytes.push(String.fromCharCode(data[i]));
  return [c.width, c.height, btoa(bytes.join(""))];
}"""
COMMITTED = Path(__file__).parents[2] / "figures" / "gallery"


@pytest.fixture(scope="module", params=list(gallery.GALLERY))
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gallery.write(request.param, tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Callable[..., Page]]:
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 1200})
    requests: list[str] = []
    errors: list[str] = []
    context.on("request", lambda request: requests.append(request.url))

    def go(path: Path, link: str = "") -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"file://{path}{link}")
        page.wait_for_selector(".labkit[data-difference]", timeout=30_000)
        return page

    yield go
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_every_lab_of_a_page_turns_and_draws_what_torch_draws(
    path: Path, visit: Callable[..., Page]
) -> None:
    assert path.stat().st_size < 3e6
    page = visit(path)
    for lab in gallery.GALLERY[path.stem].labs(False):
        place = page.locator(f".labkit[data-lab='{lab.spec['name']}']")
        page.wait_for_selector(f".labkit[data-lab='{lab.spec['name']}'][data-difference]")
        control = place.locator(".lk-controls input[type='range']").first
        control.focus()
        page.keyboard.press("ArrowRight")
        page.evaluate(
            "() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))"
        )
        line = place.locator(".lk-line input").input_value()
        lab.state = dict(lab.kind.from_query(line.split("?")[1]).__dict__)
        name, picture = next((n, p) for n, p in lab.flush().items() if p["kind"] == "images")
        canvas = place.locator(f"[data-view='{name}'] canvas")
        width, height, data = canvas.evaluate(GREY)
        sheet = np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width).astype(int)
        _, _, high, wide = picture["pixels"].shape
        cell = sheet[2 : 2 + high, 2 : 2 + wide]
        assert np.abs(cell - picture["pixels"][0, 0]).max() <= 1
        name = lab.spec["name"]  # the address becomes a link to this state
        page.wait_for_function("name => location.hash.startsWith(`#${name}?`)", arg=name)


def test_a_link_opens_the_state_and_a_wrong_one_says_so(
    visit: Callable[..., Page], tmp_path: Path
) -> None:
    path = gallery.write("missing_modalities", tmp_path)
    page = visit(path, "#missing?digit=7&speech=0")
    place = page.locator(".labkit[data-lab='missing']")
    line = place.locator(".lk-line input").input_value()
    assert "&digit=7&" in line
    assert "&speech=0&" in line
    assert not place.locator("input[name='speech']").is_checked()
    page = visit(path, "#missing?digit=70")
    box = page.locator(".labkit[data-lab='missing'] .lk-error")
    assert "digit must be a whole number from 0 to 9, got '70'" in box.inner_text()


@pytest.mark.parametrize("name", list(gallery.GALLERY))
def test_the_committed_pages_are_of_this_code(name: str, tmp_path: Path) -> None:
    """All but the data: another processor rounds the last bit of an activation differently."""

    def without_data(path: Path) -> list[str]:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if not line.startswith(("const LABS_HERE", "const BUFFERS"))]

    written = gallery.write(name, tmp_path)
    assert without_data(COMMITTED / f"{name}.html") == without_data(written), "run make gallery"
