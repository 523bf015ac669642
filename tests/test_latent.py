"""The study of the latent space: geometry in closed form, questions with known answers, verdicts by rule."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from labkit import disentangle, ledger
from labkit.data.digits import Digits
from labkit.latent import claims, measure, plan, pushes, reading, space, walks
from labkit.missing import plan as missing
from labkit.missing.plan import train
from labkit.missing.reading import claims_table
from labkit.models.mvae import Posterior
from labkit.train import TrainConfig


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior(rows: int = 400, latent: int = 5, seed: int = 0) -> Posterior:
    """Posteriors whose means are correlated and whose widths differ, float64."""
    g = generator(seed)
    mix = torch.randn(latent, latent, generator=generator(9), dtype=torch.float64)
    mean = torch.randn(rows, latent, generator=g, dtype=torch.float64) @ mix + 0.5
    return Posterior(mean, torch.randn(rows, latent, generator=g, dtype=torch.float64) - 1)


# Pushes and the cloud ----------------------------------------------------------------------------


def test_the_published_sweep_has_a_hundred_shifts_and_no_zero():
    shifts = space.published_shifts()
    assert len(shifts) == 100 and 0 not in shifts
    assert (shifts[0], shifts[49], shifts[50], shifts[-1]) == (-1500, -30, 30, 1500)
    assert torch.equal(shifts, -shifts.flip(0)) and bool((shifts.diff() > 0).all())
    torch.testing.assert_close(space.published_shifts(3, 0.3)[-2:].tolist(), [2.7, 3.0])
    for limit, step in ((100, 30), (100, 0), (10, 30), (-30, 30)):
        with pytest.raises(ValueError, match="step must be > 0 and divide limit"):
            space.published_shifts(limit, step)


def test_random_directions_have_norm_one_and_no_preference():
    directions = space.random_directions(20_000, 4, generator())
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(20_000, dtype=torch.float64))
    outer = directions.T @ directions / 20_000  # of uniform directions: identity / D
    torch.testing.assert_close(outer, torch.eye(4, dtype=torch.float64) / 4, atol=0.01, rtol=0)
    assert directions.mean(0).abs().max() < 0.015
    with pytest.raises(ValueError, match="got 0 and 4"):
        space.random_directions(0, 4, generator())


def test_random_rotations_keep_lengths_and_are_uniform():
    turns = torch.stack([space.random_rotation(3, generator(seed)) for seed in range(2000)])
    identity = torch.eye(3, dtype=torch.float64).expand(2000, 3, 3)
    torch.testing.assert_close(turns @ turns.mT, identity)
    # The first corner of a uniform one has mean 0; without the signs of R it is always negative.
    assert turns[:, 0, 0].mean().abs() < 0.05
    with pytest.raises(ValueError, match="latent must be at least 1"):
        space.random_rotation(0, generator())


def test_the_aggregate_posterior_has_the_variance_of_means_plus_the_mean_variance():
    two = Posterior(torch.tensor([[-2.0], [2.0]]), torch.full((2, 1), math.log(0.25)))
    assert space.aggregate(two).sd().item() == pytest.approx(math.sqrt(4.25))
    found = posterior()
    cloud = space.aggregate(found)
    by_hand = found.mean.var(0, correction=0) + found.logvar.exp().mean(0)
    torch.testing.assert_close(cloud.sd() ** 2, by_hand)
    many = Posterior(*(part.repeat(500, 1) for part in found)).sample(generator())  # (200000, 5)
    torch.testing.assert_close(cloud.covariance, many.T.cov(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(cloud.sd(torch.eye(5)), cloud.sd())
    u = space.random_directions(3, 5, generator())
    torch.testing.assert_close(cloud.sd(u), (many @ u.T).std(0), atol=0, rtol=0.01)
    with pytest.raises(ValueError, match=r"must be \(B, D\), B >= 2"):
        space.aggregate(Posterior(found.mean[:1], found.logvar[:1]))


def test_the_gauge_measures_mahalanobis_distance():
    found = posterior()
    gauge = space.gauge(found, generator())
    z = torch.randn(7, 5, dtype=torch.float64, generator=generator(3))
    rest = z - found.mean[::2].mean(0)
    by_hand = (rest @ gauge.cloud.covariance.inverse() * rest).sum(1).sqrt()
    torch.testing.assert_close(gauge.distance(z), by_hand)
    assert len(gauge.reference) == 200 and bool((gauge.reference.diff() >= 0).all())
    assert gauge.percentile(found.mean.mean(0)) == 0
    far = torch.full((5,), 1e6, dtype=torch.float64)
    assert gauge.percentile(far) == 1 and bool(gauge.beyond(far))
    with pytest.raises(ValueError, match="B >= 4"):
        space.gauge(Posterior(found.mean[:3], found.logvar[:3]), generator())


def test_percentiles_of_new_held_out_latents_are_uniform():
    from scipy.stats import kstest

    gauge = space.gauge(posterior(4000), generator())
    new = posterior(2000, seed=1).sample(generator(5))
    found = gauge.percentile(new)
    # Kolmogorov-Smirnov at 1 % for two samples of 2000 is 0.0515.
    assert kstest(found.numpy(), "uniform").statistic < 0.0515
    # Means lie nearer than draws: ranked as if they were draws they would look too central.
    assert gauge.percentile(posterior(2000, seed=1).mean).mean() < 0.48


def test_the_way_out_ends_where_the_farthest_held_out_latent_lies():
    found = posterior()
    gauge = space.gauge(found, generator())
    z, directions = found.mean[:6], space.random_directions(4, 5, generator(2))
    ways = gauge.way_out(z, directions)  # (6, 4)
    inside = gauge.distance(z) < gauge.reference[-1]
    ends = z[:, None] + ways[..., None] * directions
    edge = gauge.reference[-1].expand(int(inside.sum()), 4)
    torch.testing.assert_close(gauge.distance(ends)[inside], edge)
    assert not gauge.beyond(z[:, None] + 0.999 * ways[..., None] * directions)[inside].any()
    assert gauge.beyond(z[:, None] + 1.001 * ways[..., None] * directions)[inside].all()
    assert bool((gauge.way_out(z + 1e6, directions) == 0).all())


# Paths -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", walks.WAYS.values(), ids=walks.WAYS)
def test_paths_begin_and_end_where_they_should(way):
    start, end = torch.randn(2, 8, 32, dtype=torch.float64, generator=generator())
    evenly = torch.linspace(0, 1, 11)
    path = way(start, end, evenly)
    assert path.shape == (11, 8, 32)
    torch.testing.assert_close(path[0], start)
    torch.testing.assert_close(path[-1], end)
    torch.testing.assert_close(way(end, start, evenly), path.flip(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(way(start, end, torch.tensor([0.3]))[0], path[3], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"way \(T,\)"):
        way(start, end, evenly[None])
    with pytest.raises(ValueError, match=r"both be \(P, D\)"):
        way(start, end[:, :3], evenly)


def test_an_arc_keeps_the_norm_and_a_line_does_not():
    start, end = torch.nn.functional.normalize(
        torch.randn(2, 8, 32, dtype=torch.float64, generator=generator()), dim=-1
    )
    arc, line = (
        3 * way(start, end, torch.linspace(0, 1, 9)) for way in (space.spherical, space.straight)
    )
    torch.testing.assert_close(arc.norm(dim=-1), torch.full((9, 8), 3.0, dtype=torch.float64))
    cosine = (start * end).sum(-1)
    torch.testing.assert_close(line[4].norm(dim=-1), 3 * ((1 + cosine) / 2).sqrt())
    # Even steps of angle, in the plane of both ends.
    steps = (arc[:-1] * arc[1:]).sum(-1) / 9
    torch.testing.assert_close(steps, (cosine.acos() / 8).cos().expand(8, 8))


def test_ends_on_one_line_are_joined_by_it():
    start = torch.tensor([[1.0, 2.0]])
    for end in (2 * start, -start):
        found, line = (
            way(start, end, torch.linspace(0, 1, 5)) for way in (space.spherical, space.straight)
        )
        torch.testing.assert_close(found, line, atol=1e-3, rtol=0)


# The plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["smoke", "quick", "full", "paper"])
@pytest.mark.parametrize("source", ["procedural", "real"])
def test_the_runs_of_notebook_1_are_found_again(preset, source):
    study, first = plan.sizes(preset, source), missing.sizes(preset, source)
    assert study.settings("poster", 2) == first.settings("poster", 2)
    config, *rest = study.settings("map", 2)
    assert tuple(rest) == first.settings("poster", 2)[1:]
    poster = study.config("poster")
    assert config.latent == 2 and config.modalities == missing.sizes("quick").model.modalities
    assert (config.kl_weight, config.kl_steps) == (poster.kl_weight, poster.kl_steps)
    assert "pushed" in study.state() and "importance_rows" not in study.state()
    with pytest.raises(ValueError, match="unknown kind 'own'"):
        study.config("own")


# The questions -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small study, really trained, in a store of its own: plan, runs, judges."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("LABKIT_PROGRESS", "0")
        patch.setattr(os, "cpu_count", lambda: 1)  # here, not in processes that first load torch
        small = replace(
            plan.sizes("smoke"), data=Digits(n_train=400, n_val=50, n_test=120),
            fit=TrainConfig(2, 50, 5e-3, clip=100.0), pushed=20, known=200, rotations=1,
        )  # fmt: skip
        runs = train(small, [0])
        yield small, runs, measure.script_judges(small, 0)


def asked(tiny, question, *, judged=False, **settings):
    small, runs, judges = tiny
    return question(
        runs["poster", 0],
        *(judges if judged else []),
        data=small.recipe("poster", 0),
        **settings,
    )


def test_the_most_informative_latent_has_the_largest_mean_kl(tiny):
    found = asked(tiny, pushes.latents_of)
    assert found["index"] == int(np.argmax(found["kl"])) and len(found["sd"]) == 32


def test_the_poster_s_latent_is_taken_where_there_are_as_many(tiny):
    small, runs, _ = tiny
    wide = replace(
        runs["poster", 0], model=replace(runs["poster", 0].model.config, latent=202).build()
    )
    assert pushes.latents_of(wide, small.recipe("poster", 0))["index"] == 201


def test_no_push_no_flip_and_a_huge_push_flips_at_chance(tiny):
    found = asked(tiny, pushes.flips_of, rows=20, amplitudes=(0.0, 1500.0))
    for unit in ("prior", "aggregate"):
        for name in ("latents", "random"):
            none, huge = torch.tensor(found[unit][name]).T
            assert none.shape == (32,) and bool((none == 0).all())
            assert 0.6 < huge.mean() <= 1


def test_flips_are_counted_both_ways(tiny):
    small, runs, _ = tiny
    model, _, found = pushes.encoded(runs["poster", 0], small.recipe("poster", 0))
    z = found.mean[:20]
    before = model.decode_label(z).argmax(-1)
    by_hand = []
    for sign in (6.0, -6.0):
        pushed = z.clone()
        pushed[:, 5] += sign
        by_hand.append((model.decode_label(pushed).argmax(-1) != before).double().mean())
    flips = asked(tiny, pushes.flips_of, rows=20, amplitudes=(6.0,))
    assert flips["prior"]["latents"][5] == [pytest.approx(float(sum(by_hand) / 2))]


def test_both_units_measure_the_same_push(tiny):
    sd = asked(tiny, pushes.latents_of)["sd"]
    index = int(np.argmax(sd))
    ours = asked(tiny, pushes.flips_of, rows=20, amplitudes=(4.0,))["aggregate"]["latents"][index]
    same = asked(tiny, pushes.flips_of, rows=20, amplitudes=(4.0 * sd[index],))["prior"]["latents"]
    assert ours == same[index]


def test_pictures_do_not_change_without_a_push(tiny):
    found = asked(tiny, pushes.looks_of, judged=True, rows=20, amplitudes=(0.0, 1500.0))
    for name in ("latents", "random"):
        each = found[name]
        assert each["changed"][0] == each["moved"][0] == 0 and math.isnan(each["same"][0])
        assert each["changed"][1] > 0.5 and each["moved"][1] > 0.3
        assert each["saturated"][0] < 0.05 < 0.5 < each["saturated"][1]
        assert 0 <= each["same"][1] <= 1 and 0 <= each["chance"][1] <= 1


def test_agreement_counts_among_changed_readings_only():
    """One direction, one amplitude; before the push every picture is read 0 in both scripts."""
    read = torch.tensor([[[0, 1, 1, 2], [0, 1, 2, 0]]])  # (direction, judge, sample)
    found = pushes._agreement(read[:, :, None, None], torch.zeros(2, 4, dtype=torch.long))
    assert found["changed"] == [0.75]
    assert found["same"] == [pytest.approx(1 / 3)]
    # Of the three changed: script 1 says 1, 1, 2, script 2 says 1, 2, 0.
    assert found["chance"] == [pytest.approx(2 / 3 * 1 / 3 + 1 / 3 * 1 / 3)]


def test_pushes_lead_out_of_the_cloud(tiny):
    found = asked(tiny, pushes.reach_of, rows=20, amplitudes=(0.0, 1.0, 10.0, 1500.0))
    assert found["held_out"] == 60
    for name in ("latents", "random"):
        each = found[name]
        assert each["beyond"][0] < 0.2 and each["beyond"][-1] == 1
        assert each["beyond"] == sorted(each["beyond"])
        assert len(each["way_out"]) == 32 and max(each["way_out"]) <= each["farthest"] < 1500


def test_a_straight_path_never_lies_farther_out_than_both_of_its_ends(tiny):
    found = asked(tiny, walks.paths_of, judged=True, pairs=40, steps=21)
    line, arc = found["straight"], found["spherical"]
    for at in (0, -1):
        assert line["percentile"][at] == pytest.approx(arc["percentile"][at])
        assert line["norm"][at] == pytest.approx(arc["norm"][at], rel=1e-5)
    # Balls are convex: only points between ends of which one is beyond can be beyond.
    assert line["beyond"] == 0 or line["percentile"][0] == 1
    assert line["norm"][10] < arc["norm"][10]
    for each in (line, arc):
        total = np.sum([each[name] for name in ("start", "end", "others")], 0)
        assert total.tolist() == pytest.approx([1.0] * 21)
        assert each["start"][0] > each["start"][-1]


def test_no_temperature_no_spread(tiny):
    found = asked(tiny, walks.temperature_of, judged=True, rows=60)
    small, runs, _ = tiny
    model, batch, everything = pushes.encoded(runs["poster", 0], small.recipe("poster", 0))
    for given in pushes.IMAGES:
        logvar = model.encode(batch[:60].only(given)).logvar.detach()
        width = ((0.5 * logvar).exp() / space.aggregate(everything).sd()).mean()
        assert found[given]["width"] == pytest.approx(float(width))
        for script in pushes.IMAGES:
            spread = found[given][script]["spread"]
            assert spread[0] < 1e-10 and spread == sorted(spread)


def test_temperature_one_draws_from_the_posterior(tiny):
    small, runs, judges = tiny
    run = runs["poster", 0]
    found = asked(tiny, walks.temperature_of, judged=True, rows=60, draws=4)
    batch = small.recipe("poster", 0).load("test")[:60]
    posterior = run.model.encode(batch.only("farsi"))
    many = Posterior(*(part.detach().expand(4, -1, -1) for part in posterior))
    drawn = run.model.means(many.sample(generator(run.meta["seed"])))["kannada"].detach()
    read = judges[1].model(drawn).argmax(-1)
    one = walks.TEMPERATURES.index(1.0)
    share = (read == batch.y).double().mean()
    assert found["farsi"]["kannada"]["coherence"][one] == pytest.approx(float(share))
    real = batch.x["kannada"].double().flatten(1)
    within = torch.stack([real[batch.y == c].var(0).sum() for c in batch.y.unique()]).mean()
    spread = drawn.double().flatten(2).var(0).sum(-1).mean() / within
    assert found["farsi"]["kannada"]["spread"][one] == pytest.approx(float(spread), rel=1e-4)


@pytest.mark.slow  # three examinations, each 230 trees and forests
def test_factors_are_known_on_procedural_data_only(tiny):
    found = asked(tiny, measure.factors_of, rows=200, rotations=1)
    assert found["factors"][0] == "digit" and "slant_farsi" in found["factors"]
    count = len(found["factors"])
    assert np.shape(found["share"]) == (32, count)
    assert len(found["explained"]) == count and len(found["rotated"]) == 1
    assert found["rotated"][0] != found["trained"] != found["untrained"]
    precision, knowledge = (torch.tensor(found[name]) for name in ("precision", "knowledge"))
    assert precision.shape == knowledge.shape == (32, 3)
    torch.testing.assert_close(precision.sum(1), torch.ones(32))
    knowing = knowledge.sum(1)
    assert bool((knowing.isclose(torch.ones(32)) | (knowing == 0)).all()) and knowing.sum() > 5
    assert [measure.modality_of(f) for f in ("digit", "slop_kannada", "rate")] == [
        None, "kannada", "speech",
    ]  # fmt: skip
    assert found["explained"][0] > 0.3  # the digit
    batch = Digits(n_test=20).load("test")
    assert list(measure._known(batch, Digits(source="real"))) == ["digit"]


def test_knowledge_counts_what_is_explained_of_a_modality():
    """Two latents, one for slant and one for rate; of the Kannada digit nothing is known."""
    importance = torch.tensor([[0.5, 1.0, 0.0, 0.0], [0.5, 0.0, 1.0, 0.7]], dtype=torch.float64)
    explained = torch.tensor([0.9, 0.8, 0.2, 0.04], dtype=torch.float64)
    found = disentangle.Examination(importance, explained, importance, explained, None)
    names = ["digit", "slant_farsi", "rate", "slant_kannada"]
    expected = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(measure._knowledge(found, names), expected)


def test_asking_every_seed_keeps_the_answers(tiny, monkeypatch):
    small, runs, _ = tiny
    first = [measure.latents(small, runs), measure.paths(small, runs, "cpu")]
    monkeypatch.setattr(measure, "latents_of", None)
    assert len(first[0]) == len(first[1]) == 1
    assert measure.paths(small, runs, "cpu") == first[1]


# Reading -----------------------------------------------------------------------------------------


def test_half_way_lies_between_the_pushes_tried():
    at = (1.0, 10.0, 100.0)
    assert reading.half_way([0.0, 0.25, 0.75], at) == pytest.approx(10**1.5)
    assert reading.half_way([0.6, 0.7, 0.8], at) == 1
    assert reading.half_way([0.0, 0.5, 0.4], at) == pytest.approx(10)
    assert reading.half_way([0.0, 0.1, 0.49], at) == math.inf
    with pytest.raises(ValueError, match="2 rates, but 3 amplitudes"):
        reading.half_way([0.1, 0.2], at)


def test_a_sweep_without_a_shift_is_the_reconstruction(tiny):
    small, runs, judges = tiny
    run, batch = runs["poster", 0], small.recipe("poster", 0).load("test")
    z = reading.latent_of(run, batch, digit=7)
    rows = (batch.y == 7).nonzero()[:1, 0]
    torch.testing.assert_close(z, run.model.encode(batch).mean[rows[0]].detach(), atol=1e-5, rtol=0)
    found = reading.sweep(run, judges, z, 3, torch.tensor([0.0, 50.0]))
    plain = run.model.decode(z[None], ["farsi"])["farsi"].detach().numpy()
    np.testing.assert_allclose(found["logits"]["farsi"][:1], plain, atol=1e-5)
    z[3] += 50
    shifted = run.model.decode(z[None], ["farsi"])["farsi"].detach().numpy()
    np.testing.assert_allclose(found["logits"]["farsi"][1:], shifted, atol=1e-4)
    assert len(found["read"]["kannada"]) == 2
    with pytest.raises(ValueError, match="no sample of digit 11"):
        reading.latent_of(run, batch, digit=11)


def test_the_map_shows_the_plane_the_right_way_up(tiny):
    small, runs, _ = tiny
    batch = small.recipe("map", 0).load("test")
    found = reading.plane(runs["map", 0], batch, side=3, reach=2.0)
    corner = torch.tensor([[-2.0, 2.0]])  # top left: latent 0 low, latent 1 high
    pixels = runs["map", 0].model.means(corner)["farsi"].detach().numpy()
    np.testing.assert_allclose(found["pictures"]["farsi"][:1], pixels, atol=1e-6)
    assert found["means"].shape == (120, 2)
    with pytest.raises(ValueError, match="this one has 32"):
        reading.plane(runs["poster", 0], batch)


# Claims ------------------------------------------------------------------------------------------

LATENT = 20
RISING = [0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.05, 0.3, 0.6, 0.7, 0.8, 0.9, 0.9, 0.9]
EARLY = [0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
NEVER = [0.0] * 14


def answers() -> dict[str, list]:
    """What the measurements find where Figure 3 shows extrapolation only."""
    table = [RISING] * LATENT
    look = {"same": [0.1] * 14, "chance": [0.1] * 14, "changed": RISING, "moved": RISING,
            "saturated": [0.0] * 13 + [0.9]}  # fmt: skip
    out = {"beyond": RISING, "way_out": [6.0] * LATENT, "farthest": 14.0}
    names = ("mig", "sap", "disentanglement", "completeness", "modality", "informativeness")
    score = dict.fromkeys(names, 0.05)
    owner = [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]] * (LATENT // 2)
    path = {"beyond": 0.0, "nearer": 0.1, "third": 0.2, "apart": 0.2, "apart_shuffled": 0.2}
    low = {"spread": [0.01] * 9, "coherence": [0.9] * 9}
    warm = {m: {"label": [0.9] * 9, "farsi": low, "kannada": low} for m in pushes.IMAGES}
    each = {
        "latents": {"index": 3, "kl": [1.0] * LATENT, "sd": [1.0] * LATENT},
        "flips": {u: {"latents": table, "random": table} for u in ("prior", "aggregate")},
        "looks": {"latents": look, "random": look, "unmoved": 0.9},
        "reach": {"latents": out, "random": out, "held_out": 100},
        "factors": {
            "trained": score,
            "rotated": [score] * 2,
            "untrained": score,
            "knowledge": owner,
            "precision": owner,
        },
        "ways": {"straight": path, "spherical": {**path, "nearer": 0.0}},
        "temperatures": warm,
    }
    return {name: [found, found] for name, found in each.items()}


def verdicts(found: dict[str, list]) -> dict[str, object]:
    names = ("latents", "flips", "looks", "reach", "factors")
    made = [*claims.figure3(*(found[n] for n in names)), *claims.paths(found["ways"]),
            claims.noise(found["temperatures"])]  # fmt: skip
    return {claim["id"]: claim.get("verdict", claim.get("holds")) for claim in made}


def test_a_figure_of_extrapolation_is_found_out():
    assert verdicts(answers()) == {
        "mvae.figure3.one_latent": "corrected",
        "mvae.figure3.large_shifts": True,
        "mvae.figure3.extrapolation": True,
        "mvae.figure3.both_scripts": False,
        "mvae.figure3.one_factor": "not supported",
        "labkit.latents_by_modality": False,
        "labkit.interpolation.range": True,
        "labkit.interpolation.digits": False,
        "labkit.temperature": False,
    }


def changed(name: str, *path: object, value: object) -> dict[str, object]:
    """Verdicts after one entry of every seed's answer is replaced."""

    def put(found, path):
        head, *rest = path
        made = dict(found) if isinstance(found, dict) else list(found)
        made[head] = put(found[head], rest) if rest else value
        return made

    found = answers()
    return verdicts({**found, name: [put(each, path) for each in found[name]]})


@pytest.mark.parametrize(
    ("id", "path", "value", "verdict"),
    [
        ("one_latent", ("flips", "prior", "latents", 3), EARLY, "reproduced"),
        ("one_latent", ("flips", "prior", "latents", 4), EARLY, "corrected"),
        ("one_latent", ("flips", "prior", "latents", 3), NEVER, "not supported"),
        ("large_shifts", ("flips", "aggregate", "latents", 4), EARLY, False),
        ("large_shifts", ("flips", "aggregate", "latents"), [NEVER] * LATENT, False),
        ("large_shifts", ("flips", "aggregate", "latents"), [[0.2] * 14] * LATENT, False),
        ("extrapolation", ("reach", "latents", "farthest"), 31.0, False),
        ("extrapolation", ("flips", "prior", "random"), [NEVER] * 2 + [RISING] * 18, False),
        ("extrapolation", ("looks", "latents", "saturated"), [0.0] * 13 + [0.4], False),
        ("both_scripts", ("looks", "latents", "same"), [0.6] * 14, True),
        ("both_scripts", ("looks", "latents", "same"), [0.6] * 13 + [0.1], False),
    ],
)
def test_each_verdict_turns_when_its_figure_does(id, path, value, verdict):
    assert changed(*path, value=value)[f"mvae.figure3.{id}"] == verdict


def test_one_factor_needs_every_score_above_every_rotation():
    def found(**scores: float) -> object:
        usual = answers()["factors"][0]["trained"]
        return changed("factors", "trained", value={**usual, **scores})["mvae.figure3.one_factor"]

    assert found(mig=0.1, sap=0.1, disentanglement=0.1) == "corrected"
    assert found(mig=0.1, sap=0.1) == "not supported"
    assert found(mig=0.6, sap=0.6, disentanglement=0.6) == "reproduced"
    assert found(mig=0.6, sap=0.6, disentanglement=0.4) == "corrected"
    ahead = {**answers()["factors"][0]["trained"], "mig": 0.1, "sap": 0.1, "disentanglement": 0.1}
    turned = {**answers()["factors"][0], "trained": ahead}
    # One rotation that scores higher is enough.
    turned["rotated"] = [turned["untrained"], {**turned["untrained"], "sap": 0.2}]
    assert claims.one_factor([turned])["verdict"] == "not supported"
    real = [{"factors": ["digit"]}] * 2
    assert claims.one_factor(real)["verdict"] == "not testable here"


def test_latents_belong_to_the_modality_whose_factors_they_know():
    found = answers()["factors"][0]
    ahead = {**found, "trained": {**found["trained"], "modality": 0.06}}
    assert claims.one_modality([ahead])["holds"]
    crossed = {**ahead, "knowledge": [[0.1, 0.1, 0.8]] * LATENT}
    assert not claims.one_modality([crossed])["holds"]
    assert claims.one_modality([{"factors": ["digit"]}])["verdict"] == "not testable here"


def test_paths_and_noise_are_judged_by_their_rules():
    assert not changed("ways", "straight", "nearer", value=0.0)["labkit.interpolation.range"]
    assert not changed("ways", "spherical", "beyond", value=0.1)["labkit.interpolation.range"]
    assert changed("ways", "spherical", "third", value=0.1)["labkit.interpolation.digits"]
    once = changed("temperatures", "farsi", "kannada", "spread", value=[0.6] * 9)
    assert not once["labkit.temperature"]  # the other script is as poor as before
    found = answers()
    rich = {"spread": [0.6] * 9, "coherence": [0.9] * 9}
    both = {m: {"label": [0.9] * 9, "farsi": rich, "kannada": rich} for m in pushes.IMAGES}
    assert verdicts({**found, "temperatures": [both]})["labkit.temperature"]


def test_every_claim_and_metric_goes_into_the_ledger(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    ledger.session("02_latent_probing", preset="smoke")
    found = answers()
    names = ("latents", "flips", "looks", "reach", "factors")
    made = [*claims.figure3(*(found[n] for n in names)), *claims.paths(found["ways"]),
            claims.noise(found["temperatures"])]  # fmt: skip
    recorded = [ledger.claim(**claim) for claim in made]
    assert len({claim.id for claim in recorded}) == len(made) == 9
    assert all(claim.text in claims_table(recorded).to_html() for claim in recorded)
    metrics = reading.summary(
        *(found[n] for n in (*names, "ways", "temperatures")), {"poster": [0.9, 0.8]}
    )
    assert metrics["flips.latents.30"]["seeds"] == pytest.approx([0.7, 0.7])
    assert metrics["mig.rotated"]["value"] == pytest.approx(0.05)
    ledger.results(metrics)


def test_answers_of_all_seeds_are_joined():
    joined = reading.over_seeds([{"a": {"b": [1, 2]}, "c": 3}, {"a": {"b": [3, 4]}, "c": 5}])
    assert joined == {"a": {"b": [[1, 2], [3, 4]]}, "c": [3, 5]}
