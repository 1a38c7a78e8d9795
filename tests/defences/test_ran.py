"""RAN and NMTune: every term against a formula written out, what batch norm may depend on, and that they defend."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from medrobust.attacks import Ball
from medrobust.attacks.attack import judge
from medrobust.attacks.pgd import Pgd
from medrobust.data.task import Dataset
from medrobust.defences import make_defence
from medrobust.defences.probe import LearnedHead
from medrobust.defences.ran import FeatureCopies, NmTune, Ran, covariance, dominance, rectification, rectified
from medrobust.errors import ConfigError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.learning.workers import Workers
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier, State

MODULE = sys.modules["medrobust.defences.ran"]  # the package has a function of that name
QUICK: dict[str, Any] = {"epochs": 2, "batch": 12, "attack_steps": 1}
OFF = {"consistency": 0.0, "covariance": 0.0, "dominance": 0.0, "adversarial": 0.0, "ce_on": "clean"}
LABELS = torch.tensor([0, 2, 1, 2, 0])


def state_of(width: int = 6) -> State:
    """Every tensor somewhere, so that none can be left out unseen."""
    generator, hidden = stream(0, "state"), 4 * width
    shapes = {
        "in.weight": (hidden, width), "in.bias": (hidden,), "norm.weight": (hidden,), "norm.bias": (hidden,),
        "norm.mean": (hidden,), "norm.variance": (hidden,), "out.weight": (width, hidden), "out.bias": (width,),
        "gate": (width,), "head.weight": (3, width), "head.bias": (3,),
    }  # fmt: skip
    state = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return state | {"norm.variance": state["norm.variance"].square() + 0.1}


def copies_of(width: int = 6) -> FeatureCopies:
    generator = stream(1, "features")
    return FeatureCopies(*(2 * torch.randn(len(LABELS), width, generator=generator) for _ in range(3)))


def by_hand(state: State, copies: FeatureCopies, chosen: Ran) -> float:
    """The loss in NumPy and float64, the covariance and the squares entry by entry."""
    s = {key: value.double().numpy() for key, value in state.items()}
    f = [part.double().numpy() for part in copies]
    stacked = np.concatenate(f)
    hidden = stacked @ s["in.weight"].T + s["in.bias"]
    normed = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5) * s["norm.weight"] + s["norm.bias"]
    z = stacked + s["gate"] * (np.maximum(normed, 0) @ s["out.weight"].T + s["out.bias"])
    first, second, attacked = np.split(z, 3)

    def entropy(rows: np.ndarray) -> float:
        chances = log_softmax(rows @ s["head.weight"].T + s["head.bias"], axis=1)
        return float(-np.mean([chances[row, label] for row, label in enumerate(LABELS.tolist())]))

    def squares(one: np.ndarray, other: np.ndarray) -> float:
        pairs = [(a / np.sqrt(a @ a) - b / np.sqrt(b @ b)) ** 2 for a, b in zip(one, other, strict=True)]
        return float(np.mean(pairs))

    matrix, values = np.cov(first.T), np.sqrt(np.maximum(np.linalg.eigvalsh(first @ first.T), 0))[::-1]
    width = first.shape[1]
    off = sum(matrix[i, j] ** 2 for i in range(width) for j in range(width) if i != j) / width
    ce = {"clean": entropy(first), "adversarial": entropy(attacked), "both": (entropy(first) + entropy(attacked)) / 2}
    loss = ce[chosen.ce_on] + chosen.consistency * squares(second, f[0]) + chosen.covariance * off
    return float(
        loss - chosen.dominance * values[:5].mean() / values.sum() + chosen.adversarial * squares(attacked, first)
    )


@pytest.mark.parametrize(
    "extra", [{}, {"ce_on": "clean"}, {"ce_on": "adversarial"}, {"consistency": 3.0}, {"covariance": 0.5},
              {"dominance": 2.0}, {"adversarial": 4.0}],
)  # fmt: skip
@pytest.mark.parametrize("base", [OFF, {}], ids=["alone", "beside the others"])
def test_every_term_is_its_formula(base: dict, extra: dict) -> None:
    chosen = Ran(**{**base, **extra})
    found = rectification(state_of(), copies_of(), LABELS, chosen)
    assert float(found) == pytest.approx(by_hand(state_of(), copies_of(), chosen), rel=1e-4)


def test_the_defaults_are_those_of_the_specification() -> None:
    terms = ("consistency", "covariance", "dominance", "adversarial", "ce_on")
    assert [getattr(Ran(), name) for name in terms] == [1.0, 0.04, 0.001, 1.0, "both"]
    assert [getattr(NmTune(), name) for name in terms] == [1.0, 0.04, 0.001, 0.0, "clean"]
    for chosen in (Ran(), NmTune()):
        assert (chosen.optimiser, chosen.lr, chosen.weight_decay, chosen.epochs) == ("adamw", 1e-3, 1e-4, 30)
        assert (chosen.batch, chosen.eps, chosen.warmup) == (64, 1 / 255, 0)


@pytest.mark.parametrize(
    ("term", "copy"), [("consistency", "second"), ("adversarial", "attacked"), ("ce_on", "attacked")]
)
def test_what_a_term_switched_off_does_not_need_is_not_made(
    term: str, copy: str, tiny: Clip, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[FeatureCopies] = []
    real = MODULE.rectification

    def spied(state: State, copies: FeatureCopies, labels: torch.Tensor, chosen: Ran) -> torch.Tensor:
        seen.append(copies)
        return real(state, copies, labels, chosen)

    monkeypatch.setattr(MODULE, "rectification", spied)
    on = {"consistency": 1.0, "adversarial": 1.0, "ce_on": "both"}[term]
    for extra in ({}, {term: on}):
        make_defence("ran", QUICK | OFF | {"epochs": 1} | extra).fit(tiny, dataset, generator=stream(0, "fit"))
    without, beside = seen[0], seen[-1]
    assert without._replace(first=None) == (None, None, None)
    assert getattr(beside, copy) is not None
    assert torch.equal(beside.first, seen[1].first)
    assert not torch.equal(getattr(beside, copy), beside.first)


def test_teachers_have_no_gradient() -> None:
    """The clean Z teaches the attacked one: where the attacked copy has no way to the state, nothing is learned."""
    features = copies_of().first.requires_grad_(True)
    target = features.detach() + 1
    for term in ("consistency", "adversarial"):
        state = state_of() | {"gate": torch.zeros(6), "head.weight": torch.zeros(3, 6)}
        copies = FeatureCopies(features, target, target)
        rectification(state, copies, LABELS, Ran(**(OFF | {term: 1.0}))).backward()
        assert features.grad is not None
        assert not features.grad.any()


def test_the_gradient_is_finite_where_singular_values_are_the_same() -> None:
    repeated = torch.eye(8).requires_grad_(True)
    dominance(repeated).backward()
    assert repeated.grad is not None
    assert repeated.grad.isfinite().all()
    assert float(dominance(repeated.detach())) == pytest.approx(1 / 8)
    nothing = torch.zeros(4, 3).requires_grad_(True)
    (dominance(nothing) + covariance(nothing[:1])).backward()
    assert nothing.grad is not None
    assert nothing.grad.isfinite().all()


def test_the_logits_of_an_image_do_not_depend_on_its_batch_mates(taught: Clip, dataset: Dataset) -> None:
    defence = make_defence("ran", QUICK)
    classifier = defence.apply(taught, dataset.task, defence.fit(taught, dataset, generator=stream(0, "fit")))
    images = dataset.images()
    with torch.no_grad():
        together, alone = classifier(images), torch.cat([classifier(image[None]) for image in images])
        strange = classifier(torch.cat([images[:1], 1 - images[1:]]))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(strange[:1], alone[:1], atol=1e-4, rtol=1e-4)
    head: Any = classifier.head
    features = taught.encode_image(images)
    by_batch = rectified(features, {key: value.clone() for key, value in head.state.items()}, training=True)
    assert not torch.allclose(by_batch, rectified(features, head.state), atol=0.01)


def test_running_statistics_are_means_over_the_batches() -> None:
    state, features = state_of(), copies_of().first
    before = state["norm.mean"].clone(), state["norm.variance"].clone()
    rectified(features, state)
    rectified(features[:1], state, training=True)
    assert torch.equal(state["norm.mean"], before[0])
    rectified(features, state, training=True)
    hidden = features @ state["in.weight"].T + state["in.bias"]
    torch.testing.assert_close(state["norm.mean"], 0.9 * before[0] + 0.1 * hidden.mean(0))
    torch.testing.assert_close(state["norm.variance"], 0.9 * before[1] + 0.1 * hidden.var(0))


def test_the_attack_leaks_no_gradient_and_moves_no_statistics(
    taught: Clip, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is attacked has no way to the parameters, and is the classifier as it would be deployed at that step."""
    seen: list[State] = []
    real = MODULE._copies

    def spied(student: Classifier, *rest: Any) -> FeatureCopies:
        head = student.head
        assert isinstance(head, LearnedHead)
        before = {key: value.clone() for key, value in head.state.items()}
        found = real(student, *rest)
        seen.append(before)
        assert all(torch.equal(before[key], head.state[key]) for key in before)
        assert not any(value.requires_grad or value.grad is not None for value in head.state.values())
        assert not any(part.requires_grad for part in found if part is not None)
        return found

    monkeypatch.setattr(MODULE, "_copies", spied)
    make_defence("ran", QUICK).fit(taught, dataset, generator=stream(0, "fit"))
    assert len(seen) == 4
    assert not torch.equal(seen[0]["norm.mean"], seen[1]["norm.mean"])
    assert not any(parameter.grad is not None for parameter in taught.vision.parameters())


def test_an_interruption_changes_nothing(tiny: Clip, dataset: Dataset, tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "half.safetensors", {"a": 1}, seconds=0.0)

    def stop(step: int, _total: int) -> None:
        if step == 3 and stops.pop():
            raise KeyboardInterrupt

    defence, stops = make_defence("ran", QUICK), [False, True]
    whole = defence.fit(tiny, dataset, generator=stream(0, "fit"))
    with pytest.raises(KeyboardInterrupt):
        defence.fit(tiny, dataset, generator=stream(0, "fit"), session=Session(stop, checkpoint=kept))
    again = defence.fit(tiny, dataset, generator=stream(0, "fit"), session=Session(stop, checkpoint=kept))
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    with pytest.raises(ConfigError, match=r"learned by one process.*without torchrun"):
        defence.fit(tiny, dataset, generator=stream(0, "fit"), session=Session(workers=Workers(0, 2)))


def test_it_withstands_an_attack_that_a_linear_probe_does_not(taught: Clip, dataset: Dataset, unseen: Dataset) -> None:
    ball, images, labels = Ball("linf", 0.14), unseen.images(), unseen.labels

    def scores(name: str, settings: dict) -> tuple[float, float]:
        defence = make_defence(name, settings | {"batch": 12})
        classifier = defence.apply(taught, dataset.task, defence.fit(taught, dataset, generator=stream(0, "fit")))
        attacked = Pgd(steps=10, loss="margin")(classifier, images, labels, ball=ball, generator=stream(0, "test"))
        found = judge(classifier, images, attacked, labels, ball=ball).broken
        with torch.no_grad():
            clean = float((classifier(images).argmax(dim=1) == labels).float().mean())
        return clean, 1 - float(found.float().mean())

    probe = scores("linear-probe", {"lr": 0.03})
    rectifier = scores("ran", {"eps": ball.eps, "attack_step": 0.07})
    assert min(probe[0], rectifier[0]) > 0.95
    assert rectifier[1] > probe[1] + 0.15, (rectifier, probe)
