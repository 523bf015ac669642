"""The study of notebook 06: chance, the best choice and the gates are compared at one ratio and one price."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labkit.choosing import measure, plan
from labkit.choosing.plan import Setting
from labkit.models.gates import Relaxation


def answers(n: int = 400) -> tuple[Tensor, Tensor]:
    """A cheap expert that is right 60 % of the time, a dear one that is right 80 %, and classes."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(2, (n,), generator=generator)
    said = []
    for rate in (0.6, 0.8):
        right = torch.rand(n, generator=generator) < rate
        sure = 1 + torch.rand(n, generator=generator)
        said.append((2 * y - 1) * torch.where(right, sure, -sure))
    both = torch.stack(said)
    return torch.stack((-both, both), -1), y


def test_chance_at_0_and_1_is_an_expert_and_between_it_is_in_proportion() -> None:
    said, y = answers()
    cheap, dear = measure.score("classes", said, y)
    found = measure.by_chance("classes", said, y, [0.0, 0.25, 1.0])
    assert found[0] == cheap and found[2] == dear
    assert float(found[1]) == pytest.approx(0.75 * float(cheap) + 0.25 * float(dear), abs=0.6)


def test_the_best_choice_is_never_worse_than_chance_and_beats_both_experts() -> None:
    said, y = answers()
    ratios = [i / 10 for i in range(11)]
    best, chance = (f("classes", said, y, ratios) for f in (measure.best_choice, measure.by_chance))
    assert (best >= chance - 1e-9).all()
    assert best.max() > measure.score("classes", said, y).max() + 5
    right = said[:2].argmax(-1) == y  # who gains most is sent: nobody can do better at any share
    gain = (right[1].long() - right[0].long()).sort(descending=True).values
    for ratio, score in zip(ratios, best, strict=True):
        most = right[0].sum() + gain[: round(ratio * len(y))].sum()
        assert float(score) == pytest.approx(100 * float(most) / len(y))
    wrong = measure.best_choice("classes", said, 1 - y, ratios)
    assert wrong[5] != best[5]


def test_several_labels_are_scored_by_micro_f1() -> None:
    y = torch.tensor([[1.0, 0, 0], [1, 1, 0]])
    logits = torch.tensor([[2.0, 2, -1], [1, -1, -1]])  # 2 found of 3, 1 wrongly
    assert float(measure.score("labels", logits, y)) == pytest.approx(100 * 4 / 6)
    loss = measure._each_loss("labels", logits, y)
    torch.testing.assert_close(
        loss.mean(), torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
    )


def test_who_is_sent_has_the_dear_answer() -> None:
    said, _ = answers(4)
    dear = torch.tensor([[True, False, True, False], [False] * 4])
    mixed = measure.routed(said, dear)
    assert torch.equal(mixed[1], said[0])
    assert torch.equal(mixed[0, [0, 2]], said[1, [0, 2]]) and torch.equal(mixed[0, 1], said[0, 1])


@pytest.mark.parametrize("build", [plan.movies, plan.remarks, plan.mosi, plan.ravdess])
def test_settings_name_the_unknown_and_the_dear_expert_is_dear(build: object) -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        build("huge")  # type: ignore[operator]
    setting: Setting = build("smoke")  # type: ignore[operator]
    bill = setting.bill
    assert bill["gate"] < bill["cheap"] < bill["dear"]
    config = setting.config()
    assert config.prices.tolist() == [0.0, 1.0]
    by_madds = setting.config(resource="madds").prices
    assert by_madds.tolist() == pytest.approx([bill["cheap"] / bill["dear"], 1.0])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    yield replace(plan.movies("smoke"), weights=(0.0, 0.1, 30.0))
    patch.undo()


@pytest.mark.slow
def test_gates_are_measured_beside_what_belongs_to_them(small: Setting) -> None:
    found = measure.chosen(small, 0)
    bill = small.bill
    cheap, dear, _ = found["experts"]
    assert len(found["share"]) == len(found["score"]) == 3
    assert found["share"][2] == 0
    assert [found["score"][2], found["chance"][2]] == pytest.approx([cheap, cheap])
    assert found["madds"][2] == bill["gate"] + bill["cheap"]
    assert [found["random"][0], found["oracle"][0]] == pytest.approx([cheap, cheap])
    assert [found["random"][-1], found["oracle"][-1]] == pytest.approx([dear, dear])
    for best, chance in zip(found["best"], found["chance"], strict=True):
        assert best >= chance - 1e-9
    assert found["soft_madds"] == sum(bill[name] for name in ("gate", "cheap", "dear"))
    assert 0 < found["floor"] < 100
    hard = small.recipe(0).load("test").factors["hard"].double().mean()
    for i, share in enumerate(found["share"]):
        kinds = [found["share_by_kind"][name][i] for name in ("easy", "hard")]
        assert share == pytest.approx(float((1 - hard) * kinds[0] + hard * kinds[1]))


@pytest.mark.slow
def test_answers_are_those_of_the_model_and_the_table_has_a_row_a_seed(small: Setting) -> None:
    batch, said = plan.answers(small, 0)
    model = plan.gates_of(plan.gates(small, 0)).one(1)
    path = model.choose(batch).argmax(-1)
    by_model = model.answer(batch).logits
    torch.testing.assert_close(by_model, measure.routed(said, path.bool()), atol=1e-5, rtol=1e-5)
    soft = plan.gates(small, 0, Relaxation(hard=False))
    assert soft.key != plan.gates(small, 0).key
    frame = measure.table(small, [0, 1])
    assert frame["seed"].tolist() == [0, 1]
    assert frame["score"][0] == measure.chosen(small, 0)["score"]


@pytest.mark.slow
def test_with_two_experts_both_costs_are_one_with_another_weight(small: Setting) -> None:
    """0 and 1 against r and 1: what is paid for the cheap expert, everyone pays."""
    weight = 0.1
    r = small.bill["cheap"] / small.bill["dear"]
    official = replace(small, weights=(0.0, weight))
    madds = replace(small, weights=(0.0, weight / (1 - r)))
    batch, _ = plan.answers(small, 0)
    one, other = (
        plan.gates_of(plan.gates(setting, 0, None, cost)).choose(batch)
        for setting, cost in ((official, "official"), (madds, "madds"))
    )
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    assert (one[0] - one[1]).abs().max() > 0.1, "the weight does count"


@pytest.mark.slow
@pytest.mark.skipif(
    "LABKIT_DATA" not in os.environ, reason="LABKIT_DATA is not set: no real data here"
)
def test_real_clips_are_split_by_actors_and_seeds_are_folds() -> None:
    setting = plan.ravdess("smoke")
    assert setting.recipe(6) == setting.recipe(1) != setting.recipe(2)
    tests = [
        setting.recipe(seed).load("test").factors["actor"].unique().tolist() for seed in range(5)
    ]
    assert sorted(actor for each in tests for actor in each) == list(range(1, 25))
    assert [*plan.studies("smoke", "real")] == ["MOSI", "RAVDESS"]
