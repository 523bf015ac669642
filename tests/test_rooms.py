"""Rooms: rays and what they hit, what stands where, the depth camera, samples and their looks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from labkit.batch import Batch
from labkit.data import interiors, painting, raycast, rooms
from labkit.data.draws import Draws
from labkit.data.interiors import (
    BLUE_BOX,
    CANVAS,
    CLASSES,
    FLOOR,
    LAMP,
    LEAD_LAMP,
    POSTER,
    RED_BOX,
    WALL,
    WINDOW,
)
from labkit.data.raycast import FACES, SPREAD, Camera, Solids
from labkit.data.rooms import MODALITIES, SCENES, Rooms

SMALL = Rooms(height=36, n_train=40, n_val=8, n_test=8)


def camera(y: float = 1.5, down: float = 0.0, right: float = 0.0, x: float = 0.0) -> Camera:
    """One camera; angles in radians."""
    turns = math.tan(down / 2), math.tan(right / 2)
    return Camera(*(torch.tensor([value], dtype=torch.float64) for value in (x, y, *turns)))


def solid(
    centre: tuple[float, ...], half: tuple[float, ...], turn: float = 0.0, copies: int = 1
) -> Solids:
    parts = (centre, half, math.tan(turn / 2))
    return Solids(*(torch.tensor([[part] * copies], dtype=torch.float64) for part in parts))


def rows_below(height: int) -> torch.Tensor:
    """Tangent of each row's angle below the line of sight, at 4 : 3."""
    return ((torch.arange(height) + 0.5) / height * 2 - 1).double() * SPREAD * 3 / 4


SIZE = torch.tensor([[8.0, 2.5, 5.0]], dtype=torch.float64)
LONG = torch.tensor([[4.0, 2.5, 8.0]], dtype=torch.float64)


# Rays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [0.0, 0.1, 0.3])
def test_the_floor_lies_where_the_formula_says(down: float) -> None:
    eye = camera(y=1.5, down=down)
    ray = raycast.rays(48, 64, eye)
    depth, face = raycast.room(eye.place, ray, SIZE)
    below = rows_below(48)
    expected = 1.5 / (below * math.cos(down) + math.sin(down))  # height over the sine, as it were
    floor = (face.view(48, 64) == FACES.index("floor")).all(1)
    assert 5 < int(floor.sum()) < 40
    found = depth.view(48, 64)[floor]
    torch.testing.assert_close(found, expected[floor, None].expand_as(found), rtol=1e-6, atol=0)


def test_walls_lie_at_their_distance_along_the_line_of_sight() -> None:
    eye = camera(right=0.2)
    ray = raycast.rays(47, 63, eye)  # odd: a ray through the middle
    depth, face = raycast.room(eye.place, ray, LONG)
    assert int(face[0, 47 * 63 // 2]) == FACES.index("back")
    assert float(depth[0, 47 * 63 // 2]) == pytest.approx(8 / math.cos(0.2), rel=1e-6)
    point = eye.place[..., None] + depth[:, None] * ray
    for number, (axis, value) in enumerate([(0, -2), (0, 2), (1, 0), (1, 2.5), (2, 8)]):
        here = point[:, axis][face == number]
        assert len(here) > 20, FACES[number]
        torch.testing.assert_close(here, torch.full_like(here, value), rtol=0, atol=1e-6)
    assert (point.abs() <= torch.tensor([2, 2.5, 8])[None, :, None] + 1e-6).all()


def test_a_box_shows_its_front_and_a_turned_one_its_edge() -> None:
    eye = camera()
    ray = raycast.rays(47, 63, eye)
    middle = 47 * 63 // 2
    box = solid((0.0, 1.5, 3.0), (0.4, 0.3, 0.5))
    depth = raycast.boxes(eye.place, ray, box)[0, 0]
    hit = depth.isfinite()
    torch.testing.assert_close(depth[hit], torch.full_like(depth[hit], 2.5), rtol=0, atol=1e-6)
    # Its front is 0.8 x 0.6 m large, at 2.5 m, where a picture shows 3 m x 2.25 m.
    assert float(hit.double().mean()) == pytest.approx(0.8 * 0.6 / (3 * 2.25), rel=0.1)
    turned = solid((0.0, 1.5, 3.0), (0.4, 0.3, 0.4), turn=math.pi / 4)
    assert float(raycast.boxes(eye.place, ray, turned)[0, 0, middle]) == pytest.approx(
        3 - 0.4 * math.sqrt(2), rel=1e-6
    )
    aside = solid((0.9, 1.5, 3.0), (0.3, 0.3, 0.1), turn=math.pi / 2)  # now 0.1 wide and 0.3 deep
    seen = raycast.boxes(eye.place, ray, aside)[0, 0].view(47, 63)
    assert float(seen.min()) == pytest.approx(2.7, rel=1e-6)
    x = ((torch.arange(63) + 0.5) / 63 * 2 - 1) * SPREAD * 2.7
    columns = (seen - 2.7).abs().lt(1e-6).any(0)
    assert torch.equal(columns, (x > 0.8) & (x < 1.0))


def test_a_cylinder_is_round_and_has_ends() -> None:
    eye = camera(y=1.0)
    ray = raycast.rays(47, 63, eye)
    drum = solid((0.0, 1.0, 3.0), (0.4, 0.2, 0.4))
    depth = raycast.cylinders(eye.place, ray, drum)[0, 0]
    hit = depth.isfinite()
    assert float(depth[47 * 63 // 2]) == pytest.approx(2.6, rel=1e-6)
    point = (eye.place[..., None] + depth * ray)[0][:, hit] - torch.tensor([[0.0], [1.0], [3.0]])
    torch.testing.assert_close(
        (point[0].square() + point[2].square()).sqrt(),
        torch.full_like(depth[hit], 0.4),
        rtol=0,
        atol=1e-6,
    )
    assert float(point[1].abs().max()) <= 0.2
    low = raycast.cylinders(camera(y=0.0).place, ray, drum)[0, 0]  # seen from below
    end = low.isfinite() & ((low * ray[0, 1] - 0.8).abs() < 1e-6)
    assert 5 < int(end.sum()) < int(low.isfinite().sum())
    nothing = solid((0.0, 1.0, 3.0), (-1.0, -1.0, -1.0))
    for strike in (raycast.boxes, raycast.cylinders):
        assert bool(strike(eye.place, ray, nothing).isinf().all())
        behind = solid((0.0, 1.0, -3.0), (0.4, 0.2, 0.4))
        assert bool(strike(eye.place, ray, behind).isinf().all())


def test_surfaces_face_the_camera_with_normals_of_length_one() -> None:
    eye = camera(y=1.0, down=0.2)
    ray = raycast.rays(48, 64, eye)
    box, drum = (
        solid((-0.5, 0.9, 3.0), (0.4, 0.3, 0.2), 0.5),
        solid((0.6, 0.8, 3.0), (0.4, 0.2, 0.4)),
    )
    both = Solids(*(torch.cat(parts, 1) for parts in zip(box, drum, strict=True)))
    hits = torch.cat(
        (raycast.boxes(eye.place, ray, box), raycast.cylinders(eye.place, ray, drum)), 1
    )
    depth, which = hits.min(1)
    normal = raycast.normals(eye.place[..., None] + depth[:, None] * ray, both, which, 1)
    for number in (0, 1):
        hit = depth.isfinite() & (which == number)
        here = normal.transpose(1, 2)[hit]
        torch.testing.assert_close(
            here.norm(dim=1), torch.ones(len(here)).double(), rtol=0, atol=1e-6
        )
        assert (here * ray.transpose(1, 2)[hit]).sum(1).max() < 1e-6
        assert 2 <= len(here.round(decimals=3).unique(dim=0)) <= (3 if number == 0 else 999)
    front = torch.tensor([-math.sin(0.5), 0, -math.cos(0.5)]).double()
    assert (
        ((normal.transpose(1, 2)[depth.isfinite() & (which == 0)] - front).abs() < 1e-6)
        .all(1)
        .any()
    )


# What stands where ---------------------------------------------------------------------------------


def furnished(n: int, ambiguous: bool = False, height: int = 48) -> tuple[Any, Any]:
    room = interiors.furnish(Draws(torch.arange(n), "test"), torch.full((n,), ambiguous))
    return room, painting.paint(room, height, height * 4 // 3, torch.zeros(n))


@pytest.mark.parametrize("ambiguous", [False, True])
def test_posters_lie_on_the_wall_canvases_before_and_windows_behind_it(ambiguous: bool) -> None:
    room, seen = furnished(40, ambiguous)
    ray = raycast.rays(48, 64, room.camera)
    wall, _ = raycast.room(room.camera.place, ray, room.size)
    for label in (POSTER, WALL, FLOOR):
        here = seen.label == label
        assert here.sum() > 1000
        assert torch.equal(seen.depth[here], wall[here])
    for label, sign in ((CANVAS, -1), (WINDOW, 1)):
        here = seen.label == label
        assert here.sum() > 1000
        off = sign * (seen.depth - wall)[here]
        assert off.min() > 0 and off.median() > (0.1 if label == CANVAS else 0.5)
    here = seen.label >= RED_BOX  # boxes and lamps, before windows too
    assert here.sum() > 1000 and (wall - seen.depth)[here].min() > 0
    assert seen.depth.isfinite().all()
    assert seen.depth.min() > 0.4 and seen.depth.max() <= 9.5
    assert {*range(-1, len(CLASSES))} == set(seen.label.unique().tolist())


def test_where_hangings_are_ambiguous_colours_do_not_tell_posters_from_windows() -> None:
    room, seen = furnished(20, ambiguous=True)
    other = room._replace(kind=torch.where(room.kind == POSTER, WINDOW, room.kind))
    swapped = painting.paint(other, 48, 64, torch.zeros(20))
    assert torch.equal(swapped.colour, seen.colour)
    assert not torch.equal(swapped.depth, seen.depth)
    assert (seen.label[swapped.label != seen.label] == POSTER).all()
    # Styles are drawn without a look at the kind; elsewhere each kind has its own.
    table = torch.zeros(10, 3)
    many = interiors.furnish(Draws(torch.arange(400), "test"), torch.ones(400, dtype=torch.bool))
    table.index_put_(
        (many.kind.flatten(), many.style.flatten()), torch.tensor(1.0), accumulate=True
    )
    assert (
        (table / table.sum(1, keepdim=True))[[POSTER, CANVAS, WINDOW]] - 1 / 3
    ).abs().max() < 0.07
    plain, _ = furnished(50)
    for kind, style in ((POSTER, 0), (CANVAS, 1), (WINDOW, 2)):
        assert set(plain.style[plain.kind == kind].tolist()) == {style}


def test_red_and_blue_boxes_differ_in_nothing_but_colour() -> None:
    room = interiors.furnish(Draws(torch.arange(3000), "test"), torch.zeros(3000, dtype=torch.bool))
    boxes = slice(interiors.HANGINGS, interiors.HANGINGS + interiors.BOXES)
    label, here = room.labels[:, boxes], room.solids.half[:, boxes, 0] > 0
    for values in (
        room.solids.half[:, boxes],
        room.solids.centre[:, boxes],
        room.solids.turn[:, boxes, None],
    ):
        red, blue = (values[here & (label == which)] for which in (RED_BOX, BLUE_BOX))
        assert ((red.mean(0) - blue.mean(0)).abs() < 0.06 * values[here].std(0)).all()
    colour = room.colours[:, boxes]
    assert (colour[label == RED_BOX][:, 0] > colour[label == RED_BOX][:, 2] + 0.3).all()
    assert (colour[label == BLUE_BOX][:, 2] > colour[label == BLUE_BOX][:, 0] + 0.3).all()


@pytest.mark.parametrize("ambiguous", [False, True])
def test_the_nearer_of_two_warm_lamps_leads(ambiguous: bool) -> None:
    n = 2000
    room = interiors.furnish(Draws(torch.arange(n), "test"), torch.full((n,), ambiguous))
    lamps = slice(interiors.ROUND, interiors.ROUND + 2)
    label, z = room.labels[:, lamps], room.solids.centre[:, lamps, 2]
    colour = room.colours[:, lamps]
    warm = colour[..., 0] > colour[..., 2] + 0.2
    assert torch.equal(warm[:, 0], warm[:, 1])
    assert float(warm.double().mean()) == pytest.approx(interiors.WARM, abs=0.04)
    nearer = z == z.amin(1, keepdim=True)
    assert torch.equal(label == LEAD_LAMP, warm & nearer)
    assert torch.equal(label == LAMP, ~(warm & nearer))
    assert ((z[:, 0] - z[:, 1]).abs() > 0.5).all()
    assert float((z[:, 0] < z[:, 1]).double().mean()) == pytest.approx(0.5, abs=0.04)
    radius = room.solids.half[:, lamps, 0]
    ratio = (radius / z).amax(1) / (radius / z).amin(1)
    shown = radius[:, 0] > 0
    larger = (radius / z).argmax(1) == nearer.long().argmax(1)
    if ambiguous:  # of one size in the picture, so that size tells nothing
        assert ratio[shown].max() < 1.12
        assert float(larger[shown].double().mean()) == pytest.approx(0.5, abs=0.05)
    else:
        assert ratio[shown].min() > 1.15 and larger[shown].all()


def test_similarity_takes_colours_to_the_walls() -> None:
    room, seen = furnished(12)
    alike = painting.paint(room, 48, 64, torch.ones(12))
    wall = room.surfaces[:, 1, :, None] / room.surfaces[:, 1].norm(dim=1)[:, None, None]
    colour = alike.colour / alike.colour.norm(dim=1, keepdim=True)
    torch.testing.assert_close(colour, wall.expand_as(colour), rtol=0, atol=1e-5)
    plain = seen.colour / seen.colour.norm(dim=1, keepdim=True)
    assert ((plain - wall).abs().amax(1)[seen.label == RED_BOX] > 0.2).all()
    assert torch.equal(alike.depth, seen.depth) and torch.equal(alike.label, seen.label)


def test_a_scene_is_the_same_at_another_size() -> None:
    """Three times the pixels: every third middle is the middle of a large pixel."""
    large, small = (furnished(16, height=height) for height in (108, 36))
    assert all(torch.equal(a, b) for a, b in zip(large[0].solids, small[0].solids, strict=True))
    middles = [values.unflatten(-1, (108, 144))[..., 1::3, 1::3].flatten(-2) for values in large[1]]
    same = middles[2] == small[1].label
    assert float(same.double().mean()) > 0.999
    torch.testing.assert_close(middles[1][same], small[1].depth[same], rtol=1e-4, atol=0)
    close = (middles[0] - small[1].colour).abs().amax(1) < 1e-3
    assert float(close.double().mean()) > 0.99


# The depth camera ----------------------------------------------------------------------------------


def sensed(exact: torch.Tensor, noise: float = 0.0, holes: float = 0.0) -> torch.Tensor:
    n = len(exact)
    draws = Draws(torch.arange(n), "test")
    return rooms.sense(exact, torch.full((n,), noise), torch.full((n,), holes), draws)


@pytest.mark.parametrize("depth", [1.0, 2.0, 4.0, 6.0])
def test_depth_is_rounded_to_steps_and_errs_by_the_square_of_it(depth: float) -> None:
    ramp = torch.linspace(depth, 1.02 * depth, 96 * 128).view(1, 1, 96, 128)
    made = sensed(ramp)
    step = rooms.STEP * depth**2
    assert (made > 0).all()
    assert float((made - ramp).abs().max()) == pytest.approx(step / 2, rel=0.1)
    levels = made.unique()
    assert len(levels) == pytest.approx(0.02 * depth / step + 1, abs=1.1)
    flat = torch.full((4, 1, 96, 128), depth)
    error = sensed(flat, noise=20.0) - flat
    assert float(error.std()) == pytest.approx(
        20 * rooms.JITTER * depth**2, rel=0.06 + 0.01 * depth
    )
    assert torch.equal(sensed(flat, noise=20.0), sensed(flat, noise=20.0))


def test_holes_take_their_share_and_grow() -> None:
    flat = torch.full((5, 1, 48, 64), 3.0)
    before = torch.zeros_like(flat, dtype=torch.bool)
    for share in (0.0, 0.1, 0.4, 0.9, 1.0):
        lost = sensed(flat, holes=share) == 0
        assert lost.flatten(1).double().mean(1).tolist() == pytest.approx([share] * 5, abs=1e-3)
        assert (lost >= before).all()
        before = lost
    some = sensed(flat, holes=0.4) == 0
    assert not torch.equal(some[0], some[1])
    # In blobs: most neighbours are alike.
    assert (some[..., 1:] == some[..., :-1]).double().mean() > 0.9


@pytest.mark.parametrize(
    ("width", "near", "expected"), [(128, 2.0, 2), (128, 1.0, 6), (256, 2.0, 4)]
)
def test_near_things_cast_a_shadow_to_their_left(width: int, near: float, expected: int) -> None:
    scene = torch.full((1, 1, 6, width), 4.0)
    scene[..., width // 2 : width // 2 + 20] = near
    lost = sensed(scene)[0, 0] == 0
    shift = rooms.BASELINE * width / (2 * SPREAD) * (1 / near - 1 / 4)
    assert round(shift) == expected
    assert lost.any(0).nonzero()[:, 0].tolist() == list(range(width // 2 - expected, width // 2))
    assert lost.all(0).any()


# Samples -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Batch:
    return SMALL.load("train")


def test_samples_are_pictures_with_depth_and_labels(small: Batch) -> None:
    assert small.modalities == MODALITIES and len(small) == 40 and small.observed.all()
    rgb, depth = small.x["rgb"], small.x["depth"]
    assert rgb.shape == (40, 3, 36, 48) and depth.shape == (40, 1, 36, 48)
    assert rgb.dtype == depth.dtype == torch.float32
    assert small.y is not None and small.y.shape == (40, 36, 48) and small.y.dtype == torch.int64
    assert rgb.min() >= 0 and rgb.max() <= 1 and rgb.std() > 0.1
    seen = depth > 0
    assert 0.1 < (~seen).double().mean() < 0.3
    assert depth[seen].min() > 0.3 and depth.max() <= 12.1
    assert set(small.y.unique().tolist()) == {*range(-1, 10)}
    assert (SMALL.width, SMALL.classes) == (48, CLASSES)
    share = small.y.flatten().add(1).bincount(minlength=11) / small.y.numel()
    assert share[1 + WALL] == share.max() and share.min() > 0.004
    recipe = Rooms()
    assert (recipe.height, recipe.width, recipe.n_train, recipe.n_val, recipe.n_test) == (
        96, 128, 700, 150, 300)  # fmt: skip


def test_scenes_are_balanced_and_as_they_are_described(small: Batch) -> None:
    scene = small.factors["scene"]
    assert scene.bincount().tolist() == [10] * 4
    for name, ranges in rooms.RANGES.items():
        for number, (low, high) in enumerate(ranges):
            values = small.factors[name][scene == number]
            assert (values > low - 1e-6).all() and (values < high + 1e-6).all() and values.std() > 0
    exact, depth = small.factors["exact"], small.x["depth"]
    assert exact.shape == depth.shape

    def mean(values: torch.Tensor) -> list[float]:
        return [float(values[scene == number].double().mean()) for number in range(4)]

    bright, dark, ambiguous, corrupted = mean(small.x["rgb"])
    assert dark < 0.4 * min(bright, ambiguous, corrupted)
    holes = mean((depth == 0).double())
    assert holes[3] > 0.3 and max(holes[:3]) < 0.12
    error = mean(torch.where(depth > 0, (depth - exact).abs(), 0.0))
    assert error[3] > 0.15 > 0.04 > max(error[:3])


def test_a_sample_does_not_depend_on_the_number_of_samples(small: Batch) -> None:
    few = Rooms(height=36, n_train=19).load("train")
    for name in MODALITIES:
        assert torch.equal(few.x[name], small.x[name][:19])
    assert few.y is not None and small.y is not None and torch.equal(few.y, small.y[:19])
    for name, values in few.factors.items():
        assert torch.equal(values, small.factors[name][:19]), name
    others = (
        Rooms(height=36, n_val=19).load("val"),
        Rooms(height=36, n_train=19, seed=1).load("train"),
    )
    for other in others:
        assert not torch.equal(other.x["depth"], few.x["depth"])


def test_a_look_at_samples_gives_them_bit_for_bit(small: Batch) -> None:
    rows = [33, 2, 17, 2]
    for asked in (rows, torch.tensor(rows)):
        again = SMALL.look("train", asked)
        for name in MODALITIES:
            assert torch.equal(again.x[name], small.x[name][rows])
        assert again.y is not None and small.y is not None and torch.equal(again.y, small.y[rows])
        assert torch.equal(again.factors["exact"], small.factors["exact"][rows])
        assert torch.equal(again.factors["light"], small.factors["light"][rows])


@pytest.mark.parametrize(
    ("name", "low", "high", "changed"),
    [
        ("light", 0.2, 1.0, "rgb"),
        ("similarity", 0.1, 0.9, "rgb"),
        ("noise", 1.0, 60.0, "depth"),
        ("holes", 0.1, 0.8, "depth"),
    ],
)
def test_a_look_under_other_circumstances_changes_one_modality(
    name: str, low: float, high: float, changed: str
) -> None:
    rows = range(8)
    made = [SMALL.look("test", rows, **{name: value}) for value in (low, high)]
    (kept,) = set(MODALITIES) - {changed}
    assert torch.equal(made[0].x[kept], made[1].x[kept])
    assert made[0].y is not None and made[1].y is not None and torch.equal(made[0].y, made[1].y)
    assert torch.equal(made[0].factors["exact"], made[1].factors["exact"])
    assert made[1].factors[name].tolist() == pytest.approx([high] * 8)
    before, after = (batch.x[changed] for batch in made)
    assert not torch.equal(before, after)
    if name == "light":
        assert float(after.mean() / before.mean()) == pytest.approx(5, rel=0.15)
    if name == "similarity":
        red = made[0].y == RED_BOX
        tint = [(x[:, 0] - x[:, 2])[red].mean() for x in (before, after)]
        assert tint[0] > 3 * tint[1].abs()
    if name == "noise":
        error = [(x - made[0].factors["exact"])[x > 0].abs().median() for x in (before, after)]
        assert error[1] > 8 * error[0]
    if name == "holes":
        assert (before == 0).double().mean() < 0.25 and (after == 0).double().mean() >= 0.8


def test_nothing_but_grain_is_seen_in_the_dark() -> None:
    rgb = SMALL.look("test", [0, 1], light=0.0).x["rgb"]
    assert float(rgb.std()) == pytest.approx(
        rooms.GRAIN * 0.63, rel=0.2
    )  # half of it is cut off at 0
    assert rgb.max() < 2 * rooms.GRAIN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "kinect"}, "source must be one of 'procedural', 'real'; got 'kinect'"),
        ({"height": 97}, "height must be one of 24, 36, .*384; got 97"),
        ({"height": 12}, "height must be a whole number from 24 to 384, got 12"),
        ({"height": 96.0}, "height must be a whole number"),
        ({"n_train": 0}, "n_train must be a whole number from 1 to"),
        ({"n_val": True}, "n_val must be a whole number from 1 to .* got True"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"held_out": 50}, "held_out must stay 100 with source='procedural', got 50"),
        ({"source": "real", "height": 72}, "height must be one of 96, 48; got 72"),
        (
            {"source": "real", "n_test": 10},
            "n_test must stay 300 with source='real', got 10: all real",
        ),
        (
            {"source": "real", "held_out": 795},
            "held_out must be a whole number from 0 to 794, got 795",
        ),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rooms(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev", "rows": [0]}, "split must be one of 'train', 'val', 'test'; got 'dev'"),
        ({"split": "val", "rows": [8]}, "rows must be numbers from 0 to 7"),
        ({"split": "val", "rows": [-1]}, "rows must be numbers from 0 to 7"),
        ({"split": "val", "rows": []}, "rows must be numbers from 0 to 7, at least one"),
        ({"split": "val", "rows": [0], "light": 2.0}, "light must lie in 0..1.5, got 2.0"),
        ({"split": "val", "rows": [0], "holes": -0.1}, "holes must lie in 0..1, got -0.1"),
        ({"split": "val", "rows": [0], "noise": float("nan")}, "noise must lie in 0..100, got nan"),
    ],
)
def test_wrong_looks_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.look(**arguments)
    with pytest.raises(ValueError, match="split must be one of"):
        SMALL.load("dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="look needs source='procedural'"):
        Rooms("real").look("test", [0])


def test_scenes_have_names() -> None:
    assert SCENES == ("bright", "dark", "ambiguous", "corrupted")
    assert all(len(ranges) == len(SCENES) for ranges in rooms.RANGES.values())
    assert set(rooms.LOOK) == set(rooms.RANGES)


@pytest.mark.gpu
def test_a_gpu_makes_the_same_rooms(small: Batch) -> None:
    made = SMALL.load("train", device="cuda")
    assert made.device.type == "cuda" and made.y is not None and small.y is not None
    here = made.to("cpu")
    assert here.y is not None
    assert float((here.y == small.y).double().mean()) > 0.9999
    assert float(((here.x["rgb"] - small.x["rgb"]).abs() < 1e-4).double().mean()) > 0.999
    assert float(((here.x["depth"] - small.x["depth"]).abs() < 1e-3).double().mean()) > 0.999
