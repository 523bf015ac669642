"""Voices and faces: what shows a latent, what does not, and that nothing depends on how many are made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from labkit.batch import Batch
from labkit.data import faces, portraits
from labkit.data.faces import CHUNK, CLASSES, KINDS, Faces


@pytest.fixture(scope="module")
def train() -> Batch:
    return Faces().load("train")


@pytest.fixture(scope="module")
def held_out() -> Batch:
    return Faces().load("test")


def flat(batch: Batch) -> dict[str, Tensor]:
    assert batch.y is not None
    return {**batch.x, "y": batch.y, **batch.factors}


def same(a: Batch, b: Batch) -> bool:
    ours, theirs = flat(a), flat(b)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def features(batch: Batch, name: str) -> Tensor:
    """Means over 2 x 2 pixels, or over 4 frames. Shape (B, F), float64."""
    x = batch.x[name]
    pooled = nn.functional.avg_pool2d(x, 2 if name == "face" else (1, 4))
    return pooled.flatten(1).double()


def ridge(seen: Tensor, wanted: Tensor, unseen: Tensor, penalty: float = 3.0) -> Tensor:
    """Predictions for `unseen`, by ridge regression."""
    mean, centre = seen.mean(0), wanted.mean(0)
    centred = seen - mean
    gram = centred @ centred.T + penalty * torch.eye(len(seen), dtype=seen.dtype)
    return (unseen - mean) @ (centred.T @ torch.linalg.solve(gram, wanted - centre)) + centre


def r2(predicted: Tensor, truth: Tensor) -> Tensor:
    return 1 - (predicted - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)


# What is shown where -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", faces.MODALITIES)
def test_each_modality_shows_its_own_latents_and_no_others(
    train: Batch, held_out: Batch, name: str
) -> None:
    wanted = torch.cat([train.factors[kind] for kind in KINDS], 1).double()
    truth = torch.cat([held_out.factors[kind] for kind in KINDS], 1).double()
    found = r2(ridge(features(train, name), wanted, features(held_out, name)), truth)
    shared, audio_only, face_only = found.split([4, 4, 2])
    own, foreign = (audio_only, face_only) if name == "audio" else (face_only, audio_only)
    assert shared.min() > 0.7, shared
    assert own.min() > 0.7, own
    assert foreign.max() < 0.05, foreign


def test_the_bands_are_what_they_are_called() -> None:
    """A latent moves the bands of its kind and no pixel of any other; the speaker moves the rest."""
    recipe, nuisances = Faces(), quiet(1)
    kinds = recipe.bands()
    assert len(kinds) == portraits.BANDS
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "shared": 16, "audio": 16, "nuisance": 8,
    }  # fmt: skip
    still = portraits.draw_sounds(torch.zeros(1, 4), torch.zeros(1, 4), nuisances)[0]
    moved = {
        "shared": portraits.draw_sounds(torch.ones(1, 4), torch.zeros(1, 4), nuisances)[0],
        "audio": portraits.draw_sounds(torch.zeros(1, 4), torch.ones(1, 4), nuisances)[0],
        "nuisance": portraits.draw_sounds(
            torch.zeros(1, 4), torch.zeros(1, 4), nuisances | {"speaker": torch.ones(1, 4)}
        )[0],
    }
    for kind, picture in moved.items():
        assert [other == kind for other in kinds] == ((picture - still).abs().amax(1) > 0).tolist()


def quiet(n: int) -> dict[str, Tensor]:
    """Nuisances of n samples that all look and sound alike."""
    return {
        "speaker": torch.zeros(n, portraits.SPEAKER), "head_px": torch.zeros(n, 2),
        "texture": torch.zeros(n, 2), "texture_phase": torch.zeros(n), "skin": torch.full((n,), 0.3),
        "start": torch.zeros(n), "syllables": torch.full((n,), 4.0), "rhythm": torch.zeros(n),
    }  # fmt: skip


@pytest.mark.parametrize("shared", [1, 4, 6])
@pytest.mark.parametrize("audio_only", [0, 3, 8])
def test_every_latent_has_bands_and_some_are_left(shared: int, audio_only: int) -> None:
    owners = portraits.band_owners(shared, audio_only)
    assert len(owners) == portraits.BANDS
    width = 4 if shared + audio_only <= 8 else 2
    assert [owners.count(k) for k in range(shared + audio_only)] == [width] * (shared + audio_only)
    assert owners.count(-1) >= 8
    patterns = portraits._patterns(shared, audio_only).flatten(1)
    assert torch.linalg.matrix_rank(patterns) == len(patterns)  # no latent sounds like others do


def test_every_trait_is_seen_where_it_belongs() -> None:
    """Rows and columns of the picture that change when one trait alone does."""
    places = {
        "mouth": (17, 27, 26, 38), "brows": (4, 13, 23, 41), "eyes": (9, 17, 23, 41),
        "smile": (15, 27, 25, 39), "tilt": (0, 30, 20, 44), "brow height": (3, 13, 23, 41),
        "hair": (0, 28, 20, 44), "light": (0, 32, 0, 64), "background": (0, 32, 0, 64),
        "shirt": (25, 32, 12, 52),
    }  # fmt: skip
    assert tuple(places) == portraits.SHARED + portraits.FACE_ONLY
    for number, (top, bottom, left, right) in enumerate(places.values()):
        latents = torch.zeros(2, 10)
        latents[0, number], latents[1, number] = -1.5, 1.5
        low, high = portraits.draw_faces(latents[:, :6], latents[:, 6:], quiet(2))
        change = (high - low).abs().amax(0)
        assert change.max() > 0.1
        change[top:bottom, left:right] = 0
        assert change.max() < 0.02, (number, change.nonzero())


def test_a_face_looks_like_one() -> None:
    """Symmetric, eyes white with dark pupils, red lips, hair darker than skin; edges are soft."""
    (face,) = portraits.draw_faces(torch.zeros(1, 6), torch.zeros(1, 4), quiet(1))
    torch.testing.assert_close(face, face.flip(2), atol=1e-5, rtol=0)
    assert face.min() >= 0 and face.max() <= 1
    assert face[:, 13, 25].min() > 0.9 and face[:, 13, 27].max() < 0.2
    mouth, cheek, hair = face[:, 20, 32], face[:, 18, 26], face[:, 2, 32]
    assert mouth[0] > 2 * mouth[1] and cheek[0] > cheek[1] > cheek[2]
    assert cheek.mean() > hair.mean() + 0.1
    brightness = face.mean(0)[12]
    assert brightness.diff().abs().max() < 0.75  # never from black to white within a pixel


# The task ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts", [(1, 0, 0), (1, 8, 4), (4, 4, 2), (6, 0, 4), (6, 8, 4), (2, 6, 2)]
)
def test_classes_are_balanced_and_a_linear_map_makes_them(counts: tuple[int, int, int]) -> None:
    shared, audio_only, face_only = counts
    recipe = Faces(shared=shared, audio_only=audio_only, face_only=face_only, n_test=CHUNK)
    batch = recipe.load("test")
    latents = torch.cat([batch.factors[kind] for kind in KINDS], 1)
    assert tuple(batch.factors[kind].shape[1] for kind in KINDS) == counts
    weights, offsets = faces.task(*counts)
    assert batch.y is not None
    assert torch.equal((latents @ weights + offsets).argmax(1), batch.y)
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(sum(counts)))
    many = torch.randn(20_000, sum(counts), generator=torch.Generator().manual_seed(1))
    share = (many @ weights + offsets).argmax(1).bincount(minlength=CLASSES) / len(many)
    assert share.min() > 0.08 and share.max() < 0.18


def test_a_latent_weighs_the_same_whatever_the_other_counts_are() -> None:
    small, large = faces.task(2, 3, 1)[0], faces.task(6, 8, 4)[0]
    assert torch.equal(small, large[[0, 1, 6, 7, 8, 14]])


def test_latents_are_independent_standard_normal_numbers(train: Batch) -> None:
    latents = torch.cat([train.factors[kind] for kind in KINDS], 1)
    near = 4.5 / len(latents) ** 0.5
    assert latents.mean(0).abs().max() < near
    assert (latents.std(0) - 1).abs().max() < near
    assert (torch.corrcoef(latents.T) - torch.eye(10)).abs().max() < near


@pytest.mark.parametrize(("name", "least"), [("audio", 0.48), ("face", 0.28)])
def test_a_small_network_learns_the_class_from_each_modality(
    train: Batch, held_out: Batch, name: str, least: float
) -> None:
    """Held-out accuracy far above the most frequent class's; the teacher's modality tells more."""
    assert train.y is not None and held_out.y is not None
    seen, unseen = features(train, name).float(), features(held_out, name).float()
    mean = seen.mean(0)
    seen, unseen = 3 * (seen - mean), 3 * (unseen - mean)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(seen.shape[1], 64), nn.ReLU(), nn.Linear(64, CLASSES))
        optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
        for _ in range(6):
            for rows in torch.randperm(len(seen)).split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(seen[rows]), train.y[rows]).backward()
                optimiser.step()
    accuracy = float((net(unseen).argmax(1) == held_out.y).float().mean())
    assert accuracy > least > float(held_out.y.bincount().max() / len(held_out)) + 0.1


# Invariants ----------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_other_seed_or_split_other_bits() -> None:
    recipe = Faces(n_train=20, n_val=20)
    assert same(recipe.load("train"), recipe.load("train"))
    for other in (recipe.load("val"), Faces(n_train=20, seed=1).load("train")):
        assert not any(
            torch.equal(a, b)
            for a, b in zip(flat(recipe.load("train")).values(), flat(other).values(), strict=True)
        )


@pytest.mark.parametrize("n", [1, 37, CHUNK, CHUNK + 1])
def test_sample_i_does_not_depend_on_n(train: Batch, n: int) -> None:
    """Bit for bit, across the edges of chunks."""
    assert same(Faces(n_train=n).load("train"), train[:n])


def test_bits_do_not_depend_on_the_number_of_threads(train: Batch) -> None:
    try:
        torch.set_num_threads(2)
        assert same(Faces(n_train=CHUNK).load("train"), train[:CHUNK])
    finally:
        torch.set_num_threads(1)


def test_one_latent_more_leaves_the_others_as_they_were() -> None:
    few, more = (Faces(n_test=9, shared=k).load("test") for k in (3, 4))
    assert torch.equal(few.factors["shared"], more.factors["shared"][:, :3])
    assert torch.equal(few.factors["audio_only"], more.factors["audio_only"])


def test_shapes_ranges_and_noise(train: Batch) -> None:
    assert train.modalities == ("audio", "face") and len(train) == 1200
    assert train.x["audio"].shape[1:] == (40, 64) and train.x["face"].shape[1:] == (3, 32, 64)
    for values in train.x.values():
        assert values.dtype == torch.float32 and values.min() >= 0 and values.max() <= 1
    clean = Faces(n_train=CHUNK, noise=0.0).load("train")
    grain = (train[:CHUNK].x["face"] - clean.x["face"])[:, :, :8, :8]  # the background alone
    light = grain - grain.mean((2, 3), keepdim=True)
    assert light.std().item() == pytest.approx(0.15 * 0.3, rel=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "web"}, "source must be one of 'procedural', 'real'; got 'web'"),
        ({"shared": 0}, "shared must be a whole number from 1 to 6, got 0"),
        ({"audio_only": 9}, "audio_only must be a whole number from 0 to 8, got 9"),
        ({"face_only": 2.0}, "face_only must be a whole number from 0 to 4, got 2.0"),
        ({"n_val": 0}, "n_val must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"noise": float("nan")}, "noise must lie between 0 and 1, got nan"),
        ({"fold": 5}, "fold must be a whole number from 0 to 4, got 5"),
        ({"fold": 1}, "fold must stay 0 with source='procedural', got 1"),
        ({"source": "real", "n_train": 100}, "n_train must stay 1200 with source='real', got 100"),
        ({"source": "real", "noise": 0.0}, "noise must stay 0.3 with source='real'"),
    ],
)
def test_bad_recipes_say_what_is_allowed(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match="^" + words):
        Faces(**options)  # type: ignore[arg-type]


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="split must be one of 'train', 'val', 'test'; got 'dev'"):
        Faces().load("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bands are known with source='procedural' only"):
        Faces("real", fold=3, seed=5).bands()
    assert hash(Faces()) == hash(Faces(seed=0))


@pytest.mark.gpu
def test_gpu_makes_the_same_samples() -> None:
    cpu, gpu = Faces(n_train=300).load("train"), Faces(n_train=300).load("train", "cuda")
    assert gpu.device.type == "cuda"
    for name in faces.MODALITIES:
        torch.testing.assert_close(gpu.x[name].cpu(), cpu.x[name], atol=2e-3, rtol=0)
