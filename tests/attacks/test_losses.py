"""Losses against numbers worked out by hand, and against what must not change them."""

import pytest
import torch

from medrobust.attacks import losses
from medrobust.attacks.errors import AttackError
from medrobust.types import Labels, Logits

LOGITS = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
LABELS = torch.tensor([0, 1])


def test_values_by_hand() -> None:
    assert losses.margin(LOGITS, LABELS).tolist() == [-1.0, 3.0]
    torch.testing.assert_close(losses.dlr(LOGITS, LABELS), torch.tensor([-1 / 3, 3 / 3]))
    targets = torch.tensor([1, 0])
    assert losses.targeted_margin(LOGITS, LABELS, targets).tolist() == [-3.0, 3.0]
    torch.testing.assert_close(losses.targeted_dlr(LOGITS, LABELS, targets), torch.tensor([-3 / 3.5, 3 / 3.5]))
    softmax = LOGITS.softmax(dim=1)
    torch.testing.assert_close(
        losses.cross_entropy(LOGITS, LABELS), torch.stack([-softmax[0, 0].log(), -softmax[1, 1].log()])
    )


def scaled_margin(logits: Logits, labels: Labels) -> torch.Tensor:
    return losses.scale_free_margin(logits, labels, losses.logit_range(logits))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_scale_free_margin_knows_no_scale_and_keeps_a_gradient(classes: int) -> None:
    labels = torch.tensor([0, 0])
    logits = torch.tensor([[2.0, -1.0, 0.5], [1.0, 3.0, -2.0]])[:, :classes].requires_grad_(True)
    value = scaled_margin(logits, labels)
    for changed in (1000 * logits, logits + 7, 0.001 * logits - 3):
        torch.testing.assert_close(scaled_margin(changed, labels), value, atol=1e-3, rtol=1e-3)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert bool((gradient.abs().amax(dim=1) > 0.1).all())
    assert ((value > 0) == losses.wrong(logits, labels)).all()


def test_the_scale_free_margin_towards_targets() -> None:
    scale, targets = torch.tensor([2.0, 4.0]), torch.tensor([3, 2])
    assert losses.scale_free_margin(LOGITS, LABELS, scale, targets).tolist() == [-2.0, 0.5]


def test_dlr_knows_no_scale() -> None:
    torch.testing.assert_close(losses.dlr(100 * LOGITS - 5, LABELS), losses.dlr(LOGITS, LABELS))


def test_too_few_classes() -> None:
    with pytest.raises(AttackError, match="third largest logit, and there are 2 classes"):
        losses.dlr(LOGITS[:, :2], LABELS)
    with pytest.raises(AttackError, match="fourth largest logits, and there are 3 classes"):
        losses.targeted_dlr(LOGITS[:, :3], LABELS, LABELS)
    assert losses.dlr(LOGITS[:, :3], LABELS).isfinite().all()


def test_spread_is_never_zero() -> None:
    logits = torch.tensor([[1.0, 4.0], [2.0, 2.0], [torch.nan, 0.0], [torch.inf, 0.0]])
    assert losses.logit_range(logits).tolist() == [3.0, 1.0, 1.0, 1.0]


def test_wrong_answers() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 0.0], [torch.inf, 0.0], [1.0, -torch.inf], [1.0, 1.0]])
    assert losses.wrong(logits, torch.zeros(6, dtype=torch.int64)).tolist() == [False, True, True, True, True, False]


def test_the_likeliest_other_classes() -> None:
    assert losses.likeliest_others(LOGITS, LABELS, 2).tolist() == [[2, 1], [0, 2]]
    assert losses.likeliest_others(LOGITS, LABELS, 9).shape == (2, 3)
