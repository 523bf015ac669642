"""F1 of several labels: what scikit-learn says, known answers, and what no label leaves undefined."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import f1_score

from labkit.metrics_labels import label_f1, label_floor

YES, NO = 2.0, -2.0


def drawn(*shape: int, share: float = 0.3, seed: int = 0) -> torch.Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share).float()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_every_score_is_scikit_learns(share: float) -> None:
    y = drawn(60, 7, share=share)
    y[:, 3] = 0
    logits = torch.randn(4, 60, 7, generator=torch.Generator().manual_seed(1)) - 0.5
    logits[0] = NO  # nothing is ever predicted
    logits[1, :, 3] = NO  # a label that neither occurs nor is predicted
    scores = label_f1(logits, y)
    for row, predicted in enumerate((logits > 0).int().numpy()):
        for average, ours in (
            ("micro", scores.micro),
            ("macro", scores.macro),
            (None, scores.each),
        ):
            theirs = f1_score(y.int().numpy(), predicted, average=average, zero_division=0)
            assert ours[row].tolist() == pytest.approx(theirs), (row, average)


def test_known_answers() -> None:
    y = torch.tensor([[1, 1], [1, 0], [0, 0], [0, 0]])
    logits = torch.tensor([[YES, NO], [YES, YES], [YES, NO], [NO, NO]])
    scores = label_f1(logits, y)  # TP 2, FP 1, FN 0 and TP 0, FP 1, FN 1
    assert scores.each.tolist() == pytest.approx([0.8, 0])
    assert float(scores.macro) == pytest.approx(0.4)
    assert float(scores.micro) == pytest.approx(4 / 7)
    assert scores.micro.dtype == scores.macro.dtype == scores.each.dtype == torch.float64


def test_micro_is_macro_where_labels_have_the_same_confusions() -> None:
    y, logits = drawn(50, 1), torch.randn(50, 1, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    scores = label_f1(torch.cat((logits, logits[order]), 1), torch.cat((y, y[order]), 1))
    assert 0 < float(scores.micro) < 1
    assert float(scores.micro) == pytest.approx(float(scores.macro), abs=1e-12)


def test_a_rare_label_that_is_never_found_costs_macro_more_than_micro() -> None:
    y = torch.zeros(100, 2)
    y[:50, 0], y[:2, 1] = 1, 1
    logits = torch.where(torch.tensor([True, False]), y * 4 - 2, NO)
    scores = label_f1(logits, y)
    assert float(scores.macro) == pytest.approx(0.5) and float(scores.micro) == pytest.approx(
        100 / 102
    )


def test_a_label_that_never_occurs_counts_as_0_and_so_does_nothing_at_all() -> None:
    y = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    scores = label_f1(y * 4 - 2, y)
    assert (
        scores.each.tolist() == [1, 0] and float(scores.macro) == 0.5 and float(scores.micro) == 1
    )
    nothing = label_f1(torch.full((3, 2), NO), torch.zeros(3, 2))
    assert float(nothing.micro) == float(nothing.macro) == 0


def test_the_threshold_is_a_probability_of_one_half_and_itself_no_prediction() -> None:
    y, logits = drawn(40, 5), torch.randn(40, 5, generator=torch.Generator().manual_seed(4))
    assert torch.equal(label_f1(logits, y).each, label_f1(logits.sigmoid(), y, threshold=0.5).each)
    assert not torch.equal(label_f1(logits, y).each, label_f1(logits, y, threshold=0.5).each)
    assert float(label_f1(torch.zeros(2, 1), torch.ones(2, 1)).micro) == 0


def test_leading_axes_are_scored_one_by_one_and_no_gradient_is_kept() -> None:
    y = drawn(30, 4).bool()
    logits = torch.randn(
        2, 3, 30, 4, generator=torch.Generator().manual_seed(5), requires_grad=True
    )
    scores = label_f1(logits, y)
    assert scores.micro.shape == scores.macro.shape == (2, 3) and scores.each.shape == (2, 3, 4)
    assert not scores.micro.requires_grad
    assert torch.equal(scores.macro[1, 2], label_f1(logits[1, 2], y).macro)
    assert torch.equal(scores.micro[0, 1], label_f1(logits[0, 1], y).micro)


def test_the_floor_is_the_best_constant_answer() -> None:
    y_train, y = drawn(200, 5, seed=6) * 0, drawn(80, 5, seed=7)
    for label, share in enumerate((0.05, 0.6, 0.4, 0.5, 0.1)):
        y_train[: int(200 * share), label] = 1
    floor = label_floor(y_train, y)
    every = torch.cartesian_prod(*[torch.tensor([NO, YES])] * 5)  # all 32 constant answers
    known = label_f1(every[:, None].expand(-1, 200, -1), y_train).micro
    best = every[known.argmax()]
    assert best.tolist() == [NO, YES, YES, YES, NO]
    assert float(floor.micro) == pytest.approx(float(label_f1(best.expand(80, 5), y).micro))
    macro = label_f1(every[:, None].expand(-1, 80, -1), y).macro
    assert float(floor.macro) == pytest.approx(float(macro.max()))
    assert floor.each.shape == (5,)


@pytest.mark.parametrize(
    ("logits", "y", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), r"\(\.\.\., B, K\).*\(3, 2\).*\(3, 4\)"),
        (torch.zeros(3), torch.zeros(3), "logits must be floating point, of shape"),
        (torch.zeros(3, 2).long(), torch.zeros(3, 2), "logits must be floating point"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "at least one sample and one label"),
        (torch.zeros(3, 0), torch.zeros(3, 0), "at least one sample and one label"),
        (torch.zeros(3, 2), torch.full((3, 2), 0.5), r"y must hold 0 and 1, got \[0.5\]"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 2), "logits hold 6 NaN"),
    ],
)
def test_what_does_not_fit_is_named(logits: torch.Tensor, y: torch.Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        label_f1(logits, y)


def test_a_floor_of_other_labels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, K\) and \(B, K\).*\(3, 2\).*\(3, 4\)"):
        label_floor(torch.zeros(3, 2), torch.zeros(3, 4))


@pytest.mark.gpu
def test_scores_lie_where_the_logits_lie() -> None:
    y, logits = drawn(40, 5), torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(4))
    here, there = label_f1(logits, y), label_f1(logits.cuda(), y.cuda())
    assert there.macro.is_cuda and torch.allclose(there.macro.cpu(), here.macro)
