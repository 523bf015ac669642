"""Predictor, losses and regression by hand: what a slip in the wiring would change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.batch import Batch
from labkit.data.affect import Affect
from labkit.models.dicmor import preset, teaching
from labkit.models.predictor import Predictor, hidden, task
from labkit.models.rcan import Reconstruction
from labkit.models.recovery import Regressor

NAMES = ("language", "audio", "vision")
RECIPE = Affect(shortest=5, n_train=60, n_val=60, n_test=40)
POOLED = Predictor(tuple((name, 8) for name in NAMES), 12, hidden=16)
MULT = replace(POOLED, width=8, kernel=3, fusion="mult", layers=1, heads=2)
PARTLY = torch.tensor([[True, True, False], [True, True, True], [False, True, True]]).repeat(20, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(module: Any, by: float = 0.2) -> Any:
    """The module, each of its weights moved."""
    with torch.no_grad():
        for weight in module.parameters():
            weight += by * torch.randn_like(weight)
    return module


def double(batch: Batch) -> Batch:
    return replace(batch, x={name: x.double() for name, x in batch.x.items()})


@pytest.mark.parametrize("detach", [True, False])
def test_the_whole_loss_by_hand(detach: bool) -> None:
    cfg = teaching(MULT, blocks=1, stage="whole", weight=0.3, pairing=0.5, detach=detach, hide=0.8)
    m = shaken(cfg.build(MULT.build()), 0.1).double().eval()
    batch = double(RECIPE.load("train")).with_observed(PARTLY)
    total, parts = m.loss(batch, 1, torch.Generator().manual_seed(4))
    seen = m.predictor.features(batch)
    visible = hidden(seen.observed, 0.8, torch.Generator().manual_seed(4))
    filled = m.recover(seen, visible)
    said = task(m.predictor.answer(filled, seen.length), batch)[0]
    off = [
        (filled[k, b, : seen.length[b]] - seen.x[k, b, : seen.length[b]]).square().flatten()
        for b in range(60)
        for k in range(3)
        if seen.observed[b, k] and not visible[b, k]
    ]
    assert float(parts["reconstruction"]) == pytest.approx(float(torch.cat(off).mean().detach()))
    wanted = said + 0.3 * (3 * parts["bits"] + 0.5 * parts["pairing"] + parts["reconstruction"])
    torch.testing.assert_close(total, wanted)


def test_predictors_visible_hides() -> None:
    for config in (POOLED, MULT):
        net, batch = config.build(), RECIPE.load("test")
        mask = torch.tensor([True, False, True]).expand(40, 3).clone()
        torch.testing.assert_close(net.predict(batch, mask), net.predict(batch.with_observed(mask)))
        assert not torch.allclose(net.predict(batch, mask), net.predict(batch))
        # asking for what is not observed gets nothing more
        torch.testing.assert_close(
            net.predict(batch.with_observed(mask), torch.ones_like(mask)), net.predict(batch, mask)
        )
    m = teaching(POOLED).build(POOLED.build())
    shaken(m)
    torch.testing.assert_close(
        m.predict(batch.with_observed(mask), torch.ones_like(mask)), m.predict(batch, mask)
    )


def test_hide_is_the_probability_of_hiding_and_training_uses_it() -> None:
    mask = hidden(torch.ones(20000, 3, dtype=torch.bool), 0.1, torch.Generator().manual_seed(0))
    assert float((~mask).float().mean()) == pytest.approx(0.1, abs=0.01)
    net, batch = replace(POOLED, hide=0.8).build(), RECIPE.load("train")
    g = torch.Generator().manual_seed(1)
    seen = net.features(batch)
    visible = hidden(seen.observed, 0.8, torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        net.loss(batch, 1, g)[0], task(net.predict(batch, visible), batch)[0]
    )


def test_a_predictor_on_anothers_projections() -> None:
    parent = MULT.build()
    net = MULT.build(parent)
    for a, b in zip(parent.projections.parameters(), net.projections.parameters(), strict=True):
        assert torch.equal(a, b) and not b.requires_grad
    assert net.fusion.cross.w_q.requires_grad


def test_error_of_a_number_is_row_by_row() -> None:
    net = replace(POOLED, classes=None).build()
    b = RECIPE.load("train")
    b = replace(b, y=b.factors["sentiment"])
    wanted = (net.predict(b)[:, 0] - b.y).abs().mean()
    torch.testing.assert_close(net.loss(b, 0, torch.Generator())[0], wanted)


def test_pooled_does_not_see_padding() -> None:
    net = shaken(POOLED.build())
    b = RECIPE.load("test")
    short = b[(b.factors["length"] == 7).nonzero()[:, 0]]
    cut = replace(POOLED, steps=7).build()
    cut.load_state_dict(net.state_dict())
    torch.testing.assert_close(
        net.predict(short), cut.predict(replace(short, x={n: v[:, :7] for n, v in short.x.items()}))
    )


def test_starts_once_and_only_in_training() -> None:
    m, b = teaching(POOLED).build(POOLED.build()), RECIPE.load("train")
    before = {n: v.clone() for n, v in m.state_dict().items()}
    m.eval().loss(b, 0, torch.Generator())
    m.train().loss(b, 1, torch.Generator())
    assert all(torch.equal(v, before[n]) for n, v in m.state_dict().items())


def test_a_constant_feature_is_no_division_by_0() -> None:
    b = RECIPE.load("train")
    b = replace(b, x={n: v * 0 + torch.where(v != 0, 1.0, 0.0) for n, v in b.x.items()})
    assert (
        teaching(POOLED).build(POOLED.build()).train().loss(b, 0, torch.Generator())[0].isfinite()
    )


def test_classify_sums_rows_that_are_no_padding() -> None:
    m = shaken(teaching(POOLED).build(POOLED.build())).double()
    b = double(RECIPE.load("test"))
    mask = torch.tensor([True, False, True]).expand(40, 3)
    seen = m.predictor.features(b)
    z, _ = m.latents(seen)
    each = m.prior.logits(z)
    wanted = torch.stack(
        [sum(each[k, i, : seen.length[i]].sum(0) for k in (0, 2)) for i in range(40)]
    )
    torch.testing.assert_close(m.classify(b, mask), wanted)


def test_half_precision_never_reaches_flows() -> None:
    b = RECIPE.load("train")
    m = shaken(teaching(POOLED, stage="flows").build(POOLED.build()))
    a = m.loss(b, 1, torch.Generator())[0]
    with torch.autocast("cpu", torch.bfloat16):
        c = m.loss(b, 1, torch.Generator())[0]
    assert torch.equal(a, c)


def test_sizes_of_the_presets() -> None:
    p = preset("mosi", official=True)
    assert (
        p.predictor.modalities == (("language", 768), ("audio", 5), ("vision", 20))
        and p.predictor.output_dropout == 0.5
    )
    assert (
        preset("mosei").predictor.modalities == (("language", 768), ("audio", 74), ("vision", 35))
        and preset("mosei").predictor.output_dropout == 0.2
    )


def test_reconstruction_is_the_released_block_modality_by_modality() -> None:
    net = shaken(Reconstruction(2, 16, 2).double())
    x = torch.randn(2, 3, 5, 16).double()
    length = torch.tensor([5, 2, 4])
    out = net(x, length)

    def conv(layer: nn.Conv1d, v: Tensor, m: int, pad: int = 0) -> Tensor:
        assert layer.bias is not None
        w, b = layer.weight.chunk(2)[m], layer.bias.chunk(2)[m]
        return F.conv1d(v, w, b, padding=pad)

    for m in range(2):
        for i, n in enumerate(length.tolist()):
            v = group = conv(net.widen, x[m, i, :n].T[None], m)
            for k in net.blocks:
                y = conv(k.second, conv(k.first, v, m, 1).relu(), m, 1)
                v = (
                    v
                    + y
                    * conv(
                        k.excite, conv(k.squeeze, y.mean(-1, keepdim=True), m).relu(), m
                    ).sigmoid()
                )
            v = conv(net.narrow, group + conv(net.last, v, m, 1), m)
            torch.testing.assert_close(out[m, i, :n], v[0].T)


def test_regression_goes_from_source_to_target_and_scores_what_is_observed() -> None:
    parent = POOLED.build()
    net = shaken(Regressor(POOLED, 16).build(parent)).double()
    assert not any(p.requires_grad for p in net.predictor.parameters())
    batch = double(RECIPE.load("train")).with_observed(PARTLY)
    seen = net.predictor.features(batch)
    a = net.guesses(seen.x)
    other = seen.x.clone()
    other[1] += 1
    moved = (net.guesses(other) - a).abs().amax((2, 3, 4)) > 1e-9
    assert moved.tolist() == [[False, True, False]] * 3
    net.train()
    total = net.loss(batch, 0, torch.Generator())[0]
    assert (net.deviation - 1).abs().max() > 0.01
    a, off = net.guesses(seen.x), []
    for t in range(3):
        for s in range(3):
            for b in range(60):
                if t != s and seen.observed[b, t] and seen.observed[b, s]:
                    off.append(
                        (((a[t, s, b] - seen.x[t, b]) / net.deviation[t, 0])[: seen.length[b]])
                        .square()
                        .flatten()
                    )
    torch.testing.assert_close(total, torch.cat(off).mean())


def test_a_later_stage_does_not_start_again_and_a_first_one_does() -> None:
    batch, generator = RECIPE.load("train"), torch.Generator()
    first = teaching(POOLED).build(POOLED.build()).train()
    first.loss(batch, 0, generator)
    second = teaching(POOLED).build(first).train()
    second.loss(replace(batch, x={name: 3 * x for name, x in batch.x.items()}), 0, generator)
    torch.testing.assert_close(second.state_dict(), first.state_dict())
    whole = teaching(POOLED, stage="whole").build(POOLED.build()).train()
    whole.loss(batch, 0, generator)
    torch.testing.assert_close(whole.deviation, first.deviation)
    released = preset("mosi", official=True)
    assert released.stage == "whole"
    assert not released.flow.normalise


def test_a_model_leaves_its_parent_alone() -> None:
    parent = POOLED.build()
    flows = teaching(POOLED).build(parent)
    assert all(weight.requires_grad for weight in parent.parameters())
    whole = teaching(POOLED, stage="whole").build(flows)
    shaken(whole)
    for name, weight in flows.predictor.state_dict().items():
        assert torch.equal(weight, parent.state_dict()[name])
    Regressor(POOLED).build(parent)
    assert all(weight.requires_grad for weight in parent.parameters())


def test_a_row_without_anything_is_refused() -> None:
    batch = RECIPE.load("test").with_observed(PARTLY[:40])  # 13 rows lack language
    only = torch.tensor([True, False, False]).expand(40, 3)
    models = (
        POOLED.build(),
        teaching(POOLED).build(POOLED.build()),
        Regressor(POOLED).build(POOLED.build()),
    )
    for model in models:
        with pytest.raises(
            ValueError, match="visible leaves 13 rows without any observed modality"
        ):
            model.predict(batch, only)


@pytest.mark.parametrize("change", [{"classes": 1}, {"width": 0}])
def test_sizes_too_small_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be None or at least"):
        replace(POOLED, **change)
