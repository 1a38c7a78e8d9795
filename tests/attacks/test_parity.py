"""Robust accuracy against the authors' own code on small random networks; needs pyautoattack, no dependency of ours."""

import pytest
import torch
from torch import nn

from medrobust.attacks import Ball
from medrobust.attacks.ball import Norm
from medrobust.attacks.fab import Fab
from medrobust.attacks.suite import run_suite
from medrobust.seeds import stream
from medrobust.types import Classifier

IMAGES = 256


def network(classes: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A random network that gives every class its share, random images, and its own answers as labels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        last = nn.Linear(256, classes)
        images = torch.rand(IMAGES, 3, 16, 16)
    net = nn.Sequential(body, nn.Flatten(), last).eval().requires_grad_(False)
    last.bias -= net(images).mean(dim=0)
    last.weight *= 30
    last.bias *= 30
    return net, images, net(images).argmax(dim=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [4, 10])
def test_agrees_with_the_authors_code_within_one_image(norm: Norm, classes: int) -> None:
    package = pytest.importorskip("pyautoattack")
    net, images, labels = network(classes)
    classifier, some = Classifier(net, lambda logits: logits), slice(64)
    near = Fab(steps=20).nearest(
        classifier, images[some], labels[some], ball=Ball(norm, 0.5), generator=stream(0, "near")
    )
    eps = float(near.distance.median())
    report = run_suite(classifier, images, labels, ball=Ball(norm, eps), generator=stream(0, "parity"), batch=IMAGES)
    theirs = package.AutoAttack(net, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, seed=0, device="cpu")
    theirs.apgd_targeted.n_target_classes = theirs.fab.n_target_classes = classes - 1
    attacked = theirs.run_standard_evaluation(images, labels, batch_size=IMAGES)[0]
    standing = int((net(attacked).argmax(dim=1) == labels).sum())
    assert 0.3 * IMAGES < standing < 0.7 * IMAGES
    assert abs(round(report.robust_accuracy * IMAGES) - standing) <= 1
    assert report.standard
