"""Votes: one pass for all heads, batches of one size, failures that count for no class."""

import math

import pytest
import torch
from toys import Recorder, broken_above, half_space, linear, one_pixel

from medrobust.smoothing.noise import Noise, noise
from medrobust.smoothing.sampling import answers, count_votes, encoders
from medrobust.types import Classifier

IMAGE = torch.full((3, 4, 4), 0.5)


def draws(item: str = "a") -> Noise:
    return noise((3, 4, 4), torch.device("cpu"), seed=0, use="estimation", item=item, sigma=0.5)


def votes(*classifiers: Classifier, trials: int = 1000, batch: int = 64) -> torch.Tensor:
    return count_votes(classifiers, IMAGE, sigma=0.5, trials=trials, batch=batch, noise=draws())


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
    assert votes(broken_above(0.7, value)).tolist() == [[1000 - expected, 0, expected]]


def test_an_answer_is_the_largest_logit_or_one_past_the_last() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0], [-1.0, -2.0, -3.0], [math.nan, 5.0, 0.0], [0.0, math.inf, 0.0]])
    assert answers(logits).tolist() == [1, 0, 3, 3]


def test_votes_follow_the_distance_to_the_border() -> None:
    normal = torch.zeros(48)
    normal[5] = 1.0
    share = votes(half_space(normal, 0.2), trials=20_000, batch=1000)[0, 1].item() / 20_000
    assert share == pytest.approx(0.5 * (1 + math.erf(0.3 / 0.5 / math.sqrt(2))), abs=0.015)


def test_equal_encoders_are_grouped_in_order() -> None:
    class Tower:
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    one, other, head = Tower(), Tower(), one_pixel(0.5).head
    groups = encoders([Classifier(tower.encode, head) for tower in (one, other, one)])
    assert [users for _, users in groups] == [[0, 2], [1]]
