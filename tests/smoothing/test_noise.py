"""Noise: the same however it is split, one stream for each purpose, and with the Gaussian's own tail."""

import pytest
import torch
from scipy.stats import binomtest, kstest, norm

from medrobust.seeds import stream
from medrobust.smoothing.noise import Noise, blocks, kernel, noise

SHAPE = (3, 4, 4)
CPU = torch.device("cpu")


def draws(use: str = "estimation", item: str = "a", sigma: float = 0.25, seed: int = 0, shape: tuple = SHAPE) -> Noise:
    return noise(shape, CPU, seed=seed, use=use, item=item, sigma=sigma)


@pytest.mark.parametrize("split", [[12], [5, 7], [1] * 12, [11, 1]])
def test_draws_do_not_depend_on_how_they_are_split(split: list[int]) -> None:
    whole, parts = draws()(12), draws()
    assert torch.equal(torch.cat([parts(count) for count in split]), whole)
    assert whole.shape == (12, *SHAPE)
    assert whole.dtype == torch.float32


@pytest.mark.parametrize("change", [{"use": "selection"}, {"item": "b"}, {"sigma": 0.5}, {"seed": 1}])
def test_each_purpose_item_sigma_and_seed_has_draws_of_its_own(change: dict) -> None:
    one, other = draws()(50), draws(**change)(50)
    assert not (one == other).any()
    assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.1


def test_draws_depend_on_their_arguments_alone() -> None:
    first = draws()(4)
    torch.manual_seed(99)
    draws(item="other")(100)
    assert torch.equal(draws()(4), first)


def test_draws_are_standard_normal() -> None:
    numbers = draws(shape=(3, 40, 40))(20).flatten().double().numpy()
    assert kstest(numbers, norm.cdf).pvalue > 0.001


def test_the_tail_beyond_four_sigma_is_the_gaussians() -> None:
    source, count, beyond = draws(shape=(3, 500, 500)), 0, 0
    for _ in range(27):
        numbers = source(1)
        count += numbers.numel()
        beyond += int((numbers.abs() > 4).sum())
    assert count > 2e7
    assert binomtest(beyond, count, 2 * norm.sf(4)).pvalue > 0.001


def test_noise_goes_further_than_torchs_float32_normals_can() -> None:
    """A stream found by search; a 24-bit Box-Muller transform ends at 5.77."""
    assert noise((3, 500, 500), CPU, seed=118, use="tail", item="a", sigma=1.0)(1).abs().max() > 5.8


def test_the_record_names_the_source_of_noise() -> None:
    assert "ziggurat" in kernel(CPU)
    assert "float64" in kernel(torch.device("cuda"))


def test_torchs_own_stream_is_another() -> None:
    own = torch.randn(4, *SHAPE, generator=stream(0, "estimation", "a", 0.25))
    assert not (own == draws()(4)).any()


def test_blocks_give_the_same_draws_however_they_are_asked_for() -> None:
    def drawn(*counts: int) -> torch.Tensor:
        source = blocks((3, 2), torch.Generator().manual_seed(5))
        return torch.cat([source(count) for count in counts])

    whole = drawn(200)
    assert torch.equal(whole, drawn(1, 63, 64, 70, 2))
    assert torch.equal(whole, drawn(130, 70))
    assert whole.dtype == torch.float32
    assert len(whole.unique()) == 200 * 6
    assert abs(float(whole.mean())) < 0.1
