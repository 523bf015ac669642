"""The study of notebook 03: its plans and answers, its claims' rules, its figures and its board."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from labkit import LabkitError, bundle, figures, ledger
from labkit.data.gaussians import Gaussians, Venn, increase_gamma, stack
from labkit.focusing import claims, gaussian
from labkit.focusing.gaussian import Plan
from labkit.live.board import MIME, Board, scatter
from labkit.models import mfh
from labkit.models.mfh import Distillation
from labkit.reproduce import has_real_data, reproduce

TINY = Plan(runs=4, teachers=3)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def many() -> dict[str, Any]:
    """The 98 teachers of one student, trained once."""
    return gaussian.teachers(TINY, 0)


# Plans and answers -------------------------------------------------------------------------------


def test_the_first_seed_of_full_is_what_the_paper_averaged() -> None:
    plan = gaussian.sizes("full")
    assert plan.seeds(0) == list(range(100))
    assert plan.seeds(2) == list(range(200, 300))
    assert gaussian.sizes("paper") == plan
    with pytest.raises(
        ValueError, match="unknown preset 'huge'; choose one of smoke, quick, full, paper"
    ):
        gaussian.sizes("huge")


def test_an_answer_is_crossmodal_s() -> None:
    found = gaussian.figure2(TINY, 1)
    venn, seeds = increase_gamma(gaussian.SHARED[2]), [4, 5, 6, 7]
    train, test = (stack([Gaussians(venn)], seeds, split) for split in ("train", "test"))
    alone = mfh.crossmodal(train, seeds).accuracies(test)
    for name, values in alone.items():
        assert found[name][2] == pytest.approx(
            (100 * values[:, 0]).tolist(), abs=0.11
        )  # a sample flips
    assert found["x"][2] == venn.gamma == 0.25
    torch.testing.assert_close(
        gaussian.gains(found)[2],
        torch.tensor(found["student"][2]) - torch.tensor(found["alone"][2]),
    )


def test_the_student_of_all_teachers_is_one(many: dict[str, Any]) -> None:
    """The premise of section 4: alone, it learns the same whoever teaches it."""
    found = many
    assert len(found["teacher"]) == 98
    assert np.ptp(found["alone"], axis=0).max() == 0
    pairs = set(zip(found["only_a"], found["both"], strict=True))
    assert len(pairs) == 98 and max(found["gamma"]) == 1
    columns = gaussian.columns(found)
    assert {len(values) for values in columns.values()} == {98}
    assert np.ptp(gaussian.students(TINY, 0)["alone"], axis=0).max() > 0  # and here it is not


def test_nobody_beats_the_ceiling_and_more_is_hidden_from_all() -> None:
    found = gaussian.ceilings(Plan(10, 5), 0)
    best = [np.mean(row) for row in found["student"]]
    assert found["bayes"][0] == 100
    assert found["bayes"] == sorted(found["bayes"], reverse=True)
    assert all(
        b + 1 > s for b, s in zip(found["bayes"], best, strict=True)
    )  # a point of sampling noise


def test_weights_are_those_of_the_channels() -> None:
    found = gaussian.weights(both=10, only_a=0, seeds=(0, 1, 2))
    data = stack([Gaussians(Venn(0, 10, 0, hidden=40))], [0, 1, 2], "train")
    trained = mfh.crossmodal(data, [0, 1, 2])
    columns = data.b.place[0, :-1]
    assert found["student"] == pytest.approx(trained.student[:, 0, columns].abs().mean(0).tolist())
    assert min(found["alone"][:10]) > np.mean(found["alone"][10:])


def test_the_released_script_s_exchange_is_what_it_says() -> None:
    """Against plain autograd: teacher of a fed b, student of a taught by it, tested on b."""
    seeds = [3]
    train, test = (
        stack([Gaussians(Venn(10, 10, 0), script="modify")], seeds, s) for s in ("train", "test")
    )
    x = {name: getattr(train, name).x[0][:, getattr(train, name).place[0]] for name in ("a", "b")}
    generator = torch.Generator().manual_seed(4)
    teacher, student = (mfh.first_weights(50, generator) for _ in range(2))

    def descended(weights: torch.Tensor, taught: torch.Tensor | None) -> torch.Tensor:
        half = torch.stack([-weights / 2, weights / 2]).requires_grad_()
        loss = Distillation(teacher=0.0 if taught is None else 1.0)
        for _ in range(1000):
            logits = x["a"] @ half.T
            value = loss.loss(logits, logits.detach() if taught is None else taught, train.y[0])
            (slope,) = torch.autograd.grad(value, half)
            half = (half - 0.1 * slope).detach().requires_grad_()
        return half.detach()

    wrong = descended(student, x["b"] @ descended(teacher, None).T)
    seen = test.b.x[0][:, test.b.place[0]]
    right = ((seen @ wrong.T).argmax(1) == test.y[0]).double().mean()
    assert gaussian.swapped(train, test, seeds)[0] == pytest.approx(100 * float(right), abs=0.21)


# Claims ------------------------------------------------------------------------------------------


def figure(gain: Any, teacher: Any, runs: int = 100) -> dict[str, Any]:
    """An answer with these mean gains and teacher's accuracies at every point."""
    flat = np.full((len(gain), runs), 67.93)
    return {
        "x": np.linspace(0, 1, len(gain)).tolist(),
        "teacher": (np.asarray(teacher)[:, None] + np.zeros(runs)).tolist(),
        "student": (flat + np.asarray(gain)[:, None]).tolist(), "alone": flat.tolist(),
    }  # fmt: skip


RISING, FLAT = [-1.6, -0.8, -0.1, 0.7, 1.4, 2.1], [71.0] * 6


@pytest.mark.parametrize(
    ("gain", "teacher", "holds"),
    [(RISING, FLAT, True), (RISING[::-1], FLAT, False), ([0, 0.8, 1.5, 2, 2.2, 2.3], FLAT, False),
     (RISING, [70.0, 71, 72, 73, 74, 75], False), ([-1, -1.1, 0, 0.5, 0.4, 1.9], FLAT, False)],
    ids=["as printed", "falls", "never harms", "teacher improves", "not at every step"],
)  # fmt: skip
def test_figure_2_s_rule(gain: list[float], teacher: list[float], holds: bool) -> None:
    assert claims.figure2([figure(gain, teacher)] * 3, 0)[0]["holds"] is holds


def test_values_are_judged_only_where_they_are_the_paper_s() -> None:
    answer = {"x": [0.0] * 6} | {n: [[v] * 100 for v in row] for n, row in claims.FIGURE2.items()}
    verdict = [claims.figure2([answer], first)[1]["verdict"] for first in (0, 1)]
    assert verdict == ["reproduced", "not testable here"]
    answer["teacher"][3] = [71.4] * 100
    assert claims.figure2([answer], 0)[1]["verdict"] == "not supported"
    fewer = {name: row if name == "x" else [v[:30] for v in row] for name, row in answer.items()}
    assert claims.figure2([fewer], 0)[1]["verdict"] == "not testable here"


def test_figure_3_s_rule() -> None:
    better, same = [58.0, 64, 71, 78, 89], [58.0] * 5
    assert claims.figure3([figure([1.2, 1, 0.9, 0.4, -0.1], better)], 0)[0]["holds"]
    assert not claims.figure3([figure([1.2, 1, 0.9, 0.4, -0.1], same)], 0)[0]["holds"]
    assert not claims.figure3([figure([0, 0, 0, 0.4, 1], better)], 0)[0]["holds"]


def test_ranks_know_what_orders_the_gain() -> None:
    gain = np.linspace(-1, 1, 20)
    answer = figure(gain, np.random.default_rng(0).permutation(20) + 60.0) | {
        "gamma": gain.tolist()
    }
    found = claims.ranks(answer, "gamma")
    assert found["gamma"] == pytest.approx(1)
    assert abs(found["teacher"]) < 0.4
    made = claims.many_teachers([answer], [answer | {"teacher": answer["student"]}])
    assert [claim["holds"] for claim in made] == [abs(found["teacher"]) < 0.2, False]


def row(
    only_a: int = 10, truth: float = 2.0, lost: float = 15.0, auc: float = 0.99
) -> dict[str, Any]:
    """A row of Table 2 whose general teacher loses and whose student wins so many points."""
    noise = np.random.default_rng(only_a).normal(0, 0.3, 30)
    base = {"teacher": (89 + 0 * noise).tolist(), "student": (68 + noise).tolist()}
    general = {"teacher": [89 - lost] * 30, "student": (68 + truth + 0.5 * noise).tolist()}
    return {
        "only_a": only_a, "both": 10, "gamma": 0.5, "regular": base | {"alone": [67.8] * 30},
        "swapped": (68.5 + noise).tolist(), "random": {"teacher": [61.0] * 30, "student": base["student"]},
        "truth": general, "algorithm": general, "auc": [auc] * 30, "precision": [0.97] * 30,
    }  # fmt: skip


def test_table_2_s_rules() -> None:
    def verdicts(*rows: dict[str, Any]) -> dict[str, Any]:
        made = claims.table2([list(rows)] * 2, 1)
        return {c["id"].split(".")[-1]: c.get("verdict", c.get("holds")) for c in made}

    good = verdicts(row(), row(30))
    assert good == {"general": True, "values": "not testable here", "random": False,
                    "algorithm": "reproduced", "script": "corrected"}  # fmt: skip
    assert not verdicts(row(truth=0.0), row(30))["general"]
    assert not verdicts(row(lost=5.0), row(30))["general"]
    assert verdicts(row(), row(30, auc=0.97))["algorithm"] == "corrected"
    assert verdicts(row(auc=0.97), row(30))["algorithm"] == "not supported"
    worse = row()
    worse["random"] = {"teacher": [61.0] * 30, "student": [66.0] * 30}
    assert verdicts(worse)["random"]


def test_the_loss_s_rule() -> None:
    def rows(at0: float, at1: float) -> list[dict[str, Any]]:
        noise = np.random.default_rng(1).normal(0, 0.2, 20)
        same = {"reduction": "mean", "temperature": 1.0}
        return [
            same | {"weight": w, "gain": [(at0 * w + noise).tolist(), (at1 * w + noise).tolist()]}
            for w in (0.0, 1.0)
        ]

    assert claims.loss_cannot_repair(rows(-1, 1))["holds"]
    assert not claims.loss_cannot_repair(rows(1, 1))["holds"]
    assert not claims.loss_cannot_repair(rows(-1, -1))["holds"]


# From answers to ledger and pictures ---------------------------------------------------------------


@pytest.mark.slow
def test_all_of_it_reaches_the_ledger_and_the_figures(
    many: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    ledger.session("03_modality_focusing", preset="smoke", seeds=[0, 1], device="cpu")
    two = [gaussian.figure2(TINY, seed) for seed in (0, 1)]
    three = [gaussian.figure3(TINY, seed) for seed in (0, 1)]
    knobs, ceiling = gaussian.knobs(Plan(2, 2), 0), gaussian.ceilings(TINY, 0)
    others = [gaussian.students(TINY, 0)]
    made = [
        *claims.figure2(two, 0), *claims.figure3(three, 0), claims.loss_cannot_repair(knobs),
        *claims.many_teachers([many], others), *claims.table2([[row(), row(30)]], 0),
    ]  # fmt: skip
    recorded = [ledger.claim(**claim) for claim in made]
    assert {claim.verdict for claim in recorded} <= set(bundle.VERDICTS)
    summary = claims.summary(two, three, [many], others, knobs, [[row(), row(30)]], ceiling)
    bundle.validate(ledger.current().bundle(summary), "the bundle")
    assert summary["figure2.gamma_0.25.alone"]["seeds"] == pytest.approx(
        [float(np.mean(each["alone"][2])) for each in two]
    )
    ranks = claims.ranks(many, "gamma")
    for name, fig in {
        "figure2": figures.focus_curves(two, "gamma", claims.FIGURE2),
        "figure3": figures.focus_curves(three, "alpha", claims.FIGURE3, runs=2),
        "scripts": figures.two_scripts({"one": two[0], "other": two[1]}),
        "teachers": figures.teachers_map(many, ranks),
        "weights": figures.weight_profiles(gaussian.profiles(TINY, 0)),
        "knobs": figures.loss_knobs(knobs),
        "table2": figures.general_teachers([[row(), row(30)]]),
        "ceilings": figures.ceilings(ceiling),
    }.items():
        shown = figures.show(fig, name, alt="what the figure shows in words")
        assert shown.path.is_file()
    left, right = figures.focus_curves(two, "gamma").axes
    for ax, values in (
        (left, np.mean(two[0]["teacher"], 1)),
        (right, gaussian.gains(two[0]).mean(1)),
    ):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values, atol=1e-4)


def test_a_board_holds_its_numbers_and_a_picture(
    many: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    ledger.session("03_modality_focusing", preset="smoke", seeds=[0], device="cpu")
    found = gaussian.columns(many)
    drawn = scatter(found, ("teacher (%)", "gamma"), "gain (points)", "gamma")
    twin = figures.show(
        figures.teachers_map(many, {"teacher": 0, "gamma": 1}), "t", "dots of many teachers"
    )
    made = Board(drawn, twin)._repr_mimebundle_()
    assert made["text/html"].startswith("<img src=")
    data = json.loads(json.dumps(made[MIME]))["data"][0]
    assert data["x"] == pytest.approx(found["teacher (%)"])
    assert data["y"] == pytest.approx(found["gain (points)"])
    assert data["customdata"][7] == pytest.approx(
        [values[7] for values in found.values()], abs=1e-5
    )
    buttons = made[MIME]["layout"]["updatemenus"][0]["buttons"]
    assert buttons[1]["args"][0]["x"][0] == pytest.approx(found["gamma"])
    assert len(json.dumps(made[MIME])) < 60_000
    with pytest.raises(ValueError, match="there is no column 'beta'; there are gain"):
        scatter(found, ("beta",), "gamma", "gamma")
    with pytest.raises(ValueError, match="equally long"):
        scatter({"a": [1, 2], "b": [1]}, ("a",), "b", "a")


def test_a_notebook_without_real_data_says_so(tmp_path: Path) -> None:
    cell = new_code_cell('preset: str = "quick"  # p\nsource: str = "procedural"  # s')
    cell.metadata["tags"] = ["parameters", "procedural-only"]
    path = tmp_path / "made.ipynb"
    path.write_text(json.dumps(new_notebook(cells=[cell])))
    assert not has_real_data(path)
    with pytest.raises(LabkitError, match="made: no real data; run it with --source procedural"):
        reproduce([path], source="real", figures_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
