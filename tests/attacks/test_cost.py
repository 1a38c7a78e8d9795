"""The cost that an attack states is counted: every image that passes forward, and two for every one that goes back."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import flatten

from medrobust.attacks import ATTACKS, Ball, suite
from medrobust.attacks.apgd import Apgd
from medrobust.attacks.attack import Attack
from medrobust.attacks.fab import Fab
from medrobust.attacks.pgd import Pgd
from medrobust.attacks.square import Square
from medrobust.seeds import stream
from medrobust.types import Classifier, Features, Images

CLASSES = (2, 3, 5, 12)
ALLOWED = [(name, n) for name, entry in ATTACKS.items() for n in CLASSES if n >= entry.default.fewest_classes]
FEW = {"steps": 4, "queries": 13, "refinements": 2}


class Meter:
    """Counts what an encoder is asked; `backward` too."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, images: Images) -> Features:
        self.passes += len(images)
        if images.requires_grad:
            images = images.clone()
            images.register_hook(self._back)
        return flatten(images)

    def _back(self, gradient: torch.Tensor) -> None:
        self.passes += 2 * len(gradient)


def steady(classes: int, meter: Meter, *, gap: float = 8.0) -> Classifier:
    """Answers 0 within any small ball; pixels of other classes decide only far away."""
    weights = torch.randn(classes, 27, generator=stream(0, "steady", classes))

    def head(features: Features) -> torch.Tensor:
        logits = (features - 0.5) @ weights.T
        return torch.cat([logits[:, :1] + gap, logits[:, 1:]], dim=1)

    return Classifier(meter, head)


def counted(attack: Attack, classifier: Classifier, meter: Meter, norm: Any) -> float:
    """Passes of one image, as the mean over some."""
    images = torch.rand(3, 3, 3, 3, generator=stream(0, "images"))
    labels = torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        assert bool((classifier(images).argmax(dim=1) == labels).all())
    meter.passes = 0
    found = attack(classifier, images, labels, ball=Ball(norm, 1e-3), generator=stream(0, "attack"))
    passes = meter.passes
    with torch.no_grad():
        assert bool((classifier(found).argmax(dim=1) == labels).all())
    return passes / 3


def short(attack: Attack, **more: int) -> Attack:
    """The same with few steps."""
    settings = {key: value for key, value in (FEW | more).items() if hasattr(attack, key)}
    return replace(attack, **settings)


@pytest.fixture
def _short_members(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = suite.standard_set
    monkeypatch.setattr(suite, "standard_set", lambda n: {name: short(one) for name, one in usual(n).items()})


@pytest.mark.usefixtures("_short_members")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("name", "classes"), ALLOWED)
def test_an_image_that_nothing_breaks_costs_what_was_said(name: str, classes: int, norm: str) -> None:
    attack, meter = short(ATTACKS[name].default, restarts=2 if classes == 3 else 1), Meter()
    assert counted(attack, steady(classes, meter), meter, norm) == attack.cost(classes)


@pytest.mark.usefixtures("_short_members")
@pytest.mark.parametrize("name", ATTACKS)
def test_where_no_wrong_answer_exists_only_the_final_search_of_fab_is_saved(name: str) -> None:
    attack, meter = short(ATTACKS[name].default), Meter()
    passes = counted(attack, steady(5, meter, gap=1e4), meter, "linf")
    saved = 2 + FEW["refinements"] if name in ("fab-t", "autoattack") else 0
    assert passes == attack.cost(5) - saved


def test_the_published_settings_cost_what_the_papers_count() -> None:
    """100 iterations of a gradient (and FAB of an answer too) for each of 9 targets, and 5,000 queries."""
    costs = {name: entry.default.cost(10) for name, entry in ATTACKS.items()}
    assert costs["apgd-ce"] == 1 + 3 * 100 + 1
    assert costs["apgd-t"] == 1 + 9 * (3 * 100 + 1)
    assert costs["fab-t"] == 1 + 9 * 100 * (3 + 1) + 2 + 3
    assert costs["square"] == 1 + 5000
    assert costs["autoattack"] == sum(costs[name] + 1 for name in ("apgd-ce", "apgd-t", "fab-t", "square")) + 3


def test_fewer_classes_mean_fewer_targets_and_an_image_that_breaks_costs_less() -> None:
    assert [Apgd(targets=9, steps=10).cost(n) for n in (2, 4, 10, 50)] == [32, 94, 280, 280]
    assert [Fab(targets=3, steps=10, refinements=0).cost(n) for n in (2, 3, 50)] == [41, 81, 121]
    meter = Meter()
    classifier = steady(3, meter, gap=0.0)
    images = torch.rand(1, 3, 3, 3, generator=stream(0, "images"))
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    for attack in (Pgd(steps=50), Square(queries=500)):
        meter.passes = 0
        attack(classifier, images, labels, ball=Ball("linf", 0.9), generator=stream(0, "attack"))
        assert 0 < meter.passes < attack.cost(3)
