"""Probes and full fine-tuning: heads against formulas, what changes, what is refused for other classes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medrobust.data.task import Dataset, Task
from medrobust.defences import DEFENCES, make_defence
from medrobust.defences.adaptation import vision_part
from medrobust.defences.adversarial import Batches
from medrobust.defences.probe import learn_in_batches
from medrobust.defences.state import check_header, header_of
from medrobust.errors import DataError, StateError
from medrobust.learning.checkpoint import Checkpoint
from medrobust.learning.loop import Session
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier, DirectionHead

QUICK: dict[str, Any] = {"epochs": 2, "batch": 12}
HEADS = [name for name in DEFENCES if make_defence(name).class_bound]


def accuracy(classifier: Classifier, data: Dataset) -> float:
    with torch.no_grad():
        return float((classifier(data.images()).argmax(dim=1) == data.labels).float().mean())


@pytest.mark.parametrize("unit", [False, True])
def test_the_linear_probe_is_the_training_one_would_write(unit: bool, tiny: Clip, dataset: Dataset) -> None:
    """AdamW with half a cosine, on features that were encoded beforehand."""
    settings = QUICK | {"unit": unit, "epochs": 3, "lr": 0.02}
    defence = make_defence("linear-probe", settings)
    found = defence.fit(tiny, dataset, generator=stream(0, "fit"))
    generator = stream(0, "fit")
    batches = Batches.of(dataset, defence.settings, generator)
    features = tiny.encode_image(dataset.images())
    features = features / features.norm(dim=1, keepdim=True) if unit else features
    weight = ((2 * torch.rand(3, 16, generator=generator) - 1) / 4).requires_grad_(True)
    bias = ((2 * torch.rand(3, generator=generator) - 1) / 4).requires_grad_(True)
    optimiser = torch.optim.AdamW([weight, bias], weight_decay=1e-4)
    for step in range(6):
        optimiser.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 6))).item()
        rows = batches.rows(step)
        optimiser.zero_grad()
        F.cross_entropy(features[rows] @ weight.T + bias, dataset.labels[rows]).backward()
        optimiser.step()
    torch.testing.assert_close(found["head.weight"], weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["head.bias"], bias.detach(), atol=1e-5, rtol=1e-4)
    logits = defence.apply(tiny, dataset.task, found)(dataset.images())
    torch.testing.assert_close(logits, (features @ weight.T + bias).detach(), atol=1e-4, rtol=1e-4)


def test_the_mlp_probe_has_one_hidden_layer(tiny: Clip, dataset: Dataset) -> None:
    defence = make_defence("mlp-probe", QUICK | {"hidden": 5})
    state = defence.fit(tiny, dataset, generator=stream(0, "fit"))
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "hidden.weight": (5, 16), "hidden.bias": (5,), "head.weight": (3, 5), "head.bias": (3,),
    }  # fmt: skip
    images = dataset.images(range(4))
    hidden = torch.relu(tiny.encode_image(images) @ state["hidden.weight"].T + state["hidden.bias"])
    expected = hidden @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(defence.apply(tiny, dataset.task, state)(images), expected)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("linear-probe", {"lr": 0.03}), ("linear-probe", {"lr": 0.03, "augment": True}), ("mlp-probe", {"lr": 0.01}),
     ("full-fine-tune", {"lr": 0.01, "tower_lr": 1e-3, "epochs": 10}), ("nmtune", {"epochs": 15})],
)  # fmt: skip
def test_it_names_the_classes_of_images_it_has_not_seen(
    name: str, settings: dict, taught: Clip, dataset: Dataset, unseen: Dataset
) -> None:
    defence = make_defence(name, {"batch": 12} | settings)
    state = defence.fit(taught, dataset, generator=stream(0, "fit"))
    assert accuracy(defence.apply(taught, dataset.task, state), unseen) > 0.9


def test_full_fine_tuning_changes_the_tower_and_keeps_its_form(tiny: Clip, dataset: Dataset) -> None:
    from medrobust.smoothing.encoding import lean_sampler

    defence = make_defence("full-fine-tune", QUICK | {"tower_lr": 1e-3})
    state = defence.fit(tiny, dataset, generator=stream(0, "fit"))
    own = {f"weight.{name}": weight for name, weight in tiny.vision.named_parameters()}
    assert vision_part(state).keys() == own.keys()
    moved = {key: float((state[key] - own[key]).detach().abs().max()) for key in own}
    assert 1e-4 < max(moved.values()) < 0.01  # Adam's steps are of the learning rate's length, and there are 4
    still = make_defence("full-fine-tune", QUICK | {"tower_lr": 1e-9}).fit(tiny, dataset, generator=stream(0, "fit"))
    torch.testing.assert_close(vision_part(still), {key: own[key].detach() for key in own}, atol=1e-6, rtol=0)
    sampler = lean_sampler(8)
    sampler.encoder(defence.apply(tiny, dataset.task, state).encode, dataset.read(0))
    assert "whole images" not in sampler.kernels[0]


@pytest.mark.parametrize("name", ["linear-probe", "full-fine-tune"])
def test_few_shots_and_half_precision(name: str, tiny: Clip, dataset: Dataset) -> None:
    exact, rough = (
        make_defence(name, QUICK | {"shots": 2, "precision": precision}).fit(tiny, dataset, generator=stream(0, "fit"))
        for precision in ("float32", "bfloat16")
    )
    every = make_defence(name, QUICK).fit(tiny, dataset, generator=stream(0, "fit"))
    assert all(value.dtype == torch.float32 for value in rough.values())
    assert not torch.equal(exact["head.weight"], rough["head.weight"])
    torch.testing.assert_close(exact["head.weight"], rough["head.weight"], atol=0.01, rtol=0.05)
    assert not torch.equal(exact["head.weight"], every["head.weight"])


def test_what_the_loss_moves_is_kept_and_not_descended(dataset: Dataset, tmp_path: Path) -> None:
    """A counter that only the loss moves is the same after an interruption; the learning rate does not touch it."""
    chosen = make_defence("linear-probe", QUICK).settings
    start = {"point": torch.tensor([3.0]), "count": torch.zeros(1)}
    kept = Checkpoint(tmp_path / "half.safetensors", {}, seconds=0.0)

    def loss(state: Any, _step: int) -> torch.Tensor:
        state["count"] += 1
        return (state["point"] * state["count"]).square().sum()

    def stop(step: int, _total: int) -> None:
        if step == 2 and stops.pop():
            raise KeyboardInterrupt

    def student(_state: Any) -> Classifier:
        return Classifier(lambda images: images.mean((2, 3)), lambda features: features)

    def learn(session: Session) -> Any:
        batches = Batches.of(dataset, chosen, stream(0, "fit"))
        return learn_in_batches(start, student, loss, batches, chosen, device=torch.device("cpu"), session=session,
                                factors={"count": 0.0})  # fmt: skip

    stops = [False, True]
    whole = learn(Session())
    with pytest.raises(KeyboardInterrupt):
        learn(Session(stop, checkpoint=kept))
    again = learn(Session(stop, checkpoint=kept))
    assert float(whole["count"]) == 4
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    assert float(whole["point"]) < 3


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_refused_for_other_classes(name: str, tiny: Clip, dataset: Dataset, task: Task) -> None:
    defence = make_defence(name, QUICK)
    header = header_of(tiny, task, name, defence.settings, data="colours", base="", seed=0)
    turned = replace(task, name="turned", classes=task.classes[::-1])
    sentence = f"s is a head of {name} learned for the classes red paint, green paint, blue paint, in this order, and "
    with pytest.raises(StateError, match=sentence + "cannot be used for blue paint, green paint, red paint; learn one"):
        check_header(header, tiny, turned, path=Path("s"), transfer=True)
    check_header(header, tiny, replace(task, name="another"), path=Path("s"), transfer=True)
    with pytest.raises(StateError, match="was learned for task colours"):
        check_header(header, tiny, turned, path=Path("s"))
    header = header_of(tiny, task, "tecoa", make_defence("tecoa").settings, data="colours", base="", seed=0)
    check_header(header, tiny, turned, path=Path("s"), transfer=True)


def test_what_does_not_fit_is_told(tiny: Clip, dataset: Dataset, task: Task) -> None:
    defence = make_defence("linear-probe", QUICK)
    two = replace(task, name="two", classes=task.classes[:2], aliases=task.aliases[:2])
    with pytest.raises(StateError, match="learned for 3 classes, two has 2; learn it on two"):
        defence.apply(tiny, two, defence.fit(tiny, dataset, generator=stream(0, "fit")))
    with pytest.raises(DataError, match="are of one class; a head needs images of two at least"):
        defence.fit(tiny, dataset.subset([0, 3, 6]), generator=stream(0, "fit"))


def test_a_head_with_a_bias_promises_no_directions(tiny: Clip, dataset: Dataset) -> None:
    for name in HEADS:
        defence = make_defence(name, QUICK)
        classifier = defence.apply(tiny, dataset.task, defence.fit(tiny, dataset, generator=stream(0, "fit")))
        assert not isinstance(classifier.head, DirectionHead)
