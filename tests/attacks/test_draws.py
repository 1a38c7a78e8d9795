"""Random numbers belong to an image, not to its batch."""

import pytest
import torch

from medrobust.attacks.draws import draws, seeds_of
from medrobust.attacks.errors import AttackError
from medrobust.seeds import stream

CPU = torch.device("cpu")


def test_one_generator_through_batches_is_one_batch() -> None:
    whole = draws(stream(0, "a"), 5, "use").uniform(3, 2, device=CPU)
    carried = stream(0, "a")
    parts = [draws(carried, count, "use").uniform(3, 2, device=CPU) for count in (2, 0, 3)]
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.unique()) == 30


def test_a_generator_each_knows_no_order() -> None:
    forth = draws([stream(0, "item", row) for row in range(4)], 4, "use").normal(2, device=CPU)
    back = draws([stream(0, "item", row) for row in (3, 2, 1, 0)], 4, "use").normal(2, device=CPU)
    assert torch.equal(forth, back.flip(0))


def test_uses_are_apart() -> None:
    one, other = (draws(stream(0, "a"), 2, use).uniform(3, device=CPU) for use in ("pgd", "square"))
    assert not bool((one == other).any())


def test_rows_keep_their_numbers() -> None:
    all_rows, some = draws(stream(0, "a"), 4, "use"), draws(stream(0, "a"), 4, "use").of(torch.tensor([1, 3]))
    assert torch.equal(all_rows.uniform(2, device=CPU)[[1, 3]], some.uniform(2, device=CPU))


def test_numbers_of_generators_must_fit() -> None:
    with pytest.raises(AttackError, match="2 generators for 3 images; pass one for all, or one each"):
        seeds_of([stream(0, "a"), stream(0, "b")], 3)
