"""Co-attention against torch's own modules, what fills questions up, and the towers' tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medrobust.errors import ModelError, PromptError
from medrobust.models.clip import Clip
from medrobust.models.hooks import has_hooks
from medrobust.seeds import stream
from medrobust.types import State
from medrobust.vqa.fusion import Fusion, attend, fused, fused_width, start_fusion
from medrobust.vqa.tokens import Words, image_tokens, text_tokens

SETTINGS = Fusion(width=8, heads=2, blocks=2)
TEXTS = ["a photo of red paint.", "green?", "is it blue paint that this image shows?"]


def state_of(chosen: Fusion = SETTINGS) -> State:
    """Every tensor random, so that none can be left out unseen."""
    generator = stream(1, "state")
    state = start_fusion(words_of(2), 11, 10, chosen, generator)
    return {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}


def words_of(*lengths: int) -> Words:
    longest = max(lengths)
    there = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Words(
        torch.randn(len(lengths), longest, 6, generator=stream(2, "words")),
        torch.arange(longest).repeat(len(lengths), 1),
        there,
    )


def test_a_token_that_was_never_learned_from_says_nothing() -> None:
    bag = start_fusion(words_of(3, 1), 11, 10, SETTINGS, stream(0, "start"))["bag"]
    assert bag.shape == (11, 8)
    assert (bag[:3] != 0).all()
    assert (bag[3:] == 0).all()


def torch_attention(state: State, name: str, width: int, heads: int) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(width, heads, batch_first=True)
    parts = [f"{name}.{part}" for part in ("query", "key", "value")]
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.cat([state[f"{part}.weight"] for part in parts]))
        module.in_proj_bias.copy_(torch.cat([state[f"{part}.bias"] for part in parts]))
        module.out_proj.weight.copy_(state[f"{name}.joined.weight"])
        module.out_proj.bias.copy_(state[f"{name}.joined.bias"])
    return module


def test_attention_is_torchs_own() -> None:
    state, generator = state_of(), stream(0, "tokens")
    queries, keys = torch.randn(3, 4, 8, generator=generator), torch.randn(3, 5, 8, generator=generator)
    there = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] * 4 + [False]])
    module = torch_attention(state, "0.image", 8, 2)
    for mask in (None, there):
        wanted = module(queries, keys, keys, key_padding_mask=None if mask is None else ~mask, need_weights=False)[0]
        torch.testing.assert_close(attend(queries, keys, state, "0.image", 2, mask), wanted)


def by_modules(images: Tensor, words: Words, state: State) -> Tensor:
    """One question at a time, without what fills it up, through torch's modules."""

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (8,), state[f"{name}.weight"], state[f"{name}.bias"])

    def dense(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def look(x: Tensor, y: Tensor, name: str) -> Tensor:
        x = normed(x + torch_attention(state, name, 8, 2)(x[None], y[None], y[None])[0][0], f"{name}.seen")
        return normed(x + dense(dense(x, f"{name}.up").clamp(min=0), f"{name}.down"), f"{name}.thought")

    features = []
    for image, question, ids, there in zip(images, words.states, words.ids, words.there, strict=True):
        q = normed(dense(F.layer_norm(question[there], (6,)), "question.in"), "question.norm")
        i = normed(dense(F.layer_norm(image, (10,)), "image.in"), "image.norm")
        for block in range(2):
            q, i = look(q, i, f"{block}.question"), look(i, q, f"{block}.image")
        bag = sum(state["bag"][number] for number in ids[there].tolist()) / int(there.sum()) ** 0.5
        features.append(torch.cat([q.mean(0), i.mean(0), q.mean(0) * i.mean(0), bag]))
    return torch.stack(features)


def test_the_fusion_is_its_formula_and_sees_nothing_of_what_fills_up() -> None:
    images, words = torch.randn(3, 5, 10, generator=stream(0, "images")), words_of(4, 2, 7)
    found = fused(images, words, state_of(), SETTINGS)
    assert found.shape == (3, fused_width(SETTINGS))
    torch.testing.assert_close(found, by_modules(images, words, state_of()), rtol=1e-4, atol=1e-5)
    noise = torch.where(words.there[..., None], words.states, 100.0)
    torch.testing.assert_close(fused(images, words._replace(states=noise), state_of(), SETTINGS), found)


def test_every_tensor_has_a_gradient() -> None:
    state = {key: value.requires_grad_(True) for key, value in state_of().items()}
    weights = torch.randn(2, fused_width(SETTINGS), generator=stream(3, "weights"))
    images = torch.randn(2, 5, 10, generator=stream(0, "images"))
    (fused(images, words_of(4, 3), state, SETTINGS) * weights).sum().backward()
    still = [key for key, value in state.items() if value.grad is None or not value.grad.any()]
    assert still == ["0.question.key.bias", "0.image.key.bias", "1.question.key.bias", "1.image.key.bias"] or not still


def test_heads_share_the_width() -> None:
    with pytest.raises(ValueError, match="width 6 is not a multiple of heads 4"):
        Fusion(width=6)


# -- the towers' tokens


def test_the_class_token_becomes_the_feature(taught: Clip) -> None:
    images = torch.rand(2, 3, 16, 16, generator=stream(0, "images")).requires_grad_(True)
    tokens = image_tokens(taught, images)
    assert tokens.shape == (2, 5, 32)
    vision = taught.vision
    pooled = vision.tower.post_layernorm(tokens[:, 0])
    torch.testing.assert_close(vision.projection(pooled), taught.encode_image(images))
    for place in range(5):
        (gradient,) = torch.autograd.grad(tokens[0, place].square().sum(), images, retain_graph=True)
        assert gradient[0].any()
        assert not gradient[1].any()


def test_words_are_the_states_of_each_text_alone(taught: Clip) -> None:
    words = text_tokens(taught, TEXTS)
    for row, text in enumerate(TEXTS):
        alone, count = text_tokens(taught, [text]), int(words.there[row].sum())
        assert words.ids[row, :count].tolist() == taught.tokenize(text)
        assert words.there[row].tolist() == [True] * count + [False] * (words.there.shape[1] - count)
        torch.testing.assert_close(words.states[row, :count], alone.states[0], rtol=1e-4, atol=1e-5)
        end = taught.text_projection(alone.states[0, -1])
        torch.testing.assert_close(end, taught.encode_text([text])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(words.of(torch.tensor([2, 0])).states, words.states[[2, 0]])


def test_a_long_question_is_named(taught: Clip) -> None:
    with pytest.raises(PromptError, match=r"^'why why .*the model's context holds 77; shorten it") as found:
        text_tokens(taught, ["short?", "why " * 90])
    assert found.value.index == 1


def test_a_tower_without_tokens_is_refused_and_left_as_it_was(taught: Clip) -> None:
    flat = taught.with_vision(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16)))
    with pytest.raises(ModelError, match="image encoder is a Sequential, which gives no states of its tokens"):
        image_tokens(flat, torch.rand(1, 3, 16, 16))
    assert not has_hooks(flat.vision)
