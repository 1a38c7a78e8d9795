"""Noise of the right law, and few-shot contexts that learn from labels."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest

from medrobust.data.task import Dataset
from medrobust.defences.context import ContextSettings, add_noise, learn_context
from medrobust.defences.heads import context_names, start_context, text_prototypes
from medrobust.errors import DataError
from medrobust.learning.loop import Session
from medrobust.models.clip import Clip
from medrobust.seeds import stream


def test_each_image_has_one_level_from_the_list_and_nothing_is_clipped() -> None:
    images = torch.full((300, 3, 16, 16), 0.5)
    noise = add_noise(images, (0.25, 1.0), stream(0, "a")) - images
    assert noise.flatten(1).mean(dim=1).abs().max() < 0.2
    levels = noise.flatten(1).std(dim=1)
    low = (levels - 0.25).abs() < 0.03
    assert (low | ((levels - 1.0).abs() < 0.12)).all()
    assert binomtest(int(low.sum()), 300, 0.5).pvalue > 0.001
    assert (images + noise).min() < 0


def test_no_levels_mean_no_noise() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(add_noise(images, (), stream(0, "a")), images)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_images_stays_clean(share: float) -> None:
    images = torch.rand(400, 3, 4, 4)
    clean = (add_noise(images, (0.5,), stream(0, "a"), clean_fraction=share) == images).flatten(1).all(dim=1)
    assert binomtest(int(clean.sum()), 400, share).pvalue > 0.001


def noisy_loss(model: Clip, data: Dataset, context: torch.Tensor) -> float:
    images = add_noise(data.images().repeat(8, 1, 1, 1), (0.5,), stream(1, "unseen noise"))
    with torch.no_grad():
        unit = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
        logits = model.logit_scale * unit @ text_prototypes(model, context_names(data.task), context).T
    return float(torch.nn.functional.cross_entropy(logits, data.labels.repeat(8)))


def test_learning_lowers_the_loss_on_unseen_noise(taught: Clip, misled: Dataset) -> None:
    settings = ContextSettings(start="template", epochs=15, batch=8, lr=0.02)
    context = learn_context(taught, misled, settings, sigmas=(0.5,), generator=stream(0, "fit"))
    start = start_context(taught, misled.task.templates[0])
    assert noisy_loss(taught, misled, context) < 0.5 * noisy_loss(taught, misled, start)


def test_a_template_gives_the_first_context(tiny: Clip, dataset: Dataset) -> None:
    settings = ContextSettings(start="template", shots=1, epochs=1, lr=1e-12)
    context = learn_context(tiny, dataset, settings, sigmas=(), generator=stream(0, "fit"))
    torch.testing.assert_close(context, start_context(tiny, dataset.task.templates[0]))


def test_labels_matter(taught: Clip, dataset: Dataset) -> None:
    settings = ContextSettings(epochs=2, batch=8, shots=2)
    turned = replace(dataset, targets=tuple((label + 1) % 3 for label in dataset.targets))
    one, other = (
        learn_context(taught, data, settings, sigmas=(), generator=stream(0, "fit")) for data in (dataset, turned)
    )
    assert not torch.equal(one, other)


def test_a_random_start_is_small_and_has_the_words_asked_for(tiny: Clip, dataset: Dataset) -> None:
    settings = ContextSettings(words=40, shots=1, epochs=1, lr=1e-12)
    context = learn_context(tiny, dataset, settings, sigmas=(), generator=stream(0, "fit"))
    assert context.shape == (40, 32)
    assert context.std() == pytest.approx(0.02, rel=0.1)


def test_only_the_shots_asked_for_are_read(tiny: Clip, dataset: Dataset) -> None:
    read: list[int] = []

    def reader(row: int) -> torch.Tensor:
        read.append(row)
        return dataset.read(row)

    counted = replace(dataset, read=reader)
    learn_context(tiny, counted, ContextSettings(shots=2, epochs=2), sigmas=(), generator=stream(0, "fit"))
    assert sorted(dataset.targets[row] for row in set(read)) == [0, 0, 1, 1, 2, 2]


def test_every_epoch_sees_every_shot_once(tiny: Clip, dataset: Dataset) -> None:
    done: list[tuple[int, int]] = []
    learn_context(
        tiny,
        dataset,
        ContextSettings(shots=3, epochs=4, batch=4),
        sigmas=(),
        generator=stream(0, "fit"),
        session=Session(lambda step, steps: done.append((step, steps))),
    )
    assert done == [(step, 12) for step in range(1, 13)]


def test_a_class_without_images_is_named(tiny: Clip, dataset: Dataset) -> None:
    rows = [row for row, label in enumerate(dataset.targets) if label != 1]
    with pytest.raises(DataError, match="green paint"):
        learn_context(tiny, dataset.subset(rows), ContextSettings(), sigmas=(), generator=stream(0, "fit"))
