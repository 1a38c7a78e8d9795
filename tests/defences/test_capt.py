"""CAPT and APT: the loss against its formula, the prompts, and what each term does."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medrobust.attacks import Ball
from medrobust.attacks.attack import judge
from medrobust.attacks.pgd import Pgd
from medrobust.data.task import Dataset
from medrobust.defences import make_defence
from medrobust.defences.capt import Capt, balance_of, consistent, prompts_of
from medrobust.defences.zero_shot import zero_shot
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier

QUICK: dict[str, Any] = {"epochs": 2, "batch": 8, "attack_steps": 1}


def classifiers(taught: Clip, dataset: Dataset) -> tuple[Classifier, Classifier]:
    frozen = zero_shot().apply(taught, dataset.task, {})
    return frozen, Classifier(lambda images: 1.5 * taught.encode_image(images) + 0.3, frozen.head)


@pytest.mark.parametrize(("balance", "ce_on"), [("adaptive", "clean"), (0.25, "both"), (0.0, "adversarial")])
def test_the_loss_is_the_papers(taught: Clip, dataset: Dataset, balance: Any, ce_on: Any) -> None:
    images, labels = dataset.images([0, 1, 2]), dataset.labels[:3]
    attacked = images + 0.05 * torch.randn(images.shape, generator=stream(0, "attacked"))
    frozen, student = classifiers(taught, dataset)
    chosen = Capt(weight=0.7, balance=balance, ce_on=ce_on)
    with torch.no_grad():
        found = consistent(frozen, chosen, student, images, attacked, labels)
        p, p_adv, p_frozen = (c.softmax(1) for c in (student(images), student(attacked), frozen(images)))
    expected = []
    for row, y in enumerate(labels.tolist()):
        a = float(p_frozen[row, y] / (p_frozen[row, y] + p[row, y])) if balance == "adaptive" else balance
        kl = [float((p_adv[row] * (p_adv[row] / teacher[row]).log()).sum()) for teacher in (p, p_frozen)]
        entropy = {"clean": -math.log(p[row, y]), "adversarial": -math.log(p_adv[row, y])}
        entropy["both"] = entropy["clean"] + entropy["adversarial"]
        expected.append(entropy[ce_on] + 0.7 * ((1 - a) * kl[0] + a * kl[1]))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_teachers_have_no_gradient(taught: Clip, dataset: Dataset) -> None:
    """With the cross-entropy out of the way, the clean answer of the student is a teacher alone."""
    images, labels = dataset.images([0, 1]), dataset.labels[:2]
    frozen, _ = classifiers(taught, dataset)
    shift = torch.zeros(16, requires_grad=True)

    def encode(x: torch.Tensor) -> torch.Tensor:
        moved = shift if x is images else shift.detach()
        return taught.encode_image(x) + moved

    chosen = Capt(weight=1.0, ce_on="adversarial")
    value = consistent(frozen, chosen, Classifier(encode, frozen.head), images, images + 0.01, labels).sum()
    assert not value.requires_grad


def test_the_better_teacher_weighs_more() -> None:
    guide, own = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([[0.3, 0.7], [0.5, 0.5]]).log()
    torch.testing.assert_close(balance_of(guide, own, torch.tensor([0, 1])), torch.tensor([0.75, 0.5]))


def test_coupling_makes_every_text_prompt_of_the_image_prompt_of_its_layer() -> None:
    generator = stream(0, "coupling")
    learned = {
        "tokens": torch.randn(3, 2, 5, generator=generator),
        "coupling.weight": torch.randn(2, 4, 5, generator=generator),
        "coupling.bias": torch.randn(2, 4, generator=generator),
    }
    found = prompts_of(learned)
    assert torch.equal(found["prompt.tokens"], learned["tokens"][0])
    assert torch.equal(found["prompt.deep"], learned["tokens"][1:])
    for layer, text in enumerate((found["context"], found["deep_context"][0])):
        expected = F.linear(
            learned["tokens"][layer], learned["coupling.weight"][layer], learned["coupling.bias"][layer]
        )
        torch.testing.assert_close(text, expected)
    assert len(found["deep_context"]) == 1


@pytest.mark.parametrize("coupling", ["linear", "none"])
def test_prompts_stand_in_both_towers_at_every_layer(coupling: str, tiny: Clip, dataset: Dataset) -> None:
    state = make_defence("capt", QUICK | {"coupling": coupling}).fit(tiny, dataset, generator=stream(0, "fit"))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    assert shapes == {
        "prompt.tokens": (2, 32),
        "prompt.deep": (1, 2, 32),
        "context": (2, 32),
        "deep_context": (1, 2, 32),
    }
    start = make_defence("capt", QUICK | {"coupling": coupling, "lr": 1e-12}).fit(
        tiny, dataset, generator=stream(0, "fit")
    )
    assert all(not torch.allclose(state[key], start[key], atol=1e-6) for key in state)
    if coupling == "none":
        assert all(0.01 < float(value.std()) < 0.03 for value in start.values())


@pytest.mark.parametrize(("balance", "teacher", "most"), [(0.0, "own", 0.95), (1.0, "frozen", 0.9)])
def test_each_term_draws_attacked_answers_to_its_teacher(
    balance: float, teacher: str, most: float, taught: Clip, dataset: Dataset, unseen: Dataset
) -> None:
    gaps, ball, images = [], Ball("linf", 0.14), unseen.images()
    frozen = zero_shot().apply(taught, dataset.task, {})
    for weight in (0.0, 2.0):
        hard = {"epochs": 12, "batch": 12, "lr": 0.005, "eps": ball.eps, "attack_step": 0.1, "ce_on": "adversarial"}
        defence = make_defence("capt", {"weight": weight, "balance": balance, **hard})
        classifier = defence.apply(taught, dataset.task, defence.fit(taught, dataset, generator=stream(0, "fit")))
        attacked = Pgd(steps=10)(classifier, images, unseen.labels, ball=ball, generator=stream(0, "test"))
        with torch.no_grad():
            clean = (classifier if teacher == "own" else frozen)(images).log_softmax(1)
            here = classifier(attacked).log_softmax(1)
        gaps.append(float(F.kl_div(clean, here, log_target=True, reduction="batchmean")))
    assert gaps[1] < most * gaps[0]


def test_apt_learns_a_context_that_withstands_more(taught: Clip, misled: Dataset, unseen: Dataset) -> None:
    defence = make_defence("apt", {"words": 4, "epochs": 20, "batch": 12, "lr": 0.05, "eps": 0.03, "attack_step": 0.02})
    state = defence.fit(taught, misled, generator=stream(0, "fit"))
    assert state["context"].shape == (4, 32)
    ball, right = Ball("linf", 0.03), []
    for classifier in (zero_shot().apply(taught, misled.task, {}), defence.apply(taught, misled.task, state)):
        assert classifier.encode == taught.encode_image
        attacked = Pgd(steps=10, loss="margin")(
            classifier, unseen.images(), unseen.labels, ball=ball, generator=stream(0, "test")
        )
        right.append(int((~judge(classifier, unseen.images(), attacked, unseen.labels, ball=ball).broken).sum()))
    assert right[1] > right[0]
