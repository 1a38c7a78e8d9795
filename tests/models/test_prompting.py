"""Context in any tower: where it goes, that it leaves again, and what does not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medrobust.errors import PromptError
from medrobust.models.prompting import inserted, token_rows

texts = st.lists(st.lists(st.integers(0, 90), max_size=6), min_size=1, max_size=5)


def marked(words: list[list[int]]) -> list[list[int]]:
    return [[98, *ids, 99] for ids in words]


@given(texts, st.integers(0, 5))
def test_rows_leave_room_after_the_begin_marker_and_end_with_end_markers(words: list[list[int]], room: int) -> None:
    rows = token_rows(marked(words), words=room, limit=20).tolist()
    assert {len(row) for row in rows} == {max(len(ids) for ids in words) + 2 + room}
    for row, ids in zip(rows, words, strict=True):
        assert row[: 1 + room] == [98] * (1 + room)
        assert row[1 + room : 1 + room + len(ids)] == ids
        assert set(row[1 + room + len(ids) :]) == {99}


@pytest.mark.parametrize("room", [0, 3])
def test_a_text_fits_up_to_the_limit_and_the_one_that_does_not_is_named(room: int) -> None:
    fits, too_long = [1] * (8 - room), [1] * (9 - room)
    assert token_rows(marked([fits]), words=room, limit=10).shape == (1, 10)
    sentence = rf"has 11 tokens \({room} of them learned context\) and the model's context holds 10; shorten it"
    with pytest.raises(PromptError, match=sentence) as caught:
        token_rows(marked([fits, too_long]), words=room, limit=10)
    assert caught.value.index == 1


def test_the_context_stands_in_every_row_and_gets_the_gradient() -> None:
    embedding, context = nn.Embedding(9, 4), torch.randn(2, 4, requires_grad=True)
    ids = torch.tensor([[7, 7, 7, 1, 8], [7, 7, 7, 2, 8]])
    plain = embedding(ids)
    with inserted(embedding, context):
        found = embedding(ids)
    assert torch.equal(found[:, 1:3], context.expand(2, -1, -1))
    assert torch.equal(found[:, [0, 3, 4]], plain[:, [0, 3, 4]])
    found.sum().backward()
    assert context.grad is not None
    assert torch.equal(context.grad, torch.full((2, 4), 2.0))


def test_the_hook_is_gone_afterwards_even_after_an_exception() -> None:
    embedding, ids = nn.Embedding(9, 4), torch.tensor([[7, 1, 8]])
    plain = embedding(ids)
    with pytest.raises(IndexError), inserted(embedding, torch.ones(1, 4)):
        embedding(ids + 2)
    assert torch.equal(embedding(ids), plain)
    with inserted(embedding, torch.ones(1, 4)):
        assert not torch.equal(embedding(ids), plain)
    assert torch.equal(embedding(ids), plain)
