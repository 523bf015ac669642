"""Stills of labs: pictures side by side, as many as can be read."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labkit.live import pictures
from labkit.live.still import MOST, _lines, still


def bars(count: int) -> dict[str, Any]:
    return {f"bars {i}": pictures.bars(["a", "b"], [1.0, 2.0], "Two bars.") for i in range(count)}


@pytest.mark.parametrize(
    ("count", "lines"), [(0, [0]), (1, [1]), (4, [4]), (5, [3, 2]), (9, [3, 3, 3]), (10, [4, 4, 2])]
)  # fmt: skip
def test_a_line_has_no_more_pictures_than_can_be_read(count: int, lines: list[int]) -> None:
    shown = [*bars(count).values()]
    found = _lines(shown)
    assert [len(line) for line in found] == lines and max(lines) <= MOST
    assert [picture for line in found for picture in line] == shown, "in their order"


def test_a_scene_in_colour_begins_a_line() -> None:
    scene = pictures.images(np.zeros((1, 2, 4, 4, 3)), ["row"], ["a", "b"], "Two scenes.")
    charts = [*bars(5).values()]
    found = _lines([charts[0], scene, *charts[1:]])
    assert [len(line) for line in found] == [1, 3, 2] and found[1][0] is scene


def test_a_still_is_at_most_960_pixels_wide_and_grows_with_its_lines() -> None:
    sizes = [
        Image.open(io.BytesIO(still(bars(count), "Bars"))).size for count in (1, MOST, MOST + 1)
    ]
    assert {width for width, _ in sizes} == {960}
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]
