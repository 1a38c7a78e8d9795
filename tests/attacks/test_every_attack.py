"""What every attack promises, whatever it does."""

from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from attacks.borders import NORMS, border, quick
from toys import broken_above, flatten

from medrobust.attacks import ATTACKS, Attack, AttackError, Ball, NoGradientError, make_attack
from medrobust.attacks.ball import Norm
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Images, Logits

CLASSES = (2, 3, 4, 9)
WHITE_BOX = [name for name, entry in ATTACKS.items() if entry.default.needs_gradients]
SURE = [(name, classes) for name in WHITE_BOX for classes in CLASSES if classes >= ATTACKS[name].default.fewest_classes]
every = pytest.mark.parametrize("name", ATTACKS)
norms = pytest.mark.parametrize("norm", NORMS)
pytestmark = pytest.mark.usefixtures("short_suite")


def answers(classifier: Classifier, images: Images) -> torch.Tensor:
    with torch.no_grad():
        return classifier(images).argmax(dim=1)


def ruffled(count: int = 6) -> tuple[Classifier, Images, torch.Tensor]:
    """A small random network with four classes, and images of which some pixels are black or white."""
    generator = stream(0, "ruffled")
    first, second = torch.randn(108, 24, generator=generator) / 5, torch.randn(24, 4, generator=generator)

    def head(features: Features) -> Logits:
        return torch.tanh(features @ first) @ second

    images = (torch.rand(count, 3, 6, 6, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    classifier = Classifier(flatten, head)
    return classifier, images, answers(classifier, images)


@norms
@pytest.mark.parametrize(("name", "classes"), SURE)
def test_finds_the_nearest_border_and_nothing_before_it(name: str, classes: int, norm: Norm) -> None:
    classifier, images, labels = (known := border(classes))[:3]
    for share, attack in ((1.25, make_attack(name)), (0.95, quick(name))):
        ball = Ball(norm, share * known.distance(norm))
        attacked = attack(classifier, images, labels, ball=ball, generator=stream(0, "test"))
        assert bool((answers(classifier, attacked) != labels).all()) == (share > 1)
        assert bool((answers(classifier, attacked) == labels).all()) == (share < 1)


@norms
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in WHITE_BOX])
def test_black_box_finds_nothing_before_the_nearest_border(name: str, norm: Norm) -> None:
    known = border(4)
    ball = Ball(norm, 0.95 * known.distance(norm))
    attacked = quick(name)(known.classifier, known.images, known.labels, ball=ball, generator=stream(0, "test"))
    assert torch.equal(answers(known.classifier, attacked), known.labels)


@norms
@every
def test_stays_in_ball_and_box_exactly(name: str, norm: Norm) -> None:
    classifier, images, labels = ruffled()
    for eps in (0.002, 0.3):
        ball = Ball(norm, eps)
        attacked = quick(name)(classifier, images, labels, ball=ball, generator=stream(0, "test"))
        assert attacked.dtype == torch.float32
        assert attacked.shape == images.shape
        assert bool(((attacked >= 0) & (attacked <= 1)).all())
        assert bool((ball.distance(attacked, images) <= eps).all())


@every
def test_moves_images_that_stand(name: str) -> None:
    known = border(4)
    attacked = quick(name)(
        known.classifier, known.images, known.labels, ball=Ball("linf", 0.2), generator=stream(0, "test")
    )
    moved = (attacked != known.images).flatten(1).any(dim=1)
    assert bool(moved.all())


@every
def test_leaves_images_alone_that_are_wrong_already(name: str) -> None:
    classifier, images, labels = ruffled()
    labels = labels.clone()
    labels[::2] = (labels[::2] + 1) % 4
    attacked = quick(name)(classifier, images, labels, ball=Ball("linf", 0.1), generator=stream(0, "test"))
    assert torch.equal(attacked[::2], images[::2])
    assert not torch.equal(attacked[1::2], images[1::2])


@every
def test_a_logit_that_is_no_number_is_a_wrong_answer(name: str) -> None:
    known = border(max(2, ATTACKS[name].default.fewest_classes))

    def head(features: Features) -> Logits:
        return torch.where(features[:, :1] > 0.35, torch.nan, known.classifier.head(features))

    attacked = quick(name)(
        Classifier(flatten, head), known.images, known.labels, ball=Ball("linf", 0.01), generator=stream(0, "test")
    )
    broken = known.images.flatten(1)[:, 0] > 0.35
    assert bool(broken.any())
    assert torch.equal(attacked[broken], known.images[broken])
    assert not bool(attacked.isnan().any())


@every
def test_changes_nothing_it_is_given(name: str) -> None:
    linear = torch.nn.Linear(108, 4)
    images, labels = torch.rand(3, 3, 6, 6, generator=stream(0, "images")), torch.tensor([0, 1, 2])
    before, known = images.clone(), labels.clone()
    classifier = Classifier(flatten, linear)
    for trainable in (True, False):
        linear.requires_grad_(trainable)
        quick(name)(classifier, images, labels, ball=Ball("l2", 0.5), generator=stream(0, "test"))
        assert all(parameter.grad is None for parameter in linear.parameters())
    assert torch.equal(images, before)
    assert torch.equal(labels, known)
    assert not images.requires_grad


@norms
@every
def test_an_image_does_not_see_its_batch_mates(name: str, norm: Norm) -> None:
    classifier, images, labels = ruffled()
    attack, ball = quick(name), Ball(norm, 0.02 if norm == "linf" else 0.15)
    together = attack(classifier, images, labels, ball=ball, generator=stream(0, "test"))
    carried = stream(0, "test")
    parts = [attack(classifier, images[p], labels[p], ball=ball, generator=carried) for p in (slice(2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts), together, atol=1e-4, rtol=0)
    own = [stream(0, "item", row) for row in range(6)]
    straight = attack(classifier, images, labels, ball=ball, generator=own)
    own = [stream(0, "item", row) for row in range(6)]
    back = attack(classifier, images.flip(0), labels.flip(0), ball=ball, generator=own[::-1])
    torch.testing.assert_close(back.flip(0), straight, atol=1e-4, rtol=0)


@every
def test_the_generator_alone_decides(name: str) -> None:
    classifier, images, labels = ruffled()
    attack, ball = quick(name), Ball("linf", 0.01)
    torch.manual_seed(1)
    one = attack(classifier, images, labels, ball=ball, generator=stream(0, "test"))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(attack(classifier, images, labels, ball=ball, generator=stream(0, "test")), one)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@every
def test_works_where_the_caller_switched_gradients_off(name: str, off: type) -> None:
    known = border(4)
    usual = quick(name)(known.classifier, known.images, known.labels, ball=Ball("linf", 0.2), generator=stream(0, "t"))
    with off():
        images = known.images.clone()
        quiet = quick(name)(known.classifier, images, known.labels, ball=Ball("linf", 0.2), generator=stream(0, "t"))
    assert torch.equal(quiet, usual)


@every
def test_a_head_without_gradient(name: str) -> None:
    known = border(4)

    def head(features: Features) -> Logits:
        return known.classifier.head(features.detach())

    attack, cut = quick(name), Classifier(flatten, head)
    if ATTACKS[name].default.needs_gradients:
        with pytest.raises(NoGradientError, match=r"no gradient reaches the pixels.*'square'"):
            attack(cut, known.images, known.labels, ball=Ball("linf", 0.2), generator=stream(0, "test"))
    else:
        attacked = attack(cut, known.images, known.labels, ball=Ball("linf", 0.4), generator=stream(0, "test"))
        assert bool((answers(cut, attacked) != known.labels).all())


@every
def test_refuses_what_cannot_be_attacked(name: str) -> None:
    known, ball, attack = border(4), Ball("linf", 0.1), quick(name)
    one = Classifier(flatten, lambda features: features[:, :1])
    bad = [
        (one, known.images, torch.zeros_like(known.labels), "one class only"),
        (known.classifier, 255 * known.images, known.labels, r"must be torch.float32 in \[0, 1\]; divide grey levels"),
        (known.classifier, known.images.double(), known.labels, "images are torch.float64"),
        (known.classifier, known.images * torch.nan, known.labels, r"must be torch.float32 in \[0, 1\]"),
        (known.classifier, known.images, known.labels + 3, "labels run from 3 to 5, the classifier knows 0 to 3"),
    ]
    for classifier, images, labels, sentence in bad:
        with pytest.raises(AttackError, match=sentence):
            attack(classifier, images, labels, ball=ball, generator=stream(0, "test"))


@every
def test_fewest_classes_is_true(name: str) -> None:
    fewest = ATTACKS[name].default.fewest_classes
    for classes in (2, 3, 4):
        known, ball = border(classes), Ball("linf", 0.01)
        if classes < fewest:
            with pytest.raises(AttackError, match=f"there are {classes} classes; take the loss 'margin'"):
                make_attack(name)(known.classifier, known.images, known.labels, ball=ball, generator=stream(0, "test"))
        elif classes == fewest:
            quick(name)(known.classifier, known.images, known.labels, ball=ball, generator=stream(0, "test"))


@every
def test_no_images_are_no_work(name: str) -> None:
    known = border(4)
    none = quick(name)(
        known.classifier, known.images[:0], known.labels[:0], ball=Ball("l2", 0.1), generator=stream(0, "test")
    )
    assert none.shape == (0, 3, 6, 6)


@every
def test_is_a_frozen_value_with_a_story(name: str) -> None:
    entry, attack = ATTACKS[name], make_attack(name)
    assert isinstance(attack, Attack)
    assert attack == entry.default
    assert entry.title
    assert any(word in entry.reference for word in ("ICML", "ICLR", "S&P", "ECCV"))
    with pytest.raises(FrozenInstanceError):
        setattr(attack, fields(attack)[0].name, 1)  # type: ignore[arg-type]


def test_a_pixel_that_breaks_the_model_is_found() -> None:
    images = torch.full((2, 3, 2, 2), 0.5)
    attacked = make_attack("square")(
        broken_above(0.55), images, torch.zeros(2, dtype=torch.int64), ball=Ball("linf", 0.1), generator=stream(0, "t")
    )
    assert bool((attacked[:, 0, 0, 0] > 0.55).all())


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(AttackError, match="did you mean 'square'"):
        make_attack("squar")
