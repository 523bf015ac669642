"""How fast is a lab under the hand? Slider event to painted pixels, in JupyterLab, in Chromium.

`make bench-live` writes figures/bench/live.json. All variants run on one server, one after the other,
so that their ratios mean something even where the times do not: what the page decodes, what the kernel
decodes, the focusing labs, whose every move is ten seeds of three models trained in the kernel, a room of
96 x 128 pixels, rendered and segmented on all five paths, and the two usual ways (`interact` with
matplotlib, a plotly FigureWidget). With `--only` one kind of them is measured and put beside what the
file says of the others, with its machine.

A state counts as painted when the frame that shows it is about to be painted: a ResizeObserver sees
the canvas after all of a frame's scripts, and a message that it posts arrives after the paint.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.async_api import Browser, Page, async_playwright

from labkit import doctor
from labkit.bench.timing import machine
from labkit.files import write_atomic

sys.path.insert(0, str(Path(__file__).parent))
from conftest import READY, Server

SETUP = """\
import time
import numpy as np, torch
torch.set_num_threads(1)  # as ledger.session does: two threads would wait for the browser
import ipywidgets
from labkit.data.digits import Digits
from labkit.live import latent
from labkit.live.held import Held
from labkit.live.lab import Lab
from labkit.models import mvae
from labkit.train import TrainConfig, fit
data = Digits(n_train=1000, n_test=400)
plane, wide = mvae.preset("teaching2").build(), mvae.preset("teaching32").build()
for model in (plane, wide):  # enough for pictures that are no noise: PNG would suffer unfairly
    fit(model, data.load("train"), TrainConfig(3, 50, 5e-3), progress=False)
batch = data.load("test")
small, held = Held.of(plane, batch), Held.of(wide, batch)
def one(name, slow=0.0):
    def compute(state):
        time.sleep(slow)
        return latent.plane_pictures(small, 4.0, state)
    return Lab(name, name, latent.Map(), compute)
def many(name):
    state = latent.probe_state(32, held.best)
    return Lab(name, name, state, lambda state: latent.probe_pictures(held, state))"""
FOCUSING = """\
import torch
torch.set_num_threads(1)
from labkit.live import focusing"""
SCENES = """\
import torch
torch.set_num_threads(1)
from dataclasses import replace
from labkit.data.rooms import Rooms
from labkit.fusing import plan
from labkit.live import scenes
small = plan.rooms("smoke")
data = Rooms(height=96, n_train=64, n_val=12, n_test=30)
setting = replace(small, data=data, sizes=replace(small.sizes, size=(96, 128)))"""
MATPLOTLIB = """\
%matplotlib inline
import matplotlib.pyplot as plt
def images(x):
    with torch.no_grad():
        return plane.means(torch.tensor([x, 0.0]))
def show(x=0.0):
    fig, axes = plt.subplots(1, 2, figsize=(4, 2))
    for ax, image in zip(axes, list(images(x).values())[:2]):
        ax.imshow(image, cmap="gray"); ax.axis("off")
    plt.show()
ipywidgets.interact(show, x=ipywidgets.FloatSlider(min=-3, max=3, step=0.01));"""
GRID = """\
def grid(x):
    state = latent.probe_state(32, held.best).__class__(amplitude=10 ** (1 + x / 2))
    return latent.probe_pictures(held, state)
def tiled(x=0.0):
    fig, axes = plt.subplots(1, 2, figsize=(8, 4))
    for ax, name in zip(axes, ("farsi", "kannada")):
        pixels = grid(x)[name]["pixels"]
        ax.imshow(pixels.transpose(0, 2, 1, 3).reshape(280, 280), cmap="gray"); ax.axis("off")
    plt.show()
ipywidgets.interact(tiled, x=ipywidgets.FloatSlider(min=-3, max=3, step=0.01));"""
AXES = """\
def hundred(x=0.0):
    fig, axes = plt.subplots(10, 10, figsize=(5, 5))
    pixels = grid(x)["farsi"]["pixels"].reshape(100, 28, 28)
    for ax, image in zip(axes.flat, pixels):
        ax.imshow(image, cmap="gray"); ax.axis("off")
    plt.show()
ipywidgets.interact(hundred, x=ipywidgets.FloatSlider(min=-3, max=3, step=0.01));"""
PLOTLY = """\
import plotly.graph_objects as go
from plotly.subplots import make_subplots
figure = go.FigureWidget(make_subplots(1, 2))
for i, image in enumerate(list(images(0.0).values())[:2]):
    figure.add_trace(go.Heatmap(z=image.numpy(), colorscale="gray", showscale=False), 1, i + 1)
figure.update_layout(width=500, height=280, title_text="0")
slider = ipywidgets.FloatSlider(min=-3, max=3, step=0.01)
def update(change):
    with figure.batch_update():
        for trace, image in zip(figure.data, list(images(change["new"]).values())[:2]):
            trace.z = image.numpy()
        figure.layout.title.text = str(change["new"])
slider.observe(update, "value")
ipywidgets.VBox([slider, figure])"""

# name -> cell (none: the one before), its control, and an expression for what is shown now
LAB = "document.querySelector(`.labkit[data-lab='{0}'] canvas`).dataset.state"
PNG = "document.querySelectorAll('.jupyter-widgets.widget-interact img')[{0}]?.src"
VARIANTS = {
    "page, one decode": ("latent.plane(plane, batch)", "x", LAB.format("plane")),
    "page, 10x10 grid": ("latent.probe(wide, batch)", "amplitude", LAB.format("probe")),
    "kernel, one decode": ("one('k_one')", "x", LAB.format("k_one")),
    "kernel, 10x10 grid": ("many('k_grid')", "amplitude", LAB.format("k_grid")),
    "kernel, one decode + 40 ms": ("one('k_slow', 0.04)", "x", LAB.format("k_slow")),
    "focusing, gamma": ("focusing.gamma()", "amount", LAB.format("gamma")),
    "focusing, alpha": ("focusing.alpha()", "amount", LAB.format("alpha")),
    "scenes, depth noise": ("scenes.scene(setting)", "noise", LAB.format("scene")),
    "scenes, forced path": ("", "path", LAB.format("scene")),
    "interact + matplotlib": (MATPLOTLIB, None, PNG),
    "interact, tiled grid": (GRID, None, PNG),
    "interact, 100 axes": (AXES, None, PNG),
    "FigureWidget": (
        PLOTLY,
        None,
        "document.querySelector('.js-plotly-plot .gtitle')?.textContent",
    ),
}

KINDS: dict[str, list[str]] = {}  # each kind is a notebook
for _name, (_, _field, _) in VARIANTS.items():
    KINDS.setdefault(_name.split(",")[0] if _field else "widgets", []).append(_name)
# Gamma's slider has 11 values: dragged in two seconds like the others, it would ask for five a second.
TRACK_S = {"focusing, gamma": 0.5}

HARNESS = """
window.watch = (cell, shown) => {
  const bench = { painted: [], events: [], frames: 0 };
  const probe = document.createElement("div");
  probe.style.cssText = "position:fixed;left:0;top:0;width:1px;height:1px;opacity:0";
  document.body.append(probe);
  let last = shown(cell), wide = false, on = true;
  new ResizeObserver(() => {
    const now = shown(cell);
    if (now === last || now === undefined) return;
    last = now;
    const channel = new MessageChannel();
    channel.port1.onmessage = () => bench.painted.push([performance.now(), now]);
    channel.port2.postMessage(0);
  }).observe(probe);
  const tick = () => {
    probe.style.width = (wide = !wide) ? "2px" : "1px";
    bench.frames++;
    if (on) requestAnimationFrame(tick);
  };
  tick();
  const note = (event) => {
    const line = cell.querySelector(".lk-line input")?.value;
    bench.events.push([event.timeStamp, event.type, line]);
  };
  for (const type of ["keydown", "input"]) window.addEventListener(type, note);
  bench.stop = () => {
    on = false;
    for (const type of ["keydown", "input"]) window.removeEventListener(type, note);
    probe.remove();
  };
  window.bench = bench;
};
"""


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 1),
        "n": len(ordered),
    }


async def moves(page: Page, handle: Any, count: int, way: int) -> dict[str, float]:
    """Single steps by arrow key, each waited out: milliseconds from the key to the painted picture.

    `way` steps go up, then as many down.
    """
    await handle.focus()
    found, rng = [], random.Random(0)
    for turn in range(count + 5):
        seen = await page.evaluate("() => window.bench.painted.length")
        await page.evaluate("() => { window.bench.events.length = 0; }")
        await page.keyboard.press("ArrowRight" if turn // way % 2 == 0 else "ArrowLeft")
        try:
            await page.wait_for_function(
                f"() => window.bench.painted.length > {seen}", timeout=10_000
            )
        except Exception:  # one step that changed nothing visible: not a latency
            continue
        key, painted = await page.evaluate(
            f"() => [window.bench.events.find((e) => e[1] === 'keydown')[0], window.bench.painted[{seen}][0]]"
        )
        if turn >= 5:
            found.append(painted - key)
        await page.wait_for_timeout(rng.uniform(40, 100))
    return quantiles(found)


async def drag(
    page: Page, handle: Any, track_s: float = 2.0, seconds: float = 6.0
) -> dict[str, Any]:
    """Mouse moves at 125 Hz, the whole track in `track_s`: pictures a second, their age, the tail."""
    box = await handle.bounding_box()
    middle, left, right = box["y"] + box["height"] / 2, box["x"] + 8, box["x"] + box["width"] - 8
    await page.mouse.move(left, middle)
    await page.mouse.down()
    await page.wait_for_timeout(300)
    await page.evaluate(
        "() => Object.assign(window.bench, { frames: 0 }) && "
        "[window.bench.painted, window.bench.events].forEach((list) => { list.length = 0; })"
    )
    loop, tasks = asyncio.get_running_loop(), set()
    start, step = loop.time(), 0
    while (now := loop.time() - start) < seconds:
        phase = now % (2 * track_s) / track_s
        x = left + (right - left) * (phase if phase < 1 else 2 - phase)
        task = asyncio.create_task(page.mouse.move(x, middle))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        step += 1
        await asyncio.sleep(max(0, step * 0.008 - (loop.time() - start)))
    await asyncio.gather(*tasks)
    await page.wait_for_timeout(1500)
    painted, events, frames = await page.evaluate(
        "() => [window.bench.painted, window.bench.events, window.bench.frames]"
    )
    await page.mouse.up()
    inputs = [(t, line) for t, kind, line in events if kind == "input"]
    ages, place = [], 0
    # Each picture to the first input before it, not yet passed, that asked for it: where a slider has few
    # values, and comes back to them while a picture is made, this is an age at most.
    for time, line in painted:
        match = next(
            (i for i in range(place, len(inputs)) if inputs[i][1] == line and inputs[i][0] <= time),
            None,
        )
        if match is not None:
            ages.append((time, time - inputs[match][0]))
            place = match
    end = inputs[-1][0]
    within = [t for t, _ in painted if t <= end]
    half = (inputs[0][0] + end) / 2
    first = [age for t, age in ages if t <= half]
    second = [age for t, age in ages if t > half]
    return {
        "asked_per_second": round(1000 * (len(inputs) - 1) / (end - inputs[0][0]), 1),
        "pictures_per_second": round(1000 * len(within) / (end - inputs[0][0]), 1),
        "age_ms": quantiles([age for _, age in ages]),
        "age_first_half_ms": round(statistics.median(first), 1),
        "age_second_half_ms": round(statistics.median(second), 1),
        "after_release": len(painted) - len(within),
        "last_is_right": bool(painted and painted[-1][1] == inputs[-1][1]),
        "frames_per_second": round(frames / (seconds + 1.8), 1),
    }


async def middle_drag(page: Page, handle: Any, track_s: float, times: int = 3) -> dict[str, Any]:
    """The drag with the middle number of pictures a second, and all of these: one alone wanders by 5 %."""
    drags = [await drag(page, handle, track_s) for _ in range(times)]
    drags.sort(key=lambda each: each["pictures_per_second"])
    each = [found["pictures_per_second"] for found in drags]
    return drags[times // 2] | {"pictures_per_second_each": each}


async def echo(page: Page, rounds: int = 100) -> dict[str, float]:
    """An empty message to the kernel and back."""
    found = await page.evaluate(
        """async (rounds) => {
          const manager = document.querySelector(".labkit[data-lab='k_one']"), times = [];
          for (let i = 0; i < rounds; i++) {
            const start = performance.now();
            await new Promise((done) => {
              manager.addEventListener("labkit:pong", done, { once: true });
              manager.dispatchEvent(new CustomEvent("labkit:ping", { detail: i }));
            });
            times.push(performance.now() - start);
            await new Promise((r) => setTimeout(r, 5 + 20 * Math.random()));
          }
          return times;
        }""",
        rounds,
    )
    return quantiles(found)


async def run(server: Server, count: int, kinds: list[str]) -> dict[str, Any]:
    """Labs of the page, labs of the kernel and what they are compared with: each kind in a notebook.

    One after the other on one server; a single page of all would be heavier than any notebook is.
    """
    result: dict[str, Any] = {}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=doctor.browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        for kind, names in ((kind, KINDS[kind]) for kind in kinds):
            page = await opened(browser, server, kind, names)
            for place, name in enumerate(names):
                result[name] = await measured(page, name, place, count)
                print(name, json.dumps(result[name]), flush=True)
            if kind == "kernel":
                result["echo_ms"] = await echo(page)
                print("echo", result["echo_ms"], flush=True)
            await page.close()
        await browser.close()
    return result


async def opened(browser: Browser, server: Server, kind: str, names: list[str]) -> Page:
    """A notebook of these variants, run, with the harness in its page."""
    setup = {"focusing": FOCUSING, "scenes": SCENES}.get(kind, SETUP)
    codes = [code for name in names if (code := VARIANTS[name][0])]
    cells = [new_code_cell(code) for code in (setup, *codes)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, server.root / f"{kind}.ipynb")
    page = await browser.new_page(viewport={"width": 1280, "height": 1100})
    await page.goto(f"{server.url}doc/tree/{kind}.ipynb")
    await page.wait_for_function(READY, timeout=60_000)
    await page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    last = ".noUi-handle" if kind == "widgets" else ".labkit canvas"
    await page.wait_for_selector(f"{last} >> nth={len(codes) - 1}", timeout=180_000)
    for name in names:
        if kind != "widgets":
            lab = VARIANTS[name][2].split("'")[1]
            await page.wait_for_selector(f".labkit[data-lab='{lab}'] canvas", timeout=180_000)
    await page.wait_for_timeout(5000)
    await page.add_script_tag(content=HARNESS)
    return page


async def measured(page: Page, name: str, place: int, count: int) -> dict[str, Any]:
    """Moves and, for a lab, a drag of one variant, the `place`-th of its page."""
    _, field, shown = VARIANTS[name]
    cell, handle = "body", page.locator(".noUi-handle").nth(place)
    if field:
        lab = shown.split("'")[1]
        cell = f".labkit[data-lab='{lab}']"
        handle = page.locator(f"{cell} .lk-controls [name='{field}']")
    shown = shown.replace("{0}", str(place))
    await handle.scroll_into_view_if_needed()
    await page.wait_for_timeout(800)
    await page.evaluate(f"() => window.watch(document.querySelector(`{cell}`), (cell) => {shown})")
    record: dict[str, Any] = {}
    if "40 ms" not in name:
        # Up and down within the control's values.
        way = 5 if name.startswith(("focusing", "scenes, forced")) else 60
        record["move_ms"] = await moves(page, handle, 12 if "100 axes" in name else count, way)
    if field and field != "path":
        record["drag"] = await middle_drag(page, handle, TRACK_S.get(name, 2.0))
    await page.evaluate("() => window.bench.stop()")
    return record


def ticks() -> list[int]:
    """Where the time of all cores went since the start, Linux only."""
    stat = Path("/proc/stat")
    return [int(t) for t in stat.read_text().split("\n")[0].split()[1:9]] if stat.exists() else []


def taken(before: list[int], after: list[int]) -> dict[str, float]:
    """The share of the time that this machine's host gave to others, and that was idle."""
    spent = [b - a for a, b in zip(before, after, strict=True)]
    names = {"stolen": 7, "idle": 3}
    return {name: round(spent[i] / sum(spent), 3) for name, i in names.items() if spent}


@click.command()
@click.argument("count", default=120)
@click.option("--only", type=click.Choice(list(KINDS)), help="Measure this kind, keep the others.")
def main(count: int, only: str | None) -> None:
    """Measure with COUNT single moves of each lab; writes figures/bench/live.json."""
    before, load = ticks(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "jupyter", Path(folder) / "store")
        try:
            found = asyncio.run(run(server, count, [only] if only else list(KINDS)))
        finally:
            server.stop()
    path = Path("figures/bench/live.json")
    on = machine() | {"load_before": round(load, 2)} | taken(before, ticks())
    if only:
        result = json.loads(path.read_text())
        result["variants"] |= found
        result.setdefault("machines", {})[only] = on  # "machine" is that of the others
        write_atomic(path, json.dumps(result, indent=2) + "\n")
        return
    median = {name: one["move_ms"]["median"] for name, one in found.items() if "move_ms" in one}
    result = {
        "what": "milliseconds from the key to the painted picture, and 6 s of dragging; teaching sizes",
        "variants": found,
        "ratio": {
            "interact + matplotlib to page, one decode": round(
                median["interact + matplotlib"] / median["page, one decode"], 2
            ),
            "100 axes to page, 10x10 grid": round(
                median["interact, 100 axes"] / median["page, 10x10 grid"], 1
            ),
            "one tiled image to page, 10x10 grid": round(
                median["interact, tiled grid"] / median["page, 10x10 grid"], 1
            ),
        },
        "machine": on,
    }
    write_atomic(path, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["ratio"], indent=2))


if __name__ == "__main__":
    main()
