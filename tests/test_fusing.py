"""The study of notebook 07: equal training for all, costs of what runs, and controls that keep the cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from labkit.data.noise import per_sample
from labkit.data.rooms import Rooms
from labkit.fusing import measure, plan
from labkit.fusing.plan import Setting
from labkit.metrics_segmentation import confusion, mean_iou
from labkit.models.dynmm_fusion import PATHS, depth_costs
from labkit.models.gates import shares
from labkit.train import TrainConfig


def test_every_way_has_a_network_of_its_own_and_the_unknown_is_named() -> None:
    setting = replace(plan.rooms("smoke"), data=Rooms(height=48, n_train=8, n_val=4, n_test=4))
    configs = {way: setting.config(way, 0) for way in setting.ways}
    assert len(set(configs.values())) == len(configs) == 11
    assert configs["colour"].path == 0 and not configs["colour"].depth
    assert [configs[f"static {k}"].path for k in range(PATHS)] == [0, 1, 2, 3, 4]
    setting = replace(setting, fit=replace(setting.fit, epochs=20))
    configs = {way: setting.config(way, 0) for way in setting.ways}
    steps = setting.fit.epochs  # eight samples are one batch
    assert configs["stage I"].relaxation.explore == steps
    hard, soft = configs["hard, 0.02"].relaxation, configs["annealed, 0.02"].relaxation
    assert hard.hard and not soft.hard and hard.explore == soft.explore
    assert soft.anneal is not None and (soft.explore, soft.explore + soft.anneal) == (2, 12)
    assert soft.is_hard(12) and not soft.is_hard(11), (
        "the rest of the network has 8 steps to settle"
    )
    assert configs["hard, 0.02"].weight == 0.02
    assert replace(configs["closable 4"], first=True) == configs["static 4"]
    assert replace(configs["closable gate"], first=True) == configs["annealed, 0.02"]
    with pytest.raises(ValueError, match="way must be one of colour, static 0"):
        setting.config("magic", 0)
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        plan.rooms("huge")


def test_statistics_are_those_of_the_training_pictures() -> None:
    data = Rooms(height=48, n_train=8, n_val=4, n_test=4)
    center, scale, balance, samples = plan.statistics(data)
    batch = data.load("train")
    assert samples == 8
    assert center[3] == pytest.approx(float(batch.x["depth"].mean()), abs=1e-3)
    assert scale[0] == pytest.approx(float(batch.x["rgb"][:, 0].std()), abs=1e-3)
    assert len(balance) == len(data.classes)


def test_the_best_early_exit_is_chosen_on_validation_and_is_never_the_full_one() -> None:
    rows = [
        {"seed": 0, "way": f"static {k}", "val": v, "miou": -v}
        for k, v in enumerate((50, 70, 60, 65, 99))
    ]
    assert measure.best_static(pd.DataFrame(rows), 0) == "static 1"


def test_shuffled_paths_cost_the_same() -> None:
    deep = torch.tensor([0, 0, 1, 4, 4, 4, 2, 3])
    again = measure.shuffled(deep, 1)
    assert not torch.equal(again, deep)
    assert torch.equal(again.sort().values, deep.sort().values)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    data = Rooms(height=48, n_train=16, n_val=6, n_test=10)
    yield replace(plan.rooms("smoke"), data=data, fit=TrainConfig(2, 8, 4e-3), weights=(0.1,))
    patch.undo()


@pytest.mark.slow
def test_scores_belong_to_the_paths_that_ran(small: Setting) -> None:
    costs = torch.tensor(depth_costs(small.config("static 4", 0)))
    for way, wanted in (
        ("colour", 0.0),
        ("static 2", float(costs[2] / costs[4])),
        ("static 4", 1.0),
    ):
        found = measure.scored(small, way, 0)
        assert found["cost"] == pytest.approx(wanted)
        assert 0 <= found["miou"] <= 100 and "random" not in found
        assert found["val_cost"] == pytest.approx(wanted)
    gated = measure.scored(small, "annealed, 0.1", 0)
    shares = torch.tensor(gated["paths"])
    assert gated["cost"] == pytest.approx(float((shares * costs).sum() / costs[4]), abs=1e-6)
    assert set(gated["scenes"]) == {"bright", "dark", "ambiguous", "corrupted"}
    assert "random" in gated
    noise = measure.noisy(small, "annealed, 0.1", 0, "depth", 0.0, 2)
    assert noise["miou"] == gated["miou"] and noise["paths"] == gated["paths"]
    assert 0 <= noise["random"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize("way", ["static 2", "stage I", "annealed, 0.1"])
def test_only_what_is_hit_is_answered_again_and_nothing_else_changes(
    small: Setting, way: str
) -> None:
    """As if all pictures were answered again, to a few pixels whose classes are equally likely."""
    net = plan.net_of(plan.trained(small, way, 0))
    batch = per_sample(small.recipe(0).load("test"), 2.0, "either", 1)
    forced = measure.paths_for(way, net, len(batch), 0)
    said, deep = measure.answers(net, batch, forced)
    found = measure.noisy(small, way, 0, "either", 2.0, 1)
    assert batch.y is not None
    matrix = confusion(said, batch.y, 10)
    assert found["miou"] == pytest.approx(100 * float(mean_iou(matrix)), abs=0.05)
    assert found["paths"] == shares(deep, PATHS).tolist()
    if way.startswith("annealed"):
        again, _ = measure.answers(net, batch, measure.shuffled(deep, 1))
        wanted = 100 * float(mean_iou(confusion(again, batch.y, 10)))
        assert found["random"] == pytest.approx(wanted, abs=0.05)


@pytest.mark.slow
def test_no_noise_is_no_noise_and_more_is_more(small: Setting) -> None:
    quiet = measure.noisy(small, "static 4", 0, "depth", 0.0, 3)
    assert quiet["miou"] == measure.scored(small, "static 4", 0)["miou"]
    blind = [measure.noisy(small, "colour", 0, "depth", level)["miou"] for level in (0.0, 2.0)]
    assert blind[0] == blind[1], "colour alone does not see depth"
    setting = replace(small, levels=(0.0, 1.0), draws=2)
    rules = measure.rule_table(setting, "static 4", [0])
    assert len(rules) == 4 and (rules["level"] == 1.0).all()
    by_rule = rules.set_index(["rule", "draw"])["miou"]
    assert by_rule["picture", 1] == measure.noisy(small, "static 4", 0, "depth", 1.0, 1)["miou"]
    assert by_rule["picture", 1] != by_rule["mini-batch", 1]
    frame = measure.noise_table(setting, ("static 4",) * 2, [0], modes=("depth",))
    assert len(frame) == 4 and frame["random"].isna().all(), "nothing to deal out"
    assert frame[frame["level"] == 0]["miou"].nunique() == 1
