"""The study of notebook 08: equal terms for all methods, costs, and what is read of the exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.batch import Batch, add_noise
from labkit.data.clips import Clips
from labkit.exchanging import blend, measure, plan, reading
from labkit.exchanging.plan import Setting
from labkit.models.backbones import Clip
from labkit.models.blending import Blend, BlendNet
from labkit.models.misa import MisaNet
from labkit.train import TrainConfig, isolated_rng


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    data = Clips(frames=2, size=12, n_train=32, n_val=16, n_test=24)
    yield Setting(
        data, tuple(data.shapes.items()), Clip((4, 6)), 8, TrainConfig(2, 16, 1e-3), 4, sites=(0,)
    )
    patch.undo()


def built(setting: Setting, way: str, seed: int = 0) -> torch.nn.Module:
    with isolated_rng(seed, torch.device("cpu")):
        net: torch.nn.Module = setting.config(way).build()  # type: ignore[attr-defined]
    return net.eval()


# Plan ---------------------------------------------------------------------------------------------


def test_every_way_has_a_network_of_its_own_and_the_unknown_is_named(small: Setting) -> None:
    configs = {way: small.config(way) for way in small.ways}
    assert len(set(configs.values())) == len(configs) == 17
    assert small.methods[:2] == ("rgb alone", "flow alone")
    assert {c.backbone for c in configs.values()} == {Clip((4, 6))}, "one backbone for all"
    assert small.config("early, long") == small.config("early")
    assert small.budget("early, long").epochs == 4
    assert small.budget("early") == small.fit
    with pytest.raises(ValueError, match=r"way must be one of rgb alone; .*; got 'magic'"):
        small.config("magic")
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        plan.clips("huge")


def test_all_methods_start_from_the_same_streams(small: Setting) -> None:
    first = built(small, "late").streams.state_dict()  # type: ignore[union-attr]
    for way in ("early", "MISA", "MulT", "Gradient-Blending", "X-Norm", "X-Norm, own"):
        other = built(small, way).streams.state_dict()  # type: ignore[union-attr]
        assert all(torch.equal(first[name], other[name]) for name in first), way


@pytest.mark.parametrize("name", ["clips, synergy", "affect", "actions"])
def test_every_method_answers_every_data_set(name: str) -> None:
    setting = plan.studies("smoke")[name]
    val = setting.recipe(3).load("val")[:4]
    for way in setting.methods:
        net = built(setting, way)
        assert net.predict(val).shape == (4, setting.classes), way  # type: ignore[operator]
    assert setting.recipe(3).seed == 3


def test_augmentation_is_of_training_alone(small: Setting) -> None:
    config = plan.Augmented(small.config("late"))
    with isolated_rng(0, torch.device("cpu")):
        net = config.build().eval()
    batch = small.data.load("val")
    assert torch.equal(net.predict(batch), net.net.predict(batch))
    loss, plain = (
        float(model.loss(batch, 0, torch.Generator().manual_seed(0))[0].detach())
        for model in (net, net.net)
    )
    assert loss != plain


# Measure ------------------------------------------------------------------------------------------


def test_a_score_is_that_of_every_held_out_sample(small: Setting) -> None:
    found = measure.scored(small, "late", 0)
    net, test = reading.network(small, "late", 0), small.recipe(0).load("test")
    right = net.predict(test).argmax(1) == test.y
    assert found["accuracy"] == pytest.approx(100 * float(right.double().mean()), abs=1e-4)
    assert found["floor"] == pytest.approx(12.5)
    table = measure.table({"clips": small}, [0], ["late", "early"])
    assert list(table["way"]) == ["late", "early"]
    assert table["accuracy"][0] == found["accuracy"]
    rhos = measure.rho_table(small, [0.0, 1.0], ["late"], [0])
    assert list(rhos["rho"]) == [0.0, 1.0]


def test_costs_count_what_a_counter_does_not_see(small: Setting) -> None:
    plain = small.config("MISA")
    found = measure.costs(plain)
    net = built(small, "MISA")
    assert isinstance(net, MisaNet)
    cells, width, inside = 2 * 3 * 3, 6, plain.inside  # type: ignore[attr-defined]
    lstms = 2 * cells * 2 * 4 * inside * ((width + inside) + (2 * inside + inside))
    batch = Batch({name: torch.zeros(1, *shape) for name, shape in small.modalities})
    outside = measure.madds.counted(lambda: net.predict(batch))
    assert found["madds"] == outside + lstms
    late, more = (measure.costs(small.config(way)) for way in ("late", "X-Norm"))
    assert more["weights"] - late["weights"] == 2 * (2 * 4 * 4 + 2 * 4)


def test_a_training_is_three_answers_a_sample_and_epoch_and_estimates_train_too(
    small: Setting,
) -> None:
    late, long, blend = (
        measure.scored(small, way, 0) for way in ("late", "late, long", "Gradient-Blending")
    )
    assert late["training"] == 3 * small.fit.epochs * 32 * late["madds"]
    assert long["training"] == small.long / small.fit.epochs * late["training"]
    assert blend["training"] == 3 * 3 * small.fit.epochs * 32 * blend["madds"]


def test_weights_of_the_bench_are_shares_and_small_gaps_are_counted(
    small: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure.blend_weights({"clips": small}, [0, 1])
    assert found["window"].tolist() == [1, 2]
    assert found[[*measure.HEADS]].sum(axis=1).tolist() == pytest.approx([100, 100], abs=0.01)
    table = measure.blend(small, "gain", 0), measure.blend(small, "gain", 1)
    mean = sum(torch.tensor(each["weights"][1]) for each in table)
    assert isinstance(mean, torch.Tensor)
    assert found.iloc[1][[*measure.HEADS]].tolist() == pytest.approx(
        (100 * mean / mean.sum()).tolist()
    )
    wide = {"before": [[2.0, 2.0]] * 3, "after": [[1.0, 1.5]] * 3}
    tight = {"before": wide["before"], "after": [[1.0, 1.5], [1.0, 1.5], [1.0, 1.001]]}
    worse = {"before": wide["before"], "after": [[1.0, 1.5], [1.0, 1.5], [2.1, 2.1]]}
    assert [measure._floored(each) for each in (wide, tight, worse)] == [False, True, False]


def test_who_is_silent_is_zeros_in_every_split_and_weighed_as_estimated(small: Setting) -> None:
    data = measure.Silent(small.recipe(0), "rgb")
    for split in ("train", "val", "test"):
        batch, whole = data.load(split), small.recipe(0).load(split)
        assert not batch.x["rgb"].any() and torch.equal(batch.x["flow"], whole.x["flow"])
        assert batch.y is not None and whole.y is not None
        assert torch.equal(batch.y, whole.y) and torch.equal(batch.observed, whole.observed)
    table = measure.silent_table(small, [0, 1])
    assert [*table.columns] == ["imbalance", "seed", "gain", "official"]
    assert table[["gain", "official"]].to_numpy().min() >= 0
    config = small.config("Gradient-Blending")
    assert isinstance(config, Blend)
    found = blend.estimate(
        config=config, data=measure.Silent(replace(small.recipe(1), imbalance=1.0), "rgb"),
        train=replace(small.fit, epochs=1), seed=1,
    )  # fmt: skip
    row = table[(table["seed"] == 1) & (table["imbalance"] == 1)].iloc[0]
    for rule in measure.RULES:
        weights = blend.weights_of(found, rule)
        assert row[rule] == pytest.approx(100 * weights[0] / sum(weights))


def test_the_long_budget_is_as_long_with_crops(
    small: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    whole = measure.fit_once

    def fit_once(config: Any, data: Any, train: TrainConfig, *rest: Any, **more: Any) -> Any:
        asked.append(train.epochs)
        return whole(config, data, train, *rest, **more)

    monkeypatch.setattr(measure, "fit_once", fit_once)
    for way in ("X-Norm, pooled", "X-Norm, pooled, long"):
        measure.shifted(small, way, joint=True, flips=0.0, seed=0)
    assert asked == [small.fit.epochs, small.long]


def test_shifted_trainings_are_scored_at_each_level_of_noise(small: Setting) -> None:
    found = measure.shifted(small, "X-Norm", joint=True, flips=0.0, seed=0)
    assert [*found["noisy"]] == ["rgb", "flow", "both"]
    assert {each[0] for each in found["noisy"].values()} == {found["accuracy"]}, "level 0 is clean"
    assert all(len(each) == len(measure.LEVELS) for each in found["noisy"].values())
    run = plan.fit_once(plan.Augmented(small.config("X-Norm"), True), small.recipe(0), small.fit, 0)
    test = small.recipe(0).load("test")
    loud = add_noise(test, {"flow": 2.0}, torch.Generator().manual_seed(0))
    assert found["noisy"]["flow"][3] == measure.accuracy(plan.net_of(run), loud)


def test_without_exchanges_a_cut_network_is_late_fusion(small: Setting) -> None:
    net, late = reading.network(small, "X-Norm", 0), built(small, "late")
    late.load_state_dict({k: v for k, v in net.state_dict().items() if "exchanges" not in k})
    test = small.recipe(0).load("test")
    every = [(0, 0), (0, 1)]
    assert torch.equal(net.predict(test, cut=every), late.predict(test))  # type: ignore[operator]
    found = measure.cut(small, "X-Norm", 0)
    assert set(found) == {"none", "all", "0/0", "0/1"}
    assert found["none"] == measure.scored(small, "X-Norm", 0)["accuracy"]


def test_an_estimate_trains_each_head_alone_and_never_on_the_validation_split(
    small: Setting,
) -> None:
    config = small.config("Gradient-Blending")
    assert isinstance(config, Blend)
    found = blend.estimate(config=config, data=small.data, train=small.fit, seed=0)
    assert [len(found[name]) for name in ("before", "after")] == [3, 3]
    net = built(small, "Gradient-Blending")
    assert isinstance(net, BlendNet)
    for k, split in enumerate(("train", "val")):
        losses = blend.head_losses(net, small.data.load(split))
        assert [row[k] for row in found["before"]] == pytest.approx(losses.tolist(), abs=1e-5)
    other = blend.estimate(
        config=config, data=replace(small.data, n_val=8), train=small.fit, seed=0
    )
    assert [row[0] for row in other["after"]] == [row[0] for row in found["after"]]
    assert blend.weights_of(found, "equal") == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="rule must be one of gain, official, equal"):
        blend.weights_of(found, "best")  # type: ignore[arg-type]


def test_windows_go_on_from_each_other(small: Setting) -> None:
    config = small.config("Gradient-Blending")
    assert isinstance(config, Blend)
    run, found = blend.blended(config, small.data, small.fit, 0, "gain", windows=2)
    assert len(found) == 2
    assert all(sum(each["weights"]) == pytest.approx(3, abs=1e-3) for each in found)
    net = run.model
    assert isinstance(net, BlendNet)
    assert net.config.weights == tuple(found[-1]["weights"])
    with pytest.raises(ValueError, match="windows must divide 2 epochs, got 3"):
        blend.blended(config, small.data, small.fit, 0, windows=3)


# Reading ------------------------------------------------------------------------------------------


def test_watching_changes_nothing_and_ends_where_training_ends(small: Setting) -> None:
    found = reading.watched(small, "X-Norm", 0)
    assert found["epoch"] == [0, 1, 2]
    val = small.recipe(0).load("val")
    assert found["accuracy"][0] == measure.accuracy(reading.untrained(small, "X-Norm", 0), val)
    assert found["accuracy"][-1] == measure.accuracy(reading.network(small, "X-Norm", 0), val)
    assert {"before 0", "alike 0", "alike 1", "moved 0/0", "gamma 0/1", "beta 0/1"} <= set(found)
    assert "moved 0/0" not in reading.watched(small, "late", 0)
    records = reading.learning(small, ["late", "X-Norm"], [0])
    assert records["X-Norm"][0] == found


def test_quantiles_are_of_all_numbers_that_are_told(small: Setting) -> None:
    assert len(reading.QUANTILES) == 21 and reading.QUANTILES[10] == 0.5
    numbers = torch.randperm(101, generator=torch.Generator().manual_seed(0)).float()
    wanted = [1, *range(5, 100, 5), 99]
    assert reading.quantiles(numbers.view(1, 101, 1)) == pytest.approx(wanted)
    found = reading.watched(small, "X-Norm", 0)
    val = small.recipe(0).load("val")
    for net, look in (
        (reading.untrained(small, "X-Norm", 0), 0),
        (reading.network(small, "X-Norm", 0), 2),
    ):
        sites = reading.told(net, val).sites
        for m in range(2):
            for part, value in zip(("gamma", "beta"), sites[0].said[m], strict=True):
                kept = found[f"{part} 0/{m} quantiles"][look]
                assert kept == pytest.approx(reading.quantiles(value), rel=1e-4, abs=1e-6)
                assert kept[10] == pytest.approx(float(value.median()), abs=1e-3)
                assert found[f"{part} 0/{m}"][look] == pytest.approx(float(value.std()), rel=1e-4)
    zero = reading.looked(reading.untrained(small, "X-Norm, zero init", 0), val)
    assert zero["gamma 0/0 quantiles"] == [0] * 21 and zero["moved 0/1"] == 0


def test_a_clip_that_moves_the_other_way_is_told_to_the_other_stream(small: Setting) -> None:
    net = reading.network(small, "X-Norm", 0)
    left, right = (reading.told(net, reading.clip(small, 0, 1, direction=d)) for d in (0, 1))
    assert torch.equal(left.sites[0].before[0], right.sites[0].before[0]), "rgb is the same clip"
    assert not torch.equal(left.sites[0].said[0].gamma, right.sites[0].said[0].gamma)
    assert not torch.equal(left.sites[0].after[0], right.sites[0].after[0])
    assert float(left.probabilities.sum()) == pytest.approx(1)


def test_no_sum_solves_xor_and_a_product_does() -> None:
    values = torch.linspace(-2, 2, 9).tolist()
    best = max(
        int(reading.solved(reading.xor((a, b), (c, d))).sum())
        for a in values for b in values for c in values for d in values
    )  # fmt: skip
    assert best == 3
    assert bool(reading.solved(reading.xor((0, 0), (0, 0), -1.0)).all())


def test_the_released_mult_reads_one_cell(small: Setting) -> None:
    net = reading.network(small, "MulT", 0)
    batch = reading.held_out(small, 0)[:8]
    cells = 2 * 3 * 3
    whole = reading.saliency(net, batch)
    assert whole.shape == (2, cells)
    assert bool((whole > 0).all())
    released = reading.read_as(net, "first", True)
    assert (reading.saliency(released, batch) > 0).sum(1).tolist() == [1, 1]
    last = reading.read_as(net, "last", True)
    assert (reading.saliency(last, batch) > 0).sum(1).tolist() == [cells, cells]


def test_misa_is_read_on_its_codes(small: Setting) -> None:
    found = reading.misa(small, 0.3, 0.1, 1.0, 0)
    assert set(found["points"]) == {"private rgb", "private flow", "shared rgb", "shared flow"}
    assert len(found["points"]["shared rgb"]) == 24
    assert sum(found["moments"]) == pytest.approx(found["similar"], rel=1e-3)


def test_angles_are_known_and_ask_neither_where_codes_lie_nor_how_long_they_are(
    small: Setting,
) -> None:
    e = torch.eye(4, dtype=torch.float64)
    one = torch.stack((e[0], -e[0], 2 * e[0], -2 * e[0]))
    for other, wanted in (
        (one, [0.0] * 4), (-one, [180.0] * 4), (one @ e[[1, 0, 2, 3]], [90.0] * 4),
        (torch.stack((e[0] + e[1], -e[0] - e[1], e[1], -e[1])), [45.0, 45.0, 90.0, 90.0]),
        (torch.ones(4, 4), [90.0] * 4),
    ):  # fmt: skip
        found = reading.angles(one, other)
        torch.testing.assert_close(
            found, torch.tensor(wanted, dtype=torch.float64), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            reading.angles(3 + 0.1 * one, other - 7), found, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(reading.angles(other, one), found)
    drawn = torch.rand(2, 5000, 32, generator=torch.Generator().manual_seed(0))
    stacked = reading.angles(drawn, drawn.flip(1))
    assert stacked.shape == (2, 5000)
    assert stacked.mean(1).tolist() == pytest.approx([90, 90], abs=0.5)
    config = small.config("MISA")
    run = plan.fit_once(config, small.recipe(0), small.fit, 0, progress=False)
    assert isinstance(run.model, MisaNet)
    with torch.no_grad():
        codes, _ = run.model.codes(reading.held_out(small, 0))
    found_ = reading.misa(small, 0.3, 0.1, 1.0, 0)["angles"]
    for m, name in enumerate(("rgb", "flow")):
        private, shared = ((x[m] - x[m].mean(0)).double() for x in (codes.private, codes.shared))
        cosine = (private * shared).sum(1) / private.norm(dim=1) / shared.norm(dim=1)
        assert found_[name] == pytest.approx(float(cosine.acos().mean()) * 180 / torch.pi, abs=1e-3)


def test_right_by_cell_averages_to_the_share_of_right_polarities(small: Setting) -> None:
    cells = reading.by_cell(small, "late", 0)
    batch = reading.held_out(small, 0)
    said = reading.network(small, "late", 0).predict(batch).argmax(1)
    right = (said % 2 == batch.factors["polarity"]).double()
    here = (batch.factors["handle"] == 1) & (batch.factors["direction"] == 0)
    assert cells.shape == (2, 2)
    assert float(cells[1, 0]) == pytest.approx(float(right[here].mean()))
