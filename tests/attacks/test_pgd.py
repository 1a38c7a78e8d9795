"""Steps of PGD against what can be worked out by hand."""

import pytest
import torch
from attacks.borders import border
from toys import Recorder, flatten, linear

from medrobust.attacks import AttackError, Ball, NoGradientError
from medrobust.attacks.losses import margin
from medrobust.attacks.pgd import Pgd, ascend
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Images, Logits

GREY = torch.full((2, 3, 1, 1), 0.5)
LABELS = torch.tensor([0, 0])


def valley(offset: float = 1.0) -> Classifier:
    """Class 0 always; the margin is highest where the first pixel is 0.62, and the second pulls nowhere."""

    def head(features: Features) -> Logits:
        return torch.stack([offset + 100 * (features[:, 0] - 0.62).square(), torch.zeros(len(features))], dim=1)

    return Classifier(flatten, head)


def test_one_step_from_the_image_itself() -> None:
    sure = linear(torch.tensor([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([50.0, 0.0]))
    for norm, step in (("linf", [-0.1, 0.1, 0.0]), ("l2", [-0.06, 0.08, 0.0])):
        attack = Pgd(steps=1, step=0.1, random_start=False, loss="margin")
        attacked = attack(sure, GREY, LABELS, ball=Ball(norm, 0.2), generator=stream(0, "test"))
        torch.testing.assert_close(attacked.flatten(1), GREY.flatten(1) + torch.tensor(step), atol=1e-6, rtol=0)


def test_the_usual_step_reaches_across_the_ball() -> None:
    sure = linear(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([50.0, 0.0]))
    for steps in (1, 10):
        attacked = Pgd(steps=steps, loss="margin")(sure, GREY, LABELS, ball=Ball("linf", 0.1), generator=stream(0, "t"))
        torch.testing.assert_close(attacked[:, 0].flatten(), torch.tensor([0.4, 0.4]), atol=1e-6, rtol=0)


def test_keeps_the_best_point_not_the_last() -> None:
    """Steps of 0.1 swing about the top at 0.62 and end at 0.7; the point 0.6 on the way is better."""
    ball, attack = Ball("linf", 0.2), Pgd(steps=4, step=0.1, random_start=False, loss="margin")
    best = attack(valley(), GREY, LABELS, ball=ball, generator=stream(0, "test"))
    assert best[:, 0].flatten().tolist() == pytest.approx([0.6, 0.6])
    final = ascend(
        lambda points: margin(valley()(points), LABELS), GREY, ball=ball, steps=4, step=0.1, start=GREY.clone()
    )
    assert final[:, 0].flatten().tolist() == pytest.approx([0.7, 0.7], abs=0.11)


def test_a_climb_goes_on_after_success_and_attacks_the_wrong_ones() -> None:
    known = border(4)
    labels = known.labels.clone()
    labels[0] = 3
    ball = Ball("linf", 2 * known.linf)

    def entropy(points: Images) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(known.classifier(points), labels, reduction="none")

    attacked = ascend(entropy, known.images, ball=ball, steps=20, step=ball.eps / 8, start=known.images)
    assert not torch.equal(attacked[0], known.images[0])
    assert ball.contains(attacked, known.images).all()
    stopped = Pgd(steps=20)(known.classifier, known.images, labels, ball=ball, generator=stream(0, "test"))
    assert float(entropy(attacked).mean()) > float(entropy(stopped).mean()) + 1


def test_a_climb_leaves_no_gradient_in_parameters() -> None:
    weight = torch.ones(3, 1, 1, requires_grad=True)
    ascend(lambda points: (weight * points).sum(dim=(1, 2, 3)), GREY, ball=Ball("l2", 0.1), steps=2, step=0.1,
           start=GREY)  # fmt: skip
    assert weight.grad is None
    with pytest.raises(NoGradientError, match="cuts the graph"):
        ascend(lambda points: weight.sum().expand(len(points)), GREY, ball=Ball("l2", 0.1), steps=1, step=0.1,
               start=GREY)  # fmt: skip


def test_broken_images_are_asked_no_more() -> None:
    known, recorder = border(4), Recorder()
    watched = Classifier(recorder, known.classifier.head)
    attack, ball = Pgd(steps=50, step=0.02, random_start=False), Ball("linf", 2 * known.linf)
    attack(watched, known.images, known.labels, ball=ball, generator=stream(0, "test"))
    assert sum(len(images) for images in recorder.seen) <= 3 * 6  # of 52; four steps cross the border


def test_restarts_find_what_one_start_misses() -> None:
    """Two hills: only starts on the right side of 0.5 climb the one that breaks the model."""

    def head(features: Features) -> Logits:
        first = features[:, 0]
        lead = torch.where(first > 0.55, 1 - 20 * (first - 0.55), 1 - (0.55 - first).abs() * 0.1)
        return torch.stack([lead, torch.zeros(len(features))], dim=1)

    images, labels = torch.full((32, 3, 1, 1), 0.5), torch.zeros(32, dtype=torch.int64)
    wrong = []
    for restarts in (1, 8):
        attack = Pgd(steps=5, step=0.01, restarts=restarts)
        found = attack(Classifier(flatten, head), images, labels, ball=Ball("linf", 0.12), generator=stream(0, "test"))
        with torch.no_grad():
            wrong.append(int(head(flatten(found)).argmax(dim=1).sum()))
    assert 0 < wrong[0] < 24
    assert wrong[1] > wrong[0] + 5


def test_momentum_goes_on_where_the_gradient_turned() -> None:
    """Only the first pixel matters up to 0.55, only the second from there on."""

    def head(features: Features) -> Logits:
        first, second = features[:, 0], features[:, 1]
        lead = torch.where(first < 0.55, 9 - first, 8 - second)
        return torch.stack([lead, torch.zeros(len(features))], dim=1)

    moved = []
    for momentum in (0.0, 0.9):
        attack = Pgd(steps=6, step=0.02, momentum=momentum, random_start=False, loss="margin")
        found = attack(Classifier(flatten, head), GREY, LABELS, ball=Ball("l2", 0.3), generator=stream(0, "test"))
        moved.append(float(found[0, 0, 0, 0]))
    assert moved[0] == pytest.approx(0.56, abs=1e-5)
    assert moved[1] > 0.57


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"steps": 0}, "0 steps and 1 restarts"), ({"step": 20.0}, "step is 20, must be positive and in pixels"),
     ({"random_start": False, "restarts": 2}, "same point")],
)  # fmt: skip
def test_settings_that_make_no_sense(settings: dict, sentence: str) -> None:
    with pytest.raises(AttackError, match=sentence):
        Pgd(**settings)
