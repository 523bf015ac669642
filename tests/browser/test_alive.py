"""A model trains in the kernel and every view stays alive: in JupyterLab and in Voila."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page

from labkit.cli import main
from labkit.live import gallery

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# A lab that the page computes and that can train; one that the kernel computes from the same model.
LABS = """\
from dataclasses import replace
from labkit import weights
from labkit.live import fusion, latent
from labkit.live.gallery import held_out
from labkit.live.held import Held
from labkit.live.lab import Lab
recipe = weights.SHIPPED["mvae2"]
recipe = replace(recipe, fit=replace(recipe.fit, epochs=500))
model = weights.load("mvae2")
held = Held.of(model, held_out())"""
IN_PAGE = "fusion.missing_modalities(model, held_out(), recipe=recipe)"
IN_KERNEL = (
    'Lab("far", "In the kernel", latent.Map(), lambda s: latent.plane_pictures(held, 4.0, s))'
)


@pytest.fixture(scope="module")
def voila(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`labkit app` as it starts, with one more notebook in its folder: address, folder."""
    folder = tmp_path_factory.mktemp("voila")
    calls: list[list[str]] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_CACHE", str(folder))
        patch.setattr(os, "execv", lambda path, command: calls.append(command))
        assert CliRunner().invoke(main, ["app", "--headless", "--port", port]).exit_code == 0
    log = (folder / "log.txt").open("w+")
    with log, subprocess.Popen(calls[0], stderr=log) as process:
        for _ in range(300):
            time.sleep(0.2)
            if found := re.search(r"http://localhost:\d+/", (folder / "log.txt").read_text()):
                break
        else:
            raise AssertionError(f"Voila gave no address: {(folder / 'log.txt').read_text()}")
        yield found[0], folder / "app"
        process.terminate()


@pytest.fixture
def visit(chromium: Browser, voila: tuple[str, Path]) -> Iterator[Callable[[str], Page]]:
    pages: list[Page] = []
    outside: list[str] = []
    errors: list[str] = []

    def go(name: str) -> Page:
        page = chromium.new_page(viewport={"width": 1280, "height": 1500})
        pages.append(page)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda r: None if "//localhost:" in r.url or r.url[:5] in ("data:", "blob:")
                else outside.append(r.url))  # fmt: skip
        page.goto(f"{voila[0]}voila/render/{name}.ipynb")
        return page

    yield go
    for page in pages:
        page.close()
    assert (outside, errors) == ([], [])


def place_of(page: Page, name: str) -> Locator:
    page.wait_for_selector(f".labkit[data-lab='{name}'] canvas", timeout=120_000)
    return page.locator(f".labkit[data-lab='{name}']")


def drawn(place: Locator) -> str | None:
    return place.locator("canvas").first.get_attribute("data-state")


def turn(page: Page, place: Locator, field: str, count: int) -> set[str | None]:
    """Press an arrow key `count` times on a control; return what was drawn meanwhile."""
    place.locator(f"input[name='{field}']").focus()
    seen = set()
    for i in range(count):
        page.keyboard.press("ArrowRight" if i % 8 < 4 else "ArrowLeft")
        page.wait_for_timeout(60)
        seen.add(drawn(place))
    return seen


def stays_alive(page: Page) -> None:
    near, far = place_of(page, "missing"), place_of(page, "far")
    page.wait_for_selector(".labkit[data-lab='missing'][data-difference]", timeout=60_000)
    progress = near.locator(".lk-training")
    canvas = near.locator("[data-view='reconstruction'] canvas")
    before = canvas.evaluate("(c) => c.toDataURL()")
    near.get_by_role("button", name="Train").click()
    page.wait_for_function(
        "() => /step [1-9]/.test(document.querySelector('.lk-training').innerText)", timeout=60_000
    )

    def step() -> int:
        found = re.search(r"step (\d+) of", progress.inner_text())
        assert found, f"it no longer trains: {progress.inner_text()}"
        return int(found[1])

    start = step()
    line = drawn(near)
    assert canvas.evaluate("(c) => c.toDataURL()") != before  # another model, the same state
    assert len(turn(page, near, "digit", 16)) >= 4
    assert len(turn(page, far, "x", 24)) >= 4
    near.get_by_role("button", name="Reset").click()
    page.wait_for_function(
        "line => document.querySelector(`.labkit[data-lab='missing'] canvas`).dataset.state === line",
        arg=line,
    )
    page.wait_for_timeout(1500)  # a snapshot comes at most every 0.7 s
    assert step() > start
    near.get_by_role("button", name="Stop").click()
    page.wait_for_function(
        "() => /Stopped/.test(document.querySelector('.lk-training').innerText)", timeout=30_000
    )


def test_in_jupyterlab(open_notebook: Callable[..., Page]) -> None:
    page = open_notebook(
        "alive", LABS, IN_PAGE, IN_KERNEL, wait_for=".labkit[data-lab='far'] canvas"
    )
    stays_alive(page)
    assert page.watched.errors == []  # type: ignore[attr-defined]


def test_in_voila(visit: Callable[[str], Page], voila: tuple[str, Path]) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [new_code_cell(code) for code in (LABS, IN_PAGE, IN_KERNEL)]
    nbformat.write(
        new_notebook(cells=cells, metadata={"kernelspec": kernel}), voila[1] / "alive.ipynb"
    )
    stays_alive(visit("alive"))


@pytest.mark.parametrize("name", list(gallery.GALLERY))
def test_a_page_of_labs_is_live_and_shows_no_code(name: str, visit: Callable[[str], Page]) -> None:
    page = visit(name)
    labs = gallery.GALLERY[name].labs(False)
    for lab in labs:
        place = place_of(page, lab.spec["name"])
        page.wait_for_selector(f".labkit[data-lab='{lab.spec['name']}'][data-difference]")
        slider = place.locator(".lk-controls input[type='range']").first
        before = drawn(place)
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
        assert drawn(place) == place.locator(".lk-line input").input_value() != before
    assert "GALLERY" not in page.inner_text("body")
    assert page.locator("h1").inner_text().startswith(gallery.GALLERY[name].title)
