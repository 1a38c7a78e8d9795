"""TeCoA, FARE and PMG-AFT: their losses against formulas, what they change, and that they defend."""

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medrobust.attacks import Ball
from medrobust.attacks.attack import judge
from medrobust.attacks.pgd import Pgd
from medrobust.data.task import Dataset
from medrobust.defences import make_defence
from medrobust.defences.defence import Defence
from medrobust.defences.tecoa import Fare, PmgAft, Tecoa, fare, pmg_aft, tecoa
from medrobust.defences.zero_shot import zero_shot
from medrobust.errors import StateError
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier

BALL = Ball("linf", 0.14)
HARD: dict[str, Any] = {"epochs": 12, "batch": 12, "optimiser": "adamw", "lr": 2e-3, "eps": BALL.eps}
HARD["attack_step"] = 0.07


def robust(classifier: Classifier, data: Dataset) -> float:
    images, labels = data.images(), data.labels
    attacked = Pgd(steps=10, loss="margin")(classifier, images, labels, ball=BALL, generator=stream(0, "test"))
    return 1 - float(judge(classifier, images, attacked, labels, ball=BALL).broken.float().mean())


@pytest.mark.parametrize(
    ("name", "extra"),
    [("tecoa", {}), ("tecoa", {"unlabelled": True}), ("tecoa", {"blocks": 1}), ("pmg-aft", {}),
     ("fare", {"attack_steps": 2}), ("tecoa", {"mode": "visual-prompts", "optimiser": "sgd", "lr": 2.0, "border": 60})],
)  # fmt: skip
def test_what_is_learned_withstands_an_attack_that_the_model_did_not(
    name: str, extra: dict, taught: Clip, dataset: Dataset, unseen: Dataset
) -> None:
    defence = make_defence(name, HARD | extra)
    state = defence.fit(taught, dataset, generator=stream(0, "fit"))
    before = robust(zero_shot().apply(taught, dataset.task, {}), unseen)
    after = robust(defence.apply(taught, dataset.task, state), unseen)
    assert after > before + 0.15, (before, after)


def test_the_losses_are_the_papers(taught: Clip, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = dataset.images([0, 1, 2]), dataset.labels[:3]
    attacked = images + 0.05 * torch.randn(images.shape, generator=stream(0, "attacked"))
    frozen = zero_shot().apply(taught, dataset.task, {})
    student = Classifier(lambda x: 1.5 * taught.encode_image(x) + 0.3, frozen.head)
    found: dict[str, torch.Tensor] = {}

    def caught(name: str) -> Any:
        def robust_vision(chosen: Any, objective: Any, _learns_from: str) -> Defence:
            made = objective(frozen)
            found[name] = made.score(student, images, attacked, labels)
            found[f"{name} climb"] = made.climb(student, images, labels)(attacked)
            return zero_shot()

        return robust_vision

    with torch.no_grad():
        for name, factory, chosen in (
            ("tecoa", tecoa, Tecoa()), ("unlabelled", tecoa, Tecoa(unlabelled=True)), ("fare", fare, Fare()),
            ("pmg-aft", pmg_aft, PmgAft()),
        ):  # fmt: skip
            monkeypatch.setattr(sys.modules["medrobust.defences.tecoa"], "robust_vision", caught(name))
            factory(chosen)
        q_adv, q_clean, q_frozen = student(attacked).softmax(1), student(images).softmax(1), frozen(attacked).softmax(1)
        own = frozen(images).argmax(dim=1)
        features = (student.encode(attacked) - taught.encode_image(images)).pow(2).sum(dim=1)
    entropy = -q_adv[torch.arange(3), labels].log()
    torch.testing.assert_close(found["tecoa"], entropy)
    torch.testing.assert_close(found["unlabelled"], -q_adv[torch.arange(3), own].log())
    torch.testing.assert_close(found["fare"], features)
    kl = [F.kl_div(q_adv.log(), target, reduction="none").sum(dim=1) for target in (q_frozen, q_clean)]
    torch.testing.assert_close(found["pmg-aft"], entropy + kl[0] + kl[1], atol=1e-4, rtol=1e-4)
    for name, climbed in (("tecoa", "tecoa"), ("fare", "fare"), ("unlabelled", "unlabelled"), ("pmg-aft", "tecoa")):
        torch.testing.assert_close(found[f"{name} climb"], found[climbed])


def test_the_last_blocks_are_learned_and_what_follows_them(tiny: Clip, dataset: Dataset) -> None:
    one = make_defence("tecoa", HARD | {"epochs": 1, "blocks": 1}).fit(tiny, dataset, generator=stream(0, "fit"))
    names = {key.removeprefix("weight.") for key in one}
    every = {name for name, _ in tiny.vision.named_parameters()}
    frozen = every - names
    assert {name for name in every if "layers.1" in name or "post_layernorm" in name or "projection." in name} == names
    assert any("patch_embedding" in name for name in frozen)
    assert any("layers.0" in name for name in frozen)
    both = make_defence("tecoa", HARD | {"epochs": 1, "blocks": 2}).fit(tiny, dataset, generator=stream(0, "fit"))
    assert set(one) < set(both)
    with pytest.raises(StateError, match="the last 3 blocks are to be learned, the vision tower has 2"):
        make_defence("tecoa", HARD | {"blocks": 3}).fit(tiny, dataset, generator=stream(0, "fit"))


def test_weights_between_the_model_s_and_the_robust_ones(tiny: Clip, dataset: Dataset) -> None:
    state = make_defence("tecoa", HARD | {"epochs": 1}).fit(tiny, dataset, generator=stream(0, "fit"))
    own = dict(tiny.vision.named_parameters())

    def weight(share: float) -> torch.Tensor:
        encode = make_defence("tecoa", {"interpolation": share}).apply(tiny, dataset.task, state).encode
        return dict(encode.tower().named_parameters())["projection.weight"]

    assert torch.equal(weight(1.0), state["weight.projection.weight"])
    assert torch.equal(weight(0.0), own["projection.weight"])
    middle = (own["projection.weight"] + state["weight.projection.weight"]) / 2
    torch.testing.assert_close(weight(0.5), middle)
    assert not torch.allclose(middle, own["projection.weight"])


def test_the_lean_path_sees_a_tower_that_was_learned_and_leaves_prompts_to_the_model(
    tiny: Clip, dataset: Dataset
) -> None:
    from medrobust.smoothing.encoding import lean_sampler

    kernels = {}
    for mode in ("fine-tune", "visual-prompts"):
        defence = make_defence("tecoa", {"mode": mode, "epochs": 1, "batch": 12})
        classifier = defence.apply(tiny, dataset.task, defence.fit(tiny, dataset, generator=stream(0, "fit")))
        sampler = lean_sampler(8)
        sampler.encoder(classifier.encode, dataset.read(0))
        (kernels[mode],) = sampler.kernels
    assert "whole images" not in kernels["fine-tune"]
    assert "whole images" in kernels["visual-prompts"]


def test_prompts_have_the_papers_sizes(tiny: Clip, dataset: Dataset) -> None:
    state = make_defence("tecoa", {"mode": "visual-prompts", "epochs": 1}).fit(
        tiny, dataset, generator=stream(0, "fit")
    )
    assert state["prompt.tokens"].shape == (10, 32)
    assert state["prompt.border"].shape == (3, 16**2 - 12**2)  # 30 at 224 pixels is 2 at 16
