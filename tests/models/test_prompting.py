"""Context in any tower: where it goes, that it leaves again, and what does not fit."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from medrobust.data.task import Dataset
from medrobust.errors import PromptError
from medrobust.models.clip import Clip
from medrobust.models.prompting import PromptedVision, frame_pixels, framed, inserted, token_rows
from medrobust.seeds import stream
from medrobust.types import Images

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


def by_hand(tiny: Clip, images: Images, tokens: Tensor, deep: Tensor) -> Tensor:
    """The tower of transformers, part by part, with prompts as extra rows of its token matrix."""
    vision: Any = tiny.vision
    hidden = vision.tower.embeddings((images - vision.mean) / vision.std)
    own = hidden.shape[1]
    hidden = vision.tower.pre_layrnorm(torch.cat([hidden, tokens.expand(len(images), -1, -1)], dim=1))
    for number, layer in enumerate(vision.tower.encoder.layers):
        if 1 <= number <= len(deep):
            hidden = torch.cat([hidden[:, :own], deep[number - 1].expand(len(images), -1, -1)], dim=1)
        hidden = layer(hidden, None)
    return vision.projection(vision.tower.post_layernorm(hidden[:, 0]))


def test_visual_tokens_and_deep_ones_against_the_tower_by_hand(tiny: Clip, dataset: Dataset) -> None:
    images, generator = dataset.images([0, 1, 2]), stream(0, "prompts")
    tokens, deep = torch.randn(3, 32, generator=generator), torch.randn(1, 3, 32, generator=generator)
    with torch.no_grad():
        for given_deep in (deep, deep[:0]):
            prompted = PromptedVision(tiny.vision, tokens=tokens, deep=given_deep if len(given_deep) else None)
            torch.testing.assert_close(prompted(images), by_hand(tiny, images, tokens, given_deep))
        assert not torch.allclose(by_hand(tiny, images, tokens, deep), by_hand(tiny, images, tokens, deep[:0]))


def test_prompted_encoders_live_side_by_side_over_the_same_weights(tiny: Clip, dataset: Dataset) -> None:
    images = dataset.images([0, 1])
    with torch.no_grad():
        plain = tiny.vision(images)
        one = PromptedVision(tiny.vision, tokens=torch.ones(1, 32), border=torch.ones(3, frame_pixels(16, 2)))
        first = one(images)
        other = PromptedVision(tiny.vision, tokens=-torch.ones(4, 32))
        assert not torch.allclose(other(images), first, atol=1e-3)
        assert torch.equal(one(images), first)
        assert torch.equal(tiny.vision(images), plain)
    own, theirs = list(tiny.vision.parameters()), list(one.parameters())
    assert all(mine is yours for mine, yours in zip(own, theirs, strict=True))


def test_the_frame_is_added_to_normalised_pixels_and_to_nothing_inside(tiny: Clip, dataset: Dataset) -> None:
    vision: Any = tiny.vision
    images, border = dataset.images([0, 1]), torch.randn(3, frame_pixels(16, 3), generator=stream(0, "frame"))
    shown = framed(border, 16)
    assert (shown[:, 3:13, 3:13] == 0).all()
    assert (shown != 0).sum() == 3 * (16**2 - 10**2)
    assert torch.equal(shown[:, :3].reshape(3, -1), border[:, : 3 * 16])
    normalised = (images - vision.mean) / vision.std
    with torch.no_grad():
        expected = vision((normalised + shown) * vision.std + vision.mean)
        torch.testing.assert_close(PromptedVision(vision, border=border)(images), expected)


def test_the_gradient_reaches_every_prompt(tiny: Clip, dataset: Dataset) -> None:
    prompts = {"border": torch.zeros(3, frame_pixels(16, 1)), "tokens": torch.ones(2, 32), "deep": torch.ones(1, 2, 32)}
    tower = PromptedVision(tiny.vision, **prompts)
    leaves = {name: value.clone().requires_grad_(True) for name, value in prompts.items()}
    functional_call(tower, leaves, (dataset.images([0]),)).square().sum().backward()
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0


def test_deep_text_prompts_take_the_context_s_place_in_later_layers(tiny: Clip) -> None:
    generator = stream(0, "text")
    context, deep = torch.randn(2, 32, generator=generator), torch.randn(1, 2, 32, generator=generator)
    with torch.no_grad():
        shallow = tiny.encode_text(["red paint.", "blue."], context)
        deepened_ = tiny.encode_text(["red paint.", "blue."], context, deep)
    assert not torch.allclose(shallow, deepened_, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(tiny.encode_text(["red paint.", "blue."], context), shallow)


def test_deep_prompts_with_the_numbers_of_the_layer_change_nothing(tiny: Clip) -> None:
    """What stands at the context's places before layer 1 depends on it alone, as the tower is causal."""
    context, seen = torch.randn(2, 32, generator=stream(0, "text")), []
    handle = tiny.text.encoder.layers[1].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        plain = tiny.encode_text(["red paint."], context)
        handle.remove()
        again = tiny.encode_text(["red paint."], context, seen[0][0, 1:3][None])
    assert torch.equal(again, plain)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ({"tokens": (2, 32), "deep": (2, 2, 32)}, "deep prompts of 2 words for 2 layers after the first do not fit"),
        (
            {"tokens": (2, 32), "deep": (1, 3, 32)},
            "deep prompts of 3 words for 1 layers after the first do not fit a context",
        ),
        ({"deep": (1, 3, 32)}, "there are none at the input"),
    ],
)
def test_prompts_that_do_not_fit_the_tower(tiny: Clip, prompts: dict, sentence: str) -> None:
    with pytest.raises(PromptError, match=sentence):
        PromptedVision(tiny.vision, **{name: torch.zeros(shape) for name, shape in prompts.items()})


def test_what_is_no_frame_or_no_transformer_is_told(tiny: Clip, dataset: Dataset) -> None:
    with pytest.raises(PromptError, match="7 pixels make no frame around an image of 16 x 16"):
        PromptedVision(tiny.vision, border=torch.zeros(3, 7))(dataset.images([0]))
    with pytest.raises(PromptError, match="a Linear, which takes no learned tokens"):
        PromptedVision(nn.Linear(2, 2), tokens=torch.zeros(1, 2))
    with pytest.raises(PromptError, match="do not fit a context of 1 words in a tower of 2 layers"):
        tiny.encode_text(["red"], torch.zeros(1, 32), torch.zeros(1, 2, 32))
