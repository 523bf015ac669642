"""The procedural digits: what specs call invariant 13, and what each option promises."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from labkit.data import strokes, voices
from labkit.data.digits import CHUNK, MODALITIES, Digits, load
from labkit.data.draws import Draws, balanced_labels, permutation


@pytest.fixture(scope="module")
def train():
    return Digits(n_train=2000).load("train")


@pytest.fixture(scope="module")
def held_out():
    return Digits(n_test=1000).load("test")


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]).double())[0, 1])


def same(a, b) -> bool:
    both = zip(flat(a), flat(b), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in both)


def flat(batch):
    return [*batch.x.items(), ("y", batch.y), *batch.factors.items()]


# Draws ---------------------------------------------------------------------------------------------


def test_the_hash_is_splitmix64():
    """Three values of the published finaliser, computed with Python's unbounded integers."""

    def mix(z: int) -> int:
        mask = (1 << 64) - 1
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = int.from_bytes(hashlib.blake2b(b"7|train|slant", digest_size=8).digest(), "little")
    got = Draws(torch.tensor([0, 5, 10**9]), 7, "train").bits("slant", 2)
    for row, index in enumerate([0, 5, 10**9]):
        state = mix((index * 0x9E3779B97F4A7C15 + key) % 2**64)
        for draw in (1, 2):
            assert int(got[row, draw - 1]) % 2**64 == mix(
                (state + draw * 0x9E3779B97F4A7C15) % 2**64
            )


def test_numbers_have_the_distribution_they_claim():
    draws = Draws(torch.arange(50_000), 0, "test")
    uniform, normal = draws.uniform("u", 2, low=-1.0, high=3.0), draws.normal("n", 2)
    assert uniform.min() > -1 and uniform.max() < 3
    assert uniform.mean().item() == pytest.approx(1, abs=0.02)  # 5 standard errors: 0.018
    assert uniform.var().item() == pytest.approx(16 / 12, abs=0.02)
    assert normal.isfinite().all()
    assert normal.mean().item() == pytest.approx(0, abs=0.016)
    assert normal.var().item() == pytest.approx(1, abs=0.025)
    assert (normal.abs() > 1.96).float().mean().item() == pytest.approx(0.05, abs=0.004)
    for a, b in [
        (normal[:, 0], normal[:, 1]),
        (normal[1:, 0], normal[:-1, 0]),
        (uniform[:, 0], normal[:, 0]),
    ]:
        assert abs(correlation(a, b)) < 4 / 50_000**0.5
    assert (
        torch.bincount(draws.choice("c", 6), minlength=6).float().std() < 5 * 91
    )  # sqrt(n p) = 91


def test_streams_seeds_and_splits_differ():
    index = torch.arange(1000)
    base = Draws(index, 0, "train").normal("a")
    for other in [Draws(index, 0, "train").normal("b"), Draws(index, 1, "train").normal("a"),
                  Draws(index, 0, "val").normal("a")]:  # fmt: skip
        assert abs(correlation(base, other)) < 4 / 1000**0.5


def test_permutation_is_one():
    order = permutation(1000, 3)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(order, torch.arange(1000)) and not torch.equal(
        order, permutation(1000, 4)
    )


# Invariant 13 --------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_other_seed_other_bits():
    a, b = Digits(n_train=300).load("train"), Digits(n_train=300).load("train")
    assert same(a, b)
    other = Digits(n_train=300, seed=1).load("train")
    assert not torch.equal(a.x["farsi"], other.x["farsi"]) and not torch.equal(a.y, other.y)


@pytest.mark.parametrize("n", [1, 37, CHUNK - 1, CHUNK + 1])
@pytest.mark.parametrize("pool", ["poster", "none"])
def test_sample_i_does_not_depend_on_n(n, pool):
    """Bit for bit, across the edges of chunks and of vector instructions."""
    whole = Digits(n_train=2 * CHUNK + 3, pool=pool).load("train")
    assert same(Digits(n_train=n, pool=pool).load("train"), whole[:n])


def test_bits_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = Digits(n_train=CHUNK).load("train")
        torch.set_num_threads(2)
        assert same(one, Digits(n_train=CHUNK).load("train"))
    finally:
        torch.set_num_threads(threads)


def test_every_block_of_ten_holds_every_class_once(train):
    for block in train.y.view(-1, 10):
        assert torch.equal(block.sort().values, torch.arange(10))
    assert len({tuple(block.tolist()) for block in train.y.view(-1, 10)}) > 150  # not one order
    assert torch.equal(balanced_labels(torch.tensor([13]), 10, 0, "train"), train.y[13:14])


def test_rho_0_leaves_styles_uncorrelated(train):
    style = [
        train.factors["slant_farsi"],
        train.factors["slant_kannada"],
        train.factors["rate"].log(),
    ]
    for i in range(3):
        for j in range(i):
            assert abs(correlation(style[i], style[j])) < 4 / len(train) ** 0.5


def test_rho_1_makes_styles_identical():
    f = Digits(n_train=500, rho=1.0).load("train").factors
    assert torch.equal(f["slant_farsi"], f["slant_kannada"])
    torch.testing.assert_close(f["rate"].log(), f["slant_farsi"], rtol=1e-5, atol=1e-6)


def test_rho_is_the_correlation():
    f = Digits(n_train=2000, rho=0.6).load("train").factors
    for other in (f["slant_kannada"], f["rate"].log()):
        assert correlation(f["slant_farsi"], other) == pytest.approx(0.6, abs=4 * 0.64 / 2000**0.5)


@pytest.mark.parametrize("name", ["farsi", "kannada"])
def test_oracles_are_ordered_for_images(train, held_out, name):
    """Binary cross-entropy of held-out images: themselves < the mean of their class < the mean."""
    target = held_out.x[name].flatten(1).double()
    classes = torch.stack(
        [train.x[name][train.y == digit].flatten(1).mean(0) for digit in range(10)]
    ).double()

    def cross_entropy(p: Tensor) -> float:
        p = p.clamp(1e-6, 1 - 1e-6)
        return float(-(target * p.log() + (1 - target) * (1 - p).log()).sum(1).mean())

    own, per_class = cross_entropy(target), cross_entropy(classes[held_out.y])
    overall = cross_entropy(train.x[name].flatten(1).double().mean(0).expand_as(target))
    assert 1.3 * own < per_class < 0.97 * overall


@pytest.mark.parametrize("pool", ["poster", "mean"])
def test_oracles_are_ordered_for_speech(pool):
    train, held_out = (load(split, 1000, pool=pool) for split in ("train", "test"))
    target = held_out.x["speech"]
    classes = torch.stack([train.x["speech"][train.y == digit].mean(0) for digit in range(10)])
    per_class = (target - classes[held_out.y]).square().sum(1).mean()
    overall = (target - train.x["speech"].mean(0)).square().sum(1).mean()
    assert 0 < per_class < 0.85 * overall


# Ranges, splits and options ------------------------------------------------------------------------


def test_shapes_and_ranges(train):
    assert train.modalities == MODALITIES
    for name in ("farsi", "kannada"):
        assert train.x[name].shape == (2000, 28, 28) and train.x[name].dtype == torch.float32
        assert train.x[name].min() >= 0 and train.x[name].max() <= 1
        assert train.x[name].flatten(1).amax(1).min() > 0.5  # no image is empty
        border = torch.cat(
            [train.x[name][:, [0, -1]].flatten(1), train.x[name][:, :, [0, -1]].flatten(1)], 1
        )
        assert (border > 0.5).float().mean() < 0.005  # the digit fits into its frame
    speech = train.x["speech"]
    assert speech.shape == (2000, 13) and speech.dtype == torch.float32
    calibrated = speech[: 4 * CHUNK]  # seed 0's first samples are the ones that fix the range
    torch.testing.assert_close(calibrated.amin(0), torch.zeros(13), atol=1e-6, rtol=0)
    torch.testing.assert_close(calibrated.amax(0), torch.ones(13), atol=1e-6, rtol=0)
    assert Digits(n_val=3, pool="none").load("val").x["speech"].shape == (3, 20, 13)


def test_factors_have_their_ranges(train):
    f = train.factors
    assert all(values.shape == (2000,) for values in f.values())
    assert f["slant_farsi"].std().item() == pytest.approx(0.25, abs=0.02)
    assert f["rate"].log().std().item() == pytest.approx(0.25, abs=0.02)
    for name, (low, high) in {
        "aspect_farsi": (0.85, 1.15), "rotation_kannada": (-0.12, 0.12),
        "thickness_farsi": (0.11, 0.19), "thickness_kannada": (0.05, 0.09), "slop_farsi": (0, 0.75),
    }.items():  # fmt: skip
        assert (
            f[name].min() >= low
            and f[name].max() <= high
            and f[name].std() > 0.2 * (high - low) / 2
        )
    assert not torch.equal(f["writer_farsi"], f["writer_kannada"])


def test_factors_are_what_the_image_shows():
    """Slant, measured as the regression of x on y over the ink, follows the factor; so does ink."""
    batch = Digits(n_train=2000).load("train")[:2000]
    ones = batch[batch.y == 1]
    ink = ones.x["farsi"]
    axis = torch.arange(28.0) - 13.5
    mass = ink.sum((1, 2))
    covariance = (ink * axis[:, None] * axis[None, :]).sum((1, 2)) / mass
    variance = (ink * axis[:, None].square()).sum((1, 2)) / mass
    assert (
        correlation(-covariance / variance, ones.factors["slant_farsi"]) > 0.8
    )  # up-right is positive
    assert correlation(mass, ones.factors["thickness_farsi"]) > 0.7


def test_writers_are_disjoint_between_splits():
    seen = {
        split: {int(w) for name in ("farsi", "kannada") for w in batch.factors[f"writer_{name}"]}
        for split, batch in ((s, load(s, 600)) for s in ("train", "val", "test"))
    }
    assert seen == {split: set(members) for split, members in strokes.WRITER_SPLITS.items()}
    assert sorted(w for members in seen.values() for w in members) == list(range(20))


def test_held_out_speaker_speaks_in_the_test_split_only():
    for split in ("train", "val", "test"):
        shared = load(split, 300).factors["speaker"]
        assert set(shared.tolist()) == set(range(voices.SPEAKERS))
        held = load(split, 300, speakers="held-out", held_out_speaker=2).factors["speaker"]
        assert set(held.tolist()) == ({2} if split == "test" else {0, 1, 3, 4, 5})


def test_thickness_is_farsi_only():
    thin, thick = (load("val", 200, thickness=t) for t in (0.5, 1.0))
    assert thin.x["farsi"].sum() < 0.7 * thick.x["farsi"].sum()
    torch.testing.assert_close(
        thin.factors["thickness_farsi"] * 2, thick.factors["thickness_farsi"]
    )
    assert torch.equal(thin.x["kannada"], thick.x["kannada"])


def test_difficulty_spreads_the_classes():
    batches = {d: load("train", 600, difficulty=d, pool="mean") for d in (0.0, 1.0, 2.0)}

    def spread(difficulty: float, name: str) -> float:
        batch = batches[difficulty]
        inside = [batch.x[name][batch.y == digit].flatten(1).var(0).sum() for digit in range(10)]
        return float(torch.stack(inside).mean() / batch.x[name].flatten(1).var(0).sum())

    for name in MODALITIES:
        assert spread(0.0, name) < spread(1.0, name) < spread(2.0, name)


def test_confused_pairs_differ_by_modality():
    pairs = {
        name: {frozenset(pair) for pair in script.partner.items()}
        for name, script in strokes.SCRIPTS.items()
    }
    pairs["speech"] = {frozenset(pair) for pair in voices.PARTNER.items()}
    assert not pairs["speech"] & (pairs["farsi"] | pairs["kannada"])
    assert pairs["farsi"] - pairs["kannada"] and pairs["kannada"] - pairs["farsi"]


@pytest.mark.parametrize("name", ["farsi", "kannada"])
def test_a_sloppy_digit_drifts_towards_its_partner(name):
    script, draws = strokes.SCRIPTS[name], Draws(torch.arange(100), 0, "train")
    factors = strokes.draw_factors(draws, script, "train", torch.zeros(100), 1.0, 1.0)

    def mean_image(digit: int, slop: float) -> Tensor:
        hand = factors | {"slop": torch.full((100,), slop)}
        return strokes.draw_images(draws, script, torch.full((100,), digit), hand, 1.0).mean(0)

    for digit, partner in script.partner.items():
        neat, sloppy, other = (
            mean_image(digit, 0.0),
            mean_image(digit, 0.75),
            mean_image(partner, 0.0),
        )
        assert (sloppy - other).norm() < 0.8 * (neat - other).norm(), (digit, partner)


@pytest.mark.parametrize("kept", ["shift", "tilt", "accent"])
def test_every_trait_of_a_speaker_is_heard(monkeypatch, kept):
    draws, y = Draws(torch.arange(50), 0, "train"), torch.arange(50) % 10
    factors = voices.draw_factors(draws, torch.zeros(50), [0], 1.0)
    traits = {name: v * (name == kept) for name, v in voices.speakers().items()}
    monkeypatch.setattr(voices, "speakers", lambda: traits)
    one, other = (
        voices.draw_cepstra(draws, y, factors | {"speaker": torch.full((50,), who)}, 1.0)
        for who in (0, 5)
    )
    assert (one - other).abs().mean() > 0.02


def test_catmull_rom_interpolates_and_reproduces_lines():
    weights = strokes.catmull_rom(5, torch.linspace(0, 4, 17).double())
    torch.testing.assert_close(weights.sum(1), torch.ones(17).double())
    torch.testing.assert_close(weights[::4], torch.eye(5).double())  # passes through the points
    line = torch.arange(5).double()
    torch.testing.assert_close((weights @ line)[4:13], torch.linspace(1, 3, 9).double())


def test_a_straight_line_is_drawn_as_wide_as_asked():
    points = torch.stack([torch.zeros(64), torch.linspace(-1, 1, 64)], -1)[None]
    image = strokes.render(points, torch.ones(1, 63), torch.tensor([0.2]))
    # Along the middle row, ink (soft at its edges) adds up to the width: 2 x 0.2 units x 10 pixels.
    assert image[0, 13].sum().item() == pytest.approx(4.0, abs=0.15)
    assert image[0, 13, 13] > 0.99 and image[0, 13, 5] < 0.01 and image[0, 0].max() < 0.01


def test_poster_pooling_is_mean_over_deviation():
    cepstra = torch.randn(3, 20, 13, generator=torch.Generator().manual_seed(0)) + 2
    torch.testing.assert_close(
        voices.pool(cepstra, "poster"),
        (cepstra / cepstra.std(1, correction=0, keepdim=True)).mean(1),
    )
    rows = voices.dct_matrix()
    torch.testing.assert_close(rows @ rows.T, torch.eye(13), atol=1e-5, rtol=0)


def test_options_reach_the_recipe_and_load_is_a_thin_wrapper():
    assert same(load("test", 20, seed=3, rho=0.5), Digits(n_test=20, seed=3, rho=0.5).load("test"))
    assert len(Digits().load("val")) == 1000
    assert hash(Digits()) == hash(Digits(seed=0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "web"}, "source must be one of 'procedural', 'real'; got 'web'"),
        ({"pool": "max"}, "pool must be one of"),
        ({"speakers": "few"}, "speakers must be one of"),
        ({"rho": 1.5}, "rho must lie between 0 and 1, got 1.5"),
        ({"difficulty": -1.0}, "difficulty must lie between"),
        ({"thickness": float("nan")}, "thickness must lie between"),
        ({"held_out_speaker": 6}, "held_out_speaker must be a whole number from 0 to 5, got 6"),
        ({"n_train": 0}, "n_train must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"source": "real", "rho": 0.5}, "rho must stay 0.0 with source='real'"),
    ],
)
def test_bad_recipes_say_what_is_allowed(options, words):
    with pytest.raises(ValueError, match="^" + words.replace("(", r"\(")):
        Digits(**options)


def test_unknown_split_says_what_is_allowed():
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        load("dev", 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_makes_the_same_digits():
    cpu, gpu = Digits(n_train=300).load("train"), Digits(n_train=300).load("train", "cuda")
    assert gpu.device.type == "cuda" and torch.equal(gpu.y.cpu(), cpu.y)
    assert torch.equal(gpu.factors["writer_farsi"].cpu(), cpu.factors["writer_farsi"])
    for name in MODALITIES:
        torch.testing.assert_close(gpu.x[name].cpu(), cpu.x[name], atol=2e-3, rtol=0)
