"""What the page computes is what torch computes: every lab, many states, pixel for pixel."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from labkit import weights
from labkit.data.digits import Digits
from labkit.live import cross, fusion, latent, pictures
from labkit.live.lab import PAGE, Lab, script

pytestmark = pytest.mark.browser

HARNESS = """
async ([source, manifest, assets, wasm]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const blob = new Blob([source + "\\nexport { LABS, openAssets };"], { type: "text/javascript" });
  const module = await import(URL.createObjectURL(blob));
  window.LABS = module.LABS;
  window.assets = await module.openAssets(manifest, bytes(assets), wasm ? bytes(wasm) : null);
  return [window.assets.difference, window.assets.simd];
}
"""
COMPUTE = """
([page, state, facts]) => {
  const plain = (v) => ArrayBuffer.isView(v) ? Array.from(v) : Array.isArray(v) ? v.map(plain)
    : v && typeof v === "object" ? Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x)])) : v;
  return plain(window.LABS[page](state, window.assets, facts));
}
"""
LABS: dict[str, Callable[[], Lab]] = {
    "missing": lambda: fusion.missing_modalities(weights.load("mvae2"), held_out()),
    "conflict": lambda: fusion.conflict(weights.load("mvae2"), held_out()),
    "missing, 32 latents": lambda: fusion.missing_modalities(weights.load("mvae32"), held_out()),
    "probe": lambda: latent.probe(weights.load("mvae32"), held_out()),
    "plane": lambda: latent.plane(weights.load("mvae2"), held_out()),
    "between": lambda: latent.between(weights.load("mvae32"), held_out()),
    "matrix": lambda: cross.matrix(weights.load("mvae32"), held_out()),
}


def held_out() -> Any:
    return Digits(n_test=400).load("test")


@pytest.fixture(scope="module")
def blank(chromium: Browser) -> Iterator[Page]:
    page = chromium.new_page()
    page.goto("about:blank")
    yield page
    page.close()


def states(lab: Lab, count: int) -> list[dict[str, Any]]:
    """The initial state, the presets, and random ones."""
    drawn = random.Random(0)
    start = dict(lab.state)
    found = [start, *({**start, **values} for values in lab.spec["presets"].values())]
    while len(found) < count:
        made = {}
        for c in lab.spec["controls"]:
            made[c["name"]] = {
                "toggle": lambda: drawn.random() < 0.5,
                "choice": lambda c=c: drawn.choice(c["options"]),
                "whole": lambda c=c: drawn.randint(c["low"], c["high"]),
                "number": lambda c=c: drawn.uniform(c["low"], c["high"]),
            }[c["kind"]]()
        found.append(made)
    return found


@pytest.mark.parametrize("simd", [True, False], ids=["simd", "plain"])
@pytest.mark.parametrize("name", list(LABS))
def test_the_page_computes_what_torch_computes(name: str, simd: bool, blank: Page) -> None:
    lab = LABS[name]()
    wasm = (PAGE / "simd.wasm").read_bytes() if simd else b""
    coded = [base64.b64encode(data).decode() for data in (lab.assets.buffer, wasm)]
    difference, used = blank.evaluate(HARNESS, [script(), lab.assets.manifest, *coded])
    assert used is simd
    assert difference < 1e-4
    for state in states(lab, 14):
        lab.state = state
        ours = lab.flush()
        theirs = blank.evaluate(COMPUTE, [lab.spec["page"], state, lab.spec["facts"]])
        assert list(theirs) == list(ours)
        for view, picture in ours.items():
            same(picture, theirs[view], f"{view} at {lab.line}")


def same(ours: Any, theirs: Any, where: str) -> None:
    """Equal words and shapes; pixels within 1/255, and all but a few equal; numbers to 1e-4."""
    if isinstance(ours, np.ndarray):
        found = np.array(theirs["data"], dtype=np.float64).reshape(theirs["shape"])
        assert tuple(theirs["shape"]) == ours.shape, where
        if ours.dtype == np.uint8:
            off = np.abs(found - ours)
            # a probability that float32 puts on the other side of a half: one step, seldom
            assert off.max(initial=0) <= 1, where
            assert off.mean() < 1e-3 if off.size else True, where
        else:
            np.testing.assert_allclose(found, ours, rtol=1e-4, atol=1e-4, err_msg=where)
    elif isinstance(ours, dict):
        for key, value in ours.items():
            if key != "alt":  # Python and JavaScript round a half differently in words
                same(value, theirs[key], f"{where}: {key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, value in enumerate(ours):
            same(value, theirs[i], f"{where}[{i}]")
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-4), where
    else:
        assert theirs == ours, where


OPEN = """
async ([source, spec, state, pictures]) => {
  document.body.style.color = "rgb(250, 250, 250)"; // a dark page
  const blob = new Blob([source], { type: "text/javascript" });
  const { default: widget } = await import(URL.createObjectURL(blob));
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const open = (v) => { // every array of the pictures
    for (const each of Object.values(v)) if (each && typeof each === "object") open(each);
    if (typeof v.data === "string") v.data = bytes(v.data);
  };
  open(pictures);
  const traits = { spec, state, pictures, error: "" }, el = document.createElement("div");
  const none = () => 0, model = { set: none, save_changes: none, on: none, off: none, send: none };
  model.get = (name) => traits[name];
  widget.render({ model, el });
  await new Promise(requestAnimationFrame);
  document.body.append(el); // a notebook puts the output into the page after drawing it
}
"""
LIGHTEST = """
() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const canvas = document.querySelector(".labkit canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let most = 0;
  for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) most = Math.max(most, data[i]);
  done(most);
})))
"""


def test_text_on_a_canvas_has_the_colour_of_the_pages_text(blank: Page) -> None:
    """In what is drawn first, before the lab stands in the page, and after a change of theme."""
    bars = pictures.bars(["one", "two"], [0.5, 1.0], "bars", colors=["#000", "#000"])
    lab = Lab("ink", "Ink", latent.Map(), lambda _: {"bars": bars})
    coded = pictures.encode(lab.flush(), lambda a: {"data": base64.b64encode(a.tobytes()).decode()})
    blank.evaluate(OPEN, [script(), lab.spec, lab.state, coded])
    assert blank.evaluate(LIGHTEST) == 250
    blank.evaluate(
        "document.body.style.color = 'rgb(20, 20, 20)'; document.body.dataset.jpThemeName = 'light'"
    )
    assert blank.evaluate(LIGHTEST) == 20


PIXELS = """
() => {
  const canvas = document.querySelector(".labkit:last-of-type canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const labels = [...canvas.parentElement.querySelectorAll(".lk-columns span")].map((s) => s.textContent);
  return [[canvas.height, canvas.width, 4], Array.from(data), labels];
}
"""


@pytest.mark.parametrize("colours", [True, False], ids=["colour", "grey"])
def test_the_canvas_has_the_pixels_of_the_picture(colours: bool, blank: Page) -> None:
    shape = (2, 3, 4, 5, 3) if colours else (2, 3, 4, 5)
    grid = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = pictures.images(grid, ["a", "b"], ["x", "y", "z"], "noise", chosen=(1, 2))
    lab = Lab("sheet", "Sheet", latent.Map(), lambda _: {"images": images})
    coded = pictures.encode(lab.flush(), lambda a: {"data": base64.b64encode(a.tobytes()).decode()})
    blank.evaluate("document.body.replaceChildren()")
    blank.evaluate(OPEN, [script(), lab.spec, lab.state, coded])
    size, data, labels = blank.evaluate(PIXELS)
    drawn = np.array(data, np.uint8).reshape(size)
    assert labels == ["x", "y", "z"]
    for r, c in np.ndindex(2, 3):
        cell = drawn[2 + 6 * r : 6 + 6 * r, 2 + 7 * c : 7 + 7 * c]
        wanted = grid[r, c] if colours else np.repeat(grid[r, c, ..., None], 3, -1)
        np.testing.assert_array_equal(cell[..., :3], wanted)
        assert (cell[..., 3] == 255).all()
    assert drawn[7, 15].tolist() == [0, 114, 178, 255], "the chosen cell's frame is blue"


@pytest.mark.parametrize(
    "name", ["all", "X-Norm, long, on gaps, as released"], ids=["short", "long"]
)
def test_bars_have_room_beside_names_of_any_length(name: str, blank: Page) -> None:
    """A hundred pixels at least for the longest, half of it for half as much, and nothing is cut off."""
    bars = pictures.bars([name, "half"], [1.0, 0.5], "bars", colors=["#0072B2", "#0072B2"])
    lab = Lab("bars", "Bars", latent.Map(), lambda _: {"bars": bars})
    coded = pictures.encode(lab.flush(), lambda a: {"data": base64.b64encode(a.tobytes()).decode()})
    blank.evaluate("document.body.replaceChildren()")
    blank.evaluate(OPEN, [script(), lab.spec, lab.state, coded])
    size, data, _ = blank.evaluate(PIXELS)
    drawn = np.array(data, np.uint8).reshape(size)
    blue = (drawn == (0, 114, 178, 255)).all(-1)
    whole, half = (int(blue[row].sum()) for row in (16, 40))
    assert whole >= 100 and abs(whole - 2 * half) <= 3
    assert not drawn[:, [0, -1], 3].any(), "what is written ends within the canvas"


LABELS = """
async ([source, pictures]) => {
  const blob = new Blob([source + "\\nexport { makeFigure, paint };"], { type: "text/javascript" });
  const { makeFigure, paint } = await import(URL.createObjectURL(blob));
  const place = makeFigure("labels"), zeros = ({ shape }) => new Uint8Array(shape.reduce((a, b) => a * b));
  for (const each of pictures) {
    for (const name of ["pixels", "framed"]) each[name].data = zeros(each[name]);
    paint(place, each);
  }
  return [...place.top.children].map((span) => span.textContent);
}
"""


def test_labels_follow_a_picture_of_the_same_size(blank: Page) -> None:
    """Labels may change while the pixels keep their number: what each path has right stands above it."""
    blank.evaluate("document.body.replaceChildren()")
    grid = np.zeros((1, 2, 4, 4, 3), np.uint8)
    both = [pictures.images(grid, [], names, "") for names in (["1", "2"], ["3", "4"])]
    coded = pictures.encode(both, lambda _: {})
    assert blank.evaluate(LABELS, [script(), coded]) == ["3", "4"]
