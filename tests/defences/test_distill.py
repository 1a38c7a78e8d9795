"""Distill: noisy features move towards the clean ones, on images it has not seen."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cosine_similarity

from medrobust.data.task import Dataset, Task
from medrobust.defences.context import add_noise
from medrobust.defences.distill import Distill, distill
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier

SIGMA = 0.5
PARTS = pytest.mark.parametrize(("part", "lr"), [("lora", 5e-3), ("norms", 5e-3), ("all", 2e-3), ("feature", 5e-3)])


def logit_distance(classifier: Classifier, clean: Classifier, data: Dataset) -> float:
    """Mean squared distance between logits of noisy copies and the frozen model's logits of the clean images."""
    images = data.images().repeat(6, 1, 1, 1)
    noisy = add_noise(images, (SIGMA,), stream(1, "unseen noise"))
    with torch.no_grad():
        return float((classifier(noisy) - clean(images)).square().mean())


@PARTS
def test_noisy_answers_come_closer_to_the_clean_ones(
    taught: Clip, task: Task, dataset: Dataset, unseen: Dataset, part: str, lr: float
) -> None:
    defence = distill(Distill(part=part, lr=lr, steps=40, batch=16, sigmas=(SIGMA,)))  # type: ignore[arg-type]
    state = defence.fit(taught, dataset, generator=stream(0, "fit"))
    before = Distill(part=part, lr=1e-12, steps=1, batch=2)  # type: ignore[arg-type]
    start = distill(before).fit(taught, dataset, generator=stream(0, "fit"))
    unlearned, learned = defence.apply(taught, task, start), defence.apply(taught, task, state)
    assert logit_distance(learned, unlearned, unseen) < 0.8 * logit_distance(unlearned, unlearned, unseen)


@pytest.mark.parametrize("part", ["lora", "norms", "all"])
def test_noisy_features_come_closer_to_the_clean_ones(
    tiny: Clip, task: Task, dataset: Dataset, unseen: Dataset, part: str
) -> None:
    defence = distill(Distill(part=part, lr=5e-3, steps=40, batch=16, sigmas=(SIGMA,)))  # type: ignore[arg-type]
    learned = defence.apply(tiny, task, defence.fit(tiny, dataset, generator=stream(0, "fit")))
    images = unseen.images()
    noisy = add_noise(images, (SIGMA,), stream(1, "unseen noise"))
    with torch.no_grad():
        clean = tiny.encode_image(images)
        before = 2 - 2 * cosine_similarity(tiny.encode_image(noisy), clean)
        after = 2 - 2 * cosine_similarity(learned.encode(noisy), clean)
    assert after.mean() < 0.8 * before.mean()


@PARTS
def test_at_the_start_nothing_changes(taught: Clip, task: Task, dataset: Dataset, part: str, lr: float) -> None:
    defence = distill(Distill(part=part, lr=1e-12, steps=1, batch=2))  # type: ignore[arg-type]
    classifier = defence.apply(taught, task, defence.fit(taught, dataset, generator=stream(0, "fit")))
    images = dataset.images([0, 1, 2])
    with torch.no_grad():
        plain = distill().apply(taught, task, {})
        torch.testing.assert_close(classifier(images), plain(images), atol=1e-4, rtol=0)


def test_the_feature_part_shares_the_models_own_encoder(taught: Clip, task: Task, dataset: Dataset) -> None:
    defence = distill(Distill(part="feature", steps=1, batch=2))
    classifier = defence.apply(taught, task, defence.fit(taught, dataset, generator=stream(0, "fit")))
    assert classifier.encode == taught.encode_image


def test_another_class_list_works_with_what_was_learned(taught: Clip, task: Task, dataset: Dataset) -> None:
    defence = distill(Distill(steps=2, batch=4))
    state = defence.fit(taught, dataset, generator=stream(0, "fit"))
    two = replace(task, classes=("paint", "photo"), aliases=((), ()))
    assert defence.apply(taught, two, state)(dataset.images([0])).shape == (1, 2)


def test_only_so_many_images_are_read(tiny: Clip, dataset: Dataset) -> None:
    read: set[int] = set()

    def reader(row: int) -> torch.Tensor:
        read.add(row)
        return dataset.read(row)

    counted = Dataset(dataset.task, dataset.ids, dataset.targets, reader, "colours", "train")
    distill(Distill(images=5, steps=2, batch=2)).fit(tiny, counted, generator=stream(0, "fit"))
    assert len(read) == 5
