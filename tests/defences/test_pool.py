"""Pool: without the term for balance it may collapse, with it every class keeps its images."""

from typing import Any

import torch
from torch import Tensor

from medrobust.data.task import Dataset
from medrobust.defences.context import add_noise
from medrobust.defences.pool import Pool, pool
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.types import Classifier

SMALL = {"steps": 60, "batch": 12, "draws": 4, "sigmas": (0.5,), "lr": 0.02}
STILL = {"steps": 1, "lr": 1e-12}


def fitted(model: Clip, data: Dataset, **changes: Any) -> Classifier:
    defence = pool(Pool.model_validate(SMALL | changes))
    return defence.apply(model, data.task, defence.fit(model, data, generator=stream(0, "fit")))


def chances(classifier: Classifier, data: Dataset, sigma: float = 0.5) -> Tensor:
    images = add_noise(data.images().repeat(8, 1, 1, 1), (sigma,), stream(1, "unseen noise"))
    with torch.no_grad():
        return classifier(images).softmax(dim=1)


def entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=-1)


def test_with_balance_a_class_that_was_lost_comes_back(taught: Clip, misled: Dataset, unseen: Dataset) -> None:
    start, kept = (chances(fitted(taught, misled, **change), unseen) for change in (STILL, {}))
    assert start.argmax(dim=1).bincount(minlength=3).min() < 0.2 * len(start)
    assert kept.argmax(dim=1).bincount(minlength=3).min() > 0.25 * len(kept)
    assert entropy(kept).mean() < 0.8 * entropy(start).mean()


def test_without_balance_the_prompt_may_collapse(tiny: Clip, dataset: Dataset, unseen: Dataset) -> None:
    lost, kept = (chances(fitted(tiny, dataset, sigmas=(0.1,), balance=b), unseen, 0.1) for b in (0.0, 1.0))
    assert entropy(lost.mean(dim=0)) < 0.1
    assert entropy(kept.mean(dim=0)) > 0.4


def test_only_so_many_images_are_read(tiny: Clip, dataset: Dataset) -> None:
    read: set[int] = set()

    def reader(row: int) -> Tensor:
        read.add(row)
        return dataset.read(row)

    counted = Dataset(dataset.task, dataset.ids, dataset.targets, reader, "colours", "train")
    pool(Pool(images=5, steps=2, draws=1)).fit(tiny, counted, generator=stream(0, "fit"))
    assert len(read) == 5
