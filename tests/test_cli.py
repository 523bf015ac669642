"""The command line: what it loads, what it says, and with which exit status."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from labkit import LabkitError, __version__, bundle, doctor, echo
from labkit.cli import _DATASETS, main
from labkit.data import files

HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "matplotlib",
    "plotly",
    "papermill",
    "ipywidgets",
    "fastjsonschema",
}
COMMANDS = [["lab"], ["app"], ["reproduce"], ["check"], ["data"], ["data", "list"], ["data", "get"]]
COMMANDS += [["data", "check"], ["runs"], ["runs", "list"], ["runs", "clean"], ["doctor"]]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "code",
    [
        "import labkit",
        "import labkit.cli",
        "from labkit.cli import main; main(['--help'], standalone_mode=False)",
        "from labkit.cli import main; main(['reproduce', '--help'], standalone_mode=False)",
    ],
)
def test_import_and_help_load_nothing_heavy(code: str) -> None:
    script = f"{code}\nimport sys\nprint(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()[2].strip()) > 15  # one sentence on what it does


def test_version() -> None:
    assert run("--version").output.strip().endswith(__version__)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["reproduce", "-p", "gain"], "-p takes NAME=VALUE, got 'gain'"),
        (["reproduce", "-p", "preset=full"], "set it by --preset full"),
        (["reproduce", "--scheduler", "tcp://host:1"], "--scheduler needs --engine dask"),
        (["reproduce", "--preset", "fast"], "'smoke', 'quick', 'full', 'paper'"),
        (["check", "--record"], "--record needs the name of a notebook"),
        (["data", "get", "mnist"], "'hoda', 'kannada', 'fsdd'"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_right(
    arguments: list[str], complaint: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_the_choices_are_those_of_the_library() -> None:
    from labkit.data import files
    from labkit.reproduce import TIMEOUTS_S

    (preset,) = [p for p in main.commands["reproduce"].params if p.name == "preset"]
    assert tuple(preset.type.choices) == bundle.PRESETS == tuple(TIMEOUTS_S)
    assert tuple(_DATASETS.choices) == tuple(files.DATASETS)


EXPECTED: dict[str, Any] = {
    "metrics": {"gain": {"value": 2.0, "rtol": 0, "atol": 0.1, "reason": "as built"}},
    "required": [],
    "claims": {},
}


def check_gain(value: float, folder: Path) -> Result:
    """Compare a bundle whose gain is `value` with an expected gain of two."""
    from labkit import ledger

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_FIGURES", str(folder))
        ledger.session("tiny", preset="smoke", device="cpu")
        ledger.results({"gain": value})
    (folder / "tiny.smoke.procedural.json").write_text(json.dumps(EXPECTED))
    return run("check", "--figures", folder, "--expected", folder)


def test_check_passes_and_counts(tmp_path: Path) -> None:
    result = check_gain(2.05, tmp_path)
    assert result.exit_code == 0
    assert result.output == "1 results are as expected.\n"


def test_check_fails_with_a_table(tmp_path: Path) -> None:
    result = check_gain(2.5, tmp_path)
    assert result.exit_code == 1
    row = next(line for line in result.output.splitlines() if line.startswith("tiny"))
    cells = re.split(r"\s{2,}", row)
    assert cells == ["tiny.smoke.procedural", "gain", "2", "2.5", "± 0.1", "as built"]


def test_check_without_results_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "tiny.smoke.procedural.json").write_text(json.dumps(EXPECTED))
    result = run("check", "--figures", tmp_path, "--expected", tmp_path)
    assert result.exit_code == 1
    assert "labkit reproduce tiny --preset smoke --source procedural" in result.output


def test_lab_opens_jupyterlab_of_this_interpreter_on_the_map(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: calls.append([path, *command]))
    assert run("lab", "--headless", "--port", "9000").exit_code == 0
    ((path, *command),) = calls
    assert path == sys.executable
    assert command[1:4] == ["-m", "jupyterlab", "--port=9000"]
    assert "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb" in command
    assert "--no-browser" in command
    run("lab")
    assert "--no-browser" not in calls[1]


def test_lab_names_the_extension_only_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: calls.append(command))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    flag = "--ServerApp.jpserver_extensions=labkit.server=True"
    run("lab")
    assert flag in calls[0]
    installed = tmp_path / "etc" / "jupyter" / "jupyter_server_config.d" / "labkit.json"
    installed.parent.mkdir(parents=True)
    installed.write_text("{}")
    run("lab")
    assert flag not in calls[1]  # so that whoever disabled it is left in peace


def test_app_serves_pages_of_labs_with_voila(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: calls.append([path, *command]))
    assert run("app", "--headless", "--port", "9000").exit_code == 0
    ((path, *command),) = calls
    assert path == sys.executable
    assert command[1:3] == ["-m", "voila"]
    pages = sorted(path.stem for path in Path(command[3]).glob("*.ipynb"))
    assert pages == ["latent_probing", "missing_modalities"]
    assert {"--port=9000", "--no-browser"} <= set(command)
    run("app")
    assert "--no-browser" not in calls[1]


def test_app_without_voila_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run("app")
    assert result.exit_code == 1
    assert "make app" in result.output
    assert "'.[apps]'" in result.output


def test_data_list_shows_origin_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    result = run("data", "list")
    assert result.exit_code == 0
    row = next(line for line in result.output.splitlines() if "Data_hoda_full" in line)
    assert "4.0 MB" in row
    assert "not here" in row
    assert "non-commercial" in row
    assert "https://" in row
    assert str(tmp_path) in result.output
    checked = run("data", "check", "hoda")
    assert checked.exit_code == 1
    assert "labkit data get hoda" in checked.output


def test_a_data_set_that_cannot_be_had_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def get(name: str) -> list[Path]:
        if name in ("kannada", "ravdess"):
            raise LabkitError(f"no {name} anywhere")
        return [tmp_path / name]

    monkeypatch.setattr(files, "get", get)
    result = CliRunner().invoke(main, ["data", "get"])
    assert result.exit_code == 1
    assert [tmp_path / name for name in files.DATASETS if name not in ("kannada", "ravdess")] == [
        Path(line) for line in result.stdout.splitlines()
    ]
    assert "kannada: no kannada anywhere\nravdess: no ravdess anywhere" in result.stderr
    assert CliRunner().invoke(main, ["data", "get", "mosi"]).exit_code == 0


def test_runs_list_and_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from labkit import store

    monkeypatch.setenv("LABKIT_STORE", str(tmp_path))
    store.once(_half, x=4)
    listed = run("runs", "list")
    assert listed.exit_code == 0
    assert "_half" in listed.output
    assert f"1 runs in {tmp_path}" in listed.output
    assert run("runs", "clean").exit_code == 1  # nobody answered the question
    assert run("runs", "clean", "nosuchkey", "--yes").exit_code == 1
    assert "1 runs deleted" in run("runs", "clean", "--yes").output
    assert "0 runs in" in run("runs", "list").output


def _half(x: int) -> int:
    return x // 2


@pytest.fixture
def quick_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test the seconds of starting a server; test_server.py measures the real echo."""
    monkeypatch.setattr(echo, "measure", lambda: echo.Echo([5.0] * echo.ROUNDS, True))


@pytest.mark.usefixtures("quick_echo")
def test_doctor_reports_each_subject_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "browser", lambda: None)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    rows = {line[8:].split()[0]: line for line in result.output.splitlines()[2:]}
    subjects = ["python", "torch", "cpu", "memory", "jupyter", "chromium", "data", "store", "gpu"]
    assert list(rows) == [*subjects, "echo"]
    assert rows["torch"].startswith("✓ ok")
    assert rows["chromium"].startswith("! warn")
    assert "apt install chromium" in rows["chromium"]
    assert "labkit data get" in rows["data"]


@pytest.mark.usefixtures("quick_echo")
def test_doctor_survives_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Finding:
        raise OSError("libgomp is missing")

    broken.__name__ = "_torch"
    monkeypatch.setattr(doctor, "_torch", broken)
    result = run("doctor")
    assert result.exit_code == 1
    row = next(line for line in result.output.splitlines() if "libgomp" in line)
    assert row.startswith("✗ fail  torch")
    assert "make lab" in row


@pytest.mark.parametrize(
    ("ms", "no_delay", "level", "advice"),
    [
        ([1.0, 25.0, 900.0], False, "ok", ""),
        ([46.0], True, "warn", "the machine is busy"),
        ([46.0], False, "warn", "jupyter server extension list"),
    ],
)
def test_doctor_warns_of_a_late_echo_and_knows_whose_fault_it_is(
    ms: list[float], no_delay: bool, level: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "measure", lambda: echo.Echo(ms, no_delay))
    finding = doctor._echo()
    assert finding.level == level
    assert finding.found.startswith("25 ms" if level == "ok" else "46 ms")
    assert advice in finding.advice


def test_doctor_takes_a_slow_server_for_a_slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> echo.Echo:
        raise TimeoutError("the server was not ready in 12 s")

    monkeypatch.setattr(echo, "measure", slow)
    finding = doctor._echo()
    assert (finding.level, finding.found) == ("warn", "the server was not ready in 12 s")


@pytest.mark.slow
def test_python_m_labkit_is_the_same_command(tiny: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "labkit", "reproduce", str(tiny()), "-p", "a=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Unknown parameter 'a'" in done.stderr
