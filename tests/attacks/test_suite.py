"""The suite: which attacks ran, what it may be called, who judges, and what it warns of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from attacks.borders import Border, border
from attacks.test_every_attack import ruffled
from attacks.test_square import rounded
from toys import Recorder, flatten

from medrobust.attacks import AttackError, Ball, suite
from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import in_batches, judge
from medrobust.attacks.fab import Fab
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.report import Report
from medrobust.attacks.square import Square
from medrobust.attacks.suite import run_suite, standard_set
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Images, Logits

QUICK = {"pgd": Pgd(steps=8), "square": Square(queries=40)}


@dataclass(frozen=True)
class StandIn:
    """Any function as an attack."""

    function: Callable[..., Images]
    needs_gradients: ClassVar[bool] = True
    fewest_classes: ClassVar[int] = 2

    def cost(self, classes: int) -> int:
        return 0

    def __call__(self, *given: object, **named: object) -> Images:
        return self.function(*given, **named)


@dataclass(frozen=True)
class Shift:
    """An attack that adds a number to every pixel, whatever the ball."""

    by: float
    needs_gradients: ClassVar[bool] = True
    fewest_classes: ClassVar[int] = 2

    def cost(self, classes: int) -> int:
        return 0

    def __call__(self, classifier: Classifier, images: Images, labels: torch.Tensor, **_: object) -> Images:
        return images + self.by


def run(known: Border, eps: float, classifier: Classifier | None = None, **options: object) -> Report:
    ball = Ball("linf", eps)
    chosen = {"generator": stream(0, "test"), "attacks": QUICK} | options
    return run_suite(classifier or known.classifier, known.images, known.labels, ball=ball, **chosen)  # type: ignore[arg-type]


def test_the_published_set() -> None:
    assert standard_set(4) == standard_set(10) == {
        "apgd-ce": Apgd(loss="ce", targets=0, steps=100, restarts=1, rho=0.75),
        "apgd-t": Apgd(loss="dlr", targets=9, steps=100, restarts=1, rho=0.75),
        "fab-t": Fab(targets=9, steps=100, restarts=1),
        "square": Square(queries=5000, restarts=1, area=0.8),
    }  # fmt: skip
    assert list(standard_set(4)) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert standard_set(3) == standard_set(2)
    assert standard_set(2)["apgd-t-margin"] == Apgd(loss="margin", targets=9)


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_breaks_everything_beyond_the_border_and_says_what_it_is(classes: int) -> None:
    known = border(classes)
    report = run(known, 1.25 * known.linf, attacks=None)
    assert (report.clean_accuracy, report.robust_accuracy) == (1.0, 0.0)
    assert report.broken_by == ("apgd-ce",) * 3
    assert report.classes == classes
    assert report.standard == (classes >= 4)
    assert report.title.startswith("AutoAttack standard (apgd-ce, apgd-t, fab-t, square)") == (classes >= 4)
    assert ("not AutoAttack's standard: targeted DLR needs 4 classes" in report.title) == (classes < 4)
    assert report.flags == ()
    torch.testing.assert_close(report.distance, Ball("linf", 1.0 - 1e-9).distance(report.images, known.images))


@pytest.mark.usefixtures("short_suite")
@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_breaks_nothing_before_the_border(classes: int) -> None:
    known = border(classes)
    report = run(known, 0.95 * known.linf, attacks=None)
    assert (report.clean_accuracy, report.robust_accuracy) == (1.0, 1.0)
    assert report.broken_by == (None,) * 3
    assert torch.equal(report.images, known.images)
    assert report.distance.tolist() == [0.0] * 3
    assert [stage.tried for stage in report.stages] == [3] * 4
    assert report.flags == ()


def test_other_settings_are_not_standard() -> None:
    known = border(4)
    report = run(known, 0.01)
    assert not report.standard
    assert "(pgd, square), not AutoAttack's standard: the set or its settings differ" in report.title


def test_only_images_still_right_go_on() -> None:
    known, recorder = border(4), Recorder()
    labels = torch.tensor([3, *known.labels[1:].tolist()])
    first = Pgd(steps=8)

    def half(classifier: Classifier, images: Images, labels: torch.Tensor, **rest: object) -> Images:
        return torch.cat([first(classifier, images[:1], labels[:1], **rest), images[1:]])  # type: ignore[arg-type]

    def watch(classifier: Classifier, images: Images, labels: torch.Tensor, **_: object) -> Images:
        recorder(images)
        return images

    report = run_suite(
        known.classifier, known.images, labels, ball=Ball("linf", 1.5 * known.linf),
        generator=[stream(0, "item", row) for row in range(3)],
        attacks={"half": StandIn(half_fixed(half)), "watch": StandIn(watch)},
    )  # fmt: skip
    assert report.broken_by == ("clean", "half", None)
    assert [(stage.name, stage.tried, stage.broken) for stage in report.stages] == [("half", 2, 1), ("watch", 1, 0)]
    assert torch.equal(recorder.seen[0], known.images[2:])
    assert report.clean_accuracy == pytest.approx(2 / 3)
    assert report.robust_accuracy == pytest.approx(1 / 3)
    assert torch.equal(report.images[0], known.images[0])


def half_fixed(half: object) -> Callable[..., Images]:
    """One generator an image is given; the half attacks one image and needs one generator."""

    def attack(classifier: Classifier, images: Images, labels: torch.Tensor, **rest: object) -> Images:
        rest["generator"] = rest["generator"][:1]  # type: ignore[index]
        return half(classifier, images, labels, **rest)  # type: ignore[operator]

    return attack


def test_an_attack_that_leaves_the_ball_is_brought_back_and_reported() -> None:
    known = border(2)
    report = run(known, 0.01, attacks={"shift": Shift(0.2), "gone": Shift(float("nan"))})
    assert report.robust_accuracy == 1.0
    assert report.flags[:2] == (
        "shift returned 3 images outside of ball or box; they were brought back before judging.",
        "gone returned 3 images outside of ball or box; they were brought back before judging.",
    )


def test_judgement_is_exact() -> None:
    images = torch.full((2, 3, 2, 2), 0.95)
    model, labels = (
        Classifier(flatten, lambda f: torch.stack([0.975 - f[:, 0], f[:, 0] - 0.975], 1)),
        torch.tensor([0, 0]),
    )
    ball = Ball("linf", 0.03)
    judged = judge(model, images, torch.cat([images[:1] + 0.2, images[1:] + 0.02]), labels, ball=ball)
    assert judged.broken.tolist() == [True, False]
    assert judged.strayed == 1
    assert bool((ball.distance(judged.images, images) <= 0.03).all())
    assert judged.distance.tolist() == pytest.approx([0.03, 0.02], abs=1e-6)


def test_the_batch_changes_nothing() -> None:
    classifier, images, labels = ruffled(12)
    ball, attacks = Ball("linf", 0.02), {"weak": Pgd(steps=1), "pgd": Pgd(steps=8), "square": Square(queries=40)}
    one, whole = (
        run_suite(classifier, images, labels, ball=ball, generator=stream(0, "t"), attacks=attacks, batch=batch)
        for batch in (1, 64)
    )
    assert one.broken_by == whole.broken_by
    assert len(set(whole.broken_by)) > 1
    torch.testing.assert_close(one.images, whole.images, atol=1e-4, rtol=0)


def test_memory_that_runs_out_halves_the_batch() -> None:
    known = border(2, count=5)

    def tight(images: Images) -> Features:
        if len(images) > 2:
            raise torch.OutOfMemoryError("too many")
        return flatten(images)

    report = run(known, 1.25 * known.linf, Classifier(tight, known.classifier.head), batch=5)
    usual = run(known, 1.25 * known.linf)
    assert report.flags == ("Memory ran out with 5 images at once; 2 fitted.",)
    assert report.broken_by == usual.broken_by
    torch.testing.assert_close(report.images, usual.images, atol=1e-4, rtol=0)


def test_batches_cover_everything_once() -> None:
    seen: list[int] = []
    assert in_batches(7, 3, lambda part: seen.extend(range(7)[part])) == 3
    assert seen == list(range(7))
    with pytest.raises(AttackError, match="batch is 0"):
        in_batches(7, 0, lambda part: None)

    def never(part: slice) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(7, 4, never)


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    run(border(2, count=3), 0.01, batch=2, progress=lambda *step: told.append(step))
    assert told == [("pgd", 2, 3), ("pgd", 3, 3), ("square", 2, 3), ("square", 3, 3)]


def test_no_images() -> None:
    known = border(2)
    with pytest.raises(AttackError, match="no images to attack"):
        run_suite(known.classifier, known.images[:0], known.labels[:0], ball=Ball("l2", 0.1), generator=stream(0, "t"))


def test_masked_gradients_are_flagged() -> None:
    known = border(4, count=4)
    attacks = {"pgd": Pgd(steps=8), "fab-t": Fab(steps=8), "square": Square(queries=1500)}
    report = run(known, 2.5 * known.linf, rounded(known.classifier), attacks=attacks)
    assert report.broken_by == ("square",) * 4
    assert len(report.flags) == 2
    assert report.flags[0].startswith("The black-box attack square broke 4 of 4 images that every white-box attack")
    assert report.flags[1].startswith("The gradient by the pixels is zero at 4 of 4 rightly answered images")


def test_a_saturated_softmax_is_flagged() -> None:
    report = run(border(2, scale=1e3), 0.01)
    assert len(report.flags) == 1
    assert report.flags[0].startswith("The gradient of the cross-entropy is zero at 3 of 3")


def test_steps_that_lose_their_way_are_flagged() -> None:
    """Near the border the gradient points back: one long step jumps over, short ones turn round."""
    known = border(2)

    def head(features: Features) -> Logits:
        logits = known.classifier.head(features)
        near = (logits[:, :1] - logits[:, 1:]).abs() < 12
        return torch.where(near, 2 * logits.detach() - logits, logits)

    report = run(known, 1.5 * known.linf, Classifier(flatten, head))
    assert any(flag.startswith("For 3 of 3 images one long step comes nearer") for flag in report.flags)


def test_a_classifier_that_is_never_the_same_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    known, noise = border(4), stream(0, "noise")

    def head(features: Features) -> Logits:
        return known.classifier.head(features + 0.05 * torch.randn(features.shape, generator=noise))

    monkeypatch.setattr(suite, "standard_set", lambda classes: QUICK)
    report = run(known, 0.001, Classifier(flatten, head), attacks=None)
    assert any(flag.startswith("The same image gets other logits each time: dropout") for flag in report.flags)
    assert "answers are random" in report.title
    assert not report.standard


def test_without_gradients_the_black_box_still_runs() -> None:
    known = border(4)
    cut = Classifier(flatten, lambda features: known.classifier.head(features.detach()))
    report = run(known, 4 * known.linf, cut, attacks=None)
    assert report.robust_accuracy == 0.0
    assert not report.standard
    assert [bool(stage.skipped) for stage in report.stages] == [True, True, True, False]
    assert report.flags[0].startswith("apgd-ce was skipped: no gradient reaches the pixels")
    assert "(square), not AutoAttack's standard" in report.title
