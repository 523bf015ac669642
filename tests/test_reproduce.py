"""Running notebooks from the command line, and what it says when that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from labkit import LabkitError
from labkit.reproduce import declared, find, reproduce

Tiny = Callable[..., Path]
pytestmark = [pytest.mark.slow, pytest.mark.notebook]


def labkit(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; PYTHONPATH and the like come from the environment."""
    command = [sys.executable, "-m", "labkit", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_run_leaves_bundle_page_copy_and_ledger(tiny: Tiny, tmp_path: Path) -> None:
    body = (
        "from ipywidgets import IntSlider\nfrom tqdm import tqdm\n\n"
        "for _ in tqdm(range(30), desc='bar', mininterval=0):\n    pass\n"
        "slider = IntSlider(3)\nslider"
    )
    notebook = tiny(body)
    before = notebook.read_bytes()
    run = labkit("reproduce", notebook, "--figures", "out", "-p", "gain=3", "-p", "seeds=4",
                 "--preset", "smoke", "--source", "real", cwd=tmp_path)  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = tmp_path / "out" / "results" / "tiny.smoke.real.json"
    assert run.stdout.strip() == str(result)
    made = json.loads(result.read_text())
    assert made["metrics"]["gain"]["seeds"] == [15.0]
    assert made["claims"][0]["verdict"] == "not supported"
    assert made["provenance"]["seeds"] == [4]
    assert "✗ not supported" in (tmp_path / "out" / "ledger.md").read_text()
    page = (tmp_path / "out" / "html" / "tiny.smoke.real.html").read_text()
    assert "Gain is two." in page
    assert page.count("bar: ") == 1 and "30/30" in page, "a bar is what it came to"
    executed = nbformat.read(tmp_path / "out" / "html" / "tiny.smoke.real.ipynb", as_version=4)
    assert "widgets" not in executed.metadata
    assert notebook.read_bytes() == before
    lines = [line for line in run.stderr.splitlines() if line.startswith("tiny ")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]


def test_the_kernel_is_this_interpreter_and_knows_that_it_is_run(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kernel called python3 that somebody installed for another environment must not be taken.
    elsewhere = tmp_path / "share" / "kernels" / "python3"
    elsewhere.mkdir(parents=True)
    spec = {"argv": ["false"], "display_name": "Elsewhere", "language": "python"}
    (elsewhere / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.delenv("LABKIT_STRICT")
    body = f"""\
import os, sys
assert sys.executable == {sys.executable!r}
assert os.environ["LABKIT_STRICT"] == "1"
assert os.environ["LABKIT_FIGURES"].startswith({str(tmp_path / "out")!r})
assert os.environ["FLAVOUR"] == "sweet"
assert os.getcwd() == {str(tmp_path)!r}"""
    notebook = nbformat.read(tiny(body), as_version=4)
    notebook.metadata.kernelspec.name = "nowhere-installed"
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    made = reproduce(
        [tmp_path / "tiny.ipynb"], figures_dir=tmp_path / "out", env={"FLAVOUR": "sweet"}
    )
    assert made == [tmp_path / "out" / "results" / "tiny.quick.procedural.json"]


def test_printing_into_an_output_widget_does_not_hang(tiny: Tiny, tmp_path: Path) -> None:
    body = """\
import ipywidgets
for _ in range(20):
    with ipywidgets.Output():
        print("text")"""
    reproduce([tiny(body)], figures_dir=tmp_path, timeout_s=60)
    executed = nbformat.read(tmp_path / "html" / "tiny.quick.procedural.ipynb", as_version=4)
    cell = next(cell for cell in executed.cells if "range(20)" in cell.source)
    # With nbclient's mimic on, the text would vanish into the widget instead of the cell.
    assert "".join(output.text for output in cell.outputs) == "text\n" * 20


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            "def ratio(x):\n    return 1 / x\n\nratio(0)",
            [
                "tiny: code cell 2 of 3 (`def ratio(x):`) failed.",
                "line 2, in ratio(x)",
                "ZeroDivisionError: division by zero",
                "html/tiny.quick.procedural.ipynb",
            ],
        ),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            ["tiny: code cell 2 of 3 (`import os, signal`): the kernel died", "out of memory"],
        ),
        (
            "import time\ntime.sleep(600)",
            ["tiny: code cell 2 of 3 (`import time`) took longer than 3 s", "--timeout"],
        ),
        (
            "pass",
            ["tiny ran to its end but did not write", "tiny.quick.procedural.json"],
        ),
    ],
    ids=["failing cell", "killed kernel", "timeout", "no bundle"],
)
def test_a_failed_run_says_where_and_why(
    body: str, wanted: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    notebook = tiny(session=body, results="pass  # no results")
    run = labkit("reproduce", notebook, "--figures", "out", "--timeout", "3", cwd=tmp_path)
    assert run.returncode == 1
    for text in wanted:
        assert text in run.stderr
    assert "cli.py" not in run.stderr  # a message, not a traceback of ours
    assert list(tmp_path.glob("out/results/*")) == []


def test_an_old_bundle_does_not_stand_in_for_this_run(tiny: Tiny, tmp_path: Path) -> None:
    reproduce([tiny()], figures_dir=tmp_path)
    with pytest.raises(LabkitError, match="did not write"):
        reproduce([tiny(results="pass")], figures_dir=tmp_path)


DRAWS = """\
from matplotlib.figure import Figure

from labkit import figures

fig = Figure()
fig.text(0.5, 0.5, str(gain))
figures.show(fig, "number", alt="The gain as a number.")"""


def test_a_failed_run_leaves_the_last_good_one_whole(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reproduce([tiny(DRAWS)], parameters={"gain": 3.0}, figures_dir=out)
    kept = {path: path.read_bytes() for path in out.glob("[rt]*/*")}
    assert {path.suffix for path in kept} == {".json", ".png", ".svg"}
    with pytest.raises(LabkitError, match="ZeroDivisionError"):
        reproduce([tiny(DRAWS, "1 / 0")], parameters={"gain": 4.0}, figures_dir=out)
    assert {path: path.read_bytes() for path in out.glob("[rt]*/*")} == kept
    assert not list(out.glob(".running-*"))


def test_a_damaged_bundle_does_not_hide_why_a_notebook_failed(tiny: Tiny, tmp_path: Path) -> None:
    results = tmp_path / "out" / "results"
    results.mkdir(parents=True)
    (results / "old.quick.procedural.json").write_text("{")
    with pytest.raises(LabkitError) as caught:
        reproduce([tiny("1 / 0")], figures_dir=tmp_path / "out")
    assert "ZeroDivisionError" in str(caught.value)
    assert "old.quick.procedural.json" in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [("gian=3", "Unknown parameter 'gian'"), ("gain=much", "'gain' must be float, got 'much'")],
)
def test_a_wrong_parameter_stops_before_anything_runs(
    setting: str, complaint: str, tiny: Tiny, tmp_path: Path
) -> None:
    run = labkit("reproduce", tiny(), "--figures", "out", "-p", setting, cwd=tmp_path)
    assert run.returncode == 1
    assert complaint in run.stderr
    assert "gain: float = 2.0  # what the tiny notebook multiplies by" in run.stderr
    assert not (tmp_path / "out").exists()


def test_one_failure_does_not_stop_the_others_on_a_dask_cluster(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    broken = tiny("1 / 0").rename(tmp_path / "broken" / "broken.ipynb")
    run = labkit("reproduce", broken, tiny(), "--engine", "dask", "--figures", "out", cwd=tmp_path)
    assert run.returncode == 1
    assert "broken: code cell 3 of 4 (`1 / 0`) failed" in run.stderr
    assert (tmp_path / "out" / "results" / "tiny.quick.procedural.json").is_file()


def test_find_names_what_there_is(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    tiny().rename(folder / "01_tiny.ipynb")
    start = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    nbformat.write(start, folder / "00_start_here.ipynb")
    monkeypatch.chdir(folder)
    assert find() == [folder / "01_tiny.ipynb"]
    assert find(["01_tiny"]) == [folder / "01_tiny.ipynb"]
    assert find(["01_tiny.ipynb"]) == [folder / "01_tiny.ipynb"]
    with pytest.raises(LabkitError, match="No notebook '1'. There are: 00_start_here, 01_tiny"):
        find(["1"])
    with pytest.raises(LabkitError, match="There is no notebook at nowhere/a.ipynb"):
        find(["nowhere/a.ipynb"])
    with pytest.raises(LabkitError, match="has 0 cells tagged `parameters`"):
        declared(folder / "00_start_here.ipynb")


def test_outside_a_checkout_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("labkit.reproduce.__file__", str(tmp_path / "site" / "labkit" / "x.py"))
    with pytest.raises(LabkitError, match="Run this inside a checkout"):
        find()


def test_the_page_shows_formulas_and_folds_without_network() -> None:
    from labkit.runner import _page

    folded = "<details><summary>Reveal</summary>\n\nA blur.\n</details>"
    text = f"Let $T_i = 0$.\n\n$$\\Lambda_S = 1 + T_i$$\n\n{folded}"
    page = _page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)]), "page")
    assert "<msub><mi>T</mi><mi>i</mi></msub>" in page
    assert 'display="block"' in page
    assert "$" not in page.split("<main")[1]
    assert "A blur." in page.split("<details>")[1].split("</details>")[0]
    assert "MathJax.js" not in page
