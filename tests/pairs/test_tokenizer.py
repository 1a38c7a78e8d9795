"""A vocabulary of a model's own: any text can be written, markers stand where CLIP's towers look for them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrobust.pairs.tokenizer import BEGIN, END, train_tokenizer

TEXTS = ["a photo of red paint.", "an image that shows green paint.", "a photo of blue paint."]


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer(TEXTS, vocabulary=560, context_length=77)


def test_markers_are_the_two_largest_numbers(tokenizer) -> None:  # type: ignore[no-untyped-def]
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert (vocabulary[BEGIN], vocabulary[END]) == (len(vocabulary) - 2, len(vocabulary) - 1)
    ids = tokenizer("a photo")["input_ids"]
    assert (ids[0], ids[-1]) == (vocabulary[BEGIN], vocabulary[END])
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.model_max_length) == (BEGIN, END, 77)


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "M", "Z"]), min_size=1, max_size=8))
def test_any_text_is_written_without_unknown_tokens(text: str) -> None:
    tokenizer = train_tokenizer([], vocabulary=514, context_length=77)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids
    assert max(ids) < 512
    written = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    expected = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert written.replace(" ", "") == expected.replace(" ", "")


def test_frequent_words_are_one_token_and_capitals_are_small(tokenizer) -> None:  # type: ignore[no-untyped-def]
    assert tokenizer.tokenize("a PHOTO of paint") == ["a</w>", "photo</w>", "of</w>", "paint</w>"]
    assert len(tokenizer.tokenize("melanoma")) > 3


@pytest.mark.parametrize(("size", "filled"), [(514, 514), (515, 515), (530, 530), (4000, None)])
def test_the_vocabulary_is_as_large_as_asked_for_while_there_is_something_to_merge(
    size: int, filled: int | None
) -> None:
    texts = [f"{word} and {word}s of the {word}" for word in ("cell", "tissue", "marrow", "vessel", "mucosa")]
    found = len(train_tokenizer(texts, vocabulary=size, context_length=77))
    assert found == filled if filled else 530 < found < 4000


def test_equally_frequent_pairs_are_merged_in_the_order_of_their_symbols() -> None:
    """Else the order, and with it every token's number, differs from process to process."""
    words = ["ab", "ac", "ad", "ae", "af", "ag", "ah", "ai"]
    vocabulary = train_tokenizer([" ".join(words)] * 2, vocabulary=560, context_length=77).get_vocab()
    merged = sorted((token for token, number in vocabulary.items() if number >= 512), key=vocabulary.__getitem__)
    assert merged == [*(f"{word}</w>" for word in words), BEGIN, END]
