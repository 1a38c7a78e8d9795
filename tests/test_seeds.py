"""Streams: equal for equal arguments, different for different ones, and deaf to all else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrobust.seeds import numpy_stream, stream

uses = st.sampled_from(["selection", "estimation", "prediction", "tune", "fit a"])
items = st.text(max_size=6)
sigmas = st.sampled_from([0.0, 0.1, 0.25, 1.0])
arguments = st.tuples(st.integers(0, 2**40), uses, items, sigmas)


def numbers(*given_arguments: object) -> list[list[float]]:
    seed, use, item, sigma = given_arguments
    ours = torch.rand(4, generator=stream(seed, use, item, sigma)).tolist()
    return [ours, numpy_stream(seed, use, item, sigma).random(4).tolist()]


@given(arguments, arguments)
def test_streams_are_equal_exactly_where_all_arguments_are(one: tuple, other: tuple) -> None:
    assert (numbers(*one) == numbers(*other)) == (one == other)
    assert numbers(*one) == numbers(*one)


@pytest.mark.parametrize("place", range(4))
def test_every_argument_counts(place: int) -> None:
    one = [0, "selection", "a", 0.25]
    other = list(one)
    other[place] = [1, "estimation", "b", 0.5][place]
    for mine, theirs in zip(numbers(*one), numbers(*other), strict=True):
        assert not set(mine) & set(theirs)


def test_arguments_do_not_run_into_each_other() -> None:
    assert numbers(1, "1", "", 0.0) != numbers(11, "", "", 0.0)
    assert numbers(0, "use1", "0", 0.0) != numbers(0, "use", "10", 0.0)


def test_streams_neither_read_nor_move_the_global_generators() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = numbers(0, "tune", "a", 0.5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert numbers(0, "tune", "a", 0.5) == first
