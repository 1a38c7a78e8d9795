"""The loop of adversarial training against one written out, and what may not change what it learns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medrobust.attacks import AttackError, Ball
from medrobust.attacks.losses import cross_entropy
from medrobust.data.task import Dataset
from medrobust.defences.adversarial import Batches, Objective, learn
from medrobust.defences.tecoa import Tecoa
from medrobust.errors import DataError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import SILENT, Session
from medrobust.seeds import stream
from medrobust.types import Classifier, Images, Labels, Logits, State

CPU = torch.device("cpu")
START = {"weight": torch.randn(3, 3, generator=stream(0, "start"))}
TRAINED_ON_ATTACKS = Objective(
    lambda student, images, labels: lambda points: cross_entropy(student(points), labels),
    lambda student, images, attacked, labels: cross_entropy(student(attacked), labels),
)


def colours_mean(images: Images) -> torch.Tensor:
    return images.mean(dim=(2, 3))


def linear(state: State) -> Classifier:
    """Logits from the mean colour, times a matrix that is learned."""
    return Classifier(colours_mean, lambda features: 20 * features @ state["weight"].T)


def settings(**values: Any) -> Tecoa:
    return Tecoa(**{"epochs": 2, "batch": 10, "lr": 0.05, "eps": 0.05, "attack_step": 0.04, **values})


def fit(data: Dataset, student: Callable[[State], Classifier] = linear, **values: Any) -> State:
    session, chosen = values.pop("session", SILENT), settings(**values)
    return learn(START, student, TRAINED_ON_ATTACKS, data, chosen, chosen.attack, device=CPU,
                 generator=stream(0, "fit"), session=session)  # fmt: skip


def test_the_loop_is_the_one_one_would_write(dataset: Dataset) -> None:
    """SGD with momentum, warm-up and cosine, sign steps of the gradient by the pixels, clipped into ball and box."""
    chosen = settings(augment=False, attack_steps=3)
    batches = Batches.of(dataset, chosen, stream(0, "fit"))
    weight, velocity = START["weight"].clone(), torch.zeros(3, 3)
    steps, ball = 2 * 3, Ball("linf", 0.05)
    for step in range(steps):
        rows = batches.rows(step)
        images, labels = dataset.images(rows.tolist()), dataset.labels[rows]
        points = batches.starts(step, rows, images, chosen.attack.ball)
        for _ in range(3):
            leaf = points.clone().requires_grad_(True)
            F.cross_entropy(20 * colours_mean(leaf) @ weight.T, labels).backward()
            assert leaf.grad is not None
            points = (points + 0.04 * leaf.grad.sign()).clamp(images - 0.05, images + 0.05).clamp(0, 1)
        assert ball.contains(points, images).all()
        own = weight.clone().requires_grad_(True)
        F.cross_entropy(20 * colours_mean(points) @ own.T, labels).backward()
        assert own.grad is not None
        velocity = 0.9 * velocity + own.grad
        weight = weight - 0.05 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps))) * velocity
    found = fit(dataset, augment=False, attack_steps=3)["weight"]
    torch.testing.assert_close(found, weight, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(found, START["weight"], atol=0.01)


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own(dataset: Dataset) -> None:
    batches = Batches.of(dataset, settings(), stream(0, "fit"))
    epochs = [torch.cat([batches.rows(3 * epoch + place) for place in range(3)]) for epoch in range(2)]
    assert [len(batches.rows(step)) for step in range(3)] == [10, 10, 4]
    assert all(sorted(epoch.tolist()) == list(range(24)) for epoch in epochs)
    assert not torch.equal(*epochs)
    few = Batches.of(dataset, settings(shots=2), stream(0, "fit"))
    assert torch.bincount(few.labels).tolist() == [2, 2, 2]


def test_an_interruption_changes_nothing(dataset: Dataset, tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "half.safetensors", {"a": 1}, seconds=0.0)
    done: list[int] = []

    def stop(step: int, _total: int) -> None:
        done.append(step)
        if done == [1, 2, 3, 4]:
            raise KeyboardInterrupt

    whole = fit(dataset)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, session=Session(progress=stop, checkpoint=kept))
    again = fit(dataset, session=Session(progress=stop, checkpoint=kept))
    assert done == [1, 2, 3, 4, 4, 5, 6]
    assert torch.equal(again["weight"], whole["weight"])


def test_where_memory_runs_out_halves_give_the_same_and_it_is_said_once(dataset: Dataset) -> None:
    said: list[str] = []

    def small(most: int) -> Callable[[State], Classifier]:
        def student(state: State) -> Classifier:
            def encode(images: Images) -> torch.Tensor:
                if len(images) > most:
                    raise torch.OutOfMemoryError("out of memory")
                return colours_mean(images)

            return replace(linear(state), encode=encode)

        return student

    found = fit(dataset, small(5), session=Session(say=said.append))
    torch.testing.assert_close(found["weight"], fit(dataset)["weight"], atol=1e-5, rtol=1e-5)
    assert said == ["memory ran out; from here on batches are worked off in parts, with the same result"]
    said.clear()
    fit(dataset, small(2), session=Session(say=said.append))
    assert len(said) == 1
    with pytest.raises(torch.OutOfMemoryError):
        fit(dataset, small(0))


def test_what_cannot_be_learned_from_is_told(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="are of one class; adversarial training needs images of two at least"):
        fit(dataset.subset([row for row, label in enumerate(dataset.targets) if label == 1]))

    def dropping(state: State) -> Classifier:
        def head(features: torch.Tensor) -> Logits:
            return linear(state).head(nn.functional.dropout(features, 0.5, training=True))

        return replace(linear(state), head=head)

    with pytest.raises(AttackError, match="nothing can be learned from this model: The same image gets other logits"):
        fit(dataset, dropping)


def test_no_gradient_of_the_attack_leaks_into_the_parameters(dataset: Dataset) -> None:
    """A score that depends on nothing learned leaves no gradient, however often the attack went backward."""
    seen: list[bool] = []

    def score(student: Classifier, images: Images, attacked: Images, labels: Labels) -> torch.Tensor:
        seen.append(attacked.requires_grad)
        return 0 * cross_entropy(student(images), labels)

    objective = Objective(TRAINED_ON_ATTACKS.climb, score)
    chosen = settings()
    found = learn(START, linear, objective, dataset, chosen, chosen.attack, device=CPU, generator=stream(0, "fit"))
    assert torch.equal(found["weight"], START["weight"])
    assert not any(seen)


def test_half_precision_learns_nearly_the_same(dataset: Dataset) -> None:
    exact, rough = fit(dataset)["weight"], fit(dataset, precision="bfloat16")["weight"]
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"eps": 8}, r"eps is 8, must be below 1 in the norm linf.*did you mean 8/255"),
     ({"eps": "8/0"}, r"eps '8/0' is not a number"), ({"attack_step": 2}, "eps is 2, must be below 1"),
     ({"norm": "l2", "eps": 20}, "did you mean 20/255")],
)  # fmt: skip
def test_lengths_that_were_meant_otherwise(values: dict, sentence: str) -> None:
    with pytest.raises(AttackError, match=sentence):
        settings(**values)


def test_lengths_are_written_as_people_write_them() -> None:
    assert settings(eps="4/255", attack_step="8/765").eps == 4 / 255
    assert settings(norm="l2", eps=2.0, attack_step=1).eps == 2
