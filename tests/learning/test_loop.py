"""The training loop against torch's own schedulers and a loop written out."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from medrobust.errors import RunError, TrainingError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Schedule, Session, descend


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
        after=lambda step: told.append((step, round(weights[0].item(), 4))),
        session=Session(lambda done, total: told.append((done, total))),
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


def learn(checkpoint: Checkpoint | None, kind: str, stop: int | None = None) -> tuple[Tensor, list[float]]:
    """Twelve steps from zero, or as many as come before the user presses Ctrl-C."""
    weights = torch.zeros(2, requires_grad=True)
    optimiser: torch.optim.Optimizer = (
        torch.optim.AdamW([weights], lr=1.0) if kind == "adamw" else torch.optim.SGD([weights], lr=1.0, momentum=0.9)
    )

    def after(step: int) -> None:
        if step == stop:
            raise KeyboardInterrupt

    history = descend(
        lambda _: bowl(weights), optimiser, Schedule(0.05, 12, warmup=3), after=after,
        session=Session(checkpoint=checkpoint),
    )  # fmt: skip
    return weights.detach(), history


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_training_cut_off_goes_on_to_the_same_end(kind: str, tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "half.safetensors", {"lr": 0.05, "name": "bowl"}, seconds=0.0)
    whole, losses = learn(None, kind)
    with pytest.raises(KeyboardInterrupt):
        learn(kept, kind, stop=7)
    assert len(load_file(kept.path)["history"]) == 7
    again, continued = learn(kept, kind)
    assert torch.equal(again, whole)
    assert continued == losses
    kept.drop()
    assert not kept.path.exists()


def test_a_checkpoint_of_another_training_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    learn(Checkpoint(path, {"lr": 0.05, "classes": ("a", "b")}, seconds=0.0), "sgd")
    before = path.read_bytes()
    learn(Checkpoint(path, {"lr": 0.05, "classes": ("a", "b")}), "sgd")
    with pytest.raises(
        RunError, match=r"half.safetensors is a training cut off, with lr = 0.05, asked for 0.1; finish"
    ):
        learn(Checkpoint(path, {"lr": 0.1, "classes": ("a", "b")}, seconds=0.0), "sgd")
    assert path.read_bytes() == before
    nested = Checkpoint(tmp_path / "nested.safetensors", {"settings": {"eps": 0.1, "batch": 2}}, seconds=0.0)
    learn(nested, "sgd")
    with pytest.raises(RunError, match=r"cut off, with batch = 2, asked for 3; finish"):
        learn(Checkpoint(nested.path, {"settings": {"eps": 0.1, "batch": 3}}), "sgd")
    path.write_bytes(before[:-9])
    with pytest.raises(RunError, match=r"is not a complete checkpoint .*; delete it to begin anew"):
        learn(Checkpoint(path, {"lr": 0.05, "classes": ("a", "b")}, seconds=0.0), "sgd")


def test_a_loss_that_went_backward_itself_is_taken_at_its_word() -> None:
    ours, theirs = (torch.zeros(2, requires_grad=True) for _ in range(2))

    def halves(_: int) -> float:
        total = 0.0
        for _part in range(2):
            value = bowl(theirs) / 2
            value.backward()
            total += value.item()
        return total

    schedule = Schedule(0.05, 5)
    first = descend(lambda _: bowl(ours), torch.optim.SGD([ours], lr=1.0), schedule)
    assert descend(halves, torch.optim.SGD([theirs], lr=1.0), schedule) == pytest.approx(first, rel=1e-6)
    torch.testing.assert_close(ours, theirs)
