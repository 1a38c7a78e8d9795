"""A byte-pair vocabulary of a model's own, in the form that CLIP's tokenizer reads."""

from collections.abc import Iterable
from typing import Any

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], *, vocabulary: int, context_length: int) -> Any:
    """A `transformers.CLIPTokenizer` with at most `vocabulary` tokens, learned from `texts`.

    Every byte has a token, so that any text can be written; letters are lowered, as CLIP does.
    Source of byte-pair encoding: Sennrich, Haddow and Birch, ACL 2016.
    """
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    shell = CLIPTokenizer(vocab={BEGIN: 0, END: 1}, merges=[])  # for its normaliser and word splitter
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = shell.backend_tokenizer.normalizer
    learner.pre_tokenizer = shell.backend_tokenizer.pre_tokenizer
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols)]
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary - 2,
            end_of_word_suffix="</w>",
            show_progress=False,
            min_frequency=2,
            special_tokens=tokens,  # numbers them in this order; else equally frequent pairs are merged in any order
        ),
    )
    merges = [tuple(pair) for pair in _merges(learner)]
    tokens += [merged for merged in dict.fromkeys(a + b for a, b in merges) if merged not in set(tokens)]
    tokens = [*tokens[: vocabulary - 2], BEGIN, END]
    known = set(tokens)
    merges = [pair for pair in merges if pair[0] + pair[1] in known]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=context_length,
    )


def _merges(learner: Any) -> list[list[str]]:
    import json

    rows = json.loads(learner.to_str())["model"]["merges"]
    return [row if isinstance(row, list) else row.split(" ") for row in rows]


def _byte_symbols() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())
