"""Pairs: the captions of each class, and batches that say which caption is whose."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from medrobust.data.task import Dataset, Task
from medrobust.pairs.batches import Pairs, batches, captions_of, make_pairs
from medrobust.pairs.recipe import PairSource
from medrobust.seeds import stream

SOURCE = PairSource(data="colours.npz", task="colours", share=0.5)
BOOK = {"colours": {"frames": ["{} here", "{}!"], "classes": {"red paint": ["scarlet"]}}}


def test_captions_are_templates_twice_and_frames_over_names_and_synonyms(task: Task) -> None:
    red, green, _ = captions_of(task, BOOK)
    plain = ["a photo of {}.", "an image that shows {}."] * 2
    assert list(red) == [t.format("red paint") for t in plain] + [
        "red paint here", "scarlet here", "red paint!", "scarlet!"
    ]  # fmt: skip
    assert list(green) == [t.format("green paint") for t in plain] + ["green paint here", "green paint!"]


def test_a_task_without_captions_of_its_own_has_its_templates(task: Task) -> None:
    assert captions_of(task, {})[1] == ("a photo of green paint.", "an image that shows green paint.") * 2


def test_images_are_kept_as_bytes_in_order(dataset: Dataset) -> None:
    pairs = make_pairs(dataset, SOURCE, BOOK)
    assert pairs.images.dtype == torch.uint8
    assert torch.equal(pairs.labels, dataset.labels)
    assert (pairs.images.float() / 255 - dataset.images()).abs().max() <= 0.5 / 255 + 1e-6
    assert (pairs.share, pairs.any_rotation, pairs.captions) == (0.5, False, captions_of(dataset.task, BOOK))


def two_sources(dataset: Dataset) -> list[Pairs]:
    lopsided = dataset.subset([row for row, label in enumerate(dataset.targets) if label == 0 or row < 6])
    other = replace(make_pairs(lopsided, SOURCE, BOOK), share=0.25, any_rotation=True)
    named = replace(other, captions=tuple(tuple(f"other {t}" for t in texts) for texts in other.captions))
    return [make_pairs(dataset, SOURCE, BOOK), named]


def test_every_image_has_a_caption_of_its_own_class_and_source(dataset: Dataset) -> None:
    sources = two_sources(dataset)
    draw = batches(sources, 24, stream(0, "pretrain"))
    for _ in range(5):
        batch = draw()
        assert batch.images.shape == (24, 3, 16, 16)
        assert (batch.images.min() >= 0, batch.images.max() <= 1) == (True, True)
        texts = [batch.captions[place] for place in batch.caption_of.tolist()]
        assert [text.startswith("other") for text in texts] == [False] * 16 + [True] * 8
        brightest = batch.images.mean(dim=(2, 3)).argmax(dim=1).tolist()
        for number, text in enumerate(texts):
            assert text in sources[number >= 16].captions[brightest[number]]
        assert sorted(set(batch.caption_of.tolist())) == list(range(len(batch.captions)))


def test_every_class_of_a_source_is_equally_likely(dataset: Dataset) -> None:
    lopsided = two_sources(dataset)[1]
    assert lopsided.labels.bincount().tolist() == [8, 2, 2]
    draw = batches([lopsided], 30, stream(0, "pretrain"))
    seen = torch.zeros(3)
    for _ in range(20):
        seen += draw().images.mean(dim=(2, 3)).argmax(dim=1).bincount(minlength=3)
    assert chisquare(seen.numpy()).pvalue > 0.001


def test_all_captions_are_used_and_draws_follow_the_generator(dataset: Dataset) -> None:
    pairs = make_pairs(dataset, SOURCE, BOOK)
    one, other = (batches([pairs], 12, stream(0, "pretrain")) for _ in range(2))
    seen: set[str] = set()
    for _ in range(40):
        mine, theirs = one(), other()
        assert torch.equal(mine.images, theirs.images)
        assert mine.captions == theirs.captions
        seen |= set(mine.captions)
    assert seen == {caption for captions in pairs.captions for caption in captions}


@pytest.mark.parametrize("share", [0.001, 1.0])
def test_the_smallest_source_has_at_least_one_image(dataset: Dataset, share: float) -> None:
    pairs = make_pairs(dataset, SOURCE, BOOK)
    batch = batches([replace(pairs, share=1.0), replace(pairs, share=share)], 10, stream(0, "pretrain"))()
    assert len(batch.images) == (11 if share < 0.01 else 10)
