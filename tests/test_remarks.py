"""Remarks: what the words say of each kind, what voice and face add, and that only together they tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.batch import Batch
from labkit.data.remarks import (
    GROUPS,
    KINDS,
    MODALITIES,
    OPENINGS,
    PATTERNS,
    STEPS,
    STRENGTHS,
    WIDTHS,
    Remarks,
    vocabulary,
)
from labkit.metrics import linear_probe

SMALL = Remarks(n_train=600, n_val=40, n_test=60)
MANY = Remarks(n_train=6000)
QUIET = replace(SMALL, noise=(0.0, 0.0, 0.0))
STRENGTH = {
    word: sign * (1 + place // (len(GROUPS[name].split()) // STRENGTHS))
    for name, sign in (("GOOD", 1), ("BAD", -1))
    for place, word in enumerate(GROUPS[name].split())
}


def polar(remark: str) -> list[int]:
    """Strength, with its sign, of each word that has one."""
    return [STRENGTH[word] for word in remark.replace(",", "").split() if word in STRENGTH]


def test_shapes_balance_and_splits() -> None:
    batch = SMALL.load("train")
    assert batch.modalities == MODALITIES and batch.observed.all()
    for name, x in batch.x.items():
        assert x.shape == (600, STEPS, WIDTHS[name]) and x.dtype == torch.float32
    assert batch.y is not None and batch.y.bincount().tolist() == [300, 300]
    assert len(SMALL.load("val")) == 40 and len(SMALL.load("test")) == 60
    assert not torch.equal(SMALL.load("test").x["audio"], batch.x["audio"][:60])


def test_a_sample_is_the_same_however_many_there_are_and_another_seed_is_another() -> None:
    few, many = replace(SMALL, n_train=7).load("train"), SMALL.load("train")
    for name in MODALITIES:
        torch.testing.assert_close(few.x[name], many.x[name][:7], rtol=0, atol=1e-6)
    assert Remarks.words(few) == Remarks.words(many[:7])
    assert Remarks.words(replace(SMALL, seed=1).load("train")[:7]) != Remarks.words(few)
    world = replace(SMALL, world=1).load("train")
    assert Remarks.words(world[:7]) == Remarks.words(few)
    for name in MODALITIES:
        assert (world.x[name] - many.x[name]).abs().mean() > 0.01


def test_kinds_are_as_many_as_asked_and_no_kind_tells_the_label() -> None:
    batch = MANY.load("train")
    assert batch.y is not None
    kind, flipped = batch.factors["kind"], batch.factors["flipped"]
    share = kind.bincount(minlength=3) / len(kind)
    assert share.tolist() == pytest.approx([0.6, 0.2, 0.2], abs=0.02)
    for number in range(len(KINDS)):
        assert float(batch.y[kind == number].float().mean()) == pytest.approx(0.5, abs=0.05)
    assert flipped.dtype == torch.bool and not flipped[kind != 2].any()
    assert float(flipped[kind == 2].float().mean()) == pytest.approx(0.5, abs=0.05)
    only = replace(SMALL, vague=0.0, sarcastic=1.0).load("train").factors["kind"]
    assert (only == 2).all()
    assert (replace(SMALL, vague=0.0, sarcastic=0.0).load("train").factors["kind"] == 0).all()


def test_plain_words_tell_the_sentiment_vague_ones_nothing_and_sarcastic_ones_only_when_meant() -> (
    None
):
    batch = replace(MANY, n_train=1500).load("train")
    assert batch.y is not None
    sentiment = batch.factors["sentiment"]
    assert torch.equal((sentiment > 0).long(), batch.y)
    assert float(sentiment.abs().min()) >= 0.25 and float(sentiment.abs().max()) <= 3
    off = []
    for row, remark in enumerate(Remarks.words(batch)):
        said, kind = polar(remark), KINDS[batch.factors["kind"][row]]
        if kind == "vague":
            assert not said and any(word in remark for word in GROUPS["VAGUE"].split()), remark
            continue
        assert 1 <= len(said) <= 2 and len({strength > 0 for strength in said}) == 1, remark
        meant = sum(said) / len(said) * (-1 if batch.factors["flipped"][row] else 1)
        assert (meant > 0) == bool(batch.y[row]), remark
        off.append(float(sentiment[row]) - meant)
        sure = any(word in remark for word in GROUPS["SURE"].split())
        assert sure == (kind == "sarcastic"), remark  # the style shows, whatever is meant
    assert 0.15 < float(torch.tensor(off).std()) < 0.3


def test_every_pattern_and_word_occurs_and_none_is_cut_off() -> None:
    longest = max(len(text.split()) for texts in PATTERNS.values() for text in texts)
    assert longest + max(len(text.split()) for text in OPENINGS) == STEPS
    batch = MANY.load("train")
    words = batch.factors["words"]
    assert words[words >= 0].bincount().min() > 20 and int(words.max()) == len(vocabulary()) - 1
    ends = [text.split()[-1] for text in PATTERNS["plain"]]
    last = {"POLAR": STRENGTH, "THING": GROUPS["THING"].split()}
    allowed = {word for end in ends for word in last[end]}
    plain = batch[batch.factors["kind"] == 0][:500]
    assert {remark.split()[-1] for remark in Remarks.words(plain)} == allowed
    for word in vocabulary():
        assert word.islower() or word == ","


def test_after_its_end_a_remark_is_zero_and_before_it_has_a_step_a_word() -> None:
    batch = SMALL.load("train")
    length, words = batch.factors["length"], batch.factors["words"]
    assert int(length.min()) >= 3 and int(length.max()) == STEPS
    after = torch.arange(STEPS) >= length[:, None]
    assert torch.equal(after, words < 0)
    for name in MODALITIES:
        assert (batch.x[name][after] == 0).all() and (batch.x[name][~after] != 0).any(1).all()
    for remark, count in zip(Remarks.words(batch), length.tolist(), strict=True):
        assert len(remark.replace(",", " ,").split()) == count


def test_a_words_vector_is_always_the_same_but_for_noise() -> None:
    batch = QUIET.load("train")
    words, text = batch.factors["words"], batch.x["text"]
    seen = text[words >= 0]
    vectors = torch.zeros(len(vocabulary()), WIDTHS["text"]).index_copy_(0, words[words >= 0], seen)
    torch.testing.assert_close(vectors[words[words >= 0]], seen)
    noisy = SMALL.load("train").x["text"] - text
    assert float(noisy[words >= 0].std()) == pytest.approx(SMALL.noise[0], rel=0.02)


def test_tone_is_strong_in_vague_remarks_weak_in_plain_ones_and_the_wink_tells_what_is_meant() -> (
    None
):
    batch = QUIET.load("train")
    kind, sentiment = batch.factors["kind"], batch.factors["sentiment"]
    for name in ("audio", "vision"):
        shown = batch.x[name][:, 0].norm(dim=1)
        torch.testing.assert_close(shown[kind == 1], 0.4 * sentiment[kind == 1].abs())
        torch.testing.assert_close(shown[kind == 0], 0.04 * sentiment[kind == 0].abs())
        torch.testing.assert_close(shown[kind == 2], torch.full_like(shown[kind == 2], 0.7))
        wink, flipped = batch.x[name][kind == 2, 0], batch.factors["flipped"][kind == 2]
        torch.testing.assert_close(wink[flipped], wink[flipped][:1].expand_as(wink[flipped]))
        torch.testing.assert_close(wink[~flipped], -wink[flipped][:1].expand_as(wink[~flipped]))
        tone = batch.x[name][kind == 1, 0]
        assert float((tone @ wink[0]).abs().max()) < 1e-5  # one cannot be taken for the other


def bag(batch: Batch, *names: str) -> torch.Tensor:
    """Sums over the steps, and products of text with voice and face where all are asked for."""
    sums = [batch.x[name].sum(1) for name in names]
    if len(sums) == 3:
        sums += [(sums[0][:, :, None] * (sums[1] + sums[2])[:, None]).flatten(1)]
    return torch.cat(sums, 1)


@pytest.mark.parametrize(
    ("shares", "able"),
    [((0.0, 0.0), ("text",)), ((1.0, 0.0), ("audio", "vision")), ((0.0, 1.0), MODALITIES)],
    ids=KINDS,
)
def test_each_kind_is_told_by_what_it_should_be_and_by_nothing_less(
    shares: tuple[float, float], able: tuple[str, ...]
) -> None:
    recipe = Remarks(*shares, wink=1.5, noise=(0.1, 1.0, 1.2), n_train=1200, n_test=600)
    train, test = recipe.load("train"), recipe.load("test")
    assert train.y is not None and test.y is not None
    for names in (("text",), ("audio", "vision"), MODALITIES):
        score = linear_probe(bag(train, *names), train.y, bag(test, *names), test.y)
        enough = set(able) <= set(names)
        assert (score > 0.75) if enough else (score < 0.65), (names, score)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vague": 1.5}, r"vague must lie in 0\.\.1, got 1.5"),
        ({"vague": 0.7, "sarcastic": 0.4}, r"vague \+ sarcastic must be at most 1, got 0.7 \+ 0.4"),
        ({"tone": -1.0}, r"tone must lie in 0\.\.10"),
        ({"wink": float("nan")}, r"wink must lie in 0\.\.10, got nan"),
        ({"noise": (1.0, 1.0)}, "noise must be three numbers"),
        ({"noise": (1.0, -1.0, 1.0)}, "noise must be three numbers"),
        ({"n_val": 0}, "n_val must be a whole number from 1 to"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"world": 1.0}, "world must be a whole number from 0 to"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)


def test_an_unknown_split_and_a_batch_without_words_are_named() -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        SMALL.load("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch must have the factor 'words', got "):
        Remarks.words(replace(SMALL.load("val"), factors={}))


@pytest.mark.gpu
def test_samples_made_on_a_gpu_are_those_made_here() -> None:
    here, there = SMALL.load("train"), SMALL.load("train", device="cuda")
    assert there.device.type == "cuda" and Remarks.words(here) == Remarks.words(there)
    torch.testing.assert_close(there.x["audio"].cpu(), here.x["audio"], rtol=0, atol=1e-4)
