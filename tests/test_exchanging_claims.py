"""Claims of notebook 08: verdicts follow their rules, and change when what was measured does."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from labkit.exchanging import claims, claims_rivals
from labkit.exchanging.plan import FUSIONS

BEST = {"late": 48.0, "early": 55.0, "X-Norm": 99.0, "X-Norm, own": 49.0, "early, long": 85.0,
        "MISA": 50.0, "MulT": 52.0, "Gradient-Blending": 47.0, "X-Norm, pooled": 98.0,
        "MulT, as released": 40.0, "MISA, moving goal": 30.0, "rgb alone": 45.0}  # fmt: skip
SPENT = {"X-Norm": 110.0, "late": 95.0, "MISA": 150.0, "MulT": 120.0, "Gradient-Blending": 300.0}


def table(seeds: int = 3, name: str = "clips", **changed: float) -> pd.DataFrame:
    """A table of scores; seeds differ by a tenth of a point."""
    scores = BEST | {key.replace("_", ", "): value for key, value in changed.items()}
    rows = [
        {
            "data": name,
            "way": way,
            "seed": seed,
            "accuracy": score + 0.1 * seed,
            "train": score + 1,
            "floor": 12.5,
            "training": SPENT.get(way, 100.0),
        }
        for way, score in scores.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_ahead_by_so_much_in_every_seed() -> None:
    assert claims.ahead(table(), "late", 30)["verdict"] == "reproduced"
    assert "(+51.0 to +51.0)" in claims.ahead(table(), "late", 30)["ours"]
    assert claims.ahead(table(late=70), "late", 30)["verdict"] == "not supported"
    one = table()
    one.loc[(one["way"] == "early") & (one["seed"] == 1), "accuracy"] = 80
    assert claims.ahead(one, "early", 20)["verdict"] == "not supported"
    assert claims.ahead(table(1), "late", 30)["verdict"] == "not testable here"
    with pytest.raises(ValueError, match="table has no way 'X-Norm'; it has late"):
        claims.ahead(table()[lambda t: t["way"] == "late"], "late", 30)


def test_the_ceiling_of_a_sum() -> None:
    found = claims.theorem(table())
    assert found["verdict"] == "reproduced"
    assert found["paper"] == "75 % at most"
    assert claims.theorem(table(late=79))["verdict"] == "not supported"


def test_it_has_to_be_the_exchange() -> None:
    assert claims.exchange_matters(table())["verdict"] == "reproduced"
    better = table()
    better.loc[better["way"] == "X-Norm, own", "accuracy"] += 10
    assert claims.exchange_matters(better)["verdict"] == "not supported", "weights alone help"
    useless = table()
    useless.loc[useless["way"] == "X-Norm", "accuracy"] = 50
    assert claims.exchange_matters(useless)["verdict"] == "not supported"


def test_no_free_lunch() -> None:
    even = table()
    even.loc[even["way"] == "late", "accuracy"] = 99
    assert claims.no_free_lunch(even)["verdict"] == "reproduced"
    assert claims.no_free_lunch(table())["verdict"] == "not supported"


def test_early_fusion_has_to_pass_what_a_sum_can() -> None:
    assert claims.early_long(table())["verdict"] == "reproduced"
    long = table()
    long.loc[long["way"] == "early, long", "accuracy"] = 60
    assert claims.early_long(long)["verdict"] == "not supported"


def test_what_is_needed_loses_little() -> None:
    found = claims.needed(table(), "X-Norm, pooled", claims.NEEDED["X-Norm, pooled"])
    assert found["verdict"] == "reproduced"
    assert found["id"] == "xnorm.clips.pooled"
    worse = table()
    worse.loc[worse["way"] == "X-Norm, pooled", "accuracy"] = 90
    assert claims.needed(worse, "X-Norm, pooled", "x")["verdict"] == "not supported"


def test_the_released_network_is_counted() -> None:
    found = claims.price()
    assert found["holds"] and found["ours"] == "5,512,192, 22 % more than 24,883,088"
    found = claims.limited()
    dense = 2 * (256 * 8 * 28 * 28 + 512 * 4 * 14 * 14 + 1024 * 2 * 7 * 7)
    assert f"{dense:,} numbers" in found["ours"]
    assert "pooled 3,584" in found["ours"]
    assert found["verdict"] == "corrected"


def records(*ends: float) -> list[dict[str, list[float]]]:
    return [{"alike 0": [0.1, 0.9], "alike 2": [0.3, end]} for end in ends]


def test_aligned_is_asked_of_the_last_maps() -> None:
    both = {"late": records(0.2, 0.21, 0.2), "X-Norm": records(0.7, 0.72, 0.71)}
    found = claims.aligned(both)
    assert found["verdict"] == "reproduced"
    assert "CKA 0.71 against 0.20; untrained 0.30 against 0.30" in found["ours"]
    turned = {"late": both["X-Norm"], "X-Norm": both["late"]}
    assert claims.aligned(turned)["verdict"] == "not supported"
    assert claims.aligned({k: v[:1] for k, v in both.items()})["verdict"] == "not testable here"


def test_comparable_to_the_best_of_the_others() -> None:
    found = claims.comparable(table(), "clips")
    assert found["verdict"] == "reproduced"
    assert "(early)" in found["ours"]
    assert "majority 12.5 %" in found["ours"]
    behind = table()
    behind.loc[behind["way"] == "X-Norm", "accuracy"] = 53
    assert claims.comparable(behind, "clips")["verdict"] == "not supported"
    alone = table()
    alone.loc[alone["way"] == "rgb alone", "accuracy"] = 99.5
    found = claims.comparable(alone, "clips")
    assert "(rgb alone)" in found["ours"], "one modality may be the best"
    assert {way for way in FUSIONS if way != "X-Norm"} <= set(BEST)


def test_exchanging_is_put_beside_parameters_of_its_own() -> None:
    found = claims.exchanged(table(name="clips, sum"), "clips, sum")
    assert found["verdict"] == "reproduced" and found["id"] == "xnorm.clips_sum.exchanged"
    assert found["ours"] == (
        "99.1 against 49.1 %, +50.0 ± 0.0 points; from late fusion (48.1 %) +51.0 ± 0.0 points, one's own "
        "+1.0 ± 0.0 points"
    )
    same = table()
    same.loc[same["way"] == "X-Norm, own", "accuracy"] = 99.2
    assert claims.exchanged(same, "clips")["verdict"] == "not supported"
    assert claims.exchanged(table(1), "clips")["verdict"] == "not testable here"


def test_training_costs_at_most_what_most_others_do() -> None:
    both = pd.concat([table(name="one"), table(name="other")])
    found = claims.training(both)
    assert found["verdict"] == "reproduced", "100, 95, 150, 120 and 300: the median is 120"
    assert found["ours"].startswith(
        "one: 1.16 late's, 1.10 early's, 0.73 MISA's, 0.92 MulT's, 0.37 Grad"
    )
    dear = (both["way"] == "X-Norm") & (both["data"] == "one")
    both.loc[dear, "training"] = 121
    assert claims.training(both)["verdict"] == "corrected"
    both.loc[both["way"] == "X-Norm", "training"] = 121
    assert claims.training(both)["verdict"] == "not supported"


def test_misa_as_published_is_a_rival_if_it_loses_little_to_a_goal_that_stands_still() -> None:
    found = claims_rivals.goal(table())
    assert found["verdict"] == "corrected"
    assert found["ours"] == (
        "30.1 against 50.1 % with a goal that stands still (-20.0 to -20.0); 0 of 3 seeds learnt nothing"
    )
    stuck = table()
    here = (stuck["way"] == "MISA, moving goal") & (stuck["seed"] < 2)
    stuck.loc[here, ["accuracy", "train"]] = 12.5
    assert "2 of 3 seeds learnt nothing" in claims_rivals.goal(stuck)["ours"]
    fine = table()
    fine.loc[fine["way"] == "MISA, moving goal", "accuracy"] = 47.5
    assert claims_rivals.goal(fine)["verdict"] == "reproduced"
    fine.loc[(fine["way"] == "MISA, moving goal") & (fine["seed"] == 2), "accuracy"] = 47
    assert claims_rivals.goal(fine)["verdict"] == "corrected", "in one seed it loses too much"
    assert claims_rivals.goal(table(1))["verdict"] == "not testable here"


def blends(gain: float, official: float, rgb: float = 0.5) -> pd.DataFrame:
    rows = [
        {
            "rule": rule,
            "seed": seed,
            "accuracy": score + seed,
            "weights": [(rgb, 1.5, 1.0), (rgb + 0.2, 1.3, 1.0)]
            if rule == "gain"
            else [(1.0, 1.0, 1.0)] * 2,
        }
        for rule, score in (("equal", 60.0), ("gain", gain), ("official", official))
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def test_blending_by_gain_has_to_win_in_every_seed() -> None:
    assert claims_rivals.blending(blends(65, 60))["verdict"] == "reproduced"
    assert claims_rivals.blending(blends(60, 60))["verdict"] == "not supported"
    assert "by gain 0.000; by the released code 1.000" in claims_rivals.dead()["ours"]
    assert claims_rivals.dead()["verdict"] == "corrected"


def test_a_dead_head_with_weight_by_both_formulas_is_not_supported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        claims_rivals, "gain_weights", lambda before, after: torch.full((3,), 1 / 3)
    )
    assert claims_rivals.dead()["verdict"] == "not supported"
    monkeypatch.undo()
    monkeypatch.setattr(
        claims_rivals, "official_weights", lambda after: torch.tensor([0.5, 0.0, 0.5])
    )
    assert claims_rivals.dead()["verdict"] == "reproduced"


def test_what_is_learnt_by_heart_is_turned_down_and_fusion_the_better_for_it() -> None:
    found = claims_rivals.turned_down(blends(65, 60))
    assert found["verdict"] == "reproduced"
    assert found["ours"].startswith("rgb has 20, flow 47 % of the weight; 66.0 against 61.0 %")
    assert claims_rivals.turned_down(blends(65, 60, rgb=1.2))["verdict"] == "not supported"
    assert claims_rivals.turned_down(blends(60, 60))["verdict"] == "not supported"
    one = blends(65, 60)
    assert claims_rivals.turned_down(one[one["seed"] == 0])["verdict"] == "not testable here"


def test_a_broken_read_out_is_corrected() -> None:
    assert claims_rivals.read_out(table())["verdict"] == "corrected"
    same = table()
    same.loc[same["way"] == "MulT, as released", "accuracy"] = 52
    assert claims_rivals.read_out(same)["verdict"] == "reproduced"


def shifts(joint: float, apart: float) -> pd.DataFrame:
    rows = [
        {"way": "X-Norm", "joint": one, "flips": flips, "seed": seed, "accuracy": score + seed / 10}
        for one, score in ((True, joint), (False, apart))
        for flips in (0.0, 0.5)
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def test_one_crop_has_to_be_better_than_two() -> None:
    assert claims_rivals.augmentation(shifts(99, 50))["verdict"] == "reproduced"
    assert claims_rivals.augmentation(shifts(50, 50))["verdict"] == "not supported"
    both = pd.concat([shifts(99, 50), shifts(99, 99).assign(way="X-Norm, long")])
    assert claims_rivals.augmentation(both)["verdict"] == "reproduced"
    long = claims_rivals.augmentation(both, "X-Norm, long")
    assert long["verdict"] == "not supported" and long["text"].endswith("also with the long budget")


def silences(even: float, uneven: float, seeds: int = 3) -> pd.DataFrame:
    rows = [
        {"imbalance": imbalance, "seed": seed, "gain": share + seed / 10, "official": 99.0}
        for imbalance, share in ((0.0, even), (1.0, uneven))
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_a_silent_modality_may_keep_little_whatever_the_classes() -> None:
    assert claims_rivals.silent(silences(1, 1))["verdict"] == "reproduced"
    found = claims_rivals.silent(silences(1, 40))
    assert found["verdict"] == "corrected"
    assert "frequent: by gain 1.1 % of the weight (1.0 to 1.2)" in found["ours"]
    assert "EPIC-Kitchens: by gain 40.1 %" in found["ours"]
    assert claims_rivals.silent(silences(4.9, 1))["verdict"] == "not supported", "one seed has 5.1"
    assert claims_rivals.silent(silences(1, 1, seeds=1))["verdict"] == "not testable here"


def test_pooled_parameters_are_asked_only_if_they_have_learnt() -> None:
    def asked(joint: float, apart: float) -> str:
        found = claims_rivals.pooled_crops(shifts(joint, apart).assign(way="X-Norm, pooled, long"))
        return str(found["verdict"])

    assert asked(99, 98) == "reproduced"
    assert asked(99, 60) == "not supported"
    assert asked(60, 60) == "not testable here"


def test_pooled_parameters_get_time() -> None:
    assert claims.pooled_long(table(**{"X-Norm_pooled_long": 98.0}))["verdict"] == "reproduced"
    assert claims.pooled_long(table(**{"X-Norm_pooled_long": 90.0}))["verdict"] == "not supported"


def test_every_claim_has_an_id_of_its_own_and_metrics_have_names() -> None:
    every: list[dict[str, Any]] = [
        claims.ahead(table(), "late", 30), claims.ahead(table(), "early", 20), claims.theorem(table()),
        claims.exchange_matters(table()), claims.no_free_lunch(table()), claims.early_long(table()),
        claims.limited(), claims.price(), claims_rivals.dead(), claims_rivals.read_out(table()),
        claims_rivals.blending(blends(65, 60)), claims_rivals.augmentation(shifts(99, 50)),
        claims_rivals.goal(table()),
        claims_rivals.turned_down(blends(65, 60)), claims.training(table()),
        claims_rivals.silent(silences(1, 40)), claims.pooled_long(table(**{"X-Norm_pooled_long": 98.0})),
        claims_rivals.pooled_crops(shifts(99, 50).assign(way="X-Norm, pooled, long")),
        claims_rivals.augmentation(shifts(99, 50).assign(way="X-Norm, long"), "X-Norm, long"),
        *(claims.exchanged(table(name=name), name) for name in ("clips, sum", "MOSI")),
        *(claims.comparable(table(name=name), name) for name in ("clips, sum", "MOSI")),
    ]  # fmt: skip
    assert len({claim["id"] for claim in every}) == len(every)
    assert all(claim["id"] == claim["id"].lower() and " " not in claim["id"] for claim in every)
    rising = table().assign(rho=0.5).drop(columns="data")
    alike = {"late": [{"alike 0": [0.1, 0.2], "alike 1": [0.3, 0.4]}] * 2}
    found = claims.summary([table(name="clips, sum"), rising], alike)
    assert found["clips_sum.x-norm_own.accuracy"]["seeds"] == pytest.approx([49.0, 49.1, 49.2])
    assert found["clips_sum.x-norm_own.training_accuracy"]["seeds"] == pytest.approx([50.0] * 3)
    assert found["clips_rho_0.5.late.accuracy"]["value"] == pytest.approx(48.1)
    assert found["clips_synergy.late.cka"]["seeds"] == [0.4, 0.4]
    rivals = claims_rivals.summary(blends(65, 60), shifts(99, 50), silences(1, 40))
    assert rivals["watermarks.official.accuracy"]["seeds"] == [60, 61, 62]
    assert rivals["crops.x-norm.two_crops_mirrored.accuracy"]["seeds"] == [50, 50.1, 50.2]
    assert rivals["silent.imbalance_1.gain"]["value"] == pytest.approx(40.1)
