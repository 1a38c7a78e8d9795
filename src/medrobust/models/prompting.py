"""Learned prompts for unchanged towers, inserted after their embeddings and at the inputs of their layers.

A prompt lasts for one call in one thread, so that several threads may prompt the same tower.
Text: context vectors, at the input and at deeper layers. Vision: a frame of pixels and tokens, at the input and at
deeper layers, in a copy of the modules that shares the weights, so that the encoder of the model is never touched and
several prompted encoders live side by side.

References: Zhou et al., IJCV 2022 (context); Jia et al., "Visual prompt tuning", ECCV 2022 (tokens, deep prompts);
Khattak et al., "MaPLe: multi-modal prompt learning", CVPR 2023 (deep prompts in both towers).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medrobust.errors import PromptError
from medrobust.models.hooks import changed_input, changed_output
from medrobust.types import Context, DeepContext, Features, Images

Frame = Float[Tensor, "3 pixels"]  # of a frame, row by row, in units of normalised pixels
Hidden = Float[Tensor, "batch tokens width"]


@runtime_checkable
class HasTokens(Protocol):
    """An image encoder made of layers over tokens, which normalises its images inside."""

    std: Tensor
    projection: nn.Module  # after the pooling

    @property
    def embeddings(self) -> nn.Module: ...

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    @property
    def width(self) -> int: ...


@contextmanager
def inserted(embedding: nn.Module, context: Context, *, start: int = 1) -> Iterator[None]:
    """While it lasts, positions `start` .. `start + words` of every embedded text are `context`.

    The gradient reaches `context`. Works for every tower that looks its tokens up in `embedding`.
    """

    with changed_output(embedding, lambda embedded: overwritten(embedded, context, start)):
        yield


@contextmanager
def deepened(layers: Sequence[nn.Module], deep: DeepContext, *, words: int, start: int = 1) -> Iterator[None]:
    """While it lasts, positions `start` .. `start + words` at the input of layer i + 1 are `deep[i]`.

    The gradient reaches `deep`. Raises PromptError where there are more deep prompts than layers, or where they are
    longer or shorter than the vectors that they replace.
    """
    _check_deep(deep, words, len(layers))

    with ExitStack() as prompts:
        for layer, prompt in zip(layers[1:], deep, strict=False):
            prompts.enter_context(changed_input(layer, partial(overwritten, prompt=prompt, start=start)))
        yield


def overwritten(hidden: Hidden, prompt: Float[Tensor, "_words _width"], start: int) -> Hidden:
    """The same tokens with the prompt at `start` and after it; raises RuntimeError for one of another width."""
    words = prompt.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
    return torch.cat([hidden[:, :start], words, hidden[:, start + prompt.shape[0] :]], dim=1)


def _check_deep(deep: DeepContext, words: int, layers: int) -> None:
    if len(deep) >= layers or deep.shape[1] != words:
        raise PromptError(
            f"deep prompts of {deep.shape[1]} words for {len(deep)} layers after the first do not fit a context of "
            f"{words} words in a tower of {layers} layers"
        )


class PromptedVision(nn.Module):
    """An image encoder with a learned frame of pixels, learned tokens after its own, and deep prompts in their place.

    `border` is added to normalised pixels; `tokens` (m x width) join at the input; `deep` (layers x m x width) takes
    their place at the inputs of the second and later layers. The encoder handed in is not changed; its weights are
    shared. Raises PromptError for what does not fit it.
    """

    border: Any  # tensors or None
    tokens: Any
    deep: Any

    def __init__(
        self,
        vision: nn.Module,
        *,
        border: Frame | None = None,
        tokens: Context | None = None,
        deep: DeepContext | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(vision, HasTokens):
            raise PromptError(f"the image encoder is a {type(vision).__name__}, which takes no learned tokens")
        if deep is not None and tokens is None:
            raise PromptError("deep prompts take the place of tokens, and there are none at the input")
        self.vision = shared_copy(vision)
        own: HasTokens = self.vision  # type: ignore[assignment]
        for name, value in (("border", border), ("tokens", tokens), ("deep", deep)):
            self.register_buffer(name, None if value is None else value.detach().clone())
        if tokens is not None and deep is not None:
            _check_deep(deep, len(tokens), len(own.layers))

    def forward(self, images: Images) -> Features:
        """As the encoder within, on the prompted images."""
        own: HasTokens = self.vision  # type: ignore[assignment]
        if self.border is not None:
            images = images + own.std * framed(self.border, images.shape[-1])
        with ExitStack() as prompts:
            if self.tokens is not None:
                prompts.enter_context(changed_output(own.embeddings, self._append))
            for layer, prompt in zip(own.layers[1:], () if self.deep is None else self.deep, strict=False):
                prompts.enter_context(changed_input(layer, partial(_overwrite_last, prompt=prompt)))
            return self.vision(images)

    def _append(self, embedded: Hidden) -> Float[Tensor, "batch longer width"]:
        return torch.cat([embedded, self.tokens.to(embedded.dtype).expand(embedded.shape[0], -1, -1)], dim=1)


def _overwrite_last(hidden: Hidden, prompt: Context) -> Hidden:
    return overwritten(hidden, prompt, hidden.shape[1] - prompt.shape[0])


def frame_pixels(size: int, width: int) -> int:
    """The number of pixels in a frame of that width.

    >>> frame_pixels(4, 1)
    12
    """
    return size**2 - max(0, size - 2 * width) ** 2


def framed(border: Frame, size: int) -> Float[Tensor, "3 size size"]:
    """The numbers of a frame as an image that is zero inside; raises PromptError where they make no whole frame."""
    width = next((w for w in range(1, size // 2 + 1) if frame_pixels(size, w) == border.shape[1]), None)
    if width is None:
        raise PromptError(f"{border.shape[1]} pixels make no frame around an image of {size} x {size}")
    mask = torch.ones(size, size, dtype=torch.bool, device=border.device)
    mask[width : size - width, width : size - width] = False
    return torch.zeros(3, size, size, device=border.device, dtype=border.dtype).masked_scatter(mask, border)


def shared_copy(module: nn.Module) -> nn.Module:
    """The same modules anew over the very same weights, whose weights and prompts can be replaced beside the first."""
    kept = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, kept)


def token_rows(
    tokens: Sequence[Sequence[int]], *, words: int, limit: int, start: int = 1, fill: int | None = None,
    whole: bool = False,
) -> Tensor:  # fmt: skip
    """Token ids as a rectangle, cropped to the longest text, with places for `words` context vectors from `start` on.

    Each text comes with its markers; `start`: how many of them stand before the words. Rows are filled up with `fill`,
    else with the end marker again: causal towers pool at the first of those, so the rest has no effect. `whole`:
    rows are `limit` long, whatever the texts are. Raises PromptError for a text that does not fit.
    """
    rows = [[*ids[:start], *([ids[0]] * words), *ids[start:]] for ids in tokens]
    for index, ids in enumerate(rows):
        if len(ids) > limit:
            raise PromptError(
                f"the prompt has {len(ids)} tokens ({words} of them learned context) and the model's context holds "
                f"{limit}; shorten it",
                index,
            )
    longest = limit if whole else max(len(ids) for ids in rows)
    return torch.tensor(
        [[*ids, *([ids[-1] if fill is None else fill] * (longest - len(ids)))] for ids in rows], dtype=torch.int64
    )
