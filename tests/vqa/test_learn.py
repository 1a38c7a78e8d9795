"""Recipes that answer questions: they learn, RAN holds, one question is an ordinary classifier, nothing is mirrored."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import ATTACKS, Ball
from medrobust.attacks.attack import judge
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.smoothadv import smooth_adv
from medrobust.data.augment import augment
from medrobust.data.task import Dataset
from medrobust.errors import ConfigError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.smoothing.audit.attempts import attack_inside
from medrobust.smoothing.audit.claims import doubts
from medrobust.smoothing.certify import Smoothing, certify
from medrobust.smoothing.sampling import Draws, Sampler
from medrobust.types import Classifier, State
from medrobust.vqa.attack import climb_together
from medrobust.vqa.images import Gallery
from medrobust.vqa.learn import GREY, Asked, answering, learn_answers
from medrobust.vqa.questions import Question, Vocabulary
from medrobust.vqa.recipes import RECIPES, Settings, make_recipe, make_recipes

MODULE = sys.modules["medrobust.vqa.learn"]
COLOURS = ("red", "green", "blue")
QUICK: dict[str, Any] = {"epochs": 12, "batch": 24, "lr": 0.01, "width": 16}


def asked_about(data: Dataset) -> list[Question]:
    """Of every image its colour, and whether it is red."""
    return [
        Question(f"{name} {number}", name, text, answer, kind, data.split, "")
        for name, label in zip(data.ids, data.targets, strict=True)
        for number, (text, answer, kind) in enumerate(
            [("which paint is shown?", COLOURS[label], "open"),
             ("is it red?", "yes" if label == 0 else "no", "closed")]
        )
    ]  # fmt: skip


def gallery_of(data: Dataset) -> Gallery:
    images = {name: data.read(place) for place, name in enumerate(data.ids)}
    return Gallery(images, tuple(asked_about(data)), ())


@pytest.fixture(scope="module")
def vocabulary(dataset: Dataset) -> Vocabulary:
    return Vocabulary.of(asked_about(dataset))


@pytest.fixture(scope="module")
def learned_from(taught: Clip, dataset: Dataset, vocabulary: Vocabulary) -> Asked:
    return Asked.of(taught, gallery_of(dataset), vocabulary)


@pytest.fixture(scope="module")
def test(taught: Clip, unseen: Dataset, vocabulary: Vocabulary) -> Asked:
    return Asked.of(taught, gallery_of(unseen), vocabulary)


def settings_of(name: str, **more: Any) -> Settings:
    return make_recipe(name, QUICK | ({"attack_steps": 1} if name == "ran" else {}) | more)


def learned(model: Clip, asked: Asked, vocabulary: Vocabulary, name: str, *, seed: int = 0, **more: Any) -> State:
    return learn_answers(
        model, asked, vocabulary, name, settings_of(name, **more), generator=stream(seed, "fit")
    )  # fmt: skip


def answers(model: Clip, asked: Asked, state: State, name: str, **more: Any) -> Tensor:
    classifier = answering(model, asked.words, state, name, settings_of(name, **more))
    with torch.no_grad():
        return classifier(asked.images(torch.arange(len(asked.truths)))).argmax(dim=1)


def share(asked: Asked, said: Tensor) -> float:
    return sum(int(one) == truth for one, truth in zip(said, asked.truths, strict=True)) / len(asked.truths)


@pytest.fixture(scope="module")
def linear(taught: Clip, learned_from: Asked, vocabulary: Vocabulary) -> State:
    return learned(taught, learned_from, vocabulary, "linear")


# -- learning


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_what_it_was_asked(
    name: str, taught: Clip, learned_from: Asked, test: Asked, vocabulary: Vocabulary
) -> None:
    state = learned(taught, learned_from, vocabulary, name)
    assert share(test, answers(taught, test, state, name)) >= 0.9
    again = learned(taught, learned_from, vocabulary, name)
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_the_blind_see_no_colour(taught: Clip, learned_from: Asked, test: Asked, vocabulary: Vocabulary) -> None:
    state = learned(taught, learned_from.blind(), vocabulary, "linear")
    said = answers(taught, test.blind(), state, "linear")
    assert (test.blind().images(torch.tensor([0, 5])) == GREY).all()
    assert said[0::2].unique().numel() == 1
    assert share(test, said) == pytest.approx((1 / 3 + 2 / 3) / 2, abs=1e-6)


def test_towers_stay_and_fusion_learns(
    taught: Clip, learned_from: Asked, vocabulary: Vocabulary, linear: State
) -> None:
    before = {key: value.clone() for key, value in taught.vision.state_dict().items()}
    begin = MODULE.start(taught, learned_from, 5, settings_of("linear"), stream(0, "fit"))
    assert {key: value.shape for key, value in linear.items()} == {key: value.shape for key, value in begin.items()}
    assert not any(torch.equal(value, begin[key]) for key, value in linear.items() if "key.bias" not in key)
    learned(taught, learned_from, vocabulary, "ran", epochs=1)
    assert all(torch.equal(value, before[key]) for key, value in taught.vision.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in taught.vision.parameters())


def test_a_training_cut_off_goes_on_to_the_same_state(
    taught: Clip, learned_from: Asked, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    whole = learned(taught, learned_from, vocabulary, "nmtune", epochs=3)
    checkpoint = Checkpoint(tmp_path / "c.safetensors", {"what": "test"}, seconds=0.0)

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    def attempt(session: Session) -> State:
        return learn_answers(
            taught, learned_from, vocabulary, "nmtune", settings_of("nmtune", epochs=3), generator=stream(0, "fit"),
            session=session,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        attempt(Session(stop, checkpoint=checkpoint))
    steps: list[int] = []
    found = attempt(Session(lambda done, _: steps.append(done), checkpoint=checkpoint))
    assert steps[0] == 3
    for key, value in whole.items():
        torch.testing.assert_close(found[key], value)


def test_the_loss_of_ran_climbs_its_own_questions(
    taught: Clip, learned_from: Asked, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attacked copy raises the cross-entropy of the student for the questions in their places."""
    seen: list[tuple[float, float]] = []
    said: list[Tensor] = []
    real, real_answering = MODULE.images_to_copy, MODULE.answering

    def heard(model: Clip, words: Any, *more: Any) -> Classifier:
        said.append(words.ids)
        return real_answering(model, words, *more)

    monkeypatch.setattr(MODULE, "answering", heard)

    def spied(
        student: Classifier, batches: Any, step: int, rows: Tensor, labels: Tensor, chosen: Any, attack: Any
    ) -> Any:
        found = real(student, batches, step, rows, labels, chosen, attack)
        first, _, attacked = found
        assert torch.equal(said[-1], learned_from.words.ids[rows])
        assert float((attacked - first).abs().max()) <= chosen.eps + 1e-6
        with torch.no_grad():
            losses = [float(torch.nn.functional.cross_entropy(student(one), labels)) for one in (first, attacked)]
        seen.append((losses[0], losses[1]))
        return found

    monkeypatch.setattr(MODULE, "images_to_copy", spied)
    learned(taught, learned_from, vocabulary, "ran", epochs=4, eps=0.1, attack_step=0.1, attack_steps=2)
    assert all(attacked > clean for clean, attacked in seen[2:])


def test_ran_holds_what_a_linear_layer_does_not(
    taught: Clip, learned_from: Asked, test: Asked, vocabulary: Vocabulary
) -> None:
    ball, rows = Ball("linf", 0.16), torch.arange(len(test.truths))
    images, truths = test.images(rows), torch.tensor([truth for truth in test.truths if truth is not None])

    def robust(name: str, **more: Any) -> float:
        state = learned(taught, learned_from, vocabulary, name, **more)
        classifier = answering(taught, test.words, state, name, settings_of(name, **more))
        points = climb_together(classifier, images, truths, ball=ball, steps=10, generator=stream(0, "attack"))
        return 1 - float(judge(classifier, images, points, truths, ball=ball).broken.float().mean())

    linear, ran = robust("linear"), robust("ran", eps=ball.eps, attack_step=0.08, attack_steps=2)
    assert ran > linear + 0.1, (ran, linear)


# -- one question is a classifier like any other


def test_one_question_answers_as_in_its_batch(taught: Clip, test: Asked, linear: State) -> None:
    together = answering(taught, test.words, linear, "linear", settings_of("linear"))
    rows = torch.arange(len(test.truths))
    with torch.no_grad():
        wanted = together(test.images(rows))
        for row in (0, 1, 17):
            alone = answering(taught, test.words.of(rows[row : row + 1]), linear, "linear", settings_of("linear"))
            torch.testing.assert_close(alone(test.images(rows[row : row + 1]))[0], wanted[row], rtol=1e-4, atol=1e-4)
            many = alone(test.pictures)
            torch.testing.assert_close(many[test.places[row]], wanted[row], rtol=1e-4, atol=1e-4)


def test_one_question_is_attacked_certified_and_audited(taught: Clip, test: Asked, linear: State) -> None:
    row = next(row for row, truth in enumerate(test.truths) if truth is not None and row % 2 == 0)
    image, label = test.images(torch.tensor([row])), torch.tensor([test.truths[row]])
    classifier = answering(taught, test.words.of(torch.tensor([row])), linear, "linear", settings_of("linear"))
    ball = Ball("linf", 0.4)
    attacked = ATTACKS["pgd"].default(classifier, image, label, ball=ball, generator=stream(0, "pgd"))
    assert judge(classifier, image, attacked, label, ball=ball).broken.all()
    smoothing = Smoothing(0.1, budget=400, stopping="fixed")
    (found,) = certify([classifier], image[0], smoothing, seed=0, item="question")
    assert (found.prediction, found.scope) == (int(label), "model")
    assert found.radius > 0.1
    assert doubts(found) == []
    tried = attack_inside(
        classifier,
        image[0],
        found,
        partial(smooth_adv, steps=3, draws=8),
        draws=Draws(0.1, 500, "audit", 1, "question"),
        level=1e-5,
        generator=stream(0, "audit attack"),
        sampler=Sampler(),
    )
    assert 0 < tried.distance < found.radius
    assert not tried.broken


# -- the batched attack


def test_images_driven_together_are_broken_as_by_pgd(taught: Clip, unseen: Dataset, linear: State, test: Asked) -> None:
    """Of one question about all images both attacks can be made; they find the same, image by image."""
    alone = answering(taught, test.words.of(torch.tensor([1])), linear, "linear", settings_of("linear"))
    images = unseen.images()
    with torch.no_grad():
        labels = alone(images).argmax(dim=1)
    broken = []
    for eps in (0.02, 0.4):
        ball, generators = Ball("linf", eps), [stream(0, "attack", name) for name in unseen.ids]
        wanted = Pgd(steps=8)(alone, images, labels, ball=ball, generator=generators)
        generators = [stream(0, "attack", name) for name in unseen.ids]
        found = climb_together(alone, images, labels, ball=ball, steps=8, generator=generators)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        broken.append(judge(alone, images, found, labels, ball=ball).broken)
        assert ball.contains(found, images).all()
    assert broken[1].any()
    assert not broken[0].all()


def test_views_do_not_mirror_where_left_is_an_answer() -> None:
    images = torch.linspace(0, 1, 16).expand(24, 3, 16, 16)
    kept = augment(images, stream(0, "views"), flips=False, scale=(0.8, 1.0), colour=0.0)
    flipped = augment(images, stream(0, "views"), scale=(0.8, 1.0), colour=0.0)
    rising = [(one[..., 12:].mean(dim=(1, 2, 3)) > one[..., :4].mean(dim=(1, 2, 3))) for one in (kept, flipped)]
    assert rising[0].all()
    assert not rising[1].all()
    same = rising[1]
    assert torch.equal(kept[same], flipped[same])
    turned = augment(images, stream(0, "views"), flips=False, any_rotation=True)
    assert not (turned[..., 12:].mean(dim=(1, 2, 3)) > turned[..., :4].mean(dim=(1, 2, 3))).all()


def test_training_asks_for_no_flips(
    taught: Clip, learned_from: Asked, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[bool] = []
    module = sys.modules["medrobust.defences.adversarial"]
    real = module.augment

    def spied(images: Tensor, generator: torch.Generator, **how: Any) -> Tensor:
        said.append(how["flips"])
        return real(images, generator, **how)

    monkeypatch.setattr(module, "augment", spied)
    learned(taught, learned_from, vocabulary, "nmtune", epochs=1)
    learned(taught, learned_from, vocabulary, "linear", epochs=1, augment=True)
    assert said
    assert not any(said)


# -- settings


def test_a_setting_goes_to_all_that_have_it_or_to_one() -> None:
    found = make_recipes(["linear", "ran"], {"ran.lr": 0.5, "lr": 0.25, "eps": "4/255", "width": 32})
    assert [(name, one.lr, one.width) for name, one in found.items()] == [("linear", 0.25, 32), ("ran", 0.5, 32)]
    assert getattr(found["ran"], "eps") == 4 / 255  # noqa: B009 - only some recipes have it


@pytest.mark.parametrize(("names", "settings", "told"), [
    (["rann"], {}, r"^no recipe 'rann' \(did you mean 'ran'\?\); there are linear, mlp, nmtune, ran$"),
    (["ran", "ran"], {}, "^a recipe is named twice in ran, ran"),
    (["linear"], {"epoch": 1}, r"^none of linear has a setting 'epoch' \(did you mean 'epochs'\?\)"),
    (["linear"], {"eps": 1}, "^none of linear has a setting 'eps'"),
    (["linear", "ran"], {"mlp.lr": 1}, "^none of linear, ran has a setting 'mlp.lr'"),
    (["linear"], {"epochs": 0}, "^linear: epochs: Input should be greater than or equal to 1"),
    (["linear"], {"width": 30}, "^linear: .*width 30 is not a multiple of heads 4"),
])  # fmt: skip
def test_unknown_names_and_settings_are_refused(names: Sequence[str], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_recipes(list(names), settings)
