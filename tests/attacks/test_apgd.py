"""Auto-PGD: its schedule is the paper's, its step adapts, its targets are aimed at."""

from typing import Literal

import pytest
import torch
from attacks.test_pgd import GREY, LABELS, valley
from toys import Recorder, flatten

from medrobust.attacks import AttackError, Ball
from medrobust.attacks.apgd import Apgd, checkpoints
from medrobust.attacks.ball import Norm
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Logits


def test_checkpoints_of_the_paper() -> None:
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(100)[41] == 22
    assert list(checkpoints(10)) == [3, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_step_halves_until_the_top_is_reached(norm: Norm) -> None:
    """Every step of fixed length would swing about the top at 0.62."""
    found = Apgd(loss="margin")(valley(), GREY, LABELS, ball=Ball(norm, 0.3), generator=stream(0, "test"))
    assert found[:, 0].flatten().tolist() == pytest.approx([0.62, 0.62], abs=2e-3)


def test_the_first_steps_by_hand() -> None:
    """x1 = P(x0 + 2 eps) = 0.8, beyond the top; z = P(x1 - 2 eps) = 0.2; x2 = x1 + 0.75 (z - x1) + 0.25 (x1 - x0)."""
    recorder, ball = Recorder(), Ball("linf", 0.3)
    watched = Classifier(recorder, valley().head)
    Apgd(loss="margin", steps=3)(watched, GREY, LABELS, ball=ball, generator=stream(0, "test"))
    start, first, second = (images[:, 0].flatten() for images in recorder.seen[1:4])
    low = start < 0.62
    assert bool(low.any())
    torch.testing.assert_close(first[low], torch.full_like(first[low], 0.8))
    wanted = first + 0.75 * (0.2 - first) + 0.25 * (first - start)
    torch.testing.assert_close(second[low], wanted[low].clamp(0.2, 0.8))


def test_a_halved_step_goes_on_from_the_top() -> None:
    """Of ten steps, the last are checkpoints each. From the top every one overshoots, so the next is half as long."""
    recorder, ball = Recorder(), Ball("linf", 0.3)
    watched = Classifier(recorder, valley().head)
    Apgd(loss="margin", steps=10)(watched, GREY[:1], LABELS[:1], ball=ball, generator=stream(0, "test"))
    seen = torch.stack([images[0, 0, 0, 0].detach() for images in recorder.seen])
    top = seen[:-4][(seen[:-4] - 0.62).abs().argmin()]
    assert 0.6 < float(top) < 0.62
    torch.testing.assert_close(seen[-4:], top + 0.75 * 0.3 / torch.tensor([2.0, 4.0, 8.0, 16.0]))


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_targets_beyond_the_likeliest_are_reached(loss: Literal["ce", "dlr", "margin"]) -> None:
    """Class 1 is likeliest but its logit never moves; only an attack that aims at others too finds class 2."""

    def head(features: Features) -> Logits:
        still = 0 * features[:, :1]
        return torch.cat(
            [still + 1, still + 0.9, 5.2 * (features[:, 1:2] - 0.5), 5.2 * (features[:, 2:] - 0.51)], dim=1
        )

    found = {}
    for targets in (1, 3):
        attack = Apgd(loss=loss, targets=targets, steps=20)
        attacked = attack(Classifier(flatten, head), GREY, LABELS, ball=Ball("linf", 0.2), generator=stream(0, "test"))
        found[targets] = set(head(flatten(attacked)).argmax(dim=1).tolist())
    assert found[1] == {0} or loss == "ce"  # cross-entropy towards class 1 also pushes the others down
    assert found[3] == {2}


def test_restarts_start_elsewhere() -> None:
    """A loss without slope stays at its starts; with a second one the best of both is kept."""
    spots = []
    for restarts in (1, 2, 3):
        attack = Apgd(loss="margin", steps=1, restarts=restarts)
        found = attack(valley(), GREY, LABELS, ball=Ball("linf", 0.3), generator=stream(0, "test"))
        spots.append((found[:, 0].flatten() - 0.62).abs())
    assert bool((spots[1] <= spots[0]).all())
    assert bool((spots[2] < spots[0]).any())


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(AttackError, match="-1 targets were asked for"):
        Apgd(targets=-1)
