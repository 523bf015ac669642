"""DiCMoR: what must be true whatever was trained (specs, section 9), then what training does."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.batch import Batch, subsets
from labkit.data.affect import Affect
from labkit.models.dicmor import (
    MERGES,
    DiCMoR,
    DicmorConfig,
    distance,
    preset,
    teaching,
    unused,
)
from labkit.models.flow import released
from labkit.models.predictor import Features, Predictor, PredictorNet, hidden
from labkit.models.rcan import Reconstruction
from labkit.models.recovery import Regressor
from labkit.train import TrainConfig, fit

NAMES = ("language", "audio", "vision")
RECIPE = Affect(shortest=5, n_train=400, n_val=60, n_test=100)
POOLED = Predictor(tuple((name, 8) for name in NAMES), 12, hidden=16)
MULT = replace(POOLED, width=8, kernel=3, fusion="mult", layers=1, heads=2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(config: DicmorConfig, by: float = 0.1) -> DiCMoR:
    """A model in float64 in which nothing is zero and no two modalities have equal weights."""
    model = config.build(config.predictor.build()).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += by * torch.randn_like(weight)
        model.mean += torch.randn_like(model.mean)
        model.deviation *= 1.5
    return model


def double(batch: Batch) -> Batch:
    return replace(batch, x={name: x.double() for name, x in batch.x.items()})


CONFIGS = {
    "pooled": teaching(POOLED),
    "mult": teaching(MULT, blocks=2, merge="learned_1x1", stage="whole"),
    "data mean": teaching(MULT, merge="data_mean", blocks=1, detach=False, stage="whole"),
}


# Nothing that is missing, and no label, reaches an answer --------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_9_an_answer_does_not_depend_on_what_is_missing_nor_on_labels(config: DicmorConfig) -> None:
    model, batch = shaken(config), double(RECIPE.load("test"))
    for subset in subsets(3):
        hiding = batch.with_observed(subset.expand(len(batch), 3).clone())
        answer = model.predict(hiding)
        for value in (torch.nan, 1e6):
            x = {
                n: v if here else torch.full_like(v, value)
                for (n, v), here in zip(batch.x.items(), subset, strict=True)
            }
            other = Batch(x, observed=hiding.observed, y=None)
            torch.testing.assert_close(model.predict(other), answer, rtol=0, atol=0)
            torch.testing.assert_close(
                model.classify(other), model.classify(hiding), rtol=0, atol=0
            )


def test_9_visible_hides_as_well_as_observed_does() -> None:
    model, batch = shaken(CONFIGS["pooled"]), double(RECIPE.load("test"))
    mask = torch.tensor([True, False, True]).expand(len(batch), 3).clone()
    torch.testing.assert_close(model.predict(batch, mask), model.predict(batch.with_observed(mask)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_9_with_all_there_recovery_does_nothing(config: DicmorConfig) -> None:
    model, batch = shaken(config), double(RECIPE.load("test"))
    seen = model.predictor.features(batch)
    assert torch.equal(model.recover(seen, seen.observed), seen.x)
    torch.testing.assert_close(model.predict(batch), model.predictor.predict(batch))


def test_padding_reaches_nothing() -> None:
    """A sequence cut after its end gives what the padded one gives; the loss is the same, too."""
    model = shaken(teaching(MULT, blocks=2, stage="whole"))
    batch = double(RECIPE.load("test"))
    short = batch[(batch.factors["length"] == 7).nonzero()[:4, 0]]
    seen = model.predictor.features(short)
    assert seen.length.tolist() == [5] * 4  # the projection sees three steps at a time
    config = replace(MULT, steps=7)
    cut = teaching(config, blocks=2, stage="whole").build(config.build()).double().eval()
    cut.load_state_dict(model.state_dict())
    less = replace(short, x={name: x[:, :7] for name, x in short.x.items()})
    for subset in subsets(3):
        visible = subset.expand(4, 3)
        torch.testing.assert_close(model.predict(short, visible), cut.predict(less, visible))
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    mine, theirs = (
        m.loss(b, 1, g)[0] for m, b, g in zip((model, cut), (short, less), generators, strict=True)
    )
    torch.testing.assert_close(mine, theirs)


# Recovery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", MERGES)
def test_one_source_is_carried_over_by_its_flow_and_the_other_ones_inverse(merge: Any) -> None:
    model = shaken(teaching(POOLED, merge=merge))
    batch = double(RECIPE.load("test"))
    seen = model.predictor.features(batch)
    found = model.recover(seen, torch.tensor([False, True, False]).expand(len(batch), 3))
    folded = model.flows.fold()
    z, _ = folded.of([1]).forward((seen.x[1:2] - model.mean[1]) / model.deviation[1])
    for target in (0, 2):
        moved = folded.of([target]).inverse(z)[0] * model.deviation[target] + model.mean[target]
        torch.testing.assert_close(found[target], moved)
    assert torch.equal(found[1], seen.x[1])


def test_two_sources_are_merged_as_the_config_says() -> None:
    batch = double(RECIPE.load("test"))
    visible = torch.tensor([True, True, False]).expand(len(batch), 3)
    for merge in MERGES:
        torch.manual_seed(3)
        model = shaken(teaching(POOLED, merge=merge))
        seen, folded = model.predictor.features(batch), model.flows.fold()
        scaled = (seen.x - model.mean) / model.deviation
        z, _ = folded.forward(scaled)
        back = folded.of([2])

        def data(z: Tensor) -> Tensor:
            return back.inverse(z[None])[0] * model.deviation[2] + model.mean[2]  # noqa: B023

        if merge == "latent_mean":
            wanted = data((z[0] + z[1]) / 2)
        elif merge == "data_mean":
            wanted = (data(z[0]) + data(z[1])) / 2
        else:
            assert model.join is not None
            weight, bias = model.join.weight.chunk(3)[2][..., 0], model.join.bias.chunk(3)[2]  # type: ignore[union-attr]
            wanted = torch.cat((data(z[0]), data(z[1])), -1) @ weight.T + bias
        torch.testing.assert_close(model.recover(seen, visible)[2], wanted)


def test_3_new_flows_carry_over_unchanged_but_for_each_modalitys_scale() -> None:
    model = teaching(POOLED).build(POOLED.build())
    batch = RECIPE.load("test")
    seen = model.predictor.features(batch)
    found = model.recover(seen, torch.tensor([True, False, False]).expand(len(batch), 3))
    torch.testing.assert_close(found, seen.x[:1].expand_as(found), rtol=0, atol=1e-5)


def test_the_likelihood_is_that_of_the_features_themselves() -> None:
    """Density of x, not of x in units of its deviation: the log-determinant has both."""
    model = shaken(teaching(replace(POOLED, modalities=POOLED.modalities[:2])))
    x = torch.randn(2, 1, 1, 8, dtype=torch.float64)
    seen = Features(x, torch.ones(1, 2, dtype=torch.bool), torch.ones(1, dtype=torch.long))
    _, log_det = model.latents(seen)
    for m in range(2):

        def alone(row: Tensor, m: int = m) -> Tensor:
            return model.latents(seen._replace(x=x.index_put((torch.tensor(m),), row)))[0][m, 0, 0]

        jacobian = torch.autograd.functional.jacobian(alone, x[m, 0, 0].clone())
        torch.testing.assert_close(log_det[m, 0, 0], torch.linalg.slogdet(jacobian)[1])


# Gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("detach", [True, False])
def test_12_what_is_recovered_teaches_the_flows_only_without_detach(
    merge: Any, detach: bool
) -> None:
    model = shaken(teaching(MULT, merge=merge, detach=detach, blocks=1, stage="whole"))
    batch = double(RECIPE.load("train"))[:16]
    seen = model.predictor.features(batch)
    visible = torch.tensor([[True, False, False], [True, True, False]]).repeat(8, 1)
    guess = model.recover(seen, visible)
    guess[2].square().sum().backward()
    moved = [w.grad is not None and bool(w.grad.abs().sum() > 0) for w in model.flows.parameters()]
    assert any(moved) == (not detach)
    assert model.refine is not None and model.refine.widen.weight.grad is not None
    if model.join is not None:
        assert model.join.weight.grad is not None and model.join.weight.grad.abs().sum() > 0


def test_12_frozen_projections_get_no_gradient_and_stay() -> None:
    model = teaching(MULT, blocks=1, stage="whole").build(MULT.build())
    before = {name: w.clone() for name, w in model.named_parameters()}
    fit(model, RECIPE.load("train"), TrainConfig(1, 64, 1e-2), progress=False)
    moved = {name for name, w in model.named_parameters() if not torch.equal(w, before[name])}
    assert not any("projections" in name for name in moved)
    assert {name.split(".")[0] for name in moved} == {"flows", "prior", "refine", "predictor"}


def test_flows_are_trained_alone_in_their_stage() -> None:
    parent = MULT.build()
    model = teaching(MULT, blocks=1, merge="learned_1x1").build(parent)
    assert {n.split(".")[0] for n, w in model.named_parameters() if w.requires_grad} == {
        "flows",
        "prior",
    }


# Losses ---------------------------------------------------------------------------------------------


def test_loss_is_bits_of_all_modalities_and_the_pairing() -> None:
    config = teaching(POOLED, pairing=0.5)
    model, batch = shaken(config), double(RECIPE.load("train"))[:20]
    batch = batch.with_observed(
        torch.tensor([[True, True, False], [True, True, True]]).repeat(10, 1)
    )
    total, parts = model.loss(batch, 1, torch.Generator())
    assert batch.y is not None
    seen, wanted = model.predictor.features(batch), 0.0
    with torch.no_grad():
        z, log_det = model.latents(seen)
        density = model.prior.log_prob(z, batch.y) + log_det
    gaps = []
    for m in range(3):
        rows = [density[m, b, : seen.length[b]] for b in range(20) if seen.observed[b, m]]
        wanted -= float(torch.cat(rows).mean()) / (8 * torch.log(torch.tensor(2.0)).item())
    for b in range(20):
        for one, two in ((0, 1), (0, 2), (1, 2)):
            if seen.observed[b, one] and seen.observed[b, two]:
                gaps.append(
                    (z[one, b, : seen.length[b]] - z[two, b, : seen.length[b]]).square().flatten()
                )
    assert float(parts["pairing"]) == pytest.approx(float(torch.cat(gaps).mean()))
    assert float(total.detach()) == pytest.approx(wanted + 0.5 * float(parts["pairing"]), rel=1e-6)
    assert float(parts["bits"]) == pytest.approx(wanted / 3)


def test_released_likelihood_stops_at_0_bits() -> None:
    batch = double(RECIPE.load("train"))[:32]
    for stop in (True, False):
        model = shaken(teaching(POOLED, stop_at_zero=stop), by=0.0)
        with torch.no_grad():
            model.deviation.fill_(
                50.0
            )  # a density this flat has many bits, one this sharp fewer than 0
            model.prior.log_sd.fill_(-4.0)
            model.prior.mean.zero_()
            model.mean.zero_()
        small = replace(batch, x={name: x * 1e-3 for name, x in batch.x.items()})
        with torch.no_grad():
            model.deviation.fill_(1.0)
        total, parts = model.loss(small, 1, torch.Generator())
        assert parts["bits"] < 0
        assert (float(total.detach()) == 0) == stop


def test_distance_by_hand() -> None:
    z = torch.tensor([1.0, 3.0, 6.0]).view(3, 1, 1, 1).expand(3, 2, 1, 4)
    here = torch.tensor([[True, True], [True, True], [False, True]])[..., None]
    assert float(distance(z, here)) == pytest.approx((4 + 4 + 9 + 25) / 4)


# Sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "refine", "join"),
    [("mosi", 3_524_817, 522_224, 2_080), ("mosei", 13_760_673, 2_080_736, 8_256)],
)
def test_13_parameter_counts_are_those_of_the_released_code(
    name: Any, total: int, refine: int, join: int
) -> None:
    config = preset(name, official=True)
    model = config.build(config.predictor.build())

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    dead = unused(config.predictor.channels)
    assert count(model) + sum(dead.values()) == total
    assert (count(model.refine), count(model.join)) == (3 * refine, 3 * join)
    flow = {32: 36_992, 64: 143_616}[config.predictor.channels]
    assert next(iter(dead.values())) == 3 * flow


@pytest.mark.parametrize("official", [True, False])
def test_the_papers_sizes_take_a_step(official: bool) -> None:
    config = preset("mosi", official)
    model = config.build(config.predictor.build())
    x = {name: torch.randn(2, 50, channels) for name, channels in config.predictor.modalities}
    x = {name: torch.where(torch.arange(50)[:, None] < 30, v, 0) for name, v in x.items()}
    batch = Batch(x, y=torch.tensor([-2.6, 1.4]))
    total, parts = model.loss(batch, 0, torch.Generator().manual_seed(0))
    total.backward()
    assert total.isfinite() and {"bits"} <= parts.keys()
    assert model.predict(batch).shape == (2, 1)
    assert model.classify(batch).shape == (2, 7)


def test_reconstruction_treats_each_modality_by_itself() -> None:
    module = Reconstruction(3, 8, 2).double()
    x, length = torch.randn(3, 4, 6, 8, dtype=torch.float64), torch.tensor([6, 3, 1, 4])
    out, other = module(x, length), x.clone()
    other[1] += 1
    moved = (module(other, length) - out).abs().amax((1, 2, 3)) > 1e-9
    assert moved.tolist() == [False, True, False]


# Training -------------------------------------------------------------------------------------------


def test_the_first_step_sets_scales_and_actnorms_by_what_is_no_padding() -> None:
    model = teaching(POOLED).build(POOLED.build()).train()
    batch = RECIPE.load("train")
    batch = batch.with_observed(
        torch.tensor([[True, True, False], [True, True, True]]).repeat(200, 1)
    )
    model.loss(batch, 0, torch.Generator())
    seen = model.predictor.features(batch)
    rows = seen.x[2][(seen.valid & seen.observed[:, 2:3])]
    torch.testing.assert_close(model.mean[2, 0, 0], rows.mean(0))
    torch.testing.assert_close(model.deviation[2, 0, 0], rows.std(0, correction=0))
    z, _ = model.latents(seen)
    moved = z[2][seen.valid & seen.observed[:, 2:3]]  # what mixes keeps a mean of 0
    torch.testing.assert_close(moved.mean(0), torch.zeros(8), rtol=0, atol=0.02)
    assert model.flows.log_scale is not None
    assert (model.flows.log_scale[1:] != 0).all()


def test_a_first_batch_without_a_modality_is_refused() -> None:
    model = teaching(POOLED).build(POOLED.build()).train()
    batch = RECIPE.load("train")[:8]
    nothing = batch.with_observed(torch.tensor([True, True, False]).expand(8, 3).clone())
    with pytest.raises(ValueError, match="the first batch shows nothing of vision"):
        model.loss(nothing, 0, torch.Generator())


def test_a_later_stage_goes_on_with_flows_and_predictor() -> None:
    flows = shaken(teaching(POOLED)).float()
    whole = teaching(POOLED, stage="whole", blocks=1).build(flows)
    for name, tensor in flows.state_dict().items():
        assert torch.equal(whole.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="prior must be the parent's, class; got single"):
        teaching(POOLED, prior="single").build(flows)


def test_class_priors_recover_the_class_where_a_single_one_cannot() -> None:
    """The paper's claim in small, one seed: from audio alone. Margins are notebook 05's business."""
    recipe = Affect(n_train=1000, n_val=60, n_test=600)
    train, test = recipe.load("train"), recipe.load("test")
    predictor = replace(POOLED, hidden=32).build()
    fit(predictor, train, TrainConfig(10, 50, 3e-3, schedule="cosine"), progress=False)
    right = {}
    for prior in ("single", "class"):
        model = teaching(predictor.config, prior=prior).build(predictor)
        fit(model, train, TrainConfig(15, 50, 4e-3, schedule="cosine", clip=5.0), progress=False)
        visible = torch.tensor([False, True, False]).expand(len(test), 3)
        right[prior] = float((model.predict(test, visible).argmax(-1) == test.y).float().mean())
        right[f"{prior}, flow"] = float(
            (model.classify(test, visible).argmax(-1) == test.y).float().mean()
        )
    assert right["class"] > right["single"] + 0.1, right
    assert right["class, flow"] > 0.5 > 0.3 > right["single, flow"], right


# The methods beside it ------------------------------------------------------------------------------


def test_regression_fills_in_means_and_reads_nothing_hidden() -> None:
    net = Regressor(POOLED, 16).build(POOLED.build())
    train, test = RECIPE.load("train"), RECIPE.load("test")
    history = fit(net, train, TrainConfig(60, 50, 5e-3), val=RECIPE.load("val"), progress=False)
    assert history.val["total"][-1] < 0.9 < history.train["total"][0]
    hiding = test.with_observed(torch.tensor([True, False, False]).expand(len(test), 3).clone())
    x = {n: v if n == "language" else torch.full_like(v, torch.nan) for n, v in test.x.items()}
    torch.testing.assert_close(net.predict(Batch(x, observed=hiding.observed)), net.predict(hiding))
    seen = net.predictor.features(test)
    filled = net.recover(seen, seen.observed)
    assert torch.equal(filled, seen.x)
    guess = net.recover(seen, hiding.observed)[2]
    assert (
        guess.var() < 0.8 * seen.x[2].var()
    )  # a conditional mean varies less than what it is the mean of


def test_regression_of_two_sources_is_the_mean_of_both() -> None:
    net = Regressor(POOLED, 16).build(POOLED.build())
    seen = net.predictor.features(RECIPE.load("test"))
    one, two, both = (
        net.recover(seen, torch.tensor(mask).expand(100, 3))[2]
        for mask in ([True, False, False], [False, True, False], [True, True, False])
    )
    torch.testing.assert_close(both, (one + two) / 2)


def test_modality_dropout_hides_each_subset_equally_often() -> None:
    observed = torch.ones(14_000, 3, dtype=torch.bool)
    mask = hidden(observed, 0.5, torch.Generator().manual_seed(0))
    counts = (mask.long() @ torch.tensor([4, 2, 1])).bincount(minlength=8)
    assert counts[0] == 0 and (counts[1:] / 2000 - 1).abs().max() < 0.1
    assert torch.equal(hidden(observed, 0, torch.Generator()), observed)
    partly = observed.clone()
    partly[:, 0] = False
    assert not hidden(partly, 0.5, torch.Generator().manual_seed(0))[:, 0].any()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: replace(POOLED, kernel=13), "kernel must lie between 1 and steps"),
        (lambda: replace(POOLED, kernel=3), "width must be given"),
        (lambda: replace(POOLED, fusion="sum"), "fusion must be 'pooled' or 'mult', got 'sum'"),
        (lambda: replace(POOLED, hide=1.0), "hide must lie in"),
        (lambda: replace(POOLED, modalities=(("a", 8), ("a", 8))), "different names"),
        (
            lambda: DicmorConfig(POOLED, released(32)),
            "flow must have the predictor's 3 modalities of 8",
        ),
        (lambda: teaching(POOLED, merge="sum"), "merge must be one of"),
        (lambda: teaching(POOLED, pairing=-1.0), "pairing must be at least 0"),
        (lambda: teaching(POOLED, hide=0.0), "hide must lie strictly between 0 and 1"),
        (lambda: teaching(replace(POOLED, classes=None)), "levels must be given"),
        (lambda: preset("iemocap"), "name must be 'mosi' or 'mosei'"),  # type: ignore[arg-type]
        (lambda: DiCMoR(teaching(POOLED), PredictorNet(MULT)), "predictor must be"),
    ],
)
def test_wrong_settings_are_named(build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


def test_labels_of_the_wrong_kind_are_named() -> None:
    batch = RECIPE.load("train")[:8]
    with pytest.raises(ValueError, match="y must be numbers"):
        replace(POOLED, classes=None).build().loss(batch, 0, torch.Generator())
    with pytest.raises(ValueError, match="y is None"):
        POOLED.build().loss(replace(batch, y=None), 0, torch.Generator())


# On a GPU -------------------------------------------------------------------------------------------

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[
        pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_on_a_device_losses_and_answers_are_those_of_the_cpu(
    config: DicmorConfig, device: str
) -> None:
    model, batch = shaken(config).float(), RECIPE.load("test")
    mask = torch.tensor([True, False, True]).expand(len(batch), 3)
    net = Regressor(config.predictor, 16).build(model.predictor)

    def on(place: str) -> list[Tensor]:
        there, here = copy.deepcopy(model).to(place), batch.to(place)
        visible = mask.to(place)
        with torch.no_grad():
            found = [there.predict(here, visible), there.classify(here, visible)]
            found.append(copy.deepcopy(net).to(place).predict(here, visible))
            if config.stage == "flows":  # "whole" draws masks on the device: other numbers
                found.append(there.loss(here, 1, torch.Generator(place))[0])
        assert all(each.device.type == place for each in found)
        return [each.cpu() for each in found]

    torch.testing.assert_close(on(device), on("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_all_stages_train_on_a_device(device: str) -> None:
    train = RECIPE.load("train", device=device)
    predictor = MULT.build().to(device)
    quick = TrainConfig(1, 100, 1e-3)
    fit(predictor, train, quick, progress=False)
    flows = teaching(MULT, pairing=0.1).build(predictor).to(device)
    fit(flows, train, quick, progress=False)
    whole = teaching(MULT, blocks=1, stage="whole").build(flows).to(device)
    assert whole.started
    history = fit(whole, train, quick, progress=False)
    assert {"bits", "reconstruction", "accuracy", "total"} == history.train.keys()
    assert whole.predict(train).device.type == device
