"""Learned context inside any text tower, by a hook on its token embedding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from medrobust.errors import PromptError
from medrobust.types import Context


@contextmanager
def inserted(embedding: nn.Module, context: Context, *, start: int = 1) -> Iterator[None]:
    """While it lasts, positions `start` .. `start + words` of every embedded text are `context`.

    The gradient reaches `context`. Works for every tower that looks its tokens up in `embedding`.
    """

    def overwrite(_module: nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
        words = context.to(output.dtype).expand(output.shape[0], -1, -1)
        return torch.cat([output[:, :start], words, output[:, start + context.shape[0] :]], dim=1)

    handle = embedding.register_forward_hook(overwrite)
    try:
        yield
    finally:
        handle.remove()


def token_rows(tokens: Sequence[Sequence[int]], *, words: int, limit: int) -> Tensor:
    """Token ids as a rectangle, cropped to the longest text, with room for `words` context vectors after the first.

    Each text comes with its begin and end markers. Rows are filled up with the end marker: the towers are causal and
    pool at the first end marker, so what follows it has no effect. Raises PromptError for a text that does not fit.
    """
    room = [[ids[0], *([ids[0]] * words), *ids[1:]] for ids in tokens]
    for index, ids in enumerate(room):
        if len(ids) > limit:
            raise PromptError(
                f"the prompt has {len(ids)} tokens ({words} of them learned context) and the model's context holds "
                f"{limit}; shorten it",
                index,
            )
    longest = max(len(ids) for ids in room)
    return torch.tensor([[*ids, *([ids[-1]] * (longest - len(ids)))] for ids in room], dtype=torch.int64)
