"""Confusion matrices of pixels, intersection over union, pixel accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

from labkit.metrics_segmentation import confusion, iou, mean_iou, pixel_accuracy


def drawn(seed: int = 0, images: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are right at two pixels of three, and labels of which some are none."""
    generator = torch.Generator().manual_seed(seed)
    shape = (images, 12, 16)
    y = torch.randint(-1, classes, shape, generator=generator)
    other = torch.randint(0, classes, shape, generator=generator)
    right = torch.rand(shape, generator=generator) < 2 / 3
    return torch.where(right & (y >= 0), y, other), y


def test_a_matrix_counted_by_hand() -> None:
    y = torch.tensor([[[0, 0, 1], [1, 2, -1]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 2]]])
    matrix = confusion(predicted, y, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert matrix.dtype == torch.int64
    assert iou(matrix).tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])
    assert iou(matrix, "skip").tolist() == pytest.approx(
        [1 / 3, 2 / 3, 0, float("nan")], nan_ok=True
    )
    assert float(mean_iou(matrix)) == pytest.approx(1 / 4)
    assert float(mean_iou(matrix, "skip")) == pytest.approx(1 / 3)
    assert float(pixel_accuracy(matrix)) == pytest.approx(3 / 5)


def test_perfect_is_1_and_all_wrong_is_0() -> None:
    _, y = drawn()
    perfect = confusion(y.clamp(min=0), y, 5)
    assert iou(perfect).tolist() == [1] * 5
    assert float(mean_iou(perfect)) == float(pixel_accuracy(perfect)) == 1
    wrong = confusion((y.clamp(min=0) + 1) % 5, y, 5)
    assert float(mean_iou(wrong)) == float(pixel_accuracy(wrong)) == 0
    assert torch.equal(perfect.sum(1), wrong.sum(1))


def test_pixels_without_a_class_change_nothing() -> None:
    predicted, y = drawn()
    before = confusion(predicted, y, 5)
    void = y < 0
    assert 30 < int(void.sum()) == y.numel() - int(before.sum())
    order = torch.randperm(int(void.sum()), generator=torch.Generator().manual_seed(1))
    permuted = predicted.clone()
    permuted[void] = predicted[void][order]
    assert not torch.equal(permuted, predicted)
    assert torch.equal(confusion(permuted, y, 5), before)
    permuted[void] = 77  # whatever stands there
    assert torch.equal(confusion(permuted, torch.where(void, -9, y), 5), before)


def test_matrices_of_batches_add_up() -> None:
    predicted, y = drawn(images=7)
    whole = confusion(predicted, y, 5)
    parts = sum(confusion(predicted[k : k + 3], y[k : k + 3], 5) for k in (0, 3, 6))
    assert torch.equal(torch.as_tensor(parts), whole)
    single = confusion(predicted, y, 5, per_image=True)
    assert single.shape == (7, 5, 5) and torch.equal(single.sum(0), whole)
    assert torch.equal(single[4], confusion(predicted[4:5], y[4:5], 5))
    assert mean_iou(single).shape == (7,)


def test_leading_axes_are_batch_axes() -> None:
    first, y = drawn(0)
    second, third = ((first + k) % 5 for k in (1, 2))
    stacked = torch.stack((first, second, third))
    made = confusion(stacked, y, 5)
    assert made.shape == (3, 5, 5)
    for k, predicted in enumerate((first, second, third)):
        assert torch.equal(made[k], confusion(predicted, y, 5))
        assert float(mean_iou(made)[k]) == float(mean_iou(made[k]))
    each = confusion(stacked[None], y, 5, per_image=True)
    assert each.shape == (1, 3, 6, 5, 5) and torch.equal(each.sum(2)[0], made)


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_agrees(seed: int) -> None:
    predicted, y = drawn(seed)
    known = y >= 0
    truth, called = y[known].numpy(), predicted[known].numpy()
    matrix = confusion(predicted, y, 5)
    assert np.array_equal(matrix, confusion_matrix(truth, called, labels=range(5)))
    each = jaccard_score(truth, called, labels=range(5), average=None)
    assert iou(matrix).tolist() == pytest.approx(each.tolist())
    assert float(mean_iou(matrix)) == pytest.approx(jaccard_score(truth, called, average="macro"))
    wide = confusion(predicted, y, 8)  # three classes that are nowhere
    with_absent = jaccard_score(truth, called, labels=range(8), average="macro", zero_division=0)
    assert float(mean_iou(wide)) == pytest.approx(with_absent)
    assert float(mean_iou(wide)) == pytest.approx(float(mean_iou(matrix)) * 5 / 8)
    assert float(mean_iou(wide, "skip")) == pytest.approx(float(mean_iou(matrix)))


def test_nothing_known_scores_nothing() -> None:
    matrix = confusion(torch.zeros(2, 3, 3, dtype=torch.int64), torch.full((2, 3, 3), -1), 4)
    assert matrix.sum() == 0 and float(mean_iou(matrix)) == 0
    assert mean_iou(matrix, "skip").isnan() and pixel_accuracy(matrix).isnan()


Y = torch.zeros(2, 3, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predicted": Y[:1]}, r"got \(2, 3, 4\) and \(1, 3, 4\)"),
        ({"predicted": Y.float()}, "classes must be int64, got torch.float32 and torch.int64"),
        ({"predicted": Y + 3}, "classes must lie in 0..2 .*; 24 pixels do not"),
        ({"predicted": Y - 1}, "24 pixels do not"),
        ({"y": Y + 3}, "24 pixels do not"),
        ({"y": Y[0]}, r"y must be \(B, H, W\)"),
        ({"classes": 0}, "classes must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion(**({"predicted": Y, "y": Y, "classes": 3} | arguments))
    with pytest.raises(ValueError, match="absent must be 'zero' or 'skip', got 'one'"):
        iou(torch.ones(3, 3), "one")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"matrix must be \(..., C, C\), got \(3, 2\)"):
        mean_iou(torch.ones(3, 2))
