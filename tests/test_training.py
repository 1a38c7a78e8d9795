"""The training loop against torch's own schedulers and a loop written out."""

import math

import pytest
import torch
from torch import Tensor

from medrobust.errors import TrainingError
from medrobust.training import Schedule, descend


@pytest.mark.parametrize(("lr", "steps"), [(0.002, 1), (1e-4, 7), (3.0, 50)])
def test_the_decay_is_torchs_cosine(lr: float, steps: int) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
    for step in range(steps):
        assert Schedule(lr, steps).at(step) == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimiser.step()
        reference.step()


def test_the_warm_up_is_linear_or_constant_and_the_decay_starts_after_it() -> None:
    linear = Schedule(0.8, 12, warmup=4)
    assert [linear.at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    constant = Schedule(0.8, 12, warmup=4, warmup_lr=1e-5)
    assert [constant.at(step) for step in range(5)] == pytest.approx([1e-5] * 4 + [0.8])
    assert linear.at(8) == pytest.approx(0.4)
    assert linear.at(12) == pytest.approx(0.0)
    assert [Schedule(0.8, 12, warmup=1, decay="none").at(step) for step in (1, 6, 11)] == [0.8] * 3


def bowl(weights: Tensor) -> Tensor:
    return ((weights - torch.tensor([1.0, -2.0])) ** 2 * torch.tensor([1.0, 3.0])).sum()


def test_descend_is_the_loop_one_would_write() -> None:
    ours, theirs = (torch.zeros(2, requires_grad=True) for _ in range(2))
    schedule = Schedule(0.05, 20, warmup=3)
    history = descend(lambda _: bowl(ours), torch.optim.SGD([ours], lr=9.0, momentum=0.9), schedule)
    optimiser = torch.optim.SGD([theirs], lr=9.0, momentum=0.9)
    expected = []
    for step in range(20):
        optimiser.param_groups[0]["lr"] = schedule.at(step)
        value = bowl(theirs)
        expected.append(value.item())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert history == expected
    assert torch.equal(ours, theirs)
    assert history[-1] < 0.1 * history[0]


def test_a_group_may_learn_at_a_multiple_of_the_rate() -> None:
    slow, fast = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.SGD([{"params": [slow]}, {"params": [fast], "lr_factor": 10.0}], lr=1.0)
    descend(lambda _: (slow + fast).sum(), optimiser, Schedule(0.1, 1, decay="none"))
    assert (slow.item(), fast.item()) == pytest.approx((-0.1, -1.0))


def test_gradients_are_clipped_to_their_joint_length() -> None:
    one, other = (torch.zeros(1, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.SGD([{"params": [one]}, {"params": [other]}], lr=1.0)
    descend(lambda _: (30 * one + 40 * other).sum(), optimiser, Schedule(1.0, 1, decay="none"), clip_norm=0.5)
    assert (one.item(), other.item()) == pytest.approx((-0.3, -0.4), rel=1e-4)


def test_callers_are_told_of_every_step_after_it() -> None:
    weights = torch.zeros(2, requires_grad=True)
    told: list[object] = []
    descend(
        lambda _: bowl(weights),
        torch.optim.SGD([weights], lr=1.0),
        Schedule(0.1, 2, decay="none"),
        progress=lambda done, total: told.append((done, total)),
        after=lambda step: told.append((step, round(weights[0].item(), 4))),
    )
    assert told == [(0, 0.2), (1, 2), (1, 0.36), (2, 2)]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_it_harms_the_weights(broken: float) -> None:
    weights = torch.zeros(2, requires_grad=True)
    values = [1.0, broken, 1.0]
    with pytest.raises(TrainingError, match=rf"the loss became {broken} at step 2; lower the learning rate"):
        descend(
            lambda step: bowl(weights) * values[step],
            torch.optim.SGD([weights], lr=1.0),
            Schedule(0.1, 3, decay="none"),
        )
    assert weights.tolist() == pytest.approx([0.2, -1.2])
