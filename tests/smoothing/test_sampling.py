"""Votes: one pass for all heads, batches of one size, failures that count for no class."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from toys import Recorder, broken_above, half_space, linear, one_pixel

from medrobust.smoothing.noise import Noise, noise
from medrobust.smoothing.sampling import Copies, Draws, NoisyEncoder, PixelNoise, Sampler, answers, encoders
from medrobust.types import Classifier, DirectionHead, Features, Image, Logits

IMAGE = torch.full((3, 4, 4), 0.5)


def draws(item: str = "a") -> Noise:
    return noise((3, 4, 4), torch.device("cpu"), seed=0, use="estimation", item=item, sigma=0.5)


def said(*classifiers: Classifier, trials: int = 1000, batch: int = 64) -> torch.Tensor:
    """The answers, a row a copy and a column a classifier."""
    copies = Copies(classifiers, IMAGE, Sampler(batch))
    everyone = torch.ones(len(classifiers), dtype=torch.bool)
    rows = []
    for groups in copies.answers(Draws(0.5, trials, "estimation", 0, "a"), lambda: everyone):
        row = torch.zeros(len(groups[0][1]), len(classifiers), dtype=torch.int64)
        for places, answered in groups:
            row[:, places] = answered
        rows.append(row)
    return torch.cat(rows)


def votes(*classifiers: Classifier, trials: int = 1000, batch: int = 64) -> torch.Tensor:
    """How often each answers no class, class 0, class 1, class 2."""
    return torch.stack(
        [torch.bincount(one + 1, minlength=4) for one in said(*classifiers, trials=trials, batch=batch).T]
    )


def random_linear(classes: int, seed: int) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    return linear(torch.randn(classes, 48, generator=generator), torch.zeros(classes))


def test_two_heads_in_one_pass_get_the_votes_of_two_passes() -> None:
    shared = Recorder()
    one, other = (Classifier(shared, random_linear(3, seed).head) for seed in (0, 1))
    together = votes(one, other, trials=500)
    passes = len(shared.seen)
    assert torch.equal(together[:1], votes(one, trials=500))
    assert torch.equal(together[1:], votes(other, trials=500))
    assert not torch.equal(together[0], together[1])
    assert passes == 8
    assert len(shared.seen) == 3 * passes


def test_classifiers_with_encoders_of_their_own_see_the_same_noise() -> None:
    one, other = Recorder(), Recorder()
    head = random_linear(3, 0).head
    both = votes(Classifier(one, head), Classifier(other, head), trials=100)
    assert torch.equal(both[0], both[1])
    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))


@pytest.mark.parametrize("batch", [1, 7, 64, 999, 1000, 2000])
def test_votes_do_not_depend_on_the_batch_size(batch: int) -> None:
    found = votes(one_pixel(0.6), batch=batch)
    assert torch.equal(found, votes(one_pixel(0.6), batch=100))
    assert int(found.sum()) == 1000


@pytest.mark.parametrize(("trials", "passes"), [(1, 1), (10, 1), (11, 2), (20, 2), (25, 3)])
def test_every_batch_has_the_same_size_and_only_asked_for_copies_vote(trials: int, passes: int) -> None:
    encoder = Recorder()
    found = votes(Classifier(encoder, one_pixel(0.6).head), trials=trials, batch=10)
    assert [len(batch) for batch in encoder.seen] == [10] * passes
    assert int(found.sum()) == trials


def test_noise_is_added_in_float32_and_not_clipped() -> None:
    encoder = Recorder()
    votes(Classifier(encoder, one_pixel(0.6).head), trials=20, batch=10)
    noisy = torch.cat(encoder.seen)
    assert torch.equal(noisy, IMAGE + 0.5 * draws()(20))
    assert noisy.dtype == torch.float32
    assert noisy.min() < 0
    assert noisy.max() > 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_count_for_no_class(value: float) -> None:
    expected = int((IMAGE[0, 0, 0] + 0.5 * draws()(1000)[:, 0, 0, 0] > 0.7).sum())
    assert 0 < expected < 1000
    assert votes(broken_above(0.7, value)).tolist() == [[expected, 1000 - expected, 0, 0]]


def test_an_answer_is_the_largest_logit_or_none() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [-1.0, -2.0, -3.0], [math.nan, 5.0, 0.0], [0.0, math.inf, 0.0]])
    assert answers(logits).tolist() == [1, 0, -1, -1]


def test_votes_follow_the_distance_to_the_border() -> None:
    normal = torch.zeros(48)
    normal[5] = 1.0
    share = votes(half_space(normal, 0.2), trials=20_000, batch=1000)[0, 2].item() / 20_000
    assert share == pytest.approx(0.5 * (1 + math.erf(0.3 / 0.5 / math.sqrt(2))), abs=0.015)


def test_equal_encoders_are_grouped_in_order() -> None:
    class Tower:
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    one, other, head = Tower(), Tower(), one_pixel(0.5).head
    groups = encoders([Classifier(tower.encode, head) for tower in (one, other, one)])
    assert [users for _, users in groups] == [[0, 2], [1]]


@dataclass(frozen=True)
class Directions:
    """A head that tells its directions, as cosine heads do."""

    directions: torch.Tensor

    def __call__(self, features: Features) -> Logits:
        return features @ self.directions.T


def test_heads_with_directions_answer_the_same_in_one_product() -> None:
    shared = Recorder()
    heads = [Directions(torch.randn(classes, 48, generator=torch.Generator().manual_seed(classes * 10 + place)))
             for place, classes in enumerate((3, 3, 2, 3, 5))]  # fmt: skip
    assert all(isinstance(head, DirectionHead) for head in heads)
    classifiers = [Classifier(shared, head) for head in heads]
    plain = [Classifier(shared, lambda features, head=head: head(features)) for head in heads]
    together = said(*classifiers, trials=300)
    assert torch.equal(together, said(*plain, trials=300))
    assert {int(column.max()) for column in together.T} == {1, 2, 4}


def test_features_that_are_no_numbers_are_no_answer_of_any_direction() -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        features = images.flatten(1).clone()
        features[::3] = math.nan
        features[1::3, 5] = math.inf
        return features

    answered = said(Classifier(broken, Directions(torch.eye(48)[:3])), trials=30, batch=30)
    assert (answered[::3] == -1).all()
    assert (answered[1::3] == -1).all()
    assert (answered[2::3] >= 0).all()


def test_who_has_stopped_is_not_encoded_and_all_ends_when_nobody_runs() -> None:
    one, other = Recorder(), Recorder()
    classifiers = [Classifier(encoder, one_pixel(0.5).head) for encoder in (one, other)]
    running, batches = torch.tensor([True, True]), 0
    draws_of_many = Draws(0.5, 1000, "estimation", 0, "a")
    for groups in Copies(classifiers, IMAGE, Sampler(10)).answers(draws_of_many, running.clone):
        batches += 1
        if batches == 2:
            running[1] = False
        if batches == 5:
            running[0] = False
        assert [places for places, _ in groups] == ([[0], [1]] if batches <= 2 else [[0]])
    assert (len(one.seen), len(other.seen), batches) == (5, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=False))


@dataclass(frozen=True)
class Halved:
    """A faster equal of `flatten`, with noise of another shape."""

    shape: tuple[int, ...] = (2, 24)
    kernel: str = "halved"

    def at(self, image: Image, sigma: float) -> Callable[[torch.Tensor], Features]:
        return lambda draws: image.flatten() + sigma * draws.flatten(1)


def test_a_sampler_makes_each_encoder_once_and_says_by_what() -> None:
    made = []

    def make(encode: object, image: Image) -> NoisyEncoder:
        made.append(encode)
        return Halved() if encode == one_pixel(0.5).encode else PixelNoise(encode, tuple(image.shape))  # type: ignore[arg-type]

    sampler, recorder = Sampler(50, make), Recorder()
    pair = [one_pixel(0.5), Classifier(recorder, one_pixel(0.5).head)]
    everyone = torch.tensor([True, True])
    for _ in range(2):
        ((_, first), (_, second)), *_ = Copies(pair, IMAGE, sampler).answers(
            Draws(0.5, 100, "estimation", 0, "a"), lambda: everyone
        )
        assert torch.equal(first, second)  # 2 x 24 numbers are the same stream as 3 x 4 x 4
    assert len(made) == 2
    assert sampler.kernels == ["halved", "whole images"]
    sampler.encoder(one_pixel(0.5).encode, torch.zeros(3, 2, 2))
    assert len(made) == 3
