"""The study of notebook 05: all ways see the same, and nothing reads what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit import metrics
from labkit.batch import subsets
from labkit.data.affect import Affect
from labkit.metrics_gap import sliced_wasserstein
from labkit.protocols import random_missing
from labkit.recovering import claims, measure, plan, reading
from labkit.recovering.plan import FILLS, FLOWS, TUNED, WAYS, Setting

pytestmark = pytest.mark.slow  # models are trained


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    """Sizes at which everything is trained in a few seconds, in a store of its own."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_STORE", str(Path(tmp_path_factory.mktemp("store"))))
    whole = plan.sentiment("smoke")
    yield replace(
        whole, data=Affect(n_train=150, n_val=20, n_test=40, shortest=6), fit=replace(whole.fit, epochs=2),
        flows=replace(whole.flows, epochs=2),
    )  # fmt: skip
    patch.undo()


@pytest.mark.parametrize("way", WAYS)
def test_what_is_filled_in_keeps_what_is_visible_and_reads_nothing_else(
    setting: Setting, way: str
) -> None:
    net, fill = plan.filler(setting, way, 0)
    batch = setting.recipe(0).load("test")
    visible = random_missing(len(batch), 3, 0.5, 1).visible
    seen = net.features(batch)
    filled = fill(batch, seen, visible)
    shown = visible.T[..., None, None].expand_as(filled)
    assert torch.equal(filled[shown], seen.x[shown]), "what is visible stays"
    if way == "true":
        return
    x = {
        name: torch.where(visible[:, m, None, None], values, torch.randn_like(values))
        for m, (name, values) in enumerate(batch.x.items())
    }
    other = replace(batch, x=x, y=None if way != "same class" else batch.y)
    length = seen.length  # what is visible tells it; here it is not what is asked
    again = fill(other, net.features(other)._replace(length=length), visible)
    torch.testing.assert_close(again, filled)


def test_same_class_takes_a_training_sample_of_that_class(setting: Setting) -> None:
    net, fill = plan.filler(setting, "same class", 0)
    batch, train = (setting.recipe(0).load(split) for split in ("test", "train"))
    seen, known = net.features(batch), net.features(train)
    visible = torch.tensor([True, False, False]).expand(len(batch), 3)
    filled = fill(batch, seen, visible)
    for row in range(len(batch)):
        where = (known.x[1] == filled[1, row]).flatten(1).all(1)
        assert where.any()
        assert train.y is not None and batch.y is not None
        assert (train.y[where] == batch.y[row]).all()


def test_accuracy_under_a_mask_is_that_of_filling_in_under_it(setting: Setting) -> None:
    """Answers are computed once a subset and looked up: the same as computed for the mask."""
    net, fill = plan.filler(setting, "class prior", 0)
    batch = setting.recipe(0).load("test")
    seen = net.features(batch)
    found = measure.scored(setting, "class prior", 0)
    assert batch.y is not None
    for rate, draws in zip(measure.rates_of(3), found["random"], strict=True):
        for draw, ours in enumerate(draws):
            visible = random_missing(len(batch), 3, rate, draw).visible
            with torch.no_grad():
                said = net.answer(fill(batch, seen, visible), seen.length)
            assert ours == pytest.approx(100 * float(metrics.accuracy(said, batch.y)))
    assert len(found["fixed"]) == len(found["f1"]) == len(measure.subset_names(setting)) == 7
    assert found["realised"][-1] == pytest.approx(2 / 3)
    assert found["batches_realised"][0] == pytest.approx(found["batches_realised"][-1])


def test_with_everything_there_all_ways_of_one_predictor_answer_alike(setting: Setting) -> None:
    whole = {way: measure.answers(setting, way, 0)[0][-1] for way in FILLS if way not in TUNED}
    for way, logits in whole.items():
        torch.testing.assert_close(logits, whole["true"], msg=way)


def test_gaps_know_the_true_from_the_wrong(setting: Setting) -> None:
    true, other = (measure.gaps(setting, way, 0) for way in ("true", "other"))
    for source in range(3):
        for target in range(3):
            if source == target:
                assert true["swd"][source][target] is None
                continue
            assert true["swd"][source][target] == 0
            assert true["cosine"][source][target] == pytest.approx(1)
            assert true["spread"][source][target] == pytest.approx(1)
            assert true["agreement"][source][target] == true["read"][target]
            assert abs(other["cosine"][source][target]) < 0.2


def test_gaps_and_insides_count_no_padding(setting: Setting) -> None:
    at = reading.opened(setting, "class prior", 0)
    guess, found = at.filled([True, False, False]), measure.gaps(setting, "class prior", 0)
    rows = [slice(0, int(n)) for n in at.seen.length]
    true, made_ = (
        torch.cat([x[2, b, row] for b, row in enumerate(rows)]) for x in (at.seen.x, guess)
    )
    mean, deviation = true.mean(0), true.std(0, correction=0)
    wanted = sliced_wasserstein((made_ - mean) / deviation, (true - mean) / deviation)
    assert found["swd"][0][2] == pytest.approx(float(wanted), rel=1e-4)
    inside, model = (
        measure.inside(setting, "class prior", 0), plan.dicmor_of(plan.trained(setting, 0, "class prior"))
    )  # fmt: skip
    for split, ending in (("test", ""), ("train", "_train")):
        batch = setting.recipe(0).load(split)
        with torch.no_grad():
            _, parts = model.loss(batch, 1, torch.Generator())
        assert np.mean(inside[f"bits{ending}"]) == pytest.approx(float(parts["bits"]), rel=1e-4)
    assert batch.y is not None
    test = setting.recipe(0).load("test")
    for place, subset in enumerate(subsets(3)):
        said = model.classify(test, subset.expand(40, 3)).argmax(-1)
        assert inside["classify"][place] == pytest.approx(
            100 * float((said == test.y).float().mean())
        )


def test_ways_are_trained_as_their_names_say(setting: Setting) -> None:
    dropout = plan.trained(setting, 0, "modality dropout").model
    assert dropout.config.hide == 0.5  # type: ignore[union-attr]
    assert (
        setting.config("class prior, paired").pairing
        == setting.config("single prior, paired").pairing
        == 5
    )
    assert plan.trained(setting, 0, "predictor").model.config.hide == 0  # type: ignore[union-attr]


def test_a_judge_reads_the_predictors_own_projections(setting: Setting) -> None:
    wide = replace(
        setting,
        predictor=replace(setting.predictor, width=6),
        flow=replace(setting.flow, channels=6),
    )
    net, judge = (plan.predictor_of(plan.trained(wide, 0, what)) for what in ("predictor", "judge"))
    for mine, theirs in zip(
        net.projections.parameters(), judge.projections.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)
    own = plan.predictor_of(plan.trained(wide, 0, "modality dropout"))
    assert not torch.equal(next(own.projections.parameters()), next(net.projections.parameters()))


def test_the_plan_has_one_run_for_each_flow_and_names_the_unknown(setting: Setting) -> None:
    configs = {way: setting.config(way) for way in FLOWS}
    assert len(set(configs.values())) == len(FLOWS)
    half = configs["half-identity"].flow
    assert (half.mixing, half.scale, half.normalise) == ("none", "sigmoid", False)
    assert (half.steps, half.hidden) == (setting.flow.steps, setting.flow.hidden)
    with pytest.raises(ValueError, match="way must be one of zeros, mean"):
        plan.filler(setting, "magic", 0)
    for build in (plan.sentiment, plan.mosi):
        with pytest.raises(ValueError, match="unknown preset 'huge'"):
            build("huge")


def test_the_last_stage_starts_from_its_flows_and_trains_all_but_the_projections(
    setting: Setting,
) -> None:
    for way, parent in TUNED.items():
        before, after = (plan.dicmor_of(plan.trained(setting, 0, each)) for each in (parent, way))
        same = {name: value.shape for name, value in before.state_dict().items()}
        changed = {
            name.split(".")[0] if "." in name else name
            for name, value in after.state_dict().items()
            if name not in same or not torch.equal(value, before.state_dict()[name])
        }
        assert changed == {"predictor", "flows", "prior", "refine"}
        pairs = zip(
            before.predictor.projections.parameters(), after.predictor.projections.parameters(), strict=True
        )  # fmt: skip
        assert all(torch.equal(mine, theirs) for mine, theirs in pairs)
        net, _ = plan.filler(setting, way, 0)
        assert torch.equal(net.fusion.head[-1].weight, after.predictor.fusion.head[-1].weight)
        assert not torch.equal(net.fusion.head[-1].weight, before.predictor.fusion.head[-1].weight)


# Looking ------------------------------------------------------------------------------------------------


def test_the_first_epochs_of_a_longer_training_are_those_of_a_shorter_one(setting: Setting) -> None:
    batch = setting.recipe(0).load("test")
    one, two = (reading.learned(setting, "class prior", epochs, 0) for epochs in (1, 2))
    start = reading.learned(setting, "class prior", 0, 0)
    z = [reading.latents_of(model, batch) for model in (start, one, two)]
    assert all(part.shape == (3, 40, 8) for part in z)
    moved = [float((z[i + 1] - z[i]).abs().mean()) for i in range(2)]
    assert min(moved) > 1e-3
    again = setting.config("class prior").build(one.predictor)
    history_of_one = one.flows.w1, reading.learned(setting, "class prior", 1, 0).flows.w1
    assert torch.equal(*history_of_one)
    assert again.config == one.config


def test_a_confusion_matrix_counts_every_sample_of_a_class(setting: Setting) -> None:
    matrix = torch.tensor(reading.swapped(setting, "true", 0))
    torch.testing.assert_close(matrix.sum(1), torch.full((5,), 100.0))
    assert matrix.diagonal().mean() == pytest.approx(
        measure.gaps(setting, "true", 0)["read"][2], abs=3
    )


def test_noise_of_level_0_is_the_clean_modality(setting: Setting) -> None:
    found = reading.noisy(setting, "class prior", 0, (0.0, 50.0))
    fixed = measure.scored(setting, "true", 0)["fixed"]
    assert found["noisy"][0] == pytest.approx(fixed[-1])
    assert found["noisy alone"][0] == pytest.approx(measure.gaps(setting, "true", 0)["read"][2])
    assert found["recovered"][0] == pytest.approx(
        measure.scored(setting, "class prior", 0)["fixed"][3]
    )


def test_between_two_sources_lie_both(setting: Setting) -> None:
    model = plan.dicmor_of(plan.trained(setting, 0, "class prior"))
    at = reading.opened(setting, "class prior", 0)
    for weight, source in ((0.0, 0), (1.0, 1)):
        alone = at.filled([m == source for m in range(3)])[2]
        torch.testing.assert_close(reading.between(model, at.seen, weight, (0, 1), 2), alone)
    both = at.filled([True, True, False])[2]
    torch.testing.assert_close(reading.between(model, at.seen, 0.5, (0, 1), 2), both)


def test_part_is_those_samples(setting: Setting) -> None:
    at = reading.opened(setting, "class prior", 0)
    few = at.part(slice(3, 6))
    torch.testing.assert_close(
        few.filled([True, False, False]), at.filled([True, False, False])[:, 3:6]
    )
    assert few.answer(few.seen.x).shape == (3, 5)


def test_a_plane_of_latents_is_that_of_their_largest_variance() -> None:
    z = torch.randn(3, 200, 6) * torch.tensor([0.1, 5.0, 0.1, 0.1, 3.0, 0.1])
    centre, directions = reading.plane_of(z)
    torch.testing.assert_close(directions.T @ directions, torch.eye(2), atol=1e-5, rtol=0)
    assert directions[1, 0].abs() > 0.99
    assert directions[4, 1].abs() > 0.99
    torch.testing.assert_close(centre, z.flatten(0, 1).mean(0))


def test_the_error_of_the_inverse_grows_with_depth_and_float32() -> None:
    for kind in ("ours", "released"):
        single, double = (
            reading.inverse_errors(kind, d, (2, 16), 2) for d in (torch.float32, torch.float64)
        )
        assert single[0] < single[1] < 1e-4
        assert double[1] < 1e-8 < single[1]


def test_floors_are_of_the_held_out_labels(setting: Setting) -> None:
    found = measure.floors(setting, 0)
    assert found["chance"] == 20
    assert 15 < found["majority"] < 30


def test_tables_have_a_row_a_way_and_seed_and_summaries_a_metric_each(setting: Setting) -> None:
    table, gaps = measure.table(setting, [0]), measure.gap_table(setting, [0])
    assert list(table["way"]) == list(WAYS)
    assert list(gaps["way"]) == list(FILLS[1:-1])
    row = table.iloc[0]
    assert row["mean"] == pytest.approx(np.mean(row["fixed"][: len(subsets(3)) - 1]))
    found = claims.summary({"sentiment": table}, {"sentiment": gaps}, {"sentiment": 20.0})
    assert {
        f"sentiment.accuracy.{name}" for name in ("zeros", "class_prior_paired", "half_identity")
    } <= set(found)
    insides = measure.insides(setting, [0])
    assert list(insides) == list(FLOWS)
    assert len(insides["class prior"][0]["classify"]) == 7
