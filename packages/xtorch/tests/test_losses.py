from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, mean_pinball_loss
from torch.nn import functional as F

from xtorch import SettingsError
from xtorch.losses import box_iou, dice, focal, iou_loss, pinball, supervised_contrastive


def test_focal_is_that_of_the_paper() -> None:
    logits, targets = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 0.0])
    p = 1 / (1 + np.exp(-logits.numpy()))
    right = np.where(targets.numpy() == 1, p, 1 - p)
    alpha = np.where(targets.numpy() == 1, 0.25, 0.75)
    expected = float((-alpha * (1 - right) ** 2 * np.log(right)).mean())
    assert focal(logits, targets).item() == pytest.approx(expected)
    assert focal(logits, targets, gamma=0, alpha=None).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(logits, targets).item()
    )


def test_dice_of_certain_predictions_is_one_minus_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(3, (2, 5, 5), generator=generator)
    predicted = torch.randint(3, (2, 5, 5), generator=generator)
    logits = F.one_hot(predicted, 3).movedim(-1, 1) * 100.0
    expected = 1 - f1_score(true.ravel(), predicted.ravel(), average="macro")
    assert dice(logits, true, smooth=1e-6).item() == pytest.approx(expected, abs=1e-5)
    assert dice(F.one_hot(true, 3).movedim(-1, 1) * 100.0, true).item() == pytest.approx(0, abs=1e-6)


def test_dice_does_not_see_ignored_pixels() -> None:
    logits = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    true = torch.zeros(1, 4, 4, dtype=torch.long)
    true[:, :2] = 1
    ignored = true.clone()
    ignored[:, 3] = 255
    other = logits.clone()
    other[:, :, 3] = 7 * torch.randn(2, 4)
    assert dice(logits, ignored, ignore_index=255) == dice(other, ignored, ignore_index=255)
    cut = dice(logits[:, :, :3], true[:, :3]).item()
    assert dice(logits, ignored, ignore_index=255).item() == pytest.approx(cut)


def test_pinball_is_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(50, 3, generator=generator), torch.randn(50, generator=generator)
    levels = [0.1, 0.5, 0.9]
    expected = np.mean(
        [mean_pinball_loss(targets, predictions[:, i], alpha=level) for i, level in enumerate(levels)]
    )
    assert pinball(predictions, targets, levels).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(SettingsError):
        pinball(predictions, targets, [0.1, 0.5])
    with pytest.raises(SettingsError):
        pinball(predictions, targets, [0.1, 0.5, 1.0])


def test_supervised_contrastive_is_the_papers_sum() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    unit = F.normalize(z, dim=1).numpy().astype(np.float64)
    values = []
    for i in range(5):  # the sixth is alone
        others = [a for a in range(6) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        below = sum(np.exp(unit[i] @ unit[a] / 0.1) for a in others)
        values.append(-np.mean([np.log(np.exp(unit[i] @ unit[p] / 0.1) / below) for p in positives]))
    assert supervised_contrastive(z, labels).item() == pytest.approx(np.mean(values), rel=1e-5)


def test_supervised_contrastive_is_nothing_where_all_are_alone() -> None:
    z = torch.randn(3, 4, requires_grad=True)
    value = supervised_contrastive(z, torch.arange(3))
    value.backward()
    assert value.item() == 0
    assert z.grad is not None


def test_box_iou_of_known_boxes() -> None:
    first = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1], [3, 3, 3, 3]])
    second = torch.tensor([[1.0, 1, 3, 3], [0, 0, 1, 1], [2, 0, 3, 1], [3, 3, 3, 3]])
    assert box_iou(first, second).tolist() == pytest.approx([1 / 7, 1, 0, 0])
    # Around the first pair: 9, of which 2 are empty; around the third: 3, of which 1.
    assert box_iou(first, second, generalised=True).tolist() == pytest.approx([1 / 7 - 2 / 9, 1, -1 / 3, 0])
    assert iou_loss(first[:3], second[:3]).item() == pytest.approx((3 - (1 / 7 - 2 / 9 + 1 - 1 / 3)) / 3)
    assert iou_loss(first[:0], second[:0]).item() == 0


def test_generalised_iou_pulls_boxes_together_that_do_not_touch() -> None:
    box = torch.tensor([[5.0, 0, 6, 1]], requires_grad=True)
    for generalised in (False, True):
        (gradient,) = torch.autograd.grad(
            iou_loss(box, torch.tensor([[0.0, 0, 1, 1]]), generalised=generalised), box
        )
        assert (gradient.abs().sum() > 0) == generalised
