"""MFH on networks: exact identities, masks, cached channels; and the study of notebook 04."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from labkit import bundle, figures, ledger
from labkit.batch import Batch
from labkit.data.av_digits import AVDigits
from labkit.data.digits import Digits
from labkit.data.faces import Faces
from labkit.data.gaussians import Gaussians, Venn, stack
from labkit.focusing import case_study, channels, claims_channels, students
from labkit.focusing.gaussian import Plan
from labkit.focusing.students import Setting
from labkit.models import mfh, mfh_networks
from labkit.models.mfh import Distillation
from labkit.models.mfh_networks import Branch, Channels, Classifier, Joint, cached, frozen
from labkit.train import TrainConfig


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_STORE", str(tmp_path / "store"))


# Networks ----------------------------------------------------------------------------------------


def pair(seed: int = 0, n: int = 40) -> tuple[mfh_networks.JointNet, Batch]:
    """An untrained pair on vectors, and samples."""
    torch.manual_seed(seed)
    config = Joint(
        ("a", Branch((6,), hidden=10, channels=12)), ("b", Branch((5,), hidden=10)), classes=4
    )
    batch = Batch({"a": torch.randn(n, 6), "b": torch.randn(n, 5)}, y=torch.arange(n) % 4)
    return config.build().requires_grad_(False), batch


def test_the_paper_s_networks_have_the_paper_s_sizes() -> None:
    """Section 1.2 of the specification: 128 maps on a grid of 7 x 14 give 12,544 features, then 1024, 128."""
    sound, picture = (mfh_networks.paper(name).build() for name in ("audio", "image"))  # type: ignore[arg-type]
    for net, first in ((sound, 32 * 1 * 49 + 32), (picture, 32 * 3 * 9 + 32)):
        convolutions = [m for m in net if isinstance(m, torch.nn.Conv2d)]
        assert [c.out_channels for c in convolutions] == [32, 64, 128]
        assert sum(p.numel() for p in convolutions[0].parameters()) == first
        dense = [m for m in net if isinstance(m, torch.nn.Linear)]
        assert [(d.in_features, d.out_features) for d in dense] == [(12544, 1024), (1024, 128)]
    x = torch.randn(1, 40, 256)
    maps = [layer for layer in sound if isinstance(layer, torch.nn.Conv2d | torch.nn.MaxPool2d)]
    shapes = []
    x = x[:, None]
    for layer in maps:
        x = layer(x)
        shapes.append(tuple(x.shape[-2:]))
    assert shapes == [(36, 252), (18, 126), (16, 124), (8, 62), (6, 60)]
    assert sound(torch.randn(2, 40, 256)).shape == (2, 128)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 8, 12), (3, 4, 8, 12)])
def test_a_body_takes_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(4, *shape)
    assert Branch(shape, channels=9).build()(x).shape == (4, 9)
    if len(shape) > 1:
        body = Branch(
            shape, (4, 4, 4), (3, 3, 3), pool=(2, 2), channels=9, center=1.0, scale=2.0
        ).build()
        assert body(x).shape == (4, 9)
        assert torch.equal(body[0](x), (x - 1) / 2)


def test_cached_channels_are_the_network() -> None:
    net, batch = pair()
    kept = cached(net, batch)
    torch.testing.assert_close(kept.logits(), net.a.predict(batch))
    torch.testing.assert_close(kept.gap, (net.a.predict(batch) - net.b.predict(batch)).T)
    nothing = torch.zeros(12, dtype=torch.bool)
    torch.testing.assert_close(kept.logits(nothing), kept.logits())
    everything = kept.logits(~nothing)  # the answer to the mean of all
    torch.testing.assert_close(everything, everything[:1].expand_as(everything))
    some = nothing.clone()
    some[3] = True
    z = kept.z.clone()
    z[:, 3] = z[:, 3].mean()
    torch.testing.assert_close(kept.logits(some), net.a.head(z))
    mean = torch.full((12,), 2.0)
    z[:, 3] = 2.0
    torch.testing.assert_close(kept.logits(some, mean), net.a.head(z))


def test_a_teacher_s_answer_does_not_depend_on_its_batch_mates() -> None:
    """The released code freezes to the mean of the batch; ours to one mean of the training samples."""
    net, batch = pair()
    kept, mean = cached(net, batch), cached(net, batch).z.mean(0)
    lost = frozen(kept.scores(), "random", 0.5, torch.Generator().manual_seed(0))
    half = cached(net, batch[:20])
    torch.testing.assert_close(half.logits(lost, mean), kept.logits(lost, mean)[:20])
    assert not torch.allclose(half.logits(lost), kept.logits(lost)[:20])


def test_scores_are_of_all_samples_and_those_of_the_permutations() -> None:
    """The released code keeps the last batch's; twice the samples must change nothing."""
    net, batch = pair(n=60)
    kept = cached(net, batch)
    twice = cached(net, Batch({k: v.repeat(2, 1) for k, v in batch.x.items()}, y=batch.y.repeat(2)))  # type: ignore[union-attr]
    torch.testing.assert_close(twice.scores(), kept.scores())
    drawn = mfh.permuted_scores(
        kept.weight, kept.z, kept.gap, 3000, torch.Generator().manual_seed(0)
    )
    assert torch.corrcoef(torch.stack([drawn, kept.scores()]))[0, 1] > 0.99


def test_heaviness_is_what_freezing_a_channel_changes() -> None:
    net, batch = pair()
    kept = cached(net, batch)
    for d in range(3):
        lost = torch.arange(12) == d
        change = (kept.logits(lost) - kept.logits()).square().mean()
        torch.testing.assert_close(change, kept.heaviness()[d])


def test_masks() -> None:
    """Counts, disjoint halves, rank and not index, and the identity; section 9 of the specification."""
    scores = torch.randperm(128, generator=torch.Generator().manual_seed(1)).float()

    def mask(mode: Any, ratio: float, given: torch.Tensor = scores) -> torch.Tensor:
        return frozen(given, mode, ratio, torch.Generator().manual_seed(0))

    for ratio in (0.0, 0.3, 0.5, 0.75, 1.0):
        for mode in ("random", "general", "specific"):
            assert int(mask(mode, ratio).sum()) == int(ratio * 128)
        assert not mask("all", ratio).any()
        both = mask("general", ratio) & mask("specific", ratio)
        assert bool(both.any()) == (ratio > 0.5)
    kept = ~mask("general", 0.75)
    assert scores[kept].min() > scores[~kept].max()
    order = torch.randperm(128, generator=torch.Generator().manual_seed(2))
    assert torch.equal(mask("general", 0.5, scores[order]), mask("general", 0.5)[order])
    by_index = mfh_networks.frozen_by_index(scores, 0.5)  # the released bug: always the same set
    assert torch.equal(by_index, torch.arange(128) < 64)
    assert torch.equal(mfh_networks.frozen_by_index(scores[order], 0.5), by_index)
    for wrong, message in (
        (("best", 0.5), "mode must be one of all, random, general, specific; got 'best'"),
        (("general", 1.2), r"ratio must lie in \[0, 1\], got 1.2"),
        (("general", -0.1), r"ratio must lie in \[0, 1\], got -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            mask(*wrong)


def test_losses_are_what_they_say() -> None:
    net, batch = pair()
    total, parts = net.loss(batch, 0, torch.Generator())
    a, b = net.a.predict(batch), net.b.predict(batch)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)
    assert parts["distance"].item() == pytest.approx((a - b).square().mean().item(), rel=1e-6)
    free, parts = replace(net.config, distance=0.0).build().loss(batch, 0, torch.Generator())
    torch.testing.assert_close(free, parts["ce_a"] + parts["ce_b"])
    loss = Distillation(labels=0.0, reduction="batchmean")
    student = mfh_networks.student_of(net.config, loss).build()
    own = mfh_networks.taught(batch, student.predict(batch).detach())
    assert student.loss(own, 0, torch.Generator())[0].item() == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="the batch has none"):
        net.loss(Batch(batch.x), 0, torch.Generator())


def test_several_modalities_lie_side_by_side() -> None:
    torch.manual_seed(0)
    both = Classifier(
        (("a", Branch((6,), channels=7)), ("b", Branch((5,), channels=3))), classes=4
    ).build()
    batch = pair()[1]
    assert both.channels(batch).shape == (40, 10)
    torch.testing.assert_close(both.channels(batch)[:, :7], both.bodies["a"](batch.x["a"]))


# Students ----------------------------------------------------------------------------------------


def tiny() -> Setting:
    fit = TrainConfig(4, 32, 2e-3)
    small = {"hidden": 16, "channels": 16, "center": 0.5, "scale": 0.25}
    joint = Joint(("audio", Branch((40, 64), **small)), ("face", Branch((3, 32, 64), **small)))  # type: ignore[arg-type]
    return Setting(Faces(n_train=128, n_val=32, n_test=64), joint, fit, fit)


def test_generality_knows_who_sees_a_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    shared, own = torch.randn(500, 2, generator=generator), torch.randn(500, 3, generator=generator)
    z = torch.stack([shared[:, 0], own[:, 1], shared[:, 1] + own[:, 0], torch.zeros(500)], 1)
    batch = Batch({"audio": z}, factors={"shared": shared, "audio_only": own})
    found = students.generality(z, batch)
    np.testing.assert_allclose(found, [1, 0, 0.5, 0], atol=0.06)
    with pytest.raises(ValueError, match="needs the factors shared and audio_only"):
        students.generality(z, Batch({"audio": z}))


@pytest.mark.slow
def test_students_differ_by_their_teachers_alone() -> None:
    """Same first weights, same order: two ways that freeze nothing give the same bits."""
    setting = tiny()
    whole = students.student(setting, "all", 0.75, 0)
    assert students.student(setting, "general", 0.0, 0) == whole
    assert students.student(setting, "random", 0.0, 0) == whole
    lost = students.student(setting, "specific", 0.75, 0)
    assert lost["teacher"] != whole["teacher"]
    blind = students.student(setting, "general", 1.0, 0)  # the teacher says the same of everything
    assert blind["teacher"] < 30
    alone = students.student(setting, "alone", 0.0, 0)
    assert np.isnan(alone["teacher"])
    found = students.pair_of(setting, 0)
    assert found["teacher"] == whole["teacher"]
    assert {len(found[n]) for n in ("scores", "heaviness", "generality")} == {16}
    bands = students.bands_of(setting, 0)
    assert {len(values) for values in bands.values()} == {40}
    with pytest.raises(ValueError, match="mode must be one of"):
        students.student(setting, "best", 0.5, 0)


@pytest.mark.slow
def test_all_lessons_are_asked_once_and_reach_claims_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_FIGURES", str(tmp_path))
    ledger.session("04_which_channels_matter", preset="smoke", seeds=[0, 1], device="cpu")
    setting = tiny()
    lessons = students.all_lessons(setting, [0, 1], 0.75)
    assert not lessons.duplicated(["way", "ratio", "seed"]).any()
    assert set(lessons["way"]) == {
        "alone",
        "all",
        "general",
        "random",
        "specific",
        "heavy",
        "truth",
    }
    agreed, bands = [students.pair_of(setting, s) for s in (0, 1)], [students.bands_of(setting, 0)]
    blocks = [channels.study(Plan(3, 2), 0)]
    made = [
        *claims_channels.algorithm1(blocks), *claims_channels.order(lessons, 0.75, "faces"),
        claims_channels.control(lessons, agreed, 0.75, "faces"), *claims_channels.truth(lessons, agreed, 0.5),
        claims_channels.at_the_input(bands),
    ]  # fmt: skip
    assert {ledger.claim(**claim).verdict for claim in made} <= set(bundle.VERDICTS)
    case = case_study.Case(AVDigits(n_train=100, n_val=20, n_test=50), TrainConfig(2, 32, 1e-3))
    table1 = case_study.table1(case, [0, 1])
    ledger.claim(**case_study.claim(table1))
    clip = students.clip_lessons(replace(students.clips("smoke"), lesson=setting.lesson), [0])
    for claim in claims_channels.clips(clip):
        ledger.claim(**claim)
    summary = claims_channels.summary(blocks, lessons, agreed, bands, table1, clip)
    bundle.validate(ledger.current().bundle(summary), "the bundle")
    ways = {"all": ("all", 0.0), "general": ("general", 0.75)}
    for name, fig in {
        "permutations": figures.permutation_error([b["permutations"] for b in blocks]),
        "distance": figures.distance_ablation({"ten": [b["ablation"] for b in blocks]}),
        "surgery": figures.surgery(blocks[0]["surgery"], 10),
        "faces": figures.heard_and_seen(setting.recipe(0).load("test")),
        "saliency": figures.saliency_tails(
            mfh.saliency(torch.tensor(agreed[0]["scores"])).tolist()
        ),
        "modes": figures.lesson_dots(lessons, ways, agreed[0]["majority"]),
        "ranks": figures.what_scores_rank(agreed[0]),
        "bands": figures.band_bars(bands[0]),
        "clips": figures.ratio_curves(clip, ["general", "index"]),
        "table1": figures.table_of_students(table1, case_study.PAPER),
        "ratios": figures.ratio_curves(lessons, ["general", "heavy"]),
    }.items():
        assert figures.show(fig, name, alt="what the figure shows in words").path.is_file()


def test_settings_of_every_preset() -> None:
    for preset in (*students.SIZES, "paper"):
        for source in ("procedural", "real"):
            setting = students.emotions(preset, source)  # type: ignore[arg-type]
            shapes = [branch.shape for _, branch in (setting.joint.a, setting.joint.b)]
            frames = 100 if source == "real" else 64
            assert shapes == [(40, frames), (35,) if source == "real" else (3, 32, 64)]
            assert setting.recipe(7).source == source
    assert students.emotions("full", "real").recipe(7).fold == 2
    with pytest.raises(ValueError, match="unknown preset 'huge'"):
        students.emotions("huge")


# Algorithm 1 on Gaussian data, and claims ----------------------------------------------------------


def test_surgery_at_all_channels_is_the_regular_teacher() -> None:
    found = channels.surgery(Venn(10, 10, 0), (10, 50), (0, 1, 2))
    data = [
        stack([Gaussians(Venn(10, 10, 0), script="modify")], [0, 1, 2], s)
        for s in ("train", "test")
    ]
    regular = mfh.crossmodal(data[0], [0, 1, 2]).accuracies(data[1])
    for way in ("truth", "algorithm", "random"):
        assert found[way]["student"][1] == pytest.approx(
            (100 * regular["student"][:, 0]).tolist(), abs=0.31
        )
    assert np.mean(found["truth"]["teacher"][0]) < np.mean(found["truth"]["teacher"][1]) - 9


def test_the_distance_makes_the_ranking() -> None:
    found = channels.ablation(Venn(10, 10, 0), (0.0, 1.0), range(42, 46))
    assert np.mean(found["weight"][0]) == pytest.approx(
        0.5, abs=0.12
    )  # section 9: without it, chance
    assert np.mean(found["all"][1]) >= 0.98
    assert np.mean(found["apart"][1]) < 0.1 * np.mean(found["apart"][0])


def frame(**students_of: tuple[str, float, list[float]]) -> pd.DataFrame:
    rows = [
        {"way": way, "ratio": ratio, "seed": seed, "student": value, "teacher": value + 5}
        for way, ratio, values in students_of.values() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_rules_of_the_students_claims() -> None:
    base = {"a": ("all", 0.0, [40.0, 41, 42]), "n": ("alone", 0.0, [38.0, 39, 40])}
    ordered = frame(**base, g=("general", 0.75, [35.0, 36, 38]), r=("random", 0.75, [30.0, 30.5, 33]),
                    s=("specific", 0.75, [20.0, 21, 22]), h=("heavy", 0.75, [35.5, 36, 38]))  # fmt: skip
    made = claims_channels.order(ordered, 0.75, "faces")
    assert [claim["holds"] for claim in made] == [True, False]
    mixed = frame(**base, g=("general", 0.75, [35.0, 29, 38]), r=("random", 0.75, [30.0, 30.5, 33]),
                  s=("specific", 0.75, [20.0, 21, 22]))  # fmt: skip
    assert not claims_channels.order(mixed, 0.75, "faces")[0]["holds"]
    alike = [{"scores": [1, 2, 3, 4], "heaviness": [1, 2, 3, 5], "generality": [4, 3, 2, 1]}]
    assert not claims_channels.control(ordered, alike, 0.75, "faces")["holds"]
    other = [{"scores": [1, 2, 3, 4], "heaviness": [3, 1, 4, 2], "generality": [1, 2, 3, 4]}]
    better = frame(g=("general", 0.75, [35.0, 36, 38]), h=("heavy", 0.75, [30.0, 31, 32.5]))
    assert claims_channels.control(better, other, 0.75, "faces")["holds"]
    with pytest.raises(ValueError, match="no lesson 'truth' at ratio 0.5"):
        claims_channels.truth(ordered, other, 0.5)
    band = {
        "kind": ["shared", "audio", "nuisance"],
        "score": [2.0, -1, 5],
        "importance": [1.0, 2, 0],
    }
    assert claims_channels.band_aucs(band) == {"score": 1.0, "importance": 0.0}
    assert claims_channels.at_the_input([band])["holds"]
    teachers = frame(a=("given audio", 0.0, [50.0, 51, 52]), f=("given face", 0.0, [60.0, 61, 63]),
                     n=("alone", 0.0, [54.0, 55, 56]))  # fmt: skip
    teachers.loc[teachers["way"] == "given audio", "teacher"] = 82.0
    assert claims_channels.given(teachers)["holds"]
    teachers.loc[teachers["way"] == "given audio", "student"] += 30
    assert not claims_channels.given(teachers)["holds"]


def test_channels_of_a_hand_made_head() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 2.0], [-1.0, -2.0]])
    kept = Channels(z, torch.tensor([[2.0, 0.0]]), torch.tensor([0.5]), torch.zeros(1, 4))
    assert kept.heaviness().tolist() == [4.0, 0.0]
    assert kept.logits().flatten().tolist() == [2.5, -1.5, 2.5, -1.5]


# The case study ----------------------------------------------------------------------------------


def test_dimmed_pictures_keep_a_quarter_of_the_variance() -> None:
    digits, dimmed = Digits(n_train=400).load("train"), AVDigits(n_train=400).load("train")
    whole, left = (x.flatten(1).var(0).sum() for x in (digits.x["farsi"], dimmed.x["image"]))
    assert float(left / whole) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(dimmed.x["audio"], digits.x["speech"])
    assert torch.equal(AVDigits(n_train=30).load("train").x["image"], dimmed.x["image"][:30])
    bright = AVDigits(n_train=50, energy=1.0).load("train").x["image"]
    torch.testing.assert_close(bright.flatten(1).var(0), digits.x["farsi"][:50].flatten(1).var(0))
    for energy in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"energy must lie in \(0, 1\]"):
            AVDigits(energy=energy)


def test_table_1_s_rule() -> None:
    def table(both: float, teacher: float) -> pd.DataFrame:
        ways = (("alone", 56.0, np.nan), ("hears", 58.0, 79.0), ("hears and sees", both, teacher))
        rows = [(way, s, student + s, right) for s in range(3) for way, student, right in ways]
        return pd.DataFrame(rows, columns=["way", "seed", "student", "teacher"])

    assert case_study.claim(table(56.1, 95.0))["holds"]
    assert not case_study.claim(table(60.0, 95.0))["holds"]
    assert not case_study.claim(table(56.1, 80.0))["holds"]
