"""Comparing results with expected values, and recording those."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from labkit import LabkitError, bundle
from labkit import check as regression

EXPECTED: dict[str, Any] = {
    "metrics": {"elbo": {"value": -100.0, "rtol": 0.01, "atol": 0.5, "reason": "six runs"}},
    "required": ["fit_s"],
    "claims": {"a.order": "reproduced", "a.close": None},
}


def result(**values: float) -> dict[str, Any]:
    claim = {"text": "t", "source": "s", "paper": None, "ours": None, "note": ""}
    return {
        "claims": [
            {"id": "a.order", "verdict": "reproduced", **claim},
            {"id": "a.close", "verdict": "corrected", **claim},
        ],
        "metrics": {
            name: {"value": value, "unit": "s" if name == "fit_s" else "", "seeds": [value]}
            | {"spread": None}
            for name, value in {"elbo": -100.0, "fit_s": 2.0, **values}.items()
        },
        "state": {},
        "provenance": {
            "notebook": "tiny",
            "preset": "smoke",
            "source": "procedural",
            "seeds": [0],
            "device": "cpu",
            "versions": {},
            "cpu_capability": "AVX2",
            "threads": 1,
            "git": None,
            "wall_s": 1.0,
            "date": "2026-11-20",
        },
    }


def compare(got: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(d.what, d.expected, d.got) for d in regression.compare("tiny", EXPECTED, got)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    results, expected = tmp_path / "results", tmp_path / "expected"
    results.mkdir()
    expected.mkdir()
    bundle.write(result(), results)
    (expected / "tiny.smoke.procedural.json").write_text(json.dumps(EXPECTED))
    return results, expected


@pytest.mark.parametrize(("elbo", "fine"), [(-101.49, True), (-98.51, True), (-101.51, False)])
def test_a_metric_may_move_within_its_tolerance_only(elbo: float, fine: bool) -> None:
    differences = regression.compare("tiny", EXPECTED, result(elbo=elbo))
    assert not differences if fine else [d.allowed for d in differences] == ["± 1.5"]


def test_a_time_may_be_anything_but_absent() -> None:
    assert compare(result(fit_s=1e6)) == []
    got = result()
    del got["metrics"]["fit_s"]
    assert compare(got) == [("fit_s", "any value", "missing")]


def test_missing_and_new_metrics_are_differences() -> None:
    got = result(extra=3.0)
    del got["metrics"]["elbo"]
    assert compare(got) == [("elbo", "-100", "missing"), ("extra", "not there", "3")]


def test_a_verdict_must_stay_where_it_is_stable_and_the_claim_in_any_case() -> None:
    got = result()
    got["claims"][0]["verdict"] = "not supported"
    got["claims"][1]["verdict"] = "not supported"
    assert compare(got) == [("a.order", "reproduced", "not supported")]
    got["claims"].pop()
    got["claims"].append({"id": "b.new", "verdict": "corrected"})
    assert compare(got)[0] == ("a.close", "any verdict", "missing")
    assert compare(got)[2] == ("b.new", "not there", "corrected")


def test_equal_results_pass_and_are_counted(folders: tuple[Path, Path]) -> None:
    assert regression.check(*folders) == (3, [])
    assert regression.check(*folders, notebooks=["tiny"], preset="smoke") == (3, [])


def test_a_missing_bundle_is_a_difference_that_says_what_to_run(
    folders: tuple[Path, Path],
) -> None:
    (folders[1] / "tiny.full.real.json").write_text(json.dumps(EXPECTED))
    _, (difference,) = regression.check(*folders)
    assert difference.where == "tiny.full.real"
    assert "labkit reproduce tiny --preset full --source real" in difference.reason
    assert "tiny.full.real" in regression.report([difference])


def test_no_results_at_all_say_what_to_run(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(LabkitError, match="labkit reproduce tiny --preset smoke"):
        regression.check(tmp_path / "empty", folders[1])


@pytest.mark.parametrize("choice", [{"preset": "full"}, {"notebooks": ["other"]}])
def test_nothing_expected_is_an_error_and_no_pass(
    folders: tuple[Path, Path], choice: dict[str, Any]
) -> None:
    with pytest.raises(LabkitError, match="No expected values"):
        regression.check(*folders, **choice)


def test_a_damaged_expected_file_is_named(folders: tuple[Path, Path]) -> None:
    path = folders[1] / "tiny.smoke.procedural.json"
    path.write_text(json.dumps({**EXPECTED, "metrics": {"elbo": {"value": 1.0}}}))
    with pytest.raises(LabkitError, match=f"{path.name}: metrics.elbo"):
        regression.check(*folders)


def test_summarise_turns_spread_into_tolerance_with_its_reason() -> None:
    runs = [result(elbo=-100.0), result(elbo=-100.2), result(elbo=-100.1, fit_s=9.0)]
    runs[2]["claims"][1]["verdict"] = "not supported"
    made = regression.summarise(runs)
    elbo = made["metrics"]["elbo"]
    assert elbo["value"] == pytest.approx(-100.1, abs=1e-9)
    assert elbo["atol"] == pytest.approx(0.6, abs=1e-9)
    assert elbo["rtol"] == 5e-3
    assert "3 runs" in elbo["reason"]
    assert "0.2" in elbo["reason"]
    assert made["required"] == ["fit_s"]
    assert made["claims"] == {"a.order": "reproduced", "a.close": None}
    for run in runs:
        assert regression.compare("tiny", made, run) == []


@pytest.mark.parametrize(
    ("unit", "atol"),
    [("fraction", 5e-3), ("%", 1.5), ("points", 0.5), ("% right", 1.5), ("nats", 0.0)],
)
def test_counted_samples_may_change_sides_even_if_no_run_saw_one_do_so(
    unit: str, atol: float
) -> None:
    run = result()
    run["metrics"]["elbo"]["unit"] = unit
    assert regression.summarise([run, run])["metrics"]["elbo"]["atol"] == atol


def test_summarise_refuses_runs_that_measure_different_things() -> None:
    with pytest.raises(LabkitError, match="different metrics"):
        regression.summarise([result(), deepcopy(result(extra=1.0))])


@pytest.mark.slow
@pytest.mark.notebook
def test_record_runs_on_each_setting_and_its_values_then_pass(
    tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "_CAPABILITIES", ["default"])
    notebook = tiny(
        "import os\n\nimport torch\n\nfrom labkit import bundle",
        results='ledger.results({"threads": ledger.metric(torch.get_num_threads())})',
    )
    path = regression.record(str(notebook))
    assert path == tmp_path / "expected" / "tiny.smoke.procedural.json"
    made = json.loads(path.read_text())
    assert made["metrics"]["threads"]["value"] == 1.5
    assert made["metrics"]["threads"]["atol"] == 3
    assert made["claims"] == {"tiny.gain": "reproduced"}
