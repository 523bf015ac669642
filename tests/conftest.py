"""What all tests share: folders of their own, one thread, and marks for what a machine may lack."""

from __future__ import annotations

import inspect
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labkit import doctor

PARAMETERS = """\
preset: str = "quick"  # size of the run: smoke, quick, full or paper
source: str = "procedural"  # where data comes from: procedural or real
seeds: list[int] = [0, 1]  # one result each
device: str = "cpu"  # auto, cpu or cuda
gain: float = 2.0  # what the tiny notebook multiplies by"""
SESSION = """\
from labkit import ledger

ledger.session("tiny", preset=preset, source=source, seeds=seeds, device=device)
ledger.claim("tiny.gain", "Gain is two.", source="Table 1", paper=2, ours=gain, holds=gain == 2)"""
RESULTS = 'ledger.results({"gain": ledger.metric([gain * (1 + s) for s in seeds], "m")})'


@pytest.fixture(autouse=True, scope="session")
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches, figures and Jupyter's own files away from the user's; kernels inherit them."""
    folder = tmp_path_factory.mktemp("labkit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_CACHE", str(folder / "cache"))
        patch.setenv("LABKIT_STORE", str(folder / "store"))
        patch.setenv("LABKIT_FIGURES", str(folder / "figures"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        patch.setenv("LABKIT_STRICT", "1")
        patch.setenv("MPLBACKEND", "Agg")
        patch.delenv("LABKIT_THREADS", raising=False)
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that all workers of `pytest -n` share: a notebook is trained once, not in each test of it."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "shelf"


@pytest.fixture(autouse=True)
def same_arithmetic() -> Iterator[None]:
    """One thread for each test, whatever the one before did."""
    torch.set_num_threads(1)
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def alone() -> Callable[..., str]:
    """Run a function of a test's module in a fresh process of one thread; gives what it printed.

    Tests that fork start so: a fork of the process of the tests, where threads of kernels, clusters
    and progress bars live, may wait for ever on a lock that one of them held.
    """

    def run(work: Callable[..., None], *arguments: object, limit: float = 300) -> str:
        module = Path(inspect.getfile(work))
        code = (
            f"import sys, warnings; sys.path.insert(0, {str(module.parent)!r})\n"
            f"import {module.stem} as module; warnings.simplefilter('error')\n"
            f"module.{work.__name__}(*sys.argv[1:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # its forks too
            process.communicate()
            raise
        assert process.returncode == 0, err
        return out

    return run


LONGEST = (
    "browser/test_notebooks.py",
    "notebooks/test_execution.py",
)  # begin first, on two workers


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order in which `pytest -n` gives out modules: the longest first, to end with the rest."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        rank = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        return rank, item.get_closest_marker("browser") is None

    items.sort(key=place)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if item.get_closest_marker("browser") and doctor.browser() is None:
        message = "needs a Chromium: apt install chromium, or set LABKIT_CHROMIUM"
        if os.environ.get("CI"):
            pytest.fail(message)  # CI always has one; a skip would hide that it is gone
        pytest.skip(message)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Make a small but complete notebook, `tiny.ipynb`, with extra code cells in its middle."""

    def make(*body: str, session: str = SESSION, results: str = RESULTS) -> Path:
        tagged = {PARAMETERS: ["parameters"], results: ["results"]}
        cells = [new_markdown_cell("# Tiny", id="title")]
        for number, source in enumerate([PARAMETERS, session, *body, results]):
            cell = new_code_cell(source, id=f"cell-{number}")
            if source in tagged:
                cell.metadata["tags"] = tagged[source]
            cells.append(cell)
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = tmp_path / "tiny.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        return path

    return make


# Figures ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Draw a figure of the module's `DRAW` once, laid out, for all tests that look at it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from labkit import drawing

    made: dict[str, Any] = {}

    def draw(name: str) -> Any:
        if name not in made:
            made[name] = request.module.DRAW[name]()
            FigureCanvasAgg(made[name])
            with mpl.style.context(["default", drawing.STYLE]):
                made[name].draw_without_rendering()
        return made[name]

    return draw


@pytest.fixture(scope="session")
def legible() -> Callable[[Any], None]:
    """Checks that no text of a figure is cut off, small, or on top of another."""
    from matplotlib.text import Text

    def texts(fig: Any) -> list[Any]:
        """Every text on the page; ticks outside an axis' limits, and beside a neighbour, are not drawn."""
        hidden: set[Any] = set()
        for ax in fig.axes:
            for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
                for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                    if not min(limits) <= tick.get_loc() <= max(limits):
                        hidden |= {tick.label1, tick.label2}
        shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
        return [t for t in shown if t not in hidden]

    def check(fig: Any) -> None:
        renderer = fig.canvas.get_renderer()
        boxes = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in texts(fig)]
        width, height = fig.bbox.size
        assert 8 <= fig.get_figwidth() <= 11.5
        assert min(t.get_fontsize() for t in texts(fig)) >= 10
        assert fig.get_suptitle().endswith("?")
        assert fig.get_supxlabel().endswith(".")
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
        for (text, a), (other, b) in itertools.combinations(boxes, 2):
            apart = min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 1
            assert apart, f"{text!r} lies on {other!r}"

    return check
